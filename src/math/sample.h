/* Gamma, Poisson and negative-binomial draws from counter-based words (math/rng.h).
 *
 * An av_stream reads the blocks index = 0, 1, 2, ... of one (seed, purpose, item, epoch): as many
 * words as a rejection method happens to need, still a pure function of those four.
 */
#ifndef AV_MATH_SAMPLE_H
#define AV_MATH_SAMPLE_H

#include "math/rng.h"

#include <math.h>
#include <stdint.h>

typedef struct av_stream {
  uint64_t seed, item;
  uint32_t purpose, epoch, index;
  int left; /* words of the block not yet used */
  uint32_t words[4];
} av_stream;

static inline av_stream av_stream_of(uint64_t seed, uint32_t purpose, uint64_t item,
                                     uint32_t epoch) {
  const av_stream stream = {.seed = seed, .item = item, .purpose = purpose, .epoch = epoch};
  return stream;
}

/* Next 64-bit word. */
static inline uint64_t av_stream_next(av_stream *stream) {
  if (stream->left == 0) {
    av_random4(stream->words, stream->seed, stream->purpose, stream->item, stream->epoch,
               stream->index);
    stream->index += 1;
    stream->left = 4;
  }
  stream->left -= 2;
  return av_join(stream->words[stream->left + 1], stream->words[stream->left]);
}

/* Next uniform in (0, 1). */
static inline double av_stream_uniform(av_stream *stream) {
  return av_uniform_open(av_stream_next(stream));
}

/* Next N(0, 1). */
static inline double av_stream_normal(av_stream *stream) {
  double pair[2];
  const uint64_t a = av_stream_next(stream);
  av_normal2(pair, a, av_stream_next(stream));
  return pair[0];
}

/* Gamma(shape, scale 1), shape > 0: Marsaglia and Tsang 2000; shape < 1 by the power of a uniform.
 */
static inline double av_sample_gamma(av_stream *stream, double shape) {
  const double boost = shape < 1 ? pow(av_stream_uniform(stream), 1 / shape) : 1;
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3;
  const double c = 1 / sqrt(9 * d);
  for (;;) {
    const double x = av_stream_normal(stream);
    const double cube_root = 1 + c * x;
    if (cube_root <= 0) {
      continue;
    }
    const double v = cube_root * cube_root * cube_root;
    if (log(av_stream_uniform(stream)) < 0.5 * x * x + d * (1 - v + log(v))) {
      return boost * d * v;
    }
  }
}

/* Smallest x with u < P(X <= x) for NB(mean mu, inverse dispersion theta), or for Poisson(mu) when
 * theta is infinite; about mu steps, so for small mu. p0 = P(X = 0). */
static inline double av_count_by_inversion(double u, double p0, double mu, double theta) {
  const double ratio = isinf(theta) ? mu : mu / (mu + theta);
  double p = p0;
  double x = 0;
  while (u >= p && p > 0) { /* p = 0: rounding left u above the sum of all */
    u -= p;
    p *= (isinf(theta) ? ratio : ratio * (x + theta)) / (x + 1);
    x += 1;
  }
  return x;
}

/* P(X = 0) of the same distribution. */
static inline double av_count_p0(double mu, double theta) {
  return exp(isinf(theta) ? -mu : -theta * log1p(mu / theta));
}

/* Poisson(mu), mu >= 0: inversion below 10, then Hoermann's PTRS (1993). */
static inline double av_sample_poisson(av_stream *stream, double mu) {
  if (mu < 10) {
    return av_count_by_inversion(av_stream_uniform(stream), exp(-mu), mu, (double)INFINITY);
  }
  const double log_mu = log(mu);
  const double b = 0.931 + 2.53 * sqrt(mu);
  const double a = -0.059 + 0.02483 * b;
  const double inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
  const double v_r = 0.9277 - 3.6224 / (b - 2);
  for (;;) {
    const double u = av_stream_uniform(stream) - 0.5;
    const double v = av_stream_uniform(stream);
    const double us = 0.5 - fabs(u);
    const double k = floor((2 * a / us + b) * u + mu + 0.43);
    if (us >= 0.07 && v <= v_r) {
      return k;
    }
    if (k < 0 || (us < 0.013 && v > us)) {
      continue;
    }
    int sign = 0;
    if (log(v * inverse_alpha / (a / (us * us) + b)) <= k * log_mu - mu - lgamma_r(k + 1, &sign)) {
      return k;
    }
  }
}

#endif
