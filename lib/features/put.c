#ifdef SAEI_SQLITE
#include <math.h>
#include <string.h>

#include "features/catalog.h"

/* ---- what may be put ---- */

/* What is wrong with a text; NULL when nothing is. */
static const char *wrong_text(const char *text)
{
    const char *nul = memchr(text, '\0', SAE_MOST_TEXT);
    return !nul ? "is longer than SAE_MOST_TEXT bytes" : saei_utf8(text, (size_t)(nul - text)) ? NULL : "is not UTF-8";
}

static sae_status check_text(int32_t id, const char *name, const char *text, sae_error *err)
{
    const char *wrong = text ? wrong_text(text) : NULL;
    return wrong ? saei_fail(err, SAE_E_ARG, "feature %d: %s %s", (int)id, name, wrong) : SAE_OK;
}

static sae_status check_tokens(int32_t id, const char *name, const sae_token *tokens, int32_t n, int32_t most, sae_error *err)
{
    if (n < 0 || n > most || (n > 0 && !tokens))
        return saei_fail(err, SAE_E_ARG, "feature %d: %s has %d tokens%s, there may be 0 .. %d", (int)id, name, (int)n,
                         n > 0 && !tokens ? " at NULL" : "", (int)most);
    for (int32_t i = 0; i < n; i++) {
        const char *wrong = !tokens[i].text ? "is NULL" : wrong_text(tokens[i].text);
        if (wrong)
            return saei_fail(err, SAE_E_ARG, "feature %d: the text of token %d of %s %s", (int)id, (int)i, name, wrong);
        if (!isfinite(tokens[i].value))
            return saei_fail(err, SAE_E_ARG, "feature %d: the value of token %d of %s is not finite", (int)id, (int)i, name);
    }
    return SAE_OK;
}

static sae_status check_example(int32_t id, int32_t i, const sae_example *e, sae_error *err)
{
    char name[32];
    (void)sqlite3_snprintf(sizeof name, name, "examples[%d]", (int)i);
    const sae_status status = check_tokens(id, name, e->tokens, e->n_tokens, SAE_MOST_TOKENS, err);
    if (status)
        return status;
    if (e->peak < -1 || e->peak >= e->n_tokens || e->document < -1 || e->position < -1)
        return saei_fail(err, SAE_E_ARG, "feature %d: %s of %d tokens has peak = %d, document = %d, position = %d; -1 means not said",
                         (int)id, name, (int)e->n_tokens, (int)e->peak, (int)e->document, (int)e->position);
    return SAE_OK;
}

static sae_status check_examples(const sae_feature *f, sae_error *err)
{
    if (f->n_examples < 0 || f->n_examples > SAE_MOST_ENTRIES || (f->n_examples > 0 && !f->examples))
        return saei_fail(err, SAE_E_ARG, "feature %d: n_examples = %d%s, there may be 0 .. %d", (int)f->id, (int)f->n_examples,
                         f->n_examples > 0 && !f->examples ? " at NULL" : "", SAE_MOST_ENTRIES);
    sae_status status = SAE_OK;
    for (int32_t i = 0; i < f->n_examples && !status; i++)
        status = check_example(f->id, i, &f->examples[i], err);
    return status;
}

static sae_status check(const sae_catalog *c, const sae_feature *f, sae_error *err)
{
    if (c->access != SAE_CATALOG_WRITE)
        return saei_fail(err, SAE_E_ARG, "%s is open for reading: open it with SAE_CATALOG_WRITE", c->path);
    if (f->id < 0 || f->id >= c->d_sae)
        return saei_fail(err, SAE_E_ARG, "feature %d: this SAE has features 0 .. %d", (int)f->id, (int)c->d_sae - 1);
    if (isinf(f->density) || isinf(f->mean) || isinf(f->max))
        return saei_fail(err, SAE_E_ARG, "feature %d: density = %g, mean = %g, max = %g: give finite numbers, or NaN for unknown",
                         (int)f->id, f->density, f->mean, f->max);
    sae_status status = check_text(f->id, "label", f->label, err);
    status = status ? status : check_text(f->id, "model_id", f->model_id, err);
    status = status ? status : check_text(f->id, "layer", f->layer, err);
    status = status ? status : check_tokens(f->id, "promoted", f->promoted, f->n_promoted, SAE_MOST_ENTRIES, err);
    status = status ? status : check_tokens(f->id, "suppressed", f->suppressed, f->n_suppressed, SAE_MOST_ENTRIES, err);
    return status ? status : check_examples(f, err);
}

/* ---- what is indexed ---- */

/* The words of label and promoted tokens, label first; *split is where the tokens begin. Files of schema 1 rely on these very words: an
 * entry is taken out of the index by telling it again. */
static void add_words(saei_bytes *out, const saei_host *host, const char *label, const sae_feature *f, size_t *split)
{
    out->n = 0;
    out->failed = false;
    saei_words(out, host, label);
    *split = out->n;
    for (int32_t i = 0; i < f->n_promoted; i++) {
        const char *text = f->promoted[i].text;
        /* byte-level tokenizers write a space as U+0120 and a newline as U+010A, which are letters to the index */
        const bool marked = strncmp(text, "\xc4\xa0", 2) == 0 || strncmp(text, "\xc4\x8a", 2) == 0;
        saei_words(out, host, marked ? text + 2 : text);
        saei_bytes_text(out, host, " ");
    }
}

static int index_step(sae_catalog *c, saei_statement which, int32_t id, const saei_bytes *words, size_t split)
{
    sqlite3_stmt *s = saei_sql(c, which);
    if (!s)
        return sqlite3_errcode(c->db);
    const char *text = words->p ? (const char *)words->p : "";
    (void)sqlite3_bind_int(s, 1, id);
    (void)sqlite3_bind_text64(s, 2, text, split, SQLITE_STATIC, SQLITE_UTF8);
    (void)sqlite3_bind_text64(s, 3, text + split, words->n - split, SQLITE_STATIC, SQLITE_UTF8);
    const int rc = sqlite3_step(s);
    saei_sql_done(s);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Takes what is indexed for a feature out of the index, if it is there. */
static sae_status drop_words(sae_catalog *c, int32_t id, sae_error *err)
{
    sqlite3_stmt *s = saei_sql(c, SAEI_GET_WORDS);
    if (!s)
        return saei_sql_fail(c, sqlite3_errcode(c->db), "read", err);
    (void)sqlite3_bind_int(s, 1, id);
    int rc = sqlite3_step(s);
    sae_status status = SAE_OK;
    if (rc == SQLITE_ROW) {
        saei_pile arena = {&c->env->host, NULL};
        sae_feature f = {.id = id};
        const char *label = (const char *)sqlite3_column_text(s, 0);
        const void *body = sqlite3_column_blob(s, 1);
        size_t split = 0;
        status = saei_body_unpack(&f, &arena, body, (size_t)sqlite3_column_bytes(s, 1), err);
        if (!status) {
            add_words(&c->old, &c->env->host, label ? label : "", &f, &split);
            rc = index_step(c, SAEI_DROP_WORDS, id, &c->old, split);
        }
        saei_pile_free(&arena);
    }
    saei_sql_done(s);
    if (status)
        return status;
    if (c->old.failed)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the words of feature %d", (int)id);
    return rc == SQLITE_OK || rc == SQLITE_DONE ? SAE_OK : saei_sql_fail(c, rc, "write to", err);
}

/* ---- writing ---- */

static void bind_statistic(sqlite3_stmt *s, int at, double value)
{
    if (!isnan(value))
        (void)sqlite3_bind_double(s, at, value); /* NULL otherwise */
}

static int put_row(sae_catalog *c, const sae_feature *f)
{
    sqlite3_stmt *s = saei_sql(c, SAEI_PUT);
    if (!s)
        return sqlite3_errcode(c->db);
    (void)sqlite3_bind_int(s, 1, f->id);
    (void)sqlite3_bind_text(s, 2, f->label ? f->label : "", -1, SQLITE_STATIC);
    bind_statistic(s, 3, f->density);
    bind_statistic(s, 4, f->mean);
    bind_statistic(s, 5, f->max);
    (void)sqlite3_bind_text(s, 6, f->model_id, -1, SQLITE_STATIC);
    (void)sqlite3_bind_text(s, 7, f->layer, -1, SQLITE_STATIC);
    (void)sqlite3_bind_blob64(s, 8, c->body.p, c->body.n, SQLITE_STATIC);
    const int rc = sqlite3_step(s);
    saei_sql_done(s);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static sae_status write_feature(sae_catalog *c, const sae_feature *f, sae_error *err)
{
    size_t split;
    const sae_status status = drop_words(c, f->id, err);
    if (status)
        return status;
    add_words(&c->words, &c->env->host, f->label ? f->label : "", f, &split);
    if (c->words.failed)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the words of feature %d", (int)f->id);
    int rc = put_row(c, f);
    rc = rc ? rc : index_step(c, SAEI_PUT_WORDS, f->id, &c->words, split);
    return rc ? saei_sql_fail(c, rc, "write to", err) : SAE_OK;
}

static sae_status begin(sae_catalog *c, sae_error *err)
{
    const int rc = saei_sql_run(c, "BEGIN IMMEDIATE");
    return rc ? saei_sql_fail(c, rc, "write to", err) : SAE_OK;
}

static void rollback(sae_catalog *c)
{
    if (!sqlite3_get_autocommit(c->db))
        (void)saei_sql_run(c, "ROLLBACK");
}

static sae_status commit(sae_catalog *c, sae_error *err)
{
    const int rc = saei_sql_run(c, "COMMIT");
    const sae_status status = rc ? saei_sql_fail(c, rc, "write to", err) : SAE_OK;
    rollback(c);
    return status;
}

static sae_status put(sae_catalog *c, const sae_feature *f, sae_error *err)
{
    enum { MOST_BODY = 16 << 20 };
    c->body.n = 0;
    c->body.failed = false;
    saei_body_pack(&c->body, &c->env->host, f);
    if (c->body.failed)
        return saei_fail(err, SAE_E_NOMEM, "no memory for feature %d", (int)f->id);
    if (c->body.n > MOST_BODY)
        return saei_fail(err, SAE_E_ARG, "feature %d: tokens and examples take %zu bytes, there may be %d: give fewer", (int)f->id,
                         c->body.n, MOST_BODY);
    const bool own = sqlite3_get_autocommit(c->db);
    sae_status status = own ? begin(c, err) : SAE_OK;
    if (status)
        return status;
    if ((status = write_feature(c, f, err)))
        rollback(c);
    else if (own)
        status = commit(c, err);
    return status;
}

sae_status sae_catalog_put(sae_catalog *c, const sae_feature *feature, sae_error *err)
{
    sae_feature f;
    if (!c || !feature)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_put: %s is NULL", c ? "feature" : "catalog");
    sae_status status = saei_read_struct(&f, sizeof f, feature, "sae_feature", err);
    status = status ? status : check(c, &f, err);
    if (status)
        return status;
    saei_lock_take(&c->lock);
    status = put(c, &f, err);
    saei_lock_give(&c->lock);
    return status ? status : saei_ok(err);
}

/* ---- transactions ---- */

sae_status sae_catalog_begin(sae_catalog *c, sae_error *err)
{
    if (!c)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_begin: catalog is NULL");
    if (c->access != SAE_CATALOG_WRITE)
        return saei_fail(err, SAE_E_ARG, "%s is open for reading: open it with SAE_CATALOG_WRITE", c->path);
    saei_lock_take(&c->lock);
    const sae_status status = sqlite3_get_autocommit(c->db)
                                  ? begin(c, err)
                                  : saei_fail(err, SAE_E_ARG, "a transaction is open already: commit it or take it back first");
    saei_lock_give(&c->lock);
    return status ? status : saei_ok(err);
}

sae_status sae_catalog_commit(sae_catalog *c, sae_error *err)
{
    if (!c)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_commit: catalog is NULL");
    saei_lock_take(&c->lock);
    const sae_status status =
        sqlite3_get_autocommit(c->db) ? saei_fail(err, SAE_E_ARG, "no transaction is open: sae_catalog_begin opens one") : commit(c, err);
    saei_lock_give(&c->lock);
    return status ? status : saei_ok(err);
}

void sae_catalog_rollback(sae_catalog *c)
{
    if (!c)
        return;
    saei_lock_take(&c->lock);
    rollback(c);
    saei_lock_give(&c->lock);
}
#endif
