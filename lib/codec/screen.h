/* Encodes that look at one byte a weight first: codec/screen.c. */
#ifndef SAEI_CODEC_SCREEN_H
#define SAEI_CODEC_SCREEN_H

#include "codec/codec.h"
#include "model/screen.h"

/* Lays out the scratch for blocks of up to max_rows rows; block NULL = only the size is wanted. */
size_t saei_screening_layout(saei_screening *s, const sae_model *model, size_t max_rows, unsigned char *block);

/* Row x [d] in 16 bits, two planes of bytes: 16 of each at `high` and `low`, the next 16 a step on. False when the error terms do not
 * hold for this row: not finite, huge or tiny. */
bool saei_screen_row(saei_spans *spans, int8_t *high, size_t high_step, int8_t *low, size_t low_step, const float *x,
                     const saei_screen *screen, const saei_kernels *kernels, size_t d);

/* Is a block of n rows to be screened? */
bool saei_screen_pays(sae_ctx *ctx, size_t n);

/* Encodes the n loaded rows of ctx->work as saei_work_encode does, to the bit. SAE_E_HOST when the host's parallel-for failed. */
sae_status saei_screen_encode(sae_ctx *ctx, size_t n);

#endif
