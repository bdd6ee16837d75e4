/* Encodes rows with a published SAE and prints the features that are active: `encode SAELENS_FOLDER`. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <sae.h>

enum { N_ROWS = 2 };

static int fail(const char *why)
{
    fprintf(stderr, "encode: %s\n", why);
    return 1;
}

/* Stands for activations of a language model: n numbers in -2 .. 2, the same on every machine. */
static float *activations(size_t n)
{
    float *x = malloc(n * sizeof *x);
    uint32_t state = 1;
    for (size_t i = 0; x && i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / 4194304.0f - 2.0f;
    }
    return x;
}

static int encode(const char *path)
{
    sae_env *env = NULL;
    sae_model *model = NULL;
    sae_ctx *ctx = NULL;
    sae_error err = {.struct_size = sizeof err};
    if (sae_env_create(&env, NULL, &err) || sae_model_open(&model, env, path, NULL, &err) || sae_ctx_create(&ctx, model, NULL, &err))
        return fail(err.text);

    sae_info info = {.struct_size = sizeof info};
    sae_model_info(model, &info);
    float *x = activations((size_t)N_ROWS * (size_t)info.d_in); /* [N_ROWS][d_in] */
    int64_t indptr[N_ROWS + 1];                                 /* row r: codes indptr[r] .. indptr[r + 1] - 1 */
    const size_t most = (size_t)N_ROWS * (size_t)info.d_sae;    /* docs/encode.md shows how to need less room */
    int32_t *indices = malloc(most * sizeof *indices);
    float *values = malloc(most * sizeof *values);

    sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x, .n_rows = N_ROWS};
    sae_codes codes = {.struct_size = sizeof codes, .capacity = (int64_t)most, .indptr = indptr, .indices = indices, .values = values};
    if (sae_encode(ctx, &codes, &rows))
        return fail(sae_ctx_error(ctx));
    for (int64_t r = 0; r < N_ROWS; r++)
        for (int64_t i = indptr[r]; i < indptr[r + 1]; i++)
            printf("row %" PRId64 "  feature %3" PRId32 "  %g\n", r, indices[i], (double)values[i]);

    free(x);
    free(indices);
    free(values);
    sae_ctx_free(ctx);
    sae_model_free(model);
    sae_env_free(env);
    return 0;
}

int main(int argc, char **argv)
{
    return argc == 2 ? encode(argv[1]) : fail("usage: encode SAELENS_FOLDER");
}
