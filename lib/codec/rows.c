#include "codec/codec.h"

#include <math.h>

static double sum(const float *x, size_t n)
{
    double s = 0.0;
    for (size_t k = 0; k < n; k++)
        s += (double)x[k];
    return s;
}

/* sae-lens 6.54 saes/sae.py, "constant_norm_rescale": x * sqrt(d) / ||x||. */
static void constant_norm(float *xc, const float *x, size_t d, float *scale)
{
    const double norm = sqrt(saei_square(x, d)), root = sqrt((double)d);
    const float up = (float)(root / norm);
    for (size_t k = 0; k < d; k++)
        xc[k] = x[k] * up;
    *scale = (float)(norm / root);
}

/* sae-lens 6.54 saes/sae.py, "layer_norm": (x - mean) / (std + 1e-5), std unbiased; undone with std alone. */
static void layer_norm(float *xc, const float *x, size_t d, float *scale, float *shift)
{
    const double mean = sum(x, d) / (double)d;
    double squares = 0.0;
    for (size_t k = 0; k < d; k++)
        squares += ((double)x[k] - mean) * ((double)x[k] - mean);
    const float m = (float)mean, std = (float)sqrt(squares / (double)(d - 1)), by = std + 1e-5f;
    for (size_t k = 0; k < d; k++)
        xc[k] = (x[k] - m) / by;
    *scale = std;
    *shift = m;
}

void saei_normalise(const sae_model *model, float *xc, const float *x, float *scale, float *shift)
{
    const saei_parts *p = &model->parts;
    const size_t d = (size_t)p->d_in;
    *scale = 1.0f;
    *shift = 0.0f;
    if (p->norm == SAE_NORM_CONSTANT) {
        constant_norm(xc, x, d, scale);
    } else if (p->norm == SAE_NORM_LAYER) {
        layer_norm(xc, x, d, scale, shift);
    } else if (p->norm == SAE_NORM_SCALE) {
        for (size_t k = 0; k < d; k++)
            xc[k] = x[k] * p->norm_scaling_factor;
        *scale = 1.0f / p->norm_scaling_factor;
    } else if (xc != x) {
        for (size_t k = 0; k < d; k++)
            xc[k] = x[k];
    }
    if (model->b_in)
        for (size_t k = 0; k < d; k++)
            xc[k] -= model->b_in[k];
}
