#include "linear.h"

static sae_gemm_storage storage_of(engine_weights weights)
{
    return weights == ENGINE_INT8 ? SAE_GEMM_INT8_BLOCKS : weights == ENGINE_F32 ? SAE_GEMM_AS_F32 : SAE_GEMM_AS_STORED;
}

bool engine_linear_create(engine_linear **out, const engine_host *host, engine_weights weights, const engine_matrix *w,
                          const engine_matrix *gate, int32_t n_out, int32_t n_in, engine_error *err)
{
    sae_error e = {.struct_size = sizeof e};
    sae_gemm *g;
    if (gate && gate->dtype != w->dtype)
        return engine_fail(err, "a gate is of type %s and what it multiplies of %s: they are packed together and must be alike",
                           sae_dtype_name(gate->dtype), sae_dtype_name(w->dtype));
    const sae_gemm_weights given = {.struct_size = sizeof given,
                                    .dtype = w->dtype,
                                    .w = w->data,
                                    .gate = gate ? gate->data : NULL,
                                    .n_out = n_out,
                                    .n_in = n_in,
                                    .storage = storage_of(weights)};
    const sae_status status = sae_gemm_pack(&g, host->env, &given, SAE_GEMM_NATIVE, &e);
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

bool engine_linear_run(const engine_linear *l, float *y, const float *x, int32_t n_rows, bool adds, void *scratch, size_t scratch_bytes,
                       engine_error *err)
{
    sae_error e = {.struct_size = sizeof e};
    const sae_rows in = {.struct_size = sizeof in, .dtype = SAE_F32, .x = (void *)x, .n_rows = n_rows};
    const sae_rows out = {.struct_size = sizeof out, .dtype = SAE_F32, .x = y, .n_rows = n_rows};
    const sae_gemm_epilogue after = {.struct_size = sizeof after, .residual = adds ? &out : NULL};
    return !sae_gemm_run_with((const sae_gemm *)l, &in, &out, &after, scratch, scratch_bytes, &e) || engine_fail(err, "%s", e.text);
}
