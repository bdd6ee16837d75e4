/* A small graph in a real ggml, run by its scheduler: the callback of sae/ggml.h, in place and copied, and that of sae/taps.h, which finds
 * ggml's functions by dlsym, must give what plain C gives. Prints "N passed, N failed". */
#include <dlfcn.h>
#include <stdlib.h>

#include <ggml.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <sae.h>
#include <sae/ggml.h>

enum { D = 32, N = 32, LAYERS = 4, OUTPUTS = 3, NODES = 64 };
enum { IN_PLACE, COPIED, BY_NAME, KINDS };

static const char *const kind_names[KINDS] = {"in place", "copied", "by dlsym"};
static const int32_t out_ids[OUTPUTS] = {2, 9, 31};
static int passed, failed;
static float weights[LAYERS][D * D], input[N * D], delta[D];

static void verdict(bool good, const char *what, int kind, int32_t layer, const char *said)
{
    passed += good;
    failed += !good;
    if (!good)
        printf("toy: %s, %s, layer %d: %s\n", what, kind_names[kind], (int)layer, said);
}

/* ---- the graph: l_out-N = l_out-(N-1) W + l_out-(N-1), the last for the rows with an output alone, as llama.cpp has it ---- */

typedef struct graph {
    ggml_backend_t backend;
    ggml_backend_sched_t sched;
    struct ggml_context *nodes, *leaves;
    struct ggml_cgraph *all;
    struct ggml_tensor *in, *ids, *out, *w[LAYERS];
    ggml_backend_buffer_t buffer;
} graph;

static struct ggml_tensor *named(struct ggml_tensor *t, const char *name)
{
    return ggml_set_name(t, name);
}

static void build(graph *g)
{
    const struct ggml_init_params params = {ggml_tensor_overhead() * NODES + ggml_graph_overhead(), NULL, true};
    g->backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(g->backend, 1);
    g->nodes = ggml_init(params);
    g->leaves = ggml_init(params);
    g->in = ggml_new_tensor_2d(g->nodes, GGML_TYPE_F32, D, N);
    g->ids = ggml_new_tensor_1d(g->nodes, GGML_TYPE_I32, OUTPUTS);
    ggml_set_input(g->in);
    ggml_set_input(g->ids);
    for (int l = 0; l < LAYERS; l++)
        g->w[l] = ggml_new_tensor_2d(g->leaves, GGML_TYPE_F32, D, D);
    g->buffer = ggml_backend_alloc_ctx_tensors(g->leaves, g->backend);
    for (int l = 0; l < LAYERS; l++)
        ggml_backend_tensor_set(g->w[l], weights[l], 0, sizeof weights[l]);
    g->all = ggml_new_graph(g->nodes);
    struct ggml_tensor *x = named(ggml_scale(g->nodes, g->in, 1.0f), "embd");
    for (int l = 0; l < LAYERS; l++) {
        if (l == LAYERS - 1)
            x = ggml_get_rows(g->nodes, x, g->ids);
        x = ggml_add(g->nodes, ggml_mul_mat(g->nodes, g->w[l], x), x);
        ggml_format_name(x, "l_out-%d", l);
        if (l == 1) { /* what cannot be steered, or is narrow */
            ggml_build_forward_expand(g->all, named(ggml_cast(g->nodes, x, GGML_TYPE_F16), "half-1"));
            ggml_build_forward_expand(g->all, named(ggml_cast(g->nodes, x, GGML_TYPE_Q8_0), "quant-1"));
            ggml_build_forward_expand(g->all, named(ggml_transpose(g->nodes, x), "turned-1"));
            ggml_build_forward_expand(g->all, named(ggml_reshape_3d(g->nodes, x, D, N / 2, 2), "cube-1"));
        }
    }
    ggml_set_output(x);
    ggml_build_forward_expand(g->all, x);
    g->out = x;
    g->sched = ggml_backend_sched_new(&g->backend, NULL, 1, NODES, false, true);
}

static void drop(graph *g)
{
    ggml_backend_sched_free(g->sched);
    ggml_backend_buffer_free(g->buffer);
    ggml_free(g->nodes);
    ggml_free(g->leaves);
    ggml_backend_free(g->backend);
}

static void run(graph *g, ggml_backend_sched_eval_callback callback, void *user, float *out)
{
    ggml_backend_sched_reset(g->sched);
    ggml_backend_sched_set_eval_callback(g->sched, callback, user);
    ggml_backend_sched_alloc_graph(g->sched, g->all);
    ggml_backend_tensor_set(g->in, input, 0, sizeof input);
    ggml_backend_tensor_set(g->ids, out_ids, 0, sizeof out_ids);
    ggml_backend_sched_graph_compute(g->sched, g->all);
    ggml_backend_tensor_get(g->out, out, 0, OUTPUTS * D * sizeof *out);
}

/* ---- plain C: delta added after layer `at` (-1 = to the input) to rows with slot 0; NULL = to all, at = LAYERS to none ---- */

static void judge(int32_t at, const int32_t *slot, float *out)
{
    for (int o = 0; o < OUTPUTS; o++) {
        double x[D], y[D];
        const int32_t row = out_ids[o];
        const bool edited = !slot || slot[row] == 0;
        for (int i = 0; i < D; i++)
            x[i] = (double)input[row * D + i] + (edited && at == -1 ? (double)delta[i] : 0);
        for (int l = 0; l < LAYERS; l++) {
            for (int i = 0; i < D; i++) {
                y[i] = x[i] + (edited && at == l ? (double)delta[i] : 0);
                for (int k = 0; k < D; k++)
                    y[i] += (double)weights[l][i * D + k] * x[k];
            }
            memcpy(x, y, sizeof x);
        }
        for (int i = 0; i < D; i++)
            out[o * D + i] = (float)x[i];
    }
}

static double far_from(const float *a, const float *b)
{
    double most = 0;
    for (int i = 0; i < OUTPUTS * D; i++)
        most = (double)a[i] - (double)b[i] > most ? (double)a[i] - (double)b[i] : most;
    for (int i = 0; i < OUTPUTS * D; i++)
        most = (double)b[i] - (double)a[i] > most ? (double)b[i] - (double)a[i] : most;
    return most;
}

/* ---- a run with a tap ---- */

typedef struct asked {
    const char *name;
    int32_t layer;
    const sae_plan *plan; /* NULL: rows are only copied */
    const int32_t *slot;
    int64_t described;
    void *rows;
} asked;

typedef struct told {
    sae_status status;
    sae_error err;
    int64_t hits, seen, edited, left;
    float out[OUTPUTS * D];
} told;

static void by_header(graph *g, const asked *a, bool copied, const int8_t *output, told *t)
{
    static unsigned char scratch[1 << 16];
    static float staging[3 * D];
    sae_ggml_tap tap = {.name = a->name, .layer = a->layer, .d = D, .plan = a->plan, .scratch = scratch, .rows = a->rows};
    sae_ggml gg = {.taps = &tap, .n_taps = 1, .n_layer = LAYERS, .staging = staging, .staging_bytes = sizeof staging, .copy = copied};
    const sae_ggml_batch batch = {.n_rows = a->described, .slot = a->slot, .output = output};
    tap.scratch_bytes = sizeof scratch;
    sae_ggml_begin(&gg, &batch);
    run(g, sae_ggml_eval, &gg, t->out);
    t->status = sae_ggml_end(&gg, &t->err);
    t->hits = tap.hits, t->seen = tap.rows_seen, t->edited = tap.rows_edited, t->left = tap.rows_left;
}

static bool taps_eval(struct ggml_tensor *t, bool ask, void *user)
{
    return sae_taps_eval(t, ask, user);
}

static void by_name(graph *g, const asked *a, const int8_t *output, sae_env *env, told *t)
{
    sae_taps *taps = NULL;
    const sae_tap tap = {
        .struct_size = sizeof tap, .layer = a->layer, .name = a->name, .plan = a->plan, .rows = a->rows, .max_rows = N, .d = D};
    const sae_taps_batch batch = {
        .struct_size = sizeof batch, .n_layer = LAYERS, .n_rows = a->described, .slot = a->slot, .output = output};
    if ((t->status = sae_taps_create(&taps, env, dlsym, RTLD_DEFAULT, &tap, 1, &t->err)))
        return;
    sae_taps_begin(taps, &batch, &t->err);
    run(g, taps_eval, taps, t->out);
    t->status = sae_taps_end(taps, &t->err);
    sae_tap_counts c = {.struct_size = sizeof c};
    sae_taps_count(taps, 0, &c);
    t->hits = c.hits, t->seen = c.rows_seen, t->edited = c.rows_edited, t->left = c.rows_left;
    sae_taps_free(taps);
}

static told tapped(graph *g, sae_env *env, int kind, const asked *a)
{
    int8_t output[N + 1] = {0};
    told t = {.err = {.struct_size = sizeof t.err}};
    for (int o = 0; o < OUTPUTS; o++)
        output[out_ids[o]] = 1;
    if (kind == BY_NAME)
        by_name(g, a, output, env, &t);
    else
        by_header(g, a, kind == COPIED, output, &t);
    return t;
}

/* ---- what must hold ---- */

static void edits(graph *g, sae_env *env, int kind, const sae_plan *plan, const float *bare)
{
    int32_t slot[N];
    float want[OUTPUTS * D];
    for (int r = 0; r < N; r++)
        slot[r] = r >= 5 && r < 20 ? 0 : -1;
    for (int32_t layer = -1; layer < LAYERS; layer++) {
        const bool last = layer == LAYERS - 1;
        const asked all = {layer < 0 ? "embd" : "l_out", layer, plan, NULL, N, NULL}, some = {all.name, layer, plan, slot, N, NULL};
        told t = tapped(g, env, kind, &all);
        judge(layer, NULL, want);
        verdict(t.status == SAE_OK && far_from(t.out, want) < 1e-4 && far_from(t.out, bare) > 0.1, "all rows", kind, layer, t.err.text);
        verdict(t.hits == 1 && t.edited == (last ? OUTPUTS : N) && t.left == 0, "its counts", kind, layer, "");
        t = tapped(g, env, kind, &some);
        judge(layer, slot, want);
        verdict(t.status == SAE_OK && far_from(t.out, want) < 1e-4, "a window of rows", kind, layer, t.err.text);
        verdict(memcmp(t.out, bare, D * sizeof *bare) == 0 && memcmp(t.out + D, bare + D, D * sizeof *bare) != 0 &&
                    memcmp(t.out + 2 * D, bare + 2 * D, D * sizeof *bare) == 0,
                "rows outside keep their bits", kind, layer, "");
        verdict(t.edited == (last ? 1 : 15) && t.left == (last ? 2 : 17), "its counts", kind, layer, "");
    }
}

static void reads(graph *g, sae_env *env, int kind, const float *bare)
{
    float rows[N * D] = {0};
    const asked embd = {"embd", -1, NULL, NULL, N, rows};
    told t = tapped(g, env, kind, &embd);
    verdict(t.status == SAE_OK && memcmp(rows, input, sizeof rows) == 0, "rows as they come", kind, -1, t.err.text);
    verdict(memcmp(t.out, bare, sizeof t.out) == 0, "reading changes no bit", kind, -1, "");
    const asked half = {"half", 1, NULL, NULL, N, rows};
    t = tapped(g, env, kind, &half);
    verdict(t.status == SAE_OK && t.seen == N, "f16 rows", kind, 1, t.err.text);
}

static void refusals(graph *g, sae_env *env, int kind, const sae_plan *plan, const float *bare)
{
    static const struct {
        const char *name, *says;
        sae_status status;
        int64_t described;
    } bad[] = {
        {"quant", "quant-1 has ggml type 8: rows of f32, f16 and bf16 can be steered", SAE_E_UNSUPPORTED, N},
        {"turned", "turned-1 is not laid out by rows", SAE_E_UNSUPPORTED, N},
        {"cube", "cube-1 has 2 matrices of rows", SAE_E_UNSUPPORTED, N},
        {"l_owt", "l_owt of layer 1 came with 0 of the batch's 32 rows", SAE_E_ARG, N},
        {"l_out", "l_out-1 came with 32 rows where 31 are left", SAE_E_SHAPE, N - 1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const asked a = {bad[i].name, 1, plan, NULL, bad[i].described, NULL};
        const told t = tapped(g, env, kind, &a);
        verdict(t.status == bad[i].status && strstr(t.err.text, bad[i].says), bad[i].says, kind, 1, t.err.text);
        verdict(memcmp(t.out, bare, sizeof t.out) == 0, "the graph goes on as it was", kind, 1, bad[i].name);
    }
}

/* What is made for other rows than its tap is refused before the graph runs. */
static void widths(sae_env *env, const sae_plan *plan)
{
    static const int32_t feature = 0;
    static float w[D * D];
    const sae_weights weights_of = {.struct_size = sizeof weights_of,
                                    .dtype = SAE_F32,
                                    .arch = SAE_STANDARD,
                                    .d_in = D,
                                    .d_sae = D,
                                    .d_out = D,
                                    .w_enc = w,
                                    .w_dec = w};
    sae_error err = {.struct_size = sizeof err};
    sae_model *model = NULL;
    sae_probe *probe = NULL;
    if (sae_model_create(&model, env, &weights_of, &err) || sae_probe_create(&probe, model, &feature, 1, &err))
        verdict(false, "a model", 0, 0, err.text);
    const struct {
        sae_ggml_tap tap;
        const char *says;
    } bad[] = {
        {{.name = "l_out", .layer = 1, .d = D / 2, .plan = plan},
         "l_out of layer 1 is tapped for rows of 16 elements, its plan is for rows of 32"},
        {{.name = "l_out", .layer = 1, .d = D / 2, .probe = probe, .n_features = 1}, "16 elements, its probe is for rows of 32"},
        {{.name = "l_out", .layer = 1, .d = D, .probe = probe, .n_features = 2}, "n_features = 2, its probe has 1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sae_ggml_tap tap = bad[i].tap;
        sae_ggml gg = {.taps = &tap, .n_taps = 1, .n_layer = LAYERS};
        const sae_ggml_batch batch = {.n_rows = N};
        verdict(sae_ggml_begin(&gg, &batch) == SAE_E_SHAPE && strstr(gg.err.text, bad[i].says), bad[i].says, 0, 1, gg.err.text);
    }
    sae_probe_free(probe);
    sae_model_free(model);
}

static void fill(float *x, size_t n, float scale, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = ((float)(seed >> 8) / 8388608.0f - 1) * scale;
    }
}

int main(void)
{
    static graph g;
    float bare[OUTPUTS * D], want[OUTPUTS * D];
    sae_env *env = NULL;
    sae_plan *plan = NULL;
    sae_error err = {.struct_size = sizeof err};
    for (uint32_t l = 0; l < LAYERS; l++)
        fill(weights[l], D * D, 0.125f, l);
    fill(input, N * D, 1, 50);
    fill(delta, D, 1, 51);
    const sae_edit edit = {.struct_size = sizeof edit, .op = SAE_ADD, .value = 1, .vector = delta};
    if (sae_env_create(&env, NULL, &err) || sae_plan_compile(&plan, env, D, 1, &edit, 1, &err))
        return puts(err.text), 1;
    build(&g);
    run(&g, NULL, NULL, bare);
    judge(LAYERS, NULL, want);
    verdict(far_from(bare, want) < 1e-4, "no callback", 0, LAYERS, "ggml and plain C differ");
    for (int kind = 0; kind < KINDS; kind++) {
        edits(&g, env, kind, plan, bare);
        reads(&g, env, kind, bare);
        refusals(&g, env, kind, plan, bare);
    }
    widths(env, plan);
    drop(&g);
    sae_plan_free(plan);
    sae_env_free(env);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
