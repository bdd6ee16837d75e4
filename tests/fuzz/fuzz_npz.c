/* An .npz file from hostile bytes. What is accepted can be read to the last element, and lies where it is said to lie. */
#include "fuzz.h"

#include "io/tensors.h"

static void use(const saei_array *a, const saei_file *file)
{
    const size_t each = saei_element_bytes(a->element);
    size_t n = 0, last = 0;
    fuzz_need(a->name && a->dtype_name, "an array has a name and a dtype");
    fuzz_need(a->file < 0 || (a->data == file->data + a->offset && a->offset <= file->bytes && a->bytes <= file->bytes - a->offset),
              "an array that was not unpacked lies in the file");
    for (size_t i = 0; i < a->bytes; i++)
        last += a->data[i];
    fuzz_need(last <= 255 * a->bytes, "every byte can be read");
    if (a->element == SAEI_OTHER || a->n_dims > SAEI_DIMS)
        return;
    fuzz_need(saei_array_count(&n, a) && n * each == a->bytes, "the data is what the shape needs");
    if (!n)
        return;
    last = 0;
    for (uint32_t i = 0; i < a->n_dims; i++)
        last += (size_t)(a->shape[i] - 1) * (size_t)a->stride[i];
    fuzz_need(last == n - 1, "the strides reach the last element and no further");
    const double value = saei_element_load(a->data + last * each, a->element);
    fuzz_need(value == value || saei_element_is_float(a->element), "only a float can be NaN");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static saei_host host;
    const saei_file file = {data, size, -1, false};
    saei_store store = {0};
    sae_error err = {.struct_size = sizeof err};
    saei_host_defaults(&host);
    const sae_status status = saei_read_npz(&store, &host, &file, 0, "t.npz", &err);
    fuzz_need(status == SAE_OK || status == SAE_E_FORMAT || status == SAE_E_UNSUPPORTED, "a file is read, damaged or not supported");
    fuzz_need(status == err.status && (status == SAE_OK) == (*err.text == 0), "an error has a sentence");
    fuzz_need(status || store.n_arrays, "a file that is read holds an array");
    for (uint32_t i = 0; i < store.n_arrays; i++)
        use(&store.arrays[i], &file);
    saei_store_free(&store, &host);
    return 0;
}
