/* Every option stands once in the table; parsing and help both come from it. */
#include "program.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum {
    ID_MODEL = 1000,
    ID_NAME,
    ID_TOKENIZER,
    ID_PROMPT,
    ID_TOKENS,
    ID_NEW,
    ID_TEMPERATURE,
    ID_TOP_K,
    ID_SEED,
    ID_SAE,
    ID_HOOK,
    ID_WATCH,
    ID_SET,
    ID_SCALE,
    ID_ADD,
    ID_ABLATE,
    ID_FORCE,
    ID_LOGITS,
    ID_TEXTS,
    ID_OUT,
    ID_SHARD_ROWS,
    ID_REPEATS,
    ID_BATCH,
    ID_CONTEXT,
    ID_THREADS,
    ID_WEIGHTS,
    ID_JSON,
    ID_HELP
};

typedef struct option_desc {
    int id, commands;
    const char *name, *arg, *help;
    char letter;
} option_desc;

/* clang-format off */
static const option_desc all[] = {
    {ID_MODEL, FOR_ALL, "model", "M", "a llama2.c checkpoint (.bin) or a Hugging Face folder", 'm'},
    {ID_NAME, FOR_ALL & ~FOR_TOKENIZE, "model-name", "NAME", "what the model is called, where its file does not say", 0},
    {ID_TOKENIZER, FOR_ALL & ~FOR_BENCH, "tokenizer", "T", "tokenizer.bin or tokenizer.json; default: the folder's tokenizer.json", 't'},
    {ID_PROMPT, FOR_RUN | FOR_LOGPROBS | FOR_TOKENIZE, "prompt", "P", "the text to begin with; several are computed together", 'p'},
    {ID_TOKENS, FOR_RUN | FOR_LOGPROBS, "tokens", "I,I", "numbers of tokens in place of a prompt", 0},
    {ID_NEW, FOR_RUN | FOR_BENCH, "new", "N", "tokens to generate (64); bench: positions to time (128)", 'n'},
    {ID_TEMPERATURE, FOR_RUN, "temperature", "X", "0, the default, takes the most probable token", 0},
    {ID_TOP_K, FOR_RUN, "top-k", "K", "draw from the K most probable tokens; 0 = all", 0},
    {ID_SEED, FOR_RUN, "seed", "S", "of the random numbers; prompt i draws from the stream S + i", 0},
    {ID_SAE, FOR_RUN | FOR_LOGPROBS | FOR_BENCH, "sae", "DIR", "a SAELens folder", 0},
    {ID_HOOK, FOR_ALL & ~FOR_TOKENIZE, "hook", "NAME", "blocks.N.hook_resid_post, hook_attn_out or hook_mlp_out; default: the SAE's", 0},
    {ID_WATCH, FOR_RUN | FOR_LOGPROBS, "watch", "F,F", "features of the SAE to show at every position", 0},
    {ID_SET, FOR_RUN | FOR_LOGPROBS, "set", "F=V", "clamp a feature to a value", 0},
    {ID_SCALE, FOR_RUN | FOR_LOGPROBS, "scale", "F=V", "multiply a feature's code", 0},
    {ID_ADD, FOR_RUN | FOR_LOGPROBS, "add", "F=V", "add to a feature's code, active or not", 0},
    {ID_ABLATE, FOR_RUN | FOR_LOGPROBS, "ablate", "F", "switch a feature off", 0},
    {ID_LOGITS, FOR_LOGPROBS, "logits", "FILE", "write all logits to a .npy file [tokens][vocabulary]", 0},
    {ID_TEXTS, FOR_EXPORT, "texts", "FILE", "documents between lines <|endoftext|>, or one a line", 0},
    {ID_OUT, FOR_EXPORT, "output", "DIR", "the folder for the shards", 'o'},
    {ID_SHARD_ROWS, FOR_EXPORT, "shard-rows", "N", "rows of a shard (65536)", 0},
    {ID_REPEATS, FOR_BENCH, "repeats", "N", "runs over all positions (5)", 0},
    {ID_BATCH, FOR_RUN | FOR_LOGPROBS, "batch", "N", "rows computed at once (64); results do not depend on it", 0},
    {ID_CONTEXT, FOR_RUN | FOR_LOGPROBS | FOR_EXPORT, "context", "N", "positions that a text may have, where the model's take too much memory", 0},
    {ID_FORCE, FOR_RUN | FOR_LOGPROBS | FOR_BENCH | FOR_EXPORT, "force", NULL, "an SAE of another hook or model; export: replace a folder's shards", 0},
    {ID_THREADS, FOR_ALL & ~FOR_TOKENIZE, "threads", "N", "threads (1); 0 = one per processor; results do not depend on it", 0},
    {ID_WEIGHTS, FOR_ALL & ~FOR_TOKENIZE, "weights", "W", "stored (as the file has them), f32 (the same results) or int8 (a byte each)", 0},
    {ID_JSON, FOR_ALL, "json", NULL, "print JSON", 'j'},
    {ID_HELP, FOR_ALL, "help", NULL, "print this", 'h'},
};
/* clang-format on */
enum { N_OPTIONS = sizeof all / sizeof *all };

__attribute__((format(printf, 2, 3))) static _Noreturn void wrong(const char *command, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "engine %s: ", command);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, " (see engine %s --help)\n", command);
    va_end(args);
    exit(2);
}

void options_help(int for_command)
{
    for (int i = 0; i < N_OPTIONS; i++) {
        char left[40];
        if (!(all[i].commands & for_command))
            continue;
        const int n = all[i].letter ? snprintf(left, sizeof left, "-%c, ", all[i].letter) : 0;
        snprintf(left + n, sizeof left - (size_t)n, "--%s%s%s", all[i].name, all[i].arg ? " " : "", all[i].arg ? all[i].arg : "");
        printf("  %-24s %s\n", left, all[i].help);
    }
}

static int64_t whole(const char *command, const char *name, const char *text, int64_t least, int64_t most)
{
    char *end;
    errno = 0;
    const long long n = strtoll(text, &end, 10);
    if (end == text || *end || errno || n < least || n > most)
        wrong(command, "--%s wants a whole number in %lld .. %lld, not '%s'", name, (long long)least, (long long)most, text);
    return n;
}

static float real(const char *command, const char *name, const char *text)
{
    char *end;
    const float x = strtof(text, &end);
    if (end == text || *end || !isfinite(x))
        wrong(command, "--%s wants a finite number, not '%s'", name, text);
    return x;
}

/* "F=V", or "F" where the operation has no value. */
static void add_edit(options *o, const char *command, const char *name, sae_op op, char *text)
{
    char *value = op == SAE_ABLATE ? NULL : strchr(text, '=');
    if (o->n_edits == MAX_FEATURES)
        wrong(command, "more than %d edits", MAX_FEATURES);
    if (op != SAE_ABLATE && !value)
        wrong(command, "--%s wants a feature, '=' and a number, not '%s'", name, text);
    if (value)
        *value++ = '\0';
    o->edits[o->n_edits++] = (engine_edit){
        .feature = (int32_t)whole(command, name, text, 0, INT32_MAX), .op = op, .value = value ? real(command, name, value) : 0.0f};
}

static void add_watched(options *o, const char *command, char *list)
{
    for (char *at = strtok(list, ","); at; at = strtok(NULL, ",")) {
        if (o->n_watch == MAX_FEATURES)
            wrong(command, "more than %d watched features", MAX_FEATURES);
        o->watch[o->n_watch++] = (int32_t)whole(command, "watch", at, 0, INT32_MAX);
    }
}

static void add_prompt(options *o, const char *command, const char *text)
{
    if (o->n_prompts == MAX_PROMPTS)
        wrong(command, "more than %d prompts", MAX_PROMPTS);
    o->prompts[o->n_prompts++] = text;
}

static engine_weights weights(const char *command, const char *text)
{
    static const char *const names[] = {[ENGINE_STORED] = "stored", [ENGINE_F32] = "f32", [ENGINE_INT8] = "int8"};
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (!strcmp(text, names[i]))
            return (engine_weights)i;
    wrong(command, "--weights wants stored, f32 or int8, not '%s'", text);
}

/* Options whose value is a text. */
static const char **text_option(options *o, int id)
{
    switch (id) {
    case ID_MODEL:
        return &o->model;
    case ID_NAME:
        return &o->model_name;
    case ID_TOKENIZER:
        return &o->tokenizer;
    case ID_TOKENS:
        return &o->tokens;
    case ID_SAE:
        return &o->sae;
    case ID_HOOK:
        return &o->hook;
    case ID_LOGITS:
        return &o->logits;
    case ID_TEXTS:
        return &o->texts;
    case ID_OUT:
        return &o->out;
    default:
        return NULL;
    }
}

/* Options whose value is a number. */
static bool take_number(options *o, const char *c, int id, const char *v)
{
    switch (id) {
    case ID_NEW:
        o->n_new = (int32_t)whole(c, "new", v, 0, 1 << 24);
        return true;
    case ID_TEMPERATURE:
        o->temperature = real(c, "temperature", v);
        if (o->temperature < 0)
            wrong(c, "--temperature wants 0 or more, not '%s'", v);
        return true;
    case ID_TOP_K:
        o->top_k = (int32_t)whole(c, "top-k", v, 0, INT32_MAX);
        return true;
    case ID_SEED:
        o->seed = (uint64_t)whole(c, "seed", v, 0, INT64_MAX);
        return true;
    case ID_SHARD_ROWS:
        o->shard_rows = (int32_t)whole(c, "shard-rows", v, 1, INT32_MAX);
        return true;
    case ID_REPEATS:
        o->repeats = (int32_t)whole(c, "repeats", v, 1, 1000);
        return true;
    case ID_BATCH:
        o->batch = (int32_t)whole(c, "batch", v, 1, 4096);
        return true;
    case ID_CONTEXT:
        o->context = (int32_t)whole(c, "context", v, 1, INT32_MAX);
        return true;
    case ID_THREADS:
        o->threads = (uint32_t)whole(c, "threads", v, 0, 1024);
        return true;
    default:
        return false;
    }
}

static void take(options *o, const char *command, int id, char *value)
{
    const char **text = text_option(o, id);
    if (text)
        *text = value;
    else if (id == ID_PROMPT)
        add_prompt(o, command, value);
    else if (id == ID_WEIGHTS)
        o->weights = weights(command, value);
    else if (id == ID_WATCH)
        add_watched(o, command, value);
    else if (id == ID_SET || id == ID_SCALE || id == ID_ADD || id == ID_ABLATE)
        add_edit(o, command,
                 id == ID_SET     ? "set"
                 : id == ID_SCALE ? "scale"
                 : id == ID_ADD   ? "add"
                                  : "ablate",
                 id == ID_SET     ? SAE_SET
                 : id == ID_SCALE ? SAE_SCALE
                 : id == ID_ADD   ? SAE_ADD
                                  : SAE_ABLATE,
                 value);
    else if (id == ID_FORCE)
        o->force = true;
    else if (id == ID_JSON)
        o->json = true;
    else
        take_number(o, command, id, value);
}

static void check(const options *o, const char *command, int for_command)
{
    if (!o->model)
        wrong(command, "--model is missing");
    if ((for_command & (FOR_RUN | FOR_LOGPROBS | FOR_TOKENIZE)) && !o->n_prompts && !o->tokens)
        wrong(command, "--prompt is missing");
    if (o->n_prompts && o->tokens)
        wrong(command, "--prompt and --tokens exclude each other");
    if ((o->n_watch || o->n_edits) && !o->sae)
        wrong(command, "features to watch or to edit are those of an SAE: --sae is missing");
    if ((for_command & FOR_EXPORT) && (!o->texts || !o->hook || !o->out))
        wrong(command, "--texts, --hook and --output are needed");
    if ((for_command & FOR_BENCH) && !o->sae)
        wrong(command, "--sae is missing");
}

/* What getopt wants: the long options of this command, and its letters. */
static void declare(int for_command, struct option *longs, char *letters)
{
    *letters++ = ':'; /* tells a missing value from an unknown option */
    for (int i = 0; i < N_OPTIONS; i++) {
        if (!(all[i].commands & for_command))
            continue;
        *longs++ = (struct option){.name = all[i].name, .has_arg = all[i].arg ? required_argument : no_argument, .val = all[i].id};
        if (all[i].letter)
            *letters++ = all[i].letter;
        if (all[i].letter && all[i].arg)
            *letters++ = ':';
    }
    *letters = '\0';
}

static int id_of(int value)
{
    for (int i = 0; i < N_OPTIONS; i++)
        if (value == all[i].letter)
            return all[i].id;
    return value;
}

void options_read(options *out, const char *command, int for_command, int argc, char **argv)
{
    struct option longs[N_OPTIONS + 1] = {0};
    char letters[2 * N_OPTIONS + 2];
    *out = (options){.n_new = for_command == FOR_BENCH ? 128 : 64, .batch = 64, .repeats = 5, .threads = 1};
    declare(for_command, longs, letters);
    opterr = 0;
    for (int id; (id = getopt_long(argc, argv, letters, longs, NULL)) != -1;) {
        if (id == '?' || id == ':')
            wrong(command, id == ':' ? "option '%s' wants a value" : "option '%s' is unknown here, or takes no value", argv[optind - 1]);
        id = id_of(id);
        if (id == ID_HELP) {
            printf("Usage: engine %s [option]...\n\nOptions:\n", command);
            options_help(for_command);
            exit(0);
        }
        take(out, command, id, optarg);
    }
    if (optind < argc)
        wrong(command, "'%s' is one too many: texts and files are given with options", argv[optind]);
    check(out, command, for_command);
}
