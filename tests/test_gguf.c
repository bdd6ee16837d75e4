/* GGUF: files of the gguf package, small ones built here, everything that is refused by its own sentence. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/tensors.h"
#include "support/run.h"
#include "support/support.h"

#define GOLDEN "tests/golden/containers/"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64 };

static heap h;
static saei_host host;
static saei_store store;
static saei_file file;
static sae_error err;

static void setup(void)
{
    heap_init(&h);
    host = (saei_host){.alloc = heap_alloc, .dealloc = heap_free, .alloc_user = &h};
    saei_host_defaults(&host);
    store = (saei_store){0};
    file = (saei_file){.fd = -1};
    err = (sae_error){.struct_size = sizeof err};
}

static void teardown(void)
{
    saei_store_free(&store, &host);
    saei_file_close(&file, &host);
    ck_assert_int_eq(h.live_bytes, 0);
}

/* ---- what the package writes ---- */

#define READS(call) ck_assert_msg((call) == SAE_OK, "%s", err.text)

static void open_golden(const char *path, bool copy)
{
    READS(saei_file_open(&file, &host, path, copy, &err));
    READS(saei_read_gguf(&store, &host, &file, 5, "f.gguf", &err));
}

/* The rule of make_gguf.py. */
static double value_at(size_t i)
{
    return ((double)(i * 7 % 11) - 5.0) / 8.0;
}

/* Every element, by its strides, and that all of it lies in the file. */
static void check_array(const char *name, const char *dtype, saei_element element, uint32_t n_dims, const int64_t *shape, double factor)
{
    const saei_array *a = saei_store_find(&store, name);
    size_t count = 0;
    ck_assert_msg(a && strcmp(a->dtype_name, dtype) == 0 && a->element == element && a->n_dims == n_dims, "%s", name);
    ck_assert_int_eq(memcmp(a->shape, shape, n_dims * sizeof *shape), 0);
    ck_assert_int_eq(a->file, 5);
    ck_assert_ptr_eq(a->data, file.data + a->offset);
    ck_assert_uint_le(a->offset + a->bytes, file.bytes);
    ck_assert(saei_array_count(&count, a));
    const size_t each = saei_element_bytes(element);
    for (size_t i = 0; each && i < count; i++) {
        size_t at = 0, rest = i;
        for (uint32_t d = n_dims; d-- > 0; rest /= (size_t)shape[d])
            at += rest % (size_t)shape[d] * (size_t)a->stride[d];
        ck_assert_uint_le((at + 1) * each, a->bytes);
        ck_assert_msg(saei_element_load(a->data + at * each, element) == factor * value_at(i), "%s[%zu]", name, i);
    }
}

static void check_number(const char *name, double want)
{
    const saei_value *v = saei_store_value(&store, name);
    ck_assert_msg(v && v->is_number && !v->string && v->number == want, "%s is %.17g", name, v ? v->number : 0);
}

static void check_text(const char *name, const char *want)
{
    const saei_value *v = saei_store_value(&store, name);
    ck_assert_msg(v && !v->is_number && strcmp(v->string, want) == 0, "%s", name);
}

START_TEST(control_vector)
{
    open_golden(GOLDEN "control_vector.gguf", _i);
    ck_assert_uint_eq(store.n_values, 3);
    check_text("general.architecture", "controlvector");
    check_text("controlvector.model_hint", "llama");
    check_number("controlvector.layer_count", 3);
    ck_assert_uint_eq(store.n_arrays, 3);
    check_array("direction.1", "F32", SAEI_F32, 1, (int64_t[]){12}, 1);
    check_array("direction.2", "F32", SAEI_F32, 1, (int64_t[]){12}, 2);
    check_array("direction.3", "F32", SAEI_F32, 1, (int64_t[]){12}, 3);
}
END_TEST

START_TEST(every_type)
{
    const int64_t matrix[] = {2, 5}, deep[] = {2, 3, 4, 5}, blocks[] = {3, 64};
    open_golden(GOLDEN "every_type.gguf", _i);
    check_number("general.alignment", 64);
    check_number("n.u8", 200);
    check_number("n.i8", -100);
    check_number("n.u16", 60000);
    check_number("n.i16", -30000);
    check_number("n.u32", 4000000000);
    check_number("n.i32", -2000000000);
    check_number("n.u64", 0x1p63);
    check_number("n.i64", -0x1p53);
    check_number("n.f32", (double)0.1f);
    check_number("n.f64", 0.1);
    check_number("n.true", 1);
    check_number("n.false", 0);
    check_text("t.text", "h\xc3\xa9llo\nworld");
    ck_assert_uint_eq(store.n_values, 15); /* no array is among them */
    check_array("f32", "F32", SAEI_F32, 2, matrix, 1);
    check_array("f16", "F16", SAEI_F16, 2, matrix, 1);
    check_array("bf16", "BF16", SAEI_BF16, 2, matrix, 1);
    check_array("f64", "F64", SAEI_F64, 2, matrix, 1);
    check_array("i8", "I8", SAEI_I8, 2, matrix, 8);
    check_array("i16", "I16", SAEI_I16, 2, matrix, 8);
    check_array("i32", "I32", SAEI_I32, 2, matrix, 8);
    check_array("i64", "I64", SAEI_I64, 2, matrix, 8);
    check_array("deep", "F32", SAEI_F32, 4, deep, 1);
    check_array("q8", "Q8_0", SAEI_OTHER, 2, blocks, 1);
    ck_assert_uint_eq(saei_store_find(&store, "q8")->bytes, 3 * 64 / 32 * 34);
    const saei_array *one = saei_store_find(&store, "one");
    ck_assert(one->n_dims == 1 && one->shape[0] == 1 && saei_element_load(one->data, SAEI_F32) == 0.75);
}
END_TEST

/* ---- files built here ---- */

static struct {
    unsigned char bytes[1 << 16];
    size_t n;
} g;

static void put(uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        g.bytes[g.n++] = (unsigned char)(value >> 8 * i);
}

static void put_bytes(const char *text, size_t n)
{
    put(n, 8);
    memcpy(g.bytes + g.n, text, n);
    g.n += n;
}

static void put_text(const char *text)
{
    put_bytes(text, strlen(text));
}

static void begin(uint64_t version, uint64_t tensors, uint64_t keys)
{
    memset(&g, 0, sizeof g);
    memcpy(g.bytes, "GGUF", 4);
    g.n = 4;
    put(version, 4);
    put(tensors, 8);
    put(keys, 8);
}

static void put_key(const char *name, uint64_t type, uint64_t value, size_t bytes)
{
    put_text(name);
    put(type, 4);
    put(value, bytes);
}

/* A tensor of up to two dimensions; b = 0: one. */
static void put_info(const char *name, uint64_t a, uint64_t b, uint64_t type, uint64_t offset)
{
    put_text(name);
    put(b ? 2 : 1, 4);
    put(a, 8);
    if (b)
        put(b, 8);
    put(type, 4);
    put(offset, 8);
}

/* Padding to a multiple, then so many bytes of data. */
static void put_data(size_t alignment, size_t bytes)
{
    while (g.n % alignment)
        g.bytes[g.n++] = 0xee;
    for (size_t i = 0; i < bytes; i++)
        g.bytes[g.n++] = (unsigned char)i;
}

/* In a block of the file's own size, so that a sanitizer sees a read past its end. */
static sae_status read_cut(size_t bytes)
{
    unsigned char *copy = malloc(bytes + !bytes);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, g.bytes, bytes);
    const saei_file built = {.data = bytes ? copy : NULL, .bytes = bytes, .fd = -1};
    err = (sae_error){.struct_size = sizeof err};
    const sae_status status = saei_read_gguf(&store, &host, &built, 0, "g.gguf", &err);
    if (status)
        saei_store_free(&store, &host);
    for (uint32_t i = 0; i < store.n_arrays; i++)
        ck_assert(store.arrays[i].data >= copy && store.arrays[i].data + store.arrays[i].bytes <= copy + bytes);
    free(copy);
    return status;
}

static sae_status read_built(void)
{
    return read_cut(g.n);
}

/* One of everything, and no more data than its last tensor needs. */
static void build_everything(void)
{
    begin(3, 3, 5);
    put_key("general.alignment", U32, 16, 4);
    put_text("t");
    put(TEXT, 4);
    put_text("text");
    put_text("texts");
    put(ARRAY, 4);
    put(TEXT, 4);
    put(2, 8);
    put_text("a");
    put_text("");
    put_text("halves");
    put(ARRAY, 4);
    put(U16, 4);
    put(3, 8);
    put(0, 6);
    put_key("b", BOOL, 1, 1);
    put_info("x", 3, 2, 0, 0);
    put_info("q", 64, 0, 8, 32);
    put_text("scalar");
    put(0, 4);
    put(28, 4);
    put(112, 8);
    put_data(16, 120);
}

START_TEST(versions)
{
    for (uint64_t version = 2; version < 4; version++) {
        build_everything();
        g.bytes[4] = (unsigned char)version;
        READS(read_built());
        ck_assert_uint_eq(store.n_values, 3);
        const saei_array *x = saei_store_find(&store, "x"), *scalar = saei_store_find(&store, "scalar");
        ck_assert(x->n_dims == 2 && x->shape[0] == 2 && x->shape[1] == 3 && x->stride[0] == 3 && x->stride[1] == 1 && x->bytes == 24);
        ck_assert(scalar->n_dims == 0 && scalar->element == SAEI_F64 && scalar->bytes == 8 && scalar->offset + 8 == g.n);
        saei_store_free(&store, &host);
    }
}
END_TEST

START_TEST(nothing_in_it)
{
    begin(3, 0, 0);
    READS(read_built());
    begin(3, 2, 0);
    put_text("empty");
    put(3, 4);
    put(1ull << 62, 8); /* no product may overflow on the way to 0 */
    put(1ull << 62, 8);
    put(0, 8);
    put(0, 4);
    put(0, 8);
    put_info("flat", 0, 5, 0, 0);
    READS(read_built());
    ck_assert_uint_eq(saei_store_find(&store, "empty")->bytes, 0);
}
END_TEST

START_TEST(two_files_in_one_store)
{
    begin(3, 1, 0);
    put_info("x", 4, 0, 0, 0);
    put_data(32, 16);
    READS(read_built());
    const saei_file built = {.data = g.bytes, .bytes = g.n, .fd = -1};
    REFUSED(SAE_E_FORMAT, "g.gguf: \"x\" is there twice", saei_read_gguf(&store, &host, &built, 1, "g.gguf", &err));
    g.bytes[24 + 8] = 'y';
    READS(saei_read_gguf(&store, &host, &built, 1, "g.gguf", &err));
    ck_assert_uint_eq(store.n_arrays, 2);
    ck_assert_int_eq(saei_store_find(&store, "y")->file, 1);
}
END_TEST

/* Cut anywhere it is refused. */
START_TEST(prefixes)
{
    build_everything();
    for (size_t n = 0; n < g.n; n++) {
        const sae_status status = read_cut(n);
        ck_assert_msg(status == SAE_E_FORMAT, "%zu: %s", n, sae_status_name(status));
        ck_assert_msg(n < 4 || strstr(err.text, "cut off or damaged"), "%zu: %s", n, err.text);
    }
    READS(read_built());
}
END_TEST

/* ---- what is refused ---- */

static void magic(void)
{
    begin(3, 0, 0);
    g.bytes[3] = 'f';
}

static void version_1(void)
{
    begin(1, 0, 0);
}

static void version_4(void)
{
    begin(4, 0, 0);
}

static void big_endian(void)
{
    begin(3ull << 24, 0, 0);
}

static void many_keys(void)
{
    begin(3, 0, UINT64_MAX);
    put_data(1, 100);
}

static void many_tensors(void)
{
    begin(3, 5, 0);
    put_data(1, 5 * 24 - 1);
}

static void long_key(void)
{
    begin(3, 0, 1);
    put(UINT64_MAX, 8);
    put_data(1, 64);
}

static void key_with_nul(void)
{
    begin(3, 0, 1);
    put_bytes("a\0b", 3);
    put(U8, 4);
    put(1, 1);
}

static void key_no_utf8(void)
{
    begin(3, 0, 1);
    put_key("\xff", U8, 1, 1);
}

static void text_no_utf8(void)
{
    begin(3, 0, 1);
    put_text("k");
    put(TEXT, 4);
    put_text("\xc0\x80");
}

static void key_twice(void)
{
    begin(3, 0, 2);
    put_key("k", U8, 1, 1);
    put_key("k", U8, 1, 1);
}

static void value_type(void)
{
    begin(3, 0, 1);
    put_key("k", 13, 1, 1);
}

static void nested_array(void)
{
    begin(3, 0, 1);
    put_key("k", ARRAY, ARRAY, 4);
    put(1, 8);
}

static void array_type(void)
{
    begin(3, 0, 1);
    put_key("k", ARRAY, 99, 4);
    put(1, 8);
}

static void array_too_long(void)
{
    begin(3, 0, 1);
    put_key("k", ARRAY, U64, 4);
    put((UINT64_MAX >> 3) + 1, 8); /* times 8 is 0 */
}

static void texts_too_many(void)
{
    begin(3, 0, 1);
    put_key("k", ARRAY, TEXT, 4);
    put(UINT64_MAX, 8);
    put_text("a");
}

static void alignment_0(void)
{
    begin(3, 0, 1);
    put_key("general.alignment", U32, 0, 4);
}

static void alignment_48(void)
{
    begin(3, 0, 1);
    put_key("general.alignment", U32, 48, 4);
}

static void alignment_u64(void)
{
    begin(3, 0, 1);
    put_key("general.alignment", U64, 32, 8);
}

static void dims_5(void)
{
    begin(3, 1, 0);
    put_text("x");
    put(5, 4);
    put_data(1, 64);
}

static void dim_negative(void)
{
    begin(3, 1, 0);
    put_info("x", 1ull << 63, 0, 0, 0);
}

static void dims_overflow(void)
{
    begin(3, 1, 0);
    put_info("x", 1ull << 40, 1ull << 40, 0, 0);
}

static void bytes_overflow(void)
{
    begin(3, 1, 0);
    put_info("x", 1ull << 31, 1ull << 31, 28, 0);
}

static void type_4(void)
{
    begin(3, 1, 0);
    put_info("x", 4, 0, 4, 0);
}

static void type_1000(void)
{
    begin(3, 1, 0);
    put_info("x", 4, 0, 1000, 0);
}

static void half_block(void)
{
    begin(3, 1, 0);
    put_info("x", 48, 2, 8, 0);
}

static void name_with_newlines(void)
{
    begin(3, 1, 0);
    put_info("x\n\n", 48, 2, 1000, 0);
}

static void tensor_twice(void)
{
    begin(3, 2, 0);
    put_info("x", 4, 0, 0, 0);
    put_info("x", 4, 0, 0, 32);
    put_data(32, 64);
}

static void misaligned(void)
{
    begin(3, 1, 0);
    put_info("x", 4, 0, 0, 16);
    put_data(32, 64);
}

static void outside(void)
{
    begin(3, 1, 0);
    put_info("x", 4, 0, 0, 64);
    put_data(32, 79);
}

static void far_outside(void)
{
    begin(3, 1, 0);
    put_info("x", 4, 0, 0, UINT64_MAX - 31);
    put_data(32, 64);
}

static void overlap(void)
{
    begin(3, 3, 0);
    put_info("z", 4, 0, 0, 64);
    put_info("x", 9, 0, 0, 0);
    put_info("y", 2, 0, 0, 32);
    put_data(32, 96);
}

static const struct {
    void (*build)(void);
    sae_status status;
    const char *words;
} bad[] = {
    {magic, SAE_E_FORMAT, "g.gguf does not begin with GGUF"},
    {version_1, SAE_E_UNSUPPORTED, "g.gguf is GGUF version 1, versions 2 and 3 are read"},
    {version_4, SAE_E_UNSUPPORTED, "version 4"},
    {big_endian, SAE_E_UNSUPPORTED, "big-endian"},
    {many_keys, SAE_E_FORMAT, "claims 18446744073709551615 keys and 0 tensors, more than its 124 bytes can hold"},
    {many_tensors, SAE_E_FORMAT, "claims 0 keys and 5 tensors, more than its 143 bytes"},
    {long_key, SAE_E_FORMAT, "ends inside the name of a key, behind byte 32 of 96: it is cut off or damaged"},
    {key_with_nul, SAE_E_FORMAT, "the name of a key that ends at byte 35 is not UTF-8 without NUL"},
    {key_no_utf8, SAE_E_FORMAT, "the name of a key|not UTF-8"},
    {text_no_utf8, SAE_E_FORMAT, "a text|not UTF-8"},
    {key_twice, SAE_E_FORMAT, "\"k\" is there twice"},
    {value_type, SAE_E_FORMAT, "key \"k\" has a value of type 13, which GGUF does not have"},
    {nested_array, SAE_E_UNSUPPORTED, "key \"k\" is an array of arrays"},
    {array_type, SAE_E_FORMAT, "key \"k\" is an array of values of type 99"},
    {array_too_long, SAE_E_FORMAT, "ends inside an array"},
    {texts_too_many, SAE_E_FORMAT, "ends inside an array of texts"},
    {alignment_0, SAE_E_FORMAT, "general.alignment is 0 of type 4, it must be a power of two"},
    {alignment_48, SAE_E_FORMAT, "general.alignment is 48"},
    {alignment_u64, SAE_E_FORMAT, "general.alignment is 32 of type 10"},
    {dims_5, SAE_E_FORMAT, "tensor \"x\" has 5 dimensions, GGUF has at most 4"},
    {dim_negative, SAE_E_FORMAT, "tensor \"x\" has a dimension of 9223372036854775808"},
    {dims_overflow, SAE_E_FORMAT, "more elements than any machine can address"},
    {bytes_overflow, SAE_E_FORMAT, "more elements than any machine can address"},
    {type_4, SAE_E_UNSUPPORTED, "tensor \"x\" is of ggml type 4, which is not known"},
    {type_1000, SAE_E_UNSUPPORTED, "ggml type 1000"},
    {half_block, SAE_E_FORMAT, "tensor \"x\" has rows of 48 elements, Q8_0 comes in blocks of 32"},
    {name_with_newlines, SAE_E_UNSUPPORTED, "tensor \"x??\""},
    {tensor_twice, SAE_E_FORMAT, "\"x\" is there twice"},
    {misaligned, SAE_E_FORMAT, "tensor \"x\" begins at byte 16 of the data, which is no multiple of the alignment, 32"},
    {outside, SAE_E_FORMAT, "tensor \"x\" has 16 bytes from byte 64 of the data on, but the file holds 79 bytes of data"},
    {far_outside, SAE_E_FORMAT, "from byte 18446744073709551584 of the data on"},
    {overlap, SAE_E_FORMAT, "tensors \"x\" and \"y\" overlap: one ends at byte"},
};

START_TEST(defects)
{
    bad[_i].build();
    REFUSED(bad[_i].status, bad[_i].words, read_built());
}
END_TEST

/* Any byte of a good file may be another: refused or read, but never beyond its end. */
START_TEST(flipped_bytes)
{
    build_everything();
    const size_t head = g.n - 120;
    int refusals = 0;
    for (size_t i = 0; i < head; i++) {
        const unsigned char was = g.bytes[i];
        for (unsigned flip = 1; flip < 256; flip += flip == 1 ? 6 : 31) {
            g.bytes[i] = (unsigned char)(was ^ flip);
            if (read_built())
                refusals++;
            else
                saei_store_free(&store, &host);
        }
        g.bytes[i] = was;
    }
    ck_assert_int_gt(refusals, 500);
}
END_TEST

START_TEST(every_allocation_fails_once)
{
    long n = 0;
    build_everything();
    for (sae_status status = SAE_E_NOMEM; status; n++) {
        heap_init(&h);
        h.fail_at = n;
        status = read_built();
        ck_assert_msg(status == SAE_OK || (status == SAE_E_NOMEM && strstr(err.text, "no memory")), "%ld: %s", n, err.text);
        ck_assert(status == SAE_OK || h.live_bytes == 0);
    }
    ck_assert_int_gt(n, 10);
}
END_TEST

#define LOOP(tc, test, table) tcase_add_loop_test(tc, test, 0, (int)LENGTH(table))

int main(void)
{
    Suite *suite = suite_create("gguf");
    TCase *tc = tcase_create("gguf");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, control_vector, 0, 2); /* mapped and copied */
    tcase_add_loop_test(tc, every_type, 0, 2);
    tcase_add_test(tc, versions);
    tcase_add_test(tc, nothing_in_it);
    tcase_add_test(tc, two_files_in_one_store);
    tcase_add_test(tc, prefixes);
    LOOP(tc, defects, bad);
    tcase_add_test(tc, flipped_bytes);
    tcase_add_test(tc, every_allocation_fails_once);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
