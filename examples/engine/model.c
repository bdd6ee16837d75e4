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

static float from_half(uint16_t h)
{
    const float sign = h & 0x8000 ? -1.0f : 1.0f;
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31)
        return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexpf((float)(fraction + 1024), exponent - 25) : ldexpf((float)fraction, -24));
}

static float from_bf16(uint16_t b)
{
    const uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void engine_matrix_row(float *out, const engine_matrix *m, size_t row, size_t n)
{
    const unsigned char *at = m->data + row * n * sae_dtype_bytes(m->dtype);
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        if (m->dtype == SAE_F32) {
            memcpy(out + i, at + i * sizeof *out, sizeof *out);
            continue;
        }
        memcpy(&bits, at + i * sizeof bits, sizeof bits);
        out[i] = m->dtype == SAE_F16 ? from_half(bits) : from_bf16(bits);
    }
}

/* The first element that is not finite, n if there is none: all bits of its exponent are set. */
static int64_t find_bad(const engine_matrix *m, int64_t n)
{
    const uint16_t mask = m->dtype == SAE_F16 ? 0x7c00 : 0x7f80;
    const int64_t step = m->dtype == SAE_F32 ? 2 : 1;
    for (int64_t i = 0; i < n; i++) {
        uint16_t high; /* of an f32 its upper half */
        memcpy(&high, m->data + (i * step + step - 1) * (int64_t)sizeof high, sizeof high);
        if ((high & mask) == mask)
            return i;
    }
    return n;
}

/* A weight matrix, or a vector (n_out = 1). What is packed is so as `packed`, with the gate if there is one. */
typedef struct part {
    const char *name;
    engine_matrix m;
    int64_t n_out, n_in;
    engine_linear **packed;
    const engine_matrix *gate;
    int32_t heads; /* whose rows are to be paired, where the file has them apart */
} part;

/* Rows i and i + half of every head become rows 2i and 2i + 1, in new memory. */
static unsigned char *paired(const part *p, engine_error *err)
{
    const size_t row = (size_t)p->n_in * sae_dtype_bytes(p->m.dtype), head = (size_t)(p->n_out / p->heads), half = head / 2;
    unsigned char *out = engine_take((size_t)p->n_out, row, 1, 1, err);
    for (size_t r = 0; out && r < (size_t)p->n_out; r++) {
        const size_t i = r % head, from = r - i + (i < half ? 2 * i : 2 * (i - half) + 1);
        memcpy(out + from * row, p->m.data + r * row, row);
    }
    return out;
}

/* `where` is "layer 3: ", or empty for what belongs to none. */
static bool take_part(const engine_model *m, const part *p, const char *where, engine_error *err)
{
    const int64_t bad = find_bad(&p->m, p->n_out * p->n_in);
    if (bad < p->n_out * p->n_in)
        return engine_fail(err, "%s%s holds a value that is not finite in row %lld, column %lld", where, p->name,
                           (long long)(bad / p->n_in), (long long)(bad % p->n_in));
    if (!p->packed)
        return true;
    unsigned char *copy = NULL;
    engine_matrix w = p->m;
    if (m->halves_apart && p->heads) {
        if (!(copy = paired(p, err)))
            return false;
        w.data = copy;
    }
    const bool ok = engine_linear_create(p->packed, m->host, m->weights, &w, p->gate, (int32_t)p->n_out, (int32_t)p->n_in, err);
    free(copy);
    return ok;
}

static bool take_parts(const engine_model *m, const part *parts, size_t n, const char *where, engine_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!take_part(m, parts + i, where, err))
            return false;
    return true;
}

static engine_matrix vector(const float *v)
{
    return (engine_matrix){(const unsigned char *)v, SAE_F32};
}

static bool take_layer(engine_model *m, int32_t layer, engine_error *err)
{
    const engine_shape *s = &m->shape;
    engine_layer *l = m->layers + layer;
    const int64_t q = (int64_t)s->n_heads * s->head_size, kv = (int64_t)s->n_kv_heads * s->head_size;
    const part parts[] = {{"attention norm", vector(l->attn_norm), 1, s->dim, NULL, NULL, 0},
                          {"MLP norm", vector(l->mlp_norm), 1, s->dim, NULL, NULL, 0},
                          {"W_Q", l->wq, q, s->dim, &l->q, NULL, s->n_heads},
                          {"W_K", l->wk, kv, s->dim, &l->k, NULL, s->n_kv_heads},
                          {"W_V", l->wv, kv, s->dim, &l->v, NULL, 0},
                          {"W_O", l->wo, s->dim, q, &l->o, NULL, 0},
                          {"W_gate", l->w_gate, s->hidden, s->dim, NULL, NULL, 0},
                          {"W_up", l->w_up, s->hidden, s->dim, &l->hidden, &l->w_gate, 0},
                          {"W_down", l->w_down, s->dim, s->hidden, &l->down, NULL, 0}};
    char where[24];
    snprintf(where, sizeof where, "layer %d: ", layer);
    return take_parts(m, parts, sizeof parts / sizeof *parts, where, err);
}

static bool take_all(engine_model *m, engine_error *err)
{
    const engine_shape *s = &m->shape;
    const part parts[] = {{"the embedding", m->embedding, s->n_vocab, s->dim, NULL, NULL, 0},
                          {"the last norm", vector(m->final_norm), 1, s->dim, NULL, NULL, 0},
                          {"the output matrix", m->head, s->n_vocab, s->dim, &m->unembed, NULL, 0}};
    if (!take_parts(m, parts, sizeof parts / sizeof *parts, "", err))
        return false;
    for (int32_t i = 0; i < s->n_layers; i++)
        if (!take_layer(m, i, err))
            return false;
    return true;
}

bool engine_model_open(engine_model **out, const engine_host *host, const char *path, engine_weights weights, engine_error *err)
{
    struct stat st;
    *out = NULL;
    engine_model *m = engine_take(1, 1, 1, sizeof *m, err);
    if (!m)
        return false;
    m->host = host;
    m->weights = weights;
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
    engine_linear *const all[] = {l->q, l->k, l->v, l->o, l->hidden, l->down};
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
