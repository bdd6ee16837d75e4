#include "base/base.h"

bool saei_mul(size_t *out, size_t a, size_t b)
{
    const bool fits = b == 0 || a <= SIZE_MAX / b;
    *out = fits ? a * b : SIZE_MAX;
    return fits;
}

bool saei_add(size_t *out, size_t a, size_t b)
{
    const bool fits = a <= SIZE_MAX - b;
    *out = fits ? a + b : SIZE_MAX;
    return fits;
}

size_t saei_reserve(size_t *total, size_t n, size_t each)
{
    const size_t at = *total;
    size_t bytes;
    if (at == SIZE_MAX || !saei_mul(&bytes, n, each) || !saei_add(&bytes, bytes, 63) || !saei_add(total, at, bytes & ~(size_t)63)) {
        *total = SIZE_MAX;
        return SIZE_MAX;
    }
    return at;
}
