/* GGUF, versions 2 and 3, little-endian: magic, version, counts; keys with values; tensor infos; padding; the tensors' data. */
#include <string.h>

#include "io/json.h"
#include "io/sort.h"
#include "io/tensors.h"

enum {
    TEXT = 8,  /* types of values that are not plain numbers */
    ARRAY = 9, /* of values of one type */
    LEAST_KEY = 8 + 4 + 1,
    LEAST_INFO = 8 + 4 + 4 + 8, /* of no name and no dimension */
    ALIGNMENT = 32,             /* unless the file says otherwise */
    U32 = 4
};

typedef struct reader {
    saei_store *store;
    const saei_host *host;
    const saei_file *file;
    const char *name;
    sae_error *err;
    size_t at; /* everything in front of it has been read */
    size_t alignment;
    uint32_t first; /* of the file's tensors in the store */
    int32_t file_index;
} reader;

/* Types of values by their number: how long, and how read (SAEI_OTHER: unsigned). */
static const struct {
    uint8_t bytes;
    saei_element element;
} values[] = {{1, SAEI_U8},   {1, SAEI_I8},    {2, SAEI_OTHER}, {2, SAEI_I16},   {4, SAEI_OTHER}, {4, SAEI_I32}, {4, SAEI_F32},
              {1, SAEI_BOOL}, {0, SAEI_OTHER}, {0, SAEI_OTHER}, {8, SAEI_OTHER}, {8, SAEI_I64},   {8, SAEI_F64}};

enum { N_VALUES = sizeof values / sizeof *values };

/* Types of tensors by ggml's number: elements of a block and its bytes. */
static const struct {
    const char *name; /* NULL: never used, or given up by ggml */
    saei_element element;
    uint16_t block, bytes;
} types[] = {{"F32", SAEI_F32, 1, 4},
             {"F16", SAEI_F16, 1, 2},
             {"Q4_0", SAEI_OTHER, 32, 18},
             {"Q4_1", SAEI_OTHER, 32, 20},
             [6] = {"Q5_0", SAEI_OTHER, 32, 22},
             {"Q5_1", SAEI_OTHER, 32, 24},
             {"Q8_0", SAEI_OTHER, 32, 34},
             {"Q8_1", SAEI_OTHER, 32, 40},
             {"Q2_K", SAEI_OTHER, 256, 84},
             {"Q3_K", SAEI_OTHER, 256, 110},
             {"Q4_K", SAEI_OTHER, 256, 144},
             {"Q5_K", SAEI_OTHER, 256, 176},
             {"Q6_K", SAEI_OTHER, 256, 210},
             {"Q8_K", SAEI_OTHER, 256, 292},
             {"IQ2_XXS", SAEI_OTHER, 256, 66},
             {"IQ2_XS", SAEI_OTHER, 256, 74},
             {"IQ3_XXS", SAEI_OTHER, 256, 98},
             {"IQ1_S", SAEI_OTHER, 256, 50},
             {"IQ4_NL", SAEI_OTHER, 32, 18},
             {"IQ3_S", SAEI_OTHER, 256, 110},
             {"IQ2_S", SAEI_OTHER, 256, 82},
             {"IQ4_XS", SAEI_OTHER, 256, 136},
             {"I8", SAEI_I8, 1, 1},
             {"I16", SAEI_I16, 1, 2},
             {"I32", SAEI_I32, 1, 4},
             {"I64", SAEI_I64, 1, 8},
             {"F64", SAEI_F64, 1, 8},
             {"IQ1_M", SAEI_OTHER, 256, 56},
             {"BF16", SAEI_BF16, 1, 2},
             [34] = {"TQ1_0", SAEI_OTHER, 256, 54},
             {"TQ2_0", SAEI_OTHER, 256, 66},
             [39] = {"MXFP4", SAEI_OTHER, 32, 17},
             {"NVFP4", SAEI_OTHER, 64, 36},
             {"Q1_0", SAEI_OTHER, 128, 18}};

enum { N_TYPES = sizeof types / sizeof *types };

/* Begins every sentence about one key, and about one tensor. */
#define KEY "%s: key \"%s\" "
#define TENSOR "%s: tensor \"%s\" "

/* ---- bytes ---- */

static sae_status cut(const reader *r, const char *inside)
{
    return saei_fail(r->err, SAE_E_FORMAT, "%s ends inside %s, behind byte %zu of %zu: it is cut off or damaged", r->name, inside, r->at,
                     r->file->bytes);
}

/* The next n bytes; NULL when there are fewer. */
static const unsigned char *take(reader *r, uint64_t n)
{
    if (n > r->file->bytes - r->at)
        return NULL;
    const unsigned char *p = r->file->data + r->at;
    r->at += (size_t)n;
    return p;
}

static uint64_t little_endian(const unsigned char *p, int bytes)
{
    uint64_t value = 0;
    while (bytes-- > 0)
        value = value << 8 | p[bytes];
    return value;
}

static sae_status take_number(uint64_t *out, reader *r, int bytes, const char *inside)
{
    const unsigned char *p = take(r, (uint64_t)bytes);
    *out = p ? little_endian(p, bytes) : 0;
    return p ? SAE_OK : cut(r, inside);
}

/* A text as it lies in the file: its length, then its bytes. */
static sae_status take_bytes(const unsigned char **out, size_t *n, reader *r, const char *inside)
{
    uint64_t length;
    const sae_status status = take_number(&length, r, 8, inside);
    if (status)
        return status;
    *out = take(r, length);
    *n = (size_t)length;
    return *out ? SAE_OK : cut(r, inside);
}

/* A copy of a text, which `inside` names. */
static sae_status take_text(const char **out, reader *r, const char *inside)
{
    const unsigned char *bytes = NULL;
    size_t n = 0;
    const sae_status status = take_bytes(&bytes, &n, r, inside);
    if (status)
        return status;
    const char *text = (const char *)bytes;
    if (memchr(text, '\0', n) || !saei_utf8(text, n))
        return saei_fail(r->err, SAE_E_FORMAT, "%s: %s that ends at byte %zu is not UTF-8 without NUL", r->name, inside, r->at);
    *out = saei_arena_text(&r->store->memory, r->host, text, n);
    return *out ? SAE_OK : saei_fail(r->err, SAE_E_NOMEM, "no memory for the %zu bytes of %s of %s", n, inside, r->name);
}

/* ---- keys and values ---- */

/* Arrays are of no use to us (vocabularies, mostly). */
static sae_status skip_array(reader *r, const char *key)
{
    char shown[SAEI_SHOWN];
    uint64_t type = 0, n = 0;
    size_t length = 0;
    const unsigned char *text;
    sae_status status;
    if ((status = take_number(&type, r, 4, "an array")) || (status = take_number(&n, r, 8, "an array")))
        return status;
    if (type == ARRAY)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, KEY "is an array of arrays, which is not read", r->name, saei_show(shown, key));
    if (type >= N_VALUES)
        return saei_fail(r->err, SAE_E_FORMAT, KEY "is an array of values of type %llu, which GGUF does not have", r->name,
                         saei_show(shown, key), (unsigned long long)type);
    if (type != TEXT) /* no product: it may overflow */
        return n <= (r->file->bytes - r->at) / values[type].bytes && take(r, n * values[type].bytes) ? SAE_OK : cut(r, "an array");
    while (n-- > 0 && !status)
        status = take_bytes(&text, &length, r, "an array of texts");
    return status;
}

static sae_status set_alignment(reader *r, uint64_t type, double number)
{
    const uint32_t alignment = type == U32 ? (uint32_t)number : 0;
    if (!alignment || (alignment & (alignment - 1)))
        return saei_fail(r->err, SAE_E_FORMAT, "%s: general.alignment is %.17g of type %llu, it must be a power of two of type %d", r->name,
                         number, (unsigned long long)type, U32);
    r->alignment = alignment;
    return SAE_OK;
}

static sae_status read_value(reader *r, saei_value *value, uint64_t type)
{
    if (type == TEXT)
        return take_text(&value->string, r, "a text");
    const unsigned char *p = take(r, values[type].bytes);
    if (!p)
        return cut(r, "a value");
    const saei_element element = values[type].element;
    value->is_number = true;
    value->number = element == SAEI_OTHER ? (double)little_endian(p, values[type].bytes) : saei_element_load(p, element);
    return strcmp(value->name, "general.alignment") == 0 ? set_alignment(r, type, value->number) : SAE_OK;
}

static sae_status read_key(reader *r)
{
    saei_value value = {0};
    uint64_t type = 0;
    char shown[SAEI_SHOWN];
    sae_status status = take_text(&value.name, r, "the name of a key");
    if (status || (status = take_number(&type, r, 4, "a key")))
        return status;
    if (type == ARRAY)
        return skip_array(r, value.name);
    if (type >= N_VALUES)
        return saei_fail(r->err, SAE_E_FORMAT, KEY "has a value of type %llu, which GGUF does not have", r->name,
                         saei_show(shown, value.name), (unsigned long long)type);
    status = read_value(r, &value, type);
    return status ? status : saei_store_add_value(r->store, r->host, &value, r->name, r->err);
}

/* ---- tensors ---- */

static sae_status read_shape(saei_array *array, reader *r)
{
    uint64_t n = 0, size = 0;
    char shown[SAEI_SHOWN];
    sae_status status = take_number(&n, r, 4, "a tensor's description");
    if (status)
        return status;
    if (n > SAEI_DIMS)
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has %llu dimensions, GGUF has at most %d", r->name, saei_show(shown, array->name),
                         (unsigned long long)n, SAEI_DIMS);
    array->n_dims = (uint32_t)n;
    while (n-- > 0) { /* the fastest axis comes first, ours comes last */
        if ((status = take_number(&size, r, 8, "a tensor's shape")))
            return status;
        if (size > INT64_MAX)
            return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has a dimension of %llu", r->name, saei_show(shown, array->name),
                             (unsigned long long)size);
        array->shape[n] = (int64_t)size;
    }
    saei_array_row_major(array);
    return SAE_OK;
}

static sae_status read_type(saei_array *array, reader *r)
{
    uint64_t type = 0;
    size_t count = 0;
    char shown[SAEI_SHOWN];
    const sae_status status = take_number(&type, r, 4, "a tensor's description");
    if (status)
        return status;
    saei_show(shown, array->name);
    if (type >= N_TYPES || !types[type].name)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, TENSOR "is of ggml type %llu, which is not known", r->name, shown,
                         (unsigned long long)type);
    array->element = types[type].element;
    array->dtype_name = types[type].name;
    const int64_t row = array->n_dims ? array->shape[array->n_dims - 1] : 1;
    if (row % types[type].block)
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has rows of %lld elements, %s comes in blocks of %u", r->name, shown, (long long)row,
                         types[type].name, (unsigned)types[type].block);
    if (!saei_array_count(&count, array) || !saei_mul(&array->bytes, count / types[type].block, types[type].bytes))
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "has a shape of more elements than any machine can address", r->name, shown);
    return SAE_OK;
}

/* Its offset is one in the data, which begins behind all descriptions: `place_tensors` checks it there. */
static sae_status read_info(reader *r)
{
    saei_array array = {.file = r->file_index};
    uint64_t offset = 0;
    char shown[SAEI_SHOWN];
    sae_status status = take_text(&array.name, r, "the name of a tensor");
    if (status || (status = read_shape(&array, r)) || (status = read_type(&array, r)) ||
        (status = take_number(&offset, r, 8, "a tensor's description")))
        return status;
    if (offset % r->alignment)
        return saei_fail(r->err, SAE_E_FORMAT, TENSOR "begins at byte %llu of the data, which is no multiple of the alignment, %zu",
                         r->name, saei_show(shown, array.name), (unsigned long long)offset, r->alignment);
    array.offset = offset <= SIZE_MAX ? (size_t)offset : SIZE_MAX;
    return saei_store_add(r->store, r->host, &array, r->name, r->err);
}

static sae_status place_tensors(reader *r)
{
    const size_t used = r->at % r->alignment, pad = used ? r->alignment - used : 0, rest = r->file->bytes - r->at;
    const size_t data_bytes = rest > pad ? rest - pad : 0;
    char shown[SAEI_SHOWN];
    for (uint32_t i = r->first; i < r->store->n_arrays; i++) {
        saei_array *array = &r->store->arrays[i];
        if (array->offset > data_bytes || array->bytes > data_bytes - array->offset)
            return saei_fail(r->err, SAE_E_FORMAT,
                             TENSOR
                             "has %zu bytes from byte %zu of the data on, but the file holds %zu bytes of data: it is cut off or damaged",
                             r->name, saei_show(shown, array->name), array->bytes, array->offset, data_bytes);
        array->offset += r->at + (rest > pad ? pad : rest);
        array->data = r->file->data + array->offset;
    }
    return SAE_OK;
}

static int by_place(const void *arg, uint32_t a, uint32_t b)
{
    const saei_array *v = arg;
    if (v[a].offset != v[b].offset)
        return v[a].offset < v[b].offset ? -1 : 1;
    return v[a].bytes < v[b].bytes ? -1 : v[a].bytes > v[b].bytes;
}

/* `ids` has room for the file's tensors. */
static sae_status check_overlap(const reader *r, uint32_t *ids, uint32_t n)
{
    const saei_array *arrays = r->store->arrays;
    char name[SAEI_SHOWN], before[SAEI_SHOWN];
    for (uint32_t i = 0; i < n; i++)
        ids[i] = r->first + i;
    saei_sort(ids, n, by_place, arrays);
    for (uint32_t i = 1; i < n; i++) {
        const saei_array *a = &arrays[ids[i - 1]], *b = &arrays[ids[i]];
        if (b->offset < a->offset + a->bytes)
            return saei_fail(r->err, SAE_E_FORMAT, "%s: tensors \"%s\" and \"%s\" overlap: one ends at byte %zu, the other begins at %zu",
                             r->name, saei_show(before, a->name), saei_show(name, b->name), a->offset + a->bytes, b->offset);
    }
    return SAE_OK;
}

static sae_status check_tensors(reader *r)
{
    const uint32_t n = r->store->n_arrays - r->first;
    sae_status status = place_tensors(r);
    if (status || !n)
        return status;
    uint32_t *ids = saei_alloc(r->host, n * sizeof *ids);
    if (!ids)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory to check the %u tensors of %s", (unsigned)n, r->name);
    status = check_overlap(r, ids, n);
    saei_dealloc(r->host, ids, n * sizeof *ids);
    return status;
}

/* ---- the file ---- */

static sae_status read_version(reader *r)
{
    uint64_t version = 0;
    const unsigned char *magic = take(r, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return saei_fail(r->err, SAE_E_FORMAT, "%s does not begin with GGUF", r->name);
    const sae_status status = take_number(&version, r, 4, "its version");
    if (status || version == 2 || version == 3)
        return status;
    if (version && !(version & 0xffff))
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "%s is a big-endian GGUF file: write it for a little-endian machine", r->name);
    return saei_fail(r->err, SAE_E_UNSUPPORTED, "%s is GGUF version %llu, versions 2 and 3 are read", r->name, (unsigned long long)version);
}

static sae_status read_counts(uint64_t *tensors, uint64_t *keys, reader *r)
{
    sae_status status;
    if ((status = take_number(tensors, r, 8, "its counts")) || (status = take_number(keys, r, 8, "its counts")))
        return status;
    const size_t left = r->file->bytes - r->at;
    if (*keys > left / LEAST_KEY || *tensors > left / LEAST_INFO)
        return saei_fail(r->err, SAE_E_FORMAT,
                         "%s claims %llu keys and %llu tensors, more than its %zu bytes can hold: it is cut off or damaged", r->name,
                         (unsigned long long)*keys, (unsigned long long)*tensors, r->file->bytes);
    return SAE_OK;
}

sae_status saei_read_gguf(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                          sae_error *err)
{
    reader r = {.store = store,
                .host = host,
                .file = file,
                .name = name,
                .err = err,
                .alignment = ALIGNMENT,
                .first = store->n_arrays,
                .file_index = file_index};
    uint64_t tensors = 0, keys = 0;
    sae_status status = read_version(&r);
    if (status || (status = read_counts(&tensors, &keys, &r)))
        return status;
    while (keys-- > 0 && !status)
        status = read_key(&r);
    while (!status && tensors-- > 0)
        status = read_info(&r);
    return status ? status : check_tensors(&r);
}
