/* Reading NumPy's .npz: a zip whose files are .npy. */
#include <limits.h>
#include <string.h>

#include "input.h"

/* Deflate cannot expand a byte to more than this many. */
enum { DEFLATE_MAX_RATIO = 1032 };

static size_t member_read(void *from, void *buf, size_t n)
{
    return npz_get(from, buf, n);
}

size_t npz_get(input *in, void *buf, size_t n)
{
    size_t got = 0;
    while (got < n) {
        unsigned part = n - got < INT_MAX ? (unsigned)(n - got) : INT_MAX;
        int r = unzReadCurrentFile(in->zip, (char *)buf + got, part);
        if (r < 0) {
            die("%s: the zip is damaged (error %d while unpacking)", in->name, r);
        }
        if (r == 0) {
            break;
        }
        got += (size_t)r;
    }
    return got;
}

/* The file the zip stands at, if it is an array. */
static void list_one(input *in)
{
    char name[256];
    unz_file_info64 info;
    if (unzGetCurrentFileInfo64(in->zip, &info, name, sizeof name, NULL, 0, NULL, 0) != UNZ_OK) {
        die("%s: the directory of the zip is damaged", in->name);
    }
    if (info.size_filename >= sizeof name) {
        die("%s: a name in the zip is longer than %zu bytes", in->name, sizeof name - 1);
    }
    size_t length = strlen(name);
    if (length < 4 || strcmp(name + length - 4, ".npy") != 0) {
        return;
    }
    name[length - 4] = '\0';
    bool fits = info.compression_method == 0 ? info.uncompressed_size == info.compressed_size
                                             : info.uncompressed_size / DEFLATE_MAX_RATIO <= info.compressed_size;
    if (info.compressed_size > in->file_bytes || !fits) {
        die("%s: array '%s' claims %llu bytes from %llu packed ones in a file of %llu", in->name, name,
            (unsigned long long)info.uncompressed_size, (unsigned long long)info.compressed_size, (unsigned long long)in->file_bytes);
    }
    unz64_file_pos pos;
    if (unzGetFilePos64(in->zip, &pos) != UNZ_OK || unzOpenCurrentFile(in->zip) != UNZ_OK) {
        die("%s: array '%s' cannot be unpacked: the zip is damaged, encrypted or packed by other means than deflate", in->name, name);
    }
    if (input_find(in, name) >= 0) {
        die("%s: holds two arrays '%s'", in->name, name);
    }
    array *a = input_add(in, name, pos.pos_in_zip_directory, pos.num_of_file);
    size_t header = npy_header_read(a, in->name, member_read, in);
    unzCloseCurrentFile(in->zip); /* the checksum is looked at when the whole array has been read */
    uint64_t count, bytes;
    bool sane = array_count(a, &count, &bytes);
    if (!sane || (a->type != ELEM_OTHER && header + bytes != info.uncompressed_size)) {
        die("%s: array '%s' has shape %s, which does not fit its %llu bytes", in->name, name, array_shape(a).text,
            (unsigned long long)info.uncompressed_size);
    }
}

void npz_list(input *in)
{
    if (memcmp(in->head, "PK\5\6", 4) == 0) {
        return; /* a zip without files, which minizip takes for damaged */
    }
    in->zip = unzOpen64(in->path);
    if (in->zip == NULL) {
        die("%s: the zip is damaged or cut off: its directory is missing", in->name);
    }
    int r = unzGoToFirstFile(in->zip);
    while (r == UNZ_OK) {
        list_one(in);
        r = unzGoToNextFile(in->zip);
    }
    if (r != UNZ_END_OF_LIST_OF_FILE) {
        die("%s: the directory of the zip is damaged", in->name);
    }
}

void npz_start(input *in, int i)
{
    unz64_file_pos pos = {.pos_in_zip_directory = in->offset[i], .num_of_file = in->index[i]};
    if (unzGoToFilePos64(in->zip, &pos) != UNZ_OK || unzOpenCurrentFile(in->zip) != UNZ_OK) {
        die("%s: array '%s' cannot be unpacked", in->name, in->arrays[i].name);
    }
    array again = {0};
    npy_header_read(&again, in->name, member_read, in);
}

void npz_finish(input *in)
{
    int r = unzCloseCurrentFile(in->zip);
    if (r != UNZ_OK) {
        die("%s: array '%s' is damaged: its checksum does not fit", in->name, in->arrays[in->current].name);
    }
}
