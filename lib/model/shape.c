/* Do the parts of an SAE fit together? Everything above indexes by these numbers without looking again. */
#include "model/model.h"

static bool inside(int64_t first, int64_t n, int64_t of)
{
    return first >= 0 && n >= 1 && first <= of && n <= of - first;
}

static sae_status check_blocks(const saei_parts *p, sae_error *err)
{
    int32_t next = 0;
    for (uint32_t i = 0; i < p->n_enc; i++) {
        const saei_block *b = p->enc + i;
        if (b->first != next || !inside(b->first, b->w.m.n, p->d_sae) || !inside(b->in_first, b->w.m.d, p->d_in))
            return saei_fail(err, SAE_E_FORMAT,
                             "block %u has %d features from %d on that read %d elements from %d on: of d_sae = %d, d_in = %d", (unsigned)i,
                             (int)b->w.m.n, (int)b->first, (int)b->w.m.d, (int)b->in_first, (int)p->d_sae, (int)p->d_in);
        next += b->w.m.n;
    }
    if (next != p->d_sae)
        return saei_fail(err, SAE_E_FORMAT, "the encoder has %d features, d_sae is %d", (int)next, (int)p->d_sae);
    return SAE_OK;
}

static sae_status check_segments(const saei_parts *p, sae_error *err)
{
    for (uint32_t i = 0; i < p->n_dec; i++) {
        const saei_segment *s = p->dec + i;
        const int64_t last = s->row_first + (int64_t)(s->n - 1) * s->row_step;
        if (!inside(s->first, s->n, p->d_sae) || !inside(s->out_first, s->w.m.d, p->d_out) || (i && !saei_segment_follows(s - 1, s)))
            return saei_fail(err, SAE_E_FORMAT,
                             "segment %u has %d features from %d on that write %d elements from %d on: of d_sae = %d, d_out = %d",
                             (unsigned)i, (int)s->n, (int)s->first, (int)s->w.m.d, (int)s->out_first, (int)p->d_sae, (int)p->d_out);
        if (s->row_first < 0 || s->row_step < 1 || last >= s->w.m.n || (s->w.m.by_cols && (s->row_first || s->row_step != 1)))
            return saei_fail(err, SAE_E_FORMAT, "segment %u takes rows %d, %d further each, of a matrix of %d rows", (unsigned)i,
                             (int)s->row_first, (int)s->row_step, (int)s->w.m.n);
    }
    return p->n_dec ? SAE_OK : saei_fail(err, SAE_E_FORMAT, "there is no decoder");
}

static sae_status check_skips(const saei_parts *p, sae_error *err)
{
    for (uint32_t i = 0; i < p->n_skip; i++) {
        const saei_skip *s = p->skip + i;
        if (!inside(s->in_first, s->w.m.d, p->d_in) || !inside(s->out_first, s->w.m.n, p->d_out))
            return saei_fail(err, SAE_E_FORMAT, "skip %u reads %d elements from %d on and writes %d from %d on: of d_in = %d, d_out = %d",
                             (unsigned)i, (int)s->w.m.d, (int)s->in_first, (int)s->w.m.n, (int)s->out_first, (int)p->d_in, (int)p->d_out);
    }
    return SAE_OK;
}

static bool is_linear(const saei_linear *l, int32_t n, int32_t d)
{
    return l->w.m.n == n && l->w.m.d == d && l->bias;
}

static sae_status check_temporal(const saei_parts *p, sae_error *err)
{
    for (int32_t i = 0; i < p->n_attention; i++) {
        const saei_attention *a = p->attention + i;
        const int32_t n = a->k_ctx.w.m.n;
        if (p->n_heads < 1 || p->d_sae % p->n_heads || n < 1 || n % p->n_heads || !is_linear(&a->k_ctx, n, p->d_sae) ||
            !is_linear(&a->q_target, n, p->d_sae) || !is_linear(&a->v_ctx, p->d_sae, p->d_sae) ||
            !is_linear(&a->c_proj, p->d_sae, p->d_sae))
            return saei_fail(err, SAE_E_FORMAT, "attention layer %d does not fit %d features, %d keys and %d heads", (int)i, (int)p->d_sae,
                             (int)n, (int)p->n_heads);
    }
    return SAE_OK;
}

/* More rounds of a matching pursuit would not end while anyone waits; by default there are d_in. */
static bool too_many_rounds(const saei_parts *p)
{
    enum { MOST_ROUNDS = 1 << 16 };
    return p->arch == SAE_MATCHING_PURSUIT && p->k > MOST_ROUNDS && p->k > p->d_in;
}

static sae_status check_arch(const saei_parts *p, sae_error *err)
{
    const bool selects = p->arch == SAE_TOPK || p->arch == SAE_ABSTOPK || p->arch == SAE_GROUPMAX;
    const bool square = p->arch == SAE_MATCHING_PURSUIT || p->arch == SAE_TEMPORAL;
    if (p->d_in < 1 || p->d_sae < 1 || p->d_out < 1 || p->k < 0)
        return saei_fail(err, SAE_E_FORMAT, "d_in = %d, d_sae = %d, d_out = %d, k = %d", (int)p->d_in, (int)p->d_sae, (int)p->d_out,
                         (int)p->k);
    if (selects && (p->k < 1 || p->k > p->d_sae))
        return saei_fail(err, SAE_E_FORMAT, "k = %d, but %s of %d features needs 1 .. %d", (int)p->k, sae_arch_name(p->arch), (int)p->d_sae,
                         (int)p->d_sae);
    if (p->arch == SAE_GROUPMAX && p->d_sae % p->k)
        return saei_fail(err, SAE_E_FORMAT, "%d features are no %d groups of one size", (int)p->d_sae, (int)p->k);
    if (too_many_rounds(p))
        return saei_fail(err, SAE_E_UNSUPPORTED, "%d rounds of a matching pursuit are more than this version runs: 65536, or d_in",
                         (int)p->k);
    if (p->apply_b_dec && p->d_in != p->d_out)
        return saei_fail(err, SAE_E_FORMAT, "b_dec of %d elements cannot be subtracted from rows of %d", (int)p->d_out, (int)p->d_in);
    if (square && (p->d_in != p->d_out || p->n_enc != 1 || p->enc[0].w.m.d != p->d_in))
        return saei_fail(err, SAE_E_FORMAT, "a %s SAE has one encoder and d_in = d_out, this one has %u and d_in = %d, d_out = %d",
                         sae_arch_name(p->arch), (unsigned)p->n_enc, (int)p->d_in, (int)p->d_out);
    if (p->key_scale && (p->rescale_by_decoder_norm || p->arch == SAE_GATED || p->arch == SAE_MATCHING_PURSUIT))
        return saei_fail(err, SAE_E_FORMAT, "pre-activations of a %s SAE that are scaled, and scaled again", sae_arch_name(p->arch));
    if (p->norm == SAE_NORM_AFFINE && (!p->in_shift || !p->in_scale || (!p->norm_in_only && (!p->out_shift || !p->out_scale))))
        return saei_fail(err, SAE_E_FORMAT, "the affine normaliser lacks one of its vectors");
    return SAE_OK;
}

sae_status saei_parts_check(const saei_parts *p, sae_error *err)
{
    sae_status status = check_arch(p, err);
    if (!status)
        status = check_blocks(p, err);
    if (!status)
        status = check_segments(p, err);
    if (!status)
        status = check_skips(p, err);
    return status || p->arch != SAE_TEMPORAL ? status : check_temporal(p, err);
}
