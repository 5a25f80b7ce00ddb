/* Moments of u = [x, one-hot], and what a gene's column of w makes of them: for the fold and for
 * its gradient. Device code only, but for the launcher. */
#ifndef AV_GPU_KERNELS_FOLD_MOMENTS_H
#define AV_GPU_KERNELS_FOLD_MOMENTS_H

#include "kernels/fold_parts.h"

/* Leaves the moments in `work`, of the categories present alone, for folds that are wide
 * (fold_moments.cu). */
void av_gpu_fold_prepare(cudaStream_t stream, const av_gpu_fold_shape *shape, const double *stats,
                         const av_gpu_step *step, const av_gpu_fold_work *work);

struct moments {
  int width;            /* rows: k of x, then categories */
  int64_t stride;       /* of rows of cross */
  double *mean;         /* (width); of a category: its share f of the cells */
  double *cross;        /* (k, width) covariance of x with all */
  const int32_t *code;  /* (width) rows of w; NULL: all */
  const int32_t *range; /* (n_factors + 1) where factors' rows begin; NULL: as in shape.first */
};

static __device__ __forceinline__ int row_of(const moments &u, int d) {
  return u.code == NULL ? d : u.code[d];
}

static __device__ __forceinline__ int range_of(const av_gpu_fold_shape &shape, const moments &u,
                                               int f) {
  return u.range == NULL ? shape.n_in + shape.first[f] : u.range[f];
}

/* By a block; its threads then wait before they read. */
static __device__ inline void fill_mean(const av_gpu_fold_shape &shape, const double *stats,
                                        double n, const moments &u) {
  const stats_parts<const double> from = parts_of(shape, stats);
  const int k = shape.n_in;
  const int levels = first_levels(shape);
  for (int a = warp_of(); a < k; a += (int)blockDim.x / AV_WARP) {
    double sum = 0.0;
    for (int s = lane_of(); s < levels; s += AV_WARP) {
      sum += from.sums[(int64_t)s * k + a];
    }
    sum = av_warp_sum(sum);
    if (lane_of() == 0) {
      u.mean[a] = sum / n;
    }
  }
  for (int d = k + thread_of(); d < u.width; d += (int)blockDim.x) {
    u.mean[d] = from.cells[row_of(u, d) - k] / n;
  }
}

static __device__ inline void fill_cross(const av_gpu_fold_shape &shape, const double *stats,
                                         double n, const moments &u) {
  const stats_parts<const double> from = parts_of(shape, stats);
  const int k = shape.n_in;
  for (int i = thread_of(); i < k * u.width; i += (int)blockDim.x) {
    const int a = i / u.width;
    const int d = i % u.width;
    const double sum =
        d < k ? from.products[(int64_t)a * k + d] : from.sums[(int64_t)(row_of(u, d) - k) * k + a];
    u.cross[a * u.stride + d] = sum / n - u.mean[a] * u.mean[d];
  }
}

/* Of all rows, in shared memory (D (k + 1) doubles). */
static __device__ inline moments moments_here(const av_gpu_fold_shape &shape, const double *stats,
                                              double n, double *shared) {
  moments u;
  u.width = width_of(shape);
  u.stride = u.width;
  u.mean = shared;
  u.cross = shared + u.width;
  u.code = NULL;
  u.range = NULL;
  fill_mean(shape, stats, n, u);
  __syncthreads();
  fill_cross(shape, stats, n, u);
  __syncthreads();
  return u;
}

/* Those that av_gpu_fold_prepare has left. */
static __device__ inline moments moments_there(const av_gpu_fold_shape &shape,
                                               const av_gpu_fold_work &work) {
  moments u;
  u.width = *work.width;
  u.stride = width_of(shape);
  u.mean = work.mean;
  u.cross = work.cross;
  u.code = work.code;
  u.range = work.range;
  return u;
}

/* --- a gene's part -------------------------------------------------------------------------- */

/* A gene's column of w. */
struct weights {
  const float *at;
  int64_t stride;
};

static __device__ __forceinline__ double weight_of(const moments &u, const weights &w, int d) {
  return (double)w.at[row_of(u, d) * w.stride];
}

/* Rows of w of the block's genes in shared memory (D, 32), for its threads to wait for. */
static __device__ inline weights stage_weights(const av_gpu_fold_shape &shape, const float *w,
                                               int64_t g, float *tile) {
  weights made;
  made.at = tile + lane_of();
  made.stride = AV_WARP;
  for (int d = warp_of(); d < width_of(shape); d += WARPS) {
    tile[d * AV_WARP + lane_of()] = w[d * shape.n_genes + g];
  }
  return made;
}

/* Sum of row[d] w_d for d in from .. to - 1; four at a time, so that they overlap. */
static __device__ inline double row_sum(const moments &u, const double *row, const weights &w,
                                        int from, int to) {
  double sum[4] = {};
  int d = from;
  for (; d + 4 <= to; d += 4) {
    for (int q = 0; q < 4; ++q) {
      sum[q] += row[d + q] * weight_of(u, w, d + q);
    }
  }
  for (; d < to; ++d) {
    sum[0] += row[d] * weight_of(u, w, d);
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Sum of J_st w_t, J_st being the share of cells with both category s, of row d, and category t of
 * another factor. */
static __device__ inline double pair_sum(const av_gpu_fold_shape &shape, const double *pairs,
                                         double n, const moments &u, const weights &w, int d) {
  const int k = shape.n_in;
  const int s = row_of(u, d) - k;
  const int f = factor_of(shape, s);
  double sum = 0.0;
  for (int e = 0; e < shape.n_factors; ++e) {
    if (e == f) {
      continue;
    }
    const int end = range_of(shape, u, e + 1);
    for (int other = range_of(shape, u, e); other < end; ++other) {
      const int t = row_of(u, other) - k;
      const double cells = pairs[f < e ? pair_at(shape, f, e, s, t) : pair_at(shape, e, f, t, s)];
      if (cells > 0.0) {
        sum += cells * weight_of(u, w, other);
      }
    }
  }
  return sum / n;
}

/* Sums over the warps of a block, lane by lane: part (WARPS, 32), written before a barrier. */
static __device__ __forceinline__ double over_warps(double (*part)[AV_WARP]) {
  double sum = 0.0;
  for (int v = 0; v < WARPS; ++v) {
    sum += part[v][lane_of()];
  }
  return sum;
}

/* Dynamic shared memory of a block of genes. */
static inline size_t shared_of(const av_gpu_fold_shape *shape) {
  return av_gpu_fold_is_wide(shape) ? 0 : (size_t)av_gpu_fold_shared(shape);
}

#endif
