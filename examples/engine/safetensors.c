#include "safetensors.h"

#include <string.h>

bool tensors_open(tensors *out, const char *path, engine_error *err)
{
    uint64_t length;
    json_error_t e;
    *out = (tensors){.path = path};
    if (!engine_file_map(&out->file, path, err))
        return false;
    if (out->file.bytes < sizeof length)
        return engine_fail(err, "%s has %zu bytes, too few for a safetensors file", path, out->file.bytes);
    memcpy(&length, out->file.data, sizeof length);
    if (length > out->file.bytes - sizeof length)
        return engine_fail(err, "%s: the header says it has %llu bytes, the file has %zu: it is cut or no safetensors file", path,
                           (unsigned long long)length, out->file.bytes);
    out->data = sizeof length + (size_t)length;
    out->header = json_loadb((const char *)out->file.data + sizeof length, (size_t)length, JSON_REJECT_DUPLICATES, &e);
    if (!out->header)
        return engine_fail(err, "%s: the header is not JSON: %s", path, e.text);
    return json_is_object(out->header) || engine_fail(err, "%s: the header is not a JSON object", path);
}

void tensors_close(tensors *t)
{
    json_decref(t->header);
}

bool tensors_have(const tensors *t, const char *name)
{
    return json_object_get(t->header, name);
}

static sae_dtype dtype_of(const char *name)
{
    return !name ? 0 : !strcmp(name, "F32") ? SAE_F32 : !strcmp(name, "F16") ? SAE_F16 : !strcmp(name, "BF16") ? SAE_BF16 : 0;
}

static bool has_shape(const json_t *shape, int64_t rows, int64_t columns)
{
    return json_array_size(shape) == (columns ? 2 : 1) && json_integer_value(json_array_get(shape, 0)) == rows &&
           (!columns || json_integer_value(json_array_get(shape, 1)) == columns);
}

bool tensors_find(const tensors *t, const char *name, int64_t rows, int64_t columns, engine_matrix *out, engine_error *err)
{
    const json_t *entry = json_object_get(t->header, name);
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    const sae_dtype dtype = dtype_of(type);
    const size_t n = (size_t)(rows * (columns ? columns : 1)), room = t->file.bytes - t->data;
    if (!entry)
        return engine_fail(err, "%s has no tensor %s", t->path, name);
    if (!dtype)
        return engine_fail(err, "%s: %s is of type %.20s; F32, F16 and BF16 are read", t->path, name, type ? type : "(none)");
    if (!has_shape(json_object_get(entry, "shape"), rows, columns))
        return engine_fail(err, "%s: %s does not have the shape [%lld%s%.0lld] that config.json asks for", t->path, name, (long long)rows,
                           columns ? "][" : "", (long long)columns);
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    const json_int_t from = json_integer_value(begin), to = json_integer_value(end);
    if (!json_is_integer(begin) || !json_is_integer(end) || from < 0 || to < from || (uint64_t)to > room ||
        (uint64_t)(to - from) != n * sae_dtype_bytes(dtype))
        return engine_fail(err, "%s: the data of %s, bytes %lld to %lld of %zu, is not that of %zu elements", t->path, name,
                           (long long)from, (long long)to, room, n);
    *out = (engine_matrix){t->file.data + t->data + from, dtype};
    return true;
}
