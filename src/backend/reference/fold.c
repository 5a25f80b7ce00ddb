/* The linear decoder's BatchNorm, folded into its weights (model.md section 5).
 *
 * Logits before BatchNorm are linear in u = [z, one-hot], so the moments of every gene follow from
 * the mean m (D) and covariance C (D, D) of u. Built here as dense arrays, plainly.
 */
#include "backend/norm.h"
#include "backend/reference/state.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

typedef struct moments_of_u {
  int64_t width;      /* D */
  double *mean;       /* (D) */
  double *covariance; /* (D, D) */
} moments_of_u;

static moments_of_u u_create(const av_backend *be, const av_fold *fold, const double *stats) {
  const int64_t k = fold->n_in;
  const int64_t width = k + fold->n_onehot;
  const int64_t batches = fold->n_onehot > 0 ? fold->n_onehot : 1;
  const double *cells = stats;                 /* (S) */
  const double *sums = stats + batches;        /* (S, K) */
  const double *products = sums + batches * k; /* (K, K) */
  const double n = (double)fold->n_cells;
  moments_of_u u = {.width = width,
                    .mean = av_calloc((size_t)width, sizeof(double)),
                    .covariance = av_calloc((size_t)(width * width), sizeof(double))};
  if (u.mean == NULL || u.covariance == NULL) {
    av_comm_abort(be->comm, av_fail(AV_NOMEM, "out of memory (covariance of the decoder's input)"));
  }
  for (int64_t a = 0; a < k; ++a) {
    for (int64_t s = 0; s < batches; ++s) {
      u.mean[a] += sums[s * k + a] / n;
    }
    for (int64_t b = 0; b < k; ++b) {
      u.covariance[a * width + b] = products[a * k + b] / n;
    }
    for (int64_t s = 0; s < fold->n_onehot; ++s) {
      u.covariance[a * width + k + s] = sums[s * k + a] / n;
      u.covariance[(k + s) * width + a] = sums[s * k + a] / n;
    }
  }
  for (int64_t s = 0; s < fold->n_onehot; ++s) {
    u.mean[k + s] = cells[s] / n;
    u.covariance[(k + s) * width + k + s] = cells[s] / n;
  }
  for (int64_t a = 0; a < width; ++a) {
    for (int64_t b = 0; b < width; ++b) {
      u.covariance[a * width + b] -= u.mean[a] * u.mean[b];
    }
  }
  return u;
}

static void u_free(moments_of_u *u) {
  free(u->mean);
  free(u->covariance);
}

void ref_fold_sums(av_backend *be, const av_batch *batch, int64_t n_in, int64_t n_onehot,
                   const av_real *z_, av_sum *stats_) {
  (void)be;
  const double *z = const_doubles(z_);
  const int64_t batches = n_onehot > 0 ? n_onehot : 1;
  double *cells = doubles(stats_);
  double *sums = cells + batches;
  double *products = sums + batches * n_in;
  for (int64_t i = 0; i < batches * (1 + n_in) + n_in * n_in; ++i) {
    cells[i] = 0.0;
  }
  for (int64_t i = 0; i < batch->n; ++i) {
    const int64_t s = n_onehot > 0 ? batch_of(batch, i) : 0;
    cells[s] += 1.0;
    for (int64_t a = 0; a < n_in; ++a) {
      sums[s * n_in + a] += z[i * n_in + a];
      for (int64_t b = 0; b < n_in; ++b) {
        products[a * n_in + b] += z[i * n_in + a] * z[i * n_in + b];
      }
    }
  }
}

void ref_fold(av_backend *be, const av_fold *fold, const av_sum *stats) {
  const int64_t genes = fold->n_genes;
  const int64_t width = fold->n_in + fold->n_onehot;
  const double *w = const_doubles(fold->w);
  const double *gamma = const_doubles(fold->gamma);
  const double *beta = const_doubles(fold->beta);
  double *running = doubles(fold->running);
  double *a = doubles(fold->a);
  moments_of_u u = {0};
  if (fold->training) {
    u = u_create(be, fold, const_doubles(stats));
  }
  for (int64_t g = 0; g < genes; ++g) {
    double mean = running[g];
    double variance = running[genes + g];
    if (fold->training) {
      mean = 0.0;
      variance = 0.0;
      for (int64_t d = 0; d < width; ++d) {
        mean += w[d * genes + g] * u.mean[d];
        for (int64_t e = 0; e < width; ++e) {
          variance += w[d * genes + g] * u.covariance[d * width + e] * w[e * genes + g];
        }
      }
      variance = variance < 0.0 ? 0.0 : variance;
      running[g] += AV_NORM_MOMENTUM * (mean - running[g]);
      running[genes + g] +=
          AV_NORM_MOMENTUM * (av_unbiased(variance, fold->n_cells) - running[genes + g]);
    }
    const double inv_sigma = 1.0 / sqrt(variance + AV_NORM_EPS);
    for (int64_t d = 0; d < width; ++d) {
      a[d * genes + g] = gamma[g] * inv_sigma * w[d * genes + g];
    }
    doubles(fold->c)[g] = beta[g] - gamma[g] * inv_sigma * mean;
    doubles(fold->inv_sigma)[g] = inv_sigma;
  }
  u_free(&u);
}

void ref_fold_grad(av_backend *be, const av_fold *fold, const av_sum *stats, const av_grad *p_,
                   const av_grad *s_, av_grad *dw_, av_grad *dgamma, av_grad *dbeta,
                   av_sum *back_) {
  const int64_t genes = fold->n_genes;
  const int64_t k = fold->n_in;
  const double *w = const_doubles(fold->w);
  const double *gamma = const_doubles(fold->gamma);
  const double *a = const_doubles(fold->a);
  const double *p = const_doubles(p_);
  const double *s = const_doubles(s_);
  double *dw = doubles(dw_);
  double *back = doubles(back_);
  moments_of_u u = u_create(be, fold, const_doubles(stats));
  const int64_t width = u.width;
  for (int64_t g = 0; g < genes; ++g) {
    const double inv_sigma = const_doubles(fold->inv_sigma)[g];
    double along = 0.0; /* w_g . P_g, P_g centred */
    for (int64_t d = 0; d < width; ++d) {
      along += w[d * genes + g] * (p[d * genes + g] - u.mean[d] * s[g]);
    }
    const double dgamma_g = along * inv_sigma;
    doubles(dgamma)[g] += dgamma_g;
    doubles(dbeta)[g] += s[g];
    for (int64_t d = 0; d < width; ++d) {
      double cw = 0.0;
      for (int64_t e = 0; e < width; ++e) {
        cw += u.covariance[d * width + e] * w[e * genes + g];
      }
      dw[d * genes + g] +=
          gamma[g] * inv_sigma * (p[d * genes + g] - u.mean[d] * s[g] - dgamma_g * inv_sigma * cw);
    }
    const double weight = gamma[g] * dgamma_g * inv_sigma * inv_sigma / (double)fold->n_cells;
    for (int64_t i = 0; i < k; ++i) {
      back[i] += a[i * genes + g] * s[g];
      for (int64_t d = 0; d < width; ++d) {
        back[k + i * width + d] += weight * w[i * genes + g] * w[d * genes + g];
      }
    }
  }
  u_free(&u);
}

void ref_fold_correct(av_backend *be, const av_batch *batch, const av_fold *fold,
                      const av_sum *stats, const av_sum *back_, const av_real *z_, av_real *dz_) {
  const int64_t k = fold->n_in;
  const double *z = const_doubles(z_);
  const double *back = const_doubles(back_);
  double *dz = doubles(dz_);
  moments_of_u u = u_create(be, fold, const_doubles(stats));
  for (int64_t i = 0; i < batch->n; ++i) {
    for (int64_t a = 0; a < k; ++a) {
      double correction = back[a] / (double)fold->n_cells;
      for (int64_t d = 0; d < u.width; ++d) {
        const double value = d < k ? z[i * k + d] : (double)(batch_of(batch, i) == d - k);
        correction += back[k + a * u.width + d] * (value - u.mean[d]);
      }
      dz[i * k + a] -= correction;
    }
  }
  u_free(&u);
}
