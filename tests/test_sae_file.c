/* .sae files whose checksums are right and whose words are wrong: each is refused with its sentence, none is believed. */
#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/sae_image.h"
#include "support/support.h"
#include "support/run.h"

/* ---- functions of the C library that are replaced, to fail when told ---- */

static struct {
    long at;        /* the call that fails, counted down; < 0: none */
    int error;      /* how; 0: writes are short */
    int link_error; /* of every link; 0: none */
} trap = {-1, 0, 0};

static bool fails(void)
{
    return trap.at >= 0 && trap.at-- == 0;
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    ssize_t (*next)(int, const void *, size_t, off_t);
    void *found = dlsym(RTLD_NEXT, "pwrite");
    memcpy(&next, &found, sizeof next);
    if (!fails())
        return next(fd, data, bytes, offset);
    errno = trap.error;
    return trap.error ? -1 : next(fd, data, (bytes + 1) / 2, offset);
}

int fsync(int fd)
{
    int (*next)(int);
    void *found = dlsym(RTLD_NEXT, "fsync");
    memcpy(&next, &found, sizeof next);
    if (!fails() || !trap.error)
        return next(fd);
    errno = trap.error;
    return -1;
}

int link(const char *from, const char *to)
{
    int (*next)(const char *, const char *);
    void *found = dlsym(RTLD_NEXT, "link");
    memcpy(&next, &found, sizeof next);
    if (!trap.link_error)
        return next(from, to);
    errno = trap.link_error;
    return -1;
}

/* ---- files ---- */

static sae_error err;
static char path[128];
static sae_env *env;

static void begin(void)
{
    snprintf(path, sizeof path, "%s/saefile%ld.sae", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", (long)getpid());
    unlink(path); /* an earlier process of this number may have died and left it */
    env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
}

static void end(void)
{
    sae_env_free(env);
    unlink(path);
}

/* A small file of this shape. */
static image planted_file(sae_weights shape)
{
    planted p;
    image f;
    shape.dtype = SAE_F32;
    shape.d_in = 16;
    shape.d_sae = 33;
    planted_make(&p, shape, 5);
    sae_model *m = planted_model(&p, env);
    const sae_save_options opt = {.struct_size = sizeof opt, .overwrite = SAE_YES, .catalog = "names.catalog"};
    ACCEPTED(sae_model_save(m, path, &opt, &err));
    sae_model_free(m);
    planted_free(&p);
    f = image_load(path);
    return f;
}

static image fixture_file(const char *folder)
{
    image f;
    sae_model *m;
    const sae_save_options opt = {.struct_size = sizeof opt, .overwrite = SAE_YES};
    ACCEPTED(sae_model_open(&m, env, folder, NULL, &err));
    ACCEPTED(sae_model_save(m, path, &opt, &err));
    sae_model_free(m);
    f = image_load(path);
    return f;
}

static void refused(image *f, sae_status want, const char *words)
{
    sae_model *m;
    image_store(f, path);
    REFUSED(want, words, sae_model_open(&m, env, path, NULL, &err));
    ck_assert_ptr_null(m);
    free(f->bytes);
}

static const sae_weights jumprelu = {.arch = SAE_JUMPRELU}, topk = {.arch = SAE_TOPK, .k = 5};

START_TEST(a_rewritten_file_still_opens)
{
    image f = planted_file(jumprelu);
    sae_model *m;
    image_store(&f, path);
    ACCEPTED(sae_model_open(&m, env, path, NULL, &err));
    sae_model_free(m);
    free(f.bytes);
}
END_TEST

START_TEST(heads_that_cannot_be_are_refused)
{
    image f = planted_file(jumprelu);
    image_head(&f)->version = 2;
    refused(&f, SAE_E_UNSUPPORTED, "version 2|update");
    f = planted_file(jumprelu);
    image_head(&f)->flags = 1;
    refused(&f, SAE_E_UNSUPPORTED, "flags 0x1");
    f = planted_file(jumprelu);
    image_head(&f)->file_bytes++;
    refused(&f, SAE_E_FORMAT, "cut or joined");
    f = planted_file(jumprelu);
    const uint32_t counts[] = {0, SAEI_SAE_SECTIONS + 1, UINT32_MAX, 8000};
    for (size_t i = 0; i < LENGTH(counts); i++) {
        image_head(&f)->n_sections = counts[i];
        const int fd = open(path, O_WRONLY);
        ck_assert(pwrite(fd, f.bytes, 64, 0) == 64 && close(fd) == 0);
        sae_model *m;
        REFUSED(SAE_E_FORMAT, "sections, 1 .. 16000 fit", sae_model_open(&m, env, path, NULL, &err));
    }
    f.bytes[0] = 'X';
    image_head(&f)->n_sections = 1;
    refused(&f, SAE_E_FORMAT, "is no .sae file");
}
END_TEST

START_TEST(sections_that_cannot_be_are_refused)
{
    const struct {
        uint32_t id;
        uint64_t offset, bytes, rows, columns;
        uint32_t dtype;
        const char *words;
    } all[] = {{SAEI_SAE_B_ENC, 64, 132, 33, 1, SAE_F32, "no place for it"},                 /* in the directory */
               {SAEI_SAE_B_ENC, 1, 132, 33, 1, SAE_F32, "no place for it"},                  /* not aligned */
               {SAEI_SAE_MATRIX, 1ull << 40, 2112, 33, 16, SAE_F32, "no place for it"},      /* behind the end */
               {SAEI_SAE_MATRIX, UINT64_MAX - 63, 2112, 33, 16, SAE_F32, "no place for it"}, /* wraps */
               {SAEI_SAE_MATRIX, 0, UINT64_MAX, 33, 16, SAE_F32, "no place for it"},
               {SAEI_SAE_MATRIX, 0, 2112, 34, 16, SAE_F32, "which are not 34 x 16 elements"},
               {SAEI_SAE_MATRIX, 0, 2112, 33, 16, SAE_F16, "which are not 33 x 16 elements of type 2"},
               {SAEI_SAE_MATRIX, 0, 2112, 33, 16, 9, "elements of type 9"},
               {SAEI_SAE_MATRIX, 0, 2112, 1ull << 62, 1ull << 62, SAE_F32, "which are not"},
               {SAEI_SAE_MATRIX, 0, 2112, UINT64_MAX, 16, SAE_F32, "which are not"},
               {SAEI_SAE_MATRIX, 0, 0, 0, 16, SAE_F32, "which are not 0 x 16"}};
    for (size_t i = 0; i < LENGTH(all); i++) {
        image f = planted_file(jumprelu);
        saei_sae_section *s = image_section(&f, all[i].id);
        s->offset = all[i].offset ? all[i].offset : s->offset;
        s->bytes = all[i].bytes;
        s->shape[0] = all[i].rows;
        s->shape[1] = all[i].columns;
        s->dtype = all[i].dtype;
        refused(&f, SAE_E_FORMAT, all[i].words);
    }
}
END_TEST

START_TEST(directories_out_of_order_are_refused)
{
    image f = planted_file(jumprelu);
    image_section(&f, SAEI_SAE_B_DEC)->id = SAEI_SAE_B_ENC;
    refused(&f, SAE_E_FORMAT, "not in order");
    f = planted_file(jumprelu);
    image_section(&f, SAEI_SAE_MATRIX)[1].offset = image_section(&f, SAEI_SAE_MATRIX)->offset; /* both at one place */
    refused(&f, SAE_E_FORMAT, "no place for it");
    f = planted_file(jumprelu);
    image_section(&f, SAEI_SAE_MATRIX)[1].index = 5;
    refused(&f, SAE_E_FORMAT, "no tensor matrix.1");
}
END_TEST

/* What a later version adds is skipped unless it says that it must be known. */
START_TEST(sections_of_the_future)
{
    image f = planted_file(jumprelu);
    saei_sae_section *texts = image_section(&f, SAEI_SAE_TEXTS);
    const saei_sae_section was = *texts;
    sae_model *m;
    memmove(texts, texts + 1, (size_t)((unsigned char *)(image_sections(&f) + image_head(&f)->n_sections) - (unsigned char *)(texts + 1)));
    saei_sae_section *last = &image_sections(&f)[image_head(&f)->n_sections - 1];
    *last = was;
    last->id = 900;
    last->offset = (f.n + 63) / 64 * 64;
    last->bytes = 64;
    f.n = last->offset + 64;
    ck_assert_uint_le(f.n, f.room);
    image_head(&f)->file_bytes = f.n;
    last->flags = 0;
    last->dtype = 77;
    image_store(&f, path);
    ACCEPTED(sae_model_open(&m, env, path, NULL, &err));
    sae_model_free(m);
    last->flags = SAEI_SAE_REQUIRED;
    refused(&f, SAE_E_UNSUPPORTED, "section 900.0 that this library does not know");
}
END_TEST

START_TEST(numbers_that_cannot_be_are_refused)
{
    const struct {
        size_t at;
        int32_t value;
        const char *words;
    } all[] = {{offsetof(saei_sae_numbers, arch), 0, "architecture"},
               {offsetof(saei_sae_numbers, arch), 99, "architecture"},
               {offsetof(saei_sae_numbers, d_in), 0, "size is below 1"},
               {offsetof(saei_sae_numbers, d_sae), -5, "size is below 1"},
               {offsetof(saei_sae_numbers, n_in), 17, "sizes cannot be"},
               {offsetof(saei_sae_numbers, d_in), INT32_MAX, "sizes cannot be"},
               {offsetof(saei_sae_numbers, d_sae), 34, "do not cover"},
               {offsetof(saei_sae_numbers, d_sae), 32, "what is not there"},
               {offsetof(saei_sae_numbers, d_in), 15, "what is not there"},
               {offsetof(saei_sae_numbers, d_out), 15, "what is not there"},
               {offsetof(saei_sae_numbers, k), 0, "k is not one"},
               {offsetof(saei_sae_numbers, k), 34, "k is not one"},
               {offsetof(saei_sae_numbers, norm), 7, "normalisation"},
               {offsetof(saei_sae_numbers, norm), SAE_NORM_AFFINE, "no tensor in_shift"},
               {offsetof(saei_sae_numbers, norm_scaling_factor), 0, "factor"},
               {offsetof(saei_sae_numbers, norm_out_factor), 0x7f800000, "factor"},
               {offsetof(saei_sae_numbers, residual_threshold), 0x7fc00000, "residual"},
               {offsetof(saei_sae_numbers, n_heads), -1, "heads"},
               {offsetof(saei_sae_numbers, flags), 1 << 6, "flags"}};
    for (size_t i = 0; i < LENGTH(all); i++) {
        image f = planted_file(topk);
        memcpy((unsigned char *)image_data(&f, SAEI_SAE_NUMBERS) + all[i].at, &all[i].value, 4);
        refused(&f, SAE_E_FORMAT, all[i].words);
    }
    image f = planted_file((sae_weights){.arch = SAE_TOPK, .k = 5, .d_out = 15});
    ((saei_sae_numbers *)image_data(&f, SAEI_SAE_NUMBERS))->flags = SAEI_SAE_APPLY_B_DEC;
    refused(&f, SAE_E_FORMAT, "b_dec is subtracted from rows of another size");
    f = planted_file(jumprelu);
    ((saei_sae_numbers *)image_data(&f, SAEI_SAE_NUMBERS))->flags = SAEI_SAE_RESCALE;
    refused(&f, SAE_E_FORMAT, "rescaled");
    f = planted_file(jumprelu);
    ((saei_sae_numbers *)image_data(&f, SAEI_SAE_NUMBERS))->arch = SAE_GATED;
    refused(&f, SAE_E_FORMAT, "no tensor b_gate");
    f = planted_file(jumprelu);
    ((saei_sae_numbers *)image_data(&f, SAEI_SAE_NUMBERS))->arch = SAE_TEMPORAL;
    refused(&f, SAE_E_FORMAT, "attention and architecture disagree");
}
END_TEST

/* One entry of a list is another number. */
START_TEST(lists_that_cannot_be_are_refused)
{
    const struct {
        const char *fixture;
        uint32_t id;
        int at;
        int32_t value;
        const char *words;
    } all[] = {{"saelens/skip_transcoder", SAEI_SAE_BLOCKS, 0, 1, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_BLOCKS, 1, 1, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_BLOCKS, 1, -1, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_BLOCKS, 1, INT32_MAX, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_BLOCKS, 2, 9, "no tensor matrix.9"},
               {"saelens/skip_transcoder", SAEI_SAE_BLOCKS, 2, -1, "no tensor matrix.-1"},
               {"saelens/skip_transcoder", SAEI_SAE_SEGMENTS, 0, 1, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_SEGMENTS, 1, 0, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_SEGMENTS, 1, INT32_MAX, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_SEGMENTS, 2, 1, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_SEGMENTS, 2, INT32_MIN, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_SEGMENTS, 3, 1, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_SEGMENTS, 3, -1, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_SEGMENTS, 4, 0, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_SEGMENTS, 4, INT32_MAX, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_SEGMENTS, 5, 0, "what is not there"},
               {"saelens/skip_transcoder", SAEI_SAE_SKIPS, 0, 1, "a skip"},
               {"saelens/skip_transcoder", SAEI_SAE_SKIPS, 1, -1, "a skip"},
               {"saelens/skip_transcoder", SAEI_SAE_SKIPS, 2, 0, "a skip"},
               {"llamascopium/clt_jumprelu", SAEI_SAE_SEGMENTS, 6, 1, "what is not there"},
               {"llamascopium/clt_jumprelu", SAEI_SAE_SEGMENTS, 8, 0, "what is not there"},
               {"saelens/temporal", SAEI_SAE_ATTENTION, 0, 3, "bias.0 has"},
               {"saelens/temporal", SAEI_SAE_ATTENTION, 1, 77, "no tensor bias.77"},
               {"saelens/temporal", SAEI_SAE_ATTENTION, 7, 0, "bias.0 has"}};
    for (size_t i = 0; i < LENGTH(all); i++) {
        char folder[128];
        snprintf(folder, sizeof folder, "tests/golden/%s", all[i].fixture);
        image f = fixture_file(folder);
        ((int32_t *)image_data(&f, all[i].id))[all[i].at] = all[i].value;
        refused(&f, SAE_E_FORMAT, all[i].words);
    }
    image f = fixture_file("tests/golden/saelens/temporal");
    ((saei_sae_numbers *)image_data(&f, SAEI_SAE_NUMBERS))->n_heads = 5;
    refused(&f, SAE_E_FORMAT, "do not go together");
    f = planted_file(jumprelu);
    image_section(&f, SAEI_SAE_BLOCKS)->shape[0] = 3;
    image_section(&f, SAEI_SAE_BLOCKS)->shape[1] = 1;
    refused(&f, SAE_E_FORMAT, "list of blocks");
    f = planted_file(jumprelu);
    image_section(&f, SAEI_SAE_BLOCKS)->dtype = SAE_F32;
    refused(&f, SAE_E_FORMAT, "list of blocks");
}
END_TEST

START_TEST(texts_that_cannot_be_are_refused)
{
    const struct {
        size_t at;
        uint32_t value;
        const char *words;
    } all[] = {{4, UINT32_MAX, "longer than all"},
               {4, 100, "longer than all"},
               {4, 11, "end early"},
               {8, 0xffffffff, "not UTF-8"},
               {8, 0, "not UTF-8"}};
    for (size_t i = 0; i < LENGTH(all); i++) {
        image f = planted_file(jumprelu);
        memcpy((unsigned char *)image_data(&f, SAEI_SAE_TEXTS) + all[i].at, &all[i].value, 4);
        refused(&f, SAE_E_FORMAT, all[i].words);
    }
    image f = planted_file(jumprelu);
    sae_model *m;
    const uint32_t what = 77; /* a text of the future */
    memcpy(image_data(&f, SAEI_SAE_TEXTS), &what, 4);
    image_store(&f, path);
    ACCEPTED(sae_model_open(&m, env, path, NULL, &err));
    ck_assert_str_eq(sae_model_text(m, SAE_TEXT_CATALOG), "");
    sae_model_free(m);
    free(f.bytes);
}
END_TEST

START_TEST(values_that_are_not_finite_are_refused)
{
    const float nan = 0.0f / 0.0f;
    image f = planted_file(jumprelu);
    memcpy((float *)image_data(&f, SAEI_SAE_THRESHOLD) + 3, &nan, 4);
    refused(&f, SAE_E_FORMAT, "threshold[3]");
    f = planted_file(jumprelu);
    memcpy((float *)image_data(&f, SAEI_SAE_MATRIX) + 20, &nan, 4);
    refused(&f, SAE_E_FORMAT, "row 1, column 4");
    f = planted_file(jumprelu);
    image_section(&f, SAEI_SAE_THRESHOLD)->bytes = 128;
    image_section(&f, SAEI_SAE_THRESHOLD)->shape[0] = 32;
    refused(&f, SAE_E_FORMAT, "threshold has 32 values");
}
END_TEST

/* Two programs that save to one name: the first one stays, and what the second wrote is gone. */
START_TEST(a_file_that_appears_meanwhile_stays)
{
    saei_host with = {0};
    saei_out first, second;
    char text[8];
    saei_host_defaults(&with);
    unlink(path);
    ck_assert_int_eq(saei_out_open(&first, &with, path, false, &err), SAE_OK);
    ck_assert_int_eq(saei_out_open(&second, &with, path, false, &err), SAE_OK);
    ck_assert_str_ne(first.temp, second.temp);
    char left[128];
    snprintf(left, sizeof left, "%s", second.temp);
    ck_assert_int_eq(saei_out_write(&first, "one", 0, 3, &err), SAE_OK);
    ck_assert_int_eq(saei_out_write(&second, "two", 0, 3, &err), SAE_OK);
    ck_assert_int_eq(saei_out_sync(&first, &err), SAE_OK);
    ck_assert_int_eq(saei_out_sync(&second, &err), SAE_OK);
    ck_assert_int_eq(saei_out_commit(&first, &with, &err), SAE_OK);
    REFUSED(SAE_E_IO, "is there already", saei_out_commit(&second, &with, &err));
    saei_out_drop(&first, &with);
    saei_out_drop(&second, &with);
    const int fd = open(path, O_RDONLY);
    ck_assert(read(fd, text, sizeof text) == 3 && memcmp(text, "one", 3) == 0 && close(fd) == 0);
    ck_assert_int_ne(access(left, F_OK), 0);
}
END_TEST

/* The Nth write or sync is interrupted, short, or fails: the same file, or none and the system's words. */
START_TEST(writes_that_fail)
{
    const int ways[] = {0, EINTR, EIO, ENOSPC};
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = 16, .d_sae = 33}, 5);
    sae_model *m = planted_model(&p, env), *back;
    for (size_t w = 0; w < LENGTH(ways); w++) {
        size_t failed = 0, silent = 0;
        for (long n = 0; n < 200; n++) {
            unlink(path);
            trap.at = n;
            trap.error = ways[w];
            const sae_status status = sae_model_save(m, path, NULL, &err);
            const bool reached = trap.at < 0;
            trap.at = -1;
            if (status) {
                failed++;
                refusal(__LINE__, status, SAE_E_IO, err.text, ways[w] == EIO ? "cannot write|Input/output" : "cannot write");
                ck_assert_int_ne(access(path, F_OK), 0);
            } else {
                const sae_open_options check = {.struct_size = sizeof check, .check = SAE_YES};
                ACCEPTED(sae_model_open(&back, env, path, &check, &err));
                sae_model_free(back);
            }
            if (!reached)
                break;
            silent += !status;
            ck_assert_int_lt(n, 100);
        }
        ck_assert(silent <= 1 || (ways[w] != EIO && ways[w] != ENOSPC));           /* the folder cannot be synced everywhere */
        ck_assert(ways[w] == EIO || ways[w] == ENOSPC ? failed > 5 : failed <= 1); /* an fsync is not tried again */
    }
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

/* File systems without hard links: looked at and renamed. */
START_TEST(without_links)
{
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F32, .d_in = 16, .d_sae = 33}, 5);
    sae_model *m = planted_model(&p, env);
    unlink(path);
    trap.link_error = EPERM;
    ACCEPTED(sae_model_save(m, path, NULL, &err));
    ck_assert_int_eq(access(path, F_OK), 0);
    REFUSED(SAE_E_IO, "is there already", sae_model_save(m, path, NULL, &err));
    unlink(path);
    trap.link_error = EIO;
    REFUSED(SAE_E_IO, "Input/output", sae_model_save(m, path, NULL, &err));
    ck_assert_int_ne(access(path, F_OK), 0);
    trap.link_error = 0;
    sae_model_free(m);
    planted_free(&p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sae_file");
    TCase *t = tcase_create("sae_file");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, a_rewritten_file_still_opens);
    tcase_add_test(t, heads_that_cannot_be_are_refused);
    tcase_add_test(t, sections_that_cannot_be_are_refused);
    tcase_add_test(t, directories_out_of_order_are_refused);
    tcase_add_test(t, sections_of_the_future);
    tcase_add_test(t, numbers_that_cannot_be_are_refused);
    tcase_add_test(t, lists_that_cannot_be_are_refused);
    tcase_add_test(t, texts_that_cannot_be_are_refused);
    tcase_add_test(t, values_that_are_not_finite_are_refused);
    tcase_add_test(t, a_file_that_appears_meanwhile_stays);
    tcase_add_test(t, writes_that_fail);
    tcase_add_test(t, without_links);
    suite_add_tcase(s, t);
    return run_suite(s);
}
