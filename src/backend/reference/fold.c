/* The linear decoder's BatchNorm, folded into its weights (model.md section 5).
 *
 * Logits before BatchNorm are linear in u = [x, one-hot], x the latent code and the continuous
 * covariates, so the moments of every gene follow from the mean m (D) and covariance C (D, D) of u.
 * Built here as dense arrays, plainly.
 */
#include "backend/norm.h"
#include "backend/reference/state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct moments_of_u {
  int64_t width;      /* D */
  double *mean;       /* (D) */
  double *covariance; /* (D, D) */
} moments_of_u;

/* The parts of stats, as av_fold_stats_size lists them; k dense columns. */
typedef struct fold_stats {
  const double *cells;    /* (max(O, 1)) */
  const double *sums;     /* (max(O, 1), k) */
  const double *products; /* (k, k) */
  const double *pairs; /* cells in both categories, for factors (0, 1), (0, 2), ..., (1, 2), ... */
} fold_stats;

static fold_stats parts_of(const double *stats, int64_t k, int64_t n_onehot) {
  const int64_t columns = n_onehot > 0 ? n_onehot : 1;
  return (fold_stats){.cells = stats,
                      .sums = stats + columns,
                      .products = stats + columns * (1 + k),
                      .pairs = stats + columns * (1 + k) + k * k};
}

/* Categories of factor f. */
static int64_t levels_of(const av_design *design, int64_t f) {
  return design->first[f + 1] - design->first[f];
}

/* The one-hot block of the covariance, before the product of the means is taken off: within a
 * factor a cell has one category alone. */
static void fill_onehot(const av_fold *fold, const fold_stats *from, moments_of_u *u) {
  const av_design *design = fold->design;
  const int64_t k = fold->n_in;
  const double n = (double)fold->n_cells;
  const double *pair = from->pairs;
  for (int64_t s = 0; s < fold->n_onehot; ++s) {
    u->mean[k + s] = from->cells[s] / n;
    u->covariance[(k + s) * u->width + k + s] = from->cells[s] / n;
    for (int64_t a = 0; a < k; ++a) {
      u->covariance[a * u->width + k + s] = from->sums[s * k + a] / n;
      u->covariance[(k + s) * u->width + a] = from->sums[s * k + a] / n;
    }
  }
  for (int64_t f = 0; fold->n_onehot > 0 && f < design->n_factors; ++f) {
    for (int64_t e = f + 1; e < design->n_factors; ++e) {
      for (int64_t s = design->first[f]; s < design->first[f + 1]; ++s) {
        for (int64_t t = design->first[e]; t < design->first[e + 1]; ++t) {
          u->covariance[(k + s) * u->width + k + t] = *pair / n;
          u->covariance[(k + t) * u->width + k + s] = *pair / n;
          ++pair;
        }
      }
    }
  }
}

static moments_of_u u_create(const av_backend *be, const av_fold *fold, const av_sum *stats) {
  const int64_t k = fold->n_in;
  const int64_t width = k + fold->n_onehot;
  const fold_stats from = parts_of(const_doubles(stats), k, fold->n_onehot);
  /* every cell is in one column of the first factor */
  const int64_t first_levels = fold->n_onehot > 0 ? levels_of(fold->design, 0) : 1;
  const double n = (double)fold->n_cells;
  moments_of_u u = {.width = width,
                    .mean = scratch(be, width, "mean of the decoder's input"),
                    .covariance = scratch(be, width * width, "covariance of the decoder's input")};
  for (int64_t a = 0; a < k; ++a) {
    for (int64_t s = 0; s < first_levels; ++s) {
      u.mean[a] += from.sums[s * k + a] / n;
    }
    for (int64_t b = 0; b < k; ++b) {
      u.covariance[a * width + b] = from.products[a * k + b] / n;
    }
  }
  fill_onehot(fold, &from, &u);
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
                   const av_real *x_, av_sum *stats_) {
  (void)be;
  const av_design *design = &batch->dataset->design;
  const double *x = const_doubles(x_);
  const int64_t factors = n_onehot > 0 ? design->n_factors : 0;
  const int64_t columns = n_onehot > 0 ? n_onehot : 1;
  double *cells = doubles(stats_);
  double *sums = cells + columns;
  double *products = sums + columns * n_in;
  double *pairs = products + n_in * n_in;
  int64_t n_pairs = 0;
  for (int64_t f = 0; f < factors; ++f) {
    for (int64_t e = f + 1; e < factors; ++e) {
      n_pairs += levels_of(design, f) * levels_of(design, e);
    }
  }
  memset(cells, 0, (size_t)(columns * (1 + n_in) + n_in * n_in + n_pairs) * sizeof *cells);
  for (int64_t i = 0; i < batch->n; ++i) {
    const double *xi = x + i * n_in;
    for (int64_t f = 0; f == 0 || f < factors; ++f) {
      const int64_t s = factors > 0 ? column_of(batch, i, f) : 0;
      cells[s] += 1.0;
      for (int64_t a = 0; a < n_in; ++a) {
        sums[s * n_in + a] += xi[a];
      }
    }
    for (int64_t a = 0; a < n_in; ++a) {
      for (int64_t b = 0; b < n_in; ++b) {
        products[a * n_in + b] += xi[a] * xi[b];
      }
    }
    double *pair = pairs;
    for (int64_t f = 0; f < factors; ++f) {
      for (int64_t e = f + 1; e < factors; ++e) {
        const int64_t s = column_of(batch, i, f) - design->first[f];
        const int64_t t = column_of(batch, i, e) - design->first[e];
        pair[s * levels_of(design, e) + t] += 1.0;
        pair += levels_of(design, f) * levels_of(design, e);
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
    u = u_create(be, fold, stats);
  }
  for (int64_t g = 0; g < genes; ++g) {
    const double bias = fold->bias == NULL ? 0.0 : const_doubles(fold->bias)[g];
    double mean = running[g] - bias; /* of [x, one-hot] w alone */
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
      running[g] += AV_NORM_MOMENTUM * (mean + bias - running[g]);
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
  memset(back, 0, (size_t)(k + k * (k + fold->n_onehot)) * sizeof *back);
  moments_of_u u = u_create(be, fold, stats);
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
                      const av_sum *stats, const av_sum *back_, const av_real *x_, av_real *dx_) {
  const int64_t k = fold->n_in;
  const double *x = const_doubles(x_);
  const double *back = const_doubles(back_);
  double *dx = doubles(dx_);
  moments_of_u u = u_create(be, fold, stats);
  double *centred = scratch(be, u.width, "the decoder's input");
  for (int64_t i = 0; i < batch->n; ++i) {
    for (int64_t d = 0; d < u.width; ++d) {
      centred[d] = (d < k ? x[i * k + d] : 0.0) - u.mean[d];
    }
    for (int64_t f = 0; fold->n_onehot > 0 && f < n_factors(batch); ++f) {
      centred[k + column_of(batch, i, f)] += 1.0;
    }
    for (int64_t a = 0; a < k; ++a) {
      double correction = back[a] / (double)fold->n_cells;
      for (int64_t d = 0; d < u.width; ++d) {
        correction += back[k + a * u.width + d] * centred[d];
      }
      dx[i * k + a] -= correction;
    }
  }
  free(centred);
  u_free(&u);
}
