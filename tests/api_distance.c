/* sae/distance.h as a program sees it: every function, every status, against a plain search in double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/support.h"
#include "support/run.h"

enum { D = 12, E = 9, N = 2000 }; /* d_in, d_out, three tiles */

static sae_error err;
static heap counted;
static sae_env *env;
static planted p;
static sae_model *model;
static sae_index *by[3]; /* by side */
static void *scratch;
static size_t bytes;

static void setup(void)
{
    env = counted_env(&counted);
    planted_make(&p, (sae_weights){.arch = SAE_STANDARD, .dtype = SAE_F32, .d_in = D, .d_sae = N, .d_out = E}, 1);
    memset((unsigned char *)p.blocks[1] + 1 + 77 * E * sizeof(float), 0, E * sizeof(float)); /* feature 77 writes nothing */
    memset(p.dec + 77 * E, 0, E * sizeof(float));
    model = planted_model(&p, env);
    ACCEPTED(sae_index_create(by + SAE_BY_DECODER, model, SAE_BY_DECODER, &err));
    ACCEPTED(sae_index_create(by + SAE_BY_ENCODER, model, SAE_BY_ENCODER, &err));
    bytes = sae_index_scratch_bytes(by[SAE_BY_ENCODER]);
    scratch = malloc(bytes);
    ck_assert_ptr_nonnull(scratch);
}

static void teardown(void)
{
    sae_index_free(by[SAE_BY_DECODER]);
    sae_index_free(by[SAE_BY_ENCODER]);
    sae_model_free(model);
    sae_env_free(env);
    planted_free(&p);
    free(scratch);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), 0);
}

static void prepare(int32_t side)
{
    ACCEPTED(sae_index_prepare(by[side], &err));
    ck_assert_int_gt(sae_index_screen_bytes(by[side]), N * sae_index_dim(by[side]));
    ACCEPTED(sae_index_prepare(by[side], &err));
    free(scratch);
    bytes = sae_index_scratch_bytes(by[side]);
    scratch = malloc(bytes);
}

START_TEST(create)
{
    sae_index *index = (sae_index *)&err;
    REFUSED(SAE_E_ARG, "out is NULL", sae_index_create(NULL, model, SAE_BY_DECODER, &err));
    REFUSED(SAE_E_ARG, "model is NULL", sae_index_create(&index, NULL, SAE_BY_DECODER, &err));
    ck_assert_ptr_null(index);
    REFUSED(SAE_E_ARG, "by = 0", sae_index_create(&index, model, 0, &err));
    REFUSED(SAE_E_ARG, "by = 3", sae_index_create(&index, model, 3, &err));
    atomic_store(&counted.fail_at, atomic_load(&counted.asked));
    REFUSED(SAE_E_NOMEM, "2000|bytes", sae_index_create(&index, model, SAE_BY_DECODER, &err));
    ck_assert_ptr_null(index);
    ck_assert_int_eq(sae_index_dim(by[SAE_BY_DECODER]), E);
    ck_assert_int_eq(sae_index_dim(by[SAE_BY_ENCODER]), D);
    ck_assert_int_eq(sae_index_dim(NULL), 0);
    ck_assert_uint_eq(sae_index_scratch_bytes(NULL), 0);
    sae_index_free(NULL);
}
END_TEST

START_TEST(failing_runner)
{
    int left = 0;
    sae_env *other = env_make(&counted, SAE_ISA_AUTO, run_failing, &left, 1);
    sae_model *m = planted_model(&p, other);
    sae_index *index = (sae_index *)&err;
    REFUSED(SAE_E_HOST, "parallel-for|norms of 2000", sae_index_create(&index, m, SAE_BY_DECODER, &err));
    ck_assert_ptr_null(index);
    left = 1;
    ACCEPTED(sae_index_create(&index, m, SAE_BY_DECODER, &err));
    int32_t features[4] = {-1, -1, -1, -1};
    float cosines[4];
    sae_neighbors out = {.struct_size = sizeof out, .k = 4, .features = features, .cosines = cosines};
    REFUSED(SAE_E_HOST, "parallel-for|2000", sae_index_nearest_feature(index, &out, 1, scratch, bytes, &err));
    REFUSED(SAE_E_HOST, "parallel-for|2000", sae_index_nearest(index, &out, p.dec, scratch, bytes, &err));
    ck_assert_int_eq(features[0], -1);
    sae_index_free(index);
    sae_model_free(m);
    sae_env_free(other);
}
END_TEST

START_TEST(prepare_refuses)
{
    sae_index *index = by[SAE_BY_DECODER];
    REFUSED(SAE_E_ARG, "index is NULL", sae_index_prepare(NULL, &err));
    ck_assert_int_eq(sae_index_screen_bytes(NULL), 0);
    for (int i = 0; i < 3; i++) {
        atomic_store(&counted.fail_at, atomic_load(&counted.asked) + i);
        REFUSED(SAE_E_NOMEM, "no memory|bytes", sae_index_prepare(index, &err));
        ck_assert_int_eq(sae_index_screen_bytes(index), 0);
    }
    int left = 1;
    sae_env *other = env_make(&counted, SAE_ISA_AUTO, run_failing, &left, 1);
    sae_model *m = planted_model(&p, other);
    ACCEPTED(sae_index_create(&index, m, SAE_BY_DECODER, &err));
    REFUSED(SAE_E_HOST, "parallel-for", sae_index_prepare(index, &err));
    ck_assert_int_eq(sae_index_screen_bytes(index), 0);
    left = 1;
    ACCEPTED(sae_index_prepare(index, &err));
    int32_t features[4];
    float cosines[4];
    sae_neighbors out = {.struct_size = sizeof out, .k = 4, .features = features, .cosines = cosines};
    void *room = malloc(sae_index_scratch_bytes(index));
    REFUSED(SAE_E_HOST, "parallel-for|2000", sae_index_nearest_feature(index, &out, 1, room, sae_index_scratch_bytes(index), &err));
    free(room);
    sae_index_free(index);
    sae_model_free(m);
    sae_env_free(other);
}
END_TEST

/* A search through bytes of ordinary sizes finds what a plain one does: random rows with a few near ones, negative, huge, tiny and no rows. */
START_TEST(prepared_is_exact)
{
    enum { WIDE = 300, ROWS = 1500, K = 12 };
    rng r = {4};
    float *rows = malloc((size_t)WIDE * ROWS * sizeof *rows);
    for (size_t i = 0; i < (size_t)WIDE * ROWS; i++)
        rows[i] = rng_weight(&r);
    for (size_t j = 0; j < ROWS; j += 7)
        for (size_t k = 0; k < WIDE; k++) {
            float *w = rows + j * WIDE + k;
            *w = j % 5 == 0 ? rows[k] + 0.3f * *w : j % 5 == 1 ? *w * 1e-30f : j % 5 == 2 ? *w * 1e19f : j % 5 == 3 ? 0.0f : -rows[k];
        }
    const sae_weights w = {.struct_size = sizeof w,
                           .arch = SAE_STANDARD,
                           .dtype = SAE_F32,
                           .flags = SAE_BORROW | SAE_W_ENC_BY_ROWS,
                           .d_in = WIDE,
                           .d_sae = ROWS,
                           .w_enc = rows,
                           .w_dec = rows};
    sae_model *m;
    sae_index *plain, *prepared;
    ACCEPTED(sae_model_create(&m, env, &w, &err));
    ACCEPTED(sae_index_create(&plain, m, SAE_BY_DECODER, &err));
    ACCEPTED(sae_index_create(&prepared, m, SAE_BY_DECODER, &err));
    ACCEPTED(sae_index_prepare(prepared, &err));
    const size_t need = sae_index_scratch_bytes(prepared);
    void *room = malloc(need);
    for (int trial = 0; trial < 300; trial++) {
        int32_t features[2][K];
        float cosines[2][K], query[WIDE];
        sae_neighbors out[2];
        const float size = trial % 9 == 8 ? 1e-15f : trial % 9 == 7 ? 1e15f : 1.0f;
        for (size_t k = 0; k < WIDE; k++)
            query[k] = size * (trial % 3 ? rows[(size_t)trial * WIDE + k] + 0.5f * rng_weight(&r) : rng_weight(&r));
        for (int i = 0; i < 2; i++) {
            out[i] = (sae_neighbors){.struct_size = sizeof out[i], .k = 1 + trial % K, .features = features[i], .cosines = cosines[i]};
            ACCEPTED(sae_index_nearest(i ? prepared : plain, out + i, query, room, need, &err));
        }
        ck_assert_int_eq(out[0].n, out[1].n);
        ck_assert_mem_eq(features[0], features[1], (size_t)out[0].n * sizeof(int32_t));
        ck_assert_mem_eq(cosines[0], cosines[1], (size_t)out[0].n * sizeof(float));
    }
    free(room);
    sae_index_free(plain);
    sae_index_free(prepared);
    sae_model_free(m);
    free(rows);
}
END_TEST

START_TEST(nearest_refuses)
{
    const sae_index *index = by[SAE_BY_DECODER];
    const size_t need = sae_index_scratch_bytes(index);
    int32_t features[4];
    float cosines[4], query[E] = {0};
    const sae_neighbors good = {.struct_size = sizeof good, .k = 4, .features = features, .cosines = cosines};
    sae_neighbors out = good;
    REFUSED(SAE_E_ARG, "index is NULL", sae_index_nearest(NULL, &out, p.dec, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "out is NULL", sae_index_nearest(index, NULL, p.dec, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "query is NULL", sae_index_nearest(index, &out, NULL, scratch, bytes, &err));
    REFUSED(SAE_E_CAPACITY, "scratch has 0 bytes", sae_index_nearest(index, &out, p.dec, NULL, bytes, &err));
    REFUSED(SAE_E_CAPACITY, "scratch has", sae_index_nearest(index, &out, p.dec, scratch, need - 1, &err));
    REFUSED(SAE_E_ARG, "index is NULL", sae_index_nearest_feature(NULL, &out, 1, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "out is NULL", sae_index_nearest_feature(index, NULL, 1, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "2000|1999", sae_index_nearest_feature(index, &out, N, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "-1", sae_index_nearest_feature(index, &out, -1, scratch, bytes, &err));
    REFUSED(SAE_E_CAPACITY, "scratch has", sae_index_nearest_feature(index, &out, 1, scratch, need - 1, &err));
    REFUSED(SAE_E_ARG, "length 0", sae_index_nearest_feature(index, &out, 77, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "length 0", sae_index_nearest(index, &out, query, scratch, bytes, &err));
    query[3] = NAN;
    REFUSED(SAE_E_ARG, "length", sae_index_nearest(index, &out, query, scratch, bytes, &err));
    query[3] = INFINITY;
    REFUSED(SAE_E_ARG, "length inf", sae_index_nearest(index, &out, query, scratch, bytes, &err));
    static const int32_t bad_k[] = {0, -1};
    for (size_t i = 0; i < LENGTH(bad_k); i++) {
        out.k = bad_k[i];
        REFUSED(SAE_E_ARG, "sae_neighbors|k = ", sae_index_nearest(index, &out, p.dec, scratch, bytes, &err));
    }
    out = good;
    out.features = NULL;
    REFUSED(SAE_E_ARG, "features NULL", sae_index_nearest(index, &out, p.dec, scratch, bytes, &err));
    out = good;
    out.cosines = NULL;
    REFUSED(SAE_E_ARG, "cosines NULL", sae_index_nearest(index, &out, p.dec, scratch, bytes, &err));
    for (size_t size = 0; size <= sizeof good + 16; size++)
        for (int tail = 0; tail < 2; tail++) {
            if (size > 4 && size < sizeof good && size != offsetof(sae_neighbors, n))
                continue;
            sae_neighbors *other = resized(&good, sizeof good, size, (unsigned char)tail);
            if (size <= 4)
                REFUSED(SAE_E_ARG, "sae_neighbors.struct_size", sae_index_nearest(index, other, p.dec, scratch, bytes, &err));
            else if (size > sizeof good && tail)
                REFUSED(SAE_E_VERSION, "sae_neighbors", sae_index_nearest(index, other, p.dec, scratch, bytes, &err));
            else
                ACCEPTED(sae_index_nearest(index, other, p.dec, scratch, bytes, &err));
            ck_assert_uint_eq(other->struct_size, size);
            free(other);
        }
}
END_TEST

/* ---- against a plain search ---- */

static const float *rows_of(int32_t side)
{
    return side == SAE_BY_DECODER ? p.dec : p.enc;
}

static double dot(const float *a, const float *b, int32_t d)
{
    double sum = 0.0;
    for (int32_t k = 0; k < d; k++)
        sum += (double)a[k] * (double)b[k];
    return sum;
}

static float cosine_as_said(const float *query, const float *row, int32_t d)
{
    float acc = 0.0f;
    for (int32_t k = 0; k < d; k++)
        acc = fmaf(row[k], query[k], acc);
    return (float)((double)acc / (sqrt(dot(query, query, d)) * sqrt(dot(row, row, d))));
}

typedef struct hit {
    float cosine;
    int32_t feature;
} hit;

static int by_rank(const void *a, const void *b)
{
    const hit *l = a, *r = b;
    if (l->cosine != r->cosine)
        return l->cosine > r->cosine ? -1 : 1;
    return l->feature < r->feature ? -1 : 1;
}

static size_t search(hit hits[N], int32_t side, const float *query, int32_t except)
{
    const int32_t d = sae_index_dim(by[side]);
    size_t n = 0;
    for (int32_t j = 0; j < N; j++) {
        const float *row = rows_of(side) + (size_t)j * (size_t)d;
        if (j != except && dot(row, row, d) > 0.0)
            hits[n++] = (hit){cosine_as_said(query, row, d), j};
    }
    qsort(hits, n, sizeof *hits, by_rank);
    return n;
}

START_TEST(nearest_by_plain_search)
{
    static const int32_t sizes[] = {1, 2, 10, 777, N, N + 5};
    static hit hits[N];
    static int32_t features[N + 5];
    static float cosines[N + 5];
    const int32_t side = _i % 2 ? SAE_BY_DECODER : SAE_BY_ENCODER;
    const int32_t d = sae_index_dim(by[side]);
    rng r = {9};
    if (_i >= 2)
        prepare(side);
    for (int trial = 0; trial < 240; trial++) {
        float query[D];
        const int32_t self = trial % 2 ? (int32_t)rng_below(&r, N) : -1;
        for (int32_t k = 0; k < d; k++)
            query[k] = self >= 0 ? rows_of(side)[self * d + k] : rng_weight(&r);
        if (self == 77)
            continue;
        const size_t found = search(hits, side, query, self), room = (size_t)sizes[trial / 2 % 6];
        sae_neighbors out = {.struct_size = sizeof out, .k = sizes[trial / 2 % 6], .features = features, .cosines = cosines};
        if (self >= 0)
            ACCEPTED(sae_index_nearest_feature(by[side], &out, self, scratch, bytes, &err));
        else
            ACCEPTED(sae_index_nearest(by[side], &out, query, scratch, bytes, &err));
        ck_assert_int_eq(out.n, (int32_t)(found < room ? found : room));
        for (int32_t i = 0; i < out.n; i++) {
            ck_assert_msg(features[i] == hits[i].feature, "side %d, place %d: %d, not %d", side, i, features[i], hits[i].feature);
            ck_assert_mem_eq(cosines + i, &hits[i].cosine, sizeof *cosines);
        }
    }
}
END_TEST

/* The scratch needs no alignment, and not a byte beside it is written. */
START_TEST(scratch_anywhere)
{
    const sae_index *index = by[SAE_BY_DECODER];
    if (_i)
        prepare(SAE_BY_DECODER);
    const size_t need = sae_index_scratch_bytes(index);
    unsigned char *block = malloc(need + 128);
    int32_t want[5], features[5];
    float cosines[5];
    sae_neighbors out = {.struct_size = sizeof out, .k = 5, .features = want, .cosines = cosines};
    ck_assert_ptr_nonnull(block);
    ACCEPTED(sae_index_nearest_feature(index, &out, 3, scratch, bytes, &err));
    out.features = features;
    for (size_t offset = 0; offset < 66; offset++) {
        memset(block, 0xee, need + 128);
        ACCEPTED(sae_index_nearest_feature(index, &out, 3, block + offset, need, &err));
        ck_assert_mem_eq(features, want, sizeof want);
        for (size_t i = 0; i < need + 128; i++)
            if (block[i] != 0xee && (i < offset || i >= offset + need))
                ck_abort_msg("offset %zu: byte %zu was written", offset, i);
    }
    free(block);
}
END_TEST

START_TEST(pairs)
{
    static const int32_t features[] = {5, 0, 1999, 77, 5, 2};
    enum { M = LENGTH(features) };
    float out[M * M];
    const float *rows = p.dec;
    static const double tolerance[] = {0.0, 1e-6, 1e-6, 1e-6};
    for (int32_t measure = SAE_COSINE; measure <= SAE_L2; measure++) {
        ACCEPTED(sae_index_pairs(by[SAE_BY_DECODER], out, measure, features, M, scratch, bytes, &err));
        for (int i = 0; i < M; i++)
            for (int j = 0; j < M; j++) {
                const float *a = rows + features[i] * E, *b = rows + features[j] * E;
                const double cosine = dot(a, b, E) / sqrt(dot(a, a, E) * dot(b, b, E));
                double want = cosine, squares = 0.0;
                for (int k = 0; k < E; k++)
                    squares += ((double)a[k] - (double)b[k]) * ((double)a[k] - (double)b[k]);
                if (measure == SAE_ANGLE)
                    want = features[i] == features[j] && !isnan(cosine) ? 0.0 : acos(cosine);
                if (measure == SAE_L2)
                    want = sqrt(squares);
                const float got = out[i * M + j];
                ck_assert_mem_eq(out + j * M + i, &got, sizeof got); /* symmetric */
                if (isnan(want))
                    ck_assert(isnan(got));
                else
                    ck_assert_msg(fabs((double)got - want) <= tolerance[measure] * (1.0 + fabs(want)), "measure %d, %d and %d: %g, not %g",
                                  measure, features[i], features[j], (double)got, want);
                if (measure == SAE_COSINE && !isnan(got))
                    ck_assert(got >= -1.0f && got <= 1.0f);
            }
    }
    for (int32_t j = 0; j < N; j++) { /* a row with itself: the rounded dot may be longer than the norms say */
        const int32_t twice[] = {j, j};
        ACCEPTED(sae_index_pairs(by[SAE_BY_ENCODER], out, SAE_COSINE, twice, 2, scratch, bytes, &err));
        ck_assert_msg(out[1] <= 1.0f && out[1] > 0.999999f, "feature %d: cosine %.9g with itself", j, (double)out[1]);
    }
    const sae_index *index = by[SAE_BY_DECODER];
    static const int32_t outside[] = {5, N};
    REFUSED(SAE_E_ARG, "index is NULL", sae_index_pairs(NULL, out, SAE_L2, features, M, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "out is NULL", sae_index_pairs(index, NULL, SAE_L2, features, M, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "features is NULL", sae_index_pairs(index, out, SAE_L2, NULL, M, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "measure = 0", sae_index_pairs(index, out, 0, features, M, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "measure = 4", sae_index_pairs(index, out, 4, features, M, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "n = -1", sae_index_pairs(index, out, SAE_L2, features, -1, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "features[1] = 2000|1999", sae_index_pairs(index, out, SAE_L2, outside, 2, scratch, bytes, &err));
    REFUSED(SAE_E_CAPACITY, "scratch", sae_index_pairs(index, out, SAE_L2, features, M, scratch, 10, &err));
    REFUSED(SAE_E_CAPACITY, "scratch", sae_index_pairs(index, out, SAE_L2, features, M, NULL, bytes, &err));
    ACCEPTED(sae_index_pairs(index, NULL, SAE_L2, NULL, 0, scratch, bytes, &err));
}
END_TEST

/* Angles near 0 and near pi, where the arc cosine of a rounded cosine knows nothing. */
START_TEST(small_angles)
{
    enum { M = 4 };
    static const double angles[M] = {0.0, 1e-3, 1e-2, 3.14059265358979};
    float dec[M * 2], enc[M * 2] = {0}, out[M * M];
    static const int32_t features[M] = {0, 1, 2, 3};
    for (int j = 0; j < M; j++) {
        dec[2 * j] = (float)(3.0 * cos(angles[j]));
        dec[2 * j + 1] = (float)(3.0 * sin(angles[j]));
    }
    const sae_weights w = {
        .struct_size = sizeof w, .arch = SAE_STANDARD, .dtype = SAE_F32, .d_in = 2, .d_sae = M, .w_enc = enc, .w_dec = dec};
    sae_model *m;
    sae_index *index;
    ACCEPTED(sae_model_create(&m, env, &w, &err));
    ACCEPTED(sae_index_create(&index, m, SAE_BY_DECODER, &err));
    ACCEPTED(sae_index_pairs(index, out, SAE_ANGLE, features, M, scratch, bytes, &err));
    for (int i = 0; i < M; i++)
        for (int j = 0; j < M; j++) {
            const double a = atan2((double)dec[2 * i + 1], (double)dec[2 * i]), b = atan2((double)dec[2 * j + 1], (double)dec[2 * j]);
            ck_assert_msg(fabs((double)out[i * M + j] - fabs(a - b)) <= 3e-7 * fabs(a - b), "%d, %d: %.9g, not %.9g", i, j,
                          (double)out[i * M + j], fabs(a - b));
        }
    sae_index_free(index);
    sae_model_free(m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api distance");
    TCase *tc = tcase_create("distance");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, create);
    tcase_add_test(tc, failing_runner);
    tcase_add_test(tc, prepare_refuses);
    tcase_add_test(tc, prepared_is_exact);
    tcase_add_test(tc, nearest_refuses);
    tcase_add_loop_test(tc, nearest_by_plain_search, 0, 4);
    tcase_add_loop_test(tc, scratch_anywhere, 0, 2);
    tcase_add_test(tc, pairs);
    tcase_add_test(tc, small_angles);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
