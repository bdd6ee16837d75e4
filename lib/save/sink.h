/* Weights -> bytes of a file, in any order and type. */
#ifndef SAEI_SINK_H
#define SAEI_SINK_H

#include "model/model.h"

/* Sees what is written, in order: a checksum. */
typedef void (*saei_seen_fn)(void *state, const void *data, size_t bytes);

/* Where the next bytes go. */
typedef struct saei_sink {
    const saei_host *host;
    const saei_out *out;
    size_t at;         /* in the file */
    saei_seen_fn seen; /* NULL: nobody looks */
    void *state;
    sae_error *err;
} saei_sink;

sae_status saei_sink_bytes(saei_sink *sink, const void *data, size_t bytes);

/* Writes a matrix in `dtype`: [n][d], or [d][n] when by_cols. `name` is for the sentence when a value is too large for the dtype. */
sae_status saei_sink_matrix(saei_sink *sink, const saei_matrix *m, bool by_cols, sae_dtype dtype, const char *name);

/* The bytes that takes. */
size_t saei_sink_matrix_bytes(const saei_matrix *m, sae_dtype dtype);

#endif
