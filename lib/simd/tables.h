/* The tables there may be; dispatch.c asks the compiler and the processor which there are. */
#ifndef SAEI_TABLES_H
#define SAEI_TABLES_H

#include "simd/kernels.h"

extern const saei_kernels saei_kernels_scalar;

/* Each of these files compiles to an accessor that gives NULL when the compiler was not asked for its instructions, so that
 * compiling all of lib/ without flags still makes a whole library. */
const saei_kernels *saei_table_avx2(void);
const saei_kernels *saei_table_avx512(void);
const saei_kernels *saei_table_neon(void);

#endif
