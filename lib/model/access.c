#include "model/model.h"

#include <math.h>
#include <string.h>

sae_status saei_check_features(const sae_model *model, const int32_t *features, int64_t n, sae_error *err)
{
    for (int64_t i = 0; i < n; i++)
        if (features[i] < 0 || features[i] >= model->parts.d_sae)
            return saei_fail(err, SAE_E_ARG, "features[%lld] = %d, this SAE has features 0 .. %d", (long long)i, (int)features[i],
                             (int)model->parts.d_sae - 1);
    return SAE_OK;
}

static void scale_row(float *row, int32_t d, float scale)
{
    for (int32_t k = 0; k < d; k++)
        row[k] *= scale;
}

/* The tensor by feature. */
static saei_matrix by_feature(const sae_model *model, int32_t tensor)
{
    return tensor == SAE_W_ENC ? saei_model_enc_rows(model) : saei_model_dec_rows(model);
}

static void read_vector(const sae_model *model, int32_t tensor, int64_t first, int64_t n, float *out)
{
    const saei_parts *p = &model->parts;
    const float *v = tensor == SAE_B_DEC       ? model->b_dec
                     : tensor == SAE_THRESHOLD ? p->threshold
                     : p->arch == SAE_GATED    ? p->b_gate
                                               : p->b_enc;
    if (v)
        memcpy(out, v + first, (size_t)n * sizeof *out);
    else
        memset(out, 0, (size_t)n * sizeof *out);
}

sae_status sae_model_read(const sae_model *model, int32_t tensor, int64_t first, int64_t n, float *out, sae_error *err)
{
    if (!model || (!out && n > 0))
        return saei_fail(err, SAE_E_ARG, "sae_model_read: %s is NULL", model ? "out" : "model");
    if (tensor < SAE_W_ENC || tensor > SAE_THRESHOLD)
        return saei_fail(err, SAE_E_ARG, "tensor = %d is not one of SAE_W_ENC .. SAE_THRESHOLD", (int)tensor);
    const int64_t rows = tensor == SAE_B_DEC ? model->parts.d_out : model->parts.d_sae;
    if (first < 0 || n < 0 || first > rows || n > rows - first)
        return saei_fail(err, SAE_E_ARG, "%lld rows from row %lld on: the tensor has %lld rows", (long long)n, (long long)first,
                         (long long)rows);
    if (tensor >= SAE_B_ENC) {
        read_vector(model, tensor, first, n, out);
        return saei_ok(err);
    }
    const saei_fpmode mode = saei_fp_enter();
    const saei_matrix m = by_feature(model, tensor);
    for (int64_t i = 0; i < n; i++) {
        saei_matrix_row(out + i * m.d, &m, (int32_t)(first + i));
        if (tensor == SAE_W_DEC && model->dec_scale)
            scale_row(out + i * m.d, m.d, model->dec_scale[first + i]);
    }
    saei_fp_leave(mode);
    return saei_ok(err);
}

enum { STRETCH = 4096 }; /* elements per read */

/* Columns of a file stored [d][n], few of them: element by element. */
static sae_status read_elements(float *dst, const saei_file *file, const saei_tensor *t, const int32_t *features, int64_t n, sae_error *err)
{
    const size_t each = sae_dtype_bytes(t->m.dtype), width = (size_t)t->m.n, d = (size_t)t->m.d;
    unsigned char element[sizeof(float)];
    for (size_t k = 0; k < d; k++)
        for (int64_t i = 0; i < n; i++) {
            const sae_status status = saei_file_read(file, element, t->offset + (k * width + (size_t)features[i]) * each, each, err);
            if (status)
                return status;
            dst[(size_t)i * d + k] = saei_load(element, t->m.dtype);
        }
    return SAE_OK;
}

/* Many of them: every row once, a stretch at a time, whatever the order of the features. */
static sae_status read_columns(float *dst, const saei_file *file, const saei_tensor *t, const int32_t *features, int64_t n, sae_error *err)
{
    const size_t each = sae_dtype_bytes(t->m.dtype), width = (size_t)t->m.n, d = (size_t)t->m.d;
    unsigned char buffer[STRETCH * sizeof(float)];
    for (size_t k = 0; k < d; k++)
        for (size_t begin = 0; begin < width; begin += STRETCH) {
            const size_t have = width - begin < STRETCH ? width - begin : STRETCH;
            const sae_status status = saei_file_read(file, buffer, t->offset + (k * width + begin) * each, have * each, err);
            if (status)
                return status;
            for (int64_t i = 0; i < n; i++)
                if ((size_t)features[i] >= begin && (size_t)features[i] < begin + have)
                    dst[(size_t)i * d + k] = saei_load(buffer + ((size_t)features[i] - begin) * each, t->m.dtype);
        }
    return SAE_OK;
}

/* Rows of a file stored [n][d], a stretch at a time. */
static sae_status read_row(float *dst, const saei_file *file, const saei_tensor *t, int32_t feature, sae_error *err)
{
    const size_t each = sae_dtype_bytes(t->m.dtype), d = (size_t)t->m.d;
    unsigned char buffer[STRETCH * sizeof(float)];
    for (size_t k0 = 0; k0 < d; k0 += STRETCH) {
        const size_t kc = d - k0 < STRETCH ? d - k0 : STRETCH;
        const sae_status status = saei_file_read(file, buffer, t->offset + ((size_t)feature * d + k0) * each, kc * each, err);
        if (status)
            return status;
        for (size_t k = 0; k < kc; k++)
            dst[k0 + k] = saei_load(buffer + k * each, t->m.dtype);
    }
    return SAE_OK;
}

/* Below this, single elements are fewer bytes and no slower than whole rows. */
enum { FEW = 32 };

static sae_status gather(float *dst, const sae_model *model, int32_t tensor, const int32_t *features, int64_t n, sae_error *err)
{
    const saei_tensor *t = tensor == SAE_W_ENC ? &model->parts.enc[0].w : &model->parts.dec[0].w;
    const saei_file *file = t->file < 0 ? NULL : &model->parts.files[t->file];
    const saei_matrix m = by_feature(model, tensor);
    const bool from_file = file && file->mapped && m.data == t->m.data;
    if (from_file && m.by_cols)
        return (n <= FEW ? read_elements : read_columns)(dst, file, t, features, n, err);
    for (int64_t i = 0; i < n; i++) {
        float *row = dst + i * m.d;
        sae_status status = SAE_OK;
        if (from_file)
            status = read_row(row, file, t, features[i], err);
        else
            saei_matrix_row(row, &m, features[i]);
        if (status)
            return status;
    }
    return SAE_OK;
}

sae_status saei_model_gather(float *dst, const sae_model *model, int32_t tensor, const int32_t *features, int64_t n, sae_error *err)
{
    const size_t d = (size_t)(tensor == SAE_W_ENC ? model->parts.d_in : model->parts.d_out);
    sae_status status = gather(dst, model, tensor, features, n, err);
    for (int64_t i = 0; i < n && !status; i++) {
        const size_t bad = model->env->kernels->nonfinite(dst + (size_t)i * d, SAE_F32, d);
        if (bad < d)
            return saei_fail(err, SAE_E_FORMAT, "%s of feature %d is not finite at element %zu: the checkpoint is damaged",
                             tensor == SAE_W_ENC ? "W_enc" : "W_dec", (int)features[i], bad);
        if (tensor == SAE_W_DEC && model->dec_scale)
            scale_row(dst + (size_t)i * d, (int32_t)d, model->dec_scale[features[i]]);
    }
    return status;
}
