/* Checked views of the caller's sae_codes. */
#ifndef SAEI_CODES_H
#define SAEI_CODES_H

#include "codec/codec.h"

/* Reads the struct and checks that its arrays are there. */
sae_status saei_codes_read(sae_codes *out, const sae_codes *codes, sae_error *err);

/* Checks codes that come in: indptr from 0 on, monotone, within capacity; indices ascending, in 0 .. d_sae-1; row_scale and row_shift where
 * the model needs them. */
sae_status saei_codes_check(const sae_codes *codes, const sae_model *model, sae_error *err);

#endif
