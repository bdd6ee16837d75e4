#include <string.h>

#include "host/host.h"

/* What an arena is made of: a header, then what was asked for. */
struct saei_arena_block {
    saei_arena_block *next;
    size_t bytes; /* of both */
};

enum { HEAD = 64 };

void *saei_arena_alloc(saei_arena *arena, const saei_host *host, size_t bytes)
{
    saei_arena_block *block = bytes > SIZE_MAX - HEAD ? NULL : saei_alloc(host, HEAD + bytes);
    if (!block)
        return NULL;
    *block = (saei_arena_block){arena->blocks, HEAD + bytes};
    arena->blocks = block;
    arena->bytes += bytes;
    return (unsigned char *)block + HEAD;
}

char *saei_arena_text(saei_arena *arena, const saei_host *host, const char *text, size_t n)
{
    char *copy = n == SIZE_MAX ? NULL : saei_arena_alloc(arena, host, n + 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, n);
    copy[n] = '\0';
    return copy;
}

void *saei_arena_grow(saei_arena *arena, const saei_host *host, const void *items, uint32_t *room, uint32_t n, size_t each)
{
    if (n < *room)
        return (void *)(uintptr_t)items;
    const uint32_t more = *room ? 2 * *room : 8;
    void *larger = saei_arena_alloc(arena, host, more * each);
    if (!larger)
        return NULL;
    if (n)
        memcpy(larger, items, n * each);
    *room = more;
    return larger;
}

void saei_arena_move(saei_arena *to, saei_arena *from)
{
    saei_arena_block *last = from->blocks;
    if (!last)
        return;
    while (last->next)
        last = last->next;
    last->next = to->blocks;
    to->blocks = from->blocks;
    to->bytes += from->bytes;
    *from = (saei_arena){0};
}

void saei_arena_free(saei_arena *arena, const saei_host *host)
{
    for (saei_arena_block *block = arena->blocks, *next; block; block = next) {
        next = block->next;
        saei_dealloc(host, block, block->bytes);
    }
    *arena = (saei_arena){0};
}
