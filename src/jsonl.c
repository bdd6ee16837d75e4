#include "jsonl.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ---- */

bool wrong(char why[WHY_BYTES], const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, WHY_BYTES, fmt, args);
    va_end(args);
    return false;
}

json_t *member(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

bool member_text(const char **out, const json_t *root, const char *key, char why[WHY_BYTES])
{
    json_t *value = member(root, key);
    *out = value != NULL ? json_string_value(value) : NULL;
    return value == NULL || *out != NULL || wrong(why, "key '%s' is no text", key);
}

bool member_number(double *out, const json_t *root, const char *key, char why[WHY_BYTES])
{
    json_t *value = member(root, key);
    *out = value != NULL ? json_number_value(value) : (double)NAN;
    return value == NULL || json_is_number(value) || wrong(why, "key '%s' is no number", key);
}

bool text_whole(int32_t *out, const char *text)
{
    int64_t n = 0;
    const char *c = text;
    for (; *c >= '0' && *c <= '9' && n <= INT32_MAX; c++) {
        n = 10 * n + (*c - '0');
    }
    *out = n <= INT32_MAX ? (int32_t)n : -1;
    return c != text && *c == '\0' && n <= INT32_MAX;
}

bool member_whole(int32_t *out, const json_t *root, const char *key, char why[WHY_BYTES])
{
    json_t *value = member(root, key);
    json_int_t n = json_integer_value(value);
    *out = -1;
    if (value == NULL || (json_is_string(value) && text_whole(out, json_string_value(value)))) {
        return true;
    }
    if (!json_is_integer(value) || n < 0 || n > INT32_MAX) {
        return wrong(why, "key '%s' is no whole number in 0 .. %d", key, INT32_MAX);
    }
    *out = (int32_t)n;
    return true;
}

bool member_tokens(sae_token **out, int32_t *n, const json_t *object, const char *texts_key, const char *values_key, const char *where,
                   char why[WHY_BYTES])
{
    json_t *texts = member(object, texts_key), *values = member(object, values_key);
    *out = NULL;
    *n = 0;
    if (texts == NULL && values == NULL) {
        return true;
    }
    if (!json_is_array(texts) || !json_is_array(values)) {
        return wrong(why, "key '%s%s' is no list", where, json_is_array(texts) ? values_key : texts_key);
    }
    if (json_array_size(texts) != json_array_size(values) || json_array_size(texts) > INT32_MAX) {
        return wrong(why, "key '%s%s' has %zu entries, '%s' has %zu", where, values_key, json_array_size(values), texts_key,
                     json_array_size(texts));
    }
    *n = (int32_t)json_array_size(texts);
    *out = take((size_t)*n, sizeof **out);
    for (int32_t i = 0; i < *n; i++) {
        json_t *text = json_array_get(texts, (size_t)i), *value = json_array_get(values, (size_t)i);
        (*out)[i] = (sae_token){.text = json_string_value(text), .value = (float)json_number_value(value)};
        if ((*out)[i].text == NULL) {
            return wrong(why, "key '%s%s': entry %d is no text", where, texts_key, i);
        }
        if (!json_is_number(value) || !isfinite((*out)[i].value)) {
            return wrong(why, "key '%s%s': entry %d is no number that float32 can hold", where, values_key, i);
        }
    }
    return true;
}

int32_t tokens_peak(const sae_token *tokens, int32_t n)
{
    int32_t best = n > 0 ? 0 : -1;
    for (int32_t i = 1; i < n; i++) {
        best = tokens[i].value > tokens[best].value ? i : best;
    }
    return best;
}

bool member_example(sae_example *out, const json_t *object, const char *where, char why[WHY_BYTES])
{
    sae_token *tokens;
    int32_t n, peak;
    if (!json_is_object(object)) {
        *out = (sae_example){0};
        return wrong(why, "key 'activations': an entry is no object");
    }
    bool good = member_tokens(&tokens, &n, object, "tokens", "values", where, why);
    *out = (sae_example){.tokens = tokens, .n_tokens = n}; /* also when it is wrong: it will be freed */
    if (!good || !member_whole(&peak, object, "maxValueTokenIndex", why) || !member_whole(&out->document, object, "document", why) ||
        !member_whole(&out->position, object, "position", why)) {
        return false;
    }
    out->peak = peak >= 0 ? peak : tokens_peak(tokens, n);
    return out->peak < n || wrong(why, "key '%smaxValueTokenIndex' is %d, there are %d tokens", where, peak, n);
}

static bool get_examples(feature_line *out, char why[WHY_BYTES])
{
    json_t *list = member(out->root, "activations");
    if (list == NULL) {
        return true;
    }
    if (!json_is_array(list) || json_array_size(list) > INT32_MAX) {
        return wrong(why, "key 'activations' is no list");
    }
    int32_t n = (int32_t)json_array_size(list);
    out->has_examples = true;
    out->examples = take((size_t)n, sizeof *out->examples);
    for (int32_t i = 0; i < n; i++) {
        char where[40];
        snprintf(where, sizeof where, "activations[%d].", i);
        out->feature.n_examples = out->n_examples = i + 1;
        if (!member_example(&out->examples[i], json_array_get(list, (size_t)i), where, why)) {
            return false;
        }
    }
    out->feature.examples = out->examples;
    return true;
}

static bool get_all(feature_line *out, char why[WHY_BYTES])
{
    sae_feature *f = &out->feature;
    json_t *root = out->root;
    if (!member_whole(&f->id, root, "index", why) || !member_text(&f->label, root, "description", why) ||
        !member_text(&f->model_id, root, "modelId", why) || !member_text(&f->layer, root, "layer", why) ||
        !member_number(&f->density, root, "frac_nonzero", why) || !member_number(&f->mean, root, "mean", why) ||
        !member_number(&f->max, root, "maxActApprox", why) ||
        !member_tokens(&out->promoted, &f->n_promoted, root, "pos_str", "pos_values", "", why) ||
        !member_tokens(&out->suppressed, &f->n_suppressed, root, "neg_str", "neg_values", "", why) || !get_examples(out, why)) {
        return false;
    }
    out->has_label = f->label != NULL;
    return f->id >= 0 || wrong(why, "key 'index' is missing");
}

feature_line feature_line_start(json_t *root)
{
    feature_line line = {.feature = {.struct_size = sizeof line.feature, .density = (double)NAN, .mean = (double)NAN, .max = (double)NAN}};
    line.root = json_incref(root);
    return line;
}

bool feature_line_read(feature_line *out, json_t *root, char why[WHY_BYTES])
{
    *out = feature_line_start(root);
    if (!json_is_object(root)) {
        return wrong(why, "it is no JSON object");
    }
    return get_all(out, why);
}

float example_peak(const sae_example *e)
{
    return e->peak >= 0 && e->peak < e->n_tokens ? e->tokens[e->peak].value : -INFINITY;
}

static bool same_example(const sae_example *a, const sae_example *b)
{
    bool same = a->n_tokens == b->n_tokens;
    for (int32_t i = 0; same && i < a->n_tokens; i++) {
        same = a->tokens[i].value == b->tokens[i].value && strcmp(a->tokens[i].text, b->tokens[i].text) == 0;
    }
    return same;
}

int32_t examples_insert(sae_example *best, int32_t *n, int32_t most, const sae_example *e)
{
    int32_t at = *n;
    for (int32_t i = 0; i < *n; i++) {
        if (same_example(&best[i], e)) {
            return -1;
        }
    }
    while (at > 0 && example_peak(&best[at - 1]) < example_peak(e)) {
        at--;
    }
    if (at >= most) {
        return -1;
    }
    *n = *n < most ? *n + 1 : most;
    memmove(best + at + 1, best + at, (size_t)(*n - 1 - at) * sizeof *best);
    best[at] = *e;
    return at;
}

/* The strongest of what the catalog has and what the line has. */
static void merge_examples(feature_line *line, const sae_feature *old)
{
    sae_feature *f = &line->feature;
    int32_t n = 0;
    line->merged = take((size_t)line->most_examples, sizeof *line->merged);
    for (int32_t i = 0; i < old->n_examples; i++) {
        examples_insert(line->merged, &n, line->most_examples, &old->examples[i]);
    }
    for (int32_t i = 0; i < f->n_examples; i++) {
        examples_insert(line->merged, &n, line->most_examples, &f->examples[i]);
    }
    f->examples = line->merged;
    f->n_examples = n;
    f->max = fmax(f->max, old->max);
}

void feature_line_fill(feature_line *line, const sae_feature *old)
{
    sae_feature *f = &line->feature;
    f->label = line->has_label ? f->label : old->label;
    f->model_id = f->model_id != NULL ? f->model_id : old->model_id;
    f->layer = f->layer != NULL ? f->layer : old->layer;
    f->density = isnan(f->density) ? old->density : f->density;
    f->mean = isnan(f->mean) ? old->mean : f->mean;
    f->max = isnan(f->max) ? old->max : f->max;
    f->n_promoted = line->promoted != NULL ? f->n_promoted : old->n_promoted;
    f->promoted = line->promoted != NULL ? line->promoted : old->promoted;
    f->n_suppressed = line->suppressed != NULL ? f->n_suppressed : old->n_suppressed;
    f->suppressed = line->suppressed != NULL ? line->suppressed : old->suppressed;
    if (line->most_examples > 0) {
        merge_examples(line, old);
    } else if (!line->has_examples) {
        f->examples = old->examples;
        f->n_examples = old->n_examples;
    }
}

void feature_line_free(feature_line *line)
{
    for (int32_t i = 0; i < line->n_examples; i++) {
        free((void *)(uintptr_t)line->examples[i].tokens);
    }
    free(line->examples);
    free(line->merged);
    free(line->promoted);
    free(line->suppressed);
    json_decref(line->root);
}

/* ---- writing ---- */

static void write_text(FILE *out, const char *text)
{
    json_t *value = json_string(text);
    if (value == NULL || json_dumpf(value, out, JSON_ENCODE_ANY) != 0) {
        die("cannot write JSON");
    }
    json_decref(value);
}

/* The shortest of `least` .. `most` digits that reads back as the same number; -0 as a number that is no integer, so that its sign stays. */
static void write_digits(FILE *out, double value, int least, int most, bool is_float)
{
    char text[32];
    for (int digits = least; digits <= most; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (is_float ? strtof(text, NULL) == (float)value : strtod(text, NULL) == value) {
            break;
        }
    }
    fputs(strcmp(text, "-0") == 0 ? "-0.0" : text, out);
}

static void write_number(FILE *out, const char *key, double value)
{
    if (!isnan(value)) {
        fprintf(out, ", \"%s\": ", key);
        write_digits(out, value, 15, 17, false);
    }
}

static void write_tokens(FILE *out, const char *texts_key, const char *values_key, const sae_token *tokens, int32_t n)
{
    fprintf(out, "\"%s\": [", texts_key);
    for (int32_t i = 0; i < n; i++) {
        fputs(i > 0 ? ", " : "", out);
        write_text(out, tokens[i].text);
    }
    fprintf(out, "], \"%s\": [", values_key);
    for (int32_t i = 0; i < n; i++) {
        fputs(i > 0 ? ", " : "", out);
        write_digits(out, (double)tokens[i].value, 6, 9, true);
    }
    fputs("]", out);
}

/* What reading would add by itself is not written. */
static void write_example(FILE *out, const sae_example *e)
{
    fputs("{", out);
    write_tokens(out, "tokens", "values", e->tokens, e->n_tokens);
    if (e->peak >= 0 && e->peak != tokens_peak(e->tokens, e->n_tokens)) {
        fprintf(out, ", \"maxValueTokenIndex\": %d", e->peak);
    }
    if (e->document >= 0) {
        fprintf(out, ", \"document\": %d", e->document);
    }
    if (e->position >= 0) {
        fprintf(out, ", \"position\": %d", e->position);
    }
    fputs("}", out);
}

static void write_name(FILE *out, const char *key, const char *text)
{
    if (text != NULL) {
        fprintf(out, ", \"%s\": ", key);
        write_text(out, text);
    }
}

void feature_line_write(FILE *out, const sae_feature *f)
{
    fprintf(out, "{\"index\": %d", f->id);
    write_name(out, "modelId", f->model_id);
    write_name(out, "layer", f->layer);
    write_name(out, "description", f->label);
    write_number(out, "frac_nonzero", f->density);
    write_number(out, "mean", f->mean);
    write_number(out, "maxActApprox", f->max);
    fputs(", ", out);
    write_tokens(out, "pos_str", "pos_values", f->promoted, f->n_promoted);
    fputs(", ", out);
    write_tokens(out, "neg_str", "neg_values", f->suppressed, f->n_suppressed);
    fputs(", \"activations\": [", out);
    for (int32_t i = 0; i < f->n_examples; i++) {
        fputs(i > 0 ? ", " : "", out);
        write_example(out, &f->examples[i]);
    }
    fputs("]}\n", out);
}
