#include "io/json.h"

#include <string.h>

#include "io/sort.h"

typedef struct parser {
    saei_json *json;
    const saei_host *host;
    const char *text;
    size_t bytes, at;
    char *string;                   /* where the next decoded string goes */
    uint32_t open[SAEI_JSON_DEPTH]; /* containers around the place */
    uint32_t depth;
    const char *wrong; /* what is wrong at `at`; NULL: memory */
} parser;

static bool fail(parser *p, const char *wrong)
{
    p->wrong = wrong;
    return false;
}

/* The byte at the place, 0 at the end: a NUL inside a text is nowhere legal, so both end up as the same complaint. */
static char peek(const parser *p)
{
    return p->at < p->bytes ? p->text[p->at] : '\0';
}

static bool take(parser *p, char c)
{
    if (peek(p) != c)
        return false;
    p->at++;
    return true;
}

static void skip_space(parser *p)
{
    while (p->at < p->bytes && memchr(" \t\r\n", p->text[p->at], 4))
        p->at++;
}

static bool grow(parser *p)
{
    saei_json *json = p->json;
    const uint32_t room = json->room ? 2 * json->room : 64;
    if (json->n >= SAEI_JSON_VALUES)
        return fail(p, "the text holds more values than any checkpoint needs");
    saei_json_value *v = saei_alloc(p->host, room * sizeof *v);
    if (!v)
        return fail(p, NULL);
    if (json->n)
        memcpy(v, json->v, json->n * sizeof *v);
    saei_dealloc(p->host, json->v, json->room * sizeof *v);
    json->v = v;
    json->room = room;
    return true;
}

/* Appends a value that begins at the place; its address holds until the next one. */
static saei_json_value *push(parser *p, saei_json_type type)
{
    saei_json *json = p->json;
    if (json->n == json->room && !grow(p))
        return NULL;
    saei_json_value *v = &json->v[json->n++];
    *v = (saei_json_value){.type = (uint32_t)type, .next = json->n, .at = (uint32_t)p->at};
    return v;
}

/* ---- strings ---- */

static void put_utf8(parser *p, uint32_t c)
{
    if (c < 0x80) {
        *p->string++ = (char)c;
    } else if (c < 0x800) {
        *p->string++ = (char)(0xc0 | c >> 6);
        *p->string++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *p->string++ = (char)(0xe0 | c >> 12);
        *p->string++ = (char)(0x80 | (c >> 6 & 0x3f));
        *p->string++ = (char)(0x80 | (c & 0x3f));
    } else {
        *p->string++ = (char)(0xf0 | c >> 18);
        *p->string++ = (char)(0x80 | (c >> 12 & 0x3f));
        *p->string++ = (char)(0x80 | (c >> 6 & 0x3f));
        *p->string++ = (char)(0x80 | (c & 0x3f));
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
        p->at++;
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
        p->at++;
        return unicode_escape(p);
    }
    const char *name = c ? strchr(names, c) : NULL;
    if (!name)
        return fail(p, "unknown escape in a string");
    p->at++;
    *p->string++ = values[name - names];
    return true;
}

static bool parse_string(parser *p)
{
    saei_json_value *v = push(p, SAEI_JSON_STRING);
    if (!v)
        return false;
    v->string = p->string;
    for (p->at++; !take(p, '"');) {
        const unsigned char *s = (const unsigned char *)p->text + p->at;
        if (p->at == p->bytes)
            return fail(p, "the text ends inside a string");
        if (*s < 0x20)
            return fail(p, "a control character in a string");
        if (take(p, '\\')) {
            if (!escape(p))
                return false;
            continue;
        }
        const size_t n = saei_utf8_length(s, p->bytes - p->at);
        if (!n)
            return fail(p, "a byte that is not UTF-8");
        memcpy(p->string, s, n);
        p->string += n;
        p->at += n;
    }
    *p->string++ = '\0'; /* the quotes left room for it */
    return true;
}

/* ---- other values ---- */

static size_t digits(parser *p)
{
    const size_t first = p->at;
    while (peek(p) >= '0' && peek(p) <= '9')
        p->at++;
    return p->at - first;
}

/* The digits before the place as a number; false when it does not fit. */
static bool to_integer(int64_t *out, const parser *p, size_t n, bool negative)
{
    uint64_t value = 0;
    const uint64_t most = (uint64_t)INT64_MAX + negative;
    for (size_t i = p->at - n; i < p->at; i++) {
        const uint64_t digit = (uint64_t)(p->text[i] - '0');
        if (value > (most - digit) / 10)
            return false;
        value = 10 * value + digit;
    }
    *out = negative ? (int64_t)(0 - value) : (int64_t)value;
    return true;
}

static bool parse_number(parser *p)
{
    saei_json_value *v = push(p, SAEI_JSON_NUMBER);
    if (!v)
        return false;
    const bool negative = take(p, '-');
    if (negative && p->bytes - p->at >= 8 && memcmp(p->text + p->at, "Infinity", 8) == 0) {
        p->at += 8;
        return true;
    }
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

static bool parse_word(parser *p)
{
    static const struct {
        const char *word;
        saei_json_type type;
    } words[] = {{"null", SAEI_JSON_NULL},
                 {"true", SAEI_JSON_TRUE},
                 {"false", SAEI_JSON_FALSE},
                 {"NaN", SAEI_JSON_NUMBER},
                 {"Infinity", SAEI_JSON_NUMBER}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t n = strlen(words[i].word);
        if (p->bytes - p->at < n || memcmp(p->text + p->at, words[i].word, n) != 0)
            continue;
        const bool pushed = push(p, words[i].type) != NULL;
        p->at += n;
        return pushed;
    }
    return fail(p, p->at == p->bytes ? "the text ends where a value is expected" : "a value is expected here");
}

static bool open_container(parser *p, saei_json_type type)
{
    if (p->depth == SAEI_JSON_DEPTH)
        return fail(p, "more than 64 arrays and objects inside each other");
    p->open[p->depth] = p->json->n;
    if (!push(p, type))
        return false;
    p->depth++;
    p->at++;
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
    const uint32_t container = p->open[p->depth - 1];
    saei_json_value *v = &p->json->v[container];
    const bool object = v->type == SAEI_JSON_OBJECT;
    skip_space(p);
    if (take(p, object ? '}' : ']')) {
        v->next = p->json->n;
        p->depth--;
        return true;
    }
    if (v->n && !take(p, ','))
        return fail(p, p->at == p->bytes ? "the text ends too early"
                       : object          ? "',' or '}' is expected here"
                                         : "',' or ']' is expected here");
    v->n++;
    return (!object || parse_key(p)) && parse_value(p);
}

static bool parse_text(parser *p)
{
    if (!parse_value(p))
        return false;
    while (p->depth)
        if (!parse_inside(p))
            return false;
    skip_space(p);
    return p->at == p->bytes || fail(p, "text after the end");
}

/* ---- duplicate keys ---- */

static int by_string(const void *arg, uint32_t a, uint32_t b)
{
    const saei_json_value *v = arg;
    const int order = strcmp(v[a].string, v[b].string);
    return order ? order : v[a].at < v[b].at ? -1 : v[a].at > v[b].at;
}

/* Index of a key that its object has had before, or 0. `ids` has room for the keys of any object. */
static uint32_t repeated_key(const saei_json *json, uint32_t object, uint32_t *ids)
{
    const saei_json_value *v = json->v;
    uint32_t key = object + 1;
    for (uint32_t i = 0; i < v[object].n; i++, key = v[key + 1].next)
        ids[i] = key;
    saei_sort(ids, v[object].n, by_string, v);
    for (uint32_t i = 1; i < v[object].n; i++)
        if (strcmp(v[ids[i]].string, v[ids[i - 1]].string) == 0)
            return ids[i];
    return 0;
}

static bool check_keys(parser *p, uint32_t *repeated)
{
    const saei_json *json = p->json;
    uint32_t most = 0;
    for (uint32_t i = 0; i < json->n; i++)
        if (json->v[i].type == SAEI_JSON_OBJECT && json->v[i].n > most)
            most = json->v[i].n;
    uint32_t *ids = saei_alloc(p->host, most * sizeof *ids);
    if (!ids)
        return most == 0 || fail(p, NULL);
    for (uint32_t i = 0; i < json->n && !*repeated; i++)
        if (json->v[i].type == SAEI_JSON_OBJECT)
            *repeated = repeated_key(json, i, ids);
    saei_dealloc(p->host, ids, most * sizeof *ids);
    return true;
}

/* ---- outside ---- */

typedef struct place {
    size_t line, column;
} place;

/* Both from 1; a column is a character. */
static place place_of(const char *text, size_t at)
{
    place found = {1, 1};
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n')
            found = (place){found.line + 1, 1};
        else if (((unsigned char)text[i] & 0xc0) != 0x80)
            found.column++;
    }
    return found;
}

static sae_status parse(parser *p, const char *what, sae_error *err)
{
    uint32_t repeated = 0;
    char name[SAEI_SHOWN];
    p->json->strings_bytes = p->bytes + 1;
    p->json->strings = p->string = saei_alloc(p->host, p->json->strings_bytes);
    if (!p->string || !parse_text(p) || !check_keys(p, &repeated)) {
        const place found = place_of(p->text, p->at);
        if (!p->wrong)
            return saei_fail(err, SAE_E_NOMEM, "no memory to read %s (%zu bytes)", what, p->bytes);
        return saei_fail(err, SAE_E_FORMAT, "%s is not valid JSON: line %zu, column %zu: %s", what, found.line, found.column, p->wrong);
    }
    if (!repeated)
        return SAE_OK;
    const place found = place_of(p->text, p->json->v[repeated].at);
    return saei_fail(err, SAE_E_FORMAT, "%s has the key \"%s\" twice, again at line %zu, column %zu", what,
                     saei_show(name, p->json->v[repeated].string), found.line, found.column);
}

sae_status saei_json_parse(saei_json *out, const saei_host *host, const char *text, size_t bytes, const char *what, sae_error *err)
{
    *out = (saei_json){0};
    if (bytes >= UINT32_MAX)
        return saei_fail(err, SAE_E_FORMAT, "%s is %zu bytes long, JSON of 4 GiB and more is not read", what, bytes);
    parser p = {.json = out, .host = host, .text = text, .bytes = bytes};
    const sae_status status = parse(&p, what, err);
    if (status)
        saei_json_free(out, host);
    return status;
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
