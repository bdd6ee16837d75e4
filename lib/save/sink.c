#include "save/sink.h"

#include <math.h>
#include <string.h>

enum {
    PIECE = 1 << 20,   /* bytes per write of what needs no change */
    BUFFER = 4 << 20,  /* bytes that are put in order at once ... */
    ROWS = 16,         /* ... or so many rows, that reading across them fills cache lines, ... */
    LARGEST = 64 << 20 /* ... up to this */
};

sae_status saei_sink_bytes(saei_sink *sink, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    while (bytes) {
        const size_t n = bytes < PIECE ? bytes : PIECE;
        const sae_status status = saei_out_write(sink->out, p, sink->at, n, sink->err);
        if (status)
            return status;
        if (sink->seen)
            sink->seen(sink->state, p, n);
        sink->at += n;
        p += n;
        bytes -= n;
    }
    return SAE_OK;
}

size_t saei_sink_matrix_bytes(const saei_matrix *m, sae_dtype dtype)
{
    return (size_t)m->n * (size_t)m->d * sae_dtype_bytes(dtype); /* checked in f32 when the model was made */
}

/* What is to be written, as rows of `width` elements; `across` when the matrix lies the other way. */
typedef struct order {
    const saei_matrix *m;
    sae_dtype dtype;
    bool across, by_cols;
    size_t height, width;
} order;

typedef struct tile {
    size_t row, rows, column, columns;
} tile;

static const unsigned char *source(const order *o, size_t row, size_t column)
{
    const size_t at = o->across ? column * o->height + row : row * o->width + column;
    return (const unsigned char *)o->m->data + at * sae_dtype_bytes(o->m->dtype);
}

static bool store(unsigned char *to, float v, sae_dtype dtype)
{
    const uint16_t half = dtype == SAE_F16 ? saei_f32_to_f16(v) : saei_f32_to_bf16(v);
    if (dtype == SAE_F32) {
        memcpy(to, &v, sizeof v);
        return true;
    }
    memcpy(to, &half, sizeof half);
    return isfinite(saei_load(to, dtype)) || !isfinite(v);
}

static sae_status too_large(const saei_sink *sink, const order *o, const char *name, size_t row, size_t column)
{
    return saei_fail(sink->err, SAE_E_UNSUPPORTED, "%s is %g at feature %zu, element %zu, which %s cannot hold: choose another dtype", name,
                     (double)saei_load(source(o, row, column), o->m->dtype), o->by_cols ? column : row, o->by_cols ? row : column,
                     sae_dtype_name(o->dtype));
}

/* Fills the buffer with a tile, a square at a time, so that both sides stay in the cache. */
static sae_status fill(unsigned char *buffer, const saei_sink *sink, const order *o, const tile *t, const char *name)
{
    enum { SQUARE = 32 };
    const size_t each = sae_dtype_bytes(o->dtype);
    const bool same = o->dtype == o->m->dtype;
    for (size_t r0 = 0; r0 < t->rows; r0 += SQUARE)
        for (size_t c0 = 0; c0 < t->columns; c0 += SQUARE)
            for (size_t r = r0; r < t->rows && r < r0 + SQUARE; r++)
                for (size_t c = c0; c < t->columns && c < c0 + SQUARE; c++) {
                    unsigned char *to = buffer + (r * t->columns + c) * each;
                    const unsigned char *from = source(o, t->row + r, t->column + c);
                    if (same && each == sizeof(float))
                        memcpy(to, from, sizeof(float));
                    else if (same)
                        memcpy(to, from, sizeof(uint16_t));
                    else if (!store(to, saei_load(from, o->m->dtype), o->dtype))
                        return too_large(sink, o, name, t->row + r, t->column + c);
                }
    return SAE_OK;
}

/* Whole rows while they fit, else stretches of one. */
static sae_status reorder(saei_sink *sink, const order *o, unsigned char *buffer, size_t bytes, const char *name)
{
    const size_t each = sae_dtype_bytes(o->dtype), room = bytes / each;
    const size_t columns = o->width < room ? o->width : room, rows = columns < o->width ? 1 : room / o->width;
    for (size_t row = 0; row < o->height; row += rows)
        for (size_t column = 0; column < o->width; column += columns) {
            const tile t = {row, o->height - row < rows ? o->height - row : rows, column,
                            o->width - column < columns ? o->width - column : columns};
            sae_status status = fill(buffer, sink, o, &t, name);
            if (!status)
                status = saei_sink_bytes(sink, buffer, t.rows * t.columns * each);
            if (status)
                return status;
        }
    return SAE_OK;
}

sae_status saei_sink_matrix(saei_sink *sink, const saei_matrix *m, bool by_cols, sae_dtype dtype, const char *name)
{
    const size_t whole = saei_sink_matrix_bytes(m, dtype), n = (size_t)m->n, d = (size_t)m->d;
    const order o = {m, dtype, by_cols != m->by_cols, by_cols, by_cols ? d : n, by_cols ? n : d};
    if (!o.across && dtype == m->dtype)
        return saei_sink_bytes(sink, m->data, whole);
    size_t bytes = ROWS * o.width * sae_dtype_bytes(dtype);
    bytes = bytes < BUFFER ? BUFFER : bytes > LARGEST ? LARGEST : bytes;
    bytes = bytes < whole ? bytes : whole;
    unsigned char *buffer = saei_alloc(sink->host, bytes);
    if (!buffer)
        return saei_fail(sink->err, SAE_E_NOMEM, "no memory to put %s in order (%zu bytes)", name, bytes);
    const sae_status status = reorder(sink, &o, buffer, bytes, name);
    saei_dealloc(sink->host, buffer, bytes);
    return status;
}
