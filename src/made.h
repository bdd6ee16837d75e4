/* What `sae bench` measures where it is given no SAE or no rows, and `sae verify` encodes. The same sizes give the same numbers. */
#ifndef TOOL_MADE_H
#define TOOL_MADE_H

#include "session.h"

/* The weights of a JumpReLU SAE: random directions of unit length that encoder and decoder share, one threshold. Borrowed by a model. */
float *made_directions(int32_t d_in, int32_t d_sae);

/* A model on them. */
void made_model(session *s, float *directions, int32_t d_in, int32_t d_sae);

/* Rows [n][d_in] in which up to 32 features of the SAE are active, and noise; of each seed other ones. */
float *made_rows(const session *s, int64_t n, uint64_t seed, const char *about);

#endif
