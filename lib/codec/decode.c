#include <math.h>
#include <string.h>

#include "codec/codes.h"

typedef struct decode_job {
    sae_ctx *ctx;
    saei_matrix w;
    const sae_codes *codes;
    const saei_rows *y; /* decode: where to; measure: the rows to compare with */
    float *error;       /* measure */
} decode_job;

enum { ROWS_PER_TASK = 4 };

/* acc += sum of codes from .. to-1, where decoder rows are stored as rows. */
static void add_rows(const decode_job *j, float *acc, float *coef, int64_t from, int64_t to)
{
    const sae_model *model = j->ctx->model;
    const saei_kernels *k = model->env->kernels;
    const int32_t *ids = j->codes->indices;
    if (!model->dec_scale) {
        k->combine(acc, acc, &j->w, ids + from, j->codes->values + from, (size_t)(to - from));
        return;
    }
    for (int64_t i = from; i < to; i += SAEI_COEFS) {
        const int64_t n = to - i < SAEI_COEFS ? to - i : SAEI_COEFS;
        for (int64_t t = 0; t < n; t++)
            coef[t] = j->codes->values[i + t] * model->dec_scale[ids[i + t]];
        k->combine(acc, acc, &j->w, ids + i, coef, (size_t)n);
    }
}

/* The same where W_dec is stored [d_out][d_sae] and not prepared: one gathered row at a time, same chain. */
static void add_columns(const decode_job *j, float *acc, float *row, int64_t from, int64_t to)
{
    const sae_model *model = j->ctx->model;
    const saei_matrix one = {row, SAE_F32, false, 1, j->w.d};
    const int32_t zero = 0;
    for (int64_t i = from; i < to; i++) {
        const int32_t feature = j->codes->indices[i];
        const float coef = model->dec_scale ? j->codes->values[i] * model->dec_scale[feature] : j->codes->values[i];
        saei_matrix_row(row, &j->w, feature);
        model->env->kernels->combine(acc, acc, &one, &zero, &coef, 1);
    }
}

/* Decodes row r into the worker's buffer. */
static float *decode_row(const decode_job *j, int64_t r, uint32_t worker)
{
    const sae_model *model = j->ctx->model;
    const size_t d = (size_t)model->parts.d_out;
    float *acc = j->ctx->y + worker * 2 * d;
    const int64_t from = j->codes->indptr[r], to = j->codes->indptr[r + 1];
    memcpy(acc, model->b_dec, d * sizeof *acc);
    if (j->w.by_cols)
        add_columns(j, acc, acc + d, from, to);
    else
        add_rows(j, acc, j->ctx->coef + worker * SAEI_COEFS, from, to);
    if (model->parts.norm == SAE_NORM_NONE)
        return acc;
    const bool per_row = model->parts.norm != SAE_NORM_SCALE;
    const float scale = per_row ? j->codes->row_scale[r] : 1.0f / model->parts.norm_scaling_factor;
    const float shift = per_row ? j->codes->row_shift[r] : 0.0f;
    for (size_t k = 0; k < d; k++)
        acc[k] = fmaf(acc[k], scale, shift);
    return acc;
}

static void decode_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const decode_job *j = job;
    const int64_t first = (int64_t)i * ROWS_PER_TASK, last = first + ROWS_PER_TASK < j->y->n ? first + ROWS_PER_TASK : j->y->n;
    for (int64_t r = first; r < last; r++)
        j->ctx->model->env->kernels->narrow(saei_rows_at(j->y, r), decode_row(j, r, worker), j->y->dtype, (size_t)j->w.d);
    saei_fp_leave(mode);
}

static void measure_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const decode_job *j = job;
    const size_t d = (size_t)j->w.d;
    const int64_t first = (int64_t)i * ROWS_PER_TASK, last = first + ROWS_PER_TASK < j->y->n ? first + ROWS_PER_TASK : j->y->n;
    for (int64_t r = first; r < last; r++) {
        const float *y = decode_row(j, r, worker);
        const unsigned char *x = saei_rows_at(j->y, r);
        const size_t each = sae_dtype_bytes(j->y->dtype);
        double sum = 0.0;
        for (size_t k = 0; k < d; k++) {
            const double e = (double)saei_load(x + k * each, j->y->dtype) - (double)y[k];
            sum += e * e;
        }
        j->error[r] = (float)sum;
    }
    saei_fp_leave(mode);
}

/* Runs `task` over the rows, in rounds small enough for the 32-bit task counter. */
static sae_status run_rows(decode_job *job, sae_task task)
{
    const int64_t n_tasks = (job->y->n + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    if (n_tasks > UINT32_MAX)
        return saei_fail(&job->ctx->error, SAE_E_ARG, "%lld rows in one call, the most is %lld", (long long)job->y->n,
                         (long long)UINT32_MAX * ROWS_PER_TASK);
    if (saei_run(&job->ctx->model->env->host, job, task, (uint32_t)n_tasks))
        return saei_fail(&job->ctx->error, SAE_E_HOST, "the host's parallel-for failed while %lld rows were decoded", (long long)job->y->n);
    return SAE_OK;
}

static sae_status read_both(sae_codes *c, saei_rows *rows, sae_ctx *ctx, const sae_rows *x, const sae_codes *codes, bool written)
{
    sae_status status = saei_rows_read(rows, x, ctx->model->parts.d_out, written, &ctx->error);
    if (status || (status = saei_codes_read(c, codes, &ctx->error)))
        return status;
    if (rows->n != c->n_rows)
        return saei_fail(&ctx->error, SAE_E_SHAPE, "the codes have %lld rows, the rows given are %lld", (long long)c->n_rows,
                         (long long)rows->n);
    return saei_codes_check(c, ctx->model, &ctx->error);
}

static sae_status decode(sae_ctx *ctx, const sae_rows *y, const sae_codes *codes)
{
    sae_codes c;
    saei_rows rows;
    const sae_status status = read_both(&c, &rows, ctx, y, codes, true);
    decode_job job = {ctx, saei_model_dec_rows(ctx->model), &c, &rows, NULL};
    return status ? status : run_rows(&job, decode_task);
}

sae_status sae_decode(sae_ctx *ctx, const sae_rows *y, const sae_codes *codes)
{
    saei_fpmode mode;
    const sae_status status = saei_ctx_begin(ctx, &mode);
    return status ? status : saei_ctx_end(ctx, mode, decode(ctx, y, codes));
}

/* sum ||x - mean||^2 over rows then columns: one double chain; the mean of each column is one too. */
static double total_variance(const sae_ctx *ctx, const saei_rows *x)
{
    const size_t d = (size_t)ctx->model->parts.d_out, each = sae_dtype_bytes(x->dtype);
    double sum = 0.0;
    for (size_t k = 0; k < d; k++)
        ctx->mean[k] = 0.0;
    for (int64_t r = 0; r < x->n; r++)
        for (size_t k = 0; k < d; k++)
            ctx->mean[k] += (double)saei_load((unsigned char *)saei_rows_at(x, r) + k * each, x->dtype);
    for (size_t k = 0; k < d; k++)
        ctx->mean[k] /= (double)x->n;
    for (int64_t r = 0; r < x->n; r++)
        for (size_t k = 0; k < d; k++) {
            const double v = (double)saei_load((unsigned char *)saei_rows_at(x, r) + k * each, x->dtype) - ctx->mean[k];
            sum += v * v;
        }
    return sum;
}

static sae_status measure(sae_ctx *ctx, float *error, double *fvu, const sae_rows *x, const sae_codes *codes)
{
    sae_codes c;
    saei_rows rows;
    sae_status status = read_both(&c, &rows, ctx, x, codes, false);
    decode_job job = {ctx, saei_model_dec_rows(ctx->model), &c, &rows, error};
    if (status || (status = run_rows(&job, measure_task)))
        return status;
    if (!fvu)
        return SAE_OK;
    double sum = 0.0;
    for (int64_t r = 0; r < rows.n; r++)
        sum += (double)error[r];
    const double total = total_variance(ctx, &rows);
    *fvu = total > 0.0 ? sum / total : (double)NAN;
    return SAE_OK;
}

sae_status sae_measure(sae_ctx *ctx, float *error, double *fvu, const sae_rows *x, const sae_codes *codes)
{
    saei_fpmode mode;
    const sae_status status = saei_ctx_begin(ctx, &mode);
    if (status)
        return status;
    if (!error)
        return saei_ctx_end(ctx, mode, saei_fail(&ctx->error, SAE_E_ARG, "sae_measure: error is NULL, it needs one float a row"));
    return saei_ctx_end(ctx, mode, measure(ctx, error, fvu, x, codes));
}
