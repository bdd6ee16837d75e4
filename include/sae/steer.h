/* Steering: edits of features or directions, compiled once, applied in place to rows.
 *
 * Every edit is a delta: x' = x + sum of (z' - z) * direction. What the SAE does not explain stays as it was ("error term kept",
 * Scaling Monosemanticity, Methods), rows that no edit changes stay bit-identical, and all z are read from the original row. */
#ifndef SAE_STEER_H
#define SAE_STEER_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sae_plan sae_plan;

/* What becomes of z, the feature's code (for a raw vector v: its projection x . v / ||v||). c is `value` in its unit. */
typedef int32_t sae_op;

enum {
    SAE_ADD = 1,   /* z' = z + c, whether or not the feature is active */
    SAE_SET = 2,   /* z' = c (clamp) */
    SAE_SCALE = 3, /* z' = value * z */
    SAE_MIN = 4,   /* z' = max(z, c): at least c */
    SAE_MAX = 5,   /* z' = min(z, c): at most c */
    SAE_ABLATE = 6 /* z' = 0 */
};

/* Unit of `value` for add, set, min and max. Scale and ablate have none (SAE_UNIT_RAW). */
typedef int32_t sae_unit;

enum {
    SAE_UNIT_RAW = 0,    /* the unit of the codes; a raw vector's add: value * v as given */
    SAE_UNIT_UNIT = 1,   /* length in activation space: value / ||direction|| */
    SAE_UNIT_MAX_ACT = 2 /* multiples of the feature's largest known activation, given in max_act */
};

/* One edit. Zero it first; the direction of a feature is its row of W_dec in the unit of the codes, that of a raw vector the
 * vector's unit length. For SAEs that normalise rows the delta is un-normalised like a decoded row, without a shift. Where that has no
 * finite value (a zero row of SAE_NORM_CONSTANT) the row is left as it is. */
typedef struct sae_edit {
    uint32_t struct_size;
    int32_t slot; /* which rows: those whose slot is this; 0 .. n_slots - 1 */
    sae_op op;
    sae_unit unit;
    float value;         /* finite */
    float max_act;       /* SAE_UNIT_MAX_ACT: finite, > 0 */
    sae_model *model;    /* of the feature; NULL for a raw vector */
    const float *vector; /* [d] f32, raw vector edits only; copied */
    int32_t feature;     /* 0 .. d_sae - 1 */
    uint32_t reserved;   /* 0 */
} sae_edit;

/* Compiles edits [n_edits] for rows of `d` elements: gathers encoder columns and decoder rows, so that the plan needs no access to
 * the files any more (models whose features compete, as in a top-k, excepted: their codes need one exact full encode per row).
 * n_edits = 0 is a plan that changes nothing. Edits of one slot are summed in the order given.
 * Errors: SAE_E_ARG (unknown op or unit, feature out of range, slot out of range, non-finite value, zero or non-finite vector, max_act
 * missing), SAE_E_SHAPE (a model whose d_in or d_out is not d), SAE_E_UNSUPPORTED (a temporal model), SAE_E_IO, SAE_E_FORMAT, SAE_E_NOMEM,
 * SAE_E_VERSION. All name the edit. */
SAE_API sae_status sae_plan_compile(sae_plan **out, sae_env *env, int32_t d, int32_t n_slots, const sae_edit *edits, int64_t n_edits,
                                    sae_error *err);

/* Scratch that sae_plan_apply needs, whatever the number of rows. One scratch serves one call at a time. */
SAE_API size_t sae_plan_scratch_bytes(const sae_plan *plan);

/* Applies the plan to rows [n_rows][d] in place, on the caller's thread (a top-k model's encode uses the env's parallel-for). Rows of
 * f16 and bf16 are computed in f32 and rounded once. `scratch` needs no alignment.
 * Errors: SAE_E_ARG (slot >= n_slots or < -1, by row, before any row is changed; scratch missing), SAE_E_CAPACITY (scratch too small),
 * SAE_E_HOST (the rows before the failing block are steered, the others untouched). */
SAE_API sae_status sae_plan_apply(const sae_plan *plan, const sae_rows *rows, void *scratch, size_t scratch_bytes, sae_error *err);

SAE_API int32_t sae_plan_slots(const sae_plan *plan);

/* Elements of a row; 0 for NULL. */
SAE_API int32_t sae_plan_d(const sae_plan *plan);
SAE_API void sae_plan_free(sae_plan *plan);

/* "add", "set", "scale", "min", "max", "ablate"; "unknown" otherwise. Static, never NULL. */
SAE_API const char *sae_op_name(sae_op op);

/* "raw", "unit", "max_act"; "unknown" otherwise. Static, never NULL. */
SAE_API const char *sae_unit_name(sae_unit unit);

#ifdef __cplusplus
}
#endif
#endif
