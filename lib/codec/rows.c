#include "codec/codec.h"

#include <math.h>
#include <string.h>

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

/* crosscoder_learning, ActivationNormalizer: element by element. */
static void affine(float *xc, const float *x, size_t d, const float *shift, const float *scale)
{
    for (size_t k = 0; k < d; k++)
        xc[k] = (x[k] - shift[k]) * scale[k];
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
        *scale = p->norm_out_factor;
    } else if (p->norm == SAE_NORM_AFFINE) {
        affine(xc, x, d, p->in_shift, p->in_scale);
    } else if (xc != x) {
        memcpy(xc, x, d * sizeof *xc);
    }
    if (p->norm_in_only) {
        *scale = 1.0f;
        *shift = 0.0f;
    }
    if (model->b_in)
        saei_add_row(model->env->kernels, xc, xc, -1.0f, model->b_in, SAE_F32, d);
}

void saei_unnormalise(const sae_model *model, float *y, float scale, float shift)
{
    const saei_parts *p = &model->parts;
    const size_t d = (size_t)p->d_out;
    if (p->norm == SAE_NORM_NONE || p->norm_in_only)
        return;
    if (p->norm == SAE_NORM_AFFINE)
        for (size_t k = 0; k < d; k++)
            y[k] = fmaf(y[k], p->out_scale[k], p->out_shift[k]);
    else
        for (size_t k = 0; k < d; k++)
            y[k] = fmaf(y[k], scale, shift);
}

bool saei_takes_rows_as_they_are(const sae_model *model)
{
    return model->parts.norm == SAE_NORM_NONE && !model->b_in;
}

bool saei_normalises_rows(const sae_model *model)
{
    const saei_parts *p = &model->parts;
    return (p->norm == SAE_NORM_CONSTANT || p->norm == SAE_NORM_LAYER) && !p->norm_in_only;
}
