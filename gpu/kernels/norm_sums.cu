/* Column sums: moments, and their like on the way back. */
#include "kernels/norm_parts.h"

enum {
  SUM_COLUMNS = 32, /* of a block */
  SUM_THREADS = 256,
  SUM_WARPS = SUM_THREADS / AV_WARP
};

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
