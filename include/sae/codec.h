/* Encode rows to sparse codes, probe single features, decode codes to rows, do both, measure the reconstruction. */
#ifndef SAE_CODEC_H
#define SAE_CODEC_H

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct sae_ctx sae_ctx;

/* Sparse codes of n_rows rows, compressed sparse rows (scipy.sparse.csr_matrix takes the three arrays as they are).
 * All arrays are the caller's. Indices ascend within a row; every value is finite and not 0. */
typedef struct sae_codes {
    uint32_t struct_size;
    uint32_t reserved; /* 0 */
    int64_t n_rows;
    int64_t capacity; /* elements of indices and of values */
    int64_t *indptr;  /* [n_rows + 1]; row r is indices[indptr[r]] .. indices[indptr[r+1] - 1] */
    int32_t *indices; /* [capacity], feature ids in 0 .. d_sae - 1 */
    float *values;    /* [capacity] */
    float *row_scale; /* [n_rows] or NULL: what un-normalises a decoded row, y * row_scale + row_shift. Written by encode, */
    float *row_shift; /* [n_rows] or NULL: read by decode. Needed for SAE_NORM_CONSTANT and SAE_NORM_LAYER, else ignored */
} sae_codes;

typedef struct sae_ctx_options {
    uint32_t struct_size;
    int32_t max_rows; /* rows worked on at once, 1 .. 64; 0 = 64. Calls may bring any number; results do not depend on it.
                         A temporal SAE: the longest sequence, 1 .. 65536; 0 = 1024. A call's rows are one sequence */
    int32_t screen;   /* with SAE_PREPARE_SCREEN, the same bits: SAE_YES for all rows that it holds for, SAE_NO never, SAE_DEFAULT where
                         that is faster */
} sae_ctx_options;

/* Bytes that sae_ctx_create will ask of the allocator (most of it is touched only when many features are active at once). */
SAE_API sae_status sae_ctx_bytes(const sae_model *model, const sae_ctx_options *opt, size_t *out);

/* Scratch for one caller at a time. `opt` NULL = defaults. Prepares nothing. Errors: SAE_E_NOMEM, SAE_E_ARG, SAE_E_VERSION. */
SAE_API sae_status sae_ctx_create(sae_ctx **out, sae_model *model, const sae_ctx_options *opt, sae_error *err);

/* Sentence of the last failed call on this ctx, "" if the last call succeeded. Valid until the next call. */
SAE_API const char *sae_ctx_error(const sae_ctx *ctx);

/* Pre-activations of the last encode or probe on this ctx that were not finite, and therefore inactive. */
SAE_API int64_t sae_ctx_nonfinite(const sae_ctx *ctx);

/* How the rows of all encodes on a ctx, forward passes and probes that encode included, came to their codes. With several threads, whether a
 * row with many candidates is left to a dense encode may differ from run to run; its codes do not. */
typedef struct sae_ctx_counts {
    uint32_t struct_size;
    uint32_t reserved;     /* 0 */
    int64_t rows_screened; /* by SAE_PREPARE_SCREEN */
    int64_t rows_dense;    /* by all dots: nothing prepared, or a screen that did not pay or does not hold for the row */
    int64_t candidates;    /* features of the screened rows whose exact dots were taken */
    int64_t active;        /* codes of the screened rows */
} sae_ctx_counts;

/* Fills `out` (set out->struct_size first). Not while a call on the ctx runs. Errors: SAE_E_ARG. */
SAE_API sae_status sae_ctx_count(const sae_ctx *ctx, sae_ctx_counts *out);

SAE_API void sae_ctx_free(sae_ctx *ctx);

/* Encodes x [n_rows][d_in] to sparse codes. `out->n_rows` is set to x->n_rows; indptr must have room for it.
 * Errors: SAE_E_CAPACITY (indptr is complete, so indptr[n_rows] says what is needed; indices and values are undefined; repeat with
 * larger arrays; k * n_rows elements are enough where sae_info has a k, d_sae * n_rows always), SAE_E_SHAPE (a sequence of a temporal
 * SAE longer than max_rows), SAE_E_ARG, SAE_E_VERSION, SAE_E_BUSY, SAE_E_HOST. */
SAE_API sae_status sae_encode(sae_ctx *ctx, sae_codes *out, const sae_rows *x);

/* The same codes written densely: out [n_rows][d_sae] f32, 0 where a feature is inactive. out_stride_bytes 0 = contiguous.
 * Errors: as sae_encode, without SAE_E_CAPACITY. */
SAE_API sae_status sae_encode_dense(sae_ctx *ctx, float *out, int64_t out_stride_bytes, const sae_rows *x);

/* Decodes to y [n_rows][d_out]: acc = b_dec; for ascending indices: acc = fma(f, W_dec row, acc); then un-normalised, then
 * converted to y->dtype once. y->n_rows must equal codes->n_rows.
 * Errors: SAE_E_ARG (indices out of range or not ascending, indptr not monotone, a normalising SAE without row_scale and
 * row_shift), SAE_E_SHAPE, SAE_E_VERSION, SAE_E_BUSY, SAE_E_HOST. y is untouched on error, but for SAE_E_HOST. */
SAE_API sae_status sae_decode(sae_ctx *ctx, const sae_rows *y, const sae_codes *codes);

/* y [n_rows][d_out] = the SAE's own output for rows x [n_rows][d_in]: what sae_encode and sae_decode give (to the bit, where y is f32), and
 * what the codes do not carry: x W_skip of a transcoder with a skip, added last to the un-normalised row, and what a temporal SAE predicts,
 * (codes + predicted codes) W_dec + b_dec. sae_decode alone lacks both.
 * Where y and x share memory they must be the same rows, of one stride, dtype and d. Counts non-finite pre-activations as sae_encode does.
 * Errors: SAE_E_ARG, SAE_E_SHAPE, SAE_E_VERSION, SAE_E_BUSY, SAE_E_HOST (rows of y before the failing ones are written). */
SAE_API sae_status sae_forward(sae_ctx *ctx, const sae_rows *y, const sae_rows *x);

/* How well codes explain x [n_rows][d_out]:
 *   error [n_rows]  squared L2 error of each row, ||x - x_hat||^2 (x_hat in f32; differences and sum one double chain)
 *   fvu             may be NULL: fraction of variance unexplained over these rows, sum of errors / sum ||x - mean(x)||^2, mean over
 *                   the rows of this call (as sparsify and SAELens evals); NaN when the rows do not vary
 * Errors: as sae_decode; SAE_E_UNSUPPORTED for an SAE whose codes are not all that it says of a row (a skip, a temporal SAE): compare x with
 * what sae_forward gives. */
SAE_API sae_status sae_measure(sae_ctx *ctx, float *error, double *fvu, const sae_rows *x, const sae_codes *codes);

/* A few named features, gathered and packed when created: probing costs one chain of d_in FMAs for up to 16 features and never
 * an encode (except where features compete, see below). */
typedef struct sae_probe sae_probe;

/* Gathers `features` [n_features] (1 .. d_sae, any order, repeats allowed) with plain reads, not through the mapping.
 * Errors: SAE_E_ARG (a feature out of range, by position), SAE_E_UNSUPPORTED (a temporal SAE), SAE_E_IO, SAE_E_FORMAT
 * (non-finite weights), SAE_E_NOMEM. */
SAE_API sae_status sae_probe_create(sae_probe **out, sae_model *model, const int32_t *features, int64_t n_features, sae_error *err);

/* Elements of a row, its model's d_in; and features. 0 for NULL. */
SAE_API int32_t sae_probe_d(const sae_probe *probe);
SAE_API int64_t sae_probe_features(const sae_probe *probe);

SAE_API void sae_probe_free(sae_probe *probe);

/* flags of sae_probe_run */
enum {
    SAE_PROBE_PRE = 1 /* not the codes but what features are judged by: h; gated: the gate's u + b_gate; top-k by decoder norm: h * norm */
};

/* Codes of the probed features for x [n_rows][d_in]: out [n_rows][n_features] f32, bit-equal to what sae_encode publishes, 0 where
 * inactive. Where features compete (top-k, abs-top-k, groupmax, matching pursuit) each row is encoded in full; SAE_PROBE_PRE avoids that.
 * `ctx` must belong to the probe's model. out_stride_bytes 0 = contiguous.
 * Errors: SAE_E_ARG, SAE_E_VERSION, SAE_E_BUSY, SAE_E_HOST. */
SAE_API sae_status sae_probe_run(const sae_probe *probe, sae_ctx *ctx, float *out, int64_t out_stride_bytes, const sae_rows *x,
                                 uint32_t flags);

#ifdef __cplusplus
}
#endif
#endif
