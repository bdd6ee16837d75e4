#include "shards.h"

#include <stdlib.h>
#include <string.h>

static const char *text_of(const shards *s, const char *key)
{
    const char *text = json_string_value(json_object_get(s->root, key));
    if (text == NULL) {
        die("%s/shards.json: key '%s' is missing or no text", s->folder, key);
    }
    return text;
}

/* The path of a file of the folder; a name that leads out of it is refused. New memory. */
static char *path_of(const shards *s, const char *name)
{
    if (*name == '\0' || *name == '.' || strchr(name, '/') != NULL) {
        die("%s/shards.json: '%s' is not the name of a file in that folder", s->folder, name);
    }
    size_t bytes = strlen(s->folder) + strlen(name) + 2;
    char *path = take(bytes, 1);
    snprintf(path, bytes, "%s/%s", s->folder, name);
    return path;
}

static json_t *load(const char *path)
{
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL) {
        die("%s: line %d: %s", path, error.line, error.text);
    }
    return root;
}

static void read_vocab(shards *s)
{
    char *path = path_of(s, text_of(s, "vocab"));
    s->vocab = load(path);
    if (!json_is_array(s->vocab) || json_array_size(s->vocab) == 0 || json_array_size(s->vocab) > INT32_MAX) {
        die("%s: is no list of tokens", path);
    }
    s->n_vocab = (int32_t)json_array_size(s->vocab);
    for (int32_t i = 0; i < s->n_vocab; i++) {
        if (!json_is_string(json_array_get(s->vocab, (size_t)i))) {
            die("%s: entry %d is no text", path, i);
        }
    }
    free(path);
}

static void read_unembed(shards *s)
{
    if (json_object_get(s->root, "unembed") == NULL) {
        return;
    }
    char *path = path_of(s, text_of(s, "unembed"));
    input *in = input_open(path);
    const array *a = &in->arrays[input_choose(in, NULL, NULL)];
    if (a->type != ELEM_F32 || a->ndim != 2 || a->shape[0] != s->n_vocab || a->shape[1] != s->d_in) {
        die("%s: is %s of '%s', not the float32 [%d][%lld] of this vocabulary and d_in", path, array_shape(a).text, a->stored, s->n_vocab,
            (long long)s->d_in);
    }
    s->unembed = input_all(in, 0);
    input_close(in);
    free(path);
}

static json_t *entry_of(const shards *s, size_t i)
{
    return json_array_get(json_object_get(s->root, "shards"), i);
}

static int64_t rows_of(const shards *s, size_t i)
{
    json_t *n = json_object_get(entry_of(s, i), "rows");
    if (!json_is_integer(n) || json_integer_value(n) < 0 || json_integer_value(n) > INT64_MAX / 2 - s->n_rows) {
        die("%s/shards.json: shards[%zu]: key 'rows' is missing or no number of rows", s->folder, i);
    }
    return json_integer_value(n);
}

static void check_list(shards *s, int64_t d)
{
    const char *format = text_of(s, "format");
    json_int_t version = json_integer_value(json_object_get(s->root, "version"));
    if (strcmp(format, "libsae activations") != 0 || version != 1) {
        die("%s/shards.json: is '%s' version %lld; 'libsae activations' version 1 is read", s->folder, format, (long long)version);
    }
    s->hook_name = text_of(s, "hook_name");
    s->d_in = json_integer_value(json_object_get(s->root, "d_in"));
    if (s->d_in != d) {
        die("%s/shards.json: d_in is %lld, that of the SAE %lld", s->folder, (long long)s->d_in, (long long)d);
    }
    size_t n = json_array_size(json_object_get(s->root, "shards"));
    if (n == 0) {
        die("%s/shards.json: key 'shards' is missing or empty", s->folder);
    }
    for (size_t i = 0; i < n; i++) {
        s->n_rows += rows_of(s, i);
    }
}

shards shards_open(const char *folder, int64_t d)
{
    shards s = {.folder = take_text(folder)};
    char *path = path_of(&s, "shards.json");
    s.root = load(path);
    free(path);
    check_list(&s, d);
    read_vocab(&s);
    read_unembed(&s);
    return s;
}

static const char *name_of(const shards *s, size_t i, const char *key)
{
    const char *name = json_string_value(json_object_get(entry_of(s, i), key));
    if (name == NULL) {
        die("%s/shards.json: shards[%zu]: key '%s' is missing or no text", s->folder, i, key);
    }
    return name;
}

static void close_shard(shards *s)
{
    rows_close(&s->rows);
    input_close(s->places);
    free(s->rows_path);
    free(s->places_path);
    s->open = false;
}

/* False after the last. */
static bool open_shard(shards *s)
{
    if (s->next == json_array_size(json_object_get(s->root, "shards"))) {
        return false;
    }
    int64_t n = rows_of(s, s->next);
    s->rows_path = path_of(s, name_of(s, s->next, "activations"));
    s->places_path = path_of(s, name_of(s, s->next, "tokens"));
    s->next++;
    s->rows = rows_open(s->rows_path, NULL, 0, s->d_in, "d_in");
    s->places = input_open(s->places_path);
    int i = input_choose(s->places, NULL, NULL);
    const array *a = &s->places->arrays[i];
    if (s->rows.n_rows != n) {
        die("%s: has %lld rows, shards.json says %lld", s->rows_path, (long long)s->rows.n_rows, (long long)n);
    }
    if (a->type != ELEM_I32 || a->ndim != 2 || a->shape[0] != n || a->shape[1] != 3) {
        die("%s: is %s of '%s', not int32 [%lld][3]", s->places_path, array_shape(a).text, a->stored, (long long)n);
    }
    input_start(s->places, i);
    s->open = true;
    return true;
}

static void check_places(const shards *s, const place *places, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (places[i].token < 0 || places[i].token >= s->n_vocab || places[i].document < 0 || places[i].position < 0) {
            die("%s: row %lld is token %d, document %d, position %d; there are %d tokens", s->places_path,
                (long long)(s->rows.done - n + i), places[i].token, places[i].document, places[i].position, s->n_vocab);
        }
    }
}

int64_t shards_get(shards *s, void *x, place *places, int64_t n)
{
    for (;;) {
        if (!s->open && !open_shard(s)) {
            return 0;
        }
        int64_t got = rows_get(&s->rows, x, n);
        if (got > 0) {
            input_get(s->places, places, (size_t)got * sizeof *places);
            check_places(s, places, got);
            return got;
        }
        close_shard(s);
    }
}

const char *shards_word(const shards *s, int32_t token)
{
    return json_string_value(json_array_get(s->vocab, (size_t)token));
}

void shards_close(shards *s)
{
    if (s->open) {
        close_shard(s);
    }
    free(s->unembed);
    json_decref(s->vocab);
    json_decref(s->root);
    free(s->folder);
}
