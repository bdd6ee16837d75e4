/* A packed weight matrix (sae/gemm.h). */
#ifndef SAEI_PACKED_H
#define SAEI_PACKED_H

#include "env/env.h"
#include "sae/gemm.h"

struct sae_gemm {
    sae_env *env;
    sae_gemm_backend backend; /* NATIVE or BLIS */
    size_t n_out, n_in;
    float *weights; /* NATIVE: panels [ceil(n_out/48)][n_in][48]; BLIS: [n_out][n_in] */
    float *bias;    /* [n_out], NULL = none */
    size_t bytes;   /* of the one allocation that holds all of it */
};

#endif
