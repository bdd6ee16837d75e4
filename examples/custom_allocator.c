/* The host's own memory: an arena that counts. Shows that encoding allocates nothing, and that the size of a ctx is known before:
 * `custom_allocator`. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <sae.h>

enum { D_IN = 64, D_SAE = 512, N_ROWS = 16, ARENA_BYTES = 16 << 20 };

typedef struct arena {
    unsigned char *base;
    atomic_size_t used; /* the hooks may be called from several threads */
    atomic_size_t live; /* bytes given and not yet taken back */
    atomic_int calls;
} arena;

static void *arena_alloc(void *user, size_t bytes, size_t align)
{
    arena *a = user;
    const size_t room = bytes + align - 1, at = atomic_fetch_add(&a->used, room);
    if (room > ARENA_BYTES || at > ARENA_BYTES - room)
        return NULL; /* becomes SAE_E_NOMEM */
    atomic_fetch_add(&a->calls, 1);
    atomic_fetch_add(&a->live, bytes);
    return a->base + at + (size_t)(-(uintptr_t)(a->base + at) & (align - 1));
}

static void arena_free(void *user, void *p, size_t bytes, size_t align)
{
    arena *a = user;
    (void)p; /* the arena goes as a whole */
    (void)align;
    atomic_fetch_sub(&a->live, bytes);
}

static int fail(const char *why)
{
    fprintf(stderr, "custom_allocator: %s\n", why);
    return 1;
}

static float w_enc[D_IN * D_SAE], w_dec[D_SAE * D_IN], x[N_ROWS * D_IN], values[N_ROWS * D_SAE];
static int32_t indices[N_ROWS * D_SAE];
static int64_t indptr[N_ROWS + 1];

int main(void)
{
    arena a = {.base = malloc(ARENA_BYTES)};
    if (!a.base)
        return fail("no memory for the arena");
    uint32_t state = 1;
    for (size_t i = 0; i < D_IN * D_SAE; i++)
        w_enc[i] = w_dec[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) / 16777216.0f - 0.5f;
    for (size_t i = 0; i < N_ROWS * D_IN; i++)
        x[i] = (float)(i % 7) - 3.0f;

    sae_env *env = NULL;
    sae_model *model = NULL;
    sae_ctx *ctx = NULL;
    sae_error err = {.struct_size = sizeof err};
    const sae_env_options opt = {.struct_size = sizeof opt, .alloc = arena_alloc, .dealloc = arena_free, .alloc_user = &a};
    const sae_weights weights = {.struct_size = sizeof weights,
                                 .arch = SAE_TOPK,
                                 .dtype = SAE_F32,
                                 .flags = SAE_BORROW,
                                 .d_in = D_IN,
                                 .d_sae = D_SAE,
                                 .k = 8,
                                 .w_enc = w_enc,
                                 .w_dec = w_dec};
    if (sae_env_create(&env, &opt, &err) || sae_model_create(&model, env, &weights, &err))
        return fail(err.text);

    const sae_ctx_options ctx_opt = {.struct_size = sizeof ctx_opt, .max_rows = N_ROWS};
    const size_t before = a.live;
    size_t promised = 0;
    if (sae_ctx_bytes(model, &ctx_opt, &promised) || sae_ctx_create(&ctx, model, &ctx_opt, &err))
        return fail(err.text);
    printf("sae_ctx_bytes told what sae_ctx_create took: %s\n", a.live - before == promised ? "yes" : "no");

    const int calls = a.calls;
    const sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x, .n_rows = N_ROWS};
    sae_codes codes = {.struct_size = sizeof codes, .capacity = N_ROWS * D_SAE, .indptr = indptr, .indices = indices, .values = values};
    for (int i = 0; i < 1000; i++)
        if (sae_encode(ctx, &codes, &rows))
            return fail(sae_ctx_error(ctx));
    printf("allocations in 1000 calls of sae_encode: %d\n", a.calls - calls);

    sae_ctx_free(ctx);
    sae_model_free(model);
    sae_env_free(env);
    printf("bytes not given back: %zu\n", (size_t)a.live);
    free(a.base);
    return 0;
}
