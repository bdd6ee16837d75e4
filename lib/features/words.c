#ifdef SAEI_SQLITE
#include <string.h>

#include "features/catalog.h"

/* SQLite's tokenizer unicode61 folds case and accents and splits at spaces and punctuation, which is all that scripts with spaces need. In
 * Korean, particles are attached to words; Chinese, Japanese, Thai and others have no spaces: there each pair of neighbouring characters
 * is a word of the index, so that two characters find every place where they stand together, and one finds the pairs that it begins. */

/* One character of a text, and where it ends. */
typedef struct glyph {
    const char *at;
    size_t bytes;
    uint32_t code;
} glyph;

static glyph glyph_at(const char *s, const char *end)
{
    const unsigned char *u = (const unsigned char *)s;
    const size_t n = saei_utf8_length(u, (size_t)(end - s));
    if (n < 2)
        return (glyph){s, 1, u[0]};
    uint32_t code = u[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++)
        code = code << 6 | (u[i] & 0x3f);
    return (glyph){s, n, code};
}

/* Letters of scripts without spaces, or with particles attached. */
static bool attached(uint32_t c)
{
    static const struct {
        uint32_t first, last;
    } ranges[] = {
        {0x0e00, 0x0fff},   /* Thai, Lao, Tibetan */
        {0x1000, 0x109f},   /* Myanmar */
        {0x1100, 0x11ff},   /* Hangul jamo */
        {0x1780, 0x17ff},   /* Khmer */
        {0x2e80, 0x2fff},   /* CJK radicals */
        {0x3005, 0x3007},   /* iteration marks and zero */
        {0x3040, 0xa4cf},   /* kana, bopomofo, CJK ideographs, Yi */
        {0xac00, 0xd7ff},   /* Hangul syllables */
        {0xf900, 0xfaff},   /* CJK compatibility */
        {0x20000, 0x3ffff}, /* CJK extensions */
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i].first && c <= ranges[i].last)
            return true;
    return false;
}

/* The end of the stretch at s whose characters are all attached, or all not. */
static const char *stretch(const char *s, const char *end, bool *is_attached)
{
    *is_attached = attached(glyph_at(s, end).code);
    while (s < end) {
        const glyph g = glyph_at(s, end);
        if (attached(g.code) != *is_attached)
            break;
        s += g.bytes;
    }
    return s;
}

/* "다리를" -> "다리 리를"; a single character stays. `between` separates the pairs. */
static void add_pairs(saei_bytes *out, const saei_host *host, const char *s, const char *end, const char *between)
{
    glyph a = glyph_at(s, end);
    const char *next = s + a.bytes;
    if (next == end)
        saei_bytes_add(out, host, a.at, a.bytes);
    while (next < end) {
        const glyph b = glyph_at(next, end);
        saei_bytes_add(out, host, a.at, a.bytes + b.bytes);
        next += b.bytes;
        a = b;
        if (next < end)
            saei_bytes_text(out, host, between);
    }
}

void saei_words(saei_bytes *out, const saei_host *host, const char *text)
{
    const char *const end = text + strlen(text);
    for (const char *next; text < end; text = next) {
        bool is_attached;
        next = stretch(text, end, &is_attached);
        if (!is_attached) {
            saei_bytes_add(out, host, text, (size_t)(next - text));
            continue;
        }
        saei_bytes_text(out, host, " ");
        add_pairs(out, host, text, next, " ");
        saei_bytes_text(out, host, " ");
    }
}

static bool is_space(uint32_t c)
{
    return c <= ' ' || c == 0x7f || c == 0xa0 || c == 0x3000;
}

/* Could the tokenizer find a letter or digit in it? Beyond ASCII it decides itself. */
static bool has_letters(const char *s, const char *end)
{
    for (; s < end; s++)
        if ((*s & 0x80) || (*s >= '0' && *s <= '9') || (*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z'))
            return true;
    return false;
}

/* FTS5 takes everything between double quotes as text; a double quote within is no letter, so it may become a space. */
static void add_quoted(saei_bytes *out, const saei_host *host, const char *s, const char *end)
{
    saei_bytes_text(out, host, "\"");
    for (; s < end; s++)
        saei_bytes_add(out, host, *s == '"' ? " " : s, 1);
    saei_bytes_text(out, host, "\"");
}

/* The word itself counts besides the words it begins, so that it comes before them. */
static void add_word(saei_bytes *out, const saei_host *host, const char *s, const char *end, saei_match match)
{
    if (match == SAEI_EXACT) {
        add_quoted(out, host, s, end);
        return;
    }
    saei_bytes_text(out, host, "(");
    add_quoted(out, host, s, end);
    saei_bytes_text(out, host, " OR ");
    add_quoted(out, host, s, end);
    saei_bytes_text(out, host, " *)");
}

/* One character: the pairs it begins. Several: their pairs side by side, or any of the pairs. */
static void add_attached(saei_bytes *out, const saei_host *host, const char *s, const char *end, saei_match match)
{
    const bool single = s + glyph_at(s, end).bytes == end, apart = match == SAEI_ANY && !single;
    saei_bytes_text(out, host, apart ? "(\"" : "\"");
    add_pairs(out, host, s, end, apart ? "\" OR \"" : " ");
    saei_bytes_text(out, host, apart ? "\")" : single && match != SAEI_EXACT ? "\" *" : "\"");
}

/* A stretch of a query that is one word, or several with punctuation between them. */
static void add_stretch(saei_bytes *out, const saei_host *host, const char *s, const char *end, bool is_attached, saei_match match)
{
    if (!is_attached && !has_letters(s, end))
        return;
    if (out->n)
        saei_bytes_text(out, host, match == SAEI_ANY ? " OR " : " AND ");
    (is_attached ? add_attached : add_word)(out, host, s, end, match);
}

void saei_words_query(saei_bytes *out, const saei_host *host, const char *query, saei_match match)
{
    const char *const end = query + strlen(query);
    while (query < end) {
        const glyph g = glyph_at(query, end);
        if (is_space(g.code)) {
            query += g.bytes;
            continue;
        }
        const char *word_end = query;
        for (glyph w = g; word_end < end && !is_space((w = glyph_at(word_end, end)).code);)
            word_end += w.bytes;
        for (const char *next; query < word_end; query = next) {
            bool is_attached;
            next = stretch(query, word_end, &is_attached);
            add_stretch(out, host, query, next, is_attached, match);
        }
    }
}
#endif
