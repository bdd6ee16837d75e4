#include "support/fixtures.h"

#include <stdio.h>
#include <string.h>

json_t *fixtures_list(void)
{
    json_t *all = json_load_file(GOLDEN_FOLDER "golden.json", 0, NULL), *list = json_object_get(all, "fixtures");
    json_incref(list);
    json_decref(all);
    return list;
}

const char *fixture_path(json_t *list, size_t i)
{
    return json_string_value(json_object_get(json_array_get(list, i), "path"));
}

json_t *fixture_about(const char *path)
{
    char file[400];
    snprintf(file, sizeof file, GOLDEN_FOLDER "%s/fixture.json", path);
    return json_load_file(file, 0, NULL);
}

const char *fixture_place(char out[256], json_t *about)
{
    const char *file = json_string_value(json_array_get(json_object_get(about, "files"), 0)), *deeper = strstr(file, "checkpoints/");
    const char *slash = strrchr(file, '/');
    const size_t n = deeper ? (size_t)(deeper - file) : slash ? (size_t)(slash - file) : 0;
    snprintf(out, 256, "%.*s", (int)n, file);
    return out;
}

sae_open_options fixture_options(const char *path, json_t *about, char layer[16])
{
    json_t *o = json_object_get(about, "options"), *number = json_object_get(o, "layer"),
           *factor = json_object_get(o, "norm_scaling_factor");
    sae_open_options opt = {.struct_size = sizeof opt};
    if (number) {
        snprintf(layer, 16, "%d", (int)json_integer_value(number));
        opt.layer = layer;
    }
    if (factor)
        opt.norm_scaling_factor = (float)json_number_value(factor);
    if (strncmp(path, "qwen_scope/", strlen("qwen_scope/")) == 0)
        opt.k = (int32_t)json_integer_value(json_object_get(o, "k"));
    return opt;
}
