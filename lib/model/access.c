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

static void read_feature(const sae_model *model, int32_t tensor, int32_t feature, float *out)
{
    saei_model_row(out, model, tensor, feature);
    if (tensor == SAE_W_DEC && model->dec_scale)
        scale_row(out, model->parts.d_out, model->dec_scale[feature]);
}

/* What output `o` takes of a raw row. */
static void read_skip(const sae_model *model, int32_t o, float *out)
{
    const saei_parts *p = &model->parts;
    memset(out, 0, (size_t)p->d_in * sizeof *out);
    for (uint32_t i = 0; i < p->n_skip; i++) {
        const saei_skip *s = p->skip + i;
        if (o >= s->out_first && o - s->out_first < s->w.m.n)
            saei_matrix_row(out + s->in_first, &s->w.m, o - s->out_first);
    }
}

sae_status sae_model_read(const sae_model *model, int32_t tensor, int64_t first, int64_t n, float *out, sae_error *err)
{
    if (!model || (!out && n > 0))
        return saei_fail(err, SAE_E_ARG, "sae_model_read: %s is NULL", model ? "out" : "model");
    if (tensor < SAE_W_ENC || tensor > SAE_W_SKIP)
        return saei_fail(err, SAE_E_ARG, "tensor = %d is not one of SAE_W_ENC .. SAE_W_SKIP", (int)tensor);
    const saei_parts *p = &model->parts;
    const int64_t rows = tensor == SAE_B_DEC || tensor == SAE_W_SKIP ? p->d_out : p->d_sae;
    const int64_t width = tensor == SAE_W_DEC ? p->d_out : p->d_in;
    if (first < 0 || n < 0 || first > rows || n > rows - first)
        return saei_fail(err, SAE_E_ARG, "%lld rows from row %lld on: the tensor has %lld rows", (long long)n, (long long)first,
                         (long long)rows);
    if (tensor == SAE_B_ENC || tensor == SAE_B_DEC || tensor == SAE_THRESHOLD) {
        read_vector(model, tensor, first, n, out);
        return saei_ok(err);
    }
    const saei_fpmode mode = saei_fp_enter();
    for (int64_t i = 0; i < n; i++) {
        if (tensor == SAE_W_SKIP)
            read_skip(model, (int32_t)(first + i), out + i * width);
        else
            read_feature(model, tensor, (int32_t)(first + i), out + i * width);
    }
    saei_fp_leave(mode);
    return saei_ok(err);
}

enum { STRETCH = 4096 }; /* elements per read */

static size_t element_offset(const saei_tensor *t, size_t k, int32_t feature)
{
    return t->offset + (k * (size_t)t->m.n + (size_t)feature) * sae_dtype_bytes(t->m.dtype);
}

/* Where each element lies in a page of its own, a file that is not in memory would cost one wait for the disk after the other. */
static void want_elements(const saei_file *file, const saei_tensor *t, const int32_t *features, int64_t n, size_t k0, size_t k1)
{
    enum { PAGE = 4096 };
    const size_t each = sae_dtype_bytes(t->m.dtype);
    if ((size_t)t->m.n * each < PAGE)
        return;
    for (size_t k = k0; k < k1; k++)
        for (int64_t i = 0; i < n; i++)
            saei_file_want(file, element_offset(t, k, features[i]), each);
}

/* Columns of a file stored [d][n], few of them: element by element, some rows ahead asked for in advance. */
static sae_status read_elements(float *dst, const saei_file *file, const saei_tensor *t, const int32_t *features, int64_t n, sae_error *err)
{
    enum { AHEAD = 1024 };
    const size_t d = (size_t)t->m.d;
    unsigned char element[sizeof(float)];
    for (size_t k = 0; k < d; k++) {
        if (k % AHEAD == 0)
            want_elements(file, t, features, n, k, d - k < AHEAD ? d : k + AHEAD);
        for (int64_t i = 0; i < n; i++) {
            const sae_status status = saei_file_read(file, element, element_offset(t, k, features[i]), sae_dtype_bytes(t->m.dtype), err);
            if (status)
                return status;
            dst[(size_t)i * d + k] = saei_load(element, t->m.dtype);
        }
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

/* Rows ids [n] of a matrix, m being the form of it that is at hand, by plain reads where that is the mapped file. */
static sae_status gather(float *dst, const sae_model *model, const saei_tensor *t, const saei_matrix *m, const int32_t *ids, int64_t n,
                         sae_error *err)
{
    const saei_file *file = t->file < 0 ? NULL : &model->parts.files[t->file];
    const bool from_file = file && file->mapped && m->data == t->m.data;
    if (from_file && m->by_cols)
        return (n <= FEW ? read_elements : read_columns)(dst, file, t, ids, n, err);
    for (int64_t i = 0; i < n; i++) {
        float *row = dst + i * m->d;
        sae_status status = SAE_OK;
        if (from_file)
            status = read_row(row, file, t, ids[i], err);
        else
            saei_matrix_row(row, m, ids[i]);
        if (status)
            return status;
    }
    return SAE_OK;
}

static sae_status check_row(const sae_model *model, const float *row, size_t d, const char *name, int32_t feature, sae_error *err)
{
    const size_t bad = model->env->kernels->nonfinite(row, SAE_F32, d);
    if (bad < d)
        return saei_fail(err, SAE_E_FORMAT, "%s of feature %d is not finite at element %zu: the checkpoint is damaged", name, (int)feature,
                         bad);
    return SAE_OK;
}

sae_status saei_model_gather_enc(float *dst, const sae_model *model, uint32_t block, const int32_t *features, int64_t n, sae_error *err)
{
    enum { AT_ONCE = 256 };
    const saei_block *b = model->parts.enc + block;
    const saei_matrix m = saei_model_enc_rows(model, block);
    const size_t d = (size_t)m.d;
    int32_t ids[AT_ONCE];
    sae_status status = SAE_OK;
    for (int64_t done = 0; done < n && !status; done += AT_ONCE) {
        const int64_t now = n - done < AT_ONCE ? n - done : AT_ONCE;
        for (int64_t i = 0; i < now; i++)
            ids[i] = features[done + i] - b->first;
        float *to = dst + (size_t)done * d;
        status = gather(to, model, &b->w, &m, ids, now, err);
        for (int64_t i = 0; i < now && !status; i++)
            status = check_row(model, to + (size_t)i * d, d, "W_enc", features[done + i], err);
    }
    return status;
}

sae_status saei_model_gather_dec(float *dst, const sae_model *model, int32_t feature, sae_error *err)
{
    const saei_parts *p = &model->parts;
    sae_status status = SAE_OK;
    uint32_t i, end;
    memset(dst, 0, (size_t)p->d_out * sizeof *dst);
    for (saei_model_segments_of(model, feature, &i, &end); i < end && !status; i++) {
        const saei_matrix m = saei_model_dec_rows(model, i);
        const int32_t row = saei_segment_row(p->dec + i, feature);
        status = gather(dst + p->dec[i].out_first, model, &p->dec[i].w, &m, &row, 1, err);
    }
    if (!status)
        status = check_row(model, dst, (size_t)p->d_out, "W_dec", feature, err);
    if (!status && model->dec_scale)
        scale_row(dst, p->d_out, model->dec_scale[feature]);
    return status;
}
