/* The tables there may be; dispatch.c asks the compiler and the processor which there are. */
#ifndef SAEI_TABLES_H
#define SAEI_TABLES_H

#include "simd/kernels.h"

extern const saei_kernels saei_kernels_scalar;

/* Each of these files compiles to accessors that give NULL when the compiler was not asked for its instructions, so that
 * compiling all of lib/ without flags still makes a whole library. */
const saei_kernels *saei_table_avx2(void);
const saei_kernels *saei_table_avx512(void);
const saei_kernels *saei_table_neon(void);

/* The same, and products of bytes by the one instruction that many processors have for them. */
const saei_kernels *saei_table_avx2_vnni(void);
const saei_kernels *saei_table_avx512_vnni(void);
const saei_kernels *saei_table_neon_dot(void);
const saei_kernels *saei_table_neon_i8mm(void);

/* Those products, of a file of their own: kernels_<form>.c is compiled whenever the file of the table is. */
#define SAEI_INT8_DECLARED(ret, name, args) ret SAEI_INT8_NAME(name) args;
#define SAEI_INT8_NAME(name) saei_##name##_avx2_vnni
SAEI_INT8_KERNELS(SAEI_INT8_DECLARED)
#undef SAEI_INT8_NAME
#define SAEI_INT8_NAME(name) saei_##name##_avx512_vnni
SAEI_INT8_KERNELS(SAEI_INT8_DECLARED)
#undef SAEI_INT8_NAME
#define SAEI_INT8_NAME(name) saei_##name##_neon_dot
SAEI_INT8_KERNELS(SAEI_INT8_DECLARED)
#undef SAEI_INT8_NAME
#define SAEI_INT8_NAME(name) saei_##name##_neon_i8mm
SAEI_INT8_KERNELS(SAEI_INT8_DECLARED)
#undef SAEI_INT8_NAME

#endif
