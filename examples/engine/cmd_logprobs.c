/* engine logprobs. */
#include "show.h"

#include <stdlib.h>

/* The arrays of a batch; every row's logits are wanted. */
typedef struct scorer {
    program *p;
    engine_npy npy;
    bool to_file;
    int32_t *sequence, *position;
    bool *want;
    float *logits;
    json_t *list;
} scorer;

static bool take(scorer *s, engine_error *err)
{
    const size_t rows = (size_t)s->p->opt.batch, n_vocab = (size_t)s->p->model->shape.n_vocab;
    s->sequence = engine_take(rows, 1, 1, sizeof *s->sequence, err);
    s->position = s->sequence ? engine_take(rows, 1, 1, sizeof *s->position, err) : NULL;
    s->want = s->position ? engine_take(rows, 1, 1, sizeof *s->want, err) : NULL;
    s->logits = s->want ? engine_take(rows, n_vocab, 1, sizeof *s->logits, err) : NULL;
    s->list = s->logits ? json_array() : NULL;
    for (size_t i = 0; s->list && i < rows; i++)
        s->want[i] = true;
    return s->list;
}

/* One batch of a prompt: log-probabilities of the tokens that follow its rows. */
static bool score_rows(scorer *s, const int32_t *tokens, int32_t n, int32_t at, int32_t rows, json_t *out, engine_error *err)
{
    const int32_t n_vocab = s->p->model->shape.n_vocab;
    for (int32_t r = 0; r < rows; r++)
        s->position[r] = at + r;
    const engine_batch b = {.n_rows = rows, .token = tokens + at, .sequence = s->sequence, .position = s->position, .want = s->want};
    if (!engine_step(s->p->session, &b, s->logits, err) || (s->to_file && !engine_npy_write(&s->npy, s->logits, rows, err)))
        return false;
    for (int32_t r = 0; r < rows && at + r + 1 < n; r++) {
        json_t *x = json_real(engine_logprob(s->logits + (size_t)r * (size_t)n_vocab, n_vocab, tokens[at + r + 1]));
        if (json_array_append_new(out, x)) /* NaN has no JSON */
            return engine_fail(err, "the logits after position %d are not finite; an edit may be too strong", at + r);
    }
    return true;
}

static void show(const scorer *s, const int32_t *tokens, int32_t n, const json_t *logprobs)
{
    for (int32_t i = 0; i < n; i++) {
        printf("%d\t", tokens[i]);
        if (i)
            printf("%.6f\t%s\n", json_real_value(json_array_get(logprobs, (size_t)i)), engine_token_name(s->p->tokenizer, tokens[i]));
        else
            printf("-\t%s\n", engine_token_name(s->p->tokenizer, tokens[i]));
    }
}

static bool score(scorer *s, int32_t sequence, const int32_t *tokens, int32_t n, engine_error *err)
{
    const int32_t batch = s->p->opt.batch;
    json_t *logprobs = json_pack("[n]"); /* nothing predicts the first token */
    bool ok = logprobs;
    for (int32_t r = 0; r < batch; r++)
        s->sequence[r] = sequence;
    for (int32_t at = 0; ok && at < n; at += batch)
        ok = score_rows(s, tokens, n, at, n - at < batch ? n - at : batch, logprobs, err);
    if (ok && !s->p->opt.json) {
        show(s, tokens, n, logprobs);
        show_seen(s->p, sequence, tokens, n);
    }
    json_t *entry = ok ? json_pack("{s:o, s:O}", "tokens", json_tokens(tokens, n), "logprobs", logprobs) : NULL;
    if (entry && s->p->opt.n_watch)
        json_object_set_new(entry, "seen", json_seen(s->p, sequence, n));
    if (entry)
        json_array_append_new(s->list, entry);
    json_decref(logprobs);
    return ok;
}

static bool score_prompt(scorer *s, int32_t i, engine_error *err)
{
    int32_t *tokens, n;
    if (!program_prompt(s->p, i, &tokens, &n, err))
        return false;
    const bool ok = score(s, i, tokens, n, err);
    free(tokens);
    return ok;
}

static bool score_all(scorer *s, engine_error *err)
{
    program *p = s->p;
    const int32_t n = p->opt.tokens ? 1 : p->opt.n_prompts;
    if (!program_open_session(p, n, program_context(p), err) || !take(s, err))
        return false;
    s->to_file = p->opt.logits;
    if (s->to_file && !engine_npy_open(&s->npy, p->opt.logits, "<f4", p->model->shape.n_vocab, err))
        return false;
    for (int32_t i = 0; i < n; i++)
        if (!score_prompt(s, i, err))
            return false;
    if (s->to_file && !engine_npy_close(&s->npy, err))
        return false;
    return !p->opt.json || show_json_object(json_pack("{s:s, s:O}", "model", p->model->name, "sequences", s->list), err);
}

bool cmd_logprobs(program *p, engine_error *err)
{
    scorer s = {.p = p};
    const bool needs_tokenizer = !p->opt.tokens || !p->opt.json;
    const bool ok = program_open_model(p, err) && (!needs_tokenizer || program_open_tokenizer(p, err)) && score_all(&s, err);
    engine_npy_abandon(&s.npy);
    json_decref(s.list);
    free(s.sequence);
    free(s.position);
    free(s.want);
    free(s.logits);
    return ok;
}
