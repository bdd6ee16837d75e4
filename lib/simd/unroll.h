/* Arrays of vectors stay in registers only if every loop over them is unrolled to the end and every function that takes one is inlined. */
#ifndef SAEI_UNROLL_H
#define SAEI_UNROLL_H

#define INLINE static inline __attribute__((always_inline))
#define OUTLINE static __attribute__((noinline)) /* edges: one copy, out of the way of the loops */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

#endif
