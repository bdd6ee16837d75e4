/* Parts -> the cfg.json of sae-lens 6, as SAE.save_model writes it. */
#include <string.h>

#include "io/json.h"
#include "save/saelens.h"

/* The sae-lens whose layout this is. */
static const char version[] = "6.54.12";

static const char *text_of(const saei_save *s, int32_t what)
{
    const char *text = s->parts->texts[what];
    return text ? text : "";
}

/* ---- what sae-lens can say ---- */

static sae_status refuse(const saei_save *s, const char *what)
{
    return saei_fail(s->err, SAE_E_UNSUPPORTED, "%s, which sae-lens has no word for: a .sae file keeps it", what);
}

bool saei_saelens_tied(const saei_parts *p)
{
    const saei_matrix *enc = &p->enc[0].w.m, *dec = &p->dec[0].w.m;
    return enc->data == dec->data && enc->by_cols == dec->by_cols;
}

static bool has_norm(const saei_parts *p)
{
    return p->norm != SAE_NORM_NONE;
}

/* Only a transcoder writes elsewhere than it reads, has a skip, or leaves its output normalised. */
static bool must_transcode(const saei_parts *p)
{
    return p->d_in != p->d_out || p->n_skip || (has_norm(p) && p->norm_in_only);
}

/* One that could be an SAE is called a transcoder when it names another hook point and nothing speaks against it. */
static bool is_transcoder(const saei_save *s)
{
    const saei_parts *p = s->parts;
    const bool could = (p->arch == SAE_STANDARD || p->arch == SAE_JUMPRELU) && !p->apply_b_dec && !has_norm(p);
    return must_transcode(p) || (could && *text_of(s, SAE_TEXT_HOOK_NAME_OUT));
}

static sae_status check_transcoder(const saei_save *s)
{
    const saei_parts *p = s->parts;
    if (p->arch != SAE_STANDARD && p->arch != SAE_JUMPRELU)
        return saei_fail(s->err, SAE_E_UNSUPPORTED,
                         "this is a transcoder that is %s, sae-lens has standard and jumprelu ones: a .sae file keeps it",
                         sae_arch_name(p->arch));
    if (p->apply_b_dec)
        return refuse(s, "this transcoder subtracts b_dec from its input");
    if (has_norm(p) && !p->norm_in_only)
        return refuse(s, "this transcoder un-normalises its output");
    if (p->n_skip > 1 || (p->n_skip && (p->skip[0].w.m.n != p->d_out || p->skip[0].w.m.d != p->d_in)))
        return refuse(s, "the skip of this transcoder covers a part of its rows");
    return SAE_OK;
}

/* A factor is no part of cfg.json, but for temporal SAEs; a factor of 1 is what sae-lens takes an absent one for. */
static sae_status check_norm(const saei_save *s)
{
    const saei_parts *p = s->parts;
    const bool plain = p->norm_scaling_factor == 1.0f && p->norm_out_factor == 1.0f;
    if (p->norm != SAE_NORM_SCALE || plain)
        return SAE_OK;
    if (p->arch != SAE_TEMPORAL)
        return saei_fail(
            s->err, SAE_E_UNSUPPORTED,
            "rows are scaled by %g first; sae-lens keeps that factor outside the checkpoint, and folding it in would round: a .sae "
            "file keeps it",
            (double)p->norm_scaling_factor);
    return p->norm_out_factor == 1.0f / p->norm_scaling_factor ? SAE_OK : refuse(s, "output is scaled by another factor than input");
}

static bool adds_b_dec(const saei_parts *p)
{
    bool any = false;
    for (int32_t i = 0; p->b_dec && i < p->d_out && !any; i++)
        any = p->b_dec[i] != 0.0f;
    return any;
}

static sae_status check_tied(const saei_save *s)
{
    const saei_parts *p = s->parts;
    if (p->b_enc)
        return refuse(s, "this SAE has a b_enc");
    if (p->arch == SAE_MATCHING_PURSUIT && !saei_saelens_tied(p))
        return refuse(s, "this matching pursuit has an encoder of its own");
    if (!saei_saelens_tied(p) && !p->apply_b_dec)
        return refuse(s, "this temporal SAE has an encoder of its own and does not subtract b_dec");
    return p->apply_b_dec || !adds_b_dec(p) ? SAE_OK : refuse(s, "this SAE adds a b_dec that it does not subtract");
}

static sae_status check_arch(const saei_save *s)
{
    const saei_parts *p = s->parts;
    if (p->arch == SAE_GROUPMAX)
        return refuse(s, "this is a groupmax SAE");
    if (p->keeps_negative && p->arch != SAE_ABSTOPK)
        return refuse(s, "codes of this SAE may be negative");
    if (p->returns_unscaled)
        return refuse(s, "this SAE selects by h times the decoder norm, but returns h");
    if (p->rescale_by_decoder_norm && p->arch != SAE_TOPK)
        return refuse(s, "this SAE rescales by the decoder norm without being top-k");
    return p->arch == SAE_MATCHING_PURSUIT || p->arch == SAE_TEMPORAL ? check_tied(s) : SAE_OK;
}

sae_status saei_saelens_name(const char **out, const saei_save *s)
{
    const saei_parts *p = s->parts;
    const bool jumps = p->arch == SAE_JUMPRELU;
    sae_status status;
    *out = sae_arch_name(p->arch);
    if ((status = saei_save_plain(s, "sae-lens")) || (status = check_arch(s)) || (status = check_norm(s)) || !is_transcoder(s))
        return status;
    *out = p->n_skip ? jumps ? "jumprelu_skip_transcoder" : "skip_transcoder" : jumps ? "jumprelu_transcoder" : "transcoder";
    return check_transcoder(s);
}

/* ---- the text ---- */

static void key(saei_text *t, const char *name)
{
    saei_text_add(t, ", ");
    saei_text_quoted(t, name);
    saei_text_add(t, ": ");
}

static void add_bool(saei_text *t, const char *name, bool value)
{
    key(t, name);
    saei_text_add(t, value ? "true" : "false");
}

static void add_int(saei_text *t, const char *name, int64_t value)
{
    key(t, name);
    saei_text_int(t, value);
}

static void add_string(saei_text *t, const char *name, const char *value)
{
    key(t, name);
    saei_text_quoted(t, value);
}

/* A text, or null. */
static void add_text(saei_text *t, const char *name, const char *value)
{
    if (*value)
        add_string(t, name, value);
    else {
        key(t, name);
        saei_text_add(t, "null");
    }
}

static const char *dtype_name(const saei_save *s)
{
    const sae_dtype dec = saei_save_dtype(s, &s->parts->dec[0].w.m), enc = saei_save_dtype(s, &s->parts->enc[0].w.m);
    return dec != enc || dec == SAE_F32 ? "float32" : dec == SAE_F16 ? "float16" : "bfloat16";
}

static const char *norm_name(const saei_parts *p)
{
    return p->arch == SAE_TEMPORAL && p->norm == SAE_NORM_SCALE ? "constant_scalar_rescale" : sae_norm_name(p->norm);
}

static void add_topk(saei_text *t, const saei_parts *p)
{
    add_int(t, "k", p->k);
    if (p->arch == SAE_TOPK)
        add_bool(t, "rescale_acts_by_decoder_norm", p->rescale_by_decoder_norm);
}

static void add_pursuit(saei_text *t, const saei_parts *p)
{
    key(t, "residual_threshold");
    saei_text_float(t, p->residual_threshold);
    add_int(t, "max_iterations", p->k);
    add_bool(t, "stop_on_duplicate_support", p->stops_on_repeat);
}

static void add_temporal(saei_text *t, const saei_parts *p)
{
    add_int(t, "n_heads", p->n_heads);
    add_int(t, "n_attn_layers", p->n_attention);
    add_int(t, "bottleneck_factor", p->n_attention ? p->d_sae / p->attention[0].k_ctx.w.m.n : 1);
    add_string(t, "sae_diff_type", p->k ? "topk" : "relu");
    if (p->k)
        add_int(t, "kval_topk", p->k);
    add_bool(t, "tied_weights", saei_saelens_tied(p));
    key(t, "activation_normalization_factor");
    saei_text_float(t, p->norm == SAE_NORM_SCALE ? p->norm_scaling_factor : 1.0f);
}

static void add_by_arch(saei_text *t, const saei_save *s)
{
    const saei_parts *p = s->parts;
    if (p->arch == SAE_TOPK || p->arch == SAE_ABSTOPK)
        add_topk(t, p);
    else if (p->arch == SAE_MATCHING_PURSUIT)
        add_pursuit(t, p);
    else if (p->arch == SAE_TEMPORAL)
        add_temporal(t, p);
    if (is_transcoder(s))
        add_int(t, "d_out", p->d_out);
}

/* ---- what an SAE of sae-lens says of itself is kept as it is ---- */

/* Bytes of the JSON object at `text`, which has been read: the brackets outside strings balance. */
static size_t object_bytes(const char *text)
{
    size_t n = 0, depth = 0;
    bool quoted = false;
    do {
        if (quoted && text[n] == '\\')
            n++;
        else if (text[n] == '"')
            quoted = !quoted;
        else if (!quoted)
            depth += (text[n] == '{') - (size_t)(text[n] == '}');
        n++;
    } while (depth);
    return n;
}

/* Is this the metadata of sae-lens 6 or later? */
static bool is_metadata(const saei_json *json, uint32_t at)
{
    const char *of = saei_json_string(json, saei_json_member(json, at, "sae_lens_version"));
    return of && of[0] >= '6' && of[0] <= '9' && of[1] == '.';
}

static void add_known_metadata(saei_text *t, const saei_save *s)
{
    key(t, "metadata");
    saei_text_add(t, "{\"sae_lens_version\": ");
    saei_text_quoted(t, version);
    add_text(t, "model_name", text_of(s, SAE_TEXT_MODEL_NAME));
    add_text(t, "hook_name", text_of(s, SAE_TEXT_HOOK_NAME));
    if (*text_of(s, SAE_TEXT_HOOK_NAME_OUT))
        add_text(t, "hook_name_out", text_of(s, SAE_TEXT_HOOK_NAME_OUT));
    saei_text_add(t, "}");
}

/* hook_z gives its heads apart, and sae-lens flattens them when told so. */
static void add_reshape(saei_text *t, const saei_save *s, const char *stored)
{
    const char *hook = text_of(s, SAE_TEXT_HOOK_NAME);
    while (*hook && strncmp(hook, "hook_z", strlen("hook_z")) != 0)
        hook++;
    const bool heads = *hook && !is_transcoder(s);
    add_string(t, "reshape_activations", stored ? stored : heads ? "hook_z" : "none");
}

static sae_status add_metadata(saei_text *t, const saei_save *s)
{
    const char *config = text_of(s, SAE_TEXT_CONFIG);
    saei_json json = {0};
    sae_error ignored = {.struct_size = sizeof ignored};
    const sae_status status = saei_json_parse(&json, s->host, config, strlen(config), "the configuration", &ignored);
    const uint32_t at = status ? 0 : saei_json_member(&json, 0, "metadata");
    const bool kept = at && json.v[at].type == SAEI_JSON_OBJECT && is_metadata(&json, at);
    if (status != SAE_E_NOMEM) {
        add_reshape(t, s, kept ? saei_json_string(&json, saei_json_member(&json, 0, "reshape_activations")) : NULL);
        if (kept) {
            key(t, "metadata");
            saei_text_bytes(t, config + json.v[at].at, object_bytes(config + json.v[at].at));
        } else
            add_known_metadata(t, s);
    }
    saei_json_free(&json, s->host);
    return status == SAE_E_NOMEM ? saei_fail(s->err, status, "no memory to read the configuration of %s", s->path) : SAE_OK;
}

sae_status saei_saelens_text(saei_text *out, saei_save *s, const char *architecture)
{
    const saei_parts *p = s->parts;
    if (!saei_text_start(out, s))
        return SAE_E_NOMEM;
    saei_text_add(out, "{\"d_in\": ");
    saei_text_int(out, p->d_in);
    add_int(out, "d_sae", p->d_sae);
    add_string(out, "dtype", dtype_name(s));
    add_string(out, "device", "cpu");
    add_bool(out, "apply_b_dec_to_input", p->apply_b_dec);
    add_string(out, "normalize_activations", norm_name(p));
    const sae_status status = add_metadata(out, s);
    if (status)
        return status;
    add_by_arch(out, s);
    add_string(out, "architecture", architecture);
    saei_text_add(out, "}\n");
    return out->text ? SAE_OK : saei_fail(s->err, SAE_E_NOMEM, "no memory for the cfg.json of %s", s->path);
}
