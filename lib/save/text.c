#include <stdio.h>
#include <string.h>

#include "save/save.h"

bool saei_text_start(saei_text *t, saei_save *s)
{
    enum { FIRST = 1024 };
    *t = (saei_text){s, saei_save_alloc(s, FIRST), 0, FIRST};
    return t->text;
}

/* Room for n more and a NUL. */
static bool grow(saei_text *t, size_t n)
{
    if (!t->text || n < t->room - t->n)
        return t->text;
    size_t room;
    char *larger = saei_add(&room, t->n, n) && saei_mul(&room, room, 2) ? saei_save_alloc(t->save, room) : NULL;
    if (larger)
        memcpy(larger, t->text, t->n);
    t->text = larger;
    t->room = room;
    return larger;
}

void saei_text_bytes(saei_text *t, const char *more, size_t n)
{
    if (!grow(t, n))
        return;
    memcpy(t->text + t->n, more, n);
    t->n += n;
    t->text[t->n] = '\0';
}

void saei_text_add(saei_text *t, const char *more)
{
    saei_text_bytes(t, more, strlen(more));
}

void saei_text_int(saei_text *t, int64_t value)
{
    char digits[24];
    (void)snprintf(digits, sizeof digits, "%lld", (long long)value);
    saei_text_add(t, digits);
}

void saei_text_float(saei_text *t, float value)
{
    char printed[64], out[64];
    size_t n = 0;
    (void)snprintf(printed, sizeof printed, "%.8e", (double)value);
    for (const char *p = printed; *p; p++)
        if (strchr("0123456789+-e", *p))
            out[n++] = *p;
        else if (n && out[n - 1] != '.') /* the point of the locale, of one byte or more */
            out[n++] = '.';
    saei_text_bytes(t, out, n);
}

/* One character, escaped where JSON wants it; bytes that are no UTF-8 become '?'. Returns how many bytes it was. */
static size_t quote(saei_text *t, const char *s)
{
    const unsigned char c = (unsigned char)*s;
    const size_t n = saei_utf8_length((const unsigned char *)s, strnlen(s, 4));
    char escaped[8];
    if (c == '"' || c == '\\')
        (void)snprintf(escaped, sizeof escaped, "\\%c", c);
    else if (c < 0x20)
        (void)snprintf(escaped, sizeof escaped, "\\u%04x", (unsigned)c);
    if (c == '"' || c == '\\' || c < 0x20)
        saei_text_add(t, escaped);
    else
        saei_text_bytes(t, n ? s : "?", n ? n : 1);
    return n ? n : 1;
}

void saei_text_quoted(saei_text *t, const char *s)
{
    saei_text_add(t, "\"");
    while (*s)
        s += quote(t, s);
    saei_text_add(t, "\"");
}
