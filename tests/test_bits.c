/* The published bits: seeded models of every architecture, normaliser, dtype and layout give the same codes, decoded rows, probes, steered
 * rows, neighbours and products on every instruction set, prepared or not, and these are the ones in tests/golden/bits.txt.
 * Usage: test_bits FILE [--write | --brief]; brief: three of the six forms of each model, for emulated processors. Needs libc and the library
 * alone. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sae.h>

enum { D = 71, N = 1543, ROWS = 13 };

static uint64_t state;

static float uniform(void) /* -1 .. 1, multiples of 2^-23 */
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)((int32_t)(state >> 40) - (1 << 23)) / 8388608.0f;
}

static uint64_t hash;

static void add(const void *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const unsigned char *)p)[i]) * 1099511628211u;
}

static sae_error err = {.struct_size = sizeof err};
static sae_ctx *ctx;

static void need(sae_status status, const char *what)
{
    if (!status)
        return;
    printf("%s: %s (%s)\n", what, sae_status_name(status), ctx && *sae_ctx_error(ctx) ? sae_ctx_error(ctx) : err.text);
    exit(1);
}

/* f32 values that f16 and bf16 hold exactly, so that one model serves all dtypes: 7 significant bits. */
static float coarse(void)
{
    return (float)(int)(uniform() * 64.0f) / 64.0f;
}

static void store(unsigned char *to, float v, sae_dtype dtype)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if (dtype == SAE_F32) {
        memcpy(to, &bits, 4);
        return;
    }
    const uint32_t e = bits >> 23 & 255u;
    const uint16_t half = (uint16_t)(bits >> 16 & 0x8000u) | (uint16_t)(e ? (e - 112) << 10 | (bits >> 13 & 0x3ffu) : 0);
    const uint16_t h = dtype == SAE_BF16 ? (uint16_t)(bits >> 16) : half;
    memcpy(to, &h, 2);
}

typedef struct weights {
    float enc[D * N], dec[N * D], b_enc[N], b_dec[D], threshold[N], b_gate[N], b_mag[N], r_mag[N];
    unsigned char stored[2][D * N * 4];
} weights;

static weights w;

static void seed_weights(uint64_t seed)
{
    state = seed;
    float *const matrices[] = {w.enc, w.dec};
    float *const vectors[] = {w.b_enc, w.threshold, w.b_gate, w.b_mag, w.r_mag};
    for (int m = 0; m < 2; m++)
        for (int i = 0; i < D * N; i++)
            matrices[m][i] = coarse();
    for (int v = 0; v < 5; v++)
        for (int i = 0; i < N; i++)
            vectors[v][i] = uniform() - (v == 0 || v == 2 ? 2.0f : 0.0f);
    for (int i = 0; i < D; i++)
        w.b_dec[i] = uniform();
}

static sae_model *make(sae_env *env, sae_arch arch, sae_norm norm, sae_dtype dtype, int layout, uint32_t flags)
{
    const int32_t most = arch == SAE_GROUPMAX                   ? N /* a prime: groups of one */
                         : arch == SAE_MATCHING_PURSUIT         ? 5 /* each round is an encode, which emulated processors are slow at */
                         : arch == SAE_TOPK || arch > SAE_GATED ? 17
                                                                : 0;
    sae_weights s = {.struct_size = sizeof s, .arch = arch, .dtype = dtype, .d_in = D, .d_sae = N, .k = most, .norm = norm};
    for (int i = 0; i < D * N; i++) { /* enc by feature, dec by feature */
        const int f = i / D, k = i % D;
        const int e = layout & 1 ? f * D + k : k * N + f, d = layout & 2 ? k * N + f : f * D + k;
        store(w.stored[0] + (size_t)e * sae_dtype_bytes(dtype), w.enc[i], dtype);
        store(w.stored[1] + (size_t)d * sae_dtype_bytes(dtype), w.dec[i], dtype);
    }
    s.flags = flags | (norm % 2 ? 0u : (unsigned)SAE_APPLY_B_DEC) | (layout & 1 ? (unsigned)SAE_W_ENC_BY_ROWS : 0u) |
              (layout & 2 ? (unsigned)SAE_W_DEC_BY_COLS : 0u);
    if (arch == SAE_TOPK && norm == SAE_NORM_SCALE)
        s.flags |= SAE_RESCALE_BY_DECODER_NORM;
    s.norm_scaling_factor = norm == SAE_NORM_SCALE ? 0.625f : 0.0f;
    s.w_enc = arch == SAE_MATCHING_PURSUIT ? NULL : w.stored[0];
    s.w_dec = w.stored[1];
    s.b_enc = w.b_enc;
    s.b_dec = w.b_dec;
    s.threshold = w.threshold;
    s.b_gate = w.b_gate;
    s.b_mag = w.b_mag;
    s.r_mag = w.r_mag;
    sae_model *model;
    need(sae_model_create(&model, env, &s, &err), "sae_model_create");
    return model;
}

static void seed_rows(float *x)
{
    state = 99;
    for (int i = 0; i < ROWS * D; i++)
        x[i] = uniform() * 4.0f;
    memset(x, 0, D * sizeof *x); /* a zero row, a tiny one, a huge one */
    for (int k = 0; k < D; k++) {
        x[D + k] *= 1e-38f;
        x[2 * D + k] *= 1e30f;
    }
}

static void steer(sae_env *env, sae_model *model, const float *x)
{
    static float y[ROWS * D];
    const int32_t slots[ROWS] = {0, 0, 0, 1, 1, -1, 0, 1, 0, 1, 0, 0, 1};
    sae_edit edits[5];
    memset(edits, 0, sizeof edits);
    for (int i = 0; i < 5; i++) {
        edits[i].struct_size = sizeof *edits;
        edits[i].op = SAE_ADD + i;
        edits[i].slot = i % 2;
        edits[i].model = model;
        edits[i].feature = 100 * i + 3;
        edits[i].value = 0.5f + (float)i;
    }
    edits[1].unit = SAE_UNIT_UNIT;
    edits[4].model = NULL;
    edits[4].vector = w.b_dec;
    sae_plan *plan;
    need(sae_plan_compile(&plan, env, D, 2, edits, 5, &err), "sae_plan_compile");
    memcpy(y, x, sizeof y);
    const sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = y, .n_rows = ROWS, .slot = slots};
    void *scratch = malloc(sae_plan_scratch_bytes(plan));
    need(sae_plan_apply(plan, &rows, scratch, sae_plan_scratch_bytes(plan), &err), "sae_plan_apply");
    add(y + 3 * D, sizeof y - 3 * D * sizeof *y);
    free(scratch);
    sae_plan_free(plan);
}

static void search(sae_model *model, int32_t by)
{
    int32_t features[9];
    float cosines[9], pairs[81];
    sae_neighbors found = {.struct_size = sizeof found, .k = 9, .features = features, .cosines = cosines};
    sae_index *index;
    need(sae_index_create(&index, model, by, &err), "sae_index_create");
    const size_t bytes = sae_index_scratch_bytes(index);
    void *scratch = malloc(bytes);
    need(sae_index_nearest_feature(index, &found, 5, scratch, bytes, &err), "sae_index_nearest_feature");
    add(features, sizeof features);
    add(cosines, sizeof cosines);
    for (int32_t measure = SAE_COSINE; measure <= SAE_L2; measure++) {
        need(sae_index_pairs(index, pairs, measure, features, 9, scratch, bytes, &err), "sae_index_pairs");
        add(pairs, sizeof pairs);
    }
    free(scratch);
    sae_index_free(index);
}

/* Everything the promise covers, of one model. Rows come in three calls of 1, 4 and 8, so that every path is taken. */
static void publish(sae_env *env, sae_model *model)
{
    static float x[ROWS * D], y[ROWS * D], values[ROWS * N], scale[ROWS], shift[ROWS], probed[ROWS * 20];
    static int32_t indices[ROWS * N];
    static int64_t indptr[ROWS + 1];
    const int32_t features[20] = {1, 900, 17, 33, 4, 5, 1542, 0, 77, 78, 79, 80, 500, 501, 502, 1000, 1001, 1002, 1003, 1004};
    seed_rows(x);
    need(sae_ctx_create(&ctx, model, NULL, &err), "sae_ctx_create");
    sae_probe *probe;
    need(sae_probe_create(&probe, model, features, 20, &err), "sae_probe_create");
    for (int first = 0, n = 1; first < ROWS; first += n, n = first == 1 ? 4 : 8) {
        sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x + first * D, .n_rows = n};
        sae_codes codes = {.struct_size = sizeof codes,
                           .capacity = ROWS * N,
                           .indptr = indptr,
                           .indices = indices,
                           .values = values,
                           .row_scale = scale,
                           .row_shift = shift};
        need(sae_encode(ctx, &codes, &rows), "sae_encode");
        add(indptr, (size_t)(n + 1) * sizeof *indptr);
        add(indices, (size_t)indptr[n] * sizeof *indices);
        add(values, (size_t)indptr[n] * sizeof *values);
        if (first > 0) { /* the zero row of a normaliser has no finite scale */
            rows.x = y;
            need(sae_decode(ctx, &rows, &codes), "sae_decode");
            add(y + (first == 1 ? 2 * D : 0), (size_t)(n - (first == 1 ? 2 : 0)) * D * sizeof *y);
        }
        rows.x = x + first * D;
        need(sae_probe_run(probe, ctx, probed, 0, &rows, 0), "sae_probe_run");
        add(probed, (size_t)n * 20 * sizeof *probed);
    }
    sae_probe_free(probe);
    sae_ctx_free(ctx);
    ctx = NULL;
    steer(env, model, x);
    search(model, SAE_BY_DECODER);
    search(model, SAE_BY_ENCODER);
}

/* What is published of a model. */
typedef struct kind {
    const char *name;
    sae_arch arch;
    sae_norm norm;
    uint32_t flags;
} kind;

static uint64_t model_hash(sae_env *env, const kind *k, sae_dtype dtype, int layout, uint32_t prepare)
{
    seed_weights((uint64_t)k->arch * 16 + (uint64_t)k->norm);
    sae_model *model = make(env, k->arch, k->norm, dtype, layout, k->flags);
    need(sae_model_prepare(model, prepare, &err), "sae_model_prepare");
    hash = 14695981039346656037u;
    publish(env, model);
    sae_model_free(model);
    return hash;
}

/* A linear layer of w.enc's shape with bias, in calls of 1, 4 and 8 rows, from every dtype; gated by itself or not. */
static uint64_t gemm_hash(sae_env *env, sae_dtype dtype, sae_gemm_storage storage, bool gated)
{
    static float x[ROWS * D], y[ROWS * N];
    seed_weights(77);
    seed_rows(x);
    for (int i = 0; i < D * N; i++)
        store(w.stored[0] + (size_t)i * sae_dtype_bytes(dtype), w.enc[i], dtype);
    const sae_gemm_weights linear = {.struct_size = sizeof linear,
                                     .dtype = dtype,
                                     .w = w.stored[0],
                                     .bias = w.b_enc,
                                     .n_out = N,
                                     .n_in = D,
                                     .storage = storage,
                                     .gate = gated ? w.stored[0] : NULL};
    sae_gemm *gemm;
    size_t bytes;
    need(sae_gemm_pack(&gemm, env, &linear, SAE_GEMM_NATIVE, &err), "sae_gemm_pack");
    need(sae_gemm_scratch_bytes(gemm, ROWS, &bytes), "sae_gemm_scratch_bytes");
    void *scratch = malloc(bytes);
    for (int first = 0, n = 1; first < ROWS; first += n, n = first == 1 ? 4 : 8) {
        const sae_rows in = {.struct_size = sizeof in, .dtype = SAE_F32, .x = x + first * D, .n_rows = n};
        const sae_rows out = {.struct_size = sizeof out, .dtype = SAE_F32, .x = y + first * N, .n_rows = n};
        need(sae_gemm_run(gemm, &in, &out, scratch, bytes, &err), "sae_gemm_run");
    }
    free(scratch);
    sae_gemm_free(gemm);
    hash = 14695981039346656037u;
    add(y, sizeof y);
    return hash;
}

/* One line of the file. */
typedef struct line {
    FILE *file;
    int writing;
    int brief;
    char name[64];
    unsigned long long want;
} line;

static int passed, failed;

static void begin_line(line *l, const char *name)
{
    char found[64];
    snprintf(l->name, sizeof l->name, "%s", name);
    l->want = 0;
    if (!l->writing && (fscanf(l->file, "%63s %llx", found, &l->want) != 2 || strcmp(found, name) != 0))
        l->want = 0;
}

static void compare(line *l, const char *isa, int form, uint64_t got)
{
    if (l->writing && l->want == 0) {
        l->want = got;
        fprintf(l->file, "%s %016llx\n", l->name, l->want);
    }
    if (got == l->want) {
        passed++;
    } else {
        failed++;
        printf("%s on %s, form %d: %016llx, not %016llx\n", l->name, isa, form, (unsigned long long)got, l->want);
    }
}

/* A line of a model: every dtype, all four layouts, prepared and not. */
static void model_line(line *l, sae_env *const *envs, size_t n_envs, const kind *k)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    static const uint32_t prepared[] = {0, 0, 0, 2, 3, 3};
    begin_line(l, k->name);
    for (size_t i = 0; i < n_envs; i++)
        for (int form = 0; form < 6; form += l->brief && form == 0 ? 4 : 1)
            compare(l, sae_isa_name(sae_env_isa(envs[i])), form, model_hash(envs[i], k, dtypes[form % 3], form % 4, prepared[form]));
}

static sae_env *env_of(sae_isa isa)
{
    const sae_env_options opt = {.struct_size = sizeof opt, .isa = isa};
    sae_env *env;
    need(sae_env_create(&env, &opt, &err), "sae_env_create");
    return env;
}

static const kind others[] = {
    {"jumprelu/negative", SAE_JUMPRELU, SAE_NORM_NONE, SAE_KEEP_NEGATIVE},
    {"topk/negative", SAE_TOPK, SAE_NORM_NONE, SAE_KEEP_NEGATIVE},
    {"topk/unscaled", SAE_TOPK, SAE_NORM_NONE, SAE_RESCALE_BY_DECODER_NORM | SAE_RETURN_UNSCALED},
    {"abstopk", SAE_ABSTOPK, SAE_NORM_NONE, 0},
    {"groupmax", SAE_GROUPMAX, SAE_NORM_LAYER, SAE_NORM_IN_ONLY},
    {"matching_pursuit", SAE_MATCHING_PURSUIT, SAE_NORM_CONSTANT, SAE_STOP_ON_REPEAT},
};

/* Storages from..to, which give the same numbers. */
static void gemm_line(line *l, sae_env *const *envs, size_t n_envs, const char *name, sae_gemm_storage from, sae_gemm_storage to,
                      bool gated)
{
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    begin_line(l, name);
    for (size_t i = 0; i < n_envs; i++)
        for (sae_gemm_storage storage = from; storage <= to; storage++)
            for (int form = 0; form < 3; form++)
                compare(l, sae_isa_name(sae_env_isa(envs[i])), form, gemm_hash(envs[i], dtypes[form], storage, gated));
}

int main(int argc, char **argv)
{
    static const sae_isa isas[] = {SAE_ISA_SCALAR, SAE_ISA_NEON, SAE_ISA_AVX2, SAE_ISA_AVX512};
    sae_env *envs[sizeof isas / sizeof *isas];
    size_t n_envs = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: test_bits FILE [--write | --brief]\n");
        return 2;
    }
    line l = {.writing = argc > 2 && strcmp(argv[2], "--write") == 0, .brief = argc > 2 && strcmp(argv[2], "--brief") == 0};
    l.file = fopen(argv[1], l.writing ? "w" : "r");
    if (!l.file) {
        perror(argv[1]);
        return 1;
    }
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++)
        if (sae_isa_available(isas[i]) == SAE_YES)
            envs[n_envs++] = env_of(isas[i]);
    for (sae_arch arch = SAE_STANDARD; arch <= SAE_GATED; arch++)
        for (sae_norm norm = SAE_NORM_NONE; norm <= SAE_NORM_LAYER; norm++) {
            char name[64];
            snprintf(name, sizeof name, "%s/%s", sae_arch_name(arch), sae_norm_name(norm));
            model_line(&l, envs, n_envs, &(kind){name, arch, norm, 0});
        }
    gemm_line(&l, envs, n_envs, "gemm", SAE_GEMM_AS_F32, SAE_GEMM_AS_STORED, false);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        model_line(&l, envs, n_envs, others + i);
    gemm_line(&l, envs, n_envs, "gemm/int8_rows", SAE_GEMM_INT8_ROWS, SAE_GEMM_INT8_ROWS, false);
    gemm_line(&l, envs, n_envs, "gemm/int8_blocks", SAE_GEMM_INT8_BLOCKS, SAE_GEMM_INT8_BLOCKS, false);
    gemm_line(&l, envs, n_envs, "gemm/gated", SAE_GEMM_AS_F32, SAE_GEMM_AS_STORED, true);
    fclose(l.file);
    for (size_t i = 0; i < n_envs; i++) {
        printf("ran on %s\n", sae_isa_name(sae_env_isa(envs[i])));
        sae_env_free(envs[i]);
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}
