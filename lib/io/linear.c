/* Checkpoints that are two linear layers and nothing else: Goodfire, the DeepSeek-R1 distill of qresearch, Apollo's e2e SAEs, Qwen-Scope, and the
 * files of the TransformerLens era with their <name>_cfg.json. What they are is known by who published them, and by no file. */
#include <stdio.h>
#include <string.h>

#include "io/formats.h"

typedef struct names {
    const char *w_enc, *w_dec, *b_enc, *b_dec;
    bool enc_by_cols, dec_by_cols; /* W_enc [d_in][d_sae], W_dec [d_out][d_sae] */
} names;

static sae_status read_linear(saei_source *s, const names *t)
{
    saei_parts *p = s->parts;
    saei_tensor enc, dec;
    int32_t rows = 0, columns = 0;
    sae_status status;
    s->sizes_from = "the encoder's weights say";
    if ((status = saei_source_tensors(s, s->named)) || (status = saei_take_shape(&rows, &columns, s, t->w_enc)))
        return status;
    const int32_t n = t->enc_by_cols ? columns : rows, d = t->enc_by_cols ? rows : columns;
    if ((status = saei_take_matrix(&enc, s, t->w_enc, t->enc_by_cols, n, "d_sae", d, "d_in")) ||
        (status = saei_take_matrix(&dec, s, t->w_dec, t->dec_by_cols, n, "d_sae", d, "d_in")) ||
        (status = saei_take_vector(&p->b_enc, s, t->b_enc, n, "d_sae")) || (status = saei_take_vector(&p->b_dec, s, t->b_dec, d, "d_in")))
        return status;
    p->arch = SAE_STANDARD;
    return saei_set_matrices(s, &enc, &dec);
}

sae_status saei_read_goodfire(saei_source *s)
{
    static const names t = {"encoder_linear.weight", "decoder_linear.weight", "encoder_linear.bias", "decoder_linear.bias", false, true};
    s->what = "a Goodfire SAE";
    return read_linear(s, &t);
}

/* dictionary_learning's AutoEncoderNew has the same tensors and the same formula. Llama Scope has the same tensors and another, but is known by
 * its hyperparams.json. */
sae_status saei_read_deepseek(saei_source *s)
{
    static const names t = {"encoder.weight", "decoder.weight", "encoder.bias", "decoder.bias", false, true};
    const char *arch = s->opt->architecture;
    const bool known = strstr(s->named, "SAE-l") || strstr(s->folder, "trainer_");
    s->what = "an SAE of two linear layers";
    if (!known && (!arch || strcmp(arch, "standard") != 0))
        return saei_fail(
            s->err, SAE_E_FORMAT,
            "%s is two linear layers, and no configuration says what is between them: the option architecture = standard does, for "
            "relu without subtracting decoder.bias",
            s->named);
    return read_linear(s, &t);
}

/* Columns of the decoder are normalised when it is used (e2e_sae 2.1, models/sparsifiers.py); codes stay as they are. */
sae_status saei_read_apollo(saei_source *s)
{
    static const names t = {"encoder.0.weight", "decoder.weight", "encoder.0.bias", "decoder.bias", false, true};
    saei_parts *p = s->parts;
    s->what = "an e2e_sae SAE";
    sae_status status = read_linear(s, &t);
    if (!status)
        status = saei_decoder_norms(&p->dec_scale, s);
    for (int32_t j = 0; j < p->d_sae && !status; j++)
        p->dec_scale[j] = saei_inverse(p->dec_scale[j]);
    return status;
}

/* Qwen/SAE-Res-<model>-W32K-L0_50: k is in the name of the repository. */
sae_status saei_read_qwen_scope(saei_source *s)
{
    static const names t = {"W_enc", "W_dec", "b_enc", "b_dec", false, true};
    char hook[64], k[16] = "";
    const char *l0 = strstr(s->folder, "-L0_");
    if (l0)
        snprintf(k, sizeof k, "%.*s", (int)strspn(l0 + 4, "0123456789"), l0 + 4);
    s->what = "a Qwen-Scope SAE";
    s->config_name = "the name of the folder:";
    sae_status status = read_linear(s, &t);
    if (status)
        return status;
    s->parts->arch = SAE_TOPK;
    snprintf(hook, sizeof hook, "blocks.%.*s.hook_resid_post", (int)strspn(s->named + 5, "0123456789"), s->named + 5);
    if ((status = saei_set_text(s, SAE_TEXT_HOOK_NAME, hook)) || (status = saei_set_text(s, SAE_TEXT_ARCHITECTURE, "topk")))
        return status;
    return saei_set_k(s, l0 && saei_number_in(k, "", "") > 0 ? saei_number_in(k, "", "") : 0);
}

/* The configuration has the file's name: gpt2-small_L2_Hcat_z.pt, gpt2-small_L2_Hcat_z_cfg.json. */
static sae_status read_own_config(saei_source *s)
{
    char name[256];
    const char *dot = strrchr(s->named, '.'), *hook = NULL;
    const int n = snprintf(name, sizeof name, "%.*s_cfg.json", dot ? (int)(dot - s->named) : 0, s->named);
    if (n < 0 || (size_t)n >= sizeof name)
        return saei_fail(s->err, SAE_E_IO, "%s has a name too long for a configuration beside it", s->named);
    sae_status status = saei_source_config(s, name);
    if (status || (status = saei_config_text(&hook, s, 0, "act_name")))
        return status;
    return saei_set_text(s, SAE_TEXT_HOOK_NAME, hook);
}

static sae_status check_size(const saei_source *s, const char *key, int32_t found, const char *what)
{
    int32_t said = 0;
    if (!saei_json_member(&s->config, 0, key))
        return SAE_OK;
    const sae_status status = saei_config_size(&said, s, 0, key);
    if (status || said == found)
        return status;
    return saei_fail(s->err, SAE_E_FORMAT, "%s says %s = %d, the weights have %s = %d", s->config_name, key, (int)said, what, (int)found);
}

sae_status saei_read_connor_rob(saei_source *s)
{
    static const names t = {"W_enc", "W_dec", "b_enc", "b_dec", true, false};
    s->what = "an SAE of the TransformerLens era";
    sae_status status = read_own_config(s);
    if (status || (status = read_linear(s, &t)) || (status = check_size(s, "act_size", s->parts->d_in, "d_in")) ||
        (status = check_size(s, "dict_size", s->parts->d_sae, "d_sae")))
        return status;
    s->parts->apply_b_dec = true;
    return SAE_OK;
}
