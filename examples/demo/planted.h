/* A world whose features are known: named directions, an SAE that reads and writes them, and rows that are sparse sums of them. */
#ifndef PLANTED_H
#define PLANTED_H

#include <stdbool.h>
#include <stdint.h>

enum {
    D_IN = 768,
    D_SAE = 4096,
    N_ROWS = 512,
    N_ACTIVE = 8 /* planted features in a row */
};

#define PLANTED_THRESHOLD 5.0f /* of the JumpReLU; planted strengths are 6 .. 12 */

typedef struct planted {
    float w_enc[D_IN][D_SAE]; /* as SAELens stores it */
    float w_dec[D_SAE][D_IN]; /* unit rows */
    float threshold[D_SAE];
    float b_dec[D_IN];
    float x[N_ROWS][D_IN];
    int32_t feature[N_ROWS][N_ACTIVE]; /* what was planted, ascending */
    float strength[N_ROWS][N_ACTIVE];
} planted;

/* Fills *p from a seed: the same bits on every machine. */
void planted_grow(planted *p, uint64_t seed);

/* "calm amber river" for a feature; features 2i and 2i + 1 are near synonyms, and their directions have a cosine around 0.5. */
void planted_name(char *out, int32_t out_bytes, int32_t feature);

/* The synonym. */
int32_t planted_twin(int32_t feature);

/* How strongly a feature was planted in a row, 0 if it was not. */
float planted_strength(const planted *p, int32_t row, int32_t feature);

#endif
