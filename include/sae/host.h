/* What the host brings: memory, a parallel-for, a log; and a pool of threads for hosts that bring none. */
#ifndef SAE_HOST_H
#define SAE_HOST_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Gives `bytes` (> 0) of memory aligned to `align` (a power of two), or NULL. Called only inside create, open and prepare
 * calls, possibly from several threads at once. */
typedef void *(*sae_alloc_fn)(void *user, size_t bytes, size_t align);

/* Takes back what alloc gave, with the same bytes and align. Never called with NULL. */
typedef void (*sae_free_fn)(void *user, void *p, size_t bytes, size_t align);

/* One task of a parallel-for: the library's function, called by the host's runner. */
typedef void (*sae_task)(void *job, uint32_t i, uint32_t worker);

/* The host's parallel-for: calls task(job, i, worker) once for each i in 0 .. n-1, in any order, on any threads (the caller's
 * included), and returns after the last has returned: 0 for success, anything else becomes SAE_E_HOST.
 * `worker` < max_workers of the env, and no two tasks that run at the same time within one call share it.
 * Tasks never wait for each other, never call back, never allocate, never block. Two calls may be under way at once. */
typedef int32_t (*sae_run_fn)(void *user, void *job, sae_task task, uint32_t n);

/* Receives one formatted line without newline; may be called from any thread that calls the library. */
typedef void (*sae_log_fn)(void *user, int32_t level, const char *line);

enum { SAE_LOG_WARNING = 1, SAE_LOG_INFO = 2 };

/* Threads for hosts that bring none. The only part of libsae that starts threads. */
typedef struct sae_pool sae_pool;

/* Starts n_threads - 1 threads (the caller of sae_pool_run is the last worker); 0 = one per available processor.
 * Errors: SAE_E_ARG above 1024, SAE_E_NOMEM, SAE_E_HOST when the system gives no thread. */
SAE_API sae_status sae_pool_create(sae_pool **out, uint32_t n_threads, sae_error *err);

/* A sae_run_fn: put it into sae_env_options.run with the pool as run_user and sae_pool_threads as max_workers. Chunks are
 * claimed from a counter; concurrent calls on one pool are served one after the other. Returns 0. */
SAE_API int32_t sae_pool_run(void *pool, void *job, sae_task task, uint32_t n);

/* Workers of the pool, the calling thread included. */
SAE_API uint32_t sae_pool_threads(const sae_pool *pool);

/* Stops and joins the threads. Free it after every env that names it. */
SAE_API void sae_pool_free(sae_pool *pool);

#ifdef __cplusplus
}
#endif
#endif
