#include "features.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "report.h"

static sae_catalog *open_for(const session *s, const char *path, bool force, int32_t access)
{
    sae_error err = {.struct_size = sizeof err};
    sae_catalog_options opt = {.struct_size = sizeof opt, .access = access, .model = s->model, .force = force ? SAE_YES : SAE_NO};
    sae_catalog *catalog;
    expect_ok(sae_catalog_open(&catalog, s->env, path, &opt, &err), &err, path);
    return catalog;
}

sae_catalog *features_open(const session *s, const char *path, bool force)
{
    return open_for(s, path, force, SAE_CATALOG_READ);
}

sae_catalog *features_open_or_create(const session *s, const char *path, bool force, bool *made)
{
    sae_error err = {.struct_size = sizeof err};
    sae_catalog *catalog;
    *made = access(path, F_OK) != 0 && errno == ENOENT;
    if (!*made) {
        return open_for(s, path, force, SAE_CATALOG_WRITE);
    }
    expect_ok(sae_catalog_create(&catalog, s->env, path, s->model, &err), &err, path);
    return catalog;
}

sae_feature features_at(const sae_features *list, int64_t i)
{
    sae_feature f = {.struct_size = sizeof f};
    sae_features_at(list, i, &f);
    return f;
}

json_t *feature_json(const sae_feature *f)
{
    return json_pack("{s:i, s:o, s:o, s:o, s:o}", "feature", f->id, "label", report_text(f->label), "density", report_number(f->density),
                     "mean", report_number(f->mean), "max", report_number(f->max));
}

const char *feature_label(char out[128], const sae_feature *f)
{
    size_t n = strlen(f->label) < 127 ? strlen(f->label) : 127;
    while (n > 0 && ((unsigned char)f->label[n] & 0xc0) == 0x80) {
        n--; /* not in the middle of a character */
    }
    memcpy(out, f->label, n);
    out[n] = '\0';
    for (char *c = out; *c != '\0'; c++) {
        *c = (unsigned char)*c < ' ' || *c == 0x7f ? ' ' : *c;
    }
    return n > 0 ? out : "(no label)";
}
