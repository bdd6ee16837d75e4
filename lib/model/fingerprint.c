#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "model/model.h"

/* The digest of the whole is that of a list of digests: one of sizes, flags and vectors, then for each 16 features one of their encoder and
 * one of their decoder weights, in the order [d][16]. Tasks are as small as that, so their number and order do not matter; both layouts of
 * a matrix are read in stretches. Published: never changes. */
enum { GROUP = 16, STEPS = 64 };

typedef struct job {
    const sae_model *model;
    XXH128_canonical_t *digests; /* [1 + 2 * groups] */
} job;

static void finish(XXH128_canonical_t *out, const XXH3_state_t *state)
{
    XXH128_canonicalFromHash(out, XXH3_128bits_digest(state));
}

/* Element k of feature i, in the unit of the codes. */
static float element(const saei_matrix *m, const float *scale, size_t i, size_t k)
{
    const size_t at = m->by_cols ? k * (size_t)m->n + i : i * (size_t)m->d + k;
    const float w = saei_load((const unsigned char *)m->data + at * sae_dtype_bytes(m->dtype), m->dtype);
    return scale ? w * scale[i] : w;
}

static void hash_group(XXH128_canonical_t *out, const saei_matrix *m, const float *scale, size_t first)
{
    const size_t n = (size_t)m->n - first < GROUP ? (size_t)m->n - first : GROUP, d = (size_t)m->d;
    float block[STEPS * GROUP];
    XXH3_state_t state;
    (void)XXH3_128bits_reset(&state);
    for (size_t k = 0; k < d; k += STEPS) {
        const size_t steps = d - k < STEPS ? d - k : STEPS;
        for (size_t s = 0; s < steps; s++)
            for (size_t i = 0; i < n; i++)
                block[s * n + i] = element(m, scale, first + i, k + s);
        (void)XXH3_128bits_update(&state, block, steps * n * sizeof *block);
    }
    finish(out, &state);
}

static void group_task(void *of, uint32_t i, uint32_t worker)
{
    (void)worker;
    const saei_fpmode mode = saei_fp_enter();
    const job *j = of;
    const saei_matrix enc = saei_model_enc_rows(j->model), dec = saei_model_dec_rows(j->model);
    hash_group(&j->digests[1 + 2 * (size_t)i], &enc, NULL, (size_t)i * GROUP);
    hash_group(&j->digests[2 + 2 * (size_t)i], &dec, j->model->dec_scale, (size_t)i * GROUP);
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

/* Everything but the matrices; an absent vector is zeros, and only those that the architecture has are looked at. */
static void hash_head(XXH128_canonical_t *out, const sae_model *model)
{
    const saei_parts *p = &model->parts;
    const int32_t numbers[8] = {
        p->arch, p->d_in, p->d_sae, p->d_out, p->arch == SAE_TOPK ? p->k : 0, p->norm, p->apply_b_dec, p->rescale_by_decoder_norm};
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
    finish(out, &state);
}

sae_status sae_model_fingerprint(const sae_model *model, uint8_t *out, sae_error *err)
{
    if (!model || !out)
        return saei_fail(err, SAE_E_ARG, "sae_model_fingerprint: %s is NULL", model ? "out" : "model");
    const saei_host *host = &model->env->host;
    const size_t groups = ((size_t)model->parts.d_sae + GROUP - 1) / GROUP, n = 1 + 2 * groups;
    job j = {model, saei_alloc(host, n * sizeof *j.digests)};
    if (!j.digests)
        return saei_fail(err, SAE_E_NOMEM, "no memory for a fingerprint of %d features (%zu bytes)", (int)model->parts.d_sae,
                         n * sizeof *j.digests);
    hash_head(&j.digests[0], model);
    const sae_status status = saei_run(host, &j, group_task, (uint32_t)groups);
    if (!status) {
        XXH128_canonical_t whole;
        XXH128_canonicalFromHash(&whole, XXH3_128bits(j.digests, n * sizeof *j.digests));
        memcpy(out, whole.digest, sizeof whole.digest);
    }
    saei_dealloc(host, j.digests, n * sizeof *j.digests);
    return status ? saei_fail(err, SAE_E_HOST, "the host's parallel-for failed while %d features were hashed", (int)model->parts.d_sae)
                  : saei_ok(err);
}
