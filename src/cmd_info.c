/* sae info: what a file is, and whether its weights are sound. */
#include <math.h>
#include <stdlib.h>

#include "cmd.h"
#include "report.h"
#include "session.h"

static const option_desc options[] = {OPTION_JSON, {0}};

/* Everything that is not in sae_info already. */
typedef struct facts {
    sae_memory memory;
    size_t ctx_bytes;
    spread encoder_norm, decoder_norm; /* of the features' rows; of those that are finite */
    int64_t dead;                      /* features with an encoder or decoder row of zeros */
    int64_t nonfinite;                 /* features with a weight that is not finite */
    spread threshold;                  /* jumprelu */
    char fingerprint[33];
    bool checked;
} facts;

/* The norms of the rows of a tensor. */
static void norms_of(const session *s, int32_t tensor, int32_t d, float *norms, const char *path)
{
    enum { BLOCK = 256 };
    int64_t n = s->info.d_sae;
    float *block = take((size_t)BLOCK * (size_t)d, sizeof *block);
    progress p = progress_start("measuring", "features", n);
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t m = n - first < BLOCK ? n - first : BLOCK;
        sae_error err = {.struct_size = sizeof err};
        expect_ok(sae_model_read(s->model, tensor, first, m, block, &err), &err, path);
        for (int64_t i = 0; i < m; i++) {
            double square = 0;
            for (int32_t k = 0; k < d; k++) {
                double w = block[i * d + k];
                square += w * w;
            }
            norms[first + i] = (float)sqrt(square);
        }
        progress_at(&p, first + m);
    }
    progress_end(&p);
    free(block);
}

/* The spread of those that are finite: zeros, if none is. */
static spread spread_of_finite(float *v, int64_t n)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(v[i])) {
            v[kept++] = v[i];
        }
    }
    return kept > 0 ? spread_of(v, kept) : (spread){0};
}

static void measure(facts *f, const session *s, const char *path)
{
    int64_t n = s->info.d_sae;
    float *enc = take((size_t)n, sizeof *enc), *dec = take((size_t)n, sizeof *dec);
    norms_of(s, SAE_W_ENC, s->info.d_in, enc, path);
    norms_of(s, SAE_W_DEC, s->info.d_out, dec, path);
    for (int64_t i = 0; i < n; i++) {
        f->dead += enc[i] == 0.0f || dec[i] == 0.0f;
        f->nonfinite += !isfinite(enc[i]) || !isfinite(dec[i]);
    }
    f->encoder_norm = spread_of_finite(enc, n);
    f->decoder_norm = spread_of_finite(dec, n);
    free(enc);
    free(dec);
}

static spread thresholds(const session *s, const char *path)
{
    float *t = take((size_t)s->info.d_sae, sizeof *t);
    sae_error err = {.struct_size = sizeof err};
    expect_ok(sae_model_read(s->model, SAE_THRESHOLD, 0, s->info.d_sae, t, &err), &err, path);
    spread result = spread_of(t, s->info.d_sae);
    free(t);
    return result;
}

static facts gather(const session *s, const model_args *m, const char *path)
{
    facts f = {.memory = {.struct_size = sizeof f.memory}, .checked = m->open.check != SAE_NO};
    sae_error err = {.struct_size = sizeof err};
    if (f.checked) {
        progress p = progress_note("checking every weight");
        expect_ok(sae_model_check(s->model, &err), &err, path);
        progress_end(&p);
    }
    uint8_t fingerprint[16];
    expect_ok(sae_model_fingerprint(s->model, fingerprint, &err), &err, path);
    for (int i = 0; i < 16; i++) {
        snprintf(f.fingerprint + (ptrdiff_t)2 * i, 3, "%02x", fingerprint[i]);
    }
    expect_ok(sae_model_memory(s->model, &f.memory), &err, path);
    expect_ok(sae_ctx_bytes(s->model, NULL, &f.ctx_bytes), &err, path);
    measure(&f, s, path);
    if (s->info.arch == SAE_JUMPRELU) {
        f.threshold = thresholds(s, path);
    }
    return f;
}

/* What a careful user wants to know of the weights, beside the warnings of the file: sentences, at most NOTES of them. */
enum { NOTES = 4, NOTE = 160 };

static int notes_of(char notes[NOTES][NOTE], const session *s, const facts *f)
{
    const spread d = f->decoder_norm;
    const float factor = s->info.norm_scaling_factor;
    int n = 0;
    if (f->nonfinite > 0) {
        snprintf(notes[n++], NOTE, "%lld feature%s with weights that are not finite", (long long)f->nonfinite, f->nonfinite > 1 ? "s" : "");
    }
    if (f->dead > 0) {
        snprintf(notes[n++], NOTE, "%lld dead feature%s: the encoder or decoder row is zero", (long long)f->dead, f->dead > 1 ? "s" : "");
    }
    if (d.min < 0.99 || d.max > 1.01) {
        snprintf(notes[n++], NOTE, "decoder rows are not of unit norm: a code says how much a feature writes only times its norm");
    }
    if (factor > 1e3f || factor < 1e-3f) {
        snprintf(notes[n++], NOTE, "rows are scaled by %g first, which few SAEs need: see where the factor is from", (double)factor);
    }
    return n;
}

static json_t *spread_json(spread s)
{
    return json_pack("{s:o, s:o, s:o}", "min", report_number(s.min), "median", report_number(s.median), "max", report_number(s.max));
}

static void add_text(json_t *root, const char *key, const session *s, int32_t what)
{
    json_object_set_new(root, key, report_text(sae_model_text(s->model, what)));
}

static void add_model(json_t *root, const sae_info *i)
{
    json_object_set_new(root, "d_in", json_integer(i->d_in));
    json_object_set_new(root, "d_sae", json_integer(i->d_sae));
    json_object_set_new(root, "d_out", json_integer(i->d_out));
    json_object_set_new(root, "k", json_integer(i->k));
    json_object_set_new(root, "w_enc_dtype", json_string(sae_dtype_name(i->w_enc_dtype)));
    json_object_set_new(root, "w_dec_dtype", json_string(sae_dtype_name(i->w_dec_dtype)));
    json_object_set_new(root, "normalize_activations", json_string(sae_norm_name(i->norm)));
    json_object_set_new(root, "norm_scaling_factor", report_number(i->norm_scaling_factor));
    json_object_set_new(root, "apply_b_dec", json_boolean(i->apply_b_dec == SAE_YES));
    json_object_set_new(root, "rescale_by_decoder_norm", json_boolean(i->rescale_by_decoder_norm == SAE_YES));
    json_object_set_new(root, "n_in", json_integer(i->n_in));
    json_object_set_new(root, "n_out", json_integer(i->n_out));
    json_object_set_new(root, "n_blocks", json_integer(i->n_blocks));
    json_object_set_new(root, "has_skip", json_boolean(i->has_skip == SAE_YES));
    json_object_set_new(root, "keeps_negative", json_boolean(i->keeps_negative == SAE_YES));
    json_object_set_new(root, "norm_in_only", json_boolean(i->norm_in_only == SAE_YES));
    json_object_set_new(root, "returns_unscaled", json_boolean(i->returns_unscaled == SAE_YES));
    json_object_set_new(root, "stops_on_repeat", json_boolean(i->stops_on_repeat == SAE_YES));
    json_object_set_new(root, "residual_threshold", report_number((double)i->residual_threshold));
}

static void add_sentences(json_t *root, const session *s, const facts *f)
{
    json_t *warnings = json_array();
    for (int32_t w = 0; w < sae_model_n_warnings(s->model); w++) {
        json_array_append_new(warnings, report_text(sae_model_warning(s->model, w)));
    }
    json_object_set_new(root, "warnings", warnings);
    char sentences[NOTES][NOTE];
    json_t *notes = json_array();
    for (int note = 0, n = notes_of(sentences, s, f); note < n; note++) {
        json_array_append_new(notes, json_string(sentences[note]));
    }
    json_object_set_new(root, "notes", notes);
}

static void print_json(const session *s, const facts *f)
{
    const sae_info *i = &s->info;
    json_t *root = json_object();
    add_text(root, "path", s, SAE_TEXT_PATH);
    add_text(root, "format", s, SAE_TEXT_FORMAT);
    add_text(root, "format_version", s, SAE_TEXT_FORMAT_VERSION);
    json_object_set_new(root, "architecture", json_string(sae_arch_name(i->arch)));
    add_text(root, "stored_architecture", s, SAE_TEXT_ARCHITECTURE);
    add_text(root, "model_name", s, SAE_TEXT_MODEL_NAME);
    add_text(root, "hook_name", s, SAE_TEXT_HOOK_NAME);
    add_text(root, "hook_name_out", s, SAE_TEXT_HOOK_NAME_OUT);
    add_text(root, "catalog", s, SAE_TEXT_CATALOG);
    add_model(root, i);
    json_object_set_new(root, "fingerprint", json_string(f->fingerprint));
    json_object_set_new(root, "encoder_norm", spread_json(f->encoder_norm));
    json_object_set_new(root, "decoder_norm", spread_json(f->decoder_norm));
    json_object_set_new(root, "dead_features", json_integer(f->dead));
    json_object_set_new(root, "threshold", i->arch == SAE_JUMPRELU ? spread_json(f->threshold) : json_null());
    json_object_set_new(root, "memory",
                        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "mapped_bytes", (json_int_t)f->memory.mapped_bytes,
                                  "vectors_bytes", (json_int_t)f->memory.vectors_bytes, "rows_bytes", (json_int_t)f->memory.rows_bytes,
                                  "panels_bytes", (json_int_t)f->memory.panels_bytes, "screen_bytes", (json_int_t)f->memory.screen_bytes,
                                  "screen_stored_bytes", (json_int_t)f->memory.screen_stored_bytes, "ctx_bytes", (json_int_t)f->ctx_bytes));
    json_object_set_new(root, "isa", json_string(sae_isa_name(sae_env_isa(s->env))));
    json_object_set_new(root, "checked", json_boolean(f->checked));
    add_sentences(root, s, f);
    report_print(root);
}

static void text_line(const char *label, const char *text)
{
    if (*text != '\0') {
        printf("%-16s %s\n", label, text);
    }
}

static void spread_line(const char *label, spread s)
{
    printf("%-16s min %.6g, median %.6g, max %.6g\n", label, s.min, s.median, s.max);
}

static double mib(int64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static void print_architecture(const sae_info *i, const char *stored)
{
    printf("%-16s %s", "architecture", sae_arch_name(i->arch));
    if (i->k > 0) {
        printf(", k %d", i->k);
    }
    printf("%s%s%s%s (stored as '%s')\n", i->rescale_by_decoder_norm == SAE_YES ? ", rescaled by decoder norm" : "",
           i->returns_unscaled == SAE_YES ? ", codes unscaled" : "", i->keeps_negative == SAE_YES ? ", codes of either sign" : "",
           i->has_skip == SAE_YES ? ", with a skip" : "", stored);
}

static void print_text(const session *s, const facts *f)
{
    const sae_info *i = &s->info;
    text_line("path", sae_model_text(s->model, SAE_TEXT_PATH));
    printf("%-16s %s %s\n", "format", sae_model_text(s->model, SAE_TEXT_FORMAT), sae_model_text(s->model, SAE_TEXT_FORMAT_VERSION));
    print_architecture(i, sae_model_text(s->model, SAE_TEXT_ARCHITECTURE));
    text_line("model", sae_model_text(s->model, SAE_TEXT_MODEL_NAME));
    text_line("hook point", sae_model_text(s->model, SAE_TEXT_HOOK_NAME));
    text_line("writes to", sae_model_text(s->model, SAE_TEXT_HOOK_NAME_OUT));
    text_line("catalog", sae_model_text(s->model, SAE_TEXT_CATALOG));
    printf("%-16s d_in %d, d_sae %d, d_out %d\n", "shape", i->d_in, i->d_sae, i->d_out);
    if (i->n_in > 1 || i->n_out > 1) {
        printf("%-16s reads %d, writes %d, %d encoder%s\n", "hook points", i->n_in, i->n_out, i->n_blocks, i->n_blocks > 1 ? "s" : "");
    }
    printf("%-16s W_enc %s, W_dec %s\n", "stored as", sae_dtype_name(i->w_enc_dtype), sae_dtype_name(i->w_dec_dtype));
    printf("%-16s %s", "input", sae_norm_name(i->norm));
    if (i->norm == SAE_NORM_SCALE) {
        printf(" (factor %.9g)", (double)i->norm_scaling_factor);
    }
    printf(", b_dec %s%s\n", i->apply_b_dec == SAE_YES ? "subtracted" : "not subtracted",
           i->norm_in_only == SAE_YES ? ", output stays normalised" : "");
    text_line("fingerprint", f->fingerprint);
    spread_line("encoder norm", f->encoder_norm);
    spread_line("decoder norm", f->decoder_norm);
    if (i->arch == SAE_JUMPRELU) {
        spread_line("threshold", f->threshold);
    }
    printf("%-16s file %.1f MiB mapped, vectors %.1f, one caller %.1f; if prepared: rows %.1f, panels %.1f, screen %.1f%s\n", "memory",
           mib(f->memory.mapped_bytes), mib(f->memory.vectors_bytes), mib((int64_t)f->ctx_bytes), mib(f->memory.rows_bytes),
           mib(f->memory.panels_bytes), mib(f->memory.screen_bytes), f->memory.screen_stored_bytes > 0 ? " (in the file)" : "");
    printf("%-16s %s\n", "weights", f->checked ? "all finite" : "not checked");
    for (int32_t w = 0; w < sae_model_n_warnings(s->model); w++) {
        text_line("warning", sae_model_warning(s->model, w));
    }
    char notes[NOTES][NOTE];
    for (int n = 0, all = notes_of(notes, s, f); n < all; n++) {
        text_line("note", notes[n]);
    }
}

static void run(args *a)
{
    bool json = false;
    const char *value;
    for (int id; (id = args_next(a, &value)) != -1;) {
        json |= id == 'j';
    }
    const char *path = args_operands(a, 1, "PATH")[0];
    session s = session_open(&a->model, path, false);
    facts f = gather(&s, &a->model, path);
    if (json) {
        print_json(&s, &f);
    } else {
        print_text(&s, &f);
    }
    session_close(&s);
}

const command cmd_info = {
    .name = "info",
    .synopsis = "PATH [--json]",
    .summary = "Tell what an SAE is, and check its weights",
    .details = "Prints format, architecture, shapes, types, normalisation, hook points, fingerprint, statistics of the norms\n"
               "of encoder and decoder rows and of thresholds, dead features, warnings, and the memory of each form. Reads\n"
               "every weight; one that is not finite is an error that names tensor, row and column (--no-check leaves that out).\n",
    .options = options,
    .run = run,
};
