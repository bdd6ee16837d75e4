/* The kernels: pure functions over plain memory, no state, no allocation, no errors. One const table per instruction set, held by
 * the env; all tables give the same bits.
 *
 * THE CANONICAL DOT: dot(w, x) = acc where acc = +0; for k = 0 .. d-1: acc = fma(w[k], x[k], acc), in binary32, round to nearest,
 * denormals kept. Lanes are features (or rows), never k. Splitting k is legal only when the accumulator is stored and reloaded.
 * f16 and bf16 weights are widened exactly first. NaN payloads are not part of the promise.
 *
 * Any pointer may have any alignment unless a kernel says otherwise; n, d = 0 are legal everywhere (nothing is written, except that
 * dots of d = 0 are +0). No kernel writes or reads past the elements its shapes name (guard pages hold this in the tests). */
#ifndef SAEI_KERNELS_H
#define SAEI_KERNELS_H

#include "base/base.h"
#include "sae/env.h"

enum {
    SAEI_PANEL = 48, /* features in a panel: [d][48] f32, zero-padded */
    SAEI_LANES = 16, /* features in a probe group: [d][16] f32, zero-padded */
    SAEI_ROWS = 8,   /* rows in a packed row group: [d][8] f32, zero-padded */
    SAEI_COLUMN = 16 /* features in a column of bytes */
};

/* How the pre-activation of feature j becomes a code. All arrays are indexed by feature; NULL = absent.
 *   not gated (gate == NULL): h = dot + bias[j]; if key_scale: h = h * key_scale[j];
 *                             on = h > threshold[j] && h > floor
 *                             value = h
 *   gated:                    on = dot + gate[j] > 0 && m > floor, value = m = fma(dot, mag_scale[j], mag_bias[j])
 * bias NULL = nothing is added (h = dot + 0.0f would turn -0 into +0, harmless: an h of 0 is no code). threshold NULL = the floor decides
 * alone. floor >= 0, or -Inf where keeps_negative: then values of any sign are on, 0 too. A non-finite h (gated: dot + gate[j] or m) is
 * counted and off. */
typedef struct saei_act {
    const float *bias;
    const float *threshold; /* every entry >= 0, unless keeps_negative */
    const float *key_scale;
    const float *gate;
    const float *mag_scale;
    const float *mag_bias;
    bool keeps_negative; /* for callers: the kernel goes by floor */
} saei_act;

/* What bounds the dots of features from above, by feature (codec/screen.h says how they are made), and of one row x:
 *   A = (first - first_offset), or with a second plane (first - first_offset) * 256 + (second - second_offset), in f32
 *   U = fma(scale[j] * x.scale, A, fma(error[j], x.norm, norm[j] * x.slack)) + top[j] */
typedef struct saei_bound {
    const float *scale, *error, *norm, *top;
    const float *threshold; /* NULL = none but the floor */
} saei_bound;

typedef struct saei_span {
    float scale, norm, slack;
    float floor; /* values of interest reach it */
    int32_t first_offset, second_offset;
} saei_span;

/* A row x less a centre in two planes, and what it is before and after, as sums in double: element k belongs to the partial sum k % 16, and
 * these are added up in order. */
typedef struct saei_lengths {
    double x, z;    /* squares of the row, and of z = row - centre */
    double largest; /* |z| */
} saei_lengths;

typedef struct saei_planes {
    double coarse, fine;   /* squares of what z loses in the first plane alone, and in both */
    int32_t first, second; /* sums of the planes */
} saei_planes;

/* What a product brings into L2 while it computes, since the next one will read it: `bytes` bytes for each of its panels, `stride` apart. */
typedef struct saei_ahead {
    const void *first;
    size_t stride, bytes;
} saei_ahead;

/* Weights kept in fewer bytes than 4, in panels of 48 features, zero-padded; each stands for one f32 number:
 *   BF16  panel [ceil(d/2)][48][2]: two of a chain side by side, which one load and two instructions widen
 *   F16   panel [d][48]
 *   INT8  panel of ceil(d/block) blocks, each 48 f32 scales and [block][48] (the last one shorter): (float)q * scale, rounded */
typedef int32_t saei_keep;

enum { SAEI_KEEP_F32 = 0, SAEI_KEEP_BF16 = 1, SAEI_KEEP_F16 = 2, SAEI_KEEP_INT8 = 3 };

typedef struct saei_kept {
    const unsigned char *data; /* 64-byte aligned */
    size_t panel_bytes;        /* from one panel to the next, a multiple of 64 */
    size_t d;
    size_t block; /* weights that share a scale; d where there are no scales, or one for the whole chain */
    saei_keep as; /* not F32 */
} saei_kept;

/* One line per kernel: return type, name, arguments. The table, the tests and the docs are made from this list. */
#define SAEI_KERNELS(K)  \
    SAEI_MOST_KERNELS(K) \
    SAEI_INT8_KERNELS(K)

/* Those which an instruction set has in more than one form. */
#define SAEI_INT8_KERNELS(K)                                                                                                               \
    /* Sums of products of bytes, exact, with features by column: columns [n_columns][d16][256] without a sign, where byte \
     * i % 4 * 64 + i / 4 * 16 + b of step k is weight 16 * k + b of feature i of the column; x [d16][planes][16] with a sign: \
     * c[q][16*p + i] = sum over k, b of weight b of feature i * x[k][q][b]. Columns are 64-byte aligned, ldc >= 16 * n_columns, \
     * d16 <= 1024. Meanwhile what will be wanted next comes into L2: `lanes` stretches at `next`, of d16 cache lines each. */               \
    K(void, int8_columns,                                                                                                                  \
      (int32_t * c, size_t ldc, const uint8_t *columns, size_t n_columns, const int8_t *x, size_t planes, size_t d16, const uint8_t *next, \
       size_t lanes))                                                                                                                      \
    /* The same for pairs of a feature and a plane x[i] [d16][16]: c[i] is the sum of feature ids[i], i < n. */                            \
    K(void, int8_pairs, (int32_t * c, const uint8_t *columns, const int32_t *ids, const int8_t *const *x, size_t n, size_t d16))

/* Products with kept weights, and what follows a product. */
#define SAEI_WEIGHT_KERNELS(K)                                                                                                            \
    /* gemv_panels with panels p0 .. p0+n_panels-1 of kept weights: r < n_rows <= 4, ldc >= 48 * n_panels. */                             \
    K(void, gemv_kept, (float *c, size_t ldc, const saei_kept *w, size_t p0, size_t n_panels, const float *x, size_t ldx, size_t n_rows)) \
    /* panels with kept weights and one group of rows, n_rows <= 8: weights k0 .. k0+kc-1 of panels p0 .. p0+n_panels-1, \
     * xp [kc][8], begun at c's own value when k0 > 0. k0 is even, and a multiple of the block where there are several. \
     * Unless wide is NULL, the weights go there as f32 panels [n_panels][kc][48], 64-byte aligned, for further groups. */                \
    K(void, panels_kept,                                                                                                                  \
      (float *c, size_t ldc, const saei_kept *w, size_t p0, size_t n_panels, const float *xp, size_t n_rows, size_t k0, size_t kc,        \
       float *wide))                                                                                                                      \
    /* y[i] = g / (1 + e^-g) * y[i] with g = gate[i], i < n. e^t: t is held within -87 .. 100 (a NaN becomes -87), \
     * n = rn(t * 1.44269504f), r = fma(n, 2.1219444e-4f, fma(n, -0.693359375f, t)), the series of e^r to r^7 by Horner's rule \
     * in fused multiply-adds, times 2^h, times 2^(n - h), h = rn(n / 2), where rn(z) = (z + 1.5 * 2^23) - 1.5 * 2^23. */                      \
    K(void, silu_gate, (float *y, const float *gate, size_t n))                                                                           \
    /* y[i] = y[i] <= threshold[i] ? +0 : y[i], i < n; a NaN stays. */                                                                    \
    K(void, keep_above, (float *y, const float *threshold, size_t n))

#define SAEI_MOST_KERNELS(K)                                                                                                                    \
    SAEI_WEIGHT_KERNELS(K)                                                                                                                      \
    /* dst[i] = (float)src[i], exact, i < n. */                                                                                                 \
    K(void, widen, (float *dst, const void *src, sae_dtype dtype, size_t n))                                                                    \
    /* dst[i] = src[i] rounded to nearest even (NaN stays a quiet NaN). */                                                                      \
    K(void, narrow, (void *dst, const float *src, sae_dtype dtype, size_t n))                                                                   \
    /* Index of the first non-finite element, n if there is none. */                                                                            \
    K(size_t, nonfinite, (const void *src, sae_dtype dtype, size_t n))                                                                          \
    /* Rows x[r][ldx] (r < n_rows) into groups xp[(r / 8)][d][8], rows past n_rows zero. xp is 64-byte aligned. */                              \
    K(void, pack_rows, (float *xp, const float *x, size_t ldx, size_t n_rows, size_t d))                                                        \
    /* Features j0 .. j0+nj-1, weights k0 .. k0+kc-1 of matrix m into panels dst[ceil(nj/48)][kc][48] f32, zero-padded.       \
     * dst is 64-byte aligned; both storage orders of m. */                 \
    K(void, pack_panels, (float *dst, const saei_matrix *m, size_t j0, size_t nj, size_t k0, size_t kc))                                        \
    /* Same for probe groups: features ids[i], i < n, into dst[ceil(n/16)][d][16], read from src [n][d] f32 (feature-major). */                 \
    K(void, pack_lanes, (float *dst, const float *src, size_t n, size_t d))                                                                     \
    /* Panel product with n features, ceil(n/48) panels. c[r][48*p + i] = chain over k < kc of panels[p*panel_stride + 48*k + i] \
     * * xp[r/8][k][r%8], begun at c's own value when `resume`, else at +0. xp groups are xp_stride floats apart; panels and xp 64-byte \
     * aligned (panel_stride, xp_stride multiples of 16); ldc >= n; exactly n_rows rows of n are touched. `next` may be NULL. */              \
    K(void, panels,                                                                                                                             \
      (float *c, size_t ldc, const float *panels, size_t panel_stride, size_t n, const float *xp, size_t xp_stride, size_t n_rows,              \
       size_t kc, bool resume, const saei_ahead *next))                                                                                         \
    /* Rows on n features in panels [ceil(n/48)][d][48]: c[r][j] = dot, r < n_rows <= 4. ldc >= n. Streams at the read roof. */                 \
    K(void, gemv_panels, (float *c, size_t ldc, const float *panels, size_t n, const float *x, size_t ldx, size_t n_rows, size_t d))            \
    /* Rows on a matrix stored [d][n] (m->by_cols), features j0 .. j0+nj-1: c[r][j - j0] = dot, r < n_rows <= 4. The file's own  \
     * layout: needs no packing. ldc >= nj. */              \
    K(void, gemv_cols, (float *c, size_t ldc, const saei_matrix *m, size_t j0, size_t nj, const float *x, size_t ldx, size_t n_rows))           \
    /* Rows on a matrix stored [n][d] (!m->by_cols): features ids[0..n-1], or j0 .. j0+n-1 when ids is NULL:                  \
     * c[r][i] = dot, r < n_rows <= 4. Scattered re-score and feature-major GEMV. */                 \
    K(void, dot_rows,                                                                                                                           \
      (float *c, size_t ldc, const saei_matrix *m, const int32_t *ids, size_t j0, size_t n, const float *x, size_t ldx, size_t n_rows))         \
    /* Probe of n features in ceil(n/16) groups packed[g][d][16]: c[r][i] = dot, i < n, any n_rows; c[r][i] is scratch from n to the     \
     * next multiple of 16. packed 64-byte aligned. */      \
    K(void, probe, (float *c, size_t ldc, const float *packed, size_t n, const float *x, size_t ldx, size_t n_rows, size_t d))                  \
    /* Codes from dots: for i < n, feature j = j0 + i; those that are on are appended in order: idx[m] = j, val[m] = value.    \
     * Returns m <= n; idx and val have room for n. Non-finite ones are added to *bad. */                \
    K(size_t, activate,                                                                                                                         \
      (int32_t * idx, float *val, const float *dots, size_t n, size_t j0, const saei_act *act, float floor, size_t *bad))                       \
    /* Weighted sum of rows of a matrix stored [n][d]: out[k] = init ? init[k] : +0; then for t = 0 .. n-1 in order               \
     * out[k] = fma(coef[t], row_t[k], out[k]), row_t = row ids[t]. Decode. out may be init. */             \
    K(void, combine, (float *out, const float *init, const saei_matrix *m, const int32_t *ids, const float *coef, size_t n))                    \
    /* The lengths of x [d] less centre (NULL = 0), all finite. */                                                                              \
    K(saei_lengths, row_lengths, (const float *x, const float *centre, size_t d))                                                               \
    /* q = z / scale rounded to even, less than 32640 in size, = first * 256 + second, bytes with a sign: element k at k / 16 * step + k % 16 \
     * of each plane, zeros to the next multiple of 16. scale 0: q = 0. */ \
    K(saei_planes, row_planes,                                                                                                                  \
      (int8_t * first, size_t first_step, int8_t * second, size_t second_step, const float *x, const float *centre, size_t d,                   \
       double scale))                                                                                                                           \
    /* u[i] = U of feature j0 + i, i < n, from the sums of one row; second NULL = 8-bit rows. NaN where a bound is infinite. */                 \
    K(void, bounds,                                                                                                                             \
      (float *u, const int32_t *first, const int32_t *second, size_t n, size_t j0, const saei_bound *bound, const saei_span *x))                \
    /* Those of the n features whose U is not below threshold and floor (a NaN is not), ascending: ids[m] = j. Returns m <= n. */               \
    K(size_t, screen,                                                                                                                           \
      (int32_t * ids, const int32_t *first, const int32_t *second, size_t n, size_t j0, const saei_bound *bound, const saei_span *x))

typedef struct saei_kernels {
    sae_isa isa;
#define SAEI_KERNEL_FIELD(ret, name, args) ret(*name) args;
    SAEI_KERNELS(SAEI_KERNEL_FIELD)
#undef SAEI_KERNEL_FIELD
} saei_kernels;

/* out = x + by * row, rounded once: the combination of one term. out may be x. */
static inline void saei_add_row(const saei_kernels *k, float *out, const float *x, float by, const void *row, sae_dtype dtype, size_t n)
{
    const int32_t first = 0;
    const saei_matrix m = {row, dtype, false, 1, (int32_t)n};
    k->combine(out, x, &m, &first, &by, 1);
}

/* A small double rounded to an integer, ties to even, by what adding a large one leaves. */
static inline double saei_to_integer(double v)
{
    return (v + 0x1.8p52) - 0x1.8p52;
}

/* The table for `isa` (AUTO = best here), or NULL when this build or this processor cannot run it. */
const saei_kernels *saei_kernels_for(sae_isa isa);

#endif
