#include <string.h>

#include "base/base.h"

/* The rule of Linux's copy_struct_from_user: a short struct is a shorter question, a long one must not ask what we cannot know. */
sae_status saei_read_struct(void *dst, size_t dst_bytes, const void *src, const char *name, sae_error *err)
{
    uint32_t size;
    memcpy(&size, src, sizeof size);
    if (size <= sizeof size)
        return saei_fail(err, SAE_E_ARG, "%s.struct_size = %u: set it to sizeof(%s)", name, (unsigned)size, name);
    for (size_t i = dst_bytes; i < size; i++)
        if (((const unsigned char *)src)[i])
            return saei_fail(err, SAE_E_VERSION, "%s has %u bytes and uses a field beyond the %zu that this libsae knows: update libsae",
                             name, (unsigned)size, dst_bytes);
    memset(dst, 0, dst_bytes);
    memcpy(dst, src, size < dst_bytes ? size : dst_bytes);
    return SAE_OK;
}

sae_status saei_write_struct(void *dst, const void *src, size_t src_bytes, const char *name, sae_error *err)
{
    uint32_t size;
    memcpy(&size, dst, sizeof size);
    if (size <= sizeof size)
        return saei_fail(err, SAE_E_ARG, "%s.struct_size = %u: set it to sizeof(%s)", name, (unsigned)size, name);
    memcpy((unsigned char *)dst + sizeof size, (const unsigned char *)src + sizeof size,
           (size < src_bytes ? size : src_bytes) - sizeof size);
    return SAE_OK;
}
