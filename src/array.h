/* Arrays as files hold them: a name, an element type, a shape. */
#ifndef TOOL_ARRAY_H
#define TOOL_ARRAY_H

#include <sae.h>

#include "say.h"

enum { MAX_DIMS = 8 };

typedef enum elem {
    ELEM_OTHER, /* something the tool does not compute with; `stored` says what */
    ELEM_F32,
    ELEM_F16,
    ELEM_BF16,
    ELEM_F64,
    ELEM_U8,
    ELEM_U16,
    ELEM_I32,
    ELEM_I64,
    ELEM_S3 /* three bytes of text: the 'csr' of a scipy file */
} elem;

typedef struct array {
    char *name; /* "" in a .npy */
    elem type;
    char stored[24]; /* the type as the file spells it */
    int ndim;
    int64_t shape[MAX_DIMS];
} array;

size_t elem_bytes(elem type);
const char *elem_npy(elem type);         /* "<f4"; bfloat16, which NumPy lacks, is written as its bits: "<u2" */
const char *elem_safetensors(elem type); /* "F32" */
elem elem_from_npy(const char *descr);
elem elem_from_safetensors(const char *dtype);
elem elem_from_dtype(sae_dtype dtype);
sae_dtype elem_to_dtype(elem type); /* 0 when it is no type of rows */

/* The type that --dtype names, or a usage error. */
sae_dtype dtype_from_option(const char *option, const char *value);

/* An array to be written; `ndim` sizes follow. */
array array_make(const char *name, elem type, int ndim, const int64_t *shape);

/* Product of the shape; false when it, or its size in bytes, overflows. */
bool array_count(const array *a, uint64_t *count, uint64_t *bytes);

/* "[9][37]", in the caller's buffer, for sentences. */
typedef struct shape_text {
    char text[MAX_DIMS * 22 + 3];
} shape_text;

shape_text array_shape(const array *a);

#endif
