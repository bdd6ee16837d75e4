/* The engine as a library, as a server would use it: several sequences in one batch, some of them edited, sequences taken back.
 * Usage: embed MODEL SAE. Linked with the engine's files, main.c excepted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

enum { N = 12, MAX_ROWS = 16 };

static int passed, failed;
static engine_error err;

static void expect(bool right, const char *what)
{
    passed += right;
    failed += !right;
    if (!right)
        printf("FAILED: %s (%s)\n", what, err.text);
}

static void need(bool ok)
{
    if (ok)
        return;
    printf("%s\n", err.text);
    exit(1);
}

static engine_session *session(const engine_model *m, int32_t n_sequences)
{
    engine_session *s;
    need(engine_session_create(&s, m, n_sequences, 0, MAX_ROWS, &err));
    return s;
}

static engine_sae *sae(const engine_model *m, const char *path, engine_session *s, int32_t n_slots)
{
    static const engine_edit edits[] = {{.slot = 0, .feature = 3, .op = SAE_ADD, .value = 4.0f},
                                        {.slot = 1, .feature = 5, .op = SAE_ADD, .value = 4.0f}};
    const engine_sae_options opt = {.path = path, .edits = edits, .n_edits = n_slots, .n_slots = n_slots};
    engine_sae *out;
    need(engine_sae_create(&out, m, &opt, &err));
    need(engine_sae_attach(out, s, &err));
    return out;
}

static int32_t token_of(int32_t sequence, int32_t position)
{
    return 3 + (sequence * 31 + position * 7) % 290;
}

/* Computes positions from .. from + n - 1 of a sequence alone; logits of the last one. */
static void feed(engine_session *s, int32_t sequence, int32_t like, int32_t from, int32_t n, float *logits)
{
    int32_t token[MAX_ROWS], in[MAX_ROWS], position[MAX_ROWS];
    bool want[MAX_ROWS] = {false};
    for (int32_t i = 0; i < n; i++) {
        token[i] = token_of(like, from + i);
        in[i] = sequence;
        position[i] = from + i;
    }
    want[n - 1] = true;
    const engine_batch b = {.n_rows = n, .token = token, .sequence = in, .position = position, .want = want};
    need(engine_step(s, &b, logits, &err));
}

/* The same for three sequences at once, their rows mixed; logits [3][n_vocab] in the order of the last rows. */
static void feed_mixed(engine_session *s, int32_t n, float *logits)
{
    for (int32_t at = 0; at < n; at += 4) {
        int32_t token[MAX_ROWS], in[MAX_ROWS], position[MAX_ROWS], rows = 0;
        bool want[MAX_ROWS];
        for (int32_t p = at; p < at + 4; p++)
            for (int32_t q = 0; q < 3; q++, rows++) {
                token[rows] = token_of(q, p);
                in[rows] = q;
                position[rows] = p;
                want[rows] = p == n - 1;
            }
        const engine_batch b = {.n_rows = rows, .token = token, .sequence = in, .position = position, .want = want};
        need(engine_step(s, &b, logits, &err));
    }
}

static void sequences_do_not_touch(const engine_model *m, float *a, float *b)
{
    const size_t n = (size_t)m->shape.n_vocab;
    engine_session *s = session(m, 3), *alone = session(m, 1);
    feed_mixed(s, N, a);
    for (int32_t q = 0; q < 3; q++) {
        feed(alone, 0, q, 0, N, b);
        expect(!memcmp(a + (size_t)q * n, b, n * sizeof *b), "a sequence among others has the bits that it has alone");
    }
    expect(engine_session_length(s, 2) == N && engine_session_sequences(s) == 3, "a session knows its sequences");
    engine_session_free(alone);
    engine_session_free(s);
}

static void sequences_go_back(const engine_model *m, float *a, float *b)
{
    const size_t bytes = (size_t)m->shape.n_vocab * sizeof *a;
    engine_session *s = session(m, 2);
    feed(s, 1, 4, 0, N, a);
    feed(s, 1, 9, 5, 3, b);
    expect(engine_session_length(s, 1) == 8, "a smaller position rewinds");
    feed(s, 1, 4, 5, N - 5, b);
    expect(!memcmp(a, b, bytes), "what was taken back leaves nothing behind");
    engine_session_free(s);
}

static void slots_choose_edits(const engine_model *m, const char *path, float *a, float *b)
{
    const size_t n = (size_t)m->shape.n_vocab;
    engine_session *s = session(m, 3), *plain = session(m, 1), *one = session(m, 1);
    engine_sae *e = sae(m, path, s, 2), *first = sae(m, path, one, 1);
    engine_sae_set_slot(e, 1, -1);
    engine_sae_set_slot(e, 2, 1);
    feed_mixed(s, N, a);
    feed(one, 0, 0, 0, N, b);
    expect(!memcmp(a, b, n * sizeof *b), "slot 0 gets the edits of slot 0");
    feed(plain, 0, 1, 0, N, b);
    expect(!memcmp(a + n, b, n * sizeof *b), "slot -1 leaves a sequence as it is, to the bit");
    feed(plain, 0, 2, 0, N, b);
    expect(memcmp(a + 2 * n, b, n * sizeof *b) != 0, "slot 1 is edited");
    feed(one, 0, 2, 0, N, b);
    expect(memcmp(a + 2 * n, b, n * sizeof *b) != 0, "slot 1 gets edits of its own");
    engine_session_unhook_all(s);
    feed(s, 2, 2, 0, N, a);
    feed(plain, 0, 2, 0, N, b);
    expect(!memcmp(a, b, n * sizeof *b), "without hooks nothing is edited");
    engine_session_free(s);
    engine_session_free(plain);
    engine_session_free(one);
    expect(engine_sae_model(e) && !strcmp(engine_sae_hook_name(e), "blocks.1.hook_resid_post"), "an SAE says where it sits");
    engine_sae_free(e);
    engine_sae_free(first);
}

static void refused(engine_session *s, const engine_batch *b, const char *sentence)
{
    static float logits[4096];
    expect(!engine_step(s, b, logits, &err) && strstr(err.text, sentence), sentence);
}

static void bad_batches(const engine_model *m)
{
    const int32_t zero[MAX_ROWS + 1] = {0}, one[2] = {1, 1}, gap[2] = {0, 2}, rise[2] = {0, 1}, wrong[2] = {0, -1}, high[2] = {0, 300};
    engine_session *s = session(m, 1);
    refused(s, &(engine_batch){.n_rows = MAX_ROWS + 1, .token = zero, .sequence = zero, .position = zero}, "made for 0 .. 16");
    refused(s, &(engine_batch){.n_rows = 2, .token = high, .sequence = zero, .position = rise}, "row 1: token 300");
    refused(s, &(engine_batch){.n_rows = 2, .token = wrong, .sequence = zero, .position = rise}, "row 1: token -1");
    refused(s, &(engine_batch){.n_rows = 2, .token = zero, .sequence = rise, .position = zero}, "row 1: sequence 1");
    refused(s, &(engine_batch){.n_rows = 2, .token = zero, .sequence = zero, .position = wrong}, "row 1: position -1");
    refused(s, &(engine_batch){.n_rows = 2, .token = zero, .sequence = zero, .position = gap},
            "row 1: position 2 of sequence 0 does not follow");
    refused(s, &(engine_batch){.n_rows = 2, .token = zero, .sequence = zero, .position = zero}, "row 1: position 0 of sequence 0");
    refused(s, &(engine_batch){.n_rows = 1, .token = zero, .sequence = zero, .position = one}, "row 0: position 1 of sequence 0");
    expect(engine_session_length(s, 0) == 0, "a refused batch changes nothing");
    expect(engine_step(s, &(engine_batch){.n_rows = 0}, NULL, &err), "an empty batch is none");
    engine_session_free(s);
    expect(!engine_session_create(&s, m, 0, 0, 1, &err) && !s, "no sequence");
    expect(!engine_session_create(&s, m, 1, m->shape.context + 1, 1, &err) && strstr(err.text, "context of 48"), "too long a context");
}

static bool say_no(void *user, const engine_rows *rows, engine_error *e)
{
    (void)user;
    return engine_fail(e, "no more than %d rows", rows->n_rows);
}

static void hooks_may_refuse(const engine_model *m)
{
    const int32_t zero = 0;
    engine_point at;
    engine_session *s = session(m, 1);
    need(engine_point_parse(&at, m, "blocks.2.hook_attn_out", &err));
    for (int i = 0; i < ENGINE_MAX_HOOKS; i++)
        need(engine_session_hook(s, at, say_no, NULL, NULL, &err));
    expect(!engine_session_hook(s, at, say_no, NULL, NULL, &err), "one hook too many");
    refused(s, &(engine_batch){.n_rows = 1, .token = &zero, .sequence = &zero, .position = &zero}, "no more than 1 rows");
    expect(engine_session_length(s, 0) == 0, "a step that failed does not count");
    engine_session_free(s);
}

/* Counts the rows that are computed. */
typedef struct counter {
    int32_t rows;
    bool shares;
} counter;

static bool count(void *user, const engine_rows *rows, engine_error *e)
{
    (void)e;
    ((counter *)user)->rows += rows->n_rows;
    return true;
}

static bool may_share(void *user, int32_t to, int32_t from, int32_t n)
{
    (void)to, (void)from, (void)n;
    return ((counter *)user)->shares;
}

enum { COMMON = 20, NEW = 6, PROMPTS = 4, LONG = 48 };

/* Prompts that begin alike: two go on differently, one ends where they part, one is another. */
static engine_request prompt(int32_t i, int32_t *tokens)
{
    static const int32_t more[PROMPTS] = {5, 3, 0, 2};
    engine_request r = {.tokens = tokens, .n = COMMON + more[i], .capacity = COMMON + more[i] + NEW};
    for (int32_t p = 0; p < r.n; p++)
        tokens[p] = token_of(i == 3 ? 11 : p < COMMON ? 7 : i, p);
    engine_sampler_init(&r.sampler, 1.0f, 0, (uint64_t)i);
    return r;
}

/* Generates in one session, with a hook that counts unless `c` is NULL. */
static void generate(const engine_model *m, const int32_t *which, int32_t n, int32_t out[][LONG], counter *c)
{
    engine_session *s = session(m, n);
    engine_request r[PROMPTS];
    if (c)
        need(engine_session_hook(s, (engine_point){.layer = 0, .kind = ENGINE_ATTN_OUT}, count, may_share, c, &err));
    for (int32_t i = 0; i < n; i++)
        r[i] = prompt(which[i], out[i]);
    need(engine_generate(s, r, n, NULL, NULL, &err));
    for (int32_t i = 0; i < n; i++)
        memset(out[i] + r[i].n, 0, (size_t)(LONG - r[i].n) * sizeof out[i][0]);
    engine_session_free(s);
}

static void prefixes_are_computed_once(const engine_model *m)
{
    static const int32_t all[PROMPTS] = {0, 1, 2, 3};
    static int32_t alone[PROMPTS][LONG], together[PROMPTS][LONG];
    counter one = {0, false}, none = {0, false}, shared = {0, true};
    for (int32_t i = 0; i < PROMPTS; i++)
        generate(m, all + i, 1, alone + i, &one);
    generate(m, all, PROMPTS, together, NULL);
    expect(!memcmp(alone, together, sizeof alone), "prompts that begin alike give what they give alone");
    generate(m, all, PROMPTS, together, &none);
    expect(!memcmp(alone, together, sizeof alone) && none.rows == one.rows, "a hook that does not share sees every row");
    generate(m, all, PROMPTS, together, &shared);
    expect(!memcmp(alone, together, sizeof alone), "shared prompts give what they give alone, with a hook too");
    expect(shared.rows == one.rows - COMMON - (COMMON - 1), "what prompts have in common is computed once");
}

static void sessions_share(const engine_model *m, const char *path, float *a, float *b)
{
    const size_t bytes = (size_t)m->shape.n_vocab * sizeof *a;
    engine_session *s = session(m, 3);
    engine_sae *e = sae(m, path, s, 2);
    feed(s, 0, 5, 0, N, a);
    feed(s, 2, 9, 0, N, b);
    engine_sae_set_slot(e, 1, 1);
    expect(!engine_session_share(s, 1, 0, 8), "sequences with other edits share nothing");
    engine_sae_set_slot(e, 1, 0);
    expect(engine_session_share(s, 1, 0, 8) && engine_session_length(s, 1) == 8, "sequences with the same edits share");
    feed(s, 1, 5, 8, N - 8, b);
    expect(!memcmp(a, b, bytes), "what was taken over is what would have been computed");
    expect(!engine_session_share(s, 1, 1, 2) && !engine_session_share(s, 3, 0, 2) && !engine_session_share(s, 1, -1, 2),
           "of two sequences");
    expect(!engine_session_share(s, 1, 0, N + 1) && !engine_session_share(s, 1, 0, -1), "no more than there is");
    expect(engine_session_length(s, 1) == N, "a refused share changes nothing");
    engine_session_free(s);
    engine_sae_free(e);
}

int main(int argc, char **argv)
{
    engine_host host;
    engine_model *m;
    if (argc != 3)
        return 2;
    need(engine_host_create(&host, 2, &err));
    need(engine_model_open(&m, &host, argv[1], ENGINE_STORED, &err));
    float *a = malloc(6 * (size_t)m->shape.n_vocab * sizeof *a), *b = a + 3 * (size_t)m->shape.n_vocab;
    need(a);
    sequences_do_not_touch(m, a, b);
    sequences_go_back(m, a, b);
    slots_choose_edits(m, argv[2], a, b);
    bad_batches(m);
    hooks_may_refuse(m);
    prefixes_are_computed_once(m);
    sessions_share(m, argv[2], a, b);
    free(a);
    engine_model_free(m);
    engine_host_free(&host);
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}
