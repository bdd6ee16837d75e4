#ifndef SAEI_ANGLE_H
#define SAEI_ANGLE_H

#include <stddef.h>

/* Angle between a and b [d] with lengths norm_a and norm_b, in radians, 0 .. pi; NaN when a length is 0.
 * W. Kahan, "How futile are mindless assessments of roundoff", section 12: 2 atan2(|a/|a| - b/|b||, |a/|a| + b/|b||) is accurate near
 * 0 and pi, where acos of the cosine is not. Own arc tangent: libm's differs between machines. */
double saei_angle(const float *a, double norm_a, const float *b, double norm_b, size_t d);

#endif
