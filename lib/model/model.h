/* The canonical model in memory. Immutable after creation but for the packed forms, which appear once, under a lock, and are read
 * through atomic pointers. */
#ifndef SAEI_MODEL_H
#define SAEI_MODEL_H

#include "env/env.h"
#include "gemm/gemm.h"
#include "io/io.h"
#include "sae/model.h"

/* What prepare builds of one matrix. */
typedef struct saei_form {
    _Atomic(float *) panels; /* [ceil(n/48)][d][48], of a block */
    _Atomic(void *) rows;    /* [n][d] in the stored dtype, when stored by columns */
} saei_form;

/* Where a block's work lies. */
typedef struct saei_place {
    uint32_t tile; /* its first task; tiles never cross blocks */
    size_t packed; /* elements of a packed row before its own: blocks that read the same elements one after another share them */
} saei_place;

struct sae_model {
    saei_ref ref;
    sae_env *env;
    saei_lock lock;   /* taken by prepare alone */
    saei_parts parts; /* weights and what the file says; without texts for a model made from memory */

    void *lists; /* one allocation for the next three */
    size_t lists_bytes;
    saei_form *enc_forms, *dec_forms; /* [n_enc], [n_dec] */
    saei_place *places;               /* [n_enc] */
    uint32_t n_tiles;
    size_t packed_d; /* elements of a packed row of all blocks */

    float *vectors; /* one allocation for all below */
    size_t vectors_bytes;
    saei_act act;           /* how a dot becomes a code */
    const float *b_dec;     /* [d_out], never NULL */
    const float *b_in;      /* [d_in]: b_dec when it is subtracted from the input, else NULL */
    const float *dec_scale; /* [d_sae] or NULL: a decoder row counts dec_scale[i] * W_dec row */

    _Atomic(struct saei_screen *) screen; /* NULL = not prepared */

    bool checked; /* every weight is known to be finite */
};

void saei_model_take(sae_model *model);

/* An empty model of this env; release it with sae_model_free. */
sae_status saei_model_new(sae_model **out, sae_env *env, sae_error *err);

/* Derives lists, vectors, act and scales from parts, whose numeric fields, matrices and vectors are set. */
sae_status saei_model_finish(sae_model *model, sae_error *err);

/* SAE_E_FORMAT unless blocks, segments, skips and attention lie inside the sizes that the parts state. Readers have checked files against
 * sizes; this is what the code above relies on, whoever made the parts. */
sae_status saei_parts_check(const saei_parts *parts, sae_error *err);

/* Does one matrix hold the whole of SAE_W_ENC or SAE_W_DEC, row i for feature i? */
bool saei_model_whole(const sae_model *model, int32_t tensor);

/* A block in the best form for products; a block or a segment as rows where there is such a form, else as stored. */
saei_dense saei_model_encoder(const sae_model *model, uint32_t block);
saei_matrix saei_model_enc_rows(const sae_model *model, uint32_t block);
saei_matrix saei_model_dec_rows(const sae_model *model, uint32_t segment);

/* The block of a feature; the segments first .. end - 1 that it writes by. */
uint32_t saei_model_block_of(const sae_model *model, int32_t feature);
void saei_model_segments_of(const sae_model *model, int32_t feature, uint32_t *first, uint32_t *end);

/* The row of a segment's matrix that feature `feature` of the segment writes by. */
int32_t saei_segment_row(const saei_segment *segment, int32_t feature);

/* A feature of SAE_W_ENC as [d_in] or of SAE_W_DEC as [d_out] (without dec_scale), zeros where it neither reads nor writes; the sum of its
 * squares, one double chain in index order. */
void saei_model_row(float *out, const sae_model *model, int32_t tensor, int32_t feature);
double saei_model_square(const sae_model *model, int32_t tensor, int32_t feature);

/* Copies features of one block to dst [n][d of the block], and what a feature writes, times dec_scale, to dst [d_out], by plain reads of the
 * file, so that a mapping is not touched; both refuse non-finite values by tensor and feature. */
sae_status saei_model_gather_enc(float *dst, const sae_model *model, uint32_t block, const int32_t *features, int64_t n, sae_error *err);
sae_status saei_model_gather_dec(float *dst, const sae_model *model, int32_t feature, sae_error *err);

/* Refuses the first non-finite value of a matrix, by tensor, row and column as stored. */
sae_status saei_matrix_check(const sae_env *env, const saei_matrix *m, const char *name, sae_error *err);

/* SAE_E_ARG, naming the position, unless every features[i] is in 0 .. d_sae-1. */
sae_status saei_check_features(const sae_model *model, const int32_t *features, int64_t n, sae_error *err);

#endif
