#include "simd/tables.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#define SAEI_TABLE saei_kernels_avx2
#define SAEI_TABLE_ISA SAE_ISA_AVX2
extern const saei_kernels SAEI_TABLE;
#include "simd/vec_avx2.h"
#include "simd/kernels_tmpl.h"

const saei_kernels *saei_table_avx2(void)
{
    return &SAEI_TABLE;
}

const saei_kernels *saei_table_avx2_vnni(void)
{
    static const saei_kernels table = {.isa = SAEI_TABLE_ISA,
                                       SAEI_MOST_KERNELS(SAEI_KERNEL_ENTRY).int8_columns = saei_int8_columns_avx2_vnni,
                                       .int8_pairs = saei_int8_pairs_avx2_vnni};
    return &table;
}

#else

const saei_kernels *saei_table_avx2_vnni(void)
{
    return NULL;
}

const saei_kernels *saei_table_avx2(void)
{
    return NULL;
}

#endif
