#include "host/host.h"

sae_status saei_run(const saei_host *host, void *job, sae_task task, uint32_t n)
{
    if (n == 0)
        return SAE_OK;
    if (host->run && n > 1)
        return host->run(host->run_user, job, task, n) ? SAE_E_HOST : SAE_OK;
    for (uint32_t i = 0; i < n; i++)
        task(job, i, 0);
    return SAE_OK;
}
