/* The host's own threads: libsae cuts its work into tasks, the host runs them where it likes. Shows that the codes are the same bits
 * whatever the number of threads: `host_threads`. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sae.h>

enum { D_IN = 128, D_SAE = 8192, N_ROWS = 32, K = 24, MOST_WORKERS = 4 };

/* One parallel-for: every worker takes the next task until none is left. */
typedef struct round_of_tasks {
    void *job;
    sae_task task;
    uint32_t n;
    atomic_uint next;
    atomic_uint workers; /* numbers given out so far */
} round_of_tasks;

static void *work(void *arg)
{
    round_of_tasks *t = arg;
    const uint32_t worker = atomic_fetch_add(&t->workers, 1);
    for (uint32_t i; (i = atomic_fetch_add(&t->next, 1)) < t->n;)
        t->task(t->job, i, worker);
    return NULL;
}

/* The sae_run_fn. An engine would hand the round to threads that already wait; this one starts them, which is slower and shorter. */
static int32_t run(void *user, void *job, sae_task task, uint32_t n)
{
    round_of_tasks t = {.job = job, .task = task, .n = n};
    pthread_t threads[MOST_WORKERS];
    uint32_t started = 0, wanted = *(const uint32_t *)user;
    while (started + 1 < wanted && started + 1 < n && !pthread_create(&threads[started], NULL, work, &t))
        started++;
    work(&t); /* the caller works too, so the round is done even if no thread could be had */
    while (started)
        pthread_join(threads[--started], NULL);
    return 0;
}

static float w_enc[D_SAE * D_IN], w_dec[D_SAE * D_IN], x[N_ROWS * D_IN];

typedef struct result {
    int64_t indptr[N_ROWS + 1];
    int32_t indices[N_ROWS * K];
    float values[N_ROWS * K];
} result;

static int encode(uint32_t n_workers, result *out)
{
    sae_env *env = NULL;
    sae_model *model = NULL;
    sae_ctx *ctx = NULL;
    sae_error err = {.struct_size = sizeof err};
    const sae_env_options opt = {.struct_size = sizeof opt, .run = run, .run_user = &n_workers, .max_workers = n_workers};
    const sae_weights weights = {.struct_size = sizeof weights,
                                 .arch = SAE_TOPK,
                                 .dtype = SAE_F32,
                                 .d_in = D_IN,
                                 .d_sae = D_SAE,
                                 .k = K,
                                 .flags = SAE_BORROW | SAE_W_ENC_BY_ROWS,
                                 .w_enc = w_enc,
                                 .w_dec = w_dec};
    const sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x, .n_rows = N_ROWS};
    sae_codes codes = {
        .struct_size = sizeof codes, .capacity = N_ROWS * K, .indptr = out->indptr, .indices = out->indices, .values = out->values};
    sae_status status = sae_env_create(&env, &opt, &err);
    if (!status)
        status = sae_model_create(&model, env, &weights, &err);
    if (!status)
        status = sae_ctx_create(&ctx, model, NULL, &err);
    if (status)
        fprintf(stderr, "host_threads: %s\n", err.text);
    else if ((status = sae_encode(ctx, &codes, &rows)))
        fprintf(stderr, "host_threads: %s\n", sae_ctx_error(ctx));
    sae_ctx_free(ctx);
    sae_model_free(model);
    sae_env_free(env);
    return status != SAE_OK;
}

int main(void)
{
    result *one = calloc(1, sizeof *one), *many = calloc(1, sizeof *many);
    uint32_t state = 1;
    if (!one || !many)
        return 1;
    for (size_t i = 0; i < D_SAE * D_IN; i++)
        w_enc[i] = w_dec[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0f - 0.5f;
    for (size_t i = 0; i < N_ROWS * D_IN; i++)
        x[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0f - 0.5f;
    if (encode(1, one))
        return 1;
    printf("1 worker: %" PRId64 " codes\n", one->indptr[N_ROWS]);
    for (uint32_t n = 2; n <= MOST_WORKERS; n++) {
        if (encode(n, many))
            return 1;
        printf("%" PRIu32 " workers: %s\n", n, memcmp(one, many, sizeof *one) ? "other bits" : "the same bits");
    }
    free(one);
    free(many);
    return 0;
}
