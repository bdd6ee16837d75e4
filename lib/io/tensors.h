/* Named tensors, whatever container they came from: what the readers of containers fill and the readers of formats ask. */
#ifndef SAEI_TENSORS_H
#define SAEI_TENSORS_H

#include "host/host.h"

/* How an element is stored. Little-endian. */
typedef enum saei_element {
    SAEI_OTHER, /* known to the container, of no use to us: its name is kept for the sentence */
    SAEI_F32,
    SAEI_F16,
    SAEI_BF16,
    SAEI_F64,
    SAEI_F8_E4M3, /* as torch.float8_e4m3fn: no infinity, one NaN */
    SAEI_F8_E5M2,
    SAEI_I64,
    SAEI_I32,
    SAEI_I16,
    SAEI_I8,
    SAEI_U8,
    SAEI_BOOL
} saei_element;

enum { SAEI_DIMS = 4 /* how many dimensions of a shape are kept */ };

/* A tensor. Every element that shape and stride name lies inside `data`: the container's reader has checked it. */
typedef struct saei_array {
    const char *name;       /* owned by the store */
    const char *dtype_name; /* as the container writes it, for sentences; static or owned by the store */
    saei_element element;
    uint32_t n_dims; /* may be more than SAEI_DIMS; then only the first sizes are kept, and no reader of a format takes it */
    int64_t shape[SAEI_DIMS];
    int64_t stride[SAEI_DIMS]; /* in elements, >= 0 */
    const unsigned char *data; /* the first element: in a mapped file, or in memory of the store */
    size_t bytes;              /* that `data` holds from there on */
    int32_t file;              /* index of the file it lies in, -1 when it was unpacked into memory */
    size_t offset;             /* of `data` in that file */
} saei_array;

/* A value that is no tensor, which torch files hold beside them: "activation": "TopK". Members of nested dicts are named with dots. */
typedef struct saei_value {
    const char *name;   /* owned by the store */
    const char *string; /* NULL unless it is a string */
    double number;      /* int, float, bool; 0 for a string */
    bool is_number;
} saei_value;

/* All of it. Zero is an empty store. Names are unique over all files: a second tensor of one name is refused. */
typedef struct saei_store {
    saei_array *arrays;
    saei_value *values;
    saei_arena memory; /* names, unpacked data, and the two lists */
    uint32_t n_arrays, n_values;
    uint32_t room_arrays, room_values;
} saei_store;

void saei_store_free(saei_store *store, const saei_host *host);

/* Adds a tensor or a value. `what` names the file for the sentence. Errors: SAE_E_NOMEM, SAE_E_FORMAT (the name is there already). */
sae_status saei_store_add(saei_store *store, const saei_host *host, const saei_array *array, const char *what, sae_error *err);
sae_status saei_store_add_value(saei_store *store, const saei_host *host, const saei_value *value, const char *what, sae_error *err);

/* NULL when there is none of that name. */
const saei_array *saei_store_find(const saei_store *store, const char *name);
const saei_value *saei_store_value(const saei_store *store, const char *name);

/* Bytes of an element; 0 for SAEI_OTHER. */
size_t saei_element_bytes(saei_element element);

/* Can the kernels compute with it as it is: F32, F16, BF16? Its sae_dtype, or 0. */
sae_dtype saei_element_dtype(saei_element element);

/* An element at p as double: exact but for I64 beyond 2^53. */
double saei_element_load(const unsigned char *p, saei_element element);

/* Fills the strides of a row-major array from its shape; 0 where it holds no element, or more than memory can. */
void saei_array_row_major(saei_array *array);

/* Elements in all; false when more than SAEI_DIMS dimensions or the product overflows. */
bool saei_array_count(size_t *out, const saei_array *array);

/* Is it a float type whose values may be weights? */
bool saei_element_is_float(saei_element element);

/* Containers. Each reads the file with index `file_index` (whose bytes stay where they are as long as the store lives) and adds what it
 * holds; `name` is the file's name for sentences. They check every size before it is used and never take more than a small multiple of the
 * file's own size. Errors: SAE_E_FORMAT, SAE_E_UNSUPPORTED, SAE_E_NOMEM. */
sae_status saei_read_safetensors(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                                 sae_error *err);
sae_status saei_read_npz(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                         sae_error *err);
sae_status saei_read_torch(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                           sae_error *err);
sae_status saei_read_gguf(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                          sae_error *err);

#endif
