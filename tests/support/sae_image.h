/* A .sae file in memory, to be changed and written with true checksums. For tests that see lib/. */
#ifndef SUPPORT_SAE_IMAGE_H
#define SUPPORT_SAE_IMAGE_H

#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/sae_file.h"

typedef struct image {
    unsigned char *bytes;
    size_t n, room;
} image;

static inline image image_load(const char *path)
{
    image f;
    struct stat st;
    const int fd = open(path, O_RDONLY);
    ck_assert(fd >= 0 && !fstat(fd, &st));
    f.n = (size_t)st.st_size;
    f.room = f.n + 4096;
    f.bytes = calloc(1, f.room);
    ck_assert_int_eq(read(fd, f.bytes, f.n), st.st_size);
    close(fd);
    return f;
}

static inline saei_sae_head *image_head(const image *f)
{
    return (saei_sae_head *)(void *)f->bytes;
}

static inline saei_sae_section *image_sections(const image *f)
{
    return (saei_sae_section *)(void *)(f->bytes + sizeof(saei_sae_head));
}

/* NULL if there is none. */
static inline saei_sae_section *image_find(const image *f, uint32_t id)
{
    for (uint32_t i = 0; i < image_head(f)->n_sections; i++)
        if (image_sections(f)[i].id == id)
            return &image_sections(f)[i];
    return NULL;
}

static inline saei_sae_section *image_section(const image *f, uint32_t id)
{
    saei_sae_section *s = image_find(f, id);
    ck_assert_msg(s != NULL, "no section %u", (unsigned)id);
    return s;
}

static inline void *image_data(const image *f, uint32_t id)
{
    return f->bytes + image_section(f, id)->offset;
}

static inline bool image_holds(const image *f, const saei_sae_section *s)
{
    return s->offset <= f->n && s->bytes <= f->n - s->offset;
}

/* The screen says again that it belongs to what is there. */
static inline void image_sign(const image *f)
{
    const saei_sae_section *s = image_section(f, SAEI_SAE_SCREEN);
    saei_sae_screen *screen = image_data(f, SAEI_SAE_SCREEN);
    for (saei_sae_section *each = image_sections(f); each < s; each++)
        each->digest = XXH3_64bits(f->bytes + each->offset, (size_t)each->bytes);
    saei_sae_screen_digest(screen->of, image_sections(f), (uint32_t)(s - image_sections(f)));
}

/* Makes every checksum true again, and writes the file. */
static inline void image_store(const image *f, const char *path)
{
    saei_sae_head *head = image_head(f);
    for (uint32_t i = 0; i < head->n_sections; i++) {
        saei_sae_section *s = &image_sections(f)[i];
        if (image_holds(f, s))
            s->digest = XXH3_64bits(f->bytes + s->offset, (size_t)s->bytes);
    }
    saei_sae_head_digest(head->digest, head, image_sections(f));
    const int fd = open(path, O_WRONLY | O_TRUNC | O_CREAT, 0600);
    ck_assert(fd >= 0 && write(fd, f->bytes, f->n) == (ssize_t)f->n && close(fd) == 0);
}

#endif
