#include <math.h>
#include <string.h>

#include "io/saelens.h"

typedef struct reader {
    saei_saelens *out;
    const saei_source *s;
    const saei_json *json;
    const sae_open_options *opt;
    uint32_t metadata; /* 0 in files of before sae-lens 6, which keep everything at the top */
    bool old;
    sae_error *err;
} reader;

/* Names as cfg.json has them. */
static const struct {
    const char *name;
    sae_arch arch;
    bool transcoder, skip;
} archs[] = {{"standard", SAE_STANDARD, false, false},
             {"jumprelu", SAE_JUMPRELU, false, false},
             {"topk", SAE_TOPK, false, false},
             {"gated", SAE_GATED, false, false},
             {"abstopk", SAE_ABSTOPK, false, false},
             {"matching_pursuit", SAE_MATCHING_PURSUIT, false, false},
             {"temporal", SAE_TEMPORAL, false, false},
             {"transcoder", SAE_STANDARD, true, false},
             {"skip_transcoder", SAE_STANDARD, true, true},
             {"jumprelu_transcoder", SAE_JUMPRELU, true, false},
             {"jumprelu_skip_transcoder", SAE_JUMPRELU, true, true}};
enum { N_ARCHS = sizeof archs / sizeof *archs };
static const char *const norm_names[] = {"none", "expected_average_only_in", "constant_norm_rescale", "layer_norm"};
static const char *const trained_only[] = {"batchtopk", "matryoshka_batchtopk"};

#define READS "(it reads standard, jumprelu, topk, gated, abstopk, matching_pursuit, temporal and transcoders)"

/* ---- values ---- */

static sae_status read_string(const char **out, const reader *r, const char *key)
{
    return saei_config_text(out, r->s, 0, key);
}

static sae_status read_bool(bool *out, const reader *r, const char *key, bool absent)
{
    return saei_config_bool(out, r->s, 0, key, absent);
}

/* A describing text: under metadata or, in old files, at the top, there also by its older name. A value that is no string counts as absent:
 * nothing is computed from it. */
static const char *text_of(const reader *r, const char *key, const char *older)
{
    const char *s = saei_json_string(r->json, saei_json_member(r->json, r->metadata, key));
    if (!s)
        s = saei_json_string(r->json, saei_json_member(r->json, 0, key));
    if (!s && older)
        s = saei_json_string(r->json, saei_json_member(r->json, 0, older));
    return s ? s : "";
}

/* ---- architecture ---- */

bool saei_saelens_arch(saei_saelens *out, const char *name)
{
    for (int i = 0; i < N_ARCHS; i++)
        if (strcmp(name, archs[i].name) == 0) {
            out->name = archs[i].name;
            out->arch = archs[i].arch;
            out->transcoder = archs[i].transcoder;
            out->skip = archs[i].skip;
            return true;
        }
    return false;
}

static sae_status refuse_arch(const reader *r, const char *name)
{
    char shown[SAEI_SHOWN];
    for (size_t i = 0; i < sizeof trained_only / sizeof *trained_only; i++)
        if (strcmp(name, trained_only[i]) == 0)
            return saei_fail(
                r->err, SAE_E_UNSUPPORTED,
                "architecture \"%s\" is a training checkpoint: save it for inference with save_inference_model of sae-lens, as "
                "jumprelu",
                name);
    return saei_fail(r->err, SAE_E_UNSUPPORTED, "architecture \"%s\" is not known " READS, saei_show(shown, name));
}

/* Files of before 6 name the activation beside the architecture: topk wins over whatever the architecture says, as in sae-lens. */
static sae_status old_activation(const reader *r, const char **arch)
{
    const char *activation, *key = saei_json_member(r->json, 0, "activation_fn_str") ? "activation_fn_str" : "activation_fn";
    char shown[SAEI_SHOWN];
    const sae_status status = read_string(&activation, r, key);
    if (status || !activation || strcmp(activation, "relu") == 0)
        return status;
    if (strcmp(activation, "topk") != 0)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "cfg.json: %s \"%s\" is not read by this version (it reads relu and topk)", key,
                         saei_show(shown, activation));
    *arch = "topk";
    return SAE_OK;
}

static sae_status name_arch(const reader *r, const char **arch)
{
    const sae_status status = read_string(arch, r, "architecture");
    if (status)
        return status;
    r->out->architecture = *arch ? *arch : "";
    r->out->forced = r->opt->architecture != NULL;
    if (r->out->forced) {
        *arch = r->opt->architecture;
        return saei_saelens_arch(r->out, *arch)
                   ? SAE_OK
                   : saei_fail(r->err, SAE_E_ARG, "the option architecture = \"%.40s\" is not known " READS, *arch);
    }
    if (!r->old)
        return *arch ? SAE_OK
                     : saei_fail(r->err, SAE_E_FORMAT, "%s has no architecture: the option architecture can name it", r->s->config_name);
    if (!*arch)
        *arch = "standard";
    return old_activation(r, arch);
}

static sae_status read_arch(const reader *r)
{
    const char *name;
    const sae_status status = name_arch(r, &name);
    if (status)
        return status;
    return saei_saelens_arch(r->out, name) ? SAE_OK : refuse_arch(r, name);
}

/* k of a top-k, where old files keep it under activation_fn_kwargs. */
static sae_status read_k(const reader *r)
{
    saei_saelens *out = r->out;
    const bool selects = out->arch == SAE_TOPK || out->arch == SAE_ABSTOPK;
    const uint32_t kwargs = r->old ? saei_json_member(r->json, 0, "activation_fn_kwargs") : 0;
    const uint32_t object = kwargs && saei_json_member(r->json, kwargs, "k") ? kwargs : 0;
    if (r->opt->k && !selects)
        return saei_fail(r->err, SAE_E_ARG, "the option k = %d is for top-k SAEs, this one is %s", (int)r->opt->k, out->name);
    if (!selects)
        return SAE_OK;
    out->k = r->opt->k;
    if (!out->k && !saei_json_member(r->json, object, "k"))
        return saei_fail(r->err, SAE_E_FORMAT, "cfg.json has no k for its top-k: the option k can give it");
    const sae_status status = out->k ? SAE_OK : saei_config_size(&out->k, r->s, object, "k");
    if (status)
        return status;
    if (out->k < 1 || out->k > out->d_sae)
        return saei_fail(r->err, r->opt->k ? SAE_E_ARG : SAE_E_FORMAT, "%s k = %d is outside 1 .. d_sae = %d",
                         r->opt->k ? "the option" : "cfg.json:", (int)out->k, (int)out->d_sae);
    return SAE_OK;
}

/* ---- sizes ---- */

static sae_status read_sizes(const reader *r)
{
    saei_saelens *out = r->out;
    sae_status status;
    if ((status = saei_config_size(&out->d_in, r->s, 0, "d_in")) || (status = saei_config_size(&out->d_sae, r->s, 0, "d_sae")))
        return status;
    out->d_out = out->d_in;
    return out->transcoder ? saei_config_size(&out->d_out, r->s, 0, "d_out") : SAE_OK;
}

/* ---- what only some architectures have (sae-lens 6.54: saes/matching_pursuit_sae.py, saes/temporal_sae.py) ---- */

static sae_status read_pursuit(const reader *r)
{
    saei_saelens *out = r->out;
    double threshold = 0.0;
    sae_status status = saei_config_number(&threshold, r->s, 0, "residual_threshold", 1e-2);
    if (!status)
        status = read_bool(&out->stops_on_repeat, r, "stop_on_duplicate_support", true);
    out->residual_threshold = (float)threshold;
    out->k = out->d_in;
    if (status || !saei_json_member(r->json, 0, "max_iterations"))
        return status;
    return saei_config_size(&out->k, r->s, 0, "max_iterations");
}

static sae_status optional_size(int32_t *out, const reader *r, const char *key, int32_t absent)
{
    *out = absent;
    return saei_json_member(r->json, 0, key) ? saei_config_size(out, r->s, 0, key) : SAE_OK;
}

static sae_status read_temporal(const reader *r)
{
    saei_saelens *out = r->out;
    const char *kind;
    sae_status status;
    if ((status = optional_size(&out->n_heads, r, "n_heads", 8)) || (status = optional_size(&out->n_attention, r, "n_attn_layers", 1)) ||
        (status = optional_size(&out->bottleneck, r, "bottleneck_factor", 64)) ||
        (status = read_bool(&out->tied, r, "tied_weights", true)) || (status = read_string(&kind, r, "sae_diff_type")))
        return status;
    if (kind && strcmp(kind, "relu") != 0 && strcmp(kind, "topk") != 0)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "cfg.json: sae_diff_type \"%.40s\" is neither relu nor topk", kind);
    return kind && strcmp(kind, "relu") == 0 ? SAE_OK : optional_size(&out->k, r, "kval_topk", 0);
}

/* ---- what is done to rows ---- */

sae_norm saei_saelens_norm(const char *name)
{
    for (sae_norm norm = SAE_NORM_NONE; norm <= SAE_NORM_LAYER; norm++)
        if (strcmp(name, norm_names[norm]) == 0)
            return norm;
    return -1;
}

/* A factor for all rows, which only temporal SAEs carry. */
static sae_status constant_scale(const reader *r)
{
    double factor = 1.0;
    const sae_status status = saei_config_number(&factor, r->s, 0, "activation_normalization_factor", 1.0);
    if (status)
        return status;
    if (!((float)factor > 0.0f))
        return saei_fail(r->err, SAE_E_FORMAT, "cfg.json: activation_normalization_factor = %g must be greater than 0", factor);
    r->out->norm = SAE_NORM_SCALE;
    r->out->norm_scaling_factor = (float)factor;
    return SAE_OK;
}

static sae_status stored_norm(const reader *r)
{
    const uint32_t at = saei_json_member(r->json, 0, "normalize_activations"), type = r->json->v[at].type;
    const char *name;
    char shown[SAEI_SHOWN];
    if (!at || type == SAEI_JSON_FALSE || type == SAEI_JSON_TRUE) { /* before sae-lens 3.9 it was a boolean */
        r->out->norm = at && type == SAEI_JSON_TRUE ? SAE_NORM_SCALE : SAE_NORM_NONE;
        return SAE_OK;
    }
    const sae_status status = read_string(&name, r, "normalize_activations");
    if (status)
        return status;
    if (r->out->arch == SAE_TEMPORAL && strcmp(name, "constant_scalar_rescale") == 0)
        return constant_scale(r);
    r->out->norm = saei_saelens_norm(name);
    if (r->out->norm < 0)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "cfg.json: normalize_activations \"%s\" is not read by this version",
                         saei_show(shown, name));
    return SAE_OK;
}

static sae_status read_norm(const reader *r)
{
    saei_saelens *out = r->out;
    const float factor = r->opt->norm_scaling_factor;
    sae_status status = SAE_OK;
    out->norm_scaling_factor = 1.0f;
    if (r->opt->normalize_activations) {
        out->norm = saei_saelens_norm(r->opt->normalize_activations);
        if (out->norm < 0)
            return saei_fail(r->err, SAE_E_ARG, "the option normalize_activations = \"%.40s\" is not one of %s, %s, %s, %s",
                             r->opt->normalize_activations, norm_names[SAE_NORM_NONE], norm_names[SAE_NORM_SCALE],
                             norm_names[SAE_NORM_CONSTANT], norm_names[SAE_NORM_LAYER]);
    } else {
        status = stored_norm(r);
    }
    if (status || factor == 0.0f)
        return status;
    if (!isfinite(factor) || factor < 0.0f)
        return saei_fail(r->err, SAE_E_ARG, "the option norm_scaling_factor = %g must be finite and greater than 0", (double)factor);
    if (out->norm != SAE_NORM_SCALE)
        return saei_fail(r->err, SAE_E_ARG, "the option norm_scaling_factor is for normalize_activations \"%s\", this SAE has \"%s\"",
                         norm_names[SAE_NORM_SCALE], norm_names[out->norm]);
    out->norm_scaling_factor = factor;
    return SAE_OK;
}

/* hook_z flattens heads into one row; our rows come flat, so nothing is left to do. */
static sae_status check_reshape(const reader *r)
{
    const char *reshape;
    char shown[SAEI_SHOWN];
    const sae_status status = read_string(&reshape, r, "reshape_activations");
    if (status || !reshape || strcmp(reshape, "none") == 0 || strcmp(reshape, "hook_z") == 0)
        return status;
    return saei_fail(r->err, SAE_E_UNSUPPORTED, "cfg.json: reshape_activations \"%s\" is not read by this version",
                     saei_show(shown, reshape));
}

static sae_status read_flags(const reader *r)
{
    saei_saelens *out = r->out;
    sae_status status;
    if (r->opt->apply_b_dec != SAE_DEFAULT)
        out->apply_b_dec = r->opt->apply_b_dec == SAE_YES;
    else if ((status = read_bool(&out->apply_b_dec, r, "apply_b_dec_to_input", !out->transcoder)))
        return status;
    if (out->transcoder && out->apply_b_dec)
        return saei_fail(r->err, r->opt->apply_b_dec ? SAE_E_ARG : SAE_E_FORMAT,
                         "%s apply_b_dec_to_input = true, which a %s cannot have: its b_dec belongs to the output",
                         r->opt->apply_b_dec ? "the option says" : "cfg.json says", out->name);
    if ((status = read_bool(&out->finetuning_scale, r, "finetuning_scaling_factor", false)) ||
        (status = read_bool(&out->rescale_by_decoder_norm, r, "rescale_acts_by_decoder_norm", false)))
        return status;
    if (out->rescale_by_decoder_norm && out->arch != SAE_TOPK && out->arch != SAE_ABSTOPK)
        return saei_fail(r->err, SAE_E_FORMAT,
                         "cfg.json says rescale_acts_by_decoder_norm = true for a %s SAE, but only top-k has that step: "
                         "the others are saved with the norms folded in",
                         out->name);
    return SAE_OK;
}

/* ---- the whole ---- */

/* Files of sae-lens 6 say so, at the top or under metadata; all others are old. */
static bool is_old(const char *version)
{
    int major = 0;
    while (*version >= '0' && *version <= '9' && major < 1000)
        major = 10 * major + (*version++ - '0');
    return major < 6;
}

sae_status saei_saelens_config(saei_saelens *out, const saei_source *s)
{
    sae_status status;
    *out = (saei_saelens){0};
    reader r = {out, s, &s->config, s->opt, saei_json_member(&s->config, 0, "metadata"), false, s->err};
    out->version = text_of(&r, "sae_lens_version", NULL);
    out->model_name = text_of(&r, "model_name", NULL);
    out->hook_name = text_of(&r, "hook_name", "hook_point");
    out->hook_name_out = text_of(&r, "hook_name_out", NULL);
    r.old = is_old(out->version);
    if ((status = read_arch(&r)) || (status = read_sizes(&r)) || (status = read_k(&r)) || (status = read_norm(&r)) ||
        (status = check_reshape(&r)))
        return status;
    if (out->arch == SAE_MATCHING_PURSUIT && (status = read_pursuit(&r)))
        return status;
    if (out->arch == SAE_TEMPORAL && (status = read_temporal(&r)))
        return status;
    return read_flags(&r);
}
