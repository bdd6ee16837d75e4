/* The command line program around the engine. */
#ifndef ENGINE_PROGRAM_H
#define ENGINE_PROGRAM_H

#include "internal.h"

enum { MAX_PROMPTS = 64, MAX_FEATURES = 256 };

typedef struct options {
    const char *model, *model_name, *tokenizer;
    const char *prompts[MAX_PROMPTS];
    const char *tokens; /* "1,2,3" in place of a prompt */
    int32_t n_prompts;
    int32_t n_new, batch, repeats, context;
    engine_weights weights;
    float temperature;
    int32_t top_k;
    uint64_t seed;
    const char *sae, *hook;
    int32_t watch[MAX_FEATURES], n_watch;
    engine_edit edits[MAX_FEATURES];
    int32_t n_edits;
    const char *logits, *texts, *out;
    int32_t shard_rows;
    uint32_t threads;
    bool force, json;
} options;

/* What a command works with. main frees it. */
typedef struct program {
    options opt;
    engine_host host;
    engine_model *model;
    engine_tokenizer *tokenizer;
    engine_session *session;
    engine_sae *sae;
} program;

typedef bool (*command_fn)(program *p, engine_error *err);

bool cmd_run(program *p, engine_error *err);
bool cmd_logprobs(program *p, engine_error *err);
bool cmd_tokenize(program *p, engine_error *err);
bool cmd_export(program *p, engine_error *err);
bool cmd_bench(program *p, engine_error *err);

/* Bits of the commands, for options that not all of them have. */
enum { FOR_RUN = 1, FOR_LOGPROBS = 2, FOR_TOKENIZE = 4, FOR_EXPORT = 8, FOR_BENCH = 16, FOR_ALL = 31 };

/* Reads the options of a command. A wrong line is told and ends the program with status 2; --help with 0. */
void options_read(options *out, const char *command, int for_command, int argc, char **argv);
void options_help(int for_command);

/* The model, and the tokenizer: the one that was named, or the tokenizer.json of a folder. */
bool program_open_model(program *p, engine_error *err);
bool program_open_tokenizer(program *p, engine_error *err);

/* Positions that a text may have: the model's, or fewer where --context says so. */
int32_t program_context(const program *p);

/* Tokens of prompt i, or those of --tokens: new memory. Refuses what is empty or longer than the context. */
bool program_prompt(const program *p, int32_t i, int32_t **tokens, int32_t *n, engine_error *err);

/* A session for the prompts, with the SAE hooked in where one was asked for. */
bool program_open_session(program *p, int32_t n_sequences, int32_t context, engine_error *err);

#endif
