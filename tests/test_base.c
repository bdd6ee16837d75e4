/* base: texts, structs that grow, checked sizes, half floats (exhaustively), exp, matrix views. */
#include <check.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "support/support.h"
#include "support/run.h"

/* ---- statuses and sentences ---- */

START_TEST(statuses)
{
    static const struct {
        sae_status status;
        int number;
        const char *name;
    } all[] = {{SAE_OK, 0, "SAE_OK"},
               {SAE_E_ARG, -1, "SAE_E_ARG"},
               {SAE_E_NOMEM, -2, "SAE_E_NOMEM"},
               {SAE_E_VERSION, -3, "SAE_E_VERSION"},
               {SAE_E_UNSUPPORTED, -4, "SAE_E_UNSUPPORTED"},
               {SAE_E_SHAPE, -5, "SAE_E_SHAPE"},
               {SAE_E_FORMAT, -6, "SAE_E_FORMAT"},
               {SAE_E_IO, -7, "SAE_E_IO"},
               {SAE_E_HOST, -8, "SAE_E_HOST"},
               {SAE_E_BUSY, -9, "SAE_E_BUSY"},
               {SAE_E_CAPACITY, -10, "SAE_E_CAPACITY"}};
    for (size_t i = 0; i < LENGTH(all); i++) {
        ck_assert_int_eq(all[i].status, all[i].number);
        ck_assert_str_eq(sae_status_name(all[i].status), all[i].name);
        ck_assert_str_ne(sae_status_text(all[i].status), "unknown status");
        for (size_t j = 0; j < i; j++)
            ck_assert_str_ne(sae_status_text(all[i].status), sae_status_text(all[j].status));
    }
    static const sae_status unknown[] = {1, -11, INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < LENGTH(unknown); i++) {
        ck_assert_str_eq(sae_status_text(unknown[i]), "unknown status");
        ck_assert_str_eq(sae_status_name(unknown[i]), "unknown status");
    }
}
END_TEST

START_TEST(element_types)
{
    static const size_t bytes[] = {0, 4, 2, 2, 0};
    static const char *const names[] = {"unknown", "f32", "f16", "bf16", "unknown"};
    for (sae_dtype t = 0; t < (sae_dtype)LENGTH(bytes); t++) {
        ck_assert_uint_eq(sae_dtype_bytes(t), bytes[t]);
        ck_assert_str_eq(sae_dtype_name(t), names[t]);
    }
    ck_assert_uint_eq(sae_dtype_bytes(-1), 0);
}
END_TEST

/* A caller's sae_error of any size gets what fits, terminated, and not a byte more. */
START_TEST(errors_of_every_size)
{
    union {
        sae_error err;
        unsigned char bytes[sizeof(sae_error) + 64];
    } u;
    const char *const word = "0123456789";
    char sentence[512] = "";
    while (strlen(sentence) < 400)
        strcat(sentence, word);
    for (uint32_t size = 0; size <= sizeof(sae_error) + 32; size++) {
        const size_t limit = size == 0 || size > sizeof(sae_error) ? sizeof(sae_error) : size;
        memset(u.bytes, 0x5a, sizeof u.bytes);
        u.err.struct_size = size;
        ck_assert_int_eq(saei_fail(&u.err, SAE_E_SHAPE, "%s", sentence), SAE_E_SHAPE);
        for (size_t i = limit < sizeof size ? sizeof size : limit; i < sizeof u.bytes; i++)
            ck_assert_msg(u.bytes[i] == 0x5a, "struct_size %u: byte %zu was written", (unsigned)size, i);
        if (limit >= 8)
            ck_assert_int_eq(u.err.status, SAE_E_SHAPE);
        if (limit > 8) {
            ck_assert_uint_eq(strlen(u.err.text), limit - 9);
            ck_assert_mem_eq(u.err.text, sentence, limit - 9);
        }
        ck_assert_int_eq(saei_ok(&u.err), SAE_OK);
        for (size_t i = limit < sizeof size ? sizeof size : limit; i < sizeof u.bytes; i++)
            ck_assert_uint_eq(u.bytes[i], 0x5a);
        if (limit >= 8)
            ck_assert_int_eq(u.err.status, SAE_OK);
        if (limit > 8)
            ck_assert_str_eq(u.err.text, "");
    }
    ck_assert_int_eq(saei_fail(NULL, SAE_E_IO, "%d", 1), SAE_E_IO);
    ck_assert_int_eq(saei_ok(NULL), SAE_OK);
}
END_TEST

/* ---- structs ---- */

typedef struct old_options {
    uint32_t struct_size;
    int32_t a;
} old_options;

typedef struct options {
    uint32_t struct_size;
    int32_t a;
    int64_t b;
} options;

typedef struct new_options {
    options known;
    int32_t c[3];
    char d[5];
} new_options;

START_TEST(struct_sizes)
{
    sae_error err = {0};
    options got;
    const old_options shorter = {sizeof shorter, 5};
    memset(&got, 0xff, sizeof got);
    ck_assert_int_eq(saei_read_struct(&got, sizeof got, &shorter, "options", &err), SAE_OK);
    ck_assert(got.a == 5 && got.b == 0);

    const options same = {sizeof same, 6, 7};
    ck_assert_int_eq(saei_read_struct(&got, sizeof got, &same, "options", &err), SAE_OK);
    ck_assert(got.a == 6 && got.b == 7);

    new_options longer;
    memset(&longer, 0, sizeof longer);
    longer.known = (options){sizeof longer, 8, 9};
    ck_assert_int_eq(saei_read_struct(&got, sizeof got, &longer, "options", &err), SAE_OK);
    ck_assert(got.a == 8 && got.b == 9);
    for (size_t i = sizeof got; i < sizeof longer; i++) { /* every single byte of the tail counts */
        ((unsigned char *)&longer)[i] = 1;
        ck_assert_int_eq(saei_read_struct(&got, sizeof got, &longer, "options", &err), SAE_E_VERSION);
        ck_assert(strstr(err.text, "options has 40 bytes") && strstr(err.text, "16"));
        ((unsigned char *)&longer)[i] = 0;
    }
    for (uint32_t size = 0; size <= sizeof size; size++) {
        const options zero = {size, 1, 1};
        ck_assert_int_eq(saei_read_struct(&got, sizeof got, &zero, "options", &err), SAE_E_ARG);
        ck_assert(strstr(err.text, "sizeof(options)"));
    }
}
END_TEST

START_TEST(structs_written)
{
    const options from = {0, 3, 4};
    new_options to;
    for (uint32_t size = 5; size <= sizeof to; size++) {
        memset(&to, 0x5a, sizeof to);
        to.known.struct_size = size;
        ck_assert_int_eq(saei_write_struct(&to, &from, sizeof from, "options", NULL), SAE_OK);
        const size_t limit = size < sizeof from ? size : sizeof from;
        ck_assert_uint_eq(to.known.struct_size, size);
        ck_assert_mem_eq((unsigned char *)&to + 4, (const unsigned char *)&from + 4, limit - 4);
        for (size_t i = limit; i < sizeof to; i++)
            ck_assert_uint_eq(((unsigned char *)&to)[i], 0x5a);
    }
    to.known.struct_size = 0;
    ck_assert_int_eq(saei_write_struct(&to, &from, sizeof from, "options", NULL), SAE_E_ARG);
}
END_TEST

/* ---- sizes ---- */

START_TEST(checked_sizes)
{
    size_t out;
    ck_assert(saei_mul(&out, 3, 4) && out == 12);
    ck_assert(saei_mul(&out, 0, SIZE_MAX) && out == 0);
    ck_assert(saei_mul(&out, SIZE_MAX, 0) && out == 0);
    ck_assert(saei_mul(&out, SIZE_MAX, 1) && out == SIZE_MAX);
    ck_assert(saei_mul(&out, SIZE_MAX / 2, 2) && out == SIZE_MAX - 1);
    ck_assert(!saei_mul(&out, SIZE_MAX / 2 + 1, 2) && out == SIZE_MAX);
    ck_assert(!saei_mul(&out, (size_t)1 << 32, (size_t)1 << 32) && out == SIZE_MAX);
    ck_assert(saei_add(&out, SIZE_MAX - 1, 1) && out == SIZE_MAX);
    ck_assert(!saei_add(&out, SIZE_MAX, 1) && out == SIZE_MAX);
}
END_TEST

START_TEST(arrays_in_one_block)
{
    size_t total = 0;
    ck_assert_uint_eq(saei_reserve(&total, 3, 4), 0);
    ck_assert_uint_eq(total, 64);
    ck_assert_uint_eq(saei_reserve(&total, 16, 4), 64);
    ck_assert_uint_eq(total, 128);
    ck_assert_uint_eq(saei_reserve(&total, 0, 4), 128);
    ck_assert_uint_eq(total, 128);
    ck_assert_uint_eq(saei_reserve(&total, 65, 1), 128);
    ck_assert_uint_eq(total, 256);

    static const size_t bad[][2] = {{SIZE_MAX, 2}, {SIZE_MAX, 1}, {SIZE_MAX - 62, 1}, {SIZE_MAX - 200, 1}};
    for (size_t i = 0; i < LENGTH(bad); i++) {
        size_t t = 256;
        ck_assert_uint_eq(saei_reserve(&t, bad[i][0], bad[i][1]), SIZE_MAX);
        ck_assert_uint_eq(t, SIZE_MAX);
        ck_assert_uint_eq(saei_reserve(&t, 1, 1), SIZE_MAX); /* for good */
        ck_assert_uint_eq(t, SIZE_MAX);
    }
}
END_TEST

/* ---- half floats ---- */

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

typedef struct half {
    const char *name;
    sae_dtype dtype;
    float (*up)(uint16_t);
    uint16_t (*down)(float);
    uint16_t infinity;
} half;

static const half halves[] = {{"f16", SAE_F16, saei_f16_to_f32, saei_f32_to_f16, 0x7c00},
                              {"bf16", SAE_BF16, saei_bf16_to_f32, saei_f32_to_bf16, 0x7f80}};

START_TEST(half_there_and_back)
{
    const half *t = halves + _i;
    for (uint32_t i = 0; i <= 0xffff; i++) {
        const uint16_t h = (uint16_t)i;
        const float f = t->up(h);
        const double want = element_load(&h, t->dtype);
        if (isnan(want)) {
            ck_assert(isnan(f));
            ck_assert_msg((t->down(f) & 0x7fff) > t->infinity, "%s %04x: NaN became a number", t->name, i);
            ck_assert_uint_eq(t->down(f) & 0x8000, i & 0x8000);
            continue;
        }
        ck_assert_msg((double)f == want && !signbit(f) == !signbit(want), "%s %04x is %a, not %a", t->name, i, (double)f, want);
        ck_assert_msg(t->down(f) == h, "%s %04x came back as %04x", t->name, i, t->down(f));
    }
}
END_TEST

/* Every midpoint between neighbours goes to the even one; a hair beside it goes to the nearer. */
START_TEST(half_ties)
{
    const half *t = halves + _i;
    for (uint16_t h = 0; h < t->infinity; h++) {
        const double a = (double)t->up(h);
        /* beyond the largest, the rule rounds as if the exponent went on */
        const double b = h + 1 == t->infinity ? 2.0 * a - (double)t->up((uint16_t)(h - 1)) : (double)t->up((uint16_t)(h + 1));
        const double exact = a + (b - a) / 2.0;
        const float middle = (float)exact;
        const uint16_t even = (uint16_t)(h + (h & 1));
        if ((double)middle != exact) /* below the smallest float: no tie to test */
            continue;
        ck_assert_msg(t->down(middle) == even, "%s: the middle above %04x gave %04x", t->name, h, t->down(middle));
        ck_assert_uint_eq(t->down(-middle), even | 0x8000);
        ck_assert_msg(t->down(nextafterf(middle, 0.0f)) == h, "%s: below the middle above %04x", t->name, h);
        ck_assert_msg(t->down(nextafterf(middle, INFINITY)) == h + 1, "%s: above the middle above %04x", t->name, h);
    }
    ck_assert_uint_eq(t->down(INFINITY), t->infinity);
    ck_assert_uint_eq(t->down(-INFINITY), t->infinity | 0x8000);
    ck_assert_uint_eq(t->down(FLT_MAX), t->infinity);
}
END_TEST

START_TEST(half_random)
{
    const half *t = halves + _i;
    rng r = {1};
    for (int i = 0; i < 2000000; i++) {
        const uint32_t u = (uint32_t)rng_bits(&r);
        float f;
        uint16_t want;
        memcpy(&f, &u, sizeof f);
        if (isnan(f))
            continue;
        element_store(&want, t->dtype, (double)f);
        ck_assert_msg(t->down(f) == want, "%s: %a gave %04x, not %04x", t->name, (double)f, t->down(f), want);
    }
}
END_TEST

/* ---- exp ---- */

static double error_of_exp(double x)
{
    const long double want = expl((long double)x);
    return (double)fabsl(((long double)saei_exp(x) - want) / want);
}

START_TEST(exp_accuracy)
{
    rng r = {2};
    double worst = 0.0, at = 0.0;
    for (int i = 0; i < 1000000; i++) {
        const double x = i % 2 ? rng_between(&r, -708.0, 709.78) : rng_between(&r, -4.0, 4.0);
        const double e = error_of_exp(x);
        if (e > worst) {
            worst = e;
            at = x;
        }
    }
    ck_assert_msg(worst < 1e-15, "relative error %g at %a", worst, at);
}
END_TEST

START_TEST(exp_ends)
{
    ck_assert(saei_exp(0.0) == 1.0 && saei_exp(-0.0) == 1.0);
    ck_assert(saei_exp(INFINITY) == (double)INFINITY && saei_exp(-INFINITY) == 0.0);
    ck_assert(isnan(saei_exp(NAN)) && isnan(saei_exp(-NAN)));
    ck_assert(saei_exp(1e300) == (double)INFINITY && saei_exp(-1e300) == 0.0);
    ck_assert(saei_exp(710.0) == (double)INFINITY && isfinite(saei_exp(709.78)));
    ck_assert(saei_exp(-745.0) == 0x1p-1074 && saei_exp(-746.0) == 0.0);
    ck_assert(saei_exp(1e-300) == 1.0 && saei_exp(-1e-300) == 1.0 && saei_exp(0x1p-1074) == 1.0);
    for (double x = -745.0; x < -708.0; x += 0.0625) /* denormal results: within one unit of the last place there is */
        ck_assert(fabsl((long double)saei_exp(x) - expl((long double)x)) <= 0x1p-1074L);
}
END_TEST

/* The same bits on every machine: a hash over many arguments is pinned. */
START_TEST(exp_bits)
{
    rng r = {3};
    uint64_t hash = 0xcbf29ce484222325u;
    for (int i = 0; i < 100000; i++) {
        const double y = saei_exp(rng_between(&r, -30.0, 30.0));
        uint64_t u;
        memcpy(&u, &y, sizeof u);
        hash = (hash ^ u) * 0x100000001b3u;
    }
    ck_assert_msg(hash == 0x7349860a3043954u, "%#llx", (unsigned long long)hash);
}
END_TEST

/* ---- matrices ---- */

START_TEST(matrix_views)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    enum { N = 5, D = 7 };
    rng r = {4};
    float v[N * D], row[D + 1];
    for (size_t i = 0; i < N * D; i++)
        v[i] = rng_weight(&r);
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (int by_cols = 0; by_cols < 2; by_cols++) {
            unsigned char block[N * D * 4 + 1];
            const size_t each = sae_dtype_bytes(dtypes[t]);
            const saei_matrix m = {block + 1, dtypes[t], by_cols, N, D};
            for (size_t i = 0; i < N; i++)
                for (size_t k = 0; k < D; k++)
                    element_store(block + 1 + (by_cols ? k * N + i : i * D + k) * each, dtypes[t], (double)v[i * D + k]);
            for (int32_t i = 0; i < N; i++) {
                double square = 0.0;
                row[D] = 42.0f;
                saei_matrix_row(row, &m, i);
                ck_assert_mem_eq(row, v + i * D, sizeof v / N);
                ck_assert(row[D] == 42.0f);
                for (size_t k = 0; k < D; k++)
                    square += (double)row[k] * (double)row[k];
                ck_assert(saei_matrix_row_square(&m, i) == square && saei_square(row, D) == square);
            }
        }
    ck_assert(saei_square(v, 0) == 0.0);
    ck_assert(bits_of(saei_load(&(uint32_t){0x80000001u}, SAE_F32)) == 0x80000001u);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base");
    TCase *tc = tcase_create("base");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, statuses);
    tcase_add_test(tc, element_types);
    tcase_add_test(tc, errors_of_every_size);
    tcase_add_test(tc, struct_sizes);
    tcase_add_test(tc, structs_written);
    tcase_add_test(tc, checked_sizes);
    tcase_add_test(tc, arrays_in_one_block);
    tcase_add_loop_test(tc, half_there_and_back, 0, 2);
    tcase_add_loop_test(tc, half_ties, 0, 2);
    tcase_add_loop_test(tc, half_random, 0, 2);
    tcase_add_test(tc, exp_accuracy);
    tcase_add_test(tc, exp_ends);
    tcase_add_test(tc, exp_bits);
    tcase_add_test(tc, matrix_views);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
