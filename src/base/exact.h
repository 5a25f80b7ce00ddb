/* Sums that do not depend on order: fixed point in 64 bits. Used where a number must be the same on
 * any number of ranks (library prior, starting values), always and not only in strict mode.
 */
#ifndef AV_BASE_EXACT_H
#define AV_BASE_EXACT_H

#include <math.h>
#include <stdint.h>

/* 30 bits after the point: |value| * cells < 2^33 holds for logarithms of anything and any data
 * set. */
#define AV_FIXED_ONE 1073741824.0

static inline int64_t av_to_fixed(double value) { return (int64_t)llrint(value * AV_FIXED_ONE); }
static inline double av_from_fixed(int64_t sum) { return (double)sum / AV_FIXED_ONE; }

/* value rounded to a multiple of 2^-16: doubles of this kind add exactly while the sum is below
 * 2^36. */
static inline double av_round_to_grid(double value) { return rint(value * 65536.0) / 65536.0; }

#endif
