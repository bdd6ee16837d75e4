/* sae/steer.h as a program sees it: every function, every status. What the operations compute is in test_properties.c. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/support.h"
#include "support/run.h"

enum { D = 12, N = 2000, ROWS = 70 }; /* more rows than one block, more features than one tile */

static sae_error err;
static heap counted;
static sae_env *env;
static planted p;
static sae_model *model;
static float *x;
static float direction[D];

static void setup(void)
{
    env = counted_env(&counted);
    planted_make(&p, (sae_weights){.arch = SAE_STANDARD, .dtype = SAE_F32, .d_in = D, .d_sae = N, .k = 5}, 1);
    model = planted_model(&p, env);
    x = planted_rows(&p, ROWS, 1);
    for (int k = 0; k < D; k++)
        direction[k] = (float)(k - 3);
}

static void teardown(void)
{
    sae_model_free(model);
    sae_env_free(env);
    free(x);
    planted_free(&p);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), 0);
}

static sae_edit feature_edit(sae_op op, int32_t feature, float value)
{
    return (sae_edit){.struct_size = sizeof(sae_edit), .op = op, .value = value, .model = model, .feature = feature};
}

static sae_edit vector_edit(sae_op op, float value)
{
    return (sae_edit){.struct_size = sizeof(sae_edit), .op = op, .value = value, .vector = direction};
}

/* ---- compile ---- */

START_TEST(names)
{
    static const char *const ops[] = {"unknown", "add", "set", "scale", "min", "max", "ablate", "unknown"};
    static const char *const units[] = {"raw", "unit", "max_act", "unknown"};
    for (sae_op op = 0; op < (sae_op)LENGTH(ops); op++)
        ck_assert_str_eq(sae_op_name(op), ops[op]);
    for (sae_unit unit = 0; unit < (sae_unit)LENGTH(units); unit++)
        ck_assert_str_eq(sae_unit_name(unit), units[unit]);
    ck_assert_str_eq(sae_op_name(-1), "unknown");
    ck_assert_str_eq(sae_unit_name(-1), "unknown");
}
END_TEST

START_TEST(compile_arguments)
{
    sae_plan *plan = (sae_plan *)&err;
    const sae_edit edit = feature_edit(SAE_SET, 3, 1.0f);
    REFUSED(SAE_E_ARG, "out is NULL", sae_plan_compile(NULL, env, D, 1, &edit, 1, &err));
    REFUSED(SAE_E_ARG, "env is NULL", sae_plan_compile(&plan, NULL, D, 1, &edit, 1, &err));
    ck_assert_ptr_null(plan);
    REFUSED(SAE_E_ARG, "edits is NULL|n_edits = 2", sae_plan_compile(&plan, env, D, 1, NULL, 2, &err));
    REFUSED(SAE_E_ARG, "d = 0", sae_plan_compile(&plan, env, 0, 1, &edit, 1, &err));
    REFUSED(SAE_E_ARG, "n_slots = 0", sae_plan_compile(&plan, env, D, 0, &edit, 1, &err));
    REFUSED(SAE_E_ARG, "n_slots = -4", sae_plan_compile(&plan, env, D, -4, &edit, 1, &err));
    REFUSED(SAE_E_ARG, "n_edits = -1", sae_plan_compile(&plan, env, D, 1, &edit, -1, &err));
    REFUSED(SAE_E_ARG, "n_edits = 9000000000000000000", sae_plan_compile(&plan, env, D, 1, &edit, 9000000000000000000, &err));
    ck_assert_ptr_null(plan);
    ACCEPTED(sae_plan_compile(&plan, env, D, 3, NULL, 0, &err)); /* no edits at all */
    ck_assert_int_eq(sae_plan_slots(plan), 3);
    ck_assert_int_eq(sae_plan_d(plan), D);
    ck_assert_uint_gt(sae_plan_scratch_bytes(plan), 0);
    sae_plan_free(plan);
    ck_assert_int_eq(sae_plan_slots(NULL), 0);
    ck_assert_int_eq(sae_plan_d(NULL), 0);
    ck_assert_uint_eq(sae_plan_scratch_bytes(NULL), 0);
    sae_plan_free(NULL);
}
END_TEST

/* What is wrong with edit 1 of 3. */
static const struct {
    sae_status status;
    const char *words;
    bool of_vector;
    sae_edit change; /* 4-byte fields that are not 0 replace the good ones */
    size_t zero;     /* this field becomes 0 */
    size_t zero_bytes;
} defects[] = {
    {SAE_E_ARG, "slot = 2|0 .. 1", false, {.slot = 2}, 0, 0},
    {SAE_E_ARG, "slot = -1", false, {.slot = -1}, 0, 0},
    {SAE_E_ARG, "op = 0", false, {0}, offsetof(sae_edit, op), 4},
    {SAE_E_ARG, "op = 7", false, {.op = 7}, 0, 0},
    {SAE_E_ARG, "unit = 3", false, {.unit = 3}, 0, 0},
    {SAE_E_ARG, "unit = -1", false, {.unit = -1}, 0, 0},
    {SAE_E_ARG, "unit = 1|scale", false, {.op = SAE_SCALE, .unit = SAE_UNIT_UNIT}, 0, 0},
    {SAE_E_ARG, "unit = 2|ablate", false, {.op = SAE_ABLATE, .unit = SAE_UNIT_MAX_ACT, .max_act = 1.0f}, 0, 0},
    {SAE_E_ARG, "value = inf", false, {.value = INFINITY}, 0, 0},
    {SAE_E_ARG, "value|nan", false, {.value = NAN}, 0, 0},
    {SAE_E_ARG, "max_act = 0", false, {.unit = SAE_UNIT_MAX_ACT}, 0, 0},
    {SAE_E_ARG, "max_act = -1", false, {.unit = SAE_UNIT_MAX_ACT, .max_act = -1.0f}, 0, 0},
    {SAE_E_ARG, "max_act|inf", false, {.unit = SAE_UNIT_MAX_ACT, .max_act = INFINITY}, 0, 0},
    {SAE_E_ARG, "feature = 2000|1999", false, {.feature = N}, 0, 0},
    {SAE_E_ARG, "feature = -1", false, {.feature = -1}, 0, 0},
    {SAE_E_ARG, "reserved = 1", false, {.reserved = 1}, 0, 0},
    {SAE_E_ARG, "neither a model nor a vector", false, {0}, offsetof(sae_edit, model), sizeof(void *)},
    {SAE_E_ARG, "max_act", true, {.unit = SAE_UNIT_MAX_ACT, .max_act = 1.0f}, 0, 0},
};

START_TEST(compile_refuses)
{
    sae_edit edits[] = {feature_edit(SAE_SET, 3, 1.0f), feature_edit(SAE_SET, 4, 1.0f), vector_edit(SAE_ADD, 1.0f)};
    sae_plan *plan = (sae_plan *)&err;
    const long live = atomic_load(&counted.live_blocks);
    if (defects[_i].of_vector)
        edits[1] = vector_edit(SAE_ADD, 1.0f);
    for (size_t at = 4; at < sizeof(sae_edit); at += 4) {
        static const unsigned char zero[4];
        const unsigned char *from = (const unsigned char *)&defects[_i].change + at;
        if (memcmp(from, zero, 4))
            memcpy((unsigned char *)(edits + 1) + at, from, 4);
    }
    memset((unsigned char *)(edits + 1) + defects[_i].zero, 0, defects[_i].zero_bytes);
    edits[1].struct_size = sizeof *edits;
    REFUSED(defects[_i].status, "edits[1]", sae_plan_compile(&plan, env, D, 2, edits, 3, &err));
    refusal(__LINE__, SAE_E_ARG, SAE_E_ARG, err.text, defects[_i].words);
    ck_assert_ptr_null(plan);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), live);
}
END_TEST

START_TEST(compile_vectors_and_shapes)
{
    sae_plan *plan = (sae_plan *)&err;
    sae_edit both = feature_edit(SAE_SET, 3, 1.0f);
    both.vector = direction;
    REFUSED(SAE_E_ARG, "edits[0]|model and a vector", sae_plan_compile(&plan, env, D, 1, &both, 1, &err));
    static const float bad[] = {0.0f, NAN, INFINITY};
    for (size_t b = 0; b < LENGTH(bad); b++) {
        float v[D] = {0};
        v[2] = bad[b];
        sae_edit e = vector_edit(SAE_ADD, 1.0f);
        e.vector = v;
        REFUSED(SAE_E_ARG, "edits[0]|vector has length", sae_plan_compile(&plan, env, D, 1, &e, 1, &err));
    }
    const sae_edit e = feature_edit(SAE_SET, 3, 1.0f);
    REFUSED(SAE_E_SHAPE, "edits[0]|d_in = 12|13", sae_plan_compile(&plan, env, D + 1, 1, &e, 1, &err));
    ck_assert_ptr_null(plan);

    planted q;
    planted_make(&q, (sae_weights){.arch = SAE_STANDARD, .dtype = SAE_F32, .d_in = D, .d_sae = 20, .d_out = 15}, 1);
    sae_model *transcoder = planted_model(&q, env);
    sae_edit t = feature_edit(SAE_SET, 3, 1.0f);
    t.model = transcoder;
    REFUSED(SAE_E_SHAPE, "edits[0]|d_out = 15", sae_plan_compile(&plan, env, D, 1, &t, 1, &err));
    sae_model_free(transcoder);
    planted_free(&q);

    planted_make(&q, (sae_weights){.arch = SAE_STANDARD, .dtype = SAE_F32, .d_in = D, .d_sae = 20}, 1);
    memset((unsigned char *)q.blocks[1] + 1 + 5 * D * sizeof(float), 0, D * sizeof(float)); /* feature 5 writes nothing */
    const float nan = NAN;
    memcpy((unsigned char *)q.blocks[1] + 1 + 6 * D * sizeof(float), &nan, sizeof nan);
    memcpy((unsigned char *)q.blocks[0] + 1 + 7 * sizeof(float), &nan, sizeof nan);
    sae_model *odd = planted_model(&q, env);
    sae_edit u = {.struct_size = sizeof u, .op = SAE_ADD, .unit = SAE_UNIT_UNIT, .value = 1.0f, .model = odd, .feature = 5};
    REFUSED(SAE_E_ARG, "edits[0]|feature 5|length 0", sae_plan_compile(&plan, env, D, 1, &u, 1, &err));
    u.unit = SAE_UNIT_RAW;
    ACCEPTED(sae_plan_compile(&plan, env, D, 1, &u, 1, &err));
    sae_plan_free(plan);
    u.feature = 6;
    REFUSED(SAE_E_FORMAT, "edits[0]|W_dec of feature 6", sae_plan_compile(&plan, env, D, 1, &u, 1, &err));
    u.feature = 7; /* an add does not read the encoder, the others do */
    ACCEPTED(sae_plan_compile(&plan, env, D, 1, &u, 1, &err));
    sae_plan_free(plan);
    u.op = SAE_SET;
    REFUSED(SAE_E_FORMAT, "W_enc of feature 7", sae_plan_compile(&plan, env, D, 1, &u, 1, &err));
    ck_assert_ptr_null(plan);
    sae_model_free(odd);
    planted_free(&q);
}
END_TEST

/* An older caller's edits are shorter, a newer one's longer: the array steps by the size they state. */
START_TEST(compile_other_sizes)
{
    const sae_edit good[] = {feature_edit(SAE_SET, 3, 1.0f), feature_edit(SAE_ABLATE, 4, 0.0f)};
    sae_plan *plan = (sae_plan *)&err;
    for (size_t size = 0; size <= sizeof *good + 32; size += 8) {
        unsigned char *array = calloc(2, size ? size : 8);
        ck_assert_ptr_nonnull(array);
        const uint32_t struct_size = (uint32_t)size;
        for (size_t i = 0; i < 2; i++) {
            memcpy(array + i * size, good + i, size < sizeof *good ? size : sizeof *good);
            memcpy(array + i * size, &struct_size, sizeof struct_size);
        }
        const sae_edit *edits = (const sae_edit *)(const void *)array;
        if (size <= offsetof(sae_edit, model)) {
            ck_assert_int_eq(sae_plan_compile(&plan, env, D, 1, edits, 2, &err), SAE_E_ARG);
            ck_assert_ptr_null(plan);
        } else {
            ACCEPTED(sae_plan_compile(&plan, env, D, 1, edits, 2, &err));
            sae_plan_free(plan);
        }
        if (size > sizeof *good) {
            array[2 * size - 1] = 1;
            REFUSED(SAE_E_VERSION, "edits[1]|sae_edit", sae_plan_compile(&plan, env, D, 1, edits, 2, &err));
            ck_assert_ptr_null(plan);
        }
        free(array);
    }
    sae_edit mixed[] = {good[0], good[1]};
    mixed[1].struct_size = sizeof *mixed - 8;
    REFUSED(SAE_E_ARG, "edits[1]|struct_size", sae_plan_compile(&plan, env, D, 1, mixed, 2, &err));
}
END_TEST

START_TEST(compile_without_memory)
{
    const sae_edit e = feature_edit(SAE_SET, 3, 1.0f);
    sae_plan *plan = (sae_plan *)&err;
    atomic_store(&counted.fail_at, atomic_load(&counted.asked));
    REFUSED(SAE_E_NOMEM, "1 edits|bytes", sae_plan_compile(&plan, env, D, 1, &e, 1, &err));
    ck_assert_ptr_null(plan);
}
END_TEST

/* ---- apply ---- */

typedef struct steered {
    sae_plan *plan;
    void *scratch;
    size_t bytes;
} steered;

static steered compile(int32_t n_slots, const sae_edit *edits, int64_t n)
{
    steered s;
    ACCEPTED(sae_plan_compile(&s.plan, env, D, n_slots, edits, n, &err));
    s.bytes = sae_plan_scratch_bytes(s.plan);
    s.scratch = malloc(s.bytes);
    ck_assert_ptr_nonnull(s.scratch);
    return s;
}

static void end(steered *s)
{
    sae_plan_free(s->plan);
    free(s->scratch);
}

START_TEST(apply_arguments)
{
    const sae_edit edits[] = {feature_edit(SAE_SET, 3, 1.0f),
                              {.struct_size = sizeof(sae_edit), .slot = 1, .op = SAE_ADD, .value = 1.0f, .vector = direction}};
    steered s = compile(2, edits, 2);
    float *before = malloc(ROWS * D * sizeof *before);
    memcpy(before, x, ROWS * D * sizeof *x);
    const sae_rows good = rows_plain(x, ROWS, D);
    sae_rows r = good;
    REFUSED(SAE_E_ARG, "plan is NULL", sae_plan_apply(NULL, &r, s.scratch, s.bytes, &err));
    REFUSED(SAE_E_ARG, "rows are NULL", sae_plan_apply(s.plan, NULL, s.scratch, s.bytes, &err));
    REFUSED(SAE_E_ARG, "scratch is NULL", sae_plan_apply(s.plan, &r, NULL, s.bytes, &err));
    REFUSED(SAE_E_CAPACITY, "scratch has", sae_plan_apply(s.plan, &r, s.scratch, s.bytes - 1, &err));
    REFUSED(SAE_E_CAPACITY, "scratch has 0 bytes", sae_plan_apply(s.plan, &r, s.scratch, 0, &err));
    r.dtype = 9;
    REFUSED(SAE_E_ARG, "sae_rows.dtype = 9", sae_plan_apply(s.plan, &r, s.scratch, s.bytes, &err));
    r = good;
    r.n_rows = -3;
    REFUSED(SAE_E_ARG, "n_rows = -3", sae_plan_apply(s.plan, &r, s.scratch, s.bytes, &err));
    r = good;
    r.x = NULL;
    REFUSED(SAE_E_ARG, "NULL", sae_plan_apply(s.plan, &r, s.scratch, s.bytes, &err));
    r = good;
    r.stride_bytes = 47;
    REFUSED(SAE_E_ARG, "stride_bytes = 47|48", sae_plan_apply(s.plan, &r, s.scratch, s.bytes, &err));
    int32_t slots[ROWS] = {0}; /* one bad slot, late: no row may have been changed */
    r = good;
    r.slot = slots;
    static const int32_t bad[] = {2, -2, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < LENGTH(bad); i++) {
        slots[ROWS - 1] = bad[i];
        REFUSED(SAE_E_ARG, "row 69|slot|0 .. 1", sae_plan_apply(s.plan, &r, s.scratch, s.bytes, &err));
    }
    for (size_t size = 0; size <= sizeof good + 16; size++) {
        void *other;
        if (size > 4 && size <= sizeof good)
            continue;
        other = resized(&good, sizeof good, size, 1);
        REFUSED(size <= 4 ? SAE_E_ARG : SAE_E_VERSION, "sae_rows", sae_plan_apply(s.plan, other, s.scratch, s.bytes, &err));
        free(other);
    }
    ck_assert_mem_eq(x, before, ROWS * D * sizeof *x);
    r = rows_plain(NULL, 0, D);
    ACCEPTED(sae_plan_apply(s.plan, &r, s.scratch, s.bytes, &err));
    void *older = resized(&good, sizeof good, offsetof(sae_rows, slot), 0); /* a caller without the field: slot 0 for all */
    ACCEPTED(sae_plan_apply(s.plan, older, s.scratch, s.bytes, &err));
    ck_assert_mem_ne(x, before, ROWS * D * sizeof *x);
    free(older);
    free(before);
    end(&s);
}
END_TEST

/* The scratch needs no alignment, and not a byte beside it is written. */
START_TEST(apply_scratch)
{
    p.weights.arch = SAE_TOPK;
    sae_model *topk = planted_model(&p, env);
    sae_edit edits[] = {feature_edit(SAE_SET, 3, 1.0f), vector_edit(SAE_MIN, 1.0f), feature_edit(SAE_SCALE, 4, 3.0f)};
    edits[2].model = topk;
    steered s = compile(1, edits, LENGTH(edits));
    float *want = malloc(ROWS * D * sizeof *want), *got = malloc(ROWS * D * sizeof *got);
    memcpy(want, x, ROWS * D * sizeof *x);
    sae_rows rows = rows_plain(want, ROWS, D);
    ACCEPTED(sae_plan_apply(s.plan, &rows, s.scratch, s.bytes, &err));
    unsigned char *block = malloc(s.bytes + 128);
    for (size_t offset = 0; offset < 66; offset++) {
        memset(block, 0xee, s.bytes + 128);
        memcpy(got, x, ROWS * D * sizeof *x);
        rows = rows_plain(got, ROWS, D);
        ACCEPTED(sae_plan_apply(s.plan, &rows, block + offset, s.bytes, &err));
        ck_assert_mem_eq(got, want, ROWS * D * sizeof *x);
        for (size_t i = 0; i < s.bytes + 128; i++)
            if (block[i] != 0xee && (i < offset || i >= offset + s.bytes))
                ck_abort_msg("offset %zu: byte %zu was written", offset, i);
    }
    free(block);
    free(want);
    free(got);
    end(&s);
    sae_model_free(topk);
}
END_TEST

START_TEST(apply_any_rows)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    const sae_edit edits[] = {feature_edit(SAE_SET, 3, 2.0f), feature_edit(SAE_ADD, 9, 0.5f), vector_edit(SAE_ABLATE, 0.0f)};
    steered s = compile(1, edits, 3);
    float *want = malloc(ROWS * D * sizeof *want), *got = malloc(ROWS * D * sizeof *got);
    memcpy(want, x, ROWS * D * sizeof *x);
    const sae_rows plain = rows_plain(want, ROWS, D);
    ACCEPTED(sae_plan_apply(s.plan, &plain, s.scratch, s.bytes, &err));
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (size_t gap = 0; gap < 4; gap++)
            for (int backwards = 0; backwards < 2; backwards++) {
                void *block;
                const sae_rows rows = rows_make(&block, x, dtypes[t], ROWS, D, gap, backwards);
                ACCEPTED(sae_plan_apply(s.plan, &rows, s.scratch, s.bytes, &err));
                rows_load(got, &rows, D);
                for (int k = 0; k < ROWS * D; k++) { /* computed in f32, rounded once */
                    uint32_t h = 0;
                    element_store(&h, dtypes[t], (double)want[k]);
                    ck_assert((double)got[k] == element_load(&h, dtypes[t]));
                }
                free(block);
            }
    free(want);
    free(got);
    end(&s);
}
END_TEST

/* The parallel-for of a top-k model fails in the second block: the first is steered, the others are untouched. */
START_TEST(apply_host_fails)
{
    int left = 1 << 30;
    p.weights.arch = SAE_TOPK;
    sae_env *e = env_make(&counted, SAE_ISA_AUTO, run_failing, &left, 1);
    sae_model *topk = planted_model(&p, e);
    sae_edit edit = feature_edit(SAE_SET, 3, 2.0f);
    edit.model = topk;
    steered s = compile(1, &edit, 1);
    float *want = malloc(ROWS * D * sizeof *want), *got = malloc(ROWS * D * sizeof *got);
    memcpy(want, x, ROWS * D * sizeof *x);
    memcpy(got, x, ROWS * D * sizeof *x);
    sae_rows rows = rows_plain(want, ROWS, D);
    ACCEPTED(sae_plan_apply(s.plan, &rows, s.scratch, s.bytes, &err));
    left = 1; /* blocks of the encode hold 16 rows */
    rows = rows_plain(got, ROWS, D);
    REFUSED(SAE_E_HOST, "parallel-for|top-k", sae_plan_apply(s.plan, &rows, s.scratch, s.bytes, &err));
    ck_assert_mem_eq(got, want, 16 * D * sizeof *x);
    ck_assert_mem_ne(got, x, 16 * D * sizeof *x);
    ck_assert_mem_eq(got + 16 * D, x + 16 * D, (ROWS - 16) * D * sizeof *x);
    free(want);
    free(got);
    end(&s);
    sae_model_free(topk);
    sae_env_free(e);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api steer");
    TCase *tc = tcase_create("steer");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, names);
    tcase_add_test(tc, compile_arguments);
    tcase_add_loop_test(tc, compile_refuses, 0, LENGTH(defects));
    tcase_add_test(tc, compile_vectors_and_shapes);
    tcase_add_test(tc, compile_other_sizes);
    tcase_add_test(tc, compile_without_memory);
    tcase_add_test(tc, apply_arguments);
    tcase_add_test(tc, apply_scratch);
    tcase_add_test(tc, apply_any_rows);
    tcase_add_test(tc, apply_host_fails);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
