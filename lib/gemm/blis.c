#include "gemm/blis.h"

#ifdef SAEI_BLIS

#include <blis.h>

bool saei_blis_available(void)
{
    return true;
}

void saei_blis_start(void)
{
    const float one = 1.0f;
    float product;
    saei_blis_product(&product, 1, &one, 1, &one, 1, 1);
}

/* BLIS 0.9 takes no const. */
static float *writable(const float *p)
{
    return (float *)(uintptr_t)p;
}

void saei_blis_product(float *c, size_t ldc, const float *x, size_t n, const float *w, size_t m, size_t d)
{
    float one = 1.0f, zero = 0.0f;
    const dim_t k = (dim_t)d;
    rntm_t runtime = BLIS_RNTM_INITIALIZER;
    bli_rntm_set_num_threads(1, &runtime);
    bli_rntm_disable_l3_sup(&runtime); /* the path for small products adds in another order: a row would depend on its batch */
    bli_sgemm_ex(BLIS_NO_TRANSPOSE, BLIS_TRANSPOSE, (dim_t)n, (dim_t)m, k, &one, writable(x), k, 1, writable(w), k, 1, &zero, c, (inc_t)ldc,
                 1, NULL, &runtime);
}

#else

bool saei_blis_available(void)
{
    return false;
}

void saei_blis_start(void)
{
}

void saei_blis_product(float *c, size_t ldc, const float *x, size_t n, const float *w, size_t m, size_t d)
{
    (void)c;
    (void)ldc;
    (void)x;
    (void)n;
    (void)w;
    (void)m;
    (void)d;
}

#endif
