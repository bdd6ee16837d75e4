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

#else

const saei_kernels *saei_table_neon(void)
{
    return NULL;
}

#endif
