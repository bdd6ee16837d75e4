/* Containers in zip: the archive's directory and npz. Every way in which NumPy and Python's zipfile write them, every defect by its sentence,
 * every length, every byte, every allocation. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/tensors.h"
#include "io/zip.h"
#include "support/run.h"
#include "support/support.h"

static heap memory;
static saei_host host;
static sae_error err;

static void setup(void)
{
    heap_init(&memory);
    host = (saei_host){.alloc = heap_alloc, .dealloc = heap_free, .alloc_user = &memory};
    saei_host_defaults(&host);
    err = (sae_error){.struct_size = sizeof err};
}

static void teardown(void)
{
    ck_assert_int_eq(memory.live_blocks, 0);
    ck_assert_int_eq(memory.live_bytes, 0);
}

/* ---- files in memory, in a block of their exact size ---- */

static saei_file copy_of(const unsigned char *data, size_t n)
{
    unsigned char *copy = malloc(n + !n);
    ck_assert_ptr_nonnull(copy);
    if (n)
        memcpy(copy, data, n);
    return (saei_file){copy, n, -1, false};
}

static saei_file load(const char *folder, const char *name)
{
    static unsigned char data[1 << 17];
    char path[256];
    snprintf(path, sizeof path, "tests/golden/%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s is missing", path);
    const size_t n = fread(data, 1, sizeof data, file);
    ck_assert(feof(file) && n < sizeof data);
    fclose(file);
    return copy_of(data, n);
}

static void drop(saei_file *file)
{
    free((void *)file->data);
}

/* The number of `bytes` at file->data[offset], little-endian, becomes `value`. */
static void put(const saei_file *file, size_t offset, int bytes, uint64_t value)
{
    ck_assert_uint_le(offset + (size_t)bytes, file->bytes);
    for (int i = 0; i < bytes; i++)
        ((unsigned char *)file->data)[offset + (size_t)i] = (unsigned char)(value >> 8 * i);
}

/* Where the nth occurrence of `what` begins. */
static size_t find(const saei_file *file, const char *what, size_t bytes, int nth)
{
    for (size_t i = 0; i + bytes <= file->bytes; i++)
        if (memcmp(file->data + i, what, bytes) == 0 && nth-- == 0)
            return i;
    ck_abort_msg("\"%s\" is not in the file", what);
    return 0;
}

/* An archive of one member. */
typedef struct member {
    const char *name;
    uint32_t method, bytes, packed;
    const unsigned char *data;
} member;

static saei_file archive_of(const member *m)
{
    enum { LOCAL = 30, ENTRY = 46, END = 22 };
    const size_t name = strlen(m->name), entry = LOCAL + name + m->packed, end = entry + ENTRY + name;
    const saei_file file = {calloc(end + END, 1), end + END, -1, false};
    unsigned char *p = (unsigned char *)file.data;
    ck_assert_ptr_nonnull(p);
    memcpy(p, "PK\3\4", 4);
    memcpy(p + LOCAL, m->name, name);
    memcpy(p + LOCAL + name, m->data, m->packed);
    memcpy(p + entry, "PK\1\2", 4);
    memcpy(p + entry + ENTRY, m->name, name);
    memcpy(p + end, "PK\5\6", 4);
    put(&file, 8, 2, m->method);
    put(&file, 18, 4, m->packed);
    put(&file, 22, 4, m->bytes);
    put(&file, 26, 2, name);
    put(&file, entry + 10, 2, m->method);
    put(&file, entry + 20, 4, m->packed);
    put(&file, entry + 24, 4, m->bytes);
    put(&file, entry + 28, 2, name);
    put(&file, end + 8, 2, 1);
    put(&file, end + 10, 2, 1);
    put(&file, end + 12, 4, end - entry);
    put(&file, end + 16, 4, entry);
    return file;
}

/* Reads the file as npz, gives it back, and wants this outcome; a store that was filled halfway is freed like any other. */
static void expect(saei_file *file, sae_status want, const char *words)
{
    saei_store store = {0};
    err = (sae_error){.struct_size = sizeof err};
    const sae_status got = saei_read_npz(&store, &host, file, 0, "t.npz", &err);
    if (want)
        refusal(__LINE__, got, want, err.text, words);
    else
        ck_assert_msg(got == SAE_OK, "%s: %s", words, err.text);
    saei_store_free(&store, &host);
    drop(file);
}

/* ---- what is in an archive ---- */

typedef struct expected {
    const char *name;
    saei_element element;
    uint32_t n_dims;
    int64_t shape[SAEI_DIMS];
} expected;

static const expected all_dtypes[] = {{"f4", SAEI_F32, 2, {3, 4}},  {"f2", SAEI_F16, 1, {5}},       {"f8", SAEI_F64, 2, {2, 3}},
                                      {"i8", SAEI_I64, 1, {4}},     {"i4", SAEI_I32, 2, {1, 3}},    {"i2", SAEI_I16, 2, {3, 1}},
                                      {"i1", SAEI_I8, 1, {7}},      {"u1", SAEI_U8, 1, {7}},        {"b1", SAEI_BOOL, 1, {5}},
                                      {"scalar", SAEI_F32, 0, {0}}, {"empty", SAEI_F32, 2, {0, 3}}, {"five", SAEI_F32, 5, {2, 1, 3, 1}},
                                      {"u4", SAEI_OTHER, 1, {3}},   {"text", SAEI_OTHER, 1, {2}},   {"time", SAEI_OTHER, 1, {1}}};
static const expected by_columns[] = {
    {"f4", SAEI_F32, 2, {3, 4}}, {"f2", SAEI_F16, 3, {2, 3, 2}}, {"f8", SAEI_F64, 1, {4}}, {"empty", SAEI_F32, 2, {0, 3}}};
static const expected two[] = {{"f4", SAEI_F32, 2, {3, 4}}, {"b1", SAEI_BOOL, 1, {5}}};
static const expected three[] = {{"f4", SAEI_F32, 2, {3, 4}}, {"b1", SAEI_BOOL, 1, {5}}, {"f2", SAEI_F16, 1, {5}}};
static const expected three_versions[] = {
    {"v1", SAEI_F32, 2, {3, 4}}, {"v2", SAEI_F32, 2, {3, 4}}, {"v3", SAEI_F32, 2, {3, 4}}, {"folder/f4", SAEI_F32, 2, {3, 4}}};

static const struct {
    const char *file;
    const expected *arrays;
    size_t n;
    bool stored[16];
} archives[] = {{"stored.npz", all_dtypes, LENGTH(all_dtypes), {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
                {"deflated.npz", all_dtypes, LENGTH(all_dtypes), {0}},
                {"fortran.npz", by_columns, LENGTH(by_columns), {1, 1, 1, 1}},
                {"zip64.npz", two, LENGTH(two), {1, 1}},
                {"comment.npz", two, LENGTH(two), {0}},
                {"streamed.npz", three, LENGTH(three), {1, 0, 1}},
                {"versions.npz", three_versions, LENGTH(three_versions), {1, 1, 1, 1}}};

/* What make_npz.py put at place i, in C order. */
static double planted_value(saei_element element, size_t i)
{
    const int v = (int)(i * 7 % 11);
    if (element == SAEI_BOOL)
        return i % 3 == 0;
    return element == SAEI_U8 ? v : saei_element_is_float(element) ? (v - 5) / 8.0 : v - 5;
}

static void compare_elements(const saei_array *a)
{
    size_t n;
    const size_t each = saei_element_bytes(a->element);
    ck_assert(saei_array_count(&n, a));
    ck_assert_uint_eq(n * each, a->bytes);
    for (size_t i = 0; i < n; i++) {
        size_t place = 0, rest = i;
        for (uint32_t d = a->n_dims; d-- > 0; rest /= (size_t)a->shape[d])
            place += rest % (size_t)a->shape[d] * (size_t)a->stride[d];
        ck_assert_uint_lt(place, n);
        const double got = saei_element_load(a->data + place * each, a->element);
        ck_assert_msg(got == planted_value(a->element, i), "%s[%zu] is %g", a->name, i, got);
    }
}

START_TEST(arrays)
{
    saei_store store = {0};
    saei_file file = load("containers", archives[_i].file);
    ck_assert_msg(saei_read_npz(&store, &host, &file, 3, "t.npz", &err) == SAE_OK, "%s: %s", archives[_i].file, err.text);
    ck_assert_uint_eq(store.n_arrays, archives[_i].n);
    for (size_t i = 0; i < archives[_i].n; i++) {
        const expected *want = &archives[_i].arrays[i];
        const saei_array *a = saei_store_find(&store, want->name);
        ck_assert_msg(a != NULL, "%s has no %s", archives[_i].file, want->name);
        ck_assert_int_eq(a->element, want->element);
        ck_assert_uint_eq(a->n_dims, want->n_dims);
        ck_assert_mem_eq(a->shape, want->shape, sizeof a->shape);
        ck_assert_int_eq(a->file, archives[_i].stored[i] ? 3 : -1);
        if (!want->element)
            ck_assert_str_eq(a->dtype_name, i == 12 ? "<u4" : i == 13 ? "<U5" : "<M8[D]");
        if (archives[_i].stored[i])
            ck_assert_ptr_eq(a->data, file.data + a->offset);
        if (a->element && a->n_dims <= SAEI_DIMS)
            compare_elements(a);
    }
    saei_store_free(&store, &host);
    drop(&file);
}
END_TEST

START_TEST(directory)
{
    saei_zip zip;
    saei_file file = load("containers", "streamed.npz");
    ck_assert_int_eq(saei_zip_read(&zip, &host, &file, "t.npz", &err), SAE_OK);
    ck_assert_uint_eq(zip.n, 3);
    ck_assert_str_eq(zip.members[1].name, "b1.npy");
    ck_assert_ptr_null(saei_zip_find(&zip, "b1"));
    ck_assert_ptr_eq(saei_zip_find(&zip, "f2.npy"), &zip.members[2]);
    const saei_zip_member *m = saei_zip_find(&zip, "b1.npy");
    unsigned char data[133];
    ck_assert(m->deflated && m->bytes == sizeof data && !zip.members[0].deflated && zip.members[0].bytes == zip.members[0].packed);
    ck_assert_int_eq(saei_zip_unpack(data, m, &host, &file, "t.npz", &err), SAE_OK);
    ck_assert_mem_eq(data, "\x93NUMPY\1\0", 8);
    ck_assert_mem_eq(data + 128, "\1\0\0\1\0", 5);
    saei_zip_free(&zip, &host);
    drop(&file);
}
END_TEST

/* ---- defects of the archive ---- */

enum { LOCALS, ENTRIES, ENDS, LOCATORS, WIDE_ENDS };
static const char signs[][5] = {"PK\3\4", "PK\1\2", "PK\5\6", "PK\6\7", "PK\6\6"};

typedef struct patch {
    int sign, nth; /* of the record */
    size_t at;     /* in the record */
    int bytes;     /* 0: no more patches */
    uint64_t value;
} patch;

static const struct {
    const char *file;
    patch patches[4];
    sae_status status;
    const char *words;
} damaged[] = {
    {"versions.npz", {{ENDS, 0, 4, 2, 1}}, SAE_E_UNSUPPORTED, "spread over several disks"},
    {"versions.npz", {{ENDS, 0, 8, 2, 4}}, SAE_E_UNSUPPORTED, "spread over several disks"},
    {"versions.npz", {{ENDS, 0, 8, 4, 0x00040004}}, SAE_E_FORMAT, "59 bytes of the directory describe no member"},
    {"versions.npz", {{ENDS, 0, 8, 4, 0x00060006}}, SAE_E_FORMAT, "claims 6 members in 270 bytes"},
    {"versions.npz", {{ENTRIES, 4, 32, 2, 1}}, SAE_E_FORMAT, "the directory is damaged at byte|where member 4 is described"},
    {"versions.npz", {{ENDS, 0, 12, 4, 60}}, SAE_E_FORMAT, "the directory has 60 bytes from byte|put before"},
    {"versions.npz", {{ENDS, 0, 16, 4, 5000}}, SAE_E_FORMAT, "from byte 5000 on"},
    {"versions.npz", {{ENDS, 0, 20, 2, 1}}, SAE_E_FORMAT, "no zip end record"},
    {"versions.npz", {{ENTRIES, 0, 0, 1, 'p'}}, SAE_E_FORMAT, "where member 0 is described"},
    {"versions.npz", {{ENTRIES, 0, 8, 2, 1}}, SAE_E_UNSUPPORTED, "\"v1.npy\" is encrypted"},
    {"versions.npz", {{ENTRIES, 1, 8, 2, 1 << 13}}, SAE_E_UNSUPPORTED, "\"v2.npy\" is encrypted"},
    {"versions.npz", {{LOCALS, 1, 6, 2, 1}}, SAE_E_FORMAT, "\"v2.npy\" is described in one way"},
    {"versions.npz", {{ENTRIES, 0, 8, 2, 1 << 5}}, SAE_E_UNSUPPORTED, "packed by method 0"},
    {"versions.npz", {{ENTRIES, 0, 10, 2, 12}}, SAE_E_UNSUPPORTED, "packed by method 12; stored and deflated"},
    {"versions.npz", {{ENTRIES, 0, 10, 2, 8}}, SAE_E_FORMAT, "described in one way"},
    {"versions.npz", {{ENTRIES, 0, 16, 2, 7}}, SAE_E_FORMAT, "described in one way"},
    {"versions.npz", {{LOCALS, 0, 14, 2, 7}}, SAE_E_FORMAT, "described in one way"},
    {"versions.npz", {{LOCALS, 0, 18, 2, 7}}, SAE_E_FORMAT, "described in one way"},
    {"versions.npz", {{LOCALS, 0, 22, 2, 7}}, SAE_E_FORMAT, "described in one way"},
    {"versions.npz", {{LOCALS, 0, 26, 2, 5}}, SAE_E_FORMAT, "described in one way"},
    {"versions.npz", {{LOCALS, 0, 28, 2, 60000}}, SAE_E_FORMAT, "\"v1.npy\" takes 176 bytes behind its header at byte 0"},
    {"versions.npz", {{ENTRIES, 0, 20, 2, 177}}, SAE_E_FORMAT, "\"v1.npy\" cannot be 176 bytes: it takes 177, stored"},
    {"versions.npz",
     {{ENTRIES, 0, 20, 4, 5000}, {ENTRIES, 0, 24, 4, 5000}},
     SAE_E_FORMAT,
     "takes 5000 bytes from byte 0 on, the directory"},
    {"versions.npz", {{ENTRIES, 0, 28, 2, 0}}, SAE_E_FORMAT, "the name of member 0 is not UTF-8"},
    {"versions.npz", {{ENTRIES, 3, 28, 2, 23}}, SAE_E_FORMAT, "where member 3 is described"}, /* that leaves too little for the last */
    {"versions.npz", {{ENTRIES, 0, 46, 1, 0}}, SAE_E_FORMAT, "the name of member 0 is not UTF-8"},
    {"versions.npz", {{ENTRIES, 0, 46, 1, 0xff}}, SAE_E_FORMAT, "the name of member 0 is not UTF-8"},
    {"versions.npz", {{ENTRIES, 0, 46, 1, 'w'}}, SAE_E_FORMAT, "\"w1.npy\" is described in one way"},
    {"versions.npz", {{ENTRIES, 4, 46, 1, '/'}}, SAE_E_FORMAT, "the name of member 4, \"/older/f4.npy\", leads out"},
    {"versions.npz", {{ENTRIES, 4, 46, 1, '\\'}}, SAE_E_FORMAT, "leads out of the archive"},
    {"versions.npz", {{ENTRIES, 4, 46, 3, 0x2f2e2e}}, SAE_E_FORMAT, "the name of member 4, \"../der/f4.npy\", leads out"},
    {"versions.npz", {{ENTRIES, 4, 50, 4, 0x2f2e2e2f}}, SAE_E_FORMAT, "\"fold/../4.npy\", leads out"},
    {"versions.npz", {{ENTRIES, 4, 56, 3, 0x2e2e5c}}, SAE_E_FORMAT, "\"folder/f4.\\..\", leads out"},
    {"versions.npz", {{ENTRIES, 0, 30, 2, 65535}}, SAE_E_FORMAT, "where member 0 is described"},
    {"versions.npz", {{ENTRIES, 0, 34, 2, 1}}, SAE_E_UNSUPPORTED, "begins on another disk"},
    {"versions.npz", {{ENTRIES, 0, 42, 4, 1}}, SAE_E_FORMAT, "no header at byte 1, where the directory says"},
    {"versions.npz", {{ENTRIES, 0, 42, 4, 5000}}, SAE_E_FORMAT, "takes 176 bytes from byte 5000 on"},
    {"versions.npz", {{ENTRIES, 1, 47, 1, '1'}, {LOCALS, 1, 31, 1, '1'}}, SAE_E_FORMAT, "\"v1.npy\" is there twice"},
    {"versions.npz",
     {{ENTRIES, 0, 20, 4, 200}, {ENTRIES, 0, 24, 4, 200}, {LOCALS, 0, 18, 4, 200}, {LOCALS, 0, 22, 4, 200}},
     SAE_E_FORMAT,
     "\"v1.npy\" and \"v2.npy\" overlap: one ends at byte 236, the other begins at 212"},
    {"zip64.npz", {{LOCATORS, 0, 4, 4, 1}}, SAE_E_UNSUPPORTED, "spread over several disks"},
    {"zip64.npz", {{LOCATORS, 0, 16, 4, 2}}, SAE_E_UNSUPPORTED, "spread over several disks"},
    {"zip64.npz", {{LOCATORS, 0, 8, 8, UINT64_MAX}}, SAE_E_FORMAT, "not where its locator says, at byte 18446744073709551615"},
    {"zip64.npz", {{LOCATORS, 0, 8, 8, 3}}, SAE_E_FORMAT, "not where its locator says, at byte 3"},
    {"zip64.npz", {{WIDE_ENDS, 0, 4, 8, 43}}, SAE_E_FORMAT, "not where its locator says"},
    {"zip64.npz", {{WIDE_ENDS, 0, 16, 4, 1}}, SAE_E_FORMAT, "the zip64 end record contradicts"},
    {"zip64.npz", {{WIDE_ENDS, 0, 24, 8, 1}}, SAE_E_FORMAT, "the zip64 end record contradicts"},
    {"zip64.npz", {{WIDE_ENDS, 0, 40, 8, 1}}, SAE_E_FORMAT, "the zip64 end record contradicts"},
    {"zip64.npz", {{WIDE_ENDS, 0, 48, 8, 1}}, SAE_E_FORMAT, "the zip64 end record contradicts"},
    {"zip64.npz", {{ENDS, 0, 8, 4, UINT32_MAX}}, SAE_OK, ""},
    {"zip64.npz",
     {{ENDS, 0, 8, 4, UINT32_MAX}, {WIDE_ENDS, 0, 24, 8, 65537}, {WIDE_ENDS, 0, 32, 8, 65537}},
     SAE_E_UNSUPPORTED,
     "has 65537 members, more than 65536 are not read"},
    {"zip64.npz", {{ENDS, 0, 16, 4, UINT32_MAX}, {WIDE_ENDS, 0, 48, 8, UINT64_MAX}}, SAE_E_FORMAT, "from byte 18446744073709551615 on"},
    {"zip64.npz", {{ENTRIES, 0, 52, 2, 2}}, SAE_E_FORMAT, "\"f4.npy\" has damaged extra fields"},
    {"zip64.npz", {{ENTRIES, 0, 54, 2, 17}}, SAE_E_FORMAT, "\"f4.npy\" has damaged extra fields"},
    {"zip64.npz", {{ENTRIES, 0, 54, 2, 8}}, SAE_E_FORMAT, "\"f4.npy\" has damaged extra fields"},
    {"zip64.npz", {{ENTRIES, 0, 56, 8, UINT64_MAX}}, SAE_E_FORMAT, "\"f4.npy\" cannot be 18446744073709551615 bytes"},
    {"zip64.npz", {{ENTRIES, 0, 64, 8, UINT64_MAX}}, SAE_E_FORMAT, "\"f4.npy\" takes 18446744073709551615 bytes from byte 0"},
    {"zip64.npz", {{LOCALS, 0, 36, 2, 2}}, SAE_E_FORMAT, "\"f4.npy\" is described in one way"},
    {"streamed.npz", {{ENTRIES, 1, 16, 4, 1}}, SAE_E_FORMAT, "\"b1.npy\" does not have the CRC"},
    {"streamed.npz", {{ENTRIES, 1, 24, 4, 134}}, SAE_E_FORMAT, "\"b1.npy\" unpacks to 133 bytes|says to 134"},
    {"streamed.npz", {{ENTRIES, 1, 24, 4, 132}}, SAE_E_FORMAT, "\"b1.npy\" cannot be unpacked: its data does not end where"},
    {"streamed.npz", {{ENTRIES, 1, 24, 4, 0}}, SAE_E_FORMAT, "\"b1.npy\" cannot be unpacked: its data does not end where"},
    {"streamed.npz", {{ENTRIES, 1, 20, 4, 10}}, SAE_E_FORMAT, "\"b1.npy\" cannot be unpacked: its data does not end where"},
    {"streamed.npz", {{ENTRIES, 1, 20, 4, 74}}, SAE_E_FORMAT, "\"b1.npy\" unpacks to 133 bytes from 73, the directory says to 133 from 74"},
    {"streamed.npz", {{ENTRIES, 1, 20, 4, 100}}, SAE_E_FORMAT, "\"b1.npy\" and \"f2.npy\" overlap"},
    {"streamed.npz", {{ENTRIES, 1, 20, 4, 0}}, SAE_E_FORMAT, "\"b1.npy\" cannot be unpacked: its data does not end where"},
    {"streamed.npz", {{LOCALS, 1, 36, 4, UINT32_MAX}}, SAE_E_FORMAT, "\"b1.npy\" cannot be unpacked: invalid block type"},
    {"streamed.npz", {{ENTRIES, 1, 24, 4, 200000}}, SAE_E_FORMAT, "\"b1.npy\" cannot be 200000 bytes|deflated"},
};

START_TEST(damaged_archives)
{
    saei_file file = load("containers", damaged[_i].file);
    for (size_t i = 0; i < LENGTH(damaged[_i].patches) && damaged[_i].patches[i].bytes; i++) {
        const patch *p = &damaged[_i].patches[i];
        put(&file, find(&file, signs[p->sign], 4, p->nth) + p->at, p->bytes, p->value);
    }
    expect(&file, damaged[_i].status, damaged[_i].words);
}
END_TEST

/* Each member may unpack to 1032 times its size, all together not. */
START_TEST(claims_too_much)
{
    static const unsigned char zeros[70000];
    const member m = {"x.npy", 8, 69000000, sizeof zeros, zeros};
    saei_file file = archive_of(&m);
    expect(&file, SAE_E_FORMAT, "claim to unpack to more than 68511024 bytes, from a file of 70108");
}
END_TEST

START_TEST(no_arrays)
{
    const member m = {"x.txt", 0, 0, 0, (const unsigned char *)""};
    saei_file file = archive_of(&m), none = copy_of((const unsigned char *)"PK\5\6\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 22);
    expect(&file, SAE_E_FORMAT, "holds no .npy file");
    expect(&none, SAE_E_FORMAT, "holds no .npy file");
    none = copy_of(NULL, 0);
    expect(&none, SAE_E_FORMAT, "no zip end record");
}
END_TEST

/* ---- defects of an array ---- */

#define V1 "\x93NUMPY\1"
#define F4 "{'descr': '<f4', 'fortran_order': False, "
#define OF(shape) F4 "'shape': " shape "}"
#define TYPE(dtype) "{'descr': " dtype ", 'fortran_order': False, 'shape': (3, 4), }"
#define MANY "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"

/* With data of 48 bytes behind each. */
static const struct {
    const char *header;
    sae_status status;
    const char *words;
} headers[] = {
    {OF("(3, 4)"), SAE_OK, ""},
    {OF("(12,)"), SAE_OK, ""},
    {OF("(3,4,),"), SAE_OK, ""},
    {OF("( 3 , 4 , ) , \n"), SAE_OK, ""},
    {OF("(" MANY MANY MANY MANY "12)"), SAE_E_FORMAT, "more dimensions than any array"},
    {OF("(" MANY MANY MANY "12)"), SAE_OK, ""},
    {"{\"shape\" :(3,4), \"fortran_order\":True,\"descr\"\t:\"<f4\"}  \n", SAE_OK, ""},
    {TYPE("'<u4'"), SAE_OK, ""},
    {TYPE("'|V4'"), SAE_OK, ""},
    {TYPE("'<U1'"), SAE_OK, ""},
    {TYPE("'|S4'"), SAE_OK, ""},
    {TYPE("'<f8'"), SAE_E_FORMAT, "array \"x\" needs 96 bytes by its shape and dtype, its member holds 48"},
    {TYPE("'<M8[ns]'"), SAE_E_FORMAT, "needs 96 bytes"},
    {TYPE("'<f4[ns]'"), SAE_E_UNSUPPORTED, "has dtype \"<f4[ns]\", which is not known"},
    {TYPE("'>f4'"), SAE_E_UNSUPPORTED, "array \"x\" is big-endian (\">f4\"): save it with"},
    {TYPE("'|O'"), SAE_E_UNSUPPORTED, "array \"x\" is an object array, a pickle inside npy"},
    {TYPE("'O'"), SAE_E_UNSUPPORTED, "is an object array"},
    {TYPE("'<O8'"), SAE_E_UNSUPPORTED, "has dtype \"<O8\", which is not known"},
    {TYPE("'float32'"), SAE_E_UNSUPPORTED, "has dtype \"float32\", which is not known"},
    {TYPE("'<f'"), SAE_E_UNSUPPORTED, "has dtype \"<f\", which is not known"},
    {TYPE("'<'"), SAE_E_UNSUPPORTED, "has dtype \"<\", which is not known"},
    {TYPE("''"), SAE_E_UNSUPPORTED, "has dtype \"\", which is not known"},
    {TYPE("'|V99999999999999999999'"), SAE_E_UNSUPPORTED, "which is not known"},
    {TYPE("'|V1844674407370955161'"), SAE_E_FORMAT, "more elements than any machine can address"},
    {TYPE("'<U9223372036854775807'"), SAE_E_UNSUPPORTED, "which is not known"},
    {TYPE("'" MANY MANY MANY "'"), SAE_E_FORMAT, "its dtype is too long"},
    {TYPE("[('a', '<f4')]"), SAE_E_UNSUPPORTED, "it is a structured array"},
    {TYPE("<f4"), SAE_E_FORMAT, "a text in quotes is expected"},
    {TYPE("'<f\\x34'"), SAE_E_FORMAT, "a text holds an unusual character"},
    {TYPE("'<f\xc3\xa9'"), SAE_E_FORMAT, "a text holds an unusual character"},
    {OF("(3, 5)"), SAE_E_FORMAT, "needs 60 bytes by its shape and dtype, its member holds 48"},
    {OF("(3, 3)"), SAE_E_FORMAT, "needs 36 bytes"},
    {OF("()"), SAE_E_FORMAT, "needs 4 bytes"},
    {OF("(0, 900000000000000000, 900000000000000000)"), SAE_E_FORMAT, "more elements than any machine can address"},
    {OF("(0, 900000000000000000)"), SAE_E_FORMAT, "needs 0 bytes"},
    {OF("(900000000000000000, 16)"), SAE_E_FORMAT, "more elements than any machine can address"},
    {OF("(9223372036854775807,)"), SAE_E_FORMAT, "a size that no array has"},
    {OF("(2305843009213693952,)"), SAE_E_FORMAT, "more elements than any machine can address"},
    {OF("(99999999999999999999,)"), SAE_E_FORMAT, "a size that no array has"},
    {OF("(4294967296, 4294967296)"), SAE_E_FORMAT, "more elements than any machine can address"},
    {OF("(12)"), SAE_E_FORMAT, "not a tuple of sizes"},
    {OF("[3, 4]"), SAE_E_FORMAT, "not a tuple of sizes"},
    {OF("(3, -4)"), SAE_E_FORMAT, "not a tuple of sizes"},
    {OF("(03, 4)"), SAE_E_FORMAT, "not a tuple of sizes"},
    {OF("(3,, 4)"), SAE_E_FORMAT, "not a tuple of sizes"},
    {OF("(3 4)"), SAE_E_FORMAT, "not a tuple of sizes"},
    {OF("(, )"), SAE_E_FORMAT, "not a tuple of sizes"},
    {OF("(3.0, 4)"), SAE_E_FORMAT, "not a tuple of sizes"},
    {OF("(3, 4), 'shape': (3, 4)"), SAE_E_FORMAT, "a key twice"},
    {OF("(3, 4), 'more': 1"), SAE_E_FORMAT, "a key other than"},
    {OF("(3, 4)} x"), SAE_E_FORMAT, "something follows the dict"},
    {F4 "}", SAE_E_FORMAT, "it lacks descr, fortran_order or shape"},
    {F4, SAE_E_FORMAT, "a text in quotes is expected"},
    {F4 "'shape", SAE_E_FORMAT, "it ends inside a text"},
    {F4 "'shape'", SAE_E_FORMAT, "':' is expected behind a key"},
    {F4 "'shape': (3", SAE_E_FORMAT, "not a tuple of sizes"},
    {F4 "'shape': (3, 4)", SAE_E_FORMAT, "',' or '}' is expected"},
    {"{'descr': '<f4', 'fortran_order': 0, 'shape': (3, 4)}", SAE_E_FORMAT, "neither True nor False"},
    {"{'descr': '<f4', 'fortran_order': Falsely, 'shape': (3, 4)}", SAE_E_FORMAT, "',' or '}' is expected"},
    {"{'descr': '<f4' 'fortran_order': False, 'shape': (3, 4)}", SAE_E_FORMAT, "',' or '}' is expected"},
    {"('descr', '<f4')", SAE_E_FORMAT, "it is no dict"},
    {"", SAE_E_FORMAT, "it is no dict"},
};

/* An archive of x.npy: `start` (magic and major version), minor version 0, how long the header is, header, 48 zeros. */
static saei_file npz_of(const char *start, size_t start_bytes, const char *header)
{
    unsigned char npy[1024] = {0};
    const size_t n = strlen(header), length_bytes = start[start_bytes - 1] == 1 ? 2 : 4, prefix = start_bytes + 1 + length_bytes;
    memcpy(npy, start, start_bytes);
    npy[start_bytes + 1] = (unsigned char)n;
    npy[start_bytes + 2] = (unsigned char)(n >> 8);
    memcpy(npy + prefix, header, n);
    const member m = {"x.npy", 0, (uint32_t)(prefix + n + 48), (uint32_t)(prefix + n + 48), npy};
    return archive_of(&m);
}

START_TEST(array_headers)
{
    saei_file file = npz_of(V1, 7, headers[_i].header);
    expect(&file, headers[_i].status, headers[_i].status ? headers[_i].words : headers[_i].header);
}
END_TEST

START_TEST(array_versions)
{
    saei_file file = npz_of("\x93NUMPY\2", 7, OF("(3, 4)"));
    expect(&file, SAE_OK, "version 2");
    file = npz_of("\x93NUMPY\3", 7, OF("(3, 4)"));
    expect(&file, SAE_OK, "version 3");
    file = npz_of("\x93NUMPY\4", 7, OF("(3, 4)"));
    expect(&file, SAE_E_UNSUPPORTED, "version 4.0 of numpy's format; 1.0, 2.0 and 3.0 are read");
    file = npz_of("\x93NUMPY\0", 7, OF("(3, 4)"));
    expect(&file, SAE_E_UNSUPPORTED, "version 0.0 of numpy's format");
    file = npz_of("\x93Numpy\1", 7, OF("(3, 4)"));
    expect(&file, SAE_E_FORMAT, "array \"x\" is not in numpy's format");
    for (size_t n = 0; n < 12; n++) {
        const member m = {"x.npy", 0, (uint32_t)n, (uint32_t)n, (const unsigned char *)"\x93NUMPY\2\0\1\0\0\0"};
        file = archive_of(&m);
        expect(&file, SAE_E_FORMAT, n < 8 ? "is not in numpy's format" : "ends inside its header");
    }
    const member m = {"x.npy", 0, 13, 13, (const unsigned char *)"\x93NUMPY\2\0\2\0\0\0{"};
    file = archive_of(&m);
    expect(&file, SAE_E_FORMAT, "has a header of 2 bytes, its member only 1 more");
}
END_TEST

/* ---- every length, byte and allocation ---- */

START_TEST(cut_off)
{
    saei_file whole = load("containers", archives[_i].file);
    for (size_t n = 0; n < whole.bytes; n++) {
        saei_file part = copy_of(whole.data, n);
        expect(&part, SAE_E_FORMAT, "");
    }
    drop(&whole);
}
END_TEST

/* Whatever is accepted can be read to the last byte. */
static double sum(const saei_store *store)
{
    double total = 0.0;
    for (uint32_t i = 0; i < store->n_arrays; i++) {
        const saei_array *a = &store->arrays[i];
        for (size_t j = 0; j < a->bytes; j++)
            total += a->data[j];
        total += (double)strlen(a->name) + (double)strlen(a->dtype_name);
    }
    return total;
}

START_TEST(flipped)
{
    saei_file file = load("containers", archives[_i].file);
    int accepted = 0, refused = 0;
    for (size_t i = 0; i < file.bytes; i++)
        for (unsigned bits = 1; bits < 256; bits = bits == 1 ? 0x80 : bits == 0x80 ? 0xff : 256) {
            saei_file other = copy_of(file.data, file.bytes);
            saei_store store = {0};
            put(&other, i, 1, other.data[i] ^ bits);
            const sae_status status = saei_read_npz(&store, &host, &other, 0, "t.npz", &err);
            ck_assert(status == SAE_OK || status == SAE_E_FORMAT || status == SAE_E_UNSUPPORTED);
            ck_assert(status ? *err.text != 0 : sum(&store) >= 0.0);
            status ? refused++ : accepted++;
            saei_store_free(&store, &host);
            drop(&other);
        }
    ck_assert_int_gt(accepted, 100); /* dates, and elements of stored arrays */
    ck_assert_int_gt(refused, 900);
    drop(&file);
}
END_TEST

START_TEST(every_allocation_fails)
{
    saei_file file = load("containers", archives[_i].file);
    long n = 0;
    for (sae_status status = SAE_E_NOMEM; status; n++) {
        saei_store store = {0};
        err = (sae_error){.struct_size = sizeof err};
        heap_init(&memory);
        memory.fail_at = n;
        status = saei_read_npz(&store, &host, &file, 0, "t.npz", &err);
        ck_assert_msg(status == SAE_OK || (status == SAE_E_NOMEM && strncmp(err.text, "no memory", 9) == 0), "allocation %ld: %s", n,
                      err.text);
        saei_store_free(&store, &host);
        ck_assert_int_eq(memory.live_blocks, 0);
    }
    ck_assert_int_gt(n, 7);
    drop(&file);
}
END_TEST

/* ---- the published files that must be refused ---- */

static const struct {
    const char *file;
    sae_status status;
    const char *words;
} published[] = {
    {"npz_path_traversal.npz", SAE_E_FORMAT, "leads out of the archive"},
    {"npz_object_array.npz", SAE_E_UNSUPPORTED, "an object array, a pickle inside npy"},
    {"npz_shape_exceeds_data.npz", SAE_E_FORMAT, "needs 960000000 bytes by its shape and dtype, its member holds 64"},
    {"npz_truncated.npz", SAE_E_FORMAT, "no zip end record: it is cut off"},
    {"npz_missing_threshold.npz", SAE_OK, ""}, /* as a container it is good; so is the next, within what may be unpacked */
    {"npz_bomb.npz", SAE_OK, ""},
};

START_TEST(published_files)
{
    saei_file file = load("bad", published[_i].file);
    expect(&file, published[_i].status, published[_i].words);
}
END_TEST

#define LOOP(tc, test, table) tcase_add_loop_test(tc, test, 0, (int)LENGTH(table))

int main(void)
{
    Suite *suite = suite_create("zip");
    TCase *tc = tcase_create("zip");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    LOOP(tc, arrays, archives);
    tcase_add_test(tc, directory);
    LOOP(tc, damaged_archives, damaged);
    tcase_add_test(tc, claims_too_much);
    tcase_add_test(tc, no_arrays);
    LOOP(tc, array_headers, headers);
    tcase_add_test(tc, array_versions);
    LOOP(tc, cut_off, archives);
    LOOP(tc, flipped, archives);
    LOOP(tc, every_allocation_fails, archives);
    LOOP(tc, published_files, published);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
