/* A second look at W_enc, one byte a weight, that bounds every dot from above: an encode needs the exact dots of the features alone whose
 * bound reaches the threshold.
 *
 * Feature j: scale s_j = max|w| / 127, q = round(w / s_j), what that loses e = w - s_j q; c a fixed centre. Row x: z = x - c, scale s_x, integers
 * q_x, what they lose r = z - s_x q_x. In exact arithmetic
 *     w . x = w . c + (s_j q) . (s_x q_x) + e . z + (s_j q) . r   <=   w . c + s_j s_x (q . q_x) + ||e|| ||z|| + ||s_j q|| ||r||
 * and a canonical dot is at most gamma ||w|| ||x|| + d 2^-150 above w . x, gamma = (d + 2) u / (1 - (d + 2) u), u = 2^-24. So with
 *     error = ||e||, norm = max(||w||, ||s_j q||), top = b + w . c, x.norm = ||z||, x.slack = ||r|| + gamma ||x|| + 16 u ||z||
 * rounded up, U of simd/kernels.h is at least dot + b, whatever the roundings of its own five operations (the last term pays for them), and as
 * rounding is monotone, at least the pre-activation. */
#ifndef SAEI_SCREEN_H
#define SAEI_SCREEN_H

#include "model/model.h"

typedef struct saei_screen {
    size_t bytes;           /* of this block, which holds everything but what lies in the file */
    bool stored;            /* the file holds it */
    const uint8_t *columns; /* [ceil(d_sae/16)][d16][256] as simd/kernels.h says: q + 128 */
    size_t d16;             /* a sixteenth of d, rounded up */
    saei_bound bound;       /* all of its vectors but the threshold are the screen's */
    const float *centre;    /* [d_in]; NULL = 0 */
} saei_screen;

/* What a screen is made of. */
typedef struct saei_screened {
    sae_env *env;
    saei_matrix rows;    /* of the features, in either order */
    const float *centre; /* [d]; NULL = 0 */
    const saei_act *act; /* what is added to their dots, and the thresholds; NULL = nothing, none */
    const char *name;    /* of the rows, for sentences */
} saei_screened;

/* More elements than a screen's error terms were derived for? */
bool saei_screen_too_deep(size_t d);

/* Bytes of the screen of this model, 0 when it cannot be screened; of its weights. */
size_t saei_screen_bytes(const sae_model *model);
size_t saei_screen_weights(const sae_model *model);

/* Builds one with the env's parallel-for; it is released by saei_dealloc of its `bytes`. Weights are rounded to `dtype` first, as in a file of that
 * type; 0: they are taken as they are. Every build of the same gives the same bytes: files hold them. */
sae_status saei_screen_make(saei_screen **out, const saei_screened *of, sae_dtype dtype, sae_error *err);

/* The same of W_enc of a model, whose rows are there. */
sae_status saei_screen_build(saei_screen **out, const sae_model *model, sae_dtype dtype, sae_error *err);

/* The model's screen is that of its file, if there is one and it fits the options of opening. Nothing of it is read. */
sae_status saei_screen_attach(sae_model *model, sae_error *err);

/* SAE_E_FORMAT unless the screen that came with the file, if any, is the one that its weights make, to the byte. */
sae_status saei_screen_prove(const sae_model *model, sae_error *err);

/* The smallest float that is not below v. */
float saei_round_up(double v);

#endif
