/* Catalogs and what can happen to files: writers that are killed, disks that are full, later schemas, cut and flipped files. Nothing that was
 * committed is lost, and no file brings the program down. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "support/support.h"
#include "support/run.h"

enum { N = 30000, EACH = 3 }; /* features, and how many a transaction has */

static sae_error err;
static sae_env *env;
static sae_model *model;
static char folder[64], path[96], journal[112];

static void setup(void)
{
    planted p;
    env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    planted_make(&p, (sae_weights){.arch = SAE_STANDARD, .dtype = SAE_F32, .d_in = 2, .d_sae = N}, 1);
    model = planted_model(&p, env);
    planted_free(&p);
    /* commits wait for the disk, where there is one */
    snprintf(folder, sizeof folder, "%s/sae-features-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.features", folder);
    snprintf(journal, sizeof journal, "%s-journal", path);
    signal(SIGPIPE, SIG_IGN);
}

static void teardown(void)
{
    unlink(journal);
    unlink(path);
    ck_assert_msg(rmdir(folder) == 0, "something else was left in %s", folder);
    sae_model_free(model);
    sae_env_free(env);
}

static sae_catalog *opened(int32_t access)
{
    const sae_catalog_options opt = {.struct_size = sizeof opt, .access = access, .model = model};
    sae_catalog *c;
    ACCEPTED(sae_catalog_open(&c, env, path, &opt, &err));
    return c;
}

static sae_status put(sae_catalog *c, int32_t id, int32_t batch, int32_t n_tokens)
{
    char label[64];
    static sae_token tokens[500];
    for (int32_t i = 0; i < n_tokens; i++)
        tokens[i] = (sae_token){"token", (float)i, 0};
    const sae_example example = {tokens, n_tokens, 0, 1, 2};
    snprintf(label, sizeof label, "batch%d 묶음을", batch);
    const sae_feature f = {.struct_size = sizeof f,
                           .id = id,
                           .label = label,
                           .density = 0.5,
                           .mean = NAN,
                           .max = batch,
                           .examples = &example,
                           .n_examples = 1};
    return sae_catalog_put(c, &f, &err);
}

/* ---- killed writers ---- */

_Noreturn static void write_batches(int out, int32_t first)
{
    sae_catalog *c = opened(SAE_CATALOG_WRITE);
    for (int32_t batch = first; batch < N / EACH; batch++) {
        if (sae_catalog_begin(c, &err))
            _exit(1);
        for (int32_t i = 0; i < EACH; i++)
            if (put(c, batch * EACH + i, batch, batch % 7 == 0 ? 500 : 5))
                _exit(2);
        if (sae_catalog_commit(c, &err) || write(out, &batch, sizeof batch) != sizeof batch)
            _exit(3);
    }
    _exit(0);
}

static int64_t count(sae_catalog *c)
{
    int64_t n = -1;
    ACCEPTED(sae_catalog_count(c, &n, &err));
    return n;
}

/* All of the batch or nothing, in the table and in the index. */
static void check_batch(sae_catalog *c, int32_t batch, bool there)
{
    char query[32];
    sae_features *list;
    snprintf(query, sizeof query, "batch%d", batch);
    ACCEPTED(sae_catalog_search(&list, c, query, 10, &err));
    ck_assert_int_ge(sae_features_count(list), there ? EACH : 0);
    for (int i = 0; i < EACH && there; i++) {
        sae_feature f = {.struct_size = sizeof f};
        ck_assert_int_eq(sae_features_at(list, i, &f), SAE_OK);
        ck_assert_int_eq(f.id, batch * EACH + i);
    }
    sae_features_free(list);
}

/* One writer is killed after about `delay` nanoseconds; gives the next batch. */
static int32_t kill_one(int32_t next, long delay)
{
    int ends[2];
    int32_t acked = next - 1, batch;
    ck_assert_int_eq(pipe(ends), 0);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        close(ends[0]);
        write_batches(ends[1], next);
    }
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], &batch, sizeof batch), sizeof batch); /* it is under way */
    acked = batch;
    nanosleep(&(struct timespec){0, delay}, NULL);
    kill(child, SIGKILL);
    while (read(ends[0], &batch, sizeof batch) == sizeof batch)
        acked = batch;
    close(ends[0]);
    int how;
    ck_assert_int_eq(waitpid(child, &how, 0), child);
    ck_assert(WIFSIGNALED(how));
    sae_catalog *c = opened(SAE_CATALOG_READ);
    const int64_t n = count(c);
    ck_assert_int_eq(n % EACH, 0);
    const int32_t there = (int32_t)(n / EACH);
    ck_assert_msg(there == acked + 1 || there == acked + 2, "%d batches are there, %d were acknowledged", there, acked + 1);
    check_batch(c, acked, true);
    check_batch(c, there - 1, true);
    check_batch(c, there, false);
    sae_catalog_free(c);
    return there;
}

START_TEST(killed_writers)
{
    rng r = {5};
    sae_catalog *c;
    ACCEPTED(sae_catalog_create(&c, env, path, model, &err));
    sae_catalog_free(c);
    int32_t next = 0;
    for (int round = 0; round < 100; round++)
        next = kill_one(next, (long)rng_below(&r, 12000000));
    c = opened(SAE_CATALOG_WRITE);
    ck_assert_int_eq(count(c), (int64_t)next * EACH);
    ck_assert_int_eq(put(c, N - 1, 1, 5), SAE_OK);
    sae_catalog_free(c);
    ck_assert_int_ne(access(journal, F_OK), 0); /* one file */
}
END_TEST

/* ---- full disks ---- */

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A limit on the size of files stands for a full disk. */
START_TEST(full_disk)
{
    sae_catalog *c;
    signal(SIGXFSZ, SIG_IGN);
    limit_files(8192);
    REFUSED(SAE_E_IO, "cannot write to|a.features", sae_catalog_create(&c, env, path, model, &err));
    ck_assert_ptr_null(c);
    ck_assert_int_ne(access(path, F_OK), 0); /* nothing half made stays */
    limit_files(RLIM_INFINITY);
    ACCEPTED(sae_catalog_create(&c, env, path, model, &err));
    ck_assert_int_eq(put(c, 1, 1, 5), SAE_OK);
    limit_files(200000);
    sae_status status = sae_catalog_begin(c, &err);
    int32_t id = 2;
    while (!status && id < 2000)
        status = put(c, id++, 2, 500);
    if (!status)
        status = sae_catalog_commit(c, &err);
    refusal(__LINE__, status, SAE_E_IO, err.text, "cannot write to|a.features");
    REFUSED(SAE_E_ARG, "no transaction", sae_catalog_commit(c, &err)); /* it has ended */
    ck_assert_int_eq(count(c), 1);
    limit_files(RLIM_INFINITY);
    ck_assert_int_eq(put(c, 3, 3, 500), SAE_OK); /* there is room again */
    ck_assert_int_eq(count(c), 2);
    sae_catalog_free(c);
    c = opened(SAE_CATALOG_READ);
    check_batch(c, 2, false);
    ck_assert_int_eq(count(c), 2);
    sae_catalog_free(c);
}
END_TEST

/* ---- files from strangers ---- */

typedef struct bytes {
    unsigned char *p;
    size_t n;
} bytes;

static bytes slurp(void)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fstat(fileno(f), &st), 0);
    bytes b = {malloc((size_t)st.st_size), (size_t)st.st_size};
    ck_assert_uint_eq(fread(b.p, 1, b.n, f), b.n);
    fclose(f);
    return b;
}

static void spit(const unsigned char *p, size_t n)
{
    unlink(journal);
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(p, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

static bytes small_catalog(void)
{
    sae_catalog *c;
    ACCEPTED(sae_catalog_create(&c, env, path, model, &err));
    ACCEPTED(sae_catalog_begin(c, &err));
    for (int32_t i = 0; i < 60; i++)
        ck_assert_int_eq(put(c, i * 5, i, 20), SAE_OK);
    ACCEPTED(sae_catalog_commit(c, &err));
    sae_catalog_free(c);
    return slurp();
}

/* Every call, whatever it answers. */
static void use(sae_catalog *c, bool write)
{
    sae_features *list;
    int64_t n;
    const int32_t ids[] = {0, 5, 150, 295};
    const sae_list_options orders[] = {{.struct_size = sizeof *orders, .order = SAE_ORDER_DENSITY, .descending = SAE_YES},
                                       {.struct_size = sizeof *orders, .order = SAE_ORDER_MAX}};
    (void)sae_catalog_count(c, &n, &err);
    (void)sae_catalog_get(&list, c, ids, LENGTH(ids), &err);
    sae_features_free(list);
    (void)sae_catalog_search(&list, c, "묶음 batch3", 10, &err);
    sae_features_free(list);
    for (size_t i = 0; i < LENGTH(orders); i++) {
        (void)sae_catalog_list(&list, c, &orders[i], &err);
        sae_features_free(list);
    }
    if (write) {
        (void)sae_catalog_begin(c, &err);
        (void)put(c, 5, 77, 20);
        (void)put(c, 6, 78, 20);
        sae_catalog_rollback(c);
    }
}

/* Opens what lies there; true when it opened and every status was one that a damaged file may give. */
static void try_file(bool write)
{
    const sae_catalog_options opt = {.struct_size = sizeof opt, .access = write ? SAE_CATALOG_WRITE : SAE_CATALOG_READ};
    sae_catalog *c;
    err = (sae_error){.struct_size = sizeof err};
    const sae_status status = sae_catalog_open(&c, env, path, &opt, &err);
    if (!status)
        use(c, write);
    else
        ck_assert_msg((status == SAE_E_FORMAT || status == SAE_E_IO || status == SAE_E_VERSION) && *err.text, "%d: %s", status, err.text);
    sae_catalog_free(c);
}

START_TEST(cut_files)
{
    const bytes b = small_catalog();
    for (size_t n = 0; n < b.n; n += n < 200 ? 1 : 997) {
        spit(b.p, n);
        try_file(n % 2);
    }
    free(b.p);
}
END_TEST

START_TEST(flipped_files)
{
    const bytes b = small_catalog();
    rng r = {11};
    unsigned char *damaged = malloc(b.n);
    for (int round = 0; round < 3000; round++) {
        memcpy(damaged, b.p, b.n);
        const uint32_t flips = 1 + rng_below(&r, 3);
        for (uint32_t i = 0; i < flips; i++) {
            const uint32_t at = rng_below(&r, round % 3 ? (uint32_t)b.n : 4096);
            damaged[at] ^= (unsigned char)(1u << rng_below(&r, 8));
        }
        spit(damaged, b.n);
        try_file(round % 2);
    }
    free(damaged);
    free(b.p);
}
END_TEST

START_TEST(files_of_others)
{
    enum { USER_VERSION = 60, APPLICATION_ID = 68 }; /* big-endian, https://www.sqlite.org/fileformat.html */
    const bytes b = small_catalog();
    sae_catalog *c;
    b.p[USER_VERSION + 3] = 2;
    spit(b.p, b.n);
    REFUSED(SAE_E_VERSION, "a.features has catalog schema 2|up to 1|update libsae", sae_catalog_open(&c, env, path, NULL, &err));
    ck_assert_ptr_null(c);
    b.p[USER_VERSION + 3] = 0;
    spit(b.p, b.n);
    REFUSED(SAE_E_FORMAT, "schema 0, which never existed", sae_catalog_open(&c, env, path, NULL, &err));
    b.p[USER_VERSION + 3] = 1;
    b.p[APPLICATION_ID] ^= 1;
    spit(b.p, b.n);
    REFUSED(SAE_E_FORMAT, "no catalog: its application_id is 0x52414566", sae_catalog_open(&c, env, path, NULL, &err));
    b.p[APPLICATION_ID] ^= 1;
    /* tables that differ in a letter */
    unsigned char *at = memmem(b.p, b.n, "density REAL", 12);
    ck_assert_ptr_nonnull(at);
    memcpy(at + 8, "TEXT", 4);
    spit(b.p, b.n);
    REFUSED(SAE_E_FORMAT, "'feature', which no catalog of schema 1 has in this form", sae_catalog_open(&c, env, path, NULL, &err));
    memcpy(at + 8, "REAL", 4);
    /* what the catalog says of its SAE */
    at = memmem(b.p, b.n, "d_sae", 5);
    ck_assert_ptr_nonnull(at);
    at[0] = 'x';
    spit(b.p, b.n);
    REFUSED(SAE_E_FORMAT, "does not say which SAE", sae_catalog_open(&c, env, path, NULL, &err));
    at[0] = 'd';
    spit((const unsigned char
              *)"no database at all, but long enough to have a header of one hundred bytes, which these are: .........................",
         110);
    REFUSED(SAE_E_FORMAT, "a.features is no SQLite file", sae_catalog_open(&c, env, path, NULL, &err));
    spit(b.p, 0);
    REFUSED(SAE_E_FORMAT, "no catalog", sae_catalog_open(&c, env, path, NULL, &err));
    spit(b.p, b.n);
    ACCEPTED(sae_catalog_open(&c, env, path, NULL, &err));
    sae_catalog_free(c);
    free(b.p);
}
END_TEST

/* Damage inside a feature is found when that feature is read. */
START_TEST(damaged_features)
{
    const bytes b = small_catalog();
    const int32_t id = 5;
    for (unsigned char *at = b.p; (at = memmem(at, b.n - (size_t)(at - b.p), "token", 6)); at++)
        at[0] = 0xff; /* no UTF-8 */
    spit(b.p, b.n);
    sae_catalog *c = opened(SAE_CATALOG_WRITE);
    sae_features *list;
    REFUSED(SAE_E_FORMAT, "tokens and examples of feature 5 are damaged", sae_catalog_get(&list, c, &id, 1, &err));
    ck_assert_ptr_null(list);
    ck_assert_int_eq(put(c, 5, 1, 5), SAE_E_FORMAT); /* what is indexed for it cannot be known */
    ck_assert_int_eq(count(c), 60);
    sae_catalog_free(c);
    free(b.p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("files of features");
    TCase *t = tcase_create("files");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, killed_writers);
    tcase_add_test(t, full_disk);
    tcase_add_test(t, cut_files);
    tcase_add_test(t, flipped_files);
    tcase_add_test(t, files_of_others);
    tcase_add_test(t, damaged_features);
    suite_add_tcase(s, t);
    return run_suite(s);
}
