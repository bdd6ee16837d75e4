/* A compiled plan: edits sorted by slot, each with its direction; the features whose codes are needed, packed by slot and model. */
#ifndef SAEI_PLAN_H
#define SAEI_PLAN_H

#include "codec/probe.h"
#include "sae/steer.h"

enum { SAEI_STEER_ROWS = 16 /* rows of one slot that are worked on at once */ };

/* One edit, ready: direction row i of the plan's matrix belongs to edit i. */
typedef struct saei_edit {
    sae_op op;
    bool per_length; /* value is a length in activation space: it is not un-normalised */
    float value;     /* c, or the factor of SAE_SCALE */
    int32_t group;   /* whose codes and row scale it reads, -1 = none (a raw add of a vector) */
    int32_t lane;    /* which of the group's codes, -1 = it reads none */
} saei_edit;

/* Features of one model (or raw vectors) that a slot reads. */
typedef struct saei_group {
    sae_model *model; /* NULL: raw vectors, whose code is the projection itself */
    saei_lanes lanes; /* n = 0: only the row scale is wanted */
} saei_group;

typedef struct saei_slot {
    int32_t first_edit, n_edits;
    int32_t first_group, n_groups;
} saei_slot;

struct sae_plan {
    sae_env *env;
    int32_t d, n_slots, n_edits, n_groups;
    saei_slot *slots;   /* [n_slots] */
    saei_edit *edits;   /* [n_edits], by slot */
    saei_group *groups; /* [n_groups], by slot */
    float *directions;  /* [n_edits][d] */
    size_t bytes;       /* of the one allocation that holds all above; lanes have their own */
    int32_t max_edits;  /* of one slot */
    int32_t max_lanes;  /* of one group, rounded up to the lane width */
};

#endif
