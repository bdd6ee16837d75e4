/* JSON from hostile bytes: a sound tree whose numbers are strtod's, or a sentence. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "io/json.h"

static void check_numbers(const saei_json *json, const char *text)
{
    for (uint32_t i = 0; i < json->n; i++) {
        const saei_json_value *v = &json->v[i];
        const double want = v->type == SAEI_JSON_NUMBER ? strtod(text + v->at, NULL) : 0.0;
        fuzz_need(v->type != SAEI_JSON_NUMBER || v->number == want || (v->number != v->number && want != want), "a number is rounded once");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    saei_host host = {0};
    saei_json json;
    sae_error err = {.struct_size = sizeof err};
    saei_host_defaults(&host);
    const sae_status status = saei_json_parse(&json, &host, (const char *)data, size, "j", &err);
    fuzz_need((status == SAE_OK) == !*err.text && strlen(err.text) < sizeof err.text, "an error has a sentence");
    fuzz_need(status == SAE_OK || (status == SAE_E_FORMAT && !json.v && !json.strings), "an error leaves nothing");
    if (status)
        return 0;
    char *text = malloc(size + 1); /* strtod wants a NUL */
    fuzz_need(text != NULL, "there is memory");
    memcpy(text, data, size);
    text[size] = '\0';
    fuzz_tree(&json);
    check_numbers(&json, text);
    free(text);
    saei_json_free(&json, &host);
    return 0;
}
