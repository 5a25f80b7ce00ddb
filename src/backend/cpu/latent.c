/* q(z) and q(l): draws, KL terms, gradients (model.md sections 1 and 3). Threads share the cells;
 * kernels/latent.c does the rest. */
#include "backend/latent.h"

#include "backend/cpu/state.h"
#include "backend/cpu/strict.h"
#include "backend/simplex.h"
#include "math/numerics.h"

static av_latent_plan plan_of(const av_latent *latent) {
  return (av_latent_plan){.n_latent = latent->n_latent,
                          .stride = latent->stride,
                          .sample = latent->sample,
                          .simplex = latent->simplex,
                          .kl_weight = (float)latent->kl_weight,
                          .key = latent->draw.seed + ((uint64_t)latent->draw.purpose << 54),
                          .epoch = latent->draw.epoch};
}

/* The draw z (K) of a cell becomes its softmax; space (K). */
static void to_simplex(int64_t n, float *z, double *space) {
  for (int64_t k = 0; k < n; ++k) {
    space[k] = (double)z[k];
  }
  av_softmax(n, space);
  for (int64_t k = 0; k < n; ++k) {
    z[k] = (float)space[k];
  }
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
  const av_kernels *kernels = av_kernels_of(be);
  const av_latent_plan plan = plan_of(latent);
  double *kl = av_scratch(be, AV_SLOT_LOSS, 2 * batch->n, sizeof *kl);
  double *spaces = av_scratch(be, AV_SLOT_ROWS, be->threads * n_latent, sizeof *spaces);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(batch->n, AV_ROW_BLOCK, part, be->threads, &begin, &end);
    kernels->latent_draw(&plan, end - begin, batch->cell + begin, z_head + begin * 2 * n_latent,
                         z + begin * latent->stride, kl + 2 * begin);
    if (latent->latent_library) {
      kernels->library_draw(&plan, end - begin, batch->cell + begin, batch->code + begin,
                            l_head + 2 * begin, prior, l + begin, kl + 2 * begin);
    }
    for (int64_t i = begin; i < end; ++i) {
      float *row = z + i * latent->stride;
      if (latent->simplex) {
        to_simplex(n_latent, row, spaces + part * n_latent);
      }
      for (int64_t c = 0; c < continuous; ++c) {
        row[n_latent + c] = batch->continuous[i * continuous + c];
      }
      if (!latent->latent_library) {
        l[i] = (float)batch->log_size[i];
        kl[2 * i + 1] = 0.0;
      }
    }
  }
  double *losses = av_doubles(losses_);
  for (int64_t i = 0; i < batch->n; ++i) {
    losses[AV_LOSS_KL_Z] += be->strict ? av_strict_loss(kl[2 * i]) : kl[2 * i];
    losses[AV_LOSS_KL_L] += be->strict ? av_strict_loss(kl[2 * i + 1]) : kl[2 * i + 1];
  }
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
  const av_kernels *kernels = av_kernels_of(be);
  const av_latent_plan plan = plan_of(latent);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(batch->n, AV_ROW_BLOCK, part, be->threads, &begin, &end);
    kernels->latent_grad(&plan, end - begin, batch->cell + begin, z_head + begin * 2 * n_latent,
                         z + begin * latent->stride, dz + begin * latent->stride,
                         dz_head + begin * 2 * n_latent);
    if (latent->latent_library) {
      kernels->library_grad(&plan, end - begin, batch->cell + begin, batch->code + begin,
                            l_head + 2 * begin, prior, dl + begin, dl_head + 2 * begin);
    }
  }
}

/* code (K) of row i; space (4 K) */
static void code_of_row(const av_batch *batch, int64_t i, int64_t n_latent, uint64_t seed,
                        int64_t n_samples, const float *z_head, double *space, double *code) {
  double *mean = space;
  double *variance = space + n_latent;
  for (int64_t k = 0; k < n_latent; ++k) {
    mean[k] = (double)z_head[k];
    variance[k] = exp((double)z_head[n_latent + k]) + AV_VARIANCE_FLOOR;
  }
  const av_simplex cell = {.n_latent = n_latent,
                           .mean = mean,
                           .variance = variance,
                           .seed = seed,
                           .cell = batch->cell[i],
                           .n_samples = n_samples};
  av_simplex_mean(&cell, space + 2 * n_latent, code);
}

void av_cpu_simplex_means(av_backend *be, const av_batch *batch, int64_t n_latent, uint64_t seed,
                          int64_t n_samples, const av_real *z_head_, av_sum *codes_) {
  const float *z_head = av_const_floats(z_head_);
  double *codes = av_doubles(codes_);
  double *spaces = av_scratch(be, AV_SLOT_ROWS, be->threads * 4 * n_latent, sizeof *spaces);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    for (int64_t i = batch->n * part / be->threads; i < batch->n * (part + 1) / be->threads; ++i) {
      code_of_row(batch, i, n_latent, seed, n_samples, z_head + i * 2 * n_latent,
                  spaces + part * 4 * n_latent, codes + i * n_latent);
    }
  }
}
