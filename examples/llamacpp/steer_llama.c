/* A feature watched and clamped in llama.cpp: steer_llama MODEL.gguf SAE_FOLDER LAYER FEATURE VALUE PROMPT
 * Prints the most probable continuation as it is and as it becomes, the feature's code at every position, and what the callback counted.
 *
 *     cc steer_llama.c $(pkg-config --cflags --libs sae) -lllama -lggml -lggml-base -o steer_llama                                     */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <llama.h>
#include <sae.h>
#include <sae/ggml.h>

enum { N_NEW = 24, N_BATCH = 512 };

typedef struct run {
    struct llama_model *model;
    struct llama_context *context;
    sae_ggml g;
    float *codes; /* of the feature, for the rows of one batch */
} run;

static int fail(const char *why)
{
    fprintf(stderr, "steer_llama: %s\n", why);
    return 1;
}

/* One llama_decode, with slot 0's edits for every row, or none. Returns the most probable next token, -1 if anything went wrong. */
static llama_token step(run *r, llama_token *tokens, int32_t n, bool edit)
{
    int32_t slot[N_BATCH];
    sae_error err = {.struct_size = sizeof err};
    for (int32_t i = 0; i < n; i++)
        slot[i] = edit ? 0 : -1;
    const sae_ggml_batch batch = {.n_rows = n, .slot = slot}; /* one sequence; llama_batch_get_one wants the last row's logits */
    sae_ggml_begin(&r->g, &batch);
    const int32_t failed = llama_decode(r->context, llama_batch_get_one(tokens, n));
    if (sae_ggml_end(&r->g, &err) || failed)
        return fail(failed ? "llama_decode failed" : err.text), -1;
    for (int32_t i = 0; i < n; i++)
        printf(" %.1f", (double)r->codes[i]);
    const float *logits = llama_get_logits_ith(r->context, -1);
    llama_token best = 0;
    for (int32_t i = 1; i < llama_vocab_n_tokens(llama_model_get_vocab(r->model)); i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* The steer stays in keys and values: each text begins with empty ones. */
static int continuation(run *r, llama_token *prompt, int32_t n, bool edit)
{
    const struct llama_vocab *vocab = llama_model_get_vocab(r->model);
    llama_token out[N_NEW];
    char text[16 * N_NEW];
    int32_t n_out = 0;
    llama_memory_clear(llama_get_memory(r->context), true);
    printf("codes:");
    for (llama_token next = step(r, prompt, n, edit); n_out < N_NEW && !llama_vocab_is_eog(vocab, next); n_out++) {
        if (next < 0)
            return 1;
        out[n_out] = next;
        next = step(r, out + n_out, 1, edit);
    }
    const int32_t bytes = llama_detokenize(vocab, out, n_out, text, sizeof text, true, false);
    printf("\n%s:%.*s\n", edit ? "steered" : "as it is", bytes > 0 ? bytes : 0, text);
    return 0;
}

/* What is done at the tap: `feature` is watched, and set to `value` for rows of slot 0. */
static int prepare(sae_ggml_tap *tap, sae_env *env, const char *folder, int32_t feature, float value, sae_error *err)
{
    sae_model *model = NULL;
    sae_plan *plan = NULL;
    sae_probe *probe = NULL;
    if (sae_model_open(&model, env, folder, NULL, err))
        return err->status;
    const sae_edit edit = {.struct_size = sizeof edit, .op = SAE_SET, .value = value, .model = model, .feature = feature};
    if (sae_plan_compile(&plan, env, tap->d, 1, &edit, 1, err) || sae_ctx_create(&tap->ctx, model, NULL, err) ||
        sae_probe_create(&probe, model, &feature, 1, err))
        return err->status;
    sae_model_free(model);
    tap->plan = plan;
    tap->scratch_bytes = sae_plan_scratch_bytes(plan);
    tap->scratch = malloc(tap->scratch_bytes);
    tap->probe = probe;
    tap->n_features = 1;
    return tap->scratch ? 0 : fail("no memory");
}

int main(int argc, char **argv)
{
    static float codes[N_BATCH];
    llama_token prompt[N_BATCH];
    sae_env *env = NULL;
    sae_error err = {.struct_size = sizeof err};
    run r = {.codes = codes};
    if (argc != 7)
        return fail("usage: steer_llama MODEL.gguf SAE_FOLDER LAYER FEATURE VALUE PROMPT");
    if (!(r.model = llama_model_load_from_file(argv[1], llama_model_default_params())))
        return fail("llama.cpp cannot load the model");

    sae_ggml_tap tap = {.name = "l_out", .layer = atoi(argv[3]), .d = llama_model_n_embd(r.model), .codes = codes};
    if (sae_env_create(&env, NULL, &err) || prepare(&tap, env, argv[2], atoi(argv[4]), strtof(argv[5], NULL), &err))
        return fail(err.text);
    r.g = (sae_ggml){.taps = &tap, .n_taps = 1, .n_layer = llama_model_n_layer(r.model)};

    struct llama_context_params params = llama_context_default_params();
    params.n_batch = N_BATCH;
    params.cb_eval = sae_ggml_eval; /* before the context is made: there is no other way to set it */
    params.cb_eval_user_data = &r.g;
    if (!(r.context = llama_init_from_model(r.model, params)))
        return fail("llama.cpp cannot make a context");

    const int32_t n = llama_tokenize(llama_model_get_vocab(r.model), argv[6], (int32_t)strlen(argv[6]), prompt, N_BATCH, true, false);
    if (n < 1)
        return fail("the prompt is longer than a batch");
    if (continuation(&r, prompt, n, false) || continuation(&r, prompt, n, true))
        return 1;
    printf("l_out-%" PRId32 ": %" PRId64 " graphs, %" PRId64 " rows seen, %" PRId64 " edited, %" PRId64 " left alone\n", tap.layer,
           tap.hits, tap.rows_seen, tap.rows_edited, tap.rows_left);

    llama_free(r.context); /* first: the callback uses all that follows */
    llama_model_free(r.model);
    sae_plan_free((sae_plan *)tap.plan);
    sae_probe_free((sae_probe *)tap.probe);
    sae_ctx_free(tap.ctx);
    sae_env_free(env);
    free(tap.scratch);
    return 0;
}
