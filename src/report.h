/* What the commands print: JSON values that JSON can hold, and the statistics of many numbers. */
#ifndef TOOL_REPORT_H
#define TOOL_REPORT_H

#include <jansson.h>

#include "say.h"

/* A number, or null where it is not finite. */
json_t *report_number(double value);

/* A text; bytes that are no UTF-8 become '?'. */
json_t *report_text(const char *text);

/* Prints and frees. */
void report_print(json_t *root);

typedef struct spread {
    double min, median, max;
} spread;

/* Sorts the values; n > 0. */
spread spread_of(float *values, int64_t n);

#endif
