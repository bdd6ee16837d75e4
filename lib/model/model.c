#include "model/screen.h"

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

static size_t panels_bytes(const saei_matrix *m)
{
    return ((size_t)m->n + SAEI_PANEL - 1) / SAEI_PANEL * SAEI_PANEL * (size_t)m->d * sizeof(float);
}

static void free_forms(const sae_model *model)
{
    const saei_host *host = &model->env->host;
    for (uint32_t i = 0; model->lists && i < model->parts.n_enc; i++) {
        const saei_matrix *m = &model->parts.enc[i].w.m;
        saei_dealloc(host, atomic_load(&model->enc_forms[i].panels), panels_bytes(m));
        saei_dealloc(host, atomic_load(&model->enc_forms[i].rows), matrix_bytes(m));
    }
    for (uint32_t i = 0; model->lists && i < model->parts.n_dec; i++)
        saei_dealloc(host, atomic_load(&model->dec_forms[i].rows), matrix_bytes(&model->parts.dec[i].w.m));
    saei_dealloc(host, model->lists, model->lists_bytes);
}

void sae_model_free(sae_model *model)
{
    if (!model || !saei_ref_drop(&model->ref))
        return;
    sae_env *env = model->env;
    const saei_host *host = &env->host;
    saei_screen *screen = atomic_load(&model->screen);
    saei_dealloc(host, screen, screen ? screen->bytes : 0);
    free_forms(model);
    saei_dealloc(host, model->vectors, model->vectors_bytes);
    saei_parts_free(&model->parts, host);
    saei_lock_end(&model->lock);
    saei_dealloc(host, model, sizeof *model);
    sae_env_free(env);
}

/* ||W_dec row|| of each feature: one double chain, rounded once. */
typedef struct norms_job {
    const sae_model *model;
    float *norms;
} norms_job;

enum { NORMS_PER_TASK = 256 };

static void norms_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    const norms_job *j = job;
    const saei_parts *p = &j->model->parts;
    const int32_t first = (int32_t)i * NORMS_PER_TASK;
    const int32_t last = p->d_sae - first > NORMS_PER_TASK ? first + NORMS_PER_TASK : p->d_sae;
    for (int32_t f = first; f < last; f++) {
        const double length = sqrt(saei_model_square(j->model, SAE_W_DEC, f));
        j->norms[f] = (float)(p->dec_scale ? length * fabs((double)p->dec_scale[f]) : length);
    }
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
    model->act = (saei_act){.bias = p->b_enc,
                            .threshold = p->threshold,
                            .key_scale = p->key_scale,
                            .keeps_negative = p->keeps_negative || p->arch == SAE_ABSTOPK};
    if (!p->threshold || p->keeps_negative)
        return;
    float *t = take(cursor, (size_t)p->d_sae);
    for (int32_t j = 0; j < p->d_sae; j++) /* relu(h) where h > threshold: a negative threshold never decides */
        t[j] = p->threshold[j] > 0.0f ? p->threshold[j] : 0.0f;
    model->act.threshold = t;
}

/* A top-k by h * ||W_dec row||. Codes are that key, which decode divides by, or h again, which encode divides by. */
static sae_status derive_rescale(sae_model *model, float **cursor, sae_error *err)
{
    const saei_parts *p = &model->parts;
    float *norms = take(cursor, (size_t)p->d_sae), *inverse = take(cursor, (size_t)p->d_sae);
    norms_job job = {model, norms};
    const uint32_t n_tasks = ((uint32_t)p->d_sae + NORMS_PER_TASK - 1) / NORMS_PER_TASK;
    if (saei_run(&model->env->host, &job, norms_task, n_tasks))
        return saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while the decoder norms were computed");
    model->act.key_scale = norms;
    if (p->returns_unscaled)
        return SAE_OK;
    for (int32_t j = 0; j < p->d_sae; j++) {
        inverse[j] = saei_inverse(norms[j]);
        if (p->dec_scale)
            inverse[j] *= p->dec_scale[j];
    }
    model->dec_scale = inverse;
    return SAE_OK;
}

/* Forms and places of all matrices. An odd number of packed elements is rounded up: 8 rows of them stay 64-byte aligned. */
static sae_status derive_lists(sae_model *model, sae_error *err)
{
    const saei_parts *p = &model->parts;
    size_t total = 0;
    const size_t enc = saei_reserve(&total, p->n_enc, sizeof(saei_form)), dec = saei_reserve(&total, p->n_dec, sizeof(saei_form)),
                 places = saei_reserve(&total, p->n_enc, sizeof(saei_place));
    unsigned char *block = saei_zalloc(&model->env->host, total);
    if (!block)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the lists of %u matrices (%zu bytes)", (unsigned)(p->n_enc + p->n_dec), total);
    model->lists = block;
    model->lists_bytes = total;
    model->enc_forms = (saei_form *)(void *)(block + enc);
    model->dec_forms = (saei_form *)(void *)(block + dec);
    model->places = (saei_place *)(void *)(block + places);
    for (uint32_t i = 0; i < p->n_enc; i++) {
        const saei_block *b = p->enc + i;
        const size_t d = ((size_t)b->w.m.d + 1) / 2 * 2;
        const bool shared = i && b[-1].in_first == b->in_first && b[-1].w.m.d == b->w.m.d;
        model->places[i] = (saei_place){model->n_tiles, shared ? model->places[i - 1].packed : model->packed_d};
        model->n_tiles += ((uint32_t)b->w.m.n + SAEI_TILE - 1) / SAEI_TILE;
        if (!shared && !saei_add(&model->packed_d, model->packed_d, d))
            return saei_fail(err, SAE_E_SHAPE, "the rows of %u blocks are more than this machine can address", (unsigned)p->n_enc);
    }
    return SAE_OK;
}

static sae_status derive_vectors(sae_model *model, sae_error *err)
{
    const saei_parts *p = &model->parts;
    const size_t each = ((size_t)p->d_sae + 15) / 16 * 16, zeros = ((size_t)p->d_out + 15) / 16 * 16;
    model->vectors_bytes = (3 * each + zeros) * sizeof(float);
    model->vectors = saei_zalloc(&model->env->host, model->vectors_bytes);
    if (!model->vectors)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the vectors of %d features (%zu bytes)", (int)p->d_sae, model->vectors_bytes);
    float *cursor = model->vectors;
    const float *zero = take(&cursor, (size_t)p->d_out);
    /* a matching pursuit adds b_dec only where it subtracted it (sae-lens 6.54, saes/matching_pursuit_sae.py) */
    model->b_dec = p->b_dec && (p->apply_b_dec || p->arch != SAE_MATCHING_PURSUIT) ? p->b_dec : zero;
    model->b_in = p->apply_b_dec ? model->b_dec : NULL;
    model->dec_scale = p->dec_scale;
    if (p->arch == SAE_GATED)
        derive_gated(model, &cursor);
    else
        derive_threshold(model, &cursor);
    return p->rescale_by_decoder_norm ? derive_rescale(model, &cursor, err) : SAE_OK;
}

sae_status saei_model_finish(sae_model *model, sae_error *err)
{
    if (model->parts.arch == SAE_STANDARD || model->parts.arch == SAE_JUMPRELU || model->parts.arch == SAE_GATED)
        model->parts.k = 0; /* whatever the file says */
    sae_status status = saei_parts_check(&model->parts, err);
    if (!status)
        status = derive_lists(model, err);
    return status ? status : derive_vectors(model, err);
}

bool saei_model_whole(const sae_model *model, int32_t tensor)
{
    const saei_parts *p = &model->parts;
    if (tensor == SAE_W_ENC)
        return p->n_enc == 1 && p->enc[0].w.m.d == p->d_in;
    const saei_segment *s = p->dec;
    return p->n_dec == 1 && s->n == p->d_sae && s->w.m.n == p->d_sae && s->w.m.d == p->d_out && s->row_first == 0 && s->row_step == 1;
}

saei_dense saei_model_encoder(const sae_model *model, uint32_t block)
{
    return (saei_dense){model->parts.enc[block].w.m, atomic_load_explicit(&model->enc_forms[block].panels, memory_order_acquire)};
}

static saei_matrix rows_of(const saei_matrix *stored, const saei_form *form)
{
    saei_matrix m = *stored;
    const void *rows = m.by_cols ? atomic_load_explicit(&form->rows, memory_order_acquire) : NULL;
    if (rows) {
        m.data = rows;
        m.by_cols = false;
    }
    return m;
}

saei_matrix saei_model_enc_rows(const sae_model *model, uint32_t block)
{
    return rows_of(&model->parts.enc[block].w.m, model->enc_forms + block);
}

saei_matrix saei_model_dec_rows(const sae_model *model, uint32_t segment)
{
    return rows_of(&model->parts.dec[segment].w.m, model->dec_forms + segment);
}

uint32_t saei_model_block_of(const sae_model *model, int32_t feature)
{
    uint32_t lo = 0, hi = model->parts.n_enc;
    while (hi - lo > 1) {
        const uint32_t mid = lo + (hi - lo) / 2;
        if (model->parts.enc[mid].first <= feature)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

void saei_model_segments_of(const sae_model *model, int32_t feature, uint32_t *first, uint32_t *end)
{
    const saei_parts *p = &model->parts;
    uint32_t i = 0;
    while (i < p->n_dec && p->dec[i].first + p->dec[i].n <= feature)
        i++;
    *first = i;
    while (i < p->n_dec && p->dec[i].first <= feature)
        i++;
    *end = i;
}

int32_t saei_segment_row(const saei_segment *segment, int32_t feature)
{
    return segment->row_first + (feature - segment->first) * segment->row_step;
}

void saei_model_row(float *out, const sae_model *model, int32_t tensor, int32_t feature)
{
    const saei_parts *p = &model->parts;
    if (!saei_model_whole(model, tensor))
        memset(out, 0, (size_t)(tensor == SAE_W_ENC ? p->d_in : p->d_out) * sizeof *out);
    if (tensor == SAE_W_ENC) {
        const uint32_t b = saei_model_block_of(model, feature);
        const saei_matrix m = saei_model_enc_rows(model, b);
        saei_matrix_row(out + p->enc[b].in_first, &m, feature - p->enc[b].first);
        return;
    }
    uint32_t i, end;
    for (saei_model_segments_of(model, feature, &i, &end); i < end; i++) {
        const saei_matrix m = saei_model_dec_rows(model, i);
        saei_matrix_row(out + p->dec[i].out_first, &m, saei_segment_row(p->dec + i, feature));
    }
}

double saei_model_square(const sae_model *model, int32_t tensor, int32_t feature)
{
    const saei_parts *p = &model->parts;
    double sum = 0.0;
    if (tensor == SAE_W_ENC) {
        const uint32_t b = saei_model_block_of(model, feature);
        const saei_matrix m = saei_model_enc_rows(model, b);
        return saei_matrix_add_square(sum, &m, feature - p->enc[b].first);
    }
    uint32_t i, end;
    for (saei_model_segments_of(model, feature, &i, &end); i < end; i++) {
        const saei_matrix m = saei_model_dec_rows(model, i);
        sum = saei_matrix_add_square(sum, &m, saei_segment_row(p->dec + i, feature));
    }
    return sum;
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
    info.k = p->k;
    info.apply_b_dec = p->apply_b_dec ? SAE_YES : SAE_NO;
    info.rescale_by_decoder_norm = p->rescale_by_decoder_norm ? SAE_YES : SAE_NO;
    info.norm_scaling_factor = p->norm_scaling_factor;
    info.n_in = p->n_in;
    info.n_out = p->n_out;
    info.n_blocks = (int32_t)p->n_enc;
    info.has_skip = p->n_skip ? SAE_YES : SAE_NO;
    info.keeps_negative = model->act.keeps_negative ? SAE_YES : SAE_NO;
    info.norm_in_only = p->norm_in_only ? SAE_YES : SAE_NO;
    info.returns_unscaled = p->returns_unscaled ? SAE_YES : SAE_NO;
    info.stops_on_repeat = p->stops_on_repeat ? SAE_YES : SAE_NO;
    info.residual_threshold = p->residual_threshold;
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

/* Bytes of the rows that a matrix stored by columns has or would have; `built` tells whether all that are wanted are there. */
static int64_t rows_bytes(const saei_matrix *m, const saei_form *form, bool *built)
{
    if (!m->by_cols)
        return 0;
    *built &= atomic_load(&form->rows) != NULL;
    return (int64_t)matrix_bytes(m);
}

sae_status sae_model_memory(const sae_model *model, sae_memory *out)
{
    if (!model || !out)
        return SAE_E_ARG;
    const saei_parts *p = &model->parts;
    sae_memory memory = {0};
    bool rows = true, panels = true;
    int64_t copied = 0;
    for (uint32_t i = 0; i < p->n_enc; i++) {
        memory.rows_bytes += rows_bytes(&p->enc[i].w.m, model->enc_forms + i, &rows);
        memory.panels_bytes += (int64_t)panels_bytes(&p->enc[i].w.m);
        panels &= atomic_load(&model->enc_forms[i].panels) != NULL;
    }
    for (uint32_t i = 0; i < p->n_dec; i++)
        memory.rows_bytes += rows_bytes(&p->dec[i].w.m, model->dec_forms + i, &rows);
    for (uint32_t i = 0; i < p->n_files; i++)
        *(p->files[i].mapped ? &memory.mapped_bytes : &copied) += (int64_t)p->files[i].bytes;
    const saei_screen *screen = atomic_load(&model->screen);
    memory.screen_bytes = (int64_t)saei_screen_bytes(model);
    memory.screen_stored_bytes = screen && screen->stored ? (int64_t)(p->screen.n_weights + 4 * (size_t)p->d_sae * sizeof(float)) : 0;
    memory.prepared = (panels ? SAE_PREPARE_PANELS : 0u) | (rows ? SAE_PREPARE_ROWS : 0u) | (screen ? SAE_PREPARE_SCREEN : 0u);
    memory.vectors_bytes = (int64_t)(model->vectors_bytes + p->memory.bytes) + copied;
    return saei_write_struct(out, &memory, sizeof memory, "sae_memory", NULL);
}
