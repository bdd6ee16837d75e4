/* How near features are to each other or to any vector: exact search, no approximation. */
#ifndef SAE_DISTANCE_H
#define SAE_DISTANCE_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The rows of one side of a model, with their norms. */
typedef struct sae_index sae_index;

/* Which rows. */
enum {
    SAE_BY_DECODER = 1, /* [d_sae][d_out]: what a feature writes */
    SAE_BY_ENCODER = 2  /* [d_sae][d_in]: what it reads */
};

/* Computes the norm of every row, with the env's parallel-for. The rows themselves stay in the model.
 * Errors: SAE_E_ARG (unknown side), SAE_E_NOMEM, SAE_E_HOST. */
SAE_API sae_status sae_index_create(sae_index **out, sae_model *model, int32_t by, sae_error *err);

/* Makes a copy of the rows of one byte a weight, with the env's parallel-for: searches read it in place of the rows and take exact cosines of
 * those rows alone that may be among the nearest. Same results to the bit, three times as fast once it is made, which takes as long as
 * some 25 searches. Where the rows are no single matrix (crosscoders, cross-layer transcoders) or have more than 16384 elements it does
 * nothing. Before the index is shared: no call on it may run meanwhile, and scratch is to be asked for afterwards.
 * Errors: SAE_E_ARG, SAE_E_NOMEM, SAE_E_HOST; the index stays as it was. */
SAE_API sae_status sae_index_prepare(sae_index *index, sae_error *err);

/* Bytes that sae_index_prepare took; 0 if nothing was made. */
SAE_API int64_t sae_index_screen_bytes(const sae_index *index);

/* Elements of a query: d_out or d_in of the model. */
SAE_API int32_t sae_index_dim(const sae_index *index);

/* Scratch for the calls below; one scratch serves one call at a time. */
SAE_API size_t sae_index_scratch_bytes(const sae_index *index);

typedef struct sae_neighbors {
    uint32_t struct_size;
    int32_t k;         /* room in the arrays */
    int32_t *features; /* [k], cosine descending, then lower index */
    float *cosines;    /* [k] */
    int32_t n;         /* written: how many were found, < k only when the SAE has fewer rows with a length */
    uint32_t reserved; /* 0 */
} sae_neighbors;

/* The k rows nearest to `query` [dim] f32 by cosine = dot / (||query|| * ||row||): the canonical dot, norms one double chain each,
 * the quotient in double and rounded once. Rows of length 0 are never found.
 * Errors: SAE_E_ARG (a query of length 0 or not finite, k < 1), SAE_E_CAPACITY (scratch), SAE_E_HOST. */
SAE_API sae_status sae_index_nearest(const sae_index *index, sae_neighbors *out, const float *query, void *scratch, size_t scratch_bytes,
                                     sae_error *err);

/* The k features nearest to a feature, itself left out. Errors: as above; SAE_E_ARG when the feature's row has length 0. */
SAE_API sae_status sae_index_nearest_feature(const sae_index *index, sae_neighbors *out, int32_t feature, void *scratch,
                                             size_t scratch_bytes, sae_error *err);

/* Measures of a set. */
enum {
    SAE_COSINE = 1, /* in -1 .. 1; NaN when a row has length 0 */
    SAE_ANGLE = 2,  /* radians, 0 .. pi: atan2 of the chord lengths, accurate near 0 */
    SAE_L2 = 3      /* length of the difference: one double chain */
};

/* All pairs of `features` [n]: out [n][n] f32, symmetric. Errors: SAE_E_ARG (unknown measure, feature out of range),
 * SAE_E_CAPACITY (scratch), SAE_E_HOST. */
SAE_API sae_status sae_index_pairs(const sae_index *index, float *out, int32_t measure, const int32_t *features, int64_t n, void *scratch,
                                   size_t scratch_bytes, sae_error *err);

SAE_API void sae_index_free(sae_index *index);

#ifdef __cplusplus
}
#endif
#endif
