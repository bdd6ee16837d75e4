/* A SAELens folder from hostile bytes: [flags][length of cfg.json, 2 bytes][cfg.json][sae_weights.safetensors]. What opens must work. */
#include "fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NO_CONFIG = 1, NO_CHECK = 2, COPY = 4, PREPARE = 8 };

static char folder[64], config[96], weights[96];

static void sweep(void)
{
    unlink(config);
    unlink(weights);
    rmdir(folder);
}

static void make_folder(void)
{
    if (*folder)
        return;
    snprintf(folder, sizeof folder, "%s/saefuzzXXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    fuzz_need(mkdtemp(folder) != NULL, "a folder can be made");
    snprintf(config, sizeof config, "%s/cfg.json", folder);
    snprintf(weights, sizeof weights, "%s/sae_weights.safetensors", folder);
    atexit(sweep);
}

static void write_file(const char *path, const uint8_t *data, size_t size)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    fuzz_need(fd >= 0 && write(fd, data, size) == (ssize_t)size && close(fd) == 0, "a file can be written");
}

/* One row through everything that reads the weights. */
static void use(sae_model *model, const sae_info *info)
{
    const size_t d_in = (size_t)info->d_in, d_out = (size_t)info->d_out, n = (size_t)info->d_sae;
    float *x = calloc(d_in, sizeof *x), *y = calloc(d_out, sizeof *y), *values = calloc(n, sizeof *values);
    int32_t *indices = calloc(n, sizeof *indices);
    int64_t indptr[2];
    float scale, shift;
    fuzz_need(x && y && values && indices, "there is memory");
    for (size_t i = 0; i < d_in; i++)
        x[i] = (float)(i % 7) - 3.0f;
    sae_ctx *ctx = NULL;
    sae_error err = {.struct_size = sizeof err};
    const sae_ctx_options one = {.struct_size = sizeof one, .max_rows = 1};
    const sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x, .n_rows = 1};
    const sae_rows out = {.struct_size = sizeof out, .dtype = SAE_F32, .x = y, .n_rows = 1};
    sae_codes codes = {.struct_size = sizeof codes,
                       .capacity = info->d_sae,
                       .indptr = indptr,
                       .indices = indices,
                       .values = values,
                       .row_scale = &scale,
                       .row_shift = &shift};
    fuzz_need(sae_ctx_create(&ctx, model, &one, &err) == SAE_OK, err.text);
    fuzz_need(sae_encode(ctx, &codes, &rows) == SAE_OK, "a row is encoded");
    fuzz_need(indptr[0] == 0 && indptr[1] >= 0 && indptr[1] <= info->d_sae, "a row has at most d_sae codes");
    fuzz_need(sae_decode(ctx, &out, &codes) == SAE_OK, "its codes are decoded");
    sae_ctx_free(ctx);
    free(x);
    free(y);
    free(values);
    free(indices);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    const uint8_t flags = input_byte(&in);
    const size_t length = (size_t)input_byte(&in) + 256u * input_byte(&in);
    const size_t config_bytes = length < in.left ? length : in.left;
    make_folder();
    unlink(config);
    if (!(flags & NO_CONFIG))
        write_file(config, in.at, config_bytes);
    write_file(weights, in.at + config_bytes, in.left - config_bytes);

    const sae_open_options options = {
        .struct_size = sizeof options, .check = flags & NO_CHECK ? SAE_NO : SAE_DEFAULT, .copy = flags & COPY ? SAE_YES : SAE_NO};
    sae_error err = {.struct_size = sizeof err};
    sae_model *model = NULL;
    const sae_status status = sae_model_open(&model, fuzz_env(), flags & NO_CONFIG ? weights : folder, &options, &err);
    fuzz_need(status == err.status && (status == SAE_OK) == (model != NULL), "a model or an error, never both");
    fuzz_need((status == SAE_OK) == (*err.text == 0) && strlen(err.text) < sizeof err.text, "an error has a sentence");
    if (!model)
        return 0;
    sae_info info = {.struct_size = sizeof info};
    fuzz_need(sae_model_info(model, &info) == SAE_OK && info.d_in > 0 && info.d_sae > 0 && info.d_out > 0, "a model has sizes");
    for (int32_t i = 0; i <= sae_model_n_warnings(model); i++)
        fuzz_need(sae_model_warning(model, i) != NULL, "a warning is a text");
    for (int32_t what = 0; what < 9; what++)
        fuzz_need(sae_model_text(model, what) != NULL, "a text is a text");
    const sae_status checked = sae_model_check(model, &err);
    fuzz_need(checked == SAE_OK || (flags & NO_CHECK), "what was checked while opening is fine later");
    if (flags & PREPARE && sae_model_prepare(model, SAE_PREPARE_ROWS | SAE_PREPARE_PANELS | SAE_PREPARE_SCREEN, &err) != SAE_OK)
        fuzz_need(checked != SAE_OK, "what was checked can be prepared");
    use(model, &info);
    sae_model_free(model);
    return 0;
}
