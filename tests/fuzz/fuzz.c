#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/json.h"
#include "io/sae_file.h"
#include "io/tensors.h"

void input_take(input *in, void *to, size_t bytes)
{
    const size_t n = bytes < in->left ? bytes : in->left;
    memset(to, 0, bytes);
    if (n)
        memcpy(to, in->at, n);
    in->at += n;
    in->left -= n;
}

uint8_t input_byte(input *in)
{
    uint8_t byte;
    input_take(in, &byte, 1);
    return byte;
}

int32_t input_int(input *in, int32_t most)
{
    const uint8_t kind = input_byte(in);
    int32_t v;
    if (kind < 192)
        return kind % 48 <= most ? kind % 48 : most;
    input_take(in, &v, sizeof v);
    return v <= most ? v : most;
}

void fuzz_need(bool held, const char *what)
{
    if (held)
        return;
    fprintf(stderr, "fuzz: not so: %s\n", what);
    abort();
}

sae_env *fuzz_env(void)
{
    static sae_env *env;
    if (!env)
        fuzz_need(sae_env_create(&env, NULL, NULL) == SAE_OK, "an env can be made");
    return env;
}

sae_model *fuzz_model(uint32_t which)
{
    enum { ARCHS = 4, NORMS = 4 };
    static sae_model *models[ARCHS * NORMS];
    static float matrix[FUZZ_D * FUZZ_N], vector[FUZZ_N];
    const uint32_t i = which % (ARCHS * NORMS);
    if (models[i])
        return models[i];
    for (int32_t j = 0; j < FUZZ_D * FUZZ_N; j++)
        matrix[j] = (float)(j * 37 % 101 - 50) / 64.0f;
    for (int32_t j = 0; j < FUZZ_N; j++)
        vector[j] = (float)(j * 5 % 11) / 16.0f;
    const sae_arch arch = (sae_arch)(i % ARCHS) + SAE_STANDARD;
    const sae_weights weights = {.struct_size = sizeof weights,
                                 .arch = arch,
                                 .dtype = SAE_F32,
                                 .flags = SAE_BORROW | SAE_APPLY_B_DEC,
                                 .d_in = FUZZ_D,
                                 .d_sae = FUZZ_N,
                                 .k = arch == SAE_TOPK ? 5 : 0,
                                 .norm = (sae_norm)(i / ARCHS),
                                 .norm_scaling_factor = i / ARCHS == SAE_NORM_SCALE ? 0.5f : 0.0f,
                                 .w_enc = matrix,
                                 .w_dec = matrix,
                                 .b_enc = arch == SAE_GATED ? NULL : vector,
                                 .b_dec = vector,
                                 .threshold = arch == SAE_JUMPRELU ? vector : NULL,
                                 .b_gate = arch == SAE_GATED ? vector : NULL,
                                 .b_mag = arch == SAE_GATED ? vector : NULL,
                                 .r_mag = arch == SAE_GATED ? vector : NULL};
    sae_error err = {.struct_size = sizeof err};
    fuzz_need(sae_model_create(&models[i], fuzz_env(), &weights, &err) == SAE_OK, err.text);
    return models[i];
}

static void check_string(const saei_json *json, const char *string)
{
    const char *end = json->strings + json->strings_bytes;
    fuzz_need(string >= json->strings && string < end && memchr(string, '\0', (size_t)(end - string)), "a string lies in the strings");
    fuzz_need(saei_utf8(string, strlen(string)), "a string is UTF-8");
}

/* Counts the values right inside, which must end where the container does. */
static void check_container(const saei_json *json, uint32_t container)
{
    const saei_json_value *v = json->v;
    const bool object = v[container].type == SAEI_JSON_OBJECT;
    uint32_t n = 0;
    for (uint32_t i = container + 1; i < v[container].next; i = v[i].next, n++) {
        fuzz_need(v[i].next > i, "a walk goes on");
        fuzz_need(!object || n % 2 || v[i].type == SAEI_JSON_STRING, "a key is a string");
        fuzz_need(!object || n % 2 || !saei_json_member(json, container, v[i].string) ||
                      saei_json_member(json, container, v[i].string) == i + 1,
                  "a key is there once");
    }
    fuzz_need(n == v[container].n << object, "a container knows its size");
}

void fuzz_tree(const saei_json *json)
{
    fuzz_need(json->n && json->n <= json->room && json->v[0].next == json->n, "the first value holds all others");
    for (uint32_t i = 0; i < json->n; i++) {
        const saei_json_value *v = &json->v[i];
        const bool container = v->type == SAEI_JSON_ARRAY || v->type == SAEI_JSON_OBJECT;
        fuzz_need(v->next > i && v->next <= json->n && (container || v->next == i + 1), "a value ends behind itself");
        fuzz_need(!i || v->at >= v[-1].at, "values come in the order of the text");
        fuzz_need(v->type != SAEI_JSON_INTEGER || v->number == (double)v->integer, "an integer is a number too");
        if (v->type == SAEI_JSON_STRING)
            check_string(json, v->string);
        if (container && v->n < 64)
            check_container(json, i);
    }
}

/* ---- containers ---- */

static void check_array(const saei_array *a, const saei_file *file)
{
    size_t count = 0, last = 0;
    fuzz_need(a->offset <= file->bytes && a->bytes <= file->bytes - a->offset && a->data == file->data + a->offset, "data lie in the file");
    if (a->n_dims > SAEI_DIMS) /* nobody takes those */
        return;
    fuzz_need(saei_array_count(&count, a), "a shape has a size");
    for (uint32_t i = 0; i < a->n_dims; i++) {
        fuzz_need(a->shape[i] >= 0 && a->stride[i] >= 0, "sizes are not negative");
        last += count ? (size_t)(a->shape[i] - 1) * (size_t)a->stride[i] : 0;
    }
    const size_t each = saei_element_bytes(a->element);
    fuzz_need(!count || last == count - 1, "strides are of rows");
    fuzz_need(!each || a->bytes == count * each, "elements fill the data");
    if (each && count)
        (void)saei_element_load(a->data + last * each, a->element);
}

static void check_store(const saei_store *store, const saei_file *file)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < store->n_arrays; i++) {
        check_array(&store->arrays[i], file);
        fuzz_need(saei_store_find(store, store->arrays[i].name) == &store->arrays[i], "names are unique");
        bytes += store->arrays[i].bytes;
    }
    fuzz_need(bytes <= file->bytes, "tensors do not overlap");
    for (uint32_t i = 0; i < store->n_values; i++) {
        const saei_value *v = &store->values[i];
        fuzz_need(v->is_number == !v->string && saei_utf8(v->name, strlen(v->name)), "a value is a number or a text");
    }
}

void fuzz_container(const uint8_t *data, size_t size, saei_container *read)
{
    saei_host host = {0};
    saei_store store = {0};
    sae_error err = {.struct_size = sizeof err};
    const saei_file file = {.data = size ? data : NULL, .bytes = size, .fd = -1};
    saei_host_defaults(&host);
    const sae_status status = read(&store, &host, &file, 0, "f", &err);
    fuzz_need((status == SAE_OK) == !*err.text && strlen(err.text) < sizeof err.text, "an error has a sentence");
    fuzz_need(status == SAE_OK || status == SAE_E_FORMAT || status == SAE_E_UNSUPPORTED, "there is memory");
    if (!status)
        check_store(&store, &file);
    saei_store_free(&store, &host);
}

/* The screen, if section `at` is one, belongs to the sections before it. */
static void sign_screen(uint8_t *file, size_t size, saei_sae_section *all, uint32_t at)
{
    saei_sae_section *s = &all[at];
    saei_sae_screen screen;
    if (s->id != SAEI_SAE_SCREEN || s->bytes != sizeof screen || s->offset > size || sizeof screen > size - s->offset)
        return;
    memcpy(&screen, file + s->offset, sizeof screen);
    saei_sae_screen_digest(screen.of, all, at);
    memcpy(file + s->offset, &screen, sizeof screen);
    s->digest = XXH3_64bits(&screen, sizeof screen);
}

void fuzz_repair_sae(uint8_t *file, size_t size)
{
    saei_sae_head head;
    if (size < sizeof head)
        return;
    memcpy(&head, file, sizeof head);
    memcpy(head.magic, SAEI_SAE_MAGIC, sizeof head.magic);
    head.file_bytes = size;
    if (head.n_sections > (size - sizeof head) / sizeof(saei_sae_section))
        head.n_sections = (uint32_t)((size - sizeof head) / sizeof(saei_sae_section));
    saei_sae_section *all = malloc(head.n_sections * sizeof *all + 1);
    fuzz_need(all != NULL, "there is memory");
    memcpy(all, file + sizeof head, head.n_sections * sizeof *all);
    for (uint32_t i = 0; i < head.n_sections; i++)
        if (all[i].offset <= size && all[i].bytes <= size - all[i].offset)
            all[i].digest = XXH3_64bits(file + all[i].offset, (size_t)all[i].bytes);
    for (uint32_t i = 0; i < head.n_sections; i++)
        sign_screen(file, size, all, i);
    saei_sae_head_digest(head.digest, &head, all);
    memcpy(file, &head, sizeof head);
    memcpy(file + sizeof head, all, head.n_sections * sizeof *all);
    free(all);
}
