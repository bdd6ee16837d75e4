/* What the writers of formats share. */
#ifndef SAEI_SAVE_H
#define SAEI_SAVE_H

#include "sae/save.h"
#include "save/sink.h"

/* One saving. */
typedef struct saei_save {
    const sae_model *model;
    const saei_parts *parts;
    const saei_host *host;
    const char *path;
    sae_save_options opt;
    saei_arena memory; /* of this saving */
    sae_error *err;
} saei_save;

/* The formats. */
sae_status saei_save_sae(saei_save *s);
sae_status saei_save_saelens(saei_save *s);
sae_status saei_save_gemma_scope(saei_save *s);

/* Refuses what only "sae" holds: several blocks or segments, an affine normaliser, factors of decoder rows. `format` for the sentence. */
sae_status saei_save_plain(const saei_save *s, const char *format);

/* Vectors of a format that has no word for their absence: the vector, or zeros. NULL without memory, with a sentence. */
const float *saei_save_vector(saei_save *s, const float *v, int32_t n);

/* The dtype that a matrix is written in. */
sae_dtype saei_save_dtype(const saei_save *s, const saei_matrix *m);

/* Memory of this saving, or a sentence in err. */
void *saei_save_alloc(saei_save *s, size_t bytes);

/* A text that grows. `text` is NULL, once there is no memory, for good. */
typedef struct saei_text {
    saei_save *save;
    char *text;
    size_t n, room;
} saei_text;

bool saei_text_start(saei_text *t, saei_save *s);
void saei_text_add(saei_text *t, const char *more);
void saei_text_bytes(saei_text *t, const char *more, size_t n);
void saei_text_int(saei_text *t, int64_t value);
void saei_text_float(saei_text *t, float value);    /* as JSON writes it, whatever the locale; the same float when it is read */
void saei_text_quoted(saei_text *t, const char *s); /* as a JSON string */

#endif
