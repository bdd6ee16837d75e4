/* The sections of a .sae file from hostile bytes, with true checksums: they lie in it, or there is a sentence. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "io/sae_file.h"

static sae_status read_checked(saei_store *store, const saei_host *host, const saei_file *file, int32_t file_index, const char *name,
                               sae_error *err)
{
    return saei_read_sae_sections(store, host, file, file_index, name, true, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *file = malloc(size + 1);
    fuzz_need(file != NULL, "there is memory");
    if (size)
        memcpy(file, data, size);
    fuzz_repair_sae(file, size);
    fuzz_container(file, size, read_checked);
    free(file);
    return 0;
}
