#include "codec/codec.h"

#include <math.h>

sae_status saei_rows_read(saei_rows *out, const sae_rows *rows, int32_t d, bool in_place, sae_error *err)
{
    sae_rows r;
    if (!rows)
        return saei_fail(err, SAE_E_ARG, "the rows are NULL");
    const sae_status status = saei_read_struct(&r, sizeof r, rows, "sae_rows", err);
    if (status)
        return status;
    const int64_t row_bytes = (int64_t)sae_dtype_bytes(r.dtype) * d;
    if (!row_bytes)
        return saei_fail(err, SAE_E_ARG, "sae_rows.dtype = %d is not SAE_F32, SAE_F16 or SAE_BF16", (int)r.dtype);
    if (r.n_rows < 0 || (!r.x && r.n_rows > 0))
        return saei_fail(err, SAE_E_ARG, "sae_rows has n_rows = %lld and x %s", (long long)r.n_rows, r.x ? "set" : "NULL");
    const int64_t stride = r.stride_bytes ? r.stride_bytes : row_bytes;
    if (in_place && r.n_rows > 1 && stride < row_bytes && stride > -row_bytes)
        return saei_fail(err, SAE_E_ARG,
                         "stride_bytes = %lld, but a row of %d elements takes %lld bytes: rows to be written may not overlap",
                         (long long)stride, (int)d, (long long)row_bytes);
    *out = (saei_rows){r.x, stride, r.n_rows, r.dtype, r.slot};
    return SAE_OK;
}

void *saei_rows_at(const saei_rows *rows, int64_t r)
{
    return rows->x + r * rows->stride;
}

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
