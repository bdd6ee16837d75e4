/* The product of bytes with VNNI, whose one instruction is a step of 64 products: the rest of the table is that of AVX-512. */
#include "simd/tables.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)

#include "simd/vec_avx512.h"

#include "simd/kernels_int8.h"

void saei_int8_panels_vnni(int32_t *c, size_t ldc, const uint8_t *panels, size_t n_panels, const int8_t *x, size_t planes, size_t d4)
{
    int8_product(c, ldc, panels, n_panels, x, planes, d4);
}

#endif
