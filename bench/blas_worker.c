/* The raw product Y [batch][d_sae] = X [batch][d_in] W of a BLAS library: no bias, no threshold, nothing kept but the dense result.
 * `blas_worker blis [ARCH]` is BLIS through its typed API (in builds with BENCH_BLIS), ARCH "skx" or "haswell" to
 * force one; `blas_worker LIBRARY PREFIX SUFFIX` is any
 * OpenBLAS, loaded by name: symbols are PREFIX cblas_sgemm SUFFIX, with 64-bit integers where SUFFIX ends in "64_".
 * Weights lie as the file has them, [d_in][d_sae], or by rows, [d_sae][d_in]; one row goes through the library's matrix-vector product. */
#include "worker.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef BENCH_BLIS
#include <blis.h>
#endif

enum { MAX_BATCH = 512, ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

/* Y = X W for either layout of W. */
typedef void (*product)(float *y, const float *x, const float *w, long n, long d, long d_sae, bool by_rows);

static product multiply;
static bool (*set_threads)(int n);
static char version[128] = "?", chosen_isa[64] = "?";
static bench_sae sae;
static float *weights[2], *x, *y; /* weights as the file has them, and by rows once asked for */

/* ---- BLIS ---- */

#ifdef BENCH_BLIS
static void blis_multiply(float *out, const float *in, const float *w, long n, long d, long d_sae, bool rows)
{
    float one = 1, zero = 0;
    float *a = (float *)(uintptr_t)in, *b = (float *)(uintptr_t)w; /* BLIS 0.9 takes no const */
    const inc_t rs = rows ? 1 : d_sae, cs = rows ? d : 1;
    if (n == 1)
        bli_sgemv(BLIS_TRANSPOSE, BLIS_NO_CONJUGATE, d, d_sae, &one, b, rs, cs, a, 1, &zero, out, 1);
    else
        bli_sgemm(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, n, d_sae, d, &one, a, d, 1, b, rs, cs, &zero, out, d_sae, 1);
}

static bool blis_threads(int n)
{
    if (n > 1 && !bli_info_get_enable_threading())
        return bench_no("this BLIS is built without threads");
    bli_thread_set_num_threads(n);
    return true;
}

static bool start_blis(const char *arch)
{
    const char *number = arch && strcmp(arch, "skx") == 0 ? "0" : "3";
    snprintf(version, sizeof version, "%s", bli_info_get_version_str());
    if (arch) /* by number before 2.0, by name since */
        setenv("BLIS_ARCH_TYPE", atoi(version) >= 2 ? arch : number, 1);
    else
        unsetenv("BLIS_ARCH_TYPE");
    bli_init(); /* before 1.0 a chosen architecture is only known after it */
    snprintf(chosen_isa, sizeof chosen_isa, "%s", bli_arch_string(bli_arch_query_id()));
    multiply = blis_multiply;
    set_threads = blis_threads;
    return true;
}
#else
static bool start_blis(const char *arch)
{
    (void)arch;
    return bench_no("built without BLIS");
}
#endif

/* ---- OpenBLAS ---- */

typedef void (*gemm32)(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);
typedef void (*gemm64)(int, int, int, int64_t, int64_t, int64_t, float, const float *, int64_t, const float *, int64_t, float, float *,
                       int64_t);
typedef void (*gemv32)(int, int, int, int, float, const float *, int, const float *, int, float, float *, int);
typedef void (*gemv64)(int, int, int64_t, int64_t, float, const float *, int64_t, const float *, int64_t, float, float *, int64_t);

static gemm32 sgemm32;
static gemm64 sgemm64;
static gemv32 sgemv32;
static gemv64 sgemv64;
static void (*openblas_threads)(int);
static int (*openblas_parallel)(void);

static void openblas_multiply(float *out, const float *in, const float *w, long n, long d, long d_sae, bool rows)
{
    const int trans = rows ? TRANS : NO_TRANS;
    const long ld = rows ? d : d_sae, m = rows ? d_sae : d, k = rows ? d : d_sae;
    const int trans_v = rows ? NO_TRANS : TRANS;
    if (n == 1 && sgemv64)
        sgemv64(ROW_MAJOR, trans_v, m, k, 1, w, ld, in, 1, 0, out, 1);
    else if (n == 1)
        sgemv32(ROW_MAJOR, trans_v, (int)m, (int)k, 1, w, (int)ld, in, 1, 0, out, 1);
    else if (sgemm64)
        sgemm64(ROW_MAJOR, NO_TRANS, trans, n, d_sae, d, 1, in, d, w, ld, 0, out, d_sae);
    else
        sgemm32(ROW_MAJOR, NO_TRANS, trans, (int)n, (int)d_sae, (int)d, 1, in, (int)d, w, (int)ld, 0, out, (int)d_sae);
}

static bool set_openblas_threads(int n)
{
    if (n > 1 && openblas_parallel && !openblas_parallel())
        return bench_no("this OpenBLAS is built without threads");
    openblas_threads(n);
    return true;
}

/* Puts a function of the library into *f, a pointer to a function pointer. */
static bool find(void *f, void *library, const char *prefix, const char *name, const char *suffix)
{
    char symbol[256];
    snprintf(symbol, sizeof symbol, "%s%s%s", prefix, name, suffix);
    void *p = dlsym(library, symbol);
    memcpy(f, &p, sizeof p);
    return p ? true : bench_no("the library has no %s", symbol);
}

static bool start_openblas(const char *path, const char *prefix, const char *suffix)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    char *(*text)(void);
    const bool wide = strlen(suffix) >= 3 && strcmp(suffix + strlen(suffix) - 3, "64_") == 0;
    if (!library)
        return bench_no("%s", dlerror());
    if (!find(wide ? (void *)&sgemm64 : (void *)&sgemm32, library, prefix, "cblas_sgemm", suffix) ||
        !find(wide ? (void *)&sgemv64 : (void *)&sgemv32, library, prefix, "cblas_sgemv", suffix) ||
        !find(&openblas_threads, library, prefix, "openblas_set_num_threads", suffix))
        return false;
    if (find(&text, library, prefix, "openblas_get_config", suffix))
        sscanf(text(), "OpenBLAS %127s", version);
    if (find(&text, library, prefix, "openblas_get_corename", suffix))
        snprintf(chosen_isa, sizeof chosen_isa, "%s", text());
    if (!find(&openblas_parallel, library, prefix, "openblas_get_parallel", suffix))
        openblas_parallel = NULL;
    multiply = openblas_multiply;
    set_threads = set_openblas_threads;
    return true;
}

/* ---- the worker ---- */

static void hello(void)
{
    printf(" version=%s isa=%s", version, chosen_isa);
}

static bool by_rows(const bench_case *c)
{
    return strcmp(c->layout, "rows") == 0;
}

static void run(const bench_case *c)
{
    multiply(y, x, weights[by_rows(c)], c->batch, sae.d_in, sae.d_sae, by_rows(c));
}

static bool open_folder(const char *path)
{
    free(weights[0]);
    free(weights[1]);
    free(x);
    free(y);
    weights[0] = weights[1] = x = y = NULL;
    if (!bench_read_layout(&sae, path))
        return false;
    const size_t d = (size_t)sae.d_in, n = (size_t)sae.d_sae;
    weights[0] = bench_read(path, "sae_weights.safetensors", sae.w_enc, d * n * sizeof **weights);
    x = bench_read(path, "rows.f32", 0, MAX_BATCH * d * sizeof *x);
    y = malloc(MAX_BATCH * n * sizeof *y);
    if (!weights[0] || !x)
        return false;
    return y ? true : bench_no("no memory for the product");
}

/* Copies the weights from [d_in][d_sae] to [d_sae][d_in], in squares that stay in L1. */
static bool turn_over(void)
{
    const size_t d = (size_t)sae.d_in, n = (size_t)sae.d_sae, square = 32;
    weights[1] = malloc(d * n * sizeof **weights);
    if (!weights[1])
        return bench_no("no memory to turn the weights over");
    for (size_t i0 = 0; i0 < d; i0 += square)
        for (size_t j0 = 0; j0 < n; j0 += square)
            for (size_t i = i0; i < d && i < i0 + square; i++)
                for (size_t j = j0; j < n && j < j0 + square; j++)
                    weights[1][j * d + i] = weights[0][i * n + j];
    return true;
}

static bool setup(const bench_case *c)
{
    if (strcmp(c->name, "gemm") != 0 && strcmp(c->name, "linear") != 0)
        return bench_no("no case %s", c->name);
    if (!weights[0] || c->batch < 1 || c->batch > MAX_BATCH)
        return bench_no("nothing open, or a batch of %d", c->batch);
    if (by_rows(c) && !weights[1] && !turn_over())
        return false;
    run(c);
    for (int r = 0; r < c->batch; r++) /* the sum of a column in thousandths, to compare with the others */
        bench_count += (double)y[(size_t)r * (size_t)sae.d_sae] * 1000;
    return true;
}

int main(int argc, char **argv)
{
    const bool blis = argc > 1 && strcmp(argv[1], "blis") == 0;
    const bool good = blis        ? start_blis(argv[2])
                      : argc == 4 ? start_openblas(argv[1], argv[2], argv[3])
                                  : bench_no("usage: see the source");
    const bench_ops ops = {hello, set_threads, open_folder, setup, NULL, run, NULL, NULL};
    return good ? bench_serve(&ops) : bench_refuse();
}
