/* engine run, engine tokenize. */
#include "program.h"
#include "show.h"

#include <stdlib.h>

typedef struct runs {
    program *p;
    engine_request request[MAX_PROMPTS];
    int32_t n_prompt[MAX_PROMPTS]; /* tokens of the prompt */
    int32_t n;
    bool stream; /* write tokens as they come */
} runs;

/* The prompt's tokens in an array that has room for the new ones. */
static bool start(runs *r, int32_t i, engine_error *err)
{
    const options *o = &r->p->opt;
    engine_request *q = r->request + i;
    if (!program_prompt(r->p, i, &q->tokens, &q->n, err))
        return false;
    const int64_t wanted = (int64_t)q->n + o->n_new, most = program_context(r->p);
    r->n_prompt[i] = q->n;
    q->capacity = (int32_t)(wanted < most ? wanted : most);
    int32_t *more = realloc(q->tokens, (size_t)q->capacity * sizeof *more);
    if (!more)
        return engine_fail(err, "no memory for %d tokens", q->capacity);
    q->tokens = more;
    engine_sampler_init(&q->sampler, o->temperature, o->top_k, o->seed + (uint64_t)i);
    return true;
}

static bool on_token(void *user, int32_t sequence, int32_t token, engine_error *err)
{
    (void)sequence, (void)err;
    const runs *r = user;
    if (r->stream) {
        show_bytes(r->p->tokenizer, &token, 1);
        fflush(stdout);
    }
    return true;
}

static int32_t longest(const runs *r)
{
    int32_t most = 1;
    for (int32_t i = 0; i < r->n; i++)
        most = r->request[i].capacity > most ? r->request[i].capacity : most;
    return most;
}

static void show_text(const runs *r, int32_t i)
{
    const engine_request *q = r->request + i;
    const char *prompt = r->p->opt.n_prompts ? r->p->opt.prompts[i] : "";
    if (r->stream) {
        printf("\n");
    } else {
        printf("--- %d\n%s", i, prompt);
        show_bytes(r->p->tokenizer, q->tokens + r->n_prompt[i], q->n - r->n_prompt[i]);
        printf("\n");
    }
    show_seen(r->p, i, q->tokens, q->computed);
}

static bool show_json(const runs *r, engine_error *err)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < r->n; i++) {
        const engine_request *q = r->request + i;
        json_t *s = json_pack("{s:o, s:o, s:o}", "prompt_tokens", json_tokens(q->tokens, r->n_prompt[i]), "tokens",
                              json_tokens(q->tokens + r->n_prompt[i], q->n - r->n_prompt[i]), "text",
                              json_text(r->p->tokenizer, q->tokens + r->n_prompt[i], q->n - r->n_prompt[i]));
        if (r->p->opt.n_watch)
            json_object_set_new(s, "seen", json_seen(r->p, i, q->computed));
        json_array_append_new(list, s);
    }
    return show_json_object(json_pack("{s:s, s:o}", "model", r->p->model->name, "sequences", list), err);
}

static bool generate(runs *r, engine_error *err)
{
    for (int32_t i = 0; i < r->n; i++)
        if (!start(r, i, err))
            return false;
    if (!program_open_session(r->p, r->n, longest(r), err))
        return false;
    r->stream = !r->p->opt.json && r->n == 1;
    if (r->stream && r->p->opt.n_prompts)
        printf("%s", r->p->opt.prompts[0]);
    if (!engine_generate(r->p->session, r->request, r->n, on_token, r, err))
        return false;
    if (r->p->opt.json)
        return show_json(r, err);
    for (int32_t i = 0; i < r->n; i++)
        show_text(r, i);
    return true;
}

bool cmd_run(program *p, engine_error *err)
{
    runs r = {.p = p, .n = p->opt.tokens ? 1 : p->opt.n_prompts};
    const bool ok = program_open_model(p, err) && program_open_tokenizer(p, err) && generate(&r, err);
    for (int32_t i = 0; i < r.n; i++)
        free(r.request[i].tokens);
    return ok;
}

/* `lists` is {"tokens", "texts"}, or NULL for a table. */
static bool tokenize(const program *p, json_t *lists, int32_t i, engine_error *err)
{
    int32_t *tokens, n;
    if (!engine_tokenize(p->tokenizer, p->opt.prompts[i], &tokens, &n, err))
        return false;
    if (lists) {
        json_array_append_new(json_object_get(lists, "tokens"), json_tokens(tokens, n));
        json_array_append_new(json_object_get(lists, "texts"), json_text(p->tokenizer, tokens, n));
    }
    for (int32_t k = 0; !lists && k < n; k++)
        printf("%d\t%s\n", tokens[k], engine_token_name(p->tokenizer, tokens[k]));
    free(tokens);
    return true;
}

bool cmd_tokenize(program *p, engine_error *err)
{
    if (!program_open_model(p, err) || !program_open_tokenizer(p, err))
        return false;
    json_t *lists = p->opt.json ? json_pack("{s:[], s:[]}", "tokens", "texts") : NULL;
    bool ok = true;
    for (int32_t i = 0; ok && i < p->opt.n_prompts; i++)
        ok = tokenize(p, lists, i, err);
    if (ok && p->opt.json)
        return show_json_object(lists, err);
    json_decref(lists);
    return ok;
}
