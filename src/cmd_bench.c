/* sae bench: how long encoding takes on this machine, screened and not, and whether the bits are the same. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "codes.h"
#include "made.h"
#include "report.h"

enum { ID_SHAPE = 300, ID_SECONDS };
enum { N_BATCHES = 4, N_KINDS = 2, MOST_ROWS = 4096, MADE_ROWS = 512, LEAST_ROUNDS = 3, MOST_ROUNDS = 2000, PART = 1 << 20 };

static const int64_t batches[N_BATCHES] = {1, 8, 64, 512};

static const option_desc options[] = {
    {ID_SHAPE, "shape", "DxN", "without PATH: d_in and d_sae of the SAE that is made up (default 2304x16384)"},
    {ID_SECONDS, "seconds", "S", "about how long to measure (default 10), packing not counted"},
    OPTION_TENSOR,
    OPTION_DTYPE,
    OPTION_JSON,
    {0},
};

/* The two ways of encoding that take turns. */
enum { DENSE, SCREENED };

/* Of one way, one batch and one number of threads. */
typedef struct figures {
    spread ms;
    sae_ctx_counts counts;
} figures;

typedef struct line {
    uint32_t threads;
    int64_t batch, rounds;
    figures by[N_KINDS];
    double roof_ms; /* to read every weight's byte once, at the best rate of these rounds */
} line;

typedef struct job {
    const char *path, *rows_path, *about; /* about: for sentences */
    io_args io;
    int32_t d_in, d_sae; /* of --shape */
    double seconds;
    session s;
    uint32_t threads;
    float *directions; /* of an SAE that is made up */
    sae_rows rows;     /* all of them */
    sae_memory memory;
    double packing; /* seconds */
    sae_codes codes[N_KINDS];
    unsigned char *bytes; /* as many as there are weights: what a screened encode reads at the least */
    size_t n_bytes;
    line lines[2 * N_BATCHES];
    int n_lines, n_batches;
    int64_t encoded, found; /* rows, and their codes */
    progress progress;
} job;

/* ---- what is measured ---- */

static void parse_shape(job *j, const char *value)
{
    char *end;
    long d = strtol(value, &end, 10), n = *end == 'x' ? strtol(end + 1, &end, 10) : 0;
    if (*end != '\0' || d < 1 || n < 1 || d > 65536 || n > INT32_MAX / 4 || d * n > (1L << 31)) {
        die_usage("--shape wants d_in and d_sae, such as 2304x16384, with up to 2^31 weights, not '%s'", value);
    }
    j->d_in = (int32_t)d;
    j->d_sae = (int32_t)n;
}

static void parse(job *j, args *a)
{
    const char *value;
    for (int id; (id = args_next_own(a, &j->io, &value)) != -1;) {
        if (id == ID_SHAPE) {
            parse_shape(j, value);
        } else {
            j->seconds = (double)parse_float("--seconds", value);
        }
    }
    if (j->seconds < 0 || j->seconds > 3600) {
        die_usage("--seconds wants a number from 0 to 3600");
    }
    int n;
    char **operands = args_operands_many(a, 0, &n, "PATH and ROWS");
    if (n > 2) {
        die_usage("PATH and ROWS wanted, '%s' is one too many", operands[2]);
    }
    j->path = n > 0 ? operands[0] : NULL;
    j->rows_path = n > 1 ? operands[1] : NULL;
    j->about = j->path;
    if (j->path != NULL && j->d_in != 0) {
        die_usage("--shape is for an SAE that is made up, and PATH names one");
    }
    if (j->d_in == 0) {
        parse_shape(j, "2304x16384");
    }
}

/* Another number of threads is another model, prepared anew: an env keeps its threads. */
static void open_sae(job *j, const model_args *m, uint32_t threads)
{
    model_args with = *m;
    with.threads = threads;
    with.prepare = 0;
    if (j->s.env != NULL) {
        session_close(&j->s);
    }
    j->s = session_open(&with, j->path, j->n_lines == 0);
    j->threads = j->s.pool != NULL ? sae_pool_threads(j->s.pool) : 1;
    if (j->path == NULL) {
        j->directions = j->directions != NULL ? j->directions : made_directions(j->d_in, j->d_sae);
        made_model(&j->s, j->directions, j->d_in, j->d_sae);
    }
}

static void pack(job *j)
{
    sae_error err = {.struct_size = sizeof err};
    progress p = progress_note("packing the weights");
    double start = now();
    expect_ok(sae_model_prepare(j->s.model, SAE_PREPARE_PANELS | SAE_PREPARE_SCREEN, &err), &err, j->about);
    j->packing = now() - start;
    progress_end(&p);
    j->memory.struct_size = sizeof j->memory;
    sae_model_memory(j->s.model, &j->memory);
}

static void read_rows(job *j)
{
    j->rows = (sae_rows){.struct_size = sizeof j->rows, .dtype = SAE_F32, .n_rows = MADE_ROWS};
    if (j->rows_path == NULL) {
        j->rows.x = made_rows(&j->s, MADE_ROWS, 2, j->about);
        return;
    }
    rows r = rows_open(j->rows_path, j->io.tensor, j->io.bits, j->s.info.d_in, "d_in");
    int64_t n = r.n_rows < MOST_ROWS ? r.n_rows : MOST_ROWS;
    if (n == 0) {
        die("%s: holds no rows", j->rows_path);
    }
    j->rows.dtype = r.dtype;
    j->rows.n_rows = n;
    j->rows.x = take((size_t)n, r.row_bytes);
    rows_get(&r, j->rows.x, n);
    rows_close(&r);
}

static bool can_screen(const job *j)
{
    return j->memory.screen_bytes > 0;
}

/* ---- measuring ---- */

/* What takes turns in the rounds of one line. */
typedef struct turns {
    sae_ctx *ctx[N_KINDS];
    float *ms[N_KINDS]; /* [MOST_ROUNDS] */
    double read_ms;     /* best so far */
    int64_t rounds;
} turns;

/* Reads a part of the bytes as fast as is possible without knowing the processor: several streams, asked for ahead, 16 bytes at a time. */
static void read_part(void *job_, uint32_t i, uint32_t worker)
{
    typedef uint64_t vec __attribute__((vector_size(16), may_alias));
    enum { STREAMS = 8, LINE = 64, AHEAD = 1024 };
    (void)worker;
    const job *j = job_;
    size_t first = (size_t)i * PART, n = j->n_bytes - first < PART ? j->n_bytes - first : PART, each = n / STREAMS / LINE * LINE;
    vec sum = {0}, other = {0};
    for (size_t at = 0; at < each; at += LINE) {
        for (size_t s = 0; s < STREAMS; s++) {
            const unsigned char *p = j->bytes + first + s * each + at;
            const vec *v = (const vec *)(const void *)p;
            __builtin_prefetch(p + AHEAD);
            sum ^= v[0] ^ v[1];
            other ^= v[2] ^ v[3];
        }
    }
    sum ^= other;
    volatile uint64_t seen = sum[0] ^ sum[1]; /* or nothing would be read */
    (void)seen;
}

static double read_bytes(job *j)
{
    uint32_t parts = (uint32_t)((j->n_bytes + PART - 1) / PART);
    double start = now();
    if (j->s.pool != NULL) {
        sae_pool_run(j->s.pool, j, read_part, parts);
    }
    for (uint32_t i = 0; j->s.pool == NULL && i < parts; i++) {
        read_part(j, i, 0);
    }
    return 1e3 * (now() - start);
}

/* The rows of round i: block after block of the file, and from its beginning again. */
static sae_rows block_of(const job *j, int64_t batch, int64_t i)
{
    sae_rows r = j->rows;
    size_t row = (size_t)j->s.info.d_in * sae_dtype_bytes(r.dtype);
    r.x = (char *)r.x + (size_t)(i % (j->rows.n_rows / batch) * batch) * row;
    r.n_rows = batch;
    return r;
}

static double encode(job *j, turns *t, int kind, const sae_rows *x)
{
    double start = now();
    codes_encode(&j->codes[kind], t->ctx[kind], x, j->about);
    return 1e3 * (now() - start);
}

static void compare(const job *j, int64_t n)
{
    const sae_codes *a = &j->codes[DENSE], *b = &j->codes[SCREENED];
    size_t count = (size_t)a->indptr[n];
    if (memcmp(a->indptr, b->indptr, ((size_t)n + 1) * sizeof *a->indptr) != 0 ||
        memcmp(a->indices, b->indices, count * sizeof *a->indices) != 0 || memcmp(a->values, b->values, count * sizeof *a->values) != 0) {
        die("screened codes differ from dense ones in a block of %lld rows: please report this, with the SAE and the rows", (long long)n);
    }
}

static void round_of(job *j, turns *t, int64_t batch, bool timed)
{
    sae_rows x = block_of(j, batch, t->rounds);
    int first = can_screen(j) ? (int)(t->rounds % N_KINDS) : DENSE;
    for (int i = 0; i < (can_screen(j) ? N_KINDS : 1); i++) {
        int kind = (first + i) % N_KINDS;
        double ms = encode(j, t, kind, &x);
        if (timed) {
            t->ms[kind][t->rounds] = (float)ms;
        }
    }
    if (can_screen(j)) {
        double ms = read_bytes(j);
        t->read_ms = t->read_ms == 0 || ms < t->read_ms ? ms : t->read_ms;
        compare(j, batch);
    }
    j->encoded += batch;
    j->found += j->codes[DENSE].indptr[batch];
    t->rounds += timed;
}

static sae_ctx *make_ctx(const job *j, int32_t screen)
{
    sae_error err = {.struct_size = sizeof err};
    sae_ctx_options opt = {.struct_size = sizeof opt, .screen = screen};
    sae_ctx *ctx;
    expect_ok(sae_ctx_create(&ctx, j->s.model, &opt, &err), &err, j->about);
    return ctx;
}

static turns begin_turns(const job *j)
{
    turns t = {.ctx = {make_ctx(j, SAE_NO), make_ctx(j, SAE_DEFAULT)}};
    for (int kind = 0; kind < N_KINDS; kind++) {
        t.ms[kind] = take_zeros(MOST_ROUNDS, sizeof *t.ms[kind]);
    }
    return t;
}

static void end_turns(turns *t, line *l)
{
    l->rounds = t->rounds;
    l->roof_ms = t->read_ms;
    for (int kind = 0; kind < N_KINDS; kind++) {
        figures *f = &l->by[kind];
        f->ms = spread_of(t->ms[kind], t->rounds);
        f->counts.struct_size = sizeof f->counts;
        sae_ctx_count(t->ctx[kind], &f->counts);
        sae_ctx_free(t->ctx[kind]);
        free(t->ms[kind]);
    }
}

static void measure(job *j, int64_t batch, double seconds)
{
    line *l = &j->lines[j->n_lines++];
    *l = (line){.threads = j->threads, .batch = batch};
    turns t = begin_turns(j);
    round_of(j, &t, batch, false); /* brings code and weights into the caches */
    double end = now() + seconds;
    while (t.rounds < LEAST_ROUNDS || (t.rounds < MOST_ROUNDS && now() < end)) {
        round_of(j, &t, batch, true);
    }
    end_turns(&t, l);
    progress_at(&j->progress, j->n_lines);
}

/* What both numbers of threads use. */
static void begin(job *j)
{
    read_rows(j);
    j->n_bytes = (size_t)j->s.info.d_in * (size_t)j->s.info.d_sae;
    j->bytes = take(j->n_bytes, 1);
    memset(j->bytes, 1, j->n_bytes);
    for (int kind = 0; kind < N_KINDS; kind++) {
        j->codes[kind] = codes_room(batches[N_BATCHES - 1]);
    }
    while (j->n_batches < N_BATCHES && batches[j->n_batches] <= j->rows.n_rows) {
        j->n_batches++;
    }
}

static void measure_all(job *j, const model_args *m)
{
    const uint32_t settings[] = {1, m->threads};
    int n = m->threads == 1 ? 1 : 2;
    for (int i = 0; i < n; i++) {
        open_sae(j, m, settings[i]);
        if (i > 0 && j->threads == 1) {
            break; /* a machine of one processor */
        }
        pack(j);
        if (i == 0) {
            begin(j);
            j->progress = progress_start("measuring", "settings", (int64_t)n * j->n_batches);
        }
        for (int b = 0; b < j->n_batches; b++) {
            measure(j, batches[b], j->seconds / (n * j->n_batches));
        }
    }
    progress_end(&j->progress);
}

/* ---- what is said ---- */

static double survivors(const line *l)
{
    const sae_ctx_counts *c = &l->by[SCREENED].counts;
    return c->rows_screened > 0 ? (double)c->candidates / (double)c->rows_screened : 0;
}

static double active(const job *j)
{
    return (double)j->found / (double)j->encoded;
}

/* The share of rows that the screen left to the dense way. */
static double dense_rows(const line *l)
{
    const sae_ctx_counts *c = &l->by[SCREENED].counts;
    return (double)c->rows_dense / (double)(c->rows_dense + c->rows_screened);
}

static json_t *times_json(const spread *ms)
{
    return json_pack("{s:o, s:o}", "ms_min", report_number(ms->min), "ms_median", report_number(ms->median));
}

static json_t *screened_json(const job *j, const line *l)
{
    const spread *ms = &l->by[SCREENED].ms;
    json_t *o = times_json(ms);
    json_object_set_new(o, "survivors", dense_rows(l) < 1 ? report_number(survivors(l)) : json_null());
    json_object_set_new(o, "dense_rows", report_number(dense_rows(l)));
    json_object_set_new(o, "times_faster", report_number(l->by[DENSE].ms.median / ms->median));
    json_object_set_new(o, "roof_fraction", report_number(l->roof_ms / ms->min));
    json_object_set_new(o, "read_gbs", report_number((double)j->n_bytes / l->roof_ms / 1e6));
    return o;
}

static void print_json(const job *j)
{
    json_t *lines = json_array();
    for (int i = 0; i < j->n_lines; i++) {
        const line *l = &j->lines[i];
        json_t *o =
            json_pack("{s:I, s:I, s:I}", "threads", (json_int_t)l->threads, "batch", (json_int_t)l->batch, "rounds", (json_int_t)l->rounds);
        json_object_set_new(o, "dense", times_json(&l->by[DENSE].ms));
        json_object_set_new(o, "screened", can_screen(j) ? screened_json(j, l) : json_null());
        json_array_append_new(lines, o);
    }
    json_t *root = json_pack("{s:o, s:s, s:i, s:i, s:s}", "path", j->path != NULL ? report_text(j->path) : json_null(), "architecture",
                             sae_arch_name(j->s.info.arch), "d_in", j->s.info.d_in, "d_sae", j->s.info.d_sae, "isa",
                             sae_isa_name(sae_env_isa(j->s.env)));
    json_object_set_new(root, "rows_made", json_boolean(j->rows_path == NULL));
    json_object_set_new(root, "rows", json_integer(j->rows.n_rows));
    json_object_set_new(root, "active", report_number(active(j)));
    json_object_set_new(root, "panels_bytes", json_integer(j->memory.panels_bytes));
    json_object_set_new(root, "screen_bytes", json_integer(j->memory.screen_bytes));
    json_object_set_new(root, "packing_seconds", report_number(j->packing));
    json_object_set_new(root, "rows_compared", json_integer(can_screen(j) ? j->encoded : 0));
    json_object_set_new(root, "same_bits", can_screen(j) ? json_true() : json_null());
    json_object_set_new(root, "results", lines);
    report_print(root);
}

static void print_head(const job *j)
{
    printf("%s: %s, %d x %d, %s\n", j->path != NULL ? j->path : "made up", sae_arch_name(j->s.info.arch), j->s.info.d_in, j->s.info.d_sae,
           sae_isa_name(sae_env_isa(j->s.env)));
    printf("%lld rows%s, %.1f codes a row; packed in %.2f s: %.1f MB of panels, %.1f MB of screen\n\n", (long long)j->rows.n_rows,
           j->rows_path != NULL ? "" : " made up", active(j), j->packing, (double)j->memory.panels_bytes * 1e-6,
           (double)j->memory.screen_bytes * 1e-6);
    printf("threads  batch  dense ms (least)");
    printf(can_screen(j) ? "      screened ms (least)   faster  survivors a row  rows screened  of the roof\n" : "\n");
}

static void print_line(const job *j, const line *l)
{
    const spread *dense = &l->by[DENSE].ms, *fast = &l->by[SCREENED].ms;
    char text[64];
    snprintf(text, sizeof text, "%.4g (%.4g)", dense->median, dense->min);
    printf("%7u  %5lld  %-20s", l->threads, (long long)l->batch, text);
    if (can_screen(j)) {
        snprintf(text, sizeof text, "%.4g (%.4g)", fast->median, fast->min);
        printf("  %-20s  %5.2fx", text, dense->median / fast->median);
        snprintf(text, sizeof text, "%.1f (%.2f %%)", survivors(l), 100 * survivors(l) / j->s.info.d_sae);
        printf("  %-15s  %11.0f %%  %9.0f %%", dense_rows(l) < 1 ? text : "-", 100 * (1 - dense_rows(l)), 100 * l->roof_ms / fast->min);
    }
    putchar('\n');
}

static void print_text(const job *j)
{
    print_head(j);
    for (int i = 0; i < j->n_lines; i++) {
        print_line(j, &j->lines[i]);
    }
    if (can_screen(j)) {
        printf("\nRoof: reading one byte for every weight, %.1f GB/s with one thread.\n", (double)j->n_bytes / j->lines[0].roof_ms / 1e6);
        printf("The same bits: %lld rows encoded both ways, no difference.\n", (long long)j->encoded);
    } else {
        printf("\nThis SAE cannot be screened: it always encodes densely.\n");
    }
}

static void end(job *j)
{
    session_close(&j->s);
    codes_free(&j->codes[DENSE]);
    codes_free(&j->codes[SCREENED]);
    free(j->rows.x);
    free(j->bytes);
    free(j->directions);
}

static void run(args *a)
{
    job j = {.seconds = 10};
    parse(&j, a);
    measure_all(&j, &a->model);
    if (j.io.json) {
        print_json(&j);
    } else {
        print_text(&j);
    }
    end(&j);
}

const command cmd_bench = {
    .name = "bench",
    .synopsis = "[PATH [ROWS]] [--shape DxN] [--seconds S]",
    .summary = "Measure encoding on this machine, screened and dense",
    .details = "Encodes blocks of 1, 8, 64 and 512 rows, screened and dense in turns, with one thread and with --threads, and\n"
               "compares the codes of every block. Without PATH an SAE is made up, without ROWS rows in which up to 32\n"
               "of its features are active: how many survive the screen, and so the time, depends on the rows. The first\n"
               "4096 rows of ROWS are used. Panels and the screen are packed first, whatever --prepare says. `of the roof`\n"
               "is the time in which the machine reads one byte for every weight, over the least screened time.\n",
    .options = options,
    .run = run,
};
