/* sae top: the strongest features of rows, by name. */
#include <stdlib.h>

#include "cmd.h"
#include "codes.h"
#include "features.h"
#include "report.h"
#include "rows.h"

enum { ID_CATALOG = 300 };

/* clang-format off */
static const option_desc options[] = {
    OPTION_SAE,
    {ID_CATALOG, "catalog", "FILE", "where the labels are"},
    {'n', "count", "N", "how many of each row (default 5)"},
    OPTION_TENSOR,
    OPTION_DTYPE,
    OPTION_FORCE,
    OPTION_JSON,
    {0},
};
/* clang-format on */

typedef struct job {
    catalog_args given;
    const char *catalog_path, *rows_path;
    int32_t count;
    io_args io;
    session s;
    sae_catalog *catalog;
    json_t *list;
} job;

/* An active feature of a row. */
typedef struct active {
    int32_t feature;
    float value;
} active;

static void parse(job *j, args *a)
{
    const char *value;
    for (int id; (id = args_next_own(a, &j->io, &value)) != -1;) {
        if (id == ID_CATALOG) {
            j->catalog_path = value;
        } else if (!args_take_catalog(&j->given, id, value)) {
            j->count = (int32_t)parse_int("-n", value, 1, 10000);
        }
    }
    j->rows_path = args_operands(a, 1, "ROWS")[0];
    if (j->given.sae_path == NULL) {
        die_usage("--sae PATH is wanted");
    }
}

static int by_value(const void *a, const void *b)
{
    const active *x = a, *y = b;
    return x->value != y->value ? (x->value < y->value) - (x->value > y->value) : (x->feature > y->feature) - (x->feature < y->feature);
}

/* What the catalog has of one feature, as a list of one or none. */
static sae_features *look_up(const job *j, int32_t feature)
{
    sae_error err = {.struct_size = sizeof err};
    sae_features *list = NULL;
    if (j->catalog != NULL) {
        expect_ok(sae_catalog_get(&list, j->catalog, &feature, 1, &err), &err, j->catalog_path);
    }
    return list;
}

static void tell_feature(job *j, json_t *row, active a)
{
    char label[128];
    sae_features *known = look_up(j, a.feature);
    sae_feature f = {.label = ""};
    if (sae_features_count(known) > 0) {
        f = features_at(known, 0);
    }
    if (row != NULL) {
        json_array_append_new(row, json_pack("{s:i, s:o, s:o}", "feature", a.feature, "value", report_number((double)a.value), "label",
                                             *f.label != '\0' ? report_text(f.label) : json_null()));
    } else {
        printf("  %-8d %10.5g  %s\n", a.feature, (double)a.value, j->catalog != NULL ? feature_label(label, &f) : "");
    }
    sae_features_free(known);
}

static void tell_row(job *j, int64_t number, const int32_t *indices, const float *values, int64_t n)
{
    active *all = take((size_t)n, sizeof *all);
    for (int64_t i = 0; i < n; i++) {
        all[i] = (active){indices[i], values[i]};
    }
    qsort(all, (size_t)n, sizeof *all, by_value);
    json_t *row = j->io.json ? json_array() : NULL;
    if (row == NULL) {
        printf("row %lld, %lld active\n", (long long)number, (long long)n);
    }
    for (int64_t i = 0; i < n && i < j->count; i++) {
        tell_feature(j, row, all[i]);
    }
    if (row != NULL) {
        json_array_append_new(j->list, row);
    }
    free(all);
}

static void tell_rows(job *j, rows *r)
{
    sae_ctx *ctx = session_ctx(&j->s, r, j->given.sae_path);
    int64_t room = session_block(&j->s, r), first = 0;
    sae_codes codes = codes_room(room);
    void *x = take((size_t)room, r->row_bytes);
    for (int64_t n; (n = rows_get(r, x, room)) > 0; first += n) {
        sae_rows block = {.struct_size = sizeof block, .dtype = r->dtype, .x = x, .n_rows = n};
        codes_encode(&codes, ctx, &block, j->given.sae_path);
        for (int64_t i = 0; i < n; i++) {
            int64_t at = codes.indptr[i];
            tell_row(j, first + i, codes.indices + at, codes.values + at, codes.indptr[i + 1] - at);
        }
    }
    free(x);
    codes_free(&codes);
    sae_ctx_free(ctx);
}

static void run(args *a)
{
    job j = {.count = 5};
    parse(&j, a);
    j.s = session_open(&a->model, j.given.sae_path, true);
    if (j.catalog_path != NULL) {
        j.catalog = features_open(&j.s, j.catalog_path, j.given.force);
    }
    rows r = rows_open(j.rows_path, j.io.tensor, j.io.bits, j.s.info.d_in, "d_in");
    j.list = j.io.json ? json_array() : NULL;
    tell_rows(&j, &r);
    if (j.list != NULL) {
        report_print(json_pack("{s:I, s:o}", "rows", (json_int_t)r.n_rows, "top", j.list));
    }
    rows_close(&r);
    sae_catalog_free(j.catalog);
    session_close(&j.s);
}

const command cmd_top = {
    .name = "top",
    .synopsis = "--sae PATH ROWS [--catalog FILE] [-n N]",
    .summary = "List the strongest features of each row, with their labels",
    .details = "Encodes the rows and looks the features with the largest codes up in a catalog. A catalog of another SAE is refused\n"
               "unless --force.\n",
    .options = options,
    .run = run,
};
