/* Reading safetensors: 8 bytes of length, a JSON header, then the elements. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "input.h"

enum { HEADER_LIMIT = 100 * 1000 * 1000 }; /* as the reference implementation */

static json_t *header(input *in, uint64_t *data_at)
{
    unsigned char frame[8];
    uint64_t n = 0;
    if (input_raw(in, frame, 8) != 8) {
        die("%s: ends inside the length of its header", in->name);
    }
    for (int i = 0; i < 8; i++) {
        n |= (uint64_t)frame[i] << 8 * i;
    }
    if (n > HEADER_LIMIT || n > in->file_bytes - 8) {
        die("%s: as safetensors its header claims %llu bytes, the file has %llu", in->name, (unsigned long long)n,
            (unsigned long long)in->file_bytes);
    }
    char *text = take((size_t)n, 1);
    if (input_raw(in, text, (size_t)n) != n) {
        die("%s: ends inside its header", in->name);
    }
    json_error_t error;
    json_t *root = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (root == NULL || !json_is_object(root)) {
        die("%s: the safetensors header is not a JSON object (%s)", in->name, root == NULL ? error.text : "something else");
    }
    *data_at = 8 + n;
    return root;
}

static int64_t size_of(const input *in, const char *name, json_t *value)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        die("%s: tensor '%s' has a size or offset that is no count", in->name, name);
    }
    return json_integer_value(value);
}

static void tensor(input *in, const char *name, json_t *entry, uint64_t data_at)
{
    json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape");
    json_t *offsets = json_object_get(entry, "data_offsets");
    if (!json_is_string(dtype) || !json_is_array(shape) || json_array_size(offsets) != 2) {
        die("%s: tensor '%s' lacks dtype, shape or data_offsets", in->name, name);
    }
    if (json_array_size(shape) > MAX_DIMS) {
        die("%s: tensor '%s' has more than %d dimensions", in->name, name, MAX_DIMS);
    }
    uint64_t begin = (uint64_t)size_of(in, name, json_array_get(offsets, 0));
    uint64_t end = (uint64_t)size_of(in, name, json_array_get(offsets, 1));
    if (begin > end || end > in->file_bytes - data_at) {
        die("%s: tensor '%s' spans bytes %llu to %llu, the file holds %llu", in->name, name, (unsigned long long)begin,
            (unsigned long long)end, (unsigned long long)(in->file_bytes - data_at));
    }
    array *a = input_add(in, name, data_at + begin, 0);
    a->type = elem_from_safetensors(json_string_value(dtype));
    snprintf(a->stored, sizeof a->stored, "%.20s", json_string_value(dtype));
    for (size_t i = 0; i < json_array_size(shape); i++) {
        a->shape[a->ndim++] = size_of(in, name, json_array_get(shape, i));
    }
    uint64_t count, bytes;
    bool sane = array_count(a, &count, &bytes);
    if (!sane || (a->type != ELEM_OTHER && bytes != end - begin)) {
        die("%s: tensor '%s' has shape %s of %s, but %llu bytes", in->name, name, array_shape(a).text, a->stored,
            (unsigned long long)(end - begin));
    }
}

void safetensors_list(input *in)
{
    uint64_t data_at;
    json_t *root = header(in, &data_at);
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry)
    {
        if (strcmp(name, "__metadata__") != 0) {
            tensor(in, name, entry, data_at);
        }
    }
    json_decref(root);
}
