#include "collect.h"

#include <stdlib.h>
#include <string.h>

collector collect_start(int32_t d_sae, int32_t n_vocab, int32_t most, int32_t context, bool habits)
{
    collector c = {.d_sae = d_sae, .n_vocab = n_vocab, .most = most, .context = context, .width = 2 * context + 1};
    size_t n = (size_t)d_sae, sights = n * (size_t)most;
    c.active = take_zeros(n, sizeof *c.active);
    c.sum = take_zeros(n, sizeof *c.sum);
    c.max = take_zeros(n, sizeof *c.max);
    c.n_sights = take_zeros(n, sizeof *c.n_sights);
    c.sights = take_zeros(sights, sizeof *c.sights);
    c.tokens = take_zeros(sights, (size_t)c.width * sizeof *c.tokens);
    c.activations = take_zeros(sights, (size_t)c.width * sizeof *c.activations);
    c.habits = habits ? take_zeros(n * HABITS, sizeof *c.habits) : NULL;
    c.seen = take_zeros((size_t)n_vocab, sizeof *c.seen);
    return c;
}

void collect_free(collector *c)
{
    free(c->active);
    free(c->sum);
    free(c->max);
    free(c->n_sights);
    free(c->sights);
    free(c->tokens);
    free(c->activations);
    free(c->habits);
    free(c->seen);
}

/* ---- sights ---- */

/* Where a sight of this strength in this document would go: -1 = nowhere. A document has one sight of a feature, its strongest; otherwise
 * the weakest, of equal ones the latest, gives way. */
static int32_t place_for(const collector *c, int32_t feature, float value, int32_t document)
{
    const sight *s = c->sights + (size_t)feature * (size_t)c->most;
    int32_t n = c->n_sights[feature], weakest = 0;
    for (int32_t i = 0; i < n; i++) {
        if (s[i].document == document) {
            return value > s[i].value ? i : -1;
        }
        bool later = s[i].value == s[weakest].value && s[i].document > s[weakest].document;
        weakest = s[i].value < s[weakest].value || later ? i : weakest;
    }
    return n < c->most ? n : value > s[weakest].value ? weakest : -1;
}

/* The feature's activation in row `at`; indices ascend within a row. */
static float activation_at(const sae_codes *codes, int64_t at, int32_t feature)
{
    int64_t low = codes->indptr[at], high = codes->indptr[at + 1];
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (codes->indices[middle] < feature) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < codes->indptr[at + 1] && codes->indices[low] == feature ? codes->values[low] : 0.0f;
}

static void keep_sight(collector *c, int32_t feature, float value, const sae_codes *codes, const place *places, int64_t at, int64_t n)
{
    int32_t i = place_for(c, feature, value, places[at].document);
    if (i < 0) {
        return;
    }
    int64_t first = at, last = at;
    while (first > 0 && at - first < c->context && places[first - 1].document == places[at].document) {
        first--;
    }
    while (last + 1 < n && last - at < c->context && places[last + 1].document == places[at].document) {
        last++;
    }
    size_t slot = (size_t)feature * (size_t)c->most + (size_t)i;
    for (int64_t r = first; r <= last; r++) {
        c->tokens[slot * (size_t)c->width + (size_t)(r - first)] = places[r].token;
        c->activations[slot * (size_t)c->width + (size_t)(r - first)] = activation_at(codes, r, feature);
    }
    c->sights[slot] = (sight){value, places[at].document, places[at].position, (int32_t)(last - first + 1), (int32_t)(at - first)};
    c->n_sights[feature] += i == c->n_sights[feature];
}

int32_t collect_order(const collector *c, int32_t feature, int32_t *order)
{
    const sight *s = c->sights + (size_t)feature * (size_t)c->most;
    for (int32_t i = 0; i < c->n_sights[feature]; i++) { /* insertion: there are few */
        int32_t k = i;
        for (; k > 0; k--) {
            const sight *a = &s[order[k - 1]];
            if (a->value > s[i].value || (a->value == s[i].value && a->document < s[i].document)) {
                break;
            }
            order[k] = order[k - 1];
        }
        order[k] = i;
    }
    return c->n_sights[feature];
}

/* ---- habits ---- */

static void keep_habit(collector *c, int32_t feature, int32_t token, float value)
{
    habit *h = c->habits + (size_t)feature * HABITS, *weakest = h;
    for (int i = 0; i < HABITS && weakest->sum != 0.0f; i++) {
        if (h[i].token == token && h[i].sum != 0.0f) {
            h[i].sum += value;
            return;
        }
        weakest = h[i].sum < weakest->sum ? &h[i] : weakest;
    }
    *weakest = (habit){token, value};
}

static int by_sum(const void *a, const void *b)
{
    const habit *x = a, *y = b;
    return x->sum != y->sum ? (x->sum < y->sum) - (x->sum > y->sum) : (x->token > y->token) - (x->token < y->token);
}

int32_t collect_habits(const collector *c, int32_t feature, habit *out, int32_t n)
{
    habit means[HABITS];
    int32_t found = 0;
    for (int i = 0; i < HABITS; i++) {
        habit h = c->habits[(size_t)feature * HABITS + (size_t)i];
        if (h.sum > 0.0f) {
            means[found++] = (habit){h.token, h.sum / (float)(c->seen[h.token] + 1)};
        }
    }
    qsort(means, (size_t)found, sizeof *means, by_sum);
    found = found < n ? found : n;
    memcpy(out, means, (size_t)found * sizeof *out);
    return found;
}

/* ---- rows ---- */

void collect_row(collector *c, const sae_codes *codes, const place *places, int64_t at, int64_t n)
{
    c->rows++;
    c->seen[places[at].token]++;
    for (int64_t i = codes->indptr[at]; i < codes->indptr[at + 1]; i++) {
        int32_t feature = codes->indices[i];
        float value = codes->values[i];
        c->active[feature]++;
        c->sum[feature] += (double)value;
        c->max[feature] = c->active[feature] == 1 || value > c->max[feature] ? value : c->max[feature];
        keep_sight(c, feature, value, codes, places, at, n);
        if (c->habits != NULL) {
            keep_habit(c, feature, places[at].token, value);
        }
    }
}
