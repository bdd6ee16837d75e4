#include "args.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "array.h"

enum {
    ID_HELP = 'h',
    ID_ARCHITECTURE = 1000,
    ID_K,
    ID_APPLY_B_DEC,
    ID_NORMALIZE,
    ID_NORM_FACTOR,
    ID_D_IN,
    ID_D_OUT,
    ID_LAYER,
    ID_COPY,
    ID_CHECK,
    ID_NO_CHECK,
    ID_THREADS,
    ID_ISA,
    ID_PREPARE
};

static const option_desc model_options[] = {
    {ID_ARCHITECTURE, "architecture", "NAME", "standard, jumprelu, topk or gated, whatever the file says"},
    {ID_K, "k", "K", "features that a top-k SAE keeps, whatever the file says"},
    {ID_APPLY_B_DEC, "apply-b-dec", "yes|no", "subtract b_dec from the input, whatever the file says"},
    {ID_NORMALIZE, "normalize-activations", "NAME", "none, expected_average_only_in, constant_norm_rescale or layer_norm"},
    {ID_NORM_FACTOR, "norm-scaling-factor", "F", "the factor of expected_average_only_in"},
    {ID_D_IN, "d-in", "N", "refuse a file whose d_in is another"},
    {ID_D_OUT, "d-out", "N", "refuse a file whose d_out is another"},
    {ID_LAYER, "layer", "NAME", "which SAE of a folder that holds several: its number, or the name of its file or folder"},
    {ID_COPY, "copy", NULL, "read the file into memory instead of mapping it"},
    {ID_CHECK, "check", NULL, "read every weight first and refuse values that are not finite"},
    {ID_NO_CHECK, "no-check", NULL, "skip that check for small files too"},
    {ID_THREADS, "threads", "N", "threads to compute with; 0, the default, is one per processor"},
    {ID_ISA, "isa", "NAME", "auto, scalar, neon, avx2 or avx512; the results are the same"},
    {ID_PREPARE, "prepare", "FORM", "none, rows, panels, all or screen: pack W_enc first, for many rows"},
    {ID_HELP, "help", NULL, "print this"},
    {0},
};

static size_t count(const option_desc *options)
{
    size_t n = 0;
    while (options[n].id != 0) {
        n++;
    }
    return n;
}

static void declare(const option_desc *options, struct option **next_long, char **next_short)
{
    for (; options->id != 0; options++) {
        struct option o = {.name = options->name, .has_arg = options->arg != NULL ? required_argument : no_argument, .val = options->id};
        *(*next_long)++ = o;
        if (options->id < 256) {
            *(*next_short)++ = (char)options->id;
            if (options->arg != NULL) {
                *(*next_short)++ = ':';
            }
        }
    }
    memset(*next_long, 0, sizeof **next_long);
    **next_short = '\0';
}

args args_start(const command *c, int argc, char **argv)
{
    args a = {.command = c, .argc = argc, .argv = argv};
    a.model.open.struct_size = sizeof a.model.open;
    size_t n = count(c->options) + count(model_options);
    a.longs = take(n + 1, sizeof *a.longs);
    a.shorts = take(2 * n + 2, 1);
    struct option *next_long = a.longs;
    char *next_short = a.shorts;
    *next_short++ = ':'; /* tell a missing value from an unknown option */
    declare(c->options, &next_long, &next_short);
    declare(model_options, &next_long, &next_short);
    optind = 1;
    opterr = 0;
    say_command(c->name);
    return a;
}

int64_t parse_int(const char *option, const char *value, int64_t least, int64_t most)
{
    char *end;
    errno = 0;
    long long n = strtoll(value, &end, 10);
    if (end == value || *end != '\0' || isspace((unsigned char)*value)) {
        die_usage("%s wants a whole number, not '%s'", option, value);
    }
    if (errno != 0 || n < least || n > most) {
        die_usage("%s wants a number in %lld .. %lld, not %s", option, (long long)least, (long long)most, value);
    }
    return n;
}

float parse_float(const char *option, const char *value)
{
    char *end;
    float f = strtof(value, &end);
    if (end == value || *end != '\0' || isspace((unsigned char)*value) || !isfinite(f)) {
        die_usage("%s wants a finite number, not '%s'", option, value);
    }
    return f;
}

char *parse_pair(const char *option, const char *value, const char **right)
{
    const char *at = strrchr(value, '=');
    if (at == NULL || at == value) {
        die_usage("%s wants a key, '=' and a number, not '%s'", option, value);
    }
    *right = at + 1;
    char *key = take_text(value);
    key[at - value] = '\0';
    return key;
}

static const char *parse_arch(const char *value)
{
    for (sae_arch arch = SAE_STANDARD; arch <= SAE_GATED; arch++) { /* those that a file may leave open */
        if (strcmp(sae_arch_name(arch), value) == 0) {
            return sae_arch_name(arch);
        }
    }
    die_usage("--architecture is standard, jumprelu, topk or gated, not '%s'", value);
}

static const char *parse_norm(const char *value)
{
    for (sae_norm norm = SAE_NORM_NONE; norm <= SAE_NORM_LAYER; norm++) {
        if (strcmp(sae_norm_name(norm), value) == 0) {
            return sae_norm_name(norm);
        }
    }
    die_usage("--normalize-activations is none, expected_average_only_in, constant_norm_rescale or layer_norm, not '%s'", value);
}

static sae_isa parse_isa(const char *value)
{
    static const sae_isa all[] = {SAE_ISA_AUTO, SAE_ISA_SCALAR, SAE_ISA_NEON, SAE_ISA_AVX2, SAE_ISA_AVX512};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (strcmp(sae_isa_name(all[i]), value) == 0) {
            return all[i];
        }
    }
    die_usage("--isa is auto, scalar, neon, avx2 or avx512, not '%s'", value);
}

static uint32_t parse_forms(const char *value)
{
    static const char *const names[] = {"none", "rows", "panels", "all", "screen"}; /* by their bits, "all" those of f32 */
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], value) == 0) {
            return i;
        }
    }
    die_usage("--prepare is none, rows, panels, all or screen, not '%s'", value);
}

static int32_t parse_yes(const char *option, const char *value)
{
    bool yes = strcmp(value, "yes") == 0;
    if (!yes && strcmp(value, "no") != 0) {
        die_usage("%s is yes or no, not '%s'", option, value);
    }
    return yes ? SAE_YES : SAE_NO;
}

/* True when the option was one of the model's. */
static bool take_model_option(model_args *m, int id, const char *value)
{
    switch (id) {
    case ID_ARCHITECTURE:
        m->open.architecture = parse_arch(value);
        return true;
    case ID_K:
        m->open.k = (int32_t)parse_int("--k", value, 1, INT32_MAX);
        return true;
    case ID_APPLY_B_DEC:
        m->open.apply_b_dec = parse_yes("--apply-b-dec", value);
        return true;
    case ID_NORMALIZE:
        m->open.normalize_activations = parse_norm(value);
        return true;
    case ID_NORM_FACTOR:
        m->open.norm_scaling_factor = parse_float("--norm-scaling-factor", value);
        if (!(m->open.norm_scaling_factor > 0)) {
            die_usage("--norm-scaling-factor wants a number above 0, not '%s'", value);
        }
        return true;
    case ID_D_IN:
        m->open.d_in = (int32_t)parse_int("--d-in", value, 1, INT32_MAX);
        return true;
    case ID_D_OUT:
        m->open.d_out = (int32_t)parse_int("--d-out", value, 1, INT32_MAX);
        return true;
    case ID_LAYER:
        m->open.layer = value;
        return true;
    case ID_COPY:
        m->open.copy = SAE_YES;
        return true;
    case ID_CHECK:
        m->open.check = SAE_YES;
        return true;
    case ID_NO_CHECK:
        m->open.check = SAE_NO;
        return true;
    case ID_THREADS:
        m->threads = (uint32_t)parse_int("--threads", value, 0, 1024);
        return true;
    case ID_ISA:
        m->isa = parse_isa(value);
        return true;
    case ID_PREPARE:
        m->prepare = parse_forms(value);
        return true;
    default:
        return false;
    }
}

_Noreturn static void bad_option(const args *a, bool lacks_value)
{
    char letter[3] = {'-', (char)optopt, '\0'};
    bool is_letter = optopt > 0 && optopt < 256; /* 0 for a long option that is unknown */
    const char *text = is_letter && strncmp(a->argv[optind - 1], "--", 2) != 0 ? letter : a->argv[optind - 1];
    die_usage(lacks_value ? "option '%s' wants a value" : "option '%s' is unknown, ambiguous or takes no value", text);
}

int args_next(args *a, const char **value)
{
    for (;;) {
        int id = getopt_long(a->argc, a->argv, a->shorts, a->longs, NULL);
        *value = optarg;
        if (id == '?' || id == ':') {
            bad_option(a, id == ':');
        }
        if (id == ID_HELP) {
            args_help(a->command);
            finish_stdout();
            args_end(a);
            exit(STATUS_OK);
        }
        if (id == -1 || !take_model_option(&a->model, id, optarg)) {
            return id;
        }
    }
}

int args_next_own(args *a, io_args *io, const char **value)
{
    for (int id;;) {
        switch (id = args_next(a, value)) {
        case 'o':
            io->out_path = *value;
            break;
        case 't':
            io->tensor = *value;
            break;
        case 'd':
            io->bits = dtype_from_option("dtype", *value);
            break;
        case 'j':
            io->json = true;
            break;
        default:
            return id;
        }
    }
}

bool args_take_catalog(catalog_args *c, int id, const char *value)
{
    switch (id) {
    case ID_SAE:
        c->sae_path = value;
        return true;
    case ID_FORCE:
        c->force = true;
        return true;
    case 'j':
        c->json = true;
        return true;
    default:
        return false;
    }
}

int args_next_catalog(args *a, catalog_args *c, const char **value)
{
    int id;
    do {
        id = args_next(a, value);
    } while (args_take_catalog(c, id, *value));
    return id;
}

bool io_to_pipe(const io_args *io)
{
    return io->out_path != NULL && strcmp(io->out_path, "-") == 0;
}

char **args_operands_many(args *a, int least, int *n, const char *names)
{
    *n = a->argc - optind;
    if (*n < least) {
        die_usage("%s wanted, %d of %d given", names, *n, least);
    }
    return a->argv + optind;
}

char **args_operands(args *a, int n, const char *names)
{
    int given;
    args_operands_many(a, n, &given, names);
    if (given > n) {
        die_usage("%s wanted, '%s' is one too many", names, a->argv[optind + n]);
    }
    return a->argv + optind;
}

void args_end(args *a)
{
    free(a->longs);
    free(a->shorts);
}

static void print_options(const option_desc *options)
{
    enum { COLUMN = 36 };
    for (; options->id != 0; options++) {
        char left[64];
        int n = options->id < 256 ? snprintf(left, sizeof left, "  -%c, ", options->id) : snprintf(left, sizeof left, "      ");
        snprintf(left + n, sizeof left - (size_t)n, "--%s%s%s", options->name, options->arg != NULL ? " " : "",
                 options->arg != NULL ? options->arg : "");
        printf("%-*s%s\n", COLUMN, left, options->help);
    }
}

void args_help(const command *c)
{
    printf("Usage: sae %s %s\n%s.\n\n%s", c->name, c->synopsis, c->summary, c->details);
    if (c->options->id != 0) {
        printf("\nOptions:\n");
        print_options(c->options);
    }
    if (!c->bare) {
        printf("\nOptions of every command, about the SAE and how to compute:\n");
        print_options(model_options);
    }
}
