/* sae/features.h as a program sees it: every function, every status, words in several scripts, paging, transactions, files from strangers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/support.h"
#include "support/run.h"

enum { D = 12, N = 300 };

static sae_error err;
static heap counted;
static sae_env *env;
static planted p;
static sae_model *model;
static char folder[64], path[96];

static void setup(void)
{
    env = counted_env(&counted);
    planted_make(&p, (sae_weights){.arch = SAE_STANDARD, .dtype = SAE_F32, .d_in = D, .d_sae = N}, 1);
    model = planted_model(&p, env);
    snprintf(folder, sizeof folder, "/tmp/sae-features-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.features", folder);
}

static void teardown(void)
{
    char journal[128];
    snprintf(journal, sizeof journal, "%s-journal", path);
    unlink(journal);
    unlink(path);
    ck_assert_msg(rmdir(folder) == 0, "something else was left in %s", folder);
    sae_model_free(model);
    sae_env_free(env);
    planted_free(&p);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), 0);
}

static sae_catalog *fresh(void)
{
    sae_catalog *c;
    ACCEPTED(sae_catalog_create(&c, env, path, model, &err));
    return c;
}

static sae_catalog *opened(int32_t access)
{
    const sae_catalog_options opt = {.struct_size = sizeof opt, .access = access};
    sae_catalog *c;
    ACCEPTED(sae_catalog_open(&c, env, path, &opt, &err));
    return c;
}

static sae_feature named(int32_t id, const char *label)
{
    return (sae_feature){.struct_size = sizeof(sae_feature), .id = id, .label = label, .density = NAN, .mean = NAN, .max = NAN};
}

static void put_label(sae_catalog *c, int32_t id, const char *label)
{
    const sae_feature f = named(id, label);
    ACCEPTED(sae_catalog_put(c, &f, &err));
}

static sae_feature at(const sae_features *list, int64_t i)
{
    sae_feature f = {.struct_size = sizeof f};
    ck_assert_int_eq(sae_features_at(list, i, &f), SAE_OK);
    return f;
}

/* The ids that a search finds, as "3 1 2". */
static const char *found(sae_catalog *c, const char *query)
{
    static char text[256];
    sae_features *list;
    int n = 0;
    ACCEPTED(sae_catalog_search(&list, c, query, 10, &err));
    text[0] = '\0';
    for (int64_t i = 0; i < sae_features_count(list); i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s%d", i ? " " : "", at(list, i).id);
    sae_features_free(list);
    return text;
}

static const sae_token raised[] = {{"\xc4\xa0"
                                    "Brücke",
                                    2.5f, 0},
                                   {" 다리", 1.25f, 0},
                                   {"", -0.0f, 0}};
static const sae_token lowered[] = {{"car", -3.0f, 0}};
static const sae_token walk[] = {{"the", 0.0f, 0}, {" bridge", 7.5f, 0}, {"\"\n", 0.125f, 0}};
static const sae_example places[] = {{walk, 3, 1, 12, 40}, {walk, 1, -1, -1, -1}, {NULL, 0, -1, -1, -1}};

static sae_feature whole(int32_t id)
{
    sae_feature f = named(id, "bridges, 다리를 건너는 사람");
    f.model_id = "gemma";
    f.layer = "12-res";
    f.density = 0.001;
    f.mean = 3.5;
    f.max = 7.5;
    f.promoted = raised;
    f.n_promoted = LENGTH(raised);
    f.suppressed = lowered;
    f.n_suppressed = LENGTH(lowered);
    f.examples = places;
    f.n_examples = LENGTH(places);
    return f;
}

static void same_tokens(const sae_token *a, const sae_token *b, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        ck_assert_str_eq(a[i].text, b[i].text);
        ck_assert_mem_eq(&a[i].value, &b[i].value, sizeof a[i].value);
        ck_assert_uint_eq(a[i].reserved, 0);
    }
}

static void same_feature(const sae_feature *a, const sae_feature *b)
{
    ck_assert_int_eq(a->id, b->id);
    ck_assert_str_eq(a->label, b->label);
    ck_assert_pstr_eq(a->model_id, b->model_id);
    ck_assert_pstr_eq(a->layer, b->layer);
    ck_assert(a->density == b->density && a->mean == b->mean && a->max == b->max);
    ck_assert_int_eq(a->n_promoted, b->n_promoted);
    same_tokens(a->promoted, b->promoted, b->n_promoted);
    ck_assert_int_eq(a->n_suppressed, b->n_suppressed);
    same_tokens(a->suppressed, b->suppressed, b->n_suppressed);
    ck_assert_int_eq(a->n_examples, b->n_examples);
    for (int32_t i = 0; i < b->n_examples; i++) {
        const sae_example *x = &a->examples[i], *y = &b->examples[i];
        ck_assert(x->n_tokens == y->n_tokens && x->peak == y->peak && x->document == y->document && x->position == y->position);
        same_tokens(x->tokens, y->tokens, y->n_tokens);
    }
}

START_TEST(a_feature_comes_back_as_it_went)
{
    sae_catalog *c = fresh();
    const sae_feature f = whole(7);
    ACCEPTED(sae_catalog_put(c, &f, &err));
    put_label(c, 299, "");
    sae_catalog_free(c);
    c = opened(SAE_CATALOG_READ);
    const int32_t ids[] = {299, 5, 7, 7, -4};
    sae_features *list;
    ACCEPTED(sae_catalog_get(&list, c, ids, LENGTH(ids), &err));
    sae_catalog_free(c); /* a list is independent */
    ck_assert_int_eq(sae_features_count(list), 3);
    const sae_feature first = at(list, 0), second = at(list, 1), third = at(list, 2);
    ck_assert_int_eq(first.id, 299);
    ck_assert_str_eq(first.label, "");
    ck_assert_ptr_null(first.model_id);
    ck_assert_ptr_null(first.layer);
    ck_assert(isnan(first.density) && isnan(first.mean) && isnan(first.max));
    ck_assert_int_eq(first.n_promoted + first.n_suppressed + first.n_examples, 0);
    same_feature(&second, &f);
    same_feature(&third, &f);
    sae_feature small = {.struct_size = offsetof(sae_feature, model_id), .layer = "untouched"};
    ck_assert_int_eq(sae_features_at(list, 1, &small), SAE_OK);
    ck_assert_str_eq(small.label, f.label);
    ck_assert_str_eq(small.layer, "untouched");
    ck_assert_int_eq(sae_features_at(list, 3, &small), SAE_E_ARG);
    ck_assert_int_eq(sae_features_at(list, -1, &small), SAE_E_ARG);
    ck_assert_int_eq(sae_features_at(list, 0, NULL), SAE_E_ARG);
    ck_assert_int_eq(sae_features_at(NULL, 0, &small), SAE_E_ARG);
    ck_assert_int_eq(sae_features_count(NULL), 0);
    sae_features_free(list);
    sae_features_free(NULL);
}
END_TEST

START_TEST(words_of_many_scripts)
{
    sae_catalog *c = fresh();
    ACCEPTED(sae_catalog_begin(c, &err));
    put_label(c, 0, "Golden Gate Bridge");
    put_label(c, 1, "bridges and tunnels");
    put_label(c, 2, "다리를 건너는 사람");
    put_label(c, 3, "돌다리");
    put_label(c, 4, "사람의 다리가 아프다");
    put_label(c, 5, "橋を渡る人");
    put_label(c, 6, "Москва: café, naïve");
    put_label(c, 7, "a cat, a category");
    put_label(c, 8, "category theory");
    const sae_feature f = whole(20);
    ACCEPTED(sae_catalog_put(c, &f, &err));
    ACCEPTED(sae_catalog_commit(c, &err));
    ck_assert_str_eq(found(c, "다리를"), "2 20");
    ck_assert_str_eq(found(c, "돌다리"), "3");
    ck_assert_str_eq(found(c, "사람 다리"), "2 4 20"); /* the shorter the better */
    ck_assert_str_eq(found(c, "橋"), "5");
    ck_assert_str_eq(found(c, "渡る"), "5");
    ck_assert_str_eq(found(c, "москва"), "6");
    ck_assert_str_eq(found(c, "CAFE"), "6");
    ck_assert_str_eq(found(c, "cat"), "7 8"); /* the word itself before words it begins */
    ck_assert_str_eq(found(c, "golden brid"), "0");
    ck_assert_str_eq(found(c, "brucke"), "20"); /* a promoted token, U+0120 before it */
    sae_feature token = named(31, "");
    token.promoted = (sae_token[]){{"rarity", 1.0f, 0}};
    token.n_promoted = 1;
    ACCEPTED(sae_catalog_put(c, &token, &err));
    put_label(c, 32, "a rarity in a label that has many more words than the other has, and yet comes first");
    ck_assert_str_eq(found(c, "rarity"), "32 31");
    ck_assert_str_eq(found(c, "gate zebra"), "0");
    ck_assert_str_eq(found(c, "다리를 zebra"), "2 20 3 4"); /* any of the pairs */
    ck_assert_str_eq(found(c, ""), "");
    ck_assert_str_eq(found(c, " \t\xe3\x80\x80 "), "");
    ck_assert_str_eq(found(c, "zebra"), "");
    /* the query is words, never syntax */
    static const char *const odd[] = {
        "\"",           "\"\"\" *",        "label:", "NEAR(", "-x ^ +", "( OR )", "a\" OR \"cat", "*", "' ; DROP TABLE feature",
        "\xe2\x80\x9c", "\xe2\x80\x9c cat"};
    for (size_t i = 0; i < LENGTH(odd); i++)
        (void)found(c, odd[i]);
    ck_assert_str_eq(found(c, "\"cat\""), "7 8");
    char many[1001] = "";
    for (int i = 0; i < 1000; i++)
        many[i] = i % 2 ? ' ' : (char)('a' + i / 2 % 26);
    (void)found(c, many);
    for (int i = 0; i + 3 < 1000; i += 3)
        memcpy(many + i, i % 2 ? "다" : "리", 3);
    many[999] = '\0';
    (void)found(c, many);
    sae_catalog_free(c);
}
END_TEST

START_TEST(one_and_two_syllables)
{
    sae_catalog *c = fresh();
    put_label(c, 2, "다리를 건너는 사람");
    put_label(c, 3, "돌다리");
    put_label(c, 4, "사람의 다리가 아프다");
    put_label(c, 5, "사다리차"); /* the two stand together here too */
    put_label(c, 6, "다른 소리");
    ck_assert_str_eq(found(c, "다리"), "3 5 2 4");
    ck_assert_str_eq(found(c, "다"), "3 6 5 2 4");
    ck_assert_str_eq(found(c, "리다"), ""); /* nowhere */
    sae_catalog_free(c);
}
END_TEST

START_TEST(what_is_replaced_is_not_found)
{
    sae_catalog *c = fresh();
    put_label(c, 1, "old words 옛날");
    const sae_feature f = whole(1);
    ACCEPTED(sae_catalog_put(c, &f, &err));
    ck_assert_str_eq(found(c, "old"), "");
    ck_assert_str_eq(found(c, "옛날"), "");
    ck_assert_str_eq(found(c, "brücke"), "1");
    put_label(c, 1, "old words 옛날");
    ck_assert_str_eq(found(c, "brücke"), "");
    ck_assert_str_eq(found(c, "old"), "1");
    int64_t n = -1;
    ACCEPTED(sae_catalog_count(c, &n, &err));
    ck_assert_int_eq(n, 1);
    sae_catalog_free(c);
}
END_TEST

/* All ids of a list, page by page of three. */
static int walk_pages(int32_t *ids, sae_catalog *c, int32_t order, int32_t descending)
{
    sae_list_options opt = {.struct_size = sizeof opt, .order = order, .descending = descending, .limit = 3};
    int n = 0;
    for (int64_t got = 3; got == 3;) {
        sae_features *list;
        ACCEPTED(sae_catalog_list(&list, c, &opt, &err));
        got = sae_features_count(list);
        for (int64_t i = 0; i < got; i++) {
            const sae_feature f = at(list, i);
            ids[n++] = f.id;
            opt.after_id = f.id;
            opt.after_value = order == SAE_ORDER_DENSITY ? f.density : order == SAE_ORDER_MEAN ? f.mean : f.max;
            opt.resume = SAE_YES;
            ck_assert_int_eq(f.n_promoted, 0);
        }
        sae_features_free(list);
    }
    return n;
}

START_TEST(pages)
{
    sae_catalog *c = fresh();
    ACCEPTED(sae_catalog_begin(c, &err));
    for (int32_t i = 0; i < 20; i++) {
        sae_feature f = named(i * 2, "x");
        f.density = i % 5 / 10.0; /* many are equal */
        f.mean = i == 11 ? NAN : -i;
        f.max = 1.0;
        ACCEPTED(sae_catalog_put(c, &f, &err));
    }
    ACCEPTED(sae_catalog_commit(c, &err));
    int32_t ids[64];
    for (int down = 0; down < 2; down++) {
        ck_assert_int_eq(walk_pages(ids, c, SAE_ORDER_ID, down ? SAE_YES : SAE_NO), 20);
        for (int i = 0; i < 20; i++)
            ck_assert_int_eq(ids[i], down ? 38 - 2 * i : 2 * i);
        ck_assert_int_eq(walk_pages(ids, c, SAE_ORDER_MAX, down ? SAE_YES : SAE_DEFAULT), 20);
        for (int i = 0; i < 20; i++)
            ck_assert_int_eq(ids[i], down ? 38 - 2 * i : 2 * i);
        ck_assert_int_eq(walk_pages(ids, c, SAE_ORDER_DENSITY, down ? SAE_YES : SAE_NO), 20);
        for (int i = 0; i < 20; i++) {
            const int k = down ? 19 - i : i, id = 2 * (k / 4 + k % 4 * 5);
            ck_assert_int_eq(ids[i], id);
        }
        ck_assert_int_eq(walk_pages(ids, c, SAE_ORDER_MEAN, down ? SAE_YES : SAE_NO), 19);
        ck_assert_int_eq(ids[0], down ? 0 : 38);
    }
    /* a feature put between two pages neither repeats another nor pushes one out */
    sae_list_options opt = {.struct_size = sizeof opt, .order = SAE_ORDER_DENSITY, .limit = 4};
    sae_features *list;
    ACCEPTED(sae_catalog_list(&list, c, &opt, &err));
    const sae_feature last = at(list, 3);
    sae_features_free(list);
    sae_feature f = named(1, "between");
    f.density = 0.0;
    ACCEPTED(sae_catalog_put(c, &f, &err));
    opt.resume = SAE_YES;
    opt.after_id = last.id;
    opt.after_value = last.density;
    ACCEPTED(sae_catalog_list(&list, c, &opt, &err));
    ck_assert_int_eq(at(list, 0).id, 2);
    sae_features_free(list);
    ACCEPTED(sae_catalog_list(&list, c, NULL, &err));
    ck_assert_int_eq(sae_features_count(list), 21);
    sae_features_free(list);
    REFUSED(SAE_E_ARG, "out is NULL", sae_catalog_list(NULL, c, NULL, &err));
    REFUSED(SAE_E_ARG, "catalog is NULL", sae_catalog_list(&list, NULL, NULL, &err));
    const sae_list_options bad[] = {{.struct_size = sizeof *bad, .order = 4},
                                    {.struct_size = sizeof *bad, .order = -1},
                                    {.struct_size = sizeof *bad, .descending = 3},
                                    {.struct_size = sizeof *bad, .limit = 10001},
                                    {.struct_size = sizeof *bad, .limit = -1},
                                    {.struct_size = sizeof *bad, .resume = -1},
                                    {.struct_size = sizeof *bad, .order = SAE_ORDER_MAX, .resume = SAE_YES, .after_value = NAN}};
    static const char *const why[] = {"order = 4",  "order = -1",  "descending = 3", "limit = 10001",
                                      "limit = -1", "resume = -1", "after_value"};
    for (size_t i = 0; i < LENGTH(bad); i++) {
        REFUSED(SAE_E_ARG, why[i], sae_catalog_list(&list, c, &bad[i], &err));
        ck_assert_ptr_null(list);
    }
    sae_catalog_free(c);
}
END_TEST

START_TEST(transactions)
{
    sae_catalog *c = fresh();
    int64_t n = -1;
    REFUSED(SAE_E_ARG, "no transaction", sae_catalog_commit(c, &err));
    ACCEPTED(sae_catalog_begin(c, &err));
    REFUSED(SAE_E_ARG, "open already", sae_catalog_begin(c, &err));
    put_label(c, 1, "one");
    sae_catalog_rollback(c);
    sae_catalog_rollback(c);
    ACCEPTED(sae_catalog_count(c, &n, &err));
    ck_assert_int_eq(n, 0);
    ck_assert_str_eq(found(c, "one"), "");
    ACCEPTED(sae_catalog_begin(c, &err));
    put_label(c, 1, "one");
    /* a wrong feature leaves the transaction as it was */
    const sae_feature wrong = named(N, "outside");
    REFUSED(SAE_E_ARG, "feature 300|0 .. 299", sae_catalog_put(c, &wrong, &err));
    put_label(c, 2, "two");
    ACCEPTED(sae_catalog_commit(c, &err));
    ACCEPTED(sae_catalog_begin(c, &err));
    put_label(c, 3, "three");
    sae_catalog_free(c); /* taken back */
    c = opened(SAE_CATALOG_READ);
    ACCEPTED(sae_catalog_count(c, &n, &err));
    ck_assert_int_eq(n, 2);
    const sae_feature f = named(1, "x");
    REFUSED(SAE_E_ARG, "open for reading", sae_catalog_put(c, &f, &err));
    REFUSED(SAE_E_ARG, "open for reading", sae_catalog_begin(c, &err));
    REFUSED(SAE_E_ARG, "no transaction", sae_catalog_commit(c, &err));
    sae_catalog_free(c);
    REFUSED(SAE_E_ARG, "catalog is NULL", sae_catalog_begin(NULL, &err));
    REFUSED(SAE_E_ARG, "catalog is NULL", sae_catalog_commit(NULL, &err));
    sae_catalog_rollback(NULL);
    sae_catalog_free(NULL);
}
END_TEST

START_TEST(two_writers)
{
    sae_catalog *a = fresh(), *b;
    const sae_catalog_options quick = {.struct_size = sizeof quick, .access = SAE_CATALOG_WRITE, .wait_ms = 30};
    const sae_catalog_options at_once = {.struct_size = sizeof at_once, .access = SAE_CATALOG_WRITE, .wait_ms = -1};
    ACCEPTED(sae_catalog_begin(a, &err));
    put_label(a, 1, "one");
    ACCEPTED(sae_catalog_open(&b, env, path, &quick, &err));
    REFUSED(SAE_E_BUSY, "in use|30 ms", sae_catalog_begin(b, &err));
    const sae_feature f = named(2, "two");
    REFUSED(SAE_E_BUSY, "in use|30 ms", sae_catalog_put(b, &f, &err));
    int64_t n = -1;
    ACCEPTED(sae_catalog_count(b, &n, &err)); /* reading goes on */
    ck_assert_int_eq(n, 0);
    sae_catalog_free(b);
    ACCEPTED(sae_catalog_open(&b, env, path, &at_once, &err));
    REFUSED(SAE_E_BUSY, "in use|0 ms", sae_catalog_begin(b, &err));
    ACCEPTED(sae_catalog_commit(a, &err));
    ACCEPTED(sae_catalog_put(b, &f, &err));
    ACCEPTED(sae_catalog_count(a, &n, &err));
    ck_assert_int_eq(n, 2);
    sae_catalog_free(a);
    sae_catalog_free(b);
}
END_TEST

START_TEST(put_refuses)
{
    sae_catalog *c = fresh();
    static char long_text[SAE_MOST_TEXT + 1];
    memset(long_text, 'x', sizeof long_text - 1);
    const sae_token nothing = {NULL, 1.0f, 0}, nan_token = {"x", NAN, 0}, broken = {"\xff", 1.0f, 0};
    const sae_example peak = {walk, 3, 3, 0, 0}, before = {walk, 3, 0, -2, 0}, many = {walk, SAE_MOST_TOKENS + 1, 0, 0, 0},
                      null = {NULL, 2, 0, 0, 0}, inner = {&broken, 1, 0, 0, 0};
    sae_feature f = whole(1);
    REFUSED(SAE_E_ARG, "catalog is NULL", sae_catalog_put(NULL, &f, &err));
    REFUSED(SAE_E_ARG, "feature is NULL", sae_catalog_put(c, NULL, &err));
#define WRONG(words, ...)                                        \
    do {                                                         \
        f = whole(1);                                            \
        __VA_ARGS__;                                             \
        REFUSED(SAE_E_ARG, words, sae_catalog_put(c, &f, &err)); \
    } while (0)
    WRONG("struct_size = 0", f.struct_size = 0);
    WRONG("feature -1|299", f.id = -1);
    WRONG("feature 300|299", f.id = 300);
    WRONG("feature 1|density = inf", f.density = INFINITY);
    WRONG("mean = -inf", f.mean = -INFINITY);
    WRONG("max = inf", f.max = INFINITY);
    WRONG("label|not UTF-8", f.label = "\xc0\x80");
    WRONG("label|longer", f.label = long_text);
    WRONG("model_id|not UTF-8", f.model_id = "\xed\xa0\x80");
    WRONG("layer|not UTF-8", f.layer = "a\xe2\x80");
    WRONG("promoted has -1", f.n_promoted = -1);
    WRONG("promoted has 1001|0 .. 1000", f.n_promoted = 1001);
    WRONG("promoted has 3 tokens at NULL", f.promoted = NULL);
    WRONG("suppressed has 1001", f.n_suppressed = 1001);
    WRONG("token 0 of promoted is NULL", f.promoted = &nothing; f.n_promoted = 1);
    WRONG("token 0 of suppressed is not finite", f.suppressed = &nan_token);
    WRONG("token 0 of suppressed is not UTF-8", f.suppressed = &broken);
    WRONG("n_examples = -1", f.n_examples = -1);
    WRONG("n_examples = 1001", f.n_examples = 1001);
    WRONG("n_examples = 3 at NULL", f.examples = NULL);
    WRONG("examples[0] of 3 tokens has peak = 3", f.examples = &peak; f.n_examples = 1);
    WRONG("document = -2", f.examples = &before; f.n_examples = 1);
    WRONG("examples[0] has 4097 tokens", f.examples = &many; f.n_examples = 1);
    WRONG("examples[0] has 2 tokens at NULL", f.examples = &null; f.n_examples = 1);
    WRONG("token 0 of examples[0] is not UTF-8", f.examples = &inner; f.n_examples = 1);
    static sae_token large[SAE_MOST_ENTRIES];
    for (int i = 0; i < SAE_MOST_ENTRIES; i++)
        large[i] = (sae_token){long_text + 1, 1.0f, 0};
    WRONG("65540103 bytes|16777216", f.promoted = large; f.n_promoted = SAE_MOST_ENTRIES);
    int64_t n = -1;
    ACCEPTED(sae_catalog_count(c, &n, &err));
    ck_assert_int_eq(n, 0);
    f = whole(1);
    void *longer = resized(&f, sizeof f, sizeof f + 8, 1);
    REFUSED(SAE_E_VERSION, "sae_feature has", sae_catalog_put(c, longer, &err));
    free(longer);
    sae_catalog_free(c);
}
END_TEST

START_TEST(calls_refuse)
{
    sae_catalog *c = fresh();
    sae_features *list = (sae_features *)&err;
    const int32_t id = 1;
    int64_t n;
    REFUSED(SAE_E_ARG, "out is NULL", sae_catalog_get(NULL, c, &id, 1, &err));
    REFUSED(SAE_E_ARG, "catalog is NULL", sae_catalog_get(&list, NULL, &id, 1, &err));
    ck_assert_ptr_null(list);
    REFUSED(SAE_E_ARG, "ids is NULL", sae_catalog_get(&list, c, NULL, 1, &err));
    REFUSED(SAE_E_ARG, "n = -1", sae_catalog_get(&list, c, &id, -1, &err));
    REFUSED(SAE_E_ARG, "n = 100001", sae_catalog_get(&list, c, &id, 100001, &err));
    ACCEPTED(sae_catalog_get(&list, c, NULL, 0, &err));
    ck_assert_int_eq(sae_features_count(list), 0);
    sae_features_free(list);
    REFUSED(SAE_E_ARG, "out is NULL", sae_catalog_search(NULL, c, "x", 1, &err));
    REFUSED(SAE_E_ARG, "catalog is NULL", sae_catalog_search(&list, NULL, "x", 1, &err));
    REFUSED(SAE_E_ARG, "query is NULL", sae_catalog_search(&list, c, NULL, 1, &err));
    REFUSED(SAE_E_ARG, "limit = 0", sae_catalog_search(&list, c, "x", 0, &err));
    REFUSED(SAE_E_ARG, "limit = 10001", sae_catalog_search(&list, c, "x", 10001, &err));
    REFUSED(SAE_E_ARG, "2 bytes, not all of them UTF-8", sae_catalog_search(&list, c, "x\xff", 1, &err));
    char query[1002];
    memset(query, 'x', 1001);
    query[1001] = '\0';
    REFUSED(SAE_E_ARG, "1001 bytes; it may have 1000", sae_catalog_search(&list, c, query, 1, &err));
    REFUSED(SAE_E_ARG, "out is NULL", sae_catalog_count(c, NULL, &err));
    REFUSED(SAE_E_ARG, "catalog is NULL", sae_catalog_count(NULL, &n, &err));
    sae_catalog_about about = {.struct_size = sizeof about};
    ck_assert_int_eq(sae_catalog_info(NULL, &about), SAE_E_ARG);
    ck_assert_int_eq(sae_catalog_info(c, NULL), SAE_E_ARG);
    ck_assert_int_eq(sae_catalog_info(c, &about), SAE_OK);
    ck_assert_int_eq(about.schema, 1);
    ck_assert_int_eq(about.d_in, D);
    ck_assert_int_eq(about.d_sae, N);
    ck_assert_str_eq(about.model_name, "");
    ck_assert_str_eq(about.hook_name, "");
    uint8_t fingerprint[16];
    ACCEPTED(sae_model_fingerprint(model, fingerprint, &err));
    ck_assert_mem_eq(about.fingerprint, fingerprint, 16);
    sae_catalog_free(c);
}
END_TEST

START_TEST(opening)
{
    sae_catalog *c = (sae_catalog *)&err;
    REFUSED(SAE_E_ARG, "out is NULL", sae_catalog_create(NULL, env, path, model, &err));
    REFUSED(SAE_E_ARG, "env is NULL", sae_catalog_create(&c, NULL, path, model, &err));
    ck_assert_ptr_null(c);
    REFUSED(SAE_E_ARG, "path is NULL", sae_catalog_create(&c, env, NULL, model, &err));
    REFUSED(SAE_E_ARG, "model is NULL", sae_catalog_create(&c, env, path, NULL, &err));
    REFUSED(SAE_E_IO, "exists already", sae_catalog_create(&c, env, folder, model, &err));
    REFUSED(SAE_E_IO, "/nowhere/a", sae_catalog_create(&c, env, "/nowhere/a", model, &err));
    REFUSED(SAE_E_ARG, "out is NULL", sae_catalog_open(NULL, env, path, NULL, &err));
    REFUSED(SAE_E_ARG, "env is NULL", sae_catalog_open(&c, NULL, path, NULL, &err));
    REFUSED(SAE_E_ARG, "path is NULL", sae_catalog_open(&c, env, NULL, NULL, &err));
    REFUSED(SAE_E_IO, "a.features: No such file", sae_catalog_open(&c, env, path, NULL, &err));
    REFUSED(SAE_E_IO, "No such file", sae_catalog_open(&c, env, ":memory:", NULL, &err));
    REFUSED(SAE_E_IO, "is a folder", sae_catalog_open(&c, env, folder, NULL, &err));
    ck_assert_ptr_null(c);
    sae_catalog_free(fresh());
    REFUSED(SAE_E_IO, "exists already", sae_catalog_create(&c, env, path, model, &err));
    const sae_catalog_options bad[] = {{.struct_size = sizeof *bad, .access = 2},
                                       {.struct_size = sizeof *bad, .force = 3},
                                       {.struct_size = sizeof *bad, .wait_ms = -2},
                                       {.struct_size = 4}};
    static const char *const why[] = {"access = 2", "force = 3", "wait_ms = -2", "struct_size = 4"};
    for (size_t i = 0; i < LENGTH(bad); i++)
        REFUSED(SAE_E_ARG, why[i], sae_catalog_open(&c, env, path, &bad[i], &err));
    if (geteuid() != 0) { /* root may write everything */
        ck_assert_int_eq(chmod(path, 0444), 0);
        const sae_catalog_options write = {.struct_size = sizeof write, .access = SAE_CATALOG_WRITE};
        REFUSED(SAE_E_IO, "write-protected", sae_catalog_open(&c, env, path, &write, &err));
        sae_catalog_free(opened(SAE_CATALOG_READ));
    }
}
END_TEST

START_TEST(of_another_sae)
{
    sae_catalog_free(fresh());
    planted q;
    planted_make(&q, (sae_weights){.arch = SAE_STANDARD, .dtype = SAE_F32, .d_in = D, .d_sae = N}, 2);
    sae_model *other = planted_model(&q, env), *smaller;
    planted_free(&q);
    planted_make(&q, (sae_weights){.arch = SAE_STANDARD, .dtype = SAE_F32, .d_in = D, .d_sae = N - 1}, 1);
    smaller = planted_model(&q, env);
    planted_free(&q);
    uint8_t prints[2][16];
    char words[128];
    ACCEPTED(sae_model_fingerprint(model, prints[0], &err));
    ACCEPTED(sae_model_fingerprint(other, prints[1], &err));
    snprintf(words, sizeof words, "%02x%02x%02x|%02x%02x%02x|of another SAE|at ''", prints[0][0], prints[0][1], prints[0][2], prints[1][0],
             prints[1][1], prints[1][2]);
    sae_catalog_options opt = {.struct_size = sizeof opt, .model = model};
    sae_catalog *c;
    ACCEPTED(sae_catalog_open(&c, env, path, &opt, &err));
    sae_catalog_free(c);
    opt.model = other;
    REFUSED(SAE_E_SHAPE, words, sae_catalog_open(&c, env, path, &opt, &err));
    ck_assert_ptr_null(c);
    opt.force = SAE_YES;
    ACCEPTED(sae_catalog_open(&c, env, path, &opt, &err));
    sae_catalog_free(c);
    opt.model = smaller;
    REFUSED(SAE_E_SHAPE, "d_sae = 300|d_sae = 299", sae_catalog_open(&c, env, path, &opt, &err));
    sae_model_free(other);
    sae_model_free(smaller);
}
END_TEST

START_TEST(every_allocation_fails_once)
{
    for (int step = 0; step < 5; step++) {
        unlink(path);
        sae_catalog *c = fresh();
        put_label(c, 1, "old");
        const int32_t ids[] = {1, 2};
        const sae_feature f = whole(1);
        bool done = false;
        for (long nth = 0; !done; nth++) {
            sae_features *list = NULL;
            sae_catalog *again = NULL;
            ck_assert_int_lt(nth, 100);
            atomic_store(&counted.fail_at, atomic_load(&counted.asked) + nth);
            err = (sae_error){.struct_size = sizeof err};
            const sae_status status = step == 0   ? sae_catalog_open(&again, env, path, NULL, &err)
                                      : step == 1 ? sae_catalog_put(c, &f, &err)
                                      : step == 2 ? sae_catalog_get(&list, c, ids, 2, &err)
                                      : step == 3 ? sae_catalog_search(&list, c, "old 다리", 5, &err)
                                                  : sae_catalog_list(&list, c, NULL, &err);
            done = atomic_load(&counted.failed) == 0;
            atomic_store(&counted.fail_at, -1);
            atomic_store(&counted.failed, 0);
            ck_assert_msg(status == (done ? SAE_OK : SAE_E_NOMEM), "step %d, allocation %ld: %s", step, nth, err.text);
            ck_assert(done || (!list && !again && *err.text));
            if (step == 1)
                ck_assert_str_eq(found(c, "old"), done ? "" : "1");
            sae_features_free(list);
            sae_catalog_free(again);
        }
        sae_catalog_free(c);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("features");
    TCase *t = tcase_create("features");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_feature_comes_back_as_it_went);
    tcase_add_test(t, words_of_many_scripts);
    tcase_add_test(t, one_and_two_syllables);
    tcase_add_test(t, what_is_replaced_is_not_found);
    tcase_add_test(t, pages);
    tcase_add_test(t, transactions);
    tcase_add_test(t, two_writers);
    tcase_add_test(t, put_refuses);
    tcase_add_test(t, calls_refuse);
    tcase_add_test(t, opening);
    tcase_add_test(t, of_another_sae);
    tcase_add_test(t, every_allocation_fails_once);
    suite_add_tcase(s, t);
    return run_suite(s);
}
