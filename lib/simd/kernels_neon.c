#include "simd/tables.h"

#if defined(__aarch64__)

#define SAEI_TABLE saei_kernels_neon
#define SAEI_TABLE_ISA SAE_ISA_NEON
extern const saei_kernels SAEI_TABLE;
#include "simd/vec_neon.h"
#include "simd/kernels_tmpl.h"

const saei_kernels *saei_table_neon(void)
{
    return &SAEI_TABLE;
}

const saei_kernels *saei_table_neon_dot(void)
{
    static const saei_kernels table = {.isa = SAEI_TABLE_ISA,
                                       SAEI_MOST_KERNELS(SAEI_KERNEL_ENTRY).int8_columns = saei_int8_columns_neon_dot,
                                       .int8_pairs = saei_int8_pairs_neon_dot};
    return &table;
}

const saei_kernels *saei_table_neon_i8mm(void)
{
    static const saei_kernels table = {.isa = SAEI_TABLE_ISA,
                                       SAEI_MOST_KERNELS(SAEI_KERNEL_ENTRY).int8_columns = saei_int8_columns_neon_i8mm,
                                       .int8_pairs = saei_int8_pairs_neon_i8mm};
    return &table;
}

#else

const saei_kernels *saei_table_neon_i8mm(void)
{
    return NULL;
}

const saei_kernels *saei_table_neon_dot(void)
{
    return NULL;
}

const saei_kernels *saei_table_neon(void)
{
    return NULL;
}

#endif
