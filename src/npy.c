#include "npy.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_LIMIT = 65536 };

/* Where in the dict we are. The text ends in NUL, so every look ahead is safe. */
typedef struct cursor {
    const char *at;
    const char *file;
} cursor;

_Noreturn static void damaged(const char *file, const char *what)
{
    die("%s: the .npy header is damaged: %s", file, what);
}

static void skip_space(cursor *c)
{
    while (isspace((unsigned char)*c->at)) {
        c->at++;
    }
}

static bool eat(cursor *c, char wanted)
{
    skip_space(c);
    if (*c->at != wanted) {
        return false;
    }
    c->at++;
    return true;
}

static void expect(cursor *c, char wanted, const char *what)
{
    if (!eat(c, wanted)) {
        damaged(c->file, what);
    }
}

static void quoted(cursor *c, char *out, size_t bytes)
{
    skip_space(c);
    char quote = *c->at;
    const char *end = quote == '\'' || quote == '"' ? strchr(c->at + 1, quote) : NULL;
    if (end == NULL || (size_t)(end - c->at) > bytes) {
        damaged(c->file, "a quoted text is missing or too long");
    }
    size_t n = (size_t)(end - c->at) - 1;
    memcpy(out, c->at + 1, n);
    out[n] = '\0';
    c->at = end + 1;
}

static bool truth(cursor *c)
{
    skip_space(c);
    bool yes = strncmp(c->at, "True", 4) == 0;
    if (!yes && strncmp(c->at, "False", 5) != 0) {
        damaged(c->file, "fortran_order is neither True nor False");
    }
    c->at += yes ? 4 : 5;
    return yes;
}

static void shape(cursor *c, array *out)
{
    expect(c, '(', "shape is not a tuple");
    out->ndim = 0;
    while (!eat(c, ')')) {
        skip_space(c);
        char *end;
        errno = 0;
        long long n = strtoll(c->at, &end, 10);
        if (!isdigit((unsigned char)*c->at) || errno != 0) {
            damaged(c->file, "shape holds something that is no size");
        }
        if (out->ndim == MAX_DIMS) {
            die("%s: arrays of more than %d dimensions are not read", c->file, MAX_DIMS);
        }
        out->shape[out->ndim++] = n;
        c->at = *end == 'L' ? end + 1 : end; /* Python 2 wrote 3L */
        if (!eat(c, ',') && *c->at != ')') {
            damaged(c->file, "shape is not a tuple");
        }
    }
}

static void type(cursor *c, array *out)
{
    skip_space(c);
    if (*c->at == '[') {
        die("%s: a structured dtype (several fields per element) is not read", c->file);
    }
    quoted(c, out->stored, sizeof out->stored);
    if (strchr(out->stored, 'O') != NULL) {
        die("%s: holds Python objects (dtype '%s'), which are never executed", c->file, out->stored);
    }
    if (out->stored[0] == '>') {
        die("%s: dtype '%s' is big-endian; save it little-endian", c->file, out->stored);
    }
    out->type = elem_from_npy(out->stored);
}

static void dict(array *out, const char *file, const char *text)
{
    cursor c = {text, file};
    bool has_type = false, has_order = false, has_shape = false, fortran = false;
    expect(&c, '{', "it is no dict");
    while (!eat(&c, '}')) {
        char key[32];
        quoted(&c, key, sizeof key);
        expect(&c, ':', "a key has no value");
        if (strcmp(key, "descr") == 0 && !has_type) {
            type(&c, out);
            has_type = true;
        } else if (strcmp(key, "fortran_order") == 0 && !has_order) {
            fortran = truth(&c);
            has_order = true;
        } else if (strcmp(key, "shape") == 0 && !has_shape) {
            shape(&c, out);
            has_shape = true;
        } else {
            damaged(file, "a key is unknown or repeated");
        }
        if (!eat(&c, ',') && *c.at != '}') {
            damaged(file, "values are not separated by commas");
        }
    }
    skip_space(&c);
    if (*c.at != '\0') {
        damaged(file, "something follows the dict");
    }
    if (!has_type || !has_order || !has_shape) {
        damaged(file, "descr, fortran_order or shape is missing");
    }
    if (fortran && out->ndim > 1) {
        die("%s: the array is in Fortran order; save np.ascontiguousarray(x)", file);
    }
}

size_t npy_header_read(array *out, const char *file, npy_read read, void *from)
{
    unsigned char frame[12];
    if (read(from, frame, 10) != 10 || memcmp(frame, "\x93NUMPY", 6) != 0) {
        damaged(file, "the magic bytes are missing");
    }
    size_t wide = frame[6] == 1 ? 0 : 2; /* version 1 has a 16-bit length, later ones a 32-bit one */
    if (frame[6] < 1 || frame[6] > 3) {
        die("%s: .npy version %d is not read, 1 to 3 are", file, frame[6]);
    }
    if (read(from, frame + 10, wide) != wide) {
        damaged(file, "it ends early");
    }
    size_t n = (size_t)frame[8] | (size_t)frame[9] << 8;
    if (wide > 0) {
        n |= (size_t)frame[10] << 16 | (size_t)frame[11] << 24;
    }
    if (n > HEADER_LIMIT) {
        die("%s: the .npy header claims %zu bytes, more than %d", file, n, HEADER_LIMIT);
    }
    char *text = take(n + 1, 1);
    if (read(from, text, n) != n) {
        damaged(file, "it ends early");
    }
    text[n] = '\0';
    dict(out, file, text);
    free(text);
    return 10 + wide + n;
}

size_t npy_header_make(char buf[NPY_HEADER_MAX], const array *a)
{
    enum { FRAME = 10, ALIGN = 64 };
    char *text = buf + FRAME;
    size_t room = NPY_HEADER_MAX - FRAME;
    size_t n = (size_t)snprintf(text, room, "{'descr': '%s', 'fortran_order': False, 'shape': (", elem_npy(a->type));
    for (int i = 0; i < a->ndim; i++) {
        n += (size_t)snprintf(text + n, room - n, "%lld,%s", (long long)a->shape[i], i + 1 < a->ndim ? " " : "");
    }
    if (a->ndim > 1) {
        n--; /* NumPy writes (3, 4) but (3,) */
    }
    n += (size_t)snprintf(text + n, room - n, "), }");
    size_t total = (FRAME + n + 1 + ALIGN - 1) / ALIGN * ALIGN;
    memset(text + n, ' ', total - FRAME - n - 1);
    buf[total - 1] = '\n';
    memcpy(buf, "\x93NUMPY\x01\x00", 8);
    buf[8] = (char)((total - FRAME) & 0xff);
    buf[9] = (char)((total - FRAME) >> 8);
    return total;
}
