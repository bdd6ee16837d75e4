/* What a feature has to reach while the others of its row are still coming in, for SAEs where features compete: the k-th largest of the values
 * that those seen so far have in all likelihood, of the whole row (top-k) or of a group of neighbours (groupmax, k = 1). It is a guess: whether
 * k features were worth it is seen when the exact values are there, and then nothing that was left below it can be among the k largest. */
#ifndef SAEI_FLOORS_H
#define SAEI_FLOORS_H

#include "model/model.h"

typedef struct saei_floors {
    size_t groups, size; /* groups of a row, features of each; no groups = features do not compete */
    size_t k, room;      /* of a group; values kept while the k-th largest is looked for, 0 where it is the largest */
    size_t max_rows, workers;
    _Atomic(uint32_t) *floor; /* [max_rows][groups] bits of a float, 0 at first */
    float *best;              /* [workers][max_rows][room] values above the floor of their time */
    int32_t *n;               /* [workers][max_rows] of them */
} saei_floors;

/* A floor, a float of 0 or more held by its bits; it becomes `to` if that is larger. */
float saei_floor_at(const _Atomic(uint32_t) *floor);
void saei_raise_to(_Atomic(uint32_t) *floor, float to);

/* Lays them out; block NULL = only the size is wanted. */
size_t saei_floors_layout(saei_floors *f, const sae_model *model, size_t max_rows, unsigned char *block);

/* Nothing is known of the first n rows. */
void saei_floors_clear(const saei_floors *f, size_t n);

/* How many features from this one on share its floor, n at most. */
size_t saei_floors_span(const saei_floors *f, size_t feature, size_t n);

/* What a feature of row r has to reach; 0 at least. */
float saei_floor(const saei_floors *f, size_t r, size_t feature);

/* The value of a feature of row r is hardly less than `low`. Calls of one worker follow each other. */
void saei_floor_raise(const saei_floors *f, uint32_t worker, size_t r, size_t feature, float low);

/* The floor of row r, of an SAE with one group, is `to` at least. */
void saei_floor_begin(const saei_floors *f, size_t r, float to);

/* Puts together what the workers know of row r of an SAE with room; `pick` has room for n floats. */
void saei_floors_settle(const saei_floors *f, size_t r, float *pick, size_t n);

/* Do k of the exact codes of row r, m of them, ascending by feature, reach each floor? */
bool saei_floors_hold(const saei_floors *f, size_t r, const int32_t *idx, const float *val, size_t m);

#endif
