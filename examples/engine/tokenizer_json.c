/* Hugging Face's tokenizer.json, as far as Llamas use it: BPE over GPT-2's alphabet of bytes (Llama 3), or SentencePiece's BPE, with "▁" for
 * blanks and bytes where a character is unknown (Llama 2). What it does not know it refuses by name: a tokenizer that is nearly right
 * gives text that is nearly right. */
#include "internal.h"
#include "tokenizer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* The file under way; sentences name it. */
typedef struct reader {
    engine_tokenizer *t;
    const char *path;
    const char **spelled; /* [n] by id; NULL = not seen */
    int32_t n;
    engine_error *err;
} reader;

static bool refuse(const reader *r, const char *what, const char *value)
{
    return engine_fail(r->err, "%s: %s '%.80s' is not one that this engine knows", r->path, what, value ? value : "(none)");
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static bool is(const json_t *object, const char *key, const char *value)
{
    return !strcmp(text_of(object, key), value);
}

/* Is this step, or a step of this sequence, of the type? The field that holds a sequence's steps differs. */
static size_t n_steps(const json_t *step, const char *list)
{
    return json_is_null(step) || !step ? 0 : is(step, "type", "Sequence") ? json_array_size(json_object_get(step, list)) : 1;
}

static const json_t *step_at(const json_t *step, const char *list, size_t i)
{
    return is(step, "type", "Sequence") ? json_array_get(json_object_get(step, list), i) : step;
}

/* ---- vocabulary ---- */

static bool place(reader *r, json_int_t id, const char *text)
{
    if (id < 0 || id >= r->n)
        return engine_fail(r->err, "%s: token '%.60s' has the number %lld, but there are %d tokens: numbers are missing", r->path, text,
                           (long long)id, r->n);
    if (r->spelled[id] && strcmp(r->spelled[id], text) != 0)
        return engine_fail(r->err, "%s: token %lld is '%.60s' and '%.60s'", r->path, (long long)id, r->spelled[id], text);
    r->spelled[id] = text;
    return true;
}

/* Added tokens may stand in the vocabulary too, so the number of tokens is one more than the highest. */
static bool count_tokens(reader *r, const json_t *vocab, const json_t *added_tokens)
{
    const size_t most = json_object_size(vocab) + json_array_size(added_tokens);
    json_int_t highest = -1;
    const char *key;
    json_t *value;
    size_t i;
    json_object_foreach((json_t *)vocab, key, value) highest = json_integer_value(value) > highest ? json_integer_value(value) : highest;
    json_array_foreach(added_tokens, i, value) highest =
        json_integer_value(json_object_get(value, "id")) > highest ? json_integer_value(json_object_get(value, "id")) : highest;
    if (highest < 0 || highest >= (json_int_t)most || most > INT32_MAX / 4)
        return engine_fail(r->err, "%s: the highest token is %lld, but %zu tokens are listed", r->path, (long long)highest, most);
    r->n = (int32_t)highest + 1;
    return true;
}

static bool read_vocab(reader *r, const json_t *vocab)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value) if (!json_is_integer(value)) return engine_fail(
        r->err, "%s: the number of token '%.60s' is none", r->path, key);
    else if (!place(r, json_integer_value(value), key)) return false;
    return true;
}

static bool read_added(reader *r, const json_t *list)
{
    engine_tokenizer *t = r->t;
    size_t i;
    json_t *value;
    if (!(t->added = engine_take(json_array_size(list), 1, 1, sizeof *t->added, r->err)))
        return false;
    json_array_foreach(list, i, value)
    {
        const json_t *id = json_object_get(value, "id");
        const char *content = text_of(value, "content");
        if (!json_is_integer(id) || !*content)
            return engine_fail(r->err, "%s: added token %zu has no number or no content", r->path, i);
        if (json_is_true(json_object_get(value, "lstrip")) || json_is_true(json_object_get(value, "rstrip")) ||
            json_is_true(json_object_get(value, "single_word")))
            return refuse(r, "an added token that strips blanks or wants a word of its own,", content);
        if (!place(r, json_integer_value(id), content))
            return false;
        t->added[t->n_added++] = (added){.id = (int32_t)json_integer_value(id), .special = json_is_true(json_object_get(value, "special"))};
    }
    return true;
}

/* Which pieces may stand for text: not the added ones, not bytes. */
static bool mark_plain(reader *r, bool byte_fallback)
{
    engine_tokenizer *t = r->t;
    if (!(t->plain = engine_take((size_t)r->n, 1, 1, sizeof *t->plain, r->err)))
        return false;
    memset(t->plain, 1, (size_t)r->n * sizeof *t->plain);
    for (int32_t i = 0; i < t->n_added; i++)
        t->plain[t->added[i].id] = false;
    for (int32_t i = 0; byte_fallback && i < r->n; i++) {
        unsigned byte;
        char wanted[8], more;
        if (sscanf(r->spelled[i], "<0x%2X>%c", &byte, &more) != 1)
            continue;
        snprintf(wanted, sizeof wanted, "<0x%02X>", byte & 0xff);
        if (!strcmp(wanted, r->spelled[i])) {
            t->byte_id[byte & 0xff] = i;
            t->plain[i] = false;
        }
    }
    return true;
}

static bool read_pieces(reader *r, const json_t *root, const json_t *model)
{
    const json_t *vocab = json_object_get(model, "vocab"), *list = json_object_get(root, "added_tokens");
    if (!json_is_object(vocab) || (list && !json_is_array(list)))
        return engine_fail(r->err, "%s has no model.vocab or no list of added_tokens", r->path);
    if (!count_tokens(r, vocab, list) || !(r->spelled = engine_take((size_t)r->n, 1, 1, sizeof *r->spelled, r->err)))
        return false;
    if (!read_vocab(r, vocab) || !read_added(r, list))
        return false;
    for (int32_t i = 0; i < r->n; i++)
        if (!r->spelled[i])
            return engine_fail(r->err, "%s: there is no token %d, but %d tokens", r->path, i, r->n);
        else if (!strings_add(&r->t->piece, r->spelled[i], strlen(r->spelled[i]), r->err))
            return false;
    return mark_plain(r, json_is_true(json_object_get(model, "byte_fallback"))) && engine_pieces_index(r->t, r->err);
}

/* ---- merges ---- */

/* Both halves of a merge, written "left right" or ["left", "right"]. */
static bool halves(const json_t *m, const char *half[2], size_t bytes[2])
{
    if (json_is_array(m) && json_array_size(m) == 2) {
        for (size_t i = 0; i < 2; i++) {
            half[i] = json_string_value(json_array_get(m, i));
            bytes[i] = half[i] ? strlen(half[i]) : 0;
        }
        return half[0] && half[1];
    }
    const char *text = json_string_value(m), *blank = text ? strchr(text, ' ') : NULL;
    if (!blank || strchr(blank + 1, ' '))
        return false;
    half[0] = text;
    bytes[0] = (size_t)(blank - text);
    half[1] = blank + 1;
    bytes[1] = strlen(blank + 1);
    return true;
}

static bool read_merge(reader *r, const json_t *m, int32_t rank)
{
    engine_tokenizer *t = r->t;
    const char *half[2];
    size_t bytes[2];
    char whole[1024];
    if (!halves(m, half, bytes) || bytes[0] + bytes[1] > sizeof whole)
        return engine_fail(r->err, "%s: merge %d is not a pair of pieces", r->path, rank);
    memcpy(whole, half[0], bytes[0]);
    memcpy(whole + bytes[0], half[1], bytes[1]);
    const int32_t left = engine_piece_find(t, half[0], bytes[0]), right = engine_piece_find(t, half[1], bytes[1]);
    const int32_t result = engine_piece_find(t, whole, bytes[0] + bytes[1]);
    if (left < 0 || right < 0 || result < 0)
        return engine_fail(r->err, "%s: merge %d joins or makes a piece that is not in the vocabulary", r->path, rank);
    merge *place_of = engine_merge_place(t, left, right);
    if (!place_of->pair)
        *place_of = (merge){.pair = ((uint64_t)left << 32 | (uint32_t)right) + 1, .rank = rank, .result = result};
    return true;
}

static bool read_merges(reader *r, const json_t *list)
{
    size_t places = 16, i;
    json_t *m;
    if (!json_is_array(list))
        return engine_fail(r->err, "%s has no list model.merges", r->path);
    while (places < 2 * json_array_size(list))
        places *= 2;
    if (!(r->t->merges = engine_take(places, 1, 1, sizeof *r->t->merges, r->err)))
        return false;
    r->t->merge_mask = places - 1;
    json_array_foreach(list, i, m) if (!read_merge(r, m, (int32_t)i)) return false;
    return true;
}

/* ---- what happens before ---- */

static bool read_normalizer(reader *r, const json_t *all)
{
    for (size_t i = 0; i < n_steps(all, "normalizers"); i++) {
        const json_t *s = step_at(all, "normalizers", i);
        if (is(s, "type", "Prepend") && is(s, "prepend", "▁"))
            r->t->blank = BLANK_ALWAYS;
        else if (is(s, "type", "Replace") && is(json_object_get(s, "pattern"), "String", " ") && is(s, "content", "▁"))
            r->t->blank_is_mark = true;
        else
            return refuse(r, "the normalizer", text_of(s, "type"));
    }
    return r->t->blank == BLANK_NEVER || r->t->blank_is_mark || refuse(r, "a normalizer that prepends ▁ but leaves blanks,", "Prepend");
}

static bool read_metaspace(reader *r, const json_t *s)
{
    engine_tokenizer *t = r->t;
    const char *scheme = text_of(s, "prepend_scheme");
    const json_t *split = json_object_get(s, "split");
    if (!is(s, "replacement", "▁"))
        return refuse(r, "the replacement of Metaspace", text_of(s, "replacement"));
    if (!*scheme)
        scheme = json_is_false(json_object_get(s, "add_prefix_space")) ? "never" : "always";
    t->blank_is_mark = true;
    t->split = json_is_false(split) ? SPLIT_NONE : SPLIT_BLANKS;
    if (!strcmp(scheme, "always"))
        t->blank = BLANK_MISSING;
    else if (!strcmp(scheme, "first"))
        t->blank = BLANK_FIRST;
    else if (strcmp(scheme, "never") != 0)
        return refuse(r, "the prepend_scheme", scheme);
    return true;
}

/* Llama 3's way to cut a text (split.c). */
static const char llama3_words[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*"
    "[\\r\\n]+|\\s+(?!\\S)|\\s+";

static bool read_words(reader *r, const json_t *s)
{
    const char *regex = text_of(json_object_get(s, "pattern"), "Regex");
    if (strcmp(regex, llama3_words) != 0 || !is(s, "behavior", "Isolated") || json_is_true(json_object_get(s, "invert")))
        return refuse(r, "the pattern that splits words,", regex);
    r->t->split = SPLIT_LLAMA3;
    return true;
}

static bool read_byte_level(reader *r, const json_t *s)
{
    r->t->byte_level = true;
    if (!json_is_false(json_object_get(s, "use_regex")) && r->t->split == SPLIT_NONE)
        r->t->split = SPLIT_GPT2;
    if (json_is_true(json_object_get(s, "add_prefix_space")))
        r->t->blank = BLANK_MISSING;
    return true;
}

static bool read_pre_tokenizer(reader *r, const json_t *all)
{
    for (size_t i = 0; i < n_steps(all, "pretokenizers"); i++) {
        const json_t *s = step_at(all, "pretokenizers", i);
        bool ok = true;
        if (is(s, "type", "Metaspace"))
            ok = read_metaspace(r, s);
        else if (is(s, "type", "Split"))
            ok = read_words(r, s);
        else if (is(s, "type", "ByteLevel"))
            ok = read_byte_level(r, s);
        else if (is(s, "type", "Digits") && json_is_true(json_object_get(s, "individual_digits")))
            r->t->digits_alone = true;
        else
            return refuse(r, "the pre-tokenizer", text_of(s, "type"));
        if (!ok)
            return false;
    }
    return (r->t->byte_level || (r->t->split != SPLIT_LLAMA3 && !r->t->digits_alone)) || refuse(r, "words without", "ByteLevel");
}

/* The template of a single text: tokens in front of it, none behind. */
static bool read_template(reader *r, const json_t *s)
{
    size_t i;
    json_t *part;
    bool text_seen = false;
    json_array_foreach(json_object_get(s, "single"), i, part)
    {
        const json_t *special = json_object_get(part, "SpecialToken");
        const json_t *ids = json_object_get(json_object_get(json_object_get(s, "special_tokens"), text_of(special, "id")), "ids");
        const json_t *id = json_array_get(ids, 0);
        if (!special) {
            text_seen = true;
            continue;
        }
        if (text_seen || r->t->bos >= 0 || json_array_size(ids) != 1 || !json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= r->n)
            return refuse(r, "a template that does not put one token in front of a text; its", text_of(special, "id"));
        r->t->bos = (int32_t)json_integer_value(id);
    }
    return true;
}

static bool read_post_processor(reader *r, const json_t *all)
{
    for (size_t i = 0; i < n_steps(all, "processors"); i++) {
        const json_t *s = step_at(all, "processors", i);
        if (is(s, "type", "TemplateProcessing")) {
            if (!read_template(r, s))
                return false;
        } else if (!is(s, "type", "ByteLevel")) { /* that one moves offsets only */
            return refuse(r, "the post-processor", text_of(s, "type"));
        }
    }
    return true;
}

/* ---- the file ---- */

static bool read_unknown(reader *r, const json_t *model)
{
    const char *name = json_string_value(json_object_get(model, "unk_token"));
    r->t->fuse_unknown = json_is_true(json_object_get(model, "fuse_unk"));
    for (int32_t i = 0; name && i < r->n; i++)
        if (!strcmp(r->spelled[i], name))
            r->t->unknown = i;
    return !name || r->t->unknown >= 0 || engine_fail(r->err, "%s: the unknown token '%.60s' is not in the vocabulary", r->path, name);
}

static bool read_root(reader *r, const json_t *root)
{
    const json_t *model = json_object_get(root, "model");
    if (!json_is_object(model) || !is(model, "type", "BPE"))
        return refuse(r, "the tokenizer's model", text_of(model, "type"));
    if (*text_of(model, "continuing_subword_prefix") || *text_of(model, "end_of_word_suffix"))
        return refuse(r, "BPE with prefixes or suffixes,", text_of(model, "end_of_word_suffix"));
    r->t->whole_first = json_is_true(json_object_get(model, "ignore_merges"));
    return read_pieces(r, root, model) && read_merges(r, json_object_get(model, "merges")) && read_unknown(r, model) &&
           read_normalizer(r, json_object_get(root, "normalizer")) && read_pre_tokenizer(r, json_object_get(root, "pre_tokenizer")) &&
           read_post_processor(r, json_object_get(root, "post_processor"));
}

bool engine_read_tokenizer_json(engine_tokenizer *t, const char *path, engine_error *err)
{
    json_error_t e;
    engine_file f;
    if (!engine_file_map(&f, path, err))
        return false;
    json_t *root = json_loadb((const char *)f.data, f.bytes, JSON_REJECT_DUPLICATES, &e);
    engine_file_unmap(&f);
    if (!root)
        return engine_fail(err, "%s, line %d: %s", path, e.line, e.text);
    reader r = {.t = t, .path = path, .err = err};
    const bool ok = read_root(&r, root);
    free(r.spelled);
    json_decref(root);
    return ok;
}
