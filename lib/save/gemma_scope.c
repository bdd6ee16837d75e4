/* Parts -> the params.npz of Gemma Scope: a zip archive of .npy files, stored as they are, with 64-bit sizes and no date. */
#include <stdio.h>
#include <string.h>

#include "save/save.h"

typedef struct member {
    const char *name;
    const saei_matrix *m; /* or NULL, and v: n values */
    bool by_cols;
    const float *v;
    int32_t n;
    char head[128]; /* of the .npy */
    size_t head_bytes, bytes, at;
    uint32_t crc;
} member;

enum { MEMBERS = 5, LOCAL = 30, EXTRA_LOCAL = 20, EXTRA_CENTRAL = 28, END64 = 56 /* bytes of records */ };
enum { NEEDS_ZIP64 = 45, DOS_DATE = (0 << 9) | (1 << 5) | 1 /* 1980-01-01, the first there is */ };

/* ---- CRC-32 of zip, four bits at a time ---- */

static uint32_t crc_update(uint32_t crc, const unsigned char *p, size_t n)
{
    static const uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                       0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static void seen(void *state, const void *data, size_t bytes)
{
    uint32_t *crc = state;
    *crc = crc_update(*crc, data, bytes);
}

/* ---- members ---- */

/* Whoever reads a file below a folder "embedding" takes its weights for scaled ones. */
static bool below_embedding(const char *path)
{
    static const char folder[] = "embedding/";
    for (const char *at = path; at; at = strchr(at, '/'), at += at != NULL)
        if (strncmp(at, folder, sizeof folder - 1) == 0)
            return true;
    return false;
}

static sae_status check(const saei_save *s)
{
    const saei_parts *p = s->parts;
    const char *what = p->arch != SAE_JUMPRELU      ? "is not jumprelu"
                       : p->norm != SAE_NORM_NONE   ? "normalises its rows"
                       : p->apply_b_dec             ? "subtracts b_dec from its input"
                       : p->n_skip                  ? "has a skip"
                       : p->keeps_negative          ? "keeps negative codes"
                       : p->rescale_by_decoder_norm ? "rescales by the decoder norm"
                       : p->d_in != p->d_out        ? "writes rows of another size than it reads"
                                                    : NULL;
    if (what)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "this SAE %s, which a Gemma Scope file cannot say: a .sae file keeps it", what);
    if (s->opt.dtype == SAE_BF16)
        return saei_fail(s->err, SAE_E_UNSUPPORTED, "a .npz file holds no bf16: choose f32, or f16");
    if (below_embedding(s->path))
        return saei_fail(s->err, SAE_E_UNSUPPORTED,
                         "weights below a folder embedding are scaled by whoever reads them: choose another place than %s", s->path);
    return saei_save_plain(s, "a Gemma Scope file");
}

static size_t put_npy_head(member *m, sae_dtype dtype)
{
    char shape[48];
    if (m->m)
        (void)snprintf(shape, sizeof shape, "(%d, %d)", (int)(m->by_cols ? m->m->d : m->m->n), (int)(m->by_cols ? m->m->n : m->m->d));
    else
        (void)snprintf(shape, sizeof shape, "(%d,)", (int)m->n);
    memcpy(m->head, "\x93NUMPY\1\0\x76\0", 10);
    const int n = snprintf(m->head + 10, sizeof m->head - 10, "{'descr': '<f%d', 'fortran_order': False, 'shape': %s, }",
                           dtype == SAE_F32 ? 4 : 2, shape);
    memset(m->head + 10 + n, ' ', sizeof m->head - 10 - (size_t)n);
    m->head[sizeof m->head - 1] = '\n';
    return sizeof m->head;
}

static sae_status describe(member *all, saei_save *s, sae_dtype dtype)
{
    const saei_parts *p = s->parts;
    const float *b_enc = saei_save_vector(s, p->b_enc, p->d_sae), *b_dec = saei_save_vector(s, p->b_dec, p->d_out);
    if (!b_enc || !b_dec)
        return SAE_E_NOMEM;
    all[0] = (member){.name = "W_enc.npy", .m = &p->enc[0].w.m, .by_cols = true};
    all[1] = (member){.name = "W_dec.npy", .m = &p->dec[0].w.m};
    all[2] = (member){.name = "b_enc.npy", .v = b_enc, .n = p->d_sae};
    all[3] = (member){.name = "b_dec.npy", .v = b_dec, .n = p->d_out};
    all[4] = (member){.name = "threshold.npy", .v = p->threshold, .n = p->d_sae};
    for (int i = 0; i < MEMBERS; i++) {
        member *m = &all[i];
        m->head_bytes = put_npy_head(m, m->m ? dtype : SAE_F32);
        m->bytes = m->head_bytes + (m->m ? saei_sink_matrix_bytes(m->m, dtype) : (size_t)m->n * sizeof(float));
    }
    return SAE_OK;
}

/* ---- records of the archive ---- */

typedef struct record {
    unsigned char bytes[128];
    size_t n;
} record;

static void put(record *r, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        r->bytes[r->n++] = (unsigned char)(value >> (8 * i));
}

static void put_name(record *r, const char *name)
{
    memcpy(r->bytes + r->n, name, strlen(name));
    r->n += strlen(name);
}

/* What a local header and the directory have in common: flags, method, date, CRC, sizes (which stand in the extra field), length of the name. */
static void put_common(record *r, const member *m)
{
    put(r, NEEDS_ZIP64, 2);
    put(r, 0, 2);
    put(r, 0, 2);
    put(r, 0, 2);
    put(r, DOS_DATE, 2);
    put(r, m->crc, 4);
    put(r, UINT32_MAX, 4);
    put(r, UINT32_MAX, 4);
    put(r, strlen(m->name), 2);
}

static void put_sizes(record *r, const member *m, size_t extra)
{
    put(r, 1, 2); /* the field with 64-bit sizes */
    put(r, extra - 4, 2);
    put(r, m->bytes, 8);
    put(r, m->bytes, 8);
}

static record local_header(const member *m)
{
    record r = {.n = 0};
    put(&r, 0x04034b50, 4);
    put_common(&r, m);
    put(&r, EXTRA_LOCAL, 2);
    put_name(&r, m->name);
    put_sizes(&r, m, EXTRA_LOCAL);
    return r;
}

static record directory_entry(const member *m)
{
    record r = {.n = 0};
    put(&r, 0x02014b50, 4);
    put(&r, NEEDS_ZIP64, 2);
    put_common(&r, m);
    put(&r, EXTRA_CENTRAL, 2);
    put(&r, 0, 2); /* comment */
    put(&r, 0, 2); /* disk */
    put(&r, 0, 2);
    put(&r, 0, 4);
    put(&r, UINT32_MAX, 4);
    put_name(&r, m->name);
    put_sizes(&r, m, EXTRA_CENTRAL);
    put(&r, m->at, 8);
    return r;
}

/* The end of the archive, in 64 bits, and the old one that points to it. */
static record end_records(size_t at, size_t bytes)
{
    record r = {.n = 0};
    put(&r, 0x06064b50, 4);
    put(&r, END64 - 12, 8);
    put(&r, NEEDS_ZIP64, 2);
    put(&r, NEEDS_ZIP64, 2);
    put(&r, 0, 8); /* disks */
    put(&r, MEMBERS, 8);
    put(&r, MEMBERS, 8);
    put(&r, bytes, 8);
    put(&r, at, 8);
    put(&r, 0x07064b50, 4);
    put(&r, 0, 4);
    put(&r, at + bytes, 8);
    put(&r, 1, 4);
    put(&r, 0x06054b50, 4);
    put(&r, 0, 4); /* disks */
    put(&r, MEMBERS, 2);
    put(&r, MEMBERS, 2);
    put(&r, UINT32_MAX, 4);
    put(&r, UINT32_MAX, 4);
    put(&r, 0, 2); /* comment */
    return r;
}

/* ---- writing ---- */

/* The data first, for the CRC, then the header before it. */
static sae_status write_member(saei_sink *sink, member *m, sae_dtype dtype)
{
    const size_t head = LOCAL + strlen(m->name) + EXTRA_LOCAL;
    m->at = sink->at;
    sink->at += head;
    sink->seen = seen;
    sink->state = &m->crc;
    sae_status status = saei_sink_bytes(sink, m->head, m->head_bytes);
    if (!status)
        status =
            m->m ? saei_sink_matrix(sink, m->m, m->by_cols, dtype, m->name) : saei_sink_bytes(sink, m->v, (size_t)m->n * sizeof(float));
    sink->seen = NULL;
    const record r = local_header(m);
    return status ? status : saei_out_write(sink->out, r.bytes, m->at, r.n, sink->err);
}

static sae_status write_all(saei_sink *sink, member *all, sae_dtype dtype)
{
    sae_status status = SAE_OK;
    for (int i = 0; i < MEMBERS && !status; i++)
        status = write_member(sink, &all[i], dtype);
    const size_t directory = sink->at;
    for (int i = 0; i < MEMBERS && !status; i++) {
        const record r = directory_entry(&all[i]);
        status = saei_sink_bytes(sink, r.bytes, r.n);
    }
    const record r = end_records(directory, sink->at - directory);
    return status ? status : saei_sink_bytes(sink, r.bytes, r.n);
}

sae_status saei_save_gemma_scope(saei_save *s)
{
    const sae_dtype dtype = s->opt.dtype ? s->opt.dtype : SAE_F32;
    member all[MEMBERS];
    saei_out out = {0};
    sae_status status = check(s);
    if (!status)
        status = describe(all, s, dtype);
    if (!status)
        status = saei_out_open(&out, s->host, s->path, s->opt.overwrite == SAE_YES, s->err);
    saei_sink sink = {.host = s->host, .out = &out, .err = s->err};
    if (!status && !(status = write_all(&sink, all, dtype)) && !(status = saei_out_sync(&out, s->err)))
        status = saei_out_commit(&out, s->host, s->err);
    saei_out_drop(&out, s->host);
    return status;
}
