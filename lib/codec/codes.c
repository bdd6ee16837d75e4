#include "codec/codes.h"

sae_status saei_codes_read(sae_codes *out, const sae_codes *codes, sae_error *err)
{
    if (!codes)
        return saei_fail(err, SAE_E_ARG, "the codes are NULL");
    const sae_status status = saei_read_struct(out, sizeof *out, codes, "sae_codes", err);
    if (status)
        return status;
    if (out->reserved)
        return saei_fail(err, SAE_E_ARG, "sae_codes.reserved = %u: zero the struct before use", (unsigned)out->reserved);
    if (!out->indptr)
        return saei_fail(err, SAE_E_ARG, "sae_codes.indptr is NULL: it needs n_rows + 1 elements");
    if (out->capacity < 0 || (out->capacity > 0 && (!out->indices || !out->values)))
        return saei_fail(err, SAE_E_ARG, "sae_codes has capacity = %lld, but %s is NULL", (long long)out->capacity,
                         out->indices ? "values" : "indices");
    return SAE_OK;
}

static sae_status check_row(const sae_codes *c, int64_t r, int32_t d_sae, sae_error *err)
{
    int32_t previous = -1;
    for (int64_t i = c->indptr[r]; i < c->indptr[r + 1]; i++) {
        const int32_t feature = c->indices[i];
        if (feature < 0 || feature >= d_sae)
            return saei_fail(err, SAE_E_ARG, "codes of row %lld name feature %d, this SAE has features 0 .. %d", (long long)r, (int)feature,
                             (int)d_sae - 1);
        if (feature <= previous)
            return saei_fail(err, SAE_E_ARG, "codes of row %lld go from feature %d to %d: indices must ascend within a row", (long long)r,
                             (int)previous, (int)feature);
        previous = feature;
    }
    return SAE_OK;
}

sae_status saei_codes_check(const sae_codes *c, const sae_model *model, sae_error *err)
{
    const bool per_row = saei_normalises_rows(model);
    if (c->n_rows < 0)
        return saei_fail(err, SAE_E_ARG, "sae_codes.n_rows = %lld", (long long)c->n_rows);
    if (per_row && c->n_rows && (!c->row_scale || !c->row_shift))
        return saei_fail(err, SAE_E_ARG, "this SAE normalises each row (%s): decode needs the row_scale and row_shift that encode wrote",
                         sae_norm_name(model->parts.norm));
    if (c->indptr[0] < 0)
        return saei_fail(err, SAE_E_ARG, "indptr[0] = %lld", (long long)c->indptr[0]);
    for (int64_t r = 0; r < c->n_rows; r++)
        if (c->indptr[r + 1] < c->indptr[r] || c->indptr[r + 1] > c->capacity)
            return saei_fail(err, SAE_E_ARG,
                             "indptr[%lld] = %lld after %lld, with capacity %lld: offsets must not fall or pass the capacity",
                             (long long)r + 1, (long long)c->indptr[r + 1], (long long)c->indptr[r], (long long)c->capacity);
    for (int64_t r = 0; r < c->n_rows; r++) {
        const sae_status status = check_row(c, r, model->parts.d_sae, err);
        if (status)
            return status;
    }
    return SAE_OK;
}
