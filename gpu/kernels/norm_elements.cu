/* BatchNorm, ReLU and dropout, element by element, and the way back through BatchNorm. */
#include "kernels/norm_parts.h"

enum {
  TILE_THREADS = 128,
  TILE_LANES = 8, /* threads of a row */
  TILE_COLUMNS = TILE_LANES * UNITS,
  TILE_ROWS = TILE_THREADS / TILE_LANES
};

/* A block's part of (max_rows, n): every gridDim.y-th TILE_ROWS rows of TILE_COLUMNS columns. */
static __device__ __forceinline__ int tile_first() { return (int)blockIdx.x * TILE_COLUMNS; }
static __device__ __forceinline__ int tile_lane() { return (int)threadIdx.x % TILE_LANES; }
static __device__ __forceinline__ int tile_row() {
  return (int)blockIdx.y * TILE_ROWS + (int)threadIdx.x / TILE_LANES;
}
static __device__ __forceinline__ int tile_stride() { return (int)gridDim.y * TILE_ROWS; }

/* At least one row of blocks, which moves the running statistics of a rank without cells too. */
static dim3 tile_grid(int64_t n, int64_t max_rows) {
  const unsigned across = av_blocks(n, TILE_COLUMNS);
  const unsigned down = av_blocks(max_rows, TILE_ROWS);
  const unsigned most = av_blocks(AV_GPU_NORM_BLOCKS, across);
  return dim3(across, down < 1 ? 1 : down < most ? down : most);
}

template <bool VECTOR>
static __global__ void norm_elements(av_gpu_rows rows, av_gpu_norm norm, const av_gpu_step *step,
                                     av_gpu_norm_arrays arrays, float *running, float *y) {
  __shared__ affine columns[TILE_COLUMNS];
  const int n = (int)norm.n;
  const int thread = (int)threadIdx.x;
  if (thread < TILE_COLUMNS) {
    const int column = tile_first() + thread;
    columns[thread] = affine_of(0.0, 1.0, 0.0);
    if (column < n) {
      columns[thread] = column_map(norm, step, arrays, running, column);
      if (blockIdx.y == 0) {
        move_running(norm, step, arrays.moments, running, column);
      }
    }
  }
  __syncthreads();
  affine map[UNITS];
  for (int k = 0; k < UNITS; ++k) {
    map[k] = columns[tile_lane() * UNITS + k];
  }
  const int first = tile_first() + tile_lane() * UNITS;
  const int n_rows = av_n_rows(rows);
  for (int row = tile_row(); row < rows.max_rows && first < n; row += tile_stride()) {
    float v[UNITS] = {};
    if (row < n_rows) {
      uint32_t words[4] = {0, 0, 0, 0};
      load_units<VECTOR>(arrays.x + (int64_t)row * n, first, 0, n, v);
      draw(norm, step, rows, row, first, words);
#pragma unroll
      for (int k = 0; k < UNITS; ++k) {
        v[k] = activated(norm, words, k, apply(map[k], v[k]));
      }
    }
    store_units<VECTOR>(y + (int64_t)row * n, first, 0, n, v);
  }
}

extern "C" cudaError_t av_gpu_norm_elements(cudaStream_t stream, const av_gpu_rows *rows,
                                            const av_gpu_norm *norm, const av_gpu_step *step,
                                            const av_gpu_norm_arrays *arrays, float *running,
                                            float *y) {
  const dim3 grid = tile_grid(norm->n, rows->max_rows);
  if (aligned(norm->n, arrays->x, y, NULL, NULL)) {
    AV_LAUNCH((norm_elements<true>), grid, TILE_THREADS, 0, stream, *rows, *norm, step, *arrays,
              running, y);
  } else {
    AV_LAUNCH((norm_elements<false>), grid, TILE_THREADS, 0, stream, *rows, *norm, step, *arrays,
              running, y);
  }
  return cudaGetLastError();
}

/* dx = slope d + rest(x) */
typedef struct grad_map {
  float slope;
  affine rest;
} grad_map;

/* gamma inv_sigma (d - (back_0 + xhat back_1) / Bg) of a column. */
static __device__ grad_map column_grad_map(const av_gpu_norm &norm, const av_gpu_step *step,
                                           const av_gpu_norm_arrays &arrays, const double *back,
                                           int column) {
  double mean = 0.0;
  double variance = 0.0;
  av_batch_moments(arrays.moments, norm.n, column, step->n_cells, &mean, &variance);
  const double inv_sigma = inverse_sigma(variance);
  const double slope = (double)arrays.gamma[column] * inv_sigma;
  grad_map made;
  made.slope = (float)slope;
  const double share = -slope / (double)step->n_cells;
  made.rest = affine_of(mean, share * inv_sigma * back[norm.n + column], share * back[column]);
  return made;
}

/* dx may be arrays.dy. */
template <bool VECTOR>
static __global__ void norm_grad(av_gpu_rows rows, av_gpu_norm norm, const av_gpu_step *step,
                                 av_gpu_norm_arrays arrays, const double *back, float *dx) {
  __shared__ grad_map columns[TILE_COLUMNS];
  const int n = (int)norm.n;
  const int thread = (int)threadIdx.x;
  if (thread < TILE_COLUMNS) {
    const int column = tile_first() + thread;
    columns[thread].slope = 1.0f;
    columns[thread].rest = affine_of(0.0, 0.0, 0.0);
    if (norm.batch_norm && column < n) {
      columns[thread] = column_grad_map(norm, step, arrays, back, column);
    }
  }
  __syncthreads();
  grad_map map[UNITS];
  for (int k = 0; k < UNITS; ++k) {
    map[k] = columns[tile_lane() * UNITS + k];
  }
  const int first = tile_first() + tile_lane() * UNITS;
  const int n_rows = av_n_rows(rows);
  for (int row = tile_row(); row < rows.max_rows && first < n; row += tile_stride()) {
    const int64_t at = (int64_t)row * n;
    float d[UNITS] = {};
    if (row < n_rows) {
      float x[UNITS] = {};
      float y[UNITS] = {};
      load_units<VECTOR>(arrays.dy + at, first, 0, n, d);
      if (norm.relu) {
        load_units<VECTOR>(arrays.y + at, first, 0, n, y);
      }
      if (norm.batch_norm) {
        load_units<VECTOR>(arrays.x + at, first, 0, n, x);
      }
#pragma unroll
      for (int k = 0; k < UNITS; ++k) {
        d[k] = through(norm, y[k], d[k]);
        d[k] = norm.batch_norm ? fmaf(map[k].slope, d[k], apply(map[k].rest, x[k])) : d[k];
      }
    }
    store_units<VECTOR>(dx + at, first, 0, n, d);
  }
}

extern "C" cudaError_t av_gpu_norm_grad(cudaStream_t stream, const av_gpu_rows *rows,
                                        const av_gpu_norm *norm, const av_gpu_step *step,
                                        const av_gpu_norm_arrays *arrays, const double *back,
                                        float *dx) {
  const dim3 grid = tile_grid(norm->n, rows->max_rows);
  if (aligned(norm->n, arrays->x, arrays->y, arrays->dy, dx)) {
    AV_LAUNCH((norm_grad<true>), grid, TILE_THREADS, 0, stream, *rows, *norm, step, *arrays, back,
              dx);
  } else {
    AV_LAUNCH((norm_grad<false>), grid, TILE_THREADS, 0, stream, *rows, *norm, step, *arrays, back,
              dx);
  }
  return cudaGetLastError();
}
