/* Screened encodes by the million: codes of wide SAEs and of small hostile ones are the dense ones, and no value is above its bound.
 *
 *     soak_screen [--wide ROWS] [--rows N] [--pairs N] [--seconds S] [--seed S] [--jobs N]
 *
 * Each part goes on until it has its count, or for S seconds: ROWS rows per architecture at 2304x16384 and 768x24576; N rows of small SAEs of
 * all architectures on the hostile classes of support/hostile.h; N pairs of a row and a feature, by the real kernels. What is tried depends on
 * the seed and the counts alone. The last line is JSON; exit status 1 if anything was found. */
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "codec/screen.h"
#include "support/hostile.h"

enum { MOST_JOBS = 64 };

/* What all jobs have done, in memory that they share. */
typedef struct tally {
    _Atomic(int64_t) wide_rows, wide_wrong, wide_screened, wide_candidates; /* candidates in millionths of the features */
    _Atomic(int64_t) rows, distinct, wrong, screened, dense;
    _Atomic(int64_t) pairs, outside, refused;
} tally;

typedef struct plan {
    int64_t wide, rows, pairs;
    double seconds;
    uint64_t seed;
    int jobs;
} plan;

static tally *all;
static plan todo = {10000, 10000000, 1000000000, 0, 1, 2};
static double began;

static double now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Something that has to work did not: the soak says nothing. */
static void need(bool there, const char *what)
{
    if (there)
        return;
    fprintf(stderr, "soak_screen: %s\n", what);
    exit(2);
}

/* The first finds of a job. */
__attribute__((format(printf, 1, 2))) static void tell(const char *fmt, ...)
{
    static int told;
    va_list args;
    if (told++ >= 10)
        return;
    fputs("soak_screen: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

static void add(_Atomic(int64_t) *to, int64_t n)
{
    atomic_fetch_add_explicit(to, n, memory_order_relaxed);
}

static void *memory(size_t n, size_t each)
{
    void *p = calloc(n ? n : 1, each);
    need(p != NULL, "there is no memory");
    return p;
}

static bool time_is_up(double since)
{
    return todo.seconds > 0 && now() - since > todo.seconds;
}

/* ---- models and codes ---- */

static sae_env *env_of(sae_isa isa, sae_pool *pool)
{
    sae_env *env;
    sae_error err = {.struct_size = sizeof err};
    sae_env_options opt = {.struct_size = sizeof opt, .isa = isa};
    if (pool) {
        opt.run = sae_pool_run;
        opt.run_user = pool;
        opt.max_workers = sae_pool_threads(pool);
    }
    need(sae_env_create(&env, &opt, &err) == SAE_OK, err.text);
    return env;
}

static sae_model *model_from(sae_env *env, const sae_weights *w, uint32_t prepare)
{
    sae_model *model;
    sae_error err = {.struct_size = sizeof err};
    need(sae_model_create(&model, env, w, &err) == SAE_OK, err.text);
    need(sae_model_prepare(model, prepare, &err) == SAE_OK, err.text);
    need(atomic_load(&model->screen) != NULL, "a model was not screened");
    return model;
}

static sae_ctx *ctx_from(sae_model *model, int32_t max_rows, int32_t screen)
{
    sae_ctx *ctx;
    sae_error err = {.struct_size = sizeof err};
    const sae_ctx_options opt = {.struct_size = sizeof opt, .max_rows = max_rows, .screen = screen};
    need(sae_ctx_create(&ctx, model, &opt, &err) == SAE_OK, err.text);
    return ctx;
}

static sae_codes codes_room(int64_t rows, int64_t d_sae)
{
    sae_codes c = {.struct_size = sizeof c, .n_rows = rows, .capacity = rows * d_sae};
    c.indptr = memory((size_t)rows + 1, sizeof *c.indptr);
    c.indices = memory((size_t)c.capacity, sizeof *c.indices);
    c.values = memory((size_t)c.capacity, sizeof *c.values);
    return c;
}

static void codes_drop(sae_codes *c)
{
    free(c->indptr);
    free(c->indices);
    free(c->values);
}

static void encode(sae_ctx *ctx, sae_codes *to, const sae_rows *x)
{
    need(sae_encode(ctx, to, x) == SAE_OK, sae_ctx_error(ctx));
}

static bool equal(const sae_codes *a, const sae_codes *b, int64_t rows)
{
    const size_t n = (size_t)a->indptr[rows];
    return memcmp(a->indptr, b->indptr, ((size_t)rows + 1) * sizeof *a->indptr) == 0 &&
           memcmp(a->indices, b->indices, n * sizeof *a->indices) == 0 && memcmp(a->values, b->values, n * sizeof *a->values) == 0;
}

static sae_ctx_counts counted(const sae_ctx *ctx)
{
    sae_ctx_counts c = {.struct_size = sizeof c};
    need(sae_ctx_count(ctx, &c) == SAE_OK, "a ctx has no counts");
    return c;
}

static const sae_arch archs[] = {SAE_STANDARD, SAE_JUMPRELU, SAE_GATED, SAE_TOPK, SAE_GROUPMAX};

/* ---- wide SAEs: planted features and noise ---- */

enum { AT_ONCE = 64, PLANTED = 24 };

typedef struct wide {
    int32_t d, n;
    float *w, *minus, *two, *zero; /* [n][d]; [n] of -2, 2 and 0 */
    float *x;                      /* [AT_ONCE][d] */
} wide;

static wide wide_make(int32_t d, int32_t n, uint64_t seed)
{
    wide a = {d, n, memory((size_t)d * (size_t)n, 4), memory((size_t)n, 4), memory((size_t)n, 4), memory((size_t)n, 4), NULL};
    rng r = {seed};
    a.x = memory((size_t)AT_ONCE * (size_t)d, sizeof *a.x);
    for (size_t i = 0; i < (size_t)d * (size_t)n; i++) /* rows of length 1 */
        a.w[i] = (float)((rng_between(&r, -1, 1) + rng_between(&r, -1, 1)) * sqrt(1.5 / d));
    for (int32_t j = 0; j < n; j++) {
        a.minus[j] = -2.0f;
        a.two[j] = 2.0f;
    }
    return a;
}

static void wide_free(wide *a)
{
    free(a->w);
    free(a->minus);
    free(a->two);
    free(a->zero);
    free(a->x);
}

/* Some features near their thresholds or above, noise, and in one row of 16 a channel that is far out. */
static void wide_rows(const wide *a, rng *r)
{
    for (int32_t row = 0; row < AT_ONCE; row++) {
        float *x = a->x + (size_t)row * (size_t)a->d;
        for (int32_t k = 0; k < a->d; k++)
            x[k] = (float)(0.5 * (rng_between(r, -1, 1) + rng_between(r, -1, 1)));
        for (int i = 0; i < PLANTED; i++) {
            const float *w = a->w + (size_t)rng_below(r, (uint32_t)a->n) * (size_t)a->d;
            const float c = (float)rng_between(r, 1, 8);
            for (int32_t k = 0; k < a->d; k++)
                x[k] += c * w[k];
        }
        if (row % 16 == 15)
            x[rng_below(r, (uint32_t)a->d)] = 100.0f;
    }
}

static sae_model *wide_model(const wide *a, sae_arch arch, sae_env *env)
{
    const sae_weights w = {.struct_size = sizeof w,
                           .arch = arch,
                           .dtype = SAE_F32,
                           .flags = SAE_BORROW | SAE_W_ENC_BY_ROWS,
                           .d_in = a->d,
                           .d_sae = a->n,
                           .k = arch == SAE_TOPK       ? 32
                                : arch == SAE_GROUPMAX ? 64
                                                       : 0,
                           .w_enc = a->w,
                           .w_dec = a->w,
                           .b_enc = arch == SAE_JUMPRELU ? a->zero : a->minus,
                           .threshold = arch == SAE_JUMPRELU ? a->two : NULL,
                           .b_gate = a->minus,
                           .b_mag = a->zero,
                           .r_mag = a->zero};
    return model_from(env, &w, SAE_PREPARE_PANELS | SAE_PREPARE_SCREEN);
}

/* Rows of one architecture: dense 64 at once, screened in blocks of 1, 3, 8 and 64. */
static void soak_arch(const wide *a, sae_arch arch, sae_env *env, double since)
{
    static const int32_t blocks[] = {1, 3, 8, AT_ONCE};
    sae_model *model = wide_model(a, arch, env);
    sae_ctx *dense = ctx_from(model, AT_ONCE, SAE_NO), *screened[4];
    sae_codes want = codes_room(AT_ONCE, a->n), got = codes_room(AT_ONCE, a->n);
    const sae_rows x = {.struct_size = sizeof x, .dtype = SAE_F32, .x = a->x, .n_rows = AT_ONCE};
    for (int b = 0; b < 4; b++)
        screened[b] = ctx_from(model, blocks[b], SAE_YES);
    for (int64_t done = 0; done < todo.wide && !time_is_up(since); done += AT_ONCE) {
        rng r = {todo.seed + (uint64_t)done * 8 + (uint64_t)arch};
        const int64_t step = done / AT_ONCE % 20;
        wide_rows(a, &r);
        encode(dense, &want, &x);
        encode(screened[step == 0 ? 0 : step == 1 ? 1 : step < 5 ? 2 : 3], &got, &x);
        add(&all->wide_rows, AT_ONCE);
        if (!equal(&want, &got, AT_ONCE)) {
            add(&all->wide_wrong, 1);
            tell("%s %d x %d, rows from %lld on: other codes", sae_arch_name(arch), (int)a->d, (int)a->n, (long long)done);
        }
    }
    for (int b = 0; b < 4; b++) {
        const sae_ctx_counts c = counted(screened[b]);
        add(&all->wide_screened, c.rows_screened);
        add(&all->wide_candidates, (int64_t)(1e6 * (double)c.candidates / a->n));
        sae_ctx_free(screened[b]);
    }
    codes_drop(&want);
    codes_drop(&got);
    sae_ctx_free(dense);
    sae_model_free(model);
}

/* On one env whose threads are the jobs. */
static void soak_wide(double since)
{
    static const int32_t shapes[][2] = {{2304, 16384}, {768, 24576}};
    sae_pool *pool;
    need(sae_pool_create(&pool, (uint32_t)todo.jobs, NULL) == SAE_OK, "there are no threads");
    sae_env *env = env_of(SAE_ISA_AUTO, pool);
    for (size_t s = 0; s < LENGTH(shapes) && todo.wide && !time_is_up(since); s++) {
        wide a = wide_make(shapes[s][0], shapes[s][1], todo.seed + s);
        for (size_t i = 0; i < LENGTH(archs) && !time_is_up(since); i++)
            soak_arch(&a, archs[i], env, since);
        wide_free(&a);
    }
    sae_env_free(env);
    sae_pool_free(pool);
}

/* ---- small hostile SAEs ---- */

static const size_t depths[] = {1, 3, 16, 37, 64, 129, 384};

/* The weights in bf16, cut, if `half` [N * d]. */
static sae_model *small_model(const data *a, sae_arch arch, sae_env *env, rng *r, const uint16_t *half)
{
    static const int32_t groups[] = {1, 5, 7, 25, 35, N};
    const int32_t k = arch == SAE_GROUPMAX ? groups[rng_below(r, LENGTH(groups))] : 1 + (int32_t)rng_below(r, rng_below(r, 4) ? 20 : N);
    const sae_weights w = {.struct_size = sizeof w,
                           .arch = arch,
                           .dtype = half ? SAE_BF16 : SAE_F32,
                           .flags = SAE_W_ENC_BY_ROWS | (rng_below(r, 2) ? SAE_APPLY_B_DEC : 0u),
                           .d_in = (int32_t)a->d,
                           .d_sae = N,
                           .k = arch == SAE_TOPK || arch == SAE_GROUPMAX ? k : 0,
                           .w_enc = half ? (const void *)half : a->w,
                           .w_dec = half ? (const void *)half : a->w,
                           .b_enc = a->bias,
                           .b_dec = a->centre,
                           .threshold = arch == SAE_JUMPRELU ? a->threshold : NULL,
                           .b_gate = a->gate,
                           .b_mag = a->bias,
                           .r_mag = a->scale};
    return model_from(env, &w, SAE_PREPARE_SCREEN);
}

/* One model: dense codes of its rows, and screened ones in all sizes of blocks. */
static void soak_model(const data *a, sae_model *model, int class, uint64_t number)
{
    static const int32_t blocks[] = {1, 2, 3, 4, 5, 8, ROWS};
    const sae_rows x = {.struct_size = sizeof x, .dtype = SAE_F32, .x = (void *)(uintptr_t)a->x, .n_rows = ROWS};
    sae_codes want = codes_room(ROWS, N), got = codes_room(ROWS, N);
    sae_ctx *dense = ctx_from(model, ROWS, SAE_NO);
    encode(dense, &want, &x);
    add(&all->distinct, ROWS);
    for (size_t b = 0; b < LENGTH(blocks); b++) {
        sae_ctx *screened = ctx_from(model, blocks[b], SAE_YES);
        encode(screened, &got, &x);
        const sae_ctx_counts c = counted(screened);
        add(&all->rows, ROWS);
        add(&all->screened, c.rows_screened);
        add(&all->dense, c.rows_dense);
        if (!equal(&want, &got, ROWS)) {
            add(&all->wrong, 1);
            tell("%s, class %d, d %zu, model %llu, blocks of %d: other codes", sae_arch_name(model->parts.arch), class, a->d,
                 (unsigned long long)number, (int)blocks[b]);
        }
        sae_ctx_free(screened);
    }
    codes_drop(&want);
    codes_drop(&got);
    sae_ctx_free(dense);
}

static void cut(uint16_t *half, const float *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, w + i, sizeof bits);
        half[i] = (uint16_t)(bits >> 16);
    }
}

static void soak_small(int job, double since)
{
    static uint16_t half[N * MOST_D];
    sae_isa isas[8];
    sae_env *envs[8];
    const size_t n_isas = isas_available(isas);
    for (size_t i = 0; i < n_isas; i++)
        envs[i] = env_of(isas[i], NULL);
    for (uint64_t number = (uint64_t)job; atomic_load(&all->rows) < todo.rows && !time_is_up(since); number += (uint64_t)todo.jobs) {
        rng r = {todo.seed * 1000003 + number};
        const int class = (int)(number % N_CLASSES);
        const uint32_t pick = rng_below(&r, 2 * LENGTH(depths)); /* shallow ones more often: they are many for one deep one */
        const size_t d = depths[pick < LENGTH(depths) ? pick : (pick - LENGTH(depths)) / 2];
        data *a = data_make(class, d, todo.seed + number);
        const bool cuts = rng_below(&r, 4) == 0;
        if (cuts)
            cut(half, a->w, N * d);
        for (size_t i = 0; i < LENGTH(archs); i++) {
            sae_model *model = small_model(a, archs[i], envs[rng_below(&r, (uint32_t)n_isas)], &r, cuts ? half : NULL);
            soak_model(a, model, class, number);
            sae_model_free(model);
        }
        free(a);
    }
    for (size_t i = 0; i < n_isas; i++)
        sae_env_free(envs[i]);
}

/* ---- bounds ---- */

enum { MORE = 64, WIDTH = (N + 15) / 16 * 16 };

/* U of all features for a row; false when the row is one that is not screened. */
static bool bounds_of(float *u, const float *x, const saei_screen *s, size_t d, const saei_kernels *k, bool two)
{
    static int8_t planes[(MOST_D + 15) / 16 * 32];
    static int32_t sums[2 * WIDTH];
    saei_spans spans;
    if (!saei_screen_row(&spans, planes, 32, planes + 16, 32, x, s, k, d))
        return false;
    k->int8_columns(sums, WIDTH, s->columns, WIDTH / 16, planes, 2, s->d16, NULL, 0);
    k->bounds(u, sums, two ? sums + WIDTH : NULL, N, 0, &s->bound, two ? &spans.fine : &spans.coarse);
    return true;
}

/* w . x in double, and how far that may be from the truth: sums of a feature's products and of their sizes. */
static void truth_of(double *dot, double *size, const float *turned, const float *x, size_t d)
{
    memset(dot, 0, WIDTH * sizeof *dot);
    memset(size, 0, WIDTH * sizeof *size);
    for (size_t k = 0; k < d; k++)
        for (size_t j = 0; j < WIDTH; j++) {
            const double product = (double)turned[k * WIDTH + j] * (double)x[k]; /* exact */
            dot[j] += product;
            size[j] += fabs(product);
        }
}

/* The rows of a set of data, then ones made of them: sums, one element changed, along a feature's weights, other lengths. */
static void vary(float *x, const data *a, size_t row, rng *r)
{
    const float *p = a->x + rng_below(r, ROWS) * a->d, *q = a->x + rng_below(r, ROWS) * a->d, *w = a->w + rng_below(r, N) * a->d;
    const float s = (float)rng_between(r, -2, 2), t = (float)rng_between(r, -2, 2);
    const int way = (int)rng_below(r, 4);
    for (size_t k = 0; k < a->d; k++)
        x[k] = row < ROWS ? a->x[row * a->d + k]
               : way == 0 ? s * p[k] + t * q[k]
               : way == 1 ? a->centre[k] + t * w[k]
               : way == 2 ? ldexpf(p[k], (int)(10 * t))
                          : p[k];
    if (row >= ROWS && way == 3)
        x[rng_below(r, (uint32_t)a->d)] = 50 * s;
}

/* Neither what is published nor the truth, as a float, lies above its bound: the bound is rounded last, and rounding keeps the order. */
static void soak_row(const data *a, const float *x, const float *turned, const saei_screen *s, const saei_kernels *k, uint64_t number)
{
    static double dot[WIDTH], size[WIDTH];
    float u[N], dots[N];
    const saei_matrix w = {a->w, SAE_F32, false, N, (int32_t)a->d};
    const double u53 = (double)(a->d + 2) * 0x1p-53;
    bool ready = false;
    for (int two = 0; two < 2; two++) {
        if (!bounds_of(u, x, s, a->d, k, two)) {
            add(&all->refused, 1);
            continue;
        }
        if (!ready) {
            k->dot_rows(dots, N, &w, NULL, 0, N, x, a->d, 1);
            truth_of(dot, size, turned, x, a->d);
            ready = true;
        }
        int64_t outside = 0;
        for (size_t j = 0; j < N; j++) {
            const double truth = dot[j] + (double)a->bias[j], lost = u53 * (size[j] + fabs((double)a->bias[j]));
            outside += u[j] < dots[j] + a->bias[j] || u[j] < (float)(truth - lost);
        }
        add(&all->pairs, N);
        if (outside) {
            add(&all->outside, outside);
            tell("data %llu, d %zu, planes %d: %lld values above their bounds", (unsigned long long)number, a->d, two + 1,
                 (long long)outside);
        }
    }
}

static void soak_bounds(int job, double since)
{
    static float turned[MOST_D * WIDTH], x[MOST_D];
    sae_isa isas[8];
    sae_env *envs[8];
    const size_t n_isas = isas_available(isas);
    for (size_t i = 0; i < n_isas; i++)
        envs[i] = env_of(isas[i], NULL);
    for (uint64_t number = (uint64_t)job; atomic_load(&all->pairs) < todo.pairs && !time_is_up(since); number += (uint64_t)todo.jobs) {
        rng r = {todo.seed * 999983 + number};
        const size_t d = depths[rng_below(&r, LENGTH(depths))], isa = rng_below(&r, (uint32_t)n_isas);
        data *a = data_make((int)(number % N_CLASSES), d, todo.seed + number + 1000000007);
        sae_model *model = small_model(a, SAE_STANDARD, envs[isa], &r, NULL);
        memset(turned, 0, sizeof turned);
        for (size_t j = 0; j < N; j++)
            for (size_t k = 0; k < d; k++)
                turned[k * WIDTH + j] = a->w[j * d + k];
        for (size_t row = 0; row < MORE; row++) {
            vary(x, a, row, &r);
            soak_row(a, x, turned, atomic_load(&model->screen), saei_kernels_for(isas[isa]), number);
        }
        sae_model_free(model);
        free(a);
    }
    for (size_t i = 0; i < n_isas; i++)
        sae_env_free(envs[i]);
}

/* ---- jobs ---- */

typedef void part(int job, double since);

static void show(void)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%lld wide rows, %lld small rows, %lld pairs; %lld wrong, %.0f s ", (long long)atomic_load(&all->wide_rows),
                (long long)atomic_load(&all->rows), (long long)atomic_load(&all->pairs),
                (long long)(atomic_load(&all->wide_wrong) + atomic_load(&all->wrong) + atomic_load(&all->outside)), now() - began);
}

/* Runs a part in processes of its own; how many seconds that took. */
static double in_jobs(part *run, int jobs)
{
    pid_t children[MOST_JOBS];
    const double since = now();
    int left = jobs, status;
    for (int job = 0; job < jobs; job++) {
        children[job] = fork();
        need(children[job] >= 0, "there are no processes");
        if (!children[job]) {
            run(job, since);
            exit(0);
        }
    }
    while (left) {
        const struct timespec pause = {0, 100000000};
        for (int job = 0; job < jobs; job++)
            if (children[job] && waitpid(children[job], &status, WNOHANG) == children[job]) {
                need(status == 0, "a job failed");
                children[job] = 0;
                left--;
            }
        show();
        (void)nanosleep(&pause, NULL);
    }
    return now() - since;
}

static void wide_part(int job, double since)
{
    (void)job;
    soak_wide(since);
}

static void report(double wide_seconds, double small_seconds, double bounds_seconds)
{
    const double screened = (double)atomic_load(&all->wide_screened);
    printf(
        "{\"seed\": %llu, \"wide\": {\"rows\": %lld, \"screened\": %lld, \"candidates_percent\": %.3f, \"differences\": %lld, \"seconds\": "
        "%.1f}, ",
        (unsigned long long)todo.seed, (long long)atomic_load(&all->wide_rows), (long long)screened,
        screened > 0 ? 1e-4 * (double)atomic_load(&all->wide_candidates) / screened : 0.0, (long long)atomic_load(&all->wide_wrong),
        wide_seconds);
    printf(
        "\"small\": {\"rows\": %lld, \"distinct\": %lld, \"screened\": %lld, \"dense\": %lld, \"differences\": %lld, \"seconds\": %.1f}, ",
        (long long)atomic_load(&all->rows), (long long)atomic_load(&all->distinct), (long long)atomic_load(&all->screened),
        (long long)atomic_load(&all->dense), (long long)atomic_load(&all->wrong), small_seconds);
    printf("\"bounds\": {\"pairs\": %lld, \"outside\": %lld, \"rows_refused\": %lld, \"seconds\": %.1f}}\n",
           (long long)atomic_load(&all->pairs), (long long)atomic_load(&all->outside), (long long)atomic_load(&all->refused),
           bounds_seconds);
}

static void read_options(int argc, char **argv)
{
    static const struct option longs[] = {{"wide", 1, NULL, 'w'},
                                          {"rows", 1, NULL, 'r'},
                                          {"pairs", 1, NULL, 'p'},
                                          {"seconds", 1, NULL, 't'},
                                          {"seed", 1, NULL, 's'},
                                          {"jobs", 1, NULL, 'j'},
                                          {0}};
    for (int id; (id = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        const double value = optarg ? strtod(optarg, NULL) : 0; /* 1e9 is a number too */
        switch (id) {
        case 'w':
            todo.wide = (int64_t)value;
            break;
        case 'r':
            todo.rows = (int64_t)value;
            break;
        case 'p':
            todo.pairs = (int64_t)value;
            break;
        case 't':
            todo.seconds = value;
            break;
        case 's':
            todo.seed = (uint64_t)value;
            break;
        case 'j':
            todo.jobs = (int)value;
            break;
        default:
            need(false, "usage: soak_screen [--wide ROWS] [--rows N] [--pairs N] [--seconds S] [--seed S] [--jobs N]");
        }
    }
    need(todo.jobs >= 1 && todo.jobs <= MOST_JOBS, "--jobs is outside 1 .. 64");
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    began = now();
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    need(all != MAP_FAILED, "there is no memory to share");
    const double wide_seconds = todo.wide ? in_jobs(wide_part, 1) : 0;
    const double small_seconds = todo.rows ? in_jobs(soak_small, todo.jobs) : 0;
    const double bounds_seconds = todo.pairs ? in_jobs(soak_bounds, todo.jobs) : 0;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\n");
    report(wide_seconds, small_seconds, bounds_seconds);
    return atomic_load(&all->wide_wrong) + atomic_load(&all->wrong) + atomic_load(&all->outside) ? EXIT_FAILURE : EXIT_SUCCESS;
}
