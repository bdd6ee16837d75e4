/* The `sae` command line tool: finds the command, or helps. */
#include <string.h>

#include "cmd.h"

static const command *const commands[] = {&cmd_info, &cmd_encode, &cmd_decode, &cmd_neighbors, &cmd_steer};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(void)
{
    printf("Usage: sae COMMAND ...\n"
           "Sparse autoencoders: look into them, encode rows of activations, decode, compare and steer.\n\nCommands:\n");
    for (int i = 0; i < N_COMMANDS; i++) {
        printf("  %-11s %s\n", commands[i]->name, commands[i]->summary);
    }
    printf("\n`sae COMMAND --help` tells the rest; `sae --version` the version. PATH is a SAELens folder or the .safetensors inside\n"
           "one. Rows and codes are .npy, .npz or safetensors files, or - for a pipe.\n"
           "Exit status: 0 done, 1 failed (one sentence on standard error says why), 2 the command line is wrong.\n");
}

static void print_version(void)
{
    uint32_t v = sae_version();
    printf("sae %u.%u.%u\n", v >> 16, v >> 8 & 0xff, v & 0xff);
}

int main(int argc, char **argv)
{
    say_start();
    const char *name = argc > 1 ? argv[1] : "";
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(name, commands[i]->name) == 0) {
            args a = args_start(commands[i], argc - 1, argv + 1);
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
    } else if (argc > 1) {
        die_usage("'%s' is no command", name);
    } else {
        die_usage("a command is wanted");
    }
    finish_stdout();
    return STATUS_OK;
}
