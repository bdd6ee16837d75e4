#include "codec/screen.h"

#include <string.h>

/* Rows of a sequence: 65536 of them are more than any context that temporal SAEs were trained on. */
enum { DEFAULT_SEQUENCE = 1024, MAX_SEQUENCE = 65536 };

/* max_rows: for a temporal SAE the longest sequence, worked on in blocks like any other rows. */
static sae_status read_options(size_t *max_rows, int32_t *screen, const sae_model *model, const sae_ctx_options *opt, sae_error *err)
{
    const bool temporal = model->parts.arch == SAE_TEMPORAL;
    const int32_t most = temporal ? MAX_SEQUENCE : SAEI_MAX_ROWS, usual = temporal ? DEFAULT_SEQUENCE : SAEI_MAX_ROWS;
    sae_ctx_options o = {0};
    if (opt) {
        const sae_status status = saei_read_struct(&o, sizeof o, opt, "sae_ctx_options", err);
        if (status)
            return status;
    }
    if (o.max_rows < 0 || o.max_rows > most)
        return saei_fail(err, SAE_E_ARG, "max_rows = %d, it may be 1 .. %d, or 0 for the default", (int)o.max_rows, (int)most);
    if (o.screen != SAE_DEFAULT && o.screen != SAE_YES && o.screen != SAE_NO)
        return saei_fail(err, SAE_E_ARG, "screen = %d, it may be SAE_DEFAULT, SAE_YES or SAE_NO", (int)o.screen);
    *screen = o.screen;
    *max_rows = (size_t)(o.max_rows ? o.max_rows : usual);
    return SAE_OK;
}

typedef struct parts {
    size_t ctx, row, coef, ids, y, raw, mean, work, sequence, screening, total;
    size_t rows; /* worked on at once */
} parts;

static parts layout(const sae_model *model, size_t max_rows)
{
    const size_t workers = model->env->host.max_workers, d_in = (size_t)model->parts.d_in, d_out = (size_t)model->parts.d_out;
    saei_sequence unused;
    saei_screening no_screening;
    parts p = {.rows = max_rows < SAEI_MAX_ROWS ? max_rows : SAEI_MAX_ROWS};
    p.ctx = saei_reserve(&p.total, 1, sizeof(sae_ctx));
    p.row = saei_reserve(&p.total, workers * 2 * d_out, sizeof(float));
    p.coef = saei_reserve(&p.total, workers * SAEI_COEFS, sizeof(float));
    p.ids = saei_reserve(&p.total, workers * SAEI_COEFS, sizeof(int32_t));
    p.y = saei_reserve(&p.total, p.rows * d_out, sizeof(float));
    p.raw = saei_reserve(&p.total, model->parts.n_skip ? p.rows * d_in : 0, sizeof(float));
    p.mean = saei_reserve(&p.total, d_out, sizeof(double));
    p.work = saei_reserve(&p.total, 1, saei_work_bytes(model, p.rows));
    if (model->parts.arch == SAE_TEMPORAL)
        p.sequence = saei_reserve(&p.total, 1, saei_sequence_layout(&unused, model, max_rows, NULL));
    if (saei_screen_bytes(model))
        p.screening = saei_reserve(&p.total, 1, saei_screening_layout(&no_screening, model, p.rows, NULL));
    return p;
}

sae_status sae_ctx_bytes(const sae_model *model, const sae_ctx_options *opt, size_t *out)
{
    size_t max_rows = 0;
    int32_t screen = SAE_DEFAULT;
    if (!model || !out)
        return SAE_E_ARG;
    const sae_status status = read_options(&max_rows, &screen, model, opt, NULL);
    if (!status)
        *out = layout(model, max_rows).total;
    return status;
}

sae_status sae_ctx_create(sae_ctx **out, sae_model *model, const sae_ctx_options *opt, sae_error *err)
{
    size_t max_rows = 0;
    int32_t screen = SAE_DEFAULT;
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_ctx_create: out is NULL");
    *out = NULL;
    if (!model)
        return saei_fail(err, SAE_E_ARG, "sae_ctx_create: model is NULL");
    const sae_status status = read_options(&max_rows, &screen, model, opt, err);
    if (status)
        return status;
    const parts p = layout(model, max_rows);
    unsigned char *block = saei_alloc(&model->env->host, p.total);
    if (!block)
        return saei_fail(err, SAE_E_NOMEM, "no memory for a ctx of %zu rows of %d features (%zu bytes): a smaller max_rows needs less",
                         max_rows, (int)model->parts.d_sae, p.total);
    sae_ctx *ctx = (sae_ctx *)(void *)(block + p.ctx);
    memset(ctx, 0, sizeof *ctx);
    ctx->model = model;
    ctx->bytes = p.total;
    ctx->error.struct_size = sizeof ctx->error;
    ctx->row = (float *)(void *)(block + p.row);
    ctx->coef = (float *)(void *)(block + p.coef);
    ctx->ids = (int32_t *)(void *)(block + p.ids);
    ctx->y = (float *)(void *)(block + p.y);
    ctx->raw = model->parts.n_skip ? (float *)(void *)(block + p.raw) : NULL;
    ctx->mean = (double *)(void *)(block + p.mean);
    atomic_flag_clear(&ctx->busy);
    saei_work_init(&ctx->work, model, p.rows, block + p.work);
    if (model->parts.arch == SAE_TEMPORAL)
        saei_sequence_layout(&ctx->sequence, model, max_rows, block + p.sequence);
    if (saei_screen_bytes(model))
        saei_screening_layout(&ctx->screening, model, p.rows, block + p.screening);
    ctx->screen = screen;
    saei_model_take(model);
    *out = ctx;
    return saei_ok(err);
}

void sae_ctx_free(sae_ctx *ctx)
{
    if (!ctx)
        return;
    sae_model *model = ctx->model;
    saei_dealloc(&model->env->host, ctx, ctx->bytes);
    sae_model_free(model);
}

const char *sae_ctx_error(const sae_ctx *ctx)
{
    return ctx ? ctx->error.text : "";
}

int64_t sae_ctx_nonfinite(const sae_ctx *ctx)
{
    return ctx ? ctx->nonfinite : 0;
}

sae_status sae_ctx_count(const sae_ctx *ctx, sae_ctx_counts *out)
{
    return ctx && out ? saei_write_struct(out, &ctx->counts, sizeof ctx->counts, "sae_ctx_counts", NULL) : SAE_E_ARG;
}

sae_status saei_ctx_begin(sae_ctx *ctx, saei_fpmode *mode)
{
    if (!ctx)
        return SAE_E_ARG;
    if (atomic_flag_test_and_set_explicit(&ctx->busy, memory_order_acquire))
        return SAE_E_BUSY; /* the sentence belongs to the call that is under way */
    saei_ok(&ctx->error);
    *mode = saei_fp_enter();
    return SAE_OK;
}

sae_status saei_ctx_end(sae_ctx *ctx, saei_fpmode mode, sae_status status)
{
    saei_fp_leave(mode);
    atomic_flag_clear_explicit(&ctx->busy, memory_order_release);
    return status;
}
