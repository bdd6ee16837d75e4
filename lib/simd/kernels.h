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
    float floor; /* values of interest exceed it */
    int32_t first_offset, second_offset;
} saei_span;

/* One line per kernel: return type, name, arguments. The table, the tests and the docs are made from this list. */
#define SAEI_KERNELS(K)  \
    SAEI_MOST_KERNELS(K) \
    SAEI_INT8_KERNELS(K)

/* Those which an instruction set has in more than one form. */
#define SAEI_INT8_KERNELS(K)                                                                                                                 \
    /* Sums of products of bytes, exact, with features by column: columns [n_columns][d16][256] without a sign, where byte                 \
     * i % 4 * 64 + i / 4 * 16 + b of step k is weight 16 * k + b of feature i of the column; x [d16][planes][16] with a sign:              \
     * c[q][16*p + i] = sum over k, b of weight b of feature i * x[k][q][b]. Columns are 64-byte aligned, ldc >= 16 * n_columns,            \
     * d16 <= 1024. fetch: the columns are new to the caches, and what follows them will be wanted next. */ \
    K(void, int8_columns,                                                                                                                    \
      (int32_t * c, size_t ldc, const uint8_t *columns, size_t n_columns, const int8_t *x, size_t planes, size_t d16, bool fetch))           \
    /* The same for pairs of a feature and a plane x[i] [d16][16]: c[i] is the sum of feature ids[i], i < n. */                              \
    K(void, int8_pairs, (int32_t * c, const uint8_t *columns, const int32_t *ids, const int8_t *const *x, size_t n, size_t d16))

#define SAEI_MOST_KERNELS(K)                                                                                                               \
    /* dst[i] = (float)src[i], exact, i < n. */                                                                                            \
    K(void, widen, (float *dst, const void *src, sae_dtype dtype, size_t n))                                                               \
    /* dst[i] = src[i] rounded to nearest even (NaN stays a quiet NaN). */                                                                 \
    K(void, narrow, (void *dst, const float *src, sae_dtype dtype, size_t n))                                                              \
    /* Index of the first non-finite element, n if there is none. */                                                                       \
    K(size_t, nonfinite, (const void *src, sae_dtype dtype, size_t n))                                                                     \
    /* Rows x[r][ldx] (r < n_rows) into groups xp[(r / 8)][d][8], rows past n_rows zero. xp is 64-byte aligned. */                         \
    K(void, pack_rows, (float *xp, const float *x, size_t ldx, size_t n_rows, size_t d))                                                   \
    /* Features j0 .. j0+nj-1, weights k0 .. k0+kc-1 of matrix m into panels dst[ceil(nj/48)][kc][48] f32, zero-padded.       \
     * dst is 64-byte aligned; both storage orders of m. */            \
    K(void, pack_panels, (float *dst, const saei_matrix *m, size_t j0, size_t nj, size_t k0, size_t kc))                                   \
    /* Same for probe groups: features ids[i], i < n, into dst[ceil(n/16)][d][16], read from src [n][d] f32 (feature-major). */            \
    K(void, pack_lanes, (float *dst, const float *src, size_t n, size_t d))                                                                \
    /* Panel product. c[r][48*p + i] = chain over k < kc of panels[p*panel_stride + 48*k + i] * xp[r/8][k][r%8], begun at c's own \
     * value when `resume`, else at +0. xp groups are xp_stride floats apart; panels and xp 64-byte aligned (panel_stride,     \
     * xp_stride multiples of 16); ldc >= 48 * n_panels; exactly n_rows rows of c are touched. */        \
    K(void, panels,                                                                                                                        \
      (float *c, size_t ldc, const float *panels, size_t panel_stride, size_t n_panels, const float *xp, size_t xp_stride, size_t n_rows,  \
       size_t kc, bool resume))                                                                                                            \
    /* Rows on whole panels [n_panels][d][48]: c[r][48*p + i] = dot, r < n_rows <= 4. ldc >= 48 * n_panels. Streams at the read roof. */   \
    K(void, gemv_panels,                                                                                                                   \
      (float *c, size_t ldc, const float *panels, size_t n_panels, const float *x, size_t ldx, size_t n_rows, size_t d))                   \
    /* Rows on a matrix stored [d][n] (m->by_cols), features j0 .. j0+nj-1: c[r][j - j0] = dot, r < n_rows <= 4. The file's own  \
     * layout: needs no packing. ldc >= nj. */         \
    K(void, gemv_cols, (float *c, size_t ldc, const saei_matrix *m, size_t j0, size_t nj, const float *x, size_t ldx, size_t n_rows))      \
    /* Rows on a matrix stored [n][d] (!m->by_cols): features ids[0..n-1], or j0 .. j0+n-1 when ids is NULL:                  \
     * c[r][i] = dot, r < n_rows <= 4. Scattered re-score and feature-major GEMV. */            \
    K(void, dot_rows,                                                                                                                      \
      (float *c, size_t ldc, const saei_matrix *m, const int32_t *ids, size_t j0, size_t n, const float *x, size_t ldx, size_t n_rows))    \
    /* The same for pairs of a feature and a row: c[i] = dot of feature ids[i] with row rows[i] of x, i < n. */                            \
    K(void, dot_pairs, (float *c, const saei_matrix *m, const int32_t *ids, const float *x, size_t ldx, const int32_t *rows, size_t n))    \
    /* Probe of n features in ceil(n/16) groups packed[g][d][16]: c[r][i] = dot, i < n, any n_rows; c[r][i] is scratch from n to the     \
     * next multiple of 16. packed 64-byte aligned. */ \
    K(void, probe, (float *c, size_t ldc, const float *packed, size_t n, const float *x, size_t ldx, size_t n_rows, size_t d))             \
    /* Codes from dots: for i < n, feature j = j0 + i; those that are on are appended in order: idx[m] = j, val[m] = value.    \
     * Returns m <= n; idx and val have room for n. Non-finite ones are added to *bad. */           \
    K(size_t, activate,                                                                                                                    \
      (int32_t * idx, float *val, const float *dots, size_t n, size_t j0, const saei_act *act, float floor, size_t *bad))                  \
    /* Weighted sum of rows of a matrix stored [n][d]: out[k] = init ? init[k] : +0; then for t = 0 .. n-1 in order               \
     * out[k] = fma(coef[t], row_t[k], out[k]), row_t = row ids[t]. Decode. out may be init. */        \
    K(void, combine, (float *out, const float *init, const saei_matrix *m, const int32_t *ids, const float *coef, size_t n))               \
    /* u[i] = U of feature j0 + i, i < n, from the sums of one row; second NULL = 8-bit rows. NaN where a bound is infinite. */            \
    K(void, bounds,                                                                                                                        \
      (float *u, const int32_t *first, const int32_t *second, size_t n, size_t j0, const saei_bound *bound, const saei_span *x))           \
    /* Those of the n features whose U is not below threshold and floor (a NaN is not), ascending: ids[m] = j. Returns m <= n. */          \
    K(size_t, screen,                                                                                                                      \
      (int32_t * ids, const int32_t *first, const int32_t *second, size_t n, size_t j0, const saei_bound *bound, const saei_span *x))

typedef struct saei_kernels {
    sae_isa isa;
#define SAEI_KERNEL_FIELD(ret, name, args) ret(*name) args;
    SAEI_KERNELS(SAEI_KERNEL_FIELD)
#undef SAEI_KERNEL_FIELD
} saei_kernels;

/* The table for `isa` (AUTO = best here), or NULL when this build or this processor cannot run it. */
const saei_kernels *saei_kernels_for(sae_isa isa);

#endif
