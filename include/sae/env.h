/* The environment: the host's hooks and the instruction set, fixed at creation. */
#ifndef SAE_ENV_H
#define SAE_ENV_H

#include "host.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Instruction sets. All give the same bits; AUTO takes the best one the processor and the system allow. */
typedef int32_t sae_isa;

enum {
    SAE_ISA_AUTO = 0,
    SAE_ISA_SCALAR = 1, /* portable C, always there, the reference of all others */
    SAE_ISA_NEON = 16,  /* aarch64 */
    SAE_ISA_AVX2 = 32,  /* AVX2 + FMA + F16C */
    SAE_ISA_AVX512 = 48 /* AVX-512 F, BW, DQ, VL */
};

typedef struct sae_env sae_env;

typedef struct sae_env_options {
    uint32_t struct_size;
    sae_isa isa;        /* 0 = best */
    sae_alloc_fn alloc; /* both or neither; NULL = the C library's */
    sae_free_fn dealloc;
    void *alloc_user;
    sae_run_fn run; /* NULL = everything on the caller's thread */
    void *run_user;
    uint32_t max_workers; /* how many tasks of one run may be under way at once; 0 = 1 */
    int32_t log_level;    /* lines above it are not made; 0 = silent */
    sae_log_fn log;       /* NULL = silent */
    void *log_user;
} sae_env_options;

/* Creates an env. `opt` NULL = all defaults. The hooks must stay valid until the env and all that was made from it are freed.
 * Errors: SAE_E_ARG (one of alloc and dealloc missing, max_workers > 1024, unknown isa), SAE_E_UNSUPPORTED (an isa this
 * processor lacks), SAE_E_NOMEM, SAE_E_VERSION. */
SAE_API sae_status sae_env_create(sae_env **out, const sae_env_options *opt, sae_error *err);

/* The instruction set in use, never SAE_ISA_AUTO. */
SAE_API sae_isa sae_env_isa(const sae_env *env);

SAE_API void sae_env_free(sae_env *env);

/* SAE_YES if this build and this processor can run `isa`, else SAE_NO. SAE_ISA_AUTO and SAE_ISA_SCALAR are always there. */
SAE_API int32_t sae_isa_available(sae_isa isa);

/* "auto", "scalar", "neon", "avx2", "avx512"; "unknown" otherwise. Static, never NULL. */
SAE_API const char *sae_isa_name(sae_isa isa);

#ifdef __cplusplus
}
#endif
#endif
