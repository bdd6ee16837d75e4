/* A GGUF file from hostile bytes: tensors that lie in it, or a sentence. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "io/tensors.h"

static void check_array(const saei_array *a, const saei_file *file)
{
    size_t count = 0, last = 0;
    fuzz_need(a->n_dims <= SAEI_DIMS && saei_array_count(&count, a), "a shape has a size");
    fuzz_need(a->offset <= file->bytes && a->bytes <= file->bytes - a->offset && a->data == file->data + a->offset, "data lie in the file");
    for (uint32_t i = 0; i < a->n_dims; i++) {
        fuzz_need(a->shape[i] >= 0 && a->stride[i] >= 0, "sizes are not negative");
        last += count ? (size_t)(a->shape[i] - 1) * (size_t)a->stride[i] : 0;
    }
    const size_t each = saei_element_bytes(a->element);
    fuzz_need(!count || last == count - 1, "strides are of rows");
    fuzz_need(!each || a->bytes == count * each, "elements fill the data");
    if (each && count)
        (void)saei_element_load(a->data + last * each, a->element);
}

static void check_store(const saei_store *store, const saei_file *file)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < store->n_arrays; i++) {
        check_array(&store->arrays[i], file);
        fuzz_need(saei_store_find(store, store->arrays[i].name) == &store->arrays[i], "names are unique");
        bytes += store->arrays[i].bytes;
    }
    fuzz_need(bytes <= file->bytes, "tensors do not overlap");
    for (uint32_t i = 0; i < store->n_values; i++) {
        const saei_value *v = &store->values[i];
        fuzz_need(v->is_number == !v->string && saei_utf8(v->name, strlen(v->name)), "a value is a number or a text");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    saei_host host = {0};
    saei_store store = {0};
    sae_error err = {.struct_size = sizeof err};
    const saei_file file = {.data = size ? data : NULL, .bytes = size, .fd = -1};
    saei_host_defaults(&host);
    const sae_status status = saei_read_gguf(&store, &host, &file, 0, "g", &err);
    fuzz_need((status == SAE_OK) == !*err.text && strlen(err.text) < sizeof err.text, "an error has a sentence");
    fuzz_need(status == SAE_OK || status == SAE_E_FORMAT || status == SAE_E_UNSUPPORTED, "there is memory");
    if (!status)
        check_store(&store, &file);
    saei_store_free(&store, &host);
    return 0;
}
