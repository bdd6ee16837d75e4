/* The layout of .sae files, version 1: what save/ writes and io/sae_file.c reads; docs/save.md describes it byte by byte.
 *     head (64 bytes), directory (64 bytes a section, ascending by id and index), sections in the order of the directory
 * Numbers are little-endian, as on every machine we run on, so that structs are the bytes. */
#ifndef SAEI_SAE_FILE_H
#define SAEI_SAE_FILE_H

#include "io/io.h"
#include "io/tensors.h"

#define SAEI_SAE_MAGIC "\x89SAE\r\n\x1a\n" /* no text begins so, and a transfer as text breaks it */

enum {
    SAEI_SAE_VERSION = 1,
    SAEI_SAE_ALIGN = 64,      /* of every section ... */
    SAEI_SAE_PAGE = 4096,     /* ... and of matrices */
    SAEI_SAE_SECTIONS = 16000 /* most of one file */
};

typedef struct saei_sae_head {
    uint8_t magic[8];
    uint32_t version;
    uint32_t flags; /* what a reader must know to read on; none so far */
    uint64_t file_bytes;
    uint32_t n_sections;
    uint32_t reserved[5];
    uint8_t digest[16]; /* XXH3-128, canonical order, of the 48 bytes before it and of the directory */
} saei_sae_head;

typedef struct saei_sae_section {
    uint32_t id;
    uint32_t index; /* among those of one id */
    uint32_t dtype; /* SAE_F32, SAE_F16, SAE_BF16, SAEI_SAE_I32, SAEI_SAE_BYTES */
    uint32_t flags;
    uint64_t shape[2]; /* rows, columns; a vector has one column */
    uint64_t offset;   /* in the file */
    uint64_t bytes;    /* rows * columns * those of an element */
    uint64_t digest;   /* XXH3-64 of the bytes */
    uint64_t reserved;
} saei_sae_section;

enum { SAEI_SAE_I32 = 16, SAEI_SAE_BYTES = 17 };

/* A section that a reader does not know is skipped, unless it has this flag. */
enum { SAEI_SAE_REQUIRED = 1 };

enum {
    SAEI_SAE_NUMBERS = 1, /* one saei_sae_numbers */
    SAEI_SAE_TEXTS,       /* records: u32 SAE_TEXT_* or SAEI_SAE_WARNING + i, u32 bytes, the bytes, zeros up to a multiple of 4 */
    SAEI_SAE_BLOCKS,      /* i32 rows: first, in_first, matrix */
    SAEI_SAE_SEGMENTS,    /* i32 rows: first, n, out_first, row_first, row_step, matrix */
    SAEI_SAE_SKIPS,       /* i32 rows: in_first, out_first, matrix */
    SAEI_SAE_ATTENTION,   /* i32 rows: matrix and bias of k_ctx, q_target, v_ctx, c_proj */
    SAEI_SAE_B_ENC = 16,  /* vectors, f32 */
    SAEI_SAE_B_DEC,
    SAEI_SAE_THRESHOLD,
    SAEI_SAE_B_GATE,
    SAEI_SAE_B_MAG,
    SAEI_SAE_R_MAG,
    SAEI_SAE_DEC_SCALE,
    SAEI_SAE_IN_SHIFT,
    SAEI_SAE_IN_SCALE,
    SAEI_SAE_OUT_SHIFT,
    SAEI_SAE_OUT_SCALE,
    SAEI_SAE_KEY_SCALE,
    SAEI_SAE_BIAS = 48,   /* of attention, by index */
    SAEI_SAE_MATRIX = 64, /* by index; row i belongs to feature or output i */
    /* A packed form, which readers may skip: the screen of the only encoder */
    SAEI_SAE_SCREEN_WEIGHTS, /* bytes, as model/screen.c lays them out */
    SAEI_SAE_SCREEN_SCALE,   /* f32 [d_sae], as the next three */
    SAEI_SAE_SCREEN_ERROR,
    SAEI_SAE_SCREEN_NORM,
    SAEI_SAE_SCREEN_TOP,
    SAEI_SAE_SCREEN /* one saei_sae_screen */
};

enum { SAEI_SAE_BLOCK_COLUMNS = 3, SAEI_SAE_SEGMENT_COLUMNS = 6, SAEI_SAE_SKIP_COLUMNS = 3, SAEI_SAE_ATTENTION_COLUMNS = 8 };
enum { SAEI_SAE_WARNING = 256 };

typedef struct saei_sae_numbers {
    int32_t arch, d_in, d_sae, d_out, k, n_in, n_out;
    uint32_t flags;
    float residual_threshold;
    int32_t norm;
    float norm_scaling_factor, norm_out_factor;
    int32_t n_heads;
    uint32_t reserved[3];
} saei_sae_numbers;

enum {
    SAEI_SAE_APPLY_B_DEC = 1,
    SAEI_SAE_RESCALE = 2,
    SAEI_SAE_UNSCALED = 4,
    SAEI_SAE_NEGATIVE = 8,
    SAEI_SAE_STOPS_ON_REPEAT = 16,
    SAEI_SAE_NORM_IN_ONLY = 32
};

/* Whoever changes how a screen is made gives it another kind: readers pass over those that they do not know. */
enum { SAEI_SAE_SCREEN_KIND = 1 };

typedef struct saei_sae_screen {
    uint32_t kind;
    uint32_t centred; /* 1: on b_dec */
    uint32_t reserved[10];
    uint8_t of[16]; /* XXH3-128, canonical order, of the directory entries before its own, with offsets of 0: it belongs to these bytes */
} saei_sae_screen;

_Static_assert(sizeof(saei_sae_screen) == 64, "the layout is published");
_Static_assert(sizeof(saei_sae_head) == 64 && sizeof(saei_sae_section) == 64 && sizeof(saei_sae_numbers) == 64, "the layout is published");

/* XXH3-128 of head and directory: what stands in head.digest. */
void saei_sae_head_digest(uint8_t out[16], const saei_sae_head *head, const saei_sae_section *sections);

/* What stands in saei_sae_screen.of, for the n sections before its own. */
void saei_sae_screen_digest(uint8_t out[16], const saei_sae_section *sections, uint32_t n);

/* Does a file begin as a .sae file does? */
bool saei_is_sae(const saei_file *file);

/* Adds the sections of a .sae file to the store, as tensors with the names of docs/save.md ("b_enc", "matrix.0"). Checks head, directory and
 * the bytes of all sections but matrices and the weights of a screen; those too when `whole`. Errors: SAE_E_FORMAT, SAE_E_UNSUPPORTED (a newer version), SAE_E_NOMEM. */
sae_status saei_read_sae_sections(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                                  bool whole, sae_error *err);

#endif
