/* The correction of the input's gradient. */
#include "kernels/fold_parts.h"

/* Terms number first, first + step, ... of Bg M_a. mean. */
static __device__ double common_terms(const av_gpu_fold_shape &shape, const double *stats,
                                      const double *back, int a, int first, int step) {
  const stats_parts<const double> from = parts_of(shape, stats);
  const int k = shape.n_in;
  const int dense = first_levels(shape) * k;
  const double *m = back + k + (int64_t)a * width_of(shape);
  double sum = 0.0;
  for (int i = first; i < dense + shape.n_onehot; i += step) {
    sum += i < dense ? m[i % k] * from.sums[i] : m[k + i - dense] * from.cells[i - dense];
  }
  return sum;
}

/* common (k) = (A_x s) / Bg - M mean; a block each. */
static __global__ void correct_common(av_gpu_fold_shape shape, const double *stats,
                                      const double *back, const av_gpu_step *step, double *common) {
  __shared__ double room[WARPS];
  const int a = (int)blockIdx.x;
  const double sum = av_block_sum(common_terms(shape, stats, back, a, thread_of(), THREADS), room);
  if (thread_of() == 0) {
    common[a] = (back[a] - sum) / (double)step->n_cells;
  }
}

/* A thread for each element of (B, k). common NULL: each block makes it. */
static __global__ void correct_cells(av_gpu_rows rows, av_gpu_fold_shape shape, const double *stats,
                                     const double *back, const av_gpu_step *step,
                                     const double *common, const float *x, float *dx) {
  AV_SHARED_ARRAY(double, same); /* (k) */
  const int k = shape.n_in;
  const int64_t elements = (int64_t)av_n_rows(rows) * k;
  const int64_t at = (int64_t)blockIdx.x * THREADS + thread_of();
  if (at - thread_of() >= elements) {
    return; /* the whole block */
  }
  for (int a = warp_of(); a < k; a += WARPS) {
    double value = 0.0;
    if (common == NULL) {
      const double sum = av_warp_sum(common_terms(shape, stats, back, a, lane_of(), AV_WARP));
      value = (back[a] - sum) / (double)step->n_cells;
    } else {
      value = common[a];
    }
    if (lane_of() == 0) {
      same[a] = value;
    }
  }
  __syncthreads();
  if (at < elements) {
    const int i = (int)(at / k);
    const int a = (int)(at % k);
    const double *m = back + k + (int64_t)a * width_of(shape);
    const float *cell = x + (int64_t)i * k;
    double correction = same[a];
    for (int d = 0; d < k; ++d) {
      correction += m[d] * (double)cell[d];
    }
    for (int f = 0; f < shape.n_factors; ++f) {
      correction += m[k + column_of(rows, shape.n_factors, NULL, i, f)];
    }
    dx[at] -= (float)correction;
  }
}

cudaError_t av_gpu_run_fold_correct(cudaStream_t stream, const av_gpu_rows *rows,
                                    const av_gpu_fold_shape *shape, const double *stats,
                                    const double *back, const av_gpu_step *step, double *common,
                                    const float *x, float *dx) {
  if (common != NULL) {
    AV_LAUNCH(correct_common, (unsigned)shape->n_in, THREADS, 0, stream, *shape, stats, back, step,
              common);
  }
  AV_LAUNCH(correct_cells, av_blocks(rows->max_rows * shape->n_in, THREADS), THREADS,
            (size_t)shape->n_in * sizeof(double), stream, *rows, *shape, stats, back, step, common,
            x, dx);
  return cudaGetLastError();
}
