/* sae catalog import, sae catalog export: features as lines of JSON. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"
#include "features.h"
#include "jsonl.h"
#include "report.h"

/* ---- import ---- */

static const option_desc import_options[] = {OPTION_SAE, OPTION_FORCE, OPTION_JSON, {0}};

typedef struct import_job {
    catalog_args given;
    const char *from, *path;
    session s;
    sae_catalog *catalog;
    bool made; /* the catalog is new: it goes when the import fails */
    int64_t line, features;
} import_job;

static void import_parse(import_job *j, args *a)
{
    const char *value;
    args_next_catalog(a, &j->given, &value);
    char **operands = args_operands(a, 2, "FILE.jsonl and CATALOG");
    j->from = operands[0];
    j->path = operands[1];
    if (j->given.sae_path == NULL) {
        die_usage("--sae PATH is wanted: a catalog belongs to one SAE");
    }
}

/* Nothing is written: the transaction is taken back, a new catalog removed. */
_Noreturn static void import_fail(import_job *j, const char *why)
{
    sae_catalog_free(j->catalog);
    if (j->made) {
        unlink(j->path);
    }
    die("%s: line %lld: %s", j->from, (long long)j->line, why);
}

static void import_line(import_job *j, const char *text, size_t bytes)
{
    char why[WHY_BYTES];
    feature_line line;
    sae_error err = {.struct_size = sizeof err};
    sae_features *old = NULL;
    if (!feature_line_read(&line, text, bytes, why)) {
        import_fail(j, why);
    }
    if (line.feature.id >= j->s.info.d_sae) {
        snprintf(why, sizeof why, "key 'index' is %d, this SAE has features 0 .. %d", line.feature.id, j->s.info.d_sae - 1);
        import_fail(j, why);
    }
    if (sae_catalog_get(&old, j->catalog, &line.feature.id, 1, &err)) {
        import_fail(j, err.text);
    }
    if (sae_features_count(old) > 0) {
        sae_feature known = features_at(old, 0);
        feature_line_fill(&line, &known);
    }
    if (sae_catalog_put(j->catalog, &line.feature, &err)) {
        import_fail(j, err.text);
    }
    sae_features_free(old);
    feature_line_free(&line);
    j->features++;
}

static void import_lines(import_job *j, FILE *in)
{
    char *text = NULL;
    size_t room = 0;
    sae_error err = {.struct_size = sizeof err};
    progress p = progress_start("importing", "features", j->s.info.d_sae);
    if (sae_catalog_begin(j->catalog, &err)) {
        import_fail(j, err.text);
    }
    for (ssize_t n; (n = getline(&text, &room, in)) >= 0;) {
        j->line++;
        while (n > 0 && strchr(" \t\r\n", text[n - 1]) != NULL) {
            n--;
        }
        if (n > 0) {
            import_line(j, text, (size_t)n);
        }
        progress_at(&p, j->features);
    }
    if (ferror(in)) {
        import_fail(j, strerror(errno));
    }
    if (sae_catalog_commit(j->catalog, &err)) {
        import_fail(j, err.text);
    }
    progress_end(&p);
    free(text);
}

static void run_import(args *a)
{
    import_job j = {0};
    import_parse(&j, a);
    bool standard = strcmp(j.from, "-") == 0;
    FILE *in = standard ? stdin : fopen(j.from, "rb");
    if (in == NULL) {
        die("%s: cannot open: %s", j.from, strerror(errno));
    }
    j.s = session_open(&a->model, j.given.sae_path, true);
    j.catalog = features_open_or_create(&j.s, j.path, j.given.force, &j.made);
    import_lines(&j, in);
    sae_catalog_free(j.catalog);
    if (!standard) {
        fclose(in);
    }
    if (j.given.json) {
        report_print(json_pack("{s:I, s:o}", "features", (json_int_t)j.features, "catalog", report_text(j.path)));
    } else {
        printf("%lld features into %s\n", (long long)j.features, j.path);
    }
    session_close(&j.s);
}

const command cmd_catalog_import = {
    .name = "catalog import",
    .synopsis = "FILE.jsonl CATALOG --sae PATH [--force]",
    .summary = "Read features from lines of JSON into a catalog",
    .details = "Each line is an object with Neuronpedia's names: index, description, frac_nonzero, maxActApprox, pos_str, pos_values,\n"
               "neg_str, neg_values, activations (a list of {tokens, values}), modelId, layer. Other keys are left alone. What a line\n"
               "does not say stays as the catalog has it. CATALOG is made when it is not there. All lines are written, or, when one\n"
               "is wrong, none. FILE.jsonl may be -.\n",
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
