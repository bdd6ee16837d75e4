#include "support/support.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* ---- seeded numbers ---- */

uint64_t rng_bits(rng *r) /* splitmix64 */
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint32_t rng_below(rng *r, uint32_t n)
{
    return (uint32_t)(rng_bits(r) % n);
}

double rng_between(rng *r, double a, double b)
{
    return a + (b - a) * (double)(rng_bits(r) >> 11) * 0x1p-53;
}

/* 8 significant bits, no exponent below that of f16. */
static float to_grid(double v)
{
    uint16_t h;
    if (fabs(v) < 0x1p-14)
        return 0.0f;
    element_store(&h, SAE_BF16, v);
    return (float)element_load(&h, SAE_BF16);
}

float rng_weight(rng *r)
{
    double sum = 0.0;
    for (int i = 0; i < 12; i++)
        sum += rng_between(r, -0.5, 0.5);
    return to_grid(sum);
}

/* ---- element types ---- */

typedef struct layout {
    int fraction_bits, least_exponent, most_exponent;
} layout;

static layout layout_of(sae_dtype dtype)
{
    return dtype == SAE_F16 ? (layout){10, -14, 15} : (layout){7, -126, 127};
}

double element_load(const void *p, sae_dtype dtype)
{
    uint16_t h;
    if (dtype == SAE_F32) {
        float f;
        memcpy(&f, p, sizeof f);
        return (double)f;
    }
    memcpy(&h, p, sizeof h);
    const layout l = layout_of(dtype);
    const int fraction = h & ((1 << l.fraction_bits) - 1), exponent = (h & 0x7fff) >> l.fraction_bits;
    double v;
    if (exponent == l.most_exponent - l.least_exponent + 2)
        v = fraction ? (double)NAN : (double)INFINITY;
    else if (exponent)
        v = ldexp((double)(fraction + (1 << l.fraction_bits)), exponent - 1 + l.least_exponent - l.fraction_bits);
    else
        v = ldexp((double)fraction, l.least_exponent - l.fraction_bits);
    return h & 0x8000 ? -v : v;
}

void element_store(void *p, sae_dtype dtype, double v)
{
    if (dtype == SAE_F32) {
        const float f = (float)v;
        memcpy(p, &f, sizeof f);
        return;
    }
    const layout l = layout_of(dtype);
    const int infinity = (l.most_exponent - l.least_exponent + 2) << l.fraction_bits;
    int bits, exponent;
    if (isnan(v)) {
        bits = infinity | 1 << (l.fraction_bits - 1);
    } else if (isinf(v) || v == 0.0) {
        bits = v == 0.0 ? 0 : infinity;
    } else {
        (void)frexp(v, &exponent);
        exponent = exponent - 1 < l.least_exponent ? l.least_exponent : exponent - 1;
        /* in units of the last place: a carry into the next exponent is the right bit pattern as it is */
        const double units = nearbyint(ldexp(fabs(v), l.fraction_bits - exponent));
        bits = exponent > l.most_exponent ? infinity : (int)units + ((exponent - l.least_exponent) << l.fraction_bits);
    }
    const uint16_t h = (uint16_t)(bits | (signbit(v) ? 0x8000 : 0));
    memcpy(p, &h, sizeof h);
}

sae_rows rows_make(void **block, const float *x, sae_dtype dtype, int64_t n, int32_t d, size_t gap, bool backwards)
{
    const size_t each = sae_dtype_bytes(dtype), stride = each * (size_t)d + gap;
    unsigned char *p = malloc((size_t)n * stride + 1);
    ck_assert_ptr_nonnull(p);
    memset(p, 0xcc, (size_t)n * stride + 1);
    *block = p;
    sae_rows rows = {0};
    rows.struct_size = sizeof rows;
    rows.dtype = dtype;
    rows.n_rows = n;
    rows.stride_bytes = backwards ? -(int64_t)stride : (int64_t)stride;
    rows.x = p + (gap && n ? 1 : 0) + (backwards && n ? (size_t)(n - 1) * stride : 0);
    for (int64_t r = 0; r < n; r++)
        for (int32_t k = 0; k < d; k++)
            element_store((unsigned char *)rows.x + r * rows.stride_bytes + (size_t)k * each, dtype, (double)x[r * d + k]);
    return rows;
}

void rows_load(float *x, const sae_rows *rows, int32_t d)
{
    const size_t each = sae_dtype_bytes(rows->dtype);
    const int64_t stride = rows->stride_bytes ? rows->stride_bytes : (int64_t)each * d;
    for (int64_t r = 0; r < rows->n_rows; r++)
        for (int32_t k = 0; k < d; k++)
            x[r * d + k] = (float)element_load((const unsigned char *)rows->x + r * stride + (size_t)k * each, rows->dtype);
}

sae_rows rows_plain(float *x, int64_t n, int32_t d)
{
    sae_rows rows = {0};
    rows.struct_size = sizeof rows;
    rows.dtype = SAE_F32;
    rows.x = x;
    rows.stride_bytes = (int64_t)sizeof(float) * d;
    rows.n_rows = n;
    return rows;
}

/* ---- the allocator: an assertion that holds would allocate, so these only speak up when one does not ---- */

/* Lies directly before what is given. */
typedef struct tag {
    void *block;
    size_t bytes, align;
    uint64_t magic;
} tag;

enum { FRESH = 0xa5, TAKEN_BACK = 0xdd };
static const uint64_t live_magic = 0x6c69766520626c6bu;

void heap_init(heap *h)
{
    atomic_init(&h->asked, 0);
    atomic_init(&h->live_blocks, 0);
    atomic_init(&h->live_bytes, 0);
    atomic_init(&h->most_bytes, 0);
    atomic_init(&h->fail_at, -1);
    atomic_init(&h->persistent, false);
    atomic_init(&h->failed, 0);
}

void *heap_alloc(void *user, size_t bytes, size_t align)
{
    heap *h = user;
    const long number = atomic_fetch_add(&h->asked, 1), fail_at = atomic_load(&h->fail_at);
    if (bytes == 0 || align == 0 || (align & (align - 1)))
        ck_abort_msg("alloc(%zu, %zu)", bytes, align);
    if (fail_at >= 0 && (number == fail_at || (number > fail_at && atomic_load(&h->persistent)))) {
        atomic_fetch_add(&h->failed, 1);
        return NULL;
    }
    if (bytes > (size_t)1 << 40)
        return NULL;
    unsigned char *block = malloc(bytes + sizeof(tag) + align);
    if (!block)
        return NULL;
    unsigned char *p = block + sizeof(tag);
    p += -(uintptr_t)p & (align - 1);
    const tag t = {block, bytes, align, live_magic};
    memcpy(p - sizeof t, &t, sizeof t);
    memset(p, FRESH, bytes);
    atomic_fetch_add(&h->live_blocks, 1);
    const long live = atomic_fetch_add(&h->live_bytes, (long)bytes) + (long)bytes;
    long most = atomic_load(&h->most_bytes);
    while (most < live && !atomic_compare_exchange_weak(&h->most_bytes, &most, live))
        ;
    return p;
}

void heap_free(void *user, void *p, size_t bytes, size_t align)
{
    heap *h = user;
    tag t;
    if (!p)
        ck_abort_msg("free of NULL");
    memcpy(&t, (unsigned char *)p - sizeof t, sizeof t);
    if (t.magic != live_magic)
        ck_abort_msg("free of something that is not live");
    if (t.bytes != bytes || t.align != align)
        ck_abort_msg("given with %zu bytes at %zu, taken back with %zu at %zu", t.bytes, t.align, bytes, align);
    atomic_fetch_sub(&h->live_blocks, 1);
    atomic_fetch_sub(&h->live_bytes, (long)bytes);
    memset((unsigned char *)p - sizeof t, TAKEN_BACK, sizeof t + bytes);
    free(t.block);
}

/* ---- runners ---- */

int32_t run_forwards(void *user, void *job, sae_task task, uint32_t n)
{
    (void)user;
    for (uint32_t i = 0; i < n; i++)
        task(job, i, 0);
    return 0;
}

int32_t run_backwards(void *user, void *job, sae_task task, uint32_t n)
{
    (void)user;
    while (n--)
        task(job, n, 0);
    return 0;
}

int32_t run_shuffled(void *user, void *job, sae_task task, uint32_t n)
{
    rng r = {n};
    uint32_t *order = malloc(n * sizeof *order);
    (void)user;
    ck_assert_ptr_nonnull(order);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t j = rng_below(&r, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (uint32_t i = 0; i < n; i++)
        task(job, order[i], i % 3);
    free(order);
    return 0;
}

typedef struct one_task {
    void *job;
    sae_task task;
    uint32_t i, worker;
} one_task;

static void *run_one(void *arg)
{
    const one_task *t = arg;
    t->task(t->job, t->i, t->worker);
    return NULL;
}

int32_t run_thread_each(void *user, void *job, sae_task task, uint32_t n)
{
    (void)user;
    for (uint32_t first = 0; first < n; first += THREADS_AT_ONCE) {
        pthread_t threads[THREADS_AT_ONCE];
        one_task tasks[THREADS_AT_ONCE];
        uint32_t started = 0;
        for (; started < THREADS_AT_ONCE && first + started < n; started++) {
            tasks[started] = (one_task){job, task, first + started, started};
            if (pthread_create(threads + started, NULL, run_one, tasks + started))
                break;
        }
        for (uint32_t i = 0; i < started; i++)
            pthread_join(threads[i], NULL);
        if (started < THREADS_AT_ONCE && first + started < n)
            return 1;
    }
    return 0;
}

int32_t run_failing(void *user, void *job, sae_task task, uint32_t n)
{
    int *left = user;
    if (*left > 0) {
        --*left;
        return run_forwards(NULL, job, task, n);
    }
    run_forwards(NULL, job, task, n / 2);
    return 7;
}

sae_env *env_make(heap *h, sae_isa isa, sae_run_fn run, void *run_user, uint32_t max_workers)
{
    sae_env_options opt = {0};
    sae_error err = {0};
    sae_env *env;
    opt.struct_size = sizeof opt;
    opt.isa = isa;
    opt.run = run;
    opt.run_user = run_user;
    opt.max_workers = max_workers;
    if (h) {
        opt.alloc = heap_alloc;
        opt.dealloc = heap_free;
        opt.alloc_user = h;
    }
    const sae_status status = sae_env_create(&env, &opt, &err);
    ck_assert_msg(status == SAE_OK, "%s: %s", sae_status_name(status), err.text);
    return env;
}

sae_env *counted_env(heap *h)
{
    heap_init(h);
    return env_make(h, SAE_ISA_AUTO, NULL, NULL, 0);
}

void counted_env_free(heap *h, sae_env *env)
{
    sae_env_free(env);
    ck_assert_int_eq(atomic_load(&h->live_blocks), 0);
}

size_t isas_available(sae_isa out[8])
{
    static const sae_isa all[] = {SAE_ISA_SCALAR, SAE_ISA_NEON, SAE_ISA_AVX2, SAE_ISA_AVX512};
    size_t n = 0;
    for (size_t i = 0; i < LENGTH(all); i++)
        if (sae_isa_available(all[i]) == SAE_YES)
            out[n++] = all[i];
    return n;
}

/* ---- floating-point mode ---- */

uint64_t fp_mode(void)
{
#if defined(__x86_64__)
    uint32_t now;
    __asm__ volatile("stmxcsr %0" : "=m"(now));
    return now & 0xffc0u; /* without the sticky flags */
#else
    uint64_t now;
    __asm__ volatile("mrs %0, fpcr" : "=r"(now));
    return now;
#endif
}

void fp_flush(void)
{
#if defined(__x86_64__)
    const uint32_t mode = (uint32_t)fp_mode() | 0x8040u;
    __asm__ volatile("ldmxcsr %0" : : "m"(mode));
#else
    __asm__ volatile("msr fpcr, %0" : : "r"(fp_mode() | (uint64_t)1 << 24));
#endif
}

/* ---- models ---- */

static float *vector_of(rng *r, int32_t n, double a, double b)
{
    float *v = malloc((size_t)n * sizeof *v);
    ck_assert_ptr_nonnull(v);
    for (int32_t i = 0; i < n; i++)
        v[i] = (float)rng_between(r, a, b);
    return v;
}

static float *matrix_of(rng *r, size_t n, double scale)
{
    float *v = malloc(n * sizeof *v);
    ck_assert_ptr_nonnull(v);
    for (size_t i = 0; i < n; i++)
        v[i] = to_grid(scale * (double)rng_weight(r));
    return v;
}

/* The matrix as the caller of sae_model_create stores it, at an odd address. */
static void *stored(void **block, const float *v, sae_dtype dtype, int32_t n, int32_t d, bool by_cols)
{
    const size_t each = sae_dtype_bytes(dtype);
    unsigned char *p = malloc((size_t)n * (size_t)d * each + 1);
    ck_assert_ptr_nonnull(p);
    *block = p++;
    for (size_t i = 0; i < (size_t)n; i++)
        for (size_t k = 0; k < (size_t)d; k++)
            element_store(p + (by_cols ? k * (size_t)n + i : i * (size_t)d + k) * each, dtype, (double)v[i * (size_t)d + k]);
    return p;
}

/* Some features are twins: their pre-activations are equal to the bit, so that selection has ties to break. */
static void make_twins(planted *p)
{
    const size_t d = (size_t)p->weights.d_in;
    for (int32_t j = 6; j < p->weights.d_sae; j += 7) {
        memcpy(p->enc + (size_t)j * d, p->enc + (size_t)(j - 4) * d, d * sizeof(float));
        p->b_enc[j] = p->b_enc[j - 4];
    }
}

void planted_make(planted *p, sae_weights shape, uint64_t seed)
{
    rng r = {seed * 1000003u + (uint64_t)shape.d_sae};
    *p = (planted){.weights = shape};
    sae_weights *w = &p->weights;
    w->struct_size = sizeof *w;
    if (!w->d_out)
        w->d_out = w->d_in;
    const size_t n = (size_t)w->d_sae, d_in = (size_t)w->d_in, d_out = (size_t)w->d_out;
    p->enc = matrix_of(&r, n * d_in, 1.0 / sqrt((double)d_in));
    p->dec = matrix_of(&r, n * d_out, 1.0 / sqrt((double)d_out));
    for (size_t i = 0; d_in == d_out && i < n * d_in; i++)
        p->dec[i] = to_grid(0.9 * (double)p->enc[i] + 0.3 * (double)p->dec[i]);
    p->b_enc = vector_of(&r, w->d_sae, -0.3, 0.1);
    p->b_dec = vector_of(&r, w->d_out, -0.2, 0.2);
    p->threshold = vector_of(&r, w->d_sae, -0.1, 0.6);
    p->b_gate = vector_of(&r, w->d_sae, -0.4, 0.1);
    p->b_mag = vector_of(&r, w->d_sae, -0.2, 0.2);
    p->r_mag = vector_of(&r, w->d_sae, -0.5, 0.5);
    make_twins(p);
    if (w->arch == SAE_MATCHING_PURSUIT) /* one dictionary */
        memcpy(p->dec, p->enc, n * d_in * sizeof(float));
    p->skip = w->w_skip ? matrix_of(&r, d_out * d_in, 1.0 / sqrt((double)d_in)) : NULL;
    w->w_skip = w->w_skip ? stored(p->blocks + 2, p->skip, w->dtype, w->d_out, w->d_in, false) : NULL;
    w->w_enc = stored(p->blocks, p->enc, w->dtype, w->d_sae, w->d_in, !(w->flags & SAE_W_ENC_BY_ROWS));
    w->w_dec = stored(p->blocks + 1, p->dec, w->dtype, w->d_sae, w->d_out, w->flags & SAE_W_DEC_BY_COLS);
    if (w->arch == SAE_MATCHING_PURSUIT)
        w->w_enc = NULL;
    w->b_enc = w->arch == SAE_GATED || w->arch == SAE_MATCHING_PURSUIT ? NULL : p->b_enc;
    w->b_dec = p->b_dec;
    w->threshold = w->arch == SAE_JUMPRELU ? p->threshold : NULL;
    w->b_gate = w->arch == SAE_GATED ? p->b_gate : NULL;
    w->b_mag = w->arch == SAE_GATED ? p->b_mag : NULL;
    w->r_mag = w->arch == SAE_GATED ? p->r_mag : NULL;
}

void planted_free(planted *p)
{
    float *const arrays[] = {p->enc, p->dec, p->b_enc, p->b_dec, p->threshold, p->b_gate, p->b_mag, p->r_mag, p->skip};
    for (size_t i = 0; i < LENGTH(arrays); i++)
        free(arrays[i]);
    free(p->blocks[0]);
    free(p->blocks[1]);
    free(p->blocks[2]);
    *p = (planted){0};
}

sae_model *planted_model(const planted *p, sae_env *env)
{
    sae_error err = {0};
    sae_model *model;
    const sae_status status = sae_model_create(&model, env, &p->weights, &err);
    ck_assert_msg(status == SAE_OK, "%s: %s", sae_status_name(status), err.text);
    return model;
}

float *planted_rows(const planted *p, int64_t n, uint64_t seed)
{
    const size_t d = (size_t)p->weights.d_in;
    rng r = {seed};
    float *x = malloc((size_t)(n ? n : 1) * d * sizeof *x);
    ck_assert_ptr_nonnull(x);
    for (int64_t i = 0; i < n; i++)
        for (size_t k = 0; k < d; k++) {
            double v = 0.25 * (double)rng_weight(&r);
            for (uint64_t t = 0; t < 4; t++) {
                const uint64_t j = (seed + (uint64_t)i * 7919u + t * 104729u) % (uint64_t)p->weights.d_sae;
                v += (2.0 + (double)t) * (double)p->enc[j * d + k];
            }
            x[(size_t)i * d + k] = to_grid(v);
        }
    return x;
}

/* ---- answers to the bit ---- */

static void normalise(const planted *p, const float *x, float *xc, float *scale, float *shift)
{
    const sae_weights *w = &p->weights;
    const size_t d = (size_t)w->d_in;
    double sum = 0.0, squares = 0.0;
    *scale = 1.0f;
    *shift = 0.0f;
    memcpy(xc, x, d * sizeof *xc);
    if (w->norm == SAE_NORM_SCALE) {
        *scale = 1.0f / w->norm_scaling_factor;
        for (size_t k = 0; k < d; k++)
            xc[k] = x[k] * w->norm_scaling_factor;
    } else if (w->norm == SAE_NORM_CONSTANT) {
        for (size_t k = 0; k < d; k++)
            squares += (double)x[k] * (double)x[k];
        const double norm = sqrt(squares), root = sqrt((double)d);
        *scale = (float)(norm / root);
        for (size_t k = 0; k < d; k++)
            xc[k] = x[k] * (float)(root / norm);
    } else if (w->norm == SAE_NORM_LAYER) {
        for (size_t k = 0; k < d; k++)
            sum += (double)x[k];
        const double mean = sum / (double)d;
        for (size_t k = 0; k < d; k++)
            squares += ((double)x[k] - mean) * ((double)x[k] - mean);
        *scale = (float)sqrt(squares / (double)(d - 1));
        *shift = (float)mean;
        for (size_t k = 0; k < d; k++)
            xc[k] = (x[k] - *shift) / (*scale + 1e-5f);
    }
    if (w->flags & SAE_NORM_IN_ONLY) {
        *scale = 1.0f;
        *shift = 0.0f;
    }
    for (size_t k = 0; (w->flags & SAE_APPLY_B_DEC) && k < d; k++)
        xc[k] -= p->b_dec[k];
}

static float length_of_row(const planted *p, size_t j)
{
    const size_t d = (size_t)p->weights.d_out;
    double squares = 0.0;
    for (size_t k = 0; k < d; k++)
        squares += (double)p->dec[j * d + k] * (double)p->dec[j * d + k];
    return (float)sqrt(squares);
}

/* Sort order of the selection: larger first, then lower index. */
typedef struct candidate {
    double value;
    size_t j;
} candidate;

static int by_rank(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->j < y->j ? -1 : 1;
}

/* The k largest stay, by their size if so; what is no candidate is -INFINITY or 0. */
static void keep_k(double *h, size_t n, size_t k, bool by_size)
{
    candidate *all = malloc(n * sizeof *all);
    ck_assert_ptr_nonnull(all);
    for (size_t j = 0; j < n; j++)
        all[j] = (candidate){by_size && isfinite(h[j]) ? fabs(h[j]) : h[j], j};
    qsort(all, n, sizeof *all, by_rank);
    for (size_t i = k; i < n; i++)
        h[all[i].j] = 0.0;
    free(all);
}

/* The largest of each of k groups stays, the first of equals. */
static void keep_best_of_groups(double *h, size_t n, size_t k)
{
    for (size_t first = 0; first < n; first += n / k) {
        size_t best = first;
        for (size_t j = first; j < first + n / k; j++)
            best = h[j] > h[best] ? j : best;
        for (size_t j = first; j < first + n / k; j++)
            h[j] = j == best ? h[j] : 0.0;
    }
}

static bool negatives(const planted *p)
{
    return p->weights.arch == SAE_ABSTOPK || (p->weights.flags & SAE_KEEP_NEGATIVE);
}

/* What competing features leave of candidates, of which those that are none are -INFINITY where codes may be negative, else 0. */
static void compete(const planted *p, double *h)
{
    const sae_weights *w = &p->weights;
    const size_t n = (size_t)w->d_sae;
    if (w->arch == SAE_TOPK || w->arch == SAE_ABSTOPK)
        keep_k(h, n, (size_t)w->k, w->arch == SAE_ABSTOPK);
    if (w->arch == SAE_GROUPMAX)
        keep_best_of_groups(h, n, (size_t)w->k);
    for (size_t j = 0; j < n; j++)
        h[j] = isfinite(h[j]) ? h[j] : 0.0;
}

/* The first of the largest finite v above 0, or n. */
static size_t best_of(const double *v, size_t n)
{
    size_t best = n;
    for (size_t j = 0; j < n; j++)
        if (isfinite(v[j]) && v[j] > (best < n ? v[best] : 0.0))
            best = j;
    return best;
}

/* The rounds of a matching pursuit from what is left of a row; every step as the library rounds it. */
static int64_t pursue(const planted *p, float *left, float *dense, float *pre)
{
    const sae_weights *w = &p->weights;
    const size_t n = (size_t)w->d_sae, d = (size_t)w->d_in;
    double *dots = malloc(n * sizeof *dots), length = INFINITY;
    int64_t nonfinite = 0;
    bool more = true;
    ck_assert_ptr_nonnull(dots);
    memset(dense, 0, n * sizeof *dense);
    for (int32_t round = 0; more && round < (w->k ? w->k : w->d_in); round++) {
        for (size_t j = 0; j < n; j++) {
            float acc = 0.0f;
            for (size_t k = 0; k < d; k++)
                acc = fmaf(p->enc[j * d + k], left[k], acc);
            dots[j] = (double)acc;
            nonfinite += !round && !isfinite(acc);
            if (!round && pre)
                pre[j] = acc;
        }
        const size_t best = best_of(dots, n);
        if (best == n)
            break;
        const float v = (float)dots[best], sum = dense[best] + v;
        more = dense[best] == 0.0f || !(w->flags & SAE_STOP_ON_REPEAT);
        dense[best] = isfinite(sum) ? sum : dense[best];
        length = 0.0;
        for (size_t k = 0; k < d; k++) {
            left[k] = fmaf(-v, p->enc[best * d + k], left[k]);
            length += (double)left[k] * (double)left[k];
        }
        more &= !(w->residual_threshold > 0.0f && sqrt(length) < (double)w->residual_threshold);
    }
    free(dots);
    return nonfinite;
}

/* Feature j's pre-activation and value from its dot. */
static float value_of(const planted *p, size_t j, float dot, float *h)
{
    const sae_weights *w = &p->weights;
    if (w->arch == SAE_GATED) {
        *h = dot + p->b_gate[j];
        return fmaf(dot, (float)exp((double)p->r_mag[j]), p->b_mag[j]);
    }
    *h = w->b_enc ? dot + p->b_enc[j] : dot;
    if (w->flags & SAE_RESCALE_BY_DECODER_NORM)
        *h = *h * length_of_row(p, j);
    return *h;
}

/* Is it a candidate? */
static bool is_on(const planted *p, size_t j, double h, double value)
{
    if (p->weights.arch == SAE_JUMPRELU && !(h > (double)p->threshold[j]))
        return false;
    return negatives(p) || (h > 0.0 && value > 0.0);
}

int64_t answer_encode(const planted *p, const float *x, float *dense, float *pre, float *scale, float *shift)
{
    const sae_weights *w = &p->weights;
    const size_t n = (size_t)w->d_sae, d = (size_t)w->d_in;
    const double off = negatives(p) ? -INFINITY : 0.0;
    int64_t nonfinite = 0;
    float *xc = malloc(d * sizeof *xc);
    double *codes = malloc(n * sizeof *codes);
    ck_assert(xc && codes);
    normalise(p, x, xc, scale, shift);
    for (size_t j = 0; j < n && w->arch != SAE_MATCHING_PURSUIT; j++) {
        float acc = 0.0f, h;
        for (size_t k = 0; k < d; k++)
            acc = fmaf(p->enc[j * d + k], xc[k], acc);
        const float value = value_of(p, j, acc, &h);
        const bool finite = isfinite(h) && isfinite(value);
        nonfinite += !finite;
        codes[j] = finite && is_on(p, j, (double)h, (double)value) ? (double)value : off;
        if (pre)
            pre[j] = h;
    }
    if (w->arch == SAE_MATCHING_PURSUIT) {
        nonfinite = pursue(p, xc, dense, pre);
    } else {
        compete(p, codes);
        for (size_t j = 0; j < n; j++) {
            dense[j] = codes[j] == 0.0 ? 0.0f : (float)codes[j]; /* no -0 */
            if (w->flags & SAE_RETURN_UNSCALED && dense[j] != 0.0f)
                dense[j] /= length_of_row(p, j);
        }
    }
    free(xc);
    free(codes);
    return nonfinite;
}

/* Does decoding divide by the decoder norm, and is b_dec added? */
static bool divides(const sae_weights *w)
{
    return (w->flags & SAE_RESCALE_BY_DECODER_NORM) && !(w->flags & SAE_RETURN_UNSCALED);
}

static bool has_b_dec(const sae_weights *w)
{
    return w->b_dec && (w->arch != SAE_MATCHING_PURSUIT || (w->flags & SAE_APPLY_B_DEC));
}

void answer_decode(const planted *p, const float *dense, float scale, float shift, float *y)
{
    const sae_weights *w = &p->weights;
    const size_t n = (size_t)w->d_sae, d = (size_t)w->d_out;
    for (size_t k = 0; k < d; k++) {
        float acc = has_b_dec(w) ? p->b_dec[k] : 0.0f;
        for (size_t j = 0; j < n; j++) {
            if (dense[j] == 0.0f)
                continue;
            float f = dense[j];
            if (divides(w))
                f = f * (1.0f / length_of_row(p, j));
            acc = fmaf(f, p->dec[j * d + k], acc);
        }
        y[k] = w->norm == SAE_NORM_NONE || (w->flags & SAE_NORM_IN_ONLY) ? acc : fmaf(acc, scale, shift);
    }
}

void answer_skip(const planted *p, const float *x, float *y)
{
    const size_t d = (size_t)p->weights.d_in;
    for (int32_t o = 0; p->skip && o < p->weights.d_out; o++) {
        float acc = 0.0f;
        for (size_t k = 0; k < d; k++)
            acc = fmaf(p->skip[(size_t)o * d + k], x[k], acc);
        y[o] += acc;
    }
}

/* ---- answers in double ---- */

typedef struct normaliser {
    double scale, shift, divisor;
} normaliser;

static normaliser normaliser_of(const planted *p, const float *x)
{
    const sae_weights *w = &p->weights;
    const double d = (double)w->d_in;
    double sum = 0.0, squares = 0.0;
    for (int32_t k = 0; k < w->d_in; k++)
        sum += (double)x[k];
    const double shift = w->norm == SAE_NORM_LAYER ? sum / d : 0.0;
    for (int32_t k = 0; k < w->d_in; k++)
        squares += ((double)x[k] - shift) * ((double)x[k] - shift);
    if (w->norm == SAE_NORM_LAYER)
        return (normaliser){sqrt(squares / (d - 1.0)), shift, sqrt(squares / (d - 1.0)) + 1e-5};
    if (w->norm == SAE_NORM_CONSTANT)
        return (normaliser){sqrt(squares / d), 0.0, sqrt(squares / d)};
    if (w->norm == SAE_NORM_SCALE)
        return (normaliser){1.0 / (double)w->norm_scaling_factor, 0.0, 1.0 / (double)w->norm_scaling_factor};
    return (normaliser){1.0, 0.0, 1.0};
}

static void pursue_double(const planted *p, double *left, double *dense)
{
    const sae_weights *w = &p->weights;
    const size_t n = (size_t)w->d_sae, d = (size_t)w->d_in;
    double *dots = malloc(n * sizeof *dots);
    bool more = true;
    ck_assert_ptr_nonnull(dots);
    memset(dense, 0, n * sizeof *dense);
    for (int32_t round = 0; more && round < (w->k ? w->k : w->d_in); round++) {
        for (size_t j = 0; j < n; j++) {
            dots[j] = 0.0;
            for (size_t k = 0; k < d; k++)
                dots[j] += (double)p->enc[j * d + k] * left[k];
        }
        const size_t best = best_of(dots, n);
        if (best == n)
            break;
        double squares = 0.0;
        for (size_t k = 0; k < d; k++) {
            left[k] -= dots[best] * (double)p->enc[best * d + k];
            squares += left[k] * left[k];
        }
        more = dense[best] == 0.0 || !(w->flags & SAE_STOP_ON_REPEAT);
        more &= !(w->residual_threshold > 0.0f && sqrt(squares) < (double)w->residual_threshold);
        dense[best] += dots[best];
    }
    free(dots);
}

void answer_encode_double(const planted *p, const float *x, double *dense, double *pre)
{
    const sae_weights *w = &p->weights;
    const size_t n = (size_t)w->d_sae, d = (size_t)w->d_in;
    const normaliser norm = normaliser_of(p, x);
    double *xc = malloc(d * sizeof *xc);
    ck_assert_ptr_nonnull(xc);
    for (size_t k = 0; k < d; k++)
        xc[k] = ((double)x[k] - norm.shift) / norm.divisor - (w->flags & SAE_APPLY_B_DEC ? (double)p->b_dec[k] : 0.0);
    for (size_t j = 0; j < n; j++) {
        double u = 0.0;
        for (size_t k = 0; k < d; k++)
            u += (double)p->enc[j * d + k] * xc[k];
        double h = u + (w->arch == SAE_GATED ? (double)p->b_gate[j] : w->b_enc ? (double)p->b_enc[j] : 0.0), value = h;
        if (w->flags & SAE_RESCALE_BY_DECODER_NORM)
            value = h = h * (double)length_of_row(p, j);
        if (w->arch == SAE_GATED)
            value = exp((double)p->r_mag[j]) * u + (double)p->b_mag[j];
        dense[j] = is_on(p, j, h, value) ? value : negatives(p) ? -INFINITY : 0.0;
        pre[j] = h;
    }
    compete(p, dense);
    for (size_t j = 0; j < n && (w->flags & SAE_RETURN_UNSCALED); j++)
        dense[j] /= (double)length_of_row(p, j);
    if (w->arch == SAE_MATCHING_PURSUIT)
        pursue_double(p, xc, dense);
    free(xc);
}

void answer_decode_double(const planted *p, const double *dense, const float *x, double *y)
{
    const sae_weights *w = &p->weights;
    const size_t n = (size_t)w->d_sae, d = (size_t)w->d_out;
    const normaliser norm = normaliser_of(p, x);
    for (size_t k = 0; k < d; k++)
        y[k] = has_b_dec(w) ? (double)p->b_dec[k] : 0.0;
    for (size_t j = 0; j < n; j++) {
        if (dense[j] == 0.0)
            continue;
        const double f = divides(w) ? dense[j] / (double)length_of_row(p, j) : dense[j];
        for (size_t k = 0; k < d; k++)
            y[k] += f * (double)p->dec[j * d + k];
    }
    for (size_t k = 0; k < d && !(w->flags & SAE_NORM_IN_ONLY); k++)
        y[k] = y[k] * norm.scale + norm.shift;
}

/* ---- refusals ---- */

void refusal(int line, sae_status got, sae_status want, const char *sentence, const char *words)
{
    char all[300], *rest = NULL;
    ck_assert_msg(got == want, "line %d: %s, not %s: %s", line, sae_status_name(got), sae_status_name(want), sentence);
    ck_assert_uint_lt(strlen(words), sizeof all);
    strcpy(all, words);
    for (const char *word = strtok_r(all, "|", &rest); word; word = strtok_r(NULL, "|", &rest))
        ck_assert_msg(strstr(sentence, word) != NULL, "line %d: \"%s\" is not in: %s", line, word, sentence);
}

void *resized(const void *src, size_t src_bytes, size_t bytes, unsigned char last)
{
    const uint32_t struct_size = (uint32_t)bytes;
    unsigned char *p =
        calloc(1, bytes < sizeof struct_size ? sizeof struct_size : bytes); /* not a byte more: a sanitizer sees reads past it */
    ck_assert_ptr_nonnull(p);
    memcpy(p, src, src_bytes < bytes ? src_bytes : bytes);
    if (bytes > src_bytes)
        p[bytes - 1] = last;
    memcpy(p, &struct_size, sizeof struct_size);
    return p;
}

/* ---- codes ---- */

sae_codes codes_make(int64_t n_rows, int64_t capacity, bool with_norm)
{
    sae_codes c = {0};
    const size_t rows = (size_t)n_rows, room = (size_t)(capacity ? capacity : 1);
    c.struct_size = sizeof c;
    c.n_rows = n_rows;
    c.capacity = capacity;
    c.indptr = calloc(rows + 1, sizeof *c.indptr);
    c.indices = calloc(room, sizeof *c.indices);
    c.values = calloc(room, sizeof *c.values);
    c.row_scale = with_norm ? calloc(rows + 1, sizeof *c.row_scale) : NULL;
    c.row_shift = with_norm ? calloc(rows + 1, sizeof *c.row_shift) : NULL;
    ck_assert(c.indptr && c.indices && c.values && (!with_norm || (c.row_scale && c.row_shift)));
    return c;
}

void codes_free(sae_codes *c)
{
    free(c->indptr);
    free(c->indices);
    free(c->values);
    free(c->row_scale);
    free(c->row_shift);
    *c = (sae_codes){0};
}

sae_codes codes_of(sae_ctx *ctx, const sae_rows *x)
{
    sae_codes c = codes_make(x->n_rows, 0, true);
    sae_status status = sae_encode(ctx, &c, x);
    if (status == SAE_E_CAPACITY) {
        const int64_t needed = c.indptr[x->n_rows];
        codes_free(&c);
        c = codes_make(x->n_rows, needed, true);
        status = sae_encode(ctx, &c, x);
    }
    ck_assert_msg(status == SAE_OK, "%s: %s", sae_status_name(status), sae_ctx_error(ctx));
    return c;
}

bool codes_same(const sae_codes *a, const sae_codes *b)
{
    const size_t rows = (size_t)a->n_rows;
    if (a->n_rows != b->n_rows || memcmp(a->indptr, b->indptr, (rows + 1) * sizeof *a->indptr))
        return false;
    const size_t n = (size_t)a->indptr[rows];
    return !memcmp(a->indices, b->indices, n * sizeof *a->indices) && !memcmp(a->values, b->values, n * sizeof *a->values) &&
           !memcmp(a->row_scale, b->row_scale, rows * sizeof *a->row_scale) &&
           !memcmp(a->row_shift, b->row_shift, rows * sizeof *a->row_shift);
}

sae_ctx *ctx_make(sae_model *model, int32_t max_rows)
{
    sae_ctx_options opt = {.struct_size = sizeof opt, .max_rows = max_rows, .screen = SAE_YES};
    sae_error err = {0};
    sae_ctx *ctx;
    const sae_status status = sae_ctx_create(&ctx, model, &opt, &err);
    ck_assert_msg(status == SAE_OK, "%s: %s", sae_status_name(status), err.text);
    return ctx;
}
