/* What a host waits for at its start: opens an SAE and encodes one row, then prints the first code.
 * `first_code FOLDER`, where the folder also holds rows.f32. run.py times it from exec to that line; a second one gives the peak of
 * the resident set in KiB. */
#include <sae.h>

#include "worker.h"

#include <stdio.h>
#include <stdlib.h>

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "first_code: %s: %s\n", what, why);
    return 1;
}

int main(int argc, char **argv)
{
    sae_error err = {.struct_size = sizeof err};
    sae_env *env;
    sae_model *model;
    sae_ctx *ctx;
    sae_info info = {.struct_size = sizeof info};
    char path[4096];
    if (argc != 2)
        return fail("usage", "first_code FOLDER");
    if (sae_env_create(&env, NULL, &err) || sae_model_open(&model, env, argv[1], NULL, &err) || sae_ctx_create(&ctx, model, NULL, &err))
        return fail(argv[1], err.text);
    sae_model_info(model, &info);

    float *x = malloc((size_t)info.d_in * sizeof *x), *values = malloc((size_t)info.d_sae * sizeof *values);
    int32_t *indices = malloc((size_t)info.d_sae * sizeof *indices);
    int64_t indptr[2];
    snprintf(path, sizeof path, "%s/rows.f32", argv[1]);
    FILE *f = fopen(path, "rb");
    if (!x || !values || !indices || !f || fread(x, sizeof *x, (size_t)info.d_in, f) != (size_t)info.d_in)
        return fail(path, "cannot be read");

    const sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x, .n_rows = 1};
    sae_codes codes = {.struct_size = sizeof codes, .capacity = info.d_sae, .indptr = indptr, .indices = indices, .values = values};
    if (sae_encode(ctx, &codes, &rows))
        return fail("encode", sae_ctx_error(ctx));
    printf("%d %g\n", indptr[1] ? (int)indices[0] : -1, indptr[1] ? (double)values[0] : 0.0);
    fflush(stdout);
    printf("%ld\n", bench_status_kib("VmHWM"));

    fclose(f);
    free(indices);
    free(values);
    free(x);
    sae_ctx_free(ctx);
    sae_model_free(model);
    sae_env_free(env);
    return 0;
}
