/* libsae at a hook: watched features are probed on the rows as they come, then the plan edits the rows in place. */
#define _POSIX_C_SOURCE 200809L

#include "internal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct engine_sae {
    const engine_model *model;
    sae_model *sae;
    sae_ctx *ctx;
    sae_probe *probe; /* NULL = nothing is watched, as plan */
    sae_plan *plan;
    void *scratch;
    size_t scratch_bytes;
    char hook_name[128];
    engine_point at;
    int32_t n_watch, n_slots;
    /* Of the session that it is attached to. */
    int32_t n_sequences, context;
    int32_t *slot;     /* [n_sequences] */
    int32_t *row_slot; /* [max_rows] */
    float *codes;      /* [max_rows][n_watch] */
    float *seen;       /* [n_sequences][context][n_watch] */
};

/* ---- does the SAE belong here? ---- */

/* What stands after the last '/': publishers differ in what they put before. */
static const char *last_part(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

static bool check_names(const engine_sae *s, const engine_sae_options *opt, engine_error *err)
{
    const char *hook = sae_model_text(s->sae, SAE_TEXT_HOOK_NAME), *model = sae_model_text(s->sae, SAE_TEXT_MODEL_NAME);
    if (opt->force)
        return true;
    if (*hook && strcmp(hook, s->hook_name) != 0)
        return engine_fail(err, "%s was trained at %s, not at %s (--force uses it there all the same)", opt->path, hook, s->hook_name);
    if (*model && *s->model->name && strcasecmp(last_part(model), last_part(s->model->name)) != 0)
        return engine_fail(err, "%s was trained on the model %s, this one is %s (--force uses it all the same)", opt->path, model,
                           s->model->name);
    return true;
}

static bool choose_hook(engine_sae *s, const engine_sae_options *opt, engine_error *err)
{
    const char *name = opt->hook_name ? opt->hook_name : sae_model_text(s->sae, SAE_TEXT_HOOK_NAME);
    if (!*name)
        return engine_fail(err, "%s does not say at which hook it was trained: name it with --hook", opt->path);
    snprintf(s->hook_name, sizeof s->hook_name, "%s", name);
    return engine_point_parse(&s->at, s->model, name, err) && check_names(s, opt, err);
}

static bool check_width(const engine_sae *s, const char *path, engine_error *err)
{
    sae_info info = {.struct_size = sizeof info};
    sae_model_info(s->sae, &info);
    return (info.d_in == s->model->shape.dim && info.d_out == info.d_in) ||
           engine_fail(err, "%s reads rows of %d elements and writes %d, the model's have %d", path, info.d_in, info.d_out,
                       s->model->shape.dim);
}

/* ---- compiling ---- */

static bool compile_watch(engine_sae *s, const engine_sae_options *opt, engine_error *err)
{
    sae_error e = {.struct_size = sizeof e};
    if (!opt->n_watch)
        return true;
    s->n_watch = opt->n_watch;
    return !(sae_ctx_create(&s->ctx, s->sae, NULL, &e) || sae_probe_create(&s->probe, s->sae, opt->watch, opt->n_watch, &e)) ||
           engine_fail(err, "%s", e.text);
}

static bool compile_edits(engine_sae *s, const engine_sae_options *opt, engine_error *err)
{
    sae_error e = {.struct_size = sizeof e};
    s->n_slots = opt->n_slots ? opt->n_slots : 1;
    if (!opt->n_edits)
        return true;
    sae_edit *edits = engine_take((size_t)opt->n_edits, 1, 1, sizeof *edits, err);
    if (!edits)
        return false;
    for (int32_t i = 0; i < opt->n_edits; i++) {
        const engine_edit *from = opt->edits + i;
        edits[i] = (sae_edit){.struct_size = sizeof *edits,
                              .slot = from->slot,
                              .op = from->op,
                              .value = from->value,
                              .model = s->sae,
                              .feature = from->feature};
    }
    const sae_status status = sae_plan_compile(&s->plan, s->model->host->env, s->model->shape.dim, s->n_slots, edits, opt->n_edits, &e);
    free(edits);
    if (status)
        return engine_fail(err, "%s", e.text);
    s->scratch_bytes = sae_plan_scratch_bytes(s->plan);
    s->scratch = engine_take(s->scratch_bytes, 1, 1, 1, err);
    return s->scratch;
}

static bool create(engine_sae *s, const engine_sae_options *opt, engine_error *err)
{
    sae_error e = {.struct_size = sizeof e};
    if (sae_model_open(&s->sae, s->model->host->env, opt->path, NULL, &e))
        return engine_fail(err, "%s", e.text);
    return check_width(s, opt->path, err) && choose_hook(s, opt, err) && compile_watch(s, opt, err) && compile_edits(s, opt, err);
}

bool engine_sae_create(engine_sae **out, const engine_model *model, const engine_sae_options *opt, engine_error *err)
{
    *out = NULL;
    engine_sae *s = engine_take(1, 1, 1, sizeof *s, err);
    if (!s)
        return false;
    s->model = model;
    if (!create(s, opt, err)) {
        engine_sae_free(s);
        return false;
    }
    *out = s;
    return true;
}

static void detach(engine_sae *s)
{
    void *const all[] = {s->slot, s->row_slot, s->codes, s->seen};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    s->slot = s->row_slot = NULL;
    s->codes = s->seen = NULL;
}

void engine_sae_free(engine_sae *s)
{
    if (!s)
        return;
    detach(s);
    sae_probe_free(s->probe);
    sae_ctx_free(s->ctx);
    sae_plan_free(s->plan);
    sae_model_free(s->sae);
    free(s->scratch);
    free(s);
}

/* ---- running ---- */

static float *seen_at(const engine_sae *s, int32_t sequence, int32_t position)
{
    return s->seen + ((size_t)sequence * (size_t)s->context + (size_t)position) * (size_t)s->n_watch;
}

static bool watch(engine_sae *s, const engine_rows *rows, const sae_rows *x, engine_error *err)
{
    const size_t n = (size_t)s->n_watch;
    if (sae_probe_run(s->probe, s->ctx, s->codes, 0, x, 0))
        return engine_fail(err, "%s", sae_ctx_error(s->ctx));
    for (int32_t r = 0; r < rows->n_rows; r++)
        memcpy(seen_at(s, rows->sequence[r], rows->position[r]), s->codes + (size_t)r * n, n * sizeof *s->codes);
    return true;
}

static bool on_rows(void *user, const engine_rows *rows, engine_error *err)
{
    engine_sae *s = user;
    sae_error e = {.struct_size = sizeof e};
    sae_rows x = {.struct_size = sizeof x, .dtype = SAE_F32, .x = rows->x, .n_rows = rows->n_rows};
    if (s->probe && !watch(s, rows, &x, err))
        return false;
    if (!s->plan)
        return true;
    for (int32_t r = 0; r < rows->n_rows; r++)
        s->row_slot[r] = s->slot[rows->sequence[r]];
    x.slot = s->row_slot;
    return !sae_plan_apply(s->plan, &x, s->scratch, s->scratch_bytes, &e) || engine_fail(err, "%s", e.text);
}

/* Sequences with the same edits. */
static bool on_share(void *user, int32_t to, int32_t from, int32_t n)
{
    engine_sae *s = user;
    if (s->plan && s->slot[to] != s->slot[from])
        return false;
    if (s->n_watch)
        memcpy(seen_at(s, to, 0), seen_at(s, from, 0), (size_t)n * (size_t)s->n_watch * sizeof *s->seen);
    return true;
}

bool engine_sae_attach(engine_sae *s, engine_session *session, engine_error *err)
{
    const size_t rows = (size_t)engine_session_max_rows(session);
    detach(s);
    s->n_sequences = engine_session_sequences(session);
    s->context = engine_session_context(session);
    s->slot = engine_take((size_t)s->n_sequences, 1, 1, sizeof *s->slot, err);
    s->row_slot = s->slot ? engine_take(rows, 1, 1, sizeof *s->row_slot, err) : NULL;
    s->codes = s->row_slot ? engine_take(rows, (size_t)s->n_watch, 1, sizeof *s->codes, err) : NULL;
    s->seen = s->codes ? engine_take((size_t)s->n_sequences, (size_t)s->context, (size_t)s->n_watch, sizeof *s->seen, err) : NULL;
    return s->seen && engine_session_hook(session, s->at, on_rows, on_share, s, err);
}

void engine_sae_set_slot(engine_sae *s, int32_t sequence, int32_t slot)
{
    s->slot[sequence] = slot;
}

const float *engine_sae_seen(const engine_sae *s, int32_t sequence, int32_t position)
{
    return seen_at(s, sequence, position);
}

const char *engine_sae_hook_name(const engine_sae *s)
{
    return s->hook_name;
}

sae_model *engine_sae_model(const engine_sae *s)
{
    return s->sae;
}
