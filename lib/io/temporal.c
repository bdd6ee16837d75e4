/* Temporal SAEs: canrager/temporalSAEs (conf.yaml + latest_ckpt.safetensors), and the attention layers, which sae-lens names alike. */
#include <stdio.h>
#include <string.h>

#include "io/formats.h"
#include "io/saelens.h"

static sae_status read_layer_of(saei_source *s, saei_linear *out, int32_t layer, const char *what, int32_t n, int32_t d)
{
    char name[64];
    snprintf(name, sizeof name, "attn_layers.%d.%s.weight", (int)layer, what);
    const sae_status status = saei_take_matrix(&out->w, s, name, false, n, "outputs", d, "d_sae");
    if (status)
        return status;
    snprintf(name, sizeof name, "attn_layers.%d.%s.bias", (int)layer, what);
    return saei_take_vector(&out->bias, s, name, n, "outputs");
}

sae_status saei_temporal_tensors(saei_source *s, int32_t n_layers, int32_t n_heads, int32_t bottleneck)
{
    saei_parts *p = s->parts;
    const int32_t n = p->d_sae;
    sae_status status = SAE_OK;
    if (n_layers > 1024 || n_heads > n || bottleneck > n || n % ((int64_t)bottleneck * n_heads))
        return saei_fail(s->err, SAE_E_FORMAT,
                         "%s: d_sae = %d is no multiple of bottleneck_factor = %d times n_heads = %d, or %d layers are too many",
                         s->config_name, (int)n, (int)bottleneck, (int)n_heads, (int)n_layers);
    p->attention = saei_arena_alloc(&p->memory, s->host, (size_t)n_layers * sizeof *p->attention);
    if (!p->attention)
        return saei_fail(s->err, SAE_E_NOMEM, "no memory for %d attention layers", (int)n_layers);
    p->n_heads = n_heads;
    for (int32_t i = 0; i < n_layers && !status; i++) {
        saei_attention *a = &p->attention[i];
        if ((status = read_layer_of(s, &a->k_ctx, i, "k_ctx", n / bottleneck, n)) ||
            (status = read_layer_of(s, &a->q_target, i, "q_target", n / bottleneck, n)) ||
            (status = read_layer_of(s, &a->v_ctx, i, "v_ctx", n, n)) || (status = read_layer_of(s, &a->c_proj, i, "c_proj", n, n)))
            return status;
        p->n_attention = i + 1;
    }
    return status;
}

typedef struct setting {
    int32_t d, layers, heads, bottleneck, k;
    double scale;
    bool tied;
} setting;

static sae_status read_config(saei_source *s, setting *c)
{
    const char *kind = NULL, *model = NULL;
    sae_status status = saei_source_config(s, "conf.yaml");
    if (status)
        return status;
    const uint32_t llm = saei_json_member(&s->config, 0, "llm"), sae = saei_json_member(&s->config, 0, "sae");
    if (!llm || !sae)
        return saei_fail(s->err, SAE_E_FORMAT, "conf.yaml has no %s section", llm ? "sae" : "llm");
    if ((status = saei_config_size(&c->d, s, llm, "dimin")) || (status = saei_config_size(&c->heads, s, sae, "n_heads")) ||
        (status = saei_config_size(&c->layers, s, sae, "n_attn_layers")) ||
        (status = saei_config_size(&c->bottleneck, s, sae, "bottleneck_factor")) ||
        (status = saei_config_number(&c->scale, s, sae, "scaling_factor", 1.0)) ||
        (status = saei_config_bool(&c->tied, s, sae, "tied_weights", true)) ||
        (status = saei_config_text(&kind, s, sae, "sae_diff_type")) || (status = saei_config_text(&model, s, llm, "name")) ||
        (status = saei_set_text(s, SAE_TEXT_MODEL_NAME, model)))
        return status;
    if (!((float)c->scale > 0.0f))
        return saei_fail(s->err, SAE_E_FORMAT, "conf.yaml: scaling_factor = %g must be greater than 0", c->scale);
    if (kind && strcmp(kind, "relu") != 0 && strcmp(kind, "topk") != 0)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "conf.yaml: sae_diff_type \"%.40s\" is neither relu nor topk", kind);
    const bool topk = !kind || strcmp(kind, "topk") == 0;
    return topk && saei_json_member(&s->config, sae, "kval_topk") ? saei_config_size(&c->k, s, sae, "kval_topk") : SAE_OK;
}

/* D [d_sae][d] and b [d]; E [d][d_sae] unless it is tied to D. */
sae_status saei_read_temporal(saei_source *s)
{
    saei_parts *p = s->parts;
    setting c = {0};
    saei_tensor enc, dec;
    int32_t n = 0, d = 0;
    s->what = "a temporal SAE";
    sae_status status = read_config(s, &c);
    s->sizes_from = "conf.yaml and D say";
    if (status || (status = saei_source_tensors(s, "latest_ckpt.safetensors")) || (status = saei_take_shape(&n, &d, s, "D")) ||
        (status = saei_take_matrix(&dec, s, "D", false, n, "d_sae", c.d, "dimin")))
        return status;
    enc = dec;
    if (!c.tied && (status = saei_take_matrix(&enc, s, "E", true, n, "d_sae", c.d, "dimin")))
        return status;
    if ((status = saei_set_matrices(s, &enc, &dec)) || (status = saei_take_vector(&p->b_dec, s, "b", c.d, "dimin")) ||
        (status = saei_set_text(s, SAE_TEXT_ARCHITECTURE, "temporal")))
        return status;
    p->arch = SAE_TEMPORAL;
    p->apply_b_dec = true;
    p->norm = SAE_NORM_SCALE;
    p->norm_scaling_factor = (float)c.scale;
    p->norm_out_factor = 1.0f / p->norm_scaling_factor;
    p->k = c.k;
    if (c.k > n)
        return saei_fail(s->err, SAE_E_FORMAT, "conf.yaml: kval_topk = %d is more than the %d features", (int)c.k, (int)n);
    return saei_temporal_tensors(s, c.layers, c.heads, c.bottleneck);
}
