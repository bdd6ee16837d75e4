/* One opening of a checkpoint: its files, its configuration, its tensors, and the parts that are put together from them. Readers of formats
 * (lib/io/<format>.c) see this and nothing below. */
#ifndef SAEI_SOURCE_H
#define SAEI_SOURCE_H

#include "io/io.h"
#include "io/json.h"
#include "io/tensors.h"

typedef struct saei_source {
    const saei_host *host;
    const sae_open_options *opt;
    sae_error *err;
    saei_parts *parts;
    saei_arena memory;  /* paths and names of this opening */
    const char *path;   /* as the caller gave it */
    const char *folder; /* of the checkpoint, without a slash behind it; "" is where the program is */
    const char *named;  /* the file in it that the caller named, "" when it was the folder */
    const char *file;   /* the file of tensors that was opened last, for sentences */
    const char **names; /* what lies in the folder, sorted */
    uint32_t n_names;
    const char **opened; /* paths of the files opened so far */
    uint32_t n_opened, room_opened;
    saei_store store;        /* their tensors */
    saei_json config;        /* n = 0: none */
    const char *config_name; /* of its file, for sentences */
    const char *sizes_from;  /* what states the sizes that tensors are held against: "cfg.json says" */
    const char *what;        /* for sentences: "a sparsify SAE" */
} saei_source;

/* ---- files ---- */

/* Is there a file or folder of that name? `name` may hold slashes. */
bool saei_source_has(const saei_source *s, const char *name);

/* Opens a file of the folder and adds its tensors to the store, by what its first bytes say: safetensors, npz, torch, GGUF, whatever its name. Done
 * already: nothing. */
sae_status saei_source_tensors(saei_source *s, const char *name);

/* Takes a prefix such as "sae." off the names that begin with it: state dicts inside other dicts. */
void saei_source_strip(saei_source *s, const char *prefix);

/* Forgets the tensors that were read: the next file may use their names again. What was taken stays. */
void saei_source_forget(saei_source *s);

/* All files that <name>.index.json names, or <name> itself without such a file (Hugging Face's shards). */
sae_status saei_source_shards(saei_source *s, const char *name);

/* Reads a configuration, JSON or (.yaml, .yml) YAML, and keeps its text for SAE_TEXT_CONFIG. An earlier one is forgotten. */
sae_status saei_source_config(saei_source *s, const char *name);

/* Does the name end so? */
bool saei_ends_with(const char *name, const char *end);

/* The decimal number between `before` and `after` in a name; -1 when the name is not so, or the number has more than 9 digits. */
int32_t saei_number_in(const char *name, const char *before, const char *after);

/* ---- the configuration: values below `object` (0 = the top); an absent or null key is no error unless it says so ---- */

sae_status saei_config_text(const char **out, const saei_source *s, uint32_t object, const char *key); /* NULL when absent */
sae_status saei_config_bool(bool *out, const saei_source *s, uint32_t object, const char *key, bool absent);
sae_status saei_config_size(int32_t *out, const saei_source *s, uint32_t object, const char *key); /* 1 .. INT32_MAX; absent: refused */
sae_status saei_config_number(double *out, const saei_source *s, uint32_t object, const char *key, double absent); /* finite */

/* ---- tensors ---- */

/* A tensor, or a sentence. */
sae_status saei_take_array(const saei_array **out, const saei_source *s, const char *name);

/* A vector of n values as f32, owned by the parts; `n_name` for the sentence ("d_sae"). Refuses non-finite values. */
sae_status saei_take_vector(float **out, saei_source *s, const char *name, int32_t n, const char *n_name);

/* The same into memory that is there: a stretch of a longer vector. */
sae_status saei_take_into(float *to, const saei_source *s, const char *name, int32_t n, const char *n_name);

/* The same from a one-dimensional view, and a vector that an array of one value (of any shape) fills. */
sae_status saei_take_view_vector(float **out, saei_source *s, const saei_array *view, int32_t n, const char *n_name);
sae_status saei_take_filled(float **out, saei_source *s, const char *name, int32_t n);

/* A matrix of n features (outputs) and d inputs: stored [n][d], or [d][n] when by_cols. Stays in the file when the kernels can read it there
 * (F32, F16, BF16, either order); else it is unpacked to f32 or brought into one order, in memory of the parts. */
sae_status saei_take_matrix(saei_tensor *out, saei_source *s, const char *name, bool by_cols, int32_t n, const char *n_name, int32_t d,
                            const char *d_name);
sae_status saei_take_view(saei_tensor *out, saei_source *s, const saei_array *view, bool by_cols, int32_t n, const char *n_name, int32_t d,
                          const char *d_name);

/* One value of an array that has just one, or a number beside the tensors: k, a threshold. */
sae_status saei_take_number(double *out, const saei_source *s, const char *name);

/* The same where it is a count, 0 .. INT32_MAX; 0 when it is absent. */
sae_status saei_take_count(int64_t *out, const saei_source *s, const char *name);

/* All n values of an array of any shape, row by row, whatever they are: NaN may have a meaning. */
sae_status saei_take_raw(float **out, saei_source *s, const saei_array *a, int32_t n);

/* Rows and columns of a matrix whose sizes nothing else states; each is 1 .. INT32_MAX. */
sae_status saei_take_shape(int32_t *rows, int32_t *columns, const saei_source *s, const char *name);

/* Element i of the first dimension: a view with one dimension less. */
saei_array saei_view_at(const saei_array *a, int64_t i);

/* The first two dimensions of a row-major array as one; false when they cannot be. */
bool saei_view_join(saei_array *out, const saei_array *a);

/* ---- parts ---- */

/* An array of n floats, zeroed, owned by the parts. */
sae_status saei_make_vector(float **out, saei_source *s, int32_t n);

/* Lengths of the rows that features write, over all segments of the parts: out [d_sae]. One pass over W_dec. */
sae_status saei_decoder_norms(float **out, saei_source *s);

/* A vector of n times the same value. */
sae_status saei_fill_vector(float **out, saei_source *s, int32_t n, double value);

/* The one block and the one segment of an SAE; sets d_in, d_sae, d_out. */
sae_status saei_set_matrices(saei_source *s, const saei_tensor *enc, const saei_tensor *dec);

sae_status saei_add_block(saei_source *s, int32_t first, int32_t in_first, const saei_tensor *w);
sae_status saei_add_segment(saei_source *s, const saei_segment *segment);
sae_status saei_add_skip(saei_source *s, int32_t in_first, int32_t out_first, const saei_tensor *w);

/* Sets a text of the parts (NULL: ""). */
sae_status saei_set_text(saei_source *s, int32_t what, const char *text);

/* Sets s->what to "a <name> SAE". */
sae_status saei_set_what(saei_source *s, const char *name);

/* Adds a warning. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
sae_status
saei_warn(saei_source *s, const char *fmt, ...);

/* k for a top-k: the caller's option, else `stored` (0 = the file does not say); checks 1 .. d_sae. */
sae_status saei_set_k(saei_source *s, int64_t stored);

/* Refuses tensors that are not in the list: the file is of something else, or newer than this reader. NULL ends the list. */
sae_status saei_only(const saei_source *s, const char *const *names);

/* The threshold of h where h * scale is held against `threshold`. A feature that writes nothing has scale 0 and is never active: no finite h is
 * above the largest float. */
float saei_threshold_over(float threshold, float scale);

/* exp of a vector by our own routine, so that thresholds are the same bits everywhere. Refuses what has no finite exp. */
sae_status saei_exp_vector(saei_source *s, float *v, int32_t n, const char *name);

#endif
