#include "env/env.h"
#include "sae.h"

enum { MAX_WORKERS = 1024 };

static sae_status check_options(const sae_env_options *opt, sae_error *err)
{
    if (!opt->alloc != !opt->dealloc)
        return saei_fail(err, SAE_E_ARG, "sae_env_options has %s without %s: give both or neither", opt->alloc ? "alloc" : "dealloc",
                         opt->alloc ? "dealloc" : "alloc");
    if (opt->max_workers > MAX_WORKERS)
        return saei_fail(err, SAE_E_ARG, "max_workers = %u, the most is %d", (unsigned)opt->max_workers, MAX_WORKERS);
    if (opt->isa != SAE_ISA_AUTO && opt->isa != SAE_ISA_SCALAR && opt->isa != SAE_ISA_NEON && opt->isa != SAE_ISA_AVX2 &&
        opt->isa != SAE_ISA_AVX512)
        return saei_fail(err, SAE_E_ARG, "isa = %d is not one of SAE_ISA_*", (int)opt->isa);
    return SAE_OK;
}

sae_status sae_env_create(sae_env **out, const sae_env_options *opt, sae_error *err)
{
    sae_env_options o = {0};
    sae_status status;
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_env_create: out is NULL");
    *out = NULL;
    if (opt && (status = saei_read_struct(&o, sizeof o, opt, "sae_env_options", err)))
        return status;
    if ((status = check_options(&o, err)))
        return status;
    const saei_kernels *kernels = saei_kernels_for(o.isa);
    if (!kernels)
        return saei_fail(err, SAE_E_UNSUPPORTED,
                         "this build on this processor has no %s kernels: use SAE_ISA_AUTO or ask sae_isa_available", sae_isa_name(o.isa));

    saei_host host = {o.alloc, o.dealloc, o.alloc_user, o.run, o.run_user, o.run ? o.max_workers : 1, o.log_level, o.log, o.log_user};
    saei_host_defaults(&host);
    sae_env *env = saei_zalloc(&host, sizeof *env);
    if (!env)
        return saei_fail(err, SAE_E_NOMEM, "no memory for an env of %zu bytes", sizeof *env);
    saei_ref_init(&env->ref);
    env->host = host;
    env->kernels = kernels;
    saei_log(&host, SAE_LOG_INFO, "libsae %d.%d.%d: %s kernels, %u workers", SAE_VERSION_MAJOR, SAE_VERSION_MINOR, SAE_VERSION_PATCH,
             sae_isa_name(kernels->isa), (unsigned)host.max_workers);
    *out = env;
    return saei_ok(err);
}

sae_isa sae_env_isa(const sae_env *env)
{
    return env ? env->kernels->isa : SAE_ISA_AUTO;
}

void saei_env_take(sae_env *env)
{
    saei_ref_take(&env->ref);
}

void sae_env_free(sae_env *env)
{
    if (!env || !saei_ref_drop(&env->ref))
        return;
    saei_host host = env->host; /* the hooks outlive the struct that held them */
    saei_dealloc(&host, env, sizeof *env);
}
