/* The same with LayerNorm between, and the way back through that. */
#include "kernels/norm_parts.h"

enum {
  COLUMN_THREADS = 128,
  LAYER_WARPS = 4 /* of a block */
};

/* columns (3, n) = BatchNorm's maps: means, scales, shifts. running: NULL on the way back. */
static __global__ void norm_columns(av_gpu_norm norm, const av_gpu_step *step,
                                    av_gpu_norm_arrays arrays, float *running, float *columns) {
  const int column = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (column >= norm.n) {
    return;
  }
  const affine map = column_map(norm, step, arrays, running, column);
  columns[column] = map.mean;
  columns[norm.n + column] = map.scale;
  columns[2 * norm.n + column] = map.shift;
  if (running != NULL) {
    move_running(norm, step, arrays.moments, running, column);
  }
}

/* Columns [begin, end) of a row, and where a lane begins there: with whole groups of units. */
typedef struct layer_part {
  const float *x;       /* the row */
  const float *columns; /* NULL without BatchNorm */
  int n, begin, end;
} layer_part;

static __device__ __forceinline__ int lane_first(const layer_part &part) {
  return part.begin / UNITS * UNITS + (int)threadIdx.x % AV_WARP * UNITS;
}
enum { LANE_STRIDE = AV_WARP * UNITS };

static __device__ __forceinline__ bool inside(const layer_part &part, int column) {
  return column >= part.begin && column < part.end;
}

/* What LayerNorm works on: units from `first` on, anything outside the part. */
template <bool VECTOR>
static __device__ __forceinline__ void layer_values(const layer_part &part, int first,
                                                    float v[UNITS]) {
  load_units<VECTOR>(part.x, first, part.begin, part.end, v);
  if (part.columns == NULL) {
    return;
  }
  float mean[UNITS];
  float scale[UNITS];
  float shift[UNITS];
  load_units<VECTOR>(part.columns, first, part.begin, part.end, mean);
  load_units<VECTOR>(part.columns + part.n, first, part.begin, part.end, scale);
  load_units<VECTOR>(part.columns + 2 * part.n, first, part.begin, part.end, shift);
#pragma unroll
  for (int k = 0; k < UNITS; ++k) {
    const affine map = {mean[k], scale[k], shift[k]};
    v[k] = apply(map, v[k]);
  }
}

/* LayerNorm's map of the part, to be called by a whole warp. */
template <bool VECTOR>
static __device__ affine layer_map(const layer_part &part) {
  const double width = (double)(part.end - part.begin);
  float v[UNITS];
  double sum = 0.0;
  for (int first = lane_first(part); first < part.end; first += LANE_STRIDE) {
    layer_values<VECTOR>(part, first, v);
    for (int k = 0; k < UNITS; ++k) {
      sum += inside(part, first + k) ? (double)v[k] : 0.0;
    }
  }
  const double mean = av_warp_sum(sum) / width;
  double squares = 0.0;
  for (int first = lane_first(part); first < part.end; first += LANE_STRIDE) {
    layer_values<VECTOR>(part, first, v);
    for (int k = 0; k < UNITS; ++k) {
      const double off = (double)v[k] - mean;
      squares += inside(part, first + k) ? off * off : 0.0;
    }
  }
  const double variance = av_warp_sum(squares) / width;
  return affine_of(mean, 1.0 / sqrt(variance + AV_LAYER_NORM_EPS), 0.0);
}

/* The warp's row and part of it; row = max_rows for warps too many. */
static __device__ __forceinline__ layer_part warp_part(const av_gpu_rows &rows,
                                                       const av_gpu_norm &norm, const float *x,
                                                       const float *columns, int *row) {
  const int64_t item = (int64_t)blockIdx.x * LAYER_WARPS + (int)threadIdx.x / AV_WARP;
  const int width = (int)(norm.n / norm.blocks);
  const int64_t at = item / norm.blocks;
  *row = (int)(at < rows.max_rows ? at : rows.max_rows);
  layer_part part;
  part.x = x + (int64_t)*row * norm.n;
  part.columns = columns;
  part.n = (int)norm.n;
  part.begin = (int)(item % norm.blocks) * width;
  part.end = part.begin + width;
  return part;
}

/* Zeros to the part of a row beyond B; nothing for warps too many. */
template <bool VECTOR>
static __device__ void clear_part(const layer_part &part, int row, int64_t max_rows, float *y) {
  const float zeros[UNITS] = {};
  for (int first = lane_first(part); first < part.end && row < max_rows; first += LANE_STRIDE) {
    store_units<VECTOR>(y + (int64_t)row * part.n, first, part.begin, part.end, zeros);
  }
}

template <bool VECTOR>
static __global__ void norm_layers(av_gpu_rows rows, av_gpu_norm norm, const av_gpu_step *step,
                                   const float *x, const float *columns, float *y) {
  int row = 0;
  const layer_part part = warp_part(rows, norm, x, columns, &row);
  if (row >= av_n_rows(rows)) {
    clear_part<VECTOR>(part, row, rows.max_rows, y);
    return;
  }
  const affine map = layer_map<VECTOR>(part);
  for (int first = lane_first(part); first < part.end; first += LANE_STRIDE) {
    float v[UNITS];
    uint32_t words[4] = {0, 0, 0, 0};
    layer_values<VECTOR>(part, first, v);
    draw(norm, step, rows, row, first, words);
#pragma unroll
    for (int k = 0; k < UNITS; ++k) {
      v[k] = activated(norm, words, k, apply(map, v[k]));
    }
    store_units<VECTOR>(y + (int64_t)row * part.n, first, part.begin, part.end, v);
  }
}

/* Units of d from `first` on, through dropout and ReLU; 0 outside the part. */
template <bool VECTOR>
static __device__ __forceinline__ void layer_gradients(const layer_part &part,
                                                       const av_gpu_norm &norm, const float *y,
                                                       const float *d, int first, float v[UNITS]) {
  float mask[UNITS] = {};
  load_units<VECTOR>(d, first, part.begin, part.end, v);
  if (norm.relu) {
    load_units<VECTOR>(y, first, part.begin, part.end, mask);
  }
#pragma unroll
  for (int k = 0; k < UNITS; ++k) {
    v[k] = through(norm, mask[k], v[k]);
  }
}

/* d = inv_sigma (d - mean of d - u mean of d u), u the result of LayerNorm. */
template <bool VECTOR>
static __global__ void norm_layers_grad(av_gpu_rows rows, av_gpu_norm norm, const float *x,
                                        const float *columns, const float *y, float *d) {
  int row = 0;
  const layer_part part = warp_part(rows, norm, x, columns, &row);
  if (row >= av_n_rows(rows)) {
    clear_part<VECTOR>(part, row, rows.max_rows, d);
    return;
  }
  const double width = (double)(part.end - part.begin);
  const float *y_row = y + (int64_t)row * part.n;
  float *d_row = d + (int64_t)row * part.n;
  const affine map = layer_map<VECTOR>(part);
  float u[UNITS];
  float v[UNITS];
  double sum = 0.0;
  double product = 0.0;
  for (int first = lane_first(part); first < part.end; first += LANE_STRIDE) {
    layer_values<VECTOR>(part, first, u);
    layer_gradients<VECTOR>(part, norm, y_row, d_row, first, v);
    for (int k = 0; k < UNITS; ++k) {
      sum += (double)v[k];
      product += inside(part, first + k) ? (double)v[k] * (double)apply(map, u[k]) : 0.0;
    }
  }
  const float mean = (float)(av_warp_sum(sum) / width);
  const float slope = (float)(av_warp_sum(product) / width);
  for (int first = lane_first(part); first < part.end; first += LANE_STRIDE) {
    layer_values<VECTOR>(part, first, u);
    layer_gradients<VECTOR>(part, norm, y_row, d_row, first, v);
#pragma unroll
    for (int k = 0; k < UNITS; ++k) {
      v[k] = map.scale * (v[k] - fmaf(apply(map, u[k]), slope, mean));
    }
    store_units<VECTOR>(d_row, first, part.begin, part.end, v);
  }
}

/* BatchNorm's maps, if there are any. */
static void run_columns(cudaStream_t stream, const av_gpu_norm &norm, const av_gpu_step *step,
                        const av_gpu_norm_arrays &arrays, float *running, float *columns) {
  if (norm.batch_norm) {
    AV_LAUNCH(norm_columns, av_blocks(norm.n, COLUMN_THREADS), COLUMN_THREADS, 0, stream, norm, step,
              arrays, running, columns);
  }
}

/* The width of a layer decides on vectors: its parts begin at multiples of it. */
static bool aligned_layers(const av_gpu_norm &norm, const void *x, const void *y, const void *d,
                           const void *columns) {
  return aligned(norm.n / norm.blocks, x, y, d, columns);
}

static unsigned layer_blocks(const av_gpu_rows &rows, const av_gpu_norm &norm) {
  return av_blocks(rows.max_rows * norm.blocks, LAYER_WARPS);
}

extern "C" cudaError_t av_gpu_norm_layers(cudaStream_t stream, const av_gpu_rows *rows,
                                          const av_gpu_norm *norm, const av_gpu_step *step,
                                          const av_gpu_norm_arrays *arrays, float *running,
                                          float *columns, float *y) {
  run_columns(stream, *norm, step, *arrays, running, columns);
  const unsigned grid = layer_blocks(*rows, *norm);
  if (aligned_layers(*norm, arrays->x, y, columns, NULL)) {
    AV_LAUNCH((norm_layers<true>), grid, LAYER_WARPS * AV_WARP, 0, stream, *rows, *norm, step,
              arrays->x, columns, y);
  } else {
    AV_LAUNCH((norm_layers<false>), grid, LAYER_WARPS * AV_WARP, 0, stream, *rows, *norm, step,
              arrays->x, columns, y);
  }
  return cudaGetLastError();
}

extern "C" cudaError_t av_gpu_norm_layers_grad(cudaStream_t stream, const av_gpu_rows *rows,
                                               const av_gpu_norm *norm, const av_gpu_step *step,
                                               const av_gpu_norm_arrays *arrays, float *columns,
                                               float *d) {
  run_columns(stream, *norm, step, *arrays, NULL, columns);
  const unsigned grid = layer_blocks(*rows, *norm);
  if (aligned_layers(*norm, arrays->x, arrays->y, d, columns)) {
    AV_LAUNCH((norm_layers_grad<true>), grid, LAYER_WARPS * AV_WARP, 0, stream, *rows, *norm,
              arrays->x, columns, arrays->y, d);
  } else {
    AV_LAUNCH((norm_layers_grad<false>), grid, LAYER_WARPS * AV_WARP, 0, stream, *rows, *norm,
              arrays->x, columns, arrays->y, d);
  }
  return cudaGetLastError();
}
