/* OpenAI's sparse_autoencoder (4965b94, model.py): one torch file a layer. A TopK normalises its rows and un-normalises what it decodes. */
#include <string.h>

#include "io/formats.h"

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
    return status ? status : saei_set_k(s, k);
}

/* A tied decoder is absent, or stored under one name more. */
static sae_status read_decoder(saei_source *s, saei_tensor *dec, const saei_tensor *enc)
{
    static const char *const names[] = {"decoder.weight", "decoder.linear.weight"};
    for (int i = 0; i < 2; i++) {
        const saei_array *a = saei_store_find(&s->store, names[i]);
        if (!a)
            continue;
        const bool by_rows = i == 1 && a->n_dims == 2 && a->shape[0] == enc->m.n && a->shape[1] == enc->m.d && enc->m.n != enc->m.d;
        return saei_take_matrix(dec, s, names[i], !by_rows, enc->m.n, "n_latents", enc->m.d, "n_inputs");
    }
    *dec = *enc;
    return SAE_OK;
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
