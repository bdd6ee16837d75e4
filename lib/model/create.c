#include "model/model.h"

#include <string.h>

enum {
    KNOWN_FLAGS = SAE_BORROW | SAE_W_ENC_BY_ROWS | SAE_W_DEC_BY_COLS | SAE_APPLY_B_DEC | SAE_RESCALE_BY_DECODER_NORM | SAE_KEEP_NEGATIVE |
                  SAE_NORM_IN_ONLY | SAE_RETURN_UNSCALED | SAE_STOP_ON_REPEAT
};

/* Flags that go with some architectures alone. */
static sae_status check_flags(const sae_weights *w, sae_error *err)
{
    if (w->flags & ~(uint32_t)KNOWN_FLAGS)
        return saei_fail(err, SAE_E_ARG, "sae_weights.flags = %#x has bits this version does not know", (unsigned)w->flags);
    if ((w->flags & SAE_RESCALE_BY_DECODER_NORM) && w->arch != SAE_TOPK)
        return saei_fail(err, SAE_E_ARG, "SAE_RESCALE_BY_DECODER_NORM goes with SAE_TOPK, not with %s: fold the norms into the weights",
                         sae_arch_name(w->arch));
    if ((w->flags & SAE_RETURN_UNSCALED) && !(w->flags & SAE_RESCALE_BY_DECODER_NORM))
        return saei_fail(err, SAE_E_ARG, "SAE_RETURN_UNSCALED needs SAE_RESCALE_BY_DECODER_NORM: nothing is scaled without it");
    if ((w->flags & SAE_KEEP_NEGATIVE) && w->arch != SAE_TOPK && w->arch != SAE_JUMPRELU)
        return saei_fail(err, SAE_E_ARG, "SAE_KEEP_NEGATIVE goes with SAE_TOPK and SAE_JUMPRELU, not with %s", sae_arch_name(w->arch));
    if ((w->flags & SAE_STOP_ON_REPEAT) && w->arch != SAE_MATCHING_PURSUIT)
        return saei_fail(err, SAE_E_ARG, "SAE_STOP_ON_REPEAT goes with SAE_MATCHING_PURSUIT, not with %s", sae_arch_name(w->arch));
    return SAE_OK;
}

static bool selects(sae_arch arch)
{
    return arch == SAE_TOPK || arch == SAE_ABSTOPK || arch == SAE_GROUPMAX;
}

static sae_status check_k(const sae_weights *w, sae_error *err)
{
    if (selects(w->arch) && (w->k < 1 || w->k > w->d_sae))
        return saei_fail(err, SAE_E_SHAPE, "k = %d, but %s of %d features needs 1 .. %d", (int)w->k,
                         w->arch == SAE_TOPK ? "top-k" : sae_arch_name(w->arch), (int)w->d_sae, (int)w->d_sae);
    if (w->arch == SAE_GROUPMAX && w->d_sae % w->k)
        return saei_fail(err, SAE_E_SHAPE, "k = %d groups of one size do not make %d features", (int)w->k, (int)w->d_sae);
    if (w->arch == SAE_MATCHING_PURSUIT && w->k < 0)
        return saei_fail(err, SAE_E_SHAPE, "k = %d, but a matching pursuit needs a number of rounds, or 0 for d_in", (int)w->k);
    return SAE_OK;
}

static sae_status check_shape(const sae_weights *w, sae_error *err)
{
    if (w->d_in < 1 || w->d_sae < 1 || w->d_out < 0)
        return saei_fail(err, SAE_E_SHAPE, "sae_weights has d_in = %d, d_sae = %d, d_out = %d: sizes start at 1", (int)w->d_in,
                         (int)w->d_sae, (int)w->d_out);
    const sae_status status = check_k(w, err);
    if (status)
        return status;
    if ((w->flags & SAE_APPLY_B_DEC) && w->d_out && w->d_out != w->d_in)
        return saei_fail(err, SAE_E_SHAPE, "SAE_APPLY_B_DEC needs d_out = d_in, but d_out = %d and d_in = %d", (int)w->d_out, (int)w->d_in);
    if (w->arch == SAE_MATCHING_PURSUIT && w->d_out && w->d_out != w->d_in)
        return saei_fail(err, SAE_E_SHAPE, "a matching pursuit needs d_out = d_in, but d_out = %d and d_in = %d", (int)w->d_out,
                         (int)w->d_in);
    size_t bytes;
    const int32_t d = w->d_in > w->d_out ? w->d_in : w->d_out, n = w->w_skip && d > w->d_sae ? d : w->d_sae;
    if (!saei_mul(&bytes, (size_t)d, (size_t)n) || !saei_mul(&bytes, bytes, 16) || bytes > PTRDIFF_MAX)
        return saei_fail(err, SAE_E_SHAPE, "a %d x %d matrix is more than this machine can address", (int)d, (int)n);
    return SAE_OK;
}

static sae_status check_arrays(const sae_weights *w, sae_error *err)
{
    const struct {
        const void *p;
        const char *name;
        bool needed;
    } arrays[] = {{w->w_enc, "w_enc", w->arch != SAE_MATCHING_PURSUIT},
                  {w->w_dec, "w_dec", true},
                  {w->threshold, "threshold", w->arch == SAE_JUMPRELU},
                  {w->b_gate, "b_gate", w->arch == SAE_GATED},
                  {w->b_mag, "b_mag", w->arch == SAE_GATED},
                  {w->r_mag, "r_mag", w->arch == SAE_GATED}};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        if (arrays[i].needed && !arrays[i].p)
            return saei_fail(err, SAE_E_ARG, "sae_weights.%s is NULL, a %s SAE needs it", arrays[i].name, sae_arch_name(w->arch));
    return SAE_OK;
}

static sae_status check_norm(const sae_weights *w, sae_error *err)
{
    if (w->norm < SAE_NORM_NONE || w->norm > SAE_NORM_LAYER)
        return saei_fail(err, SAE_E_ARG, "sae_weights.norm = %d is not one of SAE_NORM_NONE .. SAE_NORM_LAYER", (int)w->norm);
    if (w->norm != SAE_NORM_SCALE)
        return SAE_OK;
    if (!(w->norm_scaling_factor > 0.0f && w->norm_scaling_factor <= 3.4e38f))
        return saei_fail(err, SAE_E_ARG, "norm_scaling_factor = %g, SAE_NORM_SCALE needs a finite factor > 0",
                         (double)w->norm_scaling_factor);
    if (!(w->norm_out_factor >= 0.0f && w->norm_out_factor <= 3.4e38f))
        return saei_fail(err, SAE_E_ARG, "norm_out_factor = %g, it needs to be finite and > 0, or 0 for 1 / norm_scaling_factor",
                         (double)w->norm_out_factor);
    return SAE_OK;
}

static sae_status check_weights(const sae_weights *w, sae_error *err)
{
    if (w->arch < SAE_STANDARD || w->arch > SAE_MATCHING_PURSUIT)
        return saei_fail(err, SAE_E_ARG, "sae_weights.arch = %d is not one of SAE_STANDARD .. SAE_MATCHING_PURSUIT", (int)w->arch);
    if (!sae_dtype_bytes(w->dtype))
        return saei_fail(err, SAE_E_ARG, "sae_weights.dtype = %d is not SAE_F32, SAE_F16 or SAE_BF16", (int)w->dtype);
    if (!(w->residual_threshold >= 0.0f && w->residual_threshold <= 3.4e38f))
        return saei_fail(err, SAE_E_ARG, "residual_threshold = %g is not a length", (double)w->residual_threshold);
    sae_status status = check_flags(w, err);
    if (!status)
        status = check_norm(w, err);
    if (!status)
        status = check_shape(w, err);
    return status ? status : check_arrays(w, err);
}

/* The matrix, copied unless it is borrowed. */
static sae_status take_matrix(sae_model *model, saei_tensor *out, saei_matrix m, const char *name, bool borrow, sae_error *err)
{
    const size_t bytes = (size_t)m.n * (size_t)m.d * sae_dtype_bytes(m.dtype);
    if (!borrow) {
        void *copy = saei_arena_alloc(&model->parts.memory, &model->env->host, bytes);
        if (!copy)
            return saei_fail(err, SAE_E_NOMEM, "no memory for a copy of %s (%zu bytes): SAE_BORROW needs none", name, bytes);
        memcpy(copy, m.data, bytes);
        m.data = copy;
    }
    *out = (saei_tensor){m, name, -1, 0};
    return SAE_OK;
}

/* The dictionary of a matching pursuit is W_dec for both. */
static sae_status take_matrices(sae_model *model, const sae_weights *w, sae_error *err)
{
    saei_parts *p = &model->parts;
    const saei_host *host = &model->env->host;
    const bool borrow = w->flags & SAE_BORROW, tied = w->arch == SAE_MATCHING_PURSUIT;
    saei_block enc = {0};
    saei_segment dec = {.n = p->d_sae, .row_step = 1};
    saei_skip skip = {0};
    const saei_matrix w_enc = {w->w_enc, w->dtype, !(w->flags & SAE_W_ENC_BY_ROWS), p->d_sae, p->d_in};
    const saei_matrix w_dec = {w->w_dec, w->dtype, w->flags & SAE_W_DEC_BY_COLS, p->d_sae, p->d_out};
    const saei_matrix w_skip = {w->w_skip, w->dtype, false, p->d_out, p->d_in};
    sae_status status = tied ? SAE_OK : take_matrix(model, &enc.w, w_enc, "w_enc", borrow, err);
    if (!status)
        status = take_matrix(model, &dec.w, w_dec, "w_dec", borrow, err);
    if (!status && w->w_skip)
        status = take_matrix(model, &skip.w, w_skip, "w_skip", borrow, err);
    if (tied)
        enc.w = dec.w;
    if (!status && (!saei_parts_add_block(p, host, &enc) || !saei_parts_add_segment(p, host, &dec) ||
                    (w->w_skip && !saei_parts_add_skip(p, host, &skip))))
        status = saei_fail(err, SAE_E_NOMEM, "no memory for the lists of matrices");
    return status;
}

typedef struct vector {
    float **to;
    const float *from;
    int32_t n;
} vector;

static sae_status take_vectors(sae_model *model, const sae_weights *w, sae_error *err)
{
    saei_parts *p = &model->parts;
    const bool gated = w->arch == SAE_GATED;
    const vector all[] = {{&p->b_enc, gated || w->arch == SAE_MATCHING_PURSUIT ? NULL : w->b_enc, p->d_sae},
                          {&p->b_dec, w->b_dec, p->d_out},
                          {&p->threshold, w->arch == SAE_JUMPRELU ? w->threshold : NULL, p->d_sae},
                          {&p->b_gate, gated ? w->b_gate : NULL, p->d_sae},
                          {&p->b_mag, gated ? w->b_mag : NULL, p->d_sae},
                          {&p->r_mag, gated ? w->r_mag : NULL, p->d_sae}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!all[i].from)
            continue;
        *all[i].to = saei_arena_alloc(&p->memory, &model->env->host, (size_t)all[i].n * sizeof(float));
        if (!*all[i].to)
            return saei_fail(err, SAE_E_NOMEM, "no memory for a vector of %d floats", (int)all[i].n);
        memcpy(*all[i].to, all[i].from, (size_t)all[i].n * sizeof(float));
    }
    return SAE_OK;
}

static sae_status fill(sae_model *model, const sae_weights *w, sae_error *err)
{
    saei_parts *p = &model->parts;
    p->arch = w->arch;
    p->norm = w->norm;
    p->norm_scaling_factor = w->norm == SAE_NORM_SCALE ? w->norm_scaling_factor : 1.0f;
    p->d_in = w->d_in;
    p->d_sae = w->d_sae;
    p->d_out = w->d_out ? w->d_out : w->d_in;
    p->k = w->arch == SAE_MATCHING_PURSUIT && !w->k ? w->d_in : w->k;
    p->apply_b_dec = w->flags & SAE_APPLY_B_DEC;
    p->rescale_by_decoder_norm = w->flags & SAE_RESCALE_BY_DECODER_NORM;
    p->returns_unscaled = w->flags & SAE_RETURN_UNSCALED;
    p->keeps_negative = w->flags & SAE_KEEP_NEGATIVE;
    p->norm_in_only = w->flags & SAE_NORM_IN_ONLY;
    p->stops_on_repeat = w->flags & SAE_STOP_ON_REPEAT;
    p->residual_threshold = w->arch == SAE_MATCHING_PURSUIT ? w->residual_threshold : 0.0f;
    p->n_in = p->n_out = 1;
    p->norm_out_factor = w->norm_out_factor > 0.0f && w->norm == SAE_NORM_SCALE ? w->norm_out_factor : 1.0f / p->norm_scaling_factor;
    sae_status status = take_matrices(model, w, err);
    if (!status)
        status = take_vectors(model, w, err);
    return status ? status : saei_model_finish(model, err);
}

sae_status sae_model_create(sae_model **out, sae_env *env, const sae_weights *weights, sae_error *err)
{
    sae_weights w;
    sae_status status;
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_model_create: out is NULL");
    *out = NULL;
    if (!env || !weights)
        return saei_fail(err, SAE_E_ARG, "sae_model_create: %s is NULL", env ? "weights" : "env");
    if ((status = saei_read_struct(&w, sizeof w, weights, "sae_weights", err)) || (status = check_weights(&w, err)))
        return status;
    sae_model *model;
    if ((status = saei_model_new(&model, env, err)))
        return status;
    const saei_fpmode mode = saei_fp_enter();
    status = fill(model, &w, err);
    saei_fp_leave(mode);
    if (status) {
        sae_model_free(model);
        return status;
    }
    *out = model;
    return saei_ok(err);
}
