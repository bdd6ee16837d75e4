/* What the two tokenizer formats have in common: pieces, how pairs of them merge, and what is done to a text before. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include "engine.h"

/* Many strings in one piece of memory: string i is text[start[i]] .. text[start[i + 1]]. */
typedef struct strings {
    char *text;
    size_t *start; /* [n + 1] */
    int32_t n;
    size_t room, capacity; /* bytes of text; strings */
} strings;

bool strings_add(strings *s, const char *text, size_t n_bytes, engine_error *err);
const char *strings_get(const strings *s, int32_t i, size_t *n_bytes);
void strings_free(strings *s);

/* Two neighbours that become one; a smaller rank merges earlier. */
typedef struct merge {
    uint64_t pair; /* left << 32 | right, plus 1: 0 is an empty place */
    int32_t rank;
    int32_t result;
} merge;

/* How a text is cut before pairs merge. */
enum { SPLIT_NONE = 0, SPLIT_GPT2 = 1, SPLIT_LLAMA3 = 2, SPLIT_BLANKS = 3 /* before each "▁" */ };

/* When a blank is put in front of a text. */
enum {
    BLANK_NEVER = 0,
    BLANK_ALWAYS = 1,
    BLANK_MISSING = 2 /* unless one is there */,
    BLANK_FIRST = 3 /* as missing, at the very beginning only */
};

/* A token that is found in a text as it stands, before all else. */
typedef struct added {
    int32_t id;
    bool special;
} added;

struct engine_tokenizer {
    strings piece; /* as the vocabulary spells them */
    strings bytes; /* what they add to a text */
    strings name;  /* terminated, for people */
    bool *plain;   /* [n] may stand for text and merge: neither special nor a byte */
    int32_t *table;
    size_t table_mask;
    float *score; /* [n] tokenizer.bin: the piece with the higher score merges earlier; NULL = merges */
    merge *merges;
    size_t merge_mask;
    added *added; /* [n_added] */
    int32_t n_added;
    int32_t byte_id[256]; /* tokens for bytes of characters that have no piece, -1 = none */
    int32_t unknown;      /* -1 = none */
    int32_t bos;          /* in front of every text, -1 = none */
    int32_t blank;        /* BLANK_* */
    int32_t split;        /* SPLIT_* */
    bool fuse_unknown;    /* unknown characters in a row become one token */
    bool blank_is_mark;   /* blanks are "▁" in pieces */
    bool byte_level;      /* pieces are spelled in GPT-2's alphabet of bytes */
    bool digits_alone;    /* every digit is cut off first */
    bool whole_first;     /* a word that is a piece is not merged from its parts */
};

/* Readers fill pieces, plain, score or merges, byte_id and the options of a zeroed tokenizer. */
bool engine_read_tokenizer_bin(engine_tokenizer *t, const char *path, engine_error *err);
bool engine_read_tokenizer_json(engine_tokenizer *t, const char *path, engine_error *err);

/* Builds the table in which engine_piece_find looks; readers call it once pieces and plain are there. */
bool engine_pieces_index(engine_tokenizer *t, engine_error *err);

/* The plain piece with these bytes, or -1. */
int32_t engine_piece_find(const engine_tokenizer *t, const char *text, size_t n_bytes);

/* The place of a pair in t->merges, or the empty one where it belongs. */
merge *engine_merge_place(const engine_tokenizer *t, int32_t left, int32_t right);

/* Bytes of the first word of a text, > 0. */
size_t engine_split(int32_t split, const char *text, size_t n_bytes);

/* One character of valid UTF-8, its bytes added to *at. */
uint32_t engine_utf8_next(const char *text, size_t n_bytes, size_t *at);
bool engine_utf8_valid(const char *text, size_t n_bytes);
bool engine_is_number(uint32_t character);

/* GPT-2's alphabet: the character for a byte as UTF-8 (1 or 2 bytes), and back (-1 = not in it). */
size_t engine_byte_to_letter(unsigned char byte, char out[2]);
int32_t engine_letter_to_byte(uint32_t character);

#endif
