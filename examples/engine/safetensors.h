/* Reading a safetensors file: u64 length of the header, a JSON header, the data (huggingface/safetensors, README "Format"). */
#ifndef ENGINE_SAFETENSORS_H
#define ENGINE_SAFETENSORS_H

#include "internal.h"

#include <jansson.h>

typedef struct tensors {
    engine_file file;
    json_t *header;
    size_t data; /* where the data begins */
    const char *path;
} tensors;

bool tensors_open(tensors *out, const char *path, engine_error *err);

/* Frees what was made of the header; the file stays mapped and is the caller's. */
void tensors_close(tensors *t);
bool tensors_have(const tensors *t, const char *name);

/* Finds a tensor of exactly this shape (columns 0 = a vector), f32, f16 or bf16. */
bool tensors_find(const tensors *t, const char *name, int64_t rows, int64_t columns, engine_matrix *out, engine_error *err);

#endif
