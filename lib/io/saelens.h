/* SAELens checkpoints (sae-lens 3 to 6): cfg.json and safetensors -> canonical parts. */
#ifndef SAEI_SAELENS_H
#define SAEI_SAELENS_H

#include "io/io.h"
#include "io/safetensors.h"

/* What cfg.json says after the defaulting of old files and the caller's options. Strings are the json's. */
typedef struct saei_saelens {
    sae_arch arch;
    sae_norm norm;
    int32_t d_in, d_sae, k;
    bool apply_b_dec;
    bool rescale_by_decoder_norm;
    bool finetuning_scale;                                       /* the file may carry factors for the rows of W_dec */
    bool forced;                                                 /* the caller named the architecture */
    float norm_scaling_factor;                                   /* 1 when there is none */
    const char *version, *architecture, *model_name, *hook_name; /* as stored, never NULL */
} saei_saelens;

/* Reads the configuration. Errors: SAE_E_ARG (an option that cannot be), SAE_E_SHAPE (an expectation that does not hold),
 * SAE_E_UNSUPPORTED, SAE_E_FORMAT. */
sae_status saei_saelens_config(saei_saelens *out, const saei_json *json, const sae_open_options *opt, sae_error *err);

/* "standard", "jumprelu", "topk", "gated". */
const char *saei_saelens_arch_name(sae_arch arch);

/* Fills the numbers, tensors and vectors of `parts` (whose file is open), and its warnings. What was filled when it fails is the
 * caller's to free. `name` is the file's for sentences. */
sae_status saei_saelens_tensors(saei_parts *parts, const saei_host *host, const saei_saelens *config, const saei_safetensors *st,
                                const sae_open_options *opt, const char *name, sae_error *err);

#endif
