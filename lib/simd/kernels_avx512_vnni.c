/* Products of bytes with AVX-512 VNNI, whose one instruction is a step of 64 products: the rest of the table is that of AVX-512. */
#include "simd/tables.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && defined(__FMA__) && defined(__F16C__)

#define SAEI_VNNI
#include "simd/vec_avx512.h"

#include "simd/kernels_int8.h"

SAEI_INT8_FORM(avx512_vnni)

#endif
