/* Real activations of a sentence encoder through SAEs trained on them, against the codes that SAELens gives and against double arithmetic.
 * Needs the optional data folder named by SAE_TEST_DATA; says so in one line without it. Sees only <sae.h>. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sae.h>

#include "support/npy.h"
#include "support/run.h"

/* No decision further than this from its threshold (or from the k-th key) may differ: float32 and float64 round differently there. */
static const double band = 1e-5;

static const char *const names[] = {"minilm-l3-jumprelu", "minilm-l3-topk"};

typedef struct real {
    sae_env *env;
    sae_model *model;
    sae_ctx *ctx;
    sae_info info;
    int64_t rows, capacity;
    float *x;
    sae_codes codes;
    npy indptr, indices, values; /* SAELens' */
    float *w_enc, *b_enc, *b_dec, *threshold, *w_dec;
} real;

static const char *path_of(const char *name, const char *file)
{
    static char path[600];
    snprintf(path, sizeof path, "%s/real/%s%s%s", getenv("SAE_TEST_DATA"), name, *file ? "/" : "", file);
    return path;
}

static void *memory(int64_t n, size_t each)
{
    void *p = calloc((size_t)n, each);
    ck_assert_ptr_nonnull(p);
    return p;
}

static void load_rows(real *r)
{
    const npy x = npy_read(path_of("x.npy", ""));
    ck_assert_msg(x.v && (int32_t)x.columns == r->info.d_in, "cannot read %s", path_of("x.npy", ""));
    r->rows = (int64_t)x.rows;
    r->x = memory(r->rows * r->info.d_in, sizeof(float));
    for (size_t i = 0; i < x.rows * x.columns; i++)
        r->x[i] = (float)x.v[i];
    free(x.v);
}

static float *read_tensor(const real *r, int32_t tensor, int64_t rows, int32_t columns)
{
    float *out = memory(rows * columns, sizeof(float));
    ck_assert_int_eq(sae_model_read(r->model, tensor, 0, rows, out, NULL), SAE_OK);
    return out;
}

static void load_answers(real *r, const char *name)
{
    r->indptr = npz_read(path_of(name, "saelens_codes.npz"), "indptr");
    r->indices = npz_read(path_of(name, "saelens_codes.npz"), "indices");
    r->values = npz_read(path_of(name, "saelens_codes.npz"), "values");
    ck_assert_msg(r->indptr.v && r->indices.v && r->values.v, "cannot read %s", path_of(name, "saelens_codes.npz"));
    ck_assert_int_eq((int64_t)r->indptr.rows, r->rows + 1);
}

static sae_rows rows_of(const real *r)
{
    return (sae_rows){.struct_size = sizeof(sae_rows), .dtype = SAE_F32, .x = r->x, .n_rows = r->rows};
}

static void encode(real *r)
{
    const sae_rows x = rows_of(r);
    r->capacity = 64 * r->rows;
    r->codes = (sae_codes){.struct_size = sizeof r->codes,
                           .capacity = r->capacity,
                           .indptr = memory(r->rows + 1, sizeof(int64_t)),
                           .indices = memory(r->capacity, sizeof(int32_t)),
                           .values = memory(r->capacity, sizeof(float))};
    ck_assert_msg(sae_encode(r->ctx, &r->codes, &x) == SAE_OK, "%s", sae_ctx_error(r->ctx));
}

static void begin(real *r, const char *name)
{
    sae_error err = {.struct_size = sizeof err};
    memset(r, 0, sizeof *r);
    r->info.struct_size = sizeof r->info;
    ck_assert_msg(sae_env_create(&r->env, NULL, &err) == SAE_OK, "%s", err.text);
    ck_assert_msg(sae_model_open(&r->model, r->env, path_of(name, ""), NULL, &err) == SAE_OK, "%s", err.text);
    ck_assert_msg(sae_model_prepare(r->model, SAE_PREPARE_PANELS, &err) == SAE_OK, "%s", err.text);
    ck_assert_msg(sae_ctx_create(&r->ctx, r->model, NULL, &err) == SAE_OK, "%s", err.text);
    ck_assert_int_eq(sae_model_info(r->model, &r->info), SAE_OK);
    load_rows(r);
    load_answers(r, name);
    r->w_enc = read_tensor(r, SAE_W_ENC, r->info.d_sae, r->info.d_in);
    r->w_dec = read_tensor(r, SAE_W_DEC, r->info.d_sae, r->info.d_out);
    r->b_enc = read_tensor(r, SAE_B_ENC, r->info.d_sae, 1);
    r->b_dec = read_tensor(r, SAE_B_DEC, r->info.d_out, 1);
    r->threshold = read_tensor(r, SAE_THRESHOLD, r->info.d_sae, 1);
    encode(r);
}

static void end(real *r)
{
    void *const all[] = {r->x,        r->codes.indptr, r->codes.indices, r->codes.values, r->indptr.v, r->indices.v,
                         r->values.v, r->w_enc,        r->w_dec,         r->b_enc,        r->b_dec,    r->threshold};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    sae_ctx_free(r->ctx);
    sae_model_free(r->model);
    sae_env_free(r->env);
}

/* The pre-activation in double. */
static double pre(const real *r, int64_t row, int32_t feature)
{
    const float *x = r->x + row * r->info.d_in, *w = r->w_enc + (int64_t)feature * r->info.d_in;
    double h = r->b_enc[feature];
    for (int32_t k = 0; k < r->info.d_in; k++)
        h += (x[k] - (double)r->b_dec[k]) * w[k];
    return h;
}

static int descending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* What h is compared with: the threshold, or the middle between the k-th and the next key of the row. */
static double boundary(const real *r, int64_t row, int32_t feature)
{
    if (r->info.arch == SAE_JUMPRELU)
        return r->threshold[feature];
    double *h = memory(r->info.d_sae, sizeof *h);
    for (int32_t j = 0; j < r->info.d_sae; j++)
        h[j] = pre(r, row, j);
    qsort(h, (size_t)r->info.d_sae, sizeof *h, descending);
    const double middle = (h[r->info.k - 1] + h[r->info.k]) / 2;
    free(h);
    return middle;
}

static void check_disputed(const real *r, int64_t row, int32_t feature)
{
    const double distance = fabs(pre(r, row, feature) - boundary(r, row, feature));
    ck_assert_msg(distance <= band, "row %lld feature %d is active for one side only, %g away from its boundary", (long long)row,
                  (int)feature, distance);
}

/* Walks both lists of a row; what only one side has must lie at the boundary. Returns how many were disputed. */
static int compare_row(const real *r, int64_t row)
{
    const sae_codes *c = &r->codes;
    int64_t a = c->indptr[row];
    size_t b = (size_t)r->indptr.v[row];
    const size_t b_end = (size_t)r->indptr.v[row + 1];
    int disputed = 0;
    while (a < c->indptr[row + 1] || b < b_end) {
        const int32_t ours = a < c->indptr[row + 1] ? c->indices[a] : INT32_MAX, theirs = b < b_end ? (int32_t)r->indices.v[b] : INT32_MAX;
        if (ours != theirs) {
            check_disputed(r, row, ours < theirs ? ours : theirs);
            disputed++;
        } else {
            const double want = r->values.v[b];
            ck_assert_msg(fabs(c->values[a] - want) <= 2e-5 * (1.0 + fabs(want)), "row %lld feature %d is %.9g, SAELens says %.9g",
                          (long long)row, (int)ours, (double)c->values[a], want);
        }
        a += ours <= theirs;
        b += theirs <= ours;
    }
    return disputed;
}

START_TEST(codes_agree_with_saelens)
{
    real r;
    int disputed = 0;
    begin(&r, names[_i]);
    ck_assert_int_eq(r.codes.n_rows, 2048);
    for (int64_t row = 0; row < r.rows; row++)
        disputed += compare_row(&r, row);
    ck_assert_int_le(disputed, 8); /* in float64 7 decisions lie in the band */
    end(&r);
}
END_TEST

START_TEST(decode_agrees_with_double)
{
    real r;
    begin(&r, names[_i]);
    const int32_t d = r.info.d_out;
    float *y = memory(r.rows * d, sizeof *y);
    sae_rows out = rows_of(&r);
    out.x = y;
    ck_assert_int_eq(sae_decode(r.ctx, &out, &r.codes), SAE_OK);
    for (int64_t row = 0; row < r.rows; row++)
        for (int32_t k = 0; k < d; k++) {
            double want = r.b_dec[k];
            for (int64_t i = r.codes.indptr[row]; i < r.codes.indptr[row + 1]; i++)
                want += (double)r.codes.values[i] * r.w_dec[(int64_t)r.codes.indices[i] * d + k];
            ck_assert_msg(fabs(y[row * d + k] - want) <= 1e-5 * (1.0 + fabs(want)), "row %lld element %d is %.9g, not %.9g", (long long)row,
                          (int)k, (double)y[row * d + k], want);
        }
    double fvu = 0.0;
    float *errors = memory(r.rows, sizeof *errors);
    const sae_rows x = rows_of(&r);
    ck_assert_int_eq(sae_measure(r.ctx, errors, &fvu, &x, &r.codes), SAE_OK);
    ck_assert_double_eq_tol(fvu, r.info.arch == SAE_TOPK ? 0.106 : 0.115, 0.002); /* what the data's README says */
    free(errors);
    free(y);
    end(&r);
}
END_TEST

/* Screened codes are the dense ones, whatever the number of rows at once, and few features are scored for them. */
START_TEST(screened_codes_are_the_dense_ones)
{
    static const int32_t at_once[] = {1, 4, 7, 64};
    real r;
    begin(&r, names[_i]);
    const sae_rows x = rows_of(&r);
    const int64_t n = r.codes.indptr[r.rows];
    sae_codes got = r.codes;
    got.indptr = memory(r.rows + 1, sizeof(int64_t));
    got.indices = memory(r.capacity, sizeof(int32_t));
    got.values = memory(r.capacity, sizeof(float));
    ck_assert_int_eq(sae_model_prepare(r.model, SAE_PREPARE_SCREEN, NULL), SAE_OK);
    for (size_t i = 0; i < sizeof at_once / sizeof *at_once; i++) {
        const sae_ctx_options opt = {.struct_size = sizeof opt, .max_rows = at_once[i], .screen = SAE_YES};
        sae_ctx_counts c = {.struct_size = sizeof c};
        sae_ctx *ctx;
        ck_assert_int_eq(sae_ctx_create(&ctx, r.model, &opt, NULL), SAE_OK);
        ck_assert_msg(sae_encode(ctx, &got, &x) == SAE_OK && sae_ctx_count(ctx, &c) == SAE_OK, "%s", sae_ctx_error(ctx));
        ck_assert_mem_eq(got.indptr, r.codes.indptr, (size_t)(r.rows + 1) * sizeof *got.indptr);
        ck_assert_mem_eq(got.indices, r.codes.indices, (size_t)n * sizeof *got.indices);
        ck_assert_mem_eq(got.values, r.codes.values, (size_t)n * sizeof *got.values);
        const double share = 100.0 * (double)c.candidates / (double)c.rows_screened / r.info.d_sae;
        printf("%s, %d rows at once: %.2f %% candidates, %lld rows dense\n", names[_i], (int)at_once[i], share, (long long)c.rows_dense);
        ck_assert_msg(c.rows_screened > r.rows * 95 / 100 && share < (r.info.arch == SAE_TOPK ? 6 : 1.5), "%lld rows, %g %%",
                      (long long)c.rows_screened, share);
        sae_ctx_free(ctx);
    }
    free(got.indptr);
    free(got.indices);
    free(got.values);
    end(&r);
}
END_TEST

/* A probe of the features of row 0 publishes what the encode publishes, bit for bit. */
START_TEST(probe_agrees_with_encode)
{
    real r;
    sae_probe *probe;
    begin(&r, names[_i]);
    const int64_t n = r.codes.indptr[1];
    float *out = memory(r.rows * n, sizeof *out);
    const sae_rows x = rows_of(&r);
    ck_assert_int_eq(sae_probe_create(&probe, r.model, r.codes.indices, n, NULL), SAE_OK);
    ck_assert_int_eq(sae_probe_run(probe, r.ctx, out, 0, &x, 0), SAE_OK);
    for (int64_t row = 0; row < r.rows; row++) {
        int64_t at = r.codes.indptr[row];
        for (int64_t i = 0; i < n; i++) {
            while (at < r.codes.indptr[row + 1] && r.codes.indices[at] < r.codes.indices[i])
                at++;
            const int active = at < r.codes.indptr[row + 1] && r.codes.indices[at] == r.codes.indices[i];
            ck_assert_float_eq(out[row * n + i], active ? r.codes.values[at] : 0.0f);
        }
    }
    sae_probe_free(probe);
    free(out);
    end(&r);
}
END_TEST

static double cosine(const real *r, int32_t a, int32_t b)
{
    const int32_t d = r->info.d_out;
    double dot = 0.0, aa = 0.0, bb = 0.0;
    for (int32_t k = 0; k < d; k++) {
        const double x = r->w_dec[(int64_t)a * d + k], y = r->w_dec[(int64_t)b * d + k];
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    return dot / sqrt(aa * bb);
}

START_TEST(neighbors_agree_with_double)
{
    enum { K = 10 };
    real r;
    sae_index *index;
    int32_t features[K];
    float cosines[K];
    begin(&r, names[_i]);
    const int32_t feature = r.codes.indices[0];
    ck_assert_int_eq(sae_index_create(&index, r.model, SAE_BY_DECODER, NULL), SAE_OK);
    sae_neighbors out = {.struct_size = sizeof out, .k = K, .features = features, .cosines = cosines};
    const size_t bytes = sae_index_scratch_bytes(index);
    void *scratch = memory((int64_t)bytes + 1, 1);
    ck_assert_int_eq(sae_index_nearest_feature(index, &out, feature, scratch, bytes, NULL), SAE_OK);
    ck_assert_int_eq(out.n, K);
    int nearer = 0;
    for (int i = 0; i < K; i++) {
        ck_assert_double_eq_tol(cosines[i], cosine(&r, feature, features[i]), 1e-6);
        ck_assert(features[i] != feature && (i == 0 || cosines[i] <= cosines[i - 1]));
    }
    for (int32_t j = 0; j < r.info.d_sae; j++)
        nearer += j != feature && cosine(&r, feature, j) > cosines[K - 1] + 1e-6;
    ck_assert_int_lt(nearer, K);
    free(scratch);
    sae_index_free(index);
    end(&r);
}
END_TEST

/* Clamps a feature of row 0 in all rows: x' = x + (c - z) d, in double. */
START_TEST(steering_agrees_with_double)
{
    static const float c = 3.0f;
    real r;
    sae_plan *plan;
    sae_error err = {.struct_size = sizeof err};
    begin(&r, names[_i]);
    const int32_t d = r.info.d_in, feature = r.codes.indices[0];
    const sae_edit edit = {.struct_size = sizeof edit, .op = SAE_SET, .value = c, .model = r.model, .feature = feature};
    ck_assert_msg(sae_plan_compile(&plan, r.env, d, 1, &edit, 1, &err) == SAE_OK, "%s", err.text);
    float *y = memory(r.rows * d, sizeof *y);
    memcpy(y, r.x, (size_t)(r.rows * d) * sizeof *y);
    sae_rows rows = rows_of(&r);
    rows.x = y;
    const size_t bytes = sae_plan_scratch_bytes(plan);
    void *scratch = memory((int64_t)bytes + 1, 1);
    ck_assert_msg(sae_plan_apply(plan, &rows, scratch, bytes, &err) == SAE_OK, "%s", err.text);
    for (int64_t row = 0; row < r.rows; row++) {
        double z = 0.0;
        for (int64_t i = r.codes.indptr[row]; i < r.codes.indptr[row + 1]; i++)
            if (r.codes.indices[i] == feature)
                z = r.codes.values[i];
        for (int32_t k = 0; k < d; k++) {
            const double want = r.x[row * d + k] + (c - z) * r.w_dec[(int64_t)feature * d + k];
            ck_assert_msg(fabs(y[row * d + k] - want) <= 1e-5 * (1.0 + fabs(want)), "row %lld element %d is %.9g, not %.9g", (long long)row,
                          (int)k, (double)y[row * d + k], want);
        }
    }
    free(scratch);
    free(y);
    sae_plan_free(plan);
    end(&r);
}
END_TEST

int main(void)
{
    const char *data = getenv("SAE_TEST_DATA");
    FILE *there = data && *data ? fopen(path_of("x.npy", ""), "rb") : NULL;
    if (!there) {
        printf("test_data: skipped, SAE_TEST_DATA does not name a folder with real/x.npy\n");
        return EXIT_SUCCESS;
    }
    fclose(there);
    Suite *suite = suite_create("data");
    TCase *tc = tcase_create("data");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, codes_agree_with_saelens, 0, 2);
    tcase_add_loop_test(tc, decode_agrees_with_double, 0, 2);
    tcase_add_loop_test(tc, screened_codes_are_the_dense_ones, 0, 2);
    tcase_add_loop_test(tc, probe_agrees_with_encode, 0, 2);
    tcase_add_loop_test(tc, neighbors_agree_with_double, 0, 2);
    tcase_add_loop_test(tc, steering_agrees_with_double, 0, 2);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
