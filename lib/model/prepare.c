#include "model/screen.h"

#include <string.h>

/* ---- checking ---- */

typedef struct check_job {
    const saei_kernels *kernels;
    const unsigned char *data;
    sae_dtype dtype;
    size_t n;
    _Atomic(size_t) first_bad;
} check_job;

enum { CHECK_PER_TASK = 1 << 20 };

static void check_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    check_job *j = job;
    const size_t first = (size_t)i * CHECK_PER_TASK, left = j->n - first, n = left < CHECK_PER_TASK ? left : CHECK_PER_TASK;
    const size_t bad = j->kernels->nonfinite(j->data + first * sae_dtype_bytes(j->dtype), j->dtype, n);
    size_t seen = atomic_load(&j->first_bad);
    while (bad < n && first + bad < seen && !atomic_compare_exchange_weak(&j->first_bad, &seen, first + bad))
        continue;
}

sae_status saei_matrix_check(const sae_env *env, const saei_matrix *m, const char *name, sae_error *err)
{
    const size_t n = (size_t)m->n * (size_t)m->d;
    check_job job = {env->kernels, m->data, m->dtype, n, SIZE_MAX};
    if (saei_run(&env->host, &job, check_task, (uint32_t)((n + CHECK_PER_TASK - 1) / CHECK_PER_TASK)))
        return saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while %s was checked", name);
    const size_t bad = atomic_load(&job.first_bad), width = (size_t)(m->by_cols ? m->n : m->d);
    if (bad == SIZE_MAX)
        return SAE_OK;
    return saei_fail(err, SAE_E_FORMAT, "%s is not finite at row %zu, column %zu (as stored): the checkpoint is damaged", name, bad / width,
                     bad % width);
}

typedef struct vector {
    const float *v;
    int32_t n;
    const char *name;
} vector;

static sae_status check_vectors(const sae_model *model, const vector *v, size_t n_vectors, sae_error *err)
{
    for (size_t i = 0; i < n_vectors; i++) {
        const size_t n = v[i].v ? (size_t)v[i].n : 0, bad = model->env->kernels->nonfinite(v[i].v, SAE_F32, n);
        if (bad < n)
            return saei_fail(err, SAE_E_FORMAT, "%s is not finite at element %zu: the checkpoint is damaged", v[i].name, bad);
    }
    return SAE_OK;
}

/* A matrix that parts of the model share is looked at once. */
static sae_status check_matrices(const sae_model *model, sae_error *err)
{
    const saei_parts *p = &model->parts;
    sae_status status = SAE_OK;
    for (uint32_t i = 0; i < p->n_enc && !status; i++)
        if (!i || p->enc[i].w.m.data != p->enc[i - 1].w.m.data)
            status = saei_matrix_check(model->env, &p->enc[i].w.m, p->n_enc > 1 ? p->enc[i].w.name : "W_enc", err);
    for (uint32_t i = 0; i < p->n_dec && !status; i++)
        if (!i || p->dec[i].w.m.data != p->dec[i - 1].w.m.data)
            status = saei_matrix_check(model->env, &p->dec[i].w.m, p->n_dec > 1 ? p->dec[i].w.name : "W_dec", err);
    for (uint32_t i = 0; i < p->n_skip && !status; i++)
        status = saei_matrix_check(model->env, &p->skip[i].w.m, p->n_skip > 1 ? p->skip[i].w.name : "W_skip", err);
    return status;
}

static sae_status check_attention(const sae_model *model, sae_error *err)
{
    const saei_parts *p = &model->parts;
    sae_status status = SAE_OK;
    for (int32_t i = 0; i < 4 * p->n_attention && !status; i++) {
        const saei_attention *a = p->attention + i / 4;
        const saei_linear *all[] = {&a->k_ctx, &a->q_target, &a->v_ctx, &a->c_proj}, *l = all[i % 4];
        const vector bias = {l->bias, l->w.m.n, l->w.name};
        status = saei_matrix_check(model->env, &l->w.m, l->w.name, err);
        if (!status)
            status = check_vectors(model, &bias, 1, err);
    }
    return status;
}

sae_status sae_model_check(const sae_model *model, sae_error *err)
{
    if (!model)
        return saei_fail(err, SAE_E_ARG, "sae_model_check: model is NULL");
    const saei_parts *p = &model->parts;
    const vector vectors[] = {
        {p->b_enc, p->d_sae, "b_enc"},         {p->b_dec, p->d_out, "b_dec"},         {p->threshold, p->d_sae, "threshold"},
        {p->b_gate, p->d_sae, "b_gate"},       {p->b_mag, p->d_sae, "b_mag"},         {p->r_mag, p->d_sae, "r_mag"},
        {p->key_scale, p->d_sae, "key_scale"}, {p->dec_scale, p->d_sae, "dec_scale"}, {p->in_shift, p->d_in, "in_shift"},
        {p->in_scale, p->d_in, "in_scale"},    {p->out_shift, p->d_out, "out_shift"}, {p->out_scale, p->d_out, "out_scale"}};
    sae_status status = check_vectors(model, vectors, sizeof vectors / sizeof *vectors, err);
    if (!status)
        status = check_matrices(model, err);
    if (!status)
        status = check_attention(model, err);
    if (!status)
        status = saei_screen_prove(model, err);
    return status ? status : saei_ok(err);
}

/* ---- packing ---- */

typedef struct pack_job {
    const saei_kernels *kernels;
    const saei_matrix *m;
    void *dst;
} pack_job;

static void panels_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    const pack_job *j = job;
    const size_t d = (size_t)j->m->d, n = (size_t)j->m->n, j0 = (size_t)i * SAEI_BLOCK;
    float *dst = (float *)j->dst + j0 * d;
    j->kernels->pack_panels(dst, j->m, j0, n - j0 < SAEI_BLOCK ? n - j0 : SAEI_BLOCK, 0, d);
    saei_fp_leave(mode);
}

/* Copies a [d][n] matrix to [n][d] in squares that stay in L1. */
static void rows_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    enum { SQUARE = 32 };
    const pack_job *j = job;
    const size_t d = (size_t)j->m->d, n = (size_t)j->m->n, each = sae_dtype_bytes(j->m->dtype);
    const size_t first = (size_t)i * SAEI_BLOCK, last = first + SAEI_BLOCK < n ? first + SAEI_BLOCK : n;
    const unsigned char *src = j->m->data;
    unsigned char *dst = j->dst;
    for (size_t f0 = first; f0 < last; f0 += SQUARE)
        for (size_t k0 = 0; k0 < d; k0 += SQUARE)
            for (size_t f = f0; f < last && f < f0 + SQUARE; f++)
                for (size_t k = k0; k < d && k < k0 + SQUARE; k++)
                    memcpy(dst + (f * d + k) * each, src + (k * n + f) * each, each);
}

static sae_status build(void **out, const sae_model *model, const saei_matrix *m, size_t bytes, sae_task task, const char *what,
                        sae_error *err)
{
    const saei_host *host = &model->env->host;
    *out = saei_alloc(host, bytes);
    if (!*out)
        return saei_fail(err, SAE_E_NOMEM, "no memory for %s (%zu bytes)", what, bytes);
    pack_job job = {model->env->kernels, m, *out};
    if (saei_run(host, &job, task, ((uint32_t)m->n + SAEI_BLOCK - 1) / SAEI_BLOCK)) {
        saei_dealloc(host, *out, bytes);
        *out = NULL;
        return saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while %s were packed", what);
    }
    return SAE_OK;
}

static sae_status build_panels(sae_model *model, uint32_t block, sae_error *err)
{
    const saei_matrix *m = &model->parts.enc[block].w.m;
    saei_form *form = model->enc_forms + block;
    const size_t n = ((size_t)m->n + SAEI_PANEL - 1) / SAEI_PANEL * SAEI_PANEL;
    void *panels;
    if (atomic_load(&form->panels))
        return SAE_OK;
    const sae_status status = build(&panels, model, m, n * (size_t)m->d * sizeof(float), panels_task, "the panels of W_enc", err);
    if (!status)
        atomic_store_explicit(&form->panels, panels, memory_order_release);
    return status;
}

static sae_status build_rows(sae_model *model, const saei_matrix *m, saei_form *form, const char *what, sae_error *err)
{
    void *rows;
    if (!m->by_cols || atomic_load(&form->rows))
        return SAE_OK;
    sae_status status = build(&rows, model, m, (size_t)m->n * (size_t)m->d * sae_dtype_bytes(m->dtype), rows_task, what, err);
    if (!status)
        atomic_store_explicit(&form->rows, rows, memory_order_release);
    return status;
}

static sae_status build_screen(sae_model *model, sae_error *err)
{
    saei_screen *screen;
    if (atomic_load(&model->screen) || !saei_screen_bytes(model))
        return SAE_OK;
    sae_status status = build_rows(model, &model->parts.enc[0].w.m, model->enc_forms, "the rows of W_enc", err);
    if (!status && !(status = saei_screen_build(&screen, model, 0, err)))
        atomic_store_explicit(&model->screen, screen, memory_order_release);
    return status;
}

static sae_status prepare(sae_model *model, uint32_t what, sae_error *err)
{
    const saei_parts *p = &model->parts;
    sae_status status = SAE_OK;
    if (what == SAE_PREPARE_SCREEN && atomic_load(&model->screen))
        return SAE_OK; /* it may be the file's, of which nothing is to be read */
    if (!model->checked) {
        if ((status = sae_model_check(model, err)))
            return status;
        model->checked = true;
    }
    for (uint32_t i = 0; i < p->n_enc && !status && (what & SAE_PREPARE_PANELS); i++)
        status = build_panels(model, i, err);
    for (uint32_t i = 0; i < p->n_enc && !status && (what & SAE_PREPARE_ROWS); i++)
        status = build_rows(model, &p->enc[i].w.m, model->enc_forms + i, "the rows of W_enc", err);
    for (uint32_t i = 0; i < p->n_dec && !status && (what & SAE_PREPARE_ROWS); i++)
        status = build_rows(model, &p->dec[i].w.m, model->dec_forms + i, "the rows of W_dec", err);
    return status || !(what & SAE_PREPARE_SCREEN) ? status : build_screen(model, err);
}

sae_status sae_model_prepare(sae_model *model, uint32_t what, sae_error *err)
{
    if (!model)
        return saei_fail(err, SAE_E_ARG, "sae_model_prepare: model is NULL");
    if (what & ~(uint32_t)(SAE_PREPARE_ROWS | SAE_PREPARE_PANELS | SAE_PREPARE_SCREEN))
        return saei_fail(err, SAE_E_ARG, "what = %#x has bits other than SAE_PREPARE_ROWS, SAE_PREPARE_PANELS and SAE_PREPARE_SCREEN",
                         (unsigned)what);
    saei_lock_take(&model->lock);
    const sae_status status = prepare(model, what, err);
    saei_lock_give(&model->lock);
    return status ? status : saei_ok(err);
}
