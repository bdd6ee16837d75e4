#include "simd/cpu.h"
#include "simd/tables.h"

/* NEON is part of every aarch64. */
static const saei_kernels *neon(void)
{
    return saei_cpu_neon_i8mm() ? saei_table_neon_i8mm() : saei_cpu_neon_dot() ? saei_table_neon_dot() : saei_table_neon();
}

/* The table of one instruction set, if it is built and this processor runs it. */
static const saei_kernels *table(sae_isa isa)
{
    switch (isa) {
    case SAE_ISA_SCALAR:
        return &saei_kernels_scalar;
    case SAE_ISA_NEON:
        return neon();
    case SAE_ISA_AVX2:
        return !saei_cpu_avx2() ? NULL : saei_cpu_avx2_vnni() ? saei_table_avx2_vnni() : saei_table_avx2();
    case SAE_ISA_AVX512:
        return !saei_cpu_avx512() ? NULL : saei_cpu_avx512_vnni() ? saei_table_avx512_vnni() : saei_table_avx512();
    default:
        return NULL;
    }
}

const saei_kernels *saei_kernels_for(sae_isa isa)
{
    static const sae_isa best_first[] = {SAE_ISA_AVX512, SAE_ISA_AVX2, SAE_ISA_NEON, SAE_ISA_SCALAR};
    const saei_kernels *found = isa == SAE_ISA_AUTO ? NULL : table(isa);
    for (int i = 0; isa == SAE_ISA_AUTO && !found; i++)
        found = table(best_first[i]);
    return found;
}

int32_t sae_isa_available(sae_isa isa)
{
    return saei_kernels_for(isa) ? SAE_YES : SAE_NO;
}

const char *sae_isa_name(sae_isa isa)
{
    switch (isa) {
    case SAE_ISA_AUTO:
        return "auto";
    case SAE_ISA_SCALAR:
        return "scalar";
    case SAE_ISA_NEON:
        return "neon";
    case SAE_ISA_AVX2:
        return "avx2";
    case SAE_ISA_AVX512:
        return "avx512";
    default:
        return "unknown";
    }
}
