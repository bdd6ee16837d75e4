/* The readers: JSON, safetensors, SAELens folders; every published fixture, every defect by its own sentence. */
#include <check.h>
#include <fenv.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/decimal.h"
#include "io/io.h"
#include "io/json.h"
#include "io/tensors.h"
#include "io/sort.h"
#include "support/checkpoint.h"
#include "support/run.h"
#include "support/support.h"

static heap h;
static saei_host host;

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

static sae_error err;

static void expect(sae_status got, sae_status want, const char *sentence, const char *what)
{
    ck_assert_msg(got == want && (!want || strstr(err.text, sentence)), "%s: %s \"%s\", expected %s \"%s\"", what, sae_status_name(got),
                  got ? err.text : "", sae_status_name(want), sentence);
}

/* Opens `path`, which must fail so and leave nothing behind. */
static void refuse(const char *path, const sae_open_options *opt, sae_status want, const char *sentence, const char *what)
{
    static const sae_open_options none;
    saei_parts parts;
    memset(&parts, 0xa5, sizeof parts);
    memset(&err, 0, sizeof err);
    expect(saei_parts_open(&parts, &host, path, opt ? opt : &none, &err), want, sentence, what);
    ck_assert(!parts.files && !parts.enc && !parts.b_dec && !parts.memory.blocks && !parts.n_warnings);
    ck_assert_int_eq(h.live_bytes, 0);
}

static void open_good(saei_parts *parts, const char *path, const sae_open_options *opt)
{
    static const sae_open_options none;
    memset(&err, 0, sizeof err);
    const sae_status status = saei_parts_open(parts, &host, path, opt ? opt : &none, &err);
    ck_assert_msg(status == SAE_OK, "%s: %s", path, err.text);
}

/* ---- sort ---- */

static int by_value(const void *arg, uint32_t a, uint32_t b)
{
    const int *v = arg;
    return (v[a] > v[b]) - (v[a] < v[b]);
}

START_TEST(sorting)
{
    int v[200] = {0};
    uint32_t ids[200], seed = 1;
    for (uint32_t n = 0; n <= 200; n += n < 10 ? 1 : 19) {
        for (uint32_t i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            v[i] = (int)(seed >> 24);
            ids[i] = i;
        }
        saei_sort(ids, n, by_value, v);
        for (uint32_t i = 1; i < n; i++)
            ck_assert_int_le(v[ids[i - 1]], v[ids[i]]);
        long sum = 0; /* still a permutation */
        for (uint32_t i = 0; i < n; i++)
            sum += ids[i];
        ck_assert_int_eq(sum, (long)n * ((long)n - 1) / 2);
    }
}
END_TEST

/* ---- JSON ---- */

static sae_status parse(saei_json *json, const char *text)
{
    memset(&err, 0, sizeof err);
    return saei_json_parse(json, &host, text, strlen(text), "t", &err);
}

START_TEST(json_values)
{
    saei_json json;
    ck_assert_int_eq(parse(&json, " {\"a\": [1, -2, 0, 9223372036854775807, -9223372036854775808, 9223372036854775808, 1.5, 1e3, -0.0],\n"
                                  "\"s\": \"\\u0041\\n\\\\\\/\\\"\\ud83d\\ude00\xc3\xa9\", \"\": null, \"o\": {\"t\": true, \"f\": false},"
                                  "\"n\": [NaN, Infinity, -Infinity], \"e\": [], \"z\": {}} "),
                     SAE_OK);
    const saei_json_value *v = json.v;
    const uint32_t a = saei_json_member(&json, 0, "a");
    ck_assert_uint_eq(v[0].n, 7);
    ck_assert_uint_eq(v[0].next, json.n);
    ck_assert_uint_eq(v[a].n, 9);
    const int64_t want[] = {1, -2, 0, INT64_MAX, INT64_MIN};
    for (uint32_t i = 0; i < 9; i++) {
        ck_assert_uint_eq(v[a + 1 + i].type, i < 5 ? SAEI_JSON_INTEGER : SAEI_JSON_NUMBER);
        if (i < 5)
            ck_assert_int_eq(v[a + 1 + i].integer, want[i]);
    }
    ck_assert_str_eq(saei_json_string(&json, saei_json_member(&json, 0, "s")), "A\n\\/\"\xf0\x9f\x98\x80\xc3\xa9");
    ck_assert_uint_eq(saei_json_member(&json, 0, ""), 0); /* null is absent */
    ck_assert_uint_eq(saei_json_member(&json, 0, "nothing"), 0);
    ck_assert_uint_eq(saei_json_member(&json, a, "a"), 0); /* not an object */
    const uint32_t o = saei_json_member(&json, 0, "o");
    ck_assert_uint_eq(v[saei_json_member(&json, o, "t")].type, SAEI_JSON_TRUE);
    ck_assert_uint_eq(v[saei_json_member(&json, o, "f")].type, SAEI_JSON_FALSE);
    ck_assert_ptr_null(saei_json_string(&json, o));
    ck_assert_uint_eq(v[saei_json_member(&json, 0, "n")].n, 3);
    ck_assert_uint_eq(v[saei_json_member(&json, 0, "e")].n, 0);
    ck_assert_str_eq(saei_json_type_name(&json, saei_json_member(&json, 0, "z")), "an object");
    saei_json_free(&json, &host);
}
END_TEST

static const struct {
    const char *text, *sentence;
} bad_json[] = {
    {"", "line 1, column 1: the text ends where a value is expected"},
    {"{\n\"a\": 1,\n}", "line 3, column 1: a key in quotes"},
    {"[1,]", "line 1, column 4: a value is expected"},
    {"[1 2]", "line 1, column 4: ',' or ']' is expected"},
    {"{\"a\" 1}", "line 1, column 6: ':' is expected"},
    {"{\"a\":1", "the text ends too early"},
    {"{\"a\":1 \"b\":2}", "',' or '}' is expected"},
    {"{a:1}", "a key in quotes"},
    {"[1}", "',' or ']' is expected"},
    {"1 2", "text after the end"},
    {"01", "not a number"},
    {"-", "not a number"},
    {"1.", "not a number"},
    {"1e", "not a number"},
    {".5", "a value is expected"},
    {"tru", "a value is expected"},
    {"\"abc", "ends inside a string"},
    {"\"a\nb\"", "a control character"},
    {"\"\\x\"", "unknown escape"},
    {"\"\\u12g4\"", "four hex digits"},
    {"\"\\ud800x\"", "half a surrogate pair"},
    {"\"\\ud800\\u0041\"", "half a surrogate pair"},
    {"\"\\udc00\"", "half a surrogate pair"},
    {"\"\\u0000\"", "the character NUL"},
    {"\"\xc3\xa9\xff\"", "line 1, column 3: a byte that is not UTF-8"},
    {"\"\xc0\xaf\"", "not UTF-8"},         /* overlong */
    {"\"\xed\xa0\x80\"", "not UTF-8"},     /* a surrogate */
    {"\"\xf4\x90\x80\x80\"", "not UTF-8"}, /* above U+10FFFF */
    {"\"\xe2\x82", "not UTF-8"},           /* cut */
    {"\xef\xbb\xbf{}", "a value is expected"},
    {"{\"a\":1,\n \"b\":2, \"a\":3}", "the key \"a\" twice, again at line 2, column 9"},
    {"[{\"x\":{\"k\":1,\"\\u006b\":2}}]", "the key \"k\" twice"},
};

START_TEST(json_defects)
{
    saei_json json;
    const char *text = bad_json[_i].text;
    expect(parse(&json, text), SAE_E_FORMAT, bad_json[_i].sentence, text);
    ck_assert_ptr_null(json.v);
    ck_assert_ptr_null(json.strings);
}
END_TEST

START_TEST(json_limits)
{
    saei_json json;
    char nested[2 * SAEI_JSON_DEPTH + 3] = "";
    memset(nested, '[', SAEI_JSON_DEPTH);
    memset(nested + SAEI_JSON_DEPTH, ']', SAEI_JSON_DEPTH);
    ck_assert_int_eq(parse(&json, nested), SAE_OK);
    ck_assert_uint_eq(json.n, SAEI_JSON_DEPTH);
    saei_json_free(&json, &host);
    memset(nested, '[', SAEI_JSON_DEPTH + 1);
    memset(nested + SAEI_JSON_DEPTH + 1, ']', SAEI_JSON_DEPTH + 1);
    expect(parse(&json, nested), SAE_E_FORMAT, "inside each other", "depth");
    const size_t n = SAEI_JSON_VALUES, bytes = 2 * n + 2;
    char *wide = malloc(bytes);
    ck_assert_ptr_nonnull(wide);
    for (size_t i = 0; i < bytes; i++)
        wide[i] = i % 2 ? '0' : ',';
    wide[0] = '[';
    wide[bytes - 2] = ']';
    wide[bytes - 1] = ' ';
    memset(&err, 0, sizeof err);
    expect(saei_json_parse(&json, &host, wide, bytes, "t", &err), SAE_E_FORMAT, "more values", "values");
    wide[bytes - 3] = ' '; /* one value less: the array and n - 1 numbers */
    wide[bytes - 4] = ' ';
    ck_assert_int_eq(saei_json_parse(&json, &host, wide, bytes, "t", &err), SAE_OK);
    saei_json_free(&json, &host);
    free(wide);
}
END_TEST

/* A prefix of a good text is never read as good, and nothing behind `bytes` is touched (the copy ends where its memory does). */
START_TEST(json_prefixes)
{
    static const char text[] = "{\"a\": [1.5e+3, \"\\ud83d\\ude00\xc3\xa9\", {\"b\": -12, \"c\": [true, null]}], \"d\": \"x\\n\"}";
    saei_json json;
    for (size_t n = 0; n < sizeof text - 1; n++) {
        char *copy = malloc(n + !n);
        ck_assert_ptr_nonnull(copy);
        memcpy(copy, text, n);
        ck_assert_int_eq(saei_json_parse(&json, &host, copy, n, "t", &err), SAE_E_FORMAT);
        free(copy);
    }
}
END_TEST

static uint64_t bits_of(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

static const struct {
    const char *text;
    double number;
} numbers[] = {{"0", 0.0},
               {"-0.0", -0.0},
               {"0e99999999999999999999", 0.0},
               {"0.1", 0.1},
               {"3", 3.0},
               {"-9223372036854775808", -0x1p63},
               {"9007199254740993", 0x1p53}, /* ties to even, as an integer too */
               {"9007199254740993.0", 0x1p53},
               {"9007199254740993.00000000000000000000000000000000000000001", 0x1p53 + 2},
               {"9007199254740995e0", 0x1p53 + 4},
               {"1e22", 1e22},
               {"1e23", 1e23},
               {"17976931348623157e292", 0x1.fffffffffffffp1023},
               {"1.7976931348623158079e308", 0x1.fffffffffffffp1023},
               {"1.7976931348623159e308", (double)INFINITY},
               {"-1e309", -(double)INFINITY},
               {"1e310", (double)INFINITY},
               {"1e99999999999999999999", (double)INFINITY},
               {"4.9406564584124654e-324", 0x1p-1074},
               {"2.4703282292062328e-324", 0x1p-1074},
               {"2.4703282292062327e-324", 0.0},
               {"1e-324", 0.0},
               {"-1e-99999999999999999999", -0.0},
               {"2.2250738585072011e-308", 0x0.fffffffffffffp-1022},
               {"2.2250738585072014e-308", 0x1p-1022},
               {"123456789012345678901234567890", 123456789012345678901234567890.0},
               {"Infinity", (double)INFINITY},
               {"-Infinity", -(double)INFINITY}};

START_TEST(json_numbers)
{
    saei_json json;
    double number = 7.0;
    ck_assert_int_eq(parse(&json, "[null, \"1\", NaN, true]"), SAE_OK);
    for (uint32_t i = 5; i-- > 0;)
        ck_assert(saei_json_number(&number, &json, i) == (i == 3));
    ck_assert(isnan(number));
    saei_json_free(&json, &host);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        char text[128];
        snprintf(text, sizeof text, "[%s]", numbers[i].text);
        ck_assert_int_eq(parse(&json, text), SAE_OK);
        ck_assert(saei_json_number(&number, &json, 1));
        ck_assert_msg(bits_of(number) == bits_of(numbers[i].number), "%s became %.17g", text, number);
        saei_json_free(&json, &host);
    }
}
END_TEST

/* The oracle is the C library's, which is exact for any number of digits. */
static void same_as_strtod(const char *text)
{
    const double got = saei_decimal(text, strlen(text)), want = strtod(text, NULL);
    ck_assert_msg(bits_of(got) == bits_of(want), "%.80s: %a, not %a", text, got, want);
}

/* A double as text: of 17 digits, exactly, or exactly half-way to its neighbour and then a hair above that. */
static void spell(char *text, size_t room, double v, uint32_t how)
{
    const double above = nextafter(v, (double)INFINITY);
    const long double middle = (long double)v / 2 + (long double)above / 2;
    if (how == 0)
        snprintf(text, room, "%.17g", v);
    else if (how == 1)
        snprintf(text, room, "%.*e", 40, v);
    else
        snprintf(text, room, "%.*Le", 1100, middle);
    if (how == 3) {
        char *e = strchr(text, 'e');
        memmove(e + 1, e, strlen(e) + 1);
        *e = '1';
    }
}

START_TEST(decimals_are_rounded_once)
{
    static char text[2048];
    rng r = {20};
    for (int i = 0; i < 8000; i++) {
        const uint64_t bits = i % 4 ? rng_bits(&r) : rng_bits(&r) >> (1 + rng_below(&r, 60)); /* every fourth is small or subnormal */
        double v;
        memcpy(&v, &bits, sizeof v);
        if (!(fabs(v) < 1e308))
            continue;
        for (uint32_t how = 0; how < 4; how++) {
            spell(text, sizeof text, v, how);
            same_as_strtod(text);
        }
    }
    memset(text, '0', sizeof text);
    memcpy(text + 1200, "1.5e-1205", 10); /* zeros in front do not count */
    same_as_strtod(text);
    memcpy(text, "0.", 2);
    memcpy(text + 1200, "17e1190", 8);
    same_as_strtod(text);
    memcpy(text + 900, "9e-80", 6); /* the only digit lies behind the 800th place */
    *text = '7';
    same_as_strtod(text);
}
END_TEST

START_TEST(decimals_do_not_ask_the_host)
{
    fenv_t before;
    fegetenv(&before);
    const uint64_t want = bits_of(0.1), least = bits_of(0x1p-1074);
    fp_flush();
    fesetround(FE_UPWARD);
    const uint64_t got = bits_of(saei_decimal("0.1", 3)), small = bits_of(saei_decimal("+5.e-324", 8));
    fesetenv(&before);
    ck_assert_uint_eq(got, want);
    ck_assert_uint_eq(small, least);
}
END_TEST

START_TEST(shown_names)
{
    char out[SAEI_SHOWN];
    ck_assert_str_eq(saei_show(out, "W_\x1b[2J\n"), "W_?[2J?");
    ck_assert_str_eq(saei_show(out, "123456789012345678901234567890123456789012345"), "12345678901234567890123456789012345678901234...");
    ck_assert_str_eq(saei_show(out, "1234567890123456789012345678901234567890123\xc3\xa9z"), "1234567890123456789012345678901234567890123.."
                                                                                             ".");
}
END_TEST

/* ---- safetensors ---- */

static sae_status read_container(saei_store *store, const char *header, size_t data_bytes)
{
    static unsigned char bytes[1 << 14];
    const size_t n = strlen(header);
    memset(bytes, 0, sizeof bytes);
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(n >> 8 * i);
    memcpy(bytes + 8, header, n);
    const saei_file file = {bytes, 8 + n + data_bytes, -1, false};
    memset(&err, 0, sizeof err);
    *store = (saei_store){0};
    return saei_read_safetensors(store, &host, &file, 0, "f", &err);
}

START_TEST(container)
{
    saei_store st;
    /* JSON order is not data order; an empty tensor lies between two; a scalar has no dimensions; small types count in bits. */
    ck_assert_int_eq(read_container(&st,
                                    "{\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[16,28]},\"__metadata__\":{\"x\":\"y\"},"
                                    "\"e\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[16,16]},"
                                    "\"a\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]},"
                                    "\"q\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[36,38]},"
                                    "\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[28,36]}}  ",
                                    38),
                     SAE_OK);
    ck_assert_uint_eq(st.n_arrays, 5);
    const saei_array *b = saei_store_find(&st, "b"), *s = saei_store_find(&st, "s"), *q = saei_store_find(&st, "q");
    ck_assert(b && s && q && saei_store_find(&st, "e"));
    ck_assert_ptr_null(saei_store_find(&st, "__metadata__"));
    ck_assert_int_eq(b->element, SAEI_BF16);
    ck_assert(b->n_dims == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->stride[0] == 3 && b->stride[1] == 1 && b->bytes == 12);
    ck_assert_int_eq(s->element, SAEI_F64);
    ck_assert_int_eq(q->element, SAEI_OTHER);
    ck_assert_str_eq(q->dtype_name, "F4");
    ck_assert(s->n_dims == 0 && s->offset == b->offset + 12);
    saei_store_free(&st, &host);
    ck_assert_int_eq(read_container(&st, "{}", 0), SAE_OK);
    ck_assert_uint_eq(st.n_arrays, 0);
    saei_store_free(&st, &host);
}
END_TEST

#define ENTRY(dtype, shape, begin, end) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static const struct {
    const char *header;
    size_t data_bytes;
    sae_status status;
    const char *sentence;
} bad_containers[] = {
    {"[]", 0, SAE_E_FORMAT, "is an array, not an object"},
    {"{", 0, SAE_E_FORMAT, "the header of f is not valid JSON: line 1, column 2"},
    {"{\"__metadata__\":{\"a\":1}}", 0, SAE_E_FORMAT, "__metadata__ is not an object of strings"},
    {"{\"a\":7}", 0, SAE_E_FORMAT, "\"a\" is described by an integer"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, SAE_E_FORMAT, "\"a\" has no dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, SAE_E_FORMAT, "\"a\" has no shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, SAE_E_FORMAT, "\"a\" has no data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, SAE_E_FORMAT, "\"a\" has no data_offsets of two"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]}}", 4, SAE_E_FORMAT, "\"a\" has no data_offsets of two"},
    {"{\"a\":" ENTRY("f32", "[1]", 0, 4) "}", 4, SAE_E_UNSUPPORTED, "\"a\" has dtype \"f32\", which is not known"},
    {"{\"a\":" ENTRY("F32", "[1.0]", 0, 4) "}", 4, SAE_E_FORMAT, "\"a\" has a number as dimension 0"},
    {"{\"a\":" ENTRY("F32", "[18446744073709551616]", 0, 4) "}", 4, SAE_E_FORMAT, "\"a\" has a number as dimension 0"},
    {"{\"a\":" ENTRY("F32", "[2,-1]", 0, 4) "}", 4, SAE_E_FORMAT, "\"a\" has the negative dimension -1"},
    {"{\"a\":" ENTRY("F32", "[4294967296,4294967296]", 0, 0) "}", 0, SAE_E_FORMAT, "\"a\" has a shape of more elements"},
    {"{\"a\":" ENTRY("F32", "[4294967296,4294967296,0]", 0, 0) "}", 0, SAE_E_FORMAT, "\"a\" has a shape of more elements"},
    {"{\"a\":" ENTRY("F64", "[9223372036854775807]", 0, 8) "}", 8, SAE_E_FORMAT, "\"a\" has a shape of more elements"},
    {"{\"a\":" ENTRY("F4", "[3]", 0, 1) "}", 1, SAE_E_FORMAT, "does not fill its last byte"},
    {"{\"a\":" ENTRY("F32", "[1]", 4, 0) "}", 4, SAE_E_FORMAT, "\"a\" has data_offsets 4 to 0, which is no range"},
    {"{\"a\":" ENTRY("F32", "[1]", -4, 0) "}", 4, SAE_E_FORMAT, "which is no range"},
    {"{\"a\":" ENTRY("F32", "[2]", 0, 4) "}", 4, SAE_E_FORMAT, "\"a\" needs 8 bytes by its shape and dtype, its data_offsets hold 4"},
    {"{\"a\":" ENTRY("F32", "[2]", 0, 8) "}", 7, SAE_E_FORMAT, "\"a\" ends at byte 8 of the data, but the file holds 7"},
    {"{\"a\":" ENTRY("F32", "[2]", 0, 8) ",\"b\":" ENTRY("F32", "[2]", 4, 12) "}", 12, SAE_E_FORMAT, "\"a\" and \"b\" overlap"},
    {"{\"b\":" ENTRY("F32", "[2]", 0, 8) ",\"a\":" ENTRY("F32", "[2]", 0, 8) "}", 8, SAE_E_FORMAT, "overlap"},
    {"{\"a\":" ENTRY("F32", "[1]", 0, 4) ",\"b\":" ENTRY("F32", "[1]", 8, 12) "}", 12, SAE_E_FORMAT,
     "a hole before tensor \"b\": bytes 4 to 8"},
    {"{\"a\":" ENTRY("F32", "[1]", 4, 8) "}", 8, SAE_E_FORMAT, "a hole before tensor \"a\": bytes 0 to 4"},
    {"{\"a\":" ENTRY("F32", "[1]", 0, 4) "}", 7, SAE_E_FORMAT, "3 bytes follow the last tensor"},
    {"{}", 1, SAE_E_FORMAT, "1 bytes follow the last tensor"},
    {"{\"a\":" ENTRY("F32", "[1]", 0, 4) ",\"a\":" ENTRY("F32", "[1]", 4, 8) "}", 8, SAE_E_FORMAT, "has the key \"a\" twice"},
};

START_TEST(container_defects)
{
    saei_store st;
    expect(read_container(&st, bad_containers[_i].header, bad_containers[_i].data_bytes), bad_containers[_i].status,
           bad_containers[_i].sentence, bad_containers[_i].header);
    saei_store_free(&st, &host);
}
END_TEST

/* ---- published fixtures ---- */

static const struct {
    const char *name;
    sae_arch arch;
    sae_dtype dtype;
    int32_t d_in, d_sae, k;
    sae_norm norm;
    bool b_dec, rescale;
    const char *stored; /* architecture as stored */
} good[] = {
    {"batchtopk_saved_as_jumprelu", SAE_JUMPRELU, SAE_F32, 37, 131, 0, SAE_NORM_NONE, true, false, "jumprelu"},
    {"gated", SAE_GATED, SAE_F32, 37, 131, 0, SAE_NORM_NONE, true, false, "gated"},
    {"jumprelu_expected_average_only_in", SAE_JUMPRELU, SAE_F32, 37, 131, 0, SAE_NORM_SCALE, false, false, "jumprelu"},
    {"jumprelu_f32", SAE_JUMPRELU, SAE_F32, 37, 131, 0, SAE_NORM_NONE, true, false, "jumprelu"},
    {"jumprelu_fp16", SAE_JUMPRELU, SAE_F16, 48, 192, 0, SAE_NORM_NONE, false, false, "jumprelu"},
    {"jumprelu_negative_thresholds", SAE_JUMPRELU, SAE_F32, 24, 97, 0, SAE_NORM_NONE, true, false, "jumprelu"},
    {"jumprelu_training_checkpoint_bf16", SAE_JUMPRELU, SAE_BF16, 37, 131, 0, SAE_NORM_NONE, true, false, "jumprelu"},
    {"matryoshka_batchtopk_saved_as_jumprelu", SAE_JUMPRELU, SAE_F32, 33, 131, 0, SAE_NORM_NONE, true, false, "jumprelu"},
    {"standard_bf16", SAE_STANDARD, SAE_BF16, 37, 131, 0, SAE_NORM_NONE, true, false, "standard"},
    {"standard_constant_norm_rescale", SAE_STANDARD, SAE_F32, 37, 96, 0, SAE_NORM_CONSTANT, true, false, "standard"},
    {"standard_expected_average_only_in", SAE_STANDARD, SAE_F32, 37, 131, 0, SAE_NORM_SCALE, true, false, "standard"},
    {"standard_hook_z", SAE_STANDARD, SAE_F32, 36, 131, 0, SAE_NORM_NONE, true, false, "standard"},
    {"standard_layer_norm", SAE_STANDARD, SAE_F32, 37, 131, 0, SAE_NORM_LAYER, true, false, "standard"},
    {"standard_no_b_dec", SAE_STANDARD, SAE_F32, 32, 128, 0, SAE_NORM_NONE, false, false, "standard"},
    {"standard_relu", SAE_STANDARD, SAE_F32, 37, 131, 0, SAE_NORM_NONE, true, false, "standard"},
    {"topk", SAE_TOPK, SAE_F32, 37, 131, 7, SAE_NORM_NONE, true, false, "topk"},
    {"topk_k_over_positive", SAE_TOPK, SAE_F32, 20, 67, 60, SAE_NORM_NONE, true, false, "topk"},
    {"topk_rescale_by_decoder_norm", SAE_TOPK, SAE_F32, 37, 131, 9, SAE_NORM_NONE, true, true, "topk"},
    {"v5_layout_jumprelu", SAE_JUMPRELU, SAE_F32, 37, 131, 0, SAE_NORM_NONE, true, false, "jumprelu"},
    {"v5_layout_topk_by_activation_fn", SAE_TOPK, SAE_F32, 37, 131, 8, SAE_NORM_NONE, true, false, "standard"},
};

static const char *golden(const char *folder, const char *name, const char *file)
{
    static char path[300];
    snprintf(path, sizeof path, "tests/golden/%s/%s%s", folder, name, file);
    return path;
}

static void check_texts(const saei_parts *p, const char *stored, bool old)
{
    ck_assert_str_eq(p->texts[SAE_TEXT_FORMAT], "saelens");
    ck_assert_str_eq(p->texts[SAE_TEXT_FORMAT_VERSION], old ? "" : "6.54.12");
    ck_assert_str_eq(p->texts[SAE_TEXT_ARCHITECTURE], stored);
    ck_assert_str_eq(p->texts[SAE_TEXT_MODEL_NAME], "tiny");
    ck_assert_ptr_nonnull(strstr(p->texts[SAE_TEXT_HOOK_NAME], "blocks.1."));
    ck_assert_ptr_nonnull(strstr(p->texts[SAE_TEXT_PATH], "/sae_weights.safetensors"));
    ck_assert_int_eq(p->texts[SAE_TEXT_CONFIG][0], '{');
}

START_TEST(fixtures)
{
    saei_parts p;
    open_good(&p, golden("saelens", good[_i].name, _i % 2 ? "" : "/sae_weights.safetensors"), NULL);
    ck_assert_int_eq(p.arch, good[_i].arch);
    ck_assert_int_eq(p.norm, good[_i].norm);
    ck_assert_float_eq(p.norm_scaling_factor, 1.0f);
    ck_assert(p.d_in == good[_i].d_in && p.d_sae == good[_i].d_sae && p.d_out == p.d_in && p.k == good[_i].k);
    ck_assert_int_eq(p.apply_b_dec, good[_i].b_dec);
    ck_assert_int_eq(p.rescale_by_decoder_norm, good[_i].rescale);
    ck_assert(p.enc[0].w.m.dtype == good[_i].dtype && p.dec[0].w.m.dtype == good[_i].dtype);
    ck_assert(p.enc[0].w.m.by_cols && p.enc[0].w.m.n == p.d_sae && p.enc[0].w.m.d == p.d_in);
    ck_assert(!p.dec[0].w.m.by_cols && p.dec[0].w.m.n == p.d_sae && p.dec[0].w.m.d == p.d_out);
    ck_assert_ptr_eq(p.enc[0].w.m.data, p.files[0].data + p.enc[0].w.offset);
    ck_assert_ptr_eq(p.dec[0].w.m.data, p.files[0].data + p.dec[0].w.offset);
    const bool gated = p.arch == SAE_GATED;
    ck_assert(p.b_dec && !p.b_enc == gated && !p.b_gate != gated && !p.b_mag != gated && !p.r_mag != gated);
    ck_assert(!p.threshold == (p.arch != SAE_JUMPRELU));
    ck_assert_ptr_null(p.dec_scale);
    ck_assert_int_eq(p.n_warnings, p.norm == SAE_NORM_SCALE);
    if (p.n_warnings)
        ck_assert_ptr_nonnull(strstr(p.warnings[0], "norm_scaling_factor"));
    check_texts(&p, good[_i].stored, strncmp(good[_i].name, "v5", 2) == 0);
    saei_parts_free(&p, &host);
}
END_TEST

static const struct {
    const char *name;
    sae_status status;
    const char *sentence;
} bad[] = {
    {"ct_layer_missing", SAE_E_FORMAT, "layer_1.safetensors is absent, but the set goes up to layer 2"},
    {"dl_topk_k_disagrees", SAE_E_FORMAT, "config.json says k = 5, ae.pt says k = 7"},
    {"dl_unknown_dict_class", SAE_E_UNSUPPORTED, "dict_class \"SomethingElse\" is not known"},
    {"lsc_dcp_only", SAE_E_UNSUPPORTED, "a distributed checkpoint (sae_weights.dcp) and no sae_weights.safetensors"},
    {"npz_bomb.npz", SAE_E_FORMAT, "W_dec has 20 rows, W_enc says d_sae = 2048"},
    {"npz_missing_threshold.npz", SAE_E_FORMAT, "no tensor threshold, which a Gemma Scope SAE needs"},
    {"npz_object_array.npz", SAE_E_UNSUPPORTED, "\"W_enc\" is an object array, a pickle inside npy"},
    {"npz_path_traversal.npz", SAE_E_FORMAT, "the name of member 0, \"../../W_enc.npy\", leads out of the archive"},
    {"npz_shape_exceeds_data.npz", SAE_E_FORMAT, "\"W_enc\" needs 960000000 bytes by its shape and dtype, its member holds 64"},
    {"npz_truncated.npz", SAE_E_FORMAT, "no zip end record"},
    {"oai_topk_without_k.pt", SAE_E_FORMAT, "does not say the k of its top-k"},
    {"pt_empty.pt", SAE_E_FORMAT, "(0 bytes) is neither a zip archive nor a pickle"},
    {"pt_missing_storage.pt", SAE_E_FORMAT, "storage \"1\" is missing in the archive"},
    {"pt_old_saetraining_cfg_object.pt", SAE_E_UNSUPPORTED, "names the global sae_training.config.LanguageModelSAERunnerConfig"},
    {"pt_os_system.pt", SAE_E_UNSUPPORTED, "names the global posix.system"},
    {"pt_plain_pickle_os_system.pt", SAE_E_UNSUPPORTED, "names the global posix.system"},
    {"pt_storage_too_small.pt", SAE_E_FORMAT, "storage \"1\" has 960 bytes by its description, 16 in the file"},
    {"pt_truncated_legacy.pt", SAE_E_FORMAT, "has 960 bytes by its description, 804 in the file"},
    {"pt_truncated_zip.pt", SAE_E_FORMAT, "no zip end record"},
    {"pt_whole_module.pt", SAE_E_UNSUPPORTED, "names the global torch.nn.modules.container.Sequential"},
    {"sl_batchtopk_training_checkpoint", SAE_E_UNSUPPORTED, "save_inference_model"},
    {"sl_cfg_invalid_utf8", SAE_E_FORMAT, "cfg.json is not valid JSON: line 1, column 61: a byte that is not UTF-8"},
    {"sl_cfg_nested_100k", SAE_E_FORMAT,
     "cfg.json is not valid JSON: line 1, column 65: more than 64 arrays and objects inside each other"},
    {"sl_d_sae_mismatch", SAE_E_FORMAT, "W_enc has 20 columns, cfg.json says d_sae = 24"},
    {"sl_inf_weight", SAE_E_FORMAT, "W_dec is inf at row"},
    {"sl_integer_weights", SAE_E_UNSUPPORTED, "W_enc has dtype I64"},
    {"sl_missing_W_dec", SAE_E_FORMAT, "no tensor W_dec, which a jumprelu SAE needs"},
    {"sl_nan_weight", SAE_E_FORMAT, "W_enc is nan at row"},
    {"sl_scaling_factor_not_ones", SAE_E_FORMAT, "scaling_factor is not all ones"},
    {"sl_threshold_too_short", SAE_E_FORMAT, "threshold has 19 values, cfg.json says d_sae = 20"},
    {"sl_transcoder_with_b_dec", SAE_E_FORMAT, "apply_b_dec_to_input = true, which a transcoder cannot have"},
    {"sl_unknown_architecture", SAE_E_UNSUPPORTED, "architecture \"hyperbolic_sae\" is not known"},
    {"sl_weights_empty", SAE_E_FORMAT, "the file has 0 bytes"},
    {"sl_weights_is_a_directory", SAE_E_IO, "sae_weights.safetensors is a folder"},
    {"sp_groupmax_not_divisible", SAE_E_FORMAT, "20 latents do not split into k = 7 groups"},
    {"st_duplicate_key.safetensors", SAE_E_FORMAT, "has the key \"a\" twice"},
    {"st_header_length_2p63.safetensors", SAE_E_FORMAT, "the header claims 9223372036854775808 bytes, the format allows 100000000"},
    {"st_header_longer_than_file.safetensors", SAE_E_FORMAT, "the header claims 2465 bytes, the file has only 2456 more"},
    {"st_hole.safetensors", SAE_E_FORMAT, "a hole before tensor \"b\": bytes 32 to 48"},
    {"st_negative_shape.safetensors", SAE_E_FORMAT, "\"a\" has the negative dimension -8"},
    {"st_out_of_range.safetensors", SAE_E_FORMAT, "\"b\" ends at byte 4128 of the data, but the file holds 64"},
    {"st_overlapping.safetensors", SAE_E_FORMAT, "\"a\" and \"b\" overlap: one ends at byte 32 of the data, the other begins at 16"},
    {"st_shape_product_overflow.safetensors", SAE_E_FORMAT, "\"a\" has a shape of more elements"},
    {"st_size_mismatch.safetensors", SAE_E_FORMAT, "\"a\" needs 28 bytes by its shape and dtype, its data_offsets hold 32"},
    {"st_trailing_bytes.safetensors", SAE_E_FORMAT, "8 bytes follow the last tensor"},
    {"st_truncated_in_data.safetensors", SAE_E_FORMAT, "\"threshold\" ends at byte 2128 of the data, but the file holds 2118"},
    {"st_truncated_in_header.safetensors", SAE_E_FORMAT, "the header claims 328 bytes, the file has only 164 more"},
    {"st_truncated_in_length.safetensors", SAE_E_FORMAT, "the file has 5 bytes"},
    {"st_unknown_dtype.safetensors", SAE_E_UNSUPPORTED, "\"a\" has dtype \"F99\", which is not known"},
};

START_TEST(bad_files)
{
    refuse(golden("bad", bad[_i].name, ""), NULL, bad[_i].status, bad[_i].sentence, bad[_i].name);
}
END_TEST

/* The table above leaves out nothing that the manifest lists. */
START_TEST(manifest_is_covered)
{
    static char text[1 << 15];
    saei_json json;
    FILE *file = fopen(golden("bad", "manifest.json", ""), "r");
    ck_assert_ptr_nonnull(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    ck_assert_msg(parse(&json, text) == SAE_OK, "%s", err.text);
    const uint32_t entries = saei_json_member(&json, 0, "entries");
    ck_assert_uint_eq(json.v[entries].n, sizeof bad / sizeof *bad);
    for (uint32_t i = entries + 1; i < json.v[entries].next; i = json.v[i].next) {
        const char *path = saei_json_string(&json, saei_json_member(&json, i, "path"));
        bool listed = false;
        for (size_t j = 0; j < sizeof bad / sizeof *bad; j++)
            listed = listed || strcmp(path, bad[j].name) == 0;
        ck_assert_msg(listed, "%s is not tested", path);
    }
    saei_json_free(&json, &host);
}
END_TEST

/* The bare containers once more, behind a good cfg.json, mapped and copied. */
START_TEST(bad_containers_in_folders)
{
    static const char config[] = "{\"architecture\":\"jumprelu\",\"d_in\":12,\"d_sae\":20,\"metadata\":{\"sae_lens_version\":\"6.54.12\"}}";
    static char bytes[1 << 14];
    if (strncmp(bad[_i].name, "st_", 3) != 0)
        return;
    FILE *file = fopen(golden("bad", bad[_i].name, ""), "rb");
    ck_assert_ptr_nonnull(file);
    const size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    checkpoint c;
    checkpoint_begin(&c);
    checkpoint_file(&c, "sae_weights.safetensors", bytes, n);
    checkpoint_file(&c, "cfg.json", config, strlen(config));
    for (int32_t copy = SAE_DEFAULT; copy <= SAE_YES; copy++) {
        const sae_open_options opt = {.copy = copy};
        refuse(c.dir, &opt, bad[_i].status, bad[_i].sentence, bad[_i].name);
    }
    checkpoint_end(&c);
}
END_TEST

/* ---- places ---- */

enum { D_IN = 3, D_SAE = 4 };

static void add_matrices(checkpoint *c)
{
    checkpoint_floats(c, "W_enc", "[3,4]", D_IN * D_SAE);
    checkpoint_floats(c, "W_dec", "[4,3]", D_IN * D_SAE);
    checkpoint_floats(c, "b_dec", "[3]", D_IN);
}

static void begin(checkpoint *c, sae_arch arch)
{
    checkpoint_begin(c);
    add_matrices(c);
    if (arch != SAE_GATED)
        checkpoint_floats(c, "b_enc", "[4]", D_SAE);
    if (arch == SAE_JUMPRELU)
        checkpoint_floats(c, "threshold", "[4]", D_SAE);
}

#define SIZES "\"d_in\":3,\"d_sae\":4"
#define V6 ",\"metadata\":{\"sae_lens_version\":\"6.0.0\",\"model_name\":\"m\",\"hook_name\":\"h\"}"

START_TEST(places)
{
    static const char *const lonely[] = {"cfg.json", "config.json", "config.yaml", "hyperparams.json", "conf.yaml"};
    static const char *const empty[] = {"x.pt", "x.npz", "x.gguf", "x.safetensors", "params.npz", "ae.pt", "sae.safetensors"};
    checkpoint c;
    char path[600];
    checkpoint_begin(&c);
    refuse(c.dir, NULL, SAE_E_IO, "holds no SAE of a format that is known", "empty folder");
    for (size_t i = 0; i < sizeof lonely / sizeof *lonely; i++) {
        checkpoint_file(&c, lonely[i], "{}", 2);
        refuse(c.dir, NULL, SAE_E_IO, "but not the other file that makes an SAE", lonely[i]);
        snprintf(path, sizeof path, "%s/%s", c.dir, lonely[i]);
        refuse(path, NULL, SAE_E_UNSUPPORTED, "open the folder it lies in", lonely[i]);
        checkpoint_remove(&c, lonely[i]);
    }
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        checkpoint_file(&c, empty[i], "", 0);
        snprintf(path, sizeof path, "%s/%s", c.dir, empty[i]);
        const sae_open_options none = {0};
        saei_parts parts;
        ck_assert_msg(saei_parts_open(&parts, &host, path, &none, &err) != SAE_OK && *err.text, "%s", empty[i]);
        checkpoint_remove(&c, empty[i]);
    }
    checkpoint_file(&c, "x.txt", "", 0);
    snprintf(path, sizeof path, "%s/x.txt", c.dir);
    refuse(path, NULL, SAE_E_UNSUPPORTED, "neither a folder nor a file of tensors", "x.txt");
    checkpoint_remove(&c, "x.txt");
    checkpoint_write(&c, NULL);
    refuse(c.dir, NULL, SAE_E_IO, "weights without a cfg.json beside it", "no cfg");
    refuse(c.path, NULL, SAE_E_IO, "weights without a cfg.json beside it", "bare");
    snprintf(path, sizeof path, "%s/nothing", c.dir);
    refuse(path, NULL, SAE_E_IO, "No such file", "missing");
    refuse("", NULL, SAE_E_IO, "No such file", "empty path");
    checkpoint_end(&c);
}
END_TEST

/* Two SAEs in one folder are a question. */
START_TEST(ambiguous_places)
{
    static const struct {
        const char *file, *beside;
        const char *sentence;
    } others[] = {{"params.npz", NULL, "sae_weights.safetensors (saelens) and params.npz (gemma_scope)"},
                  {"ae.pt", NULL, "sae_weights.safetensors (saelens) and ae.pt (dictionary_learning)"},
                  {"W_enc_0.safetensors", NULL, "and W_enc_#.safetensors (circuit_tracer)"}};
    static const sae_open_options deep = {.layer = "a/b"}, none = {.layer = "7"};
    checkpoint c;
    begin(&c, SAE_STANDARD);
    checkpoint_write(&c, "{" SIZES "}");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        checkpoint_file(&c, others[i].file, "", 0);
        refuse(c.dir, NULL, SAE_E_UNSUPPORTED, others[i].sentence, others[i].file);
        checkpoint_remove(&c, others[i].file);
    }
    refuse(c.dir, &deep, SAE_E_ARG, "the option layer = \"a/b\"", "layer with a slash");
    checkpoint_remove(&c, "cfg.json");
    checkpoint_remove(&c, "sae_weights.safetensors");
    checkpoint_file(&c, "1.pt", "", 0);
    checkpoint_file(&c, "2.pt", "", 0);
    refuse(c.dir, NULL, SAE_E_UNSUPPORTED, "the folder holds 1.pt and 2.pt", "two files");
    refuse(c.dir, &none, SAE_E_IO, "holds no SAE of a format that is known", "no such layer");
    checkpoint_remove(&c, "1.pt");
    checkpoint_remove(&c, "2.pt");
    checkpoint_end(&c);
}
END_TEST

/* ---- configurations ---- */

/* What cfg.json may say for a file with W_enc, W_dec, b_enc and b_dec. */
/* clang-format off */
static const struct {
    const char *config;
    sae_open_options opt;
    sae_arch arch;
    sae_norm norm;
    int32_t k;
    float factor;
    bool b_dec, rescale;
    const char *hook;
} configs[] = {
    {"{" SIZES "}",
     {0}, SAE_STANDARD, SAE_NORM_NONE, 0, 1, true, false, ""},
    {"{" SIZES ",\"hook_point\":\"p\",\"normalize_activations\":true}",
     {0}, SAE_STANDARD, SAE_NORM_SCALE, 0, 1, true, false, "p"},
    {"{" SIZES ",\"hook_name\":\"n\",\"hook_point\":\"p\",\"normalize_activations\":false}",
     {0}, SAE_STANDARD, SAE_NORM_NONE, 0, 1, true, false, "n"},
    {"{" SIZES ",\"apply_b_dec_to_input\":false,\"activation_fn_str\":\"relu\",\"normalize_activations\":null}",
     {0}, SAE_STANDARD, SAE_NORM_NONE, 0, 1, false, false, ""},
    {"{" SIZES ",\"activation_fn\":\"topk\",\"activation_fn_kwargs\":{\"k\":2}}",
     {0}, SAE_TOPK, SAE_NORM_NONE, 2, 1, true, false, ""},
    {"{" SIZES ",\"architecture\":\"topk\",\"activation_fn_kwargs\":{\"k\":3}}",
     {0}, SAE_TOPK, SAE_NORM_NONE, 3, 1, true, false, ""},
    {"{" SIZES ",\"architecture\":\"topk\",\"k\":3,\"sae_lens_version\":\"5.9.1\"}",
     {0}, SAE_TOPK, SAE_NORM_NONE, 3, 1, true, false, ""},
    {"{" SIZES ",\"activation_fn_str\":\"topk\",\"activation_fn_kwargs\":{\"k\":2},\"sae_lens_version\":\"5.9.1\"}",
     {0}, SAE_TOPK, SAE_NORM_NONE, 2, 1, true, false, ""},
    {"{" SIZES ",\"architecture\":\"topk\",\"k\":3,\"sae_lens_version\":\"6.1.0\",\"rescale_acts_by_decoder_norm\":true}",
     {0}, SAE_TOPK, SAE_NORM_NONE, 3, 1, true, true, ""},
    {"{" SIZES ",\"architecture\":\"standard\",\"activation_fn_str\":\"topk\",\"activation_fn_kwargs\":{\"k\":2}" V6 "}",
     {0}, SAE_STANDARD, SAE_NORM_NONE, 0, 1, true, false, "h"},
    {"{" SIZES ",\"architecture\":\"standard\",\"normalize_activations\":\"layer_norm\",\"reshape_activations\":\"hook_z\"" V6 "}",
     {0}, SAE_STANDARD, SAE_NORM_LAYER, 0, 1, true, false, "h"},
    {"{" SIZES ",\"architecture\":\"standard\",\"normalize_activations\":\"expected_average_only_in\"" V6 "}",
     {.norm_scaling_factor = 0.5f}, SAE_STANDARD, SAE_NORM_SCALE, 0, 0.5f, true, false, "h"},
    {"{" SIZES ",\"architecture\":\"standard\"" V6 "}",
     {.normalize_activations = "constant_norm_rescale", .apply_b_dec = SAE_NO, .d_in = 3, .d_out = 3},
     SAE_STANDARD, SAE_NORM_CONSTANT, 0, 1, false, false, "h"},
    {"{" SIZES ",\"architecture\":\"standard\",\"apply_b_dec_to_input\":false" V6 "}",
     {.architecture = "topk", .k = 1, .apply_b_dec = SAE_YES}, SAE_TOPK, SAE_NORM_NONE, 1, 1, true, false, "h"},
    {"{" SIZES V6 "}",
     {.architecture = "standard"}, SAE_STANDARD, SAE_NORM_NONE, 0, 1, true, false, "h"},
    {"{" SIZES ",\"architecture\":\"temporal\"" V6 "}",
     {.architecture = "standard"}, SAE_STANDARD, SAE_NORM_NONE, 0, 1, true, false, "h"},
    {"{" SIZES ",\"architecture\":\"topk\",\"k\":9" V6 "}",
     {.k = 4}, SAE_TOPK, SAE_NORM_NONE, 4, 1, true, false, "h"},
    {"{" SIZES ",\"activation_fn_str\":\"topk\"}",
     {.k = 4}, SAE_TOPK, SAE_NORM_NONE, 4, 1, true, false, ""},
};
/* clang-format on */

START_TEST(configurations)
{
    checkpoint c;
    saei_parts p;
    begin(&c, SAE_STANDARD);
    checkpoint_write(&c, configs[_i].config);
    open_good(&p, c.dir, &configs[_i].opt);
    ck_assert_msg(p.arch == configs[_i].arch && p.norm == configs[_i].norm && p.k == configs[_i].k, "%s: arch %d norm %d k %d",
                  configs[_i].config, (int)p.arch, (int)p.norm, (int)p.k);
    ck_assert_float_eq(p.norm_scaling_factor, configs[_i].factor);
    ck_assert_int_eq(p.apply_b_dec, configs[_i].b_dec);
    ck_assert_int_eq(p.rescale_by_decoder_norm, configs[_i].rescale);
    ck_assert_str_eq(p.texts[SAE_TEXT_HOOK_NAME], configs[_i].hook);
    ck_assert_int_eq(p.n_warnings, p.norm == SAE_NORM_SCALE && p.norm_scaling_factor == 1.0f);
    saei_parts_free(&p, &host);
    checkpoint_end(&c);
}
END_TEST

#define STANDARD "{" SIZES ",\"architecture\":\"standard\"" V6 "}"

static const struct {
    const char *config;
    sae_open_options opt;
    sae_status status;
    const char *sentence;
} bad_configs[] = {
    {"[]", {0}, SAE_E_FORMAT, "cfg.json is an array, not an object"},
    {"", {0}, SAE_E_FORMAT, "cfg.json is not valid JSON: line 1, column 1"},
    {"{\"d_sae\":4}", {0}, SAE_E_FORMAT, "cfg.json has no d_in"},
    {"{\"d_in\":3}", {0}, SAE_E_FORMAT, "cfg.json has no d_sae"},
    {"{\"d_in\":3.0,\"d_sae\":4}", {0}, SAE_E_FORMAT, "d_in is a number, not a size"},
    {"{\"d_in\":\"3\",\"d_sae\":4}", {0}, SAE_E_FORMAT, "d_in is a string, not a size"},
    {"{\"d_in\":0,\"d_sae\":4}", {0}, SAE_E_FORMAT, "d_in = 0 is outside 1 .. 2147483647"},
    {"{\"d_in\":3,\"d_sae\":4294967297}", {0}, SAE_E_FORMAT, "d_sae = 4294967297 is outside"},
    {"{\"d_in\":3,\"d_sae\":5}", {0}, SAE_E_FORMAT, "W_enc has 4 columns, cfg.json says d_sae = 5"},
    {"{\"d_in\":2,\"d_sae\":4}", {0}, SAE_E_FORMAT, "W_enc has 3 rows, cfg.json says d_in = 2"},
    {"{" SIZES V6 "}", {0}, SAE_E_FORMAT, "cfg.json has no architecture"},
    {"{" SIZES ",\"architecture\":3}", {0}, SAE_E_FORMAT, "architecture is an integer, not a string"},
    {"{" SIZES ",\"architecture\":\"a\\u001bb\"}", {0}, SAE_E_UNSUPPORTED, "architecture \"a?b\" is not known"},
    {"{" SIZES ",\"architecture\":\"matryoshka_batchtopk\"" V6 "}", {0}, SAE_E_UNSUPPORTED, "save_inference_model"},
    {"{" SIZES ",\"activation_fn_str\":\"tanh-relu\"}", {0}, SAE_E_UNSUPPORTED, "activation_fn_str \"tanh-relu\" is not read"},
    {"{" SIZES ",\"activation_fn_str\":\"topk\"}", {0}, SAE_E_FORMAT, "has no k"},
    {"{" SIZES ",\"architecture\":\"topk\",\"k\":5}", {0}, SAE_E_FORMAT, "cfg.json: k = 5 is outside 1 .. d_sae = 4"},
    {"{" SIZES ",\"architecture\":\"topk\",\"k\":0}", {0}, SAE_E_FORMAT, "k = 0 is outside"},
    {"{" SIZES ",\"architecture\":\"topk\",\"k\":2.5}", {0}, SAE_E_FORMAT, "k is a number, not a size"},
    {"{" SIZES ",\"apply_b_dec_to_input\":1}", {0}, SAE_E_FORMAT, "apply_b_dec_to_input is an integer, not true or false"},
    {"{" SIZES ",\"normalize_activations\":\"covariance_whitening\"}",
     {0},
     SAE_E_UNSUPPORTED,
     "normalize_activations \"covariance_whitening\""},
    {"{" SIZES ",\"normalize_activations\":1}", {0}, SAE_E_FORMAT, "normalize_activations is an integer"},
    {"{" SIZES ",\"reshape_activations\":\"hook_q\"}", {0}, SAE_E_UNSUPPORTED, "reshape_activations \"hook_q\""},
    {"{" SIZES ",\"rescale_acts_by_decoder_norm\":true}", {0}, SAE_E_FORMAT, "rescale_acts_by_decoder_norm = true for a standard SAE"},
    {"{" SIZES ",\"architecture\":\"jumprelu\"}", {0}, SAE_E_FORMAT, "no tensor threshold, which a jumprelu SAE needs"},
    {"{" SIZES ",\"architecture\":\"gated\"}", {0}, SAE_E_FORMAT, "no tensor b_gate, which a gated SAE needs"},
    {STANDARD, {.architecture = "relu"}, SAE_E_ARG, "the option architecture = \"relu\" is not known"},
    {STANDARD, {.normalize_activations = "l2"}, SAE_E_ARG, "the option normalize_activations = \"l2\""},
    {STANDARD, {.norm_scaling_factor = 2.0f}, SAE_E_ARG, "the option norm_scaling_factor is for"},
    {STANDARD,
     {.norm_scaling_factor = -2.0f, .normalize_activations = "expected_average_only_in"},
     SAE_E_ARG,
     "must be finite and greater"},
    {STANDARD, {.k = 2}, SAE_E_ARG, "the option k = 2 is for top-k SAEs, this one is standard"},
    {STANDARD, {.k = 5, .architecture = "topk"}, SAE_E_ARG, "the option k = 5 is outside 1 .. d_sae = 4"},
    {STANDARD, {.k = -1}, SAE_E_ARG, "sae_open_options.k = -1"},
    {STANDARD, {.apply_b_dec = 3}, SAE_E_ARG, "sae_open_options.apply_b_dec = 3 is outside 0 .. 2"},
    {STANDARD, {.copy = 3}, SAE_E_ARG, "sae_open_options.copy = 3"},
    {STANDARD, {.check = -1}, SAE_E_ARG, "sae_open_options.check = -1"},
    {STANDARD, {.d_in = 4}, SAE_E_SHAPE, "this SAE has d_in = 3, the caller expects d_in = 4"},
    {STANDARD, {.d_out = 4}, SAE_E_SHAPE, "this SAE has d_out = 3, the caller expects d_out = 4"},
};

START_TEST(configuration_defects)
{
    checkpoint c;
    begin(&c, SAE_STANDARD);
    checkpoint_write(&c, bad_configs[_i].config);
    refuse(c.dir, &bad_configs[_i].opt, bad_configs[_i].status, bad_configs[_i].sentence, bad_configs[_i].config);
    checkpoint_end(&c);
}
END_TEST

START_TEST(config_too_long)
{
    const size_t n = (16 << 20) + 1;
    checkpoint c;
    begin(&c, SAE_STANDARD);
    checkpoint_write(&c, STANDARD);
    char *spaces = malloc(n);
    ck_assert_ptr_nonnull(spaces);
    memset(spaces, ' ', n);
    checkpoint_file(&c, "cfg.json", spaces, n);
    free(spaces);
    refuse(c.dir, NULL, SAE_E_FORMAT, "16777217 bytes, more than the 16777216", "long cfg.json");
    checkpoint_end(&c);
}
END_TEST

/* ---- tensors ---- */

START_TEST(mixed_dtypes)
{
    /* 1, -2, 0.5, 65504 (the largest f16) and a bf16 vector */
    static const uint16_t f16[D_SAE] = {0x3c00, 0xc000, 0x3800, 0x7bff}, bf16[D_IN] = {0x3f80, 0xc000, 0x3f00};
    static const uint16_t enc[D_IN * D_SAE] = {0x3c00};
    checkpoint c;
    saei_parts p;
    checkpoint_begin(&c);
    checkpoint_tensor(&c, "b_dec", "BF16", "[3]", bf16, sizeof bf16);
    checkpoint_tensor(&c, "W_enc", "F16", "[3,4]", enc, sizeof enc);
    checkpoint_tensor(&c, "b_enc", "F16", "[4]", f16, sizeof f16);
    checkpoint_floats(&c, "W_dec", "[4,3]", D_IN * D_SAE);
    checkpoint_write(&c, "{" SIZES "}");
    for (int32_t copy = SAE_YES; copy <= SAE_NO; copy++) {
        const sae_open_options opt = {.copy = copy};
        open_good(&p, c.path, &opt);
        ck_assert_int_eq(p.files[0].mapped, copy == SAE_NO);
        ck_assert(p.enc[0].w.m.dtype == SAE_F16 && p.dec[0].w.m.dtype == SAE_F32);
        const float want_enc[] = {1.0f, -2.0f, 0.5f, 65504.0f}, want_dec[] = {1.0f, -2.0f, 0.5f};
        ck_assert_mem_eq(p.b_enc, want_enc, sizeof want_enc);
        ck_assert_mem_eq(p.b_dec, want_dec, sizeof want_dec);
        saei_parts_free(&p, &host);
    }
    checkpoint_end(&c);
}
END_TEST

START_TEST(log_threshold)
{
    const float logs[D_SAE] = {0.0f, -1.5f, 2.0f, -90.0f}, huge[D_SAE] = {0.0f, 0.0f, 89.0f, 0.0f};
    checkpoint c;
    saei_parts p;
    begin(&c, SAE_STANDARD);
    checkpoint_tensor(&c, "log_threshold", "F32", "[4]", logs, sizeof logs);
    checkpoint_write(&c, "{" SIZES ",\"architecture\":\"jumprelu\"}");
    open_good(&p, c.dir, NULL);
    for (int i = 0; i < D_SAE; i++)
        ck_assert_float_eq(p.threshold[i], (float)exp(logs[i]));
    saei_parts_free(&p, &host);
    checkpoint_floats(&c, "threshold", "[4]", D_SAE);
    checkpoint_write(&c, "{" SIZES ",\"architecture\":\"jumprelu\"}");
    refuse(c.dir, NULL, SAE_E_FORMAT, "both threshold and log_threshold", "both");
    checkpoint_end(&c);
    begin(&c, SAE_STANDARD);
    checkpoint_tensor(&c, "log_threshold", "F32", "[4]", huge, sizeof huge);
    checkpoint_write(&c, "{" SIZES ",\"architecture\":\"jumprelu\"}");
    refuse(c.dir, NULL, SAE_E_FORMAT, "log_threshold[2] = 89 is the logarithm of no finite", "huge");
    checkpoint_end(&c);
}
END_TEST

static void check_scale(const char *name, const float scale[D_SAE], bool flag, bool used, sae_status status)
{
    char config[128];
    checkpoint c;
    saei_parts p;
    begin(&c, SAE_STANDARD);
    checkpoint_tensor(&c, name, "F32", "[4]", scale, D_SAE * sizeof *scale);
    snprintf(config, sizeof config, "{" SIZES ",\"finetuning_scaling_factor\":%s}", flag ? "true" : "false");
    checkpoint_write(&c, config);
    if (status) {
        refuse(c.dir, NULL, status, "not all ones", name);
    } else {
        open_good(&p, c.dir, NULL);
        ck_assert_int_eq(p.dec_scale != NULL, used);
        if (used)
            ck_assert_mem_eq(p.dec_scale, scale, D_SAE * sizeof *scale);
        ck_assert_int_eq(p.n_warnings, 0);
        saei_parts_free(&p, &host);
    }
    checkpoint_end(&c);
}

START_TEST(finetuning_scale)
{
    static const float ones[D_SAE] = {1.0f, 1.0f, 1.000005f, 1.0f}, twos[D_SAE] = {1.0f, 2.0f, 0.5f, 1.0f};
    check_scale("scaling_factor", ones, false, false, SAE_OK);
    check_scale("scaling_factor", ones, true, false, SAE_OK);
    check_scale("scaling_factor", twos, true, true, SAE_OK);
    check_scale("finetuning_scaling_factor", twos, true, true, SAE_OK);
    check_scale("finetuning_scaling_factor", twos, false, false, SAE_E_FORMAT);
    checkpoint c;
    saei_parts p;
    begin(&c, SAE_STANDARD);
    checkpoint_write(&c, "{" SIZES ",\"finetuning_scaling_factor\":true}");
    open_good(&p, c.dir, NULL);
    ck_assert(!p.dec_scale && p.n_warnings == 1 && strstr(p.warnings[0], "no such tensor"));
    saei_parts_free(&p, &host);
    checkpoint_floats(&c, "scaling_factor", "[4]", D_SAE);
    checkpoint_floats(&c, "finetuning_scaling_factor", "[4]", D_SAE);
    checkpoint_write(&c, "{" SIZES ",\"finetuning_scaling_factor\":true}");
    refuse(c.dir, NULL, SAE_E_FORMAT, "both scaling_factor and finetuning_scaling_factor", "both");
    checkpoint_end(&c);
}
END_TEST

START_TEST(extra_tensors)
{
    static const sae_open_options forced = {.architecture = "standard"};
    checkpoint c;
    saei_parts p;
    begin(&c, SAE_JUMPRELU);
    checkpoint_floats(&c, "W_\\u001bskip", "[3,3]", D_IN * D_IN);
    checkpoint_write(&c, STANDARD);
    refuse(c.dir, NULL, SAE_E_FORMAT, "a tensor \"threshold\", which a standard SAE does not have", "threshold");
    open_good(&p, c.dir, &forced);
    ck_assert_int_eq(p.n_warnings, 2);
    ck_assert_ptr_nonnull(strstr(p.warnings[0], "\"threshold\" is not used"));
    ck_assert_ptr_nonnull(strstr(p.warnings[1], "\"W_?skip\" is not used"));
    saei_parts_free(&p, &host);
    for (int i = 0; i < 9; i++) { /* more than there is room for warnings */
        char name[32];
        snprintf(name, sizeof name, "extra%d", i);
        checkpoint_floats(&c, name, "[1]", 1);
    }
    checkpoint_write(&c, STANDARD);
    open_good(&p, c.dir, &forced);
    ck_assert_int_eq(p.n_warnings, 8);
    saei_parts_free(&p, &host);
    checkpoint_end(&c);
}
END_TEST

START_TEST(gated_has_no_b_enc)
{
    static const char *const biases[] = {"b_gate", "b_mag", "r_mag", "b_enc"};
    checkpoint c;
    saei_parts p;
    begin(&c, SAE_GATED);
    for (int i = 0; i < 4; i++) {
        checkpoint_floats(&c, biases[i], "[4]", D_SAE);
        checkpoint_write(&c, "{" SIZES ",\"architecture\":\"gated\"}");
        if (i == 2) {
            open_good(&p, c.dir, NULL);
            ck_assert(p.b_gate && p.b_mag && p.r_mag && !p.b_enc);
            saei_parts_free(&p, &host);
        }
    }
    refuse(c.dir, NULL, SAE_E_FORMAT, "a tensor \"b_enc\", which a gated SAE does not have", "gated");
    checkpoint_end(&c);
}
END_TEST

/* One tensor of a standard SAE gone wrong. */
static const struct {
    const char *name, *dtype, *shape;
    size_t bytes;
    sae_status status;
    const char *sentence;
} bad_tensors[] = {
    {"W_enc", "F32", "[4,3]", 48, SAE_E_FORMAT, "W_enc has 4 rows, cfg.json says d_in = 3"},
    {"W_enc", "F32", "[12]", 48, SAE_E_FORMAT, "W_enc has 1 dimensions, a matrix has 2"},
    {"W_dec", "F32", "[5,3]", 60, SAE_E_FORMAT, "W_dec has 5 rows, cfg.json says d_sae = 4"},
    {"W_dec", "F32", "[4,2]", 32, SAE_E_FORMAT, "W_dec has 2 columns, cfg.json says d_in = 3"},
    {"W_dec", "I8", "[4,3]", 12, SAE_E_UNSUPPORTED, "W_dec has dtype I8, weights are read from floats"},
    {"b_enc", "F32", "[4,1]", 16, SAE_E_FORMAT, "b_enc has 2 dimensions, a vector has 1"},
    {"b_enc", "F32", "[3]", 12, SAE_E_FORMAT, "b_enc has 3 values, cfg.json says d_sae = 4"},
    {"b_enc", "I32", "[4]", 16, SAE_E_UNSUPPORTED, "b_enc has dtype I32"},
    {"b_dec", "F32", "[4]", 16, SAE_E_FORMAT, "b_dec has 4 values, cfg.json says d_in = 3"},
    {"b_dec", "F32", "[]", 4, SAE_E_FORMAT, "b_dec has 0 dimensions"},
};

START_TEST(tensor_defects)
{
    static const unsigned char zeros[96];
    static const struct {
        const char *name, *shape;
        size_t n;
    } all[] = {{"W_enc", "[3,4]", 12}, {"W_dec", "[4,3]", 12}, {"b_enc", "[4]", 4}, {"b_dec", "[3]", 3}};
    checkpoint c;
    checkpoint_begin(&c);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].name, bad_tensors[_i].name) != 0)
            checkpoint_floats(&c, all[i].name, all[i].shape, all[i].n);
    checkpoint_tensor(&c, bad_tensors[_i].name, bad_tensors[_i].dtype, bad_tensors[_i].shape, zeros, bad_tensors[_i].bytes);
    checkpoint_write(&c, STANDARD);
    refuse(c.dir, NULL, bad_tensors[_i].status, bad_tensors[_i].sentence, bad_tensors[_i].name);
    checkpoint_end(&c);
}
END_TEST

START_TEST(nonfinite_values)
{
    static const sae_open_options unchecked = {.check = SAE_NO};
    float w[D_IN * D_SAE] = {0}, b[D_SAE] = {0.0f, 0.0f, -INFINITY, 0.0f};
    w[D_SAE + 2] = NAN;
    checkpoint c;
    saei_parts p;
    checkpoint_begin(&c);
    checkpoint_tensor(&c, "W_enc", "F32", "[3,4]", w, sizeof w);
    checkpoint_floats(&c, "W_dec", "[4,3]", D_IN * D_SAE);
    checkpoint_floats(&c, "b_enc", "[4]", D_SAE);
    checkpoint_floats(&c, "b_dec", "[3]", D_IN);
    checkpoint_write(&c, STANDARD);
    refuse(c.dir, NULL, SAE_E_FORMAT, "W_enc is nan at row 1, column 2", "NaN in W_enc");
    open_good(&p, c.dir, &unchecked);
    saei_parts_free(&p, &host);
    checkpoint_clear(&c);
    add_matrices(&c);
    checkpoint_tensor(&c, "b_enc", "F32", "[4]", b, sizeof b);
    checkpoint_write(&c, STANDARD);
    refuse(c.dir, &unchecked, SAE_E_FORMAT, "b_enc[2] is -inf", "-Inf in b_enc"); /* vectors are always read */
    checkpoint_end(&c);
}
END_TEST

/* ---- memory ---- */

START_TEST(every_allocation_fails_once)
{
    static const sae_open_options copied = {.copy = SAE_YES, .architecture = "jumprelu"};
    checkpoint c;
    saei_parts p;
    long n = 0;
    begin(&c, SAE_JUMPRELU);
    checkpoint_floats(&c, "scaling_factor", "[4]", D_SAE);
    checkpoint_floats(&c, "unused", "[1]", 1);
    checkpoint_write(&c, "{" SIZES ",\"normalize_activations\":true,\"finetuning_scaling_factor\":true}");
    for (sae_status status = SAE_E_NOMEM; status; n++) {
        memset(&err, 0, sizeof err);
        heap_init(&h);
        h.fail_at = n;
        status = saei_parts_open(&p, &host, c.dir, &copied, &err);
        ck_assert_msg(status == SAE_OK || (status == SAE_E_NOMEM && strstr(err.text, "no memory")), "allocation %ld: %s", n, err.text);
        ck_assert(status == SAE_OK || h.live_bytes == 0);
    }
    ck_assert_int_gt(n, 20);
    saei_parts_free(&p, &host);
    checkpoint_end(&c);
}
END_TEST

#define LOOP(tc, test, table) tcase_add_loop_test(tc, test, 0, (int)(sizeof(table) / sizeof *(table)))

int main(void)
{
    Suite *suite = suite_create("io");
    TCase *tc = tcase_create("io");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, sorting);
    tcase_add_test(tc, json_values);
    LOOP(tc, json_defects, bad_json);
    tcase_add_test(tc, json_limits);
    tcase_add_test(tc, json_prefixes);
    tcase_add_test(tc, json_numbers);
    tcase_add_test(tc, decimals_are_rounded_once);
    tcase_add_test(tc, decimals_do_not_ask_the_host);
    tcase_add_test(tc, shown_names);
    tcase_add_test(tc, container);
    LOOP(tc, container_defects, bad_containers);
    LOOP(tc, fixtures, good);
    LOOP(tc, bad_files, bad);
    tcase_add_test(tc, manifest_is_covered);
    LOOP(tc, bad_containers_in_folders, bad);
    tcase_add_test(tc, places);
    tcase_add_test(tc, ambiguous_places);
    LOOP(tc, configurations, configs);
    LOOP(tc, configuration_defects, bad_configs);
    tcase_add_test(tc, config_too_long);
    tcase_add_test(tc, mixed_dtypes);
    tcase_add_test(tc, log_threshold);
    tcase_add_test(tc, finetuning_scale);
    tcase_add_test(tc, extra_tensors);
    tcase_add_test(tc, gated_has_no_b_enc);
    LOOP(tc, tensor_defects, bad_tensors);
    tcase_add_test(tc, nonfinite_values);
    tcase_add_test(tc, every_allocation_fails_once);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
