/* Every fixture of every format gone wrong: cut at many lengths, bytes replaced in configurations and headers, files of one format under the
 * names of another. Whatever comes of it: no crash, no hang, no large allocation, a sentence or a model that works. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/fixtures.h"
#include "support/run.h"
#include "support/support.h"

enum { MOST_BYTES = 1 << 20, MOST_FILES = 8, LARGEST_ASK = 64 << 20 };

typedef struct content {
    char name[200]; /* below the folder */
    unsigned char *data;
    size_t n;
} content;

/* The files of one checkpoint, and a folder that they are written to. */
typedef struct victim {
    const char *path;
    json_t *about;
    char place[256], layer[16], dir[64];
    sae_open_options opt;
    content files[MOST_FILES];
    size_t n_files;
    long opened, refused;
} victim;

static json_t *list;
static sae_env *env;
static sae_error err;
static size_t largest;

static void *limited_alloc(void *user, size_t bytes, size_t alignment)
{
    (void)user;
    largest = bytes > largest ? bytes : largest;
    void *p = NULL;
    return bytes > LARGEST_ASK || posix_memalign(&p, alignment, bytes) ? NULL : p;
}

static void limited_free(void *user, void *p, size_t bytes, size_t alignment)
{
    (void)user;
    (void)bytes;
    (void)alignment;
    free(p);
}

static content content_of(const char *path, const char *name)
{
    char file[500];
    content c = {.data = malloc(MOST_BYTES)};
    snprintf(c.name, sizeof c.name, "%s", name);
    snprintf(file, sizeof file, GOLDEN_FOLDER "%s/%s", path, name);
    FILE *f = fopen(file, "rb");
    ck_assert_msg(f && c.data, "cannot read %s", file);
    c.n = fread(c.data, 1, MOST_BYTES, f);
    ck_assert_uint_lt(c.n, MOST_BYTES);
    fclose(f);
    return c;
}

/* Makes the folders of a name below `dir`. */
static void make_folders(const char *dir, const char *name)
{
    char path[400];
    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(path, sizeof path, "%s/%.*s", dir, (int)(slash - name), name);
        mkdir(path, 0700);
    }
}

static void put(const victim *v, const char *name, const unsigned char *data, size_t n)
{
    char path[400];
    make_folders(v->dir, name);
    snprintf(path, sizeof path, "%s/%s", v->dir, name);
    FILE *f = fopen(path, "wb");
    ck_assert_msg(f && fwrite(data, 1, n, f) == n && fclose(f) == 0, "cannot write %s", path);
}

static void begin(victim *v, size_t index)
{
    *v = (victim){.path = fixture_path(list, index), .dir = "/tmp/saehostileXXXXXX"};
    v->about = fixture_about(v->path);
    ck_assert(v->about && mkdtemp(v->dir));
    v->opt = fixture_options(v->path, v->about, v->layer);
    fixture_place(v->place, v->about);
    json_t *files = json_object_get(v->about, "files");
    for (size_t i = 0; i < json_array_size(files) && v->n_files < MOST_FILES; i++)
        v->files[v->n_files++] = content_of(v->path, json_string_value(json_array_get(files, i)));
    for (size_t i = 0; i < v->n_files; i++)
        put(v, v->files[i].name, v->files[i].data, v->files[i].n);
}

static void end(victim *v)
{
    char command[120];
    snprintf(command, sizeof command, "rm -rf %s", v->dir);
    ck_assert_int_eq(system(command), 0);
    for (size_t i = 0; i < v->n_files; i++)
        free(v->files[i].data);
    json_decref(v->about);
}

/* A zero row and one of ones through everything that reads the weights. */
static void use(sae_model *model, const char *what)
{
    sae_info info = {.struct_size = sizeof info};
    ck_assert_int_eq(sae_model_info(model, &info), SAE_OK);
    ck_assert_msg(info.d_in > 0 && info.d_sae > 0 && info.d_out > 0, "%s: %d, %d, %d", what, (int)info.d_in, (int)info.d_sae,
                  (int)info.d_out);
    float *x = calloc((size_t)info.d_in * 2, sizeof *x), *y = calloc((size_t)info.d_out * 2, sizeof *y);
    sae_codes codes = codes_make(2, 2 * (int64_t)info.d_sae, true);
    const sae_rows rows = rows_plain(x, 2, info.d_in), out = rows_plain(y, 2, info.d_out);
    ck_assert(x && y);
    for (int32_t i = 0; i < info.d_in; i++)
        x[info.d_in + i] = 1.0f;
    sae_ctx *ctx;
    const sae_ctx_options two = {.struct_size = sizeof two, .max_rows = 2};
    ck_assert_msg(sae_ctx_create(&ctx, model, &two, &err) == SAE_OK, "%s: %s", what, err.text);
    ck_assert_msg(sae_encode(ctx, &codes, &rows) == SAE_OK, "%s: %s", what, sae_ctx_error(ctx));
    for (int64_t i = 0; i < codes.indptr[2]; i++)
        ck_assert_msg(codes.values[i] != 0.0f && codes.indices[i] >= 0 && codes.indices[i] < info.d_sae, "%s: a code of %g", what,
                      (double)codes.values[i]);
    ck_assert_msg(sae_decode(ctx, &out, &codes) == SAE_OK, "%s: %s", what, sae_ctx_error(ctx));
    ck_assert_msg(sae_forward(ctx, &out, &rows) == SAE_OK, "%s: %s", what, sae_ctx_error(ctx));
    sae_ctx_free(ctx);
    codes_free(&codes);
    free(x);
    free(y);
}

static void try_open(victim *v, const char *what)
{
    char path[400];
    sae_model *model = NULL;
    snprintf(path, sizeof path, "%s/%s", v->dir, v->place);
    largest = 0;
    err = (sae_error){.struct_size = sizeof err};
    const sae_status status = sae_model_open(&model, env, path, &v->opt, &err);
    ck_assert_msg(largest <= LARGEST_ASK, "%s: %s: %zu bytes were asked for", v->path, what, largest);
    ck_assert_msg((status == SAE_OK) == (model != NULL) && (status == SAE_OK) == !*err.text, "%s: %s: %s", v->path, what, err.text);
    ck_assert_msg(status != SAE_E_NOMEM && strlen(err.text) < sizeof err.text, "%s: %s: %s", v->path, what, err.text);
    v->opened += !status;
    v->refused += status != SAE_OK;
    if (model)
        use(model, what);
    sae_model_free(model);
}

static void try_with(victim *v, const content *c, const unsigned char *data, size_t n, const char *what)
{
    put(v, c->name, data, n);
    try_open(v, what);
}

/* Every length up to 64, and 40 more. */
START_TEST(cut_files)
{
    victim v;
    char what[300];
    begin(&v, (size_t)_i);
    try_open(&v, "whole");
    ck_assert_msg(v.opened == 1, "%s: %s", v.path, err.text);
    for (size_t i = 0; i < v.n_files; i++) {
        const content *c = &v.files[i];
        for (size_t n = 0; n < c->n; n += n < 64 ? 1 : 1 + c->n / 40) {
            snprintf(what, sizeof what, "%s cut at %zu", c->name, n);
            try_with(&v, c, c->data, n, what);
        }
        put(&v, c->name, c->data, c->n);
    }
    ck_assert_int_gt(v.refused, 60);
    end(&v);
}
END_TEST

/* Bytes of configurations, and of the first and last bytes of the others, where their headers and directories are. */
START_TEST(replaced_bytes)
{
    static const unsigned char others[] = {'0', '9', '-', '"', '{', ']', ' ', 0x00, 0x7f, 0xff};
    victim v;
    char what[300];
    begin(&v, (size_t)_i);
    for (size_t i = 0; i < v.n_files; i++) {
        content *c = &v.files[i];
#ifdef __SANITIZE_ADDRESS__ /* five times slower */
        const size_t step = c->n > 3000 ? 17 : 7;
#else
        const size_t step = c->n > 3000 ? 7 : 3;
#endif
        for (size_t at = 0; at < c->n; at += step) {
            if (at > 900 && at + 900 < c->n)
                at = c->n - 900;
            const unsigned char was = c->data[at];
            c->data[at] = others[(at / step + i) % sizeof others];
            snprintf(what, sizeof what, "%s with %#x at %zu", c->name, c->data[at], at);
            try_with(&v, c, c->data, c->n, what);
            c->data[at] = was;
        }
        put(&v, c->name, c->data, c->n);
    }
    end(&v);
}
END_TEST

/* Its weights are another fixture's. */
START_TEST(swapped_files)
{
    victim v, other;
    char what[600];
    begin(&v, (size_t)_i);
    for (size_t k = 0; k < json_array_size(list); k += 1 + k % 3) {
        begin(&other, k);
        for (size_t i = 0; i < v.n_files; i++) {
            const content *c = &v.files[i], *from = &other.files[i % other.n_files];
            snprintf(what, sizeof what, "%s is %s of %s", c->name, from->name, other.path);
            try_with(&v, c, from->data, from->n, what);
            put(&v, c->name, c->data, c->n);
        }
        end(&other);
    }
    end(&v);
}
END_TEST

/* One file is not there. */
START_TEST(missing_files)
{
    victim v;
    char path[400], what[300];
    begin(&v, (size_t)_i);
    for (size_t i = 0; i < v.n_files; i++) {
        snprintf(path, sizeof path, "%s/%s", v.dir, v.files[i].name);
        snprintf(what, sizeof what, "without %s", v.files[i].name);
        ck_assert_int_eq(unlink(path), 0);
        try_open(&v, what);
        put(&v, v.files[i].name, v.files[i].data, v.files[i].n);
    }
    end(&v);
}
END_TEST

static void setup(void)
{
    const sae_env_options opt = {.struct_size = sizeof opt, .alloc = limited_alloc, .dealloc = limited_free};
    ACCEPTED(sae_env_create(&env, &opt, &err));
}

static void teardown(void)
{
    sae_env_free(env);
}

int main(void)
{
    list = fixtures_list();
    const int n = (int)json_array_size(list);
    Suite *suite = suite_create("hostile");
    TCase *tc = tcase_create("hostile");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, cut_files, 0, n);
    tcase_add_loop_test(tc, replaced_bytes, 0, n);
    tcase_add_loop_test(tc, swapped_files, 0, n);
    tcase_add_loop_test(tc, missing_files, 0, n);
    suite_add_tcase(suite, tc);
    return n ? run_suite(suite) : EXIT_FAILURE;
}
