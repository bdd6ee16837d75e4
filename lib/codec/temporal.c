/* A temporal SAE (sae-lens 6.54, saes/temporal_sae.py; arXiv 2511.01836): attention over the rows before predicts a part of each row, and the
 * codes are of what is left. A call's rows are one sequence. Sums of attention are in double or in order of the rows, so that the
 * results do not depend on threads; that they have the same bits on every machine is promised for no temporal SAE. */
#include <math.h>
#include <string.h>

#include "codec/codec.h"

/* out[r][o] = dot(w_o, x_r) + bias_o, at least 0 when `relu`. */
typedef struct product_job {
    const sae_ctx *ctx;
    saei_dense w;
    saei_xrows x;
    float *out; /* [x.n][d_sae or fewer], ldo apart */
    size_t ldo;
    const float *bias; /* NULL = 0 */
    bool relu;
} product_job;

static void product_task(void *job, uint32_t tile, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const product_job *j = job;
    const saei_work *w = &j->ctx->work;
    const size_t first = (size_t)tile * SAEI_TILE, all = (size_t)j->w.m.n, end = all - first < SAEI_TILE ? all : first + SAEI_TILE;
    const size_t step = saei_dots_step(&j->w, j->x.n);
    float *c = w->c + worker * saei_dots_c_floats(), *pack = w->pack + worker * saei_dots_pack_floats((size_t)j->w.m.d);
    for (size_t j0 = first; j0 < end; j0 += step) {
        const size_t nj = end - j0 < step ? end - j0 : step;
        saei_dots(j->ctx->model->env->kernels, &j->w, c, j0, nj, &j->x, pack);
        for (size_t r = 0; r < j->x.n; r++)
            for (size_t i = 0; i < nj; i++) {
                const float h = c[r * step + i] + (j->bias ? j->bias[j0 + i] : 0.0f);
                j->out[r * j->ldo + j0 + i] = j->relu && !(h > 0.0f) && !isnan(h) ? 0.0f : h;
            }
    }
    saei_fp_leave(mode);
}

/* The same for any number of rows. */
static sae_status product(const sae_ctx *ctx, float *out, size_t ldo, saei_dense w, const float *bias, bool relu, const float *x,
                          size_t ldx, size_t n)
{
    const uint32_t tiles = ((uint32_t)w.m.n + SAEI_TILE - 1) / SAEI_TILE;
    for (size_t r = 0; r < n; r += SAEI_MAX_ROWS) {
        const size_t now = n - r < SAEI_MAX_ROWS ? n - r : SAEI_MAX_ROWS;
        product_job job = {ctx, w, {x + r * ldx, ldx, ctx->sequence.packed, now}, out + r * ldo, ldo, bias, relu};
        saei_dots_begin(ctx->model->env->kernels, &job.w, &job.x);
        if (saei_run(&ctx->model->env->host, &job, product_task, tiles))
            return SAE_E_HOST;
    }
    return SAE_OK;
}

/* A linear layer of the rows before: row t of `out` is of row t - 1 of `in`, row 0 of zeros. */
static sae_status of_context(const sae_ctx *ctx, float *out, const saei_linear *l, const float *in, size_t n)
{
    const size_t d_sae = (size_t)ctx->model->parts.d_sae, width = (size_t)l->w.m.n;
    memcpy(out, l->bias, width * sizeof *out);
    return product(ctx, out + width, width, (saei_dense){l->w.m, NULL}, l->bias, false, in, d_sae, n - 1);
}

typedef struct sequence_job {
    const sae_ctx *ctx;
    const saei_attention *layer;
    size_t first; /* row that task 0 is for */
} sequence_job;

/* Weights of the rows up to t for one head: softmax of q k / sqrt(size), in double, to weights [t + 1]. */
static void attend(double *weights, const float *q, const float *k, size_t ld, size_t size, size_t t)
{
    double most = -INFINITY, sum = 0.0;
    for (size_t s = 0; s <= t; s++) {
        double dot = 0.0;
        for (size_t i = 0; i < size; i++)
            dot += (double)q[i] * (double)k[s * ld + i];
        weights[s] = dot / sqrt((double)size);
        most = weights[s] > most ? weights[s] : most;
    }
    for (size_t s = 0; s <= t; s++) {
        weights[s] = saei_exp(weights[s] - most);
        sum += weights[s];
    }
    for (size_t s = 0; s <= t; s++)
        weights[s] /= sum;
}

/* Row t of z = what its heads take of v. */
static void attention_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const sequence_job *j = job;
    const saei_sequence *s = &j->ctx->sequence;
    const saei_parts *p = &j->ctx->model->parts;
    const size_t t = i, d_sae = (size_t)p->d_sae, heads = (size_t)p->n_heads, width = (size_t)j->layer->k_ctx.w.m.n;
    const size_t keys = width / heads, values = d_sae / heads;
    double *weights = s->weights + worker * s->max_rows;
    float *out = s->z + t * d_sae;
    memset(out, 0, d_sae * sizeof *out);
    for (size_t h = 0; h < heads; h++) {
        attend(weights, s->q + t * width + h * keys, s->k + h * keys, width, keys, t);
        for (size_t from = 0; from <= t; from++) {
            const float weight = (float)weights[from], *v = s->v + from * d_sae + h * values;
            for (size_t c = 0; c < values; c++)
                out[h * values + c] += weight * v[c];
        }
    }
    saei_fp_leave(mode);
}

/* The elements of a dense row that are not 0, as codes of the work's row r; returns how many. */
static size_t compress(const sae_ctx *ctx, const float *dense, size_t r)
{
    const size_t d_sae = (size_t)ctx->model->parts.d_sae;
    int32_t *ids = ctx->work.idx + r * d_sae;
    float *values = ctx->work.val + r * d_sae;
    size_t n = 0;
    for (size_t i = 0; i < d_sae; i++)
        if (dense[i] != 0.0f) {
            ids[n] = (int32_t)i;
            values[n++] = dense[i];
        }
    return n;
}

/* Row t: how much of what is left of it the prediction v explains goes from it, and into the predicted codes. */
static void explain_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const sequence_job *j = job;
    const sae_ctx *ctx = j->ctx;
    const saei_sequence *s = &ctx->sequence;
    const size_t t = j->first + i, d = (size_t)ctx->model->parts.d_in, d_sae = (size_t)ctx->model->parts.d_sae;
    const float *codes = s->v + t * d_sae;
    float *y = ctx->row + 2 * (size_t)worker * d, *left = s->rows + t * d, *predicted = s->predicted + t * d_sae;
    const size_t n = compress(ctx, codes, i);
    memset(y, 0, d * sizeof *y);
    saei_add_codes(ctx, y, ctx->work.idx + i * d_sae, ctx->work.val + i * d_sae, n, worker);
    double along = 0.0;
    for (size_t k = 0; k < d; k++)
        along += (double)y[k] * (double)left[k];
    const double length = sqrt(saei_square(y, d)) + 1e-6;
    const float part = (float)(along / (length * length));
    for (size_t k = 0; k < d; k++)
        left[k] -= part * y[k];
    for (size_t c = 0; c < d_sae; c++)
        predicted[c] += part * codes[c];
    saei_fp_leave(mode);
}

/* What is left of the rows, times lambda = 1 / (4 d), as the encoder sees it. */
static void scale_rows(const sae_ctx *ctx, size_t n)
{
    const saei_sequence *s = &ctx->sequence;
    const size_t d = (size_t)ctx->model->parts.d_in;
    const float lambda = (float)(1.0 / (4.0 * (double)d));
    for (size_t k = 0; k < n * d; k++)
        s->scaled[k] = s->rows[k] * lambda;
}

static sae_status predict_layer(const sae_ctx *ctx, const saei_attention *a, size_t n)
{
    const saei_sequence *s = &ctx->sequence;
    const size_t d = (size_t)ctx->model->parts.d_in, d_sae = (size_t)ctx->model->parts.d_sae;
    const saei_host *host = &ctx->model->env->host;
    sequence_job job = {ctx, a, 0};
    scale_rows(ctx, n);
    if (product(ctx, s->z, d_sae, saei_model_encoder(ctx->model, 0), NULL, true, s->scaled, d, n) ||
        product(ctx, s->q, (size_t)a->q_target.w.m.n, (saei_dense){a->q_target.w.m, NULL}, a->q_target.bias, false, s->z, d_sae, n) ||
        of_context(ctx, s->k, &a->k_ctx, s->z, n) || of_context(ctx, s->v, &a->v_ctx, s->z, n) ||
        saei_run(host, &job, attention_task, (uint32_t)n) ||
        product(ctx, s->v, d_sae, (saei_dense){a->c_proj.w.m, NULL}, a->c_proj.bias, true, s->z, d_sae, n))
        return SAE_E_HOST;
    for (; job.first < n; job.first += ctx->work.max_rows)
        if (saei_run(host, &job, explain_task, (uint32_t)(n - job.first < ctx->work.max_rows ? n - job.first : ctx->work.max_rows)))
            return SAE_E_HOST;
    return SAE_OK;
}

sae_status saei_sequence_read(sae_ctx *ctx, const saei_rows *x)
{
    const saei_sequence *s = &ctx->sequence;
    const sae_model *model = ctx->model;
    const size_t d = (size_t)model->parts.d_in, n = (size_t)x->n;
    if ((uint64_t)x->n > s->max_rows)
        return saei_fail(&ctx->error, SAE_E_SHAPE,
                         "%lld rows are one sequence for a temporal SAE, and this ctx has room for %zu: create it with a larger max_rows",
                         (long long)x->n, s->max_rows);
    for (size_t r = 0; r < n; r++) {
        float *row = s->rows + r * d;
        model->env->kernels->widen(row, saei_rows_at(x, (int64_t)r), x->dtype, d);
        saei_normalise(model, row, row, s->scale + r, s->shift + r);
    }
    memset(s->predicted, 0, n * (size_t)model->parts.d_sae * sizeof *s->predicted);
    for (int32_t i = 0; i < model->parts.n_attention && n; i++)
        if (predict_layer(ctx, model->parts.attention + i, n))
            return saei_fail(&ctx->error, SAE_E_HOST, "the host's parallel-for failed in attention layer %d", (int)i);
    scale_rows(ctx, n);
    return SAE_OK;
}

void saei_sequence_load(sae_ctx *ctx, size_t r0, size_t n)
{
    const saei_sequence *s = &ctx->sequence;
    const size_t d = (size_t)ctx->model->parts.d_in;
    memcpy(ctx->work.xc, s->scaled + r0 * d, n * d * sizeof(float));
    memcpy(ctx->work.scale, s->scale + r0, n * sizeof(float));
    memcpy(ctx->work.shift, s->shift + r0, n * sizeof(float));
}

void saei_sequence_add(sae_ctx *ctx, size_t row, size_t r)
{
    saei_work *w = &ctx->work;
    const size_t d_sae = (size_t)ctx->model->parts.d_sae;
    float *sum = ctx->sequence.predicted + row * d_sae;
    for (size_t i = 0; i < (size_t)w->n[r]; i++)
        sum[w->idx[r * d_sae + i]] += w->val[r * d_sae + i];
    w->n[r] = (int32_t)compress(ctx, sum, r);
}

static size_t widest(const saei_parts *p)
{
    size_t most = 0;
    for (int32_t i = 0; i < p->n_attention; i++)
        most = (size_t)p->attention[i].k_ctx.w.m.n > most ? (size_t)p->attention[i].k_ctx.w.m.n : most;
    return most;
}

size_t saei_sequence_layout(saei_sequence *out, const sae_model *model, size_t max_rows, unsigned char *block)
{
    const saei_parts *p = &model->parts;
    const size_t d = (size_t)p->d_in, d_sae = (size_t)p->d_sae, keys = widest(p), wide = d > d_sae ? d : d_sae;
    size_t total = 0, of_rows, of_codes, of_keys;
    if (!saei_mul(&of_rows, max_rows, d) || !saei_mul(&of_codes, max_rows, d_sae) || !saei_mul(&of_keys, max_rows, keys))
        return SIZE_MAX;
    const size_t rows = saei_reserve(&total, of_rows, sizeof(float)), scaled = saei_reserve(&total, of_rows, sizeof(float));
    const size_t z = saei_reserve(&total, of_codes, sizeof(float)), v = saei_reserve(&total, of_codes, sizeof(float));
    const size_t predicted = saei_reserve(&total, of_codes, sizeof(float));
    const size_t q = saei_reserve(&total, of_keys, sizeof(float)), k = saei_reserve(&total, of_keys, sizeof(float));
    const size_t scale = saei_reserve(&total, max_rows, sizeof(float)), shift = saei_reserve(&total, max_rows, sizeof(float));
    const size_t packed = saei_reserve(&total, wide, SAEI_MAX_ROWS * sizeof(float));
    const size_t weights = saei_reserve(&total, model->env->host.max_workers * max_rows, sizeof(double));
    if (!block || total == SIZE_MAX)
        return total;
    *out = (saei_sequence){.max_rows = max_rows,
                           .rows = (float *)(void *)(block + rows),
                           .scaled = (float *)(void *)(block + scaled),
                           .z = (float *)(void *)(block + z),
                           .v = (float *)(void *)(block + v),
                           .predicted = (float *)(void *)(block + predicted),
                           .q = (float *)(void *)(block + q),
                           .k = (float *)(void *)(block + k),
                           .scale = (float *)(void *)(block + scale),
                           .shift = (float *)(void *)(block + shift),
                           .packed = (float *)(void *)(block + packed),
                           .weights = (double *)(void *)(block + weights)};
    return total;
}
