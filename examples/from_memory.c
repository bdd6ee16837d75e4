/* A model from weights that are already in memory, used where they lie: `from_memory`. */
#include <inttypes.h>
#include <stdio.h>

#include <sae.h>

enum { D_IN = 3, D_SAE = 4, N_ROWS = 2 };

/* Row i of each is feature i: what it reads and what it writes. */
static const float w_enc[D_SAE][D_IN] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {-1, 0, 0}};
static const float w_dec[D_SAE][D_IN] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {-1, 0, 0}};
static const float threshold[D_SAE] = {0.5f, 0.5f, 0.5f, 0.5f};

static int fail(const char *why)
{
    fprintf(stderr, "from_memory: %s\n", why);
    return 1;
}

static int run(sae_ctx *ctx)
{
    float x[N_ROWS][D_IN] = {{2.0f, 0.25f, 0.0f}, {-3.0f, 1.0f, 0.75f}}, y[N_ROWS][D_IN], error[N_ROWS];
    int64_t indptr[N_ROWS + 1];
    int32_t indices[N_ROWS * D_SAE];
    float values[N_ROWS * D_SAE];
    const sae_rows in = {.struct_size = sizeof in, .dtype = SAE_F32, .x = x, .n_rows = N_ROWS};
    const sae_rows out = {.struct_size = sizeof out, .dtype = SAE_F32, .x = y, .n_rows = N_ROWS};
    sae_codes codes = {.struct_size = sizeof codes, .capacity = N_ROWS * D_SAE, .indptr = indptr, .indices = indices, .values = values};
    double fvu;
    if (sae_encode(ctx, &codes, &in) || sae_decode(ctx, &out, &codes) || sae_measure(ctx, error, &fvu, &in, &codes))
        return fail(sae_ctx_error(ctx));
    for (int r = 0; r < N_ROWS; r++) {
        printf("x = (%g, %g, %g)  codes:", (double)x[r][0], (double)x[r][1], (double)x[r][2]);
        for (int64_t i = indptr[r]; i < indptr[r + 1]; i++)
            printf(" %" PRId32 ":%g", indices[i], (double)values[i]);
        printf("  decoded: (%g, %g, %g)  squared error %g\n", (double)y[r][0], (double)y[r][1], (double)y[r][2], (double)error[r]);
    }
    printf("fraction of variance unexplained: %.4f\n", fvu);
    return 0;
}

int main(void)
{
    sae_env *env = NULL;
    sae_model *model = NULL;
    sae_ctx *ctx = NULL;
    sae_error err = {.struct_size = sizeof err};
    const sae_weights weights = {
        .struct_size = sizeof weights,
        .arch = SAE_JUMPRELU,
        .dtype = SAE_F32,
        .flags = SAE_BORROW | SAE_W_ENC_BY_ROWS, /* the matrices are not copied and must outlive the model */
        .d_in = D_IN,
        .d_sae = D_SAE,
        .w_enc = w_enc,
        .w_dec = w_dec,
        .threshold = threshold, /* vectors are small and always copied; absent biases are 0 */
    };
    if (sae_env_create(&env, NULL, &err) || sae_model_create(&model, env, &weights, &err) || sae_ctx_create(&ctx, model, NULL, &err))
        return fail(err.text);
    const int status = run(ctx);
    sae_env_free(env); /* in any order: the ctx keeps the model alive, the model the env */
    sae_model_free(model);
    sae_ctx_free(ctx);
    return status;
}
