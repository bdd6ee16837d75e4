/* Rows of activations in a file, read block by block. */
#ifndef TOOL_ROWS_H
#define TOOL_ROWS_H

#include "input.h"

typedef struct rows {
    input *in;
    const array *a;
    sae_dtype dtype;
    size_t row_bytes;
    int64_t n_rows;
    int64_t done;
} rows;

/* Opens the array `tensor` (NULL: the only one) of a file as rows of `d` elements. The last dimension is a row, or the last two together
 * (heads of hook_z); all others count rows. `bits` is what 2-byte integers mean (--dtype), 0 = they are refused.
 * `what` names d in the sentence: "d_in". */
rows rows_open(const char *path, const char *tensor, sae_dtype bits, int64_t d, const char *what);

/* Rows of a block: enough for all workers, not more than about 16 MiB. */
int64_t rows_block(const rows *r);

/* Reads the next `n` rows, or as many as are left, and gives their number. */
int64_t rows_get(rows *r, void *buf, int64_t n);

void rows_close(rows *r);

/* A float32 vector of `d` elements in a file of its own. */
float *vector_read(const char *path, int64_t d, const char *what);

#endif
