/* Sparse codes: in a file, read whole, and as they are made. */
#ifndef TOOL_CODES_H
#define TOOL_CODES_H

#include "input.h"

/* Reads the codes of an SAE with d_sae features: indptr, indices and data (or values) as `sae encode` or scipy.sparse.save_npz write
 * them, or one dense array [n_rows][d_sae]. Their structure is checked: indptr ascends from 0 to the number of values. row_scale and
 * row_shift are NULL when the file has none. */
sae_codes codes_read(const char *path, int64_t d_sae);

/* The codes of rows first .. first + n - 1, as codes of their own: `indptr` [n + 1] is filled, everything else is shared. */
sae_codes codes_slice(const sae_codes *all, int64_t first, int64_t n, int64_t *indptr);

/* Codes to be written by codes_encode, for up to n_rows rows. */
sae_codes codes_room(int64_t n_rows);

/* Encodes rows; the arrays of `out` grow as needed. */
void codes_encode(sae_codes *out, sae_ctx *ctx, const sae_rows *x, const char *about);

void codes_free(sae_codes *c);

#endif
