/* Opens a model of either format, checks its weights and packs its matrices. */
#define _POSIX_C_SOURCE 200809L

#include "internal.h"
#include "linear.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

bool engine_shape_check(const engine_shape *s, const char *path, engine_error *err)
{
    /* Limits whose largest products fit into 63 bits. */
    const struct {
        const char *name;
        int32_t value, most;
    } sizes[] = {{"dim", s->dim, 1 << 16},         {"hidden", s->hidden, 1 << 18},         {"n_layers", s->n_layers, 1 << 10},
                 {"n_heads", s->n_heads, 1 << 12}, {"n_kv_heads", s->n_kv_heads, 1 << 12}, {"head_size", s->head_size, 1 << 12},
                 {"n_vocab", s->n_vocab, 1 << 24}, {"context", s->context, 1 << 24}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most)
            return engine_fail(err, "%s: %s is %d, which is not the size of a Llama", path, sizes[i].name, sizes[i].value);
    if (s->n_heads % s->n_kv_heads)
        return engine_fail(err, "%s: %d query heads cannot share %d key heads", path, s->n_heads, s->n_kv_heads);
    if (s->head_size % 2)
        return engine_fail(err, "%s: a head has %d elements, RoPE needs pairs", path, s->head_size);
    if (!(isfinite(s->norm_eps) && s->norm_eps >= 0) || !(isfinite(s->rope_theta) && s->rope_theta > 0))
        return engine_fail(err, "%s: norm eps %g or rope theta %g is no number that a Llama can have", path, (double)s->norm_eps,
                           (double)s->rope_theta);
    return true;
}

/* A weight matrix, or a vector (n_out = 1) that is not packed. */
typedef struct part {
    const char *name;
    const float *w;
    int64_t n_out, n_in;
    engine_linear **packed;
} part;

/* `where` is "layer 3: ", or empty for what belongs to none. */
static bool take_part(const engine_model *m, const part *p, const char *where, engine_error *err)
{
    for (int64_t i = 0; i < p->n_out * p->n_in; i++)
        if (!isfinite(p->w[i]))
            return engine_fail(err, "%s%s holds a value that is not finite in row %lld, column %lld", where, p->name,
                               (long long)(i / p->n_in), (long long)(i % p->n_in));
    return !p->packed || engine_linear_create(p->packed, m->host, p->w, (int32_t)p->n_out, (int32_t)p->n_in, err);
}

static bool take_layer(engine_model *m, int32_t layer, engine_error *err)
{
    const engine_shape *s = &m->shape;
    engine_layer *l = m->layers + layer;
    const int64_t q = (int64_t)s->n_heads * s->head_size, kv = (int64_t)s->n_kv_heads * s->head_size;
    const part parts[] = {{"attention norm", l->attn_norm, 1, s->dim, NULL},
                          {"MLP norm", l->mlp_norm, 1, s->dim, NULL},
                          {"W_Q", l->wq, q, s->dim, &l->q},
                          {"W_K", l->wk, kv, s->dim, &l->k},
                          {"W_V", l->wv, kv, s->dim, &l->v},
                          {"W_O", l->wo, s->dim, q, &l->o},
                          {"W_gate", l->w_gate, s->hidden, s->dim, &l->gate},
                          {"W_up", l->w_up, s->hidden, s->dim, &l->up},
                          {"W_down", l->w_down, s->dim, s->hidden, &l->down}};
    char where[24];
    snprintf(where, sizeof where, "layer %d: ", layer);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!take_part(m, parts + i, where, err))
            return false;
    return true;
}

static bool take_all(engine_model *m, engine_error *err)
{
    const engine_shape *s = &m->shape;
    const part parts[] = {{"the embedding", m->embedding, s->n_vocab, s->dim, NULL},
                          {"the last norm", m->final_norm, 1, s->dim, NULL},
                          {"the output matrix", m->head, s->n_vocab, s->dim, &m->unembed}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!take_part(m, parts + i, "", err))
            return false;
    for (int32_t i = 0; i < s->n_layers; i++)
        if (!take_layer(m, i, err))
            return false;
    return true;
}

bool engine_model_open(engine_model **out, const engine_host *host, const char *path, engine_error *err)
{
    struct stat st;
    *out = NULL;
    engine_model *m = engine_take(1, 1, 1, sizeof *m, err);
    if (!m)
        return false;
    m->host = host;
    const bool folder = !stat(path, &st) && S_ISDIR(st.st_mode);
    if (!(folder ? engine_read_hf(m, path, err) : engine_read_bin(m, path, err)) || !take_all(m, err)) {
        engine_model_free(m);
        return false;
    }
    *out = m;
    return true;
}

static void free_layer(engine_layer *l)
{
    engine_linear *const all[] = {l->q, l->k, l->v, l->o, l->gate, l->up, l->down};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        engine_linear_free(all[i]);
}

void engine_model_free(engine_model *m)
{
    if (!m)
        return;
    for (int32_t i = 0; m->layers && i < m->shape.n_layers; i++)
        free_layer(m->layers + i);
    engine_linear_free(m->unembed);
    free(m->layers);
    free(m->owned);
    if (m->map)
        munmap(m->map, m->map_bytes);
    free(m);
}
