#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void input_take(input *in, void *to, size_t bytes)
{
    const size_t n = bytes < in->left ? bytes : in->left;
    memset(to, 0, bytes);
    if (n)
        memcpy(to, in->at, n);
    in->at += n;
    in->left -= n;
}

uint8_t input_byte(input *in)
{
    uint8_t byte;
    input_take(in, &byte, 1);
    return byte;
}

int32_t input_int(input *in, int32_t most)
{
    const uint8_t kind = input_byte(in);
    int32_t v;
    if (kind < 192)
        return kind % 48 <= most ? kind % 48 : most;
    input_take(in, &v, sizeof v);
    return v <= most ? v : most;
}

void fuzz_need(bool held, const char *what)
{
    if (held)
        return;
    fprintf(stderr, "fuzz: not so: %s\n", what);
    abort();
}

sae_env *fuzz_env(void)
{
    static sae_env *env;
    if (!env)
        fuzz_need(sae_env_create(&env, NULL, NULL) == SAE_OK, "an env can be made");
    return env;
}

sae_model *fuzz_model(uint32_t which)
{
    enum { ARCHS = 4, NORMS = 4 };
    static sae_model *models[ARCHS * NORMS];
    static float matrix[FUZZ_D * FUZZ_N], vector[FUZZ_N];
    const uint32_t i = which % (ARCHS * NORMS);
    if (models[i])
        return models[i];
    for (int32_t j = 0; j < FUZZ_D * FUZZ_N; j++)
        matrix[j] = (float)(j * 37 % 101 - 50) / 64.0f;
    for (int32_t j = 0; j < FUZZ_N; j++)
        vector[j] = (float)(j * 5 % 11) / 16.0f;
    const sae_arch arch = (sae_arch)(i % ARCHS) + SAE_STANDARD;
    const sae_weights weights = {.struct_size = sizeof weights,
                                 .arch = arch,
                                 .dtype = SAE_F32,
                                 .flags = SAE_BORROW | SAE_APPLY_B_DEC,
                                 .d_in = FUZZ_D,
                                 .d_sae = FUZZ_N,
                                 .k = arch == SAE_TOPK ? 5 : 0,
                                 .norm = (sae_norm)(i / ARCHS),
                                 .norm_scaling_factor = i / ARCHS == SAE_NORM_SCALE ? 0.5f : 0.0f,
                                 .w_enc = matrix,
                                 .w_dec = matrix,
                                 .b_enc = arch == SAE_GATED ? NULL : vector,
                                 .b_dec = vector,
                                 .threshold = arch == SAE_JUMPRELU ? vector : NULL,
                                 .b_gate = arch == SAE_GATED ? vector : NULL,
                                 .b_mag = arch == SAE_GATED ? vector : NULL,
                                 .r_mag = arch == SAE_GATED ? vector : NULL};
    sae_error err = {.struct_size = sizeof err};
    fuzz_need(sae_model_create(&models[i], fuzz_env(), &weights, &err) == SAE_OK, err.text);
    return models[i];
}
