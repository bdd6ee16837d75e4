/* Every kernel of every table that this machine runs, against loops in plain C written from the promises of simd/kernels.h: all small
 * sizes and those around the tile sizes, every dtype, any alignment, edge values, memory fenced by pages that cannot be touched, bytes
 * around every output watched. Results must be equal to the bit (a NaN to any NaN).
 *
 * Error budget of a dot (panels, gemv_panels, gemv_cols, dot_rows, probe) and of combine against a sum in double:
 *     |result - exact| <= gamma_d * (|start| + sum |w x|) + d * 2^-150,   gamma_d = d u / (1 - d u), u = 2^-24.
 * The plain loop is held to it, and the kernels to the plain loop. The other kernels round at most once and have no budget: exact.
 *
 * Needs libc and the library's objects only, so that it runs anywhere, also under an emulator.
 *     test_kernels                       prints what failed, then "N passed, N failed"
 *     test_kernels --bench [isa [word]]  times the same kernels (those with the word in their name): ns, GB/s, GFLOP/s and percent of the
 *                                        ceilings, which are measured beside them */
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "simd/cpu.h"
#include "simd/kernels.h"
#include "simd/tables.h"

#define LENGTH(a) (sizeof(a) / sizeof *(a))

/* ---- the tables and the count ---- */

static const saei_kernels *tables[8];
static size_t n_tables;
static long n_passed, n_failed;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void
check(bool ok, const char *fmt, ...)
{
    if (ok) {
        n_passed++;
        return;
    }
    if (n_failed++ < 25) {
        va_list args;
        va_start(args, fmt);
        printf("FAIL ");
        vprintf(fmt, args);
        printf("\n");
        va_end(args);
    }
}

static void add_form(const saei_kernels *form, const saei_kernels *chosen)
{
    if (form && form != chosen)
        tables[n_tables++] = form;
}

/* The forms of a table that this processor runs but does not choose. */
static void add_other_forms(const saei_kernels *chosen)
{
    if (chosen->isa == SAE_ISA_AVX2)
        add_form(saei_table_avx2(), chosen);
    if (chosen->isa == SAE_ISA_AVX512)
        add_form(saei_table_avx512(), chosen);
    if (chosen->isa == SAE_ISA_NEON)
        add_form(saei_table_neon(), chosen);
    if (chosen->isa == SAE_ISA_NEON && saei_cpu_neon_dot())
        add_form(saei_table_neon_dot(), chosen);
}

static void find_tables(void)
{
    static const sae_isa isas[] = {SAE_ISA_SCALAR, SAE_ISA_NEON, SAE_ISA_AVX2, SAE_ISA_AVX512};
    for (size_t i = 0; i < LENGTH(isas); i++) {
        const saei_kernels *k = saei_kernels_for(isas[i]);
        check(!k == (sae_isa_available(isas[i]) == SAE_NO), "%s: table and sae_isa_available disagree", sae_isa_name(isas[i]));
        if (!k)
            continue;
        check(k->isa == isas[i], "the %s table says it is %s", sae_isa_name(isas[i]), sae_isa_name(k->isa));
        add_other_forms(k);
        tables[n_tables++] = k;
    }
    check(saei_kernels_for(SAE_ISA_AUTO) == tables[n_tables - 1], "AUTO is not the best table of this machine");
    check(!saei_kernels_for(7) && !saei_kernels_for(-1), "a table for an instruction set that does not exist");
}

/* A kernel in two tables would be one compiled with one set of flags for two. */
static void test_tables_differ(void)
{
    for (size_t a = 0; a < n_tables; a++)
        for (size_t b = 0; b < a && tables[a]->isa != tables[b]->isa; b++) {
#define DIFFER(ret, name, args)                                                                                                  \
    check(tables[a]->name != tables[b]->name, "%s is one function in the %s and %s tables", #name, sae_isa_name(tables[a]->isa), \
          sae_isa_name(tables[b]->isa));
            SAEI_KERNELS(DIFFER)
#undef DIFFER
        }
    for (size_t a = 0; a < n_tables; a++) {
#define PRESENT(ret, name, args) check(tables[a]->name != NULL, "%s is missing in the %s table", #name, sae_isa_name(tables[a]->isa));
        SAEI_KERNELS(PRESENT)
#undef PRESENT
    }
}

/* ---- numbers ---- */

static uint64_t rng_state = 1;

static uint32_t rng(void)
{
    uint64_t z = rng_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ z >> 31) >> 16);
}

static size_t below(size_t n)
{
    return n ? rng() % n : 0;
}

static float from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* What an array is filled with. */
typedef enum mix { PLAIN, TINY, BIG, ZEROS, ANY_FINITE, EDGES, N_MIXES } mix;

static float number(mix m)
{
    static const uint32_t edges[] = {0,          0x80000000, 1,          0x80000001, 0x007fffff, 0x00800000, 0x80800000, 0x3f800000,
                                     0xbf800000, 0x3f7fffff, 0x3f800001, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000};
    const float unit = (float)(int32_t)(rng() << 8) / 2147483648.0f;
    switch (m) {
    case TINY: /* products and sums are denormal */
        return from_bits((to_bits(unit) & 0x807fffffu) | (uint32_t)(60 + below(8)) << 23);
    case BIG:
        return from_bits((to_bits(unit) & 0x807fffffu) | (uint32_t)(180 + below(12)) << 23);
    case ZEROS:
        return rng() % 3 ? from_bits(rng() << 31) : unit;
    case ANY_FINITE: {
        const float f = from_bits(rng());
        return isfinite(f) ? f : unit;
    }
    case EDGES:
        return rng() % 4 ? unit : from_bits(edges[below(LENGTH(edges))]);
    default:
        return unit;
    }
}

static mix some_mix(void)
{
    return rng() % 2 ? PLAIN : (mix)below(N_MIXES);
}

static void fill(float *x, size_t n, mix m)
{
    for (size_t i = 0; i < n; i++)
        x[i] = number(m);
}

static bool same(float a, float b)
{
    return to_bits(a) == to_bits(b) || (isnan(a) && isnan(b));
}

/* ---- element types by arithmetic, independent of the library's bit shuffling ---- */

typedef struct format {
    int fraction_bits, min_exponent;
} format;

static format format_of(sae_dtype t)
{
    const format f16 = {10, -14}, bf16 = {7, -126};
    return t == SAE_F16 ? f16 : bf16;
}

static float value_of(uint16_t h, sae_dtype t)
{
    const format f = format_of(t);
    const int top = 15 - f.fraction_bits, e = (h & 0x7fff) >> f.fraction_bits, m = h & ((1 << f.fraction_bits) - 1);
    double v;
    if (e == (1 << top) - 1)
        v = m ? (double)NAN : (double)INFINITY;
    else
        v = ldexp(e ? m + (1 << f.fraction_bits) : m, (e ? e - 1 : 0) + f.min_exponent - f.fraction_bits);
    return (float)(h & 0x8000 ? -v : v);
}

static uint16_t half_of(float x, sae_dtype t) /* a NaN gives 0x7fff */
{
    const format f = format_of(t);
    const int top = 15 - f.fraction_bits, infinity = ((1 << top) - 1) << f.fraction_bits;
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    if (isnan(x))
        return 0x7fff;
    if (isinf(x))
        return (uint16_t)(sign | infinity);
    int e = x != 0.0f ? ilogb((double)x) : f.min_exponent;
    e = e < f.min_exponent ? f.min_exponent : e;
    const double steps = nearbyint(ldexp(fabs((double)x), f.fraction_bits - e)); /* carries into the exponent by itself */
    const double bits = ldexp(e - f.min_exponent, f.fraction_bits) + steps;
    return (uint16_t)(sign | (bits < infinity ? (int)bits : infinity));
}

static bool quiet_nan(uint16_t h, sae_dtype t)
{
    const format f = format_of(t);
    const int mask = 0x7fff & ~((1 << (f.fraction_bits - 1)) - 1);
    return (h & mask) == mask;
}

static size_t bytes_of(sae_dtype t)
{
    return t == SAE_F32 ? 4 : 2;
}

/* Stores x in t and leaves in x what was stored. */
static void store(void *p, size_t i, float *x, sae_dtype t)
{
    unsigned char *at = (unsigned char *)p + i * bytes_of(t);
    if (t == SAE_F32) {
        memcpy(at, x, 4);
        return;
    }
    const uint16_t h = half_of(*x, t);
    memcpy(at, &h, 2);
    *x = value_of(h, t);
}

static const sae_dtype dtypes[] = {SAE_F32, SAE_F16, SAE_BF16};

/* ---- memory between two pages that cannot be touched ---- */

enum { FENCE_BYTES = 1 << 21, MARGIN = 256, PAINT = 0xa5 };

typedef struct fence {
    unsigned char *low, *high;
} fence;

static fence fences[10];

static void fences_make(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < LENGTH(fences); i++) {
        unsigned char *p = mmap(NULL, FENCE_BYTES + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED || mprotect(p + page, FENCE_BYTES, PROT_READ | PROT_WRITE)) {
            perror("mmap");
            exit(2);
        }
        fences[i].low = p + page;
        fences[i].high = p + page + FENCE_BYTES;
    }
}

/* A block flush with one of the pages, or up to three units away from it. */
static void *place(int i, size_t bytes, size_t unit)
{
    const size_t gap = rng() % 2 ? 0 : below(4) * unit;
    if (bytes + MARGIN > FENCE_BYTES) {
        printf("a case needs a fence of %zu bytes\n", bytes);
        exit(2);
    }
    unsigned char *p = rng() % 2 ? fences[i].low + gap : fences[i].high - gap - bytes;
    return p - (uintptr_t)p % unit;
}

static float *floats(int i, size_t n)
{
    return place(i, n * sizeof(float), sizeof(float));
}

/* Outputs: the bytes around are painted, and must be so afterwards. */
typedef struct watch {
    unsigned char *at, *low, *high;
    size_t bytes;
} watch;

static watch watched(int i, size_t bytes, size_t unit)
{
    watch w = {place(i, bytes, unit), fences[i].low, fences[i].high, bytes};
    w.low = w.at - w.low > MARGIN ? w.at - MARGIN : w.low;
    w.high = w.high - (w.at + bytes) > MARGIN ? w.at + bytes + MARGIN : w.high;
    memset(w.low, PAINT, (size_t)(w.high - w.low));
    return w;
}

static bool clean(const watch *w)
{
    for (const unsigned char *p = w->low; p < w->high; p++)
        if ((p < w->at || p >= w->at + w->bytes) && *p != PAINT)
            return false;
    return true;
}

/* Plain memory for what is expected, all given back after each test. */
typedef struct scratch_block {
    struct scratch_block *before;
    size_t used, size;
    float data[];
} scratch_block;

static scratch_block *scratch_top;

static float *scratch(size_t n)
{
    if (!scratch_top || n > scratch_top->size - scratch_top->used) {
        const size_t size = n + (1 << 20);
        scratch_block *block = malloc(sizeof *block + size * sizeof(float));
        if (!block)
            exit(2);
        *block = (scratch_block){.before = scratch_top, .size = size};
        scratch_top = block;
    }
    float *p = scratch_top->data + scratch_top->used;
    scratch_top->used += n;
    memset(p, PAINT, n * sizeof *p);
    return p;
}

static void scratch_free(void)
{
    while (scratch_top) {
        scratch_block *before = scratch_top->before;
        free(scratch_top);
        scratch_top = before;
    }
}

/* What a kernel wrote, against what it should have: outside the watched bytes nothing, inside every float. `n` floats. */
static void check_floats(const saei_kernels *k, const char *kernel, const watch *w, const float *want, const char *shape)
{
    const float *got = (const float *)(const void *)w->at;
    size_t n = w->bytes / sizeof *got, i = 0;
    while (i < n && same(got[i], want[i]))
        i++;
    const bool tidy = clean(w);
    if (i < n)
        check(false, "%s %s (%s): element %zu is %a (%08x), not %a (%08x)", sae_isa_name(k->isa), kernel, shape, i, (double)got[i],
              (unsigned)to_bits(got[i]), (double)want[i], (unsigned)to_bits(want[i]));
    else
        check(tidy, "%s %s (%s): wrote outside its output", sae_isa_name(k->isa), kernel, shape);
}

static const char *shape(const char *fmt, ...)
{
    static char text[200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return text;
}

/* ---- the canonical dot in plain C, held to its error budget ---- */

static float chain(float start, const float *w, size_t w_step, const float *x, size_t x_step, size_t d)
{
    float acc = start;
    double exact = (double)start, size = fabs((double)start);
    for (size_t k = 0; k < d; k++) {
        acc = fmaf(w[k * w_step], x[k * x_step], acc);
        exact += (double)w[k * w_step] * (double)x[k * x_step];
        size += fabs((double)w[k * w_step] * (double)x[k * x_step]);
    }
    const double u = ldexp(1, -24), n = (double)d, budget = n * u / (1 - n * u) * size + n * ldexp(1, -150) + ldexp(n * size, -52);
    if (size < (double)FLT_MAX)
        check(fabs((double)acc - exact) <= budget, "the plain chain of %zu is off by %g, budget %g", d, fabs((double)acc - exact), budget);
    return acc;
}

/* Sizes: all up to two vectors of the widest table and three more, then around the tiles. */
static const size_t sizes[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18,  19,  20,  21,  22,  23, 24,
                               25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 47, 48, 49, 63, 64, 65, 97, 127, 128, 129, 191, 192, 193};
enum { N_SIZES = LENGTH(sizes) };

static size_t some_size(void)
{
    return sizes[below(N_SIZES)];
}

/* A matrix of the shapes asked for, at any address; `plain` holds it by feature, [n][d]. */
typedef struct matrix {
    saei_matrix m;
    float *plain;
} matrix;

static matrix matrix_make(int i, sae_dtype t, bool by_cols, size_t n, size_t d, mix values)
{
    matrix a = {{place(i, n * d * bytes_of(t), 1), t, by_cols, (int32_t)n, (int32_t)d}, scratch(n * d)};
    unsigned char *data = (unsigned char *)(uintptr_t)a.m.data;
    for (size_t j = 0; j < n; j++)
        for (size_t k = 0; k < d; k++) {
            a.plain[j * d + k] = number(values);
            store(data, by_cols ? k * n + j : j * d + k, &a.plain[j * d + k], t);
        }
    return a;
}

/* ---- conversions ---- */

static void widen_case(const uint16_t *halves, const float *values, sae_dtype t, size_t n)
{
    unsigned char *src = place(0, n * bytes_of(t), 1);
    memcpy(src, t == SAE_F32 ? (const void *)values : halves, n * bytes_of(t));
    float *want = scratch(n);
    for (size_t i = 0; i < n; i++)
        want[i] = t == SAE_F32 ? values[i] : value_of(halves[i], t);
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(1, n * sizeof(float), sizeof(float));
        tables[i]->widen((float *)(void *)w.at, src, t, n);
        check_floats(tables[i], "widen", &w, want, shape("%s n %zu", sae_dtype_name(t), n));
    }
}

static void test_widen(void)
{
    uint16_t *all = (uint16_t *)(void *)scratch(1 << 15);
    for (uint32_t h = 0; h < 1 << 16; h++)
        all[h] = (uint16_t)h;
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (size_t s = 0; s < N_SIZES; s++) {
            float *values = scratch(sizes[s]);
            fill(values, sizes[s], EDGES);
            widen_case(all + below((1 << 16) - 200), values, dtypes[t], sizes[s]);
        }
    widen_case(all, NULL, SAE_F16, 1 << 16);
    widen_case(all, NULL, SAE_BF16, 1 << 16);
}

static void narrow_case(const float *values, sae_dtype t, size_t n)
{
    float *src = floats(0, n);
    memcpy(src, values, n * sizeof *src);
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(1, n * bytes_of(t), 1);
        tables[i]->narrow(w.at, src, t, n);
        size_t bad = n;
        for (size_t j = 0; j < n; j++) {
            uint16_t h;
            memcpy(&h, w.at + 2 * j, t == SAE_F32 ? 0 : 2);
            const bool ok = t == SAE_F32 ? !memcmp(w.at + 4 * j, src + j, 4) : isnan(src[j]) ? quiet_nan(h, t) : h == half_of(src[j], t);
            bad = !ok && bad == n ? j : bad;
        }
        check(bad == n, "%s narrow (%s n %zu): element %zu, from %a", sae_isa_name(tables[i]->isa), sae_dtype_name(t), n, bad,
              bad < n ? (double)src[bad] : 0.0);
        check(clean(&w), "%s narrow (%s n %zu): wrote outside its output", sae_isa_name(tables[i]->isa), sae_dtype_name(t), n);
    }
}

/* Every half, the point midway to the next one, and the floats on both sides of that: all ties and what surrounds them. */
static void test_narrow_ties(sae_dtype t)
{
    enum { BATCH = 1 << 12 };
    float *x = scratch(4 * BATCH);
    for (uint32_t h0 = 0; h0 < 1 << 16; h0 += BATCH) {
        for (uint32_t i = 0; i < BATCH; i++) {
            const float a = value_of((uint16_t)(h0 + i), t), b = value_of((uint16_t)(h0 + i + 1), t);
            float mid = (float)(((double)a + (double)b) / 2);
            if (!isfinite(b) && isfinite(a)) /* half a step above the largest */
                mid = (float)((double)a + ((double)a - (double)value_of((uint16_t)(h0 + i - 1), t)) / 2);
            x[4 * i] = a;
            x[4 * i + 1] = mid;
            x[4 * i + 2] = nextafterf(mid, 0);
            x[4 * i + 3] = nextafterf(mid, copysignf(INFINITY, mid));
        }
        narrow_case(x, t, 4 * BATCH);
    }
}

static void test_narrow(void)
{
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (size_t s = 0; s < N_SIZES; s++) {
            float *values = scratch(sizes[s]);
            for (size_t i = 0; i < sizes[s]; i++) /* about the range of f16, any float, signalling NaNs */
                values[i] = rng() % 3 ? from_bits((rng() & 0x807fffffu) | (uint32_t)(98 + below(48)) << 23)
                                      : from_bits(rng() | (rng() % 8 ? 0 : 0x7f800000u));
            narrow_case(values, dtypes[t], sizes[s]);
        }
    test_narrow_ties(SAE_F16);
    test_narrow_ties(SAE_BF16);
}

static void test_nonfinite(void)
{
    static const uint32_t bad[] = {0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001};
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (size_t s = 0; s < N_SIZES; s++)
            for (int round = 0; round < 4; round++) {
                const size_t n = sizes[s], at = round ? below(n + 1) : n; /* at == n: all finite, a bad one right behind if there is room */
                unsigned char *src = place(0, n * bytes_of(dtypes[t]), 1);
                for (size_t i = 0; i < n; i++) {
                    float x = i == at || (i > at && rng() % 4 == 0) ? from_bits(bad[below(LENGTH(bad))]) : number(PLAIN);
                    if (i < at && rng() % 4 == 0)
                        x = dtypes[t] == SAE_F32 ? number(ANY_FINITE)
                                                 : value_of((uint16_t)(rng() & 0xbbff), dtypes[t]); /* up to near the largest */
                    store(src, i, &x, dtypes[t]);
                }
                for (size_t i = 0; i < n_tables; i++) {
                    const size_t got = tables[i]->nonfinite(src, dtypes[t], n);
                    check(got == at, "%s nonfinite (%s n %zu): %zu, not %zu", sae_isa_name(tables[i]->isa), sae_dtype_name(dtypes[t]), n,
                          got, at);
                }
            }
}

/* ---- packing ---- */

static void test_pack_rows(void)
{
    for (size_t s = 0; s < N_SIZES; s++)
        for (size_t n_rows = 0; n_rows <= 18; n_rows += 1 + below(3)) {
            const size_t d = sizes[s], ldx = d + below(3), groups = (n_rows + 7) / 8, n = groups * d * 8;
            float *x = floats(0, n_rows ? (n_rows - 1) * ldx + d : 0), *want = scratch(n);
            for (size_t r = 0; r < n_rows; r++)
                fill(x + r * ldx, d, EDGES);
            for (size_t r = 0; r < groups * 8; r++)
                for (size_t k = 0; k < d; k++)
                    want[(r / 8 * d + k) * 8 + r % 8] = r < n_rows ? x[r * ldx + k] : 0.0f;
            for (size_t i = 0; i < n_tables; i++) {
                const watch w = watched(1, n * sizeof(float), 64);
                tables[i]->pack_rows((float *)(void *)w.at, x, ldx, n_rows, d);
                check_floats(tables[i], "pack_rows", &w, want, shape("rows %zu d %zu", n_rows, d));
            }
        }
}

static void pack_panels_case(sae_dtype t, bool by_cols, size_t nj, size_t kc)
{
    const size_t j0 = below(20), k0 = below(20), n = j0 + nj + (rng() % 2 ? 0 : below(3)), d = k0 + kc + (rng() % 2 ? 0 : below(3));
    const matrix a = matrix_make(0, t, by_cols, n, d, EDGES);
    const size_t panels = (nj + 47) / 48, total = panels * kc * 48;
    float *want = scratch(total);
    for (size_t p = 0; p < panels; p++)
        for (size_t k = 0; k < kc; k++)
            for (size_t i = 0; i < 48; i++)
                want[(p * kc + k) * 48 + i] = p * 48 + i < nj ? a.plain[(j0 + p * 48 + i) * d + k0 + k] : 0.0f;
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(1, total * sizeof(float), 64);
        tables[i]->pack_panels((float *)(void *)w.at, &a.m, j0, nj, k0, kc);
        check_floats(tables[i], "pack_panels", &w, want, shape("%s by_cols %d nj %zu kc %zu", sae_dtype_name(t), by_cols, nj, kc));
    }
}

static void test_pack_panels(void)
{
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (int by_cols = 0; by_cols < 2; by_cols++)
            for (size_t s = 0; s < N_SIZES; s++) {
                pack_panels_case(dtypes[t], by_cols, sizes[s], sizes[below(36)]);
                pack_panels_case(dtypes[t], by_cols, some_size(), sizes[s]);
            }
}

static void test_pack_lanes(void)
{
    for (size_t s = 0; s < N_SIZES; s++) {
        const size_t n = sizes[s], d = some_size(), groups = (n + 15) / 16, total = groups * d * 16;
        float *src = floats(0, n * d), *want = scratch(total);
        fill(src, n * d, EDGES);
        for (size_t j = 0; j < groups * 16; j++)
            for (size_t k = 0; k < d; k++)
                want[(j / 16 * d + k) * 16 + j % 16] = j < n ? src[j * d + k] : 0.0f;
        for (size_t i = 0; i < n_tables; i++) {
            const watch w = watched(1, total * sizeof(float), 64);
            tables[i]->pack_lanes((float *)(void *)w.at, src, n, d);
            check_floats(tables[i], "pack_lanes", &w, want, shape("n %zu d %zu", n, d));
        }
    }
}

/* ---- products ---- */

static void panels_case(size_t n, size_t n_rows, size_t kc, bool resume)
{
    const size_t panel_stride = (48 * kc + 16 * below(3) + 15) / 16 * 16, xp_stride = (8 * kc + 16 * below(3) + 15) / 16 * 16;
    const size_t ldc = n + below(4), groups = (n_rows + 7) / 8, n_panels = (n + 47) / 48;
    const size_t w_floats = n_panels ? (n_panels - 1) * panel_stride + 48 * kc : 0,
                 x_floats = groups ? (groups - 1) * xp_stride + 8 * kc : 0;
    const size_t c_floats = n_rows ? (n_rows - 1) * ldc + n : 0;
    float *weights = place(0, w_floats * 4, 64), *xp = place(1, x_floats * 4, 64), *start = scratch(c_floats), *want = scratch(c_floats);
    fill(weights, w_floats, some_mix());
    const saei_ahead next = {weights, 64, below(1000)}; /* wherever: it is fetched, not read */
    fill(xp, x_floats, some_mix());
    fill(start, c_floats, EDGES);
    memcpy(want, start, c_floats * 4);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t j = 0; j < n; j++) {
            const size_t p = j / 48, i = j % 48;
            want[r * ldc + j] =
                chain(resume ? start[r * ldc + j] : 0.0f, weights + p * panel_stride + i, 48, xp + r / 8 * xp_stride + r % 8, 8, kc);
        }
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(2, c_floats * 4, 4);
        float *c = (float *)(void *)w.at;
        memcpy(c, start, c_floats * 4);
        tables[i]->panels(c, ldc, weights, panel_stride, n, xp, xp_stride, n_rows, kc, resume, i % 2 ? &next : NULL);
        check_floats(tables[i], "panels", &w, want, shape("features %zu rows %zu kc %zu resume %d", n, n_rows, kc, resume));
    }
}

/* Whole panels, or as many features as it comes. */
static size_t some_features(size_t panels)
{
    const size_t n = 48 * panels;
    return n && rng() % 2 ? n - below(48) : n;
}

static void test_panels(void)
{
    static const size_t depths[] = {0, 1, 2, 5, 16, 33};
    for (size_t n_rows = 0; n_rows <= 25; n_rows++)
        for (size_t k = 0; k < LENGTH(depths); k++)
            for (int resume = 0; resume < 2; resume++)
                panels_case(some_features(below(6)), n_rows, depths[k], resume);
    for (size_t n = 0; n <= 9 * 48; n += 1 + below(12))
        panels_case(n, 1 + below(9), 7, n % 2);
    panels_case(4 * 48, 64, 96, true);
    panels_case(4 * 48 - 1, 9, 384, false);
    panels_case(2 * 48, 17, 300, false);
}

static void test_gemv_panels(void)
{
    for (size_t n_panels = 0; n_panels <= 9; n_panels++)
        for (size_t s = 0; s < N_SIZES; s += 1 + below(2)) {
            const size_t n_rows = below(5), d = sizes[s], n = some_features(n_panels), ldx = d + below(4), ldc = n + below(4);
            const size_t c_floats = n_rows ? (n_rows - 1) * ldc + n : 0, n_weights = 48 * n_panels * d;
            float *weights = place(0, n_weights * 4, 64), *x = floats(1, n_rows ? (n_rows - 1) * ldx + d : 0), *want = scratch(c_floats);
            fill(weights, n_weights, some_mix());
            for (size_t r = 0; r < n_rows; r++) {
                fill(x + r * ldx, d, some_mix());
                for (size_t j = 0; j < n; j++)
                    want[r * ldc + j] = chain(0.0f, weights + j / 48 * d * 48 + j % 48, 48, x + r * ldx, 1, d);
            }
            for (size_t i = 0; i < n_tables; i++) {
                const watch w = watched(2, c_floats * 4, 4);
                tables[i]->gemv_panels((float *)(void *)w.at, ldc, weights, n, x, ldx, n_rows, d);
                check_floats(tables[i], "gemv_panels", &w, want, shape("features %zu rows %zu d %zu", n, n_rows, d));
            }
        }
}

/* Rows of x, and the canonical dots of all of them with features given by `ids`. */
typedef struct rows_case {
    float *x, *want;
    size_t ldx, ldc, c_floats;
} rows_case;

static rows_case rows_make(size_t n_rows, const matrix *a, const int32_t *ids, size_t n)
{
    const size_t d = (size_t)a->m.d;
    rows_case c = {NULL, NULL, d + below(3), n + below(3), 0};
    c.c_floats = n_rows ? (n_rows - 1) * c.ldc + n : 0;
    c.x = floats(1, n_rows ? (n_rows - 1) * c.ldx + d : 0);
    c.want = scratch(c.c_floats);
    for (size_t r = 0; r < n_rows; r++) {
        fill(c.x + r * c.ldx, d, some_mix());
        for (size_t i = 0; i < n; i++)
            c.want[r * c.ldc + i] = chain(0.0f, a->plain + (size_t)ids[i] * d, 1, c.x + r * c.ldx, 1, d);
    }
    return c;
}

static void gemv_cols_case(sae_dtype t, size_t n_rows, size_t nj, size_t d)
{
    const size_t j0 = below(40), n = j0 + nj + (rng() % 2 ? 0 : below(5));
    const matrix a = matrix_make(0, t, true, n, d, some_mix());
    int32_t *ids = (int32_t *)(void *)scratch(nj);
    for (size_t i = 0; i < nj; i++)
        ids[i] = (int32_t)(j0 + i);
    const rows_case c = rows_make(n_rows, &a, ids, nj);
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(2, c.c_floats * 4, 4);
        tables[i]->gemv_cols((float *)(void *)w.at, c.ldc, &a.m, j0, nj, c.x, c.ldx, n_rows);
        check_floats(tables[i], "gemv_cols", &w, c.want, shape("%s rows %zu nj %zu d %zu", sae_dtype_name(t), n_rows, nj, d));
    }
}

static void test_gemv_cols(void)
{
    static const size_t wide[] = {767, 768, 769, 1535, 1536, 1537, 3100};
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (size_t n_rows = 0; n_rows <= 4; n_rows++) {
            for (size_t s = 0; s < N_SIZES; s++) {
                gemv_cols_case(dtypes[t], n_rows, sizes[s], below(10));
                gemv_cols_case(dtypes[t], n_rows, below(40), sizes[s]);
            }
            gemv_cols_case(dtypes[t], n_rows, wide[below(LENGTH(wide))], 5 + below(9));
        }
}

static void dot_rows_case(sae_dtype t, size_t n_rows, size_t n, size_t d, bool scattered)
{
    const size_t j0 = below(9), have = j0 + n + (rng() % 2 ? 0 : below(4));
    const matrix a = matrix_make(0, t, false, have, d, some_mix());
    int32_t *ids = place(3, n * sizeof *ids, sizeof *ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(scattered ? rng() % 5 ? below(have) : have - 1 : j0 + i);
    const rows_case c = rows_make(n_rows, &a, ids, n);
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(2, c.c_floats * 4, 4);
        tables[i]->dot_rows((float *)(void *)w.at, c.ldc, &a.m, scattered ? ids : NULL, j0, n, c.x, c.ldx, n_rows);
        check_floats(tables[i], "dot_rows", &w, c.want,
                     shape("%s rows %zu n %zu d %zu ids %d", sae_dtype_name(t), n_rows, n, d, scattered));
    }
}

static void test_dot_rows(void)
{
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (size_t n_rows = 0; n_rows <= 4; n_rows++)
            for (size_t s = 0; s < N_SIZES; s++) {
                dot_rows_case(dtypes[t], n_rows, sizes[s], sizes[below(36)], s % 2);
                dot_rows_case(dtypes[t], n_rows, below(36), sizes[s], rng() % 2);
            }
}

static void probe_case(size_t n_rows, size_t n, size_t d)
{
    const size_t all = (n + 15) / 16 * 16, ldx = d + below(3), ldc = all + below(3), c_floats = n_rows ? (n_rows - 1) * ldc + all : 0;
    float *packed = place(0, all * d * 4, 64), *x = floats(1, n_rows ? (n_rows - 1) * ldx + d : 0), *want = scratch(c_floats);
    fill(packed, all * d, some_mix());
    for (size_t r = 0; r < n_rows; r++) {
        fill(x + r * ldx, d, some_mix());
        for (size_t j = 0; j < n; j++)
            want[r * ldc + j] = chain(0.0f, packed + j / 16 * d * 16 + j % 16, 16, x + r * ldx, 1, d);
    }
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(2, c_floats * 4, 4);
        tables[i]->probe((float *)(void *)w.at, ldc, packed, n, x, ldx, n_rows, d);
        for (size_t r = 0; r < n_rows; r++) /* scratch */
            memcpy(w.at + (r * ldc + n) * 4, want + r * ldc + n, (all - n) * 4);
        check_floats(tables[i], "probe", &w, want, shape("rows %zu features %zu d %zu", n_rows, n, d));
    }
}

static void test_probe(void)
{
    for (size_t n_rows = 0; n_rows <= 19; n_rows++)
        for (size_t n = 0; n <= 145; n += n < 35 ? 1 : 11)
            probe_case(n_rows, n, sizes[below(20)]);
    for (size_t s = 0; s < N_SIZES; s++) {
        probe_case(below(10), below(60), sizes[s]);
        probe_case(4 + below(40), 1 + below(8), sizes[s]);
    }
}

/* ---- codes ---- */

/* h on the threshold, one step to either side of it, or anywhere: here the kernels must agree with > to the bit. */
static float near(float threshold)
{
    switch (rng() % 6) {
    case 0:
        return threshold;
    case 1:
        return nextafterf(threshold, INFINITY);
    case 2:
        return nextafterf(threshold, -INFINITY);
    default:
        return number(EDGES);
    }
}

static float threshold_value(void)
{
    const float edges[] = {0.0f, -0.0f, FLT_TRUE_MIN, FLT_MIN, 0.25f, 1.0f, FLT_MAX, INFINITY};
    return rng() % 2 ? fabsf(number(PLAIN)) : edges[below(LENGTH(edges))];
}

static size_t plain_activate(int32_t *idx, float *val, const float *dots, size_t n, size_t j0, const saei_act *act, float floor_value,
                             size_t *bad)
{
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t j = j0 + i;
        float h, value, above = -INFINITY;
        if (act->gate) {
            h = dots[i] + act->gate[j];
            above = 0.0f;
            value = fmaf(dots[i], act->mag_scale[j], act->mag_bias[j]);
        } else {
            h = act->bias ? dots[i] + act->bias[j] : dots[i];
            value = h = act->key_scale ? h * act->key_scale[j] : h;
            above = act->threshold ? act->threshold[j] : -INFINITY;
        }
        if (!isfinite(h) || !isfinite(value)) {
            ++*bad;
        } else if (h > above && value > floor_value) {
            idx[m] = (int32_t)j;
            val[m++] = value;
        }
    }
    return m;
}

/* NEGATIVE: any threshold, and no floor. */
enum { HAS_BIAS = 1, HAS_THRESHOLD = 2, HAS_KEY = 4, HAS_FLOOR = 8, NEGATIVE = 16, N_FLAVOURS = 32 };

static void activate_case(size_t n, unsigned flavour, bool gated, mix values)
{
    const size_t j0 = below(50), all = j0 + n;
    const float floor_value = flavour & NEGATIVE ? -INFINITY : flavour & HAS_FLOOR ? threshold_value() : 0.0f;
    float *v[6];
    for (int i = 0; i < 6; i++) {
        v[i] = floats(3 + i, all);
        for (size_t j = 0; j < all; j++)
            v[i][j] = i == 1 ? threshold_value() * (flavour & NEGATIVE && below(2) ? -1.0f : 1.0f) : number(values);
    }
    const saei_act plain = {.bias = flavour & HAS_BIAS ? v[0] : NULL,
                            .threshold = flavour & HAS_THRESHOLD ? v[1] : NULL,
                            .key_scale = flavour & HAS_KEY ? v[2] : NULL,
                            .keeps_negative = flavour & NEGATIVE};
    const saei_act both = {.gate = v[3], .mag_scale = v[4], .mag_bias = v[5]};
    const saei_act *act = gated ? &both : &plain;
    float *dots = floats(0, n), *want_val = scratch(n);
    int32_t *want_idx = (int32_t *)(void *)scratch(n);
    for (size_t i = 0; i < n; i++) {
        const float above = gated ? -v[3][j0 + i] : plain.threshold ? v[1][j0 + i] : rng() % 2 ? floor_value : 0.0f;
        dots[i] = values == ZEROS ? (rng() % 40 ? -1.0f : 1.0f) : near(above); /* ZEROS: most are off */
    }
    size_t want_bad = 3;
    const size_t want = plain_activate(want_idx, want_val, dots, n, j0, act, floor_value, &want_bad);
    for (size_t i = 0; i < n_tables; i++) {
        const watch wi = watched(1, n * 4, 4), wv = watched(2, n * 4, 4);
        const int32_t *idx = (const int32_t *)(const void *)wi.at;
        const float *val = (const float *)(const void *)wv.at;
        size_t bad = 3, at = 0;
        const size_t got = tables[i]->activate((int32_t *)(void *)wi.at, (float *)(void *)wv.at, dots, n, j0, act, floor_value, &bad);
        while (at < want && at < got && idx[at] == want_idx[at] && same(val[at], want_val[at]))
            at++;
        check(got == want && at == want && bad == want_bad,
              "%s activate (n %zu flavour %u gated %d): %zu codes (%zu wanted), first wrong %zu, %zu bad (%zu)",
              sae_isa_name(tables[i]->isa), n, flavour, gated, got, want, at, bad, want_bad);
        check(clean(&wi) && clean(&wv), "%s activate (n %zu flavour %u gated %d): wrote outside its output", sae_isa_name(tables[i]->isa),
              n, flavour, gated);
    }
}

static void test_activate(void)
{
    for (size_t s = 0; s < N_SIZES; s++) {
        for (unsigned flavour = 0; flavour < N_FLAVOURS; flavour++)
            activate_case(sizes[s], flavour, false, (mix[]){PLAIN, EDGES, ZEROS}[below(3)]);
        for (unsigned round = 0; round < 4; round++)
            activate_case(sizes[s], round % 2 * HAS_FLOOR, true, (mix[]){PLAIN, EDGES, ZEROS}[below(3)]);
    }
}

static void combine_case(sae_dtype t, size_t n, size_t d, int init_kind)
{
    const size_t rows = 1 + below(20);
    const matrix a = matrix_make(0, t, false, rows, d, some_mix());
    int32_t *ids = place(3, n * sizeof *ids, sizeof *ids);
    float *coef = floats(4, n), *init = floats(5, d), *want = scratch(d);
    fill(coef, n, some_mix());
    fill(init, d, EDGES);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)below(rows);
    float *column = scratch(n);
    for (size_t k = 0; k < d; k++) {
        for (size_t i = 0; i < n; i++)
            column[i] = a.plain[(size_t)ids[i] * d + k];
        want[k] = chain(init_kind ? init[k] : 0.0f, coef, 1, column, 1, n);
    }
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(2, d * 4, 4);
        float *out = (float *)(void *)w.at;
        if (init_kind == 2)
            memcpy(out, init, d * 4);
        tables[i]->combine(out, init_kind == 2 ? out : init_kind ? init : NULL, &a.m, ids, coef, n);
        check_floats(tables[i], "combine", &w, want, shape("%s terms %zu d %zu init %d", sae_dtype_name(t), n, d, init_kind));
    }
}

static void test_combine(void)
{
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (int init_kind = 0; init_kind < 3; init_kind++)
            for (size_t s = 0; s < N_SIZES; s++) {
                combine_case(dtypes[t], below(12), sizes[s], init_kind);
                combine_case(dtypes[t], sizes[s], some_size(), init_kind);
            }
    for (size_t d = 255; d < 600; d += 86) /* more than one register block */
        combine_case(SAE_F32, 5, d, 1);
}

/* ---- kept weights ---- */

static const char *keep_name(saei_keep as)
{
    return as == SAEI_KEEP_BF16 ? "bf16" : as == SAEI_KEEP_F16 ? "f16" : "int8";
}

/* Panels of any bits of the form; `plain` [48 * n_panels][d] holds what each weight stands for. Padding behind the chain is a NaN that
 * may be read and not used. */
typedef struct kept {
    saei_kept w;
    float *plain;
} kept;

static size_t kept_panel(saei_keep as, size_t d, size_t block)
{
    const size_t head = as == SAEI_KEEP_INT8 ? (d + block - 1) / block * 192 : 0;
    return as == SAEI_KEEP_BF16 ? (d + 1) / 2 * 192 : as == SAEI_KEEP_F16 ? d * 96 : head + d * 48;
}

static unsigned char *kept_element(unsigned char *panel, saei_keep as, size_t block, size_t k, size_t i)
{
    if (as == SAEI_KEEP_BF16)
        return panel + ((k / 2 * 48 + i) * 2 + k % 2) * 2;
    return as == SAEI_KEEP_F16 ? panel + (k * 48 + i) * 2 : panel + (k / block + 1) * 192 + k * 48 + i;
}

static void kept_store(unsigned char *panel, const kept *a, size_t k, size_t i, float *plain, mix values)
{
    unsigned char *at = kept_element(panel, a->w.as, a->w.block, k, i);
    if (a->w.as != SAEI_KEEP_INT8) {
        *plain = number(values);
        store(at, 0, plain, a->w.as == SAEI_KEEP_BF16 ? SAE_BF16 : SAE_F16);
        return;
    }
    float scale;
    memcpy(&scale, panel + k / a->w.block * (192 + a->w.block * 48) + i * 4, sizeof scale);
    const int8_t q = (int8_t)(rng() % 3 ? (int)(rng() & 255) - 128 : (int)below(3) - 1);
    memcpy(at, &q, 1);
    *plain = (float)q * scale;
}

static kept kept_make(saei_keep as, size_t n_panels, size_t d, size_t block, mix values)
{
    const size_t bytes = kept_panel(as, d, block), panel_bytes = (bytes + 63) / 64 * 64 + 64 * below(2);
    const size_t all = n_panels ? (n_panels - 1) * panel_bytes + bytes : 0;
    unsigned char *data = place(0, all, 64);
    kept a = {{data, panel_bytes, d, block, as}, scratch(n_panels * 48 * d)};
    memset(data, 0xff, all);
    for (size_t p = 0; p < n_panels; p++, data += panel_bytes) {
        for (size_t b = 0; as == SAEI_KEEP_INT8 && b * block < d; b++)
            fill((float *)(void *)(data + b * (192 + block * 48)), 48, values);
        for (size_t i = 0; i < 48; i++)
            for (size_t k = 0; k < d; k++)
                kept_store(data, &a, k, i, a.plain + (p * 48 + i) * d + k, values);
    }
    return a;
}

/* The form, and where weights share scales how many: some, or all of the chain. */
static size_t some_block(saei_keep as, size_t d)
{
    return as != SAEI_KEEP_INT8 || rng() % 3 == 0 ? d + !d : 2 + 2 * below(20);
}

static void gemv_kept_case(saei_keep as, size_t n_panels, size_t n_rows, size_t d)
{
    const size_t p0 = below(3), n = 48 * n_panels, block = some_block(as, d), ldx = d + below(4), ldc = n + below(4);
    const size_t c_floats = n_rows ? (n_rows - 1) * ldc + n : 0;
    const kept a = kept_make(as, p0 + n_panels, d, block, some_mix());
    float *x = floats(1, n_rows ? (n_rows - 1) * ldx + d : 0), *want = scratch(c_floats);
    for (size_t r = 0; r < n_rows; r++) {
        fill(x + r * ldx, d, some_mix());
        for (size_t j = 0; j < n; j++)
            want[r * ldc + j] = chain(0.0f, a.plain + (p0 * 48 + j) * d, 1, x + r * ldx, 1, d);
    }
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(2, c_floats * 4, 4);
        tables[i]->gemv_kept((float *)(void *)w.at, ldc, &a.w, p0, n_panels, x, ldx, n_rows);
        check_floats(tables[i], "gemv_kept", &w, want,
                     shape("%s panels %zu rows %zu d %zu block %zu", keep_name(as), n_panels, n_rows, d, block));
    }
}

static void test_gemv_kept(void)
{
    for (saei_keep as = SAEI_KEEP_BF16; as <= SAEI_KEEP_INT8; as++) {
        for (size_t n_panels = 0; n_panels <= 9; n_panels++)
            for (size_t s = 0; s < N_SIZES; s += 1 + below(5))
                gemv_kept_case(as, n_panels, below(5), sizes[s]);
        for (size_t s = 0; s < N_SIZES; s++)
            gemv_kept_case(as, 1 + below(5), 1 + below(4), sizes[s]);
    }
}

/* The chain is cut where gemm may cut it, and goes on from what c holds. */
static void panels_kept_case(saei_keep as, size_t n_panels, size_t n_rows, size_t d, bool widens)
{
    const size_t p0 = below(3), block = some_block(as, d), unit = block < d ? block : 2;
    const size_t k0 = below(d / unit + 1) * unit, kc = rng() % 2 ? d - k0 : (d - k0) / unit * unit;
    const size_t ldc = 48 * n_panels + below(4), c_floats = n_rows ? (n_rows - 1) * ldc + 48 * n_panels : 0;
    const kept a = kept_make(as, p0 + n_panels, d, block, some_mix());
    float *xp = place(1, kc * 32, 64), *start = scratch(c_floats), *want = scratch(c_floats), *wide = scratch(n_panels * kc * 48);
    fill(xp, kc * 8, some_mix());
    for (size_t j = 0; j < 48 * n_panels; j++) {
        const float *w = a.plain + (p0 * 48 + j) * d + k0;
        for (size_t k = 0; k < kc; k++)
            wide[(j / 48 * kc + k) * 48 + j % 48] = w[k];
        for (size_t r = 0; r < n_rows; r++) {
            start[r * ldc + j] = number(EDGES);
            want[r * ldc + j] = chain(k0 ? start[r * ldc + j] : 0.0f, w, 1, xp + r, 8, kc);
        }
    }
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(2, c_floats * 4, 4), v = watched(3, n_panels * kc * 192, 64);
        const char *words = shape("%s panels %zu rows %zu k %zu .. %zu of %zu block %zu wide %d", keep_name(as), n_panels, n_rows, k0,
                                  k0 + kc, d, block, widens);
        memcpy(w.at, start, c_floats * 4);
        tables[i]->panels_kept((float *)(void *)w.at, ldc, &a.w, p0, n_panels, xp, n_rows, k0, kc, widens ? (float *)(void *)v.at : NULL);
        check_floats(tables[i], "panels_kept", &w, want, words);
        if (widens && n_rows)
            check_floats(tables[i], "panels_kept, widened", &v, wide, words);
    }
}

static void test_panels_kept(void)
{
    for (saei_keep as = SAEI_KEEP_BF16; as <= SAEI_KEEP_INT8; as++)
        for (size_t n_rows = 0; n_rows <= 8; n_rows++) {
            for (size_t s = 0; s < N_SIZES; s += 1 + below(3))
                panels_kept_case(as, 1 + below(3), n_rows, sizes[s], rng() % 2);
            panels_kept_case(as, 0, n_rows, 7, true);
            panels_kept_case(as, 4, n_rows, 385, true);
        }
}

/* ---- what follows a product ---- */

/* From the definition in kernels.h; held to 4 roundings of x / (1 + e^-x). */
static float plain_silu(float g)
{
    const float magic = 12582912.0f;
    const float t = !(-g > -87.0f) ? -87.0f : -g < 100.0f ? -g : 100.0f;
    const float n = fmaf(t, 1.44269504f, magic) - magic, h = fmaf(n, 0.5f, magic) - magic;
    const float r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.693359375f, t));
    const float factorials[] = {5040, 720, 120, 24, 6, 2, 1, 1};
    float sum = 1.0f / 5040;
    for (int i = 1; i < 8; i++)
        sum = fmaf(sum, r, 1.0f / factorials[i]);
    const float got = g / (sum * (float)ldexp(1, (int)h) * (float)ldexp(1, (int)(n - h)) + 1.0f);
    const double exact = (double)g / (1 + exp(-(double)g));
    if (isfinite(g))
        check(fabs((double)got - exact) <= 4 * ldexp(fabs(exact), -24) + 1e-36, "silu(%a) is %a, not %a", (double)g, (double)got, exact);
    return got;
}

static void silu_case(size_t n, float low, float high)
{
    float *gate = floats(0, n), *y = scratch(n), *want = scratch(n);
    fill(y, n, EDGES);
    fill(gate, n, EDGES);
    for (size_t i = 0; i < n; i++) {
        gate[i] = rng() % 8 ? low + (high - low) * (float)(rng() & 0xffffff) / 16777216.0f : gate[i];
        want[i] = plain_silu(gate[i]) * y[i];
    }
    for (size_t i = 0; i < n_tables; i++) {
        const watch w = watched(1, n * 4, 4);
        memcpy(w.at, y, n * 4);
        tables[i]->silu_gate((float *)(void *)w.at, gate, n);
        check_floats(tables[i], "silu_gate", &w, want, shape("n %zu gate %g .. %g", n, (double)low, (double)high));
    }
}

static void test_silu_gate(void)
{
    for (size_t s = 0; s < N_SIZES; s++)
        silu_case(sizes[s], -10, 10);
    for (int i = 0; i < 200; i++) {
        silu_case(1000, -110, 110);
        silu_case(1000, -2, 2);
    }
}

static void test_keep_above(void)
{
    for (size_t round = 0; round < 3; round++)
        for (size_t s = 0; s < N_SIZES; s++) {
            const size_t n = sizes[s];
            float *threshold = floats(0, n), *y = scratch(n), *want = scratch(n);
            fill(threshold, n, EDGES);
            for (size_t i = 0; i < n; i++) {
                y[i] = near(threshold[i]);
                want[i] = y[i] <= threshold[i] ? 0.0f : y[i];
            }
            for (size_t i = 0; i < n_tables; i++) {
                const watch w = watched(1, n * 4, 4);
                memcpy(w.at, y, n * 4);
                tables[i]->keep_above((float *)(void *)w.at, threshold, n);
                check_floats(tables[i], "keep_above", &w, want, shape("n %zu", n));
            }
        }
}

/* ---- screening ---- */

/* Of feature i of a column with a plane of x, whose steps are `step` bytes apart. */
static int32_t byte_sum(const uint8_t *column, size_t i, const int8_t *x, size_t step, size_t d16)
{
    int32_t sum = 0;
    for (size_t k = 0; k < d16; k++)
        for (size_t b = 0; b < 16; b++)
            sum += column[k * 256 + i % 4 * 64 + i / 4 * 16 + b] * x[k * step + b];
    return sum;
}

/* Any bytes, or the largest products, which an instruction that saturates gets wrong. */
static void fill_bytes(uint8_t *w, size_t n_w, int8_t *x, size_t n_x, bool extreme)
{
    for (size_t i = 0; i < n_w; i++)
        w[i] = extreme ? 255 : (uint8_t)rng();
    for (size_t i = 0; i < n_x; i++)
        x[i] = (int8_t)(extreme ? (i / 16 % 3 ? 127 : -128) : (int)(rng() & 255) - 128);
}

static void int8_columns_case(size_t n_columns, size_t planes, size_t d16, bool extreme)
{
    const size_t n = 16 * n_columns, ldc = n + below(4), c_ints = planes && n ? (planes - 1) * ldc + n : 0;
    uint8_t *w = place(0, n * d16 * 16, 64);
    int8_t *x = place(1, planes * d16 * 16, 1);
    int32_t *want = (int32_t *)(void *)scratch(c_ints);
    fill_bytes(w, n * d16 * 16, x, planes * d16 * 16, extreme);
    for (size_t q = 0; q < planes; q++)
        for (size_t j = 0; j < n; j++)
            want[q * ldc + j] = byte_sum(w + j / 16 * d16 * 256, j % 16, x + q * 16, planes * 16, d16);
    for (size_t i = 0; i < n_tables; i++) {
        const watch out = watched(2, c_ints * 4, 4);
        tables[i]->int8_columns((int32_t *)(void *)out.at, ldc, w, n_columns, x, planes, d16, w, rng() % 2 ? n_columns * 4 : 0);
        check_floats(tables[i], "int8_columns", &out, (const float *)(const void *)want,
                     shape("columns %zu planes %zu d16 %zu extreme %d", n_columns, planes, d16, extreme));
    }
}

static void test_int8_columns(void)
{
    for (size_t planes = 0; planes <= 13; planes++) {
        for (size_t n_columns = 0; n_columns <= 7; n_columns++)
            int8_columns_case(n_columns, planes, below(9), n_columns % 2);
        for (size_t s = 0; s < N_SIZES; s += 3)
            int8_columns_case(1 + below(7), planes, sizes[s], rng() % 4 == 0);
        int8_columns_case(1, planes, 1024, true);
    }
}

static void int8_pairs_case(size_t n, size_t d16, bool extreme)
{
    enum { COLUMNS = 3 };
    const size_t n_w = COLUMNS * d16 * 256, n_x = n * d16 * 16;
    uint8_t *w = place(0, n_w, 64);
    int8_t *x = place(1, n_x, 1);
    int32_t *ids = place(3, n * sizeof *ids, sizeof *ids), *want = (int32_t *)(void *)scratch(n);
    const int8_t *rows[40];
    fill_bytes(w, n_w, x, n_x, extreme);
    for (size_t i = 0; i < n; i++) {
        ids[i] = (int32_t)below(16 * COLUMNS);
        rows[i] = x + (n - 1 - i) * d16 * 16;
        want[i] = byte_sum(w + (size_t)ids[i] / 16 * d16 * 256, (size_t)ids[i] % 16, rows[i], 16, d16);
    }
    for (size_t i = 0; i < n_tables; i++) {
        const watch out = watched(2, n * 4, 4);
        tables[i]->int8_pairs((int32_t *)(void *)out.at, w, ids, rows, n, d16);
        check_floats(tables[i], "int8_pairs", &out, (const float *)(const void *)want, shape("n %zu d16 %zu extreme %d", n, d16, extreme));
    }
}

static void test_int8_pairs(void)
{
    for (size_t s = 0; s < N_SIZES; s++)
        for (size_t n = 0; n <= 36; n += 1 + below(5))
            int8_pairs_case(n, sizes[s] % 150, rng() % 4 == 0);
    int8_pairs_case(5, 1024, true);
}

static void screen_case(size_t n, bool two, bool thresholds, mix values)
{
    const size_t j0 = below(50), all = j0 + n;
    float *v[5];
    for (int i = 0; i < 5; i++) {
        v[i] = floats(3 + i, all);
        fill(v[i], all, values);
    }
    int32_t *first = place(0, n * 4, 4), *second = place(1, n * 4, 4), *want_ids = (int32_t *)(void *)scratch(n);
    float *want = scratch(n);
    saei_span x = {number(PLAIN), fabsf(number(PLAIN)), fabsf(number(values)), 0.0f, (int32_t)(rng() & 0xfffff), (int32_t)(rng() & 0xffff)};
    size_t m = 0;
    for (size_t i = 0; i < n; i++) {
        const size_t j = j0 + i;
        first[i] = (int32_t)(rng() & 0x3ffffff) - (1 << 25);
        second[i] = (int32_t)(rng() & 0xffffff) - (1 << 23);
        const float a = (float)(first[i] - x.first_offset), b = (float)(second[i] - x.second_offset);
        want[i] = fmaf(v[0][j] * x.scale, two ? fmaf(a, 256.0f, b) : a, fmaf(v[1][j], x.norm, v[2][j] * x.slack)) + v[3][j];
        v[4][j] = thresholds ? near(want[i]) : -INFINITY;
    }
    x.floor = n && rng() % 2 ? near(want[below(n)]) : 0.0f;
    for (size_t i = 0; i < n; i++)
        if (!(want[i] < v[4][j0 + i]) && !(want[i] < x.floor))
            want_ids[m++] = (int32_t)(j0 + i);
    const saei_bound bound = {v[0], v[1], v[2], v[3], thresholds ? v[4] : NULL};
    for (size_t i = 0; i < n_tables; i++) {
        const watch u = watched(2, n * 4, 4), w = watched(8, n * 4, 4);
        tables[i]->bounds((float *)(void *)u.at, first, two ? second : NULL, n, j0, &bound, &x);
        check_floats(tables[i], "bounds", &u, want, shape("n %zu two %d", n, two));
        const size_t got = tables[i]->screen((int32_t *)(void *)w.at, first, two ? second : NULL, n, j0, &bound, &x);
        check(got == m && !memcmp(w.at, want_ids, m * 4) && clean(&w), "%s screen (n %zu two %d): %zu of them, not %zu",
              sae_isa_name(tables[i]->isa), n, two, got, m);
    }
}

static void test_screen(void)
{
    for (size_t s = 0; s < N_SIZES; s++)
        for (int flavour = 0; flavour < 4; flavour++)
            for (mix values = PLAIN; values < N_MIXES; values++)
                screen_case(sizes[s], flavour & 1, flavour & 2, values);
}

enum { ROW_D = 208 /* more than every size, a multiple of 16 */ };

/* Sum of the elements of a row, by k % 16 first. */
static double in_sixteen(const double *v)
{
    double part[16] = {0}, sum = 0.0;
    for (size_t k = 0; k < ROW_D; k++)
        part[k % 16] += v[k];
    for (int i = 0; i < 16; i++)
        sum += part[i];
    return sum;
}

/* What a row is, less its centre, element by element; zeros follow. */
typedef struct row_truth {
    double z[ROW_D];
    saei_lengths lengths;
    double scale;
    int8_t first[ROW_D], second[ROW_D];
    saei_planes planes;
} row_truth;

static row_truth true_row(const float *x, const float *centre, size_t d)
{
    row_truth t = {.scale = 0.0};
    double xs[ROW_D] = {0}, zs[ROW_D], coarse[ROW_D], fine[ROW_D];
    for (size_t k = 0; k < ROW_D; k++) {
        t.z[k] = k < d ? (double)x[k] - (centre ? (double)centre[k] : 0.0) : 0.0;
        xs[k] = k < d ? (double)x[k] * (double)x[k] : 0.0;
        zs[k] = t.z[k] * t.z[k];
        t.lengths.largest = fmax(t.lengths.largest, fabs(t.z[k]));
    }
    t.lengths.x = in_sixteen(xs);
    t.lengths.z = in_sixteen(zs);
    t.scale = (double)(float)(t.lengths.largest / 32639.0);
    for (size_t k = 0; k < ROW_D; k++) {
        const int q = t.scale > 0.0 ? (int)nearbyint(t.z[k] * (1.0 / t.scale)) : 0, h = (int)floor((q + 128) / 256.0);
        t.first[k] = (int8_t)h;
        t.second[k] = (int8_t)(q - 256 * h);
        t.planes.first += h;
        t.planes.second += q - 256 * h;
        coarse[k] = pow(t.z[k] - t.scale * (256.0 * h), 2.0);
        fine[k] = pow(t.z[k] - t.scale * q, 2.0);
    }
    t.planes.coarse = in_sixteen(coarse);
    t.planes.fine = in_sixteen(fine);
    return t;
}

/* Are the planes there, and nothing between their parts? */
static bool has_plane(const watch *w, size_t step, const int8_t *want, size_t d16)
{
    for (size_t i = 0; i < w->bytes; i++)
        if (i % step < 16 ? (int8_t)w->at[i] != want[i / step * 16 + i % step] : w->at[i] != PAINT)
            return false;
    return d16 == 0 || clean(w);
}

static void row_case(size_t d, bool centred, size_t step, mix values)
{
    const size_t d16 = (d + 15) / 16, bytes = d16 ? (d16 - 1) * step + 16 : 0;
    float *x = floats(0, d), *c = floats(1, d);
    fill(x, d, values);
    fill(c, d, PLAIN);
    const row_truth want = true_row(x, centred ? c : NULL, d);
    for (size_t i = 0; i < n_tables; i++) {
        const char *name = sae_isa_name(tables[i]->isa);
        const watch first = watched(2, bytes, 1), second = watched(8, d16 * 16, 1);
        const saei_lengths l = tables[i]->row_lengths(x, centred ? c : NULL, d);
        check(l.x == want.lengths.x && l.z == want.lengths.z && l.largest == want.lengths.largest, "%s row_lengths (d %zu centred %d)",
              name, d, centred);
        const saei_planes p =
            tables[i]->row_planes((int8_t *)first.at, step, (int8_t *)second.at, 16, x, centred ? c : NULL, d, want.scale);
        check(p.first == want.planes.first && p.second == want.planes.second && p.coarse == want.planes.coarse &&
                  p.fine == want.planes.fine,
              "%s row_planes (d %zu centred %d): sums", name, d, centred);
        check(has_plane(&first, step, want.first, d16) && has_plane(&second, 16, want.second, d16),
              "%s row_planes (d %zu centred %d step %zu)", name, d, centred, step);
    }
}

static void test_row(void)
{
    for (size_t s = 0; s < N_SIZES; s++)
        for (int flavour = 0; flavour < 8; flavour++)
            row_case(sizes[s], flavour & 1, flavour & 2 ? 16 * (1 + below(8)) : 16, flavour & 4 ? ZEROS : PLAIN);
}

/* ---- --bench ---- */

enum { BENCH_D = 2304, BENCH_N = 16368, BENCH_ROWS = 512 }; /* 341 panels; 151 MB in f32: larger than any cache here */

typedef struct bench {
    const saei_kernels *k;
    float *w, *x, *xp, *c; /* [BENCH_N][BENCH_D] in whatever order, [BENCH_ROWS][BENCH_D], packed, [BENCH_ROWS][BENCH_N] */
    uint16_t *halves;      /* as many elements as w, small in f16 and in bf16 */
    int32_t *ids;          /* scattered features */
    saei_matrix m;
    size_t rows, n;
    const saei_act *act;
    saei_keep keep;
    double read_roof, fma_roof; /* GB/s, GFLOP/s */
    const char *word;           /* only entries with it in their name; NULL = all */
    volatile float sink;
} bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* not the time of others on this core */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one call: the fastest of some rounds, each long enough for the clock. */
static double fastest(void (*body)(bench *), bench *b)
{
    double best = 1e9, spent = 0;
    int calls = 1;
    for (int round = 0; round < 200 && (round < 5 || spent < 0.5); round++) {
        const double start = now();
        for (int i = 0; i < calls; i++)
            body(b);
        const double took = now() - start;
        spent += took;
        best = took / calls < best ? took / calls : best;
        calls *= took < 1e-3 ? 2 : 1;
    }
    return best;
}

static void time_it(bench *b, const char *name, void (*body)(bench *), double bytes, double flops)
{
    if (b->word && !strstr(name, b->word))
        return;
    const double s = fastest(body, b), gbs = bytes / s / 1e9, gflops = flops / s / 1e9;
    printf("%-7s %-40s %12.0f ns %7.1f GB/s %4.0f %% %7.1f GFLOP/s %4.0f %%\n", sae_isa_name(b->k->isa), name, s * 1e9, gbs,
           100 * gbs / b->read_roof, gflops, 100 * gflops / b->fma_roof);
    fflush(stdout);
}

/* Ceilings. Reading: four streams that lie as far apart as panels do, in 16-byte vectors fetched 3 KB ahead, summed as integers. */
typedef uint64_t pair __attribute__((vector_size(16), may_alias));

static void read_all(bench *b)
{
    enum { STREAMS = 4, LINE = 64 / sizeof(pair), FETCH = 3072 / sizeof(pair), RUN = BENCH_D * 48 * sizeof(float) / sizeof(pair) };
    const pair *p = (const pair *)(const void *)b->w, *end = p + (size_t)RUN * (BENCH_N / 48 / STREAMS * STREAMS);
    pair sum0 = {0}, sum1 = {0}, sum2 = {0}, sum3 = {0};
    for (; p < end; p += (size_t)RUN * STREAMS)
        for (size_t i = 0; i < RUN; i += LINE)
            for (size_t s = 0; s < STREAMS; s++) {
                const pair *line = p + s * RUN + i;
                __builtin_prefetch(line + FETCH);
                sum0 += line[0];
                sum1 += line[1];
                sum2 += line[2];
                sum3 += line[3];
            }
    sum0 += sum1 + sum2 + sum3;
    b->sink = (float)(sum0[0] + sum0[1]);
}

enum { PEAK_LOOPS = 100000 };

#if defined(__x86_64__)
#define PEAK_BODY(reg)                                                                                  \
    "vfmadd231ps %%" reg "0, %%" reg "0, %%" reg "1\n vfmadd231ps %%" reg "0, %%" reg "0, %%" reg "2\n" \
    "vfmadd231ps %%" reg "0, %%" reg "0, %%" reg "3\n vfmadd231ps %%" reg "0, %%" reg "0, %%" reg "4\n" \
    "vfmadd231ps %%" reg "0, %%" reg "0, %%" reg "5\n vfmadd231ps %%" reg "0, %%" reg "0, %%" reg "6\n" \
    "vfmadd231ps %%" reg "0, %%" reg "0, %%" reg "7\n vfmadd231ps %%" reg "0, %%" reg "0, %%" reg "8\n" \
    "vfmadd231ps %%" reg "0, %%" reg "0, %%" reg "9\n vfmadd231ps %%" reg "0, %%" reg "0, %%" reg "10\n"
#define PEAK(reg)                                                                                                   \
    __asm__ volatile("vpxor %%xmm0, %%xmm0, %%xmm0\n vpxor %%xmm1, %%xmm1, %%xmm1\n vpxor %%xmm2, %%xmm2, %%xmm2\n" \
                     "vpxor %%xmm3, %%xmm3, %%xmm3\n vpxor %%xmm4, %%xmm4, %%xmm4\n vpxor %%xmm5, %%xmm5, %%xmm5\n" \
                     "vpxor %%xmm6, %%xmm6, %%xmm6\n vpxor %%xmm7, %%xmm7, %%xmm7\n vpxor %%xmm8, %%xmm8, %%xmm8\n" \
                     "vpxor %%xmm9, %%xmm9, %%xmm9\n vpxor %%xmm10, %%xmm10, %%xmm10\n"                             \
                     "1:\n" PEAK_BODY(reg) PEAK_BODY(reg) "dec %0\n jnz 1b\n vzeroupper\n"                          \
                     : "+r"(loops)                                                                                  \
                     :                                                                                              \
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10")
#endif

static size_t peak_lanes(const bench *b)
{
    return b->k->isa == SAE_ISA_AVX512 ? 16 : b->k->isa == SAE_ISA_AVX2 ? 8 : b->k->isa == SAE_ISA_NEON ? 4 : 1;
}

/* 20 fused multiply-adds in ten chains each turn, of the width of the table; one lane's worth for the scalar one. */
static void peak(bench *b)
{
    uint64_t loops = PEAK_LOOPS;
#if defined(__x86_64__)
    if (b->k->isa == SAE_ISA_AVX512)
        PEAK("zmm");
    else if (b->k->isa == SAE_ISA_AVX2)
        PEAK("ymm");
#elif defined(__aarch64__)
#define FMLA(i) "fmla v" #i ".4s, v0.4s, v0.4s\n"
    if (b->k->isa == SAE_ISA_NEON)
        __asm__ volatile("1:\n" FMLA(1) FMLA(2) FMLA(3) FMLA(4) FMLA(5) FMLA(6) FMLA(7) FMLA(16) FMLA(17) FMLA(18) FMLA(1) FMLA(2) FMLA(3)
                             FMLA(4) FMLA(5) FMLA(6) FMLA(7) FMLA(16) FMLA(17) FMLA(18) "subs %0, %0, #1\n b.ne 1b\n"
                         : "+r"(loops)
                         :
                         : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18");
#endif
    float a[10] = {0};
    for (; b->k->isa == SAE_ISA_SCALAR && loops; loops--)
        for (size_t i = 0; i < 20; i++)
            a[i % 10] = fmaf(b->x[0], b->x[1], a[i % 10]);
    b->sink = a[0] + a[9];
}

static void bench_panels(bench *b) /* as gemm does: 4 panels x 384 weights at a time, blocks of 64 rows */
{
    enum { KC = 384, PANELS = 4 };
    for (size_t r = 0; r < b->rows; r += 64)
        for (size_t p = 0; p + PANELS <= BENCH_N / 48; p += PANELS)
            for (size_t k0 = 0; k0 < BENCH_D; k0 += KC)
                b->k->panels(b->c + r * BENCH_N + p * 48, BENCH_N, b->w + (p * BENCH_D + k0) * 48, (size_t)BENCH_D * 48, PANELS * 48,
                             b->xp + r * BENCH_D + k0 * 8, (size_t)BENCH_D * 8, b->rows - r < 64 ? b->rows - r : 64, KC, k0 > 0, NULL);
}

static void bench_panels_few(bench *b) /* up to 8 rows: whole chains, 16 panels at a time */
{
    for (size_t p = 0; p + 16 <= BENCH_N / 48; p += 16)
        b->k->panels(b->c + p * 48, BENCH_N, b->w + p * BENCH_D * 48, (size_t)BENCH_D * 48, 16 * 48, b->xp, (size_t)BENCH_D * 8, b->rows,
                     BENCH_D, false, NULL);
}

static void bench_gemv_panels(bench *b)
{
    b->k->gemv_panels(b->c, BENCH_N, b->w, BENCH_N, b->x, BENCH_D, b->rows, BENCH_D);
}

static void bench_gemv_cols(bench *b)
{
    for (size_t j = 0; j < BENCH_N; j += 768)
        b->k->gemv_cols(b->c, 768, &b->m, j, BENCH_N - j < 768 ? BENCH_N - j : 768, b->x, BENCH_D, b->rows);
}

static void bench_dot_rows(bench *b)
{
    b->k->dot_rows(b->c, BENCH_N, &b->m, NULL, 0, b->n, b->x, BENCH_D, b->rows);
}

static void bench_scattered(bench *b)
{
    static size_t at;
    at = (at + b->n) % (BENCH_N - b->n);
    b->k->dot_rows(b->c, BENCH_N, &b->m, b->ids + at, 0, b->n, b->x, BENCH_D, b->rows);
}

static void bench_probe(bench *b)
{
    b->k->probe(b->c, BENCH_N, b->w, b->n, b->x, BENCH_D, b->rows, BENCH_D);
}

static void bench_combine(bench *b)
{
    static size_t at;
    at = (at + b->n) % (BENCH_N - b->n);
    b->k->combine(b->c, NULL, &b->m, b->ids + at, b->x, b->n);
}

static void bench_combine_warm(bench *b)
{
    b->k->combine(b->c, NULL, &b->m, b->ids, b->x, b->n);
}

static void bench_activate(bench *b)
{
    size_t bad = 0;
    b->sink = (float)b->k->activate(b->ids + BENCH_N, b->c, b->x, b->n, 0, b->act, 0.0f, &bad);
}

static void bench_widen(bench *b)
{
    b->k->widen(b->c, b->m.data, b->m.dtype, b->n);
}

static void bench_narrow(bench *b)
{
    b->k->narrow(b->c, b->x, b->m.dtype, b->n);
}

static void bench_nonfinite(bench *b)
{
    b->sink = (float)b->k->nonfinite(b->m.data, b->m.dtype, (size_t)BENCH_N * BENCH_D);
}

static void bench_pack_rows(bench *b)
{
    b->k->pack_rows(b->c, b->x, BENCH_D, b->rows, BENCH_D);
}

static void bench_pack_panels(bench *b) /* 16 panels of 96 weights from a matrix at rest, as gemm does for an unprepared one */
{
    for (size_t j = 0; j + 768 <= BENCH_N; j += 768)
        for (size_t k = 0; k < BENCH_D; k += 96)
            b->k->pack_panels(b->c, &b->m, j, 768, k, 96);
}

static void bench_pack_lanes(bench *b)
{
    b->k->pack_lanes(b->c, b->w, b->n, BENCH_D);
}

static void bench_int8_columns(bench *b) /* 3 columns at a time for all rows, as an encode does; w taken as bytes */
{
    enum { D16 = BENCH_D / 16 };
    for (size_t p = 0; p < BENCH_N / 16; p += 3)
        for (size_t q = 0; q < b->rows; q += 6)
            b->k->int8_columns((int32_t *)(void *)b->c, 48, (const uint8_t *)b->w + p * D16 * 256, 3, (const int8_t *)b->x + q * D16 * 16,
                               b->rows - q < 6 ? b->rows - q : 6, D16, (const uint8_t *)b->w + (p + 3) * D16 * 256, q ? 0 : 12);
}

/* Kept weights as gemm runs them: 4 panels at a time; more than 8 rows by slices, widened by the first group. b->halves is any bytes. */
static void bench_kept(bench *b)
{
    enum { KC = 384, PANELS = 4 };
    const saei_kept w = {(const unsigned char *)b->halves, (kept_panel(b->keep, BENCH_D, b->n) + 63) / 64 * 64, BENCH_D, b->n, b->keep};
    float *wide = b->c + (size_t)BENCH_ROWS * BENCH_N;
    const size_t kc = b->rows > 8 ? KC : BENCH_D;
    for (size_t p = 0; p + PANELS <= BENCH_N / 48; p += PANELS) {
        float *c = b->c + p * 48;
        if (b->rows <= 4)
            b->k->gemv_kept(c, BENCH_N, &w, p, PANELS, b->x, BENCH_D, b->rows);
        for (size_t k0 = 0; b->rows > 4 && k0 < BENCH_D; k0 += kc)
            for (size_t r = 0; r < b->rows; r += 64) {
                const float *xp = b->xp + r * BENCH_D + k0 * 8;
                b->k->panels_kept(c + r * BENCH_N, BENCH_N, &w, p, PANELS, xp, 8, k0, kc, b->rows > 8 ? wide : NULL);
                if (b->rows > 8)
                    b->k->panels(c + (r + 8) * BENCH_N, BENCH_N, wide, kc * 48, PANELS * 48, xp + (size_t)8 * BENCH_D, (size_t)8 * BENCH_D,
                                 (b->rows < 64 ? b->rows : 64) - 8, kc, k0 > 0, NULL);
            }
    }
}

static void bench_silu(bench *b) /* of where it is 1: what it multiplies stays */
{
    static float gate[9216];
    for (size_t i = 0; gate[0] == 0.0f && i < LENGTH(gate); i++)
        gate[LENGTH(gate) - 1 - i] = 1.2784645f;
    b->k->silu_gate(b->c, gate, LENGTH(gate));
}

static void bench_kept_weights(bench *b)
{
    static const size_t rows[] = {1, 2, 4, 8, 16, 64, 512};
    const double weights = (double)BENCH_N * BENCH_D;
    for (b->keep = SAEI_KEEP_BF16; b->keep <= SAEI_KEEP_INT8; b->keep++)
        for (b->n = BENCH_D; b->n >= 32; b->n = b->keep == SAEI_KEEP_INT8 && b->n > 32 ? 32 : 0)
            for (size_t i = 0; i < LENGTH(rows) - (b->k->isa == SAE_ISA_SCALAR); i++) {
                b->rows = rows[i];
                time_it(b, shape("kept %s, block %zu, %zu rows", keep_name(b->keep), b->n, b->rows), bench_kept,
                        (double)kept_panel(b->keep, BENCH_D, b->n) * BENCH_N / 48 * (b->rows > 64 ? 8 : 1), (double)b->rows * 2 * weights);
            }
    time_it(b, "silu_gate 9216", bench_silu, 12.0 * 9216, 20.0 * 9216);
}

static void bench_products(bench *b)
{
    const double weights = (double)BENCH_N * BENCH_D;
    b->rows = 512;
    if (b->k->isa != SAE_ISA_SCALAR)
        time_it(b, "panels 512 rows", bench_panels, 512 / 64 * 4 * weights, 512 * 2 * weights);
    b->rows = 64;
    for (b->rows = 2; b->rows <= 64; b->rows *= b->rows < 8 ? 2 : 8)
        time_it(b, shape("int8_columns %zu planes", b->rows), bench_int8_columns, weights, (double)b->rows * 2 * weights);
    b->rows = 64;
    time_it(b, "panels 64 rows", bench_panels, 4 * weights, 64 * 2 * weights);
    for (b->rows = 8; b->rows > 2; b->rows /= 2)
        time_it(b, shape("panels %zu rows, whole chains", b->rows), bench_panels_few, 4 * weights, (double)b->rows * 2 * weights);
    for (b->rows = 1; b->rows <= 4; b->rows *= 2)
        time_it(b, shape("gemv_panels %zu rows", b->rows), bench_gemv_panels, 4 * weights, (double)b->rows * 2 * weights);
    for (size_t t = 0; t < LENGTH(dtypes); t++)
        for (b->rows = 1; b->rows <= 4; b->rows += 3) {
            const double bytes = (double)bytes_of(dtypes[t]), rows = (double)b->rows;
            b->m = (saei_matrix){dtypes[t] == SAE_F32 ? (const void *)b->w : b->halves, dtypes[t], true, BENCH_N, BENCH_D};
            time_it(b, shape("gemv_cols %s %zu rows", sae_dtype_name(dtypes[t]), b->rows), bench_gemv_cols, bytes * weights,
                    rows * 2 * weights);
            b->m.by_cols = false;
            b->n = BENCH_N;
            time_it(b, shape("dot_rows %s %zu rows, in order", sae_dtype_name(dtypes[t]), b->rows), bench_dot_rows, bytes * weights,
                    rows * 2 * weights);
            b->n = 256;
            time_it(b, shape("dot_rows %s %zu rows, 256 scattered", sae_dtype_name(dtypes[t]), b->rows), bench_scattered,
                    bytes * 256 * BENCH_D, rows * 2 * 256 * BENCH_D);
        }
    for (b->n = 1; b->n <= 256; b->n *= 4)
        for (b->rows = 1; b->rows <= 64; b->rows *= 8)
            time_it(b, shape("probe %zu features, %zu rows", b->n, b->rows), bench_probe, 4.0 * (double)(b->rows + b->n) * BENCH_D,
                    (double)(b->rows * b->n) * 2 * BENCH_D);
}

static void bench_rest(bench *b)
{
    static float minus_one[65536];
    const saei_act none = {0}, bias = {.bias = minus_one, .threshold = minus_one + 32768};
    for (size_t i = 0; i < 32768; i++)
        minus_one[i] = -0.98f;
    for (size_t t = 0; t < LENGTH(dtypes); t++) {
        const double bytes = (double)bytes_of(dtypes[t]);
        const char *name = sae_dtype_name(dtypes[t]);
        b->m = (saei_matrix){dtypes[t] == SAE_F32 ? (const void *)b->w : b->halves, dtypes[t], false, BENCH_N, BENCH_D};
        b->n = 64;
        time_it(b, shape("combine %s, 64 terms", name), bench_combine, bytes * 64 * BENCH_D, 2.0 * 64 * BENCH_D);
        time_it(b, shape("combine %s, 64 terms in cache", name), bench_combine_warm, bytes * 64 * BENCH_D, 2.0 * 64 * BENCH_D);
        time_it(b, shape("nonfinite %s", name), bench_nonfinite, bytes * BENCH_N * BENCH_D, 0);
        time_it(b, shape("pack_panels %s by rows", name), bench_pack_panels, (bytes + 4) * BENCH_N * BENCH_D, 0);
        b->m.by_cols = true;
        time_it(b, shape("pack_panels %s by columns", name), bench_pack_panels, (bytes + 4) * BENCH_N * BENCH_D, 0);
        b->n = 2304;
        time_it(b, shape("widen %s, a row", name), bench_widen, (bytes + 4) * BENCH_D, 0);
        time_it(b, shape("narrow %s, a row", name), bench_narrow, (bytes + 4) * BENCH_D, 0);
    }
    b->rows = 64;
    time_it(b, "pack_rows 64 rows", bench_pack_rows, 8.0 * 64 * BENCH_D, 0);
    b->n = 64;
    time_it(b, "pack_lanes 64 features", bench_pack_lanes, 8.0 * 64 * BENCH_D, 0);
    b->n = 24576;
    b->act = &bias;
    time_it(b, "activate 24576, 1 in 100 on", bench_activate, 12.0 * 24576, 0);
    b->act = &none;
    time_it(b, "activate 24576, half on", bench_activate, 4.0 * 24576, 0);
}

static void *big(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        exit(2);
    return p;
}

static int run_bench(const char *only, const char *word)
{
    static bench b;
    const size_t weights = (size_t)BENCH_N * BENCH_D;
    b.word = word;
    b.w = big(weights * 4);
    b.halves = big(weights * 2);
    b.x = big((size_t)BENCH_ROWS * BENCH_D * 4);
    b.xp = big((size_t)BENCH_ROWS * BENCH_D * 4);
    b.c = big(((size_t)BENCH_ROWS * BENCH_N + (size_t)4 * 384 * 48) * 4);
    b.ids = big((size_t)2 * 24576 * 4);
    fill(b.w, weights, PLAIN);
    fill(b.x, (size_t)BENCH_ROWS * BENCH_D, PLAIN);
    fill(b.c, (size_t)BENCH_ROWS * BENCH_N, PLAIN);
    for (size_t i = 0; i < weights; i++)
        b.halves[i] = (uint16_t)(0x3c00 | (rng() & 0x80ff));
    for (size_t i = 0; i < BENCH_N; i++)
        b.ids[i] = (int32_t)below(BENCH_N);
    tables[0]->pack_rows(b.xp, b.x, BENCH_D, BENCH_ROWS, BENCH_D);
    for (size_t i = n_tables; i-- > 0;) {
        b.k = tables[i];
        if (only && strcmp(only, sae_isa_name(b.k->isa)) != 0)
            continue;
        b.read_roof = 4e-9 * (double)weights / fastest(read_all, &b);
        b.fma_roof = 1e-9 * 20 * 2 * PEAK_LOOPS * (double)peak_lanes(&b) / fastest(peak, &b);
        printf("%s: reads %.1f GB/s, fused multiply-adds %.1f GFLOP/s\n", sae_isa_name(b.k->isa), b.read_roof, b.fma_roof);
        bench_products(&b);
        bench_kept_weights(&b);
        bench_rest(&b);
    }
    return 0;
}

#define TEST(name)         \
    {                      \
        test_##name, #name \
    }
static const struct {
    void (*run)(void);
    const char *name;
} tests[] = {TEST(tables_differ), TEST(widen),       TEST(narrow),       TEST(nonfinite),  TEST(pack_rows), TEST(pack_panels),
             TEST(pack_lanes),    TEST(panels),      TEST(gemv_panels),  TEST(gemv_cols),  TEST(dot_rows),  TEST(probe),
             TEST(activate),      TEST(combine),     TEST(int8_columns), TEST(int8_pairs), TEST(screen),    TEST(row),
             TEST(gemv_kept),     TEST(panels_kept), TEST(silu_gate),    TEST(keep_above)};

static volatile sig_atomic_t running;

/* A kernel ran into a fence: there is nothing to go back to, but it can be said which. */
static void on_fence(int signal_number)
{
    static const char before[] = "FAIL ", after[] = " touched memory outside its arrays\n0 passed, 1 failed\n";
    (void)signal_number;
    const char *name = tests[running].name;
    if (write(STDOUT_FILENO, before, sizeof before - 1) + write(STDOUT_FILENO, name, strlen(name)) +
            write(STDOUT_FILENO, after, sizeof after - 1) >
        0)
        _exit(1);
    _exit(2);
}

int main(int argc, char **argv)
{
    find_tables();
    if (argc > 1 && !strcmp(argv[1], "--bench"))
        return run_bench(argc > 2 ? argv[2] : NULL, argc > 3 ? argv[3] : NULL);
    fences_make();
    signal(SIGSEGV, on_fence);
    signal(SIGBUS, on_fence);
    for (size_t i = 0; i < LENGTH(tests); i++) {
        running = (sig_atomic_t)i;
        tests[i].run();
        scratch_free();
        fflush(stdout);
    }
    printf("ran");
    for (size_t i = 0; i < n_tables; i++)
        printf(" %s", sae_isa_name(tables[i]->isa));
    printf("\n%ld passed, %ld failed\n", n_passed, n_failed);
    return n_failed != 0;
}
