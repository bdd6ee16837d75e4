/* sae/codec.h as a program sees it: every function, every status. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/support.h"
#include "support/run.h"

enum { D = 12, N = 2000, ROWS = 9 }; /* three tiles of features, three tasks of rows */

static sae_error err;
static heap counted;
static sae_env *env;
static planted p;
static sae_model *model;
static sae_ctx *ctx;
static float *x;

static void setup_arch(sae_arch arch, sae_norm norm)
{
    heap_init(&counted);
    env = env_make(&counted, SAE_ISA_AUTO, NULL, NULL, 0);
    planted_make(
        &p, (sae_weights){.arch = arch, .dtype = SAE_F32, .d_in = D, .d_sae = N, .k = 5, .norm = norm, .norm_scaling_factor = 0.5f}, 1);
    model = planted_model(&p, env);
    ctx = ctx_make(model, 4);
    x = planted_rows(&p, ROWS, 1);
}

static void setup(void)
{
    setup_arch(SAE_STANDARD, SAE_NORM_NONE);
}

static void teardown(void)
{
    sae_ctx_free(ctx);
    sae_model_free(model);
    sae_env_free(env);
    free(x);
    planted_free(&p);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), 0);
}

/* ---- ctx ---- */

START_TEST(ctx_arguments)
{
    sae_ctx *c = (sae_ctx *)&err;
    size_t bytes = 0;
    sae_ctx_options opt = {.struct_size = sizeof opt};
    REFUSED(SAE_E_ARG, "out is NULL", sae_ctx_create(NULL, model, NULL, &err));
    REFUSED(SAE_E_ARG, "model is NULL", sae_ctx_create(&c, NULL, NULL, &err));
    ck_assert_ptr_null(c);
    ck_assert_int_eq(sae_ctx_bytes(NULL, NULL, &bytes), SAE_E_ARG);
    ck_assert_int_eq(sae_ctx_bytes(model, NULL, NULL), SAE_E_ARG);
    sae_ctx_counts counts = {.struct_size = sizeof counts};
    ck_assert_int_eq(sae_ctx_count(NULL, &counts), SAE_E_ARG);
    opt.screen = 3;
    REFUSED(SAE_E_ARG, "screen = 3", sae_ctx_create(&c, model, &opt, &err));
    opt.screen = SAE_NO;
    ACCEPTED(sae_ctx_create(&c, model, &opt, &err));
    ck_assert_int_eq(sae_ctx_count(c, NULL), SAE_E_ARG);
    ck_assert(sae_ctx_count(c, &counts) == SAE_OK && counts.rows_dense == 0 && counts.rows_screened == 0);
    sae_ctx_free(c);
    c = NULL;
    opt.screen = SAE_DEFAULT;
    static const int32_t bad[] = {-1, 65, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < LENGTH(bad); i++) {
        opt.max_rows = bad[i];
        REFUSED(SAE_E_ARG, "max_rows|64", sae_ctx_create(&c, model, &opt, &err));
        ck_assert_ptr_null(c);
        ck_assert_int_eq(sae_ctx_bytes(model, &opt, &bytes), SAE_E_ARG);
    }
    opt.max_rows = 1;
    for (size_t size = 0; size < sizeof opt + 16; size++)
        for (int tail = 0; tail < 2; tail++) {
            void *other = resized(&opt, sizeof opt, size, (unsigned char)tail);
            const sae_status want = size <= 4 ? SAE_E_ARG : size > sizeof opt && tail ? SAE_E_VERSION : SAE_OK;
            if (want)
                REFUSED(want, "sae_ctx_options", sae_ctx_create(&c, model, other, &err));
            else
                ACCEPTED(sae_ctx_create(&c, model, other, &err));
            ck_assert_int_eq(sae_ctx_bytes(model, other, &bytes), want);
            ck_assert_int_eq(c == NULL, want != SAE_OK);
            sae_ctx_free(c);
            free(other);
        }
    ck_assert_str_eq(sae_ctx_error(NULL), "");
    ck_assert_int_eq(sae_ctx_nonfinite(NULL), 0);
    sae_ctx_free(NULL);
}
END_TEST

START_TEST(ctx_memory)
{
    size_t last = 0;
    for (int32_t max_rows = 1; max_rows <= 64; max_rows *= 2) {
        const sae_ctx_options opt = {.struct_size = sizeof opt, .max_rows = max_rows};
        const long before = atomic_load(&counted.live_bytes);
        size_t bytes = 0;
        sae_ctx *c;
        ck_assert_int_eq(sae_ctx_bytes(model, &opt, &bytes), SAE_OK);
        ck_assert_uint_gt(bytes, last);
        last = bytes;
        ACCEPTED(sae_ctx_create(&c, model, &opt, &err));
        ck_assert_int_eq(atomic_load(&counted.live_bytes) - before, (long)bytes);
        sae_ctx_free(c);
        ck_assert_int_eq(atomic_load(&counted.live_bytes), before);
        atomic_store(&counted.fail_at, atomic_load(&counted.asked));
        REFUSED(SAE_E_NOMEM, "max_rows|2000|bytes", sae_ctx_create(&c, model, &opt, &err));
        ck_assert_ptr_null(c);
    }
    size_t by_default = 0;
    ck_assert_int_eq(sae_ctx_bytes(model, NULL, &by_default), SAE_OK);
    ck_assert_uint_eq(by_default, last);
}
END_TEST

/* A pre-activation of 0 may be among the k largest, but it is no code. */
START_TEST(zeros_are_no_codes)
{
    enum { FEATURES = 6 };
    static const float weights[FEATURES] = {0}, h[FEATURES] = {0.0f, -0.0f, 1.0f, -2.0f, 0.0f, 0.5f};
    static const float thresholds[FEATURES] = {-1.0f, -1.0f, -1.0f, -1.0f, -1.0f, -1.0f};
    static const struct {
        sae_arch arch;
        uint32_t flags;
        int32_t n, indices[3];
    } cases[] = {{SAE_ABSTOPK, 0, 3, {2, 3, 5}}, {SAE_TOPK, SAE_KEEP_NEGATIVE, 2, {2, 5}}, {SAE_JUMPRELU, SAE_KEEP_NEGATIVE, 2, {2, 5}}};
    float one = 1.0f;
    const sae_rows rows = rows_plain(&one, 1, 1);
    for (size_t i = 0; i < LENGTH(cases); i++) {
        const sae_weights w = {.struct_size = sizeof w,
                               .arch = cases[i].arch,
                               .dtype = SAE_F32,
                               .flags = cases[i].flags,
                               .d_in = 1,
                               .d_sae = FEATURES,
                               .k = 4,
                               .w_enc = weights,
                               .w_dec = weights,
                               .b_enc = h,
                               .threshold = thresholds};
        sae_model *m;
        ACCEPTED(sae_model_create(&m, env, &w, &err));
        sae_ctx *c = ctx_make(m, 1);
        sae_codes codes = codes_of(c, &rows);
        ck_assert_int_eq(codes.indptr[1], cases[i].n);
        for (int32_t t = 0; t < cases[i].n; t++) {
            ck_assert_int_eq(codes.indices[t], cases[i].indices[t]);
            ck_assert_float_eq(codes.values[t], h[cases[i].indices[t]]);
        }
        codes_free(&codes);
        sae_ctx_free(c);
        sae_model_free(m);
    }
}
END_TEST

/* ---- forward ---- */

START_TEST(forward_arguments)
{
    float y[ROWS * D];
    const sae_rows in = rows_plain(x, ROWS, D), out = rows_plain(y, ROWS, D), few = rows_plain(y, ROWS - 1, D);
    sae_rows bad = out;
    ck_assert_int_eq(sae_forward(NULL, &out, &in), SAE_E_ARG);
    CTX_REFUSED(SAE_E_ARG, "rows are NULL", ctx, sae_forward(ctx, NULL, &in));
    CTX_REFUSED(SAE_E_ARG, "rows are NULL", ctx, sae_forward(ctx, &out, NULL));
    CTX_REFUSED(SAE_E_SHAPE, "x has 9 rows, y has 8", ctx, sae_forward(ctx, &few, &in));
    bad.stride_bytes = 4;
    CTX_REFUSED(SAE_E_ARG, "stride_bytes = 4", ctx, sae_forward(ctx, &bad, &in));
    CTX_ACCEPTED(ctx, sae_forward(ctx, &out, &in));
}
END_TEST

/* ---- rows that come in ---- */

typedef sae_status (*call)(const sae_rows *rows);

static sae_status call_encode(const sae_rows *rows)
{
    sae_codes c = codes_make(ROWS, ROWS * N, false);
    const sae_status status = sae_encode(ctx, &c, rows);
    codes_free(&c);
    return status;
}

static sae_status call_dense(const sae_rows *rows)
{
    float *out = calloc(ROWS * N, sizeof *out);
    const sae_status status = sae_encode_dense(ctx, out, 0, rows);
    free(out);
    return status;
}

static sae_status call_probe(const sae_rows *rows)
{
    static const int32_t features[] = {5, 1999, 0};
    float out[ROWS * 3];
    sae_probe *probe;
    ACCEPTED(sae_probe_create(&probe, model, features, 3, &err));
    const sae_status status = sae_probe_run(probe, ctx, out, 0, rows, 0);
    sae_probe_free(probe);
    return status;
}

static sae_status call_decode(const sae_rows *rows)
{
    sae_codes c = codes_make(ROWS, 0, false);
    const sae_status status = sae_decode(ctx, rows, &c);
    codes_free(&c);
    return status;
}

static sae_status call_measure(const sae_rows *rows)
{
    float error[ROWS];
    sae_codes c = codes_make(ROWS, 0, false);
    const sae_status status = sae_measure(ctx, error, NULL, rows, &c);
    codes_free(&c);
    return status;
}

static sae_status call_forward(const sae_rows *rows)
{
    float *out = calloc(ROWS * D, sizeof *out);
    const sae_rows to = rows_plain(out, ROWS, D);
    const sae_status status = sae_forward(ctx, &to, rows);
    free(out);
    return status;
}

static const call calls[] = {call_encode, call_dense, call_probe, call_decode, call_measure, call_forward};

START_TEST(rows_refused)
{
    const call f = calls[_i];
    const sae_rows good = rows_plain(x, ROWS, D);
    sae_rows r = good;
    CTX_ACCEPTED(ctx, f(&good));
    CTX_REFUSED(SAE_E_ARG, "rows are NULL", ctx, f(NULL));
    static const sae_dtype dtypes[] = {0, 4, -1};
    for (size_t i = 0; i < LENGTH(dtypes); i++) {
        r.dtype = dtypes[i];
        CTX_REFUSED(SAE_E_ARG, "sae_rows.dtype|SAE_BF16", ctx, f(&r));
    }
    r = good;
    r.n_rows = -1;
    CTX_REFUSED(SAE_E_ARG, "n_rows = -1", ctx, f(&r));
    r = good;
    r.x = NULL;
    CTX_REFUSED(SAE_E_ARG, "n_rows = 9|NULL", ctx, f(&r));
    for (size_t size = 0; size <= sizeof good + 16; size++)
        for (int tail = 0; tail < 2; tail++) {
            const size_t whole = offsetof(sae_rows, slot); /* slot is not read here */
            if (size > 4 && size < whole)
                continue;
            void *other = resized(&good, sizeof good, size, (unsigned char)tail);
            if (size <= 4)
                CTX_REFUSED(SAE_E_ARG, "sae_rows.struct_size", ctx, f(other));
            else if (size > sizeof good && tail)
                CTX_REFUSED(SAE_E_VERSION, "sae_rows", ctx, f(other));
            else
                CTX_ACCEPTED(ctx, f(other));
            free(other);
        }
    CTX_ACCEPTED(ctx, f(&good)); /* and the sentence is gone again */
}
END_TEST

/* ---- encode ---- */

START_TEST(encode_arguments)
{
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_codes c = codes_make(ROWS, ROWS * N, true), bad;
    ck_assert_int_eq(sae_encode(NULL, &c, &rows), SAE_E_ARG);
    CTX_REFUSED(SAE_E_ARG, "codes are NULL", ctx, sae_encode(ctx, NULL, &rows));
    bad = c;
    bad.reserved = 1;
    CTX_REFUSED(SAE_E_ARG, "reserved = 1", ctx, sae_encode(ctx, &bad, &rows));
    bad = c;
    bad.indptr = NULL;
    CTX_REFUSED(SAE_E_ARG, "indptr is NULL", ctx, sae_encode(ctx, &bad, &rows));
    bad = c;
    bad.capacity = -1;
    CTX_REFUSED(SAE_E_ARG, "capacity = -1", ctx, sae_encode(ctx, &bad, &rows));
    bad = c;
    bad.indices = NULL;
    CTX_REFUSED(SAE_E_ARG, "indices is NULL", ctx, sae_encode(ctx, &bad, &rows));
    bad = c;
    bad.values = NULL;
    CTX_REFUSED(SAE_E_ARG, "values is NULL", ctx, sae_encode(ctx, &bad, &rows));
    for (size_t size = 0; size <= sizeof c + 16; size++)
        for (int tail = 0; tail < 2; tail++) {
            if (size > 4 && size < sizeof c && size != offsetof(sae_codes, row_scale) && size != offsetof(sae_codes, row_shift))
                continue;
            sae_codes *other = resized(&c, sizeof c, size, (unsigned char)tail);
            if (size <= 4)
                CTX_REFUSED(SAE_E_ARG, "sae_codes.struct_size", ctx, sae_encode(ctx, other, &rows));
            else if (size > sizeof c && tail)
                CTX_REFUSED(SAE_E_VERSION, "sae_codes", ctx, sae_encode(ctx, other, &rows));
            else
                CTX_ACCEPTED(ctx, sae_encode(ctx, other, &rows));
            ck_assert_uint_eq(other->struct_size, size);
            free(other);
        }
    codes_free(&c);
}
END_TEST

/* Too small by one, by all, absent: indptr says what is needed, nothing is written past the end. */
START_TEST(encode_capacity)
{
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_codes want = codes_of(ctx, &rows);
    const int64_t needed = want.indptr[ROWS];
    ck_assert_int_gt(needed, ROWS);
    for (int64_t capacity = 0; capacity < needed; capacity += capacity + 1 < needed / 2 ? needed / 3 : 1) {
        sae_codes c = codes_make(ROWS, needed, true);
        c.capacity = capacity;
        if (!capacity) {
            free(c.indices);
            free(c.values);
            c.indices = NULL;
            c.values = NULL;
        }
        for (int64_t i = capacity; c.indices && i < needed; i++)
            c.indices[i] = -7;
        CTX_REFUSED(SAE_E_CAPACITY, "codes in 9 rows|capacity", ctx, sae_encode(ctx, &c, &rows));
        ck_assert_int_eq(c.n_rows, ROWS);
        ck_assert_mem_eq(c.indptr, want.indptr, (ROWS + 1) * sizeof *c.indptr);
        for (int64_t i = capacity; c.indices && i < needed; i++)
            ck_assert_int_eq(c.indices[i], -7);
        codes_free(&c);
    }
    sae_codes c = codes_make(ROWS, needed, true);
    CTX_ACCEPTED(ctx, sae_encode(ctx, &c, &rows));
    ck_assert(codes_same(&c, &want));
    codes_free(&c);
    codes_free(&want);
}
END_TEST

START_TEST(encode_nothing)
{
    sae_rows rows = rows_plain(NULL, 0, D);
    int64_t indptr = 77;
    sae_codes c = {.struct_size = sizeof c, .n_rows = 5, .indptr = &indptr};
    CTX_ACCEPTED(ctx, sae_encode(ctx, &c, &rows));
    ck_assert(c.n_rows == 0 && indptr == 0);
    CTX_ACCEPTED(ctx, sae_encode_dense(ctx, NULL, 0, &rows));
    CTX_ACCEPTED(ctx, sae_decode(ctx, &rows, &c));
    float error;
    double fvu = 1.0;
    CTX_ACCEPTED(ctx, sae_measure(ctx, &error, &fvu, &rows, &c));
    ck_assert(isnan(fvu));
    const int32_t feature = 1;
    sae_probe *probe;
    ACCEPTED(sae_probe_create(&probe, model, &feature, 1, &err));
    CTX_ACCEPTED(ctx, sae_probe_run(probe, ctx, NULL, 0, &rows, 0));
    sae_probe_free(probe);
}
END_TEST

/* Every stride and type the rows may come in: the same codes as from plain f32 rows of the same values. */
START_TEST(encode_any_rows)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    static const size_t gaps[] = {0, 1, 2, 3, 64};
    const sae_rows plain = rows_plain(x, ROWS, D);
    sae_codes want = codes_of(ctx, &plain);
    sae_rows contiguous = plain;
    contiguous.stride_bytes = 0;
    sae_codes got = codes_of(ctx, &contiguous);
    ck_assert(codes_same(&got, &want));
    codes_free(&got);
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (size_t g = 0; g < LENGTH(gaps); g++)
            for (int backwards = 0; backwards < 2; backwards++) {
                void *block;
                const sae_rows rows = rows_make(&block, x, dtypes[t], ROWS, D, gaps[g], backwards);
                got = codes_of(ctx, &rows);
                ck_assert_msg(codes_same(&got, &want), "%s rows, gap %zu", sae_dtype_name(dtypes[t]), gaps[g]);
                codes_free(&got);
                free(block);
            }
    sae_rows overlapping = plain; /* rows that are only read may share elements */
    overlapping.stride_bytes = 4;
    overlapping.n_rows = ROWS * D - D + 1;
    got = codes_of(ctx, &overlapping);
    for (int64_t i = 0; i < want.indptr[1]; i++)
        ck_assert_int_eq(got.indices[i], want.indices[i]);
    codes_free(&got);
    codes_free(&want);
}
END_TEST

START_TEST(encode_dense_out)
{
    enum { GAP = 3 };
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_codes want = codes_of(ctx, &rows);
    static float out[ROWS * (N + GAP)];
    const int64_t row = N * (int64_t)sizeof(float), stride = row + GAP * (int64_t)sizeof(float);
    for (int backwards = 0; backwards < 2; backwards++) {
        for (size_t i = 0; i < LENGTH(out); i++)
            out[i] = -1.0f;
        float *first = backwards ? out + (ROWS - 1) * (N + GAP) : out;
        CTX_ACCEPTED(ctx, sae_encode_dense(ctx, first, backwards ? -stride : stride, &rows));
        for (int64_t r = 0; r < ROWS; r++) {
            const float *dense = first + (backwards ? -r : r) * (N + GAP);
            int64_t at = want.indptr[r];
            for (int32_t j = 0; j < N; j++) {
                const bool on = at < want.indptr[r + 1] && want.indices[at] == j;
                const float value = on ? want.values[at++] : 0.0f;
                ck_assert_mem_eq(dense + j, &value, sizeof value);
            }
            for (int g = 0; g < GAP; g++)
                ck_assert(dense[N + g] == -1.0f);
        }
    }
    ck_assert_int_eq(sae_encode_dense(NULL, out, 0, &rows), SAE_E_ARG);
    CTX_REFUSED(SAE_E_ARG, "out is NULL", ctx, sae_encode_dense(ctx, NULL, 0, &rows));
    CTX_REFUSED(SAE_E_ARG, "out_stride_bytes = 7999|8000", ctx, sae_encode_dense(ctx, out, row - 1, &rows));
    CTX_REFUSED(SAE_E_ARG, "out_stride_bytes = -7999", ctx, sae_encode_dense(ctx, out, 1 - row, &rows));
    codes_free(&want);
}
END_TEST

/* NaN and Inf in a row: its features are off and counted, the neighbours do not notice. */
START_TEST(encode_nonfinite)
{
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_codes want = codes_of(ctx, &rows);
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    ck_assert_int_eq(sae_ctx_nonfinite(ctx), 0);
    for (size_t b = 0; b < LENGTH(bad); b++) {
        const float before = x[4 * D + 5];
        x[4 * D + 5] = bad[b];
        sae_codes c = codes_of(ctx, &rows);
        int64_t off = 0;
        for (int32_t j = 0; j < N; j++)
            off += p.enc[(size_t)j * D + 5] != 0.0f || isnan(bad[b]) || isinf(bad[b]); /* 0 * Inf is NaN */
        ck_assert_int_eq(sae_ctx_nonfinite(ctx), off);
        ck_assert_int_eq(c.indptr[5], c.indptr[4]);
        for (int64_t r = 0; r < ROWS; r++)
            if (r != 4) {
                ck_assert_int_eq(c.indptr[r + 1] - c.indptr[r], want.indptr[r + 1] - want.indptr[r]);
                const size_t n = (size_t)(c.indptr[r + 1] - c.indptr[r]);
                ck_assert_mem_eq(c.values + c.indptr[r], want.values + want.indptr[r], n * sizeof(float));
            }
        codes_free(&c);
        x[4 * D + 5] = before;
    }
    sae_codes again = codes_of(ctx, &rows);
    ck_assert_int_eq(sae_ctx_nonfinite(ctx), 0);
    ck_assert(codes_same(&again, &want));
    codes_free(&again);
    codes_free(&want);
}
END_TEST

/* ---- decode and measure ---- */

typedef struct bad_codes {
    const char *words;
    sae_status status;
    int64_t n_rows, capacity;
    int64_t indptr[3];
    int32_t indices[4];
} bad_codes;

static const bad_codes wrong[] = {
    {"3 rows|2", SAE_E_SHAPE, 3, 4, {0, 2, 4}, {0, 1, 2, 3}},
    {"-1 rows|2", SAE_E_SHAPE, -1, 4, {0, 2, 4}, {0, 1, 2, 3}},
    {"row 0|feature 2000|1999", SAE_E_ARG, 2, 4, {0, 2, 4}, {0, 2000, 2, 3}},
    {"row 1|feature -1", SAE_E_ARG, 2, 4, {0, 2, 4}, {0, 1, -1, 3}},
    {"row 1|5 to 5|ascend", SAE_E_ARG, 2, 4, {0, 2, 4}, {0, 1, 5, 5}},
    {"row 0|7 to 3|ascend", SAE_E_ARG, 2, 4, {0, 2, 4}, {7, 3, 4, 5}},
    {"indptr[2] = 1 after 2", SAE_E_ARG, 2, 4, {0, 2, 1}, {0, 1, 2, 3}},
    {"indptr[2] = 5|capacity 4", SAE_E_ARG, 2, 4, {0, 2, 5}, {0, 1, 2, 3}},
    {"indptr[0] = -1", SAE_E_ARG, 2, 4, {-1, 2, 4}, {0, 1, 2, 3}},
};

START_TEST(decode_refuses)
{
    const bad_codes *b = wrong + _i;
    int64_t indptr[3];
    int32_t indices[4];
    float values[4] = {1.0f, 2.0f, 3.0f, 4.0f}, y[2 * D], error[2] = {-1.0f, -1.0f};
    memcpy(indptr, b->indptr, sizeof indptr);
    memcpy(indices, b->indices, sizeof indices);
    const sae_codes c = {
        .struct_size = sizeof c, .n_rows = b->n_rows, .capacity = b->capacity, .indptr = indptr, .indices = indices, .values = values};
    const sae_rows rows = rows_plain(y, 2, D);
    for (int k = 0; k < 2 * D; k++)
        y[k] = 7.0f;
    CTX_REFUSED(b->status, b->words, ctx, sae_decode(ctx, &rows, &c));
    for (int k = 0; k < 2 * D; k++)
        ck_assert(y[k] == 7.0f); /* untouched */
    CTX_REFUSED(b->status, b->words, ctx, sae_measure(ctx, error, NULL, &rows, &c));
    ck_assert(error[0] == -1.0f && error[1] == -1.0f);
}
END_TEST

START_TEST(decode_arguments)
{
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_codes c = codes_of(ctx, &rows);
    float y[ROWS * D], error[ROWS];
    double fvu;
    sae_rows out = rows_plain(y, ROWS, D);
    ck_assert_int_eq(sae_decode(NULL, &out, &c), SAE_E_ARG);
    ck_assert_int_eq(sae_measure(NULL, error, NULL, &rows, &c), SAE_E_ARG);
    CTX_REFUSED(SAE_E_ARG, "codes are NULL", ctx, sae_decode(ctx, &out, NULL));
    CTX_REFUSED(SAE_E_ARG, "codes are NULL", ctx, sae_measure(ctx, error, NULL, &rows, NULL));
    CTX_REFUSED(SAE_E_ARG, "error is NULL", ctx, sae_measure(ctx, NULL, &fvu, &rows, &c));
    out.stride_bytes = D * 4 - 1;
    CTX_REFUSED(SAE_E_ARG, "stride_bytes = 47|48", ctx, sae_decode(ctx, &out, &c)); /* rows that are written may not overlap */
    out.stride_bytes = -1;
    CTX_REFUSED(SAE_E_ARG, "stride_bytes = -1", ctx, sae_decode(ctx, &out, &c));
    out.n_rows = 1;
    out.stride_bytes = 1; /* of one row nothing overlaps */
    CTX_REFUSED(SAE_E_SHAPE, "9 rows|1", ctx, sae_decode(ctx, &out, &c));
    for (size_t size = 0; size <= sizeof c + 16; size++) {
        if (size > 4 && size <= sizeof c)
            continue;
        void *other = resized(&c, sizeof c, size, 1);
        out = rows_plain(y, ROWS, D);
        CTX_REFUSED(size <= 4 ? SAE_E_ARG : SAE_E_VERSION, "sae_codes", ctx, sae_decode(ctx, &out, other));
        CTX_REFUSED(size <= 4 ? SAE_E_ARG : SAE_E_VERSION, "sae_codes", ctx, sae_measure(ctx, error, NULL, &rows, other));
        free(other);
    }
    codes_free(&c);
}
END_TEST

/* Where rows are normalised one by one, decode needs what encode wrote; elsewhere it is ignored. */
START_TEST(decode_normalised)
{
    static const struct {
        sae_norm norm;
        bool needed;
    } norms[] = {{SAE_NORM_NONE, false}, {SAE_NORM_SCALE, false}, {SAE_NORM_CONSTANT, true}, {SAE_NORM_LAYER, true}};
    teardown();
    for (size_t i = 0; i < LENGTH(norms); i++) {
        float with[ROWS * D], without[ROWS * D];
        setup_arch(SAE_STANDARD, norms[i].norm);
        const sae_rows rows = rows_plain(x, ROWS, D), y = rows_plain(with, ROWS, D), z = rows_plain(without, ROWS, D);
        sae_codes c = codes_of(ctx, &rows);
        CTX_ACCEPTED(ctx, sae_decode(ctx, &y, &c));
        sae_codes bare = c;
        bare.row_scale = NULL;
        if (norms[i].needed)
            CTX_REFUSED(SAE_E_ARG, "row_scale|row_shift", ctx, sae_decode(ctx, &z, &bare));
        bare = c;
        bare.row_shift = NULL;
        if (norms[i].needed)
            CTX_REFUSED(SAE_E_ARG, sae_norm_name(norms[i].norm), ctx, sae_decode(ctx, &z, &bare));
        bare.row_scale = NULL;
        if (!norms[i].needed) {
            CTX_ACCEPTED(ctx, sae_decode(ctx, &z, &bare));
            ck_assert_mem_eq(with, without, sizeof with);
        }
        codes_free(&c);
        teardown();
    }
    setup();
}
END_TEST

START_TEST(decode_any_rows)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_codes c = codes_of(ctx, &rows);
    float want[ROWS * D], got[ROWS * D];
    const sae_rows plain = rows_plain(want, ROWS, D);
    CTX_ACCEPTED(ctx, sae_decode(ctx, &plain, &c));
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (size_t gap = 0; gap < 4; gap++)
            for (int backwards = 0; backwards < 2; backwards++) {
                void *block;
                const sae_rows out = rows_make(&block, x, dtypes[t], ROWS, D, gap, backwards);
                CTX_ACCEPTED(ctx, sae_decode(ctx, &out, &c));
                rows_load(got, &out, D);
                for (int k = 0; k < ROWS * D; k++) { /* rounded once */
                    uint32_t h = 0;
                    element_store(&h, dtypes[t], (double)want[k]);
                    ck_assert((double)got[k] == element_load(&h, dtypes[t]));
                }
                const size_t each = sae_dtype_bytes(dtypes[t]);
                for (int64_t r = 0; r < ROWS; r++) /* the gaps are the caller's */
                    for (size_t g = 0; g < gap && gap > 1 && r + 1 < ROWS; g++)
                        ck_assert_uint_eq(((unsigned char *)out.x + r * out.stride_bytes + D * each)[backwards ? 0 : g], 0xcc);
                free(block);
            }
    codes_free(&c);
}
END_TEST

START_TEST(measure_values)
{
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_codes c = codes_of(ctx, &rows);
    float y[ROWS * D], error[ROWS];
    double fvu, sum = 0.0, total = 0.0;
    const sae_rows out = rows_plain(y, ROWS, D);
    CTX_ACCEPTED(ctx, sae_decode(ctx, &out, &c));
    CTX_ACCEPTED(ctx, sae_measure(ctx, error, &fvu, &rows, &c));
    for (int r = 0; r < ROWS; r++) {
        double e = 0.0;
        for (int k = 0; k < D; k++)
            e += ((double)x[r * D + k] - (double)y[r * D + k]) * ((double)x[r * D + k] - (double)y[r * D + k]);
        ck_assert(error[r] == (float)e);
        sum += (double)error[r];
    }
    for (int k = 0; k < D; k++) {
        double mean = 0.0;
        for (int r = 0; r < ROWS; r++)
            mean += (double)x[r * D + k] / ROWS;
        for (int r = 0; r < ROWS; r++)
            total += ((double)x[r * D + k] - mean) * ((double)x[r * D + k] - mean);
    }
    ck_assert(fabs(fvu - sum / total) < 1e-12 * fabs(fvu));
    float again[ROWS];
    CTX_ACCEPTED(ctx, sae_measure(ctx, again, NULL, &rows, &c));
    ck_assert_mem_eq(again, error, sizeof error);
    sae_rows one = rows; /* one row does not vary */
    one.n_rows = 1;
    sae_codes first = c;
    first.n_rows = 1;
    CTX_ACCEPTED(ctx, sae_measure(ctx, error, &fvu, &one, &first));
    ck_assert(isnan(fvu));
    codes_free(&c);
}
END_TEST

/* ---- probe ---- */

START_TEST(probe_arguments)
{
    sae_probe *probe = (sae_probe *)&err;
    int32_t features[3] = {0, 1999, 7};
    const sae_rows rows = rows_plain(x, ROWS, D);
    float out[ROWS * 3];
    REFUSED(SAE_E_ARG, "out is NULL", sae_probe_create(NULL, model, features, 3, &err));
    REFUSED(SAE_E_ARG, "model is NULL", sae_probe_create(&probe, NULL, features, 3, &err));
    ck_assert_ptr_null(probe);
    REFUSED(SAE_E_ARG, "features is NULL", sae_probe_create(&probe, model, NULL, 3, &err));
    REFUSED(SAE_E_ARG, "n_features = 0", sae_probe_create(&probe, model, features, 0, &err));
    REFUSED(SAE_E_ARG, "n_features = -1", sae_probe_create(&probe, model, features, -1, &err));
    REFUSED(SAE_E_ARG, "n_features = 2001|2000", sae_probe_create(&probe, model, features, N + 1, &err));
    features[1] = N;
    REFUSED(SAE_E_ARG, "features[1] = 2000|1999", sae_probe_create(&probe, model, features, 3, &err));
    features[1] = -5;
    REFUSED(SAE_E_ARG, "features[1] = -5", sae_probe_create(&probe, model, features, 3, &err));
    ck_assert_ptr_null(probe);
    features[1] = 0; /* repeats are allowed */
    const long live = atomic_load(&counted.live_blocks);
    atomic_store(&counted.fail_at, atomic_load(&counted.asked) + 2);
    REFUSED(SAE_E_NOMEM, "3 features|bytes", sae_probe_create(&probe, model, features, 3, &err));
    ck_assert_ptr_null(probe);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), live);
    ACCEPTED(sae_probe_create(&probe, model, features, 3, &err));
    ck_assert_int_eq(sae_probe_run(probe, NULL, out, 0, &rows, 0), SAE_E_ARG);
    CTX_REFUSED(SAE_E_ARG, "probe is NULL", ctx, sae_probe_run(NULL, ctx, out, 0, &rows, 0));
    CTX_REFUSED(SAE_E_ARG, "out is NULL", ctx, sae_probe_run(probe, ctx, NULL, 0, &rows, 0));
    CTX_REFUSED(SAE_E_ARG, "flags = 0x2", ctx, sae_probe_run(probe, ctx, out, 0, &rows, 2));
    CTX_REFUSED(SAE_E_ARG, "out_stride_bytes = 11|12 bytes", ctx, sae_probe_run(probe, ctx, out, 11, &rows, 0));
    sae_model *other = planted_model(&p, env);
    sae_ctx *others = ctx_make(other, 1);
    CTX_REFUSED(SAE_E_ARG, "another model", others, sae_probe_run(probe, others, out, 0, &rows, 0));
    sae_ctx_free(others);
    sae_model_free(other);
    sae_probe_free(probe);
    sae_probe_free(NULL);
}
END_TEST

START_TEST(probe_strides)
{
    static const int32_t features[] = {1999, 3, 3, 0};
    enum { M = 4, GAP = 2 };
    float plain[ROWS * M], out[ROWS * (M + GAP)];
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_probe *probe;
    ACCEPTED(sae_probe_create(&probe, model, features, M, &err));
    CTX_ACCEPTED(ctx, sae_probe_run(probe, ctx, plain, 0, &rows, 0));
    for (int backwards = 0; backwards < 2; backwards++) {
        for (size_t i = 0; i < LENGTH(out); i++)
            out[i] = -1.0f;
        float *first = backwards ? out + (ROWS - 1) * (M + GAP) : out;
        CTX_ACCEPTED(ctx, sae_probe_run(probe, ctx, first, (backwards ? -1 : 1) * (int64_t)sizeof(float) * (M + GAP), &rows, 0));
        for (int64_t r = 0; r < ROWS; r++) {
            const float *row = first + (backwards ? -r : r) * (M + GAP);
            ck_assert_mem_eq(row, plain + r * M, M * sizeof *row);
            ck_assert(row[M] == -1.0f && row[M + 1] == -1.0f);
        }
    }
    sae_probe_free(probe);
}
END_TEST

/* ---- busy, host ---- */

/* A runner that, in the middle of a call, tries every other call on the same ctx. */
typedef struct intruder {
    sae_ctx *ctx;
    sae_probe *probe;
    const sae_rows *rows;
    sae_codes *codes;
    float *out;
    int entered, busy;
} intruder;

static int32_t run_intruding(void *user, void *job, sae_task task, uint32_t n)
{
    intruder *in = user;
    if (in->ctx) {
        in->entered++;
        in->busy += sae_encode(in->ctx, in->codes, in->rows) == SAE_E_BUSY;
        in->busy += sae_encode_dense(in->ctx, in->out, 0, in->rows) == SAE_E_BUSY;
        in->busy += sae_decode(in->ctx, in->rows, in->codes) == SAE_E_BUSY;
        in->busy += sae_measure(in->ctx, in->out, NULL, in->rows, in->codes) == SAE_E_BUSY;
        in->busy += sae_probe_run(in->probe, in->ctx, in->out, 0, in->rows, 0) == SAE_E_BUSY;
    }
    return run_forwards(NULL, job, task, n);
}

START_TEST(busy)
{
    intruder in = {0};
    const int32_t feature = 2;
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_env *e = env_make(&counted, SAE_ISA_AUTO, run_intruding, &in, 1);
    sae_model *m = planted_model(&p, e);
    sae_ctx *c = ctx_make(m, 64);
    sae_codes want = codes_of(c, &rows), got = codes_make(ROWS, ROWS * N, true), scratch = codes_make(ROWS, ROWS * N, true);
    float *out = malloc(ROWS * N * sizeof *out), y[ROWS * D], error[ROWS];
    const sae_rows to = rows_plain(y, ROWS, D);
    ACCEPTED(sae_probe_create(&in.probe, m, &feature, 1, &err));
    in.rows = &rows;
    in.codes = &scratch;
    in.out = out;
    in.ctx = c;
    CTX_ACCEPTED(c, sae_encode(c, &got, &rows));
    ck_assert_int_eq(in.entered, 1);
    ck_assert_int_eq(in.busy, 5);
    CTX_ACCEPTED(c, sae_decode(c, &to, &got));
    CTX_ACCEPTED(c, sae_measure(c, error, NULL, &rows, &got));
    ck_assert_int_eq(in.busy, 15);
    ck_assert(codes_same(&got, &want)); /* and nothing was disturbed */
    in.ctx = NULL;
    CTX_ACCEPTED(c, sae_encode(c, &got, &rows)); /* free again */
    codes_free(&want);
    codes_free(&got);
    codes_free(&scratch);
    free(out);
    sae_probe_free(in.probe);
    sae_ctx_free(c);
    sae_model_free(m);
    sae_env_free(e);
}
END_TEST

START_TEST(failing_runner)
{
    int left = 1 << 30;
    const int32_t feature = 2;
    const sae_rows rows = rows_plain(x, ROWS, D);
    float y[ROWS * D], error[ROWS], *out = malloc(ROWS * N * sizeof *out);
    const sae_rows to = rows_plain(y, ROWS, D);
    p.weights.arch = SAE_TOPK;
    sae_env *e = env_make(&counted, SAE_ISA_AUTO, run_failing, &left, 1);
    sae_model *m = planted_model(&p, e);
    sae_ctx *c = ctx_make(m, 4);
    sae_probe *probe;
    ACCEPTED(sae_probe_create(&probe, m, &feature, 1, &err));
    sae_codes codes = codes_of(c, &rows);
    left = 0;
    CTX_REFUSED(SAE_E_HOST, "parallel-for|rows 0 .. 3", c, sae_encode(c, &codes, &rows));
    left = 2;
    CTX_REFUSED(SAE_E_HOST, "rows 8 .. 8", c, sae_encode(c, &codes, &rows));
    left = 0;
    CTX_REFUSED(SAE_E_HOST, "parallel-for", c, sae_encode_dense(c, out, 0, &rows));
    CTX_REFUSED(SAE_E_HOST, "parallel-for", c, sae_probe_run(probe, c, out, 0, &rows, 0));
    CTX_ACCEPTED(c, sae_probe_run(probe, c, out, 0, &rows, SAE_PROBE_PRE)); /* needs no encode */
    left = 1 << 30;
    CTX_ACCEPTED(c, sae_encode(c, &codes, &rows));
    left = 0;
    CTX_REFUSED(SAE_E_HOST, "9 rows", c, sae_decode(c, &to, &codes));
    CTX_REFUSED(SAE_E_HOST, "9 rows", c, sae_measure(c, error, NULL, &rows, &codes));
    codes_free(&codes);
    free(out);
    sae_probe_free(probe);
    sae_ctx_free(c);
    sae_model_free(m);
    sae_env_free(e);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api codec");
    TCase *tc = tcase_create("codec");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, ctx_arguments);
    tcase_add_test(tc, ctx_memory);
    tcase_add_test(tc, zeros_are_no_codes);
    tcase_add_test(tc, forward_arguments);
    tcase_add_loop_test(tc, rows_refused, 0, LENGTH(calls));
    tcase_add_test(tc, encode_arguments);
    tcase_add_test(tc, encode_capacity);
    tcase_add_test(tc, encode_nothing);
    tcase_add_test(tc, encode_any_rows);
    tcase_add_test(tc, encode_dense_out);
    tcase_add_test(tc, encode_nonfinite);
    tcase_add_loop_test(tc, decode_refuses, 0, LENGTH(wrong));
    tcase_add_test(tc, decode_arguments);
    tcase_add_test(tc, decode_normalised);
    tcase_add_test(tc, decode_any_rows);
    tcase_add_test(tc, measure_values);
    tcase_add_test(tc, probe_arguments);
    tcase_add_test(tc, probe_strides);
    tcase_add_test(tc, busy);
    tcase_add_test(tc, failing_runner);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
