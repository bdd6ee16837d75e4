/* llama2.c's checkpoint, version 0: seven int32 (dim, hidden, layers, heads, kv heads, vocabulary, context), then f32 tensors in a fixed
 * order. A negative vocabulary says that the last tensor is an output matrix of its own (karpathy/llama2.c, run.c, memory_map_weights). */
#include "internal.h"

#include <string.h>

enum { HEADER = 7, HEADER_BYTES = HEADER * 4, MAGIC_V1 = 0x616b3432 };

/* Hands out the tensors of the file one after the other. */
typedef struct cursor {
    const float *at;
} cursor;

static const float *next(cursor *c, int64_t n)
{
    const float *p = c->at;
    c->at += n;
    return p;
}

static engine_matrix matrix(const float *w)
{
    return (engine_matrix){(const unsigned char *)w, SAE_F32};
}

/* The layers of a matrix lie behind one another, kind by kind. */
static void lay_out(engine_model *m, const float *weights, bool tied)
{
    const engine_shape *s = &m->shape;
    const int64_t dim = s->dim, hidden = s->hidden, kv = (int64_t)s->n_kv_heads * s->head_size, n = s->n_layers;
    cursor c = {weights};
    m->embedding = matrix(next(&c, s->n_vocab * dim));
    const float *attn_norm = next(&c, n * dim);
    const float *wq = next(&c, n * dim * dim);
    const float *wk = next(&c, n * kv * dim);
    const float *wv = next(&c, n * kv * dim);
    const float *wo = next(&c, n * dim * dim);
    const float *mlp_norm = next(&c, n * dim);
    const float *w_gate = next(&c, n * hidden * dim);
    const float *w_down = next(&c, n * hidden * dim);
    const float *w_up = next(&c, n * hidden * dim);
    m->final_norm = next(&c, dim);
    next(&c, (int64_t)s->context * s->head_size); /* cosines and sines, which the session computes */
    m->head = tied ? m->embedding : matrix(next(&c, s->n_vocab * dim));
    for (int64_t i = 0; i < n; i++)
        m->layers[i] = (engine_layer){.attn_norm = attn_norm + i * dim,
                                      .mlp_norm = mlp_norm + i * dim,
                                      .wq = matrix(wq + i * dim * dim),
                                      .wk = matrix(wk + i * kv * dim),
                                      .wv = matrix(wv + i * kv * dim),
                                      .wo = matrix(wo + i * dim * dim),
                                      .w_gate = matrix(w_gate + i * hidden * dim),
                                      .w_up = matrix(w_up + i * hidden * dim),
                                      .w_down = matrix(w_down + i * hidden * dim)};
}

/* Floats behind the header. */
static int64_t n_floats(const engine_shape *s, bool tied)
{
    const int64_t dim = s->dim, kv = (int64_t)s->n_kv_heads * s->head_size;
    const int64_t layer = 2 * dim + 2 * dim * dim + 2 * kv * dim + 3 * dim * s->hidden;
    return (tied ? 1 : 2) * s->n_vocab * dim + s->n_layers * layer + dim + (int64_t)s->context * s->head_size;
}

static bool read_header(engine_shape *s, bool *tied, const engine_file *f, const char *path, engine_error *err)
{
    int32_t h[HEADER];
    if (f->bytes < HEADER_BYTES)
        return engine_fail(err, "%s has %zu bytes, a llama2.c checkpoint begins with %d", path, f->bytes, HEADER_BYTES);
    memcpy(h, f->data, HEADER_BYTES);
    if (h[0] == MAGIC_V1)
        return engine_fail(err, "%s is a llama2.c checkpoint of version %d; export it as version 0", path, h[1]);
    if (h[5] == INT32_MIN)
        return engine_fail(err, "%s: n_vocab is %d, which is not the size of a Llama", path, h[5]);
    *tied = h[5] > 0;
    *s = (engine_shape){.dim = h[0],
                        .hidden = h[1],
                        .n_layers = h[2],
                        .n_heads = h[3],
                        .n_kv_heads = h[4],
                        .head_size = h[3] > 0 ? h[0] / h[3] : 0,
                        .n_vocab = *tied ? h[5] : -h[5],
                        .context = h[6],
                        .norm_eps = 1e-5f,
                        .rope_theta = 10000.0f};
    if (!engine_shape_check(s, path, err))
        return false;
    if (s->head_size * s->n_heads != s->dim)
        return engine_fail(err, "%s: dim is %d, which %d heads do not divide", path, s->dim, s->n_heads);
    return true;
}

bool engine_read_bin(engine_model *m, const char *path, engine_error *err)
{
    engine_file f;
    bool tied = true;
    if (!engine_file_map(&f, path, err))
        return false;
    m->map = (void *)f.data;
    m->map_bytes = f.bytes;
    if (!read_header(&m->shape, &tied, &f, path, err))
        return false;
    const uint64_t wanted = HEADER_BYTES + 4 * (uint64_t)n_floats(&m->shape, tied);
    if (f.bytes != wanted)
        return engine_fail(err, "%s has %zu bytes, its header asks for %llu: the file is cut or is none of llama2.c's version 0", path,
                           f.bytes, (unsigned long long)wanted);
    m->layers = engine_take((size_t)m->shape.n_layers, 1, 1, sizeof *m->layers, err);
    if (!m->layers)
        return false;
    lay_out(m, (const float *)(const void *)(f.data + HEADER_BYTES), tied);
    m->bos = 1;
    m->stop[0] = 1;
    m->stop[1] = 2;
    m->n_stop = 2;
    return true;
}
