/* sae_model_save: every format gives the model back to the bit, the same model the same bytes, and a failure leaves nothing behind. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/support.h"
#include "support/run.h"

#define GOLDEN "tests/golden/"

static sae_error err;
static sae_env *env;
static char work[128]; /* a folder of this test */

/* ---- files ---- */

static void remove_all(const char *folder)
{
    DIR *dir = opendir(folder);
    char path[512];
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (unlink(path)) {
            remove_all(path);
            rmdir(path);
        }
    }
    if (dir)
        closedir(dir);
}

static size_t files_in(const char *folder)
{
    DIR *dir = opendir(folder);
    size_t n = 0;
    ck_assert_ptr_nonnull(dir);
    for (struct dirent *e; (e = readdir(dir));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return n;
}

static void begin(void)
{
    snprintf(work, sizeof work, "%s/saesaveXXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    ck_assert_ptr_nonnull(mkdtemp(work));
    env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
}

static void end(void)
{
    sae_env_free(env);
    remove_all(work);
    ck_assert_int_eq(rmdir(work), 0);
}

/* A path in the folder; one of a few buffers in turn. */
static const char *in_work(const char *name)
{
    static char paths[16][256];
    static int at;
    at = (at + 1) % 16;
    snprintf(paths[at], sizeof paths[at], "%s/%s", work, name);
    return paths[at];
}

typedef struct content {
    unsigned char *bytes;
    size_t n;
} content;

static content read_file(const char *path)
{
    struct stat st;
    content c = {0};
    const int fd = open(path, O_RDONLY);
    ck_assert_msg(fd >= 0 && !fstat(fd, &st), "%s", path);
    c.n = (size_t)st.st_size;
    c.bytes = malloc(c.n + 1);
    ck_assert_int_eq(read(fd, c.bytes, c.n), (ssize_t)c.n);
    close(fd);
    return c;
}

static void ck_same_files(const char *a, const char *b)
{
    content of_a = read_file(a), of_b = read_file(b);
    ck_assert_msg(of_a.n == of_b.n && memcmp(of_a.bytes, of_b.bytes, of_a.n) == 0, "%s and %s differ", a, b);
    free(of_a.bytes);
    free(of_b.bytes);
}

/* ---- models ---- */

static sae_model *open_checked(const char *path)
{
    const sae_open_options opt = {.struct_size = sizeof opt, .check = SAE_YES};
    sae_model *m;
    ACCEPTED(sae_model_open(&m, env, path, &opt, &err));
    return m;
}

static sae_info info_of(const sae_model *m)
{
    sae_info info = {.struct_size = sizeof info};
    ck_assert_int_eq(sae_model_info(m, &info), SAE_OK);
    return info;
}

enum { ROWS = 7 };

/* Codes [ROWS][d_sae] and output [ROWS][d_out] of some rows. */
static float *answers_of(sae_model *m)
{
    const sae_info info = info_of(m);
    const size_t d = (size_t)info.d_in, n = (size_t)info.d_sae;
    float *x = malloc(ROWS * d * sizeof *x), *f = calloc(ROWS * (n + (size_t)info.d_out), sizeof *f);
    rng r = {11};
    for (size_t i = 0; i < ROWS * d; i++)
        x[i] = (float)rng_between(&r, -3, 3);
    sae_ctx *ctx = ctx_make(m, 0);
    const sae_rows rows = rows_plain(x, ROWS, info.d_in), y = rows_plain(f + ROWS * n, ROWS, info.d_out);
    CTX_ACCEPTED(ctx, sae_encode_dense(ctx, f, 0, &rows));
    CTX_ACCEPTED(ctx, sae_forward(ctx, &y, &rows));
    sae_ctx_free(ctx);
    free(x);
    return f;
}

static void ck_same_text(const sae_model *a, const sae_model *b, int32_t what)
{
    ck_assert_str_eq(sae_model_text(a, what), sae_model_text(b, what));
}

static void ck_same_model(sae_model *a, sae_model *b)
{
    const sae_info of_a = info_of(a), of_b = info_of(b);
    uint8_t print_a[16], print_b[16];
    ck_assert(of_a.norm_in_only == of_b.norm_in_only && of_a.keeps_negative == of_b.keeps_negative && of_a.has_skip == of_b.has_skip);
    ck_assert(of_a.stops_on_repeat == of_b.stops_on_repeat && of_a.residual_threshold == of_b.residual_threshold);
    ck_assert(of_a.returns_unscaled == of_b.returns_unscaled && of_a.rescale_by_decoder_norm == of_b.rescale_by_decoder_norm);
    ck_assert(of_a.n_in == of_b.n_in && of_a.n_out == of_b.n_out && of_a.n_blocks == of_b.n_blocks && of_a.norm == of_b.norm);
    ck_assert(of_a.arch == of_b.arch && of_a.d_in == of_b.d_in && of_a.d_sae == of_b.d_sae && of_a.d_out == of_b.d_out);
    ck_assert(of_a.k == of_b.k && of_a.apply_b_dec == of_b.apply_b_dec && of_a.norm_scaling_factor == of_b.norm_scaling_factor);
    ACCEPTED(sae_model_fingerprint(a, print_a, &err));
    ACCEPTED(sae_model_fingerprint(b, print_b, &err));
    ck_assert_mem_eq(print_a, print_b, 16);
    float *of_rows_a = answers_of(a), *of_rows_b = answers_of(b);
    ck_assert_mem_eq(of_rows_a, of_rows_b, ROWS * (size_t)(of_a.d_sae + of_a.d_out) * sizeof *of_rows_a);
    free(of_rows_a);
    free(of_rows_b);
}

static sae_status save_as(const sae_model *m, const char *path, const char *format)
{
    const sae_save_options opt = {.struct_size = sizeof opt, .format = format};
    return sae_model_save(m, path, &opt, &err);
}

/* ---- round trips ---- */

/* Calls `each` for every folder two levels down in `folder`, or one level when `format` is given. Returns how many. */
static size_t for_fixtures(const char *format, void (*each)(const char *path))
{
    DIR *dir = opendir(format);
    char path[512];
    size_t n = 0;
    ck_assert_ptr_nonnull(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", format, e->d_name);
        if (e->d_name[0] == '.' || stat(path, &st) || !S_ISDIR(st.st_mode))
            continue;
        each(path);
        n++;
    }
    closedir(dir);
    return n;
}

static size_t as_gemma_scope;

static void round_trip(const char *path)
{
    sae_model *m = open_checked(path), *back, *again;
    ACCEPTED(sae_model_save(m, in_work("a.sae"), NULL, &err));
    back = open_checked(in_work("a.sae"));
    ck_same_model(m, back);
    ck_assert_str_eq(sae_model_text(back, SAE_TEXT_FORMAT), "sae");
    ck_assert_str_eq(sae_model_text(back, SAE_TEXT_FORMAT_VERSION), "1");
    for (int32_t what = SAE_TEXT_ARCHITECTURE; what <= SAE_TEXT_HOOK_NAME; what++)
        ck_same_text(m, back, what);
    ck_same_text(m, back, SAE_TEXT_CONFIG);
    ck_same_text(m, back, SAE_TEXT_HOOK_NAME_OUT);
    ck_assert_int_eq(sae_model_n_warnings(m), sae_model_n_warnings(back));
    ACCEPTED(sae_model_save(back, in_work("b.sae"), NULL, &err));
    ck_same_files(in_work("a.sae"), in_work("b.sae"));
    ACCEPTED(sae_model_save(back, in_work("folder"), NULL, &err));
    again = open_checked(in_work("folder"));
    ck_same_model(m, again);
    ck_assert_str_eq(sae_model_text(again, SAE_TEXT_FORMAT), "saelens");
    ck_same_text(m, again, SAE_TEXT_MODEL_NAME);
    ck_same_text(m, again, SAE_TEXT_HOOK_NAME);
    ck_same_text(m, again, SAE_TEXT_HOOK_NAME_OUT);
    sae_model_free(again);
    const sae_status status = sae_model_save(m, in_work("params.npz"), NULL, &err);
    ck_assert_msg(status == SAE_OK || status == SAE_E_UNSUPPORTED, "%s", err.text);
    if (!status) {
        as_gemma_scope++;
        again = open_checked(in_work("params.npz"));
        ck_same_model(m, again);
        sae_model_free(again);
    }
    sae_model_free(m);
    sae_model_free(back);
    remove_all(work);
}

START_TEST(saelens_fixtures_come_back_to_the_bit)
{
    ck_assert_int_ge(for_fixtures(GOLDEN "saelens", round_trip), 27);
    ck_assert_int_ge(as_gemma_scope, 2);
}
END_TEST

static size_t others;

/* What has hook points of its own, several decoders, skips: our file says it all, and reading it again says the same. */
static void keep(const char *path)
{
    sae_model *m, *back;
    if (sae_model_open(&m, env, path, NULL, &err)) /* a folder of folders */
        return;
    others++;
    ACCEPTED(sae_model_save(m, in_work("a.sae"), NULL, &err));
    back = open_checked(in_work("a.sae"));
    ck_same_model(m, back);
    ACCEPTED(sae_model_save(back, in_work("b.sae"), NULL, &err));
    ck_same_files(in_work("a.sae"), in_work("b.sae"));
    sae_model_free(m);
    sae_model_free(back);
    remove_all(work);
}

static void keep_format(const char *format)
{
    if (!strstr(format, "/bad") && !strstr(format, "/refused") && !strstr(format, "/engine"))
        for_fixtures(format, keep);
}

START_TEST(every_format_fits_our_file)
{
    for_fixtures(GOLDEN, keep_format);
    ck_assert_int_ge(others, 45);
}
END_TEST

/* ---- the bytes ---- */

START_TEST(one_model_gives_one_file)
{
    const sae_arch archs[] = {SAE_STANDARD, SAE_JUMPRELU, SAE_TOPK, SAE_GATED};
    heap h;
    heap_init(&h);
    sae_env *other = env_make(&h, SAE_ISA_SCALAR, run_shuffled, NULL, 3);
    for (size_t a = 0; a < LENGTH(archs); a++)
        for (uint32_t variant = 0; variant < 12; variant++) {
            sae_weights shape = {.arch = archs[a], .dtype = SAE_F32, .d_in = 130, .d_sae = 217, .d_out = 70, .k = 5};
            shape.dtype = (sae_dtype)(1 + variant / 4);
            planted p;
            for (int i = 0; i < 2; i++) {
                shape.flags = i ? (variant & 1 ? SAE_W_ENC_BY_ROWS : 0) | (variant & 2 ? SAE_W_DEC_BY_COLS : 0) : 0;
                planted_make(&p, shape, 3);
                sae_model *m = planted_model(&p, i ? other : env);
                ACCEPTED(sae_model_save(m, in_work(i ? "b.sae" : "a.sae"), NULL, &err));
                sae_model *back = open_checked(in_work("a.sae"));
                ck_same_model(m, back);
                sae_model_free(back);
                sae_model_free(m);
                planted_free(&p);
            }
            ck_same_files(in_work("a.sae"), in_work("b.sae"));
            remove_all(work);
        }
    sae_env_free(other);
    ck_assert_int_eq(atomic_load(&h.live_blocks), 0);
}
END_TEST

/* Every flag and number of a model from memory is in our file; a SAELens folder has it or is refused. */
START_TEST(every_kind_comes_back)
{
    const char skip = 0;
    const sae_weights kinds[] = {
        {.arch = SAE_JUMPRELU, .flags = SAE_KEEP_NEGATIVE | SAE_APPLY_B_DEC},
        {.arch = SAE_JUMPRELU, .norm = SAE_NORM_LAYER, .flags = SAE_NORM_IN_ONLY},
        {.arch = SAE_JUMPRELU, .norm = SAE_NORM_CONSTANT, .flags = SAE_NORM_IN_ONLY, .d_out = 19, .w_skip = &skip},
        {.arch = SAE_STANDARD, .norm = SAE_NORM_SCALE, .norm_scaling_factor = 0.3f, .norm_out_factor = 7.0f, .w_skip = &skip},
        {.arch = SAE_STANDARD, .norm = SAE_NORM_SCALE, .norm_scaling_factor = 1.0f},
        {.arch = SAE_STANDARD, .norm = SAE_NORM_LAYER, .flags = SAE_APPLY_B_DEC},
        {.arch = SAE_TOPK, .k = 5, .flags = SAE_RESCALE_BY_DECODER_NORM | SAE_APPLY_B_DEC},
        {.arch = SAE_TOPK, .k = 5, .flags = SAE_RESCALE_BY_DECODER_NORM | SAE_RETURN_UNSCALED},
        {.arch = SAE_TOPK, .k = 60, .flags = SAE_KEEP_NEGATIVE},
        {.arch = SAE_ABSTOPK, .k = 9},
        {.arch = SAE_GROUPMAX, .k = 22},
        {.arch = SAE_GATED, .flags = SAE_APPLY_B_DEC},
        {.arch = SAE_MATCHING_PURSUIT, .k = 6, .residual_threshold = 0.7f, .flags = SAE_STOP_ON_REPEAT | SAE_APPLY_B_DEC},
        {.arch = SAE_MATCHING_PURSUIT, .residual_threshold = 0.1f, .flags = SAE_APPLY_B_DEC}};
    size_t as_folder = 0;
    for (size_t i = 0; i < LENGTH(kinds); i++) {
        sae_weights shape = kinds[i];
        shape.dtype = (sae_dtype)(1 + i % 3);
        shape.d_in = 20;
        shape.d_sae = 66;
        planted p;
        planted_make(&p, shape, 9);
        sae_model *m = planted_model(&p, env), *back;
        ACCEPTED(sae_model_save(m, in_work("a.sae"), NULL, &err));
        back = open_checked(in_work("a.sae"));
        ck_same_model(m, back);
        sae_model_free(back);
        const sae_status status = sae_model_save(m, in_work("a"), NULL, &err);
        ck_assert_msg(status == SAE_OK || status == SAE_E_UNSUPPORTED, "%s", err.text);
        if (!status) {
            as_folder++;
            back = open_checked(in_work("a"));
            ck_same_model(m, back);
            sae_model_free(back);
        }
        sae_model_free(m);
        planted_free(&p);
        remove_all(work);
    }
    ck_assert_uint_eq(as_folder, 9);
}
END_TEST

/* More than one buffer of what is put in order: [d][n] to rows, and rows to [d][n]. */
START_TEST(large_matrices_are_put_in_order)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F16, .d_in = 601, .d_sae = 7013, .flags = SAE_W_DEC_BY_COLS}, 5);
    sae_model *m = planted_model(&p, env), *back;
    const char *const paths[] = {in_work("a.sae"), in_work("a"), in_work("a.npz")};
    for (size_t i = 0; i < LENGTH(paths); i++) {
        ACCEPTED(sae_model_save(m, paths[i], NULL, &err));
        back = open_checked(paths[i]);
        ck_same_model(m, back);
        sae_model_free(back);
    }
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

static uint64_t number_at(const content *c, size_t at, size_t bytes)
{
    uint64_t v = 0;
    memcpy(&v, c->bytes + at, bytes);
    return v;
}

/* docs/save.md, byte by byte: head, directory, what stands where. */
START_TEST(the_layout_is_the_published_one)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_BF16, .d_in = 9, .d_sae = 24}, 5);
    sae_model *m = planted_model(&p, env);
    ACCEPTED(sae_model_save(m, in_work("a.sae"), NULL, &err));
    content c = read_file(in_work("a.sae"));
    ck_assert_mem_eq(c.bytes, "\x89SAE\r\n\x1a\n\1\0\0\0\0\0\0\0", 16);
    ck_assert_uint_eq(number_at(&c, 16, 8), c.n);
    const uint32_t want[][5] = {{1, 0, 17, 64, 1}, {3, 0, 16, 1, 3},  {4, 0, 16, 1, 6},  {16, 0, 1, 24, 1},
                                {17, 0, 1, 9, 1},  {18, 0, 1, 24, 1}, {64, 0, 3, 24, 9}, {64, 1, 3, 24, 9}};
    ck_assert_uint_eq(number_at(&c, 24, 4), LENGTH(want));
    for (size_t i = 0; i < LENGTH(want); i++) {
        const size_t at = 64 + 64 * i;
        ck_assert_uint_eq(number_at(&c, at, 4), want[i][0]);
        ck_assert_uint_eq(number_at(&c, at + 4, 4), want[i][1]);
        ck_assert_uint_eq(number_at(&c, at + 8, 4), want[i][2]);
        ck_assert_uint_eq(number_at(&c, at + 12, 4), 1);
        ck_assert_uint_eq(number_at(&c, at + 16, 8), want[i][3]);
        ck_assert_uint_eq(number_at(&c, at + 24, 8), want[i][4]);
        ck_assert_uint_eq(number_at(&c, at + 32, 8) % (want[i][0] == 64 ? 4096 : 64), 0);
    }
    float row[9];
    ACCEPTED(sae_model_read(m, SAE_W_ENC, 23, 1, row, &err));
    const unsigned char *stored = c.bytes + number_at(&c, 64 + 64 * 6 + 32, 8) + 23 * 9 * 2;
    for (int k = 0; k < 9; k++)
        ck_assert(element_load(stored + 2 * k, SAE_BF16) == (double)row[k]);
    free(c.bytes);
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

/* ---- types ---- */

START_TEST(a_narrower_type_rounds_to_nearest_even)
{
    const sae_dtype narrow[] = {SAE_F16, SAE_BF16};
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = 16, .d_sae = 33}, 5);
    rng r = {3};
    float *w = malloc(16 * 33 * sizeof *w);
    for (size_t i = 0; i < 16 * 33; i++)
        w[i] = i % 5 ? (float)rng_between(&r, -2, 2) : 1.0f + (float)(i % 7) / 2048.0f / 8.0f; /* ties too */
    p.weights.w_enc = w;
    sae_model *m = planted_model(&p, env), *back;
    for (size_t t = 0; t < LENGTH(narrow); t++)
        for (int folder = 0; folder < 2; folder++) {
            const sae_save_options opt = {.struct_size = sizeof opt, .dtype = narrow[t], .overwrite = SAE_YES};
            const char *path = in_work(folder ? "f" : "a.sae");
            ACCEPTED(sae_model_save(m, path, &opt, &err));
            back = open_checked(path);
            ck_assert_int_eq(info_of(back).w_enc_dtype, narrow[t]);
            float row[16], was[16];
            for (int f = 0; f < 33; f++) {
                ACCEPTED(sae_model_read(back, SAE_W_ENC, f, 1, row, &err));
                ACCEPTED(sae_model_read(m, SAE_W_ENC, f, 1, was, &err));
                for (int k = 0; k < 16; k++) {
                    unsigned char half[2];
                    element_store(half, narrow[t], (double)was[k]);
                    ck_assert(element_load(half, narrow[t]) == (double)row[k]);
                }
            }
            sae_model_free(back);
        }
    sae_model_free(m);
    planted_free(&p);
    free(w);
}
END_TEST

START_TEST(a_wider_type_changes_nothing)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_GATED, .dtype = SAE_BF16, .d_in = 16, .d_sae = 33}, 5);
    sae_model *m = planted_model(&p, env);
    const sae_save_options opt = {.struct_size = sizeof opt, .dtype = SAE_F32};
    ACCEPTED(sae_model_save(m, in_work("a.sae"), &opt, &err));
    sae_model *back = open_checked(in_work("a.sae"));
    ck_assert_int_eq(info_of(back).w_dec_dtype, SAE_F32);
    ck_same_model(m, back);
    sae_model_free(back);
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

/* ---- refusals ---- */

static sae_model *jumprelu(planted *p, uint32_t flags)
{
    planted_make(p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .flags = flags, .d_in = 16, .d_sae = 33}, 5);
    return planted_model(p, env);
}

START_TEST(what_a_format_cannot_say_is_refused)
{
    planted p;
    const struct {
        sae_weights shape;
        const char *format, *words;
    } all[] = {{{.arch = SAE_TOPK, .k = 3}, "gemma_scope", "is not jumprelu"},
               {{.arch = SAE_STANDARD}, "gemma_scope", "is not jumprelu"},
               {{.arch = SAE_JUMPRELU, .flags = SAE_APPLY_B_DEC}, "gemma_scope", "subtracts b_dec"},
               {{.arch = SAE_JUMPRELU, .norm = SAE_NORM_LAYER}, "gemma_scope", "normalises its rows"},
               {{.arch = SAE_JUMPRELU, .d_out = 15}, "gemma_scope", "another size"},
               {{.arch = SAE_JUMPRELU, .norm = SAE_NORM_SCALE, .norm_scaling_factor = 0.3f}, "saelens", "scaled by 0.3 first|.sae file"},
               {{.arch = SAE_TOPK, .k = 3, .d_out = 15}, "saelens", "transcoder that is topk"},
               {{.arch = SAE_STANDARD, .d_out = 15, .norm = SAE_NORM_LAYER}, "saelens", "un-normalises"}};
    for (size_t i = 0; i < LENGTH(all); i++) {
        sae_weights shape = all[i].shape;
        shape.dtype = SAE_F32;
        shape.d_in = 16;
        shape.d_sae = 33;
        planted_make(&p, shape, 5);
        sae_model *m = planted_model(&p, env);
        REFUSED(SAE_E_UNSUPPORTED, all[i].words, save_as(m, in_work(strcmp(all[i].format, "saelens") ? "a.npz" : "a"), all[i].format));
        ck_assert_uint_eq(files_in(work), 0);
        sae_model_free(m);
        planted_free(&p);
    }
    sae_model *m = jumprelu(&p, 0);
    sae_save_options opt = {.struct_size = sizeof opt, .dtype = SAE_BF16};
    REFUSED(SAE_E_UNSUPPORTED, "no bf16", sae_model_save(m, in_work("a.npz"), &opt, &err));
    opt = (sae_save_options){.struct_size = sizeof opt, .catalog = "labels.catalog"};
    REFUSED(SAE_E_UNSUPPORTED, "name of a catalog", sae_model_save(m, in_work("a"), &opt, &err));
    ck_assert_uint_eq(files_in(work), 0);
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

START_TEST(several_hook_points_are_refused)
{
    sae_model *m;
    ACCEPTED(sae_model_open(&m, env, GOLDEN "llamascopium/clt_jumprelu", NULL, &err));
    REFUSED(SAE_E_UNSUPPORTED, "3 hook points in and 3 out", sae_model_save(m, in_work("a"), NULL, &err));
    ck_assert_uint_eq(files_in(work), 0);
    sae_model_free(m);
    ACCEPTED(sae_model_open(&m, env, GOLDEN "sparsify/groupmax/layers.3", NULL, &err));
    REFUSED(SAE_E_UNSUPPORTED, "groupmax", sae_model_save(m, in_work("a"), NULL, &err));
    sae_model_free(m);
}
END_TEST

START_TEST(wrong_calls_are_refused)
{
    planted p;
    sae_model *m = jumprelu(&p, 0);
    sae_save_options opt = {.struct_size = sizeof opt};
    REFUSED(SAE_E_ARG, "model is NULL", sae_model_save(NULL, in_work("a.sae"), NULL, &err));
    REFUSED(SAE_E_ARG, "path is NULL", sae_model_save(m, NULL, NULL, &err));
    REFUSED(SAE_E_ARG, "path is empty", sae_model_save(m, "", NULL, &err));
    REFUSED(SAE_E_ARG, "not one of sae, saelens, gemma_scope", save_as(m, in_work("a.sae"), "onnx"));
    REFUSED(SAE_E_ARG, "ends in .sae", save_as(m, in_work("a.bin"), "sae"));
    REFUSED(SAE_E_ARG, "ends in .npz", save_as(m, in_work("params"), "gemma_scope"));
    REFUSED(SAE_E_ARG, "is a folder", save_as(m, in_work("a.safetensors"), NULL));
    REFUSED(SAE_E_UNSUPPORTED, "embedding", save_as(m, in_work("embedding/params.npz"), NULL));
    opt.dtype = 9;
    REFUSED(SAE_E_ARG, "dtype = 9", sae_model_save(m, in_work("a.sae"), &opt, &err));
    opt = (sae_save_options){.struct_size = sizeof opt, .overwrite = 3};
    REFUSED(SAE_E_ARG, "overwrite = 3", sae_model_save(m, in_work("a.sae"), &opt, &err));
    opt = (sae_save_options){.struct_size = sizeof opt, .check = -1};
    REFUSED(SAE_E_ARG, "check = -1", sae_model_save(m, in_work("a.sae"), &opt, &err));
    opt = (sae_save_options){.struct_size = sizeof opt, .catalog = "\xff"};
    REFUSED(SAE_E_ARG, "not UTF-8", sae_model_save(m, in_work("a.sae"), &opt, &err));
    opt = (sae_save_options){.struct_size = sizeof opt};
    void *larger = resized(&opt, sizeof opt, sizeof opt + 8, 1);
    REFUSED(SAE_E_VERSION, "sae_save_options", sae_model_save(m, in_work("a.sae"), larger, &err));
    free(larger);
    ck_assert_uint_eq(files_in(work), 0);
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

START_TEST(what_is_there_stays)
{
    planted p;
    sae_model *m = jumprelu(&p, 0);
    const char *const paths[] = {in_work("a.sae"), in_work("a.npz"), in_work("a")};
    for (size_t i = 0; i < LENGTH(paths); i++) {
        ACCEPTED(sae_model_save(m, paths[i], NULL, &err));
        REFUSED(SAE_E_IO, "is there already", sae_model_save(m, paths[i], NULL, &err));
    }
    ck_assert_uint_eq(files_in(work), 3);
    ck_assert_uint_eq(files_in(paths[2]), 2);
    REFUSED(SAE_E_IO, "No such file", sae_model_save(m, in_work("nowhere/a.sae"), NULL, &err));
    REFUSED(SAE_E_IO, "No such file", sae_model_save(m, in_work("nowhere/a"), NULL, &err));
    ck_assert_int_eq(mkdir(in_work("b.sae"), 0777), 0);
    REFUSED(SAE_E_IO, "is a folder", sae_model_save(m, in_work("b.sae"), NULL, &err));
    ck_assert_int_eq(rename(in_work("a.sae"), in_work("file")), 0);
    REFUSED(SAE_E_IO, "is a file", sae_model_save(m, in_work("file"), NULL, &err));
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

/* The mapping of the old file lives on; other files of a folder are left alone. */
START_TEST(a_model_may_replace_its_own_file)
{
    planted p;
    sae_model *m = jumprelu(&p, 0);
    const sae_save_options opt = {.struct_size = sizeof opt, .overwrite = SAE_YES, .dtype = SAE_BF16};
    const char *const paths[] = {in_work("a.sae"), in_work("a.npz"), in_work("a")};
    for (size_t i = 0; i < LENGTH(paths); i++) {
        ACCEPTED(sae_model_save(m, paths[i], NULL, &err));
        if (i == 2)
            fclose(fopen(in_work("a/notes.txt"), "w"));
        sae_model *mapped = open_checked(paths[i]);
        sae_save_options half = opt;
        half.dtype = i == 1 ? SAE_F16 : SAE_BF16;
        ACCEPTED(sae_model_save(mapped, paths[i], &half, &err));
        ck_same_model(m, mapped);
        sae_model *narrow = open_checked(paths[i]);
        ck_assert_int_eq(info_of(narrow).w_enc_dtype, half.dtype);
        sae_model_free(narrow);
        sae_model_free(mapped);
    }
    ck_assert_uint_eq(files_in(work), 3);
    ck_assert_uint_eq(files_in(paths[2]), 3);
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

START_TEST(weights_that_cannot_be_saved_leave_nothing)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = 16, .d_sae = 33}, 5);
    float *w = malloc(16 * 33 * sizeof *w);
    memcpy(w, p.weights.w_enc, 16 * 33 * sizeof *w);
    w[7 * 33 + 5] = 1e6f; /* by columns: feature 5, element 7 */
    p.weights.w_enc = w;
    sae_model *m = planted_model(&p, env);
    const sae_save_options opt = {.struct_size = sizeof opt, .dtype = SAE_F16};
    const char *const paths[] = {in_work("a.sae"), in_work("a.npz"), in_work("a")};
    for (size_t i = 0; i < LENGTH(paths); i++)
        REFUSED(SAE_E_UNSUPPORTED, "1e+06 at feature 5, element 7|f16 cannot hold", sae_model_save(m, paths[i], &opt, &err));
    sae_model_free(m);
    w[7 * 33 + 5] = 1.0f / 0.0f;
    m = planted_model(&p, env);
    REFUSED(SAE_E_FORMAT, "not finite", sae_model_save(m, paths[0], NULL, &err));
    ck_assert_uint_eq(files_in(work), 0);
    const sae_save_options unchecked = {.struct_size = sizeof unchecked, .check = SAE_NO};
    ACCEPTED(sae_model_save(m, paths[0], &unchecked, &err));
    sae_model_free(m);
    REFUSED(SAE_E_FORMAT, "not a finite number", sae_model_open(&m, env, paths[0], NULL, &err));
    planted_free(&p);
    free(w);
}
END_TEST

/* ---- no room ---- */

START_TEST(a_full_disk_is_one_sentence)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = 64, .d_sae = 500}, 5);
    sae_model *m = planted_model(&p, env);
    const char *const paths[] = {in_work("a.sae"), in_work("a.npz"), in_work("a")};
    signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < LENGTH(paths); i++)
        for (rlim_t room = 0; room < 200000; room += 19999) {
            struct rlimit old, small;
            getrlimit(RLIMIT_FSIZE, &old);
            small = (struct rlimit){room, old.rlim_max};
            setrlimit(RLIMIT_FSIZE, &small);
            const sae_status status = sae_model_save(m, paths[i], NULL, &err);
            setrlimit(RLIMIT_FSIZE, &old);
            refusal(__LINE__, status, SAE_E_IO, err.text, "cannot write|File too large");
            ck_assert_uint_eq(files_in(work), 0);
        }
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

START_TEST(without_memory_nothing_is_left)
{
    heap h;
    heap_init(&h);
    sae_env *small = env_make(&h, SAE_ISA_AUTO, NULL, NULL, 0);
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = 16, .d_sae = 33}, 5);
    p.weights.b_enc = NULL; /* zeros have to be made */
    sae_model *m = planted_model(&p, small);
    const char *const paths[] = {in_work("a.sae"), in_work("a.npz"), in_work("a")};
    for (size_t i = 0; i < LENGTH(paths); i++) {
        long failures = 0;
        for (sae_status status = SAE_E_NOMEM; status; failures++) {
            atomic_store(&h.asked, 0);
            atomic_store(&h.fail_at, failures);
            const long blocks = atomic_load(&h.live_blocks);
            status = sae_model_save(m, paths[i], NULL, &err);
            atomic_store(&h.fail_at, -1);
            ck_assert_int_eq(atomic_load(&h.live_blocks), blocks);
            if (status) {
                refusal(__LINE__, status, SAE_E_NOMEM, err.text, "no memory");
                ck_assert_uint_eq(files_in(work), 0);
            }
        }
        ck_assert_int_gt(failures, 2);
        remove_all(work);
    }
    sae_model_free(m);
    planted_free(&p);
    sae_env_free(small);
}
END_TEST

START_TEST(reading_back_without_memory_fails_in_order)
{
    sae_model *m = NULL;
    ACCEPTED(sae_model_open(&m, env, GOLDEN "saelens/temporal", NULL, &err));
    ACCEPTED(sae_model_save(m, in_work("a.sae"), NULL, &err));
    sae_model_free(m);
    heap h;
    heap_init(&h);
    sae_env *small = env_make(&h, SAE_ISA_AUTO, NULL, NULL, 0);
    const long blocks = atomic_load(&h.live_blocks);
    long failures = 0;
    for (sae_status status = SAE_E_NOMEM; status; failures++) {
        atomic_store(&h.asked, 0);
        atomic_store(&h.fail_at, failures);
        status = sae_model_open(&m, small, in_work("a.sae"), NULL, &err);
        atomic_store(&h.fail_at, -1);
        if (status) {
            refusal(__LINE__, status, SAE_E_NOMEM, err.text, "no memory");
            ck_assert_int_eq(atomic_load(&h.live_blocks), blocks);
        }
    }
    ck_assert_int_gt(failures, 20);
    sae_model_free(m);
    sae_env_free(small);
}
END_TEST

/* ---- texts ---- */

START_TEST(a_catalog_is_named)
{
    planted p;
    sae_model *m = jumprelu(&p, 0);
    sae_save_options opt = {.struct_size = sizeof opt, .catalog = "labels.catalog"};
    ACCEPTED(sae_model_save(m, in_work("a.sae"), &opt, &err));
    sae_model *back = open_checked(in_work("a.sae"));
    ck_assert_str_eq(sae_model_text(back, SAE_TEXT_CATALOG), "labels.catalog");
    ck_assert_str_eq(sae_model_text(m, SAE_TEXT_CATALOG), "");
    ACCEPTED(sae_model_save(back, in_work("b.sae"), NULL, &err));
    ck_same_files(in_work("a.sae"), in_work("b.sae"));
    sae_model_free(back);
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

START_TEST(options_of_opening_meet_our_file)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_TOPK, .k = 5, .dtype = SAE_F32, .d_in = 16, .d_sae = 33}, 5);
    sae_model *m = planted_model(&p, env);
    ACCEPTED(sae_model_save(m, in_work("a.sae"), NULL, &err));
    sae_model_free(m);
    sae_open_options opt = {.struct_size = sizeof opt, .k = 7, .architecture = "topk", .apply_b_dec = SAE_YES, .d_in = 16, .copy = SAE_YES};
    ACCEPTED(sae_model_open(&m, env, in_work("a.sae"), &opt, &err));
    ck_assert_int_eq(info_of(m).k, 7);
    ck_assert_int_eq(info_of(m).apply_b_dec, SAE_YES);
    sae_model_free(m);
    opt = (sae_open_options){.struct_size = sizeof opt, .architecture = "gated"};
    REFUSED(SAE_E_ARG, "\"gated\"|topk", sae_model_open(&m, env, in_work("a.sae"), &opt, &err));
    opt = (sae_open_options){.struct_size = sizeof opt, .k = 34};
    REFUSED(SAE_E_ARG, "34|33", sae_model_open(&m, env, in_work("a.sae"), &opt, &err));
    opt = (sae_open_options){.struct_size = sizeof opt, .d_in = 17};
    REFUSED(SAE_E_SHAPE, "16|17", sae_model_open(&m, env, in_work("a.sae"), &opt, &err));
    planted_free(&p);
}
END_TEST

/* ---- damage ---- */

/* In which section a byte lies: its id; 0 in head or directory, -1 between sections. */
static int section_of(const content *c, size_t at)
{
    const size_t n = (size_t)number_at(c, 24, 4);
    if (at < 64 + 64 * n)
        return 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t offset = number_at(c, 64 + 64 * i + 32, 8), bytes = number_at(c, 64 + 64 * i + 40, 8);
        if (at >= offset && at < offset + bytes)
            return (int)number_at(c, 64 + 64 * i, 4);
    }
    return -1;
}

static void put_byte(const char *path, size_t at, unsigned char byte)
{
    const int fd = open(path, O_WRONLY);
    ck_assert(fd >= 0 && pwrite(fd, &byte, 1, (off_t)at) == 1 && close(fd) == 0);
}

START_TEST(every_damaged_byte_is_found)
{
    const char *path = in_work("a.sae");
    sae_model *m = NULL;
    ACCEPTED(sae_model_open(&m, env, GOLDEN "saelens/jumprelu_skip_transcoder", NULL, &err));
    ACCEPTED(sae_model_save(m, path, NULL, &err));
    sae_model_free(m);
    content c = read_file(path);
    const sae_open_options check = {.struct_size = sizeof check, .check = SAE_YES}, skip = {.struct_size = sizeof skip, .check = SAE_NO};
    size_t found = 0, unseen = 0;
    for (size_t at = 0; at < c.n; at += at < 4096 ? 1 : 13) {
        const int section = section_of(&c, at);
        put_byte(path, at, (unsigned char)(c.bytes[at] ^ (1u << at % 8)));
        const sae_status status = sae_model_open(&m, env, path, &check, &err);
        sae_model_free(m);
        ck_assert_msg((status == SAE_OK) == (section < 0), "byte %zu of section %d: %s", at, section, err.text);
        found += status != SAE_OK;
        if (section > 0) { /* without the check, matrices alone may be damaged */
            const sae_status unchecked = sae_model_open(&m, env, path, &skip, &err);
            sae_model_free(m);
            ck_assert_msg((unchecked == SAE_OK) == (section == 64), "byte %zu of section %d: %s", at, section, err.text);
            unseen += unchecked == SAE_OK;
        }
        put_byte(path, at, c.bytes[at]);
    }
    ck_assert(found > 2000 && unseen > 500);
    free(c.bytes);
}
END_TEST

START_TEST(every_cut_is_found)
{
    const char *path = in_work("a.sae");
    planted p;
    sae_model *m = jumprelu(&p, 0);
    ACCEPTED(sae_model_save(m, path, NULL, &err));
    sae_model_free(m);
    content c = read_file(path);
    for (size_t n = c.n; n-- > 0;) {
        ck_assert_int_eq(truncate(path, (off_t)n), 0);
        const sae_status status = sae_model_open(&m, env, path, NULL, &err);
        ck_assert_msg(status == SAE_E_FORMAT && !m && *err.text, "cut to %zu of %zu: %s", n, c.n, sae_status_name(status));
    }
    content longer = c;
    const int fd = open(path, O_WRONLY | O_TRUNC);
    ck_assert(write(fd, longer.bytes, c.n) == (ssize_t)c.n && write(fd, "x", 1) == 1 && close(fd) == 0);
    REFUSED(SAE_E_FORMAT, "cut or joined", sae_model_open(&m, env, path, NULL, &err));
    free(c.bytes);
    planted_free(&p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("save");
    TCase *t = tcase_create("save");
    tcase_set_timeout(t, 600);
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, saelens_fixtures_come_back_to_the_bit);
    tcase_add_test(t, every_format_fits_our_file);
    tcase_add_test(t, one_model_gives_one_file);
    tcase_add_test(t, every_kind_comes_back);
    tcase_add_test(t, large_matrices_are_put_in_order);
    tcase_add_test(t, the_layout_is_the_published_one);
    tcase_add_test(t, a_narrower_type_rounds_to_nearest_even);
    tcase_add_test(t, a_wider_type_changes_nothing);
    tcase_add_test(t, what_a_format_cannot_say_is_refused);
    tcase_add_test(t, several_hook_points_are_refused);
    tcase_add_test(t, wrong_calls_are_refused);
    tcase_add_test(t, what_is_there_stays);
    tcase_add_test(t, a_model_may_replace_its_own_file);
    tcase_add_test(t, weights_that_cannot_be_saved_leave_nothing);
    tcase_add_test(t, a_full_disk_is_one_sentence);
    tcase_add_test(t, without_memory_nothing_is_left);
    tcase_add_test(t, reading_back_without_memory_fails_in_order);
    tcase_add_test(t, a_catalog_is_named);
    tcase_add_test(t, options_of_opening_meet_our_file);
    tcase_add_test(t, every_damaged_byte_is_found);
    tcase_add_test(t, every_cut_is_found);
    suite_add_tcase(s, t);
    return run_suite(s);
}
