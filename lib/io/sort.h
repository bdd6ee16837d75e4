/* Sorting without recursion, allocation or a quadratic worst case: names and offsets come from strangers. */
#ifndef SAEI_SORT_H
#define SAEI_SORT_H

#include "base/base.h"

/* Negative, 0 or positive as item a stands before, with or behind item b. */
typedef int (*saei_order)(const void *arg, uint32_t a, uint32_t b);

void saei_sort(uint32_t *ids, size_t n, saei_order order, const void *arg);

#endif
