/* The checksums of .sae files. */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/sae_file.h"

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

uint64_t saei_sae_digest(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}
