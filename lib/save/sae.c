/* Parts -> a .sae file (io/sae_file.h). */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/sae_file.h"
#include "model/screen.h"
#include "save/save.h"

/* A section, and where its bytes come from. */
typedef struct piece {
    saei_sae_section section;
    const void *data;     /* as they are, or ... */
    const saei_matrix *m; /* ... a matrix; NULL */
    const char *name;     /* for sentences */
} piece;

typedef struct writer {
    saei_save *save;
    piece *pieces;
    piece *matrices;
    uint32_t n, room, n_matrices, room_matrices, n_biases;
    saei_screen *screen; /* NULL = none is wanted */
    sae_status status;   /* of what has been added so far: nothing is added after a failure */
} writer;

/* ---- what the file will hold ---- */

static void add(writer *w, const piece *p)
{
    saei_save *s = w->save;
    piece *pieces = w->status ? NULL : saei_arena_grow(&s->memory, s->host, w->pieces, &w->room, w->n, sizeof *pieces);
    if (!pieces) {
        w->status = w->status ? w->status : saei_fail(s->err, SAE_E_NOMEM, "no memory for the directory of %s", s->path);
        return;
    }
    w->pieces = pieces;
    w->pieces[w->n++] = *p;
}

static void add_bytes(writer *w, uint32_t id, const void *data, size_t bytes)
{
    piece p = {.data = data, .name = "a list"};
    p.section = (saei_sae_section){.id = id, .dtype = SAEI_SAE_BYTES, .flags = SAEI_SAE_REQUIRED, .shape = {bytes, 1}, .bytes = bytes};
    if (bytes)
        add(w, &p);
}

static void add_rows(writer *w, uint32_t id, const int32_t *data, size_t rows, size_t columns)
{
    piece p = {.data = data, .name = "a list"};
    p.section = (saei_sae_section){
        .id = id, .dtype = SAEI_SAE_I32, .flags = SAEI_SAE_REQUIRED, .shape = {rows, columns}, .bytes = rows * columns * sizeof *data};
    if (rows)
        add(w, &p);
}

static void add_vector(writer *w, uint32_t id, uint32_t index, const float *v, int32_t n)
{
    const size_t bytes = (size_t)n * sizeof *v;
    piece p = {.data = v, .name = "a vector"};
    p.section = (saei_sae_section){.id = id, .index = index, .dtype = SAE_F32, .flags = SAEI_SAE_REQUIRED};
    p.section.shape[0] = (uint64_t)n;
    p.section.shape[1] = 1;
    p.section.bytes = bytes;
    if (v)
        add(w, &p);
}

static bool same_matrix(const saei_matrix *a, const saei_matrix *b)
{
    return a->data == b->data && a->dtype == b->dtype && a->by_cols == b->by_cols && a->n == b->n && a->d == b->d;
}

/* Its index: one that is used twice is written once. */
static int32_t matrix_index(writer *w, const saei_tensor *t)
{
    saei_save *s = w->save;
    for (uint32_t i = 0; i < w->n_matrices; i++)
        if (same_matrix(w->matrices[i].m, &t->m))
            return (int32_t)i;
    piece *all = saei_arena_grow(&s->memory, s->host, w->matrices, &w->room_matrices, w->n_matrices, sizeof *all);
    if (!all) {
        w->status = saei_fail(s->err, SAE_E_NOMEM, "no memory for the directory of %s", s->path);
        return 0;
    }
    const sae_dtype dtype = saei_save_dtype(s, &t->m);
    piece p = {.m = &t->m, .name = t->name};
    p.section = (saei_sae_section){.id = SAEI_SAE_MATRIX, .index = w->n_matrices, .dtype = (uint32_t)dtype, .flags = SAEI_SAE_REQUIRED};
    p.section.shape[0] = (uint64_t)t->m.n;
    p.section.shape[1] = (uint64_t)t->m.d;
    p.section.bytes = saei_sink_matrix_bytes(&t->m, dtype);
    w->matrices = all;
    w->matrices[w->n_matrices++] = p;
    return (int32_t)w->n_matrices - 1;
}

static void add_numbers(writer *w)
{
    const saei_parts *p = w->save->parts;
    saei_sae_numbers *n = saei_save_alloc(w->save, sizeof *n);
    if (!n) {
        w->status = SAE_E_NOMEM;
        return;
    }
    *n = (saei_sae_numbers){.arch = p->arch,
                            .d_in = p->d_in,
                            .d_sae = p->d_sae,
                            .d_out = p->d_out,
                            .k = p->k,
                            .n_in = p->n_in,
                            .n_out = p->n_out,
                            .residual_threshold = p->residual_threshold,
                            .norm = p->norm,
                            .norm_scaling_factor = p->norm_scaling_factor,
                            .norm_out_factor = p->norm_out_factor,
                            .n_heads = p->n_heads};
    n->flags = (p->apply_b_dec ? SAEI_SAE_APPLY_B_DEC : 0u) | (p->rescale_by_decoder_norm ? SAEI_SAE_RESCALE : 0u) |
               (p->returns_unscaled ? SAEI_SAE_UNSCALED : 0u) | (p->keeps_negative ? SAEI_SAE_NEGATIVE : 0u) |
               (p->stops_on_repeat ? SAEI_SAE_STOPS_ON_REPEAT : 0u) | (p->norm_in_only ? SAEI_SAE_NORM_IN_ONLY : 0u);
    add_bytes(w, SAEI_SAE_NUMBERS, n, sizeof *n);
}

static void add_text(saei_text *t, uint32_t what, const char *text)
{
    const uint32_t head[2] = {what, text ? (uint32_t)strlen(text) : 0};
    if (!head[1])
        return;
    saei_text_bytes(t, (const char *)head, sizeof head);
    saei_text_bytes(t, text, head[1]);
    saei_text_bytes(t, "\0\0\0", (4 - head[1] % 4) % 4);
}

/* Not the path, which is another now, nor the format, which is ours. */
static void add_texts(writer *w)
{
    static const int32_t kept[] = {SAE_TEXT_ARCHITECTURE, SAE_TEXT_MODEL_NAME, SAE_TEXT_HOOK_NAME, SAE_TEXT_CONFIG, SAE_TEXT_HOOK_NAME_OUT};
    const saei_parts *p = w->save->parts;
    const char *catalog = w->save->opt.catalog ? w->save->opt.catalog : p->texts[SAE_TEXT_CATALOG];
    saei_text t;
    (void)saei_text_start(&t, w->save);
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        add_text(&t, (uint32_t)kept[i], p->texts[kept[i]]);
    add_text(&t, SAE_TEXT_CATALOG, catalog);
    for (int32_t i = 0; i < p->n_warnings; i++)
        add_text(&t, SAEI_SAE_WARNING + (uint32_t)i, p->warnings[i]);
    if (t.text)
        add_bytes(w, SAEI_SAE_TEXTS, t.text, t.n);
    else
        w->status = SAE_E_NOMEM;
}

/* A table of i32 rows; NULL after a failure. */
static int32_t *table(writer *w, size_t rows, size_t columns)
{
    int32_t *rows_of = rows && !w->status ? saei_save_alloc(w->save, rows * columns * sizeof *rows_of) : NULL;
    if (rows && !w->status && !rows_of)
        w->status = SAE_E_NOMEM;
    return rows_of;
}

static void add_blocks(writer *w)
{
    const saei_parts *p = w->save->parts;
    int32_t *rows = table(w, p->n_enc, SAEI_SAE_BLOCK_COLUMNS);
    for (uint32_t i = 0; rows && i < p->n_enc; i++) {
        const saei_block *b = &p->enc[i];
        const int32_t row[SAEI_SAE_BLOCK_COLUMNS] = {b->first, b->in_first, matrix_index(w, &b->w)};
        memcpy(rows + (size_t)i * SAEI_SAE_BLOCK_COLUMNS, row, sizeof row);
    }
    add_rows(w, SAEI_SAE_BLOCKS, rows, p->n_enc, SAEI_SAE_BLOCK_COLUMNS);
}

static void add_segments(writer *w)
{
    const saei_parts *p = w->save->parts;
    int32_t *rows = table(w, p->n_dec, SAEI_SAE_SEGMENT_COLUMNS);
    for (uint32_t i = 0; rows && i < p->n_dec; i++) {
        const saei_segment *d = &p->dec[i];
        const int32_t row[SAEI_SAE_SEGMENT_COLUMNS] = {d->first, d->n, d->out_first, d->row_first, d->row_step, matrix_index(w, &d->w)};
        memcpy(rows + (size_t)i * SAEI_SAE_SEGMENT_COLUMNS, row, sizeof row);
    }
    add_rows(w, SAEI_SAE_SEGMENTS, rows, p->n_dec, SAEI_SAE_SEGMENT_COLUMNS);
}

static void add_skips(writer *w)
{
    const saei_parts *p = w->save->parts;
    int32_t *rows = table(w, p->n_skip, SAEI_SAE_SKIP_COLUMNS);
    for (uint32_t i = 0; rows && i < p->n_skip; i++) {
        const int32_t row[SAEI_SAE_SKIP_COLUMNS] = {p->skip[i].in_first, p->skip[i].out_first, matrix_index(w, &p->skip[i].w)};
        memcpy(rows + (size_t)i * SAEI_SAE_SKIP_COLUMNS, row, sizeof row);
    }
    add_rows(w, SAEI_SAE_SKIPS, rows, p->n_skip, SAEI_SAE_SKIP_COLUMNS);
}

/* The linear layers of an attention layer, in the order of the file. */
static const saei_linear *linear_of(const saei_attention *a, int32_t k)
{
    const saei_linear *const all[] = {&a->k_ctx, &a->q_target, &a->v_ctx, &a->c_proj};
    return all[k];
}

static void add_attention(writer *w)
{
    const saei_parts *p = w->save->parts;
    int32_t *rows = table(w, (size_t)p->n_attention, SAEI_SAE_ATTENTION_COLUMNS);
    for (int32_t i = 0; rows && i < p->n_attention; i++)
        for (int32_t k = 0; k < SAEI_SAE_ATTENTION_COLUMNS / 2; k++) {
            int32_t *at = rows + (size_t)i * SAEI_SAE_ATTENTION_COLUMNS + 2 * (size_t)k;
            at[0] = matrix_index(w, &linear_of(&p->attention[i], k)->w);
            at[1] = i * (SAEI_SAE_ATTENTION_COLUMNS / 2) + k;
        }
    add_rows(w, SAEI_SAE_ATTENTION, rows, (size_t)p->n_attention, SAEI_SAE_ATTENTION_COLUMNS);
}

static void add_biases(writer *w)
{
    const saei_parts *p = w->save->parts;
    for (int32_t i = 0; i < p->n_attention; i++)
        for (int32_t k = 0; k < SAEI_SAE_ATTENTION_COLUMNS / 2; k++) {
            const saei_linear *l = linear_of(&p->attention[i], k);
            add_vector(w, SAEI_SAE_BIAS, (uint32_t)(i * (SAEI_SAE_ATTENTION_COLUMNS / 2) + k), l->bias, l->w.m.n);
        }
}

/* In the order of the ids. Without an affine normaliser, what a reader may have left of one means nothing. */
static void add_vectors(writer *w)
{
    const saei_parts *p = w->save->parts;
    const bool affine = p->norm == SAE_NORM_AFFINE;
    const struct {
        const float *v;
        int32_t n;
    } all[] = {{p->b_enc, p->d_sae},
               {p->b_dec, p->d_out},
               {p->threshold, p->d_sae},
               {p->b_gate, p->d_sae},
               {p->b_mag, p->d_sae},
               {p->r_mag, p->d_sae},
               {p->dec_scale, p->d_sae},
               {affine ? p->in_shift : NULL, p->d_in},
               {affine ? p->in_scale : NULL, p->d_in},
               {affine ? p->out_shift : NULL, p->d_out},
               {affine ? p->out_scale : NULL, p->d_out},
               {p->key_scale, p->d_sae}};
    for (uint32_t i = 0; i < sizeof all / sizeof *all; i++)
        add_vector(w, SAEI_SAE_B_ENC + i, 0, all[i].v, all[i].n);
    add_biases(w);
}

/* It is built from the weights as the file will have them, also where the model has one: so it is theirs in any case. */
static sae_status build_screen(writer *w)
{
    const saei_save *s = w->save;
    const sae_dtype dtype = saei_save_dtype(s, &s->parts->enc[0].w.m);
    if (s->opt.screen != SAE_YES)
        return SAE_OK;
    if (!saei_screen_bytes(s->model))
        return saei_fail(s->err, SAE_E_UNSUPPORTED,
                         "an SAE like this one cannot be screened, so no screen can be saved (docs/encode.md says which can)");
    return saei_screen_build(&w->screen, s->model, dtype == s->parts->enc[0].w.m.dtype ? 0 : dtype, s->err);
}

/* Sections that readers may skip. */
static void add_screen(writer *w)
{
    const saei_screen *screen = w->screen;
    if (!screen)
        return;
    const float *const vectors[] = {screen->bound.scale, screen->bound.error, screen->bound.norm, screen->bound.top};
    saei_sae_screen *of = saei_save_alloc(w->save, sizeof *of);
    const uint32_t first = w->n;
    add_bytes(w, SAEI_SAE_SCREEN_WEIGHTS, screen->columns, saei_screen_weights(w->save->model));
    for (uint32_t i = 0; i < sizeof vectors / sizeof *vectors; i++)
        add_vector(w, SAEI_SAE_SCREEN_SCALE + i, 0, vectors[i], w->save->parts->d_sae);
    if (!of)
        w->status = SAE_E_NOMEM;
    else
        *of = (saei_sae_screen){.kind = SAEI_SAE_SCREEN_KIND, .centred = screen->centre != NULL};
    add_bytes(w, SAEI_SAE_SCREEN, of, sizeof *of);
    for (uint32_t i = first; i < w->n; i++)
        w->pieces[i].section.flags = 0;
}

/* What the screen belongs to: the sections before it, which are written by now. */
static void sign_screen(const writer *w, const piece *p, saei_sae_section *before)
{
    const uint32_t n = (uint32_t)(p - w->pieces);
    saei_sae_screen *of = (saei_sae_screen *)(uintptr_t)p->data;
    for (uint32_t i = 0; i < n; i++)
        before[i] = w->pieces[i].section;
    saei_sae_screen_digest(of->of, before, n);
}

/* In the order of the ids. */
static sae_status collect(writer *w)
{
    add_numbers(w);
    add_texts(w);
    add_blocks(w);
    add_segments(w);
    add_skips(w);
    add_attention(w);
    add_vectors(w);
    for (uint32_t i = 0; i < w->n_matrices; i++)
        add(w, &w->matrices[i]);
    add_screen(w);
    if (!w->status && w->n > SAEI_SAE_SECTIONS)
        w->status =
            saei_fail(w->save->err, SAE_E_UNSUPPORTED, "this SAE has %u parts, a .sae file holds %d", (unsigned)w->n, SAEI_SAE_SECTIONS);
    return w->status;
}

/* ---- writing ---- */

static size_t align(size_t at, size_t to)
{
    return (at + to - 1) / to * to;
}

/* Sums of what is in memory or in files: they cannot overflow. */
static size_t place(writer *w)
{
    size_t at = sizeof(saei_sae_head) + w->n * sizeof(saei_sae_section);
    for (uint32_t i = 0; i < w->n; i++) {
        saei_sae_section *s = &w->pieces[i].section;
        at = align(at, s->id == SAEI_SAE_MATRIX || s->id == SAEI_SAE_SCREEN_WEIGHTS ? SAEI_SAE_PAGE : SAEI_SAE_ALIGN);
        s->offset = at;
        at += (size_t)s->bytes;
    }
    return at;
}

static void hash(void *state, const void *data, size_t bytes)
{
    (void)XXH3_64bits_update(state, data, bytes);
}

static sae_status write_piece(const writer *w, piece *p, const saei_out *out)
{
    XXH3_state_t state;
    saei_sink sink = {w->save->host, out, (size_t)p->section.offset, hash, &state, w->save->err};
    (void)XXH3_64bits_reset(&state);
    const sae_status status = p->m ? saei_sink_matrix(&sink, p->m, false, (sae_dtype)p->section.dtype, p->name)
                                   : saei_sink_bytes(&sink, p->data, (size_t)p->section.bytes);
    p->section.digest = XXH3_64bits_digest(&state);
    return status;
}

/* Last, when the digests are known. */
static sae_status write_head(const writer *w, saei_sae_section *directory, size_t file_bytes, const saei_out *out)
{
    saei_sae_head head = {.version = SAEI_SAE_VERSION, .file_bytes = file_bytes, .n_sections = w->n};
    for (uint32_t i = 0; i < w->n; i++)
        directory[i] = w->pieces[i].section;
    memcpy(head.magic, SAEI_SAE_MAGIC, sizeof head.magic);
    saei_sae_head_digest(head.digest, &head, directory);
    const sae_status status = saei_out_write(out, &head, 0, sizeof head, w->save->err);
    return status ? status : saei_out_write(out, directory, sizeof head, w->n * sizeof *directory, w->save->err);
}

static sae_status write_all(writer *w, size_t file_bytes, const saei_out *out)
{
    saei_sae_section *directory = saei_save_alloc(w->save, w->n * sizeof *directory);
    if (!directory)
        return SAE_E_NOMEM;
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->pieces[i].section.id == SAEI_SAE_SCREEN)
            sign_screen(w, &w->pieces[i], directory);
        const sae_status status = write_piece(w, &w->pieces[i], out);
        if (status)
            return status;
    }
    return write_head(w, directory, file_bytes, out);
}

static sae_status write_file(writer *w)
{
    saei_save *s = w->save;
    saei_out out = {0};
    sae_status status = collect(w);
    if (status)
        return status;
    const size_t bytes = place(w);
    status = saei_out_open(&out, s->host, s->path, s->opt.overwrite == SAE_YES, s->err);
    if (!status && !(status = write_all(w, bytes, &out)) && !(status = saei_out_sync(&out, s->err)))
        status = saei_out_commit(&out, s->host, s->err);
    saei_out_drop(&out, s->host);
    return status;
}

sae_status saei_save_sae(saei_save *s)
{
    writer w = {.save = s};
    sae_status status = build_screen(&w);
    if (!status)
        status = write_file(&w);
    saei_dealloc(s->host, w.screen, w.screen ? w.screen->bytes : 0);
    return status;
}
