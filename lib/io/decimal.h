/* Decimal text to double. Not strtod: it expects the decimal point of the host's locale, and its last bit follows the host's rounding mode. */
#ifndef SAEI_DECIMAL_H
#define SAEI_DECIMAL_H

#include "base/base.h"

/* The double nearest to text[0 .. bytes), ties to even, infinite beyond the range: the same bits whatever the host has set. The caller has
 * checked that it is an optional sign, digits with at most one point among them, and possibly e or E, an optional sign and digits. */
double saei_decimal(const char *text, size_t bytes);

#endif
