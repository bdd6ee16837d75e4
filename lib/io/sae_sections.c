/* .sae files: head, directory, sections -> a store of tensors. */
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/sae_file.h"

typedef struct reader {
    saei_store *store;
    const saei_host *host;
    const saei_file *file;
    int32_t file_index;
    const char *name;
    bool whole;
    sae_error *err;
} reader;

static const char damaged[] = "the file is damaged, get a good copy";

/* ---- names ---- */

static const struct {
    uint32_t id;
    const char *name;
    bool many; /* an index follows the name */
} names[] = {{SAEI_SAE_NUMBERS, "numbers", false},
             {SAEI_SAE_TEXTS, "texts", false},
             {SAEI_SAE_BLOCKS, "blocks", false},
             {SAEI_SAE_SEGMENTS, "segments", false},
             {SAEI_SAE_SKIPS, "skips", false},
             {SAEI_SAE_ATTENTION, "attention", false},
             {SAEI_SAE_B_ENC, "b_enc", false},
             {SAEI_SAE_B_DEC, "b_dec", false},
             {SAEI_SAE_THRESHOLD, "threshold", false},
             {SAEI_SAE_B_GATE, "b_gate", false},
             {SAEI_SAE_B_MAG, "b_mag", false},
             {SAEI_SAE_R_MAG, "r_mag", false},
             {SAEI_SAE_DEC_SCALE, "dec_scale", false},
             {SAEI_SAE_IN_SHIFT, "in_shift", false},
             {SAEI_SAE_IN_SCALE, "in_scale", false},
             {SAEI_SAE_OUT_SHIFT, "out_shift", false},
             {SAEI_SAE_OUT_SCALE, "out_scale", false},
             {SAEI_SAE_KEY_SCALE, "key_scale", false},
             {SAEI_SAE_BIAS, "bias", true},
             {SAEI_SAE_MATRIX, "matrix", true},
             {SAEI_SAE_SCREEN_WEIGHTS, "screen.weights", false},
             {SAEI_SAE_SCREEN_SCALE, "screen.scale", false},
             {SAEI_SAE_SCREEN_ERROR, "screen.error", false},
             {SAEI_SAE_SCREEN_NORM, "screen.norm", false},
             {SAEI_SAE_SCREEN_TOP, "screen.top", false},
             {SAEI_SAE_SCREEN, "screen", false}};

/* False for an id that this version does not know. */
static bool name_of(char out[32], const saei_sae_section *s)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].id == s->id && (names[i].many || s->index == 0)) {
            (void)snprintf(out, 32, names[i].many ? "%s.%u" : "%s", names[i].name, (unsigned)s->index);
            return true;
        }
    (void)snprintf(out, 32, "%u.%u", (unsigned)s->id, (unsigned)s->index);
    return false;
}

/* ---- head ---- */

bool saei_is_sae(const saei_file *file)
{
    return file->bytes >= sizeof(saei_sae_head) && memcmp(file->data, SAEI_SAE_MAGIC, 8) == 0;
}

void saei_sae_head_digest(uint8_t out[16], const saei_sae_head *head, const saei_sae_section *sections)
{
    XXH128_canonical_t canonical;
    XXH3_state_t state;
    (void)XXH3_128bits_reset(&state);
    (void)XXH3_128bits_update(&state, head, offsetof(saei_sae_head, digest));
    (void)XXH3_128bits_update(&state, sections, (size_t)head->n_sections * sizeof *sections);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    memcpy(out, canonical.digest, sizeof canonical.digest);
}

void saei_sae_screen_digest(uint8_t out[16], const saei_sae_section *sections, uint32_t n)
{
    XXH128_canonical_t canonical;
    XXH3_state_t state;
    (void)XXH3_128bits_reset(&state);
    for (uint32_t i = 0; i < n; i++) {
        saei_sae_section s = sections[i];
        s.offset = 0;
        (void)XXH3_128bits_update(&state, &s, sizeof s);
    }
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    memcpy(out, canonical.digest, sizeof canonical.digest);
}

static sae_status read_head(saei_sae_head *head, const reader *r)
{
    if (!saei_is_sae(r->file))
        return saei_fail(r->err, SAE_E_FORMAT, "%s is no .sae file: its first bytes are others, or there are fewer than %zu", r->name,
                         sizeof *head);
    memcpy(head, r->file->data, sizeof *head);
    if (head->version != SAEI_SAE_VERSION || head->flags)
        return saei_fail(r->err, SAE_E_UNSUPPORTED,
                         "%s has version %u of the .sae format and flags %#x, this library reads version %d: update it", r->name,
                         (unsigned)head->version, (unsigned)head->flags, SAEI_SAE_VERSION);
    if (head->file_bytes != r->file->bytes)
        return saei_fail(r->err, SAE_E_FORMAT, "%s has %zu bytes, its head says %llu: it was cut or joined, get a good copy", r->name,
                         r->file->bytes, (unsigned long long)head->file_bytes);
    if (head->n_sections < 1 || head->n_sections > SAEI_SAE_SECTIONS ||
        head->n_sections > (r->file->bytes - sizeof *head) / sizeof(saei_sae_section))
        return saei_fail(r->err, SAE_E_FORMAT, "%s says that it has %u sections, 1 .. %d fit: %s", r->name, (unsigned)head->n_sections,
                         SAEI_SAE_SECTIONS, damaged);
    return SAE_OK;
}

/* The directory, copied: what is checked is what is used. */
static sae_status read_directory(saei_sae_section **out, const saei_sae_head *head, const reader *r)
{
    uint8_t digest[16];
    saei_sae_section *all = saei_alloc(r->host, head->n_sections * sizeof *all);
    *out = all;
    if (!all)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for the %u sections of %s", (unsigned)head->n_sections, r->name);
    memcpy(all, r->file->data + sizeof *head, head->n_sections * sizeof *all);
    saei_sae_head_digest(digest, head, all);
    if (memcmp(digest, head->digest, sizeof digest) != 0)
        return saei_fail(r->err, SAE_E_FORMAT, "the directory of %s does not have the checksum that it states: %s", r->name, damaged);
    return SAE_OK;
}

/* ---- sections ---- */

static saei_element element_of(uint32_t dtype)
{
    return dtype == SAE_F32          ? SAEI_F32
           : dtype == SAE_F16        ? SAEI_F16
           : dtype == SAE_BF16       ? SAEI_BF16
           : dtype == SAEI_SAE_I32   ? SAEI_I32
           : dtype == SAEI_SAE_BYTES ? SAEI_U8
                                     : SAEI_OTHER;
}

/* In its place: behind `end`, aligned, inside the file. */
static bool lies_well(const saei_sae_section *s, uint64_t end, const reader *r)
{
    return s->offset >= end && s->offset % SAEI_SAE_ALIGN == 0 && s->offset <= r->file->bytes && s->bytes <= r->file->bytes - s->offset;
}

static bool adds_up(const saei_sae_section *s)
{
    size_t bytes;
    const size_t each = saei_element_bytes(element_of(s->dtype));
    return s->shape[0] <= INT64_MAX && s->shape[1] <= INT64_MAX && saei_mul(&bytes, (size_t)s->shape[0], (size_t)s->shape[1]) &&
           saei_mul(&bytes, bytes, each) && each && bytes && bytes == s->bytes;
}

/* Is it read only when it is used? */
static bool stays(const saei_sae_section *s)
{
    return s->id == SAEI_SAE_MATRIX || s->id == SAEI_SAE_SCREEN_WEIGHTS;
}

static sae_status check_digest(const saei_sae_section *s, const char *section, const reader *r)
{
    if ((stays(s) && !r->whole) || XXH3_64bits(r->file->data + s->offset, (size_t)s->bytes) == s->digest)
        return SAE_OK;
    return saei_fail(r->err, SAE_E_FORMAT, "%s: the bytes of %s do not have the checksum that the directory states: %s", r->name, section,
                     damaged);
}

static sae_status add(const saei_sae_section *s, const char *section, const reader *r)
{
    static const char *const dtype_names[] = {
        [SAEI_F32] = "f32", [SAEI_F16] = "f16", [SAEI_BF16] = "bf16", [SAEI_I32] = "i32", [SAEI_U8] = "bytes"};
    const char *name = saei_arena_text(&r->store->memory, r->host, section, strlen(section));
    if (!name)
        return saei_fail(r->err, SAE_E_NOMEM, "no memory for the sections of %s", r->name);
    saei_array a = {.name = name, .element = element_of(s->dtype), .n_dims = s->shape[1] == 1 && s->id != SAEI_SAE_MATRIX ? 1 : 2};
    a.dtype_name = dtype_names[a.element];
    a.shape[0] = (int64_t)s->shape[0];
    a.shape[1] = (int64_t)s->shape[1];
    a.data = r->file->data + s->offset;
    a.bytes = (size_t)s->bytes;
    a.file = r->file_index;
    a.offset = (size_t)s->offset;
    saei_array_row_major(&a);
    return saei_store_add(r->store, r->host, &a, r->name, r->err);
}

/* `end` is where the section before it ends. */
static sae_status read_section(const saei_sae_section *s, uint64_t end, const reader *r)
{
    char section[32];
    const bool known = name_of(section, s);
    if (!lies_well(s, end, r))
        return saei_fail(r->err, SAE_E_FORMAT, "%s: %s lies at %llu with %llu bytes, which is no place for it in a file of %zu: %s",
                         r->name, section, (unsigned long long)s->offset, (unsigned long long)s->bytes, r->file->bytes, damaged);
    if (!known && (s->flags & SAEI_SAE_REQUIRED))
        return saei_fail(r->err, SAE_E_UNSUPPORTED, "%s has a section %s that this library does not know and must: update it", r->name,
                         section);
    if (!known)
        return SAE_OK;
    if (!adds_up(s))
        return saei_fail(r->err, SAE_E_FORMAT, "%s: %s has %llu bytes, which are not %llu x %llu elements of type %u: %s", r->name, section,
                         (unsigned long long)s->bytes, (unsigned long long)s->shape[0], (unsigned long long)s->shape[1], (unsigned)s->dtype,
                         damaged);
    const sae_status status = check_digest(s, section, r);
    return status ? status : add(s, section, r);
}

/* Does the screen, section n, belong to what stands before it? */
static sae_status check_screen(const saei_sae_section *all, uint32_t n, const reader *r)
{
    saei_sae_screen screen;
    uint8_t digest[16];
    if (all[n].bytes != sizeof screen)
        return SAE_OK; /* of another kind */
    memcpy(&screen, r->file->data + all[n].offset, sizeof screen);
    saei_sae_screen_digest(digest, all, n);
    if (screen.kind != SAEI_SAE_SCREEN_KIND || memcmp(digest, screen.of, sizeof digest) == 0)
        return SAE_OK;
    return saei_fail(r->err, SAE_E_FORMAT, "%s: the screen in it belongs to other weights: convert the SAE again from where it came",
                     r->name);
}

static sae_status read_sections(const saei_sae_section *all, uint32_t n, const reader *r)
{
    uint64_t end = sizeof(saei_sae_head) + (uint64_t)n * sizeof *all;
    for (uint32_t i = 0; i < n; i++) {
        const saei_sae_section *s = &all[i], *last = i ? s - 1 : s;
        if (i && (s->id < last->id || (s->id == last->id && s->index <= last->index)))
            return saei_fail(r->err, SAE_E_FORMAT, "%s: section %u.%u follows %u.%u, the directory is not in order: %s", r->name,
                             (unsigned)s->id, (unsigned)s->index, (unsigned)last->id, (unsigned)last->index, damaged);
        sae_status status = read_section(s, end, r);
        if (!status && s->id == SAEI_SAE_SCREEN && s->index == 0)
            status = check_screen(all, i, r);
        if (status)
            return status;
        end = s->offset + s->bytes;
    }
    return SAE_OK;
}

sae_status saei_read_sae_sections(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                                  bool whole, sae_error *err)
{
    const reader r = {store, host, file, file_index, name, whole, err};
    saei_sae_head head;
    saei_sae_section *all = NULL;
    sae_status status = read_head(&head, &r);
    if (status)
        return status;
    status = read_directory(&all, &head, &r);
    if (!status)
        status = read_sections(all, head.n_sections, &r);
    saei_dealloc(host, all, head.n_sections * sizeof *all);
    return status;
}
