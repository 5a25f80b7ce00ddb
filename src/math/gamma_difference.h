/* Differences of lgamma and digamma in double, for any x >= 0 and theta > 0 (not only integers),
 * accurate where theta is much larger than x or much smaller than 1.
 *
 * Both arguments are raised above 10 by the recurrence, then Stirling's series is differenced term
 * by term (Abramowitz and Stegun 6.1.40, 6.3.18): lgamma(a + x) - lgamma(a) = (a - 1/2) log1p(x/a)
 * + x log(a + x) - x + c(a + x) - c(a) The vector twins of these are in
 * backend/cpu/kernels/likelihood.c.
 */
#ifndef AV_MATH_GAMMA_DIFFERENCE_H
#define AV_MATH_GAMMA_DIFFERENCE_H

#include "math/host_device.h"

#include <math.h>

static inline AV_HOST_DEVICE double av_stirling_tail(double z) {
  const double r = 1.0 / (z * z);
  return (1.0 / 12 - r * (1.0 / 360 - r * (1.0 / 1260 - r * (1.0 / 1680 - r / 1188)))) / z;
}

static inline AV_HOST_DEVICE double av_digamma_tail(double z) {
  const double r = 1.0 / (z * z);
  return r * (1.0 / 12 - r * (1.0 / 120 - r * (1.0 / 252 - r * (1.0 / 240 - r / 132))));
}

/* lgamma(x + theta) - lgamma(theta); log_theta = log(theta), given so that a theta that underflows
 * still counts. */
static inline AV_HOST_DEVICE double av_lgamma_difference(double x, double theta, double log_theta) {
  double below = 0.0;
  double a = theta;
  if (x == 0.0) {
    return 0.0;
  }
  while (a < 10.0) {
    below += (a == theta ? log_theta : log(a)) - log(a + x);
    a += 1.0;
  }
  return below + (a - 0.5) * log1p(x / a) + x * log(a + x) - x + av_stirling_tail(a + x) -
         av_stirling_tail(a);
}

/* theta * (digamma(x + theta) - digamma(theta)) */
static inline AV_HOST_DEVICE double av_scaled_digamma_difference(double x, double theta) {
  double below = 0.0;
  double a = theta;
  while (a < 10.0) {
    below += a == theta ? x / (theta + x) : theta * (x / (a * (a + x)));
    a += 1.0;
  }
  return below + theta * (log1p(x / a) + 0.5 * x / (a * (a + x)) -
                          (av_digamma_tail(a + x) - av_digamma_tail(a)));
}

#endif
