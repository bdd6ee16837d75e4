/* A path -> canonical parts. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/formats.h"
#include "io/saelens.h"
#include "io/sort.h"
#include "simd/kernels.h"

enum { MOST_NAMES = 1 << 16 };

/* ---- before ---- */

static sae_status check_options(const sae_open_options *opt, sae_error *err)
{
    const struct {
        const char *name;
        int32_t value, most;
    } all[] = {{"k", opt->k, INT32_MAX},         {"d_in", opt->d_in, INT32_MAX},
               {"d_out", opt->d_out, INT32_MAX}, {"apply_b_dec", opt->apply_b_dec, SAE_NO},
               {"copy", opt->copy, SAE_NO},      {"check", opt->check, SAE_NO}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].value < 0 || all[i].value > all[i].most)
            return saei_fail(err, SAE_E_ARG, "sae_open_options.%s = %d is outside 0 .. %d", all[i].name, (int)all[i].value,
                             (int)all[i].most);
    if (opt->layer && (!*opt->layer || strlen(opt->layer) > 100 || strchr(opt->layer, '/')))
        return saei_fail(err, SAE_E_ARG, "the option layer = \"%.40s\" is neither a number nor the name of a file or folder", opt->layer);
    return SAE_OK;
}

/* The system's own words for a path where nothing is. */
static sae_status nothing_there(const saei_source *s)
{
    saei_file file;
    const sae_status status = saei_file_open(&file, s->host, s->path, false, s->err);
    if (status)
        return status;
    saei_file_close(&file, s->host);
    return saei_fail(s->err, SAE_E_IO, "%s appeared while it was looked for: try again", s->path);
}

static int by_name(const void *names, uint32_t a, uint32_t b)
{
    const char *const *list = names;
    return strcmp(list[a], list[b]);
}

static sae_status list_folder(saei_source *s)
{
    const char **names;
    uint32_t n;
    const sae_status status = saei_dir_names(&names, &n, &s->memory, s->host, *s->folder ? s->folder : ".", MOST_NAMES, s->err);
    if (status || !n)
        return status;
    uint32_t *ids = saei_arena_alloc(&s->memory, s->host, n * sizeof *ids);
    s->names = saei_arena_alloc(&s->memory, s->host, n * sizeof *s->names);
    if (!ids || !s->names)
        return saei_fail(s->err, SAE_E_NOMEM, "no memory for the %u names in %s", (unsigned)n, s->folder);
    for (uint32_t i = 0; i < n; i++)
        ids[i] = i;
    saei_sort(ids, n, by_name, names);
    for (uint32_t i = 0; i < n; i++)
        s->names[i] = names[ids[i]];
    s->n_names = n;
    return SAE_OK;
}

static sae_status set_folder(saei_source *s, const char *path, size_t n, const char *named)
{
    while (n > 1 && path[n - 1] == '/')
        n--;
    s->folder = saei_arena_text(&s->memory, s->host, path, n);
    s->named = saei_arena_text(&s->memory, s->host, named, strlen(named));
    return s->folder && s->named ? list_folder(s) : saei_fail(s->err, SAE_E_NOMEM, "no memory for the path of %s", s->path);
}

/* Where the option layer names a folder of the folder, that one is meant: "layers.12.mlp", or "12" for layers.12 and layer_12. */
static sae_status go_down(saei_source *s)
{
    static const char *const prefixes[] = {"", "layers.", "layer_"};
    char name[128], path[4096];
    for (size_t i = 0; s->opt->layer && !*s->named && i < sizeof prefixes / sizeof *prefixes; i++) {
        snprintf(name, sizeof name, "%s%s", prefixes[i], s->opt->layer);
        const int n = snprintf(path, sizeof path, "%s/%s", *s->folder ? s->folder : ".", name);
        if (saei_source_has(s, name) && n > 0 && (size_t)n < sizeof path && saei_path_kind(path) == 1)
            return set_folder(s, path, (size_t)n, "");
    }
    return SAE_OK;
}

/* Llama Scope keeps its weights one folder deeper than what describes them. */
static sae_status go_up(saei_source *s)
{
    static const char *const names[] = {"final.safetensors", "pruned.safetensors", "final.pt", "pruned.pt"};
    static const char below[] = "checkpoints";
    const size_t n = strlen(s->folder), tail = strlen(below);
    char named[64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(s->named, names[i]) != 0 || n < tail || strcmp(s->folder + n - tail, below) != 0 ||
            (n > tail && s->folder[n - tail - 1] != '/'))
            continue;
        snprintf(named, sizeof named, "%s/%s", below, names[i]);
        return set_folder(s, n == tail ? "." : s->folder, n == tail ? 1 : n - tail, named);
    }
    return SAE_OK;
}

static sae_status find_place(saei_source *s)
{
    const int kind = saei_path_kind(s->path);
    const char *slash = strrchr(s->path, '/');
    if (kind < 0)
        return nothing_there(s);
    if (kind == 1) {
        const sae_status status = set_folder(s, s->path, strlen(s->path), "");
        return status ? status : go_down(s);
    }
    const size_t n = slash ? (size_t)(slash - s->path) + (slash == s->path) : 0;
    const sae_status status = set_folder(s, s->path, n, slash ? slash + 1 : s->path);
    return status ? status : go_up(s);
}

/* ---- after ---- */

static bool is_factor(float v)
{
    return v > 0.0f && isfinite(v) && isfinite(1.0f / v);
}

static sae_status apply_options(saei_source *s)
{
    saei_parts *p = s->parts;
    const sae_open_options *o = s->opt;
    if (o->d_in && o->d_in != p->d_in)
        return saei_fail(s->err, SAE_E_SHAPE, "this SAE has d_in = %d, the caller expects d_in = %d", (int)p->d_in, (int)o->d_in);
    if (o->d_out && o->d_out != p->d_out)
        return saei_fail(s->err, SAE_E_SHAPE, "this SAE has d_out = %d, the caller expects d_out = %d", (int)p->d_out, (int)o->d_out);
    if (o->apply_b_dec == SAE_YES && p->d_in != p->d_out)
        return saei_fail(s->err, SAE_E_ARG, "the option apply_b_dec needs d_in = d_out, this SAE has %d and %d", (int)p->d_in,
                         (int)p->d_out);
    if (o->apply_b_dec != SAE_DEFAULT)
        p->apply_b_dec = o->apply_b_dec == SAE_YES;
    if (o->normalize_activations) {
        const sae_norm norm = saei_saelens_norm(o->normalize_activations);
        if (norm < 0)
            return saei_fail(
                s->err, SAE_E_ARG,
                "the option normalize_activations = \"%.40s\" is not one of none, expected_average_only_in, constant_norm_rescale, "
                "layer_norm",
                o->normalize_activations);
        if (norm != p->norm)
            p->norm_scaling_factor = p->norm_out_factor = 1.0f;
        p->norm = norm;
    }
    if (o->norm_scaling_factor != 0.0f && p->norm != SAE_NORM_SCALE)
        return saei_fail(s->err, SAE_E_ARG,
                         "the option norm_scaling_factor is for normalize_activations \"expected_average_only_in\", this SAE has another");
    if (o->norm_scaling_factor != 0.0f) {
        if (!is_factor(o->norm_scaling_factor))
            return saei_fail(s->err, SAE_E_ARG, "the option norm_scaling_factor = %g and its inverse must be finite and greater than 0",
                             (double)o->norm_scaling_factor);
        p->norm_scaling_factor = o->norm_scaling_factor;
        p->norm_out_factor = 1.0f / o->norm_scaling_factor;
    }
    return SAE_OK;
}

/* `first`: the number of its first row in the file. */
static sae_status check_matrix(const saei_source *s, const saei_tensor *t, size_t first)
{
    const saei_matrix *m = &t->m;
    const size_t n = (size_t)m->n * (size_t)m->d, width = (size_t)(m->by_cols ? m->n : m->d);
    const size_t bad = saei_kernels_for(SAE_ISA_AUTO)->nonfinite(m->data, m->dtype, n);
    if (bad == n)
        return SAE_OK;
    const float value = saei_load((const unsigned char *)m->data + bad * sae_dtype_bytes(m->dtype), m->dtype);
    return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is %g at row %zu, column %zu, not a finite number: the checkpoint is damaged", s->file,
                     t->name, (double)value, first + bad / width, bad % width);
}

/* What was stored is finite: what became of it by factors of the configuration, or by lengths of rows, may not be. */
static sae_status check_vectors(const saei_source *s)
{
    const saei_parts *p = s->parts;
    const struct {
        const float *v;
        int32_t n;
        const char *name;
    } all[] = {{p->b_enc, p->d_sae, "b_enc"},
               {p->b_dec, p->d_out, "b_dec"},
               {p->threshold, p->d_sae, "threshold"},
               {p->key_scale, p->d_sae, "the scale of its codes"},
               {p->dec_scale, p->d_sae, "the scale of its decoder"},
               {p->in_scale, p->d_in, "the factor of its rows"},
               {p->out_scale, p->d_out, "the factor of its output"}};
    if (p->norm == SAE_NORM_SCALE && !(is_factor(p->norm_scaling_factor) && is_factor(p->norm_out_factor)))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: rows are multiplied by %g and outputs by %g, which must be finite and greater than 0",
                         s->file, (double)p->norm_scaling_factor, (double)p->norm_out_factor);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const size_t n = all[i].v ? (size_t)all[i].n : 0, bad = saei_kernels_for(SAE_ISA_AUTO)->nonfinite(all[i].v, SAE_F32, n);
        if (bad < n)
            return saei_fail(s->err, SAE_E_FORMAT, "%s: %s at element %zu becomes %g, not a finite number: the checkpoint is damaged",
                             s->file, all[i].name, bad, (double)all[i].v[bad]);
    }
    return SAE_OK;
}

/* A segment that shares its matrix looks at its own rows, when they lie one after another: segments may be as many as the square of the layers. */
static sae_status check_segment(const saei_source *s, uint32_t i)
{
    const saei_segment *g = &s->parts->dec[i];
    saei_tensor own = g->w;
    if (i && g->w.m.data == g[-1].w.m.data)
        return SAE_OK;
    if (g->row_step == 1 && !g->w.m.by_cols) {
        own.m.data = (const unsigned char *)g->w.m.data + (size_t)g->row_first * (size_t)g->w.m.d * sae_dtype_bytes(g->w.m.dtype);
        own.m.n = g->n;
    }
    return check_matrix(s, &own, (size_t)g->row_first * (own.m.n != g->w.m.n));
}

/* Larger files would cost seconds here: sae_model_prepare and sae_model_check look at them. */
static sae_status check_values(const saei_source *s)
{
    const saei_parts *p = s->parts;
    sae_status status = SAE_OK;
    if (s->opt->check == SAE_NO || saei_parts_bytes(p) > SAEI_CHECKED_WHOLE)
        return SAE_OK;
    for (uint32_t i = 0; i < p->n_enc && !status; i++)
        if (!i || p->enc[i].w.m.data != p->enc[i - 1].w.m.data)
            status = check_matrix(s, &p->enc[i].w, 0);
    for (uint32_t i = 0; i < p->n_dec && !status; i++)
        status = check_segment(s, i);
    for (uint32_t i = 0; i < p->n_skip && !status; i++)
        status = check_matrix(s, &p->skip[i].w, 0);
    for (int32_t i = 0; i < p->n_attention && !status; i++) {
        const saei_linear *const all[] = {&p->attention[i].k_ctx, &p->attention[i].q_target, &p->attention[i].v_ctx,
                                          &p->attention[i].c_proj};
        for (int k = 0; k < 4 && !status; k++)
            status = check_matrix(s, &all[k]->w, 0);
    }
    return status;
}

static sae_status finish_texts(saei_source *s, const saei_format *format)
{
    const struct {
        int32_t what;
        const char *text;
    } all[] = {{SAE_TEXT_FORMAT, format->name}, {SAE_TEXT_PATH, s->n_opened ? s->opened[s->n_opened - 1] : s->path}};
    sae_status status = SAE_OK;
    for (size_t i = 0; i < sizeof all / sizeof *all && !status; i++)
        status = saei_set_text(s, all[i].what, all[i].text);
    for (int32_t what = SAE_TEXT_FORMAT; what < SAEI_TEXTS && !status; what++)
        if (!s->parts->texts[what])
            status = saei_set_text(s, what, "");
    return status;
}

static sae_status read_all(saei_source *s)
{
    const saei_format *format;
    sae_status status;
    if ((status = check_options(s->opt, s->err)) || (status = find_place(s)) || (status = saei_detect(&format, s)))
        return status;
    s->parts->norm_scaling_factor = s->parts->norm_out_factor = 1.0f;
    if ((status = format->read(s)) || (status = apply_options(s)) || (status = check_vectors(s)) || (status = check_values(s)))
        return status;
    return finish_texts(s, format);
}

sae_status saei_parts_open(saei_parts *out, const saei_host *host, const char *path, const sae_open_options *opt, sae_error *err)
{
    saei_source s = {.host = host,
                     .opt = opt,
                     .err = err,
                     .parts = out,
                     .path = path,
                     .folder = "",
                     .named = "",
                     .file = "",
                     .config_name = "the configuration",
                     .sizes_from = "the file says",
                     .what = "this SAE"};
    *out = (saei_parts){0};
    const sae_status status = read_all(&s);
    saei_arena_move(&out->memory, &s.store.memory); /* unpacked tensors */
    saei_json_free(&s.config, host);
    saei_arena_free(&s.memory, host);
    if (status)
        saei_parts_free(out, host);
    return status;
}
