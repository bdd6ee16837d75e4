/* SAELens folders: cfg.json + sae_weights.safetensors (sae-lens 3 to 6.54). */
#include "io/saelens.h"

#include <math.h>
#include <string.h>

#include "io/formats.h"

/* ---- what an architecture has ---- */

/* Training checkpoints of older sae-lens hold the logarithm. */
static sae_status read_threshold(saei_source *s, const saei_saelens *c)
{
    static const char log_name[] = "log_threshold";
    float **out = &s->parts->threshold;
    if (!saei_store_find(&s->store, log_name))
        return saei_take_vector(out, s, "threshold", c->d_sae, "d_sae");
    if (saei_store_find(&s->store, "threshold"))
        return saei_fail(s->err, SAE_E_FORMAT, "%s has both threshold and %s: it does not say which one holds", s->file, log_name);
    const sae_status status = saei_take_vector(out, s, log_name, c->d_sae, "d_sae");
    return status ? status : saei_exp_vector(s, *out, c->d_sae, log_name);
}

static sae_status read_vectors(saei_source *s, const saei_saelens *c)
{
    saei_parts *p = s->parts;
    const int32_t n = c->d_sae;
    sae_status status = saei_take_vector(&p->b_dec, s, "b_dec", c->d_out, c->d_out == c->d_in ? "d_in" : "d_out");
    if (status || c->arch == SAE_MATCHING_PURSUIT || c->arch == SAE_TEMPORAL)
        return status;
    if (c->arch == SAE_GATED) {
        if (!(status = saei_take_vector(&p->b_gate, s, "b_gate", n, "d_sae")) &&
            !(status = saei_take_vector(&p->b_mag, s, "b_mag", n, "d_sae")))
            status = saei_take_vector(&p->r_mag, s, "r_mag", n, "d_sae");
        return status;
    }
    status = saei_take_vector(&p->b_enc, s, "b_enc", n, "d_sae");
    return status || c->arch != SAE_JUMPRELU ? status : read_threshold(s, c);
}

static bool is_tied(const saei_saelens *c)
{
    return c->arch == SAE_MATCHING_PURSUIT || (c->arch == SAE_TEMPORAL && c->tied);
}

static sae_status read_matrices(saei_source *s, const saei_saelens *c)
{
    const char *d_out_name = c->d_out == c->d_in ? "d_in" : "d_out";
    saei_tensor enc, dec, skip;
    sae_status status;
    if (!is_tied(c) && (status = saei_take_matrix(&enc, s, "W_enc", true, c->d_sae, "d_sae", c->d_in, "d_in")))
        return status;
    if ((status = saei_take_matrix(&dec, s, "W_dec", false, c->d_sae, "d_sae", c->d_out, d_out_name)) ||
        (status = saei_set_matrices(s, is_tied(c) ? &dec : &enc, &dec)) || !c->skip)
        return status;
    status = saei_take_matrix(&skip, s, "W_skip", false, c->d_out, d_out_name, c->d_in, "d_in");
    return status ? status : saei_add_skip(s, 0, 0, &skip);
}

/* Factors for the rows of W_dec, from finetuning in sae-lens before 6. Files of some versions carry ones, to no effect. */
static sae_status read_scale(saei_source *s, const saei_saelens *c)
{
    static const char *const names[] = {"scaling_factor", "finetuning_scaling_factor"};
    const bool first = saei_store_find(&s->store, names[0]), second = saei_store_find(&s->store, names[1]);
    const char *name = names[second];
    float *scale = NULL;
    bool ones = true;
    if (first && second)
        return saei_fail(s->err, SAE_E_FORMAT, "%s has both %s and %s: it does not say which one holds", s->file, names[0], names[1]);
    if (!first && !second && c->finetuning_scale)
        return saei_warn(
            s, "cfg.json says finetuning_scaling_factor = true, but %s has no such tensor: the rows of W_dec are used as they are",
            s->file);
    if (!first && !second)
        return SAE_OK;
    const sae_status status = saei_take_vector(&scale, s, name, c->d_sae, "d_sae");
    if (status)
        return status;
    for (int32_t i = 0; i < c->d_sae && ones; i++)
        ones = fabsf(scale[i] - 1.0f) <= 1e-5f; /* as sae-lens decides it */
    if (!ones && !c->finetuning_scale)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: %s is not all ones, but cfg.json does not say finetuning_scaling_factor = true",
                         s->file, name);
    s->parts->dec_scale = ones ? NULL : scale;
    return SAE_OK;
}

static bool belongs(const char *name, const saei_saelens *c)
{
    const sae_arch arch = c->arch;
    const bool encoder = !is_tied(c), biased = arch != SAE_GATED && arch != SAE_MATCHING_PURSUIT && arch != SAE_TEMPORAL;
    const struct {
        const char *name;
        bool has;
    } known[] = {{"W_enc", encoder},
                 {"W_dec", true},
                 {"b_dec", true},
                 {"scaling_factor", true},
                 {"finetuning_scaling_factor", true},
                 {"b_enc", biased},
                 {"threshold", arch == SAE_JUMPRELU},
                 {"log_threshold", arch == SAE_JUMPRELU},
                 {"b_gate", arch == SAE_GATED},
                 {"b_mag", arch == SAE_GATED},
                 {"r_mag", arch == SAE_GATED},
                 {"W_skip", c->skip}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0)
            return known[i].has;
    return arch == SAE_TEMPORAL && strncmp(name, "attn_layers.", strlen("attn_layers.")) == 0;
}

/* A tensor that the architecture does not use means that file and configuration disagree, as for sae-lens, whose load is strict. */
static sae_status check_extra(saei_source *s, const saei_saelens *c)
{
    char name[SAEI_SHOWN];
    for (uint32_t i = 0; i < s->store.n_arrays; i++) {
        if (belongs(s->store.arrays[i].name, c))
            continue;
        saei_show(name, s->store.arrays[i].name);
        if (!c->forced)
            return saei_fail(s->err, SAE_E_FORMAT, "%s has a tensor \"%s\", which a %s SAE does not have: cfg.json and weights disagree",
                             s->file, name, c->name);
        const sae_status status = saei_warn(s, "tensor \"%s\" is not used: the architecture was set to %s", name, c->name);
        if (status)
            return status;
    }
    return SAE_OK;
}

/* ---- the whole ---- */

static void take_config(saei_parts *p, const saei_saelens *c)
{
    p->arch = c->arch;
    p->norm = c->norm;
    p->norm_scaling_factor = c->norm_scaling_factor;
    p->norm_out_factor = 1.0f / c->norm_scaling_factor;
    p->norm_in_only = c->transcoder && c->norm != SAE_NORM_NONE; /* saes/transcoder.py: only the input is normalised */
    p->k = c->k;
    p->apply_b_dec = c->apply_b_dec;
    p->rescale_by_decoder_norm = c->rescale_by_decoder_norm;
    p->stops_on_repeat = c->stops_on_repeat;
    p->residual_threshold = c->residual_threshold;
}

static sae_status take_texts(saei_source *s, const saei_saelens *c)
{
    const struct {
        int32_t what;
        const char *text;
    } all[] = {{SAE_TEXT_FORMAT_VERSION, c->version},
               {SAE_TEXT_ARCHITECTURE, c->architecture},
               {SAE_TEXT_MODEL_NAME, c->model_name},
               {SAE_TEXT_HOOK_NAME, c->hook_name},
               {SAE_TEXT_HOOK_NAME_OUT, c->hook_name_out}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const sae_status status = saei_set_text(s, all[i].what, all[i].text);
        if (status)
            return status;
    }
    return SAE_OK;
}

sae_status saei_saelens_tensors(saei_source *s, const saei_saelens *c)
{
    sae_status status = saei_set_what(s, c->name);
    if (status)
        return status;
    take_config(s->parts, c);
    if ((status = read_matrices(s, c)) || (status = read_vectors(s, c)) || (status = read_scale(s, c)) || (status = check_extra(s, c)) ||
        (status = take_texts(s, c)))
        return status;
    if (c->arch == SAE_TEMPORAL && (status = saei_temporal_tensors(s, c->n_attention, c->n_heads, c->bottleneck)))
        return status;
    if (c->norm == SAE_NORM_SCALE && c->arch != SAE_TEMPORAL && s->opt->norm_scaling_factor == 0.0f)
        return saei_warn(s,
                         "normalize_activations is \"expected_average_only_in\", but nothing says by which factor: rows are used as they "
                         "are (the option norm_scaling_factor sets it)");
    return SAE_OK;
}

static sae_status read_config(saei_source *s, saei_saelens *c)
{
    const sae_status status = saei_source_config(s, "cfg.json");
    return status ? status : saei_saelens_config(c, s);
}

/* A weights file that was named itself is looked at first, so that its own defect is what is said; in a folder the configuration decides
 * what the weights must be. */
sae_status saei_read_saelens(saei_source *s)
{
    saei_saelens config;
    const bool bare = *s->named && !saei_ends_with(s->named, ".json"); /* the index of shards stands for its folder */
    const char *weights = bare ? s->named : "sae_weights.safetensors";
    s->sizes_from = "cfg.json says";
    sae_status status = bare ? SAE_OK : read_config(s, &config);
    if (status || (status = saei_source_shards(s, weights)))
        return status;
    if (bare && !saei_source_has(s, "cfg.json"))
        return saei_fail(s->err, SAE_E_IO,
                         "%s is weights without a cfg.json beside it, which says the architecture: put the two into one folder", weights);
    if (bare && (status = read_config(s, &config)))
        return status;
    return saei_saelens_tensors(s, &config);
}
