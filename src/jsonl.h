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
    sae_example *examples, *merged; /* of the line; with those of the catalog */
    int32_t n_examples;
    int32_t most_examples; /* 0: examples take the place of old ones; otherwise the strongest of both stay, at most so many */
    bool has_label, has_examples;
} feature_line;

enum { WHY_BYTES = 300 };

/* A line that says nothing yet; keeps `root` alive. */
feature_line feature_line_start(json_t *root);

/* Reads a line; false with the reason, which names the key, in `why`. Unknown keys are left alone, null is as good as absent. Free it
 * either way. */
bool feature_line_read(feature_line *out, json_t *root, char why[WHY_BYTES]);

/* What the line does not say is taken from `old`. */
void feature_line_fill(feature_line *line, const sae_feature *old);
void feature_line_free(feature_line *line);

/* Activation at the peak; less than any other when there is none. */
float example_peak(const sae_example *e);

/* Puts an example among the strongest, best first; where, or -1 when it is among them or too weak. The weakest of `most` falls out. */
int32_t examples_insert(sae_example *best, int32_t *n, int32_t most, const sae_example *e);

/* What an object says of a key: absent and null are NULL, NaN, -1 and no tokens; false with the reason in `why` when it is of another type.
 * A whole number may be a text, as Neuronpedia writes indices. Texts and values must be as many; `where` stands before their keys in
 * sentences, and the array is new memory, also when it is wrong. */
json_t *member(const json_t *object, const char *key);
bool member_text(const char **out, const json_t *object, const char *key, char why[WHY_BYTES]);
bool member_number(double *out, const json_t *object, const char *key, char why[WHY_BYTES]);
bool member_whole(int32_t *out, const json_t *object, const char *key, char why[WHY_BYTES]);
bool member_tokens(sae_token **out, int32_t *n, const json_t *object, const char *texts_key, const char *values_key, const char *where,
                   char why[WHY_BYTES]);

/* An example with Neuronpedia's names: tokens, values, maxValueTokenIndex, document, position. */
bool member_example(sae_example *out, const json_t *object, const char *where, char why[WHY_BYTES]);

/* A text that is a whole number, nothing but digits, of 32 bits. */
bool text_whole(int32_t *out, const char *text);

/* Index of the largest value; -1 = there is none. */
int32_t tokens_peak(const sae_token *tokens, int32_t n);

/* Puts a sentence into `why` and is false. */
__attribute__((format(printf, 2, 3))) bool wrong(char why[WHY_BYTES], const char *fmt, ...);

/* Writes a feature as a line. What it reads from such a line it writes again in the same bytes. */
void feature_line_write(FILE *out, const sae_feature *f);

#endif
