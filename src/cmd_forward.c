/* sae forward: rows in, what the SAE makes of them out. */
#include <stdlib.h>

#include "cmd.h"
#include "output.h"
#include "report.h"
#include "session.h"

enum { ID_OUT_DTYPE = 300 };

static const option_desc options[] = {
    OPTION_OUTPUT, {ID_OUT_DTYPE, "out-dtype", "TYPE", "f32 (default), f16 or bf16: what to write"},
    OPTION_TENSOR, OPTION_DTYPE,
    OPTION_JSON,   {0},
};

typedef struct job {
    const char *path, *rows_path;
    io_args io;
    sae_dtype out_dtype;
    output_kind kind;
    session s;
    sae_ctx *ctx;
    rows rows;
    int64_t nonfinite;
    double seconds; /* in sae_forward */
} job;

static void parse(job *j, args *a)
{
    const char *value;
    for (int id; (id = args_next_own(a, &j->io, &value)) != -1;) {
        j->out_dtype = dtype_from_option("out-dtype", value); /* the only one of its own */
    }
    char **operands = args_operands(a, 2, "PATH and ROWS");
    j->path = operands[0];
    j->rows_path = operands[1];
    if (j->io.out_path == NULL) {
        die_usage("-o FILE is wanted");
    }
    if (io_to_pipe(&j->io) && j->io.json) {
        die_usage("-o - and --json both want standard output");
    }
    j->kind = output_kind_of(j->io.out_path, false);
}

static void forward(job *j)
{
    int64_t shape[] = {j->rows.n_rows, j->s.info.d_out}, room = session_block(&j->s, &j->rows), done = 0;
    size_t row_bytes = (size_t)shape[1] * sae_dtype_bytes(j->out_dtype);
    array a = array_make("x_hat", elem_from_dtype(j->out_dtype), 2, shape);
    output *out = output_open(j->io.out_path, j->kind, &a, 1);
    void *x = take((size_t)room, j->rows.row_bytes), *y = take((size_t)room, row_bytes);
    progress p = progress_start("encoding and decoding", "rows", shape[0]);
    for (int64_t n; (n = rows_get(&j->rows, x, room)) > 0;) {
        sae_rows from = {.struct_size = sizeof from, .dtype = j->rows.dtype, .x = x, .n_rows = n};
        sae_rows to = {.struct_size = sizeof to, .dtype = j->out_dtype, .x = y, .n_rows = n};
        double start = now();
        expect_ctx_ok(sae_forward(j->ctx, &to, &from), j->ctx, j->path);
        j->seconds += now() - start;
        j->nonfinite += sae_ctx_nonfinite(j->ctx);
        output_put(out, y, (size_t)n * row_bytes);
        done += n;
        progress_at(&p, done);
    }
    progress_end(&p);
    output_commit(out);
    free(x);
    free(y);
}

static void report(const job *j)
{
    int64_t n = j->rows.n_rows;
    double each = n > 0 ? 1e6 * j->seconds / (double)n : 0;
    if (j->io.json) {
        report_print(json_pack("{s:I, s:i, s:I, s:o, s:o}", "rows", (json_int_t)n, "d_out", j->s.info.d_out, "nonfinite",
                               (json_int_t)j->nonfinite, "seconds", report_number(j->seconds), "us_per_row", report_number(each)));
        return;
    }
    fprintf(io_to_pipe(&j->io) ? stderr : stdout, "%lld rows of %d, %lld non-finite pre-activations, %.3f s, %.1f us per row\n",
            (long long)n, j->s.info.d_out, (long long)j->nonfinite, j->seconds, each);
}

static void run(args *a)
{
    job j = {.out_dtype = SAE_F32};
    parse(&j, a);
    j.s = session_open(&a->model, j.path, true);
    j.rows = rows_open(j.rows_path, j.io.tensor, j.io.bits, j.s.info.d_in, "d_in");
    j.ctx = session_ctx(&j.s, &j.rows, j.path);
    forward(&j);
    report(&j);
    rows_close(&j.rows);
    sae_ctx_free(j.ctx);
    session_close(&j.s);
}

const command cmd_forward = {
    .name = "forward",
    .synopsis = "PATH ROWS -o FILE [--out-dtype TYPE]",
    .summary = "Give the SAE's own output for rows",
    .details = "What `sae encode` and `sae decode` give, and what codes do not carry: the skip connection of a transcoder, and what\n"
               "a temporal SAE predicts from the rows before. All rows are one sequence for a temporal SAE.\n",
    .options = options,
    .run = run,
};
