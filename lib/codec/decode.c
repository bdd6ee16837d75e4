#include <math.h>
#include <string.h>

#include "codec/codes.h"

typedef struct decode_job {
    sae_ctx *ctx;
    const sae_codes *codes;
    const saei_rows *y; /* decode: where to; measure: the rows to compare with */
    float *error;       /* measure */
} decode_job;

enum { ROWS_PER_TASK = 4 };

/* Where the scratch of one worker is, and what is being decoded. */
typedef struct room {
    const sae_model *model;
    float *row, *coef;
    int32_t *ids;
} room;

/* acc += the codes, by rows of a matrix that are not those of their features, or that count dec_scale times. */
static void add_mapped(const room *at, float *acc, const saei_segment *s, const saei_matrix *m, const int32_t *ids, const float *values,
                       size_t n)
{
    const float *scale = at->model->dec_scale;
    for (size_t i = 0; i < n; i += SAEI_COEFS) {
        const size_t now = n - i < SAEI_COEFS ? n - i : SAEI_COEFS;
        for (size_t t = 0; t < now; t++) {
            at->ids[t] = saei_segment_row(s, ids[i + t]);
            at->coef[t] = scale ? values[i + t] * scale[ids[i + t]] : values[i + t];
        }
        at->model->env->kernels->combine(acc, acc, m, at->ids, at->coef, now);
    }
}

/* The same where the matrix is stored by columns and not prepared: one gathered row at a time, same chain. */
static void add_columns(const room *at, float *acc, const saei_segment *s, const saei_matrix *m, const int32_t *ids, const float *values,
                        size_t n)
{
    const saei_matrix one = {at->row, SAE_F32, false, 1, m->d};
    const float *scale = at->model->dec_scale;
    const int32_t zero = 0;
    for (size_t i = 0; i < n; i++) {
        const float coef = scale ? values[i] * scale[ids[i]] : values[i];
        saei_matrix_row(at->row, m, saei_segment_row(s, ids[i]));
        at->model->env->kernels->combine(acc, acc, &one, &zero, &coef, 1);
    }
}

static void add_segment(const room *at, float *out, uint32_t segment, const int32_t *ids, const float *values, size_t n)
{
    const saei_segment *s = at->model->parts.dec + segment;
    const saei_matrix m = saei_model_dec_rows(at->model, segment);
    float *acc = out + s->out_first;
    if (!n)
        return;
    if (m.by_cols)
        add_columns(at, acc, s, &m, ids, values, n);
    else if (!at->model->dec_scale && s->row_step == 1 && s->row_first == s->first)
        at->model->env->kernels->combine(acc, acc, &m, ids, values, n);
    else
        add_mapped(at, acc, s, &m, ids, values, n);
}

size_t saei_below(const int32_t *ids, size_t n, int64_t feature)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (ids[mid] < feature)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

void saei_add_codes(const sae_ctx *ctx, float *out, const int32_t *ids, const float *values, size_t n, uint32_t worker)
{
    const saei_parts *p = &ctx->model->parts;
    const room at = {ctx->model, ctx->row + (2 * (size_t)worker + 1) * (size_t)p->d_out, ctx->coef + worker * SAEI_COEFS,
                     ctx->ids + worker * SAEI_COEFS};
    for (uint32_t i = 0; i < p->n_dec && n; i++) {
        const saei_segment *s = p->dec + i;
        const size_t from = saei_below(ids, n, s->first), to = from + saei_below(ids + from, n - from, (int64_t)s->first + s->n);
        add_segment(&at, out, i, ids + from, values + from, to - from);
    }
}

void saei_decode_row(const sae_ctx *ctx, float *out, const int32_t *ids, const float *values, size_t n, uint32_t worker)
{
    memcpy(out, ctx->model->b_dec, (size_t)ctx->model->parts.d_out * sizeof *out);
    saei_add_codes(ctx, out, ids, values, n, worker);
}

/* Decodes row r into the worker's buffer. */
static float *decode_row(const decode_job *j, int64_t r, uint32_t worker)
{
    const sae_model *model = j->ctx->model;
    float *y = j->ctx->row + 2 * (size_t)worker * (size_t)model->parts.d_out;
    const int64_t from = j->codes->indptr[r], to = j->codes->indptr[r + 1];
    const bool per_row = saei_normalises_rows(model);
    const size_t n = (size_t)(to - from);
    saei_decode_row(j->ctx, y, n ? j->codes->indices + from : NULL, n ? j->codes->values + from : NULL, n, worker);
    saei_unnormalise(model, y, per_row ? j->codes->row_scale[r] : model->parts.norm_out_factor, per_row ? j->codes->row_shift[r] : 0.0f);
    return y;
}

static void decode_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const decode_job *j = job;
    const size_t d = (size_t)j->ctx->model->parts.d_out;
    const int64_t first = (int64_t)i * ROWS_PER_TASK, last = first + ROWS_PER_TASK < j->y->n ? first + ROWS_PER_TASK : j->y->n;
    for (int64_t r = first; r < last; r++)
        j->ctx->model->env->kernels->narrow(saei_rows_at(j->y, r), decode_row(j, r, worker), j->y->dtype, d);
    saei_fp_leave(mode);
}

static void measure_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const decode_job *j = job;
    const size_t d = (size_t)j->ctx->model->parts.d_out;
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
    decode_job job = {ctx, &c, &rows, NULL};
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
    if (ctx->model->parts.n_skip || ctx->model->parts.arch == SAE_TEMPORAL)
        return saei_fail(&ctx->error, SAE_E_UNSUPPORTED,
                         "the codes of this SAE are not all that it says of a row (%s): compare the rows with those of sae_forward",
                         ctx->model->parts.n_skip ? "it has a skip" : "it predicts from the rows before");
    sae_status status = read_both(&c, &rows, ctx, x, codes, false);
    decode_job job = {ctx, &c, &rows, error};
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
