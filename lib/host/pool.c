/* A pool for hosts that bring no threads. One run at a time; its tasks are claimed one by one from a counter, the caller works too.
 * Idle threads sleep on a condition: nothing spins in somebody else's process. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* CPU_COUNT, also where the sources are compiled without our Makefile */
#endif
#include <sched.h>

#include "host/host.h"

struct job {
    void *job;
    sae_task task; /* NULL between runs */
    uint32_t n;
    int processor; /* of the caller; -1 = unknown */
};

struct sae_pool {
    pthread_mutex_t one_run; /* held by the caller of a run */
    pthread_mutex_t mutex;   /* guards all below but `next` */
    pthread_cond_t work, idle;
    struct job job;
    _Atomic(uint64_t) next; /* first unclaimed task; 64 bits: threads that come too late count on */
    uint64_t round;         /* counts runs; a thread works once per round */
    uint32_t active;        /* threads inside the present round */
    bool stop;
    uint32_t n_threads; /* started: the caller is one worker more */
    struct worker {
        sae_pool *pool;
        pthread_t thread;
        uint32_t index;
    } workers[];
};

/* Takes tasks until none is left. The job is a copy, taken under the mutex: the pool's own may be cleared meanwhile. */
static void claim(_Atomic(uint64_t) *next, struct job job, uint32_t worker)
{
    for (;;) {
        const uint64_t i = atomic_fetch_add_explicit(next, 1, memory_order_relaxed);
        if (i >= job.n)
            return;
        job.task(job.job, (uint32_t)i, worker);
    }
}

#if defined(__linux__)

static int here(void)
{
    return sched_getcpu();
}

/* Leaves the caller's processor to the caller, if there is another: Linux wakes a thread where it slept, and takes tens of milliseconds to see
 * that two share a processor beside an idle one. */
static void step_aside(int processor)
{
    cpu_set_t all, rest;
    if (processor < 0 || here() != processor || sched_getaffinity(0, sizeof all, &all))
        return;
    rest = all;
    CPU_CLR((size_t)processor, &rest);
    if (CPU_COUNT(&rest) > 0 && sched_setaffinity(0, sizeof rest, &rest) == 0)
        (void)sched_setaffinity(0, sizeof all, &all); /* it stays where it is now */
}

#else

static int here(void)
{
    return -1;
}

static void step_aside(int processor)
{
    (void)processor;
}

#endif

static void *work(void *arg)
{
    struct worker *self = arg;
    sae_pool *pool = self->pool;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        while (!pool->stop && (pool->round == seen || !pool->job.task))
            pthread_cond_wait(&pool->work, &pool->mutex);
        if (pool->stop)
            break;
        seen = pool->round;
        pool->active++;
        const struct job job = pool->job;
        pthread_mutex_unlock(&pool->mutex);
        step_aside(job.processor);
        claim(&pool->next, job, self->index);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->active == 0)
            pthread_cond_signal(&pool->idle);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

int32_t sae_pool_run(void *user, void *job, sae_task task, uint32_t n)
{
    sae_pool *pool = user;
    pthread_mutex_lock(&pool->one_run);
    pthread_mutex_lock(&pool->mutex);
    const struct job mine = {job, task, n, here()};
    pool->job = mine;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    pool->round++;
    if (n > 1)
        pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    claim(&pool->next, mine, pool->n_threads);
    pthread_mutex_lock(&pool->mutex);
    pool->job.task = NULL; /* who wakes up late finds nothing to do */
    while (pool->active)
        pthread_cond_wait(&pool->idle, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
    pthread_mutex_unlock(&pool->one_run);
    return 0;
}

uint32_t sae_pool_threads(const sae_pool *pool)
{
    return pool ? pool->n_threads + 1 : 1;
}

void sae_pool_free(sae_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->mutex);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 0; i < pool->n_threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->idle);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->mutex);
    pthread_mutex_destroy(&pool->one_run);
    saei_host host = {0};
    saei_host_defaults(&host);
    saei_dealloc(&host, pool, sizeof *pool); /* the C library needs no size */
}

static bool init_sync(sae_pool *pool)
{
    if (pthread_mutex_init(&pool->one_run, NULL))
        return false;
    if (pthread_mutex_init(&pool->mutex, NULL))
        goto no_mutex;
    if (pthread_cond_init(&pool->work, NULL))
        goto no_work;
    if (pthread_cond_init(&pool->idle, NULL))
        goto no_idle;
    return true;
no_idle:
    pthread_cond_destroy(&pool->work);
no_work:
    pthread_mutex_destroy(&pool->mutex);
no_mutex:
    pthread_mutex_destroy(&pool->one_run);
    return false;
}

/* Processors this process may run on: taskset and cpusets count. */
static int processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

sae_status sae_pool_create(sae_pool **out, uint32_t n_threads, sae_error *err)
{
    enum { MAX_THREADS = 1024 };
    if (!out)
        return saei_fail(err, SAE_E_ARG, "sae_pool_create: out is NULL");
    *out = NULL;
    if (n_threads > MAX_THREADS)
        return saei_fail(err, SAE_E_ARG, "n_threads = %u, the most is %d", (unsigned)n_threads, MAX_THREADS);
    if (n_threads == 0) {
        const int available = processors();
        n_threads = available < 1 ? 1 : available > MAX_THREADS ? MAX_THREADS : (uint32_t)available;
    }
    saei_host host = {0};
    saei_host_defaults(&host);
    sae_pool *pool = saei_zalloc(&host, sizeof *pool + n_threads * sizeof *pool->workers);
    if (!pool)
        return saei_fail(err, SAE_E_NOMEM, "no memory for a pool of %u threads", (unsigned)n_threads);
    if (!init_sync(pool)) {
        saei_dealloc(&host, pool, sizeof *pool);
        return saei_fail(err, SAE_E_HOST, "the system gave no locks for a pool of threads");
    }
    for (uint32_t i = 0; i + 1 < n_threads; i++) {
        struct worker *w = pool->workers + i;
        *w = (struct worker){pool, 0, i};
        if (pthread_create(&w->thread, NULL, work, w)) {
            sae_pool_free(pool);
            return saei_fail(err, SAE_E_HOST, "the system gave %u of %u threads: ask for fewer", (unsigned)i, (unsigned)n_threads - 1);
        }
        pool->n_threads++;
    }
    *out = pool;
    return saei_ok(err);
}
