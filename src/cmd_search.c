/* sae search: features by the words of their labels and tokens. */
#include "cmd.h"
#include "features.h"
#include "report.h"

/* clang-format off */
static const option_desc options[] = {
    {'n', "count", "N", "how many (default 10)"},
    OPTION_SAE,
    OPTION_FORCE,
    OPTION_JSON,
    {0},
};
/* clang-format on */

typedef struct job {
    catalog_args given;
    const char *path, *query;
    int32_t count;
} job;

static void parse(job *j, args *a)
{
    const char *value;
    while (args_next_catalog(a, &j->given, &value) != -1) {
        j->count = (int32_t)parse_int("-n", value, 1, 10000);
    }
    char **operands = args_operands(a, 2, "CATALOG and QUERY");
    j->path = operands[0];
    j->query = operands[1];
}

static void print_text(const sae_features *list)
{
    char label[128];
    printf("%-8s %9s %9s  %s\n", "feature", "density", "max", "label");
    for (int64_t i = 0; i < sae_features_count(list); i++) {
        sae_feature f = features_at(list, i);
        printf("%-8d %9.3g %9.4g  %s\n", f.id, f.density, f.max, feature_label(label, &f));
    }
}

static void print_json(const job *j, const sae_features *list)
{
    json_t *found = json_array();
    for (int64_t i = 0; i < sae_features_count(list); i++) {
        sae_feature f = features_at(list, i);
        json_t *entry = feature_json(&f);
        json_object_set_new(entry, "score", report_number(f.score));
        json_array_append_new(found, entry);
    }
    report_print(json_pack("{s:o, s:o}", "query", report_text(j->query), "features", found));
}

static void run(args *a)
{
    job j = {.count = 10};
    parse(&j, a);
    session s = session_open(&a->model, j.given.sae_path, true);
    sae_catalog *catalog = features_open(&s, j.path, j.given.force);
    sae_error err = {.struct_size = sizeof err};
    sae_features *list;
    expect_ok(sae_catalog_search(&list, catalog, j.query, j.count, &err), &err, j.path);
    if (j.given.json) {
        print_json(&j, list);
    } else {
        print_text(list);
    }
    sae_features_free(list);
    sae_catalog_free(catalog);
    session_close(&s);
}

const command cmd_search = {
    .name = "search",
    .synopsis = "CATALOG QUERY [-n N] [--sae PATH]",
    .summary = "Find features by the words of their labels and tokens",
    .details = "The best match first. A word also finds words that begin with it, and in Korean, Chinese and Japanese any part of a\n"
               "word. Features that hold all words of QUERY, or, when there are none, any of them. With --sae, a catalog of another\n"
               "SAE is refused.\n",
    .options = options,
    .run = run,
};
