/* Dense products with packed weights, y = x W^T + bias: what an engine's own linear layers need. Weights are packed once, rows come by
 * the call, in the engine's memory and on its threads.
 *
 * Two backends. What each promises:
 *
 * SAE_GEMM_NATIVE: the numbers of sae.h. y[r][j] is one chain of fused multiply-adds over n_in in index order, then + bias[j]. A row has the
 * same bits in every batch, on any number of threads and on every instruction set. Running allocates nothing, takes no lock and makes no
 * system call.
 *
 * SAE_GEMM_BLIS: the BLIS library (github.com/flame/blis), where this build has it. On one machine a row has the same bits in every batch and
 * on any number of threads; another processor or another BLIS gives others. It breaks rules that sae.h states for everything else: it takes
 * memory from malloc, not from the env, in sae_gemm_pack and whenever more threads than before are inside it; it takes a lock around its
 * buffers; it keeps them, and what it knows of the processor, in globals until the process ends; it reads the environment (BLIS_*) when it
 * is first used; and it aborts when malloc gives nothing. It is used where a caller names it or lets SAE_GEMM_AUTO choose, and never for
 * codes. */
#ifndef SAE_GEMM_H
#define SAE_GEMM_H

#include "env.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which code computes the products. */
typedef int32_t sae_gemm_backend;

enum {
    SAE_GEMM_NATIVE = 0,
    SAE_GEMM_BLIS = 1, /* SAE_E_UNSUPPORTED in builds without it */
    SAE_GEMM_AUTO = 2  /* BLIS where it is built in and the env has only the scalar kernels, else native */
};

/* A packed matrix: never changes after sae_gemm_pack, may be shared by any number of threads. */
typedef struct sae_gemm sae_gemm;

/* A matrix [n_out][n_in] as frameworks store the weight of a linear layer, and its bias. Both are copied. */
typedef struct sae_gemm_weights {
    uint32_t struct_size;
    sae_dtype dtype;      /* of w */
    const void *w;        /* [n_out][n_in], any alignment */
    int64_t stride_bytes; /* from one row of w to the next: a multiple of the element size, >= n_in elements; 0 = contiguous */
    const float *bias;    /* [n_out], NULL = none */
    int32_t n_out;        /* >= 1 */
    int32_t n_in;         /* >= 1 */
} sae_gemm_weights;

/* Packs weights into f32 panels (BLIS: into contiguous f32 rows, which it packs again in every call), with the env's parallel-for. Values
 * are not checked: NaN and Inf go through to y. The env lives at least as long as the matrix.
 * Errors: SAE_E_ARG (NULL, unknown dtype or backend, n_out or n_in < 1, a stride that does not fit), SAE_E_UNSUPPORTED (SAE_GEMM_BLIS in a
 * build without it), SAE_E_NOMEM, SAE_E_HOST, SAE_E_VERSION. */
SAE_API sae_status sae_gemm_pack(sae_gemm **out, sae_env *env, const sae_gemm_weights *weights, sae_gemm_backend backend, sae_error *err);

/* Bytes of scratch that sae_gemm_run needs for up to `n_rows` rows with this matrix; above 512 rows no more than for 512. It grows with
 * n_in and the env's max_workers: an engine takes the largest of its layers. Errors: SAE_E_ARG (NULL, n_rows < 0). */
SAE_API sae_status sae_gemm_scratch_bytes(const sae_gemm *gemm, int64_t n_rows, size_t *out);

/* y [n_rows][n_out] = x [n_rows][n_in] W^T + bias, with the env's parallel-for over tiles of n_out and of rows; no sum is split across
 * tasks. x has any dtype, widened exactly; y is SAE_F32. Both may have any alignment and stride; slot is not looked at. The bytes from the
 * first to the last element of x, those of y, and scratch may not overlap. `scratch` needs no alignment and serves one call at a time.
 * Errors: SAE_E_ARG (NULL, unknown dtype, y not f32, x and y overlap, rows of y overlap), SAE_E_SHAPE (x and y differ in n_rows),
 * SAE_E_CAPACITY (scratch too small), SAE_E_VERSION: y is untouched. SAE_E_HOST: y is undefined. */
SAE_API sae_status sae_gemm_run(const sae_gemm *gemm, const sae_rows *x, const sae_rows *y, void *scratch, size_t scratch_bytes,
                                sae_error *err);

/* What a packed matrix is. */
typedef struct sae_gemm_form {
    uint32_t struct_size;
    sae_gemm_backend backend; /* the one in use, never SAE_GEMM_AUTO */
    int32_t n_out;
    int32_t n_in;
    int64_t packed_bytes; /* all that sae_gemm_pack took from the env's allocator */
} sae_gemm_form;

/* Fills `out` (set out->struct_size first). Errors: SAE_E_ARG. */
SAE_API sae_status sae_gemm_info(const sae_gemm *gemm, sae_gemm_form *out);

/* SAE_YES if this build has the BLIS backend, else SAE_NO. */
SAE_API int32_t sae_gemm_blis_available(void);

/* "native", "blis", "auto"; "unknown" otherwise. Static, never NULL. */
SAE_API const char *sae_gemm_backend_name(sae_gemm_backend backend);

SAE_API void sae_gemm_free(sae_gemm *gemm);

#ifdef __cplusplus
}
#endif
#endif
