/* Dense products with packed weights, y = x W^T + bias: what an engine's own linear layers need. Weights are packed once, rows come by
 * the call, in the engine's memory and on its threads.
 *
 * Two backends. What each promises:
 *
 * SAE_GEMM_NATIVE: the numbers of sae.h. y[r][j] is one chain of fused multiply-adds over n_in in index order, then + bias[j]. A row has the
 * same bits in every batch, on any number of threads and on every instruction set. Running allocates nothing, takes no lock and makes no
 * system call. However weights are kept (sae_gemm_storage), each stands for one f32 number, and y is what those numbers give as f32 weights.
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

/* How a packed matrix keeps its weights, which is also what a call reads of memory. */
typedef int32_t sae_gemm_storage;

enum {
    SAE_GEMM_AS_F32 = 0,     /* widened exactly: 4 bytes a weight */
    SAE_GEMM_AS_STORED = 1,  /* in its dtype: 2 bytes a weight for f16 and bf16, which stand for their exact values */
    SAE_GEMM_INT8_ROWS = 2,  /* 1 byte q a weight and an f32 scale a row: it stands for (float)q * scale, rounded to f32 */
    SAE_GEMM_INT8_BLOCKS = 3 /* the same with a scale for every SAE_GEMM_BLOCK weights of a row, the last of which may be fewer */
};

enum { SAE_GEMM_BLOCK = 32 };

/* A packed matrix: never changes after sae_gemm_pack, may be shared by any number of threads. */
typedef struct sae_gemm sae_gemm;

/* A matrix [n_out][n_in] as frameworks store the weight of a linear layer, and its bias. All arrays are copied.
 *
 * `gate`, a second matrix of the same kind, makes a gated layer of them: with h = x W^T + bias and g = x gate^T + gate_bias,
 * y = g / (1 + exp(-g)) * h, every operation rounded to f32; exp is within 1 ulp, and has the same bits on every instruction set. That is
 * the first half of a Llama's MLP, with w its up and gate its gate projection. A g below -88.7 gives a zero, of -Inf a NaN.
 *
 * Quantised weights come in one of two ways. With scales = NULL they are rounded here, from any dtype: of each row or block
 * scale = max |w| / 127.0f and q = w / scale, rounded to nearest even, within -127 .. 127; 0 where scale is 0. With scales, w holds q as
 * int8_t and `dtype` is that of the scales, widened exactly: [n_out], or [n_out][ceil(n_in / SAE_GEMM_BLOCK)] for blocks. */
typedef struct sae_gemm_weights {
    uint32_t struct_size;
    sae_dtype dtype;      /* of w, with scales: of those */
    const void *w;        /* [n_out][n_in], any alignment */
    int64_t stride_bytes; /* from one row of w to the next: a multiple of the element size, >= n_in elements; 0 = contiguous */
    const float *bias;    /* [n_out], NULL = none */
    int32_t n_out;        /* >= 1 */
    int32_t n_in;         /* >= 1 */
    sae_gemm_storage storage;
    int32_t block_bytes;     /* SAE_GEMM_INT8_BLOCKS with scales: from one block of a row to the next, both of w and of scales, whose rows
                                are then stride_bytes apart too. 34, with scales at the first block and w 2 bytes behind it, takes Q8_0 as
                                GGUF files hold it. 0 = each array is contiguous but for stride_bytes of w */
    const void *scales;      /* NULL = w holds dtype */
    const void *gate;        /* [n_out][n_in] as w, NULL = none */
    const void *gate_scales; /* as scales, for gate */
    const float *gate_bias;  /* [n_out], NULL = none */
} sae_gemm_weights;

/* Packs weights into panels (BLIS: into contiguous f32 rows, which it packs again in every call), with the env's parallel-for. Values
 * are not checked: NaN and Inf go through to y, as far as the storage can hold them. The env lives at least as long as the matrix.
 * Errors: SAE_E_ARG (NULL, unknown dtype, backend or storage, n_out or n_in < 1, a stride that does not fit, scales without an int8 storage,
 * block_bytes or gate_scales that do not fit, NaN or Inf where it rounds to int8, by row), SAE_E_UNSUPPORTED (SAE_GEMM_BLIS in a build without
 * it, or with weights that are not kept in f32), SAE_E_NOMEM, SAE_E_HOST, SAE_E_VERSION. */
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

/* What happens to a result before it is written, in this order:
 * 1. y = y + residual. It has any dtype, and may be y itself (the same x, stride_bytes and dtype) but may not overlap y otherwise.
 * 2. y = y <= threshold ? +0 : y. Zeros make a ReLU; a NaN stays. */
typedef struct sae_gemm_epilogue {
    uint32_t struct_size;
    uint32_t reserved;        /* 0 */
    const sae_rows *residual; /* [n_rows][n_out], NULL = none */
    const float *threshold;   /* [n_out], NULL = none */
} sae_gemm_epilogue;

/* sae_gemm_run and then `epilogue`; NULL = nothing. Errors: those of sae_gemm_run, SAE_E_ARG (residual of unknown dtype, or that overlaps y),
 * SAE_E_SHAPE (residual and y differ in n_rows): y is untouched. */
SAE_API sae_status sae_gemm_run_with(const sae_gemm *gemm, const sae_rows *x, const sae_rows *y, const sae_gemm_epilogue *epilogue,
                                     void *scratch, size_t scratch_bytes, sae_error *err);

/* What a packed matrix is. */
typedef struct sae_gemm_form {
    uint32_t struct_size;
    sae_gemm_backend backend; /* the one in use, never SAE_GEMM_AUTO */
    int32_t n_out;
    int32_t n_in;
    int64_t packed_bytes;     /* all that sae_gemm_pack took from the env's allocator */
    sae_gemm_storage storage; /* SAE_GEMM_AS_F32 where SAE_GEMM_AS_STORED was asked for and the weights are f32 */
    int32_t gated;            /* SAE_YES or SAE_NO */
} sae_gemm_form;

/* Fills `out` (set out->struct_size first). Errors: SAE_E_ARG. */
SAE_API sae_status sae_gemm_info(const sae_gemm *gemm, sae_gemm_form *out);

/* SAE_YES if this build has the BLIS backend, else SAE_NO. */
SAE_API int32_t sae_gemm_blis_available(void);

/* "native", "blis", "auto"; "unknown" otherwise. Static, never NULL. */
SAE_API const char *sae_gemm_backend_name(sae_gemm_backend backend);

/* "f32", "stored", "int8 rows", "int8 blocks"; "unknown" otherwise. Static, never NULL. */
SAE_API const char *sae_gemm_storage_name(sae_gemm_storage storage);

SAE_API void sae_gemm_free(sae_gemm *gemm);

#ifdef __cplusplus
}
#endif
#endif
