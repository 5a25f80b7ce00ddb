/* The first layer of large minibatches, with slices of its weights in shared memory:
 * sparse_linear.h. */
#include "kernels/sparse_columns.h"
#include "kernels/sparse_linear.h"

enum { WARPS = 32, THREADS = WARPS * AV_WARP, TABLE = AV_SPARSE_TABLE };

/* A block's shared memory. */
template <int QUADS>
struct slice_of {
  float4 *w;    /* (G + 1, QUADS); the last row is 0, for lanes that have no entry */
  float *input; /* (TABLE) of small counts: for each slice each entry is an input again */
};

/* Entry of a lane, as it is stored: its row of the slice, and the code or bits of its value. Most
 * data are `small`: 16 bits of a gene, and 8 of a count. */
typedef struct lane_entry {
  int row;
  unsigned code;
} lane_entry;

template <int QUADS, bool small>
static __device__ __forceinline__ lane_entry entry_of(const av_gpu_data &data, int64_t at,
                                                      bool given) {
  lane_entry entry = {(int)data.n_genes * QUADS, 0};
  if (given && small) {
    entry.row = ((const uint16_t *)data.gene)[at] * QUADS;
    entry.code = ((const uint8_t *)data.value)[at];
  } else if (given) {
    entry.row = av_entry_gene(data, at) * QUADS;
    entry.code = data.kind == AV_COUNT_U8    ? ((const uint8_t *)data.value)[at]
                 : data.kind == AV_COUNT_U16 ? ((const uint16_t *)data.value)[at]
                                             : ((const uint32_t *)data.value)[at];
  }
  return entry;
}

/* Of entry `at`, whose code has arrived. */
template <bool small>
static __device__ __forceinline__ float input_of(const av_gpu_data &data, bool take_log,
                                                 const float *table, unsigned code, int64_t at) {
  const bool kept = (small || data.kind != AV_COUNT_F32) && code < TABLE;
  return kept ? table[code] : av_input_of(data, take_log, at);
}

/* Adds the rows of `count` entries, weighted: to this lane's sum every (32 / QUADS)-th one. `w`:
 * the lane's columns. */
template <int QUADS>
static __device__ __forceinline__ float4 plus_rows(float4 sum, const float4 *w, int row, float x,
                                                   int count) {
  enum { TURNS = AV_WARP / QUADS };
  const int turn = (int)threadIdx.x % AV_WARP / QUADS;
  AV_UNROLL
  for (int e = 0; e < AV_WARP; e += TURNS) {
    if (e < count) {
      const int of = QUADS > 1 ? __shfl_sync(AV_ALL_LANES, row, e + turn) : row;
      const float by = QUADS > 1 ? __shfl_sync(AV_ALL_LANES, x, e + turn) : x;
      sum = av_plus_times(sum, by, w[of]);
    }
  }
  return sum;
}

/* What this lane has of the sum of the slice's rows of a cell's entries, weighted. By a whole warp;
 * the next entries are on their way. */
template <int QUADS, bool small>
static __device__ __forceinline__ float4 sliced_rows(const av_gpu_data &data, bool take_log,
                                                     const av_entries &entries,
                                                     const slice_of<QUADS> &slice) {
  const int lane = (int)threadIdx.x % AV_WARP;
  const float4 *w = slice.w + lane % QUADS;
  int64_t at = entries.start + lane;
  int left = (int)entries.n;
  float4 sum = av_no_columns();
  lane_entry next = entry_of<QUADS, small>(data, at, lane < left);
  for (; left >= AV_WARP; left -= AV_WARP, at += AV_WARP) {
    const lane_entry mine = next;
    next = entry_of<QUADS, small>(data, at + AV_WARP, lane < left - AV_WARP);
    const float x = input_of<small>(data, take_log, slice.input, mine.code, at);
    sum = plus_rows<QUADS>(sum, w, mine.row, x, AV_WARP);
  }
  if (left > 0) {
    const float x =
        lane < left ? input_of<small>(data, take_log, slice.input, next.code, at) : 0.0f;
    sum = plus_rows<QUADS>(sum, w, next.row, x, left);
  }
  return sum;
}

/* Sum over the lanes of a warp that have the same four columns, on each of them. */
template <int QUADS>
static __device__ __forceinline__ float4 sum_of_turns(float4 sum) {
  AV_UNROLL
  for (int offset = QUADS; offset < AV_WARP; offset *= 2) {
    float4 other;
    other.x = __shfl_xor_sync(AV_ALL_LANES, sum.x, offset);
    other.y = __shfl_xor_sync(AV_ALL_LANES, sum.y, offset);
    other.z = __shfl_xor_sync(AV_ALL_LANES, sum.z, offset);
    other.w = __shfl_xor_sync(AV_ALL_LANES, sum.w, offset);
    sum = av_plus(sum, other);
  }
  return sum;
}

/* The block's slice, from column `begin` on, and inputs. */
template <int QUADS>
static __device__ __forceinline__ slice_of<QUADS> fill_slice(const av_gpu_data &data,
                                                             const av_gpu_sparse_layer &layer,
                                                             float4 *room, int begin) {
  const int n_genes = (int)data.n_genes;
  const slice_of<QUADS> slice = {room, (float *)(room + (n_genes + 1) * QUADS)};
  const float *__restrict__ w = layer.w;
  const int quad = (int)threadIdx.x % QUADS;
  const int column = begin + quad * AV_LANE_COLUMNS;
  for (int gene = (int)threadIdx.x / QUADS; gene < n_genes; gene += THREADS / QUADS) {
    slice.w[gene * QUADS + quad] =
        av_load_columns<true>(w + (int64_t)gene * layer.n, column, layer.n);
  }
  if (threadIdx.x < QUADS) {
    slice.w[n_genes * QUADS + quad] = av_no_columns();
  }
  for (int k = (int)threadIdx.x; k < TABLE; k += THREADS) {
    slice.input[k] = layer.take_log ? log1pf((float)k) : (float)k;
  }
  __syncthreads();
  return slice;
}

/* Block (slice, group of cells): 4 QUADS columns of w, every gridDim.y-th 32 cells. */
template <int QUADS, bool small>
static __global__ void __launch_bounds__(THREADS, 1)
    forward_sliced(av_gpu_rows rows, av_gpu_sparse_layer layer) {
  AV_SHARED_ARRAY(float4, room);
  const int lane = (int)threadIdx.x % AV_WARP;
  const int begin = (int)blockIdx.x * QUADS * AV_LANE_COLUMNS;
  const int column = begin + lane % QUADS * AV_LANE_COLUMNS;
  const int64_t n_rows = av_n_rows(rows);
  const int64_t step = (int64_t)gridDim.y * WARPS;
  const slice_of<QUADS> slice = fill_slice<QUADS>(rows.data, layer, room, begin);
  int64_t i = (int64_t)blockIdx.y * WARPS + threadIdx.x / AV_WARP;
  av_entries entries = {0, 0};
  if (i < n_rows) {
    entries = av_entries_of(rows, i);
  }
  for (; i < rows.max_rows; i += step) {
    const av_entries mine = entries;
    if (i + step < n_rows) { /* where the next cell's are, in time */
      entries = av_entries_of(rows, i + step);
    }
    float4 sum = av_no_columns();
    if (i < n_rows) {
      sum = sliced_rows<QUADS, small>(rows.data, layer.take_log, mine, slice);
      if (layer.covariates) {
        sum = av_plus(
            sum, av_covariate_rows<true>(rows, layer, i, lane / QUADS, AV_WARP / QUADS, column));
      }
      sum = av_plus(sum_of_turns<QUADS>(sum), av_load_columns<true>(layer.bias, column, layer.n));
    }
    if (lane < QUADS) {
      av_store_columns<true>(layer.y + i * layer.n, column, layer.n, sum);
    }
  }
}

template <int QUADS, bool small>
static cudaError_t launch(cudaStream_t stream, const av_gpu_rows &rows,
                          const av_gpu_sparse_layer &layer, unsigned groups) {
  const size_t shared = (size_t)av_gpu_sparse_slice_bytes(rows.data.n_genes, 4 * QUADS);
  const dim3 grid(av_blocks(layer.n, QUADS * AV_LANE_COLUMNS), groups);
  const cudaError_t asked = av_let_have(forward_sliced<QUADS, small>, shared);
  if (asked != cudaSuccess) {
    return asked;
  }
  AV_LAUNCH((forward_sliced<QUADS, small>), grid, THREADS, shared, stream, rows, layer);
  return cudaGetLastError();
}

template <bool small>
static cudaError_t launch_slices(cudaStream_t stream, const av_gpu_rows &rows,
                                 const av_gpu_sparse_layer &layer,
                                 const av_gpu_sparse_slices &slices) {
  switch (slices.columns) {
    case 32:
      return launch<8, small>(stream, rows, layer, slices.groups);
    case 16:
      return launch<4, small>(stream, rows, layer, slices.groups);
    case 8:
      return launch<2, small>(stream, rows, layer, slices.groups);
    case 4:
      return launch<1, small>(stream, rows, layer, slices.groups);
    default:
      return cudaErrorInvalidValue;
  }
}

extern "C" cudaError_t av_gpu_sparse_forward_sliced(cudaStream_t stream, const av_gpu_rows *rows,
                                                    const av_gpu_sparse_layer *layer,
                                                    const av_gpu_sparse_slices *slices) {
  const bool small = rows->data.kind == AV_COUNT_U8 && !rows->data.wide_genes;
  return small ? launch_slices<true>(stream, *rows, *layer, *slices)
               : launch_slices<false>(stream, *rows, *layer, *slices);
}
