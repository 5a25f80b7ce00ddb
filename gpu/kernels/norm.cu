#include "kernels/norm.h"

#include "kernels/device.h"

#include "backend/draws.h"
#include "backend/norm.h"

#include <math.h>

enum {
  SUM_COLUMNS = 32, /* of a block of column sums */
  SUM_THREADS = 256,
  SUM_WARPS = SUM_THREADS / AV_WARP,
  UNITS = AV_DROPOUT_PER_CALL, /* columns of a thread of the others */
  TILE_THREADS = 128,
  TILE_LANES = 8, /* threads of a row */
  TILE_COLUMNS = TILE_LANES * UNITS,
  TILE_ROWS = TILE_THREADS / TILE_LANES,
  LAYER_WARPS = 4
};

/* Vectors of 4 where rows begin at multiples of 16 bytes. */
static bool aligned(int64_t n, const void *a, const void *b, const void *c, const void *d) {
  const uintptr_t all = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d;
  return n % 4 == 0 && all % 16 == 0;
}

/* --- one value ------------------------------------------------------------------------------ */

/* x -> (x - mean) scale + shift */
typedef struct affine {
  float mean, scale, shift;
} affine;

/* The shift makes up for rounding the mean to float. */
static __device__ __forceinline__ affine affine_of(double mean, double scale, double shift) {
  affine made;
  made.mean = (float)mean;
  made.scale = (float)scale;
  made.shift = (float)(shift - (mean - (double)made.mean) * scale);
  return made;
}

static __device__ __forceinline__ float apply(affine a, float x) {
  return fmaf(x - a.mean, a.scale, a.shift);
}

static __device__ __forceinline__ double inverse_sigma(double variance) {
  return 1.0 / sqrt(variance + AV_NORM_EPS);
}

/* BatchNorm's map of a column, or the identity. */
static __device__ affine column_map(const av_gpu_norm &norm, const av_gpu_step *step,
                                    const av_gpu_norm_arrays &arrays, const float *running,
                                    int column) {
  if (!norm.batch_norm) {
    return affine_of(0.0, 1.0, 0.0);
  }
  double mean = 0.0;
  double variance = 0.0;
  if (norm.training) {
    av_batch_moments(arrays.moments, norm.n, column, step->n_cells, &mean, &variance);
  } else {
    mean = (double)running[column];
    variance = (double)running[norm.n + column];
  }
  return affine_of(mean, (double)arrays.gamma[column] * inverse_sigma(variance),
                   (double)arrays.beta[column]);
}

/* For one thread a column. Those who read `running` do so when not training. */
static __device__ void move_running(const av_gpu_norm &norm, const av_gpu_step *step,
                                    const double *moments, float *running, int column) {
  if (!norm.batch_norm || !norm.training) {
    return;
  }
  double mean = 0.0;
  double variance = 0.0;
  av_batch_moments(moments, norm.n, column, step->n_cells, &mean, &variance);
  const double target[2] = {mean, av_unbiased(variance, step->n_cells)};
  for (int i = 0; i < 2; ++i) {
    float *at = running + i * norm.n + column;
    *at += (float)(AV_NORM_MOMENTUM * (target[i] - (double)*at));
  }
}

/* Words of the units [first, first + UNITS) of a row; first is a multiple of UNITS. */
static __device__ __forceinline__ void draw(const av_gpu_norm &norm, const av_gpu_step *step,
                                            const av_gpu_rows &rows, int row, int first,
                                            uint32_t words[4]) {
  if (norm.drop_below > 0) {
    av_random4(words, norm.seed, AV_DRAW_DROPOUT, (uint64_t)av_cell_of(rows, row), step->epoch,
               av_dropout_index(norm.layer, first));
  }
}

/* ReLU and dropout of unit `unit` of those. */
static __device__ __forceinline__ float activated(const av_gpu_norm &norm, const uint32_t words[4],
                                                  int unit, float value) {
  /* a NaN compares false and passes through */
  const float active = norm.relu && value <= 0.0f ? 0.0f : value;
  return av_dropout_drops(words, unit, norm.drop_below) ? 0.0f : active * norm.kept;
}

/* Gradient on the value before ReLU and dropout. */
static __device__ __forceinline__ float through(const av_gpu_norm &norm, float y, float dy) {
  return norm.relu && !(y > 0.0f) ? 0.0f : dy * norm.kept;
}

/* --- column sums ---------------------------------------------------------------------------- */

/* V neighbours: V is 4, and they are aligned, or 1. */
template <int V>
static __device__ __forceinline__ void load(const float *at, float *v) {
  if constexpr (V == 4) {
    const float4 four = *(const float4 *)at;
    v[0] = four.x;
    v[1] = four.y;
    v[2] = four.z;
    v[3] = four.w;
  } else {
    v[0] = *at;
  }
}

/* Sum over the warps of a block; `at`: that of the first. */
static __device__ __forceinline__ double in_order(const double *at) {
  double sum = 0.0;
  for (int w = 0; w < SUM_WARPS; ++w) {
    sum += at[w * SUM_COLUMNS];
  }
  return sum;
}

/* The two sums of a column are complete: those of x and x^2 as they are; BACK: of d and d x, which
 * become d and d xhat. In double that loses nothing that x, a float, had. */
template <bool BACK>
static __device__ void finish(const av_gpu_norm &norm, const av_gpu_step *step,
                              const av_gpu_norm_arrays &arrays, int column, double sum,
                              double product, double *sums, float *dgamma, float *dbeta) {
  if (BACK) {
    double mean = 0.0;
    double variance = 0.0;
    av_batch_moments(arrays.moments, norm.n, column, step->n_cells, &mean, &variance);
    product = (product - mean * sum) * inverse_sigma(variance);
    dbeta[column] += (float)sum;
    dgamma[column] += (float)product;
  }
  sums[column] = sum;
  sums[norm.n + column] = product;
}

/* Rows that a thread reads before it adds: loads on their way together. */
enum { AHEAD = 4 };

/* Adds rows i, i + stride, ..., AHEAD of them, as far as they are before `end`, of V columns. */
template <bool BACK, int V>
static __device__ __forceinline__ void add_rows(const av_gpu_norm &norm,
                                                const av_gpu_norm_arrays &arrays, int column,
                                                int64_t i, int64_t stride, int64_t end, double *sum,
                                                double *product) {
  float x[AHEAD][V] = {};
  float y[AHEAD][V] = {};
  float dy[AHEAD][V] = {};
#pragma unroll
  for (int a = 0; a < AHEAD; ++a) {
    const int64_t at = (i + a * stride) * norm.n + column;
    if (i + a * stride < end) {
      load<V>(arrays.x + at, x[a]);
      if (BACK) {
        load<V>(arrays.dy + at, dy[a]);
      }
      if (BACK && norm.relu) {
        load<V>(arrays.y + at, y[a]);
      }
    }
  }
#pragma unroll
  for (int a = 0; a < AHEAD; ++a) {
    for (int k = 0; k < V; ++k) {
      const double value = BACK ? (double)through(norm, y[a][k], dy[a][k]) : (double)x[a][k];
      sum[k] += value; /* of 0 beyond the end */
      product[k] += value * (double)x[a][k];
    }
  }
}

/* Sums over slab blockIdx.y of rows: to `partial` (slabs, 2, n), or to where they belong if NULL.
 * A thread adds every (SUM_THREADS / threads of a row)-th row, then threads and warps are added in
 * their order. With two blocks an SM as the bound, the compiler spends registers on all AHEAD
 * loads; left alone it saves them and waits twice. */
template <bool BACK, int V>
static __global__ void __launch_bounds__(SUM_THREADS, 2)
    column_sums(av_gpu_rows rows, av_gpu_norm norm, const av_gpu_step *step,
                av_gpu_norm_arrays arrays, int slab, double *partial, double *sums, float *dgamma,
                float *dbeta) {
  const int lanes = SUM_COLUMNS / V; /* threads of a row */
  const int stride = SUM_THREADS / lanes;
  __shared__ double room[2][SUM_WARPS][SUM_COLUMNS];
  const int n = (int)norm.n;
  const int thread = (int)threadIdx.x;
  const int lane = thread % AV_WARP;
  const int first = (int)blockIdx.x * SUM_COLUMNS;
  const int column = first + lane % lanes * V;
  const int64_t begin = (int64_t)blockIdx.y * slab;
  const int64_t n_rows = av_n_rows(rows);
  const int64_t end = begin + slab < n_rows ? begin + slab : n_rows;
  double sum[V] = {};
  double product[V] = {};
  if (column < n) {
    for (int64_t i = begin + thread / lanes; i < end; i += AHEAD * stride) {
      add_rows<BACK, V>(norm, arrays, column, i, stride, end, sum, product);
    }
  }
  for (int k = 0; k < V; ++k) {
    for (int offset = lanes; offset < AV_WARP; offset *= 2) {
      sum[k] += __shfl_xor_sync(AV_ALL_LANES, sum[k], offset);
      product[k] += __shfl_xor_sync(AV_ALL_LANES, product[k], offset);
    }
    if (lane < lanes) {
      room[0][thread / AV_WARP][lane * V + k] = sum[k];
      room[1][thread / AV_WARP][lane * V + k] = product[k];
    }
  }
  __syncthreads();
  const int mine = first + thread;
  if (thread < SUM_COLUMNS && mine < n) {
    const double all = in_order(&room[0][0][thread]);
    const double all_products = in_order(&room[1][0][thread]);
    if (partial != NULL) {
      double *to = partial + (int64_t)blockIdx.y * 2 * n + mine;
      to[0] = all;
      to[n] = all_products;
    } else {
      finish<BACK>(norm, step, arrays, mine, all, all_products, sums, dgamma, dbeta);
    }
  }
}

/* Adds the slabs: warp w of a block those w, w + SUM_WARPS, ..., then the warps in their order. */
template <bool BACK>
static __global__ void add_slabs(av_gpu_norm norm, const av_gpu_step *step,
                                 av_gpu_norm_arrays arrays, int slabs, const double *partial,
                                 double *sums, float *dgamma, float *dbeta) {
  __shared__ double room[2][SUM_WARPS][SUM_COLUMNS];
  const int n = (int)norm.n;
  const int warp = (int)threadIdx.x / AV_WARP;
  const int lane = (int)threadIdx.x % AV_WARP;
  const int column = (int)blockIdx.x * SUM_COLUMNS + lane;
  double sum = 0.0;
  double product = 0.0;
  if (column < n) {
#pragma unroll 4
    for (int s = warp; s < slabs; s += SUM_WARPS) {
      const double *from = partial + (int64_t)s * 2 * n + column;
      sum += from[0];
      product += from[n];
    }
  }
  room[0][warp][lane] = sum;
  room[1][warp][lane] = product;
  __syncthreads();
  if (warp == 0 && column < n) {
    finish<BACK>(norm, step, arrays, column, in_order(&room[0][0][lane]),
                 in_order(&room[1][0][lane]), sums, dgamma, dbeta);
  }
}

template <bool BACK>
static cudaError_t run_sums(cudaStream_t stream, const av_gpu_rows &rows, const av_gpu_norm &norm,
                            const av_gpu_step *step, const av_gpu_norm_arrays &arrays,
                            double *partial, double *sums, float *dgamma, float *dbeta) {
  const int slabs = (int)av_gpu_norm_slabs(rows.max_rows);
  const int slab = (int)av_gpu_norm_slab_rows(rows.max_rows);
  double *const to = slabs == 1 ? NULL : partial;
  const dim3 grid(av_blocks(norm.n, SUM_COLUMNS), (unsigned)slabs);
  if (aligned(norm.n, arrays.x, arrays.y, arrays.dy, NULL)) {
    AV_LAUNCH((column_sums<BACK, 4>), grid, SUM_THREADS, 0, stream, rows, norm, step, arrays, slab,
              to, sums, dgamma, dbeta);
  } else {
    AV_LAUNCH((column_sums<BACK, 1>), grid, SUM_THREADS, 0, stream, rows, norm, step, arrays, slab,
              to, sums, dgamma, dbeta);
  }
  if (slabs > 1) {
    AV_LAUNCH((add_slabs<BACK>), av_blocks(norm.n, SUM_COLUMNS), SUM_THREADS, 0, stream, norm, step,
              arrays, slabs, to, sums, dgamma, dbeta);
  }
  return cudaGetLastError();
}

extern "C" cudaError_t av_gpu_norm_moments(cudaStream_t stream, const av_gpu_rows *rows, int64_t n,
                                           const float *x, double *partial, double *moments) {
  av_gpu_norm norm = {};
  av_gpu_norm_arrays arrays = {};
  norm.n = n;
  arrays.x = x;
  return run_sums<false>(stream, *rows, norm, NULL, arrays, partial, moments, NULL, NULL);
}

extern "C" cudaError_t av_gpu_norm_sums(cudaStream_t stream, const av_gpu_rows *rows,
                                        const av_gpu_norm *norm, const av_gpu_step *step,
                                        const av_gpu_norm_arrays *arrays, double *partial,
                                        double *back, float *dgamma, float *dbeta) {
  return run_sums<true>(stream, *rows, *norm, step, *arrays, partial, back, dgamma, dbeta);
}

/* --- groups of UNITS columns ---------------------------------------------------------------- */

/* Columns [first, first + UNITS) of a row; zeros outside [begin, end). VECTOR: the row is aligned,
 * and the bounds are multiples of 4, as first always is. */
template <bool VECTOR>
static __device__ __forceinline__ void load_units(const float *row, int first, int begin, int end,
                                                  float v[UNITS]) {
  const int step = VECTOR ? 4 : 1;
#pragma unroll
  for (int k = 0; k < UNITS; k += step) {
    const int column = first + k;
    if (column >= begin && column < end) {
      load<step>(row + column, v + k);
    } else {
      for (int i = 0; i < step; ++i) {
        v[k + i] = 0.0f;
      }
    }
  }
}

/* Those of [begin, end) alone. */
template <bool VECTOR>
static __device__ __forceinline__ void store_units(float *row, int first, int begin, int end,
                                                   const float v[UNITS]) {
  const int step = VECTOR ? 4 : 1;
#pragma unroll
  for (int k = 0; k < UNITS; k += step) {
    const int column = first + k;
    if (column >= begin && column < end) {
      if constexpr (VECTOR) {
        *(float4 *)(row + column) = make_float4(v[k], v[k + 1], v[k + 2], v[k + 3]);
      } else {
        row[column] = v[k];
      }
    }
  }
}

/* --- elementwise ---------------------------------------------------------------------------- */

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

/* --- LayerNorm ------------------------------------------------------------------------------ */

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
    AV_LAUNCH(norm_columns, av_blocks(norm.n, TILE_THREADS), TILE_THREADS, 0, stream, norm, step,
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
