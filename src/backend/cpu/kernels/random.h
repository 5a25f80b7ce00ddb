/* Philox4x32-10 over vectors of counters: the words of av_random4 (math/rng.h), AV_DOUBLES calls at
 * a time. */
#ifndef AV_BACKEND_CPU_RANDOM_H
#define AV_BACKEND_CPU_RANDOM_H

#include "backend/cpu/kernels/vector.h"

/* Counters become words, in the lower halves of 64-bit lanes; upper halves may hold anything before
 * and do after. So a round is two multiplications, two shifts and two three-way exclusive ors, with
 * nothing to pack. */
static inline __attribute__((always_inline)) void av_philox(av_uvec c[4], uint64_t key) {
  const av_uvec none = {0};
  uint32_t k0 = (uint32_t)key;
  uint32_t k1 = (uint32_t)(key >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const av_uvec p0 = av_uvec_mul32(c[0], none + 0xD2511F53u);
    const av_uvec p1 = av_uvec_mul32(c[2], none + 0xCD9E8D57u);
    c[0] = (p1 >> 32) ^ c[1] ^ (none + k0);
    c[1] = p1;
    c[2] = (p0 >> 32) ^ c[3] ^ (none + k1);
    c[3] = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

/* Lower halves of a, then those of b, side by side in each lane. */
static inline __attribute__((always_inline)) av_uvec av_uvec_join(av_uvec a, av_uvec b) {
  return (a & 0xffffffffu) | (b << 32);
}

/* 0, 1, 2, ... */
static inline __attribute__((always_inline)) av_uvec av_uvec_count(void) {
#if defined(__AVX512F__)
  return (av_uvec){0, 1, 2, 3, 4, 5, 6, 7};
#elif defined(__AVX__)
  return (av_uvec){0, 1, 2, 3};
#else
  return (av_uvec){0, 1};
#endif
}

#endif
