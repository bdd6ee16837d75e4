/* sae pull: downloads a published SAE. The Python package does it, since the hub's own client is a Python package; this runs it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"

enum { ID_CACHE = 256, ID_OFFLINE };

/* clang-format off */
static const option_desc options[] = {
    {'l', "list", NULL, "print the ids of the SAEs of REPO instead"},
    {'r', "revision", "REV", "a branch, a tag or a commit"},
    {ID_CACHE, "cache-dir", "DIR", "another cache"},
    {ID_OFFLINE, "offline", NULL, "use what the cache has and no network"},
    OPTION_JSON,
    {'h', "help", NULL, "print this"},
    {0},
};
/* clang-format on */

/* Without a package of the current folder, which Python would take first. */
static const char program[] =
    "import sys\n"
    "sys.path[:] = [p for p in sys.path if p]\n"
    "try:\n"
    "    from libsae.__main__ import main\n"
    "except (ImportError, SyntaxError) as error:\n"
    "    sys.exit('sae pull: %s cannot load the Python package libsae, which does this (%s): install it with '\n"
    "             '`pip install \"libsae[hub]\"`, or let SAE_PYTHON name a Python that has it' % (sys.executable, error))\n"
    "sys.exit(main(['pull'] + sys.argv[1:]))\n";

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

static void run(args *a)
{
    if (wants_help(a->argc, a->argv)) {
        args_help(a->command);
        return;
    }
    const char *named = getenv("SAE_PYTHON");
    char *python = take_text(named != NULL && *named != '\0' ? named : "python3");
    char **words = take_zeros((size_t)a->argc + 3, sizeof *words);
    words[0] = python;
    words[1] = "-c";
    words[2] = (char *)program;
    memcpy(words + 3, a->argv + 1, ((size_t)a->argc - 1) * sizeof *words);
    execvp(python, words);
    die("cannot run %s, since downloads are done by the Python package libsae: %s; install Python 3.9 or later, or let SAE_PYTHON name one",
        python, strerror(errno));
}

const command cmd_pull = {
    .name = "pull",
    .synopsis = "REPO [ID] [--list] [--revision REV] [--json]",
    .summary = "Download a published SAE, and print the path that the other commands take",
    .details =
        "REPO is a repository of the Hugging Face Hub, user/name, and ID the path of an SAE in it; or a release of SAELens and an id\n"
        "of it, where the Python package sae-lens is installed. Only the files of that SAE are downloaded, into the cache that all\n"
        "tools of the hub share, and only when they are not there. Needs Python with the package libsae[hub]: python3, or what\n"
        "SAE_PYTHON names. HF_TOKEN or `hf auth login` opens private and gated repositories; HF_HOME says where the cache is.\n",
    .options = options,
    .bare = true,
    .run = run,
};
