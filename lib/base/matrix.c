#include <string.h>

#include "base/base.h"

float saei_load(const void *p, sae_dtype dtype)
{
    if (dtype == SAE_F32) {
        float f;
        memcpy(&f, p, sizeof f);
        return f;
    }
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return dtype == SAE_F16 ? saei_f16_to_f32(h) : saei_bf16_to_f32(h);
}

void saei_matrix_row(float *out, const saei_matrix *m, int32_t i)
{
    const size_t each = sae_dtype_bytes(m->dtype), step = (m->by_cols ? (size_t)m->n : 1) * each;
    const unsigned char *p = (const unsigned char *)m->data + (size_t)i * (m->by_cols ? 1 : (size_t)m->d) * each;
    for (int32_t k = 0; k < m->d; k++, p += step)
        out[k] = saei_load(p, m->dtype);
}
