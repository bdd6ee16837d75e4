#include "rows.h"

static sae_dtype dtype_of(const input *in, const array *a, sae_dtype bits)
{
    sae_dtype dtype = a->type == ELEM_U16 ? bits : elem_to_dtype(a->type);
    if (dtype == SAE_F32 && a->type == ELEM_U16) {
        die_usage("--dtype f32: %s holds 2-byte elements, which are f16 or bf16", in->name);
    }
    if (dtype == 0 && a->type == ELEM_U16) {
        die("%s: holds 2-byte integers ('%s'); if they are the bits of bfloat16, say --dtype bf16", in->name, a->stored);
    }
    if (dtype == 0) {
        die("%s: holds '%s'; rows are float32, float16 or bfloat16: convert them with x.astype('float32')", in->name, a->stored);
    }
    if (bits != 0 && dtype != bits) {
        die("%s: holds '%s', not the %s that --dtype expects", in->name, a->stored, sae_dtype_name(bits));
    }
    return dtype;
}

/* How many leading dimensions count rows: all but the last, or all but the last two when only these make d. */
static int row_dims(const array *a, int64_t d)
{
    int n = a->ndim;
    if (n >= 1 && a->shape[n - 1] == d) {
        return n - 1;
    }
    int64_t pair;
    bool heads = n >= 2 && !__builtin_mul_overflow(a->shape[n - 1], a->shape[n - 2], &pair) && pair == d;
    return heads ? n - 2 : -1;
}

rows rows_open(const char *path, const char *tensor, sae_dtype bits, int64_t d, const char *what)
{
    input *in = input_open(path);
    int i = input_choose(in, tensor, "--tensor");
    rows r = {.in = in, .a = &in->arrays[i], .n_rows = 1};
    r.dtype = dtype_of(in, r.a, bits);
    int dims = row_dims(r.a, d);
    if (dims < 0) {
        die("%s: shape %s has no rows of %lld elements, the %s of this SAE", in->name, array_shape(r.a).text, (long long)d, what);
    }
    for (int k = 0; k < dims; k++) {
        r.n_rows *= r.a->shape[k]; /* cannot overflow: the product of the whole shape did not */
    }
    r.row_bytes = (size_t)d * sae_dtype_bytes(r.dtype);
    input_start(in, i);
    return r;
}

int64_t rows_block(const rows *r)
{
    enum { BYTES = 16 << 20, LEAST = 64, MOST = 4096 };
    int64_t n = (int64_t)(BYTES / r->row_bytes) / LEAST * LEAST;
    return n < LEAST ? LEAST : n > MOST ? MOST : n;
}

int64_t rows_get(rows *r, void *buf, int64_t n)
{
    if (n > r->n_rows - r->done) {
        n = r->n_rows - r->done;
    }
    input_get(r->in, buf, (size_t)n * r->row_bytes);
    r->done += n;
    return n;
}

void rows_close(rows *r)
{
    input_close(r->in);
}

float *vector_read(const char *path, int64_t d, const char *what)
{
    input *in = input_open(path);
    int i = input_choose(in, NULL, NULL);
    const array *a = &in->arrays[i];
    uint64_t count = 0, bytes;
    array_count(a, &count, &bytes);
    if (a->type != ELEM_F32) {
        die("%s: holds '%s'; a vector is float32", in->name, a->stored);
    }
    if (count != (uint64_t)d) {
        die("%s: shape %s is not a vector of %lld elements, the %s of this SAE", in->name, array_shape(a).text, (long long)d, what);
    }
    float *v = input_all(in, i);
    input_close(in);
    return v;
}
