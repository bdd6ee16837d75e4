/* What lies at a path. A folder is known by the names of its files, a file by its name in such a folder or by the tensors it holds. */
#include <stdio.h>
#include <string.h>

#include "io/formats.h"

static const saei_format saelens = {"saelens", saei_read_saelens}, saelens_gguf = {"gguf", saei_read_saelens_gguf},
                         gemma_scope = {"gemma_scope", saei_read_gemma_scope}, gemma_scope_2 = {"gemma_scope_2", saei_read_gemma_scope_2},
                         gemma_scope_2_clt = {"gemma_scope_2", saei_read_gemma_scope_2_clt},
                         dictionary_learning = {"dictionary_learning", saei_read_dictionary_learning},
                         sparsify = {"sparsify", saei_read_sparsify}, openai = {"openai", saei_read_openai},
                         goodfire = {"goodfire", saei_read_goodfire}, deepseek = {"deepseek_r1", saei_read_deepseek},
                         qwen_scope = {"qwen_scope", saei_read_qwen_scope}, apollo = {"apollo_e2e", saei_read_apollo},
                         connor_rob = {"transformer_lens", saei_read_connor_rob}, llama_scope = {"llama_scope", saei_read_llama_scope},
                         llamascopium = {"llamascopium", saei_read_llamascopium},
                         circuit_tracer = {"circuit_tracer", saei_read_circuit_tracer},
                         circuit_tracer_clt = {"circuit_tracer", saei_read_circuit_tracer_clt}, temporal = {"temporal", saei_read_temporal},
                         sae_file = {"sae", saei_read_sae_file};

/* ---- names ---- */

/* Does the name fit a pattern, where # stands for a number? */
static bool fits(const char *pattern, const char *name)
{
    for (; *pattern && *name; pattern++) {
        if (*pattern != '#') {
            if (*pattern != *name++)
                return false;
            continue;
        }
        if (*name < '0' || *name > '9')
            return false;
        while (*name >= '0' && *name <= '9')
            name++;
    }
    return !*pattern && !*name;
}

/* The first name of the folder that fits, or NULL. */
static const char *first_fit(const saei_source *s, const char *pattern)
{
    for (uint32_t i = 0; i < s->n_names; i++)
        if (fits(pattern, s->names[i]))
            return s->names[i];
    return NULL;
}

/* ---- folders ---- */

/* Files that tell a format; `beside` must be there too (NULL: nothing more), `unless` must not. */
static const struct sign {
    const char *weights, *beside, *unless;
    const saei_format *format;
} signs[] = {{"sae_weights.safetensors", "cfg.json", NULL, &saelens},
             {"sae_weights.safetensors.index.json", "cfg.json", NULL, &saelens},
             {"sae_weights.safetensors", "config.json", "cfg.json", &llamascopium},
             {"sae_weights.safetensors", "hyperparams.json", "cfg.json", &llama_scope},
             {"sae_weights.pt", "hyperparams.json", NULL, &llama_scope},
             {"sae_weights.dcp", "config.json", "sae_weights.safetensors", &llamascopium},
             {"sae.safetensors", "cfg.json", NULL, &sparsify},
             {"checkpoints", "hyperparams.json", NULL, &llama_scope},
             {"params.npz", NULL, NULL, &gemma_scope},
             {"params.safetensors", NULL, NULL, &gemma_scope_2},
             {"params_layer_#.safetensors", NULL, NULL, &gemma_scope_2_clt},
             {"ae.pt", NULL, NULL, &dictionary_learning},
             {"ae_#.pt", NULL, "ae.pt", &dictionary_learning},
             {"model_final.pt", "config.json", NULL, &dictionary_learning},
             {"model.safetensors", "config.json", NULL, &dictionary_learning},
             {"latest_ckpt.safetensors", "conf.yaml", NULL, &temporal},
             {"layer_#.safetensors", NULL, NULL, &circuit_tracer},
             {"W_enc_#.safetensors", NULL, NULL, &circuit_tracer_clt}};

/* Is the file that was named the one of this sign, or in the folder of this sign? */
static bool is_named(const saei_source *s, const struct sign *sign)
{
    const size_t n = strlen(sign->weights);
    return fits(sign->weights, s->named) || (strncmp(s->named, sign->weights, n) == 0 && s->named[n] == '/');
}

static bool holds(const saei_source *s, const struct sign *sign)
{
    return first_fit(s, sign->weights) && (!sign->beside || saei_source_has(s, sign->beside)) &&
           (!sign->unless || !saei_source_has(s, sign->unless));
}

/* Two formats in one folder are a question, not an answer. */
static sae_status by_names(const saei_format **out, const saei_source *s)
{
    const struct sign *found = NULL;
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        const struct sign *sign = &signs[i];
        if (!holds(s, sign) || (*s->named && !is_named(s, sign)))
            continue;
        if (found && found->format != sign->format)
            return saei_fail(s->err, SAE_E_UNSUPPORTED,
                             "the folder holds %s (%s) and %s (%s): name the file that is meant, or keep one SAE in a folder: %s",
                             found->weights, found->format->name, sign->weights, sign->format->name, s->path);
        found = sign;
    }
    *out = found ? found->format : NULL;
    return SAE_OK;
}

static const char *const tensor_endings[] = {".safetensors", ".npz", ".pt", ".pth", ".bin", ".gguf", ".sae"};

static bool is_tensor_file(const char *name)
{
    for (size_t i = 0; i < sizeof tensor_endings / sizeof *tensor_endings; i++)
        if (saei_ends_with(name, tensor_endings[i]))
            return true;
    return false;
}

/* Is this the file that the option layer means: its name, its name without the ending, or with its number ("layer#.sae.pt", "layer_#.pt")? */
static bool is_layer(const char *name, const char *layer)
{
    static const char *const forms[] = {"%s", "%s%s", "layer%s%s", "layer_%s%s", "layer%s.sae%s"};
    char want[128];
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        for (size_t k = 0; k < sizeof tensor_endings / sizeof *tensor_endings; k++) {
            const char *ending = tensor_endings[k];
            const int n = i == 0   ? snprintf(want, sizeof want, "%s", layer)
                          : i == 1 ? snprintf(want, sizeof want, "%s%s", layer, ending)
                          : i == 2 ? snprintf(want, sizeof want, "layer%s%s", layer, ending)
                          : i == 3 ? snprintf(want, sizeof want, "layer_%s%s", layer, ending)
                                   : snprintf(want, sizeof want, "layer%s.sae%s", layer, ending);
            if (n > 0 && (size_t)n < sizeof want && strcmp(name, want) == 0)
                return true;
        }
    return false;
}

/* The one file of tensors in the folder, or the one that the option names. */
static sae_status lone_file(const char **out, const saei_source *s)
{
    const char *found = NULL;
    *out = NULL;
    for (uint32_t i = 0; i < s->n_names; i++) {
        const char *name = s->names[i];
        if (!is_tensor_file(name) || (s->opt->layer && !is_layer(name, s->opt->layer)))
            continue;
        if (found)
            return saei_fail(s->err, SAE_E_UNSUPPORTED,
                             "the folder holds %s and %s: open the file that is meant, or name it with the option layer: %s", found, name,
                             s->path);
        found = name;
    }
    *out = found;
    return SAE_OK;
}

static sae_status nothing_here(const saei_source *s)
{
    static const char *const lonely[] = {"sae_weights.safetensors", "cfg.json", "sae.safetensors", "config.json", "config.yaml",
                                         "hyperparams.json",        "conf.yaml"};
    for (size_t i = 0; i < sizeof lonely / sizeof *lonely; i++)
        if (saei_source_has(s, lonely[i]))
            return saei_fail(
                s->err, SAE_E_IO,
                "the folder holds %s but not the other file that makes an SAE (docs/formats.md lists which belong together): %s", lonely[i],
                s->path);
    return saei_fail(s->err, SAE_E_IO, "the folder holds no SAE of a format that is known (docs/formats.md lists them)%s: %s",
                     s->n_names ? ": one of its folders may, open that one or name it with the option layer" : "", s->path);
}

/* ---- files ---- */

static bool has(const saei_source *s, const char *name)
{
    return saei_store_find(&s->store, name) != NULL;
}

static bool has_all(const saei_source *s, const char *const *names)
{
    for (; *names; names++)
        if (!has(s, *names))
            return false;
    return true;
}

/* "gpt2-small_L2_Hcat_z.pt" -> "gpt2-small_L2_Hcat_z_cfg.json". */
static bool has_own_config(const saei_source *s)
{
    char name[256];
    const char *dot = strrchr(s->named, '.');
    const int n = dot ? snprintf(name, sizeof name, "%.*s_cfg.json", (int)(dot - s->named), s->named) : -1;
    return n > 0 && (size_t)n < sizeof name && saei_source_has(s, name);
}

/* By the tensors; in this order, since some sets contain others. */
static const struct keys {
    const char *names[5];
    const saei_format *format;
} keys[] = {{{"pre_bias", "latent_bias"}, &openai},
            {{"encoder_linear.weight", "decoder_linear.weight"}, &goodfire},
            {{"encoder.0.weight", "decoder.weight"}, &apollo},
            {{"gate_bias", "mag_bias", "encoder.weight"}, &dictionary_learning},
            {{"group_sizes", "W_enc"}, &dictionary_learning},
            {{"encoder.weight", "bias", "decoder.weight"}, &dictionary_learning},
            {{"encoder.weight", "decoder.weight", "b_dec"}, &dictionary_learning},
            {{"encoder.weight", "W_dec"}, &sparsify},
            {{"w_enc", "w_dec", "threshold"}, &gemma_scope_2},
            {{"encoder.weight", "decoder.weight", "decoder.bias"}, &deepseek}};

static const saei_format *by_tensors(const saei_source *s)
{
    const bool npz = saei_ends_with(s->named, ".npz");
    const saei_array *encoder = saei_store_find(&s->store, "encoder.weight");
    if (saei_ends_with(s->named, ".gguf"))
        return &saelens_gguf;
    if (saei_ends_with(s->named, ".sae"))
        return &sae_file;
    if (npz && (has(s, "W_enc") || has(s, "w_enc")))
        return &gemma_scope;
    if (fits("layer#.sae.pt", s->named))
        return &qwen_scope;
    if (encoder && encoder->n_dims == 3) /* a crosscoder */
        return &dictionary_learning;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (has_all(s, keys[i].names))
            return keys[i].format;
    return has(s, "W_enc") && has(s, "W_dec") && has_own_config(s) ? &connor_rob : NULL;
}

static sae_status unknown_file(const saei_source *s)
{
    if (has(s, "W_E") || has(s, "log_jumprelu_threshold"))
        return saei_fail(
            s->err, SAE_E_IO,
            "%s is weights of llamascopium or Llama Scope without the config.json that says what they are: put the two into one folder",
            s->named);
    if (saei_source_has(s, "cfg.json"))
        return saei_fail(
            s->err, SAE_E_UNSUPPORTED,
            "%s lies beside a cfg.json, but is neither sae_weights.safetensors nor sae.safetensors: open the folder, or give the "
            "file that name",
            s->named);
    if ((has(s, "W_enc") && has(s, "W_dec")) || strcmp(s->named, "sae_weights.safetensors") == 0)
        return saei_fail(s->err, SAE_E_IO,
                         "%s is weights without a cfg.json beside it, which says the architecture: put the two into one folder", s->named);
    return saei_fail(s->err, SAE_E_UNSUPPORTED, "%s holds no tensors of a format that is known (docs/formats.md lists them)", s->named);
}

/* Configurations that were named instead of their folder. */
static bool is_config(const char *name)
{
    return saei_ends_with(name, ".json") || saei_ends_with(name, ".yaml") || saei_ends_with(name, ".yml");
}

static sae_status by_content(const saei_format **out, saei_source *s)
{
    if (is_config(s->named))
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "%s alone is no checkpoint, open the folder it lies in: %s", s->named, s->path);
    if (!is_tensor_file(s->named))
        return saei_fail(s->err, SAE_E_UNSUPPORTED,
                         "this is neither a folder nor a file of tensors (.sae, .safetensors, .npz, .pt, .pth, .bin, .gguf): %s", s->path);
    const sae_status status = saei_source_tensors(s, s->named);
    if (status)
        return status;
    saei_source_strip(s, "sae.");
    saei_source_strip(s, "ae.");
    *out = by_tensors(s);
    return *out ? SAE_OK : unknown_file(s);
}

sae_status saei_detect(const saei_format **out, saei_source *s)
{
    sae_status status = by_names(out, s);
    if (status || *out)
        return status;
    if (!*s->named) {
        const char *file;
        if ((status = lone_file(&file, s)))
            return status;
        if (!file)
            return nothing_here(s);
        s->named = file;
        if ((status = by_names(out, s)) || *out)
            return status;
    }
    return by_content(out, s);
}
