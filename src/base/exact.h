/* Sums that do not depend on order: fixed point in 64 bits. Used where a number must be the same on
 * any number of ranks (library prior, starting values), always and not only in strict mode.
 */
#ifndef AV_BASE_EXACT_H
#define AV_BASE_EXACT_H

#include "math/host_device.h"

#include <math.h>
#include <stdint.h>

/* 30 bits after the point: |value| * cells < 2^33 holds for logarithms of anything and any data
 * set. */
#define AV_FIXED_ONE 1073741824.0

static AV_HOST_DEVICE inline int64_t av_to_fixed(double value) {
  return (int64_t)llrint(value * AV_FIXED_ONE);
}
static inline double av_from_fixed(int64_t sum) { return (double)sum / AV_FIXED_ONE; }

/* The same in two words, for squares and products of counts: sums below 2^66 of up to 2^28 values.
 */
typedef struct av_wide {
  int64_t high; /* in units of 16 */
  int64_t low;  /* fixed point as above; less than 16 from each value */
} av_wide;

static AV_HOST_DEVICE inline void av_wide_add(av_wide *sum, double value) {
  const int64_t high = (int64_t)(value / 16.0);
  sum->high += high;
  sum->low += av_to_fixed(value - 16.0 * (double)high);
}
static inline double av_wide_value(const av_wide *sum) {
  return 16.0 * (double)sum->high + av_from_fixed(sum->low);
}

#endif
