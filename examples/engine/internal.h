/* What the files of the engine share and its users do not need. */
#ifndef ENGINE_INTERNAL_H
#define ENGINE_INTERNAL_H

#include <stdio.h>

#include "engine.h"

/* a * b * c elements of `each` bytes, zeroed; NULL with a sentence when there is no memory. */
void *engine_take(size_t a, size_t b, size_t c, size_t each, engine_error *err);

/* A file in memory, read-only. */
typedef struct engine_file {
    const unsigned char *data;
    size_t bytes;
} engine_file;

bool engine_file_map(engine_file *out, const char *path, engine_error *err);
void engine_file_unmap(engine_file *f);

/* "FOLDER/NAME" as new memory. */
char *engine_path(const char *folder, const char *name, engine_error *err);

/* Readers fill shape, names and the weight pointers of a zeroed model; engine_model_open does the rest. */
bool engine_read_bin(engine_model *m, const char *path, engine_error *err);
bool engine_read_hf(engine_model *m, const char *folder, engine_error *err);

/* Refuses sizes that no model has, before anything is computed from them: afterwards products of them cannot overflow. */
bool engine_shape_check(const engine_shape *s, const char *path, engine_error *err);

/* A .npy file that is written row by row: dtype "<f4" or "<i4", [rows][columns]. */
typedef struct engine_npy {
    FILE *file;
    char *path;
    const char *dtype;
    int64_t columns;
    int64_t rows;
} engine_npy;

bool engine_npy_open(engine_npy *out, const char *path, const char *dtype, int64_t columns, engine_error *err);
bool engine_npy_write(engine_npy *f, const void *rows, int64_t n, engine_error *err);

/* Writes the final number of rows into the header. Closes the file in any case. */
bool engine_npy_close(engine_npy *f, engine_error *err);

/* Closes the file without a word, when something else has failed. */
void engine_npy_abandon(engine_npy *f);

#endif
