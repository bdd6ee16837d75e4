/* Every kernel, once, in the vocabulary of a vec_<isa>.h that the including file has chosen:
 *   V            a vector of VN floats
 *   v_zero v_set1 v_add v_mul v_fma(a, b, c) = a*b + c, fused
 *   v_set1_at(p, i)       p[i] in all lanes; i < PANEL_MR is a constant and p[0 .. PANEL_MR-1] may be read
 *   v_load v_store (any alignment), v_load_f16 v_load_bf16 (widen exactly), v_store_f16 v_store_bf16 (round to even)
 *   v_load*_n v_store_n   the first n < VN elements: zeros in the other lanes, memory past them untouched
 *   v_gt v_lt v_finite    bit i = lane i
 *   v_ints                32-bit integers less a constant, rounded to floats; v_ints_n the first n < VN
 *   v_transpose           VN vectors of VN floats, in place
 *   v_square(r, rows, at)   lane i of r[q] is float q of the VN floats at rows[i] + at
 *   PANEL_MR x PANEL_NV   rows x vectors of the panel product's register tile; PROBE_MR likewise
 *   GEMV_CHAINS           sums that fit into the registers beside 4 elements of x and a weight; at most GEMV_PANELS panels are streams at once
 * and those of kernels_int8.h and kernels_weights.h, and defines one table, SAEI_TABLE, for SAEI_TABLE_ISA.
 *
 * Lanes are features, never k, so each lane is the canonical chain. The register tiles are sized so that the chains hide the latency of
 * the fused multiply-add (4 cycles, 2 per cycle: 8 chains at least). */
#include "simd/kernels.h"
#include "simd/kernels_int8.h"
#include "simd/unroll.h"

/* How far ahead streams are fetched, in floats: 6 KB. */
enum { AHEAD = 1536 };

/* ---- elements of any dtype; `t` is a constant wherever these are inlined ---- */

INLINE V load_any(const void *p, sae_dtype t)
{
    return t == SAE_F32 ? v_load(p) : t == SAE_F16 ? v_load_f16(p) : v_load_bf16(p);
}

INLINE V load_any_n(const void *p, sae_dtype t, size_t n)
{
    return t == SAE_F32 ? v_load_n(p, n) : t == SAE_F16 ? v_load_f16_n(p, n) : v_load_bf16_n(p, n);
}

/* The first n <= VN floats. */
INLINE V load_part(const float *p, size_t n)
{
    return n == VN ? v_load(p) : v_load_n(p, n);
}

INLINE void store_part(float *p, V v, size_t n)
{
    if (n == VN)
        v_store(p, v);
    else
        v_store_n(p, v, n);
}

INLINE size_t size_of(sae_dtype t)
{
    return t == SAE_F32 ? 4 : 2;
}

/* Calls a generic body once per dtype, so that each copy is compiled for its own. */
#define BY_DTYPE(t, call_f32, call_f16, call_bf16) \
    do {                                           \
        if ((t) == SAE_F32)                        \
            call_f32;                              \
        else if ((t) == SAE_F16)                   \
            call_f16;                              \
        else                                       \
            call_bf16;                             \
    } while (0)

/* ---- rows in and out: 4 + 4 (or 2) bytes an element, memory roof ---- */

INLINE void widen_any(float *dst, const unsigned char *src, sae_dtype t, size_t n)
{
    size_t i = 0;
    for (; i + VN <= n; i += VN)
        v_store(dst + i, load_any(src + i * size_of(t), t));
    if (i < n)
        v_store_n(dst + i, load_any_n(src + i * size_of(t), t, n - i), n - i);
}

static void widen(float *dst, const void *src, sae_dtype dtype, size_t n)
{
    BY_DTYPE(dtype, widen_any(dst, src, SAE_F32, n), widen_any(dst, src, SAE_F16, n), widen_any(dst, src, SAE_BF16, n));
}

INLINE void narrow_any(unsigned char *dst, const float *src, sae_dtype t, size_t n)
{
    unsigned char last[VN * sizeof(float)];
    size_t i = 0;
    for (; i + VN <= n; i += VN) {
        const V v = v_load(src + i);
        unsigned char *p = dst + i * size_of(t);
        BY_DTYPE(t, v_store(p, v), v_store_f16(p, v), v_store_bf16(p, v));
    }
    if (i == n)
        return;
    const V v = v_load_n(src + i, n - i);
    BY_DTYPE(t, v_store(last, v), v_store_f16(last, v), v_store_bf16(last, v));
    __builtin_memcpy(dst + i * size_of(t), last, (n - i) * size_of(t));
}

static void narrow(void *dst, const float *src, sae_dtype dtype, size_t n)
{
    BY_DTYPE(dtype, narrow_any(dst, src, SAE_F32, n), narrow_any(dst, src, SAE_F16, n), narrow_any(dst, src, SAE_BF16, n));
}

/* Index of the first of n <= VN lanes that is not finite, n if there is none. */
INLINE size_t first_bad(V v, size_t n)
{
    const uint32_t bad = ~v_finite(v) & (uint32_t)(((uint64_t)1 << n) - 1);
    return bad ? (size_t)__builtin_ctz(bad) : n;
}

INLINE size_t nonfinite_any(const unsigned char *src, sae_dtype t, size_t n)
{
    size_t i = 0;
    for (; i + VN <= n; i += VN) {
        const size_t at = first_bad(load_any(src + i * size_of(t), t), VN);
        if (at < VN)
            return i + at;
    }
    return i == n ? n : i + first_bad(load_any_n(src + i * size_of(t), t, n - i), n - i);
}

/* 4 or 2 bytes an element, read once: memory roof. */
static size_t nonfinite(const void *src, sae_dtype dtype, size_t n)
{
    size_t at = n;
    BY_DTYPE(dtype, at = nonfinite_any(src, SAE_F32, n), at = nonfinite_any(src, SAE_F16, n), at = nonfinite_any(src, SAE_BF16, n));
    return at;
}

/* ---- packing ---- */

/* VN x VN weights of a matrix stored [n][d], turned: lane i of r[q] is weight k + q of the feature at rows[i]. Its many rows are more
 * streams than a processor follows by itself, so each line is asked for four lines ahead; into L2, since rows a multiple of 4 KB apart
 * share one set of L1. */
INLINE void load_square(V r[VN], const unsigned char *const rows[VN], size_t k, sae_dtype t)
{
    const bool new_line = k * size_of(t) % 64 < VN * size_of(t);
    UNROLL
    for (int i = 0; i < VN; i++) {
        if (new_line)
            __builtin_prefetch(rows[i] + k * size_of(t) + 256, 0, 2);
        if (t != SAE_F32)
            r[i] = load_any(rows[i] + k * size_of(t), t);
    }
    if (t == SAE_F32)
        v_square(r, rows, k * sizeof(float));
    else
        v_transpose(r);
}

/* The same at the edges: kn <= VN weights, zeros for the others and for rows that are NULL. */
OUTLINE void load_edge(V r[VN], const unsigned char *const rows[VN], size_t k, size_t kn, sae_dtype t)
{
    for (int i = 0; i < VN; i++)
        r[i] = !rows[i] ? v_zero() : kn == VN ? load_any(rows[i] + k * size_of(t), t) : load_any_n(rows[i] + k * size_of(t), t, kn);
    v_transpose(r);
}

/* 8 bytes an element, once per block of rows: a few percent of any product. */
static void pack_rows(float *xp, const float *x, size_t ldx, size_t n_rows, size_t d)
{
    for (size_t r0 = 0; r0 < n_rows; r0 += SAEI_ROWS, xp += d * SAEI_ROWS)
        for (size_t j = 0; j < SAEI_ROWS; j += VN) {
            const unsigned char *rows[VN];
            for (size_t i = 0; i < VN; i++)
                rows[i] = j + i < SAEI_ROWS && r0 + j + i < n_rows ? (const unsigned char *)(x + (r0 + j + i) * ldx) : NULL;
            for (size_t k = 0; k < d; k += VN) {
                V r[VN];
                const size_t kn = saei_min(VN, d - k);
                load_edge(r, rows, k, kn, SAE_F32);
                for (size_t i = 0; i < kn; i++)
                    store_part(xp + (k + i) * SAEI_ROWS + j, r[i], saei_min(VN, SAEI_ROWS));
            }
        }
}

INLINE void pack_by_rows(float *dst, const saei_matrix *m, size_t j0, size_t nj, size_t k0, size_t kc, sae_dtype t)
{
    const size_t d = (size_t)m->d;
    for (size_t j = 0; j < (nj + SAEI_PANEL - 1) / SAEI_PANEL * SAEI_PANEL; j += VN) {
        const unsigned char *rows[VN];
        float *to = dst + j / SAEI_PANEL * kc * SAEI_PANEL + j % SAEI_PANEL;
        for (size_t i = 0; i < VN; i++)
            rows[i] = j + i < nj ? (const unsigned char *)m->data + ((j0 + j + i) * d + k0) * size_of(t) : NULL;
        V r[VN];
        size_t k = 0;
        for (; k + VN <= kc && j + VN <= nj; k += VN) {
            load_square(r, rows, k, t);
            UNROLL
            for (size_t i = 0; i < VN; i++)
                v_store(to + (k + i) * SAEI_PANEL, r[i]);
        }
        for (; k < kc; k += VN) {
            const size_t kn = saei_min(VN, kc - k);
            load_edge(r, rows, k, kn, t);
            for (size_t i = 0; i < kn; i++)
                v_store(to + (k + i) * SAEI_PANEL, r[i]);
        }
    }
}

INLINE void pack_by_cols(float *dst, const saei_matrix *m, size_t j0, size_t nj, size_t k0, size_t kc, sae_dtype t)
{
    const size_t width = (size_t)m->n * size_of(t);
    for (size_t k = 0; k < kc; k++) {
        const unsigned char *row = (const unsigned char *)m->data + (k0 + k) * width + j0 * size_of(t);
        float *to = dst + k * SAEI_PANEL;
        size_t j = 0;
        for (; j + SAEI_PANEL <= nj; j += SAEI_PANEL, to += kc * SAEI_PANEL) {
            UNROLL
            for (size_t i = 0; i < SAEI_PANEL; i += VN) {
                const unsigned char *from = row + (j + i) * size_of(t);
                if (i * size_of(t) % 64 == 0) /* each row is a new stream: two rows ahead */
                    __builtin_prefetch(from + 2 * width, 0, 2);
                v_store(to + i, load_any(from, t));
            }
        }
        for (size_t i = 0; j < nj && i < SAEI_PANEL; i += VN) {
            const unsigned char *from = row + (j + i) * size_of(t);
            v_store(to + i, j + i + VN <= nj ? load_any(from, t) : j + i < nj ? load_any_n(from, t, nj - j - i) : v_zero());
        }
    }
}

/* 4 bytes written, 4 or 2 read for each weight: memory roof. */
static void pack_panels(float *dst, const saei_matrix *m, size_t j0, size_t nj, size_t k0, size_t kc)
{
    if (m->by_cols)
        BY_DTYPE(m->dtype, pack_by_cols(dst, m, j0, nj, k0, kc, SAE_F32), pack_by_cols(dst, m, j0, nj, k0, kc, SAE_F16),
                 pack_by_cols(dst, m, j0, nj, k0, kc, SAE_BF16));
    else
        BY_DTYPE(m->dtype, pack_by_rows(dst, m, j0, nj, k0, kc, SAE_F32), pack_by_rows(dst, m, j0, nj, k0, kc, SAE_F16),
                 pack_by_rows(dst, m, j0, nj, k0, kc, SAE_BF16));
}

static void pack_lanes(float *dst, const float *src, size_t n, size_t d)
{
    for (size_t g = 0; g * SAEI_LANES < n; g++)
        for (size_t k = 0; k < d; k++)
            for (size_t i = 0; i < SAEI_LANES; i++) {
                const size_t j = g * SAEI_LANES + i;
                dst[(g * d + k) * SAEI_LANES + i] = j < n ? src[j * d + k] : 0.0f;
            }
}

/* ---- products ---- */

/* What is fetched for later: two lines a step, `step` bytes apart from those of the next. */
typedef struct ahead {
    const unsigned char *at;
    size_t step;
} ahead;

/* mr rows x nv vectors of features over kc weights; of c, `stored` <= mr rows and `have` features are touched. With all of a panel in L2 this
 * runs at the FMA peak; with few rows it streams 4 bytes a weight at the memory roof. */
INLINE void panel_tile(float *c, size_t ldc, const float *w, const float *xp, size_t kc, bool resume, int mr, int nv, size_t stored,
                       size_t have, ahead *far)
{
    V a[PANEL_MR][PANEL_NV];
    UNROLL
    for (int r = 0; r < mr; r++) {
        UNROLL
        for (int v = 0; v < nv; v++)
            a[r][v] =
                resume && (size_t)r < stored ? load_part(c + (size_t)r * ldc + v * VN, saei_min(VN, have - (size_t)(v * VN))) : v_zero();
    }
    for (size_t k = 0; k < kc; k++, w += SAEI_PANEL, xp += SAEI_ROWS) {
        V b[PANEL_NV];
        __builtin_prefetch(far->at, 0, 2);
        __builtin_prefetch(far->at + far->step / 2, 0, 2);
        far->at += far->step;
        UNROLL
        for (int v = 0; v < nv; v++) {
            b[v] = v_load(w + v * VN);
            __builtin_prefetch(w + v * VN + AHEAD);
        }
        UNROLL
        for (int r = 0; r < mr; r++) {
            const V x = v_set1_at(xp, r);
            UNROLL
            for (int v = 0; v < nv; v++)
                a[r][v] = v_fma(b[v], x, a[r][v]);
        }
    }
    UNROLL
    for (int r = 0; r < mr; r++) {
        if ((size_t)r >= stored)
            break;
        UNROLL
        for (int v = 0; v < nv; v++)
            store_part(c + (size_t)r * ldc + v * VN, a[r][v], saei_min(VN, have - (size_t)(v * VN)));
    }
}

/* n <= mr rows with `have` features of a panel: as many vectors at once as a tile has, the last ones by themselves. */
INLINE void panel_part(float *c, size_t ldc, const float *w, const float *xp, size_t kc, bool resume, int mr, size_t n, size_t have,
                       ahead *far)
{
    enum { TILE = PANEL_NV * VN };
    size_t v = 0;
    for (; v + TILE <= have; v += TILE)
        panel_tile(c + v, ldc, w + v, xp, kc, resume, mr, PANEL_NV, n, TILE, far);
    for (; v + VN <= have; v += VN)
        panel_tile(c + v, ldc, w + v, xp, kc, resume, mr, 1, n, VN, far);
    if (v < have)
        panel_tile(c + v, ldc, w + v, xp, kc, resume, mr, 1, n, have - v, far);
}

/* Rows r0 .. of a packed group, `left` of them wanted, against `have` features of a panel. */
INLINE void panel_rows(float *c, size_t ldc, const float *w, const float *xp, size_t kc, bool resume, size_t left, size_t have, ahead *far)
{
    for (size_t r = 0; r < saei_min(left, SAEI_ROWS); r += PANEL_MR) {
        const size_t n = saei_min(left - r, PANEL_MR);
        if (n > PANEL_MR / 2)
            panel_part(c + r * ldc, ldc, w, xp + r, kc, resume, PANEL_MR, n, have, far);
        else if (n > PANEL_MR / 4)
            panel_part(c + r * ldc, ldc, w, xp + r, kc, resume, PANEL_MR / 2, n, have, far);
        else
            panel_part(c + r * ldc, ldc, w, xp + r, kc, resume, PANEL_MR / 4, n, have, far);
    }
}

/* What is to be fetched is shared evenly among the steps of all tiles of a panel; where nothing is, its own weights are, which are there. */
static void panels(float *c, size_t ldc, const float *w, size_t panel_stride, size_t n, const float *xp, size_t xp_stride, size_t n_rows,
                   size_t kc, bool resume, const saei_ahead *next)
{
    enum { PARTS = SAEI_PANEL / (PANEL_NV * VN) };
    const size_t steps = (n_rows + PANEL_MR - 1) / PANEL_MR * PARTS * kc, each = next && steps ? (next->bytes + steps - 1) / steps : 0;
    for (size_t r = 0; r < n_rows; r += SAEI_ROWS, xp += xp_stride)
        for (size_t p = 0; p * SAEI_PANEL < n; p++) {
            const float *at = w + p * panel_stride;
            const size_t left = n - p * SAEI_PANEL;
            float *to = c + r * ldc + p * SAEI_PANEL;
            ahead far = {(const unsigned char *)at, each};
            if (each)
                far.at = (const unsigned char *)next->first + p * next->stride + r / PANEL_MR * PARTS * kc * each;
            if (left >= SAEI_PANEL)
                panel_rows(to, ldc, at, xp, kc, resume, n_rows - r, SAEI_PANEL, &far);
            else
                panel_rows(to, ldc, at, xp, kc, resume, n_rows - r, left, &far);
        }
}

/* The rows of x that a dot kernel works on: 1, 2 or 4, of which the last may be repeated. */
typedef struct few_rows {
    const float *x[4];
} few_rows;

INLINE few_rows few_rows_of(const float *x, size_t ldx, size_t n_rows)
{
    few_rows rows;
    for (size_t q = 0; q < 4; q++)
        rows.x[q] = x + saei_min(q, n_rows - 1) * ldx;
    return rows;
}

/* nr rows, `stored` of them wanted, with nv vectors of each of np panels side by side: as many streams; `have` features are stored. 4 bytes a
 * weight: memory roof. */
INLINE void gemv_tile(float *c, size_t ldc, const float *w, const few_rows *x, size_t d, int nr, int np, int nv, size_t stored, size_t have)
{
    V a[4][GEMV_PANELS][SAEI_PANEL / VN];
    UNROLL
    for (int r = 0; r < nr; r++) {
        UNROLL
        for (int i = 0; i < np * nv; i++)
            a[r][i / nv][i % nv] = v_zero();
    }
    for (size_t k = 0; k < d; k++) {
        V xk[4];
        UNROLL
        for (int r = 0; r < nr; r++)
            xk[r] = v_set1(x->x[r][k]);
        UNROLL
        for (int i = 0; i < np * nv; i++) {
            const float *at = w + ((size_t)(i / nv) * d + k) * SAEI_PANEL + i % nv * VN;
            const V b = v_load(at);
            if (i % nv * VN % 16 == 0)
                __builtin_prefetch(at + AHEAD);
            UNROLL
            for (int r = 0; r < nr; r++)
                a[r][i / nv][i % nv] = v_fma(b, xk[r], a[r][i / nv][i % nv]);
        }
    }
    UNROLL
    for (int r = 0; r < nr; r++) {
        if ((size_t)r >= stored)
            break;
        UNROLL
        for (int i = 0; i < np * nv; i++) {
            const size_t at = (size_t)(i / nv * SAEI_PANEL + i % nv * VN);
            if (at < have)
                store_part(c + (size_t)r * ldc + at, a[r][i / nv][i % nv], saei_min(VN, have - at));
        }
    }
}

/* All panels of n features, with the tile that fills the registers: several panels, a panel, or a part of one. */
INLINE void gemv_rows(float *c, size_t ldc, const float *w, size_t n, const few_rows *x, size_t d, int nr, size_t stored)
{
    enum { NV = SAEI_PANEL / VN };
    const int vectors = GEMV_CHAINS / nr, nv = vectors < NV ? vectors : NV;
    const int most = nr > 1 && GEMV_PANELS > 2 ? 2 : GEMV_PANELS; /* two rows have chains enough in two panels */
    const int np = vectors / NV < 1 ? 1 : vectors / NV < most ? vectors / NV : most;
    const size_t many = (size_t)np * SAEI_PANEL, part = (size_t)nv * VN;
    size_t j = 0;
    for (; np > 1 && j + many <= n; j += many)
        gemv_tile(c + j, ldc, w + j * d, x, d, nr, np, nv, stored, many);
    for (; j < n; j += part) {
        const float *at = w + j / SAEI_PANEL * SAEI_PANEL * d + j % SAEI_PANEL;
        if (j + part <= n)
            gemv_tile(c + j, ldc, at, x, d, nr, 1, nv, stored, part);
        else
            gemv_tile(c + j, ldc, at, x, d, nr, 1, nv, stored, n - j);
    }
}

static void gemv_panels(float *c, size_t ldc, const float *w, size_t n, const float *x, size_t ldx, size_t n_rows, size_t d)
{
    if (n_rows == 0)
        return;
    const few_rows rows = few_rows_of(x, ldx, n_rows);
    if (n_rows == 1)
        gemv_rows(c, ldc, w, n, &rows, d, 1, 1);
    else if (n_rows == 2)
        gemv_rows(c, ldc, w, n, &rows, d, 2, 2);
    else
        gemv_rows(c, ldc, w, n, &rows, d, 4, n_rows);
}

#include "simd/kernels_weights.h"

/* kn <= 4 weights of nr rows for a run of columns: the accumulators live in c, which stays in L1, and are touched once per 4 weights. */
INLINE void cols_step(float *c, size_t ldc, const unsigned char *w, size_t width, size_t nj, const float *x, size_t ldx, int nr, int kn,
                      bool first, bool more, sae_dtype t)
{
    V xs[4][4];
    UNROLL
    for (int r = 0; r < nr; r++) {
        UNROLL
        for (int k = 0; k < kn; k++)
            xs[r][k] = v_set1(x[(size_t)r * ldx + (size_t)k]);
    }
    size_t j = 0;
    for (; j + VN <= nj; j += VN) {
        V b[4];
        UNROLL
        for (int k = 0; k < kn; k++) {
            b[k] = load_any(w + ((size_t)k * width + j) * size_of(t), t);
            if (more) /* into L2: rows are often a multiple of 4 KB apart, so that 8 of them would fight for one set of L1 */
                __builtin_prefetch(w + ((size_t)(k + 4) * width + j) * size_of(t), 0, 2);
        }
        UNROLL
        for (int r = 0; r < nr; r++) {
            V a = first ? v_zero() : v_load(c + (size_t)r * ldc + j);
            UNROLL
            for (int k = 0; k < kn; k++)
                a = v_fma(b[k], xs[r][k], a);
            v_store(c + (size_t)r * ldc + j, a);
        }
    }
    if (j == nj)
        return;
    UNROLL
    for (int r = 0; r < nr; r++) {
        V a = first ? v_zero() : v_load_n(c + (size_t)r * ldc + j, nj - j);
        UNROLL
        for (int k = 0; k < kn; k++)
            a = v_fma(load_any_n(w + ((size_t)k * width + j) * size_of(t), t, nj - j), xs[r][k], a);
        v_store_n(c + (size_t)r * ldc + j, a, nj - j);
    }
}

INLINE void cols_rows(float *c, size_t ldc, const saei_matrix *m, size_t j0, size_t nj, const float *x, size_t ldx, int nr, sae_dtype t)
{
    const size_t width = (size_t)m->n, d = (size_t)m->d;
    const unsigned char *w = (const unsigned char *)m->data + j0 * size_of(t);
    size_t k = 0;
    for (; k + 4 <= d; k += 4)
        cols_step(c, ldc, w + k * width * size_of(t), width, nj, x + k, ldx, nr, 4, k == 0, k + 8 <= d, t);
    for (; k < d; k++)
        cols_step(c, ldc, w + k * width * size_of(t), width, nj, x + k, ldx, nr, 1, k == 0, false, t);
}

INLINE void cols_any(float *c, size_t ldc, const saei_matrix *m, size_t j0, size_t nj, const float *x, size_t ldx, size_t n_rows,
                     sae_dtype t)
{
    if (n_rows == 1)
        cols_rows(c, ldc, m, j0, nj, x, ldx, 1, t);
    else if (n_rows == 2)
        cols_rows(c, ldc, m, j0, nj, x, ldx, 2, t);
    else if (n_rows == 3)
        cols_rows(c, ldc, m, j0, nj, x, ldx, 3, t);
    else if (n_rows == 4)
        cols_rows(c, ldc, m, j0, nj, x, ldx, 4, t);
}

/* 4 or 2 bytes a weight whatever the number of rows: memory roof. */
static void gemv_cols(float *c, size_t ldc, const saei_matrix *m, size_t j0, size_t nj, const float *x, size_t ldx, size_t n_rows)
{
    if (m->d == 0)
        for (size_t r = 0; r < n_rows; r++)
            __builtin_memset(c + r * ldc, 0, nj * sizeof *c);
    BY_DTYPE(m->dtype, cols_any(c, ldc, m, j0, nj, x, ldx, n_rows, SAE_F32), cols_any(c, ldc, m, j0, nj, x, ldx, n_rows, SAE_F16),
             cols_any(c, ldc, m, j0, nj, x, ldx, n_rows, SAE_BF16));
}

/* kn weights of VN features into the chains of nr rows. */
INLINE void chain_square(V a[4], const V r[VN], const few_rows *x, size_t k, size_t kn, int nr)
{
    if (kn == VN) {
        UNROLL
        for (int i = 0; i < VN; i++) {
            UNROLL
            for (int q = 0; q < nr; q++)
                a[q] = v_fma(r[i], v_set1(x->x[q][k + (size_t)i]), a[q]);
        }
    } else {
        for (size_t i = 0; i < kn; i++) {
            UNROLL
            for (int q = 0; q < nr; q++)
                a[q] = v_fma(r[i], v_set1(x->x[q][k + i]), a[q]);
        }
    }
}

/* Two groups of VN features at once: the shuffles of one hide the chain of the other. n <= 2 * VN are stored, for `stored` <= nr rows;
 * rows past n repeat a feature. */
INLINE void dots_of(float *c, size_t ldc, const unsigned char *const rows[2 * VN], size_t n, const few_rows *x, int nr, size_t stored,
                    size_t d, sae_dtype t)
{
    V a[4], b[4], r[VN];
    UNROLL
    for (int q = 0; q < nr; q++)
        a[q] = b[q] = v_zero();
    size_t k = 0;
    for (; k + VN <= d; k += VN) {
        load_square(r, rows, k, t);
        chain_square(a, r, x, k, VN, nr);
        if (n > VN) {
            load_square(r, rows + VN, k, t);
            chain_square(b, r, x, k, VN, nr);
        }
    }
    if (k < d) {
        load_edge(r, rows, k, d - k, t);
        chain_square(a, r, x, k, d - k, nr);
        load_edge(r, rows + VN, k, d - k, t);
        chain_square(b, r, x, k, d - k, nr);
    }
    UNROLL
    for (int q = 0; q < nr; q++) {
        if ((size_t)q >= stored)
            break;
        store_part(c + (size_t)q * ldc, a[q], saei_min(n, VN));
        if (n > VN)
            store_part(c + (size_t)q * ldc + VN, b[q], n - VN);
    }
}

INLINE void rows_any(float *c, size_t ldc, const saei_matrix *m, const int32_t *ids, size_t j0, size_t n, const float *x, size_t ldx,
                     size_t n_rows, sae_dtype t)
{
    const size_t row_bytes = (size_t)m->d * size_of(t);
    const few_rows xs = few_rows_of(x, ldx, n_rows);
    for (size_t i = 0; i < n; i += 2 * VN) {
        const unsigned char *rows[2 * VN];
        const size_t have = saei_min(2 * VN, n - i);
        for (size_t q = 0; q < 2 * VN; q++) {
            const size_t at = i + (q < have ? q : 0);
            rows[q] = (const unsigned char *)m->data + (ids ? (size_t)ids[at] : j0 + at) * row_bytes;
        }
        if (n_rows == 1)
            dots_of(c + i, ldc, rows, have, &xs, 1, 1, (size_t)m->d, t);
        else
            dots_of(c + i, ldc, rows, have, &xs, 4, n_rows, (size_t)m->d, t);
    }
}

/* 4 or 2 bytes a weight: memory roof when the rows are contiguous, latency of the gather when they are scattered. */
static void dot_rows(float *c, size_t ldc, const saei_matrix *m, const int32_t *ids, size_t j0, size_t n, const float *x, size_t ldx,
                     size_t n_rows)
{
    if (n_rows == 0)
        return;
    BY_DTYPE(m->dtype, rows_any(c, ldc, m, ids, j0, n, x, ldx, n_rows, SAE_F32), rows_any(c, ldc, m, ids, j0, n, x, ldx, n_rows, SAE_F16),
             rows_any(c, ldc, m, ids, j0, n, x, ldx, n_rows, SAE_BF16));
}

/* nr rows x ng groups of 16 features. A lone row and group is one chain: d times the latency of the FMA. */
INLINE void probe_tile(float *c, size_t ldc, const float *w, const float *x, size_t ldx, size_t d, int nr, int ng)
{
    enum { NV = SAEI_LANES / VN, MAX_TILES = PROBE_MR > 4 ? PROBE_MR : 4 };
    V a[MAX_TILES][NV];
    UNROLL
    for (int i = 0; i < nr * ng; i++) {
        UNROLL
        for (int v = 0; v < NV; v++)
            a[i][v] = v_zero();
    }
    for (size_t k = 0; k < d; k++) {
        UNROLL
        for (int g = 0; g < ng; g++) {
            const float *wk = w + ((size_t)g * d + k) * SAEI_LANES;
            UNROLL
            for (int r = 0; r < nr; r++) {
                const V xk = v_set1(x[(size_t)r * ldx + k]);
                UNROLL
                for (int v = 0; v < NV; v++)
                    a[g * nr + r][v] = v_fma(v_load(wk + v * VN), xk, a[g * nr + r][v]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < nr * ng; i++) {
        UNROLL
        for (int v = 0; v < NV; v++)
            v_store(c + (size_t)(i % nr) * ldc + (size_t)(i / nr) * SAEI_LANES + (size_t)(v * VN), a[i][v]);
    }
}

/* Whole groups: features are lanes. */
static void probe_groups(float *c, size_t ldc, const float *packed, size_t n_groups, const float *x, size_t ldx, size_t n_rows, size_t d)
{
    const size_t group = d * SAEI_LANES;
    size_t r = 0;
    for (; r + PROBE_MR <= n_rows; r += PROBE_MR)
        for (size_t g = 0; g < n_groups; g++)
            probe_tile(c + r * ldc + g * SAEI_LANES, ldc, packed + g * group, x + r * ldx, ldx, d, PROBE_MR, 1);
    for (; r + 2 <= n_rows; r += 2)
        for (size_t g = 0; g < n_groups; g++)
            probe_tile(c + r * ldc + g * SAEI_LANES, ldc, packed + g * group, x + r * ldx, ldx, d, 2, 1);
    for (; r < n_rows; r++) {
        size_t g = 0;
        for (; g + 4 <= n_groups; g += 4)
            probe_tile(c + r * ldc + g * SAEI_LANES, ldc, packed + g * group, x + r * ldx, ldx, d, 1, 4);
        for (; g < n_groups; g++)
            probe_tile(c + r * ldc + g * SAEI_LANES, ldc, packed + g * group, x + r * ldx, ldx, d, 1, 1);
    }
}

/* nf features of one group with n <= VN rows, which are lanes here: the rows are turned, as in dot_rows. */
INLINE void probe_turned(float *c, size_t ldc, const float *w, const unsigned char *const rows[VN], size_t n, size_t d, int nf)
{
    V a[8], r[VN];
    float out[VN];
    UNROLL
    for (int f = 0; f < nf; f++)
        a[f] = v_zero();
    size_t k = 0;
    for (; k + VN <= d; k += VN) {
        load_square(r, rows, k, SAE_F32);
        UNROLL
        for (int i = 0; i < VN; i++) {
            UNROLL
            for (int f = 0; f < nf; f++)
                a[f] = v_fma(r[i], v_set1(w[(k + (size_t)i) * SAEI_LANES + (size_t)f]), a[f]);
        }
    }
    if (k < d) {
        load_edge(r, rows, k, d - k, SAE_F32);
        for (size_t i = 0; i < d - k; i++) {
            UNROLL
            for (int f = 0; f < nf; f++)
                a[f] = v_fma(r[i], v_set1(w[(k + i) * SAEI_LANES + (size_t)f]), a[f]);
        }
    }
    UNROLL
    for (int f = 0; f < nf; f++) {
        v_store(out, a[f]);
        for (size_t q = 0; q < n; q++)
            c[q * ldc + (size_t)f] = out[q];
    }
}

/* nf features of one group with all rows. */
INLINE void probe_rows(float *c, size_t ldc, const float *w, const float *x, size_t ldx, size_t n_rows, size_t d, int nf)
{
    for (size_t r = 0; r < n_rows; r += VN) {
        const unsigned char *rows[VN];
        const size_t n = saei_min(VN, n_rows - r);
        for (size_t q = 0; q < VN; q++)
            rows[q] = (const unsigned char *)(x + (r + (q < n ? q : 0)) * ldx);
        probe_turned(c + r * ldc, ldc, w, rows, n, d, nf);
    }
}

/* From L1 and L2. A group of few features leaves lanes empty, so several rows take them instead. */
static void probe(float *c, size_t ldc, const float *packed, size_t n, const float *x, size_t ldx, size_t n_rows, size_t d)
{
    const size_t few = n % SAEI_LANES, whole = n / SAEI_LANES;
    if (few == 0 || few > 8 || VN < 4 || 2 * n_rows < VN) {
        probe_groups(c, ldc, packed, whole + (few > 0), x, ldx, n_rows, d);
        return;
    }
    probe_groups(c, ldc, packed, whole, x, ldx, n_rows, d);
    c += whole * SAEI_LANES;
    packed += whole * SAEI_LANES * d;
    if (few == 1)
        probe_rows(c, ldc, packed, x, ldx, n_rows, d, 1);
    else if (few <= 4)
        probe_rows(c, ldc, packed, x, ldx, n_rows, d, 4);
    else
        probe_rows(c, ldc, packed, x, ldx, n_rows, d, 8);
}

/* ---- codes ---- */

/* n <= VN features: which are on, what they are worth, how many are not finite. */
INLINE uint32_t judge(V *value, uint32_t *finite, V dot, const saei_act *act, size_t j, size_t n, V floor)
{
    V h = dot;
    if (act->gate) {
        h = v_add(dot, load_part(act->gate + j, n));
        *value = v_fma(dot, load_part(act->mag_scale + j, n), load_part(act->mag_bias + j, n));
        *finite = v_finite(h) & v_finite(*value);
        return v_gt(h, v_zero()) & v_gt(*value, floor) & *finite;
    }
    if (act->bias)
        h = v_add(h, load_part(act->bias + j, n));
    if (act->key_scale)
        h = v_mul(h, load_part(act->key_scale + j, n));
    *value = h;
    *finite = v_finite(h);
    const uint32_t on = v_gt(h, floor) & *finite;
    return act->threshold ? on & v_gt(h, load_part(act->threshold + j, n)) : on;
}

/* 4 bytes of dots and 4 to 12 of vectors a feature, all from L1 and L2: a few percent of any product. Most vectors hold no code. */
static size_t activate(int32_t *idx, float *val, const float *dots, size_t n, size_t j0, const saei_act *act, float floor, size_t *bad)
{
    const V floors = v_set1(floor);
    size_t m = 0;
    for (size_t i = 0; i < n; i += VN) {
        const size_t have = saei_min(VN, n - i);
        const uint32_t all = (uint32_t)(((uint64_t)1 << have) - 1);
        uint32_t finite;
        V value;
        uint32_t on = judge(&value, &finite, load_part(dots + i, have), act, j0 + i, have, floors) & all;
        if ((finite & all) != all)
            *bad += (size_t)__builtin_popcount(~finite & all);
        if (!on)
            continue;
        float values[VN];
        v_store(values, value);
        for (; on; on &= on - 1) {
            const int lane = __builtin_ctz(on);
            idx[m] = (int32_t)(j0 + i) + lane;
            val[m++] = values[lane];
        }
    }
    return m;
}

/* Adds nt terms: out[k] = from[k] (+0 when NULL) and then fma(coef[i], rows[i][k], .) for i < nt. The sums live in out, which stays in L1,
 * and are touched once per 4 terms; meanwhile the same columns of the next rows come in. */
INLINE void add_terms(float *out, const float *from, const unsigned char *const *rows, const unsigned char *const *next, const float *coef,
                      int nt, size_t d, sae_dtype t)
{
    V c[4];
    UNROLL
    for (int i = 0; i < nt; i++)
        c[i] = v_set1(coef[i]);
    size_t k = 0;
    for (; k + VN <= d; k += VN) {
        V a = from ? v_load(from + k) : v_zero();
        const bool new_line = k * size_of(t) % 64 == 0;
        UNROLL
        for (int i = 0; i < nt; i++) {
            if (new_line)
                __builtin_prefetch(next[i] + k * size_of(t), 0, 2);
            a = v_fma(c[i], load_any(rows[i] + k * size_of(t), t), a);
        }
        v_store(out + k, a);
    }
    if (k == d)
        return;
    V a = from ? v_load_n(from + k, d - k) : v_zero();
    UNROLL
    for (int i = 0; i < nt; i++)
        a = v_fma(c[i], load_any_n(rows[i] + k * size_of(t), t, d - k), a);
    v_store_n(out + k, a, d - k);
}

INLINE void combine_any(float *out, const float *init, const saei_matrix *m, const int32_t *ids, const float *coef, size_t n, sae_dtype t)
{
    const size_t d = (size_t)m->d;
    const unsigned char *rows[8];
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        for (size_t q = 0; q < 8; q++)
            rows[q] = (const unsigned char *)m->data + (size_t)ids[saei_min(i + q, n - 1)] * d * size_of(t);
        add_terms(out, i ? out : init, rows, rows + 4, coef + i, 4, d, t);
    }
    for (; i < n; i++) {
        rows[0] = (const unsigned char *)m->data + (size_t)ids[i] * d * size_of(t);
        add_terms(out, i ? out : init, rows, rows, coef + i, 1, d, t);
    }
    if (n == 0 && init != out)
        add_terms(out, init, rows, rows, coef, 0, d, t);
}

/* 4 or 2 bytes for each weight of the named rows, read once: memory roof or the latency of the gather. */
static void combine(float *out, const float *init, const saei_matrix *m, const int32_t *ids, const float *coef, size_t n)
{
    BY_DTYPE(m->dtype, combine_any(out, init, m, ids, coef, n, SAE_F32), combine_any(out, init, m, ids, coef, n, SAE_F16),
             combine_any(out, init, m, ids, coef, n, SAE_BF16));
}

#include "simd/kernels_screen.h"

#define SAEI_KERNEL_ENTRY(ret, name, args) .name = name,
const saei_kernels SAEI_TABLE = {.isa = SAEI_TABLE_ISA, SAEI_KERNELS(SAEI_KERNEL_ENTRY)};
