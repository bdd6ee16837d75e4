/* A packed weight matrix (sae/gemm.h). */
#ifndef SAEI_PACKED_H
#define SAEI_PACKED_H

#include "env/env.h"
#include "sae/gemm.h"

/* One matrix, and its bias [n_out] or NULL. */
typedef struct saei_packed {
    float *floats;  /* kept as f32, else NULL. NATIVE: panels [ceil(n_out/48)][n_in][48]; BLIS: [n_out][n_in] */
    saei_kept kept; /* kept in fewer bytes: panels as simd/kernels.h has them */
    float *bias;
} saei_packed;

struct sae_gemm {
    sae_env *env;
    sae_gemm_backend backend; /* NATIVE or BLIS */
    sae_gemm_storage storage;
    saei_keep as;
    size_t n_out, n_in;
    saei_packed main, gate; /* no gate: all of it zero */
    bool gated;
    size_t bytes; /* of the one allocation that holds all of it */
};

/* Weights as a caller gave them. Scales are those of quantised ones, which are int8_t; all steps are in bytes. */
typedef struct saei_given {
    const unsigned char *w, *scales; /* scales NULL: elements of dtype */
    sae_dtype dtype;                 /* of w, else of scales */
    size_t n_out, n_in, block;
    size_t row_step, block_step; /* of w; block_step is of quantised ones */
    size_t scale_row_step, scale_step;
} saei_given;

/* Bytes of a panel of this form, a multiple of 64; SIZE_MAX where that is too many. */
size_t saei_kept_bytes(saei_keep as, size_t d, size_t block);

/* Fills the panel of features j0 .. j0+47, zeros where there are none. Returns the first row that holds a value which its form does not,
 * n_out if there is none. */
size_t saei_keep_panel(const saei_kernels *k, const saei_kept *to, const saei_given *from, size_t j0);

#endif
