/* Weights and rows on which a bound of a dot may fail: where its terms are all there is, or where floats end. */
#ifndef SUPPORT_HOSTILE_H
#define SUPPORT_HOSTILE_H

#include "support/support.h"

enum {
    GAUSS,
    HEAVY_TAILS,
    INTEGERS,
    LOST_ALONG_ROW,
    CANCELLING,
    DENORMAL_WEIGHTS,
    TINY_WEIGHTS,
    HUGE_WEIGHTS,
    DENORMAL_ROWS,
    HUGE_ROWS,
    HARD_ROWS,
    NONFINITE_ROWS,
    ROW_IS_CENTRE,
    BIAS_CANCELS,
    DUPLICATES,
    ODD_BIASES,
    ZERO_WEIGHTS,
    LARGE_CENTRE,
    SPIKE,
    LOST_ALONG_WEIGHTS,
    CENTRE_ONLY,
    N_CLASSES
};

enum { N = 175 /* 5 * 5 * 7: it has groups */, MOST_D = 400, ROWS = 13 };

typedef struct data {
    size_t d;
    float w[N * MOST_D], x[ROWS * MOST_D], centre[MOST_D], bias[N], threshold[N], gate[N], scale[N], dots[ROWS][N];
} data;

/* About normal; -most .. most. */
float gauss(rng *r);
float integer(rng *r, int most);

/* d <= MOST_D. Thresholds, and biases of gates, lie within one step of what a row gives. free() it. */
data *data_make(int class, size_t d, uint64_t seed);

#endif
