/* Transcoders for circuit tracing (circuit-tracer 0.5, transcoder/ of the package): a set of layer_<l>.safetensors, of which one is opened, and cross-layer
 * transcoders of W_enc_<l>.safetensors and W_dec_<l>.safetensors, of which all are. mwhanna's and mntss's files have the same tensors.
 * There is no relu in its JumpReLU and top-k: negative codes are kept. */
#include <stdio.h>
#include <string.h>

#include "io/formats.h"

typedef struct setting {
    const char *activation; /* NULL: by the tensors */
    int32_t k;
} setting;

static sae_status set_hook(saei_source *s, int32_t what, const char *key, int32_t layer)
{
    const char *hook = NULL;
    char name[160];
    const sae_status status = saei_config_text(&hook, s, 0, key);
    if (status || !hook)
        return status;
    if (layer < 0)
        return saei_set_text(s, what, hook);
    snprintf(name, sizeof name, "blocks.%d.%s", (int)layer, hook);
    return saei_set_text(s, what, name);
}

/* config.yaml is optional: it names the model and the hooks, and in later versions the activation. */
static sae_status read_config(saei_source *s, setting *c, int32_t layer)
{
    const char *model = NULL;
    sae_status status;
    *c = (setting){0};
    if (!saei_source_has(s, "config.yaml"))
        return SAE_OK;
    if ((status = saei_source_config(s, "config.yaml")) || (status = saei_config_text(&model, s, 0, "model_name")) ||
        (status = saei_set_text(s, SAE_TEXT_MODEL_NAME, model)) ||
        (status = set_hook(s, SAE_TEXT_HOOK_NAME, "feature_input_hook", layer)) ||
        (status = set_hook(s, SAE_TEXT_HOOK_NAME_OUT, "feature_output_hook", layer)) ||
        (status = saei_config_text(&c->activation, s, 0, "activation")))
        return status;
    return saei_json_member(&s->config, 0, "k") ? saei_config_size(&c->k, s, 0, "k") : SAE_OK;
}

/* keeps_negative only where a code can be negative: a threshold of 0 or more is a relu already. */
static void see_negative(saei_parts *p)
{
    for (int32_t j = 0; j < p->d_sae && !p->keeps_negative; j++)
        p->keeps_negative = p->threshold[j] < 0.0f;
}

/* ---- one layer of a set ---- */

static sae_status read_activation(saei_source *s, const setting *c)
{
    static const char name[] = "activation_function.threshold";
    saei_parts *p = s->parts;
    const bool jumps = saei_store_find(&s->store, name) != NULL;
    const bool topk = !jumps && ((c->activation && strcmp(c->activation, "topk") == 0) || saei_store_find(&s->store, "k"));
    int64_t stored = 0;
    sae_status status = SAE_OK;
    if (c->activation && strcmp(c->activation, "topk") != 0 && strcmp(c->activation, "relu") != 0 &&
        strcmp(c->activation, "jump_relu") != 0 && strcmp(c->activation, "jumprelu") != 0)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "config.yaml: activation \"%.40s\" is none of relu, jump_relu, topk", c->activation);
    p->arch = jumps ? SAE_JUMPRELU : topk ? SAE_TOPK : SAE_STANDARD;
    if (jumps && !(status = saei_take_vector(&p->threshold, s, name, p->d_sae, "d_transcoder")))
        see_negative(p);
    if (!topk)
        return status;
    p->keeps_negative = true;
    status = saei_take_count(&stored, s, "k");
    return status ? status : saei_set_k(s, stored ? stored : c->k);
}

static sae_status read_transcoder(saei_source *s)
{
    static const char *const names[] = {"W_enc", "W_dec", "b_enc", "b_dec", "W_skip", "activation_function.threshold", "k", NULL};
    saei_parts *p = s->parts;
    saei_tensor enc, dec, skip;
    int32_t n = 0, d = 0, rows = 0, d_out = 0;
    sae_status status;
    s->sizes_from = "W_enc says";
    if ((status = saei_only(s, names)) || (status = saei_take_shape(&n, &d, s, "W_enc")) ||
        (status = saei_take_shape(&rows, &d_out, s, "W_dec")) ||
        (status = saei_take_matrix(&enc, s, "W_enc", false, n, "d_transcoder", d, "d_model")) ||
        (status = saei_take_matrix(&dec, s, "W_dec", false, n, "d_transcoder", d_out, "d_model")) ||
        (status = saei_set_matrices(s, &enc, &dec)) || (status = saei_take_vector(&p->b_enc, s, "b_enc", n, "d_transcoder")) ||
        (status = saei_take_vector(&p->b_dec, s, "b_dec", d_out, "d_model")) || !saei_store_find(&s->store, "W_skip"))
        return status;
    status = saei_take_matrix(&skip, s, "W_skip", false, d_out, "d_model", d, "d_model"); /* x @ W_skip.T */
    return status ? status : saei_add_skip(s, 0, 0, &skip);
}

static int32_t layer_of(const char *name)
{
    return saei_number_in(name, "layer_", ".safetensors");
}

/* Which file is meant: the named one, the one of the option, or the only one. */
static sae_status find_layer(saei_source *s)
{
    char want[128];
    int32_t files = 0, most = 0;
    const char *only = "";
    if (*s->named)
        return SAE_OK;
    for (uint32_t i = 0; i < s->n_names; i++)
        if (layer_of(s->names[i]) >= 0) {
            only = s->names[i];
            most = layer_of(only) > most ? layer_of(only) : most;
            files++;
        }
    if (s->opt->layer) {
        snprintf(want, sizeof want, "layer_%s.safetensors", s->opt->layer);
        s->named = saei_arena_text(&s->memory, s->host, want, strlen(want));
        if (!s->named)
            return saei_fail(s->err, SAE_E_NOMEM, "no memory for a name");
        return saei_source_has(s, want)
                   ? SAE_OK
                   : saei_fail(s->err, SAE_E_ARG, "the option layer = %s, but the folder has no %s", s->opt->layer, want);
    }
    for (int32_t i = 0; i < most && files > 1; i++) {
        snprintf(want, sizeof want, "layer_%d.safetensors", (int)i);
        if (!saei_source_has(s, want))
            return saei_fail(s->err, SAE_E_FORMAT,
                             "%s is absent, but the set goes up to layer %d: download it, or name a layer with the option layer", want,
                             (int)most);
    }
    s->named = only;
    return files == 1 ? SAE_OK
                      : saei_fail(s->err, SAE_E_ARG,
                                  "the folder holds transcoders of %d layers, 0 .. %d: the option layer names the one that is meant",
                                  (int)files, (int)most);
}

sae_status saei_read_circuit_tracer(saei_source *s)
{
    setting c;
    s->what = "a transcoder";
    sae_status status = find_layer(s);
    if (status || (status = read_config(s, &c, layer_of(s->named))) || (status = saei_source_tensors(s, s->named)) ||
        (status = read_transcoder(s)))
        return status;
    return read_activation(s, &c);
}

/* ---- cross-layer transcoders ---- */

static const char *numbered(char out[64], const char *stem, int32_t layer, const char *ending)
{
    snprintf(out, 64, "%s_%d%s", stem, (int)layer, ending);
    return out;
}

static int32_t count_layers(const saei_source *s)
{
    char name[64];
    int32_t n = 0;
    while (n < INT32_MAX && saei_source_has(s, numbered(name, "W_enc", n, ".safetensors")))
        n++;
    return n;
}

static sae_status check_layers(const saei_source *s, int32_t n)
{
    char name[64];
    int32_t files = 0;
    for (uint32_t i = 0; i < s->n_names; i++)
        files += strncmp(s->names[i], "W_enc_", strlen("W_enc_")) == 0;
    if (files != n)
        return saei_fail(s->err, SAE_E_FORMAT, "%s is absent, but the folder has encoders of %d layers: download all of them",
                         numbered(name, "W_enc", n, ".safetensors"), (int)files);
    for (int32_t i = 0; i < n; i++)
        if (!saei_source_has(s, numbered(name, "W_dec", i, ".safetensors")))
            return saei_fail(s->err, SAE_E_FORMAT, "%s is absent, but the folder has encoders of %d layers: download all of them", name,
                             (int)n);
    return SAE_OK;
}

static sae_status begin_layers(saei_source *s, int32_t layers, int32_t n, int32_t d)
{
    char name[64];
    saei_parts *p = s->parts;
    sae_status status;
    if (n > INT32_MAX / layers || d > INT32_MAX / layers)
        return saei_fail(s->err, SAE_E_SHAPE, "%d layers of %d features and %d inputs are more than this version counts", (int)layers,
                         (int)n, (int)d);
    p->d_sae = layers * n;
    p->d_in = p->d_out = layers * d;
    p->n_in = p->n_out = layers;
    p->arch = saei_store_find(&s->store, numbered(name, "threshold", 0, "")) ? SAE_JUMPRELU : SAE_STANDARD;
    if ((status = saei_make_vector(&p->b_enc, s, p->d_sae)) || (status = saei_make_vector(&p->b_dec, s, p->d_out)))
        return status;
    return p->arch == SAE_JUMPRELU ? saei_make_vector(&p->threshold, s, p->d_sae) : SAE_OK;
}

/* A vector of one layer, into its place in that of all. */
static sae_status layer_vector(float *whole, const saei_source *s, const char *stem, int32_t layer, int32_t n)
{
    char name[64];
    return saei_take_into(whole + (size_t)layer * (size_t)n, s, numbered(name, stem, layer, ""), n, "the first layer's");
}

/* x_l @ W_skip_l, without transpose (transcoder/cross_layer_transcoder.py). */
static sae_status layer_skip(saei_source *s, int32_t layer, int32_t d)
{
    char name[64];
    saei_tensor skip;
    if (!saei_store_find(&s->store, numbered(name, "W_skip", layer, "")))
        return SAE_OK;
    const sae_status status = saei_take_matrix(&skip, s, name, true, d, "d_model", d, "d_model");
    return status ? status : saei_add_skip(s, layer * d, layer * d, &skip);
}

/* W_dec_<l> [n][targets][d]: one long row a feature, for its own layer and all behind it. `place`: of the layer among those of the model. */
static sae_status layer_decoder(saei_source *s, int32_t layer, int32_t place, int32_t targets, int32_t n, int32_t d)
{
    char name[64];
    const saei_array *a;
    const int32_t width = targets * d;
    saei_segment g = {.first = place * n, .n = n, .out_first = place * d, .row_step = 1};
    sae_status status = saei_take_array(&a, s, numbered(name, "W_dec", layer, ""));
    if (status)
        return status;
    if (a->n_dims != 3 || a->shape[1] != targets || a->shape[2] != d || a->stride[1] != a->shape[2] * a->stride[2])
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is not [d_transcoder = %d][layers behind = %d][d_model = %d]", s->file, name, (int)n,
                         (int)targets, (int)d);
    saei_array flat = *a;
    flat.n_dims = 2;
    flat.shape[1] = width;
    flat.stride[1] = a->stride[2];
    status = saei_take_view(&g.w, s, &flat, false, n, "d_transcoder", width, "outputs");
    return status ? status : saei_add_segment(s, &g);
}

static sae_status read_layer(saei_source *s, int32_t layer, int32_t layers, int32_t *n, int32_t *d)
{
    char name[64];
    saei_parts *p = s->parts;
    saei_tensor enc;
    sae_status status;
    if ((status = saei_source_tensors(s, numbered(name, "W_enc", layer, ".safetensors"))) ||
        (status = saei_source_tensors(s, numbered(name, "W_dec", layer, ".safetensors"))))
        return status;
    if (layer == 0 && ((status = saei_take_shape(n, d, s, "W_enc_0")) || (status = begin_layers(s, layers, *n, *d))))
        return status;
    if ((status = saei_take_matrix(&enc, s, numbered(name, "W_enc", layer, ""), false, *n, "d_transcoder", *d, "d_model")) ||
        (status = saei_add_block(s, layer * *n, layer * *d, &enc)) || (status = layer_decoder(s, layer, layer, layers - layer, *n, *d)) ||
        (status = layer_vector(p->b_enc, s, "b_enc", layer, *n)) || (status = layer_vector(p->b_dec, s, "b_dec", layer, *d)) ||
        (status = layer_skip(s, layer, *d)))
        return status;
    return p->threshold ? layer_vector(p->threshold, s, "threshold", layer, *n) : SAE_OK;
}

/* One layer by itself: a transcoder that writes to its own layer and all behind it. Only its own b_dec lies in its files. */
static sae_status read_single(saei_source *s, int32_t layer)
{
    char name[64];
    saei_parts *p = s->parts;
    const saei_array *a;
    saei_tensor enc;
    int32_t n = 0, d = 0;
    s->sizes_from = "W_enc says";
    sae_status status = saei_source_tensors(s, numbered(name, "W_enc", layer, ".safetensors"));
    if (status || (status = saei_source_tensors(s, numbered(name, "W_dec", layer, ".safetensors"))) ||
        (status = saei_take_shape(&n, &d, s, numbered(name, "W_enc", layer, ""))) ||
        (status = saei_take_array(&a, s, numbered(name, "W_dec", layer, ""))))
        return status;
    const int64_t targets = a->n_dims == 3 ? a->shape[1] : 0;
    if (targets < 1 || targets > INT32_MAX / d || layer > INT32_MAX - targets)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is not [d_transcoder][layers behind][d_model]", s->file, name);
    p->d_in = d;
    p->d_sae = n;
    p->d_out = (int32_t)targets * d;
    p->n_in = 1;
    p->n_out = (int32_t)targets;
    p->arch = saei_store_find(&s->store, numbered(name, "threshold", layer, "")) ? SAE_JUMPRELU : SAE_STANDARD;
    if (p->arch == SAE_JUMPRELU && (status = saei_take_vector(&p->threshold, s, name, n, "d_transcoder")))
        return status;
    if ((status = saei_take_matrix(&enc, s, numbered(name, "W_enc", layer, ""), false, n, "d_transcoder", d, "d_model")) ||
        (status = saei_add_block(s, 0, 0, &enc)) || (status = layer_decoder(s, layer, 0, (int32_t)targets, n, d)) ||
        (status = saei_take_vector(&p->b_enc, s, numbered(name, "b_enc", layer, ""), n, "d_transcoder")) ||
        (status = saei_make_vector(&p->b_dec, s, p->d_out)) ||
        (status = saei_take_into(p->b_dec, s, numbered(name, "b_dec", layer, ""), d, "d_model")))
        return status;
    return targets == 1
               ? SAE_OK
               : saei_warn(s,
                           "this is layer %d of a cross-layer transcoder: what it writes to the layers behind lacks their b_dec and "
                           "what other layers write there",
                           (int)layer);
}

/* The layer that is meant, or -1 for all: by the file that was named, or by the option. */
static sae_status which_layer(saei_source *s, int32_t *out)
{
    char name[64];
    int32_t layer = saei_number_in(s->named, "W_enc_", ".safetensors");
    if (layer < 0 && s->opt->layer) {
        layer = saei_number_in(s->opt->layer, "", "");
        if (layer < 0 || !saei_source_has(s, numbered(name, "W_enc", layer, ".safetensors")))
            return saei_fail(s->err, SAE_E_ARG, "the option layer = %s, but the folder has no W_enc_%s.safetensors", s->opt->layer,
                             s->opt->layer);
    }
    *out = layer;
    if (layer >= 0 && !saei_source_has(s, numbered(name, "W_dec", layer, ".safetensors")))
        return saei_fail(s->err, SAE_E_FORMAT, "%s is absent, and W_enc_%d.safetensors is of no use without it", name, layer);
    return SAE_OK;
}

sae_status saei_read_circuit_tracer_clt(saei_source *s)
{
    const int32_t layers = count_layers(s);
    int32_t n = 0, d = 0, one = -1;
    setting c;
    s->what = "a cross-layer transcoder";
    s->sizes_from = "the first layer says";
    sae_status status = which_layer(s, &one);
    if (!status && one < 0)
        status = check_layers(s, layers);
    if (status || (status = read_config(s, &c, one)))
        return status;
    if (c.activation && strcmp(c.activation, "topk") == 0)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "config.yaml: activation \"topk\" is not read for cross-layer transcoders");
    if (one >= 0)
        status = read_single(s, one);
    for (int32_t layer = 0; one < 0 && layer < layers && !status; layer++)
        status = read_layer(s, layer, layers, &n, &d);
    if (!status && s->parts->threshold)
        see_negative(s->parts);
    return status;
}
