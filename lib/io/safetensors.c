/* The safetensors container: a JSON header that names tensors, then their bytes, without a gap. Every rule of the format is held. */
#include <string.h>

#include "io/json.h"
#include "io/sort.h"
#include "io/tensors.h"

enum { LENGTH_BYTES = 8, LONGEST_HEADER = 100000000 /* of the format */ };

typedef struct reader {
    saei_store *store;
    const saei_host *host;
    const saei_file *file;
    int32_t file_index;
    uint32_t first; /* of the store's arrays: those before are of other files */
    saei_json header;
    const char *file_name;
    size_t data; /* offset of the data section */
    size_t data_bytes;
    sae_error *err;
} reader;

/* Bits, because the format has dtypes smaller than a byte. */
static const struct {
    const char *name;
    unsigned bits;
    saei_element element;
} dtypes[] = {{"F32", 32, SAEI_F32},      {"F16", 16, SAEI_F16},      {"BF16", 16, SAEI_BF16},      {"F64", 64, SAEI_F64},
              {"I64", 64, SAEI_I64},      {"U64", 64, SAEI_OTHER},    {"I32", 32, SAEI_I32},        {"U32", 32, SAEI_OTHER},
              {"I16", 16, SAEI_I16},      {"U16", 16, SAEI_OTHER},    {"I8", 8, SAEI_I8},           {"U8", 8, SAEI_U8},
              {"BOOL", 8, SAEI_BOOL},     {"C64", 64, SAEI_OTHER},    {"F8_E5M2", 8, SAEI_F8_E5M2}, {"F8_E4M3", 8, SAEI_F8_E4M3},
              {"F8_E8M0", 8, SAEI_OTHER}, {"F6_E2M3", 6, SAEI_OTHER}, {"F6_E3M2", 6, SAEI_OTHER},   {"F4", 4, SAEI_OTHER}};

/* Begins every sentence about one tensor. */
#define TENSOR "%s: tensor \"%s\" "

static sae_status read_dtype(saei_array *t, unsigned *bits, const reader *r, uint32_t entry)
{
    const saei_json *header = &r->header;
    char name[SAEI_SHOWN], shown[SAEI_SHOWN];
    t->dtype_name = saei_json_string(header, saei_json_member(header, entry, "dtype"));
    if (!t->dtype_name)
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has no dtype", r->file_name, saei_show(name, t->name));
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(t->dtype_name, dtypes[i].name) == 0) {
            t->dtype_name = dtypes[i].name;
            t->element = dtypes[i].element;
            *bits = dtypes[i].bits;
            return SAE_OK;
        }
    return saei_fail(r->err, SAE_E_UNSUPPORTED, TENSOR "has dtype \"%s\", which is not known", r->file_name, saei_show(name, t->name),
                     saei_show(shown, t->dtype_name));
}

/* The shape, and the bytes it takes. */
static sae_status read_shape(saei_array *t, size_t *bytes, const reader *r, uint32_t entry, unsigned bits)
{
    const saei_json *header = &r->header;
    const uint32_t shape = saei_json_member(header, entry, "shape");
    char name[SAEI_SHOWN];
    size_t product = 1;
    bool fits = true;
    saei_show(name, t->name);
    if (!shape || header->v[shape].type != SAEI_JSON_ARRAY)
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has no shape", r->file_name, name);
    t->n_dims = header->v[shape].n;
    for (uint32_t i = 0, at = shape + 1; i < t->n_dims; i++, at = header->v[at].next) {
        const saei_json_value *dim = &header->v[at];
        if (dim->type != SAEI_JSON_INTEGER)
            return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has %s as dimension %u, not a size", r->file_name, name,
                             saei_json_type_name(header, at), (unsigned)i);
        if (dim->integer < 0)
            return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has the negative dimension %lld", r->file_name, name, (long long)dim->integer);
        if (i < SAEI_DIMS)
            t->shape[i] = dim->integer;
        fits = (uint64_t)dim->integer <= SIZE_MAX && saei_mul(&product, product, (size_t)dim->integer) && fits;
    }
    if (!fits || !saei_mul(&product, product, bits))
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has a shape of more elements than any machine can address", r->file_name, name);
    if (product % 8)
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has a shape that does not fill its last byte", r->file_name, name);
    *bytes = product / 8;
    return SAE_OK;
}

static sae_status read_offsets(saei_array *t, const reader *r, uint32_t entry, size_t bytes)
{
    const saei_json *header = &r->header;
    const uint32_t range = saei_json_member(header, entry, "data_offsets");
    const saei_json_value *v = &header->v[range];
    char name[SAEI_SHOWN];
    saei_show(name, t->name);
    if (!range || v->type != SAEI_JSON_ARRAY || v->n != 2 || v[1].type != SAEI_JSON_INTEGER || v[2].type != SAEI_JSON_INTEGER)
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has no data_offsets of two integers", r->file_name, name);
    const int64_t begin = v[1].integer, end = v[2].integer;
    if (begin < 0 || end < begin)
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has data_offsets %lld to %lld, which is no range", r->file_name, name,
                         (long long)begin, (long long)end);
    if ((uint64_t)(end - begin) != bytes)
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "needs %zu bytes by its shape and dtype, its data_offsets hold %lld", r->file_name,
                         name, bytes, (long long)(end - begin));
    if ((uint64_t)end > r->data_bytes)
        return saei_fail(r->err, SAE_E_FORMAT,
                         TENSOR "ends at byte %lld of the data, but the file holds %zu bytes of data: it is cut off or damaged",
                         r->file_name, name, (long long)end, r->data_bytes);
    t->file = r->file_index;
    t->offset = r->data + (size_t)begin;
    t->data = r->file->data + t->offset;
    t->bytes = bytes;
    saei_array_row_major(t);
    return SAE_OK;
}

static sae_status read_entry(saei_array *t, const reader *r, uint32_t entry)
{
    const saei_json *header = &r->header;
    char name[SAEI_SHOWN];
    unsigned bits = 0;
    size_t bytes = 0;
    sae_status status;
    if (header->v[entry].type != SAEI_JSON_OBJECT)
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "is described by %s, not an object", r->file_name, saei_show(name, t->name),
                         saei_json_type_name(header, entry));
    if ((status = read_dtype(t, &bits, r, entry)) || (status = read_shape(t, &bytes, r, entry, bits)))
        return status;
    return read_offsets(t, r, entry, bytes);
}

static sae_status check_metadata(const reader *r, uint32_t entry)
{
    const saei_json_value *v = r->header.v;
    bool good = v[entry].type == SAEI_JSON_OBJECT;
    for (uint32_t i = 0, key = entry + 1; good && i < v[entry].n; i++, key = v[key + 1].next)
        good = v[key + 1].type == SAEI_JSON_STRING;
    return good ? SAE_OK : saei_fail(r->err, SAE_E_FORMAT, "%s: __metadata__ is not an object of strings", r->file_name);
}

static sae_status add_entry(reader *r, const char *name, uint32_t entry)
{
    saei_array t = {.name = name};
    const sae_status status = read_entry(&t, r, entry);
    if (status)
        return status;
    t.name = saei_arena_text(&r->store->memory, r->host, name, strlen(name));
    if (!t.name)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for the names of %s", r->file_name);
    return saei_store_add(r->store, r->host, &t, r->file_name, r->err);
}

static sae_status read_entries(reader *r)
{
    const saei_json_value *v = r->header.v;
    for (uint32_t i = 0, key = 1; i < v[0].n; i++, key = v[key + 1].next) {
        const bool metadata = strcmp(v[key].string, "__metadata__") == 0;
        const sae_status status = metadata ? check_metadata(r, key + 1) : add_entry(r, v[key].string, key + 1);
        if (status)
            return status;
    }
    return SAE_OK;
}

/* ---- the tensors cover the data exactly ---- */

static int by_place(const void *arg, uint32_t a, uint32_t b)
{
    const saei_array *t = arg;
    if (t[a].offset != t[b].offset)
        return t[a].offset < t[b].offset ? -1 : 1;
    if (t[a].bytes != t[b].bytes)
        return t[a].bytes < t[b].bytes ? -1 : 1;
    return 0;
}

/* The tensors of this file; NULL when there is none. */
static const saei_array *tensors_of(const reader *r)
{
    return r->store->n_arrays > r->first ? r->store->arrays + r->first : NULL;
}

/* `ids` are the tensors in the order of their data. */
static sae_status check_cover(const reader *r, const uint32_t *ids)
{
    const saei_array *t = tensors_of(r);
    char name[SAEI_SHOWN], before[SAEI_SHOWN];
    size_t end = r->data;
    for (uint32_t i = 0; i < r->store->n_arrays - r->first; i++) {
        const saei_array *now = &t[ids[i]];
        saei_show(name, now->name);
        if (now->offset < end)
            return saei_fail(r->err, SAE_E_FORMAT,
                             "%s: tensors \"%s\" and \"%s\" overlap: one ends at byte %zu of the data, the other begins at %zu",
                             r->file_name, saei_show(before, t[ids[i - 1]].name), name, end - r->data, now->offset - r->data);
        if (now->offset > end)
            return saei_fail(r->err, SAE_E_FORMAT, "%s: there is a hole before tensor \"%s\": bytes %zu to %zu of the data belong to none",
                             r->file_name, name, end - r->data, now->offset - r->data);
        end += now->bytes;
    }
    if (end < r->data + r->data_bytes)
        return saei_fail(r->err, SAE_E_FORMAT, "%s: %zu bytes follow the last tensor and belong to none", r->file_name,
                         r->data + r->data_bytes - end);
    return SAE_OK;
}

static sae_status check_places(const reader *r)
{
    const uint32_t n = r->store->n_arrays - r->first;
    const size_t bytes = n * sizeof(uint32_t);
    uint32_t *ids = saei_alloc(r->host, bytes);
    if (!ids && bytes)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory to check %u tensors", (unsigned)n);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = i;
    saei_sort(ids, n, by_place, tensors_of(r));
    const sae_status status = check_cover(r, ids);
    saei_dealloc(r->host, ids, bytes);
    return status;
}

/* ---- outside ---- */

static uint64_t little_endian(const unsigned char *p)
{
    uint64_t value = 0;
    for (int i = LENGTH_BYTES; i-- > 0;)
        value = value << 8 | p[i];
    return value;
}

static sae_status header_length(size_t *out, const saei_file *file, const char *name, sae_error *err)
{
    if (file->bytes < LENGTH_BYTES)
        return saei_fail(err, SAE_E_FORMAT,
                         "%s: the file has %zu bytes, a safetensors file begins with 8 bytes that say how long the header is", name,
                         file->bytes);
    const uint64_t length = little_endian(file->data);
    if (length > LONGEST_HEADER)
        return saei_fail(err, SAE_E_FORMAT,
                         "%s: the header claims %llu bytes, the format allows %d: this is no safetensors file, or a damaged one", name,
                         (unsigned long long)length, LONGEST_HEADER);
    if (length > file->bytes - LENGTH_BYTES)
        return saei_fail(err, SAE_E_FORMAT, "%s: the header claims %llu bytes, the file has only %zu more: it is cut off or damaged", name,
                         (unsigned long long)length, file->bytes - LENGTH_BYTES);
    *out = (size_t)length;
    return SAE_OK;
}

static sae_status read_header(reader *r, size_t length)
{
    char what[64];
    sae_status status;
    memcpy(what, "the header of ", sizeof "the header of ");
    strncat(what, r->file_name, sizeof what - sizeof "the header of ");
    status = saei_json_parse(&r->header, r->host, (const char *)r->file->data + LENGTH_BYTES, length, what, r->err);
    if (status)
        return status;
    if (r->header.v[0].type != SAEI_JSON_OBJECT)
        return saei_fail(r->err, SAE_E_FORMAT, "%s is %s, not an object", what, saei_json_type_name(&r->header, 0));
    status = read_entries(r);
    return status ? status : check_places(r);
}

sae_status saei_read_safetensors(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                                 sae_error *err)
{
    size_t length = 0;
    sae_status status = header_length(&length, file, name, err);
    if (status)
        return status;
    reader r = {.store = store,
                .host = host,
                .file = file,
                .file_index = file_index,
                .first = store->n_arrays,
                .file_name = name,
                .data = LENGTH_BYTES + length,
                .data_bytes = file->bytes - LENGTH_BYTES - length,
                .err = err};
    status = read_header(&r, length);
    saei_json_free(&r.header, host);
    return status;
}
