#include "input.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

size_t input_raw(void *from, void *buf, size_t n)
{
    input *in = from;
    size_t early = in->head_n - in->head_at < n ? in->head_n - in->head_at : n;
    memcpy(buf, in->head + in->head_at, early);
    in->head_at += early;
    size_t got = early + fread((char *)buf + early, 1, n - early, in->file);
    if (got < n && ferror(in->file)) {
        die("%s: cannot read: %s", in->name, strerror(errno));
    }
    return got;
}

array *input_add(input *in, const char *name, uint64_t offset, uint64_t index)
{
    size_t room = (size_t)in->n + 1;
    in->arrays = retake(in->arrays, room, sizeof *in->arrays);
    in->offset = retake(in->offset, room, sizeof *in->offset);
    in->index = retake(in->index, room, sizeof *in->index);
    in->offset[in->n] = offset;
    in->index[in->n] = index;
    array *a = &in->arrays[in->n++];
    memset(a, 0, sizeof *a);
    a->name = take_text(name);
    return a;
}

static void npy_list(input *in)
{
    array *a = input_add(in, "", 0, 0);
    in->offset[0] = npy_header_read(a, in->name, input_raw, in);
    uint64_t count, bytes;
    if (!array_count(a, &count, &bytes)) {
        die("%s: shape %s is larger than any file", in->name, array_shape(a).text);
    }
    if (a->type != ELEM_OTHER && !in->pipe && in->offset[0] + bytes != in->file_bytes) {
        die("%s: shape %s of '%s' needs %llu bytes after the header, the file has %llu", in->name, array_shape(a).text, a->stored,
            (unsigned long long)bytes, (unsigned long long)(in->file_bytes - in->offset[0]));
    }
}

/* Zip and safetensors are read with seeks: a pipe is copied to a temporary file first. */
static void spool(input *in)
{
    in->spool = temp_open(NULL);
    in->spooled = true;
    static char block[65536];
    FILE *copy = fdopen(dup(in->spool.fd), "w+b");
    size_t n;
    while (copy != NULL && (n = input_raw(in, block, sizeof block)) > 0) {
        if (fwrite(block, 1, n, copy) != n) {
            break;
        }
        in->file_bytes += n;
    }
    if (copy == NULL || fflush(copy) != 0 || ferror(copy)) {
        die("%s: cannot copy %s: %s", in->spool.path, in->name, strerror(errno));
    }
    if (in->file != stdin) {
        fclose(in->file);
    }
    rewind(copy);
    in->file = copy;
    in->path = in->spool.path;
    in->pipe = false;
    in->head_n = in->head_at = 0;
}

static void look(input *in)
{
    in->head_n = fread(in->head, 1, sizeof in->head, in->file);
    if (in->head_n >= 6 && memcmp(in->head, "\x93NUMPY", 6) == 0) {
        in->kind = INPUT_NPY;
    } else if (in->head_n >= 4 && (memcmp(in->head, "PK\3\4", 4) == 0 || memcmp(in->head, "PK\5\6", 4) == 0)) {
        in->kind = INPUT_NPZ;
    } else if (in->head_n == 8 && in->head[4] == 0 && in->head[5] == 0 && in->head[6] == 0 && in->head[7] == 0) {
        in->kind = INPUT_SAFETENSORS; /* the length of its header; above 4 GiB would be no header */
    } else if (in->head_n == 0 && ferror(in->file)) {
        die("%s: cannot read: %s", in->name, strerror(errno));
    } else if (in->head_n == 0) {
        die("%s: is empty; .npy, .npz or safetensors was expected", in->name);
    } else {
        die("%s: is neither .npy nor .npz nor safetensors, by its first bytes", in->name);
    }
}

input *input_open(const char *path)
{
    input *in = take(1, sizeof *in);
    bool standard = strcmp(path, "-") == 0;
    *in = (input){.name = standard ? "standard input" : path, .path = path, .current = -1};
    in->file = standard ? stdin : fopen(path, "rb");
    struct stat st;
    if (in->file == NULL || fstat(fileno(in->file), &st) != 0) {
        die("%s: cannot open: %s", in->name, strerror(errno));
    }
    if (S_ISDIR(st.st_mode)) {
        die("%s: is a folder; a file of rows or codes was expected", in->name);
    }
    in->pipe = standard || !S_ISREG(st.st_mode);
    in->file_bytes = in->pipe ? 0 : (uint64_t)st.st_size;
    look(in);
    if (in->pipe && in->kind != INPUT_NPY) {
        spool(in);
    }
    if (in->kind == INPUT_NPY) {
        npy_list(in);
    } else if (in->kind == INPUT_NPZ) {
        npz_list(in);
    } else {
        safetensors_list(in);
    }
    return in;
}

int input_find(const input *in, const char *name)
{
    for (int i = 0; i < in->n; i++) {
        if (strcmp(in->arrays[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

int input_choose(const input *in, const char *name, const char *option)
{
    int i = name != NULL ? input_find(in, name) : 0;
    if (i >= 0 && in->n > 0 && (name != NULL || in->n == 1)) {
        return i;
    }
    char names[256] = "";
    size_t at = 0;
    for (int k = 0; k < in->n && at < sizeof names; k++) {
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", k > 0 ? ", " : "", in->arrays[k].name);
    }
    if (name != NULL && in->kind == INPUT_NPY) {
        die("%s: is one array without a name, drop %s", in->name, option);
    }
    if (name != NULL) {
        die("%s: holds no array '%s', but %s", in->name, name, in->n > 0 ? names : "nothing at all");
    }
    if (in->n == 0) {
        die("%s: holds no array", in->name);
    }
    if (option == NULL) {
        die("%s: holds %d arrays, one was expected: %s", in->name, in->n, names);
    }
    die("%s: holds %d arrays, choose one with %s NAME: %s", in->name, in->n, option, names);
}

void input_start(input *in, int i)
{
    array *a = &in->arrays[i];
    uint64_t count;
    if (a->type == ELEM_OTHER || !array_count(a, &count, &in->left)) {
        die("%s: array '%s' of type '%s' cannot be read", in->name, a->name, a->stored);
    }
    in->current = i;
    if (in->kind == INPUT_NPZ) {
        npz_start(in, i);
    } else if (in->kind == INPUT_SAFETENSORS && fseeko(in->file, (off_t)in->offset[i], SEEK_SET) != 0) {
        die("%s: cannot seek: %s", in->name, strerror(errno));
    }
    input_get(in, NULL, 0); /* an empty array ends here */
}

/* All elements have been read: is this really the end? */
static void finish(input *in)
{
    unsigned char more;
    if (in->kind == INPUT_NPZ) {
        npz_finish(in);
    } else if (in->kind == INPUT_NPY && input_raw(in, &more, 1) != 0) {
        die("%s: has bytes after the last element of shape %s", in->name, array_shape(&in->arrays[0]).text);
    }
    in->current = -1;
}

void input_get(input *in, void *buf, size_t bytes)
{
    if (bytes > 0) {
        size_t got = in->kind == INPUT_NPZ ? npz_get(in, buf, bytes) : input_raw(in, buf, bytes);
        if (got != bytes) {
            die("%s: ends %llu bytes before the last element of shape %s", in->name, (unsigned long long)(in->left - got),
                array_shape(&in->arrays[in->current]).text);
        }
        in->left -= bytes;
    }
    if (in->left == 0 && in->current >= 0) {
        finish(in);
    }
}

void *input_all(input *in, int i)
{
    enum { STEP = 1 << 26 };
    input_start(in, i);
    char *all = take(in->pipe ? 0 : (size_t)in->left, 1);
    size_t have = 0;
    while (in->left > 0) { /* a pipe's claim is believed step by step */
        size_t n = in->left < STEP ? (size_t)in->left : STEP;
        if (in->pipe) {
            all = retake(all, have + n, 1);
        }
        input_get(in, all + have, n);
        have += n;
    }
    return all;
}

void input_close(input *in)
{
    if (in->zip != NULL) {
        unzClose(in->zip);
    }
    if (in->file != stdin) {
        fclose(in->file);
    }
    if (in->spooled) {
        temp_remove(&in->spool);
    }
    for (int i = 0; i < in->n; i++) {
        free(in->arrays[i].name);
    }
    free(in->arrays);
    free(in->offset);
    free(in->index);
    free(in);
}
