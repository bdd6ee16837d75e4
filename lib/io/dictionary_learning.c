/* dictionary_learning 0.1 (saprmarks): config.json + ae.pt; and the fork crosscoder_learning (science-of-finetuning), whose SAEs carry a
 * normaliser and whose crosscoders read and write several hook points. Trainers write a wrong dict_class, so the tensors decide. */
#include <math.h>
#include <string.h>

#include "io/formats.h"

typedef struct setting {
    const char *dict_class; /* NULL when nothing says it */
    const char *normalization;
    int32_t k; /* 0: not said */
} setting;

static const char *const classes[] = {"AutoEncoder",        "AutoEncoderNew", "GatedAutoEncoder",       "JumpReluAutoEncoder",
                                      "AutoEncoderTopK",    "BatchTopKSAE",   "MatryoshkaBatchTopKSAE", "CrossCoder",
                                      "BatchTopKCrossCoder"};

static sae_status check_class(const saei_source *s, const char *name)
{
    char shown[SAEI_SHOWN];
    for (size_t i = 0; name && i < sizeof classes / sizeof *classes; i++)
        if (strcmp(name, classes[i]) == 0)
            return SAE_OK;
    return !name ? SAE_OK
                 : saei_fail(
                       s->err, SAE_E_UNSUPPORTED,
                       "config.json: dict_class \"%s\" is not known (AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder, "
                       "AutoEncoderTopK, BatchTopKSAE, MatryoshkaBatchTopKSAE, CrossCoder, BatchTopKCrossCoder are)",
                       saei_show(shown, name));
}

/* Beside the weights, or above them: training.py writes checkpoints/ae_1000.pt. */
static const char *config_of(const saei_source *s)
{
    static const char below[] = "checkpoints";
    const size_t n = strlen(s->folder), tail = strlen(below);
    if (saei_source_has(s, "config.json"))
        return "config.json";
    return n >= tail && strcmp(s->folder + n - tail, below) == 0 && saei_source_has(s, "../config.json") ? "../config.json" : NULL;
}

/* The settings lie under "trainer", or at the top when the Hugging Face mixin wrote the file. */
static sae_status read_config(saei_source *s, setting *out)
{
    const char *model = NULL, *hook = NULL;
    sae_status status;
    *out = (setting){0};
    const char *config = config_of(s);
    if (!config)
        return SAE_OK;
    if ((status = saei_source_config(s, config)))
        return status;
    const uint32_t at = saei_json_member(&s->config, 0, "trainer");
    if ((status = saei_config_text(&out->dict_class, s, at, "dict_class")) || (status = check_class(s, out->dict_class)) ||
        (status = saei_config_text(&out->normalization, s, at, "code_normalization")) ||
        (status = saei_config_text(&model, s, at, "lm_name")) || (status = saei_config_text(&hook, s, at, "submodule_name")))
        return status;
    if (saei_json_member(&s->config, at, "k") && (status = saei_config_size(&out->k, s, at, "k")))
        return status;
    if ((status = saei_set_text(s, SAE_TEXT_ARCHITECTURE, out->dict_class)) || (status = saei_set_text(s, SAE_TEXT_MODEL_NAME, model)))
        return status;
    return saei_set_text(s, SAE_TEXT_HOOK_NAME, hook);
}

static bool has(const saei_source *s, const char *name)
{
    return saei_store_find(&s->store, name) != NULL;
}

/* encoder.weight [d_sae][d_in] and decoder.weight [d_out][d_sae], or W_enc [d_in][d_sae] and W_dec [d_sae][d_out]. */
static sae_status read_matrices(saei_source *s)
{
    const bool linear = has(s, "encoder.weight");
    const char *enc_name = linear ? "encoder.weight" : "W_enc", *dec_name = linear ? "decoder.weight" : "W_dec";
    int32_t n = 0, d = 0;
    saei_tensor enc, dec;
    sae_status status;
    s->sizes_from = linear ? "encoder.weight says" : "W_enc says";
    if ((status = linear ? saei_take_shape(&n, &d, s, enc_name) : saei_take_shape(&d, &n, s, enc_name)) ||
        (status = saei_take_matrix(&enc, s, enc_name, !linear, n, "d_sae", d, "d_in")) ||
        (status = saei_take_matrix(&dec, s, dec_name, linear, n, "d_sae", d, "d_in")) || (status = saei_set_matrices(s, &enc, &dec)))
        return status;
    return SAE_OK;
}

static sae_status read_bias(saei_source *s, float **out, const char *name)
{
    return saei_take_vector(out, s, name, s->parts->d_sae, "d_sae");
}

static sae_status read_gated(saei_source *s)
{
    saei_parts *p = s->parts;
    sae_status status;
    p->arch = SAE_GATED;
    p->apply_b_dec = true;
    if ((status = read_bias(s, &p->b_gate, "gate_bias")) || (status = read_bias(s, &p->b_mag, "mag_bias")) ||
        (status = read_bias(s, &p->r_mag, "r_mag")))
        return status;
    return saei_take_vector(&p->b_dec, s, "decoder_bias", p->d_in, "d_in");
}

/* k of the file and k of config.json, which must agree. */
static sae_status read_k(saei_source *s, const setting *c)
{
    int64_t stored = 0;
    const sae_status status = saei_take_count(&stored, s, "k");
    if (status)
        return status;
    if (stored && c->k && stored != c->k)
        return saei_fail(s->err, SAE_E_FORMAT, "config.json says k = %d, %s says k = %lld: they belong to different SAEs", (int)c->k,
                         s->file, (long long)stored);
    return saei_set_k(s, stored ? stored : c->k);
}

/* The tensors of a top-k and of a batch top-k are the same: the class, or the caller, says which it is. */
static sae_status read_selecting(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    const char *arch = s->opt->architecture;
    const bool topk = arch ? strcmp(arch, "topk") == 0 : c->dict_class && strcmp(c->dict_class, "AutoEncoderTopK") == 0;
    const bool batch = arch ? strcmp(arch, "jumprelu") == 0 : c->dict_class && strcmp(c->dict_class, "BatchTopKSAE") == 0;
    sae_status status;
    p->apply_b_dec = true;
    if (!topk && !batch)
        return saei_fail(
            s->err, SAE_E_FORMAT,
            "%s may be an AutoEncoderTopK or a BatchTopKSAE and no config.json says which: the option architecture = topk or jumprelu does",
            s->file);
    if ((status = read_bias(s, &p->b_enc, "encoder.bias")) || (status = saei_take_vector(&p->b_dec, s, "b_dec", p->d_in, "d_in")))
        return status;
    p->arch = topk ? SAE_TOPK : SAE_JUMPRELU;
    return topk ? read_k(s, c) : saei_take_filled(&p->threshold, s, "threshold", p->d_sae);
}

/* JumpReluAutoEncoder and MatryoshkaBatchTopKSAE: the latter centres, and has one threshold for all. */
static sae_status read_params(saei_source *s)
{
    saei_parts *p = s->parts;
    const bool matryoshka = has(s, "group_sizes");
    sae_status status;
    p->arch = SAE_JUMPRELU;
    p->apply_b_dec = matryoshka;
    if ((status = read_bias(s, &p->b_enc, "b_enc")) || (status = saei_take_vector(&p->b_dec, s, "b_dec", p->d_in, "d_in")))
        return status;
    return matryoshka ? saei_take_filled(&p->threshold, s, "threshold", p->d_sae) : read_bias(s, &p->threshold, "threshold");
}

/* AutoEncoder subtracts its bias, AutoEncoderNew does not and calls it decoder.bias. */
static sae_status read_relu(saei_source *s)
{
    saei_parts *p = s->parts;
    p->arch = SAE_STANDARD;
    p->apply_b_dec = has(s, "bias");
    const sae_status status = read_bias(s, &p->b_enc, "encoder.bias");
    return status ? status : saei_take_vector(&p->b_dec, s, p->apply_b_dec ? "bias" : "decoder.bias", p->d_in, "d_in");
}

/* ---- crosscoder_learning ---- */

/* The buffers of the normaliser, of `layers` hook points of width d; NaN in them stands for none. */
static sae_status read_normaliser(saei_source *s, int32_t layers, int32_t d)
{
    saei_parts *p = s->parts;
    const saei_array *mean = saei_store_find(&s->store, "activation_mean"), *scale = saei_store_find(&s->store, "activation_global_scale");
    float *shift, *by, *in_scale, *out_scale;
    bool absent = false, finite = true;
    sae_status status;
    if (!mean || !scale)
        return SAE_OK;
    if ((status = saei_take_raw(&shift, s, mean, p->d_in)) || (status = saei_take_raw(&by, s, scale, layers)) ||
        (status = saei_make_vector(&in_scale, s, p->d_in)) || (status = saei_make_vector(&out_scale, s, p->d_in)))
        return status;
    for (int32_t i = 0; i < p->d_in; i++) {
        in_scale[i] = by[i / d];
        out_scale[i] = (float)(1.0 / ((double)by[i / d] + 1e-8));
        absent |= isnan(shift[i]) || isnan(by[i / d]);
        finite &= isfinite(shift[i]) && isfinite(in_scale[i]) && isfinite(out_scale[i]);
    }
    if (absent)
        return SAE_OK;
    if (!finite)
        return saei_fail(s->err, SAE_E_FORMAT, "%s: the activation normaliser is not finite: the checkpoint is damaged", s->file);
    p->norm = SAE_NORM_AFFINE;
    p->in_shift = p->out_shift = shift;
    p->in_scale = in_scale;
    p->out_scale = out_scale;
    return SAE_OK;
}

/* What a code of the batch top-k is multiplied by before it is held against the threshold: the lengths of its decoder rows, summed over the
 * hook points (CROSSCODER) or of all of them as one row (SAE). */
static sae_status code_scale(saei_source *s, const setting *c, int32_t layers, float *out)
{
    const saei_parts *p = s->parts;
    double id = 0.0;
    sae_status status = SAE_OK;
    if (!c->normalization && has(s, "code_normalization_id"))
        status = saei_take_number(&id, s, "code_normalization_id");
    if (status)
        return status;
    const char *name = c->normalization ? c->normalization : id == 1.0 ? "CROSSCODER" : id == 2.0 ? "SAE" : "";
    const bool sum = strcmp(name, "CROSSCODER") == 0, joint = strcmp(name, "SAE") == 0;
    if (!sum && !joint)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "%s: code_normalization \"%.40s\" (id %g) is neither CROSSCODER nor SAE", s->file, name,
                         id);
    for (int32_t j = 0; j < p->d_sae; j++) {
        double total = 0.0;
        for (int32_t i = 0; i < layers; i++) {
            const double square = saei_matrix_row_square(&p->dec[i].w.m, j);
            total += sum ? sqrt(square) : square;
        }
        out[j] = (float)(sum ? total : sqrt(total));
    }
    return SAE_OK;
}

/* p * c > threshold is p > threshold / c. */
static sae_status read_cross_threshold(saei_source *s, const setting *c, int32_t layers)
{
    saei_parts *p = s->parts;
    float *scale;
    sae_status status;
    if (!has(s, "threshold"))
        return SAE_OK;
    p->arch = SAE_JUMPRELU;
    if ((status = saei_take_filled(&p->threshold, s, "threshold", p->d_sae)) || (status = saei_make_vector(&scale, s, p->d_sae)) ||
        (status = code_scale(s, c, layers, scale)))
        return status;
    for (int32_t j = 0; j < p->d_sae; j++)
        p->threshold[j] = saei_threshold_over(p->threshold[j], scale[j]);
    return SAE_OK;
}

/* encoder.weight [layers][d][n], decoder.weight [layers][n][d], decoder.bias [layers][d]. */
static sae_status read_crosscoder(saei_source *s, const setting *c)
{
    saei_parts *p = s->parts;
    const saei_array *w_enc, *w_dec, *b_dec;
    saei_array joined, bias;
    saei_tensor enc;
    sae_status status;
    if ((status = saei_take_array(&w_enc, s, "encoder.weight")) || (status = saei_take_array(&w_dec, s, "decoder.weight")) ||
        (status = saei_take_array(&b_dec, s, "decoder.bias")))
        return status;
    const int64_t layers = w_enc->shape[0], d = w_enc->shape[1], n = w_enc->shape[2];
    if (layers < 1 || d < 1 || n < 1 || n > INT32_MAX || d > INT32_MAX / layers || w_dec->n_dims != 3 || w_dec->shape[0] != layers ||
        !saei_view_join(&joined, w_enc) || !saei_view_join(&bias, b_dec))
        return saei_fail(s->err, SAE_E_FORMAT,
                         "%s: encoder.weight, decoder.weight and decoder.bias are not [layers][d][n], [layers][n][d], "
                         "[layers][d]",
                         s->file);
    p->arch = SAE_STANDARD;
    p->d_in = p->d_out = (int32_t)(layers * d);
    p->d_sae = (int32_t)n;
    p->n_in = p->n_out = (int32_t)layers;
    s->sizes_from = "encoder.weight says";
    if ((status = saei_take_view(&enc, s, &joined, true, p->d_sae, "d_sae", p->d_in, "d_in")) || (status = saei_add_block(s, 0, 0, &enc)))
        return status;
    for (int64_t i = 0; i < layers; i++) {
        const saei_array one = saei_view_at(w_dec, i);
        saei_segment g = {.n = p->d_sae, .out_first = (int32_t)(i * d), .row_step = 1};
        if ((status = saei_take_view(&g.w, s, &one, false, p->d_sae, "d_sae", (int32_t)d, "d")) || (status = saei_add_segment(s, &g)))
            return status;
    }
    if ((status = read_bias(s, &p->b_enc, "encoder.bias")) || (status = saei_take_view_vector(&p->b_dec, s, &bias, p->d_out, "d_out")) ||
        (status = read_normaliser(s, (int32_t)layers, (int32_t)d)))
        return status;
    return read_cross_threshold(s, c, (int32_t)layers);
}

/* ---- the whole ---- */

/* A checkpoint of a training run: the only one, or the one that the option layer names ("ae_1000", "1000"). */
static sae_status find_step(saei_source *s)
{
    const char *found = NULL, *layer = s->opt->layer;
    for (uint32_t i = 0; i < s->n_names; i++) {
        const char *name = s->names[i];
        const int32_t step = saei_number_in(name, "ae_", ".pt");
        const bool wanted =
            !layer || strcmp(layer, name) == 0 || saei_number_in(layer, "ae_", "") == step || saei_number_in(layer, "", "") == step;
        if (step < 0 || !wanted)
            continue;
        if (found)
            return saei_fail(s->err, SAE_E_ARG, "the folder holds %s and %s: open the file that is meant, or name it with the option layer",
                             found, name);
        found = name;
    }
    if (!found)
        return saei_fail(s->err, SAE_E_ARG, "the option layer = \"%.40s\" is none of the checkpoints in %s", layer ? layer : "", s->path);
    s->named = found;
    return SAE_OK;
}

static sae_status find_weights(saei_source *s)
{
    static const char *const names[] = {"ae.pt", "model_final.pt", "model.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names && !*s->named; i++)
        if (saei_source_has(s, names[i]))
            s->named = names[i];
    return *s->named ? SAE_OK : find_step(s);
}

static sae_status read_one(saei_source *s, const setting *c)
{
    sae_status status = read_matrices(s);
    if (status)
        return status;
    if (has(s, "gate_bias"))
        return read_gated(s);
    if (has(s, "W_enc"))
        return read_params(s);
    if (!has(s, "b_dec"))
        return read_relu(s);
    status = read_selecting(s, c);
    return status ? status : read_normaliser(s, 1, s->parts->d_in);
}

sae_status saei_read_dictionary_learning(saei_source *s)
{
    setting c;
    s->what = "a dictionary_learning SAE";
    sae_status status = read_config(s, &c);
    if (status || (status = find_weights(s)) || (status = saei_source_tensors(s, s->named)))
        return status;
    saei_source_strip(s, "ae.");
    const saei_array *enc = saei_store_find(&s->store, "encoder.weight");
    return enc && enc->n_dims == 3 ? read_crosscoder(s, &c) : read_one(s, &c);
}
