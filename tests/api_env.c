/* sae/base.h, sae/host.h and sae/env.h as a program sees them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/support.h"
#include "support/run.h"

static sae_error err;
static heap counted;

static void setup(void)
{
    heap_init(&counted);
}

static void teardown(void)
{
    ck_assert_int_eq(atomic_load(&counted.live_blocks), 0);
}

START_TEST(names)
{
    ck_assert_uint_eq(sae_version(), (uint32_t)SAE_VERSION_MAJOR << 16 | (uint32_t)SAE_VERSION_MINOR << 8 | SAE_VERSION_PATCH);
    ck_assert_str_eq(sae_status_name(SAE_E_SHAPE), "SAE_E_SHAPE");
    for (sae_status s = -20; s < 5; s++)
        ck_assert(sae_status_text(s) && *sae_status_text(s) && sae_status_name(s));
    ck_assert_str_eq(sae_status_text(-99), "unknown status");
    ck_assert_uint_eq(sae_dtype_bytes(SAE_BF16), 2);
    ck_assert_uint_eq(sae_dtype_bytes(0), 0);
    ck_assert_str_eq(sae_dtype_name(SAE_F16), "f16");
    ck_assert_str_eq(sae_dtype_name(77), "unknown");

    static const struct {
        sae_isa isa;
        const char *name;
    } isas[] = {{SAE_ISA_AUTO, "auto"}, {SAE_ISA_SCALAR, "scalar"}, {SAE_ISA_NEON, "neon"},
                {SAE_ISA_AVX2, "avx2"}, {SAE_ISA_AVX512, "avx512"}, {5, "unknown"},
                {-1, "unknown"}};
    for (size_t i = 0; i < LENGTH(isas); i++)
        ck_assert_str_eq(sae_isa_name(isas[i].isa), isas[i].name);
}
END_TEST

START_TEST(instruction_sets)
{
    sae_isa there[8];
    const size_t n = isas_available(there);
    ck_assert_int_eq(sae_isa_available(SAE_ISA_AUTO), SAE_YES);
    ck_assert_int_eq(sae_isa_available(SAE_ISA_SCALAR), SAE_YES);
    ck_assert_int_eq(sae_isa_available(7), SAE_NO);
    for (size_t i = 0; i < n; i++) {
        sae_env *env = env_make(NULL, there[i], NULL, NULL, 0);
        ck_assert_int_eq(sae_env_isa(env), there[i]);
        sae_env_free(env);
    }
    static const sae_isa all[] = {SAE_ISA_NEON, SAE_ISA_AVX2, SAE_ISA_AVX512};
    for (size_t i = 0; i < LENGTH(all); i++) {
        sae_env *env = (sae_env *)&err;
        const sae_env_options opt = {.struct_size = sizeof opt, .isa = all[i]};
        if (sae_isa_available(all[i]) == SAE_YES)
            continue;
        REFUSED(SAE_E_UNSUPPORTED, sae_isa_name(all[i]), sae_env_create(&env, &opt, &err));
        ck_assert_ptr_null(env);
    }
    sae_env *best;
    ACCEPTED(sae_env_create(&best, NULL, &err));
    ck_assert_int_eq(sae_env_isa(best), there[n - 1]); /* isas_available lists the best last */
    sae_env_free(best);
    ck_assert_int_eq(sae_env_isa(NULL), SAE_ISA_AUTO);
}
END_TEST

static const struct {
    sae_env_options opt;
    const char *words;
} bad_options[] = {{{.alloc = heap_alloc}, "alloc without dealloc"},
                   {{.dealloc = heap_free}, "dealloc without alloc"},
                   {{.max_workers = 1025}, "max_workers = 1025|1024"},
                   {{.isa = 7}, "isa = 7"},
                   {{.isa = -1}, "isa = -1"}};

START_TEST(options_refused)
{
    sae_env *env = (sae_env *)&err;
    sae_env_options opt = bad_options[_i].opt;
    opt.struct_size = sizeof opt;
    REFUSED(SAE_E_ARG, bad_options[_i].words, sae_env_create(&env, &opt, &err));
    ck_assert_ptr_null(env);
    ck_assert_int_eq(sae_env_create(&env, &opt, NULL), SAE_E_ARG); /* no error wanted */
    REFUSED(SAE_E_ARG, "out", sae_env_create(NULL, &opt, &err));
}
END_TEST

START_TEST(options_of_other_sizes)
{
    const sae_env_options opt = {.struct_size = sizeof opt, .isa = SAE_ISA_SCALAR};
    for (size_t bytes = 0; bytes <= sizeof opt + 24; bytes++) {
        sae_env *env = (sae_env *)&err;
        void *other = resized(&opt, sizeof opt, bytes, 0);
        if (bytes <= 4) {
            REFUSED(SAE_E_ARG, "sae_env_options.struct_size", sae_env_create(&env, other, &err));
            ck_assert_ptr_null(env);
        } else {
            ACCEPTED(sae_env_create(&env, other, &err));
            ck_assert(bytes < 8 || sae_env_isa(env) == SAE_ISA_SCALAR);
            sae_env_free(env);
        }
        free(other);
        if (bytes <= sizeof opt)
            continue;
        other = resized(&opt, sizeof opt, bytes, 1);
        REFUSED(SAE_E_VERSION, "sae_env_options|update", sae_env_create(&env, other, &err));
        ck_assert_ptr_null(env);
        free(other);
    }
}
END_TEST

/* The caller's sae_error may be of any size: see what arrives in a short one. */
START_TEST(short_errors)
{
    sae_env *env;
    const sae_env_options opt = {.struct_size = sizeof opt, .isa = 7};
    sae_error e;
    memset(&e, 0x5a, sizeof e);
    e.struct_size = 8 + 10;
    ck_assert_int_eq(sae_env_create(&env, &opt, &e), SAE_E_ARG);
    ck_assert_int_eq(e.status, SAE_E_ARG);
    ck_assert_uint_eq(strlen(e.text), 9);
    for (size_t i = 10; i < sizeof e.text; i++)
        ck_assert_int_eq(e.text[i], 0x5a);
    memset(&e, 0, sizeof e); /* a zeroed one is taken as that of 0.1 */
    ck_assert_int_eq(sae_env_create(&env, &opt, &e), SAE_E_ARG);
    ck_assert(e.status == SAE_E_ARG && strlen(e.text) > 10);
}
END_TEST

static char line[200];

static void listen(void *user, int32_t level, const char *text)
{
    (void)user;
    (void)level;
    ck_assert_ptr_null(strchr(text, '\n'));
    snprintf(line, sizeof line, "%s", text);
}

START_TEST(hooks)
{
    sae_env *env;
    sae_env_options opt = {.struct_size = sizeof opt, .alloc = heap_alloc, .dealloc = heap_free, .alloc_user = &counted, .log = listen};
    line[0] = '\0';
    ACCEPTED(sae_env_create(&env, &opt, &err));
    ck_assert_int_gt(atomic_load(&counted.live_blocks), 0);
    ck_assert_str_eq(line, ""); /* level 0 is silent */
    sae_env_free(env);
    ck_assert_int_eq(atomic_load(&counted.live_blocks), 0);
    opt.log_level = SAE_LOG_INFO;
    ACCEPTED(sae_env_create(&env, &opt, &err));
    ck_assert(strstr(line, "0.1.0") && strstr(line, sae_isa_name(sae_env_isa(env))));
    sae_env_free(env);
    atomic_store(&counted.fail_at, atomic_load(&counted.asked));
    REFUSED(SAE_E_NOMEM, "no memory", sae_env_create(&env, &opt, &err));
    ck_assert_ptr_null(env);
    sae_env_free(NULL);
}
END_TEST

/* ---- pool ---- */

static void add_index(void *job, uint32_t i, uint32_t worker)
{
    (void)worker;
    atomic_fetch_add((atomic_ulong *)job, i + 1ul);
}

START_TEST(pool)
{
    static const uint32_t sizes[] = {1, 2, 5};
    for (size_t s = 0; s < LENGTH(sizes); s++) {
        sae_pool *p;
        ACCEPTED(sae_pool_create(&p, sizes[s], &err));
        ck_assert_uint_eq(sae_pool_threads(p), sizes[s]);
        for (unsigned long n = 0; n < 100; n += 9) {
            atomic_ulong sum = 0;
            ck_assert_int_eq(sae_pool_run(p, &sum, add_index, (uint32_t)n), 0);
            ck_assert_uint_eq(atomic_load(&sum), n * (n + 1) / 2);
        }
        sae_pool_free(p);
    }
    sae_pool *p = (sae_pool *)&err;
    REFUSED(SAE_E_ARG, "out", sae_pool_create(NULL, 1, &err));
    REFUSED(SAE_E_ARG, "n_threads = 4000000000|1024", sae_pool_create(&p, 4000000000u, &err));
    ck_assert_ptr_null(p);
    ACCEPTED(sae_pool_create(&p, 0, &err));
    ck_assert_uint_ge(sae_pool_threads(p), 1);
    sae_pool_free(p);
    sae_pool_free(NULL);
    ck_assert_uint_eq(sae_pool_threads(NULL), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api env");
    TCase *tc = tcase_create("env");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, names);
    tcase_add_test(tc, instruction_sets);
    tcase_add_loop_test(tc, options_refused, 0, LENGTH(bad_options));
    tcase_add_test(tc, options_of_other_sizes);
    tcase_add_test(tc, short_errors);
    tcase_add_test(tc, hooks);
    tcase_add_test(tc, pool);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
