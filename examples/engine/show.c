#include "show.h"
#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

void show_bytes(const engine_tokenizer *t, const int32_t *tokens, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        size_t bytes;
        const char *text = engine_token_bytes(t, tokens[i], &bytes);
        fwrite(text, 1, bytes, stdout);
    }
}

void show_seen(const program *p, int32_t sequence, const int32_t *tokens, int32_t n)
{
    const options *o = &p->opt;
    if (!o->n_watch)
        return;
    printf("%8s  %-16s", "position", "token");
    for (int32_t k = 0; k < o->n_watch; k++)
        printf("  f%-9d", o->watch[k]);
    printf("  (%s)\n", engine_sae_hook_name(p->sae));
    for (int32_t i = 0; i < n; i++) {
        const float *seen = engine_sae_seen(p->sae, sequence, i);
        printf("%8d  %-16s", i, engine_token_name(p->tokenizer, tokens[i]));
        for (int32_t k = 0; k < o->n_watch; k++)
            printf("  %-10.4g", (double)seen[k]);
        printf("\n");
    }
}

json_t *json_tokens(const int32_t *tokens, int32_t n)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(tokens[i]));
    return list;
}

/* Copies valid characters and replaces each byte that begins none. `out` has room for three times the bytes. */
static size_t mend(char *out, const char *text, size_t n)
{
    size_t to = 0;
    for (size_t at = 0, end = 0; at < n; at = end) {
        engine_utf8_next(text, n, &end);
        const bool good = engine_utf8_valid(text + at, end - at);
        end = good ? end : at + 1;
        memcpy(out + to, good ? text + at : "\xef\xbf\xbd", good ? end - at : 3);
        to += good ? end - at : 3;
    }
    return to;
}

json_t *json_text(const engine_tokenizer *t, const int32_t *tokens, int32_t n)
{
    size_t bytes = 0, each;
    for (int32_t i = 0; i < n; i++) {
        engine_token_bytes(t, tokens[i], &each);
        bytes += each;
    }
    char *text = malloc(4 * bytes + 1), *mended = text + bytes;
    if (!text)
        return NULL;
    bytes = 0;
    for (int32_t i = 0; i < n; i++) {
        const char *piece = engine_token_bytes(t, tokens[i], &each);
        memcpy(text + bytes, piece, each);
        bytes += each;
    }
    json_t *out = json_stringn(mended, mend(mended, text, bytes));
    free(text);
    return out;
}

json_t *json_seen(const program *p, int32_t sequence, int32_t n)
{
    json_t *features = json_tokens(p->opt.watch, p->opt.n_watch), *values = json_array();
    for (int32_t i = 0; i < n; i++) {
        const float *seen = engine_sae_seen(p->sae, sequence, i);
        json_t *row = json_array();
        for (int32_t k = 0; k < p->opt.n_watch; k++)
            json_array_append_new(row, json_real((double)seen[k]));
        json_array_append_new(values, row);
    }
    return json_pack("{s:s, s:o, s:o}", "hook_name", engine_sae_hook_name(p->sae), "features", features, "values", values);
}

bool show_json_object(json_t *object, engine_error *err)
{
    if (!object)
        return engine_fail(err, "no memory for the JSON of the result");
    const bool ok = !json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    printf("\n");
    json_decref(object);
    return ok || engine_fail(err, "cannot write to standard output");
}
