/* Options, rows, edits and queries with hostile fields: any size, any number; pointers are NULL or lead where the numbers say. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { TAIL = 24, MOST_ROWS = 5, MOST_EDITS = 4, GAP = 6, WIDE = 16 };

static sae_error err = {.struct_size = sizeof err};
static sae_status status;

/* Fills a struct of `bytes` and a tail that no library knows, and says in its first field any size up to both, mostly the true one; a
 * smaller one does not cut a pointer in two, which no caller's sizeof does. */
static void fill(input *in, void *to, size_t bytes)
{
    const uint8_t kind = input_byte(in);
    uint32_t says = kind & 1 ? (uint32_t)(input_byte(in) % (bytes + TAIL + 1)) : (uint32_t)bytes;
    if (says < bytes)
        says &= ~7u;
    input_take(in, to, bytes);
    memset((char *)to + bytes, 0, TAIL);
    if (kind & 2)
        input_take(in, (char *)to + bytes, TAIL);
    memcpy(to, &says, sizeof says);
}

/* What a constructor may leave: an object, or a failure with a sentence. */
static void made(const void *object)
{
    fuzz_need((status == SAE_OK) == (object != NULL), "an object or an error, never both");
    fuzz_need(status == err.status && (status == SAE_OK) == (*err.text == 0), "an error has a sentence");
}

static const char *word(input *in)
{
    static const char *const words[] = {NULL, "", "standard", "jumprelu", "topk", "gated", "none", "layer_norm", "batchtopk", "%n%s"};
    return words[input_byte(in) % (sizeof words / sizeof *words)];
}

static void *give(void *user, size_t bytes, size_t align)
{
    void *p = NULL;
    (void)user;
    return posix_memalign(&p, align < sizeof p ? sizeof p : align, bytes) ? NULL : p;
}

static void take(void *user, void *p, size_t bytes, size_t align)
{
    (void)user, (void)bytes, (void)align;
    free(p);
}

static void try_env(input *in)
{
    struct {
        sae_env_options o;
        char tail[TAIL];
    } s;
    const uint8_t hooks = input_byte(in);
    fill(in, &s, sizeof s.o);
    s.o.alloc = hooks & 1 ? give : NULL;
    s.o.dealloc = hooks & 2 ? take : NULL;
    s.o.alloc_user = s.o.log_user = NULL;
    s.o.run = NULL;
    s.o.run_user = NULL;
    s.o.log = NULL;
    sae_env *env = NULL;
    status = sae_env_create(&env, &s.o, &err);
    made(env);
    fuzz_need(!env || sae_isa_available(sae_env_isa(env)) == SAE_YES, "an env has an instruction set");
    sae_env_free(env);
}

static void try_open(input *in)
{
    struct {
        sae_open_options o;
        char tail[TAIL];
    } s;
    fill(in, &s, sizeof s.o);
    s.o.architecture = word(in);
    s.o.normalize_activations = word(in);
    s.o.layer = word(in);
    sae_model *model = NULL;
    status = sae_model_open(&model, fuzz_env(), "/nonexistent/sae", &s.o, &err);
    made(model);
    fuzz_need(model == NULL, "nothing is opened from nowhere");
}

static int32_t at_most(int32_t v, int32_t most)
{
    return v < most ? v : most;
}

static void try_create(input *in)
{
    static const float numbers[WIDE * WIDE];
    struct {
        sae_weights w;
        char tail[TAIL];
    } s;
    const uint8_t null = input_byte(in);
    fill(in, &s, sizeof s.w);
    s.w.arch = input_int(in, INT32_MAX);
    s.w.dtype = input_int(in, INT32_MAX);
    s.w.norm = input_int(in, INT32_MAX);
    s.w.flags = (uint32_t)input_int(in, INT32_MAX);
    s.w.d_in = at_most(input_int(in, INT32_MAX), WIDE);
    s.w.d_sae = at_most(input_int(in, INT32_MAX), WIDE);
    s.w.d_out = at_most(input_int(in, INT32_MAX), WIDE);
    s.w.k = input_int(in, INT32_MAX);
    s.w.w_enc = null & 1 ? NULL : numbers;
    s.w.w_dec = null & 2 ? NULL : numbers;
    s.w.b_enc = null & 4 ? NULL : numbers;
    s.w.b_dec = null & 8 ? NULL : numbers;
    s.w.threshold = null & 16 ? NULL : numbers;
    s.w.b_gate = null & 32 ? NULL : numbers;
    s.w.b_mag = null & 64 ? NULL : numbers;
    s.w.r_mag = null & 128 ? NULL : numbers;
    s.w.w_skip = input_byte(in) & 1 ? NULL : numbers;
    sae_model *model = NULL;
    status = sae_model_create(&model, fuzz_env(), &s.w, &err);
    made(model);
    if (model) {
        float row[WIDE];
        const int32_t tensor = input_int(in, INT32_MAX);
        const int64_t first = input_int(in, INT32_MAX);
        sae_model_read(model, tensor, first, 1, row, &err);
        sae_model_prepare(model, input_byte(in), &err);
    }
    sae_model_free(model);
}

static void try_answers(input *in)
{
    union {
        sae_info info;
        sae_memory memory;
        char room[sizeof(sae_info) + sizeof(sae_memory) + TAIL];
    } s;
    const sae_model *model = fuzz_model(input_byte(in));
    fill(in, &s, sizeof s.info);
    sae_model_info(model, &s.info);
    fill(in, &s, sizeof s.memory);
    sae_model_memory(model, &s.memory);
}

/* Rows of d elements with a hostile struct around them: `block` is theirs to free, NULL when x is NULL. */
static sae_rows *hostile_rows(input *in, void *room, size_t d, char **block, int32_t *slots)
{
    sae_rows *rows = room;
    const uint8_t kind = input_byte(in);
    fill(in, room, sizeof *rows);
    rows->dtype = kind & 1 ? input_int(in, INT32_MAX) : SAE_F32 + kind / 2 % 3;
    rows->n_rows = at_most(input_int(in, INT32_MAX), MOST_ROWS);
    const size_t step = d * 4 + (kind & 8 ? GAP : 0), span = MOST_ROWS * step;
    *block = kind & 16 && kind & 32 ? NULL : malloc(span + 1);
    if (*block)
        input_take(in, *block, span + 1);
    const bool backwards = kind & 64 && kind & 8;
    rows->x = *block ? *block + (backwards ? span - step : 0) + (kind & 128 ? 1 : 0) : NULL;
    rows->stride_bytes = backwards ? -(int64_t)step : kind & 8 ? (int64_t)step : 0;
    for (int i = 0; i < MOST_ROWS; i++)
        slots[i] = input_int(in, INT32_MAX);
    rows->slot = kind & 4 ? slots : NULL;
    return rows;
}

static void try_encode(input *in)
{
    struct {
        sae_rows r;
        char tail[TAIL];
    } s;
    struct {
        sae_ctx_options o;
        char tail[TAIL];
    } c;
    enum { FEATURES = 3 };
    char *block;
    int32_t slots[MOST_ROWS], indices[2 * FUZZ_N], features[FEATURES];
    float values[2 * FUZZ_N], dense[MOST_ROWS * FUZZ_N], probed[MOST_ROWS * FEATURES];
    int64_t indptr[MOST_ROWS + 1];
    size_t bytes;
    sae_model *model = fuzz_model(input_byte(in));
    const sae_rows *rows = hostile_rows(in, &s, FUZZ_D, &block, slots);
    fill(in, &c, sizeof c.o);
    sae_ctx_bytes(model, &c.o, &bytes);
    sae_ctx *ctx = NULL;
    status = sae_ctx_create(&ctx, model, &c.o, &err);
    made(ctx);
    sae_codes codes = {
        .struct_size = sizeof codes, .capacity = input_int(in, 2 * FUZZ_N), .indptr = indptr, .indices = indices, .values = values};
    const sae_status encoded = sae_encode(ctx, &codes, rows);
    fuzz_need(encoded != SAE_OK || (indptr[0] == 0 && indptr[codes.n_rows] <= codes.capacity), "codes fit the capacity");
    sae_encode_dense(ctx, dense, 0, rows);
    sae_probe *probe = NULL;
    for (int i = 0; i < FEATURES; i++)
        features[i] = input_int(in, INT32_MAX);
    status = sae_probe_create(&probe, model, features, at_most(input_int(in, INT32_MAX), FEATURES), &err);
    made(probe);
    sae_probe_run(probe, ctx, probed, 0, rows, input_byte(in));
    sae_probe_free(probe);
    sae_ctx_free(ctx);
    free(block);
}

static void try_steer(input *in)
{
    struct {
        sae_edit e;
        char tail[TAIL];
    } s;
    struct {
        sae_rows r;
        char tail[TAIL];
    } rows;
    static char edits[MOST_EDITS * sizeof s];
    float vector[FUZZ_D];
    int32_t slots[MOST_ROWS];
    char *block;
    input_take(in, vector, sizeof vector);
    const int64_t n = at_most(input_int(in, INT32_MAX), MOST_EDITS);
    size_t step = sizeof s.e;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t kind = input_byte(in);
        fill(in, &s, sizeof s.e);
        s.e.model = kind & 1 ? NULL : fuzz_model(kind / 8);
        s.e.vector = kind & 2 ? vector : NULL;
        s.e.op = kind & 4 ? input_int(in, INT32_MAX) : SAE_ADD + kind / 16 % 6;
        s.e.feature = input_int(in, INT32_MAX);
        s.e.slot = input_int(in, INT32_MAX);
        s.e.unit = input_int(in, INT32_MAX);
        if (i == 0 && s.e.struct_size > sizeof s.e.struct_size)
            step = s.e.struct_size;
        memcpy(edits + (size_t)i * step, &s, step);
    }
    const int32_t d = input_byte(in) % 8 ? FUZZ_D : at_most(input_int(in, INT32_MAX), FUZZ_D);
    const int32_t n_slots = input_int(in, 1 << 16);
    sae_plan *plan = NULL;
    status = sae_plan_compile(&plan, fuzz_env(), d, n_slots, (const sae_edit *)(void *)edits, n, &err);
    made(plan);
    const size_t needed = plan ? sae_plan_scratch_bytes(plan) : 0;
    const size_t bytes = input_byte(in) % 4 ? needed : needed / 2;
    char *scratch = malloc(bytes + 1);
    fuzz_need(scratch != NULL && needed < 1 << 24, "there is memory");
    const sae_rows *r = hostile_rows(in, &rows, FUZZ_D, &block, slots);
    const sae_status applied = sae_plan_apply(plan, r, scratch, bytes, &err);
    fuzz_need((applied == SAE_OK) == (*err.text == 0), "a refusal has a sentence");
    sae_plan_free(plan);
    free(scratch);
    free(block);
}

static void try_distance(input *in)
{
    enum { MOST = 6 };
    struct {
        sae_neighbors n;
        char tail[TAIL];
    } s;
    int32_t features[MOST], found[MOST];
    float query[FUZZ_D], cosines[MOST], pairs[MOST * MOST];
    sae_index *index = NULL;
    sae_model *model = fuzz_model(input_byte(in));
    status = sae_index_create(&index, model, input_int(in, INT32_MAX), &err);
    made(index);
    const size_t needed = index ? sae_index_scratch_bytes(index) : 0;
    const size_t bytes = input_byte(in) % 4 ? needed : needed / 2;
    char *scratch = malloc(bytes + 1);
    fuzz_need(scratch != NULL, "there is memory");
    const uint8_t kind = input_byte(in);
    fill(in, &s, sizeof s.n);
    s.n.k = input_int(in, MOST);
    s.n.features = kind & 1 ? NULL : found;
    s.n.cosines = kind & 2 ? NULL : cosines;
    input_take(in, query, sizeof query);
    for (int i = 0; i < MOST; i++)
        features[i] = input_int(in, INT32_MAX);
    sae_index_nearest(index, &s.n, query, scratch, bytes, &err);
    sae_index_nearest_feature(index, &s.n, features[0], scratch, bytes, &err);
    sae_index_pairs(index, pairs, input_int(in, INT32_MAX), features, input_int(in, MOST), scratch, bytes, &err);
    sae_index_free(index);
    free(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const tries[])(input *) = {try_env, try_open, try_create, try_answers, try_encode, try_steer, try_distance};
    input in = {data, size};
    tries[input_byte(&in) % (sizeof tries / sizeof *tries)](&in);
    return 0;
}
