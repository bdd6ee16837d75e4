/* sae convert: one format into another, and the proof that nothing was lost. */
#include <stdlib.h>
#include <string.h>

#include "array.h"
#include "cmd.h"
#include "report.h"
#include "session.h"

enum { ID_FORMAT = 300, ID_OVERWRITE, ID_CATALOG, ID_SCREEN, ID_VERIFY };

static const option_desc options[] = {
    {ID_FORMAT, "format", "NAME", "sae, saelens or gemma_scope; by the name of OUT when left out"},
    {'d', "dtype", "TYPE", "f32, f16 or bf16 for the matrices, instead of what they are"},
    {ID_OVERWRITE, "force", NULL, "replace what is there"},
    {ID_CATALOG, "catalog", "PATH", "the catalog that belongs to it, beside OUT (sae only)"},
    {ID_SCREEN, "screen", NULL, "with the screen of W_enc, a byte a weight, which else every process builds (sae only)"},
    {ID_VERIFY, "verify", NULL, "open OUT again, read all of it, and compare the fingerprints"},
    OPTION_JSON,
    {0},
};

typedef struct job {
    const char *in, *out;
    sae_save_options save;
    bool verify, json;
} job;

/* What was written. */
typedef struct outcome {
    sae_info info;
    sae_memory memory;
    const char *format; /* of OUT */
    bool same;          /* the fingerprints agree */
} outcome;

static void parse(job *j, args *a)
{
    const char *value;
    j->save.struct_size = sizeof j->save;
    for (int id; (id = args_next(a, &value)) != -1;) {
        switch (id) {
        case ID_FORMAT:
            j->save.format = value;
            break;
        case 'd':
            j->save.dtype = dtype_from_option("dtype", value);
            break;
        case ID_OVERWRITE:
            j->save.overwrite = SAE_YES;
            break;
        case ID_CATALOG:
            j->save.catalog = value;
            break;
        case ID_SCREEN:
            j->save.screen = SAE_YES;
            break;
        case ID_VERIFY:
            j->verify = true;
            break;
        default:
            j->json = true;
            break;
        }
    }
    const char *format = j->save.format;
    if (format != NULL && strcmp(format, "sae") != 0 && strcmp(format, "saelens") != 0 && strcmp(format, "gemma_scope") != 0) {
        die_usage("--format is sae, saelens or gemma_scope, not '%s'", format);
    }
    char **operands = args_operands(a, 2, "IN and OUT");
    j->in = operands[0];
    j->out = operands[1];
}

/* Does the matrix lose digits? */
static bool narrows(sae_dtype from, sae_dtype to)
{
    return to != 0 && to != from && to != SAE_F32;
}

static bool same_fingerprint(const sae_model *a, const sae_model *b, const job *j)
{
    uint8_t of_a[16], of_b[16];
    sae_error err = {.struct_size = sizeof err};
    expect_ok(sae_model_fingerprint(a, of_a, &err), &err, j->in);
    expect_ok(sae_model_fingerprint(b, of_b, &err), &err, j->out);
    return memcmp(of_a, of_b, sizeof of_a) == 0;
}

static void print(const job *j, const outcome *o)
{
    if (j->json) {
        report_print(json_pack("{s:o, s:s, s:s, s:s, s:I, s:o, s:o}", "path", report_text(j->out), "format", o->format, "w_enc_dtype",
                               sae_dtype_name(o->info.w_enc_dtype), "w_dec_dtype", sae_dtype_name(o->info.w_dec_dtype), "bytes",
                               (json_int_t)o->memory.mapped_bytes, "verified", json_boolean(j->verify), "same_fingerprint",
                               j->verify ? json_boolean(o->same) : json_null()));
        return;
    }
    const double kib = (double)o->memory.mapped_bytes / 1024;
    printf("%s: %s, %s %d x %d, %s, %.1f %s%s\n", j->out, o->format, sae_arch_name(o->info.arch), o->info.d_in, o->info.d_sae,
           sae_dtype_name(o->info.w_enc_dtype), kib < 1024 ? kib : kib / 1024, kib < 1024 ? "KiB" : "MiB",
           !j->verify ? ""
           : o->same  ? ", verified: the fingerprints are the same"
                      : ", verified: sound, with rounded weights");
}

static void run(args *a)
{
    job j = {0};
    parse(&j, a);
    session s = session_open(&a->model, j.in, true);
    sae_error err = {.struct_size = sizeof err};
    j.save.check = a->model.open.check == SAE_NO ? SAE_NO : SAE_DEFAULT;
    progress p = progress_note("writing");
    expect_ok(sae_model_save(s.model, j.out, &j.save, &err), &err, j.out);
    progress_end(&p);
    sae_open_options open = {.struct_size = sizeof open, .check = j.verify ? SAE_YES : SAE_NO};
    sae_model *written;
    expect_ok(sae_model_open(&written, s.env, j.out, &open, &err), &err, j.out);
    outcome o = {.info = {.struct_size = sizeof o.info}, .memory = {.struct_size = sizeof o.memory}};
    expect_ok(sae_model_info(written, &o.info), &err, j.out);
    expect_ok(sae_model_memory(written, &o.memory), &err, j.out);
    o.format = sae_model_text(written, SAE_TEXT_FORMAT);
    o.same = j.verify && same_fingerprint(s.model, written, &j);
    if (j.verify && !o.same && !narrows(s.info.w_enc_dtype, j.save.dtype) && !narrows(s.info.w_dec_dtype, j.save.dtype)) {
        die("%s has another fingerprint than %s, although no weight was rounded: do not use it", j.out, j.in);
    }
    print(&j, &o);
    sae_model_free(written);
    session_close(&s);
}

const command cmd_convert = {
    .name = "convert",
    .synopsis = "IN OUT [--format NAME] [--dtype TYPE] [--verify]",
    .summary = "Write an SAE in another format",
    .details = "OUT is a .sae file (one file, checksummed, mapped as it lies), a .npz file as Gemma Scope has them, or a\n"
               "SAELens folder. Codes of OUT are those of IN, bit for bit, unless --dtype is narrower than the weights;\n"
               "what a format cannot say is refused. OUT appears when it is complete; what is there stays without --force.\n",
    .options = options,
    .run = run,
};
