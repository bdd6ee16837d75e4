/* What readers of formats refuse and by which sentence, folders as people have them, element types, and decoder rows that nothing divides by. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/checkpoint.h"
#include "support/run.h"
#include "support/support.h"

enum { D = 3, N = 4, LARGEST_ASK = 1 << 20 };

static sae_env *env;
static sae_error err;

/* Small files ask for little memory, whatever they say. */
static void *limited_alloc(void *user, size_t bytes, size_t alignment)
{
    void *p = NULL;
    (void)user;
    ck_assert_msg(bytes <= LARGEST_ASK, "%zu bytes were asked for", bytes);
    return posix_memalign(&p, alignment, bytes) ? NULL : p;
}

static void limited_free(void *user, void *p, size_t bytes, size_t alignment)
{
    (void)user;
    (void)bytes;
    (void)alignment;
    free(p);
}

static void setup(void)
{
    const sae_env_options opt = {.struct_size = sizeof opt, .alloc = limited_alloc, .dealloc = limited_free};
    ACCEPTED(sae_env_create(&env, &opt, &err));
}

static void teardown(void)
{
    sae_env_free(env);
}

/* ---- small checkpoints ---- */

typedef struct tensor {
    const char *name, *shape;
    size_t n;
} tensor;

typedef struct format {
    const char *weights, *config_name, *config; /* config_name NULL: none */
    tensor tensors[8];
} format;

static const format saelens = {"sae_weights.safetensors",
                               "cfg.json",
                               "{\"architecture\":\"standard\",\"d_in\":3,\"d_sae\":4}",
                               {{"W_enc", "[3,4]", 12}, {"W_dec", "[4,3]", 12}, {"b_enc", "[4]", 4}, {"b_dec", "[3]", 3}}};
static const format pursuit = {"sae_weights.safetensors",
                               "cfg.json",
                               "{\"architecture\":\"matching_pursuit\",\"d_in\":3,\"d_sae\":4,\"max_iterations\":65536}",
                               {{"W_dec", "[4,3]", 12}, {"b_dec", "[3]", 3}}};
static const format sparsify = {"sae.safetensors",
                                "cfg.json",
                                "{\"d_in\":3,\"num_latents\":4,\"k\":2}",
                                {{"encoder.weight", "[4,3]", 12}, {"encoder.bias", "[4]", 4}, {"W_dec", "[4,3]", 12}, {"b_dec", "[3]", 3}}};
static const format gemma = {
    "params.safetensors",
    NULL,
    NULL,
    {{"w_enc", "[3,4]", 12}, {"w_dec", "[4,3]", 12}, {"b_enc", "[4]", 4}, {"b_dec", "[3]", 3}, {"threshold", "[4]", 4}}};
static const format transcoder = {
    "layer_0.safetensors",
    NULL,
    NULL,
    {{"W_enc", "[4,3]", 12}, {"W_dec", "[4,2]", 8}, {"b_enc", "[4]", 4}, {"b_dec", "[2]", 2}, {"activation_function.threshold", "[4]", 4}}};
static const format select_k = {
    "model.safetensors",
    "config.json",
    "{\"trainer\":{\"dict_class\":\"AutoEncoderTopK\",\"k\":2}}",
    {{"encoder.weight", "[4,3]", 12}, {"decoder.weight", "[3,4]", 12}, {"encoder.bias", "[4]", 4}, {"b_dec", "[3]", 3}}};
#define LLAMASCOPIUM "{\"sae_type\":\"sae\",\"d_model\":3,\"expansion_factor\":1.34"
static const format llamascopium = {"sae_weights.safetensors",
                                    "config.json",
                                    LLAMASCOPIUM ",\"act_fn\":\"jumprelu\"}",
                                    {{"W_E", "[3,4]", 12},
                                     {"W_D", "[4,3]", 12},
                                     {"b_E", "[4]", 4},
                                     {"b_D", "[3]", 3},
                                     {"activation_function.log_jumprelu_threshold", "[4]", 4}}};
#define LLAMA "{\"d_model\":3,\"d_sae\":4"
static const format llama = {
    "sae_weights.safetensors",
    "hyperparams.json",
    LLAMA ",\"act_fn\":\"jumprelu\",\"jump_relu_threshold\":0.5}",
    {{"encoder.weight", "[4,3]", 12}, {"decoder.weight", "[3,4]", 12}, {"encoder.bias", "[4]", 4}, {"decoder.bias", "[3]", 3}}};
static const format apollo = {
    "x.safetensors",
    NULL,
    NULL,
    {{"encoder.0.weight", "[4,3]", 12}, {"encoder.0.bias", "[4]", 4}, {"decoder.weight", "[3,4]", 12}, {"decoder.bias", "[3]", 3}}};
static const format crosscoder = {"model.safetensors",
                                  "config.json",
                                  "{}",
                                  {{"encoder.weight", "[2,3,4]", 24},
                                   {"decoder.weight", "[2,4,3]", 24},
                                   {"encoder.bias", "[4]", 4},
                                   {"decoder.bias", "[2,3]", 6},
                                   {"activation_mean", "[2,3]", 6},
                                   {"activation_global_scale", "[2]", 2},
                                   {"threshold", "[]", 1},
                                   {"code_normalization_id", "[]", 1}}};

static void save_as(checkpoint *c, const char *weights)
{
    char path[600];
    checkpoint_write(c, NULL);
    snprintf(path, sizeof path, "%s/%s", c->dir, weights);
    ck_assert_int_eq(rename(c->path, path), 0);
}

/* The values of a tensor, of which `last` may stand for the last, and `value` for those of a feature's decoder row that is `dead`. */
static void fill(float *v, const tensor *t, const char *poisoned, float last)
{
    for (size_t i = 0; i < t->n; i++)
        v[i] = 0.25f * (float)(i % 7 + 1) * (i % 2 ? -1.0f : 1.0f);
    if (strcmp(t->name, "code_normalization_id") == 0)
        v[0] = 1.0f;
    if (poisoned && strcmp(t->name, poisoned) == 0)
        v[t->n - 1] = last;
}

static void write_format(checkpoint *c, const format *f, const char *config, const tensor *other, const char *poisoned, float last)
{
    float v[32];
    for (const tensor *t = f->tensors; t < f->tensors + 8 && t->name; t++) {
        const tensor *use = other && strcmp(other->name, t->name) == 0 ? other : t;
        fill(v, use, poisoned, last);
        if (use->n || use == other)
            checkpoint_tensor(c, use->name, "F32", use->shape, v, use->n * sizeof *v);
    }
    if (other && other->n == 1) { /* one more, not in place of another */
        fill(v, other, poisoned, last);
        checkpoint_tensor(c, other->name, "F32", other->shape, v, sizeof *v);
    }
    save_as(c, f->weights);
    const char *text = config ? config : f->config;
    if (text)
        checkpoint_file(c, f->config_name ? f->config_name : "config.yaml", text, strlen(text));
}

/* ---- refusals ---- */

static const struct {
    const format *format;
    const char *config;   /* in place of its own */
    tensor other;         /* in place of its namesake, or beside the others where it has one value */
    const char *poisoned; /* a tensor whose last value is NaN */
    sae_open_options opt;
    sae_status status;
    const char *words;
} refused[] = {
    {&llamascopium, "{\"sae_type\":\"lorsa\"}", .status = SAE_E_UNSUPPORTED, .words = "lorsa|replaces attention"},
    {&llamascopium, "{\"sae_type\":\"molt\"}", .status = SAE_E_UNSUPPORTED, .words = "molt|mixture of linear transforms"},
    {&llamascopium, LLAMASCOPIUM ",\"use_glu_encoder\":true}", .status = SAE_E_UNSUPPORTED, .words = "use_glu_encoder = true"},
    {&llamascopium, LLAMASCOPIUM ",\"act_fn\":\"batchtopk\"}", .status = SAE_E_UNSUPPORTED,
     .words = "act_fn|batchtopk|topk for one hook point"},
    {&llamascopium, LLAMASCOPIUM ",\"act_fn\":\"topk\"}", .status = SAE_E_FORMAT, .words = "does not say the k|option k"},
    {&llamascopium, LLAMASCOPIUM ",\"act_fn\":\"topk\",\"top_k\":5}", .status = SAE_E_FORMAT, .words = "k = 5|1 .. d_sae = 4"},
    {&llamascopium, LLAMASCOPIUM ",\"norm_activation\":\"dataset-wise\"}", .status = SAE_E_FORMAT, .words = "hook point"},
    {&llamascopium, "{\"sae_type\":\"sae\"}", .status = SAE_E_FORMAT, .words = "config.json has no d_model"},
    {&llamascopium, "{\"sae_type\":\"sae\",\"d_model\":3}", .status = SAE_E_FORMAT, .words = "expansion_factor = 0 is no size"},
    {&llamascopium, "{\"sae_type\":\"crosscoder\",\"d_model\":3,\"expansion_factor\":2}", .status = SAE_E_FORMAT,
     .words = "no hook_points"},
    {&llamascopium, "{\"sae_type\":\"clt\",\"d_model\":3,\"expansion_factor\":2}", .status = SAE_E_FORMAT, .words = "no hook_points_in"},
    {&llamascopium, "{\"sae_type\":\"crosscoder\",\"d_model\":3,\"expansion_factor\":500000000,\"hook_points\":[\"a\"]}",
     .status = SAE_E_FORMAT, .words = "W_E is not [1][3][1500000000]"},
    {&llamascopium,
     NULL,
     {"activation_function.log_jumprelu_threshold", "[3]", 3},
     .status = SAE_E_FORMAT,
     .words = "has 3 values|d_sae = 4"},
    {&llamascopium, NULL, .poisoned = "b_E", .status = SAE_E_FORMAT, .words = "b_E[3] is nan"},
    {&pursuit, "{\"architecture\":\"matching_pursuit\",\"d_in\":3,\"d_sae\":4,\"max_iterations\":65537}", .status = SAE_E_UNSUPPORTED,
     .words = "65537 rounds|65536"},
    {&sparsify, "{\"num_latents\":4}", .status = SAE_E_FORMAT, .words = "cfg.json has no d_in"},
    {&sparsify, "{\"d_in\":3,\"num_latents\":4,\"k\":9}", .status = SAE_E_FORMAT, .words = "k = 9|1 .. d_sae = 4"},
    {&sparsify, NULL, .opt.k = 9, .status = SAE_E_ARG, .words = "the option k = 9|1 .. d_sae = 4"},
    {&sparsify, "{\"d_in\":3,\"num_latents\":4,\"activation\":\"x\"}", .status = SAE_E_UNSUPPORTED, .words = "neither topk nor groupmax"},
    {&sparsify, NULL, {"encoder.bias", "[3]", 3}, .status = SAE_E_FORMAT, .words = "encoder.bias has 3 values|num_latents = 4"},
    {&sparsify, NULL, .poisoned = "b_dec", .status = SAE_E_FORMAT, .words = "b_dec[2] is nan"},
    {&llama, LLAMA ",\"act_fn\":\"relu\",\"use_glu_encoder\":true}", .status = SAE_E_UNSUPPORTED, .words = "use_glu_encoder = true"},
    {&llama, LLAMA ",\"act_fn\":\"gelu\"}", .status = SAE_E_UNSUPPORTED, .words = "gelu|none of relu, jumprelu, topk"},
    {&llama, LLAMA ",\"act_fn\":\"topk\"}", .status = SAE_E_FORMAT, .words = "does not say the k|option k"},
    {&llama, LLAMA ",\"act_fn\":\"relu\",\"norm_activation\":\"dataset-wise\"}", .status = SAE_E_FORMAT,
     .words = "no dataset_average_activation_norm"},
    {&llama, LLAMA ",\"act_fn\":\"relu\",\"norm_activation\":\"dataset-wise\",\"dataset_average_activation_norm\":{\"in\":1e300}}",
     .status = SAE_E_FORMAT, .words = "becomes|not a finite number"},
    {&llama, "{\"d_model\":3}", .status = SAE_E_FORMAT, .words = "hyperparams.json has no d_sae"},
    {&llama, NULL, {"encoder.bias", "[3]", 3}, .status = SAE_E_FORMAT, .words = "encoder.bias has 3 values|d_sae = 4"},
    {&gemma, NULL, {"threshold", "[3]", 3}, .status = SAE_E_FORMAT, .words = "threshold has 3 values|d_sae = 4"},
    {&gemma, NULL, {"w_enc", "[0,4]", 0}, .status = SAE_E_FORMAT, .words = "w_enc is 0 x 4|sizes are 1"},
    {&gemma, NULL, {"threshold", "[0]", 0}, .status = SAE_E_FORMAT, .words = "threshold has 0 values"},
    {&gemma, NULL, .poisoned = "threshold", .status = SAE_E_FORMAT, .words = "threshold[3] is nan"},
    {&gemma, NULL, .opt.d_in = 99, .status = SAE_E_SHAPE, .words = "d_in = 3|expects d_in = 99"},
    {&transcoder, NULL, {"activation_function.threshold", "[3]", 3}, .status = SAE_E_FORMAT, .words = "has 3 values|d_transcoder = 4"},
    {&transcoder, NULL, .poisoned = "b_dec", .status = SAE_E_FORMAT, .words = "b_dec[1] is nan"},
    {&transcoder, NULL, .opt.layer = "7", .status = SAE_E_ARG, .words = "layer = 7|no layer_7.safetensors"},
    {&transcoder, NULL, .opt.layer = "../x", .status = SAE_E_ARG, .words = "neither a number nor the name"},
    {&transcoder, NULL, .opt.layer = "", .status = SAE_E_ARG, .words = "neither a number nor the name"},
    {&transcoder, NULL, .opt.d_out = 3, .status = SAE_E_SHAPE, .words = "d_out = 2|expects d_out = 3"},
    {&transcoder, NULL, .opt.apply_b_dec = SAE_YES, .status = SAE_E_ARG, .words = "apply_b_dec needs d_in = d_out|3 and 2"},
    {&transcoder, "activation: gelu", .status = SAE_E_UNSUPPORTED, .words = "none of relu, jump_relu, topk"},
    {&select_k, "{}", .status = SAE_E_FORMAT, .words = "no config.json says which|architecture = topk or jumprelu"},
    {&select_k, "{\"trainer\":{\"dict_class\":\"AutoEncoderTopK\"}}", .status = SAE_E_FORMAT, .words = "does not say the k|option k"},
    {&select_k, NULL, .opt.k = 5, .status = SAE_E_ARG, .words = "the option k = 5|1 .. d_sae = 4"},
    {&select_k,
     "{\"trainer\":{\"dict_class\":\"AutoEncoderTopK\"}}",
     {"k", "[]", 1},
     "k",
     .status = SAE_E_FORMAT,
     .words = "k = nan is no count"},
    {&select_k,
     "{\"trainer\":{\"dict_class\":\"AutoEncoderTopK\"}}",
     {"k", "[1]", 1},
     .status = SAE_E_FORMAT,
     .words = "k = 0.25 is no count"},
    {&select_k, "{\"trainer\":{\"dict_class\":\"Other\"}}", .status = SAE_E_UNSUPPORTED, .words = "Other|AutoEncoderTopK"},
    {&select_k, NULL, .poisoned = "encoder.bias", .status = SAE_E_FORMAT, .words = "encoder.bias[3] is nan"},
    {&crosscoder, NULL, {"activation_mean", "[5]", 5}, .status = SAE_E_FORMAT, .words = "activation_mean has another number|6"},
    {&crosscoder, NULL, {"decoder.bias", "[2,3,0]", 0}, .status = SAE_E_FORMAT, .words = "are not [layers][d][n]"},
    {&apollo, NULL, .poisoned = "decoder.bias", .status = SAE_E_FORMAT, .words = "decoder.bias[2] is nan"},
    {&saelens, NULL, .opt.norm_scaling_factor = 1e-45f, .opt.normalize_activations = "expected_average_only_in", .status = SAE_E_ARG,
     .words = "norm_scaling_factor|inverse"},
};

START_TEST(refusals)
{
    checkpoint c;
    sae_model *model;
    sae_open_options opt = refused[_i].opt;
    opt.struct_size = sizeof opt;
    checkpoint_begin(&c);
    write_format(&c, refused[_i].format, refused[_i].config, refused[_i].other.name ? &refused[_i].other : NULL, refused[_i].poisoned, NAN);
    REFUSED(refused[_i].status, refused[_i].words, sae_model_open(&model, env, c.dir, &opt, &err));
    ck_assert_ptr_null(model);
    checkpoint_end(&c);
}
END_TEST

/* The tables above are refused for what they say, not for what they are. */
START_TEST(unspoiled)
{
    static const format *const all[] = {&saelens,    &llama,    &pursuit,      &sparsify, &gemma,
                                        &transcoder, &select_k, &llamascopium, &apollo,   &crosscoder};
    checkpoint c;
    sae_model *model;
    for (size_t i = 0; i < LENGTH(all); i++) {
        checkpoint_begin(&c);
        write_format(&c, all[i], NULL, NULL, NULL, 0.0f);
        ACCEPTED(sae_model_open(&model, env, c.dir, NULL, &err));
        sae_model_free(model);
        checkpoint_end(&c);
    }
}
END_TEST

/* ---- what nothing is divided by ---- */

static void check_finite(sae_model *model, bool dead_is_silent)
{
    sae_info info = {.struct_size = sizeof info};
    float x[2 * 8], y[2 * 8] = {0};
    ck_assert_int_eq(sae_model_info(model, &info), SAE_OK);
    for (int i = 0; i < 16; i++)
        x[i] = (float)(i % 5) - (i < info.d_in ? 2.0f : -2.0f);
    sae_ctx *ctx = ctx_make(model, 2);
    const sae_rows rows = rows_plain(x, 2, info.d_in), out = rows_plain(y, 2, info.d_out);
    sae_codes codes = codes_of(ctx, &rows);
    for (int64_t i = 0; i < codes.indptr[2]; i++) {
        ck_assert_float_finite(codes.values[i]);
        ck_assert(!dead_is_silent || codes.indices[i] % N != N - 1);
    }
    CTX_ACCEPTED(ctx, sae_decode(ctx, &out, &codes));
    for (int32_t i = 0; i < 2 * info.d_out; i++)
        ck_assert_float_finite(y[i]);
    codes_free(&codes);
    sae_ctx_free(ctx);
}

/* Decoder rows of feature 3 are zero, or so small that their length has no inverse. */
static void write_dead(checkpoint *c, const format *f, const char *config, float small)
{
    for (const tensor *t = f->tensors; t < f->tensors + 8 && t->name; t++) {
        float v[32];
        fill(v, t, NULL, 0.0f);
        const bool by_rows = strcmp(t->name, "W_D") == 0 || (strcmp(t->name, "decoder.weight") == 0 && t->n == 24);
        const bool by_columns = strcmp(t->name, "decoder.weight") == 0 && t->n == 12;
        for (size_t i = 0; i < t->n; i++)
            if ((by_rows && i / D % N == N - 1) || (by_columns && i % N == N - 1))
                v[i] = small;
        if (strcmp(t->name, "activation_function.log_jumprelu_threshold") == 0)
            memset(v, 0, sizeof v);
        checkpoint_tensor(c, t->name, "F32", t->shape, v, t->n * sizeof *v);
    }
    save_as(c, f->weights);
    if (config)
        checkpoint_file(c, f->config_name, config, strlen(config));
}

static const struct {
    const format *format;
    const char *config;
    bool silent;
} dead[] = {{&llamascopium, LLAMASCOPIUM ",\"act_fn\":\"jumprelu\"}", true},
            {&llamascopium, LLAMASCOPIUM ",\"act_fn\":\"relu\"}", false},
            {&llamascopium, LLAMASCOPIUM ",\"act_fn\":\"topk\",\"top_k\":3}", false},
            {&llama, LLAMA ",\"act_fn\":\"relu\"}", false},
            {&llama, LLAMA ",\"act_fn\":\"jumprelu\",\"jump_relu_threshold\":0.5}", true},
            {&apollo, NULL, false},
            {&crosscoder, "{}", true}};

START_TEST(dead_decoder_rows)
{
    static const float lengths[] = {0.0f, 1e-45f, 1e-40f};
    checkpoint c;
    sae_model *model;
    for (size_t i = 0; i < LENGTH(lengths); i++) {
        checkpoint_begin(&c);
        write_dead(&c, dead[_i].format, dead[_i].config, lengths[i]);
        ACCEPTED(sae_model_open(&model, env, c.dir, NULL, &err));
        ACCEPTED(sae_model_check(model, &err));
        check_finite(model, dead[_i].silent);
        sae_model_free(model);
        checkpoint_end(&c);
    }
}
END_TEST

/* NaN in the normaliser of a crosscoder stands for none; infinity does not. */
START_TEST(normaliser_of_nan)
{
    sae_info info = {.struct_size = sizeof info};
    checkpoint c;
    sae_model *model;
    checkpoint_begin(&c);
    write_format(&c, &crosscoder, NULL, NULL, "activation_global_scale", NAN);
    ACCEPTED(sae_model_open(&model, env, c.dir, NULL, &err));
    ck_assert_int_eq(sae_model_info(model, &info), SAE_OK);
    ck_assert_int_eq(info.norm, SAE_NORM_NONE);
    ACCEPTED(sae_model_check(model, &err));
    check_finite(model, false);
    sae_model_free(model);
    checkpoint_clear(&c);
    write_format(&c, &crosscoder, NULL, NULL, "activation_mean", INFINITY);
    REFUSED(SAE_E_FORMAT, "normaliser is not finite", sae_model_open(&model, env, c.dir, NULL, &err));
    checkpoint_end(&c);
}
END_TEST

/* ---- types ---- */

/* 1, -2, 0.5, 448 and 0 in every type that weights may have. */
static const struct {
    const char *dtype;
    size_t each;
    unsigned char bytes[5][8];
} types[] = {{"F64", 8, {{[6] = 0xf0, 0x3f}, {[7] = 0xc0}, {[6] = 0xe0, 0x3f}, {[6] = 0x7c, 0x40}, {0}}},
             {"F32", 4, {{[2] = 0x80, 0x3f}, {[3] = 0xc0}, {[3] = 0x3f}, {[2] = 0xe0, 0x43}, {0}}},
             {"F16", 2, {{0, 0x3c}, {0, 0xc0}, {0, 0x38}, {0, 0x5f}, {0}}},
             {"BF16", 2, {{0x80, 0x3f}, {0, 0xc0}, {0, 0x3f}, {0xe0, 0x43}, {0}}},
             {"F8_E4M3", 1, {{0x38}, {0xc0}, {0x30}, {0x7e}, {0}}},
             {"F8_E5M2", 1, {{0x3c}, {0xc0}, {0x38}, {0x5f}, {0}}}};
static const float same[] = {1.0f, -2.0f, 0.5f, 448.0f, 0.0f};

START_TEST(element_types)
{
    checkpoint c;
    sae_model *model;
    unsigned char data[12 * 8];
    float got[12];
    checkpoint_begin(&c);
    for (size_t i = 0; i < 12; i++)
        memcpy(data + i * types[_i].each, types[_i].bytes[i % 5], types[_i].each);
    for (const tensor *t = saelens.tensors; t->name; t++)
        checkpoint_tensor(&c, t->name, types[_i].dtype, t->shape, data, t->n * types[_i].each);
    checkpoint_write(&c, saelens.config);
    ACCEPTED(sae_model_open(&model, env, c.dir, NULL, &err));
    ACCEPTED(sae_model_read(model, SAE_W_DEC, 0, N, got, &err));
    for (int i = 0; i < 12; i++)
        ck_assert_msg(got[i] == same[i % 5], "%s: W_dec %d is %g", types[_i].dtype, i, (double)got[i]);
    ACCEPTED(sae_model_read(model, SAE_W_ENC, 0, N, got, &err));
    for (int j = 0; j < N; j++)
        for (int k = 0; k < D; k++)
            ck_assert_msg(got[j * D + k] == same[(k * N + j) % 5], "%s: W_enc %d, %d is %g", types[_i].dtype, j, k, (double)got[j * D + k]);
    ACCEPTED(sae_model_read(model, SAE_B_ENC, 0, N, got, &err));
    for (int i = 0; i < N; i++)
        ck_assert_msg(got[i] == same[i], "%s: b_enc %d is %g", types[_i].dtype, i, (double)got[i]);
    sae_model_free(model);
    checkpoint_end(&c);
}
END_TEST

/* ---- folders ---- */

/* W_enc and b_enc in one file, W_dec and b_dec in the other. */
static void write_shards(checkpoint *c, const char *index)
{
    for (int half = 0; half < 2; half++) {
        checkpoint_clear(c);
        for (int i = half; i < 4; i += 2) /* W_enc, b_enc; W_dec, b_dec */
            checkpoint_floats(c, saelens.tensors[i].name, saelens.tensors[i].shape, saelens.tensors[i].n);
        save_as(c, half ? "b.safetensors" : "a.safetensors");
    }
    checkpoint_file(c, "cfg.json", saelens.config, strlen(saelens.config));
    checkpoint_file(c, "sae_weights.safetensors.index.json", index, strlen(index));
}

/* What is named instead of its folder. */
START_TEST(named_files)
{
    static const char index[] = "{\"weight_map\":{\"W_enc\":\"a.safetensors\",\"W_dec\":\"b.safetensors\"}}";
    char path[600];
    checkpoint c;
    sae_model *model;
    checkpoint_begin(&c);
    write_shards(&c, index);
    snprintf(path, sizeof path, "%s/sae_weights.safetensors.index.json", c.dir);
    ACCEPTED(sae_model_open(&model, env, path, NULL, &err));
    sae_model_free(model);
    snprintf(path, sizeof path, "%s/a.safetensors", c.dir);
    REFUSED(SAE_E_UNSUPPORTED, "a.safetensors|cfg.json|open the folder", sae_model_open(&model, env, path, NULL, &err));
    checkpoint_end(&c);
    checkpoint_begin(&c);
    write_format(&c, &crosscoder, NULL, NULL, NULL, 0.0f);
    checkpoint_remove(&c, "config.json");
    snprintf(path, sizeof path, "%s/model.safetensors", c.dir);
    ACCEPTED(sae_model_open(&model, env, path, NULL, &err)); /* its tensors say all */
    ck_assert_str_eq(sae_model_text(model, SAE_TEXT_FORMAT), "dictionary_learning");
    sae_model_free(model);
    checkpoint_end(&c);
}
END_TEST

static const struct {
    const char *index;
    sae_status status;
    const char *words;
} shards[] = {{"{\"weight_map\":{\"W_enc\":\"a.safetensors\",\"W_dec\":\"b.safetensors\"}}", SAE_OK, ""},
              {"{\"weight_map\":{\"W_enc\":\"a.safetensors\",\"W_dec\":\"c.safetensors\"}}", SAE_E_IO, "c.safetensors|No such file"},
              {"{\"weight_map\":{\"W_enc\":\"a.safetensors\"}}", SAE_E_FORMAT, "has no tensor"},
              {"{\"weight_map\":{\"W_enc\":\"../a.safetensors\"}}", SAE_E_FORMAT, "../a.safetensors|no file of this folder"},
              {"{\"weight_map\":{\"W_enc\":\"..\"}}", SAE_E_FORMAT, "no file of this folder"},
              {"{\"weight_map\":{\"W_enc\":\"\"}}", SAE_E_FORMAT, "no file of this folder"},
              {"{\"weight_map\":{\"W_enc\":7}}", SAE_E_FORMAT, "no file of this folder"},
              {"{\"weight_map\":[\"a.safetensors\"]}", SAE_E_FORMAT, "no weight_map"},
              {"{}", SAE_E_FORMAT, "no weight_map"},
              {"[", SAE_E_FORMAT, "sae_weights.safetensors.index.json"}};

START_TEST(sharded)
{
    checkpoint c;
    sae_model *model;
    checkpoint_begin(&c);
    write_shards(&c, shards[_i].index);
    if (shards[_i].status) {
        REFUSED(shards[_i].status, shards[_i].words, sae_model_open(&model, env, c.dir, NULL, &err));
    } else {
        ACCEPTED(sae_model_open(&model, env, c.dir, NULL, &err));
        check_finite(model, false);
        sae_model_free(model);
    }
    checkpoint_end(&c);
}
END_TEST

/* snapshots/<commit>/<file> -> ../../blobs/<hash>, as Hugging Face's cache keeps a repository. */
START_TEST(cache_of_hugging_face)
{
    char place[600], path[700];
    checkpoint c;
    sae_model *model;
    checkpoint_begin(&c);
    write_format(&c, &saelens, NULL, NULL, NULL, 0.0f);
    const char *const folders[] = {"blobs", "snapshots", "snapshots/c0ffee"};
    for (size_t i = 0; i < LENGTH(folders); i++) {
        snprintf(path, sizeof path, "%s/%s", c.dir, folders[i]);
        ck_assert_int_eq(mkdir(path, 0700), 0);
    }
    const char *const files[][2] = {{"cfg.json", "1a2b"}, {"sae_weights.safetensors", "3c4d"}};
    for (size_t i = 0; i < LENGTH(files); i++) {
        char target[100];
        snprintf(place, sizeof place, "%s/%s", c.dir, files[i][0]);
        snprintf(path, sizeof path, "%s/blobs/%s", c.dir, files[i][1]);
        ck_assert_int_eq(rename(place, path), 0);
        snprintf(target, sizeof target, "../../blobs/%s", files[i][1]);
        snprintf(path, sizeof path, "%s/snapshots/c0ffee/%s", c.dir, files[i][0]);
        ck_assert_int_eq(symlink(target, path), 0);
    }
    snprintf(place, sizeof place, "%s/snapshots/c0ffee", c.dir);
    ACCEPTED(sae_model_open(&model, env, place, NULL, &err));
    ck_assert_str_eq(sae_model_text(model, SAE_TEXT_FORMAT), "saelens");
    sae_model_free(model);
    ck_assert_int_eq(symlink("snapshots/c0ffee", strcat(strcpy(path, c.dir), "/latest")), 0);
    ACCEPTED(sae_model_open(&model, env, path, NULL, &err));
    sae_model_free(model);
    snprintf(path, sizeof path, "cd %s && rm -r blobs snapshots latest", c.dir);
    ck_assert_int_eq(system(path), 0);
    checkpoint_end(&c);
}
END_TEST

/* What is no file is refused at once: reading a pipe would never end. */
START_TEST(no_files)
{
    static const char name[] = "sae_weights.safetensors";
    char path[600];
    checkpoint c;
    sae_model *model;
    checkpoint_begin(&c);
    checkpoint_file(&c, "cfg.json", saelens.config, strlen(saelens.config));
    snprintf(path, sizeof path, "%s/%s", c.dir, name);
    ck_assert_int_eq(symlink(name, path), 0);
    REFUSED(SAE_E_IO, "sae_weights.safetensors|Too many levels|symbolic links", sae_model_open(&model, env, c.dir, NULL, &err));
    checkpoint_remove(&c, name);
    ck_assert_int_eq(symlink("nowhere", path), 0);
    REFUSED(SAE_E_IO, "sae_weights.safetensors|No such file", sae_model_open(&model, env, c.dir, NULL, &err));
    checkpoint_remove(&c, name);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    REFUSED(SAE_E_IO, "a device, pipe or socket", sae_model_open(&model, env, c.dir, NULL, &err));
    REFUSED(SAE_E_IO, "a device, pipe or socket", sae_model_open(&model, env, path, NULL, &err));
    checkpoint_remove(&c, name);
    ck_assert_int_eq(symlink("/dev/zero", path), 0);
    REFUSED(SAE_E_IO, "a device, pipe or socket", sae_model_open(&model, env, c.dir, NULL, &err));
    checkpoint_remove(&c, name);
    ck_assert_int_eq(symlink(".", path), 0);
    REFUSED(SAE_E_IO, "is a folder, it must be a file", sae_model_open(&model, env, c.dir, NULL, &err));
    checkpoint_end(&c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("formats");
    TCase *tc = tcase_create("formats");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 30);
    tcase_add_loop_test(tc, refusals, 0, LENGTH(refused));
    tcase_add_test(tc, unspoiled);
    tcase_add_loop_test(tc, dead_decoder_rows, 0, LENGTH(dead));
    tcase_add_test(tc, normaliser_of_nan);
    tcase_add_loop_test(tc, element_types, 0, LENGTH(types));
    tcase_add_test(tc, named_files);
    tcase_add_loop_test(tc, sharded, 0, LENGTH(shards));
    tcase_add_test(tc, cache_of_hugging_face);
    tcase_add_test(tc, no_files);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
