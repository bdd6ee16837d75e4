#include "model/screen.h"

#include <math.h>
#include <string.h>

/* Sums of d products of bytes stay below 2^31; the error terms were derived up to here. */
enum { MOST_D = 16384 };

static bool can_screen(const sae_model *model)
{
    const saei_parts *p = &model->parts;
    const bool known = p->arch == SAE_STANDARD || p->arch == SAE_JUMPRELU || p->arch == SAE_GATED || p->arch == SAE_TOPK;
    return known && saei_model_whole(model, SAE_W_ENC) && p->d_in <= MOST_D && !model->act.key_scale && !model->act.keeps_negative;
}

static size_t layout(saei_screen *s, const sae_model *model, unsigned char *block)
{
    const size_t n = (size_t)model->parts.d_sae, d16 = ((size_t)model->parts.d_in + 15) / 16;
    size_t total = 0;
    saei_reserve(&total, 1, sizeof *s);
    const size_t columns = saei_reserve(&total, (n + SAEI_COLUMN - 1) / SAEI_COLUMN, d16 * SAEI_COLUMN * 16);
    const size_t scale = saei_reserve(&total, n, sizeof(float)), error = saei_reserve(&total, n, sizeof(float));
    const size_t norm = saei_reserve(&total, n, sizeof(float)), top = saei_reserve(&total, n, sizeof(float));
    if (!block)
        return total;
    const bool shifts =
        !model->b_in && model->parts.b_dec && model->parts.d_in == model->parts.d_out; /* b_dec is about the mean of the rows */
    *s = (saei_screen){.bytes = total,
                       .columns = block + columns,
                       .d16 = d16,
                       .scale = (float *)(void *)(block + scale),
                       .error = (float *)(void *)(block + error),
                       .norm = (float *)(void *)(block + norm),
                       .top = (float *)(void *)(block + top),
                       .centre = shifts ? model->parts.b_dec : NULL};
    s->bound = (saei_bound){s->scale, s->error, s->norm, s->top, model->act.threshold};
    return total;
}

size_t saei_screen_bytes(const sae_model *model)
{
    saei_screen unused;
    return can_screen(model) ? layout(&unused, model, NULL) : 0;
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
    const sae_model *model;
    saei_screen *screen;
    saei_matrix rows;
    float *row; /* per worker: a feature's weights */
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

/* Adding this and taking it away again rounds a small double to an integer, ties to even. */
#define ROUNDER 0x1.8p52

static void quantise(const build_job *j, size_t feature, const float *w, float scale, sums *s)
{
    const size_t d = (size_t)j->model->parts.d_in, d16 = j->screen->d16, i = feature % SAEI_COLUMN;
    uint8_t *to = j->screen->columns + feature / SAEI_COLUMN * d16 * SAEI_COLUMN * 16 + i % 4 * 64 + i / 4 * 16;
    const double inverse = scale > 0.0f ? 1.0 / (double)scale : 0.0;
    for (size_t k = 0; k < d16 * 16; k++) {
        const double v = k < d ? (double)w[k] : 0.0;
        double q = (v * inverse + ROUNDER) - ROUNDER;
        q = q > 127.0 ? 127.0 : q < -127.0 ? -127.0 : q;
        const double kept = (double)scale * q;
        s->lost_square += (v - kept) * (v - kept);
        s->kept_square += kept * kept;
        to[k / 16 * SAEI_COLUMN * 16 + k % 16] = (uint8_t)((int)q + 128);
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
    const float *bias = act->gate ? act->gate : act->bias;
    return bias ? (double)bias[feature] : 0.0;
}

/* Could a code of this feature overflow for a row that is screened (||x|| <= 2^60), or is its scale beyond what the error terms hold for?
 * Then it is a candidate always: its bound is infinite. */
static bool is_extreme(const saei_act *act, size_t feature, const sums *s, double norm)
{
    const double bias = bias_of(act, feature), scale = act->gate ? larger(1.0, fabs((double)act->mag_scale[feature])) : 1.0;
    const double shift = act->gate ? (double)act->mag_bias[feature] : 0.0;
    return !(norm * scale <= 0x1p60) || (norm > 0.0 && norm < 0x1p-40) || !(fabs(bias) <= 0x1p100) || !(fabs(shift) <= 0x1p100) ||
           !(fabs(s->centre) <= 0x1p100);
}

static void build_feature(const build_job *j, size_t feature, const float *w)
{
    const saei_act *act = &j->model->act;
    saei_screen *to = j->screen;
    const size_t d = (size_t)j->model->parts.d_in;
    sums s = add_up(w, j->screen->centre, d);
    const double length = sqrt(s.square), bias = bias_of(act, feature);
    const bool extreme = is_extreme(act, feature, &s, length);
    const float scale = extreme ? 0.0f : (float)(s.largest / 127.0);
    quantise(j, feature, w, scale, &s);
    const double top = bias + s.centre, rounding = (double)(d + 2) * 0x1p-52 * length * sqrt(s.centre_square) + fabs(top) * 0x1p-50;
    to->scale[feature] = scale;
    to->error[feature] = extreme ? INFINITY : saei_round_up(sqrt(s.lost_square) * (1 + 1e-9));
    to->norm[feature] = extreme ? INFINITY : saei_round_up(larger(length, sqrt(s.kept_square)) * (1 + 1e-9));
    to->top[feature] = extreme ? INFINITY : saei_round_up(top + rounding + (double)(d + 32) * 0x1p-149);
}

static void build_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const build_job *j = job;
    const size_t d = (size_t)j->model->parts.d_in, n = (size_t)j->model->parts.d_sae, first = (size_t)i * SAEI_COLUMN;
    float *row = j->row + worker * d;
    for (size_t f = first; f < n && f < first + SAEI_COLUMN; f++) {
        const unsigned char *w = (const unsigned char *)j->rows.data + f * d * sae_dtype_bytes(j->rows.dtype);
        j->model->env->kernels->widen(row, w, j->rows.dtype, d);
        build_feature(j, f, row);
    }
    saei_fp_leave(mode);
}

sae_status saei_screen_build(saei_screen **out, const sae_model *model, sae_error *err)
{
    const saei_host *host = &model->env->host;
    const size_t n = (size_t)model->parts.d_sae, d = (size_t)model->parts.d_in, bytes = saei_screen_bytes(model);
    size_t row_bytes = 0;
    saei_reserve(&row_bytes, host->max_workers * d, sizeof(float));
    unsigned char *block = saei_zalloc(host, bytes);
    float *row = saei_alloc(host, row_bytes);
    *out = NULL;
    if (!block || !row) {
        saei_dealloc(host, block, bytes);
        saei_dealloc(host, row, row_bytes);
        return saei_fail(err, SAE_E_NOMEM, "no memory for the screen of W_enc (%zu bytes)", bytes + row_bytes);
    }
    saei_screen *screen = (saei_screen *)(void *)block;
    layout(screen, model, block);
    build_job job = {model, screen, saei_model_enc_rows(model, 0), row};
    const sae_status status = saei_run(host, &job, build_task, (uint32_t)((n + SAEI_COLUMN - 1) / SAEI_COLUMN));
    saei_dealloc(host, row, row_bytes);
    if (status) {
        saei_dealloc(host, block, bytes);
        return saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while the screen of W_enc was built");
    }
    *out = screen;
    return SAE_OK;
}
