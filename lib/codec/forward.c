/* The SAE's own output for a row: what its codes decode to, and what they do not carry. */
#include <string.h>

#include "codec/codec.h"

typedef struct forward_job {
    sae_ctx *ctx;
    const saei_skip *skip;
    saei_xrows x; /* the raw rows, of the skip's stretch */
} forward_job;

static void decode_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const sae_ctx *ctx = ((const forward_job *)job)->ctx;
    const saei_work *w = &ctx->work;
    const size_t r = i, d_sae = (size_t)ctx->model->parts.d_sae;
    float *y = ctx->y + r * (size_t)ctx->model->parts.d_out;
    saei_decode_row(ctx, y, w->idx + r * d_sae, w->val + r * d_sae, (size_t)w->n[r], worker);
    saei_unnormalise(ctx->model, y, w->scale[r], w->shift[r]);
    saei_fp_leave(mode);
}

/* y += x W_skip for a tile of outputs. */
static void skip_task(void *job, uint32_t tile, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const forward_job *j = job;
    const sae_ctx *ctx = j->ctx;
    const saei_dense dense = {j->skip->w.m, NULL};
    const size_t first = (size_t)tile * SAEI_TILE, left = (size_t)dense.m.n - first, n = left < SAEI_TILE ? left : SAEI_TILE;
    const size_t step = saei_dots_step(&dense, j->x.n), d_out = (size_t)ctx->model->parts.d_out;
    float *c = ctx->work.c + worker * saei_dots_c_floats();
    saei_dots(ctx->model->env->kernels, &dense, c, first, n, &j->x,
              ctx->work.pack + worker * saei_dots_pack_floats((size_t)ctx->model->parts.d_in));
    for (size_t r = 0; r < j->x.n; r++) {
        float *y = ctx->y + r * d_out + (size_t)j->skip->out_first + first;
        for (size_t o = 0; o < n; o++)
            y[o] += c[r * step + o];
    }
    saei_fp_leave(mode);
}

static sae_status add_skips(forward_job *job, size_t n)
{
    const sae_ctx *ctx = job->ctx;
    const saei_parts *p = &ctx->model->parts;
    for (uint32_t i = 0; i < p->n_skip; i++) {
        const saei_dense dense = {p->skip[i].w.m, NULL};
        job->skip = p->skip + i;
        job->x = (saei_xrows){ctx->raw + p->skip[i].in_first, (size_t)p->d_in, ctx->work.packed, n};
        saei_dots_begin(ctx->model->env->kernels, &dense, &job->x);
        if (saei_run(&ctx->model->env->host, job, skip_task, ((uint32_t)dense.m.n + SAEI_TILE - 1) / SAEI_TILE))
            return SAE_E_HOST;
    }
    return SAE_OK;
}

/* Rows r0 .. r0 + n - 1, read before any of them is written. */
static sae_status forward_block(sae_ctx *ctx, const saei_rows *y, const saei_rows *x, int64_t r0, size_t n)
{
    const saei_kernels *k = ctx->model->env->kernels;
    const size_t d_in = (size_t)ctx->model->parts.d_in, d_out = (size_t)ctx->model->parts.d_out;
    forward_job job = {.ctx = ctx};
    for (size_t r = 0; ctx->raw && r < n; r++)
        k->widen(ctx->raw + r * d_in, saei_rows_at(x, r0 + (int64_t)r), x->dtype, d_in);
    const sae_status status = saei_ctx_encode(ctx, x, r0, n);
    if (status)
        return status;
    for (size_t r = 0; ctx->model->parts.arch == SAE_TEMPORAL && r < n; r++)
        saei_sequence_add(ctx, (size_t)r0 + r, r);
    if (saei_run(&ctx->model->env->host, &job, decode_task, (uint32_t)n) || add_skips(&job, n))
        return saei_fail(&ctx->error, SAE_E_HOST, "the host's parallel-for failed in rows %lld .. %lld", (long long)r0,
                         (long long)r0 + (long long)n - 1);
    for (size_t r = 0; r < n; r++)
        k->narrow(saei_rows_at(y, r0 + (int64_t)r), ctx->y + r * d_out, y->dtype, d_out);
    return SAE_OK;
}

static sae_status forward(sae_ctx *ctx, const sae_rows *y, const sae_rows *x)
{
    saei_rows in, out;
    const saei_parts *p = &ctx->model->parts;
    sae_status status = saei_rows_read(&in, x, p->d_in, false, &ctx->error);
    if (status || (status = saei_rows_read(&out, y, p->d_out, true, &ctx->error)))
        return status;
    if (in.n != out.n)
        return saei_fail(&ctx->error, SAE_E_SHAPE, "x has %lld rows, y has %lld", (long long)in.n, (long long)out.n);
    ctx->nonfinite = 0;
    for (int64_t r0 = 0; r0 < in.n && !status; r0 += (int64_t)ctx->work.max_rows) {
        const int64_t left = in.n - r0, most = (int64_t)ctx->work.max_rows;
        status = forward_block(ctx, &out, &in, r0, (size_t)(left < most ? left : most));
    }
    return status;
}

sae_status sae_forward(sae_ctx *ctx, const sae_rows *y, const sae_rows *x)
{
    saei_fpmode mode;
    const sae_status status = saei_ctx_begin(ctx, &mode);
    return status ? status : saei_ctx_end(ctx, mode, forward(ctx, y, x));
}
