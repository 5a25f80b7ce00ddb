#include "kernels/fold.h"

#include "kernels/device.h"

#include "backend/norm.h"

#include <math.h>

enum {
  THREADS = 256,
  WARPS = THREADS / AV_WARP,
  TILE = 8,      /* columns of x that a thread of the sums adds */
  UNDERWAY = 4,  /* cells that it has under way at a time */
  PAIRS = 4,     /* counts of pairs that a thread converts */
  LISTING = 512, /* threads of the block that makes the moments if wide */
  ROWS = 8,      /* of w that a thread scales if wide */
  BACK = 4,      /* rows of M that a block adds */
  BACK_BLOCKS = 512
};

static __device__ __forceinline__ int thread_of() { return (int)threadIdx.x; }
static __device__ __forceinline__ int lane_of() { return (int)threadIdx.x % AV_WARP; }
static __device__ __forceinline__ int warp_of() { return (int)threadIdx.x / AV_WARP; }

static __device__ __forceinline__ int width_of(const av_gpu_fold_shape &shape) {
  return shape.n_in + shape.n_onehot;
}

/* --- stats ---------------------------------------------------------------------------------- */

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

/* --- sums over cells ------------------------------------------------------------------------ */

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

static __device__ __forceinline__ int column_of(const av_gpu_rows &rows, int n_factors,
                                                const int32_t *list, int i, int f) {
  return list != NULL ? list[f * rows.max_rows + i]
                      : rows.data.column[(int64_t)rows.row[i] * n_factors + f];
}

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

/* --- moments of u = [x, one-hot] ------------------------------------------------------------ */

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
static __device__ void fill_mean(const av_gpu_fold_shape &shape, const double *stats, double n,
                                 const moments &u) {
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

static __device__ void fill_cross(const av_gpu_fold_shape &shape, const double *stats, double n,
                                  const moments &u) {
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
static __device__ moments moments_here(const av_gpu_fold_shape &shape, const double *stats,
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

/* Those that `prepare` has left. */
static __device__ moments moments_there(const av_gpu_fold_shape &shape,
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

/* Rows of x and of the categories that have cells, in order: their number. By a block; room: an
 * int for each of its warps. */
static __device__ int list_present(const av_gpu_fold_shape &shape, const double *cells,
                                   int32_t *code, int32_t *range, int *room) {
  const int k = shape.n_in;
  int width = k;
  for (int d = thread_of(); d < k; d += (int)blockDim.x) {
    code[d] = d;
  }
  for (int start = 0; start < shape.n_onehot; start += (int)blockDim.x) {
    const int s = start + thread_of();
    const bool present = s < shape.n_onehot && cells[s] > 0.0;
    const unsigned mask = __ballot_sync(AV_ALL_LANES, present);
    if (lane_of() == 0) {
      room[warp_of()] = __popc(mask);
    }
    __syncthreads();
    int at = width + __popc(mask & ((1u << lane_of()) - 1u));
    for (int v = 0; v < (int)blockDim.x / AV_WARP; ++v) {
      at += v < warp_of() ? room[v] : 0;
      width += room[v];
    }
    if (present) {
      code[at] = k + s;
    }
    for (int f = 0; f < shape.n_factors; ++f) {
      if (shape.first[f] == s) {
        range[f] = at;
      }
    }
    __syncthreads();
  }
  return width;
}

/* One block. */
static __global__ void prepare(av_gpu_fold_shape shape, const double *stats,
                               const av_gpu_step *step, av_gpu_fold_work work) {
  __shared__ int room[LISTING / AV_WARP];
  const double n = (double)step->n_cells;
  const int width = list_present(shape, stats, work.code, work.range, room);
  if (thread_of() == 0) {
    *work.width = width;
    work.range[shape.n_factors] = width;
  }
  __syncthreads();
  const moments u = moments_there(shape, work);
  fill_mean(shape, stats, n, u);
  __syncthreads();
  fill_cross(shape, stats, n, u);
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
static __device__ weights stage_weights(const av_gpu_fold_shape &shape, const float *w, int64_t g,
                                        float *tile) {
  weights made;
  made.at = tile + lane_of();
  made.stride = AV_WARP;
  for (int d = warp_of(); d < width_of(shape); d += WARPS) {
    tile[d * AV_WARP + lane_of()] = w[d * shape.n_genes + g];
  }
  return made;
}

/* Sum of row[d] w_d for d in from .. to - 1; four at a time, so that they overlap. */
static __device__ double row_sum(const moments &u, const double *row, const weights &w, int from,
                                 int to) {
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
static __device__ double pair_sum(const av_gpu_fold_shape &shape, const double *pairs, double n,
                                  const moments &u, const weights &w, int d) {
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

/* What of (C w)_d does not depend on other categories of the same factor. */
static __device__ double across_sum(const av_gpu_fold_shape &shape, const double *pairs, double n,
                                    const moments &u, const weights &w, int d) {
  double sum = 0.0;
  for (int a = 0; a < shape.n_in; ++a) {
    sum += u.cross[a * u.stride + d] * weight_of(u, w, a);
  }
  return shape.n_factors > 1 ? sum + pair_sum(shape, pairs, n, u, w, d) : sum;
}

/* Sums over the warps of a block, lane by lane: part (WARPS, 32), written before a barrier. */
static __device__ __forceinline__ double over_warps(double (*part)[AV_WARP]) {
  double sum = 0.0;
  for (int v = 0; v < WARPS; ++v) {
    sum += part[v][lane_of()];
  }
  return sum;
}

/* --- fold ----------------------------------------------------------------------------------- */

/* Mean and variance of a lane's gene before BatchNorm, without the bias. By a block, whose warps
 * take rows of w in turn. */
static __device__ void gene_moments(const av_gpu_fold_shape &shape, const double *stats, double n,
                                    const moments &u, const weights &w, double *mean,
                                    double *variance) {
  __shared__ double part[3][WARPS][AV_WARP];
  const double *pairs = parts_of(shape, stats).pairs;
  const int k = shape.n_in;
  double first = 0.0;  /* sum of mean_d w_d */
  double share = 0.0;  /* of it, of the categories */
  double square = 0.0; /* w^T C w, but for the products of shares */
  for (int d = warp_of(); d < u.width; d += WARPS) {
    const double wd = weight_of(u, w, d);
    first += u.mean[d] * wd;
    if (d < k) {
      const double *row = u.cross + d * u.stride;
      square += wd * (row_sum(u, row, w, 0, k) + 2.0 * row_sum(u, row, w, k, u.width));
    } else {
      const double pair = shape.n_factors > 1 ? pair_sum(shape, pairs, n, u, w, d) : 0.0;
      share += u.mean[d] * wd;
      square += wd * (u.mean[d] * wd + pair);
    }
  }
  part[0][warp_of()][lane_of()] = first;
  part[1][warp_of()][lane_of()] = share;
  part[2][warp_of()][lane_of()] = square;
  __syncthreads();
  const double across = over_warps(part[1]);
  const double found = over_warps(part[2]) - across * across;
  *mean = over_warps(part[0]);
  *variance = found < 0.0 ? 0.0 : found; /* rounding; a NaN stays one */
}

static __device__ __forceinline__ void move(float *running, double target) {
  *running += (float)(AV_NORM_MOMENTUM * (target - (double)*running));
}

/* A block for 32 genes. step NULL: from running. Rows of a are written unless wide. */
static __global__ void fold_genes(av_gpu_fold_shape shape, av_gpu_fold_arrays fold,
                                  const double *stats, const av_gpu_step *step,
                                  av_gpu_fold_work work, bool wide) {
  AV_SHARED_ARRAY(double, shared);
  const int width = width_of(shape);
  const int64_t genes = shape.n_genes;
  const int64_t gene = (int64_t)blockIdx.x * AV_WARP + lane_of();
  const bool there = gene < genes;
  const int64_t g = there ? gene : genes - 1;
  const double bias = fold.bias == NULL ? 0.0 : (double)fold.bias[g];
  weights w = {fold.w + g, genes};
  double mean = 0.0;
  double variance = 0.0;
  if (step != NULL) {
    const double n = (double)step->n_cells;
    moments u;
    if (wide) {
      u = moments_there(shape, work);
    } else {
      w = stage_weights(shape, fold.w, g, (float *)(shared + width * (shape.n_in + 1)));
      u = moments_here(shape, stats, n, shared);
    }
    gene_moments(shape, stats, n, u, w, &mean, &variance);
  } else {
    mean = (double)fold.running[g] - bias;
    variance = (double)fold.running[genes + g];
  }
  const double inverse = 1.0 / sqrt(variance + AV_NORM_EPS);
  const double scaled = (double)fold.gamma[g] * inverse;
  if (there && warp_of() == 0) {
    if (step != NULL) {
      move(fold.running + g, mean + bias);
      move(fold.running + genes + g, av_unbiased(variance, step->n_cells));
    }
    fold.c[g] = (float)((double)fold.beta[g] - scaled * mean);
    fold.inv_sigma[g] = (float)inverse;
  }
  for (int d = warp_of(); there && !wide && d < width; d += WARPS) {
    fold.a[d * genes + g] = (float)(scaled * (double)w.at[d * w.stride]);
  }
}

/* Wide: a (D, G), a thread for ROWS rows of a gene. */
static __global__ void scale_rows(av_gpu_fold_shape shape, av_gpu_fold_arrays fold) {
  const int64_t g = (int64_t)blockIdx.y * THREADS + thread_of();
  const int first = (int)blockIdx.x * ROWS; /* x: categories may be millions */
  const int width = width_of(shape);
  if (g >= shape.n_genes) {
    return;
  }
  const float factor = fold.gamma[g] * fold.inv_sigma[g];
  float w[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    w[r] = fold.w[min(first + r, width - 1) * shape.n_genes + g];
  }
  for (int r = 0; r < ROWS; ++r) {
    if (first + r < width) {
      fold.a[(first + r) * shape.n_genes + g] = factor * w[r];
    }
  }
}

/* --- gradient ------------------------------------------------------------------------------- */

/* What the gradient of a gene is made of. */
struct gene_gradient {
  double s, scaled, curve; /* gamma / sigma, dgamma / sigma */
  double share;            /* sum of f_s w_s */
};

/* dgamma of a lane's gene, and the rest. By a block, whose warps take rows in turn. */
static __device__ double gene_dgamma(const av_gpu_fold_shape &shape, const av_gpu_fold_arrays &fold,
                                     const moments &u, const weights &w, const float *p, int64_t g,
                                     gene_gradient *out) {
  __shared__ double part[2][WARPS][AV_WARP];
  double along = 0.0; /* sum of w_d P_d, P centred */
  double share = 0.0;
  for (int d = warp_of(); d < u.width; d += WARPS) {
    const double wd = weight_of(u, w, d);
    along += wd * ((double)p[row_of(u, d) * shape.n_genes + g] - u.mean[d] * out->s);
    share += d < shape.n_in ? 0.0 : u.mean[d] * wd;
  }
  part[0][warp_of()][lane_of()] = along;
  part[1][warp_of()][lane_of()] = share;
  __syncthreads();
  const double inverse = (double)fold.inv_sigma[g];
  const double dgamma = over_warps(part[0]) * inverse;
  out->share = over_warps(part[1]);
  out->scaled = (double)fold.gamma[g] * inverse;
  out->curve = dgamma * inverse;
  return dgamma;
}

/* (C w)_d. */
static __device__ double covariance(const av_gpu_fold_shape &shape, const double *pairs, double n,
                                    const moments &u, const weights &w, int d, double share) {
  if (d < shape.n_in) {
    return row_sum(u, u.cross + d * u.stride, w, 0, u.width);
  }
  return u.mean[d] * (weight_of(u, w, d) - share) + across_sum(shape, pairs, n, u, w, d);
}

/* A block for 32 genes: dw, dgamma, dbeta and the weights of the sums over genes. */
static __global__ void grad_genes(av_gpu_fold_shape shape, av_gpu_fold_arrays fold,
                                  const double *stats, const av_gpu_step *step,
                                  av_gpu_fold_work work, bool wide, const float *p,
                                  const float *sums, float *dw, float *dgamma, float *dbeta) {
  AV_SHARED_ARRAY(double, shared);
  const int64_t genes = shape.n_genes;
  const int64_t gene = (int64_t)blockIdx.x * AV_WARP + lane_of();
  const bool there = gene < genes;
  const int64_t g = there ? gene : genes - 1;
  const double n = (double)step->n_cells;
  weights w = {fold.w + g, genes};
  moments u;
  if (wide) {
    u = moments_there(shape, work);
  } else {
    w = stage_weights(shape, fold.w, g, (float *)(shared + width_of(shape) * (shape.n_in + 1)));
    u = moments_here(shape, stats, n, shared);
  }
  gene_gradient of;
  of.s = (double)sums[g];
  const double slope = gene_dgamma(shape, fold, u, w, p, g, &of);
  if (there && warp_of() == 0) {
    dgamma[g] += (float)slope;
    dbeta[g] += sums[g];
    work.weight[g] = of.scaled * of.curve / n;
  }
  const double *pairs = parts_of(shape, stats).pairs;
  for (int d = warp_of(); d < u.width; d += WARPS) {
    const int64_t at = row_of(u, d) * genes + g;
    const double cw = covariance(shape, pairs, n, u, w, d, of.share);
    if (there) {
      dw[at] += (float)(of.scaled * ((double)p[at] - u.mean[d] * of.s - of.curve * cw));
    }
  }
}

/* back += {A_x s, M_x.}: a block adds BACK rows of a column over the genes. Column 0 is A_x s. */
static __global__ void sum_back(av_gpu_fold_shape shape, av_gpu_fold_arrays fold,
                                av_gpu_fold_work work, bool wide, const float *sums, double *back) {
  __shared__ double room[WARPS][BACK];
  const int k = shape.n_in;
  const int64_t genes = shape.n_genes;
  const int first = (int)blockIdx.y * BACK;
  const int width = wide ? *work.width : width_of(shape);
  for (int column = (int)blockIdx.x; column <= width; column += (int)gridDim.x) {
    const int d = column == 0 ? 0 : wide ? work.code[column - 1] : column - 1;
    const float *left = column == 0 ? fold.a : fold.w;
    const float *right = column == 0 ? sums : fold.w + d * genes;
    double sum[BACK] = {};
    for (int64_t g = thread_of(); g < genes; g += THREADS) {
      const double factor = (double)right[g] * (column == 0 ? 1.0 : work.weight[g]);
      for (int q = 0; q < BACK; ++q) {
        sum[q] += factor * (double)left[min(first + q, k - 1) * genes + g];
      }
    }
    for (int q = 0; q < BACK; ++q) {
      const double total = av_warp_sum(sum[q]);
      if (lane_of() == 0) {
        room[warp_of()][q] = total;
      }
    }
    __syncthreads();
    const int a = first + thread_of();
    if (thread_of() < BACK && a < k) {
      double total = 0.0;
      for (int v = 0; v < WARPS; ++v) {
        total += room[v][thread_of()];
      }
      back[column == 0 ? a : k + (int64_t)a * width_of(shape) + d] += total;
    }
    __syncthreads();
  }
}

/* --- correction ----------------------------------------------------------------------------- */

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

/* --- launchers ------------------------------------------------------------------------------ */

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

/* Dynamic shared memory of a block of genes. */
static size_t shared_of(const av_gpu_fold_shape *shape) {
  return av_gpu_fold_is_wide(shape) ? 0 : (size_t)av_gpu_fold_shared(shape);
}

cudaError_t av_gpu_run_fold(cudaStream_t stream, const av_gpu_fold_shape *shape,
                            const av_gpu_fold_arrays *fold, const double *stats,
                            const av_gpu_step *step, const av_gpu_fold_work *work) {
  const bool wide = av_gpu_fold_is_wide(shape);
  if (wide && step != NULL) {
    AV_LAUNCH(prepare, 1u, LISTING, 0, stream, *shape, stats, step, *work);
  }
  AV_LAUNCH(fold_genes, av_blocks(shape->n_genes, AV_WARP), THREADS,
            step == NULL ? 0 : shared_of(shape), stream, *shape, *fold, stats, step, *work, wide);
  if (wide) {
    const dim3 grid(av_blocks(shape->n_in + shape->n_onehot, ROWS),
                    av_blocks(shape->n_genes, THREADS));
    AV_LAUNCH(scale_rows, grid, THREADS, 0, stream, *shape, *fold);
  }
  return cudaGetLastError();
}

cudaError_t av_gpu_run_fold_grad(cudaStream_t stream, const av_gpu_fold_shape *shape,
                                 const av_gpu_fold_arrays *fold, const double *stats,
                                 const av_gpu_step *step, const av_gpu_fold_work *work,
                                 const float *p, const float *s, float *dw, float *dgamma,
                                 float *dbeta, double *back) {
  const bool wide = av_gpu_fold_is_wide(shape);
  const int columns = 1 + shape->n_in + shape->n_onehot;
  if (wide) {
    AV_LAUNCH(prepare, 1u, LISTING, 0, stream, *shape, stats, step, *work);
  }
  AV_LAUNCH(grad_genes, av_blocks(shape->n_genes, AV_WARP), THREADS, shared_of(shape), stream,
            *shape, *fold, stats, step, *work, wide, p, s, dw, dgamma, dbeta);
  const dim3 grid((unsigned)(columns < BACK_BLOCKS ? columns : BACK_BLOCKS),
                  av_blocks(shape->n_in, BACK));
  AV_LAUNCH(sum_back, grid, THREADS, 0, stream, *shape, *fold, *work, wide, s, back);
  return cudaGetLastError();
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
