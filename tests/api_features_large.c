/* A large catalog: builds one with 5 examples of 21 tokens for each feature, then gets, searches and lists, and prints how long that takes.
 * Usage: api_features_large [FEATURES [FILE]]; the tests take 3000, docs/catalog.md has the figures of 1000000. Times are not judged. A FILE that
 * is there is taken as it is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "support/support.h"
#include "support/run.h"

enum { EXAMPLES = 5, TOKENS = 21, PROMOTED = 10, WORDS = 20000, BATCH = 10000, REPEATS = 50 };

static sae_error err;
static int32_t n_features = 3000;
static const char *file;
static char words[WORDS][24];

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Milliseconds that calls took: by the clock, and of the processor, which does not depend on what else the machine does. */
typedef struct times {
    double wall[REPEATS], cpu[REPEATS], wall_start, cpu_start;
    int n;
} times;

static void begin(times *t)
{
    t->wall_start = seconds_of(CLOCK_MONOTONIC);
    t->cpu_start = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

static void end(times *t)
{
    t->wall[t->n] = (seconds_of(CLOCK_MONOTONIC) - t->wall_start) * 1e3;
    t->cpu[t->n++] = (seconds_of(CLOCK_PROCESS_CPUTIME_ID) - t->cpu_start) * 1e3;
}

/* Latin words, and Korean ones of one to three syllables, some with a particle. */
static void make_words(rng *r)
{
    static const char *const cons[] = {"b", "d", "k", "l", "m", "n", "r", "s", "t", "v", "st", "tr"};
    static const char *const particles[] = {"", "를", "은", "이", "에서"};
    for (int i = 0; i < WORDS; i++) {
        words[i][0] = '\0';
        const uint32_t n = 1 + rng_below(r, i % 2 ? 4 : 3);
        for (uint32_t k = 0; k < n; k++) {
            char part[5];
            const uint32_t code = 0xac00 + rng_below(r, 11172);
            if (i % 2)
                snprintf(part, sizeof part, "%s%c", cons[rng_below(r, LENGTH(cons))], "aeiou"[rng_below(r, 5)]);
            else
                snprintf(part, sizeof part, "%c%c%c", (int)(0xe0 | code >> 12), (int)(0x80 | (code >> 6 & 63)), (int)(0x80 | (code & 63)));
            strcat(words[i], part);
        }
        if (i % 2 == 0)
            strcat(words[i], particles[rng_below(r, LENGTH(particles))]);
    }
}

/* Few words are frequent, most are rare: rank / n is the square of a uniform number, then once more. */
static const char *word(rng *r)
{
    const double u = rng_between(r, 0.0, 1.0);
    return words[(int)(u * u * u * (WORDS - 1))];
}

static void put(sae_catalog *c, rng *r, int32_t id)
{
    sae_token context[EXAMPLES][TOKENS], promoted[PROMOTED];
    sae_example examples[EXAMPLES];
    char label[256];
    for (int e = 0; e < EXAMPLES; e++) {
        for (int t = 0; t < TOKENS; t++)
            context[e][t] = (sae_token){word(r), (float)rng_between(r, 0.0, 9.0), 0};
        examples[e] = (sae_example){context[e], TOKENS, TOKENS / 2, e, id};
    }
    for (int t = 0; t < PROMOTED; t++)
        promoted[t] = (sae_token){word(r), (float)rng_between(r, 0.0, 3.0), 0};
    snprintf(label, sizeof label, "the %s of %s %s %s %s", word(r), word(r), word(r), word(r), word(r));
    const sae_feature f = {.struct_size = sizeof f,
                           .id = id,
                           .label = label,
                           .density = rng_between(r, 0.0, 0.01),
                           .mean = rng_between(r, 0.0, 5.0),
                           .max = rng_between(r, 5.0, 50.0),
                           .promoted = promoted,
                           .n_promoted = PROMOTED,
                           .examples = examples,
                           .n_examples = EXAMPLES};
    ACCEPTED(sae_catalog_put(c, &f, &err));
}

static void build(sae_env *env, const char *path, rng *r)
{
    const float one = 1.0f;
    float *weights = malloc((size_t)n_features * sizeof *weights);
    for (int32_t i = 0; i < n_features; i++)
        weights[i] = one;
    const sae_weights w = {.struct_size = sizeof w,
                           .arch = SAE_STANDARD,
                           .dtype = SAE_F32,
                           .flags = SAE_BORROW,
                           .d_in = 1,
                           .d_sae = n_features,
                           .w_enc = weights,
                           .w_dec = weights};
    sae_model *model;
    sae_catalog *c;
    ACCEPTED(sae_model_create(&model, env, &w, &err));
    ACCEPTED(sae_catalog_create(&c, env, path, model, &err));
    const double start = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    for (int32_t i = 0; i < n_features; i++) {
        if (i % BATCH == 0)
            ACCEPTED(sae_catalog_begin(c, &err));
        put(c, r, i);
        if (i % BATCH == BATCH - 1 || i == n_features - 1)
            ACCEPTED(sae_catalog_commit(c, &err));
    }
    const double seconds = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - start;
    struct stat st;
    sae_catalog_free(c);
    sae_model_free(model);
    free(weights);
    ck_assert_int_eq(stat(path, &st), 0);
    printf("build   %d features: %.1f s of the processor, %.0f a second, %.1f MiB\n", n_features, seconds, n_features / seconds,
           (double)st.st_size / (1 << 20));
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void tell(const char *what, times *t, int64_t found)
{
    qsort(t->wall, (size_t)t->n, sizeof *t->wall, ascending);
    qsort(t->cpu, (size_t)t->n, sizeof *t->cpu, ascending);
    printf("%-36s processor %8.3f ms, median %8.3f ms, worst %8.3f ms, %lld found\n", what, t->cpu[t->n / 2], t->wall[t->n / 2],
           t->wall[t->n - 1], (long long)found);
}

static void get_some(sae_catalog *c, rng *r)
{
    times t = {.n = 0};
    for (int i = 0; i < REPEATS; i++) {
        const int32_t id = (int32_t)rng_below(r, (uint32_t)n_features);
        sae_features *list;
        sae_feature f = {.struct_size = sizeof f};
        begin(&t);
        ACCEPTED(sae_catalog_get(&list, c, &id, 1, &err));
        end(&t);
        ck_assert_int_eq(sae_features_at(list, 0, &f), SAE_OK);
        ck_assert(f.id == id && f.n_examples == EXAMPLES && f.examples[4].n_tokens == TOKENS);
        sae_features_free(list);
    }
    tell("get", &t, 1);
}

static void search(sae_catalog *c, const char *what, const char *query)
{
    times t = {.n = 0};
    int64_t found = 0;
    for (int i = 0; i < 5; i++) {
        sae_features *list;
        begin(&t);
        ACCEPTED(sae_catalog_search(&list, c, query, 10, &err));
        end(&t);
        found = sae_features_count(list);
        sae_features_free(list);
    }
    char text[80];
    snprintf(text, sizeof text, "search %s", what);
    tell(text, &t, found);
}

static void list_some(sae_catalog *c)
{
    times t = {.n = 0};
    sae_list_options opt = {.struct_size = sizeof opt, .order = SAE_ORDER_MAX, .descending = SAE_YES};
    for (int i = 0; i < REPEATS && i * 100 < n_features; i++) {
        sae_features *list;
        begin(&t);
        ACCEPTED(sae_catalog_list(&list, c, &opt, &err));
        end(&t);
        ck_assert_int_eq(sae_features_count(list), 100);
        sae_feature f = {.struct_size = sizeof f};
        ck_assert_int_eq(sae_features_at(list, 99, &f), SAE_OK);
        ck_assert(!opt.resume || f.max <= opt.after_value);
        opt.resume = SAE_YES;
        opt.after_id = f.id;
        opt.after_value = f.max;
        sae_features_free(list);
    }
    tell("list 100 by max, page after page", &t, 100);
}

START_TEST(large)
{
    char folder[] = "/tmp/sae-large-XXXXXX", path[64];
    rng r = {7};
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    sae_catalog *c;
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a", folder);
    make_words(&r);
    if (!file || access(file, F_OK) != 0)
        build(env, file ? file : path, &r);
    ACCEPTED(sae_catalog_open(&c, env, file ? file : path, NULL, &err));
    get_some(c, &r);
    search(c, "a rare word", words[WORDS / 2 + 1]);
    search(c, "a common word", words[301]);
    search(c, "two words", "the velo");
    search(c, "two syllables", words[WORDS / 2]);
    search(c, "one syllable", (char[]){words[0][0], words[0][1], words[0][2], 0});
    search(c, "a word of all labels", "the");
    search(c, "one letter", "s");
    list_some(c);
    sae_catalog_free(c);
    if (!file)
        unlink(path);
    rmdir(folder);
    sae_env_free(env);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc > 1)
        n_features = atoi(argv[1]);
    if (argc > 2)
        file = argv[2];
    Suite *s = suite_create("large catalog");
    TCase *t = tcase_create("large");
    tcase_set_timeout(t, n_features > 10000 ? 3600 : 60);
    tcase_add_test(t, large);
    suite_add_tcase(s, t);
    return run_suite(s);
}
