#include "io/source.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "io/sae_file.h"
#include "io/yaml.h"

/* Configurations are a few hundred bytes; the limit keeps a wrong file from being read whole. */
enum { LARGEST_CONFIG = 16 << 20 };

/* ---- files ---- */

/* folder + "/" + name, in memory of the opening; NULL without. */
static char *path_of(saei_source *s, const char *name)
{
    const size_t n = strlen(s->folder), tail = strlen(name);
    const bool slash = n && s->folder[n - 1] != '/';
    char *path = saei_arena_alloc(&s->memory, s->host, n + slash + tail + 1);
    if (!path)
        return NULL;
    memcpy(path, s->folder, n);
    if (slash)
        path[n] = '/';
    memcpy(path + n + slash, name, tail + 1);
    return path;
}

static sae_status no_memory(const saei_source *s, const char *what)
{
    return saei_fail(s->err, SAE_E_NOMEM, "no memory for %s", what);
}

/* A name with slashes is looked up; the folder's own names are known. */
bool saei_source_has(const saei_source *s, const char *name)
{
    char path[4096];
    if (strchr(name, '/')) {
        const int n = snprintf(path, sizeof path, "%s/%s", *s->folder ? s->folder : ".", name);
        return n > 0 && (size_t)n < sizeof path && saei_path_kind(path) >= 0;
    }
    for (uint32_t i = 0; i < s->n_names; i++)
        if (strcmp(s->names[i], name) == 0)
            return true;
    return false;
}

int32_t saei_number_in(const char *name, const char *before, const char *after)
{
    const size_t n = strlen(before);
    int32_t number = 0;
    if (strncmp(name, before, n) != 0)
        return -1;
    const char *at = name + n;
    for (; *at >= '0' && *at <= '9' && at - name < (ptrdiff_t)n + 9; at++)
        number = 10 * number + (*at - '0');
    return at > name + n && strcmp(at, after) == 0 ? number : -1;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

bool saei_ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), tail = strlen(end);
    return n >= tail && strcmp(name + n - tail, end) == 0;
}

/* By what the first bytes say. A legacy torch file is a pickle, whose first opcode is PROTO; a safetensors file has no mark. */
static sae_status read_container(saei_source *s, const saei_file *file, int32_t index, const char *name)
{
    const bool npz = saei_ends_with(name, ".npz"),
               torch = saei_ends_with(name, ".pt") || saei_ends_with(name, ".pth") || saei_ends_with(name, ".bin");
    const bool zip = file->bytes >= 4 && memcmp(file->data, "PK\3\4", 4) == 0;
    if (saei_ends_with(name, ".sae"))
        return saei_read_sae_sections(&s->store, s->host, file, index, name,
                                      s->opt->check == SAE_YES || (s->opt->check != SAE_NO && file->bytes <= SAEI_CHECKED_WHOLE), s->err);
    if (npz || (zip && !torch && !saei_ends_with(name, ".safetensors")))
        return saei_read_npz(&s->store, s->host, file, index, name, s->err);
    if (torch || zip)
        return saei_read_torch(&s->store, s->host, file, index, name, s->err);
    if (saei_ends_with(name, ".gguf") || (file->bytes >= 4 && memcmp(file->data, "GGUF", 4) == 0))
        return saei_read_gguf(&s->store, s->host, file, index, name, s->err);
    return saei_read_safetensors(&s->store, s->host, file, index, name, s->err);
}

sae_status saei_source_tensors(saei_source *s, const char *name)
{
    char *path = path_of(s, name);
    saei_file file;
    if (!path)
        return no_memory(s, "a path");
    for (uint32_t i = 0; i < s->n_opened; i++)
        if (strcmp(s->opened[i], path) == 0)
            return SAE_OK;
    if (saei_path_kind(path) == 1)
        return saei_fail(s->err, SAE_E_IO, "%s is a folder, it must be a file: %s", name, path);
    sae_status status = saei_file_open(&file, s->host, path, s->opt->copy == SAE_YES, s->err);
    if (status)
        return status;
    const char **opened = saei_arena_grow(&s->memory, s->host, s->opened, &s->room_opened, s->n_opened, sizeof *opened);
    if (!opened || !saei_parts_add_file(s->parts, s->host, &file)) {
        saei_file_close(&file, s->host);
        return no_memory(s, "a list of files");
    }
    s->file = base_name(path);
    s->opened = opened;
    s->opened[s->n_opened++] = path;
    return read_container(s, &file, (int32_t)s->parts->n_files - 1, base_name(name));
}

void saei_source_strip(saei_source *s, const char *prefix)
{
    const size_t n = strlen(prefix);
    for (uint32_t i = 0; i < s->store.n_arrays; i++)
        if (strncmp(s->store.arrays[i].name, prefix, n) == 0)
            s->store.arrays[i].name += n;
}

void saei_source_forget(saei_source *s)
{
    s->store.n_arrays = s->store.n_values = 0;
}

/* The files that an index of shards names: weight_map is an object of tensor name: file name. */
static sae_status read_shards(saei_source *s, const saei_json *index, const char *index_name)
{
    const uint32_t map = saei_json_member(index, 0, "weight_map");
    if (!map || index->v[map].type != SAEI_JSON_OBJECT)
        return saei_fail(s->err, SAE_E_FORMAT, "%s has no weight_map that says which file holds which tensor", index_name);
    for (uint32_t i = 0, key = map + 1; i < index->v[map].n; i++, key = index->v[key + 1].next) {
        const char *file = saei_json_string(index, key + 1);
        char shown[SAEI_SHOWN];
        if (!file || !*file || strchr(file, '/') || strcmp(file, "..") == 0)
            return saei_fail(s->err, SAE_E_FORMAT, "%s: weight_map names \"%s\", which is no file of this folder", index_name,
                             saei_show(shown, file ? file : ""));
        const sae_status status = saei_source_tensors(s, file);
        if (status)
            return status;
    }
    return SAE_OK;
}

sae_status saei_source_shards(saei_source *s, const char *name)
{
    char index_name[128];
    size_t bytes = 0;
    char *text = NULL;
    saei_json index = {0};
    const int written = snprintf(index_name, sizeof index_name, "%s.index.json", name);
    if (written < 0 || (size_t)written >= sizeof index_name || saei_source_has(s, name) || !saei_source_has(s, index_name))
        return saei_source_tensors(s, name);
    char *path = path_of(s, index_name);
    if (!path)
        return no_memory(s, "a path");
    sae_status status = saei_file_text(&text, &bytes, s->host, path, LARGEST_CONFIG, s->err);
    if (!status)
        status = saei_json_parse(&index, s->host, text, bytes, index_name, s->err);
    if (!status)
        status = read_shards(s, &index, index_name);
    saei_json_free(&index, s->host);
    saei_dealloc(s->host, text, bytes + 1);
    return status;
}

sae_status saei_source_config(saei_source *s, const char *name)
{
    size_t bytes = 0;
    char *text = NULL, *path = path_of(s, name);
    if (!path)
        return no_memory(s, "a path");
    sae_status status = saei_file_text(&text, &bytes, s->host, path, LARGEST_CONFIG, s->err);
    if (status)
        return status;
    saei_json_free(&s->config, s->host);
    s->config_name = base_name(name);
    const bool yaml = saei_ends_with(name, ".yaml") || saei_ends_with(name, ".yml");
    status = (yaml ? saei_yaml_parse : saei_json_parse)(&s->config, s->host, text, bytes, s->config_name, s->err);
    if (!status && s->config.v[0].type != SAEI_JSON_OBJECT)
        status = saei_fail(s->err, SAE_E_FORMAT, "%s is %s, not an object", s->config_name, saei_json_type_name(&s->config, 0));
    if (!status)
        status = saei_set_text(s, SAE_TEXT_CONFIG, text);
    saei_dealloc(s->host, text, bytes + 1);
    return status;
}

/* ---- the configuration ---- */

static sae_status mistyped(const saei_source *s, uint32_t at, const char *key, const char *wanted)
{
    return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is %s, not %s", s->config_name, key, saei_json_type_name(&s->config, at), wanted);
}

sae_status saei_config_text(const char **out, const saei_source *s, uint32_t object, const char *key)
{
    const uint32_t at = s->config.n ? saei_json_member(&s->config, object, key) : 0;
    *out = at ? saei_json_string(&s->config, at) : NULL;
    return at && !*out ? mistyped(s, at, key, "a string") : SAE_OK;
}

sae_status saei_config_bool(bool *out, const saei_source *s, uint32_t object, const char *key, bool absent)
{
    const uint32_t at = s->config.n ? saei_json_member(&s->config, object, key) : 0;
    const uint32_t type = at ? s->config.v[at].type : 0;
    *out = at ? type == SAEI_JSON_TRUE : absent;
    return at && type != SAEI_JSON_TRUE && type != SAEI_JSON_FALSE ? mistyped(s, at, key, "true or false") : SAE_OK;
}

sae_status saei_config_size(int32_t *out, const saei_source *s, uint32_t object, const char *key)
{
    const uint32_t at = s->config.n ? saei_json_member(&s->config, object, key) : 0;
    if (!at)
        return saei_fail(s->err, SAE_E_FORMAT, "%s has no %s", s->config_name, key);
    const saei_json_value *v = &s->config.v[at];
    if (v->type != SAEI_JSON_INTEGER)
        return mistyped(s, at, key, "a size");
    if (v->integer < 1 || v->integer > INT32_MAX)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s = %lld is outside 1 .. %d", s->config_name, key, (long long)v->integer, INT32_MAX);
    *out = (int32_t)v->integer;
    return SAE_OK;
}

sae_status saei_config_number(double *out, const saei_source *s, uint32_t object, const char *key, double absent)
{
    const uint32_t at = s->config.n ? saei_json_member(&s->config, object, key) : 0;
    *out = absent;
    if (!at)
        return SAE_OK;
    if (!saei_json_number(out, &s->config, at))
        return mistyped(s, at, key, "a number");
    return isfinite(*out) ? SAE_OK : saei_fail(s->err, SAE_E_FORMAT, "%s: %s = %g is not finite", s->config_name, key, *out);
}

/* ---- parts ---- */

sae_status saei_make_vector(float **out, saei_source *s, int32_t n)
{
    *out = saei_arena_alloc(&s->parts->memory, s->host, (size_t)n * sizeof **out);
    if (!*out)
        return saei_fail(s->err, SAE_E_NOMEM, "no memory for a vector of %d values", (int)n);
    memset(*out, 0, (size_t)n * sizeof **out);
    return SAE_OK;
}

sae_status saei_fill_vector(float **out, saei_source *s, int32_t n, double value)
{
    const sae_status status = saei_make_vector(out, s, n);
    for (int32_t i = 0; i < n && !status; i++)
        (*out)[i] = (float)value;
    return status;
}

sae_status saei_add_block(saei_source *s, int32_t first, int32_t in_first, const saei_tensor *w)
{
    const saei_block block = {first, in_first, *w};
    return saei_parts_add_block(s->parts, s->host, &block) ? SAE_OK : no_memory(s, "a list of encoders");
}

sae_status saei_add_segment(saei_source *s, const saei_segment *segment)
{
    return saei_parts_add_segment(s->parts, s->host, segment) ? SAE_OK : no_memory(s, "a list of decoders");
}

sae_status saei_add_skip(saei_source *s, int32_t in_first, int32_t out_first, const saei_tensor *w)
{
    const saei_skip skip = {in_first, out_first, *w};
    return saei_parts_add_skip(s->parts, s->host, &skip) ? SAE_OK : no_memory(s, "a list of skip connections");
}

sae_status saei_set_matrices(saei_source *s, const saei_tensor *enc, const saei_tensor *dec)
{
    saei_parts *p = s->parts;
    const saei_segment segment = {.n = dec->m.n, .row_step = 1, .w = *dec};
    p->d_in = enc->m.d;
    p->d_sae = enc->m.n;
    p->d_out = dec->m.d;
    p->n_in = p->n_out = 1;
    const sae_status status = saei_add_block(s, 0, 0, enc);
    return status ? status : saei_add_segment(s, &segment);
}

sae_status saei_set_text(saei_source *s, int32_t what, const char *text)
{
    if (!text)
        text = "";
    char *copy = saei_arena_text(&s->parts->memory, s->host, text, strlen(text));
    if (!copy)
        return no_memory(s, "the texts of a configuration");
    s->parts->texts[what] = copy;
    return SAE_OK;
}

sae_status saei_set_what(saei_source *s, const char *name)
{
    char what[64];
    snprintf(what, sizeof what, "a %.40s SAE", name);
    s->what = saei_arena_text(&s->memory, s->host, what, strlen(what));
    return s->what ? SAE_OK : no_memory(s, "a name");
}

sae_status saei_warn(saei_source *s, const char *fmt, ...)
{
    char sentence[256];
    va_list args;
    saei_parts *p = s->parts;
    if (p->n_warnings == SAEI_WARNINGS)
        return SAE_OK;
    va_start(args, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, args);
    va_end(args);
    char *copy = saei_arena_text(&p->memory, s->host, sentence, strlen(sentence));
    if (!copy)
        return no_memory(s, "a warning");
    p->warnings[p->n_warnings++] = copy;
    return SAE_OK;
}

sae_status saei_set_k(saei_source *s, int64_t stored)
{
    saei_parts *p = s->parts;
    const int64_t k = s->opt->k ? s->opt->k : stored;
    if (!k)
        return saei_fail(s->err, SAE_E_FORMAT, "%s does not say the k of its top-k: the option k can give it", s->what);
    if (k < 1 || k > p->d_sae)
        return saei_fail(s->err, s->opt->k ? SAE_E_ARG : SAE_E_FORMAT, "%s k = %lld is outside 1 .. d_sae = %d",
                         s->opt->k        ? "the option"
                         : s->config_name ? s->config_name
                                          : s->what,
                         (long long)k, (int)p->d_sae);
    p->k = (int32_t)k;
    return SAE_OK;
}
