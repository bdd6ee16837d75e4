/* Fills a saei_json value by value: what the readers of JSON and YAML share. */
#ifndef SAEI_JSON_BUILD_H
#define SAEI_JSON_BUILD_H

#include "io/json.h"

typedef struct saei_build {
    saei_json *json;
    const saei_host *host;
    char *string;                   /* where the next decoded string goes */
    uint32_t open[SAEI_JSON_DEPTH]; /* containers around the place */
    uint32_t depth;
    size_t at;         /* the place in the text: of the next value, and of what is wrong */
    const char *wrong; /* what is wrong there; NULL: memory */
} saei_build;

/* Readies the tree for decoded strings of `bytes` in all, NULs included. */
bool saei_build_begin(saei_build *b, saei_json *out, const saei_host *host, size_t bytes);

/* Gives false, so that a reader can end with it. `wrong` is static; NULL: there is no memory. */
bool saei_build_fail(saei_build *b, const char *wrong);

/* Appends a value that begins at the place; its address holds until the next one. NULL after saei_build_fail. */
saei_json_value *saei_build_push(saei_build *b, saei_json_type type);

/* Opens an array or object; closes the innermost one. */
bool saei_build_open(saei_build *b, saei_json_type type);
void saei_build_close(saei_build *b);

/* The end of a reader: `read` says whether it came to the end of the text. Refuses keys that an object has twice, says what is wrong at which
 * line and column (both from 1, a column is a character), and then frees the tree. `format` is "JSON" or "YAML", `what` names the text.
 * Errors: SAE_E_FORMAT, SAE_E_NOMEM. */
sae_status saei_build_end(saei_build *b, bool read, const char *text, size_t bytes, const char *format, const char *what, sae_error *err);

#endif
