/* a, c and inv_sigma, from stats or from the running statistics. */
#include "kernels/fold_moments.h"

#include "backend/norm.h"

#include <math.h>

enum { ROWS = 8 }; /* of w that a thread scales if wide */

/* Mean and variance of a lane's gene before BatchNorm, without the bias. By a block, whose warps
 * take rows of w in turn. */
static __device__ void gene_moments(const av_gpu_fold_shape &shape, const double *stats, double n,
                                    const moments &u, const weights &w, double *mean,
                                    double *variance) {
  __shared__ double part[3][WARPS][AV_WARP];
  const double *pairs = parts_of(shape, stats).pairs;
  const int k = shape.n_in;
  double first = 0.0;  /* sum of mean_d w_d */
  double share = 0.0;  /* of it, of the categories */
  double square = 0.0; /* w^T C w, but for the products of shares */
  for (int d = warp_of(); d < u.width; d += WARPS) {
    const double wd = weight_of(u, w, d);
    first += u.mean[d] * wd;
    if (d < k) {
      const double *row = u.cross + d * u.stride;
      square += wd * (row_sum(u, row, w, 0, k) + 2.0 * row_sum(u, row, w, k, u.width));
    } else {
      const double pair = shape.n_factors > 1 ? pair_sum(shape, pairs, n, u, w, d) : 0.0;
      share += u.mean[d] * wd;
      square += wd * (u.mean[d] * wd + pair);
    }
  }
  part[0][warp_of()][lane_of()] = first;
  part[1][warp_of()][lane_of()] = share;
  part[2][warp_of()][lane_of()] = square;
  __syncthreads();
  const double across = over_warps(part[1]);
  const double found = over_warps(part[2]) - across * across;
  *mean = over_warps(part[0]);
  *variance = found < 0.0 ? 0.0 : found; /* rounding; a NaN stays one */
}

static __device__ __forceinline__ void move(float *running, double target) {
  *running += (float)(AV_NORM_MOMENTUM * (target - (double)*running));
}

/* A block for 32 genes. step NULL: from running. Rows of a are written unless wide. */
static __global__ void fold_genes(av_gpu_fold_shape shape, av_gpu_fold_arrays fold,
                                  const double *stats, const av_gpu_step *step,
                                  av_gpu_fold_work work, bool wide) {
  AV_SHARED_ARRAY(double, shared);
  const int width = width_of(shape);
  const int64_t genes = shape.n_genes;
  const int64_t gene = (int64_t)blockIdx.x * AV_WARP + lane_of();
  const bool there = gene < genes;
  const int64_t g = there ? gene : genes - 1;
  const double bias = fold.bias == NULL ? 0.0 : (double)fold.bias[g];
  weights w = {fold.w + g, genes};
  double mean = 0.0;
  double variance = 0.0;
  if (step != NULL) {
    const double n = (double)step->n_cells;
    moments u;
    if (wide) {
      u = moments_there(shape, work);
    } else {
      w = stage_weights(shape, fold.w, g, (float *)(shared + width * (shape.n_in + 1)));
      u = moments_here(shape, stats, n, shared);
    }
    gene_moments(shape, stats, n, u, w, &mean, &variance);
  } else {
    mean = (double)fold.running[g] - bias;
    variance = (double)fold.running[genes + g];
  }
  const double inverse = 1.0 / sqrt(variance + AV_NORM_EPS);
  const double scaled = (double)fold.gamma[g] * inverse;
  if (there && warp_of() == 0) {
    if (step != NULL) {
      move(fold.running + g, mean + bias);
      move(fold.running + genes + g, av_unbiased(variance, step->n_cells));
    }
    fold.c[g] = (float)((double)fold.beta[g] - scaled * mean);
    fold.inv_sigma[g] = (float)inverse;
  }
  for (int d = warp_of(); there && !wide && d < width; d += WARPS) {
    fold.a[d * genes + g] = (float)(scaled * (double)w.at[d * w.stride]);
  }
}

/* Wide: a (D, G), a thread for ROWS rows of a gene. */
static __global__ void scale_rows(av_gpu_fold_shape shape, av_gpu_fold_arrays fold) {
  const int64_t g = (int64_t)blockIdx.y * THREADS + thread_of();
  const int first = (int)blockIdx.x * ROWS; /* x: categories may be millions */
  const int width = width_of(shape);
  if (g >= shape.n_genes) {
    return;
  }
  const float factor = fold.gamma[g] * fold.inv_sigma[g];
  float w[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    w[r] = fold.w[min(first + r, width - 1) * shape.n_genes + g];
  }
  for (int r = 0; r < ROWS; ++r) {
    if (first + r < width) {
      fold.a[(first + r) * shape.n_genes + g] = factor * w[r];
    }
  }
}

cudaError_t av_gpu_run_fold(cudaStream_t stream, const av_gpu_fold_shape *shape,
                            const av_gpu_fold_arrays *fold, const double *stats,
                            const av_gpu_step *step, const av_gpu_fold_work *work) {
  const bool wide = av_gpu_fold_is_wide(shape);
  if (wide && step != NULL) {
    av_gpu_fold_prepare(stream, shape, stats, step, work);
  }
  AV_LAUNCH(fold_genes, av_blocks(shape->n_genes, AV_WARP), THREADS,
            step == NULL ? 0 : shared_of(shape), stream, *shape, *fold, stats, step, *work, wide);
  if (wide) {
    const dim3 grid(av_blocks(shape->n_in + shape->n_onehot, ROWS),
                    av_blocks(shape->n_genes, THREADS));
    AV_LAUNCH(scale_rows, grid, THREADS, 0, stream, *shape, *fold);
  }
  return cudaGetLastError();
}
