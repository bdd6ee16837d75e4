/* What commands print. */
#ifndef ENGINE_SHOW_H
#define ENGINE_SHOW_H

#include <jansson.h>

#include "program.h"

/* The bytes that tokens add to a text. */
void show_bytes(const engine_tokenizer *t, const int32_t *tokens, int32_t n);

/* A table of the watched features over the first n positions of a sequence; nothing where none is watched. */
void show_seen(const program *p, int32_t sequence, const int32_t *tokens, int32_t n);

json_t *json_tokens(const int32_t *tokens, int32_t n);

/* The text of tokens; bytes that are no UTF-8 become U+FFFD. */
json_t *json_text(const engine_tokenizer *t, const int32_t *tokens, int32_t n);

/* {"hook_name", "features", "values": [position][feature]} */
json_t *json_seen(const program *p, int32_t sequence, int32_t n);

/* Prints the object and releases it; NULL stands for memory that was not there. */
bool show_json_object(json_t *object, engine_error *err);

#endif
