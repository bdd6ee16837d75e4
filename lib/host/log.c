#include <stdarg.h>
#include <stdio.h>

#include "host/host.h"

void saei_log(const saei_host *host, int32_t level, const char *fmt, ...)
{
    char line[512];
    va_list args;
    if (!host->log || level > host->log_level)
        return;
    va_start(args, fmt);
    (void)vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    host->log(host->log_user, level, line);
}
