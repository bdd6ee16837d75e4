/* Rows times a packed matrix. A call works on up to 512 rows at a time: they are packed first, then every tile of 192 outputs and 64 rows
 * is a task of its own, with what follows the product. */
#include "gemm/blis.h"
#include "gemm/gemm.h"
#include "gemm/packed.h"

enum {
    PASS = 512,    /* rows packed at a time: bounds the scratch */
    PACK_ROWS = 32 /* rows per packing task: fewer are not worth another thread */
};

/* One pass over rows. */
typedef struct pass {
    const sae_gemm *g;
    saei_rows x, y, residual; /* no residual: its x is NULL */
    const float *threshold;
    int64_t first; /* row of x, y and residual */
    size_t n;      /* rows, <= PASS */
    size_t block;  /* rows per task */
    float *xs;     /* the rows as f32: [n][n_in]; NATIVE, more than SAEI_FEW: in groups [ceil(n/8)][n_in][8] */
    float *group;  /* per worker [8][n_in]: rows on the way into a group */
    float *c;      /* per worker [block][SAEI_BLOCK], twice where there is a gate */
    float *wide;   /* per worker a slice of kept weights as f32: [SAEI_SLICE][SAEI_BLOCK] in panels */
} pass;

static uint32_t chunks(size_t n, size_t each)
{
    return (uint32_t)((n + each - 1) / each);
}

/* Rows per task. BLIS packs the weights anew in every product, so it gets all rows at once. */
static size_t block_rows(const sae_gemm *g, size_t n)
{
    return saei_min(n, g->backend == SAE_GEMM_NATIVE ? SAEI_MAX_ROWS : PASS);
}

static size_t c_floats(const sae_gemm *g, size_t block)
{
    return block * SAEI_BLOCK * (g->gated ? 2 : 1);
}

/* Are kept weights used more than once a slice? */
static bool widens(const sae_gemm *g, size_t n)
{
    return g->as != SAEI_KEEP_F32 && n > SAEI_ROWS;
}

/* Lays the scratch of a pass of n rows; returns the bytes, SIZE_MAX when that is too much. */
static size_t lay_scratch(pass *p, const sae_gemm *g, size_t n, void *block)
{
    const size_t workers = g->env->host.max_workers, groups = (n + SAEI_ROWS - 1) / SAEI_ROWS;
    size_t total = 0;
    const size_t xs = saei_reserve(&total, groups * SAEI_ROWS * g->n_in, sizeof(float));
    const size_t group = saei_reserve(&total, workers * SAEI_ROWS * g->n_in, sizeof(float));
    const size_t c = saei_reserve(&total, workers * c_floats(g, block_rows(g, n)), sizeof(float));
    const size_t wide = saei_reserve(&total, widens(g, n) ? workers * SAEI_SLICE * SAEI_BLOCK : 0, sizeof(float));
    if (block) {
        unsigned char *at = (unsigned char *)block + (-(uintptr_t)block & 63);
        p->xs = (float *)(void *)(at + xs);
        p->group = (float *)(void *)(at + group);
        p->c = (float *)(void *)(at + c);
        p->wide = (float *)(void *)(at + wide);
    }
    return total + 64;
}

sae_status sae_gemm_scratch_bytes(const sae_gemm *gemm, int64_t n_rows, size_t *out)
{
    pass unused;
    if (!gemm || !out || n_rows < 0)
        return SAE_E_ARG;
    *out = lay_scratch(&unused, gemm, n_rows < PASS ? (size_t)n_rows : PASS, NULL);
    return SAE_OK;
}

/* ---- tasks ---- */

static void load_rows(const pass *p, float *to, size_t r0, size_t n)
{
    for (size_t r = 0; r < n; r++)
        p->g->env->kernels->widen(to + r * p->g->n_in, saei_rows_at(&p->x, p->first + (int64_t)(r0 + r)), p->x.dtype, p->g->n_in);
}

/* Up to 8 rows into a group. Rows of f32 go there as they lie, others by way of the worker's own room. */
static void load_group(const pass *p, float *to, size_t r, size_t n, float *room)
{
    const size_t d = p->g->n_in;
    const saei_kernels *k = p->g->env->kernels;
    if (p->x.dtype == SAE_F32 && p->x.stride >= 0 && p->x.stride % (int64_t)sizeof *to == 0) {
        const float *x = (const float *)saei_rows_at(&p->x, p->first + (int64_t)r); /* any alignment: only kernels touch it */
        k->pack_rows(to, x, (size_t)p->x.stride / sizeof *to, n, d);
    } else {
        load_rows(p, room, r, n);
        k->pack_rows(to, room, d, n, d);
    }
}

static void load_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const pass *p = job;
    const size_t d = p->g->n_in, last = saei_min(p->n, (size_t)(i + 1) * PACK_ROWS);
    for (size_t r = (size_t)i * PACK_ROWS; r < last; r += SAEI_ROWS) {
        const size_t n = saei_min(SAEI_ROWS, last - r);
        if (p->g->backend == SAE_GEMM_BLIS || p->n <= SAEI_FEW)
            load_rows(p, p->xs + r * d, r, n);
        else
            load_group(p, p->xs + r * d, r, n, p->group + worker * SAEI_ROWS * d);
    }
    saei_fp_leave(mode);
}

/* Rows r0 .. r0+n-1 with outputs j0 .. j0+nj-1. Up to 8 rows keep their sums in registers for the whole chain. */
static void float_product(const pass *p, const saei_packed *m, float *c, size_t ldc, size_t r0, size_t n, size_t j0, size_t nj)
{
    const saei_kernels *k = p->g->env->kernels;
    const size_t d = p->g->n_in, slice = n <= SAEI_ROWS ? d : SAEI_SLICE;
    const float *w = m->floats + j0 * d, *x = p->xs + r0 * d;
    if (p->n <= SAEI_FEW) {
        k->gemv_panels(c, ldc, w, nj, x, d, n, d);
        return;
    }
    for (size_t k0 = 0; k0 < d; k0 += slice) {
        const size_t kc = saei_min(slice, d - k0), more = saei_min(slice, d - k0 - kc);
        const float *at = w + k0 * SAEI_PANEL;
        const saei_ahead next = {at + kc * SAEI_PANEL, d * SAEI_PANEL * sizeof *w, more * SAEI_PANEL * sizeof *w};
        k->panels(c, ldc, at, d * SAEI_PANEL, nj, x + k0 * SAEI_ROWS, d * SAEI_ROWS, n, kc, k0 > 0, &next);
    }
}

/* Where a panel is from weight k0 on, roughly: its end is as far from the end of the chain. */
static saei_ahead kept_ahead(const saei_kept *w, size_t panel, size_t k0)
{
    const size_t from = w->panel_bytes / w->d * k0 / 64 * 64, all = w->panel_bytes / w->d * SAEI_SLICE, left = w->panel_bytes - from;
    return (saei_ahead){w->data + panel * w->panel_bytes + from, w->panel_bytes, k0 < w->d ? saei_min(all, left) : 0};
}

/* The same with kept weights. Of more than 8 rows the first 8 leave a slice as f32 for the others. */
static void kept_product(const pass *p, const saei_packed *m, float *c, float *wide, size_t r0, size_t n, size_t j0, size_t n_panels)
{
    const saei_kernels *k = p->g->env->kernels;
    const size_t d = p->g->n_in, panel = j0 / SAEI_PANEL, slice = n <= SAEI_ROWS ? d : SAEI_SLICE;
    if (p->n <= SAEI_FEW) {
        k->gemv_kept(c, SAEI_BLOCK, &m->kept, panel, n_panels, p->xs + r0 * d, d, n);
        return;
    }
    for (size_t k0 = 0; k0 < d; k0 += slice) {
        const size_t kc = saei_min(slice, d - k0), rest = n - saei_min(n, SAEI_ROWS);
        const float *x = p->xs + r0 * d + k0 * SAEI_ROWS;
        k->panels_kept(c, SAEI_BLOCK, &m->kept, panel, n_panels, x, n - rest, k0, kc, rest ? wide : NULL);
        const saei_ahead next = kept_ahead(&m->kept, panel, k0 + kc);
        if (rest)
            k->panels(c + SAEI_ROWS * SAEI_BLOCK, SAEI_BLOCK, wide, kc * SAEI_PANEL, n_panels * SAEI_PANEL, x + d * SAEI_ROWS,
                      d * SAEI_ROWS, rest, kc, k0 > 0, &next);
    }
}

static void product(const pass *p, const saei_packed *m, float *c, size_t ldc, uint32_t worker, size_t r0, size_t n, size_t j0, size_t nj)
{
    const sae_gemm *g = p->g;
    const size_t n_panels = (nj + SAEI_PANEL - 1) / SAEI_PANEL;
    if (g->backend == SAE_GEMM_BLIS)
        saei_blis_product(c, ldc, p->xs + r0 * g->n_in, n, m->floats + j0 * g->n_in, nj, g->n_in);
    else if (g->as == SAEI_KEEP_F32)
        float_product(p, m, c, ldc, r0, n, j0, nj);
    else
        kept_product(p, m, c, p->wide + (size_t)worker * SAEI_SLICE * SAEI_BLOCK, r0, n, j0, n_panels);
}

/* ---- what follows it ---- */

/* Can the sums be taken where the results go? What is added to them must not lie there. */
static bool in_place(const pass *p)
{
    return p->g->as == SAEI_KEEP_F32 && !p->residual.x && p->y.stride >= 0 && p->y.stride % (int64_t)sizeof(float) == 0 &&
           (uintptr_t)p->y.x % sizeof(float) == 0;
}

static float *result(const pass *p, int64_t r, size_t j)
{
    return (float *)saei_rows_at(&p->y, r) + j; /* any alignment: only kernels touch it */
}

/* A row of results j0 .. j0+nj-1 from its sums; `gate` NULL = none. */
static void finish(const pass *p, float *c, float *gate, int64_t r, size_t j0, size_t nj)
{
    const sae_gemm *g = p->g;
    const saei_kernels *k = g->env->kernels;
    if (g->main.bias)
        saei_add_row(k, c, c, 1.0f, g->main.bias + j0, SAE_F32, nj);
    if (gate && g->gate.bias)
        saei_add_row(k, gate, gate, 1.0f, g->gate.bias + j0, SAE_F32, nj);
    if (gate)
        k->silu_gate(c, gate, nj);
    if (p->residual.x)
        saei_add_row(k, c, c, 1.0f, (const unsigned char *)saei_rows_at(&p->residual, r) + j0 * sae_dtype_bytes(p->residual.dtype),
                     p->residual.dtype, nj);
    if (p->threshold)
        k->keep_above(c, p->threshold + j0, nj);
    if (c != result(p, r, j0))
        k->narrow(result(p, r, j0), c, SAE_F32, nj);
}

static void product_task(void *job, uint32_t i, uint32_t worker)
{
    const saei_fpmode mode = saei_fp_enter();
    const pass *p = job;
    const sae_gemm *g = p->g;
    const size_t blocks = chunks(p->n, p->block), r0 = i % blocks * p->block, j0 = i / blocks * SAEI_BLOCK;
    const size_t n = saei_min(p->block, p->n - r0), nj = saei_min(SAEI_BLOCK, g->n_out - j0);
    const bool there = in_place(p);
    const size_t ldc = there ? (size_t)p->y.stride / sizeof(float) : SAEI_BLOCK;
    float *room = p->c + worker * c_floats(g, p->block), *gate = g->gated ? room + p->block * SAEI_BLOCK : NULL;
    float *c = there ? result(p, p->first + (int64_t)r0, j0) : room;
    product(p, &g->main, c, ldc, worker, r0, n, j0, nj);
    if (gate)
        product(p, &g->gate, gate, SAEI_BLOCK, worker, r0, n, j0, nj);
    for (size_t r = 0; r < n; r++)
        finish(p, c + r * ldc, gate ? gate + r * SAEI_BLOCK : NULL, p->first + (int64_t)(r0 + r), j0, nj);
    saei_fp_leave(mode);
}

static sae_status run_pass(pass *p)
{
    const saei_host *host = &p->g->env->host;
    const sae_status status = saei_run(host, p, load_task, chunks(p->n, PACK_ROWS));
    return status ? status : saei_run(host, p, product_task, chunks(p->n, p->block) * chunks(p->g->n_out, SAEI_BLOCK));
}

/* ---- the call ---- */

static sae_status read_rows(saei_rows *out, const sae_rows *rows, size_t d, bool written, const char *name, sae_error *err)
{
    sae_error inner = {0};
    const sae_status status = saei_rows_read(out, rows, (int32_t)d, written, &inner);
    return status ? saei_fail(err, status, "sae_gemm_run, %s: %s", name, inner.text) : SAE_OK;
}

/* The addresses from the first to the last byte of some rows; false when they leave the address space. */
static bool span(uintptr_t *first, uintptr_t *last, const saei_rows *rows, size_t d)
{
    int64_t reach;
    const uintptr_t row_bytes = d * sae_dtype_bytes(rows->dtype);
    if (__builtin_mul_overflow(rows->stride, rows->n - 1, &reach))
        return false;
    *first = *last = (uintptr_t)rows->x;
    if (reach < 0 && __builtin_sub_overflow(*first, -(uintptr_t)reach, first))
        return false;
    if (reach > 0 && __builtin_add_overflow(*last, (uintptr_t)reach, last))
        return false;
    return !__builtin_add_overflow(*last, row_bytes - 1, last);
}

static sae_status check_rows(const sae_gemm *g, const saei_rows *x, const saei_rows *y, sae_error *err)
{
    uintptr_t x_first, x_last, y_first, y_last;
    if (y->dtype != SAE_F32)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_run, y: its dtype is %s, it is written in f32", sae_dtype_name(y->dtype));
    if (x->n != y->n)
        return saei_fail(err, SAE_E_SHAPE, "sae_gemm_run: x has %lld rows, y has %lld", (long long)x->n, (long long)y->n);
    if (!x->n)
        return SAE_OK;
    if (!span(&x_first, &x_last, x, g->n_in) || !span(&y_first, &y_last, y, g->n_out))
        return saei_fail(err, SAE_E_ARG, "sae_gemm_run: %lld rows of stride %lld (x) and %lld (y) bytes leave the address space",
                         (long long)x->n, (long long)x->stride, (long long)y->stride);
    if (x_first <= y_last && y_first <= x_last)
        return saei_fail(err, SAE_E_ARG,
                         "sae_gemm_run: x and y overlap, x takes %zu bytes from %p on, y %zu from %p on: give y memory of its own",
                         (size_t)(x_last - x_first) + 1, (void *)x_first, (size_t)(y_last - y_first) + 1, (void *)y_first);
    return SAE_OK;
}

/* A residual is y itself, or apart from it. */
static sae_status check_residual(const pass *p, sae_error *err)
{
    const saei_rows *r = &p->residual, *y = &p->y;
    uintptr_t first, last, y_first, y_last;
    if (r->n != y->n)
        return saei_fail(err, SAE_E_SHAPE, "sae_gemm_run: residual has %lld rows, y has %lld", (long long)r->n, (long long)y->n);
    if (!r->n || (r->x == y->x && r->dtype == y->dtype && (r->stride == y->stride || r->n == 1)))
        return SAE_OK;
    if (!span(&first, &last, r, p->g->n_out) || !span(&y_first, &y_last, y, p->g->n_out))
        return saei_fail(err, SAE_E_ARG, "sae_gemm_run: %lld rows of residual of stride %lld bytes leave the address space",
                         (long long)r->n, (long long)r->stride);
    if (first <= y_last && y_first <= last)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_run: residual and y overlap and are not the same rows: make them the same, or apart");
    return SAE_OK;
}

static sae_status read_epilogue(pass *p, const sae_gemm_epilogue *epilogue, sae_error *err)
{
    sae_gemm_epilogue e;
    if (!epilogue)
        return SAE_OK;
    sae_status status = saei_read_struct(&e, sizeof e, epilogue, "sae_gemm_epilogue", err);
    if (status)
        return status;
    if (e.reserved)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_epilogue.reserved = %u: zero the struct before use", (unsigned)e.reserved);
    p->threshold = e.threshold;
    if (!e.residual)
        return SAE_OK;
    status = read_rows(&p->residual, e.residual, p->g->n_out, false, "residual", err);
    return status ? status : check_residual(p, err);
}

sae_status sae_gemm_run(const sae_gemm *gemm, const sae_rows *x, const sae_rows *y, void *scratch, size_t scratch_bytes, sae_error *err)
{
    return sae_gemm_run_with(gemm, x, y, NULL, scratch, scratch_bytes, err);
}

sae_status sae_gemm_run_with(const sae_gemm *gemm, const sae_rows *x, const sae_rows *y, const sae_gemm_epilogue *epilogue, void *scratch,
                             size_t scratch_bytes, sae_error *err)
{
    if (!gemm)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_run: gemm is NULL");
    pass p = {.g = gemm};
    sae_status status;
    if ((status = read_rows(&p.x, x, gemm->n_in, false, "x", err)) || (status = read_rows(&p.y, y, gemm->n_out, true, "y", err)) ||
        (status = check_rows(gemm, &p.x, &p.y, err)) || (status = read_epilogue(&p, epilogue, err)))
        return status;
    const size_t most = p.x.n < PASS ? (size_t)p.x.n : PASS, need = lay_scratch(&p, gemm, most, NULL);
    if (!scratch && most)
        return saei_fail(err, SAE_E_ARG, "sae_gemm_run: scratch is NULL, %zu rows need %zu bytes", most, need);
    if (scratch_bytes < need && most)
        return saei_fail(err, SAE_E_CAPACITY, "the scratch has %zu bytes, sae_gemm_scratch_bytes asks for %zu", scratch_bytes, need);
    lay_scratch(&p, gemm, most, scratch);
    p.block = block_rows(gemm, most);
    for (; p.first < p.x.n && !status; p.first += PASS) {
        p.n = p.x.n - p.first < PASS ? (size_t)(p.x.n - p.first) : PASS;
        status = run_pass(&p);
    }
    if (status)
        return saei_fail(err, status, "the host's parallel-for failed while %lld rows were multiplied", (long long)p.x.n);
    return saei_ok(err);
}
