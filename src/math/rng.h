/* Counter-based random numbers: every draw of the program is a pure function of
 *
 *   (seed, purpose, item, epoch, index)
 *
 * and so does not depend on ranks, threads, block sizes or the order of work. The function is
 * Philox4x32-10 of Random123. Typical use: item = global number of the cell (or of the parameter),
 * epoch = epoch (or 0), index = which draw of that item.
 *
 *   key     = seed + purpose * 2^54      seed <= 2^53, purpose < 2^10: one key for each pair
 *   counter = (item, epoch, index)       64 + 32 + 32 bits, unmixed: one counter for each triple
 *
 * so two different arguments never read the same block of four words. Nothing here has state;
 * compiles as C11, C++ and CUDA (host and device).
 */
#ifndef AV_MATH_RNG_H
#define AV_MATH_RNG_H

#include "math/host_device.h"

#include <Random123/philox.h>
#include <math.h>
#include <stdint.h>

/* What a draw is for: one stream each. New purposes go at the end, so that results stay the same.
 */
enum av_purpose {
  AV_DRAW_INIT = 1,       /* starting values of parameters */
  AV_DRAW_SPLIT,          /* training, validation or test cell */
  AV_DRAW_SHUFFLE,        /* order of the training cells */
  AV_DRAW_DROPOUT,        /* dropout masks */
  AV_DRAW_LATENT,         /* z during training and validation */
  AV_DRAW_LIBRARY,        /* log library size likewise */
  AV_DRAW_POSTERIOR,      /* draws after training */
  AV_DRAW_SIMULATE,       /* simulated data: parameters of genes, batches, labels */
  AV_DRAW_SIMULATE_CELL,  /* simulated data: label, batch, z, library size of a cell */
  AV_DRAW_SIMULATE_WORD,  /* simulated data: the first word of every count */
  AV_DRAW_SIMULATE_COUNT, /* simulated data: further words of the counts that need them */
  AV_DRAW_TEST            /* for tests */
};

/* Four independent 32-bit words. */
static inline AV_HOST_DEVICE void av_random4(uint32_t out[4], uint64_t seed, uint32_t purpose,
                                             uint64_t item, uint32_t epoch, uint32_t index) {
  const uint64_t mixed = seed + ((uint64_t)purpose << 54);
  philox4x32_key_t key;
  philox4x32_ctr_t counter;
  key.v[0] = (uint32_t)mixed;
  key.v[1] = (uint32_t)(mixed >> 32);
  counter.v[0] = (uint32_t)item;
  counter.v[1] = (uint32_t)(item >> 32);
  counter.v[2] = epoch;
  counter.v[3] = index;
  counter = philox4x32(counter, key);
  out[0] = counter.v[0];
  out[1] = counter.v[1];
  out[2] = counter.v[2];
  out[3] = counter.v[3];
}

static inline AV_HOST_DEVICE uint64_t av_join(uint32_t high, uint32_t low) {
  return ((uint64_t)high << 32) | low;
}

/* One 64-bit word. */
static inline AV_HOST_DEVICE uint64_t av_random64(uint64_t seed, uint32_t purpose, uint64_t item,
                                                  uint32_t epoch, uint32_t index) {
  uint32_t words[4];
  av_random4(words, seed, purpose, item, epoch, index);
  return av_join(words[1], words[0]);
}

/* Uniform in [0, 1), 24 bits. */
static inline AV_HOST_DEVICE float av_uniform_f(uint32_t word) {
  return (float)(word >> 8) * 0x1p-24f;
}

/* Uniform in (0, 1), 23 bits: never 0, never 1 after rounding. */
static inline AV_HOST_DEVICE float av_uniform_open_f(uint32_t word) {
  return ((float)(word >> 9) + 0.5f) * 0x1p-23f;
}

/* Uniform in [0, 1), 53 bits. */
static inline AV_HOST_DEVICE double av_uniform(uint64_t word) {
  return (double)(word >> 11) * 0x1p-53;
}

/* Uniform in (0, 1), 52 bits: never 0, never 1. */
static inline AV_HOST_DEVICE double av_uniform_open(uint64_t word) {
  return ((double)(word >> 12) + 0.5) * 0x1p-52;
}

/* Uniform in (0, 1) from 32 bits, for a pair of them from one block: finest step 2^-32. */
static inline AV_HOST_DEVICE double av_uniform_open32(uint32_t word) {
  return ((double)word + 0.5) * 0x1p-32;
}

/* Two independent N(0, 1) by Box-Muller from two words; |x| < 8.6. */
static inline AV_HOST_DEVICE void av_normal2(double out[2], uint64_t a, uint64_t b) {
  const double radius = sqrt(-2.0 * log(av_uniform_open(a)));
  const double angle = 6.283185307179586476925286766559 * av_uniform(b);
  out[0] = radius * cos(angle);
  out[1] = radius * sin(angle);
}

/* The same in float from 32-bit words; |x| < 5.8. */
static inline AV_HOST_DEVICE void av_normal2_f(float out[2], uint32_t a, uint32_t b) {
  const float radius = sqrtf(-2.0f * logf(av_uniform_open_f(a)));
  const float angle = 6.28318530717958647692f * av_uniform_f(b);
  out[0] = radius * cosf(angle);
  out[1] = radius * sinf(angle);
}

/* The block of draw `index`, turned into two normals (double), e.g. latent dimensions 2*index and
 * 2*index + 1 of a cell. */
static inline AV_HOST_DEVICE void av_random_normal2(double out[2], uint64_t seed, uint32_t purpose,
                                                    uint64_t item, uint32_t epoch, uint32_t index) {
  uint32_t words[4];
  av_random4(words, seed, purpose, item, epoch, index);
  av_normal2(out, av_join(words[1], words[0]), av_join(words[3], words[2]));
}

#endif
