#include "model/screen.h"

#include <math.h>
#include <string.h>

/* Sums of d products of bytes stay below 2^31; the error terms were derived up to here. */
enum { MOST_D = 16384 };

bool saei_screen_too_deep(size_t d)
{
    return d > MOST_D;
}

static bool can_screen(const sae_model *model)
{
    const saei_parts *p = &model->parts;
    const bool known =
        p->arch == SAE_STANDARD || p->arch == SAE_JUMPRELU || p->arch == SAE_GATED || p->arch == SAE_TOPK || p->arch == SAE_GROUPMAX;
    return known && saei_model_whole(model, SAE_W_ENC) && !saei_screen_too_deep((size_t)p->d_in) && !model->act.key_scale &&
           !model->act.keeps_negative;
}

/* b_dec is about the mean of the rows: where it is not subtracted, the screen does it. */
static const float *centre_of(const sae_model *model)
{
    const saei_parts *p = &model->parts;
    return !model->b_in && p->d_in == p->d_out ? p->b_dec : NULL;
}

/* ---- where a weight lies, by columns of simd/kernels.h: nothing else knows of it ---- */

enum { BLOCK = SAEI_COLUMN, BYTES = 16, STEP = BLOCK * BYTES };

/* Steps of a feature of d elements. */
static size_t steps(size_t d)
{
    return (d + BYTES - 1) / BYTES;
}

static uint32_t blocks(size_t n)
{
    return (uint32_t)((n + BLOCK - 1) / BLOCK);
}

static size_t byte_of(size_t d, size_t feature)
{
    return feature / BLOCK * steps(d) * STEP + feature % 4 * (STEP / 4) + feature % BLOCK / 4 * BYTES;
}

static size_t weights_of(size_t n, size_t d)
{
    return blocks(n) * steps(d) * STEP;
}

size_t saei_screen_weights(const sae_model *model)
{
    return weights_of((size_t)model->parts.d_sae, (size_t)model->parts.d_in);
}

/* Where a screen is made. */
typedef struct making {
    uint8_t *columns;
    float *scale, *error, *norm, *top;
} making;

static size_t layout(making *m, size_t n, size_t d, unsigned char *block)
{
    size_t total = 0;
    saei_reserve(&total, 1, sizeof(saei_screen));
    const size_t columns = saei_reserve(&total, weights_of(n, d), 1);
    const size_t scale = saei_reserve(&total, n, sizeof(float)), error = saei_reserve(&total, n, sizeof(float));
    const size_t norm = saei_reserve(&total, n, sizeof(float)), top = saei_reserve(&total, n, sizeof(float));
    if (block)
        *m = (making){block + columns, (float *)(void *)(block + scale), (float *)(void *)(block + error), (float *)(void *)(block + norm),
                      (float *)(void *)(block + top)};
    return total;
}

size_t saei_screen_bytes(const sae_model *model)
{
    return can_screen(model) ? layout(NULL, (size_t)model->parts.d_sae, (size_t)model->parts.d_in, NULL) : 0;
}

float saei_round_up(double v)
{
    float f = (float)v;
    uint32_t bits;
    if (!((double)f < v))
        return f;
    if (f == 0.0f)
        f = 0.0f; /* without a sign: the next one is the smallest of all */
    memcpy(&bits, &f, sizeof bits);
    bits += f < 0.0f ? UINT32_MAX : 1u;
    memcpy(&f, &bits, sizeof f);
    return f;
}

typedef struct build_job {
    saei_screened of;
    size_t n, d;
    making to;
    const saei_screen *stored;   /* to be compared with, not built */
    sae_dtype dtype;             /* weights are rounded to it; 0 = not */
    float *scratch;              /* per worker: a feature's weights, and as much again */
    size_t per_scratch;          /* floats of it */
    _Atomic(size_t) first_wrong; /* feature * N_SECTIONS + section */
} build_job;

/* Sums over a feature's weights. */
typedef struct sums {
    double largest, square, centre, centre_square, lost_square, kept_square;
} sums;

static sums add_up(const float *w, const float *centre, size_t d)
{
    sums s = {0};
    for (size_t k = 0; k < d; k++) {
        const double v = (double)w[k], c = centre ? (double)centre[k] : 0.0;
        s.largest = fabs(v) > s.largest ? fabs(v) : s.largest;
        s.square += v * v;
        s.centre += v * c;
        s.centre_square += c * c;
    }
    return s;
}

/* BYTES weights of a feature at `to`, the next ones `step` bytes on. */
static void quantise(uint8_t *to, size_t step, const float *w, size_t d, float scale, sums *s)
{
    const double inverse = scale > 0.0f ? 1.0 / (double)scale : 0.0;
    for (size_t k = 0; k < (d + BYTES - 1) / BYTES * BYTES; k++) {
        const double v = k < d ? (double)w[k] : 0.0;
        double q = saei_to_integer(v * inverse);
        q = q > 127.0 ? 127.0 : q >= -127.0 ? q : -127.0; /* a NaN too, of a model that nobody checked */
        const double kept = (double)scale * q;
        s->lost_square += (v - kept) * (v - kept);
        s->kept_square += kept * kept;
        to[k / BYTES * step + k % BYTES] = (uint8_t)((int)q + 128);
    }
}

/* NaN if b is one. */
static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* What is added to the dot before it is judged. */
static double bias_of(const saei_act *act, size_t feature)
{
    const float *bias = !act ? NULL : act->gate ? act->gate : act->bias;
    return bias ? (double)bias[feature] : 0.0;
}

/* Could a code of this feature overflow for a row that is screened (||x|| <= 2^60), or is its scale beyond what the error terms hold for?
 * Then it is a candidate always: its bound is infinite. */
static bool is_extreme(const saei_act *act, size_t feature, const sums *s, double norm)
{
    const bool gated = act && act->gate;
    const double bias = bias_of(act, feature), scale = gated ? larger(1.0, fabs((double)act->mag_scale[feature])) : 1.0;
    const double shift = gated ? (double)act->mag_bias[feature] : 0.0;
    return !(norm * scale <= 0x1p60) || (norm > 0.0 && norm < 0x1p-40) || !(fabs(bias) <= 0x1p100) || !(fabs(shift) <= 0x1p100) ||
           !(fabs(s->centre) <= 0x1p100);
}

/* What the screen says of one feature besides its bytes. */
typedef struct bounds {
    float scale, error, norm, top;
} bounds;

static bounds build_feature(const build_job *j, size_t feature, const float *w, uint8_t *to, size_t step)
{
    const saei_act *act = j->of.act;
    const size_t d = j->d;
    sums s = add_up(w, j->of.centre, d);
    const double length = sqrt(s.square), bias = bias_of(act, feature);
    const bool extreme = is_extreme(act, feature, &s, length);
    const float scale = extreme ? 0.0f : (float)(s.largest / 127.0);
    quantise(to, step, w, d, scale, &s);
    if (extreme)
        return (bounds){0.0f, INFINITY, INFINITY, INFINITY};
    const double top = bias + s.centre, rounding = (double)(d + 2) * 0x1p-52 * length * sqrt(s.centre_square) + fabs(top) * 0x1p-50;
    return (bounds){scale, saei_round_up(sqrt(s.lost_square) * (1 + 1e-9)), saei_round_up(larger(length, sqrt(s.kept_square)) * (1 + 1e-9)),
                    saei_round_up(top + rounding + (double)(d + 32) * 0x1p-149)};
}

/* A feature's weights; `spare` has room for as many. */
static void read_row(const build_job *j, float *row, float *spare, size_t feature)
{
    const saei_kernels *k = j->of.env->kernels;
    const saei_matrix *m = &j->of.rows;
    const size_t d = j->d;
    if (m->by_cols)
        saei_matrix_row(row, m, (int32_t)feature);
    else
        k->widen(row, (const unsigned char *)m->data + feature * d * sae_dtype_bytes(m->dtype), m->dtype, d);
    if (j->dtype) {
        k->narrow(spare, row, j->dtype, d);
        k->widen(row, spare, j->dtype, d);
    }
}

static void build_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const build_job *j = job;
    const size_t first = (size_t)i * BLOCK;
    float *row = j->scratch + worker * j->per_scratch;
    memset(j->to.columns + byte_of(j->d, first), 128, steps(j->d) * STEP);
    for (size_t f = first; f < j->n && f < first + BLOCK; f++) {
        read_row(j, row, row + j->per_scratch / 2, f);
        const bounds b = build_feature(j, f, row, j->to.columns + byte_of(j->d, f), STEP);
        j->to.scale[f] = b.scale;
        j->to.error[f] = b.error;
        j->to.norm[f] = b.norm;
        j->to.top[f] = b.top;
    }
    saei_fp_leave(mode);
}

/* Runs a task for each block. */
static sae_status run_blocks(build_job *j, sae_task task, sae_error *err)
{
    const saei_host *host = &j->of.env->host;
    size_t bytes = 0;
    j->n = (size_t)j->of.rows.n;
    j->d = (size_t)j->of.rows.d;
    j->per_scratch = 2 * (j->d + BYTES);
    saei_reserve(&bytes, host->max_workers * j->per_scratch, sizeof(float));
    j->scratch = saei_alloc(host, bytes);
    if (!j->scratch)
        return saei_fail(err, SAE_E_NOMEM, "no memory to look at the rows of %s (%zu bytes)", j->of.name, bytes);
    const sae_status status = saei_run(host, j, task, blocks(j->n));
    saei_dealloc(host, j->scratch, bytes);
    return status ? saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while the screen of %s was made", j->of.name) : SAE_OK;
}

sae_status saei_screen_make(saei_screen **out, const saei_screened *of, sae_dtype dtype, sae_error *err)
{
    const size_t n = (size_t)of->rows.n, d = (size_t)of->rows.d, bytes = layout(NULL, n, d, NULL);
    unsigned char *block = saei_alloc(&of->env->host, bytes);
    *out = NULL;
    if (!block)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the screen of %s (%zu bytes)", of->name, bytes);
    build_job job = {.of = *of, .dtype = dtype};
    layout(&job.to, n, d, block);
    const sae_status status = run_blocks(&job, build_task, err);
    if (status) {
        saei_dealloc(&of->env->host, block, bytes);
        return status;
    }
    const making *m = &job.to;
    saei_screen *screen = (saei_screen *)(void *)block;
    *screen = (saei_screen){.bytes = bytes,
                            .columns = m->columns,
                            .d16 = steps(d),
                            .bound = {m->scale, m->error, m->norm, m->top, of->act ? of->act->threshold : NULL},
                            .centre = of->centre};
    *out = screen;
    return SAE_OK;
}

static saei_screened screened_of(const sae_model *model)
{
    return (saei_screened){model->env, saei_model_enc_rows(model, 0), centre_of(model), &model->act, "W_enc"};
}

sae_status saei_screen_build(saei_screen **out, const sae_model *model, sae_dtype dtype, sae_error *err)
{
    const saei_screened of = screened_of(model);
    return saei_screen_make(out, &of, dtype, err);
}

/* ---- the screen of a file ---- */

sae_status saei_screen_attach(sae_model *model, sae_error *err)
{
    const saei_packed_screen *p = &model->parts.screen;
    const float *centre = centre_of(model);
    if (!p->weights || !can_screen(model) || p->centred != (centre != NULL))
        return SAE_OK;
    if (p->n_weights != saei_screen_weights(model))
        return saei_fail(err, SAE_E_FORMAT, "screen.weights has %zu bytes, W_enc makes %zu: the file is damaged, get a good copy",
                         p->n_weights, saei_screen_weights(model));
    saei_screen *screen = saei_alloc(&model->env->host, sizeof *screen);
    if (!screen)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the screen of W_enc (%zu bytes)", sizeof *screen);
    *screen = (saei_screen){.bytes = sizeof *screen,
                            .stored = true,
                            .columns = p->weights,
                            .d16 = steps((size_t)model->parts.d_in),
                            .bound = {p->scale, p->error, p->norm, p->top, model->act.threshold},
                            .centre = centre};
    atomic_store_explicit(&model->screen, screen, memory_order_release);
    return SAE_OK;
}

static const char *const sections[] = {"weights", "scale", "error", "norm", "top"};
enum { N_SECTIONS = sizeof sections / sizeof *sections };

/* The first section that is wrong about a feature; N_SECTIONS = none. */
static size_t wrong_about(const build_job *j, float *row, size_t feature)
{
    const saei_bound *have = &j->stored->bound;
    const uint8_t *stored = j->stored->columns + byte_of(j->d, feature);
    uint8_t *bytes = (uint8_t *)(row + j->per_scratch / 2);
    read_row(j, row, NULL, feature);
    const bounds b = build_feature(j, feature, row, bytes, BYTES);
    for (size_t k = 0; k < steps(j->d); k++)
        if (memcmp(stored + k * STEP, bytes + k * BYTES, BYTES) != 0)
            return 0;
    const float want[] = {b.scale, b.error, b.norm, b.top};
    const float is[] = {have->scale[feature], have->error[feature], have->norm[feature], have->top[feature]};
    size_t section = 1;
    while (section < N_SECTIONS && memcmp(&is[section - 1], &want[section - 1], sizeof *is) == 0)
        section++;
    return section;
}

static void prove_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    build_job *j = job;
    const size_t first = (size_t)i * BLOCK;
    float *row = j->scratch + worker * j->per_scratch;
    for (size_t f = first; f < j->n && f < first + BLOCK; f++) {
        const size_t section = wrong_about(j, row, f), wrong = f * N_SECTIONS + section;
        size_t seen = atomic_load(&j->first_wrong);
        while (section < N_SECTIONS && wrong < seen && !atomic_compare_exchange_weak(&j->first_wrong, &seen, wrong))
            continue;
    }
    saei_fp_leave(mode);
}

sae_status saei_screen_prove(const sae_model *model, sae_error *err)
{
    const saei_screen *screen = atomic_load_explicit(&model->screen, memory_order_acquire);
    if (!screen || !screen->stored)
        return SAE_OK;
    build_job job = {.of = screened_of(model), .stored = screen, .first_wrong = SIZE_MAX};
    const sae_status status = run_blocks(&job, prove_task, err);
    const size_t wrong = atomic_load(&job.first_wrong);
    if (status || wrong == SIZE_MAX)
        return status;
    return saei_fail(err, SAE_E_FORMAT,
                     "screen.%s in the file is not what W_enc gives, first for feature %zu: codes may be wrong, convert the SAE again from "
                     "where it came",
                     sections[wrong % N_SECTIONS], wrong / N_SECTIONS);
}
