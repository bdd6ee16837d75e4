/* What the formats have in common: which rows are wanted, examples that come one by one, writing. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "features.h"
#include "labels.h"

enum { MOST_ROWS = 1000 }; /* that wait to be written together */

void labels_start(labels *l, int32_t d_sae)
{
    l->d_sae = d_sae;
    l->file = l->path;
    l->entry = -1;
    l->taken = take_zeros((size_t)d_sae / 8 + 1, 1);
    l->explainers = json_object();
}

void labels_end(labels *l)
{
    free(l->taken);
    free(l->first_source);
    json_decref(l->explainers);
    vocabulary_free(&l->words);
}

void labels_fail(const labels *l, const char *fmt, ...)
{
    char why[2 * WHY_BYTES], line[40] = "", entry[40] = "";
    va_list rest;
    va_start(rest, fmt);
    vsnprintf(why, sizeof why, fmt, rest);
    va_end(rest);
    for (char *c = why; *c != '\0'; c++) { /* it may quote the file */
        *c = (unsigned char)*c < ' ' || *c == 0x7f ? ' ' : *c;
    }
    sae_catalog_free(l->catalog);
    if (l->made) {
        unlink(l->path);
    }
    if (l->line > 0) {
        snprintf(line, sizeof line, " line %lld", (long long)l->line);
    }
    if (l->line > 0 && l->entry >= 0) {
        snprintf(entry, sizeof entry, ", entry %lld", (long long)l->entry);
    }
    die("%s:%s%s%s %s", l->file, line, entry, l->line > 0 ? ":" : "", why);
}

void labels_skip(labels *l, label_skip why)
{
    l->skipped[why]++;
}

bool labels_wanted(labels *l, const char *source)
{
    l->read++;
    if (source == NULL) {
        return true;
    }
    if (l->first_source == NULL) {
        l->first_source = take_text(source);
    }
    if (l->source != NULL) {
        bool same = strcmp(source, l->source) == 0;
        l->skipped[SKIP_SOURCE] += !same;
        return same;
    }
    if (strcmp(source, l->first_source) != 0) {
        labels_fail(l, "this is of '%s', what came before of '%s': --source NAME takes those of one", source, l->first_source);
    }
    return true;
}

static void expect_id(const labels *l, int32_t id)
{
    if (id < 0 || id >= l->d_sae) {
        labels_fail(l, "there is no feature %d, this SAE has 0 .. %d", id, l->d_sae - 1);
    }
}

static void count(labels *l, int32_t id)
{
    unsigned char *byte = &l->taken[id / 8], bit = (unsigned char)(1u << id % 8);
    l->features += (*byte & bit) == 0;
    *byte |= bit;
}

static void write_line(labels *l, feature_line *line)
{
    sae_error err = {.struct_size = sizeof err};
    sae_features *old = NULL;
    int32_t id = line->feature.id;
    expect_id(l, id);
    if (sae_catalog_get(&old, l->catalog, &id, 1, &err)) {
        labels_fail(l, "%s", err.text);
    }
    sae_feature known = {.density = (double)NAN, .mean = (double)NAN, .max = (double)NAN};
    if (sae_features_count(old) > 0) {
        known = features_at(old, 0);
    }
    feature_line_fill(line, &known);
    if (sae_catalog_put(l->catalog, &line->feature, &err)) {
        labels_fail(l, "%s", err.text);
    }
    sae_features_free(old);
    feature_line_free(line);
    count(l, id);
}

void labels_put(labels *l, feature_line *line)
{
    write_line(l, line);
    l->imported++;
}

void labels_put_label(labels *l, json_t *root, int32_t id, const char *label)
{
    feature_line line = feature_line_start(root);
    line.feature.id = id;
    line.feature.label = label;
    line.has_label = true;
    labels_put(l, &line);
}

/* ---- examples ---- */

bool labels_add(const labels *l, feature_line *line, const sae_example *e)
{
    if (!(example_peak(e) > 0.0f)) { /* not where the feature is active */
        free((void *)(uintptr_t)e->tokens);
        return false;
    }
    if (line->examples == NULL) {
        line->examples = take((size_t)l->examples, sizeof *line->examples);
        line->most_examples = l->examples;
    }
    double peak = (double)example_peak(e);
    bool full = line->n_examples == l->examples;
    sae_example out = full ? line->examples[l->examples - 1] : (sae_example){0};
    if (examples_insert(line->examples, &line->n_examples, l->examples, e) < 0) {
        out = *e;
    }
    free((void *)(uintptr_t)out.tokens);
    line->feature.examples = line->examples;
    line->feature.n_examples = line->n_examples;
    line->feature.max = fmax(line->feature.max, peak);
    return true;
}

void labels_join(labels *l, json_t *row, int32_t id, const sae_example *e)
{
    expect_id(l, id);
    if (l->rows != NULL && (l->joined.feature.id != id || json_array_size(l->rows) >= MOST_ROWS)) {
        labels_flush(l);
    }
    if (l->rows == NULL) {
        l->rows = json_array();
        l->joined = feature_line_start(l->rows);
        l->joined.feature.id = id;
        l->joined.feature.model_id = json_string_value(member(row, "modelId"));
        l->joined.feature.layer = json_string_value(member(row, "layer"));
    }
    json_array_append(l->rows, row);
    bool active = labels_add(l, &l->joined, e);
    l->imported += active;
    l->skipped[SKIP_INACTIVE] += !active;
}

void labels_flush(labels *l)
{
    if (l->rows != NULL) {
        write_line(l, &l->joined);
        json_decref(l->rows);
        l->rows = NULL;
    }
}
