/* Every number is made of integers, correctly rounded operations and explicit fused multiply-adds, so that compilers cannot differ. */
#include "planted.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const moods[16] = {"calm", "quiet", "small", "little", "big",    "large",   "quick", "fast",
                                      "old",  "aged",  "cold",  "icy",    "bright", "shining", "sad",   "gloomy"};
static const char *const colours[16] = {"amber", "azure", "black", "blue",   "brown",  "copper", "crimson", "gold",
                                        "green", "grey",  "ivory", "orange", "purple", "red",    "silver",  "white"};
static const char *const things[16] = {"bell",   "boat",  "bridge", "candle", "cloud", "door", "forest", "fox",
                                       "garden", "house", "island", "lamp",   "moon",  "owl",  "river",  "stone"};

void planted_name(char *out, int32_t out_bytes, int32_t feature)
{
    snprintf(out, (size_t)out_bytes, "%s %s %s", moods[feature & 15], colours[feature >> 4 & 15], things[feature >> 8 & 15]);
}

int32_t planted_twin(int32_t feature)
{
    return feature ^ 1;
}

/* splitmix64 */
static uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* An integer that is close to normally distributed, standard deviation 209: the sum of eight bytes, centred. */
static int32_t bell(uint64_t *state)
{
    int32_t sum = -4 * 255;
    for (uint64_t bits = next(state), i = 0; i < 8; i++, bits >>= 8)
        sum += (int32_t)(bits & 255);
    return sum;
}

/* A unit vector from integers; the sum of squares is exact. */
static void unit(float *out, const int32_t *v)
{
    double square = 0.0;
    for (int k = 0; k < D_IN; k++)
        square += (double)((int64_t)v[k] * v[k]);
    const double length = sqrt(square);
    for (int k = 0; k < D_IN; k++)
        out[k] = (float)((double)v[k] / length);
}

static double dot(const float *a, const float *b)
{
    double sum = 0.0;
    for (int k = 0; k < D_IN; k++)
        sum = fma((double)a[k], (double)b[k], sum);
    return sum;
}

/* The encoder column of a direction whose twin it must not hear: what is left of it beside the twin, so that it reads 1 on its own
 * direction and 0 on the other. */
static void listen(planted *p, int32_t feature)
{
    const float *own = p->w_dec[feature], *other = p->w_dec[planted_twin(feature)];
    const double c = dot(own, other), scale = fma(-c, c, 1.0);
    for (int k = 0; k < D_IN; k++)
        p->w_enc[k][feature] = (float)(fma(-c, (double)other[k], (double)own[k]) / scale);
}

static void grow_features(planted *p, uint64_t *state)
{
    int32_t a[D_IN], b[D_IN];
    for (int32_t i = 0; i < D_SAE; i += 2) {
        for (int k = 0; k < D_IN; k++) {
            a[k] = bell(state);
            b[k] = 4 * a[k] + 7 * bell(state); /* cosine 4 / sqrt(4 * 4 + 7 * 7) */
        }
        unit(p->w_dec[i], a);
        unit(p->w_dec[i + 1], b);
        listen(p, i);
        listen(p, i + 1);
    }
    for (int32_t i = 0; i < D_SAE; i++)
        p->threshold[i] = PLANTED_THRESHOLD;
    for (int k = 0; k < D_IN; k++)
        p->b_dec[k] = (float)bell(state) / 512.0f;
}

static bool is_in(const int32_t *list, int n, int32_t feature)
{
    for (int i = 0; i < n; i++)
        if (list[i] == feature)
            return true;
    return false;
}

static void choose(int32_t *features, uint64_t *state)
{
    for (int n = 0; n < N_ACTIVE;) {
        const int32_t f = (int32_t)(next(state) % D_SAE);
        if (is_in(features, n, f))
            continue;
        int at = n++;
        for (; at > 0 && features[at - 1] > f; at--)
            features[at] = features[at - 1];
        features[at] = f;
    }
}

static void grow_row(planted *p, int row, uint64_t *state)
{
    float *x = p->x[row];
    choose(p->feature[row], state);
    memcpy(x, p->b_dec, sizeof p->b_dec);
    for (int i = 0; i < N_ACTIVE; i++) {
        p->strength[row][i] = (float)(600 + next(state) % 601) / 100.0f;
        for (int k = 0; k < D_IN; k++)
            x[k] = fmaf(p->strength[row][i], p->w_dec[p->feature[row][i]][k], x[k]);
    }
    for (int k = 0; k < D_IN; k++) /* noise of standard deviation 0.1 */
        x[k] += (float)bell(state) / 2048.0f;
}

void planted_grow(planted *p, uint64_t seed)
{
    uint64_t state = seed;
    grow_features(p, &state);
    for (int row = 0; row < N_ROWS; row++)
        grow_row(p, row, &state);
}

float planted_strength(const planted *p, int32_t row, int32_t feature)
{
    for (int i = 0; i < N_ACTIVE; i++)
        if (p->feature[row][i] == feature)
            return p->strength[row][i];
    return 0.0f;
}
