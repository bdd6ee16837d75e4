/* The product of bytes, once, in these words of a vec_<isa>.h:
 *   I            a vector of VN 32-bit sums
 *   B, b_load    4 bytes without a sign of each of VN features, ready for products
 *   X, x_load    4 bytes with a sign of one plane, in all lanes
 *   i_zero i_store, i_dot(sums, b, x)   sums += the four products of each lane, exact
 *   INT8_CHAINS  sums that fit into the registers beside what a step reads, at least SAEI_PLANES */
#ifndef SAEI_KERNELS_INT8_H
#define SAEI_KERNELS_INT8_H

#include "simd/kernels.h"
#include "simd/unroll.h"

/* How far ahead weights are fetched, in bytes. */
enum { INT8_AHEAD = 2048 };

/* Weights of vector v of a tile at step k. */
INLINE const uint8_t *int8_at(const uint8_t *w, size_t d4, size_t k, int v, int nv)
{
    const uint8_t *at = w + (((size_t)(v / nv) * d4 + k) * SAEI_PANEL + (size_t)(v % nv * VN)) * 4;
    if (v % nv * VN % 16 == 0)
        __builtin_prefetch(at + INT8_AHEAD);
    return at;
}

/* `planes` planes of x with np panels of which nv vectors each are taken: one pass over their weights. Of planes and weights, the fewer wait
 * in registers for the others. */
INLINE void int8_tile(int32_t *c, size_t ldc, const uint8_t *w, const int8_t *x, size_t d4, int planes, int np, int nv)
{
    const int vectors = np * nv;
    I a[INT8_CHAINS];
    UNROLL
    for (int i = 0; i < planes * vectors; i++)
        a[i] = i_zero();
    for (size_t k = 0; k < d4; k++) {
        const int8_t *four = x + k * (size_t)planes * 4;
        X xk[4];
        B b[4];
        UNROLL
        for (int i = 0; i < (vectors < planes ? vectors : planes); i++) {
            if (vectors < planes)
                b[i] = b_load(int8_at(w, d4, k, i, nv));
            else
                xk[i] = x_load(four + i * 4);
        }
        UNROLL
        for (int i = 0; i < planes * vectors; i++) {
            const int q = vectors < planes ? i / vectors : i % planes, v = vectors < planes ? i % vectors : i / planes;
            if (vectors < planes && v == 0)
                xk[0] = x_load(four + q * 4);
            if (vectors >= planes && q == 0)
                b[0] = b_load(int8_at(w, d4, k, v, nv));
            a[i] = vectors < planes ? i_dot(a[i], b[v], xk[0]) : i_dot(a[i], b[0], xk[q]);
        }
    }
    UNROLL
    for (int i = 0; i < planes * vectors; i++) {
        const int q = vectors < planes ? i / vectors : i % planes, v = vectors < planes ? i % vectors : i / planes;
        i_store(c + (size_t)q * ldc + v / nv * SAEI_PANEL + v % nv * VN, a[i]);
    }
}

/* All panels, with the tile that fills the registers: several panels, a panel, or a part of one. */
INLINE void int8_planes(int32_t *c, size_t ldc, const uint8_t *w, size_t n_panels, const int8_t *x, size_t d4, int planes)
{
    enum { NV = SAEI_PANEL / VN };
    const int fit = INT8_CHAINS / planes < 1 ? 1 : INT8_CHAINS / planes;
    const int nv = fit >= NV ? NV : NV % fit == 0 ? fit : NV % (fit - 1) == 0 ? fit - 1 : 1, np = fit >= 2 * NV ? fit / NV : 1;
    const size_t panel = d4 * SAEI_PANEL * 4;
    size_t p = 0;
    for (; np > 1 && p + (size_t)np <= n_panels; p += (size_t)np)
        int8_tile(c + p * SAEI_PANEL, ldc, w + p * panel, x, d4, planes, np, NV);
    for (; p < n_panels; p++)
        for (int v = 0; v < NV; v += nv)
            int8_tile(c + p * SAEI_PANEL + v * VN, ldc, w + p * panel + v * VN * 4, x, d4, planes, 1, nv);
}

/* 1 byte a weight for all planes: memory roof up to 4 planes, roof of the multiplier above. */
INLINE void int8_product(int32_t *c, size_t ldc, const uint8_t *w, size_t n_panels, const int8_t *x, size_t planes, size_t d4)
{
    if (planes == 2)
        int8_planes(c, ldc, w, n_panels, x, d4, 2);
    else if (planes == 4)
        int8_planes(c, ldc, w, n_panels, x, d4, 4);
    else
        int8_planes(c, ldc, w, n_panels, x, d4, SAEI_PLANES);
}

#endif
