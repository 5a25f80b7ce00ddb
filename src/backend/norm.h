/* Constants and scalar formulas of BatchNorm, shared by the backends and by what exports a model.
 * Ioffe and Szegedy 2015; eps and momentum as scvi-tools sets them.
 */
#ifndef AV_BACKEND_NORM_H
#define AV_BACKEND_NORM_H

#include "math/host_device.h"

#include <stdint.h>

#define AV_NORM_EPS 1e-3
#define AV_NORM_MOMENTUM 0.01
#define AV_LAYER_NORM_EPS 1e-5 /* as torch's LayerNorm has it */

/* Mean and biased variance of column j from sums and sums of squares (2, n) over n_cells. */
static inline AV_HOST_DEVICE void av_batch_moments(const double *moments, int64_t n, int64_t j,
                                                   int64_t n_cells, double *mean,
                                                   double *variance) {
  const double average = moments[j] / (double)n_cells;
  const double spread = moments[n + j] / (double)n_cells - average * average;
  *mean = average;
  *variance = spread < 0.0 ? 0.0 : spread; /* rounding; a NaN stays one */
}

/* The variance that running statistics move towards. */
static inline AV_HOST_DEVICE double av_unbiased(double variance, int64_t n_cells) {
  return n_cells > 1 ? variance * (double)n_cells / (double)(n_cells - 1) : variance;
}

#endif
