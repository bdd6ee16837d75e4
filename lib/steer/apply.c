#include <math.h>
#include <string.h>

#include "steer/plan.h"

/* Scratch of one apply call, laid out in the caller's block. */
typedef struct scratch {
    float *x;                     /* [SAEI_STEER_ROWS][d] the rows as f32 */
    float *xc;                    /* [SAEI_STEER_ROWS][d] normalised for the model at hand */
    float *delta;                 /* [d] */
    float *dots;                  /* [SAEI_STEER_ROWS][max_lanes] */
    float *codes;                 /* [max_lanes] of a row */
    float *z;                     /* [SAEI_STEER_ROWS][max_edits] what each edit reads */
    float *scale;                 /* [SAEI_STEER_ROWS][max_edits] un-normaliser of each edit's model */
    float *coef;                  /* [max_edits] */
    int32_t *ids;                 /* [max_edits] */
    unsigned char *work;          /* the encode of a model whose features compete */
    int64_t row[SAEI_STEER_ROWS]; /* which rows these are */
} scratch;

static size_t work_bytes(const sae_plan *p)
{
    size_t most = 0;
    for (int32_t g = 0; g < p->n_groups; g++) {
        const sae_model *model = p->groups[g].model;
        if (!model || !saei_selects(model) || !p->groups[g].lanes.n)
            continue;
        const size_t bytes = saei_work_bytes(model, SAEI_STEER_ROWS);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static size_t layout(scratch *s, const sae_plan *p, void *block)
{
    const size_t d = (size_t)p->d, edits = (size_t)p->max_edits, rows = SAEI_STEER_ROWS;
    size_t total = 0;
    const size_t x = saei_reserve(&total, rows * d, sizeof(float)), xc = saei_reserve(&total, rows * d, sizeof(float));
    const size_t delta = saei_reserve(&total, d, sizeof(float)), dots = saei_reserve(&total, rows * (size_t)p->max_lanes, sizeof(float));
    const size_t codes = saei_reserve(&total, (size_t)p->max_lanes, sizeof(float));
    const size_t z = saei_reserve(&total, rows * edits, sizeof(float)), scale = saei_reserve(&total, rows * edits, sizeof(float));
    const size_t coef = saei_reserve(&total, edits, sizeof(float)), ids = saei_reserve(&total, edits, sizeof(int32_t));
    const size_t work = saei_reserve(&total, 1, work_bytes(p));
    if (block) {
        unsigned char *at = (unsigned char *)block + (-(uintptr_t)block & 63);
        s->x = (float *)(void *)(at + x);
        s->xc = (float *)(void *)(at + xc);
        s->delta = (float *)(void *)(at + delta);
        s->dots = (float *)(void *)(at + dots);
        s->codes = (float *)(void *)(at + codes);
        s->z = (float *)(void *)(at + z);
        s->scale = (float *)(void *)(at + scale);
        s->coef = (float *)(void *)(at + coef);
        s->ids = (int32_t *)(void *)(at + ids);
        s->work = at + work;
    }
    return total > SIZE_MAX - 64 ? SIZE_MAX : total + 64;
}

size_t sae_plan_scratch_bytes(const sae_plan *plan)
{
    scratch unused;
    return plan ? layout(&unused, plan, NULL) : 0;
}

static void keep(const sae_plan *p, scratch *s, const saei_slot *slot, int32_t group, size_t r, const float *codes, float scale)
{
    for (int32_t i = 0; i < slot->n_edits; i++) {
        const saei_edit *e = p->edits + slot->first_edit + i;
        if (e->group != group)
            continue;
        s->scale[r * (size_t)p->max_edits + (size_t)i] = scale;
        s->z[r * (size_t)p->max_edits + (size_t)i] = e->lane >= 0 ? codes[e->lane] : 0.0f;
    }
}

/* Codes of a model whose features compete: the others decide, so each row x is encoded in full. */
static sae_status read_full(const sae_plan *p, scratch *s, const saei_slot *slot, int32_t g, const float *x, size_t n, const float *scales)
{
    const saei_group *group = p->groups + g;
    const size_t d = (size_t)p->d;
    saei_work work;
    int64_t bad = 0;
    saei_work_init(&work, group->model, SAEI_STEER_ROWS, s->work);
    memcpy(work.xc, x, n * d * sizeof(float));
    if (saei_work_encode(&work, group->model, n, &bad))
        return SAE_E_HOST;
    for (size_t r = 0; r < n; r++) {
        for (size_t i = 0; i < group->lanes.n; i++)
            s->codes[i] = saei_work_find(&work, group->model, r, group->lanes.features[i]);
        keep(p, s, slot, g, r, s->codes, scales[r]);
    }
    return SAE_OK;
}

/* What the edits of one group read of n rows. */
static sae_status read_group(const sae_plan *p, scratch *s, const saei_slot *slot, int32_t g, size_t n)
{
    const saei_group *group = p->groups + g;
    const size_t d = (size_t)p->d, lanes = group->lanes.groups * SAEI_LANES;
    float scales[SAEI_STEER_ROWS], shift;
    const bool as_is = !group->model || saei_takes_rows_as_they_are(group->model);
    const float *x = as_is ? s->x : s->xc;
    int64_t bad = 0;
    for (size_t r = 0; r < n; r++) {
        scales[r] = 1.0f;
        if (!as_is)
            saei_normalise(group->model, s->xc + r * d, s->x + r * d, scales + r, &shift);
    }
    if (group->model && saei_selects(group->model) && group->lanes.n)
        return read_full(p, s, slot, g, x, n, scales);
    if (group->lanes.n)
        saei_lanes_dots(&group->lanes, p->env->kernels, s->dots, lanes, x, d, n);
    for (size_t r = 0; r < n; r++) {
        const float *dots = s->dots + r * lanes;
        for (size_t i = 0; i < group->lanes.n; i++) {
            const float dot = dots[group->lanes.column[i]];
            s->codes[i] = group->model ? saei_code(&group->lanes.act, i, dot, &bad) : dot;
        }
        keep(p, s, slot, g, r, s->codes, scales[r]);
    }
    return SAE_OK;
}

/* How far the edit moves the row along its direction. */
static float coefficient(const saei_edit *e, float z, float scale)
{
    if (e->op == SAE_ADD)
        return e->per_length ? e->value : e->value * scale;
    const float c = e->per_length ? e->value / scale : e->value;
    const float to = e->op == SAE_SET     ? c
                     : e->op == SAE_SCALE ? e->value * z
                     : e->op == SAE_MIN   ? (z > c ? z : c)
                     : e->op == SAE_MAX   ? (z < c ? z : c)
                                          : 0.0f;
    return (to - z) * scale;
}

/* x' = x + delta, delta = the chain over the edits that move; a row that none moves is not written. */
static void move_row(const sae_plan *p, scratch *s, const saei_slot *slot, const saei_rows *rows, size_t r)
{
    const size_t d = (size_t)p->d;
    const saei_matrix directions = {p->directions + (size_t)slot->first_edit * d, SAE_F32, false, slot->n_edits, p->d};
    const saei_kernels *k = p->env->kernels;
    float *x = s->x + r * d;
    size_t n = 0;
    for (int32_t i = 0; i < slot->n_edits; i++) {
        const size_t at = r * (size_t)p->max_edits + (size_t)i;
        const saei_edit *e = p->edits + slot->first_edit + i;
        const float coef = coefficient(e, e->group >= 0 ? s->z[at] : 0.0f, e->group >= 0 ? s->scale[at] : 1.0f);
        if (coef == 0.0f || !isfinite(coef))
            continue;
        s->coef[n] = coef;
        s->ids[n++] = i;
    }
    if (!n)
        return;
    k->combine(s->delta, NULL, &directions, s->ids, s->coef, n);
    float *to = rows->dtype == SAE_F32 ? (float *)saei_rows_at(rows, s->row[r]) : x; /* any alignment: only kernels touch it */
    saei_add_row(k, to, x, 1.0f, s->delta, SAE_F32, d);
    if (to == x)
        k->narrow(saei_rows_at(rows, s->row[r]), x, rows->dtype, d);
}

/* n rows of one slot, named by s->row. */
static sae_status steer_rows(const sae_plan *p, scratch *s, int32_t slot_index, const saei_rows *rows, size_t n)
{
    const saei_slot *slot = p->slots + slot_index;
    sae_status status = SAE_OK;
    if (!slot->n_edits)
        return SAE_OK;
    for (size_t r = 0; r < n; r++)
        p->env->kernels->widen(s->x + r * (size_t)p->d, saei_rows_at(rows, s->row[r]), rows->dtype, (size_t)p->d);
    for (int32_t g = slot->first_group; g < slot->first_group + slot->n_groups && !status; g++)
        status = read_group(p, s, slot, g, n);
    for (size_t r = 0; r < n && !status; r++)
        move_row(p, s, slot, rows, r);
    return status;
}

static int32_t slot_of(const saei_rows *rows, int64_t r)
{
    return rows->slot ? rows->slot[r] : 0;
}

/* Rows first .. first+n-1 (n <= 64), up to SAEI_STEER_ROWS of the same slot at a time. */
static sae_status steer_block(const sae_plan *p, scratch *s, const saei_rows *rows, int64_t first, int32_t n)
{
    uint64_t done = 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t slot = slot_of(rows, first + i);
        size_t m = 0;
        if (slot < 0 || done >> i & 1)
            continue;
        for (int32_t j = i; j < n && m < SAEI_STEER_ROWS; j++)
            if (!(done >> j & 1) && slot_of(rows, first + j) == slot) {
                done |= (uint64_t)1 << j;
                s->row[m++] = first + j;
            }
        const sae_status status = steer_rows(p, s, slot, rows, m);
        if (status)
            return status;
    }
    return SAE_OK;
}

static sae_status check_slots(const sae_plan *p, const saei_rows *rows, sae_error *err)
{
    for (int64_t r = 0; rows->slot && r < rows->n; r++)
        if (rows->slot[r] < -1 || rows->slot[r] >= p->n_slots)
            return saei_fail(err, SAE_E_ARG, "row %lld has slot %d, the plan has slots 0 .. %d (-1 = untouched)", (long long)r,
                             (int)rows->slot[r], (int)p->n_slots - 1);
    return SAE_OK;
}

sae_status sae_plan_apply(const sae_plan *plan, const sae_rows *rows, void *block, size_t block_bytes, sae_error *err)
{
    enum { BLOCK = 64 };
    saei_rows r;
    scratch s;
    if (!plan)
        return saei_fail(err, SAE_E_ARG, "sae_plan_apply: plan is NULL");
    sae_status status = saei_rows_read(&r, rows, plan->d, true, err);
    if (status || (status = check_slots(plan, &r, err)))
        return status;
    const size_t need = sae_plan_scratch_bytes(plan);
    if (!block)
        return saei_fail(err, SAE_E_ARG, "sae_plan_apply: scratch is NULL, the plan needs %zu bytes", need);
    if (block_bytes < need)
        return saei_fail(err, SAE_E_CAPACITY, "the scratch has %zu bytes, the plan needs %zu", block_bytes, need);
    layout(&s, plan, block);
    const saei_fpmode mode = saei_fp_enter();
    for (int64_t first = 0; first < r.n && !status; first += BLOCK)
        status = steer_block(plan, &s, &r, first, r.n - first < BLOCK ? (int32_t)(r.n - first) : BLOCK);
    saei_fp_leave(mode);
    if (status)
        return saei_fail(err, status, "the host's parallel-for failed while all codes of a row were computed, as a top-k needs");
    return saei_ok(err);
}
