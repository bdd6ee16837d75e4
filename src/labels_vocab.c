/* The texts of token ids, for files that have ids alone. */
#include <stdlib.h>

#include "labels.h"

enum { MOST_WORDS = 1 << 24 };

static bool put_word(vocabulary *v, json_int_t id, const char *text)
{
    if (id < 0 || id >= MOST_WORDS || text == NULL) {
        return false;
    }
    if (id >= v->n) {
        int32_t n = (int32_t)id + 1;
        v->texts = retake(v->texts, (size_t)n, sizeof *v->texts);
        for (; v->n < n; v->n++) {
            v->texts[v->n] = NULL;
        }
    }
    v->texts[id] = text;
    return true;
}

/* A list of texts, or of lists that begin with one; an object of ids. */
static bool put_words(vocabulary *v, json_t *words)
{
    size_t i;
    const char *text;
    json_t *entry;
    json_array_foreach(words, i, entry)
    {
        if (!put_word(v, (json_int_t)i, json_string_value(json_is_array(entry) ? json_array_get(entry, 0) : entry))) {
            return false;
        }
    }
    json_object_foreach(words, text, entry)
    {
        if (!put_word(v, json_is_integer(entry) ? json_integer_value(entry) : -1, text)) {
            return false;
        }
    }
    return v->n > 0;
}

vocabulary vocabulary_read(const char *path)
{
    vocabulary v = {0};
    json_error_t error;
    v.root = json_load_file(path, 0, &error);
    if (v.root == NULL) {
        die("%s: line %d, column %d: %s", path, error.line, error.column, error.text);
    }
    size_t i;
    json_t *entry, *model = json_object_get(v.root, "model"), *added = json_object_get(v.root, "added_tokens");
    bool good = put_words(&v, json_is_object(model) ? json_object_get(model, "vocab") : v.root);
    json_array_foreach(json_is_object(model) ? added : NULL, i, entry)
    {
        const json_t *id = json_object_get(entry, "id");
        good &= put_word(&v, json_is_integer(id) ? json_integer_value(id) : -1, json_string_value(json_object_get(entry, "content")));
    }
    if (!good) {
        die("%s: it is no list of texts, no object with an id for each text, and no tokenizer.json", path);
    }
    return v;
}

void vocabulary_free(vocabulary *v)
{
    json_decref(v->root);
    free(v->texts);
}
