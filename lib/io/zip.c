#define ZLIB_CONST
#include "io/zip.h"

#include <string.h>
#include <zlib.h>

#include "io/json.h"
#include "io/sort.h"

/* Bytes of the records, without what varies in length. */
enum { END = 22, LOCATOR = 20, END64 = 56, ENTRY = 46, LOCAL = 30, FIELD = 4 };
enum { END_SIGN = 0x06054b50, LOCATOR_SIGN = 0x07064b50, END64_SIGN = 0x06064b50, ENTRY_SIGN = 0x02014b50, LOCAL_SIGN = 0x04034b50 };

enum { ENCRYPTED = 1 | 1 << 6 | 1 << 13, DESCRIPTOR = 1 << 3, PATCHED = 1 << 5 }; /* flags of a member */
enum { STORED = 0, DEFLATED = 8 };
enum { LONGEST_COMMENT = 65535, MOST_MEMBERS = 65536, MOST_RATIO = 1032, MOST_TOTAL_RATIO = 20, FREE_TOTAL = 64 << 20 };

typedef struct reader {
    saei_zip *zip;
    const saei_file *file;
    const char *file_name;
    size_t directory, end; /* where the directory begins and ends */
    sae_error *err;
} reader;

static uint64_t number(const unsigned char *p, int bytes)
{
    uint64_t value = 0;
    while (bytes-- > 0)
        value = value << 8 | p[bytes];
    return value;
}

static uint32_t u16(const unsigned char *p)
{
    return (uint32_t)number(p, 2);
}

static uint32_t u32(const unsigned char *p)
{
    return (uint32_t)number(p, 4);
}

static uint64_t u64(const unsigned char *p)
{
    return number(p, 8);
}

/* ---- the end ---- */

typedef struct ending {
    uint64_t disk, first_disk, here, n, bytes, offset;
} ending;

/* The end record is the last of the file, but for a comment whose length it holds. */
static bool find_end(size_t *out, const saei_file *file)
{
    if (file->bytes < END)
        return false;
    const size_t last = file->bytes - END, first = last > LONGEST_COMMENT ? last - LONGEST_COMMENT : 0;
    for (size_t at = last + 1; at-- > first;)
        if (u32(file->data + at) == END_SIGN && u16(file->data + at + 20) == last - at) {
            *out = at;
            return true;
        }
    return false;
}

/* Does a field of the old record say the same as the wide one, or that the wide one counts? */
static bool same(uint64_t narrow, uint64_t wide, uint64_t ones)
{
    return narrow == ones || narrow == wide;
}

/* The zip64 record, which the locator at *end points to. *end becomes where the record begins. */
static sae_status read_end64(ending *e, size_t *end, const reader *r)
{
    const unsigned char *data = r->file->data;
    const uint64_t at = u64(data + *end + 8);
    if (u32(data + *end + 4) != 0 || u32(data + *end + 16) > 1)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "%s: the archive is spread over several disks", r->file_name);
    if (at > *end || *end - at < END64 || u32(data + at) != END64_SIGN || u64(data + at + 4) != *end - at - 12)
        return saei_fail(r->err, SAE_E_FORMAT, "%s: the zip64 end record is not where its locator says, at byte %llu: the file is damaged",
                         r->file_name, (unsigned long long)at);
    const unsigned char *p = data + at;
    const ending wide = {u32(p + 16), u32(p + 20), u64(p + 24), u64(p + 32), u64(p + 40), u64(p + 48)};
    if (!same(e->disk, wide.disk, UINT16_MAX) || !same(e->first_disk, wide.first_disk, UINT16_MAX) ||
        !same(e->here, wide.here, UINT16_MAX) || !same(e->n, wide.n, UINT16_MAX) || !same(e->bytes, wide.bytes, UINT32_MAX) ||
        !same(e->offset, wide.offset, UINT32_MAX))
        return saei_fail(r->err, SAE_E_FORMAT, "%s: the zip64 end record contradicts the end record: the file is damaged", r->file_name);
    *e = wide;
    *end = (size_t)at;
    return SAE_OK;
}

/* `end` is where the records behind the directory begin. */
static sae_status check_ending(reader *r, const ending *e, size_t end)
{
    if (e->disk || e->first_disk || e->here != e->n)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "%s: the archive is spread over several disks", r->file_name);
    if (e->n > MOST_MEMBERS)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "%s: the archive has %llu members, more than %d are not read", r->file_name,
                         (unsigned long long)e->n, MOST_MEMBERS);
    if (e->offset > end || end - e->offset != e->bytes)
        return saei_fail(
            r->err, SAE_E_FORMAT,
            "%s: the directory has %llu bytes from byte %llu on, but what follows it begins at byte %zu: something was put before "
            "or into the archive, or it is damaged",
            r->file_name, (unsigned long long)e->bytes, (unsigned long long)e->offset, end);
    if (e->n > e->bytes / ENTRY)
        return saei_fail(r->err, SAE_E_FORMAT, "%s: the directory claims %llu members in %llu bytes: it is damaged", r->file_name,
                         (unsigned long long)e->n, (unsigned long long)e->bytes);
    r->directory = (size_t)e->offset;
    r->end = end;
    r->zip->n = (uint32_t)e->n;
    return SAE_OK;
}

static sae_status read_ending(reader *r)
{
    const unsigned char *data = r->file->data;
    size_t end = 0;
    if (!find_end(&end, r->file))
        return saei_fail(r->err, SAE_E_FORMAT, "%s: the file has no zip end record: it is cut off, or no zip archive", r->file_name);
    const unsigned char *p = data + end;
    ending e = {u16(p + 4), u16(p + 6), u16(p + 8), u16(p + 10), u32(p + 12), u32(p + 16)};
    if (end >= LOCATOR && u32(p - LOCATOR) == LOCATOR_SIGN) {
        end -= LOCATOR;
        const sae_status status = read_end64(&e, &end, r);
        if (status)
            return status;
    }
    return check_ending(r, &e, end);
}

/* ---- members ---- */

/* Begins every sentence about one member. */
#define MEMBER "%s: member \"%s\" "

typedef struct sizes {
    uint64_t bytes, packed, header;
} sizes;

/* Puts the numbers of the zip64 field, one of the extra fields p[0 .. n), where the sizes are all ones. false: the fields are damaged. */
static bool widen(sizes *s, const unsigned char *p, size_t n)
{
    uint64_t *const all[] = {&s->bytes, &s->packed, &s->header};
    const unsigned char *wide = NULL;
    size_t left = 0;
    while (n >= FIELD) {
        const size_t field = u16(p + 2);
        if (field > n - FIELD || (u16(p) == 1 && wide))
            return false;
        if (u16(p) == 1) {
            wide = p + FIELD;
            left = field;
        }
        p += FIELD + field;
        n -= FIELD + field;
    }
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (*all[i] != UINT32_MAX)
            continue;
        if (left < 8)
            return false;
        *all[i] = u64(wide);
        wide += 8;
        left -= 8;
    }
    return true;
}

/* Could the name lead out of a folder: is it absolute, or is a part of it ".."? */
static bool leads_out(const char *name)
{
    size_t part = 0;
    for (size_t i = 0;; i++) {
        const bool slash = name[i] == '/' || name[i] == '\\';
        if (name[i] && !slash)
            continue;
        if (i == 0 || (i == part + 2 && memcmp(name + part, "..", 2) == 0))
            return true;
        if (!slash)
            return false;
        part = i + 1;
    }
}

static sae_status read_name(saei_zip_member *m, const reader *r, char *to, const unsigned char *name, size_t n)
{
    const unsigned index = (unsigned)(m - r->zip->members);
    char shown[SAEI_SHOWN];
    if (n == 0 || memchr(name, '\0', n) || !saei_utf8((const char *)name, n))
        return saei_fail(r->err, SAE_E_FORMAT, "%s: the name of member %u is not UTF-8", r->file_name, index);
    memcpy(to, name, n);
    to[n] = '\0';
    m->name = to;
    if (leads_out(to))
        return saei_fail(r->err, SAE_E_FORMAT, "%s: the name of member %u, \"%s\", leads out of the archive", r->file_name, index,
                         saei_show(shown, to));
    return SAE_OK;
}

/* Can it be read, by the flags and the method of its entry? */
static sae_status check_method(const saei_zip_member *m, const reader *r, const unsigned char *entry)
{
    const uint32_t flags = u16(entry + 8), method = u16(entry + 10);
    char shown[SAEI_SHOWN];
    saei_show(shown, m->name);
    if (flags & ENCRYPTED)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, MEMBER "is encrypted", r->file_name, shown);
    if (flags & PATCHED || (method != STORED && method != DEFLATED))
        return saei_fail(r->err, SAE_E_UNSUPPORTED, MEMBER "is packed by method %u; stored and deflated members are read", r->file_name,
                         shown, (unsigned)method);
    if (u16(entry + 34) != 0)
        return saei_fail(r->err, SAE_E_UNSUPPORTED, MEMBER "begins on another disk", r->file_name, shown);
    return SAE_OK;
}

/* The sizes of its entry, and whether they can be. */
static sae_status read_sizes(saei_zip_member *m, const reader *r, const unsigned char *entry)
{
    sizes s = {u32(entry + 24), u32(entry + 20), u32(entry + 42)};
    char shown[SAEI_SHOWN];
    saei_show(shown, m->name);
    if (!widen(&s, entry + ENTRY + u16(entry + 28), u16(entry + 30)))
        return saei_fail(r->err, SAE_E_FORMAT, MEMBER "has damaged extra fields in the directory", r->file_name, shown);
    if (s.header > r->directory || s.packed > r->directory - s.header)
        return saei_fail(r->err, SAE_E_FORMAT, MEMBER "takes %llu bytes from byte %llu on, the directory begins at byte %zu: it is damaged",
                         r->file_name, shown, (unsigned long long)s.packed, (unsigned long long)s.header, r->directory);
    if (m->deflated ? s.bytes / MOST_RATIO > s.packed : s.bytes != s.packed)
        return saei_fail(r->err, SAE_E_FORMAT, MEMBER "cannot be %llu bytes: it takes %llu, %s", r->file_name, shown,
                         (unsigned long long)s.bytes, (unsigned long long)s.packed, m->deflated ? "deflated" : "stored");
    m->header = (size_t)s.header;
    m->packed = (size_t)s.packed;
    m->bytes = (size_t)s.bytes;
    return SAE_OK;
}

/* Does the local header say what the entry says? With a descriptor behind the data it knows neither sizes nor CRC. */
static bool local_agrees(const saei_zip_member *m, const unsigned char *local, const unsigned char *entry)
{
    const size_t name = u16(local + 26);
    sizes s = {u32(local + 22), u32(local + 18), 0};
    if (name != u16(entry + 28) || memcmp(local + LOCAL, entry + ENTRY, name) != 0 || u16(local + 8) != u16(entry + 10) ||
        u16(local + 6) & (ENCRYPTED | PATCHED))
        return false;
    if (u16(local + 6) & DESCRIPTOR)
        return true;
    return widen(&s, local + LOCAL + name, u16(local + 28)) && s.bytes == m->bytes && s.packed == m->packed && u32(local + 14) == m->crc;
}

static sae_status read_local(saei_zip_member *m, const reader *r, const unsigned char *entry)
{
    const unsigned char *local = r->file->data + m->header;
    const size_t left = r->directory - m->header;
    char shown[SAEI_SHOWN];
    saei_show(shown, m->name);
    if (left < LOCAL || u32(local) != LOCAL_SIGN)
        return saei_fail(r->err, SAE_E_FORMAT, MEMBER "has no header at byte %zu, where the directory says: the file is damaged",
                         r->file_name, shown, m->header);
    const size_t before = (size_t)LOCAL + u16(local + 26) + u16(local + 28);
    if (before > left || m->packed > left - before)
        return saei_fail(r->err, SAE_E_FORMAT, MEMBER "takes %zu bytes behind its header at byte %zu, the directory begins at byte %zu",
                         r->file_name, shown, m->packed, m->header, r->directory);
    if (!local_agrees(m, local, entry))
        return saei_fail(r->err, SAE_E_FORMAT, MEMBER "is described in one way by its header and in another by the directory", r->file_name,
                         shown);
    m->offset = m->header + before;
    return SAE_OK;
}

/* Reads the entry at *at, and puts its name to *names; both move on. The directory always has the fixed part of this entry and of all behind
 * it: what else it has is all that may vary in length, so the names fit in the room that was made. */
static sae_status read_entry(saei_zip_member *m, const reader *r, size_t *at, char **names)
{
    const unsigned char *entry = r->file->data + *at;
    const uint32_t index = (uint32_t)(m - r->zip->members);
    const size_t spare = r->end - *at - (size_t)(r->zip->n - index) * ENTRY;
    const size_t name = u16(entry + 28), others = (size_t)u16(entry + 30) + u16(entry + 32);
    sae_status status;
    if (u32(entry) != ENTRY_SIGN || name + others > spare)
        return saei_fail(r->err, SAE_E_FORMAT, "%s: the directory is damaged at byte %zu, where member %u is described", r->file_name, *at,
                         (unsigned)index);
    *m = (saei_zip_member){.crc = u32(entry + 16), .deflated = u16(entry + 10) == DEFLATED};
    if ((status = read_name(m, r, *names, entry + ENTRY, name)) || (status = check_method(m, r, entry)) ||
        (status = read_sizes(m, r, entry)) || (status = read_local(m, r, entry)))
        return status;
    *names += name + 1;
    *at += ENTRY + name + others;
    return SAE_OK;
}

static sae_status read_entries(const reader *r)
{
    const saei_zip *zip = r->zip;
    char *names = zip->names;
    size_t at = r->directory;
    for (uint32_t i = 0; i < zip->n; i++) {
        const sae_status status = read_entry(&zip->members[i], r, &at, &names);
        if (status)
            return status;
    }
    if (at != r->end)
        return saei_fail(r->err, SAE_E_FORMAT, "%s: %zu bytes of the directory describe no member: it is damaged", r->file_name,
                         r->end - at);
    return SAE_OK;
}

/* ---- all members together ---- */

static int by_name(const void *arg, uint32_t a, uint32_t b)
{
    const saei_zip_member *m = arg;
    return strcmp(m[a].name, m[b].name);
}

static int by_place(const void *arg, uint32_t a, uint32_t b)
{
    const saei_zip_member *m = arg;
    return (m[a].header > m[b].header) - (m[a].header < m[b].header);
}

static sae_status check_total(const reader *r)
{
    size_t total = 0, most;
    if (!saei_mul(&most, r->file->bytes, MOST_TOTAL_RATIO) || !saei_add(&most, most, FREE_TOTAL))
        most = SIZE_MAX;
    for (uint32_t i = 0; i < r->zip->n; i++)
        if (r->zip->members[i].deflated && (!saei_add(&total, total, r->zip->members[i].bytes) || total > most))
            return saei_fail(r->err, SAE_E_FORMAT,
                             "%s: the members claim to unpack to more than %zu bytes, from a file of %zu: no SAE does", r->file_name, most,
                             r->file->bytes);
    return SAE_OK;
}

/* `ids` has room for all members. */
static sae_status check_apart(const reader *r, uint32_t *ids)
{
    const saei_zip_member *m = r->zip->members;
    char name[SAEI_SHOWN], before[SAEI_SHOWN];
    saei_sort(ids, r->zip->n, by_name, m);
    for (uint32_t i = 1; i < r->zip->n; i++)
        if (by_name(m, ids[i - 1], ids[i]) == 0)
            return saei_fail(r->err, SAE_E_FORMAT, MEMBER "is there twice", r->file_name, saei_show(name, m[ids[i]].name));
    saei_sort(ids, r->zip->n, by_place, m);
    for (uint32_t i = 1; i < r->zip->n; i++) {
        const saei_zip_member *last = &m[ids[i - 1]], *now = &m[ids[i]];
        if (now->header < last->offset + last->packed)
            return saei_fail(r->err, SAE_E_FORMAT, "%s: members \"%s\" and \"%s\" overlap: one ends at byte %zu, the other begins at %zu",
                             r->file_name, saei_show(before, last->name), saei_show(name, now->name), last->offset + last->packed,
                             now->header);
    }
    return SAE_OK;
}

static sae_status check_members(const reader *r, const saei_host *host)
{
    const size_t bytes = r->zip->n * sizeof(uint32_t);
    uint32_t *ids = saei_alloc(host, bytes);
    if (!ids && bytes)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory to check the %u members of %s", (unsigned)r->zip->n, r->file_name);
    for (uint32_t i = 0; i < r->zip->n; i++)
        ids[i] = i;
    const sae_status status = check_apart(r, ids);
    saei_dealloc(host, ids, bytes);
    return status ? status : check_total(r);
}

/* Names with their NULs take no more than what the directory has besides the fixed part of each entry, and one byte for each. */
static sae_status make_room(const reader *r, const saei_host *host)
{
    saei_zip *zip = r->zip;
    zip->members = saei_zalloc(host, zip->n * sizeof *zip->members);
    zip->names_bytes = r->end - r->directory - (size_t)zip->n * (ENTRY - 1);
    zip->names = saei_alloc(host, zip->names_bytes);
    if ((!zip->members || !zip->names) && zip->n)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for the %u members of %s", (unsigned)zip->n, r->file_name);
    return SAE_OK;
}

sae_status saei_zip_read(saei_zip *out, const saei_host *host, const saei_file *file, const char *name, sae_error *err)
{
    reader r = {.zip = out, .file = file, .file_name = name, .err = err};
    *out = (saei_zip){0};
    sae_status status;
    if ((status = read_ending(&r)) || (status = make_room(&r, host)) || (status = read_entries(&r)) || (status = check_members(&r, host)))
        saei_zip_free(out, host);
    return status;
}

void saei_zip_free(saei_zip *zip, const saei_host *host)
{
    saei_dealloc(host, zip->members, zip->n * sizeof *zip->members);
    saei_dealloc(host, zip->names, zip->names_bytes);
    *zip = (saei_zip){0};
}

const saei_zip_member *saei_zip_find(const saei_zip *zip, const char *name)
{
    for (uint32_t i = 0; i < zip->n; i++)
        if (strcmp(zip->members[i].name, name) == 0)
            return &zip->members[i];
    return NULL;
}

/* ---- unpacking ---- */

enum { HEAD = 64 /* keeps the alignment */, PART = 1 << 30 /* zlib counts in 32 bits */ };

/* zlib does not say how much it gives back: that stands in front. */
static voidpf host_alloc(voidpf host, uInt n, uInt each)
{
    size_t bytes;
    if (!saei_mul(&bytes, n, each) || !saei_add(&bytes, bytes, HEAD))
        return Z_NULL;
    unsigned char *block = saei_alloc(host, bytes);
    if (!block)
        return Z_NULL;
    memcpy(block, &bytes, sizeof bytes);
    return block + HEAD;
}

static void host_free(voidpf host, voidpf p)
{
    unsigned char *block = (unsigned char *)p - HEAD;
    size_t bytes;
    memcpy(&bytes, block, sizeof bytes);
    saei_dealloc(host, block, bytes);
}

/* Tops zlib's count up from what is left. */
static void give(uInt *available, size_t *left)
{
    if (*available)
        return;
    *available = (uInt)(*left < PART ? *left : PART);
    *left -= *available;
}

/* Unpacks all of it; gives zlib's word, and the bytes left over of what came in and of what should have come out. */
static int inflate_member(z_stream *z, size_t *packed_left, size_t *bytes_left)
{
    int code;
    do {
        give(&z->avail_in, packed_left);
        give(&z->avail_out, bytes_left);
        code = inflate(z, Z_NO_FLUSH);
    } while (code == Z_OK);
    *packed_left += z->avail_in;
    *bytes_left += z->avail_out;
    return code;
}

sae_status saei_zip_unpack(unsigned char *dst, const saei_zip_member *member, const saei_host *host, const saei_file *file,
                           const char *name, sae_error *err)
{
    z_stream z = {
        .zalloc = host_alloc, .zfree = host_free, .opaque = (void *)host, .next_in = file->data + member->offset, .next_out = dst};
    size_t packed_left = member->packed, bytes_left = member->bytes;
    char shown[SAEI_SHOWN];
    saei_show(shown, member->name);
    int code = inflateInit2(&z, -MAX_WBITS);
    if (code == Z_OK) {
        code = inflate_member(&z, &packed_left, &bytes_left);
        inflateEnd(&z);
    }
    if (code == Z_MEM_ERROR)
        return saei_fail(err, SAE_E_NOMEM, "no memory to unpack member \"%s\" of %s", shown, name);
    if (code != Z_STREAM_END)
        return saei_fail(err, SAE_E_FORMAT, MEMBER "cannot be unpacked: %s", name, shown,
                         z.msg ? z.msg : "its data does not end where the directory says");
    if (packed_left || bytes_left)
        return saei_fail(err, SAE_E_FORMAT, MEMBER "unpacks to %zu bytes from %zu, the directory says to %zu from %zu", name, shown,
                         member->bytes - bytes_left, member->packed - packed_left, member->bytes, member->packed);
    if (crc32_z(crc32_z(0, Z_NULL, 0), dst, member->bytes) != member->crc)
        return saei_fail(err, SAE_E_FORMAT, MEMBER "does not have the CRC that the directory says: the file is damaged", name, shown);
    return SAE_OK;
}
