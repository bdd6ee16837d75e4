/* Torch files: what torch.save wrote is read as it was, everything else is refused by a sentence, and nothing in a file is executed, takes
 * much memory, or is read past its end. */
#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "io/pickle.h"
#include "io/tensors.h"
#include "support/run.h"
#include "support/support.h"

#define LENGTH(a) (sizeof(a) / sizeof *(a))

static heap h;
static saei_host host;
static sae_error err;

static void setup(void)
{
    heap_init(&h);
    host = (saei_host){.alloc = heap_alloc, .dealloc = heap_free, .alloc_user = &h};
    saei_host_defaults(&host);
}

static void teardown(void)
{
    ck_assert_int_eq(h.live_bytes, 0);
}

/* ---- files, in blocks of their exact size ---- */

typedef struct bytes {
    unsigned char *data;
    size_t n;
} bytes;

static bytes bytes_copy(const void *data, size_t n)
{
    bytes b = {malloc(n + !n), n};
    ck_assert_ptr_nonnull(b.data);
    if (n)
        memcpy(b.data, data, n);
    return b;
}

static bytes bytes_of(const char *folder, const char *name, const char *ending)
{
    static unsigned char buffer[1 << 16];
    char path[256];
    snprintf(path, sizeof path, "tests/golden/%s/%s%s", folder, name, ending);
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s is not there", path);
    const size_t n = fread(buffer, 1, sizeof buffer, file);
    ck_assert(n < sizeof buffer && fclose(file) == 0);
    return bytes_copy(buffer, n);
}

static sae_status read_bytes(saei_store *store, const bytes *b)
{
    const saei_file file = {.data = b->n ? b->data : NULL, .bytes = b->n, .fd = -1};
    *store = (saei_store){0};
    memset(&err, 0, sizeof err);
    return saei_read_torch(store, &host, &file, 7, "t.pt", &err);
}

static void refuse(const bytes *b, sae_status want, const char *sentence, const char *what)
{
    saei_store store;
    const sae_status got = read_bytes(&store, b);
    ck_assert_msg(got == want && strstr(err.text, sentence), "%s: %s \"%s\", expected %s \"%s\"", what, sae_status_name(got),
                  got ? err.text : "", sae_status_name(want), sentence);
    ck_assert_msg(strstr(err.text, "t.pt") != NULL, "%s: \"%s\" does not name the file", what, err.text);
    ck_assert_msg(strlen(err.text) + 1 < sizeof err.text, "%s: \"%s\" is cut off", what, err.text);
    saei_store_free(&store, &host);
    ck_assert_int_eq(h.live_bytes, 0);
}

/* ---- a listing of what was read, as make_torch.py writes it ---- */

static char listed[1 << 15];
static size_t listed_bytes;

__attribute__((format(printf, 1, 2))) static void list(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    listed_bytes += (size_t)vsnprintf(listed + listed_bytes, sizeof listed - listed_bytes, format, args);
    va_end(args);
    ck_assert_uint_lt(listed_bytes, sizeof listed);
}

/* Offset of the i-th element in row-major order, in elements. */
static size_t offset_of(const saei_array *a, size_t i)
{
    size_t offset = 0;
    for (uint32_t d = a->n_dims; d-- > 0; i /= (size_t)a->shape[d])
        offset += i % (size_t)a->shape[d] * (size_t)a->stride[d];
    return offset;
}

static void list_elements(const saei_array *a)
{
    const size_t each = saei_element_bytes(a->element);
    size_t n;
    if (a->element == SAEI_OTHER || a->n_dims > SAEI_DIMS) {
        list("-");
        return;
    }
    ck_assert(saei_array_count(&n, a));
    for (size_t i = 0; i < n; i++) {
        const size_t at = offset_of(a, i) * each;
        ck_assert_uint_le(at + each, a->bytes);
        list("%s%.17g", i ? " " : "", saei_element_load(a->data + at, a->element));
    }
}

static void list_store(const saei_store *store)
{
    listed_bytes = 0;
    for (uint32_t i = 0; i < store->n_arrays; i++) {
        const saei_array *a = &store->arrays[i];
        list("tensor\t%s\t%s\t", a->name, a->dtype_name);
        for (uint32_t d = 0; d < a->n_dims && d < SAEI_DIMS; d++)
            list("%s%lld", d ? "," : "", (long long)a->shape[d]);
        list("%s\t", a->n_dims > SAEI_DIMS ? "..." : "");
        list_elements(a);
        list("\n");
    }
    for (uint32_t i = 0; i < store->n_values; i++) {
        const saei_value *v = &store->values[i];
        ck_assert(v->is_number == !v->string);
        v->string ? list("string\t%s\t%s\n", v->name, v->string) : list("number\t%s\t%.17g\n", v->name, v->number);
    }
}

static const char *const good[] = {"dtypes",      "views",        "nested",        "state_dict",    "tensor",
                                   "list",        "empty",        "deep",          "protocol4",     "protocol5",
                                   "deflated",    "legacy_views", "legacy_nested", "legacy_dtypes", "legacy_state_dict",
                                   "legacy_tiny", "legacy_empty"};

static const char folder[] = "containers/torch";

START_TEST(fixtures)
{
    bytes b = bytes_of(folder, good[_i], ".pt"), want = bytes_of(folder, good[_i], ".txt");
    saei_store store;
    const sae_status status = read_bytes(&store, &b);
    ck_assert_msg(status == SAE_OK, "%s: %s", good[_i], err.text);
    list_store(&store);
    ck_assert_msg(listed_bytes == want.n && memcmp(listed, want.data, want.n) == 0, "%s: read\n%sexpected\n%.*s", good[_i], listed,
                  (int)want.n, (const char *)want.data);
    for (uint32_t i = 0; i < store.n_arrays; i++) {
        const saei_array *a = &store.arrays[i];
        ck_assert_msg(a->file == (strcmp(good[_i], "deflated") && strcmp(a->name, "none") ? 7 : a->file), "%s: %s", good[_i], a->name);
        ck_assert(a->file < 0 || (a->data == b.data + a->offset && a->bytes <= b.n - a->offset));
    }
    ck_assert_int_lt(h.most_bytes, (long)(64 * b.n));
    saei_store_free(&store, &host);
    free(b.data);
    free(want.data);
}
END_TEST

START_TEST(kinds_of_elements)
{
    static const struct {
        const char *name;
        saei_element element;
    } kinds[] = {{"float32", SAEI_F32},
                 {"float16", SAEI_F16},
                 {"bfloat16", SAEI_BF16},
                 {"float64", SAEI_F64},
                 {"float8_e4m3fn", SAEI_F8_E4M3},
                 {"float8_e5m2", SAEI_F8_E5M2},
                 {"int64", SAEI_I64},
                 {"int32", SAEI_I32},
                 {"int16", SAEI_I16},
                 {"int8", SAEI_I8},
                 {"uint8", SAEI_U8},
                 {"bool", SAEI_BOOL},
                 {"uint16", SAEI_OTHER},
                 {"float8_e8m0fnu", SAEI_OTHER}};
    bytes b = bytes_of(folder, "dtypes", ".pt");
    saei_store store;
    ck_assert_int_eq(read_bytes(&store, &b), SAE_OK);
    for (size_t i = 0; i < LENGTH(kinds); i++) {
        const saei_array *a = saei_store_find(&store, kinds[i].name);
        ck_assert_msg(a && a->element == kinds[i].element, "%s", kinds[i].name);
    }
    saei_store_free(&store, &host);
    free(b.data);
}
END_TEST

/* A view keeps its storage: nothing is copied. */
START_TEST(shared_storages)
{
    bytes b = bytes_of(folder, "views", ".pt");
    saei_store store;
    ck_assert_int_eq(read_bytes(&store, &b), SAE_OK);
    const saei_array *base = saei_store_find(&store, "base"), *part = saei_store_find(&store, "part");
    const saei_array *transposed = saei_store_find(&store, "transposed"), *repeated = saei_store_find(&store, "repeated");
    ck_assert(base && part && transposed && repeated);
    ck_assert_ptr_eq(part->data, base->data + 8 * sizeof(float));
    ck_assert_ptr_eq(transposed->data, base->data);
    ck_assert(base->stride[0] == 6 && base->stride[1] == 1 && transposed->stride[0] == 1 && transposed->stride[1] == 6);
    ck_assert(repeated->stride[0] == 0 && repeated->shape[0] == 5 && repeated->bytes == sizeof(float));
    ck_assert_uint_eq(base->bytes, 24 * sizeof(float));
    saei_store_free(&store, &host);
    free(b.data);
}
END_TEST

/* ---- refused: good files of torch that hold something else, and damaged ones ---- */

typedef struct refused_file {
    const char *name;
    sae_status status;
    const char *sentence;
} refused_file;

static const refused_file refused[] = {
    {"refused_sparse", SAE_E_UNSUPPORTED, "t.pt names the global torch._utils._rebuild_sparse_tensor, which is not one that tensors need"},
    {"refused_complex", SAE_E_UNSUPPORTED, "the global torch.ComplexFloatStorage,"},
    {"refused_negated", SAE_E_UNSUPPORTED, "tensor \"x\" is a view that conjugates or negates"},
    {"refused_quantized", SAE_E_UNSUPPORTED, "the global torch._utils._rebuild_qtensor,"},
    {"refused_noted", SAE_E_UNSUPPORTED, "the global torch._tensor._rebuild_from_type_v2,"},
    {"refused_bytes", SAE_E_UNSUPPORTED, "the global _codecs.encode,"},
    {"refused_set", SAE_E_UNSUPPORTED, "the global __builtin__.set,"},
    {"refused_number", SAE_E_UNSUPPORTED, "the global numpy._core.multiarray.scalar,"},
    {"refused_array", SAE_E_UNSUPPORTED, "the global numpy._core.multiarray._reconstruct,"},
    {"refused_key", SAE_E_UNSUPPORTED, "the dict \"x\" has a key that is neither a string nor an integer"},
    {"refused_class", SAE_E_UNSUPPORTED,
     "t.pt names the global argparse.Namespace, which is not one that tensors need: nothing in a file is"},
    {"refused_script", SAE_E_UNSUPPORTED, "is a TorchScript archive"},
    {"refused_big_endian", SAE_E_UNSUPPORTED, "byteorder is not \"little\""},
    {"refused_without_pickle", SAE_E_FORMAT, "is a zip archive without data.pkl"},
};

START_TEST(refused_by_name)
{
    bytes b = bytes_of(folder, refused[_i].name, ".pt");
    refuse(&b, refused[_i].status, refused[_i].sentence, refused[_i].name);
    free(b.data);
}
END_TEST

static const refused_file bad[] = {
    {"pt_os_system.pt", SAE_E_UNSUPPORTED,
     "t.pt names the global posix.system, which is not one that tensors need: nothing in a file is executed"},
    {"pt_plain_pickle_os_system.pt", SAE_E_UNSUPPORTED, "the global posix.system,"},
    {"pt_truncated_zip.pt", SAE_E_FORMAT, "no zip end record"},
    {"pt_truncated_legacy.pt", SAE_E_FORMAT, "by its description"},
    {"pt_empty.pt", SAE_E_FORMAT, "t.pt (0 bytes) is neither a zip archive nor a pickle"},
    {"pt_old_saetraining_cfg_object.pt", SAE_E_UNSUPPORTED, "the global sae_training.config.LanguageModelSAERunnerConfig,"},
    {"pt_whole_module.pt", SAE_E_UNSUPPORTED, "the global torch.nn.modules.container.Sequential,"},
    {"pt_storage_too_small.pt", SAE_E_FORMAT, "has 960 bytes by its description, 16 in the file"},
    {"pt_missing_storage.pt", SAE_E_FORMAT, "storage \"1\" is missing in the archive"},
};

START_TEST(bad_files)
{
    bytes b = bytes_of("bad", bad[_i].name, "");
    refuse(&b, bad[_i].status, bad[_i].sentence, bad[_i].name);
    free(b.data);
}
END_TEST

/* The table above leaves out no torch file that the manifest lists. */
START_TEST(manifest_is_covered)
{
    bytes text = bytes_of("bad", "manifest.json", "");
    saei_json json;
    size_t n = 0;
    ck_assert_int_eq(saei_json_parse(&json, &host, (const char *)text.data, text.n, "manifest.json", &err), SAE_OK);
    const uint32_t entries = saei_json_member(&json, 0, "entries");
    for (uint32_t i = entries + 1; i < json.v[entries].next; i = json.v[i].next) {
        const char *path = saei_json_string(&json, saei_json_member(&json, i, "path"));
        if (strncmp(path, "pt_", 3) != 0) /* the others are for the readers of formats */
            continue;
        bool is_listed = false;
        for (size_t j = 0; j < LENGTH(bad); j++)
            is_listed = is_listed || strcmp(path, bad[j].name) == 0;
        ck_assert_msg(is_listed, "%s is not tested", path);
        n++;
    }
    ck_assert_uint_eq(n, LENGTH(bad));
    saei_json_free(&json, &host);
    free(text.data);
}
END_TEST

/* ---- streams by hand: octal, so that a letter may follow; \200\2 is PROTO, \205 to \207 are TUPLE1 to 3, \210 NEWTRUE, \212 LONG1 ---- */

#define MAGIC "\200\2\212\12\154\374\234\106\371\40\152\250\120\31."
#define PROTOCOL "\200\2M\351\3."
#define SYSTEM "\200\2}U\15little_endian\210s."
#define BEFORE MAGIC PROTOCOL SYSTEM

/* ("storage", torch.FloatStorage, "s", "cpu", count) as a persistent id, and a tensor of it; both leave one value on the stack. */
#define STORAGE_OF(class, count) "(U\7storagectorch\n" class "\nU\1sU\3cpu" count "tQ"
#define STORAGE STORAGE_OF("FloatStorage", "K\2")
#define TENSOR(storage, offset, size, stride) \
    "ctorch._utils\n_rebuild_tensor_v2\n(" storage offset size stride "\211ccollections\nOrderedDict\n)RtR"
#define UNTYPED(count) "(U\7storagectorch.storage\nUntypedStorage\nU\1sU\3cpu" count "tQ"
#define TENSOR_V3(storage, offset, size, stride, dtype) \
    "ctorch._utils\n_rebuild_tensor_v3\n(" storage offset size stride "\211ccollections\nOrderedDict\n)R" dtype "tR"
#define KEYS "\200\2]U\1sa."
#define DATA "\2\0\0\0\0\0\0\0\0\0\200\77\0\0\0\100"
#define OBJECT(x) "\200\2" x "."

/* The bytes of a literal with NULs inside. */
#define BYTES(literal) literal, sizeof(literal) - 1

typedef struct stream {
    const char *data;
    size_t n;
    sae_status status;
    const char *sentence; /* or the listing of what is read */
} stream;

#define DAMAGED(x, sentence)                            \
    {                                                   \
        BYTES(BEFORE OBJECT(x)), SAE_E_FORMAT, sentence \
    }
#define UNSUPPORTED(x, sentence)                             \
    {                                                        \
        BYTES(BEFORE OBJECT(x)), SAE_E_UNSUPPORTED, sentence \
    }
#define ON_STORAGE(x, status, sentence)                     \
    {                                                       \
        BYTES(BEFORE OBJECT(x) KEYS DATA), status, sentence \
    }

#define ON_BYTES(x, status, sentence)                                                           \
    {                                                                                           \
        BYTES(BEFORE OBJECT(x) KEYS "\10\0\0\0\0\0\0\0\0\0\200\77\0\0\0\100"), status, sentence \
    }

static const stream streams[] = {
    /* What torch has written at some time, or could. */
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\2\205", "K\1\205"), SAE_OK, "tensor\t\ttorch.float32\t2\t1 2\n"),
    ON_STORAGE(TENSOR(STORAGE, "K\1", ")", ")"), SAE_OK, "tensor\t\ttorch.float32\t\t2\n"),
    ON_STORAGE("ctorch._utils\n_rebuild_tensor\n(" STORAGE "K\1K\1\205K\1\205tR", SAE_OK, "tensor\t\ttorch.float32\t1\t2\n"),
    ON_STORAGE("(U\1a" TENSOR(STORAGE, "K\0", "K\2\205", "K\1\205") "q\7U\1bh\7d", SAE_OK,
               "tensor\ta\ttorch.float32\t2\t1 2\ntensor\tb\ttorch.float32\t2\t1 2\n"),
    {BYTES(BEFORE OBJECT("(U\1aK\5U\1b(K\1G\77\370\0\0\0\0\0\0lU\1cJ\377\377\377\377T\1\0\0\0dNd") "\200\2]."), SAE_OK,
     "number\ta\t5\nnumber\tb.0\t1\nnumber\tb.1\t1.5\nnumber\tc\t-1\n"},
    {BYTES(BEFORE OBJECT("(K\1K\0021(K\00300K\7\205") "\200\2]."), SAE_OK, "number\t0\t7\n"},
    {BYTES(BEFORE OBJECT("}\213\0\0\0\0\212\0s") "\200\2]."), SAE_OK, "number\t0\t0\n"},
    {BYTES(
         BEFORE OBJECT("(\212\1\377\212\2\377\177\212\10\0\0\0\0\0\0\0\200\213\11\0\0\0\377\377\377\377\377\377\377\377\377t") "\200\2]."),
     SAE_OK, "number\t0\t-1\nnumber\t1\t32767\nnumber\t2\t-9.2233720368547758e+18\nnumber\t3\t-1\n"},

    /* The stream. */
    {BYTES("\200\2K\1."), SAE_E_UNSUPPORTED, "is a plain pickle"},
    {BYTES("\200\2\212\12\154\374\234\106\371\40\152\250\120\32."), SAE_E_UNSUPPORTED, "is a plain pickle"},
    {BYTES(MAGIC "\200\2M\352\3."), SAE_E_UNSUPPORTED, "of another protocol than 1001"},
    {BYTES(MAGIC PROTOCOL "\200\2}U\15little_endian\211s."), SAE_E_UNSUPPORTED, "not written on a little-endian machine"},
    {BYTES(MAGIC PROTOCOL "\200\2}."), SAE_E_UNSUPPORTED, "not written on a little-endian machine"},
    {BYTES(MAGIC PROTOCOL "\200\2N."), SAE_E_UNSUPPORTED, "not written on a little-endian machine"},
    {BYTES(BEFORE OBJECT("}")), SAE_E_FORMAT, "the pickle is damaged at byte 46: it is cut off"},
    {BYTES(BEFORE OBJECT("}") "\200\2}."), SAE_E_FORMAT, "no list of storages"},
    {BYTES(BEFORE OBJECT("}") KEYS DATA), SAE_E_FORMAT, "lists a storage that no tensor uses, or one twice"},
    {BYTES(BEFORE OBJECT("}") "\200\2]K\1a."), SAE_E_FORMAT, "lists a storage that no tensor uses, or one twice"},
    {BYTES(BEFORE OBJECT(STORAGE) "\200\2](U\1sU\1se." DATA DATA), SAE_E_FORMAT, "or one twice"},
    {BYTES(BEFORE OBJECT(STORAGE) "\200\2]."), SAE_E_FORMAT, "storage \"s\" is missing in the file"},
    {BYTES(BEFORE OBJECT(STORAGE) KEYS "\2\0\0\0\0\0\0"), SAE_E_FORMAT, "storage \"s\" has 8 bytes by its description, 0 in the file"},
    {BYTES(BEFORE OBJECT(STORAGE) KEYS "\2\0\0\0\0\0\0\0ABCDEFG"), SAE_E_FORMAT, "has 8 bytes by its description, 7 in the file"},
    {BYTES(BEFORE OBJECT(STORAGE) KEYS "\3\0\0\0\0\0\0\0ABCDEFGHIJKL"), SAE_E_FORMAT, "has another length in front of its data"},
    ON_STORAGE(STORAGE, SAE_E_UNSUPPORTED, "\"\" is neither a tensor nor a number"),
    ON_STORAGE(STORAGE_OF("FloatStorage", "\212\10\0\0\0\0\0\0\0\160"), SAE_E_FORMAT, "storage \"s\" has more elements than any machine"),
    ON_STORAGE("(" STORAGE STORAGE_OF("FloatStorage", "K\1") "t", SAE_E_FORMAT, "storage \"s\" is described in two ways"),
    ON_STORAGE("(" STORAGE STORAGE_OF("HalfStorage", "K\2") "t", SAE_E_FORMAT, "storage \"s\" is described in two ways"),

    /* Tensors. */
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\3\205", "K\1\205"), SAE_E_FORMAT, "tensor \"\" reaches to element 3 of its storage, which has 2"),
    ON_STORAGE(TENSOR(STORAGE, "K\1", "K\2\205", "K\1\205"), SAE_E_FORMAT, "reaches to element 3"),
    ON_STORAGE(TENSOR(STORAGE, "K\2", ")", ")"), SAE_E_FORMAT, "reaches to element 3"),
    ON_STORAGE(TENSOR(STORAGE, "K\3", "K\0\205", "K\1\205"), SAE_E_FORMAT, "reaches to element 3"),
    ON_STORAGE(TENSOR(STORAGE, "K\2", "K\0\205", "K\1\205"), SAE_OK, "tensor\t\ttorch.float32\t0\t\n"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\2\205", "K\2\205"), SAE_E_FORMAT, "reaches to element 3"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\2K\2\206", "K\1K\1\206"), SAE_E_FORMAT, "reaches to element 3"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\1K\2\206", "K\143K\1\206"), SAE_OK, "tensor\t\ttorch.float32\t1,2\t1 2\n"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\3\205", "K\0\205"), SAE_OK, "tensor\t\ttorch.float32\t3\t1 1 1\n"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "J\377\377\377\377\205", "K\1\205"), SAE_E_FORMAT, "tensor \"\" has a negative size or stride"),
    ON_STORAGE(TENSOR(STORAGE, "K\1", "K\2\205", "J\377\377\377\377\205"), SAE_E_FORMAT, "tensor \"\" has a negative size or stride"),
    ON_STORAGE(TENSOR(STORAGE, "J\377\377\377\377", "K\2\205", "K\1\205"), SAE_E_FORMAT, "arguments that its function does not take"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\2K\1\206", "K\1\205"), SAE_E_FORMAT, "arguments that its function does not take"),
    {BYTES(BEFORE OBJECT(TENSOR("N", "K\0", "K\2\205", "K\1\205")) "\200\2]."), SAE_E_FORMAT, "that its function does not take"},
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\2", "K\1"), SAE_E_FORMAT, "arguments that its function does not take"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\2\205", "K\1\205NNN"), SAE_E_FORMAT, "arguments that its function does not take"),
    ON_STORAGE(TENSOR(STORAGE_OF("FloatStorage", "K\2"), "", "K\2\205", "K\1\205"), SAE_E_FORMAT, "arguments that its function"),
    ON_BYTES(TENSOR(UNTYPED("K\10"), "K\0", "K\2\205", "K\1\205"), SAE_E_FORMAT, "arguments that its function does not take"),
    ON_BYTES(TENSOR_V3(UNTYPED("K\10"), "K\1", "K\1\205", "K\1\205", "ctorch\nfloat32\n"), SAE_OK, "tensor\t\ttorch.float32\t1\t2\n"),
    ON_BYTES(TENSOR_V3(UNTYPED("K\10"), "K\1", "K\1\205", "K\1\205", "N"), SAE_E_FORMAT, "arguments that its function does not take"),
    ON_STORAGE(TENSOR_V3(STORAGE, "K\1", "K\1\205", "K\1\205", "ctorch\nfloat32\n"), SAE_E_FORMAT, "that its function does not take"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "\210\205", "K\1\205"), SAE_E_FORMAT, "has a size or a stride that is no integer"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\2\205", "N\205"), SAE_E_FORMAT, "has a size or a stride that is no integer"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "K\2\205", "\212\10\377\377\377\377\377\377\377\177\205"), SAE_E_FORMAT, "reaches to element"),
    ON_STORAGE(TENSOR(STORAGE, "K\1", "K\3\205", "\212\10\377\377\377\377\377\377\377\177\205"), SAE_E_FORMAT, "reaches to element"),
    ON_STORAGE(TENSOR(STORAGE, "K\1", "K\4\205", "\212\10\377\377\377\377\377\377\377\177\205"), SAE_E_FORMAT, "more elements than any"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "J\377\377\377\177J\377\377\377\177J\377\377\377\177\207", "K\0K\0K\0\207"), SAE_E_FORMAT,
               "more elements than any machine"),
    ON_STORAGE(TENSOR(STORAGE, "K\0", "J\377\377\377\177\205", "K\0\205"), SAE_E_UNSUPPORTED,
               "repeats the 2 elements of its storage to 2147483647"),
    ON_STORAGE(TENSOR(STORAGE_OF("UntypedStorage", "K\2"), "K\0", "K\2\205", "K\1\205"), SAE_E_UNSUPPORTED,
               "the global torch.UntypedStorage"),
    ON_STORAGE("(U\1a" TENSOR(STORAGE, "K\0", ")", ")") "U\1a" TENSOR(STORAGE, "K\0", ")", ")") "d", SAE_E_FORMAT, "\"a\" is there twice"),

    /* Opcodes. */
    DAMAGED("\377", "the pickle is damaged at byte 44: this byte is no opcode"),
    DAMAGED("", "the pickle is damaged at byte 44: its stack lacks a value"),
    DAMAGED("NN", "values are left on its stack"),
    DAMAGED("(", "its stack lacks a value"),
    DAMAGED("(N", "values are left on its stack"),
    DAMAGED("N\206", "its stack lacks a value"),
    DAMAGED("(\205", "its stack lacks a value"),
    DAMAGED("t", "its stack lacks a mark"),
    DAMAGED("l", "its stack lacks a mark"),
    DAMAGED("(Nd", "a key lacks its value"),
    DAMAGED("(NNNd", "a key lacks its value"),
    {BYTES(BEFORE OBJECT("](e(Ne(e") "\200\2]."), SAE_OK, ""},
    DAMAGED("(Ne", "its stack lacks a value"),
    DAMAGED("N(Ne", "what it appends to is no list"),
    DAMAGED("}Na", "what it appends to is no list"),
    DAMAGED("](Nu", "what it sets items of is no dict"),
    DAMAGED("](NNu", "what it sets items of is no dict"),
    DAMAGED("}(Nu", "a key lacks its value"),
    DAMAGED("NNs", "its stack lacks a value"),
    DAMAGED("](a", "its stack lacks a value"),
    DAMAGED("}N(s", "its stack lacks a value"),
    DAMAGED("0", "its stack lacks a value"),
    DAMAGED("1", "its stack lacks a mark"),
    DAMAGED("q\0N", "its stack lacks a value"),
    DAMAGED("(q\0N", "its stack lacks a value"),
    DAMAGED("h\0", "its memo lacks what it asks for"),
    DAMAGED("Nq\2h\1", "its memo lacks what it asks for"),
    DAMAGED("Nq\4", "its memo has a number that is too large"),
    DAMAGED("Nr\377\377\377\377", "its memo has a number that is too large"),
    DAMAGED("Nr\0\0\20\0", "its memo has a number that is too large"),
    DAMAGED("\224N", "its stack lacks a value"),
    DAMAGED("NNR", "it calls what is no global"),
    DAMAGED("N)R", "it calls what is no global"),
    DAMAGED("ctorch\nSize\nNR", "it calls what is no global"),
    DAMAGED("ctorch\nSize\n)R", "a global has arguments that it does not take"),
    DAMAGED("ctorch\nSize\nN\205R", "a global has arguments that it does not take"),
    DAMAGED("ctorch\ndevice\nN\205R", "a global has arguments that it does not take"),
    DAMAGED("ctorch._utils\n_rebuild_parameter\n)\205R", "a global has arguments that it does not take"),
    DAMAGED("ctorch\nfloat32\n)R", "it calls a global that is no function"),
    DAMAGED("ctorch\nFloatStorage\n)R", "it calls a global that is no function"),
    DAMAGED("ccollections\nOrderedDict\n]\205R", "an OrderedDict is made with arguments"),
    DAMAGED("N}b", "it sets the attributes of what has none"),
    DAMAGED("}b", "it sets the attributes of what has none"),
    DAMAGED("NQ", "a persistent id is no description of a storage"),
    DAMAGED("(NNNNNtQ", "a persistent id is no description of a storage"),
    DAMAGED("(U\7storagectorch\nfloat32\nU\1sU\3cpuK\1tQ", "a persistent id is no description of a storage"),
    DAMAGED("(U\7storagectorch\nFloatStorage\nU\1sU\3cpuJ\377\377\377\377tQ", "a persistent id is no description of a storage"),
    DAMAGED("(U\7storagectorch\nFloatStorage\nNU\3cpuK\1tQ", "a persistent id is no description of a storage"),
    DAMAGED("(U\7storagectorch\nFloatStorage\nU\1sU\3cpuK\1K\0tQ", "a persistent id is no description of a storage"),
    DAMAGED("(U\7storagectorch\nFloatStorage\nU\1sU\3cpuK\1NNtQ", "a persistent id is no description of a storage"),
    DAMAGED("NN\223", "the name of a global is no string"),
    DAMAGED("c", "it is cut off inside a name"),
    DAMAGED("ctorch\nSize", "it is cut off inside a name"),
    DAMAGED("U\177", "it is cut off inside a string"),
    DAMAGED("X\377\377\377\377", "it is cut off inside a string"),
    DAMAGED("\215\377\377\377\377\377\377\377\377", "it is cut off inside a string"),
    DAMAGED("\212\11zzz", "it is cut off inside a string"),
    DAMAGED("\213\377\377\377\377", "it is cut off inside a string"),
    DAMAGED("G\0\0", "it is cut off"),
    DAMAGED("\225\0\0", "it is cut off"),
    {BYTES("\200\1N."), SAE_E_FORMAT, "its protocol is none of 2 to 5"},
    {BYTES("\200\6N."), SAE_E_FORMAT, "its protocol is none of 2 to 5"},
    {BYTES("\200"), SAE_E_FORMAT, "it is cut off"},
    {BYTES("N."), SAE_E_FORMAT, "neither a zip archive nor a pickle"},
    {BYTES("P"), SAE_E_FORMAT, "neither a zip archive nor a pickle"},
    {BYTES("PK"), SAE_E_FORMAT, "no zip end record"},
    UNSUPPORTED("(icos\nsystem\n", "its pickle uses the opcode INST"),
    UNSUPPORTED("cos\nsystem\n(U\2lstR", "the global os.system,"),
    UNSUPPORTED("U\10builtinsU\4eval\223", "the global builtins.eval,"),
    UNSUPPORTED("ctorch\nSize.__new__\n", "the global torch.Size.__new__,"),
    UNSUPPORTED("c\n\n", "the global .,"),
    UNSUPPORTED("c\377\376\nb\r\t\0\177\n", "the global ??.b????,"),
    UNSUPPORTED("c__builtin__\na_name_of_a_class_that_goes_on_and_on_and_on_and_on_and_on_and_on\n",
                "the global __builtin__.a_name_of_a_class_that_goes_on_and_on_and_on..., which"),
    UNSUPPORTED("ctorch\nSize\n)\201", "the opcode NEWOBJ,"),
    UNSUPPORTED("\217", "the opcode EMPTY_SET,"),
    UNSUPPORTED("B\0\0\0\0", "the opcode BINBYTES,"),

    /* Values. */
    {BYTES(BEFORE OBJECT("}U\1a}NNss") "\200\2]."), SAE_E_UNSUPPORTED, "the dict \"a\" has a key that is neither"},
    {BYTES(BEFORE OBJECT("}\210Ns") "\200\2]."), SAE_E_UNSUPPORTED, "the dict \"\" has a key that is neither"},
    {BYTES(BEFORE OBJECT("}U\1\377Ns") "\200\2]."), SAE_E_FORMAT, "a name that is no UTF-8"},
    {BYTES(BEFORE OBJECT("}U\2a\0Ns") "\200\2]."), SAE_E_FORMAT, "a name that is no UTF-8, or that holds a NUL"},
    {BYTES(BEFORE OBJECT("}U\1aU\2b\0s") "\200\2]."), SAE_E_FORMAT, "\"a\" is a string that is no UTF-8, or holds a NUL"},
    {BYTES(BEFORE OBJECT("}U\1aU\1\303s") "\200\2]."), SAE_E_FORMAT, "\"a\" is a string that is no UTF-8"},
    {BYTES(BEFORE OBJECT("}U\1actorch\nSize\ns") "\200\2]."), SAE_E_UNSUPPORTED, "\"a\" is neither a tensor nor"},
    {BYTES(BEFORE OBJECT("(U\1aK\1U\1aK\2d") "\200\2]."), SAE_E_FORMAT, "\"a\" is there twice"},
    {BYTES(BEFORE OBJECT("]]]]]]]]]]aaaaaaaaa") "\200\2]."), SAE_E_FORMAT, "\"0.0.0.0.0.0.0.0.0\" lies more than 8 dicts and lists deep"},
    {BYTES(BEFORE OBJECT("]]]]]]]]]aaaaaaaa") "\200\2]."), SAE_OK, ""},
    {BYTES(BEFORE OBJECT("]q\0h\0a") "\200\2]."), SAE_E_FORMAT, "lies more than 8 dicts and lists deep"},
};

START_TEST(streams_by_hand)
{
    const stream *s = &streams[_i];
    char what[24];
    bytes b = bytes_copy(s->data, s->n);
    snprintf(what, sizeof what, "stream %d", _i);
    if (s->status) {
        refuse(&b, s->status, s->sentence, what);
    } else {
        saei_store store;
        ck_assert_msg(read_bytes(&store, &b) == SAE_OK, "%s: %s", what, err.text);
        list_store(&store);
        ck_assert_msg(strncmp(listed, s->sentence, listed_bytes + 1) == 0 || (!listed_bytes && !*s->sentence), "%s: read %s", what, listed);
        saei_store_free(&store, &host);
    }
    free(b.data);
}
END_TEST

/* ---- what grows beyond measure ---- */

static void add_times(bytes *b, const void *data, size_t n, size_t times)
{
    b->data = realloc(b->data, b->n + n * times + 1);
    ck_assert_ptr_nonnull(b->data);
    for (size_t i = 0; i < times; i++, b->n += n)
        memcpy(b->data + b->n, data, n);
}

static void add(bytes *b, const void *data, size_t n)
{
    add_times(b, data, n, 1);
}

#define ADD(b, literal) add(b, BYTES(literal))

static void add_long_string(bytes *b, size_t n)
{
    const unsigned char head[5] = {'X', n & 0xff, n >> 8 & 0xff, n >> 16 & 0xff, 0};
    add(b, head, sizeof head);
    add_times(b, "x", 1, n);
}

/* The promise: some MiB for every file, however small, and 64 times the file. */
static void refuse_flood(bytes *b, sae_status want, const char *sentence, const char *what)
{
    saei_store store;
    if (want) {
        refuse(b, want, sentence, what);
    } else {
        ck_assert_msg(read_bytes(&store, b) == SAE_OK, "%s: %s", what, err.text);
        saei_store_free(&store, &host);
    }
    ck_assert_msg(h.most_bytes <= (4 << 20) + 64 * (long)b->n, "%s: %ld bytes for a file of %zu", what, h.most_bytes, b->n);
    free(b->data);
}

static const struct {
    const char *head, *part, *tail;
    size_t n;
    sae_status status;
    const char *sentence;
} floods[] = {
    {"", "]", "", 200000, SAE_E_FORMAT, "values are left"},
    {"(", "N", "t", 200000, SAE_OK, NULL},
    {"", "]", "", (1 << 20) + 1, SAE_E_FORMAT, "holds more than 1048576 values"},
    {"", "(", "", (1 << 20) + 1, SAE_E_FORMAT, "holds more than 1048576 values"},
    {"](", "N", "e", (1 << 20) - 2, SAE_OK, NULL},
    {"(", "\210", "t", 20000, SAE_E_FORMAT, "holds more than 16384 values"},
    {"]", "\224", "", 200000, SAE_OK, NULL},
    {"](", "}", "e", 200000, SAE_OK, NULL},
};

START_TEST(floods_are_bounded)
{
    bytes b = {NULL, 0};
    ADD(&b, BEFORE "\200\2");
    add(&b, floods[_i].head, strlen(floods[_i].head));
    add_times(&b, floods[_i].part, strlen(floods[_i].part), floods[_i].n);
    add(&b, floods[_i].tail, strlen(floods[_i].tail));
    ADD(&b, ".\200\2].");
    refuse_flood(&b, floods[_i].status, floods[_i].sentence, floods[_i].part);
}
END_TEST

/* Sixty times a tuple that holds sixty times a tuple ... */
START_TEST(tuples_of_tuples)
{
    bytes b = {NULL, 0};
    ADD(&b, BEFORE "\200\2");
    for (unsigned char level = 0; level < 7; level++) {
        const unsigned char get[2] = {'h', level}, put[3] = {'t', 'q', (unsigned char)(level + 1)};
        add(&b, level ? "0(" : "(", level ? 2 : 1);
        add_times(&b, level ? (const void *)get : "N", level ? 2 : 1, 60);
        add(&b, put, sizeof put);
    }
    ADD(&b, ".\200\2].");
    refuse_flood(&b, SAE_E_FORMAT, "repeats its dicts beyond all measure", "tuples of tuples");
}
END_TEST

/* One string in 1000 places. */
START_TEST(repeated_strings)
{
    bytes b = {NULL, 0};
    ADD(&b, BEFORE "\200\2(");
    add_long_string(&b, 60000);
    ADD(&b, "q\1");
    add_times(&b, "h\1", 2, 1000);
    ADD(&b, "t.\200\2].");
    refuse_flood(&b, SAE_E_FORMAT, "repeats its strings beyond all measure", "repeated strings");
}
END_TEST

/* {x: {x: 1}}: two names and a dot. */
START_TEST(names_are_bounded)
{
    for (size_t n = 511; n <= 512; n++) {
        bytes b = {NULL, 0};
        ADD(&b, BEFORE "\200\2}");
        add_long_string(&b, n);
        ADD(&b, "}");
        add_long_string(&b, n);
        ADD(&b, "K\1ss.\200\2].");
        refuse_flood(&b, n == 511 ? SAE_OK : SAE_E_FORMAT, "holds a name of more than 1023 bytes", "long names");
    }
}
END_TEST

/* One text in many places is compared and converted in each. */
START_TEST(long_texts)
{
    bytes b = {NULL, 0};
    ADD(&b, BEFORE "\200\2(U\7storagectorch\nFloatStorage\n");
    add_long_string(&b, 65);
    ADD(&b, "U\3cpuK\1tQ.");
    refuse_flood(&b, SAE_E_FORMAT, "a persistent id is no description of a storage", "a long key");
    b = (bytes){NULL, 0};
    ADD(&b, BEFORE "\200\2(\212\200");
    add_times(&b, "\377", 1, 128);
    ADD(&b, "t.\200\2].");
    refuse_flood(&b, SAE_OK, NULL, "an integer of 128 bytes");
    b = (bytes){NULL, 0};
    ADD(&b, BEFORE "\200\2\212\201");
    add_times(&b, "\377", 1, 129);
    ADD(&b, ".");
    refuse_flood(&b, SAE_E_FORMAT, "an integer has more than 128 bytes", "an integer of 129 bytes");
}
END_TEST

/* 5,000 storages. */
START_TEST(many_storages)
{
    bytes b = {NULL, 0};
    ADD(&b, BEFORE "\200\2(U\7storageq\0010ctorch\nFloatStorage\nq\0020");
    for (int i = 0; i < 5000; i++) {
        char key[16];
        ADD(&b, "(h\1h\2U\5");
        snprintf(key, sizeof key, "%05d", i);
        add(&b, key, 5);
        ADD(&b, "h\1K\0tQ");
    }
    ADD(&b, "t.\200\2].");
    refuse_flood(&b, SAE_E_FORMAT, "holds more than 4096 storages", "many storages");
}
END_TEST

/* ---- damage ---- */

/* Reads every element that a good reading names; a refusal has a sentence. */
static void survive(const bytes *b, const char *what, size_t at)
{
    saei_store store;
    heap_init(&h);
    const sae_status status = read_bytes(&store, b);
    if (status)
        ck_assert_msg((status == SAE_E_FORMAT || status == SAE_E_UNSUPPORTED) && *err.text, "%s at %zu: %d", what, at, status);
    for (uint32_t i = 0; i < store.n_arrays; i++) {
        const saei_array *a = &store.arrays[i];
        const size_t each = saei_element_bytes(a->element);
        size_t n = 0;
        if (each && saei_array_count(&n, a))
            for (size_t j = 0; j < n && j < 64; j++) {
                ck_assert_uint_le(offset_of(a, n - 1 - j) * each + each, a->bytes);
                (void)saei_element_load(a->data + offset_of(a, n - 1 - j) * each, a->element);
            }
    }
    saei_store_free(&store, &host);
    ck_assert_msg(h.live_bytes == 0 && h.most_bytes <= 16384 + 64 * (long)b->n, "%s at %zu: %ld bytes", what, at, h.most_bytes);
}

static const char *const cut[] = {"nested", "deflated", "legacy_nested", "legacy_views"};

START_TEST(every_truncation)
{
    bytes whole = bytes_of(folder, cut[_i], ".pt");
    for (size_t n = 0; n < whole.n; n++) {
        bytes b = bytes_copy(whole.data, n);
        saei_store store;
        survive(&b, cut[_i], n);
        ck_assert_msg(read_bytes(&store, &b) != SAE_OK, "%s is read from %zu of %zu bytes", cut[_i], n, whole.n);
        saei_store_free(&store, &host);
        free(b.data);
    }
    free(whole.data);
}
END_TEST

/* Every other value at every byte; of the archive, eight at each. */
START_TEST(every_flip)
{
    const char *name = _i ? "tensor" : "legacy_tiny";
    bytes b = bytes_of(folder, name, ".pt");
    for (size_t at = 0; at < b.n; at++) {
        const unsigned char was = b.data[at];
        for (unsigned change = 1; change < 256; change = _i ? change * 2 : change + 1) {
            b.data[at] = (unsigned char)(was ^ change);
            survive(&b, name, at);
        }
        b.data[at] = was;
    }
    free(b.data);
}
END_TEST

START_TEST(every_allocation_fails_once)
{
    bytes b = bytes_of(folder, good[_i], ".pt");
    saei_store store;
    long n = 0;
    for (sae_status status = SAE_E_NOMEM; status; n++) {
        heap_init(&h);
        h.fail_at = n;
        status = read_bytes(&store, &b);
        ck_assert_msg(status == SAE_OK || (status == SAE_E_NOMEM && strstr(err.text, "no memory")), "%s, allocation %ld: %s", good[_i], n,
                      err.text);
        saei_store_free(&store, &host);
        ck_assert_int_eq(h.live_bytes, 0);
    }
    ck_assert_int_gt(n, 3);
    free(b.data);
}
END_TEST

#define LOOP(tc, test, n) tcase_add_loop_test(tc, test, 0, (int)(n))

int main(void)
{
    Suite *suite = suite_create("torch");
    TCase *tc = tcase_create("torch");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    LOOP(tc, fixtures, LENGTH(good));
    tcase_add_test(tc, kinds_of_elements);
    tcase_add_test(tc, shared_storages);
    LOOP(tc, refused_by_name, LENGTH(refused));
    LOOP(tc, bad_files, LENGTH(bad));
    tcase_add_test(tc, manifest_is_covered);
    LOOP(tc, streams_by_hand, LENGTH(streams));
    LOOP(tc, floods_are_bounded, LENGTH(floods));
    tcase_add_test(tc, tuples_of_tuples);
    tcase_add_test(tc, repeated_strings);
    tcase_add_test(tc, names_are_bounded);
    tcase_add_test(tc, long_texts);
    tcase_add_test(tc, many_storages);
    LOOP(tc, every_truncation, LENGTH(cut));
    LOOP(tc, every_flip, 2);
    LOOP(tc, every_allocation_fails_once, LENGTH(good));
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
