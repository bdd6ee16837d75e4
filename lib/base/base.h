/* Things every folder needs: error sentences, checked sizes, reading of options structs, half floats, UTF-8, matrix views. */
#ifndef SAEI_BASE_H
#define SAEI_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sae/base.h"

/* Fills the caller's sae_error (may be NULL) and gives `status` back, so that a function can end with
 * `return saei_fail(err, SAE_E_SHAPE, "W_dec has %d rows, cfg.json says d_sae = %d", a, b);`. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
sae_status
saei_fail(sae_error *err, sae_status status, const char *fmt, ...);

/* SAE_OK and an empty sentence. */
sae_status saei_ok(sae_error *err);

/* Reads a struct that opens with struct_size: copies min(sizes) bytes to dst (dst_bytes, zeroed first). An unknown tail that is
 * not zero is SAE_E_VERSION, a struct_size of 0 or one that does not cover its own first field SAE_E_ARG. `name` is for the sentence. */
sae_status saei_read_struct(void *dst, size_t dst_bytes, const void *src, const char *name, sae_error *err);

/* Writes back min(sizes) bytes of an out struct whose struct_size the caller set. */
sae_status saei_write_struct(void *dst, const void *src, size_t src_bytes, const char *name, sae_error *err);

/* Checked arithmetic on sizes: false on overflow, and *out is then SIZE_MAX. */
bool saei_mul(size_t *out, size_t a, size_t b);
bool saei_add(size_t *out, size_t a, size_t b);

static inline size_t saei_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Lays out several arrays in one block: adds `bytes` rounded up to 64 to *total and returns the offset, or SIZE_MAX when a size
 * overflowed (then *total is SIZE_MAX for good). */
size_t saei_reserve(size_t *total, size_t n, size_t each);

/* Exact widening, and rounding to nearest even. The portable reference of the kernels' row conversions. */
float saei_f16_to_f32(uint16_t h);
uint16_t saei_f32_to_f16(float f);
float saei_bf16_to_f32(uint16_t h);
uint16_t saei_f32_to_bf16(float f);

/* exp in double by our own series, the same bits on every machine; relative error < 1e-15, 0 and +Inf at the ends, NaN stays. */
double saei_exp(double x);

/* Bytes of the UTF-8 character at s, of which `left` > 0 are there; 0 when it is none (cut, overlong, a surrogate, above U+10FFFF). */
size_t saei_utf8_length(const unsigned char *s, size_t left);

/* Is all of it UTF-8? */
bool saei_utf8(const char *text, size_t bytes);

/* One element of any dtype at any alignment. */
float saei_load(const void *p, sae_dtype dtype);

/* A checked sae_rows. */
typedef struct saei_rows {
    unsigned char *x;
    int64_t stride;
    int64_t n;
    sae_dtype dtype;
    const int32_t *slot;
} saei_rows;

/* Checks and reads the caller's struct; d = elements per row. `in_place` refuses rows that overlap. */
sae_status saei_rows_read(saei_rows *out, const sae_rows *rows, int32_t d, bool in_place, sae_error *err);
void *saei_rows_at(const saei_rows *rows, int64_t r);

/* A matrix somewhere in memory, seen by feature: row i holds feature i's d weights. */
typedef struct saei_matrix {
    const void *data; /* any alignment */
    sae_dtype dtype;
    bool by_cols; /* false: stored [n][d]; true: stored [d][n] */
    int32_t n;
    int32_t d;
} saei_matrix;

/* Copies feature i as f32 [d]. */
void saei_matrix_row(float *out, const saei_matrix *m, int32_t i);

/* Sum of squares of feature i's weights, and of a vector: one double chain in index order. */
double saei_matrix_row_square(const saei_matrix *m, int32_t i);
double saei_matrix_add_square(double sum, const saei_matrix *m, int32_t i); /* the chain goes on from `sum` */
double saei_square(const float *x, size_t n);

/* 1 / length of a row; 0 where it has none: a row that writes nothing, or so little that a float does not hold the inverse. */
float saei_inverse(float length);

#endif
