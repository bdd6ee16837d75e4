/* A folder of activation shards: rows of activations with the token, document and position of each, and the vocabulary. */
#ifndef TOOL_SHARDS_H
#define TOOL_SHARDS_H

#include <jansson.h>

#include "rows.h"

/* A token of a text: as it lies in the file. */
typedef struct place {
    int32_t token, document, position;
} place;

typedef struct shards {
    char *folder;
    json_t *root, *vocab;
    const char *hook_name;
    int64_t d_in, n_rows;
    int32_t n_vocab;
    float *unembed; /* [n_vocab][d_in] or NULL */
    size_t next;    /* shard to be opened */
    bool open;
    char *rows_path, *places_path;
    rows rows;
    input *places;
} shards;

/* Opens the folder and checks its list. `d` is the d_in that its rows must have. */
shards shards_open(const char *folder, int64_t d);

/* Reads up to n rows of one shard and their places: how many, 0 at the end. The rows' dtype is s->rows.dtype. */
int64_t shards_get(shards *s, void *x, place *places, int64_t n);

const char *shards_word(const shards *s, int32_t token);

void shards_close(shards *s);

#endif
