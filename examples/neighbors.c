/* Features whose decoder rows point the same way as that of a given one, and the angles among them:
 * `neighbors SAELENS_FOLDER [FEATURE]`. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <sae.h>

enum { K = 5 };

static int fail(const char *why)
{
    fprintf(stderr, "neighbors: %s\n", why);
    return 1;
}

static int neighbors(const char *path, int32_t feature)
{
    sae_env *env = NULL;
    sae_model *model = NULL;
    sae_index *index = NULL;
    sae_error err = {.struct_size = sizeof err};
    if (sae_env_create(&env, NULL, &err) || sae_model_open(&model, env, path, NULL, &err) ||
        sae_index_create(&index, model, SAE_BY_DECODER, &err))
        return fail(err.text);

    const size_t scratch_bytes = sae_index_scratch_bytes(index);
    void *scratch = malloc(scratch_bytes);
    int32_t features[1 + K] = {feature}; /* the feature itself, then its neighbours */
    float cosines[K];
    sae_neighbors found = {.struct_size = sizeof found, .k = K, .features = features + 1, .cosines = cosines};
    if (sae_index_nearest_feature(index, &found, feature, scratch, scratch_bytes, &err))
        return fail(err.text);
    printf("nearest to feature %" PRId32 " by the cosine of decoder rows:\n", feature);
    for (int32_t i = 0; i < found.n; i++)
        printf("  %4" PRId32 "  %+.4f\n", found.features[i], (double)found.cosines[i]);

    const int32_t n = 1 + found.n;
    float angles[(1 + K) * (1 + K)];
    if (sae_index_pairs(index, angles, SAE_ANGLE, features, n, scratch, scratch_bytes, &err))
        return fail(err.text);
    printf("angles among them, in radians:\n");
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < n; j++)
            printf("  %.4f%s", (double)angles[i * n + j], j == n - 1 ? "\n" : "");

    free(scratch);
    sae_index_free(index);
    sae_model_free(model);
    sae_env_free(env);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3)
        return fail("usage: neighbors SAELENS_FOLDER [FEATURE]");
    return neighbors(argv[1], argc == 3 ? (int32_t)strtol(argv[2], NULL, 10) : 0);
}
