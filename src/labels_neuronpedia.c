/* Neuronpedia: rows of features, explanations and activations, by lines or in a list, and the lines that `sae catalog export` writes.
 * The rows are those of neuronpedia_utils/export-data.py in github.com/hijohnnylin/neuronpedia at 1a80fe9; the list is what its site
 * lets one download. `index` is a text there, `layer` names the SAE, and activations of one feature need not follow each other. */
#include <string.h>

#include "labels.h"

static bool is_row(const json_t *value)
{
    return json_object_get(value, "index") != NULL;
}

static bool fits(const labels *l, const json_t *value)
{
    (void)l;
    return is_row(value) || is_row(json_array_get(value, 0));
}

/* Is a label by whom we were asked to take labels from? Counts whose they are. */
static bool is_explainer(labels *l, const json_t *row)
{
    const char *model = json_string_value(member(row, "explanationModelName")), *type = json_string_value(member(row, "typeName"));
    char name[200];
    if ((model == NULL && type == NULL) || member(row, "description") == NULL) {
        return true;
    }
    if (l->explainer != NULL && (model == NULL || strcmp(model, l->explainer) != 0) && (type == NULL || strcmp(type, l->explainer) != 0)) {
        return false;
    }
    snprintf(name, sizeof name, "%s%s%s", model != NULL ? model : "", model != NULL && type != NULL ? ", " : "", type != NULL ? type : "");
    json_object_set_new(l->explainers, name, json_integer(json_integer_value(json_object_get(l->explainers, name)) + 1));
    return true;
}

static void take_activation(labels *l, json_t *row)
{
    char why[WHY_BYTES];
    int32_t id;
    sae_example e;
    if (!member_whole(&id, row, "index", why) || !member_example(&e, row, "", why)) {
        labels_fail(l, "%s", why);
    }
    if (id < 0) {
        labels_fail(l, "key 'index' is missing");
    }
    labels_join(l, row, id, &e);
}

/* What the site's API tells of a feature has its explanations in a list: the first is the label. */
static void add_label(feature_line *line, const json_t *row)
{
    const char *label = json_string_value(member(json_array_get(member(row, "explanations"), 0), "description"));
    if (!line->has_label && label != NULL) {
        line->feature.label = label;
        line->has_label = true;
    }
}

/* Our own lines, which have their examples in a list, may be of several SAEs unless one is asked for: what was exported is imported. */
static const char *source_of(const labels *l, const json_t *row)
{
    bool whole = l->source == NULL && json_is_array(member(row, "activations"));
    return whole ? NULL : json_string_value(member(row, "layer"));
}

static void take_row(labels *l, json_t *row)
{
    char why[WHY_BYTES];
    feature_line line;
    if (!labels_wanted(l, source_of(l, row))) {
        return;
    }
    if (!is_explainer(l, row)) {
        labels_skip(l, SKIP_EXPLAINER);
    } else if (member(row, "tokens") != NULL || member(row, "values") != NULL) {
        take_activation(l, row);
    } else if (!feature_line_read(&line, row, why)) {
        labels_fail(l, "%s", why);
    } else {
        add_label(&line, row);
        labels_put(l, &line);
    }
}

static void take_value(labels *l, json_t *value)
{
    size_t i;
    json_t *row;
    if (!json_is_array(value) || l->values > 1) {
        take_row(l, value);
        return;
    }
    json_array_foreach(value, i, row)
    {
        l->entry = (int64_t)i;
        take_row(l, row);
    }
    l->entry = -1;
}

const label_format labels_neuronpedia = {"neuronpedia", "Neuronpedia's rows have a key 'index'", fits, take_value};
