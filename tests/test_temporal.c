/* Temporal SAEs: two layers of attention against a plain evaluation in double, sequences longer than what is worked on at once, rows that see
 * only the rows before, the same results by every runner. Made from canonical parts, as readers make them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "support/support.h"
#include "support/run.h"

enum { D = 10, N = 24, HEADS = 2, KEYS = 8, LAYERS = 2, ROWS = 150 };

static heap counted;
static sae_error err;

/* Everything that the SAE is made of, dense. */
typedef struct layer {
    float k[KEYS * N], q[KEYS * N], v[N * N], o[N * N], k_bias[KEYS], q_bias[KEYS], v_bias[N], o_bias[N];
} layer;

static float dictionary[N * D], b_dec[D], x[ROWS * D];
static layer layers[LAYERS];

static void fill(rng *r, float *to, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (float)rng_between(r, -scale, scale);
}

static void seed(void)
{
    rng r = {77};
    fill(&r, dictionary, N * D, 1.0);
    fill(&r, b_dec, D, 0.3);
    fill(&r, x, ROWS * D, 20.0);
    for (int i = 0; i < LAYERS; i++) {
        layer *l = layers + i;
        fill(&r, l->k, KEYS * N, 1.0);
        fill(&r, l->q, KEYS * N, 1.0);
        fill(&r, l->v, N * N, 1.0);
        fill(&r, l->o, N * N, 1.0);
        fill(&r, l->k_bias, KEYS, 0.5);
        fill(&r, l->q_bias, KEYS, 0.5);
        fill(&r, l->v_bias, N, 0.5);
        fill(&r, l->o_bias, N, 0.5);
    }
}

static saei_linear linear(float *w, float *bias, int32_t n)
{
    return (saei_linear){{.m = {w, SAE_F32, false, n, N}, .name = "linear", .file = -1}, bias};
}

static sae_model *model_make(sae_env *env, int32_t k, sae_norm norm)
{
    sae_model *m;
    ck_assert_int_eq(saei_model_new(&m, env, &err), SAE_OK);
    saei_parts *p = &m->parts;
    const saei_host *host = &env->host;
    const saei_tensor w = {.m = {dictionary, SAE_F32, false, N, D}, .name = "D", .file = -1};
    const saei_block block = {0, 0, w};
    const saei_segment segment = {0, N, 0, 0, 1, w};
    p->arch = SAE_TEMPORAL;
    p->d_in = p->d_out = D;
    p->d_sae = N;
    p->k = k;
    p->n_in = p->n_out = 1;
    p->apply_b_dec = true;
    p->norm = norm;
    p->norm_scaling_factor = norm == SAE_NORM_SCALE ? 0.5f : 1.0f;
    p->norm_out_factor = 1.0f / p->norm_scaling_factor;
    p->b_dec = saei_arena_alloc(&p->memory, host, sizeof b_dec);
    p->attention = saei_arena_alloc(&p->memory, host, LAYERS * sizeof *p->attention);
    ck_assert(p->b_dec && p->attention && saei_parts_add_block(p, host, &block) && saei_parts_add_segment(p, host, &segment));
    memcpy(p->b_dec, b_dec, sizeof b_dec);
    for (int i = 0; i < LAYERS; i++) {
        layer *l = layers + i;
        p->attention[i] = (saei_attention){linear(l->k, l->k_bias, KEYS), linear(l->q, l->q_bias, KEYS), linear(l->v, l->v_bias, N),
                                           linear(l->o, l->o_bias, N)};
    }
    p->n_attention = LAYERS;
    p->n_heads = HEADS;
    ck_assert_msg(saei_model_finish(m, &err) == SAE_OK, "%s", err.text);
    return m;
}

/* ---- in double, as sae-lens 6.54 writes it ---- */

static double left[ROWS][D], z[ROWS][N], k_of[ROWS][KEYS], v_of[ROWS][N], q_of[ROWS][KEYS], predicted[ROWS][N], novel[ROWS][N],
    out[ROWS][D];

static void apply(double *to, const float *w, const float *bias, const double *from, int n)
{
    for (int o = 0; o < n; o++) {
        to[o] = (double)bias[o];
        for (int i = 0; i < N; i++)
            to[o] += (double)w[o * N + i] * from[i];
    }
}

static void encode_row(double *to, const double *r)
{
    for (int j = 0; j < N; j++) {
        double h = 0.0;
        for (int i = 0; i < D; i++)
            h += (double)dictionary[j * D + i] * r[i] / (4.0 * D);
        to[j] = fmax(h, 0.0);
    }
}

static void decode_row(double *to, const double *codes)
{
    for (int i = 0; i < D; i++) {
        to[i] = 0.0;
        for (int j = 0; j < N; j++)
            to[i] += codes[j] * (double)dictionary[j * D + i];
    }
}

static void attend(double *to, int t)
{
    for (int h = 0; h < HEADS; h++) {
        double weights[ROWS], sum = 0.0;
        for (int s = 0; s <= t; s++) {
            double dot = 0.0;
            for (int i = h * KEYS / HEADS; i < (h + 1) * KEYS / HEADS; i++)
                dot += q_of[t][i] * k_of[s][i];
            weights[s] = exp(dot / sqrt((double)KEYS / HEADS));
            sum += weights[s];
        }
        for (int i = h * N / HEADS; i < (h + 1) * N / HEADS; i++) {
            to[i] = 0.0;
            for (int s = 0; s <= t; s++)
                to[i] += weights[s] / sum * v_of[s][i];
        }
    }
}

static void answer_layer(const layer *l)
{
    static const double nothing[N];
    for (int t = 0; t < ROWS; t++)
        encode_row(z[t], left[t]);
    for (int t = 0; t < ROWS; t++) {
        const double *before = t ? z[t - 1] : nothing;
        apply(k_of[t], l->k, l->k_bias, before, KEYS);
        apply(v_of[t], l->v, l->v_bias, before, N);
        apply(q_of[t], l->q, l->q_bias, z[t], KEYS);
    }
    for (int t = 0; t < ROWS; t++) {
        double taken[N], codes[N], y[D], along = 0.0, squares = 0.0;
        attend(taken, t);
        apply(codes, l->o, l->o_bias, taken, N);
        for (int j = 0; j < N; j++)
            codes[j] = fmax(codes[j], 0.0);
        decode_row(y, codes);
        for (int i = 0; i < D; i++) {
            along += y[i] * left[t][i];
            squares += y[i] * y[i];
        }
        const double length = sqrt(squares) + 1e-6, part = along / (length * length);
        for (int i = 0; i < D; i++)
            left[t][i] -= part * y[i];
        for (int j = 0; j < N; j++)
            predicted[t][j] += part * codes[j];
    }
}

static void keep_largest(double *codes, int32_t k)
{
    bool kept[N] = {0};
    for (int32_t i = 0; i < k; i++) {
        int best = -1;
        for (int j = 0; j < N; j++)
            if (!kept[j] && (best < 0 || codes[j] > codes[best]))
                best = j;
        kept[best] = true;
    }
    for (int j = 0; j < N && k; j++)
        codes[j] = kept[j] ? codes[j] : 0.0;
}

static void answer(int32_t k, double factor)
{
    memset(predicted, 0, sizeof predicted);
    for (int t = 0; t < ROWS; t++)
        for (int i = 0; i < D; i++)
            left[t][i] = (double)x[t * D + i] * factor - (double)b_dec[i];
    for (int i = 0; i < LAYERS; i++)
        answer_layer(layers + i);
    for (int t = 0; t < ROWS; t++) {
        double sum[N];
        encode_row(novel[t], left[t]);
        keep_largest(novel[t], k);
        for (int j = 0; j < N; j++)
            sum[j] = novel[t][j] + predicted[t][j];
        decode_row(out[t], sum);
        for (int i = 0; i < D; i++)
            out[t][i] = (out[t][i] + (double)b_dec[i]) / factor;
    }
}

/* ---- ours ---- */

static float dense[ROWS * N], y[ROWS * D];

static void run(sae_model *m, int32_t max_rows, int64_t n)
{
    sae_ctx *ctx = ctx_make(m, max_rows);
    const sae_rows in = rows_plain(x, n, D), to = rows_plain(y, n, D);
    CTX_ACCEPTED(ctx, sae_encode_dense(ctx, dense, 0, &in));
    CTX_ACCEPTED(ctx, sae_forward(ctx, &to, &in));
    sae_ctx_free(ctx);
}

static void near(float got, double want, const char *what, int row, int at)
{
    ck_assert_msg(fabs((double)got - want) <= 1e-4 * (1.0 + fabs(want)), "%s of row %d at %d is %g, in double %g", what, row, at,
                  (double)got, want);
}

START_TEST(answers_in_double)
{
    const int32_t k = _i % 2 ? 5 : 0;
    sae_isa isas[8];
    answer(k, _i / 2 ? 0.5 : 1.0);
    for (size_t n = isas_available(isas), i = 0; i < n; i++)
        for (uint32_t form = 0; form < 4; form++) {
            sae_env *env = env_make(NULL, isas[i], run_shuffled, NULL, 3);
            sae_model *m = model_make(env, k, _i / 2 ? SAE_NORM_SCALE : SAE_NORM_NONE);
            ACCEPTED(sae_model_prepare(m, form, &err));
            run(m, 200, ROWS);
            for (int t = 0; t < ROWS; t++) {
                for (int j = 0; j < N; j++)
                    near(dense[t * N + j], novel[t][j], "code", t, j);
                for (int d = 0; d < D; d++)
                    near(y[t * D + d], out[t][d], "output", t, d);
            }
            sae_model_free(m);
            sae_env_free(env);
        }
}
END_TEST

/* A row sees only the rows before it, whatever comes after and whoever does the work. */
START_TEST(rows_see_the_rows_before)
{
    static const uint32_t workers[] = {1, 1, 3, THREADS_AT_ONCE};
    static const sae_run_fn runners[] = {run_forwards, run_backwards, run_shuffled, run_thread_each};
    float first_dense[ROWS * N], first_y[ROWS * D];
    for (size_t i = 0; i < LENGTH(runners); i++) {
        sae_env *env = env_make(NULL, SAE_ISA_AUTO, runners[i], NULL, workers[i]);
        sae_model *m = model_make(env, 5, SAE_NORM_NONE);
        run(m, 0, ROWS);
        if (!i) {
            memcpy(first_dense, dense, sizeof dense);
            memcpy(first_y, y, sizeof y);
        }
        ck_assert_mem_eq(dense, first_dense, sizeof dense);
        ck_assert_mem_eq(y, first_y, sizeof y);
        for (int64_t n = 1; n < ROWS; n += 37) {
            run(m, (int32_t)n, n);
            ck_assert_mem_eq(dense, first_dense, (size_t)n * N * sizeof(float));
            ck_assert_mem_eq(y, first_y, (size_t)n * D * sizeof(float));
        }
        sae_model_free(m);
        sae_env_free(env);
    }
}
END_TEST

START_TEST(refusals)
{
    heap_init(&counted);
    sae_env *env = env_make(&counted, SAE_ISA_AUTO, NULL, NULL, 0);
    sae_model *m = model_make(env, 5, SAE_NORM_NONE);
    sae_ctx *ctx = ctx_make(m, ROWS - 1), *none = NULL;
    sae_probe *probe;
    sae_plan *plan;
    const int32_t feature = 3;
    const sae_edit edit = {.struct_size = sizeof edit, .op = SAE_ADD, .value = 1.0f, .model = m, .feature = 3};
    const sae_ctx_options too_many = {.struct_size = sizeof too_many, .max_rows = 65537};
    const sae_rows in = rows_plain(x, ROWS, D), to = rows_plain(y, ROWS, D);
    sae_codes codes = codes_make(ROWS, ROWS * N, false);
    float error[ROWS];
    CTX_REFUSED(SAE_E_SHAPE, "150 rows|149|max_rows", ctx, sae_encode(ctx, &codes, &in));
    CTX_REFUSED(SAE_E_SHAPE, "150 rows|149|max_rows", ctx, sae_forward(ctx, &to, &in));
    CTX_REFUSED(SAE_E_UNSUPPORTED, "sae_forward|rows before", ctx, sae_measure(ctx, error, NULL, &in, &codes));
    REFUSED(SAE_E_UNSUPPORTED, "temporal|sae_encode", sae_probe_create(&probe, m, &feature, 1, &err));
    REFUSED(SAE_E_UNSUPPORTED, "edits[0]|temporal|vector", sae_plan_compile(&plan, env, D, 1, &edit, 1, &err));
    REFUSED(SAE_E_ARG, "65537|65536", sae_ctx_create(&none, m, &too_many, &err));
    const sae_rows empty = rows_plain(x, 0, D);
    CTX_ACCEPTED(ctx, sae_encode(ctx, &codes, &empty));
    codes_free(&codes);
    sae_ctx_free(ctx);
    sae_model_free(m);
    sae_env_free(env);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), 0);
}
END_TEST

/* A runner that fails at any of its calls is SAE_E_HOST. */
START_TEST(host_fails)
{
    int left_to_run = 0, failed = 0;
    sae_env *plain = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0), *env = env_make(NULL, SAE_ISA_AUTO, run_failing, &left_to_run, 1);
    for (int succeed = 0;; succeed++, failed++) {
        left_to_run = 1000;
        sae_model *m = model_make(env, 5, SAE_NORM_NONE);
        sae_ctx *ctx = ctx_make(m, 0);
        const sae_rows in = rows_plain(x, 3, D), to = rows_plain(y, 3, D);
        left_to_run = succeed;
        const sae_status status = sae_forward(ctx, &to, &in);
        if (status)
            refusal(__LINE__, status, SAE_E_HOST, sae_ctx_error(ctx), "parallel-for");
        sae_ctx_free(ctx);
        sae_model_free(m);
        if (!status)
            break;
    }
    ck_assert_int_eq(failed, LAYERS * 2 + 1); /* products of one tile need no runner */
    sae_env_free(env);
    sae_env_free(plain);
}
END_TEST

int main(void)
{
    seed();
    Suite *suite = suite_create("temporal");
    TCase *tc = tcase_create("temporal");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, answers_in_double, 0, 4);
    tcase_add_test(tc, rows_see_the_rows_before);
    tcase_add_test(tc, refusals);
    tcase_add_test(tc, host_fails);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
