/* The screen in a .sae file: it is the one that would be built, gives the dense codes, costs no memory and no time to open, and what is wrong
 * about it is refused. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "model/screen.h"
#include "support/run.h"
#include "support/sae_image.h"
#include "support/support.h"

enum { D = 37, N = 131, ROWS = 9 };

static sae_error err;
static char path[128], again[128];
static sae_env *env;

static void remove_files(void)
{
    unlink(path);
    unlink(again);
}

static void begin(void)
{
    const char *folder = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(path, sizeof path, "%s/saepacked%ld.sae", folder, (long)getpid());
    snprintf(again, sizeof again, "%s/saepacked%ld-2.sae", folder, (long)getpid());
    remove_files(); /* an earlier process of this number may have died and left them */
    env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
}

static void end(void)
{
    sae_env_free(env);
    remove_files();
}

static sae_status save(const sae_model *m, const char *to, sae_dtype dtype)
{
    const sae_save_options opt = {.struct_size = sizeof opt, .overwrite = SAE_YES, .screen = SAE_YES, .dtype = dtype};
    return sae_model_save(m, to, &opt, &err);
}

static void ck_same_files(const char *a, const char *b)
{
    image of_a = image_load(a), of_b = image_load(b);
    ck_assert_msg(of_a.n == of_b.n && memcmp(of_a.bytes, of_b.bytes, of_a.n) == 0, "%s and %s differ", a, b);
    free(of_a.bytes);
    free(of_b.bytes);
}

static sae_memory memory_of(const sae_model *m)
{
    sae_memory memory = {.struct_size = sizeof memory};
    ck_assert_int_eq(sae_model_memory(m, &memory), SAE_OK);
    return memory;
}

/* A model of which few features are active: else the rows are not screened to the end. Its weights are not exact in 16 bits. */
static sae_model *sparse_model(planted *p, sae_weights shape, uint64_t seed)
{
    shape.dtype = SAE_F32;
    shape.d_in = D;
    shape.d_sae = N;
    planted_make(p, shape, seed);
    for (int32_t j = 0; j < N; j++) {
        p->b_enc[j] -= 4.0f;
        p->b_gate[j] -= 4.0f;
    }
    for (size_t i = 0; i < (size_t)D * N; i++) {
        unsigned char *at = (unsigned char *)(uintptr_t)p->weights.w_enc + 4 * i;
        element_store(at, SAE_F32, 1.03 * element_load(at, SAE_F32));
    }
    return planted_model(p, env);
}

static sae_codes encode(sae_model *m, const sae_rows *x, int32_t screen, int64_t *screened)
{
    const sae_ctx_options opt = {.struct_size = sizeof opt, .max_rows = 5, .screen = screen};
    sae_ctx_counts counts = {.struct_size = sizeof counts};
    sae_ctx *ctx;
    ACCEPTED(sae_ctx_create(&ctx, m, &opt, &err));
    const sae_codes codes = codes_of(ctx, x);
    ck_assert_int_eq(sae_ctx_count(ctx, &counts), SAE_OK);
    *screened = counts.rows_screened;
    sae_ctx_free(ctx);
    return codes;
}

/* Screened codes of m are the dense ones of `dense`. */
static void ck_same_codes(sae_model *m, sae_model *dense, const float *x)
{
    int64_t screened, none;
    const sae_rows rows = rows_plain((float *)(uintptr_t)x, ROWS, D);
    sae_codes want = encode(dense, &rows, SAE_NO, &none), got = encode(m, &rows, SAE_YES, &screened);
    ck_assert_msg(codes_same(&want, &got), "other codes");
    ck_assert_int_eq(none, 0);
    ck_assert_int_gt(screened, 0);
    codes_free(&want);
    codes_free(&got);
}

/* ---- what is written comes back ---- */

static const sae_weights shapes[] = {{.arch = SAE_STANDARD},
                                     {.arch = SAE_STANDARD, .flags = SAE_APPLY_B_DEC},
                                     {.arch = SAE_JUMPRELU, .flags = SAE_W_ENC_BY_ROWS},
                                     {.arch = SAE_JUMPRELU, .norm = SAE_NORM_LAYER},
                                     {.arch = SAE_GATED},
                                     {.arch = SAE_GATED, .flags = SAE_APPLY_B_DEC | SAE_W_ENC_BY_ROWS},
                                     {.arch = SAE_TOPK, .k = 7},
                                     {.arch = SAE_TOPK, .k = 7, .d_out = 21}};

static void come_back(sae_model *m, sae_dtype dtype, const float *x)
{
    const sae_open_options opt = {.struct_size = sizeof opt, .check = SAE_YES, .copy = dtype == SAE_BF16 ? SAE_YES : SAE_DEFAULT};
    sae_model *back;
    ACCEPTED(save(m, path, dtype));
    ACCEPTED(sae_model_open(&back, env, path, &opt, &err));
    const sae_memory memory = memory_of(back);
    ck_assert_uint_eq(memory.prepared & SAE_PREPARE_SCREEN, SAE_PREPARE_SCREEN);
    ck_assert_uint_eq((size_t)memory.screen_stored_bytes, saei_screen_weights(back) + 4 * N * sizeof(float));
    ck_assert_int_ge(memory.screen_bytes, memory.screen_stored_bytes);
    ck_same_codes(back, back, x);
    if (!dtype || dtype == SAE_F32)
        ck_same_codes(back, m, x);
    ACCEPTED(save(back, again, 0));
    ck_same_files(path, again);
    sae_model_free(back);
}

START_TEST(a_screen_comes_back)
{
    static const sae_dtype dtypes[] = {0, SAE_F32, SAE_F16, SAE_BF16};
    planted p;
    sae_model *m = sparse_model(&p, shapes[_i], (uint64_t)_i);
    float *x = planted_rows(&p, ROWS, 5);
    for (size_t i = 0; i < LENGTH(dtypes); i++)
        come_back(m, dtypes[i], x);
    sae_model_free(m);
    free(x);
    planted_free(&p);
}
END_TEST

/* Whatever forms the model has, on whatever instruction set and runner. */
START_TEST(one_model_gives_one_file)
{
    sae_isa isas[8];
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = D, .d_sae = N}, 3);
    sae_model *m = planted_model(&p, env);
    ACCEPTED(save(m, path, 0));
    sae_model_free(m);
    for (size_t i = 0, n = isas_available(isas); i < n; i++)
        for (uint32_t what = 0; what < 8; what++) {
            sae_env *other = env_make(NULL, isas[i], what % 2 ? run_shuffled : NULL, NULL, what % 2 ? 3 : 0);
            m = planted_model(&p, other);
            ACCEPTED(sae_model_prepare(m, what, &err));
            ACCEPTED(save(m, again, 0));
            ck_same_files(path, again);
            sae_model_free(m);
            sae_env_free(other);
        }
    planted_free(&p);
}
END_TEST

/* A reader that does not know them skips these sections, and a file without them has the same others. */
START_TEST(the_sections_may_be_skipped)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = D, .d_sae = N}, 3);
    sae_model *m = planted_model(&p, env);
    const sae_save_options plain = {.struct_size = sizeof plain, .overwrite = SAE_YES};
    ACCEPTED(save(m, path, 0));
    ACCEPTED(sae_model_save(m, again, &plain, &err));
    image with = image_load(path), without = image_load(again);
    const uint32_t n = image_head(&without)->n_sections;
    ck_assert_uint_eq(image_head(&with)->n_sections, n + 6);
    for (uint32_t i = 0; i < n + 6; i++) {
        const saei_sae_section *s = &image_sections(&with)[i], *of = &image_sections(&without)[i];
        ck_assert_uint_eq(s->flags, i < n ? SAEI_SAE_REQUIRED : 0);
        ck_assert_uint_eq(s->offset % (s->id == SAEI_SAE_SCREEN_WEIGHTS ? 4096 : 64), 0);
        ck_assert_msg(i >= n || (s->id == of->id && s->digest == of->digest && s->bytes == of->bytes), "section %u", (unsigned)i);
        if (i >= n)
            ck_assert_uint_eq(s->id, SAEI_SAE_SCREEN_WEIGHTS + i - n);
    }
    free(with.bytes);
    free(without.bytes);
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

/* ---- what is wrong about it ---- */

/* A file with a screen, [131][37], centred. */
static image screened_file(void)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = D, .d_sae = N}, 3);
    sae_model *m = planted_model(&p, env);
    ACCEPTED(save(m, path, 0));
    sae_model_free(m);
    planted_free(&p);
    return image_load(path);
}

static void refused(image *f, const char *words)
{
    sae_model *m;
    image_store(f, path);
    REFUSED(SAE_E_FORMAT, words, sae_model_open(&m, env, path, NULL, &err));
    ck_assert_ptr_null(m);
    free(f->bytes);
}

START_TEST(values_that_cannot_be_are_refused)
{
    const struct {
        uint32_t id;
        float value;
        const char *words;
    } all[] = {{SAEI_SAE_SCREEN_SCALE, NAN, "screen.scale[7] is nan"},      {SAEI_SAE_SCREEN_SCALE, -1.0f, "screen.scale[7] is -1"},
               {SAEI_SAE_SCREEN_SCALE, INFINITY, "screen.scale[7] is inf"}, {SAEI_SAE_SCREEN_ERROR, -1e-30f, "screen.error[7] is -1e-30"},
               {SAEI_SAE_SCREEN_ERROR, NAN, "screen.error[7] is nan"},      {SAEI_SAE_SCREEN_NORM, -INFINITY, "screen.norm[7] is -inf"},
               {SAEI_SAE_SCREEN_TOP, -INFINITY, "screen.top[7] is -inf"},   {SAEI_SAE_SCREEN_TOP, NAN, "screen.top[7] is nan"}};
    for (size_t i = 0; i < LENGTH(all); i++) {
        image f = screened_file();
        ((float *)image_data(&f, all[i].id))[7] = all[i].value;
        image_sign(&f);
        refused(&f, all[i].words);
    }
}
END_TEST

START_TEST(sizes_that_cannot_be_are_refused)
{
    const struct {
        uint32_t id, dtype;
        uint64_t rows, columns;
        const char *words;
    } all[] = {{SAEI_SAE_SCREEN_WEIGHTS, SAEI_SAE_BYTES, 64, 1, "screen.weights has 64 bytes, W_enc makes"},
               {SAEI_SAE_SCREEN_WEIGHTS, SAEI_SAE_BYTES, 96, 2, "screen.weights has"},
               {SAEI_SAE_SCREEN_WEIGHTS, SAEI_SAE_I32, 48, 1, "screen.weights has"},
               {SAEI_SAE_SCREEN_NORM, SAE_F32, 130, 1, "other sizes"},
               {SAEI_SAE_SCREEN_TOP, SAEI_SAE_I32, 131, 1, "other sizes"},
               {SAEI_SAE_SCREEN_SCALE, SAE_F16, 131, 2, "other sizes"},
               {SAEI_SAE_SCREEN_ERROR, SAEI_SAE_BYTES, 524, 1, "other sizes"}};
    for (size_t i = 0; i < LENGTH(all); i++) {
        image f = screened_file();
        saei_sae_section *s = image_section(&f, all[i].id);
        const uint32_t each = all[i].dtype == SAEI_SAE_BYTES ? 1 : all[i].dtype == SAE_F16 ? 2 : 4;
        s->dtype = all[i].dtype;
        s->shape[0] = all[i].rows;
        s->shape[1] = all[i].columns;
        s->bytes = all[i].rows * all[i].columns * each;
        image_sign(&f);
        refused(&f, all[i].words);
    }
    for (uint32_t id = SAEI_SAE_SCREEN_WEIGHTS; id < SAEI_SAE_SCREEN; id++) { /* one is absent */
        image f = screened_file();
        saei_sae_section *s = image_section(&f, id);
        s->index = 1;
        image_sign(&f);
        refused(&f, "has no tensor screen.");
    }
    image f = screened_file();
    ((saei_sae_screen *)image_data(&f, SAEI_SAE_SCREEN))->centred = 2;
    refused(&f, "flags that this version does not know");
}
END_TEST

/* Its own digest is wrong, or another section was replaced: also with the checksums of the file. */
START_TEST(the_screen_of_other_weights_is_refused)
{
    image f = screened_file();
    ((saei_sae_screen *)image_data(&f, SAEI_SAE_SCREEN))->of[3] ^= 1;
    refused(&f, "belongs to other weights");
    const uint32_t ids[] = {SAEI_SAE_MATRIX, SAEI_SAE_B_ENC, SAEI_SAE_B_DEC, SAEI_SAE_SCREEN_WEIGHTS, SAEI_SAE_SCREEN_TOP};
    for (size_t i = 0; i < LENGTH(ids); i++) {
        f = screened_file();
        ((float *)image_data(&f, ids[i]))[1] *= 0.5f;
        refused(&f, "belongs to other weights");
    }
}
END_TEST

/* Everything agrees but the truth: only a comparison with W_enc finds it. */
START_TEST(a_forged_screen_is_found_by_the_check)
{
    static const struct {
        uint32_t id;
        const char *words;
    } all[] = {{SAEI_SAE_SCREEN_WEIGHTS, "screen.weights in the file is not what W_enc gives, first for feature "},
               {SAEI_SAE_SCREEN_SCALE, "screen.scale in the file is not what W_enc gives, first for feature 9"},
               {SAEI_SAE_SCREEN_ERROR, "screen.error|feature 9"},
               {SAEI_SAE_SCREEN_NORM, "screen.norm|feature 9"},
               {SAEI_SAE_SCREEN_TOP, "screen.top|feature 9"}};
    const sae_open_options check = {.struct_size = sizeof check, .check = SAE_YES};
    for (size_t i = 0; i < LENGTH(all); i++) {
        image f = screened_file();
        sae_model *m;
        if (i == 0)
            ((uint8_t *)image_data(&f, all[i].id))[37] ^= 1;
        else
            ((float *)image_data(&f, all[i].id))[9] *= 1.0001f;
        image_sign(&f);
        image_store(&f, path);
        REFUSED(SAE_E_FORMAT, all[i].words, sae_model_open(&m, env, path, &check, &err));
        ACCEPTED(sae_model_open(&m, env, path, NULL, &err)); /* no forgery is looked for */
        REFUSED(SAE_E_FORMAT, all[i].words, sae_model_check(m, &err));
        sae_model_free(m);
        free(f.bytes);
    }
}
END_TEST

/* What a later version makes differently is passed over. */
START_TEST(other_kinds_are_passed_over)
{
    for (int i = 0; i < 2; i++) {
        image f = screened_file();
        sae_model *m;
        if (i)
            image_section(&f, SAEI_SAE_SCREEN)->bytes = image_section(&f, SAEI_SAE_SCREEN)->shape[0] = 32;
        else
            ((saei_sae_screen *)image_data(&f, SAEI_SAE_SCREEN))->kind = 2;
        image_store(&f, path);
        ACCEPTED(sae_model_open(&m, env, path, NULL, &err));
        const sae_memory memory = memory_of(m);
        ck_assert(!(memory.prepared & SAE_PREPARE_SCREEN) && memory.screen_stored_bytes == 0 && memory.screen_bytes > 0);
        ACCEPTED(sae_model_prepare(m, SAE_PREPARE_SCREEN, &err));
        ck_assert_uint_eq(memory_of(m).prepared & SAE_PREPARE_SCREEN, SAE_PREPARE_SCREEN);
        sae_model_free(m);
        free(f.bytes);
    }
}
END_TEST

/* Subtracting b_dec moves the centre: the screen of the file does not fit, and another is built. */
START_TEST(options_that_the_screen_does_not_fit)
{
    planted p;
    sae_model *m = sparse_model(&p, (sae_weights){.arch = SAE_STANDARD}, 3);
    float *x = planted_rows(&p, ROWS, 5);
    ACCEPTED(save(m, path, 0));
    sae_model_free(m);
    const sae_open_options moved = {.struct_size = sizeof moved, .apply_b_dec = SAE_YES},
                           normal = {.struct_size = sizeof normal, .normalize_activations = "layer_norm"};
    ACCEPTED(sae_model_open(&m, env, path, &moved, &err));
    ck_assert(!(memory_of(m).prepared & SAE_PREPARE_SCREEN) && memory_of(m).screen_stored_bytes == 0);
    ACCEPTED(sae_model_prepare(m, SAE_PREPARE_SCREEN, &err));
    ck_same_codes(m, m, x);
    sae_model_free(m);
    ACCEPTED(sae_model_open(&m, env, path, &normal, &err));
    ck_assert_uint_eq(memory_of(m).prepared & SAE_PREPARE_SCREEN, SAE_PREPARE_SCREEN);
    ck_same_codes(m, m, x);
    sae_model_free(m);
    free(x);
    planted_free(&p);
}
END_TEST

/* Nobody looks at the weights: features with a NaN or an Inf are candidates always, and screened codes the dense ones still. */
START_TEST(weights_that_are_not_finite)
{
    planted p;
    sae_model *m = sparse_model(&p, (sae_weights){.arch = SAE_STANDARD, .flags = SAE_W_ENC_BY_ROWS}, 3);
    float *x = planted_rows(&p, ROWS, 5);
    const sae_save_options unchecked = {.struct_size = sizeof unchecked, .screen = SAE_YES, .check = SAE_NO, .overwrite = SAE_YES};
    const sae_open_options skip = {.struct_size = sizeof skip, .check = SAE_NO};
    sae_model_free(m);
    for (int i = 0; i < 3; i++)
        element_store((unsigned char *)(uintptr_t)p.weights.w_enc + 4 * (size_t)(i * 11 * D + i), SAE_F32,
                      i ? (double)INFINITY : (double)NAN);
    m = planted_model(&p, env);
    ACCEPTED(sae_model_save(m, path, &unchecked, &err));
    sae_model_free(m);
    ACCEPTED(sae_model_open(&m, env, path, &skip, &err));
    ck_same_codes(m, m, x);
    sae_model_free(m);
    free(x);
    planted_free(&p);
}
END_TEST

/* ---- calls ---- */

START_TEST(wrong_wishes_are_refused)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_ABSTOPK, .dtype = SAE_F32, .d_in = D, .d_sae = N, .k = 3}, 3);
    sae_model *m = planted_model(&p, env);
    REFUSED(SAE_E_UNSUPPORTED, "cannot be screened", save(m, path, 0));
    sae_save_options opt = {.struct_size = sizeof opt, .screen = 3};
    REFUSED(SAE_E_ARG, "sae_save_options.screen = 3", sae_model_save(m, path, &opt, &err));
    opt = (sae_save_options){.struct_size = sizeof opt, .reserved = 1};
    REFUSED(SAE_E_ARG, "sae_save_options.reserved = 1", sae_model_save(m, path, &opt, &err));
    opt = (sae_save_options){.struct_size = sizeof opt, .screen = SAE_YES, .format = "saelens"};
    REFUSED(SAE_E_UNSUPPORTED, "a screen is to be kept", sae_model_save(m, "/tmp/nowhere-packed", &opt, &err));
    ck_assert_int_ne(access(path, F_OK), 0);
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

/* Every allocation of writing, opening and checking fails once. */
START_TEST(without_memory_nothing_is_left)
{
    heap h;
    planted p;
    heap_init(&h);
    sae_env *counted = env_make(&h, SAE_ISA_AUTO, NULL, NULL, 0);
    planted_make(&p, (sae_weights){.arch = SAE_GATED, .dtype = SAE_F32, .d_in = D, .d_sae = N}, 3);
    sae_model *m = planted_model(&p, counted), *back;
    const sae_open_options check = {.struct_size = sizeof check, .check = SAE_YES};
    for (int what = 0; what < 2; what++) {
        const long live = atomic_load(&h.live_blocks);
        sae_status status = SAE_E_NOMEM;
        long n = 0;
        for (; status == SAE_E_NOMEM; n++) {
            back = NULL;
            if (!what)
                unlink(path);
            atomic_store(&h.fail_at, atomic_load(&h.asked) + n);
            status = what ? sae_model_open(&back, counted, path, &check, &err) : save(m, path, 0);
            ck_assert_msg(status == SAE_E_NOMEM || status == SAE_OK, "%s", err.text);
            sae_model_free(back);
            ck_assert_int_eq(atomic_load(&h.live_blocks), live);
            ck_assert_int_eq(what || access(path, F_OK) == 0, what || status == SAE_OK);
        }
        ck_assert_int_gt(n, 5);
        atomic_store(&h.fail_at, -1);
    }
    sae_model_free(m);
    planted_free(&p);
    sae_env_free(counted);
    ck_assert_int_eq(atomic_load(&h.live_blocks), 0);
}
END_TEST

/* The host's parallel-for fails at the Nth run of writing, then of opening and checking. */
START_TEST(a_failing_runner_is_told)
{
    int left = INT_MAX;
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = D, .d_sae = N}, 3);
    sae_env *failing = env_make(NULL, SAE_ISA_AUTO, run_failing, &left, 0);
    sae_model *m = planted_model(&p, failing), *back;
    const sae_open_options check = {.struct_size = sizeof check, .check = SAE_YES};
    for (int what = 0; what < 2; what++) {
        sae_status status = SAE_E_HOST;
        int n = 0;
        for (; status == SAE_E_HOST; n++) {
            left = n;
            status = what ? sae_model_open(&back, failing, path, &check, &err) : save(m, path, 0);
            ck_assert_msg(status == SAE_OK || strstr(err.text, "parallel-for failed"), "%s: %s", sae_status_name(status), err.text);
            ck_assert_int_eq(what || access(path, F_OK) == 0, what || status == SAE_OK);
        }
        ck_assert(status == SAE_OK && n > 1);
    }
    sae_model_free(back);
    sae_model_free(m);
    sae_env_free(failing);
    planted_free(&p);
}
END_TEST

/* ---- pages ---- */

enum { WIDE_D = 768, WIDE_N = 16384 };

/* KiB of the mapping of `path` in this process by /proc/self/smaps; false where there is none. */
static bool resident(long *rss, long *pss)
{
    FILE *smaps = fopen("/proc/self/smaps", "r");
    char line[512];
    bool ours = false;
    long kib;
    *rss = *pss = 0;
    while (smaps && fgets(line, sizeof line, smaps)) {
        if (strchr(line, '-') && strchr(line, '-') < strchr(line, ' '))
            ours = strstr(line, path) != NULL;
        if (ours && sscanf(line, "Rss: %ld kB", &kib) == 1)
            *rss += kib;
        if (ours && sscanf(line, "Pss: %ld kB", &kib) == 1)
            *pss += kib;
    }
    if (smaps)
        fclose(smaps);
    return smaps != NULL;
}

/* 768x16384 with a screen. The decoder is the encoder, so that there is one matrix. */
static void wide_file(void)
{
    rng r = {7};
    float *w = malloc((size_t)WIDE_D * WIDE_N * sizeof *w), *threshold = malloc(WIDE_N * sizeof *threshold);
    for (size_t i = 0; i < (size_t)WIDE_D * WIDE_N; i++)
        w[i] = (float)rng_between(&r, -0.06, 0.06);
    for (size_t j = 0; j < WIDE_N; j++)
        threshold[j] = 2.5f;
    const sae_weights weights = {.struct_size = sizeof weights,
                                 .arch = SAE_JUMPRELU,
                                 .dtype = SAE_F32,
                                 .flags = SAE_BORROW | SAE_W_ENC_BY_ROWS,
                                 .d_in = WIDE_D,
                                 .d_sae = WIDE_N,
                                 .w_enc = w,
                                 .w_dec = w,
                                 .threshold = threshold};
    sae_model *m;
    ACCEPTED(sae_model_create(&m, env, &weights, &err));
    ACCEPTED(save(m, path, 0));
    sae_model_free(m);
    free(w);
    free(threshold);
}

static sae_codes encode_wide(sae_ctx *ctx)
{
    static float x[WIDE_D];
    rng r = {8};
    for (size_t k = 0; k < WIDE_D; k++)
        x[k] = (float)rng_between(&r, -1.7, 1.7);
    const sae_rows row = rows_plain(x, 1, WIDE_D);
    return codes_of(ctx, &row);
}

/* Opening, preparing and a ctx read head, directory and vectors, and build nothing; the first row reads panels and a few rows of W_enc. */
START_TEST(nothing_is_read_or_built)
{
    heap h;
    long rss, pss;
    heap_init(&h);
    wide_file();
    sae_env *counted = env_make(&h, SAE_ISA_AUTO, NULL, NULL, 0);
    const sae_open_options opt = {.struct_size = sizeof opt, .check = SAE_NO};
    const sae_ctx_options one = {.struct_size = sizeof one, .max_rows = 1};
    sae_model *m;
    sae_ctx *ctx;
    ACCEPTED(sae_model_open(&m, counted, path, &opt, &err));
    ACCEPTED(sae_model_prepare(m, SAE_PREPARE_SCREEN, &err));
    ck_assert_int_lt(atomic_load(&h.live_bytes), 1 << 20);
    if (resident(&rss, &pss))
        ck_assert_msg(rss < 2048, "%ld KiB are resident before the first row", rss);
    ACCEPTED(sae_ctx_create(&ctx, m, &one, &err));
    sae_codes codes = encode_wide(ctx);
    sae_ctx_counts counts = {.struct_size = sizeof counts};
    ck_assert_int_eq(sae_ctx_count(ctx, &counts), SAE_OK);
    ck_assert(counts.rows_screened > 0 && counts.rows_dense == 0 && codes.indptr[1] > 10 && counts.candidates < WIDE_N / 20);
    codes_free(&codes);
    sae_ctx_free(ctx);
    sae_model_free(m);
    sae_env_free(counted);
}
END_TEST

/* Opens and encodes, waits for the other, and tells what is resident. */
static void share(int ready, int go, int out, int end_of_all)
{
    sae_model *m;
    char c = 0;
    long of[2];
    const sae_open_options opt = {.struct_size = sizeof opt, .check = SAE_NO};
    if (sae_model_open(&m, env, path, &opt, &err))
        _exit(1);
    sae_ctx *ctx = ctx_make(m, 1);
    sae_codes codes = encode_wide(ctx);
    if (write(ready, &c, 1) != 1 || read(go, &c, 1) != 1 || !resident(&of[0], &of[1]) || write(out, of, sizeof of) != sizeof of)
        _exit(2);
    (void)!read(end_of_all, &c, 1); /* the mapping stays until both have looked */
    codes_free(&codes);
    sae_ctx_free(ctx);
    sae_model_free(m);
    _exit(0);
}

START_TEST(two_processes_share_the_pages)
{
    int ready[2], go[2], out[2], over[2];
    char c[4] = {0};
    long of[2][2], rss, pss;
    pid_t children[2];
    if (!resident(&rss, &pss))
        return;
    wide_file();
    ck_assert(!pipe(ready) && !pipe(go) && !pipe(out) && !pipe(over));
    for (int i = 0; i < 2; i++) {
        children[i] = fork();
        if (!children[i])
            share(ready[1], go[0], out[1], over[0]);
    }
    close(ready[1]); /* so that a child that ended is an end of file */
    close(out[1]);
    ck_assert(read(ready[0], c, 1) == 1 && read(ready[0], c, 1) == 1 && write(go[1], c, 2) == 2);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(read(out[0], of[i], sizeof of[i]), sizeof of[i]);
    ck_assert_int_eq(write(over[1], c, 2), 2);
    for (int i = 0; i < 2; i++) {
        int status;
        ck_assert(waitpid(children[i], &status, 0) == children[i] && status == 0);
        const long panels = (long)WIDE_D * WIDE_N / 1024;
        printf("process %d: %ld KiB of the file resident, %ld KiB its share\n", i, of[i][0], of[i][1]);
        ck_assert_msg(of[i][0] >= panels && of[i][1] <= of[i][0] * 5 / 8, "%ld KiB resident, %ld KiB its share", of[i][0], of[i][1]);
    }
    for (int i = 0; i < 2; i++) {
        close(go[i]);
        close(over[i]);
    }
    close(ready[0]);
    close(out[0]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("packed");
    TCase *t = tcase_create("packed");
    tcase_set_timeout(t, 300);
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_loop_test(t, a_screen_comes_back, 0, (int)LENGTH(shapes));
    tcase_add_test(t, one_model_gives_one_file);
    tcase_add_test(t, the_sections_may_be_skipped);
    tcase_add_test(t, values_that_cannot_be_are_refused);
    tcase_add_test(t, sizes_that_cannot_be_are_refused);
    tcase_add_test(t, the_screen_of_other_weights_is_refused);
    tcase_add_test(t, a_forged_screen_is_found_by_the_check);
    tcase_add_test(t, other_kinds_are_passed_over);
    tcase_add_test(t, options_that_the_screen_does_not_fit);
    tcase_add_test(t, weights_that_are_not_finite);
    tcase_add_test(t, wrong_wishes_are_refused);
    tcase_add_test(t, without_memory_nothing_is_left);
    tcase_add_test(t, a_failing_runner_is_told);
    tcase_add_test(t, nothing_is_read_or_built);
    tcase_add_test(t, two_processes_share_the_pages);
    suite_add_tcase(s, t);
    return run_suite(s);
}
