#include "codec/floors.h"

#include <string.h>

#include "codec/codec.h"

size_t saei_floors_layout(saei_floors *f, const sae_model *model, size_t max_rows, unsigned char *block)
{
    const saei_parts *p = &model->parts;
    const bool competes = saei_selects(model), grouped = p->arch == SAE_GROUPMAX;
    const size_t groups = !competes ? 0 : grouped ? (size_t)p->k : 1, k = grouped ? 1 : (size_t)p->k;
    const size_t room = k > 1 && competes ? k + k / 4 + 16 : 0; /* a quarter more before the k-th largest is looked for again */
    const size_t workers = model->env->host.max_workers;
    size_t lists, total = 0;
    if (!saei_mul(&lists, workers * max_rows, room))
        return SIZE_MAX;
    const size_t floor = saei_reserve(&total, max_rows * groups, sizeof(uint32_t));
    const size_t best = saei_reserve(&total, lists, sizeof(float)), n = saei_reserve(&total, workers * max_rows, sizeof(int32_t));
    if (block)
        *f = (saei_floors){.groups = groups,
                           .size = groups ? (size_t)p->d_sae / groups : 0,
                           .k = k,
                           .room = room,
                           .max_rows = max_rows,
                           .workers = workers,
                           .floor = (_Atomic(uint32_t) *)(void *)(block + floor),
                           .best = (float *)(void *)(block + best),
                           .n = (int32_t *)(void *)(block + n)};
    return total;
}

void saei_floors_clear(const saei_floors *f, size_t n)
{
    for (size_t i = 0; i < n * f->groups; i++)
        atomic_store_explicit(f->floor + i, 0, memory_order_relaxed);
    for (size_t w = 0; w < f->workers; w++)
        memset(f->n + w * f->max_rows, 0, n * sizeof *f->n);
}

size_t saei_floors_span(const saei_floors *f, size_t feature, size_t n)
{
    return f->groups ? saei_min(n, f->size - feature % f->size) : n;
}

static _Atomic(uint32_t) *floor_of(const saei_floors *f, size_t r, size_t feature)
{
    return f->floor + r * f->groups + feature / f->size;
}

float saei_floor_at(const _Atomic(uint32_t) *floor)
{
    const uint32_t bits = atomic_load_explicit(floor, memory_order_relaxed);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float saei_floor(const saei_floors *f, size_t r, size_t feature)
{
    return f->groups ? saei_floor_at(floor_of(f, r, feature)) : 0.0f;
}

/* Floats of 0 and more order like their bits. */
void saei_raise_to(_Atomic(uint32_t) *floor, float to)
{
    uint32_t bits, seen = atomic_load_explicit(floor, memory_order_relaxed);
    memcpy(&bits, &to, sizeof bits);
    while (bits > seen && !atomic_compare_exchange_weak_explicit(floor, &seen, bits, memory_order_relaxed, memory_order_relaxed))
        continue;
}

void saei_floor_raise(const saei_floors *f, uint32_t worker, size_t r, size_t feature, float low)
{
    const float floor = saei_floor(f, r, feature);
    if (!(low > floor)) /* a NaN neither */
        return;
    if (!f->room) {
        saei_raise_to(floor_of(f, r, feature), low);
        return;
    }
    const size_t list = worker * f->max_rows + r;
    float *best = f->best + list * f->room;
    size_t n = (size_t)f->n[list];
    best[n++] = low;
    if (n == f->room || (n == f->k && floor == 0.0f)) {
        saei_raise_to(floor_of(f, r, feature), saei_kth_largest(best, n, f->k));
        n = f->k; /* they come first now */
    }
    f->n[list] = (int32_t)n;
}

void saei_floor_begin(const saei_floors *f, size_t r, float to)
{
    if (to > 0.0f)
        saei_raise_to(floor_of(f, r, 0), to);
}

void saei_floors_settle(const saei_floors *f, size_t r, float *pick, size_t n)
{
    size_t have = 0;
    for (size_t w = 0; w < f->workers; w++) {
        const size_t list = w * f->max_rows + r, m = (size_t)f->n[list];
        if (m > n - have)
            break;
        memcpy(pick + have, f->best + list * f->room, m * sizeof *pick);
        have += m;
    }
    if (have >= f->k)
        saei_raise_to(floor_of(f, r, 0), saei_kth_largest(pick, have, f->k));
}

bool saei_floors_hold(const saei_floors *f, size_t r, const int32_t *idx, const float *val, size_t m)
{
    bool hold = true;
    size_t i = 0;
    for (size_t group = 0; group < f->groups; group++) {
        const size_t end = (group + 1) * f->size;
        const float floor = saei_floor(f, r, group * f->size);
        size_t reach = 0;
        for (; i < m && (size_t)idx[i] < end; i++)
            reach += val[i] >= floor;
        hold &= floor == 0.0f || reach >= f->k;
    }
    return hold;
}
