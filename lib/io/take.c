/* Tensors of a store -> vectors and matrices of the parts. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "io/source.h"

static const char damaged[] = "the checkpoint is damaged";

/* ---- views ---- */

saei_array saei_view_at(const saei_array *a, int64_t i)
{
    saei_array view = *a;
    const size_t skip = (size_t)(i * a->stride[0]) * saei_element_bytes(a->element);
    view.n_dims--;
    for (uint32_t k = 0; k < view.n_dims; k++) {
        view.shape[k] = a->shape[k + 1];
        view.stride[k] = a->stride[k + 1];
    }
    view.data += skip;
    view.offset += skip;
    view.bytes -= skip;
    return view;
}

/* Products of sizes and strides are those of elements that are there, which memory bounds. */
bool saei_view_join(saei_array *out, const saei_array *a)
{
    size_t n = 0;
    *out = *a;
    if (a->n_dims < 2 || !saei_array_count(&n, a) || !n || a->stride[0] != a->shape[1] * a->stride[1])
        return false;
    out->n_dims--;
    out->shape[0] = a->shape[0] * a->shape[1];
    out->stride[0] = a->stride[1];
    for (uint32_t k = 1; k < out->n_dims; k++) {
        out->shape[k] = a->shape[k + 1];
        out->stride[k] = a->stride[k + 1];
    }
    return true;
}

/* ---- one tensor ---- */

sae_status saei_take_array(const saei_array **out, const saei_source *s, const char *name)
{
    *out = saei_store_find(&s->store, name);
    return *out ? SAE_OK : saei_fail(s->err, SAE_E_FORMAT, "%s has no tensor %s, which %s needs", s->file, name, s->what);
}

static sae_status check_float(const saei_source *s, const saei_array *a)
{
    return saei_element_is_float(a->element)
               ? SAE_OK
               : saei_fail(s->err, SAE_E_UNSUPPORTED, "%s has dtype %s, weights are read from floats of 64, 32, 16 and 8 bits", a->name,
                           a->dtype_name);
}

static const unsigned char *element_at(const saei_array *a, int64_t i, int64_t k)
{
    const int64_t at = i * a->stride[0] + (a->n_dims > 1 ? k * a->stride[1] : 0);
    return a->data + (size_t)at * saei_element_bytes(a->element);
}

/* Copies elements of a contiguous or strided vector by plain reads, so that a file that another program cuts meanwhile is an error, not a
 * signal; what was unpacked into memory is read there. */
static sae_status read_values(float *to, const saei_source *s, const saei_array *view, int32_t n)
{
    enum { STRETCH = 512 };
    const size_t each = saei_element_bytes(view->element);
    unsigned char buffer[STRETCH * 8];
    const saei_file *file = view->file < 0 ? NULL : &s->parts->files[view->file];
    for (int32_t i = 0; i < n;) {
        const bool dense = view->stride[0] == 1;
        const int32_t have = !dense ? 1 : n - i < STRETCH ? n - i : STRETCH;
        const size_t skip = (size_t)((int64_t)i * view->stride[0]) * each;
        const sae_status status = file ? saei_file_read(file, buffer, view->offset + skip, (size_t)have * each, s->err) : SAE_OK;
        if (status)
            return status;
        const unsigned char *from = file ? buffer : view->data + skip;
        for (int32_t k = 0; k < have; k++)
            to[i + k] = (float)saei_element_load(from + (size_t)k * each, view->element);
        i += have;
    }
    return SAE_OK;
}

static sae_status check_vector(const saei_source *s, const saei_array *view, int32_t n, const char *n_name)
{
    const sae_status status = check_float(s, view);
    if (status)
        return status;
    if (view->n_dims != 1)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s has %u dimensions, a vector has 1", s->file, view->name, (unsigned)view->n_dims);
    if (view->shape[0] != n)
        return saei_fail(s->err, SAE_E_FORMAT, "%s has %lld values, %s %s = %d", view->name, (long long)view->shape[0], s->sizes_from,
                         n_name, (int)n);
    return SAE_OK;
}

static sae_status read_finite(float *to, const saei_source *s, const saei_array *view, int32_t n)
{
    const sae_status status = read_values(to, s, view, n);
    for (int32_t i = 0; i < n && !status; i++)
        if (!isfinite(to[i]))
            return saei_fail(s->err, SAE_E_FORMAT, "%s: %s[%d] is %g, not a finite number: %s", s->file, view->name, (int)i, (double)to[i],
                             damaged);
    return status;
}

sae_status saei_take_into(float *to, const saei_source *s, const char *name, int32_t n, const char *n_name)
{
    const saei_array *a;
    sae_status status = saei_take_array(&a, s, name);
    if (!status)
        status = check_vector(s, a, n, n_name);
    return status ? status : read_finite(to, s, a, n);
}

sae_status saei_take_view_vector(float **out, saei_source *s, const saei_array *view, int32_t n, const char *n_name)
{
    sae_status status = check_vector(s, view, n, n_name);
    if (!status)
        status = saei_make_vector(out, s, n);
    return status ? status : read_finite(*out, s, view, n);
}

sae_status saei_take_vector(float **out, saei_source *s, const char *name, int32_t n, const char *n_name)
{
    const saei_array *a;
    const sae_status status = saei_take_array(&a, s, name);
    return status ? status : saei_take_view_vector(out, s, a, n, n_name);
}

sae_status saei_take_number(double *out, const saei_source *s, const char *name)
{
    const saei_array *a = saei_store_find(&s->store, name);
    const saei_value *v = a ? NULL : saei_store_value(&s->store, name);
    unsigned char element[8];
    size_t n = 1;
    if (v && v->is_number) {
        *out = v->number;
        return SAE_OK;
    }
    if (v)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is \"%.40s\", not a number", s->file, name, v->string);
    if (!a)
        return saei_fail(s->err, SAE_E_FORMAT, "%s has no %s, which %s needs", s->file, name, s->what);
    if (!saei_array_count(&n, a) || n != 1 || a->element == SAEI_OTHER)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is a tensor of %zu values of %s, not one number", s->file, name, n, a->dtype_name);
    const size_t each = saei_element_bytes(a->element);
    const sae_status status = a->file < 0 ? SAE_OK : saei_file_read(&s->parts->files[a->file], element, a->offset, each, s->err);
    if (!status)
        *out = saei_element_load(a->file < 0 ? a->data : element, a->element);
    return status;
}

sae_status saei_take_count(int64_t *out, const saei_source *s, const char *name)
{
    double number = 0.0;
    *out = 0;
    if (!saei_store_find(&s->store, name) && !saei_store_value(&s->store, name))
        return SAE_OK;
    const sae_status status = saei_take_number(&number, s, name);
    if (status)
        return status;
    if (!(number >= 0.0 && number <= INT32_MAX && number == floor(number)))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s = %g is no count", s->file, name, number);
    *out = (int64_t)number;
    return SAE_OK;
}

sae_status saei_take_raw(float **out, saei_source *s, const saei_array *a, int32_t n)
{
    saei_array flat = *a;
    size_t have = 0;
    sae_status status = check_float(s, a);
    if (status)
        return status;
    if (!saei_array_count(&have, a) || have != (size_t)n)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s has another number of values than %d, which belong there", s->file, a->name, (int)n);
    if (a->n_dims == 0)
        flat.stride[0] = 1;
    for (saei_array one = flat; flat.n_dims > 1; one = flat)
        if (!saei_view_join(&flat, &one))
            return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is not stored row by row", s->file, a->name);
    status = saei_make_vector(out, s, n);
    return status ? status : read_values(*out, s, &flat, n);
}

sae_status saei_take_filled(float **out, saei_source *s, const char *name, int32_t n)
{
    double value = 0.0;
    sae_status status = saei_take_number(&value, s, name);
    if (!status && !isfinite((float)value))
        status = saei_fail(s->err, SAE_E_FORMAT, "%s: %s is %g, not a finite number: %s", s->file, name, value, damaged);
    return status ? status : saei_fill_vector(out, s, n, value);
}

/* ---- matrices ---- */

static sae_status check_shape(const saei_source *s, const saei_array *a, bool by_cols, int32_t n, const char *n_name, int32_t d,
                              const char *d_name)
{
    const int32_t rows = by_cols ? d : n, columns = by_cols ? n : d;
    if (a->n_dims != 2)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s has %u dimensions, a matrix has 2", s->file, a->name, (unsigned)a->n_dims);
    if (a->shape[0] != rows)
        return saei_fail(s->err, SAE_E_FORMAT, "%s has %lld rows, %s %s = %d", a->name, (long long)a->shape[0], s->sizes_from,
                         by_cols ? d_name : n_name, (int)rows);
    if (a->shape[1] != columns)
        return saei_fail(s->err, SAE_E_FORMAT, "%s has %lld columns, %s %s = %d", a->name, (long long)a->shape[1], s->sizes_from,
                         by_cols ? n_name : d_name, (int)columns);
    return SAE_OK;
}

/* 1: the elements lie row by row without gaps; 2: column by column; 0: neither. */
static int order_of(const saei_array *a)
{
    const int64_t rows = a->shape[0], columns = a->shape[1];
    if ((a->stride[1] == 1 || columns == 1) && (a->stride[0] == columns || rows == 1))
        return 1;
    return (a->stride[0] == 1 || rows == 1) && (a->stride[1] == rows || columns == 1) ? 2 : 0;
}

static sae_status unpack(saei_tensor *out, saei_source *s, const saei_array *a)
{
    const size_t rows = (size_t)a->shape[0], columns = (size_t)a->shape[1];
    size_t bytes;
    float *to =
        saei_mul(&bytes, rows, columns) && saei_mul(&bytes, bytes, sizeof *to) ? saei_arena_alloc(&s->parts->memory, s->host, bytes) : NULL;
    if (!to)
        return saei_fail(s->err, SAE_E_NOMEM, "no memory to unpack %s (%zu x %zu floats)", a->name, rows, columns);
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < columns; k++)
            to[i * columns + k] = (float)saei_element_load(element_at(a, (int64_t)i, (int64_t)k), a->element);
    out->m.data = to;
    out->m.dtype = SAE_F32;
    out->file = -1;
    return SAE_OK;
}

/* Names outlive the store: the parts say them later. Data that the store unpacked moves into the parts when the store is given up. */
sae_status saei_take_view(saei_tensor *out, saei_source *s, const saei_array *view, bool by_cols, int32_t n, const char *n_name, int32_t d,
                          const char *d_name)
{
    sae_status status = check_float(s, view);
    if (status || (status = check_shape(s, view, by_cols, n, n_name, d, d_name)))
        return status;
    const int order = order_of(view);
    const sae_dtype dtype = saei_element_dtype(view->element);
    *out = (saei_tensor){.m = {view->data, dtype, order == 2 ? !by_cols : by_cols, n, d},
                         .name = saei_arena_text(&s->parts->memory, s->host, view->name, strlen(view->name)),
                         .file = view->file,
                         .offset = view->offset};
    if (!out->name)
        return saei_fail(s->err, SAE_E_NOMEM, "no memory for the name of %s", view->name);
    if (dtype && order)
        return SAE_OK;
    out->m.by_cols = by_cols;
    return unpack(out, s, view);
}

sae_status saei_take_matrix(saei_tensor *out, saei_source *s, const char *name, bool by_cols, int32_t n, const char *n_name, int32_t d,
                            const char *d_name)
{
    const saei_array *a;
    const sae_status status = saei_take_array(&a, s, name);
    return status ? status : saei_take_view(out, s, a, by_cols, n, n_name, d, d_name);
}

sae_status saei_take_shape(int32_t *rows, int32_t *columns, const saei_source *s, const char *name)
{
    const saei_array *a;
    const sae_status status = saei_take_array(&a, s, name);
    if (status)
        return status;
    if (a->n_dims != 2)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s has %u dimensions, a matrix has 2", s->file, name, (unsigned)a->n_dims);
    if (a->shape[0] < 1 || a->shape[0] > INT32_MAX || a->shape[1] < 1 || a->shape[1] > INT32_MAX)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is %lld x %lld, sizes are 1 .. %d", s->file, name, (long long)a->shape[0],
                         (long long)a->shape[1], INT32_MAX);
    *rows = (int32_t)a->shape[0];
    *columns = (int32_t)a->shape[1];
    return SAE_OK;
}

/* Adds the squares of one segment; a matrix stored by columns is read row by row, as it lies. */
static void add_squares(double *squares, const saei_segment *g)
{
    const saei_matrix *m = &g->w.m;
    const size_t each = sae_dtype_bytes(m->dtype);
    if (!m->by_cols) {
        for (int32_t j = 0; j < g->n; j++)
            squares[g->first + j] += saei_matrix_row_square(m, g->row_first + j * g->row_step);
        return;
    }
    for (size_t k = 0; k < (size_t)m->d; k++)
        for (size_t j = 0; j < (size_t)m->n; j++) {
            const double w = (double)saei_load((const unsigned char *)m->data + (k * (size_t)m->n + j) * each, m->dtype);
            squares[(size_t)g->first + j] += w * w;
        }
}

sae_status saei_decoder_norms(float **out, saei_source *s)
{
    const saei_parts *p = s->parts;
    double *squares = saei_arena_alloc(&s->memory, s->host, (size_t)p->d_sae * sizeof *squares);
    if (!squares)
        return saei_fail(s->err, SAE_E_NOMEM, "no memory for the norms of %d features", (int)p->d_sae);
    const sae_status status = saei_make_vector(out, s, p->d_sae);
    if (status)
        return status;
    memset(squares, 0, (size_t)p->d_sae * sizeof *squares);
    const saei_fpmode mode = saei_fp_enter();
    for (uint32_t i = 0; i < p->n_dec; i++)
        add_squares(squares, &p->dec[i]);
    for (int32_t j = 0; j < p->d_sae; j++)
        (*out)[j] = (float)sqrt(squares[j]);
    saei_fp_leave(mode);
    return SAE_OK;
}

/* ---- what a file may hold ---- */

sae_status saei_only(const saei_source *s, const char *const *names)
{
    char shown[SAEI_SHOWN];
    for (uint32_t i = 0; i < s->store.n_arrays; i++) {
        uint32_t k = 0;
        while (names[k] && strcmp(names[k], s->store.arrays[i].name) != 0)
            k++;
        if (!names[k])
            return saei_fail(s->err, SAE_E_FORMAT, "%s has a tensor \"%s\", which %s does not have", s->file,
                             saei_show(shown, s->store.arrays[i].name), s->what);
    }
    return SAE_OK;
}

float saei_threshold_over(float threshold, float scale)
{
    const double over = scale > 0.0f ? (double)threshold / (double)scale : (double)FLT_MAX;
    return over >= (double)FLT_MAX ? FLT_MAX : over <= -(double)FLT_MAX ? -FLT_MAX : (float)over;
}

sae_status saei_exp_vector(saei_source *s, float *v, int32_t n, const char *name)
{
    const saei_fpmode mode = saei_fp_enter();
    int32_t i = 0;
    float value = 0.0f;
    for (; i < n; i++) {
        value = (float)saei_exp((double)v[i]);
        if (!isfinite(value))
            break;
        v[i] = value;
    }
    saei_fp_leave(mode);
    return i == n ? SAE_OK
                  : saei_fail(s->err, SAE_E_FORMAT, "%s: %s[%d] = %g is the logarithm of no finite number: %s", s->file, name, (int)i,
                              (double)v[i], damaged);
}
