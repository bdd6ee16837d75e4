/* Vector vocabulary, aarch64 NEON: 4 lanes. Words: kernels_tmpl.h. */
#ifndef SAEI_VEC_NEON_H
#define SAEI_VEC_NEON_H

#include <arm_neon.h>
#include <string.h>

#include "base/base.h"
#include "simd/unroll.h"

/* 8 rows x 12 features: 24 accumulators, 3 weights, 2 for the row values. */
enum { VN = 4, PANEL_MR = 8, PANEL_NV = 3, GEMV_PANELS = 1, GEMV_CHAINS = 24, PROBE_MR = 4 };
typedef float32x4_t V;
typedef int32x4_t I;

static inline V v_zero(void)
{
    return vdupq_n_f32(0.0f);
}
static inline V v_set1(float f)
{
    return vdupq_n_f32(f);
}
static inline V v_set1_at(const float *p, int i) /* one load for four of them, and a multiply by element */
{
    return vdupq_n_f32(vld1q_f32(p + i / 4 * 4)[i % 4]);
}
static inline V v_load(const void *p)
{
    return vreinterpretq_f32_u8(vld1q_u8(p));
} /* bytes: any alignment */
static inline void v_store(void *p, V v)
{
    vst1q_u8(p, vreinterpretq_u8_f32(v));
}
static inline uint16x4_t v_halves(const void *p, size_t n)
{
    uint16_t h[4] = {0};
    memcpy(h, p, n * sizeof *h);
    return vld1_u16(h);
}
static inline V v_f16(uint16x4_t h)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}
static inline V v_bf16(uint16x4_t h)
{
    return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}
static inline V v_load_f16(const void *p)
{
    return v_f16(vreinterpret_u16_u8(vld1_u8(p)));
}
static inline V v_load_bf16(const void *p)
{
    return v_bf16(vreinterpret_u16_u8(vld1_u8(p)));
}
static inline V v_load_f16_n(const void *p, size_t n)
{
    return v_f16(v_halves(p, n));
}
static inline V v_load_bf16_n(const void *p, size_t n)
{
    return v_bf16(v_halves(p, n));
}
static inline V v_load_n(const void *p, size_t n)
{
    float f[4] = {0};
    memcpy(f, p, n * sizeof *f);
    return vld1q_f32(f);
}
static inline void v_store_n(void *p, V v, size_t n)
{
    float f[4];
    vst1q_f32(f, v);
    memcpy(p, f, n * sizeof *f);
}
static inline void v_store_f16(void *p, V v)
{
    vst1_u8(p, vreinterpret_u8_f16(vcvt_f16_f32(v)));
}
static inline void v_store_bf16(void *p, V v)
{
    float f[4];
    uint16_t h[4];
    vst1q_f32(f, v);
    for (int i = 0; i < 4; i++)
        h[i] = saei_f32_to_bf16(f[i]);
    memcpy(p, h, sizeof h);
}
static inline V v_add(V a, V b)
{
    return vaddq_f32(a, b);
}
static inline V v_mul(V a, V b)
{
    return vmulq_f32(a, b);
}
static inline V v_fma(V a, V b, V c)
{
    return vfmaq_f32(c, a, b);
}
static inline uint32_t v_bits(uint32x4_t mask)
{
    static const uint32_t weight[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(mask, vld1q_u32(weight)));
}
static inline uint32_t v_gt(V a, V b)
{
    return v_bits(vcgtq_f32(a, b));
}
static inline uint32_t v_lt(V a, V b)
{
    return v_bits(vcltq_f32(a, b));
}
static inline V v_ints(const int32_t *p, int32_t less)
{
    return vcvtq_f32_s32(vsubq_s32(vld1q_s32(p), vdupq_n_s32(less)));
}
static inline V v_ints_n(const int32_t *p, int32_t less, size_t n)
{
    int32_t v[4] = {0};
    memcpy(v, p, n * sizeof *v);
    return v_ints(v, less);
}
static inline V v_pair_low(const void *p)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u8(vld1q_u8(p)), 16));
}
static inline V v_pair_high(const void *p)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(vld1q_u8(p)), vdupq_n_u32(0xffff0000u)));
}
static inline V v_load_i8(const void *p)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(word))))));
}
static inline V v_min(V a, V b)
{
    return vminnmq_f32(a, b);
}
static inline V v_max(V a, V b)
{
    return vmaxnmq_f32(a, b);
}
static inline V v_div(V a, V b)
{
    return vdivq_f32(a, b);
}
static inline V v_pow2(V n)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
static inline V v_above(V a, V b)
{
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vcleq_f32(a, b)));
}
static inline uint32_t v_finite(V a)
{
    return v_bits(vcltq_f32(vabsq_f32(a), vdupq_n_f32(__builtin_inff())));
}

enum { FEATS = 1, SUMS = 4, INT8_PLANES = 4 };

static inline I i_zero(void)
{
    return vdupq_n_s32(0);
}
static inline void i_store(int32_t *p, I v)
{
    vst1q_s32(p, v);
}
static inline void i_store4(int32_t *c, I p, I q, I r, I s)
{
    vst1q_s32(c, vpaddq_s32(vpaddq_s32(p, q), vpaddq_s32(r, s)));
}
static inline I i_add(I a, I b)
{
    return vaddq_s32(a, b);
}

#if defined(SAEI_I8MM)

/* Dot products of bytes without a sign and bytes with one come with the matrix products. */
#define INT8_SIGNED 0
typedef uint8x16_t B;
typedef int8x16_t X;

static inline B b_load(const uint8_t *p)
{
    return vld1q_u8(p);
}
static inline X x_load(const int8_t *p)
{
    return vld1q_s8(p);
}
static inline I i_dot(I sums, B b, X x)
{
    __asm__("usdot %0.4s, %1.16b, %2.16b" : "+w"(sums) : "w"(b), "w"(x));
    return sums;
}

#elif defined(SAEI_DOT)

/* The instruction has signed bytes: those without a sign lose 128. */
#define INT8_SIGNED 1
typedef int8x16_t B;
typedef int8x16_t X;

static inline B b_load(const uint8_t *p)
{
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(0x80)));
}
static inline B b_ones(void)
{
    return vdupq_n_s8(1);
}
static inline X x_load(const int8_t *p)
{
    return vld1q_s8(p);
}
static inline I i_dot(I sums, B b, X x)
{
    __asm__("sdot %0.4s, %1.16b, %2.16b" : "+w"(sums) : "w"(b), "w"(x)); /* clang 14 hides the intrinsic */
    return sums;
}

#else

/* Bytes widened to 16 bits: products of them are what every aarch64 has. */
#define INT8_SIGNED 0
typedef struct B {
    int16x8_t low, high;
} B, X;

static inline B b_load(const uint8_t *p)
{
    const uint8x16_t bytes = vld1q_u8(p);
    return (B){vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))), vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes)))};
}
static inline X x_load(const int8_t *p)
{
    const int8x16_t bytes = vld1q_s8(p);
    return (X){vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes))};
}
static inline I i_dot(I sums, B b, X x)
{
    sums = vmlal_s16(vmlal_high_s16(sums, b.low, x.low), vget_low_s16(b.low), vget_low_s16(x.low));
    return vmlal_s16(vmlal_high_s16(sums, b.high, x.high), vget_low_s16(b.high), vget_low_s16(x.high));
}

#endif

INLINE void v_transpose(V r[4])
{
    const float32x4x2_t a = vtrnq_f32(r[0], r[1]), b = vtrnq_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    r[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    r[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    r[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}
INLINE void v_square(V r[4], const unsigned char *const rows[4], size_t at)
{
    UNROLL
    for (int i = 0; i < 4; i++)
        r[i] = v_load(rows[i] + at);
    v_transpose(r);
}

#endif
