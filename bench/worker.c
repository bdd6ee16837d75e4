#include "worker.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double bench_count;
uint64_t bench_bits;

enum { MAX_CASES = 8 };

static char why[512];
static bench_case cases[MAX_CASES];
static bool ready[MAX_CASES];

bool bench_no(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return false;
}

static clockid_t clock_used = CLOCK_PROCESS_CPUTIME_ID;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

uint64_t bench_hash(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    if (!hash)
        hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

long bench_status_kib(const char *key)
{
    char line[256];
    long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
            kib = strtol(line + strlen(key) + 1, NULL, 10);
    if (f)
        fclose(f);
    return kib;
}

/* ---- files ---- */

static FILE *open_in(const char *folder, const char *file)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "rb");
    if (!f)
        bench_no("cannot read %.300s: %s", path, strerror(errno));
    return f;
}

bool bench_read_layout(bench_sae *out, const char *folder)
{
    FILE *f = open_in(folder, "layout.txt");
    if (!f)
        return false;
    const bool good = fscanf(f, "%d %d %lld", &out->d_in, &out->d_sae, &out->w_enc) == 3;
    fclose(f);
    return good ? true : bench_no("layout.txt does not say d_in, d_sae and the offset of W_enc");
}

void *bench_read(const char *folder, const char *file, long long offset, size_t bytes)
{
    FILE *f = open_in(folder, file);
    if (!f)
        return NULL;
    void *p = malloc(bytes);
    const bool good = p && fseek(f, (long)offset, SEEK_SET) == 0 && fread(p, 1, bytes, f) == bytes;
    fclose(f);
    if (good)
        return p;
    free(p);
    bench_no("%s: %zu bytes at %lld cannot be read", file, bytes, offset);
    return NULL;
}

/* ---- protocol ---- */

static void read_case(bench_case *c, char *words)
{
    char *rest, *word = strtok_r(words, " ", &rest);
    memset(c, 0, sizeof *c);
    snprintf(c->name, sizeof c->name, "%s", word ? word : "");
    while ((word = strtok_r(NULL, " ", &rest))) {
        sscanf(word, "batch=%d", &c->batch);
        sscanf(word, "features=%d", &c->features);
        sscanf(word, "mib=%d", &c->mib);
        sscanf(word, "rows=%d", &c->rows);
        sscanf(word, "prepared=%31s", c->prepared);
        sscanf(word, "layout=%31s", c->layout);
    }
}

/* Milliseconds of one run, out of `n` runs between two looks at the clock. */
static double time_runs(const bench_ops *ops, const bench_case *c, int n)
{
    if (ops->before)
        ops->before();
    const double start = now_ms();
    for (int i = 0; i < n; i++)
        ops->run(c);
    const double ms = (now_ms() - start) / n;
    if (ops->after)
        ops->after();
    return ms;
}

/* Runs shorter than 100 us are timed several at once, so that the clock's own cost stays below a percent. A first run, untimed
 * where it is short against the turn, brings code and tables back into the caches that another worker has had since. */
static void turn(const bench_ops *ops, const bench_case *c, double at_least_ms)
{
    enum { MOST = 400 };
    const bool one_by_one = ops->before || ops->after;
    double first = time_runs(ops, c, 1), spent = 0;
    int n = 1;
    printf("ok");
    if (first * 3 > at_least_ms) {
        printf(" %.6f", first);
        spent = first;
    } else {
        first = time_runs(ops, c, 1);
        if (first < 0.1 && !one_by_one)
            n = (int)(0.1 / (first > 1e-5 ? first : 1e-5)) + 1;
    }
    for (int i = 0; i < MOST && spent < at_least_ms; i++) {
        const double ms = time_runs(ops, c, n);
        printf(" %.6f", ms);
        spent += ms * n;
    }
    printf("\n");
}

static void answer(bool good)
{
    if (good)
        printf("ok\n");
    else
        printf("no %s\n", why);
}

int bench_refuse(void)
{
    answer(false);
    return 1;
}

/* "case S NAME ...", "turn S MS": the number, and the text after it. */
static bool numbered(int *slot, char **rest, char *text)
{
    *slot = (int)strtol(text, rest, 10);
    return *rest != text && *slot >= 0 && *slot < MAX_CASES ? true : bench_no("a case number from 0 to %d is missing", MAX_CASES - 1);
}

static void set_case(const bench_ops *ops, char *text)
{
    int slot;
    char *rest;
    if (!numbered(&slot, &rest, text)) {
        answer(false);
        return;
    }
    read_case(&cases[slot], rest);
    bench_count = 0;
    bench_bits = 0;
    ready[slot] = ops->setup(&cases[slot]);
    if (ready[slot])
        printf("ok count=%.0f bits=%016llx\n", bench_count, (unsigned long long)bench_bits);
    else
        answer(false);
}

static void take_turn(const bench_ops *ops, char *text)
{
    int slot;
    char *rest;
    if (!numbered(&slot, &rest, text) || (!ready[slot] && !bench_no("case %d is not set up", slot)))
        answer(false);
    else
        turn(ops, &cases[slot], atof(rest));
}

int bench_serve(const bench_ops *ops)
{
    char line[4200];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line, "hello") == 0) {
            printf("ok");
            ops->hello();
            printf("\n");
        } else if (strncmp(line, "threads ", 8) == 0) {
            const int n = atoi(line + 8);
            /* what waits for files, and therefore has something to do before it, is timed by the clock too */
            clock_used = n > 1 || ops->before ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID;
            answer(ops->threads(n));
        } else if (strncmp(line, "open ", 5) == 0) {
            memset(ready, 0, sizeof ready);
            answer(ops->open(line + 5));
        } else if (strncmp(line, "case ", 5) == 0) {
            set_case(ops, line + 5);
        } else if (strncmp(line, "turn ", 5) == 0) {
            take_turn(ops, line + 5);
        } else if (strcmp(line, "counts") == 0 && ops->counts) {
            printf("ok");
            ops->counts();
            printf("\n");
        } else if (strcmp(line, "rss") == 0) {
            printf("ok %ld\n", bench_status_kib("VmRSS"));
        } else {
            printf("no unknown request: %.100s\n", line);
        }
        fflush(stdout);
    }
    return 0;
}
