/* What a host waits for at its start: opens an SAE and encodes one row, then prints the first code.
 * `first_code PATH ROWS`, ROWS being a file of f32 rows. run.py times it from exec to that line; a second one gives the peak of the resident
 * set in KiB. `first_code PATH ROWS FEATURE` probes that one feature instead, and the second line says how much the resident set grew at
 * its peak. */
#include <sae.h>

#include "worker.h"

#include <stdio.h>
#include <stdlib.h>

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "first_code: %s: %s\n", what, why);
    return 1;
}

static bool read_row(float *x, int32_t n, const char *path)
{
    FILE *f = fopen(path, "rb");
    const bool good = f && fread(x, sizeof *x, (size_t)n, f) == (size_t)n;
    if (f)
        fclose(f);
    return good;
}

static int encode(sae_model *model, const sae_info *info, float *x)
{
    sae_error err = {.struct_size = sizeof err};
    sae_ctx *ctx;
    if (sae_ctx_create(&ctx, model, NULL, &err))
        return fail("sae_ctx_create", err.text);
    int32_t *indices = malloc((size_t)info->d_sae * sizeof *indices);
    float *values = malloc((size_t)info->d_sae * sizeof *values);
    int64_t indptr[2];
    const sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x, .n_rows = 1};
    sae_codes codes = {.struct_size = sizeof codes, .capacity = info->d_sae, .indptr = indptr, .indices = indices, .values = values};
    if (!indices || !values || sae_encode(ctx, &codes, &rows))
        return fail("sae_encode", sae_ctx_error(ctx));
    printf("%d %g\n", indptr[1] ? (int)indices[0] : -1, indptr[1] ? (double)values[0] : 0.0);
    fflush(stdout);
    free(indices);
    free(values);
    sae_ctx_free(ctx);
    return 0;
}

static int probe(sae_model *model, int32_t feature, float *x)
{
    sae_error err = {.struct_size = sizeof err};
    sae_ctx *ctx;
    sae_probe *one;
    float code;
    const sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x, .n_rows = 1};
    if (sae_ctx_create(&ctx, model, NULL, &err) || sae_probe_create(&one, model, &feature, 1, &err))
        return fail("sae_probe_create", err.text);
    if (sae_probe_run(one, ctx, &code, 0, &rows, 0))
        return fail("sae_probe_run", sae_ctx_error(ctx));
    printf("%d %g\n", (int)feature, (double)code);
    fflush(stdout);
    sae_probe_free(one);
    sae_ctx_free(ctx);
    return 0;
}

int main(int argc, char **argv)
{
    const long before = bench_status_kib("VmRSS");
    sae_error err = {.struct_size = sizeof err};
    sae_env *env;
    sae_model *model;
    sae_info info = {.struct_size = sizeof info};
    if (argc != 3 && argc != 4)
        return fail("usage", "first_code PATH ROWS [FEATURE]");
    if (sae_env_create(&env, NULL, &err) || sae_model_open(&model, env, argv[1], NULL, &err))
        return fail(argv[1], err.text);
    sae_model_info(model, &info);
    float *x = malloc((size_t)info.d_in * sizeof *x);
    if (!x || !read_row(x, info.d_in, argv[2]))
        return fail(argv[2], "cannot be read");
    const int rc = argc == 4 ? probe(model, (int32_t)strtol(argv[3], NULL, 10), x) : encode(model, &info, x);
    if (rc)
        return rc;
    printf("%ld\n", bench_status_kib("VmHWM") - (argc == 4 ? before : 0));
    free(x);
    sae_model_free(model);
    sae_env_free(env);
    return 0;
}
