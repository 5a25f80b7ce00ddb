/* BatchNorm over the global minibatch, LayerNorm, ReLU and dropout. */
#include "backend/draws.h"
#include "backend/norm.h"
#include "backend/reference/state.h"

#include <math.h>
#include <stdlib.h>

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

/* Moves the running mean and variance towards the minibatch's. */
static void move_running(const av_norm *norm, const double *moments, double *running) {
  const int64_t n = norm->n;
  for (int64_t j = 0; j < n; ++j) {
    double mean = 0.0;
    double variance = 0.0;
    av_batch_moments(moments, n, j, norm->n_cells, &mean, &variance);
    running[j] += AV_NORM_MOMENTUM * (mean - running[j]);
    running[n + j] += AV_NORM_MOMENTUM * (av_unbiased(variance, norm->n_cells) - running[n + j]);
  }
}

/* What BatchNorm makes of x, column j; x itself without BatchNorm. running: NULL in training. */
static double normalised(const av_norm *norm, const double *moments, const double *gamma,
                         const double *beta, const double *running, int64_t j, double x) {
  if (!norm->batch_norm) {
    return x;
  }
  double mean = 0.0;
  double variance = 0.0;
  if (running == NULL) {
    av_batch_moments(moments, norm->n, j, norm->n_cells, &mean, &variance);
  } else {
    mean = running[j];
    variance = running[norm->n + j];
  }
  return gamma[j] * (x - mean) / sqrt(variance + AV_NORM_EPS) + beta[j];
}

/* Mean and 1 / standard deviation of LayerNorm over v (n). */
static void layer_moments(int64_t n, const double *v, double *mean, double *inv_sigma) {
  double sum = 0.0;
  double squares = 0.0;
  for (int64_t j = 0; j < n; ++j) {
    sum += v[j];
  }
  *mean = sum / (double)n;
  for (int64_t j = 0; j < n; ++j) {
    squares += (v[j] - *mean) * (v[j] - *mean);
  }
  *inv_sigma = 1.0 / sqrt(squares / (double)n + AV_LAYER_NORM_EPS);
}

/* LayerNorm of each block of a cell's y (n), in place. */
static void layer_norm(const av_norm *norm, double *y) {
  const int64_t width = norm->n / norm->blocks;
  for (int64_t b = 0; b < norm->blocks; ++b) {
    double *block = y + b * width;
    double mean = 0.0;
    double inv_sigma = 0.0;
    layer_moments(width, block, &mean, &inv_sigma);
    for (int64_t j = 0; j < width; ++j) {
      block[j] = (block[j] - mean) * inv_sigma;
    }
  }
}

/* ReLU and dropout of unit j. */
static double activated(const av_norm *norm, int64_t cell, int64_t j, double value) {
  if (norm->relu && value <= 0.0) {
    value = 0.0; /* a NaN compares false and passes through */
  }
  if (norm->training && norm->dropout > 0.0) {
    uint32_t words[4];
    av_random4(words, norm->draw.seed, AV_DRAW_DROPOUT, (uint64_t)cell, norm->draw.epoch,
               av_dropout_index(norm->layer, j));
    value = av_dropout_drops(words, j, av_dropout_threshold(norm->dropout))
                ? 0.0
                : value * av_dropout_scale(norm->dropout);
  }
  return value;
}

void ref_norm_act(av_backend *be, const av_batch *batch, const av_norm *norm, const av_real *x_,
                  const av_sum *moments, const av_real *gamma, const av_real *beta,
                  av_real *running, av_real *y_) {
  (void)be;
  const int64_t n = norm->n;
  const double *x = const_doubles(x_);
  double *y = doubles(y_);
  if (norm->batch_norm && norm->training) {
    move_running(norm, const_doubles(moments), doubles(running));
  }
  for (int64_t i = 0; i < batch->n; ++i) {
    double *yi = y + i * n;
    for (int64_t j = 0; j < n; ++j) {
      yi[j] = normalised(norm, const_doubles(moments), const_doubles(gamma), const_doubles(beta),
                         norm->training ? NULL : const_doubles(running), j, x[i * n + j]);
    }
    if (norm->layer_norm) {
      layer_norm(norm, yi);
    }
    for (int64_t j = 0; j < n; ++j) {
      yi[j] = activated(norm, cell_of(batch, i), j, yi[j]);
    }
  }
}

/* Gradient on the value before ReLU: dy through dropout and ReLU. */
static double through_activation(const av_norm *norm, double y, double dy) {
  if (norm->relu && !(y > 0.0)) {
    return 0.0;
  }
  return norm->training && norm->dropout > 0.0 ? dy * av_dropout_scale(norm->dropout) : dy;
}

/* Gradient through u = (v - mean) inv_sigma over one block: from du in d to dv. */
static void layer_norm_block_grad(int64_t n, const double *u, double inv_sigma, double *d) {
  double sum = 0.0;
  double product = 0.0;
  for (int64_t j = 0; j < n; ++j) {
    sum += d[j];
    product += d[j] * u[j];
  }
  for (int64_t j = 0; j < n; ++j) {
    d[j] = inv_sigma * (d[j] - (sum + u[j] * product) / (double)n);
  }
}

void ref_layer_norm_grad(av_backend *be, const av_batch *batch, const av_norm *norm,
                         const av_real *x_, const av_sum *moments, const av_real *gamma,
                         const av_real *beta, const av_real *y_, av_real *d_) {
  const int64_t n = norm->n;
  const int64_t width = n / norm->blocks;
  const double *x = const_doubles(x_);
  const double *y = const_doubles(y_);
  double *d = doubles(d_);
  double *u = scratch(be, width, "LayerNorm");
  for (int64_t i = 0; i < batch->n; ++i) {
    for (int64_t first = 0; first < n; first += width) {
      double mean = 0.0;
      double inv_sigma = 0.0;
      for (int64_t j = 0; j < width; ++j) {
        const int64_t at = i * n + first + j;
        u[j] = normalised(norm, const_doubles(moments), const_doubles(gamma), const_doubles(beta),
                          NULL, first + j, x[at]);
        d[at] = through_activation(norm, y[at], d[at]);
      }
      layer_moments(width, u, &mean, &inv_sigma);
      for (int64_t j = 0; j < width; ++j) {
        u[j] = (u[j] - mean) * inv_sigma;
      }
      layer_norm_block_grad(width, u, inv_sigma, d + i * n + first);
    }
  }
  free(u);
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
                       const av_real *x_, const av_sum *moments, const av_real *gamma,
                       const av_real *y_, const av_real *dy_, const av_sum *back_, av_real *dx_) {
  (void)be;
  const int64_t n = norm->n;
  const double *x = const_doubles(x_);
  const double *y = const_doubles(y_);
  const double *dy = const_doubles(dy_);
  const double *back = const_doubles(back_);
  double *dx = doubles(dx_);
  const double cells = (double)norm->n_cells;
  for (int64_t j = 0; j < n; ++j) {
    double mean = 0.0;
    double variance = 0.0;
    if (norm->batch_norm) {
      av_batch_moments(const_doubles(moments), n, j, norm->n_cells, &mean, &variance);
    }
    const double inv_sigma = 1.0 / sqrt(variance + AV_NORM_EPS);
    for (int64_t i = 0; i < batch->n; ++i) {
      const double d = through_activation(norm, y[i * n + j], dy[i * n + j]);
      const double xhat = (x[i * n + j] - mean) * inv_sigma;
      dx[i * n + j] = !norm->batch_norm ? d
                                        : const_doubles(gamma)[j] * inv_sigma *
                                              (d - (back[j] + xhat * back[n + j]) / cells);
    }
  }
}
