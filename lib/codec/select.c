/* Which codes of a row stay where features compete. */
#include <math.h>
#include <string.h>

#include "codec/codec.h"

static void swap(float *a, float *b)
{
    const float t = *a;
    *a = *b;
    *b = t;
}

static float median3(float a, float b, float c)
{
    const float lo = a < b ? a : b, hi = a < b ? b : a;
    return c < lo ? lo : c > hi ? hi : c;
}

/* Quickselect with a three-way split, so that many equal values cost one pass. Values are finite. */
float saei_kth_largest(float *v, size_t n, size_t k)
{
    size_t lo = 0, hi = n;
    for (;;) {
        const float pivot = median3(v[lo], v[lo + (hi - lo) / 2], v[hi - 1]);
        size_t above = lo, at = lo, below = hi; /* lo..above > pivot, above..at == pivot, below..hi < pivot */
        while (at < below) {
            if (v[at] > pivot)
                swap(v + above++, v + at++);
            else if (v[at] < pivot)
                swap(v + at, v + --below);
            else
                at++;
        }
        if (k - 1 < above)
            hi = above;
        else if (k - 1 < below)
            return pivot;
        else
            lo = below;
    }
}

float saei_floor_of(float *v, size_t n, size_t k)
{
    float kth = n < k ? 0.0f : saei_kth_largest(v, n, k);
    uint32_t bits;
    if (!(kth > 0.0f))
        return 0.0f;
    memcpy(&bits, &kth, sizeof bits);
    bits--;
    memcpy(&kth, &bits, sizeof kth);
    return kth;
}

bool saei_selects(const sae_model *model)
{
    const sae_arch arch = model->parts.arch;
    return arch == SAE_TOPK || arch == SAE_ABSTOPK || arch == SAE_GROUPMAX || arch == SAE_MATCHING_PURSUIT || arch == SAE_TEMPORAL;
}

static float key_of(float value, bool by_size)
{
    return by_size ? fabsf(value) : value;
}

/* Keeps the k largest of a row (by their size if so), ties by lower index, in ascending order of index. */
static size_t select_topk(int32_t *idx, float *val, size_t m, size_t k, bool by_size, float *pick)
{
    if (m <= k)
        return m;
    for (size_t i = 0; i < m; i++)
        pick[i] = key_of(val[i], by_size);
    const float kth = saei_kth_largest(pick, m, k);
    size_t above = 0, kept = 0;
    for (size_t i = 0; i < m; i++)
        above += key_of(val[i], by_size) > kth;
    size_t ties = k - above;
    for (size_t i = 0; i < m; i++) {
        const float key = key_of(val[i], by_size);
        if (key < kth || (key == kth && ties == 0))
            continue;
        ties -= key == kth;
        idx[kept] = idx[i];
        val[kept++] = val[i];
    }
    return kept;
}

/* Keeps the largest of each group of neighbours, ties by lower index. */
static size_t select_groupmax(int32_t *idx, float *val, size_t m, int32_t size)
{
    size_t kept = 0;
    for (size_t i = 0; i < m; i++) {
        if (kept && idx[kept - 1] / size == idx[i] / size) {
            if (!(val[i] > val[kept - 1]))
                continue;
            kept--;
        }
        idx[kept] = idx[i];
        val[kept++] = val[i];
    }
    return kept;
}

/* An h of 0 may be among the k largest, but it is no code. */
static size_t drop_zeros(int32_t *idx, float *val, size_t m)
{
    size_t kept = 0;
    for (size_t i = 0; i < m; i++) {
        if (val[i] == 0.0f)
            continue;
        idx[kept] = idx[i];
        val[kept++] = val[i];
    }
    return kept;
}

size_t saei_select(const sae_model *model, int32_t *idx, float *val, size_t m, float *pick)
{
    const saei_parts *p = &model->parts;
    if (p->arch == SAE_GROUPMAX)
        m = select_groupmax(idx, val, m, p->d_sae / p->k);
    else if (p->k)
        m = select_topk(idx, val, m, (size_t)p->k, p->arch == SAE_ABSTOPK, pick);
    if (model->act.keeps_negative)
        m = drop_zeros(idx, val, m);
    if (p->returns_unscaled)
        for (size_t i = 0; i < m; i++)
            val[i] /= model->act.key_scale[idx[i]];
    return m;
}
