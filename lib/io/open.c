/* A path -> canonical parts. */
#include <string.h>

#include "io/detect.h"
#include "io/io.h"
#include "io/saelens.h"

/* cfg.json files are a few hundred bytes; the limit keeps a wrong file from being read whole. */
enum { LARGEST_CONFIG = 16 << 20 };

typedef struct opener {
    const saei_host *host;
    const sae_open_options *opt;
    saei_place place;
    saei_safetensors st;
    saei_json json;
    saei_saelens config;
    sae_error *err;
} opener;

static sae_status open_weights(saei_parts *parts, opener *o)
{
    const sae_status status = saei_file_open(&parts->file, o->host, o->place.weights, o->opt->copy == SAE_YES, o->err);
    if (status) {
        parts->file = (saei_file){.fd = -1};
        return status;
    }
    return saei_safetensors_read(&o->st, o->host, &parts->file, saei_base_name(o->place.weights), o->err);
}

static sae_status open_config(saei_parts *parts, opener *o)
{
    size_t bytes = 0;
    char *text = NULL;
    if (o->place.bare && saei_path_kind(o->place.config) < 0)
        return saei_fail(o->err, SAE_E_IO,
                         "%s is weights without a cfg.json beside it, which says the architecture: put the two into one folder",
                         saei_base_name(o->place.weights));
    sae_status status = saei_file_text(&text, &bytes, o->host, o->place.config, LARGEST_CONFIG, o->err);
    if (status)
        return status;
    status = saei_json_parse(&o->json, o->host, text, bytes, "cfg.json", o->err);
    if (!status && !(parts->config = saei_strdup(o->host, text)))
        status = saei_fail(o->err, SAE_E_NOMEM, "no memory for a copy of cfg.json (%zu bytes)", bytes);
    saei_dealloc(o->host, text, bytes + 1);
    return status ? status : saei_saelens_config(&o->config, &o->json, o->opt, o->err);
}

static sae_status copy_texts(saei_parts *parts, const opener *o)
{
    const struct {
        char **to;
        const char *from;
    } all[] = {{&parts->format, "saelens"},
               {&parts->format_version, o->config.version},
               {&parts->architecture, o->config.architecture},
               {&parts->model_name, o->config.model_name},
               {&parts->hook_name, o->config.hook_name},
               {&parts->path, o->place.weights}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!(*all[i].to = saei_strdup(o->host, all[i].from)))
            return saei_fail(o->err, SAE_E_NOMEM, "no memory for the texts of cfg.json");
    return SAE_OK;
}

/* A weights file that was named itself is looked at first, so that its own defect is what is said; in a folder the configuration decides
 * what the weights must be. */
static sae_status open_all(saei_parts *parts, opener *o)
{
    sae_status status = o->place.bare ? open_weights(parts, o) : open_config(parts, o);
    if (!status)
        status = o->place.bare ? open_config(parts, o) : open_weights(parts, o);
    if (!status)
        status = saei_saelens_tensors(parts, o->host, &o->config, &o->st, o->opt, saei_base_name(o->place.weights), o->err);
    return status ? status : copy_texts(parts, o);
}

sae_status saei_parts_open(saei_parts *out, const saei_host *host, const char *path, const sae_open_options *opt, sae_error *err)
{
    opener o = {.host = host, .opt = opt, .err = err};
    *out = (saei_parts){.file = {.fd = -1}};
    sae_status status = saei_place_find(&o.place, host, path, err);
    if (!status)
        status = open_all(out, &o);
    saei_json_free(&o.json, host);
    saei_safetensors_free(&o.st, host);
    saei_place_free(&o.place, host);
    if (status)
        saei_parts_free(out, host);
    return status;
}

void saei_parts_free(saei_parts *parts, const saei_host *host)
{
    float *const features[] = {parts->b_enc, parts->threshold, parts->b_gate, parts->b_mag, parts->r_mag, parts->dec_scale};
    char *const texts[] = {parts->format,    parts->format_version, parts->architecture, parts->model_name,
                           parts->hook_name, parts->path,           parts->config};
    for (size_t i = 0; i < sizeof features / sizeof *features; i++)
        saei_dealloc(host, features[i], (size_t)parts->d_sae * sizeof(float));
    saei_dealloc(host, parts->b_dec, (size_t)parts->d_out * sizeof(float));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        saei_strfree(host, texts[i]);
    for (int32_t i = 0; i < parts->n_warnings; i++)
        saei_strfree(host, parts->warnings[i]);
    saei_file_close(&parts->file, host);
    *parts = (saei_parts){.file = {.fd = -1}};
}
