#ifdef SAEI_SQLITE
#include "features/catalog.h"

#define COLUMNS "f.id, f.label, f.density, f.mean, f.max"

static const char *const texts[SAEI_N_STATEMENTS] = {
    [SAEI_GET_WORDS] = "SELECT label, body FROM feature WHERE id = ?1",
    /* An FTS5 table without content of its own forgets an entry when it is told again what the entry was. */
    [SAEI_DROP_WORDS] = "INSERT INTO words(words, rowid, label, tokens) VALUES ('delete', ?1, ?2, ?3)",
    [SAEI_PUT_WORDS] = "INSERT INTO words(rowid, label, tokens) VALUES (?1, ?2, ?3)",
    [SAEI_PUT] =
        "INSERT OR REPLACE INTO feature(id, label, density, mean, max, model_id, layer, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    [SAEI_GET] = "SELECT " COLUMNS ", 0, f.model_id, f.layer, f.body FROM feature f WHERE f.id = ?1",
    [SAEI_COUNT] = "SELECT count(*) FROM feature",
    [SAEI_BOUND] = "SELECT count(*), max(rowid) FROM (SELECT rowid FROM words WHERE words MATCH ?1 LIMIT ?2)",
    [SAEI_SEARCH] = "SELECT " COLUMNS ", s.r FROM (SELECT rowid AS id, saei_rank(words) AS r FROM words WHERE words MATCH ?1 "
                    "AND rowid <= ?2 ORDER BY r DESC, rowid LIMIT ?3) s CROSS JOIN feature f ON f.id = s.id ORDER BY s.r DESC, f.id",
};

sae_status saei_sql_fail(const sae_catalog *c, int rc, const char *doing, sae_error *err)
{
    const char *said = c->db ? sqlite3_errmsg(c->db) : sqlite3_errstr(rc);
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return saei_fail(err, SAE_E_BUSY, "%s is in use by another program, which did not finish within %d ms: try again later", c->path,
                         (int)c->wait_ms);
    case SQLITE_NOMEM:
        return saei_fail(err, SAE_E_NOMEM, "SQLite found no memory to %s %s", doing, c->path);
    case SQLITE_NOTADB:
        return saei_fail(err, SAE_E_FORMAT, "%s is no SQLite file, so it is no catalog", c->path);
    case SQLITE_CORRUPT:
    case SQLITE_ERROR: /* tables are checked when a file is opened, so it is the file that is wrong */
    case SQLITE_TOOBIG:
    case SQLITE_MISMATCH:
    case SQLITE_CONSTRAINT:
        return saei_fail(err, SAE_E_FORMAT, "%s is damaged (%s): get a good copy", c->path, said);
    case SQLITE_FULL:
        return saei_fail(err, SAE_E_IO, "cannot %s %s: the disk is full; nothing of the transaction is written", doing, c->path);
    default:
        return saei_fail(err, SAE_E_IO, "cannot %s %s: %s", doing, c->path, said);
    }
}

sqlite3_stmt *saei_sql(sae_catalog *c, saei_statement which)
{
    if (!c->statements[which])
        (void)sqlite3_prepare_v3(c->db, texts[which], -1, SQLITE_PREPARE_PERSISTENT, &c->statements[which], NULL);
    return c->statements[which];
}

void saei_sql_done(sqlite3_stmt *s)
{
    (void)sqlite3_reset(s);
    (void)sqlite3_clear_bindings(s);
}

int saei_sql_run(sae_catalog *c, const char *sql)
{
    return sqlite3_exec(c->db, sql, NULL, NULL, NULL);
}
#endif
