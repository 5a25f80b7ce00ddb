#include "kernels/sparse_columns.h"
#include "kernels/sparse_linear.h"

enum {
  WARPS = AV_SPARSE_WARPS,
  THREADS = WARPS * AV_WARP,
  TILE = AV_SPARSE_TILE,
  CELL_THREADS = THREADS / TILE, /* that place a cell's inputs */
  CELLS_AHEAD = 4,               /* of a tile of dy */
  RESIDENT_BLOCKS = 4            /* on a multiprocessor: as many as have shared memory */
};

/* ---- where chunks begin ---- */

/* A warp for each cell: bounds (chunks + 1) of its list, in which genes increase. */
static __global__ void chunk_bounds(av_gpu_rows rows, av_gpu_sparse_grad grad, int64_t first) {
  const av_gpu_data &data = rows.data;
  const int lane = (int)threadIdx.x % AV_WARP;
  const int64_t at = (int64_t)blockIdx.x * WARPS + (int)threadIdx.x / AV_WARP;
  if (at >= grad.pass_rows || first + at >= av_n_rows(rows)) {
    return;
  }
  const int chunk = grad.genes_a_warp * WARPS;
  const int chunks = (int)grad.chunks;
  const av_entries entries = av_entries_of(rows, first + at);
  uint32_t *bounds = grad.bounds + at * (chunks + 1);
  int next = 0; /* chunk whose beginning has not been met */
  for (int64_t begin = 0; next <= chunks; begin += AV_WARP) {
    /* past the end of the list there is only what follows the last chunk */
    const int mine = begin + lane < entries.n
                         ? av_entry_gene(data, entries.start + begin + lane) / chunk
                         : chunks;
    const int last = __shfl_sync(AV_ALL_LANES, mine, AV_WARP - 1);
    for (; next <= last; next += AV_WARP) {
      const int wanted = next + lane;
      int before = 0; /* entries, of these 32, in chunks before the wanted one */
      for (int step = AV_WARP / 2; step > 0; step /= 2) {
        const int seen = __shfl_sync(AV_ALL_LANES, mine, before + step - 1);
        before += seen < wanted ? step : 0;
      }
      if (wanted <= last) {
        bounds[wanted] = (uint32_t)(begin + before);
      }
    }
    next = last + 1;
  }
  if (lane == 0) {
    grad.start[at] = entries.start;
  }
}

/* ---- chunks ---- */

/* What a block works on: rows [begin, end) of w, cells [from, to) of the minibatch. */
typedef struct block_part {
  int64_t begin, end;
  int64_t chunk; /* of genes; -1: covariates and bias */
  int64_t from, to;
} block_part;

/* Block (chunk, columns, slab): the covariates' and the bias's come first, as they have inputs in
 * all cells and take longest. */
static __device__ block_part part_of_block(const av_gpu_rows &rows, const av_gpu_sparse_grad &grad,
                                           int64_t first) {
  const int64_t size = grad.genes_a_warp * WARPS;
  const bool extra = blockIdx.x < grad.extra_chunks;
  const int64_t from = first + blockIdx.z * grad.slab_rows;
  const int64_t pass_end = first + grad.pass_rows;
  const int64_t n_rows = av_n_rows(rows);
  block_part part;
  part.chunk = extra ? -1 : blockIdx.x - grad.extra_chunks;
  part.begin = extra ? grad.n_genes + blockIdx.x * size : part.chunk * size;
  const int64_t rows_end = extra ? grad.n_genes + grad.extras : grad.n_genes;
  part.end = part.begin + size < rows_end ? part.begin + size : rows_end;
  part.from = from;
  part.to = from + grad.slab_rows;
  part.to = part.to < pass_end ? part.to : pass_end;
  part.to = part.to < n_rows ? part.to : n_rows;
  return part;
}

/* dy of cells [first, end), at most TILE of them, and 128 columns; zeros beyond. */
template <bool whole>
static __device__ __forceinline__ void fill_tile(float4 (*tile)[AV_WARP], const float *dy,
                                                 int64_t first, int64_t end, int n) {
  const int lane = (int)threadIdx.x % AV_WARP;
  const int warp = (int)threadIdx.x / AV_WARP;
  const int column = (int)blockIdx.y * AV_SPARSE_COLUMNS + lane * AV_LANE_COLUMNS;
  AV_UNROLL
  for (int k = 0; k < TILE / WARPS; ++k) {
    const int64_t i = first + k * WARPS + warp;
    tile[k * WARPS + warp][lane] =
        i < end ? av_load_columns<whole>(dy + i * n, column, n) : av_no_columns();
  }
}

/* The covariates and the 1 of cell i as inputs of rows [begin, end) of w: every CELL_THREADS-th
 * from number `share` on. x is the cell's, one in TILE. */
static __device__ void place_covariates(const av_gpu_rows &rows, const av_gpu_sparse_grad &grad,
                                        const block_part &part, int64_t i, int share, float *x) {
  const av_gpu_data &data = rows.data;
  const int64_t begin = part.begin - grad.n_genes;
  const int64_t end = part.end - grad.n_genes;
  const int64_t cell = rows.row[i];
  const int n_continuous = grad.covariates ? data.n_continuous : 0;
  const int n_factors = grad.covariates ? data.n_factors : 0;
  for (int64_t c = begin + share; c < end && c < n_continuous; c += CELL_THREADS) {
    x[(c - begin) * TILE] = data.continuous[cell * n_continuous + c];
  }
  for (int f = share; f < n_factors; f += CELL_THREADS) {
    const int64_t of = n_continuous + data.column[cell * n_factors + f];
    if (of >= begin && of < end) {
      x[(of - begin) * TILE] = 1.0f;
    }
  }
  if (share == 0 && end == grad.extras) {
    x[(end - 1 - begin) * TILE] = 1.0f;
  }
}

/* Sum over the tile's cells of their inputs to one row of w, x (TILE), times their dy, in the order
 * of the cells; by a whole warp. x is set to 0 for the next tile. `*any`: there was an input. */
static __device__ __forceinline__ float4 weighted_cells(const float4 (*tile)[AV_WARP], float *x,
                                                        bool *any) {
  const int lane = (int)threadIdx.x % AV_WARP;
  float4 sum = av_no_columns();
  for (int first = 0; first < TILE; first += AV_WARP) {
    const float mine = x[first + lane];
    const bool given = mine != 0.0f;
    unsigned left = __ballot_sync(AV_ALL_LANES, given);
    if (given) {
      x[first + lane] = 0.0f;
    }
    *any = *any || left != 0;
    while (__popc(left) >= CELLS_AHEAD) {
      float input[CELLS_AHEAD];
      float4 row[CELLS_AHEAD];
      AV_UNROLL
      for (int a = 0; a < CELLS_AHEAD; ++a) {
        const int cell = __ffs((int)left) - 1;
        left &= left - 1;
        input[a] = __shfl_sync(AV_ALL_LANES, mine, cell);
        row[a] = tile[first + cell][lane];
      }
      AV_UNROLL
      for (int a = 0; a < CELLS_AHEAD; ++a) {
        sum = av_plus_times(sum, input[a], row[a]);
      }
    }
    while (left != 0) {
      const int cell = __ffs((int)left) - 1;
      left &= left - 1;
      sum = av_plus_times(sum, __shfl_sync(AV_ALL_LANES, mine, cell), tile[first + cell][lane]);
    }
  }
  return sum;
}

/* Row `row` of w in the gradient. */
static __device__ __forceinline__ float *gradient_row(const av_gpu_sparse_grad &grad, int64_t row) {
  return row + 1 < grad.n_genes + grad.extras ? grad.dw + row * grad.n : grad.dbias;
}

template <int GENES, bool whole>
static __global__ void __launch_bounds__(THREADS, RESIDENT_BLOCKS)
    gradient(av_gpu_rows rows, av_gpu_sparse_grad grad, int64_t first) {
  __shared__ float4 tile[TILE][AV_WARP];
  __shared__ float x[GENES * WARPS][TILE];
  const int thread = (int)threadIdx.x;
  const int warp = thread / AV_WARP;
  const int place = thread / CELL_THREADS; /* the cell of the tile whose inputs it places */
  const int share = thread % CELL_THREADS;
  const block_part part = part_of_block(rows, grad, first);
  float4 sum[GENES];
  unsigned given = 0; /* bit k: row k had an input */
  AV_UNROLL
  for (int k = 0; k < GENES; ++k) {
    sum[k] = av_no_columns();
  }
  for (int k = thread; k < GENES * WARPS * TILE; k += THREADS) {
    x[k / TILE][k % TILE] = 0.0f;
  }
  for (int64_t cells = part.from; cells < part.to; cells += TILE) {
    const int64_t i = cells + place;
    int64_t begin = 0;
    int64_t end = 0;
    if (part.chunk >= 0 && i < part.to) {
      const uint32_t *bounds = grad.bounds + (i - first) * (grad.chunks + 1) + part.chunk;
      const int64_t start = grad.start[i - first];
      begin = start + bounds[0];
      end = start + bounds[1];
    }
    __syncthreads(); /* x is zero, the tile has been used */
    fill_tile<whole>(tile, grad.dy, cells, part.to, grad.n);
    for (int64_t at = begin + share; at < end; at += CELL_THREADS) {
      x[av_entry_gene(rows.data, at) - part.begin][place] =
          av_input_of(rows.data, grad.take_log, at);
    }
    if (part.chunk < 0 && i < part.to) {
      place_covariates(rows, grad, part, i, share, &x[0][place]);
    }
    __syncthreads();
    AV_UNROLL
    for (int k = 0; k < GENES; ++k) {
      bool any = false;
      sum[k] = av_plus(sum[k], weighted_cells(tile, x[k * WARPS + warp], &any));
      given |= any ? 1u << k : 0u;
    }
  }
  const int column = (int)blockIdx.y * AV_SPARSE_COLUMNS + thread % AV_WARP * AV_LANE_COLUMNS;
  const int64_t all = grad.n_genes + grad.extras;
  AV_UNROLL
  for (int k = 0; k < GENES; ++k) {
    const int64_t row = part.begin + k * WARPS + warp;
    if (row < part.end && grad.slabs > 1 && part.from < part.to) {
      av_store_columns<whole>(grad.partial + (blockIdx.z * all + row) * grad.n, column, grad.n,
                              sum[k]);
    } else if (row < part.end && (given >> k & 1u) != 0) {
      float *out = gradient_row(grad, row);
      av_store_columns<whole>(out, column, grad.n,
                              av_plus(av_load_columns<whole>(out, column, grad.n), sum[k]));
    }
  }
}

/* ---- slabs ---- */

/* A thread for four columns of a row. */
template <bool whole>
static __global__ void add_slabs(av_gpu_rows rows, av_gpu_sparse_grad grad, int64_t first) {
  const int64_t quads = (grad.n + AV_LANE_COLUMNS - 1) / AV_LANE_COLUMNS;
  const int64_t all = grad.n_genes + grad.extras;
  const int64_t item = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  const int64_t row = item / quads;
  const int column = (int)(item % quads) * AV_LANE_COLUMNS;
  int64_t cells = av_n_rows(rows) - first;
  cells = cells < grad.pass_rows ? cells : grad.pass_rows;
  const int64_t slabs = (cells + grad.slab_rows - 1) / grad.slab_rows; /* that have any */
  if (row < all && cells > 0) {
    float4 sum = av_load_columns<whole>(grad.partial + row * grad.n, column, grad.n);
    for (int64_t s = 1; s < slabs; ++s) {
      sum = av_plus(
          sum, av_load_columns<whole>(grad.partial + (s * all + row) * grad.n, column, grad.n));
    }
    float *out = gradient_row(grad, row);
    av_store_columns<whole>(out, column, grad.n,
                            av_plus(av_load_columns<whole>(out, column, grad.n), sum));
  }
}

template <bool whole>
static void launch_pass(cudaStream_t stream, const av_gpu_rows &rows,
                        const av_gpu_sparse_grad &grad, int64_t first) {
  const unsigned columns = av_blocks(grad.n, AV_SPARSE_COLUMNS);
  const dim3 grid((unsigned)(grad.chunks + grad.extra_chunks), columns, (unsigned)grad.slabs);
  AV_LAUNCH((chunk_bounds), av_blocks(grad.pass_rows, WARPS), THREADS, 0, stream, rows, grad,
            first);
  if (grad.genes_a_warp == 2) {
    AV_LAUNCH((gradient<2, whole>), grid, THREADS, 0, stream, rows, grad, first);
  } else if (grad.genes_a_warp == 4) {
    AV_LAUNCH((gradient<4, whole>), grid, THREADS, 0, stream, rows, grad, first);
  } else {
    AV_LAUNCH((gradient<8, whole>), grid, THREADS, 0, stream, rows, grad, first);
  }
  if (grad.slabs > 1) {
    const int64_t quads = (grad.n + AV_LANE_COLUMNS - 1) / AV_LANE_COLUMNS;
    AV_LAUNCH((add_slabs<whole>), av_blocks((grad.n_genes + grad.extras) * quads, THREADS), THREADS,
              0, stream, rows, grad, first);
  }
}

extern "C" cudaError_t av_gpu_sparse_backward(cudaStream_t stream, const av_gpu_rows *rows,
                                              const av_gpu_sparse_grad *grad) {
  const bool whole = grad->n % AV_LANE_COLUMNS == 0 && av_gpu_sparse_on_16_bytes(grad->dy) &&
                     av_gpu_sparse_on_16_bytes(grad->dw) &&
                     av_gpu_sparse_on_16_bytes(grad->dbias) &&
                     av_gpu_sparse_on_16_bytes(grad->partial);
  for (int64_t first = 0; first < rows->max_rows; first += grad->pass_rows) {
    if (whole) {
      launch_pass<true>(stream, *rows, *grad, first);
    } else {
      launch_pass<false>(stream, *rows, *grad, first);
    }
  }
  return cudaGetLastError();
}
