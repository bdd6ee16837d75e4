#include <string.h>

#include "codec/codes.h"
#include "codec/screen.h"

/* What becomes of the codes of an encoded row. */
typedef void (*sink)(void *to, const sae_ctx *ctx, size_t r, int64_t row);

static sae_status encode_dense_rows(sae_ctx *ctx, size_t n)
{
    ctx->counts.rows_dense += (int64_t)n;
    return saei_work_encode(&ctx->work, ctx->model, n, &ctx->nonfinite);
}

sae_status saei_ctx_encode(sae_ctx *ctx, const saei_rows *x, int64_t r0, size_t n)
{
    const bool temporal = ctx->model->parts.arch == SAE_TEMPORAL;
    const sae_status status = temporal && r0 == 0 ? saei_sequence_read(ctx, x) : SAE_OK;
    if (status)
        return status;
    if (temporal)
        saei_sequence_load(ctx, (size_t)r0, n);
    else
        saei_work_load(&ctx->work, ctx->model, x, r0, n);
    if (saei_screen_pays(ctx, n) ? saei_screen_encode(ctx, n) : encode_dense_rows(ctx, n))
        return saei_fail(&ctx->error, SAE_E_HOST, "the host's parallel-for failed in rows %lld .. %lld", (long long)r0,
                         (long long)r0 + (long long)n - 1);
    return SAE_OK;
}

static sae_status encode_blocks(sae_ctx *ctx, const saei_rows *rows, sink put, void *to)
{
    saei_work *w = &ctx->work;
    ctx->nonfinite = 0;
    for (int64_t r0 = 0; r0 < rows->n; r0 += (int64_t)w->max_rows) {
        const size_t n = rows->n - r0 < (int64_t)w->max_rows ? (size_t)(rows->n - r0) : w->max_rows;
        const sae_status status = saei_ctx_encode(ctx, rows, r0, n);
        if (status)
            return status;
        for (size_t r = 0; r < n; r++)
            put(to, ctx, r, r0 + (int64_t)r);
    }
    return SAE_OK;
}

static void put_sparse(void *to, const sae_ctx *ctx, size_t r, int64_t row)
{
    const saei_work *w = &ctx->work;
    sae_codes *c = to;
    const int64_t at = c->indptr[row], n = w->n[r];
    const size_t d_sae = (size_t)ctx->model->parts.d_sae;
    c->indptr[row + 1] = at + n;
    if (c->row_scale)
        c->row_scale[row] = w->scale[r];
    if (c->row_shift)
        c->row_shift[row] = w->shift[r];
    if (at + n > c->capacity || n == 0)
        return; /* the rest is only counted */
    memcpy(c->indices + at, w->idx + r * d_sae, (size_t)n * sizeof *c->indices);
    memcpy(c->values + at, w->val + r * d_sae, (size_t)n * sizeof *c->values);
}

static sae_status encode(sae_ctx *ctx, sae_codes *out, const sae_rows *x)
{
    sae_codes c;
    saei_rows rows;
    sae_status status = saei_rows_read(&rows, x, ctx->model->parts.d_in, false, &ctx->error);
    if (status || (status = saei_codes_read(&c, out, &ctx->error)))
        return status;
    c.n_rows = rows.n;
    c.indptr[0] = 0;
    if ((status = encode_blocks(ctx, &rows, put_sparse, &c)))
        return status;
    if ((status = saei_write_struct(out, &c, sizeof c, "sae_codes", &ctx->error)))
        return status;
    if (c.indptr[rows.n] > c.capacity)
        return saei_fail(&ctx->error, SAE_E_CAPACITY, "%lld codes in %lld rows, but capacity is %lld: grow indices and values and repeat",
                         (long long)c.indptr[rows.n], (long long)rows.n, (long long)c.capacity);
    return SAE_OK;
}

sae_status sae_encode(sae_ctx *ctx, sae_codes *out, const sae_rows *x)
{
    saei_fpmode mode;
    const sae_status status = saei_ctx_begin(ctx, &mode);
    return status ? status : saei_ctx_end(ctx, mode, encode(ctx, out, x));
}

typedef struct dense {
    unsigned char *out;
    int64_t stride;
} dense;

static void put_dense(void *to, const sae_ctx *ctx, size_t r, int64_t row)
{
    const saei_work *w = &ctx->work;
    const dense *d = to;
    const size_t d_sae = (size_t)ctx->model->parts.d_sae;
    unsigned char *out = d->out + row * d->stride;
    memset(out, 0, d_sae * sizeof(float));
    for (int32_t i = 0; i < w->n[r]; i++) /* memcpy: any alignment is legal */
        memcpy(out + (size_t)w->idx[r * d_sae + (size_t)i] * sizeof(float), w->val + r * d_sae + i, sizeof(float));
}

static sae_status encode_dense(sae_ctx *ctx, float *out, int64_t out_stride_bytes, const sae_rows *x)
{
    saei_rows rows;
    const int64_t row_bytes = (int64_t)ctx->model->parts.d_sae * (int64_t)sizeof(float);
    const sae_status status = saei_rows_read(&rows, x, ctx->model->parts.d_in, false, &ctx->error);
    if (status)
        return status;
    dense to = {(unsigned char *)out, out_stride_bytes ? out_stride_bytes : row_bytes};
    if (rows.n > 0 && !out)
        return saei_fail(&ctx->error, SAE_E_ARG, "sae_encode_dense: out is NULL");
    if (rows.n > 1 && to.stride < row_bytes && to.stride > -row_bytes)
        return saei_fail(&ctx->error, SAE_E_ARG, "out_stride_bytes = %lld, but a row of %d codes takes %lld bytes", (long long)to.stride,
                         (int)ctx->model->parts.d_sae, (long long)row_bytes);
    return encode_blocks(ctx, &rows, put_dense, &to);
}

sae_status sae_encode_dense(sae_ctx *ctx, float *out, int64_t out_stride_bytes, const sae_rows *x)
{
    saei_fpmode mode;
    const sae_status status = saei_ctx_begin(ctx, &mode);
    return status ? status : saei_ctx_end(ctx, mode, encode_dense(ctx, out, out_stride_bytes, x));
}
