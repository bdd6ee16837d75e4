/* Error sentences, memory, threads, files. */
#define _POSIX_C_SOURCE 200809L

#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool engine_fail(engine_error *err, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    return false;
}

void *engine_take(size_t a, size_t b, size_t c, size_t each, engine_error *err)
{
    size_t n;
    void *p = NULL;
    if (!__builtin_mul_overflow(a, b, &n) && !__builtin_mul_overflow(n, c, &n))
        p = calloc(n ? n : 1, each);
    if (!p)
        engine_fail(err, "no memory for %zu x %zu x %zu elements of %zu bytes: make the context or the batch smaller", a, b, c, each);
    return p;
}

bool engine_host_create(engine_host *out, uint32_t n_threads, engine_error *err)
{
    *out = (engine_host){.n_workers = 1};
    sae_error e = {.struct_size = sizeof e};
    sae_env_options opt = {.struct_size = sizeof opt};
    if (n_threads != 1) {
        if (sae_pool_create(&out->pool, n_threads, &e))
            return engine_fail(err, "%s", e.text);
        out->n_workers = sae_pool_threads(out->pool);
        opt.run = sae_pool_run;
        opt.run_user = out->pool;
        opt.max_workers = out->n_workers;
    }
    if (sae_env_create(&out->env, &opt, &e)) {
        engine_host_free(out);
        return engine_fail(err, "%s", e.text);
    }
    return true;
}

void engine_host_free(engine_host *host)
{
    sae_env_free(host->env);
    sae_pool_free(host->pool);
    *host = (engine_host){0};
}

static bool map(engine_file *out, int fd, const char *path, engine_error *err)
{
    struct stat st;
    if (fstat(fd, &st))
        return engine_fail(err, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return engine_fail(err, "%s is not a file", path);
    if (st.st_size == 0)
        return engine_fail(err, "%s is empty", path);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return engine_fail(err, "%s: cannot map the file: %s", path, strerror(errno));
    *out = (engine_file){.data = p, .bytes = (size_t)st.st_size};
    return true;
}

bool engine_file_map(engine_file *out, const char *path, engine_error *err)
{
    *out = (engine_file){0};
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return engine_fail(err, "%s: %s", path, strerror(errno));
    const bool ok = map(out, fd, path, err);
    close(fd);
    return ok;
}

void engine_file_unmap(engine_file *f)
{
    if (f->data)
        munmap((void *)f->data, f->bytes);
    *f = (engine_file){0};
}

char *engine_path(const char *folder, const char *name, engine_error *err)
{
    const size_t bytes = strlen(folder) + strlen(name) + 2;
    char *path = engine_take(bytes, 1, 1, 1, err);
    if (path)
        snprintf(path, bytes, "%s/%s", folder, name);
    return path;
}
