/* libsae inside llama.cpp, or any other engine that runs its graph through ggml's scheduler: an eval callback that watches features in
 * a tensor as it is computed and edits its rows before the graph goes on.
 *
 * Glue, not library: the host compiles this header against its own ggml.h and links its own ggml. <sae.h> does not include it, libsae.so
 * holds nothing of it. Link ggml-base besides (ggml_backend_buffer_is_host, ggml_backend_tensor_get, ggml_backend_tensor_set).
 *
 *     sae_ggml_tap tap = {.name = "l_out", .layer = 2, .d = n_embd, .plan = plan, .scratch = scratch, .scratch_bytes = bytes};
 *     sae_ggml g = {.taps = &tap, .n_taps = 1, .n_layer = llama_model_n_layer(model)};
 *     context_params.cb_eval = sae_ggml_eval, context_params.cb_eval_user_data = &g;      before the context is made
 *
 *     sae_ggml_begin(&g, &batch);                                                         around every llama_decode
 *     llama_decode(context, ...);
 *     if (sae_ggml_end(&g, &err)) ...                                                     this decode was not steered as asked
 *
 * The callback never stops the graph: llama_decode would report success with old logits. What goes wrong is said by sae_ggml_end, before
 * a token of that decode is chosen; the host decides whether to go on. One sae_ggml serves one context. */
#ifndef SAE_GGML_H
#define SAE_GGML_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ggml.h>
#include <ggml-backend.h>

#include "codec.h"
#include "steer.h"

/* A tensor of the graph, and what is done with its rows: the features of `probe` are read from them as they come, then `plan` edits them.
 * Everything must outlive the context; what is NULL is not done. The names are the engine's:
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
    int64_t unannounced; /* tensors that came by outside of begin and end, as in a warm-up; they were left alone */
    sae_ggml_batch batch;
    sae_error err;
} sae_ggml;

static inline sae_status sae_ggml_fail(sae_ggml *g, sae_status status, const char *text)
{
    if (g->err.status == SAE_OK) {
        g->err.status = status;
        snprintf(g->err.text, sizeof g->err.text, "%s", text);
    }
    return g->err.status;
}

/* "l_out-2: " and what is wrong with it, with two numbers. */
static inline sae_status sae_ggml_fail_tap(sae_ggml *g, const struct ggml_tensor *t, sae_status status, const char *format, int64_t a,
                                           int64_t b)
{
    char text[sizeof g->err.text], what[160];
    snprintf(what, sizeof what, format, (long long)a, (long long)b);
    snprintf(text, sizeof text, "%.60s %s", t->name, what);
    return sae_ggml_fail(g, status, text);
}

/* llama.cpp groups rows by sequence, in ascending order, where each has memory of its own: graph rows are batch rows if they came so. */
static inline bool sae_ggml_ascending(const sae_ggml_batch *b)
{
    for (int64_t r = 1; r < b->n_rows; r++)
        if (b->seq[r] < b->seq[r - 1])
            return false;
    return true;
}

/* Announces the rows of the next llama_decode. Errors, which sae_ggml_end says again: SAE_E_BUSY (a batch is open), SAE_E_ARG. */
static inline sae_status sae_ggml_begin(sae_ggml *g, const sae_ggml_batch *batch)
{
    if (g->open)
        return sae_ggml_fail(g, SAE_E_BUSY, "a batch is open: call sae_ggml_end after each decode, and use one sae_ggml per context");
    memset(&g->err, 0, sizeof g->err);
    g->err.struct_size = sizeof g->err;
    g->batch = *batch;
    g->open = true;
    g->several = false;
    g->piece = 0;
    for (int32_t i = 0; i < g->n_taps; i++) {
        g->taps[i].cursor = 0;
        if (g->taps[i].layer < -1 || g->taps[i].layer >= g->n_layer || g->taps[i].d < 1)
            return sae_ggml_fail(g, SAE_E_ARG,
                                 "a tap's layer is not one of the model's, which count from 0 to n_layer - 1, or its d is not set");
    }
    for (int64_t r = 1; batch->seq && !batch->unified && r < batch->n_rows; r++)
        g->several |= batch->seq[r] != batch->seq[0];
    if (g->several && !sae_ggml_ascending(batch))
        return sae_ggml_fail(g, SAE_E_ARG,
                             "rows of several sequences are mixed, and llama.cpp will order them anew: make the context with kv_unified, "
                             "or sort rows by sequence");
    return SAE_OK;
}

static inline bool sae_ggml_is_output(const sae_ggml_batch *b, int64_t row)
{
    return b->output ? b->output[row] != 0 : row == b->n_rows - 1;
}

static inline sae_dtype sae_ggml_dtype(const struct ggml_tensor *t)
{
    return t->type == GGML_TYPE_F32 ? SAE_F32 : t->type == GGML_TYPE_F16 ? SAE_F16 : t->type == GGML_TYPE_BF16 ? SAE_BF16 : 0;
}

static inline sae_status sae_ggml_check(sae_ggml *g, const sae_ggml_tap *tap, const struct ggml_tensor *t)
{
    if (!sae_ggml_dtype(t))
        return sae_ggml_fail_tap(g, t, SAE_E_UNSUPPORTED, "has ggml type %lld: rows of f32, f16 and bf16 can be steered", t->type, 0);
    if (t->ne[2] != 1 || t->ne[3] != 1)
        return sae_ggml_fail_tap(g, t, SAE_E_UNSUPPORTED, "has %lld x %lld matrices of rows: one can be steered", t->ne[2], t->ne[3]);
    if (t->ne[0] != tap->d)
        return sae_ggml_fail_tap(g, t, SAE_E_SHAPE, "has rows of %lld elements, the tap's plan and probe are for %lld", t->ne[0], tap->d);
    if (t->nb[0] != sae_dtype_bytes(sae_ggml_dtype(t)) || t->nb[1] < t->nb[0] * (size_t)t->ne[0])
        return sae_ggml_fail_tap(g, t, SAE_E_UNSUPPORTED, "is not laid out by rows: its strides are %lld and %lld bytes", (int64_t)t->nb[0],
                                 (int64_t)t->nb[1]);
    return SAE_OK;
}

/* Watches and edits rows that are in the host's memory: those of the batch from `row` on. */
static inline void sae_ggml_rows(sae_ggml *g, sae_ggml_tap *tap, sae_rows *rows, int64_t row, int64_t edited)
{
    sae_error err;
    memset(&err, 0, sizeof err);
    err.struct_size = sizeof err;
    rows->slot = NULL;
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
static inline void sae_ggml_run(sae_ggml *g, sae_ggml_tap *tap, struct ggml_tensor *t, int64_t at, int64_t row, int64_t n)
{
    const ggml_backend_buffer_t buffer = t->view_src ? t->view_src->buffer : t->buffer;
    const size_t row_bytes = t->nb[0] * (size_t)t->ne[0], stride = t->nb[1];
    const bool in_place = !g->copy && buffer && ggml_backend_buffer_is_host(buffer);
    int64_t fits = n;
    if (!in_place) {
        if (!g->staging || g->staging_bytes < row_bytes) {
            sae_ggml_fail_tap(g, t, SAE_E_CAPACITY, "is outside of the host's memory: give %lld bytes of staging memory, there are %lld",
                              (int64_t)row_bytes, (int64_t)g->staging_bytes);
            return;
        }
        fits = (int64_t)((g->staging_bytes - row_bytes) / stride) + 1;
    }
    for (int64_t done = 0; done < n && !g->err.status; done += fits) {
        const int64_t now = n - done < fits ? n - done : fits, edited = sae_ggml_edited(g, tap, row + done, now);
        const size_t offset = (size_t)(at + done) * stride, bytes = (size_t)(now - 1) * stride + row_bytes;
        void *x = in_place ? (void *)((char *)t->data + offset) : g->staging;
        sae_rows rows = {sizeof rows, sae_ggml_dtype(t), x, (int64_t)stride, now, NULL};
        if (!in_place && (edited || tap->probe))
            ggml_backend_tensor_get(t, x, offset, bytes);
        sae_ggml_rows(g, tap, &rows, row + done, edited);
        if (!in_place && edited)
            ggml_backend_tensor_set(t, x, offset, bytes);
        tap->rows_left += tap->plan ? now - edited : 0;
    }
}

/* The last layer's tensors: rows of the batch whose logits are wanted, in order, maybe none. `end` is where this ubatch ends. */
static inline void sae_ggml_outputs(sae_ggml *g, sae_ggml_tap *tap, struct ggml_tensor *t, int64_t end)
{
    const sae_ggml_batch *b = &g->batch;
    int64_t at = 0, row = tap->cursor;
    while (row < end && !g->err.status) {
        int64_t n = 0;
        while (row + n < end && at + n < t->ne[1] && sae_ggml_is_output(b, row + n))
            n++;
        if (n)
            sae_ggml_run(g, tap, t, at, row, n);
        else if (at == t->ne[1] && !g->piece)
            break;
        at += n;
        row += n ? n : 1;
    }
    if (at != t->ne[1])
        sae_ggml_fail_tap(g, t, SAE_E_SHAPE, "has %lld rows, the batch's description says %lld: are its outputs those of the llama_batch?",
                          t->ne[1], at);
    tap->cursor = row;
}

static inline void sae_ggml_visit(sae_ggml *g, sae_ggml_tap *tap, struct ggml_tensor *t)
{
    const int64_t left = g->batch.n_rows - tap->cursor, n = t->ne[1];
    const bool last = tap->layer == g->n_layer - 1;
    const int64_t piece = !last ? n : g->piece ? g->piece : left; /* rows of this ubatch */
    tap->hits++;
    tap->rows_seen += n;
    if (g->err.status || sae_ggml_check(g, tap, t))
        return;
    if (n > left || piece > left) {
        sae_ggml_fail_tap(g, t, SAE_E_SHAPE, "came with %lld rows where %lld are left of the batch's description", n, left);
    } else if (g->several && piece != g->batch.n_rows) {
        sae_ggml_fail_tap(g, t, SAE_E_ARG,
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

/* Is this tensor the tap's? "l_out-2", or a name alone. Asked of every node, so the first letter decides for most. */
static inline bool sae_ggml_named(const struct ggml_tensor *t, const char *name, int32_t layer)
{
    size_t n;
    char *end;
    if (t->name[0] != name[0] || strncmp(t->name, name, n = strlen(name)) != 0)
        return false;
    if (layer < 0)
        return t->name[n] == '\0';
    return t->name[n] == '-' && strtol(t->name + n + 1, &end, 10) == layer && *end == '\0';
}

/* The callback: a ggml_backend_sched_eval_callback whose user data is the sae_ggml. */
static inline bool sae_ggml_eval(struct ggml_tensor *t, bool ask, void *user_data)
{
    sae_ggml *g = (sae_ggml *)user_data;
    g->asks += ask;
    /* The first layer's rows are all rows of a ubatch: against them a last layer is seen to have fewer. */
    if (ask && g->open && g->n_layer > 1 && t->name[0] == 'l' && strcmp(t->name, "l_out-0") == 0)
        g->piece = t->ne[1];
    for (int32_t i = 0; i < g->n_taps; i++) {
        if (!sae_ggml_named(t, g->taps[i].name, g->taps[i].layer))
            continue;
        if (ask)
            return true;
        if (g->open)
            sae_ggml_visit(g, g->taps + i, t);
        else
            g->unannounced++;
    }
    return !ask;
}

/* Closes the batch, after llama_decode whatever it returned. SAE_OK: every tap saw every row (the last layer's: every output). Otherwise
 * the first thing that went wrong; the rows behind it went on as they were. `err` may be NULL. */
static inline sae_status sae_ggml_end(sae_ggml *g, sae_error *err)
{
    const int64_t n = g->batch.n_rows;
    char text[sizeof g->err.text];
    for (int32_t i = 0; i < g->n_taps && g->open && !g->err.status; i++) {
        const sae_ggml_tap *tap = g->taps + i;
        int64_t row = tap->cursor;
        while (tap->layer == g->n_layer - 1 && row < n && !sae_ggml_is_output(&g->batch, row))
            row++;
        if (row == n)
            continue;
        snprintf(text, sizeof text, "%.60s of layer %d came with %lld of the batch's %lld rows: does the model have a tensor of that name?",
                 tap->name, tap->layer, (long long)tap->cursor, (long long)n);
        sae_ggml_fail(g, SAE_E_ARG, text);
    }
    g->open = false;
    if (err)
        *err = g->err;
    return g->err.status;
}

#endif
