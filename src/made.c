#include "made.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { POOL = 256, MOST_PLANTED = 32, PER_PLANTED = 64 };
#define THRESHOLD 2.5f

/* splitmix64 */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static float uniform(uint64_t *state, float low, float high)
{
    return low + (high - low) * (float)(next(state) >> 40) * 0x1p-24f;
}

/* Near enough to normal, of variance 1: the sum of four uniform numbers. */
static float normal(uint64_t *state)
{
    uint64_t z = next(state);
    float sum = (float)(z & 0xffff) + (float)(z >> 16 & 0xffff) + (float)(z >> 32 & 0xffff) + (float)(z >> 48);
    return (sum * 0x1p-16f - 2.0f) * 1.7320508f;
}

float *made_directions(int32_t d_in, int32_t d_sae)
{
    size_t d = (size_t)d_in;
    float *w = take(d * (size_t)d_sae, sizeof *w);
    uint64_t state = 1;
    for (size_t i = 0; i < (size_t)d_sae; i++) {
        double square = 0;
        for (size_t k = 0; k < d; k++) {
            w[i * d + k] = normal(&state);
            square += (double)w[i * d + k] * (double)w[i * d + k];
        }
        float scale = square > 0 ? (float)(1 / sqrt(square)) : 0;
        for (size_t k = 0; k < d; k++) {
            w[i * d + k] *= scale;
        }
    }
    return w;
}

void made_model(session *s, float *directions, int32_t d_in, int32_t d_sae)
{
    sae_error err = {.struct_size = sizeof err};
    float *threshold = take((size_t)d_sae, sizeof *threshold);
    for (int32_t i = 0; i < d_sae; i++) {
        threshold[i] = THRESHOLD;
    }
    sae_weights w = {.struct_size = sizeof w,
                     .arch = SAE_JUMPRELU,
                     .dtype = SAE_F32,
                     .flags = SAE_BORROW | SAE_W_ENC_BY_ROWS,
                     .d_in = d_in,
                     .d_sae = d_sae,
                     .w_enc = directions,
                     .w_dec = directions,
                     .threshold = threshold};
    expect_ok(sae_model_create(&s->model, s->env, &w, &err), &err, NULL);
    expect_ok(sae_model_info(s->model, &s->info), &err, NULL);
    free(threshold);
}

/* Some features of the SAE: what must be added to a row for each to be active, and how much of it. */
typedef struct pool {
    int32_t n;
    float *directions; /* [n][d_in], encoder rows over their squared length: adding one raises its pre-activation by 1 */
    float *least;      /* [n] that takes it to its threshold */
    float unit;        /* a usual value of a code */
} pool;

static float *read_all(const session *s, int32_t tensor, int64_t first, int64_t n, size_t d, const char *about)
{
    sae_error err = {.struct_size = sizeof err};
    float *out = take((size_t)n * d, sizeof *out);
    expect_ok(sae_model_read(s->model, tensor, first, n, out, &err), &err, about);
    return out;
}

static void invert(float *w, size_t d)
{
    double square = 0;
    for (size_t k = 0; k < d; k++) {
        square += (double)w[k] * (double)w[k];
    }
    for (size_t k = 0; k < d; k++) {
        w[k] = square > 0 ? (float)((double)w[k] / square) : 0;
    }
}

static pool pool_make(const session *s, const char *about)
{
    int32_t n_all = s->info.d_sae;
    size_t d = (size_t)s->info.d_in;
    pool p = {.n = n_all < POOL ? n_all : POOL};
    float *threshold = read_all(s, SAE_THRESHOLD, 0, n_all, 1, about), *bias = read_all(s, SAE_B_ENC, 0, n_all, 1, about);
    double sum = 0;
    p.directions = take((size_t)p.n * d, sizeof *p.directions);
    p.least = take((size_t)p.n, sizeof *p.least);
    for (int32_t i = 0; i < p.n; i++) {
        int32_t feature = (int32_t)((int64_t)n_all * i / p.n);
        float *w = read_all(s, SAE_W_ENC, feature, 1, d, about);
        invert(w, d);
        memcpy(p.directions + (size_t)i * d, w, d * sizeof *w);
        free(w);
        p.least[i] = fmaxf(threshold[feature] - bias[feature], 0);
        sum += isfinite(p.least[i]) ? (double)p.least[i] : 0;
    }
    p.unit = sum > 0 ? (float)(sum / p.n) : 1;
    free(threshold);
    free(bias);
    return p;
}

/* As many features as a row has room for: were there more, their noise would take others over their thresholds. */
static void plant(float *x, const pool *p, size_t d, uint64_t *state)
{
    size_t most = d / PER_PLANTED + 1, n = most < MOST_PLANTED ? most : MOST_PLANTED;
    for (size_t k = 0; k < d; k++) {
        x[k] = 0.01f * p->unit * normal(state);
    }
    for (size_t j = 0; j < n; j++) {
        size_t i = next(state) % (uint64_t)p->n;
        float a = uniform(state, 1, 2) * (isfinite(p->least[i]) ? p->least[i] : 0) + uniform(state, 0.2f, 1) * p->unit;
        for (size_t k = 0; k < d; k++) {
            x[k] += a * p->directions[i * d + k];
        }
    }
}

float *made_rows(const session *s, int64_t n, uint64_t seed, const char *about)
{
    size_t d = (size_t)s->info.d_in;
    bool centred = s->info.apply_b_dec == SAE_YES && s->info.d_out == s->info.d_in;
    pool p = pool_make(s, about);
    float *b_dec = read_all(s, SAE_B_DEC, 0, s->info.d_out, 1, about), *x = take((size_t)n * d, sizeof *x);
    uint64_t state = seed;
    for (size_t r = 0; r < (size_t)n; r++) {
        plant(x + r * d, &p, d, &state);
        for (size_t k = 0; k < d; k++) {
            x[r * d + k] = (x[r * d + k] + (centred ? b_dec[k] : 0)) / s->info.norm_scaling_factor;
        }
    }
    free(b_dec);
    free(p.directions);
    free(p.least);
    return x;
}
