/* Every fixture of tests/golden: checkpoints as the packages themselves write them, opened as a user would, against a float64 evaluation of the
 * published formula: |got - want| <= 1e-5 (1 + |want|) max(1, ||x|| / sqrt(d)); the active features are exactly those of the float64
 * evaluation, at thresholds and in ties too. Every instruction set of this machine, unprepared and prepared in every way. Sees only <sae.h>.
 * With --table it prints the table of docs/formats.md instead, in lines that begin with a bar. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sae.h>

#include "support/fixtures.h"
#include "support/npy.h"
#include "support/run.h"

enum { MAX_ROWS = 16 };

static const sae_isa isas[] = {SAE_ISA_SCALAR, SAE_ISA_NEON, SAE_ISA_AVX2, SAE_ISA_AVX512};
enum { N_ISAS = sizeof isas / sizeof *isas };

static const uint32_t forms[] = {0, SAE_PREPARE_ROWS, SAE_PREPARE_PANELS, SAE_PREPARE_ROWS | SAE_PREPARE_PANELS, SAE_PREPARE_SCREEN};
enum { N_FORMS = sizeof forms / sizeof *forms };

/* golden.json, the list of all. */
static json_t *list;

/* One fixture, its answers, and ours. */
typedef struct fixture {
    json_t *about; /* fixture.json */
    const char *path;
    char open[400]; /* what is opened */
    char layer[16];
    sae_open_options opt;
    npy z, xhat;
    size_t rows, d_in, n, d_out;
    float *x, *dense, *y, *values;
    int32_t *indices;
    float scale[MAX_ROWS], shift[MAX_ROWS];
    int64_t indptr[MAX_ROWS + 1];
    double worst_z, worst_xhat; /* in units of the tolerance */
} fixture;

static npy load(const fixture *f, const char *file)
{
    char path[400];
    snprintf(path, sizeof path, GOLDEN_FOLDER "%s/%s", f->path, file);
    const npy a = npy_read(path);
    ck_assert_msg(a.v != NULL, "cannot read %s", path);
    return a;
}

static void *memory(size_t n, size_t each)
{
    void *p = calloc(n, each);
    ck_assert_ptr_nonnull(p);
    return p;
}

static void begin(fixture *f, size_t index, const char *answers)
{
    char file[256];
    *f = (fixture){.path = fixture_path(list, index)};
    f->about = fixture_about(f->path);
    ck_assert_msg(f->about != NULL, "cannot read the fixture.json of %s", f->path);
    f->opt = fixture_options(f->path, f->about, f->layer);
    snprintf(f->open, sizeof f->open, GOLDEN_FOLDER "%s/%s", f->path, fixture_place(file, f->about));
    const npy x = load(f, "x.npy");
    snprintf(file, sizeof file, "z%s.npy", answers);
    f->z = load(f, file);
    snprintf(file, sizeof file, "xhat%s.npy", answers);
    f->xhat = load(f, file);
    f->rows = x.rows;
    f->d_in = x.columns;
    f->n = f->z.columns;
    f->d_out = f->xhat.columns;
    ck_assert(f->rows > 0 && f->rows <= MAX_ROWS && f->z.rows == f->rows && f->xhat.rows == f->rows);
    f->x = memory(f->rows * f->d_in, sizeof(float));
    f->y = memory(f->rows * f->d_out, sizeof(float));
    f->dense = memory(f->rows * f->n, sizeof(float));
    f->values = memory(f->rows * f->n, sizeof(float));
    f->indices = memory(f->rows * f->n, sizeof(int32_t));
    for (size_t i = 0; i < f->rows * f->d_in; i++)
        f->x[i] = (float)x.v[i];
    free(x.v);
}

static void end(fixture *f)
{
    json_decref(f->about);
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
    for (size_t k = 0; k < f->d_in; k++)
        square += (double)f->x[row * f->d_in + k] * f->x[row * f->d_in + k];
    return 1e-5 * (1.0 + fabs(want)) * fmax(1.0, sqrt(square / (double)f->d_in));
}

/* NaN rows: the published formula divides by the norm of a zero row. */
static int is_nan_row(const fixture *f, size_t row)
{
    return isnan(f->z.v[row * f->n]);
}

static void compare_codes(fixture *f)
{
    for (size_t r = 0; r < f->rows; r++) {
        int64_t at = f->indptr[r];
        for (size_t j = 0; j < f->n; j++) {
            const double want = is_nan_row(f, r) ? 0.0 : f->z.v[r * f->n + j];
            const int active = at < f->indptr[r + 1] && f->indices[at] == (int32_t)j;
            const float got = active ? f->values[at++] : 0.0f;
            const double off = fabs(got - want) / tolerance(f, r, want);
            ck_assert_msg(active == (want != 0.0), "%s: row %zu feature %zu is %s, float64 says %g", f->path, r, j,
                          active ? "active" : "inactive", want);
            ck_assert_msg(off <= 1.0, "%s: row %zu feature %zu is %.9g, float64 says %.9g", f->path, r, j, (double)got, want);
            ck_assert_msg(f->dense[r * f->n + j] == got, "%s: row %zu feature %zu: dense and sparse codes differ", f->path, r, j);
            f->worst_z = fmax(f->worst_z, off);
        }
        ck_assert_int_eq(at, f->indptr[r + 1]);
    }
}

static void compare_rows(fixture *f, const char *what)
{
    for (size_t i = 0; i < f->rows * f->d_out; i++) {
        const size_t r = i / f->d_out;
        if (is_nan_row(f, r))
            continue;
        const double want = f->xhat.v[i], off = fabs(f->y[i] - want) / tolerance(f, r, want);
        ck_assert_msg(off <= 1.0, "%s: %s of row %zu at %zu is %.9g, float64 says %.9g", f->path, what, r, i % f->d_out, (double)f->y[i],
                      want);
        f->worst_xhat = fmax(f->worst_xhat, off);
    }
}

static void run(fixture *f, sae_ctx *ctx, const sae_info *info)
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
    ck_assert_msg(sae_encode(ctx, &codes, &x) == SAE_OK, "%s: %s", f->path, sae_ctx_error(ctx));
    int64_t nonfinite = 0;
    for (size_t r = 0; r < f->rows; r++)
        nonfinite += is_nan_row(f, r) ? (int64_t)f->n : 0;
    ck_assert_int_eq(sae_ctx_nonfinite(ctx), nonfinite);
    ck_assert_int_eq(sae_encode_dense(ctx, f->dense, 0, &x), SAE_OK);
    compare_codes(f);
    ck_assert_msg(sae_forward(ctx, &y, &x) == SAE_OK, "%s: %s", f->path, sae_ctx_error(ctx));
    compare_rows(f, "the output");
    if (info->has_skip == SAE_YES || info->arch == SAE_TEMPORAL) /* what codes alone do not give */
        return;
    memset(f->y, 0, f->rows * f->d_out * sizeof *f->y);
    ck_assert_msg(sae_decode(ctx, &y, &codes) == SAE_OK, "%s: %s", f->path, sae_ctx_error(ctx));
    compare_rows(f, "the reconstruction");
}

static void open_and_run(fixture *f, sae_env *env, uint32_t form)
{
    sae_error err = {.struct_size = sizeof err};
    sae_info info = {.struct_size = sizeof info};
    sae_model *model;
    sae_ctx *ctx;
    f->opt.d_in = (int32_t)f->d_in;
    f->opt.d_out = (int32_t)f->d_out;
    ck_assert_msg(sae_model_open(&model, env, f->open, &f->opt, &err) == SAE_OK, "%s: %s", f->path, err.text);
    ck_assert_int_eq(sae_model_info(model, &info), SAE_OK);
    ck_assert_msg(info.d_sae == (int32_t)f->n, "%s: %d features, %zu expected", f->path, (int)info.d_sae, f->n);
    ck_assert_msg(!form || sae_model_prepare(model, form, &err) == SAE_OK, "%s: %s", f->path, err.text);
    ck_assert_msg(sae_ctx_create(&ctx, model, NULL, &err) == SAE_OK, "%s: %s", f->path, err.text);
    run(f, ctx, &info);
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

/* _i runs over fixture and instruction set. */
START_TEST(fixture_agrees)
{
    fixture f;
    sae_env *env = env_of(isas[_i % N_ISAS]);
    if (!env)
        return;
    begin(&f, (size_t)_i / N_ISAS, "64");
    for (size_t form = 0; form < N_FORMS; form++)
        open_and_run(&f, env, forms[form]);
    end(&f);
    sae_env_free(env);
}
END_TEST

/* A file that holds the whole checkpoint may be named instead of its folder. */
START_TEST(named_file_agrees)
{
    fixture f;
    begin(&f, (size_t)_i, "64");
    json_t *files = json_object_get(f.about, "files");
    const char *file = json_string_value(json_array_get(files, json_array_size(files) - 1));
    if (json_array_size(files) == 1) {
        sae_env *env = env_of(SAE_ISA_AUTO);
        snprintf(f.open, sizeof f.open, GOLDEN_FOLDER "%s/%s", f.path, file);
        open_and_run(&f, env, 0);
        sae_env_free(env);
    }
    end(&f);
}
END_TEST

/* Without the factor the rows go in as they are, as SAELens does it. */
START_TEST(unscaled_agrees)
{
    static const char *const names[] = {"saelens/jumprelu_expected_average_only_in", "saelens/standard_expected_average_only_in"};
    fixture f;
    size_t index = 0;
    while (strcmp(fixture_path(list, index), names[_i]) != 0)
        index++;
    sae_env *env = env_of(SAE_ISA_AUTO);
    begin(&f, index, "_unscaled");
    ck_assert_float_gt(f.opt.norm_scaling_factor, 0.0f);
    f.opt.norm_scaling_factor = 0.0f;
    open_and_run(&f, env, 0);
    end(&f);
    sae_env_free(env);
}
END_TEST

/* One line of docs/formats.md a fixture: what, who wrote it, how far we are from float64 in units of the tolerance. */
START_TEST(table)
{
    sae_env *env = env_of(SAE_ISA_AUTO);
    printf("| format | architecture | dtype | written by | codes | output |\n| --- | --- | --- | --- | --- | --- |\n");
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *entry = json_array_get(list, i);
        const char *writer = json_string_value(json_object_get(entry, "writer"));
        fixture f;
        begin(&f, i, "64");
        open_and_run(&f, env, 0);
        printf("| `%s` | %s | %s | %.*s | %.2f | %.2f |\n", f.path, json_string_value(json_object_get(entry, "architecture")),
               json_string_value(json_object_get(entry, "dtype")), (int)strcspn(writer, "(;"), writer, f.worst_z, f.worst_xhat);
        end(&f);
    }
    sae_env_free(env);
}
END_TEST

int main(int argc, char **argv)
{
    list = fixtures_list();
    const int n = (int)json_array_size(list);
    Suite *suite = suite_create("golden");
    TCase *tc = tcase_create("golden");
    tcase_set_timeout(tc, 60);
    if (argc > 1 && strcmp(argv[1], "--table") == 0) {
        tcase_add_test(tc, table);
    } else {
        tcase_add_loop_test(tc, fixture_agrees, 0, n * N_ISAS);
        tcase_add_loop_test(tc, named_file_agrees, 0, n);
        tcase_add_loop_test(tc, unscaled_agrees, 0, 2);
    }
    suite_add_tcase(suite, tc);
    return n ? run_suite(suite) : EXIT_FAILURE;
}
