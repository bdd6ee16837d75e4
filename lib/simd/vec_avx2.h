/* Vector vocabulary, AVX2 + FMA + F16C: 8 lanes. Words: kernels_tmpl.h. */
#ifndef SAEI_VEC_AVX2_H
#define SAEI_VEC_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "base/base.h"
#include "simd/unroll.h"

/* 4 rows x 24 features: 12 accumulators, 3 weights and a broadcast fill the 16 registers. */
enum { VN = 8, PANEL_MR = 4, PANEL_NV = 3, GEMV_PANELS = 2, GEMV_CHAINS = 12, PROBE_MR = 4 };
typedef __m256 V;
typedef __m256i I;

static inline __m128i v_halves(const void *p, size_t n) /* n < 8 16-bit elements, none beyond is touched */
{
    uint16_t h[8] = {0};
    memcpy(h, p, n * sizeof *h);
    return _mm_loadu_si128((const __m128i *)h);
}
static inline V v_zero(void)
{
    return _mm256_setzero_ps();
}
static inline V v_set1(float f)
{
    return _mm256_set1_ps(f);
}
static inline V v_set1_at(const float *p, int i)
{
    return _mm256_set1_ps(p[i]);
}
static inline V v_load(const void *p)
{
    return _mm256_loadu_ps(p);
}
static inline V v_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}
static inline V v_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline V v_load_bf16(const void *p)
{
    return v_bf16(_mm_loadu_si128(p));
}
static inline void v_store(void *p, V v)
{
    _mm256_storeu_ps(p, v);
}
static inline V v_load_n(const void *p, size_t n) /* not maskload: emulators read all of it, AMD stores are slow */
{
    float f[8] = {0};
    memcpy(f, p, n * sizeof *f);
    return _mm256_loadu_ps(f);
}
static inline V v_load_f16_n(const void *p, size_t n)
{
    return _mm256_cvtph_ps(v_halves(p, n));
}
static inline V v_load_bf16_n(const void *p, size_t n)
{
    return v_bf16(v_halves(p, n));
}
static inline void v_store_n(void *p, V v, size_t n)
{
    float f[8];
    _mm256_storeu_ps(f, v);
    memcpy(p, f, n * sizeof *f);
}
static inline void v_store_f16(void *p, V v)
{
    _mm_storeu_si128(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void v_store_bf16(void *p, V v)
{
    const __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16), odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i words = _mm256_blendv_epi8(rounded, quiet, nan);
    _mm_storeu_si128(p, _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
static inline V v_add(V a, V b)
{
    return _mm256_add_ps(a, b);
}
static inline V v_mul(V a, V b)
{
    return _mm256_mul_ps(a, b);
}
static inline V v_fma(V a, V b, V c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline uint32_t v_gt(V a, V b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
static inline uint32_t v_lt(V a, V b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
static inline V v_ints(const int32_t *p, int32_t less)
{
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p), _mm256_set1_epi32(less)));
}
static inline V v_ints_n(const int32_t *p, int32_t less, size_t n)
{
    int32_t v[8] = {0};
    memcpy(v, p, n * sizeof *v);
    return v_ints(v, less);
}
static inline V v_pair_low(const void *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(p), 16));
}
static inline V v_pair_high(const void *p)
{
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(p), _mm256_set1_epi32(-65536)));
}
static inline V v_load_i8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}
static inline V v_min(V a, V b)
{
    return _mm256_min_ps(a, b);
}
static inline V v_max(V a, V b)
{
    return _mm256_max_ps(a, b);
}
static inline V v_div(V a, V b)
{
    return _mm256_div_ps(a, b);
}
static inline V v_pow2(V n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
static inline V v_above(V a, V b)
{
    return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NLE_UQ), a);
}
static inline uint32_t v_finite(V a)
{
    const V magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(magnitude, _mm256_set1_ps(__builtin_inff()), _CMP_LT_OQ));
}

static inline I i_zero(void)
{
    return _mm256_setzero_si256();
}
static inline void i_store(int32_t *p, I v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, v);
}
static inline I i_add(I a, I b)
{
    return _mm256_add_epi32(a, b);
}
static inline __m256i i_sixteen(const int8_t *p)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline void i_store4(int32_t *c, I p, I q, I r, I s)
{
    i_store(c, _mm256_hadd_epi32(_mm256_hadd_epi32(p, q), _mm256_hadd_epi32(r, s)));
}

enum { FEATS = 2, SUMS = 4, INT8_PLANES = 2 };
#define INT8_SIGNED 0
#if defined(SAEI_VNNI)

typedef __m256i B;
typedef __m256i X;

static inline B b_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
static inline X x_load(const int8_t *p)
{
    return i_sixteen(p);
}
static inline I i_dot(I sums, B b, X x)
{
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(b), "x"(x));
    return sums;
}

#else

/* The instruction that multiplies bytes would saturate: even and odd bytes as 16 bits. */
typedef struct B {
    __m256i even, odd;
} B, X;

static inline B b_load(const uint8_t *p)
{
    const __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return (B){_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(bytes, 8)};
}
static inline X x_load(const int8_t *p)
{
    const __m256i bytes = i_sixteen(p);
    return (X){_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
}
static inline I i_dot(I sums, B b, X x)
{
    return _mm256_add_epi32(sums, _mm256_add_epi32(_mm256_madd_epi16(b.even, x.even), _mm256_madd_epi16(b.odd, x.odd)));
}

/* 8 x 8 in registers. */

#endif

/* 4 floats at each of 8 addresses, turned: insertions need no shuffle. */
INLINE void v_quad(V r[4], const unsigned char *const rows[8], size_t at)
{
    V t[4];
    UNROLL
    for (int q = 0; q < 4; q++)
        t[q] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((const float *)(const void *)(rows[q] + at))),
                                    _mm_loadu_ps((const float *)(const void *)(rows[4 + q] + at)), 1);
    const V a = _mm256_unpacklo_ps(t[0], t[1]), b = _mm256_unpacklo_ps(t[2], t[3]);
    const V c = _mm256_unpackhi_ps(t[0], t[1]), d = _mm256_unpackhi_ps(t[2], t[3]);
    r[0] = _mm256_shuffle_ps(a, b, 0x44);
    r[1] = _mm256_shuffle_ps(a, b, 0xee);
    r[2] = _mm256_shuffle_ps(c, d, 0x44);
    r[3] = _mm256_shuffle_ps(c, d, 0xee);
}
INLINE void v_square(V r[8], const unsigned char *const rows[8], size_t at)
{
    UNROLL
    for (int i = 0; i < 8; i += 4)
        v_quad(r + i, rows, at + (size_t)i * sizeof(float));
}
INLINE void v_transpose(V r[8])
{
    V t[8], s[8];
    UNROLL
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    UNROLL
    for (int i = 0; i < 2; i++) {
        s[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        s[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        s[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        s[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(s[i], s[4 + i], 0x20);
        r[4 + i] = _mm256_permute2f128_ps(s[i], s[4 + i], 0x31);
    }
}

#endif
