/* sae encode: rows in, sparse codes out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "codes.h"
#include "output.h"
#include "report.h"
#include "rows.h"
#include "session.h"

enum { ID_DENSE = 300, ID_TOP };

static const option_desc options[] = {
    OPTION_OUTPUT,
    {ID_DENSE, "dense", NULL, "write one array [n_rows][d_sae] instead of sparse codes"},
    {ID_TOP, "top", "N", "print the N largest codes of each row"},
    OPTION_TENSOR,
    OPTION_DTYPE,
    OPTION_JSON,
    {0},
};

/* One run of the command. */
typedef struct job {
    const char *path, *rows_path;
    io_args io;
    bool dense;
    int64_t top;
    output_kind kind;
    session s;
    sae_ctx *ctx;
    rows rows;
    sae_codes codes;      /* of one block */
    int64_t room;         /* rows of a block */
    output *out;          /* dense */
    float *line;          /* dense: one row [d_sae] */
    FILE *indices, *data; /* sparse, until their number is known */
    int64_t *indptr;      /* sparse, of all rows */
    float *scale, *shift; /* sparse, of all rows, where the normalisation needs them */
    json_t *tops;         /* --top with --json */
    int64_t n_rows, nnz, l0_min, l0_max, nonfinite;
    double seconds; /* in sae_encode */
} job;

/* Does decoding need what encoding learned about each row? */
static bool needs_scale(const job *j)
{
    return j->s.info.norm == SAE_NORM_CONSTANT || j->s.info.norm == SAE_NORM_LAYER;
}

static void parse(job *j, args *a)
{
    const char *value;
    for (int id; (id = args_next_own(a, &j->io, &value)) != -1;) {
        switch (id) {
        case ID_DENSE:
            j->dense = true;
            break;
        default:
            j->top = parse_int("--top", value, 1, INT32_MAX);
            break;
        }
    }
    char **operands = args_operands(a, 2, "PATH and ROWS");
    j->path = operands[0];
    j->rows_path = operands[1];
    if (j->dense && j->io.out_path == NULL) {
        die_usage("--dense says how to write, so -o FILE is wanted too");
    }
    if (j->io.out_path != NULL) {
        j->kind = output_kind_of(j->io.out_path, !j->dense);
    }
    if (io_to_pipe(&j->io) && (j->io.json || j->top > 0)) {
        die_usage("-o - and %s both want standard output", j->io.json ? "--json" : "--top");
    }
}

static void begin_output(job *j)
{
    if (j->io.out_path == NULL) {
        return;
    }
    if (j->dense) {
        int64_t shape[] = {j->rows.n_rows, j->s.info.d_sae};
        array codes = array_make("codes", ELEM_F32, 2, shape);
        j->out = output_open(j->io.out_path, j->kind, &codes, 1);
        j->line = take((size_t)j->s.info.d_sae, sizeof *j->line);
        return;
    }
    j->indices = scratch_file();
    j->data = scratch_file();
    j->indptr = take(1, sizeof *j->indptr);
    j->indptr[0] = 0;
}

static void begin(job *j, const model_args *m)
{
    j->s = session_open(m, j->path, true);
    j->rows = rows_open(j->rows_path, j->io.tensor, j->io.bits, j->s.info.d_in, "d_in");
    j->ctx = session_ctx(&j->s, &j->rows, j->path);
    j->room = session_block(&j->s, &j->rows);
    j->codes = codes_room(j->room);
    j->l0_min = INT64_MAX;
    j->tops = j->top > 0 && j->io.json ? json_array() : NULL;
    begin_output(j);
}

static void encode_block(job *j, void *x, int64_t n)
{
    sae_rows r = {.struct_size = sizeof r, .dtype = j->rows.dtype, .x = x, .n_rows = n};
    double start = now();
    codes_encode(&j->codes, j->ctx, &r, j->path);
    j->seconds += now() - start;
    j->nonfinite += sae_ctx_nonfinite(j->ctx);
}

static void count_block(job *j, int64_t n)
{
    for (int64_t r = 0; r < n; r++) {
        int64_t l0 = j->codes.indptr[r + 1] - j->codes.indptr[r];
        j->l0_min = l0 < j->l0_min ? l0 : j->l0_min;
        j->l0_max = l0 > j->l0_max ? l0 : j->l0_max;
    }
}

static void append(FILE *file, const void *p, int64_t n, size_t each)
{
    if (fwrite(p, each, (size_t)n, file) != (size_t)n) {
        die("a temporary file cannot be written: %s", strerror(errno));
    }
}

static void write_sparse(job *j, int64_t n)
{
    const sae_codes *c = &j->codes;
    append(j->indices, c->indices, c->indptr[n], sizeof *c->indices);
    append(j->data, c->values, c->indptr[n], sizeof *c->values);
    size_t total = (size_t)(j->n_rows + n);
    j->indptr = retake(j->indptr, total + 1, sizeof *j->indptr);
    for (int64_t r = 1; r <= n; r++) {
        j->indptr[j->n_rows + r] = j->nnz + c->indptr[r];
    }
    if (needs_scale(j)) {
        j->scale = retake(j->scale, total, sizeof *j->scale);
        j->shift = retake(j->shift, total, sizeof *j->shift);
        memcpy(j->scale + j->n_rows, c->row_scale, (size_t)n * sizeof *j->scale);
        memcpy(j->shift + j->n_rows, c->row_shift, (size_t)n * sizeof *j->shift);
    }
}

static void write_dense(job *j, int64_t n)
{
    size_t bytes = (size_t)j->s.info.d_sae * sizeof *j->line;
    for (int64_t r = 0; r < n; r++) {
        memset(j->line, 0, bytes);
        for (int64_t i = j->codes.indptr[r]; i < j->codes.indptr[r + 1]; i++) {
            j->line[j->codes.indices[i]] = j->codes.values[i];
        }
        output_put(j->out, j->line, bytes);
    }
}

typedef struct pair {
    float value;
    int32_t index;
} pair;

/* Largest value first, then lower index. */
static int by_value(const void *a, const void *b)
{
    const pair *x = a, *y = b;
    return x->value != y->value ? (x->value < y->value) - (x->value > y->value) : (x->index > y->index) - (x->index < y->index);
}

static void show_text(int64_t row, const pair *pairs, int64_t n, int64_t l0)
{
    printf("row %-6lld L0 %-5lld", (long long)row, (long long)l0);
    for (int64_t i = 0; i < n; i++) {
        printf("  %d: %.4g", pairs[i].index, (double)pairs[i].value);
    }
    putchar('\n');
}

static void show_json(json_t *tops, const pair *pairs, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) {
        json_array_append_new(list, json_pack("{s:i, s:o}", "feature", pairs[i].index, "value", report_number((double)pairs[i].value)));
    }
    json_array_append_new(tops, list);
}

static void show_top(job *j, int64_t n)
{
    pair *pairs = take((size_t)j->l0_max, sizeof *pairs);
    for (int64_t r = 0; r < n; r++) {
        int64_t first = j->codes.indptr[r], l0 = j->codes.indptr[r + 1] - first;
        for (int64_t i = 0; i < l0; i++) {
            pairs[i] = (pair){j->codes.values[first + i], j->codes.indices[first + i]};
        }
        qsort(pairs, (size_t)l0, sizeof *pairs, by_value);
        int64_t shown = l0 < j->top ? l0 : j->top;
        if (j->io.json) {
            show_json(j->tops, pairs, shown);
        } else {
            show_text(j->n_rows + r, pairs, shown, l0);
        }
    }
    free(pairs);
}

static void encode_all(job *j)
{
    void *x = take((size_t)j->room, j->rows.row_bytes);
    progress p = progress_start("encoding", "rows", j->rows.n_rows);
    for (int64_t n; (n = rows_get(&j->rows, x, j->room)) > 0;) {
        encode_block(j, x, n);
        count_block(j, n);
        if (j->indptr != NULL) {
            write_sparse(j, n);
        } else if (j->out != NULL) {
            write_dense(j, n);
        }
        if (j->top > 0) {
            show_top(j, n);
        }
        j->n_rows += n;
        j->nnz += j->codes.indptr[n];
        progress_at(&p, j->n_rows);
    }
    progress_end(&p);
    free(x);
}

/* The names of scipy.sparse.save_npz, so that scipy.sparse.load_npz reads the file too. */
static void finish_sparse(job *j)
{
    int64_t shape[] = {j->n_rows, j->s.info.d_sae}, two = 2, rows_1 = j->n_rows + 1;
    array arrays[7];
    int n = 0;
    arrays[n++] = array_make("indptr", ELEM_I64, 1, &rows_1);
    arrays[n++] = array_make("indices", ELEM_I32, 1, &j->nnz);
    arrays[n++] = array_make("data", ELEM_F32, 1, &j->nnz);
    arrays[n++] = array_make("shape", ELEM_I64, 1, &two);
    if (needs_scale(j)) {
        arrays[n++] = array_make("row_scale", ELEM_F32, 1, &j->n_rows);
        arrays[n++] = array_make("row_shift", ELEM_F32, 1, &j->n_rows);
    }
    if (j->kind == OUTPUT_NPZ) {
        arrays[n++] = array_make("format", ELEM_S3, 0, shape);
    }
    output *out = output_open(j->io.out_path, j->kind, arrays, n);
    output_put(out, j->indptr, (size_t)rows_1 * sizeof *j->indptr);
    output_put_file(out, j->indices);
    output_put_file(out, j->data);
    output_put(out, shape, sizeof shape);
    if (needs_scale(j)) {
        output_put(out, j->scale, (size_t)j->n_rows * sizeof *j->scale);
        output_put(out, j->shift, (size_t)j->n_rows * sizeof *j->shift);
    }
    if (j->kind == OUTPUT_NPZ) {
        output_put(out, "csr", 3);
    }
    output_commit(out);
    fclose(j->indices);
    fclose(j->data);
}

static void report(job *j)
{
    int64_t n = j->n_rows;
    double mean = n > 0 ? (double)j->nnz / (double)n : 0, each = n > 0 ? 1e6 * j->seconds / (double)n : 0;
    int64_t least = n > 0 ? j->l0_min : 0;
    const char *isa = sae_isa_name(sae_env_isa(j->s.env));
    uint32_t threads = j->s.pool != NULL ? sae_pool_threads(j->s.pool) : 1;
    if (j->io.json) {
        json_t *root = json_pack("{s:I, s:i, s:{s:o, s:I, s:I}, s:I, s:o, s:o, s:s, s:i}", "rows", (json_int_t)n, "d_sae", j->s.info.d_sae,
                                 "l0", "mean", report_number(mean), "min", (json_int_t)least, "max", (json_int_t)j->l0_max, "nonfinite",
                                 (json_int_t)j->nonfinite, "seconds", report_number(j->seconds), "us_per_row", report_number(each), "isa",
                                 isa, "threads", (int)threads);
        if (j->tops != NULL) {
            json_object_set_new(root, "top", j->tops);
        }
        report_print(root);
        return;
    }
    FILE *to = io_to_pipe(&j->io) ? stderr : stdout;
    fprintf(to, "%lld rows, L0 mean %.2f (min %lld, max %lld), %lld non-finite pre-activations, ", (long long)n, mean, (long long)least,
            (long long)j->l0_max, (long long)j->nonfinite);
    fprintf(to, "%.3f s, %.1f us per row (%s, %u thread%s)\n", j->seconds, each, isa, threads, threads == 1 ? "" : "s");
}

static void end(job *j)
{
    rows_close(&j->rows);
    sae_ctx_free(j->ctx);
    session_close(&j->s);
    codes_free(&j->codes);
    free(j->indptr);
    free(j->line);
    free(j->scale);
    free(j->shift);
}

static void run(args *a)
{
    job j = {0};
    parse(&j, a);
    begin(&j, &a->model);
    encode_all(&j);
    if (j.indptr != NULL) {
        finish_sparse(&j);
    } else if (j.out != NULL) {
        output_commit(j.out);
    }
    report(&j);
    end(&j);
}

const command cmd_encode = {
    .name = "encode",
    .synopsis = "PATH ROWS [-o CODES] [--dense] [--top N]",
    .summary = "Encode rows of activations to sparse codes",
    .details = "ROWS is a file of float32, float16 or bfloat16 rows of d_in elements; leading dimensions all count\n"
               "rows. CODES is a .npz with indptr, indices, data, shape (scipy.sparse.load_npz reads it; row_scale\n"
               "and row_shift are added where the SAE normalises rows), or the same as safetensors. Without -o only\n"
               "the summary is printed. Rows are read in blocks, of any number.\n",
    .options = options,
    .run = run,
};
