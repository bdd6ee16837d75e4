/* Gemma Scope (google/gemma-scope-*: params.npz) and Gemma Scope 2 (google/gemma-scope-2-*: params.safetensors), with their transcoders and
 * cross-layer transcoders. All are JumpReLU without input centring (formats.md of the first release; sae-lens 6.54 loaders gemma_2, gemma_3;
 * circuit-tracer 0.5 load_gemma_scope_2_clt). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/formats.h"

/* ---- what the path says ---- */

/* What follows `start` in the first component of the path that begins with it; NULL without. `whole`: nothing may follow. */
static const char *component(const saei_source *s, const char *start, bool whole)
{
    const size_t n = strlen(start);
    for (const char *at = s->folder; at; at = strchr(at, '/')) {
        at += *at == '/';
        if (strncmp(at, start, n) == 0 && (!whole || !at[n] || at[n] == '/'))
            return at + n;
    }
    return NULL;
}

static bool path_has(const saei_source *s, const char *text)
{
    return strstr(s->folder, text) != NULL;
}

static sae_status set_hooks(saei_source *s, const char *in, const char *out)
{
    char name[64];
    const char *layer = component(s, "layer_", false);
    const char *const hooks[] = {in, out};
    const int32_t whats[] = {SAE_TEXT_HOOK_NAME, SAE_TEXT_HOOK_NAME_OUT};
    for (int i = 0; i < 2 && layer; i++) {
        if (!hooks[i])
            continue;
        snprintf(name, sizeof name, "blocks.%.*s.%s", (int)strspn(layer, "0123456789"), layer, hooks[i]);
        const sae_status status = saei_set_text(s, whats[i], name);
        if (status)
            return status;
    }
    return SAE_OK;
}

static sae_status hooks_of_path(saei_source *s)
{
    if (path_has(s, "transcoders"))
        return set_hooks(s, "ln2.hook_normalized", "hook_mlp_out");
    return path_has(s, "-res")   ? set_hooks(s, "hook_resid_post", NULL)
           : path_has(s, "-mlp") ? set_hooks(s, "hook_mlp_out", NULL)
           : path_has(s, "-att") ? set_hooks(s, "attn.hook_z", NULL)
                                 : SAE_OK;
}

/* ---- Gemma Scope ---- */

/* SAEs of the embedding take x as the model scales it, and were trained on what the table holds (sae-lens 6.54, gemma_2 loader):
 * W_enc / sqrt(d), W_dec * sqrt(d). */
static sae_status scale_embedding(saei_source *s)
{
    saei_parts *p = s->parts;
    const double root = sqrt((double)p->d_in);
    p->norm = SAE_NORM_SCALE;
    p->norm_scaling_factor = (float)(1.0 / root);
    p->norm_in_only = true;
    return saei_fill_vector(&p->dec_scale, s, p->d_sae, root);
}

/* Either case of the names was published. */
static const char *either(const saei_source *s, const char *upper, const char *lower)
{
    return saei_store_find(&s->store, upper) ? upper : lower;
}

static sae_status read_params(saei_source *s)
{
    saei_parts *p = s->parts;
    const char *enc_name = either(s, "W_enc", "w_enc"), *dec_name = either(s, "W_dec", "w_dec");
    saei_tensor enc, dec;
    int32_t d = 0, n = 0, rows = 0, d_out = 0;
    sae_status status;
    p->arch = SAE_JUMPRELU;
    s->sizes_from = "W_enc says";
    if ((status = saei_take_shape(&d, &n, s, enc_name)) || (status = saei_take_matrix(&enc, s, enc_name, true, n, "d_sae", d, "d_in")) ||
        (status = saei_take_shape(&rows, &d_out, s, dec_name)) ||
        (status = saei_take_matrix(&dec, s, dec_name, false, n, "d_sae", d_out, "d_out")) ||
        (status = saei_take_vector(&p->b_enc, s, "b_enc", n, "d_sae")) ||
        (status = saei_take_vector(&p->b_dec, s, "b_dec", d_out, "d_out")) ||
        (status = saei_take_vector(&p->threshold, s, "threshold", n, "d_sae")))
        return status;
    return saei_set_matrices(s, &enc, &dec);
}

sae_status saei_read_gemma_scope(saei_source *s)
{
    static const char *const names[] = {"W_enc", "w_enc", "W_dec", "w_dec", "b_enc", "b_dec", "threshold", NULL};
    s->what = "a Gemma Scope SAE";
    sae_status status = saei_source_tensors(s, *s->named ? s->named : "params.npz");
    if (status || (status = saei_only(s, names)) || (status = read_params(s)) ||
        (status = saei_set_text(s, SAE_TEXT_ARCHITECTURE, "jumprelu")))
        return status;
    if (component(s, "embedding", true))
        return scale_embedding(s);
    return hooks_of_path(s);
}

/* ---- Gemma Scope 2 ---- */

static sae_status read_config(saei_source *s)
{
    const char *architecture = NULL, *model = NULL, *in = NULL, *out = NULL;
    sae_status status;
    if (!saei_source_has(s, "config.json"))
        return SAE_OK;
    if ((status = saei_source_config(s, "config.json")) || (status = saei_config_text(&architecture, s, 0, "architecture")) ||
        (status = saei_config_text(&model, s, 0, "model_name")) || (status = saei_config_text(&in, s, 0, "hf_hook_point_in")) ||
        (status = saei_config_text(&out, s, 0, "hf_hook_point_out")))
        return status;
    if (architecture && strcmp(architecture, "jump_relu") != 0)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "config.json: architecture \"%.40s\" is not jump_relu, which Gemma Scope 2 has",
                         architecture);
    if ((status = saei_set_text(s, SAE_TEXT_ARCHITECTURE, architecture ? architecture : "jump_relu")) ||
        (status = saei_set_text(s, SAE_TEXT_MODEL_NAME, model)) || (status = saei_set_text(s, SAE_TEXT_HOOK_NAME, in)))
        return status;
    return saei_set_text(s, SAE_TEXT_HOOK_NAME_OUT, out);
}

/* Stored [d_in][d_out], used as x @ affine_skip_connection. */
static sae_status read_affine(saei_source *s, int32_t in_first, int32_t out_first, int32_t d_in, int32_t d_out)
{
    static const char name[] = "affine_skip_connection";
    saei_tensor skip;
    if (!saei_store_find(&s->store, name))
        return SAE_OK;
    const sae_status status = saei_take_matrix(&skip, s, name, true, d_out, "d_out", d_in, "d_in");
    return status ? status : saei_add_skip(s, in_first, out_first, &skip);
}

static const char *const params_names[] = {"w_enc", "w_dec", "b_enc", "b_dec", "threshold", "affine_skip_connection", NULL};

sae_status saei_read_gemma_scope_2(saei_source *s)
{
    s->what = "a Gemma Scope 2 SAE";
    sae_status status = read_config(s);
    if (status || (status = saei_source_tensors(s, *s->named ? s->named : "params.safetensors")) || (status = saei_only(s, params_names)) ||
        (status = read_params(s)))
        return status;
    return read_affine(s, 0, 0, s->parts->d_in, s->parts->d_out);
}

/* ---- the cross-layer transcoder of Gemma Scope 2: params_layer_<l>.safetensors, w_dec [n][layers][d] with rows for all layers, those before
 * its own unused ---- */

static int32_t count_layers(const saei_source *s)
{
    char name[64];
    int32_t n = 0;
    do
        snprintf(name, sizeof name, "params_layer_%d.safetensors", (int)n);
    while (saei_source_has(s, name) && ++n < INT32_MAX);
    return n;
}

static sae_status check_layers(const saei_source *s, int32_t n)
{
    int32_t files = 0;
    for (uint32_t i = 0; i < s->n_names; i++)
        files += strncmp(s->names[i], "params_layer_", strlen("params_layer_")) == 0;
    return files == n
               ? SAE_OK
               : saei_fail(s->err, SAE_E_FORMAT,
                           "params_layer_%d.safetensors is absent, but the folder has %d layers: download all of them", (int)n, (int)files);
}

static sae_status add_targets(saei_source *s, int32_t layer, int32_t n_layers, int32_t n, int32_t d)
{
    const saei_array *a;
    saei_array flat;
    sae_status status = saei_take_array(&a, s, "w_dec");
    if (status)
        return status;
    if (a->n_dims != 3 || a->shape[0] != n || a->shape[1] != n_layers || a->shape[2] != d || !saei_view_join(&flat, a))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: w_dec is not [d_sae = %d][layers = %d][d = %d]", s->file, (int)n, (int)n_layers,
                         (int)d);
    saei_segment g = {.first = layer * n, .n = n, .row_step = n_layers};
    if (n > INT32_MAX / n_layers)
        return saei_fail(s->err, SAE_E_SHAPE, "%s: %d features of %d layers are more rows than this version counts", s->file, (int)n,
                         (int)n_layers);
    if ((status = saei_take_view(&g.w, s, &flat, false, n * n_layers, "rows", d, "d")))
        return status;
    for (int32_t to = layer; to < n_layers && !status; to++) {
        g.out_first = to * d;
        g.row_first = to;
        status = saei_add_segment(s, &g);
    }
    return status;
}

/* A vector of one layer, into its place in that of all. */
static sae_status layer_vector(float *whole, const saei_source *s, const char *name, int32_t layer, int32_t n)
{
    return saei_take_into(whole + (size_t)layer * (size_t)n, s, name, n, "the first layer's");
}

static sae_status begin_layers(saei_source *s, int32_t n_layers, int32_t n, int32_t d)
{
    saei_parts *p = s->parts;
    sae_status status;
    if (n > INT32_MAX / n_layers || d > INT32_MAX / n_layers)
        return saei_fail(s->err, SAE_E_SHAPE, "%d layers of %d features and %d inputs are more than this version counts", (int)n_layers,
                         (int)n, (int)d);
    p->arch = SAE_JUMPRELU;
    p->d_sae = n_layers * n;
    p->d_in = p->d_out = n_layers * d;
    p->n_in = p->n_out = n_layers;
    if ((status = saei_make_vector(&p->b_enc, s, p->d_sae)) || (status = saei_make_vector(&p->threshold, s, p->d_sae)))
        return status;
    return saei_make_vector(&p->b_dec, s, p->d_out);
}

static sae_status read_layer(saei_source *s, int32_t layer, int32_t n_layers, int32_t *n, int32_t *d)
{
    saei_parts *p = s->parts;
    char name[64];
    saei_tensor enc;
    sae_status status;
    snprintf(name, sizeof name, "params_layer_%d.safetensors", (int)layer);
    saei_source_forget(s);
    if ((status = saei_source_tensors(s, name)) || (status = saei_only(s, params_names)))
        return status;
    if (layer == 0 && ((status = saei_take_shape(d, n, s, "w_enc")) || (status = begin_layers(s, n_layers, *n, *d))))
        return status;
    if ((status = saei_take_matrix(&enc, s, "w_enc", true, *n, "d_sae", *d, "d_in")) ||
        (status = saei_add_block(s, layer * *n, layer * *d, &enc)) || (status = add_targets(s, layer, n_layers, *n, *d)) ||
        (status = layer_vector(p->b_enc, s, "b_enc", layer, *n)) || (status = layer_vector(p->threshold, s, "threshold", layer, *n)) ||
        (status = layer_vector(p->b_dec, s, "b_dec", layer, *d)))
        return status;
    return read_affine(s, layer * *d, layer * *d, *d, *d);
}

sae_status saei_read_gemma_scope_2_clt(saei_source *s)
{
    const int32_t n_layers = count_layers(s);
    int32_t n = 0, d = 0;
    s->what = "a cross-layer transcoder of Gemma Scope 2";
    s->sizes_from = "the first layer says";
    if (*s->named)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "%s is one layer of a cross-layer transcoder: open the folder", s->named);
    sae_status status = check_layers(s, n_layers);
    if (!status)
        status = read_config(s);
    for (int32_t layer = 0; layer < n_layers && !status; layer++)
        status = read_layer(s, layer, n_layers, &n, &d);
    return status;
}
