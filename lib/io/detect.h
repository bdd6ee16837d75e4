/* What lies at a path. */
#ifndef SAEI_DETECT_H
#define SAEI_DETECT_H

#include "host/host.h"

/* The two files of a SAELens checkpoint. Paths are owned: free them with saei_strfree. */
typedef struct saei_place {
    char *config; /* .../cfg.json, which may not exist when a bare weights file was named */
    char *weights;
    bool bare; /* `path` named the weights, not a folder */
} saei_place;

/* Finds the files of the checkpoint at `path`, a folder or a .safetensors file. A folder of a format that this version does not read is
 * refused by its name. Errors: SAE_E_IO, SAE_E_UNSUPPORTED, SAE_E_NOMEM; *out is then empty. */
sae_status saei_place_find(saei_place *out, const saei_host *host, const char *path, sae_error *err);
void saei_place_free(saei_place *place, const saei_host *host);

/* The part behind the last slash. */
const char *saei_base_name(const char *path);

#endif
