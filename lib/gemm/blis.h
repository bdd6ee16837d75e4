/* The only way to BLIS. */
#ifndef SAEI_BLIS_H
#define SAEI_BLIS_H

#include <stdbool.h>
#include <stddef.h>

/* Whether this build has it. The functions below may be called only if it has. */
bool saei_blis_available(void);

/* Its first product: it reads BLIS_*, looks at the processor and takes its buffers from malloc. */
void saei_blis_start(void);

/* c[r][ldc], columns 0 .. m-1 = x [n][d] times the transpose of w [m][d], on this thread alone. An element's sum is cut into runs whose
 * length depends on the processor, never on n or m. */
void saei_blis_product(float *c, size_t ldc, const float *x, size_t n, const float *w, size_t m, size_t d);

#endif
