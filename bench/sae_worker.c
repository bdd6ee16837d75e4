/* libsae's side of the bench, through the public API only. `sae_worker ISA`, ISA as sae_isa_name gives it. */
#include <sae.h>

#include "worker.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_BATCH = 512, ACTIVE = 64, MAX_FEATURES = 64, N_NEIGHBORS = 10 };

/* Everything that exists for one folder. */
typedef struct state {
    sae_pool *pool;
    sae_env *env;
    sae_model *model;
    sae_ctx *ctx;
    sae_probe *probe;
    sae_plan *plans[2];
    sae_index *index;
    sae_gemm *gemm;
    sae_info info;
    float *x;   /* [rows of the case, else MAX_BATCH][d_in] */
    float *y;   /* [MAX_BATCH][d_in], decoded or steered rows; [MAX_BATCH][d_sae] of a linear layer */
    float *out; /* [MAX_BATCH][MAX_FEATURES] */
    void *scratch;
    size_t scratch_bytes;
    int64_t *indptr;  /* [MAX_BATCH + 1] */
    int32_t *indices; /* [capacity] */
    float *values;    /* [capacity] */
    int64_t capacity;
    int32_t *chosen; /* [MAX_FEATURES], the features to probe and steer */
} state;

static sae_isa isa;
static void (*run_case)(void);
static int n_threads = 1;
static char folder[4096];
static state now;
static bench_case on;
static int n_runs;
static sae_error err = {.struct_size = sizeof err};

static bool check(sae_status status, const char *what)
{
    return status ? bench_no("%s: %s (%s)", what, err.text[0] ? err.text : sae_ctx_error(now.ctx), sae_status_name(status)) : true;
}

/* ---- making and freeing ---- */

static void free_all(void)
{
    sae_gemm_free(now.gemm);
    sae_index_free(now.index);
    sae_plan_free(now.plans[0]);
    sae_plan_free(now.plans[1]);
    sae_probe_free(now.probe);
    sae_ctx_free(now.ctx);
    sae_model_free(now.model);
    sae_env_free(now.env);
    sae_pool_free(now.pool);
    free(now.x);
    free(now.y);
    free(now.out);
    free(now.scratch);
    free(now.indptr);
    free(now.indices);
    free(now.values);
    free(now.chosen);
    memset(&now, 0, sizeof now);
}

static bool make_ctx(int32_t screen)
{
    const sae_ctx_options opt = {.struct_size = sizeof opt, .screen = screen};
    sae_ctx_free(now.ctx);
    now.ctx = NULL;
    return check(sae_ctx_create(&now.ctx, now.model, &opt, &err), "sae_ctx_create");
}

static bool make_model(void)
{
    sae_env_options opt = {.struct_size = sizeof opt, .isa = isa};
    if (n_threads > 1) {
        if (!check(sae_pool_create(&now.pool, (uint32_t)n_threads, &err), "sae_pool_create"))
            return false;
        opt.run = sae_pool_run;
        opt.run_user = now.pool;
        opt.max_workers = sae_pool_threads(now.pool);
    }
    if (!check(sae_env_create(&now.env, &opt, &err), "sae_env_create") ||
        !check(sae_model_open(&now.model, now.env, folder, NULL, &err), "sae_model_open") || !make_ctx(SAE_DEFAULT))
        return false;
    now.info.struct_size = sizeof now.info;
    return check(sae_model_info(now.model, &now.info), "sae_model_info");
}

static bool make_rows(void)
{
    const size_t row = (size_t)now.info.d_in * sizeof(float);
    now.x = bench_read(folder, "rows.f32", 0, (on.rows ? (size_t)on.rows : MAX_BATCH) * row);
    now.chosen = bench_read(folder, "features.i32", 0, MAX_FEATURES * sizeof *now.chosen);
    now.capacity = (int64_t)MAX_BATCH * 1024;
    now.y = malloc(MAX_BATCH * row);
    now.out = malloc(MAX_BATCH * MAX_FEATURES * sizeof *now.out);
    now.indptr = malloc((MAX_BATCH + 1) * sizeof *now.indptr);
    now.indices = malloc((size_t)now.capacity * sizeof *now.indices);
    now.values = malloc((size_t)now.capacity * sizeof *now.values);
    if (!now.x || !now.chosen)
        return false;
    return now.y && now.out && now.indptr && now.indices && now.values ? true : bench_no("no memory for the rows");
}

/* A fresh model for each case: what one case prepared must not help the next. */
static bool make_again(void)
{
    free_all();
    return make_model() && make_rows();
}

static sae_rows rows_of(float *x, int n)
{
    return (sae_rows){.struct_size = sizeof(sae_rows), .dtype = SAE_F32, .x = x, .n_rows = n};
}

static sae_codes codes(void)
{
    return (sae_codes){
        .struct_size = sizeof(sae_codes), .capacity = now.capacity, .indptr = now.indptr, .indices = now.indices, .values = now.values};
}

/* ---- cases: set up, run ---- */

/* Status of the last run; a run itself says nothing. */
static sae_status status;

static int next_row; /* of the block that the next run encodes */

static void run_encode(void)
{
    const sae_rows x = rows_of(now.x + (size_t)next_row * (size_t)now.info.d_in, on.batch);
    sae_codes out = codes();
    status = sae_encode(now.ctx, &out, &x);
    next_row = next_row + on.batch < on.rows ? next_row + on.batch : 0;
}

/* Every block once: how many codes there are, and their bits. */
static void encode_all(void)
{
    bench_count = 0;
    bench_bits = 0;
    next_row = 0;
    do {
        run_encode();
        if (status)
            return;
        const size_t n = (size_t)now.indptr[on.batch];
        bench_count += (double)n;
        bench_bits = bench_hash(bench_hash(bench_bits, now.indices, n * sizeof *now.indices), now.values, n * sizeof *now.values);
    } while (next_row);
}

static bool setup_encode(void)
{
    static const struct {
        const char *name;
        uint32_t what;
        int32_t screen;
    } forms[] = {{"none", 0, SAE_NO},
                 {"panels", SAE_PREPARE_PANELS, SAE_NO},
                 {"screen", SAE_PREPARE_PANELS | SAE_PREPARE_SCREEN, SAE_DEFAULT},
                 {"always", SAE_PREPARE_PANELS | SAE_PREPARE_SCREEN, SAE_YES}};
    enum { N_FORMS = sizeof forms / sizeof *forms };
    int i = 0;
    while (i < N_FORMS && strcmp(on.prepared, forms[i].name) != 0)
        i++;
    if (i == N_FORMS)
        return bench_no("no form '%s'", on.prepared);
    if (!check(sae_model_prepare(now.model, forms[i].what, &err), "sae_model_prepare") || !make_ctx(forms[i].screen))
        return false;
    encode_all();
    return true;
}

/* How the encodes of this case went so far, and the codes again: screening that gave up or began meanwhile must not show in them. */
static void counts(void)
{
    sae_ctx_counts c = {.struct_size = sizeof c};
    if (run_case != run_encode || sae_ctx_count(now.ctx, &c))
        return;
    encode_all();
    printf(" screened=%lld dense=%lld candidates=%lld active=%lld bits=%016llx", (long long)c.rows_screened, (long long)c.rows_dense,
           (long long)c.candidates, (long long)c.active, (unsigned long long)bench_bits);
}

static void run_decode(void)
{
    const sae_rows y = rows_of(now.y, on.batch);
    sae_codes in = codes();
    in.n_rows = on.batch;
    status = sae_decode(now.ctx, &y, &in);
}

static bool setup_decode(void)
{
    const size_t n = (size_t)MAX_BATCH * ACTIVE;
    int32_t *ids = bench_read(folder, "codes.i32", 0, n * sizeof *ids);
    float *f = bench_read(folder, "codes.f32", 0, n * sizeof *f);
    const bool good = ids && f;
    if (good) {
        memcpy(now.indices, ids, n * sizeof *ids);
        memcpy(now.values, f, n * sizeof *f);
    }
    free(ids);
    free(f);
    for (int r = 0; r <= MAX_BATCH; r++)
        now.indptr[r] = (int64_t)r * ACTIVE;
    if (!good)
        return false;
    run_decode();
    bench_count = (double)now.indptr[on.batch];
    return true;
}

static void run_probe(void)
{
    const sae_rows x = rows_of(now.x, on.batch);
    status = sae_probe_run(now.probe, now.ctx, now.out, 0, &x, 0);
}

static bool setup_probe(void)
{
    if (!check(sae_probe_create(&now.probe, now.model, now.chosen, on.features, &err), "sae_probe_create"))
        return false;
    run_probe();
    for (int i = 0; i < on.batch * on.features; i++)
        bench_count += now.out[i] != 0;
    return true;
}

/* Two plans take turns: a clamp that finds its feature already clamped has nothing to add, and would be timed doing nothing. */
static void run_steer(void)
{
    const sae_rows rows = rows_of(now.y, on.batch);
    status = sae_plan_apply(now.plans[n_runs++ % 2], &rows, now.scratch, now.scratch_bytes, &err);
}

static bool setup_steer(void)
{
    sae_edit edits[MAX_FEATURES];
    memcpy(now.y, now.x, (size_t)on.batch * (size_t)now.info.d_in * sizeof *now.y);
    for (int p = 0; p < 2; p++) {
        for (int i = 0; i < on.features; i++)
            edits[i] = (sae_edit){.struct_size = sizeof(sae_edit),
                                  .op = SAE_SET,
                                  .value = 3.0f + 2.0f * (float)p,
                                  .model = now.model,
                                  .feature = now.chosen[i]};
        if (!check(sae_plan_compile(&now.plans[p], now.env, now.info.d_in, 1, edits, on.features, &err), "sae_plan_compile"))
            return false;
    }
    now.scratch_bytes = sae_plan_scratch_bytes(now.plans[0]);
    now.scratch = malloc(now.scratch_bytes + 1);
    if (!now.scratch)
        return bench_no("no memory for the scratch");
    run_steer();
    bench_count = (double)on.batch * on.features;
    return true;
}

static void run_neighbors(void)
{
    int32_t features[N_NEIGHBORS];
    float cosines[N_NEIGHBORS];
    sae_neighbors out = {.struct_size = sizeof out, .k = N_NEIGHBORS, .features = features, .cosines = cosines};
    status = sae_index_nearest(now.index, &out, now.x, now.scratch, now.scratch_bytes, &err);
    bench_bits = bench_hash(0, features, sizeof features);
}

static bool setup_neighbors(void)
{
    if (!check(sae_index_create(&now.index, now.model, SAE_BY_DECODER, &err), "sae_index_create") ||
        (strcmp(on.prepared, "screen") == 0 && !check(sae_index_prepare(now.index, &err), "sae_index_prepare")))
        return false;
    now.scratch_bytes = sae_index_scratch_bytes(now.index);
    now.scratch = malloc(now.scratch_bytes + 1);
    if (!now.scratch)
        return bench_no("no memory for the scratch");
    run_neighbors();
    bench_count = N_NEIGHBORS;
    return true;
}

/* A linear layer of W_enc's shape, without bias. */
static void run_linear(void)
{
    const sae_rows x = rows_of(now.x, on.batch), y = rows_of(now.y, on.batch);
    status = sae_gemm_run(now.gemm, &x, &y, now.scratch, now.scratch_bytes, &err);
}

static bool setup_linear(void)
{
    const size_t d_in = (size_t)now.info.d_in, d_sae = (size_t)now.info.d_sae;
    float *w = malloc(d_in * d_sae * sizeof *w);
    sae_gemm_weights weights = {.struct_size = sizeof weights, .dtype = SAE_F32, .w = w, .n_out = now.info.d_sae, .n_in = now.info.d_in};
    free(now.y);
    now.y = malloc(MAX_BATCH * d_sae * sizeof *now.y);
    bool good = w && now.y ? true : bench_no("no memory for a linear layer");
    good = good && check(sae_model_read(now.model, SAE_W_ENC, 0, now.info.d_sae, w, &err), "sae_model_read") &&
           check(sae_gemm_pack(&now.gemm, now.env, &weights, SAE_GEMM_NATIVE, &err), "sae_gemm_pack") &&
           check(sae_gemm_scratch_bytes(now.gemm, on.batch, &now.scratch_bytes), "sae_gemm_scratch_bytes");
    free(w);
    if (!good)
        return false;
    now.scratch = malloc(now.scratch_bytes);
    if (!now.scratch)
        return bench_no("no memory for the scratch");
    run_linear();
    for (int r = 0; r < on.batch; r++) /* as blas_worker counts */
        bench_count += (double)now.y[(size_t)r * d_sae] * 1000;
    bench_bits = bench_hash(0, now.y, (size_t)on.batch * d_sae * sizeof *now.y);
    return true;
}

/* ---- creating a probe from a file too large to read: time cold, and what it adds to the resident set ---- */

static void forget_file(void)
{
    const int fd = open(sae_model_text(now.model, SAE_TEXT_PATH), O_RDONLY);
    if (fd < 0)
        return;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static void run_create(void)
{
    status = sae_probe_create(&now.probe, now.model, now.chosen, on.features, &err);
}

static void free_probe(void)
{
    sae_probe_free(now.probe);
    now.probe = NULL;
}

static bool setup_create(void)
{
    forget_file();
    FILE *f = fopen("/proc/self/clear_refs", "w"); /* lowers the recorded peak to what is resident now */
    if (f) {
        fputs("5\n", f);
        fclose(f);
    }
    const long before = bench_status_kib("VmRSS");
    run_create();
    bench_count = (double)((f ? bench_status_kib("VmHWM") : bench_status_kib("VmRSS")) - before);
    free_probe();
    return true;
}

/* ---- the worker ---- */

static const struct {
    const char *name;
    bool (*setup)(void);
    void (*run)(void);
} cases[] = {{"encode", setup_encode, run_encode},      {"decode", setup_decode, run_decode},          {"probe", setup_probe, run_probe},
             {"steer", setup_steer, run_steer},         {"neighbors", setup_neighbors, run_neighbors}, {"linear", setup_linear, run_linear},
             {"probe-create", setup_create, run_create}};

static void run(const bench_case *c)
{
    (void)c; /* one case at a time: `on` */
    run_case();
}

static void before(void)
{
    if (run_case == run_create)
        forget_file();
}

static void after(void)
{
    if (run_case == run_create)
        free_probe();
}

static bool setup(const bench_case *c)
{
    if (c->batch < 0 || c->batch > MAX_BATCH || c->features < 0 || c->features > MAX_FEATURES)
        return bench_no("batch %d or features %d is out of range", c->batch, c->features);
    if (c->rows < 0 || (c->rows && (!c->batch || c->rows % c->batch)))
        return bench_no("%d rows are no whole number of blocks of %d", c->rows, c->batch);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(c->name, cases[i].name) != 0)
            continue;
        on = *c;
        if (!make_again())
            return false;
        status = SAE_OK;
        run_case = cases[i].run;
        return cases[i].setup() && check(status, c->name);
    }
    return bench_no("no case %s", c->name);
}

static bool set_threads(int n)
{
    n_threads = n;
    return true;
}

static bool open_folder(const char *path)
{
    free_all();
    snprintf(folder, sizeof folder, "%s", path);
    return make_model();
}

static void hello(void)
{
    sae_env *env;
    const sae_env_options opt = {.struct_size = sizeof opt, .isa = isa};
    const uint32_t v = sae_version();
    if (sae_env_create(&env, &opt, NULL))
        env = NULL;
    printf(" version=%u.%u.%u isa=%s", (unsigned)(v >> 16), (unsigned)(v >> 8 & 255), (unsigned)(v & 255),
           env ? sae_isa_name(sae_env_isa(env)) : "none");
    sae_env_free(env);
}

static sae_isa isa_of(const char *name)
{
    static const sae_isa all[] = {SAE_ISA_AUTO, SAE_ISA_SCALAR, SAE_ISA_NEON, SAE_ISA_AVX2, SAE_ISA_AVX512};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(sae_isa_name(all[i]), name) == 0)
            return all[i];
    return -1;
}

int main(int argc, char **argv)
{
    isa = isa_of(argc > 1 ? argv[1] : "auto");
    /* Without before and after, short runs are timed several at once; only creating a probe needs them. */
    const bool creates = argc > 2 && strcmp(argv[2], "create") == 0;
    const bench_ops ops = {hello, set_threads, open_folder, setup, creates ? before : NULL, run, creates ? after : NULL, counts};
    if (isa < 0 || !sae_isa_available(isa)) {
        fprintf(stderr, "sae_worker: this processor or this build has no %s\n", argc > 1 ? argv[1] : "auto");
        return 1;
    }
    const int rc = bench_serve(&ops);
    free_all();
    return rc;
}
