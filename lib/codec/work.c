/* The encode of a block of rows: tiles of features are independent tasks, each leaves its codes in its own stretch of the row. */
#include <string.h>

#include "codec/codec.h"

static size_t n_tiles(const sae_model *model)
{
    return ((size_t)model->parts.d_sae + SAEI_TILE - 1) / SAEI_TILE;
}

/* Lays the scratch out; with block == NULL only the size is wanted. */
static size_t layout(saei_work *w, const sae_model *model, size_t rows, unsigned char *block)
{
    const size_t d = (size_t)model->parts.d_in, n = (size_t)model->parts.d_sae, workers = model->env->host.max_workers,
                 tiles = n_tiles(model);
    const bool topk = model->parts.arch == SAE_TOPK;
    size_t per_row, codes, total = 0;
    if (!saei_mul(&per_row, (rows + SAEI_ROWS - 1) / SAEI_ROWS * SAEI_ROWS, d) || !saei_mul(&codes, rows, n))
        return SIZE_MAX;
    const size_t xc = saei_reserve(&total, per_row, sizeof(float)), packed = saei_reserve(&total, per_row, sizeof(float));
    const size_t scale = saei_reserve(&total, rows, sizeof(float)), shift = saei_reserve(&total, rows, sizeof(float));
    const size_t c = saei_reserve(&total, workers * saei_dots_c_floats(), sizeof(float));
    const size_t pack = saei_reserve(&total, workers * saei_dots_pack_floats(d), sizeof(float));
    const size_t pick = saei_reserve(&total, topk ? workers * n : 0, sizeof(float));
    const size_t count = saei_reserve(&total, rows * tiles, sizeof(int32_t)), bad = saei_reserve(&total, rows * tiles, sizeof(size_t));
    const size_t counts = saei_reserve(&total, rows, sizeof(int32_t)), floors = saei_reserve(&total, rows, sizeof(uint32_t));
    const size_t idx = saei_reserve(&total, codes, sizeof(int32_t)), val = saei_reserve(&total, codes, sizeof(float));
    if (!block || total == SIZE_MAX)
        return total;
    *w = (saei_work){.max_rows = rows,
                     .xc = (float *)(void *)(block + xc),
                     .packed = (float *)(void *)(block + packed),
                     .scale = (float *)(void *)(block + scale),
                     .shift = (float *)(void *)(block + shift),
                     .c = (float *)(void *)(block + c),
                     .pack = (float *)(void *)(block + pack),
                     .pick = topk ? (float *)(void *)(block + pick) : NULL,
                     .idx = (int32_t *)(void *)(block + idx),
                     .val = (float *)(void *)(block + val),
                     .count = (int32_t *)(void *)(block + count),
                     .bad = (size_t *)(void *)(block + bad),
                     .n = (int32_t *)(void *)(block + counts),
                     .floor = (_Atomic(uint32_t) *)(void *)(block + floors)};
    return total;
}

size_t saei_work_bytes(const sae_model *model, size_t max_rows)
{
    saei_work unused;
    return layout(&unused, model, max_rows, NULL);
}

void saei_work_init(saei_work *work, const sae_model *model, size_t max_rows, void *block)
{
    layout(work, model, max_rows, block);
}

void saei_work_load(saei_work *work, const sae_model *model, const saei_rows *rows, int64_t r0, size_t n)
{
    const size_t d = (size_t)model->parts.d_in;
    for (size_t r = 0; r < n; r++) {
        float *xc = work->xc + r * d;
        model->env->kernels->widen(xc, saei_rows_at(rows, r0 + (int64_t)r), rows->dtype, d);
        saei_normalise(model, xc, xc, work->scale + r, work->shift + r);
    }
}

typedef struct encode_job {
    const sae_model *model;
    saei_work *work;
    saei_dense w;
    saei_xrows x;
} encode_job;

static float floor_of(saei_work *work, size_t r)
{
    const uint32_t bits = atomic_load_explicit(work->floor + r, memory_order_relaxed);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* k codes of a row are known: nothing below the k-th largest of them can be selected. The floor is the float before it, so that
 * equal values, which the lower index decides, stay in. Any order of updates gives the same selection. Positive floats order like
 * their bits. */
static void raise_floor(encode_job *j, size_t r, const float *val, size_t m, float *pick)
{
    const size_t k = (size_t)j->model->parts.k;
    if (j->model->parts.arch != SAE_TOPK || m < k)
        return;
    memcpy(pick, val, m * sizeof *val);
    const float kth = saei_kth_largest(pick, m, k);
    uint32_t bits, seen = atomic_load_explicit(j->work->floor + r, memory_order_relaxed);
    memcpy(&bits, &kth, sizeof bits);
    bits--;
    while (bits > seen &&
           !atomic_compare_exchange_weak_explicit(j->work->floor + r, &seen, bits, memory_order_relaxed, memory_order_relaxed))
        continue;
}

static void encode_task(void *job, uint32_t tile, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    encode_job *j = job;
    saei_work *w = j->work;
    const saei_kernels *k = j->model->env->kernels;
    const size_t d = (size_t)j->model->parts.d_in, n = (size_t)j->model->parts.d_sae, tiles = n_tiles(j->model);
    const size_t first = (size_t)tile * SAEI_TILE, last = first + SAEI_TILE < n ? first + SAEI_TILE : n,
                 step = saei_dots_step(&j->w, j->x.n);
    float *c = w->c + worker * saei_dots_c_floats(), *pack = w->pack + worker * saei_dots_pack_floats(d);
    float *pick = w->pick ? w->pick + worker * n : NULL;
    for (size_t r = 0; r < j->x.n; r++) {
        w->count[r * tiles + tile] = 0;
        w->bad[r * tiles + tile] = 0;
    }
    for (size_t j0 = first; j0 < last; j0 += step) {
        const size_t nj = last - j0 < step ? last - j0 : step;
        saei_dots(k, &j->w, c, j0, nj, &j->x, pack);
        for (size_t r = 0; r < j->x.n; r++) {
            int32_t *count = w->count + r * tiles + tile;
            const size_t at = r * n + first, have = (size_t)*count;
            const size_t more = k->activate(w->idx + at + have, w->val + at + have, c + r * step, nj, j0, &j->model->act, floor_of(w, r),
                                            w->bad + r * tiles + tile);
            *count += (int32_t)more;
            if (more)
                raise_floor(j, r, w->val + at, have + more, pick);
        }
    }
    saei_fp_leave(mode);
}

/* Moves the stretches of a row together; returns how many codes there are. */
static size_t join_tiles(saei_work *w, const sae_model *model, size_t r, int64_t *bad)
{
    const size_t n = (size_t)model->parts.d_sae, tiles = n_tiles(model);
    int32_t *idx = w->idx + r * n;
    float *val = w->val + r * n;
    size_t have = 0;
    for (size_t t = 0; t < tiles; t++) {
        const size_t m = (size_t)w->count[r * tiles + t];
        memmove(idx + have, idx + t * SAEI_TILE, m * sizeof *idx);
        memmove(val + have, val + t * SAEI_TILE, m * sizeof *val);
        have += m;
        *bad += (int64_t)w->bad[r * tiles + t];
    }
    return have;
}

/* Keeps the k largest of a row, ties by lower index, in ascending order of index. */
static size_t select_topk(const saei_work *w, int32_t *idx, float *val, size_t m, size_t k)
{
    if (m <= k)
        return m;
    memcpy(w->pick, val, m * sizeof *val);
    const float kth = saei_kth_largest(w->pick, m, k);
    size_t above = 0, kept = 0;
    for (size_t i = 0; i < m; i++)
        above += val[i] > kth;
    size_t ties = k - above;
    for (size_t i = 0; i < m; i++) {
        if (val[i] < kth || (val[i] == kth && ties == 0))
            continue;
        ties -= val[i] == kth;
        idx[kept] = idx[i];
        val[kept++] = val[i];
    }
    return kept;
}

sae_status saei_work_encode(saei_work *work, const sae_model *model, size_t n, int64_t *bad)
{
    const size_t d = (size_t)model->parts.d_in, d_sae = (size_t)model->parts.d_sae;
    encode_job job = {model, work, saei_model_encoder(model), {work->xc, d, work->packed, n}};
    for (size_t r = 0; r < n; r++)
        atomic_store_explicit(work->floor + r, 0, memory_order_relaxed);
    saei_dots_begin(model->env->kernels, &job.w, &job.x);
    if (saei_run(&model->env->host, &job, encode_task, (uint32_t)n_tiles(model)))
        return SAE_E_HOST;
    for (size_t r = 0; r < n; r++) {
        size_t m = join_tiles(work, model, r, bad);
        if (model->parts.arch == SAE_TOPK)
            m = select_topk(work, work->idx + r * d_sae, work->val + r * d_sae, m, (size_t)model->parts.k);
        work->n[r] = (int32_t)m;
    }
    return SAE_OK;
}
