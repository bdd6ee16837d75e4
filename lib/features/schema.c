#ifdef SAEI_SQLITE
#include <string.h>

#include "features/catalog.h"

enum { APPLICATION_ID = 0x53414566 }; /* "SAEf" */

/* Statistics that are unknown are NULL. `words` keeps no content: what is searched is derived from label and body (words.c). */
static const struct {
    const char *name, *sql;
} objects[] = {
    {"about", "CREATE TABLE about(key TEXT PRIMARY KEY, value) WITHOUT ROWID"},
    {"feature", "CREATE TABLE feature(id INTEGER PRIMARY KEY, label TEXT NOT NULL, density REAL, mean REAL, max REAL, model_id TEXT, "
                "layer TEXT, body BLOB NOT NULL)"},
    {"feature_density", "CREATE INDEX feature_density ON feature(density)"},
    {"feature_mean", "CREATE INDEX feature_mean ON feature(mean)"},
    {"feature_max", "CREATE INDEX feature_max ON feature(max)"},
    {"words", "CREATE VIRTUAL TABLE words USING fts5(label, tokens, content='', tokenize='unicode61', prefix='1 2 3')"},
};
enum { N_OBJECTS = sizeof objects / sizeof *objects };

/* Limits that no catalog of ours reaches, and switches for files from strangers (https://www.sqlite.org/security.html). */
static void limit(sqlite3 *db)
{
    static const struct {
        int id, most;
    } limits[] = {
        {SQLITE_LIMIT_LENGTH, 1 << 26},  {SQLITE_LIMIT_SQL_LENGTH, 1 << 16}, {SQLITE_LIMIT_COLUMN, 64},
        {SQLITE_LIMIT_EXPR_DEPTH, 64},   {SQLITE_LIMIT_COMPOUND_SELECT, 4},  {SQLITE_LIMIT_VDBE_OP, 25000},
        {SQLITE_LIMIT_FUNCTION_ARG, 8},  {SQLITE_LIMIT_ATTACHED, 0},         {SQLITE_LIMIT_VARIABLE_NUMBER, 16},
        {SQLITE_LIMIT_TRIGGER_DEPTH, 1}, {SQLITE_LIMIT_WORKER_THREADS, 0},
    };
    static const struct {
        int id, value;
    } switches[] = {
        {SQLITE_DBCONFIG_DEFENSIVE, 1},      {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0}, {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0}, {SQLITE_DBCONFIG_ENABLE_VIEW, 0},    {SQLITE_DBCONFIG_ENABLE_QPSG, 1},
    };
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        (void)sqlite3_limit(db, limits[i].id, limits[i].most);
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++)
        (void)sqlite3_db_config(db, switches[i].id, switches[i].value, NULL);
}

/* temp_store: no temporary files, whose folder SQLite would take from the environment. mmap_size: a file cut short meanwhile is an
 * error, not a signal. cache_size, in KiB: a writer that must spill pages in the middle of a transaction waits for the disk each time. */
sae_status saei_harden(sae_catalog *c, sae_error *err)
{
    limit(c->db);
    (void)sqlite3_busy_timeout(c->db, c->wait_ms);
    (void)sqlite3_extended_result_codes(c->db, 1);
    int rc = saei_sql_run(c, "PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA synchronous = FULL");
    rc = rc ? rc
            : saei_sql_run(c, c->access == SAE_CATALOG_READ ? "PRAGMA cache_size = -16384; PRAGMA query_only = ON"
                                                            : "PRAGMA cache_size = -65536");
    rc = rc ? rc : saei_rank_register(c->db);
    return rc ? saei_sql_fail(c, rc, "open", err) : SAE_OK;
}

/* ---- writing ---- */

static int put_value(sae_catalog *c, const char *key, const void *value, size_t bytes, int64_t number)
{
    sqlite3_stmt *s;
    int rc = sqlite3_prepare_v2(c->db, "INSERT INTO about VALUES (?1, ?2)", -1, &s, NULL);
    if (rc)
        return rc;
    (void)sqlite3_bind_text(s, 1, key, -1, SQLITE_STATIC);
    if (!value)
        (void)sqlite3_bind_int64(s, 2, number);
    else if (bytes)
        (void)sqlite3_bind_blob64(s, 2, value, bytes, SQLITE_STATIC);
    else
        (void)sqlite3_bind_text(s, 2, value, -1, SQLITE_STATIC);
    (void)sqlite3_step(s);
    return sqlite3_finalize(s);
}

static int put_about(sae_catalog *c)
{
    int rc = put_value(c, "model_name", c->model_name, 0, 0);
    rc = rc ? rc : put_value(c, "hook_name", c->hook_name, 0, 0);
    rc = rc ? rc : put_value(c, "d_in", NULL, 0, c->d_in);
    rc = rc ? rc : put_value(c, "d_sae", NULL, 0, c->d_sae);
    return rc ? rc : put_value(c, "fingerprint", c->fingerprint, sizeof c->fingerprint, 0);
}

sae_status saei_schema_write(sae_catalog *c, sae_error *err)
{
    char versions[80];
    (void)sqlite3_snprintf(sizeof versions, versions, "PRAGMA application_id = %d; PRAGMA user_version = %d", APPLICATION_ID, SAEI_SCHEMA);
    int rc = saei_sql_run(c, "BEGIN EXCLUSIVE");
    rc = rc ? rc : saei_sql_run(c, versions);
    for (size_t i = 0; i < N_OBJECTS && !rc; i++)
        rc = saei_sql_run(c, objects[i].sql);
    rc = rc ? rc : put_about(c);
    rc = rc ? rc : saei_sql_run(c, "COMMIT");
    return rc ? saei_sql_fail(c, rc, "write to", err) : SAE_OK;
}

/* ---- reading ---- */

static int one_number(sae_catalog *c, const char *sql, int64_t *out)
{
    sqlite3_stmt *s;
    int rc = sqlite3_prepare_v2(c->db, sql, -1, &s, NULL);
    if (rc)
        return rc;
    if (sqlite3_step(s) == SQLITE_ROW)
        *out = sqlite3_column_int64(s, 0);
    return sqlite3_finalize(s);
}

static sae_status check_versions(sae_catalog *c, sae_error *err)
{
    int64_t application = 0, schema = 0;
    int rc = one_number(c, "PRAGMA application_id", &application);
    rc = rc ? rc : one_number(c, "PRAGMA user_version", &schema);
    if (rc)
        return saei_sql_fail(c, rc, "read", err);
    if (application != APPLICATION_ID)
        return saei_fail(err, SAE_E_FORMAT, "%s is an SQLite file but no catalog: its application_id is 0x%08x, not 0x%08x", c->path,
                         (unsigned)application, (unsigned)APPLICATION_ID);
    if (schema > SAEI_SCHEMA)
        return saei_fail(err, SAE_E_VERSION, "%s has catalog schema %d, this libsae knows schemas up to %d: update libsae", c->path,
                         (int)schema, SAEI_SCHEMA);
    if (schema != SAEI_SCHEMA)
        return saei_fail(err, SAE_E_FORMAT, "%s has catalog schema %d, which never existed", c->path, (int)schema);
    return SAE_OK;
}

/* Which of our objects has this name; -1 when none has. */
static int object_of(const char *name)
{
    for (int i = 0; i < N_OBJECTS; i++)
        if (name && strcmp(objects[i].name, name) == 0)
            return i;
    return -1;
}

/* Views, triggers, and tables that differ in a letter from ours are refused; the tables behind `words` are FTS5's business. */
static sae_status check_objects(sae_catalog *c, sae_error *err)
{
    sqlite3_stmt *s;
    int found = 0, rc = sqlite3_prepare_v2(c->db, "SELECT name, sql FROM sqlite_schema WHERE name NOT GLOB 'words_*' OR type != 'table'",
                                           -1, &s, NULL);
    if (rc)
        return saei_sql_fail(c, rc, "read", err);
    sae_status status = SAE_OK;
    while (!status && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(s, 0), *sql = (const char *)sqlite3_column_text(s, 1);
        const int i = object_of(name);
        if (i < 0 || !sql || strcmp(sql, objects[i].sql) != 0)
            status = saei_fail(err, SAE_E_FORMAT, "%s holds '%.64s', which no catalog of schema %d has in this form: get a good copy",
                               c->path, name ? name : "", SAEI_SCHEMA);
        else
            found |= 1 << i;
    }
    (void)sqlite3_finalize(s);
    if (status)
        return status;
    if (rc != SQLITE_DONE)
        return saei_sql_fail(c, rc, "read", err);
    for (int i = 0; i < N_OBJECTS; i++)
        if (!(found & 1 << i))
            return saei_fail(err, SAE_E_FORMAT, "%s lacks '%s': get a good copy", c->path, objects[i].name);
    return SAE_OK;
}

/* A text that is said once; false when it is none, or when there is no memory. */
static bool take_text(char **out, sae_catalog *c, sqlite3_stmt *s, bool *no_memory)
{
    const char *text = (const char *)sqlite3_column_text(s, 1);
    if (*out || !text || sqlite3_column_type(s, 1) != SQLITE_TEXT || !saei_utf8(text, strlen(text)))
        return false;
    *out = saei_strdup(&c->env->host, text);
    *no_memory = !*out;
    return *out;
}

static bool positive_int(int32_t *out, sqlite3_stmt *s)
{
    const sqlite3_int64 n = sqlite3_column_int64(s, 1);
    *out = (int32_t)n;
    return sqlite3_column_type(s, 1) == SQLITE_INTEGER && n > 0 && n <= INT32_MAX;
}

/* One row of about; unknown keys are left alone. */
static bool take_about(sae_catalog *c, sqlite3_stmt *s, bool *no_memory)
{
    const char *key = (const char *)sqlite3_column_text(s, 0);
    if (!key)
        return false;
    if (strcmp(key, "model_name") == 0)
        return take_text(&c->model_name, c, s, no_memory);
    if (strcmp(key, "hook_name") == 0)
        return take_text(&c->hook_name, c, s, no_memory);
    if (strcmp(key, "d_in") == 0)
        return positive_int(&c->d_in, s);
    if (strcmp(key, "d_sae") == 0)
        return positive_int(&c->d_sae, s);
    if (strcmp(key, "fingerprint") == 0) {
        const void *blob = sqlite3_column_blob(s, 1);
        if (!blob || sqlite3_column_bytes(s, 1) != sizeof c->fingerprint)
            return false;
        memcpy(c->fingerprint, blob, sizeof c->fingerprint);
    }
    return true;
}

static sae_status read_about(sae_catalog *c, sae_error *err)
{
    sqlite3_stmt *s;
    int rc = sqlite3_prepare_v2(c->db, "SELECT key, value FROM about", -1, &s, NULL), n = 0;
    if (rc)
        return saei_sql_fail(c, rc, "read", err);
    bool good = true, no_memory = false;
    for (; good && (rc = sqlite3_step(s)) == SQLITE_ROW; n++)
        good = take_about(c, s, &no_memory);
    (void)sqlite3_finalize(s);
    if (no_memory)
        return saei_fail(err, SAE_E_NOMEM, "no memory for what %s says of itself", c->path);
    if (good && rc != SQLITE_DONE)
        return saei_sql_fail(c, rc, "read", err);
    if (!good || n < 5 || !c->model_name || !c->hook_name || c->d_in < 1 || c->d_sae < 1)
        return saei_fail(err, SAE_E_FORMAT,
                         "%s does not say which SAE it belongs to (model_name, hook_name, d_in, d_sae, fingerprint): get a good copy",
                         c->path);
    return SAE_OK;
}

sae_status saei_schema_read(sae_catalog *c, sae_error *err)
{
    sae_status status = check_versions(c, err);
    status = status ? status : check_objects(c, err);
    return status ? status : read_about(c, err);
}
#endif
