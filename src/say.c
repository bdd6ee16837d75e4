#include "say.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_TEMPS = 8, PATH_BYTES = 4096 };

/* Fixed storage, because a signal handler reads it. */
static char temp_paths[MAX_TEMPS][PATH_BYTES];
static volatile sig_atomic_t temp_used[MAX_TEMPS];
static const char *command_name;
static bool line_open; /* a progress line waits to be wiped */

static void remove_temps(void)
{
    for (int i = 0; i < MAX_TEMPS; i++) {
        if (temp_used[i]) {
            unlink(temp_paths[i]);
            temp_used[i] = 0;
        }
    }
}

static void on_signal(int number)
{
    remove_temps();
    signal(number, SIG_DFL);
    raise(number);
}

void say_start(void)
{
    static const int ends[] = {SIGHUP, SIGINT, SIGTERM, SIGPIPE};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct sigaction old;
        /* what the caller ignores (nohup) stays ignored */
        if (sigaction(ends[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
            signal(ends[i], on_signal);
        }
    }
}

void say_command(const char *command)
{
    command_name = command;
}

static void wipe_line(void)
{
    if (line_open) {
        fputs("\r\033[K", stderr);
        line_open = false;
    }
}

__attribute__((format(printf, 2, 0))) static void sentence(const char *kind, const char *fmt, va_list args)
{
    wipe_line();
    fflush(stdout);
    fprintf(stderr, "sae%s%s: %s", command_name ? " " : "", command_name ? command_name : "", kind);
    vfprintf(stderr, fmt, args);
}

void die(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    sentence("", fmt, args);
    va_end(args);
    fputc('\n', stderr);
    remove_temps();
    exit(STATUS_FAILED);
}

void die_usage(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    sentence("", fmt, args);
    va_end(args);
    fprintf(stderr, " (see sae%s%s --help)\n", command_name ? " " : "", command_name ? command_name : "");
    remove_temps();
    exit(STATUS_USAGE);
}

void warn(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    sentence("warning: ", fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

void finish_stdout(void)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        die("cannot write to standard output: %s", strerror(errno));
    }
}

void *take(size_t n, size_t each)
{
    return retake(NULL, n, each);
}

void *take_zeros(size_t n, size_t each)
{
    void *p = calloc(n > 0 ? n : 1, each);
    if (p == NULL) {
        die("no memory for %zu elements of %zu bytes", n, each);
    }
    return p;
}

void *retake(void *p, size_t n, size_t each)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, each, &bytes)) {
        die("%zu elements of %zu bytes are more than this machine can address", n, each);
    }
    void *q = realloc(p, bytes > 0 ? bytes : 1);
    if (q == NULL) {
        die("no memory for %zu bytes", bytes);
    }
    return q;
}

char *take_text(const char *s)
{
    size_t bytes = strlen(s) + 1;
    return memcpy(take(bytes, 1), s, bytes);
}

static const char *temp_folder(void)
{
    const char *folder = getenv("TMPDIR");
    return folder != NULL && *folder != '\0' ? folder : "/tmp";
}

temp temp_open(const char *beside)
{
    int slot = 0;
    while (slot < MAX_TEMPS && temp_used[slot]) {
        slot++;
    }
    if (slot == MAX_TEMPS) {
        die("too many temporary files at once");
    }
    int n = beside != NULL ? snprintf(temp_paths[slot], PATH_BYTES, "%s.XXXXXX", beside)
                           : snprintf(temp_paths[slot], PATH_BYTES, "%s/sae.XXXXXX", temp_folder());
    if (n < 0 || n >= PATH_BYTES) {
        die("%s: the path is too long", beside != NULL ? beside : temp_folder());
    }
    temp t = {.path = temp_paths[slot], .fd = mkstemp(temp_paths[slot])};
    if (t.fd < 0) {
        die("%s: cannot create a file: %s", beside != NULL ? beside : temp_folder(), strerror(errno));
    }
    temp_used[slot] = 1;
    return t;
}

static void forget(temp *t)
{
    for (int i = 0; i < MAX_TEMPS; i++) {
        if (t->path == temp_paths[i]) {
            temp_used[i] = 0;
        }
    }
    close(t->fd);
    t->fd = -1;
}

void temp_rename(temp *t, const char *path)
{
    mode_t mask = umask(0);
    umask(mask);
    if (fchmod(t->fd, 0666 & ~mask) != 0 || rename(t->path, path) != 0) { /* mkstemp makes private files */
        die("%s: cannot write: %s", path, strerror(errno));
    }
    forget(t);
}

void temp_remove(temp *t)
{
    unlink(t->path);
    forget(t);
}

FILE *scratch_file(void)
{
    temp t = temp_open(NULL);
    FILE *file = fdopen(dup(t.fd), "w+b");
    if (file == NULL) {
        die("%s: cannot open: %s", t.path, strerror(errno));
    }
    temp_remove(&t); /* the open file lives on without a name */
    return file;
}

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

progress progress_start(const char *verb, const char *noun, int64_t total)
{
    progress p = {.verb = verb, .noun = noun, .total = total, .next = now() + 0.5, .shown = isatty(STDERR_FILENO) != 0};
    return p;
}

progress progress_note(const char *what)
{
    progress p = progress_start(what, "", 0);
    if (p.shown) {
        fprintf(stderr, "\r\033[K%s ...", what);
        fflush(stderr);
        line_open = true;
    }
    return p;
}

void progress_at(progress *p, int64_t done)
{
    if (!p->shown || now() < p->next) {
        return;
    }
    p->next = now() + 0.1;
    fprintf(stderr, "\r\033[K%s %lld of %lld %s", p->verb, (long long)done, (long long)p->total, p->noun);
    fflush(stderr);
    line_open = true;
}

void progress_end(progress *p)
{
    p->shown = false;
    wipe_line();
}
