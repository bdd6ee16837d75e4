/* What the features of an SAE do over many rows, in memory that grows with the number of features alone: how often and how strongly each
 * is active, where most, and on which tokens. */
#ifndef TOOL_COLLECT_H
#define TOOL_COLLECT_H

#include <sae.h>

#include "shards.h"

/* One place where a feature is active, with what stands around it. */
typedef struct sight {
    float value;
    int32_t document, position;
    int32_t n, peak; /* tokens, and which of them it is about */
} sight;

/* A token that a feature is active on. */
typedef struct habit {
    int32_t token;
    float sum; /* of activations */
} habit;

enum { HABITS = 64 }; /* tokens remembered for each feature; the weakest gives way */

typedef struct collector {
    int32_t d_sae, n_vocab;
    int32_t most;    /* sights kept for each feature */
    int32_t context; /* tokens on each side */
    int32_t width;   /* 2 * context + 1 */
    int64_t rows;
    int64_t *active;    /* [d_sae] rows on which it is */
    double *sum;        /* [d_sae] of activations */
    float *max;         /* [d_sae] */
    int32_t *n_sights;  /* [d_sae] */
    sight *sights;      /* [d_sae][most], in no order */
    int32_t *tokens;    /* [d_sae][most][width] */
    float *activations; /* [d_sae][most][width] */
    habit *habits;      /* [d_sae][HABITS], sum 0 = free; NULL when nobody asks */
    int64_t *seen;      /* [n_vocab] rows that are this token */
} collector;

collector collect_start(int32_t d_sae, int32_t n_vocab, int32_t most, int32_t context, bool habits);

/* Takes in row `at` of n rows with these codes and places; those around it are its context. */
void collect_row(collector *c, const sae_codes *codes, const place *places, int64_t at, int64_t n);

/* Sorts the sights of a feature: the strongest first, the earlier of two equal ones. Fills order [most] and gives their number. */
int32_t collect_order(const collector *c, int32_t feature, int32_t *order);

/* The n tokens on which the feature's mean activation is largest: how many there are. The mean is taken over all rows of that token and
 * one more without activation, so that a token seen once does not lead. */
int32_t collect_habits(const collector *c, int32_t feature, habit *out, int32_t n);

void collect_free(collector *c);

#endif
