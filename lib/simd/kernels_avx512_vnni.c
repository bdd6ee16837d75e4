/* The product of bytes with VNNI, whose one instruction is a step of 64 products: the rest of the table is that of AVX-512. */
#include "simd/tables.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)

#include "simd/vec_avx512.h"

#include "simd/kernels_int8.h"

void saei_int8_columns_vnni(int32_t *c, size_t ldc, const uint8_t *columns, size_t n_columns, const int8_t *x, size_t planes, size_t d16)
{
    int8_product(c, ldc, columns, n_columns, x, planes, d16);
}

void saei_int8_pairs_vnni(int32_t *c, const uint8_t *columns, const int32_t *ids, const int8_t *const *x, size_t n, size_t d16)
{
    int8_pairs_product(c, columns, ids, x, n, d16);
}

#endif
