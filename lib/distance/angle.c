#include "distance/angle.h"

#include <math.h>

/* atan(t) for t in 0 .. 1: the argument is halved three times, atan t = 2 atan(t / (1 + sqrt(1 + t^2))), then 12 terms of the
 * series at t < 0.1 leave less than 1e-24. sqrt and the four operations are exact to the last bit everywhere. */
static double arc_tangent(double t)
{
    double power, sum = 0.0;
    for (int i = 0; i < 3; i++)
        t = t / (1.0 + sqrt(1.0 + t * t));
    power = t;
    for (int n = 0; n < 12; n++) {
        const double term = power / (double)(2 * n + 1);
        sum += n % 2 ? -term : term;
        power *= t * t;
    }
    return 8.0 * sum;
}

double saei_angle(const float *a, double norm_a, const float *b, double norm_b, size_t d)
{
    const double pi = 3.14159265358979323846;
    double minus = 0.0, plus = 0.0;
    for (size_t k = 0; k < d; k++) {
        const double u = (double)a[k] / norm_a, v = (double)b[k] / norm_b;
        minus += (u - v) * (u - v);
        plus += (u + v) * (u + v);
    }
    const double y = sqrt(minus), x = sqrt(plus);
    return y <= x ? 2.0 * arc_tangent(y / x) : pi - 2.0 * arc_tangent(x / y);
}
