#include "io/saelens.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "simd/kernels.h"

typedef struct reader {
    saei_parts *parts;
    const saei_host *host;
    const saei_saelens *config;
    const saei_safetensors *st;
    const char *file_name;
    sae_error *err;
} reader;

static const char damaged[] = "the checkpoint is damaged";

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static sae_status
warn(const reader *r, const char *fmt, ...)
{
    char sentence[256];
    va_list args;
    saei_parts *parts = r->parts;
    if (parts->n_warnings == (int32_t)(sizeof parts->warnings / sizeof *parts->warnings))
        return SAE_OK;
    va_start(args, fmt);
    vsnprintf(sentence, sizeof sentence, fmt, args);
    va_end(args);
    char *copy = saei_strdup(r->host, sentence);
    if (!copy)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for a warning");
    parts->warnings[parts->n_warnings++] = copy;
    return SAE_OK;
}

/* ---- one tensor ---- */

/* A tensor of a dtype that we compute with, or a sentence. */
static sae_status find(const saei_st_tensor **out, const reader *r, const char *name)
{
    *out = saei_safetensors_find(r->st, name);
    if (!*out)
        return saei_fail(r->err, SAE_E_FORMAT, "%s has no tensor %s, which a %s SAE needs", r->file_name, name,
                         saei_saelens_arch_name(r->config->arch));
    if (!(*out)->dtype)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "%s: %s has dtype %s, weights are read from F32, F16 and BF16", r->file_name, name,
                         (*out)->dtype_name);
    return SAE_OK;
}

static sae_status read_matrix(saei_tensor *out, const reader *r, const char *name, bool by_cols)
{
    const int32_t d_sae = r->config->d_sae, d = r->config->d_in;
    const int32_t rows = by_cols ? d : d_sae, columns = by_cols ? d_sae : d;
    const saei_st_tensor *t;
    const sae_status status = find(&t, r, name);
    if (status)
        return status;
    if (t->n_dims != 2)
        return saei_fail(r->err, SAE_E_FORMAT, "%s: %s has %u dimensions, a matrix has 2", r->file_name, name, (unsigned)t->n_dims);
    if (t->shape[0] != rows)
        return saei_fail(r->err, SAE_E_FORMAT, "%s has %lld rows, cfg.json says %s = %d", name, (long long)t->shape[0],
                         by_cols ? "d_in" : "d_sae", (int)rows);
    if (t->shape[1] != columns)
        return saei_fail(r->err, SAE_E_FORMAT, "%s has %lld columns, cfg.json says %s = %d", name, (long long)t->shape[1],
                         by_cols ? "d_sae" : "d_in", (int)columns);
    out->m = (saei_matrix){r->parts->file.data + t->offset, t->dtype, by_cols, d_sae, d};
    out->offset = t->offset;
    return SAE_OK;
}

/* Widens n values in place: 16-bit ones lie in the second half of v, where reading stays ahead of writing. */
static void widen_in_place(float *v, size_t n, sae_dtype dtype)
{
    const unsigned char *half = (const unsigned char *)v + 2 * n;
    for (size_t i = 0; i < n && dtype != SAE_F32; i++)
        v[i] = saei_load(half + 2 * i, dtype);
}

/* A vector as f32, by a plain read: a file that another program cuts meanwhile is an error, not a signal. */
static sae_status read_vector(float **out, const reader *r, const char *name, int32_t n, const char *n_name)
{
    const saei_st_tensor *t;
    sae_status status = find(&t, r, name);
    if (status)
        return status;
    if (t->n_dims != 1)
        return saei_fail(r->err, SAE_E_FORMAT, "%s: %s has %u dimensions, a vector has 1", r->file_name, name, (unsigned)t->n_dims);
    if (t->shape[0] != n)
        return saei_fail(r->err, SAE_E_FORMAT, "%s has %lld values, cfg.json says %s = %d", name, (long long)t->shape[0], n_name, (int)n);
    float *v = *out = saei_alloc(r->host, (size_t)n * sizeof *v);
    if (!v)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for %s (%d values)", name, (int)n);
    unsigned char *to = (unsigned char *)v + ((size_t)n * sizeof *v - t->bytes);
    if ((status = saei_file_read(&r->parts->file, to, t->offset, t->bytes, r->err)))
        return status;
    widen_in_place(v, (size_t)n, t->dtype);
    for (int32_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return saei_fail(r->err, SAE_E_FORMAT, "%s: %s[%d] is %g, not a finite number: %s", r->file_name, name, (int)i, (double)v[i],
                             damaged);
    return SAE_OK;
}

static sae_status read_features(float **out, const reader *r, const char *name)
{
    return read_vector(out, r, name, r->config->d_sae, "d_sae");
}

/* ---- what an architecture has ---- */

/* exp of a vector, under our own floating-point mode: thresholds are part of the published bits. Returns the first index that has none. */
static int32_t exp_in_place(float *v, int32_t n)
{
    const saei_fpmode mode = saei_fp_enter();
    int32_t i = 0;
    for (; i < n; i++) {
        const float value = (float)saei_exp(v[i]);
        if (!isfinite(value))
            break;
        v[i] = value;
    }
    saei_fp_leave(mode);
    return i;
}

/* Training checkpoints of older sae-lens hold the logarithm. */
static sae_status read_threshold(const reader *r)
{
    static const char log_name[] = "log_threshold";
    float **out = &r->parts->threshold;
    if (!saei_safetensors_find(r->st, log_name))
        return read_features(out, r, "threshold");
    if (saei_safetensors_find(r->st, "threshold"))
        return saei_fail(r->err, SAE_E_FORMAT, "%s has both threshold and %s: it does not say which one holds", r->file_name, log_name);
    const sae_status status = read_features(out, r, log_name);
    if (status)
        return status;
    const int32_t bad = exp_in_place(*out, r->config->d_sae);
    if (bad < r->config->d_sae)
        return saei_fail(r->err, SAE_E_FORMAT, "%s: %s[%d] = %g is the logarithm of no finite threshold: %s", r->file_name, log_name,
                         (int)bad, (double)(*out)[bad], damaged);
    return SAE_OK;
}

static sae_status read_by_arch(const reader *r)
{
    saei_parts *p = r->parts;
    sae_status status;
    if (r->config->arch != SAE_GATED)
        status = read_features(&p->b_enc, r, "b_enc");
    else if (!(status = read_features(&p->b_gate, r, "b_gate")) && !(status = read_features(&p->b_mag, r, "b_mag")))
        status = read_features(&p->r_mag, r, "r_mag");
    if (!status && r->config->arch == SAE_JUMPRELU)
        status = read_threshold(r);
    return status;
}

/* Factors for the rows of W_dec, from finetuning in sae-lens before 6. Files of some versions carry ones, to no effect. */
static sae_status read_scale(const reader *r)
{
    static const char *const names[] = {"scaling_factor", "finetuning_scaling_factor"};
    const bool first = saei_safetensors_find(r->st, names[0]), second = saei_safetensors_find(r->st, names[1]);
    const char *name = names[second];
    float **scale = &r->parts->dec_scale;
    bool ones = true;
    if (first && second)
        return saei_fail(r->err, SAE_E_FORMAT, "%s has both %s and %s: it does not say which one holds", r->file_name, names[0], names[1]);
    if (!first && !second && r->config->finetuning_scale)
        return warn(r, "cfg.json says finetuning_scaling_factor = true, but %s has no such tensor: the rows of W_dec are used as they are",
                    r->file_name);
    if (!first && !second)
        return SAE_OK;
    const sae_status status = read_features(scale, r, name);
    if (status)
        return status;
    for (int32_t i = 0; i < r->config->d_sae && ones; i++)
        ones = fabsf((*scale)[i] - 1.0f) <= 1e-5f; /* as sae-lens decides it */
    if (!ones && !r->config->finetuning_scale)
        return saei_fail(r->err, SAE_E_FORMAT, "%s: %s is not all ones, but cfg.json does not say finetuning_scaling_factor = true",
                         r->file_name, name);
    if (ones) {
        saei_dealloc(r->host, *scale, (size_t)r->config->d_sae * sizeof **scale);
        *scale = NULL;
    }
    return SAE_OK;
}

static bool belongs(const char *name, sae_arch arch)
{
    static const struct {
        const char *name;
        sae_arch only; /* 0: all */
        sae_arch never;
    } known[] = {{"W_enc", 0, 0},
                 {"W_dec", 0, 0},
                 {"b_dec", 0, 0},
                 {"scaling_factor", 0, 0},
                 {"finetuning_scaling_factor", 0, 0},
                 {"b_enc", 0, SAE_GATED},
                 {"threshold", SAE_JUMPRELU, 0},
                 {"log_threshold", SAE_JUMPRELU, 0},
                 {"b_gate", SAE_GATED, 0},
                 {"b_mag", SAE_GATED, 0},
                 {"r_mag", SAE_GATED, 0}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0)
            return (!known[i].only || known[i].only == arch) && known[i].never != arch;
    return false;
}

/* A tensor that the architecture does not use means that file and configuration disagree, as for sae-lens, whose load is strict. */
static sae_status check_extra(const reader *r)
{
    const char *arch = saei_saelens_arch_name(r->config->arch);
    char name[SAEI_SHOWN];
    for (uint32_t i = 0; i < r->st->n; i++) {
        if (belongs(r->st->tensors[i].name, r->config->arch))
            continue;
        saei_show(name, r->st->tensors[i].name);
        if (!r->config->forced)
            return saei_fail(r->err, SAE_E_FORMAT, "%s has a tensor \"%s\", which a %s SAE does not have: cfg.json and weights disagree",
                             r->file_name, name, arch);
        const sae_status status = warn(r, "tensor \"%s\" is not used: the architecture was set to %s", name, arch);
        if (status)
            return status;
    }
    return SAE_OK;
}

/* ---- values ---- */

static sae_status check_matrix(const reader *r, const saei_matrix *m, const char *name)
{
    const size_t n = (size_t)m->n * (size_t)m->d, width = (size_t)(m->by_cols ? m->n : m->d);
    const size_t bad = saei_kernels_for(SAE_ISA_AUTO)->nonfinite(m->data, m->dtype, n);
    if (bad == n)
        return SAE_OK;
    const float value = saei_load((const unsigned char *)m->data + bad * sae_dtype_bytes(m->dtype), m->dtype);
    return saei_fail(r->err, SAE_E_FORMAT, "%s: %s is %g at row %zu, column %zu, not a finite number: %s", r->file_name, name,
                     (double)value, bad / width, bad % width, damaged);
}

static sae_status check_values(const reader *r, int32_t check)
{
    enum { CHECKED_WHOLE = 64 << 20 }; /* larger files would cost seconds here: sae_model_prepare and sae_model_check look at them */
    if (check == SAE_NO || r->parts->file.bytes > CHECKED_WHOLE)
        return SAE_OK;
    const sae_status status = check_matrix(r, &r->parts->w_enc.m, "W_enc");
    return status ? status : check_matrix(r, &r->parts->w_dec.m, "W_dec");
}

/* ---- the whole ---- */

static void take_config(saei_parts *p, const saei_saelens *c)
{
    p->arch = c->arch;
    p->norm = c->norm;
    p->norm_scaling_factor = c->norm_scaling_factor;
    p->d_in = c->d_in;
    p->d_sae = c->d_sae;
    p->d_out = c->d_in;
    p->k = c->k;
    p->apply_b_dec = c->apply_b_dec;
    p->rescale_by_decoder_norm = c->rescale_by_decoder_norm;
}

sae_status saei_saelens_tensors(saei_parts *parts, const saei_host *host, const saei_saelens *config, const saei_safetensors *st,
                                const sae_open_options *opt, const char *name, sae_error *err)
{
    const reader r = {parts, host, config, st, name, err};
    sae_status status;
    take_config(parts, config);
    if ((status = read_matrix(&parts->w_enc, &r, "W_enc", true)) || (status = read_matrix(&parts->w_dec, &r, "W_dec", false)) ||
        (status = read_vector(&parts->b_dec, &r, "b_dec", config->d_in, "d_in")) || (status = read_by_arch(&r)) ||
        (status = read_scale(&r)) || (status = check_extra(&r)) || (status = check_values(&r, opt->check)))
        return status;
    if (config->norm == SAE_NORM_SCALE && opt->norm_scaling_factor == 0.0f)
        return warn(&r, "normalize_activations is \"expected_average_only_in\", but nothing says by which factor: rows are used as they "
                        "are "
                        "(the option norm_scaling_factor sets it)");
    return SAE_OK;
}
