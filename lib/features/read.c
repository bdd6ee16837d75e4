#ifdef SAEI_SQLITE
#include <math.h>
#include <string.h>

#include "features/catalog.h"

enum { MOST_IDS = 100000, MOST_ROWS = 10000, DEFAULT_ROWS = 100, MOST_QUERY = 1000 };

static sae_status no_memory(sae_error *err)
{
    return saei_fail(err, SAE_E_NOMEM, "no memory for a list of features");
}

/* All rows of a statement whose bindings are made. */
static sae_status add_rows(sae_features *list, const sae_catalog *c, sqlite3_stmt *s, bool whole, sae_error *err)
{
    int rc;
    sae_status status = SAE_OK;
    while (!status && (rc = sqlite3_step(s)) == SQLITE_ROW)
        status = saei_features_add(list, s, whole, err);
    if (!status && rc != SQLITE_DONE)
        status = saei_sql_fail(c, rc, "read", err);
    return status;
}

/* ---- count ---- */

static sae_status count(sae_catalog *c, int64_t *out, sae_error *err)
{
    sqlite3_stmt *s = saei_sql(c, SAEI_COUNT);
    const int rc = s ? sqlite3_step(s) : sqlite3_errcode(c->db);
    const sae_status status = rc == SQLITE_ROW ? SAE_OK : saei_sql_fail(c, rc, "read", err);
    if (!status)
        *out = sqlite3_column_int64(s, 0);
    saei_sql_done(s);
    return status;
}

sae_status sae_catalog_count(sae_catalog *c, int64_t *out, sae_error *err)
{
    if (!c || !out)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_count: %s is NULL", c ? "out" : "catalog");
    saei_lock_take(&c->lock);
    const sae_status status = count(c, out, err);
    saei_lock_give(&c->lock);
    return status ? status : saei_ok(err);
}

/* ---- get ---- */

static sae_status get(sae_features *list, sae_catalog *c, const int32_t *ids, int64_t n, sae_error *err)
{
    sqlite3_stmt *s = saei_sql(c, SAEI_GET);
    if (!s)
        return saei_sql_fail(c, sqlite3_errcode(c->db), "read", err);
    sae_status status = SAE_OK;
    for (int64_t i = 0; i < n && !status; i++) {
        (void)sqlite3_bind_int(s, 1, ids[i]);
        status = add_rows(list, c, s, true, err);
        (void)sqlite3_reset(s);
    }
    saei_sql_done(s);
    return status;
}

/* Hands the list over, or frees it. */
static sae_status give(sae_features **out, sae_features *list, sae_status status, sae_error *err)
{
    if (status) {
        sae_features_free(list);
        return status;
    }
    *out = list;
    return saei_ok(err);
}

sae_status sae_catalog_get(sae_features **out, sae_catalog *c, const int32_t *ids, int64_t n, sae_error *err)
{
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_get: out is NULL");
    *out = NULL;
    if (!c || (n > 0 && !ids))
        return saei_fail(err, SAE_E_ARG, "sae_catalog_get: %s is NULL", c ? "ids" : "catalog");
    if (n < 0 || n > MOST_IDS)
        return saei_fail(err, SAE_E_ARG, "n = %lld ids, there may be 0 .. %d at once", (long long)n, MOST_IDS);
    sae_features *list = saei_features_new(c->env, (size_t)n);
    if (!list)
        return no_memory(err);
    saei_lock_take(&c->lock);
    const sae_status status = get(list, c, ids, n, err);
    saei_lock_give(&c->lock);
    return give(out, list, status, err);
}

/* ---- search ---- */

/* How many features match the words in c->words, counted up to SAEI_MOST_RANKED, and the id of the last of them. */
static sae_status bound(sae_catalog *c, int64_t *n, int64_t *last, sae_error *err)
{
    *n = 0;
    if (c->words.failed)
        return no_memory(err);
    if (c->words.n == 0)
        return SAE_OK;
    sqlite3_stmt *s = saei_sql(c, SAEI_BOUND);
    if (!s)
        return saei_sql_fail(c, sqlite3_errcode(c->db), "read", err);
    (void)sqlite3_bind_text64(s, 1, (const char *)c->words.p, c->words.n, SQLITE_STATIC, SQLITE_UTF8);
    (void)sqlite3_bind_int(s, 2, SAEI_MOST_RANKED);
    const int rc = sqlite3_step(s);
    const sae_status status = rc == SQLITE_ROW ? SAE_OK : saei_sql_fail(c, rc, "read", err);
    if (!status) {
        *n = sqlite3_column_int64(s, 0);
        *last = sqlite3_column_int64(s, 1);
    }
    saei_sql_done(s);
    return status;
}

static sae_status find(sae_features *list, sae_catalog *c, int64_t last, int32_t limit, sae_error *err)
{
    sqlite3_stmt *s = saei_sql(c, SAEI_SEARCH);
    if (!s)
        return saei_sql_fail(c, sqlite3_errcode(c->db), "read", err);
    (void)sqlite3_bind_text64(s, 1, (const char *)c->words.p, c->words.n, SQLITE_STATIC, SQLITE_UTF8);
    (void)sqlite3_bind_int64(s, 2, last);
    (void)sqlite3_bind_int(s, 3, limit);
    const sae_status status = add_rows(list, c, s, false, err);
    saei_sql_done(s);
    return status;
}

/* Words that very many features hold are looked for as they stand: those they begin would only take time. */
static sae_status search(sae_features *list, sae_catalog *c, const char *query, int32_t limit, sae_error *err)
{
    int64_t n = 0, last = 0;
    sae_status status = SAE_OK;
    for (saei_match match = SAEI_EXACT; match <= SAEI_ANY && !status; match++) {
        c->words.n = 0;
        c->words.failed = false;
        saei_words_query(&c->words, &c->env->host, query, match);
        status = bound(c, &n, &last, err);
        if (n >= (match == SAEI_EXACT ? SAEI_MOST_RANKED : 1))
            break;
    }
    return status || n == 0 ? status : find(list, c, last, limit, err);
}

sae_status sae_catalog_search(sae_features **out, sae_catalog *c, const char *query, int32_t limit, sae_error *err)
{
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_search: out is NULL");
    *out = NULL;
    if (!c || !query)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_search: %s is NULL", c ? "query" : "catalog");
    if (limit < 1 || limit > MOST_ROWS)
        return saei_fail(err, SAE_E_ARG, "limit = %d, it may be 1 .. %d", (int)limit, MOST_ROWS);
    const size_t bytes = strlen(query);
    if (bytes > MOST_QUERY || !saei_utf8(query, bytes))
        return saei_fail(err, SAE_E_ARG, "the query has %zu bytes%s; it may have %d of UTF-8", bytes,
                         bytes > MOST_QUERY ? "" : ", not all of them UTF-8", MOST_QUERY);
    sae_features *list = saei_features_new(c->env, (size_t)limit);
    if (!list)
        return no_memory(err);
    saei_lock_take(&c->lock);
    const sae_status status = search(list, c, query, limit, err);
    saei_lock_give(&c->lock);
    return give(out, list, status, err);
}

/* ---- list ---- */

static sae_status read_options(sae_list_options *o, const sae_list_options *opt, sae_error *err)
{
    *o = (sae_list_options){0};
    const sae_status status = opt ? saei_read_struct(o, sizeof *o, opt, "sae_list_options", err) : SAE_OK;
    if (status)
        return status;
    if (o->order < SAE_ORDER_ID || o->order > SAE_ORDER_MAX)
        return saei_fail(err, SAE_E_ARG, "order = %d is not one of SAE_ORDER_*", (int)o->order);
    if (o->descending < SAE_DEFAULT || o->descending > SAE_NO || o->resume < SAE_DEFAULT || o->resume > SAE_NO)
        return saei_fail(err, SAE_E_ARG, "descending = %d, resume = %d: give SAE_YES or SAE_NO", (int)o->descending, (int)o->resume);
    if (o->limit < 0 || o->limit > MOST_ROWS)
        return saei_fail(err, SAE_E_ARG, "limit = %d, it may be 1 .. %d, or 0 for %d", (int)o->limit, MOST_ROWS, DEFAULT_ROWS);
    if (o->resume == SAE_YES && o->order != SAE_ORDER_ID && isnan(o->after_value))
        return saei_fail(err, SAE_E_ARG, "after_value is not a number: give the statistic of the last feature of the page before");
    o->limit = o->limit ? o->limit : DEFAULT_ROWS;
    return SAE_OK;
}

/* A page is a walk along an index from where the page before ended. */
static sqlite3_stmt *prepare_list(sae_catalog *c, const sae_list_options *o)
{
    static const char *const columns[] = {"id", "density", "mean", "max"};
    const char *by = columns[o->order], *down = o->descending == SAE_YES ? " DESC" : "", *beyond = *down ? "<" : ">";
    const bool resume = o->resume == SAE_YES;
    char sql[256];
    if (o->order == SAE_ORDER_ID)
        (void)sqlite3_snprintf(sizeof sql, sql, "SELECT id, label, density, mean, max, 0 FROM feature %s%s%s ORDER BY id%s LIMIT ?3",
                               resume ? "WHERE id " : "", resume ? beyond : "", resume ? " ?1" : "", down);
    else
        (void)sqlite3_snprintf(
            sizeof sql, sql,
            "SELECT id, label, density, mean, max, 0 FROM feature WHERE %s IS NOT NULL %s%s%s%s%s ORDER BY %s%s, id%s LIMIT ?3", by,
            resume ? "AND (" : "", resume ? by : "", resume ? ", id) " : "", resume ? beyond : "", resume ? " (?2, ?1)" : "", by, down,
            down);
    sqlite3_stmt *s = NULL;
    (void)sqlite3_prepare_v2(c->db, sql, -1, &s, NULL);
    return s;
}

static sae_status list_page(sae_features *list, sae_catalog *c, const sae_list_options *o, sae_error *err)
{
    sqlite3_stmt *s = prepare_list(c, o);
    if (!s)
        return saei_sql_fail(c, sqlite3_errcode(c->db), "read", err);
    if (o->resume == SAE_YES)
        (void)sqlite3_bind_int(s, 1, o->after_id);
    if (o->resume == SAE_YES && o->order != SAE_ORDER_ID)
        (void)sqlite3_bind_double(s, 2, o->after_value);
    (void)sqlite3_bind_int(s, 3, o->limit);
    const sae_status status = add_rows(list, c, s, false, err);
    (void)sqlite3_finalize(s);
    return status;
}

sae_status sae_catalog_list(sae_features **out, sae_catalog *c, const sae_list_options *opt, sae_error *err)
{
    sae_list_options o;
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_list: out is NULL");
    *out = NULL;
    if (!c)
        return saei_fail(err, SAE_E_ARG, "sae_catalog_list: catalog is NULL");
    sae_status status = read_options(&o, opt, err);
    if (status)
        return status;
    sae_features *list = saei_features_new(c->env, (size_t)o.limit);
    if (!list)
        return no_memory(err);
    saei_lock_take(&c->lock);
    status = list_page(list, c, &o, err);
    saei_lock_give(&c->lock);
    return give(out, list, status, err);
}
#endif
