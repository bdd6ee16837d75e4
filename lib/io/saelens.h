/* SAELens checkpoints (sae-lens 3 to 6.54): what cfg.json says, after the defaulting of old files and the caller's options. */
#ifndef SAEI_SAELENS_H
#define SAEI_SAELENS_H

#include "io/source.h"

/* Strings are the configuration's. */
typedef struct saei_saelens {
    sae_arch arch;
    sae_norm norm;
    int32_t d_in, d_sae, d_out, k;
    bool transcoder;
    bool skip;
    bool apply_b_dec;
    bool rescale_by_decoder_norm;
    bool finetuning_scale;                                                       /* the file may carry factors for the rows of W_dec */
    bool forced;                                                                 /* the caller named the architecture */
    bool tied;                                                                   /* temporal: W_enc is W_dec transposed */
    bool stops_on_repeat;                                                        /* matching pursuit */
    float residual_threshold;                                                    /* matching pursuit */
    int32_t n_heads, n_attention, bottleneck;                                    /* temporal */
    float norm_scaling_factor;                                                   /* 1 when there is none */
    const char *name;                                                            /* of the architecture, as cfg.json or the option has it */
    const char *version, *architecture, *model_name, *hook_name, *hook_name_out; /* as stored, never NULL */
} saei_saelens;

/* Sets arch, name, transcoder and skip; false for a name that is not known. */
bool saei_saelens_arch(saei_saelens *out, const char *name);

/* Reads the configuration. Errors: SAE_E_ARG (an option that cannot be), SAE_E_SHAPE (an expectation that does not hold),
 * SAE_E_UNSUPPORTED, SAE_E_FORMAT. */
sae_status saei_saelens_config(saei_saelens *out, const saei_source *s);

/* Reads the tensors of a SAELens SAE, whose configuration is known and whose files are open. */
sae_status saei_saelens_tensors(saei_source *s, const saei_saelens *config);

/* Attention layers of a temporal SAE, attn_layers.<i>.<k_ctx, q_target, v_ctx, c_proj>.<weight, bias>. */
sae_status saei_temporal_tensors(saei_source *s, int32_t n_layers, int32_t n_heads, int32_t bottleneck);

/* The names that normalize_activations may have; -1 for an unknown one. */
sae_norm saei_saelens_norm(const char *name);

#endif
