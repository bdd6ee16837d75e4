/* A torch file from hostile bytes: refused with a sentence, or its tensors lie inside it. Takes a bounded amount of memory, gives all back. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "io/tensors.h"

enum { ANY_FILE = 4 << 20, UNPACKED = 64 << 20, PER_BYTE = 64 };

typedef struct heap {
    size_t live, most;
} heap;

static void *count_alloc(void *user, size_t bytes, size_t align)
{
    heap *h = user;
    void *p = NULL;
    if (posix_memalign(&p, align, bytes))
        return NULL;
    h->live += bytes;
    h->most = h->live > h->most ? h->live : h->most;
    return p;
}

static void count_free(void *user, void *p, size_t bytes, size_t align)
{
    heap *h = user;
    (void)align;
    h->live -= bytes;
    free(p);
}

/* The element with all indices 0, and the one with all at their end. */
static void touch(const saei_array *a)
{
    const size_t each = saei_element_bytes(a->element);
    size_t n = 0, last = 0;
    volatile double seen = 0.0;
    if (!each || !saei_array_count(&n, a) || !n)
        return;
    for (uint32_t d = 0; d < a->n_dims; d++)
        last += (size_t)(a->shape[d] - 1) * (size_t)a->stride[d];
    fuzz_need(last < a->bytes / each, "a tensor lies inside its storage");
    seen = saei_element_load(a->data, a->element);
    seen = saei_element_load(a->data + last * each, a->element);
    (void)seen;
}

static void check_store(const saei_store *store, size_t size)
{
    for (uint32_t i = 0; i < store->n_arrays; i++) {
        const saei_array *a = &store->arrays[i];
        fuzz_need(a->name && a->dtype_name && a->data, "a tensor has a name, a type and a place");
        fuzz_need(a->file < 0 || (a->offset <= size && a->bytes <= size - a->offset), "a tensor lies inside its file");
        fuzz_need(saei_store_find(store, a->name) == a, "names are unique");
        touch(a);
    }
    for (uint32_t i = 0; i < store->n_values; i++)
        fuzz_need(store->values[i].is_number == !store->values[i].string, "a value is a number or a string");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    heap h = {0, 0};
    const saei_host host = {.alloc = count_alloc, .dealloc = count_free, .alloc_user = &h, .max_workers = 1};
    const saei_file file = {.data = size ? data : NULL, .bytes = size, .fd = -1};
    const bool archive = size && *data == 'P';
    saei_store store = {0};
    sae_error err = {.struct_size = sizeof err};
    const sae_status status = saei_read_torch(&store, &host, &file, 0, "t.pt", &err);
    fuzz_need(status == SAE_OK || status == SAE_E_FORMAT || status == SAE_E_UNSUPPORTED, "a file is read or refused");
    fuzz_need((status == SAE_OK) == (*err.text == 0) && status == err.status, "a refusal has a sentence");
    if (status == SAE_OK)
        check_store(&store, size);
    saei_store_free(&store, &host);
    fuzz_need(h.live == 0, "all memory is given back");
    fuzz_need(h.most <= ANY_FILE + (archive ? UNPACKED : 0) + PER_BYTE * size, "memory is bounded");
    return 0;
}
