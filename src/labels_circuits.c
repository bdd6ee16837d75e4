/* feature-circuits: annotations/NAME.jsonl of github.com/saprmarks/feature-circuits at 1d87366. A line has Name ("resid_3/12382", or
 * "embed/1425"), mostly also Component, Layer and Feature, which say the same, and Annotation where somebody wrote one; one file tells of
 * many SAEs. A feature that is annotated for several circuits comes several times: the last stays. Headings of the table that the files
 * were made from are among the lines. */
#include <string.h>

#include "labels.h"

static bool fits(const labels *l, const json_t *value)
{
    (void)l;
    return json_is_string(json_object_get(value, "Name")) &&
           (json_object_get(value, "Component") != NULL || json_object_get(value, "Annotation") != NULL);
}

static void take_line(labels *l, json_t *row)
{
    char why[WHY_BYTES], source[80];
    const char *name, *label;
    int32_t id;
    if (!json_is_object(row)) {
        labels_fail(l, "it is no JSON object");
    }
    if (!member_text(&name, row, "Name", why) || !member_text(&label, row, "Annotation", why)) {
        labels_fail(l, "%s", why);
    }
    const char *slash = name != NULL ? strrchr(name, '/') : NULL;
    if (slash == NULL || (size_t)(slash - name) >= sizeof source) {
        l->read++;
        labels_skip(l, SKIP_FEATURE);
        return;
    }
    snprintf(source, sizeof source, "%.*s", (int)(slash - name), name);
    if (!labels_wanted(l, source)) {
        return;
    }
    if (!text_whole(&id, slash + 1)) {
        labels_fail(l, "key 'Name' is '%.80s', which has no whole number after its last '/'", name);
    }
    if (label == NULL || *label == '\0') {
        labels_skip(l, SKIP_LABEL);
        return;
    }
    labels_put_label(l, row, id, label);
}

const label_format labels_circuits = {"feature-circuits", "those of feature-circuits have 'Name' and 'Annotation'", fits, take_line};
