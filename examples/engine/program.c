#include "program.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

bool program_open_model(program *p, engine_error *err)
{
    if (!engine_model_open(&p->model, &p->host, p->opt.model, p->opt.weights, err))
        return false;
    if (p->opt.model_name)
        snprintf(p->model->name, sizeof p->model->name, "%s", p->opt.model_name);
    return true;
}

static bool is_folder(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

bool program_open_tokenizer(program *p, engine_error *err)
{
    char *own = NULL;
    if (!p->opt.tokenizer && !is_folder(p->opt.model))
        return engine_fail(err, "%s has no tokenizer beside it: name one with --tokenizer", p->opt.model);
    if (!p->opt.tokenizer && !(own = engine_path(p->opt.model, "tokenizer.json", err)))
        return false;
    const bool ok = engine_tokenizer_open(&p->tokenizer, own ? own : p->opt.tokenizer, p->model->shape.n_vocab, err);
    free(own);
    return ok;
}

static bool read_tokens(const char *list, int32_t n_vocab, int32_t **tokens, int32_t *n, engine_error *err)
{
    if (!(*tokens = engine_take(strlen(list) / 2 + 1, 1, 1, sizeof **tokens, err)))
        return false;
    for (const char *at = list; *at;) {
        char *end;
        const long id = strtol(at, &end, 10);
        if (end == at || (*end && *end != ',') || id < 0 || id >= n_vocab)
            return engine_fail(err, "--tokens: '%.40s' does not begin with a token in 0 .. %d", at, n_vocab - 1);
        (*tokens)[(*n)++] = (int32_t)id;
        at = *end ? end + 1 : end;
    }
    return true;
}

int32_t program_context(const program *p)
{
    const int32_t most = p->model->shape.context, wanted = p->opt.context;
    return wanted && wanted < most ? wanted : most;
}

bool program_prompt(const program *p, int32_t i, int32_t **tokens, int32_t *n, engine_error *err)
{
    *tokens = NULL;
    *n = 0;
    bool ok = p->opt.tokens ? read_tokens(p->opt.tokens, p->model->shape.n_vocab, tokens, n, err)
                            : engine_tokenize(p->tokenizer, p->opt.prompts[i], tokens, n, err);
    if (ok && *n == 0)
        ok = engine_fail(err, "prompt %d has no token", i);
    if (ok && *n > program_context(p))
        ok = engine_fail(err, "prompt %d has %d tokens, the context is %d: shorten it", i, *n, program_context(p));
    if (!ok) {
        free(*tokens);
        *tokens = NULL;
    }
    return ok;
}

bool program_open_session(program *p, int32_t n_sequences, int32_t context, engine_error *err)
{
    const options *o = &p->opt;
    if (!engine_session_create(&p->session, p->model, n_sequences, context, o->batch, err))
        return false;
    if (!o->sae)
        return true;
    const engine_sae_options opt = {.path = o->sae,
                                    .hook_name = o->hook,
                                    .force = o->force,
                                    .watch = o->watch,
                                    .n_watch = o->n_watch,
                                    .edits = o->edits,
                                    .n_edits = o->n_edits};
    return engine_sae_create(&p->sae, p->model, &opt, err) && engine_sae_attach(p->sae, p->session, err);
}
