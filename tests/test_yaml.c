/* YAML: the configurations that checkpoints bring, the core schema, everything that is refused, by its own sentence. */
#include <check.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/yaml.h"
#include "support/run.h"
#include "support/support.h"

/* ---- memory: the host's by its hooks, libyaml's by replacing the C library's functions under it ---- */

static heap h;
static saei_host host;
static sae_error err;
static long mallocs, malloc_fails_at = -1;

static void *next_function(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static bool malloc_fails(void)
{
    return malloc_fails_at >= 0 && mallocs++ == malloc_fails_at;
}

/* libyaml finds these first only where they are visible. */
#define VISIBLE __attribute__((visibility("default")))

VISIBLE void *malloc(size_t bytes)
{
    static void *(*next)(size_t);
    void *found = next ? NULL : next_function("malloc");
    if (!next)
        memcpy(&next, &found, sizeof next);
    return malloc_fails() ? NULL : next(bytes);
}

VISIBLE void *realloc(void *p, size_t bytes)
{
    static void *(*next)(void *, size_t);
    void *found = next ? NULL : next_function("realloc");
    if (!next)
        memcpy(&next, &found, sizeof next);
    return malloc_fails() ? NULL : next(p, bytes);
}

static void setup(void)
{
    heap_init(&h);
    host = (saei_host){.alloc = heap_alloc, .dealloc = heap_free, .alloc_user = &h};
    saei_host_defaults(&host);
    err = (sae_error){.struct_size = sizeof err};
}

static void teardown(void)
{
    ck_assert_int_eq(h.live_bytes, 0);
}

/* The text in a block of its own size, so that a sanitizer sees a read past its end. */
static sae_status parse(saei_json *json, const char *text, size_t bytes)
{
    char *copy = malloc(bytes + !bytes);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, text, bytes);
    const sae_status status = saei_yaml_parse(json, &host, copy, bytes, "t.yaml", &err);
    free(copy);
    return status;
}

/* ---- the tree, written as JSON without spaces, to compare it in one line ---- */

static void add(char *out, size_t room, const char *text)
{
    ck_assert_uint_lt(strlen(out) + strlen(text), room);
    strcat(out, text);
}

static void write_scalar(char *out, size_t room, const saei_json_value *v)
{
    char text[320];
    if (v->type == SAEI_JSON_STRING)
        snprintf(text, sizeof text, "'%s'", v->string);
    else if (v->type == SAEI_JSON_INTEGER)
        snprintf(text, sizeof text, "%lld", (long long)v->integer);
    else if (v->type == SAEI_JSON_NUMBER)
        snprintf(text, sizeof text, "%.17gf", v->number);
    else
        snprintf(text, sizeof text, "%s", v->type == SAEI_JSON_NULL ? "null" : v->type == SAEI_JSON_TRUE ? "true" : "false");
    add(out, room, text);
}

/* Walks as sae_json's head says, and checks next, n and at on the way. */
static void write_tree(char *out, size_t room, const saei_json *json)
{
    uint32_t open[SAEI_JSON_DEPTH], seen[SAEI_JSON_DEPTH], depth = 0;
    *out = '\0';
    for (uint32_t i = 0; i <= json->n; i++) {
        while (depth && json->v[open[depth - 1]].next == i) {
            const saei_json_value *c = &json->v[open[--depth]];
            const bool object = c->type == SAEI_JSON_OBJECT;
            ck_assert_uint_eq(seen[depth], object ? 2 * c->n : c->n);
            add(out, room, object ? "}" : "]");
        }
        if (i == json->n)
            break;
        const saei_json_value *v = &json->v[i], *parent = depth ? &json->v[open[depth - 1]] : NULL;
        ck_assert(!i || v->at >= v[-1].at);
        if (parent && seen[depth - 1]++)
            add(out, room, parent->type == SAEI_JSON_OBJECT && seen[depth - 1] % 2 == 0 ? ":" : ",");
        if (v->type == SAEI_JSON_OBJECT || v->type == SAEI_JSON_ARRAY) {
            add(out, room, v->type == SAEI_JSON_OBJECT ? "{" : "[");
            open[depth] = i;
            seen[depth++] = 0;
        } else {
            ck_assert_uint_eq(v->next, i + 1);
            write_scalar(out, room, v);
        }
    }
    ck_assert_uint_eq(depth, 0);
}

/* circuit-tracer; wandb; the temporal SAEs; and what the rules of YAML allow besides. */
static const struct {
    const char *text, *tree;
} good[] = {
    {"activation: topk\nfeature_input_hook: mlp.hook_in\nk: 9\nmodel_kind: transcoder_set\nscan: tiny\n",
     "{'activation':'topk','feature_input_hook':'mlp.hook_in','k':9,'model_kind':'transcoder_set','scan':'tiny'}"},
    {"model_name: \"google/gemma-2-2b\"\ntranscoders:\n  - \"hf://a/b/layer_0.safetensors\"\n  - hf://a/b?x=1#y\nscan: [a, b]\n",
     "{'model_name':'google/gemma-2-2b','transcoders':['hf://a/b/layer_0.safetensors','hf://a/b?x=1#y'],'scan':['a','b']}"},
    {"act_fn:\n  value: relu\nbatch_size:\n  value: 4096\nd_model:\n  desc: null\n  value: 37\n",
     "{'act_fn':{'value':'relu'},'batch_size':{'value':4096},'d_model':{'desc':null,'value':37}}"},
    {"wandb_version: 1\n\n_wandb:\n  value:\n    python_version: 3.11.0\n    start_time: 1741000.25\n    t:\n      1:\n      - 1\n      - "
     "5\n      \"2\": []\n"
     "d_model: {value: 2560}\n",
     "{'wandb_version':1,'_wandb':{'value':{'python_version':'3.11.0','start_time':1741000.25f,'t':{'1':[1,5],'2':[]}}},"
     "'d_model':{'value':2560}}"},
    {"data:\n  dtype: float32\nllm:\n  dimin: 24\nsae:\n  exp_factor: 4.0\n  scaling_factor: 0.05\n  tied_weights: true\n",
     "{'data':{'dtype':'float32'},'llm':{'dimin':24},'sae':{'exp_factor':4f,'scaling_factor':0.050000000000000003f,'tied_weights':true}}"},
    {"\xef\xbb\xbf%YAML 1.1\n---\n# nothing\na: 1 # one\n...\n# more\n", "{'a':1}"},
    {"[null, Null, NULL, ~, true, True, TRUE, false, False, FALSE, yes, on, tRUE]",
     "[null,null,null,null,true,true,true,false,false,false,'yes','on','tRUE']"},
    {"[0, -0, +12, 010, 0o17, 0xfF, 0x, 0o8, -0x1, 1_000, 9223372036854775807, -9223372036854775808, 9223372036854775808]",
     "[0,0,12,10,15,255,'0x','0o8','-0x1','1_000',9223372036854775807,-9223372036854775808,9.2233720368547758e+18f]"},
    {"[0x7fffffffffffffff, 0x8000000000000000, 0o777777777777777777777, 0o1000000000000000000000]",
     "[9223372036854775807,'0x8000000000000000',9223372036854775807,'0o1000000000000000000000']"},
    {"[1.5, -.5, +5., 1e3, 1E-2, .5e+1, ., e3, 1e, 1e+, 1.2.3, -, 1-2, .e3]",
     "[1.5f,-0.5f,5f,1000f,0.01f,5f,'.','e3','1e','1e+','1.2.3','-','1-2','.e3']"},
    {"[.inf, -.Inf, +.INF, .nan, .NaN, -.nan, inf, NaN]", "[inff,-inff,inff,nanf,nanf,'-.nan','inf','NaN']"},
    {"[\"1\", 'true', \"~\", '', 'it''s', \"a\\tb\\x41\\u00e9\\U0001F600\\\n  c\"]",
     "['1','true','~','','it's','a\tbA\xc3\xa9\xf0\x9f\x98\x80"
     "c']"},
    {"a: |\n  x\n  y\nb: >-\n  x\n  y\nc: one\n  two\n", "{'a':'x\ny\n','b':'x y','c':'one two'}"},
    {"a:\nb:\n- c:\n  -\n", "{'a':null,'b':[{'c':[null]}]}"},
    {"{a, b: , c: 1}", "{'a':null,'b':null,'c':1}"},
    {"[a: 1, b]", "[{'a':1},'b']"},
    {"? k\n: v\n", "{'k':'v'}"},
    {"'': 1\nnull: 2\n", "{'':1,'null':2}"},
    {"5", "5"},
    {"--- \n", "null"},
    {"{}", "{}"},
    {"{\"json\": [1, 2.0, null, {\"a\": \"b\"}]}", "{'json':[1,2f,null,{'a':'b'}]}"},
    {"\"\\L\\L\\P\\_\\N\"", "'\xe2\x80\xa8\xe2\x80\xa8\xe2\x80\xa9\xc2\xa0\xc2\x85'"},
};

START_TEST(trees)
{
    static char got[4096];
    saei_json json;
    const sae_status status = parse(&json, good[_i].text, strlen(good[_i].text));
    ck_assert_msg(status == SAE_OK, "%s: %s", good[_i].text, err.text);
    write_tree(got, sizeof got, &json);
    ck_assert_str_eq(got, good[_i].tree);
    saei_json_free(&json, &host);
}
END_TEST

/* wandb's and the readers' way to a value. */
START_TEST(members)
{
    saei_json json;
    double number = 0;
    const char text[] = "d_model: {value: 2560}\nnothing: ~\nfactor: 0.05\n";
    ck_assert_int_eq(parse(&json, text, sizeof text - 1), SAE_OK);
    const uint32_t value = saei_json_member(&json, saei_json_member(&json, 0, "d_model"), "value");
    ck_assert_int_eq(json.v[value].integer, 2560);
    ck_assert(saei_json_number(&number, &json, value) && number == 2560.0);
    ck_assert(saei_json_number(&number, &json, saei_json_member(&json, 0, "factor")) && number == 0.05);
    ck_assert_uint_eq(saei_json_member(&json, 0, "nothing"), 0);
    saei_json_free(&json, &host);
}
END_TEST

static const struct {
    const char *text, *sentence;
    size_t bytes; /* 0: up to the NUL */
} bad[] = {
    {"a: &x 1\nb: *x\n", "t.yaml is not valid YAML: line 1, column 4: anchors are not read", 0},
    {"a: *x\n", "line 1, column 4: aliases are not read", 0},
    {"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", "anchors are not read", 0}, /* the beginning of a bomb */
    {"&a {}", "anchors are not read", 0},
    {"é: !!python/object/apply:os.system [x]\n", "line 1, column 4: tags are not read", 0},
    {"a: !!int 5\n", "tags are not read", 0},
    {"a: ! 5\n", "tags are not read", 0},
    {"! {}", "tags are not read", 0},
    {"!<x> []", "tags are not read", 0},
    {"<<: {a: 1}\n", "merge keys (<<) are not read", 0},
    {"a: 1\n---\nb: 2\n", "line 2, column 1: a second document", 0},
    {"a: 1\n...\nb: 2\n", "line 3, column 1: did not find expected <document start>", 0},
    {"", "there is nothing in the text", 0},
    {"# only this\n", "line 2, column 1: there is nothing in the text", 0},
    {"[a, b]: 1\n", "a key that is a mapping or a sequence", 0},
    {"? {a: b}\n: 1\n", "a key that is a mapping or a sequence", 0},
    {"a: 1\nb: 2\na: 3\n", "t.yaml has the key \"a\" twice, again at line 3, column 1", 0},
    {"é: {1: x, '1': y}\n", "has the key \"1\" twice, again at line 1, column 11", 0},
    {"a: \"x\\0y\"\n", "line 1, column 4: a string holds the character NUL", 0},
    {"a: x\0y\n", "line 1, column 5: control characters are not allowed", 7},
    {"a: 1\nb: \x01\n", "line 2, column 4: control characters are not allowed", 0},
    {"a: \xff\n", "line 1, column 4: invalid leading UTF-8 octet", 0},
    {"a: \xc3", "incomplete UTF-8 octet sequence", 0},
    {"a: \xed\xa0\x80\n", "invalid Unicode character", 0},
    {"a: \xc0\x80\n", "invalid length of a UTF-8 sequence", 0},
    {"\xff\xfe"
     "a\0",
     "invalid leading UTF-8 octet", 4},
    {"a: \"\\ud800\"\n", "invalid Unicode character escape code", 0},
    {"[a, , b]", "did not find expected node content", 0},
    {"a: [1, 2\n", "line 2, column 1: did not find expected ',' or ']'", 0},
    {"a: 1\n b: 2\n", "line 2, column 3: mapping values are not allowed in this context", 0},
    {"a: \"x\n", "found unexpected end of stream", 0},
    {"a:\n\t- b\n", "line 2, column 1: found character that cannot start any token", 0},
    {"%YAML 3.0\n--- a\n", "found incompatible YAML document", 0},
};

START_TEST(defects)
{
    saei_json json;
    const sae_status status = parse(&json, bad[_i].text, bad[_i].bytes ? bad[_i].bytes : strlen(bad[_i].text));
    ck_assert_msg(status == SAE_E_FORMAT && strstr(err.text, bad[_i].sentence), "%s: %s", bad[_i].text, err.text);
    ck_assert_ptr_null(json.v);
    ck_assert_ptr_null(json.strings);
}
END_TEST

static void repeat(char *out, const char *what, size_t n)
{
    for (const size_t length = strlen(what); n--; out += length)
        memcpy(out, what, length + 1);
}

START_TEST(limits)
{
    static char text[(2 << 20) + 1];
    saei_json json;
    repeat(text, "[", SAEI_JSON_DEPTH);
    repeat(text + SAEI_JSON_DEPTH, "]", SAEI_JSON_DEPTH);
    ck_assert_int_eq(parse(&json, text, strlen(text)), SAE_OK);
    ck_assert_uint_eq(json.n, SAEI_JSON_DEPTH);
    saei_json_free(&json, &host);
    static const char *const deep[] = {"[", "{a: ", "- ", "? ", "[a: "};
    for (size_t i = 0; i < LENGTH(deep); i++) {
        repeat(text, deep[i], SAEI_YAML_BYTES / strlen(deep[i]));
        REFUSED(SAE_E_FORMAT, i == 3 ? "a key that is" : "inside each other", parse(&json, text, strlen(text)));
    }
    repeat(text, "- a\n", SAEI_YAML_BYTES / 4);
    ck_assert_int_eq(parse(&json, text, SAEI_YAML_BYTES), SAE_OK);
    ck_assert_uint_eq(json.v[0].n, SAEI_YAML_BYTES / 4);
    saei_json_free(&json, &host);
    REFUSED(SAE_E_FORMAT, "t.yaml is 1048577 bytes long, YAML of more than 1048576 is not read", parse(&json, text, SAEI_YAML_BYTES + 1));
    REFUSED(SAE_E_FORMAT, "2097152 bytes", parse(&json, text, 2 << 20));
}
END_TEST

/* The strings grow as much as they can: an escape of two bytes is a character of three, and every one ends with a NUL. */
START_TEST(strings_that_grow)
{
    static char text[SAEI_YAML_BYTES];
    saei_json json;
    static const struct {
        const char *once, *end;
        uint32_t values;
    } texts[] = {{"\\L", "\"", 1}, {"\\L\",\"", "\"]", 1002}, {"\",\"", "\"]", 1002}, {"\\L\":,\"", "\"]", 3002}};
    for (size_t i = 0; i < LENGTH(texts); i++) {
        strcpy(text, i ? "[\"" : "\"");
        repeat(text + strlen(text), texts[i].once, 1000);
        strcat(text, texts[i].end);
        ck_assert_msg(parse(&json, text, strlen(text)) == SAE_OK, "%s", err.text);
        ck_assert_uint_eq(json.n, texts[i].values);
        saei_json_free(&json, &host);
    }
}
END_TEST

/* Cut anywhere it is an error or a tree, and a sanitizer has nothing to say. */
START_TEST(prefixes)
{
    static const char text[] =
        "a: &x [1.5e+3, \"\\U0001F600\xc3\xa9\", {b: -12, 'c': [true, ~]}]\n? d\n: |\n  x\n  y\ne: >-\n  z\n--- !t q\n...\n";
    static char tree[4096];
    saei_json json;
    int trees_read = 0;
    for (size_t from = 0; from < 8; from++)
        for (size_t n = 0; n < sizeof text - from; n++)
            if (parse(&json, text + from, n) == SAE_OK) {
                trees_read++;
                write_tree(tree, sizeof tree, &json);
                saei_json_free(&json, &host);
            }
    ck_assert_int_gt(trees_read, 20);
}
END_TEST

static const char everything[] = "a: [1, 2.5, x, \"y\\n\"]\nb:\n  c: |\n    text\n  d: {e: null, f: [[], {}]}\n? g\n: 'h'\n";

START_TEST(every_allocation_fails_once)
{
    saei_json json;
    long n = 0;
    for (sae_status status = SAE_E_NOMEM; status; n++) {
        heap_init(&h);
        h.fail_at = n;
        err = (sae_error){.struct_size = sizeof err};
        status = parse(&json, everything, sizeof everything - 1);
        ck_assert_msg(status == SAE_OK || (status == SAE_E_NOMEM && strstr(err.text, "no memory to read t.yaml")), "%ld: %s", n, err.text);
        ck_assert(status == SAE_OK || h.live_bytes == 0);
    }
    ck_assert_int_gt(n, 3);
    saei_json_free(&json, &host);
}
END_TEST

START_TEST(every_allocation_of_libyaml_fails_once)
{
    saei_json json;
    long n = 0;
    for (sae_status status = SAE_E_NOMEM; status; n++) {
        mallocs = 0;
        malloc_fails_at = n;
        status = saei_yaml_parse(&json, &host, everything, sizeof everything - 1, "t.yaml", &err);
        malloc_fails_at = -1;
        ck_assert_msg(status == SAE_OK || status == SAE_E_NOMEM, "%ld: %s", n, err.text);
        ck_assert(status == SAE_OK || h.live_bytes == 0);
    }
    ck_assert_int_gt(n, 50);
    saei_json_free(&json, &host);
}
END_TEST

#define LOOP(tc, test, table) tcase_add_loop_test(tc, test, 0, (int)LENGTH(table))

int main(void)
{
    Suite *suite = suite_create("yaml");
    TCase *tc = tcase_create("yaml");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    LOOP(tc, trees, good);
    tcase_add_test(tc, members);
    LOOP(tc, defects, bad);
    tcase_add_test(tc, limits);
    tcase_add_test(tc, strings_that_grow);
    tcase_add_test(tc, prefixes);
    tcase_add_test(tc, every_allocation_fails_once);
    tcase_add_test(tc, every_allocation_of_libyaml_fails_once);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
