#include <string.h>

#include "io/json.h"
#include "io/tensors.h"
#include "io/zip.h"

enum { MAGIC = 6, PREFIX = 8 /* magic and version */, MOST_DIMS = 64 /* of numpy */, LONGEST_DTYPE = 64 };

/* Begins every sentence about one array. */
#define ARRAY "%s: array \"%s\" "

typedef struct reader {
    saei_store *store;
    const saei_host *host;
    const saei_file *file;
    int32_t file_index;
    const char *file_name;
    sae_error *err;
} reader;

/* ---- the header: a Python dict as text ---- */

typedef struct header {
    const char *dtype; /* in the text, not terminated */
    size_t dtype_bytes;
    uint32_t n_dims;
    int64_t shape[SAEI_DIMS];
    size_t elements; /* sizes of 0 counted as 1: whatever strides make of them fits too */
    bool by_columns, empty;
} header;

typedef struct parser {
    const char *at, *end;
    const char *wrong;
    bool structured;
} parser;

static bool fail(parser *p, const char *wrong)
{
    p->wrong = wrong;
    return false;
}

static void skip_space(parser *p)
{
    while (p->at < p->end && memchr(" \t\r\n\f", *p->at, 5))
        p->at++;
}

/* Takes a character, and the spaces before it. */
static bool take(parser *p, char c)
{
    skip_space(p);
    if (p->at == p->end || *p->at != c)
        return false;
    p->at++;
    return true;
}

static bool take_word(parser *p, const char *word)
{
    const size_t n = strlen(word);
    skip_space(p);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0)
        return false;
    p->at += n;
    return true;
}

/* A string of plain characters in either quotes. */
static bool parse_string(parser *p, const char **out, size_t *n)
{
    const char quote = take(p, '\'') ? '\'' : '"';
    if (quote == '"' && !take(p, '"'))
        return fail(p, "a text in quotes is expected");
    for (*out = p->at; p->at < p->end && *p->at != quote; p->at++)
        if (*p->at < ' ' || *p->at > '~' || *p->at == '\\')
            return fail(p, "a text holds an unusual character");
    *n = (size_t)(p->at - *out);
    return take(p, quote) || fail(p, "it ends inside a text");
}

static bool parse_size(parser *p, int64_t *out)
{
    skip_space(p);
    const char *first = p->at;
    for (*out = 0; p->at < p->end && *p->at >= '0' && *p->at <= '9'; p->at++) {
        if (*out > (INT64_MAX - 9) / 10)
            return fail(p, "its shape has a size that no array has");
        *out = 10 * *out + (*p->at - '0');
    }
    if (p->at == first || (*first == '0' && p->at - first > 1))
        return fail(p, "its shape is not a tuple of sizes");
    return true;
}

static bool add_dim(parser *p, header *h, int64_t size)
{
    if (h->n_dims == MOST_DIMS)
        return fail(p, "its shape has more dimensions than any array");
    if (h->n_dims < SAEI_DIMS)
        h->shape[h->n_dims] = size;
    h->n_dims++;
    h->empty = h->empty || size == 0;
    if ((uint64_t)size > PTRDIFF_MAX || !saei_mul(&h->elements, h->elements, size ? (size_t)size : 1) || h->elements > PTRDIFF_MAX)
        return fail(p, "its shape has more elements than any machine can address");
    return true;
}

/* (), (3,), (3, 4) or (3, 4,). */
static bool parse_shape(parser *p, header *h)
{
    bool comma = true;
    int64_t size;
    if (!take(p, '('))
        return fail(p, "its shape is not a tuple of sizes");
    while (!take(p, ')')) {
        if (!comma || !parse_size(p, &size))
            return p->wrong ? false : fail(p, "its shape is not a tuple of sizes");
        if (!add_dim(p, h, size))
            return false;
        comma = take(p, ',');
    }
    return h->n_dims != 1 || comma || fail(p, "its shape is not a tuple of sizes");
}

enum { DESCR = 1, ORDER = 2, SHAPE = 4, ALL = DESCR | ORDER | SHAPE };

/* The value of a key; which one it was. 0 = wrong. */
static int parse_value(parser *p, header *h, const char *key, size_t n)
{
    if (n == 5 && memcmp(key, "descr", n) == 0) {
        if ((p->structured = take(p, '[')))
            return fail(p, "it is a structured array");
        return parse_string(p, &h->dtype, &h->dtype_bytes) ? DESCR : 0;
    }
    if (n == 13 && memcmp(key, "fortran_order", n) == 0) {
        h->by_columns = take_word(p, "True");
        return h->by_columns || take_word(p, "False") ? ORDER : fail(p, "fortran_order is neither True nor False");
    }
    if (n == 5 && memcmp(key, "shape", n) == 0)
        return parse_shape(p, h) ? SHAPE : 0;
    return fail(p, "it has a key other than descr, fortran_order and shape");
}

static bool parse_header(parser *p, header *h)
{
    int seen = 0;
    bool comma = true;
    const char *key;
    size_t n;
    *h = (header){.elements = 1};
    if (!take(p, '{'))
        return fail(p, "it is no dict");
    while (!take(p, '}')) {
        if (!comma)
            return fail(p, "',' or '}' is expected");
        if (!parse_string(p, &key, &n))
            return false;
        if (!take(p, ':'))
            return fail(p, "':' is expected behind a key");
        const int which = parse_value(p, h, key, n);
        if (!which)
            return false;
        if (seen & which)
            return fail(p, "it has a key twice");
        seen |= which;
        comma = take(p, ',');
    }
    skip_space(p);
    if (p->at != p->end)
        return fail(p, "something follows the dict");
    return seen == ALL || fail(p, "it lacks descr, fortran_order or shape");
}

/* ---- the type of the elements ---- */

static const struct {
    const char *name;
    saei_element element;
} dtypes[] = {{"<f4", SAEI_F32}, {"<f2", SAEI_F16}, {"<f8", SAEI_F64}, {"|b1", SAEI_BOOL}, {"<i8", SAEI_I64},
              {"<i4", SAEI_I32}, {"<i2", SAEI_I16}, {"|i1", SAEI_I8},  {"|u1", SAEI_U8}};

/* Bytes of an element that we do not compute with: "<u4", "<c8", "<U7", "|V2", "<M8[ns]". false: it is none of them. */
static bool other_bytes(size_t *out, const char *dtype)
{
    if ((*dtype != '<' && *dtype != '|') || !dtype[1] || !memchr("biufcSUVMm", dtype[1], 10))
        return false;
    const char *at = dtype + 2;
    for (*out = 0; *at >= '0' && *at <= '9'; at++)
        if (!saei_mul(out, *out, 10) || !saei_add(out, *out, (size_t)(*at - '0')))
            return false;
    if (dtype[1] == 'U' && !saei_mul(out, *out, 4))
        return false;
    return at > dtype + 2 && (!*at || (*at == '[' && (dtype[1] == 'M' || dtype[1] == 'm')));
}

static sae_status read_dtype(saei_array *a, size_t *each, const reader *r)
{
    const char *dtype = a->dtype_name;
    char name[SAEI_SHOWN], shown[SAEI_SHOWN];
    saei_show(name, a->name);
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(dtype, dtypes[i].name) == 0) {
            a->element = dtypes[i].element;
            *each = saei_element_bytes(a->element);
            return SAE_OK;
        }
    if (strcmp(dtype, "O") == 0 || strcmp(dtype + (*dtype != 0), "O") == 0)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, ARRAY "is an object array, a pickle inside npy: its contents are never run, nor read",
                         r->file_name, name);
    if (*dtype == '>')
        return saei_fail(r->err, SAE_E_UNSUPPORTED,
                         ARRAY "is big-endian (\"%s\"): save it with array.astype(array.dtype.newbyteorder('<'))", r->file_name, name,
                         saei_show(shown, dtype));
    if (!other_bytes(each, dtype))
        return saei_fail(r->err, SAE_E_UNSUPPORTED, ARRAY "has dtype \"%s\", which is not known", r->file_name, name,
                         saei_show(shown, dtype));
    a->element = SAEI_OTHER;
    return SAE_OK;
}

/* ---- an array ---- */

static void set_strides(saei_array *a, bool by_columns)
{
    int64_t step = 1;
    saei_array_row_major(a);
    for (uint32_t i = 0; by_columns && i < a->n_dims && i < SAEI_DIMS; i++) {
        a->stride[i] = step;
        step *= a->shape[i] ? a->shape[i] : 1;
    }
}

/* Shape and type of the array, whose data a->data[0 .. a->bytes) is. */
static sae_status describe(saei_array *a, const reader *r, const header *h)
{
    char name[SAEI_SHOWN];
    size_t each = 0, need = 0;
    a->dtype_name = saei_arena_text(&r->store->memory, r->host, h->dtype, h->dtype_bytes);
    if (!a->dtype_name)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for the names of %s", r->file_name);
    const sae_status status = read_dtype(a, &each, r);
    if (status)
        return status;
    saei_show(name, a->name);
    if (!saei_mul(&need, h->elements, each) || need > PTRDIFF_MAX)
        return saei_fail(r->err, SAE_E_FORMAT, ARRAY "has a shape of more elements than any machine can address", r->file_name, name);
    need = h->empty ? 0 : need;
    if (need != a->bytes)
        return saei_fail(r->err, SAE_E_FORMAT, ARRAY "needs %zu bytes by its shape and dtype, its member holds %zu", r->file_name, name,
                         need, a->bytes);
    a->n_dims = h->n_dims;
    memcpy(a->shape, h->shape, sizeof a->shape);
    set_strides(a, h->by_columns);
    return SAE_OK;
}

/* Where the text of the header begins and ends in the npy file p[0 .. n). */
static sae_status find_header(size_t *first, size_t *end, const reader *r, const char *array, const unsigned char *p, size_t n)
{
    char name[SAEI_SHOWN];
    saei_show(name, array);
    if (n < PREFIX || memcmp(p, "\x93NUMPY", MAGIC) != 0)
        return saei_fail(r->err, SAE_E_FORMAT, ARRAY "is not in numpy's format: it does not begin with \\x93NUMPY", r->file_name, name);
    if (p[6] < 1 || p[6] > 3 || p[7] != 0)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, ARRAY "is in version %d.%d of numpy's format; 1.0, 2.0 and 3.0 are read", r->file_name,
                         name, p[6], p[7]);
    *first = p[6] == 1 ? PREFIX + 2 : PREFIX + 4;
    if (n < *first)
        return saei_fail(r->err, SAE_E_FORMAT, ARRAY "ends inside its header", r->file_name, name);
    size_t length = 0;
    for (size_t i = *first; i-- > PREFIX;)
        length = length << 8 | p[i];
    if (length > n - *first)
        return saei_fail(r->err, SAE_E_FORMAT, ARRAY "has a header of %zu bytes, its member only %zu more", r->file_name, name, length,
                         n - *first);
    *end = *first + length;
    return SAE_OK;
}

/* Adds the array in the npy file p[0 .. n), which lies at a->offset of file a->file. */
static sae_status read_npy(saei_array *a, const reader *r, const unsigned char *p, size_t n)
{
    size_t first = 0, end = 0;
    header h;
    char name[SAEI_SHOWN];
    sae_status status = find_header(&first, &end, r, a->name, p, n);
    if (status)
        return status;
    parser text = {.at = (const char *)p + first, .end = (const char *)p + end};
    if (!parse_header(&text, &h) || h.dtype_bytes > LONGEST_DTYPE)
        return saei_fail(r->err, text.structured ? SAE_E_UNSUPPORTED : SAE_E_FORMAT, ARRAY "has a header that is not read: %s",
                         r->file_name, saei_show(name, a->name), text.wrong ? text.wrong : "its dtype is too long");
    a->data = p + end;
    a->bytes = n - end;
    a->offset = a->file < 0 ? 0 : a->offset + end;
    status = describe(a, r, &h);
    return status ? status : saei_store_add(r->store, r->host, a, r->file_name, r->err);
}

static sae_status read_member(const reader *r, const saei_zip_member *m, size_t name_bytes)
{
    saei_array a = {.file = r->file_index, .offset = m->offset, .name = saei_arena_text(&r->store->memory, r->host, m->name, name_bytes)};
    unsigned char *unpacked;
    if (!a.name)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for the names of %s", r->file_name);
    if (!m->deflated)
        return read_npy(&a, r, r->file->data + m->offset, m->bytes);
    a.file = -1;
    unpacked = saei_arena_alloc(&r->store->memory, r->host, m->bytes);
    if (!unpacked)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory to unpack %zu bytes of %s", m->bytes, r->file_name);
    const sae_status status = saei_zip_unpack(unpacked, m, r->host, r->file, r->file_name, r->err);
    return status ? status : read_npy(&a, r, unpacked, m->bytes);
}

sae_status saei_read_npz(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                         sae_error *err)
{
    static const char ending[] = ".npy";
    const reader r = {store, host, file, file_index, name, err};
    saei_zip zip;
    uint32_t found = 0;
    sae_status status = saei_zip_read(&zip, host, file, name, err);
    for (uint32_t i = 0; !status && i < zip.n; i++) {
        const size_t n = strlen(zip.members[i].name), tail = sizeof ending - 1;
        if (n < tail || strcmp(zip.members[i].name + n - tail, ending) != 0)
            continue;
        found++;
        status = read_member(&r, &zip.members[i], n - tail);
    }
    if (!status && !found)
        status = saei_fail(err, SAE_E_FORMAT, "%s: the archive holds no .npy file, which an npz file has", name);
    saei_zip_free(&zip, host);
    return status;
}
