#include <string.h>

#include "base/base.h"

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

float saei_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31u;
    uint32_t fraction = h & 0x3ffu;
    if (exponent == 31)
        return from_bits(sign | 0x7f800000u | (fraction ? 0x400000u : 0u) | fraction << 13);
    if (exponent)
        return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    if (!fraction)
        return from_bits(sign);
    uint32_t e = 113; /* a denormal: shift until the leading bit is where it belongs */
    while (!(fraction & 0x400u)) {
        fraction <<= 1;
        e--;
    }
    return from_bits(sign | e << 23 | (fraction & 0x3ffu) << 13);
}

/* v >> shift, rounded to nearest, ties to even; shift 1 .. 31. */
static uint32_t shift_even(uint32_t v, uint32_t shift)
{
    const uint32_t half = 1u << (shift - 1), rest = v & ((1u << shift) - 1), q = v >> shift;
    return q + (rest > half || (rest == half && (q & 1u)));
}

uint16_t saei_f32_to_f16(float f)
{
    const uint32_t bits = to_bits(f), sign = bits >> 16 & 0x8000u, a = bits & 0x7fffffffu, e = a >> 23;
    uint32_t h;
    if (a > 0x7f800000u)
        h = 0x7e00u | (a >> 13 & 0x3ffu); /* a quiet NaN */
    else if (e >= 143)
        h = 0x7c00u; /* 65536 and above */
    else if (e >= 113)
        h = shift_even(a - (112u << 23), 13); /* a carry runs into the exponent, up to infinity */
    else if (e >= 102)
        h = shift_even((a & 0x7fffffu) | 0x800000u, 126 - e); /* a denormal */
    else
        h = 0; /* below half the smallest */
    return (uint16_t)(sign | h);
}

float saei_bf16_to_f32(uint16_t h)
{
    return from_bits((uint32_t)h << 16);
}

uint16_t saei_f32_to_bf16(float f)
{
    const uint32_t bits = to_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u); /* a quiet NaN */
    return (uint16_t)shift_even(bits, 16);
}
