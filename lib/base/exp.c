#include <math.h>

#include "base/base.h"

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2. ln 2 in two parts keeps r exact to the last bit; the series to r^13 leaves
 * less than 5e-18. Only operations that IEEE 754 fixes: the same bits on every machine. */
double saei_exp(double x)
{
    const double ln2_hi = 6.93147180369123816490e-01, ln2_lo = 1.90821492927058770002e-10, inv_ln2 = 1.44269504088896338700e+00;
    if (!(x > -746.0))
        return x != x ? x : 0.0;
    if (x > 710.0)
        return (double)INFINITY;
    const int n = (int)(x * inv_ln2 + (x < 0.0 ? -0.5 : 0.5));
    const double hi = x - n * ln2_hi, r = hi - n * ln2_lo;
    double sum = 0.0;
    for (int i = 13; i > 0; i--)
        sum = (1.0 + sum) * r / i;
    const int half = n / 2; /* in two steps: 2^n itself may not be representable */
    return ldexp(ldexp(1.0 + sum, half), n - half);
}
