/* Shared by the tests: seeded numbers, element types, an allocator that counts and fails, odd runners, models from memory and their
 * answers in plain C. Sees only <sae.h>; what goes wrong inside ends the test. */
#ifndef SUPPORT_SUPPORT_H
#define SUPPORT_SUPPORT_H

#include <check.h>
#include <sae.h>
#include <stdatomic.h>
#include <stdbool.h>

#define LENGTH(a) (sizeof(a) / sizeof *(a))

/* ---- seeded numbers: the same on every machine ---- */

typedef struct rng {
    uint64_t state;
} rng;

uint64_t rng_bits(rng *r);
uint32_t rng_below(rng *r, uint32_t n); /* 0 .. n-1 */
double rng_between(rng *r, double a, double b);

/* About normal, on a grid that f32, f16 and bf16 all hold exactly: one model can be stored in all three. */
float rng_weight(rng *r);

/* ---- element types, by arithmetic instead of bits: independent of the library's ---- */

double element_load(const void *p, sae_dtype dtype);
void element_store(void *p, sae_dtype dtype, double v); /* round to nearest even, overflow to infinity */

/* Rows [n][d] at any stride and type, inside a block of their own: free(rows_block). `gap` bytes lie between rows (any alignment results);
 * `backwards` gives a negative stride. */
sae_rows rows_make(void **block, const float *x, sae_dtype dtype, int64_t n, int32_t d, size_t gap, bool backwards);
void rows_load(float *x, const sae_rows *rows, int32_t d);
sae_rows rows_plain(float *x, int64_t n, int32_t d);

/* ---- an allocator that counts, checks sizes on the way back, paints, and fails when told ---- */

typedef struct heap {
    atomic_long asked;       /* allocations asked for so far */
    atomic_long live_blocks; /* given and not yet taken back */
    atomic_long live_bytes;
    atomic_long most_bytes; /* the most that lived at once */
    atomic_long fail_at;    /* number of the allocation that fails, from 0; -1 = none */
    atomic_bool persistent; /* every later one fails too */
    atomic_long failed;
} heap;

void heap_init(heap *h);
void *heap_alloc(void *user, size_t bytes, size_t align);
void heap_free(void *user, void *p, size_t bytes, size_t align);

/* ---- runners: every order that the contract of sae_run_fn allows ---- */

int32_t run_forwards(void *user, void *job, sae_task task, uint32_t n);
int32_t run_backwards(void *user, void *job, sae_task task, uint32_t n);
int32_t run_shuffled(void *user, void *job, sae_task task, uint32_t n);    /* the worker changes too: max_workers >= 3 */
int32_t run_thread_each(void *user, void *job, sae_task task, uint32_t n); /* one thread per task, THREADS_AT_ONCE under way */
enum { THREADS_AT_ONCE = 4 };

/* Runs half of the tasks and fails, unless *(int *)user > 0, which is then counted down and the run succeeds. */
int32_t run_failing(void *user, void *job, sae_task task, uint32_t n);

/* An env, or the end of the test. h and run may be NULL. */
sae_env *env_make(heap *h, sae_isa isa, sae_run_fn run, void *run_user, uint32_t max_workers);

/* The env of a test that counts: one with a fresh heap, and its end, after which nothing may be left. */
sae_env *counted_env(heap *h);
void counted_env_free(heap *h, sae_env *env);

/* Every instruction set of this processor; returns how many. */
size_t isas_available(sae_isa out[8]);

/* ---- the host's floating-point mode ---- */

uint64_t fp_mode(void); /* rounding, flushing and masks, without the sticky flags */
void fp_flush(void);    /* denormal results, and on x86 operands, become zero; fesetenv undoes it */

/* ---- seeded models in memory ---- */

typedef struct planted {
    sae_weights weights; /* as sae_model_create takes it */
    float *enc, *dec;    /* by feature: [d_sae][d_in], [d_sae][d_out] */
    float *b_enc, *b_dec, *threshold, *b_gate, *b_mag, *r_mag;
    float *skip;     /* by output: [d_out][d_in], NULL unless the shape has a w_skip */
    void *blocks[3]; /* what w_enc, w_dec and w_skip point into, at odd addresses */
} planted;

/* Fill shape.arch, dtype, flags, d_in, d_sae, d_out, k, norm, norm_scaling_factor, residual_threshold; struct_size and the pointers are set
 * here (a w_skip that is not NULL asks for a skip). Models of one seed and one set of sizes have the same values whatever dtype and layout. */
void planted_make(planted *p, sae_weights shape, uint64_t seed);
void planted_free(planted *p);
sae_model *planted_model(const planted *p, sae_env *env);

/* Rows [n][d_in] of a seed: mixtures of the model's own directions and noise. Exact in every dtype. */
float *planted_rows(const planted *p, int64_t n, uint64_t seed);

/* ---- answers in plain C ---- */

/* To the bit, by the contract's words: fmaf chains in index order. dense [d_sae], pre [d_sae] may be NULL; scale and shift un-normalise.
 * Returns how many pre-activations are not finite. */
int64_t answer_encode(const planted *p, const float *x, float *dense, float *pre, float *scale, float *shift);
void answer_decode(const planted *p, const float *dense, float scale, float shift, float *y);

/* y += x W_skip, where there is one. */
void answer_skip(const planted *p, const float *x, float *y);

/* In double from the formulas of sae/model.h: pre-activations, and codes. */
void answer_encode_double(const planted *p, const float *x, double *dense, double *pre);
void answer_decode_double(const planted *p, const double *dense, const float *x, double *y);

/* ---- refusals ---- */

/* Ends the test unless `got` is `want` and the sentence has every one of `words`, which '|' separates. */
void refusal(int line, sae_status got, sae_status want, const char *sentence, const char *words);

/* A call that takes `err`, a sae_error of the test: the sentence must be there, and not be left over from before. */
#define REFUSED(want, words, call)                                                       \
    do {                                                                                 \
        err = (sae_error){.struct_size = sizeof err, .status = 99, .text = "untouched"}; \
        const sae_status got_ = (call);                                                  \
        ck_assert_int_eq(err.status, got_);                                              \
        refusal(__LINE__, got_, want, err.text, words);                                  \
    } while (0)

/* The same for success: the sentence is empty. */
#define ACCEPTED(call)                                                                                         \
    do {                                                                                                       \
        err = (sae_error){.struct_size = sizeof err, .status = 99, .text = "untouched"};                       \
        const sae_status got_ = (call);                                                                        \
        ck_assert_msg(got_ == SAE_OK && !err.status && !*err.text, "%s: %s", sae_status_name(got_), err.text); \
    } while (0)

/* A call on a ctx. */
#define CTX_REFUSED(want, words, ctx, call)                       \
    do {                                                          \
        const sae_status got_ = (call);                           \
        refusal(__LINE__, got_, want, sae_ctx_error(ctx), words); \
    } while (0)

#define CTX_ACCEPTED(ctx, call)                                                                                     \
    do {                                                                                                            \
        const sae_status got_ = (call);                                                                             \
        ck_assert_msg(got_ == SAE_OK && !*sae_ctx_error(ctx), "%s: %s", sae_status_name(got_), sae_ctx_error(ctx)); \
    } while (0)

/* A struct at the end of a block that is `bytes` long and says so: short, or long with a tail whose last byte is `last`. free() it. */
void *resized(const void *src, size_t src_bytes, size_t bytes, unsigned char last);

/* ---- codes with room ---- */

sae_codes codes_make(int64_t n_rows, int64_t capacity, bool with_norm);
void codes_free(sae_codes *codes);

/* Encodes, ends the test unless SAE_OK; the codes fit exactly. */
sae_codes codes_of(sae_ctx *ctx, const sae_rows *x);
bool codes_same(const sae_codes *a, const sae_codes *b);

sae_ctx *ctx_make(sae_model *model, int32_t max_rows);

#endif
