#include "array.h"

#include <string.h>

static const struct {
    const char *npy;
    const char *safetensors;
    size_t bytes;
} types[] = {
    [ELEM_OTHER] = {"?", "?", 0},   [ELEM_F32] = {"<f4", "F32", 4}, [ELEM_F16] = {"<f2", "F16", 2}, [ELEM_BF16] = {"<u2", "BF16", 2},
    [ELEM_F64] = {"<f8", "F64", 8}, [ELEM_U8] = {"|u1", "U8", 1},   [ELEM_U16] = {"<u2", "U16", 2}, [ELEM_I32] = {"<i4", "I32", 4},
    [ELEM_I64] = {"<i8", "I64", 8}, [ELEM_S3] = {"|S3", "?", 3},
};

size_t elem_bytes(elem type)
{
    return types[type].bytes;
}

const char *elem_npy(elem type)
{
    return types[type].npy;
}

const char *elem_safetensors(elem type)
{
    return types[type].safetensors;
}

elem elem_from_npy(const char *descr)
{
    if (strcmp(descr, "|V2") == 0 || strcmp(descr, "<V2") == 0) {
        return ELEM_U16; /* how NumPy saves the bfloat16 of ml_dtypes: two bytes without a meaning */
    }
    for (int t = ELEM_F32; t <= ELEM_S3; t++) {
        if (t != ELEM_BF16 && strcmp(types[t].npy, descr) == 0) {
            return (elem)t;
        }
    }
    return ELEM_OTHER;
}

elem elem_from_safetensors(const char *dtype)
{
    for (int t = ELEM_F32; t <= ELEM_I64; t++) {
        if (strcmp(types[t].safetensors, dtype) == 0) {
            return (elem)t;
        }
    }
    return ELEM_OTHER;
}

elem elem_from_dtype(sae_dtype dtype)
{
    return dtype == SAE_F32 ? ELEM_F32 : dtype == SAE_F16 ? ELEM_F16 : ELEM_BF16;
}

sae_dtype elem_to_dtype(elem type)
{
    return type == ELEM_F32 ? SAE_F32 : type == ELEM_F16 ? SAE_F16 : type == ELEM_BF16 ? SAE_BF16 : 0;
}

sae_dtype dtype_from_option(const char *option, const char *value)
{
    for (sae_dtype d = SAE_F32; d <= SAE_BF16; d++) {
        if (strcmp(sae_dtype_name(d), value) == 0) {
            return d;
        }
    }
    die_usage("--%s is f32, f16 or bf16, not '%s'", option, value);
}

array array_make(const char *name, elem type, int ndim, const int64_t *shape)
{
    array a = {.name = take_text(name), .type = type, .ndim = ndim};
    memcpy(a.shape, shape, (size_t)ndim * sizeof *shape);
    return a;
}

bool array_count(const array *a, uint64_t *count, uint64_t *bytes)
{
    bool fits = true;
    *count = 1;
    for (int i = 0; i < a->ndim; i++) {
        fits &= !__builtin_mul_overflow(*count, (uint64_t)a->shape[i], count);
    }
    return fits & !__builtin_mul_overflow(*count, (uint64_t)elem_bytes(a->type), bytes);
}

shape_text array_shape(const array *a)
{
    shape_text s = {"[]"};
    size_t at = 0;
    for (int i = 0; i < a->ndim; i++) {
        at += (size_t)snprintf(s.text + at, sizeof s.text - at, "[%lld]", (long long)a->shape[i]);
    }
    return s;
}
