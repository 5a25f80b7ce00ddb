/* Products with the covariance of u = [z, one-hot] for AV_FOLD genes at a time, in double
 * (../fold.c). Bound: (k + 2 present) k + present + 2 pairs multiply-adds a gene. */
#include "backend/cpu/kernels/kernels.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE void add_scaled(double factor, const double *restrict x, double *restrict y) {
#pragma omp simd
  for (int j = 0; j < AV_FOLD; ++j) {
    y[j] += factor * x[j];
  }
}

/* cw (k + present) = C w; zz (k, k), zs (present, k) and share (present) as in ../fold.c. */
void AV_KERNEL(fold_covariance)(int64_t k, int64_t present, const double *zz, const double *zs,
                                const double *share, const double *w, double *cw) {
  const double *ws = w + k * AV_FOLD;
  double *cs = cw + k * AV_FOLD;
  double across[AV_FOLD] = {0}; /* sum of f_s w_s */
  memset(cw, 0, (size_t)((k + present) * AV_FOLD) * sizeof *cw);
  for (int64_t s = 0; s < present; ++s) {
    add_scaled(share[s], ws + s * AV_FOLD, across);
  }
  for (int64_t a = 0; a < k; ++a) {
    for (int64_t b = 0; b < k; ++b) {
      add_scaled(zz[a * k + b], w + b * AV_FOLD, cw + a * AV_FOLD);
    }
    for (int64_t s = 0; s < present; ++s) {
      add_scaled(zs[s * k + a], ws + s * AV_FOLD, cw + a * AV_FOLD);
      add_scaled(zs[s * k + a], w + a * AV_FOLD, cs + s * AV_FOLD);
    }
  }
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

/* out (rows, width) += left w^T: sums over the AV_FOLD genes. */
void AV_KERNEL(fold_products)(int64_t rows, int64_t width, const double *left, const double *w,
                              double *out) {
  for (int64_t a = 0; a < rows; ++a) {
    const double *restrict x = __builtin_assume_aligned(left + a * AV_FOLD, 64);
    for (int64_t d = 0; d < width; ++d) {
      const double *restrict y = __builtin_assume_aligned(w + d * AV_FOLD, 64);
      double sum = 0.0;
#pragma omp simd reduction(+ : sum)
      for (int j = 0; j < AV_FOLD; ++j) {
        sum += x[j] * y[j];
      }
      out[a * width + d] += sum;
    }
  }
}
