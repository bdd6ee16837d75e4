#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "model/model.h"

/* The digest of the whole is that of a list of digests: one of sizes, flags and vectors, then for each 16 features one of their encoder and
 * one of their decoder weights, in the order [d][16], then for each 16 outputs of a skip or of an attention layer one of theirs. Tasks are as
 * small as that, so their number and order do not matter; both layouts of a matrix are read in stretches. Of an SAE of several blocks or
 * segments each group of features has, for each of them, the numbers of its place before its weights. Published: never changes. */
enum { GROUP = 16, STEPS = 64, LINEARS = 4 };

typedef struct job {
    const sae_model *model;
    size_t groups;
    XXH128_canonical_t *digests; /* [1 + 2 * groups + groups of the other matrices] */
} job;

static size_t groups_of(int32_t n)
{
    return ((size_t)n + GROUP - 1) / GROUP;
}

static void finish(XXH128_canonical_t *out, const XXH3_state_t *state)
{
    XXH128_canonicalFromHash(out, XXH3_128bits_digest(state));
}

/* Element k of row i. */
static float element(const saei_matrix *m, size_t i, size_t k)
{
    const size_t at = m->by_cols ? k * (size_t)m->n + i : i * (size_t)m->d + k;
    return saei_load((const unsigned char *)m->data + at * sae_dtype_bytes(m->dtype), m->dtype);
}

/* Features first .. first + n - 1 of a matrix, n <= 16; those after the first are rows `step` further each. */
static void hash_rows(XXH3_state_t *state, const saei_matrix *m, const float *scale, size_t first, size_t n, size_t step)
{
    const size_t d = (size_t)m->d;
    float block[STEPS * GROUP];
    for (size_t k = 0; k < d; k += STEPS) {
        const size_t steps = d - k < STEPS ? d - k : STEPS;
        for (size_t s = 0; s < steps; s++)
            for (size_t i = 0; i < n; i++) {
                const float w = element(m, first + i * step, k + s);
                block[s * n + i] = scale ? w * scale[i] : w;
            }
        (void)XXH3_128bits_update(state, block, steps * n * sizeof *block);
    }
}

/* Where a stretch of a group's weights belongs. */
static void hash_place(XXH3_state_t *state, int32_t first, int32_t n, int32_t at, int32_t d)
{
    const int32_t place[4] = {first, n, at, d};
    (void)XXH3_128bits_update(state, place, sizeof place);
}

/* The features that groups first .. end - 1 and a part of the model have in common. */
static int32_t common(int32_t *first, int32_t end, int32_t part_first, int32_t part_n)
{
    const int32_t last = end < part_first + part_n ? end : part_first + part_n;
    *first = *first > part_first ? *first : part_first;
    return last - *first;
}

static void hash_encoder(XXH128_canonical_t *out, const sae_model *model, int32_t first, int32_t end)
{
    const saei_parts *p = &model->parts;
    const bool whole = saei_model_whole(model, SAE_W_ENC);
    XXH3_state_t state;
    (void)XXH3_128bits_reset(&state);
    for (uint32_t i = saei_model_block_of(model, first); i < p->n_enc && p->enc[i].first < end; i++) {
        int32_t at = first;
        const int32_t n = common(&at, end, p->enc[i].first, p->enc[i].w.m.n);
        const saei_matrix m = saei_model_enc_rows(model, i);
        if (!whole)
            hash_place(&state, at, n, p->enc[i].in_first, m.d);
        hash_rows(&state, &m, NULL, (size_t)(at - p->enc[i].first), (size_t)n, 1);
    }
    finish(out, &state);
}

static void hash_decoder(XXH128_canonical_t *out, const sae_model *model, int32_t first, int32_t end)
{
    const saei_parts *p = &model->parts;
    const bool whole = saei_model_whole(model, SAE_W_DEC);
    XXH3_state_t state;
    uint32_t i, unused;
    (void)XXH3_128bits_reset(&state);
    for (saei_model_segments_of(model, first, &i, &unused); i < p->n_dec && p->dec[i].first < end; i++) {
        int32_t at = first;
        const int32_t n = common(&at, end, p->dec[i].first, p->dec[i].n);
        const saei_matrix m = saei_model_dec_rows(model, i);
        if (!whole)
            hash_place(&state, at, n, p->dec[i].out_first, m.d);
        hash_rows(&state, &m, model->dec_scale ? model->dec_scale + at : NULL, (size_t)saei_segment_row(p->dec + i, at), (size_t)n,
                  (size_t)p->dec[i].row_step);
    }
    finish(out, &state);
}

/* The i-th matrix besides encoder and decoder: skips, then those of the attention layers; NULL past the end. */
static const saei_matrix *other(const saei_parts *p, size_t i)
{
    if (i < p->n_skip)
        return &p->skip[i].w.m;
    const size_t layer = (i - p->n_skip) / LINEARS;
    if (layer >= (size_t)p->n_attention)
        return NULL;
    const saei_attention *a = p->attention + layer;
    const saei_linear *linears[LINEARS] = {&a->k_ctx, &a->q_target, &a->v_ctx, &a->c_proj};
    return &linears[(i - p->n_skip) % LINEARS]->w.m;
}

static size_t other_groups(const saei_parts *p)
{
    size_t sum = 0;
    const saei_matrix *m;
    for (size_t i = 0; (m = other(p, i)); i++)
        sum += groups_of(m->n);
    return sum;
}

static void hash_other(XXH128_canonical_t *out, const saei_parts *p, size_t group)
{
    size_t i = 0;
    const saei_matrix *m = other(p, i);
    XXH3_state_t state;
    for (; group >= groups_of(m->n); m = other(p, ++i))
        group -= groups_of(m->n);
    const size_t first = group * GROUP, left = (size_t)m->n - first;
    (void)XXH3_128bits_reset(&state);
    hash_rows(&state, m, NULL, first, left < GROUP ? left : GROUP, 1);
    finish(out, &state);
}

static void group_task(void *of, uint32_t i, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    const job *j = of;
    const saei_parts *p = &j->model->parts;
    if (i < j->groups) {
        const int32_t first = (int32_t)i * GROUP, end = p->d_sae - first < GROUP ? p->d_sae : first + GROUP;
        hash_encoder(&j->digests[1 + 2 * (size_t)i], j->model, first, end);
        hash_decoder(&j->digests[2 + 2 * (size_t)i], j->model, first, end);
    } else {
        hash_other(&j->digests[1 + j->groups + (size_t)i], p, i - j->groups);
    }
    saei_fp_leave(mode);
}

static void hash_vector(XXH3_state_t *state, const float *v, int32_t n)
{
    static const float zero;
    if (v)
        (void)XXH3_128bits_update(state, v, (size_t)n * sizeof *v);
    else
        for (int32_t i = 0; i < n; i++)
            (void)XXH3_128bits_update(state, &zero, sizeof zero);
}

static void hash_attention(XXH3_state_t *state, const saei_parts *p)
{
    for (int32_t i = 0; i < p->n_attention; i++) {
        const saei_attention *a = p->attention + i;
        const saei_linear *all[LINEARS] = {&a->k_ctx, &a->q_target, &a->v_ctx, &a->c_proj};
        for (int t = 0; t < LINEARS; t++)
            hash_vector(state, all[t]->bias, all[t]->w.m.n);
    }
}

/* What an SAE of one encoder, one decoder and one of the first four architectures does not have; such an SAE adds nothing here. */
static void hash_more(XXH3_state_t *state, const saei_parts *p)
{
    const float usual = 1.0f / p->norm_scaling_factor;
    const bool own_out = p->norm == SAE_NORM_SCALE && memcmp(&p->norm_out_factor, &usual, sizeof usual);
    const int32_t numbers[] = {p->n_in,        p->n_out,          (int32_t)p->n_skip,  p->n_attention,
                               p->n_heads,     p->keeps_negative, p->returns_unscaled, p->stops_on_repeat,
                               p->norm_in_only};
    const float factors[] = {p->residual_threshold, own_out ? p->norm_out_factor : 0.0f};
    static const int32_t none[sizeof numbers / sizeof *numbers] = {1, 1};
    static const float zeros[2];
    if (memcmp(numbers, none, sizeof none) || memcmp(factors, zeros, sizeof zeros)) {
        (void)XXH3_128bits_update(state, numbers, sizeof numbers);
        (void)XXH3_128bits_update(state, factors, sizeof factors);
    }
    for (uint32_t i = 0; i < p->n_skip; i++)
        hash_place(state, p->skip[i].in_first, p->skip[i].out_first, p->skip[i].w.m.n, p->skip[i].w.m.d);
    if (p->key_scale)
        hash_vector(state, p->key_scale, p->d_sae);
    if (p->norm == SAE_NORM_AFFINE) {
        hash_vector(state, p->in_shift, p->d_in);
        hash_vector(state, p->in_scale, p->d_in);
        hash_vector(state, p->out_shift, p->d_out);
        hash_vector(state, p->out_scale, p->d_out);
    }
    hash_attention(state, p);
}

/* Everything but the matrices; an absent vector is zeros, and only those that the architecture has are looked at. */
static void hash_head(XXH128_canonical_t *out, const sae_model *model)
{
    const saei_parts *p = &model->parts;
    const int32_t numbers[8] = {p->arch, p->d_in, p->d_sae, p->d_out, p->k, p->norm, p->apply_b_dec, p->rescale_by_decoder_norm};
    const float factor = p->norm == SAE_NORM_SCALE ? p->norm_scaling_factor : 1.0f;
    const bool gated = p->arch == SAE_GATED;
    XXH3_state_t state;
    (void)XXH3_128bits_reset(&state);
    (void)XXH3_128bits_update(&state, numbers, sizeof numbers);
    (void)XXH3_128bits_update(&state, &factor, sizeof factor);
    hash_vector(&state, model->b_dec, p->d_out);
    hash_vector(&state, gated ? p->b_gate : p->b_enc, p->d_sae);
    if (p->arch == SAE_JUMPRELU)
        hash_vector(&state, p->threshold, p->d_sae);
    if (gated) {
        hash_vector(&state, p->b_mag, p->d_sae);
        hash_vector(&state, p->r_mag, p->d_sae);
    }
    hash_more(&state, p);
    finish(out, &state);
}

sae_status sae_model_fingerprint(const sae_model *model, uint8_t *out, sae_error *err)
{
    if (!model || !out)
        return saei_fail(err, SAE_E_ARG, "sae_model_fingerprint: %s is NULL", model ? "out" : "model");
    const saei_host *host = &model->env->host;
    const size_t groups = groups_of(model->parts.d_sae), others = other_groups(&model->parts), n = 1 + 2 * groups + others;
    job j = {model, groups, saei_alloc(host, n * sizeof *j.digests)};
    if (!j.digests)
        return saei_fail(err, SAE_E_NOMEM, "no memory for a fingerprint of %d features (%zu bytes)", (int)model->parts.d_sae,
                         n * sizeof *j.digests);
    const saei_fpmode mode = saei_fp_enter();
    hash_head(&j.digests[0], model);
    saei_fp_leave(mode);
    const sae_status status = saei_run(host, &j, group_task, (uint32_t)(groups + others));
    if (!status) {
        XXH128_canonical_t whole;
        XXH128_canonicalFromHash(&whole, XXH3_128bits(j.digests, n * sizeof *j.digests));
        memcpy(out, whole.digest, sizeof whole.digest);
    }
    saei_dealloc(host, j.digests, n * sizeof *j.digests);
    return status ? saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while %d features were hashed", (int)model->parts.d_sae)
                  : saei_ok(err);
}
