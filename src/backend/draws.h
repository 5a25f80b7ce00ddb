/* Which counter gives which draw: shared by every backend, so that all make the same draws.
 *
 * A draw belongs to (seed, purpose, global cell, epoch, index); rank, thread and position in the
 * minibatch do not enter.
 */
#ifndef AV_BACKEND_DRAWS_H
#define AV_BACKEND_DRAWS_H

#include "math/rng.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

enum { AV_DROPOUT_PER_CALL = 8, AV_NORMALS_PER_CALL = 4 };

/* Index of the library's draw; latent dimension k uses index k / 4. */
#define AV_INDEX_LIBRARY 0x80000000u

/* Dropout decides with 16 random bits a unit: unit u of layer `layer` uses 16-bit field u % 8
 * (field f: word f / 2, low half first) of the call with this index. */
static inline AV_HOST_DEVICE uint32_t av_dropout_index(uint32_t layer, int64_t unit) {
  return (layer << 24) + (uint32_t)(unit / AV_DROPOUT_PER_CALL);
}
/* A unit is dropped if its field is below this; the probability is exact to 1/131,072. */
static inline AV_HOST_DEVICE uint32_t av_dropout_threshold(double rate) {
  return (uint32_t)(rate * 65536.0 + 0.5);
}
/* Kept units are scaled by this: the inverse of the probability to keep that the threshold gives.
 */
static inline AV_HOST_DEVICE double av_dropout_scale(double rate) {
  return 65536.0 / (65536.0 - (double)av_dropout_threshold(rate));
}
static inline AV_HOST_DEVICE bool av_dropout_drops(const uint32_t words[4], int64_t unit,
                                                   uint32_t threshold) {
  const uint32_t field = (uint32_t)(unit % AV_DROPOUT_PER_CALL);
  return ((words[field / 2] >> (16 * (field % 2))) & 0xffffu) < threshold;
}

/* Four standard normals from four words, by Box-Muller in double: 0, 1 from words 0, 1; 2, 3 from
 * words 2, 3. */
static inline AV_HOST_DEVICE void av_normals4(const uint32_t words[4], double out[4]) {
  for (int pair = 0; pair < 2; ++pair) {
    const double u = ((double)words[2 * pair] + 0.5) * (1.0 / 4294967296.0);
    const double v = ((double)words[2 * pair + 1] + 0.5) * (1.0 / 4294967296.0);
    const double radius = sqrt(-2.0 * log(u));
    out[2 * pair] = radius * cos(6.283185307179586477 * v);
    out[2 * pair + 1] = radius * sin(6.283185307179586477 * v);
  }
}

#endif
