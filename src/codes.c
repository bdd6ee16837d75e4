#include "codes.h"

#include <stdlib.h>
#include <string.h>

#include "session.h"

/* A one-dimensional array of the file, by name. */
static int vector_find(const input *in, const char *name, uint64_t *count)
{
    int i = input_find(in, name);
    uint64_t bytes;
    if (i >= 0 && (in->arrays[i].ndim != 1 || !array_count(&in->arrays[i], count, &bytes))) {
        die("%s: '%s' has shape %s, one dimension was expected", in->name, name, array_shape(&in->arrays[i]).text);
    }
    return i;
}

static void *integers(input *in, int i, const char *name, bool wide, uint64_t count)
{
    elem type = in->arrays[i].type;
    if (type != ELEM_I32 && type != ELEM_I64) {
        die("%s: '%s' holds '%s', int32 or int64 was expected", in->name, name, in->arrays[i].stored);
    }
    void *stored = input_all(in, i);
    if ((type == ELEM_I64) == wide) {
        return stored;
    }
    void *other = take((size_t)count, wide ? sizeof(int64_t) : sizeof(int32_t));
    for (uint64_t k = 0; k < count; k++) {
        int64_t v = wide ? ((int32_t *)stored)[k] : ((int64_t *)stored)[k];
        if (wide) {
            ((int64_t *)other)[k] = v;
        } else if (v < 0 || v > INT32_MAX) {
            die("%s: '%s' element %llu is %lld, no feature", in->name, name, (unsigned long long)k, (long long)v);
        } else {
            ((int32_t *)other)[k] = (int32_t)v;
        }
    }
    free(stored);
    return other;
}

static float *floats(input *in, int i, const char *name, uint64_t count, uint64_t wanted)
{
    if (in->arrays[i].type != ELEM_F32) {
        die("%s: '%s' holds '%s', float32 was expected", in->name, name, in->arrays[i].stored);
    }
    if (count != wanted) {
        die("%s: '%s' has %llu elements, %llu were expected", in->name, name, (unsigned long long)count, (unsigned long long)wanted);
    }
    return input_all(in, i);
}

static float *optional(input *in, const char *name, uint64_t wanted)
{
    uint64_t count;
    int i = vector_find(in, name, &count);
    return i >= 0 ? floats(in, i, name, count, wanted) : NULL;
}

static void check_shape(input *in, int64_t n_rows, int64_t d_sae)
{
    uint64_t count;
    int i = vector_find(in, "shape", &count);
    if (i < 0) {
        return;
    }
    int64_t *shape = integers(in, i, "shape", true, count);
    int64_t n = count == 2 ? shape[0] : -1, features = count == 2 ? shape[1] : -1;
    free(shape);
    if (count != 2) {
        die("%s: 'shape' has %llu elements, 2 were expected", in->name, (unsigned long long)count);
    }
    if (n != n_rows) {
        die("%s: 'shape' says %lld rows, 'indptr' %lld", in->name, (long long)n, (long long)n_rows);
    }
    if (features != d_sae) {
        die("%s: holds codes of %lld features, this SAE has d_sae = %lld", in->name, (long long)features, (long long)d_sae);
    }
}

static void check_format(input *in)
{
    int i = input_find(in, "format");
    if (i >= 0 && in->arrays[i].type == ELEM_S3) {
        char *text = input_all(in, i);
        if (memcmp(text, "csr", 3) != 0) {
            die("%s: is a sparse matrix in format '%.3s'; save it as csr", in->name, text);
        }
        free(text);
    }
}

static sae_codes sparse(input *in, int64_t d_sae)
{
    sae_codes c = {.struct_size = sizeof c};
    uint64_t rows_1, n_indices, n_values;
    const char *values = input_find(in, "data") >= 0 ? "data" : "values";
    int p = vector_find(in, "indptr", &rows_1), i = vector_find(in, "indices", &n_indices), v = vector_find(in, values, &n_values);
    if (p < 0 || i < 0 || v < 0) {
        die("%s: holds no codes: indptr, indices and data (or values) were expected", in->name);
    }
    check_format(in);
    if (rows_1 == 0) {
        die("%s: 'indptr' is empty; it has one element more than there are rows", in->name);
    }
    c.n_rows = (int64_t)rows_1 - 1;
    c.capacity = (int64_t)n_indices;
    check_shape(in, c.n_rows, d_sae);
    c.indptr = integers(in, p, "indptr", true, rows_1);
    for (uint64_t r = 0; r < rows_1; r++) {
        if (c.indptr[r] < (r > 0 ? c.indptr[r - 1] : 0) || (r == 0 && c.indptr[0] != 0)) {
            die("%s: 'indptr' element %llu is %lld: it ascends from 0", in->name, (unsigned long long)r, (long long)c.indptr[r]);
        }
    }
    if (c.indptr[c.n_rows] != c.capacity) {
        die("%s: 'indptr' ends at %lld, but there are %lld indices", in->name, (long long)c.indptr[c.n_rows], (long long)c.capacity);
    }
    c.indices = integers(in, i, "indices", false, n_indices);
    c.values = floats(in, v, values, n_values, n_indices);
    c.row_scale = optional(in, "row_scale", (uint64_t)c.n_rows);
    c.row_shift = optional(in, "row_shift", (uint64_t)c.n_rows);
    return c;
}

static sae_codes dense(input *in, int which, int64_t d_sae)
{
    const array *a = &in->arrays[which];
    uint64_t count = 0, bytes;
    array_count(a, &count, &bytes);
    if (a->type != ELEM_F32 || a->ndim < 1 || a->shape[a->ndim - 1] != d_sae) {
        die("%s: shape %s of '%s' is no dense array of codes; float32 [n_rows][%lld] was expected", in->name, array_shape(a).text,
            a->stored, (long long)d_sae);
    }
    sae_codes c = {.struct_size = sizeof c, .n_rows = (int64_t)(count / (uint64_t)d_sae)};
    c.indptr = take((size_t)c.n_rows + 1, sizeof *c.indptr);
    c.indptr[0] = 0;
    float *line = take((size_t)d_sae, sizeof *line);
    int64_t n = 0;
    input_start(in, which);
    for (int64_t r = 0; r < c.n_rows; r++) {
        input_get(in, line, (size_t)d_sae * sizeof *line);
        for (int64_t k = 0; k < d_sae; k++) {
            if (line[k] == 0) { /* NaN is kept, and refused by the library */
                continue;
            }
            if (n == c.capacity) {
                c.capacity = 2 * c.capacity + 1024;
                c.indices = retake(c.indices, (size_t)c.capacity, sizeof *c.indices);
                c.values = retake(c.values, (size_t)c.capacity, sizeof *c.values);
            }
            c.indices[n] = (int32_t)k;
            c.values[n++] = line[k];
        }
        c.indptr[r + 1] = n;
    }
    free(line);
    return c;
}

sae_codes codes_read(const char *path, int64_t d_sae)
{
    input *in = input_open(path);
    sae_codes c = in->n == 1 ? dense(in, 0, d_sae) : sparse(in, d_sae);
    input_close(in);
    return c;
}

sae_codes codes_slice(const sae_codes *all, int64_t first, int64_t n, int64_t *indptr)
{
    sae_codes c = *all;
    int64_t base = all->indptr[first];
    for (int64_t r = 0; r <= n; r++) {
        indptr[r] = all->indptr[first + r] - base;
    }
    c.n_rows = n;
    c.capacity = indptr[n];
    c.indptr = indptr;
    c.indices = all->indices != NULL ? all->indices + base : NULL;
    c.values = all->values != NULL ? all->values + base : NULL;
    c.row_scale = all->row_scale != NULL ? all->row_scale + first : NULL;
    c.row_shift = all->row_shift != NULL ? all->row_shift + first : NULL;
    return c;
}

sae_codes codes_room(int64_t n_rows)
{
    sae_codes c = {.struct_size = sizeof c, .capacity = 64 * n_rows};
    c.indptr = take((size_t)n_rows + 1, sizeof *c.indptr);
    c.indices = take((size_t)c.capacity, sizeof *c.indices);
    c.values = take((size_t)c.capacity, sizeof *c.values);
    c.row_scale = take((size_t)n_rows, sizeof *c.row_scale);
    c.row_shift = take((size_t)n_rows, sizeof *c.row_shift);
    return c;
}

void codes_encode(sae_codes *out, sae_ctx *ctx, const sae_rows *x, const char *about)
{
    sae_status status = sae_encode(ctx, out, x);
    if (status == SAE_E_CAPACITY) { /* indptr is complete and says what is needed */
        out->capacity = out->indptr[x->n_rows] + out->indptr[x->n_rows] / 4;
        out->indices = retake(out->indices, (size_t)out->capacity, sizeof *out->indices);
        out->values = retake(out->values, (size_t)out->capacity, sizeof *out->values);
        status = sae_encode(ctx, out, x);
    }
    expect_ctx_ok(status, ctx, about);
}

void codes_free(sae_codes *c)
{
    free(c->indptr);
    free(c->indices);
    free(c->values);
    free(c->row_scale);
    free(c->row_shift);
}
