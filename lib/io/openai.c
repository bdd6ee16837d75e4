/* OpenAI's sparse_autoencoder (4965b94, model.py): one torch file a layer. A TopK normalises its rows and un-normalises what it decodes. */
#include <string.h>

#include "io/formats.h"

/* What a TopK does to the values it keeps: ReLU, or nothing. */
static sae_status read_post(saei_source *s)
{
    static const char *const names[] = {"activation_state_dict.postact_fn", "activation.postact_fn"};
    for (int i = 0; i < 2; i++) {
        const saei_value *v = saei_store_value(&s->store, names[i]);
        if (!v || !v->string || strcmp(v->string, "ReLU") == 0)
            continue;
        if (strcmp(v->string, "Identity") != 0)
            return saei_fail(s->err, SAE_E_UNSUPPORTED, "%s: %s \"%.40s\" is neither ReLU nor Identity", s->file, names[i], v->string);
        s->parts->keeps_negative = true;
    }
    return SAE_OK;
}

/* "activation" is a text, with its settings beside it; the first files have none and are ReLU. */
static sae_status read_activation(saei_source *s)
{
    static const char *const k_names[] = {"activation_state_dict.k", "activation.k"};
    saei_parts *p = s->parts;
    const saei_value *activation = saei_store_value(&s->store, "activation");
    const char *name = activation ? activation->string : "ReLU";
    int64_t k = 0;
    sae_status status = saei_set_text(s, SAE_TEXT_ARCHITECTURE, name);
    if (status)
        return status;
    if (name && strcmp(name, "ReLU") == 0) {
        p->arch = SAE_STANDARD;
        return SAE_OK;
    }
    if (!name || strcmp(name, "TopK") != 0)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "%s: activation \"%.40s\" is neither ReLU nor TopK", s->file, name ? name : "");
    p->arch = SAE_TOPK;
    p->norm = SAE_NORM_LAYER;
    for (int i = 0; i < 2 && !k && !status; i++)
        status = saei_take_count(&k, s, k_names[i]);
    if (status || (status = read_post(s)))
        return status;
    return saei_set_k(s, k);
}

/* A tied decoder is absent, or is the encoder once more under another name: [n_latents][n_inputs], as the encoder is. */
static sae_status read_decoder(saei_source *s, saei_tensor *dec, const saei_tensor *enc)
{
    static const char name[] = "decoder.weight", tied[] = "decoder.linear.weight";
    const saei_matrix *m = &enc->m;
    *dec = *enc;
    if (saei_store_find(&s->store, name))
        return saei_take_matrix(dec, s, name, true, m->n, "n_latents", m->d, "n_inputs");
    return saei_store_find(&s->store, tied) ? saei_take_matrix(dec, s, tied, false, m->n, "n_latents", m->d, "n_inputs") : SAE_OK;
}

sae_status saei_read_openai(saei_source *s)
{
    saei_parts *p = s->parts;
    saei_tensor enc, dec;
    int32_t n = 0, d = 0;
    s->what = "an OpenAI SAE";
    s->sizes_from = "encoder.weight says";
    sae_status status = saei_source_tensors(s, s->named);
    if (status || (status = saei_take_shape(&n, &d, s, "encoder.weight")) ||
        (status = saei_take_matrix(&enc, s, "encoder.weight", false, n, "n_latents", d, "n_inputs")) ||
        (status = read_decoder(s, &dec, &enc)) || (status = saei_set_matrices(s, &enc, &dec)) ||
        (status = saei_take_vector(&p->b_dec, s, "pre_bias", d, "n_inputs")) ||
        (status = saei_take_vector(&p->b_enc, s, "latent_bias", n, "n_latents")))
        return status;
    p->apply_b_dec = true;
    return read_activation(s);
}
