/* Weights -> a packed matrix: everything that can be wrong with them is refused here. */
#include <stdatomic.h>
#include <string.h>

#include "gemm/blis.h"
#include "gemm/gemm.h"
#include "gemm/packed.h"

static const char *const backend_names[] = {"native", "blis", "auto"};
static const char *const storage_names[] = {"f32", "stored", "int8 rows", "int8 blocks"};

const char *sae_gemm_backend_name(sae_gemm_backend backend)
{
    return backend >= SAE_GEMM_NATIVE && backend <= SAE_GEMM_AUTO ? backend_names[backend] : "unknown";
}

int32_t sae_gemm_blis_available(void)
{
    return saei_blis_available() ? SAE_YES : SAE_NO;
}

const char *sae_gemm_storage_name(sae_gemm_storage storage)
{
    return storage >= SAE_GEMM_AS_F32 && storage <= SAE_GEMM_INT8_BLOCKS ? storage_names[storage] : "unknown";
}

/* ---- what is given ---- */

static bool is_int8(sae_gemm_storage storage)
{
    return storage == SAE_GEMM_INT8_ROWS || storage == SAE_GEMM_INT8_BLOCKS;
}

static sae_status check_kind(const sae_gemm_weights *w, sae_error *err)
{
    if (!sae_dtype_bytes(w->dtype))
        return saei_fail(err, SAE_E_ARG, "sae_gemm_weights.dtype = %d is not SAE_F32, SAE_F16 or SAE_BF16", (int)w->dtype);
    if (w->storage < SAE_GEMM_AS_F32 || w->storage > SAE_GEMM_INT8_BLOCKS)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_weights.storage = %d is not one of 0 .. %d", (int)w->storage, SAE_GEMM_INT8_BLOCKS);
    if (w->n_out < 1 || w->n_in < 1)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_weights has n_out = %d and n_in = %d: both are at least 1", (int)w->n_out, (int)w->n_in);
    if (!w->w)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_weights.w is NULL");
    if (w->scales && !is_int8(w->storage))
        return saei_fail(err, SAE_E_ARG, "sae_gemm_weights has scales, and storage = %d (%s): scales are those of int8 storages",
                         (int)w->storage, sae_gemm_storage_name(w->storage));
    if (w->gate ? !w->gate_scales != !w->scales : w->gate_scales || w->gate_bias)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_weights.gate is %s, gate_scales %s, scales %s and gate_bias %s: a gate is of w's kind",
                         w->gate ? "set" : "NULL", w->gate_scales ? "set" : "NULL", w->scales ? "set" : "NULL",
                         w->gate_bias ? "set" : "NULL");
    return SAE_OK;
}

/* Rows of elements, or of quantised weights without gaps between blocks. */
static sae_status read_rows(saei_given *out, const sae_gemm_weights *w, sae_error *err)
{
    const int64_t each = w->scales ? 1 : (int64_t)sae_dtype_bytes(w->dtype), stride = w->stride_bytes ? w->stride_bytes : each * w->n_in;
    if (w->block_bytes)
        return saei_fail(err, SAE_E_ARG, "block_bytes = %d: it is for SAE_GEMM_INT8_BLOCKS with scales, 0 for others", (int)w->block_bytes);
    if (stride % each || stride / each < w->n_in || stride / each > INT32_MAX)
        return saei_fail(err, SAE_E_ARG,
                         "stride_bytes = %lld: a multiple of %d is needed that holds a row of %d elements, and fewer than 2^31 of them",
                         (long long)stride, (int)each, (int)w->n_in);
    const size_t scale = sae_dtype_bytes(w->dtype), n_blocks = (out->n_in + out->block - 1) / out->block;
    out->row_step = (size_t)stride;
    out->block_step = out->block;
    out->scale_step = scale;
    out->scale_row_step = n_blocks * scale;
    return SAE_OK;
}

/* Quantised weights in blocks with something between them, as Q8_0 has its scales. */
static sae_status read_blocks(saei_given *out, const sae_gemm_weights *w, sae_error *err)
{
    const int64_t n_blocks = (w->n_in + SAE_GEMM_BLOCK - 1) / SAE_GEMM_BLOCK, row = n_blocks * w->block_bytes;
    const int64_t stride = w->stride_bytes ? w->stride_bytes : row;
    if (w->block_bytes < SAE_GEMM_BLOCK)
        return saei_fail(err, SAE_E_ARG, "block_bytes = %d: at least %d are needed, 0 = contiguous", (int)w->block_bytes, SAE_GEMM_BLOCK);
    if (stride < row || stride > INT64_C(1) << 40)
        return saei_fail(err, SAE_E_ARG, "stride_bytes = %lld: a row is %lld blocks of %d bytes", (long long)stride, (long long)n_blocks,
                         (int)w->block_bytes);
    out->row_step = out->scale_row_step = (size_t)stride;
    out->block_step = out->scale_step = (size_t)w->block_bytes;
    return SAE_OK;
}

static sae_status read_weights(saei_given *out, const sae_gemm_weights *w, sae_error *err)
{
    const sae_status status = check_kind(w, err);
    if (status)
        return status;
    *out = (saei_given){.w = w->w, .scales = w->scales, .dtype = w->dtype, .n_out = (size_t)w->n_out, .n_in = (size_t)w->n_in};
    out->block = w->storage == SAE_GEMM_INT8_BLOCKS ? SAE_GEMM_BLOCK : out->n_in;
    const bool spaced = w->block_bytes && w->scales && w->storage == SAE_GEMM_INT8_BLOCKS;
    return spaced ? read_blocks(out, w, err) : read_rows(out, w, err);
}

static sae_status choose_backend(sae_gemm_backend *chosen, sae_gemm_backend asked, const sae_env *env, saei_keep as, sae_error *err)
{
    *chosen = asked;
    if (asked < SAE_GEMM_NATIVE || asked > SAE_GEMM_AUTO)
        return saei_fail(err, SAE_E_ARG, "backend = %d is not SAE_GEMM_NATIVE, SAE_GEMM_BLIS or SAE_GEMM_AUTO", (int)asked);
    if (asked == SAE_GEMM_AUTO)
        *chosen = env->kernels->isa == SAE_ISA_SCALAR && as == SAEI_KEEP_F32 && saei_blis_available() ? SAE_GEMM_BLIS : SAE_GEMM_NATIVE;
    if (*chosen == SAE_GEMM_BLIS && !saei_blis_available())
        return saei_fail(err, SAE_E_UNSUPPORTED, "this build has no BLIS: use SAE_GEMM_NATIVE or SAE_GEMM_AUTO, or build with libblis.a");
    if (*chosen == SAE_GEMM_BLIS && as != SAEI_KEEP_F32)
        return saei_fail(err, SAE_E_UNSUPPORTED, "SAE_GEMM_BLIS multiplies f32 weights alone: use SAE_GEMM_AS_F32 or SAE_GEMM_NATIVE");
    return SAE_OK;
}

/* ---- what is made of it ---- */

static saei_keep keep_as(const sae_gemm_weights *w)
{
    if (is_int8(w->storage))
        return SAEI_KEEP_INT8;
    if (w->storage == SAE_GEMM_AS_F32 || w->dtype == SAE_F32)
        return SAEI_KEEP_F32;
    return w->dtype == SAE_BF16 ? SAEI_KEEP_BF16 : SAEI_KEEP_F16;
}

/* Where the parts of one matrix lie in the allocation. */
typedef struct places {
    size_t bias, weights;
} places;

static places reserve(size_t *bytes, const sae_gemm *g, const saei_given *from, const float *bias)
{
    const size_t n_panels = (g->n_out + SAEI_PANEL - 1) / SAEI_PANEL;
    size_t floats;
    places p = {.bias = saei_reserve(bytes, bias ? g->n_out : 0, sizeof(float))};
    saei_mul(&floats, g->backend == SAE_GEMM_NATIVE ? n_panels * SAEI_PANEL : g->n_out, g->n_in);
    p.weights = g->as == SAEI_KEEP_F32 ? saei_reserve(bytes, floats, sizeof(float))
                                       : saei_reserve(bytes, n_panels, saei_kept_bytes(g->as, g->n_in, from->block));
    return p;
}

static saei_packed place(const sae_gemm *g, unsigned char *block, places at, const saei_given *from, const float *bias)
{
    saei_packed p = {.bias = bias ? (float *)(void *)(block + at.bias) : NULL};
    if (bias)
        memcpy(p.bias, bias, g->n_out * sizeof *bias);
    if (g->as == SAEI_KEEP_F32)
        p.floats = (float *)(void *)(block + at.weights);
    else
        p.kept = (saei_kept){block + at.weights, saei_kept_bytes(g->as, g->n_in, from->block), g->n_in, from->block, g->as};
    return p;
}

static sae_status allocate(sae_gemm **out, sae_gemm like, const sae_gemm_weights *w, const saei_given *from, sae_error *err)
{
    saei_reserve(&like.bytes, 1, sizeof like);
    const places main = reserve(&like.bytes, &like, from, w->bias);
    const places gate = like.gated ? reserve(&like.bytes, &like, from, w->gate_bias) : main;
    unsigned char *block = saei_alloc(&like.env->host, like.bytes);
    if (!block)
        return saei_fail(err, SAE_E_NOMEM, "no memory for %zu x %zu packed weights (%zu bytes)", like.n_out, like.n_in, like.bytes);
    *out = (sae_gemm *)(void *)block;
    like.main = place(&like, block, main, from, w->bias);
    if (like.gated)
        like.gate = place(&like, block, gate, from, w->gate_bias);
    **out = like;
    return SAE_OK;
}

typedef struct pack_job {
    const sae_gemm *g;
    const saei_packed *to;
    saei_given from;
    _Atomic(size_t) bad; /* first row that holds what its form does not */
} pack_job;

static void pack_floats(const pack_job *p, size_t j0, size_t nj)
{
    const sae_gemm *g = p->g;
    const saei_kernels *k = g->env->kernels;
    const saei_given *from = &p->from;
    const saei_matrix m = {from->w, from->dtype, false, (int32_t)g->n_out, (int32_t)(from->row_step / sae_dtype_bytes(from->dtype))};
    if (g->backend == SAE_GEMM_NATIVE)
        k->pack_panels(p->to->floats + j0 * g->n_in, &m, j0, nj, 0, g->n_in);
    else
        for (size_t j = j0; j < j0 + nj; j++)
            k->widen(p->to->floats + j * g->n_in, from->w + j * from->row_step, from->dtype, g->n_in);
}

static void pack_kept(pack_job *p, size_t j0, size_t nj)
{
    size_t bad = p->g->n_out, seen = atomic_load(&p->bad);
    for (size_t j = j0; j < j0 + nj && bad == p->g->n_out; j += SAEI_PANEL)
        bad = saei_keep_panel(p->g->env->kernels, &p->to->kept, &p->from, j);
    while (bad < seen && !atomic_compare_exchange_weak(&p->bad, &seen, bad))
        continue;
}

/* One tile of outputs. */
static void pack_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    pack_job *p = job;
    const size_t j0 = (size_t)i * SAEI_BLOCK, left = p->g->n_out - j0, nj = left < SAEI_BLOCK ? left : SAEI_BLOCK;
    if (p->g->as == SAEI_KEEP_F32)
        pack_floats(p, j0, nj);
    else
        pack_kept(p, j0, nj);
    saei_fp_leave(mode);
}

static sae_status pack_matrix(const sae_gemm *g, const saei_packed *to, const saei_given *from, const char *name, sae_error *err)
{
    pack_job job = {g, to, *from, g->n_out};
    if (saei_run(&g->env->host, &job, pack_task, (uint32_t)((g->n_out + SAEI_BLOCK - 1) / SAEI_BLOCK)))
        return saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while %zu x %zu weights were packed", g->n_out, g->n_in);
    const size_t bad = atomic_load(&job.bad);
    if (bad < g->n_out)
        return saei_fail(err, SAE_E_ARG, "row %zu of sae_gemm_weights.%s holds NaN or Inf, which no int8 stands for: keep it as stored",
                         bad, name);
    return SAE_OK;
}

static sae_status pack_all(sae_gemm *g, const sae_gemm_weights *w, saei_given *from, sae_error *err)
{
    const sae_status status = pack_matrix(g, &g->main, from, "w", err);
    if (status || !g->gated)
        return status;
    from->w = w->gate;
    from->scales = w->gate_scales;
    return pack_matrix(g, &g->gate, from, "gate", err);
}

sae_status sae_gemm_pack(sae_gemm **out, sae_env *env, const sae_gemm_weights *weights, sae_gemm_backend backend, sae_error *err)
{
    sae_gemm_weights w;
    saei_given from;
    sae_status status;
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_pack: out is NULL");
    *out = NULL;
    if (!env || !weights)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_pack: %s is NULL", env ? "weights" : "env");
    if ((status = saei_read_struct(&w, sizeof w, weights, "sae_gemm_weights", err)) || (status = read_weights(&from, &w, err)) ||
        (status = choose_backend(&backend, backend, env, keep_as(&w), err)))
        return status;
    const saei_keep as = keep_as(&w);
    const sae_gemm like = {.env = env,
                           .backend = backend,
                           .storage = as == SAEI_KEEP_F32 ? SAE_GEMM_AS_F32 : w.storage,
                           .as = as,
                           .n_out = from.n_out,
                           .n_in = from.n_in,
                           .gated = w.gate != NULL};
    sae_gemm *g = NULL;
    if ((status = allocate(&g, like, &w, &from, err)))
        return status;
    if ((status = pack_all(g, &w, &from, err))) {
        saei_dealloc(&env->host, g, g->bytes);
        return status;
    }
    if (backend == SAE_GEMM_BLIS)
        saei_blis_start();
    saei_env_take(env);
    *out = g;
    return saei_ok(err);
}

sae_status sae_gemm_info(const sae_gemm *gemm, sae_gemm_form *out)
{
    if (!gemm || !out)
        return SAE_E_ARG;
    const sae_gemm_form form = {sizeof form,          gemm->backend, (int32_t)gemm->n_out,          (int32_t)gemm->n_in,
                                (int64_t)gemm->bytes, gemm->storage, gemm->gated ? SAE_YES : SAE_NO};
    return saei_write_struct(out, &form, sizeof form, "sae_gemm_form", NULL);
}

void sae_gemm_free(sae_gemm *gemm)
{
    if (!gemm)
        return;
    sae_env *env = gemm->env;
    saei_dealloc(&env->host, gemm, gemm->bytes);
    sae_env_free(env);
}
