/* Inside the codec: views of caller's rows, the normalisers, the workspace of an encode. Steering builds on these. */
#ifndef SAEI_CODEC_H
#define SAEI_CODEC_H

#include "codec/floors.h"
#include "model/model.h"
#include "sae/codec.h"

/* Row x [d_in] f32 -> xc = normalise(x) - b_in (may be in place), and what un-normalises a decoded row: y * scale + shift (1 and 0 where that
 * is nothing, or goes by element). */
void saei_normalise(const sae_model *model, float *xc, const float *x, float *scale, float *shift);

/* Row y [d_out] in place; scale and shift are those of its row in, whose values count where saei_normalises_rows, and norm_out_factor and 0
 * for SAE_NORM_SCALE. */
void saei_unnormalise(const sae_model *model, float *y, float scale, float shift);

/* Is xc of saei_normalise the row itself? */
bool saei_takes_rows_as_they_are(const sae_model *model);

/* Does each row have a scale and shift of its own, which decoding needs? */
bool saei_normalises_rows(const sae_model *model);

/* The code of one feature from its dot, as the activate kernel gives it (entry i of act's arrays); 0 = inactive.
 * Non-finite pre-activations are counted. */
float saei_code(const saei_act *act, size_t i, float dot, int64_t *bad);

/* The pre-activation by which a feature is judged: h, or the gate's u + b_gate. */
float saei_pre(const saei_act *act, size_t i, float dot);

/* Scratch of an encode of up to max_rows rows: pointers into one block. */
typedef struct saei_work {
    size_t max_rows;
    float *xc;                /* [max_rows][d_in] */
    float *packed;            /* of each block: [ceil(max_rows/8)][d of the block][8] */
    float *scale, *shift;     /* [max_rows] */
    float *c;                 /* per worker: dots of a step */
    float *pack;              /* per worker: panels packed on the way */
    float *pick;              /* per worker: values while the k-th largest is looked for, [d_sae]; NULL unless top-k */
    int32_t *idx;             /* [max_rows][d_sae]: codes of a row, first by tile, then contiguous */
    float *val;               /* [max_rows][d_sae] */
    int32_t *count;           /* [max_rows][n_tiles] */
    size_t *bad;              /* [max_rows][n_tiles] */
    int32_t *n;               /* [max_rows]: codes of the row */
    _Atomic(uint32_t) *floor; /* [max_rows]: bits of the value that a code must exceed; 0 = none is known */
    float *best;              /* [max_rows][n_tiles] and a row [d_in], of a matching pursuit; else NULL */
} saei_work;

size_t saei_work_bytes(const sae_model *model, size_t max_rows); /* SIZE_MAX on overflow */
void saei_work_init(saei_work *work, const sae_model *model, size_t max_rows, void *block);

/* Loads rows r0 .. r0+n-1 into work->xc, normalised. */
void saei_work_load(saei_work *work, const sae_model *model, const saei_rows *rows, int64_t r0, size_t n);

/* Rows packed for block `block`, and the rows themselves, n of them, as products of the block want them. */
saei_xrows saei_work_rows(const saei_work *work, const sae_model *model, uint32_t block, size_t n);

/* Tile `tile` of the model: features first .. end - 1, all of one block. */
typedef struct saei_tile {
    uint32_t block;
    size_t first, end;
} saei_tile;

saei_tile saei_tile_of(const sae_model *model, uint32_t tile);

/* Encodes the n loaded rows: codes of row r in work->idx + r*d_sae, work->val + r*d_sae, work->n[r] of them, ascending. Adds the
 * non-finite pre-activations to *bad. SAE_E_HOST when the host's parallel-for failed. */
sae_status saei_work_encode(saei_work *work, const sae_model *model, size_t n, int64_t *bad);

/* Encodes other rows, x [n][d_in]; row r as row map[r] of the work. Not for a matching pursuit. */
sae_status saei_work_encode_rows(saei_work *work, const sae_model *model, const float *x, const int32_t *map, size_t n, int64_t *bad);

/* The same for a matching pursuit. */
sae_status saei_work_pursue(saei_work *work, const sae_model *model, size_t n, int64_t *bad);

/* Do other features decide whether a feature is active? */
bool saei_selects(const sae_model *model);

/* Which of a row's m codes, ascending, an SAE that selects keeps, and what it makes of their values; `pick` [m]. Returns how many. */
size_t saei_select(const sae_model *model, int32_t *idx, float *val, size_t m, float *pick);

/* The k-th largest of v [n], 1 <= k <= n; v is reordered. */
float saei_kth_largest(float *v, size_t n, size_t k);

/* What a code must exceed to be among the k largest of a row of which the n of v, reordered here, are known: the float before their k-th
 * largest, so that equal ones, which the lower index decides, stay in; 0 while no k of them are positive. */
float saei_floor_of(float *v, size_t n, size_t k);

/* Scratch of a temporal SAE: a sequence of up to max_rows rows. */
typedef struct saei_sequence {
    size_t max_rows;
    float *rows, *scaled; /* [max_rows][d_in]: what is left of the rows, and the same as the encoder sees it */
    float *z, *v;         /* [max_rows][d_sae]: codes going into a layer, then what attention takes; values, then the layer's prediction */
    float *predicted;     /* [max_rows][d_sae] predicted codes of all layers */
    float *q, *k;         /* [max_rows][keys of a layer] */
    float *scale, *shift; /* [max_rows] */
    float *packed;        /* rows packed for a product */
    double *weights;      /* per worker: [max_rows] */
} saei_sequence;

size_t saei_sequence_layout(saei_sequence *out, const sae_model *model, size_t max_rows, unsigned char *block);

/* Bounds of a row from its first plane alone and from both. */
typedef struct saei_spans {
    saei_span coarse, fine;
} saei_spans;

/* Features of one row that wait for their dots on one worker: as many as are taken at once. */
typedef struct saei_waiting {
    size_t row, n;
    int32_t ids[16];
    size_t places[16]; /* of their codes, in saei_work.val */
} saei_waiting;

/* Of these as many as are full. */
typedef struct saei_ripe {
    size_t n;
    saei_waiting lists[8];
} saei_ripe;

/* Scratch of screened encodes. */
typedef struct saei_screening {
    float *dense;      /* [max_rows][d_in]: the rows that are encoded densely after all */
    int8_t *high;      /* first planes by groups of rows: [d16][rows of the group][16]; of few rows [d16][rows][both planes][16] */
    int8_t *low;       /* [max_rows][d16][16] second planes */
    saei_spans *spans; /* [max_rows] */
    int32_t *sums;     /* per worker: [step_sums] */
    size_t step_sums;
    saei_waiting *waiting; /* per worker: [rows] */
    saei_ripe *ripe;       /* per worker */
    saei_floors floors;
    int32_t *map;            /* [max_rows]: which rows `dense` holds */
    _Atomic(int32_t) *count; /* [max_rows]: candidates; -1 = the row is to be encoded densely */
} saei_screening;

struct sae_ctx {
    sae_model *model;
    atomic_flag busy;
    sae_error error;
    int64_t nonfinite;
    size_t bytes; /* of the whole allocation, for the allocator */
    saei_work work;
    saei_sequence sequence;   /* temporal; else zeros */
    saei_screening screening; /* of an SAE that can be screened; else zeros */
    int32_t screen;           /* the option */
    double share;             /* mean share of candidates of the last rows */
    int64_t paused;           /* rows since screening paused */
    sae_ctx_counts counts;
    float *row;   /* per worker: a decoded row and a gathered decoder row, [2][d_out] */
    float *coef;  /* per worker: [SAEI_COEFS] */
    int32_t *ids; /* per worker: [SAEI_COEFS] */
    float *y;     /* [max_rows][d_out] rows of a forward pass */
    float *raw;   /* [max_rows][d_in] the rows as they came, where there is a skip; else NULL */
    double *mean; /* [d_out] */
};

enum { SAEI_COEFS = 256 };

/* Opens a call on ctx: busy flag, fp mode, clean error. Every saei_ctx_begin that gave SAE_OK needs saei_ctx_end, which gives `status`
 * back. */
sae_status saei_ctx_begin(sae_ctx *ctx, saei_fpmode *mode);
sae_status saei_ctx_end(sae_ctx *ctx, saei_fpmode mode, sae_status status);

/* How many of the n ascending ids are below `feature`. */
size_t saei_below(const int32_t *ids, size_t n, int64_t feature);

/* out [d_out] += the n codes, ascending, each by its decoder row. */
void saei_add_codes(const sae_ctx *ctx, float *out, const int32_t *ids, const float *values, size_t n, uint32_t worker);

/* out [d_out] = b_dec + the n codes, ascending, each by its decoder row; not un-normalised. */
void saei_decode_row(const sae_ctx *ctx, float *out, const int32_t *ids, const float *values, size_t n, uint32_t worker);

/* Reads all rows of a call as one sequence and predicts; puts n of them where an encode wants them; adds the predicted codes of row `row` of
 * the sequence to the codes of the work's row r. */
sae_status saei_sequence_read(sae_ctx *ctx, const saei_rows *x);
void saei_sequence_load(sae_ctx *ctx, size_t r0, size_t n);
void saei_sequence_add(sae_ctx *ctx, size_t row, size_t r);

/* Encodes rows r0 .. r0 + n - 1 of a call into ctx->work; calls begin with row 0. Sets the sentence when it fails. */
sae_status saei_ctx_encode(sae_ctx *ctx, const saei_rows *x, int64_t r0, size_t n);

#endif
