/* A zip archive's directory, for npz and torch files: where each member lies, checked against the file, without unpacking anything. */
#ifndef SAEI_ZIP_H
#define SAEI_ZIP_H

#include "host/host.h"

typedef struct saei_zip_member {
    const char *name; /* owned by the zip; UTF-8 without NUL */
    size_t header;    /* where its local header begins in the file */
    size_t offset;    /* of the member's data in the file */
    size_t packed;    /* bytes it takes there */
    size_t bytes;     /* bytes it is */
    uint32_t crc;     /* CRC-32 of those bytes, as the directory says; of a stored member nobody checks it */
    bool deflated;    /* else stored: packed == bytes */
} saei_zip_member;

typedef struct saei_zip {
    saei_zip_member *members; /* in the order of the directory */
    uint32_t n;
    char *names;
    size_t names_bytes;
} saei_zip;

/* Reads the directory (zip64 too). Refuses: no end record, a directory that does not end where that record begins, entries outside the file,
 * local headers that disagree, overlapping members, duplicate or absolute names or ones with "..", encryption, methods other than stored and
 * deflated, several disks, more than 65,536 members, members that claim to unpack to more than 1032 times their size (deflate cannot) or, all
 * together, to more than 64 MiB + 20 times the file. `name` is the file's name for sentences. Errors: SAE_E_FORMAT, SAE_E_UNSUPPORTED,
 * SAE_E_NOMEM. */
sae_status saei_zip_read(saei_zip *out, const saei_host *host, const saei_file *file, const char *name, sae_error *err);
void saei_zip_free(saei_zip *zip, const saei_host *host);

const saei_zip_member *saei_zip_find(const saei_zip *zip, const char *name);

/* Unpacks a deflated member into dst[member->bytes], by zlib with the host's memory; checks length and CRC. Errors: SAE_E_FORMAT, SAE_E_NOMEM. */
sae_status saei_zip_unpack(unsigned char *dst, const saei_zip_member *member, const saei_host *host, const saei_file *file,
                           const char *name, sae_error *err);

#endif
