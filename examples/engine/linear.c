#include "linear.h"
#include "internal.h"

#include <stdlib.h>

struct engine_linear {
    const float *w;
    int32_t n_out, n_in;
};

bool engine_linear_create(engine_linear **out, const engine_host *host, const float *w, int32_t n_out, int32_t n_in, engine_error *err)
{
    (void)host;
    *out = engine_take(1, 1, 1, sizeof **out, err);
    if (*out)
        **out = (engine_linear){.w = w, .n_out = n_out, .n_in = n_in};
    return *out;
}

void engine_linear_free(engine_linear *l)
{
    free(l);
}

bool engine_linear_scratch(const engine_linear *l, int32_t n_rows, size_t *bytes, engine_error *err)
{
    (void)l, (void)n_rows, (void)err;
    *bytes = 0;
    return true;
}

bool engine_linear_run(const engine_linear *l, float *y, const float *x, int32_t n_rows, void *scratch, size_t scratch_bytes,
                       engine_error *err)
{
    (void)scratch, (void)scratch_bytes, (void)err;
    for (int32_t r = 0; r < n_rows; r++)
        for (int32_t o = 0; o < l->n_out; o++) {
            const float *w = l->w + (size_t)o * (size_t)l->n_in, *row = x + (size_t)r * (size_t)l->n_in;
            float acc = 0.0f;
            for (int32_t i = 0; i < l->n_in; i++)
                acc += w[i] * row[i];
            y[(size_t)r * (size_t)l->n_out + (size_t)o] = acc;
        }
    return true;
}
