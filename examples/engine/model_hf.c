/* A Hugging Face folder of a Llama: config.json and model.safetensors. Matrices stay where they are in the file, vectors become f32. The rows
 * of q and k will be reordered, because transformers pairs element i of a head with i + head_size / 2 in RoPE and the engine pairs neighbours
 * (modeling_llama.py, rotate_half). */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

/* ---- config.json ---- */

typedef struct config {
    json_t *root;
    const char *path;
    engine_error *err;
} config;

static bool read_int(const config *c, const char *key, int32_t *out)
{
    const json_t *v = json_object_get(c->root, key);
    const json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < 1 || n > INT32_MAX)
        return engine_fail(c->err, "%s: %s is missing or is not a whole number above 0", c->path, key);
    *out = (int32_t)n;
    return true;
}

/* A key that may be absent or null. */
static bool read_int_or(const config *c, const char *key, int32_t *out, int32_t otherwise)
{
    const json_t *v = json_object_get(c->root, key);
    *out = otherwise;
    return !v || json_is_null(v) || read_int(c, key, out);
}

static bool read_real_or(const config *c, const json_t *object, const char *key, float *out, float otherwise)
{
    const json_t *v = json_object_get(object, key);
    *out = v ? (float)json_number_value(v) : otherwise;
    return !v || json_is_number(v) || engine_fail(c->err, "%s: %s is not a number", c->path, key);
}

/* What would change the computation must be what the engine computes. */
static bool check_kind(const config *c)
{
    static const char *const off[] = {"attention_bias", "mlp_bias"};
    const char *type = json_string_value(json_object_get(c->root, "model_type"));
    const char *act = json_string_value(json_object_get(c->root, "hidden_act"));
    if (!type || strcmp(type, "llama") != 0)
        return engine_fail(c->err, "%s: model_type is '%.60s', this engine runs 'llama'", c->path, type ? type : "(none)");
    if (act && strcmp(act, "silu") != 0)
        return engine_fail(c->err, "%s: hidden_act is '%.60s', this engine computes 'silu'", c->path, act);
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        if (json_is_true(json_object_get(c->root, off[i])))
            return engine_fail(c->err, "%s: %s is true, this engine has no such biases", c->path, off[i]);
    return true;
}

/* The only scaling that Llamas are published with. */
static bool read_scaling(const config *c, const json_t *kind, engine_rope_scaling *r)
{
    const json_t *original = json_object_get(kind, "original_max_position_embeddings");
    if (!read_real_or(c, kind, "factor", &r->factor, 0.0f) || !read_real_or(c, kind, "low_freq_factor", &r->low_freq_factor, 0.0f) ||
        !read_real_or(c, kind, "high_freq_factor", &r->high_freq_factor, 0.0f))
        return false;
    r->original_context = (int32_t)(json_integer_value(original) & INT32_MAX);
    return (r->factor >= 1 && r->low_freq_factor > 0 && r->high_freq_factor > r->low_freq_factor && r->original_context > 0) ||
           engine_fail(c->err, "%s: RoPE is scaled by factor %g, frequencies %g to %g, context %d, which makes no sense", c->path,
                       (double)r->factor, (double)r->low_freq_factor, (double)r->high_freq_factor, r->original_context);
}

/* transformers before version 5 has rope_theta and rope_scaling, since then both are in rope_parameters. */
static bool read_rope(const config *c, engine_shape *s)
{
    const json_t *parameters = json_object_get(c->root, "rope_parameters"), *scaling = json_object_get(c->root, "rope_scaling");
    const json_t *kind = json_is_object(parameters) ? parameters : scaling;
    const char *type = json_string_value(json_object_get(kind, "rope_type"));
    if (!read_real_or(c, json_is_object(parameters) ? parameters : c->root, "rope_theta", &s->rope_theta, 10000.0f))
        return false;
    if (!json_is_object(kind) || (type && !strcmp(type, "default")))
        return true;
    if (type && !strcmp(type, "llama3"))
        return read_scaling(c, kind, &s->rope_scaling);
    return engine_fail(c->err, "%s: RoPE is scaled in the way '%.60s', this engine knows 'llama3'", c->path, type ? type : "(none)");
}

static bool read_shape(const config *c, engine_shape *s)
{
    *s = (engine_shape){0};
    return read_int(c, "hidden_size", &s->dim) && read_int(c, "intermediate_size", &s->hidden) &&
           read_int(c, "num_hidden_layers", &s->n_layers) && read_int(c, "num_attention_heads", &s->n_heads) &&
           read_int_or(c, "num_key_value_heads", &s->n_kv_heads, s->n_heads) &&
           read_int_or(c, "head_dim", &s->head_size, s->dim / s->n_heads) && read_int(c, "vocab_size", &s->n_vocab) &&
           read_int_or(c, "max_position_embeddings", &s->context, 2048) && read_real_or(c, c->root, "rms_norm_eps", &s->norm_eps, 1e-6f) &&
           read_rope(c, s) && engine_shape_check(s, c->path, c->err);
}

static void add_stop(engine_model *m, const json_t *id)
{
    if (json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < m->shape.n_vocab && m->n_stop < ENGINE_MAX_STOP)
        m->stop[m->n_stop++] = (int32_t)json_integer_value(id);
}

static void read_names(const config *c, engine_model *m)
{
    const json_t *bos = json_object_get(c->root, "bos_token_id"), *eos = json_object_get(c->root, "eos_token_id"), *id;
    const char *name = json_string_value(json_object_get(c->root, "_name_or_path"));
    size_t i;
    m->bos = json_is_integer(bos) && json_integer_value(bos) >= 0 && json_integer_value(bos) < m->shape.n_vocab
                 ? (int32_t)json_integer_value(bos)
                 : -1;
    add_stop(m, eos);
    json_array_foreach(eos, i, id) add_stop(m, id);
    snprintf(m->name, sizeof m->name, "%s", name ? name : "");
}

/* ---- weights ---- */

/* The file, and where the next vector goes. */
typedef struct cursor {
    const tensors *t;
    float *at;
    engine_error *err;
} cursor;

/* Widens a vector and moves on; NULL with a sentence. */
static const float *take_vector(cursor *c, const char *name, int32_t n)
{
    engine_matrix v;
    float *out = c->at;
    if (!tensors_find(c->t, name, n, 0, &v, c->err))
        return NULL;
    engine_matrix_row(out, &v, 0, (size_t)n);
    c->at += n;
    return out;
}

static const float *layer_vector(cursor *c, int32_t layer, const char *name, int32_t n)
{
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s.weight", layer, name);
    return take_vector(c, full, n);
}

static bool layer_matrix(const cursor *c, int32_t layer, const char *name, int64_t rows, int64_t columns, engine_matrix *out)
{
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s.weight", layer, name);
    return tensors_find(c->t, full, rows, columns, out, c->err);
}

static bool read_layer(cursor *c, const engine_shape *s, engine_layer *l, int32_t layer)
{
    const int64_t q = (int64_t)s->n_heads * s->head_size, kv = (int64_t)s->n_kv_heads * s->head_size;
    return layer_matrix(c, layer, "self_attn.q_proj", q, s->dim, &l->wq) &&
           layer_matrix(c, layer, "self_attn.k_proj", kv, s->dim, &l->wk) &&
           layer_matrix(c, layer, "self_attn.v_proj", kv, s->dim, &l->wv) &&
           layer_matrix(c, layer, "self_attn.o_proj", s->dim, q, &l->wo) &&
           layer_matrix(c, layer, "mlp.gate_proj", s->hidden, s->dim, &l->w_gate) &&
           layer_matrix(c, layer, "mlp.up_proj", s->hidden, s->dim, &l->w_up) &&
           layer_matrix(c, layer, "mlp.down_proj", s->dim, s->hidden, &l->w_down) &&
           (l->attn_norm = layer_vector(c, layer, "input_layernorm", s->dim)) &&
           (l->mlp_norm = layer_vector(c, layer, "post_attention_layernorm", s->dim));
}

/* Of the whole file. */
static size_t n_weights(const engine_shape *s, bool tied)
{
    const size_t dim = (size_t)s->dim, q = (size_t)s->n_heads * (size_t)s->head_size, kv = (size_t)s->n_kv_heads * (size_t)s->head_size;
    const size_t layer = 2 * dim + 2 * q * dim + 2 * kv * dim + 3 * dim * (size_t)s->hidden;
    return (tied ? 1 : 2) * (size_t)s->n_vocab * dim + (size_t)s->n_layers * layer + dim;
}

/* The file is asked for nothing that it is too short for, so that a config cannot make the engine take all memory. */
static bool read_weights(engine_model *m, const tensors *t, bool tied, engine_error *err)
{
    const engine_shape *s = &m->shape;
    const size_t n = n_weights(s, tied), n_vectors = 2 * (size_t)s->n_layers + 1;
    if (t->file.bytes / 2 < n)
        return engine_fail(err, "%s has %zu bytes, too few for the %zu weights that config.json asks for", t->path, t->file.bytes, n);
    if (!(m->owned = engine_take(n_vectors, (size_t)s->dim, 1, sizeof *m->owned, err)) ||
        !(m->layers = engine_take((size_t)s->n_layers, 1, 1, sizeof *m->layers, err)))
        return false;
    cursor c = {.t = t, .at = m->owned, .err = err};
    bool ok = tensors_find(t, "model.embed_tokens.weight", s->n_vocab, s->dim, &m->embedding, err);
    for (int32_t i = 0; ok && i < s->n_layers; i++)
        ok = read_layer(&c, s, m->layers + i, i);
    m->halves_apart = true;
    m->head = m->embedding;
    return ok && (m->final_norm = take_vector(&c, "model.norm.weight", s->dim)) &&
           (tied || tensors_find(t, "lm_head.weight", s->n_vocab, s->dim, &m->head, err));
}

/* ---- the folder ---- */

static bool read_config(const config *c, engine_model *m)
{
    if (!json_is_object(c->root))
        return engine_fail(c->err, "%s is not a JSON object", c->path);
    if (!check_kind(c) || !read_shape(c, &m->shape))
        return false;
    read_names(c, m);
    return true;
}

/* What tie_word_embeddings says; where it says nothing, whether an output matrix is there. */
static bool is_tied(const json_t *root, const tensors *t)
{
    const json_t *tie = json_object_get(root, "tie_word_embeddings");
    return json_is_boolean(tie) ? json_is_true(tie) : !tensors_have(t, "lm_head.weight");
}

static bool read_files(engine_model *m, const char *config_path, const char *weights_path, engine_error *err)
{
    engine_file f;
    tensors t = {0};
    json_error_t e;
    if (!engine_file_map(&f, config_path, err))
        return false;
    config c = {.root = json_loadb((const char *)f.data, f.bytes, JSON_REJECT_DUPLICATES, &e), .path = config_path, .err = err};
    engine_file_unmap(&f);
    if (!c.root)
        return engine_fail(err, "%s, line %d: %s", config_path, e.line, e.text);
    bool ok = read_config(&c, m) && tensors_open(&t, weights_path, err);
    m->map = (void *)t.file.data;
    m->map_bytes = t.file.bytes;
    ok = ok && read_weights(m, &t, is_tied(c.root, &t), err);
    tensors_close(&t);
    json_decref(c.root);
    return ok;
}

bool engine_read_hf(engine_model *m, const char *folder, engine_error *err)
{
    char *config_path = engine_path(folder, "config.json", err);
    char *weights_path = config_path ? engine_path(folder, "model.safetensors", err) : NULL;
    const bool ok = weights_path && read_files(m, config_path, weights_path, err);
    free(config_path);
    free(weights_path);
    return ok;
}
