/* A host of llama.cpp for the tests, loaded into Python beside a package that holds llama.cpp itself: plain functions over plain arrays.
 * Every function that can fail returns NULL or a negative status and leaves its sentence with host_said. */
#include <stdlib.h>

#include <llama.h>
#include <sae.h>
#include <sae/ggml.h>

enum { MAX_TAPS = 8, STAGING = 4096 };

typedef struct host {
    struct llama_model *model;
    struct llama_context *context;
    sae_env *env;
    sae_ggml_tap taps[MAX_TAPS];
    sae_ggml g;
    char staging[STAGING];
    sae_error err;
    bool unified;
} host;

typedef struct host_options {
    const char *path;
    int32_t n_ubatch, n_seq;
    int32_t callback, unified, copy, exact;
} host_options;

host *host_open(const host_options *o);
void host_close(host *h);
const char *host_said(const host *h);
int32_t host_vocab(const host *h);
int32_t host_width(const host *h);
sae_status host_tap(host *h, const char *name, int32_t layer, int32_t d);
sae_status host_steer(host *h, int32_t n_slots, const char *folder, const sae_edit *edits, int64_t n);
sae_status host_watch(host *h, const char *folder, const int32_t *features, int64_t n, float *codes);
sae_status host_copy(host *h, void *rows);
sae_status host_decode(host *h, int32_t n, const int32_t *token, const int32_t *pos, const int32_t *seq, const int8_t *output,
                       const int32_t *slot, int32_t described, float *logits);
void host_forget(host *h);
int32_t host_control(host *h, const float *data, size_t n, int32_t first, int32_t last);
void host_counts(const host *h, int32_t tap, int64_t *out);
int32_t host_tokens(const host *h, const char *text, int32_t *out, int32_t capacity);
sae_status host_tensor(host *h, int32_t type, const int64_t *ne, int64_t row_bytes, void *data, size_t bytes, bool announced);
sae_status host_begin_twice(host *h);

static void quiet(enum ggml_log_level level, const char *text, void *user)
{
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
    (void)user;
}

host *host_open(const host_options *o)
{
    llama_log_set(quiet, NULL);
    host *h = calloc(1, sizeof *h);
    struct llama_model_params mp = llama_model_default_params();
    struct llama_context_params cp = llama_context_default_params();
    h->err.struct_size = sizeof h->err;
    h->model = llama_model_load_from_file(o->path, mp);
    if (!h->model || sae_env_create(&h->env, NULL, &h->err))
        return NULL;
    cp.n_ctx = 256 * (uint32_t)o->n_seq;
    cp.n_batch = 512;
    cp.n_ubatch = (uint32_t)o->n_ubatch;
    cp.n_seq_max = (uint32_t)o->n_seq;
    cp.n_threads = cp.n_threads_batch = 1;
    cp.kv_unified = o->unified;
    h->unified = o->unified;
    if (o->exact) {
        cp.type_k = cp.type_v = GGML_TYPE_F32;
        cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    h->g = (sae_ggml){.taps = h->taps, .n_layer = llama_model_n_layer(h->model), .copy = o->copy};
    h->g.staging = h->staging;
    h->g.staging_bytes = sizeof h->staging;
    if (o->callback) {
        cp.cb_eval = sae_ggml_eval;
        cp.cb_eval_user_data = &h->g;
    }
    h->context = llama_init_from_model(h->model, cp);
    return h->context ? h : NULL;
}

void host_close(host *h)
{
    llama_free(h->context);
    llama_model_free(h->model);
    for (int32_t i = 0; i < h->g.n_taps; i++) {
        sae_plan_free((sae_plan *)h->taps[i].plan);
        sae_probe_free((sae_probe *)h->taps[i].probe);
        sae_ctx_free(h->taps[i].ctx);
        free(h->taps[i].scratch);
    }
    sae_env_free(h->env);
    free(h);
}

const char *host_said(const host *h)
{
    return h->err.text;
}

int32_t host_vocab(const host *h)
{
    return llama_vocab_n_tokens(llama_model_get_vocab(h->model));
}

int32_t host_width(const host *h)
{
    return llama_model_n_embd(h->model);
}

/* What follows, host_steer and host_watch, is done at this place. */
sae_status host_tap(host *h, const char *name, int32_t layer, int32_t d)
{
    h->taps[h->g.n_taps++] = (sae_ggml_tap){.name = name, .layer = layer, .d = d};
    return SAE_OK;
}

/* Edits whose model is to be that of the folder have a feature and no vector. */
sae_status host_steer(host *h, int32_t n_slots, const char *folder, const sae_edit *edits, int64_t n)
{
    sae_ggml_tap *tap = h->taps + h->g.n_taps - 1;
    sae_model *model = NULL;
    sae_plan *plan = NULL;
    if (folder && sae_model_open(&model, h->env, folder, NULL, &h->err))
        return h->err.status;
    sae_edit *all = malloc((size_t)n * sizeof *all);
    for (int64_t i = 0; i < n; i++) {
        all[i] = edits[i];
        all[i].model = edits[i].vector ? NULL : model;
    }
    sae_plan_compile(&plan, h->env, tap->d, n_slots, all, n, &h->err);
    free(all);
    sae_model_free(model);
    if (!plan)
        return h->err.status;
    tap->plan = plan;
    tap->scratch_bytes = sae_plan_scratch_bytes(plan);
    tap->scratch = malloc(tap->scratch_bytes);
    return SAE_OK;
}

sae_status host_watch(host *h, const char *folder, const int32_t *features, int64_t n, float *codes)
{
    sae_ggml_tap *tap = h->taps + h->g.n_taps - 1;
    sae_model *model = NULL;
    sae_probe *probe = NULL;
    if (sae_model_open(&model, h->env, folder, NULL, &h->err) || sae_ctx_create(&tap->ctx, model, NULL, &h->err) ||
        sae_probe_create(&probe, model, features, n, &h->err))
        return h->err.status;
    sae_model_free(model);
    tap->probe = probe;
    tap->codes = codes;
    tap->n_features = n;
    return SAE_OK;
}

/* Rows of each batch as they come to the tap. */
sae_status host_copy(host *h, void *rows)
{
    h->taps[h->g.n_taps - 1].rows = rows;
    return SAE_OK;
}

static void fill(struct llama_batch *b, int32_t n, const int32_t *token, const int32_t *pos, const int32_t *seq, const int8_t *output)
{
    for (int32_t i = 0; i < n; i++) {
        b->token[i] = token[i];
        b->pos[i] = pos[i];
        b->n_seq_id[i] = 1;
        b->seq_id[i][0] = seq[i];
        b->logits[i] = output[i];
    }
    b->n_tokens = n;
}

/* logits: [number of outputs][vocabulary]. `described`: rows that the callback is told of, in place of n. */
sae_status host_decode(host *h, int32_t n, const int32_t *token, const int32_t *pos, const int32_t *seq, const int8_t *output,
                       const int32_t *slot, int32_t described, float *logits)
{
    const size_t bytes = (size_t)host_vocab(h) * sizeof *logits;
    const sae_ggml_batch batch = {.n_rows = described, .slot = slot, .seq = seq, .output = output, .unified = h->unified};
    struct llama_batch b = llama_batch_init(n, 0, 1);
    fill(&b, n, token, pos, seq, output);
    sae_ggml_begin(&h->g, &batch);
    const int32_t status = llama_decode(h->context, b);
    llama_synchronize(h->context);
    const sae_status said = sae_ggml_end(&h->g, &h->err);
    for (int32_t i = 0, row = 0; i < n && !status; i++)
        if (output[i])
            memcpy((char *)logits + (size_t)row++ * bytes, llama_get_logits_ith(h->context, i), bytes);
    llama_batch_free(b);
    return status ? SAE_E_HOST : said;
}

void host_forget(host *h)
{
    llama_memory_clear(llama_get_memory(h->context), true);
}

int32_t host_control(host *h, const float *data, size_t n, int32_t first, int32_t last)
{
    return llama_set_adapter_cvec(h->context, data, n, host_width(h), first, last);
}

/* asks, unannounced, and the tap's hits, rows seen, edited, left */
void host_counts(const host *h, int32_t tap, int64_t *out)
{
    const sae_ggml_tap *t = h->taps + tap;
    const int64_t all[] = {h->g.asks, h->g.unannounced, t->hits, t->rows_seen, t->rows_edited, t->rows_left};
    memcpy(out, all, sizeof all);
}

int32_t host_tokens(const host *h, const char *text, int32_t *out, int32_t capacity)
{
    return llama_tokenize(llama_model_get_vocab(h->model), text, (int32_t)strlen(text), out, capacity, true, false);
}

/* Shows the first tap a tensor [ne[2]][ne[1]][ne[0]] of any ggml type over `data`, as the scheduler would. row_bytes 0 = contiguous. */
sae_status host_tensor(host *h, int32_t type, const int64_t *ne, int64_t row_bytes, void *data, size_t bytes, bool announced)
{
    const sae_ggml_batch batch = {.n_rows = ne[1]};
    struct ggml_context *all = ggml_init((struct ggml_init_params){4 * ggml_tensor_overhead(), NULL, true});
    struct ggml_tensor *t = ggml_new_tensor_3d(all, (enum ggml_type)type, ne[0], ne[1], ne[2]);
    t->buffer = ggml_backend_cpu_buffer_from_ptr(data, bytes);
    t->data = data;
    if (row_bytes)
        t->nb[1] = (size_t)row_bytes;
    ggml_format_name(t, "%s-%d", h->taps[0].name, h->taps[0].layer);
    if (announced)
        sae_ggml_begin(&h->g, &batch);
    if (!sae_ggml_eval(t, true, &h->g) || !sae_ggml_eval(t, false, &h->g))
        return SAE_E_HOST;
    const sae_status status = sae_ggml_end(&h->g, &h->err);
    ggml_backend_buffer_free(t->buffer);
    ggml_free(all);
    return status;
}

sae_status host_begin_twice(host *h)
{
    const sae_ggml_batch batch = {.n_rows = 1};
    sae_ggml_begin(&h->g, &batch);
    const sae_status status = sae_ggml_begin(&h->g, &batch);
    sae_ggml_end(&h->g, &h->err);
    return status;
}
