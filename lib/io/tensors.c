#include "io/tensors.h"

#include <math.h>
#include <string.h>

#include "io/json.h"

static const struct {
    uint8_t bytes;
    bool is_float;
    sae_dtype dtype;
} kinds[] = {
    [SAEI_OTHER] = {0, false, 0}, [SAEI_F32] = {4, true, SAE_F32}, [SAEI_F16] = {2, true, SAE_F16}, [SAEI_BF16] = {2, true, SAE_BF16},
    [SAEI_F64] = {8, true, 0},    [SAEI_F8_E4M3] = {1, true, 0},   [SAEI_F8_E5M2] = {1, true, 0},   [SAEI_I64] = {8, false, 0},
    [SAEI_I32] = {4, false, 0},   [SAEI_I16] = {2, false, 0},      [SAEI_I8] = {1, false, 0},       [SAEI_U8] = {1, false, 0},
    [SAEI_BOOL] = {1, false, 0}};

size_t saei_element_bytes(saei_element element)
{
    return kinds[element].bytes;
}

sae_dtype saei_element_dtype(saei_element element)
{
    return kinds[element].dtype;
}

bool saei_element_is_float(saei_element element)
{
    return kinds[element].is_float;
}

/* Sign, 4 or 5 bits of exponent, the rest mantissa; a number is built from its parts. */
static double load_f8(uint8_t byte, int mantissa_bits, int bias)
{
    const int exponent = (byte & 0x7f) >> mantissa_bits, mantissa = byte & ((1 << mantissa_bits) - 1);
    const double fraction = (double)mantissa / (1 << mantissa_bits);
    const double magnitude = exponent ? ldexp(1.0 + fraction, exponent - bias) : ldexp(fraction, 1 - bias);
    return byte & 0x80 ? -magnitude : magnitude;
}

static double load_e4m3(uint8_t byte)
{
    return (byte & 0x7f) == 0x7f ? (double)NAN : load_f8(byte, 3, 7);
}

static double load_e5m2(uint8_t byte)
{
    if ((byte & 0x7c) != 0x7c)
        return load_f8(byte, 2, 15);
    return byte & 3 ? (double)NAN : byte & 0x80 ? -(double)INFINITY : (double)INFINITY;
}

double saei_element_load(const unsigned char *p, saei_element element)
{
    union {
        double f64;
        int64_t i64;
        int32_t i32;
        int16_t i16;
        int8_t i8;
    } v;
    memcpy(&v, p, kinds[element].bytes);
    switch (element) {
    case SAEI_F32:
    case SAEI_F16:
    case SAEI_BF16:
        return (double)saei_load(p, kinds[element].dtype);
    case SAEI_F64:
        return v.f64;
    case SAEI_F8_E4M3:
        return load_e4m3(*p);
    case SAEI_F8_E5M2:
        return load_e5m2(*p);
    case SAEI_I64:
        return (double)v.i64;
    case SAEI_I32:
        return (double)v.i32;
    case SAEI_I16:
        return (double)v.i16;
    case SAEI_I8:
        return (double)v.i8;
    case SAEI_U8:
        return (double)*p;
    case SAEI_BOOL:
        return *p ? 1.0 : 0.0;
    case SAEI_OTHER:
        break;
    }
    return (double)NAN;
}

bool saei_array_count(size_t *out, const saei_array *array)
{
    *out = 1;
    if (array->n_dims > SAEI_DIMS)
        return false;
    for (uint32_t i = 0; i < array->n_dims; i++)
        if (array->shape[i] < 0 || !saei_mul(out, *out, (size_t)array->shape[i]))
            return false;
    return true;
}

void saei_array_row_major(saei_array *array)
{
    size_t count;
    const bool some = saei_array_count(&count, array) && count && count <= INT64_MAX; /* else a product of sizes may overflow */
    int64_t step = some;
    for (uint32_t i = array->n_dims < SAEI_DIMS ? array->n_dims : SAEI_DIMS; i-- > 0;) {
        array->stride[i] = step;
        step *= some ? array->shape[i] : 1;
    }
}

/* ---- the store ---- */

enum { MOST = 1 << 14 /* names are compared one by one */ };

void saei_store_free(saei_store *store, const saei_host *host)
{
    saei_arena_free(&store->memory, host);
    *store = (saei_store){0};
}

static sae_status twice(const char *what, const char *name, sae_error *err)
{
    char shown[SAEI_SHOWN];
    return saei_fail(err, SAE_E_FORMAT, "%s: \"%s\" is there twice", what, saei_show(shown, name));
}

sae_status saei_store_add(saei_store *store, const saei_host *host, const saei_array *array, const char *what, sae_error *err)
{
    if (store->n_arrays == MOST)
        return saei_fail(err, SAE_E_FORMAT, "%s holds more than %d tensors: no SAE does", what, MOST);
    if (saei_store_find(store, array->name))
        return twice(what, array->name, err);
    saei_array *arrays = saei_arena_grow(&store->memory, host, store->arrays, &store->room_arrays, store->n_arrays, sizeof *arrays);
    if (!arrays)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the %u tensors of %s", (unsigned)store->n_arrays + 1, what);
    store->arrays = arrays;
    store->arrays[store->n_arrays++] = *array;
    return SAE_OK;
}

sae_status saei_store_add_value(saei_store *store, const saei_host *host, const saei_value *value, const char *what, sae_error *err)
{
    if (store->n_values == MOST)
        return saei_fail(err, SAE_E_FORMAT, "%s holds more than %d values: no SAE does", what, MOST);
    if (saei_store_value(store, value->name))
        return twice(what, value->name, err);
    saei_value *values = saei_arena_grow(&store->memory, host, store->values, &store->room_values, store->n_values, sizeof *values);
    if (!values)
        return saei_fail(err, SAE_E_NOMEM, "no memory for the %u values of %s", (unsigned)store->n_values + 1, what);
    store->values = values;
    store->values[store->n_values++] = *value;
    return SAE_OK;
}

const saei_array *saei_store_find(const saei_store *store, const char *name)
{
    for (uint32_t i = 0; i < store->n_arrays; i++)
        if (strcmp(store->arrays[i].name, name) == 0)
            return &store->arrays[i];
    return NULL;
}

const saei_value *saei_store_value(const saei_store *store, const char *name)
{
    for (uint32_t i = 0; i < store->n_values; i++)
        if (strcmp(store->values[i].name, name) == 0)
            return &store->values[i];
    return NULL;
}
