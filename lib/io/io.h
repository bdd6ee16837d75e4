/* Readers: files -> canonical parts. They check every size before it is used and know nothing of models. */
#ifndef SAEI_IO_H
#define SAEI_IO_H

#include "host/host.h"
#include "sae/model.h"

/* A tensor inside a file that stays open. */
typedef struct saei_tensor {
    saei_matrix m; /* data points into the file; matrices only (vectors are read) */
    size_t offset; /* of the data in the file, for pread */
} saei_tensor;

/* What a checkpoint says, in canonical terms. Strings and vectors are owned (saei_parts_free). Vectors are f32 whatever the file holds. */
typedef struct saei_parts {
    saei_file file; /* weights; stays open as long as the parts live */
    sae_arch arch;
    sae_norm norm;
    float norm_scaling_factor; /* 1 when there is none */
    int32_t d_in, d_sae, d_out, k;
    bool apply_b_dec;
    bool rescale_by_decoder_norm;
    saei_tensor w_enc, w_dec;
    float *b_enc;                  /* [d_sae] or NULL */
    float *b_dec;                  /* [d_out] or NULL */
    float *threshold;              /* [d_sae] or NULL, as stored */
    float *b_gate, *b_mag, *r_mag; /* [d_sae], gated */
    float *dec_scale;              /* [d_sae] or NULL: W_dec rows are multiplied by it (finetuning_scaling_factor of old SAELens files) */
    char *format, *format_version, *architecture, *model_name, *hook_name, *path, *config; /* never NULL after success */
    char *warnings[8];
    int32_t n_warnings;
} saei_parts;

/* Reads the checkpoint at `path`. `opt` has been read into a full struct (never NULL). On failure *out is empty. Checks vectors, and
 * all of a file <= 64 MiB unless opt->check == SAE_NO, for non-finite values. */
sae_status saei_parts_open(saei_parts *out, const saei_host *host, const char *path, const sae_open_options *opt, sae_error *err);
void saei_parts_free(saei_parts *parts, const saei_host *host);

#endif
