/* Taps: the eval callback of sae/ggml.h for hosts that are not compiled against ggml, such as those that load llama.cpp at run time or
 * from a scripting language. What a tensor is comes from functions that the engine's library exports; no struct of ggml is in libsae.
 *
 *     sae_tap tap = {.struct_size = sizeof tap, .name = "l_out", .layer = 2, .plan = plan};
 *     sae_taps_create(&taps, env, dlsym, dlopen("libllama.so", RTLD_NOW), &tap, 1, &err);
 *     context_params.cb_eval = (ggml_backend_sched_eval_callback)sae_taps_eval, context_params.cb_eval_user_data = taps;
 *
 *     sae_taps_begin(taps, &batch, &err);                                                 around every llama_decode
 *     llama_decode(context, ...);
 *     if (sae_taps_end(taps, &err)) ...                                                   this decode was not steered as asked
 *
 * Tensors must be contiguous rows of f32, f16 or bf16; they are copied through memory of the taps, wherever they lie. One sae_taps serves
 * one context, and one decode at a time. docs/hosts.md has the pitfalls. */
#ifndef SAE_TAPS_H
#define SAE_TAPS_H

#include <stdbool.h>

#include "codec.h"
#include "steer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sae_taps sae_taps;

/* Finds a function in the engine's library by its name, NULL if there is none. dlsym is one, with the handle of dlopen as `library`. */
typedef void *(*sae_symbol_fn)(void *library, const char *name);

/* A tensor of the graph, and what is done with its rows: they are copied to `rows`, the features of `probe` are read from them as they
 * come, then `plan` edits them. What is NULL is not done; one of the three must be there. */
typedef struct sae_tap {
    uint32_t struct_size;
    int32_t layer;          /* from 0; -1 = the name stands alone, as "embd" does */
    const char *name;       /* "l_out", "attn_out", "ffn_out", ... at most 47 bytes; copied */
    const sae_plan *plan;   /* plan, probe, ctx and the arrays must outlive the taps */
    const sae_probe *probe; /* of rows as long as the plan's */
    sae_ctx *ctx;           /* of the probe's model, of this tap alone */
    float *codes;           /* [max_rows][features of the probe], by row of the batch; rows that the tensor lacks are left as they are */
    void *rows;             /* [max_rows][d] of the tensor's type (sae_tap_counts says which), 4 * d bytes a row at most */
    int64_t max_rows;       /* of a batch, where there are codes or rows */
    int32_t d;              /* elements of a row; 0 = the plan's or the probe's */
    uint32_t reserved;      /* 0 */
} sae_tap;

/* The rows of one llama_decode, from the host's llama_batch. Arrays must stay until sae_taps_end. */
typedef struct sae_taps_batch {
    uint32_t struct_size;
    int32_t n_layer;      /* llama_model_n_layer: the last layer's tensors hold the rows whose logits are wanted, the others every row */
    int64_t n_rows;       /* llama_batch.n_tokens */
    const int32_t *slot;  /* [n_rows]: whose edits each row gets, -1 = none; NULL = all slot 0 */
    const int32_t *seq;   /* [n_rows]: the sequence of each row; NULL = one sequence */
    const int8_t *output; /* [n_rows]: llama_batch.logits; NULL = the last row alone */
    int32_t unified;      /* SAE_YES: the context was made with kv_unified, and rows keep their order however they are cut */
    uint32_t reserved;    /* 0 */
} sae_taps_batch;

/* What happened at a tap, over all batches. */
typedef struct sae_tap_counts {
    uint32_t struct_size;
    sae_dtype dtype;     /* of its tensor; 0 until one has come by */
    int64_t hits;        /* how often the tensor came by, also without rows */
    int64_t rows_seen;   /* rows in it */
    int64_t rows_edited; /* rows that were given to the plan */
    int64_t rows_left;   /* rows with slot -1 */
    int64_t asks;        /* of the engine, for every node of its graphs */
    int64_t unannounced; /* tensors of any tap that came by outside of begin and end, as in a warm-up; they were left alone */
} sae_tap_counts;

/* Makes taps [n_taps] for the engine whose library `symbol` looks into (not after this call). Needed of it: ggml_get_name, ggml_nelements,
 * ggml_nrows, ggml_element_size, ggml_is_contiguous, ggml_is_matrix, ggml_backend_tensor_get and _set, gguf_init_empty,
 * gguf_add_tensor, gguf_get_tensor_type and gguf_free: each ggml since 2024 has them.
 * Errors: SAE_E_UNSUPPORTED (a function that is not there, by name), SAE_E_ARG, SAE_E_SHAPE (all name the tap), SAE_E_NOMEM, SAE_E_VERSION. */
SAE_API sae_status sae_taps_create(sae_taps **out, sae_env *env, sae_symbol_fn symbol, void *library, const sae_tap *taps, int64_t n_taps,
                                   sae_error *err);

/* The callback: cb_eval of llama_context_params or a ggml_backend_sched_eval_callback, with the taps as its user data. `tensor` is the
 * engine's struct ggml_tensor. It never stops the graph. */
SAE_API bool sae_taps_eval(void *tensor, bool ask, void *taps);

/* Announces the rows of the next decode. Errors: SAE_E_VERSION, SAE_E_ARG (a batch that cannot be; none is open then); and what
 * sae_taps_end says again: SAE_E_BUSY (a batch is open: each context needs taps of its own), SAE_E_ARG (a layer that the model lacks,
 * sequences whose rows the engine would mix), SAE_E_CAPACITY (more than max_rows). */
SAE_API sae_status sae_taps_begin(sae_taps *taps, const sae_taps_batch *batch, sae_error *err);

/* Closes the batch, after the decode whatever it returned. SAE_OK: every tap saw every row (the last layer's: every output). Otherwise the
 * first thing that went wrong; the rows behind it went on as they were. Errors: those of begin, of sae_plan_apply and sae_probe_run,
 * SAE_E_UNSUPPORTED (a tensor that cannot be steered), SAE_E_SHAPE (rows of another length or number), SAE_E_ARG (no tensor came). */
SAE_API sae_status sae_taps_end(sae_taps *taps, sae_error *err);

/* Fills `out` (set out->struct_size first) for taps[tap] of create. Errors: SAE_E_ARG. */
SAE_API sae_status sae_taps_count(const sae_taps *taps, int64_t tap, sae_tap_counts *out);

/* After the context, whose callback uses them. */
SAE_API void sae_taps_free(sae_taps *taps);

#ifdef __cplusplus
}
#endif
#endif
