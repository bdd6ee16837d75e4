/* The `sae` command line tool: finds the command, or helps. */
#include <string.h>

#include "cmd.h"

static const command *const commands[] = {&cmd_info,           &cmd_pull,           &cmd_convert,   &cmd_verify, &cmd_encode,
                                          &cmd_decode,         &cmd_forward,        &cmd_neighbors, &cmd_steer,  &cmd_catalog_build,
                                          &cmd_catalog_import, &cmd_catalog_export, &cmd_search,    &cmd_top,    &cmd_bench};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(void)
{
    printf("Usage: sae COMMAND ...\n"
           "Sparse autoencoders: look into them, encode rows of activations, decode, compare, steer and name features.\n\nCommands:\n");
    for (int i = 0; i < N_COMMANDS; i++) {
        printf("  %-15s %s\n", commands[i]->name, commands[i]->summary);
    }
    printf("\n`sae COMMAND --help` tells the rest; `sae --version` the version. PATH is the folder or file of a published\n"
           "SAE. Rows and codes are .npy, .npz or safetensors files, or - for a pipe.\n"
           "Exit status: 0 done, 1 failed (one sentence on standard error says why), 2 the command line is wrong.\n");
}

static void print_version(void)
{
    uint32_t v = sae_version();
    printf("sae %u.%u.%u\n", v >> 16, v >> 8 & 0xff, v & 0xff);
}

/* How many words of the command line are the name of c: 0 = it is another. */
static int words_of(const command *c, int argc, char **argv)
{
    const char *second = strchr(c->name, ' ');
    size_t first = second != NULL ? (size_t)(second - c->name) : strlen(c->name);
    if (argc < 2 || strlen(argv[1]) != first || strncmp(argv[1], c->name, first) != 0) {
        return 0;
    }
    return second == NULL ? 1 : argc > 2 && strcmp(argv[2], second + 1) == 0 ? 2 : 0;
}

int main(int argc, char **argv)
{
    say_start();
    const char *name = argc > 1 ? argv[1] : "";
    for (int i = 0; i < N_COMMANDS; i++) {
        int words = words_of(commands[i], argc, argv);
        if (words > 0) {
            args a = args_start(commands[i], argc - words, argv + words);
            commands[i]->run(&a);
            args_end(&a);
            finish_stdout();
            return STATUS_OK;
        }
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help();
    } else if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        print_version();
    } else if (strcmp(name, "catalog") == 0) {
        die_usage("one of `catalog build`, `catalog import` and `catalog export` is wanted");
    } else if (argc > 1) {
        die_usage("'%s' is no command", name);
    } else {
        die_usage("a command is wanted");
    }
    finish_stdout();
    return STATUS_OK;
}
