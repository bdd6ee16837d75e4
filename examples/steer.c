/* Edits features in rows, in place: `steer SAELENS_FOLDER`. A server does the same with one row per sequence: the slot of a row says
 * whose edits it gets. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sae.h>

enum { N_ROWS = 4 };

static int fail(const char *why)
{
    fprintf(stderr, "steer: %s\n", why);
    return 1;
}

/* Stands for activations of a language model: n numbers in -2 .. 2, the same on every machine. */
static void activations(float *x, size_t n)
{
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / 4194304.0f - 2.0f;
    }
}

static double distance(const float *a, const float *b, int32_t d)
{
    double sum = 0.0;
    for (int32_t i = 0; i < d; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return sqrt(sum);
}

static int steer(const char *path)
{
    sae_env *env = NULL;
    sae_model *model = NULL;
    sae_plan *plan = NULL;
    sae_error err = {.struct_size = sizeof err};
    if (sae_env_create(&env, NULL, &err) || sae_model_open(&model, env, path, NULL, &err))
        return fail(err.text);
    sae_info info = {.struct_size = sizeof info};
    sae_model_info(model, &info);

    /* Slot 0 clamps feature 3; slot 1 switches feature 3 off and pushes every row by a length of 2 along feature 5. */
    const sae_edit edits[] = {
        {.struct_size = sizeof(sae_edit), .slot = 0, .op = SAE_SET, .value = 4.0f, .model = model, .feature = 3},
        {.struct_size = sizeof(sae_edit), .slot = 1, .op = SAE_ABLATE, .model = model, .feature = 3},
        {.struct_size = sizeof(sae_edit), .slot = 1, .op = SAE_ADD, .unit = SAE_UNIT_UNIT, .value = 2.0f, .model = model, .feature = 5},
    };
    if (sae_plan_compile(&plan, env, info.d_in, 2, edits, sizeof edits / sizeof *edits, &err))
        return fail(err.text);
    sae_model_free(model); /* the plan has gathered what it needs */

    const size_t d = (size_t)info.d_in, scratch_bytes = sae_plan_scratch_bytes(plan);
    float *before = malloc(2 * N_ROWS * d * sizeof *before), *x = before + N_ROWS * d;
    void *scratch = malloc(scratch_bytes);
    if (!before || !scratch)
        return fail("no memory");
    activations(before, N_ROWS * d);
    memcpy(x, before, N_ROWS * d * sizeof *x);

    const int32_t slot[N_ROWS] = {1, 0, -1, 0}; /* -1: this row is left alone */
    const sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x, .n_rows = N_ROWS, .slot = slot};
    if (sae_plan_apply(plan, &rows, scratch, scratch_bytes, &err))
        return fail(err.text);
    for (size_t r = 0; r < N_ROWS; r++)
        printf("row %zu  slot %2" PRId32 "  moved by %.4f\n", r, slot[r], distance(x + r * d, before + r * d, info.d_in));

    free(scratch);
    free(before);
    sae_plan_free(plan);
    sae_env_free(env);
    return 0;
}

int main(int argc, char **argv)
{
    return argc == 2 ? steer(argv[1]) : fail("usage: steer SAELENS_FOLDER");
}
