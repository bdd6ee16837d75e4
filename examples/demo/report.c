#include "report.h"

#include <inttypes.h>
#include <stdio.h>

#include <sae.h>

#include "planted.h"

static double ratio(int64_t a, int64_t b)
{
    return b ? (double)a / (double)b : 0.0;
}

bool report_good(const report *r)
{
    return ratio(r->n_both, r->n_planted) > 0.9 && ratio(r->n_both, r->n_found) > 0.9 && r->twins == r->twins_asked &&
           r->moved_aside < 1e-4 && r->row_kept && r->same_isa && r->same_batch && r->same_threads;
}

static const char *yes(bool b)
{
    return b ? "yes" : "NO";
}

static void text_row(const report *r)
{
    printf("one row    feature                        planted   found\n");
    for (int i = 0; i < r->n_row; i++) {
        const row_feature *f = r->row + i;
        printf("           %4" PRId32 "  %-24s", f->feature, f->name);
        printf(f->planted > 0.0f ? "  %6.2f" : "       -", (double)f->planted);
        printf(f->found > 0.0f ? "  %6.2f\n" : "       -\n", (double)f->found);
    }
    printf("all rows   %d rows: %" PRId64 " planted, %" PRId64 " found; recall %.3f, precision %.3f\n", N_ROWS, r->n_planted, r->n_found,
           ratio(r->n_both, r->n_planted), ratio(r->n_both, r->n_found));
    printf("decode     fraction of variance unexplained %.4f (with the planted strengths: %.4f, the noise)\n\n", r->fvu, r->fvu_planted);
}

static void text_near(const report *r)
{
    printf("near       %4" PRId32 "  %-24s  nearest by the cosine of decoder rows:\n", r->near_feature, r->near_name);
    for (int i = 0; i < r->n_near; i++)
        printf("           %4" PRId32 "  %-24s  %6.3f%s\n", r->near[i].feature, r->near[i].name, (double)r->near[i].cosine,
               r->near[i].feature == planted_twin(r->near_feature) ? "  its planted synonym" : "");
    printf("           the synonym is the nearest for %d of %d features asked\n\n", r->twins, r->twins_asked);
}

static void text_clamp(const report *r)
{
    printf("clamp      %4" PRId32 "  %-24s  z %.2f set to %.2f; encoded again: %.2f\n", r->clamp_feature, r->clamp_name,
           (double)r->z_before, (double)r->clamp_to, (double)r->z_after);
    printf("           the row moved by %.4f, of that %.7f beside the feature's direction\n", r->moved, r->moved_aside);
    printf("           still active: %d of %d other features; a row with slot -1 kept its bits: %s\n\n", r->others_kept, r->others,
           yes(r->row_kept));
}

static void text_bits(const report *r)
{
    printf("same bits ");
    for (int i = 0; i < r->n_isas; i++)
        printf(" %s %016" PRIx64 "%s", r->isas[i].name, r->isas[i].hash, i + 1 < r->n_isas ? "," : "\n");
    printf("           every instruction set: %s; 1, 8 and 64 rows a call: %s; 1 and %" PRIu32 " threads: %s\n\n", yes(r->same_isa),
           yes(r->same_batch), r->threads, yes(r->same_threads));
}

void report_text(const report *r)
{
    const uint32_t v = sae_version();
    printf("libsae %u.%u.%u demo: an SAE with known features, grown from seed %" PRIu64 "\n\n", v >> 16, v >> 8 & 255, v & 255, r->seed);
    printf("model      jumprelu %d -> %d, f32, unit decoder rows, threshold %.1f; %s kernels\n", D_IN, D_SAE, (double)PLANTED_THRESHOLD,
           r->isa);
    printf("rows       sums of %d features of strength 6 .. 12, and noise\n\n", N_ACTIVE);
    text_row(r);
    text_near(r);
    text_clamp(r);
    printf("speed      microseconds per row, one thread       1 row  8 rows  64 rows a call\n");
    for (int i = 0; i < r->n_speed; i++)
        printf("           %-36s %7.1f %7.1f %8.1f\n", r->speed[i].what, r->speed[i].us[0], r->speed[i].us[1], r->speed[i].us[2]);
    printf("\n");
    text_bits(r);
    printf("%s in %.1f s\n", report_good(r) ? "all as planted," : "NOT as planted,", r->seconds);
}

static const char *truth(bool b)
{
    return b ? "true" : "false";
}

static const char *comma(int i, int n)
{
    return i + 1 < n ? "," : "";
}

/* Names hold letters and spaces only: nothing needs escaping. */
void report_json(const report *r)
{
    const uint32_t v = sae_version();
    printf("{\n  \"version\": \"%u.%u.%u\", \"seed\": %" PRIu64 ", \"isa\": \"%s\", \"threads\": %" PRIu32 ",\n", v >> 16, v >> 8 & 255,
           v & 255, r->seed, r->isa, r->threads);
    printf("  \"model\": {\"architecture\": \"jumprelu\", \"d_in\": %d, \"d_sae\": %d, \"dtype\": \"f32\"},\n", D_IN, D_SAE);
    printf("  \"row\": [\n");
    for (int i = 0; i < r->n_row; i++)
        printf("    {\"feature\": %" PRId32 ", \"name\": \"%s\", \"planted\": %.9g, \"found\": %.9g}%s\n", r->row[i].feature,
               r->row[i].name, (double)r->row[i].planted, (double)r->row[i].found, comma(i, r->n_row));
    printf("  ],\n  \"codes\": {\"rows\": %d, \"planted\": %" PRId64 ", \"found\": %" PRId64 ", \"recall\": %.6f, \"precision\": %.6f},\n",
           N_ROWS, r->n_planted, r->n_found, ratio(r->n_both, r->n_planted), ratio(r->n_both, r->n_found));
    printf("  \"fvu\": %.9g, \"fvu_planted\": %.9g,\n", r->fvu, r->fvu_planted);
    printf("  \"neighbors\": {\"feature\": %" PRId32 ", \"name\": \"%s\", \"near\": [\n", r->near_feature, r->near_name);
    for (int i = 0; i < r->n_near; i++)
        printf("    {\"feature\": %" PRId32 ", \"name\": \"%s\", \"cosine\": %.9g}%s\n", r->near[i].feature, r->near[i].name,
               (double)r->near[i].cosine, comma(i, r->n_near));
    printf("  ], \"twins\": %d, \"twins_asked\": %d},\n", r->twins, r->twins_asked);
    printf("  \"clamp\": {\"feature\": %" PRId32 ", \"name\": \"%s\", \"before\": %.9g, \"to\": %.9g, \"after\": %.9g, \"moved\": %.9g,\n"
           "            \"moved_aside\": %.9g, \"others\": %d, \"others_kept\": %d, \"row_kept\": %s},\n",
           r->clamp_feature, r->clamp_name, (double)r->z_before, (double)r->clamp_to, (double)r->z_after, r->moved, r->moved_aside,
           r->others, r->others_kept, truth(r->row_kept));
    printf("  \"us_per_row\": [\n");
    for (int i = 0; i < r->n_speed; i++)
        printf("    {\"what\": \"%s\", \"rows_1\": %.3f, \"rows_8\": %.3f, \"rows_64\": %.3f}%s\n", r->speed[i].what, r->speed[i].us[0],
               r->speed[i].us[1], r->speed[i].us[2], comma(i, r->n_speed));
    printf("  ],\n  \"bits\": {");
    for (int i = 0; i < r->n_isas; i++)
        printf("\"%s\": \"%016" PRIx64 "\"%s", r->isas[i].name, r->isas[i].hash, i + 1 < r->n_isas ? ", " : "},\n");
    printf("  \"same_isa\": %s, \"same_batch\": %s, \"same_threads\": %s,\n", truth(r->same_isa), truth(r->same_batch),
           truth(r->same_threads));
    printf("  \"good\": %s, \"seconds\": %.3f\n}\n", truth(report_good(r)), r->seconds);
}
