#include "output.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zip.h>

#include "npy.h"

struct output {
    char *path;       /* real name; NULL for a pipe */
    const char *name; /* for sentences */
    output_kind kind;
    array *arrays;
    int n;
    int current;   /* being written */
    uint64_t left; /* its bytes that are missing */
    FILE *file;    /* npy, safetensors */
    zipFile zip;   /* npz */
    temp temp;     /* unless the elements go straight to a pipe */
    bool has_temp;
    FILE *pipe; /* standard output, a FIFO or a device; NULL for a regular file */
};

_Noreturn static void failed(const output *out)
{
    die("%s: cannot write: %s", out->name, errno != 0 ? strerror(errno) : "the zip writer failed");
}

static bool ends_in(const char *path, const char *end)
{
    size_t n = strlen(path), m = strlen(end);
    return n > m && strcmp(path + n - m, end) == 0;
}

output_kind output_kind_of(const char *path, bool several)
{
    if (strcmp(path, "-") == 0) {
        return several ? OUTPUT_NPZ : OUTPUT_NPY;
    }
    if (ends_in(path, ".npz")) {
        return OUTPUT_NPZ;
    }
    if (ends_in(path, ".safetensors")) {
        return OUTPUT_SAFETENSORS;
    }
    if (!ends_in(path, ".npy")) {
        die_usage("-o %s: the ending says the format: .npy, .npz or .safetensors, or - for a pipe", path);
    }
    if (several) {
        die_usage("-o %s: sparse codes are several arrays: end the name in .npz or .safetensors, or add --dense", path);
    }
    return OUTPUT_NPY;
}

static void put(output *out, const void *p, size_t bytes)
{
    errno = 0;
    if (out->kind != OUTPUT_NPZ) {
        if (fwrite(p, 1, bytes, out->file) != bytes) {
            failed(out);
        }
        return;
    }
    for (size_t at = 0; at < bytes;) {
        unsigned part = bytes - at < INT_MAX ? (unsigned)(bytes - at) : INT_MAX;
        if (zipWriteInFileInZip(out->zip, (const char *)p + at, part) != ZIP_OK) {
            failed(out);
        }
        at += part;
    }
}

static void npy_begin(output *out, const array *a)
{
    char header[NPY_HEADER_MAX];
    put(out, header, npy_header_make(header, a));
}

static void npz_begin(output *out, const array *a)
{
    char name[256];
    snprintf(name, sizeof name, "%s.npy", a->name);
    zip_fileinfo info = {.dosDate = 1 << 5 | 1}; /* 1 January 1980: the same arrays give the same bytes */
    int zip64 = out->left > (uint64_t)UINT_MAX - NPY_HEADER_MAX;
    errno = 0;
    if (zipOpenNewFileInZip64(out->zip, name, &info, NULL, 0, NULL, 0, NULL, 0, 0, zip64) != ZIP_OK) {
        failed(out);
    }
    npy_begin(out, a);
}

static void safetensors_begin(output *out)
{
    json_t *root = json_object();
    json_int_t at = 0;
    for (int i = 0; i < out->n; i++) {
        const array *a = &out->arrays[i];
        uint64_t count, bytes = 0;
        array_count(a, &count, &bytes);
        json_t *shape = json_array();
        for (int k = 0; k < a->ndim; k++) {
            json_array_append_new(shape, json_integer(a->shape[k]));
        }
        json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", elem_safetensors(a->type), "shape", shape, "data_offsets", at,
                                  at + (json_int_t)bytes);
        at += (json_int_t)bytes;
        if (json_object_set_new(root, a->name, entry) != 0) {
            die("%s: '%s' cannot be the name of a tensor", out->name, a->name);
        }
    }
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (text == NULL) {
        die("%s: no memory for the header", out->name);
    }
    size_t n = strlen(text), padded = (n + 7) / 8 * 8;
    unsigned char frame[8];
    for (int i = 0; i < 8; i++) {
        frame[i] = (unsigned char)((uint64_t)padded >> 8 * i);
    }
    put(out, frame, 8);
    put(out, text, n);
    put(out, "       ", padded - n);
    free(text);
}

/* Moves to the next array that has elements; empty ones are written on the way. */
static void advance(output *out)
{
    while (out->left == 0 && out->current < out->n) {
        if (out->kind == OUTPUT_NPZ && out->current >= 0 && zipCloseFileInZip(out->zip) != ZIP_OK) {
            failed(out);
        }
        if (++out->current == out->n) {
            return;
        }
        const array *a = &out->arrays[out->current];
        uint64_t count;
        if (!array_count(a, &count, &out->left)) {
            die("%s: shape %s is larger than any file", out->name, array_shape(a).text);
        }
        if (out->kind == OUTPUT_NPZ) {
            npz_begin(out, a);
        } else if (out->kind == OUTPUT_NPY) {
            npy_begin(out, a);
        }
    }
}

/* Where the bytes go: a temporary file beside a regular file (the target of a link, so that the link stays), or the pipe itself. A zip
 * needs to seek and always goes to a file first. */
static void open_target(output *out, const char *path)
{
    struct stat st;
    if (strcmp(path, "-") == 0) {
        out->name = "standard output";
        out->pipe = stdout;
    } else if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        die("%s: is a folder", path);
    } else if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        out->pipe = fopen(path, "wb");
        if (out->pipe == NULL) {
            failed(out);
        }
    } else {
        char *real = realpath(path, NULL);
        out->path = real != NULL ? real : take_text(path);
    }
    if (out->pipe == NULL || out->kind == OUTPUT_NPZ) {
        out->temp = temp_open(out->path);
        out->has_temp = true;
    }
    if (out->kind == OUTPUT_NPZ) {
        out->zip = zipOpen64(out->temp.path, APPEND_STATUS_CREATE);
    } else {
        out->file = out->pipe != NULL ? out->pipe : fdopen(dup(out->temp.fd), "wb");
    }
    if (out->zip == NULL && out->file == NULL) {
        failed(out);
    }
}

output *output_open(const char *path, output_kind kind, array *arrays, int n)
{
    output *out = take(1, sizeof *out);
    *out = (output){.name = path, .kind = kind, .n = n, .current = -1};
    out->arrays = memcpy(take((size_t)n, sizeof *arrays), arrays, (size_t)n * sizeof *arrays);
    errno = 0;
    open_target(out, path);
    if (kind == OUTPUT_SAFETENSORS) {
        safetensors_begin(out);
    }
    advance(out);
    return out;
}

void output_put(output *out, const void *p, size_t bytes)
{
    for (const char *at = p; bytes > 0;) {
        if (out->current == out->n) {
            die("%s: more elements than its shape has", out->name);
        }
        size_t n = bytes < out->left ? bytes : (size_t)out->left;
        put(out, at, n);
        at += n;
        bytes -= n;
        out->left -= n;
        advance(out);
    }
}

void output_put_file(output *out, FILE *file)
{
    static char block[65536];
    size_t n;
    rewind(file);
    while ((n = fread(block, 1, sizeof block, file)) > 0) {
        output_put(out, block, n);
    }
    if (ferror(file)) {
        die("a temporary file cannot be read: %s", strerror(errno));
    }
}

static void copy_to_pipe(output *out)
{
    static char block[65536];
    FILE *from = fopen(out->temp.path, "rb");
    size_t n;
    while (from != NULL && (n = fread(block, 1, sizeof block, from)) > 0) {
        if (fwrite(block, 1, n, out->pipe) != n) {
            failed(out);
        }
    }
    if (from == NULL || ferror(from)) {
        failed(out);
    }
    fclose(from);
}

void output_commit(output *out)
{
    if (out->current < out->n) {
        die("%s: %llu bytes of array '%s' are missing", out->name, (unsigned long long)out->left, out->arrays[out->current].name);
    }
    errno = 0;
    if (out->kind == OUTPUT_NPZ ? zipClose(out->zip, NULL) != ZIP_OK : fflush(out->file) != 0 || ferror(out->file)) {
        failed(out);
    }
    if (out->pipe != NULL && out->has_temp) {
        copy_to_pipe(out);
    }
    FILE *file = out->pipe != NULL ? out->pipe : out->file;
    if (file != NULL && (file == stdout ? fflush(file) : fclose(file)) != 0) {
        failed(out);
    }
    if (out->has_temp && out->pipe != NULL) {
        temp_remove(&out->temp);
    } else if (out->has_temp) {
        temp_rename(&out->temp, out->path);
    }
    for (int i = 0; i < out->n; i++) {
        free(out->arrays[i].name);
    }
    free(out->arrays);
    free(out->path);
    free(out);
}
