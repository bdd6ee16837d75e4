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

static size_t run_bytes(const saei_lane_run *run)
{
    size_t bytes = 0;
    return saei_reserve(&bytes, run->groups * SAEI_LANES, run->d * sizeof(float)) == SIZE_MAX ? SIZE_MAX : bytes;
}

void saei_lanes_free(saei_lanes *l, const saei_host *host)
{
    const float *const arrays[] = {l->act.bias, l->act.threshold, l->act.key_scale, l->act.gate, l->act.mag_scale, l->act.mag_bias};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        saei_dealloc(host, (void *)(uintptr_t)arrays[i], l->n * sizeof(float));
    for (size_t i = 0; l->runs && i < l->n_runs; i++)
        saei_dealloc(host, l->runs[i].packed, run_bytes(l->runs + i));
    saei_dealloc(host, l->runs, l->n_runs * sizeof *l->runs);
    saei_dealloc(host, l->column, l->n * sizeof *l->column);
    saei_dealloc(host, l->features, l->n * sizeof *l->features);
    *l = (saei_lanes){0};
}

static bool gather_act(saei_lanes *l, const saei_host *host, const saei_act *act)
{
    bool failed = false;
    l->act.keeps_negative = act->keeps_negative;
    l->act.bias = gathered(host, act->bias, l->features, l->n, &failed);
    l->act.threshold = gathered(host, act->threshold, l->features, l->n, &failed);
    l->act.key_scale = gathered(host, act->key_scale, l->features, l->n, &failed);
    l->act.gate = gathered(host, act->gate, l->features, l->n, &failed);
    l->act.mag_scale = gathered(host, act->mag_scale, l->features, l->n, &failed);
    l->act.mag_bias = gathered(host, act->mag_bias, l->features, l->n, &failed);
    return !failed;
}

/* Memory for the lists of n features in n_runs runs. */
static sae_status lists_make(saei_lanes *l, const saei_host *host, size_t n, size_t n_runs, sae_error *err)
{
    l->n = n;
    l->n_runs = n_runs;
    l->runs = saei_zalloc(host, n_runs * sizeof *l->runs);
    l->column = saei_alloc(host, n * sizeof *l->column);
    l->features = saei_zalloc(host, n * sizeof *l->features);
    if (!l->runs || !l->column || !l->features)
        return saei_fail(err, SAE_E_NOMEM, "no memory to list %zu features (%zu bytes)", n,
                         n_runs * sizeof *l->runs + 2 * n * sizeof *l->column);
    return SAE_OK;
}

/* Memory for a run of n features of d elements each, after the groups that are there. */
static sae_status run_make(saei_lanes *l, saei_lane_run *run, const saei_host *host, size_t n, size_t d, sae_error *err)
{
    run->d = d;
    run->n = n;
    run->first_group = l->groups;
    run->groups = (n + SAEI_LANES - 1) / SAEI_LANES;
    run->packed = saei_alloc(host, run_bytes(run));
    if (!run->packed)
        return saei_fail(err, SAE_E_NOMEM, "no memory to pack %zu features of %zu elements (%zu bytes)", n, d, run_bytes(run));
    l->groups += run->groups;
    return SAE_OK;
}

/* The features of one block; `wanted` has room for all. */
static sae_status fill_run(saei_lanes *l, saei_lane_run *run, const sae_model *model, uint32_t block, int32_t *wanted, sae_error *err)
{
    const saei_host *host = &model->env->host;
    const saei_block *b = model->parts.enc + block;
    const size_t d = (size_t)b->w.m.d;
    size_t n = 0, bytes = 0;
    for (size_t i = 0; i < l->n; i++)
        if (l->features[i] >= b->first && l->features[i] - b->first < b->w.m.n) {
            l->column[i] = (int32_t)(l->groups * SAEI_LANES + n);
            wanted[n++] = l->features[i];
        }
    sae_status status = run_make(l, run, host, n, d, err);
    if (status)
        return status;
    run->in_first = (size_t)b->in_first;
    saei_reserve(&bytes, n, d * sizeof(float));
    float *columns = saei_alloc(host, bytes);
    if (!columns)
        return saei_fail(err, SAE_E_NOMEM, "no memory to gather %zu features of %zu elements (%zu bytes)", n, d, bytes);
    status = saei_model_gather_enc(columns, model, block, wanted, (int64_t)n, err);
    if (!status)
        model->env->kernels->pack_lanes(run->packed, columns, n, d);
    saei_dealloc(host, columns, bytes);
    return status;
}

/* Blocks that hold one of the features, `has` [n_enc] says which. */
static size_t count_blocks(bool *has, const sae_model *model, const int32_t *features, size_t n)
{
    size_t blocks = 0;
    for (size_t i = 0; i < n; i++) {
        const uint32_t b = saei_model_block_of(model, features[i]);
        blocks += !has[b];
        has[b] = true;
    }
    return blocks;
}

static sae_status fill_lanes(saei_lanes *l, const sae_model *model, const int32_t *features, size_t n, bool *has, int32_t *wanted,
                             sae_error *err)
{
    const saei_host *host = &model->env->host;
    size_t run = 0;
    sae_status status = lists_make(l, host, n, count_blocks(has, model, features, n), err);
    if (status)
        return status;
    memcpy(l->features, features, n * sizeof *features);
    if (!gather_act(l, host, &model->act))
        return saei_fail(err, SAE_E_NOMEM, "no memory for the biases of %zu features (%zu bytes each)", n, n * sizeof(float));
    for (uint32_t b = 0; b < model->parts.n_enc && !status; b++)
        if (has[b])
            status = fill_run(l, l->runs + run++, model, b, wanted, err);
    return status;
}

sae_status saei_lanes_create(saei_lanes *out, sae_model *model, const int32_t *features, size_t n, sae_error *err)
{
    const saei_host *host = &model->env->host;
    const size_t blocks = model->parts.n_enc;
    bool *has = saei_zalloc(host, blocks * sizeof *has);
    int32_t *wanted = saei_alloc(host, n * sizeof *wanted);
    saei_lanes l = {0};
    const sae_status status = has && wanted
                                  ? fill_lanes(&l, model, features, n, has, wanted, err)
                                  : saei_fail(err, SAE_E_NOMEM, "no memory to sort %zu features (%zu bytes)", n, n * sizeof *wanted);
    saei_dealloc(host, has, blocks * sizeof *has);
    saei_dealloc(host, wanted, n * sizeof *wanted);
    if (status)
        saei_lanes_free(&l, host);
    *out = l;
    return status;
}

sae_status saei_lanes_of_vectors(saei_lanes *out, const sae_env *env, const float *vectors, size_t n, size_t d, sae_error *err)
{
    saei_lanes l = {0};
    sae_status status = lists_make(&l, &env->host, n, 1, err);
    if (!status)
        status = run_make(&l, l.runs, &env->host, n, d, err);
    if (status) {
        saei_lanes_free(&l, &env->host);
    } else {
        env->kernels->pack_lanes(l.runs->packed, vectors, n, d);
        for (size_t i = 0; i < n; i++)
            l.column[i] = (int32_t)i;
    }
    *out = l;
    return status;
}

void saei_lanes_dots(const saei_lanes *l, const saei_kernels *kernels, float *c, size_t ldc, const float *x, size_t ldx, size_t n_rows)
{
    for (size_t i = 0; i < l->n_runs; i++) {
        const saei_lane_run *run = l->runs + i;
        kernels->probe(c + run->first_group * SAEI_LANES, ldc, run->packed, run->n, x + run->in_first, ldx, n_rows, run->d);
    }
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
    if (model->parts.arch == SAE_TEMPORAL)
        return saei_fail(err, SAE_E_UNSUPPORTED, "a temporal SAE's codes depend on the rows before: sae_encode gives them, probes do not");
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

int32_t sae_probe_d(const sae_probe *probe)
{
    return probe ? probe->model->parts.d_in : 0;
}

int64_t sae_probe_features(const sae_probe *probe)
{
    return probe ? (int64_t)probe->lanes.n : 0;
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
    const size_t n = (size_t)work->n[r], at = saei_below(idx, n, feature);
    return at < n && idx[at] == feature ? work->val[r * (size_t)model->parts.d_sae + at] : 0.0f;
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

/* What becomes of the dots of n rows with columns first .. last - 1. */
static void put_columns(const saei_lanes *l, sae_ctx *ctx, const target *to, int64_t r0, size_t n, size_t first, size_t last)
{
    for (size_t i = 0; i < l->n; i++) {
        const size_t column = (size_t)l->column[i];
        if (column < first || column >= last)
            continue;
        for (size_t r = 0; r < n; r++) {
            const float dot = ctx->work.c[r * SAEI_BLOCK + column - first];
            const float code = saei_code(&l->act, i, dot, &ctx->nonfinite);
            put(to, r0 + (int64_t)r, i, to->pre ? saei_pre(&l->act, i, dot) : code);
        }
    }
}

/* n loaded rows against all groups, as many at a time as the dots of a step have room for. */
static void probe_block(const saei_lanes *l, sae_ctx *ctx, const target *to, int64_t r0, size_t n)
{
    enum { GROUPS = SAEI_BLOCK / SAEI_LANES };
    const saei_work *w = &ctx->work;
    for (size_t i = 0; i < l->n_runs; i++) {
        const saei_lane_run *run = l->runs + i;
        for (size_t g = 0; g < run->groups; g += GROUPS) {
            const size_t n_here = saei_min(run->n - g * SAEI_LANES, SAEI_BLOCK);
            const size_t first = (run->first_group + g) * SAEI_LANES;
            ctx->model->env->kernels->probe(w->c, SAEI_BLOCK, run->packed + g * SAEI_LANES * run->d, n_here, w->xc + run->in_first,
                                            (size_t)ctx->model->parts.d_in, n, run->d);
            put_columns(l, ctx, to, r0, n, first, first + n_here);
        }
    }
}

static sae_status full_block(const saei_lanes *l, sae_ctx *ctx, const target *to, const saei_rows *rows, int64_t r0, size_t n)
{
    const sae_status status = saei_ctx_encode(ctx, rows, r0, n);
    if (status)
        return status;
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
    const bool full = saei_selects(ctx->model) && !to.pre;
    ctx->nonfinite = 0;
    for (int64_t r0 = 0; r0 < rows.n && !status; r0 += (int64_t)ctx->work.max_rows) {
        const size_t n = rows.n - r0 < (int64_t)ctx->work.max_rows ? (size_t)(rows.n - r0) : ctx->work.max_rows;
        if (full) {
            status = full_block(l, ctx, &to, &rows, r0, n);
        } else {
            saei_work_load(&ctx->work, ctx->model, &rows, r0, n);
            probe_block(l, ctx, &to, r0, n);
        }
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
