/* sae/gemm.h as a program sees it: every function, every status, the numbers and what they may not depend on. */
#include <fenv.h>
#include <math.h>
#include <stddef.h>
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
    env = counted_env(&counted);
    has_blis = sae_gemm_blis_available() == SAE_YES;
}

static void teardown(void)
{
    counted_env_free(&counted, env);
}

/* ---- a layer: weights [n_out][n_in] and bias, stored in any dtype with `gap` more elements between rows, at an odd address ---- */

typedef struct layer {
    sae_gemm_weights weights;
    float *w, *bias; /* what the weights stand for */
    void *block, *scales;
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
    free(l->scales);
}

/* Every way to keep a matrix in fewer bytes, by what the caller gives. */
enum { STORED_F16, STORED_BF16, ROUNDED_ROWS, ROUNDED_BLOCKS, GIVEN_ROWS, GIVEN_BLOCKS, GIVEN_Q8_0, N_KINDS };

/* What weights k0 .. k0+n-1 of a row become when they share a scale, in the words of the header. */
static void round_to_int8(float *w, int32_t n)
{
    float most = 0.0f;
    for (int32_t k = 0; k < n; k++)
        most = fmaxf(most, fabsf(w[k]));
    const float scale = most / 127.0f;
    for (int32_t k = 0; k < n; k++) {
        const float q = scale > 0.0f ? nearbyintf(w[k] / scale) : 0.0f;
        w[k] = fmaxf(fminf(q, 127.0f), -127.0f) * scale;
    }
}

/* Rows of uneven size, one of zeros, one so small that its scale is 1 unit of denormals, 189 of which are its largest weight. */
static layer layer_rounded(int32_t n_out, int32_t n_in, sae_gemm_storage storage, int gap, bool with_bias, uint64_t seed)
{
    rng r = {seed};
    layer l = layer_make(n_out, n_in, SAE_F32, gap, with_bias, seed);
    const size_t stride = (size_t)(n_in + gap) * 4;
    const int32_t block = storage == SAE_GEMM_INT8_BLOCKS ? SAE_GEMM_BLOCK : n_in;
    l.weights.storage = storage;
    for (int32_t j = 0; j < n_out; j++) {
        float *row = l.w + (size_t)j * (size_t)n_in;
        const float size = j == 3 ? 0.0f : j == 4 ? 189 * 0x1p-149f : ldexpf((float)rng_between(&r, 1, 2), (int)rng_below(&r, 9) - 4);
        for (int32_t k = 0; k < n_in; k++) {
            row[k] = k ? size * (float)rng_between(&r, -1, 1) : size;
            memcpy((unsigned char *)l.block + 1 + (size_t)j * stride + (size_t)k * 4, row + k, 4);
        }
        for (int32_t k = 0; k < n_in; k += block)
            round_to_int8(row + k, n_in - k < block ? n_in - k : block);
    }
    return l;
}

/* Any bytes with any scales. block_bytes 0 = arrays of their own, else the scale of a block is in front of it. */
static layer layer_given(int32_t n_out, int32_t n_in, sae_gemm_storage storage, sae_dtype dtype, int32_t block_bytes, bool with_bias,
                         uint64_t seed)
{
    rng r = {seed};
    layer l = layer_make(n_out, n_in, SAE_F32, 0, with_bias, seed);
    const size_t each = sae_dtype_bytes(dtype), block = storage == SAE_GEMM_INT8_BLOCKS ? SAE_GEMM_BLOCK : (size_t)n_in;
    const size_t n_blocks = ((size_t)n_in + block - 1) / block, step = block_bytes ? (size_t)block_bytes : block;
    const size_t stride = block_bytes ? n_blocks * step : (size_t)n_in + (seed & 3), scale_step = block_bytes ? step : each;
    unsigned char *bytes = malloc((size_t)n_out * stride + 1), *scales = malloc((size_t)n_out * n_blocks * each + 1);
    unsigned char *w = bytes + 1 + (block_bytes ? each : 0), *s = block_bytes ? bytes + 1 : scales + 1;
    for (size_t j = 0; j < (size_t)n_out; j++)
        for (size_t k = 0; k < (size_t)n_in; k++) {
            const size_t b = k / block, scale_at = (j * (block_bytes ? stride / step : n_blocks) + b) * scale_step;
            if (k % block == 0)
                element_store(s + scale_at, dtype, rng_between(&r, -1, 1));
            const int8_t q = (int8_t)(rng_below(&r, 256) - 128);
            memcpy(w + j * stride + b * step + k % block, &q, 1);
            l.w[j * (size_t)n_in + k] = (float)q * (float)element_load(s + scale_at, dtype);
        }
    free(l.block);
    l.block = bytes;
    l.scales = scales;
    l.weights.dtype = dtype;
    l.weights.w = w;
    l.weights.scales = s;
    l.weights.stride_bytes = (int64_t)stride;
    l.weights.block_bytes = block_bytes;
    l.weights.storage = storage;
    return l;
}

static layer layer_kept(int kind, int32_t n_out, int32_t n_in, bool with_bias, uint64_t seed)
{
    const int gap = (int)(seed % 3);
    const sae_dtype scales = (sae_dtype)(1 + seed % 3);
    switch (kind) {
    case ROUNDED_ROWS:
        return layer_rounded(n_out, n_in, SAE_GEMM_INT8_ROWS, gap, with_bias, seed);
    case ROUNDED_BLOCKS:
        return layer_rounded(n_out, n_in, SAE_GEMM_INT8_BLOCKS, gap, with_bias, seed);
    case GIVEN_ROWS:
        return layer_given(n_out, n_in, SAE_GEMM_INT8_ROWS, scales, 0, with_bias, seed);
    case GIVEN_BLOCKS:
        return layer_given(n_out, n_in, SAE_GEMM_INT8_BLOCKS, scales, 0, with_bias, seed);
    case GIVEN_Q8_0:
        return layer_given(n_out, n_in, SAE_GEMM_INT8_BLOCKS, SAE_F16, 34, with_bias, seed);
    default: {
        layer l = layer_make(n_out, n_in, kind == STORED_F16 ? SAE_F16 : SAE_BF16, gap, with_bias, seed);
        l.weights.storage = SAE_GEMM_AS_STORED;
        return l;
    }
    }
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
static sae_status run_with(const sae_gemm *g, const sae_rows *x, const sae_rows *y, const sae_gemm_epilogue *e)
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
    const sae_status status = e ? sae_gemm_run_with(g, x, y, e, scratch + 1, bytes, &err) : sae_gemm_run(g, x, y, scratch + 1, bytes, &err);
    ck_assert_int_eq(atomic_load(&counted.asked), asked);
    ck_assert_int_eq(scratch[bytes + 1], GUARD);
    free(scratch);
    return status;
}

static sae_status run(const sae_gemm *g, const sae_rows *x, const sae_rows *y)
{
    return run_with(g, x, y, NULL);
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
    ck_assert_str_eq(sae_gemm_storage_name(SAE_GEMM_AS_F32), "f32");
    ck_assert_str_eq(sae_gemm_storage_name(SAE_GEMM_AS_STORED), "stored");
    ck_assert_str_eq(sae_gemm_storage_name(SAE_GEMM_INT8_ROWS), "int8 rows");
    ck_assert_str_eq(sae_gemm_storage_name(SAE_GEMM_INT8_BLOCKS), "int8 blocks");
    ck_assert_str_eq(sae_gemm_storage_name(4), "unknown");
    ck_assert_str_eq(sae_gemm_storage_name(-1), "unknown");
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

/* Bytes beside the weights themselves: the padding to whole panels, and no more. */
static void check_size(const layer *l, sae_gemm_storage storage, int32_t gated, int64_t least)
{
    const long before = atomic_load(&counted.live_bytes);
    sae_gemm *g = pack(env, l, SAE_GEMM_NATIVE);
    sae_gemm_form form = {.struct_size = sizeof form};
    ck_assert_int_eq(sae_gemm_info(g, &form), SAE_OK);
    ck_assert_int_eq(form.storage, storage);
    ck_assert_int_eq(form.gated, gated);
    ck_assert_int_eq(form.packed_bytes, atomic_load(&counted.live_bytes) - before);
    ck_assert_int_ge(form.packed_bytes, least);
    ck_assert_int_le(form.packed_bytes, least + 1024);
    sae_gemm_free(g);
}

START_TEST(sizes_of_storages)
{
    enum { OUT = 96, IN = 640 };
    for (int kind = 0; kind < N_KINDS; kind++) {
        layer l = layer_kept(kind, OUT, IN, false, 3);
        const sae_gemm_storage storage = l.weights.storage;
        const int64_t scales = storage == SAE_GEMM_INT8_ROWS ? OUT * 4 : storage == SAE_GEMM_INT8_BLOCKS ? OUT * IN / 32 * 4 : 0;
        const int64_t bytes = OUT * IN * (storage == SAE_GEMM_AS_STORED ? 2 : 1) + scales;
        check_size(&l, storage, SAE_NO, bytes);
        l.weights.gate = l.weights.w;
        l.weights.gate_scales = l.weights.scales;
        check_size(&l, storage, SAE_YES, 2 * bytes);
        layer_free(&l);
    }
    layer l = layer_make(OUT, IN, SAE_F32, 0, false, 3);
    l.weights.storage = SAE_GEMM_AS_STORED;
    check_size(&l, SAE_GEMM_AS_F32, SAE_NO, OUT * IN * 4);
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
        l.weights.storage = SAE_GEMM_INT8_ROWS;
        ck_assert_int_eq(chosen(e, &l), SAE_GEMM_NATIVE);
        l.weights.storage = SAE_GEMM_AS_F32;
        sae_env_free(e);
    }
    layer_free(&l);
}
END_TEST

/* ---- what pack refuses ---- */

static const float one[] = {1};

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
    {SAE_E_ARG, "storage = 4", {.storage = 4}, false, false, false, 0},
    {SAE_E_ARG, "storage = -1", {.storage = -1}, false, false, false, 0},
    {SAE_E_ARG, "scales|storage = 0 (f32)", {.scales = &counted}, false, false, false, 0},
    {SAE_E_ARG, "scales|storage = 1 (stored)", {.storage = SAE_GEMM_AS_STORED, .scales = &counted}, false, false, false, 0},
    {SAE_E_ARG, "block_bytes = 34|with scales", {.block_bytes = 34}, false, false, false, 0},
    {SAE_E_ARG, "block_bytes = 34|with scales", {.storage = SAE_GEMM_INT8_BLOCKS, .block_bytes = 34}, false, false, false, 0},
    {SAE_E_ARG, "block_bytes = 34", {.storage = SAE_GEMM_INT8_ROWS, .scales = &counted, .block_bytes = 34}, false, false, false, 0},
    {SAE_E_ARG, "block_bytes = 31|32", {.storage = SAE_GEMM_INT8_BLOCKS, .scales = &counted, .block_bytes = 31}, false, false, false, 0},
    {SAE_E_ARG, "block_bytes = -34", {.storage = SAE_GEMM_INT8_BLOCKS, .scales = &counted, .block_bytes = -34}, false, false, false, 0},
    {SAE_E_ARG,
     "stride_bytes = 33|1 blocks of 34",
     {.storage = SAE_GEMM_INT8_BLOCKS, .scales = &counted, .block_bytes = 34, .stride_bytes = 33},
     false,
     false,
     false,
     0},
    {SAE_E_ARG,
     "stride_bytes = -34|1 blocks",
     {.storage = SAE_GEMM_INT8_BLOCKS, .scales = &counted, .block_bytes = 34, .stride_bytes = -34},
     false,
     false,
     false,
     0},
    {SAE_E_ARG,
     "stride_bytes = 4|5 elements",
     {.storage = SAE_GEMM_INT8_ROWS, .scales = &counted, .stride_bytes = 4},
     false,
     false,
     false,
     0},
    {SAE_E_ARG, "gate is NULL|gate_scales set", {.gate_scales = &counted}, false, false, false, 0},
    {SAE_E_ARG, "gate is NULL|gate_bias set", {.gate_bias = one}, false, false, false, 0},
    {SAE_E_ARG, "gate is set|gate_scales set|scales NULL", {.gate = &counted, .gate_scales = &counted}, false, false, false, 0},
    {SAE_E_ARG,
     "gate is set|gate_scales NULL|scales set",
     {.storage = SAE_GEMM_INT8_ROWS, .gate = &counted, .scales = &counted},
     false,
     false,
     false,
     0},
    {SAE_E_NOMEM,
     "2147483647 x 2147483647",
     {.n_out = INT32_MAX, .n_in = INT32_MAX, .storage = SAE_GEMM_INT8_BLOCKS},
     false,
     false,
     false,
     0},
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
    w.storage = c->storage;
    w.block_bytes = c->block_bytes;
    w.scales = c->scales;
    w.gate = c->gate;
    w.gate_scales = c->gate_scales;
    w.gate_bias = c->gate_bias;
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

    sae_gemm_weights w = l.weights;
    w.storage = SAE_GEMM_INT8_ROWS;
    REFUSED(SAE_E_UNSUPPORTED, "BLIS", sae_gemm_pack(&g, env, &w, SAE_GEMM_BLIS, &err));
    shorter = resized(&w, sizeof w, offsetof(sae_gemm_weights, storage), 0); /* of a caller who knows no storage */
    ACCEPTED(sae_gemm_pack(&g, env, shorter, SAE_GEMM_NATIVE, &err));
    sae_gemm_form form = {.struct_size = sizeof form};
    ck_assert_int_eq(sae_gemm_info(g, &form), SAE_OK);
    ck_assert_int_eq(form.storage, SAE_GEMM_AS_F32);
    sae_gemm_free(g);
    free(shorter);

    atomic_store(&counted.fail_at, atomic_load(&counted.asked));
    REFUSED(SAE_E_NOMEM, "7 x 5|bytes", sae_gemm_pack(&g, env, &l.weights, SAE_GEMM_NATIVE, &err));
    ck_assert_ptr_null(g);
    layer_free(&l);
}
END_TEST

/* The first row is named, whoever finds it; every other storage takes what it is. */
START_TEST(no_int8_for_nan)
{
    enum { OUT = 800, IN = 70 };
    layer l = layer_make(OUT, IN, SAE_F32, 0, false, 1), other = layer_make(OUT, IN, SAE_F32, 0, false, 2);
    const float bad[] = {NAN, INFINITY, -INFINITY};
    sae_env *e = env_make(&counted, SAE_ISA_AUTO, run_backwards, NULL, THREADS_AT_ONCE);
    for (size_t i = 0; i < LENGTH(bad); i++)
        for (sae_gemm_storage storage = SAE_GEMM_INT8_ROWS; storage <= SAE_GEMM_INT8_BLOCKS; storage++) {
            sae_gemm_weights w = l.weights;
            sae_gemm *g = (sae_gemm *)&err;
            l.w[611 * IN + 69] = l.w[213 * IN] = l.w[700 * IN + 1] = bad[i];
            w.w = l.w;
            w.storage = storage;
            REFUSED(SAE_E_ARG, "row 213|.w |as stored", sae_gemm_pack(&g, e, &w, SAE_GEMM_NATIVE, &err));
            ck_assert_ptr_null(g);
            w.gate = w.w;
            w.w = other.w;
            REFUSED(SAE_E_ARG, "row 213|.gate |as stored", sae_gemm_pack(&g, e, &w, SAE_GEMM_NATIVE, &err));
            w.storage = SAE_GEMM_AS_STORED;
            ACCEPTED(sae_gemm_pack(&g, e, &w, SAE_GEMM_NATIVE, &err));
            sae_gemm_free(g);
        }
    sae_env_free(e);
    layer_free(&l);
    layer_free(&other);
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

START_TEST(epilogue_refuses)
{
    enum { N = 3, OUT = 7, IN = 5 };
    layer l = layer_make(OUT, IN, SAE_F32, 0, true, 1);
    sae_gemm *g = pack(env, &l, SAE_GEMM_NATIVE);
    float x[N * IN] = {0}, y[2 * N * OUT + 8], canary[LENGTH(y)];
    unsigned char scratch[1 << 16];
    memset(y, 0x77, sizeof y);
    memcpy(canary, y, sizeof y);
    const sae_rows in = rows_plain(x, N, IN), out = rows_plain(y, N, OUT);
    sae_rows add = out;
    sae_gemm_epilogue e = {.struct_size = sizeof e, .residual = &add};
#define RUN_WITH sae_gemm_run_with(g, &in, &out, &e, scratch, sizeof scratch, &err)
    e.reserved = 1;
    REFUSED(SAE_E_ARG, "reserved = 1", RUN_WITH);
    e = (sae_gemm_epilogue){.residual = &add};
    REFUSED(SAE_E_ARG, "sae_gemm_epilogue.struct_size = 0", RUN_WITH);
    e.struct_size = sizeof e;
    add.n_rows = N - 1;
    REFUSED(SAE_E_SHAPE, "residual has 2 rows|y has 3", RUN_WITH);
    add = out;
    add.dtype = 9;
    REFUSED(SAE_E_ARG, "residual: |dtype = 9", RUN_WITH);
    add = out;
    add.dtype = SAE_BF16; /* the same place, other rows */
    REFUSED(SAE_E_ARG, "residual and y overlap", RUN_WITH);
    add = out;
    add.stride_bytes = (OUT + 1) * 4;
    REFUSED(SAE_E_ARG, "residual and y overlap", RUN_WITH);
    add = out;
    add.x = y + N * OUT - 1;
    REFUSED(SAE_E_ARG, "residual and y overlap", RUN_WITH);
    add = out;
    add.stride_bytes = INT64_MAX;
    REFUSED(SAE_E_ARG, "address space", RUN_WITH);
    add = out;
    add.struct_size = 0;
    REFUSED(SAE_E_ARG, "residual: |struct_size = 0", RUN_WITH);
    void *longer = resized(&e, sizeof e, sizeof e + 8, 1);
    REFUSED(SAE_E_VERSION, "sae_gemm_epilogue", sae_gemm_run_with(g, &in, &out, longer, scratch, sizeof scratch, &err));
    free(longer);
    REFUSED(SAE_E_ARG, "gemm is NULL", sae_gemm_run_with(NULL, &in, &out, NULL, scratch, sizeof scratch, &err));
    ck_assert_mem_eq(y, canary, sizeof y);
    add = out;
    add.x = y + N * OUT;
    ACCEPTED(RUN_WITH);
#undef RUN_WITH
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

/* Any order of n_in products and a bias errs by at most (n_in + 1) roundings of the magnitudes (Higham, 2nd ed., 3.1), or of denormals. */
static void check_numbers(const layer *l, const float *x, const float *y, int64_t n, sae_gemm_backend backend)
{
    const int32_t n_in = l->weights.n_in, n_out = l->weights.n_out;
    for (int64_t r = 0; r < n; r++)
        for (int32_t j = 0; j < n_out; j++) {
            double magnitude;
            const float got = y[r * n_out + j];
            const double want = exact(l, x + r * n_in, j, &magnitude);
            ck_assert_msg(fabs((double)got - want) <= (double)(n_in + 1) * (0x1p-24 * 1.01 * magnitude + 0x1p-150),
                          "%s, %s [%d][%d], row %d, output %d: %g, not %g", sae_gemm_backend_name(backend),
                          sae_gemm_storage_name(l->weights.storage), (int)n_out, (int)n_in, (int)r, (int)j, (double)got, want);
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
static void one_shape(sae_env *e, int32_t n_out, int32_t n_in, int64_t n, uint64_t seed, sae_gemm_backend backend, int kind)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    rng r = {seed};
    const sae_dtype dtype = dtypes[rng_below(&r, 3)];
    layer l = kind < N_KINDS ? layer_kept(kind, n_out, n_in, rng_below(&r, 2), seed)
                             : layer_make(n_out, n_in, dtype, (int)rng_below(&r, 3), rng_below(&r, 2), seed);
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
            one_shape(e, shapes[s][0], shapes[s][1], shapes[s][2], (uint64_t)_i * 100 + s, SAE_GEMM_NATIVE, N_KINDS);
            if (has_blis && i == 0)
                one_shape(e, shapes[s][0], shapes[s][1], shapes[s][2], (uint64_t)_i * 100 + s, SAE_GEMM_BLIS, N_KINDS);
        }
        for (int s = 0; s < 20; s++) {
            const int32_t n_in = 1 + (int32_t)rng_below(&r, 70), n_out = 1 + (int32_t)rng_below(&r, 200), n = (int32_t)rng_below(&r, 71);
            one_shape(e, n_out, n_in, n, rng_bits(&r), SAE_GEMM_NATIVE, N_KINDS);
            if (has_blis && i == 0)
                one_shape(e, n_out, n_in, n, rng_bits(&r), SAE_GEMM_BLIS, N_KINDS);
        }
        sae_env_free(e);
    }
}
END_TEST

/* However they are kept, weights give the chain of the f32 numbers that they stand for. */
START_TEST(numbers_of_kept_weights)
{
    sae_isa isas[8];
    const size_t n_isas = isas_available(isas);
    rng r = {(uint64_t)_i};
    for (size_t i = 0; i < n_isas; i++) {
        sae_env *e = env_make(&counted, isas[i], NULL, NULL, 0);
        for (size_t s = 0; s < LENGTH(shapes); s++)
            one_shape(e, shapes[s][0], shapes[s][1], shapes[s][2], (uint64_t)_i * 100 + s, SAE_GEMM_NATIVE, _i);
        for (int s = 0; s < 10; s++) {
            const int32_t n_in = 1 + (int32_t)rng_below(&r, 70), n_out = 1 + (int32_t)rng_below(&r, 200), n = (int32_t)rng_below(&r, 71);
            one_shape(e, n_out, n_in, n, rng_bits(&r), SAE_GEMM_NATIVE, _i);
        }
        sae_env_free(e);
    }
}
END_TEST

/* ---- what follows the product ---- */

/* Of the sums that the tests above check. */
static float finished(float sum, const float *residual, const float *threshold, size_t at, size_t j)
{
    const float y = residual ? sum + residual[at] : sum;
    return threshold && y <= threshold[j] ? 0.0f : y;
}

static void one_epilogue(const sae_gemm *g, const layer *l, int64_t n, uint64_t seed)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    rng r = {seed};
    const int32_t n_in = l->weights.n_in, n_out = l->weights.n_out;
    const size_t all = (size_t)n * (size_t)n_out, y_gap = rng_below(&r, 4);
    const bool in_place = rng_below(&r, 2), back = rng_below(&r, 2), add = in_place || rng_below(&r, 3), cut = rng_below(&r, 3);
    float *x = random_rows(n, n_in, seed), *sums = product(g, x, n, l), *residual = random_rows(n, n_out, seed + 1);
    float *threshold = random_rows(1, n_out, seed + 2), *y = malloc(all * sizeof *y);
    void *y_block, *residual_block;
    threshold[0] = -INFINITY;
    const sae_rows in = rows_plain(x, n, n_in);
    const sae_rows out = rows_make(&y_block, residual, SAE_F32, n, n_out, y_gap, back);
    const sae_rows other = rows_make(&residual_block, residual, dtypes[rng_below(&r, 3)], n, n_out, rng_below(&r, 4), rng_below(&r, 2));
    const sae_gemm_epilogue e = {.struct_size = sizeof e,
                                 .residual = !add       ? NULL
                                             : in_place ? &out
                                                        : &other,
                                 .threshold = cut ? threshold : NULL};
    ck_assert_int_eq(run_with(g, &in, &out, &e), SAE_OK);
    rows_load(y, &out, n_out);
    for (size_t i = 0; i < all; i++) {
        const float want = finished(sums[i], add ? residual : NULL, cut ? threshold : NULL, i, i % (size_t)n_out);
        ck_assert_msg(memcmp(&want, y + i, sizeof want) == 0, "element %zu: %a, not %a (in place %d, added %d, cut %d)", i, (double)y[i],
                      (double)want, in_place, add, cut);
    }
    void *const all_of_it[] = {x, sums, residual, threshold, y, y_block, residual_block};
    for (size_t i = 0; i < LENGTH(all_of_it); i++)
        free(all_of_it[i]);
}

START_TEST(epilogues)
{
    sae_isa isas[8];
    const size_t n_isas = isas_available(isas);
    for (size_t i = 0; i < n_isas; i++) {
        sae_env *e = env_make(&counted, isas[i], run_shuffled, NULL, THREADS_AT_ONCE);
        for (int kind = 0; kind <= N_KINDS; kind++) {
            layer l = kind < N_KINDS ? layer_kept(kind, 210, 40, true, 8) : layer_make(210, 40, SAE_F32, 0, false, 8);
            sae_gemm *g = pack(e, &l, SAE_GEMM_NATIVE);
            for (int64_t n = 1; n <= 70; n += n < 10 ? 1 : 20)
                one_epilogue(g, &l, n, (uint64_t)(n * 10 + kind));
            sae_gemm_free(g);
            layer_free(&l);
        }
        sae_env_free(e);
    }
}
END_TEST

START_TEST(thresholds_keep_nan)
{
    enum { OUT = 50, IN = 3 };
    layer l = layer_make(OUT, IN, SAE_F32, 0, true, 1);
    float x[IN] = {NAN, 1, 1}, y[OUT], zeros[OUT] = {0};
    sae_gemm *g = pack(env, &l, SAE_GEMM_NATIVE);
    const sae_rows in = rows_plain(x, 1, IN), out = rows_plain(y, 1, OUT);
    const sae_gemm_epilogue e = {.struct_size = sizeof e, .threshold = zeros};
    ck_assert_int_eq(run_with(g, &in, &out, &e), SAE_OK);
    for (int j = 0; j < OUT; j++)
        ck_assert(isnan(y[j]));
    sae_gemm_free(g);
    layer_free(&l);
}
END_TEST

/* g / (1 + exp(-g)) * h: exp errs by 1 ulp, each of the other operations by half of one. */
static void check_gated(const layer *up, const layer *gate, const float *x, const float *y, int64_t n)
{
    const int32_t n_in = up->weights.n_in, n_out = up->weights.n_out;
    for (int64_t r = 0; r < n; r++)
        for (int32_t j = 0; j < n_out; j++) {
            const double h = (double)chain(up, x + r * n_in, j), g = (double)chain(gate, x + r * n_in, j);
            const double want = g / (1 + exp(-g)) * h, got = (double)y[r * n_out + j];
            ck_assert_msg(fabs(got - want) <= 4 * 0x1p-24 * fabs(want) + 1e-36 * (1 + fabs(h)), "row %d, output %d: %g, not %g (gate %g)",
                          (int)r, (int)j, got, want, g);
        }
}

/* A layer with the gate of another; gates run from far below to far above what exp can take. */
static layer layer_gated(int kind, int32_t n_out, int32_t n_in, layer *gate, uint64_t seed)
{
    layer l = kind < N_KINDS ? layer_kept(kind, n_out, n_in, true, seed) : layer_make(n_out, n_in, SAE_F32, 0, true, seed);
    *gate = kind < N_KINDS ? layer_kept(kind, n_out, n_in, true, seed + 36) : layer_make(n_out, n_in, SAE_F32, 0, true, seed + 36);
    for (int32_t j = 0; j < n_out; j++)
        gate->bias[j] *= j % 5 ? 1.0f : 40.0f;
    l.weights.gate = gate->weights.w;
    l.weights.gate_scales = gate->weights.scales;
    l.weights.gate_bias = gate->bias;
    return l;
}

START_TEST(gates)
{
    enum { OUT = 210, IN = 50, N = 70 };
    sae_isa isas[8];
    const size_t n_isas = isas_available(isas);
    layer gate, l = layer_gated(_i, OUT, IN, &gate, 9);
    float *x = random_rows(N, IN, 6), *first = NULL;
    for (size_t i = 0; i < n_isas; i++) {
        sae_env *e = env_make(&counted, isas[i], run_backwards, NULL, THREADS_AT_ONCE);
        sae_gemm *g = pack(e, &l, SAE_GEMM_NATIVE);
        float *y = product(g, x, N, &l);
        check_gated(&l, &gate, x, y, N);
        if (first)
            ck_assert_msg(memcmp(y, first, N * OUT * sizeof *y) == 0, "other bits on %s", sae_isa_name(isas[i]));
        for (int64_t r = 0; r < N; r += 7) {
            float *alone = product(g, x + r * IN, 1 + r % 9, &l);
            ck_assert_msg(memcmp(alone, y + r * OUT, (size_t)(1 + r % 9) * OUT * sizeof *y) == 0, "other bits in a batch of %d",
                          1 + (int)r % 9);
            free(alone);
        }
        one_epilogue(g, &l, 11, (uint64_t)_i);
        free(first);
        first = y;
        sae_gemm_free(g);
        sae_env_free(e);
    }
    if (has_blis && _i == N_KINDS) {
        sae_gemm *g = pack(env, &l, SAE_GEMM_BLIS);
        float *y = product(g, x, N, &l);
        for (int j = 0; j < N * OUT; j++)
            ck_assert_msg(fabsf(y[j] - first[j]) <= 1e-4f * (1 + fabsf(first[j])), "%g, not %g", (double)y[j], (double)first[j]);
        free(y);
        sae_gemm_free(g);
    }
    free(first);
    free(x);
    layer_free(&l);
    layer_free(&gate);
}
END_TEST

/* Every worker has room of its own, for rows on their way into a group and for sums. */
START_TEST(workers_do_not_meet)
{
    enum { OUT = 3, IN = 5000, N = 512 };
    sae_env *e = env_make(&counted, SAE_ISA_AUTO, run_thread_each, NULL, THREADS_AT_ONCE);
    layer l = _i ? layer_kept(ROUNDED_BLOCKS, OUT, IN, true, 8) : layer_make(OUT, IN, SAE_F32, 0, false, 8);
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
    const sae_gemm_backend backend = _i == 1 || _i == 2 ? SAE_GEMM_BLIS : SAE_GEMM_NATIVE;
    if (backend == SAE_GEMM_BLIS && !has_blis)
        return;
    if (_i == 2)
        blis_as_haswell();
    layer l = _i < 3 ? layer_make(WIDE, DEEP, SAE_F32, 1, true, 5) : layer_kept(_i - 3, WIDE, DEEP, true, 5);
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
    layer l = _i < N_KINDS ? layer_kept(_i, WIDE, DEEP, true, 5) : layer_make(WIDE, DEEP, SAE_F32, 1, true, 5);
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
    tcase_add_test(tc, sizes_of_storages);
    tcase_add_test(tc, auto_takes_blis_for_scalar_only);
    tcase_add_test(tc, pack_arguments);
    tcase_add_loop_test(tc, pack_refuses, 0, LENGTH(defects));
    tcase_add_test(tc, no_int8_for_nan);
    tcase_add_test(tc, run_refuses);
    tcase_add_test(tc, epilogue_refuses);
    tcase_add_test(tc, host_fails);
    tcase_add_loop_test(tc, numbers, 0, 4);
    tcase_add_loop_test(tc, numbers_of_kept_weights, 0, N_KINDS);
    tcase_add_test(tc, epilogues);
    tcase_add_test(tc, thresholds_keep_nan);
    tcase_add_loop_test(tc, gates, 0, N_KINDS + 1);
    tcase_add_loop_test(tc, same_bits_in_every_batch, 0, 3 + N_KINDS);
    tcase_add_loop_test(tc, workers_do_not_meet, 0, 2);
    tcase_add_test(tc, blis_small_path_is_off);
    tcase_add_loop_test(tc, same_bits_on_every_isa, 0, N_KINDS + 1);
    tcase_add_test(tc, values_pass_through);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
