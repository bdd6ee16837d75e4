#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "sae.h"

uint32_t sae_version(void)
{
    return (uint32_t)SAE_VERSION_MAJOR << 16 | (uint32_t)SAE_VERSION_MINOR << 8 | (uint32_t)SAE_VERSION_PATCH;
}

static const struct {
    const char *name, *text;
} statuses[] = {
    {"SAE_OK", "done"},
    {"SAE_E_ARG", "the call is wrong: an argument is NULL, unknown or out of range"},
    {"SAE_E_NOMEM", "the allocator gave no memory"},
    {"SAE_E_VERSION", "the caller was built for a newer libsae"},
    {"SAE_E_UNSUPPORTED", "valid, but not in this build or not on this processor"},
    {"SAE_E_SHAPE", "sizes do not fit this model"},
    {"SAE_E_FORMAT", "the file is damaged or contradicts itself"},
    {"SAE_E_IO", "the system refused to open, read or map a file"},
    {"SAE_E_HOST", "a hook of the host failed"},
    {"SAE_E_BUSY", "this ctx is inside another call, or this file in use by another program"},
    {"SAE_E_CAPACITY", "the caller's arrays are too small"},
};

static int known(sae_status status)
{
    return status <= 0 && status > -(sae_status)(sizeof statuses / sizeof *statuses);
}

const char *sae_status_text(sae_status status)
{
    return known(status) ? statuses[-status].text : "unknown status";
}

const char *sae_status_name(sae_status status)
{
    return known(status) ? statuses[-status].name : "unknown status";
}

size_t sae_dtype_bytes(sae_dtype dtype)
{
    return dtype == SAE_F32 ? 4 : dtype == SAE_F16 || dtype == SAE_BF16 ? 2 : 0;
}

const char *sae_dtype_name(sae_dtype dtype)
{
    return dtype == SAE_F32 ? "f32" : dtype == SAE_F16 ? "f16" : dtype == SAE_BF16 ? "bf16" : "unknown";
}

/* Sets the status of the caller's struct, which may be an older, smaller one (0 stands for the size of 0.1); returns the room for text. */
static size_t open_error(sae_error *err, sae_status status)
{
    const size_t size = err->struct_size ? err->struct_size : sizeof *err, before = offsetof(sae_error, text);
    if (size >= before)
        err->status = status;
    return size <= before ? 0 : size - before < sizeof err->text ? size - before : sizeof err->text;
}

sae_status saei_fail(sae_error *err, sae_status status, const char *fmt, ...)
{
    if (!err)
        return status;
    const size_t room = open_error(err, status);
    if (room) {
        va_list args;
        va_start(args, fmt);
        (void)vsnprintf(err->text, room, fmt, args);
        va_end(args);
    }
    return status;
}

sae_status saei_ok(sae_error *err)
{
    if (err && open_error(err, SAE_OK))
        err->text[0] = '\0';
    return SAE_OK;
}
