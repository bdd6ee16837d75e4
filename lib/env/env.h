/* The env: the host's hooks and one kernel table. Everything made from it keeps it alive. */
#ifndef SAEI_ENV_H
#define SAEI_ENV_H

#include "host/host.h"
#include "sae/env.h"
#include "simd/kernels.h"

struct sae_env {
    saei_ref ref;
    saei_host host;
    const saei_kernels *kernels;
};

void saei_env_take(sae_env *env);

#endif
