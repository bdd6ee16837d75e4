/* A checkpoint of any format from hostile bytes: [format][flags][options][which files are absent], then the files of the format, all but the last
 * behind 2 bytes that say their length. What opens must work, and gives finite codes. */
#include "fuzz.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NO_CHECK = 1, COPY = 2, PREPARE = 4, MOST_FILES = 5, LARGEST_ROW = 1 << 22 };

/* The files of a checkpoint, and what is opened of it ("": its folder). Numbers are never reused: the corpus has them. */
static const struct format {
    const char *open, *files[MOST_FILES + 1];
} formats[] = {
    {"", {"cfg.json", "sae_weights.safetensors"}},
    {"", {"cfg.json", "sae_weights.safetensors.index.json", "a.safetensors", "b.safetensors"}},
    {"", {"params.npz"}},
    {"/embedding", {"embedding/params.npz"}},
    {"", {"config.json", "params.safetensors"}},
    {"", {"config.json", "params_layer_0.safetensors", "params_layer_1.safetensors"}},
    {"", {"config.json", "ae.pt"}},
    {"", {"config.json", "model.safetensors"}},
    {"", {"cfg.json", "sae.safetensors"}},
    {"/6.pt", {"6.pt"}},
    {"/SAE-l19.pt", {"SAE-l19.pt"}},
    {"/W32K-L0_2", {"W32K-L0_2/layer0.sae.pt"}},
    {"", {"x_cfg.json", "x.pt"}},
    {"", {"hyperparams.json", "checkpoints/final.safetensors"}},
    {"", {"config.json", "sae_weights.safetensors"}},
    {"", {"config.yaml", "layer_0.safetensors"}},
    {"", {"config.yaml", "W_enc_0.safetensors", "W_dec_0.safetensors", "W_enc_1.safetensors", "W_dec_1.safetensors"}},
    {"", {"conf.yaml", "latest_ckpt.safetensors"}},
    {"", {"x.gguf"}},
    {"", {"config.json", "model_final.pt"}},
    {"/sae_weights.safetensors", {"sae_weights.safetensors"}},
    {"/x.npz", {"x.npz"}},
    {"", {"hyperparams.json", "sae_weights.pt"}},
    {"/checkpoints/ae_1.pt", {"config.json", "checkpoints/ae_1.pt"}},
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static const char *const archs[] = {NULL, "standard", "topk", "jumprelu", "gated", "no such", NULL, NULL};
static const char *const layers[] = {NULL, NULL, "0", "1"};
static const char *const norms[] = {NULL, NULL, NULL, NULL, "none", "layer_norm", "constant_norm_rescale", "expected_average_only_in"};

static char root[64];

static void path_of(char out[160], size_t format, const char *name)
{
    snprintf(out, 160, "%s/%zu/%s", root, format, name);
}

static void sweep(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", root);
    if (system(command))
        fprintf(stderr, "%s is left\n", root);
}

/* Each format has a folder of its own. */
static void make_folders(void)
{
    char path[160];
    if (*root)
        return;
    snprintf(root, sizeof root, "%s/saefuzzXXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    fuzz_need(mkdtemp(root) != NULL, "a folder can be made");
    atexit(sweep);
    for (size_t i = 0; i < N_FORMATS; i++) {
        path_of(path, i, "");
        mkdir(path, 0700);
        for (int k = 0; formats[i].files[k]; k++) {
            path_of(path, i, formats[i].files[k]);
            *strrchr(path, '/') = '\0';
            mkdir(path, 0700);
        }
    }
}

static void write_file(const char *path, const uint8_t *data, size_t size)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    fuzz_need(fd >= 0 && write(fd, data, size) == (ssize_t)size && close(fd) == 0, "a file can be written");
}

static void write_files(input *in, size_t format, uint8_t absent)
{
    char path[160];
    for (int k = 0; formats[format].files[k]; k++) {
        const bool last = !formats[format].files[k + 1];
        const size_t length = last ? in->left : (size_t)input_byte(in) + 256u * input_byte(in), n = length < in->left ? length : in->left;
        path_of(path, format, formats[format].files[k]);
        if (absent >> k & 1)
            unlink(path);
        else
            write_file(path, in->at, n);
        in->at += n;
        in->left -= n;
    }
}

/* One row through everything that reads the weights. */
static void use(sae_model *model, const sae_info *info, bool finite)
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
    for (int64_t i = 0; i < indptr[1]; i++)
        fuzz_need(values[i] != 0.0f && (!finite || isfinite(values[i])), "a code is a number and not 0");
    fuzz_need(sae_decode(ctx, &out, &codes) == SAE_OK, "its codes are decoded");
    fuzz_need(sae_forward(ctx, &out, &rows) == SAE_OK, "a row goes through");
    sae_ctx_free(ctx);
    free(x);
    free(y);
    free(values);
    free(indices);
}

static void look_at(sae_model *model, uint8_t flags)
{
    sae_error err = {.struct_size = sizeof err};
    sae_info info = {.struct_size = sizeof info};
    fuzz_need(sae_model_info(model, &info) == SAE_OK && info.d_in > 0 && info.d_sae > 0 && info.d_out > 0, "a model has sizes");
    for (int32_t i = 0; i <= sae_model_n_warnings(model); i++)
        fuzz_need(sae_model_warning(model, i) != NULL, "a warning is a text");
    for (int32_t what = 0; what < 9; what++)
        fuzz_need(sae_model_text(model, what) != NULL, "a text is a text");
    const sae_status checked = sae_model_check(model, &err);
    fuzz_need(checked == SAE_OK || (flags & NO_CHECK), "what was checked while opening is fine later");
    if (flags & PREPARE && sae_model_prepare(model, SAE_PREPARE_ROWS | SAE_PREPARE_PANELS, &err) != SAE_OK)
        fuzz_need(checked != SAE_OK, "what was checked can be prepared");
    if (info.d_in < LARGEST_ROW && info.d_out < LARGEST_ROW && info.d_sae < LARGEST_ROW)
        use(model, &info, checked == SAE_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[160];
    input in = {data, size};
    const size_t format = input_byte(&in) % N_FORMATS;
    const uint8_t flags = input_byte(&in), option = input_byte(&in), absent = input_byte(&in);
    make_folders();
    write_files(&in, format, absent);
    path_of(path, format, *formats[format].open ? formats[format].open + 1 : "");
    const sae_open_options options = {.struct_size = sizeof options,
                                      .check = flags & NO_CHECK ? SAE_NO : SAE_DEFAULT,
                                      .copy = flags & COPY ? SAE_YES : SAE_NO,
                                      .k = flags >> 4,
                                      .architecture = archs[option & 7],
                                      .layer = layers[option >> 3 & 3],
                                      .normalize_activations = norms[option >> 5]};
    sae_error err = {.struct_size = sizeof err};
    sae_model *model = NULL;
    const sae_status status = sae_model_open(&model, fuzz_env(), path, &options, &err);
    fuzz_need(status == err.status && (status == SAE_OK) == (model != NULL), "a model or an error, never both");
    fuzz_need((status == SAE_OK) == (*err.text == 0) && strlen(err.text) < sizeof err.text, "an error has a sentence");
    if (model)
        look_at(model, flags);
    sae_model_free(model);
    return 0;
}
