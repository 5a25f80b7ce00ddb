/* BatchNorm over the global minibatch, ReLU and dropout. */
#include "backend/draws.h"
#include "backend/norm.h"
#include "backend/reference/state.h"

#include <math.h>

void ref_moments(av_backend *be, const av_batch *batch, int64_t n, const av_real *x_,
                 av_sum *moments_) {
  (void)be;
  const double *x = const_doubles(x_);
  double *moments = doubles(moments_);
  for (int64_t j = 0; j < n; ++j) {
    double sum = 0.0;
    double squares = 0.0;
    for (int64_t i = 0; i < batch->n; ++i) {
      sum += x[i * n + j];
      squares += x[i * n + j] * x[i * n + j];
    }
    moments[j] = sum;
    moments[n + j] = squares;
  }
}

void ref_norm_act(av_backend *be, const av_batch *batch, const av_norm *norm, const av_real *x_,
                  const av_sum *moments, const av_real *gamma_, const av_real *beta_,
                  av_real *running_, av_real *y_) {
  (void)be;
  const int64_t n = norm->n;
  const double *x = const_doubles(x_);
  const double *gamma = const_doubles(gamma_);
  const double *beta = const_doubles(beta_);
  double *running = doubles(running_);
  double *y = doubles(y_);
  const bool drops = norm->training && norm->dropout > 0.0;
  const uint32_t threshold = av_dropout_threshold(norm->dropout);
  const double scale = drops ? av_dropout_scale(norm->dropout) : 1.0;
  for (int64_t j = 0; j < n; ++j) {
    double mean = running[j];
    double variance = running[n + j];
    if (norm->training) {
      av_batch_moments(const_doubles(moments), n, j, norm->n_cells, &mean, &variance);
      running[j] += AV_NORM_MOMENTUM * (mean - running[j]);
      running[n + j] += AV_NORM_MOMENTUM * (av_unbiased(variance, norm->n_cells) - running[n + j]);
    }
    const double inv_sigma = 1.0 / sqrt(variance + AV_NORM_EPS);
    for (int64_t i = 0; i < batch->n; ++i) {
      double value = gamma[j] * (x[i * n + j] - mean) * inv_sigma + beta[j];
      if (norm->relu && value <= 0.0) {
        value = 0.0; /* a NaN compares false and passes through */
      }
      if (drops) {
        uint32_t words[4];
        av_random4(words, norm->draw.seed, AV_DRAW_DROPOUT, (uint64_t)cell_of(batch, i),
                   norm->draw.epoch, av_dropout_index(norm->layer, j));
        value = av_dropout_drops(words, j, threshold) ? 0.0 : value * scale;
      }
      y[i * n + j] = value;
    }
  }
}

/* Gradient on the normalised value: dy through dropout and ReLU. */
static double through_activation(const av_norm *norm, double y, double dy) {
  if (norm->relu && !(y > 0.0)) {
    return 0.0;
  }
  return norm->training && norm->dropout > 0.0 ? dy * av_dropout_scale(norm->dropout) : dy;
}

void ref_norm_act_sums(av_backend *be, const av_batch *batch, const av_norm *norm,
                       const av_real *x_, const av_sum *moments, const av_real *gamma,
                       const av_real *y_, const av_real *dy_, av_sum *back_, av_grad *dgamma_,
                       av_grad *dbeta_) {
  (void)be;
  (void)gamma;
  const int64_t n = norm->n;
  const double *x = const_doubles(x_);
  const double *y = const_doubles(y_);
  const double *dy = const_doubles(dy_);
  double *back = doubles(back_);
  for (int64_t j = 0; j < n; ++j) {
    double mean = 0.0;
    double variance = 0.0;
    av_batch_moments(const_doubles(moments), n, j, norm->n_cells, &mean, &variance);
    const double inv_sigma = 1.0 / sqrt(variance + AV_NORM_EPS);
    double sum = 0.0;
    double product = 0.0;
    for (int64_t i = 0; i < batch->n; ++i) {
      const double d = through_activation(norm, y[i * n + j], dy[i * n + j]);
      sum += d;
      product += d * (x[i * n + j] - mean) * inv_sigma;
    }
    back[j] = sum;
    back[n + j] = product;
    doubles(dbeta_)[j] += sum;
    doubles(dgamma_)[j] += product;
  }
}

void ref_norm_act_grad(av_backend *be, const av_batch *batch, const av_norm *norm,
                       const av_real *x_, const av_sum *moments, const av_real *gamma_,
                       const av_real *y_, const av_real *dy_, const av_sum *back_, av_real *dx_) {
  (void)be;
  const int64_t n = norm->n;
  const double *x = const_doubles(x_);
  const double *y = const_doubles(y_);
  const double *dy = const_doubles(dy_);
  const double *gamma = const_doubles(gamma_);
  const double *back = const_doubles(back_);
  double *dx = doubles(dx_);
  const double cells = (double)norm->n_cells;
  for (int64_t j = 0; j < n; ++j) {
    double mean = 0.0;
    double variance = 0.0;
    av_batch_moments(const_doubles(moments), n, j, norm->n_cells, &mean, &variance);
    const double inv_sigma = 1.0 / sqrt(variance + AV_NORM_EPS);
    for (int64_t i = 0; i < batch->n; ++i) {
      const double d = through_activation(norm, y[i * n + j], dy[i * n + j]);
      const double xhat = (x[i * n + j] - mean) * inv_sigma;
      dx[i * n + j] = gamma[j] * inv_sigma * (d - (back[j] + xhat * back[n + j]) / cells);
    }
  }
}
