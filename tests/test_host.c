/* host: memory, parallel-for, pool, locks, log, floating-point mode, files. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <fenv.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/host.h"
#include "support/support.h"
#include "support/run.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static heap counted;
static saei_host host;
static sae_error err;

static void setup(void)
{
    heap_init(&counted);
    host = (saei_host){.alloc = heap_alloc, .dealloc = heap_free, .alloc_user = &counted};
    saei_host_defaults(&host);
    err = (sae_error){0};
}

static void teardown(void)
{
    ck_assert_int_eq(atomic_load(&counted.live_blocks), 0);
    ck_assert_int_eq(atomic_load(&counted.live_bytes), 0);
}

/* ---- memory ---- */

static void use_memory(const saei_host *h)
{
    static const size_t sizes[] = {1, 63, 64, 65, 4096, 1 << 20};
    for (size_t i = 0; i < LENGTH(sizes); i++) {
        unsigned char *p = saei_alloc(h, sizes[i]);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_eq((uintptr_t)p % 64, 0);
        memset(p, 1, sizes[i]);
        saei_dealloc(h, p, sizes[i]);
        p = saei_zalloc(h, sizes[i]);
        ck_assert_ptr_nonnull(p);
        for (size_t k = 0; k < sizes[i]; k++)
            ck_assert_uint_eq(p[k], 0);
        saei_dealloc(h, p, sizes[i]);
    }
    ck_assert_ptr_null(saei_alloc(h, 0));
    ck_assert_ptr_null(saei_alloc(h, SIZE_MAX));
    ck_assert_ptr_null(saei_zalloc(h, SIZE_MAX));
    saei_dealloc(h, NULL, 10);
    char *copy = saei_strdup(h, "a name");
    ck_assert_str_eq(copy, "a name");
    saei_strfree(h, copy);
    saei_strfree(h, NULL);
}

START_TEST(memory)
{
    saei_host plain = {0};
    saei_host_defaults(&plain);
    ck_assert_uint_eq(plain.max_workers, 1);
    use_memory(&plain);
    use_memory(&host);
    const long asked = atomic_load(&counted.asked);
    ck_assert_ptr_null(saei_alloc(&host, 0)); /* the hook is spared what makes no sense */
    ck_assert_ptr_null(saei_alloc(&host, SIZE_MAX));
    ck_assert_int_eq(atomic_load(&counted.asked), asked);
    atomic_store(&counted.fail_at, asked);
    atomic_store(&counted.persistent, true);
    ck_assert(!saei_alloc(&host, 8) && !saei_zalloc(&host, 8) && !saei_strdup(&host, "x"));
}
END_TEST

/* ---- parallel-for ---- */

enum { MOST_TASKS = 5000 };

/* Counts how often each task runs, and that no worker does two at a time. */
typedef struct census {
    atomic_int ran[MOST_TASKS];
    atomic_int inside[1024];
    atomic_int shared, too_high;
    uint32_t workers, nap;
} census;

static void count_task(void *job, uint32_t i, uint32_t worker)
{
    census *c = job;
    if (worker >= c->workers)
        atomic_fetch_add(&c->too_high, 1);
    else if (atomic_fetch_add(&c->inside[worker], 1))
        atomic_fetch_add(&c->shared, 1);
    if (c->nap)
        usleep(c->nap); /* so that tasks overlap, whatever else the machine has to do */
    atomic_fetch_add(&c->ran[i], 1);
    if (worker < c->workers)
        atomic_fetch_sub(&c->inside[worker], 1);
}

static census *census_new(uint32_t workers)
{
    census *c = calloc(1, sizeof *c);
    ck_assert_ptr_nonnull(c);
    c->workers = workers;
    return c;
}

static void census_check(const census *c, uint32_t n)
{
    ck_assert_int_eq(atomic_load(&c->shared), 0);
    ck_assert_int_eq(atomic_load(&c->too_high), 0);
    for (uint32_t i = 0; i < MOST_TASKS; i++)
        ck_assert_msg(atomic_load(&c->ran[i]) == (i < n), "task %u of %u ran %d times", i, n, atomic_load(&c->ran[i]));
}

START_TEST(runs)
{
    static const struct {
        sae_run_fn run;
        uint32_t workers;
    } runners[] = {{NULL, 1}, {run_forwards, 1}, {run_backwards, 1}, {run_shuffled, 3}, {run_thread_each, THREADS_AT_ONCE}};
    static const uint32_t sizes[] = {0, 1, 2, 7, 100};
    for (size_t r = 0; r < LENGTH(runners); r++)
        for (size_t s = 0; s < LENGTH(sizes); s++) {
            census *c = census_new(runners[r].workers);
            host.run = runners[r].run;
            host.max_workers = runners[r].workers;
            ck_assert_int_eq(saei_run(&host, c, count_task, sizes[s]), SAE_OK);
            census_check(c, sizes[s]);
            free(c);
        }
    int left = 1;
    census *c = census_new(1);
    host.run = run_failing;
    host.run_user = &left;
    ck_assert_int_eq(saei_run(&host, c, count_task, 2), SAE_OK);
    ck_assert_int_eq(saei_run(&host, c, count_task, 2), SAE_E_HOST);
    ck_assert_int_eq(saei_run(&host, c, count_task, 0), SAE_OK);
    free(c);
}
END_TEST

/* ---- pool ---- */

static const uint32_t pool_sizes[] = {1, 2, 7};

START_TEST(pool_runs_all_once)
{
    static const uint32_t sizes[] = {0, 1, 2, 3, 64, MOST_TASKS};
    const uint32_t threads = pool_sizes[_i];
    sae_pool *pool;
    ck_assert_int_eq(sae_pool_create(&pool, threads, &err), SAE_OK);
    ck_assert_uint_eq(sae_pool_threads(pool), threads);
    for (size_t s = 0; s < LENGTH(sizes); s++) {
        census *c = census_new(threads);
        c->nap = sizes[s] <= 64 ? 500 : 0;
        ck_assert_int_eq(sae_pool_run(pool, c, count_task, sizes[s]), 0);
        census_check(c, sizes[s]);
        free(c);
    }
    sae_pool_free(pool);
}
END_TEST

static void add_task(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    ((long *)job)[i]++; /* plain memory: what a run wrote must be there when it returns */
}

START_TEST(pool_many_small_runs)
{
    enum { RUNS = 20000, N = 3 };
    long sums[N] = {0};
    sae_pool *pool;
    ck_assert_int_eq(sae_pool_create(&pool, pool_sizes[_i], NULL), SAE_OK);
    for (int i = 0; i < RUNS; i++) {
        sae_pool_run(pool, sums, add_task, N);
        ck_assert(sums[0] == i + 1 && sums[1] == i + 1 && sums[2] == i + 1);
    }
    sae_pool_free(pool);
}
END_TEST

typedef struct caller {
    sae_pool *pool;
    uint32_t n;
    bool right;
} caller;

static void nap_and_add_task(void *job, uint32_t i, uint32_t worker)
{
    usleep(20);
    add_task(job, i, worker);
}

static void *call_pool(void *arg)
{
    enum { RUNS = 40 };
    caller *c = arg;
    long sums[64] = {0};
    c->right = true;
    for (int i = 0; i < RUNS; i++) {
        sae_pool_run(c->pool, sums, nap_and_add_task, c->n);
        for (uint32_t k = 0; k < 64; k++)
            c->right &= sums[k] == (k < c->n ? i + 1 : 0);
    }
    return NULL;
}

/* Several threads share a pool: their runs are served one after the other, none is lost. */
START_TEST(pool_concurrent_callers)
{
    enum { CALLERS = 5 };
    pthread_t threads[CALLERS];
    caller callers[CALLERS];
    sae_pool *pool;
    ck_assert_int_eq(sae_pool_create(&pool, pool_sizes[_i], NULL), SAE_OK);
    for (uint32_t i = 0; i < CALLERS; i++) {
        callers[i] = (caller){pool, 1 + i * 13, false};
        ck_assert_int_eq(pthread_create(threads + i, NULL, call_pool, callers + i), 0);
    }
    for (uint32_t i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert(callers[i].right);
    }
    sae_pool_free(pool);
}
END_TEST

#if defined(__linux__)

/* The processors that a thread may use, and where it is. */
typedef struct seat {
    cpu_set_t may;
    int at;
} seat;

static void seat_task(void *job, uint32_t i, uint32_t worker)
{
    seat *seats = job;
    (void)i;
    sched_getaffinity(0, sizeof seats[worker].may, &seats[worker].may);
    seats[worker].at = sched_getcpu();
    usleep(300);
}

/* A thread that finds itself on the caller's processor goes to another one, where there is one, and may use as many as before. */
START_TEST(pool_threads_step_aside)
{
    enum { RUNS = 40 };
    cpu_set_t mine;
    sae_pool *pool;
    int apart = 0;
    ck_assert_int_eq(sched_getaffinity(0, sizeof mine, &mine), 0);
    ck_assert_int_eq(sae_pool_create(&pool, 2, NULL), SAE_OK);
    for (int run = 0; run < RUNS; run++) {
        seat seats[2] = {{.at = -1}, {.at = -1}};
        const int mine_at = sched_getcpu();
        sae_pool_run(pool, seats, seat_task, 8);
        for (int w = 0; w < 2; w++)
            ck_assert(seats[w].at < 0 || CPU_EQUAL(&seats[w].may, &mine));
        apart += seats[0].at >= 0 && seats[0].at != mine_at;
    }
    sae_pool_free(pool);
    ck_assert(CPU_COUNT(&mine) == 1 || apart > 0);
}
END_TEST

#endif

START_TEST(pool_limits)
{
    sae_pool *pool = (sae_pool *)&err;
    ck_assert_int_eq(sae_pool_create(NULL, 1, &err), SAE_E_ARG);
    ck_assert(strstr(err.text, "out"));
    ck_assert_int_eq(sae_pool_create(&pool, 1025, &err), SAE_E_ARG);
    ck_assert_ptr_null(pool);
    ck_assert(strstr(err.text, "1025") && strstr(err.text, "1024"));
    ck_assert_int_eq(sae_pool_create(&pool, 0, &err), SAE_OK);
    ck_assert_str_eq(err.text, "");
    ck_assert_uint_ge(sae_pool_threads(pool), 1);
    ck_assert_int_le((long)sae_pool_threads(pool), sysconf(_SC_NPROCESSORS_ONLN));
    sae_pool_free(pool);
    sae_pool_free(NULL);
    for (int i = 0; i < 50; i++) { /* free before the threads have woken up */
        ck_assert_int_eq(sae_pool_create(&pool, 7, NULL), SAE_OK);
        sae_pool_free(pool);
    }
}
END_TEST

START_TEST(pool_without_room_for_threads)
{
    struct rlimit before, tight;
    sae_pool *pool = (sae_pool *)&err;
    if (SANITIZED)
        return; /* their shadow memory needs the address space */
    ck_assert_int_eq(getrlimit(RLIMIT_AS, &before), 0);
    tight = before;
    tight.rlim_cur = (rlim_t)256 << 20; /* a thread takes 8 MiB for its stack */
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &tight), 0);
    const sae_status status = sae_pool_create(&pool, 1024, &err);
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &before), 0);
    ck_assert_int_eq(status, SAE_E_HOST);
    ck_assert_ptr_null(pool);
    ck_assert_msg(strstr(err.text, "of 1023 threads") != NULL, "%s", err.text);
}
END_TEST

/* ---- locks and references ---- */

typedef struct guarded {
    saei_lock lock;
    saei_ref ref;
    long sum;
    atomic_int last;
} guarded;

static void *count_up(void *arg)
{
    guarded *g = arg;
    for (int i = 0; i < 20000; i++) {
        saei_lock_take(&g->lock);
        g->sum++;
        saei_lock_give(&g->lock);
        saei_ref_take(&g->ref);
        if (saei_ref_drop(&g->ref))
            atomic_fetch_add(&g->last, 1);
    }
    if (saei_ref_drop(&g->ref))
        atomic_fetch_add(&g->last, 1);
    return NULL;
}

START_TEST(locks_and_references)
{
    enum { THREADS = 4 };
    guarded g = {.sum = 0};
    pthread_t threads[THREADS];
    ck_assert(saei_lock_init(&g.lock));
    saei_ref_init(&g.ref);
    for (int i = 0; i < THREADS; i++)
        saei_ref_take(&g.ref);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(threads + i, NULL, count_up, &g), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ck_assert_int_eq(g.sum, THREADS * 20000);
    ck_assert_int_eq(atomic_load(&g.last), 0);
    ck_assert(saei_ref_drop(&g.ref));
    saei_lock_end(&g.lock);
}
END_TEST

/* ---- log ---- */

static char logged[600];
static int32_t logged_level, n_logged;

static void keep_line(void *user, int32_t level, const char *line)
{
    ck_assert_ptr_eq(user, logged);
    snprintf(logged, sizeof logged, "%s", line);
    logged_level = level;
    n_logged++;
}

START_TEST(log_levels)
{
    n_logged = 0;
    saei_log(&host, SAE_LOG_WARNING, "nobody listens");
    host.log = keep_line;
    host.log_user = logged;
    saei_log(&host, SAE_LOG_WARNING, "silent at level 0");
    host.log_level = SAE_LOG_WARNING;
    saei_log(&host, SAE_LOG_INFO, "too much");
    ck_assert_int_eq(n_logged, 0);
    saei_log(&host, SAE_LOG_WARNING, "%d of %s", 3, "four");
    ck_assert_str_eq(logged, "3 of four");
    ck_assert_int_eq(logged_level, SAE_LOG_WARNING);
    host.log_level = SAE_LOG_INFO;
    saei_log(&host, SAE_LOG_INFO, "%0600d", 7);
    ck_assert_int_eq(logged_level, SAE_LOG_INFO);
    ck_assert_uint_gt(strlen(logged), 100);
    ck_assert_uint_lt(strlen(logged), 600);
    ck_assert_int_eq(n_logged, 2);
}
END_TEST

/* ---- floating-point mode ---- */

static bool keeps_denormals(void)
{
    volatile float tiny = 0x1p-140f, least = FLT_MIN;
    return tiny * 1.0f != 0.0f && least * 0.5f != 0.0f;
}

static bool rounds_to_nearest(void)
{
    volatile float one = 1.0f, up = 0x1.8p-24f, down = 0x0.8p-24f;
    return one + up == 0x1.000002p0f && one + down == 1.0f && -one - up == -0x1.000002p0f && -one - down == -1.0f;
}

START_TEST(floating_point_mode)
{
    static const int roundings[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    for (size_t i = 0; i < LENGTH(roundings); i++)
        for (int flush = 0; flush < 2; flush++) {
            fenv_t before;
            ck_assert_int_eq(fegetenv(&before), 0);
            ck_assert_int_eq(fesetround(roundings[i]), 0);
            if (flush)
                fp_flush();
            const uint64_t hosts = fp_mode();
            const bool kept = keeps_denormals(), nearest = rounds_to_nearest();
            const saei_fpmode outer = saei_fp_enter();
            const bool kept_inside = keeps_denormals(), nearest_inside = rounds_to_nearest();
            const saei_fpmode inner = saei_fp_enter(); /* a task on the caller's thread opens its own */
            saei_fp_leave(inner);
            const bool kept_after = keeps_denormals(), nearest_after = rounds_to_nearest();
            saei_fp_leave(outer);
            const uint64_t left = fp_mode();
            ck_assert_int_eq(fesetenv(&before), 0);
            ck_assert(kept == !flush && nearest == (roundings[i] == FE_TONEAREST)); /* the test can tell */
            ck_assert(kept_inside && nearest_inside && kept_after && nearest_after);
            ck_assert_uint_eq(left, hosts);
        }
}
END_TEST

/* ---- files ---- */

static char folder[64], path[128];

static void files_setup(void)
{
    setup();
    strcpy(folder, "/tmp/sae-test-host-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
}

static void files_teardown(void)
{
    (void)unlink(path);
    ck_assert_int_eq(rmdir(folder), 0);
    teardown();
}

static void write_file(const void *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, bytes, f), bytes);
    ck_assert_int_eq(fclose(f), 0);
}

static int open_files(void)
{
    const int fd = open("/dev/null", O_RDONLY);
    ck_assert_int_ge(fd, 0);
    close(fd);
    return fd; /* the lowest that is free: grows when something is left open */
}

static void refuse(sae_status want, const char *at, const char *words)
{
    const int before = open_files();
    saei_file f;
    char *text = path;
    size_t bytes = 1;
    for (int copy = 0; copy < 2; copy++) {
        err = (sae_error){0};
        ck_assert_int_eq(saei_file_open(&f, &host, at, copy, &err), want);
        ck_assert_msg(strstr(err.text, at) && strstr(err.text, words), "%s", err.text);
        ck_assert(f.data == NULL && f.bytes == 0 && f.fd == -1 && !f.mapped);
    }
    err = (sae_error){0};
    ck_assert_int_eq(saei_file_text(&text, &bytes, &host, at, 100, &err), want);
    ck_assert_msg(strstr(err.text, at) && strstr(err.text, words), "%s", err.text);
    ck_assert(text == NULL && bytes == 0);
    ck_assert_int_eq(open_files(), before);
}

START_TEST(files_refused)
{
    char missing[160];
    snprintf(missing, sizeof missing, "%s/nothing here", folder);
    refuse(SAE_E_IO, missing, "No such file");
    refuse(SAE_E_IO, folder, "is a directory");
    refuse(SAE_E_IO, "/dev/null", "is a device");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    refuse(SAE_E_IO, path, "pipe"); /* and does not wait for a writer */
    ck_assert_int_eq(unlink(path), 0);

    write_file("x", 1);
    ck_assert_int_eq(chmod(path, 0), 0);
    ck_assert_int_eq(chmod(folder, 0755), 0);
    const bool root = geteuid() == 0;
    if (root)
        ck_assert_int_eq(seteuid(65534), 0); /* root may read everything */
    refuse(SAE_E_IO, path, "Permission denied");
    if (root)
        ck_assert_int_eq(seteuid(0), 0);

    ck_assert_int_eq(saei_path_kind(missing), -1);
    ck_assert_int_eq(saei_path_kind(folder), 1);
    ck_assert_int_eq(saei_path_kind(path), 0);
}
END_TEST

START_TEST(files_opened)
{
    enum { N = 100000 };
    static unsigned char data[N], got[N];
    const int before = open_files();
    for (size_t i = 0; i < N; i++)
        data[i] = (unsigned char)(i * 7 + i / 256);
    write_file(data, N);
    for (int copy = 0; copy < 2; copy++) {
        saei_file f;
        ck_assert_int_eq(saei_file_open(&f, &host, path, copy, &err), SAE_OK);
        ck_assert_uint_eq(f.bytes, N);
        ck_assert_mem_eq(f.data, data, N);
        ck_assert(f.mapped == !copy && (f.fd >= 0) == !copy);
        if (!copy)
            ck_assert_int_ne(fcntl(f.fd, F_GETFD) & FD_CLOEXEC, 0);
        memset(got, 0, N);
        ck_assert_int_eq(saei_file_read(&f, got, 3, N - 3, &err), SAE_OK);
        ck_assert_mem_eq(got, data + 3, N - 3);
        ck_assert_int_eq(saei_file_read(&f, got, N, 0, &err), SAE_OK);
        ck_assert_int_eq(saei_file_read(&f, got, N - 1, 2, &err), SAE_E_IO);
        ck_assert(strstr(err.text, "100000"));
        ck_assert_int_eq(saei_file_read(&f, got, SIZE_MAX, 1, &err), SAE_E_IO);
        ck_assert_int_eq(saei_file_read(&f, got, 1, SIZE_MAX, &err), SAE_E_IO);
        saei_file_close(&f, &host);
        ck_assert(f.data == NULL && f.bytes == 0 && f.fd == -1);
        saei_file_close(&f, &host);
    }
    ck_assert_int_eq(open_files(), before);
}
END_TEST

START_TEST(files_empty)
{
    const int before = open_files();
    write_file("", 0);
    for (int copy = 0; copy < 2; copy++) {
        saei_file f;
        ck_assert_int_eq(saei_file_open(&f, &host, path, copy, &err), SAE_OK);
        ck_assert(f.data == NULL && f.bytes == 0 && f.fd == -1 && !f.mapped);
        ck_assert_int_eq(saei_file_read(&f, path, 0, 0, &err), SAE_OK);
        ck_assert_int_eq(saei_file_read(&f, path, 0, 1, &err), SAE_E_IO);
        saei_file_close(&f, &host);
    }
    char *text;
    size_t bytes = 1;
    ck_assert_int_eq(saei_file_text(&text, &bytes, &host, path, 0, &err), SAE_OK);
    ck_assert_str_eq(text, "");
    ck_assert_uint_eq(bytes, 0);
    saei_dealloc(&host, text, 1);
    ck_assert_int_eq(open_files(), before);
}
END_TEST

START_TEST(files_cut_while_open)
{
    saei_file f;
    char got[100];
    write_file("0123456789", 10);
    ck_assert_int_eq(saei_file_open(&f, &host, path, false, &err), SAE_OK);
    ck_assert_int_eq(truncate(path, 4), 0);
    ck_assert_int_eq(saei_file_read(&f, got, 0, 10, &err), SAE_E_IO);
    ck_assert_msg(strstr(err.text, "byte 4") && strstr(err.text, "6 more"), "%s", err.text);
    ck_assert_int_eq(saei_file_read(&f, got, 0, 4, &err), SAE_OK);
    saei_file_close(&f, &host);
}
END_TEST

START_TEST(files_as_text)
{
    char *text;
    size_t bytes;
    write_file("{\"a\": 1}\0 and more", 18);
    ck_assert_int_eq(saei_file_text(&text, &bytes, &host, path, 18, &err), SAE_OK);
    ck_assert_uint_eq(bytes, 18);
    ck_assert_mem_eq(text, "{\"a\": 1}\0 and more", 19);
    saei_dealloc(&host, text, bytes + 1);
    ck_assert_int_eq(saei_file_text(&text, &bytes, &host, path, 17, &err), SAE_E_FORMAT);
    ck_assert(text == NULL && strstr(err.text, "18") && strstr(err.text, "17") && strstr(err.text, path));
}
END_TEST

START_TEST(files_without_memory)
{
    const int before = open_files();
    saei_file f;
    char *text;
    size_t bytes;
    write_file("0123456789", 10);
    atomic_store(&counted.fail_at, atomic_load(&counted.asked));
    atomic_store(&counted.persistent, true);
    ck_assert_int_eq(saei_file_open(&f, &host, path, true, &err), SAE_E_NOMEM);
    ck_assert(strstr(err.text, path) && strstr(err.text, "10 bytes"));
    ck_assert_int_eq(saei_file_text(&text, &bytes, &host, path, 10, &err), SAE_E_NOMEM);
    ck_assert(strstr(err.text, path) && text == NULL && bytes == 0);
    ck_assert_int_eq(open_files(), before);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("host");
    TCase *tc = tcase_create("host");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, memory);
    tcase_add_test(tc, runs);
    tcase_add_loop_test(tc, pool_runs_all_once, 0, LENGTH(pool_sizes));
    tcase_add_loop_test(tc, pool_many_small_runs, 0, LENGTH(pool_sizes));
    tcase_add_loop_test(tc, pool_concurrent_callers, 0, LENGTH(pool_sizes));
#if defined(__linux__)
    tcase_add_test(tc, pool_threads_step_aside);
#endif
    tcase_add_test(tc, pool_limits);
    tcase_add_test(tc, pool_without_room_for_threads);
    tcase_add_test(tc, locks_and_references);
    tcase_add_test(tc, log_levels);
    tcase_add_test(tc, floating_point_mode);
    suite_add_tcase(suite, tc);
    TCase *files = tcase_create("files");
    tcase_add_checked_fixture(files, files_setup, files_teardown);
    tcase_add_test(files, files_refused);
    tcase_add_test(files, files_opened);
    tcase_add_test(files, files_empty);
    tcase_add_test(files, files_cut_while_open);
    tcase_add_test(files, files_as_text);
    tcase_add_test(files, files_without_memory);
    suite_add_tcase(suite, files);
    return run_suite(suite);
}
