/* The command line. Every option is declared once, in a table; parsing and --help both come from it. */
#ifndef TOOL_ARGS_H
#define TOOL_ARGS_H

#include <sae.h>

#include "say.h"

typedef struct option_desc {
    int id;           /* a letter is also the short option */
    const char *name; /* without the dashes */
    const char *arg;  /* what stands for the value in the help, NULL = the option has none */
    const char *help;
} option_desc;

/* How the model is opened and on what it runs: options of every command. */
typedef struct model_args {
    sae_open_options open;
    uint32_t threads; /* 0 = one per processor */
    sae_isa isa;
    uint32_t prepare; /* SAE_PREPARE_* */
} model_args;

struct args;

typedef struct command {
    const char *name;
    const char *synopsis;       /* operands and the options that matter most */
    const char *summary;        /* one line */
    const char *details;        /* paragraphs of --help */
    const option_desc *options; /* ends with a zero; besides those of the model */
    bool bare;                  /* takes no options of the model, and reads its command line itself */
    void (*run)(struct args *args);
} command;

typedef struct args {
    const command *command;
    model_args model;
    int argc;
    char **argv;
    struct option *longs; /* for getopt_long */
    char *shorts;
} args;

/* Options with the same meaning everywhere. */
/* clang-format off */
#define OPTION_OUTPUT {'o', "output", "FILE", "write to FILE (.npy, .npz, .safetensors), or to standard output with -"}
#define OPTION_TENSOR {'t', "tensor", "NAME", "the array to read, where ROWS holds several"}
#define OPTION_DTYPE {'d', "dtype", "TYPE", "f32, f16 or bf16: what ROWS must hold; 2-byte integers of a .npy are read as bf16"}
#define OPTION_JSON {'j', "json", NULL, "print JSON"}
#define OPTION_SAE {ID_SAE, "sae", "PATH", "the SAE that the catalog belongs to"}
#define OPTION_FORCE {ID_FORCE, "force", NULL, "take the catalog although it is of another SAE, if d_sae agrees"}
/* clang-format on */
enum { ID_SAE = 900, ID_FORCE };

args args_start(const command *c, int argc, char **argv);

/* Id of the next option of the command with its value, or -1 after the last; options of the model are taken on the way. */
int args_next(args *a, const char **value);

/* What OPTION_OUTPUT, OPTION_TENSOR, OPTION_DTYPE and OPTION_JSON were given. */
typedef struct io_args {
    const char *out_path, *tensor;
    sae_dtype bits;
    bool json;
} io_args;

/* As args_next, for commands that read rows or codes and write arrays: those four options are put into `io` on the way. */
int args_next_own(args *a, io_args *io, const char **value);

/* What OPTION_SAE, OPTION_FORCE and OPTION_JSON were given. */
typedef struct catalog_args {
    const char *sae_path;
    bool force, json;
} catalog_args;

/* True when the option was one of those three. */
bool args_take_catalog(catalog_args *c, int id, const char *value);

/* As args_next, for commands about catalogs: those three options are put into `c` on the way. */
int args_next_catalog(args *a, catalog_args *c, const char **value);

/* Does the output go to standard output? */
bool io_to_pipe(const io_args *io);

/* The operands left over: exactly n, named in the usage error. */
char **args_operands(args *a, int n, const char *names);

/* The same for `least` and more; says how many in *n. */
char **args_operands_many(args *a, int least, int *n, const char *names);

void args_end(args *a);

/* Values, or a usage error that names the option. */
int64_t parse_int(const char *option, const char *value, int64_t least, int64_t most);
float parse_float(const char *option, const char *value);

/* Splits KEY=VALUE at the last '='; the key is new memory. */
char *parse_pair(const char *option, const char *value, const char **right);

void args_help(const command *c);

#endif
