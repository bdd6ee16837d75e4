#include "codec/probe.h"

#include <string.h>

static float *gathered(const saei_host *host, const float *v, const int32_t *features, size_t n, bool *failed)
{
    if (!v)
        return NULL;
    float *out = saei_alloc(host, n * sizeof *out);
    for (size_t i = 0; out && i < n; i++)
        out[i] = v[features[i]];
    *failed |= !out;
    return out;
}

void saei_lanes_free(saei_lanes *l, const saei_host *host)
{
    const float *const arrays[] = {l->act.bias, l->act.threshold, l->act.key_scale, l->act.gate, l->act.mag_scale, l->act.mag_bias};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        saei_dealloc(host, (void *)(uintptr_t)arrays[i], l->n * sizeof(float));
    saei_dealloc(host, l->features, l->n * sizeof *l->features);
    saei_dealloc(host, l->packed, l->packed_bytes);
    *l = (saei_lanes){0};
}

static bool gather_act(saei_lanes *l, const saei_host *host, const saei_act *act)
{
    bool failed = false;
    l->act.bias = gathered(host, act->bias, l->features, l->n, &failed);
    l->act.threshold = gathered(host, act->threshold, l->features, l->n, &failed);
    l->act.key_scale = gathered(host, act->key_scale, l->features, l->n, &failed);
    l->act.gate = gathered(host, act->gate, l->features, l->n, &failed);
    l->act.mag_scale = gathered(host, act->mag_scale, l->features, l->n, &failed);
    l->act.mag_bias = gathered(host, act->mag_bias, l->features, l->n, &failed);
    return !failed;
}

static sae_status lanes_fill(saei_lanes *l, sae_model *model, const int32_t *features, sae_error *err)
{
    const saei_host *host = &model->env->host;
    const size_t d = (size_t)model->parts.d_in;
    size_t columns_bytes = 0;
    l->groups = (l->n + SAEI_LANES - 1) / SAEI_LANES;
    saei_reserve(&l->packed_bytes, l->groups * SAEI_LANES, d * sizeof(float));
    saei_reserve(&columns_bytes, l->n, d * sizeof(float));
    l->features = saei_alloc(host, l->n * sizeof *l->features);
    l->packed = saei_alloc(host, l->packed_bytes);
    if (l->features)
        memcpy(l->features, features, l->n * sizeof *l->features);
    if (!l->features || !l->packed || !gather_act(l, host, &model->act))
        return saei_fail(err, SAE_E_NOMEM, "no memory to pack %zu features of d_in = %zu (%zu bytes)", l->n, d, l->packed_bytes);
    float *columns = saei_alloc(host, columns_bytes);
    if (!columns)
        return saei_fail(err, SAE_E_NOMEM, "no memory to gather %zu features of d_in = %zu (%zu bytes)", l->n, d, columns_bytes);
    const sae_status status = saei_model_gather(columns, model, SAE_W_ENC, features, (int64_t)l->n, err);
    if (!status)
        model->env->kernels->pack_lanes(l->packed, columns, l->n, d);
    saei_dealloc(host, columns, columns_bytes);
    return status;
}

sae_status saei_lanes_create(saei_lanes *out, sae_model *model, const int32_t *features, size_t n, sae_error *err)
{
    saei_lanes l = {0};
    l.n = n;
    const sae_status status = lanes_fill(&l, model, features, err);
    if (status)
        saei_lanes_free(&l, &model->env->host);
    *out = l;
    return status;
}

struct sae_probe {
    sae_model *model;
    saei_lanes lanes;
};

sae_status sae_probe_create(sae_probe **out, sae_model *model, const int32_t *features, int64_t n_features, sae_error *err)
{
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_probe_create: out is NULL");
    *out = NULL;
    if (!model || !features)
        return saei_fail(err, SAE_E_ARG, "sae_probe_create: %s is NULL", model ? "features" : "model");
    if (n_features < 1 || n_features > model->parts.d_sae)
        return saei_fail(err, SAE_E_ARG, "n_features = %lld, a probe of this SAE takes 1 .. %d", (long long)n_features,
                         (int)model->parts.d_sae);
    sae_status status = saei_check_features(model, features, n_features, err);
    if (status)
        return status;
    const saei_host *host = &model->env->host;
    sae_probe *probe = saei_zalloc(host, sizeof *probe);
    if (!probe)
        return saei_fail(err, SAE_E_NOMEM, "no memory for a probe handle of %zu bytes", sizeof *probe);
    if ((status = saei_lanes_create(&probe->lanes, model, features, (size_t)n_features, err))) {
        saei_dealloc(host, probe, sizeof *probe);
        return status;
    }
    probe->model = model;
    saei_model_take(model);
    *out = probe;
    return saei_ok(err);
}

void sae_probe_free(sae_probe *probe)
{
    if (!probe)
        return;
    sae_model *model = probe->model;
    saei_lanes_free(&probe->lanes, &model->env->host);
    saei_dealloc(&model->env->host, probe, sizeof *probe);
    sae_model_free(model);
}

float saei_work_find(const saei_work *work, const sae_model *model, size_t r, int32_t feature)
{
    const int32_t *idx = work->idx + r * (size_t)model->parts.d_sae;
    int32_t lo = 0, hi = work->n[r];
    while (lo < hi) {
        const int32_t mid = lo + (hi - lo) / 2;
        if (idx[mid] < feature)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < work->n[r] && idx[lo] == feature ? work->val[r * (size_t)model->parts.d_sae + (size_t)lo] : 0.0f;
}

typedef struct target {
    unsigned char *out;
    int64_t stride;
    bool pre;
} target;

static void put(const target *to, int64_t row, size_t i, float value)
{
    memcpy(to->out + row * to->stride + (int64_t)(i * sizeof value), &value, sizeof value);
}

/* n loaded rows against all groups, as many at a time as the dots of a step have room for. */
static void probe_block(const saei_lanes *l, sae_ctx *ctx, const target *to, int64_t r0, size_t n)
{
    enum { GROUPS = SAEI_BLOCK / SAEI_LANES };
    const saei_work *w = &ctx->work;
    const size_t d = (size_t)ctx->model->parts.d_in;
    for (size_t g = 0; g < l->groups; g += GROUPS) {
        const size_t groups = l->groups - g < GROUPS ? l->groups - g : GROUPS, first = g * SAEI_LANES;
        const size_t last = first + groups * SAEI_LANES < l->n ? first + groups * SAEI_LANES : l->n;
        ctx->model->env->kernels->probe(w->c, SAEI_BLOCK, l->packed + first * d, groups, w->xc, d, n, d);
        for (size_t r = 0; r < n; r++)
            for (size_t i = first; i < last; i++) {
                const float dot = w->c[r * SAEI_BLOCK + i - first];
                const float code = saei_code(&l->act, i, dot, &ctx->nonfinite);
                put(to, r0 + (int64_t)r, i, to->pre ? saei_pre(&l->act, i, dot) : code);
            }
    }
}

static sae_status full_block(const saei_lanes *l, sae_ctx *ctx, const target *to, int64_t r0, size_t n)
{
    if (saei_work_encode(&ctx->work, ctx->model, n, &ctx->nonfinite))
        return saei_fail(&ctx->error, SAE_E_HOST, "the host's parallel-for failed in rows %lld .. %lld", (long long)r0,
                         (long long)r0 + (long long)n - 1);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < l->n; i++)
            put(to, r0 + (int64_t)r, i, saei_work_find(&ctx->work, ctx->model, r, l->features[i]));
    return SAE_OK;
}

static sae_status run(const sae_probe *probe, sae_ctx *ctx, target to, const sae_rows *x)
{
    saei_rows rows;
    const saei_lanes *l = &probe->lanes;
    const int64_t row_bytes = (int64_t)(l->n * sizeof(float));
    sae_status status = saei_rows_read(&rows, x, ctx->model->parts.d_in, false, &ctx->error);
    if (status)
        return status;
    if (!to.stride)
        to.stride = row_bytes;
    if (rows.n > 0 && !to.out)
        return saei_fail(&ctx->error, SAE_E_ARG, "sae_probe_run: out is NULL");
    if (rows.n > 1 && to.stride < row_bytes && to.stride > -row_bytes)
        return saei_fail(&ctx->error, SAE_E_ARG, "out_stride_bytes = %lld, but a row of %zu probed features takes %lld bytes",
                         (long long)to.stride, l->n, (long long)row_bytes);
    const bool full = ctx->model->parts.arch == SAE_TOPK && !to.pre;
    ctx->nonfinite = 0;
    for (int64_t r0 = 0; r0 < rows.n && !status; r0 += (int64_t)ctx->work.max_rows) {
        const size_t n = rows.n - r0 < (int64_t)ctx->work.max_rows ? (size_t)(rows.n - r0) : ctx->work.max_rows;
        saei_work_load(&ctx->work, ctx->model, &rows, r0, n);
        if (full)
            status = full_block(l, ctx, &to, r0, n);
        else
            probe_block(l, ctx, &to, r0, n);
    }
    return status;
}

sae_status sae_probe_run(const sae_probe *probe, sae_ctx *ctx, float *out, int64_t out_stride_bytes, const sae_rows *x, uint32_t flags)
{
    saei_fpmode mode;
    const sae_status status = saei_ctx_begin(ctx, &mode);
    if (status)
        return status;
    if (!probe || probe->model != ctx->model)
        return saei_ctx_end(ctx, mode,
                            saei_fail(&ctx->error, SAE_E_ARG, "the probe %s", probe ? "belongs to another model than the ctx" : "is NULL"));
    if (flags & ~(uint32_t)SAE_PROBE_PRE)
        return saei_ctx_end(ctx, mode, saei_fail(&ctx->error, SAE_E_ARG, "flags = %#x has bits other than SAE_PROBE_PRE", (unsigned)flags));
    const target to = {(unsigned char *)out, out_stride_bytes, flags & SAE_PROBE_PRE};
    return saei_ctx_end(ctx, mode, run(probe, ctx, to, x));
}
