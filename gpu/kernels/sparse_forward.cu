#include "kernels/sparse_columns.h"
#include "kernels/sparse_linear.h"

enum {
  WARPS = AV_SPARSE_WARPS,
  THREADS = WARPS * AV_WARP,
  ROWS_AHEAD = 8,          /* of w, on their way together */
  FORWARD_BLOCKS = 2 * 528 /* when there are more, cells need no more warps */
};

/* Sum of the rows of w of entries [begin, end), weighted; by a whole warp. */
template <bool whole>
static __device__ float4 weighted_rows(const av_gpu_data &data, const av_gpu_sparse_layer &layer,
                                       int64_t begin, int64_t end, int column) {
  const int lane = (int)threadIdx.x % AV_WARP;
  const float *__restrict__ w = layer.w;
  const int n = layer.n;
  float4 sum = av_no_columns();
  for (int64_t first = begin; first < end; first += AV_WARP) {
    const int count = end - first < AV_WARP ? (int)(end - first) : (int)AV_WARP;
    const int gene = lane < count ? av_entry_gene(data, first + lane) : 0;
    const float x = lane < count ? av_input_of(data, layer.take_log, first + lane) : 0.0f;
    for (int e = 0; e < count; e += ROWS_AHEAD) {
      float4 row[ROWS_AHEAD];
      AV_UNROLL
      for (int a = 0; a < ROWS_AHEAD; ++a) {
        const int64_t of = __shfl_sync(AV_ALL_LANES, gene, e + a);
        row[a] = e + a < count ? av_load_columns<whole>(w + of * n, column, n) : av_no_columns();
      }
      AV_UNROLL
      for (int a = 0; a < ROWS_AHEAD; ++a) {
        sum = av_plus_times(sum, __shfl_sync(AV_ALL_LANES, x, e + a), row[a]);
      }
    }
  }
  return sum;
}

/* Block (cells, columns). */
template <bool whole>
static __global__ void forward(av_gpu_rows rows, av_gpu_sparse_layer layer, int cell_warps) {
  __shared__ float4 part[WARPS][AV_WARP];
  const int warp = (int)threadIdx.x / AV_WARP;
  const int lane = (int)threadIdx.x % AV_WARP;
  const int share = warp % cell_warps;
  const int64_t i = (int64_t)blockIdx.x * (WARPS / cell_warps) + warp / cell_warps;
  const int column = (int)blockIdx.y * AV_SPARSE_COLUMNS + lane * AV_LANE_COLUMNS;
  const bool present = i < av_n_rows(rows);
  float4 sum = av_no_columns();
  if (present) {
    const av_entries entries = av_entries_of(rows, i);
    sum = weighted_rows<whole>(rows.data, layer, entries.start + entries.n * share / cell_warps,
                               entries.start + entries.n * (share + 1) / cell_warps, column);
    if (layer.covariates) {
      sum = av_plus(sum, av_covariate_rows<whole>(rows, layer, i, share, cell_warps, column));
    }
  }
  if (cell_warps > 1) {
    part[warp][lane] = sum;
    __syncthreads();
    for (int k = 1; share == 0 && k < cell_warps; ++k) {
      sum = av_plus(sum, part[warp + k][lane]);
    }
  }
  if (share == 0 && i < rows.max_rows) {
    if (present) {
      sum = av_plus(sum, av_load_columns<whole>(layer.bias, column, layer.n));
    }
    av_store_columns<whole>(layer.y + i * layer.n, column, layer.n, sum);
  }
}

extern "C" cudaError_t av_gpu_sparse_forward(cudaStream_t stream, const av_gpu_rows *rows,
                                             const av_gpu_sparse_layer *layer) {
  const unsigned columns = av_blocks(layer->n, AV_SPARSE_COLUMNS);
  int cell_warps = WARPS;
  while (cell_warps > 1 &&
         rows->max_rows * columns * cell_warps > (int64_t)WARPS * FORWARD_BLOCKS) {
    cell_warps /= 2;
  }
  const dim3 grid(av_blocks(rows->max_rows, WARPS / cell_warps), columns);
  if (av_gpu_sparse_whole(layer)) {
    AV_LAUNCH((forward<true>), grid, THREADS, 0, stream, *rows, *layer, cell_warps);
  } else {
    AV_LAUNCH((forward<false>), grid, THREADS, 0, stream, *rows, *layer, cell_warps);
  }
  return cudaGetLastError();
}
