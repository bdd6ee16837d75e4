/* The safetensors container: a JSON header that names tensors, then their bytes, without a gap. Knows nothing of SAEs. */
#ifndef SAEI_SAFETENSORS_H
#define SAEI_SAFETENSORS_H

#include "io/json.h"

enum { SAEI_ST_DIMS = 2 /* how many dimensions of a shape are kept: vectors and matrices are all that a reader asks for */ };

typedef struct saei_st_tensor {
    const char *name;       /* strings of the header */
    const char *dtype_name; /* "F32", "I64", ... */
    sae_dtype dtype;        /* 0 when it is none of ours */
    uint32_t n_dims;
    int64_t shape[SAEI_ST_DIMS];
    size_t offset; /* of the data in the file */
    size_t bytes;
} saei_st_tensor;

typedef struct saei_safetensors {
    saei_json header;
    saei_st_tensor *tensors; /* in the order of the header */
    uint32_t n;
} saei_safetensors;

/* Reads and checks the header of `file`; `name` is the file's name for sentences. Every rule of the format is held: the header's length,
 * its JSON, names, shapes and dtypes, and that the tensors cover the data exactly, without overlap, hole or trailing bytes.
 * Errors: SAE_E_FORMAT, SAE_E_UNSUPPORTED (a dtype that is not known, by name), SAE_E_NOMEM. */
sae_status saei_safetensors_read(saei_safetensors *out, const saei_host *host, const saei_file *file, const char *name, sae_error *err);
void saei_safetensors_free(saei_safetensors *st, const saei_host *host);

/* NULL when there is no such tensor. */
const saei_st_tensor *saei_safetensors_find(const saei_safetensors *st, const char *name);

#endif
