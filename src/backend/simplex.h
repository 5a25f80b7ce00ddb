/* Latent codes of latent_distribution = ln: softmax(z) with z ~ q(z) = N(mean, diag variance). Its
 * mean has no closed form; here it is that of some draws, the same on every backend (draws.h).
 */
#ifndef AV_BACKEND_SIMPLEX_H
#define AV_BACKEND_SIMPLEX_H

#include "backend/draws.h"
#include "math/numerics.h"

#include <math.h>
#include <string.h>

/* q(z) of one cell, and which draws it gets. */
typedef struct av_simplex {
  int64_t n_latent;       /* K >= 1 */
  const double *mean;     /* (K) */
  const double *variance; /* (K) */
  uint64_t seed;
  int64_t cell;      /* global number: draws belong to it */
  int64_t n_samples; /* >= 1 */
} av_simplex;

/* offset (K) = sqrt(variance) eps of draw number `number`. */
static inline void av_simplex_offset(const av_simplex *simplex, uint32_t number, double *offset) {
  double noise[AV_NORMALS_PER_CALL];
  for (int64_t k = 0; k < simplex->n_latent; ++k) {
    if (k % AV_NORMALS_PER_CALL == 0) {
      uint32_t words[4];
      av_random4(words, simplex->seed, AV_DRAW_POSTERIOR, (uint64_t)simplex->cell, number,
                 (uint32_t)(k / AV_NORMALS_PER_CALL));
      av_normals4(words, noise);
    }
    offset[k] = sqrt(simplex->variance[k]) * noise[k % AV_NORMALS_PER_CALL];
  }
}

/* out (K) += softmax(mean + sign offset); z (K) is written. */
static inline void av_simplex_add(const av_simplex *simplex, double sign, const double *offset,
                                  double *z, double *out) {
  for (int64_t k = 0; k < simplex->n_latent; ++k) {
    z[k] = simplex->mean[k] + sign * offset[k];
  }
  av_softmax(simplex->n_latent, z);
  for (int64_t k = 0; k < simplex->n_latent; ++k) {
    out[k] += z[k];
  }
}

/* out (K): mean of softmax(z) over n_samples draws. They come as pairs mean +- sqrt(variance) eps,
 * whose mean has the same expectation and less variance; an odd last one, and so the only one of
 * n_samples = 1, is a plain draw. space (2 K). */
static inline void av_simplex_mean(const av_simplex *simplex, double *space, double *out) {
  const int64_t n = simplex->n_latent;
  const int64_t pairs = simplex->n_samples / 2;
  double *offset = space;
  double *z = space + n;
  memset(out, 0, (size_t)n * sizeof *out);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    av_simplex_offset(simplex, (uint32_t)pair, offset);
    av_simplex_add(simplex, 1.0, offset, z, out);
    av_simplex_add(simplex, -1.0, offset, z, out);
  }
  if (simplex->n_samples % 2 == 1) {
    av_simplex_offset(simplex, (uint32_t)pairs, offset);
    av_simplex_add(simplex, 1.0, offset, z, out);
  }
  for (int64_t k = 0; k < n; ++k) {
    out[k] /= (double)simplex->n_samples;
  }
}

#endif
