/* Activations for a catalog: what passes a hook while texts run through the model, in shards of .npy files, with the vocabulary and the
 * output matrix. shards.json is written last, so a folder that has one is complete. Rows of the BOS token are left out: every text has
 * the same, and it is far from all others. */
#define _POSIX_C_SOURCE 200809L

#include "internal.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BATCH = 64, PATH_BYTES = 4096, TOKEN_COLUMNS = 3 };

typedef struct exporter {
    const engine_model *model;
    const engine_tokenizer *tokenizer;
    const engine_export_options *opt;
    engine_session *session;
    engine_npy activations, tokens;
    bool open; /* a shard is being written */
    int32_t shard_rows;
    int32_t document;
    json_t *shards;
    engine_export_result result;
} exporter;

static void name_in(char path[PATH_BYTES], const exporter *x, const char *name)
{
    snprintf(path, PATH_BYTES, "%s/%s", x->opt->folder, name);
}

/* ---- shards ---- */

static bool open_shard(exporter *x, engine_error *err)
{
    char name[40], path[PATH_BYTES];
    snprintf(name, sizeof name, "activations-%05d.npy", x->result.n_shards);
    name_in(path, x, name);
    if (!engine_npy_open(&x->activations, path, "<f4", x->model->shape.dim, err))
        return false;
    snprintf(name, sizeof name, "tokens-%05d.npy", x->result.n_shards);
    name_in(path, x, name);
    if (!engine_npy_open(&x->tokens, path, "<i4", TOKEN_COLUMNS, err)) {
        engine_npy_abandon(&x->activations);
        return false;
    }
    x->open = true;
    return true;
}

static bool close_shard(exporter *x, engine_error *err)
{
    char activations[40], tokens[40];
    if (!x->open)
        return true;
    const int32_t n = x->result.n_shards++;
    const json_int_t rows = x->activations.rows;
    x->open = false;
    snprintf(activations, sizeof activations, "activations-%05d.npy", n);
    snprintf(tokens, sizeof tokens, "tokens-%05d.npy", n);
    if (!engine_npy_close(&x->activations, err)) {
        engine_npy_abandon(&x->tokens);
        return false;
    }
    return engine_npy_close(&x->tokens, err) &&
           (!json_array_append_new(x->shards, json_pack("{s:s, s:s, s:I}", "activations", activations, "tokens", tokens, "rows", rows)) ||
            engine_fail(err, "no memory for the list of shards"));
}

static bool write_row(exporter *x, const engine_rows *rows, int32_t r, engine_error *err)
{
    const int32_t token[TOKEN_COLUMNS] = {rows->token[r], x->document, rows->position[r]};
    if (!x->open && !open_shard(x, err))
        return false;
    x->result.n_rows++;
    return engine_npy_write(&x->activations, rows->x + (size_t)r * (size_t)rows->dim, 1, err) &&
           engine_npy_write(&x->tokens, token, 1, err) && (x->activations.rows < x->shard_rows || close_shard(x, err));
}

static bool on_rows(void *user, const engine_rows *rows, engine_error *err)
{
    exporter *x = user;
    for (int32_t r = 0; r < rows->n_rows; r++)
        if (!(rows->position[r] == 0 && rows->token[r] == x->model->bos) && !write_row(x, rows, r, err))
            return false;
    return true;
}

/* ---- documents ---- */

static bool run_document(exporter *x, const int32_t *tokens, int32_t n, engine_error *err)
{
    int32_t sequence[BATCH] = {0}, position[BATCH];
    const int32_t most = engine_session_context(x->session);
    x->result.n_cut += n > most;
    n = n < most ? n : most;
    for (int32_t at = 0; at < n; at += BATCH) {
        const int32_t rows = n - at < BATCH ? n - at : BATCH;
        for (int32_t i = 0; i < rows; i++)
            position[i] = at + i;
        const engine_batch b = {.n_rows = rows, .token = tokens + at, .sequence = sequence, .position = position};
        if (!engine_step(x->session, &b, NULL, err))
            return false;
    }
    return true;
}

/* `text` may be changed: its end is cut off. Empty documents are no documents. */
static bool take_document(exporter *x, char *text, size_t bytes, engine_error *err)
{
    int32_t *tokens, n;
    while (bytes && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r'))
        bytes--;
    if (!bytes)
        return true;
    if (memchr(text, 0, bytes))
        return engine_fail(err, "%s: document %d holds a zero byte", x->opt->texts, x->document);
    text[bytes] = '\0';
    if (!engine_tokenize(x->tokenizer, text, &tokens, &n, err)) {
        const engine_error why = *err;
        return engine_fail(err, "%s: document %d: %.400s", x->opt->texts, x->document, why.text);
    }
    const bool ok = run_document(x, tokens, n, err);
    free(tokens);
    x->document++;
    x->result.n_documents++;
    return ok;
}

static const char separator[] = "<|endoftext|>";

static bool is_separator(const char *line, size_t n)
{
    while (n && (line[n - 1] == '\n' || line[n - 1] == '\r'))
        n--;
    return n == sizeof separator - 1 && !memcmp(line, separator, n);
}

/* Bytes of the line at `text`, its end included. */
static size_t line_bytes(const char *text, size_t n)
{
    const char *end = memchr(text, '\n', n);
    return end ? (size_t)(end - text) + 1 : n;
}

static bool has_separator(const char *text, size_t n)
{
    for (size_t at = 0, bytes; at < n; at += bytes)
        if (bytes = line_bytes(text + at, n - at), is_separator(text + at, bytes))
            return true;
    return false;
}

static bool run_texts(exporter *x, char *text, size_t n, engine_error *err)
{
    const bool separated = has_separator(text, n);
    size_t from = 0;
    for (size_t at = 0, bytes; at < n; at += bytes) {
        bytes = line_bytes(text + at, n - at);
        const bool cut = is_separator(text + at, bytes);
        if (separated && !cut)
            continue;
        if (!take_document(x, text + from, (cut ? at : at + bytes) - from, err))
            return false;
        from = at + bytes;
    }
    return take_document(x, text + from, n - from, err) && close_shard(x, err);
}

static bool read_texts(exporter *x, engine_error *err)
{
    engine_file f;
    if (!engine_file_map(&f, x->opt->texts, err))
        return false;
    char *copy = engine_take(f.bytes + 1, 1, 1, 1, err);
    if (copy)
        memcpy(copy, f.data, f.bytes);
    const size_t n = f.bytes;
    engine_file_unmap(&f);
    const bool ok = copy && run_texts(x, copy, n, err);
    free(copy);
    return ok;
}

/* ---- what lies beside the shards ---- */

static bool write_json(const exporter *x, const char *name, const json_t *value, engine_error *err)
{
    char path[PATH_BYTES], part[PATH_BYTES + 8];
    name_in(path, x, name);
    snprintf(part, sizeof part, "%s.part", path);
    if (json_dump_file(value, part, JSON_INDENT(1)) || rename(part, path)) {
        remove(part);
        return engine_fail(err, "%s: cannot write: %s", path, strerror(errno));
    }
    return true;
}

static bool write_vocab(const exporter *x, engine_error *err)
{
    json_t *names = json_array();
    bool ok = names;
    for (int32_t i = 0; ok && i < x->model->shape.n_vocab; i++)
        ok = !json_array_append_new(names, json_string(engine_token_name(x->tokenizer, i)));
    ok = ok ? write_json(x, "vocab.json", names, err) : engine_fail(err, "no memory for the vocabulary");
    json_decref(names);
    return ok;
}

/* W_U with the last norm's weight folded in: what a direction in the residual stream says about the next token. */
static bool write_unembed(const exporter *x, engine_error *err)
{
    const engine_model *m = x->model;
    const size_t dim = (size_t)m->shape.dim;
    char path[PATH_BYTES];
    engine_npy f;
    float *row = engine_take(dim, 1, 1, sizeof *row, err);
    name_in(path, x, "unembed.npy");
    bool ok = row && engine_npy_open(&f, path, "<f4", m->shape.dim, err);
    if (ok) {
        for (size_t v = 0; ok && v < (size_t)m->shape.n_vocab; v++) {
            engine_matrix_row(row, &m->head, v, dim);
            for (size_t i = 0; i < dim; i++)
                row[i] *= m->final_norm[i];
            ok = engine_npy_write(&f, row, 1, err);
        }
        if (ok)
            ok = engine_npy_close(&f, err);
        else
            engine_npy_abandon(&f);
    }
    free(row);
    return ok;
}

static bool write_index(exporter *x, engine_error *err)
{
    json_t *index = json_pack("{s:s, s:i, s:s, s:s, s:i, s:s, s:s, s:O}", "format", "libsae activations", "version", 1, "model",
                              x->model->name, "hook_name", x->opt->hook_name, "d_in", x->model->shape.dim, "vocab", "vocab.json", "unembed",
                              "unembed.npy", "shards", x->shards);
    const bool ok = index ? write_json(x, "shards.json", index, err) : engine_fail(err, "no memory for shards.json");
    json_decref(index);
    return ok;
}

/* ---- the whole ---- */

static bool make_folder(const exporter *x, engine_error *err)
{
    char path[PATH_BYTES];
    struct stat st;
    if (strlen(x->opt->folder) > PATH_BYTES - 64)
        return engine_fail(err, "the name of the folder is too long");
    if (mkdir(x->opt->folder, 0777) && errno != EEXIST)
        return engine_fail(err, "%s: cannot make the folder: %s", x->opt->folder, strerror(errno));
    name_in(path, x, "shards.json");
    if (stat(path, &st))
        return true;
    if (!x->opt->force)
        return engine_fail(err, "%s is there already (--force replaces it)", path);
    return !remove(path) || engine_fail(err, "%s: cannot remove: %s", path, strerror(errno));
}

static bool export_all(exporter *x, engine_error *err)
{
    engine_point at;
    if (!engine_point_parse(&at, x->model, x->opt->hook_name, err) ||
        !engine_session_create(&x->session, x->model, 1, x->opt->context, BATCH, err) ||
        !engine_session_hook(x->session, at, on_rows, NULL, x, err) || !make_folder(x, err) || !read_texts(x, err))
        return false;
    if (!x->result.n_rows)
        return engine_fail(err, "%s holds no text", x->opt->texts);
    return write_vocab(x, err) && write_unembed(x, err) && write_index(x, err);
}

bool engine_export(const engine_model *model, const engine_tokenizer *t, const engine_export_options *opt, engine_export_result *out,
                   engine_error *err)
{
    exporter x = {
        .model = model, .tokenizer = t, .opt = opt, .shard_rows = opt->shard_rows ? opt->shard_rows : 65536, .shards = json_array()};
    const bool ok = x.shards ? export_all(&x, err) : engine_fail(err, "no memory for the list of shards");
    if (x.open) {
        engine_npy_abandon(&x.activations);
        engine_npy_abandon(&x.tokens);
    }
    engine_session_free(x.session);
    json_decref(x.shards);
    *out = x.result;
    return ok;
}
