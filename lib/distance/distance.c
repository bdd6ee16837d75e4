#include "sae/distance.h"

#include <math.h>
#include <string.h>

#include "distance/angle.h"
#include "distance/index.h"

static int32_t tensor_of(const sae_index *index)
{
    return index->by == SAE_BY_DECODER ? SAE_W_DEC : SAE_W_ENC;
}

/* Where one matrix holds all rows; else they are gathered, 16 at a time. */
static bool is_whole(const sae_index *index)
{
    return saei_model_whole(index->model, tensor_of(index));
}

saei_matrix saei_index_rows(const sae_index *index)
{
    return index->by == SAE_BY_DECODER ? saei_model_dec_rows(index->model, 0) : saei_model_enc_rows(index->model, 0);
}

float saei_index_scale(const sae_index *index, size_t j)
{
    return index->by == SAE_BY_DECODER && index->model->dec_scale ? index->model->dec_scale[j] : 1.0f;
}

static void norms_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    const sae_index *index = job;
    const size_t first = (size_t)i * SAEI_BLOCK, last = first + SAEI_BLOCK < index->n ? first + SAEI_BLOCK : index->n;
    for (size_t j = first; j < last; j++) {
        index->norms[j] = sqrt(saei_model_square(index->model, tensor_of(index), (int32_t)j)) * fabs((double)saei_index_scale(index, j));
    }
    saei_fp_leave(mode);
}

sae_status sae_index_create(sae_index **out, sae_model *model, int32_t by, sae_error *err)
{
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_index_create: out is NULL");
    *out = NULL;
    if (!model)
        return saei_fail(err, SAE_E_ARG, "sae_index_create: model is NULL");
    if (by != SAE_BY_DECODER && by != SAE_BY_ENCODER)
        return saei_fail(err, SAE_E_ARG, "by = %d is neither SAE_BY_DECODER nor SAE_BY_ENCODER", (int)by);
    const saei_host *host = &model->env->host;
    const size_t n = (size_t)model->parts.d_sae;
    size_t bytes = 0;
    saei_reserve(&bytes, 1, sizeof(sae_index));
    const size_t norms = saei_reserve(&bytes, n, sizeof(double));
    unsigned char *block = saei_alloc(host, bytes);
    if (!block)
        return saei_fail(err, SAE_E_NOMEM, "no memory for an index of %zu features (%zu bytes)", n, bytes);
    sae_index *index = (sae_index *)(void *)block;
    *index = (sae_index){.model = model,
                         .by = by,
                         .n = n,
                         .d = (size_t)(by == SAE_BY_DECODER ? model->parts.d_out : model->parts.d_in),
                         .norms = (double *)(void *)(block + norms),
                         .bytes = bytes};
    if (saei_run(host, index, norms_task, (uint32_t)((n + SAEI_BLOCK - 1) / SAEI_BLOCK))) {
        saei_dealloc(host, block, bytes);
        return saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while the norms of %zu features were computed", n);
    }
    saei_model_take(model);
    *out = index;
    return saei_ok(err);
}

void sae_index_free(sae_index *index)
{
    if (!index)
        return;
    sae_model *model = index->model;
    if (index->screen)
        saei_dealloc(&model->env->host, index->screen, index->screen->bytes);
    saei_dealloc(&model->env->host, index->inverse, index->n * sizeof *index->inverse);
    saei_dealloc(&model->env->host, index, index->bytes);
    sae_model_free(model);
}

int32_t sae_index_dim(const sae_index *index)
{
    return index ? (int32_t)index->d : 0;
}

/* What a dot with row j is to be multiplied by; NaN unless it grows with the dot. */
static float inverse_of(const sae_index *index, size_t j)
{
    const double scale = (double)saei_index_scale(index, j);
    return scale > 0.0 ? (float)(scale / index->norms[j]) : NAN;
}

sae_status sae_index_prepare(sae_index *index, sae_error *err)
{
    if (!index)
        return saei_fail(err, SAE_E_ARG, "sae_index_prepare: index is NULL");
    if (index->screen || !is_whole(index) || saei_screen_too_deep(index->d))
        return saei_ok(err);
    const saei_screened of = {index->model->env, saei_index_rows(index), NULL, NULL, "the index"};
    const saei_host *host = &index->model->env->host;
    float *inverse = saei_alloc(host, index->n * sizeof *inverse);
    if (!inverse)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the lengths of %zu rows (%zu bytes)", index->n, index->n * sizeof *inverse);
    const sae_status status = saei_screen_make(&index->screen, &of, 0, err);
    if (status) {
        saei_dealloc(host, inverse, index->n * sizeof *inverse);
        return status;
    }
    for (size_t j = 0; j < index->n; j++)
        inverse[j] = inverse_of(index, j);
    index->inverse = inverse;
    return saei_ok(err);
}

int64_t sae_index_screen_bytes(const sae_index *index)
{
    return index && index->screen ? (int64_t)(index->screen->bytes + index->n * sizeof *index->inverse) : 0;
}

static size_t lay_scratch(saei_index_scratch *out, const sae_index *index, void *block)
{
    const size_t workers = index->model->env->host.max_workers;
    size_t total = 0;
    const size_t cosines = saei_reserve(&total, index->n, sizeof(float));
    const size_t a = saei_reserve(&total, index->d, sizeof(float)), b = saei_reserve(&total, index->d, sizeof(float));
    const size_t gathered = saei_reserve(&total, is_whole(index) ? 0 : workers * SAEI_LANES * index->d, sizeof(float));
    const size_t planes = saei_reserve(&total, index->screen ? index->screen->d16 : 0, 32);
    const size_t sums = saei_reserve(&total, index->screen ? workers * 2 * SAEI_TILE : 0, sizeof(int32_t));
    const size_t groups = saei_reserve(&total, index->screen ? 2 * saei_index_groups(index) : 0, sizeof(float));
    if (block) {
        unsigned char *p = (unsigned char *)block + (-(uintptr_t)block & 63);
        *out = (saei_index_scratch){.cosines = (float *)(void *)(p + cosines),
                                    .a = (float *)(void *)(p + a),
                                    .b = (float *)(void *)(p + b),
                                    .gathered = (float *)(void *)(p + gathered),
                                    .planes = (int8_t *)(p + planes),
                                    .sums = (int32_t *)(void *)(p + sums),
                                    .groups = (float *)(void *)(p + groups)};
    }
    return total > SIZE_MAX - 64 ? SIZE_MAX : total + 64;
}

size_t sae_index_scratch_bytes(const sae_index *index)
{
    saei_index_scratch unused;
    return index ? lay_scratch(&unused, index, NULL) : 0;
}

static sae_status take_scratch(saei_index_scratch *out, const sae_index *index, void *block, size_t bytes, sae_error *err)
{
    saei_index_scratch unused;
    const size_t need = lay_scratch(&unused, index, NULL);
    if (!block || bytes < need)
        return saei_fail(err, SAE_E_CAPACITY, "the scratch has %zu bytes, sae_index_scratch_bytes asks for %zu", block ? bytes : 0, need);
    lay_scratch(out, index, block);
    return SAE_OK;
}

/* Rounding of the dot may leave -1 .. 1 by an ulp; NaN (a row of length 0) stays. */
static float unit_range(double cosine)
{
    return cosine > 1.0 ? 1.0f : cosine < -1.0 ? -1.0f : (float)cosine;
}

/* c[j] = dot of the query and row first + j, j < n: from the one matrix, or from rows that are gathered. */
static void dots(const saei_search *s, float *c, size_t first, size_t n, uint32_t worker)
{
    const sae_index *index = s->index;
    const saei_kernels *k = index->model->env->kernels;
    const saei_matrix m = saei_index_rows(index);
    if (is_whole(index)) {
        if (m.by_cols)
            k->gemv_cols(c, n, &m, first, n, s->room->a, index->d, 1);
        else
            k->dot_rows(c, n, &m, NULL, first, n, s->room->a, index->d, 1);
        return;
    }
    float *rows = s->room->gathered + (size_t)worker * SAEI_LANES * index->d;
    const saei_matrix some = {rows, SAE_F32, false, SAEI_LANES, (int32_t)index->d};
    for (size_t j = 0; j < n; j += SAEI_LANES) {
        const size_t now = n - j < SAEI_LANES ? n - j : SAEI_LANES;
        for (size_t i = 0; i < now; i++)
            saei_model_row(rows + i * index->d, index->model, tensor_of(index), (int32_t)(first + j + i));
        k->dot_rows(c + j, now, &some, NULL, 0, now, s->room->a, index->d, 1);
    }
}

float saei_search_cosine(const saei_search *s, size_t j, float dot)
{
    /* the stored row counts scale times, and so does its norm: the scale cancels but for its sign */
    return unit_range((double)dot * (double)saei_index_scale(s->index, j) / (s->query_norm * s->index->norms[j]));
}

void saei_search_exact(const saei_search *s, float *cosines, size_t first, size_t n, uint32_t worker)
{
    dots(s, cosines, first, n, worker);
    for (size_t j = 0; j < n; j++)
        cosines[j] = saei_search_cosine(s, first + j, cosines[j]);
}

static void search_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const saei_search *s = job;
    const size_t first = (size_t)i * SAEI_TILE, left = s->index->n - first;
    saei_search_exact(s, s->room->cosines + first, first, left < SAEI_TILE ? left : SAEI_TILE, worker);
    saei_fp_leave(mode);
}

/* a before b in the result: higher cosine, then lower index. */
static bool before(float cos_a, int32_t a, float cos_b, int32_t b)
{
    return cos_a > cos_b || (cos_a == cos_b && a < b);
}

/* The result arrays are a heap with the worst on top while the search runs. */
static void sift_down(sae_neighbors *o, int32_t n, int32_t i, float cosine, int32_t feature)
{
    for (;;) {
        int32_t worst = 2 * i + 1;
        if (worst >= n)
            break;
        if (worst + 1 < n && before(o->cosines[worst], o->features[worst], o->cosines[worst + 1], o->features[worst + 1]))
            worst++;
        if (!before(cosine, feature, o->cosines[worst], o->features[worst]))
            break;
        o->cosines[i] = o->cosines[worst];
        o->features[i] = o->features[worst];
        i = worst;
    }
    o->cosines[i] = cosine;
    o->features[i] = feature;
}

static void collect(sae_neighbors *o, const saei_search *s, int32_t except)
{
    o->n = 0;
    for (size_t j = 0; j < s->index->n; j++) {
        const float cosine = s->room->cosines[j];
        if ((int32_t)j == except || !(cosine >= -2.0f)) /* NaN: a row of length 0 */
            continue;
        if (o->n < o->k) {
            int32_t i = o->n++;
            while (i > 0 && before(o->cosines[(i - 1) / 2], o->features[(i - 1) / 2], cosine, (int32_t)j)) {
                o->cosines[i] = o->cosines[(i - 1) / 2];
                o->features[i] = o->features[(i - 1) / 2];
                i = (i - 1) / 2;
            }
            o->cosines[i] = cosine;
            o->features[i] = (int32_t)j;
        } else if (before(cosine, (int32_t)j, o->cosines[0], o->features[0])) {
            sift_down(o, o->n, 0, cosine, (int32_t)j);
        }
    }
    for (int32_t n = o->n - 1; n > 0; n--) { /* heap sort: the worst goes to the end */
        const float cosine = o->cosines[n];
        const int32_t feature = o->features[n];
        o->cosines[n] = o->cosines[0];
        o->features[n] = o->features[0];
        sift_down(o, n, 0, cosine, feature);
    }
}

/* The query is room->a. */
static sae_status nearest(const sae_index *index, sae_neighbors *out, const saei_index_scratch *room, int32_t except, sae_error *err)
{
    sae_neighbors o;
    sae_status status = saei_read_struct(&o, sizeof o, out, "sae_neighbors", err);
    if (status)
        return status;
    if (o.k < 1 || !o.features || !o.cosines)
        return saei_fail(err, SAE_E_ARG, "sae_neighbors has k = %d, features %s, cosines %s: it needs k >= 1 and both arrays", (int)o.k,
                         o.features ? "set" : "NULL", o.cosines ? "set" : "NULL");
    saei_search s = {.index = index, .room = room, .query_norm = sqrt(saei_square(room->a, index->d))};
    if (!isfinite(s.query_norm) || s.query_norm == 0.0)
        return saei_fail(err, SAE_E_ARG, "the query has length %g: a direction needs a finite length above 0", s.query_norm);
    if (!saei_search_screened(&s, o.k, except, &status) && !status)
        status = saei_run(&index->model->env->host, &s, search_task, (uint32_t)((index->n + SAEI_TILE - 1) / SAEI_TILE));
    if (status)
        return saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while %zu features were searched", index->n);
    collect(&o, &s, except);
    return saei_write_struct(out, &o, sizeof o, "sae_neighbors", err);
}

static void row_of(float *out, const sae_index *index, int32_t feature)
{
    const float scale = saei_index_scale(index, (size_t)feature);
    saei_model_row(out, index->model, tensor_of(index), feature);
    if (scale != 1.0f)
        for (size_t k = 0; k < index->d; k++)
            out[k] *= scale;
}

sae_status sae_index_nearest(const sae_index *index, sae_neighbors *out, const float *query, void *block, size_t block_bytes,
                             sae_error *err)
{
    saei_index_scratch s;
    if (!index || !out || !query)
        return saei_fail(err, SAE_E_ARG, "sae_index_nearest: %s is NULL", !index ? "index" : !out ? "out" : "query");
    sae_status status = take_scratch(&s, index, block, block_bytes, err);
    if (status)
        return status;
    const saei_fpmode mode = saei_fp_enter();
    memcpy(s.a, query, index->d * sizeof *s.a);
    status = nearest(index, out, &s, -1, err);
    saei_fp_leave(mode);
    return status ? status : saei_ok(err);
}

sae_status sae_index_nearest_feature(const sae_index *index, sae_neighbors *out, int32_t feature, void *block, size_t block_bytes,
                                     sae_error *err)
{
    saei_index_scratch s;
    if (!index || !out)
        return saei_fail(err, SAE_E_ARG, "sae_index_nearest_feature: %s is NULL", index ? "out" : "index");
    sae_status status = saei_check_features(index->model, &feature, 1, err);
    if (status || (status = take_scratch(&s, index, block, block_bytes, err)))
        return status;
    const saei_fpmode mode = saei_fp_enter();
    row_of(s.a, index, feature);
    status = nearest(index, out, &s, feature, err);
    saei_fp_leave(mode);
    return status ? status : saei_ok(err);
}

static float cosine_of(const sae_index *index, const saei_index_scratch *s, int32_t a, int32_t b)
{
    const saei_matrix one = {s->b, SAE_F32, false, 1, (int32_t)index->d};
    float dot;
    index->model->env->kernels->dot_rows(&dot, 1, &one, NULL, 0, 1, s->a, index->d, 1);
    return unit_range((double)dot / (index->norms[a] * index->norms[b]));
}

static float l2_of(const sae_index *index, const saei_index_scratch *s)
{
    double sum = 0.0;
    for (size_t k = 0; k < index->d; k++) {
        const double e = (double)s->a[k] - (double)s->b[k];
        sum += e * e;
    }
    return (float)sqrt(sum);
}

static float pair(const sae_index *index, const saei_index_scratch *s, int32_t measure, int32_t a, int32_t b)
{
    if (measure == SAE_L2)
        return l2_of(index, s);
    if (measure == SAE_ANGLE)
        return (float)saei_angle(s->a, index->norms[a], s->b, index->norms[b], index->d);
    return cosine_of(index, s, a, b);
}

sae_status sae_index_pairs(const sae_index *index, float *out, int32_t measure, const int32_t *features, int64_t n, void *block,
                           size_t block_bytes, sae_error *err)
{
    saei_index_scratch s;
    if (!index || (n > 0 && (!out || !features)))
        return saei_fail(err, SAE_E_ARG, "sae_index_pairs: %s is NULL", !index ? "index" : !out ? "out" : "features");
    if (measure < SAE_COSINE || measure > SAE_L2)
        return saei_fail(err, SAE_E_ARG, "measure = %d is not SAE_COSINE, SAE_ANGLE or SAE_L2", (int)measure);
    if (n < 0)
        return saei_fail(err, SAE_E_ARG, "n = %lld features", (long long)n);
    sae_status status = saei_check_features(index->model, features, n, err);
    if (status || (status = take_scratch(&s, index, block, block_bytes, err)))
        return status;
    const saei_fpmode mode = saei_fp_enter();
    for (int64_t i = 0; i < n; i++) {
        row_of(s.a, index, features[i]);
        for (int64_t j = i; j < n; j++) {
            row_of(s.b, index, features[j]);
            out[i * n + j] = out[j * n + i] = pair(index, &s, measure, features[i], features[j]);
        }
    }
    saei_fp_leave(mode);
    return saei_ok(err);
}
