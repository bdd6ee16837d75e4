/* libsae inside llama.cpp, or any other engine that runs its graph through ggml's scheduler: an eval callback that watches features in
 * a tensor as it is computed and edits its rows before the graph goes on.
 *
 * Glue, not library: the host compiles this header against its own ggml.h and links its own ggml. <sae.h> does not include it, libsae.so
 * holds nothing of ggml. Link ggml-base besides (ggml_backend_buffer_is_host, ggml_backend_tensor_get, ggml_backend_tensor_set). Hosts that
 * are not compiled against ggml use sae/taps.h.
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
 * a token of that decode is chosen; the host decides whether to go on. One sae_ggml serves one context. The structs and begin and end
 * are in sae/ggmlrows.h. */
#ifndef SAE_GGML_H
#define SAE_GGML_H

#include <ggml.h>
#include <ggml-backend.h>

#include "ggmlrows.h"

static inline void sae_ggml_get(void *tensor, void *to, size_t offset, size_t bytes)
{
    ggml_backend_tensor_get((const struct ggml_tensor *)tensor, to, offset, bytes);
}

static inline void sae_ggml_set(void *tensor, const void *from, size_t offset, size_t bytes)
{
    ggml_backend_tensor_set((struct ggml_tensor *)tensor, from, offset, bytes);
}

/* The callback: a ggml_backend_sched_eval_callback whose user data is the sae_ggml. */
static inline bool sae_ggml_eval(struct ggml_tensor *t, bool ask, void *user_data)
{
    sae_ggml *g = (sae_ggml *)user_data;
    if (ask)
        return sae_ggml_ask(g, t->name, t->ne[1]);
    const ggml_backend_buffer_t buffer = t->view_src ? t->view_src->buffer : t->buffer;
    sae_ggml_tensor seen;
    seen.name = t->name;
    seen.d = t->ne[0];
    seen.n_rows = t->ne[1];
    seen.n_matrices = t->ne[2] * t->ne[3];
    seen.step = t->nb[0];
    seen.stride = t->nb[1];
    seen.data = buffer && ggml_backend_buffer_is_host(buffer) ? t->data : NULL;
    seen.tensor = t;
    seen.get = sae_ggml_get;
    seen.set = sae_ggml_set;
    seen.type = (int)t->type;
    sae_ggml_came(g, &seen);
    return true;
}

#endif
