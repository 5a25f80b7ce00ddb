/* BatchNorm over the global minibatch, LayerNorm, ReLU and dropout: rows are shared out over
 * threads, sums over cells run down slices of columns in double, so that they do not depend on the
 * number of threads. */
#include "backend/norm.h"

#include "backend/cpu/state.h"
#include "backend/cpu/strict.h"
#include "backend/draws.h"

#include <math.h>
#include <omp.h>
#include <string.h>

void av_cpu_moments(av_backend *be, const av_batch *batch, int64_t n, const av_real *x_,
                    av_sum *moments_) {
  const av_kernels *kernels = av_kernels_of(be);
  const float *x = av_const_floats(x_);
  double *sum = av_doubles(moments_);
  double *squares = sum + n;
  double *magic = NULL;
  if (be->strict) {
    float *top = av_scratch(be, AV_SLOT_TOP, n, sizeof *top);
    magic = av_scratch(be, AV_SLOT_MAGIC, 2 * n, sizeof *magic);
    av_strict_tops(be, batch->n, n, x, n, top);
    av_strict_maxima(be, top, n);
    const int bits = av_strict_sum_bits(av_strict_cells(be, batch->n));
    for (int64_t j = 0; j < n; ++j) {
      magic[j] = av_strict_magic((double)top[j], bits);
      magic[n + j] = av_strict_magic((double)top[j] * (double)top[j], bits);
    }
  }
  memset(sum, 0, (size_t)(2 * n) * sizeof *sum);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(n, 16, part, be->threads, &begin, &end);
    for (int64_t i = 0; i < batch->n && begin < end && be->strict; ++i) {
      const float *row = x + i * n + begin;
      kernels->add_row_exact(end - begin, row, magic + begin, sum + begin);
      kernels->add_squares_exact(end - begin, row, magic + n + begin, squares + begin);
    }
    if (begin < end && !be->strict) {
      kernels->moments(batch->n, end - begin, n, x + begin, sum + begin, squares + begin);
    }
  }
}

/* Mean and 1/sigma of every column as floats, from the moments of the minibatch when training (and
 * always where no running statistics are given, as on the way back), else from running ones. */
static av_norm_columns prepare(av_backend *be, const av_norm *norm, const double *moments,
                               const float *running, const float *gamma, const float *beta) {
  const av_kernels *kernels = av_kernels_of(be);
  const int64_t n = norm->n;
  float *space = av_scratch(be, AV_SLOT_COLUMNS, 2 * n, sizeof *space);
  if (norm->training || running == NULL) {
    kernels->columns_of_moments(n, moments, norm->n_cells, space, space + n);
  } else {
    kernels->columns_of_running(n, running, space, space + n);
  }
  return (av_norm_columns){.mean = space, .inv_sigma = space + n, .gamma = gamma, .beta = beta};
}

static bool drops(const av_norm *norm) { return norm->training && norm->dropout > 0.0; }

static av_dropout_plan dropout_plan(const av_norm *norm) {
  return (av_dropout_plan){.drops = drops(norm),
                           .threshold = av_dropout_threshold(norm->dropout),
                           .scale = (float)av_dropout_scale(norm->dropout),
                           .seed = norm->draw.seed,
                           .epoch = norm->draw.epoch,
                           .layer = norm->layer};
}

/* v (n) of a cell: what LayerNorm, ReLU and dropout work on. columns: NULL without BatchNorm. */
static void value_row(const av_kernels *kernels, const av_norm *norm,
                      const av_norm_columns *columns, const float *x, float *v) {
  const av_dropout_plan none = {.drops = false};
  if (norm->batch_norm) {
    kernels->norm_row(norm->n, columns, false, &none, 0, x, v);
  } else {
    memcpy(v, x, (size_t)norm->n * sizeof *v);
  }
}

void av_cpu_norm_act(av_backend *be, const av_batch *batch, const av_norm *norm, const av_real *x_,
                     const av_sum *moments, const av_real *gamma, const av_real *beta,
                     av_real *running, av_real *y_) {
  const av_kernels *kernels = av_kernels_of(be);
  const int64_t width = norm->layer_norm ? norm->n / norm->blocks : norm->n;
  const float *x = av_const_floats(x_);
  float *y = av_floats(y_);
  av_norm_columns columns = {0};
  if (norm->batch_norm) {
    columns = prepare(be, norm, av_const_doubles(moments), av_const_floats(running),
                      av_const_floats(gamma), av_const_floats(beta));
  }
  if (norm->batch_norm && norm->training) {
    kernels->move_running(norm->n, av_const_doubles(moments), norm->n_cells, av_floats(running));
  }
  const av_dropout_plan dropout = dropout_plan(norm);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < batch->n; ++i) {
    const float *from = x + i * norm->n;
    float *to = y + i * norm->n;
    if (norm->batch_norm && !norm->layer_norm) {
      kernels->norm_row(norm->n, &columns, norm->relu, &dropout, batch->cell[i], from, to);
      continue;
    }
    value_row(kernels, norm, &columns, from, to);
    for (int64_t b = 0; norm->layer_norm && b < norm->blocks; ++b) {
      kernels->layer_norm_row(width, to + b * width);
    }
    kernels->act_row(norm->n, norm->relu, &dropout, batch->cell[i], to, to);
  }
}

/* Factor of dy: that of kept units. */
static float kept_scale(const av_norm *norm) {
  return drops(norm) ? (float)av_dropout_scale(norm->dropout) : 1.0f;
}

void av_cpu_layer_norm_grad(av_backend *be, const av_batch *batch, const av_norm *norm,
                            const av_real *x_, const av_sum *moments, const av_real *gamma,
                            const av_real *beta, const av_real *y_, av_real *d_) {
  const av_kernels *kernels = av_kernels_of(be);
  const int64_t n = norm->n;
  const int64_t width = n / norm->blocks;
  const float *x = av_const_floats(x_);
  const float *y = av_const_floats(y_);
  float *d = av_floats(d_);
  av_norm_columns columns = {0};
  if (norm->batch_norm) {
    columns = prepare(be, norm, av_const_doubles(moments), NULL, av_const_floats(gamma),
                      av_const_floats(beta));
  }
  const float scale = kept_scale(norm);
  float *rows = av_scratch(be, AV_SLOT_ROWS, be->threads * n, sizeof *rows);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < batch->n; ++i) {
    float *xhat = rows + omp_get_thread_num() * n;
    float *row = d + i * n;
    value_row(kernels, norm, &columns, x + i * n, xhat);
    kernels->act_grad_row(n, norm->relu, scale, y + i * n, row, row);
    for (int64_t b = 0; b < norm->blocks; ++b) {
      const float inv_sigma = kernels->layer_norm_row(width, xhat + b * width);
      kernels->layer_norm_grad_row(width, inv_sigma, xhat + b * width, row + b * width);
    }
  }
}

/* Order-free sums: the terms of all cells as rows (d, then d xhat), their largest, their rounded
 * sums. */
static void sums_strict(av_backend *be, const av_batch *batch, const av_norm *norm,
                        const av_norm_columns *columns, const float *x, const float *y,
                        const float *dy, double *sum) {
  const av_kernels *kernels = av_kernels_of(be);
  const int64_t n = norm->n;
  const float scale = kept_scale(norm);
  float *terms = av_scratch(be, AV_SLOT_ROWS, batch->n * 2 * n, sizeof *terms);
  float *top = av_scratch(be, AV_SLOT_TOP, 2 * n, sizeof *top);
  double *magic = av_scratch(be, AV_SLOT_MAGIC, 2 * n, sizeof *magic);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < batch->n; ++i) {
    float *row = terms + i * 2 * n;
    kernels->norm_terms_row(n, columns, norm->relu, scale, x + i * n, y + i * n, dy + i * n, row,
                            row + n);
  }
  av_strict_tops(be, batch->n, 2 * n, terms, 2 * n, top);
  av_strict_maxima(be, top, 2 * n);
  av_strict_magics(2 * n, top, av_strict_sum_bits(av_strict_cells(be, batch->n)), magic);
  av_strict_add_columns(be, batch->n, 2 * n, terms, 2 * n, magic, NULL, sum);
}

static void sums_plain(av_backend *be, const av_batch *batch, const av_norm *norm,
                       const av_norm_columns *columns, const float *x, const float *y,
                       const float *dy, double *sum) {
  const av_kernels *kernels = av_kernels_of(be);
  const int64_t n = norm->n;
  const float scale = kept_scale(norm);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(n, 16, part, be->threads, &begin, &end);
    const av_norm_columns slice = {.mean = columns->mean + begin,
                                   .inv_sigma = columns->inv_sigma + begin};
    if (begin < end) {
      kernels->norm_sums(batch->n, end - begin, n, &slice, norm->relu, scale, x + begin, y + begin,
                         dy + begin, sum + begin, sum + n + begin);
    }
  }
}

void av_cpu_norm_act_sums(av_backend *be, const av_batch *batch, const av_norm *norm,
                          const av_real *x, const av_sum *moments, const av_real *gamma,
                          const av_real *y, const av_real *dy, av_sum *back, av_grad *dgamma,
                          av_grad *dbeta) {
  const int64_t n = norm->n;
  const av_norm_columns columns =
      prepare(be, norm, av_const_doubles(moments), NULL, av_const_floats(gamma), NULL);
  double *sum = av_doubles(back);
  memset(sum, 0, (size_t)(2 * n) * sizeof *sum);
  if (be->strict) {
    sums_strict(be, batch, norm, &columns, av_const_floats(x), av_const_floats(y),
                av_const_floats(dy), sum);
  } else {
    sums_plain(be, batch, norm, &columns, av_const_floats(x), av_const_floats(y),
               av_const_floats(dy), sum);
  }
  for (int64_t j = 0; j < n; ++j) {
    if (be->strict) {
      av_doubles(dbeta)[j] += sum[j];
      av_doubles(dgamma)[j] += sum[n + j];
    } else {
      av_floats(dbeta)[j] += (float)sum[j];
      av_floats(dgamma)[j] += (float)sum[n + j];
    }
  }
}

void av_cpu_norm_act_grad(av_backend *be, const av_batch *batch, const av_norm *norm,
                          const av_real *x_, const av_sum *moments, const av_real *gamma,
                          const av_real *y_, const av_real *dy_, const av_sum *back_,
                          av_real *dx_) {
  const av_kernels *kernels = av_kernels_of(be);
  const int64_t n = norm->n;
  const float *x = av_const_floats(x_);
  const float *y = av_const_floats(y_);
  const float *dy = av_const_floats(dy_);
  const double *back = av_const_doubles(back_);
  float *dx = av_floats(dx_);
  const float scale = kept_scale(norm);
  if (!norm->batch_norm) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t i = 0; i < batch->n; ++i) {
      kernels->act_grad_row(n, norm->relu, scale, y + i * n, dy + i * n, dx + i * n);
    }
    return;
  }
  const av_norm_columns columns =
      prepare(be, norm, av_const_doubles(moments), NULL, av_const_floats(gamma), NULL);
  float *c = av_scratch(be, AV_SLOT_ROWS, 2 * n, sizeof *c);
  for (int64_t j = 0; j < 2 * n; ++j) {
    c[j] = (float)(back[j] / (double)norm->n_cells);
  }
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < batch->n; ++i) {
    const int64_t at = i * n;
    kernels->norm_grad_row(n, &columns, norm->relu, scale, c, c + n, x + at, y + at, dy + at,
                           dx + at);
  }
}
