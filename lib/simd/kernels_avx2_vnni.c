/* Products of bytes with AVX-VNNI: the rest of the table is that of AVX2. */
#include "simd/tables.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#define SAEI_VNNI
#include "simd/vec_avx2.h"

#include "simd/kernels_int8.h"

SAEI_INT8_FORM(avx2_vnni)

#endif
