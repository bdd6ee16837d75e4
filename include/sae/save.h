/* Writing an SAE: as our own file, which is mapped as it lies, or in a published format. docs/save.md has the layouts. */
#ifndef SAE_SAVE_H
#define SAE_SAVE_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How to write. Zero is the default everywhere. */
typedef struct sae_save_options {
    uint32_t struct_size;
    sae_dtype dtype;     /* of the matrices; 0: as the model has them. A narrower one rounds to nearest even, and is no longer lossless */
    const char *format;  /* "sae", "saelens", "gemma_scope"; NULL: by `path`: X.sae, X.npz (gemma_scope), else a saelens folder */
    const char *catalog; /* the catalog that belongs to it, as a path beside the file; "sae" alone keeps it. NULL: what the model says */
    int32_t overwrite;   /* SAE_YES: replace what is there; else that is SAE_E_IO */
    int32_t check;       /* SAE_NO: do not look first whether every weight is finite */
    int32_t screen; /* SAE_YES: the file holds the screen of W_enc too ("sae" alone), for 1 byte a weight: who opens it need not build it */
    int32_t reserved; /* 0 */
} sae_save_options;

/* Writes the model to `path`; opt may be NULL.
 *   "sae"          one file with everything that the model is, checksummed, little-endian, in the layout that encoding likes best
 *   "saelens"      a folder with cfg.json and sae_weights.safetensors, as sae-lens 6 saves and loads
 *   "gemma_scope"  a params.npz of JumpReLU weights in f32 (dtype SAE_F16: f16), as Gemma Scope publishes
 * Lossless: the codes of the opened file are those of the model, bit for bit, and so is the fingerprint, unless `dtype` narrows. What a format
 * cannot say is refused with the reason, and nothing is written. Vectors are f32 always. The same model gives the same bytes.
 * A file appears under its name when it is whole and on the disk; a failure leaves nothing behind. Of a folder, the weights appear before the
 * cfg.json. The model may be the one that was opened from `path`, if it was opened from there as a file.
 * Errors: SAE_E_UNSUPPORTED (the format cannot say it), SAE_E_IO (no room, no permission, there already), SAE_E_FORMAT (a weight that is not
 * finite), SAE_E_ARG, SAE_E_NOMEM, SAE_E_HOST, SAE_E_VERSION. */
SAE_API sae_status sae_model_save(const sae_model *model, const char *path, const sae_save_options *opt, sae_error *err);

#ifdef __cplusplus
}
#endif
#endif
