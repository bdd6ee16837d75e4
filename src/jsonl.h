/* A feature as one line of JSON, with Neuronpedia's names. */
#ifndef TOOL_JSONL_H
#define TOOL_JSONL_H

#include <jansson.h>
#include <sae.h>

#include "say.h"

/* What a line says. The texts lie in `root`, the arrays are the line's own. */
typedef struct feature_line {
    sae_feature feature;
    json_t *root;
    sae_token *promoted, *suppressed;
    sae_example *examples;
    bool has_label, has_promoted, has_suppressed, has_examples;
} feature_line;

enum { WHY_BYTES = 300 };

/* Reads a line; false with the reason, which names the key, in `why`. Unknown keys are left alone, null is as good as absent. Free it
 * either way. */
bool feature_line_read(feature_line *out, const char *text, size_t bytes, char why[WHY_BYTES]);

/* What the line does not say is taken from `old`. */
void feature_line_fill(feature_line *line, const sae_feature *old);
void feature_line_free(feature_line *line);

/* Writes a feature as a line. What it reads from such a line it writes again in the same bytes. */
void feature_line_write(FILE *out, const sae_feature *f);

#endif
