#include "support/npy.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bytes {
    unsigned char *p;
    size_t n;
} bytes;

static bytes read_file(const char *path)
{
    bytes whole = {NULL, 0};
    FILE *file = fopen(path, "rb");
    if (!file)
        return whole;
    const long n = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
    if (n >= 0 && (whole.p = malloc((size_t)n + 1))) {
        rewind(file);
        whole.n = fread(whole.p, 1, (size_t)n, file);
    }
    fclose(file);
    return whole;
}

static uint32_t little(const unsigned char *p, size_t n)
{
    uint32_t value = 0;
    while (n-- > 0)
        value = value << 8 | p[n];
    return value;
}

/* ---- npy ---- */

/* The header is a Python dict as text: {'descr': '<f4', 'fortran_order': False, 'shape': (9, 37), } */
static int parse_header(const char *header, npy *out, char *kind, size_t *each)
{
    const char *descr = strstr(header, "'descr': '<"), *shape = strstr(header, "'shape': (");
    if (!descr || !shape || !strstr(header, "'fortran_order': False") || sscanf(descr, "'descr': '<%c%zu'", kind, each) != 2)
        return 0;
    out->columns = 1;
    return sscanf(shape, "'shape': (%zu, %zu)", &out->rows, &out->columns) >= 1 && (*kind == 'f' || *kind == 'i') &&
           (*each == 4 || *each == 8);
}

static double element(const unsigned char *p, char kind, size_t each)
{
    float f;
    double d;
    int32_t i;
    int64_t l;
    memcpy(&f, p, sizeof f);
    memcpy(&i, p, sizeof i);
    if (each == 4)
        return kind == 'f' ? (double)f : (double)i;
    memcpy(&d, p, sizeof d);
    memcpy(&l, p, sizeof l);
    return kind == 'f' ? d : (double)l;
}

static npy parse(const unsigned char *p, size_t n)
{
    enum { START = 10, LONGEST = 1024 };
    npy out = {NULL, 0, 0};
    char header[LONGEST] = "", kind = 0;
    size_t each = 0;
    if (n < START || memcmp(p, "\x93NUMPY\x01", 7) != 0)
        return out;
    const size_t length = little(p + 8, 2), start = START + length;
    if (length >= LONGEST || start > n)
        return out;
    memcpy(header, p + START, length);
    if (!parse_header(header, &out, &kind, &each) || out.rows > n || out.columns > n || out.rows * out.columns * each != n - start)
        return out;
    const size_t count = out.rows * out.columns;
    out.v = malloc(count * sizeof *out.v + 1);
    for (size_t i = 0; i < count && out.v; i++)
        out.v[i] = element(p + start + i * each, kind, each);
    return out;
}

npy npy_read(const char *path)
{
    const bytes file = read_file(path);
    const npy out = file.p ? parse(file.p, file.n) : (npy){NULL, 0, 0};
    free(file.p);
    return out;
}

/* ---- npz ---- */

/* The central directory's entry at `at`: where the data of the member is, when it is the one that is sought. */
static int member(const bytes *zip, size_t at, const char *name, bytes *out)
{
    enum { ENTRY = 46, LOCAL = 30 };
    const unsigned char *entry = zip->p + at;
    const size_t name_bytes = little(entry + 28, 2), bytes_stored = little(entry + 20, 4), local = little(entry + 42, 4);
    if (at + ENTRY + name_bytes > zip->n || name_bytes != strlen(name) + 4 || memcmp(entry + ENTRY, name, name_bytes - 4) != 0)
        return 0;
    if (little(entry + 10, 2) != 0 || local + LOCAL > zip->n) /* method: stored */
        return 0;
    const size_t data = local + LOCAL + little(zip->p + local + 26, 2) + little(zip->p + local + 28, 2);
    if (data > zip->n || bytes_stored > zip->n - data)
        return 0;
    *out = (bytes){zip->p + data, bytes_stored};
    return 1;
}

static int find_member(const bytes *zip, const char *name, bytes *out)
{
    enum { END = 22, ENTRY = 46 };
    if (zip->n < END)
        return 0;
    const unsigned char *end = zip->p + zip->n - END; /* numpy writes no comment behind it */
    size_t at = little(end + 16, 4);
    for (uint32_t i = little(end + 10, 2); i > 0 && at + ENTRY <= zip->n; i--) {
        if (member(zip, at, name, out))
            return 1;
        at += ENTRY + little(zip->p + at + 28, 2) + little(zip->p + at + 30, 2) + little(zip->p + at + 32, 2);
    }
    return 0;
}

npy npz_read(const char *path, const char *name)
{
    const bytes file = read_file(path);
    npy out = {NULL, 0, 0};
    bytes data;
    if (file.p && find_member(&file, name, &data))
        out = parse(data.p, data.n);
    free(file.p);
    return out;
}
