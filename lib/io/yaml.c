/* YAML by libyaml's events. libyaml takes its memory from malloc, behind the host's back, because it cannot be told otherwise: a small multiple
 * of a text of at most 1 MiB, given back before we return. The tree itself is the host's memory. */
#include "io/yaml.h"

#include <math.h>
#include <string.h>
#include <yaml.h>

#include "io/decimal.h"
#include "io/json_build.h"

typedef struct reader {
    saei_build b;
    yaml_parser_t parser;
    const char *text;
    size_t bytes;
    const char *strings_end;
    size_t characters; /* in front of the place: libyaml counts those */
    bool value_next;   /* the innermost mapping has had a key whose value comes now */
    bool ended;
} reader;

static bool fail(reader *r, const char *wrong)
{
    return saei_build_fail(&r->b, wrong);
}

/* Moves the place on to a mark of libyaml's. */
static void move_to(reader *r, const yaml_mark_t *mark)
{
    for (; r->characters < mark->index && r->b.at < r->bytes; r->characters++)
        do
            r->b.at++;
        while (r->b.at < r->bytes && ((unsigned char)r->text[r->b.at] & 0xc0) == 0x80);
}

/* What libyaml says is wrong, and where; its words are constants. */
static bool complain(reader *r)
{
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return fail(r, NULL);
    if (p->error == YAML_READER_ERROR)
        r->b.at = p->problem_offset < r->bytes ? p->problem_offset : r->bytes;
    else
        move_to(r, &p->problem_mark);
    return fail(r, p->problem ? p->problem : "it cannot be read");
}

/* ---- scalars ---- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* [-+]? [0-9]+ that fits. */
static bool to_integer(int64_t *out, const char *s, size_t n)
{
    const bool negative = n && *s == '-';
    const uint64_t most = (uint64_t)INT64_MAX + negative;
    uint64_t value = 0;
    const size_t first = negative || (n && *s == '+');
    for (size_t i = first; i < n; i++) {
        const uint64_t digit = (uint64_t)(s[i] - '0');
        if (!is_digit(s[i]) || value > (most - digit) / 10)
            return false;
        value = 10 * value + digit;
    }
    *out = negative ? (int64_t)(0 - value) : (int64_t)value;
    return n > first;
}

/* 0o[0-7]+ or 0x[0-9a-fA-F]+ that fits. */
static bool to_integer_of_base(int64_t *out, const char *s, size_t n)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    if (n < 3 || s[0] != '0' || (s[1] != 'o' && s[1] != 'x'))
        return false;
    const uint64_t base = s[1] == 'o' ? 8 : 16;
    uint64_t value = 0;
    for (size_t i = 2; i < n; i++) {
        const char *found = memchr(digits, s[i], sizeof digits - 1);
        const uint64_t digit = found ? (uint64_t)(found - digits) % 16 : base;
        if (digit >= base || value > ((uint64_t)INT64_MAX - digit) / base)
            return false;
        value = base * value + digit;
    }
    *out = (int64_t)value;
    return true;
}

/* [-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )? */
static bool is_decimal(const char *s, size_t n)
{
    size_t i = n && (*s == '-' || *s == '+'), digits = 0;
    for (; i < n && is_digit(s[i]); i++)
        digits++;
    if (i < n && s[i] == '.')
        for (i++; i < n && is_digit(s[i]); i++)
            digits++;
    if (!digits || i == n)
        return digits;
    if (s[i] != 'e' && s[i] != 'E')
        return false;
    i++;
    i += i < n && (s[i] == '-' || s[i] == '+');
    const size_t first = i;
    while (i < n && is_digit(s[i]))
        i++;
    return i == n && i > first;
}

static bool to_word(saei_json_value *v, const char *s)
{
    static const struct {
        const char *word;
        saei_json_type type;
        double number;
    } words[] = {{"", SAEI_JSON_NULL, 0},
                 {"~", SAEI_JSON_NULL, 0},
                 {"null", SAEI_JSON_NULL, 0},
                 {"Null", SAEI_JSON_NULL, 0},
                 {"NULL", SAEI_JSON_NULL, 0},
                 {"true", SAEI_JSON_TRUE, 0},
                 {"True", SAEI_JSON_TRUE, 0},
                 {"TRUE", SAEI_JSON_TRUE, 0},
                 {"false", SAEI_JSON_FALSE, 0},
                 {"False", SAEI_JSON_FALSE, 0},
                 {"FALSE", SAEI_JSON_FALSE, 0},
                 {".inf", SAEI_JSON_NUMBER, (double)INFINITY},
                 {".Inf", SAEI_JSON_NUMBER, (double)INFINITY},
                 {".INF", SAEI_JSON_NUMBER, (double)INFINITY},
                 {"+.inf", SAEI_JSON_NUMBER, (double)INFINITY},
                 {"+.Inf", SAEI_JSON_NUMBER, (double)INFINITY},
                 {"+.INF", SAEI_JSON_NUMBER, (double)INFINITY},
                 {"-.inf", SAEI_JSON_NUMBER, -(double)INFINITY},
                 {"-.Inf", SAEI_JSON_NUMBER, -(double)INFINITY},
                 {"-.INF", SAEI_JSON_NUMBER, -(double)INFINITY},
                 {".nan", SAEI_JSON_NUMBER, (double)NAN},
                 {".NaN", SAEI_JSON_NUMBER, (double)NAN},
                 {".NAN", SAEI_JSON_NUMBER, (double)NAN}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(words[i].word, s) == 0) {
            v->type = words[i].type;
            v->number = words[i].number;
            return true;
        }
    return false;
}

/* The core schema of YAML 1.2 on a scalar without quotes. */
static void resolve(saei_json_value *v, const char *s, size_t n)
{
    if (to_word(v, s))
        return;
    if (to_integer(&v->integer, s, n) || to_integer_of_base(&v->integer, s, n)) {
        v->type = SAEI_JSON_INTEGER;
        v->number = (double)v->integer;
    } else if (is_decimal(s, n)) {
        v->type = SAEI_JSON_NUMBER;
        v->number = saei_decimal(s, n);
    }
}

/* An escape of two bytes may stand for a character of three: there is room for twice the text. */
static bool keep_string(reader *r, saei_json_value *v, const char *s, size_t n)
{
    if (n >= (size_t)(r->strings_end - r->b.string))
        return fail(r, "strings that are longer than their text");
    memcpy(r->b.string, s, n);
    r->b.string[n] = '\0';
    v->string = r->b.string;
    r->b.string += n + 1;
    return true;
}

static bool scalar(reader *r, const yaml_event_t *event, bool key)
{
    const char *s = (const char *)event->data.scalar.value;
    const size_t n = event->data.scalar.length;
    const bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (memchr(s, '\0', n))
        return fail(r, "a string holds the character NUL");
    if (key && plain && strcmp(s, "<<") == 0)
        return fail(r, "merge keys (<<) are not read");
    saei_json_value *v = saei_build_push(&r->b, SAEI_JSON_STRING);
    if (!v)
        return false;
    if (plain && !key)
        resolve(v, s, n);
    return v->type != SAEI_JSON_STRING || keep_string(r, v, s, n);
}

/* ---- events ---- */

/* A scalar, mapping or sequence comes without name and type. */
static bool check_plain_node(reader *r, const yaml_event_t *event)
{
    const bool is_scalar = event->type == YAML_SCALAR_EVENT, is_mapping = event->type == YAML_MAPPING_START_EVENT;
    const unsigned char *anchor = is_scalar    ? event->data.scalar.anchor
                                  : is_mapping ? event->data.mapping_start.anchor
                                               : event->data.sequence_start.anchor;
    const unsigned char *tag = is_scalar    ? event->data.scalar.tag
                               : is_mapping ? event->data.mapping_start.tag
                                            : event->data.sequence_start.tag;
    if (anchor)
        return fail(r, "anchors are not read");
    if (tag)
        return fail(r, "tags are not read");
    return true;
}

/* A value, or the key of one. */
static bool node(reader *r, const yaml_event_t *event)
{
    saei_json_value *v = r->b.depth ? &r->b.json->v[r->b.open[r->b.depth - 1]] : NULL;
    const bool key = v && v->type == SAEI_JSON_OBJECT && !r->value_next;
    if (!check_plain_node(r, event))
        return false;
    if (key && event->type != YAML_SCALAR_EVENT)
        return fail(r, "a key that is a mapping or a sequence");
    if (v && !r->value_next)
        v->n++;
    r->value_next = key;
    if (event->type == YAML_SCALAR_EVENT)
        return scalar(r, event, key);
    return saei_build_open(&r->b, event->type == YAML_MAPPING_START_EVENT ? SAEI_JSON_OBJECT : SAEI_JSON_ARRAY);
}

static bool take_event(reader *r, const yaml_event_t *event)
{
    move_to(r, &event->start_mark);
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        return !r->b.json->n || fail(r, "a second document");
    case YAML_SCALAR_EVENT:
    case YAML_SEQUENCE_START_EVENT:
    case YAML_MAPPING_START_EVENT:
        return node(r, event);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        saei_build_close(&r->b);
        return true;
    case YAML_ALIAS_EVENT:
        return fail(r, "aliases are not read");
    case YAML_STREAM_END_EVENT:
        r->ended = true;
        return r->b.json->n || fail(r, "there is nothing in the text");
    default: /* the beginning of the stream, the end of a document */
        return true;
    }
}

static bool read_events(reader *r)
{
    bool good = true;
    while (good && !r->ended) {
        yaml_event_t event;
        if (!yaml_parser_parse(&r->parser, &event))
            return complain(r);
        good = take_event(r, &event);
        yaml_event_delete(&event);
    }
    return good;
}

static bool read_text(reader *r)
{
    if (!yaml_parser_initialize(&r->parser))
        return fail(r, NULL);
    yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)r->text, r->bytes);
    const bool good = read_events(r);
    yaml_parser_delete(&r->parser);
    return good;
}

sae_status saei_yaml_parse(saei_json *out, const saei_host *host, const char *text, size_t bytes, const char *what, sae_error *err)
{
    *out = (saei_json){0};
    if (bytes > SAEI_YAML_BYTES)
        return saei_fail(err, SAE_E_FORMAT, "%s is %zu bytes long, YAML of more than %d is not read", what, bytes, SAEI_YAML_BYTES);
    /* A byte order mark would put the first line a column to the right of the others. */
    const size_t mark = bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    text += mark;
    bytes -= mark;
    reader r = {.text = text, .bytes = bytes};
    const bool begun = saei_build_begin(&r.b, out, host, 2 * bytes + 2);
    r.strings_end = out->strings + out->strings_bytes;
    return saei_build_end(&r.b, begun && read_text(&r), text, bytes, "YAML", what, err);
}
