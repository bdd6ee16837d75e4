/* YAML from hostile bytes: a sound tree or a sentence. */
#include "fuzz.h"

#include <string.h>

#include "io/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    saei_host host = {0};
    saei_json json;
    sae_error err = {.struct_size = sizeof err};
    saei_host_defaults(&host);
    const sae_status status = saei_yaml_parse(&json, &host, (const char *)data, size, "y", &err);
    fuzz_need((status == SAE_OK) == !*err.text && strlen(err.text) < sizeof err.text, "an error has a sentence");
    fuzz_need(status == SAE_OK || (status == SAE_E_FORMAT && !json.v && !json.strings), "an error leaves nothing");
    if (!status)
        fuzz_tree(&json);
    saei_json_free(&json, &host);
    return 0;
}
