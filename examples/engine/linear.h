/* Dense products. All matrices of the model pass through here. */
#ifndef ENGINE_LINEAR_H
#define ENGINE_LINEAR_H

#include "engine.h"

/* Packs w [n_out][n_in] for many products, kept as `weights` says. With `gate`, a matrix of the same type and shape, or NULL: what comes out
 * is silu(x gate^T) * (x W^T). */
bool engine_linear_create(engine_linear **out, const engine_host *host, engine_weights weights, const engine_matrix *w,
                          const engine_matrix *gate, int32_t n_out, int32_t n_in, engine_error *err);
void engine_linear_free(engine_linear *l);

/* Scratch that a product of n_rows rows needs. */
bool engine_linear_scratch(const engine_linear *l, int32_t n_rows, size_t *bytes, engine_error *err);

/* y [n_rows][n_out] = x [n_rows][n_in] W^T, added to what y holds if `adds`. The bits of a row do not depend on the other rows. */
bool engine_linear_run(const engine_linear *l, float *y, const float *x, int32_t n_rows, bool adds, void *scratch, size_t scratch_bytes,
                       engine_error *err);

#endif
