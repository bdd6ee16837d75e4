/* Inside of catalogs: the handle, the packed form of tokens and examples, words, and lists. Only this folder includes sqlite3.h. */
#ifndef SAEI_CATALOG_H
#define SAEI_CATALOG_H

#include <sqlite3.h>

#include "env/env.h"
#include "sae/features.h"

/* Statements that are prepared once and kept. */
typedef enum saei_statement {
    SAEI_GET_WORDS, /* what was indexed for a feature */
    SAEI_DROP_WORDS,
    SAEI_PUT_WORDS,
    SAEI_PUT,
    SAEI_GET,
    SAEI_COUNT,
    SAEI_BOUND,
    SAEI_SEARCH,
    SAEI_N_STATEMENTS
} saei_statement;

/* Bytes that grow: a packed body, words for the index. */
typedef struct saei_bytes {
    unsigned char *p;
    size_t n, room;
    bool failed; /* no memory; what was added since is missing */
} saei_bytes;

struct sae_catalog {
    sae_env *env;
    saei_lock lock; /* one call at a time */
    sqlite3 *db;
    sqlite3_stmt *statements[SAEI_N_STATEMENTS]; /* NULL until first used */
    char *path, *model_name, *hook_name;
    int32_t d_in, d_sae, access, wait_ms;
    uint8_t fingerprint[16];
    saei_bytes body, words, old; /* scratch of put and search */
};

/* ---- bytes.c ---- */

void saei_bytes_add(saei_bytes *b, const saei_host *host, const void *p, size_t n);
void saei_bytes_text(saei_bytes *b, const saei_host *host, const char *s); /* without the NUL */
void saei_bytes_free(saei_bytes *b, const saei_host *host);

/* ---- schema.c ---- */

enum { SAEI_SCHEMA = 1 };

/* What makes a fresh connection safe against what a file says. */
sae_status saei_harden(sae_catalog *c, sae_error *err);

/* Writes tables and what the catalog says of itself into an empty file. */
sae_status saei_schema_write(sae_catalog *c, sae_error *err);

/* Checks that a file is a catalog of a schema this library knows, by the very text of its tables, and reads what it says of itself. */
sae_status saei_schema_read(sae_catalog *c, sae_error *err);

/* ---- rank.c ---- */

/* Matches that are ranked and counted; of more, the first. */
enum { SAEI_MOST_RANKED = 10000 };

/* Makes saei_rank(words) known to a connection: how well a match fits the query, higher is better. */
int saei_rank_register(sqlite3 *db);

/* ---- sql.c ---- */

/* Status and sentence for what SQLite answered; `doing` is "read", "write to", "open". */
sae_status saei_sql_fail(const sae_catalog *c, int rc, const char *doing, sae_error *err);

/* A kept statement, reset, without bindings; NULL when it cannot be prepared. */
sqlite3_stmt *saei_sql(sae_catalog *c, saei_statement which);

/* Resets it so that it holds no lock and no borrowed text. */
void saei_sql_done(sqlite3_stmt *s);

int saei_sql_run(sae_catalog *c, const char *sql);

/* ---- body.c ---- */

/* Appends tokens and examples of a feature whose counts and pointers have been checked. */
void saei_body_pack(saei_bytes *out, const saei_host *host, const sae_feature *f);

/* ---- words.c ---- */

/* Appends the words of a UTF-8 text as the index takes them: what is written without spaces, or with particles attached, as pairs of
 * neighbouring syllables, so that any part of it can be found. */
void saei_words(saei_bytes *out, const saei_host *host, const char *text);

/* What a feature must hold: all words of a query themselves; all of them, or words that they begin; any of these. */
typedef enum saei_match { SAEI_EXACT, SAEI_ALL, SAEI_ANY } saei_match;

/* Appends an FTS5 expression for the words of a query. Nothing when there is nothing to look for. */
void saei_words_query(saei_bytes *out, const saei_host *host, const char *query, saei_match match);

/* ---- list.c ---- */

/* Memory that goes all at once. */
typedef struct saei_pile {
    const saei_host *host;
    struct saei_chunk *chunks;
} saei_pile;

void *saei_pile_take(saei_pile *a, size_t bytes);
void saei_pile_free(saei_pile *a);

/* An empty list with room for `room` features. */
sae_features *saei_features_new(sae_env *env, size_t room);

/* Appends the row at which `s` stands: id, label, density, mean, max, score, and when `whole` model_id, layer, body. */
sae_status saei_features_add(sae_features *list, sqlite3_stmt *s, bool whole, sae_error *err);

/* Reads a packed body into f; memory from the arena. SAE_E_FORMAT when it cannot be one. */
sae_status saei_body_unpack(sae_feature *f, saei_pile *a, const void *body, size_t bytes, sae_error *err);

#endif
