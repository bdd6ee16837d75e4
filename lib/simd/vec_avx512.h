/* Vector vocabulary, AVX-512 F, BW, DQ, VL: 16 lanes. Words: kernels_tmpl.h. */
#ifndef SAEI_VEC_AVX512_H
#define SAEI_VEC_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "base/base.h"
#include "simd/unroll.h"

/* 8 rows x 48 features: 24 accumulators, 3 weights, the row values broadcast from memory. */
enum { VN = 16, PANEL_MR = 8, PANEL_NV = 3, GEMV_PANELS = 4, GEMV_CHAINS = 24, PROBE_MR = 8 };
typedef __m512 V;
typedef __m512i I;

static inline __mmask16 v_first(size_t n)
{
    return (__mmask16)((1u << n) - 1u);
}
static inline V v_zero(void)
{
    return _mm512_setzero_ps();
}
static inline V v_set1(float f)
{
    return _mm512_set1_ps(f);
}
static inline V v_set1_at(const float *p, int i)
{
    return _mm512_set1_ps(p[i]);
}
static inline V v_load(const void *p)
{
    return _mm512_loadu_ps(p);
}
static inline V v_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
static inline V v_bf16(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
static inline V v_load_bf16(const void *p)
{
    return v_bf16(_mm256_loadu_si256(p));
}
static inline void v_store(void *p, V v)
{
    _mm512_storeu_ps(p, v);
}
static inline V v_load_n(const void *p, size_t n)
{
    return _mm512_maskz_loadu_ps(v_first(n), p);
}
static inline V v_load_f16_n(const void *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_first(n), p));
}
static inline V v_load_bf16_n(const void *p, size_t n)
{
    return v_bf16(_mm256_maskz_loadu_epi16(v_first(n), p));
}
static inline void v_store_n(void *p, V v, size_t n)
{
    _mm512_mask_storeu_ps(p, v_first(n), v);
}
static inline void v_store_f16(void *p, V v)
{
    _mm256_storeu_si256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void v_store_bf16(void *p, V v)
{
    const __m512i bits = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    _mm256_storeu_si256(p, _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet)));
}
static inline V v_add(V a, V b)
{
    return _mm512_add_ps(a, b);
}
static inline V v_mul(V a, V b)
{
    return _mm512_mul_ps(a, b);
}
static inline V v_fma(V a, V b, V c)
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline uint32_t v_gt(V a, V b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
static inline uint32_t v_lt(V a, V b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
static inline V v_ints(const int32_t *p, int32_t less)
{
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(less)));
}
static inline V v_ints_n(const int32_t *p, int32_t less, size_t n)
{
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_maskz_loadu_epi32(v_first(n), p), _mm512_set1_epi32(less)));
}
static inline V v_pair_low(const void *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
static inline V v_pair_high(const void *p)
{
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(-65536)));
}
static inline V v_load_i8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
static inline V v_min(V a, V b)
{
    return _mm512_min_ps(a, b);
}
static inline V v_max(V a, V b)
{
    return _mm512_max_ps(a, b);
}
static inline V v_div(V a, V b)
{
    return _mm512_div_ps(a, b);
}
static inline V v_pow2(V n)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
static inline V v_above(V a, V b)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLE_UQ), a);
}
static inline uint32_t v_finite(V a)
{
    return _mm512_cmp_ps_mask(_mm512_abs_ps(a), _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
}

static inline I i_zero(void)
{
    return _mm512_setzero_si512();
}
static inline void i_store(int32_t *p, I v)
{
    _mm512_storeu_si512(p, v);
}
static inline I i_add(I a, I b)
{
    return _mm512_add_epi32(a, b);
}
static inline __m512i i_sixteen(const int8_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline void i_store4(int32_t *c, I p, I q, I r, I s)
{
    const I a = _mm512_add_epi32(_mm512_unpacklo_epi32(p, q), _mm512_unpackhi_epi32(p, q));
    const I b = _mm512_add_epi32(_mm512_unpacklo_epi32(r, s), _mm512_unpackhi_epi32(r, s));
    _mm512_storeu_si512(c, _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)));
}

enum { FEATS = 4, SUMS = 4 };
#define INT8_SIGNED 0
#if defined(SAEI_VNNI)

enum { INT8_PLANES = 6 };
typedef __m512i B;
typedef __m512i X;

static inline B b_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}
static inline X x_load(const int8_t *p)
{
    return i_sixteen(p);
}
/* The intrinsic makes gcc 12 keep sums in memory or copy them at each step: a third of the speed. */
static inline I i_dot(I sums, B b, X x)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(b), "v"(x));
    return sums;
}

#else

/* The instruction that multiplies bytes would saturate: even and odd bytes as 16 bits. */
enum { INT8_PLANES = 4 };
typedef struct B {
    __m512i even, odd;
} B, X;

static inline B b_load(const uint8_t *p)
{
    const __m512i bytes = _mm512_loadu_si512(p);
    return (B){_mm512_and_si512(bytes, _mm512_set1_epi16(0xff)), _mm512_srli_epi16(bytes, 8)};
}
static inline X x_load(const int8_t *p)
{
    const __m512i bytes = i_sixteen(p);
    return (X){_mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8), _mm512_srai_epi16(bytes, 8)};
}
static inline I i_dot(I sums, B b, X x)
{
    return _mm512_add_epi32(sums, _mm512_add_epi32(_mm512_madd_epi16(b.even, x.even), _mm512_madd_epi16(b.odd, x.odd)));
}

#endif

/* 4 floats at each of 16 addresses, turned. Lane i of register q takes the four of row 4 i + q; insertions need no shuffle. */
INLINE V v_insert(V v, const unsigned char *p, int lane)
{
    const __m128 four = _mm_loadu_ps((const float *)(const void *)p);
    return lane == 1 ? _mm512_insertf32x4(v, four, 1) : lane == 2 ? _mm512_insertf32x4(v, four, 2) : _mm512_insertf32x4(v, four, 3);
}
INLINE void v_quad(V r[4], const unsigned char *const rows[16], size_t at)
{
    V t[4];
    UNROLL
    for (int q = 0; q < 4; q++) {
        t[q] = _mm512_castps128_ps512(_mm_loadu_ps((const float *)(const void *)(rows[q] + at)));
        UNROLL
        for (int lane = 1; lane < 4; lane++)
            t[q] = v_insert(t[q], rows[4 * lane + q] + at, lane);
    }
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(t[0], t[1])), b = _mm512_castps_pd(_mm512_unpacklo_ps(t[2], t[3]));
    const __m512d c = _mm512_castps_pd(_mm512_unpackhi_ps(t[0], t[1])), d = _mm512_castps_pd(_mm512_unpackhi_ps(t[2], t[3]));
    r[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
    r[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    r[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
    r[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
}
INLINE void v_square(V r[16], const unsigned char *const rows[16], size_t at)
{
    UNROLL
    for (int i = 0; i < 16; i += 4)
        v_quad(r + i, rows, at + (size_t)i * sizeof(float));
}

/* 16 x 16 in registers: pairs, quads, then 128-bit lanes twice. */
INLINE void v_transpose(V r[16])
{
    V t[16], s[16];
    UNROLL
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512d a = _mm512_castps_pd(t[4 * i]), b = _mm512_castps_pd(t[4 * i + 1]);
        const __m512d c = _mm512_castps_pd(t[4 * i + 2]), d = _mm512_castps_pd(t[4 * i + 3]);
        s[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        s[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        s[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        s[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        const V a = _mm512_shuffle_f32x4(s[i], s[4 + i], 0x88), b = _mm512_shuffle_f32x4(s[i], s[4 + i], 0xdd);
        const V c = _mm512_shuffle_f32x4(s[8 + i], s[12 + i], 0x88), d = _mm512_shuffle_f32x4(s[8 + i], s[12 + i], 0xdd);
        r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#endif
