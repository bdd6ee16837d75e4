/* Cutting a text into words as byte-level tokenizers do, by their regular expressions written out by hand, and the characters that this
 * needs to know.
 *
 * GPT-2:   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * Llama 3: (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
#define _POSIX_C_SOURCE 200809L

#include "tokenizer.h"
#include "unicode.h"

#include <string.h>
#include <strings.h>

/* ---- characters ---- */

uint32_t engine_utf8_next(const char *text, size_t n_bytes, size_t *at)
{
    const unsigned char *s = (const unsigned char *)text + *at;
    const size_t left = n_bytes - *at, bytes = s[0] < 0xc0 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    uint32_t c = bytes == 1 ? s[0] : s[0] & (0xffu >> (bytes + 1));
    size_t i = 1;
    for (; i < bytes && i < left; i++)
        c = c << 6 | (s[i] & 0x3fu);
    *at += i;
    return c;
}

bool engine_utf8_valid(const char *text, size_t n_bytes)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    for (size_t at = 0; at < n_bytes;) {
        const unsigned char *s = (const unsigned char *)text + at;
        const size_t from = at;
        const uint32_t c = engine_utf8_next(text, n_bytes, &at);
        const size_t bytes = s[0] < 0xc0 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
        if ((s[0] >= 0x80 && s[0] < 0xc2) || s[0] > 0xf4 || at - from != bytes || c < least[bytes] || c > 0x10ffff ||
            (c >= 0xd800 && c < 0xe000))
            return false;
        for (size_t i = 1; i < bytes; i++)
            if (s[i] < 0x80 || s[i] > 0xbf)
                return false;
    }
    return true;
}

static bool within(const uint32_t ranges[][2], size_t n, uint32_t c)
{
    size_t first = 0;
    while (n > 1) {
        const size_t half = n / 2;
        if (ranges[first + half][0] <= c)
            first += half;
        n -= half;
    }
    return ranges[first][0] <= c && c <= ranges[first][1];
}

static bool is_letter(uint32_t c)
{
    return within(letters, sizeof letters / sizeof *letters, c);
}

bool engine_is_number(uint32_t c)
{
    return within(numbers, sizeof numbers / sizeof *numbers, c);
}

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

enum { LETTER, NUMBER, SPACE, OTHER };

static int class_of(uint32_t c)
{
    return is_letter(c) ? LETTER : engine_is_number(c) ? NUMBER : is_space(c) ? SPACE : OTHER;
}

/* ---- GPT-2's letters for bytes: those that show keep their place, the others follow after 255 ---- */

static bool shows(unsigned b)
{
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

static uint32_t letter_of(unsigned byte)
{
    uint32_t hidden = 256;
    for (unsigned b = 0; b < byte; b++)
        hidden += !shows(b);
    return shows(byte) ? byte : hidden;
}

size_t engine_byte_to_letter(unsigned char byte, char out[2])
{
    const uint32_t c = letter_of(byte);
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3f));
    return 2;
}

int32_t engine_letter_to_byte(uint32_t character)
{
    for (unsigned b = 0; b < 256; b++)
        if (letter_of(b) == character)
            return (int32_t)b;
    return -1;
}

/* ---- words ---- */

/* End of the run of characters of this class that begins at `at`, at most `most` of them. */
static size_t run_of(int class, const char *text, size_t n, size_t at, size_t most)
{
    for (size_t end = at; at < n && most > 0; at = end, most--)
        if (class_of(engine_utf8_next(text, n, &end)) != class)
            break;
    return at;
}

static int class_at(const char *text, size_t n, size_t at)
{
    return at < n ? class_of(engine_utf8_next(text, n, &at)) : -1;
}

static size_t contraction(const char *text, size_t n, bool any_case)
{
    static const char *const all[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const size_t bytes = strlen(all[i]);
        if (n >= bytes && !(any_case ? strncasecmp : strncmp)(text, all[i], bytes))
            return bytes;
    }
    return 0;
}

static size_t line_ends(const char *text, size_t n, size_t at)
{
    while (at < n && (text[at] == '\r' || text[at] == '\n'))
        at++;
    return at;
}

/* White space in front of a word leaves its last character to it: \s+(?!\S)|\s+ */
static size_t blanks(const char *text, size_t n)
{
    const size_t end = run_of(SPACE, text, n, 0, n);
    size_t last = 0, before = 0;
    while (last < end) {
        before = last;
        engine_utf8_next(text, n, &last);
    }
    return end == n || before == 0 ? end : before;
}

static size_t split_gpt2(const char *text, size_t n)
{
    const size_t short_form = contraction(text, n, false), from = text[0] == ' ';
    const int class = class_at(text, n, from);
    if (short_form)
        return short_form;
    if (class == LETTER || class == NUMBER || class == OTHER)
        return run_of(class, text, n, from, n);
    return blanks(text, n);
}

static size_t split_llama3(const char *text, size_t n)
{
    const size_t short_form = contraction(text, n, true), from = text[0] == ' ';
    size_t second = 0;
    const int class = class_of(engine_utf8_next(text, n, &second));
    if (short_form)
        return short_form;
    if (class == LETTER)
        return run_of(LETTER, text, n, 0, n);
    if (class != NUMBER && text[0] != '\r' && text[0] != '\n' && class_at(text, n, second) == LETTER)
        return run_of(LETTER, text, n, second, n);
    if (class == NUMBER)
        return run_of(NUMBER, text, n, 0, 3);
    if (class_at(text, n, from) == OTHER)
        return line_ends(text, n, run_of(OTHER, text, n, from, n));
    size_t line = run_of(SPACE, text, n, 0, n);
    while (line > 0 && text[line - 1] != '\r' && text[line - 1] != '\n')
        line--;
    return line ? line : blanks(text, n);
}

/* Up to the next "▁" after the first character. */
static size_t split_marks(const char *text, size_t n)
{
    size_t at = 0;
    engine_utf8_next(text, n, &at);
    for (size_t end = at; at < n; at = end)
        if (engine_utf8_next(text, n, &end) == 0x2581)
            break;
    return at;
}

size_t engine_split(int32_t split, const char *text, size_t n_bytes)
{
    switch (split) {
    case SPLIT_GPT2:
        return split_gpt2(text, n_bytes);
    case SPLIT_LLAMA3:
        return split_llama3(text, n_bytes);
    case SPLIT_BLANKS:
        return split_marks(text, n_bytes);
    default:
        return n_bytes;
    }
}
