#include "support/hostile.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

float gauss(rng *r)
{
    return (float)(sqrt(-2 * log(rng_between(r, 1e-12, 1))) * cos(rng_between(r, 0, 6.283185307179586)));
}

float integer(rng *r, int most)
{
    return (float)((int32_t)rng_below(r, 2 * (uint32_t)most + 1) - most);
}

static void ordinary(data *a, rng *r)
{
    for (size_t k = 0; k < a->d; k++)
        a->centre[k] = 0.3f * gauss(r);
    for (size_t i = 0; i < ROWS * a->d; i++)
        a->x[i] = a->centre[i % a->d] + gauss(r);
    for (size_t i = 0; i < N * a->d; i++)
        a->w[i] = gauss(r) / sqrtf((float)a->d);
    for (size_t j = 0; j < N; j++)
        a->bias[j] = 0.5f * gauss(r);
}

static void harden_weights(data *a, int class, rng *r)
{
    const size_t d = a->d;
    for (size_t i = 0; i < N * d; i++) {
        const size_t j = i / d, k = i % d;
        float *w = a->w + i;
        const float g = gauss(r);
        if (class == HEAVY_TAILS)
            *w /= 0.1f + g * g;
        else if (class == INTEGERS || class == LOST_ALONG_WEIGHTS || class == CENTRE_ONLY)
            *w = k == 1 ? 127.0f : integer(r, 127);
        else if (class == LOST_ALONG_ROW || class == SPIKE) {
            const float z = a->x[j % ROWS * d + k] - a->centre[k];
            *w = k == 1 ? 0.381f : 0.003f * (floorf(fmaxf(-4, fminf(4, g)) * 30) + 0.4995f * fmaxf(-1, fminf(1, z / 4)));
        } else if (class == CANCELLING)
            *w = k % 2 ? -w[-1] : k + 1 < d ? 1e6f * g : 0.0f;
        else if (class == DENORMAL_WEIGHTS && j % 3 == 0)
            *w *= 1e-42f;
        else if (class == TINY_WEIGHTS && j % 3 == 0)
            *w *= 1e-30f;
        else if (class == HUGE_WEIGHTS)
            *w *= j % 12 == 0 ? 1e25f : j % 12 == 1 ? 1e36f : 1e10f;
        else if (class == DUPLICATES && j >= 8)
            *w = a->w[j % 8 * d + k];
        else if (class == ZERO_WEIGHTS && j % 2)
            *w = k == 7 && j % 4 == 1 ? 1e-3f : 0.0f;
    }
}

static void harden_rows(data *a, int class, rng *r)
{
    const size_t d = a->d;
    for (size_t i = 0; i < ROWS * d; i++) {
        const size_t row = i / d, k = i % d;
        float *x = a->x + i;
        const float g = gauss(r);
        if (class == HEAVY_TAILS && k % 37 == 0)
            *x = 100 * g;
        else if (class == INTEGERS)
            *x = k == 1 ? 32639.0f : integer(r, row % 2 ? 127 : 32639);
        else if (class == CANCELLING)
            *x = k % 2 ? x[-1] : 1 + 1e-6f * g;
        else if (class == DENORMAL_ROWS && row % 3)
            *x = g * (row % 2 ? 1e-41f : 1e-25f);
        else if (class == HUGE_ROWS)
            *x = g * (row < 3 ? 1e15f : row < 6 ? 1e30f : 3e37f);
        else if (class == NONFINITE_ROWS && row % 2 && k == row)
            *x = row % 3 == 0 ? NAN : row % 3 == 1 ? INFINITY : -INFINITY;
        else if (class == ROW_IS_CENTRE)
            *x = a->centre[k] + (row < 4 ? 0 : k == 3 ? 1e-6f : k == 5 && row > 8 ? 1e-3f : 0);
        else if (class == BIAS_CANCELS)
            *x = a->centre[k] + 1e-3f * g;
        else if (class == SPIKE)
            *x = a->centre[k] + 1e-3f * g + (k == row * 7 % d ? 30 : 0);
        else if (class == LOST_ALONG_WEIGHTS) {
            const float lost = (row < 6 ? 120.0f : 0.4995f) * a->w[row * 11 % N * d + k] / 127; /* in one plane, in two */
            *x = k == 1 ? 32639.0f : (row < 6 ? 256 * integer(r, 125) : integer(r, 32000)) + (row % 2 ? lost : -lost);
        } else if (class == CENTRE_ONLY)
            *x = row < 6 || k ? 0.0f : 1e-10f * g;
        else if (class == HARD_ROWS)
            *x = row % 4 == 0 ? 0.0f : row % 4 == 1 ? g * 1e-11f : row % 4 == 2 ? g * 1e17f : *x;
    }
}

static void harden(data *a, int class, rng *r)
{
    if (class == INTEGERS || class == LOST_ALONG_WEIGHTS)
        memset(a->centre, 0, sizeof a->centre);
    for (size_t k = 0; k < a->d; k++) {
        const float g = gauss(r);
        if (class == LARGE_CENTRE)
            a->centre[k] = 1000 * g;
        else if (class == CENTRE_ONLY)
            a->centre[k] = k == 1 ? 127.0f : integer(r, 127);
        else if (class == BIAS_CANCELS)
            a->centre[k] = 5 * (float)((int)k % 7 - 3);
        for (size_t row = 0; class == LARGE_CENTRE && row < ROWS; row++)
            a->x[row * a->d + k] = a->centre[k] + gauss(r);
    }
    harden_weights(a, class, r);
    harden_rows(a, class, r);
    for (size_t j = 0; j < N; j++) {
        static const float odd[] = {FLT_MAX, -FLT_MAX, 3e37f, -0.0f, 0.0f, FLT_TRUE_MIN, 1e30f, -1e20f};
        double sum = 0;
        for (size_t k = 0; k < a->d; k++)
            sum += (double)a->w[j * a->d + k] * (double)a->centre[k];
        if (class == ODD_BIASES)
            a->bias[j] = odd[j % 8];
        else if (class == INTEGERS || class == CENTRE_ONLY)
            a->bias[j] = j % 2 ? 0.0f : integer(r, 1000);
        else if (class == BIAS_CANCELS)
            a->bias[j] = (float)-sum;
        else if (class == DENORMAL_ROWS)
            a->bias[j] = j % 2 ? 0.0f : 1e-31f * gauss(r);
        else if (class == DUPLICATES && j >= 8)
            a->bias[j] = a->bias[j % 8];
    }
}

static float chain(const float *w, const float *x, size_t d)
{
    float acc = 0.0f;
    for (size_t k = 0; k < d; k++)
        acc = fmaf(w[k], x[k], acc);
    return acc;
}

static float beside(float v, uint32_t which)
{
    const float t = which < 2 ? nextafterf(v, -INFINITY) : which == 2 ? v : nextafterf(v, INFINITY);
    return isfinite(t) ? t : 1.0f;
}

data *data_make(int class, size_t d, uint64_t seed)
{
    rng r = {seed * 1000 + (uint64_t) class};
    data *a = calloc(1, sizeof *a);
    a->d = d;
    ordinary(a, &r);
    harden(a, class, &r);
    for (size_t row = 0; row < ROWS; row++)
        for (size_t j = 0; j < N; j++)
            a->dots[row][j] = chain(a->w + j * d, a->x + row * d, d);
    for (size_t j = 0; j < N; j++) {
        const float dot = a->dots[rng_below(&r, ROWS)][j];
        a->threshold[j] = beside(dot + a->bias[j], rng_below(&r, 4));
        a->gate[j] = beside(-dot, rng_below(&r, 4));
        a->scale[j] = class == ODD_BIASES ? integer(&r, 60) : 0.1f * gauss(&r);
    }
    return a;
}
