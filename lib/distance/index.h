/* An index of one side of a model (sae/distance.h), and a search in it. */
#ifndef SAEI_INDEX_H
#define SAEI_INDEX_H

#include "codec/screen.h"
#include "sae/distance.h"

struct sae_index {
    sae_model *model;
    int32_t by;
    size_t n, d;
    double *norms; /* [n] length of each row in the unit of the codes */
    size_t bytes;
    saei_screen *screen; /* NULL = not prepared */
    float *inverse;      /* [n] of a prepared one: what a dot is to be multiplied by; NaN where the cosine falls as the dot grows */
};

/* Scratch of a search. */
typedef struct saei_index_scratch {
    float *cosines;  /* [n] */
    float *a, *b;    /* [d] */
    float *gathered; /* per worker: [SAEI_LANES][d] where one matrix does not hold the rows */
    int8_t *planes;  /* of a prepared index: the query in bytes */
    int32_t *sums;   /* per worker: [2][SAEI_TILE] */
    float *groups;   /* [saei_index_groups]; and as many to work on */
} saei_index_scratch;

/* A search, whose query is room->a. */
typedef struct saei_search {
    const sae_index *index;
    const saei_index_scratch *room;
    double query_norm;
    saei_spans spans; /* of a screened one */
} saei_search;

/* The one matrix of an index that has one. */
saei_matrix saei_index_rows(const sae_index *index);

/* What a decoder row counts; 1 for encoder rows. */
float saei_index_scale(const sae_index *index, size_t j);

/* The cosine of row j whose dot with the query is `dot`. */
float saei_search_cosine(const saei_search *s, size_t j, float dot);

/* Exact cosines of rows first .. first + n - 1. */
void saei_search_exact(const saei_search *s, float *cosines, size_t first, size_t n, uint32_t worker);

size_t saei_index_groups(const sae_index *index);

/* Exact cosines of all rows that may be among the `k` nearest besides `except` (-1 = none), NaN for the others. False when that cannot be told, or
 * is no faster than all cosines: room->cosines is undefined then. *status is SAE_E_HOST when the host's parallel-for failed. */
bool saei_search_screened(saei_search *s, int32_t k, int32_t except, sae_status *status);

#endif
