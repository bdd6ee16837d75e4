/* Every published SAELens fixture whose architecture is read: codes and reconstruction against a float64 evaluation, by the rule of the
 * fixtures: |got - want| <= 1e-5 (1 + |want|) max(1, ||x|| / sqrt(d)); the active features are exactly those of the float64 evaluation,
 * at thresholds and in ties too. Every instruction set of this machine, unprepared and prepared in every way. Sees only <sae.h>. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sae.h>

#include "support/npy.h"
#include "support/run.h"

static const char *const fixtures[] = {"batchtopk_saved_as_jumprelu",
                                       "gated",
                                       "jumprelu_expected_average_only_in",
                                       "jumprelu_f32",
                                       "jumprelu_fp16",
                                       "jumprelu_negative_thresholds",
                                       "jumprelu_training_checkpoint_bf16",
                                       "matryoshka_batchtopk_saved_as_jumprelu",
                                       "standard_bf16",
                                       "standard_constant_norm_rescale",
                                       "standard_expected_average_only_in",
                                       "standard_hook_z",
                                       "standard_layer_norm",
                                       "standard_no_b_dec",
                                       "standard_relu",
                                       "topk",
                                       "topk_k_over_positive",
                                       "topk_rescale_by_decoder_norm",
                                       "v5_layout_jumprelu",
                                       "v5_layout_topk_by_activation_fn"};
enum { N_FIXTURES = sizeof fixtures / sizeof *fixtures, MAX_ROWS = 16 };

static const sae_isa isas[] = {SAE_ISA_SCALAR, SAE_ISA_NEON, SAE_ISA_AVX2, SAE_ISA_AVX512};
enum { N_ISAS = sizeof isas / sizeof *isas };

static const uint32_t forms[] = {0, SAE_PREPARE_ROWS, SAE_PREPARE_PANELS, SAE_PREPARE_ROWS | SAE_PREPARE_PANELS};
enum { N_FORMS = sizeof forms / sizeof *forms };

/* One fixture, its answers, and ours. */
typedef struct fixture {
    const char *name;
    npy z, xhat;
    size_t rows, d, n; /* d_in = d_out, d_sae */
    float *x, *dense, *y, *values;
    int32_t *indices;
    float scale[MAX_ROWS], shift[MAX_ROWS];
    int64_t indptr[MAX_ROWS + 1];
    float factor; /* norm_scaling_factor of the fixture's options, or 0 */
} fixture;

static const char *path_of(const char *name, const char *file)
{
    static char path[300];
    snprintf(path, sizeof path, "tests/golden/saelens/%s/%s", name, file);
    return path;
}

static npy load(const char *name, const char *file)
{
    const npy a = npy_read(path_of(name, file));
    ck_assert_msg(a.v != NULL, "cannot read %s", path_of(name, file));
    return a;
}

/* cfg.json does not carry the factor; fixture.json does. */
static float factor_of(const char *name)
{
    char text[4096] = "";
    FILE *file = fopen(path_of(name, "fixture.json"), "r");
    ck_assert_ptr_nonnull(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    const char *at = strstr(text, "\"norm_scaling_factor\":");
    return at ? strtof(at + strlen("\"norm_scaling_factor\":"), NULL) : 0.0f;
}

static void *memory(size_t n, size_t each)
{
    void *p = calloc(n, each);
    ck_assert_ptr_nonnull(p);
    return p;
}

/* `answers` is "64" or "_unscaled". */
static void begin(fixture *f, const char *name, const char *answers)
{
    char file[32];
    const npy x = load(name, "x.npy");
    f->name = name;
    snprintf(file, sizeof file, "z%s.npy", answers);
    f->z = load(name, file);
    snprintf(file, sizeof file, "xhat%s.npy", answers);
    f->xhat = load(name, file);
    f->rows = x.rows;
    f->d = x.columns;
    f->n = f->z.columns;
    ck_assert(f->rows > 0 && f->rows <= MAX_ROWS && f->z.rows == f->rows && f->xhat.rows == f->rows && f->xhat.columns == f->d);
    f->x = memory(f->rows * f->d, sizeof(float));
    f->y = memory(f->rows * f->d, sizeof(float));
    f->dense = memory(f->rows * f->n, sizeof(float));
    f->values = memory(f->rows * f->n, sizeof(float));
    f->indices = memory(f->rows * f->n, sizeof(int32_t));
    for (size_t i = 0; i < f->rows * f->d; i++)
        f->x[i] = (float)x.v[i];
    f->factor = factor_of(name);
    free(x.v);
}

static void end(fixture *f)
{
    free(f->z.v);
    free(f->xhat.v);
    free(f->x);
    free(f->y);
    free(f->dense);
    free(f->values);
    free(f->indices);
}

static double tolerance(const fixture *f, size_t row, double want)
{
    double square = 0.0;
    for (size_t k = 0; k < f->d; k++)
        square += (double)f->x[row * f->d + k] * f->x[row * f->d + k];
    return 1e-5 * (1.0 + fabs(want)) * fmax(1.0, sqrt(square / (double)f->d));
}

/* NaN rows: the published formula divides by the norm of a zero row. */
static int is_nan_row(const fixture *f, size_t row)
{
    return isnan(f->z.v[row * f->n]);
}

static void compare_codes(const fixture *f)
{
    for (size_t r = 0; r < f->rows; r++) {
        int64_t at = f->indptr[r];
        for (size_t j = 0; j < f->n; j++) {
            const double want = is_nan_row(f, r) ? 0.0 : f->z.v[r * f->n + j];
            const int active = at < f->indptr[r + 1] && f->indices[at] == (int32_t)j;
            const float got = active ? f->values[at++] : 0.0f;
            ck_assert_msg(active == (want != 0.0), "%s: row %zu feature %zu is %s, float64 says %g", f->name, r, j,
                          active ? "active" : "inactive", want);
            ck_assert_msg(fabs(got - want) <= tolerance(f, r, want), "%s: row %zu feature %zu is %.9g, float64 says %.9g", f->name, r, j,
                          (double)got, want);
            ck_assert_msg(f->dense[r * f->n + j] == got, "%s: row %zu feature %zu: dense and sparse codes differ", f->name, r, j);
        }
        ck_assert_int_eq(at, f->indptr[r + 1]);
    }
}

static void compare_rows(const fixture *f)
{
    for (size_t i = 0; i < f->rows * f->d; i++) {
        const double want = f->xhat.v[i];
        ck_assert_msg(is_nan_row(f, i / f->d) || fabs(f->y[i] - want) <= tolerance(f, i / f->d, want),
                      "%s: reconstruction of row %zu at %zu is %.9g, float64 says %.9g", f->name, i / f->d, i % f->d, (double)f->y[i],
                      want);
    }
}

static void run(fixture *f, sae_ctx *ctx)
{
    sae_rows x = {.struct_size = sizeof x, .dtype = SAE_F32, .x = f->x, .n_rows = (int64_t)f->rows}, y = x;
    sae_codes codes = {.struct_size = sizeof codes,
                       .capacity = (int64_t)(f->rows * f->n),
                       .indptr = f->indptr,
                       .indices = f->indices,
                       .values = f->values,
                       .row_scale = f->scale,
                       .row_shift = f->shift};
    y.x = f->y;
    ck_assert_msg(sae_encode(ctx, &codes, &x) == SAE_OK, "%s: %s", f->name, sae_ctx_error(ctx));
    int64_t nonfinite = 0;
    for (size_t r = 0; r < f->rows; r++)
        nonfinite += is_nan_row(f, r) ? (int64_t)f->n : 0;
    ck_assert_int_eq(sae_ctx_nonfinite(ctx), nonfinite);
    ck_assert_int_eq(sae_encode_dense(ctx, f->dense, 0, &x), SAE_OK);
    ck_assert_msg(sae_decode(ctx, &y, &codes) == SAE_OK, "%s: %s", f->name, sae_ctx_error(ctx));
    compare_codes(f);
    compare_rows(f);
}

static void open_and_run(fixture *f, sae_env *env, float factor, uint32_t form)
{
    sae_error err = {.struct_size = sizeof err};
    const sae_open_options opt = {.struct_size = sizeof opt, .norm_scaling_factor = factor, .d_in = (int32_t)f->d, .d_out = (int32_t)f->d};
    sae_model *model;
    sae_ctx *ctx;
    ck_assert_msg(sae_model_open(&model, env, path_of(f->name, ""), &opt, &err) == SAE_OK, "%s: %s", f->name, err.text);
    ck_assert_msg(!form || sae_model_prepare(model, form, &err) == SAE_OK, "%s: %s", f->name, err.text);
    ck_assert_msg(sae_ctx_create(&ctx, model, NULL, &err) == SAE_OK, "%s: %s", f->name, err.text);
    run(f, ctx);
    sae_ctx_free(ctx);
    sae_model_free(model);
}

/* An env of this instruction set, or NULL where the machine does not have it. */
static sae_env *env_of(sae_isa isa)
{
    const sae_env_options opt = {.struct_size = sizeof opt, .isa = isa};
    sae_error err = {.struct_size = sizeof err};
    sae_env *env;
    const sae_status status = sae_env_create(&env, &opt, &err);
    ck_assert_msg(status == SAE_OK || (status == SAE_E_UNSUPPORTED && isa != SAE_ISA_SCALAR), "%s", err.text);
    return env;
}

/* _i runs over fixture, instruction set, form. */
START_TEST(fixture_agrees)
{
    fixture f;
    sae_env *env = env_of(isas[_i / N_FORMS % N_ISAS]);
    if (!env)
        return;
    begin(&f, fixtures[_i / N_FORMS / N_ISAS], "64");
    open_and_run(&f, env, f.factor, forms[_i % N_FORMS]);
    end(&f);
    sae_env_free(env);
}
END_TEST

/* Without the factor the rows go in as they are, as SAELens does it. */
START_TEST(unscaled_agrees)
{
    static const char *const names[] = {"jumprelu_expected_average_only_in", "standard_expected_average_only_in"};
    fixture f;
    sae_env *env = env_of(SAE_ISA_AUTO);
    begin(&f, names[_i], "_unscaled");
    ck_assert_float_gt(f.factor, 0.0f);
    open_and_run(&f, env, 0.0f, 0);
    end(&f);
    sae_env_free(env);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("golden");
    TCase *tc = tcase_create("golden");
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, fixture_agrees, 0, N_FIXTURES * N_ISAS * N_FORMS);
    tcase_add_loop_test(tc, unscaled_agrees, 0, 2);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
