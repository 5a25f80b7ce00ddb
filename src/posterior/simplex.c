#include "posterior/simplex.h"

#include "backend/draws.h"
#include "math/numerics.h"
#include "math/rng.h"

#include <math.h>
#include <string.h>

/* sqrt(variance) eps of draw number `number`. */
static void draw_offset(const av_simplex *simplex, uint32_t number, double *offset) {
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

/* out += softmax(mean + sign offset) */
static void add_softmax(const av_simplex *simplex, double sign, const double *offset, double *z,
                        double *out) {
  for (int64_t k = 0; k < simplex->n_latent; ++k) {
    z[k] = simplex->mean[k] + sign * offset[k];
  }
  av_softmax(simplex->n_latent, z);
  for (int64_t k = 0; k < simplex->n_latent; ++k) {
    out[k] += z[k];
  }
}

void av_simplex_mean(const av_simplex *simplex, double *space, double *out) {
  const int64_t n = simplex->n_latent;
  const int64_t pairs = simplex->n_samples / 2;
  double *offset = space;
  double *z = space + n;
  memset(out, 0, (size_t)n * sizeof *out);
  for (int64_t pair = 0; pair < pairs; ++pair) {
    draw_offset(simplex, (uint32_t)pair, offset);
    add_softmax(simplex, 1.0, offset, z, out);
    add_softmax(simplex, -1.0, offset, z, out);
  }
  if (simplex->n_samples % 2 == 1) {
    draw_offset(simplex, (uint32_t)pairs, offset);
    add_softmax(simplex, 1.0, offset, z, out);
  }
  for (int64_t k = 0; k < n; ++k) {
    out[k] /= (double)simplex->n_samples;
  }
}
