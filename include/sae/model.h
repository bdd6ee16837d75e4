/* The model: an SAE's weights and configuration, from a file or from memory.
 *
 * Canonical form (every architecture reduces to it; names as in SAELens):
 *     xc = normalise(x) - apply_b_dec_to_input * b_dec        h = xc W_enc + b_enc        f = act(h)
 *     x_hat = un-normalise(f W_dec + b_dec) [+ x W_skip]
 * Rows of several hook points hold them one behind the other; features may read and write stretches of a row. */
#ifndef SAE_MODEL_H
#define SAE_MODEL_H

#include "env.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sae_model sae_model;

/* Activation of the codes. Thresholds are strict (>). BatchTopK and Matryoshka SAEs are published as JumpReLU. */
typedef int32_t sae_arch;

enum {
    SAE_STANDARD = 1, /* relu(h) */
    SAE_JUMPRELU = 2, /* relu(h) where h > threshold (arXiv 2407.14435) */
    SAE_TOPK = 3,     /* the k largest h, then relu (arXiv 2406.04093); ties go to the lower index */
    SAE_GATED = 4,    /* relu(exp(r_mag) * u + b_mag) where u + b_gate > 0, u = xc W_enc (arXiv 2404.16014) */
    SAE_ABSTOPK = 5,  /* the k largest |h|, with their sign (sae-lens 6.54, saes/abs_topk_sae.py) */
    SAE_GROUPMAX = 6, /* the features in k groups of neighbours, the largest h of each, then relu (sparsify 1.3) */
    SAE_MATCHING_PURSUIT =
        7,           /* r = xc; i = argmax relu(r . W_dec row), f_i += v, r -= v W_dec row; again (sae-lens 6.54, same file name) */
    SAE_TEMPORAL = 8 /* attention over the rows before predicts a part, top-k or relu codes the rest (arXiv 2511.01836) */
};

/* What is done to a row before, and undone after (sae-lens 6.54, saes/sae.py). d = d_in, all per row. */
typedef int32_t sae_norm;

enum {
    SAE_NORM_NONE = 0,
    SAE_NORM_SCALE = 1,    /* x * norm_scaling_factor ("expected_average_only_in") */
    SAE_NORM_CONSTANT = 2, /* x * sqrt(d) / ||x|| ("constant_norm_rescale"); a zero row has no finite pre-activation */
    SAE_NORM_LAYER = 3,    /* (x - mean) / (std + 1e-5), std unbiased ("layer_norm") */
    SAE_NORM_AFFINE = 4    /* (x - shift) * scale by element, undone by a scale and shift of its own (crosscoder_learning) */
};

/* The file says otherwise, or does not say: overrides for sae_model_open. Zero = what the file says. The same names are the
 * Python keywords and the options of the tool. */
typedef struct sae_open_options {
    uint32_t struct_size;
    int32_t k;                         /* top-k */
    int32_t d_in;                      /* expected; a file that differs is refused */
    int32_t d_out;                     /* expected; a file that differs is refused */
    const char *architecture;          /* "standard", "jumprelu", "topk", "gated" */
    const char *normalize_activations; /* "none", "expected_average_only_in", "constant_norm_rescale", "layer_norm" */
    int32_t apply_b_dec;               /* apply_b_dec_to_input: SAE_YES or SAE_NO */
    float norm_scaling_factor;         /* factor for "expected_average_only_in", which cfg.json does not carry */
    int32_t copy;                      /* SAE_YES: read the file into memory instead of mapping it */
    int32_t check;                     /* SAE_YES: run sae_model_check before returning; SAE_NO: skip the checks of files <= 64 MiB */
    const char *layer;                 /* which SAE of a folder that holds several: "12", or the name of its file or folder */
} sae_open_options;

/* Opens a published SAE. `path` is its folder or the file of its weights, of any format that docs/formats.md lists: SAELens since v3, Gemma
 * Scope, dictionary_learning, sparsify, OpenAI, Llama Scope, circuit-tracer, our own .sae, ...
 * The files are mapped; vectors are read, matrices stay where they are until they are used. A mapped file must not be truncated while the model lives
 * (copy = SAE_YES avoids that). Nothing in a file is executed.
 * Errors: SAE_E_IO (missing, unreadable), SAE_E_FORMAT (damaged, contradicting itself, non-finite values), SAE_E_SHAPE (an expected
 * size differs), SAE_E_UNSUPPORTED (an architecture or dtype this version does not read, by name), SAE_E_NOMEM, SAE_E_ARG, SAE_E_VERSION,
 * SAE_E_HOST. */
SAE_API sae_status sae_model_open(sae_model **out, sae_env *env, const char *path, const sae_open_options *opt, sae_error *err);

/* flags of sae_weights */
enum {
    SAE_BORROW = 1,                   /* W_enc and W_dec are not copied: they stay the caller's and must outlive the model */
    SAE_W_ENC_BY_ROWS = 2,            /* w_enc is [d_sae][d_in]; default [d_in][d_sae], as SAELens and Gemma Scope store it */
    SAE_W_DEC_BY_COLS = 4,            /* w_dec is [d_out][d_sae]; default [d_sae][d_out] */
    SAE_APPLY_B_DEC = 8,              /* subtract b_dec from the (normalised) input */
    SAE_RESCALE_BY_DECODER_NORM = 16, /* top-k selects and returns h * ||W_dec row||, decode divides by it */
    SAE_KEEP_NEGATIVE = 32,           /* jumprelu and top-k: no relu, so that codes may be negative; an h of 0 is never one */
    SAE_NORM_IN_ONLY = 64,            /* a decoded row is not un-normalised (transcoders of sae-lens) */
    SAE_RETURN_UNSCALED =
        128, /* with SAE_RESCALE_BY_DECODER_NORM: selects by h * ||W_dec row||, returns h (to one ulp), decode does not divide */
    SAE_STOP_ON_REPEAT = 256 /* matching pursuit: a round that adds no feature is the last */
};

/* Weights in memory. Matrices are row-major in `dtype`, vectors are f32 and always copied. */
typedef struct sae_weights {
    uint32_t struct_size;
    sae_arch arch;
    sae_dtype dtype; /* of w_enc and w_dec */
    uint32_t flags;
    int32_t d_in;
    int32_t d_sae;
    int32_t d_out; /* 0 = d_in */
    int32_t
        k; /* top-k, abs-top-k: 1 .. d_sae; groupmax: groups, a divisor of d_sae; matching pursuit: most rounds, to 65536 or d_in, 0 = d_in */
    sae_norm norm;
    float norm_scaling_factor; /* SAE_NORM_SCALE: finite, > 0 */
    const void *w_enc;         /* NULL for a matching pursuit, whose dictionary is w_dec */
    const void *w_dec;
    const float *b_enc;     /* [d_sae]; NULL = 0. Not used by gated */
    const float *b_dec;     /* [d_out]; NULL = 0 */
    const float *threshold; /* [d_sae], SAE_JUMPRELU only */
    const float *b_gate;    /* [d_sae], gated only, as b_mag and r_mag */
    const float *b_mag;
    const float *r_mag;
    const void *w_skip;       /* [d_out][d_in] in dtype, by output; NULL = none. sae_forward adds it to what is decoded */
    float residual_threshold; /* matching pursuit: a row is done when what is left of it is shorter; 0 = only k and the flag decide */
    float norm_out_factor;    /* SAE_NORM_SCALE: a decoded row is multiplied by it; 0 = 1 / norm_scaling_factor */
} sae_weights;

/* Builds a model from memory, of any architecture but SAE_TEMPORAL and of one hook point. Values are not checked (sae_model_check does that),
 * shapes and pointers are.
 * Errors: SAE_E_ARG, SAE_E_SHAPE, SAE_E_NOMEM, SAE_E_VERSION, SAE_E_HOST. */
SAE_API sae_status sae_model_create(sae_model **out, sae_env *env, const sae_weights *weights, sae_error *err);

typedef struct sae_info {
    uint32_t struct_size;
    sae_arch arch;
    sae_norm norm;
    sae_dtype w_enc_dtype; /* as stored */
    sae_dtype w_dec_dtype;
    int32_t d_in;
    int32_t d_sae;
    int32_t d_out;
    int32_t k;           /* top-k, abs-top-k, groupmax and some temporal SAEs; most rounds of a matching pursuit; else 0 */
    int32_t apply_b_dec; /* SAE_YES or SAE_NO, as the next */
    int32_t rescale_by_decoder_norm;
    float norm_scaling_factor; /* 1 unless SAE_NORM_SCALE */
    int32_t n_in;              /* hook points that a row in consists of, laid one behind the other: 1 for most SAEs */
    int32_t n_out;             /* and a row out */
    int32_t n_blocks;          /* stretches of features, each with an encoder of its own: 1 for most SAEs */
    int32_t has_skip;          /* SAE_YES or SAE_NO, as the next: sae_forward adds x W_skip */
    int32_t keeps_negative;    /* codes may be negative */
    int32_t norm_in_only;      /* decoded rows are not un-normalised */
    int32_t returns_unscaled;  /* a top-k by h * ||W_dec row|| whose codes are h */
    int32_t stops_on_repeat;   /* matching pursuit: a round that adds no feature is the last */
    float residual_threshold;  /* matching pursuit: a row is done when what is left of it is shorter */
} sae_info;

/* Fills `out` (set out->struct_size first). Errors: SAE_E_ARG. */
SAE_API sae_status sae_model_info(const sae_model *model, sae_info *out);

/* What the file says in words. */
enum {
    SAE_TEXT_FORMAT = 1,         /* "saelens", "gemma_scope", ...: docs/formats.md; "memory" without a file */
    SAE_TEXT_FORMAT_VERSION = 2, /* the sae_lens_version of cfg.json, "" if absent */
    SAE_TEXT_ARCHITECTURE = 3,   /* as stored: "jumprelu" */
    SAE_TEXT_MODEL_NAME = 4,     /* of the language model, "" if absent, as the next */
    SAE_TEXT_HOOK_NAME = 5,      /* hook point: "blocks.12.hook_resid_post" */
    SAE_TEXT_PATH = 6,           /* the file that holds the weights, "" for memory */
    SAE_TEXT_CONFIG = 7,         /* the configuration as it is stored, "" if there is none */
    SAE_TEXT_HOOK_NAME_OUT = 8,  /* hook point that is decoded to, "" where it is the same */
    SAE_TEXT_CATALOG = 9         /* the catalog that belongs to it, as a path beside the file: .sae files may name one, else "" */
};

/* A text of the model; "" for an unknown `what`. Valid as long as the model. */
SAE_API const char *sae_model_text(const sae_model *model, int32_t what);

/* Number of warnings found while opening, and the i-th as a sentence ("" past the end): things that are legal but that a careful
 * user wants to know, e.g. normalize_activations "expected_average_only_in" without a factor. */
SAE_API int32_t sae_model_n_warnings(const sae_model *model);
SAE_API const char *sae_model_warning(const sae_model *model, int32_t i);

/* Tensors of the canonical form. */
enum {
    SAE_W_ENC = 1, /* by feature: [d_sae][d_in] */
    SAE_W_DEC = 2, /* by feature: [d_sae][d_out], in the unit of the published codes */
    SAE_B_ENC = 3, /* [d_sae]; b_gate for gated */
    SAE_B_DEC = 4, /* [d_out] */
    SAE_THRESHOLD =
        5,         /* [d_sae]: a feature is active when h > threshold and h > 0 (keeps_negative: h is not 0); zeros where there is none */
    SAE_W_SKIP = 6 /* by output: [d_out][d_in], zeros where it reads nothing of the row */
};

/* Copies `n` rows of a tensor from row `first` on, as f32 (a vector's row is one value): out is [n][d_in], [n][d_out] or [n].
 * Errors: SAE_E_ARG (unknown tensor, rows out of range). */
SAE_API sae_status sae_model_read(const sae_model *model, int32_t tensor, int64_t first, int64_t n, float *out, sae_error *err);

/* Packed forms. */
enum {
    SAE_PREPARE_ROWS =
        1, /* W_enc as [d_sae][d_in] (and W_dec as [d_sae][d_out]) in the stored dtype, where the file has it the other way */
    SAE_PREPARE_PANELS = 2, /* W_enc in f32 panels: the fastest dense encode; 4 bytes a weight */
    SAE_PREPARE_SCREEN = 4  /* W_enc in bytes with certified bounds, and its rows: encodes skip the features that cannot be active, with the
                               same bits; 1 byte a weight. Nothing for an SAE that cannot be screened: docs/model.md says which */
};

/* Builds packed forms once, with the env's parallel-for; values are checked on the way. Optional: an unprepared model gives the same
 * bits from the mapping, slower. Thread-safe, also while others encode; a second call finds the work done, and so does the first for
 * SAE_PREPARE_SCREEN where the file holds the screen (sae_save_options.screen).
 * Errors: SAE_E_NOMEM, SAE_E_FORMAT (a non-finite weight, by tensor, row and column), SAE_E_HOST, SAE_E_ARG. */
SAE_API sae_status sae_model_prepare(sae_model *model, uint32_t what, sae_error *err);

/* Reads every weight and refuses non-finite values: SAE_E_FORMAT with tensor, row and column of the first. A screen that came with the file is
 * built again and compared, byte by byte: SAE_E_FORMAT. SAE_E_NOMEM, SAE_E_HOST. */
SAE_API sae_status sae_model_check(const sae_model *model, sae_error *err);

/* Writes the 16 bytes that tell this SAE from others: XXH3-128 (xxhash 0.8, canonical byte order) over the XXH3-128 of architecture, sizes, k,
 * normalisation, flags and vectors and of each 16 features' weights, all as f32 bits. The same SAE has one fingerprint whatever file, layout
 * or dtype holds it, as long as its values are the same. Options that change what a file says change it too. Reads every weight, with the
 * env's parallel-for. No protection against forgery. Errors: SAE_E_ARG, SAE_E_NOMEM, SAE_E_HOST. */
SAE_API sae_status sae_model_fingerprint(const sae_model *model, uint8_t *out, sae_error *err);

typedef struct sae_memory {
    uint32_t struct_size;
    uint32_t prepared;     /* SAE_PREPARE_* that are built */
    int64_t mapped_bytes;  /* file mapping; page cache, shared, reclaimable */
    int64_t vectors_bytes; /* biases, thresholds, copied or read weights: owned by the model */
    int64_t rows_bytes;    /* of the form, whether or not it is built; 0 where the stored layout already is the form */
    int64_t panels_bytes;
    int64_t screen_bytes;        /* without its rows; 0 for an SAE that cannot be screened */
    int64_t screen_stored_bytes; /* of it in the file, which holds it: counted in mapped_bytes (copied: vectors_bytes) already */
} sae_memory;

/* What each form takes or would take. Errors: SAE_E_ARG. */
SAE_API sae_status sae_model_memory(const sae_model *model, sae_memory *out);

SAE_API void sae_model_free(sae_model *model);

/* "standard", "jumprelu", "topk", "gated", "abstopk", "groupmax", "matching_pursuit", "temporal"; "unknown" otherwise. Static, never NULL. */
SAE_API const char *sae_arch_name(sae_arch arch);

/* "none", "expected_average_only_in", "constant_norm_rescale", "layer_norm", "affine"; "unknown" otherwise. Static, never NULL. */
SAE_API const char *sae_norm_name(sae_norm norm);

#ifdef __cplusplus
}
#endif
#endif
