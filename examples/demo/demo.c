/* The main job of libsae on one screen, with an SAE whose features are known (planted.h). Needs no file and no network. */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sae.h>

#include "planted.h"
#include "report.h"

enum { BITS_ROWS = 96, CAPACITY = N_ROWS * 64 };

/* Codes and the arrays they live in. */
typedef struct code_store {
    sae_codes codes;
    int64_t indptr[N_ROWS + 1];
    int32_t indices[CAPACITY];
    float values[CAPACITY];
} code_store;

typedef struct demo {
    planted *world;
    sae_env *env;
    sae_model *model;
    sae_ctx *ctx;
    code_store *found;
    code_store *other;
    report report;
} demo;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The demo has nothing to clean up for anybody: a failure ends it with the library's sentence. */
static void need(sae_status status, const char *sentence)
{
    if (!status)
        return;
    fprintf(stderr, "demo: %s: %s\n", sae_status_name(status), sentence);
    exit(1);
}

static void *memory(size_t bytes)
{
    void *p = calloc(1, bytes);
    if (!p)
        need(SAE_E_NOMEM, sae_status_text(SAE_E_NOMEM));
    return p;
}

static code_store *new_store(void)
{
    code_store *s = memory(sizeof *s);
    s->codes =
        (sae_codes){.struct_size = sizeof s->codes, .capacity = CAPACITY, .indptr = s->indptr, .indices = s->indices, .values = s->values};
    return s;
}

static sae_rows rows_of(float *x, int64_t n)
{
    return (sae_rows){.struct_size = sizeof(sae_rows), .dtype = SAE_F32, .x = x, .n_rows = n};
}

static void encode(sae_ctx *ctx, code_store *out, float *x, int64_t n)
{
    const sae_rows rows = rows_of(x, n);
    need(sae_encode(ctx, &out->codes, &rows), sae_ctx_error(ctx));
}

static float code_of(const code_store *s, int64_t row, int32_t feature)
{
    for (int64_t i = s->indptr[row]; i < s->indptr[row + 1]; i++)
        if (s->indices[i] == feature)
            return s->values[i];
    return 0.0f;
}

static void create_model(sae_model **model, sae_env *env, const planted *w)
{
    sae_error err = {.struct_size = sizeof err};
    const sae_weights weights = {.struct_size = sizeof weights,
                                 .arch = SAE_JUMPRELU,
                                 .dtype = SAE_F32,
                                 .flags = SAE_BORROW | SAE_APPLY_B_DEC,
                                 .d_in = D_IN,
                                 .d_sae = D_SAE,
                                 .w_enc = w->w_enc,
                                 .w_dec = w->w_dec,
                                 .b_dec = w->b_dec,
                                 .threshold = w->threshold};
    need(sae_model_create(model, env, &weights, &err), err.text);
}

/* ---- what is found, and how well it explains the rows ---- */

static void add_row_feature(demo *d, int32_t feature, float planted_at, float found)
{
    if (d->report.n_row == MAX_ROW)
        return;
    row_feature *f = d->report.row + d->report.n_row++;
    *f = (row_feature){.feature = feature, .planted = planted_at, .found = found};
    planted_name(f->name, NAME_BYTES, feature);
}

static void show_row(demo *d, int32_t row)
{
    for (int i = 0; i < N_ACTIVE; i++) {
        const int32_t feature = d->world->feature[row][i];
        add_row_feature(d, feature, d->world->strength[row][i], code_of(d->found, row, feature));
    }
    for (int64_t i = d->found->indptr[row]; i < d->found->indptr[row + 1]; i++)
        if (planted_strength(d->world, row, d->found->indices[i]) == 0.0f)
            add_row_feature(d, d->found->indices[i], 0.0f, d->found->values[i]);
}

static void find(demo *d)
{
    report *r = &d->report;
    encode(d->ctx, d->found, d->world->x[0], N_ROWS);
    r->n_planted = N_ROWS * N_ACTIVE;
    r->n_found = d->found->indptr[N_ROWS];
    for (int32_t row = 0; row < N_ROWS; row++)
        for (int i = 0; i < N_ACTIVE; i++)
            r->n_both += code_of(d->found, row, d->world->feature[row][i]) > 0.0f;
    show_row(d, 0);
}

/* The planted truth as codes: what a perfect encoder would have found. */
static void true_codes(demo *d)
{
    code_store *s = d->other;
    s->codes.n_rows = N_ROWS;
    for (int32_t row = 0; row <= N_ROWS; row++)
        s->indptr[row] = (int64_t)row * N_ACTIVE;
    memcpy(s->indices, d->world->feature, sizeof d->world->feature);
    memcpy(s->values, d->world->strength, sizeof d->world->strength);
}

static void explain(demo *d)
{
    float error[N_ROWS];
    const sae_rows x = rows_of(d->world->x[0], N_ROWS);
    need(sae_measure(d->ctx, error, &d->report.fvu, &x, &d->found->codes), sae_ctx_error(d->ctx));
    true_codes(d);
    need(sae_measure(d->ctx, error, &d->report.fvu_planted, &x, &d->other->codes), sae_ctx_error(d->ctx));
}

/* ---- neighbours ---- */

static void look_around(demo *d)
{
    enum { ASKED = 128 };
    report *r = &d->report;
    sae_error err = {.struct_size = sizeof err};
    sae_index *index = NULL;
    need(sae_index_create(&index, d->model, SAE_BY_DECODER, &err), err.text);
    const size_t scratch_bytes = sae_index_scratch_bytes(index);
    void *scratch = memory(scratch_bytes);
    int32_t features[MAX_NEAR];
    float cosines[MAX_NEAR];
    sae_neighbors near = {.struct_size = sizeof near, .k = MAX_NEAR, .features = features, .cosines = cosines};
    for (int i = 0; i < ASKED; i++) {
        const int32_t feature = i * (D_SAE / ASKED);
        need(sae_index_nearest_feature(index, &near, feature, scratch, scratch_bytes, &err), err.text);
        r->twins += near.n > 0 && features[0] == planted_twin(feature);
    }
    r->twins_asked = ASKED;

    r->near_feature = d->world->feature[0][0];
    planted_name(r->near_name, NAME_BYTES, r->near_feature);
    near.k = 3;
    need(sae_index_nearest_feature(index, &near, r->near_feature, scratch, scratch_bytes, &err), err.text);
    for (r->n_near = 0; r->n_near < near.n; r->n_near++) {
        near_feature *f = r->near + r->n_near;
        *f = (near_feature){.feature = features[r->n_near], .cosine = cosines[r->n_near]};
        planted_name(f->name, NAME_BYTES, f->feature);
    }
    free(scratch);
    sae_index_free(index);
}

/* ---- steering ---- */

/* Splits the change of a row into its length and the length of what is not along the (unit) direction. */
static void compare(report *r, const float *before, const float *after, const float *direction)
{
    double square = 0.0, along = 0.0, aside = 0.0;
    for (int k = 0; k < D_IN; k++) {
        const double change = (double)after[k] - (double)before[k];
        square += change * change;
        along += change * (double)direction[k];
    }
    for (int k = 0; k < D_IN; k++) {
        const double rest = (double)after[k] - (double)before[k] - along * (double)direction[k];
        aside += rest * rest;
    }
    r->moved = sqrt(square);
    r->moved_aside = sqrt(aside);
}

static int32_t strongest(const code_store *s, int64_t row)
{
    int64_t best = s->indptr[row];
    for (int64_t i = best; i < s->indptr[row + 1]; i++)
        best = s->values[i] > s->values[best] ? i : best;
    return s->indices[best];
}

static sae_plan *clamp_plan(demo *d)
{
    sae_error err = {.struct_size = sizeof err};
    sae_plan *plan = NULL;
    const sae_edit edit = {
        .struct_size = sizeof edit, .op = SAE_SET, .value = d->report.clamp_to, .model = d->model, .feature = d->report.clamp_feature};
    need(sae_plan_compile(&plan, d->env, D_IN, 1, &edit, 1, &err), err.text);
    return plan;
}

static void steer(demo *d)
{
    report *r = &d->report;
    sae_error err = {.struct_size = sizeof err};
    float x[2][D_IN], direction[D_IN];
    const int32_t slot[2] = {0, -1};
    r->clamp_feature = strongest(d->found, 0);
    r->clamp_to = 20.0f;
    planted_name(r->clamp_name, NAME_BYTES, r->clamp_feature);
    r->z_before = code_of(d->found, 0, r->clamp_feature);
    memcpy(x, d->world->x, sizeof x);

    sae_plan *plan = clamp_plan(d);
    const size_t scratch_bytes = sae_plan_scratch_bytes(plan);
    void *scratch = memory(scratch_bytes);
    sae_rows rows = rows_of(x[0], 2);
    rows.slot = slot;
    need(sae_plan_apply(plan, &rows, scratch, scratch_bytes, &err), err.text);
    need(sae_model_read(d->model, SAE_W_DEC, r->clamp_feature, 1, direction, &err), err.text);
    compare(r, d->world->x[0], x[0], direction);
    r->row_kept = !memcmp(x[1], d->world->x[1], sizeof x[1]);

    encode(d->ctx, d->other, x[0], 1);
    r->z_after = code_of(d->other, 0, r->clamp_feature);
    for (int64_t i = d->found->indptr[0]; i < d->found->indptr[1]; i++) {
        const int32_t feature = d->found->indices[i];
        r->others += feature != r->clamp_feature;
        r->others_kept += feature != r->clamp_feature && code_of(d->other, 0, feature) > 0.0f;
    }
    free(scratch);
    sae_plan_free(plan);
}

/* ---- speed ---- */

/* One case: does its work on `n` rows. */
typedef struct timed {
    demo *d;
    sae_probe *probe;
    sae_plan *plan;
    void *scratch;
    size_t scratch_bytes;
    float *x; /* a copy that steering may change, then room for decoded rows */
} timed;

typedef void (*timed_fn)(timed *t, int64_t n);

static void time_encode(timed *t, int64_t n)
{
    encode(t->d->ctx, t->d->other, t->x, n);
}

static void time_probe(timed *t, int64_t n)
{
    float out[64 * 4];
    const sae_rows rows = rows_of(t->x, n);
    need(sae_probe_run(t->probe, t->d->ctx, out, 0, &rows, 0), sae_ctx_error(t->d->ctx));
}

static void time_steer(timed *t, int64_t n)
{
    sae_error err = {.struct_size = sizeof err};
    const sae_rows rows = rows_of(t->x, n);
    need(sae_plan_apply(t->plan, &rows, t->scratch, t->scratch_bytes, &err), err.text);
}

static void time_decode(timed *t, int64_t n)
{
    const sae_rows rows = rows_of(t->x + 64 * D_IN, n);
    t->d->found->codes.n_rows = n;
    need(sae_decode(t->d->ctx, &rows, &t->d->found->codes), sae_ctx_error(t->d->ctx));
    t->d->found->codes.n_rows = N_ROWS;
}

/* The best of as many repeats as fit into a tenth of a second, at least three, per row. */
static void measure(demo *d, timed *t, const char *what, timed_fn fn)
{
    static const int64_t batch[3] = {1, 8, 64};
    speed_line *line = d->report.speed + d->report.n_speed++;
    line->what = what;
    for (int b = 0; b < 3; b++) {
        double best = 1e9;
        const double begin = now();
        for (int i = 0; i < 3 || now() - begin < 0.1; i++) {
            const double start = now();
            fn(t, batch[b]);
            const double took = now() - start;
            best = took < best ? took : best;
        }
        line->us[b] = 1e6 * best / (double)batch[b];
    }
}

static void time_all(demo *d)
{
    sae_error err = {.struct_size = sizeof err};
    timed t = {.d = d, .plan = clamp_plan(d), .x = memory(2 * 64 * D_IN * sizeof(float))};
    memcpy(t.x, d->world->x, 64 * D_IN * sizeof(float));
    t.scratch_bytes = sae_plan_scratch_bytes(t.plan);
    t.scratch = memory(t.scratch_bytes);
    need(sae_probe_create(&t.probe, d->model, d->world->feature[0], 4, &err), err.text);
    measure(d, &t, "encode, weights as stored", time_encode);
    need(sae_model_prepare(d->model, SAE_PREPARE_PANELS, &err), err.text);
    measure(d, &t, "encode, prepared", time_encode);
    measure(d, &t, "probe 4 features", time_probe);
    measure(d, &t, "decode", time_decode);
    measure(d, &t, "clamp 1 feature", time_steer);
    sae_probe_free(t.probe);
    sae_plan_free(t.plan);
    free(t.scratch);
    free(t.x);
}

/* ---- the same bits ---- */

static uint64_t fnv(uint64_t hash, const void *data, size_t bytes)
{
    for (const unsigned char *p = data; bytes--; p++)
        hash = (hash ^ *p) * 0x100000001b3u;
    return hash;
}

static uint64_t hash_codes(const code_store *s)
{
    const size_t n = (size_t)s->indptr[s->codes.n_rows];
    uint64_t hash = fnv(0xcbf29ce484222325u, s->indptr, (size_t)(s->codes.n_rows + 1) * sizeof *s->indptr);
    hash = fnv(hash, s->indices, n * sizeof *s->indices);
    return fnv(hash, s->values, n * sizeof *s->values);
}

/* Encodes the first rows with the env that `opt` describes, `batch` rows at a time inside. */
static uint64_t hash_with(demo *d, const sae_env_options *opt, int32_t batch)
{
    sae_error err = {.struct_size = sizeof err};
    const sae_ctx_options ctx_opt = {.struct_size = sizeof ctx_opt, .max_rows = batch};
    sae_env *env = NULL;
    sae_model *model = NULL;
    sae_ctx *ctx = NULL;
    need(sae_env_create(&env, opt, &err), err.text);
    create_model(&model, env, d->world);
    need(sae_ctx_create(&ctx, model, &ctx_opt, &err), err.text);
    encode(ctx, d->other, d->world->x[0], BITS_ROWS);
    sae_ctx_free(ctx);
    sae_model_free(model);
    sae_env_free(env);
    return hash_codes(d->other);
}

static void same_bits(demo *d)
{
    static const sae_isa all[] = {SAE_ISA_SCALAR, SAE_ISA_NEON, SAE_ISA_AVX2, SAE_ISA_AVX512};
    report *r = &d->report;
    sae_env_options opt = {.struct_size = sizeof opt};
    r->same_isa = true;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (sae_isa_available(all[i]) != SAE_YES)
            continue;
        opt.isa = all[i];
        r->isas[r->n_isas] = (isa_line){sae_isa_name(all[i]), hash_with(d, &opt, 64)};
        r->same_isa &= r->isas[r->n_isas++].hash == r->isas[0].hash;
    }
    opt.isa = SAE_ISA_AUTO;
    r->same_batch = hash_with(d, &opt, 1) == r->isas[0].hash && hash_with(d, &opt, 8) == r->isas[0].hash;

    sae_error err = {.struct_size = sizeof err};
    sae_pool *pool = NULL;
    need(sae_pool_create(&pool, 0, &err), err.text);
    opt.run = sae_pool_run;
    opt.run_user = pool;
    opt.max_workers = r->threads = sae_pool_threads(pool);
    r->same_threads = hash_with(d, &opt, 64) == r->isas[0].hash;
    sae_pool_free(pool);
}

static int help(void)
{
    puts("usage: demo [--json] [--seed N]\n\n"
         "Grows a sparse autoencoder whose features are known, encodes rows that are sums of those features, and shows what\n"
         "libsae finds, how near features are, what a clamp changes, how long it takes, and that every instruction set\n"
         "gives the same bits. Everything but the timings is the same on every machine.\n\n"
         "  --json    the same as JSON\n"
         "  --seed N  another world (default 1)\n"
         "  --help    this text\n\n"
         "The exit status is 1 when something is not as planted.");
    return 0;
}

int main(int argc, char **argv)
{
    bool json = false;
    demo d = {.report.seed = 1};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help"))
            return help();
        if (!strcmp(argv[i], "--json")) {
            json = true;
        } else if (!strcmp(argv[i], "--seed") && i + 1 < argc) {
            d.report.seed = strtoull(argv[++i], NULL, 10);
        } else {
            fprintf(stderr, "demo: unknown argument %s; --help tells what there is\n", argv[i]);
            return 2;
        }
    }
    const double start = now();
    sae_error err = {.struct_size = sizeof err};
    d.world = memory(sizeof *d.world);
    d.found = new_store();
    d.other = new_store();
    planted_grow(d.world, d.report.seed);
    need(sae_env_create(&d.env, NULL, &err), err.text);
    create_model(&d.model, d.env, d.world);
    need(sae_ctx_create(&d.ctx, d.model, NULL, &err), err.text);
    d.report.isa = sae_isa_name(sae_env_isa(d.env));

    find(&d);
    explain(&d);
    look_around(&d);
    steer(&d);
    same_bits(&d);
    time_all(&d);
    d.report.seconds = now() - start;
    (json ? report_json : report_text)(&d.report);

    sae_ctx_free(d.ctx);
    sae_model_free(d.model);
    sae_env_free(d.env);
    free(d.found);
    free(d.other);
    free(d.world);
    return report_good(&d.report) ? 0 : 1;
}
