/* sae/model.h as a program sees it: every function, every status. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/support.h"
#include "support/run.h"

#define GOLDEN "tests/golden/saelens/"

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

static sae_weights shape(sae_arch arch)
{
    return (sae_weights){.arch = arch, .dtype = SAE_F32, .d_in = 12, .d_sae = 50, .k = 5};
}

static planted plant(sae_arch arch)
{
    planted p;
    planted_make(&p, shape(arch), 1);
    return p;
}

/* ---- create ---- */

/* One thing wrong with a good model. */
typedef struct defect {
    sae_status status;
    const char *words;
    sae_arch arch;
    sae_weights change; /* fields that differ from 0 replace the good ones */
    size_t zero;        /* offset of a field to be zeroed, 0 = none */
    size_t zero_bytes;
} defect;

#define ZERO(field) .zero = offsetof(sae_weights, field), .zero_bytes = sizeof((sae_weights *)0)->field

static const defect defects[] = {
    {SAE_E_ARG, "arch = 0|SAE_STANDARD", SAE_STANDARD, ZERO(arch)},
    {SAE_E_ARG, "arch = 8|SAE_MATCHING_PURSUIT", SAE_STANDARD, .change = {.arch = SAE_TEMPORAL}},
    {SAE_E_ARG, "arch = -1", SAE_STANDARD, .change = {.arch = -1}},
    {SAE_E_ARG, "dtype = 0", SAE_STANDARD, ZERO(dtype)},
    {SAE_E_ARG, "dtype = 4", SAE_STANDARD, .change = {.dtype = 4}},
    {SAE_E_ARG, "flags = 0x400", SAE_STANDARD, .change = {.flags = 1024}},
    {SAE_E_ARG, "norm = 4", SAE_STANDARD, .change = {.norm = 4}},
    {SAE_E_ARG, "norm = -1", SAE_STANDARD, .change = {.norm = -1}},
    {SAE_E_ARG, "norm_scaling_factor = 0", SAE_STANDARD, .change = {.norm = SAE_NORM_SCALE}},
    {SAE_E_ARG, "norm_scaling_factor = -2", SAE_STANDARD, .change = {.norm = SAE_NORM_SCALE, .norm_scaling_factor = -2.0f}},
    {SAE_E_ARG, "norm_scaling_factor = inf", SAE_STANDARD, .change = {.norm = SAE_NORM_SCALE, .norm_scaling_factor = INFINITY}},
    {SAE_E_ARG, "norm_scaling_factor|nan", SAE_STANDARD, .change = {.norm = SAE_NORM_SCALE, .norm_scaling_factor = NAN}},
    {SAE_E_ARG, "SAE_RESCALE_BY_DECODER_NORM|jumprelu", SAE_JUMPRELU, .change = {.flags = SAE_RESCALE_BY_DECODER_NORM}},
    {SAE_E_ARG, "SAE_RETURN_UNSCALED|SAE_RESCALE_BY_DECODER_NORM", SAE_TOPK, .change = {.flags = SAE_RETURN_UNSCALED}},
    {SAE_E_ARG, "SAE_KEEP_NEGATIVE|gated", SAE_GATED, .change = {.flags = SAE_KEEP_NEGATIVE}},
    {SAE_E_ARG, "SAE_KEEP_NEGATIVE|standard", SAE_STANDARD, .change = {.flags = SAE_KEEP_NEGATIVE}},
    {SAE_E_ARG, "SAE_STOP_ON_REPEAT|topk", SAE_TOPK, .change = {.flags = SAE_STOP_ON_REPEAT}},
    {SAE_E_ARG, "w_enc is NULL", SAE_STANDARD, ZERO(w_enc)},
    {SAE_E_ARG, "w_dec is NULL", SAE_STANDARD, ZERO(w_dec)},
    {SAE_E_ARG, "threshold is NULL|jumprelu", SAE_JUMPRELU, ZERO(threshold)},
    {SAE_E_ARG, "b_gate is NULL|gated", SAE_GATED, ZERO(b_gate)},
    {SAE_E_ARG, "b_mag is NULL", SAE_GATED, ZERO(b_mag)},
    {SAE_E_ARG, "r_mag is NULL", SAE_GATED, ZERO(r_mag)},
    {SAE_E_SHAPE, "d_in = 0", SAE_STANDARD, ZERO(d_in)},
    {SAE_E_SHAPE, "d_sae = 0", SAE_STANDARD, ZERO(d_sae)},
    {SAE_E_SHAPE, "d_in = -3", SAE_STANDARD, .change = {.d_in = -3}},
    {SAE_E_SHAPE, "d_out = -1", SAE_STANDARD, .change = {.d_out = -1}},
    {SAE_E_SHAPE, "k = 0|50", SAE_TOPK, ZERO(k)},
    {SAE_E_SHAPE, "k = -1", SAE_TOPK, .change = {.k = -1}},
    {SAE_E_SHAPE, "k = 51|50", SAE_TOPK, .change = {.k = 51}},
    {SAE_E_SHAPE, "k = 51|abstopk|50", SAE_ABSTOPK, .change = {.k = 51}},
    {SAE_E_SHAPE, "k = 0|groupmax|50", SAE_GROUPMAX, ZERO(k)},
    {SAE_E_SHAPE, "k = 7|50", SAE_GROUPMAX, .change = {.k = 7}},
    {SAE_E_SHAPE, "k = -1|matching pursuit", SAE_MATCHING_PURSUIT, .change = {.k = -1}},
    {SAE_E_SHAPE, "d_out = 13|d_in = 12", SAE_STANDARD, .change = {.flags = SAE_APPLY_B_DEC, .d_out = 13}},
    {SAE_E_SHAPE, "d_out = 13|d_in = 12", SAE_MATCHING_PURSUIT, .change = {.d_out = 13}},
    {SAE_E_SHAPE, "2147483647", SAE_STANDARD, .change = {.d_in = INT32_MAX, .d_sae = INT32_MAX}},
};

/* Copies the 4-byte fields of `change` that are not 0. */
static void apply(sae_weights *w, const defect *d)
{
    const size_t end = offsetof(sae_weights, w_enc);
    for (size_t at = sizeof(uint32_t); at < end; at += sizeof(uint32_t)) {
        static const unsigned char zero[sizeof(uint32_t)];
        const unsigned char *from = (const unsigned char *)&d->change + at;
        if (memcmp(from, zero, sizeof zero))
            memcpy((unsigned char *)w + at, from, sizeof zero);
    }
    if (d->zero)
        memset((unsigned char *)w + d->zero, 0, d->zero_bytes);
}

START_TEST(create_refuses)
{
    const defect *d = defects + _i;
    planted p = plant(d->arch);
    sae_model *model = (sae_model *)&err;
    sae_weights w = p.weights;
    const long live = atomic_load(&counted.live_blocks);
    apply(&w, d);
    REFUSED(d->status, d->words, sae_model_create(&model, env, &w, &err));
    ck_assert_ptr_null(model);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), live);
    planted_free(&p);
}
END_TEST

/* The numbers after the pointers. */
START_TEST(create_refuses_factors)
{
    static const float bad[] = {-1.0f, NAN, INFINITY};
    planted p = plant(SAE_MATCHING_PURSUIT);
    sae_model *model;
    for (size_t i = 0; i < LENGTH(bad); i++) {
        sae_weights w = p.weights;
        w.residual_threshold = bad[i];
        REFUSED(SAE_E_ARG, "residual_threshold", sae_model_create(&model, env, &w, &err));
        w = p.weights;
        w.norm = SAE_NORM_SCALE;
        w.norm_scaling_factor = 2.0f;
        w.norm_out_factor = bad[i];
        REFUSED(SAE_E_ARG, "norm_out_factor|norm_scaling_factor", sae_model_create(&model, env, &w, &err));
    }
    planted_free(&p);
}
END_TEST

START_TEST(create_arguments)
{
    planted p = plant(SAE_STANDARD);
    sae_model *model = (sae_model *)&err;
    REFUSED(SAE_E_ARG, "out is NULL", sae_model_create(NULL, env, &p.weights, &err));
    REFUSED(SAE_E_ARG, "env is NULL", sae_model_create(&model, NULL, &p.weights, &err));
    ck_assert_ptr_null(model);
    REFUSED(SAE_E_ARG, "weights is NULL", sae_model_create(&model, env, NULL, &err));
    for (size_t bytes = 0; bytes <= sizeof p.weights + 16; bytes++) {
        if (bytes > offsetof(sae_weights, w_enc) && bytes < sizeof p.weights && bytes % sizeof(void *))
            continue; /* half a pointer */
        void *other = resized(&p.weights, sizeof p.weights, bytes, 0);
        const sae_status status = sae_model_create(&model, env, other, &err);
        if (bytes < offsetof(sae_weights, b_enc)) { /* w_enc and w_dec are needed, the biases are not */
            ck_assert(status == SAE_E_ARG || status == SAE_E_SHAPE);
            ck_assert_ptr_null(model);
        } else {
            ck_assert_int_eq(status, SAE_OK);
            sae_model_free(model);
        }
        free(other);
        if (bytes <= sizeof p.weights)
            continue;
        other = resized(&p.weights, sizeof p.weights, bytes, 7);
        REFUSED(SAE_E_VERSION, "sae_weights", sae_model_create(&model, env, other, &err));
        ck_assert_ptr_null(model);
        free(other);
    }
    planted_free(&p);
    sae_model_free(NULL);
}
END_TEST

START_TEST(create_without_memory)
{
    planted p = plant(SAE_JUMPRELU);
    sae_model *model = (sae_model *)&err;
    atomic_store(&counted.fail_at, atomic_load(&counted.asked) + 1); /* the copy of w_enc */
    REFUSED(SAE_E_NOMEM, "w_enc|2400 bytes|SAE_BORROW", sae_model_create(&model, env, &p.weights, &err));
    ck_assert_ptr_null(model);
    planted_free(&p);
}
END_TEST

START_TEST(create_borrows)
{
    planted p = plant(SAE_STANDARD);
    const long before = atomic_load(&counted.live_bytes), matrices = 2 * 12 * 50 * 4;
    sae_model *copied = planted_model(&p, env);
    const long with_copy = atomic_load(&counted.live_bytes) - before;
    p.weights.flags |= SAE_BORROW;
    sae_model *borrowed = planted_model(&p, env);
    const long without = atomic_load(&counted.live_bytes) - before - with_copy;
    ck_assert_int_eq(with_copy / 1024, (without + matrices) / 1024); /* and a few bytes of bookkeeping */
    sae_memory m = {.struct_size = sizeof m}, b = m;
    ck_assert_int_eq(sae_model_memory(copied, &m), SAE_OK);
    ck_assert_int_eq(sae_model_memory(borrowed, &b), SAE_OK);
    ck_assert_int_eq(m.vectors_bytes, b.vectors_bytes + matrices);
    sae_model_free(copied);
    sae_model_free(borrowed);
    planted_free(&p);
}
END_TEST

/* ---- info, text, memory ---- */

START_TEST(infos)
{
    sae_weights w = shape(SAE_TOPK);
    planted p;
    w.d_out = 20;
    w.dtype = SAE_BF16;
    w.norm = SAE_NORM_SCALE;
    w.norm_scaling_factor = 0.25f;
    w.flags = SAE_RESCALE_BY_DECODER_NORM;
    planted_make(&p, w, 1);
    sae_model *model = planted_model(&p, env);
    sae_info i = {.struct_size = sizeof i};
    ck_assert_int_eq(sae_model_info(model, &i), SAE_OK);
    ck_assert(i.struct_size == sizeof i && i.arch == SAE_TOPK && i.norm == SAE_NORM_SCALE && i.w_enc_dtype == SAE_BF16 &&
              i.w_dec_dtype == SAE_BF16 && i.d_in == 12 && i.d_sae == 50 && i.d_out == 20 && i.k == 5 && i.apply_b_dec == SAE_NO &&
              i.rescale_by_decoder_norm == SAE_YES && i.norm_scaling_factor == 0.25f);
    ck_assert(i.n_in == 1 && i.n_out == 1 && i.n_blocks == 1 && i.has_skip == SAE_NO && i.keeps_negative == SAE_NO &&
              i.norm_in_only == SAE_NO && i.returns_unscaled == SAE_NO && i.stops_on_repeat == SAE_NO && i.residual_threshold == 0.0f);
    ck_assert_int_eq(sae_model_info(NULL, &i), SAE_E_ARG);
    ck_assert_int_eq(sae_model_info(model, NULL), SAE_E_ARG);
    for (size_t bytes = 0; bytes <= sizeof i + 8; bytes++) { /* a smaller struct gets its part and not a byte more */
        sae_info *other = resized(&i, 0, bytes, 0);
        ck_assert_int_eq(sae_model_info(model, other), bytes > 4 ? SAE_OK : SAE_E_ARG);
        ck_assert_uint_eq(other->struct_size, bytes);
        if (bytes >= 8)
            ck_assert_int_eq(other->arch, SAE_TOPK);
        free(other);
    }
    sae_model_free(model);
    planted_free(&p);

    p = plant(SAE_STANDARD);
    p.weights.flags = SAE_APPLY_B_DEC;
    model = planted_model(&p, env);
    ck_assert_int_eq(sae_model_info(model, &i), SAE_OK);
    ck_assert(i.k == 0 && i.apply_b_dec == SAE_YES && i.rescale_by_decoder_norm == SAE_NO && i.norm_scaling_factor == 1.0f &&
              i.d_out == 12);
    sae_model_free(model);
    planted_free(&p);
}
END_TEST

/* What the first four architectures do not have. */
START_TEST(infos_of_others)
{
    sae_weights w = shape(SAE_MATCHING_PURSUIT);
    planted p;
    float row[12];
    sae_info i = {.struct_size = sizeof i};
    w.flags = SAE_STOP_ON_REPEAT | SAE_NORM_IN_ONLY;
    w.k = 0;
    w.residual_threshold = 0.25f;
    w.w_skip = &err;
    planted_make(&p, w, 1);
    sae_model *model = planted_model(&p, env);
    ck_assert_int_eq(sae_model_info(model, &i), SAE_OK);
    ck_assert(i.k == 12 && i.has_skip == SAE_YES && i.norm_in_only == SAE_YES && i.stops_on_repeat == SAE_YES &&
              i.residual_threshold == 0.25f);
    for (int64_t o = 0; o < 12; o++) {
        ACCEPTED(sae_model_read(model, SAE_W_SKIP, o, 1, row, &err));
        ck_assert_mem_eq(row, p.skip + o * 12, sizeof row);
    }
    REFUSED(SAE_E_ARG, "12", sae_model_read(model, SAE_W_SKIP, 12, 1, row, &err));
    sae_model_free(model);
    planted_free(&p);
    w = shape(SAE_TOPK);
    w.flags = SAE_RESCALE_BY_DECODER_NORM | SAE_RETURN_UNSCALED | SAE_KEEP_NEGATIVE;
    planted_make(&p, w, 1);
    model = planted_model(&p, env);
    ck_assert_int_eq(sae_model_info(model, &i), SAE_OK);
    ck_assert(i.returns_unscaled == SAE_YES && i.keeps_negative == SAE_YES && i.has_skip == SAE_NO);
    ACCEPTED(sae_model_read(model, SAE_W_SKIP, 11, 1, row, &err)); /* absent is zero */
    for (int k = 0; k < 12; k++)
        ck_assert_float_eq(row[k], 0.0f);
    sae_model_free(model);
    planted_free(&p);
}
END_TEST

START_TEST(texts)
{
    planted p = plant(SAE_GATED);
    sae_model *model = planted_model(&p, env);
    static const char *const want[] = {"", "memory", "", "gated", "", "", "", "", ""};
    for (int32_t what = 0; what < (int32_t)LENGTH(want); what++)
        ck_assert_str_eq(sae_model_text(model, what), want[what]);
    ck_assert_str_eq(sae_model_text(model, -1), "");
    ck_assert_str_eq(sae_model_text(NULL, SAE_TEXT_FORMAT), "");
    ck_assert_int_eq(sae_model_n_warnings(model), 0);
    ck_assert_str_eq(sae_model_warning(model, 0), "");
    ck_assert_str_eq(sae_model_warning(model, -1), "");
    ck_assert_int_eq(sae_model_n_warnings(NULL), 0);
    ck_assert_str_eq(sae_model_warning(NULL, 0), "");
    sae_model_free(model);
    planted_free(&p);
    static const char *const archs[] = {"unknown", "standard", "jumprelu",         "topk",     "gated",
                                        "abstopk", "groupmax", "matching_pursuit", "temporal", "unknown"};
    for (sae_arch a = 0; a < (sae_arch)LENGTH(archs); a++)
        ck_assert_str_eq(sae_arch_name(a), archs[a]);
    static const char *const norms[] = {"none", "expected_average_only_in", "constant_norm_rescale", "layer_norm", "affine", "unknown"};
    for (sae_norm n = 0; n < (sae_norm)LENGTH(norms); n++)
        ck_assert_str_eq(sae_norm_name(n), norms[n]);
    ck_assert_str_eq(sae_norm_name(-1), "unknown");
}
END_TEST

START_TEST(prepare)
{
    planted p = plant(SAE_STANDARD);
    sae_model *model = planted_model(&p, env);
    sae_memory m = {.struct_size = sizeof m};
    REFUSED(SAE_E_ARG, "model is NULL", sae_model_prepare(NULL, SAE_PREPARE_ROWS, &err));
    REFUSED(SAE_E_ARG, "what = 0xa", sae_model_prepare(model, 8 | SAE_PREPARE_PANELS, &err));
    ck_assert_int_eq(sae_model_memory(NULL, &m), SAE_E_ARG);
    ck_assert_int_eq(sae_model_memory(model, NULL), SAE_E_ARG);
    ck_assert_int_eq(sae_model_memory(model, &m), SAE_OK);
    ck_assert(m.prepared == 0 && m.mapped_bytes == 0 && m.panels_bytes == 96 * 12 * 4);
    ck_assert_int_eq(m.rows_bytes, 50 * 12 * 4); /* W_dec lies by rows already */

    for (size_t bytes = 0; bytes <= sizeof m + 8; bytes++) { /* a smaller struct gets its part and not a byte more */
        sae_memory *other = resized(&m, 0, bytes, 0);
        ck_assert_int_eq(sae_model_memory(model, other), bytes > 4 ? SAE_OK : SAE_E_ARG);
        ck_assert(other->struct_size == bytes && (bytes < sizeof m || other->panels_bytes == m.panels_bytes));
        free(other);
    }

    const long before = atomic_load(&counted.live_bytes);
    ACCEPTED(sae_model_prepare(model, 0, &err));
    ck_assert_int_eq(atomic_load(&counted.live_bytes), before);
    atomic_store(&counted.fail_at, atomic_load(&counted.asked));
    REFUSED(SAE_E_NOMEM, "panels|4608 bytes", sae_model_prepare(model, SAE_PREPARE_PANELS, &err));
    atomic_store(&counted.fail_at, atomic_load(&counted.asked));
    REFUSED(SAE_E_NOMEM, "rows of W_enc|2400 bytes", sae_model_prepare(model, SAE_PREPARE_ROWS, &err));
    ck_assert_int_eq(atomic_load(&counted.live_bytes), before);
    for (int twice = 0; twice < 2; twice++) {
        ACCEPTED(sae_model_prepare(model, SAE_PREPARE_PANELS, &err));
        ck_assert_int_eq(atomic_load(&counted.live_bytes) - before, m.panels_bytes);
    }
    ACCEPTED(sae_model_prepare(model, SAE_PREPARE_PANELS | SAE_PREPARE_ROWS, &err));
    ck_assert_int_eq(atomic_load(&counted.live_bytes) - before, m.panels_bytes + m.rows_bytes);
    ck_assert_int_eq(sae_model_memory(model, &m), SAE_OK);
    ck_assert_uint_eq(m.prepared, SAE_PREPARE_PANELS | SAE_PREPARE_ROWS);
    atomic_store(&counted.fail_at, atomic_load(&counted.asked));
    REFUSED(SAE_E_NOMEM, "screen of W_enc", sae_model_prepare(model, SAE_PREPARE_SCREEN, &err));
    for (int twice = 0; twice < 2; twice++) {
        ACCEPTED(sae_model_prepare(model, SAE_PREPARE_SCREEN, &err));
        ck_assert_int_eq(atomic_load(&counted.live_bytes) - before, m.panels_bytes + m.rows_bytes + m.screen_bytes);
    }
    ck_assert_int_eq(sae_model_memory(model, &m), SAE_OK);
    ck_assert_uint_eq(m.prepared, SAE_PREPARE_PANELS | SAE_PREPARE_ROWS | SAE_PREPARE_SCREEN);
    sae_model_free(model);
    planted_free(&p);

    sae_weights w = shape(SAE_STANDARD); /* where both matrices lie by rows there is nothing to build */
    w.flags = SAE_W_ENC_BY_ROWS;
    planted_make(&p, w, 1);
    model = planted_model(&p, env);
    ck_assert_int_eq(sae_model_memory(model, &m), SAE_OK);
    ck_assert(m.rows_bytes == 0 && m.prepared == SAE_PREPARE_ROWS);
    sae_model_free(model);
    planted_free(&p);
}
END_TEST

/* ---- read ---- */

START_TEST(read_tensors)
{
    static const uint32_t layouts[] = {0, SAE_W_ENC_BY_ROWS, SAE_W_DEC_BY_COLS, SAE_W_ENC_BY_ROWS | SAE_W_DEC_BY_COLS};
    static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};
    enum { D = 12, N = 50 };
    float got[N * D], zero[N];
    for (size_t l = 0; l < LENGTH(layouts); l++)
        for (size_t t = 0; t < LENGTH(dtypes); t++) {
            sae_weights w = shape(SAE_JUMPRELU);
            planted p;
            w.flags = layouts[l];
            w.dtype = dtypes[t];
            planted_make(&p, w, 3);
            sae_model *model = planted_model(&p, env);
            for (int prepared = 0; prepared < 2; prepared++) {
                ACCEPTED(sae_model_read(model, SAE_W_ENC, 0, N, got, &err));
                ck_assert_mem_eq(got, p.enc, sizeof got);
                ACCEPTED(sae_model_read(model, SAE_W_DEC, 0, N, got, &err));
                ck_assert_mem_eq(got, p.dec, sizeof got);
                ACCEPTED(sae_model_read(model, SAE_W_ENC, 17, 3, got, &err));
                ck_assert_mem_eq(got, p.enc + 17 * D, 3 * D * sizeof *got);
                ACCEPTED(sae_model_read(model, SAE_B_ENC, 1, N - 1, got, &err));
                ck_assert_mem_eq(got, p.b_enc + 1, (N - 1) * sizeof *got);
                ACCEPTED(sae_model_read(model, SAE_B_DEC, 0, D, got, &err));
                ck_assert_mem_eq(got, p.b_dec, D * sizeof *got);
                ACCEPTED(sae_model_read(model, SAE_THRESHOLD, 0, N, got, &err));
                ck_assert_mem_eq(got, p.threshold, N * sizeof *got);
                ACCEPTED(sae_model_prepare(model, SAE_PREPARE_ROWS, &err));
            }
            sae_model_free(model);
            planted_free(&p);
        }

    planted p = plant(SAE_GATED);
    sae_model *model = planted_model(&p, env);
    memset(zero, 0, sizeof zero);
    ACCEPTED(sae_model_read(model, SAE_B_ENC, 0, N, got, &err));
    ck_assert_mem_eq(got, p.b_gate, N * sizeof *got);
    ACCEPTED(sae_model_read(model, SAE_THRESHOLD, 0, N, got, &err));
    ck_assert_mem_eq(got, zero, N * sizeof *got);
    sae_model_free(model);
    planted_free(&p);

    p = plant(SAE_STANDARD);
    p.weights.b_enc = p.weights.b_dec = NULL; /* absent is zero */
    model = planted_model(&p, env);
    ACCEPTED(sae_model_read(model, SAE_B_ENC, 0, N, got, &err));
    ck_assert_mem_eq(got, zero, N * sizeof *got);
    ACCEPTED(sae_model_read(model, SAE_B_DEC, 0, D, got, &err));
    ck_assert_mem_eq(got, zero, D * sizeof *got);
    sae_model_free(model);
    planted_free(&p);
}
END_TEST

/* With rescaling, decoder rows are in the unit of the codes: of length 1. */
START_TEST(read_rescaled)
{
    sae_weights w = shape(SAE_TOPK);
    planted p;
    float row[12];
    w.flags = SAE_RESCALE_BY_DECODER_NORM;
    planted_make(&p, w, 3);
    sae_model *model = planted_model(&p, env);
    for (int64_t j = 0; j < w.d_sae; j++) {
        double squares = 0.0;
        ACCEPTED(sae_model_read(model, SAE_W_DEC, j, 1, row, &err));
        for (int k = 0; k < 12; k++)
            squares += (double)row[k] * (double)row[k];
        ck_assert(fabs(squares - 1.0) < 1e-5);
    }
    sae_model_free(model);
    planted_free(&p);
}
END_TEST

START_TEST(read_refuses)
{
    planted p = plant(SAE_STANDARD);
    sae_model *model = planted_model(&p, env);
    float out[12];
    REFUSED(SAE_E_ARG, "model is NULL", sae_model_read(NULL, SAE_W_ENC, 0, 1, out, &err));
    REFUSED(SAE_E_ARG, "out is NULL", sae_model_read(model, SAE_W_ENC, 0, 1, NULL, &err));
    REFUSED(SAE_E_ARG, "tensor = 0", sae_model_read(model, 0, 0, 1, out, &err));
    REFUSED(SAE_E_ARG, "tensor = 7", sae_model_read(model, 7, 0, 1, out, &err));
    REFUSED(SAE_E_ARG, "50", sae_model_read(model, SAE_W_ENC, 50, 1, out, &err));
    REFUSED(SAE_E_ARG, "50", sae_model_read(model, SAE_W_ENC, -1, 1, out, &err));
    REFUSED(SAE_E_ARG, "50", sae_model_read(model, SAE_W_ENC, 0, 51, out, &err));
    REFUSED(SAE_E_ARG, "50", sae_model_read(model, SAE_W_ENC, 1, INT64_MAX, out, &err));
    REFUSED(SAE_E_ARG, "50", sae_model_read(model, SAE_W_ENC, INT64_MAX, 1, out, &err));
    REFUSED(SAE_E_ARG, "50", sae_model_read(model, SAE_W_ENC, 0, -1, out, &err));
    REFUSED(SAE_E_ARG, "12", sae_model_read(model, SAE_B_DEC, 0, 13, out, &err));
    ACCEPTED(sae_model_read(model, SAE_W_ENC, 50, 0, NULL, &err));
    sae_model_free(model);
    planted_free(&p);
}
END_TEST

/* ---- check ---- */

typedef struct poison {
    sae_arch arch;
    uint32_t flags;
    int tensor; /* 0 W_enc, 1 W_dec, then the vectors */
    size_t at;
    const char *words;
} poison;

static const poison poisons[] = {
    {SAE_STANDARD, 0, 0, 103, "W_enc|row 2, column 3"}, /* stored [12][50] */
    {SAE_STANDARD, SAE_W_ENC_BY_ROWS, 0, 100, "W_enc|row 8, column 4"},
    {SAE_STANDARD, 0, 1, 599, "W_dec|row 49, column 11"},
    {SAE_STANDARD, SAE_W_DEC_BY_COLS, 1, 0, "W_dec|row 0, column 0"},
    {SAE_STANDARD, 0, 2, 7, "b_enc|element 7"},
    {SAE_STANDARD, 0, 3, 11, "b_dec|element 11"},
    {SAE_JUMPRELU, 0, 4, 49, "threshold|element 49"},
    {SAE_GATED, 0, 5, 0, "b_gate|element 0"},
    {SAE_GATED, 0, 6, 1, "b_mag|element 1"},
    {SAE_GATED, 0, 7, 2, "r_mag|element 2"},
};

START_TEST(check_finds)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const poison *q = poisons + _i;
    for (size_t b = 0; b < LENGTH(bad); b++) {
        sae_weights w = shape(q->arch);
        planted p;
        w.flags = q->flags;
        planted_make(&p, w, 1);
        sae_model *model = planted_model(&p, env);
        ACCEPTED(sae_model_check(model, &err));
        sae_model_free(model);
        float *const vectors[] = {p.b_enc, p.b_dec, p.threshold, p.b_gate, p.b_mag, p.r_mag};
        if (q->tensor >= 2)
            vectors[q->tensor - 2][q->at] = bad[b];
        else
            memcpy((unsigned char *)p.blocks[q->tensor] + 1 + q->at * sizeof(float), bad + b, sizeof(float));
        model = planted_model(&p, env); /* values are not looked at here */
        REFUSED(SAE_E_FORMAT, q->words, sae_model_check(model, &err));
        REFUSED(SAE_E_FORMAT, q->words, sae_model_prepare(model, SAE_PREPARE_PANELS, &err));
        sae_memory m = {.struct_size = sizeof m};
        ck_assert_int_eq(sae_model_memory(model, &m), SAE_OK);
        ck_assert_uint_eq(m.prepared & SAE_PREPARE_PANELS, 0);
        sae_model_free(model);
        planted_free(&p);
    }
    REFUSED(SAE_E_ARG, "model is NULL", sae_model_check(NULL, &err));
}
END_TEST

/* ---- a host whose parallel-for fails ---- */

START_TEST(failing_runner)
{
    int left = 1 << 30;
    sae_env *other = env_make(&counted, SAE_ISA_AUTO, run_failing, &left, 1);
    sae_weights w = {.arch = SAE_TOPK, .dtype = SAE_F16, .d_in = 700, .d_sae = 2000, .k = 5, .flags = SAE_RESCALE_BY_DECODER_NORM};
    planted p;
    planted_make(&p, w, 1);
    sae_model *model = (sae_model *)&err;
    left = 0;
    REFUSED(SAE_E_HOST, "parallel-for|decoder norms", sae_model_create(&model, other, &p.weights, &err));
    ck_assert_ptr_null(model);
    left = 1 << 30;
    model = planted_model(&p, other);
    left = 0;
    REFUSED(SAE_E_HOST, "parallel-for|W_enc", sae_model_check(model, &err));
    REFUSED(SAE_E_HOST, "parallel-for", sae_model_prepare(model, SAE_PREPARE_PANELS, &err));
    left = 2; /* the check of both matrices goes through, the packing fails */
    REFUSED(SAE_E_HOST, "parallel-for|panels", sae_model_prepare(model, SAE_PREPARE_PANELS, &err));
    REFUSED(SAE_E_HOST, "parallel-for|rows of W_enc", sae_model_prepare(model, SAE_PREPARE_ROWS, &err));
    left = 1 << 30;
    ACCEPTED(sae_model_prepare(model, SAE_PREPARE_ROWS | SAE_PREPARE_PANELS, &err));
    sae_model_free(model);
    sae_env_free(other);
    planted_free(&p);
}
END_TEST

/* ---- open ---- */

static const struct {
    sae_status status;
    const char *path;
    sae_open_options opt;
    const char *words;
} bad_opens[] = {
    {SAE_E_IO, GOLDEN "nothing", {0}, GOLDEN "nothing"},
    {SAE_E_FORMAT, "tests/golden/bad/sl_d_sae_mismatch", {0}, "W_enc|d_sae"},
    {SAE_E_FORMAT, "tests/golden/bad/sl_nan_weight", {0}, "finite"},
    {SAE_E_UNSUPPORTED, "tests/golden/bad/sl_unknown_architecture", {0}, "hyperbolic_sae"},
    {SAE_E_SHAPE, GOLDEN "jumprelu_f32", {.d_in = 7}, "d_in = 7"},
    {SAE_E_SHAPE, GOLDEN "jumprelu_f32", {.d_out = 9}, "d_out = 9"},
    {SAE_E_ARG, GOLDEN "jumprelu_f32", {.k = 3}, "k = 3|jumprelu"},
    {SAE_E_ARG, GOLDEN "topk", {.k = 1 << 30}, "1073741824"},
    {SAE_E_ARG, GOLDEN "topk", {.k = -1}, "k"},
    {SAE_E_ARG, GOLDEN "topk", {.architecture = "mystery"}, "mystery"},
    {SAE_E_ARG, GOLDEN "topk", {.normalize_activations = "mystery"}, "mystery"},
    {SAE_E_ARG, GOLDEN "topk", {.norm_scaling_factor = -1.0f}, "norm_scaling_factor = -1"},
    {SAE_E_ARG, GOLDEN "topk", {.apply_b_dec = 3}, "apply_b_dec = 3"},
    {SAE_E_ARG, GOLDEN "topk", {.copy = 3}, "copy = 3"},
    {SAE_E_ARG, GOLDEN "topk", {.check = -1}, "check = -1"},
};

START_TEST(open_refuses)
{
    sae_model *model = (sae_model *)&err;
    sae_open_options opt = bad_opens[_i].opt;
    const long live = atomic_load(&counted.live_blocks);
    opt.struct_size = sizeof opt;
    REFUSED(bad_opens[_i].status, bad_opens[_i].words, sae_model_open(&model, env, bad_opens[_i].path, &opt, &err));
    ck_assert_ptr_null(model);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), live);
}
END_TEST

START_TEST(open_arguments)
{
    sae_model *model = (sae_model *)&err;
    const sae_open_options opt = {.struct_size = sizeof opt};
    const char *const path = GOLDEN "jumprelu_f32";
    REFUSED(SAE_E_ARG, "out is NULL", sae_model_open(NULL, env, path, &opt, &err));
    REFUSED(SAE_E_ARG, "env is NULL", sae_model_open(&model, NULL, path, &opt, &err));
    ck_assert_ptr_null(model);
    REFUSED(SAE_E_ARG, "path is NULL", sae_model_open(&model, env, NULL, &opt, &err));
    for (size_t bytes = 0; bytes <= sizeof opt + 16; bytes++) {
        void *other = resized(&opt, sizeof opt, bytes, 0);
        if (bytes <= 4) {
            REFUSED(SAE_E_ARG, "sae_open_options.struct_size", sae_model_open(&model, env, path, other, &err));
        } else {
            ACCEPTED(sae_model_open(&model, env, path, other, &err));
            sae_model_free(model);
        }
        free(other);
        if (bytes <= sizeof opt)
            continue;
        other = resized(&opt, sizeof opt, bytes, 1);
        REFUSED(SAE_E_VERSION, "sae_open_options", sae_model_open(&model, env, path, other, &err));
        ck_assert_ptr_null(model);
        free(other);
    }
}
END_TEST

START_TEST(open_accepts)
{
    static const char *const paths[] = {GOLDEN "jumprelu_f32", GOLDEN "jumprelu_f32/", GOLDEN "jumprelu_f32/sae_weights.safetensors"};
    sae_model *model;
    for (size_t i = 0; i < LENGTH(paths); i++)
        for (int32_t copy = 0; copy <= SAE_NO; copy++) {
            const sae_open_options opt = {.struct_size = sizeof opt, .copy = copy, .check = SAE_YES};
            ACCEPTED(sae_model_open(&model, env, paths[i], &opt, &err));
            sae_info info = {.struct_size = sizeof info};
            sae_memory m = {.struct_size = sizeof m};
            ck_assert_int_eq(sae_model_info(model, &info), SAE_OK);
            ck_assert_int_eq(sae_model_memory(model, &m), SAE_OK);
            ck_assert_int_eq(info.arch, SAE_JUMPRELU);
            ck_assert_int_eq(m.mapped_bytes == 0, copy == SAE_YES);
            ck_assert_str_eq(sae_model_text(model, SAE_TEXT_FORMAT), "saelens");
            ck_assert_str_eq(sae_model_text(model, SAE_TEXT_ARCHITECTURE), "jumprelu");
            ck_assert(strstr(sae_model_text(model, SAE_TEXT_PATH), "sae_weights.safetensors"));
            ck_assert(strstr(sae_model_text(model, SAE_TEXT_CONFIG), "\"architecture\""));
            sae_model_free(model);
        }
}
END_TEST

static int n_warned;

static void count_warning(void *user, int32_t level, const char *text)
{
    (void)user;
    n_warned += level == SAE_LOG_WARNING && *text;
}

/* A legal file that a careful user wants to know something about. */
START_TEST(open_warns)
{
    sae_env_options opt = {.struct_size = sizeof opt, .log = count_warning, .log_level = SAE_LOG_WARNING};
    sae_env *loud;
    sae_model *model;
    ACCEPTED(sae_env_create(&loud, &opt, &err));
    n_warned = 0;
    ACCEPTED(sae_model_open(&model, loud, GOLDEN "jumprelu_expected_average_only_in", NULL, &err));
    ck_assert_int_ge(sae_model_n_warnings(model), 1);
    ck_assert_int_eq(n_warned, sae_model_n_warnings(model));
    for (int32_t i = 0; i < sae_model_n_warnings(model); i++)
        ck_assert_int_gt((long)strlen(sae_model_warning(model, i)), 10);
    ck_assert_str_eq(sae_model_warning(model, sae_model_n_warnings(model)), "");
    sae_model_free(model);
    sae_env_free(loud);
}
END_TEST

/* ---- lifetimes ---- */

enum { ENV, MODEL, CTX, PROBE, PLAN, INDEX, N_HANDLES };

static void free_handle(int which, void *handle)
{
    switch (which) {
    case ENV:
        sae_env_free(handle);
        break;
    case MODEL:
        sae_model_free(handle);
        break;
    case CTX:
        sae_ctx_free(handle);
        break;
    case PROBE:
        sae_probe_free(handle);
        break;
    case PLAN:
        sae_plan_free(handle);
        break;
    default:
        sae_index_free(handle);
    }
}

/* All orders in which six handles can be freed; while a child lives its parents work. */
START_TEST(frees_in_every_order)
{
    planted p = plant(SAE_STANDARD);
    float *x = planted_rows(&p, 1, 1);
    const int32_t feature = 3;
    for (int order = 0; order < 720; order++) {
        heap h;
        heap_init(&h);
        void *handles[N_HANDLES];
        sae_ctx *ctx;
        sae_probe *probe;
        sae_plan *plan;
        sae_index *index;
        sae_env *e = env_make(&h, SAE_ISA_AUTO, NULL, NULL, 0);
        sae_model *model = planted_model(&p, e);
        const sae_edit edit = {.struct_size = sizeof edit, .op = SAE_SET, .value = 1.0f, .model = model, .feature = feature};
        ACCEPTED(sae_ctx_create(&ctx, model, NULL, &err));
        ACCEPTED(sae_probe_create(&probe, model, &feature, 1, &err));
        ACCEPTED(sae_plan_compile(&plan, e, 12, 1, &edit, 1, &err));
        ACCEPTED(sae_index_create(&index, model, SAE_BY_DECODER, &err));
        handles[ENV] = e;
        handles[MODEL] = model;
        handles[CTX] = ctx;
        handles[PROBE] = probe;
        handles[PLAN] = plan;
        handles[INDEX] = index;
        int left[N_HANDLES] = {ENV, MODEL, CTX, PROBE, PLAN, INDEX}, code = order;
        bool ctx_lives = true;
        for (int n = N_HANDLES; n > 0; n--) {
            const int pick = code % n;
            code /= n;
            ck_assert_int_gt(atomic_load(&h.live_blocks), 0);
            free_handle(left[pick], handles[left[pick]]);
            ctx_lives &= left[pick] != CTX;
            left[pick] = left[n - 1];
            if (ctx_lives) {
                float dense[50];
                const sae_rows rows = rows_plain(x, 1, 12);
                CTX_ACCEPTED(ctx, sae_encode_dense(ctx, dense, 0, &rows));
            }
        }
        ck_assert_int_eq(atomic_load(&h.live_blocks), 0);
    }
    free(x);
    planted_free(&p);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api model");
    TCase *tc = tcase_create("model");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, create_refuses, 0, LENGTH(defects));
    tcase_add_test(tc, create_refuses_factors);
    tcase_add_test(tc, create_arguments);
    tcase_add_test(tc, create_without_memory);
    tcase_add_test(tc, create_borrows);
    tcase_add_test(tc, infos);
    tcase_add_test(tc, infos_of_others);
    tcase_add_test(tc, texts);
    tcase_add_test(tc, prepare);
    tcase_add_test(tc, read_tensors);
    tcase_add_test(tc, read_rescaled);
    tcase_add_test(tc, read_refuses);
    tcase_add_loop_test(tc, check_finds, 0, LENGTH(poisons));
    tcase_add_test(tc, failing_runner);
    tcase_add_loop_test(tc, open_refuses, 0, LENGTH(bad_opens));
    tcase_add_test(tc, open_arguments);
    tcase_add_test(tc, open_accepts);
    tcase_add_test(tc, open_warns);
    tcase_add_test(tc, frees_in_every_order);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
