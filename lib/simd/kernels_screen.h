/* The kernels of screened encodes around the product of bytes, a part of kernels_tmpl.h: rows into bytes, and what the sums bound. */
#ifndef SAEI_KERNELS_SCREEN_H
#define SAEI_KERNELS_SCREEN_H

#include <math.h>
#include <string.h>

enum { PART = 16 /* elements of a row at a time: loops over them become vectors */ };

/* PART elements of x less the centre, the n < PART last ones with zeros. */
INLINE void less_centre(double z[PART], double raw[PART], const float *x, const float *centre, size_t n)
{
    float part[PART] = {0}, c[PART] = {0};
    memcpy(part, x, n * sizeof *x);
    if (centre)
        memcpy(c, centre, n * sizeof *c);
    for (int i = 0; i < PART; i++) {
        raw[i] = (double)part[i];
        z[i] = raw[i] - (double)c[i];
    }
}

INLINE double sum_of(const double part[PART])
{
    double sum = 0.0;
    for (int i = 0; i < PART; i++)
        sum += part[i];
    return sum;
}

INLINE void lengths_part(double xs[PART], double zs[PART], double most[PART], const float *x, const float *centre, size_t n)
{
    double z[PART], raw[PART];
    less_centre(z, raw, x, centre, n);
    for (int i = 0; i < PART; i++) {
        xs[i] += raw[i] * raw[i];
        zs[i] += z[i] * z[i];
        most[i] = fabs(z[i]) > most[i] ? fabs(z[i]) : most[i];
    }
}

/* 4 or 8 bytes an element, from L1 and L2. */
static saei_lengths row_lengths(const float *x, const float *centre, size_t d)
{
    double xs[PART] = {0}, zs[PART] = {0}, most[PART] = {0}, largest = 0.0;
    size_t k = 0;
    for (; k + PART <= d; k += PART)
        lengths_part(xs, zs, most, x + k, centre ? centre + k : NULL, PART);
    if (k < d)
        lengths_part(xs, zs, most, x + k, centre ? centre + k : NULL, d - k);
    for (int i = 0; i < PART; i++)
        largest = most[i] > largest ? most[i] : largest;
    return (saei_lengths){sum_of(xs), sum_of(zs), largest};
}

/* Partial sums of a row's planes. */
typedef struct plane_sums {
    double coarse[PART], fine[PART];
    int32_t first[PART], second[PART];
} plane_sums;

INLINE void planes_part(plane_sums *s, int8_t *first, int8_t *second, const float *x, const float *centre, size_t n, double scale,
                        double inverse)
{
    double z[PART], raw[PART];
    int32_t high[PART], low[PART];
    less_centre(z, raw, x, centre, n);
    for (int i = 0; i < PART; i++) {
        const double q = saei_to_integer(z[i] * inverse);
        const int32_t v = (int32_t)q, h = (v + 128) >> 8, l = v - h * 256;
        const double lost = z[i] - scale * q, lost_first = z[i] - scale * (double)(h * 256);
        s->fine[i] += lost * lost;
        s->coarse[i] += lost_first * lost_first;
        s->first[i] += h;
        s->second[i] += l;
        high[i] = h;
        low[i] = l;
    }
    for (int i = 0; i < PART; i++) /* by itself, so that the loop above has wide vectors */
        first[i] = (int8_t)high[i];
    for (int i = 0; i < PART; i++)
        second[i] = (int8_t)low[i];
}

/* 4 or 8 bytes an element read, 2 written, in L1 and L2. */
static saei_planes row_planes(int8_t *first, size_t first_step, int8_t *second, size_t second_step, const float *x, const float *centre,
                              size_t d, double scale)
{
    const double inverse = scale > 0.0 ? 1.0 / scale : 0.0;
    plane_sums s = {{0}, {0}, {0}, {0}};
    saei_planes out = {0};
    for (size_t k = 0; k < d; k += PART, first += first_step, second += second_step) {
        if (k + PART <= d)
            planes_part(&s, first, second, x + k, centre ? centre + k : NULL, PART, scale, inverse);
        else
            planes_part(&s, first, second, x + k, centre ? centre + k : NULL, d - k, scale, inverse);
    }
    for (int i = 0; i < PART; i++) {
        out.first += s.first[i];
        out.second += s.second[i];
    }
    out.coarse = sum_of(s.coarse);
    out.fine = sum_of(s.fine);
    return out;
}

static void int8_columns(int32_t *c, size_t ldc, const uint8_t *columns, size_t n_columns, const int8_t *x, size_t planes, size_t d16,
                         const uint8_t *next, size_t lanes)
{
    int8_product(c, ldc, columns, n_columns, x, planes, d16, next, lanes);
}

static void int8_pairs(int32_t *c, const uint8_t *columns, const int32_t *ids, const int8_t *const *x, size_t n, size_t d16)
{
    int8_pairs_product(c, columns, ids, x, n, d16);
}

INLINE V ints_part(const int32_t *p, int32_t less, size_t n)
{
    return n == VN ? v_ints(p, less) : v_ints_n(p, less, n);
}

/* U of n <= VN features; i counts from j0. */
INLINE V bound_of(const int32_t *first, const int32_t *second, size_t i, size_t n, size_t j0, const saei_bound *b, const saei_span *x)
{
    const size_t j = j0 + i;
    V sums = ints_part(first + i, x->first_offset, n);
    if (second)
        sums = v_fma(sums, v_set1(256.0f), ints_part(second + i, x->second_offset, n));
    const V lost = v_fma(load_part(b->error + j, n), v_set1(x->norm), v_mul(load_part(b->norm + j, n), v_set1(x->slack)));
    return v_add(v_fma(v_mul(load_part(b->scale + j, n), v_set1(x->scale)), sums, lost), load_part(b->top + j, n));
}

/* 4 or 8 bytes of sums and 16 of vectors a feature, from L1 and L2: a few percent of the product. */
static void bounds(float *u, const int32_t *first, const int32_t *second, size_t n, size_t j0, const saei_bound *bound, const saei_span *x)
{
    for (size_t i = 0; i < n; i += VN) {
        const size_t have = saei_min(VN, n - i);
        store_part(u + i, bound_of(first, second, i, have, j0, bound, x), have);
    }
}

static size_t screen(int32_t *ids, const int32_t *first, const int32_t *second, size_t n, size_t j0, const saei_bound *bound,
                     const saei_span *x)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i += VN) {
        const size_t have = saei_min(VN, n - i);
        const uint32_t all = (uint32_t)(((uint64_t)1 << have) - 1);
        const V u = bound_of(first, second, i, have, j0, bound, x);
        const uint32_t below = bound->threshold ? v_lt(u, load_part(bound->threshold + j0 + i, have)) : 0;
        for (uint32_t on = ~(below | v_lt(u, v_set1(x->floor))) & all; on; on &= on - 1)
            ids[m++] = (int32_t)(j0 + i) + __builtin_ctz(on);
    }
    return m;
}

#endif
