/* Files of arrays that are read from front to back: .npy, .npz and safetensors, told apart by their first bytes, also from pipes.
 * Every size that a file claims is checked against what the file holds before it is used. */
#ifndef TOOL_INPUT_H
#define TOOL_INPUT_H

#include <unzip.h>

#include "array.h"
#include "npy.h"

typedef enum input_kind { INPUT_NPY, INPUT_NPZ, INPUT_SAFETENSORS } input_kind;

typedef struct input {
    const char *name; /* for sentences: the path, or "standard input" */
    const char *path; /* to open it by; of the spooled copy when the input was a pipe */
    input_kind kind;
    FILE *file;
    bool pipe;             /* no size, no seeking */
    uint64_t file_bytes;   /* unless pipe */
    unsigned char head[8]; /* looked at to tell the kind, and still to be read */
    size_t head_n, head_at;
    temp spool;
    bool spooled;
    unzFile zip;
    array *arrays;    /* [n] */
    uint64_t *offset; /* [n] of the elements: in the file (npy, safetensors), in the directory of the zip (npz) */
    uint64_t *index;  /* [n] number of the file in the zip (npz) */
    int n;
    int current;   /* being read, -1 = none */
    uint64_t left; /* its bytes that are still to come */
} input;

/* Opens a path, or "-" for standard input, and reads the names, types and shapes of all arrays. */
input *input_open(const char *path);

/* The array of that name, or -1. */
int input_find(const input *in, const char *name);

/* The array that `name` asks for, or the only one when `name` is NULL; otherwise a sentence that lists them. `option` is what
 * lets the user choose, NULL where nothing does. */
int input_choose(const input *in, const char *name, const char *option);

/* Begins array i; then reads exactly `bytes` of it. After its last byte the checksum of a zip and the end of a .npy are checked. */
void input_start(input *in, int i);
void input_get(input *in, void *buf, size_t bytes);

/* The whole array i in new memory. */
void *input_all(input *in, int i);

void input_close(input *in);

/* For the readers of each kind. */
array *input_add(input *in, const char *name, uint64_t offset, uint64_t index);
size_t input_raw(void *in, void *buf, size_t n);

void npz_list(input *in);
void npz_start(input *in, int i);
size_t npz_get(input *in, void *buf, size_t n);
void npz_finish(input *in);
void safetensors_list(input *in);

#endif
