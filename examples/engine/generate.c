/* Drives several sequences at once: whatever has tokens that are not computed yet fills the next batch. A prompt that begins like an earlier
 * one waits until the common part is computed there, and takes it over. */
#include "internal.h"

#include <stdlib.h>

/* The arrays of a batch, and what comes out of it. */
typedef struct work {
    engine_batch batch;
    int32_t *token, *sequence, *position, *scratch;
    bool *want;
    float *logits;
    int32_t *done;          /* [n] positions computed by the steps so far, of each request */
    int32_t *from, *common; /* [n] whose first `common` positions it waits for; 0 = none */
} work;

static void free_work(work *w)
{
    void *const all[] = {w->token, w->sequence, w->position, w->scratch, w->want, w->logits, w->done, w->from, w->common};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* Logits are asked for once a sequence in a batch. */
static bool take_work(work *w, size_t rows, size_t n_sequences, size_t n_vocab, engine_error *err)
{
    const size_t most = rows < n_sequences ? rows : n_sequences;
    return (w->token = engine_take(rows, 1, 1, sizeof *w->token, err)) &&
           (w->sequence = engine_take(rows, 1, 1, sizeof *w->sequence, err)) &&
           (w->position = engine_take(rows, 1, 1, sizeof *w->position, err)) && (w->want = engine_take(rows, 1, 1, sizeof *w->want, err)) &&
           (w->scratch = engine_take(n_vocab, 1, 1, sizeof *w->scratch, err)) &&
           (w->logits = engine_take(most, n_vocab, 1, sizeof *w->logits, err)) &&
           (w->done = engine_take(n_sequences, 1, 1, sizeof *w->done, err)) &&
           (w->from = engine_take(n_sequences, 1, 1, sizeof *w->from, err)) &&
           (w->common = engine_take(n_sequences, 1, 1, sizeof *w->common, err));
}

/* Tokens that two requests begin with; the last one of `a` is left out, since its logits are wanted. */
static int32_t begins_like(const engine_request *a, const engine_request *b)
{
    int32_t n = 0;
    while (n < a->n - 1 && n < b->n && a->tokens[n] == b->tokens[n])
        n++;
    return n;
}

static void find_common(work *w, const engine_request *requests, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        w->done[i] = requests[i].computed;
        for (int32_t j = 0; j < i && !requests[i].computed; j++) {
            const int32_t common = begins_like(requests + i, requests + j);
            if (common >= ENGINE_SHARED && common > w->common[i] && (!requests[j].ended || requests[j].computed >= common)) {
                w->from[i] = j;
                w->common[i] = common;
            }
        }
    }
}

/* Has request i to wait? Where what it waits for is there, it takes it over, or computes its own if a hook does not let it. */
static bool waits(engine_session *s, work *w, engine_request *requests, int32_t i)
{
    if (!w->common[i])
        return false;
    if (w->done[w->from[i]] < w->common[i])
        return true;
    if (engine_session_share(s, i, w->from[i], w->common[i]))
        requests[i].computed = w->common[i];
    w->common[i] = 0;
    return false;
}

static void fill(engine_session *s, work *w, engine_request *requests, int32_t n)
{
    const int32_t max_rows = engine_session_max_rows(s);
    int32_t rows = 0;
    for (int32_t i = 0; i < n; i++) {
        engine_request *r = requests + i;
        if (r->ended || waits(s, w, requests, i))
            continue;
        for (; r->computed < r->n && rows < max_rows; rows++) {
            w->token[rows] = r->tokens[r->computed];
            w->sequence[rows] = i;
            w->position[rows] = r->computed++;
            w->want[rows] = r->computed == r->n && r->n < r->capacity;
        }
    }
    w->batch = (engine_batch){.n_rows = rows, .token = w->token, .sequence = w->sequence, .position = w->position, .want = w->want};
}

static bool is_stop(const engine_model *m, int32_t token)
{
    for (int32_t i = 0; i < m->n_stop; i++)
        if (m->stop[i] == token)
            return true;
    return false;
}

static bool extend(engine_request *r, int32_t sequence, const float *logits, const engine_model *m, work *w, engine_token_fn fn, void *user,
                   engine_error *err)
{
    const int32_t token = engine_sample(&r->sampler, logits, m->shape.n_vocab, w->scratch);
    if (token < 0)
        return engine_fail(err, "sequence %d: no logit is finite after position %d; an edit may be too strong", sequence, r->n - 1);
    r->tokens[r->n++] = token;
    r->ended = is_stop(m, token) || r->n == r->capacity;
    return !fn || fn(user, sequence, token, err);
}

static bool run(engine_session *s, const engine_model *m, work *w, engine_request *requests, int32_t n, engine_token_fn fn, void *user,
                engine_error *err)
{
    find_common(w, requests, n);
    for (;;) {
        fill(s, w, requests, n);
        if (w->batch.n_rows == 0)
            return true;
        if (!engine_step(s, &w->batch, w->logits, err))
            return false;
        for (int32_t i = 0; i < n; i++)
            w->done[i] = requests[i].computed;
        const float *logits = w->logits;
        for (int32_t r = 0; r < w->batch.n_rows; r++)
            if (w->want[r]) {
                if (!extend(requests + w->sequence[r], w->sequence[r], logits, m, w, fn, user, err))
                    return false;
                logits += m->shape.n_vocab;
            }
    }
}

bool engine_generate(engine_session *s, engine_request *requests, int32_t n, engine_token_fn fn, void *user, engine_error *err)
{
    const engine_model *m = engine_session_model(s);
    work w = {0};
    const bool ok = take_work(&w, (size_t)engine_session_max_rows(s), (size_t)n, (size_t)m->shape.n_vocab, err) &&
                    run(s, m, &w, requests, n, fn, user, err);
    free_work(&w);
    return ok;
}
