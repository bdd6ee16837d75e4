/* The machine's ceilings: how fast it reads memory, how many fused multiply-adds and how many products of bytes it does, so that times
 * can be given as fractions of what is possible in the same minute. Cases: `read mib=N` (count = bytes), `fma` and `dot8` (count = operations,
 * two for each product that is added up). Compiled with -ffp-contract=fast: here, and only here, a * b + c shall become one FMA. */
#include "worker.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#endif

enum { MAX_THREADS = 256, LINE = 64, FMA_STEPS = 200000 };

typedef void (*body)(const unsigned char *p, size_t bytes, uint64_t *sink);

/* ---- kernels ---- */

/* Reads `streams` runs of memory side by side, with or without asking for what comes next. */
#define READER(name, isa, width, streams, ahead)                                             \
    isa static void name(const unsigned char *p, size_t bytes, uint64_t *sink)               \
    {                                                                                        \
        typedef uint64_t vec __attribute__((vector_size(width), aligned(width), may_alias)); \
        const size_t part = bytes / (streams) / 256 * 256;                                   \
        vec sum[4] = {{0}};                                                                  \
        for (size_t i = 0; i < part; i += 256)                                               \
            for (size_t s = 0; s < (streams); s++) {                                         \
                const unsigned char *q = p + s * part + i;                                   \
                for (size_t l = 0; (ahead) && l < 256; l += LINE)                            \
                    __builtin_prefetch(q + (ahead) + l);                                     \
                for (size_t v = 0; v < 256 / (width); v++)                                   \
                    sum[v % 4] ^= ((const vec *)(const void *)q)[v];                         \
            }                                                                                \
        sum[0] ^= sum[1] ^ sum[2] ^ sum[3];                                                  \
        *sink ^= sum[0][0] ^ sum[0][1];                                                      \
    }

/* Twelve independent chains of FMAs in registers. */
#define FMAS(name, isa, width)                                                                             \
    isa static void name(const unsigned char *p, size_t bytes, uint64_t *sink)                             \
    {                                                                                                      \
        typedef float vec __attribute__((vector_size(width)));                                             \
        vec a0 = {(float)p[0]}, a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, a8 = a0;    \
        vec a9 = a0, a10 = a0, a11 = a0, m = a0, c = a0;                                                   \
        m = m * 0 + 0.999f;                                                                                \
        c = c * 0 + 0.001f;                                                                                \
        for (size_t i = 0; i < bytes; i++) {                                                               \
            a0 = a0 * m + c, a1 = a1 * m + c, a2 = a2 * m + c, a3 = a3 * m + c, a4 = a4 * m + c;           \
            a5 = a5 * m + c, a6 = a6 * m + c, a7 = a7 * m + c, a8 = a8 * m + c, a9 = a9 * m + c;           \
            a10 = a10 * m + c, a11 = a11 * m + c;                                                          \
            /* else twelve equal chains become one */                                                      \
            __asm__ volatile("" : REG(a0), REG(a1), REG(a2), REG(a3), REG(a4), REG(a5), REG(a6), REG(a7)); \
            __asm__ volatile("" : REG(a8), REG(a9), REG(a10), REG(a11));                                   \
        }                                                                                                  \
        const vec sum = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11;                       \
        *sink += (uint64_t)sum[0];                                                                         \
    }

#define READERS(isa, attribute, width)                 \
    READER(read_##isa##_1, attribute, width, 1, 0)     \
    READER(read_##isa##_1p, attribute, width, 1, 1024) \
    READER(read_##isa##_4p, attribute, width, 4, 1024) \
    READER(read_##isa##_8p, attribute, width, 8, 512)  \
    FMAS(fma_##isa, attribute, width)                  \
    static const table table_##isa = {                 \
        {read_##isa##_1, read_##isa##_1p, read_##isa##_4p, read_##isa##_8p}, fma_##isa, (width) / sizeof(float), #isa};

enum { N_READERS = 4 };

typedef struct table {
    body readers[N_READERS];
    body fma;
    size_t lanes;
    const char *name;
} table;

#if defined(__x86_64__)
#define REG(a) "+v"(a)
READERS(avx512, __attribute__((target("avx512f"))), 64)
READERS(avx2, __attribute__((target("avx2,fma"))), 32)
READERS(sse2, , 16)
#elif defined(__aarch64__)
#define REG(a) "+w"(a)
READERS(neon, , 16)
#else
#define REG(a) "+m"(a)
READERS(portable, , 16)
#endif

/* Twelve independent chains of products of bytes, added up in 32 bits. STEP(a) adds those of x and w to a. */
#define DOTS(name, attribute, vec, STEP)                                                                   \
    attribute static void name(const unsigned char *p, size_t bytes, uint64_t *sink)                       \
    {                                                                                                      \
        vec x, w, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11;                                        \
        memcpy(&x, p, sizeof x);                                                                           \
        w = a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = a8 = a9 = a10 = a11 = x;                               \
        for (size_t i = 0; i < bytes; i++) {                                                               \
            STEP(a0), STEP(a1), STEP(a2), STEP(a3), STEP(a4), STEP(a5), STEP(a6), STEP(a7), STEP(a8);      \
            STEP(a9), STEP(a10), STEP(a11);                                                                \
            __asm__ volatile("" : REG(a0), REG(a1), REG(a2), REG(a3), REG(a4), REG(a5), REG(a6), REG(a7)); \
            __asm__ volatile("" : REG(a8), REG(a9), REG(a10), REG(a11), REG(x), REG(w));                   \
        }                                                                                                  \
        const vec sum = a0 ^ a1 ^ a2 ^ a3 ^ a4 ^ a5 ^ a6 ^ a7 ^ a8 ^ a9 ^ a10 ^ a11;                       \
        *sink += (uint64_t)sum[0];                                                                         \
    }

/* The best way that a processor has to multiply bytes. */
typedef struct dots {
    body f;       /* NULL: none */
    size_t bytes; /* products of a step */
    const char *name;
} dots;

#if defined(__x86_64__)
#define STEP_VNNI512(a) a = _mm512_dpbusd_epi32(a, x, w)
#define STEP_VNNI256(a) a = _mm256_dpbusd_avx_epi32(a, x, w)
#define STEP_AVX2(a) a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(x, w), _mm256_set1_epi16(1)))
DOTS(dot_avx512_vnni, __attribute__((target("avx512f,avx512vnni"))), __m512i, STEP_VNNI512)
DOTS(dot_avx_vnni, __attribute__((target("avx2,avxvnni"))), __m256i, STEP_VNNI256)
DOTS(dot_avx2, __attribute__((target("avx2"))), __m256i, STEP_AVX2)

static bool has_avx_vnni(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

static dots choose_dots(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"))
        return (dots){dot_avx512_vnni, 64, "avx512-vnni"};
    if (!__builtin_cpu_supports("avx2"))
        return (dots){NULL, 0, "none"};
    return has_avx_vnni() ? (dots){dot_avx_vnni, 32, "avx-vnni"} : (dots){dot_avx2, 32, "avx2"};
}
#elif defined(__aarch64__)
#define STEP_SDOT(a) a = vdotq_s32(a, (int8x16_t)x, (int8x16_t)w)
#define STEP_I8MM(a) a = vusmmlaq_s32(a, (uint8x16_t)x, (int8x16_t)w) /* 32 products */
#define STEP_NEON(a) a = vpadalq_s16(vpadalq_s16(a, vmull_s8(LOW(x), LOW(w))), vmull_high_s8((int8x16_t)x, (int8x16_t)w))
#define LOW(v) vget_low_s8((int8x16_t)(v))
DOTS(dot_sdot, __attribute__((target("arch=armv8.2-a+dotprod"))), int32x4_t, STEP_SDOT)
DOTS(dot_i8mm, __attribute__((target("arch=armv8.2-a+i8mm"))), int32x4_t, STEP_I8MM)
DOTS(dot_neon, , int32x4_t, STEP_NEON)

static dots choose_dots(void)
{
    if (getauxval(AT_HWCAP2) & HWCAP2_I8MM)
        return (dots){dot_i8mm, 32, "neon-i8mm"};
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? (dots){dot_sdot, 16, "neon-dotprod"} : (dots){dot_neon, 16, "neon"};
}
#else
static dots choose_dots(void)
{
    return (dots){NULL, 0, "none"};
}
#endif

static const table *choose(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return &table_avx512;
    return __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2") ? &table_avx2 : &table_sse2;
#elif defined(__aarch64__)
    return &table_neon;
#else
    return &table_portable;
#endif
}

/* ---- threads ---- */

typedef struct part {
    body f;
    const unsigned char *p;
    size_t n;
    int times;
    uint64_t sink;
} part;

static const table *kernels;
static dots byte_products;
static unsigned char *memory;
static size_t memory_bytes;
static int n_threads = 1, n_runs;
static part parts[MAX_THREADS];

static void *work(void *arg)
{
    part *p = arg;
    for (int i = 0; i < p->times; i++)
        p->f(p->p, p->n, &p->sink);
    return NULL;
}

static void run_all(void)
{
    pthread_t threads[MAX_THREADS];
    int started = 1;
    while (started < n_threads && pthread_create(&threads[started], NULL, work, &parts[started]) == 0)
        started++;
    work(&parts[0]);
    for (int i = 1; i < started; i++)
        pthread_join(threads[i], NULL);
}

/* ---- the worker ---- */

static void hello(void)
{
    printf(" version=- isa=%s dot8=%s", kernels->name, byte_products.name);
}

static bool set_threads(int n)
{
    if (n < 1 || n > MAX_THREADS)
        return bench_no("%d threads: 1 to %d are possible", n, MAX_THREADS);
    n_threads = n;
    return true;
}

static bool open_folder(const char *folder)
{
    (void)folder;
    return true;
}

static bool grow(size_t bytes)
{
    if (bytes <= memory_bytes)
        return true;
    free(memory);
    memory_bytes = 0;
    memory = aligned_alloc(2 << 20, (bytes + (2 << 20)) >> 21 << 21);
    if (!memory)
        return bench_no("no memory for %zu bytes", bytes);
    memset(memory, 1, bytes);
    memory_bytes = bytes;
    return true;
}

static bool reads(const bench_case *c)
{
    return strcmp(c->name, "read") == 0;
}

/* The parts of a case that reads; returns the bytes that one run of all reads. */
static double share_reading(const bench_case *c)
{
    const size_t bytes = (size_t)c->mib << 20, each = bytes / (size_t)n_threads / 4096 * 4096, small = (size_t)64 << 20;
    const int times = bytes < small ? (int)(small / bytes) : 1;
    /* readers one after the other: the fastest of a turn counts */
    for (int i = 0; i < n_threads; i++)
        parts[i] = (part){kernels->readers[n_runs % N_READERS], memory + (size_t)i * each, each, times, 0};
    return (double)each * n_threads * times;
}

/* The parts of a case, returns what one run of all counts: bytes, or operations. */
static double share_out(const bench_case *c)
{
    if (reads(c))
        return share_reading(c);
    const bool dot8 = strcmp(c->name, "dot8") == 0;
    for (int i = 0; i < n_threads; i++)
        parts[i] = (part){dot8 ? byte_products.f : kernels->fma, memory, FMA_STEPS, 1, 0};
    return 2.0 * 12 * (double)(dot8 ? byte_products.bytes : kernels->lanes) * FMA_STEPS * n_threads;
}

static void run(const bench_case *c)
{
    share_out(c);
    n_runs++;
    run_all();
}

static bool setup(const bench_case *c)
{
    const bool dot8 = strcmp(c->name, "dot8") == 0;
    if (!reads(c) && !dot8 && strcmp(c->name, "fma") != 0)
        return bench_no("no case %s", c->name);
    if (dot8 && !byte_products.f)
        return bench_no("this processor has no instruction for products of bytes that is known here");
    if (reads(c) && c->mib < 1)
        return bench_no("%d MiB cannot be read", c->mib);
    if (!grow(((size_t)c->mib << 20) + 4096))
        return false;
    bench_count = share_out(c);
    run(c);
    return true;
}

int main(void)
{
    kernels = choose();
    byte_products = choose_dots();
    static const bench_ops ops = {hello, set_threads, open_folder, setup, NULL, run, NULL, NULL};
    return bench_serve(&ops);
}
