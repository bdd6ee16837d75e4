/* sae verify: one SAE has one answer, on this machine too. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "codes.h"
#include "made.h"
#include "report.h"
#include "session.h"

enum { ID_ROWS = 300, ID_COUNT, ID_SEED };

static const option_desc options[] = {
    {ID_ROWS, "rows", "ROWS", "encode these rows; without, rows are made from the SAE itself"},
    {ID_COUNT, "count", "N", "how many rows to make (default 32)"},
    {ID_SEED, "seed", "S", "of the rows that are made (default 1)"},
    OPTION_TENSOR,
    OPTION_DTYPE,
    OPTION_JSON,
    {0},
};

enum { MOST_ISAS = 8 };

/* Rows at once: single, few (in 16 bits), many (in 8), and a whole block. */
static const int32_t batches[] = {1, 3, 8, 64};
enum { N_BATCHES = sizeof batches / sizeof *batches };

/* One way to the codes. */
typedef struct way {
    sae_isa isa;
    uint32_t threads;
    int32_t batch;
    bool screened;
} way;

/* The first place where two ways differ: a feature of a row, and its codes, 0 where it has none. */
typedef struct difference {
    way a, b;
    int64_t row;
    int32_t feature;
    float of_a, of_b;
} difference;

typedef struct job {
    const char *path, *rows_path;
    io_args io;
    int64_t count, seed;
    sae_info info;
    const char *screen; /* where it is from */
    sae_rows x;
    void *block; /* that x lies in */
    sae_isa isas[MOST_ISAS];
    uint32_t threads[2];
    int32_t batch[N_BATCHES];
    int n_isas, n_threads, n_batches, encodes, ways; /* ways: how many encodes there will be */
    sae_codes want;                                  /* of the first way */
    way first;
    bool differs;
    difference found;
    sae_ctx_counts counts; /* of the screened ways */
    progress bar;
} job;

static void parse(job *j, args *a)
{
    const char *value;
    for (int id; (id = args_next_own(a, &j->io, &value)) != -1;) {
        switch (id) {
        case ID_ROWS:
            j->rows_path = value;
            break;
        case ID_COUNT:
            j->count = parse_int("--count", value, 1, 1 << 20);
            break;
        default:
            j->seed = parse_int("--seed", value, 0, INT64_MAX);
            break;
        }
    }
    j->path = args_operands(a, 1, "PATH")[0];
    if (j->rows_path == NULL && (j->io.tensor != NULL || j->io.bits != 0)) {
        die_usage("--tensor and --dtype are about the rows of --rows");
    }
}

/* ---- rows ---- */

/* Every eighth row is one that no model gives: nothing, the centre, too long, too short, not a number, infinite. */
static void make_odd(const float *centre, int32_t d, float *x, int64_t which)
{
    for (int32_t k = 0; k < d; k++) {
        x[k] = which == 0 ? 0.0f : which == 1 ? centre[k] : which == 2 ? x[k] * 1e30f : which == 3 ? x[k] * 1e-30f : x[k];
    }
    if (which >= 4) {
        x[d / 2] = which == 4 ? NAN : INFINITY;
    }
}

static void make_rows(job *j, const session *s)
{
    enum { EVERY = 8, WAYS = 6 };
    int32_t d = j->info.d_in;
    sae_error err = {.struct_size = sizeof err};
    float *x = made_rows(s, j->count, (uint64_t)j->seed, j->path), *centre = take_zeros((size_t)d, sizeof *centre);
    if (d == j->info.d_out) {
        expect_ok(sae_model_read(s->model, SAE_B_DEC, 0, d, centre, &err), &err, j->path);
    }
    for (int64_t r = EVERY - 1; r < j->count; r += EVERY) {
        make_odd(centre, d, x + r * d, r / EVERY % WAYS);
    }
    free(centre);
    j->block = x;
    j->x = (sae_rows){.struct_size = sizeof j->x, .dtype = SAE_F32, .x = x, .n_rows = j->count};
}

static void read_rows(job *j)
{
    rows r = rows_open(j->rows_path, j->io.tensor, j->io.bits, j->info.d_in, "d_in");
    j->block = take((size_t)r.n_rows, r.row_bytes);
    rows_get(&r, j->block, r.n_rows);
    j->x = (sae_rows){.struct_size = sizeof j->x, .dtype = r.dtype, .x = j->block, .n_rows = r.n_rows};
    rows_close(&r);
}

/* ---- ways ---- */

static void list_ways(job *j, const model_args *m)
{
    static const sae_isa all[] = {SAE_ISA_SCALAR, SAE_ISA_NEON, SAE_ISA_AVX2, SAE_ISA_AVX512};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (m->isa == SAE_ISA_AUTO ? sae_isa_available(all[i]) == SAE_YES : m->isa == all[i]) {
            j->isas[j->n_isas++] = all[i];
        }
    }
    j->threads[j->n_threads++] = 1;
    if (m->threads != 1) {
        j->threads[j->n_threads++] = m->threads;
    }
    if (j->info.arch == SAE_TEMPORAL) { /* all rows are one sequence */
        j->batch[j->n_batches++] = j->x.n_rows > 0 ? (int32_t)j->x.n_rows : 1;
    } else {
        memcpy(j->batch, batches, sizeof batches);
        j->n_batches = N_BATCHES;
    }
    j->ways = j->n_isas * j->n_threads * j->n_batches * (j->screen != NULL ? 2 : 1);
}

static void find_difference(job *j, const sae_codes *got, int64_t r)
{
    const sae_codes *want = &j->want;
    int64_t a = want->indptr[r], a_end = want->indptr[r + 1], b = got->indptr[r], b_end = got->indptr[r + 1];
    while (a < a_end && b < b_end && want->indices[a] == got->indices[b] &&
           memcmp(want->values + a, got->values + b, sizeof *got->values) == 0) {
        a++;
        b++;
    }
    int32_t of_a = a < a_end ? want->indices[a] : INT32_MAX, of_b = b < b_end ? got->indices[b] : INT32_MAX;
    difference *d = &j->found;
    d->row = r;
    d->feature = of_a < of_b ? of_a : of_b;
    d->of_a = of_a == d->feature ? want->values[a] : 0.0f;
    d->of_b = of_b == d->feature ? got->values[b] : 0.0f;
}

static void compare(job *j, const sae_codes *got, way w)
{
    const sae_codes *want = &j->want;
    for (int64_t r = 0; r < j->x.n_rows && !j->differs; r++) {
        int64_t at = want->indptr[r], n = want->indptr[r + 1] - at, other = got->indptr[r];
        j->differs = got->indptr[r + 1] - other != n || memcmp(want->indices + at, got->indices + other, (size_t)n * 4) != 0 ||
                     memcmp(want->values + at, got->values + other, (size_t)n * 4) != 0;
        if (j->differs) {
            j->found.a = j->first;
            j->found.b = w;
            find_difference(j, got, r);
        }
    }
}

static void count(job *j, const sae_ctx *ctx)
{
    sae_ctx_counts c = {.struct_size = sizeof c};
    expect_ctx_ok(sae_ctx_count(ctx, &c), ctx, j->path);
    j->counts.rows_screened += c.rows_screened;
    j->counts.rows_dense += c.rows_dense;
    j->counts.candidates += c.candidates;
    j->counts.active += c.active;
}

static void go(job *j, const session *s, way w)
{
    sae_error err = {.struct_size = sizeof err};
    sae_ctx_options opt = {.struct_size = sizeof opt, .max_rows = w.batch, .screen = w.screened ? SAE_YES : SAE_NO};
    sae_ctx *ctx;
    expect_ok(sae_ctx_create(&ctx, s->model, &opt, &err), &err, j->path);
    sae_codes got = codes_room(j->x.n_rows);
    codes_encode(&got, ctx, &j->x, j->path);
    if (w.screened) {
        count(j, ctx);
    }
    if (j->encodes++ == 0) {
        j->want = got;
        j->first = w;
    } else {
        compare(j, &got, w);
        codes_free(&got);
    }
    sae_ctx_free(ctx);
    progress_at(&j->bar, j->encodes);
}

/* All ways on one instruction set and one number of threads. */
static void go_on(job *j, const model_args *m, sae_isa isa, int t)
{
    model_args use = *m;
    use.isa = isa;
    use.threads = j->threads[t];
    use.open.check = SAE_NO; /* that is done */
    use.prepare |= j->screen != NULL ? SAE_PREPARE_SCREEN : 0;
    session s = session_open(&use, j->path, false);
    uint32_t threads = s.pool != NULL ? sae_pool_threads(s.pool) : 1;
    j->threads[t] = threads;
    for (int b = 0; b < j->n_batches && !j->differs && (t == 0 || threads > 1); b++) {
        for (int screened = 0; screened < (j->screen != NULL ? 2 : 1) && !j->differs; screened++) {
            go(j, &s, (way){isa, threads, j->batch[b], screened == 1});
        }
    }
    session_close(&s);
}

static void compare_all(job *j, const model_args *m)
{
    j->bar = progress_start("comparing", "encodes", j->ways);
    for (int i = 0; i < j->n_isas && !j->differs; i++) {
        for (int t = 0; t < j->n_threads && !j->differs; t++) {
            go_on(j, m, j->isas[i], t);
        }
    }
    progress_end(&j->bar);
    if (j->n_threads == 2 && j->threads[1] == 1) {
        j->n_threads = 1; /* there is one processor */
    }
}

/* ---- what is told ---- */

static json_t *way_json(way w)
{
    return json_pack("{s:s, s:i, s:i, s:b}", "isa", sae_isa_name(w.isa), "threads", (int)w.threads, "rows_at_once", w.batch, "screened",
                     w.screened);
}

static json_t *difference_json(const job *j)
{
    const difference *d = &j->found;
    if (!j->differs) {
        return json_null();
    }
    return json_pack("{s:I, s:i, s:o, s:o, s:o, s:o}", "row", (json_int_t)d->row, "feature", d->feature, "first",
                     report_number((double)d->of_a), "second", report_number((double)d->of_b), "first_way", way_json(d->a), "second_way",
                     way_json(d->b));
}

static void print_json(const job *j)
{
    const sae_ctx_counts *c = &j->counts;
    json_t *isas = json_array(), *threads = json_array(), *at_once = json_array();
    for (int i = 0; i < j->n_isas; i++) {
        json_array_append_new(isas, json_string(sae_isa_name(j->isas[i])));
    }
    for (int i = 0; i < j->n_threads; i++) {
        json_array_append_new(threads, json_integer(j->threads[i]));
    }
    for (int i = 0; i < j->n_batches; i++) {
        json_array_append_new(at_once, json_integer(j->batch[i]));
    }
    json_t *root = json_pack("{s:o, s:s, s:i, s:i, s:I, s:o, s:I, s:o}", "path", report_text(j->path), "architecture",
                             sae_arch_name(j->info.arch), "d_in", j->info.d_in, "d_sae", j->info.d_sae, "rows", (json_int_t)j->x.n_rows,
                             "seed", j->rows_path != NULL ? json_null() : json_integer(j->seed), "codes",
                             (json_int_t)j->want.indptr[j->x.n_rows], "screen", j->screen != NULL ? json_string(j->screen) : json_null());
    json_t *more = json_pack("{s:o, s:o, s:o, s:i, s:I, s:I, s:I, s:I, s:b, s:o}", "isas", isas, "threads", threads, "rows_at_once",
                             at_once, "encodes", j->encodes, "rows_screened", (json_int_t)c->rows_screened, "rows_dense",
                             (json_int_t)c->rows_dense, "candidates", (json_int_t)c->candidates, "active", (json_int_t)c->active, "same",
                             !j->differs, "difference", difference_json(j));
    json_object_update(root, more);
    json_decref(more);
    report_print(root);
}

static void print_text(const job *j)
{
    const sae_ctx_counts *c = &j->counts;
    double share = c->rows_screened > 0 ? 100.0 * (double)c->candidates / (double)c->rows_screened / j->info.d_sae : 0;
    printf("%s: %s, %d x %d\n", j->path, sae_arch_name(j->info.arch), j->info.d_in, j->info.d_sae);
    printf("rows            %lld, %s\n", (long long)j->x.n_rows, j->rows_path != NULL ? j->rows_path : "made from the SAE");
    printf("screen          %s\n", j->screen == NULL                ? "none: an SAE like this one cannot be screened"
                                   : strcmp(j->screen, "file") == 0 ? "in the file; it is the one that W_enc gives, to the byte"
                                                                    : "built");
    printf("compared        %lld codes of %d encodes: %s", (long long)j->want.indptr[j->x.n_rows], j->encodes,
           j->screen != NULL ? "dense and screened, on" : "on");
    for (int i = 0; i < j->n_isas; i++) {
        printf("%s %s", i > 0 ? "," : "", sae_isa_name(j->isas[i]));
    }
    printf("; %u", j->threads[0]);
    if (j->n_threads == 2) {
        printf(" and %u", j->threads[1]);
    }
    printf(" thread%s;", j->n_threads == 2 ? "s" : "");
    for (int i = 0; i < j->n_batches; i++) {
        printf("%s %d", i > 0 ? "," : "", j->batch[i]);
    }
    printf(" rows at once\n");
    if (j->screen != NULL) {
        printf("screened        %lld rows by %lld candidates (%.2f %% of the features) for %lld codes; %lld rows dense\n",
               (long long)c->rows_screened, (long long)c->candidates, share, (long long)c->active, (long long)c->rows_dense);
    }
    printf("result          the same bits\n");
}

static _Noreturn void die_of_difference(const job *j)
{
    const difference *d = &j->found;
    die("%s: row %lld, feature %d: %.9g %s (%s, %u thread%s, %d rows at once), %.9g %s (%s, %u thread%s, %d rows at once): these should be "
        "the same bits",
        j->path, (long long)d->row, d->feature, (double)d->of_a, d->a.screened ? "screened" : "dense", sae_isa_name(d->a.isa), d->a.threads,
        d->a.threads > 1 ? "s" : "", d->a.batch, (double)d->of_b, d->b.screened ? "screened" : "dense", sae_isa_name(d->b.isa),
        d->b.threads, d->b.threads > 1 ? "s" : "", d->b.batch);
}

/* Opens the SAE once to look at it: every weight, its screen, and what rows may be made of. */
static void look(job *j, const model_args *m)
{
    sae_error err = {.struct_size = sizeof err};
    sae_memory memory = {.struct_size = sizeof memory};
    model_args bare = *m;
    bare.prepare = 0;
    session s = session_open(&bare, j->path, true);
    if (m->open.check != SAE_NO) {
        progress p = progress_note("checking every weight");
        expect_ok(sae_model_check(s.model, &err), &err, j->path);
        progress_end(&p);
    }
    j->info = s.info;
    expect_ok(sae_model_memory(s.model, &memory), &err, j->path);
    j->screen = memory.screen_stored_bytes > 0 ? "file" : memory.screen_bytes > 0 ? "built" : NULL;
    if (j->rows_path != NULL) {
        read_rows(j);
    } else {
        make_rows(j, &s);
    }
    session_close(&s);
}

static void run(args *a)
{
    job j = {.count = 32, .seed = 1};
    parse(&j, a);
    look(&j, &a->model);
    list_ways(&j, &a->model);
    compare_all(&j, &a->model);
    if (j.io.json) {
        print_json(&j);
        finish_stdout();
    } else if (!j.differs) {
        print_text(&j);
    }
    if (j.differs) {
        die_of_difference(&j);
    }
    codes_free(&j.want);
    free(j.block);
}

const command cmd_verify = {
    .name = "verify",
    .synopsis = "PATH [--rows ROWS] [--json]",
    .summary = "Prove on this machine that an SAE has one answer",
    .details = "Reads every weight; builds a screen that the file holds again and compares it byte by byte; then encodes rows\n"
               "dense and screened, on every instruction set of this processor, with one thread and all of them, few and many\n"
               "rows at once, and compares all codes. Exit status 1 names the first row and feature that differ. Rows, and their\n"
               "codes, are held in memory.\n",
    .options = options,
    .run = run,
};
