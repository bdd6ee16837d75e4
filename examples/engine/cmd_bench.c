/* engine bench: the time of a token in three sessions, taken in turn at every position, so that whatever else the machine does meets all. */
#define _POSIX_C_SOURCE 200809L

#include "show.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BARE, WATCHED, CLAMPED, N_KINDS, N_WATCH = 8, N_CLAMP = 4 };

static const char *const names[N_KINDS] = {"bare", "watch_8", "clamp_4"};

typedef struct bench {
    program *p;
    engine_session *session[N_KINDS];
    engine_sae *sae[N_KINDS];
    double *seconds[N_KINDS]; /* [repeats * positions] */
    int32_t n, positions;
} bench;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int32_t n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return x[n / 2];
}

/* Features 0, 1, 2, ...: which ones does not matter for the time. */
static bool open_kind(bench *b, int kind, engine_error *err)
{
    const options *o = &b->p->opt;
    int32_t watch[N_WATCH];
    engine_edit edits[N_CLAMP];
    for (int32_t i = 0; i < N_WATCH; i++)
        watch[i] = i;
    for (int32_t i = 0; i < N_CLAMP; i++)
        edits[i] = (engine_edit){.feature = i, .op = SAE_SET, .value = 1.0f};
    const engine_sae_options opt = {.path = o->sae,
                                    .hook_name = o->hook,
                                    .force = o->force,
                                    .watch = watch,
                                    .n_watch = kind == WATCHED ? N_WATCH : 0,
                                    .edits = edits,
                                    .n_edits = kind == CLAMPED ? N_CLAMP : 0};
    b->seconds[kind] = engine_take((size_t)o->repeats, (size_t)b->positions, 1, sizeof(double), err);
    if (!b->seconds[kind] || !engine_session_create(b->session + kind, b->p->model, 1, b->positions, 1, err))
        return false;
    return kind == BARE ||
           (engine_sae_create(b->sae + kind, b->p->model, &opt, err) && engine_sae_attach(b->sae[kind], b->session[kind], err));
}

static bool time_token(bench *b, int kind, int32_t position, float *logits, engine_error *err)
{
    const int32_t token = (position * 7 + 3) % b->p->model->shape.n_vocab, sequence = 0;
    const bool want = true;
    const engine_batch batch = {.n_rows = 1, .token = &token, .sequence = &sequence, .position = &position, .want = &want};
    const double began = now();
    if (!engine_step(b->session[kind], &batch, logits, err))
        return false;
    b->seconds[kind][b->n] = now() - began;
    return true;
}

/* Which kind goes first changes with the position. */
static bool measure(bench *b, float *logits, engine_error *err)
{
    for (int32_t repeat = 0; repeat < b->p->opt.repeats; repeat++)
        for (int32_t at = 0; at < b->positions; at++, b->n++)
            for (int turn = 0; turn < N_KINDS; turn++)
                if (!time_token(b, (turn + at) % N_KINDS, at, logits, err))
                    return false;
    return true;
}

/* The median of the differences at the same position, as a share of a bare token. */
static double overhead(const bench *b, int kind, double bare, double *scratch)
{
    for (int32_t i = 0; i < b->n; i++)
        scratch[i] = b->seconds[kind][i] - b->seconds[BARE][i];
    return median(scratch, b->n) / bare;
}

static bool report(bench *b, double *scratch, engine_error *err)
{
    double share[N_KINDS] = {0}, token[N_KINDS];
    memcpy(scratch, b->seconds[BARE], (size_t)b->n * sizeof *scratch);
    const double bare = median(scratch, b->n);
    for (int k = 1; k < N_KINDS; k++)
        share[k] = overhead(b, k, bare, scratch);
    for (int k = 0; k < N_KINDS; k++)
        token[k] = median(b->seconds[k], b->n);
    json_t *out = json_pack("{s:s, s:i, s:i}", "isa", sae_isa_name(sae_env_isa(b->p->host.env)), "threads", (int)b->p->host.n_workers,
                            "samples", (int)b->n);
    for (int k = 0; k < N_KINDS; k++)
        json_object_set_new(out, names[k], json_pack("{s:f, s:f}", "microseconds", 1e6 * token[k], "overhead", share[k]));
    if (b->p->opt.json)
        return show_json_object(out, err);
    json_decref(out);
    for (int k = 0; k < N_KINDS; k++)
        printf("%-8s %10.2f us a token  %+6.2f %%\n", names[k], 1e6 * token[k], 100 * share[k]);
    return true;
}

static bool run(bench *b, engine_error *err)
{
    const int32_t context = b->p->model->shape.context, wanted = b->p->opt.n_new ? b->p->opt.n_new : 1;
    b->positions = wanted < context ? wanted : context;
    for (int k = 0; k < N_KINDS; k++)
        if (!open_kind(b, k, err))
            return false;
    float *logits = engine_take((size_t)b->p->model->shape.n_vocab, 1, 1, sizeof *logits, err);
    double *scratch = logits ? engine_take((size_t)b->p->opt.repeats, (size_t)b->positions, 1, sizeof *scratch, err) : NULL;
    const bool ok = scratch && measure(b, logits, err) && report(b, scratch, err);
    free(logits);
    free(scratch);
    return ok;
}

bool cmd_bench(program *p, engine_error *err)
{
    bench b = {.p = p};
    const bool ok = program_open_model(p, err) && run(&b, err);
    for (int k = 0; k < N_KINDS; k++) {
        engine_session_free(b.session[k]);
        engine_sae_free(b.sae[k]);
        free(b.seconds[k]);
    }
    return ok;
}
