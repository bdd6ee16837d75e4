/* Llama Scope, first release (fnlp/Llama3_1-8B-Base-LX*): hyperparams.json + checkpoints/final.safetensors, as Language-Model-SAEs b9326392
 * (lm_saes/sae.py, from_config) folds them: codes are in real units, decoder norms are folded into the encoder. */
#include <math.h>
#include <string.h>

#include "io/formats.h"

typedef struct setting {
    int32_t d, n, k;
    double s_in, s_out; /* sqrt(d) over the average norm of the rows, 1 without */
    double threshold;
    bool include_norm, decoder_bias, subtract_bias;
    const char *act;
} setting;

static sae_status read_scales(saei_source *s, setting *c)
{
    const char *norm = NULL;
    double in = 0.0, out = 0.0;
    c->s_in = c->s_out = 1.0;
    sae_status status = saei_config_text(&norm, s, 0, "norm_activation");
    if (status || !norm || strcmp(norm, "dataset-wise") != 0) {
        if (status || !norm || strcmp(norm, "inference") == 0)
            return status;
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "hyperparams.json: norm_activation \"%.40s\" is neither dataset-wise nor inference",
                         norm);
    }
    const uint32_t at = saei_json_member(&s->config, 0, "dataset_average_activation_norm");
    if (!at)
        return saei_fail(s->err, SAE_E_FORMAT, "hyperparams.json has no dataset_average_activation_norm, which its norm_activation needs");
    if ((status = saei_config_number(&in, s, at, "in", 0.0)) || (status = saei_config_number(&out, s, at, "out", in)))
        return status;
    if (!(in > 0.0 && out > 0.0))
        return saei_fail(s->err, SAE_E_FORMAT, "hyperparams.json: dataset_average_activation_norm in = %g, out = %g must be greater than 0",
                         in, out);
    c->s_in = sqrt((double)c->d) / in;
    c->s_out = sqrt((double)c->d) / out;
    return SAE_OK;
}

static sae_status refuse_glu(const saei_source *s)
{
    bool glu = false;
    const sae_status status = saei_config_bool(&glu, s, 0, "use_glu_encoder", false);
    return status || !glu ? status
                          : saei_fail(s->err, SAE_E_UNSUPPORTED,
                                      "%s: use_glu_encoder = true, a gated linear unit before the codes, is not read", s->config_name);
}

static sae_status read_config(saei_source *s, setting *c)
{
    sae_status status = saei_source_config(s, "hyperparams.json");
    if (status || (status = refuse_glu(s)) || (status = saei_config_size(&c->d, s, 0, "d_model")) ||
        (status = saei_config_size(&c->n, s, 0, "d_sae")) || (status = saei_config_text(&c->act, s, 0, "act_fn")) ||
        (status = saei_config_number(&c->threshold, s, 0, "jump_relu_threshold", 0.0)) ||
        (status = saei_config_bool(&c->include_norm, s, 0, "sparsity_include_decoder_norm", true)) ||
        (status = saei_config_bool(&c->decoder_bias, s, 0, "use_decoder_bias", true)) ||
        (status = saei_config_bool(&c->subtract_bias, s, 0, "apply_decoder_bias_to_pre_encoder", false)))
        return status;
    if (saei_json_member(&s->config, 0, "top_k") && (status = saei_config_size(&c->k, s, 0, "top_k")))
        return status;
    return read_scales(s, c);
}

/* A top-k with a threshold: lm_saes selects k all the same, sae-lens takes the threshold in place of the selection, which the option can choose. */
static sae_status read_topk(saei_source *s, const setting *c)
{
    s->parts->arch = SAE_TOPK;
    sae_status status = saei_set_k(s, c->k);
    if (!status && c->threshold > 0.0)
        status =
            saei_warn(s,
                      "act_fn is topk and jump_relu_threshold = %g: the %d largest are kept, as lm_saes does; sae-lens keeps what is above "
                      "the threshold, as the option architecture = jumprelu does",
                      c->threshold, (int)s->parts->k);
    return status;
}

static sae_status read_arch(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    const char *act = c->act ? c->act : "";
    const bool jumps = s->opt->architecture && strcmp(s->opt->architecture, "jumprelu") == 0;
    sae_status status = saei_set_text(s, SAE_TEXT_ARCHITECTURE, act);
    if (status)
        return status;
    if (strcmp(act, "relu") == 0) {
        p->arch = SAE_STANDARD;
    } else if (strcmp(act, "jumprelu") == 0 || (strcmp(act, "topk") == 0 && c->threshold > 0.0 && jumps)) {
        p->arch = SAE_JUMPRELU;
        p->keeps_negative = c->threshold < 0.0; /* the formula has no relu */
        status = saei_fill_vector(&p->threshold, s, p->d_sae, c->threshold);
    } else if (strcmp(act, "topk") == 0) {
        status = read_topk(s, c);
    } else {
        status = saei_fail(s->err, SAE_E_UNSUPPORTED, "hyperparams.json: act_fn \"%.40s\" is none of relu, jumprelu, topk", act);
    }
    return status;
}

static sae_status read_tensors(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    saei_tensor enc, dec;
    sae_status status;
    if ((status = saei_take_matrix(&enc, s, "encoder.weight", false, c->n, "d_sae", c->d, "d_model")) ||
        (status = saei_take_matrix(&dec, s, "decoder.weight", true, c->n, "d_sae", c->d, "d_model")) ||
        (status = saei_set_matrices(s, &enc, &dec)) || (status = saei_take_vector(&p->b_enc, s, "encoder.bias", c->n, "d_sae")))
        return status;
    for (int32_t j = 0; j < c->n; j++)
        p->b_enc[j] = (float)((double)p->b_enc[j] / c->s_in);
    if (!c->decoder_bias)
        return SAE_OK;
    status = saei_take_vector(&p->b_dec, s, "decoder.bias", c->d, "d_model");
    for (int32_t k = 0; k < c->d && !status; k++)
        p->b_dec[k] = (float)((double)p->b_dec[k] / c->s_out);
    p->apply_b_dec = c->subtract_bias;
    return status;
}

/* W_dec *= r, r = s_in / s_out; then, when the sparsity counts decoder norms, rows of unit length and codes that carry the length. */
static sae_status fold(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    const double r = c->s_in / c->s_out;
    if (!c->include_norm)
        return r == 1.0 ? SAE_OK : saei_fill_vector(&p->dec_scale, s, p->d_sae, r);
    sae_status status = saei_decoder_norms(&p->key_scale, s);
    if (!status)
        status = saei_make_vector(&p->dec_scale, s, p->d_sae);
    for (int32_t j = 0; j < p->d_sae && !status; j++) {
        const double norm = (double)p->key_scale[j];
        p->dec_scale[j] = saei_inverse(p->key_scale[j]);
        p->key_scale[j] = (float)(norm * r);
    }
    return status;
}

static sae_status set_texts(saei_source *s)
{
    const char *in = NULL, *out = NULL;
    sae_status status = saei_config_text(&in, s, 0, "hook_point_in");
    if (!status)
        status = saei_config_text(&out, s, 0, "hook_point_out");
    if (!status)
        status = saei_set_text(s, SAE_TEXT_HOOK_NAME, in);
    return status || !out || (in && strcmp(in, out) == 0) ? status : saei_set_text(s, SAE_TEXT_HOOK_NAME_OUT, out);
}

/* In the order of lm_saes (sae.py, from_pretrained). */
static const char *weights_of(const saei_source *s)
{
    static const char *const names[] = {"sae_weights.safetensors",        "sae_weights.pt",
                                        "checkpoints/pruned.safetensors", "checkpoints/pruned.pt",
                                        "checkpoints/final.safetensors",  "checkpoints/final.pt"};
    if (*s->named)
        return s->named;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (saei_source_has(s, names[i]))
            return names[i];
    return "checkpoints/final.safetensors";
}

sae_status saei_read_llama_scope(saei_source *s)
{
    static const char *const names[] = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", NULL};
    setting c = {0};
    s->what = "a Llama Scope SAE";
    s->sizes_from = "hyperparams.json says";
    sae_status status = read_config(s, &c);
    if (status || (status = saei_source_tensors(s, weights_of(s))))
        return status;
    saei_source_strip(s, "sae."); /* torch files hold the weights beside a version */
    if ((status = saei_only(s, names)) || (status = read_tensors(s, &c)) || (status = read_arch(s, &c)) || (status = fold(s, &c)))
        return status;
    return set_texts(s);
}
