/* sae catalog build: a catalog from shards of activations, in one pass. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "codes.h"
#include "collect.h"
#include "features.h"
#include "report.h"

enum { ID_EXAMPLES = 300, ID_CONTEXT, ID_TOKENS };

/* clang-format off */
static const option_desc options[] = {
    OPTION_SAE,
    {'o', "output", "CATALOG", "the catalog, which is made when it is not there"},
    {ID_EXAMPLES, "examples", "N", "strongest examples of each feature (default 5)"},
    {ID_CONTEXT, "context", "N", "tokens on each side of an example (default 10)"},
    {ID_TOKENS, "tokens", "N", "promoted and suppressed tokens of each feature (default 10)"},
    OPTION_FORCE,
    OPTION_JSON,
    {0},
};
/* clang-format on */

/* Rows that are encoded and not yet forgotten: those to be taken in have their context on both sides. */
typedef struct window {
    int64_t room, n;
    int64_t next; /* to be taken in */
    place *places;
    sae_codes codes;
    int64_t *indptr; /* of a block that is encoded */
} window;

typedef struct job {
    catalog_args given;
    const char *folder, *path;
    int32_t examples, context, tokens;
    session s;
    shards in;
    sae_ctx *ctx;
    collector all;
    sae_catalog *catalog;
    sae_ctx *words; /* of the unembedding, seen as a top-k SAE */
    sae_model *unembedding;
} job;

static void parse(job *j, args *a)
{
    const char *value;
    for (int id; (id = args_next_catalog(a, &j->given, &value)) != -1;) {
        switch (id) {
        case 'o':
            j->path = value;
            break;
        case ID_EXAMPLES:
            j->examples = (int32_t)parse_int("--examples", value, 1, 100);
            break;
        case ID_CONTEXT:
            j->context = (int32_t)parse_int("--context", value, 0, 500);
            break;
        default:
            j->tokens = (int32_t)parse_int("--tokens", value, 1, 64);
            break;
        }
    }
    j->folder = args_operands(a, 1, "SHARDS_DIR")[0];
    if (j->given.sae_path == NULL || j->path == NULL) {
        die_usage("%s is wanted", j->given.sae_path == NULL ? "--sae PATH" : "-o CATALOG");
    }
}

/* ---- one pass over the rows ---- */

static window window_make(int64_t block, int64_t context)
{
    window w = {.room = block + 2 * context};
    w.places = take((size_t)w.room, sizeof *w.places);
    w.codes = codes_room(w.room);
    w.indptr = take((size_t)block + 1, sizeof *w.indptr);
    w.codes.indptr[0] = 0;
    return w;
}

static void window_free(window *w)
{
    free(w->places);
    free(w->indptr);
    codes_free(&w->codes);
}

/* Encodes a block behind what is there; its places have been read already. */
static void window_add(window *w, const job *j, void *x, int64_t n)
{
    int64_t used = w->codes.indptr[w->n];
    sae_rows block = {.struct_size = sizeof block, .dtype = j->in.rows.dtype, .x = x, .n_rows = n};
    sae_codes tail = {.struct_size = sizeof tail, .indptr = w->indptr};
    sae_status status = SAE_E_CAPACITY;
    for (int tries = 0; tries < 2 && status == SAE_E_CAPACITY; tries++) {
        if (tries > 0) { /* indptr is complete and says what is needed */
            w->codes.capacity = used + w->indptr[n] + w->indptr[n] / 4;
            w->codes.indices = retake(w->codes.indices, (size_t)w->codes.capacity, sizeof *w->codes.indices);
            w->codes.values = retake(w->codes.values, (size_t)w->codes.capacity, sizeof *w->codes.values);
        }
        tail.capacity = w->codes.capacity - used;
        tail.indices = w->codes.indices + used;
        tail.values = w->codes.values + used;
        status = sae_encode(j->ctx, &tail, &block);
    }
    expect_ctx_ok(status, j->ctx, j->given.sae_path);
    for (int64_t i = 1; i <= n; i++) {
        w->codes.indptr[w->n + i] = used + w->indptr[i];
    }
    w->n += n;
}

/* Takes in all rows before `end`, and forgets those that are no context any more. */
static void window_advance(window *w, job *j, int64_t end)
{
    for (; w->next < end; w->next++) {
        collect_row(&j->all, &w->codes, w->places, w->next, w->n);
    }
    int64_t gone = w->next > j->context ? w->next - j->context : 0, kept = w->n - gone, from = w->codes.indptr[gone];
    size_t codes = (size_t)(w->codes.indptr[w->n] - from);
    memmove(w->places, w->places + gone, (size_t)kept * sizeof *w->places);
    memmove(w->codes.indices, w->codes.indices + from, codes * sizeof *w->codes.indices);
    memmove(w->codes.values, w->codes.values + from, codes * sizeof *w->codes.values);
    for (int64_t i = 0; i <= kept; i++) {
        w->codes.indptr[i] = w->codes.indptr[gone + i] - from;
    }
    w->n = kept;
    w->next -= gone;
}

static void read_rows(job *j)
{
    enum { BLOCK = 1024 };
    sae_error err = {.struct_size = sizeof err};
    expect_ok(sae_ctx_create(&j->ctx, j->s.model, NULL, &err), &err, j->given.sae_path);
    window w = window_make(BLOCK, j->context);
    void *x = take((size_t)BLOCK * (size_t)j->s.info.d_in, sizeof(float));
    progress p = progress_start("encoding", "rows", j->in.n_rows);
    for (int64_t n, done = 0; (n = shards_get(&j->in, x, w.places + w.n, BLOCK)) > 0; done += n) {
        window_add(&w, j, x, n);
        window_advance(&w, j, w.n > j->context ? w.n - j->context : 0);
        progress_at(&p, done + n);
    }
    window_advance(&w, j, w.n);
    progress_end(&p);
    free(x);
    window_free(&w);
    sae_ctx_free(j->ctx);
}

/* ---- tokens ---- */

/* The tokens that a direction promotes are the largest of its products with the rows of the unembedding: the codes of a top-k SAE whose
 * encoder the unembedding is. */
static void open_unembedding(job *j)
{
    sae_error err = {.struct_size = sizeof err};
    sae_weights w = {.struct_size = sizeof w,
                     .arch = SAE_TOPK,
                     .dtype = SAE_F32,
                     .flags = SAE_BORROW | SAE_W_ENC_BY_ROWS,
                     .d_in = (int32_t)j->in.d_in,
                     .d_sae = j->in.n_vocab,
                     .k = j->tokens < j->in.n_vocab ? j->tokens : j->in.n_vocab,
                     .w_enc = j->in.unembed,
                     .w_dec = j->in.unembed};
    expect_ok(sae_model_create(&j->unembedding, j->s.env, &w, &err), &err, j->folder);
    expect_ok(sae_model_check(j->unembedding, &err), &err, j->folder);
    expect_ok(sae_ctx_create(&j->words, j->unembedding, NULL, &err), &err, j->folder);
}

static int by_size(const void *a, const void *b)
{
    const sae_token *x = a, *y = b;
    float p = fabsf(x->value), q = fabsf(y->value);
    return p != q ? (p < q) - (p > q) : strcmp(x->text, y->text);
}

/* Promoted tokens of a decoder row, or with sign -1 suppressed ones. */
static int32_t words_of(const job *j, sae_token *out, float *row, float sign)
{
    int64_t indptr[2];
    int32_t indices[64];
    float values[64];
    sae_codes codes = {.struct_size = sizeof codes, .capacity = 64, .indptr = indptr, .indices = indices, .values = values};
    sae_rows block = {.struct_size = sizeof block, .dtype = SAE_F32, .x = row, .n_rows = 1};
    for (int64_t k = 0; sign < 0.0f && k < j->in.d_in; k++) {
        row[k] = -row[k];
    }
    expect_ctx_ok(sae_encode(j->words, &codes, &block), j->words, j->folder);
    for (int64_t i = 0; i < indptr[1]; i++) {
        out[i] = (sae_token){.text = shards_word(&j->in, indices[i]), .value = sign * values[i]};
    }
    qsort(out, (size_t)indptr[1], sizeof *out, by_size);
    return (int32_t)indptr[1];
}

static void find_tokens(const job *j, sae_feature *f, sae_token promoted[64], sae_token suppressed[64], float *row)
{
    f->promoted = promoted;
    f->suppressed = suppressed;
    if (j->words != NULL) {
        sae_error err = {.struct_size = sizeof err};
        expect_ok(sae_model_read(j->s.model, SAE_W_DEC, f->id, 1, row, &err), &err, j->given.sae_path);
        f->n_promoted = words_of(j, promoted, row, 1.0f);
        f->n_suppressed = words_of(j, suppressed, row, -1.0f);
        return;
    }
    habit habits[HABITS];
    f->n_promoted = collect_habits(&j->all, f->id, habits, j->tokens);
    for (int32_t i = 0; i < f->n_promoted; i++) {
        promoted[i] = (sae_token){.text = shards_word(&j->in, habits[i].token), .value = habits[i].sum};
    }
}

/* ---- writing ---- */

static void find_examples(const job *j, sae_feature *f, sae_example *examples, sae_token *tokens)
{
    const collector *c = &j->all;
    int32_t order[100];
    f->n_examples = collect_order(c, f->id, order);
    f->examples = examples;
    for (int32_t i = 0; i < f->n_examples; i++) {
        size_t slot = (size_t)f->id * (size_t)c->most + (size_t)order[i];
        const sight *s = &c->sights[slot];
        sae_token *t = tokens + (size_t)i * (size_t)c->width;
        for (int32_t k = 0; k < s->n; k++) {
            size_t at = slot * (size_t)c->width + (size_t)k;
            t[k] = (sae_token){.text = shards_word(&j->in, c->tokens[at]), .value = c->activations[at]};
        }
        examples[i] = (sae_example){t, s->n, s->peak, s->document, s->position};
    }
}

/* Names that the catalog has stay. */
static void put(const job *j, sae_feature *f)
{
    sae_error err = {.struct_size = sizeof err};
    sae_features *old;
    expect_ok(sae_catalog_get(&old, j->catalog, &f->id, 1, &err), &err, j->path);
    if (sae_features_count(old) > 0) {
        sae_feature known = features_at(old, 0);
        f->label = known.label;
        f->model_id = known.model_id;
        f->layer = known.layer;
    }
    expect_ok(sae_catalog_put(j->catalog, f, &err), &err, j->path);
    sae_features_free(old);
}

static void write_features(const job *j)
{
    enum { BATCH = 1024 }; /* features of a transaction */
    const collector *c = &j->all;
    sae_error err = {.struct_size = sizeof err};
    sae_token promoted[64], suppressed[64];
    sae_token *tokens = take((size_t)c->most * (size_t)c->width, sizeof *tokens);
    sae_example *examples = take((size_t)c->most, sizeof *examples);
    float *row = take((size_t)j->s.info.d_out, sizeof *row);
    progress p = progress_start("writing", "features", c->d_sae);
    for (int32_t i = 0; i < c->d_sae; i++) {
        sae_feature f = {.struct_size = sizeof f, .id = i, .mean = (double)NAN};
        f.density = c->rows > 0 ? (double)c->active[i] / (double)c->rows : (double)NAN;
        f.mean = c->active[i] > 0 ? c->sum[i] / (double)c->active[i] : (double)NAN;
        f.max = (double)c->max[i];
        find_tokens(j, &f, promoted, suppressed, row);
        find_examples(j, &f, examples, tokens);
        if (i % BATCH == 0) {
            expect_ok(sae_catalog_begin(j->catalog, &err), &err, j->path);
        }
        put(j, &f);
        if (i % BATCH == BATCH - 1 || i == c->d_sae - 1) {
            expect_ok(sae_catalog_commit(j->catalog, &err), &err, j->path);
        }
        progress_at(&p, i);
    }
    progress_end(&p);
    free(tokens);
    free(examples);
    free(row);
}

static void report(const job *j)
{
    int64_t active = 0;
    for (int32_t i = 0; i < j->all.d_sae; i++) {
        active += j->all.active[i] > 0;
    }
    if (j->given.json) {
        report_print(json_pack("{s:I, s:i, s:I, s:s, s:o}", "rows", (json_int_t)j->all.rows, "features", j->all.d_sae, "active",
                               (json_int_t)active, "tokens", j->words != NULL ? "unembed" : "mean activation", "catalog",
                               report_text(j->path)));
    } else {
        printf("%lld rows: %lld of %d features active, written to %s\n", (long long)j->all.rows, (long long)active, j->all.d_sae, j->path);
    }
}

static void check_fit(const job *j)
{
    const char *hook = sae_model_text(j->s.model, SAE_TEXT_HOOK_NAME);
    if (!j->given.force && *hook != '\0' && strcmp(hook, j->in.hook_name) != 0) {
        die("%s: the rows are from '%s', the SAE is for '%s' (--force takes them all the same)", j->folder, j->in.hook_name, hook);
    }
    if (j->s.info.arch == SAE_TEMPORAL) {
        die("%s: the codes of a temporal SAE depend on the rows before, and shards are cut anywhere", j->given.sae_path);
    }
    if (j->in.unembed != NULL && j->s.info.d_out != j->s.info.d_in) {
        die("%s: has an unembedding of d_in = %d, the SAE writes d_out = %d", j->folder, j->s.info.d_in, j->s.info.d_out);
    }
}

static void run(args *a)
{
    job j = {.examples = 5, .context = 10, .tokens = 10};
    bool made;
    parse(&j, a);
    j.s = session_open(&a->model, j.given.sae_path, true);
    j.in = shards_open(j.folder, j.s.info.d_in);
    check_fit(&j);
    j.all = collect_start(j.s.info.d_sae, j.in.n_vocab, j.examples, j.context, j.in.unembed == NULL);
    read_rows(&j);
    if (j.in.unembed != NULL) {
        open_unembedding(&j);
    }
    j.catalog = features_open_or_create(&j.s, j.path, j.given.force, &made);
    write_features(&j);
    sae_catalog_free(j.catalog);
    report(&j);
    collect_free(&j.all);
    sae_ctx_free(j.words);
    sae_model_free(j.unembedding);
    shards_close(&j.in);
    session_close(&j.s);
}

const command cmd_catalog_build = {
    .name = "catalog build",
    .synopsis = "--sae PATH SHARDS_DIR -o CATALOG [--examples N] [--context N] [--tokens N]",
    .summary = "Make a catalog from shards of activations",
    .details = "Reads the rows once: how often and how strongly each feature is active, its strongest examples (one of a document) with\n"
               "the tokens around them, and the tokens that its decoder row promotes and suppresses through the unembedding, or, where\n"
               "SHARDS_DIR has none, those on which it is most active. Labels that the catalog has stay. Memory grows with the number\n"
               "of features, not of rows. Features are written in transactions: a build that was killed can be run again.\n",
    .options = options,
    .run = run,
};
