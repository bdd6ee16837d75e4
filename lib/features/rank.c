#ifdef SAEI_SQLITE
#include <math.h>

#include "features/catalog.h"

/* BM25 as FTS5's own function computes it, but for one thing: how many features hold a phrase is counted in the first SAEI_MOST_RANKED that
 * do, and taken further from there. Counting on takes longer than all the rest for a word that half a million features hold. */

enum { LABEL }; /* the first column; the other has the tokens */
#define K1 1.2
#define B 0.75
#define LABEL_WEIGHT 10.0

/* What is the same for all features of a query. */
typedef struct query {
    double average; /* words of a feature */
    double idf[];   /* of each phrase */
} query;

typedef struct counter {
    sqlite3_int64 n, last; /* features that hold a phrase, and the id of the last of them */
} counter;

static int count_one(const Fts5ExtensionApi *api, Fts5Context *fts, void *user)
{
    counter *c = user;
    c->n++;
    c->last = api->xRowid(fts);
    return c->n < SAEI_MOST_RANKED ? SQLITE_OK : SQLITE_DONE;
}

/* A phrase of the query in `total` features: rarer is worth more. */
static int phrase_idf(double *out, const Fts5ExtensionApi *api, Fts5Context *fts, int phrase, double total)
{
    counter c = {0, 0};
    const int rc = api->xQueryPhrase(fts, phrase, &c, count_one);
    /* ids are below d_sae, and a catalog usually holds all of them */
    const double further = c.n < SAEI_MOST_RANKED ? (double)c.n : (double)c.n * total / (double)(c.last + 1);
    const double n = further < total ? further : total, idf = log((total - n + 0.5) / (n + 0.5));
    *out = idf > 1e-6 ? idf : 1e-6;
    return rc;
}

static int query_new(query **out, const Fts5ExtensionApi *api, Fts5Context *fts)
{
    const int n = api->xPhraseCount(fts);
    sqlite3_int64 rows = 0, words = 0;
    query *q = sqlite3_malloc64(sizeof *q + (sqlite3_uint64)n * sizeof *q->idf);
    if (!q)
        return SQLITE_NOMEM;
    int rc = api->xRowCount(fts, &rows);
    rc = rc ? rc : api->xColumnTotalSize(fts, -1, &words);
    q->average = rows > 0 && words > 0 ? (double)words / (double)rows : 1.0;
    for (int i = 0; i < n && !rc; i++)
        rc = phrase_idf(&q->idf[i], api, fts, i, (double)rows);
    if (rc) {
        sqlite3_free(q);
        return rc;
    }
    *out = q;
    return api->xSetAuxdata(fts, q, sqlite3_free); /* frees it when it fails */
}

/* How often phrase `wanted` stands in the feature, a label's words counted more. */
static int frequency(double *out, const Fts5ExtensionApi *api, Fts5Context *fts, int wanted)
{
    int n = 0, rc = api->xInstCount(fts, &n);
    *out = 0.0;
    for (int i = 0; i < n && !rc; i++) {
        int phrase, column, offset;
        rc = api->xInst(fts, i, &phrase, &column, &offset);
        if (!rc && phrase == wanted)
            *out += column == LABEL ? LABEL_WEIGHT : 1.0;
    }
    return rc;
}

static int score(double *out, const query *q, const Fts5ExtensionApi *api, Fts5Context *fts)
{
    int words = 0, rc = api->xColumnSize(fts, -1, &words);
    const double length = K1 * (1.0 - B + B * words / q->average);
    *out = 0.0;
    for (int i = 0; i < api->xPhraseCount(fts) && !rc; i++) {
        double f;
        rc = frequency(&f, api, fts, i);
        *out += q->idf[i] * f * (K1 + 1.0) / (f + length);
    }
    return rc;
}

static void rank(const Fts5ExtensionApi *api, Fts5Context *fts, sqlite3_context *result, int n, sqlite3_value **values)
{
    (void)n;
    (void)values;
    double value = 0.0;
    int rc = SQLITE_OK;
    query *q = api->xGetAuxdata(fts, 0);
    if (!q)
        rc = query_new(&q, api, fts);
    rc = rc ? rc : score(&value, q, api, fts);
    if (rc)
        sqlite3_result_error_code(result, rc);
    else
        sqlite3_result_double(result, value);
}

/* The way to FTS5's functions: https://www.sqlite.org/fts5.html#extending_fts5 */
int saei_rank_register(sqlite3 *db)
{
    fts5_api *api = NULL;
    sqlite3_stmt *s;
    int rc = sqlite3_prepare_v2(db, "SELECT fts5(?1)", -1, &s, NULL);
    if (rc)
        return rc;
    (void)sqlite3_bind_pointer(s, 1, &api, "fts5_api_ptr", NULL);
    (void)sqlite3_step(s);
    rc = sqlite3_finalize(s);
    return rc ? rc : !api ? SQLITE_ERROR : api->xCreateFunction(api, "saei_rank", NULL, rank, NULL);
}
#endif
