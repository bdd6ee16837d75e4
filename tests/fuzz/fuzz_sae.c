/* A .sae file from hostile bytes: [flags][the file]. With true checksums, if the flags say so, since no fuzzer finds those by itself. What opens
 * must work, and what is written of it must open again as the same bytes. */
#include "fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/sae_file.h"

enum { REPAIR = 1, NO_CHECK = 2, COPY = 4, LARGEST = 1 << 16 };

static char path[64], again[64], third[64];

static void sweep(void)
{
    unlink(path);
    unlink(again);
    unlink(third);
}

static void make_paths(void)
{
    if (*path)
        return;
    const char *folder = access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
    snprintf(path, sizeof path, "%s/saefuzz%ld.sae", folder, (long)getpid());
    snprintf(again, sizeof again, "%s/saefuzz%ld-2.sae", folder, (long)getpid());
    snprintf(third, sizeof third, "%s/saefuzz%ld-3.sae", folder, (long)getpid());
    atexit(sweep);
}

static void write_file(const uint8_t *data, size_t size)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    fuzz_need(fd >= 0 && write(fd, data, size) == (ssize_t)size && close(fd) == 0, "a file can be written");
}

static void encode(sae_model *model, const sae_info *info)
{
    float *x = calloc((size_t)info->d_in, sizeof *x), *f = calloc((size_t)info->d_sae, sizeof *f);
    sae_error err = {.struct_size = sizeof err};
    sae_ctx *ctx = NULL;
    const sae_rows rows = {.struct_size = sizeof rows, .dtype = SAE_F32, .x = x, .n_rows = 1};
    const sae_ctx_options one = {.struct_size = sizeof one, .max_rows = 1, .screen = SAE_YES};
    fuzz_need(x && f, "there is memory");
    for (int32_t i = 0; i < info->d_in; i++)
        x[i] = (float)(i % 7) - 3.0f;
    const sae_status made = sae_ctx_create(&ctx, model, &one, &err);
    fuzz_need(made == SAE_OK || made == SAE_E_UNSUPPORTED, err.text);
    if (!made)
        (void)sae_encode_dense(ctx, f, 0, &rows);
    sae_ctx_free(ctx);
    free(x);
    free(f);
}

static void same_files(void)
{
    static uint8_t a[2 * LARGEST], b[2 * LARGEST];
    const int of_a = open(again, O_RDONLY), of_b = open(third, O_RDONLY);
    const ssize_t n = read(of_a, a, sizeof a);
    fuzz_need(n > 0 && read(of_b, b, sizeof b) == n && memcmp(a, b, (size_t)n) == 0, "what was written is written again");
    close(of_a);
    close(of_b);
}

static void save_again(const sae_model *model, int32_t check)
{
    sae_save_options opt = {.struct_size = sizeof opt, .overwrite = SAE_YES, .check = check};
    sae_memory memory = {.struct_size = sizeof memory};
    fuzz_need(sae_model_memory(model, &memory) == SAE_OK, "a model tells its memory");
    opt.screen = memory.screen_bytes ? SAE_YES : SAE_NO;
    const sae_open_options open_opt = {.struct_size = sizeof open_opt, .check = check};
    sae_error err = {.struct_size = sizeof err};
    sae_model *back;
    fuzz_need(sae_model_save(model, again, &opt, &err) == SAE_OK, err.text);
    fuzz_need(sae_model_open(&back, fuzz_env(), again, &open_opt, &err) == SAE_OK, err.text);
    fuzz_need(sae_model_save(back, third, &opt, &err) == SAE_OK, err.text);
    sae_model_free(back);
    same_files();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t file[LARGEST];
    input in = {data, size};
    const uint8_t flags = input_byte(&in);
    if (in.left > sizeof file)
        return 0;
    make_paths();
    if (in.left)
        memcpy(file, in.at, in.left);
    if (flags & REPAIR)
        fuzz_repair_sae(file, in.left);
    write_file(file, in.left);
    const int32_t check = flags & NO_CHECK ? SAE_NO : SAE_YES;
    const sae_open_options options = {.struct_size = sizeof options, .check = check, .copy = flags & COPY ? SAE_YES : SAE_NO};
    sae_error err = {.struct_size = sizeof err};
    sae_model *model = NULL;
    const sae_status status = sae_model_open(&model, fuzz_env(), path, &options, &err);
    fuzz_need(status == err.status && (status == SAE_OK) == (model != NULL), "a model or an error, never both");
    fuzz_need((status == SAE_OK) == (*err.text == 0) && strlen(err.text) < sizeof err.text, "an error has a sentence");
    if (!model)
        return 0;
    sae_info info = {.struct_size = sizeof info};
    fuzz_need(sae_model_info(model, &info) == SAE_OK && info.d_in > 0 && info.d_sae > 0 && info.d_out > 0, "a model has sizes");
    for (int32_t what = 0; what < 12; what++)
        fuzz_need(sae_model_text(model, what) != NULL, "a text is a text");
    encode(model, &info);
    save_again(model, check);
    sae_model_free(model);
    return 0;
}
