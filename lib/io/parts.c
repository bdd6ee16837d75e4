/* The lists and the memory of canonical parts. */
#include "io/io.h"

bool saei_parts_add_file(saei_parts *parts, const saei_host *host, const saei_file *file)
{
    saei_file *files = saei_arena_grow(&parts->memory, host, parts->files, &parts->room_files, parts->n_files, sizeof *files);
    if (!files)
        return false;
    parts->files = files;
    parts->files[parts->n_files++] = *file;
    return true;
}

bool saei_parts_add_block(saei_parts *parts, const saei_host *host, const saei_block *block)
{
    saei_block *enc = saei_arena_grow(&parts->memory, host, parts->enc, &parts->room_enc, parts->n_enc, sizeof *enc);
    if (!enc)
        return false;
    parts->enc = enc;
    parts->enc[parts->n_enc++] = *block;
    return true;
}

bool saei_parts_add_segment(saei_parts *parts, const saei_host *host, const saei_segment *segment)
{
    saei_segment *dec = saei_arena_grow(&parts->memory, host, parts->dec, &parts->room_dec, parts->n_dec, sizeof *dec);
    if (!dec)
        return false;
    parts->dec = dec;
    parts->dec[parts->n_dec++] = *segment;
    return true;
}

bool saei_parts_add_skip(saei_parts *parts, const saei_host *host, const saei_skip *skip)
{
    saei_skip *all = saei_arena_grow(&parts->memory, host, parts->skip, &parts->room_skip, parts->n_skip, sizeof *all);
    if (!all)
        return false;
    parts->skip = all;
    parts->skip[parts->n_skip++] = *skip;
    return true;
}

size_t saei_parts_bytes(const saei_parts *parts)
{
    size_t sum = 0;
    for (uint32_t i = 0; i < parts->n_files; i++)
        (void)saei_add(&sum, sum, parts->files[i].bytes);
    return sum;
}

void saei_parts_free(saei_parts *parts, const saei_host *host)
{
    for (uint32_t i = 0; i < parts->n_files; i++)
        saei_file_close(&parts->files[i], host);
    saei_arena_free(&parts->memory, host);
    *parts = (saei_parts){0};
}
