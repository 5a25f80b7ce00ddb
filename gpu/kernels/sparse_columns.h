/* What the kernels of the first layer have in common: four columns of a row of n, from `column` on,
 * and an entry as an input. Device code only. */
#ifndef AV_GPU_KERNELS_SPARSE_COLUMNS_H
#define AV_GPU_KERNELS_SPARSE_COLUMNS_H

#include "kernels/device.h"
#include "kernels/sparse_linear.h"

enum { AV_LANE_COLUMNS = 4 }; /* a float4 */

static __device__ __forceinline__ float4 av_no_columns() {
  return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

/* Columns past n count as zeros. `whole`: n is a multiple of 4, and rows lie on 16 bytes. */
template <bool whole>
static __device__ __forceinline__ float4 av_load_columns(const float *row, int column, int n) {
  if (whole) {
    return column < n ? *reinterpret_cast<const float4 *>(row + column) : av_no_columns();
  }
  return make_float4(column < n ? row[column] : 0.0f, column + 1 < n ? row[column + 1] : 0.0f,
                     column + 2 < n ? row[column + 2] : 0.0f,
                     column + 3 < n ? row[column + 3] : 0.0f);
}

template <bool whole>
static __device__ __forceinline__ void av_store_columns(float *row, int column, int n,
                                                        float4 value) {
  if (whole) {
    if (column < n) {
      *reinterpret_cast<float4 *>(row + column) = value;
    }
    return;
  }
  const float values[AV_LANE_COLUMNS] = {value.x, value.y, value.z, value.w};
  AV_UNROLL
  for (int j = 0; j < AV_LANE_COLUMNS; ++j) {
    if (column + j < n) {
      row[column + j] = values[j];
    }
  }
}

static __device__ __forceinline__ float4 av_plus(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
/* a + x b */
static __device__ __forceinline__ float4 av_plus_times(float4 a, float x, float4 b) {
  return make_float4(fmaf(x, b.x, a.x), fmaf(x, b.y, a.y), fmaf(x, b.z, a.z), fmaf(x, b.w, a.w));
}

static __device__ __forceinline__ float av_input_of(const av_gpu_data &data, bool take_log,
                                                    int64_t at) {
  const float value = av_entry_value(data, at);
  return take_log ? log1pf(value) : value;
}

/* Every shares-th covariate of row i of the minibatch, from number `share` on, times its row of w,
 * which follow those of the genes. */
template <bool whole>
static __device__ float4 av_covariate_rows(const av_gpu_rows &rows,
                                           const av_gpu_sparse_layer &layer, int64_t i, int share,
                                           int shares, int column) {
  const av_gpu_data &data = rows.data;
  const float *__restrict__ w = layer.w + data.n_genes * layer.n;
  const int64_t cell = rows.row[i];
  const int n_continuous = data.n_continuous;
  float4 sum = av_no_columns();
  for (int c = share; c < n_continuous + data.n_factors; c += shares) {
    float x = 1.0f;
    int64_t of = c;
    if (c < n_continuous) {
      x = data.continuous[cell * n_continuous + c];
    } else {
      of = n_continuous + data.column[cell * data.n_factors + c - n_continuous];
    }
    sum = av_plus_times(sum, x, av_load_columns<whole>(w + of * layer.n, column, layer.n));
  }
  return sum;
}

#endif
