/* q(z) and q(l): draws, KL terms, gradients (model.md sections 1 and 3), a cell at a time in
 * double. Bound: exp, log, square root and a quarter of a Philox block for each latent dimension.
 */
#include "backend/latent.h"

#include "backend/cpu/state.h"
#include "backend/cpu/strict.h"
#include "backend/draws.h"
#include "math/numerics.h"

#include <math.h>
#include <omp.h>

/* The standard normals of four latent dimensions of a cell, from k (a multiple of 4) on. */
static void noise4(const av_latent *latent, int64_t cell, uint32_t index, double out[4]) {
  if (!latent->sample) {
    out[0] = out[1] = out[2] = out[3] = 0.0;
    return;
  }
  uint32_t words[4];
  av_random4(words, latent->draw.seed, latent->draw.purpose, (uint64_t)cell, latent->draw.epoch,
             index);
  av_normals4(words, out);
}

/* Standard normal of a cell's library. */
static double library_noise(const av_latent *latent, int64_t cell) {
  double noise[4];
  noise4(latent, cell, AV_INDEX_LIBRARY, noise);
  return noise[0];
}

/* Draw of one cell; returns KL(z). draw (K) is working space. */
static double draw_z(const av_latent *latent, int64_t cell, const float *head, double *draw,
                     float *z) {
  const int64_t n_latent = latent->n_latent;
  double noise[AV_NORMALS_PER_CALL];
  double kl = 0.0;
  for (int64_t k = 0; k < n_latent; ++k) {
    if (k % AV_NORMALS_PER_CALL == 0) {
      noise4(latent, cell, (uint32_t)(k / AV_NORMALS_PER_CALL), noise);
    }
    const double mean = (double)head[k];
    const double variance = exp((double)head[n_latent + k]) + AV_VARIANCE_FLOOR;
    draw[k] = mean + sqrt(variance) * noise[k % AV_NORMALS_PER_CALL];
    z[k] = (float)draw[k];
    kl += 0.5 * (variance + mean * mean - 1.0 - log(variance));
  }
  if (latent->simplex) {
    av_softmax(n_latent, draw);
    for (int64_t k = 0; k < n_latent; ++k) {
      z[k] = (float)draw[k];
    }
  }
  return kl;
}

/* The same of log library; prior: mean, variance. */
static double draw_l(const av_latent *latent, int64_t cell, const float *head, const double *prior,
                     float *l) {
  const double mean = (double)head[0];
  const double variance = exp((double)head[1]) + AV_VARIANCE_FLOOR;
  const double off = mean - prior[0];
  *l = (float)(mean + sqrt(variance) * library_noise(latent, cell));
  return 0.5 * (log(prior[1] / variance) - 1.0 + (variance + off * off) / prior[1]);
}

void av_cpu_latent_draw(av_backend *be, const av_batch *batch, const av_latent *latent,
                        const av_real *z_head_, const av_real *l_head_, const av_sum *prior_,
                        av_real *z_, av_real *l_, av_sum *losses_) {
  const int64_t n_latent = latent->n_latent;
  const float *z_head = av_const_floats(z_head_);
  const float *l_head = av_const_floats(l_head_);
  const double *prior = av_const_doubles(prior_);
  float *z = av_floats(z_);
  float *l = av_floats(l_);
  const int64_t continuous = latent->stride - n_latent;
  double *kl = av_scratch(be, AV_SLOT_LOSS, 2 * batch->n, sizeof *kl);
  double *draws = av_scratch(be, AV_SLOT_ROWS, be->threads * n_latent, sizeof *draws);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < batch->n; ++i) {
    const int64_t cell = batch->cell[i];
    float *row = z + i * latent->stride;
    kl[2 * i] = draw_z(latent, cell, z_head + i * 2 * n_latent,
                       draws + omp_get_thread_num() * n_latent, row);
    for (int64_t c = 0; c < continuous; ++c) {
      row[n_latent + c] = batch->continuous[i * continuous + c];
    }
    kl[2 * i + 1] = 0.0;
    if (latent->latent_library) {
      kl[2 * i + 1] = draw_l(latent, cell, l_head + 2 * i, prior + 2 * batch->code[i], l + i);
    } else {
      l[i] = (float)batch->log_size[i];
    }
  }
  double *losses = av_doubles(losses_);
  for (int64_t i = 0; i < batch->n; ++i) {
    losses[AV_LOSS_KL_Z] += be->strict ? av_strict_loss(kl[2 * i]) : kl[2 * i];
    losses[AV_LOSS_KL_L] += be->strict ? av_strict_loss(kl[2 * i + 1]) : kl[2 * i + 1];
  }
}

/* dz through the softmax whose result is z (K): component k is z_k (dz_k - across). */
static double simplex_across(int64_t n, const float *z, const float *dz) {
  double across = 0.0;
  for (int64_t k = 0; k < n; ++k) {
    across += (double)z[k] * (double)dz[k];
  }
  return across;
}

static void grad_z(const av_latent *latent, int64_t cell, const float *head, const float *z,
                   const float *dz, float *dhead) {
  const int64_t n_latent = latent->n_latent;
  const double across = latent->simplex ? simplex_across(n_latent, z, dz) : 0.0;
  double noise[AV_NORMALS_PER_CALL];
  for (int64_t k = 0; k < n_latent; ++k) {
    if (k % AV_NORMALS_PER_CALL == 0) {
      noise4(latent, cell, (uint32_t)(k / AV_NORMALS_PER_CALL), noise);
    }
    const double d = latent->simplex ? (double)z[k] * ((double)dz[k] - across) : (double)dz[k];
    const double spread = exp((double)head[n_latent + k]);
    const double variance = spread + AV_VARIANCE_FLOOR;
    const double dvariance = d * noise[k % AV_NORMALS_PER_CALL] / (2.0 * sqrt(variance)) +
                             latent->kl_weight * 0.5 * (1.0 - 1.0 / variance);
    dhead[k] = (float)(d + latent->kl_weight * (double)head[k]);
    dhead[n_latent + k] = (float)(dvariance * spread);
  }
}

static void grad_l(const av_latent *latent, int64_t cell, const float *head, const double *prior,
                   float dl, float *dhead) {
  const double d = (double)dl;
  const double spread = exp((double)head[1]);
  const double variance = spread + AV_VARIANCE_FLOOR;
  const double dvariance = d * library_noise(latent, cell) / (2.0 * sqrt(variance)) +
                           0.5 * (1.0 / prior[1] - 1.0 / variance);
  dhead[0] = (float)(d + ((double)head[0] - prior[0]) / prior[1]);
  dhead[1] = (float)(dvariance * spread);
}

void av_cpu_latent_grad(av_backend *be, const av_batch *batch, const av_latent *latent,
                        const av_real *z_head_, const av_real *l_head_, const av_sum *prior_,
                        const av_real *z_, const av_real *dz_, const av_real *dl_,
                        av_real *dz_head_, av_real *dl_head_) {
  const int64_t n_latent = latent->n_latent;
  const float *z_head = av_const_floats(z_head_);
  const float *l_head = av_const_floats(l_head_);
  const double *prior = av_const_doubles(prior_);
  const float *z = av_const_floats(z_);
  const float *dz = av_const_floats(dz_);
  const float *dl = av_const_floats(dl_);
  float *dz_head = av_floats(dz_head_);
  float *dl_head = av_floats(dl_head_);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < batch->n; ++i) {
    const int64_t cell = batch->cell[i];
    grad_z(latent, cell, z_head + i * 2 * n_latent, z + i * latent->stride, dz + i * latent->stride,
           dz_head + i * 2 * n_latent);
    if (latent->latent_library) {
      grad_l(latent, cell, l_head + 2 * i, prior + 2 * batch->code[i], dl[i], dl_head + 2 * i);
    }
  }
}
