/* The encode of a block of rows: tiles of features are independent tasks, each leaves its codes in its own stretch of the row. */
#include <math.h>
#include <string.h>

#include "codec/codec.h"

/* Lays the scratch out; with block == NULL only the size is wanted. */
static size_t layout(saei_work *w, const sae_model *model, size_t rows, unsigned char *block)
{
    const size_t d = (size_t)model->parts.d_in, n = (size_t)model->parts.d_sae, workers = model->env->host.max_workers,
                 tiles = model->n_tiles, rounded = (rows + SAEI_ROWS - 1) / SAEI_ROWS * SAEI_ROWS;
    const bool pursues = model->parts.arch == SAE_MATCHING_PURSUIT,
               picks = model->parts.k > 0 && model->parts.arch != SAE_GROUPMAX && !pursues;
    const size_t packed_d = model->packed_d > d ? model->packed_d : d; /* a skip packs raw rows there */
    size_t per_row, per_packed, codes, total = 0;
    if (!saei_mul(&per_row, rounded, d) || !saei_mul(&per_packed, rounded, packed_d) || !saei_mul(&codes, rows, n))
        return SIZE_MAX;
    const size_t xc = saei_reserve(&total, per_row, sizeof(float)), packed = saei_reserve(&total, per_packed, sizeof(float));
    const size_t scale = saei_reserve(&total, rows, sizeof(float)), shift = saei_reserve(&total, rows, sizeof(float));
    const size_t c = saei_reserve(&total, workers * saei_dots_c_floats(), sizeof(float));
    const size_t widest = model->parts.arch == SAE_TEMPORAL && n > d ? n : d; /* of a product */
    const size_t pack = saei_reserve(&total, workers * saei_dots_pack_floats(widest), sizeof(float));
    const size_t pick = saei_reserve(&total, picks ? workers * n : 0, sizeof(float));
    const size_t count = saei_reserve(&total, rows * tiles, sizeof(int32_t)), bad = saei_reserve(&total, rows * tiles, sizeof(size_t));
    const size_t counts = saei_reserve(&total, rows, sizeof(int32_t)), floors = saei_reserve(&total, rows, sizeof(uint32_t));
    const size_t best = saei_reserve(&total, pursues ? rows * tiles + d : 0, sizeof(float));
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
                     .pick = picks ? (float *)(void *)(block + pick) : NULL,
                     .idx = (int32_t *)(void *)(block + idx),
                     .val = (float *)(void *)(block + val),
                     .count = (int32_t *)(void *)(block + count),
                     .bad = (size_t *)(void *)(block + bad),
                     .n = (int32_t *)(void *)(block + counts),
                     .floor = (_Atomic(uint32_t) *)(void *)(block + floors),
                     .best = pursues ? (float *)(void *)(block + best) : NULL};
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

saei_xrows saei_work_rows(const saei_work *work, const sae_model *model, uint32_t block, size_t n)
{
    const size_t rounded = (work->max_rows + SAEI_ROWS - 1) / SAEI_ROWS * SAEI_ROWS;
    return (saei_xrows){work->xc + model->parts.enc[block].in_first, (size_t)model->parts.d_in,
                        work->packed + rounded * model->places[block].packed, n};
}

saei_tile saei_tile_of(const sae_model *model, uint32_t tile)
{
    uint32_t lo = 0, hi = model->parts.n_enc;
    while (hi - lo > 1) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (model->places[mid].tile <= tile)
            lo = mid;
        else
            hi = mid;
    }
    const saei_block *b = model->parts.enc + lo;
    const size_t first = (size_t)(tile - model->places[lo].tile) * SAEI_TILE, n = (size_t)b->w.m.n;
    return (saei_tile){lo, (size_t)b->first + first, (size_t)b->first + (n - first < SAEI_TILE ? n : first + SAEI_TILE)};
}

typedef struct encode_job {
    const sae_model *model;
    saei_work *work;
    saei_xrows x;       /* of a model of one block, where they are not the work's own */
    const int32_t *map; /* row r is the work's row map[r]; NULL = r */
    size_t n;
} encode_job;

static size_t row_of(const encode_job *j, size_t r)
{
    return j->map ? (size_t)j->map[r] : r;
}

/* What values must exceed: more than 0, or anything where negative codes are kept, until k of them are known. */
static float floor_of(const encode_job *j, size_t r)
{
    const float value = saei_floor_at(j->work->floor + r);
    return value == 0.0f && j->model->act.keeps_negative ? -INFINITY : value;
}

/* More codes of a row are known. Any order of updates gives the same selection. */
static void raise_floor(encode_job *j, size_t r, const float *val, size_t m, float *pick)
{
    const size_t k = (size_t)j->model->parts.k;
    if (!k || m < k || (j->model->parts.arch != SAE_TOPK && j->model->parts.arch != SAE_TEMPORAL))
        return;
    memcpy(pick, val, m * sizeof *val);
    saei_raise_to(j->work->floor + r, saei_floor_of(pick, m, k));
}

/* The codes of nj features, from feature j0 on, whose dots are in c. */
static void take_codes(encode_job *j, const saei_tile *t, uint32_t tile, const float *c, size_t step, size_t j0, size_t nj, float *pick)
{
    saei_work *w = j->work;
    const size_t n = (size_t)j->model->parts.d_sae, tiles = j->model->n_tiles;
    for (size_t i = 0; i < j->n; i++) {
        const size_t r = row_of(j, i);
        int32_t *count = w->count + r * tiles + tile;
        const size_t at = r * n + t->first, have = (size_t)*count;
        const size_t more = j->model->env->kernels->activate(w->idx + at + have, w->val + at + have, c + i * step, nj, j0, &j->model->act,
                                                             floor_of(j, r), w->bad + r * tiles + tile);
        *count += (int32_t)more;
        if (more)
            raise_floor(j, r, w->val + at, have + more, pick);
    }
}

static void encode_task(void *job, uint32_t tile, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    encode_job *j = job;
    saei_work *w = j->work;
    const saei_tile t = saei_tile_of(j->model, tile);
    const saei_dense dense = saei_model_encoder(j->model, t.block);
    const saei_xrows x = j->map ? j->x : saei_work_rows(w, j->model, t.block, j->n);
    const size_t d = (size_t)j->model->parts.d_in, n = (size_t)j->model->parts.d_sae, tiles = j->model->n_tiles;
    const size_t step = saei_dots_step(&dense, j->n), block_first = (size_t)j->model->parts.enc[t.block].first;
    float *c = w->c + worker * saei_dots_c_floats(), *pack = w->pack + worker * saei_dots_pack_floats(d);
    for (size_t i = 0; i < j->n; i++) {
        w->count[row_of(j, i) * tiles + tile] = 0;
        w->bad[row_of(j, i) * tiles + tile] = 0;
    }
    for (size_t j0 = t.first; j0 < t.end; j0 += step) {
        const size_t nj = t.end - j0 < step ? t.end - j0 : step;
        saei_dots(j->model->env->kernels, &dense, c, j0 - block_first, nj, &x, pack);
        take_codes(j, &t, tile, c, step, j0, nj, w->pick ? w->pick + worker * n : NULL);
    }
    saei_fp_leave(mode);
}

/* Moves the stretches of a row together; returns how many codes there are. */
static size_t join_tiles(saei_work *w, const sae_model *model, size_t r, int64_t *bad)
{
    const size_t n = (size_t)model->parts.d_sae, tiles = model->n_tiles;
    int32_t *idx = w->idx + r * n;
    float *val = w->val + r * n;
    size_t have = 0, t = 0;
    for (uint32_t b = 0; b < model->parts.n_enc; b++) {
        const size_t first = (size_t)model->parts.enc[b].first, features = (size_t)model->parts.enc[b].w.m.n;
        for (size_t at = 0; at < features; at += SAEI_TILE, t++) {
            const size_t m = (size_t)w->count[r * tiles + t];
            memmove(idx + have, idx + first + at, m * sizeof *idx);
            memmove(val + have, val + first + at, m * sizeof *val);
            have += m;
            *bad += (int64_t)w->bad[r * tiles + t];
        }
    }
    return have;
}

/* Rows where the products of each block will want them. */
static void pack_blocks(const saei_work *work, const sae_model *model, size_t n)
{
    for (uint32_t i = 0; i < model->parts.n_enc; i++) {
        if (i && model->places[i].packed == model->places[i - 1].packed)
            continue;
        const saei_dense dense = saei_model_encoder(model, i);
        const saei_xrows x = saei_work_rows(work, model, i, n);
        saei_dots_begin(model->env->kernels, &dense, &x);
    }
}

/* Encodes the rows of a job whose products have what they want. */
static sae_status encode(encode_job *j, int64_t *bad)
{
    saei_work *w = j->work;
    const size_t d_sae = (size_t)j->model->parts.d_sae;
    for (size_t i = 0; i < j->n; i++)
        atomic_store_explicit(w->floor + row_of(j, i), 0, memory_order_relaxed);
    if (saei_run(&j->model->env->host, j, encode_task, j->model->n_tiles))
        return SAE_E_HOST;
    for (size_t i = 0; i < j->n; i++) {
        const size_t r = row_of(j, i), m = join_tiles(w, j->model, r, bad);
        w->n[r] = (int32_t)saei_select(j->model, w->idx + r * d_sae, w->val + r * d_sae, m, w->pick);
    }
    return SAE_OK;
}

sae_status saei_work_encode(saei_work *work, const sae_model *model, size_t n, int64_t *bad)
{
    encode_job job = {.model = model, .work = work, .n = n};
    if (model->parts.arch == SAE_MATCHING_PURSUIT)
        return saei_work_pursue(work, model, n, bad);
    pack_blocks(work, model, n);
    return encode(&job, bad);
}

sae_status saei_work_encode_rows(saei_work *work, const sae_model *model, const float *x, const int32_t *map, size_t n, int64_t *bad)
{
    const saei_dense dense = saei_model_encoder(model, 0);
    encode_job job = {.model = model, .work = work, .x = saei_work_rows(work, model, 0, n), .map = map, .n = n};
    job.x.x = x;
    saei_dots_begin(model->env->kernels, &dense, &job.x);
    return encode(&job, bad);
}
