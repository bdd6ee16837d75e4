/* The tables there may be; dispatch.c asks the compiler and the processor which there are. */
#ifndef SAEI_TABLES_H
#define SAEI_TABLES_H

#include "simd/kernels.h"

extern const saei_kernels saei_kernels_scalar;

/* Each of these files compiles to an accessor that gives NULL when the compiler was not asked for its instructions, so that
 * compiling all of lib/ without flags still makes a whole library. */
const saei_kernels *saei_table_avx2(void);
const saei_kernels *saei_table_avx512(void);
const saei_kernels *saei_table_avx512_vnni(void); /* the same, and products of bytes by VNNI */
const saei_kernels *saei_table_neon(void);

/* Of kernels_avx512_vnni.c, there whenever kernels_avx512.c is compiled for its instructions. */
void saei_int8_columns_vnni(int32_t *c, size_t ldc, const uint8_t *columns, size_t n_columns, const int8_t *x, size_t planes, size_t d16);
void saei_int8_pairs_vnni(int32_t *c, const uint8_t *columns, const int32_t *ids, const int8_t *const *x, size_t n, size_t d16);

#endif
