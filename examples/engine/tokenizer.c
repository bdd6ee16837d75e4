/* From text to tokens and back, for all tokenizers: pieces, merging, decoding. */
#include "tokenizer.h"
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char mark[] = "\xe2\x96\x81"; /* "▁" */
enum { MARK = sizeof mark - 1 };

/* ---- strings ---- */

static bool grow(void **p, size_t *capacity, size_t wanted, size_t each, engine_error *err)
{
    if (wanted <= *capacity)
        return true;
    const size_t n = wanted + *capacity;
    void *q = realloc(*p, n * each);
    if (!q)
        return engine_fail(err, "no memory for a vocabulary of %zu bytes", n * each);
    *p = q;
    *capacity = n;
    return true;
}

bool strings_add(strings *s, const char *text, size_t n_bytes, engine_error *err)
{
    void *start = s->start, *room = s->text;
    const size_t at = s->n ? s->start[s->n] : 0;
    const bool ok = grow(&start, &s->capacity, (size_t)s->n + 2, sizeof *s->start, err) && grow(&room, &s->room, at + n_bytes + 1, 1, err);
    s->start = start;
    s->text = room;
    if (!ok)
        return false;
    if (n_bytes)
        memcpy(s->text + at, text, n_bytes);
    s->start[s->n++] = at;
    s->start[s->n] = at + n_bytes;
    return true;
}

const char *strings_get(const strings *s, int32_t i, size_t *n_bytes)
{
    *n_bytes = s->start[i + 1] - s->start[i];
    return s->text + s->start[i];
}

void strings_free(strings *s)
{
    free(s->text);
    free(s->start);
    *s = (strings){0};
}

/* ---- finding pieces and merges ---- */

static uint64_t hash_bytes(const char *text, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

/* Where a piece stands in the table, or the empty place (-1) where it would stand. */
static int32_t *table_place(const engine_tokenizer *t, const char *text, size_t n_bytes)
{
    for (size_t at = hash_bytes(text, n_bytes) & t->table_mask;; at = (at + 1) & t->table_mask) {
        size_t n;
        const char *piece = t->table[at] < 0 ? NULL : strings_get(&t->piece, t->table[at], &n);
        if (!piece || (n == n_bytes && !memcmp(piece, text, n)))
            return t->table + at;
    }
}

bool engine_pieces_index(engine_tokenizer *t, engine_error *err)
{
    size_t places = 16;
    while (places < 2 * (size_t)t->piece.n)
        places *= 2;
    if (!(t->table = engine_take(places, 1, 1, sizeof *t->table, err)))
        return false;
    t->table_mask = places - 1;
    memset(t->table, 0xff, places * sizeof *t->table);
    for (int32_t i = 0; i < t->piece.n; i++) {
        size_t n;
        const char *piece = strings_get(&t->piece, i, &n);
        int32_t *place = table_place(t, piece, n);
        if (t->plain[i] && *place < 0)
            *place = i; /* the first of equal pieces */
    }
    return true;
}

int32_t engine_piece_find(const engine_tokenizer *t, const char *text, size_t n_bytes)
{
    return *table_place(t, text, n_bytes);
}

merge *engine_merge_place(const engine_tokenizer *t, int32_t left, int32_t right)
{
    const uint64_t pair = ((uint64_t)left << 32 | (uint32_t)right) + 1;
    uint64_t h = pair * 0x9e3779b97f4a7c15u;
    for (size_t at = (h ^ h >> 32) & t->merge_mask;; at = (at + 1) & t->merge_mask)
        if (!t->merges[at].pair || t->merges[at].pair == pair)
            return t->merges + at;
}

/* ---- merging ---- */

/* Two neighbours that could merge. It is out of date once one of them has merged with another. */
typedef struct candidate {
    double cost;
    int32_t at, left, right, result;
} candidate;

/* The tokens of one word on the way to their final form: a list in place, and a heap of what could merge, the best first. */
typedef struct word {
    int32_t *id;   /* -1 = merged into the one before */
    int32_t *next; /* where the neighbour stands; n for none */
    int32_t *before;
    int32_t n;
    candidate *heap;
    int32_t n_heap;
} word;

/* Room for what a text of n bytes can become: every array as long as the text with blanks written out. */
typedef struct desk {
    word word;
    char *text;    /* normalised */
    char *letters; /* of a word */
    int32_t *out;
    int32_t n_out;
} desk;

/* The piece that two neighbours form by their spelling, or -1. */
static int32_t joined(const engine_tokenizer *t, int32_t left, int32_t right)
{
    size_t a, b;
    const char *l = strings_get(&t->piece, left, &a), *r = strings_get(&t->piece, right, &b);
    char text[512];
    if (!t->plain[left] || !t->plain[right] || a + b > sizeof text)
        return -1;
    memcpy(text, l, a);
    memcpy(text + a, r, b);
    return engine_piece_find(t, text, a + b);
}

/* What two neighbours become and at which cost; false when they do not merge. */
static bool weigh(const engine_tokenizer *t, candidate *c)
{
    if (t->score) {
        c->result = joined(t, c->left, c->right);
        c->cost = c->result < 0 ? 0.0 : -(double)t->score[c->result];
        return c->result >= 0;
    }
    const merge *m = engine_merge_place(t, c->left, c->right);
    c->result = m->result;
    c->cost = m->rank;
    return m->pair;
}

/* The cheaper one, the left one of equals. */
static bool better(const candidate *a, const candidate *b)
{
    return a->cost < b->cost || (a->cost == b->cost && a->at < b->at);
}

static void push(word *w, candidate c)
{
    int32_t i = w->n_heap++;
    for (; i > 0 && better(&c, w->heap + (i - 1) / 2); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = c;
}

static candidate pop(word *w)
{
    const candidate best = w->heap[0], last = w->heap[--w->n_heap];
    int32_t i = 0;
    for (int32_t child; (child = 2 * i + 1) < w->n_heap; i = child) {
        if (child + 1 < w->n_heap && better(w->heap + child + 1, w->heap + child))
            child++;
        if (!better(w->heap + child, &last))
            break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = last;
    return best;
}

static void consider(const engine_tokenizer *t, word *w, int32_t at)
{
    if (at < 0 || w->next[at] >= w->n)
        return;
    candidate c = {.at = at, .left = w->id[at], .right = w->id[w->next[at]]};
    if (weigh(t, &c))
        push(w, c);
}

static void link_up(word *w)
{
    w->n_heap = 0;
    for (int32_t i = 0; i < w->n; i++) {
        w->next[i] = i + 1;
        w->before[i] = i - 1;
    }
}

/* Moves what is left to the front. */
static void close_gaps(word *w)
{
    int32_t n = 0;
    for (int32_t i = 0; i < w->n; i = w->next[i])
        w->id[n++] = w->id[i];
    w->n = n;
}

static void merge_word(const engine_tokenizer *t, word *w)
{
    link_up(w);
    for (int32_t i = 0; i < w->n; i++)
        consider(t, w, i);
    while (w->n_heap) {
        const candidate c = pop(w);
        const int32_t right = w->next[c.at];
        if (w->id[c.at] != c.left || right >= w->n || w->id[right] != c.right)
            continue;
        w->id[c.at] = c.result;
        w->id[right] = -1;
        w->next[c.at] = w->next[right];
        if (w->next[right] < w->n)
            w->before[w->next[right]] = c.at;
        consider(t, w, w->before[c.at]);
        consider(t, w, c.at);
    }
    close_gaps(w);
}

static bool bytes_known(const engine_tokenizer *t, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (t->byte_id[(unsigned char)text[i]] < 0)
            return false;
    return true;
}

/* A character that has no piece: its bytes where they have tokens, else the unknown token, else nothing. */
static void push_unknown(const engine_tokenizer *t, word *w, const char *text, size_t n, bool *fused)
{
    if (bytes_known(t, text, n)) {
        for (size_t i = 0; i < n; i++)
            w->id[w->n++] = t->byte_id[(unsigned char)text[i]];
        *fused = false;
    } else if (t->unknown >= 0) {
        if (!(*fused && t->fuse_unknown))
            w->id[w->n++] = t->unknown;
        *fused = true;
    }
}

static void encode_word(const engine_tokenizer *t, desk *d, const char *text, size_t n)
{
    word *w = &d->word;
    bool fused = false;
    w->n = 0;
    const int32_t whole = t->whole_first ? engine_piece_find(t, text, n) : -1;
    if (whole >= 0)
        w->id[w->n++] = whole;
    for (size_t at = 0, end; whole < 0 && at < n; at = end) {
        end = at;
        engine_utf8_next(text, n, &end);
        const int32_t id = engine_piece_find(t, text + at, end - at);
        if (id < 0) {
            push_unknown(t, w, text + at, end - at, &fused);
            continue;
        }
        w->id[w->n++] = id;
        fused = false;
    }
    if (whole < 0)
        merge_word(t, w);
    memcpy(d->out + d->n_out, w->id, (size_t)w->n * sizeof *d->out);
    d->n_out += w->n;
}

/* ---- before merging ---- */

static bool starts_with(const char *text, size_t n, const char *head, size_t n_head)
{
    return n >= n_head && !memcmp(text, head, n_head);
}

static bool wants_blank(const engine_tokenizer *t, const char *text, size_t n, bool first)
{
    const bool there = starts_with(text, n, " ", 1) || (t->blank_is_mark && starts_with(text, n, mark, MARK));
    return t->blank == BLANK_ALWAYS || (t->blank == BLANK_MISSING && !there) || (t->blank == BLANK_FIRST && first && !there);
}

/* Writes the text with its blanks as the pieces spell them; gives its bytes. */
static size_t normalise(const engine_tokenizer *t, char *out, const char *text, size_t n, bool first)
{
    const char *blank = t->blank_is_mark ? mark : " ";
    const size_t blank_bytes = t->blank_is_mark ? MARK : 1;
    size_t at = 0;
    if (wants_blank(t, text, n, first)) {
        memcpy(out, blank, blank_bytes);
        at = blank_bytes;
    }
    for (size_t i = 0; i < n; i++) {
        const size_t bytes = text[i] == ' ' ? blank_bytes : 1;
        memcpy(out + at, text[i] == ' ' ? blank : text + i, bytes);
        at += bytes;
    }
    return at;
}

static size_t letters_of(char *out, const char *text, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        at += engine_byte_to_letter((unsigned char)text[i], out + at);
    return at;
}

static void encode_split(const engine_tokenizer *t, desk *d, const char *text, size_t n)
{
    for (size_t at = 0, bytes; at < n; at += bytes) {
        bytes = engine_split(t->split, text + at, n - at);
        if (t->byte_level)
            encode_word(t, d, d->letters, letters_of(d->letters, text + at, bytes));
        else
            encode_word(t, d, text + at, bytes);
    }
}

/* Bytes up to the next digit, or of the digit that stands in front. */
static size_t up_to_digit(const char *text, size_t n)
{
    size_t at = 0;
    for (size_t end = 0; at < n; at = end)
        if (engine_is_number(engine_utf8_next(text, n, &end)))
            return at ? at : end;
    return n;
}

/* A stretch of text without added tokens. */
static void encode_stretch(const engine_tokenizer *t, desk *d, const char *raw, size_t n_raw, bool first)
{
    if (n_raw == 0)
        return;
    const size_t n = normalise(t, d->text, raw, n_raw, first);
    for (size_t at = 0, bytes; at < n; at += bytes) {
        bytes = t->digits_alone ? up_to_digit(d->text + at, n - at) : n;
        encode_split(t, d, d->text + at, bytes);
    }
}

/* The longest added token that stands at the front of a text, or NULL. */
static const added *added_at(const engine_tokenizer *t, const char *text, size_t n, size_t *bytes)
{
    const added *best = NULL;
    *bytes = 0;
    for (int32_t i = 0; i < t->n_added; i++) {
        size_t n_piece;
        const char *piece = strings_get(&t->piece, t->added[i].id, &n_piece);
        if (n_piece > *bytes && starts_with(text, n, piece, n_piece)) {
            best = t->added + i;
            *bytes = n_piece;
        }
    }
    return best;
}

static void encode(const engine_tokenizer *t, desk *d, const char *text, size_t n)
{
    size_t from = 0;
    if (t->bos >= 0)
        d->out[d->n_out++] = t->bos;
    for (size_t at = 0, bytes; at < n; at += bytes) {
        const added *a = added_at(t, text + at, n - at, &bytes);
        if (a) {
            encode_stretch(t, d, text + from, at - from, from == 0);
            d->out[d->n_out++] = a->id;
            from = at + bytes;
        } else {
            bytes = 1;
        }
    }
    encode_stretch(t, d, text + from, n - from, from == 0);
}

static void free_desk(desk *d)
{
    void *const all[] = {d->word.id, d->word.next, d->word.before, d->word.heap, d->text, d->letters};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* The heap holds every pair at the start and two more after each merge. */
static bool take_desk(desk *d, size_t n, engine_error *err)
{
    word *w = &d->word;
    return (w->id = engine_take(n, 1, 1, sizeof *w->id, err)) && (w->next = engine_take(n, 1, 1, sizeof *w->next, err)) &&
           (w->before = engine_take(n, 1, 1, sizeof *w->before, err)) && (w->heap = engine_take(n, 3, 1, sizeof *w->heap, err)) &&
           (d->text = engine_take(n, 1, 1, 1, err)) && (d->letters = engine_take(n, 2, 1, 1, err)) &&
           (d->out = engine_take(n, 1, 1, sizeof *d->out, err));
}

bool engine_tokenize(const engine_tokenizer *t, const char *text, int32_t **tokens, int32_t *n, engine_error *err)
{
    const size_t bytes = strlen(text);
    desk d = {0};
    *tokens = NULL;
    *n = 0;
    if (!engine_utf8_valid(text, bytes))
        return engine_fail(err, "the text is not valid UTF-8");
    if (bytes > INT32_MAX / 16)
        return engine_fail(err, "the text has %zu bytes, which is more than fits into a prompt", bytes);
    const bool ok = take_desk(&d, (bytes + 2) * MARK, err); /* a blank may become a mark, a byte two bytes of letters, BOS is one more */
    if (ok) {
        encode(t, &d, text, bytes);
        *tokens = d.out;
        *n = d.n_out;
    }
    free_desk(&d);
    return ok;
}

/* ---- back to text ---- */

static bool add_bytes(engine_tokenizer *t, int32_t id, engine_error *err)
{
    size_t n, at = 0, out = 0;
    const char *piece = strings_get(&t->piece, id, &n);
    if (!t->plain[id]) {
        for (int b = 0; b < 256; b++)
            if (t->byte_id[b] == id)
                return strings_add(&t->bytes, &(char){(char)b}, 1, err);
        for (int32_t i = 0; i < t->n_added; i++)
            if (t->added[i].id == id && !t->added[i].special)
                return strings_add(&t->bytes, piece, n, err);
        return strings_add(&t->bytes, "", 0, err);
    }
    if (!strings_add(&t->bytes, piece, n, err))
        return false;
    char *text = t->bytes.text + t->bytes.start[id]; /* shrinks in place */
    while (at < n) {
        if (t->blank_is_mark && starts_with(text + at, n - at, mark, MARK)) {
            text[out++] = ' ';
            at += MARK;
            continue;
        }
        size_t next = at;
        const int32_t byte = t->byte_level ? engine_letter_to_byte(engine_utf8_next(text, n, &next)) : -1;
        if (byte >= 0) {
            text[out++] = (char)byte;
            at = next;
        } else {
            text[out++] = text[at++];
        }
    }
    t->bytes.start[id + 1] = t->bytes.start[id] + out;
    return true;
}

/* Is this a text that can be shown: UTF-8 without a zero? */
static bool is_text(const char *text, size_t n)
{
    return n && engine_utf8_valid(text, n) && !memchr(text, 0, n);
}

static bool add_name(engine_tokenizer *t, int32_t id, engine_error *err)
{
    size_t n, n_piece;
    const char *bytes = strings_get(&t->bytes, id, &n), *piece = strings_get(&t->piece, id, &n_piece);
    char hex[8];
    if (is_text(bytes, n))
        return strings_add(&t->name, bytes, n, err) && strings_add(&t->name, "", 1, err);
    while (n_piece && piece[0] == '\n') /* llama2.c writes its special tokens between line ends */
        piece++, n_piece--;
    while (n_piece && piece[n_piece - 1] == '\n')
        n_piece--;
    if (is_text(piece, n_piece))
        return strings_add(&t->name, piece, n_piece, err) && strings_add(&t->name, "", 1, err);
    snprintf(hex, sizeof hex, "#%d", (int)(id % 100000));
    return strings_add(&t->name, hex, strlen(hex), err) && strings_add(&t->name, "", 1, err);
}

const char *engine_token_bytes(const engine_tokenizer *t, int32_t id, size_t *n_bytes)
{
    return strings_get(&t->bytes, id, n_bytes);
}

const char *engine_token_name(const engine_tokenizer *t, int32_t id)
{
    size_t n;
    return strings_get(&t->name, 2 * id, &n);
}

/* ---- life ---- */

static bool fill(engine_tokenizer *t, const char *path, int32_t n_vocab, engine_error *err)
{
    const size_t length = strlen(path);
    const bool json = length > 5 && !strcmp(path + length - 5, ".json");
    if (!(json ? engine_read_tokenizer_json(t, path, err) : engine_read_tokenizer_bin(t, path, err)))
        return false;
    if (t->piece.n != n_vocab)
        return engine_fail(err, "%s has %d tokens, the model's vocabulary has %d: this tokenizer belongs to another model", path,
                           t->piece.n, n_vocab);
    for (int32_t i = 0; i < n_vocab; i++)
        if (!add_bytes(t, i, err) || !add_name(t, i, err))
            return false;
    return true;
}

bool engine_tokenizer_open(engine_tokenizer **out, const char *path, int32_t n_vocab, engine_error *err)
{
    *out = NULL;
    engine_tokenizer *t = engine_take(1, 1, 1, sizeof *t, err);
    if (!t)
        return false;
    t->bos = t->unknown = -1;
    for (int b = 0; b < 256; b++)
        t->byte_id[b] = -1;
    if (!fill(t, path, n_vocab, err)) {
        engine_tokenizer_free(t);
        return false;
    }
    *out = t;
    return true;
}

void engine_tokenizer_free(engine_tokenizer *t)
{
    if (!t)
        return;
    strings_free(&t->piece);
    strings_free(&t->bytes);
    strings_free(&t->name);
    free(t->plain);
    free(t->table);
    free(t->score);
    free(t->merges);
    free(t->added);
    free(t);
}
