#include "io/json_build.h"

#include <string.h>

#include "io/sort.h"

bool saei_build_begin(saei_build *b, saei_json *out, const saei_host *host, size_t bytes)
{
    *b = (saei_build){.json = out, .host = host};
    out->strings_bytes = bytes;
    out->strings = b->string = saei_alloc(host, bytes);
    return b->string != NULL;
}

bool saei_build_fail(saei_build *b, const char *wrong)
{
    b->wrong = wrong;
    return false;
}

static bool grow(saei_build *b)
{
    saei_json *json = b->json;
    const uint32_t room = json->room ? 2 * json->room : 64;
    if (json->n >= SAEI_JSON_VALUES)
        return saei_build_fail(b, "the text holds more values than any checkpoint needs");
    saei_json_value *v = saei_alloc(b->host, room * sizeof *v);
    if (!v)
        return saei_build_fail(b, NULL);
    if (json->n)
        memcpy(v, json->v, json->n * sizeof *v);
    saei_dealloc(b->host, json->v, json->room * sizeof *v);
    json->v = v;
    json->room = room;
    return true;
}

saei_json_value *saei_build_push(saei_build *b, saei_json_type type)
{
    saei_json *json = b->json;
    if (json->n == json->room && !grow(b))
        return NULL;
    saei_json_value *v = &json->v[json->n++];
    *v = (saei_json_value){.type = (uint32_t)type, .next = json->n, .at = (uint32_t)b->at};
    return v;
}

bool saei_build_open(saei_build *b, saei_json_type type)
{
    if (b->depth == SAEI_JSON_DEPTH)
        return saei_build_fail(b, "more than 64 arrays and objects inside each other");
    b->open[b->depth] = b->json->n;
    if (!saei_build_push(b, type))
        return false;
    b->depth++;
    return true;
}

void saei_build_close(saei_build *b)
{
    b->json->v[b->open[--b->depth]].next = b->json->n;
}

/* ---- duplicate keys ---- */

static int by_string(const void *arg, uint32_t a, uint32_t b)
{
    const saei_json_value *v = arg;
    const int order = strcmp(v[a].string, v[b].string);
    return order ? order : v[a].at < v[b].at ? -1 : v[a].at > v[b].at;
}

/* In one object. `ids` has room for the keys of any. */
static uint32_t repeated_key(const saei_json *json, uint32_t object, uint32_t *ids)
{
    const saei_json_value *v = json->v;
    uint32_t key = object + 1;
    for (uint32_t i = 0; i < v[object].n; i++, key = v[key + 1].next)
        ids[i] = key;
    saei_sort(ids, v[object].n, by_string, v);
    for (uint32_t i = 1; i < v[object].n; i++)
        if (strcmp(v[ids[i]].string, v[ids[i - 1]].string) == 0)
            return ids[i];
    return 0;
}

/* Index of a key that its object has had before, 0 for none; false without memory. */
static bool find_repeated(saei_build *b, uint32_t *repeated)
{
    const saei_json *json = b->json;
    uint32_t most = 0;
    for (uint32_t i = 0; i < json->n; i++)
        if (json->v[i].type == SAEI_JSON_OBJECT && json->v[i].n > most)
            most = json->v[i].n;
    uint32_t *ids = saei_alloc(b->host, most * sizeof *ids);
    if (!ids)
        return most == 0 || saei_build_fail(b, NULL);
    for (uint32_t i = 0; i < json->n && !*repeated; i++)
        if (json->v[i].type == SAEI_JSON_OBJECT)
            *repeated = repeated_key(json, i, ids);
    saei_dealloc(b->host, ids, most * sizeof *ids);
    return true;
}

/* ---- the end ---- */

typedef struct place {
    size_t line, column;
} place;

static place place_of(const char *text, size_t at)
{
    place found = {1, 1};
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n')
            found = (place){found.line + 1, 1};
        else if (((unsigned char)text[i] & 0xc0) != 0x80)
            found.column++;
    }
    return found;
}

sae_status saei_build_end(saei_build *b, bool read, const char *text, size_t bytes, const char *format, const char *what, sae_error *err)
{
    uint32_t repeated = 0;
    char name[SAEI_SHOWN];
    sae_status status = SAE_OK;
    read = read && find_repeated(b, &repeated);
    const place found = place_of(text, repeated ? b->json->v[repeated].at : b->at);
    if (!read && !b->wrong)
        status = saei_fail(err, SAE_E_NOMEM, "no memory to read %s (%zu bytes)", what, bytes);
    else if (!read)
        status =
            saei_fail(err, SAE_E_FORMAT, "%s is not valid %s: line %zu, column %zu: %s", what, format, found.line, found.column, b->wrong);
    else if (repeated)
        status = saei_fail(err, SAE_E_FORMAT, "%s has the key \"%s\" twice, again at line %zu, column %zu", what,
                           saei_show(name, b->json->v[repeated].string), found.line, found.column);
    if (status)
        saei_json_free(b->json, b->host);
    return status;
}
