/* Status codes, error texts, element types, rows. */
#ifndef SAE_BASE_H
#define SAE_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SAE_API __attribute__((visibility("default")))
#else
#define SAE_API
#endif

/* Result of every function that can fail. Numbers are frozen: codes are added at the end, never renumbered.
 * Fixed width: enums below only name the values. */
typedef int32_t sae_status;

enum {
    SAE_OK = 0,             /* done */
    SAE_E_ARG = -1,         /* the call is wrong (NULL, unknown constant, index out of range): mend the caller */
    SAE_E_NOMEM = -2,       /* the allocator gave nothing: free memory and try again */
    SAE_E_VERSION = -3,     /* the caller was built for a newer library: update libsae or drop the new field */
    SAE_E_UNSUPPORTED = -4, /* valid, but not in this build or not on this processor: see the sentence */
    SAE_E_SHAPE = -5,       /* sizes do not fit this model: see the sentence for both numbers */
    SAE_E_FORMAT = -6,      /* the file is damaged, or says what cannot be true: get a good copy */
    SAE_E_IO = -7,          /* the system refused to open, read or map: see the sentence */
    SAE_E_HOST = -8,        /* the host's own hook failed: parallel-for returned non-zero */
    SAE_E_BUSY = -9,        /* this ctx is inside another call: use one ctx per caller; a catalog's file is in use by another program */
    SAE_E_CAPACITY = -10    /* the caller's arrays are too small: the needed size has been written, grow and repeat */
};

/* Why a call failed: the caller's own struct, may be NULL wherever it is asked for. `text` is one sentence with names and
 * numbers, always terminated; it is empty, and `status` SAE_OK, after success. */
typedef struct sae_error {
    uint32_t struct_size; /* sizeof(sae_error); a smaller one gets a shorter sentence, 0 is taken as sizeof(sae_error) of 0.1 */
    sae_status status;
    char text[248];
} sae_error;

/* Element types of rows and weights. Conversion from f16 and bf16 to f32 is exact; back is round to nearest, ties to even. */
typedef int32_t sae_dtype;

enum {
    SAE_F32 = 1, /* IEEE binary32 */
    SAE_F16 = 2, /* IEEE binary16 */
    SAE_BF16 = 3 /* the upper half of a binary32 */
};

/* Choices that have a default: the zero of an options struct leaves the decision to the file. */
enum { SAE_DEFAULT = 0, SAE_YES = 1, SAE_NO = 2 };

/* A batch of rows in the caller's memory: row r starts at (char *)x + r * stride_bytes and holds d contiguous elements, where d
 * is d_in or d_out of the model it meets. Read by encode and probe, written by decode, edited in place by steering. */
typedef struct sae_rows {
    uint32_t struct_size;
    sae_dtype dtype;      /* SAE_F32, SAE_F16 or SAE_BF16 */
    void *x;              /* first row; functions that only read never write through it */
    int64_t stride_bytes; /* between rows, may be negative; 0 = contiguous */
    int64_t n_rows;       /* 0 is legal and does nothing */
    const int32_t *slot;  /* [n_rows], steering only: which slot's edits a row gets, -1 = leave untouched. NULL = all 0 */
} sae_rows;

/* Version of the library at run time: major << 16 | minor << 8 | patch. Compare with the SAE_VERSION_* of the header. */
SAE_API uint32_t sae_version(void);

/* One static English sentence for a status, never NULL ("unknown status" for numbers the library does not know). */
SAE_API const char *sae_status_text(sae_status status);

/* Name of the constant, "SAE_E_SHAPE"; static, never NULL. */
SAE_API const char *sae_status_name(sae_status status);

/* Bytes of one element (4 or 2), 0 for an unknown dtype. */
SAE_API size_t sae_dtype_bytes(sae_dtype dtype);

/* "f32", "f16" or "bf16"; "unknown" otherwise. Static, never NULL. */
SAE_API const char *sae_dtype_name(sae_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
