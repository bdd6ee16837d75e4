/* sae decode: sparse codes in, rows out; and how well they explain given rows. */
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "codes.h"
#include "output.h"
#include "report.h"
#include "rows.h"
#include "session.h"

enum { ID_COMPARE = 300, ID_OUT_DTYPE };

static const option_desc options[] = {
    OPTION_OUTPUT,
    {ID_COMPARE, "compare", "ROWS", "measure how far the decoded rows are from ROWS"},
    {ID_OUT_DTYPE, "out-dtype", "TYPE", "f32 (default), f16 or bf16: what to write"},
    OPTION_TENSOR,
    OPTION_DTYPE,
    OPTION_JSON,
    {0},
};

typedef struct job {
    const char *path, *codes_path, *compare_path;
    io_args io;
    sae_dtype out_dtype;
    output_kind kind;
    session s;
    sae_ctx *ctx;
    sae_codes codes;
    double seconds; /* in sae_decode */
    double mse, fvu;
} job;

static void parse(job *j, args *a)
{
    const char *value;
    for (int id; (id = args_next_own(a, &j->io, &value)) != -1;) {
        switch (id) {
        case ID_COMPARE:
            j->compare_path = value;
            break;
        default:
            j->out_dtype = dtype_from_option("out-dtype", value);
            break;
        }
    }
    char **operands = args_operands(a, 2, "PATH and CODES");
    j->path = operands[0];
    j->codes_path = operands[1];
    if (j->io.out_path == NULL && j->compare_path == NULL) {
        die_usage("-o FILE, --compare ROWS or both are wanted");
    }
    if (j->compare_path == NULL && (j->io.tensor != NULL || j->io.bits != 0)) {
        die_usage("--tensor and --dtype are about --compare ROWS; --out-dtype is about what is written");
    }
    if (j->compare_path != NULL && strcmp(j->compare_path, "-") == 0 && strcmp(j->codes_path, "-") == 0) {
        die_usage("CODES and --compare cannot both be standard input");
    }
    if (io_to_pipe(&j->io) && j->io.json) {
        die_usage("-o - and --json both want standard output");
    }
    if (j->io.out_path != NULL) {
        j->kind = output_kind_of(j->io.out_path, false);
    }
}

static void begin(job *j, const model_args *m)
{
    sae_error err = {.struct_size = sizeof err};
    j->s = session_open(m, j->path, true);
    j->codes = codes_read(j->codes_path, j->s.info.d_sae);
    expect_ok(sae_ctx_create(&j->ctx, j->s.model, NULL, &err), &err, j->path);
}

/* First of all: a mismatch is found before anything is written. */
static void compare(job *j)
{
    rows r = rows_open(j->compare_path, j->io.tensor, j->io.bits, j->s.info.d_out, "d_out");
    int64_t n = r.n_rows;
    if (n != j->codes.n_rows) {
        die("%s has %lld rows, %s has codes of %lld", j->compare_path, (long long)n, j->codes_path, (long long)j->codes.n_rows);
    }
    void *x = take((size_t)n, r.row_bytes); /* the variance is that of all rows together */
    rows_get(&r, x, n);
    double *fvu = &j->fvu;
    float *errors = take((size_t)n, sizeof *errors);
    sae_rows view = {.struct_size = sizeof view, .dtype = r.dtype, .x = x, .n_rows = n};
    expect_ctx_ok(sae_measure(j->ctx, errors, fvu, &view, &j->codes), j->ctx, j->codes_path);
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)errors[i];
    }
    j->mse = sum / ((double)n * (double)j->s.info.d_out);
    free(errors);
    free(x);
    rows_close(&r);
}

static void decode(job *j)
{
    sae_dtype dtype = j->out_dtype != 0 ? j->out_dtype : SAE_F32;
    int64_t shape[] = {j->codes.n_rows, j->s.info.d_out}, n = j->codes.n_rows;
    size_t row_bytes = (size_t)shape[1] * sae_dtype_bytes(dtype);
    rows like = {.row_bytes = row_bytes};
    int64_t room = rows_block(&like);
    array a = array_make("x_hat", elem_from_dtype(dtype), 2, shape);
    output *out = output_open(j->io.out_path, j->kind, &a, 1);
    int64_t *indptr = take((size_t)room + 1, sizeof *indptr);
    void *y = take((size_t)room, row_bytes);
    progress p = progress_start("decoding", "rows", n);
    for (int64_t first = 0; first < n; first += room) {
        int64_t m = n - first < room ? n - first : room;
        sae_codes part = codes_slice(&j->codes, first, m, indptr);
        sae_rows view = {.struct_size = sizeof view, .dtype = dtype, .x = y, .n_rows = m};
        double start = now();
        expect_ctx_ok(sae_decode(j->ctx, &view, &part), j->ctx, j->codes_path);
        j->seconds += now() - start;
        output_put(out, y, (size_t)m * row_bytes);
        progress_at(&p, first + m);
    }
    progress_end(&p);
    output_commit(out);
    free(y);
    free(indptr);
}

static void report(const job *j)
{
    int64_t n = j->codes.n_rows;
    double each = n > 0 ? 1e6 * j->seconds / (double)n : 0;
    if (j->io.json) {
        json_t *root = json_pack("{s:I, s:i}", "rows", (json_int_t)n, "d_out", j->s.info.d_out);
        if (j->io.out_path != NULL) {
            json_object_set_new(root, "seconds", report_number(j->seconds));
            json_object_set_new(root, "us_per_row", report_number(each));
        }
        if (j->compare_path != NULL) {
            json_object_set_new(root, "mse", report_number(j->mse));
            json_object_set_new(root, "fvu", report_number(j->fvu));
        }
        report_print(root);
        return;
    }
    FILE *to = io_to_pipe(&j->io) ? stderr : stdout;
    fprintf(to, "%lld rows of %d", (long long)n, j->s.info.d_out);
    if (j->io.out_path != NULL) {
        fprintf(to, ", %.3f s, %.1f us per row", j->seconds, each);
    }
    if (j->compare_path != NULL) {
        fprintf(to, ", mean squared error %.6g, fraction of variance unexplained %.6g", j->mse, j->fvu);
    }
    fputc('\n', to);
}

static void run(args *a)
{
    job j = {0};
    parse(&j, a);
    begin(&j, &a->model);
    if (j.compare_path != NULL) {
        compare(&j);
    }
    if (j.io.out_path != NULL) {
        decode(&j);
    }
    report(&j);
    codes_free(&j.codes);
    sae_ctx_free(j.ctx);
    session_close(&j.s);
}

const command cmd_decode = {
    .name = "decode",
    .synopsis = "PATH CODES [-o ROWS] [--compare ROWS]",
    .summary = "Decode sparse codes to rows, and compare them with the original",
    .details = "CODES is what `sae encode` or scipy.sparse.save_npz writes, or a dense float32 array\n"
               "[n_rows][d_sae]. --compare ROWS prints the mean squared error per element and the fraction of\n"
               "variance unexplained: the sum of squared errors divided by the sum of squared distances of the rows\n"
               "from their mean.\n",
    .options = options,
    .run = run,
};
