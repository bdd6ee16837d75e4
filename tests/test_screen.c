/* The certified screen: bounds are never below the value that a dense encode publishes, screened codes are the dense ones to the bit, on
 * hostile numbers above all, and each term of the bound is needed. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "codec/screen.h"
#include "support/hostile.h"
#include "support/run.h"
#include "support/support.h"

static sae_error err;

static sae_model *model_of(const data *a, sae_arch arch, sae_env *env, int32_t k, bool prepare)
{
    sae_model *model;
    const sae_weights w = {.struct_size = sizeof w,
                           .arch = arch,
                           .dtype = SAE_F32,
                           .flags = SAE_W_ENC_BY_ROWS,
                           .d_in = (int32_t)a->d,
                           .d_sae = N,
                           .k = arch == SAE_TOPK || arch == SAE_GROUPMAX ? k : 0,
                           .w_enc = a->w,
                           .w_dec = a->w,
                           .b_enc = a->bias,
                           .b_dec = a->centre,
                           .threshold = arch == SAE_JUMPRELU ? a->threshold : NULL,
                           .b_gate = a->gate,
                           .b_mag = a->bias,
                           .r_mag = a->scale};
    ACCEPTED(sae_model_create(&model, env, &w, &err));
    if (prepare)
        ACCEPTED(sae_model_prepare(model, SAE_PREPARE_SCREEN, &err));
    return model;
}

static sae_ctx *ctx_of(sae_model *model, int32_t screen, int32_t max_rows)
{
    sae_ctx *ctx;
    const sae_ctx_options opt = {.struct_size = sizeof opt, .max_rows = max_rows, .screen = screen};
    ACCEPTED(sae_ctx_create(&ctx, model, &opt, &err));
    return ctx;
}

static sae_ctx_counts counts_of(const sae_ctx *ctx)
{
    sae_ctx_counts c = {.struct_size = sizeof c};
    ck_assert_int_eq(sae_ctx_count(ctx, &c), SAE_OK);
    return c;
}

/* ---- screened codes are the dense ones ---- */

static sae_ctx_counts compare(sae_model *model, const sae_rows *x, int32_t max_rows, const char *what, int class)
{
    sae_ctx *dense = ctx_of(model, SAE_NO, max_rows), *screened = ctx_of(model, SAE_YES, max_rows);
    sae_codes want = codes_of(dense, x), got = codes_of(screened, x);
    ck_assert_msg(codes_same(&want, &got), "%s, class %d, max_rows %d: other codes", what, class, max_rows);
    ck_assert_msg(sae_ctx_nonfinite(dense) == sae_ctx_nonfinite(screened), "%s, class %d: %lld not finite, not %lld", what, class,
                  (long long)sae_ctx_nonfinite(screened), (long long)sae_ctx_nonfinite(dense));
    const sae_ctx_counts none = counts_of(dense), c = counts_of(screened);
    ck_assert(none.rows_screened == 0 && none.rows_dense >= x->n_rows && c.rows_screened + c.rows_dense == none.rows_dense);
    codes_free(&want);
    codes_free(&got);
    sae_ctx_free(dense);
    sae_ctx_free(screened);
    return c;
}

static const sae_arch archs[] = {SAE_STANDARD, SAE_JUMPRELU, SAE_GATED, SAE_TOPK, SAE_GROUPMAX};
static const int32_t n_groups[] = {1, 5, 7, 25, 35, N};

START_TEST(hostile_numbers)
{
    static const size_t depths[] = {1, 3, 16, 64, 129, 384};
    static const int32_t blocks[] = {1, 2, 3, 4, 5, 8, 13};
    sae_isa isas[8];
    const size_t n_isas = isas_available(isas);
    int64_t screened = 0;
    rng r = {(uint64_t)_i + 1};
    for (uint64_t seed = 0; seed < 4; seed++)
        for (size_t i = 0; i < LENGTH(depths); i++) {
            data *a = data_make(_i, depths[i], seed);
            sae_env *env = env_make(NULL, isas[rng_below(&r, (uint32_t)n_isas)], seed % 2 ? run_shuffled : NULL, NULL, seed % 2 ? 3 : 0);
            for (size_t k = 0; k < LENGTH(archs); k++) {
                const int32_t most = 1 + (int32_t)rng_below(&r, seed % 4 ? 20 : N), groups = n_groups[rng_below(&r, LENGTH(n_groups))];
                sae_model *model = model_of(a, archs[k], env, archs[k] == SAE_GROUPMAX ? groups : most, true);
                const sae_rows x = rows_plain(a->x, ROWS, (int32_t)a->d);
                screened += compare(model, &x, blocks[rng_below(&r, LENGTH(blocks))], sae_arch_name(archs[k]), _i).rows_screened;
                sae_model_free(model);
            }
            sae_env_free(env);
            free(a);
        }
    ck_assert_msg(screened > 0 || _i == ODD_BIASES, "class %d was never screened", _i);
}
END_TEST

/* ---- the bound, and what it needs ---- */

enum { WHOLE, NO_GAMMA, NO_ROUNDING, NEITHER, SHORT_ERROR, SHORT_LOST, N_BUILDS };

static double length_of(const float *x, const float *centre, size_t d)
{
    double sum = 0;
    for (size_t k = 0; k < d; k++)
        sum += ((double)x[k] - (centre ? (double)centre[k] : 0)) * ((double)x[k] - (centre ? (double)centre[k] : 0));
    return sqrt(sum);
}

/* Takes a term away from what bounds a row. */
static void weaken(saei_span *span, const float *x, const saei_screen *s, size_t d, bool two, int build)
{
    const double u = 0x1p-24, gamma = (double)(d + 2) * u / (1 - (double)(d + 2) * u) * length_of(x, NULL, d),
                 rounding = 16 * u * length_of(x, s->centre, d);
    double slack = (double)span->slack / (1 + 0x1p-20);
    slack -= build == NO_GAMMA || build == NEITHER ? gamma : 0;
    slack -= build == NO_ROUNDING || build == NEITHER ? rounding : 0;
    slack -= build == SHORT_LOST ? (two ? 1.0 : 0.1) * (slack - gamma - rounding) : 0;
    span->slack = build == WHOLE ? span->slack : slack > 0 ? (float)slack : 0.0f;
}

/* Values of a row above their bounds. */
static long missed(const data *a, size_t row, const saei_screen *s, const saei_kernels *k, bool two, int build)
{
    enum { COLUMNS = (N + 15) / 16 };
    static int8_t planes[(MOST_D + 15) / 16 * 32];
    static int32_t sums[2 * COLUMNS * 16];
    float u[N], error[N];
    saei_spans spans;
    saei_bound bound = s->bound;
    long n = 0;
    const float *x = a->x + row * a->d;
    if (!saei_screen_row(&spans, planes, 32, planes + 16, 32, x, s, k, a->d))
        return 0;
    saei_span *span = two ? &spans.fine : &spans.coarse;
    weaken(span, x, s, a->d, two, build);
    for (size_t j = 0; j < N; j++)
        error[j] = bound.error[j] * (build == SHORT_ERROR ? 0.9f : 1.0f);
    bound.error = error;
    k->int8_columns(sums, COLUMNS * 16, s->columns, COLUMNS, planes, 2, s->d16, NULL, 0);
    k->bounds(u, sums, two ? sums + COLUMNS * 16 : NULL, N, 0, &bound, span);
    for (size_t j = 0; j < N; j++)
        n += u[j] < a->dots[row][j] + a->bias[j];
    return n;
}

START_TEST(each_term_is_needed)
{
    static const size_t depths[] = {8, 64, 128, 384};
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    long total[2][N_BUILDS] = {{0}};
    for (uint64_t seed = 0; seed < 6; seed++)
        for (int class = 0; class < N_CLASSES; class ++)
            for (size_t i = 0; i < LENGTH(depths); i++) {
                data *a = data_make(class, depths[i], seed + 200);
                sae_model *model = model_of(a, SAE_STANDARD, env, 0, true);
                for (size_t row = 0; row < ROWS; row++)
                    for (int build = 0; build < N_BUILDS; build++)
                        for (int two = 0; two < 2; two++)
                            total[two][build] += missed(a, row, atomic_load(&model->screen), saei_kernels_for(SAE_ISA_AUTO), two, build);
                sae_model_free(model);
                free(a);
            }
    for (int build = 1; build < N_BUILDS; build++)
        ck_assert_msg(total[0][build] + total[1][build] > 0, "without term %d nothing is missed", build);
    for (int two = 0; two < 2; two++) {
        ck_assert_msg(total[two][WHOLE] == 0, "%ld values are above their bounds by %d planes", total[two][WHOLE], two + 1);
        ck_assert_msg(total[two][SHORT_LOST] > 0, "what a row loses is not needed by %d planes", two + 1);
    }
    sae_env_free(env);
}
END_TEST

/* What the bytes of the rows lose lies along the weights of all features but the last four, whose values are well below the middles of their
 * intervals: what the k largest reach is guessed too high. The last four have no part in that and the largest values, below the guess. */
START_TEST(a_guess_that_is_too_high)
{
    enum { D = 384, K = 4 };
    rng r = {5};
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    data *a = calloc(1, sizeof *a);
    a->d = D;
    for (size_t i = 0; i < (size_t)N * D; i++) {
        const bool lies_apart = i / D >= N - K, less = i >= D && a->w[i - D] > 1 && rng_below(&r, 40) == 0;
        a->w[i] = i % D == 1      ? 127.0f
                  : i % D == 0    ? (lies_apart ? 54.0f : 127.0f)
                  : lies_apart    ? 0.0f
                  : i < (size_t)D ? (float)(1 + rng_below(&r, 126))
                                  : a->w[i - D] - (float)less;
    }
    for (size_t i = 0; i < (size_t)ROWS * D; i++)
        a->x[i] = i % D == 1 ? 32639.0f : i % D == 0 ? (_i ? 9984.0f : 48.0f) : (_i ? -100.0f : -0.48f) * a->w[i % D] / 127;
    sae_model *model = model_of(a, SAE_TOPK, env, K, true);
    const sae_rows x = rows_plain(a->x, ROWS, D);
    const sae_ctx_counts c = compare(model, &x, _i ? ROWS : 1, "a guess that is too high", -1);
    ck_assert_int_eq(c.rows_screened, 0);
    sae_model_free(model);
    sae_env_free(env);
    free(a);
}
END_TEST

/* ---- when it pays ---- */

/* Half of the features are active: screening is given up after some rows, and tried again after 4096; a small model is never screened. */
START_TEST(pauses_where_it_does_not_pay)
{
    enum { WIDE = 1024 };
    rng r = {3};
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    float *w = malloc((size_t)WIDE * WIDE * sizeof *w), x[WIDE];
    for (size_t i = 0; i < (size_t)WIDE * WIDE; i++)
        w[i] = gauss(&r);
    for (size_t k = 0; k < WIDE; k++)
        x[k] = gauss(&r);
    for (int32_t n = WIDE - 1; n <= WIDE; n++) {
        const sae_weights weights = {.struct_size = sizeof weights,
                                     .arch = SAE_STANDARD,
                                     .dtype = SAE_F32,
                                     .flags = SAE_BORROW | SAE_W_ENC_BY_ROWS,
                                     .d_in = WIDE,
                                     .d_sae = n,
                                     .w_enc = w,
                                     .w_dec = w};
        const sae_rows row = rows_plain(x, 1, WIDE);
        sae_model *model;
        ACCEPTED(sae_model_create(&model, env, &weights, &err));
        ACCEPTED(sae_model_prepare(model, SAE_PREPARE_SCREEN, &err));
        sae_ctx *ctx = ctx_of(model, SAE_DEFAULT, 1);
        sae_codes c = codes_of(ctx, &row);
        int64_t screened[2];
        for (int i = 0; i < 5000; i++) {
            CTX_ACCEPTED(ctx, sae_encode(ctx, &c, &row));
            screened[i >= 4000] = counts_of(ctx).rows_screened;
        }
        if (n < WIDE)
            ck_assert(screened[1] == 0);
        else
            ck_assert_msg(screened[0] > 20 && screened[0] < 200 && screened[1] > screened[0] && screened[1] < 400, "%lld, then %lld rows",
                          (long long)screened[0], (long long)screened[1]);
        codes_free(&c);
        sae_ctx_free(ctx);
        sae_model_free(model);
    }
    free(w);
    sae_env_free(env);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("screen");
    TCase *tc = tcase_create("screen");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, hostile_numbers, 0, N_CLASSES);
    tcase_add_test(tc, each_term_is_needed);
    tcase_add_loop_test(tc, a_guess_that_is_too_high, 0, 2);
    tcase_add_test(tc, pauses_where_it_does_not_pay);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
