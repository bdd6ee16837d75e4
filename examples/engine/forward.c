/* Sessions: keys and values of several sequences, and the forward pass of a batch of rows through all blocks.
 *
 *     x = embedding[token]
 *     x += W_O attention(RoPE(W_Q n), RoPE(W_K n), W_V n)      n = RMSnorm(x) * attn_norm
 *     x += W_down (silu(W_gate n) * W_up n)                    n = RMSnorm(x) * mlp_norm
 *     logits = W_U (RMSnorm(x) * final_norm)
 *
 * (arXiv 2302.13971; RoPE arXiv 2104.09864; grouped queries arXiv 2305.13245). Everything but the products is computed row by row, and
 * the products give a row the same bits in every batch, so a batch cannot change a result. */
#include "internal.h"
#include "linear.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct hook {
    engine_point at;
    engine_hook_fn fn;
    engine_share_fn share;
    void *user;
} hook;

struct engine_session {
    const engine_model *model;
    int32_t n_sequences, context, max_rows;
    int32_t *length; /* [n_sequences] */
    int32_t *next;   /* [n_sequences] the position that a batch under check expects, -1 = not seen yet */
    float *keys;     /* [n_layers][n_sequences][context][kv], as values */
    float *values;
    float *rope;          /* [context][head_size / 2][cos, sin] */
    float *x, *y, *delta; /* [max_rows][dim] */
    float *q, *mixed;     /* [max_rows][n_heads * head_size] */
    float *k, *v;         /* [max_rows][kv] */
    float *hidden;        /* [max_rows][hidden] */
    float *scores;        /* [n_workers][context] */
    void *scratch;        /* of the products */
    size_t scratch_bytes;
    hook hooks[ENGINE_MAX_HOOKS];
    int32_t n_hooks;
};

/* ---- life ---- */

static bool widen(size_t *bytes, const engine_linear *l, int32_t n_rows, engine_error *err)
{
    size_t more;
    if (!engine_linear_scratch(l, n_rows, &more, err))
        return false;
    *bytes = more > *bytes ? more : *bytes;
    return true;
}

/* Scratch enough for any product of the model: the blocks are alike, so the first stands for all. */
static bool take_scratch(engine_session *s, engine_error *err)
{
    const engine_layer *l = s->model->layers;
    const engine_linear *const all[] = {l->q, l->k, l->v, l->o, l->hidden, l->down, s->model->unembed};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!widen(&s->scratch_bytes, all[i], s->max_rows, err))
            return false;
    s->scratch = engine_take(s->scratch_bytes, 1, 1, 1, err);
    return s->scratch;
}

/* Angle from one position to the next of pair i: theta^(-2i / head_size), and what Llama 3.1 makes of it (transformers,
 * _compute_llama3_parameters). In double. */
static double rope_frequency(const engine_shape *m, int32_t i)
{
    const engine_rope_scaling *r = &m->rope_scaling;
    const double frequency = pow((double)m->rope_theta, -2.0 * i / m->head_size);
    if (r->factor == 0.0f)
        return frequency;
    const double low = (double)r->low_freq_factor, high = (double)r->high_freq_factor;
    const double turns = r->original_context * frequency / 6.283185307179586; /* within the context of the training */
    const double kept = turns < low ? 0.0 : turns > high ? 1.0 : (turns - low) / (high - low);
    return (1.0 - kept) * frequency / (double)r->factor + kept * frequency;
}

static void fill_rope(float *rope, int32_t context, const engine_shape *m)
{
    for (int32_t i = 0; i < m->head_size / 2; i++) {
        const double frequency = rope_frequency(m, i);
        for (int32_t p = 0; p < context; p++) {
            float *pair = rope + (size_t)p * (size_t)m->head_size + 2 * (size_t)i;
            pair[0] = (float)cos(p * frequency);
            pair[1] = (float)sin(p * frequency);
        }
    }
}

static bool take_buffers(engine_session *s, engine_error *err)
{
    const engine_shape *m = &s->model->shape;
    const size_t rows = (size_t)s->max_rows, context = (size_t)s->context, dim = (size_t)m->dim, hidden = (size_t)m->hidden;
    const size_t q = (size_t)m->n_heads * (size_t)m->head_size, kv = (size_t)m->n_kv_heads * (size_t)m->head_size;
    const size_t places = (size_t)m->n_layers * (size_t)s->n_sequences;
    const struct {
        float **p;
        size_t a, b, c;
    } all[] = {{&s->keys, places, context, kv},
               {&s->values, places, context, kv},
               {&s->rope, context, (size_t)m->head_size, 1},
               {&s->x, rows, dim, 1},
               {&s->y, rows, dim, 1},
               {&s->delta, rows, dim, 1},
               {&s->q, rows, q, 1},
               {&s->mixed, rows, q, 1},
               {&s->k, rows, kv, 1},
               {&s->v, rows, kv, 1},
               {&s->hidden, rows, hidden, 1},
               {&s->scores, s->model->host->n_workers, context, 1}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!(*all[i].p = engine_take(all[i].a, all[i].b, all[i].c, sizeof(float), err)))
            return false;
    s->length = engine_take((size_t)s->n_sequences, 1, 1, sizeof *s->length, err);
    s->next = s->length ? engine_take((size_t)s->n_sequences, 1, 1, sizeof *s->next, err) : NULL;
    return s->next && take_scratch(s, err);
}

bool engine_session_create(engine_session **out, const engine_model *model, int32_t n_sequences, int32_t context, int32_t max_rows,
                           engine_error *err)
{
    *out = NULL;
    if (n_sequences < 1 || max_rows < 1 || context < 0)
        return engine_fail(err, "a session of %d sequences, %d positions and %d rows makes no sense", n_sequences, context, max_rows);
    if (context > model->shape.context)
        return engine_fail(err, "%d positions are more than the model's context of %d", context, model->shape.context);
    engine_session *s = engine_take(1, 1, 1, sizeof *s, err);
    if (!s)
        return false;
    s->model = model;
    s->n_sequences = n_sequences;
    s->context = context ? context : model->shape.context;
    s->max_rows = max_rows;
    if (!take_buffers(s, err)) {
        engine_session_free(s);
        return false;
    }
    fill_rope(s->rope, s->context, &model->shape);
    *out = s;
    return true;
}

void engine_session_free(engine_session *s)
{
    if (!s)
        return;
    void *const all[] = {s->length, s->next,  s->keys, s->values, s->rope,   s->x,      s->y,      s->delta,
                         s->q,      s->mixed, s->k,    s->v,      s->hidden, s->scores, s->scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(s);
}

const engine_model *engine_session_model(const engine_session *s)
{
    return s->model;
}

int32_t engine_session_length(const engine_session *s, int32_t sequence)
{
    return s->length[sequence];
}

int32_t engine_session_sequences(const engine_session *s)
{
    return s->n_sequences;
}

int32_t engine_session_context(const engine_session *s)
{
    return s->context;
}

int32_t engine_session_max_rows(const engine_session *s)
{
    return s->max_rows;
}

/* ---- hooks ---- */

static const char *const point_names[ENGINE_N_POINTS] = {"hook_resid_post", "hook_attn_out", "hook_mlp_out"};

bool engine_point_parse(engine_point *out, const engine_model *model, const char *name, engine_error *err)
{
    int n = 0;
    char *end = NULL;
    const long layer = !strncmp(name, "blocks.", 7) && name[7] >= '0' && name[7] <= '9' ? strtol(name + 7, &end, 10) : -1;
    if (end && *end == '.' && layer < model->shape.n_layers)
        while (n < ENGINE_N_POINTS && strcmp(end + 1, point_names[n]) != 0)
            n++;
    if (!end || *end != '.' || layer >= model->shape.n_layers || n == ENGINE_N_POINTS)
        return engine_fail(err, "this model has no hook '%.100s': it has blocks.N.%s, blocks.N.%s and blocks.N.%s, N = 0 .. %d", name,
                           point_names[0], point_names[1], point_names[2], model->shape.n_layers - 1);
    *out = (engine_point){.layer = (int32_t)layer, .kind = n};
    return true;
}

bool engine_session_hook(engine_session *s, engine_point at, engine_hook_fn fn, engine_share_fn share, void *user, engine_error *err)
{
    if (s->n_hooks == ENGINE_MAX_HOOKS)
        return engine_fail(err, "a session has room for %d hooks", ENGINE_MAX_HOOKS);
    s->hooks[s->n_hooks++] = (hook){.at = at, .fn = fn, .share = share, .user = user};
    return true;
}

void engine_session_unhook_all(engine_session *s)
{
    s->n_hooks = 0;
}

static bool is_hooked(const engine_session *s, int32_t layer, int32_t kind)
{
    for (int32_t i = 0; i < s->n_hooks; i++)
        if (s->hooks[i].at.layer == layer && s->hooks[i].at.kind == kind)
            return true;
    return false;
}

static bool call_hooks(engine_session *s, int32_t layer, int32_t kind, float *x, const engine_batch *b, engine_error *err)
{
    const engine_rows rows = {
        .x = x, .n_rows = b->n_rows, .dim = s->model->shape.dim, .token = b->token, .sequence = b->sequence, .position = b->position};
    for (int32_t i = 0; i < s->n_hooks; i++) {
        const hook *h = s->hooks + i;
        if (h->at.layer == layer && h->at.kind == kind && !h->fn(h->user, &rows, err))
            return false;
    }
    return true;
}

/* ---- rows ---- */

static void rms_norm(float *y, const float *x, const float *w, int32_t n, float eps)
{
    float sum = 0.0f;
    for (int32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    const float scale = 1.0f / sqrtf(sum / (float)n + eps);
    for (int32_t i = 0; i < n; i++)
        y[i] = x[i] * scale * w[i];
}

static void norm_rows(engine_session *s, const float *w, int32_t n_rows)
{
    const int32_t dim = s->model->shape.dim;
    for (int32_t r = 0; r < n_rows; r++)
        rms_norm(s->y + (size_t)r * (size_t)dim, s->x + (size_t)r * (size_t)dim, w, dim, s->model->shape.norm_eps);
}

static void add_rows(float *x, const float *delta, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += delta[i];
}

static void rotate(float *z, int32_t n_heads, int32_t head_size, const float *rope)
{
    for (int32_t h = 0; h < n_heads; h++, z += head_size)
        for (int32_t i = 0; i < head_size; i += 2) {
            const float a = z[i], b = z[i + 1], c = rope[i], d = rope[i + 1];
            z[i] = a * c - b * d;
            z[i + 1] = a * d + b * c;
        }
}

/* Blocks of eight, which the compiler turns into vectors; the order is the same for every length and batch. */
static float dot(const float *restrict a, const float *restrict b, int32_t n)
{
    float lanes[8] = {0}, sum = 0.0f;
    int32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int32_t j = 0; j < 8; j++)
            lanes[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (int32_t half = 4; half > 0; half /= 2)
        for (int32_t j = 0; j < half; j++)
            lanes[j] += lanes[j + half];
    return sum + lanes[0];
}

static void add_scaled(float *restrict out, const float *restrict v, float scale, int32_t n)
{
    int32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int32_t j = 0; j < 8; j++)
            out[i + j] += scale * v[i + j];
    for (; i < n; i++)
        out[i] += scale * v[i];
}

static void softmax(float *p, int32_t n)
{
    float most = p[0], sum = 0.0f;
    for (int32_t i = 1; i < n; i++)
        most = p[i] > most ? p[i] : most;
    for (int32_t i = 0; i < n; i++)
        sum += p[i] = expf(p[i] - most);
    for (int32_t i = 0; i < n; i++)
        p[i] /= sum;
}

/* ---- attention ---- */

/* What the tasks of one attention share: one task is one row with all its heads. */
typedef struct attention {
    const engine_session *s;
    const engine_batch *batch;
    int32_t layer;
} attention;

static size_t cache_at(const engine_session *s, int32_t layer, int32_t sequence, int32_t position)
{
    const size_t kv = (size_t)s->model->shape.n_kv_heads * (size_t)s->model->shape.head_size;
    return (((size_t)layer * (size_t)s->n_sequences + (size_t)sequence) * (size_t)s->context + (size_t)position) * kv;
}

static void attend_row(void *job, uint32_t row, uint32_t worker)
{
    const attention *a = job;
    const engine_session *s = a->s;
    const engine_shape *m = &s->model->shape;
    const size_t kv = (size_t)m->n_kv_heads * (size_t)m->head_size, head = (size_t)m->head_size, n_heads = (size_t)m->n_heads;
    const size_t at = cache_at(s, a->layer, a->batch->sequence[row], 0);
    const int32_t n = a->batch->position[row] + 1;
    const float scale = 1.0f / sqrtf((float)m->head_size);
    float *p = s->scores + (size_t)worker * (size_t)s->context;
    for (size_t h = 0; h < n_heads; h++) {
        const size_t group = h / (n_heads / (size_t)m->n_kv_heads) * head;
        const float *keys = s->keys + at + group, *values = s->values + at + group, *q = s->q + (row * n_heads + h) * head;
        float *out = s->mixed + (row * n_heads + h) * head;
        for (int32_t i = 0; i < n; i++)
            p[i] = dot(q, keys + (size_t)i * kv, m->head_size) * scale;
        softmax(p, n);
        memset(out, 0, head * sizeof *out);
        for (int32_t i = 0; i < n; i++)
            add_scaled(out, values + (size_t)i * kv, p[i], m->head_size);
    }
}

bool engine_session_share(engine_session *s, int32_t to, int32_t from, int32_t n)
{
    const engine_shape *m = &s->model->shape;
    const size_t bytes = (size_t)n * (size_t)m->n_kv_heads * (size_t)m->head_size * sizeof *s->keys;
    if (to < 0 || to >= s->n_sequences || from < 0 || from >= s->n_sequences || to == from || n < 0 || n > s->length[from])
        return false;
    for (int32_t i = 0; i < s->n_hooks; i++)
        if (!s->hooks[i].share || !s->hooks[i].share(s->hooks[i].user, to, from, n))
            return false;
    for (int32_t l = 0; l < m->n_layers; l++) {
        memcpy(s->keys + cache_at(s, l, to, 0), s->keys + cache_at(s, l, from, 0), bytes);
        memcpy(s->values + cache_at(s, l, to, 0), s->values + cache_at(s, l, from, 0), bytes);
    }
    s->length[to] = n;
    return true;
}

/* Rotates queries and keys, and puts keys and values where later positions find them. */
static void store_rows(engine_session *s, const engine_batch *b, int32_t layer)
{
    const engine_shape *m = &s->model->shape;
    const size_t q = (size_t)m->n_heads * (size_t)m->head_size, kv = (size_t)m->n_kv_heads * (size_t)m->head_size;
    for (size_t r = 0; r < (size_t)b->n_rows; r++) {
        const float *rope = s->rope + (size_t)b->position[r] * (size_t)m->head_size;
        const size_t at = cache_at(s, layer, b->sequence[r], b->position[r]);
        rotate(s->q + r * q, m->n_heads, m->head_size, rope);
        rotate(s->k + r * kv, m->n_kv_heads, m->head_size, rope);
        memcpy(s->keys + at, s->k + r * kv, kv * sizeof(float));
        memcpy(s->values + at, s->v + r * kv, kv * sizeof(float));
    }
}

static bool attend(engine_session *s, const engine_batch *b, int32_t layer, engine_error *err)
{
    attention job = {.s = s, .batch = b, .layer = layer};
    const engine_host *host = s->model->host;
    if (host->pool && b->n_rows > 1)
        return !sae_pool_run(host->pool, &job, attend_row, (uint32_t)b->n_rows) || engine_fail(err, "the thread pool failed");
    for (uint32_t r = 0; r < (uint32_t)b->n_rows; r++)
        attend_row(&job, r, 0);
    return true;
}

/* ---- blocks ---- */

static bool product(engine_session *s, const engine_linear *l, float *y, const float *x, int32_t n_rows, engine_error *err)
{
    return engine_linear_run(l, y, x, n_rows, false, s->scratch, s->scratch_bytes, err);
}

/* x += W in. Hooks see what is added; where there is none it is added as it is made, which gives the same bits. */
static bool add_product(engine_session *s, const engine_batch *b, int32_t layer, int32_t kind, const engine_linear *l, const float *in,
                        engine_error *err)
{
    if (!is_hooked(s, layer, kind))
        return engine_linear_run(l, s->x, in, b->n_rows, true, s->scratch, s->scratch_bytes, err);
    if (!product(s, l, s->delta, in, b->n_rows, err) || !call_hooks(s, layer, kind, s->delta, b, err))
        return false;
    add_rows(s->x, s->delta, (size_t)b->n_rows * (size_t)s->model->shape.dim);
    return true;
}

static bool attention_block(engine_session *s, const engine_batch *b, int32_t layer, engine_error *err)
{
    const engine_layer *l = s->model->layers + layer;
    const int32_t n = b->n_rows;
    norm_rows(s, l->attn_norm, n);
    if (!product(s, l->q, s->q, s->y, n, err) || !product(s, l->k, s->k, s->y, n, err) || !product(s, l->v, s->v, s->y, n, err))
        return false;
    store_rows(s, b, layer);
    return attend(s, b, layer, err) && add_product(s, b, layer, ENGINE_ATTN_OUT, l->o, s->mixed, err);
}

static bool mlp_block(engine_session *s, const engine_batch *b, int32_t layer, engine_error *err)
{
    const engine_layer *l = s->model->layers + layer;
    norm_rows(s, l->mlp_norm, b->n_rows);
    return product(s, l->hidden, s->hidden, s->y, b->n_rows, err) && add_product(s, b, layer, ENGINE_MLP_OUT, l->down, s->hidden, err);
}

/* The wanted rows move to the front of y, normed. */
static int32_t gather_wanted(engine_session *s, const engine_batch *b)
{
    const engine_shape *m = &s->model->shape;
    int32_t n = 0;
    for (int32_t r = 0; b->want && r < b->n_rows; r++)
        if (b->want[r])
            rms_norm(s->y + (size_t)n++ * (size_t)m->dim, s->x + (size_t)r * (size_t)m->dim, s->model->final_norm, m->dim, m->norm_eps);
    return n;
}

static bool check_row(engine_session *s, const engine_batch *b, int32_t r, engine_error *err)
{
    const int32_t seq = b->sequence[r], pos = b->position[r], n_vocab = s->model->shape.n_vocab;
    if (b->token[r] < 0 || b->token[r] >= n_vocab)
        return engine_fail(err, "row %d: token %d, the vocabulary has %d", r, b->token[r], n_vocab);
    if (seq < 0 || seq >= s->n_sequences)
        return engine_fail(err, "row %d: sequence %d, the session has %d", r, seq, s->n_sequences);
    if (pos < 0 || pos >= s->context)
        return engine_fail(err, "row %d: position %d is outside the context of %d", r, pos, s->context);
    if (s->next[seq] < 0 ? pos > s->length[seq] : pos != s->next[seq])
        return engine_fail(err, "row %d: position %d of sequence %d does not follow position %d", r, pos, seq,
                           (s->next[seq] < 0 ? s->length[seq] : s->next[seq]) - 1);
    s->next[seq] = pos + 1;
    return true;
}

static bool check_batch(engine_session *s, const engine_batch *b, engine_error *err)
{
    if (b->n_rows < 0 || b->n_rows > s->max_rows)
        return engine_fail(err, "a batch of %d rows, the session was made for 0 .. %d", b->n_rows, s->max_rows);
    for (int32_t i = 0; i < s->n_sequences; i++)
        s->next[i] = -1;
    for (int32_t r = 0; r < b->n_rows; r++)
        if (!check_row(s, b, r, err))
            return false;
    return true;
}

bool engine_step(engine_session *s, const engine_batch *b, float *logits, engine_error *err)
{
    const engine_model *m = s->model;
    const size_t dim = (size_t)m->shape.dim;
    if (!check_batch(s, b, err))
        return false;
    for (size_t r = 0; r < (size_t)b->n_rows; r++)
        engine_matrix_row(s->x + r * dim, &m->embedding, (size_t)b->token[r], dim);
    for (int32_t l = 0; l < m->shape.n_layers; l++)
        if (!attention_block(s, b, l, err) || !mlp_block(s, b, l, err) || !call_hooks(s, l, ENGINE_RESID_POST, s->x, b, err))
            return false;
    const int32_t wanted = gather_wanted(s, b);
    if (wanted && !product(s, m->unembed, logits, s->y, wanted, err))
        return false;
    for (int32_t i = 0; i < s->n_sequences; i++)
        if (s->next[i] >= 0)
            s->length[i] = s->next[i];
    return true;
}
