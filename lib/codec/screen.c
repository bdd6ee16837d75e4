/* Encodes through the screen of model/screen.h. A pass over its bytes, with rows in 8 bits, finds the features of each row that may be active;
 * 8 more bits of the row thin them out while their bytes are still in the caches; what is left, the candidates, get their exact dots, which
 * make the codes by the same functions as in a dense encode. Up to FEW rows, whose pass waits for memory, go through it in 16 bits at once.
 *
 * Where features compete (top-k, groupmax) the threshold of a row rises during the pass, by codec/floors.h, and is known at its end: what it
 * leaves then are the candidates.
 *
 * Rows that the error terms do not hold for, and rows with so many candidates that the dense products are faster, are encoded densely
 * together. */
#include "codec/screen.h"

#include <math.h>
#include <string.h>

enum {
    STEP = 48,        /* features whose sums are taken at once: their bytes stay in L2 while the rows pass */
    FEW = 4,          /* rows in 16 bits at once */
    SAMPLE = 512,     /* features of a sample */
    LANES = 16,       /* features scored at once, or thinned out */
    SMALL = 1 << 20,  /* weights of an encoder below which a dense encode is as fast */
    GATE_ROWS = 64,   /* rows whose mean share of candidates decides whether screening pays */
    GATE_PAUSE = 4096 /* rows encoded densely before screening is tried again */
};

size_t saei_screening_layout(saei_screening *s, const sae_model *model, size_t max_rows, unsigned char *block)
{
    const size_t d = (size_t)model->parts.d_in, d16 = (d + 15) / 16, workers = model->env->host.max_workers;
    const size_t step_sums = (max_rows > 2 * FEW ? max_rows : 2 * FEW) * STEP; /* of few rows two planes */
    size_t total = 0;
    const size_t dense = saei_reserve(&total, max_rows * d, sizeof(float));
    const size_t high = saei_reserve(&total, (max_rows + FEW) * d16, 16), low = saei_reserve(&total, max_rows * d16, 16);
    const size_t spans = saei_reserve(&total, max_rows, sizeof(saei_spans));
    const size_t sums = saei_reserve(&total, workers * step_sums, sizeof(int32_t));
    const size_t waiting = saei_reserve(&total, workers * max_rows, sizeof(saei_waiting));
    const size_t ripe = saei_reserve(&total, workers, sizeof(saei_ripe));
    saei_floors no_floors;
    const size_t floors = saei_reserve(&total, 1, saei_floors_layout(&no_floors, model, max_rows, NULL));
    const size_t map = saei_reserve(&total, max_rows, sizeof(int32_t)), counts = saei_reserve(&total, max_rows, sizeof(int32_t));
    if (!block || total == SIZE_MAX)
        return total;
    *s = (saei_screening){.dense = (float *)(void *)(block + dense),
                          .high = (int8_t *)(block + high),
                          .low = (int8_t *)(block + low),
                          .spans = (saei_spans *)(void *)(block + spans),
                          .sums = (int32_t *)(void *)(block + sums),
                          .step_sums = step_sums,
                          .waiting = (saei_waiting *)(void *)(block + waiting),
                          .ripe = (saei_ripe *)(void *)(block + ripe),
                          .map = (int32_t *)(void *)(block + map),
                          .count = (_Atomic(int32_t) *)(void *)(block + counts)};
    saei_floors_layout(&s->floors, model, max_rows, block + floors);
    return total;
}

typedef struct screen_job {
    const sae_model *model;
    const saei_screen *screen;
    saei_work *work;
    const saei_screening *s;
    saei_matrix rows; /* the encoder's */
    size_t n;
    bool few;
    size_t group; /* rows whose first planes lie together: as many as one pass takes, or half of them */
    float lost;   /* what values are below the upper ends of their intervals at most as a rule, in half widths */
    bool always;  /* no row is left to a dense encode because that is faster */
} screen_job;

static bool is_dense(const screen_job *j, size_t r)
{
    return atomic_load_explicit(j->s->count + r, memory_order_relaxed) < 0;
}

static void leave_dense(const screen_job *j, size_t r)
{
    atomic_store_explicit(j->s->count + r, -1, memory_order_relaxed);
}

/* ---- rows in bytes ---- */

bool saei_screen_row(saei_spans *spans, int8_t *high, size_t high_step, int8_t *low, size_t low_step, const float *x,
                     const saei_screen *screen, const saei_kernels *kernels, size_t d)
{
    const saei_lengths squares = kernels->row_lengths(x, screen->centre, d);
    const double length = sqrt(squares.x), z = sqrt(squares.z);
    *spans = (saei_spans){0};
    if (!(length <= 0x1p60) || (length > 0.0 && length < 0x1p-40) || !(z <= 0x1p60))
        return false;
    const float scale = (float)(squares.largest / 32639.0);
    if (squares.largest > 0.0 && !(scale >= 0x1p-60f))
        return false;
    const saei_planes p = kernels->row_planes(high, high_step, low, low_step, x, screen->centre, d, (double)scale);
    const double u = 0x1p-24, m = (double)(d + 2), rest = m * u / (1 - m * u) * length + 16 * u * z;
    const float norm = saei_round_up(z * (1 + 0x1p-20));
    const int32_t first = 128 * p.first, second = 128 * p.second;
    spans->coarse = (saei_span){256.0f * scale, norm, saei_round_up((sqrt(p.coarse) * (1 + 1e-9) + rest) * (1 + 0x1p-20)), 0.0f, first, 0};
    spans->fine = (saei_span){scale, norm, saei_round_up((sqrt(p.fine) * (1 + 1e-9) + rest) * (1 + 0x1p-20)), 0.0f, first, second};
    return true;
}

static size_t groups_of(const screen_job *j)
{
    return (j->n + j->group - 1) / j->group;
}

/* Planes of the rows first .. that lie together: two of each of few rows, else the first of each. */
static size_t planes_of(const screen_job *j, size_t first)
{
    return j->few ? 2 * j->n : saei_min(j->group, j->n - first);
}

static int8_t *high_of(const screen_job *j, size_t first)
{
    return j->s->high + first * j->screen->d16 * 16;
}

static int8_t *low_of(const screen_job *j, size_t r)
{
    return j->s->low + r * j->screen->d16 * 16;
}

static void row_task(void *job, uint32_t r, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    const screen_job *j = job;
    const size_t d = (size_t)j->model->parts.d_in, first = j->few ? 0 : r - r % j->group, step = planes_of(j, first) * 16;
    int8_t *high = high_of(j, first) + (r - first) * (j->few ? 32 : 16);
    const float *x = j->work->xc + r * d;
    saei_spans *spans = j->s->spans + r;
    const bool fits = j->few ? saei_screen_row(spans, high, step, high + 16, step, x, j->screen, j->model->env->kernels, d)
                             : saei_screen_row(spans, high, step, low_of(j, r), 16, x, j->screen, j->model->env->kernels, d);
    atomic_store_explicit(j->s->count + r, fits ? 0 : -1, memory_order_relaxed);
    saei_fp_leave(mode);
}

/* ---- exact dots ---- */

/* The code of a feature of row r. What is not finite is counted with its tile, which one task at a time works on. */
static float code_of(const screen_job *j, size_t r, size_t feature, float dot)
{
    int64_t bad = 0;
    const float code = saei_code(&j->model->act, feature, dot, &bad);
    j->work->bad[r * j->model->n_tiles + feature / SAEI_TILE] += (size_t)bad;
    return code;
}

/* Candidates of row r that wait on a worker. */
static saei_waiting *waiting_of(const screen_job *j, uint32_t worker, size_t r)
{
    return j->s->waiting + (size_t)worker * j->n + r;
}

/* Scores a list: lanes of one row share its numbers. */
static void score(const screen_job *j, const saei_waiting *w)
{
    const size_t d = (size_t)j->model->parts.d_in;
    float dots[LANES];
    j->model->env->kernels->dot_rows(dots, LANES, &j->rows, w->ids, 0, w->n, j->work->xc + w->row * d, d, 1);
    for (size_t i = 0; i < w->n; i++)
        j->work->val[w->places[i]] = code_of(j, w->row, (size_t)w->ids[i], dots[i]);
}

/* Several lists in a row, so that the weights of one are on their way while the one before is multiplied. */
static void score_ripe(const screen_job *j, uint32_t worker)
{
    saei_ripe *ripe = j->s->ripe + worker;
    for (size_t i = 0; i < ripe->n; i++)
        score(j, ripe->lists + i);
    ripe->n = 0;
}

/* A feature of row r and the place of its code: it waits until its list is full, and the list until there are several. */
static void wait_for_dot(const screen_job *j, uint32_t worker, size_t r, int32_t id, size_t place)
{
    saei_waiting *w = waiting_of(j, worker, r);
    saei_ripe *ripe = j->s->ripe + worker;
    w->ids[w->n] = id;
    w->places[w->n++] = place;
    if (w->n < LANES)
        return;
    ripe->lists[ripe->n++] = *w;
    w->n = 0;
    if (ripe->n == sizeof ripe->lists / sizeof *ripe->lists)
        score_ripe(j, worker);
}

/* What still waits on a worker when all tasks are done: no other one has features of the same row and tile. */
static void flush_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    const screen_job *j = job;
    score_ripe(j, i);
    for (size_t r = 0; r < j->n; r++)
        if (!is_dense(j, r))
            score(j, waiting_of(j, i, r));
    saei_fp_leave(mode);
}

/* ---- the pass over the bytes ---- */

/* A step of a task: the sums of features first .. first + n - 1 with all rows. */
typedef struct step {
    uint32_t tile;
    saei_tile at;
    size_t first, n;
    int32_t *sums; /* [rows, or planes of few rows][STEP] */
    uint32_t worker;
} step;

static step step_of(const screen_job *j, uint32_t tile, uint32_t worker)
{
    return (step){.tile = tile, .at = saei_tile_of(j->model, tile), .sums = j->s->sums + worker * j->s->step_sums, .worker = worker};
}

/* The next step of the tile; false after the last. */
static bool next_step(step *t)
{
    t->first = t->n ? t->first + t->n : t->at.first;
    t->n = saei_min(t->at.end - t->first, STEP);
    return t->n > 0;
}

/* Sums of row r of a step. */
static int32_t *first_sums(const screen_job *j, const step *t, size_t r)
{
    return t->sums + (j->few ? 2 * r : r) * STEP;
}

static size_t columns_of(size_t n)
{
    return (n + SAEI_COLUMN - 1) / SAEI_COLUMN;
}

/* Every group of rows passes over the step, whose bytes stay in L2, and brings its part of the next step's there: a column is 4 stretches of
 * d16 cache lines. One row alone reads so many columns at once that the processor looks ahead by itself. */
static void take_sums(const screen_job *j, const step *t)
{
    const size_t d16 = j->screen->d16, columns = columns_of(t->n), groups = groups_of(j), after = t->first + t->n;
    const size_t lanes = j->n == 1 ? 0 : 4 * columns_of(saei_min((size_t)j->model->parts.d_sae - after, STEP));
    const uint8_t *next = j->screen->columns + after * d16 * 16;
    for (size_t g = 0; g < groups; g++) {
        const size_t r = g * j->group, from = lanes * g / groups, to = lanes * (g + 1) / groups;
        j->model->env->kernels->int8_columns(first_sums(j, t, r), STEP, j->screen->columns + t->first * d16 * 16, columns, high_of(j, r),
                                             planes_of(j, r), d16, next + from * d16 * 64, to - from);
    }
}

/* Candidates of row r in a tile. */
static int32_t *count_of(const screen_job *j, uint32_t tile, size_t r)
{
    return j->work->count + r * j->model->n_tiles + tile;
}

/* Makes a feature of row r a candidate; returns the place of its code. */
static size_t list_candidate(const screen_job *j, const step *t, size_t r, int32_t id)
{
    const size_t place = r * (size_t)j->model->parts.d_sae + t->at.first + (size_t)(*count_of(j, t->tile, r))++;
    j->work->idx[place] = id;
    return place;
}

/* The same of one that waits for its dot. */
static void add_candidate(const screen_job *j, const step *t, size_t r, int32_t id)
{
    wait_for_dot(j, t->worker, r, id, list_candidate(j, t, r, id));
}

/* U of feature f from both planes, as simd/kernels.h has it, but in double: its roundings are smaller than those that the slack pays for. */
static double fine_bound(const saei_bound *b, const saei_span *x, size_t f, int32_t first, int32_t second)
{
    const double sum = (double)(first - x->first_offset) * 256.0 + (double)(second - x->second_offset);
    const double lost = (double)b->error[f] * (double)x->norm + (double)b->norm[f] * (double)x->slack;
    return (double)b->scale[f] * (double)x->scale * sum + lost + (double)b->top[f];
}

/* Pairs that the first plane leaves open. */
typedef struct open_pairs {
    size_t n;
    int32_t ids[LANES], first[LANES]; /* and the sums of the first plane */
    size_t rows[LANES];
} open_pairs;

/* Those that the second plane leaves open too become candidates. */
static void thin_out(const screen_job *j, const step *t, open_pairs *p)
{
    const saei_bound *b = &j->screen->bound;
    int32_t second[LANES];
    const int8_t *low[LANES];
    for (size_t i = 0; i < p->n; i++)
        low[i] = low_of(j, p->rows[i]);
    j->model->env->kernels->int8_pairs(second, j->screen->columns, p->ids, low, p->n, j->screen->d16);
    for (size_t i = 0; i < p->n; i++) {
        const size_t f = (size_t)p->ids[i];
        const double u = fine_bound(b, &j->s->spans[p->rows[i]].fine, f, p->first[i], second[i]);
        if (!(u < (double)(b->threshold ? b->threshold[f] : 0.0f)))
            add_candidate(j, t, p->rows[i], p->ids[i]);
    }
    p->n = 0;
}

/* Lets the m features that the first plane leaves open to row r wait until they fill a call. */
static void thin_out_later(const screen_job *j, const step *t, size_t r, const int32_t *ids, size_t m, open_pairs *open)
{
    for (size_t i = 0; i < m; i++) {
        open->rows[open->n] = r;
        open->first[open->n] = first_sums(j, t, r)[(size_t)ids[i] - t->first];
        open->ids[open->n++] = ids[i];
        if (open->n == LANES)
            thin_out(j, t, open);
    }
}

/* Where a value with the bound u hardly lies below: the middle of its interval, less four times what it is away from it as a rule. What bounds
 * the dot of random vectors is sqrt(d) times as large as that dot. */
static float likely(const screen_job *j, const saei_span *x, size_t f, float u)
{
    const saei_bound *b = &j->screen->bound;
    return u - (b->error[f] * x->norm + b->norm[f] * x->slack) * j->lost;
}

/* Features that may yet be among the largest are kept with their bounds, u[0] that of feature `first`. */
static void keep(const screen_job *j, const step *t, size_t r, const int32_t *ids, size_t m, const float *u, size_t first,
                 const saei_span *x)
{
    for (size_t i = 0; i < m; i++) {
        const size_t f = (size_t)ids[i];
        const float bound = u[f - first];
        j->work->val[list_candidate(j, t, r, ids[i])] = bound;
        saei_floor_raise(&j->s->floors, t->worker, r, f, likely(j, x, f, bound));
    }
}

/* n features of a step, from its feature i on, that share a floor. */
static void judge(const screen_job *j, const step *t, size_t r, size_t i, size_t n, open_pairs *open)
{
    const saei_kernels *k = j->model->env->kernels;
    const int32_t *first = first_sums(j, t, r) + i, *second = j->few ? first_sums(j, t, r) + STEP + i : NULL;
    saei_span x = j->few ? j->s->spans[r].fine : j->s->spans[r].coarse;
    int32_t ids[STEP];
    float u[STEP];
    x.floor = saei_floor(&j->s->floors, r, t->first + i);
    const size_t m = k->screen(ids, first, second, n, t->first + i, &j->screen->bound, &x);
    if (m && j->s->floors.groups) {
        k->bounds(u, first, second, n, t->first + i, &j->screen->bound, &x);
        keep(j, t, r, ids, m, u, t->first + i, &x);
    } else if (!j->few) {
        thin_out_later(j, t, r, ids, m, open);
    } else {
        for (size_t q = 0; q < m; q++)
            add_candidate(j, t, r, ids[q]);
    }
}

static void judge_row(const screen_job *j, const step *t, size_t r, open_pairs *open)
{
    for (size_t i = 0, n; i < t->n; i += n) {
        n = saei_floors_span(&j->s->floors, t->first + i, t->n - i);
        judge(j, t, r, i, n, open);
    }
}

/* Judges a step with all rows that are not left to a dense encode. */
static void judge_rows(const screen_job *j, const step *t)
{
    open_pairs open = {.n = 0};
    for (size_t r = 0; r < j->n; r++)
        if (!is_dense(j, r))
            judge_row(j, t, r, &open);
    thin_out(j, t, &open);
}

/* Time that a dense encode of a row would save in a tile, in reads of its weights: measured, a candidate costs its share of such a read, a row
 * in a batch of dense ones a sixteenth. */
static double saved_by_dense(const screen_job *j, const step *t, size_t r)
{
    const double share = (double)*count_of(j, t->tile, r) / (double)(t->at.end - t->at.first);
    return is_dense(j, r) ? 0.0 : share - 0.0625;
}

/* Rows with many candidates in a tile are left to a dense encode if together they save the read that it begins with. */
static void leave_to_dense(const screen_job *j, const step *t)
{
    double saved = 0.0;
    for (size_t r = 0; r < j->n; r++)
        saved += saved_by_dense(j, t, r) > 0.0 ? saved_by_dense(j, t, r) : 0.0;
    for (size_t r = 0; r < j->n && saved > 1.0 && !j->always; r++)
        if (saved_by_dense(j, t, r) > 0.0)
            leave_dense(j, r);
}

static void begin_tile(const screen_job *j, uint32_t tile)
{
    for (size_t r = 0; r < j->n; r++) {
        *count_of(j, tile, r) = 0;
        j->work->bad[r * j->model->n_tiles + tile] = 0;
    }
}

static void screen_task(void *job, uint32_t tile, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const screen_job *j = job;
    step t = step_of(j, tile, worker);
    begin_tile(j, tile);
    while (next_step(&t)) {
        take_sums(j, &t);
        judge_rows(j, &t);
    }
    if (!j->s->floors.groups)
        leave_to_dense(j, &t);
    saei_fp_leave(mode);
}

/* ---- where features compete ---- */

/* So many of a sample reach what k of all features will; 0 = no sample is taken, where it would say little or cost too much. */
static size_t sample_rank(const screen_job *j)
{
    const size_t n = (size_t)j->model->parts.d_sae;
    const double share = (double)j->s->floors.k * (double)SAMPLE / (double)n;
    const size_t rank = (size_t)(share + 4.0 * sqrt(share) + 1.0);
    return j->s->floors.room && !j->few && n >= 16 * (size_t)SAMPLE && rank < SAMPLE / 2 ? rank : 0;
}

/* What the values of a column's features hardly lie below, for the rows r .. of a group; those of row r + q from low[q * ldl] on. */
static void sample_column(const screen_job *j, uint32_t worker, size_t r, size_t feature, float *low, size_t ldl)
{
    const saei_kernels *k = j->model->env->kernels;
    const size_t d16 = j->screen->d16, planes = planes_of(j, r);
    int32_t *sums = j->s->sums + worker * j->s->step_sums;
    k->int8_columns(sums, STEP, j->screen->columns + feature * d16 * 16, 1, high_of(j, r), planes, d16, NULL, 0);
    for (size_t q = 0; q < planes; q++) {
        const saei_span *x = &j->s->spans[r + q].coarse;
        k->bounds(low + q * ldl, sums + q * STEP, NULL, SAEI_COLUMN, feature, &j->screen->bound, x);
        for (size_t i = 0; i < SAEI_COLUMN; i++)
            low[q * ldl + i] = likely(j, x, feature + i, low[q * ldl + i]);
    }
}

/* The first floors of a group of rows of a top-k, from columns all over the encoder, since neighbours may be alike. */
static void sample_task(void *job, uint32_t group, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const screen_job *j = job;
    const size_t n = (size_t)j->model->parts.d_sae, r = group * j->group;
    float *low = j->work->pick + worker * n;
    for (size_t i = 0; i < SAMPLE; i += SAEI_COLUMN)
        sample_column(j, worker, r, i * n / SAMPLE / SAEI_COLUMN * SAEI_COLUMN, low + i, SAMPLE);
    for (size_t q = 0; q < planes_of(j, r); q++)
        if (!is_dense(j, r + q))
            saei_floor_begin(&j->s->floors, r + q, saei_kth_largest(low + q * SAMPLE, SAMPLE, sample_rank(j)));
    saei_fp_leave(mode);
}

static void settle_task(void *job, uint32_t r, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const screen_job *j = job;
    const size_t n = (size_t)j->model->parts.d_sae;
    if (!is_dense(j, r))
        saei_floors_settle(&j->s->floors, r, j->work->pick + worker * n, n);
    saei_fp_leave(mode);
}

/* Of what was kept with its bound, candidates are those that reach the last floor; their codes go where bounds were that have been looked at. */
static void judge_kept(const screen_job *j, const step *t, size_t r)
{
    const size_t at = r * (size_t)j->model->parts.d_sae + t->at.first, kept = (size_t)*count_of(j, t->tile, r);
    *count_of(j, t->tile, r) = 0;
    for (size_t i = at; i < at + kept; i++) {
        const int32_t id = j->work->idx[i];
        if (!(j->work->val[i] < saei_floor(&j->s->floors, r, (size_t)id)))
            add_candidate(j, t, r, id);
    }
}

static void kept_task(void *job, uint32_t tile, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const screen_job *j = job;
    const step t = step_of(j, tile, worker);
    for (size_t r = 0; r < j->n; r++)
        if (!is_dense(j, r))
            judge_kept(j, &t, r);
    leave_to_dense(j, &t);
    saei_fp_leave(mode);
}

/* ---- candidates to codes ---- */

/* Moves the candidates of a row together; those that turned out active are its codes. Returns how many candidates there were. */
static size_t join_row(const screen_job *j, int32_t *idx, float *val, size_t r, size_t *active)
{
    const size_t tiles = j->model->n_tiles;
    size_t have = 0;
    *active = 0;
    for (size_t t = 0; t < tiles; t++) {
        const size_t m = (size_t)*count_of(j, (uint32_t)t, r), from = t * SAEI_TILE;
        for (size_t i = from; i < from + m; i++) {
            if (val[i] == 0.0f)
                continue;
            idx[*active] = idx[i];
            val[(*active)++] = val[i];
        }
        have += m;
    }
    return have;
}

/* A row whose floors were guessed too high is encoded densely. */
static void finish_row(const screen_job *j, size_t r)
{
    int32_t *idx = j->work->idx + r * (size_t)j->model->parts.d_sae;
    float *val = j->work->val + r * (size_t)j->model->parts.d_sae;
    size_t active;
    const size_t candidates = join_row(j, idx, val, r, &active);
    if (!saei_floors_hold(&j->s->floors, r, idx, val, active)) {
        leave_dense(j, r);
        return;
    }
    j->work->n[r] = (int32_t)saei_select(j->model, idx, val, active, j->work->pick);
    atomic_store_explicit(j->s->count + r, (int32_t)candidates, memory_order_relaxed);
}

/* ---- the encode ---- */

static sae_status find_candidates(screen_job *j)
{
    const saei_host *host = &j->model->env->host;
    const uint32_t tiles = j->model->n_tiles;
    const saei_floors *floors = &j->s->floors;
    const bool failed = saei_run(host, j, sample_task, sample_rank(j) ? (uint32_t)groups_of(j) : 0) ||
                        saei_run(host, j, screen_task, tiles) || saei_run(host, j, settle_task, floors->room ? (uint32_t)j->n : 0) ||
                        saei_run(host, j, kept_task, floors->groups ? tiles : 0);
    return failed ? SAE_E_HOST : SAE_OK;
}

static sae_status screen_rows(screen_job *j)
{
    const saei_host *host = &j->model->env->host;
    for (size_t i = 0; i < host->max_workers * j->n; i++) {
        j->s->waiting[i].row = i % j->n;
        j->s->waiting[i].n = 0;
    }
    for (size_t i = 0; i < host->max_workers; i++)
        j->s->ripe[i].n = 0;
    saei_floors_clear(&j->s->floors, j->n);
    if (saei_run(host, j, row_task, (uint32_t)j->n) || find_candidates(j) || saei_run(host, j, flush_task, host->max_workers))
        return SAE_E_HOST;
    for (size_t r = 0; r < j->n; r++)
        if (!is_dense(j, r))
            finish_row(j, r);
    return SAE_OK;
}

/* Encodes the rows that are left, marked by a count below 0, densely. */
static sae_status encode_rest(sae_ctx *ctx, size_t n, sae_ctx_counts *counts)
{
    const size_t d = (size_t)ctx->model->parts.d_in;
    const saei_screening *s = &ctx->screening;
    size_t m = 0;
    for (size_t r = 0; r < n; r++) {
        if (atomic_load_explicit(s->count + r, memory_order_relaxed) >= 0)
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
        const int32_t m = atomic_load_explicit(ctx->screening.count + r, memory_order_relaxed);
        const double share = m < 0 ? 1.0 : (double)m / d_sae;
        ctx->share += (share - ctx->share) / GATE_ROWS;
        c->rows_screened += m >= 0;
        c->candidates += m >= 0 ? m : 0;
        c->active += m >= 0 ? ctx->work.n[r] : 0;
        for (uint32_t t = 0; m >= 0 && t < ctx->model->n_tiles; t++)
            ctx->nonfinite += (int64_t)ctx->work.bad[r * ctx->model->n_tiles + t];
    }
}

/* The mean share of candidates from which on blocks of n rows are faster dense: their dense products share the read of the weights. */
static double most_share(size_t n)
{
    return n == 1 ? 0.30 : n <= FEW ? 0.12 : n <= 8 ? 0.08 : n <= 16 ? 0.055 : 0.035;
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
    screen_job job = {.model = ctx->model, .screen = screen, .work = &ctx->work, .s = &ctx->screening, .n = n};
    job.rows = saei_model_enc_rows(ctx->model, 0);
    job.few = n <= FEW;
    job.group = job.few ? n : n <= 8 ? 4 : 6;
    job.lost = 1.0f + 4.0f / sqrtf((float)ctx->model->parts.d_in);
    job.always = ctx->screen == SAE_YES;
    if (screen_rows(&job))
        return SAE_E_HOST;
    count_rows(ctx, n);
    return encode_rest(ctx, n, &ctx->counts);
}
