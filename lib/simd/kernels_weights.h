/* Products with weights that are kept in 2 bytes or 1, and what follows a product, in the words of kernels_tmpl.h and these:
 *   v_pair_low v_pair_high   VN pairs of bf16: the first of each pair, the second
 *   v_load_i8                VN signed bytes
 *   v_min v_max v_div        of two numbers; min and max of a NaN and b: b
 *   v_pow2                   2^n of whole numbers -126 .. 127
 *   v_above(a, b)            a <= b ? +0 : a
 *
 * Weights are widened on the way into the multiply-add, so that every lane is the canonical chain of what they stand for, and a product
 * costs the reading of what is kept: 1 to 3 instructions a vector of weights, for all rows of a tile. */
#ifndef SAEI_KERNELS_WEIGHTS_H
#define SAEI_KERNELS_WEIGHTS_H

#include "simd/kernels.h"
#include "simd/unroll.h"

/* How far ahead weights are fetched, in bytes. */
enum { KEPT_AHEAD = 2048 };

/* Weights of a chain that one load brings, and its bytes for one feature. */
INLINE int kept_step(saei_keep as)
{
    return as == SAEI_KEEP_BF16 ? 2 : 1;
}

INLINE size_t kept_bytes(saei_keep as)
{
    return as == SAEI_KEEP_BF16 ? 4 : as == SAEI_KEEP_F16 ? 2 : 1;
}

/* VN weights; `i` counts within a step. */
INLINE V kept_weight(const unsigned char *p, const float *scale, int i, saei_keep as)
{
    if (as == SAEI_KEEP_BF16)
        return i ? v_pair_high(p) : v_pair_low(p);
    return as == SAEI_KEEP_F16 ? v_load_f16(p) : v_mul(v_load_i8(p), v_load(scale));
}

/* Where weight k of a panel lies, its scales, and how many follow it in its block. */
typedef struct kept_run {
    const unsigned char *w;
    const float *scale;
    size_t n;
} kept_run;

INLINE kept_run kept_at(const saei_kept *w, size_t panel, size_t k, size_t end, saei_keep as)
{
    const size_t block = k / w->block, off = k % w->block, head = as == SAEI_KEEP_INT8 ? SAEI_PANEL * sizeof(float) : 0;
    const size_t left = w->block - off, each = SAEI_PANEL * kept_bytes(as);
    const unsigned char *p = w->data + panel * w->panel_bytes + block * (head + w->block * each);
    return (kept_run){p + head + off / (size_t)kept_step(as) * each, (const float *)(const void *)p, left < end - k ? left : end - k};
}

INLINE void kept_fetch(const unsigned char *p, int v, saei_keep as)
{
    if ((size_t)(v * VN) * kept_bytes(as) % 64 == 0)
        __builtin_prefetch(p + KEPT_AHEAD);
}

/* ---- up to 4 rows: a stream for each of np panels ---- */

/* The sums of a tile, the panels it reads and its rows. */
typedef struct kept_gemv {
    V a[4][GEMV_PANELS][SAEI_PANEL / VN];
    const few_rows *x;
    size_t panel_bytes;
} kept_gemv;

/* kn weights of the chains, all of one step. */
INLINE void kept_gemv_step(kept_gemv *t, const kept_run *run, size_t k, int kn, int nr, int np, int nv, saei_keep as)
{
    UNROLL
    for (int s = 0; s < kn; s++) {
        V xk[4];
        UNROLL
        for (int r = 0; r < nr; r++)
            xk[r] = v_set1(t->x->x[r][k + (size_t)s]);
        UNROLL
        for (int i = 0; i < np * nv; i++) {
            const size_t panel = (size_t)(i / nv) * t->panel_bytes;
            const unsigned char *at = run->w + panel + (size_t)(i % nv * VN) * kept_bytes(as);
            const V b = kept_weight(at, run->scale + panel / sizeof(float) + i % nv * VN, s, as);
            if (s == 0)
                kept_fetch(at, i % nv, as);
            UNROLL
            for (int r = 0; r < nr; r++)
                t->a[r][i / nv][i % nv] = v_fma(b, xk[r], t->a[r][i / nv][i % nv]);
        }
    }
}

/* nr rows, `stored` of them wanted, with nv vectors from v0 on of np panels: 1 to 2 bytes a weight, memory roof. */
INLINE void kept_gemv_tile(float *c, size_t ldc, const saei_kept *w, size_t panel, int v0, const few_rows *x, int nr, int np, int nv,
                           size_t stored, saei_keep as)
{
    kept_gemv t = {.x = x, .panel_bytes = w->panel_bytes};
    UNROLL
    for (int i = 0; i < nr * np * nv; i++)
        t.a[i / (np * nv)][i / nv % np][i % nv] = v_zero();
    for (size_t k = 0; k < w->d;) {
        kept_run run = kept_at(w, panel, k, w->d, as);
        run.w += (size_t)v0 * VN * kept_bytes(as);
        run.scale += v0 * VN;
        const size_t end = k + run.n, step = (size_t)kept_step(as);
        for (; k + step <= end; k += step, run.w += SAEI_PANEL * kept_bytes(as))
            kept_gemv_step(&t, &run, k, kept_step(as), nr, np, nv, as);
        if (step > 1 && k < end)
            kept_gemv_step(&t, &run, k++, 1, nr, np, nv, as);
    }
    UNROLL
    for (int r = 0; r < nr; r++) {
        if ((size_t)r >= stored)
            break;
        UNROLL
        for (int i = 0; i < np * nv; i++)
            v_store(c + (size_t)r * ldc + i / nv * SAEI_PANEL + (v0 + i % nv) * VN, t.a[r][i / nv][i % nv]);
    }
}

/* All panels, with the tile that fills the registers: several panels, a panel, or a part of one. */
INLINE void kept_gemv_rows(float *c, size_t ldc, const saei_kept *w, size_t p0, size_t n_panels, const few_rows *x, int nr, size_t stored,
                           saei_keep as)
{
    enum { NV = SAEI_PANEL / VN };
    const int vectors = GEMV_CHAINS / nr, nv = vectors < NV ? vectors : NV;
    const int np = vectors / NV < 1 ? 1 : vectors / NV < GEMV_PANELS ? vectors / NV : GEMV_PANELS;
    size_t p = 0;
    for (; np > 1 && p + (size_t)np <= n_panels; p += (size_t)np)
        kept_gemv_tile(c + p * SAEI_PANEL, ldc, w, p0 + p, 0, x, nr, np, nv, stored, as);
    for (; p < n_panels; p++)
        for (int v = 0; v < NV; v += nv)
            kept_gemv_tile(c + p * SAEI_PANEL, ldc, w, p0 + p, v, x, nr, 1, nv, stored, as);
}

INLINE void kept_gemv_any(float *c, size_t ldc, const saei_kept *w, size_t p0, size_t n_panels, const float *x, size_t ldx, size_t n_rows,
                          saei_keep as)
{
    if (n_rows == 0)
        return;
    const few_rows rows = few_rows_of(x, ldx, n_rows);
    if (n_rows == 1)
        kept_gemv_rows(c, ldc, w, p0, n_panels, &rows, 1, 1, as);
    else if (n_rows == 2)
        kept_gemv_rows(c, ldc, w, p0, n_panels, &rows, 2, 2, as);
    else
        kept_gemv_rows(c, ldc, w, p0, n_panels, &rows, 4, n_rows, as);
}

/* Calls a generic body once per form, so that each copy is compiled for its own. */
#define BY_KEPT(as, call_bf16, call_f16, call_int8) \
    do {                                            \
        if ((as) == SAEI_KEEP_BF16)                 \
            call_bf16;                              \
        else if ((as) == SAEI_KEEP_F16)             \
            call_f16;                               \
        else                                        \
            call_int8;                              \
    } while (0)

static void gemv_kept(float *c, size_t ldc, const saei_kept *w, size_t p0, size_t n_panels, const float *x, size_t ldx, size_t n_rows)
{
    BY_KEPT(w->as, kept_gemv_any(c, ldc, w, p0, n_panels, x, ldx, n_rows, SAEI_KEEP_BF16),
            kept_gemv_any(c, ldc, w, p0, n_panels, x, ldx, n_rows, SAEI_KEEP_F16),
            kept_gemv_any(c, ldc, w, p0, n_panels, x, ldx, n_rows, SAEI_KEEP_INT8));
}

/* ---- up to 8 packed rows: the register tile of `panels` ---- */

/* The sums of a tile, its rows, and where the widened weights go. */
typedef struct kept_tile {
    V a[PANEL_MR][PANEL_NV];
    const float *xp;
    float *wide;
} kept_tile;

INLINE void kept_tile_step(kept_tile *t, const kept_run *run, int kn, int mr, bool widens, saei_keep as)
{
    UNROLL
    for (int s = 0; s < kn; s++, t->xp += SAEI_ROWS) {
        V b[PANEL_NV];
        UNROLL
        for (int v = 0; v < PANEL_NV; v++) {
            const unsigned char *at = run->w + (size_t)(v * VN) * kept_bytes(as);
            b[v] = kept_weight(at, run->scale + v * VN, s, as);
            if (widens)
                v_store(t->wide + v * VN, b[v]);
            if (s == 0)
                kept_fetch(at, v, as);
        }
        if (widens)
            t->wide += SAEI_PANEL;
        UNROLL
        for (int r = 0; r < mr; r++) {
            const V x = v_set1_at(t->xp, r);
            UNROLL
            for (int v = 0; v < PANEL_NV; v++)
                t->a[r][v] = v_fma(b[v], x, t->a[r][v]);
        }
    }
}

/* Weights k0 .. k0+kc-1 of the features of a tile, which begin at feature `at` of the panel. */
INLINE void kept_panel_tile(float *c, size_t ldc, const saei_kept *w, size_t panel, size_t at, const float *xp, size_t k0, size_t kc,
                            float *wide, int mr, int stored, bool widens, saei_keep as)
{
    kept_tile t = {.xp = xp, .wide = wide};
    UNROLL
    for (int i = 0; i < mr * PANEL_NV; i++)
        t.a[i / PANEL_NV][i % PANEL_NV] =
            k0 && i / PANEL_NV < stored ? v_load(c + (size_t)(i / PANEL_NV) * ldc + i % PANEL_NV * VN) : v_zero();
    for (size_t k = k0; k < k0 + kc;) {
        kept_run run = kept_at(w, panel, k, k0 + kc, as);
        run.w += at * kept_bytes(as);
        run.scale += at;
        const size_t end = k + run.n, step = (size_t)kept_step(as);
        for (; k + step <= end; k += step, run.w += SAEI_PANEL * kept_bytes(as))
            kept_tile_step(&t, &run, kept_step(as), mr, widens, as);
        if (step > 1 && k < end) {
            kept_tile_step(&t, &run, 1, mr, widens, as);
            k++;
        }
    }
    UNROLL
    for (int r = 0; r < mr; r++) {
        if (r >= stored)
            break;
        UNROLL
        for (int v = 0; v < PANEL_NV; v++)
            v_store(c + (size_t)r * ldc + v * VN, t.a[r][v]);
    }
}

INLINE void kept_panel_rows(float *c, size_t ldc, const saei_kept *w, size_t panel, const float *xp, size_t n_rows, size_t k0, size_t kc,
                            float *wide, saei_keep as)
{
    for (size_t r = 0; r < n_rows; r += PANEL_MR)
        for (size_t at = 0; at < SAEI_PANEL; at += (size_t)PANEL_NV * VN) {
            const int n = (int)saei_min(n_rows - r, PANEL_MR);
            float *to = c + r * ldc + at;
            if (wide && r == 0)
                kept_panel_tile(to, ldc, w, panel, at, xp, k0, kc, wide + at, PANEL_MR, n, true, as);
            else if (n > PANEL_MR / 2)
                kept_panel_tile(to, ldc, w, panel, at, xp + r, k0, kc, NULL, PANEL_MR, n, false, as);
            else if (n > PANEL_MR / 4)
                kept_panel_tile(to, ldc, w, panel, at, xp + r, k0, kc, NULL, PANEL_MR / 2, n, false, as);
            else
                kept_panel_tile(to, ldc, w, panel, at, xp + r, k0, kc, NULL, PANEL_MR / 4, n, false, as);
        }
}

INLINE void kept_panels_any(float *c, size_t ldc, const saei_kept *w, size_t p0, size_t n_panels, const float *xp, size_t n_rows, size_t k0,
                            size_t kc, float *wide, saei_keep as)
{
    for (size_t p = 0; p < n_panels; p++)
        kept_panel_rows(c + p * SAEI_PANEL, ldc, w, p0 + p, xp, n_rows, k0, kc, wide ? wide + p * kc * SAEI_PANEL : NULL, as);
}

/* 1 to 2 bytes a weight, and 4 written into L2 where they are to be used again. */
static void panels_kept(float *c, size_t ldc, const saei_kept *w, size_t p0, size_t n_panels, const float *xp, size_t n_rows, size_t k0,
                        size_t kc, float *wide)
{
    BY_KEPT(w->as, kept_panels_any(c, ldc, w, p0, n_panels, xp, n_rows, k0, kc, wide, SAEI_KEEP_BF16),
            kept_panels_any(c, ldc, w, p0, n_panels, xp, n_rows, k0, kc, wide, SAEI_KEEP_F16),
            kept_panels_any(c, ldc, w, p0, n_panels, xp, n_rows, k0, kc, wide, SAEI_KEEP_INT8));
}

/* ---- what follows a product ---- */

/* 1 + e^-x as kernels.h defines it: x = n ln 2 + r, ln 2 in two parts so that r is exact to the last bit; the series to r^7 leaves less
 * than 6e-9. n is rounded by adding and taking away 1.5 * 2^23, and 2^n is put on in two steps, since it may be no float itself. */
INLINE V one_plus_exp(V minus_x)
{
    const V magic = v_set1(12582912.0f), minus_magic = v_set1(-12582912.0f), one = v_set1(1.0f);
    const V x = v_min(v_max(minus_x, v_set1(-87.0f)), v_set1(100.0f));
    const V n = v_add(v_fma(x, v_set1(1.44269504f), magic), minus_magic);
    const V r = v_fma(n, v_set1(2.12194440e-4f), v_fma(n, v_set1(-0.693359375f), x));
    const V half = v_add(v_fma(n, v_set1(0.5f), magic), minus_magic);
    static const float terms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    V sum = v_set1(1.0f / 5040);
    UNROLL
    for (int i = 0; i < 7; i++)
        sum = v_fma(sum, r, v_set1(terms[i]));
    return v_add(v_mul(v_mul(sum, v_pow2(half)), v_pow2(v_fma(half, v_set1(-1.0f), n))), one);
}

/* 12 bytes and some 20 operations an element, from L1: a few percent of any product. */
static void silu_gate(float *y, const float *gate, size_t n)
{
    for (size_t i = 0; i < n; i += VN) {
        const size_t have = saei_min(VN, n - i);
        const V a = load_part(gate + i, have), silu = v_div(a, one_plus_exp(v_mul(a, v_set1(-1.0f))));
        store_part(y + i, v_mul(silu, load_part(y + i, have)), have);
    }
}

static void keep_above(float *y, const float *threshold, size_t n)
{
    for (size_t i = 0; i < n; i += VN) {
        const size_t have = saei_min(VN, n - i);
        store_part(y + i, v_above(load_part(y + i, have), load_part(threshold + i, have)), have);
    }
}

#endif
