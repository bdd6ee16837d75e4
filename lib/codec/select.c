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
