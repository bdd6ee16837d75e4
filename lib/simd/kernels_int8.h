/* The product of bytes, once, in these words of a vec_<isa>.h:
 *   I            sums of FEATS features, SUMS of each
 *   B, b_load    16 bytes without a sign of each of FEATS features, ready for products
 *   X, x_load    16 bytes with a sign, once for each feature of a B
 *   i_zero i_store i_add, i_dot(sums, b, x)   sums += the 16 products of each feature, exact
 *   i_store4     what 4 I sum to, for their 4 * FEATS features: feature 4 * l + v is feature l of the I number v
 *   INT8_PLANES  planes whose sums with 4 B fit into the registers
 *   INT8_SIGNED  1 if a B holds the bytes less 128: the products lack 128 times the sum of x. Then b_ones is a B of ones
 * A column block (kernels.h) holds its B in the order that i_store4 wants. */
#ifndef SAEI_KERNELS_INT8_H
#define SAEI_KERNELS_INT8_H

#include "simd/kernels.h"
#include "simd/unroll.h"

enum {
    INT8_LINE = 64,                      /* bytes of a cache line */
    INT8_BLOCK = SAEI_COLUMN * 16,       /* bytes of a column for 16 steps of k */
    INT8_UNIT = 4 * FEATS,               /* features that are summed up together */
    INT8_UNITS = SAEI_COLUMN / INT8_UNIT /* of a column, 1 where a B is a cache line */
};

/* What the products of signed bytes lack: 128 times the sum of a plane, whose steps are `step` bytes apart. */
INLINE int32_t lacking(const int8_t *x, size_t step, size_t d16)
{
    int32_t sums[FEATS * SUMS], sum = 0;
#if INT8_SIGNED
    I a = i_zero();
    for (size_t k = 0; k < d16; k++)
        a = i_dot(a, b_ones(), x_load(x + k * step));
    i_store(sums, a);
    for (int s = 0; s < SUMS; s++)
        sum += 128 * sums[s];
#else
    (void)x;
    (void)step;
    (void)d16;
    (void)sums;
#endif
    return sum;
}

/* A part of a product: the planes from `first` on of all, and what comes into L2 meanwhile. */
typedef struct int8_part {
    const int8_t *x;
    size_t planes, first;
    const uint8_t *next;
    size_t lanes;
} int8_part;

/* A tile's share of the latter. */
typedef struct int8_share {
    const uint8_t *next;
    size_t lanes;
} int8_share;

/* Of a tile of `size` after `done`, counted in planes times units, of all planes times n units. */
INLINE int8_share int8_share_of(const int8_part *of, size_t n, size_t done, size_t size, size_t d16)
{
    const size_t all = of->planes * n, from = of->lanes * done / all;
    return (int8_share){of->lanes ? of->next + from * d16 * INT8_LINE : NULL, of->lanes * (done + size) / all - from};
}

/* A unit of nc columns with np planes: one pass over its weights, and over `lanes` lanes of what comes next. */
INLINE void int8_tile(int32_t *c, size_t ldc, const uint8_t *w, const int8_t *x, size_t planes, size_t d16, int np, int nc,
                      const uint8_t *next, size_t lanes, const int32_t *lack)
{
    const size_t column = d16 * INT8_BLOCK;
    I a[4 * INT8_PLANES];
    UNROLL
    for (int i = 0; i < 4 * np * nc; i++)
        a[i] = i_zero();
    for (size_t k = 0; k < d16; k++) {
        const uint8_t *block = w + k * INT8_BLOCK;
        X xk[INT8_PLANES];
        for (size_t q = 0; q < lanes; q++)
            __builtin_prefetch(next + (q * d16 + k) * INT8_LINE, 0, 2);
        UNROLL
        for (int q = 0; q < np; q++)
            xk[q] = x_load(x + (k * planes + (size_t)q) * 16);
        B b[1];
        UNROLL
        for (int i = 0; i < 4 * nc * np; i++) { /* one loop: of nested ones gcc 12 moves the sums about */
            const int q = i % np, v = i / np;
            if (q == 0)
                b[0] = b_load(block + (size_t)(v / 4) * column + v % 4 * 64);
            a[i] = i_dot(a[i], b[0], xk[q]);
        }
    }
    UNROLL
    for (int i = 0; i < np * nc; i++) {
        const I *s = a + i / np * 4 * np + i % np;
        int32_t *to = c + (size_t)(i % np) * ldc + i / np * SAEI_COLUMN;
        i_store4(to, s[0], s[np], s[2 * np], s[3 * np]);
        for (int f = 0; INT8_SIGNED && f < INT8_UNIT; f++)
            to[f] += lack[i % np];
    }
}

/* nc columns of n, from column p on, with np planes. */
INLINE void int8_units(int32_t *c, size_t ldc, const uint8_t *columns, size_t n, size_t p, const int8_part *of, size_t d16, int np, int nc,
                       const int32_t *lack)
{
    const size_t each = (size_t)np * (size_t)nc, done = (of->first * n + p * (size_t)np) * INT8_UNITS;
    for (size_t u = 0; u < INT8_UNITS; u++) {
        const int8_share share = int8_share_of(of, n * INT8_UNITS, done + u * each, each, d16);
        int8_tile(c + p * SAEI_COLUMN + u * INT8_UNIT, ldc, columns + p * d16 * INT8_BLOCK + u * FEATS * 16, of->x + of->first * 16,
                  of->planes, d16, np, nc, share.next, share.lanes, lack);
    }
}

/* np planes with all columns; as many columns at once as fill the registers. */
INLINE void int8_planes(int32_t *c, size_t ldc, const uint8_t *columns, size_t n_columns, const int8_part *of, size_t d16, int np)
{
    const size_t many = (size_t)(INT8_PLANES / np);
    int32_t lack[INT8_PLANES];
    size_t p = 0;
    for (int q = 0; q < np; q++)
        lack[q] = lacking(of->x + (of->first + (size_t)q) * 16, of->planes * 16, d16);
    c += of->first * ldc;
    for (; many > 1 && p + many <= n_columns; p += many)
        int8_units(c, ldc, columns, n_columns, p, of, d16, np, INT8_PLANES / np, lack);
    for (; p < n_columns; p++)
        int8_units(c, ldc, columns, n_columns, p, of, d16, np, 1, lack);
}

/* 1 byte a weight for up to INT8_PLANES planes: memory roof for the first few, roof of the multiplier beyond. */
INLINE void int8_product(int32_t *c, size_t ldc, const uint8_t *columns, size_t n_columns, const int8_t *x, size_t planes, size_t d16,
                         const uint8_t *next, size_t lanes)
{
    enum { HALF = INT8_PLANES > 4 ? 4 : INT8_PLANES > 2 ? 2 : 1 };
    int8_part of = {x, planes, 0, next, lanes};
    for (; of.first + INT8_PLANES <= planes; of.first += INT8_PLANES)
        int8_planes(c, ldc, columns, n_columns, &of, d16, INT8_PLANES);
    for (; of.first + HALF <= planes; of.first += HALF)
        int8_planes(c, ldc, columns, n_columns, &of, d16, HALF);
    for (; HALF > 2 && of.first + 2 <= planes; of.first += 2)
        int8_planes(c, ldc, columns, n_columns, &of, d16, 2);
    for (; of.first < planes; of.first++)
        int8_planes(c, ldc, columns, n_columns, &of, d16, 1);
}

/* n <= 4 pairs, with the features that share a B with theirs; every second step in sums of its own, so that none waits for the one before. */
INLINE void int8_few_pairs(int32_t *c, const uint8_t *columns, const int32_t *ids, const int8_t *const *x, size_t d16, int n)
{
    const uint8_t *w[4];
    I a[8];
    int32_t sums[FEATS * SUMS];
    size_t k = 0;
    UNROLL
    for (int i = 0; i < n; i++) {
        const size_t column = (size_t)ids[i] / SAEI_COLUMN, lane = (size_t)ids[i] % SAEI_COLUMN / 4;
        w[i] = columns + column * d16 * INT8_BLOCK + (size_t)ids[i] % 4 * 64 + lane / FEATS * FEATS * 16;
        a[2 * i] = a[2 * i + 1] = i_zero();
    }
    for (; k + 2 <= d16; k += 2) {
        UNROLL
        for (int i = 0; i < 2 * n; i++)
            a[i] = i_dot(a[i], b_load(w[i / 2] + (k + (size_t)(i % 2)) * INT8_BLOCK), x_load(x[i / 2] + (k + (size_t)(i % 2)) * 16));
    }
    UNROLL
    for (int i = 0; i < n; i++) {
        const int32_t *of = sums + (size_t)ids[i] % SAEI_COLUMN / 4 % FEATS * SUMS;
        if (k < d16)
            a[2 * i] = i_dot(a[2 * i], b_load(w[i] + k * INT8_BLOCK), x_load(x[i] + k * 16));
        i_store(sums, i_add(a[2 * i], a[2 * i + 1]));
        c[i] = lacking(x[i], 16, d16);
        for (int s = 0; s < SUMS; s++)
            c[i] += of[s];
    }
}

/* From the caches, where the product has left the columns: 16 bytes of every 256, a cache line each. */
INLINE void int8_pairs_product(int32_t *c, const uint8_t *columns, const int32_t *ids, const int8_t *const *x, size_t n, size_t d16)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        int8_few_pairs(c + i, columns, ids + i, x + i, d16, 4);
    for (; i < n; i++)
        int8_few_pairs(c + i, columns, ids + i, x + i, d16, 1);
}

/* The two kernels under names of their own, for a form of a table. */
#define SAEI_INT8_FORM(form)                                                                                                          \
    void saei_int8_columns_##form(int32_t *c, size_t ldc, const uint8_t *columns, size_t n_columns, const int8_t *x, size_t planes,   \
                                  size_t d16, const uint8_t *next, size_t lanes)                                                      \
    {                                                                                                                                 \
        int8_product(c, ldc, columns, n_columns, x, planes, d16, next, lanes);                                                        \
    }                                                                                                                                 \
    void saei_int8_pairs_##form(int32_t *c, const uint8_t *columns, const int32_t *ids, const int8_t *const *x, size_t n, size_t d16) \
    {                                                                                                                                 \
        int8_pairs_product(c, columns, ids, x, n, d16);                                                                               \
    }

#endif
