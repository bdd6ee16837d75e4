/* Searches of an index that has a screen (model/screen.h). One pass over its bytes, one a weight, bounds every dot from above, which divided by
 * both lengths is a cosine. The k-th largest is guessed from the middles of the intervals, and the rows whose bound reaches the guess get exact
 * cosines. Where at least k of those exceed the guess, nothing that was left out can be among the k nearest. */
#include <math.h>
#include <string.h>

#include "codec/screen.h"
#include "distance/index.h"

enum { GROUP = 16 /* rows of whose middles the largest is kept */ };

size_t saei_index_groups(const sae_index *index)
{
    return (index->n + GROUP - 1) / GROUP;
}

/* The largest middles of groups, from the bounds u of n rows, less four times what a value is away from it as a rule: what bounds the dot of
 * random vectors is sqrt(d) times as large as that dot. */
static void find_middles(const saei_search *s, float *groups, const float *u, size_t first, size_t n)
{
    const saei_bound *b = &s->index->screen->bound;
    const saei_span *x = &s->spans.fine;
    const float lost = 1.0f + 4.0f / sqrtf((float)s->index->d), inverse = (float)(1.0 / s->query_norm);
    for (size_t i = 0; i < n; i++) {
        const size_t j = first + i;
        const float middle = (u[i] - (b->error[j] * x->norm + b->norm[j] * x->slack) * lost) * (s->index->inverse[j] * inverse);
        groups[i / GROUP] = i % GROUP == 0 || middle > groups[i / GROUP] ? middle : groups[i / GROUP];
    }
}

/* Is the cosine of row j, whose dot is at most u, less than the guess whatever the roundings here? Never where that cannot be told. */
static bool is_below(const saei_search *s, size_t j, float u, float inverse, float guess)
{
    const float upper = u * (s->index->inverse[j] * inverse);
    return upper + 1e-6f * (1.0f + fabsf(upper)) < guess;
}

static void bound_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const saei_search *s = job;
    const sae_index *index = s->index;
    const saei_kernels *k = index->model->env->kernels;
    const saei_screen *screen = index->screen;
    const size_t first = (size_t)i * SAEI_TILE, n = saei_min(index->n - first, SAEI_TILE);
    int32_t *sums = s->room->sums + (size_t)worker * 2 * SAEI_TILE;
    float *c = s->room->cosines + first;
    k->int8_columns(sums, SAEI_TILE, screen->columns + first * screen->d16 * 16, (n + SAEI_COLUMN - 1) / SAEI_COLUMN, s->room->planes, 2,
                    screen->d16, NULL, 0);
    k->bounds(c, sums, sums + SAEI_TILE, n, first, &screen->bound, &s->spans.fine);
    find_middles(s, s->room->groups + first / GROUP, c, first, n);
    saei_fp_leave(mode);
}

/* Exact cosines of the rows whose bound reaches the guess; returns how many exceed it, SIZE_MAX when there are too many to be worth it. */
static size_t score(const saei_search *s, float guess, int32_t except)
{
    const float inverse = (float)(1.0 / s->query_norm);
    float *c = s->room->cosines;
    size_t scored = 0, reach = 0;
    for (size_t j = 0; j < s->index->n; j++) {
        if (is_below(s, j, c[j], inverse, guess) || (int32_t)j == except) {
            c[j] = NAN;
            continue;
        }
        if (++scored > s->index->n / 8)
            return SIZE_MAX;
        saei_search_exact(s, c + j, j, 1, 0);
        reach += c[j] > guess;
    }
    return reach;
}

bool saei_search_screened(saei_search *s, int32_t k, int32_t except, sae_status *status)
{
    const sae_index *index = s->index;
    const size_t groups = saei_index_groups(index), rank = (size_t)k + (except >= 0);
    float *pick = s->room->groups + groups;
    *status = SAE_OK;
    if (!index->screen || rank > groups / 4 ||
        !saei_screen_row(&s->spans, s->room->planes, 32, s->room->planes + 16, 32, s->room->a, index->screen, index->model->env->kernels,
                         index->d))
        return false;
    *status = saei_run(&index->model->env->host, s, bound_task, (uint32_t)((index->n + SAEI_TILE - 1) / SAEI_TILE));
    if (*status)
        return false;
    for (size_t i = 0; i < groups; i++) /* rows of length 0 have no cosine */
        pick[i] = s->room->groups[i] >= -2.0f ? s->room->groups[i] : -2.0f;
    const float guess = saei_kth_largest(pick, groups, rank);
    const size_t reach = score(s, guess, except);
    return reach != SIZE_MAX && reach >= (size_t)k;
}
