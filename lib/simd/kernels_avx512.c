#include "simd/tables.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#define SAEI_TABLE saei_kernels_avx512
#define SAEI_TABLE_ISA SAE_ISA_AVX512
extern const saei_kernels SAEI_TABLE;
#include "simd/vec_avx512.h"
#include "simd/kernels_tmpl.h"

const saei_kernels *saei_table_avx512(void)
{
    return &SAEI_TABLE;
}

const saei_kernels *saei_table_avx512_vnni(void)
{
    static const saei_kernels table = {.isa = SAEI_TABLE_ISA,
                                       SAEI_MOST_KERNELS(SAEI_KERNEL_ENTRY).int8_columns = saei_int8_columns_avx512_vnni,
                                       .int8_pairs = saei_int8_pairs_avx512_vnni};
    return &table;
}

#else

const saei_kernels *saei_table_avx512_vnni(void)
{
    return NULL;
}

const saei_kernels *saei_table_avx512(void)
{
    return NULL;
}

#endif
