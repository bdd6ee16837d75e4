#include <math.h>
#include <string.h>

#include "io/saelens.h"

typedef struct reader {
    saei_saelens *out;
    const saei_json *json;
    const sae_open_options *opt;
    uint32_t metadata; /* 0 in files of before sae-lens 6, which keep everything at the top */
    bool old;
    sae_error *err;
} reader;

/* Names as cfg.json has them. */
static const char *const arch_names[] = {"standard", "jumprelu", "topk", "gated"};
static const char *const norm_names[] = {"none", "expected_average_only_in", "constant_norm_rescale", "layer_norm"};

#define READS "(it reads standard, jumprelu, topk and gated)"

static const char *const transcoders[] = {"transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"};
static const char *const unread[] = {"abstopk", "matching_pursuit", "temporal"};
static const char *const trained_only[] = {"batchtopk", "matryoshka_batchtopk"};

static bool is_in(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(name, list[i]) == 0)
            return true;
    return false;
}

#define IS_IN(name, list) is_in(name, list, sizeof(list) / sizeof *(list))

/* ---- values ---- */

static sae_status read_string(const char **out, const reader *r, uint32_t at, const char *key)
{
    if (at && r->json->v[at].type != SAEI_JSON_STRING)
        return saei_fail(r->err, SAE_E_FORMAT, "cfg.json: %s is %s, not a string", key, saei_json_type_name(r->json, at));
    *out = at ? r->json->v[at].string : NULL;
    return SAE_OK;
}

static sae_status read_bool(bool *out, const reader *r, uint32_t object, const char *key, bool absent)
{
    const uint32_t at = saei_json_member(r->json, object, key), type = r->json->v[at].type;
    if (at && type != SAEI_JSON_TRUE && type != SAEI_JSON_FALSE)
        return saei_fail(r->err, SAE_E_FORMAT, "cfg.json: %s is %s, not true or false", key, saei_json_type_name(r->json, at));
    *out = at ? type == SAEI_JSON_TRUE : absent;
    return SAE_OK;
}

/* A size: 1 .. INT32_MAX. */
static sae_status read_size(int32_t *out, const reader *r, uint32_t at, const char *key)
{
    const saei_json_value *v = &r->json->v[at];
    if (!at)
        return saei_fail(r->err, SAE_E_FORMAT, "cfg.json has no %s", key);
    if (v->type != SAEI_JSON_INTEGER)
        return saei_fail(r->err, SAE_E_FORMAT, "cfg.json: %s is %s, not a size", key, saei_json_type_name(r->json, at));
    if (v->integer < 1 || v->integer > INT32_MAX)
        return saei_fail(r->err, SAE_E_FORMAT, "cfg.json: %s = %lld is outside 1 .. %d", key, (long long)v->integer, INT32_MAX);
    *out = (int32_t)v->integer;
    return SAE_OK;
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

static sae_arch arch_of(const char *name)
{
    for (sae_arch arch = SAE_STANDARD; arch <= SAE_GATED; arch++)
        if (strcmp(name, arch_names[arch - SAE_STANDARD]) == 0)
            return arch;
    return 0;
}

const char *saei_saelens_arch_name(sae_arch arch)
{
    return arch_names[arch - SAE_STANDARD];
}

static sae_status refuse_arch(const reader *r, const char *name)
{
    char shown[SAEI_SHOWN];
    bool subtracts = false;
    if (IS_IN(name, transcoders)) {
        const sae_status status = read_bool(&subtracts, r, 0, "apply_b_dec_to_input", false);
        if (status)
            return status;
        if (subtracts)
            return saei_fail(r->err, SAE_E_FORMAT,
                             "cfg.json says apply_b_dec_to_input = true, which a %s cannot have: its b_dec belongs to the output", name);
    }
    if (IS_IN(name, transcoders) || IS_IN(name, unread))
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "architecture \"%s\" is not read by this version " READS, name);
    if (IS_IN(name, trained_only))
        return saei_fail(r->err, SAE_E_UNSUPPORTED,
                         "architecture \"%s\" is a training checkpoint: save it for inference with save_inference_model of sae-lens, as "
                         "jumprelu",
                         name);
    return saei_fail(r->err, SAE_E_UNSUPPORTED, "architecture \"%s\" is not known " READS, saei_show(shown, name));
}

/* Files of before 6 name the activation beside the architecture: topk wins over whatever the architecture says, as in sae-lens. */
static sae_status old_activation(const reader *r, const char **arch)
{
    const uint32_t named = saei_json_member(r->json, 0, "activation_fn_str");
    const char *activation, *key = named ? "activation_fn_str" : "activation_fn";
    char shown[SAEI_SHOWN];
    const sae_status status = read_string(&activation, r, named ? named : saei_json_member(r->json, 0, key), key);
    if (status || !activation || strcmp(activation, "relu") == 0)
        return status;
    if (strcmp(activation, "topk") != 0)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "cfg.json: %s \"%s\" is not read by this version (it reads relu and topk)", key,
                         saei_show(shown, activation));
    *arch = "topk";
    return SAE_OK;
}

static sae_status read_arch(const reader *r)
{
    const char *arch;
    sae_status status = read_string(&arch, r, saei_json_member(r->json, 0, "architecture"), "architecture");
    if (status)
        return status;
    r->out->architecture = arch ? arch : "";
    r->out->forced = r->opt->architecture != NULL;
    if (r->out->forced) {
        arch = r->opt->architecture;
        if (!arch_of(arch))
            return saei_fail(r->err, SAE_E_ARG, "the option architecture = \"%.40s\" is not one of standard, jumprelu, topk, gated", arch);
    } else if (r->old) {
        if (!arch)
            arch = "standard";
        if ((status = old_activation(r, &arch)))
            return status;
    } else if (!arch) {
        return saei_fail(r->err, SAE_E_FORMAT, "cfg.json has no architecture: the option architecture can name it");
    }
    r->out->arch = arch_of(arch);
    return r->out->arch ? SAE_OK : refuse_arch(r, arch);
}

static sae_status read_k(const reader *r)
{
    saei_saelens *out = r->out;
    if (r->opt->k && out->arch != SAE_TOPK)
        return saei_fail(r->err, SAE_E_ARG, "the option k = %d is for top-k SAEs, this one is %s", (int)r->opt->k,
                         saei_saelens_arch_name(out->arch));
    if (out->arch != SAE_TOPK)
        return SAE_OK;
    uint32_t at = saei_json_member(r->json, saei_json_member(r->json, 0, "activation_fn_kwargs"), "k");
    if (!r->old || !at)
        at = saei_json_member(r->json, 0, "k");
    if (r->opt->k)
        out->k = r->opt->k;
    else if (!at)
        return saei_fail(r->err, SAE_E_FORMAT, "cfg.json has no k for its top-k: the option k can give it");
    const sae_status status = r->opt->k ? SAE_OK : read_size(&out->k, r, at, "k");
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
    if ((status = read_size(&out->d_in, r, saei_json_member(r->json, 0, "d_in"), "d_in")) ||
        (status = read_size(&out->d_sae, r, saei_json_member(r->json, 0, "d_sae"), "d_sae")))
        return status;
    if (r->opt->d_in && r->opt->d_in != out->d_in)
        return saei_fail(r->err, SAE_E_SHAPE, "cfg.json says d_in = %d, the caller expects d_in = %d", (int)out->d_in, (int)r->opt->d_in);
    if (r->opt->d_out && r->opt->d_out != out->d_in)
        return saei_fail(r->err, SAE_E_SHAPE, "this SAE has d_out = d_in = %d, the caller expects d_out = %d", (int)out->d_in,
                         (int)r->opt->d_out);
    return SAE_OK;
}

/* ---- what is done to rows ---- */

/* -1 for an unknown name. */
static sae_norm norm_of(const char *name)
{
    for (sae_norm norm = SAE_NORM_NONE; norm <= SAE_NORM_LAYER; norm++)
        if (strcmp(name, norm_names[norm]) == 0)
            return norm;
    return -1;
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
    const sae_status status = read_string(&name, r, at, "normalize_activations");
    if (status)
        return status;
    r->out->norm = norm_of(name);
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
    if (r->opt->normalize_activations) {
        out->norm = norm_of(r->opt->normalize_activations);
        if (out->norm < 0)
            return saei_fail(r->err, SAE_E_ARG, "the option normalize_activations = \"%.40s\" is not one of %s, %s, %s, %s",
                             r->opt->normalize_activations, norm_names[SAE_NORM_NONE], norm_names[SAE_NORM_SCALE],
                             norm_names[SAE_NORM_CONSTANT], norm_names[SAE_NORM_LAYER]);
    } else {
        status = stored_norm(r);
    }
    out->norm_scaling_factor = 1.0f;
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
    const sae_status status = read_string(&reshape, r, saei_json_member(r->json, 0, "reshape_activations"), "reshape_activations");
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
    else if ((status = read_bool(&out->apply_b_dec, r, 0, "apply_b_dec_to_input", true)))
        return status;
    if ((status = read_bool(&out->finetuning_scale, r, 0, "finetuning_scaling_factor", false)) ||
        (status = read_bool(&out->rescale_by_decoder_norm, r, 0, "rescale_acts_by_decoder_norm", false)))
        return status;
    if (out->rescale_by_decoder_norm && out->arch != SAE_TOPK)
        return saei_fail(r->err, SAE_E_FORMAT,
                         "cfg.json says rescale_acts_by_decoder_norm = true for a %s SAE, but only top-k has that step: "
                         "the others are saved with the norms folded in",
                         saei_saelens_arch_name(out->arch));
    return SAE_OK;
}

/* ---- the whole ---- */

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
    return SAE_OK;
}

/* Files of sae-lens 6 say so, at the top or under metadata; all others are old. */
static bool is_old(const char *version)
{
    int major = 0;
    while (*version >= '0' && *version <= '9' && major < 1000)
        major = 10 * major + (*version++ - '0');
    return major < 6;
}

sae_status saei_saelens_config(saei_saelens *out, const saei_json *json, const sae_open_options *opt, sae_error *err)
{
    sae_status status;
    *out = (saei_saelens){0};
    if (json->v[0].type != SAEI_JSON_OBJECT)
        return saei_fail(err, SAE_E_FORMAT, "cfg.json is %s, not an object", saei_json_type_name(json, 0));
    reader r = {out, json, opt, saei_json_member(json, 0, "metadata"), false, err};
    out->version = text_of(&r, "sae_lens_version", NULL);
    out->model_name = text_of(&r, "model_name", NULL);
    out->hook_name = text_of(&r, "hook_name", "hook_point");
    r.old = is_old(out->version);
    if ((status = check_options(opt, err)) || (status = read_arch(&r)) || (status = read_sizes(&r)) || (status = read_k(&r)) ||
        (status = read_norm(&r)) || (status = check_reshape(&r)))
        return status;
    return read_flags(&r);
}
