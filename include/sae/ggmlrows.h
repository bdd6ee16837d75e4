/* What is done with an engine's tensors as they are computed: which rows of the batch they hold, what is read from them, what is edited.
 * sae/ggml.h and the library's sae_taps (sae/taps.h) share it; hosts include one of those. Nothing of ggml is needed here. */
#ifndef SAE_GGMLROWS_H
#define SAE_GGMLROWS_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "codec.h"
#include "steer.h"

/* A tensor of the graph, and what is done with its rows: they are copied, the features of `probe` are read from them as they come, then
 * `plan` edits them. Everything must outlive the context; what is NULL is not done. The names are the engine's:
 *   "l_out"    blocks.L.hook_resid_post        "attn_out"  blocks.L.hook_attn_out
 *   "ffn_out"  blocks.L.hook_mlp_out           "embd"      the embeddings, layer -1 */
typedef struct sae_ggml_tap {
    const char *name;
    int32_t layer; /* from 0; -1 = the name stands alone */
    int32_t d;     /* what plan and probe were made for */
    const sae_plan *plan;
    void *scratch; /* sae_plan_scratch_bytes(plan), of this tap alone */
    size_t scratch_bytes;
    const sae_probe *probe;
    sae_ctx *ctx;       /* of the probe's model, of this tap alone */
    float *codes;       /* [n_rows of the batch][n_features], by row of the batch; rows that the tensor lacks are left as they are */
    int64_t n_features; /* of the probe */
    void *rows;         /* [n_rows of the batch][d] of the tensor's type, in the same way: rows as they come, for an encode afterwards */
    sae_dtype dtype;    /* of the tensor, once one has come by; set by the callback */
    /* Counted by the callback, over all batches. */
    int64_t hits;        /* how often the tensor came by, also without rows */
    int64_t rows_seen;   /* rows in it */
    int64_t rows_edited; /* rows that were given to the plan */
    int64_t rows_left;   /* rows with slot -1 */
    int64_t cursor;      /* rows of this batch that have come by */
} sae_ggml_tap;

/* The rows of one llama_decode, from the host's llama_batch. Arrays must stay until sae_ggml_end. */
typedef struct sae_ggml_batch {
    int64_t n_rows;
    const int32_t *slot;  /* [n_rows]: whose edits each row gets, -1 = none; NULL = all slot 0 */
    const int32_t *seq;   /* [n_rows]: the sequence of each row; NULL = one sequence */
    const int8_t *output; /* [n_rows]: llama_batch.logits; NULL = the last row alone */
    bool unified;         /* the context was made with kv_unified: rows keep their order however they are cut */
} sae_ggml_batch;

typedef struct sae_ggml {
    sae_ggml_tap *taps;
    int32_t n_taps;
    int32_t n_layer; /* llama_model_n_layer: the last layer's tensors hold the rows whose logits are wanted, the others every row */
    void *staging;   /* for tensors outside of the host's memory: rows are copied here, as many as fit; one row at least */
    size_t staging_bytes;
    bool copy; /* go through the staging memory even where the tensor is in the host's */
    /* Of the callback. */
    bool open;           /* between begin and end */
    bool several;        /* several sequences, each with memory of its own: llama.cpp orders rows anew where it cuts the batch */
    int64_t piece;       /* rows of the ubatch that is being computed, 0 = not known */
    int64_t asks;        /* how often the scheduler asked */
    int64_t asked;       /* before this batch */
    int64_t unannounced; /* tensors that came by outside of begin and end, as in a warm-up; they were left alone */
    sae_ggml_batch batch;
    sae_error err;
} sae_ggml;

/* A tensor that has been computed, as its owner describes it. */
typedef struct sae_ggml_tensor {
    const char *name;
    int64_t d, n_rows, n_matrices; /* ne[0], ne[1], ne[2] * ne[3] */
    size_t step, stride;           /* bytes from element to element, and from row to row */
    void *data;                    /* in the host's memory, else NULL: get and set move its bytes */
    void *tensor;
    void (*get)(void *tensor, void *to, size_t offset, size_t bytes);
    void (*set)(void *tensor, const void *from, size_t offset, size_t bytes);
    int type; /* enum ggml_type */
} sae_ggml_tensor;

static inline sae_status sae_ggml_fail(sae_ggml *g, sae_status status, const char *text)
{
    if (g->err.status == SAE_OK) {
        g->err.status = status;
        snprintf(g->err.text, sizeof g->err.text, "%s", text);
    }
    return g->err.status;
}

/* "l_out-2: " and what is wrong with it, with two numbers. */
static inline sae_status sae_ggml_fail_tensor(sae_ggml *g, const sae_ggml_tensor *t, sae_status status, const char *format, int64_t a,
                                              int64_t b)
{
    char text[sizeof g->err.text], what[160];
    snprintf(what, sizeof what, format, (long long)a, (long long)b);
    snprintf(text, sizeof text, "%.60s %s", t->name, what);
    return sae_ggml_fail(g, status, text);
}

/* The same of a tap: "l_out of layer 2 ". */
static inline sae_status sae_ggml_fail_tap(sae_ggml *g, const sae_ggml_tap *tap, sae_status status, const char *format, int64_t a,
                                           int64_t b)
{
    char text[sizeof g->err.text], what[160];
    snprintf(what, sizeof what, format, (long long)a, (long long)b);
    snprintf(text, sizeof text, "%.60s of layer %d %s", tap->name, (int)tap->layer, what);
    return sae_ggml_fail(g, status, text);
}

/* ---- a batch is announced ---- */

/* llama.cpp groups rows by sequence, in ascending order, where each has memory of its own: graph rows are batch rows if they came so. */
static inline bool sae_ggml_ascending(const sae_ggml_batch *b)
{
    for (int64_t r = 1; r < b->n_rows; r++)
        if (b->seq[r] < b->seq[r - 1])
            return false;
    return true;
}

static inline sae_status sae_ggml_check_tap(sae_ggml *g, const sae_ggml_tap *tap)
{
    if (tap->layer < -1 || tap->layer >= g->n_layer)
        return sae_ggml_fail_tap(g, tap, SAE_E_ARG, "is tapped, the model has layers 0 .. %lld (-1 = a name that stands alone)",
                                 g->n_layer - 1, 0);
    if (tap->d < 1)
        return sae_ggml_fail_tap(g, tap, SAE_E_ARG, "is tapped for rows of %lld elements: its d is not set", tap->d, 0);
    if (tap->plan && sae_plan_d(tap->plan) != tap->d)
        return sae_ggml_fail_tap(g, tap, SAE_E_SHAPE, "is tapped for rows of %lld elements, its plan is for rows of %lld", tap->d,
                                 sae_plan_d(tap->plan));
    if (tap->probe && sae_probe_d(tap->probe) != tap->d)
        return sae_ggml_fail_tap(g, tap, SAE_E_SHAPE, "is tapped for rows of %lld elements, its probe is for rows of %lld", tap->d,
                                 sae_probe_d(tap->probe));
    if (tap->probe && sae_probe_features(tap->probe) != tap->n_features)
        return sae_ggml_fail_tap(g, tap, SAE_E_SHAPE, "is tapped with n_features = %lld, its probe has %lld", tap->n_features,
                                 sae_probe_features(tap->probe));
    return SAE_OK;
}

/* Announces the rows of the next llama_decode. Errors, which sae_ggml_end says again: SAE_E_BUSY (a batch is open), SAE_E_ARG,
 * SAE_E_SHAPE (a plan or a probe for other rows than its tap). */
static inline sae_status sae_ggml_begin(sae_ggml *g, const sae_ggml_batch *batch)
{
    if (g->open)
        return sae_ggml_fail(g, SAE_E_BUSY,
                             "a batch is open: end it after each decode, and let each context have a callback's data of its own");
    memset(&g->err, 0, sizeof g->err);
    g->err.struct_size = sizeof g->err;
    g->batch = *batch;
    g->open = true;
    g->several = false;
    g->piece = 0;
    g->asked = g->asks;
    for (int32_t i = 0; i < g->n_taps; i++) {
        g->taps[i].cursor = 0;
        if (sae_ggml_check_tap(g, g->taps + i))
            return g->err.status;
    }
    for (int64_t r = 1; batch->seq && !batch->unified && r < batch->n_rows; r++)
        g->several |= batch->seq[r] != batch->seq[0];
    if (g->several && !sae_ggml_ascending(batch))
        return sae_ggml_fail(g, SAE_E_ARG,
                             "rows of several sequences are mixed, and llama.cpp will order them anew: make the context with kv_unified, "
                             "or sort rows by sequence");
    return SAE_OK;
}

/* ---- a tensor comes by ---- */

static inline bool sae_ggml_is_output(const sae_ggml_batch *b, int64_t row)
{
    return b->output ? b->output[row] != 0 : row == b->n_rows - 1;
}

/* GGML_TYPE_F32, _F16 and _BF16: numbers that files hold, and therefore stay. */
static inline sae_dtype sae_ggml_dtype(int type)
{
    return type == 0 ? SAE_F32 : type == 1 ? SAE_F16 : type == 30 ? SAE_BF16 : 0;
}

static inline sae_status sae_ggml_check(sae_ggml *g, const sae_ggml_tap *tap, const sae_ggml_tensor *t)
{
    const sae_dtype dtype = sae_ggml_dtype(t->type);
    if (!dtype)
        return sae_ggml_fail_tensor(g, t, SAE_E_UNSUPPORTED, "has ggml type %lld: rows of f32, f16 and bf16 can be steered", t->type, 0);
    if (t->n_matrices != 1)
        return sae_ggml_fail_tensor(g, t, SAE_E_UNSUPPORTED, "has %lld matrices of rows: one can be steered", t->n_matrices, 0);
    if (t->d != tap->d)
        return sae_ggml_fail_tensor(g, t, SAE_E_SHAPE, "has rows of %lld elements, the tap's plan and probe are for %lld", t->d, tap->d);
    if (t->step != sae_dtype_bytes(dtype) || t->stride < t->step * (size_t)t->d)
        return sae_ggml_fail_tensor(g, t, SAE_E_UNSUPPORTED, "is not laid out by rows: its strides are %lld and %lld bytes",
                                    (int64_t)t->step, (int64_t)t->stride);
    return SAE_OK;
}

/* Watches and edits rows that are in the host's memory: those of the batch from `row` on. */
static inline void sae_ggml_rows(sae_ggml *g, sae_ggml_tap *tap, sae_rows *rows, int64_t row, int64_t edited)
{
    const size_t row_bytes = sae_dtype_bytes(rows->dtype) * (size_t)tap->d;
    sae_error err;
    memset(&err, 0, sizeof err);
    err.struct_size = sizeof err;
    rows->slot = NULL;
    for (int64_t r = 0; tap->rows && r < rows->n_rows; r++)
        memcpy((char *)tap->rows + (size_t)(row + r) * row_bytes, (const char *)rows->x + r * rows->stride_bytes, row_bytes);
    if (tap->probe && tap->codes) {
        const sae_status status = sae_probe_run(tap->probe, tap->ctx, tap->codes + row * tap->n_features, 0, rows, 0);
        if (status) {
            sae_ggml_fail(g, status, sae_ctx_error(tap->ctx));
            return;
        }
    }
    rows->slot = g->batch.slot ? g->batch.slot + row : NULL;
    if (edited && sae_plan_apply(tap->plan, rows, tap->scratch, tap->scratch_bytes, &err))
        sae_ggml_fail(g, err.status, err.text);
    else
        tap->rows_edited += edited;
}

/* How many of `n` rows of the batch the plan edits. */
static inline int64_t sae_ggml_edited(const sae_ggml *g, const sae_ggml_tap *tap, int64_t row, int64_t n)
{
    int64_t edited = 0;
    for (int64_t r = row; tap->plan && r < row + n; r++)
        edited += !g->batch.slot || g->batch.slot[r] != -1;
    return edited;
}

/* Rows `at` .. at + n - 1 of the tensor are rows `row` .. of the batch. In place, or through the staging memory. */
static inline void sae_ggml_run(sae_ggml *g, sae_ggml_tap *tap, const sae_ggml_tensor *t, int64_t at, int64_t row, int64_t n)
{
    const size_t row_bytes = t->step * (size_t)t->d, stride = t->stride;
    const bool in_place = !g->copy && t->data;
    int64_t fits = n;
    if (!in_place) {
        if (!g->staging || g->staging_bytes < row_bytes) {
            sae_ggml_fail_tensor(g, t, SAE_E_CAPACITY, "is outside of the host's memory: give %lld bytes of staging memory, there are %lld",
                                 (int64_t)row_bytes, (int64_t)g->staging_bytes);
            return;
        }
        fits = (int64_t)((g->staging_bytes - row_bytes) / stride) + 1;
    }
    for (int64_t done = 0; done < n && !g->err.status; done += fits) {
        const int64_t now = n - done < fits ? n - done : fits, edited = sae_ggml_edited(g, tap, row + done, now);
        const size_t offset = (size_t)(at + done) * stride, bytes = (size_t)(now - 1) * stride + row_bytes;
        void *x = in_place ? (void *)((char *)t->data + offset) : g->staging;
        sae_rows rows = {sizeof rows, sae_ggml_dtype(t->type), x, (int64_t)stride, now, NULL};
        if (!in_place && (edited || tap->probe || tap->rows))
            t->get(t->tensor, x, offset, bytes);
        sae_ggml_rows(g, tap, &rows, row + done, edited);
        if (!in_place && edited)
            t->set(t->tensor, x, offset, bytes);
        tap->rows_left += tap->plan ? now - edited : 0;
    }
}

/* The last layer's tensors: rows of the batch whose logits are wanted, in order, maybe none. `end` is where this ubatch ends. */
static inline void sae_ggml_outputs(sae_ggml *g, sae_ggml_tap *tap, const sae_ggml_tensor *t, int64_t end)
{
    const sae_ggml_batch *b = &g->batch;
    int64_t at = 0, row = tap->cursor;
    while (row < end && !g->err.status) {
        int64_t n = 0;
        while (row + n < end && at + n < t->n_rows && sae_ggml_is_output(b, row + n))
            n++;
        if (n)
            sae_ggml_run(g, tap, t, at, row, n);
        else if (at == t->n_rows && !g->piece)
            break;
        at += n;
        row += n ? n : 1;
    }
    if (at != t->n_rows)
        sae_ggml_fail_tensor(g, t, SAE_E_SHAPE,
                             "has %lld rows, the batch's description says %lld: are its outputs those of the llama_batch?", t->n_rows, at);
    tap->cursor = row;
}

static inline void sae_ggml_visit(sae_ggml *g, sae_ggml_tap *tap, const sae_ggml_tensor *t)
{
    const int64_t left = g->batch.n_rows - tap->cursor, n = t->n_rows;
    const bool last = tap->layer == g->n_layer - 1;
    const int64_t piece = !last ? n : g->piece ? g->piece : left; /* rows of this ubatch */
    tap->hits++;
    tap->rows_seen += n;
    if (g->err.status || (n && sae_ggml_check(g, tap, t)))
        return;
    tap->dtype = n ? sae_ggml_dtype(t->type) : tap->dtype;
    if (n > left || piece > left) {
        sae_ggml_fail_tensor(g, t, SAE_E_SHAPE, "came with %lld rows where %lld are left of the batch's description", n, left);
    } else if (g->several && piece != g->batch.n_rows) {
        sae_ggml_fail_tensor(g, t, SAE_E_ARG,
                             "came with %lld of %lld rows of several sequences, in an order of its own: make the context "
                             "with kv_unified or a larger n_ubatch",
                             piece, g->batch.n_rows);
    } else if (n != piece) {
        sae_ggml_outputs(g, tap, t, tap->cursor + piece);
    } else {
        if (n)
            sae_ggml_run(g, tap, t, 0, tap->cursor, n);
        tap->cursor += n;
    }
}

/* Is a tensor of this name the tap's? "l_out-2", or a name alone. Asked of every node, so the first letter decides for most. */
static inline bool sae_ggml_named(const char *tensor, const char *name, int32_t layer)
{
    int64_t number = 0;
    size_t n;
    if (tensor[0] != name[0] || strncmp(tensor, name, n = strlen(name)) != 0)
        return false;
    if (layer < 0)
        return tensor[n] == '\0';
    if (tensor[n++] != '-' || tensor[n] == '\0')
        return false;
    for (; tensor[n] >= '0' && tensor[n] <= '9' && number <= layer; n++)
        number = number * 10 + (tensor[n] - '0');
    return tensor[n] == '\0' && number == layer;
}

/* Is this node wanted? `rows`: how many it has. */
static inline bool sae_ggml_ask(sae_ggml *g, const char *name, int64_t rows)
{
    g->asks++;
    /* The first layer's rows are all rows of a ubatch: against them a last layer is seen to have fewer. */
    if (g->open && g->n_layer > 1 && name[0] == 'l' && strcmp(name, "l_out-0") == 0)
        g->piece = rows;
    for (int32_t i = 0; i < g->n_taps; i++)
        if (sae_ggml_named(name, g->taps[i].name, g->taps[i].layer))
            return true;
    return false;
}

static inline void sae_ggml_came(sae_ggml *g, const sae_ggml_tensor *t)
{
    for (int32_t i = 0; i < g->n_taps; i++) {
        if (!sae_ggml_named(t->name, g->taps[i].name, g->taps[i].layer))
            continue;
        if (g->open)
            sae_ggml_visit(g, g->taps + i, t);
        else
            g->unannounced++;
    }
}

/* ---- a batch is done ---- */

/* Closes the batch, after llama_decode whatever it returned. SAE_OK: every tap saw every row (the last layer's: every output). Otherwise
 * the first thing that went wrong; the rows behind it went on as they were. `err` may be NULL. */
static inline sae_status sae_ggml_end(sae_ggml *g, sae_error *err)
{
    const int64_t n = g->batch.n_rows;
    if (g->open && g->n_taps && g->asks == g->asked)
        sae_ggml_fail(g, SAE_E_ARG, "the engine asked for no tensor: was its context made with this callback, and has it decoded?");
    for (int32_t i = 0; i < g->n_taps && g->open && !g->err.status; i++) {
        const sae_ggml_tap *tap = g->taps + i;
        int64_t row = tap->cursor;
        while (tap->layer == g->n_layer - 1 && row < n && !sae_ggml_is_output(&g->batch, row))
            row++;
        if (row != n)
            sae_ggml_fail_tap(g, tap, SAE_E_ARG, "came with %lld of the batch's %lld rows: does the model have a tensor of that name?",
                              tap->cursor, n);
    }
    g->open = false;
    if (err)
        *err = g->err;
    return g->err.status;
}

#endif
