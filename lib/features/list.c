#ifdef SAEI_SQLITE
#include <math.h>
#include <string.h>

#include "features/catalog.h"

/* ---- memory that goes all at once ---- */

typedef struct saei_chunk {
    struct saei_chunk *next;
    size_t bytes, used; /* both with this head */
} saei_chunk;

static saei_chunk *chunk_new(const saei_host *host, size_t bytes)
{
    enum { CHUNK = 1 << 16, HEAD = (sizeof(saei_chunk) + 63) & ~(size_t)63 };
    size_t room;
    if (!saei_add(&room, bytes, HEAD))
        return NULL;
    room = room < CHUNK ? CHUNK : room;
    saei_chunk *chunk = saei_alloc(host, room);
    if (chunk)
        *chunk = (saei_chunk){NULL, room, HEAD};
    return chunk;
}

void *saei_pile_take(saei_pile *a, size_t bytes)
{
    size_t n;
    if (!saei_add(&n, bytes, 15))
        return NULL;
    n &= ~(size_t)15;
    if (!a->chunks || a->chunks->bytes - a->chunks->used < n) {
        saei_chunk *chunk = chunk_new(a->host, n);
        if (!chunk)
            return NULL;
        chunk->next = a->chunks;
        a->chunks = chunk;
    }
    void *p = (unsigned char *)a->chunks + a->chunks->used;
    a->chunks->used += n;
    return p;
}

void saei_pile_free(saei_pile *a)
{
    for (saei_chunk *chunk = a->chunks, *next; chunk; chunk = next) {
        next = chunk->next;
        saei_dealloc(a->host, chunk, chunk->bytes);
    }
    a->chunks = NULL;
}

/* ---- lists ---- */

struct sae_features {
    sae_env *env;
    saei_pile arena; /* the list itself lies in it */
    sae_feature *items;
    size_t n;
};

sae_features *saei_features_new(sae_env *env, size_t room)
{
    saei_pile arena = {&env->host, NULL};
    sae_features *list = saei_pile_take(&arena, sizeof *list);
    sae_feature *items = saei_pile_take(&arena, room * sizeof *items);
    if (!list || !items) {
        saei_pile_free(&arena);
        return NULL;
    }
    *list = (sae_features){env, arena, items, 0};
    saei_env_take(env);
    return list;
}

void sae_features_free(sae_features *list)
{
    if (!list)
        return;
    sae_env *env = list->env;
    saei_pile arena = list->arena;
    saei_pile_free(&arena);
    sae_env_free(env);
}

int64_t sae_features_count(const sae_features *list)
{
    return list ? (int64_t)list->n : 0;
}

sae_status sae_features_at(const sae_features *list, int64_t i, sae_feature *out)
{
    if (!list || !out || i < 0 || (size_t)i >= list->n)
        return SAE_E_ARG;
    return saei_write_struct(out, &list->items[i], sizeof *out, "sae_feature", NULL);
}

/* ---- rows of a statement ---- */

static double statistic(sqlite3_stmt *s, int column)
{
    return sqlite3_column_type(s, column) == SQLITE_NULL ? (double)NAN : sqlite3_column_double(s, column);
}

/* A copy of a column's text; NULL for SQL's NULL. False for what is no text of ours. */
static bool text(const char **out, saei_pile *a, sqlite3_stmt *s, int column, bool *no_memory)
{
    *out = NULL;
    const char *from = (const char *)sqlite3_column_text(s, column);
    if (!from)
        return sqlite3_column_type(s, column) == SQLITE_NULL;
    const size_t n = (size_t)sqlite3_column_bytes(s, column);
    if (strlen(from) != n || !saei_utf8(from, n))
        return false;
    char *copy = saei_pile_take(a, n + 1);
    if ((*no_memory |= !copy))
        return false;
    *out = memcpy(copy, from, n + 1);
    return true;
}

sae_status saei_features_add(sae_features *list, sqlite3_stmt *s, bool whole, sae_error *err)
{
    enum { ID, LABEL, DENSITY, MEAN, MAX, SCORE, MODEL_ID, LAYER, BODY };
    sae_feature f = {.struct_size = sizeof f, .id = sqlite3_column_int(s, ID)};
    bool no_memory = false;
    if (!text(&f.label, &list->arena, s, LABEL, &no_memory) || !f.label ||
        (whole && (!text(&f.model_id, &list->arena, s, MODEL_ID, &no_memory) || !text(&f.layer, &list->arena, s, LAYER, &no_memory)))) {
        if (no_memory)
            return saei_fail(err, SAE_E_NOMEM, "no memory for the texts of feature %d", (int)f.id);
        return saei_fail(err, SAE_E_FORMAT, "a text of feature %d is not UTF-8: get a good copy of the catalog", (int)f.id);
    }
    f.density = statistic(s, DENSITY);
    f.mean = statistic(s, MEAN);
    f.max = statistic(s, MAX);
    f.score = sqlite3_column_double(s, SCORE);
    if (whole) {
        const void *body = sqlite3_column_blob(s, BODY);
        const sae_status status = saei_body_unpack(&f, &list->arena, body, (size_t)sqlite3_column_bytes(s, BODY), err);
        if (status)
            return status;
    }
    list->items[list->n++] = f; /* callers take no more rows than they made room for */
    return SAE_OK;
}
#endif
