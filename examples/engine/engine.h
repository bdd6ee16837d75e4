/* A small inference engine for models of the Llama family that lets libsae look at activations and change them while the model runs.
 * Activations are f32, weights what the file has or int8. A function that can fail returns false (or NULL) and leaves one sentence in `err`; none of them
 * prints or ends the process. Nothing is allocated per token once a session exists. */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sae.h>

typedef struct engine_error {
    char text[512];
} engine_error;

/* Writes the sentence and returns false, so that a caller can `return engine_fail(...)`. */
__attribute__((format(printf, 2, 3))) bool engine_fail(engine_error *err, const char *fmt, ...);

/* ---- what everything runs on ---- */

/* The threads and the libsae env made from them. Free it after all that was made with it. */
typedef struct engine_host {
    sae_pool *pool;
    sae_env *env;
    uint32_t n_workers;
} engine_host;

/* `n_threads` 0 = one per processor. Results do not depend on it. */
bool engine_host_create(engine_host *out, uint32_t n_threads, engine_error *err);
void engine_host_free(engine_host *host);

/* ---- model ---- */

/* Llama 3.1's stretching of RoPE: long waves turn `factor` times slower, short ones as before, those between in part. */
typedef struct engine_rope_scaling {
    float factor; /* 0 = none */
    float low_freq_factor, high_freq_factor;
    int32_t original_context;
} engine_rope_scaling;

typedef struct engine_shape {
    int32_t dim;    /* of the residual stream */
    int32_t hidden; /* of the MLP */
    int32_t n_layers;
    int32_t n_heads;    /* of queries */
    int32_t n_kv_heads; /* of keys and values; divides n_heads */
    int32_t head_size;  /* even */
    int32_t n_vocab;
    int32_t context; /* positions the model was made for */
    float norm_eps;
    float rope_theta;
    engine_rope_scaling rope_scaling;
} engine_shape;

/* A matrix ready to be multiplied (linear.h). */
typedef struct engine_linear engine_linear;

/* A matrix as it lies in the file, row by row, at any address. */
typedef struct engine_matrix {
    const unsigned char *data;
    sae_dtype dtype;
} engine_matrix;

/* What is kept of the weights that are multiplied. The embedding stays as it is in the file. */
typedef enum engine_weights {
    ENGINE_STORED = 0, /* the file's f32, f16 or bf16 */
    ENGINE_F32 = 1,    /* f32: the same results, faster where few weights meet many rows */
    ENGINE_INT8 = 2    /* a byte, and a scale for every 32 of them: other results */
} engine_weights;

/* One block. Matrices are [out][in] row-major. */
typedef struct engine_layer {
    const float *attn_norm; /* [dim] */
    const float *mlp_norm;  /* [dim] */
    engine_matrix wq;       /* [n_heads * head_size][dim] */
    engine_matrix wk;       /* [n_kv_heads * head_size][dim], as wv */
    engine_matrix wv;
    engine_matrix wo;     /* [dim][n_heads * head_size] */
    engine_matrix w_gate; /* [hidden][dim], as w_up */
    engine_matrix w_up;
    engine_matrix w_down; /* [dim][hidden] */
    engine_linear *q, *k, *v, *o, *hidden, *down;
} engine_layer;

enum { ENGINE_MAX_STOP = 8 };

/* Read-only once opened; any number of sessions share it. */
typedef struct engine_model {
    engine_shape shape;
    char name[256];                /* as the file gives it, "" where it gives none */
    int32_t bos;                   /* the token that begins a text, -1 = none */
    int32_t stop[ENGINE_MAX_STOP]; /* tokens that end one */
    int32_t n_stop;
    engine_matrix embedding; /* [n_vocab][dim] */
    engine_matrix head;      /* [n_vocab][dim]; the embedding itself where they are tied */
    const float *final_norm; /* [dim] */
    engine_layer *layers;    /* [n_layers] */
    engine_linear *unembed;
    const engine_host *host;
    engine_weights weights;
    bool halves_apart; /* wq and wk have RoPE's pairs half a head apart, as transformers; when packed they are side by side (2i, 2i + 1) */
    void *map;         /* the file of the weights */
    size_t map_bytes;
    float *owned; /* vectors, where they had to be converted */
} engine_model;

/* Opens a llama2.c checkpoint (FILE.bin, version 0) or a Hugging Face folder of a Llama (config.json, model.safetensors). `host` must
 * outlive the model. Every size is compared with the file before use; weights that are not finite are refused. */
bool engine_model_open(engine_model **out, const engine_host *host, const char *path, engine_weights weights, engine_error *err);
void engine_model_free(engine_model *model);

/* Row `row` of n elements as f32. */
void engine_matrix_row(float *out, const engine_matrix *m, size_t row, size_t n);

/* ---- tokenizer ---- */

typedef struct engine_tokenizer engine_tokenizer;

/* Opens llama2.c's tokenizer.bin, or a tokenizer.json (by its ending) with byte-level BPE, or with SentencePiece-like BPE. One whose
 * vocabulary has not exactly n_vocab tokens is refused. */
bool engine_tokenizer_open(engine_tokenizer **out, const char *path, int32_t n_vocab, engine_error *err);
void engine_tokenizer_free(engine_tokenizer *t);

/* Tokens of `text` (UTF-8) with whatever the tokenizer puts in front (BOS). `*tokens` is new memory for the caller to free. */
bool engine_tokenize(const engine_tokenizer *t, const char *text, int32_t **tokens, int32_t *n, engine_error *err);

/* The bytes that token `id` adds to a text; a token may be part of a character. Not terminated. Special tokens add none. */
const char *engine_token_bytes(const engine_tokenizer *t, int32_t id, size_t *n_bytes);

/* A text for people, always valid UTF-8 and terminated: what the token adds, or its name in the vocabulary where that is no text. */
const char *engine_token_name(const engine_tokenizer *t, int32_t id);

/* ---- hooks ---- */

enum { ENGINE_RESID_POST = 0, ENGINE_ATTN_OUT = 1, ENGINE_MLP_OUT = 2, ENGINE_N_POINTS = 3 };

/* Where a hook sits: after a block, or on what its attention or its MLP is about to add. */
typedef struct engine_point {
    int32_t layer;
    int32_t kind; /* ENGINE_RESID_POST ... */
} engine_point;

/* Reads TransformerLens' name "blocks.LAYER.hook_resid_post", "..._attn_out" or "..._mlp_out"; refuses what the model has not. */
bool engine_point_parse(engine_point *out, const engine_model *model, const char *name, engine_error *err);

/* The rows that pass a hook, in the order of the batch. The hook may change `x` in place. */
typedef struct engine_rows {
    float *x; /* [n_rows][dim] */
    int32_t n_rows;
    int32_t dim;
    const int32_t *token; /* [n_rows], as the next two */
    const int32_t *sequence;
    const int32_t *position;
} engine_rows;

/* false ends the step with the hook's sentence. */
typedef bool (*engine_hook_fn)(void *user, const engine_rows *rows, engine_error *err);

/* ---- session ---- */

/* The state of several sequences that are computed together: keys and values, and room for a batch. One caller at a time. */
typedef struct engine_session engine_session;

/* `context` positions for each of n_sequences (0 = the model's; more than the model's is refused), batches of at most max_rows rows. */
bool engine_session_create(engine_session **out, const engine_model *model, int32_t n_sequences, int32_t context, int32_t max_rows,
                           engine_error *err);
void engine_session_free(engine_session *s);

enum { ENGINE_MAX_HOOKS = 16 };

/* Asked before sequence `to` takes over the first n positions of `from` without computing them: false if the hook treats the two
 * differently. What it keeps of positions it copies. */
typedef bool (*engine_share_fn)(void *user, int32_t to, int32_t from, int32_t n);

/* Hooks at one point run in the order they were added. `share` NULL = the hook wants to see every row of every sequence. */
bool engine_session_hook(engine_session *s, engine_point at, engine_hook_fn fn, engine_share_fn share, void *user, engine_error *err);
void engine_session_unhook_all(engine_session *s);

/* Gives sequence `to` the first n positions of `from`, at most its length, as if `to` had computed the same tokens. False, and nothing
 * has changed, where a hook does not let it or the numbers make no sense. */
bool engine_session_share(engine_session *s, int32_t to, int32_t from, int32_t n);

/* Rows to compute together. The rows of a sequence have ascending positions without gaps, the first of them at most the sequence's
 * length: a smaller one rewinds it. `want` says which rows' logits are computed, NULL = none. */
typedef struct engine_batch {
    int32_t n_rows;
    const int32_t *token;
    const int32_t *sequence;
    const int32_t *position;
    const bool *want;
} engine_batch;

/* Computes a batch. logits [number of wanted rows][n_vocab], in the order of the rows. The same bits however the rows of a sequence are
 * divided into batches and whatever other sequences are in them. A batch that is refused changes nothing. */
bool engine_step(engine_session *s, const engine_batch *batch, float *logits, engine_error *err);

const engine_model *engine_session_model(const engine_session *s);

/* Positions that a sequence holds. */
int32_t engine_session_length(const engine_session *s, int32_t sequence);
int32_t engine_session_sequences(const engine_session *s);
int32_t engine_session_context(const engine_session *s);
int32_t engine_session_max_rows(const engine_session *s);

/* ---- sampling ---- */

/* A stream of random numbers of its own for each sequence (xoshiro256**, seeded by splitmix64). */
typedef struct engine_sampler {
    float temperature; /* 0 = the largest logit, the lower token where two are equal */
    int32_t top_k;     /* 0 = all */
    uint64_t state[4];
} engine_sampler;

void engine_sampler_init(engine_sampler *s, float temperature, int32_t top_k, uint64_t seed);

/* Draws a token; scratch [n_vocab] int32. -1 when no logit is finite. */
int32_t engine_sample(engine_sampler *s, const float *logits, int32_t n_vocab, int32_t *scratch);

/* log softmax(logits)[token], computed in double. */
double engine_logprob(const float *logits, int32_t n_vocab, int32_t token);

/* ---- generation ---- */

/* A sequence on its way: tokens [n] of which `done` are computed, and room for more. */
typedef struct engine_request {
    int32_t *tokens; /* [capacity], the caller's */
    int32_t n;
    int32_t capacity; /* generation ends here at the latest */
    int32_t computed;
    engine_sampler sampler;
    bool ended;
} engine_request;

/* Told of every new token; false ends the generation as cancelled by the caller's sentence. */
typedef bool (*engine_token_fn)(void *user, int32_t sequence, int32_t token, engine_error *err);

/* Request i is sequence i of the session. Prompts and new tokens are computed together in as few batches as fit; of prompts that begin
 * alike, by ENGINE_SHARED tokens or more, the common part is computed once where no hook objects. `fn` may be NULL. */
enum { ENGINE_SHARED = 16 };

bool engine_generate(engine_session *s, engine_request *requests, int32_t n, engine_token_fn fn, void *user, engine_error *err);

/* ---- libsae at a hook ---- */

typedef struct engine_sae engine_sae;

/* One edit of a feature. `slot` is the group of sequences that gets it. */
typedef struct engine_edit {
    int32_t slot;
    int32_t feature;
    sae_op op;
    float value;
} engine_edit;

typedef struct engine_sae_options {
    const char *path;      /* SAELens folder */
    const char *hook_name; /* NULL = the SAE's own */
    bool force;            /* accept an SAE made for another hook or another model; never one of another width */
    const int32_t *watch;  /* [n_watch] features to observe */
    int32_t n_watch;
    const engine_edit *edits; /* [n_edits] */
    int32_t n_edits;
    int32_t n_slots; /* 0 = 1 */
} engine_sae_options;

/* Opens an SAE and compiles what is to be watched and edited. */
bool engine_sae_create(engine_sae **out, const engine_model *model, const engine_sae_options *opt, engine_error *err);
void engine_sae_free(engine_sae *s);

/* Hooks it into a session, which it must outlive. Every sequence begins with slot 0. */
bool engine_sae_attach(engine_sae *s, engine_session *session, engine_error *err);

/* -1 = this sequence gets no edit. */
void engine_sae_set_slot(engine_sae *s, int32_t sequence, int32_t slot);

/* Codes of the watched features at a position, before any edit: [n_watch]. */
const float *engine_sae_seen(const engine_sae *s, int32_t sequence, int32_t position);

const char *engine_sae_hook_name(const engine_sae *s);
sae_model *engine_sae_model(const engine_sae *s);

/* ---- activations for a catalog ---- */

/* Runs texts through the model and writes the rows that pass a hook, in shards, into a new folder. */
typedef struct engine_export_options {
    const char *texts; /* a file: documents between lines "<|endoftext|>", or one a line where there is no such line */
    const char *hook_name;
    const char *folder;
    int32_t shard_rows; /* 0 = 65536 */
    int32_t context;    /* positions of a document at most, 0 = the model's */
    bool force;         /* write into a folder that already has a shards.json */
} engine_export_options;

typedef struct engine_export_result {
    int64_t n_documents;
    int64_t n_rows;
    int32_t n_shards;
    int64_t n_cut; /* documents longer than the context, of which the rest was left out */
} engine_export_result;

bool engine_export(const engine_model *model, const engine_tokenizer *t, const engine_export_options *opt, engine_export_result *out,
                   engine_error *err);

#endif
