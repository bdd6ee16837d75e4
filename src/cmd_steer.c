/* sae steer: edits features of rows, in place; everything else about the rows stays. */
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "output.h"
#include "report.h"
#include "rows.h"
#include "session.h"

/* The edits are numbered by their operation. */
enum { ID_OP = 300, ID_UNIT = 320, ID_MAX_ACT, ID_ADD_VECTOR };

static const option_desc options[] = {
    {ID_OP + SAE_ADD, "add", "I=C", "code of feature I := code + C"},
    {ID_OP + SAE_SET, "set", "I=C", "code of feature I := C"},
    {ID_OP + SAE_SCALE, "scale", "I=F", "code of feature I := F * code"},
    {ID_OP + SAE_MIN, "min", "I=C", "code of feature I := at least C"},
    {ID_OP + SAE_MAX, "max", "I=C", "code of feature I := at most C"},
    {ID_OP + SAE_ABLATE, "ablate", "I", "code of feature I := 0"},
    {ID_ADD_VECTOR, "add-vector", "FILE=A", "row := row + A * the float32 vector in FILE"},
    {ID_UNIT, "unit", "UNIT", "unit of C in the edits that follow: raw (default), unit or max_act"},
    {ID_MAX_ACT, "max-act", "I=V", "largest known code of feature I, for the unit max_act"},
    OPTION_OUTPUT,
    OPTION_TENSOR,
    OPTION_DTYPE,
    OPTION_JSON,
    {0},
};

typedef struct job {
    const char *path, *rows_path;
    io_args io;
    output_kind kind;
    session s;
    rows rows;
    sae_unit unit; /* of the next edit */
    sae_edit *edits;
    char **vector_path; /* of each edit, NULL for features */
    int64_t n_edits;
    int32_t *known; /* features with --max-act, and their values */
    float *known_max;
    int64_t n_known;
    int64_t changed;
    double seconds;
} job;

static sae_unit parse_unit(const char *value)
{
    for (sae_unit unit = SAE_UNIT_RAW; unit <= SAE_UNIT_MAX_ACT; unit++) {
        if (strcmp(sae_unit_name(unit), value) == 0) {
            return unit;
        }
    }
    die_usage("--unit is raw, unit or max_act, not '%s'", value);
}

static sae_edit *new_edit(job *j, sae_op op)
{
    size_t n = (size_t)++j->n_edits;
    j->edits = retake(j->edits, n, sizeof *j->edits);
    j->vector_path = retake(j->vector_path, n, sizeof *j->vector_path);
    j->vector_path[n - 1] = NULL;
    sae_edit *e = &j->edits[n - 1];
    *e = (sae_edit){.struct_size = sizeof *e, .op = op, .unit = op == SAE_SCALE || op == SAE_ABLATE ? SAE_UNIT_RAW : j->unit};
    return e;
}

static void feature_edit(job *j, sae_op op, const char *value)
{
    char option[16];
    snprintf(option, sizeof option, "--%s", sae_op_name(op));
    sae_edit *e = new_edit(j, op);
    if (op == SAE_ABLATE) {
        e->feature = (int32_t)parse_int(option, value, 0, INT32_MAX);
        return;
    }
    const char *right;
    char *left = parse_pair(option, value, &right);
    e->feature = (int32_t)parse_int(option, left, 0, INT32_MAX);
    e->value = parse_float(option, right);
    free(left);
}

static void vector_edit(job *j, const char *value)
{
    const char *right;
    char *left = parse_pair("--add-vector", value, &right);
    if (j->unit == SAE_UNIT_MAX_ACT) {
        die_usage("--add-vector knows the units raw and unit, not max_act");
    }
    sae_edit *e = new_edit(j, SAE_ADD);
    e->value = parse_float("--add-vector", right);
    j->vector_path[j->n_edits - 1] = left;
}

static void max_act(job *j, const char *value)
{
    const char *right;
    char *left = parse_pair("--max-act", value, &right);
    size_t n = (size_t)++j->n_known;
    j->known = retake(j->known, n, sizeof *j->known);
    j->known_max = retake(j->known_max, n, sizeof *j->known_max);
    j->known[n - 1] = (int32_t)parse_int("--max-act", left, 0, INT32_MAX);
    j->known_max[n - 1] = parse_float("--max-act", right);
    if (!(j->known_max[n - 1] > 0)) {
        die_usage("--max-act wants a number above 0, not '%s'", right);
    }
    free(left);
}

static void parse(job *j, args *a)
{
    const char *value;
    for (int id; (id = args_next_own(a, &j->io, &value)) != -1;) {
        switch (id) {
        case ID_UNIT:
            j->unit = parse_unit(value);
            break;
        case ID_MAX_ACT:
            max_act(j, value);
            break;
        case ID_ADD_VECTOR:
            vector_edit(j, value);
            break;
        default:
            feature_edit(j, (sae_op)(id - ID_OP), value);
            break;
        }
    }
    char **operands = args_operands(a, 2, "PATH and ROWS");
    j->path = operands[0];
    j->rows_path = operands[1];
    if (j->io.out_path == NULL) {
        die_usage("-o FILE is wanted");
    }
    if (j->n_edits == 0) {
        die_usage("an edit is wanted: --set I=C, --add I=C, --scale I=F, --min I=C, --max I=C, --ablate I or --add-vector FILE=A");
    }
    if (io_to_pipe(&j->io) && j->io.json) {
        die_usage("-o - and --json both want standard output");
    }
    j->kind = output_kind_of(j->io.out_path, false);
}

/* --max-act may follow the edit it is for. */
static void give_max_acts(job *j)
{
    for (int64_t i = 0; i < j->n_edits; i++) {
        sae_edit *e = &j->edits[i];
        if (e->unit != SAE_UNIT_MAX_ACT) {
            continue;
        }
        for (int64_t k = 0; k < j->n_known; k++) {
            e->max_act = j->known[k] == e->feature ? j->known_max[k] : e->max_act;
        }
        if (e->max_act == 0) {
            die_usage("--unit max_act for feature %d wants --max-act %d=V", e->feature, e->feature);
        }
    }
}

static sae_plan *compile(job *j)
{
    sae_error err = {.struct_size = sizeof err};
    float **vectors = take((size_t)j->n_edits, sizeof *vectors);
    for (int64_t i = 0; i < j->n_edits; i++) {
        vectors[i] = NULL;
        if (j->vector_path[i] == NULL) {
            j->edits[i].model = j->s.model;
        } else {
            vectors[i] = vector_read(j->vector_path[i], j->s.info.d_in, "d_in");
            j->edits[i].vector = vectors[i];
        }
    }
    sae_plan *plan;
    expect_ok(sae_plan_compile(&plan, j->s.env, j->s.info.d_in, 1, j->edits, j->n_edits, &err), &err, j->path);
    for (int64_t i = 0; i < j->n_edits; i++) {
        free(vectors[i]);
    }
    free(vectors);
    return plan;
}

static int64_t count_changes(const char *before, const char *after, size_t row_bytes, int64_t n)
{
    int64_t changed = 0;
    for (int64_t r = 0; r < n; r++) {
        changed += memcmp(before + (size_t)r * row_bytes, after + (size_t)r * row_bytes, row_bytes) != 0;
    }
    return changed;
}

static void steer(job *j, const sae_plan *plan)
{
    sae_error err = {.struct_size = sizeof err};
    int64_t room = rows_block(&j->rows), done = 0;
    const array *a = j->rows.a;
    array like = array_make(*a->name != '\0' ? a->name : "x", elem_from_dtype(j->rows.dtype), a->ndim, a->shape);
    output *out = output_open(j->io.out_path, j->kind, &like, 1);
    char *before = take((size_t)room, j->rows.row_bytes), *x = take((size_t)room, j->rows.row_bytes);
    size_t bytes = sae_plan_scratch_bytes(plan);
    void *scratch = take(bytes, 1);
    progress p = progress_start("steering", "rows", j->rows.n_rows);
    for (int64_t n; (n = rows_get(&j->rows, x, room)) > 0;) {
        memcpy(before, x, (size_t)n * j->rows.row_bytes);
        sae_rows view = {.struct_size = sizeof view, .dtype = j->rows.dtype, .x = x, .n_rows = n};
        double start = now();
        expect_ok(sae_plan_apply(plan, &view, scratch, bytes, &err), &err, j->path);
        j->seconds += now() - start;
        j->changed += count_changes(before, x, j->rows.row_bytes, n);
        output_put(out, x, (size_t)n * j->rows.row_bytes);
        done += n;
        progress_at(&p, done);
    }
    progress_end(&p);
    output_commit(out);
    free(scratch);
    free(before);
    free(x);
}

static void report(const job *j)
{
    int64_t n = j->rows.n_rows;
    double each = n > 0 ? 1e6 * j->seconds / (double)n : 0;
    if (j->io.json) {
        report_print(json_pack("{s:I, s:I, s:I, s:s, s:o, s:o}", "rows", (json_int_t)n, "changed", (json_int_t)j->changed, "edits",
                               (json_int_t)j->n_edits, "dtype", sae_dtype_name(j->rows.dtype), "seconds", report_number(j->seconds),
                               "us_per_row", report_number(each)));
        return;
    }
    fprintf(io_to_pipe(&j->io) ? stderr : stdout, "%lld of %lld rows changed by %lld edits, %.3f s, %.1f us per row\n",
            (long long)j->changed, (long long)n, (long long)j->n_edits, j->seconds, each);
}

static void end(job *j)
{
    rows_close(&j->rows);
    session_close(&j->s);
    for (int64_t i = 0; i < j->n_edits; i++) {
        free(j->vector_path[i]);
    }
    free(j->vector_path);
    free(j->edits);
    free(j->known);
    free(j->known_max);
}

static void run(args *a)
{
    job j = {.unit = SAE_UNIT_RAW};
    parse(&j, a);
    give_max_acts(&j);
    j.s = session_open(&a->model, j.path, true);
    sae_plan *plan = compile(&j);
    j.rows = rows_open(j.rows_path, j.io.tensor, j.io.bits, j.s.info.d_in, "d_in");
    steer(&j, plan);
    report(&j);
    sae_plan_free(plan);
    end(&j);
}

const command cmd_steer = {
    .name = "steer",
    .synopsis = "PATH ROWS -o ROWS EDIT ...",
    .summary = "Edit features in rows of activations",
    .details = "Each edit adds (new code - code) * the feature's decoder direction to the row, so that what the SAE\n"
               "does not explain stays as it was; rows that no edit changes stay bit-identical. All codes are those\n"
               "of the original row. Edits may be repeated. The result has the type and shape of ROWS (bfloat16 in a\n"
               ".npy is written as its bits, '<u2'). Units of C: raw is the unit of the codes, unit a length in\n"
               "activation space, max_act a multiple of --max-act.\n",
    .options = options,
    .run = run,
};
