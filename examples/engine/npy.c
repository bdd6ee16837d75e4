/* .npy files that grow: the header is written first with the number of rows left open, and again at the end (numpy.lib.format, version 1.0).
 * Everything goes into a temporary name beside the target, which gets its own when it is complete. */
#define _POSIX_C_SOURCE 200809L

#include "internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_BYTES = 128, ELEMENT_BYTES = 4 };

static bool complain(const engine_npy *f, engine_error *err)
{
    return engine_fail(err, "%s: cannot write: %s", f->path, strerror(errno));
}

static bool write_header(engine_npy *f, engine_error *err)
{
    char h[HEADER_BYTES + 1];
    memcpy(h, "\x93NUMPY\x01\x00\x76\x00", 10); /* 0x76 bytes follow: 128 in all */
    const int n = snprintf(h + 10, sizeof h - 10, "{'descr': '%s', 'fortran_order': False, 'shape': (%lld, %lld), }", f->dtype,
                           (long long)f->rows, (long long)f->columns);
    memset(h + 10 + n, ' ', (size_t)(HEADER_BYTES - 10 - n));
    h[HEADER_BYTES - 1] = '\n';
    return fwrite(h, 1, HEADER_BYTES, f->file) == HEADER_BYTES || complain(f, err);
}

bool engine_npy_open(engine_npy *out, const char *path, const char *dtype, int64_t columns, engine_error *err)
{
    *out = (engine_npy){.dtype = dtype, .columns = columns};
    const size_t bytes = strlen(path) + sizeof ".part";
    if (!(out->path = engine_take(bytes, 1, 1, 1, err)))
        return false;
    snprintf(out->path, bytes, "%s.part", path);
    if (!(out->file = fopen(out->path, "wb")))
        complain(out, err);
    if (out->file && write_header(out, err))
        return true;
    engine_npy_abandon(out);
    return false;
}

bool engine_npy_write(engine_npy *f, const void *rows, int64_t n, engine_error *err)
{
    const size_t elements = (size_t)(n * f->columns);
    f->rows += n;
    return fwrite(rows, ELEMENT_BYTES, elements, f->file) == elements || complain(f, err);
}

static bool finish(engine_npy *f, engine_error *err)
{
    if (fseek(f->file, 0, SEEK_SET))
        return complain(f, err);
    if (!write_header(f, err))
        return false;
    FILE *file = f->file;
    f->file = NULL;
    return !fclose(file) || complain(f, err);
}

bool engine_npy_close(engine_npy *f, engine_error *err)
{
    bool ok = finish(f, err);
    char *target = ok ? strdup(f->path) : NULL;
    if (target) {
        target[strlen(target) - strlen(".part")] = '\0';
        ok = !rename(f->path, target) || complain(f, err);
    } else if (ok) {
        ok = engine_fail(err, "no memory for the name %s", f->path);
    }
    free(target);
    if (!ok)
        remove(f->path);
    engine_npy_abandon(f);
    return ok;
}

void engine_npy_abandon(engine_npy *f)
{
    if (f->file) {
        fclose(f->file);
        remove(f->path);
    }
    free(f->path);
    *f = (engine_npy){0};
}
