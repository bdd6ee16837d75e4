/* The eval callback without ggml's structs: what a tensor is comes from functions of the engine's library, what is done with its rows is
 * sae/ggmlrows.h. */
#include <string.h>

#include "env/env.h"
#include "sae/ggmlrows.h"
#include "sae/taps.h"

enum { NAME_BYTES = 48, STAGED_ROWS = 64, STAGED_BYTES = 4 /* an element, of whatever type */ };

/* The engine's functions. Their tensors are struct ggml_tensor, whose inside is none of our business. */
typedef struct accessors {
    const char *(*get_name)(const void *tensor);
    int64_t (*nelements)(const void *tensor);
    int64_t (*nrows)(const void *tensor);
    size_t (*element_size)(const void *tensor);
    bool (*is_contiguous)(const void *tensor);
    bool (*is_matrix)(const void *tensor);
    void (*tensor_get)(const void *tensor, void *to, size_t offset, size_t bytes);
    void (*tensor_set)(void *tensor, const void *from, size_t offset, size_t bytes);
    void *(*gguf_init_empty)(void);
    void (*gguf_add_tensor)(void *gguf, const void *tensor);
    int (*gguf_get_tensor_type)(const void *gguf, int64_t i);
    void (*gguf_free)(void *gguf);
} accessors;

static const struct {
    const char *name;
    size_t at;
} needed[] = {
    {"ggml_get_name", offsetof(accessors, get_name)},
    {"ggml_nelements", offsetof(accessors, nelements)},
    {"ggml_nrows", offsetof(accessors, nrows)},
    {"ggml_element_size", offsetof(accessors, element_size)},
    {"ggml_is_contiguous", offsetof(accessors, is_contiguous)},
    {"ggml_is_matrix", offsetof(accessors, is_matrix)},
    {"ggml_backend_tensor_get", offsetof(accessors, tensor_get)},
    {"ggml_backend_tensor_set", offsetof(accessors, tensor_set)},
    {"gguf_init_empty", offsetof(accessors, gguf_init_empty)},
    {"gguf_add_tensor", offsetof(accessors, gguf_add_tensor)},
    {"gguf_get_tensor_type", offsetof(accessors, gguf_get_tensor_type)},
    {"gguf_free", offsetof(accessors, gguf_free)},
};

struct sae_taps {
    sae_env *env;
    accessors of;
    sae_ggml g;
    size_t bytes;      /* of the one allocation that holds this and all that it points to */
    int64_t *max_rows; /* [n_taps], 0 = any */
};

/* ---- making ---- */

static sae_status find_accessors(accessors *of, sae_symbol_fn symbol, void *library, sae_error *err)
{
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        void *const found = symbol(library, needed[i].name);
        if (!found)
            return saei_fail(err, SAE_E_UNSUPPORTED,
                             "the engine's library has no %s: give the library that holds llama.cpp or ggml, of 2024 or later",
                             needed[i].name);
        memcpy((unsigned char *)of + needed[i].at, &found, sizeof found);
    }
    return SAE_OK;
}

/* A tap as it is used: widths agree, and its rows have somewhere to go. */
static sae_status check_tap(sae_tap *t, int64_t i, sae_error *err)
{
    const long long at = (long long)i;
    const int32_t plan = sae_plan_d(t->plan), probe = sae_probe_d(t->probe);
    if (!t->name || !*t->name || strnlen(t->name, NAME_BYTES) == NAME_BYTES || t->layer < -1)
        return saei_fail(err, SAE_E_ARG, "taps[%lld]: a tensor has a name of 1 to %d bytes and a layer from 0 (-1 = none), this is %d", at,
                         NAME_BYTES - 1, (int)t->layer);
    if (t->reserved)
        return saei_fail(err, SAE_E_ARG, "taps[%lld]: reserved = %u, zero the struct before use", at, (unsigned)t->reserved);
    t->d = t->d ? t->d : plan ? plan : probe;
    if (!plan && !probe && !(t->rows && t->d > 0))
        return saei_fail(err, SAE_E_ARG, "taps[%lld] has no plan, no probe and no rows with d > 0: nothing would be done", at);
    if ((plan && plan != t->d) || (probe && probe != t->d))
        return saei_fail(err, SAE_E_SHAPE, "taps[%lld]: d = %d, but the %s is for rows of %d elements", at, (int)t->d,
                         plan && plan != t->d ? "plan" : "probe", (int)(plan && plan != t->d ? plan : probe));
    if (t->probe && (!t->ctx || !t->codes))
        return saei_fail(err, SAE_E_ARG, "taps[%lld] has a probe without %s", at, t->ctx ? "codes" : "a ctx of its model");
    if ((t->probe || t->rows) && t->max_rows < 1)
        return saei_fail(err, SAE_E_ARG, "taps[%lld]: max_rows = %lld, say for how many rows of a batch there is room", at,
                         (long long)t->max_rows);
    return SAE_OK;
}

/* Taps of the caller have the size that the first one states. */
static sae_status read_tap(sae_tap *out, const sae_tap *taps, int64_t i, sae_error *err)
{
    const void *at = (const unsigned char *)taps + (size_t)i * taps->struct_size;
    sae_error inner = {0};
    if (taps->struct_size < 8 || taps->struct_size % _Alignof(sae_tap) || *(const uint32_t *)at != taps->struct_size)
        return saei_fail(err, SAE_E_ARG, "taps[%lld]: every tap needs struct_size = sizeof(sae_tap), as the first has", (long long)i);
    const sae_status status = saei_read_struct(out, sizeof *out, at, "sae_tap", &inner);
    return status ? saei_fail(err, status, "taps[%lld]: %s", (long long)i, inner.text) : check_tap(out, i, err);
}

/* Where things lie in the block, and how large it is. */
typedef struct layout {
    size_t taps, max_rows, names, staging, staging_bytes, scratch, total;
} layout;

static sae_status lay_out(layout *l, const sae_tap *taps, int64_t n, sae_error *err)
{
    size_t scratch = 0;
    int32_t d = 0;
    for (int64_t i = 0; i < n; i++) {
        sae_tap t;
        const sae_status status = read_tap(&t, taps, i, err);
        if (status)
            return status;
        d = t.d > d ? t.d : d;
        saei_reserve(&scratch, 1, sae_plan_scratch_bytes(t.plan));
    }
    saei_mul(&l->staging_bytes, (size_t)d, (size_t)STAGED_ROWS * STAGED_BYTES);
    saei_reserve(&l->total, 1, sizeof(sae_taps));
    l->taps = saei_reserve(&l->total, (size_t)n, sizeof(sae_ggml_tap));
    l->max_rows = saei_reserve(&l->total, (size_t)n, sizeof(int64_t));
    l->names = saei_reserve(&l->total, (size_t)n, NAME_BYTES);
    l->staging = saei_reserve(&l->total, 1, l->staging_bytes);
    l->scratch = saei_reserve(&l->total, 1, scratch);
    return SAE_OK;
}

static void fill_tap(sae_ggml_tap *to, const sae_tap *t, char *name, unsigned char *scratch)
{
    memcpy(name, t->name, strnlen(t->name, NAME_BYTES));
    *to = (sae_ggml_tap){.name = name, .layer = t->layer, .d = t->d, .plan = t->plan, .probe = t->probe, .ctx = t->ctx};
    to->scratch = scratch;
    to->scratch_bytes = sae_plan_scratch_bytes(t->plan);
    to->codes = t->codes;
    to->n_features = sae_probe_features(t->probe);
    to->rows = t->rows;
}

static void fill(sae_taps *s, unsigned char *block, const layout *l, const sae_tap *taps, int64_t n)
{
    size_t scratch = l->scratch;
    s->max_rows = (int64_t *)(void *)(block + l->max_rows);
    s->g.taps = (sae_ggml_tap *)(void *)(block + l->taps);
    s->g.n_taps = (int32_t)n;
    s->g.staging = block + l->staging;
    s->g.staging_bytes = l->staging_bytes;
    for (int64_t i = 0; i < n; i++) {
        sae_tap t;
        (void)read_tap(&t, taps, i, NULL);
        fill_tap(s->g.taps + i, &t, (char *)block + l->names + (size_t)i * NAME_BYTES, block + scratch);
        s->max_rows[i] = t.probe || t.rows ? t.max_rows : INT64_MAX;
        saei_reserve(&scratch, 1, sae_plan_scratch_bytes(t.plan));
    }
}

sae_status sae_taps_create(sae_taps **out, sae_env *env, sae_symbol_fn symbol, void *library, const sae_tap *taps, int64_t n_taps,
                           sae_error *err)
{
    accessors of;
    layout l = {0};
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_taps_create: out is NULL");
    *out = NULL;
    if (!env || !symbol || !taps)
        return saei_fail(err, SAE_E_ARG, "sae_taps_create: %s is NULL", !env ? "env" : !symbol ? "symbol" : "taps");
    if (n_taps < 1 || n_taps > INT32_MAX)
        return saei_fail(err, SAE_E_ARG, "sae_taps_create: n_taps = %lld, there must be at least one", (long long)n_taps);
    sae_status status = lay_out(&l, taps, n_taps, err);
    if (status || (status = find_accessors(&of, symbol, library, err)))
        return status;
    unsigned char *block = saei_zalloc(&env->host, l.total);
    if (!block)
        return saei_fail(err, SAE_E_NOMEM, "no memory for %lld taps (%zu bytes)", (long long)n_taps, l.total);
    sae_taps *s = (sae_taps *)(void *)block;
    s->env = env;
    s->of = of;
    s->bytes = l.total;
    fill(s, block, &l, taps, n_taps);
    saei_env_take(env);
    *out = s;
    return saei_ok(err);
}

void sae_taps_free(sae_taps *taps)
{
    if (!taps)
        return;
    sae_env *env = taps->env;
    saei_dealloc(&env->host, taps, taps->bytes);
    sae_env_free(env);
}

/* ---- the callback ---- */

/* A tensor with its accessors, for get and set. */
typedef struct held {
    const accessors *of;
    void *tensor;
} held;

static void get_bytes(void *at, void *to, size_t offset, size_t bytes)
{
    const held *h = at;
    h->of->tensor_get(h->tensor, to, offset, bytes);
}

static void set_bytes(void *at, const void *from, size_t offset, size_t bytes)
{
    const held *h = at;
    h->of->tensor_set(h->tensor, from, offset, bytes);
}

/* The type has no accessor; but a list of tensors tells those of its own. */
static int type_of(const accessors *of, const void *tensor)
{
    void *list = of->gguf_init_empty();
    if (!list)
        return -1;
    of->gguf_add_tensor(list, tensor);
    const int type = of->gguf_get_tensor_type(list, 0);
    of->gguf_free(list);
    return type;
}

/* What sae/ggml.h reads from the struct. A tensor that is no contiguous matrix is described so that it is refused for what it is. */
static void describe(sae_ggml_tensor *t, const accessors *of, held *h)
{
    const int64_t rows = of->nrows(h->tensor);
    *t = (sae_ggml_tensor){.name = of->get_name(h->tensor), .n_rows = rows, .tensor = h};
    if (rows < 1)
        return;
    t->n_matrices = of->is_matrix(h->tensor) ? 1 : 2;
    t->type = type_of(of, h->tensor);
    t->step = of->element_size(h->tensor);
    t->d = of->nelements(h->tensor) / rows;
    t->stride = of->is_contiguous(h->tensor) ? t->step * (size_t)t->d : 0;
    t->get = get_bytes;
    t->set = set_bytes;
}

bool sae_taps_eval(void *tensor, bool ask, void *taps)
{
    sae_taps *s = taps;
    if (ask)
        return sae_ggml_ask(&s->g, s->of.get_name(tensor), s->of.nrows(tensor));
    held h = {&s->of, tensor};
    sae_ggml_tensor t;
    describe(&t, &s->of, &h);
    sae_ggml_came(&s->g, &t);
    return true;
}

/* ---- a batch ---- */

static sae_status begin(sae_taps *s, const sae_taps_batch *given, sae_error *err)
{
    sae_taps_batch b;
    sae_error inner = {0};
    const sae_status status = saei_read_struct(&b, sizeof b, given, "sae_taps_batch", &inner);
    if (status)
        return saei_fail(err, status, "%s", inner.text);
    if (b.n_rows < 1 || b.n_layer < 1 || b.reserved)
        return saei_fail(err, SAE_E_ARG,
                         "the batch has n_rows = %lld, n_layer = %d, reserved = %u: the first two start at 1, the last is 0",
                         (long long)b.n_rows, (int)b.n_layer, (unsigned)b.reserved);
    const sae_ggml_batch batch = {b.n_rows, b.slot, b.seq, b.output, b.unified == SAE_YES};
    if (!s->g.open)
        s->g.n_layer = b.n_layer;
    if (sae_ggml_begin(&s->g, &batch))
        return saei_fail(err, s->g.err.status, "%s", s->g.err.text);
    for (int32_t i = 0; i < s->g.n_taps; i++)
        if (b.n_rows > s->max_rows[i]) {
            sae_ggml_fail_tap(&s->g, s->g.taps + i, SAE_E_CAPACITY, "has room for %lld rows, the batch has %lld", s->max_rows[i], b.n_rows);
            return saei_fail(err, s->g.err.status, "%s", s->g.err.text);
        }
    return saei_ok(err);
}

sae_status sae_taps_begin(sae_taps *taps, const sae_taps_batch *batch, sae_error *err)
{
    if (!taps || !batch)
        return saei_fail(err, SAE_E_ARG, "sae_taps_begin: %s is NULL", taps ? "batch" : "taps");
    return begin(taps, batch, err);
}

sae_status sae_taps_end(sae_taps *taps, sae_error *err)
{
    if (!taps)
        return saei_fail(err, SAE_E_ARG, "sae_taps_end: taps is NULL");
    const sae_status status = sae_ggml_end(&taps->g, NULL);
    return status ? saei_fail(err, status, "%s", taps->g.err.text) : saei_ok(err);
}

sae_status sae_taps_count(const sae_taps *taps, int64_t tap, sae_tap_counts *out)
{
    if (!taps || !out || tap < 0 || tap >= taps->g.n_taps)
        return SAE_E_ARG;
    const sae_ggml_tap *t = taps->g.taps + tap;
    const sae_tap_counts counts = {.struct_size = sizeof counts,
                                   .dtype = t->dtype,
                                   .hits = t->hits,
                                   .rows_seen = t->rows_seen,
                                   .rows_edited = t->rows_edited,
                                   .rows_left = t->rows_left,
                                   .asks = taps->g.asks,
                                   .unannounced = taps->g.unannounced};
    return saei_write_struct(out, &counts, sizeof counts, "sae_tap_counts", NULL);
}
