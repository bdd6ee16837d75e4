/* llamascopium 2 (OpenMOSS, models/{sae,crosscoder,clt}.py): config.json + sae_weights.safetensors; and Llama Scope's R1 distill, which has files
 * of the same names and no sae_type.
 * Sparsity that counts decoder norms makes codes act(h c) / c, c the length of all that the feature writes: relu(h) for relu, h where h > threshold / c
 * for JumpReLU, and a top-k by h c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/formats.h"

typedef enum sort_of { KIND_SAE, KIND_CROSSCODER, KIND_CLT } sort_of;

typedef struct setting {
    sort_of kind;
    int32_t d, n, k;
    int32_t heads; /* hook points: 1 for an SAE */
    bool include_norm, decoder_bias;
    const char *act, *norm;
} setting;

static const char threshold_name[] = "activation_function.log_jumprelu_threshold";

/* ---- config.json ---- */

/* n = int(d * expansion_factor). */
static sae_status read_sizes(saei_source *s, setting *c)
{
    double factor = 0.0;
    sae_status status = saei_config_size(&c->d, s, 0, "d_model");
    if (!status)
        status = saei_config_number(&factor, s, 0, "expansion_factor", 0.0);
    if (status)
        return status;
    const double n = floor((double)c->d * factor);
    if (!(n >= 1.0 && n <= INT32_MAX))
        return saei_fail(s->err, SAE_E_FORMAT, "config.json: d_model = %d times expansion_factor = %g is no size", (int)c->d, factor);
    c->n = (int32_t)n;
    return SAE_OK;
}

/* The package compares act_fn in lower case. */
static sae_status read_act_name(saei_source *s, setting *c)
{
    const char *act = NULL;
    const sae_status status = saei_config_text(&act, s, 0, "act_fn");
    if (status)
        return status;
    char *name = saei_arena_text(&s->memory, s->host, act ? act : "relu", strlen(act ? act : "relu"));
    for (char *at = name; at && *at; at++)
        *at = (char)(*at >= 'A' && *at <= 'Z' ? *at - 'A' + 'a' : *at);
    c->act = name;
    return name ? SAE_OK : saei_fail(s->err, SAE_E_NOMEM, "no memory for a name");
}

/* Crosscoders count decoder norms whatever they say, and they and cross-layer transcoders always have a b_D (crosscoder.py, clt.py). */
static sae_status read_config(saei_source *s, setting *c)
{
    bool glu = false;
    sae_status status = read_sizes(s, c);
    if (status || (status = saei_config_bool(&glu, s, 0, "use_glu_encoder", false)) || (status = read_act_name(s, c)) ||
        (status = saei_config_text(&c->norm, s, 0, "norm_activation")) ||
        (status = saei_config_bool(&c->include_norm, s, 0, "sparsity_include_decoder_norm", true)) ||
        (status = saei_config_bool(&c->decoder_bias, s, 0, "use_decoder_bias", true)))
        return status;
    c->include_norm |= c->kind == KIND_CROSSCODER;
    c->decoder_bias |= c->kind != KIND_SAE;
    if (glu)
        return saei_fail(s->err, SAE_E_UNSUPPORTED,
                         "config.json: use_glu_encoder = true, a gated linear unit before the codes, is not read");
    if (saei_json_member(&s->config, 0, "top_k"))
        return saei_config_size(&c->k, s, 0, "top_k");
    return SAE_OK;
}

/* Names of hook points: a list, or one. Writes them with commas between. */
static sae_status join_hooks(saei_source *s, const char *key, int32_t what, int32_t *n)
{
    const saei_json *json = &s->config;
    const uint32_t at = saei_json_member(json, 0, key);
    char all[512] = "";
    *n = 0;
    if (!at || json->v[at].type != SAEI_JSON_ARRAY)
        return at ? saei_fail(s->err, SAE_E_FORMAT, "config.json: %s is %s, not a list of names", key, saei_json_type_name(json, at))
                  : saei_fail(s->err, SAE_E_FORMAT, "config.json has no %s", key);
    for (uint32_t i = 0, v = at + 1; i < json->v[at].n; i++, v = json->v[v].next) {
        const char *name = saei_json_string(json, v);
        if (!name)
            return saei_fail(s->err, SAE_E_FORMAT, "config.json: %s[%u] is %s, not a name", key, (unsigned)i, saei_json_type_name(json, v));
        if (strlen(all) + strlen(name) + 3 < sizeof all) /* what does not fit is left out: it is a description */
            strcat(strcat(all, i ? "," : ""), name);
        ++*n;
    }
    return saei_set_text(s, what, all);
}

/* ---- what rows are multiplied by ---- */

/* sqrt(d) over the average norm at hook point i of the list (or at the one that `key` names). */
static sae_status dataset_scale(double *out, saei_source *s, const char *list, const char *key, int32_t i, int32_t d)
{
    const saei_json *json = &s->config;
    const uint32_t at = saei_json_member(json, 0, list);
    uint32_t v = at ? at + 1 : saei_json_member(json, 0, key);
    char name[160];
    for (int32_t k = 0; at && k < i; k++)
        v = json->v[v].next;
    const char *hook = saei_json_string(json, v);
    const int n = snprintf(name, sizeof name, "dataset_average_activation_norm.%s", hook ? hook : "");
    double average = 0.0;
    if (!hook || n < 0 || (size_t)n >= sizeof name)
        return saei_fail(s->err, SAE_E_FORMAT, "config.json does not name the hook point whose average norm rows are divided by");
    const sae_status status = saei_take_number(&average, s, name);
    if (status)
        return status;
    if (!(average > 0.0 && isfinite(average)))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s = %g must be finite and greater than 0", s->file, name, average);
    *out = sqrt((double)d) / average;
    return SAE_OK;
}

static sae_status scale_heads(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    const bool many = saei_json_member(&s->config, 0, "hook_points") != 0;
    sae_status status;
    p->norm = SAE_NORM_AFFINE;
    if ((status = saei_make_vector(&p->in_shift, s, p->d_in)) || (status = saei_make_vector(&p->in_scale, s, p->d_in)) ||
        (status = saei_make_vector(&p->out_shift, s, p->d_out)) || (status = saei_make_vector(&p->out_scale, s, p->d_out)))
        return status;
    for (int32_t i = 0; i < c->heads; i++) {
        double in = 1.0, out = 1.0;
        if ((status = dataset_scale(&in, s, many ? "hook_points" : "hook_points_in", "", i, c->d)) ||
            (status = dataset_scale(&out, s, many ? "hook_points" : "hook_points_out", "", i, c->d)))
            return status;
        for (int32_t k = i * c->d; k < (i + 1) * c->d; k++) {
            p->in_scale[k] = (float)in;
            p->out_scale[k] = (float)(1.0 / out);
        }
    }
    return SAE_OK;
}

static sae_status read_norm(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    const char *norm = c->norm ? c->norm : "inference";
    double in = 1.0, out = 1.0;
    sae_status status;
    if (strcmp(norm, "inference") == 0)
        return SAE_OK;
    if (strcmp(norm, "token-wise") == 0 && c->heads == 1) {
        p->norm = SAE_NORM_CONSTANT;
        return SAE_OK;
    }
    if (strcmp(norm, "dataset-wise") != 0)
        return saei_fail(s->err, SAE_E_UNSUPPORTED,
                         "config.json: norm_activation \"%.40s\" is not read for this kind (inference and dataset-wise are)", norm);
    if (c->kind != KIND_SAE)
        return scale_heads(s, c);
    if ((status = dataset_scale(&in, s, "", "hook_point_in", 0, c->d)) || (status = dataset_scale(&out, s, "", "hook_point_out", 0, c->d)))
        return status;
    p->norm = SAE_NORM_SCALE;
    p->norm_scaling_factor = (float)in;
    p->norm_out_factor = (float)(1.0 / out);
    return SAE_OK;
}

/* ---- codes ---- */

/* The logarithms of the thresholds: one a feature, [heads][n] of a cross-layer transcoder row by row, [n] of a crosscoder for all its heads. */
static sae_status stored_threshold(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    const saei_array *a;
    saei_array flat;
    float *one;
    sae_status status = saei_take_array(&a, s, threshold_name);
    if (status)
        return status;
    flat = *a;
    if (a->n_dims == 2 && !saei_view_join(&flat, a))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is not stored row by row", s->file, threshold_name);
    if (c->kind != KIND_CROSSCODER)
        return saei_take_view_vector(&p->threshold, s, &flat, p->d_sae, "d_sae");
    if ((status = saei_take_view_vector(&one, s, &flat, c->n, "d_sae")) || (status = saei_make_vector(&p->threshold, s, p->d_sae)))
        return status;
    for (int32_t i = 0; i < c->heads; i++)
        memcpy(p->threshold + (size_t)i * (size_t)c->n, one, (size_t)c->n * sizeof *one);
    return SAE_OK;
}

static sae_status read_threshold(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    float *norms;
    sae_status status = stored_threshold(s, c);
    if (status || (status = saei_exp_vector(s, p->threshold, p->d_sae, threshold_name)) || !c->include_norm ||
        (status = saei_decoder_norms(&norms, s)))
        return status;
    for (int32_t j = 0; j < p->d_sae; j++)
        p->threshold[j] = saei_threshold_over(p->threshold[j], norms[j]);
    return SAE_OK;
}

/* A layertopk takes the k largest of all layers together; the topk of several heads takes k of each, which is not read. */
static sae_status read_act(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    const bool all = (strcmp(c->act, "topk") == 0 && c->heads == 1) || (strcmp(c->act, "layertopk") == 0 && c->kind == KIND_CLT);
    const sae_status status = saei_set_text(s, SAE_TEXT_ARCHITECTURE, c->act);
    if (status)
        return status;
    if (strcmp(c->act, "relu") == 0) {
        p->arch = SAE_STANDARD;
        return SAE_OK;
    }
    if (strcmp(c->act, "jumprelu") == 0) {
        p->arch = SAE_JUMPRELU;
        return read_threshold(s, c);
    }
    if (all) {
        p->arch = SAE_TOPK;
        p->rescale_by_decoder_norm = p->returns_unscaled = c->include_norm;
        return saei_set_k(s, c->k);
    }
    return saei_fail(
        s->err, SAE_E_UNSUPPORTED,
        "config.json: act_fn \"%.40s\" is not read for this kind (relu and jumprelu are, topk for one hook point, layertopk for "
        "cross-layer transcoders)",
        c->act);
}

/* ---- tensors ---- */

static sae_status read_sae(saei_source *s, setting *c)
{
    saei_parts *p = s->parts;
    saei_tensor enc, dec;
    const char *in = NULL, *out = NULL;
    sae_status status;
    if ((status = saei_config_text(&in, s, 0, "hook_point_in")) || (status = saei_config_text(&out, s, 0, "hook_point_out")) ||
        (status = saei_set_text(s, SAE_TEXT_HOOK_NAME, in)) ||
        (status = saei_set_text(s, SAE_TEXT_HOOK_NAME_OUT, in && out && strcmp(in, out) != 0 ? out : NULL)) ||
        (status = saei_take_matrix(&enc, s, "W_E", true, c->n, "d_sae", c->d, "d_model")) ||
        (status = saei_take_matrix(&dec, s, "W_D", false, c->n, "d_sae", c->d, "d_model")) || (status = saei_set_matrices(s, &enc, &dec)) ||
        (status = saei_take_vector(&p->b_enc, s, "b_E", c->n, "d_sae")) || !c->decoder_bias)
        return status;
    return saei_take_vector(&p->b_dec, s, "b_D", c->d, "d_model");
}

static sae_status begin_heads(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    if (c->heads < 1 || c->n > INT32_MAX / c->heads || c->d > INT32_MAX / c->heads)
        return saei_fail(s->err, SAE_E_FORMAT, "config.json: %d hook points of %d features are no size", (int)c->heads, (int)c->n);
    p->d_in = p->d_out = c->heads * c->d;
    p->d_sae = c->heads * c->n;
    p->n_in = p->n_out = c->heads;
    return SAE_OK;
}

/* A three-dimensional tensor [heads][rows][columns], or a sentence. */
static sae_status take_stack(const saei_array **out, const saei_source *s, const char *name, int64_t heads, int64_t rows, int64_t columns)
{
    const saei_array *a;
    const sae_status status = saei_take_array(&a, s, name);
    *out = a;
    if (status)
        return status;
    if (a->n_dims != 3 || a->shape[0] != heads || a->shape[1] != rows || a->shape[2] != columns)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is not [%lld][%lld][%lld], which config.json makes it", s->file, name,
                         (long long)heads, (long long)rows, (long long)columns);
    return SAE_OK;
}

/* b_E [heads][n], as one vector of the model; `sum` adds the heads up and gives each head the sum. */
static sae_status read_encoder_bias(saei_source *s, const setting *c, bool sum)
{
    saei_parts *p = s->parts;
    const saei_array *a;
    sae_status status = saei_take_array(&a, s, "b_E");
    if (status)
        return status;
    if (a->n_dims != 2 || a->shape[0] != c->heads || a->shape[1] != c->n)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: b_E is not [%d][%d], which config.json makes it", s->file, (int)c->heads, (int)c->n);
    status = saei_make_vector(&p->b_enc, s, p->d_sae);
    for (int32_t i = 0; i < c->heads && !status; i++) {
        const saei_array row = saei_view_at(a, i);
        float *v;
        if ((status = saei_take_view_vector(&v, s, &row, c->n, "d_sae")))
            return status;
        for (int32_t j = 0; j < c->n; j++)
            p->b_enc[(sum ? 0 : (size_t)i * (size_t)c->n) + (size_t)j] += v[j];
    }
    for (int32_t i = 1; i < c->heads && sum && !status; i++)
        memcpy(p->b_enc + (size_t)i * (size_t)c->n, p->b_enc, (size_t)c->n * sizeof *p->b_enc);
    return status;
}

/* All heads see the sum over the heads of x W_E; each has codes of its own, by the length of its own decoder row. */
static sae_status read_crosscoder(saei_source *s, setting *c)
{
    saei_parts *p = s->parts;
    const saei_array *w_enc, *w_dec, *b_dec;
    saei_array joined;
    saei_tensor enc;
    sae_status status = join_hooks(s, "hook_points", SAE_TEXT_HOOK_NAME, &c->heads);
    if (status || (status = begin_heads(s, c)) || (status = take_stack(&w_enc, s, "W_E", c->heads, c->d, c->n)) ||
        (status = take_stack(&w_dec, s, "W_D", c->heads, c->n, c->d)))
        return status;
    if (!saei_view_join(&joined, w_enc))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: W_E is not stored row by row", s->file);
    if ((status = saei_take_view(&enc, s, &joined, true, c->n, "d_sae", p->d_in, "d_in")))
        return status;
    for (int32_t i = 0; i < c->heads; i++) {
        const saei_array one = saei_view_at(w_dec, i);
        saei_segment g = {.first = i * c->n, .n = c->n, .out_first = i * c->d, .row_step = 1};
        if ((status = saei_add_block(s, i * c->n, 0, &enc)) ||
            (status = saei_take_view(&g.w, s, &one, false, c->n, "d_sae", c->d, "d_model")) || (status = saei_add_segment(s, &g)))
            return status;
    }
    if ((status = read_encoder_bias(s, c, true)) || !c->decoder_bias || (status = saei_take_array(&b_dec, s, "b_D")))
        return status;
    if (b_dec->n_dims != 2 || !saei_view_join(&joined, b_dec))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: b_D is not [%d][%d], which config.json makes it", s->file, (int)c->heads, (int)c->d);
    return saei_take_view_vector(&p->b_dec, s, &joined, p->d_out, "d_out");
}

/* W_D.<to> [to + 1][n][d]: what the layers up to `to` write there. */
static sae_status add_target(saei_source *s, const setting *c, int32_t to, saei_tensor *all)
{
    const saei_array *a;
    saei_array flat;
    char name[32];
    snprintf(name, sizeof name, "W_D.%d", (int)to);
    const sae_status status = take_stack(&a, s, name, to + 1, c->n, c->d);
    if (status)
        return status;
    if (!saei_view_join(&flat, a))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is not stored row by row", s->file, name);
    return saei_take_view(&all[to], s, &flat, false, (to + 1) * c->n, "rows", c->d, "d_model");
}

static sae_status read_clt_biases(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    char name[32];
    sae_status status = read_encoder_bias(s, c, false);
    if (status || !c->decoder_bias || (status = saei_make_vector(&p->b_dec, s, p->d_out)))
        return status;
    for (int32_t i = 0; i < c->heads && !status; i++) {
        snprintf(name, sizeof name, "b_D.%d", (int)i);
        status = saei_take_into(p->b_dec + (size_t)i * (size_t)c->d, s, name, c->d, "d_model");
    }
    return status;
}

static sae_status read_clt(saei_source *s, setting *c)
{
    const saei_array *w_enc;
    int32_t n_out = 0;
    sae_status status = join_hooks(s, "hook_points_in", SAE_TEXT_HOOK_NAME, &c->heads);
    if (status || (status = join_hooks(s, "hook_points_out", SAE_TEXT_HOOK_NAME_OUT, &n_out)) || (status = begin_heads(s, c)))
        return status;
    if (n_out != c->heads)
        return saei_fail(s->err, SAE_E_FORMAT, "config.json has %d hook_points_in and %d hook_points_out, a layer has one of each",
                         (int)c->heads, (int)n_out);
    saei_tensor *to = saei_arena_alloc(&s->memory, s->host, (size_t)c->heads * sizeof *to);
    if (!to)
        return saei_fail(s->err, SAE_E_NOMEM, "no memory for %d layers", (int)c->heads);
    if ((status = take_stack(&w_enc, s, "W_E", c->heads, c->d, c->n)))
        return status;
    for (int32_t i = 0; i < c->heads; i++) {
        const saei_array one = saei_view_at(w_enc, i);
        saei_tensor enc;
        if ((status = saei_take_view(&enc, s, &one, true, c->n, "d_sae", c->d, "d_model")) ||
            (status = saei_add_block(s, i * c->n, i * c->d, &enc)) || (status = add_target(s, c, i, to)))
            return status;
    }
    for (int32_t from = 0; from < c->heads; from++)
        for (int32_t i = from; i < c->heads; i++) {
            const saei_segment g = {
                .first = from * c->n, .n = c->n, .out_first = i * c->d, .row_first = from * c->n, .row_step = 1, .w = to[i]};
            if ((status = saei_add_segment(s, &g)))
                return status;
        }
    return read_clt_biases(s, c);
}

/* ---- Llama Scope's R1 distill (sae-lens 6.54, loader llama_scope_r1_distill) ---- */

static sae_status read_r1(saei_source *s)
{
    static const char log_name[] = "log_jumprelu_threshold";
    saei_parts *p = s->parts;
    const char *hook = NULL;
    saei_tensor enc, dec;
    int32_t n = 0, d = 0;
    s->what = "a Llama Scope R1 SAE";
    s->sizes_from = "encoder.weight says";
    sae_status status = saei_config_text(&hook, s, 0, "hook_point_in");
    if (status || (status = saei_set_text(s, SAE_TEXT_HOOK_NAME, hook)) || (status = saei_take_shape(&n, &d, s, "encoder.weight")) ||
        (status = saei_take_matrix(&enc, s, "encoder.weight", false, n, "d_sae", d, "d_in")) ||
        (status = saei_take_matrix(&dec, s, "decoder.weight", true, n, "d_sae", d, "d_in")) ||
        (status = saei_set_matrices(s, &enc, &dec)) || (status = saei_take_vector(&p->b_enc, s, "encoder.bias", n, "d_sae")) ||
        (status = saei_take_vector(&p->b_dec, s, "decoder.bias", d, "d_in")) ||
        (status = saei_take_vector(&p->threshold, s, log_name, n, "d_sae")) || (status = saei_exp_vector(s, p->threshold, n, log_name)))
        return status;
    p->arch = SAE_JUMPRELU;
    p->norm = SAE_NORM_SCALE;
    if (s->opt->norm_scaling_factor != 0.0f)
        return SAE_OK;
    return saei_warn(
        s, "rows are to be multiplied by a factor that no file states: they are used as they are (the option norm_scaling_factor sets it)");
}

/* ---- the whole ---- */

static sae_status refuse_kind(const saei_source *s, const char *kind)
{
    char shown[SAEI_SHOWN];
    return saei_fail(s->err, SAE_E_UNSUPPORTED, "config.json: sae_type \"%s\" is not read (sae, crosscoder and clt are%s)",
                     saei_show(shown, kind),
                     strcmp(kind, "lorsa") == 0  ? "; lorsa replaces attention and has no codes of a row alone"
                     : strcmp(kind, "molt") == 0 ? "; molt is a mixture of linear transforms, not a dictionary"
                                                 : "");
}

sae_status saei_read_llamascopium(saei_source *s)
{
    const char *kind = NULL;
    setting c = {.heads = 1};
    s->what = "a llamascopium SAE";
    s->sizes_from = "config.json says";
    if (!saei_source_has(s, "sae_weights.safetensors"))
        return saei_fail(s->err, SAE_E_UNSUPPORTED,
                         "the folder holds a distributed checkpoint (sae_weights.dcp) and no sae_weights.safetensors: save it again with "
                         "save_pretrained of llamascopium");
    sae_status status = saei_source_config(s, "config.json");
    if (status || (status = saei_config_text(&kind, s, 0, "sae_type")))
        return status;
    const bool clt = kind && strcmp(kind, "clt") == 0, cross = kind && strcmp(kind, "crosscoder") == 0;
    if (kind && !clt && !cross && strcmp(kind, "sae") != 0)
        return refuse_kind(s, kind);
    if ((status = saei_source_shards(s, "sae_weights.safetensors")))
        return status;
    if (!kind)
        return read_r1(s);
    c.kind = clt ? KIND_CLT : cross ? KIND_CROSSCODER : KIND_SAE;
    if ((status = read_config(s, &c)) ||
        (status = (clt     ? read_clt
                   : cross ? read_crosscoder
                           : read_sae)(s, &c)) ||
        (status = read_norm(s, &c)))
        return status;
    return read_act(s, &c);
}
