/* The sections of a .sae file -> canonical parts. What they say is held against itself: nothing of it is believed because we wrote it. */
#include "io/sae_file.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "io/formats.h"

#define DAMAGED "%s: %s: the file is damaged, get a good copy"

static sae_status contradicts(const saei_source *s, const char *what)
{
    return saei_fail(s->err, SAE_E_FORMAT, DAMAGED, s->file, what);
}

/* ---- numbers ---- */

static bool is_size(int32_t v)
{
    return v >= 1;
}

static bool is_factor(float v)
{
    return isfinite(v) && v > 0.0f;
}

static bool k_fits(const saei_sae_numbers *n)
{
    switch (n->arch) {
    case SAE_TOPK:
    case SAE_ABSTOPK:
        return n->k >= 1 && n->k <= n->d_sae;
    case SAE_GROUPMAX:
        return n->k >= 1 && n->k <= n->d_sae && n->d_sae % n->k == 0;
    case SAE_MATCHING_PURSUIT:
        return n->k >= 1;
    default:
        return n->k >= 0 && n->k <= n->d_sae;
    }
}

/* `file_bytes` bound the sizes of rows: every element of one has at least a bias, or a weight. */
static const char *wrong_number(const saei_sae_numbers *n, size_t file_bytes)
{
    size_t bytes;
    const int32_t d = n->d_in > n->d_out ? n->d_in : n->d_out;
    if (n->arch < SAE_STANDARD || n->arch > SAE_TEMPORAL)
        return "the architecture is none of this version";
    if (!is_size(n->d_in) || !is_size(n->d_sae) || !is_size(n->d_out) || !is_size(n->n_in) || !is_size(n->n_out))
        return "a size is below 1";
    if (n->n_in > n->d_in || n->n_out > n->d_out || (size_t)d > file_bytes || !saei_mul(&bytes, (size_t)d, (size_t)n->d_sae) ||
        !saei_mul(&bytes, bytes, 16))
        return "the sizes cannot be";
    if (!k_fits(n))
        return "k is not one that this architecture has";
    if (n->norm < SAE_NORM_NONE || n->norm > SAE_NORM_AFFINE)
        return "the normalisation is none of this version";
    if (!is_factor(n->norm_scaling_factor) || !is_factor(n->norm_out_factor))
        return "a factor of the normalisation is not above 0";
    if (!isfinite(n->residual_threshold) || n->n_heads < 0)
        return "the residual threshold or the number of heads cannot be";
    if ((n->flags & SAEI_SAE_APPLY_B_DEC) && n->d_in != n->d_out)
        return "b_dec is subtracted from rows of another size";
    if ((n->flags & SAEI_SAE_RESCALE) && n->arch != SAE_TOPK && n->arch != SAE_ABSTOPK)
        return "codes are rescaled by an architecture that does not";
    return n->flags >= 2 * SAEI_SAE_NORM_IN_ONLY ? "there are flags that this version does not know" : NULL;
}

static void take_numbers(saei_parts *p, const saei_sae_numbers *n)
{
    p->arch = n->arch;
    p->d_in = n->d_in;
    p->d_sae = n->d_sae;
    p->d_out = n->d_out;
    p->k = n->k;
    p->n_in = n->n_in;
    p->n_out = n->n_out;
    p->apply_b_dec = n->flags & SAEI_SAE_APPLY_B_DEC;
    p->rescale_by_decoder_norm = n->flags & SAEI_SAE_RESCALE;
    p->returns_unscaled = n->flags & SAEI_SAE_UNSCALED;
    p->keeps_negative = n->flags & SAEI_SAE_NEGATIVE;
    p->stops_on_repeat = n->flags & SAEI_SAE_STOPS_ON_REPEAT;
    p->norm_in_only = n->flags & SAEI_SAE_NORM_IN_ONLY;
    p->residual_threshold = n->residual_threshold;
    p->norm = n->norm;
    p->norm_scaling_factor = n->norm_scaling_factor;
    p->norm_out_factor = n->norm_out_factor;
    p->n_heads = n->n_heads;
}

/* The options that other formats need and this one does not: what they say must be what is there. */
static sae_status check_options(saei_source *s)
{
    const saei_parts *p = s->parts;
    const char *arch = s->opt->architecture;
    if (arch && strcmp(arch, sae_arch_name(p->arch)) != 0)
        return saei_fail(s->err, SAE_E_ARG, "the option architecture is \"%.40s\", but %s says that this SAE is %s", arch, s->file,
                         sae_arch_name(p->arch));
    if (s->opt->k && p->arch != SAE_TOPK && p->arch != SAE_ABSTOPK)
        return saei_fail(s->err, SAE_E_ARG, "the option k = %d is for top-k SAEs, this one is %s", (int)s->opt->k, sae_arch_name(p->arch));
    return s->opt->k ? saei_set_k(s, p->k) : SAE_OK;
}

static sae_status read_numbers(saei_source *s)
{
    const saei_array *a;
    saei_sae_numbers n;
    const sae_status status = saei_take_array(&a, s, "numbers");
    if (status)
        return status;
    if (a->element != SAEI_U8 || a->bytes != sizeof n)
        return contradicts(s, "the numbers have another size");
    memcpy(&n, a->data, sizeof n);
    const char *wrong = wrong_number(&n, saei_parts_bytes(s->parts));
    if (wrong)
        return contradicts(s, wrong);
    take_numbers(s->parts, &n);
    return check_options(s);
}

/* ---- texts ---- */

static bool is_kept(uint32_t what)
{
    return (what >= SAE_TEXT_ARCHITECTURE && what <= SAE_TEXT_HOOK_NAME) || (what >= SAE_TEXT_CONFIG && what <= SAE_TEXT_CATALOG);
}

/* Texts of a later version are no reason to refuse. */
static sae_status read_text(saei_source *s, uint32_t what, const char *text, size_t bytes)
{
    if (memchr(text, '\0', bytes) || !saei_utf8(text, bytes))
        return contradicts(s, "a text is not UTF-8");
    char *copy = saei_arena_text(&s->parts->memory, s->host, text, bytes);
    if (!copy)
        return saei_fail(s->err, SAE_E_NOMEM, "no memory for the texts of %s (%zu bytes)", s->file, bytes);
    if (is_kept(what))
        s->parts->texts[what] = copy;
    else if (what >= SAEI_SAE_WARNING && s->parts->n_warnings < SAEI_WARNINGS)
        s->parts->warnings[s->parts->n_warnings++] = copy;
    return SAE_OK;
}

static sae_status read_texts(saei_source *s)
{
    const saei_array *a = saei_store_find(&s->store, "texts");
    uint32_t head[2];
    for (size_t at = 0; a && at < a->bytes;) {
        if (a->element != SAEI_U8 || a->bytes - at < sizeof head)
            return contradicts(s, "the texts end early");
        memcpy(head, a->data + at, sizeof head);
        at += sizeof head;
        const size_t bytes = head[1], padded = (bytes + 3) / 4 * 4;
        if (padded > a->bytes - at)
            return contradicts(s, "a text is longer than all of them");
        const sae_status status = read_text(s, head[0], (const char *)a->data + at, bytes);
        if (status)
            return status;
        at += padded;
    }
    return SAE_OK;
}

/* ---- lists ---- */

/* A list of i32 rows, in memory of this opening; *n = 0 when there is none. */
static sae_status read_list(const int32_t **out, int32_t *n, saei_source *s, const char *name, int32_t columns)
{
    const saei_array *a = saei_store_find(&s->store, name);
    char what[64];
    *n = 0;
    if (!a)
        return SAE_OK;
    (void)snprintf(what, sizeof what, "the list of %s has another shape", name);
    if (a->element != SAEI_I32 || a->n_dims != 2 || a->shape[1] != columns || a->shape[0] > SAEI_SAE_SECTIONS)
        return contradicts(s, what);
    int32_t *copy = saei_arena_alloc(&s->memory, s->host, a->bytes);
    if (!copy)
        return saei_fail(s->err, SAE_E_NOMEM, "no memory for the list of %s (%zu bytes)", name, a->bytes);
    memcpy(copy, a->data, a->bytes);
    *out = copy;
    *n = (int32_t)a->shape[0];
    return SAE_OK;
}

/* Matrix number i, in the shape that it has. */
static sae_status take_matrix(saei_tensor *out, saei_source *s, int32_t i)
{
    const saei_array *a;
    char name[32];
    (void)snprintf(name, sizeof name, "matrix.%d", (int)i);
    const sae_status status = saei_take_array(&a, s, name);
    if (status)
        return status;
    if (a->shape[0] > INT32_MAX || a->shape[1] > INT32_MAX || !saei_element_dtype(a->element))
        return contradicts(s, "a matrix has sizes or a type that no SAE has");
    return saei_take_view(out, s, a, false, (int32_t)a->shape[0], "d_sae", (int32_t)a->shape[1], "d_in");
}

static sae_status read_blocks(saei_source *s)
{
    const saei_parts *p = s->parts;
    const int32_t *rows;
    int32_t n, next = 0;
    sae_status status = read_list(&rows, &n, s, "blocks", SAEI_SAE_BLOCK_COLUMNS);
    for (int32_t i = 0; i < n && !status; i++) {
        const int32_t *row = rows + (size_t)i * SAEI_SAE_BLOCK_COLUMNS;
        saei_tensor w;
        if ((status = take_matrix(&w, s, row[2])))
            return status;
        if (row[0] != next || w.m.n > p->d_sae - next || row[1] < 0 || row[1] > p->d_in || w.m.d > p->d_in - row[1])
            return contradicts(s, "an encoder reads or covers what is not there");
        next += w.m.n;
        status = saei_add_block(s, row[0], row[1], &w);
    }
    return status || next == p->d_sae ? status : contradicts(s, "the encoders do not cover all features");
}

static bool segment_fits(const saei_segment *d, const saei_parts *p)
{
    return d->n >= 1 && d->first >= 0 && d->first <= p->d_sae && d->n <= p->d_sae - d->first && d->out_first >= 0 &&
           d->out_first <= p->d_out && d->w.m.d <= p->d_out - d->out_first && d->row_first >= 0 && d->row_step >= 1 &&
           (int64_t)d->row_first + ((int64_t)d->n - 1) * d->row_step < d->w.m.n;
}

static sae_status read_segments(saei_source *s)
{
    saei_parts *p = s->parts;
    const int32_t *rows;
    int32_t n;
    sae_status status = read_list(&rows, &n, s, "segments", SAEI_SAE_SEGMENT_COLUMNS);
    for (int32_t i = 0; i < n && !status; i++) {
        const int32_t *row = rows + (size_t)i * SAEI_SAE_SEGMENT_COLUMNS;
        saei_segment d = {.first = row[0], .n = row[1], .out_first = row[2], .row_first = row[3], .row_step = row[4]};
        if ((status = take_matrix(&d.w, s, row[5])))
            return status;
        if (!segment_fits(&d, p) || (i && !saei_segment_follows(&p->dec[i - 1], &d)))
            return contradicts(s, "a decoder writes or covers what is not there");
        status = saei_add_segment(s, &d);
    }
    if (!status && !n)
        status = contradicts(s, "there is no decoder");
    return status;
}

static sae_status read_skips(saei_source *s)
{
    const saei_parts *p = s->parts;
    const int32_t *rows;
    int32_t n;
    sae_status status = read_list(&rows, &n, s, "skips", SAEI_SAE_SKIP_COLUMNS);
    for (int32_t i = 0; i < n && !status; i++) {
        const int32_t *row = rows + (size_t)i * SAEI_SAE_SKIP_COLUMNS;
        saei_tensor w;
        if ((status = take_matrix(&w, s, row[2])))
            return status;
        if (row[0] < 0 || row[0] > p->d_in || w.m.d > p->d_in - row[0] || row[1] < 0 || row[1] > p->d_out || w.m.n > p->d_out - row[1])
            return contradicts(s, "a skip reads or writes what is not there");
        status = saei_add_skip(s, row[0], row[1], &w);
    }
    return status;
}

/* ---- attention ---- */

static sae_status read_linear(saei_linear *out, saei_source *s, const int32_t *at)
{
    char name[32];
    (void)snprintf(name, sizeof name, "bias.%d", (int)at[1]);
    const sae_status status = take_matrix(&out->w, s, at[0]);
    return status ? status : saei_take_vector(&out->bias, s, name, out->w.m.n, "outputs");
}

static bool attention_fits(const saei_attention *a, const saei_parts *p)
{
    const int32_t n = p->d_sae, narrow = a->k_ctx.w.m.n;
    return a->k_ctx.w.m.d == n && a->q_target.w.m.d == n && a->q_target.w.m.n == narrow && a->v_ctx.w.m.n == n && a->v_ctx.w.m.d == n &&
           a->c_proj.w.m.n == n && a->c_proj.w.m.d == n && n % narrow == 0 && narrow % p->n_heads == 0;
}

static sae_status read_attention(saei_source *s)
{
    saei_parts *p = s->parts;
    const int32_t *rows;
    int32_t n;
    sae_status status = read_list(&rows, &n, s, "attention", SAEI_SAE_ATTENTION_COLUMNS);
    if (status || (!n && p->arch != SAE_TEMPORAL))
        return status;
    if (p->arch != SAE_TEMPORAL || !n || p->n_heads < 1)
        return contradicts(s, "attention and architecture disagree");
    p->attention = saei_arena_alloc(&p->memory, s->host, (size_t)n * sizeof *p->attention);
    if (!p->attention)
        return saei_fail(s->err, SAE_E_NOMEM, "no memory for %d attention layers", (int)n);
    for (int32_t i = 0; i < n && !status; i++) {
        const int32_t *row = rows + (size_t)i * SAEI_SAE_ATTENTION_COLUMNS;
        saei_attention *a = &p->attention[i];
        if ((status = read_linear(&a->k_ctx, s, row)) || (status = read_linear(&a->q_target, s, row + 2)) ||
            (status = read_linear(&a->v_ctx, s, row + 4)) || (status = read_linear(&a->c_proj, s, row + 6)))
            return status;
        if (!attention_fits(a, p))
            return contradicts(s, "an attention layer has sizes that do not go together");
    }
    p->n_attention = n;
    return status;
}

/* ---- vectors ---- */

typedef struct vector {
    float **to;
    const char *name;
    int32_t n;
    const char *n_name;
    bool needed;
} vector;

static sae_status read_vectors(saei_source *s)
{
    saei_parts *p = s->parts;
    const bool gated = p->arch == SAE_GATED, affine = p->norm == SAE_NORM_AFFINE;
    const vector all[] = {{&p->b_enc, "b_enc", p->d_sae, "d_sae", false},
                          {&p->b_dec, "b_dec", p->d_out, "d_out", false},
                          {&p->threshold, "threshold", p->d_sae, "d_sae", p->arch == SAE_JUMPRELU},
                          {&p->b_gate, "b_gate", p->d_sae, "d_sae", gated},
                          {&p->b_mag, "b_mag", p->d_sae, "d_sae", gated},
                          {&p->r_mag, "r_mag", p->d_sae, "d_sae", gated},
                          {&p->dec_scale, "dec_scale", p->d_sae, "d_sae", false},
                          {&p->in_shift, "in_shift", p->d_in, "d_in", affine},
                          {&p->in_scale, "in_scale", p->d_in, "d_in", affine},
                          {&p->out_shift, "out_shift", p->d_out, "d_out", affine && !p->norm_in_only},
                          {&p->out_scale, "out_scale", p->d_out, "d_out", affine && !p->norm_in_only},
                          {&p->key_scale, "key_scale", p->d_sae, "d_sae", false}};
    sae_status status = SAE_OK;
    for (size_t i = 0; i < sizeof all / sizeof *all && !status; i++)
        if (all[i].needed || saei_store_find(&s->store, all[i].name))
            status = saei_take_vector(all[i].to, s, all[i].name, all[i].n, all[i].n_name);
    return status;
}

/* ---- the screen ---- */

/* A vector of the screen, each value in least .. most: what the bounds are made of is never negative, and infinite where a feature is a candidate
 * always. */
static sae_status take_bounds(const float **out, saei_source *s, const char *name, float least, float most)
{
    const saei_array *a;
    const size_t n = (size_t)s->parts->d_sae;
    const sae_status status = saei_take_array(&a, s, name);
    if (status)
        return status;
    if (a->element != SAEI_F32 || a->n_dims != 1 || a->shape[0] != (int64_t)n)
        return contradicts(s, "the screen has other sizes than its weights");
    const float *v = (const float *)(const void *)a->data;
    for (size_t i = 0; i < n; i++)
        if (!(v[i] >= least && v[i] <= most))
            return saei_fail(s->err, SAE_E_FORMAT, "%s: %s[%zu] is %g, which cannot be: the file is damaged, get a good copy", s->file,
                             name, i, (double)v[i]);
    *out = v;
    return SAE_OK;
}

/* Everything stays where it is. Later kinds are passed over. */
static sae_status read_screen(saei_source *s)
{
    const saei_array *a = saei_store_find(&s->store, "screen"), *weights;
    saei_packed_screen to = {0};
    saei_sae_screen screen;
    sae_status status;
    if (!a || a->bytes != sizeof screen)
        return SAE_OK;
    memcpy(&screen, a->data, sizeof screen);
    if (screen.kind != SAEI_SAE_SCREEN_KIND)
        return SAE_OK;
    if (screen.centred > 1)
        return contradicts(s, "the screen has flags that this version does not know");
    to.centred = screen.centred;
    if ((status = saei_take_array(&weights, s, "screen.weights")) || (status = take_bounds(&to.scale, s, "screen.scale", 0.0f, FLT_MAX)) ||
        (status = take_bounds(&to.error, s, "screen.error", 0.0f, INFINITY)) ||
        (status = take_bounds(&to.norm, s, "screen.norm", 0.0f, INFINITY)) ||
        (status = take_bounds(&to.top, s, "screen.top", -FLT_MAX, INFINITY)))
        return status;
    to.weights = weights->data;
    to.n_weights = weights->element == SAEI_U8 && weights->n_dims == 1 ? weights->bytes : 0;
    s->parts->screen = to;
    return SAE_OK;
}

/* ---- the whole ---- */

sae_status saei_read_sae_file(saei_source *s)
{
    sae_status status;
    s->what = "a .sae file";
    s->sizes_from = "its numbers say";
    if ((status = saei_source_tensors(s, s->named)) || (status = read_numbers(s)) || (status = read_texts(s)) ||
        (status = read_blocks(s)) || (status = read_segments(s)) || (status = read_skips(s)) || (status = read_vectors(s)) ||
        (status = read_attention(s)) || (status = read_screen(s)))
        return status;
    return saei_set_text(s, SAE_TEXT_FORMAT_VERSION, "1");
}
