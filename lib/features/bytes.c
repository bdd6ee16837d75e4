#ifdef SAEI_SQLITE
#include <string.h>

#include "features/catalog.h"

static bool grow(saei_bytes *b, const saei_host *host, size_t n)
{
    enum { LEAST = 4096 };
    const size_t room = n < LEAST ? LEAST : n > SIZE_MAX / 2 ? n : 2 * n;
    unsigned char *p = saei_alloc(host, room);
    if (!p)
        return false;
    if (b->n)
        memcpy(p, b->p, b->n);
    saei_dealloc(host, b->p, b->room);
    b->p = p;
    b->room = room;
    return true;
}

void saei_bytes_add(saei_bytes *b, const saei_host *host, const void *p, size_t n)
{
    size_t end;
    if (b->failed || !saei_add(&end, b->n, n) || (end > b->room && !grow(b, host, end))) {
        b->failed = true;
        return;
    }
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n = end;
}

void saei_bytes_text(saei_bytes *b, const saei_host *host, const char *s)
{
    saei_bytes_add(b, host, s, strlen(s));
}

void saei_bytes_free(saei_bytes *b, const saei_host *host)
{
    saei_dealloc(host, b->p, b->room);
    *b = (saei_bytes){0};
}
#endif
