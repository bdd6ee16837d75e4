#include "io/json.h"

#include <math.h>
#include <string.h>

#include "io/decimal.h"
#include "io/json_build.h"

typedef struct parser {
    saei_build b;
    const char *text;
    size_t bytes;
} parser;

static bool fail(parser *p, const char *wrong)
{
    return saei_build_fail(&p->b, wrong);
}

/* The byte at the place, 0 at the end: a NUL inside a text is nowhere legal, so both end up as the same complaint. */
static char peek(const parser *p)
{
    return p->b.at < p->bytes ? p->text[p->b.at] : '\0';
}

static bool take(parser *p, char c)
{
    if (peek(p) != c)
        return false;
    p->b.at++;
    return true;
}

static void skip_space(parser *p)
{
    while (p->b.at < p->bytes && memchr(" \t\r\n", p->text[p->b.at], 4))
        p->b.at++;
}

/* ---- strings ---- */

static void put_utf8(parser *p, uint32_t c)
{
    if (c < 0x80) {
        *p->b.string++ = (char)c;
    } else if (c < 0x800) {
        *p->b.string++ = (char)(0xc0 | c >> 6);
        *p->b.string++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *p->b.string++ = (char)(0xe0 | c >> 12);
        *p->b.string++ = (char)(0x80 | (c >> 6 & 0x3f));
        *p->b.string++ = (char)(0x80 | (c & 0x3f));
    } else {
        *p->b.string++ = (char)(0xf0 | c >> 18);
        *p->b.string++ = (char)(0x80 | (c >> 12 & 0x3f));
        *p->b.string++ = (char)(0x80 | (c >> 6 & 0x3f));
        *p->b.string++ = (char)(0x80 | (c & 0x3f));
    }
}

/* The four digits of \uXXXX. */
static bool hex4(parser *p, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++) {
        const char c = peek(p);
        const uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                               : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                               : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                      : 16;
        if (digit > 15)
            return fail(p, "\\u is not followed by four hex digits");
        *out = *out << 4 | digit;
        p->b.at++;
    }
    return true;
}

static bool unicode_escape(parser *p)
{
    uint32_t c, low;
    if (!hex4(p, &c))
        return false;
    if (c >= 0xd800 && c <= 0xdbff) {
        if (!take(p, '\\') || !take(p, 'u'))
            return fail(p, "half a surrogate pair");
        if (!hex4(p, &low))
            return false;
        if (low < 0xdc00 || low > 0xdfff)
            return fail(p, "half a surrogate pair");
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    } else if (c >= 0xdc00 && c <= 0xdfff) {
        return fail(p, "half a surrogate pair");
    }
    if (c == 0)
        return fail(p, "a string holds the character NUL");
    put_utf8(p, c);
    return true;
}

static bool escape(parser *p)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char c = peek(p);
    if (c == 'u') {
        p->b.at++;
        return unicode_escape(p);
    }
    const char *name = c ? strchr(names, c) : NULL;
    if (!name)
        return fail(p, "unknown escape in a string");
    p->b.at++;
    *p->b.string++ = values[name - names];
    return true;
}

static bool parse_string(parser *p)
{
    saei_json_value *v = saei_build_push(&p->b, SAEI_JSON_STRING);
    if (!v)
        return false;
    v->string = p->b.string;
    for (p->b.at++; !take(p, '"');) {
        const unsigned char *s = (const unsigned char *)p->text + p->b.at;
        if (p->b.at == p->bytes)
            return fail(p, "the text ends inside a string");
        if (*s < 0x20)
            return fail(p, "a control character in a string");
        if (take(p, '\\')) {
            if (!escape(p))
                return false;
            continue;
        }
        const size_t n = saei_utf8_length(s, p->bytes - p->b.at);
        if (!n)
            return fail(p, "a byte that is not UTF-8");
        memcpy(p->b.string, s, n);
        p->b.string += n;
        p->b.at += n;
    }
    *p->b.string++ = '\0'; /* the quotes left room for it */
    return true;
}

/* ---- other values ---- */

static size_t digits(parser *p)
{
    const size_t first = p->b.at;
    while (peek(p) >= '0' && peek(p) <= '9')
        p->b.at++;
    return p->b.at - first;
}

/* The digits before the place as a number; false when it does not fit. */
static bool to_integer(int64_t *out, const parser *p, size_t n, bool negative)
{
    uint64_t value = 0;
    const uint64_t most = (uint64_t)INT64_MAX + negative;
    for (size_t i = p->b.at - n; i < p->b.at; i++) {
        const uint64_t digit = (uint64_t)(p->text[i] - '0');
        if (value > (most - digit) / 10)
            return false;
        value = 10 * value + digit;
    }
    *out = negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

/* Digits, a fraction, an exponent. */
static bool parse_digits(parser *p, saei_json_value *v, bool negative)
{
    const bool zero = peek(p) == '0';
    const size_t n = digits(p);
    if (!n || (zero && n > 1))
        return fail(p, "not a number");
    if (to_integer(&v->integer, p, n, negative))
        v->type = SAEI_JSON_INTEGER;
    if (take(p, '.')) {
        v->type = SAEI_JSON_NUMBER;
        if (!digits(p))
            return fail(p, "not a number");
    }
    if (take(p, 'e') || take(p, 'E')) {
        v->type = SAEI_JSON_NUMBER;
        if (!take(p, '+'))
            take(p, '-');
        if (!digits(p))
            return fail(p, "not a number");
    }
    return true;
}

static bool parse_number(parser *p)
{
    const size_t first = p->b.at;
    saei_json_value *v = saei_build_push(&p->b, SAEI_JSON_NUMBER);
    if (!v)
        return false;
    const bool negative = take(p, '-');
    if (negative && p->bytes - p->b.at >= 8 && memcmp(p->text + p->b.at, "Infinity", 8) == 0) {
        p->b.at += 8;
        v->number = -(double)INFINITY;
        return true;
    }
    if (!parse_digits(p, v, negative))
        return false;
    v->number = v->type == SAEI_JSON_INTEGER ? (double)v->integer : saei_decimal(p->text + first, p->b.at - first);
    return true;
}

static bool parse_word(parser *p)
{
    static const struct {
        const char *word;
        saei_json_type type;
        double number;
    } words[] = {{"null", SAEI_JSON_NULL, 0},
                 {"true", SAEI_JSON_TRUE, 0},
                 {"false", SAEI_JSON_FALSE, 0},
                 {"NaN", SAEI_JSON_NUMBER, (double)NAN},
                 {"Infinity", SAEI_JSON_NUMBER, (double)INFINITY}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t n = strlen(words[i].word);
        if (p->bytes - p->b.at < n || memcmp(p->text + p->b.at, words[i].word, n) != 0)
            continue;
        saei_json_value *v = saei_build_push(&p->b, words[i].type);
        if (v)
            v->number = words[i].number;
        p->b.at += n;
        return v != NULL;
    }
    return fail(p, p->b.at == p->bytes ? "the text ends where a value is expected" : "a value is expected here");
}

static bool open_container(parser *p, saei_json_type type)
{
    if (!saei_build_open(&p->b, type))
        return false;
    p->b.at++;
    return true;
}

static bool parse_value(parser *p)
{
    skip_space(p);
    const char c = peek(p);
    if (c == '{' || c == '[')
        return open_container(p, c == '{' ? SAEI_JSON_OBJECT : SAEI_JSON_ARRAY);
    if (c == '"')
        return parse_string(p);
    return c == '-' || (c >= '0' && c <= '9') ? parse_number(p) : parse_word(p);
}

static bool parse_key(parser *p)
{
    skip_space(p);
    if (peek(p) != '"')
        return fail(p, "a key in quotes is expected here");
    if (!parse_string(p))
        return false;
    skip_space(p);
    return take(p, ':') || fail(p, "':' is expected here");
}

/* The next element or member of the innermost container, or its end. */
static bool parse_inside(parser *p)
{
    const uint32_t container = p->b.open[p->b.depth - 1];
    saei_json_value *v = &p->b.json->v[container];
    const bool object = v->type == SAEI_JSON_OBJECT;
    skip_space(p);
    if (take(p, object ? '}' : ']')) {
        saei_build_close(&p->b);
        return true;
    }
    if (v->n && !take(p, ','))
        return fail(p, p->b.at == p->bytes ? "the text ends too early"
                       : object            ? "',' or '}' is expected here"
                                           : "',' or ']' is expected here");
    v->n++;
    return (!object || parse_key(p)) && parse_value(p);
}

static bool parse_text(parser *p)
{
    if (!parse_value(p))
        return false;
    while (p->b.depth)
        if (!parse_inside(p))
            return false;
    skip_space(p);
    return p->b.at == p->bytes || fail(p, "text after the end");
}

/* ---- outside ---- */

sae_status saei_json_parse(saei_json *out, const saei_host *host, const char *text, size_t bytes, const char *what, sae_error *err)
{
    *out = (saei_json){0};
    if (bytes >= UINT32_MAX)
        return saei_fail(err, SAE_E_FORMAT, "%s is %zu bytes long, JSON of 4 GiB and more is not read", what, bytes);
    parser p = {.text = text, .bytes = bytes};
    const bool read = saei_build_begin(&p.b, out, host, bytes + 1) && parse_text(&p);
    return saei_build_end(&p.b, read, text, bytes, "JSON", what, err);
}

void saei_json_free(saei_json *json, const saei_host *host)
{
    saei_dealloc(host, json->v, json->room * sizeof *json->v);
    saei_dealloc(host, json->strings, json->strings_bytes);
    *json = (saei_json){0};
}

uint32_t saei_json_member(const saei_json *json, uint32_t object, const char *key)
{
    const saei_json_value *v = json->v;
    if (v[object].type != SAEI_JSON_OBJECT)
        return 0;
    for (uint32_t i = object + 1; i < v[object].next; i = v[i + 1].next)
        if (strcmp(v[i].string, key) == 0)
            return v[i + 1].type == SAEI_JSON_NULL ? 0 : i + 1;
    return 0;
}

const char *saei_json_string(const saei_json *json, uint32_t i)
{
    return i && json->v[i].type == SAEI_JSON_STRING ? json->v[i].string : NULL;
}

bool saei_json_number(double *out, const saei_json *json, uint32_t i)
{
    const bool number = i && (json->v[i].type == SAEI_JSON_INTEGER || json->v[i].type == SAEI_JSON_NUMBER);
    if (number)
        *out = json->v[i].number;
    return number;
}

const char *saei_json_type_name(const saei_json *json, uint32_t i)
{
    static const char *const names[] = {"null", "false", "true", "an integer", "a number", "a string", "an array", "an object"};
    return names[json->v[i].type];
}

const char *saei_show(char out[SAEI_SHOWN], const char *name)
{
    size_t n = 0;
    while (name[n] && n < SAEI_SHOWN - 4) {
        const unsigned char c = (unsigned char)name[n];
        out[n++] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    if (name[n]) {
        while (n && ((unsigned char)name[n] & 0xc0) == 0x80) /* not inside a character */
            n--;
        memcpy(out + n, "...", 3);
        n += 3;
    }
    out[n] = '\0';
    return out;
}
