/* Matching pursuit (sae-lens 6.54, saes/matching_pursuit_sae.py): each round takes the feature that explains most of what is left of a row,
 * and takes what it explains away. */
#include <math.h>
#include <string.h>

#include "codec/codec.h"

typedef struct round_job {
    const sae_model *model;
    saei_work *work; /* xc holds what is left of n rows */
    size_t n;
} round_job;

/* The largest dot above 0 of a tile, ties by lower index; count holds its feature, or -1. */
static void best_task(void *job, uint32_t tile, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const round_job *j = job;
    saei_work *w = j->work;
    const saei_tile t = saei_tile_of(j->model, tile);
    const saei_dense dense = saei_model_encoder(j->model, t.block);
    const saei_xrows x = saei_work_rows(w, j->model, t.block, j->n);
    const size_t tiles = j->model->n_tiles, step = saei_dots_step(&dense, j->n);
    float *c = w->c + worker * saei_dots_c_floats(), *pack = w->pack + worker * saei_dots_pack_floats((size_t)j->model->parts.d_in);
    for (size_t r = 0; r < j->n; r++) {
        w->best[r * tiles + tile] = 0.0f;
        w->count[r * tiles + tile] = -1;
        w->bad[r * tiles + tile] = 0;
    }
    for (size_t j0 = t.first; j0 < t.end; j0 += step) {
        const size_t nj = t.end - j0 < step ? t.end - j0 : step;
        saei_dots(j->model->env->kernels, &dense, c, j0, nj, &x, pack);
        for (size_t r = 0; r < j->n; r++)
            for (size_t i = 0; i < nj; i++) {
                const float v = c[r * step + i];
                w->bad[r * tiles + tile] += !isfinite(v);
                if (v > w->best[r * tiles + tile] && isfinite(v)) {
                    w->best[r * tiles + tile] = v;
                    w->count[r * tiles + tile] = (int32_t)(j0 + i);
                }
            }
    }
    saei_fp_leave(mode);
}

/* The best feature of residual r, -1 when nothing is above 0. */
static int32_t best_of(const saei_work *w, const sae_model *model, size_t r, float *value)
{
    const size_t tiles = model->n_tiles;
    int32_t feature = -1;
    *value = 0.0f;
    for (size_t t = 0; t < tiles; t++)
        if (w->best[r * tiles + t] > *value) {
            *value = w->best[r * tiles + t];
            feature = w->count[r * tiles + t];
        }
    return feature;
}

/* Adds v to the code of a feature among the *n of a row, ascending; true when the feature is new. A sum that is not finite leaves all as it
 * was. */
static bool add_code(int32_t *idx, float *val, int32_t *n, int32_t feature, float v)
{
    int32_t at = *n;
    while (at > 0 && idx[at - 1] >= feature)
        at--;
    if (at < *n && idx[at] == feature) {
        if (isfinite(val[at] + v))
            val[at] += v;
        return false;
    }
    memmove(idx + at + 1, idx + at, (size_t)(*n - at) * sizeof *idx);
    memmove(val + at + 1, val + at, (size_t)(*n - at) * sizeof *val);
    idx[at] = feature;
    val[at] = v;
    ++*n;
    return true;
}

/* r = fma(-v, dictionary row, r). */
static void take_away(const saei_work *w, const sae_model *model, float *residual, int32_t feature, float v)
{
    const saei_matrix m = saei_model_enc_rows(model, 0);
    const float coef = -v;
    if (!m.by_cols) {
        model->env->kernels->combine(residual, residual, &m, &feature, &coef, 1);
        return;
    }
    float *row = w->best + w->max_rows * model->n_tiles;
    const saei_matrix one = {row, SAE_F32, false, 1, m.d};
    const int32_t zero = 0;
    saei_matrix_row(row, &m, feature);
    model->env->kernels->combine(residual, residual, &one, &zero, &coef, 1);
}

/* What a round does to residual r, which is left of row `row`; false when the row is done. */
static bool take_best(const saei_work *w, const sae_model *model, size_t r, size_t row)
{
    const saei_parts *p = &model->parts;
    const size_t d = (size_t)p->d_in, d_sae = (size_t)p->d_sae;
    float v, *residual = w->xc + r * d;
    const int32_t feature = best_of(w, model, r, &v);
    if (feature < 0)
        return false;
    const bool added = add_code(w->idx + row * d_sae, w->val + row * d_sae, w->n + row, feature, v);
    take_away(w, model, residual, feature, v);
    if (p->stops_on_repeat && !added)
        return false;
    return !(p->residual_threshold > 0.0f && sqrt(saei_square(residual, d)) < (double)p->residual_threshold);
}

static int64_t count_bad(const saei_work *w, const sae_model *model, size_t n)
{
    int64_t bad = 0;
    for (size_t i = 0; i < n * model->n_tiles; i++)
        bad += (int64_t)w->bad[i];
    return bad;
}

/* Rows that are done leave; the residuals of the others move up. */
sae_status saei_work_pursue(saei_work *work, const sae_model *model, size_t n, int64_t *bad)
{
    const size_t d = (size_t)model->parts.d_in;
    size_t rows[SAEI_MAX_ROWS];
    for (size_t r = 0; r < n; r++) {
        rows[r] = r;
        work->n[r] = 0;
    }
    for (int32_t round = 0; round < model->parts.k && n; round++) {
        round_job job = {model, work, n};
        const saei_dense dense = saei_model_encoder(model, 0);
        const saei_xrows x = saei_work_rows(work, model, 0, n);
        saei_dots_begin(model->env->kernels, &dense, &x);
        if (saei_run(&model->env->host, &job, best_task, model->n_tiles))
            return SAE_E_HOST;
        *bad += round ? 0 : count_bad(work, model, n);
        size_t kept = 0;
        for (size_t r = 0; r < n; r++) {
            if (!take_best(work, model, r, rows[r]))
                continue;
            if (kept < r)
                memcpy(work->xc + kept * d, work->xc + r * d, d * sizeof(float));
            rows[kept++] = rows[r];
        }
        n = kept;
    }
    return SAE_OK;
}
