#include "base/base.h"

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
