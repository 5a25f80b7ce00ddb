/* Products with the covariance of u = [z, one-hot] for AV_FOLD genes at a time, in double
 * (../fold.c). Bound: (k + 2 present) k + present + 2 pairs multiply-adds a gene. */
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/vector.h"
#include "backend/norm.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE void add_scaled(double factor, const double *restrict x, double *restrict y) {
#pragma omp simd
  for (int j = 0; j < AV_FOLD; ++j) {
    y[j] += factor * x[j];
  }
}

/* out (rows) = m w, or += : rows of m (rows, n; strides), four at a time, 2 vectors of genes. */
INLINE void combine(int64_t rows, int64_t n, const double *m, int64_t row_stride, int64_t stride,
                    const double *w, bool add, double *out) {
  for (int64_t a = 0; a < rows; a += 4) {
    const int64_t more[4] = {a, a + 1 < rows ? a + 1 : a, a + 2 < rows ? a + 2 : a,
                             a + 3 < rows ? a + 3 : a};
    for (int64_t j = 0; j < AV_FOLD; j += 2 * AV_DOUBLES) {
      av_dvec sum[4][2];
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        const double *from = out + more[q] * AV_FOLD + j;
        sum[q][0] = add ? av_dvec_load(from) : (av_dvec){0};
        sum[q][1] = add ? av_dvec_load(from + AV_DOUBLES) : (av_dvec){0};
      }
      for (int64_t b = 0; b < n; ++b) {
        const av_dvec w0 = av_dvec_load(w + b * AV_FOLD + j);
        const av_dvec w1 = av_dvec_load(w + b * AV_FOLD + j + AV_DOUBLES);
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          const double factor = m[more[q] * row_stride + b * stride];
          sum[q][0] += factor * w0;
          sum[q][1] += factor * w1;
        }
      }
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) { /* a row that stands in for a missing one: the same again */
        av_dvec_store(out + more[q] * AV_FOLD + j, sum[q][0]);
        av_dvec_store(out + more[q] * AV_FOLD + j + AV_DOUBLES, sum[q][1]);
      }
    }
  }
}

/* cw (k + present) = C w; zz (k, k), zs (present, k) and share (present) as in ../fold.c. */
void AV_KERNEL(fold_covariance)(int64_t k, int64_t present, const double *zz, const double *zs,
                                const double *share, const double *w, double *cw) {
  const double *ws = w + k * AV_FOLD;
  double *cs = cw + k * AV_FOLD;
  double across[AV_FOLD] = {0}; /* sum of f_s w_s */
  for (int64_t s = 0; s < present; ++s) {
    add_scaled(share[s], ws + s * AV_FOLD, across);
  }
  combine(k, k, zz, k, 1, w, false, cw);
  combine(k, present, zs, 1, k, ws, true, cw);
  combine(present, k, zs, k, 1, w, false, cs);
  for (int64_t s = 0; s < present; ++s) {
    add_scaled(share[s], ws + s * AV_FOLD, cs + s * AV_FOLD);
    add_scaled(-share[s], across, cs + s * AV_FOLD);
  }
}

/* cs (present) += J ws (present), J symmetric with the entries share[i] at (left[i], right[i]) and
 * (right[i], left[i]). */
void AV_KERNEL(fold_pairs)(int64_t n, const int32_t *left, const int32_t *right,
                           const double *share, const double *ws, double *cs) {
  for (int64_t i = 0; i < n; ++i) {
    add_scaled(share[i], ws + right[i] * AV_FOLD, cs + left[i] * AV_FOLD);
    add_scaled(share[i], ws + left[i] * AV_FOLD, cs + right[i] * AV_FOLD);
  }
}

/* mean = sum_d mean_u[d] w[d], variance = sum_d w[d] cw[d] for each gene. */
void AV_KERNEL(fold_moments)(int64_t width, const double *mean_u, const double *w, const double *cw,
                             double *restrict mean, double *restrict variance) {
  memset(mean, 0, AV_FOLD * sizeof *mean);
  memset(variance, 0, AV_FOLD * sizeof *variance);
  for (int64_t d = 0; d < width; ++d) {
    add_scaled(mean_u[d], w + d * AV_FOLD, mean);
#pragma omp simd
    for (int j = 0; j < AV_FOLD; ++j) {
      variance[j] += w[d * AV_FOLD + j] * cw[d * AV_FOLD + j];
    }
  }
}

/* lanes (rows, width, AV_FOLD_LANES) += left w^T: sums over the AV_FOLD genes, gene j in lane j %
 * AV_FOLD_LANES. */
void AV_KERNEL(fold_products)(int64_t rows, int64_t width, const double *left, const double *w,
                              double *lanes) {
  enum { PARTS = AV_FOLD_LANES / AV_DOUBLES };
  for (int64_t a = 0; a < rows; ++a) {
    for (int64_t d = 0; d < width; ++d) {
      double *out = lanes + (a * width + d) * AV_FOLD_LANES;
      av_dvec sum[PARTS];
#pragma GCC unroll 4
      for (int q = 0; q < PARTS; ++q) {
        sum[q] = av_dvec_load(out + q * AV_DOUBLES);
      }
#pragma GCC unroll 8
      for (int j = 0; j < AV_FOLD; j += AV_FOLD_LANES) {
#pragma GCC unroll 4
        for (int q = 0; q < PARTS; ++q) {
          sum[q] += av_dvec_load(left + a * AV_FOLD + j + q * AV_DOUBLES) *
                    av_dvec_load(w + d * AV_FOLD + j + q * AV_DOUBLES);
        }
      }
#pragma GCC unroll 4
      for (int q = 0; q < PARTS; ++q) {
        av_dvec_store(out + q * AV_DOUBLES, sum[q]);
      }
    }
  }
}

/* out (AV_FOLD) = the n <= AV_FOLD numbers, then zeros. */
void AV_KERNEL(fold_take)(int64_t n, const float *restrict from, double *restrict out) {
  if (n == AV_FOLD) {
#pragma omp simd
    for (int j = 0; j < AV_FOLD; ++j) {
      out[j] = (double)from[j];
    }
    return;
  }
  for (int64_t j = 0; j < AV_FOLD; ++j) {
    out[j] = j < n ? (double)from[j] : 0.0;
  }
}

/* to (n) += x. */
void AV_KERNEL(fold_add)(int64_t n, const double *restrict x, float *restrict to) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    to[j] += (float)x[j];
  }
}

/* factor = gamma / sigma, shift = beta - factor mean, inv_sigma of n <= AV_FOLD genes. */
void AV_KERNEL(fold_factors)(int64_t n, const double *restrict mean,
                             const double *restrict variance, const float *restrict gamma,
                             const float *restrict beta, float *restrict factor,
                             float *restrict shift, float *restrict inv_sigma) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const double inverse = 1.0 / __builtin_sqrt(variance[j] + AV_NORM_EPS);
    const double scaled = (double)gamma[j] * inverse;
    factor[j] = (float)scaled;
    shift[j] = (float)((double)beta[j] - scaled * mean[j]);
    inv_sigma[j] = (float)inverse;
  }
}

/* From p (width, AV_FOLD), s, gamma and inv_sigma (AV_FOLD): p becomes the gradient on w; dgamma
 * (AV_FOLD), and weight = gamma dgamma / (sigma^2 n_cells), for the sums over genes. */
void AV_KERNEL(fold_gradients)(int64_t width, int64_t n_cells, const double *mean_u,
                               const double *restrict w, const double *restrict cw,
                               const double *restrict s, const double *restrict gamma,
                               const double *restrict inv_sigma, double *restrict p,
                               double *restrict dgamma, double *restrict weight) {
  double scaled[AV_FOLD];
  double curve[AV_FOLD];
  const double share = 1.0 / (double)n_cells;
  memset(dgamma, 0, AV_FOLD * sizeof *dgamma);
  for (int64_t d = 0; d < width; ++d) {
    const double mean = mean_u[d];
#pragma omp simd
    for (int j = 0; j < AV_FOLD; ++j) {
      p[d * AV_FOLD + j] -= mean * s[j];
      dgamma[j] += w[d * AV_FOLD + j] * p[d * AV_FOLD + j];
    }
  }
#pragma omp simd
  for (int j = 0; j < AV_FOLD; ++j) {
    dgamma[j] *= inv_sigma[j];
    scaled[j] = gamma[j] * inv_sigma[j];
    curve[j] = dgamma[j] * inv_sigma[j];
    weight[j] = scaled[j] * curve[j] * share;
  }
  for (int64_t d = 0; d < width; ++d) {
#pragma omp simd
    for (int j = 0; j < AV_FOLD; ++j) {
      p[d * AV_FOLD + j] = scaled[j] * (p[d * AV_FOLD + j] - curve[j] * cw[d * AV_FOLD + j]);
    }
  }
}

/* out (k, AV_FOLD) = weight w. */
void AV_KERNEL(fold_weigh)(int64_t k, const double *restrict weight, const double *restrict w,
                           double *restrict out) {
  for (int64_t a = 0; a < k; ++a) {
#pragma omp simd
    for (int j = 0; j < AV_FOLD; ++j) {
      out[a * AV_FOLD + j] = weight[j] * w[a * AV_FOLD + j];
    }
  }
}
