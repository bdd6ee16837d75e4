#include "safetensors.h"

#include <math.h>
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
    engine_file_unmap(&t->file);
}

bool tensors_have(const tensors *t, const char *name)
{
    return json_object_get(t->header, name);
}

static float from_half(uint16_t h)
{
    const float sign = h & 0x8000 ? -1.0f : 1.0f;
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31)
        return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexpf((float)(fraction + 1024), exponent - 25) : ldexpf((float)fraction, -24));
}

static float from_bf16(uint16_t b)
{
    const uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* The data need not be aligned. */
static void convert(float *out, const unsigned char *data, size_t n, sae_dtype dtype)
{
    if (dtype == SAE_F32) {
        memcpy(out, data, n * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, data + i * sizeof bits, sizeof bits);
        out[i] = dtype == SAE_F16 ? from_half(bits) : from_bf16(bits);
    }
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

bool tensors_read(const tensors *t, const char *name, int64_t rows, int64_t columns, float *out, engine_error *err)
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
    convert(out, t->file.data + t->data + from, n, dtype);
    return true;
}
