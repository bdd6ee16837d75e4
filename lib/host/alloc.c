#define _DEFAULT_SOURCE /* madvise */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "host/host.h"

enum { ALIGN = 64, HUGE_PAGE = 2 << 20 };

/* What spans several huge pages gets them where the system has them on request: a pass over panels of weights reads many places at once, more
 * than a processor remembers small pages of. */
static void *libc_alloc(void *user, size_t bytes, size_t align)
{
    void *p = NULL;
    (void)user;
    const bool huge = bytes >= 8 * (size_t)HUGE_PAGE;
    if (posix_memalign(&p, huge ? HUGE_PAGE : align, bytes))
        return NULL;
#ifdef MADV_HUGEPAGE
    if (huge)
        (void)madvise(p, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
    return p;
}

static void libc_free(void *user, void *p, size_t bytes, size_t align)
{
    (void)user;
    (void)bytes;
    (void)align;
    free(p);
}

void saei_host_defaults(saei_host *host)
{
    if (!host->alloc) {
        host->alloc = libc_alloc;
        host->dealloc = libc_free;
    }
    if (host->max_workers == 0)
        host->max_workers = 1;
}

void *saei_alloc(const saei_host *host, size_t bytes)
{
    return bytes == 0 || bytes > PTRDIFF_MAX ? NULL : host->alloc(host->alloc_user, bytes, ALIGN);
}

void *saei_zalloc(const saei_host *host, size_t bytes)
{
    void *p = saei_alloc(host, bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

void saei_dealloc(const saei_host *host, void *p, size_t bytes)
{
    if (p)
        host->dealloc(host->alloc_user, p, bytes, ALIGN);
}

char *saei_strdup(const saei_host *host, const char *s)
{
    const size_t bytes = strlen(s) + 1;
    char *copy = saei_alloc(host, bytes);
    return copy ? memcpy(copy, s, bytes) : NULL;
}

void saei_strfree(const saei_host *host, char *s)
{
    if (s)
        saei_dealloc(host, s, strlen(s) + 1);
}
