/* llama2.c's tokenizer.bin: int32 longest piece, then for each token f32 score, int32 length, bytes (karpathy/llama2.c, tokenizer.py).
 * Token 0 is unknown, 1 begins and 2 ends a text; 3 .. 258 are bytes, where the vocabulary has them. */
#include "internal.h"
#include "tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { UNKNOWN = 0, BOS = 1, FIRST_BYTE = 3 };

/* Reads the token at *at. */
static bool read_token(const engine_file *f, size_t *at, float *score, const char **text, size_t *n_bytes)
{
    int32_t length;
    if (f->bytes - *at < sizeof *score + sizeof length)
        return false;
    memcpy(score, f->data + *at, sizeof *score);
    memcpy(&length, f->data + *at + sizeof *score, sizeof length);
    *at += sizeof *score + sizeof length;
    if (length < 0 || (size_t)length > f->bytes - *at || !isfinite(*score))
        return false;
    *text = (const char *)f->data + *at;
    *n_bytes = (size_t)length;
    *at += *n_bytes;
    return true;
}

/* "<0xE2>" for token FIRST_BYTE + 0xE2. */
static bool is_byte(int32_t id, const char *text, size_t n_bytes)
{
    char wanted[8];
    if (id < FIRST_BYTE || id >= FIRST_BYTE + 256)
        return false;
    snprintf(wanted, sizeof wanted, "<0x%02X>", (unsigned)(id - FIRST_BYTE));
    return n_bytes == strlen(wanted) && !memcmp(wanted, text, n_bytes);
}

static bool read_pieces(engine_tokenizer *t, const engine_file *f, const char *path, engine_error *err)
{
    const size_t most = f->bytes / 8; /* tokens that the file can hold */
    if (!(t->score = engine_take(most, 1, 1, sizeof *t->score, err)) || !(t->plain = engine_take(most, 1, 1, sizeof *t->plain, err)))
        return false;
    for (size_t at = 4; at < f->bytes;) {
        const size_t began = at;
        const char *text;
        size_t n_bytes;
        const int32_t id = t->piece.n;
        if (!read_token(f, &at, t->score + id, &text, &n_bytes))
            return engine_fail(err, "%s is damaged: token %d, at byte %zu, does not fit into the file or has a score that is not finite",
                               path, id, began);
        const bool byte = is_byte(id, text, n_bytes);
        if (byte)
            t->byte_id[id - FIRST_BYTE] = id;
        t->plain[id] = id >= FIRST_BYTE && !byte;
        if (!strings_add(&t->piece, text, n_bytes, err))
            return false;
    }
    return true;
}

bool engine_read_tokenizer_bin(engine_tokenizer *t, const char *path, engine_error *err)
{
    engine_file f;
    if (!engine_file_map(&f, path, err))
        return false;
    t->unknown = UNKNOWN;
    t->bos = BOS;
    t->blank = BLANK_ALWAYS;
    const bool ok = f.bytes / 8 < INT32_MAX ? read_pieces(t, &f, path, err) : engine_fail(err, "%s is too large for a tokenizer", path);
    engine_file_unmap(&f);
    return ok && engine_pieces_index(t, err);
}
