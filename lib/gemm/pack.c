/* Weights -> a packed matrix: everything that can be wrong with them is refused here. */
#include <string.h>

#include "gemm/blis.h"
#include "gemm/gemm.h"
#include "gemm/packed.h"

static const char *const backend_names[] = {"native", "blis", "auto"};

const char *sae_gemm_backend_name(sae_gemm_backend backend)
{
    return backend >= SAE_GEMM_NATIVE && backend <= SAE_GEMM_AUTO ? backend_names[backend] : "unknown";
}

int32_t sae_gemm_blis_available(void)
{
    return saei_blis_available() ? SAE_YES : SAE_NO;
}

/* The weights as the kernels see matrices: a row of `d` elements, of which the first n_in count. */
static sae_status read_weights(saei_matrix *m, const sae_gemm_weights *w, sae_error *err)
{
    const int64_t each = (int64_t)sae_dtype_bytes(w->dtype), stride = w->stride_bytes ? w->stride_bytes : each * w->n_in;
    if (!each)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_weights.dtype = %d is not SAE_F32, SAE_F16 or SAE_BF16", (int)w->dtype);
    if (w->n_out < 1 || w->n_in < 1)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_weights has n_out = %d and n_in = %d: both are at least 1", (int)w->n_out, (int)w->n_in);
    if (!w->w)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_weights.w is NULL");
    if (stride % each || stride / each < w->n_in || stride / each > INT32_MAX)
        return saei_fail(err, SAE_E_ARG,
                         "stride_bytes = %lld: a multiple of %d is needed that holds a row of %d elements, and fewer than 2^31 of them",
                         (long long)stride, (int)each, (int)w->n_in);
    *m = (saei_matrix){w->w, w->dtype, false, w->n_out, (int32_t)(stride / each)};
    return SAE_OK;
}

static sae_status choose_backend(sae_gemm_backend *chosen, sae_gemm_backend asked, const sae_env *env, sae_error *err)
{
    *chosen = asked;
    if (asked < SAE_GEMM_NATIVE || asked > SAE_GEMM_AUTO)
        return saei_fail(err, SAE_E_ARG, "backend = %d is not SAE_GEMM_NATIVE, SAE_GEMM_BLIS or SAE_GEMM_AUTO", (int)asked);
    if (asked == SAE_GEMM_AUTO)
        *chosen = env->kernels->isa == SAE_ISA_SCALAR && saei_blis_available() ? SAE_GEMM_BLIS : SAE_GEMM_NATIVE;
    if (*chosen == SAE_GEMM_BLIS && !saei_blis_available())
        return saei_fail(err, SAE_E_UNSUPPORTED, "this build has no BLIS: use SAE_GEMM_NATIVE or SAE_GEMM_AUTO, or build with libblis.a");
    return SAE_OK;
}

static sae_status allocate(sae_gemm **out, sae_env *env, sae_gemm_backend backend, const sae_gemm_weights *w, sae_error *err)
{
    const size_t n_out = (size_t)w->n_out, n_in = (size_t)w->n_in;
    const size_t width = backend == SAE_GEMM_NATIVE ? (n_out + SAEI_PANEL - 1) / SAEI_PANEL * SAEI_PANEL : n_out;
    size_t bytes = 0, floats;
    saei_reserve(&bytes, 1, sizeof(sae_gemm));
    const size_t bias = saei_reserve(&bytes, w->bias ? n_out : 0, sizeof(float));
    saei_mul(&floats, width, n_in);
    const size_t weights = saei_reserve(&bytes, floats, sizeof(float));
    unsigned char *block = saei_alloc(&env->host, bytes);
    if (!block)
        return saei_fail(err, SAE_E_NOMEM, "no memory for %zu x %zu packed weights (%zu bytes)", n_out, n_in, bytes);
    *out = (sae_gemm *)(void *)block;
    **out =
        (sae_gemm){env, backend, n_out, n_in, (float *)(void *)(block + weights), w->bias ? (float *)(void *)(block + bias) : NULL, bytes};
    return SAE_OK;
}

typedef struct pack_job {
    const sae_gemm *g;
    const saei_matrix *m;
} pack_job;

/* One tile of outputs. */
static void pack_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    const pack_job *p = job;
    const sae_gemm *g = p->g;
    const saei_kernels *k = g->env->kernels;
    const size_t row_bytes = (size_t)p->m->d * sae_dtype_bytes(p->m->dtype), j0 = (size_t)i * SAEI_BLOCK, left = g->n_out - j0;
    const size_t nj = left < SAEI_BLOCK ? left : SAEI_BLOCK;
    if (g->backend == SAE_GEMM_NATIVE)
        k->pack_panels(g->weights + j0 * g->n_in, p->m, j0, nj, 0, g->n_in);
    else
        for (size_t j = j0; j < j0 + nj; j++)
            k->widen(g->weights + j * g->n_in, (const unsigned char *)p->m->data + j * row_bytes, p->m->dtype, g->n_in);
    saei_fp_leave(mode);
}

sae_status sae_gemm_pack(sae_gemm **out, sae_env *env, const sae_gemm_weights *weights, sae_gemm_backend backend, sae_error *err)
{
    sae_gemm_weights w;
    saei_matrix m;
    sae_gemm *g = NULL;
    sae_status status;
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_pack: out is NULL");
    *out = NULL;
    if (!env || !weights)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_pack: %s is NULL", env ? "weights" : "env");
    if ((status = saei_read_struct(&w, sizeof w, weights, "sae_gemm_weights", err)) || (status = read_weights(&m, &w, err)) ||
        (status = choose_backend(&backend, backend, env, err)) || (status = allocate(&g, env, backend, &w, err)))
        return status;
    if (w.bias)
        memcpy(g->bias, w.bias, g->n_out * sizeof *g->bias);
    pack_job job = {g, &m};
    if (saei_run(&env->host, &job, pack_task, (uint32_t)((g->n_out + SAEI_BLOCK - 1) / SAEI_BLOCK))) {
        saei_dealloc(&env->host, g, g->bytes);
        return saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while %d x %d weights were packed", (int)w.n_out, (int)w.n_in);
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
    const sae_gemm_form form = {sizeof form, gemm->backend, (int32_t)gemm->n_out, (int32_t)gemm->n_in, (int64_t)gemm->bytes};
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
