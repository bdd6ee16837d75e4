/* sparsify (EleutherAI, eai-sparsify 1.3): cfg.json + sae.safetensors in a folder named by the hook point. relu, then the k largest, or the
 * largest of each of k groups; b_dec is subtracted unless it transcodes (sparsify/sparse_coder.py). */
#include <string.h>

#include "io/formats.h"

typedef struct setting {
    int32_t d_in, d_sae, k;
    bool skip, transcode, signed_codes;
    const char *activation;
} setting;

/* Old files lack keys that had one value only. */
static sae_status read_config(saei_source *s, setting *out)
{
    int32_t factor = 32;
    sae_status status;
    *out = (setting){0};
    if ((status = saei_source_config(s, "cfg.json")) || (status = saei_config_size(&out->d_in, s, 0, "d_in")) ||
        (status = saei_config_bool(&out->skip, s, 0, "skip_connection", false)) ||
        (status = saei_config_bool(&out->transcode, s, 0, "transcode", false)) ||
        (status = saei_config_bool(&out->signed_codes, s, 0, "signed", false)) ||
        (status = saei_config_text(&out->activation, s, 0, "activation")))
        return status;
    if (saei_json_member(&s->config, 0, "k") && (status = saei_config_size(&out->k, s, 0, "k")))
        return status;
    if (saei_json_member(&s->config, 0, "expansion_factor") && (status = saei_config_size(&factor, s, 0, "expansion_factor")))
        return status;
    const uint32_t at = saei_json_member(&s->config, 0, "num_latents");
    if (at && s->config.v[at].type == SAEI_JSON_INTEGER && s->config.v[at].integer != 0)
        return saei_config_size(&out->d_sae, s, 0, "num_latents");
    if (factor > INT32_MAX / out->d_in)
        return saei_fail(s->err, SAE_E_FORMAT, "cfg.json: d_in = %d times expansion_factor = %d is no size", (int)out->d_in, (int)factor);
    out->d_sae = out->d_in * factor;
    return SAE_OK;
}

static sae_status read_arch(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    const char *activation = c->activation ? c->activation : "topk";
    char shown[SAEI_SHOWN];
    const bool groups = strcmp(activation, "groupmax") == 0;
    if (!groups && strcmp(activation, "topk") != 0)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "cfg.json: activation \"%s\" is neither topk nor groupmax",
                         saei_show(shown, activation));
    p->arch = groups ? SAE_GROUPMAX : c->signed_codes ? SAE_ABSTOPK : SAE_TOPK;
    p->apply_b_dec = !c->transcode;
    sae_status status = saei_set_text(s, SAE_TEXT_ARCHITECTURE, activation);
    if (!status)
        status = saei_set_k(s, c->k ? c->k : 32);
    if (!status && groups && p->d_sae % p->k)
        return saei_fail(s->err, SAE_E_FORMAT, "cfg.json: %d latents do not split into k = %d groups of one size", (int)p->d_sae,
                         (int)p->k);
    return status;
}

static sae_status read_tensors(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    saei_tensor enc, dec, skip;
    sae_status status;
    if ((status = saei_take_matrix(&enc, s, "encoder.weight", false, c->d_sae, "num_latents", c->d_in, "d_in")) ||
        (status = saei_take_matrix(&dec, s, "W_dec", false, c->d_sae, "num_latents", c->d_in, "d_in")) ||
        (status = saei_set_matrices(s, &enc, &dec)) || (status = saei_take_vector(&p->b_enc, s, "encoder.bias", c->d_sae, "num_latents")) ||
        (status = saei_take_vector(&p->b_dec, s, "b_dec", c->d_in, "d_in")) || !c->skip)
        return status;
    status = saei_take_matrix(&skip, s, "W_skip", false, c->d_in, "d_in", c->d_in, "d_in");
    return status ? status : saei_add_skip(s, 0, 0, &skip);
}

/* The folder is named by the hook point, when it has one: "layers.12.mlp". */
static sae_status set_hook(saei_source *s)
{
    const char *slash = strrchr(s->folder, '/'), *name = slash ? slash + 1 : s->folder;
    const bool hook =
        strncmp(name, "layers.", 7) == 0 || strcmp(name, "embed_tokens") == 0 || strstr(name, ".layers.") || strstr(name, ".h.");
    return hook ? saei_set_text(s, SAE_TEXT_HOOK_NAME, name) : SAE_OK;
}

sae_status saei_read_sparsify(saei_source *s)
{
    static const char *const names[] = {"encoder.weight", "encoder.bias", "W_dec", "b_dec", "W_skip", NULL};
    setting c;
    sae_status status;
    s->what = "a sparsify SAE";
    s->sizes_from = "cfg.json says";
    if (!saei_source_has(s, "cfg.json"))
        return saei_fail(s->err, SAE_E_IO, "%s is weights of sparsify without the cfg.json that says k: put the two into one folder",
                         s->named);
    if ((status = read_config(s, &c)) || (status = saei_source_shards(s, *s->named ? s->named : "sae.safetensors")) ||
        (status = saei_only(s, names)) || (status = read_tensors(s, &c)) || (status = read_arch(s, &c)))
        return status;
    return set_hook(s);
}
