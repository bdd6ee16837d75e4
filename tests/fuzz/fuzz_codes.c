/* Codes with hostile indptr, indices and values to decode and measure: refused with the outputs untouched, or decoded. */
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS = 6, CODES = 40 };

static bool untouched(const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (y[i] != 77.0f)
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    sae_model *model = fuzz_model(input_byte(&in));
    const int64_t n_rows = input_byte(&in) % (ROWS + 1), capacity = input_byte(&in) % (CODES + 1);
    const uint8_t flags = input_byte(&in);
    /* Blocks of the exact size, so that a sanitizer sees one element too many. */
    int64_t *indptr = malloc((size_t)(n_rows + 1) * sizeof *indptr);
    int32_t *indices = malloc((size_t)capacity * sizeof *indices + 1);
    float *values = malloc((size_t)capacity * sizeof *values + 1);
    float scale[ROWS], shift[ROWS], y[ROWS * FUZZ_D], x[ROWS * FUZZ_D], error[ROWS];
    fuzz_need(indptr && indices && values, "there is memory");
    int64_t at = 0;
    for (int64_t r = 0; r <= n_rows; r++) {
        const int32_t step = r ? input_int(&in, INT32_MAX) : 0;
        at = step > 48 ? (int64_t)((uint64_t)step << (input_byte(&in) % 34)) : at + step;
        indptr[r] = at;
    }
    for (int64_t i = 0; i < capacity; i++)
        indices[i] = input_int(&in, INT32_MAX);
    input_take(&in, values, (size_t)capacity * sizeof *values);
    input_take(&in, scale, sizeof scale);
    input_take(&in, shift, sizeof shift);
    input_take(&in, x, sizeof x);
    for (size_t i = 0; i < ROWS * FUZZ_D; i++)
        y[i] = 77.0f;

    const sae_codes codes = {.struct_size = flags & 64 ? input_byte(&in) % sizeof codes & ~7u : sizeof codes,
                             .n_rows = n_rows,
                             .capacity = capacity,
                             .indptr = indptr,
                             .indices = indices,
                             .values = values,
                             .row_scale = flags & 1 ? NULL : scale,
                             .row_shift = flags & 2 ? NULL : shift};
    const sae_rows out = {.struct_size = sizeof out, .dtype = SAE_F32, .x = y, .n_rows = flags & 4 ? n_rows + 1 : n_rows};
    const sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x, .n_rows = n_rows};
    sae_ctx *ctx = NULL;
    double fvu;
    fuzz_need(sae_ctx_create(&ctx, model, NULL, NULL) == SAE_OK, "a ctx can be made");
    const sae_status decoded = out.n_rows <= ROWS ? sae_decode(ctx, &out, &codes) : SAE_E_ARG;
    fuzz_need(decoded == SAE_OK || untouched(y, ROWS * FUZZ_D), "refused codes change nothing");
    fuzz_need((decoded == SAE_OK) == (*sae_ctx_error(ctx) == 0) || out.n_rows > ROWS, "a refusal has a sentence");
    const sae_status measured = sae_measure(ctx, error, &fvu, &rows, &codes);
    fuzz_need(flags & 4 || measured == decoded, "decode and measure agree on what codes are");
    sae_ctx_free(ctx);
    free(indptr);
    free(indices);
    free(values);
    return 0;
}
