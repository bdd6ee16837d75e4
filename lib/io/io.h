/* Readers: files -> canonical parts. They check every size before it is used and know nothing of models.
 *
 * Canonical form of every published SAE. d_in, d_out count all hook points, laid one behind the other.
 *     xn = normalise(x)                     none, scale, constant norm, layer norm, affine; the row is all hook points together
 *     xc = xn - b_dec                       if apply_b_dec
 *     h  = xc W_enc + b_enc                 each block of features reads its own stretch of xc
 *     f  = act(h)
 *     y  = f W_dec + b_dec                  each segment: some features write one stretch of y
 *     y  = un-normalise(y) + x W_skip       un-normalised unless norm_in_only; the skip reads the raw row */
#ifndef SAEI_IO_H
#define SAEI_IO_H

#include "host/host.h"
#include "sae/model.h"

/* A matrix that stays where it is. */
typedef struct saei_tensor {
    saei_matrix m;
    const char *name; /* as the file calls it, for sentences; static or owned by the parts */
    int32_t file;     /* index in parts.files when m.data points into that file, else -1: memory of the parts or the caller's */
    size_t offset;    /* of the data in the file, for pread */
} saei_tensor;

/* Features first .. first + w.m.n - 1 read the elements in_first .. in_first + w.m.d - 1 of a row. One block for most SAEs, one a layer for a
 * cross-layer transcoder, one a head for a crosscoder of llamascopium (whose blocks share one matrix). Blocks ascend and cover all features. */
typedef struct saei_block {
    int32_t first;
    int32_t in_first;
    saei_tensor w;
} saei_block;

/* Features first .. first + n - 1 write the elements out_first .. out_first + w.m.d - 1 of a decoded row: feature first + j by the row
 * row_first + j * row_step of w.m. One segment for most SAEs; more where a decoder writes several hook points. A matrix stored by columns has
 * row_first = 0 and row_step = 1. Segments ascend by `first`, then by out_first; those of one `first` have one n, and do not overlap. */
typedef struct saei_segment {
    int32_t first, n;
    int32_t out_first;
    int32_t row_first, row_step;
    saei_tensor w;
} saei_segment;

/* May segment b stand behind a? Both lie inside their SAE. */
static inline bool saei_segment_follows(const saei_segment *a, const saei_segment *b)
{
    if (b->first == a->first)
        return b->n == a->n && b->out_first - a->out_first >= a->w.m.d;
    return b->first - a->first >= a->n;
}

/* y[out_first + o] += sum over i of x[in_first + i] * S, seen by output: w.m.n outputs of w.m.d inputs each. */
typedef struct saei_skip {
    int32_t in_first, out_first;
    saei_tensor w;
} saei_skip;

/* A linear layer of a temporal SAE: w seen by output, bias [w.m.n]. */
typedef struct saei_linear {
    saei_tensor w;
    float *bias;
} saei_linear;

/* An attention layer of a temporal SAE (sae-lens 6.54, saes/temporal_sae.py): k_ctx, q_target [d_sae / bottleneck][d_sae], v_ctx, c_proj
 * [d_sae][d_sae]. */
typedef struct saei_attention {
    saei_linear k_ctx, q_target, v_ctx, c_proj;
} saei_attention;

/* The screen of W_enc as a .sae file holds it (model/screen.h). That the vectors have these sizes, and values that can be, is known, and no more. */
typedef struct saei_packed_screen {
    const uint8_t *weights;                  /* NULL = there is none */
    const float *scale, *error, *norm, *top; /* [d_sae] */
    size_t n_weights;                        /* bytes */
    bool centred;                            /* on b_dec */
} saei_packed_screen;

enum {
    SAEI_WARNINGS = 8,
    SAEI_TEXTS = SAE_TEXT_CATALOG + 1,
    SAEI_CHECKED_WHOLE = 64 << 20 /* files up to here are looked at in full when they are opened */
};

/* What a checkpoint says, in canonical terms. Everything is owned (saei_parts_free). Vectors are f32 whatever the file holds. */
typedef struct saei_parts {
    saei_file *files; /* those that tensors lie in; they stay open as long as the parts live */
    uint32_t n_files, room_files;
    saei_arena memory; /* all below, and unpacked or copied matrices */

    sae_arch arch;
    int32_t d_in, d_sae, d_out, k; /* k: top-k; groups of a groupmax; most rounds of a matching pursuit */
    int32_t n_in, n_out;           /* hook points that a row in and a row out consist of */
    bool apply_b_dec;
    bool rescale_by_decoder_norm; /* a top-k is by h * ||W_dec row|| ... */
    bool returns_unscaled;        /* ... and the codes are h all the same (llamascopium), else h * ||W_dec row||, which decode divides by */
    bool keeps_negative;          /* there is no relu: a code may be negative (circuit-tracer, llamascopium) */
    bool stops_on_repeat;         /* matching pursuit: a round that adds no feature is the last */
    float residual_threshold;     /* matching pursuit: stop below this norm of what is left */

    sae_norm norm;
    float norm_scaling_factor;    /* SAE_NORM_SCALE: of a row, 1 when there is none */
    float norm_out_factor;        /* SAE_NORM_SCALE: a decoded row is multiplied by it: 1 / norm_scaling_factor in most formats */
    bool norm_in_only;            /* a decoded row is not un-normalised (transcoders of sae-lens) */
    float *in_shift, *in_scale;   /* [d_in], SAE_NORM_AFFINE: (x - in_shift) * in_scale */
    float *out_shift, *out_scale; /* [d_out], y * out_scale + out_shift */

    saei_block *enc;
    saei_segment *dec;
    saei_skip *skip;
    uint32_t n_enc, n_dec, n_skip, room_enc, room_dec, room_skip;
    float *b_enc;                  /* [d_sae] or NULL */
    float *b_dec;                  /* [d_out] or NULL */
    float *threshold;              /* [d_sae] or NULL, as stored */
    float *b_gate, *b_mag, *r_mag; /* [d_sae], gated */
    float *key_scale;              /* [d_sae] or NULL: h is multiplied by it, and the codes are of that scale; not gated */
    float *dec_scale;              /* [d_sae] or NULL: W_dec rows are multiplied by it */
    saei_attention *attention;     /* temporal */
    int32_t n_attention, n_heads;
    saei_packed_screen screen;

    char *texts[SAEI_TEXTS]; /* by SAE_TEXT_*; never NULL after success, but for index 0 */
    char *warnings[SAEI_WARNINGS];
    int32_t n_warnings;
} saei_parts;

/* Reads the checkpoint at `path`. `opt` has been read into a full struct (never NULL). On failure *out is empty. Checks vectors, and
 * all of files that are <= 64 MiB together unless opt->check == SAE_NO, for non-finite values. */
sae_status saei_parts_open(saei_parts *out, const saei_host *host, const char *path, const sae_open_options *opt, sae_error *err);
void saei_parts_free(saei_parts *parts, const saei_host *host);

/* Adds to a list of the parts; false without memory. */
bool saei_parts_add_file(saei_parts *parts, const saei_host *host, const saei_file *file);
bool saei_parts_add_block(saei_parts *parts, const saei_host *host, const saei_block *block);
bool saei_parts_add_segment(saei_parts *parts, const saei_host *host, const saei_segment *segment);
bool saei_parts_add_skip(saei_parts *parts, const saei_host *host, const saei_skip *skip);

/* Bytes of all files of the parts. */
size_t saei_parts_bytes(const saei_parts *parts);

#endif
