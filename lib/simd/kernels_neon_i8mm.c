/* Products of bytes with the matrix products of Armv8.6 (FEAT_I8MM): the rest of the table is NEON's.
 *
 * usmmla multiplies two features with two planes, 8 bytes each: 32 products an instruction, twice as many as sdot, and features go in without a
 * sign, so that nothing is lacking afterwards. What it wants side by side lies 8 bytes apart here: a zip for every 16 bytes of a feature, and of
 * a plane. A step of a column and 6 planes: 256 bytes of weights, 1536 products, 48 usmmla and 28 zips (the dot products: 96 sdot and 32 to take
 * the sign away); 2 planes: 16 usmmla and 18 zips, for the memory roof. A plane without another is multiplied by usdot, and so are pairs.
 * Run under an emulator alone: what the instructions are worth on a processor has not been measured. */
#include "simd/tables.h"

#if defined(__aarch64__)

/* Of this file alone, whatever the flags are: it runs only where the processor has them. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod+i8mm")
#endif

#define SAEI_I8MM
#include "simd/vec_neon.h"

#include "simd/kernels_int8.h"

/* The 16 bytes of two features or of two planes, as the instruction wants them: 8 of one beside 8 of the other. */
typedef struct two_features {
    uint8x16_t low, high;
} two_features;

typedef struct two_planes {
    int8x16_t low, high;
} two_planes;

INLINE two_features load_features(const uint8_t *p)
{
    const uint64x2_t a = vreinterpretq_u64_u8(vld1q_u8(p)), b = vreinterpretq_u64_u8(vld1q_u8(p + 16));
    return (two_features){vreinterpretq_u8_u64(vzip1q_u64(a, b)), vreinterpretq_u8_u64(vzip2q_u64(a, b))};
}

INLINE two_planes load_planes(const int8_t *p)
{
    const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(p)), b = vreinterpretq_s64_s8(vld1q_s8(p + 16));
    return (two_planes){vreinterpretq_s8_s64(vzip1q_s64(a, b)), vreinterpretq_s8_s64(vzip2q_s64(a, b))};
}

/* sums += the 16 products of each of the two features with each of the two planes: first feature first plane, first second, second first,
 * second second. */
INLINE I i_matrix(I sums, two_features w, two_planes x)
{
    __asm__("usmmla %0.4s, %1.16b, %2.16b" : "+w"(sums) : "w"(w.low), "w"(x.low));
    __asm__("usmmla %0.4s, %1.16b, %2.16b" : "+w"(sums) : "w"(w.high), "w"(x.high));
    return sums;
}

/* Sums of features v and 4 + v, v < 4, with two planes, which go to c and c + ldc. */
INLINE void store_two(int32_t *c, size_t ldc, I s0, I s1, I s2, I s3)
{
    const int64x2_t a = vreinterpretq_s64_s32(vzip1q_s32(s0, s1)), b = vreinterpretq_s64_s32(vzip1q_s32(s2, s3));
    const int64x2_t d = vreinterpretq_s64_s32(vzip2q_s32(s0, s1)), e = vreinterpretq_s64_s32(vzip2q_s32(s2, s3));
    vst1q_s32(c, vreinterpretq_s32_s64(vzip1q_s64(a, b)));
    vst1q_s32(c + 4, vreinterpretq_s32_s64(vzip1q_s64(d, e)));
    vst1q_s32(c + ldc, vreinterpretq_s32_s64(vzip2q_s64(a, b)));
    vst1q_s32(c + ldc + 4, vreinterpretq_s32_s64(vzip2q_s64(d, e)));
}

/* np pairs of planes with a column, or with one half of it: 8 to 16 sums, so that none waits for the one before. */
INLINE void matrix_tile(int32_t *c, size_t ldc, const uint8_t *w, const int8_t *x, size_t planes, size_t d16, int np, int halves,
                        const uint8_t *next, size_t lanes)
{
    enum { MOST_SUMS = 16, MOST_PAIRS = 4 };
    I a[MOST_SUMS]; /* of two features (v, half) and a pair q: (v * halves + half) * np + q */
    UNROLL
    for (int i = 0; i < 4 * halves * np; i++)
        a[i] = i_zero();
    for (size_t k = 0; k < d16; k++) {
        two_planes xk[MOST_PAIRS];
        for (size_t q = 0; q < lanes; q++)
            __builtin_prefetch(next + (q * d16 + k) * INT8_LINE, 0, 2);
        UNROLL
        for (int q = 0; q < np; q++)
            xk[q] = load_planes(x + (k * planes + 2 * (size_t)q) * 16);
        two_features b[1];
        UNROLL
        for (int i = 0; i < 4 * halves * np; i++) {
            const int q = i % np, half = i / np % halves, v = i / np / halves;
            if (q == 0)
                b[0] = load_features(w + k * INT8_BLOCK + v * 64 + half * 32);
            a[i] = i_matrix(a[i], b[0], xk[q]);
        }
    }
    UNROLL
    for (int i = 0; i < halves * np; i++) {
        const int q = i % np, half = i / np, more = halves * np;
        store_two(c + 2 * (size_t)q * ldc + half * 8, ldc, a[i], a[i + more], a[i + 2 * more], a[i + 3 * more]);
    }
}

/* np pairs of planes with all columns: whole ones as long as their sums leave registers for the rest. */
INLINE void matrix_planes(int32_t *c, size_t ldc, const uint8_t *columns, size_t n_columns, const int8_part *of, size_t d16, int np)
{
    const int8_t *x = of->x + of->first * 16;
    for (size_t p = 0; p < n_columns; p++) {
        const uint8_t *w = columns + p * d16 * INT8_BLOCK;
        const int8_share share = int8_share_of(of, n_columns, of->first * n_columns + p * 2 * (size_t)np, 2 * (size_t)np, d16);
        int32_t *to = c + of->first * ldc + p * SAEI_COLUMN;
        if (np <= 2) {
            matrix_tile(to, ldc, w, x, of->planes, d16, np, 2, share.next, share.lanes);
        } else {
            matrix_tile(to, ldc, w, x, of->planes, d16, np, 1, share.next, share.lanes);
            matrix_tile(to + 8, ldc, w + 32, x, of->planes, d16, np, 1, share.next, 0);
        }
    }
}

/* By pairs, as many as there are, and the last plane of an odd number alone. */
void saei_int8_columns_neon_i8mm(int32_t *c, size_t ldc, const uint8_t *columns, size_t n_columns, const int8_t *x, size_t planes,
                                 size_t d16, const uint8_t *next, size_t lanes)
{
    int8_part of = {x, planes, 0, next, lanes};
    for (; of.first + 8 <= planes; of.first += 8)
        matrix_planes(c, ldc, columns, n_columns, &of, d16, 4);
    if (planes - of.first >= 6)
        matrix_planes(c, ldc, columns, n_columns, &of, d16, 3);
    else if (planes - of.first >= 4)
        matrix_planes(c, ldc, columns, n_columns, &of, d16, 2);
    else if (planes - of.first >= 2)
        matrix_planes(c, ldc, columns, n_columns, &of, d16, 1);
    of.first = planes / 2 * 2;
    if (of.first < planes)
        int8_planes(c, ldc, columns, n_columns, &of, d16, 1);
}

void saei_int8_pairs_neon_i8mm(int32_t *c, const uint8_t *columns, const int32_t *ids, const int8_t *const *x, size_t n, size_t d16)
{
    int8_pairs_product(c, columns, ids, x, n, d16);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
