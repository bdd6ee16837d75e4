#include "session.h"

#include <string.h>

void expect_ok(sae_status status, const sae_error *err, const char *about)
{
    if (status == SAE_OK) {
        return;
    }
    const char *text = err->text[0] != '\0' ? err->text : sae_status_text(status);
    if (about == NULL || strstr(text, about) != NULL) {
        die("%s", text);
    }
    die("%s: %s", about, text);
}

void expect_ctx_ok(sae_status status, const sae_ctx *ctx, const char *about)
{
    sae_error err = {.struct_size = sizeof err};
    snprintf(err.text, sizeof err.text, "%s", sae_ctx_error(ctx));
    expect_ok(status, &err, about);
}

static void open_env(session *s, const model_args *m)
{
    sae_error err = {.struct_size = sizeof err};
    if (m->threads != 1) {
        expect_ok(sae_pool_create(&s->pool, m->threads, &err), &err, NULL);
    }
    sae_env_options opt = {.struct_size = sizeof opt, .isa = m->isa};
    if (s->pool != NULL) {
        opt.run = sae_pool_run;
        opt.run_user = s->pool;
        opt.max_workers = sae_pool_threads(s->pool);
    }
    expect_ok(sae_env_create(&s->env, &opt, &err), &err, NULL);
}

session session_open(const model_args *m, const char *path, bool warnings)
{
    session s = {.info = {.struct_size = sizeof s.info}};
    sae_error err = {.struct_size = sizeof err};
    open_env(&s, m);
    if (path == NULL) {
        return s;
    }
    expect_ok(sae_model_open(&s.model, s.env, path, &m->open, &err), &err, path);
    expect_ok(sae_model_info(s.model, &s.info), &err, path);
    for (int32_t i = 0; warnings && i < sae_model_n_warnings(s.model); i++) {
        warn("%s: %s", path, sae_model_warning(s.model, i));
    }
    if (m->prepare != 0) {
        progress p = progress_note("packing the weights");
        expect_ok(sae_model_prepare(s.model, m->prepare, &err), &err, path);
        progress_end(&p);
    }
    return s;
}

void session_close(session *s)
{
    sae_model_free(s->model);
    sae_env_free(s->env);
    sae_pool_free(s->pool);
}

int64_t session_block(const session *s, const rows *r)
{
    return s->info.arch != SAE_TEMPORAL ? rows_block(r) : r->n_rows > 0 ? r->n_rows : 1;
}

sae_ctx *session_ctx(const session *s, const rows *r, const char *path)
{
    enum { LONGEST = 65536 };
    sae_error err = {.struct_size = sizeof err};
    sae_ctx_options opt = {.struct_size = sizeof opt};
    sae_ctx *ctx;
    if (s->info.arch == SAE_TEMPORAL && r->n_rows > LONGEST) {
        die("%s is a temporal SAE, for which all rows are one sequence: of %lld rows, %d at most", path, (long long)r->n_rows, LONGEST);
    }
    if (s->info.arch == SAE_TEMPORAL) {
        opt.max_rows = (int32_t)session_block(s, r);
    }
    expect_ok(sae_ctx_create(&ctx, s->model, &opt, &err), &err, path);
    return ctx;
}
