/* SAEDashboard and sae_vis. Read from sae_dashboard 0.8.0 and sae_vis 0.2.19:
 * batch-N.json of neuronpedia/neuronpedia_dashboard.py: {model_id, layer, sae_set, sae_id_suffix, features: [{feature_index, pos_str, ...}]};
 * SaeVisData.save_json of sae_vis_data.py: {feature_data_dict: {id: {logits_table_data, sequence_data, ...}}, feature_stats}, whose
 * tokens are ids. sae_vis 0.3 writes HTML alone. */
#include <math.h>
#include <string.h>

#include "labels.h"

static bool fits(const labels *l, const json_t *value)
{
    (void)l;
    return json_is_object(json_object_get(value, "feature_data_dict")) ||
           (json_is_array(json_object_get(value, "features")) && json_object_get(value, "sae_set") != NULL);
}

static void add(const labels *l, feature_line *line, sae_token *tokens, int32_t n)
{
    sae_example e = {.tokens = tokens, .n_tokens = n, .peak = tokens_peak(tokens, n), .document = -1, .position = -1};
    labels_add(l, line, &e);
}

/* ---- batches for Neuronpedia ---- */

/* Neuronpedia's name of the SAE: "12-gemmascope-res-16k", with a suffix behind two underscores. */
static const char *source_of(char out[300], const labels *l, const json_t *root)
{
    char why[WHY_BYTES];
    const char *set, *suffix;
    int32_t layer;
    if (!member_text(&set, root, "sae_set", why) || !member_text(&suffix, root, "sae_id_suffix", why) ||
        !member_whole(&layer, root, "layer", why)) {
        labels_fail(l, "%s", why);
    }
    if (set == NULL || *set == '\0' || layer < 0) {
        return NULL;
    }
    snprintf(out, 300, "%d-%.120s%s%.120s", layer, set, suffix != NULL ? "__" : "", suffix != NULL ? suffix : "");
    return out;
}

static bool read_batch_feature(const labels *l, feature_line *line, json_t *root, char why[WHY_BYTES])
{
    sae_feature *f = &line->feature;
    size_t i;
    json_t *entry;
    sae_token *tokens;
    int32_t n;
    if (!json_is_object(root)) {
        return wrong(why, "it is no JSON object");
    }
    if (!member_whole(&f->id, root, "feature_index", why) || !member_number(&f->density, root, "frac_nonzero", why) ||
        !member_tokens(&line->promoted, &f->n_promoted, root, "pos_str", "pos_values", "", why) ||
        !member_tokens(&line->suppressed, &f->n_suppressed, root, "neg_str", "neg_values", "", why)) {
        return false;
    }
    json_array_foreach(json_object_get(root, "activations"), i, entry)
    {
        if (!member_tokens(&tokens, &n, entry, "tokens", "values", "activations.", why)) {
            return false;
        }
        add(l, line, tokens, n);
    }
    return f->id >= 0 || wrong(why, "key 'feature_index' is missing");
}

static void take_batch(labels *l, json_t *root)
{
    char why[WHY_BYTES], name[300];
    const char *source = source_of(name, l, root), *model;
    size_t i;
    json_t *entry;
    if (!member_text(&model, root, "model_id", why)) {
        labels_fail(l, "%s", why);
    }
    json_array_foreach(json_object_get(root, "features"), i, entry)
    {
        l->entry = (int64_t)i;
        if (!labels_wanted(l, source)) {
            continue;
        }
        feature_line line = feature_line_start(entry);
        line.feature.model_id = model;
        line.feature.layer = source;
        if (!read_batch_feature(l, &line, entry, why)) {
            labels_fail(l, "%s", why);
        }
        labels_put(l, &line);
    }
}

/* ---- what SaeVisData.save_json writes ---- */

/* Token ids and numbers, of which the vocabulary makes texts; none when there is no vocabulary. */
static bool member_ids(labels *l, sae_token **out, int32_t *n, const json_t *object, const char *ids_key, const char *values_key,
                       char why[WHY_BYTES])
{
    json_t *ids = member(object, ids_key), *values = member(object, values_key);
    *out = NULL;
    *n = 0;
    if (ids == NULL || values == NULL || l->words.n == 0) {
        l->wordless |= l->words.n == 0 && json_array_size(ids) > 0;
        return true;
    }
    if (!json_is_array(ids) || !json_is_array(values) || json_array_size(ids) != json_array_size(values) ||
        json_array_size(ids) > SAE_MOST_TOKENS) {
        return wrong(why, "keys '%s' and '%s' are no lists of as many entries, at most %d", ids_key, values_key, SAE_MOST_TOKENS);
    }
    *n = (int32_t)json_array_size(ids);
    *out = take((size_t)*n, sizeof **out);
    for (int32_t i = 0; i < *n; i++) {
        json_t *id = json_array_get(ids, (size_t)i), *value = json_array_get(values, (size_t)i);
        json_int_t word = json_is_integer(id) ? json_integer_value(id) : -1;
        (*out)[i].value = (float)json_number_value(value);
        (*out)[i].reserved = 0;
        if (word < 0 || word >= l->words.n || l->words.texts[word] == NULL) {
            return wrong(why, "key '%s': entry %d is no token of --vocab, which has 0 .. %d", ids_key, i, l->words.n - 1);
        }
        if (!json_is_number(value) || !isfinite((*out)[i].value)) {
            return wrong(why, "key '%s': entry %d is no number that float32 can hold", values_key, i);
        }
        (*out)[i].text = l->words.texts[word];
    }
    return true;
}

static bool read_sequences(labels *l, feature_line *line, const json_t *data, char why[WHY_BYTES])
{
    size_t i, k;
    json_t *group, *sequence;
    json_array_foreach(json_object_get(data, "seq_group_data"), i, group)
    {
        json_array_foreach(json_object_get(group, "seq_data"), k, sequence)
        {
            sae_token *tokens;
            int32_t n;
            if (!member_ids(l, &tokens, &n, sequence, "token_ids", "feat_acts", why)) {
                return false;
            }
            add(l, line, tokens, n);
        }
    }
    return true;
}

/* An entry of a list of statistics, one for each feature. */
static double statistic(const json_t *stats, const char *key, size_t i, size_t n)
{
    const json_t *list = json_object_get(stats, key), *value = json_array_get(list, i);
    return json_array_size(list) == n && json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static void take_vis(labels *l, json_t *root)
{
    char why[WHY_BYTES];
    const char *key;
    json_t *entry, *all = json_object_get(root, "feature_data_dict"), *stats = json_object_get(root, "feature_stats");
    l->entry = -1;
    json_object_foreach(all, key, entry)
    {
        l->entry++;
        labels_wanted(l, NULL);
        feature_line line = feature_line_start(root);
        sae_feature *f = &line.feature;
        const json_t *logits = json_object_get(entry, "logits_table_data");
        if (!text_whole(&f->id, key)) {
            labels_fail(l, "key '%.80s' of 'feature_data_dict' is no whole number", key);
        }
        f->density = statistic(stats, "frac_nonzero", (size_t)l->entry, json_object_size(all));
        f->max = statistic(stats, "max", (size_t)l->entry, json_object_size(all));
        if (!member_ids(l, &line.promoted, &f->n_promoted, logits, "top_token_ids", "top_logits", why) ||
            !member_ids(l, &line.suppressed, &f->n_suppressed, logits, "bottom_token_ids", "bottom_logits", why) ||
            !read_sequences(l, &line, json_object_get(entry, "sequence_data"), why)) {
            labels_fail(l, "%s", why);
        }
        labels_put(l, &line);
    }
}

static void take_value(labels *l, json_t *root)
{
    if (json_is_object(json_object_get(root, "feature_data_dict"))) {
        take_vis(l, root);
    } else if (json_is_array(json_object_get(root, "features"))) {
        take_batch(l, root);
    } else {
        labels_fail(l, "there is no key 'feature_data_dict' or 'features'");
    }
    l->entry = -1;
}

const label_format labels_dashboard = {"sae-dashboard", "those of SAEDashboard 'feature_data_dict', or 'features' and 'sae_set'", fits,
                                       take_value};
