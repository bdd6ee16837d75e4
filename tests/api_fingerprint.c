/* sae_model_fingerprint: the same for one SAE however it is held, another for another, and the published ones for good. */
#include <fenv.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>

#include "support/support.h"
#include "support/run.h"

static sae_error err;

static void print_of(uint8_t out[16], const sae_model *m)
{
    memset(out, 0, 16);
    ACCEPTED(sae_model_fingerprint(m, out, &err));
}

/* The fingerprint of a planted model, made in the given way. */
static void planted_print(uint8_t out[16], sae_weights shape, sae_env *env)
{
    planted p;
    planted_make(&p, shape, 3);
    sae_model *m = planted_model(&p, env);
    print_of(out, m);
    sae_model_free(m);
    planted_free(&p);
}

START_TEST(one_sae_has_one_fingerprint)
{
    const sae_arch archs[] = {SAE_STANDARD, SAE_JUMPRELU, SAE_TOPK, SAE_GATED};
    sae_env *plain = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0), *threads = env_make(NULL, SAE_ISA_SCALAR, run_shuffled, NULL, 3);
    uint8_t all[4][16], other[16];
    for (size_t a = 0; a < LENGTH(archs); a++) {
        const sae_weights shape = {.arch = archs[a], .dtype = SAE_F32, .d_in = 130, .d_sae = 117, .d_out = 70, .k = 5};
        planted_print(all[a], shape, plain);
        for (uint32_t variant = 0; variant < 12; variant++) {
            sae_weights same = shape;
            same.dtype = (sae_dtype)(1 + variant % 3);
            same.flags = (variant & 1 ? SAE_W_ENC_BY_ROWS : 0) | (variant & 2 ? SAE_W_DEC_BY_COLS : 0) | (variant & 4 ? SAE_BORROW : 0);
            planted_print(other, same, variant & 8 ? threads : plain);
            ck_assert_mem_eq(all[a], other, 16);
        }
        for (size_t b = 0; b < a; b++)
            ck_assert_mem_ne(all[a], all[b], 16);
    }
    sae_env_free(plain);
    sae_env_free(threads);
}
END_TEST

START_TEST(every_value_is_in_the_fingerprint)
{
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    const sae_weights shape = {
        .arch = SAE_GATED, .dtype = SAE_F32, .d_in = 70, .d_sae = 21, .norm = SAE_NORM_SCALE, .norm_scaling_factor = 2.0f};
    uint8_t want[16], got[16];
    planted_print(want, shape, env);
    planted p;
    planted_make(&p, shape, 3);
    p.weights.flags |= SAE_BORROW;
    const struct {
        float *at;
        size_t n;
    } values[] = {{p.b_gate, 21}, {p.b_mag, 21}, {p.r_mag, 21}, {p.b_dec, 70}};
    for (size_t v = 0; v < LENGTH(values); v++)
        for (size_t i = 0; i < values[v].n; i += values[v].n - 1) {
            *(unsigned char *)&values[v].at[i] ^= 1;
            sae_model *m = planted_model(&p, env);
            print_of(got, m);
            ck_assert_mem_ne(want, got, 16);
            sae_model_free(m);
            *(unsigned char *)&values[v].at[i] ^= 1;
        }
    for (int side = 0; side < 2; side++)
        for (size_t i = 0; i < (size_t)70 * 21; i++) { /* each weight, by its lowest bit */
            unsigned char *byte = (unsigned char *)(uintptr_t)(side ? p.weights.w_dec : p.weights.w_enc) + i * sizeof(float);
            *byte ^= 1;
            sae_model *m = planted_model(&p, env);
            print_of(got, m);
            ck_assert_mem_ne(want, got, 16);
            sae_model_free(m);
            *byte ^= 1;
        }
    sae_weights changed[] = {shape, shape, shape};
    changed[0].norm_scaling_factor = 3.0f;
    changed[1].norm = SAE_NORM_LAYER;
    changed[2].flags = SAE_APPLY_B_DEC;
    for (size_t i = 0; i < LENGTH(changed); i++) {
        planted_print(got, changed[i], env);
        ck_assert_mem_ne(want, got, 16);
    }
    sae_model *m = planted_model(&p, env);
    print_of(got, m);
    ck_assert_mem_eq(want, got, 16);
    REFUSED(SAE_E_ARG, "model is NULL", sae_model_fingerprint(NULL, got, &err));
    REFUSED(SAE_E_ARG, "out is NULL", sae_model_fingerprint(m, NULL, &err));
    sae_model_free(m);
    planted_free(&p);
    sae_env_free(env);
}
END_TEST

START_TEST(fingerprints_never_change)
{
    static const struct {
        const char *folder;
        const char *want;
    } known[] = {
        {"tests/golden/saelens/standard_relu", "c4bfb0c1857e3c13cea71c1fd1d7f77f"},
        {"tests/golden/saelens/jumprelu_fp16", "9a57c00ab642efc53da9be555c86b5f1"},
        {"tests/golden/saelens/gated", "174ce769d1153a4b8be97ad1281bc131"},
        {"tests/golden/saelens/topk_rescale_by_decoder_norm", "7ea005d3ea8328bbe3c802ef48fb1959"},
    };
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    for (size_t i = 0; i < LENGTH(known); i++) {
        sae_model *m;
        uint8_t got[16];
        char text[33];
        ACCEPTED(sae_model_open(&m, env, known[i].folder, NULL, &err));
        print_of(got, m);
        for (int k = 0; k < 16; k++)
            snprintf(text + (ptrdiff_t)2 * k, 3, "%02x", got[k]);
        ck_assert_str_eq(text, known[i].want);
        sae_model_free(m);
    }
    sae_env_free(env);
}
END_TEST

/* The fingerprint of a file, opened and read while the host rounds as it likes. */
static sae_status print_in_mode(uint8_t out[16], sae_env *env, const char *path, int rounding)
{
    const sae_open_options opt = {.struct_size = sizeof opt, .norm_scaling_factor = strstr(path, "expected_average") ? 3.0f : 0.0f};
    sae_model *m;
    fenv_t before;
    fegetenv(&before);
    if (rounding != FE_TONEAREST)
        fp_flush();
    fesetround(rounding);
    sae_status status = sae_model_open(&m, env, path, &opt, &err);
    if (!status)
        status = sae_model_fingerprint(m, out, &err);
    sae_model_free(m);
    fesetenv(&before);
    return status;
}

START_TEST(fingerprints_do_not_ask_the_host)
{
    const int modes[] = {FE_UPWARD, FE_TOWARDZERO};
    sae_env *env = env_make(NULL, SAE_ISA_AUTO, NULL, NULL, 0);
    uint8_t want[16], got[16];
    size_t read = 0;
    glob_t all;
    ck_assert_int_eq(glob("tests/golden/*/*", 0, NULL, &all), 0);
    for (size_t i = 0; i < all.gl_pathc; i++) {
        if (print_in_mode(want, env, all.gl_pathv[i], FE_TONEAREST))
            continue; /* needs options, or is none */
        read++;
        for (size_t m = 0; m < LENGTH(modes); m++) {
            ACCEPTED(print_in_mode(got, env, all.gl_pathv[i], modes[m]));
            ck_assert_msg(!memcmp(got, want, 16), "%s has another fingerprint in mode %zu", all.gl_pathv[i], m);
        }
    }
    ck_assert_uint_gt(read, 40);
    globfree(&all);
    sae_env_free(env);
}
END_TEST

START_TEST(fingerprint_fails)
{
    heap h;
    heap_init(&h);
    int left = 0;
    sae_env *env = env_make(&h, SAE_ISA_AUTO, run_failing, &left, 1);
    planted p;
    planted_make(&p, (sae_weights){.arch = SAE_STANDARD, .dtype = SAE_F32, .d_in = 8, .d_sae = 200}, 3);
    sae_model *m = planted_model(&p, env);
    uint8_t out[16];
    REFUSED(SAE_E_HOST, "parallel-for|200", sae_model_fingerprint(m, out, &err));
    atomic_store(&h.fail_at, atomic_load(&h.asked));
    REFUSED(SAE_E_NOMEM, "200 features|bytes", sae_model_fingerprint(m, out, &err));
    sae_model_free(m);
    planted_free(&p);
    sae_env_free(env);
    ck_assert_int_eq(atomic_load(&h.live_blocks), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fingerprint");
    TCase *tc = tcase_create("fingerprint");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, one_sae_has_one_fingerprint);
    tcase_add_test(tc, every_value_is_in_the_fingerprint);
    tcase_add_test(tc, fingerprints_never_change);
    tcase_add_test(tc, fingerprints_do_not_ask_the_host);
    tcase_add_test(tc, fingerprint_fails);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
