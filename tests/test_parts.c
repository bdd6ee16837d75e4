/* Models of several blocks and segments: in all that can be asked of them they are the SAE of the dense matrices that have zeros where
 * nothing is read or written, to the bit. Made from canonical parts, as readers make them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "support/support.h"
#include "support/run.h"

/* Two hook points in; blocks and segments that do not agree in where they end. */
enum { FIRST = 21, SECOND = 21, D = FIRST + SECOND, N = 2000, ROWS = 11, K = 40 };

/* A function of the library's inside: it leaves err alone when it succeeds. */
#define MADE(call) ck_assert_msg((call) == SAE_OK, "%s", err.text)

static heap counted;
static sae_error err;
static sae_env *env;

static void setup(void)
{
    env = counted_env(&counted);
}

static void teardown(void)
{
    counted_env_free(&counted, env);
}

/* ---- the parts ---- */

typedef struct stretch {
    int32_t first, n;            /* features; of a skip outputs */
    int32_t at, d;               /* elements that they read or write */
    int32_t row_first, row_step; /* where their rows lie in the stored matrix */
    bool by_cols;
} stretch;

/* The second and third block read the same elements. */
static const stretch blocks[] = {{0, 800, 0, FIRST, 0, 1, true},
                                 {800, 300, FIRST, SECOND, 0, 1, false},
                                 {1100, 500, FIRST, SECOND, 0, 1, true},
                                 {1600, 400, 0, D, 0, 1, false}};
/* Features 1700 .. 1749 write nothing. */
static const stretch segments[] = {
    {0, 700, 0, 20, 0, 1, false}, {0, 700, 20, 22, 3, 1, false}, {700, 1000, 10, 20, 1, 2, false}, {1750, 250, 0, D, 0, 1, true}};
static const stretch skips[] = {{5, 15, 0, FIRST, 0, 1, false}, {20, 22, FIRST, SECOND, 0, 1, true}};

/* The dense SAE, by feature, and what the stretches of it are stored in. */
typedef struct bed {
    float enc[N * D], dec[N * D], skip[D * D], b_enc[N], b_dec[D], threshold[N], x[ROWS * D];
    void *stored[24];
    size_t n_stored;
} bed;

static void fill(float *dense, const stretch *s, rng *r)
{
    for (int32_t i = s->first; i < s->first + s->n; i++)
        for (int32_t k = s->at; k < s->at + s->d; k++)
            dense[(size_t)i * D + (size_t)k] = rng_weight(r);
}

static bed *bed_make(void)
{
    rng r = {42};
    bed *b = calloc(1, sizeof *b);
    ck_assert_ptr_nonnull(b);
    for (size_t i = 0; i < LENGTH(blocks); i++)
        fill(b->enc, blocks + i, &r);
    for (size_t i = 0; i < LENGTH(segments); i++)
        fill(b->dec, segments + i, &r);
    for (size_t i = 0; i < LENGTH(skips); i++)
        fill(b->skip, skips + i, &r);
    for (int i = 0; i < N; i++) {
        b->b_enc[i] = (float)rng_between(&r, -1.0, 0.5);
        b->threshold[i] = (float)rng_between(&r, 0.0, 3.0);
    }
    for (int i = 0; i < D; i++)
        b->b_dec[i] = (float)rng_between(&r, -1.0, 1.0);
    for (int i = 0; i < ROWS * D; i++)
        b->x[i] = (float)rng_between(&r, -1.0, 1.0);
    return b;
}

/* Frees what the models so far were stored in. */
static void bed_forget(bed *b)
{
    for (size_t i = 0; i < b->n_stored; i++)
        free(b->stored[i]);
    b->n_stored = 0;
}

static void bed_free(bed *b)
{
    bed_forget(b);
    free(b);
}

/* A stretch as a file would hold it; rows that no feature has are NaN. */
static saei_tensor store(bed *b, const float *dense, const stretch *s)
{
    const int32_t rows = s->row_first + (s->n - 1) * s->row_step + 1;
    float *to = malloc((size_t)rows * (size_t)s->d * sizeof *to);
    ck_assert_ptr_nonnull(to);
    for (size_t i = 0; i < (size_t)rows * (size_t)s->d; i++)
        to[i] = NAN;
    for (int32_t i = 0; i < s->n; i++)
        for (int32_t k = 0; k < s->d; k++)
            to[s->by_cols ? (size_t)k * (size_t)rows + (size_t)i : (size_t)(s->row_first + i * s->row_step) * (size_t)s->d + (size_t)k] =
                dense[(size_t)(s->first + i) * D + (size_t)(s->at + k)];
    ck_assert_uint_lt(b->n_stored, LENGTH(b->stored));
    b->stored[b->n_stored++] = to;
    return (saei_tensor){.m = {to, SAE_F32, s->by_cols, rows, s->d}, .name = "a stretch", .file = -1};
}

static float *copied(sae_model *m, const float *v, size_t n)
{
    float *to = saei_arena_alloc(&m->parts.memory, &m->env->host, n * sizeof *to);
    ck_assert_ptr_nonnull(to);
    return memcpy(to, v, n * sizeof *to);
}

static void add_matrices(bed *b, sae_model *m, bool with_skip)
{
    const saei_host *host = &m->env->host;
    for (size_t i = 0; i < LENGTH(blocks); i++) {
        const saei_block block = {blocks[i].first, blocks[i].at, store(b, b->enc, blocks + i)};
        ck_assert(saei_parts_add_block(&m->parts, host, &block));
    }
    for (size_t i = 0; i < LENGTH(segments); i++) {
        const stretch *s = segments + i;
        const saei_segment segment = {s->first, s->n, s->at, s->row_first, s->row_step, store(b, b->dec, s)};
        ck_assert(saei_parts_add_segment(&m->parts, host, &segment));
    }
    for (size_t i = 0; i < LENGTH(skips) && with_skip; i++) {
        const saei_skip skip = {skips[i].at, skips[i].first, store(b, b->skip, skips + i)};
        ck_assert(saei_parts_add_skip(&m->parts, host, &skip));
    }
}

/* The parts, of which a test may change some before saei_model_finish. */
static sae_model *parts_make(bed *b, sae_env *e, sae_arch arch, bool with_skip)
{
    sae_model *m;
    MADE(saei_model_new(&m, e, &err));
    saei_parts *p = &m->parts;
    p->arch = arch;
    p->d_in = p->d_out = D;
    p->d_sae = N;
    p->k = arch == SAE_TOPK ? K : 0;
    p->n_in = 2;
    p->n_out = 1;
    p->norm_scaling_factor = p->norm_out_factor = 1.0f;
    p->b_enc = copied(m, b->b_enc, N);
    p->b_dec = copied(m, b->b_dec, D);
    p->threshold = arch == SAE_JUMPRELU ? copied(m, b->threshold, N) : NULL;
    add_matrices(b, m, with_skip);
    return m;
}

static sae_model *parts_model(bed *b, sae_env *e, sae_arch arch, bool with_skip)
{
    sae_model *m = parts_make(b, e, arch, with_skip);
    MADE(saei_model_finish(m, &err));
    return m;
}

static sae_model *dense_model(const bed *b, sae_env *e, sae_arch arch, bool with_skip)
{
    const sae_weights w = {.struct_size = sizeof w,
                           .arch = arch,
                           .dtype = SAE_F32,
                           .flags = SAE_BORROW | SAE_W_ENC_BY_ROWS,
                           .d_in = D,
                           .d_sae = N,
                           .k = K,
                           .w_enc = b->enc,
                           .w_dec = b->dec,
                           .b_enc = b->b_enc,
                           .b_dec = b->b_dec,
                           .threshold = b->threshold,
                           .w_skip = with_skip ? b->skip : NULL};
    sae_model *m;
    ACCEPTED(sae_model_create(&m, e, &w, &err));
    return m;
}

/* ---- all that can be asked ---- */

enum { N_PROBED = 40, N_NEAR = 9, N_PAIRS = 5 };

typedef struct outcome {
    float dense[ROWS * N], y[ROWS * D], forward[ROWS * D], probe[ROWS * N_PROBED], pre[ROWS * N_PROBED], steered[ROWS * D];
    float rows[3][N * D];
    int32_t near[2][N_NEAR];
    float cosines[2][N_NEAR], pairs[2][3][N_PAIRS * N_PAIRS];
} outcome;

static void observe_codec(outcome *o, sae_model *m, const bed *b, int32_t max_rows)
{
    sae_ctx *ctx = ctx_make(m, max_rows);
    sae_probe *probe;
    int32_t features[N_PROBED];
    float x[ROWS * D];
    memcpy(x, b->x, sizeof x);
    const sae_rows rows = rows_plain(x, ROWS, D), y = rows_plain(o->y, ROWS, D), forward = rows_plain(o->forward, ROWS, D);
    sae_codes codes = codes_of(ctx, &rows);
    CTX_ACCEPTED(ctx, sae_encode_dense(ctx, o->dense, 0, &rows));
    CTX_ACCEPTED(ctx, sae_decode(ctx, &y, &codes));
    CTX_ACCEPTED(ctx, sae_forward(ctx, &forward, &rows));
    for (int32_t i = 0; i < N_PROBED; i++)
        features[i] = i * 761 % N;
    ACCEPTED(sae_probe_create(&probe, m, features, N_PROBED, &err));
    CTX_ACCEPTED(ctx, sae_probe_run(probe, ctx, o->probe, 0, &rows, 0));
    CTX_ACCEPTED(ctx, sae_probe_run(probe, ctx, o->pre, 0, &rows, SAE_PROBE_PRE));
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < N_PROBED; i++)
            ck_assert_mem_eq(o->probe + r * N_PROBED + i, o->dense + r * N + features[i], sizeof(float));
    sae_probe_free(probe);
    codes_free(&codes);
    CTX_ACCEPTED(ctx, sae_forward(ctx, &rows, &rows)); /* in place */
    ck_assert_mem_eq(x, o->forward, sizeof x);
    sae_ctx_free(ctx);
}

static void observe_steering(outcome *o, sae_env *e, sae_model *m, const bed *b)
{
    static const sae_op ops[] = {SAE_SET, SAE_SCALE, SAE_ADD, SAE_ABLATE, SAE_MIN};
    sae_edit edits[2 * LENGTH(ops)];
    sae_plan *plan;
    for (size_t i = 0; i < LENGTH(edits); i++)
        edits[i] = (sae_edit){
            .struct_size = sizeof *edits, .op = ops[i % LENGTH(ops)], .value = 0.75f, .model = m, .feature = (int32_t)(i * 431 % N)};
    ACCEPTED(sae_plan_compile(&plan, e, D, 1, edits, LENGTH(edits), &err));
    const size_t bytes = sae_plan_scratch_bytes(plan);
    void *scratch = malloc(bytes);
    memcpy(o->steered, b->x, sizeof o->steered);
    const sae_rows rows = rows_plain(o->steered, ROWS, D);
    ACCEPTED(sae_plan_apply(plan, &rows, scratch, bytes, &err));
    free(scratch);
    sae_plan_free(plan);
}

static void observe_distances(outcome *o, sae_model *m)
{
    static const int32_t features[N_PAIRS] = {3, 799, 800, 1725, 1999};
    for (int32_t side = SAE_BY_DECODER; side <= SAE_BY_ENCODER; side++) {
        sae_index *index;
        ACCEPTED(sae_index_create(&index, m, side, &err));
        const size_t bytes = sae_index_scratch_bytes(index);
        void *scratch = malloc(bytes);
        sae_neighbors out = {.struct_size = sizeof out, .k = N_NEAR, .features = o->near[side - 1], .cosines = o->cosines[side - 1]};
        ACCEPTED(sae_index_nearest_feature(index, &out, 900, scratch, bytes, &err));
        for (int32_t measure = SAE_COSINE; measure <= SAE_L2; measure++)
            ACCEPTED(sae_index_pairs(index, o->pairs[side - 1][measure - 1], measure, features, N_PAIRS, scratch, bytes, &err));
        free(scratch);
        sae_index_free(index);
    }
}

static outcome *observe(const bed *b, sae_env *e, sae_model *m, int32_t max_rows)
{
    outcome *o = calloc(1, sizeof *o);
    ck_assert_ptr_nonnull(o);
    observe_codec(o, m, b, max_rows);
    observe_steering(o, e, m, b);
    observe_distances(o, m);
    ACCEPTED(sae_model_read(m, SAE_W_ENC, 0, N, o->rows[0], &err));
    ACCEPTED(sae_model_read(m, SAE_W_DEC, 0, N, o->rows[1], &err));
    ACCEPTED(sae_model_read(m, SAE_W_SKIP, 0, D, o->rows[2], &err));
    return o;
}

static bool same(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i])))
            return false;
    return true;
}

static void check_same(const outcome *a, const outcome *b)
{
    ck_assert_mem_eq(a->dense, b->dense, sizeof a->dense);
    ck_assert_mem_eq(a->y, b->y, sizeof a->y);
    ck_assert_mem_eq(a->forward, b->forward, sizeof a->forward);
    ck_assert_mem_eq(a->probe, b->probe, sizeof a->probe);
    ck_assert_mem_eq(a->pre, b->pre, sizeof a->pre);
    ck_assert_mem_eq(a->steered, b->steered, sizeof a->steered);
    ck_assert_mem_eq(a->near, b->near, sizeof a->near);
    ck_assert_mem_eq(a->cosines, b->cosines, sizeof a->cosines);
    ck_assert(same(a->pairs[0][0], b->pairs[0][0], LENGTH(a->pairs) * LENGTH(a->pairs[0]) * N_PAIRS * N_PAIRS));
    ck_assert_mem_eq(a->rows, b->rows, sizeof a->rows);
}

static const sae_arch archs[] = {SAE_STANDARD, SAE_JUMPRELU, SAE_TOPK, SAE_ABSTOPK};

/* On every instruction set, prepared in every way, by workers in any order. */
START_TEST(parts_are_the_dense_sae)
{
    static const int32_t batches[] = {1, 4, 5, 64};
    bed *b = bed_make();
    const sae_arch arch = archs[_i];
    sae_isa isas[8];
    for (size_t n = isas_available(isas), i = 0; i < n; i++) {
        sae_env *e = env_make(NULL, isas[i], run_thread_each, NULL, THREADS_AT_ONCE);
        sae_model *dense = dense_model(b, e, arch, true);
        outcome *want = observe(b, e, dense, 64);
        ck_assert_mem_eq(want->rows[2], b->skip, sizeof b->skip);
        ck_assert(memcmp(want->y, want->forward, sizeof want->y) != 0);
        for (uint32_t form = 0; form < 4; form++) {
            sae_model *m = parts_make(b, e, arch, true);
            m->parts.k = arch == SAE_ABSTOPK ? K : m->parts.k;
            MADE(saei_model_finish(m, &err));
            m->checked = true; /* rows that no feature has are NaN */
            ACCEPTED(sae_model_prepare(m, form, &err));
            outcome *got = observe(b, e, m, batches[form]);
            check_same(got, want);
            free(got);
            sae_model_free(m);
            bed_forget(b);
        }
        free(want);
        sae_model_free(dense);
        sae_env_free(e);
    }
    bed_free(b);
}
END_TEST

/* A value that is not finite spoils the features that read it, and those alone; a probe agrees. */
START_TEST(other_stretches_do_not_matter)
{
    bed *b = bed_make();
    sae_model *m = parts_model(b, env, SAE_STANDARD, false);
    sae_ctx *ctx = ctx_make(m, 64);
    outcome *clean = observe(b, env, m, 64), *spoilt = calloc(1, sizeof *spoilt);
    for (int r = 0; r < ROWS; r++)
        b->x[r * D + FIRST + r] = r % 2 ? NAN : INFINITY;
    observe_codec(spoilt, m, b, 5);
    for (int r = 0; r < ROWS; r++) {
        ck_assert_mem_eq(spoilt->dense + r * N, clean->dense + r * N, 800 * sizeof(float));
        for (int j = 800; j < N; j++)
            ck_assert_float_eq(spoilt->dense[r * N + j], 0.0f);
    }
    const sae_rows rows = rows_plain(b->x, ROWS, D);
    CTX_ACCEPTED(ctx, sae_encode_dense(ctx, spoilt->dense, 0, &rows));
    ck_assert_int_eq(sae_ctx_nonfinite(ctx), ROWS * (N - 800));
    free(clean);
    free(spoilt);
    sae_ctx_free(ctx);
    sae_model_free(m);
    bed_free(b);
}
END_TEST

/* Element by element, and nothing of it on the way out where that is said. */
START_TEST(affine_normaliser)
{
    bed *b = bed_make();
    rng r = {5};
    float vectors[4][D], xn[ROWS * D], want[ROWS * D], got[ROWS * D];
    for (int i = 0; i < 4 * D; i++)
        vectors[i / D][i % D] = (float)rng_between(&r, 0.25, 2.0);
    for (int i = 0; i < ROWS * D; i++)
        xn[i] = (b->x[i] - vectors[0][i % D]) * vectors[1][i % D];
    sae_model *plain = parts_model(b, env, SAE_STANDARD, false), *m = parts_make(b, env, SAE_STANDARD, false);
    m->parts.norm = SAE_NORM_AFFINE;
    m->parts.in_shift = copied(m, vectors[0], D);
    m->parts.in_scale = copied(m, vectors[1], D);
    m->parts.out_shift = copied(m, vectors[2], D);
    m->parts.out_scale = copied(m, vectors[3], D);
    m->parts.norm_in_only = _i;
    MADE(saei_model_finish(m, &err));
    sae_ctx *plain_ctx = ctx_make(plain, 64), *ctx = ctx_make(m, 64);
    const sae_rows in = rows_plain(b->x, ROWS, D), normal = rows_plain(xn, ROWS, D), y = rows_plain(got, ROWS, D);
    const sae_rows expected = rows_plain(want, ROWS, D);
    CTX_ACCEPTED(plain_ctx, sae_forward(plain_ctx, &expected, &normal));
    for (int i = 0; i < ROWS * D && !_i; i++)
        want[i] = fmaf(want[i], vectors[3][i % D], vectors[2][i % D]);
    sae_codes codes = codes_of(ctx, &in);
    ck_assert(codes.row_scale[3] == 1.0f && codes.row_shift[3] == 0.0f);
    CTX_ACCEPTED(ctx, sae_decode(ctx, &y, &codes));
    ck_assert_mem_eq(got, want, sizeof got);
    CTX_ACCEPTED(ctx, sae_forward(ctx, &y, &in));
    ck_assert_mem_eq(got, want, sizeof got);
    codes_free(&codes);
    sae_ctx_free(plain_ctx);
    sae_ctx_free(ctx);
    sae_model_free(plain);
    sae_model_free(m);
    bed_free(b);
}
END_TEST

/* A decoded row has its own factor; an edit of an element-wise normaliser moves the row by what decoding would. */
START_TEST(factors_of_decoded_rows)
{
    bed *b = bed_make();
    float got[ROWS * D], want[ROWS * D];
    sae_model *plain = parts_model(b, env, SAE_STANDARD, false), *m = parts_make(b, env, SAE_STANDARD, false);
    m->parts.norm = SAE_NORM_SCALE;
    m->parts.norm_out_factor = 3.5f;
    MADE(saei_model_finish(m, &err));
    sae_ctx *plain_ctx = ctx_make(plain, 64), *ctx = ctx_make(m, 64);
    const sae_rows in = rows_plain(b->x, ROWS, D), y = rows_plain(got, ROWS, D), expected = rows_plain(want, ROWS, D);
    sae_codes codes = codes_of(ctx, &in);
    ck_assert_float_eq(codes.row_scale[0], 3.5f);
    CTX_ACCEPTED(plain_ctx, sae_forward(plain_ctx, &expected, &in));
    CTX_ACCEPTED(ctx, sae_decode(ctx, &y, &codes));
    for (int i = 0; i < ROWS * D; i++)
        ck_assert_float_eq(got[i], want[i] * 3.5f);
    codes_free(&codes);
    sae_ctx_free(plain_ctx);
    sae_ctx_free(ctx);
    sae_model_free(plain);
    sae_model_free(m);
    bed_free(b);
}
END_TEST

START_TEST(affine_steering)
{
    bed *b = bed_make();
    rng r = {6};
    float zeros[D] = {0}, ones[D], scale[D], row[D], x[D];
    for (int i = 0; i < D; i++) {
        ones[i] = 1.0f;
        scale[i] = (float)rng_between(&r, 0.25, 2.0);
    }
    sae_model *m = parts_make(b, env, SAE_STANDARD, false);
    m->parts.norm = SAE_NORM_AFFINE;
    m->parts.in_shift = m->parts.out_shift = copied(m, zeros, D);
    m->parts.in_scale = copied(m, ones, D);
    m->parts.out_scale = copied(m, scale, D);
    MADE(saei_model_finish(m, &err));
    const sae_edit edit = {.struct_size = sizeof edit, .op = SAE_ADD, .value = 2.0f, .model = m, .feature = 5};
    sae_plan *plan;
    ACCEPTED(sae_plan_compile(&plan, env, D, 1, &edit, 1, &err));
    const size_t bytes = sae_plan_scratch_bytes(plan);
    void *scratch = malloc(bytes);
    memcpy(x, zeros, sizeof x);
    const sae_rows rows = rows_plain(x, 1, D);
    ACCEPTED(sae_plan_apply(plan, &rows, scratch, bytes, &err));
    ACCEPTED(sae_model_read(m, SAE_W_DEC, 5, 1, row, &err));
    for (int k = 0; k < D; k++)
        ck_assert_float_eq(x[k], 2.0f * (row[k] * scale[k]));
    free(scratch);
    sae_plan_free(plan);
    sae_model_free(m);
    bed_free(b);
}
END_TEST

/* The fingerprint is that of the parts, prepared or not; it knows where they are and what else there is. */
START_TEST(fingerprints)
{
    bed *b = bed_make();
    uint8_t first[16], other[16];
    for (int change = 0; change < 8; change++) {
        sae_model *m = parts_make(b, env, SAE_STANDARD, change != 1);
        m->parts.enc[1].in_first -= change == 2;
        m->parts.enc[2].in_first -= change == 2;
        m->parts.dec[2].out_first += change == 3;
        m->parts.dec[2].row_first -= change == 4;
        if (change == 5)
            m->parts.skip[0].out_first--;
        m->parts.norm_in_only = change == 6;
        MADE(saei_model_finish(m, &err));
        m->checked = true;
        if (change == 7)
            ACCEPTED(sae_model_prepare(m, SAE_PREPARE_ROWS | SAE_PREPARE_PANELS, &err));
        ACCEPTED(sae_model_fingerprint(m, change ? other : first, &err));
        if (change)
            ck_assert_msg((memcmp(first, other, sizeof first) == 0) == (change == 7), "change %d", change);
        sae_model_free(m);
        bed_forget(b);
    }
    bed_free(b);
}
END_TEST

/* What forms take is what preparing asks for. */
START_TEST(memory)
{
    bed *b = bed_make();
    sae_model *m = parts_model(b, env, SAE_STANDARD, false);
    sae_memory before = {.struct_size = sizeof before}, after = before;
    ck_assert_int_eq(sae_model_memory(m, &before), SAE_OK);
    ck_assert_int_eq(before.prepared, 0);
    const long live = atomic_load(&counted.live_bytes);
    m->checked = true;
    ACCEPTED(sae_model_prepare(m, SAE_PREPARE_ROWS | SAE_PREPARE_PANELS, &err));
    ck_assert_int_eq(atomic_load(&counted.live_bytes) - live, before.rows_bytes + before.panels_bytes);
    ck_assert_int_eq(before.rows_bytes, (800 * FIRST + 500 * SECOND + 250 * D) * (int64_t)sizeof(float));
    ck_assert_int_eq(sae_model_memory(m, &after), SAE_OK);
    ck_assert_int_eq(after.prepared, SAE_PREPARE_ROWS | SAE_PREPARE_PANELS);
    sae_model_free(m);
    bed_free(b);
}
END_TEST

START_TEST(check_names_the_stretch)
{
    bed *b = bed_make();
    sae_model *m = parts_model(b, env, SAE_STANDARD, true);
    REFUSED(SAE_E_FORMAT, "a stretch|row 0, column 0", sae_model_check(m, &err)); /* the second segment begins with rows of no feature */
    sae_model_free(m);
    bed_free(b);
}
END_TEST

/* ---- parts that do not fit ---- */

typedef struct defect {
    const char *words;
    size_t field; /* an int32 of the parts */
    int32_t value;
    int kind; /* 0 the parts, 1 a block, 2 a segment, 3 a skip */
    int index;
} defect;

#define PARTS(f) offsetof(saei_parts, f)
#define BLOCK(f) offsetof(saei_block, f)
#define SEGMENT(f) offsetof(saei_segment, f)
#define SKIP(f) offsetof(saei_skip, f)

static const defect defects[] = {
    {"d_in = 0", PARTS(d_in), 0, 0, 0},
    {"d_sae = 1999", PARTS(d_sae), 1999, 0, 0},
    {"2000|d_sae is 2001", PARTS(d_sae), 2001, 0, 0},
    {"block|d_in = 41", PARTS(d_in), 41, 0, 0},
    {"segment|d_out = 41", PARTS(d_out), 41, 0, 0},
    {"k = 0|topk", PARTS(arch), SAE_TOPK, 0, 0},
    {"k = 0|abstopk", PARTS(arch), SAE_ABSTOPK, 0, 0},
    {"matching_pursuit|one encoder", PARTS(arch), SAE_MATCHING_PURSUIT, 0, 0},
    {"temporal|one encoder", PARTS(arch), SAE_TEMPORAL, 0, 0},
    {"affine", PARTS(norm), SAE_NORM_AFFINE, 0, 0},
    {"block 0", BLOCK(first), 1, 1, 0},
    {"block 1", BLOCK(first), 799, 1, 1},
    {"block 1", BLOCK(in_first), FIRST + 1, 1, 1},
    {"block 1", BLOCK(in_first), -1, 1, 1},
    {"block 1", BLOCK(w.m.d), SECOND + 1, 1, 1},
    {"block 1", BLOCK(w.m.n), 0, 1, 1},
    {"block 3", BLOCK(w.m.n), 401, 1, 3},
    {"segment 0", SEGMENT(first), -1, 2, 0},
    {"segment 1", SEGMENT(out_first), 19, 2, 1},
    {"segment 1", SEGMENT(n), 699, 2, 1},
    {"segment 1", SEGMENT(out_first), 21, 2, 1},
    {"segment 2", SEGMENT(first), 699, 2, 2},
    {"segment 2|rows 1, 3|2000 rows", SEGMENT(row_step), 3, 2, 2},
    {"segment 2|rows 2, 2", SEGMENT(row_first), 2, 2, 2},
    {"segment 2|rows -1", SEGMENT(row_first), -1, 2, 2},
    {"segment 2|rows 1, 0", SEGMENT(row_step), 0, 2, 2},
    {"segment 3", SEGMENT(n), 251, 2, 3},
    {"segment 3|rows 1, 1", SEGMENT(row_first), 1, 2, 3},
    {"skip 0", SKIP(in_first), 24, 3, 0},
    {"skip 1", SKIP(out_first), 21, 3, 1},
    {"skip 1", SKIP(w.m.n), 23, 3, 1},
};

START_TEST(parts_that_do_not_fit)
{
    const defect *d = defects + _i;
    bed *b = bed_make();
    sae_model *m = parts_make(b, env, SAE_STANDARD, true);
    saei_parts *p = &m->parts;
    void *at[] = {p, p->enc + d->index, p->dec + d->index, p->skip + d->index};
    memcpy((unsigned char *)at[d->kind] + d->field, &d->value, sizeof d->value);
    REFUSED(SAE_E_FORMAT, d->words, saei_model_finish(m, &err));
    sae_model_free(m);
    bed_free(b);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("parts");
    TCase *tc = tcase_create("parts");
    tcase_set_timeout(tc, 300);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, parts_are_the_dense_sae, 0, LENGTH(archs));
    tcase_add_test(tc, other_stretches_do_not_matter);
    tcase_add_loop_test(tc, affine_normaliser, 0, 2);
    tcase_add_test(tc, factors_of_decoded_rows);
    tcase_add_test(tc, affine_steering);
    tcase_add_test(tc, fingerprints);
    tcase_add_test(tc, memory);
    tcase_add_test(tc, check_names_the_stretch);
    tcase_add_loop_test(tc, parts_that_do_not_fit, 0, LENGTH(defects));
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
