/* sae catalog import, sae catalog export: features as lines of JSON. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"
#include "features.h"
#include "labels.h"
#include "report.h"

/* ---- import ---- */

enum { ID_FORMAT = 300, ID_SOURCE, ID_EXPLAINER, ID_EXAMPLES, ID_VOCAB };

/* clang-format off */
static const option_desc import_options[] = {
    OPTION_SAE,
    {ID_FORMAT, "format", "NAME", "neuronpedia, feature-circuits, sae-dashboard or delphi, whatever the files look like"},
    {ID_SOURCE, "source", "NAME", "take what is of this SAE, where files tell of several: 12-res-16k, resid_3, layers.5"},
    {ID_EXPLAINER, "explainer", "NAME", "take labels of this model or method only, where a file says whose they are"},
    {ID_EXAMPLES, "examples", "N", "strongest examples of each feature, where each is a row of its own (default 5)"},
    {ID_VOCAB, "vocab", "FILE", "the texts of token ids: tokenizer.json, vocab.json or a list"},
    OPTION_FORCE,
    OPTION_JSON,
    {0},
};
/* clang-format on */

static const label_format *format_named(const char *name)
{
    for (int i = 0; label_formats[i] != NULL; i++) {
        if (strcmp(label_formats[i]->name, name) == 0) {
            return label_formats[i];
        }
    }
    die_usage("--format is neuronpedia, feature-circuits, sae-dashboard or delphi, not '%s'", name);
}

typedef struct import_job {
    catalog_args given;
    const char *vocab_path;
    char **from;
    int n_from;
    labels labels;
} import_job;

static void import_parse(import_job *j, args *a)
{
    const char *value;
    labels *l = &j->labels;
    for (int id; (id = args_next_catalog(a, &j->given, &value)) != -1;) {
        switch (id) {
        case ID_FORMAT:
            l->format = format_named(value);
            break;
        case ID_SOURCE:
            l->source = value;
            break;
        case ID_EXPLAINER:
            l->explainer = value;
            break;
        case ID_VOCAB:
            j->vocab_path = value;
            break;
        default:
            l->examples = (int32_t)parse_int("--examples", value, 1, 100);
            break;
        }
    }
    j->from = args_operands_many(a, 2, &j->n_from, "FILE and CATALOG");
    l->path = j->from[--j->n_from];
    if (j->given.sae_path == NULL && access(l->path, F_OK) != 0) {
        die_usage("--sae PATH is wanted: a catalog belongs to one SAE");
    }
}

static const char *const skip_texts[N_SKIPS] = {"of another source", "of another explainer", "without a label", "without a feature",
                                                "where the feature is not active"};

/* Reads all files in one transaction. */
static void import_files(labels *l, const paths *from)
{
    sae_error err = {.struct_size = sizeof err};
    progress p = progress_start("importing", "features", l->d_sae);
    l->progress = &p;
    if (sae_catalog_begin(l->catalog, &err)) {
        labels_fail(l, "%s", err.text);
    }
    for (int64_t i = 0; i < from->n; i++) {
        labels_read(l, from->all[i].path, from->all[i].in_folder);
    }
    labels_flush(l);
    l->line = 0; /* what is wrong now is so of all */
    if (l->source != NULL && l->imported == 0 && l->skipped[SKIP_SOURCE] > 0) {
        labels_fail(l, "nothing is of '%s'; the first is of '%s'", l->source, l->first_source);
    }
    if (l->format == NULL && l->used == NULL && l->files_skipped > 0) {
        labels_fail(l, "none of the folder's %lld files fits a format", (long long)l->files_skipped);
    }
    if (sae_catalog_commit(l->catalog, &err)) {
        labels_fail(l, "%s", err.text);
    }
    progress_end(&p);
}

static void import_tell(const import_job *j)
{
    const labels *l = &j->labels;
    if (l->wordless) {
        warn("tokens are numbers in these files, and stay out: --vocab FILE says their texts");
    }
    if (j->given.json) {
        json_t *skipped = json_object();
        for (int i = 0; i < N_SKIPS; i++) {
            json_object_set_new(skipped, skip_texts[i], json_integer(l->skipped[i]));
        }
        report_print(json_pack("{s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:o, s:O}", "features", (json_int_t)l->features, "catalog",
                               report_text(l->path), "format", l->used != NULL ? report_text(l->used->name) : json_null(), "files",
                               (json_int_t)l->files, "files skipped", (json_int_t)l->files_skipped, "read", (json_int_t)l->read, "imported",
                               (json_int_t)l->imported, "skipped", skipped, "explainers", l->explainers));
        return;
    }
    printf("%lld features into %s", (long long)l->features, l->path);
    for (int i = 0; i < N_SKIPS; i++) {
        if (l->skipped[i] > 0) {
            printf("; %lld entries %s skipped", (long long)l->skipped[i], skip_texts[i]);
        }
    }
    printf("\n");
}

static void run_import(args *a)
{
    import_job j = {.labels = {.examples = 5}};
    labels *l = &j.labels;
    paths from = {0};
    sae_catalog_about about = {.struct_size = sizeof about};
    import_parse(&j, a);
    for (int i = 0; i < j.n_from; i++) {
        paths_add(&from, j.from[i]);
    }
    if (j.vocab_path != NULL) {
        l->words = vocabulary_read(j.vocab_path);
    }
    session s = session_open(&a->model, j.given.sae_path, true);
    l->catalog = features_open_or_create(&s, l->path, j.given.force, &l->made);
    sae_catalog_info(l->catalog, &about);
    labels_start(l, about.d_sae);
    import_files(l, &from);
    import_tell(&j);
    sae_catalog_free(l->catalog);
    labels_end(l);
    paths_free(&from);
    session_close(&s);
}

const command cmd_catalog_import = {
    .name = "catalog import",
    .synopsis = "FILE... CATALOG --sae PATH [--source NAME] [--format NAME]",
    .summary = "Read labels and features, as other projects publish them, into a catalog",
    .details = "FILE is a file of one of these, compressed by gzip or not, a folder of them, or -:\n"
               "  neuronpedia       rows of its exports (features, explanations, activations), its downloads, and the lines that\n"
               "                    `sae catalog export` writes: objects with the key index\n"
               "  feature-circuits  its annotations: lines with Name and Annotation\n"
               "  sae-dashboard     batches for Neuronpedia, and what SaeVisData.save_json of sae_vis and SAEDashboard writes\n"
               "  delphi            explanations and scores: MODULE_latentN.txt\n"
               "What a file does not say stays as the catalog has it; of several labels of a feature the last stays, of examples that\n"
               "are rows of their own the strongest. CATALOG is made when it is not there; for that --sae is wanted. All is written,\n"
               "or, when a file is wrong, nothing.\n",
    .options = import_options,
    .run = run_import,
};

/* ---- export ---- */

/* clang-format off */
static const option_desc export_options[] = {{'o', "output", "FILE", "write to FILE instead of standard output"}, {0}};
/* clang-format on */

static void write_page(FILE *out, sae_catalog *catalog, const int32_t *ids, int64_t n, const char *path)
{
    sae_error err = {.struct_size = sizeof err};
    sae_features *list;
    expect_ok(sae_catalog_get(&list, catalog, ids, n, &err), &err, path);
    for (int64_t i = 0; i < sae_features_count(list); i++) {
        sae_feature f = features_at(list, i);
        feature_line_write(out, &f);
    }
    sae_features_free(list);
}

static void write_all(FILE *out, sae_catalog *catalog, const char *path)
{
    enum { PAGE = 256 };
    int32_t ids[PAGE];
    int64_t total = 0, done = 0;
    sae_error err = {.struct_size = sizeof err};
    sae_list_options opt = {.struct_size = sizeof opt, .limit = PAGE};
    expect_ok(sae_catalog_count(catalog, &total, &err), &err, path);
    progress p = progress_start("exporting", "features", total);
    for (int64_t n = PAGE; n == PAGE; done += n) {
        sae_features *list;
        expect_ok(sae_catalog_list(&list, catalog, &opt, &err), &err, path);
        n = sae_features_count(list);
        for (int64_t i = 0; i < n; i++) {
            ids[i] = opt.after_id = features_at(list, i).id;
        }
        opt.resume = SAE_YES;
        sae_features_free(list);
        write_page(out, catalog, ids, n, path);
        progress_at(&p, done);
    }
    progress_end(&p);
}

static void run_export(args *a)
{
    const char *value, *out_path = NULL;
    while (args_next(a, &value) != -1) {
        out_path = value;
    }
    const char *path = args_operands(a, 1, "CATALOG")[0];
    session s = session_open(&a->model, NULL, false);
    sae_catalog *catalog = features_open(&s, path, false);
    if (out_path == NULL || strcmp(out_path, "-") == 0) {
        write_all(stdout, catalog, path);
    } else {
        temp t = temp_open(out_path);
        FILE *out = fdopen(dup(t.fd), "wb");
        if (out == NULL) {
            die("%s: cannot open: %s", out_path, strerror(errno));
        }
        write_all(out, catalog, path);
        bool failed = ferror(out) != 0;
        if ((fclose(out) != 0) | failed) {
            die("%s: cannot write: %s", out_path, strerror(errno));
        }
        temp_rename(&t, out_path);
    }
    sae_catalog_free(catalog);
    session_close(&s);
}

const command cmd_catalog_export = {
    .name = "catalog export",
    .synopsis = "CATALOG [-o FILE]",
    .summary = "Write the features of a catalog as lines of JSON",
    .details = "The lines, by ascending index, are what `sae catalog import` reads; importing them into a new catalog and exporting\n"
               "that gives the same bytes.\n",
    .options = export_options,
    .run = run_export,
};
