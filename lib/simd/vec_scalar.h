/* Vector vocabulary, one lane: portable C, the reference of the others. Words: kernels_tmpl.h. */
#ifndef SAEI_VEC_SCALAR_H
#define SAEI_VEC_SCALAR_H

#include <math.h>
#include <string.h>

#include "base/base.h"

enum { VN = 1, PANEL_MR = 4, PANEL_NV = 4, GEMV_PANELS = 1, GEMV_CHAINS = 16, PROBE_MR = 4 };
typedef float V;
typedef int32_t I;

static inline V v_zero(void)
{
    return 0.0f;
}
static inline V v_set1(float f)
{
    return f;
}
static inline V v_set1_at(const float *p, int i)
{
    return p[i];
}
static inline V v_load(const void *p)
{
    return saei_load(p, SAE_F32);
}
static inline V v_load_f16(const void *p)
{
    return saei_load(p, SAE_F16);
}
static inline V v_load_bf16(const void *p)
{
    return saei_load(p, SAE_BF16);
}
static inline void v_store(void *p, V v)
{
    memcpy(p, &v, sizeof v);
}
static inline V v_load_n(const void *p, size_t n)
{
    return n ? v_load(p) : 0.0f;
}
static inline V v_load_f16_n(const void *p, size_t n)
{
    return n ? v_load_f16(p) : 0.0f;
}
static inline V v_load_bf16_n(const void *p, size_t n)
{
    return n ? v_load_bf16(p) : 0.0f;
}
static inline void v_store_n(void *p, V v, size_t n)
{
    if (n)
        v_store(p, v);
}
static inline void v_store_f16(void *p, V v)
{
    const uint16_t h = saei_f32_to_f16(v);
    memcpy(p, &h, sizeof h);
}
static inline void v_store_bf16(void *p, V v)
{
    const uint16_t h = saei_f32_to_bf16(v);
    memcpy(p, &h, sizeof h);
}
static inline V v_add(V a, V b)
{
    return a + b;
}
static inline V v_mul(V a, V b)
{
    return a * b;
}
static inline V v_fma(V a, V b, V c)
{
    return fmaf(a, b, c);
}
static inline uint32_t v_gt(V a, V b)
{
    return a > b;
}
static inline uint32_t v_lt(V a, V b)
{
    return a < b;
}
static inline V v_ints(const int32_t *p, int32_t less)
{
    return (float)(*p - less);
}
static inline V v_ints_n(const int32_t *p, int32_t less, size_t n)
{
    return n ? v_ints(p, less) : 0.0f;
}
static inline V v_pair_low(const void *p)
{
    return saei_load(p, SAE_BF16);
}
static inline V v_pair_high(const void *p)
{
    return saei_load((const uint16_t *)p + 1, SAE_BF16);
}
static inline V v_load_i8(const void *p)
{
    return (float)*(const int8_t *)p;
}
static inline V v_min(V a, V b)
{
    return a < b ? a : b;
}
static inline V v_max(V a, V b)
{
    return a > b ? a : b;
}
static inline V v_div(V a, V b)
{
    return a / b;
}
static inline V v_pow2(V n)
{
    const uint32_t bits = (uint32_t)((int32_t)n + 127) << 23;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline V v_above(V a, V b)
{
    return a <= b ? 0.0f : a;
}
static inline uint32_t v_finite(V a)
{
    return isfinite(a) ? 1u : 0u;
}
enum { FEATS = 1, SUMS = 1, INT8_PLANES = 4 };
#define INT8_SIGNED 0
typedef const uint8_t *B;
typedef const int8_t *X;

static inline I i_zero(void)
{
    return 0;
}
static inline void i_store(int32_t *p, I v)
{
    *p = v;
}
static inline void i_store4(int32_t *c, I p, I q, I r, I s)
{
    c[0] = p;
    c[1] = q;
    c[2] = r;
    c[3] = s;
}
static inline I i_add(I a, I b)
{
    return a + b;
}
static inline B b_load(const uint8_t *p)
{
    return p;
}
static inline X x_load(const int8_t *p)
{
    return p;
}
static inline I i_dot(I sums, B b, X x)
{
    for (size_t i = 0; i < 16; i++)
        sums += b[i] * x[i];
    return sums;
}
static inline void v_transpose(V r[1])
{
    (void)r;
}
static inline void v_square(V r[1], const unsigned char *const rows[1], size_t at)
{
    r[0] = v_load(rows[0] + at);
}

#endif
