#include "base/base.h"

#include <math.h>

/* The product of two floats is exact in double, so each step rounds once, with or without a fused multiply-add. */
double saei_square(const float *x, size_t n)
{
    double sum = 0.0;
    for (size_t k = 0; k < n; k++)
        sum += (double)x[k] * (double)x[k];
    return sum;
}

double saei_matrix_add_square(double sum, const saei_matrix *m, int32_t i)
{
    const size_t each = sae_dtype_bytes(m->dtype);
    const size_t step = (m->by_cols ? (size_t)m->n : 1) * each;
    const unsigned char *p = (const unsigned char *)m->data + (size_t)i * (m->by_cols ? 1 : (size_t)m->d) * each;
    for (int32_t k = 0; k < m->d; k++, p += step) {
        const double w = saei_load(p, m->dtype);
        sum += w * w;
    }
    return sum;
}

double saei_matrix_row_square(const saei_matrix *m, int32_t i)
{
    return saei_matrix_add_square(0.0, m, i);
}

float saei_inverse(float length)
{
    const float inverse = length > 0.0f ? 1.0f / length : 0.0f;
    return isfinite(inverse) ? inverse : 0.0f;
}
