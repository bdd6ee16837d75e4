/* What the demo measured, and its two ways of saying it. */
#ifndef REPORT_H
#define REPORT_H

#include <stdbool.h>
#include <stdint.h>

enum { NAME_BYTES = 32, MAX_ROW = 32, MAX_NEAR = 4, MAX_SPEED = 16, MAX_ISAS = 8 };

/* A feature of the row that is shown: what was planted, what was found (0 = not). */
typedef struct row_feature {
    char name[NAME_BYTES];
    int32_t feature;
    float planted;
    float found;
} row_feature;

typedef struct near_feature {
    char name[NAME_BYTES];
    int32_t feature;
    float cosine;
} near_feature;

typedef struct speed_line {
    const char *what;
    double us[3]; /* per row at 1, 8 and 64 rows a call */
} speed_line;

typedef struct isa_line {
    const char *name;
    uint64_t hash;
} isa_line;

typedef struct report {
    uint64_t seed;
    const char *isa;
    uint32_t threads;
    row_feature row[MAX_ROW];
    int n_row;
    int64_t n_planted, n_found, n_both;
    double fvu, fvu_planted; /* of the codes found; of the codes that were planted */
    char near_name[NAME_BYTES];
    int32_t near_feature;
    near_feature near[MAX_NEAR];
    int n_near;
    int twins, twins_asked; /* features whose nearest feature is the planted synonym */
    char clamp_name[NAME_BYTES];
    int32_t clamp_feature;
    float clamp_to, z_before, z_after; /* z_after: a new encode of the steered row */
    double moved, moved_aside;         /* length of the change, and of its part that is not along the direction */
    int others, others_kept;           /* other features active in the row before, and of those after */
    bool row_kept;                     /* a row with slot -1 kept its bits */
    speed_line speed[MAX_SPEED];
    int n_speed;
    isa_line isas[MAX_ISAS];
    int n_isas;
    bool same_isa, same_batch, same_threads;
    double seconds;
} report;

void report_text(const report *r);
void report_json(const report *r);

/* Whether the library did what the planted truth demands. */
bool report_good(const report *r);

#endif
