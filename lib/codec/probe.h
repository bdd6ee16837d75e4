/* Gathered features: what a probe holds, and what a steering plan holds of each model. */
#ifndef SAEI_PROBE_H
#define SAEI_PROBE_H

#include "codec/codec.h"

/* Those of one block, packed for its stretch of a row. */
typedef struct saei_lane_run {
    size_t n;                   /* features of the block */
    size_t first_group, groups; /* ceil(n / 16) */
    size_t in_first, d;
    float *packed; /* [groups][d][16] */
} saei_lane_run;

typedef struct saei_lanes {
    size_t n;      /* features */
    size_t groups; /* of all runs */
    size_t n_runs;
    saei_lane_run *runs; /* [n_runs] */
    int32_t *column;     /* [n]: 16 * group + lane of each feature among the dots */
    int32_t *features;   /* [n] */
    saei_act act;        /* arrays of n, owned */
} saei_lanes;

/* Gathers features [n], which have been checked, with plain reads. */
sae_status saei_lanes_create(saei_lanes *out, sae_model *model, const int32_t *features, size_t n, sae_error *err);

/* The same of n vectors [n][d] that are no features: one run, whose dots are the projections. */
sae_status saei_lanes_of_vectors(saei_lanes *out, const sae_env *env, const float *vectors, size_t n, size_t d, sae_error *err);
void saei_lanes_free(saei_lanes *lanes, const saei_host *host);

/* c[r][column[i]] = dot of feature i, for rows x [n_rows][ldx]; ldc >= 16 * groups. */
void saei_lanes_dots(const saei_lanes *lanes, const saei_kernels *kernels, float *c, size_t ldc, const float *x, size_t ldx, size_t n_rows);

/* The code of a feature among an encoded row's, 0 if it is not there. */
float saei_work_find(const saei_work *work, const sae_model *model, size_t r, int32_t feature);

#endif
