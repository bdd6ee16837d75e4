/* Delphi, read from eai-delphi 0.1.3: delphi/__main__.py writes explanations/MODULE_latentN.txt with a JSON text, and
 * scores/SCORER/MODULE_latentN.txt, where of detection and fuzz each entry has str_tokens and activations (scorers/classifier/sample.py).
 * The feature's number is in the name of the file alone. Before 0.1, latents were called features. */
#include <string.h>

#include "labels.h"

/* Splits "layers.5_latent12.txt" into the module, which is the source, and the number. */
static bool split_name(char source[200], int32_t *id, const char *path)
{
    static const char *const words[] = {"_latent", "_feature"};
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    size_t n = strlen(name);
    char digits[16];
    for (int i = 0; i < 2; i++) {
        const char *last = NULL;
        for (const char *at = name; (at = strstr(at, words[i])) != NULL; at++) {
            last = at;
        }
        const char *from = last != NULL ? last + strlen(words[i]) : NULL;
        if (from == NULL || n < 4 || strcmp(name + n - 4, ".txt") != 0 || (size_t)(name + n - 4 - from) >= sizeof digits) {
            continue;
        }
        snprintf(digits, sizeof digits, "%.*s", (int)(name + n - 4 - from), from);
        snprintf(source, 200, "%.*s", (int)(last - name), name);
        return text_whole(id, digits) && last - name < 200;
    }
    return false;
}

static bool fits(const labels *l, const json_t *value)
{
    char source[200];
    int32_t id;
    return split_name(source, &id, l->file) && (json_is_string(value) || json_is_array(value));
}

/* Entries without tokens and activations are those of other scorers. */
static void take_scores(labels *l, json_t *list, int32_t id)
{
    char why[WHY_BYTES];
    size_t i;
    json_t *entry;
    feature_line line = feature_line_start(list);
    line.feature.id = id;
    json_array_foreach(list, i, entry)
    {
        sae_token *tokens;
        int32_t n;
        l->entry = (int64_t)i;
        if (!json_is_true(json_object_get(entry, "activating"))) {
            continue;
        }
        if (!member_tokens(&tokens, &n, entry, "str_tokens", "activations", "", why)) {
            labels_fail(l, "%s", why);
        }
        sae_example e = {.tokens = tokens, .n_tokens = n, .peak = tokens_peak(tokens, n), .document = -1, .position = -1};
        labels_add(l, &line, &e);
    }
    l->entry = -1;
    if (line.n_examples > 0) {
        labels_put(l, &line);
    } else {
        labels_skip(l, SKIP_INACTIVE);
        feature_line_free(&line);
    }
}

static void take_value(labels *l, json_t *value)
{
    char source[200];
    int32_t id;
    const char *label = json_string_value(value);
    if (!split_name(source, &id, l->file)) {
        labels_fail(l, "the name of the file does not end with _latentN.txt");
    }
    if (!labels_wanted(l, source)) {
        return;
    }
    if (json_is_array(value)) {
        take_scores(l, value, id);
    } else if (label == NULL) {
        labels_fail(l, "it is no text in quotes");
    } else if (*label == '\0' || strcmp(label, "Explanation could not be parsed.") == 0) {
        labels_skip(l, SKIP_LABEL);
    } else {
        labels_put_label(l, value, id, label);
    }
}

const label_format labels_delphi = {"delphi", "those of Delphi are called MODULE_latentN.txt", fits, take_value};
