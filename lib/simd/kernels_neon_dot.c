/* Products of bytes with the dot products of Armv8.2: the rest of the table is NEON's. */
#include "simd/tables.h"

#if defined(__aarch64__)

/* Of this file alone, whatever the flags are: it runs only where the processor has them. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#define SAEI_DOT
#include "simd/vec_neon.h"

#include "simd/kernels_int8.h"

SAEI_INT8_FORM(neon_dot)

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
