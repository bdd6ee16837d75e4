/* Gathered features: what a probe holds, and what a steering plan holds of each model. */
#ifndef SAEI_PROBE_H
#define SAEI_PROBE_H

#include "codec/codec.h"

typedef struct saei_lanes {
    size_t n;      /* features */
    size_t groups; /* ceil(n / 16) */
    float *packed; /* [groups][d_in][16] */
    size_t packed_bytes;
    int32_t *features; /* [n] */
    saei_act act;      /* arrays of n, owned */
} saei_lanes;

/* Gathers features [n], which have been checked, with plain reads. */
sae_status saei_lanes_create(saei_lanes *out, sae_model *model, const int32_t *features, size_t n, sae_error *err);
void saei_lanes_free(saei_lanes *lanes, const saei_host *host);

/* The code of a feature among an encoded row's, 0 if it is not there. */
float saei_work_find(const saei_work *work, const sae_model *model, size_t r, int32_t feature);

#endif
