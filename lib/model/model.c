#include "model/model.h"

#include <math.h>
#include <string.h>

static const char *const arch_names[] = {"unknown", "standard", "jumprelu",         "topk",    "gated",
                                         "abstopk", "groupmax", "matching_pursuit", "temporal"};
static const char *const norm_names[] = {"none", "expected_average_only_in", "constant_norm_rescale", "layer_norm", "affine"};

const char *sae_arch_name(sae_arch arch)
{
    return arch >= SAE_STANDARD && arch <= SAE_TEMPORAL ? arch_names[arch] : "unknown";
}

const char *sae_norm_name(sae_norm norm)
{
    return norm >= SAE_NORM_NONE && norm <= SAE_NORM_AFFINE ? norm_names[norm] : "unknown";
}

const saei_matrix *saei_model_enc(const sae_model *model)
{
    return &model->parts.enc[0].w.m;
}

const saei_matrix *saei_model_dec(const sae_model *model)
{
    return &model->parts.dec[0].w.m;
}

void saei_model_take(sae_model *model)
{
    saei_ref_take(&model->ref);
}

sae_status saei_model_new(sae_model **out, sae_env *env, sae_error *err)
{
    sae_model *model = saei_zalloc(&env->host, sizeof *model);
    if (!model)
        return saei_fail(err, SAE_E_NOMEM, "no memory for a model handle of %zu bytes", sizeof *model);
    if (!saei_lock_init(&model->lock)) {
        saei_dealloc(&env->host, model, sizeof *model);
        return saei_fail(err, SAE_E_NOMEM, "the system gave no lock for a model");
    }
    saei_ref_init(&model->ref);
    model->env = env;
    saei_env_take(env);
    *out = model;
    return SAE_OK;
}

static size_t matrix_bytes(const saei_matrix *m)
{
    return (size_t)m->n * (size_t)m->d * sae_dtype_bytes(m->dtype); /* checked when the model was made */
}

static size_t panels_bytes(const sae_model *model)
{
    const size_t n_panels = ((size_t)model->parts.d_sae + SAEI_PANEL - 1) / SAEI_PANEL;
    return n_panels * SAEI_PANEL * (size_t)model->parts.d_in * sizeof(float);
}

void sae_model_free(sae_model *model)
{
    if (!model || !saei_ref_drop(&model->ref))
        return;
    sae_env *env = model->env;
    const saei_host *host = &env->host;
    saei_dealloc(host, atomic_load(&model->panels), panels_bytes(model));
    if (model->parts.n_enc)
        saei_dealloc(host, atomic_load(&model->enc_rows), matrix_bytes(saei_model_enc(model)));
    if (model->parts.n_dec)
        saei_dealloc(host, atomic_load(&model->dec_rows), matrix_bytes(saei_model_dec(model)));
    saei_dealloc(host, model->vectors, model->vectors_bytes);
    saei_parts_free(&model->parts, host);
    saei_lock_end(&model->lock);
    saei_dealloc(host, model, sizeof *model);
    sae_env_free(env);
}

/* ||W_dec row|| of each feature: one double chain, rounded once. */
typedef struct norms_job {
    const saei_matrix *m;
    float *norms;
} norms_job;

enum { NORMS_PER_TASK = 256 };

static void norms_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    const norms_job *j = job;
    const int32_t first = (int32_t)i * NORMS_PER_TASK;
    const int32_t last = first + NORMS_PER_TASK < j->m->n ? first + NORMS_PER_TASK : j->m->n;
    for (int32_t f = first; f < last; f++)
        j->norms[f] = (float)sqrt(saei_matrix_row_square(j->m, f));
    saei_fp_leave(mode);
}

/* The next n floats of the model's block, kept 64-byte aligned. */
static float *take(float **cursor, size_t n)
{
    float *at = *cursor;
    *cursor += (n + 15) / 16 * 16;
    return at;
}

static void derive_gated(sae_model *model, float **cursor)
{
    const saei_parts *p = &model->parts;
    const size_t n = (size_t)p->d_sae;
    float *scale = take(cursor, n);
    for (size_t j = 0; j < n; j++)
        scale[j] = (float)saei_exp((double)p->r_mag[j]);
    model->act = (saei_act){.gate = p->b_gate, .mag_scale = scale, .mag_bias = p->b_mag};
}

static void derive_threshold(sae_model *model, float **cursor)
{
    const saei_parts *p = &model->parts;
    model->act.bias = p->b_enc;
    if (!p->threshold)
        return;
    float *t = take(cursor, (size_t)p->d_sae);
    for (int32_t j = 0; j < p->d_sae; j++) /* relu(h) where h > threshold: a negative threshold never decides */
        t[j] = p->threshold[j] > 0.0f ? p->threshold[j] : 0.0f;
    model->act.threshold = t;
}

static sae_status derive_rescale(sae_model *model, float **cursor, sae_error *err)
{
    const saei_parts *p = &model->parts;
    float *norms = take(cursor, (size_t)p->d_sae), *inverse = take(cursor, (size_t)p->d_sae);
    norms_job job = {saei_model_dec(model), norms};
    const uint32_t n_tasks = ((uint32_t)p->d_sae + NORMS_PER_TASK - 1) / NORMS_PER_TASK;
    if (saei_run(&model->env->host, &job, norms_task, n_tasks))
        return saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while the decoder norms were computed");
    for (int32_t j = 0; j < p->d_sae; j++)
        inverse[j] = norms[j] > 0.0f ? 1.0f / norms[j] : 0.0f;
    model->act.key_scale = norms;
    model->dec_scale = inverse;
    return SAE_OK;
}

sae_status saei_model_finish(sae_model *model, sae_error *err)
{
    const saei_parts *p = &model->parts;
    const size_t each = ((size_t)p->d_sae + 15) / 16 * 16, zeros = ((size_t)p->d_out + 15) / 16 * 16;
    model->vectors_bytes = (3 * each + zeros) * sizeof(float);
    model->vectors = saei_zalloc(&model->env->host, model->vectors_bytes);
    if (!model->vectors)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the vectors of %d features (%zu bytes)", (int)p->d_sae, model->vectors_bytes);
    float *cursor = model->vectors;
    const float *zero = take(&cursor, (size_t)p->d_out);
    model->b_dec = p->b_dec ? p->b_dec : zero;
    model->b_in = p->apply_b_dec ? model->b_dec : NULL;
    model->dec_scale = p->dec_scale;
    if (p->arch == SAE_GATED)
        derive_gated(model, &cursor);
    else
        derive_threshold(model, &cursor);
    return p->rescale_by_decoder_norm ? derive_rescale(model, &cursor, err) : SAE_OK;
}

saei_dense saei_model_encoder(const sae_model *model)
{
    return (saei_dense){model->parts.enc[0].w.m, atomic_load_explicit(&model->panels, memory_order_acquire)};
}

static saei_matrix rows_of(const saei_matrix *stored, const void *rows)
{
    saei_matrix m = *stored;
    if (m.by_cols && rows) {
        m.data = rows;
        m.by_cols = false;
    }
    return m;
}

saei_matrix saei_model_enc_rows(const sae_model *model)
{
    return rows_of(saei_model_enc(model), atomic_load_explicit(&model->enc_rows, memory_order_acquire));
}

saei_matrix saei_model_dec_rows(const sae_model *model)
{
    return rows_of(saei_model_dec(model), atomic_load_explicit(&model->dec_rows, memory_order_acquire));
}

sae_status sae_model_info(const sae_model *model, sae_info *out)
{
    if (!model || !out)
        return SAE_E_ARG;
    const saei_parts *p = &model->parts;
    sae_info info = {0};
    info.arch = p->arch;
    info.norm = p->norm;
    info.w_enc_dtype = p->enc[0].w.m.dtype;
    info.w_dec_dtype = p->dec[0].w.m.dtype;
    info.d_in = p->d_in;
    info.d_sae = p->d_sae;
    info.d_out = p->d_out;
    info.k = p->arch == SAE_TOPK ? p->k : 0;
    info.apply_b_dec = p->apply_b_dec ? SAE_YES : SAE_NO;
    info.rescale_by_decoder_norm = p->rescale_by_decoder_norm ? SAE_YES : SAE_NO;
    info.norm_scaling_factor = p->norm_scaling_factor;
    return saei_write_struct(out, &info, sizeof info, "sae_info", NULL);
}

const char *sae_model_text(const sae_model *model, int32_t what)
{
    if (!model)
        return "";
    const saei_parts *p = &model->parts;
    if (what < SAE_TEXT_FORMAT || what >= SAEI_TEXTS)
        return "";
    if (p->texts[what] && *p->texts[what])
        return p->texts[what];
    if (what == SAE_TEXT_ARCHITECTURE) /* old files and memory do not name it */
        return sae_arch_name(p->arch);
    return what == SAE_TEXT_FORMAT ? "memory" : "";
}

int32_t sae_model_n_warnings(const sae_model *model)
{
    return model ? model->parts.n_warnings : 0;
}

const char *sae_model_warning(const sae_model *model, int32_t i)
{
    return model && i >= 0 && i < model->parts.n_warnings ? model->parts.warnings[i] : "";
}

sae_status sae_model_memory(const sae_model *model, sae_memory *out)
{
    if (!model || !out)
        return SAE_E_ARG;
    const saei_parts *p = &model->parts;
    const saei_matrix *enc = saei_model_enc(model), *dec = saei_model_dec(model);
    sae_memory memory = {0};
    const bool rows_built = (!enc->by_cols || atomic_load(&model->enc_rows)) && (!dec->by_cols || atomic_load(&model->dec_rows));
    memory.prepared = (atomic_load(&model->panels) ? SAE_PREPARE_PANELS : 0u) | (rows_built ? SAE_PREPARE_ROWS : 0u);
    int64_t copied = 0;
    for (uint32_t i = 0; i < p->n_files; i++)
        *(p->files[i].mapped ? &memory.mapped_bytes : &copied) += (int64_t)p->files[i].bytes;
    memory.vectors_bytes = (int64_t)(model->vectors_bytes + p->memory.bytes) + copied;
    memory.rows_bytes = (enc->by_cols ? (int64_t)matrix_bytes(enc) : 0) + (dec->by_cols ? (int64_t)matrix_bytes(dec) : 0);
    memory.panels_bytes = (int64_t)panels_bytes(model);
    return saei_write_struct(out, &memory, sizeof memory, "sae_memory", NULL);
}
