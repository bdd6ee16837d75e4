/* Files of torch.save: zip archives, and the stream that torch wrote before 1.6. A pickle describes the tensors, storages hold their elements. */
#include "io/tensors.h"

#include <stdio.h>
#include <string.h>

#include "io/json.h"
#include "io/pickle.h"
#include "io/sort.h"
#include "io/zip.h"

enum {
    DEPTH = 8,               /* dicts and lists inside the outermost */
    LONGEST_NAME = 1023,     /* of a tensor, with the names of the dicts around it */
    MOST_STORAGES = 1 << 12, /* an archive's members are compared with each */
    MOST_REPEATED = 1 << 24, /* elements of a tensor that repeats those of its storage */
    TEXT_AT_LEAST = 1 << 20, /* bytes of names and strings that any file may make us copy */
    FIRST_OPCODE = 0x80,     /* PROTO, of every pickle from protocol 2 on */
    LEGACY_PROTOCOL = 1001,
    LEGACY_LENGTH = 8 /* bytes of a storage's length in a stream */
};

/* The elements of tensors. */
typedef struct storage {
    uint32_t value; /* of the pickle: the STORAGE that describes it */
    int32_t file;
    const unsigned char *data; /* NULL as long as it was not found */
    size_t bytes;
    size_t offset;
} storage;

typedef struct reader {
    saei_store *store;
    const saei_host *host;
    const saei_file *file;
    int32_t file_index;
    const char *name;
    sae_error *err;
    saei_pickle pickle;
    storage *storages; /* sorted by key */
    uint32_t n_storages;
    size_t text_left; /* bytes of names and strings that may still be copied: one string may stand in many places */
} reader;

/* ---- storages ---- */

static const saei_pickle_value *key_of(const saei_pickle *pickle, uint32_t value)
{
    return &pickle->v[saei_pickle_at(pickle, value, 2)];
}

static const saei_pickle_global *class_of(const saei_pickle *pickle, uint32_t value)
{
    return saei_pickle_global_of(pickle, saei_pickle_at(pickle, value, 1));
}

static int64_t count_of(const saei_pickle *pickle, uint32_t value)
{
    return pickle->v[saei_pickle_at(pickle, value, 4)].as.integer;
}

static int compare_text(const unsigned char *a, size_t n, const unsigned char *b, size_t m)
{
    const int order = memcmp(a, b, n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

static int by_key(const void *arg, uint32_t a, uint32_t b)
{
    const saei_pickle *pickle = arg;
    const saei_pickle_value *x = key_of(pickle, a), *y = key_of(pickle, b);
    const int order = compare_text(pickle->text + x->as.at, x->n, pickle->text + y->as.at, y->n);
    return order ? order : (a > b) - (a < b);
}

static storage *find_storage(const reader *r, const unsigned char *key, size_t n)
{
    uint32_t low = 0, high = r->n_storages;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const saei_pickle_value *at = key_of(&r->pickle, r->storages[middle].value);
        const int order = compare_text(key, n, r->pickle.text + at->as.at, at->n);
        if (!order)
            return &r->storages[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static sae_status fail_storage(const reader *r, uint32_t value, const char *why)
{
    const saei_pickle_value *key = key_of(&r->pickle, value);
    char shown[SAEI_SHOWN];
    return saei_fail(r->err, SAE_E_FORMAT, "%s: storage \"%s\" %s", r->name, saei_pickle_show(shown, r->pickle.text + key->as.at, key->n),
                     why);
}

/* `ids` are the storages that the pickle names, sorted by key, each as often as tensors use it: keeps each once, and counts them. */
static sae_status drop_repeated(const reader *r, uint32_t *ids, uint32_t *n)
{
    const saei_pickle *pickle = &r->pickle;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < *n; i++) {
        const saei_pickle_value *key = key_of(pickle, ids[i]), *last = kept ? key_of(pickle, ids[kept - 1]) : NULL;
        if (!last || compare_text(pickle->text + key->as.at, key->n, pickle->text + last->as.at, last->n) != 0)
            ids[kept++] = ids[i];
        else if (class_of(pickle, ids[i]) != class_of(pickle, ids[kept - 1]) || count_of(pickle, ids[i]) != count_of(pickle, ids[kept - 1]))
            return fail_storage(r, ids[i], "is described in two ways");
    }
    *n = kept;
    return SAE_OK;
}

static sae_status list_storages(reader *r, uint32_t *ids, uint32_t n)
{
    const sae_status status = drop_repeated(r, ids, &n);
    if (status)
        return status;
    if (n > MOST_STORAGES)
        return saei_fail(r->err, SAE_E_FORMAT, "%s holds more than %d storages: no SAE does", r->name, MOST_STORAGES);
    r->storages = saei_zalloc(r->host, n * sizeof *r->storages);
    if (!r->storages)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for the %u storages of %s", (unsigned)n, r->name);
    r->n_storages = n;
    for (uint32_t i = 0; i < n; i++)
        r->storages[i].value = ids[i];
    return SAE_OK;
}

static sae_status gather_storages(reader *r)
{
    const saei_pickle *pickle = &r->pickle;
    uint32_t n = 0;
    for (uint32_t i = 0; i < pickle->n; i++)
        n += pickle->v[i].kind == SAEI_PICKLE_STORAGE;
    if (!n)
        return SAE_OK;
    uint32_t *ids = saei_alloc(r->host, n * sizeof *ids);
    if (!ids)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for the %u storages of %s", (unsigned)n, r->name);
    for (uint32_t i = 0, at = 0; i < pickle->n; i++)
        if (pickle->v[i].kind == SAEI_PICKLE_STORAGE)
            ids[at++] = i;
    saei_sort(ids, n, by_key, pickle);
    const sae_status status = list_storages(r, ids, n);
    saei_dealloc(r->host, ids, n * sizeof *ids);
    return status;
}

/* The bytes that a storage has by its description. */
static sae_status described_bytes(size_t *bytes, const reader *r, const storage *s)
{
    const uint64_t count = (uint64_t)count_of(&r->pickle, s->value);
    return count <= SIZE_MAX && saei_mul(bytes, (size_t)count, class_of(&r->pickle, s->value)->bytes)
               ? SAE_OK
               : fail_storage(r, s->value, "has more elements than any machine can address");
}

/* The file holds `has` of the bytes that the description wants. */
static sae_status fail_size(const reader *r, const storage *s, size_t wants, uint64_t has)
{
    char why[96];
    snprintf(why, sizeof why, "has %zu bytes by its description, %llu in the file: it is damaged or cut off", wants,
             (unsigned long long)has);
    return fail_storage(r, s->value, why);
}

/* ---- tensors ---- */

enum { ARGS = 8 };

/* The arguments of a tensor, as its global takes them. */
typedef struct description {
    const storage *storage;
    const saei_pickle_global *type;
    const saei_pickle_value *size, *stride;
    size_t offset; /* in elements */
} description;

static sae_status fail_tensor(const reader *r, const char *name, sae_status status, const char *why)
{
    char shown[SAEI_SHOWN];
    return saei_fail(r->err, status, "%s: tensor \"%s\" %s", r->name, saei_show(shown, name), why);
}

/* The type of the elements: of the storage's class, or the seventh argument beside a storage of bytes. NULL when the two do not go together. */
static const saei_pickle_global *type_of(const reader *r, const uint32_t *args, saei_pickle_role role)
{
    const saei_pickle_global *class = class_of(&r->pickle, args[0]);
    if (role != SAEI_PICKLE_REBUILD_V3)
        return class->role == SAEI_PICKLE_CLASS ? class : NULL;
    const saei_pickle_global *dtype = saei_pickle_global_of(&r->pickle, args[6]);
    return class->role == SAEI_PICKLE_UNTYPED && dtype && dtype->role == SAEI_PICKLE_DTYPE ? dtype : NULL;
}

/* Are there as many arguments as the global takes, each of its kind? The last, metadata, may be absent. */
static bool describe(description *d, const reader *r, const saei_pickle_value *tensor, const saei_pickle_value **metadata)
{
    const saei_pickle *pickle = &r->pickle;
    const saei_pickle_role role = saei_pickle_global_of(pickle, tensor->as.items.last)->role;
    const uint32_t least = role == SAEI_PICKLE_REBUILD ? 4 : role == SAEI_PICKLE_REBUILD_V2 ? 6 : 7;
    const uint32_t most = role == SAEI_PICKLE_REBUILD ? 4 : least + 1;
    uint32_t args[ARGS] = {0};
    if (tensor->n < least || tensor->n > most)
        return false;
    for (uint32_t i = 0, item = tensor->as.items.first; i < tensor->n; i++, item = pickle->items[item].next)
        args[i] = pickle->items[item].value;
    const saei_pickle_value *v = pickle->v, *offset = &v[args[1]];
    if (v[args[0]].kind != SAEI_PICKLE_STORAGE || offset->kind != SAEI_PICKLE_INT || offset->as.integer < 0 ||
        (uint64_t)offset->as.integer > SIZE_MAX)
        return false;
    const saei_pickle_value *key = key_of(pickle, args[0]);
    *d = (description){.storage = find_storage(r, pickle->text + key->as.at, key->n),
                       .type = type_of(r, args, role),
                       .size = &v[args[2]],
                       .stride = &v[args[3]],
                       .offset = (size_t)offset->as.integer};
    *metadata = tensor->n > least ? &v[args[most - 1]] : NULL;
    return d->type && d->size->kind == SAEI_PICKLE_TUPLE && d->stride->kind == SAEI_PICKLE_TUPLE && d->size->n == d->stride->n;
}

/* What a shape and its strides span. */
typedef struct span {
    size_t count; /* elements */
    size_t last;  /* how far the last lies behind the first; of no meaning without elements */
} span;

static bool add_dimension(span *s, int64_t size, int64_t stride)
{
    size_t step = 0;
    if ((uint64_t)size > SIZE_MAX || (uint64_t)stride > SIZE_MAX || !saei_mul(&s->count, s->count, (size_t)size))
        return false;
    return size == 0 || (saei_mul(&step, (size_t)size - 1, (size_t)stride) && saei_add(&s->last, s->last, step));
}

static sae_status read_shape(saei_array *a, span *s, const reader *r, const description *d)
{
    const saei_pickle *pickle = &r->pickle;
    uint32_t size_at = d->size->as.items.first, stride_at = d->stride->as.items.first;
    a->n_dims = d->size->n;
    *s = (span){.count = 1};
    for (uint32_t i = 0; i < a->n_dims; i++) {
        const saei_pickle_value *size = &pickle->v[pickle->items[size_at].value], *stride = &pickle->v[pickle->items[stride_at].value];
        if (size->kind != SAEI_PICKLE_INT || stride->kind != SAEI_PICKLE_INT)
            return fail_tensor(r, a->name, SAE_E_FORMAT, "has a size or a stride that is no integer");
        if (size->as.integer < 0 || stride->as.integer < 0)
            return fail_tensor(r, a->name, SAE_E_FORMAT, "has a negative size or stride");
        if (!add_dimension(s, size->as.integer, stride->as.integer))
            return fail_tensor(r, a->name, SAE_E_FORMAT, "has more elements than any machine can address");
        if (i < SAEI_DIMS) {
            a->shape[i] = size->as.integer;
            a->stride[i] = stride->as.integer;
        }
        size_at = pickle->items[size_at].next;
        stride_at = pickle->items[stride_at].next;
    }
    return SAE_OK;
}

/* Puts the tensor into its storage, when all of it lies there. */
static sae_status place(saei_array *a, const reader *r, const description *d, const span *s)
{
    const size_t room = d->storage->bytes / d->type->bytes;
    char why[128];
    size_t end = d->offset;
    if (s->count && !(saei_add(&end, end, s->last) && saei_add(&end, end, 1)))
        end = SIZE_MAX;
    if (end > room) {
        snprintf(why, sizeof why, "reaches to element %zu of its storage, which has %zu", end, room);
        return fail_tensor(r, a->name, SAE_E_FORMAT, why);
    }
    if (s->count > room && s->count > MOST_REPEATED) {
        snprintf(why, sizeof why, "repeats the %zu elements of its storage to %zu: no SAE does", room, s->count);
        return fail_tensor(r, a->name, SAE_E_UNSUPPORTED, why);
    }
    const size_t before = d->offset * d->type->bytes;
    a->data = d->storage->data + before;
    a->bytes = d->storage->bytes - before;
    a->file = d->storage->file;
    a->offset = a->file < 0 ? 0 : d->storage->offset + before;
    return SAE_OK;
}

static sae_status add_tensor(reader *r, const char *name, const saei_pickle_value *tensor)
{
    saei_array a = {.name = name};
    const saei_pickle_value *metadata = NULL;
    description d;
    span s;
    sae_status status;
    if (!describe(&d, r, tensor, &metadata))
        return fail_tensor(r, name, SAE_E_FORMAT, "is described by arguments that its function does not take");
    if (metadata && metadata->kind != SAEI_PICKLE_NONE && metadata->n)
        return fail_tensor(r, name, SAE_E_UNSUPPORTED, "is a view that conjugates or negates: save a clone of it");
    a.element = d.type->element;
    a.dtype_name = d.type->dtype;
    if ((status = read_shape(&a, &s, r, &d)) || (status = place(&a, r, &d, &s)))
        return status;
    return saei_store_add(r->store, r->host, &a, r->name, r->err);
}

/* ---- the dict around them ---- */

/* A copy that the store owns. */
static sae_status copy_text(char **out, reader *r, const void *text, size_t n)
{
    if (n >= r->text_left)
        return saei_fail(r->err, SAE_E_FORMAT, "%s repeats its strings beyond all measure", r->name);
    r->text_left -= n;
    *out = saei_arena_text(&r->store->memory, r->host, text, n);
    return *out ? SAE_OK : saei_fail(r->err, SAE_E_NOMEM, "no memory for the names of %s", r->name);
}

static sae_status fail_value(const reader *r, const char *name, sae_status status, const char *why)
{
    char shown[SAEI_SHOWN];
    return saei_fail(r->err, status, "%s: \"%s\" %s", r->name, saei_show(shown, name), why);
}

static bool is_text(const void *text, size_t n)
{
    return !memchr(text, 0, n) && saei_utf8(text, n);
}

/* n > 8 bytes, two's complement, to the nearest double or about so. */
static double big_number(const unsigned char *p, uint32_t n)
{
    double number = p[n - 1] < 128 ? p[n - 1] : p[n - 1] - 256.0;
    for (uint32_t i = n - 1; i-- > 0;)
        number = 256.0 * number + p[i];
    return number;
}

static sae_status add_number(reader *r, const char *name, double number)
{
    const saei_value value = {.name = name, .number = number, .is_number = true};
    return saei_store_add_value(r->store, r->host, &value, r->name, r->err);
}

static sae_status add_string(reader *r, const char *name, const void *text, size_t n)
{
    char *copy = NULL;
    if (!is_text(text, n))
        return fail_value(r, name, SAE_E_FORMAT, "is a string that is no UTF-8, or holds a NUL");
    const sae_status status = copy_text(&copy, r, text, n);
    const saei_value value = {.name = name, .string = copy};
    return status ? status : saei_store_add_value(r->store, r->host, &value, r->name, r->err);
}

static sae_status add_named(reader *r, const char *name, uint32_t value)
{
    const saei_pickle_value *v = &r->pickle.v[value];
    const saei_pickle_global *global = saei_pickle_global_of(&r->pickle, value);
    if (v->kind == SAEI_PICKLE_TENSOR)
        return add_tensor(r, name, v);
    if (v->kind == SAEI_PICKLE_STRING)
        return add_string(r, name, r->pickle.text + v->as.at, v->n);
    if (global && global->role == SAEI_PICKLE_DTYPE)
        return add_string(r, name, global->dtype, strlen(global->dtype));
    if (v->kind == SAEI_PICKLE_FLOAT)
        return add_number(r, name, v->as.number);
    if (v->kind == SAEI_PICKLE_BIG)
        return add_number(r, name, big_number(r->pickle.text + v->as.at, v->n));
    if (v->kind == SAEI_PICKLE_INT || v->kind == SAEI_PICKLE_BOOL)
        return add_number(r, name, (double)v->as.integer);
    return fail_value(r, name, SAE_E_UNSUPPORTED, "is neither a tensor nor a number, a string, a dict or a list");
}

/* A dict, list or tuple that is being walked. */
typedef struct level {
    uint32_t item;  /* the next */
    uint32_t index; /* its place in a list */
    size_t name_bytes;
    bool dict;
} level;

typedef struct walker {
    reader *r;
    level levels[DEPTH + 1];
    uint32_t depth;
    uint32_t visits;
    size_t n; /* bytes of the name */
    char name[LONGEST_NAME + 1];
} walker;

static sae_status add_to_name(walker *w, const void *text, size_t n)
{
    const size_t dot = w->depth > 1;
    w->n = w->levels[w->depth - 1].name_bytes;
    if (n > LONGEST_NAME || w->n + dot + n > LONGEST_NAME)
        return saei_fail(w->r->err, SAE_E_FORMAT, "%s holds a name of more than %d bytes: no SAE does", w->r->name, LONGEST_NAME);
    if (!is_text(text, n))
        return saei_fail(w->r->err, SAE_E_FORMAT, "%s holds a name that is no UTF-8, or that holds a NUL", w->r->name);
    if (dot)
        w->name[w->n++] = '.';
    memcpy(w->name + w->n, text, n);
    w->n += n;
    w->name[w->n] = '\0';
    return SAE_OK;
}

static sae_status name_by_number(walker *w, int64_t number)
{
    char digits[24];
    const int n = snprintf(digits, sizeof digits, "%lld", (long long)number);
    return add_to_name(w, digits, (size_t)n);
}

static sae_status name_by_key(walker *w, const saei_pickle_value *key)
{
    char shown[SAEI_SHOWN];
    if (key->kind == SAEI_PICKLE_STRING)
        return add_to_name(w, w->r->pickle.text + key->as.at, key->n);
    if (key->kind == SAEI_PICKLE_INT)
        return name_by_number(w, key->as.integer);
    w->name[w->levels[w->depth - 1].name_bytes] = '\0';
    return saei_fail(w->r->err, SAE_E_UNSUPPORTED, "%s: the dict \"%s\" has a key that is neither a string nor an integer", w->r->name,
                     saei_show(shown, w->name));
}

/* A value under the name that has been made: added, left out (None), or walked next. */
static sae_status visit(walker *w, uint32_t value)
{
    const saei_pickle_value *v = &w->r->pickle.v[value];
    char *name = NULL;
    if (w->visits++ == SAEI_PICKLE_MOST)
        return saei_fail(w->r->err, SAE_E_FORMAT, "%s repeats its dicts beyond all measure", w->r->name);
    if (v->kind == SAEI_PICKLE_NONE)
        return SAE_OK;
    if (v->kind != SAEI_PICKLE_DICT && v->kind != SAEI_PICKLE_LIST && v->kind != SAEI_PICKLE_TUPLE) {
        const sae_status status = copy_text(&name, w->r, w->name, w->n);
        return status ? status : add_named(w->r, name, value);
    }
    if (w->depth > DEPTH)
        return fail_value(w->r, w->name, SAE_E_FORMAT, "lies more than 8 dicts and lists deep: no SAE does");
    w->levels[w->depth++] = (level){.item = v->as.items.first, .name_bytes = w->n, .dict = v->kind == SAEI_PICKLE_DICT};
    return SAE_OK;
}

/* The next of the innermost dict or list, or its end. */
static sae_status walk_on(walker *w)
{
    const saei_pickle_item *items = w->r->pickle.items;
    level *l = &w->levels[w->depth - 1];
    sae_status status;
    if (!l->item) {
        w->depth--;
        return SAE_OK;
    }
    if (l->dict) {
        status = name_by_key(w, &w->r->pickle.v[items[l->item].value]);
        l->item = items[l->item].next;
    } else
        status = name_by_number(w, l->index++);
    const uint32_t value = items[l->item].value;
    l->item = items[l->item].next;
    return status ? status : visit(w, value);
}

static sae_status add_all(reader *r)
{
    walker w = {.r = r};
    sae_status status = visit(&w, r->pickle.root);
    while (!status && w.depth)
        status = walk_on(&w);
    return status;
}

/* ---- zip archives ---- */

/* Where a member's bytes are, unpacked if they must be. */
static sae_status member_bytes(storage *out, reader *r, const saei_zip_member *member)
{
    out->bytes = member->bytes;
    if (!member->deflated) {
        out->data = r->file->data + member->offset;
        out->file = r->file_index;
        out->offset = member->offset;
        return SAE_OK;
    }
    unsigned char *unpacked = saei_arena_alloc(&r->store->memory, r->host, member->bytes);
    if (!unpacked)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for %zu bytes of %s", member->bytes, r->name);
    out->data = unpacked;
    out->file = -1;
    return saei_zip_unpack(unpacked, member, r->host, r->file, r->name, r->err);
}

/* PREFIX/data.pkl, or NULL. */
static const saei_zip_member *find_pickle(const saei_zip *zip, int *prefix)
{
    for (uint32_t i = 0; i < zip->n; i++) {
        const char *slash = strchr(zip->members[i].name, '/');
        if (slash && strcmp(slash, "/data.pkl") == 0 && slash - zip->members[i].name < LONGEST_NAME) {
            *prefix = (int)(slash - zip->members[i].name);
            return &zip->members[i];
        }
    }
    return NULL;
}

enum { LONGEST_PATH = LONGEST_NAME + 64 };

/* PREFIX/PATH, or NULL. */
static const saei_zip_member *find_member(const saei_zip *zip, const saei_zip_member *pickle, int prefix, const char *path)
{
    char name[LONGEST_PATH];
    snprintf(name, sizeof name, "%.*s/%s", prefix, pickle->name, path);
    return saei_zip_find(zip, name);
}

static sae_status check_archive(reader *r, const saei_zip *zip, const saei_zip_member *pickle, int prefix)
{
    const saei_zip_member *order = find_member(zip, pickle, prefix, "byteorder");
    storage bytes = {0};
    if (find_member(zip, pickle, prefix, "constants.pkl"))
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "%s is a TorchScript archive, which holds a program: save the state dict instead",
                         r->name);
    const sae_status status = order ? member_bytes(&bytes, r, order) : SAE_OK;
    if (status || !order)
        return status;
    return bytes.bytes == 6 && memcmp(bytes.data, "little", 6) == 0
               ? SAE_OK
               : saei_fail(r->err, SAE_E_UNSUPPORTED, "%s: its byteorder is not \"little\": save it on a little-endian machine", r->name);
}

static sae_status find_zip_storages(reader *r, const saei_zip *zip, const saei_zip_member *pickle, int prefix)
{
    for (uint32_t i = 0; i < r->n_storages; i++) {
        storage *s = &r->storages[i];
        const saei_pickle_value *key = key_of(&r->pickle, s->value);
        char path[sizeof "data/" + SAEI_PICKLE_KEY];
        size_t wants = 0;
        sae_status status = described_bytes(&wants, r, s);
        if (status)
            return status;
        const bool named = is_text(r->pickle.text + key->as.at, key->n);
        snprintf(path, sizeof path, "data/%.*s", (int)key->n, (const char *)r->pickle.text + key->as.at);
        const saei_zip_member *member = named ? find_member(zip, pickle, prefix, path) : NULL;
        if (!member)
            return fail_storage(r, s->value, "is missing in the archive");
        if (member->bytes != wants)
            return fail_size(r, s, wants, member->bytes);
        if ((status = member_bytes(s, r, member)))
            return status;
    }
    return SAE_OK;
}

static sae_status read_archive(reader *r, const saei_zip *zip)
{
    int prefix = 0;
    const saei_zip_member *pickle = find_pickle(zip, &prefix);
    storage text = {0};
    sae_status status;
    if (!pickle)
        return saei_fail(r->err, SAE_E_FORMAT, "%s is a zip archive without data.pkl: torch.save did not write it", r->name);
    if ((status = check_archive(r, zip, pickle, prefix)) || (status = member_bytes(&text, r, pickle)) ||
        (status = saei_pickle_read(&r->pickle, r->host, text.data, 0, text.bytes, r->name, r->err)) || (status = gather_storages(r)))
        return status;
    r->text_left += 4 * text.bytes;
    status = find_zip_storages(r, zip, pickle, prefix);
    return status ? status : add_all(r);
}

static sae_status read_zip(reader *r)
{
    saei_zip zip;
    sae_status status = saei_zip_read(&zip, r->host, r->file, r->name, r->err);
    if (status)
        return status;
    status = read_archive(r, &zip);
    saei_zip_free(&zip, r->host);
    return status;
}

/* ---- the stream of old: magic, protocol, system, object, keys of storages, storages ---- */

static bool is_magic(const saei_pickle *pickle)
{
    static const unsigned char magic[] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
    const saei_pickle_value *v = &pickle->v[pickle->root];
    return v->kind == SAEI_PICKLE_BIG && v->n == sizeof magic && memcmp(pickle->text + v->as.at, magic, sizeof magic) == 0;
}

static bool is_protocol(const saei_pickle *pickle)
{
    const saei_pickle_value *v = &pickle->v[pickle->root];
    return v->kind == SAEI_PICKLE_INT && v->as.integer == LEGACY_PROTOCOL;
}

/* {"little_endian": True, ...} */
static bool is_little(const saei_pickle *pickle)
{
    const saei_pickle_value *v = &pickle->v[pickle->root];
    if (v->kind != SAEI_PICKLE_DICT)
        return false;
    for (uint32_t item = v->as.items.first; item; item = pickle->items[pickle->items[item].next].next)
        if (saei_pickle_is(pickle, pickle->items[item].value, "little_endian")) {
            const saei_pickle_value *little = &pickle->v[pickle->items[pickle->items[item].next].value];
            return little->kind == SAEI_PICKLE_BOOL && little->as.integer;
        }
    return false;
}

/* The pickles in front of the object. */
static sae_status read_preamble(reader *r, size_t *at)
{
    static const struct {
        bool (*good)(const saei_pickle *pickle);
        const char *bad;
    } parts[] = {{is_magic, "is a plain pickle: torch.save did not write it"},
                 {is_protocol, "is a file of torch.save of another protocol than 1001: save it again with a newer torch"},
                 {is_little, "was not written on a little-endian machine: save it again on one"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        saei_pickle pickle;
        const sae_status status = saei_pickle_read(&pickle, r->host, r->file->data, *at, r->file->bytes, r->name, r->err);
        if (status)
            return status;
        const bool good = parts[i].good(&pickle);
        *at = pickle.end;
        saei_pickle_free(&pickle, r->host);
        if (!good)
            return saei_fail(r->err, SAE_E_UNSUPPORTED, "%s %s", r->name, parts[i].bad);
    }
    return SAE_OK;
}

/* The storage that begins with its length at *at. */
static sae_status read_stream_storage(reader *r, storage *s, size_t *at)
{
    uint64_t count = 0;
    size_t wants = 0;
    const sae_status status = described_bytes(&wants, r, s);
    if (status)
        return status;
    const size_t left = r->file->bytes - *at;
    if (left < LEGACY_LENGTH || left - LEGACY_LENGTH < wants)
        return fail_size(r, s, wants, left < LEGACY_LENGTH ? 0 : left - LEGACY_LENGTH);
    for (size_t i = LEGACY_LENGTH; i-- > 0;)
        count = count << 8 | r->file->data[*at + i];
    if (count != (uint64_t)count_of(&r->pickle, s->value))
        return fail_storage(r, s->value, "has another length in front of its data than by its description");
    s->offset = *at + LEGACY_LENGTH;
    s->data = r->file->data + s->offset;
    s->bytes = wants;
    s->file = r->file_index;
    *at = s->offset + wants;
    return SAE_OK;
}

static sae_status find_stream_storages(reader *r, const saei_pickle *keys)
{
    const saei_pickle_value *list = &keys->v[keys->root];
    size_t at = keys->end;
    if (list->kind != SAEI_PICKLE_LIST)
        return saei_fail(r->err, SAE_E_FORMAT, "%s has no list of storages behind its object", r->name);
    for (uint32_t item = list->as.items.first; item; item = keys->items[item].next) {
        const saei_pickle_value *key = &keys->v[keys->items[item].value];
        storage *s = key->kind == SAEI_PICKLE_STRING ? find_storage(r, keys->text + key->as.at, key->n) : NULL;
        if (!s || s->data)
            return saei_fail(r->err, SAE_E_FORMAT, "%s lists a storage that no tensor uses, or one twice", r->name);
        const sae_status status = read_stream_storage(r, s, &at);
        if (status)
            return status;
    }
    for (uint32_t i = 0; i < r->n_storages; i++)
        if (!r->storages[i].data)
            return fail_storage(r, r->storages[i].value, "is missing in the file");
    return SAE_OK;
}

static sae_status read_stream(reader *r)
{
    saei_pickle keys;
    size_t at = 0;
    sae_status status;
    if ((status = read_preamble(r, &at)) ||
        (status = saei_pickle_read(&r->pickle, r->host, r->file->data, at, r->file->bytes, r->name, r->err)) ||
        (status = gather_storages(r)) ||
        (status = saei_pickle_read(&keys, r->host, r->file->data, r->pickle.end, r->file->bytes, r->name, r->err)))
        return status;
    r->text_left += 4 * (r->pickle.end - at);
    status = find_stream_storages(r, &keys);
    saei_pickle_free(&keys, r->host);
    return status ? status : add_all(r);
}

/* ---- outside ---- */

sae_status saei_read_torch(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                           sae_error *err)
{
    reader r = {.store = store, .host = host, .file = file, .file_index = file_index, .name = name, .err = err, .text_left = TEXT_AT_LEAST};
    sae_status status;
    if (file->bytes >= 2 && memcmp(file->data, "PK", 2) == 0)
        status = read_zip(&r);
    else if (file->bytes && file->data[0] == FIRST_OPCODE)
        status = read_stream(&r);
    else
        return saei_fail(err, SAE_E_FORMAT, "%s (%zu bytes) is neither a zip archive nor a pickle: torch.save did not write it", name,
                         file->bytes);
    saei_dealloc(host, r.storages, r.n_storages * sizeof *r.storages);
    saei_pickle_free(&r.pickle, host);
    return status;
}
