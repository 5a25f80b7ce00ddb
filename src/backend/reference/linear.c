/* First layer over sparse counts, and dense layers; both with covariates. */
#include "backend/reference/state.h"

#include <math.h>

static double transformed(bool log1p_input, float value) {
  return log1p_input ? log1p((double)value) : (double)value;
}

/* y (n) += [continuous, one-hot] of cell i times w (C + O, n). */
static void add_covariates(const av_batch *batch, int64_t i, int64_t n, const double *w,
                           double *y) {
  const int64_t n_continuous = batch->dataset->design.n_continuous;
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t c = 0; c < n_continuous; ++c) {
      y[j] += continuous_of(batch, i, c) * w[c * n + j];
    }
    for (int64_t f = 0; f < n_factors(batch); ++f) {
      y[j] += w[(n_continuous + column_of(batch, i, f)) * n + j];
    }
  }
}

/* dw (C + O, n) += [continuous, one-hot] of cell i times dy (n). */
static void add_covariates_grad(const av_batch *batch, int64_t i, int64_t n, const double *dy,
                                double *dw) {
  const int64_t n_continuous = batch->dataset->design.n_continuous;
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t c = 0; c < n_continuous; ++c) {
      dw[c * n + j] += continuous_of(batch, i, c) * dy[j];
    }
    for (int64_t f = 0; f < n_factors(batch); ++f) {
      dw[(n_continuous + column_of(batch, i, f)) * n + j] += dy[j];
    }
  }
}

void ref_sparse_linear(av_backend *be, const av_batch *batch, bool log1p_input, bool covariates,
                       int64_t n, const av_real *w_, const av_real *bias_, av_real *y_) {
  (void)be;
  const double *w = const_doubles(w_);
  const double *bias = const_doubles(bias_);
  double *y = doubles(y_);
  for (int64_t i = 0; i < batch->n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      y[i * n + j] = bias[j];
    }
    const int64_t length = expand_row(batch, i);
    for (int64_t e = 0; e < length; ++e) {
      const double x = transformed(log1p_input, batch->value[e]);
      const double *row = w + batch->gene[e] * n;
      for (int64_t j = 0; j < n; ++j) {
        y[i * n + j] += x * row[j];
      }
    }
    if (covariates) {
      add_covariates(batch, i, n, w + batch->dataset->n_genes * n, y + i * n);
    }
  }
}

void ref_sparse_linear_grad(av_backend *be, const av_batch *batch, bool log1p_input,
                            bool covariates, int64_t n, const av_real *dy_, av_grad *dw_,
                            av_grad *dbias_) {
  (void)be;
  const double *dy = const_doubles(dy_);
  double *dw = doubles(dw_);
  double *dbias = doubles(dbias_);
  for (int64_t i = 0; i < batch->n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      dbias[j] += dy[i * n + j];
    }
    const int64_t length = expand_row(batch, i);
    for (int64_t e = 0; e < length; ++e) {
      const double x = transformed(log1p_input, batch->value[e]);
      double *row = dw + batch->gene[e] * n;
      for (int64_t j = 0; j < n; ++j) {
        row[j] += x * dy[i * n + j];
      }
    }
    if (covariates) {
      add_covariates_grad(batch, i, n, dy + i * n, dw + batch->dataset->n_genes * n);
    }
  }
}

bool ref_sparse_linear_step(av_backend *be, const av_batch *batch, bool log1p_input,
                            bool covariates, int64_t n, const av_real *dy, const av_adam *adam,
                            av_real *w, av_real *m, av_real *v, av_grad *dw, av_grad *dbias) {
  (void)be, (void)batch, (void)log1p_input, (void)covariates, (void)n, (void)dy, (void)adam;
  (void)w, (void)m, (void)v, (void)dw, (void)dbias;
  return false; /* nothing is gained: the two operations apart are the reference */
}

void ref_linear(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot, int64_t n,
                const av_real *x_, int64_t x_stride, const av_real *w_, const av_real *bias_,
                av_real *y_) {
  (void)be;
  const double *x = const_doubles(x_);
  const double *w = const_doubles(w_);
  const double *bias = const_doubles(bias_);
  double *y = doubles(y_);
  for (int64_t i = 0; i < batch->n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias == NULL ? 0.0 : bias[j];
      for (int64_t k = 0; k < m; ++k) {
        sum += x[i * x_stride + k] * w[k * n + j];
      }
      for (int64_t f = 0; n_onehot > 0 && f < n_factors(batch); ++f) {
        sum += w[(m + column_of(batch, i, f)) * n + j];
      }
      y[i * n + j] = sum;
    }
  }
}

void ref_linear_grad(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot, int64_t n,
                     const av_real *x_, int64_t x_stride, const av_real *w_, const av_real *dy_,
                     av_real *dx_, int64_t dx_stride, av_grad *dw_, av_grad *dbias_) {
  (void)be;
  const double *x = const_doubles(x_);
  const double *w = const_doubles(w_);
  const double *dy = const_doubles(dy_);
  double *dx = doubles(dx_);
  double *dw = doubles(dw_);
  double *dbias = doubles(dbias_);
  for (int64_t i = 0; i < batch->n; ++i) {
    for (int64_t k = 0; k < m; ++k) {
      double sum = 0.0;
      for (int64_t j = 0; j < n; ++j) {
        sum += dy[i * n + j] * w[k * n + j];
        dw[k * n + j] += x[i * x_stride + k] * dy[i * n + j];
      }
      if (dx != NULL) {
        dx[i * dx_stride + k] = sum;
      }
    }
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t f = 0; n_onehot > 0 && f < n_factors(batch); ++f) {
        dw[(m + column_of(batch, i, f)) * n + j] += dy[i * n + j];
      }
      if (dbias != NULL) {
        dbias[j] += dy[i * n + j];
      }
    }
  }
}
