/* What the kernels of the fold have in common: their blocks, and the places of numbers in stats and
 * in a cell's columns. Device code only. */
#ifndef AV_GPU_KERNELS_FOLD_PARTS_H
#define AV_GPU_KERNELS_FOLD_PARTS_H

#include "kernels/device.h"
#include "kernels/fold.h"

enum { THREADS = 256, WARPS = THREADS / AV_WARP };

static __device__ __forceinline__ int thread_of() { return (int)threadIdx.x; }
static __device__ __forceinline__ int lane_of() { return (int)threadIdx.x % AV_WARP; }
static __device__ __forceinline__ int warp_of() { return (int)threadIdx.x / AV_WARP; }

static __device__ __forceinline__ int width_of(const av_gpu_fold_shape &shape) {
  return shape.n_in + shape.n_onehot;
}

/* The parts of stats, as av_fold_stats_size (backend/backend.h) lists them. */
template <typename T>
struct stats_parts {
  T *cells, *sums, *products, *pairs;
};

template <typename T>
static __host__ __device__ __forceinline__ stats_parts<T> parts_of(const av_gpu_fold_shape &shape,
                                                                   T *stats) {
  const int64_t k = shape.n_in;
  const int64_t columns = shape.n_onehot > 0 ? shape.n_onehot : 1;
  stats_parts<T> made;
  made.cells = stats;
  made.sums = stats + columns;
  made.products = stats + columns * (1 + k);
  made.pairs = stats + columns * (1 + k) + k * k;
  return made;
}

/* Columns of the first factor: every cell is in one of them. */
static __device__ __forceinline__ int first_levels(const av_gpu_fold_shape &shape) {
  return shape.n_onehot > 0 ? shape.first[1] : 1;
}

static __device__ __forceinline__ int factor_of(const av_gpu_fold_shape &shape, int column) {
  int f = 0;
  while (f + 1 < shape.n_factors && shape.first[f + 1] <= column) {
    ++f;
  }
  return f;
}

/* Place among the pairs of columns s of factor f and t of factor e, f < e. */
static __device__ __forceinline__ int64_t pair_at(const av_gpu_fold_shape &shape, int f, int e,
                                                  int s, int t) {
  const int64_t levels = shape.first[f + 1] - shape.first[f];
  const int64_t others = shape.first[e + 1] - shape.first[e];
  return shape.pairs[f] + levels * (shape.first[e] - shape.first[f + 1]) +
         (s - shape.first[f]) * others + (t - shape.first[e]);
}

/* The column of factor f that row i is in; list: as list_columns has made it, or NULL. */
static __device__ __forceinline__ int column_of(const av_gpu_rows &rows, int n_factors,
                                                const int32_t *list, int i, int f) {
  return list != NULL ? list[f * rows.max_rows + i]
                      : rows.data.column[(int64_t)rows.row[i] * n_factors + f];
}

#endif
