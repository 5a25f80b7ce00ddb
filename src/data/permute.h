/* A random permutation of 0 .. n-1 that is computed, not stored: any rank can ask for any element.
 */
#ifndef AV_DATA_PERMUTE_H
#define AV_DATA_PERMUTE_H

#include "math/rng.h"

#include <stdint.h>

/* Image of i, 0 <= i < n, under the permutation of (seed, purpose). Balanced Feistel network over
 * the next even power of two with Philox as round function, walked until it lands below n (Black
 * and Rogaway 2002). */
static inline int64_t av_permute(int64_t i, int64_t n, uint64_t seed, uint32_t purpose) {
  enum { ROUNDS = 8 };
  uint32_t half = 1;
  while (half < 31 && ((int64_t)1 << (2 * half)) < n) {
    ++half;
  }
  const uint64_t mask = ((uint64_t)1 << half) - 1;
  uint64_t value = (uint64_t)i;
  do {
    uint64_t left = value >> half;
    uint64_t right = value & mask;
    for (uint32_t round = 0; round < ROUNDS; ++round) {
      const uint64_t mixed = left ^ (av_random64(seed, purpose, right, round, half) & mask);
      left = right;
      right = mixed;
    }
    value = (left << half) | right;
  } while (value >= (uint64_t)n);
  return (int64_t)value;
}

#endif
