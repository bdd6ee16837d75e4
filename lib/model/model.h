/* The canonical model in memory. Immutable after creation but for the packed forms, which appear once, under a lock, and are read
 * through atomic pointers. */
#ifndef SAEI_MODEL_H
#define SAEI_MODEL_H

#include "env/env.h"
#include "gemm/gemm.h"
#include "io/io.h"
#include "sae/model.h"

struct sae_model {
    saei_ref ref;
    sae_env *env;
    saei_lock lock;                  /* taken by prepare alone */
    saei_parts parts;                /* weights and what the file says; without texts for a model made from memory */

    float *vectors; /* one block for all below */
    size_t vectors_bytes;
    saei_act act;           /* how a dot becomes a code */
    const float *b_dec;     /* [d_out], never NULL */
    const float *b_in;      /* [d_in]: b_dec when it is subtracted from the input, else NULL */
    const float *dec_scale; /* [d_sae] or NULL: a decoder row counts dec_scale[i] * W_dec row */

    bool checked;             /* every weight is known to be finite */
    _Atomic(float *) panels;  /* [ceil(d_sae/48)][d_in][48] */
    _Atomic(void *) enc_rows; /* [d_sae][d_in] in the stored dtype, when stored by columns */
    _Atomic(void *) dec_rows; /* [d_sae][d_out], likewise */
};

void saei_model_take(sae_model *model);

/* The matrices of an SAE of one block and one segment, as stored. */
const saei_matrix *saei_model_enc(const sae_model *model);
const saei_matrix *saei_model_dec(const sae_model *model);

/* An empty model of this env; release it with sae_model_free. */
sae_status saei_model_new(sae_model **out, sae_env *env, sae_error *err);

/* Derives vectors, act and scales from parts, whose numeric fields and vectors are set. */
sae_status saei_model_finish(sae_model *model, sae_error *err);

/* W_enc in the best form for products; W_enc and W_dec as rows when there is such a form, else as stored. */
saei_dense saei_model_encoder(const sae_model *model);
saei_matrix saei_model_enc_rows(const sae_model *model);
saei_matrix saei_model_dec_rows(const sae_model *model);

/* Copies features of W_enc (SAE_W_ENC) or W_dec (SAE_W_DEC, times dec_scale) to dst [n][d] by plain reads of the file, so that a mapping
 * is not touched; refuses non-finite values by tensor and feature. */
sae_status saei_model_gather(float *dst, const sae_model *model, int32_t tensor, const int32_t *features, int64_t n, sae_error *err);

/* Refuses the first non-finite value of a matrix, by tensor, row and column as stored. */
sae_status saei_matrix_check(const sae_env *env, const saei_matrix *m, const char *name, sae_error *err);

/* SAE_E_ARG, naming the position, unless every features[i] is in 0 .. d_sae-1. */
sae_status saei_check_features(const sae_model *model, const int32_t *features, int64_t n, sae_error *err);

#endif
