/* `engine`: runs a Llama with libsae at its hooks. Finds the command, and frees what it used. */
#include "program.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct command {
    const char *name;
    int bit;
    command_fn run;
    const char *summary;
} commands[] = {
    {"run", FOR_RUN, cmd_run, "continue prompts, with features watched and edited"},
    {"logprobs", FOR_LOGPROBS, cmd_logprobs, "log-probability of every token of a prompt"},
    {"tokenize", FOR_TOKENIZE, cmd_tokenize, "tokens of prompts"},
    {"export", FOR_EXPORT, cmd_export, "write the activations of texts at a hook, in shards"},
    {"bench", FOR_BENCH, cmd_bench, "time of a token bare, with 8 features watched, with 4 clamped"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int help(void)
{
    printf("Usage: engine COMMAND [option]...\n"
           "A small inference engine for Llamas, with libsae looking at the activations and changing them.\n\nCommands:\n");
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    printf("\n`engine COMMAND --help` tells the options.\n"
           "Exit status: 0 done, 1 failed (one sentence on standard error says why), 2 the command line is wrong.\n");
    return 0;
}

static int run(const struct command *c, int argc, char **argv)
{
    program p = {0};
    engine_error err = {{0}};
    options_read(&p.opt, c->name, c->bit, argc, argv);
    bool ok = engine_host_create(&p.host, p.opt.threads, &err) && c->run(&p, &err);
    if (ok && (fflush(stdout) || ferror(stdout)))
        ok = engine_fail(&err, "cannot write to standard output: %s", strerror(errno));
    engine_session_free(p.session);
    engine_sae_free(p.sae);
    engine_tokenizer_free(p.tokenizer);
    engine_model_free(p.model);
    engine_host_free(&p.host);
    if (!ok)
        fprintf(stderr, "engine %s: %s\n", c->name, err.text);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(name, commands[i].name))
            return run(commands + i, argc - 1, argv + 1);
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help"))
        return help();
    fprintf(stderr, "engine: '%s' is no command (see engine --help)\n", name);
    return 2;
}
