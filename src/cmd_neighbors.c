/* sae neighbors: the features nearest to a feature or a vector. */
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "report.h"
#include "rows.h"
#include "session.h"

enum { ID_FEATURE = 300, ID_VECTOR, ID_BY };

static const option_desc options[] = {
    {ID_FEATURE, "feature", "I", "nearest to this feature, which is left out"},
    {ID_VECTOR, "vector", "FILE", "nearest to the float32 vector in FILE"},
    {'k', "count", "N", "how many (default 10)"},
    {ID_BY, "by", "SIDE", "decoder (default): what features write; encoder: what they read"},
    OPTION_JSON,
    {0},
};

typedef struct job {
    const char *path, *vector_path, *by_name;
    int32_t by, feature, count;
    bool has_feature, json;
} job;

static void parse(job *j, args *a)
{
    const char *value;
    for (int id; (id = args_next(a, &value)) != -1;) {
        switch (id) {
        case ID_FEATURE:
            j->feature = (int32_t)parse_int("--feature", value, 0, INT32_MAX);
            j->has_feature = true;
            break;
        case ID_VECTOR:
            j->vector_path = value;
            break;
        case 'k':
            j->count = (int32_t)parse_int("-k", value, 1, INT32_MAX);
            break;
        case ID_BY:
            j->by_name = value;
            j->by = strcmp(value, "decoder") == 0 ? SAE_BY_DECODER : strcmp(value, "encoder") == 0 ? SAE_BY_ENCODER : 0;
            break;
        default:
            j->json = true;
            break;
        }
    }
    if (j->by == 0) {
        die_usage("--by is decoder or encoder, not '%s'", j->by_name);
    }
    if (j->has_feature == (j->vector_path != NULL)) {
        die_usage("one of --feature I and --vector FILE is wanted");
    }
    j->path = args_operands(a, 1, "PATH")[0];
}

static void print_text(const job *j, const sae_neighbors *found)
{
    printf("%-8s cosine of %s rows\n", "feature", j->by_name);
    for (int32_t i = 0; i < found->n; i++) {
        printf("%-8d %.6f\n", found->features[i], (double)found->cosines[i]);
    }
}

static void print_json(const job *j, const sae_neighbors *found)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < found->n; i++) {
        json_t *cosine = report_number((double)found->cosines[i]);
        json_array_append_new(list, json_pack("{s:i, s:o}", "feature", found->features[i], "cosine", cosine));
    }
    json_t *root = json_object();
    json_object_set_new(root, "by", json_string(j->by_name));
    json_object_set_new(root, "feature", j->has_feature ? json_integer(j->feature) : json_null());
    json_object_set_new(root, "neighbors", list);
    report_print(root);
}

static void run(args *a)
{
    job j = {.by = SAE_BY_DECODER, .by_name = "decoder", .count = 10};
    parse(&j, a);
    session s = session_open(&a->model, j.path, true);
    sae_error err = {.struct_size = sizeof err};
    sae_index *index;
    expect_ok(sae_index_create(&index, s.model, j.by, &err), &err, j.path);
    int32_t room = j.count < s.info.d_sae ? j.count : s.info.d_sae;
    sae_neighbors found = {.struct_size = sizeof found, .k = room};
    found.features = take((size_t)room, sizeof *found.features);
    found.cosines = take((size_t)room, sizeof *found.cosines);
    size_t bytes = sae_index_scratch_bytes(index);
    void *scratch = take(bytes, 1);
    if (j.has_feature) {
        expect_ok(sae_index_nearest_feature(index, &found, j.feature, scratch, bytes, &err), &err, j.path);
    } else {
        float *query = vector_read(j.vector_path, sae_index_dim(index), j.by == SAE_BY_DECODER ? "d_out" : "d_in");
        expect_ok(sae_index_nearest(index, &found, query, scratch, bytes, &err), &err, j.vector_path);
        free(query);
    }
    if (j.json) {
        print_json(&j, &found);
    } else {
        print_text(&j, &found);
    }
    free(scratch);
    free(found.features);
    free(found.cosines);
    sae_index_free(index);
    session_close(&s);
}

const command cmd_neighbors = {
    .name = "neighbors",
    .synopsis = "PATH (--feature I | --vector FILE) [-k N] [--by decoder|encoder]",
    .summary = "List the features nearest to a feature or a vector",
    .details = "Exact search by cosine over all rows of W_dec (or W_enc by feature), the nearest first.\n",
    .options = options,
    .run = run,
};
