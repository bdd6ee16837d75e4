/* sae/taps.h as a host sees it, on an engine that is made up here: its library is a table of functions, its tensors are what these say. */
#include <stdlib.h>
#include <string.h>

#include "support/support.h"
#include "support/run.h"

enum { D = 16, LAYERS = 3, F32 = 0, F16 = 1, Q8_0 = 8, I32 = 26, BF16 = 30 };

static sae_error err;
static heap counted;
static sae_env *env;

static void setup(void)
{
    env = counted_env(&counted);
}

static void teardown(void)
{
    counted_env_free(&counted, env);
}

/* ---- the engine ---- */

typedef struct tensor {
    const char *name;
    int type;
    int64_t ne[3];
    bool gaps;
    void *data;
} tensor;

static size_t size_of(const tensor *t)
{
    return t->type == F32 || t->type == I32 ? 4 : t->type == Q8_0 ? 34 : 2;
}

static const char *get_name(const tensor *t)
{
    return t->name;
}

static int64_t nrows(const tensor *t)
{
    return t->ne[1] * t->ne[2];
}

static int64_t nelements(const tensor *t)
{
    return t->ne[0] * nrows(t);
}

static bool is_contiguous(const tensor *t)
{
    return !t->gaps;
}

static bool is_matrix(const tensor *t)
{
    return t->ne[2] == 1;
}

static void tensor_get(const tensor *t, void *to, size_t offset, size_t bytes)
{
    ck_assert_uint_le(offset + bytes, size_of(t) * (size_t)nelements(t));
    memcpy(to, (const char *)t->data + offset, bytes);
}

static void tensor_set(tensor *t, const void *from, size_t offset, size_t bytes)
{
    ck_assert_uint_le(offset + bytes, size_of(t) * (size_t)nelements(t));
    memcpy((char *)t->data + offset, from, bytes);
}

static const tensor *listed; /* the one tensor of the list that there may be */
static int lists;

static void *list_make(void)
{
    lists++;
    return &listed;
}

static void list_add(void *list, const tensor *t)
{
    ck_assert_ptr_eq(list, &listed);
    listed = t;
}

static int list_type(const void *list, int64_t i)
{
    ck_assert(list == &listed && i == 0);
    return listed->type;
}

static void list_free(void *list)
{
    ck_assert_ptr_eq(list, &listed);
    lists--;
}

static const struct {
    const char *name;
    void (*function)(void);
} library[] = {
    {"ggml_get_name", (void (*)(void))get_name},
    {"ggml_nelements", (void (*)(void))nelements},
    {"ggml_nrows", (void (*)(void))nrows},
    {"ggml_element_size", (void (*)(void))size_of},
    {"ggml_is_contiguous", (void (*)(void))is_contiguous},
    {"ggml_is_matrix", (void (*)(void))is_matrix},
    {"ggml_backend_tensor_get", (void (*)(void))tensor_get},
    {"ggml_backend_tensor_set", (void (*)(void))tensor_set},
    {"gguf_init_empty", (void (*)(void))list_make},
    {"gguf_add_tensor", (void (*)(void))list_add},
    {"gguf_get_tensor_type", (void (*)(void))list_type},
    {"gguf_free", (void (*)(void))list_free},
};

/* A dlsym; `without` names a function that this library lacks, or is NULL. */
static void *symbol(void *without, const char *name)
{
    void *found = NULL;
    for (size_t i = 0; i < LENGTH(library); i++)
        if (strcmp(name, library[i].name) == 0 && !(without && strcmp(name, without) == 0))
            memcpy(&found, &library[i].function, sizeof found);
    return found;
}

/* As the scheduler does it. */
static void compute(sae_taps *taps, tensor *t)
{
    if (sae_taps_eval(t, true, taps))
        ck_assert(sae_taps_eval(t, false, taps));
    ck_assert_int_eq(lists, 0);
}

/* ---- hosts ---- */

static sae_plan *adding(int32_t d, float value)
{
    sae_plan *plan = NULL;
    float vector[2 * D];
    for (int i = 0; i < 2 * D; i++)
        vector[i] = 1.0f;
    const sae_edit edit = {.struct_size = sizeof edit, .op = SAE_ADD, .value = value, .vector = vector};
    ACCEPTED(sae_plan_compile(&plan, env, d, 1, &edit, 1, &err));
    return plan;
}

static sae_tap tap_of(const char *name, int32_t layer, const sae_plan *plan)
{
    return (sae_tap){.struct_size = sizeof(sae_tap), .name = name, .layer = layer, .plan = plan};
}

static sae_taps *taps_of(const sae_tap *taps, int64_t n)
{
    sae_taps *out = NULL;
    ACCEPTED(sae_taps_create(&out, env, symbol, NULL, taps, n, &err));
    return out;
}

static sae_taps_batch batch_of(int64_t n_rows)
{
    return (sae_taps_batch){.struct_size = sizeof(sae_taps_batch), .n_layer = LAYERS, .n_rows = n_rows};
}

static sae_tap_counts counts_of(const sae_taps *taps, int64_t tap)
{
    sae_tap_counts c = {.struct_size = sizeof c};
    ck_assert_int_eq(sae_taps_count(taps, tap, &c), SAE_OK);
    return c;
}

/* One decode of one tensor of `rows` rows at layer 1; gives what end says. */
static sae_status one(sae_taps *taps, tensor t, int64_t rows)
{
    const sae_taps_batch batch = batch_of(rows);
    ACCEPTED(sae_taps_begin(taps, &batch, &err));
    compute(taps, &t);
    err = (sae_error){.struct_size = sizeof err};
    return sae_taps_end(taps, &err);
}

/* ---- making ---- */

START_TEST(create_arguments)
{
    sae_taps *taps = (sae_taps *)&err;
    sae_plan *plan = adding(D, 1.0f);
    sae_tap tap = tap_of("l_out", 1, plan);
    REFUSED(SAE_E_ARG, "out is NULL", sae_taps_create(NULL, env, symbol, NULL, &tap, 1, &err));
    REFUSED(SAE_E_ARG, "env is NULL", sae_taps_create(&taps, NULL, symbol, NULL, &tap, 1, &err));
    ck_assert_ptr_null(taps);
    REFUSED(SAE_E_ARG, "symbol is NULL", sae_taps_create(&taps, env, NULL, NULL, &tap, 1, &err));
    REFUSED(SAE_E_ARG, "taps is NULL", sae_taps_create(&taps, env, symbol, NULL, NULL, 1, &err));
    REFUSED(SAE_E_ARG, "n_taps = 0", sae_taps_create(&taps, env, symbol, NULL, &tap, 0, &err));
    for (size_t i = 0; i < LENGTH(library); i++)
        REFUSED(SAE_E_UNSUPPORTED, library[i].name, sae_taps_create(&taps, env, symbol, (void *)(uintptr_t)library[i].name, &tap, 1, &err));
    ck_assert_ptr_null(taps);
    sae_taps_free(NULL);
    sae_plan_free(plan);
}
END_TEST

START_TEST(create_refuses_a_tap)
{
    sae_taps *taps = NULL;
    sae_plan *plan = adding(D, 1.0f);
    float codes[1];
    const char long_name[] = "a_tensor_with_a_name_that_is_a_little_longer_than_it_may";
    struct {
        sae_status status;
        const char *words;
        sae_tap tap;
    } bad[] = {
        {SAE_E_ARG, "taps[1]|1 to 47 bytes", {.name = NULL, .plan = plan}},
        {SAE_E_ARG, "1 to 47 bytes", {.name = "", .plan = plan}},
        {SAE_E_ARG, "1 to 47 bytes", {.name = long_name, .plan = plan}},
        {SAE_E_ARG, "this is -2", {.name = "l_out", .layer = -2, .plan = plan}},
        {SAE_E_ARG, "reserved = 3", {.name = "l_out", .plan = plan, .reserved = 3}},
        {SAE_E_ARG, "no plan, no probe and no rows", {.name = "l_out"}},
        {SAE_E_ARG, "no plan, no probe and no rows", {.name = "l_out", .rows = codes, .max_rows = 1}},
        {SAE_E_ARG, "max_rows = 0", {.name = "l_out", .plan = plan, .rows = codes}},
        {SAE_E_SHAPE, "d = 8, but the plan is for rows of 16", {.name = "l_out", .plan = plan, .d = 8}},
    };
    for (size_t i = 0; i < LENGTH(bad); i++) {
        sae_tap two[2] = {tap_of("l_out", 0, plan), bad[i].tap};
        two[1].struct_size = sizeof(sae_tap);
        REFUSED(bad[i].status, bad[i].words, sae_taps_create(&taps, env, symbol, NULL, two, 2, &err));
    }
    sae_tap two[2] = {tap_of("l_out", 0, plan), tap_of("l_out", 1, plan)};
    two[1].struct_size = 8;
    REFUSED(SAE_E_ARG, "taps[1]|sizeof(sae_tap)", sae_taps_create(&taps, env, symbol, NULL, two, 2, &err));
    void *larger = resized(two, sizeof *two, sizeof *two + 8, 1);
    REFUSED(SAE_E_VERSION, "taps[0]", sae_taps_create(&taps, env, symbol, NULL, larger, 1, &err));
    free(larger);
    sae_plan_free(plan);
}
END_TEST

START_TEST(create_without_memory)
{
    sae_taps *taps = NULL;
    sae_plan *plan = adding(D, 1.0f);
    const sae_tap tap = tap_of("l_out", 1, plan);
    atomic_store(&counted.fail_at, atomic_load(&counted.asked));
    REFUSED(SAE_E_NOMEM, "1 taps", sae_taps_create(&taps, env, symbol, NULL, &tap, 1, &err));
    atomic_store(&counted.fail_at, -1);
    sae_plan_free(plan);
}
END_TEST

/* ---- rows ---- */

/* A plan that adds 1 to every element, by any type, in pieces larger than what is copied at once. */
START_TEST(every_type)
{
    enum { ROWS = 150 };
    static const struct {
        int type;
        sae_dtype dtype;
    } kinds[] = {{F32, SAE_F32}, {F16, SAE_F16}, {BF16, SAE_BF16}};
    sae_plan *plan = adding(D, 1.0f);
    const sae_tap tap = tap_of("l_out", 1, plan);
    for (size_t k = 0; k < LENGTH(kinds); k++) {
        unsigned char data[ROWS * D * 4];
        const size_t each = sae_dtype_bytes(kinds[k].dtype);
        sae_taps *taps = taps_of(&tap, 1);
        for (size_t i = 0; i < ROWS * D; i++)
            element_store(data + i * each, kinds[k].dtype, (double)(i % 64));
        ck_assert_int_eq(one(taps, (tensor){"l_out-1", kinds[k].type, {D, ROWS, 1}, false, data}, ROWS), SAE_OK);
        for (size_t i = 0; i < ROWS * D; i++)
            ck_assert_double_eq(element_load(data + i * each, kinds[k].dtype), (double)(i % 64) + 1);
        const sae_tap_counts c = counts_of(taps, 0);
        ck_assert_int_eq(c.dtype, kinds[k].dtype);
        ck_assert(c.hits == 1 && c.rows_seen == ROWS && c.rows_edited == ROWS && c.rows_left == 0 && c.asks == 1 && c.unannounced == 0);
        sae_taps_free(taps);
    }
    sae_plan_free(plan);
}
END_TEST

/* 5 rows in pieces of 2, at the first and the last layer, where rows without an output are left out; rows of slot -1 stay. */
START_TEST(pieces_and_outputs)
{
    static const int32_t slot[5] = {0, -1, 0, 0, -1};
    static const int8_t output[5] = {1, 0, 0, 1, 1};
    static const int64_t pieces[3] = {2, 2, 1}, outputs[3] = {1, 1, 1};
    sae_plan *plan = adding(D, 1.0f);
    float rows[5 * D];
    sae_tap two[2] = {tap_of("l_out", 0, plan), tap_of("l_out", LAYERS - 1, plan)};
    two[1].rows = rows;
    two[1].max_rows = 5;
    for (size_t i = 0; i < LENGTH(rows); i++)
        rows[i] = -7;
    sae_taps *taps = taps_of(two, 2);
    sae_taps_batch batch = batch_of(5);
    batch.slot = slot;
    batch.output = output;
    float first[5][D] = {{0}}, last[3][D] = {{0}};
    ACCEPTED(sae_taps_begin(taps, &batch, &err));
    for (int piece = 0, at = 0; piece < 3; at += 2, piece++) {
        compute(taps, &(tensor){"l_out-0", F32, {D, pieces[piece], 1}, false, first[at]});
        compute(taps, &(tensor){"l_out-1", F32, {D, pieces[piece], 1}, false, first[at]});
        compute(taps, &(tensor){"l_out-2", F32, {D, outputs[piece], 1}, false, last[piece]});
    }
    ACCEPTED(sae_taps_end(taps, &err));
    for (int r = 0; r < 5; r++)
        ck_assert_float_eq(first[r][3], slot[r] == 0);
    ck_assert(last[0][0] == 1 && last[1][0] == 1 && last[2][0] == 0);
    ck_assert(rows[0] == 0 && rows[D] == -7 && rows[2 * D] == -7 && rows[3 * D] == 0 && rows[4 * D] == 0);
    ck_assert(counts_of(taps, 0).rows_edited == 3 && counts_of(taps, 0).rows_left == 2);
    ck_assert(counts_of(taps, 1).hits == 3 && counts_of(taps, 1).rows_seen == 3 && counts_of(taps, 1).rows_edited == 2);
    sae_taps_free(taps);
    sae_plan_free(plan);
}
END_TEST

START_TEST(no_rows_at_all)
{
    sae_plan *plan = adding(D, 1.0f);
    const sae_tap tap = tap_of("l_out", LAYERS - 1, plan);
    static const int8_t none[4];
    float x[4 * D] = {0};
    sae_taps *taps = taps_of(&tap, 1);
    sae_taps_batch batch = batch_of(4);
    batch.output = none;
    ACCEPTED(sae_taps_begin(taps, &batch, &err));
    compute(taps, &(tensor){"l_out-0", F32, {D, 4, 1}, false, x});
    compute(taps, &(tensor){"l_out-2", F32, {D, 0, 1}, false, NULL});
    ACCEPTED(sae_taps_end(taps, &err));
    ck_assert(counts_of(taps, 0).hits == 1 && counts_of(taps, 0).rows_seen == 0 && counts_of(taps, 0).dtype == 0);
    sae_taps_free(taps);
    sae_plan_free(plan);
}
END_TEST

/* Codes come before the edit, and are those of a probe. */
START_TEST(codes)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = D, .d_sae = 40, .d_out = D}, 5);
    static const int32_t features[3] = {3, 11, 39};
    sae_model *model = planted_model(&p, env);
    sae_probe *probe = NULL;
    sae_plan *plan = adding(D, 1.0f);
    sae_ctx *ctx = ctx_make(model, 0);
    float *x = planted_rows(&p, 6, 9), got[6 * 3], want[6 * 3];
    ACCEPTED(sae_probe_create(&probe, model, features, 3, &err));
    ck_assert(sae_probe_d(probe) == D && sae_probe_features(probe) == 3 && sae_probe_d(NULL) == 0 && sae_probe_features(NULL) == 0);
    const sae_rows rows = rows_plain(x, 6, D);
    CTX_ACCEPTED(ctx, sae_probe_run(probe, ctx, want, 0, &rows, 0));
    sae_tap tap = tap_of("l_out", 1, plan);
    tap.probe = probe;
    tap.max_rows = 6;
    sae_taps *taps = NULL;
    REFUSED(SAE_E_ARG, "a probe without a ctx", sae_taps_create(&taps, env, symbol, NULL, &tap, 1, &err));
    tap.ctx = ctx;
    REFUSED(SAE_E_ARG, "a probe without codes", sae_taps_create(&taps, env, symbol, NULL, &tap, 1, &err));
    tap.codes = got;
    taps = taps_of(&tap, 1);
    const float before = x[7];
    ck_assert_int_eq(one(taps, (tensor){"l_out-1", F32, {D, 6, 1}, false, x}, 6), SAE_OK);
    ck_assert_mem_eq(got, want, sizeof want);
    ck_assert_float_eq(x[7], before + 1);
    sae_taps_batch batch = batch_of(7);
    REFUSED(SAE_E_CAPACITY, "l_out of layer 1|room for 6 rows|has 7", sae_taps_begin(taps, &batch, &err));
    REFUSED(SAE_E_CAPACITY, "room for 6 rows", sae_taps_end(taps, &err));
    sae_taps_free(taps);
    sae_plan_free(plan);
    plan = adding(2 * D, 1.0f);
    tap.plan = plan;
    REFUSED(SAE_E_SHAPE, "d = 32, but the probe is for rows of 16", sae_taps_create(&taps, env, symbol, NULL, &tap, 1, &err));
    sae_plan_free(plan);
    sae_probe_free(probe);
    sae_ctx_free(ctx);
    sae_model_free(model);
    planted_free(&p);
    free(x);
}
END_TEST

/* ---- what does not fit ---- */

START_TEST(tensors_that_are_refused)
{
    sae_plan *plan = adding(D, 1.0f);
    const sae_tap tap = tap_of("l_out", 1, plan);
    sae_taps *taps = taps_of(&tap, 1);
    float x[4 * 2 * D] = {0};
    static const struct {
        sae_status status;
        const char *words;
        int type;
        int64_t ne[3];
        bool gaps;
    } bad[] = {
        {SAE_E_UNSUPPORTED, "l_out-1 has ggml type 8|f32, f16 and bf16", Q8_0, {D, 4, 1}, false},
        {SAE_E_UNSUPPORTED, "ggml type 26", I32, {D, 4, 1}, false},
        {SAE_E_UNSUPPORTED, "2 matrices of rows", F32, {D, 2, 2}, false},
        {SAE_E_UNSUPPORTED, "not laid out by rows", F32, {D, 4, 1}, true},
        {SAE_E_SHAPE, "rows of 32 elements|for 16", F32, {2 * D, 4, 1}, false},
        {SAE_E_SHAPE, "came with 5 rows where 4 are left", F32, {D, 5, 1}, false},
        {SAE_E_ARG, "l_out of layer 1 came with 3 of the batch's 4 rows", F32, {D, 3, 1}, false},
    };
    for (size_t i = 0; i < LENGTH(bad); i++) {
        const tensor t = {"l_out-1", bad[i].type, {bad[i].ne[0], bad[i].ne[1], bad[i].ne[2]}, bad[i].gaps, x};
        refusal(__LINE__, one(taps, t, 4), bad[i].status, err.text, bad[i].words);
        if (i + 1 < LENGTH(bad))
            ck_assert_float_eq(x[0], 0);
    }
    refusal(__LINE__, one(taps, (tensor){"l_out-12", F32, {D, 4, 1}, false, x}, 4), SAE_E_ARG, err.text,
            "came with 0 of the batch's 4 rows");
    sae_taps_free(taps);
    sae_plan_free(plan);
}
END_TEST

START_TEST(batches_that_are_refused)
{
    sae_plan *plan = adding(D, 1.0f);
    const sae_tap tap = tap_of("l_out", 1, plan);
    sae_taps *taps = taps_of(&tap, 1);
    static const int32_t mixed[3] = {0, 1, 0}, slot[3] = {0, 1, 0};
    float x[3 * D] = {0};
    sae_taps_batch batch = batch_of(3);
    REFUSED(SAE_E_ARG, "taps is NULL", sae_taps_begin(NULL, &batch, &err));
    REFUSED(SAE_E_ARG, "batch is NULL", sae_taps_begin(taps, NULL, &err));
    REFUSED(SAE_E_ARG, "taps is NULL", sae_taps_end(NULL, &err));
    batch.n_rows = 0;
    REFUSED(SAE_E_ARG, "n_rows = 0", sae_taps_begin(taps, &batch, &err));
    batch = batch_of(3);
    batch.n_layer = 0;
    REFUSED(SAE_E_ARG, "n_layer = 0", sae_taps_begin(taps, &batch, &err));
    batch.n_layer = 1;
    REFUSED(SAE_E_ARG, "l_out of layer 1|layers 0 .. 0", sae_taps_begin(taps, &batch, &err));
    REFUSED(SAE_E_ARG, "l_out of layer 1|layers 0 .. 0", sae_taps_end(taps, &err));
    batch = batch_of(3);
    batch.seq = mixed;
    REFUSED(SAE_E_ARG, "kv_unified", sae_taps_begin(taps, &batch, &err));
    REFUSED(SAE_E_ARG, "kv_unified", sae_taps_end(taps, &err));
    batch.unified = SAE_YES;
    batch.slot = slot;
    ACCEPTED(sae_taps_begin(taps, &batch, &err));
    REFUSED(SAE_E_BUSY, "a batch is open", sae_taps_begin(taps, &batch, &err));
    REFUSED(SAE_E_BUSY, "a batch is open", sae_taps_end(taps, &err)); /* whose rows they were cannot be told any more */
    ACCEPTED(sae_taps_begin(taps, &batch, &err));
    compute(taps, &(tensor){"l_out-1", F32, {D, 3, 1}, false, x});
    REFUSED(SAE_E_ARG, "slot 1", sae_taps_end(taps, &err));
    ck_assert_float_eq(x[0], 0);
    ACCEPTED(sae_taps_begin(taps, &batch, &err));
    REFUSED(SAE_E_ARG, "the engine asked for no tensor", sae_taps_end(taps, &err));
    sae_taps_free(taps);
    sae_plan_free(plan);
}
END_TEST

START_TEST(rows_that_nobody_announced)
{
    sae_plan *plan = adding(D, 1.0f);
    const sae_tap tap = tap_of("embd", -1, plan);
    sae_taps *taps = taps_of(&tap, 1);
    float x[D] = {0};
    compute(taps, &(tensor){"embd", F32, {D, 1, 1}, false, x});
    compute(taps, &(tensor){"embd-1", F32, {D, 1, 1}, false, x});
    ck_assert_float_eq(x[0], 0);
    ck_assert(counts_of(taps, 0).unannounced == 1 && counts_of(taps, 0).hits == 0 && counts_of(taps, 0).asks == 2);
    sae_tap_counts c = {.struct_size = sizeof c};
    ck_assert_int_eq(sae_taps_count(taps, 1, &c), SAE_E_ARG);
    ck_assert_int_eq(sae_taps_count(taps, -1, &c), SAE_E_ARG);
    ck_assert_int_eq(sae_taps_count(NULL, 0, &c), SAE_E_ARG);
    ck_assert_int_eq(sae_taps_count(taps, 0, NULL), SAE_E_ARG);
    sae_taps_free(taps);
    sae_plan_free(plan);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("taps");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, create_arguments);
    tcase_add_test(all, create_refuses_a_tap);
    tcase_add_test(all, create_without_memory);
    tcase_add_test(all, every_type);
    tcase_add_test(all, pieces_and_outputs);
    tcase_add_test(all, no_rows_at_all);
    tcase_add_test(all, codes);
    tcase_add_test(all, tensors_that_are_refused);
    tcase_add_test(all, batches_that_are_refused);
    tcase_add_test(all, rows_that_nobody_announced);
    suite_add_tcase(suite, all);
    return run_suite(suite);
}
