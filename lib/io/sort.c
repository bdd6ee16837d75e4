#include "io/sort.h"

/* Restores the heap below `root`: every parent stands behind its children. */
static void sift(uint32_t *ids, size_t root, size_t n, saei_order order, const void *arg)
{
    for (size_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && order(arg, ids[child], ids[child + 1]) < 0)
            child++;
        if (order(arg, ids[root], ids[child]) >= 0)
            return;
        const uint32_t swap = ids[root];
        ids[root] = ids[child];
        ids[child] = swap;
    }
}

void saei_sort(uint32_t *ids, size_t n, saei_order order, const void *arg)
{
    for (size_t root = n / 2; root-- > 0;)
        sift(ids, root, n, order, arg);
    for (size_t last = n; last-- > 1;) {
        const uint32_t swap = ids[0];
        ids[0] = ids[last];
        ids[last] = swap;
        sift(ids, 0, last, order, arg);
    }
}
