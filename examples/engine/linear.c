#include "linear.h"

bool engine_linear_create(engine_linear **out, const engine_host *host, const float *w, int32_t n_out, int32_t n_in, engine_error *err)
{
    sae_error e = {.struct_size = sizeof e};
    sae_gemm *g;
    const sae_gemm_weights weights = {.struct_size = sizeof weights, .dtype = SAE_F32, .w = w, .n_out = n_out, .n_in = n_in};
    const sae_status status = sae_gemm_pack(&g, host->env, &weights, SAE_GEMM_NATIVE, &e);
    *out = (engine_linear *)g;
    return !status || engine_fail(err, "%s", e.text);
}

void engine_linear_free(engine_linear *l)
{
    sae_gemm_free((sae_gemm *)l);
}

bool engine_linear_scratch(const engine_linear *l, int32_t n_rows, size_t *bytes, engine_error *err)
{
    const sae_status status = sae_gemm_scratch_bytes((const sae_gemm *)l, n_rows, bytes);
    return !status || engine_fail(err, "scratch for %d rows: %s", n_rows, sae_status_text(status));
}

bool engine_linear_run(const engine_linear *l, float *y, const float *x, int32_t n_rows, void *scratch, size_t scratch_bytes,
                       engine_error *err)
{
    sae_error e = {.struct_size = sizeof e};
    const sae_rows in = {.struct_size = sizeof in, .dtype = SAE_F32, .x = (void *)x, .n_rows = n_rows};
    const sae_rows out = {.struct_size = sizeof out, .dtype = SAE_F32, .x = y, .n_rows = n_rows};
    return !sae_gemm_run((const sae_gemm *)l, &in, &out, scratch, scratch_bytes, &e) || engine_fail(err, "%s", e.text);
}
