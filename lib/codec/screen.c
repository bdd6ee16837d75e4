/* Encodes through the screen of model/screen.h: a pass over its bytes finds the features of each row that may be active, the candidates; their
 * exact dots make the codes, by the same functions as in a dense encode. Rows that the error terms do not hold for, and rows with so many
 * candidates that the dense products are faster, are encoded densely together. */
#include "codec/screen.h"

#include <math.h>
#include <string.h>

enum {
    STEP = 4 * SAEI_PANEL, /* features whose sums are taken at once: their weights stay in L2 while the rows pass */
    CHUNK = 64,            /* candidates per task */
    SEED_GROUPS = 4,       /* groups of bounds for each feature that is to be found among the largest */
    SMALL = 1 << 20,       /* weights of an encoder below which a dense encode is as fast */
    GATE_ROWS = 64,        /* rows whose mean share of candidates decides whether screening pays */
    GATE_PAUSE = 4096      /* rows encoded densely before screening is tried again */
};

size_t saei_screening_layout(saei_screening *s, const sae_model *model, size_t max_rows, unsigned char *block)
{
    const size_t d = (size_t)model->parts.d_in, workers = model->env->host.max_workers;
    const size_t groups = (max_rows + SAEI_PLANES - 1) / SAEI_PLANES;
    size_t total = 0;
    const size_t dense = saei_reserve(&total, max_rows * d, sizeof(float));
    const size_t planes = saei_reserve(&total, groups * ((d + 3) / 4), SAEI_PLANES * 4);
    const size_t spans = saei_reserve(&total, max_rows, sizeof(saei_span)),
                 sums = saei_reserve(&total, workers * SAEI_PLANES, STEP * sizeof(int32_t));
    const size_t map = saei_reserve(&total, max_rows, sizeof(int32_t)), counts = saei_reserve(&total, max_rows, sizeof(int32_t));
    if (!block || total == SIZE_MAX)
        return total;
    *s = (saei_screening){.dense = (float *)(void *)(block + dense),
                          .planes = (int8_t *)(block + planes),
                          .spans = (saei_span *)(void *)(block + spans),
                          .sums = (int32_t *)(void *)(block + sums),
                          .map = (int32_t *)(void *)(block + map),
                          .count = (int32_t *)(void *)(block + counts)};
    return total;
}

typedef struct screen_job {
    const sae_model *model;
    const saei_screen *screen;
    saei_work *work;
    const saei_screening *s;
    size_t n;
    bool two;      /* planes a row: few rows are read in 16 bits */
    size_t planes; /* of a group of rows */
    _Atomic(int64_t) bad;
} screen_job;

/* ---- rows in bytes ---- */

/* Squares and the largest of a row x and of x less the centre. */
typedef struct lengths {
    double x, z, largest;
} lengths;

static lengths lengths_of(const float *x, const float *centre, size_t d)
{
    double xs[4] = {0}, zs[4] = {0}, most[4] = {0};
    for (size_t k = 0; k < d; k++) {
        const double v = (double)x[k], z = centre ? v - (double)centre[k] : v;
        xs[k % 4] += v * v;
        zs[k % 4] += z * z;
        most[k % 4] = fabs(z) > most[k % 4] ? fabs(z) : most[k % 4];
    }
    const double a = most[0] > most[1] ? most[0] : most[1], b = most[2] > most[3] ? most[2] : most[3];
    return (lengths){sqrt(xs[0] + xs[1] + (xs[2] + xs[3])), sqrt(zs[0] + zs[1] + (zs[2] + zs[3])), a > b ? a : b};
}

/* Adding this and taking it away again rounds a small double to an integer, ties to even. */
#define ROUNDER 0x1.8p52

/* Writes the planes of a row, `step` bytes from one group of four to the next; returns ||x - centre - scale * planes||. */
static double write_planes(saei_span *span, int8_t *to, size_t step, const float *x, const float *centre, size_t d, bool two)
{
    const double scale = (double)span->scale, inverse = scale > 0.0 ? 1.0 / scale : 0.0, most = two ? 32639.0 : 127.0;
    double lost[4] = {0};
    for (size_t k = 0; k < d; k++) {
        const double z = centre ? (double)x[k] - (double)centre[k] : (double)x[k];
        double q = (z * inverse + ROUNDER) - ROUNDER;
        q = q > most ? most : q < -most ? -most : q;
        lost[k % 4] += (z - scale * q) * (z - scale * q);
        int8_t *at = to + k / 4 * step + k % 4;
        const int32_t i = (int32_t)q, high = two ? (i + 128) >> 8 : i, low = i - high * 256;
        at[0] = (int8_t)high;
        span->first_offset += 128 * high;
        if (two) {
            at[4] = (int8_t)low;
            span->second_offset += 128 * low;
        }
    }
    return sqrt(lost[0] + lost[1] + (lost[2] + lost[3]));
}

bool saei_screen_row(saei_span *span, int8_t *to, size_t step, const float *x, const saei_screen *screen, size_t d, bool two)
{
    const lengths l = lengths_of(x, screen->centre, d);
    *span = (saei_span){0};
    if (!(l.x <= 0x1p60) || (l.x > 0.0 && l.x < 0x1p-40) || !(l.z <= 0x1p60))
        return false;
    span->scale = (float)(l.largest / (two ? 32639.0 : 127.0));
    if (l.largest > 0.0 && !(span->scale >= 0x1p-60f))
        return false;
    const double lost = write_planes(span, to, step, x, screen->centre, d, two), u = 0x1p-24, m = (double)(d + 2);
    span->norm = saei_round_up(l.z * (1 + 0x1p-20));
    span->slack = saei_round_up((lost * (1 + 1e-9) + m * u / (1 - m * u) * l.x + 16 * u * l.z) * (1 + 0x1p-20));
    return true;
}

static void row_task(void *job, uint32_t r, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    const screen_job *j = job;
    const size_t d = (size_t)j->model->parts.d_in, per_group = j->two ? j->planes / 2 : j->planes;
    int8_t *to = j->s->planes + r / per_group * j->screen->d4 * j->planes * 4 + r % per_group * (j->two ? 8 : 4);
    const bool fits = saei_screen_row(j->s->spans + r, to, j->planes * 4, j->work->xc + r * d, j->screen, d, j->two);
    j->s->count[r] = fits ? 0 : -1;
    saei_fp_leave(mode);
}

/* ---- the pass over the bytes ---- */

/* Candidates, or for a top-k bounds, of features j0 .. j0 + nj - 1 from the sums of a group of rows. */
static void judge_group(const screen_job *j, uint32_t tile, size_t tile_first, size_t group, const int32_t *sums, size_t j0, size_t nj)
{
    const saei_kernels *k = j->model->env->kernels;
    const size_t n = (size_t)j->model->parts.d_sae, per_group = j->two ? j->planes / 2 : j->planes, r0 = group * per_group;
    for (size_t r = r0; r < j->n && r < r0 + per_group; r++) {
        const int32_t *first = sums + (r - r0) * (j->two ? 2 : 1) * STEP, *second = j->two ? first + STEP : NULL;
        int32_t *count = j->work->count + r * j->model->n_tiles + tile;
        if (j->s->count[r] < 0)
            continue;
        if (j->model->parts.k)
            k->bounds(j->work->val + r * n + j0, first, second, nj, j0, &j->screen->bound, j->s->spans + r);
        else
            *count += (int32_t)k->screen(j->work->idx + r * n + tile_first + (size_t)*count, first, second, nj, j0, &j->screen->bound,
                                         j->s->spans + r);
    }
}

static void screen_task(void *job, uint32_t tile, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const screen_job *j = job;
    const saei_tile t = saei_tile_of(j->model, tile);
    const size_t d4 = j->screen->d4, per_group = j->two ? j->planes / 2 : j->planes;
    int32_t *sums = j->s->sums + worker * SAEI_PLANES * STEP;
    for (size_t r = 0; r < j->n; r++)
        j->work->count[r * j->model->n_tiles + tile] = 0;
    for (size_t j0 = t.first; j0 < t.end; j0 += STEP) {
        const size_t nj = t.end - j0 < STEP ? t.end - j0 : STEP;
        for (size_t group = 0; group * per_group < j->n; group++) {
            j->model->env->kernels->int8_panels(sums, STEP, j->screen->panels + j0 * d4 * 4, (nj + SAEI_PANEL - 1) / SAEI_PANEL,
                                                j->s->planes + group * d4 * j->planes * 4, j->planes, d4);
            judge_group(j, tile, t.first, group, sums, j0, nj);
        }
    }
    saei_fp_leave(mode);
}

/* ---- candidates to codes ---- */

/* Exact codes of m <= CHUNK features of row r, 0 where inactive. */
static void score(screen_job *j, float *values, const int32_t *ids, size_t m, size_t r)
{
    const size_t d = (size_t)j->model->parts.d_in;
    const saei_matrix rows = saei_model_enc_rows(j->model, 0);
    float dots[CHUNK];
    int64_t bad = 0;
    j->model->env->kernels->dot_rows(dots, m, &rows, ids, 0, m, j->work->xc + r * d, d, 1);
    for (size_t i = 0; i < m; i++)
        values[i] = saei_code(&j->model->act, (size_t)ids[i], dots[i], &bad);
    if (bad)
        atomic_fetch_add_explicit(&j->bad, bad, memory_order_relaxed);
}

/* Chunks of all rows one after the other: the candidates of neighbouring tasks are about the same features. */
static void score_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    screen_job *j = job;
    const size_t r = i % j->n, at = i / j->n * CHUNK, n = (size_t)j->model->parts.d_sae;
    const size_t have = j->s->count[r] > 0 ? (size_t)j->s->count[r] : 0;
    if (at < have)
        score(j, j->work->val + r * n + at, j->work->idx + r * n + at, have - at < CHUNK ? have - at : CHUNK, r);
    saei_fp_leave(mode);
}

/* The codes of a row from its m scored candidates. */
static void finish_row(const screen_job *j, size_t r, size_t m, float *pick)
{
    const size_t n = (size_t)j->model->parts.d_sae;
    int32_t *idx = j->work->idx + r * n;
    float *val = j->work->val + r * n;
    size_t kept = 0;
    for (size_t i = 0; i < m; i++) {
        if (val[i] == 0.0f)
            continue;
        idx[kept] = idx[i];
        val[kept++] = val[i];
    }
    j->work->n[r] = (int32_t)saei_select(j->model, idx, val, kept, pick);
}

/* Moves the candidates of a row together. */
static size_t join_candidates(const screen_job *j, size_t r)
{
    const size_t n = (size_t)j->model->parts.d_sae, tiles = j->model->n_tiles;
    int32_t *idx = j->work->idx + r * n;
    size_t have = 0;
    for (size_t t = 0; t < tiles; t++) {
        const size_t m = (size_t)j->work->count[r * tiles + t];
        memmove(idx + have, idx + t * SAEI_TILE, m * sizeof *idx);
        have += m;
    }
    return have;
}

/* Time that a dense encode of a row would save, in reads of the whole encoder: measured, a candidate costs one and a half times its share of
 * such a read, a row in a batch of dense ones a twentieth. */
static double saved_by_dense(const screen_job *j, size_t r)
{
    return j->s->count[r] < 0 ? 0.0 : 1.5 * (double)j->s->count[r] / (double)j->model->parts.d_sae - 0.05;
}

/* The pass over the bytes is paid. The rows with many candidates are left to a dense encode if together they save the read that it begins
 * with. */
static void leave_to_dense(const screen_job *j)
{
    double saved = 0.0;
    for (size_t r = 0; r < j->n; r++)
        saved += saved_by_dense(j, r) > 0.0 ? saved_by_dense(j, r) : 0.0;
    for (size_t r = 0; r < j->n && saved > 1.0; r++)
        if (saved_by_dense(j, r) > 0.0)
            j->s->count[r] = -1;
}

static sae_status codes_by_threshold(screen_job *j)
{
    int32_t most = 0;
    for (size_t r = 0; r < j->n; r++)
        if (j->s->count[r] >= 0)
            j->s->count[r] = (int32_t)join_candidates(j, r);
    leave_to_dense(j);
    for (size_t r = 0; r < j->n; r++)
        most = j->s->count[r] > most ? j->s->count[r] : most;
    if (most && saei_run(&j->model->env->host, j, score_task, (uint32_t)(((size_t)most + CHUNK - 1) / CHUNK * j->n)))
        return SAE_E_HOST;
    for (size_t r = 0; r < j->n; r++)
        if (j->s->count[r] >= 0)
            finish_row(j, r, (size_t)j->s->count[r], NULL);
    return SAE_OK;
}

/* ---- top-k ---- */

/* A row with more candidates than this is slower than its dense encode. */
static size_t most_candidates(const screen_job *j)
{
    return (size_t)((double)j->model->parts.d_sae * (j->two ? 0.65 : 0.35));
}

/* A bound that at least `want` of the n have: the want-th largest of the maxima of groups. A NaN, of an infinite bound, becomes one. */
static float seed_floor(float *upper, size_t n, size_t want, float *pick)
{
    const size_t fit = n / (SEED_GROUPS * want), size = fit < 1 ? 1 : fit > CHUNK ? CHUNK : fit;
    size_t groups = 0;
    for (size_t i = 0; i < n; i += size, groups++) {
        float most = -INFINITY;
        for (size_t q = i; q < n && q < i + size; q++) {
            if (isnan(upper[q]))
                upper[q] = INFINITY;
            most = upper[q] > most ? upper[q] : most;
        }
        pick[groups] = most;
    }
    const float floor = saei_kth_largest(pick, groups, want < groups ? want : groups);
    return floor > 0.0f ? floor : 0.0f;
}

/* Those of n features whose bound is at least `low`, ascending. */
static size_t at_least(int32_t *ids, const float *upper, size_t n, float low)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        ids[m] = (int32_t)i;
        m += upper[i] >= low;
    }
    return m;
}

/* The k-th largest of the m seeds' codes, less one step so that equal ones stay in: no code below it is selected. 0 when there are fewer. */
static float selection_floor(const float *seeds, size_t m, size_t k, float *scratch)
{
    size_t active = 0;
    for (size_t i = 0; i < m; i++)
        if (seeds[i] > 0.0f)
            scratch[active++] = seeds[i];
    if (active < k)
        return 0.0f;
    float kth = saei_kth_largest(scratch, active, k);
    uint32_t bits;
    memcpy(&bits, &kth, sizeof bits);
    bits--;
    memcpy(&kth, &bits, sizeof kth);
    return kth;
}

/* Scores the m candidates of row r in place of its bounds; those with bounds from `floor` on are the seeds, whose codes are known. Value i
 * is written when all bounds up to that of candidate i >= i are read. */
static void score_rest(screen_job *j, size_t r, size_t m, float floor, const float *seeds)
{
    const size_t n = (size_t)j->model->parts.d_sae;
    const int32_t *idx = j->work->idx + r * n;
    float *val = j->work->val + r * n, values[CHUNK];
    int32_t ids[CHUNK], places[CHUNK];
    size_t waiting = 0;
    for (size_t i = 0; i < m; i++) {
        if (val[idx[i]] >= floor) {
            val[i] = *seeds++;
        } else {
            ids[waiting] = idx[i];
            places[waiting++] = (int32_t)i;
        }
        if (waiting < CHUNK && i + 1 < m)
            continue;
        score(j, values, ids, waiting, r);
        for (size_t q = 0; q < waiting; q++)
            val[places[q]] = values[q];
        waiting = 0;
    }
}

/* Two phases: the features with the largest bounds are scored, and of the others those whose bound reaches the k-th largest of these. */
static bool select_row(screen_job *j, size_t r, uint32_t worker)
{
    const size_t n = (size_t)j->model->parts.d_sae, k = (size_t)j->model->parts.k, want = k + k / 2;
    saei_work *w = j->work;
    int32_t *idx = w->idx + r * n;
    float *upper = w->val + r * n, *pick = w->pick + worker * n, *scratch = w->c + worker * saei_dots_c_floats();
    const float floor = seed_floor(upper, n, want, pick);
    const size_t n_seeds = at_least(idx, upper, n, floor);
    if (n_seeds > most_candidates(j) || n_seeds > saei_dots_c_floats())
        return false;
    for (size_t i = 0; i < n_seeds; i += CHUNK)
        score(j, pick + i, idx + i, n_seeds - i < CHUNK ? n_seeds - i : CHUNK, r);
    const float low = selection_floor(pick, n_seeds, k, scratch);
    const size_t m = at_least(idx, upper, n, low < floor ? low : floor);
    if (m > most_candidates(j))
        return false;
    score_rest(j, r, m, floor, pick);
    finish_row(j, r, m, pick);
    j->s->count[r] = (int32_t)m;
    return true;
}

static void select_task(void *job, uint32_t r, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    screen_job *j = job;
    if (j->s->count[r] >= 0 && !select_row(j, r, worker))
        j->s->count[r] = -1;
    saei_fp_leave(mode);
}

/* ---- the encode ---- */

static size_t planes_for(size_t n, bool two)
{
    const size_t planes = two ? 2 * n : n;
    return planes <= 2 ? 2 : planes <= 4 ? 4 : SAEI_PLANES;
}

static sae_status screen_rows(screen_job *j)
{
    const saei_host *host = &j->model->env->host;
    const size_t groups = (j->n * (j->two ? 2 : 1) + j->planes - 1) / j->planes;
    memset(j->s->planes, 0, groups * j->screen->d4 * j->planes * 4);
    if (saei_run(host, j, row_task, (uint32_t)j->n) || saei_run(host, j, screen_task, j->model->n_tiles))
        return SAE_E_HOST;
    return !j->model->parts.k ? codes_by_threshold(j) : saei_run(host, j, select_task, (uint32_t)j->n) ? SAE_E_HOST : SAE_OK;
}

/* Encodes the rows that are left, marked by a count below 0, densely. */
static sae_status encode_rest(sae_ctx *ctx, size_t n, sae_ctx_counts *counts)
{
    const size_t d = (size_t)ctx->model->parts.d_in;
    const saei_screening *s = &ctx->screening;
    size_t m = 0;
    for (size_t r = 0; r < n; r++) {
        if (s->count[r] >= 0)
            continue;
        memcpy(s->dense + m * d, ctx->work.xc + r * d, d * sizeof(float));
        s->map[m++] = (int32_t)r;
    }
    counts->rows_dense += (int64_t)m;
    return m ? saei_work_encode_rows(&ctx->work, ctx->model, s->dense, s->map, m, &ctx->nonfinite) : SAE_OK;
}

/* Rows take part in the mean share of candidates: when it is high, screening pauses. */
static void count_rows(sae_ctx *ctx, size_t n)
{
    sae_ctx_counts *c = &ctx->counts;
    const double d_sae = (double)ctx->model->parts.d_sae;
    for (size_t r = 0; r < n; r++) {
        const int32_t m = ctx->screening.count[r];
        const double share = m < 0 ? 1.0 : (double)m / d_sae;
        ctx->share += (share - ctx->share) / GATE_ROWS;
        c->rows_screened += m >= 0;
        c->candidates += m >= 0 ? m : 0;
        c->active += m >= 0 ? ctx->work.n[r] : 0;
    }
}

/* The mean share of candidates from which on blocks of n rows are faster dense: their dense products share the read of the weights. */
static double most_share(size_t n)
{
    return n == 1 ? 0.30 : n <= SAEI_FEW ? 0.10 : n <= 16 ? 0.08 : 0.04;
}

bool saei_screen_pays(sae_ctx *ctx, size_t n)
{
    const sae_model *model = ctx->model;
    if (!atomic_load_explicit(&model->screen, memory_order_acquire) || ctx->screen == SAE_NO)
        return false;
    if (ctx->screen == SAE_YES)
        return true;
    if ((size_t)model->parts.d_in * (size_t)model->parts.d_sae < SMALL)
        return false;
    if (ctx->share > most_share(n)) {
        ctx->paused += (int64_t)n;
        if (ctx->paused < GATE_PAUSE)
            return false;
        ctx->share = 0.0;
    }
    ctx->paused = 0;
    return true;
}

sae_status saei_screen_encode(sae_ctx *ctx, size_t n)
{
    const saei_screen *screen = atomic_load_explicit(&ctx->model->screen, memory_order_acquire);
    const bool two = n <= SAEI_FEW;
    screen_job job = {.model = ctx->model, .screen = screen, .work = &ctx->work, .s = &ctx->screening, .n = n, .two = two};
    job.planes = planes_for(n, two);
    if (screen_rows(&job))
        return SAE_E_HOST;
    ctx->nonfinite += atomic_load(&job.bad);
    count_rows(ctx, n);
    return encode_rest(ctx, n, &ctx->counts);
}
