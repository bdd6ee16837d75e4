/* sae/gemm.h as a program sees it: every function, every status, the numbers and what they may not depend on. */
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/support.h"
#include "support/run.h"

static sae_error err;
static heap counted;
static sae_env *env;
static bool has_blis;

static void setup(void)
{
    heap_init(&counted);
    env = env_make(&counted, SAE_ISA_AUTO, NULL, NULL, 0);
    has_blis = sae_gemm_blis_available() == SAE_YES;
}

static void teardown(void)
{
    sae_env_free(env);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), 0);
}

/* ---- a layer: weights [n_out][n_in] and bias, stored in any dtype with `gap` more elements between rows, at an odd address ---- */

typedef struct layer {
    sae_gemm_weights weights;
    float *w, *bias;
    void *block;
} layer;

static layer layer_make(int32_t n_out, int32_t n_in, sae_dtype dtype, int gap, bool with_bias, uint64_t seed)
{
    rng r = {seed};
    const size_t each = sae_dtype_bytes(dtype), stride = ((size_t)n_in + (size_t)gap) * each;
    layer l = {.w = malloc((size_t)n_out * (size_t)n_in * sizeof *l.w),
               .bias = malloc((size_t)n_out * sizeof *l.bias),
               .block = malloc((size_t)(n_out - 1) * stride + (size_t)n_in * each + 1)};
    ck_assert(l.w && l.bias && l.block);
    for (int32_t j = 0; j < n_out; j++) {
        l.bias[j] = (float)rng_between(&r, -3, 3);
        for (int32_t k = 0; k < n_in; k++) {
            l.w[j * n_in + k] = rng_weight(&r);
            element_store((unsigned char *)l.block + 1 + (size_t)j * stride + (size_t)k * each, dtype, (double)l.w[j * n_in + k]);
        }
    }
    l.weights = (sae_gemm_weights){.struct_size = sizeof l.weights,
                                   .dtype = dtype,
                                   .w = (unsigned char *)l.block + 1,
                                   .stride_bytes = gap ? (int64_t)stride : 0,
                                   .bias = with_bias ? l.bias : NULL,
                                   .n_out = n_out,
                                   .n_in = n_in};
    return l;
}

static void layer_free(layer *l)
{
    free(l->w);
    free(l->bias);
    free(l->block);
}

static sae_gemm *pack(sae_env *e, const layer *l, sae_gemm_backend backend)
{
    sae_gemm *g;
    ACCEPTED(sae_gemm_pack(&g, e, &l->weights, backend, &err));
    return g;
}

static float *random_rows(int64_t n, int32_t d, uint64_t seed)
{
    rng r = {seed};
    float *x = malloc((size_t)(n ? n : 1) * (size_t)d * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (int64_t i = 0; i < n * d; i++)
        x[i] = rng_weight(&r);
    return x;
}

/* Scratch as small as may be, full of NaN, with a byte behind it that must stay. */
static sae_status run(const sae_gemm *g, const sae_rows *x, const sae_rows *y)
{
    enum { GUARD = 0x5a };
    size_t bytes;
    ck_assert_int_eq(sae_gemm_scratch_bytes(g, x->n_rows, &bytes), SAE_OK);
    unsigned char *scratch = malloc(bytes + 2);
    ck_assert_ptr_nonnull(scratch);
    memset(scratch, 0xff, bytes + 1);
    scratch[bytes + 1] = GUARD;
    err = (sae_error){.struct_size = sizeof err, .status = 99, .text = "untouched"};
    const long asked = atomic_load(&counted.asked);
    const sae_status status = sae_gemm_run(g, x, y, scratch + 1, bytes, &err);
    ck_assert_int_eq(atomic_load(&counted.asked), asked);
    ck_assert_int_eq(scratch[bytes + 1], GUARD);
    free(scratch);
    return status;
}

/* y [n][n_out] of contiguous f32 rows. */
static float *product(const sae_gemm *g, const float *x, int64_t n, const layer *l)
{
    float *y = malloc((size_t)(n ? n : 1) * (size_t)l->weights.n_out * sizeof *y);
    ck_assert_ptr_nonnull(y);
    const sae_rows in = rows_plain((float *)(uintptr_t)x, n, l->weights.n_in), out = rows_plain(y, n, l->weights.n_out);
    ck_assert_int_eq(run(g, &in, &out), SAE_OK);
    return y;
}

/* ---- names, sizes, info ---- */

START_TEST(names)
{
    ck_assert_str_eq(sae_gemm_backend_name(SAE_GEMM_NATIVE), "native");
    ck_assert_str_eq(sae_gemm_backend_name(SAE_GEMM_BLIS), "blis");
    ck_assert_str_eq(sae_gemm_backend_name(SAE_GEMM_AUTO), "auto");
    ck_assert_str_eq(sae_gemm_backend_name(3), "unknown");
    ck_assert_str_eq(sae_gemm_backend_name(-1), "unknown");
    ck_assert(has_blis || sae_gemm_blis_available() == SAE_NO);
}
END_TEST

START_TEST(info_and_scratch)
{
    layer l = layer_make(100, 30, SAE_F16, 0, true, 1);
    const long before = atomic_load(&counted.live_bytes);
    sae_gemm *g = pack(env, &l, SAE_GEMM_NATIVE);
    sae_gemm_form form = {.struct_size = sizeof form};
    ck_assert_int_eq(sae_gemm_info(g, &form), SAE_OK);
    ck_assert_int_eq(form.struct_size, sizeof form);
    ck_assert_int_eq(form.backend, SAE_GEMM_NATIVE);
    ck_assert_int_eq(form.n_out, 100);
    ck_assert_int_eq(form.n_in, 30);
    ck_assert_int_eq(form.packed_bytes, atomic_load(&counted.live_bytes) - before);
    ck_assert_int_ge(form.packed_bytes, 144 * 30 * 4);
    ck_assert_int_eq(sae_gemm_info(NULL, &form), SAE_E_ARG);
    ck_assert_int_eq(sae_gemm_info(g, NULL), SAE_E_ARG);
    form.struct_size = 0;
    ck_assert_int_eq(sae_gemm_info(g, &form), SAE_E_ARG);
    form = (sae_gemm_form){.struct_size = 8};
    ck_assert_int_eq(sae_gemm_info(g, &form), SAE_OK);
    ck_assert_int_eq(form.n_out, 0);

    size_t bytes[4];
    const int64_t rows[] = {1, 64, 512, 1000000};
    for (size_t i = 0; i < LENGTH(rows); i++)
        ck_assert_int_eq(sae_gemm_scratch_bytes(g, rows[i], bytes + i), SAE_OK);
    ck_assert(bytes[0] < bytes[1] && bytes[1] < bytes[2] && bytes[2] == bytes[3]);
    ck_assert_int_eq(sae_gemm_scratch_bytes(g, 0, bytes), SAE_OK);
    ck_assert_int_eq(sae_gemm_scratch_bytes(g, -1, bytes), SAE_E_ARG);
    ck_assert_int_eq(sae_gemm_scratch_bytes(NULL, 1, bytes), SAE_E_ARG);
    ck_assert_int_eq(sae_gemm_scratch_bytes(g, 1, NULL), SAE_E_ARG);
    sae_gemm_free(g);
    sae_gemm_free(NULL);
    layer_free(&l);
}
END_TEST

static sae_gemm_backend chosen(sae_env *e, const layer *l)
{
    sae_gemm_form form = {.struct_size = sizeof form};
    sae_gemm *g = pack(e, l, SAE_GEMM_AUTO);
    ck_assert_int_eq(sae_gemm_info(g, &form), SAE_OK);
    sae_gemm_free(g);
    return form.backend;
}

START_TEST(auto_takes_blis_for_scalar_only)
{
    layer l = layer_make(3, 5, SAE_F32, 0, false, 1);
    sae_isa isas[8];
    const size_t n = isas_available(isas);
    for (size_t i = 0; i < n; i++) {
        sae_env *e = env_make(&counted, isas[i], NULL, NULL, 0);
        ck_assert_int_eq(chosen(e, &l), isas[i] == SAE_ISA_SCALAR && has_blis ? SAE_GEMM_BLIS : SAE_GEMM_NATIVE);
        sae_env_free(e);
    }
    layer_free(&l);
}
END_TEST

/* ---- what pack refuses ---- */

static const struct {
    sae_status status;
    const char *words;
    sae_gemm_weights change; /* fields that are not 0 replace the good ones */
    bool no_w, zero_out, zero_in;
    sae_gemm_backend backend;
} defects[] = {
    {SAE_E_ARG, "dtype = 9|SAE_BF16", {.dtype = 9}, false, false, false, 0},
    {SAE_E_ARG, "dtype = -1", {.dtype = -1}, false, false, false, 0},
    {SAE_E_ARG, "w is NULL", {0}, true, false, false, 0},
    {SAE_E_ARG, "n_out = 0|n_in = 5", {0}, false, true, false, 0},
    {SAE_E_ARG, "n_out = 7|n_in = 0", {0}, false, false, true, 0},
    {SAE_E_ARG, "n_out = -3", {.n_out = -3}, false, false, false, 0},
    {SAE_E_ARG, "n_in = -2147483648", {.n_in = INT32_MIN}, false, false, false, 0},
    {SAE_E_ARG, "stride_bytes = 16|5 elements", {.stride_bytes = 16}, false, false, false, 0},
    {SAE_E_ARG, "stride_bytes = 22|multiple of 4", {.stride_bytes = 22}, false, false, false, 0},
    {SAE_E_ARG, "stride_bytes = -20", {.stride_bytes = -20}, false, false, false, 0},
    {SAE_E_ARG, "stride_bytes = 8589934592|2^31", {.stride_bytes = (int64_t)4 << 31}, false, false, false, 0},
    {SAE_E_ARG, "stride_bytes = -9223372036854775808", {.stride_bytes = INT64_MIN}, false, false, false, 0},
    {SAE_E_ARG, "backend = 3", {0}, false, false, false, 3},
    {SAE_E_ARG, "backend = -1", {0}, false, false, false, -1},
    {SAE_E_NOMEM, "2147483647 x 2147483647", {.n_out = INT32_MAX, .n_in = INT32_MAX}, false, false, false, 0},
};

START_TEST(pack_refuses)
{
    layer l = layer_make(7, 5, SAE_F32, 0, true, 1);
    sae_gemm_weights w = l.weights;
    sae_gemm *g = (sae_gemm *)&err;
    const sae_gemm_weights *c = &defects[_i].change;
    w.dtype = c->dtype ? c->dtype : w.dtype;
    w.n_out = defects[_i].zero_out ? 0 : c->n_out ? c->n_out : w.n_out;
    w.n_in = defects[_i].zero_in ? 0 : c->n_in ? c->n_in : w.n_in;
    w.w = defects[_i].no_w ? NULL : w.w;
    w.stride_bytes = c->stride_bytes;
    REFUSED(defects[_i].status, defects[_i].words, sae_gemm_pack(&g, env, &w, defects[_i].backend, &err));
    ck_assert_ptr_null(g);
    layer_free(&l);
}
END_TEST

START_TEST(pack_arguments)
{
    layer l = layer_make(7, 5, SAE_F32, 0, true, 1);
    sae_gemm *g = (sae_gemm *)&err;
    REFUSED(SAE_E_ARG, "out is NULL", sae_gemm_pack(NULL, env, &l.weights, SAE_GEMM_NATIVE, &err));
    REFUSED(SAE_E_ARG, "env is NULL", sae_gemm_pack(&g, NULL, &l.weights, SAE_GEMM_NATIVE, &err));
    ck_assert_ptr_null(g);
    g = (sae_gemm *)&err;
    REFUSED(SAE_E_ARG, "weights is NULL", sae_gemm_pack(&g, env, NULL, SAE_GEMM_NATIVE, &err));
    ck_assert_ptr_null(g);
    if (!has_blis)
        REFUSED(SAE_E_UNSUPPORTED, "no BLIS|SAE_GEMM_NATIVE", sae_gemm_pack(&g, env, &l.weights, SAE_GEMM_BLIS, &err));

    void *longer = resized(&l.weights, sizeof l.weights, sizeof l.weights + 8, 0);
    ACCEPTED(sae_gemm_pack(&g, env, longer, SAE_GEMM_NATIVE, &err));
    sae_gemm_free(g);
    free(longer);
    longer = resized(&l.weights, sizeof l.weights, sizeof l.weights + 8, 1);
    REFUSED(SAE_E_VERSION, "sae_gemm_weights", sae_gemm_pack(&g, env, longer, SAE_GEMM_NATIVE, &err));
    free(longer);
    void *shorter = resized(&l.weights, sizeof l.weights, 16, 0); /* without n_out */
    REFUSED(SAE_E_ARG, "n_out = 0", sae_gemm_pack(&g, env, shorter, SAE_GEMM_NATIVE, &err));
    free(shorter);

    atomic_store(&counted.fail_at, atomic_load(&counted.asked));
    REFUSED(SAE_E_NOMEM, "7 x 5|bytes", sae_gemm_pack(&g, env, &l.weights, SAE_GEMM_NATIVE, &err));
    ck_assert_ptr_null(g);
    layer_free(&l);
}
END_TEST

/* ---- what run refuses ---- */

START_TEST(run_refuses)
{
    enum { N = 3, OUT = 7, IN = 5 };
    layer l = layer_make(OUT, IN, SAE_F32, 0, true, 1);
    sae_gemm *g = pack(env, &l, SAE_GEMM_NATIVE);
    float x[N * IN] = {0}, y[N * OUT], shared[100] = {0}, canary[N * OUT];
    size_t bytes;
    memset(y, 0x77, sizeof y);
    memcpy(canary, y, sizeof y);
    ck_assert_int_eq(sae_gemm_scratch_bytes(g, N, &bytes), SAE_OK);
    void *scratch = malloc(bytes);
    const sae_rows good_x = rows_plain(x, N, IN), good_y = rows_plain(y, N, OUT);
    sae_rows in = good_x, out = good_y;

    REFUSED(SAE_E_ARG, "gemm is NULL", sae_gemm_run(NULL, &in, &out, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "x: the rows are NULL", sae_gemm_run(g, NULL, &out, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "y: the rows are NULL", sae_gemm_run(g, &in, NULL, scratch, bytes, &err));
    REFUSED(SAE_E_ARG, "scratch is NULL|3 rows", sae_gemm_run(g, &in, &out, NULL, bytes, &err));
    char words[32];
    snprintf(words, sizeof words, "%zu|%zu", bytes - 1, bytes);
    REFUSED(SAE_E_CAPACITY, words, sae_gemm_run(g, &in, &out, scratch, bytes - 1, &err));
    out.n_rows = N - 1;
    REFUSED(SAE_E_SHAPE, "x has 3 rows|y has 2", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    out = good_y;
    out.dtype = SAE_F16;
    REFUSED(SAE_E_ARG, "y: its dtype is f16", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    out.dtype = 0;
    REFUSED(SAE_E_ARG, "y: |dtype = 0", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    out = good_y;
    out.stride_bytes = OUT * 4 - 4;
    REFUSED(SAE_E_ARG, "y: |28 bytes|overlap", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    out = good_y;
    out.x = NULL;
    REFUSED(SAE_E_ARG, "y: |x NULL", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    out = good_y;
    out.n_rows = -1;
    REFUSED(SAE_E_ARG, "y: |n_rows = -1", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    out = good_y;
    in.dtype = 4;
    REFUSED(SAE_E_ARG, "x: |dtype = 4", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    in = good_x;
    in.struct_size = 0;
    REFUSED(SAE_E_ARG, "x: |struct_size = 0", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    in = good_x;
    for (int i = 0; i < 3; i++) {
        static const int64_t far[] = {INT64_MAX, INT64_MIN, (int64_t)1 << 62};
        in.stride_bytes = far[i];
        REFUSED(SAE_E_ARG, "address space", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    }
    in = good_x;

    /* one float in common, from either side, and with rows that run backwards */
    in.x = shared;
    out.x = shared + N * IN - 1;
    REFUSED(SAE_E_ARG, "overlap|60 bytes|84 from", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    out.x = (unsigned char *)(shared + N * IN) - 1; /* one byte */
    REFUSED(SAE_E_ARG, "overlap", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    out.x = shared + N * IN;
    ACCEPTED(sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    out.x = shared;
    in.x = (unsigned char *)(shared + N * OUT) - 1;
    REFUSED(SAE_E_ARG, "overlap", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    in.x = shared + N * OUT + (N - 1) * IN;
    in.stride_bytes = -IN * 4;
    ACCEPTED(sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    in.x = shared + N * OUT + (N - 1) * IN - 1;
    REFUSED(SAE_E_ARG, "overlap", sae_gemm_run(g, &in, &out, scratch, bytes, &err));
    ck_assert_mem_eq(y, canary, sizeof y);

    in = good_x;
    out = good_y;
    in.n_rows = out.n_rows = 0; /* nothing is needed for nothing */
    ACCEPTED(sae_gemm_run(g, &in, &out, NULL, 0, &err));
    in.x = out.x = NULL;
    ACCEPTED(sae_gemm_run(g, &in, &out, NULL, 0, &err));
    ck_assert_mem_eq(y, canary, sizeof y);
    free(scratch);
    sae_gemm_free(g);
    layer_free(&l);
}
END_TEST

/* Fails the call whose number *user reaches 0 at, and no other. */
static int32_t run_failing_once(void *user, void *job, sae_task task, uint32_t n)
{
    int *left = user;
    return run_forwards(NULL, job, task, n) || (*left)-- == 0;
}

START_TEST(host_fails)
{
    enum { OUT = 500, IN = 3, N = 40 };
    int left = 0;
    sae_env *e = env_make(&counted, SAE_ISA_AUTO, run_failing_once, &left, 1);
    layer l = layer_make(OUT, IN, SAE_F32, 0, false, 1);
    sae_gemm *g = (sae_gemm *)&err;
    REFUSED(SAE_E_HOST, "parallel-for|500 x 3", sae_gemm_pack(&g, e, &l.weights, SAE_GEMM_NATIVE, &err));
    ck_assert_ptr_null(g);
    g = pack(e, &l, SAE_GEMM_NATIVE);
    float *x = random_rows(N, IN, 1), *y = malloc(N * OUT * sizeof *y);
    const sae_rows in = rows_plain(x, N, IN), out = rows_plain(y, N, OUT);
    for (int at = 0; at < 2; at++) { /* while rows are packed, and while they are multiplied */
        left = at;
        ck_assert_int_eq(run(g, &in, &out), SAE_E_HOST);
        ck_assert_msg(strstr(err.text, "parallel-for") && strstr(err.text, "40 rows"), "%s", err.text);
    }
    ck_assert_int_eq(run(g, &in, &out), SAE_OK);
    free(x);
    free(y);
    sae_gemm_free(g);
    layer_free(&l);
    sae_env_free(e);
}
END_TEST

/* ---- numbers ---- */

/* Of one element: the canonical chain, the sum in double, and the sum of magnitudes that its error is measured by. */
static float chain(const layer *l, const float *x, int32_t j)
{
    const float *w = l->w + (size_t)j * (size_t)l->weights.n_in;
    float acc = 0.0f;
    for (int32_t k = 0; k < l->weights.n_in; k++)
        acc = fmaf(w[k], x[k], acc);
    return l->weights.bias ? acc + l->bias[j] : acc;
}

static double exact(const layer *l, const float *x, int32_t j, double *magnitude)
{
    const float *w = l->w + (size_t)j * (size_t)l->weights.n_in;
    double sum = l->weights.bias ? (double)l->bias[j] : 0.0;
    *magnitude = fabs(sum);
    for (int32_t k = 0; k < l->weights.n_in; k++) {
        sum += (double)w[k] * (double)x[k];
        *magnitude += fabs((double)w[k] * (double)x[k]);
    }
    return sum;
}

/* Any order of n_in products and a bias errs by at most (n_in + 1) roundings of the magnitudes (Higham, 2nd ed., 3.1). */
static void check_numbers(const layer *l, const float *x, const float *y, int64_t n, sae_gemm_backend backend)
{
    const int32_t n_in = l->weights.n_in, n_out = l->weights.n_out;
    for (int64_t r = 0; r < n; r++)
        for (int32_t j = 0; j < n_out; j++) {
            double magnitude;
            const float got = y[r * n_out + j];
            const double want = exact(l, x + r * n_in, j, &magnitude);
            ck_assert_msg(fabs((double)got - want) <= (double)(n_in + 1) * 0x1p-24 * 1.01 * magnitude,
                          "%s [%d][%d], row %d, output %d: %g, not %g", sae_gemm_backend_name(backend), (int)n_out, (int)n_in, (int)r,
                          (int)j, (double)got, want);
            if (backend == SAE_GEMM_NATIVE) {
                const float canonical = chain(l, x + r * n_in, j);
                ck_assert_msg(memcmp(&got, &canonical, sizeof got) == 0, "[%d][%d], row %d, output %d: %a, the chain gives %a", (int)n_out,
                              (int)n_in, (int)r, (int)j, (double)got, (double)canonical);
            }
        }
}

static const int32_t shapes[][3] = {/* n_out, n_in, rows */
                                    {1, 1, 1},   {1, 1, 70},   {1, 70, 9},   {48, 16, 8},  {49, 17, 2},  {192, 3, 64},  {193, 70, 65},
                                    {200, 1, 3}, {47, 64, 16}, {97, 31, 33}, {96, 400, 5}, {50, 801, 9}, {385, 12, 70}, {144, 48, 0}};

/* Every dtype, stride and direction; what lies between the rows of y stays. */
static void one_shape(sae_env *e, int32_t n_out, int32_t n_in, int64_t n, uint64_t seed, sae_gemm_backend backend)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    rng r = {seed};
    layer l = layer_make(n_out, n_in, dtypes[rng_below(&r, 3)], (int)rng_below(&r, 3), rng_below(&r, 2), seed);
    sae_gemm *g = pack(e, &l, backend);
    float *x = random_rows(n, n_in, seed + 1), *y = calloc((size_t)(n ? n : 1) * (size_t)n_out, sizeof *y);
    void *x_block, *y_block, *kept;
    const size_t x_gap = rng_below(&r, 4), y_gap = rng_below(&r, 4);
    const bool x_back = rng_below(&r, 2), y_back = rng_below(&r, 2);
    const sae_dtype x_dtype = dtypes[rng_below(&r, 3)];
    sae_rows in = rows_make(&x_block, x, x_dtype, n, n_in, x_gap, x_back);
    sae_rows out = rows_make(&y_block, y, SAE_F32, n, n_out, y_gap, y_back);
    const size_t y_bytes = (size_t)n * ((size_t)n_out * 4 + y_gap) + 1;
    ck_assert_int_eq(run(g, &in, &out), SAE_OK);
    rows_load(y, &out, n_out);
    check_numbers(&l, x, y, n, backend);
    const sae_rows again = rows_make(&kept, y, SAE_F32, n, n_out, y_gap, y_back); /* the same rows between untouched gaps */
    ck_assert_int_eq(again.n_rows, n);
    ck_assert_mem_eq(y_block, kept, y_bytes);
    free(kept);
    free(x_block);
    free(y_block);
    free(x);
    free(y);
    sae_gemm_free(g);
    layer_free(&l);
}

START_TEST(numbers)
{
    sae_isa isas[8];
    const size_t n_isas = isas_available(isas);
    rng r = {(uint64_t)_i};
    for (size_t i = 0; i < n_isas; i++) {
        sae_env *e = env_make(&counted, isas[i], NULL, NULL, 0);
        for (size_t s = 0; s < LENGTH(shapes); s++) {
            one_shape(e, shapes[s][0], shapes[s][1], shapes[s][2], (uint64_t)_i * 100 + s, SAE_GEMM_NATIVE);
            if (has_blis && i == 0)
                one_shape(e, shapes[s][0], shapes[s][1], shapes[s][2], (uint64_t)_i * 100 + s, SAE_GEMM_BLIS);
        }
        for (int s = 0; s < 20; s++) {
            const int32_t n_in = 1 + (int32_t)rng_below(&r, 70), n_out = 1 + (int32_t)rng_below(&r, 200), n = (int32_t)rng_below(&r, 71);
            one_shape(e, n_out, n_in, n, rng_bits(&r), SAE_GEMM_NATIVE);
            if (has_blis && i == 0)
                one_shape(e, n_out, n_in, n, rng_bits(&r), SAE_GEMM_BLIS);
        }
        sae_env_free(e);
    }
}
END_TEST

/* Every worker has room of its own, for rows on their way into a group and for sums. */
START_TEST(workers_do_not_meet)
{
    enum { OUT = 3, IN = 5000, N = 512 };
    sae_env *e = env_make(&counted, SAE_ISA_AUTO, run_thread_each, NULL, THREADS_AT_ONCE);
    layer l = layer_make(OUT, IN, SAE_F32, 0, false, 8);
    float *x = random_rows(N, IN, 9);
    sae_gemm *g = pack(e, &l, SAE_GEMM_NATIVE);
    for (int i = 0; i < 3; i++) {
        float *y = product(g, x, N, &l);
        check_numbers(&l, x, y, N, SAE_GEMM_NATIVE);
        free(y);
    }
    free(x);
    sae_gemm_free(g);
    sae_env_free(e);
    layer_free(&l);
}
END_TEST

/* A row has the same bits alone, in every batch, on every runner; NATIVE on every instruction set too. 521 rows are more than one pass, 777
 * weights more than one slice, 400 outputs more than two tiles. */
enum { MANY = 521, DEEP = 777, WIDE = 400 };

static void same_in_batches(const sae_gemm *g, const layer *l, const float *x, const float *want)
{
    static const int64_t batches[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 63, 64, 65, 200, 512, 513};
    for (size_t b = 0; b < LENGTH(batches); b++)
        for (int64_t first = 0; first < MANY; first += batches[b] * (batches[b] < 9 ? 9 : 1)) { /* every 9th of the small ones */
            const int64_t n = first + batches[b] < MANY ? batches[b] : MANY - first;
            float *y = product(g, x + first * DEEP, n, l);
            ck_assert_msg(memcmp(y, want + first * WIDE, (size_t)n * WIDE * sizeof *y) == 0, "a row in a batch of %d, from row %d on",
                          (int)n, (int)first);
            free(y);
        }
}

/* BLIS keeps a path of its own for small products on this processor, and none on newer ones. It is asked before BLIS is first used: every
 * test is a process. */
static bool blis_as_haswell(void)
{
    return sae_isa_available(SAE_ISA_AVX2) == SAE_YES && setenv("BLIS_ARCH_TYPE", "3", 1) == 0;
}

/* That path adds in lanes along k. Without it, sums this short are one chain. */
START_TEST(blis_small_path_is_off)
{
    enum { OUT = 9, IN = 64, N = 5 };
    if (!has_blis || !blis_as_haswell())
        return;
    layer l = layer_make(OUT, IN, SAE_F32, 0, false, 1);
    float *x = random_rows(N, IN, 2);
    for (int i = 0; i < N * IN; i++)
        x[i] /= 3.0f; /* so that every order of adding rounds its own way */
    sae_gemm *g = pack(env, &l, SAE_GEMM_BLIS);
    float *y = product(g, x, N, &l);
    for (int r = 0; r < N; r++)
        for (int j = 0; j < OUT; j++)
            ck_assert(y[r * OUT + j] == chain(&l, x + r * IN, j));
    free(y);
    free(x);
    sae_gemm_free(g);
    layer_free(&l);
}
END_TEST

static const sae_run_fn runners[] = {NULL, run_backwards, run_shuffled, run_thread_each};

START_TEST(same_bits_in_every_batch)
{
    const sae_gemm_backend backend = _i ? SAE_GEMM_BLIS : SAE_GEMM_NATIVE;
    if (backend == SAE_GEMM_BLIS && !has_blis)
        return;
    if (_i == 2)
        blis_as_haswell();
    layer l = layer_make(WIDE, DEEP, SAE_F32, 1, true, 5);
    float *x = random_rows(MANY, DEEP, 6);
    sae_gemm *g = pack(env, &l, backend);
    float *want = product(g, x, MANY, &l);
    check_numbers(&l, x + 515 * DEEP, want + 515 * WIDE, 6, backend);
    same_in_batches(g, &l, x, want);
    sae_gemm_free(g);
    for (size_t i = 0; i < LENGTH(runners); i++) {
        sae_env *e = env_make(&counted, SAE_ISA_AUTO, runners[i], NULL, THREADS_AT_ONCE);
        g = pack(e, &l, backend);
        sae_env_free(e); /* the matrix keeps it */
        float *y = product(g, x, MANY, &l);
        ck_assert_mem_eq(y, want, MANY * WIDE * sizeof *y);
        free(y);
        sae_gemm_free(g);
    }
    free(want);
    free(x);
    layer_free(&l);
}
END_TEST

START_TEST(same_bits_on_every_isa)
{
    enum { N = 70 };
    layer l = layer_make(WIDE, DEEP, SAE_F32, 1, true, 5);
    float *x = random_rows(N, DEEP, 6);
    sae_isa isas[8];
    const size_t n_isas = isas_available(isas);
    sae_gemm *g = pack(env, &l, SAE_GEMM_NATIVE);
    float *want = product(g, x, N, &l);
    sae_gemm_free(g);
    for (size_t i = 0; i < n_isas; i++) {
        sae_env *e = env_make(&counted, isas[i], NULL, NULL, 0);
        g = pack(e, &l, SAE_GEMM_NATIVE);
        float *y = product(g, x, N, &l);
        ck_assert_msg(memcmp(y, want, N * WIDE * sizeof *y) == 0, "other bits on %s", sae_isa_name(isas[i]));
        free(y);
        sae_gemm_free(g);
        sae_env_free(e);
    }
    free(want);
    free(x);
    layer_free(&l);
}
END_TEST

/* NaN and Inf stay in their row and column; a host that flushes denormals gets the same bits, and its mode back. */
START_TEST(values_pass_through)
{
    enum { OUT = 60, IN = 20, N = 9 };
    for (sae_gemm_backend backend = SAE_GEMM_NATIVE; backend <= (has_blis ? SAE_GEMM_BLIS : SAE_GEMM_NATIVE); backend++) {
        layer l = layer_make(OUT, IN, SAE_F32, 0, true, 3);
        float *x = random_rows(N, IN, 4), bad_w[OUT * IN];
        memcpy(bad_w, l.w, sizeof bad_w);
        bad_w[7 * IN + 3] = NAN;
        bad_w[8 * IN + 4] = INFINITY;
        x[2 * IN + 5] = NAN;
        x[4 * IN + 4] = 0x1p-140f; /* times Inf is Inf: not flushed */
        sae_gemm_weights w = l.weights;
        w.w = bad_w;
        sae_gemm *g;
        ACCEPTED(sae_gemm_pack(&g, env, &w, backend, &err));
        fenv_t before;
        fegetenv(&before);
        fp_flush();
        const uint64_t flushing = fp_mode();
        float *y = product(g, x, N, &l);
        const bool kept = fp_mode() == flushing;
        fesetenv(&before);
        ck_assert(kept && fp_mode() != flushing);
        for (int r = 0; r < N; r++)
            for (int j = 0; j < OUT; j++) {
                const float v = y[r * OUT + j];
                if (r == 2 || j == 7)
                    ck_assert(isnan(v));
                else if (j == 8)
                    ck_assert(isinf(v));
                else
                    ck_assert(isfinite(v));
            }
        free(y);
        free(x);
        sae_gemm_free(g);
        layer_free(&l);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api gemm");
    TCase *tc = tcase_create("gemm");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, names);
    tcase_add_test(tc, info_and_scratch);
    tcase_add_test(tc, auto_takes_blis_for_scalar_only);
    tcase_add_test(tc, pack_arguments);
    tcase_add_loop_test(tc, pack_refuses, 0, LENGTH(defects));
    tcase_add_test(tc, run_refuses);
    tcase_add_test(tc, host_fails);
    tcase_add_loop_test(tc, numbers, 0, 4);
    tcase_add_loop_test(tc, same_bits_in_every_batch, 0, 3);
    tcase_add_test(tc, workers_do_not_meet);
    tcase_add_test(tc, blis_small_path_is_off);
    tcase_add_test(tc, same_bits_on_every_isa);
    tcase_add_test(tc, values_pass_through);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
