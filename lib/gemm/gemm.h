/* Tile products: the dots of a few rows with a run of features, from whatever form of the matrix there is. All forms and all
 * paths give the canonical bits, so the choice below is free to follow speed. */
#ifndef SAEI_GEMM_H
#define SAEI_GEMM_H

#include "simd/kernels.h"

enum {
    SAEI_FEW = 4,      /* up to here rows go through the GEMV kernels */
    SAEI_BLOCK = 192,  /* features per step when there are more rows: 4 panels, whose k-slice stays in L2 */
    SAEI_TILE = 768,   /* features per task */
    SAEI_SLICE = 384,  /* weights of a chain per step: 8 packed rows of it are 12 KB (L1), SAEI_BLOCK features are 288 KB (L2) */
    SAEI_MAX_ROWS = 64 /* rows per call */
};

/* A weight matrix by feature, in its stored form and, when prepared, in panels [ceil(n/48)][d][48]. */
typedef struct saei_dense {
    saei_matrix m;
    const float *panels; /* NULL = not prepared */
} saei_dense;

/* Rows for a tile product. */
typedef struct saei_xrows {
    const float *x; /* [n][ldx] */
    size_t ldx;
    float *packed; /* room for [ceil(n/8)][d][8], 64-byte aligned */
    size_t n;      /* <= SAEI_MAX_ROWS */
} saei_xrows;

/* Floats of the buffers that saei_dots needs, per worker: c and, for matrices that may be unprepared, pack. */
size_t saei_dots_c_floats(void);
size_t saei_dots_pack_floats(size_t d);

/* Features per step that suit this form and this many rows: SAEI_TILE or SAEI_BLOCK. */
size_t saei_dots_step(const saei_dense *w, size_t n_rows);

/* Packs the rows where the product will want it; once per block of rows, before the tasks start. */
void saei_dots_begin(const saei_kernels *k, const saei_dense *w, const saei_xrows *x);

/* c[r][j - j0] = dot(w_j, x_r) for features j0 .. j0+nj-1; j0 a multiple of 48, nj <= saei_dots_step(w, x->n). Row r of c starts
 * at c + r * saei_dots_step(w, x->n). */
void saei_dots(const saei_kernels *k, const saei_dense *w, float *c, size_t j0, size_t nj, const saei_xrows *x, float *pack);

#endif
