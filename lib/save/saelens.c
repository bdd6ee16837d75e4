/* Parts -> a SAELens folder: cfg.json and sae_weights.safetensors. */
#include "save/saelens.h"

#include <stdio.h>
#include <string.h>

typedef struct tensor {
    char name[48];
    const saei_matrix *m; /* or NULL, and v: n values */
    bool by_cols;         /* how the file has it, seen by feature or output */
    const float *v;
    int32_t n;
} tensor;

typedef struct folder {
    saei_save *save;
    tensor *tensors;
    uint32_t n, room;
    saei_text config, header;
    char *weights_path, *config_path;
    saei_out weights, cfg;
    bool made;
} folder;

/* ---- which tensors ---- */

static bool add(folder *f, const tensor *t)
{
    saei_save *s = f->save;
    tensor *all = saei_arena_grow(&s->memory, s->host, f->tensors, &f->room, f->n, sizeof *all);
    if (!all) {
        (void)saei_fail(s->err, SAE_E_NOMEM, "no memory for the tensors of %s", s->path);
        return false;
    }
    f->tensors = all;
    f->tensors[f->n++] = *t;
    return true;
}

static bool add_matrix(folder *f, const char *name, const saei_matrix *m, bool by_cols)
{
    tensor t = {.m = m, .by_cols = by_cols};
    (void)snprintf(t.name, sizeof t.name, "%s", name);
    return add(f, &t);
}

static bool add_vector(folder *f, const char *name, const float *v, int32_t n)
{
    tensor t = {.v = saei_save_vector(f->save, v, n), .n = n};
    (void)snprintf(t.name, sizeof t.name, "%s", name);
    return t.v && add(f, &t);
}

static bool add_linear(folder *f, int32_t layer, const char *name, const saei_linear *l)
{
    char full[48];
    (void)snprintf(full, sizeof full, "attn_layers.%d.%s.weight", (int)layer, name);
    if (!add_matrix(f, full, &l->w.m, false))
        return false;
    (void)snprintf(full, sizeof full, "attn_layers.%d.%s.bias", (int)layer, name);
    return add_vector(f, full, l->bias, l->w.m.n);
}

static bool add_attention(folder *f, const saei_parts *p)
{
    bool done = true;
    for (int32_t i = 0; i < p->n_attention && done; i++) {
        const saei_attention *a = &p->attention[i];
        done = add_linear(f, i, "c_proj", &a->c_proj) && add_linear(f, i, "k_ctx", &a->k_ctx) &&
               add_linear(f, i, "q_target", &a->q_target) && add_linear(f, i, "v_ctx", &a->v_ctx);
    }
    return done;
}

static bool add_by_arch(folder *f, const saei_parts *p)
{
    if (p->arch == SAE_GATED)
        return add_vector(f, "b_gate", p->b_gate, p->d_sae) && add_vector(f, "b_mag", p->b_mag, p->d_sae) &&
               add_vector(f, "r_mag", p->r_mag, p->d_sae);
    if (p->arch == SAE_TEMPORAL)
        return add_attention(f, p);
    if (p->arch == SAE_MATCHING_PURSUIT)
        return true;
    return add_vector(f, "b_enc", p->b_enc, p->d_sae) && (p->arch != SAE_JUMPRELU || add_vector(f, "threshold", p->threshold, p->d_sae));
}

static bool add_tensors(folder *f)
{
    const saei_parts *p = f->save->parts;
    const bool tied = (p->arch == SAE_MATCHING_PURSUIT || p->arch == SAE_TEMPORAL) && saei_saelens_tied(p);
    return add_matrix(f, "W_dec", &p->dec[0].w.m, false) && (tied || add_matrix(f, "W_enc", &p->enc[0].w.m, true)) &&
           (!p->n_skip || add_matrix(f, "W_skip", &p->skip[0].w.m, false)) && add_vector(f, "b_dec", p->b_dec, p->d_out) &&
           add_by_arch(f, p);
}

/* ---- safetensors: the longer elements first, as its own writer does ---- */

static sae_dtype dtype_of(const folder *f, const tensor *t)
{
    return t->m ? saei_save_dtype(f->save, t->m) : SAE_F32;
}

static size_t bytes_of(const folder *f, const tensor *t)
{
    return t->m ? saei_sink_matrix_bytes(t->m, dtype_of(f, t)) : (size_t)t->n * sizeof(float);
}

static void add_shape(saei_text *h, const tensor *t)
{
    const saei_matrix *m = t->m;
    saei_text_int(h, !m ? t->n : t->by_cols ? m->d : m->n);
    if (!m)
        return;
    saei_text_add(h, ",");
    saei_text_int(h, t->by_cols ? m->n : m->d);
}

static void describe(saei_text *h, const folder *f, const tensor *t, size_t at)
{
    const sae_dtype dtype = dtype_of(f, t);
    saei_text_quoted(h, t->name);
    saei_text_add(h, dtype == SAE_F32   ? ":{\"dtype\":\"F32\",\"shape\":["
                     : dtype == SAE_F16 ? ":{\"dtype\":\"F16\",\"shape\":["
                                        : ":{\"dtype\":\"BF16\",\"shape\":[");
    add_shape(h, t);
    saei_text_add(h, "],\"data_offsets\":[");
    saei_text_int(h, (int64_t)at);
    saei_text_add(h, ",");
    saei_text_int(h, (int64_t)(at + bytes_of(f, t)));
    saei_text_add(h, "]}");
}

/* Runs through the tensors in the order of the file: 4-byte elements, then 2-byte ones. NULL after the last. */
static const tensor *next(const folder *f, uint32_t *at)
{
    while (*at < 2 * f->n) {
        const tensor *t = &f->tensors[*at % f->n];
        const bool wide = dtype_of(f, t) == SAE_F32, first = *at < f->n;
        ++*at;
        if (wide == first)
            return t;
    }
    return NULL;
}

static sae_status make_header(folder *f)
{
    saei_text *h = &f->header;
    size_t at = 0;
    if (!saei_text_start(h, f->save))
        return SAE_E_NOMEM;
    saei_text_bytes(h, "\0\0\0\0\0\0\0\0{", 9); /* the length comes last */
    uint32_t i = 0;
    for (const tensor *t; (t = next(f, &i));) {
        if (at)
            saei_text_add(h, ",");
        describe(h, f, t, at);
        at += bytes_of(f, t);
    }
    saei_text_add(h, "}");
    while (h->text && h->n % 8)
        saei_text_add(h, " ");
    if (!h->text)
        return saei_fail(f->save->err, SAE_E_NOMEM, "no memory for the header of %s", f->weights_path);
    const uint64_t length = h->n - 8;
    memcpy(h->text, &length, sizeof length);
    return SAE_OK;
}

static sae_status write_weights(const folder *f)
{
    saei_sink sink = {.host = f->save->host, .out = &f->weights, .err = f->save->err};
    sae_status status = saei_sink_bytes(&sink, f->header.text, f->header.n);
    uint32_t i = 0;
    for (const tensor *t; !status && (t = next(f, &i));)
        status = t->m ? saei_sink_matrix(&sink, t->m, t->by_cols, dtype_of(f, t), t->name)
                      : saei_sink_bytes(&sink, t->v, (size_t)t->n * sizeof(float));
    return status;
}

/* ---- the folder ---- */

static sae_status prepare(folder *f)
{
    saei_save *s = f->save;
    const char *name;
    const size_t n = strlen(s->path);
    const bool slash = s->path[n - 1] != '/';
    sae_status status = saei_saelens_name(&name, s);
    if (status)
        return status;
    f->weights_path = saei_save_alloc(s, n + 32);
    f->config_path = f->weights_path ? saei_save_alloc(s, n + 32) : NULL;
    if (!f->config_path || !add_tensors(f))
        return SAE_E_NOMEM;
    (void)snprintf(f->weights_path, n + 32, "%s%ssae_weights.safetensors", s->path, slash ? "/" : "");
    (void)snprintf(f->config_path, n + 32, "%s%scfg.json", s->path, slash ? "/" : "");
    status = saei_saelens_text(&f->config, s, name);
    return status ? status : make_header(f);
}

static sae_status write_files(folder *f)
{
    saei_save *s = f->save;
    const bool overwrite = s->opt.overwrite == SAE_YES;
    sae_status status;
    if ((status = saei_out_open(&f->weights, s->host, f->weights_path, overwrite, s->err)) ||
        (status = saei_out_open(&f->cfg, s->host, f->config_path, overwrite, s->err)) || (status = write_weights(f)) ||
        (status = saei_out_write(&f->cfg, f->config.text, 0, f->config.n, s->err)) || (status = saei_out_sync(&f->weights, s->err)))
        return status;
    return saei_out_sync(&f->cfg, s->err);
}

/* Weights without a cfg.json are no checkpoint, so the cfg.json comes last, and weights that stay alone are taken back. */
static sae_status commit(folder *f)
{
    saei_save *s = f->save;
    sae_status status = saei_out_commit(&f->weights, s->host, s->err);
    if (status)
        return status;
    status = saei_out_commit(&f->cfg, s->host, s->err);
    if (status && s->opt.overwrite != SAE_YES)
        saei_file_remove(f->weights_path);
    return status;
}

sae_status saei_save_saelens(saei_save *s)
{
    folder f = {.save = s};
    sae_status status = prepare(&f);
    if (!status)
        status = saei_folder_make(&f.made, s->path, s->err);
    if (!status && !(status = write_files(&f)))
        status = commit(&f);
    saei_out_drop(&f.weights, s->host);
    saei_out_drop(&f.cfg, s->host);
    if (status && f.made)
        saei_folder_remove(s->path);
    return status;
}
