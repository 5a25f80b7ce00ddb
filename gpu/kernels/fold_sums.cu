/* Sums over the cells of the minibatch: stats. */
#include "kernels/fold_parts.h"

enum {
  TILE = 8,     /* columns of x that a thread adds */
  UNDERWAY = 4, /* cells that it has under way at a time */
  PAIRS = 4     /* counts of pairs that a thread converts */
};

/* Columns of the minibatch by factor, and (counts, zeroed) how many cells have each pair. */
static __global__ void list_columns(av_gpu_rows rows, av_gpu_fold_shape shape, int32_t *list,
                                    unsigned long long *counts) {
  const int i = (int)blockIdx.x * THREADS + thread_of();
  if (i >= av_n_rows(rows)) {
    return;
  }
  const int32_t *column = rows.data.column + (int64_t)rows.row[i] * shape.n_factors;
  for (int f = 0; f < shape.n_factors; ++f) {
    list[f * rows.max_rows + i] = column[f];
    for (int e = f + 1; e < shape.n_factors; ++e) {
      atomicAdd(&counts[pair_at(shape, f, e, column[f], column[e])], 1ull);
    }
  }
}

/* The same 8 bytes: counts while they are added, doubles from then on. */
union pair_count {
  unsigned long long whole;
  double real;
};

static __device__ void convert_pairs(pair_count *pairs, int64_t first, int64_t n) {
  for (int64_t i = first + thread_of(); i < n && i < first + PAIRS * THREADS; i += THREADS) {
    const unsigned long long whole = pairs[i].whole;
    pairs[i].real = (double)whole;
  }
}

static __host__ __device__ __forceinline__ int tiles_of(int k) { return (k + TILE - 1) / TILE; }

/* Sums over a warp of TILE columns and of the weights, to room (TILE + 1). */
static __device__ __forceinline__ void add_lanes(double *sum, double *room) {
  for (int q = 0; q <= TILE; ++q) {
    const double total = av_warp_sum(sum[q]);
    if (lane_of() == 0) {
      room[q] = total;
    }
  }
}

/* Writes number q of a category's: the sum of x's column first + q, or at the end its cells. */
static __device__ void put_category(const av_gpu_fold_shape &shape, double *stats, int column,
                                    int first, int q, double total) {
  const stats_parts<double> to = parts_of(shape, stats);
  if (q == TILE && first == 0) {
    to.cells[column] = total;
  } else if (q < TILE && first + q < shape.n_in) {
    to.sums[(int64_t)column * shape.n_in + first + q] = total;
  }
}

static __device__ void put_products(const av_gpu_fold_shape &shape, double *stats, int a, int b,
                                    double total) {
  const stats_parts<double> to = parts_of(shape, stats);
  if (b <= a) { /* the rest are the same again */
    to.products[(int64_t)a * shape.n_in + b] = total;
    to.products[(int64_t)b * shape.n_in + a] = total;
  }
}

/* A block a tile: of n_columns categories, then of k rows of products; then pairs to convert. */
static __global__ void sum_by_blocks(av_gpu_rows rows, av_gpu_fold_shape shape, int n_columns,
                                     const int32_t *list, const float *x, double *stats) {
  __shared__ double room[WARPS][TILE + 1];
  const int k = shape.n_in;
  const int tiles = tiles_of(k);
  const int unit = (int)blockIdx.x / tiles;
  const int first = (int)blockIdx.x % tiles * TILE;
  const int a = unit - n_columns; /* from 0 on: a row of products */
  if (a >= k) {
    const int64_t at = (int64_t)blockIdx.x - (int64_t)(n_columns + k) * tiles;
    convert_pairs((pair_count *)parts_of(shape, stats).pairs, at * PAIRS * THREADS,
                  shape.pairs[shape.n_factors]);
    return;
  }
  if (first > a && a >= 0) {
    return;
  }
  const int n = av_n_rows(rows);
  const int f = a >= 0 ? 0 : factor_of(shape, unit);
  double sum[TILE + 1] = {};
  for (int start = thread_of(); start < n; start += UNDERWAY * THREADS) {
    for (int r = 0; r < UNDERWAY; ++r) {
      const bool there = start + r * THREADS < n;
      const int i = there ? start + r * THREADS : start;
      const float *cell = x + (int64_t)i * k;
      double weight = 1.0;
      if (a >= 0) {
        weight = (double)cell[a];
      } else if (shape.n_factors > 0) {
        weight = column_of(rows, shape.n_factors, list, i, f) == unit ? 1.0 : 0.0;
      }
      weight = there ? weight : 0.0;
      for (int q = 0; q < TILE; ++q) {
        sum[q] += weight * (double)cell[min(first + q, k - 1)];
      }
      sum[TILE] += weight;
    }
  }
  add_lanes(sum, room[warp_of()]);
  __syncthreads();
  const int q = thread_of();
  if (q <= TILE) {
    double total = 0.0;
    for (int v = 0; v < WARPS; ++v) {
      total += room[v][q];
    }
    if (a < 0) {
      put_category(shape, stats, unit, first, q, total);
    } else if (q < TILE) {
      put_products(shape, stats, a, first + q, total);
    }
  }
}

/* A warp a tile of a category, of many. */
static __global__ void sum_by_warps(av_gpu_rows rows, av_gpu_fold_shape shape, const int32_t *list,
                                    const float *x, double *stats) {
  __shared__ double room[WARPS][TILE + 1];
  const int k = shape.n_in;
  const int tiles = tiles_of(k);
  const int unit = (int)blockIdx.x * WARPS + warp_of();
  const int column = unit / tiles;
  const int first = unit % tiles * TILE;
  if (column >= shape.n_onehot) {
    return; /* a whole warp: warps do not meet here */
  }
  const int n = av_n_rows(rows);
  const int32_t *mine = list + factor_of(shape, column) * rows.max_rows;
  double sum[TILE + 1] = {};
  for (int start = lane_of(); start < n; start += UNDERWAY * AV_WARP) {
    int found[UNDERWAY];
    for (int r = 0; r < UNDERWAY; ++r) {
      found[r] = start + r * AV_WARP < n ? mine[start + r * AV_WARP] : -1;
    }
    for (int r = 0; r < UNDERWAY; ++r) {
      if (found[r] == column) {
        const float *cell = x + (int64_t)(start + r * AV_WARP) * k;
        for (int q = 0; q < TILE; ++q) {
          sum[q] += (double)cell[min(first + q, k - 1)];
        }
        sum[TILE] += 1.0;
      }
    }
  }
  add_lanes(sum, room[warp_of()]);
  __syncwarp();
  if (lane_of() <= TILE) {
    put_category(shape, stats, column, first, lane_of(), room[warp_of()][lane_of()]);
  }
}

cudaError_t av_gpu_run_fold_sums(cudaStream_t stream, const av_gpu_rows *rows,
                                 const av_gpu_fold_shape *shape, int32_t *list, const float *x,
                                 double *stats) {
  const int columns = av_gpu_fold_columns(shape);
  const bool many = columns > AV_GPU_FOLD_BLOCK_COLUMNS;
  const int tiles = tiles_of(shape->n_in);
  const int64_t pairs = shape->pairs[shape->n_factors];
  double *counts = parts_of(*shape, stats).pairs;
  if (pairs > 0) {
    const cudaError_t code = cudaMemsetAsync(counts, 0, (size_t)pairs * sizeof *counts, stream);
    if (code != cudaSuccess) {
      return code;
    }
  }
  if (list != NULL) {
    AV_LAUNCH(list_columns, av_blocks(rows->max_rows, THREADS), THREADS, 0, stream, *rows, *shape,
              list, (unsigned long long *)counts);
  }
  const int units = ((many ? 0 : columns) + shape->n_in) * tiles;
  AV_LAUNCH(sum_by_blocks, (unsigned)units + av_blocks(pairs, PAIRS * THREADS), THREADS, 0, stream,
            *rows, *shape, many ? 0 : columns, list, x, stats);
  if (many) {
    AV_LAUNCH(sum_by_warps, av_blocks((int64_t)columns * tiles, WARPS), THREADS, 0, stream, *rows,
              *shape, list, x, stats);
  }
  return cudaGetLastError();
}
