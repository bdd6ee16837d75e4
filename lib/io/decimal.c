#include "io/decimal.h"

#include <string.h>

/* Half-way between two doubles lie numbers of at most 768 digits: behind more digits than that it counts only whether anything follows.
 * The limbs hold 800 digits times the power of two that the smallest double needs. */
enum { DIGITS = 800, LIMBS = 208, SPARE = 64 };

/* A whole number, little end first, without zeros at its big end. */
typedef struct big {
    uint32_t limb[LIMBS];
    uint32_t n;
} big;

static void multiply_add(big *b, uint32_t by, uint32_t carry)
{
    uint64_t sum = carry;
    for (uint32_t i = 0; i < b->n; i++) {
        sum += (uint64_t)b->limb[i] * by;
        b->limb[i] = (uint32_t)sum;
        sum >>= 32;
    }
    if (sum)
        b->limb[b->n++] = (uint32_t)sum;
}

/* Gives the remainder. */
static uint32_t divide(big *b, uint32_t by)
{
    uint64_t rest = 0;
    for (uint32_t i = b->n; i-- > 0;) {
        rest = rest << 32 | b->limb[i];
        b->limb[i] = (uint32_t)(rest / by);
        rest %= by;
    }
    while (b->n && !b->limb[b->n - 1])
        b->n--;
    return (uint32_t)rest;
}

static void shift_left(big *b, uint32_t bits)
{
    const uint32_t limbs = bits / 32;
    multiply_add(b, 1u << bits % 32, 0);
    memmove(b->limb + limbs, b->limb, b->n * sizeof *b->limb);
    memset(b->limb, 0, limbs * sizeof *b->limb);
    b->n += limbs;
}

static bool bit(const big *b, uint32_t i)
{
    return b->limb[i / 32] >> i % 32 & 1;
}

static bool any_below(const big *b, uint32_t i)
{
    while (i-- > 0)
        if (bit(b, i))
            return true;
    return false;
}

/* A decimal number as written: digits x 10^exponent, and whether digits were left off behind them. */
typedef struct decimal {
    big digits;
    uint32_t n; /* digits kept */
    int64_t exponent;
    bool more;
} decimal;

static void scan_digits(decimal *d, const char *text, size_t bytes)
{
    bool fraction = false;
    for (size_t i = 0; i < bytes; i++) {
        const uint32_t digit = (uint32_t)(text[i] - '0');
        if (text[i] == '.') {
            fraction = true;
            continue;
        }
        const bool keep = d->n < DIGITS;
        d->exponent += !keep - fraction;
        d->more |= !keep && digit;
        if (!keep || (!d->n && !digit))
            continue;
        multiply_add(&d->digits, 10, digit);
        d->n++;
    }
}

static int64_t scan_exponent(const char *text, size_t bytes)
{
    const int64_t most = (int64_t)1 << 50; /* no text is long enough to make up for that by its digits */
    int64_t value = 0;
    size_t i = bytes && (*text == '-' || *text == '+');
    for (; i < bytes; i++)
        value = value > most ? value : 10 * value + (text[i] - '0');
    return bytes && *text == '-' ? -value : value;
}

/* Scales b so that it is the number times 2^shift, rounded down, with 64 bits and more. */
static uint32_t scale(decimal *d)
{
    const uint32_t power = d->exponent < 0 ? (uint32_t)-d->exponent : (uint32_t)d->exponent;
    const uint32_t shift = SPARE + (d->exponent < 0 ? power * 3322 / 1000 + 1 : 0); /* log2(10) < 3.322 */
    if (d->exponent < 0)
        shift_left(&d->digits, shift);
    for (uint32_t left = power, step = 1000000000; left; left -= step == 10 ? 1 : 9) {
        if (left < 9)
            step = 10;
        if (d->exponent < 0)
            d->more |= divide(&d->digits, step) != 0;
        else
            multiply_add(&d->digits, step, 0);
    }
    if (d->exponent >= 0)
        shift_left(&d->digits, shift);
    return shift;
}

/* The bits of the double nearest to b / 2^shift; `more`: a little above it. */
static uint64_t round_to_double(const big *b, uint32_t shift, bool more)
{
    const uint64_t infinity = (uint64_t)0x7ff << 52;
    uint32_t length = 32 * b->n;
    while (!bit(b, length - 1))
        length--;
    const int32_t exponent = (int32_t)length - (int32_t)shift; /* the number is in [1/2, 1) x 2^exponent */
    const int32_t keep = exponent >= -1021 ? 53 : exponent + 1074;
    if (keep < 0)
        return 0;
    const uint32_t drop = length - (uint32_t)keep;
    uint64_t mantissa = 0;
    for (uint32_t i = length; i-- > drop;)
        mantissa = mantissa << 1 | bit(b, i);
    if (bit(b, drop - 1) && ((mantissa & 1) || more || any_below(b, drop - 1)))
        mantissa++;
    /* The mantissa's own top bit adds 1 to the exponent field, and so does a carry into the bit above. */
    const uint64_t bits = ((uint64_t)(exponent >= -1021 ? exponent + 1021 : 0) << 52) + mantissa;
    return bits < infinity ? bits : infinity;
}

static uint64_t magnitude(decimal *d)
{
    const int64_t top = d->exponent + (int64_t)d->n; /* the number is in [1/10, 1) x 10^top */
    if (!d->n || top <= -324)
        return 0;
    if (top >= 310)
        return (uint64_t)0x7ff << 52;
    const uint32_t shift = scale(d);
    return round_to_double(&d->digits, shift, d->more);
}

double saei_decimal(const char *text, size_t bytes)
{
    decimal d;
    double out;
    const bool negative = bytes && *text == '-', sign = negative || (bytes && *text == '+');
    size_t end = sign;
    while (end < bytes && text[end] != 'e' && text[end] != 'E')
        end++;
    d.digits.n = d.n = 0;
    d.exponent = end < bytes ? scan_exponent(text + end + 1, bytes - end - 1) : 0;
    d.more = false;
    scan_digits(&d, text + sign, end - sign);
    const uint64_t bits = magnitude(&d) | (uint64_t)negative << 63;
    memcpy(&out, &bits, sizeof out);
    return out;
}
