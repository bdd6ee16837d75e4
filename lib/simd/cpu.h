#ifndef SAEI_CPU_H
#define SAEI_CPU_H

#include <stdbool.h>

/* What the processor has and the system saves, by CPUID feature bits and XCR0; never by brand or model, which virtual machines mask. */
bool saei_cpu_avx2(void);        /* AVX2, FMA, F16C */
bool saei_cpu_avx512(void);      /* AVX-512 F, BW, DQ, VL */
bool saei_cpu_avx512_vnni(void); /* and VNNI */
bool saei_cpu_avx2_vnni(void);   /* AVX2 and AVX-VNNI */
bool saei_cpu_neon_dot(void);    /* dot products of bytes; by HWCAP */
bool saei_cpu_neon_i8mm(void);   /* and matrix products of them; by HWCAP2 */

#endif
