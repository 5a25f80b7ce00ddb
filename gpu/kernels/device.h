/* What kernels have in common: rows and entries of the minibatch, sums over a warp or a block in a
 * fixed order. Device code only. */
#ifndef AV_GPU_KERNELS_DEVICE_H
#define AV_GPU_KERNELS_DEVICE_H

#include "kernels/launch.h"
#include "kernels/view.h"

#include "data/counts.h"

enum { AV_WARP = 32 };
#define AV_ALL_LANES 0xffffffffu

/* Arrays indexed by an unrolled loop stay in registers. */
#ifdef __CUDACC__
#define AV_UNROLL _Pragma("unroll")
#define AV_ROLLED _Pragma("unroll 1") /* rare or long: copies would only fill the cache */
#define AV_PRAGMA(what) _Pragma(#what)
#define AV_UNROLL_BY(n) AV_PRAGMA(unroll n)
#define AV_SLOW inline __noinline__ /* rare, and long: kept out of the kernels' registers */
#else
#define AV_UNROLL
#define AV_ROLLED
#define AV_UNROLL_BY(n)
#define AV_SLOW inline
#endif

/* Rows of the minibatch; global number of the cell of row i. */
static __device__ __forceinline__ int av_n_rows(const av_gpu_rows &rows) { return *rows.n; }
static __device__ __forceinline__ int64_t av_cell_of(const av_gpu_rows &rows, int i) {
  return rows.data.first + rows.row[i];
}

/* Entries of row i of the minibatch: n from `start` on. Who reads counts begins here, wherever they
 * lie. */
typedef struct av_entries {
  int64_t start, n;
} av_entries;
static __device__ __forceinline__ av_entries av_entries_of(const av_gpu_rows &rows, int64_t i) {
  const int64_t at = rows.place[i];
  av_entries entries;
  entries.start = rows.data.row_start[at];
  entries.n = rows.data.row_start[at + 1] - entries.start;
  return entries;
}

/* Entry `at` of the counts. */
static __device__ __forceinline__ int av_entry_gene(const av_gpu_data &data, int64_t at) {
  return data.wide_genes ? (int)((const uint32_t *)data.gene)[at]
                         : (int)((const uint16_t *)data.gene)[at];
}

/* The value of an escape: those are few, and found by halving. */
static __device__ inline float av_escaped(const av_gpu_data &data, int64_t at) {
  int64_t low = 0;
  int64_t high = *data.n_escaped - 1;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (data.escaped_at[middle] < at) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return data.escaped_value[low];
}

static __device__ __forceinline__ float av_entry_value(const av_gpu_data &data, int64_t at) {
  if (data.kind == AV_COUNT_F32) {
    return ((const float *)data.value)[at];
  }
  if (data.kind == AV_COUNT_U8) {
    const unsigned code = ((const uint8_t *)data.value)[at];
    return code == UINT8_MAX ? av_escaped(data, at) : (float)code;
  }
  const unsigned code = ((const uint16_t *)data.value)[at];
  return code == UINT16_MAX ? av_escaped(data, at) : (float)code;
}

/* Sum over a warp, on every lane. */
template <typename T>
static __device__ __forceinline__ T av_warp_sum(T value) {
  for (int offset = AV_WARP / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(AV_ALL_LANES, value, offset);
  }
  return value;
}
template <typename T>
static __device__ __forceinline__ T av_warp_max(T value) {
  for (int offset = AV_WARP / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(AV_ALL_LANES, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

/* The same over `width` lanes side by side, a power of two, on each of them; by all of the warp. */
static __device__ __forceinline__ double av_lanes_sum(double value, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(AV_ALL_LANES, value, offset);
  }
  return value;
}
static __device__ __forceinline__ double av_lanes_max(double value, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) {
    const double other = __shfl_xor_sync(AV_ALL_LANES, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

/* Sum over a block of whole warps, on every thread. `room`: shared, one T a warp; the block may use
 * it again at once. */
template <typename T>
static __device__ __forceinline__ T av_block_sum(T value, T *room) {
  const int thread = (int)threadIdx.x;
  value = av_warp_sum(value);
  if (thread % AV_WARP == 0) {
    room[thread / AV_WARP] = value;
  }
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < (int)blockDim.x / AV_WARP; ++w) {
    sum += room[w];
  }
  __syncthreads();
  return sum;
}

#endif
