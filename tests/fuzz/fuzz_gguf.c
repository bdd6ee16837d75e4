/* A GGUF file from hostile bytes: tensors that lie in it, or a sentence. */
#include "fuzz.h"

#include "io/tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_container(data, size, saei_read_gguf);
    return 0;
}
