/* The Nth allocation, map, open or read fails, N = 1 .. until none failed, once and for good: the right status and sentence, *out NULL, nothing
 * left behind. First with the host's own hooks, then with the C library's functions replaced under the library (this program is linked with
 * the archive, so its definitions come first). And compute calls call none of them. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/support.h"
#include "support/run.h"

/* ---- the functions that are replaced ---- */

enum { MALLOC, CALLOC, REALLOC, POSIX_MEMALIGN, ALIGNED_ALLOC, FREE, MMAP, MUNMAP, OPEN, CLOSE, FSTAT, PREAD, READ, THREAD, LOCK, N_CALLS };

static const char *const call_names[] = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc",
                                         "free",   "mmap",   "munmap",  "open",           "close",
                                         "fstat",  "pread",  "read",    "pthread_create", "pthread_mutex_lock"};

/* What a failure of each must become; 0 = it does not fail. */
static const sae_status becomes[N_CALLS] = {[MALLOC] = SAE_E_NOMEM,
                                            [CALLOC] = SAE_E_NOMEM,
                                            [REALLOC] = SAE_E_NOMEM,
                                            [POSIX_MEMALIGN] = SAE_E_NOMEM,
                                            [ALIGNED_ALLOC] = SAE_E_NOMEM,
                                            [MMAP] = SAE_E_IO,
                                            [OPEN] = SAE_E_IO,
                                            [FSTAT] = SAE_E_IO,
                                            [PREAD] = SAE_E_IO,
                                            [READ] = SAE_E_IO,
                                            [THREAD] = SAE_E_HOST};

enum { FAILS = 0, IS_INTERRUPTED = 1, IS_SHORT = 2 };

/* While it is armed, calls are counted and may fail. */
static struct {
    atomic_bool armed;
    atomic_bool persistent;
    atomic_int how;
    atomic_long calls, fail_at; /* of those that can fail; -1 = none fails */
    atomic_int first_failed;    /* which function, -1 = none */
    atomic_long count[N_CALLS];
    atomic_long live_blocks, live_maps, live_fds;
} trap;

static void *next_function(int call)
{
    static _Atomic(void *) found[N_CALLS];
    void *f = atomic_load(found + call);
    if (!f) {
        f = dlsym(RTLD_NEXT, call_names[call]);
        atomic_store(found + call, f);
    }
    return f;
}

/* The C library's function of that name, as `next`. */
#define NEXT(call, function)           \
    __typeof__(function) *next;        \
    void *next_ = next_function(call); \
    memcpy(&next, &next_, sizeof next)

static bool armed(void)
{
    return atomic_load_explicit(&trap.armed, memory_order_relaxed);
}

/* Counts a call; true when it is to fail. */
static bool fails(int call)
{
    if (!armed())
        return false;
    atomic_fetch_add(trap.count + call, 1);
    if (!becomes[call])
        return false;
    const long number = atomic_fetch_add(&trap.calls, 1), at = atomic_load(&trap.fail_at);
    if (at < 0 || number < at || (number > at && !atomic_load(&trap.persistent)))
        return false;
    int none = -1;
    atomic_compare_exchange_strong(&trap.first_failed, &none, call);
    return true;
}

static void *given(void *p)
{
    if (p && armed())
        atomic_fetch_add(&trap.live_blocks, 1);
    return p;
}

static void *refuse_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t bytes)
{
    NEXT(MALLOC, malloc);
    return fails(MALLOC) ? refuse_memory() : given(next(bytes));
}

void *calloc(size_t n, size_t each)
{
    NEXT(CALLOC, calloc);
    return fails(CALLOC) ? refuse_memory() : given(next(n, each));
}

void *realloc(void *p, size_t bytes)
{
    NEXT(REALLOC, realloc);
    if (fails(REALLOC))
        return refuse_memory();
    void *q = next(p, bytes);
    return p ? q : given(q);
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    NEXT(POSIX_MEMALIGN, posix_memalign);
    if (fails(POSIX_MEMALIGN))
        return ENOMEM;
    const int rc = next(out, align, bytes);
    if (!rc)
        (void)given(*out);
    return rc;
}

void *aligned_alloc(size_t align, size_t bytes)
{
    NEXT(ALIGNED_ALLOC, aligned_alloc);
    return fails(ALIGNED_ALLOC) ? refuse_memory() : given(next(align, bytes));
}

void free(void *p)
{
    NEXT(FREE, free);
    if (p && armed()) {
        atomic_fetch_add(trap.count + FREE, 1);
        atomic_fetch_sub(&trap.live_blocks, 1);
    }
    next(p);
}

void *mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    NEXT(MMAP, mmap);
    if (fails(MMAP)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    void *p = next(at, bytes, prot, flags, fd, offset);
    if (p != MAP_FAILED && armed())
        atomic_fetch_add(&trap.live_maps, 1);
    return p;
}

int munmap(void *at, size_t bytes)
{
    NEXT(MUNMAP, munmap);
    if (armed()) {
        atomic_fetch_add(trap.count + MUNMAP, 1);
        atomic_fetch_sub(&trap.live_maps, 1);
    }
    return next(at, bytes);
}

int open(const char *path, int flags, ...)
{
    NEXT(OPEN, open);
    va_list args;
    va_start(args, flags);
    const int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    if (fails(OPEN)) {
        errno = atomic_load(&trap.how) ? EINTR : EMFILE;
        return -1;
    }
    const int fd = next(path, flags, mode);
    if (fd >= 0 && armed())
        atomic_fetch_add(&trap.live_fds, 1);
    return fd;
}

int close(int fd)
{
    NEXT(CLOSE, close);
    if (armed()) {
        atomic_fetch_add(trap.count + CLOSE, 1);
        atomic_fetch_sub(&trap.live_fds, 1);
    }
    return next(fd);
}

int fstat(int fd, struct stat *st)
{
    NEXT(FSTAT, fstat);
    if (!fails(FSTAT))
        return next(fd, st);
    errno = EIO;
    return -1;
}

ssize_t pread(int fd, void *to, size_t bytes, off_t offset)
{
    NEXT(PREAD, pread);
    if (!fails(PREAD))
        return next(fd, to, bytes, offset);
    if (atomic_load(&trap.how) == IS_SHORT)
        return next(fd, to, bytes > 1 ? bytes / 2 : bytes, offset);
    errno = atomic_load(&trap.how) ? EINTR : EIO;
    return -1;
}

ssize_t read(int fd, void *to, size_t bytes)
{
    NEXT(READ, read);
    if (!fails(READ))
        return next(fd, to, bytes);
    errno = EIO;
    return -1;
}

int pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*start)(void *), void *arg)
{
    NEXT(THREAD, pthread_create);
    return fails(THREAD) ? EAGAIN : next(out, attr, start, arg);
}

int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    NEXT(LOCK, pthread_mutex_lock);
    (void)fails(LOCK);
    return next(mutex);
}

static void arm(long fail_at, bool persistent, int how)
{
    for (int i = 0; i < N_CALLS; i++)
        atomic_store(trap.count + i, 0);
    atomic_store(&trap.calls, 0);
    atomic_store(&trap.live_blocks, 0);
    atomic_store(&trap.live_maps, 0);
    atomic_store(&trap.live_fds, 0);
    atomic_store(&trap.first_failed, -1);
    atomic_store(&trap.fail_at, fail_at);
    atomic_store(&trap.persistent, persistent);
    atomic_store(&trap.how, how);
    atomic_store(&trap.armed, true);
}

static void disarm(void)
{
    atomic_store(&trap.armed, false);
}

static long allocations(void)
{
    long n = 0;
    for (int i = MALLOC; i <= ALIGNED_ALLOC; i++)
        n += atomic_load(trap.count + i);
    return n;
}

/* ---- what is made ---- */

#define GOLDEN "tests/golden/saelens/"
enum { D = 24, N = 1700, ROWS = 9 };

/* Parents that exist before the torture begins. */
typedef struct parents {
    sae_env *env;
    planted plain, gated, topk;
    sae_model *memory, *selecting, *file; /* file: mapped, d = 16 or so */
    sae_info file_info;
} parents;

static sae_error err;

static parents parents_make(heap *h, sae_run_fn run, void *user, uint32_t workers)
{
    parents f = {.env = env_make(h, SAE_ISA_AUTO, run, user, workers), .file_info = {.struct_size = sizeof(sae_info)}};
    planted_make(&f.plain, (sae_weights){.arch = SAE_JUMPRELU, .dtype = SAE_F16, .d_in = D, .d_sae = N}, 1);
    planted_make(&f.gated, (sae_weights){.arch = SAE_GATED, .dtype = SAE_F32, .d_in = D, .d_sae = N, .flags = SAE_W_DEC_BY_COLS}, 1);
    planted_make(&f.topk,
                 (sae_weights){
                     .arch = SAE_TOPK, .dtype = SAE_BF16, .d_in = D, .d_sae = N, .k = 7, .flags = SAE_RESCALE_BY_DECODER_NORM | SAE_BORROW},
                 1);
    f.memory = planted_model(&f.plain, f.env);
    f.selecting = planted_model(&f.topk, f.env);
    ACCEPTED(sae_model_open(&f.file, f.env, GOLDEN "jumprelu_f32", NULL, &err));
    ck_assert_int_eq(sae_model_info(f.file, &f.file_info), SAE_OK);
    return f;
}

static void parents_free(parents *f)
{
    sae_model_free(f->memory);
    sae_model_free(f->selecting);
    sae_model_free(f->file);
    sae_env_free(f->env);
    planted_free(&f->plain);
    planted_free(&f->gated);
    planted_free(&f->topk);
}

typedef sae_status (*constructor)(void **out, const parents *f);

static heap *hooks; /* of the env that `make_env` makes; NULL = the C library */

static sae_status make_env(void **out, const parents *f)
{
    sae_env *env = NULL;
    sae_env_options opt = {.struct_size = sizeof opt};
    (void)f;
    if (hooks) {
        opt.alloc = heap_alloc;
        opt.dealloc = heap_free;
        opt.alloc_user = hooks;
    }
    const sae_status status = sae_env_create(&env, &opt, &err);
    *out = env;
    return status;
}

static void free_env(void *p)
{
    sae_env_free(p);
}

static sae_status make_model(void **out, const parents *f, const planted *p)
{
    sae_model *model = NULL;
    const sae_status status = sae_model_create(&model, f->env, &p->weights, &err);
    *out = model;
    return status;
}

static sae_status make_plain(void **out, const parents *f)
{
    return make_model(out, f, &f->plain);
}

static sae_status make_gated(void **out, const parents *f)
{
    return make_model(out, f, &f->gated);
}

static sae_status make_topk(void **out, const parents *f)
{
    return make_model(out, f, &f->topk);
}

/* A model and its packed forms: what failed halfway can be asked for again. */
static sae_status make_prepared(void **out, const parents *f)
{
    sae_model *model = NULL;
    const sae_status made = sae_model_create(&model, f->env, &f->gated.weights, &err);
    const sae_status status = made ? made : sae_model_prepare(model, SAE_PREPARE_ROWS | SAE_PREPARE_PANELS | SAE_PREPARE_SCREEN, &err);
    if (!made && status) {
        sae_model_free(model);
        model = NULL;
    }
    *out = model;
    return status;
}

static sae_status open_file(void **out, const parents *f, const char *path, const sae_open_options *opt)
{
    sae_model *model = NULL;
    const sae_status status = sae_model_open(&model, f->env, path, opt, &err);
    *out = model;
    return status;
}

static const sae_open_options copied = {.struct_size = sizeof copied, .copy = SAE_YES, .check = SAE_YES};
static const sae_open_options named = {.struct_size = sizeof named, .architecture = "standard", .normalize_activations = "layer_norm"};

static sae_status open_mapped(void **out, const parents *f)
{
    return open_file(out, f, GOLDEN "jumprelu_f32", NULL);
}

static sae_status open_copied(void **out, const parents *f)
{
    return open_file(out, f, GOLDEN "jumprelu_f32", &copied);
}

static sae_status open_gated(void **out, const parents *f)
{
    return open_file(out, f, GOLDEN "gated/sae_weights.safetensors", NULL);
}

static sae_status open_rescaled(void **out, const parents *f)
{
    return open_file(out, f, GOLDEN "topk_rescale_by_decoder_norm", &copied);
}

static sae_status open_warned(void **out, const parents *f)
{
    return open_file(out, f, GOLDEN "jumprelu_expected_average_only_in", NULL);
}

static sae_status open_named(void **out, const parents *f)
{
    return open_file(out, f, GOLDEN "standard_bf16", &named);
}

static void free_model(void *p)
{
    sae_model_free(p);
}

static sae_status make_ctx(void **out, const parents *f)
{
    sae_ctx *ctx = NULL;
    const sae_status status = sae_ctx_create(&ctx, f->memory, NULL, &err);
    *out = ctx;
    return status;
}

static void free_ctx(void *p)
{
    sae_ctx_free(p);
}

static const int32_t features[40] = {3, 1, 2, 3};

static sae_status make_probe_of(void **out, sae_model *model, int64_t n)
{
    sae_probe *probe = NULL;
    const sae_status status = sae_probe_create(&probe, model, features, n, &err);
    *out = probe;
    return status;
}

static sae_status make_probe(void **out, const parents *f)
{
    return make_probe_of(out, f->memory, 17);
}

static sae_status make_probe_of_file(void **out, const parents *f) /* element by element */
{
    return make_probe_of(out, f->file, 3);
}

static sae_status make_wide_probe_of_file(void **out, const parents *f) /* row by row */
{
    return make_probe_of(out, f->file, f->file_info.d_sae < 40 ? f->file_info.d_sae : 40);
}

static void free_probe(void *p)
{
    sae_probe_free(p);
}

static sae_status make_plan(void **out, const parents *f)
{
    static float vector[D];
    const sae_edit edits[] = {
        {.struct_size = sizeof *edits, .op = SAE_SET, .value = 1.0f, .model = f->memory, .feature = 5},
        {.struct_size = sizeof *edits, .slot = 1, .op = SAE_MIN, .value = 1.0f, .vector = vector},
        {.struct_size = sizeof *edits, .slot = 1, .op = SAE_SCALE, .value = 2.0f, .model = f->selecting, .feature = 9},
        {.struct_size = sizeof *edits, .slot = 1, .op = SAE_ADD, .value = 2.0f, .vector = vector}};
    sae_plan *plan = NULL;
    vector[3] = 1.0f;
    const sae_status status = sae_plan_compile(&plan, f->env, D, 2, edits, LENGTH(edits), &err);
    *out = plan;
    return status;
}

static sae_status make_plan_of_file(void **out, const parents *f)
{
    const sae_edit edits[] = {{.struct_size = sizeof *edits, .op = SAE_SET, .value = 1.0f, .model = f->file, .feature = 1},
                              {.struct_size = sizeof *edits, .op = SAE_ABLATE, .model = f->file, .feature = 2}};
    sae_plan *plan = NULL;
    const sae_status status = sae_plan_compile(&plan, f->env, f->file_info.d_in, 1, edits, LENGTH(edits), &err);
    *out = plan;
    return status;
}

static void free_plan(void *p)
{
    sae_plan_free(p);
}

static sae_status make_index(void **out, const parents *f)
{
    sae_index *index = NULL;
    const sae_status status = sae_index_create(&index, f->selecting, SAE_BY_DECODER, &err);
    *out = index;
    return status;
}

static void free_index(void *p)
{
    sae_index_free(p);
}

static sae_status make_gemm(void **out, const parents *f)
{
    static const float bias[N];
    const sae_gemm_weights w = {
        .struct_size = sizeof w, .dtype = f->topk.weights.dtype, .w = f->topk.weights.w_dec, .bias = bias, .n_out = N, .n_in = D};
    sae_gemm *gemm = NULL;
    const sae_status status = sae_gemm_pack(&gemm, f->env, &w, SAE_GEMM_NATIVE, &err);
    *out = gemm;
    return status;
}

static void free_gemm(void *p)
{
    sae_gemm_free(p);
}

static sae_status make_pool(void **out, const parents *f)
{
    sae_pool *pool = NULL;
    (void)f;
    const sae_status status = sae_pool_create(&pool, 3, &err);
    *out = pool;
    return status;
}

static void free_pool(void *p)
{
    sae_pool_free(p);
}

/* One checkpoint of every format: `FORMAT(name, folder below tests/golden, layer)`. */
#define FORMATS(X)                                                                                             \
    X(transcoder, "saelens/jumprelu_skip_transcoder", NULL)                                                    \
    X(matching_pursuit, "saelens/matching_pursuit", NULL)                                                      \
    X(temporal_saelens, "saelens/temporal", NULL)                                                              \
    X(gemma_scope, "gemma_scope/res_stored/layer_20/width_16k/average_l0_71", NULL)                            \
    X(gemma_scope_deflated, "gemma_scope/res_lowercase_deflated/layer_9/width_131k/average_l0_121", NULL)      \
    X(gemma_scope_embedding, "gemma_scope/embedding_scaled/embedding/width_4k/average_l0_6", NULL)             \
    X(gemma_scope_2, "gemma_scope_2/transcoder_affine/transcoder_all/layer_7_width_16k_l0_small_affine", NULL) \
    X(gemma_scope_2_clt, "gemma_scope_2/clt/clt/width_262k_l0_medium", NULL)                                   \
    X(autoencoder, "dictionary_learning/AutoEncoder/trainer_0", NULL)                                          \
    X(autoencoder_legacy, "dictionary_learning/AutoEncoder_legacy_torch_file/trainer_0", NULL)                 \
    X(autoencoder_topk, "dictionary_learning/AutoEncoderTopK/trainer_0", NULL)                                 \
    X(gated_autoencoder, "dictionary_learning/GatedAutoEncoder/trainer_0", NULL)                               \
    X(matryoshka, "dictionary_learning/MatryoshkaBatchTopKSAE/trainer_0", NULL)                                \
    X(crosscoder, "crosscoder_learning/BatchTopKCrossCoder_pt_normalized", NULL)                               \
    X(sparsify, "sparsify/skip_transcoder/layers.3.mlp", NULL)                                                 \
    X(sparsify_layer, "sparsify/groupmax", "3")                                                                \
    X(openai, "openai/topk_layer_norm_as_written/resid_post_mlp_v5_32k/autoencoders", NULL)                    \
    X(goodfire, "goodfire/l19_pth", NULL)                                                                      \
    X(deepseek, "deepseek_r1/l19_bf16", NULL)                                                                  \
    X(apollo, "apollo_e2e/sae", NULL)                                                                          \
    X(transformer_lens, "connor_rob_hook_z/layer2", NULL)                                                      \
    X(llama_scope, "llama_scope/L15R_8x_bf16", NULL)                                                           \
    X(llama_scope_r1, "llama_scope_r1_distill/L15R/400M-Slimpajama-400M-OpenR1-Math-220k/L15R", NULL)          \
    X(llamascopium, "llamascopium/sae_jumprelu_dataset_wise_transcoder", NULL)                                 \
    X(llamascopium_topk, "llamascopium/sae_topk_dataset_wise", NULL)                                           \
    X(llamascopium_crosscoder, "llamascopium/crosscoder_relu", NULL)                                           \
    X(llamascopium_clt, "llamascopium/clt_jumprelu", NULL)                                                     \
    X(circuit_tracer, "circuit_tracer/plt_relu_skip", "1")                                                     \
    X(circuit_tracer_clt, "circuit_tracer/clt_jumprelu", NULL)                                                 \
    X(circuit_tracer_clt_layer, "circuit_tracer/clt_jumprelu", "1")                                            \
    X(temporal, "temporal/layer12_topk/layer_12/temporal", NULL)

#define OPEN_FORMAT(name, folder, number)                                                             \
    static sae_status open_##name(void **out, const parents *f)                                       \
    {                                                                                                 \
        const sae_open_options opt = {.struct_size = sizeof opt, .layer = number};                    \
        sae_model *model = NULL;                                                                      \
        const sae_status status = sae_model_open(&model, f->env, "tests/golden/" folder, &opt, &err); \
        *out = model;                                                                                 \
        return status;                                                                                \
    }
FORMATS(OPEN_FORMAT)

static const struct {
    const char *name;
    constructor make;
    void (*release)(void *);
    int least;                                /* calls that can fail, at least: the torture must reach something */
} all[] = {{"pool", make_pool, free_pool, 3}, /* has no hooks: the first is for the C library alone */
           {"env", make_env, free_env, 1},
           {"model", make_plain, free_model, 6},
           {"gated model", make_gated, free_model, 8},
           {"top-k model", make_topk, free_model, 3},
           {"prepared model", make_prepared, free_model, 10},
           {"mapped file", open_mapped, free_model, 10},
           {"copied file", open_copied, free_model, 10},
           {"gated file", open_gated, free_model, 10},
           {"top-k file", open_rescaled, free_model, 10},
           {"file with warnings", open_warned, free_model, 10},
           {"file with options", open_named, free_model, 10},
           {"ctx", make_ctx, free_ctx, 1},
           {"probe", make_probe, free_probe, 5},
           {"probe of a file", make_probe_of_file, free_probe, 5},
           {"wide probe of a file", make_wide_probe_of_file, free_probe, 5},
           {"plan", make_plan, free_plan, 10},
           {"plan of a file", make_plan_of_file, free_plan, 5},
           {"index", make_index, free_index, 1},
           {"packed matrix", make_gemm, free_gemm, 1},
#define LIST_FORMAT(name, folder, number) {#name, open_##name, free_model, 10},
           FORMATS(LIST_FORMAT)};

/* libyaml takes memory of its own. */
static bool reads_yaml(const char *name)
{
    return strncmp(name, "circuit_tracer", strlen("circuit_tracer")) == 0 || strcmp(name, "temporal") == 0;
}

static void *const marker = &err;

static sae_status try_once(void **out, const parents *f, int which)
{
    *out = marker;
    err = (sae_error){.struct_size = sizeof err, .text = "untouched"};
    return all[which].make(out, f);
}

/* ---- the host's hooks fail ---- */

START_TEST(hooks_fail)
{
    enum { LIMIT = 1000 };
    heap h;
    heap_init(&h);
    parents f = parents_make(&h, NULL, NULL, 0);
    hooks = &h;
    for (int persistent = 0; persistent < 2; persistent++) {
        const long live = atomic_load(&h.live_blocks);
        long n = 0;
        for (bool failed = true; failed; n++) {
            void *out;
            ck_assert_int_lt(n, LIMIT);
            atomic_store(&h.failed, 0);
            atomic_store(&h.persistent, persistent);
            const long asked = atomic_load(&h.asked);
            atomic_store(&h.fail_at, asked + n);
            arm(-1, false, FAILS);
            const sae_status status = try_once(&out, &f, _i);
            disarm();
            atomic_store(&h.fail_at, -1);
            const long past = allocations() - (atomic_load(&h.asked) - asked - atomic_load(&h.failed)); /* our hook takes from malloc */
            ck_assert_msg(past == 0 || reads_yaml(all[_i].name), "%s: %ld allocations went past the hooks", all[_i].name, past);
            failed = atomic_load(&h.failed) > 0;
            if (failed) {
                ck_assert_msg(status == SAE_E_NOMEM, "%s, allocation %ld: %s, %s", all[_i].name, n, sae_status_name(status), err.text);
                ck_assert_msg(strstr(err.text, "no memory") && err.status == SAE_E_NOMEM, "%s, allocation %ld: %s", all[_i].name, n,
                              err.text);
                ck_assert_ptr_null(out);
            } else {
                ck_assert_msg(status == SAE_OK && !*err.text, "%s: %s", all[_i].name, err.text);
                ck_assert(out && out != marker);
                all[_i].release(out);
            }
            ck_assert_msg(atomic_load(&h.live_blocks) == live, "%s, allocation %ld: %ld blocks are left behind", all[_i].name, n,
                          atomic_load(&h.live_blocks) - live);
        }
        ck_assert_int_gt(n, 1);
    }
    parents_free(&f);
    ck_assert_int_eq(atomic_load(&h.live_blocks), 0);
}
END_TEST

/* ---- the C library fails ---- */

START_TEST(system_fails)
{
    enum { LIMIT = 20000 };
    const bool counts_memory = all[_i].make != make_pool; /* starting threads, the C library keeps memory for the next ones */
    parents f = parents_make(NULL, NULL, NULL, 0);
    hooks = NULL;
    for (int persistent = 0; persistent < 2; persistent++) {
        long n = 0;
        for (int failed = 0; failed >= 0; n++) {
            void *out;
            ck_assert_int_lt(n, LIMIT);
            arm(n, persistent, FAILS);
            const sae_status status = try_once(&out, &f, _i);
            failed = atomic_load(&trap.first_failed);
            const bool made = !status && out && out != marker;
            if (made)
                all[_i].release(out);
            disarm();
            if (failed < 0) {
                ck_assert_msg(made && !*err.text, "%s: %s", all[_i].name, err.text);
            } else {
                /* a thread's own memory is the C library's business: no thread */
                const sae_status want = !counts_memory && failed != POSIX_MEMALIGN ? SAE_E_HOST : becomes[failed];
                ck_assert_msg(status == want, "%s, call %ld (%s): %s, %s", all[_i].name, n, call_names[failed], sae_status_name(status),
                              err.text);
                ck_assert_msg(strcmp(err.text, "untouched") && *err.text, "%s, call %ld (%s) has no sentence", all[_i].name, n,
                              call_names[failed]);
                ck_assert_ptr_null(out);
            }
            ck_assert_msg(!counts_memory || atomic_load(&trap.live_blocks) == 0, "%s, call %ld: %ld blocks are left behind", all[_i].name,
                          n, atomic_load(&trap.live_blocks));
            ck_assert_msg(atomic_load(&trap.live_maps) == 0 && atomic_load(&trap.live_fds) == 0,
                          "%s, call %ld: %ld maps and %ld files are left open", all[_i].name, n, atomic_load(&trap.live_maps),
                          atomic_load(&trap.live_fds));
        }
        ck_assert_msg(n > all[_i].least, "%s: only %ld calls could fail", all[_i].name, n);
    }
    parents_free(&f);
}
END_TEST

/* Signals interrupt, and reads give less than was asked for: nobody notices. */
START_TEST(system_stutters)
{
    parents f = parents_make(NULL, NULL, NULL, 0);
    for (int how = IS_INTERRUPTED; how <= IS_SHORT; how++) {
        int failed = 0;
        for (long n = 0; failed >= 0; n++) {
            void *out;
            /* only calls that can stutter may: the others would fail in earnest */
            arm(-1, false, how);
            sae_status status = try_once(&out, &f, _i);
            const long preads = atomic_load(trap.count + PREAD), opens = atomic_load(trap.count + OPEN);
            if (!status)
                all[_i].release(out);
            disarm();
            ck_assert_int_eq(status, SAE_OK);
            if (!preads && !opens)
                break;
            arm(n, false, how);
            status = try_once(&out, &f, _i);
            failed = atomic_load(&trap.first_failed);
            if (!status)
                all[_i].release(out);
            disarm();
            if (failed == PREAD || (failed == OPEN && how == IS_INTERRUPTED))
                ck_assert_msg(status == SAE_OK, "%s, call %ld (%s): %s", all[_i].name, n, call_names[failed], err.text);
        }
    }
    parents_free(&f);
}
END_TEST

/* ---- compute calls ask for nothing ---- */

static void use_all(const parents *f, sae_model *model, int32_t d, int64_t d_sae)
{
    float *x = calloc((size_t)(ROWS * d), sizeof *x), *dense = calloc((size_t)(ROWS * d_sae), sizeof *dense), error[ROWS], cosines[5];
    double fvu;
    int32_t near[5];
    rng r = {1};
    sae_ctx *ctx = ctx_make(model, 4);
    sae_probe *probe;
    sae_plan *plan;
    sae_index *index;
    sae_gemm *gemm;
    sae_codes codes = codes_make(ROWS, ROWS * d_sae, true);
    const sae_rows rows = rows_plain(x, ROWS, d);
    const sae_edit edits[] = {{.struct_size = sizeof *edits, .op = SAE_SET, .value = 1.0f, .model = model, .feature = 1},
                              {.struct_size = sizeof *edits, .op = SAE_ADD, .value = 1.0f, .model = model, .feature = 2}};
    for (int64_t i = 0; i < ROWS * d; i++)
        x[i] = rng_weight(&r);
    ACCEPTED(sae_probe_create(&probe, model, features, 4, &err));
    ACCEPTED(sae_plan_compile(&plan, f->env, d, 1, edits, LENGTH(edits), &err));
    ACCEPTED(sae_index_create(&index, model, SAE_BY_DECODER, &err));
    const sae_gemm_weights square = {.struct_size = sizeof square, .dtype = SAE_BF16, .w = f->topk.weights.w_dec, .n_out = d, .n_in = d};
    ACCEPTED(sae_gemm_pack(&gemm, f->env, &square, SAE_GEMM_NATIVE, &err));
    size_t gemm_bytes;
    ck_assert_int_eq(sae_gemm_scratch_bytes(gemm, ROWS, &gemm_bytes), SAE_OK);
    const sae_rows product = rows_plain(dense, ROWS, d);
    const size_t plan_bytes = sae_plan_scratch_bytes(plan), index_bytes = sae_index_scratch_bytes(index);
    void *plan_scratch = malloc(plan_bytes), *index_scratch = malloc(index_bytes), *gemm_scratch = malloc(gemm_bytes);
    sae_neighbors out = {.struct_size = sizeof out, .k = 5, .features = near, .cosines = cosines};
    const sae_status untried = 1;
    sae_status got[11];
    for (size_t i = 0; i < LENGTH(got); i++)
        got[i] = untried;

    arm(-1, false, FAILS); /* no assertion while it is armed: those allocate */
    got[0] = sae_encode(ctx, &codes, &rows);
    got[1] = sae_encode_dense(ctx, dense, 0, &rows);
    got[2] = sae_decode(ctx, &rows, &codes);
    got[3] = sae_measure(ctx, error, &fvu, &rows, &codes);
    got[4] = sae_probe_run(probe, ctx, dense, 0, &rows, 0);
    got[5] = sae_probe_run(probe, ctx, dense, 0, &rows, SAE_PROBE_PRE);
    got[6] = sae_plan_apply(plan, &rows, plan_scratch, plan_bytes, &err);
    got[7] = sae_index_nearest(index, &out, x, index_scratch, index_bytes, &err);
    got[8] = sae_index_nearest_feature(index, &out, 1, index_scratch, index_bytes, &err);
    got[9] = sae_index_pairs(index, dense, SAE_ANGLE, features, 3, index_scratch, index_bytes, &err);
    got[10] = sae_gemm_run(gemm, &rows, &product, gemm_scratch, gemm_bytes, &err);
    disarm();

    for (size_t i = 0; i < LENGTH(got); i++)
        ck_assert_msg(got[i] == SAE_OK, "call %zu: %s", i, sae_status_name(got[i]));
    sae_gemm_free(gemm);
    sae_index_free(index);
    sae_plan_free(plan);
    sae_probe_free(probe);
    sae_ctx_free(ctx);
    codes_free(&codes);
    free(x);
    free(dense);
    free(plan_scratch);
    free(index_scratch);
    free(gemm_scratch);
}

START_TEST(compute_asks_for_nothing)
{
    heap h;
    heap_init(&h);
    parents f = parents_make(&h, run_forwards, NULL, 1);
    sae_model *const models[] = {f.memory, f.selecting, f.file};
    for (size_t m = 0; m < LENGTH(models); m++) {
        sae_info info = {.struct_size = sizeof info};
        ck_assert_int_eq(sae_model_info(models[m], &info), SAE_OK);
        use_all(&f, models[m], info.d_in, info.d_sae);
        for (int i = 0; i < N_CALLS; i++)
            ck_assert_msg(atomic_load(trap.count + i) == 0, "model %zu: %ld calls of %s", m, atomic_load(trap.count + i), call_names[i]);
    }
    parents_free(&f);

    sae_pool *pool; /* a pool takes locks, and nothing else */
    ACCEPTED(sae_pool_create(&pool, 3, &err));
    f = parents_make(&h, sae_pool_run, pool, 3);
    use_all(&f, f.memory, D, N);
    for (int i = 0; i < LOCK; i++)
        ck_assert_msg(atomic_load(trap.count + i) == 0, "with a pool: %ld calls of %s", atomic_load(trap.count + i), call_names[i]);
    parents_free(&f);
    sae_pool_free(pool);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("torture");
    TCase *tc = tcase_create("torture");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, hooks_fail, 1, LENGTH(all));
    tcase_add_loop_test(tc, system_fails, 0, LENGTH(all));
    tcase_add_loop_test(tc, system_stutters, 1, LENGTH(all));
    tcase_add_test(tc, compute_asks_for_nothing);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
