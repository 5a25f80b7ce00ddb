/* q(z) and q(l): draws, KL terms and their gradients (model.md sections 1 and 3; Kingma and Welling
 * 2014 for the reparameterised draw). */
#include "backend/draws.h"
#include "backend/latent.h"
#include "backend/reference/state.h"
#include "backend/simplex.h"

#include <math.h>
#include <stdlib.h>

/* Standard normal of latent dimension k of a cell, 0 when means are asked for. */
static double z_noise(const av_latent *latent, int64_t cell, int64_t k) {
  if (!latent->sample) {
    return 0.0;
  }
  uint32_t words[4];
  double normals[4];
  av_random4(words, latent->draw.seed, latent->draw.purpose, (uint64_t)cell, latent->draw.epoch,
             (uint32_t)(k / AV_NORMALS_PER_CALL));
  av_normals4(words, normals);
  return normals[k % AV_NORMALS_PER_CALL];
}

static double l_noise(const av_latent *latent, int64_t cell) {
  if (!latent->sample) {
    return 0.0;
  }
  uint32_t words[4];
  double normals[4];
  av_random4(words, latent->draw.seed, latent->draw.purpose, (uint64_t)cell, latent->draw.epoch,
             AV_INDEX_LIBRARY);
  av_normals4(words, normals);
  return normals[0];
}

/* softmax in place. */
static void softmax(int64_t n, double *z) {
  double top = z[0];
  double sum = 0.0;
  for (int64_t k = 1; k < n; ++k) {
    top = z[k] > top ? z[k] : top;
  }
  for (int64_t k = 0; k < n; ++k) {
    z[k] = exp(z[k] - top);
    sum += z[k];
  }
  for (int64_t k = 0; k < n; ++k) {
    z[k] /= sum;
  }
}

/* Gradient on the draw, from dz (K) on the decoder's z (K). */
static double draw_grad(const av_latent *latent, const double *z, const double *dz, int64_t k) {
  if (!latent->simplex) {
    return dz[k];
  }
  double along = 0.0;
  for (int64_t j = 0; j < latent->n_latent; ++j) {
    along += z[j] * dz[j];
  }
  return z[k] * (dz[k] - along);
}

void ref_latent_draw(av_backend *be, const av_batch *batch, const av_latent *latent,
                     const av_real *z_head_, const av_real *l_head_, const av_sum *prior_,
                     av_real *z_, av_real *l_, av_sum *losses_) {
  (void)be;
  const int64_t n_latent = latent->n_latent;
  const double *z_head = const_doubles(z_head_);
  const double *l_head = const_doubles(l_head_);
  const double *prior = const_doubles(prior_);
  double *z = doubles(z_);
  double *l = doubles(l_);
  double *losses = doubles(losses_);
  for (int64_t i = 0; i < batch->n; ++i) {
    const int64_t cell = cell_of(batch, i);
    double *zi = z + i * latent->stride;
    for (int64_t k = 0; k < n_latent; ++k) {
      const double mean = z_head[i * 2 * n_latent + k];
      const double variance = exp(z_head[i * 2 * n_latent + n_latent + k]) + AV_VARIANCE_FLOOR;
      zi[k] = mean + sqrt(variance) * z_noise(latent, cell, k);
      losses[AV_LOSS_KL_Z] += 0.5 * (variance + mean * mean - 1.0 - log(variance));
    }
    if (latent->simplex) {
      softmax(n_latent, zi);
    }
    for (int64_t c = 0; n_latent + c < latent->stride; ++c) {
      zi[n_latent + c] = continuous_of(batch, i, c);
    }
    if (!latent->latent_library) {
      l[i] = av_log_size(batch->dataset, batch->row[i]);
      continue;
    }
    const double prior_mean = prior[2 * batch_of(batch, i)];
    const double prior_variance = prior[2 * batch_of(batch, i) + 1];
    const double mean = l_head[2 * i];
    const double variance = exp(l_head[2 * i + 1]) + AV_VARIANCE_FLOOR;
    l[i] = mean + sqrt(variance) * l_noise(latent, cell);
    losses[AV_LOSS_KL_L] +=
        0.5 * (log(prior_variance / variance) - 1.0 +
               (variance + (mean - prior_mean) * (mean - prior_mean)) / prior_variance);
  }
}

void ref_latent_grad(av_backend *be, const av_batch *batch, const av_latent *latent,
                     const av_real *z_head_, const av_real *l_head_, const av_sum *prior_,
                     const av_real *z_, const av_real *dz_, const av_real *dl_, av_real *dz_head_,
                     av_real *dl_head_) {
  (void)be;
  const int64_t n_latent = latent->n_latent;
  const double *z_head = const_doubles(z_head_);
  const double *l_head = const_doubles(l_head_);
  const double *prior = const_doubles(prior_);
  const double *z = const_doubles(z_);
  const double *dz = const_doubles(dz_);
  const double *dl = const_doubles(dl_);
  double *dz_head = doubles(dz_head_);
  double *dl_head = doubles(dl_head_);
  for (int64_t i = 0; i < batch->n; ++i) {
    const int64_t cell = cell_of(batch, i);
    for (int64_t k = 0; k < n_latent; ++k) {
      const int64_t at = i * 2 * n_latent + k;
      const double spread = exp(z_head[at + n_latent]);
      const double variance = spread + AV_VARIANCE_FLOOR;
      const double d = draw_grad(latent, z + i * latent->stride, dz + i * latent->stride, k);
      const double dvariance = d * z_noise(latent, cell, k) / (2.0 * sqrt(variance)) +
                               latent->kl_weight * 0.5 * (1.0 - 1.0 / variance);
      dz_head[at] = d + latent->kl_weight * z_head[at];
      dz_head[at + n_latent] = dvariance * spread;
    }
    if (!latent->latent_library) {
      continue;
    }
    const double prior_mean = prior[2 * batch_of(batch, i)];
    const double prior_variance = prior[2 * batch_of(batch, i) + 1];
    const double spread = exp(l_head[2 * i + 1]);
    const double variance = spread + AV_VARIANCE_FLOOR;
    const double dvariance = dl[i] * l_noise(latent, cell) / (2.0 * sqrt(variance)) +
                             0.5 * (1.0 / prior_variance - 1.0 / variance);
    dl_head[2 * i] = dl[i] + (l_head[2 * i] - prior_mean) / prior_variance;
    dl_head[2 * i + 1] = dvariance * spread;
  }
}

void ref_simplex_means(av_backend *be, const av_batch *batch, int64_t n_latent, uint64_t seed,
                       int64_t n_samples, const av_real *z_head_, av_sum *codes) {
  const double *z_head = const_doubles(z_head_);
  double *space = scratch(be, 3 * n_latent, "draws of a cell");
  double *variance = space + 2 * n_latent;
  for (int64_t i = 0; i < batch->n; ++i) {
    const double *mean = z_head + i * 2 * n_latent;
    for (int64_t k = 0; k < n_latent; ++k) {
      variance[k] = exp(mean[n_latent + k]) + AV_VARIANCE_FLOOR;
    }
    const av_simplex cell = {.n_latent = n_latent,
                             .mean = mean,
                             .variance = variance,
                             .seed = seed,
                             .cell = cell_of(batch, i),
                             .n_samples = n_samples};
    av_simplex_mean(&cell, space, doubles(codes) + i * n_latent);
  }
  free(space);
}
