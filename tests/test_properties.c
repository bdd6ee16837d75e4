/* What must hold for every model and row: answers to the bit of the contract's own words, the same bits however they are computed, and the
 * laws of selection, decoding and steering. Sees only <sae.h>. */
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/support.h"
#include "support/run.h"

/* N is K groups of one size. */
enum { D = 37, N = 1602, K = 18, PLAIN = 9, ROWS = 13, N_PROBED = 19, N_PAIRS = 4, N_NEAR = 6 };

/* The sanitizer of threads makes all else ten times slower, and has nothing to say of it. */
#ifdef __SANITIZE_THREAD__
enum { THREADS_ALONE = 1 };
#else
enum { THREADS_ALONE = 0 };
#endif

static sae_error err;

/* ---- models and rows ---- */

typedef struct kind {
    const char *name;
    sae_weights shape;
} kind;

#define KIND_OF(rounds, ...)                                              \
    {                                                                     \
        .dtype = SAE_F32, .d_in = D, .d_sae = N, .k = rounds, __VA_ARGS__ \
    }
#define KIND(...) KIND_OF(K, __VA_ARGS__)
#define PURSUIT(...) KIND_OF(4, .arch = SAE_MATCHING_PURSUIT, __VA_ARGS__) /* each round is an encode */

static const kind kinds[] = {
    {"standard", KIND(.arch = SAE_STANDARD)},
    {"jumprelu, b_dec applied", KIND(.arch = SAE_JUMPRELU, .flags = SAE_APPLY_B_DEC)},
    {"top-k", KIND(.arch = SAE_TOPK)},
    {"top-k by decoder norm", KIND(.arch = SAE_TOPK, .flags = SAE_RESCALE_BY_DECODER_NORM | SAE_APPLY_B_DEC)},
    {"gated", KIND(.arch = SAE_GATED, .flags = SAE_APPLY_B_DEC)},
    {"standard, scaled", KIND(.arch = SAE_STANDARD, .norm = SAE_NORM_SCALE, .norm_scaling_factor = 0.37f)},
    {"jumprelu, constant norm", KIND(.arch = SAE_JUMPRELU, .norm = SAE_NORM_CONSTANT)},
    {"top-k, layer norm", KIND(.arch = SAE_TOPK, .norm = SAE_NORM_LAYER, .flags = SAE_APPLY_B_DEC)},
    {"jumprelu, negative codes", KIND(.arch = SAE_JUMPRELU, .flags = SAE_KEEP_NEGATIVE)},
    {"top-k, negative codes", KIND(.arch = SAE_TOPK, .flags = SAE_KEEP_NEGATIVE)},
    {"top-k by decoder norm, unscaled", KIND(.arch = SAE_TOPK, .flags = SAE_RESCALE_BY_DECODER_NORM | SAE_RETURN_UNSCALED)},
    {"abs-top-k", KIND(.arch = SAE_ABSTOPK, .flags = SAE_APPLY_B_DEC)},
    {"groupmax", KIND(.arch = SAE_GROUPMAX)},
    {"matching pursuit", PURSUIT(.residual_threshold = 0.5f)},
    {"matching pursuit, stops on repeat", PURSUIT(.flags = SAE_STOP_ON_REPEAT | SAE_APPLY_B_DEC)},
    {"skip, layer norm of the input", KIND(.arch = SAE_STANDARD, .norm = SAE_NORM_LAYER, .flags = SAE_NORM_IN_ONLY, .w_skip = &err)},
};
enum { N_KINDS = LENGTH(kinds) };

/* PLAIN rows of the model's kind, exact in every dtype; then zero, denormals, values that overflow, a NaN. */
static float *rows_of(const planted *p)
{
    float *x = planted_rows(p, ROWS, 5);
    for (int k = 0; k < D; k++) {
        x[PLAIN * D + k] = 0.0f;
        x[(PLAIN + 1) * D + k] = (float)(k - 18) * 0x1p-140f;
        x[(PLAIN + 2) * D + k] *= 1e38f;
        x[(PLAIN + 3) * D + k] = k == 20 ? NAN : x[(PLAIN + 3) * D + k];
    }
    return x;
}

static bool same_floats(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i])))
            return false;
    return true;
}

/* ---- all that can be asked of a model, for some rows ---- */

typedef struct outcome {
    sae_codes codes;
    int64_t nonfinite;
    float dense[ROWS * N];
    float y[ROWS * D], output[ROWS * D], error[ROWS];
    double fvu;
    float probe[ROWS * N_PROBED], pre[ROWS * N_PROBED];
    float steered[ROWS * D];
    int32_t near[2][N_NEAR];
    float cosines[2][N_NEAR];
    float pairs[3][N_PAIRS * N_PAIRS];
} outcome;

static int32_t probed(size_t i)
{
    return (int32_t)(i * 331 % N);
}

static void observe_codec(outcome *o, sae_model *model, const sae_rows *x, int32_t max_rows)
{
    sae_ctx *ctx = ctx_make(model, max_rows);
    sae_probe *probe;
    int32_t features[N_PROBED];
    const sae_rows y = rows_plain(o->y, x->n_rows, D), output = rows_plain(o->output, x->n_rows, D);
    sae_info info = {.struct_size = sizeof info};
    ck_assert_int_eq(sae_model_info(model, &info), SAE_OK);
    o->codes = codes_of(ctx, x);
    o->nonfinite = sae_ctx_nonfinite(ctx);
    CTX_ACCEPTED(ctx, sae_encode_dense(ctx, o->dense, 0, x));
    CTX_ACCEPTED(ctx, sae_decode(ctx, &y, &o->codes));
    CTX_ACCEPTED(ctx, sae_forward(ctx, &output, x));
    if (info.has_skip == SAE_NO)
        CTX_ACCEPTED(ctx, sae_measure(ctx, o->error, &o->fvu, x, &o->codes));
    else
        CTX_REFUSED(SAE_E_UNSUPPORTED, "skip|sae_forward", ctx, sae_measure(ctx, o->error, &o->fvu, x, &o->codes));
    for (size_t i = 0; i < N_PROBED; i++)
        features[i] = probed(i);
    ACCEPTED(sae_probe_create(&probe, model, features, N_PROBED, &err));
    CTX_ACCEPTED(ctx, sae_probe_run(probe, ctx, o->probe, 0, x, 0));
    CTX_ACCEPTED(ctx, sae_probe_run(probe, ctx, o->pre, 0, x, SAE_PROBE_PRE));
    sae_probe_free(probe);
    sae_ctx_free(ctx);
}

/* Edits of every operation, for features and a vector. */
static size_t many_edits(sae_edit edits[16], sae_model *model, const float *vector)
{
    static const sae_op ops[] = {SAE_ADD, SAE_SET, SAE_SCALE, SAE_MIN, SAE_MAX, SAE_ABLATE};
    size_t n = 0;
    for (size_t i = 0; i < LENGTH(ops); i++) {
        edits[n++] = (sae_edit){.struct_size = sizeof *edits, .op = ops[i], .value = 0.75f, .model = model, .feature = probed(i)};
        edits[n++] = (sae_edit){.struct_size = sizeof *edits, .slot = (int32_t)i % 2, .op = ops[i], .value = -0.5f, .vector = vector};
    }
    return n;
}

static void steer(float *x, int64_t n_rows, const int32_t *slot, sae_env *env, int32_t n_slots, const sae_edit *edits, size_t n)
{
    sae_plan *plan;
    ACCEPTED(sae_plan_compile(&plan, env, D, n_slots, edits, (int64_t)n, &err));
    const size_t bytes = sae_plan_scratch_bytes(plan);
    void *scratch = malloc(bytes);
    sae_rows rows = rows_plain(x, n_rows, D);
    rows.slot = slot;
    ck_assert_ptr_nonnull(scratch);
    ACCEPTED(sae_plan_apply(plan, &rows, scratch, bytes, &err));
    free(scratch);
    sae_plan_free(plan);
}

static void observe_steering(outcome *o, sae_env *env, sae_model *model, const sae_rows *x)
{
    sae_edit edits[16];
    float vector[D];
    int32_t slots[ROWS];
    for (int k = 0; k < D; k++)
        vector[k] = (float)(k % 5) - 1.75f;
    for (int r = 0; r < ROWS; r++)
        slots[r] = r % 3 - 1;
    rows_load(o->steered, x, D);
    steer(o->steered, x->n_rows, slots, env, 2, edits, many_edits(edits, model, vector));
}

static void observe_distances(outcome *o, sae_model *model)
{
    static const int32_t features[N_PAIRS] = {3, 6, 1600, 900};
    for (int32_t side = SAE_BY_DECODER; side <= SAE_BY_ENCODER; side++) {
        sae_index *index;
        ACCEPTED(sae_index_create(&index, model, side, &err));
        const size_t bytes = sae_index_scratch_bytes(index);
        void *scratch = malloc(bytes);
        sae_neighbors out = {.struct_size = sizeof out, .k = N_NEAR, .features = o->near[side - 1], .cosines = o->cosines[side - 1]};
        ck_assert_ptr_nonnull(scratch);
        ACCEPTED(sae_index_nearest_feature(index, &out, 123, scratch, bytes, &err));
        ck_assert_int_eq(out.n, N_NEAR);
        for (int32_t measure = SAE_COSINE; side == SAE_BY_DECODER && measure <= SAE_L2; measure++)
            ACCEPTED(sae_index_pairs(index, o->pairs[measure - 1], measure, features, N_PAIRS, scratch, bytes, &err));
        free(scratch);
        sae_index_free(index);
    }
}

static outcome *observe(const planted *p, sae_env *env, uint32_t form, const sae_rows *x, int32_t max_rows)
{
    outcome *o = calloc(1, sizeof *o);
    sae_model *model = planted_model(p, env);
    ck_assert_ptr_nonnull(o);
    ACCEPTED(sae_model_prepare(model, form, &err));
    observe_codec(o, model, x, max_rows);
    observe_steering(o, env, model, x);
    observe_distances(o, model);
    sae_model_free(model);
    return o;
}

static void outcome_free(outcome *o)
{
    codes_free(&o->codes);
    free(o);
}

static void check_same(const outcome *a, const outcome *b, const char *what)
{
    ck_assert_msg(a->nonfinite == b->nonfinite, "%s: non-finite", what);
    const size_t rows = (size_t)a->codes.n_rows;
    ck_assert_msg(!memcmp(a->codes.indptr, b->codes.indptr, (rows + 1) * sizeof(int64_t)), "%s: indptr", what);
    const size_t n = (size_t)a->codes.indptr[rows];
    ck_assert_msg(!memcmp(a->codes.indices, b->codes.indices, n * sizeof(int32_t)), "%s: indices", what);
    ck_assert_msg(!memcmp(a->codes.values, b->codes.values, n * sizeof(float)), "%s: values", what);
    ck_assert_msg(same_floats(a->codes.row_scale, b->codes.row_scale, rows), "%s: row_scale", what);
    ck_assert_msg(same_floats(a->codes.row_shift, b->codes.row_shift, rows), "%s: row_shift", what);
    ck_assert_msg(!memcmp(a->dense, b->dense, sizeof a->dense), "%s: dense", what);
    ck_assert_msg(same_floats(a->y, b->y, ROWS * D), "%s: decode", what);
    ck_assert_msg(same_floats(a->output, b->output, ROWS * D), "%s: forward", what);
    ck_assert_msg(same_floats(a->error, b->error, ROWS), "%s: error", what);
    ck_assert_msg(!memcmp(&a->fvu, &b->fvu, sizeof a->fvu) || (isnan(a->fvu) && isnan(b->fvu)), "%s: fvu", what);
    ck_assert_msg(!memcmp(a->probe, b->probe, sizeof a->probe), "%s: probe", what);
    ck_assert_msg(same_floats(a->pre, b->pre, LENGTH(a->pre)), "%s: pre-activations", what);
    ck_assert_msg(same_floats(a->steered, b->steered, ROWS * D), "%s: steering", what);
    ck_assert_msg(!memcmp(a->near, b->near, sizeof a->near), "%s: neighbours", what);
    ck_assert_msg(!memcmp(a->cosines, b->cosines, sizeof a->cosines), "%s: cosines", what);
    ck_assert_msg(!memcmp(a->pairs, b->pairs, sizeof a->pairs), "%s: pairs", what);
}

/* ---- the contract's words, to the bit ---- */

START_TEST(answers_to_the_bit)
{
    planted p;
    planted_make(&p, kinds[_i].shape, 7);
    float *x = rows_of(&p), *dense = malloc(N * sizeof *dense), *pre = malloc(N * sizeof *pre), y[D], scale, shift;
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_isa isas[8];
    for (size_t n = isas_available(isas), i = 0; i < n; i++) {
        sae_env *env = env_make(NULL, isas[i], NULL, NULL, 0);
        outcome *o = observe(&p, env, 0, &rows, 64);
        int64_t active = 0, nonfinite = 0;
        for (int64_t r = 0; r < ROWS; r++) {
            nonfinite += answer_encode(&p, x + r * D, dense, pre, &scale, &shift);
            ck_assert_msg(!memcmp(o->dense + r * N, dense, N * sizeof *dense), "%s: row %d", sae_isa_name(isas[i]), (int)r);
            ck_assert(same_floats(&scale, o->codes.row_scale + r, 1) && same_floats(&shift, o->codes.row_shift + r, 1));
            int64_t at = o->codes.indptr[r];
            for (int32_t j = 0; j < N; j++) {
                if (dense[j] == 0.0f)
                    continue;
                ck_assert_int_lt(at, o->codes.indptr[r + 1]);
                ck_assert_int_eq(o->codes.indices[at], j);
                ck_assert_mem_eq(o->codes.values + at, dense + j, sizeof *dense);
                at++;
                active++;
            }
            ck_assert_int_eq(at, o->codes.indptr[r + 1]);
            for (size_t f = 0; f < N_PROBED; f++) {
                ck_assert_mem_eq(o->probe + r * N_PROBED + f, dense + probed(f), sizeof *dense);
                ck_assert(same_floats(o->pre + r * N_PROBED + f, pre + probed(f), 1));
            }
            answer_decode(&p, dense, scale, shift, y);
            ck_assert(same_floats(o->y + r * D, y, D));
            double e = 0.0;
            for (int k = 0; k < D; k++)
                e += ((double)x[r * D + k] - (double)y[k]) * ((double)x[r * D + k] - (double)y[k]);
            const float error = (float)e;
            ck_assert(p.skip || same_floats(o->error + r, &error, 1));
            answer_skip(&p, x + r * D, y);
            ck_assert(same_floats(o->output + r * D, y, D));
        }
        ck_assert_int_gt(active, PLAIN); /* the test tests something */
        ck_assert_int_eq(o->nonfinite, nonfinite);
        ck_assert_int_ge(nonfinite, N);
        outcome_free(o);
        sae_env_free(env);
    }
    free(x);
    free(dense);
    free(pre);
    planted_free(&p);
}
END_TEST

/* How far the double evaluation is from where feature j would change its mind. */
static double margin(const planted *p, const double *dense, double pre, size_t j)
{
    double kth = INFINITY;
    if (p->weights.flags & SAE_KEEP_NEGATIVE || p->weights.arch > SAE_GATED)
        return INFINITY; /* the rows are such that none is near */
    if (p->weights.arch == SAE_JUMPRELU)
        return fabs(pre - fmax(0.0, (double)p->threshold[j]));
    if (p->weights.arch != SAE_TOPK)
        return p->weights.arch == SAE_GATED ? 0.0 : fabs(pre);
    for (size_t i = 0; i < N; i++)
        if (dense[i] > 0.0 && dense[i] < kth)
            kth = dense[i];
    return fmin(fabs(pre), fabs(pre - kth));
}

/* The formulas of sae/model.h, evaluated in double. */
START_TEST(answers_in_double)
{
    planted p;
    planted_make(&p, kinds[_i].shape, 7);
    float *x = rows_of(&p);
    double *dense = malloc(N * sizeof *dense), *pre = malloc(N * sizeof *pre), y[D];
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    outcome *o = observe(&p, env, 0, &rows, 64);
    for (int64_t r = 0; r < PLAIN; r++) {
        const float *got = o->dense + r * N;
        answer_encode_double(&p, x + r * D, dense, pre);
        bool all = true;
        for (size_t j = 0; j < N; j++) {
            if ((got[j] == 0.0f) != (dense[j] == 0.0)) {
                ck_assert_msg(margin(&p, dense, pre[j], j) < 2e-5, "row %d, feature %zu: %g, in double %g", (int)r, j, (double)got[j],
                              dense[j]);
                all = false;
            } else {
                ck_assert_msg(fabs((double)got[j] - dense[j]) <= 1e-5 * (1.0 + fabs(dense[j])), "row %d, feature %zu: %g, in double %g",
                              (int)r, j, (double)got[j], dense[j]);
            }
        }
        answer_decode_double(&p, dense, x + r * D, y);
        for (int k = 0; k < D && all; k++)
            ck_assert_msg(fabs((double)o->y[r * D + k] - y[k]) <= 2e-4 * (1.0 + fabs(y[k])), "row %d, element %d: %g, in double %g", (int)r,
                          k, (double)o->y[r * D + k], y[k]);
    }
    outcome_free(o);
    sae_env_free(env);
    free(x);
    free(dense);
    free(pre);
    planted_free(&p);
}
END_TEST

/* ---- the same bits ---- */

/* Instruction sets x prepared forms x layouts x weight dtypes; batch sizes and row types change along. */
START_TEST(same_bits_in_every_form)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    static const int32_t batches[] = {1, 2, 3, 4, 5, 8, 9, 64};
    planted base;
    sae_isa isas[8];
    const size_t n_isas = isas_available(isas);
    planted_make(&base, kinds[_i].shape, 7);
    float *x = rows_of(&base);
    sae_env *scalar = env_make(NULL, SAE_ISA_SCALAR, NULL, NULL, 0);
    const sae_rows rows = rows_plain(x, ROWS, D);
    outcome *want = observe(&base, scalar, 0, &rows, 64);
    unsigned turn = 0;
    for (uint32_t layout = 0; layout < 4; layout++)
        for (size_t t = 0; t < LENGTH(dtypes); t++) {
            sae_weights shape = kinds[_i].shape;
            planted p;
            shape.dtype = dtypes[t];
            shape.flags |= (layout & 1 ? SAE_W_ENC_BY_ROWS : 0u) | (layout & 2 ? SAE_W_DEC_BY_COLS : 0u) | (turn % 2 ? SAE_BORROW : 0u);
            planted_make(&p, shape, 7);
            for (size_t i = 0; i < n_isas; i++)
                for (uint32_t form = 0; form < 8; form++) {
                    if (dtypes[t] != SAE_F32 && form != 0 && form != 3 && form != 7) /* the other dtypes: stored, all of f32, all */
                        continue;
                    const int32_t max_rows = batches[turn++ % LENGTH(batches)];
                    char what[120];
                    snprintf(what, sizeof what, "%s, %s, %s weights, layout %u, prepared %u, max_rows %d", kinds[_i].name,
                             sae_isa_name(isas[i]), sae_dtype_name(dtypes[t]), (unsigned)layout, (unsigned)form, (int)max_rows);
                    sae_env *env = env_make(NULL, isas[i], NULL, NULL, 0);
                    outcome *got = observe(&p, env, form, &rows, max_rows);
                    check_same(got, want, what);
                    outcome_free(got);
                    sae_env_free(env);
                }
            planted_free(&p);
        }
    outcome_free(want);
    sae_env_free(scalar);
    free(x);
    planted_free(&base);
}
END_TEST

/* Runners of every order, pools of every size, prepared and not. */
START_TEST(same_bits_by_every_runner)
{
    static const uint32_t pool_sizes[] = {1, 2, 3, 7};
    sae_pool *pools[LENGTH(pool_sizes)];
    struct {
        const char *name;
        sae_run_fn run;
        void *user;
        uint32_t workers;
    } runners[8] = {{"forwards", run_forwards, NULL, 1},
                    {"backwards", run_backwards, NULL, 1},
                    {"shuffled", run_shuffled, NULL, 3},
                    {"a thread each", run_thread_each, NULL, THREADS_AT_ONCE}};
    for (size_t i = 0; i < LENGTH(pool_sizes); i++) {
        ACCEPTED(sae_pool_create(pools + i, pool_sizes[i], &err));
        runners[4 + i].name = "pool";
        runners[4 + i].run = sae_pool_run;
        runners[4 + i].user = pools[i];
        runners[4 + i].workers = pool_sizes[i];
    }
    planted p;
    planted_make(&p, kinds[_i].shape, 7);
    float *x = rows_of(&p);
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_env *plain = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    outcome *want = observe(&p, plain, 0, &rows, 64);
    for (size_t i = 0; i < LENGTH(runners); i++)
        for (uint32_t form = 0; form < 8; form++) {
            char what[120];
            snprintf(what, sizeof what, "%s, runner %zu (%s), prepared %u", kinds[_i].name, i, runners[i].name, (unsigned)form);
            sae_env *env = env_make(NULL, SAE_ISA_AUTO, runners[i].run, runners[i].user, runners[i].workers);
            outcome *got = observe(&p, env, form, &rows, 1 + (int32_t)(i * 4 + form) % 13);
            check_same(got, want, what);
            outcome_free(got);
            sae_env_free(env);
        }
    outcome_free(want);
    sae_env_free(plain);
    for (size_t i = 0; i < LENGTH(pool_sizes); i++)
        sae_pool_free(pools[i]);
    free(x);
    planted_free(&p);
}
END_TEST

/* A row's codes do not depend on the rows around it, nor on the type it came in. */
START_TEST(same_bits_in_every_batch)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    planted p;
    planted_make(&p, kinds[_i].shape, 7);
    float *x = rows_of(&p);
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    sae_model *model = planted_model(&p, env);
    sae_ctx *ctx = ctx_make(model, 64);
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_codes want = codes_of(ctx, &rows);
    for (int64_t first = 0; first < ROWS; first++)
        for (int64_t n = 1; n <= ROWS - first; n++) {
            const sae_rows part = rows_plain(x + first * D, n, D);
            sae_codes got = codes_of(ctx, &part);
            const int64_t from = want.indptr[first];
            for (int64_t r = 0; r <= n; r++)
                ck_assert_int_eq(got.indptr[r], want.indptr[first + r] - from);
            ck_assert_mem_eq(got.indices, want.indices + from, (size_t)got.indptr[n] * sizeof(int32_t));
            ck_assert_mem_eq(got.values, want.values + from, (size_t)got.indptr[n] * sizeof(float));
            codes_free(&got);
        }
    for (size_t t = 0; t < LENGTH(dtypes); t++) {
        void *block;
        const sae_rows other = rows_make(&block, x, dtypes[t], PLAIN, D, t, t == 1);
        sae_codes got = codes_of(ctx, &other);
        ck_assert_mem_eq(got.indptr, want.indptr, (PLAIN + 1) * sizeof(int64_t));
        ck_assert_mem_eq(got.indices, want.indices, (size_t)got.indptr[PLAIN] * sizeof(int32_t));
        ck_assert_mem_eq(got.values, want.values, (size_t)got.indptr[PLAIN] * sizeof(float));
        codes_free(&got);
        free(block);
    }
    codes_free(&want);
    sae_ctx_free(ctx);
    sae_model_free(model);
    sae_env_free(env);
    free(x);
    planted_free(&p);
}
END_TEST

/* The host rounds upwards and flushes denormals: same bits, and it gets its mode back after every call. */
START_TEST(same_bits_in_every_fp_mode)
{
    static const int roundings[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    planted p;
    sae_isa isas[8];
    planted_make(&p, kinds[_i].shape, 7);
    float *x = rows_of(&p);
    sae_rows rows = rows_plain(x, ROWS, D);
    for (size_t n = isas_available(isas), i = 0; i < n; i++) {
        sae_env *env = env_make(NULL, isas[i], NULL, NULL, 0);
        outcome *want = observe(&p, env, 0, &rows, 64);
        for (size_t m = 0; m < LENGTH(roundings); m++) {
            fenv_t before;
            ck_assert_int_eq(fegetenv(&before), 0);
            ck_assert_int_eq(fesetround(roundings[m]), 0);
            fp_flush();
            const uint64_t mode = fp_mode();
            outcome *got = observe(&p, env, (uint32_t)m, &rows, 64);
            const uint64_t after = fp_mode();
            ck_assert_int_eq(fesetenv(&before), 0);
            ck_assert_uint_eq(after, mode);
            check_same(got, want, kinds[_i].name);
            outcome_free(got);
        }
        outcome_free(want);
        sae_env_free(env);
    }
    free(x);
    planted_free(&p);
}
END_TEST

/* ---- threads share a model, also while it is prepared ---- */

typedef struct sharer {
    sae_model *model;
    const sae_rows *rows;
    const sae_codes *want;
    bool prepares, right;
} sharer;

static void *share(void *arg)
{
    sharer *s = arg;
    sae_ctx *ctx;
    s->right = true;
    if (s->prepares) {
        s->right = !sae_model_prepare(s->model, SAE_PREPARE_ROWS, NULL) && !sae_model_prepare(s->model, SAE_PREPARE_PANELS, NULL) &&
                   !sae_model_prepare(s->model, SAE_PREPARE_SCREEN, NULL);
        return NULL;
    }
    if (sae_ctx_create(&ctx, s->model, NULL, NULL))
        return NULL;
    sae_codes c = codes_make(ROWS, s->want->indptr[ROWS], true);
    for (int i = 0; i < 8 && s->right; i++) {
        s->right &= sae_encode(ctx, &c, s->rows) == SAE_OK && !memcmp(c.indptr, s->want->indptr, (ROWS + 1) * sizeof *c.indptr) &&
                    !memcmp(c.values, s->want->values, (size_t)c.indptr[ROWS] * sizeof *c.values);
    }
    codes_free(&c);
    sae_ctx_free(ctx);
    return NULL;
}

START_TEST(threads_share_a_model)
{
    enum { SHARERS = 6 };
    sae_pool *pool;
    planted p;
    ACCEPTED(sae_pool_create(&pool, 2, &err));
    planted_make(&p, kinds[_i].shape, 7);
    float *x = rows_of(&p);
    const sae_rows rows = rows_plain(x, ROWS, D);
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, sae_pool_run, pool, 2);
    sae_model *first = planted_model(&p, env), *model = planted_model(&p, env);
    sae_ctx *ctx = ctx_make(first, 64);
    sae_codes want = codes_of(ctx, &rows);
    pthread_t threads[SHARERS];
    sharer sharers[SHARERS];
    for (int i = 0; i < SHARERS; i++) {
        sharers[i] = (sharer){model, &rows, &want, i % 3 == 1, false};
        ck_assert_int_eq(pthread_create(threads + i, NULL, share, sharers + i), 0);
    }
    for (int i = 0; i < SHARERS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < SHARERS; i++)
        ck_assert_msg(sharers[i].right, "thread %d", i);
    codes_free(&want);
    sae_ctx_free(ctx);
    sae_model_free(first);
    sae_model_free(model);
    sae_env_free(env);
    sae_pool_free(pool);
    free(x);
    planted_free(&p);
}
END_TEST

/* ---- selection ---- */

/* Every feature is the same: ties are all there is, and the lowest indices win, across tiles and instruction sets. */
START_TEST(ties_go_to_the_lower_index)
{
    static const int32_t sizes[] = {1, 2, 767, 768, 769, 1600, N};
    float *weights = malloc((size_t)N * 3 * sizeof *weights), x[5 * 3];
    sae_isa isas[8];
    for (size_t i = 0; i < (size_t)N * 3; i++)
        weights[i] = 0.5f;
    for (size_t i = 0; i < LENGTH(x); i++)
        x[i] = 1.0f + (float)(i / 3);
    const sae_rows rows = rows_plain(x, 5, 3);
    for (size_t n = isas_available(isas), i = 0; i < n; i++)
        for (size_t s = 0; s < LENGTH(sizes); s++) {
            const int32_t k = sizes[s];
            const sae_weights w = {.struct_size = sizeof w,
                                   .arch = SAE_TOPK,
                                   .dtype = SAE_F32,
                                   .d_in = 3,
                                   .d_sae = N,
                                   .k = k,
                                   .w_enc = weights,
                                   .w_dec = weights};
            sae_env *env = env_make(NULL, isas[i], run_backwards, NULL, 1);
            sae_model *model;
            ACCEPTED(sae_model_create(&model, env, &w, &err));
            sae_ctx *ctx = ctx_make(model, 64);
            sae_codes c = codes_of(ctx, &rows);
            for (int64_t r = 0; r < 5; r++) {
                ck_assert_int_eq(c.indptr[r + 1] - c.indptr[r], k);
                for (int32_t j = 0; j < k; j++)
                    ck_assert(c.indices[c.indptr[r] + j] == j && c.values[c.indptr[r] + j] == 1.5f * (float)(r + 1));
            }
            codes_free(&c);
            sae_ctx_free(ctx);
            sae_model_free(model);
            sae_env_free(env);
        }
    free(weights);
}
END_TEST

/* ---- decode ---- */

/* decode(z) - decode(0) is linear in z; nothing active decodes to b_dec. */
START_TEST(decode_is_linear)
{
    enum { M = 40 };
    rng r = {11};
    planted p;
    planted_make(&p, kinds[_i].shape, 7);
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    sae_model *model = planted_model(&p, env);
    sae_ctx *ctx = ctx_make(model, 64);
    float y[4][D];
    sae_codes c = codes_make(4, 3 * M, true);
    for (int row = 0; row < 4; row++) { /* row 0 is empty, row 3 = 2 row 1 - 3 row 2 */
        c.indptr[row + 1] = row * M;
        c.row_scale[row] = 1.0f;
    }
    for (int i = 0; i < M; i++) {
        for (int row = 0; row < 3; row++)
            c.indices[row * M + i] = i * 40;
        c.values[i] = (float)rng_between(&r, 0.0, 2.0);
        c.values[M + i] = (float)rng_between(&r, -1.0, 2.0);
        c.values[2 * M + i] = 2.0f * c.values[i] - 3.0f * c.values[M + i];
    }
    const sae_rows rows = rows_plain(y[0], 4, D);
    CTX_ACCEPTED(ctx, sae_decode(ctx, &rows, &c));
    for (int k = 0; k < D; k++) {
        const double zero = (double)y[0][k], a = (double)y[1][k] - zero, b = (double)y[2][k] - zero, both = (double)y[3][k] - zero;
        ck_assert_msg(fabs(both - (2.0 * a - 3.0 * b)) <= 1e-4 * (1.0 + fabs(a) + fabs(b)), "element %d: %g, not %g", k, both,
                      2.0 * a - 3.0 * b);
        if (p.weights.norm == SAE_NORM_NONE && (p.weights.arch != SAE_MATCHING_PURSUIT || p.weights.flags & SAE_APPLY_B_DEC))
            ck_assert_mem_eq(y[0] + k, p.b_dec + k, sizeof(float));
    }
    codes_free(&c);
    sae_ctx_free(ctx);
    sae_model_free(model);
    sae_env_free(env);
    planted_free(&p);
}
END_TEST

/* ---- steering ---- */

/* A model with its rows, their codes, and what un-normalises. */
typedef struct bed {
    planted p;
    sae_env *env;
    sae_model *model;
    float *x, *dense, *scale;
} bed;

static bed bed_make(size_t i)
{
    bed b = {.env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0)};
    float shift;
    planted_make(&b.p, kinds[i].shape, 7);
    b.model = planted_model(&b.p, b.env);
    b.x = rows_of(&b.p);
    b.dense = malloc((size_t)ROWS * N * sizeof *b.dense);
    b.scale = malloc(ROWS * sizeof *b.scale);
    ck_assert(b.dense && b.scale);
    for (int64_t r = 0; r < ROWS; r++)
        answer_encode(&b.p, b.x + r * D, b.dense + r * N, NULL, b.scale + r, &shift);
    return b;
}

static void bed_free(bed *b)
{
    sae_model_free(b->model);
    sae_env_free(b->env);
    free(b->x);
    free(b->dense);
    free(b->scale);
    planted_free(&b->p);
}

/* The n features that are active in most rows, most active first. */
static void busiest(const bed *b, int32_t *features, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int best = -1;
        for (int32_t j = 0; j < N; j++) {
            int active = 0;
            bool taken = false;
            for (size_t t = 0; t < i; t++)
                taken |= features[t] == j;
            for (int64_t r = 0; r < PLAIN; r++)
                active += b->dense[r * N + j] > 0.0f;
            if (!taken && active > best) {
                best = active;
                features[i] = j;
            }
        }
    }
}

static sae_edit edit_of(const bed *b, sae_op op, sae_unit unit, int32_t feature, float value)
{
    return (sae_edit){
        .struct_size = sizeof(sae_edit), .op = op, .unit = unit, .value = value, .max_act = 1.7f, .model = b->model, .feature = feature};
}

/* What changes nothing changes no bit, whatever is in the row: no edits, add 0, scale by 1, at least less, at most more, ablate of what is
 * off, and rows in no slot. */
START_TEST(steering_nothing)
{
    bed b = bed_make((size_t)_i);
    float *got = malloc(ROWS * D * sizeof *got);
    int32_t f[3];
    busiest(&b, f, LENGTH(f));
    int32_t off = 0; /* a feature that is active in no row */
    for (int32_t j = 0; j < N; j++) {
        bool active = false;
        for (int64_t r = 0; r < ROWS; r++)
            active |= b.dense[r * N + j] != 0.0f;
        if (!active)
            off = j;
    }
    const sae_edit edits[] = {
        edit_of(&b, SAE_ADD, SAE_UNIT_RAW, f[0], 0.0f),     edit_of(&b, SAE_ADD, SAE_UNIT_UNIT, f[1], 0.0f),
        edit_of(&b, SAE_ADD, SAE_UNIT_MAX_ACT, f[2], 0.0f), edit_of(&b, SAE_SCALE, SAE_UNIT_RAW, f[0], 1.0f),
        edit_of(&b, SAE_MIN, SAE_UNIT_RAW, f[1], -5.0f),    edit_of(&b, SAE_MAX, SAE_UNIT_RAW, f[2], FLT_MAX),
        edit_of(&b, SAE_ABLATE, SAE_UNIT_RAW, off, 0.0f),   edit_of(&b, SAE_SET, SAE_UNIT_RAW, off, 0.0f),
    };
    memcpy(got, b.x, ROWS * D * sizeof *got);
    steer(got, ROWS, NULL, b.env, 1, NULL, 0);
    ck_assert_mem_eq(got, b.x, ROWS * D * sizeof *got);
    steer(got, ROWS, NULL, b.env, 1, edits, LENGTH(edits));
    ck_assert_mem_eq(got, b.x, ROWS * D * sizeof *got);
    static const int32_t nowhere[ROWS] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    const sae_edit strong = edit_of(&b, SAE_ADD, SAE_UNIT_RAW, f[0], 100.0f);
    steer(got, ROWS, nowhere, b.env, 1, &strong, 1);
    ck_assert_mem_eq(got, b.x, ROWS * D * sizeof *got);
    free(got);
    bed_free(&b);
}
END_TEST

/* Setting a feature to the value it has changes no bit: the plan reads exactly what encode publishes. */
START_TEST(steering_to_the_present)
{
    bed b = bed_make((size_t)_i);
    float got[D];
    int32_t f[4];
    busiest(&b, f, LENGTH(f));
    for (int64_t r = 0; r < PLAIN; r++)
        for (size_t i = 0; i < LENGTH(f); i++) {
            const float z = b.dense[r * N + f[i]];
            const sae_edit set = edit_of(&b, SAE_SET, SAE_UNIT_RAW, f[i], z);
            memcpy(got, b.x + r * D, sizeof got);
            steer(got, 1, NULL, b.env, 1, &set, 1);
            ck_assert_mem_eq(got, b.x + r * D, sizeof got);
            const sae_edit beside = edit_of(&b, SAE_SET, SAE_UNIT_RAW, f[i], z + 1.0f); /* and a change is one */
            steer(got, 1, NULL, b.env, 1, &beside, 1);
            ck_assert_mem_ne(got, b.x + r * D, sizeof got);
        }
    bed_free(&b);
}
END_TEST

static double length_of(const float *v)
{
    double squares = 0.0;
    for (int k = 0; k < D; k++)
        squares += (double)v[k] * (double)v[k];
    return sqrt(squares);
}

/* The direction of a feature, in the unit of its codes. */
static void direction_of(const bed *b, int32_t feature, double *out)
{
    const float *row = b->p.dec + (size_t)feature * D;
    const uint32_t scaled = b->p.weights.flags & (SAE_RESCALE_BY_DECODER_NORM | SAE_RETURN_UNSCALED);
    const double by = scaled == SAE_RESCALE_BY_DECODER_NORM ? 1.0 / length_of(row) : 1.0;
    for (int k = 0; k < D; k++)
        out[k] = (double)row[k] * by;
}

static double new_z(sae_op op, double z, double value, double c)
{
    switch (op) {
    case SAE_ADD:
        return z + c;
    case SAE_SET:
        return c;
    case SAE_SCALE:
        return value * z;
    case SAE_MIN:
        return fmax(z, c);
    case SAE_MAX:
        return fmin(z, c);
    default:
        return 0.0;
    }
}

/* z' of an edit as sae/steer.h says it, in double: one edit's delta to a row is (z' - z) * direction, un-normalised. */
static void add_delta(const bed *b, const sae_edit *e, int64_t r, double *delta)
{
    double direction[D], length = 0.0;
    direction_of(b, e->feature, direction);
    for (int k = 0; k < D; k++)
        length += direction[k] * direction[k];
    length = sqrt(length);
    const double z = (double)b->dense[r * N + e->feature], scale = (double)b->scale[r];
    /* a length in activation space is not un-normalised: in the unit of the codes it is value / (length * scale) */
    const double c = e->unit == SAE_UNIT_MAX_ACT ? (double)e->value * (double)e->max_act
                     : e->unit == SAE_UNIT_UNIT  ? (double)e->value / (length * scale)
                                                 : (double)e->value;
    const double by = (new_z(e->op, z, (double)e->value, c) - z) * scale;
    for (int k = 0; k < D; k++)
        delta[k] += by * direction[k];
}

static void check_steered(const bed *b, const float *got, const sae_edit *edits, size_t n, int64_t r, const char *what)
{
    double delta[D] = {0}, size = 0.0;
    for (size_t i = 0; i < n; i++)
        add_delta(b, edits + i, r, delta);
    for (int k = 0; k < D; k++)
        size += fabs(delta[k]) + fabs((double)b->x[r * D + k]);
    for (int k = 0; k < D; k++) {
        const double want = (double)b->x[r * D + k] + delta[k];
        ck_assert_msg(fabs((double)got[k] - want) <= 4e-6 * (1.0 + size), "%s: row %d, element %d is %.9g, not %.9g", what, (int)r, k,
                      (double)got[k], want);
    }
}

/* Every operation in every unit that it has. */
START_TEST(steering_operations)
{
    static const sae_op ops[] = {SAE_ADD, SAE_SET, SAE_SCALE, SAE_MIN, SAE_MAX, SAE_ABLATE};
    static const float values[] = {-2.0f, 0.0f, 0.5f, 3.0f};
    bed b = bed_make((size_t)_i);
    float *got = malloc(ROWS * D * sizeof *got);
    int32_t f[2];
    busiest(&b, f, LENGTH(f));
    for (size_t o = 0; o < LENGTH(ops); o++)
        for (sae_unit unit = SAE_UNIT_RAW; unit <= SAE_UNIT_MAX_ACT; unit++)
            for (size_t v = 0; v < LENGTH(values); v++) {
                const sae_edit e = edit_of(&b, ops[o], unit, f[v % 2], values[v]);
                char what[100];
                if ((ops[o] == SAE_SCALE || ops[o] == SAE_ABLATE) && unit)
                    continue;
                snprintf(what, sizeof what, "%s: %s %g %s", kinds[_i].name, sae_op_name(ops[o]), (double)values[v], sae_unit_name(unit));
                memcpy(got, b.x, ROWS * D * sizeof *got);
                steer(got, ROWS, NULL, b.env, 1, &e, 1);
                for (int64_t r = 0; r < PLAIN; r++)
                    check_steered(&b, got + r * D, &e, 1, r, what);
            }
    free(got);
    bed_free(&b);
}
END_TEST

/* Joint edits all read the original row, in any order. */
START_TEST(steering_in_any_order)
{
    bed b = bed_make((size_t)_i);
    int32_t f[4];
    float first[PLAIN * D], got[PLAIN * D];
    busiest(&b, f, LENGTH(f));
    const sae_edit edits[] = {edit_of(&b, SAE_SET, SAE_UNIT_RAW, f[0], 4.0f), edit_of(&b, SAE_ABLATE, SAE_UNIT_RAW, f[1], 0.0f),
                              edit_of(&b, SAE_ADD, SAE_UNIT_UNIT, f[2], -1.5f), edit_of(&b, SAE_SCALE, SAE_UNIT_RAW, f[3], 3.0f)};
    for (int order = 0; order < 24; order++) {
        sae_edit some[] = {edits[0], edits[1], edits[2], edits[3]};
        int code = order;
        for (int n = 4; n > 1; code /= n, n--) {
            const sae_edit last = some[n - 1];
            some[n - 1] = some[code % n];
            some[code % n] = last;
        }
        memcpy(got, b.x, sizeof got);
        steer(got, PLAIN, NULL, b.env, 1, some, 4);
        if (order == 0)
            memcpy(first, got, sizeof first);
        for (int64_t r = 0; r < PLAIN; r++) {
            check_steered(&b, got + r * D, some, 4, r, kinds[_i].name);
            for (int k = 0; k < D; k++) /* orders differ by the rounding of three sums, no more */
                ck_assert(fabs((double)got[r * D + k] - (double)first[r * D + k]) <= 1e-6 * (10.0 + fabs((double)first[r * D + k])));
        }
    }
    bed_free(&b);
}
END_TEST

/* The change of a clamp is the change of the reconstruction: x' - x = decode(z') - decode(z). */
START_TEST(steering_is_a_change_of_codes)
{
    bed b = bed_make((size_t)_i);
    int32_t f[1];
    float got[PLAIN * D];
    double *before = malloc(N * sizeof *before), y[D], changed[D];
    busiest(&b, f, 1);
    const sae_edit set = edit_of(&b, SAE_SET, SAE_UNIT_RAW, f[0], 6.0f);
    memcpy(got, b.x, sizeof got);
    steer(got, PLAIN, NULL, b.env, 1, &set, 1);
    for (int64_t r = 0; r < PLAIN; r++) {
        for (int j = 0; j < N; j++)
            before[j] = (double)b.dense[r * N + j];
        answer_decode_double(&b.p, before, b.x + r * D, y);
        before[f[0]] = 6.0;
        answer_decode_double(&b.p, before, b.x + r * D, changed);
        for (int k = 0; k < D; k++) {
            const double want = changed[k] - y[k], is = (double)got[r * D + k] - (double)b.x[r * D + k];
            ck_assert_msg(fabs(is - want) <= 1e-5 * (1.0 + fabs(want) + fabs((double)b.x[r * D + k])), "%s: row %d: %g, not %g",
                          kinds[_i].name, (int)r, is, want);
        }
    }
    free(before);
    bed_free(&b);
}
END_TEST

/* A batch of mixed slots is each row alone, to the bit; NaN rows disturb nobody. */
START_TEST(steering_rows_alone)
{
    enum { BATCH = 150, SLOTS = 4 };
    bed b = bed_make((size_t)_i);
    rng g = {13};
    float *rows = malloc(BATCH * D * sizeof *rows), *got = malloc(BATCH * D * sizeof *got), alone[D];
    int32_t slots[BATCH], f[3];
    sae_edit edits[16 + 3];
    float vector[D];
    busiest(&b, f, LENGTH(f));
    for (int k = 0; k < D; k++)
        vector[k] = rng_weight(&g);
    size_t n = many_edits(edits, b.model, vector);
    for (size_t i = 0; i < LENGTH(f); i++) {
        edits[n] = edit_of(&b, SAE_SET, SAE_UNIT_UNIT, f[i], 2.0f);
        edits[n++].slot = 2;
    } /* slot 3 has no edits */
    for (int i = 0; i < BATCH; i++) {
        memcpy(rows + i * D, b.x + rng_below(&g, ROWS) * D, D * sizeof *rows);
        slots[i] = (int32_t)rng_below(&g, SLOTS + 1) - 1;
    }
    memcpy(got, rows, BATCH * D * sizeof *got);
    steer(got, BATCH, slots, b.env, SLOTS, edits, n);
    int changed = 0;
    for (int i = 0; i < BATCH; i++) {
        memcpy(alone, rows + i * D, sizeof alone);
        steer(alone, 1, slots + i, b.env, SLOTS, edits, n);
        ck_assert_msg(!memcmp(got + i * D, alone, sizeof alone), "%s: row %d of slot %d", kinds[_i].name, i, slots[i]);
        if (slots[i] == -1 || slots[i] == 3)
            ck_assert_mem_eq(got + i * D, rows + i * D, sizeof alone);
        changed += memcmp(got + i * D, rows + i * D, sizeof alone) != 0;
    }
    ck_assert_int_gt(changed, BATCH / 4);
    free(rows);
    free(got);
    bed_free(&b);
}
END_TEST

/* Raw vectors: a raw add is one fma per element; the others place the projection. */
START_TEST(steering_vectors)
{
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    rng g = {17};
    float x[D], v[D], got[D];
    for (int k = 0; k < D; k++) {
        x[k] = rng_weight(&g);
        v[k] = 3.0f * rng_weight(&g);
    }
    const double length = length_of(v);
    double along = 0.0;
    for (int k = 0; k < D; k++)
        along += (double)x[k] * (double)v[k] / length;
    static const struct {
        sae_op op;
        sae_unit unit;
        float value;
    } cases[] = {{SAE_ADD, SAE_UNIT_RAW, 0.5f},    {SAE_ADD, SAE_UNIT_UNIT, 0.5f},   {SAE_SET, SAE_UNIT_RAW, 2.0f},
                 {SAE_SET, SAE_UNIT_UNIT, -2.0f},  {SAE_SCALE, SAE_UNIT_RAW, -1.0f}, {SAE_MIN, SAE_UNIT_RAW, 100.0f},
                 {SAE_MIN, SAE_UNIT_RAW, -100.0f}, {SAE_MAX, SAE_UNIT_RAW, 100.0f},  {SAE_MAX, SAE_UNIT_RAW, -100.0f},
                 {SAE_ABLATE, SAE_UNIT_RAW, 0.0f}};
    for (size_t i = 0; i < LENGTH(cases); i++) {
        const sae_edit e = {.struct_size = sizeof e, .op = cases[i].op, .unit = cases[i].unit, .value = cases[i].value, .vector = v};
        const double value = (double)cases[i].value, c = e.op == SAE_ADD && e.unit == SAE_UNIT_RAW ? value * length : value;
        const double want = new_z(e.op, along, value, c);
        double is = 0.0, rest = 0.0;
        memcpy(got, x, sizeof got);
        steer(got, 1, NULL, env, 1, &e, 1);
        for (int k = 0; k < D; k++)
            is += (double)got[k] * (double)v[k] / length;
        for (int k = 0; k < D; k++) /* what lies across the vector stays */
            rest = fmax(rest, fabs(((double)got[k] - is * (double)v[k] / length) - ((double)x[k] - along * (double)v[k] / length)));
        ck_assert_msg(fabs(is - want) <= 2e-5 * (1.0 + fabs(want)) && rest < 2e-5 * (1.0 + fabs(want)), "case %zu: %g, not %g; across %g",
                      i, is, want, rest);
        for (int k = 0; k < D && i == 0; k++) {
            const float exact = x[k] + cases[0].value * v[k];
            ck_assert_mem_eq(got + k, &exact, sizeof exact);
        }
    }
    sae_env_free(env);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("properties");
    TCase *tc = tcase_create("properties");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, same_bits_by_every_runner, 0, N_KINDS);
    tcase_add_loop_test(tc, threads_share_a_model, 0, N_KINDS);
    if (!THREADS_ALONE) {
        tcase_add_loop_test(tc, answers_to_the_bit, 0, N_KINDS);
        tcase_add_loop_test(tc, answers_in_double, 0, N_KINDS);
        tcase_add_loop_test(tc, same_bits_in_every_form, 0, N_KINDS);
        tcase_add_loop_test(tc, same_bits_in_every_batch, 0, N_KINDS);
        tcase_add_loop_test(tc, same_bits_in_every_fp_mode, 0, N_KINDS);
        tcase_add_test(tc, ties_go_to_the_lower_index);
        tcase_add_loop_test(tc, decode_is_linear, 0, N_KINDS);
        tcase_add_loop_test(tc, steering_nothing, 0, N_KINDS);
        tcase_add_loop_test(tc, steering_to_the_present, 0, N_KINDS);
        tcase_add_loop_test(tc, steering_operations, 0, N_KINDS);
        tcase_add_loop_test(tc, steering_in_any_order, 0, N_KINDS);
        tcase_add_loop_test(tc, steering_is_a_change_of_codes, 0, N_KINDS);
        tcase_add_loop_test(tc, steering_rows_alone, 0, N_KINDS);
        tcase_add_test(tc, steering_vectors);
    }
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
