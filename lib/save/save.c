#include "save/save.h"

#include <string.h>

static const struct {
    const char *name;
    const char *ending;
    sae_status (*save)(saei_save *s);
} formats[] = {{"sae", ".sae", saei_save_sae}, {"gemma_scope", ".npz", saei_save_gemma_scope}, {"saelens", "", saei_save_saelens}};

enum { N_FORMATS = sizeof formats / sizeof *formats };

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), tail = strlen(end);
    return n >= tail && strcmp(s + n - tail, end) == 0;
}

/* Which format; the last one, a folder, has no ending of its own. */
static sae_status choose(int *out, const saei_save *s)
{
    const char *name = s->opt.format;
    int i = 0;
    while (i < N_FORMATS && (name ? strcmp(name, formats[i].name) != 0 : !ends_with(s->path, formats[i].ending)))
        i++;
    if (i == N_FORMATS)
        return saei_fail(s->err, SAE_E_ARG, "the format \"%.40s\" is not one of sae, saelens, gemma_scope", name);
    *out = i;
    if (!ends_with(s->path, formats[i].ending))
        return saei_fail(s->err, SAE_E_ARG, "the name of a %s file ends in %s: %s", formats[i].name, formats[i].ending, s->path);
    if (!*formats[i].ending && (ends_with(s->path, ".safetensors") || ends_with(s->path, ".json")))
        return saei_fail(s->err, SAE_E_ARG, "a saelens checkpoint is a folder, %s is the name of a file", s->path);
    return SAE_OK;
}

static sae_status check_options(const sae_save_options *opt, sae_error *err)
{
    if (opt->dtype && !sae_dtype_bytes(opt->dtype))
        return saei_fail(err, SAE_E_ARG, "sae_save_options.dtype = %d is not 0, SAE_F32, SAE_F16 or SAE_BF16", (int)opt->dtype);
    if (opt->overwrite < SAE_DEFAULT || opt->overwrite > SAE_NO)
        return saei_fail(err, SAE_E_ARG, "sae_save_options.overwrite = %d is outside 0 .. %d", (int)opt->overwrite, SAE_NO);
    if (opt->check < SAE_DEFAULT || opt->check > SAE_NO)
        return saei_fail(err, SAE_E_ARG, "sae_save_options.check = %d is outside 0 .. %d", (int)opt->check, SAE_NO);
    if (opt->screen < SAE_DEFAULT || opt->screen > SAE_NO)
        return saei_fail(err, SAE_E_ARG, "sae_save_options.screen = %d is outside 0 .. %d", (int)opt->screen, SAE_NO);
    if (opt->reserved)
        return saei_fail(err, SAE_E_ARG, "sae_save_options.reserved = %d is not 0", (int)opt->reserved);
    if (opt->catalog && !saei_utf8(opt->catalog, strlen(opt->catalog)))
        return saei_fail(err, SAE_E_ARG, "sae_save_options.catalog is not UTF-8");
    return SAE_OK;
}

void *saei_save_alloc(saei_save *s, size_t bytes)
{
    void *p = saei_arena_alloc(&s->memory, s->host, bytes);
    if (!p)
        (void)saei_fail(s->err, SAE_E_NOMEM, "no memory to write %s (%zu bytes)", s->path, bytes);
    return p;
}

sae_dtype saei_save_dtype(const saei_save *s, const saei_matrix *m)
{
    return s->opt.dtype ? s->opt.dtype : m->dtype;
}

const float *saei_save_vector(saei_save *s, const float *v, int32_t n)
{
    if (v)
        return v;
    float *zeros = saei_save_alloc(s, (size_t)n * sizeof *zeros);
    return zeros ? memset(zeros, 0, (size_t)n * sizeof *zeros) : NULL;
}

#define ONLY "%s cannot say it: a .sae file can"

sae_status saei_save_plain(const saei_save *s, const char *format)
{
    const saei_parts *p = s->parts;
    const saei_block *b = p->enc;
    const saei_segment *d = p->dec;
    if (p->n_in != 1 || p->n_out != 1 || p->n_enc != 1 || p->n_dec != 1 || b->in_first || b->w.m.d != p->d_in || d->out_first ||
        d->w.m.d != p->d_out || d->n != p->d_sae || d->row_first || d->row_step != 1 || d->w.m.n != p->d_sae)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "this SAE has %d hook points in and %d out, %u encoders and %u decoders; " ONLY,
                         (int)p->n_in, (int)p->n_out, (unsigned)p->n_enc, (unsigned)p->n_dec, format);
    if (p->norm == SAE_NORM_AFFINE)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "this SAE shifts and scales each element of a row; " ONLY, format);
    if (p->key_scale)
        return saei_fail(s->err, SAE_E_UNSUPPORTED,
                         "this SAE has a factor for each pre-activation, which multiplied in would be rounded; " ONLY, format);
    if (p->dec_scale)
        return saei_fail(s->err, SAE_E_UNSUPPORTED,
                         "this SAE has a factor for each decoder row, which multiplied in would be rounded; " ONLY, format);
    if (s->opt.catalog)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "the name of a catalog is to be kept; " ONLY, format);
    if (s->opt.screen == SAE_YES)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "a screen is to be kept; " ONLY, format);
    return SAE_OK;
}

static sae_status save(saei_save *s)
{
    int format = 0;
    sae_status status = choose(&format, s);
    if (!status && s->opt.check != SAE_NO && !s->model->checked)
        status = sae_model_check(s->model, s->err);
    if (status)
        return status;
    const saei_fpmode mode = saei_fp_enter();
    status = formats[format].save(s);
    saei_fp_leave(mode);
    saei_arena_free(&s->memory, s->host);
    return status;
}

sae_status sae_model_save(const sae_model *model, const char *path, const sae_save_options *opt, sae_error *err)
{
    if (!model || !path || !*path)
        return saei_fail(err, SAE_E_ARG, "sae_model_save: %s", !model ? "model is NULL" : !path ? "path is NULL" : "path is empty");
    saei_save s = {.model = model, .parts = &model->parts, .host = &model->env->host, .path = path, .err = err};
    sae_status status;
    if (opt && ((status = saei_read_struct(&s.opt, sizeof s.opt, opt, "sae_save_options", err)) || (status = check_options(&s.opt, err))))
        return status;
    status = save(&s);
    return status ? status : saei_ok(err);
}
