#include "report.h"

#include <math.h>
#include <stdlib.h>

json_t *report_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *report_text(const char *text)
{
    json_t *whole = json_string(text);
    if (whole != NULL) {
        return whole;
    }
    char *copy = take_text(text);
    for (char *c = copy; *c != '\0'; c++) {
        *c = (unsigned char)*c < 0x80 ? *c : '?';
    }
    whole = json_string(copy);
    free(copy);
    return whole;
}

void report_print(json_t *root)
{
    if (root == NULL || json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0) {
        die("cannot write the JSON to standard output");
    }
    putchar('\n');
    json_decref(root);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

spread spread_of(float *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    double middle = values[n / 2];
    if (n % 2 == 0) {
        middle = 0.5 * (middle + values[n / 2 - 1]);
    }
    return (spread){values[0], middle, values[n - 1]};
}
