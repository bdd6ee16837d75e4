/* An SAE in a GGUF file: the tensors of SAELens under their names, and what cfg.json would say under "sae.": sae.architecture, sae.k,
 * sae.apply_b_dec_to_input, sae.normalize_activations, sae.norm_scaling_factor, sae.rescale_acts_by_decoder_norm, sae.hook_name, sae.model_name. */
#include <string.h>

#include "io/formats.h"
#include "io/saelens.h"

static const char *text_of(const saei_source *s, const char *name, const char *absent)
{
    const saei_value *v = saei_store_value(&s->store, name);
    return v && v->string ? v->string : absent;
}

static double number_of(const saei_source *s, const char *name, double absent)
{
    const saei_value *v = saei_store_value(&s->store, name);
    return v && v->is_number ? v->number : absent;
}

static sae_status read_arch(const saei_source *s, saei_saelens *c)
{
    const char *name = s->opt->architecture ? s->opt->architecture : text_of(s, "sae.architecture", NULL);
    if (!name)
        return saei_fail(s->err, SAE_E_FORMAT, "%s has no sae.architecture: the option architecture can name it", s->file);
    if (!saei_saelens_arch(c, name) || c->arch == SAE_MATCHING_PURSUIT || c->arch == SAE_TEMPORAL)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "%s: sae.architecture \"%.40s\" is not read from GGUF files", s->file, name);
    return SAE_OK;
}

static sae_status read_numbers(const saei_source *s, saei_saelens *c)
{
    const double k = s->opt->k ? (double)s->opt->k : number_of(s, "sae.k", 0.0), factor = number_of(s, "sae.norm_scaling_factor", 1.0);
    const bool selects = c->arch == SAE_TOPK || c->arch == SAE_ABSTOPK;
    if (selects && !(k >= 1.0 && k <= (double)c->d_sae))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: sae.k = %g is outside 1 .. d_sae = %d: the option k can give it", s->file, k,
                         (int)c->d_sae);
    if (!((float)factor > 0.0f && factor < 3e38))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: sae.norm_scaling_factor = %g must be finite and greater than 0", s->file, factor);
    c->k = selects ? (int32_t)k : 0;
    c->norm = saei_saelens_norm(text_of(s, "sae.normalize_activations", "none"));
    if (c->norm < 0)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "%s: sae.normalize_activations \"%.40s\" is not read by this version", s->file,
                         text_of(s, "sae.normalize_activations", ""));
    c->norm_scaling_factor = c->norm == SAE_NORM_SCALE ? (float)factor : 1.0f;
    return SAE_OK;
}

sae_status saei_read_saelens_gguf(saei_source *s)
{
    saei_saelens c = {.version = "", .hook_name_out = text_of(s, "sae.hook_name_out", "")};
    int32_t rows = 0;
    s->sizes_from = "W_enc says";
    s->what = "an SAE in a GGUF file";
    sae_status status = saei_source_tensors(s, s->named);
    if (status || (status = read_arch(s, &c)) || (status = saei_take_shape(&c.d_in, &c.d_sae, s, "W_enc")) ||
        (status = saei_take_shape(&rows, &c.d_out, s, "W_dec")) || (status = read_numbers(s, &c)))
        return status;
    c.apply_b_dec = number_of(s, "sae.apply_b_dec_to_input", c.transcoder ? 0.0 : 1.0) != 0.0;
    c.rescale_by_decoder_norm = number_of(s, "sae.rescale_acts_by_decoder_norm", 0.0) != 0.0;
    if ((c.rescale_by_decoder_norm && c.arch != SAE_TOPK && c.arch != SAE_ABSTOPK) || (c.apply_b_dec && c.d_in != c.d_out))
        return saei_fail(s->err, SAE_E_FORMAT, "%s: its flags do not go with a %s of d_in = %d and d_out = %d", s->file, c.name,
                         (int)c.d_in, (int)c.d_out);
    c.architecture = c.name;
    c.model_name = text_of(s, "sae.model_name", "");
    c.hook_name = text_of(s, "sae.hook_name", "");
    return saei_saelens_tensors(s, &c);
}
