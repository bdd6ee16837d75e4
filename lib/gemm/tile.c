#include "gemm/gemm.h"

/* Weights of a chain per step with panels packed on the way: 16 panels at a time, so that each stored row is read in runs of 3 KB; 288 KB
 * again. */
enum { SLICE_PACKED = 96 };

size_t saei_dots_c_floats(void)
{
    return (size_t)SAEI_MAX_ROWS * SAEI_TILE;
}

size_t saei_dots_pack_floats(size_t d)
{
    return (size_t)SAEI_TILE * saei_min(d, SLICE_PACKED);
}

size_t saei_dots_step(const saei_dense *w, size_t n_rows)
{
    return w->panels && n_rows > SAEI_ROWS ? SAEI_BLOCK : SAEI_TILE;
}

void saei_dots_begin(const saei_kernels *k, const saei_dense *w, const saei_xrows *x)
{
    if (x->n > SAEI_FEW)
        k->pack_rows(x->packed, x->x, x->ldx, x->n, (size_t)w->m.d);
}

/* Panels in k-slices; each slice is taken from the prepared form, or packed on the way (one read of the matrix per 64 rows). Up to 8
 * rows need no slicing of prepared panels: the accumulators stay in registers for the whole chain. */
static void dots_by_panels(const saei_kernels *k, const saei_dense *w, float *c, size_t ldc, size_t j0, size_t nj, const saei_xrows *x,
                           float *pack)
{
    const size_t d = (size_t)w->m.d;
    const size_t slice = !w->panels ? SLICE_PACKED : x->n <= SAEI_ROWS ? d : SAEI_SLICE;
    size_t k0 = 0;
    do {
        const size_t kc = saei_min(slice, d - k0);
        const float *panels = pack;
        size_t stride = kc * SAEI_PANEL;
        if (w->panels) {
            stride = d * SAEI_PANEL;
            panels = w->panels + j0 / SAEI_PANEL * stride + k0 * SAEI_PANEL;
        } else {
            k->pack_panels(pack, &w->m, j0, nj, k0, kc);
        }
        const saei_ahead next = {panels + kc * SAEI_PANEL, stride * sizeof *panels,
                                 saei_min(slice, d - k0 - kc) * SAEI_PANEL * sizeof *panels};
        k->panels(c, ldc, panels, stride, nj, x->packed + k0 * SAEI_ROWS, d * SAEI_ROWS, x->n, kc, k0 > 0, w->panels ? &next : NULL);
        k0 += kc;
    } while (k0 < d);
}

void saei_dots(const saei_kernels *k, const saei_dense *w, float *c, size_t j0, size_t nj, const saei_xrows *x, float *pack)
{
    const size_t d = (size_t)w->m.d, ldc = saei_dots_step(w, x->n);
    if (x->n > SAEI_FEW)
        dots_by_panels(k, w, c, ldc, j0, nj, x, pack);
    else if (w->panels)
        k->gemv_panels(c, ldc, w->panels + j0 * d, nj, x->x, x->ldx, x->n, d);
    else if (w->m.by_cols)
        k->gemv_cols(c, ldc, &w->m, j0, nj, x->x, x->ldx, x->n);
    else
        k->dot_rows(c, ldc, &w->m, NULL, j0, nj, x->x, x->ldx, x->n);
}
