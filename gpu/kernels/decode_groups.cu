/* Cells in the order of a key, and sums of rows of gradients over the cells that share one.
 *
 * sort: how many of the chunk's cells have smaller keys is counted by comparing each with all, n^2
 * comparisons a factor from shared memory, of some 6 instructions (4,096 cells: 16 million, on 128
 * blocks: some us), which gives an order that nothing disturbs. groups: a block has 128 genes and,
 * in turn, keys; its warps share a key's cells. Bound: 4 bytes for each cell and gene. */
#include "kernels/decode.h"
#include "kernels/device.h"

enum {
  THREADS = 256,
  WARPS = THREADS / AV_WARP,
  SHARES = 8,      /* threads that sort a row */
  SORTED = THREADS / SHARES,
  KEY_BLOCKS = 64, /* that share the keys */
  RUN = 32,        /* rows that are added in float */
  LANE_GENES = AV_DECODE_KEY_GENES / AV_WARP
};

static __device__ __forceinline__ int key_of(const av_gpu_decode &call,
                                             const av_gpu_decode_keys &keys, int64_t i,
                                             int factor) {
  const int64_t row = call.rows.row[call.first + i];
  return keys.key[row * keys.stride + factor];
}

/* Rows of the chunk that are there. */
static __device__ __forceinline__ int64_t rows_there(const av_gpu_decode &call) {
  const int64_t left = av_n_rows(call.rows) - call.first;
  return left < 0 ? 0 : left < call.n ? left : call.n;
}

/* Block (part of rows and keys, factor): SHARES threads for each row of the chunk, then for each
 * key, compare it with a share of the rows each. */
static __global__ void __launch_bounds__(THREADS)
    sort(const av_gpu_decode call, const av_gpu_decode_keys keys) {
  __shared__ int tile[THREADS];
  const int factor = (int)blockIdx.y;
  const int share = (int)threadIdx.x % SHARES;
  const int64_t n_rows = rows_there(call);
  const int64_t i = (int64_t)blockIdx.x * SORTED + threadIdx.x / SHARES;
  const bool is_row = i < call.n;
  const int64_t base = factor * call.n; /* of the factor's part of order */
  const int key = !is_row ? (int)(i - call.n) : i < n_rows ? key_of(call, keys, i, factor) : -1;
  int less = 0;
  int equal = 0; /* of a row: those before it */
  for (int64_t first = 0; first < n_rows; first += THREADS) {
    __syncthreads();
    const int64_t mine = first + threadIdx.x;
    tile[threadIdx.x] = mine < n_rows ? key_of(call, keys, mine, factor) : INT32_MAX; /* no key */
    __syncthreads();
    const int before = is_row && i - first < THREADS ? (int)(i - first) : (int)THREADS;
#ifdef __CUDACC__
#pragma unroll 16
#endif
    for (int j = share; j < THREADS; j += SHARES) {
      less += tile[j] < key ? 1 : 0;
      equal += tile[j] == key && j < before ? 1 : 0;
    }
  }
  for (int offset = SHARES / 2; offset > 0; offset /= 2) {
    less += __shfl_xor_sync(AV_ALL_LANES, less, offset);
    equal += __shfl_xor_sync(AV_ALL_LANES, equal, offset);
  }
  if (share == 0 && is_row && i < n_rows) {
    keys.order[base + less + equal] = (int32_t)i;
  }
  if (share == 0 && !is_row && key < keys.n_keys) {
    const bool own =
        keys.first == NULL || (key >= keys.first[factor] && key < keys.first[factor + 1]);
    if (own) {
      keys.begin[key] = (int32_t)(base + less);
      keys.end[key] = (int32_t)(base + less + equal);
    }
  }
}

extern "C" cudaError_t av_gpu_decode_sort(cudaStream_t stream, const av_gpu_decode *call,
                                          const av_gpu_decode_keys *keys) {
  const dim3 grid(av_blocks(call->n + keys->n_keys, SORTED), (unsigned)keys->n_factors);
  AV_LAUNCH(sort, grid, THREADS, 0, stream, *call, *keys);
  return cudaGetLastError();
}

/* A lane's four genes. */
typedef struct four_sums {
  double of[LANE_GENES];
} four_sums;

/* Every WARPS-th of the rows [begin, end) of order, from number `warp` on. */
static __device__ four_sums sum_rows(const av_gpu_decode_keys &keys, const float *rows,
                                     int64_t stride, int64_t g, int begin, int end, int warp) {
  four_sums sums = {{0.0, 0.0, 0.0, 0.0}};
  for (int first = begin + warp; first < end; first += RUN * WARPS) {
    float4 run = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const int last = first + RUN * WARPS < end ? first + RUN * WARPS : end;
#ifdef __CUDACC__
#pragma unroll 4
#endif
    for (int at = first; at < last; at += WARPS) {
      const float4 row = *reinterpret_cast<const float4 *>(rows + keys.order[at] * stride + g);
      run.x += row.x;
      run.y += row.y;
      run.z += row.z;
      run.w += row.w;
    }
    sums.of[0] += (double)run.x;
    sums.of[1] += (double)run.y;
    sums.of[2] += (double)run.z;
    sums.of[3] += (double)run.w;
  }
  return sums;
}

/* Block (128 genes, keys in turn). */
static __global__ void __launch_bounds__(THREADS)
    groups(const av_gpu_decode call, const av_gpu_decode_keys keys, const float *rows,
           float *sums) {
  __shared__ double room[WARPS][AV_DECODE_KEY_GENES];
  const int thread = (int)threadIdx.x;
  const int warp = thread / AV_WARP;
  const int lane = thread % AV_WARP;
  const int64_t first_gene = (int64_t)blockIdx.x * AV_DECODE_KEY_GENES;
  const int64_t g = first_gene + lane * LANE_GENES;
  for (int key = (int)blockIdx.y; key < keys.n_keys; key += (int)gridDim.y) {
    const int begin = keys.begin[key];
    const int end = keys.end[key];
    if (begin == end) {
      continue; /* the whole block */
    }
    four_sums mine = {{0.0, 0.0, 0.0, 0.0}};
    if (g < call.stride) {
      mine = sum_rows(keys, rows, call.stride, g, begin, end, warp);
    }
    for (int c = 0; c < LANE_GENES; ++c) {
      room[warp][lane * LANE_GENES + c] = mine.of[c];
    }
    __syncthreads();
    if (thread < AV_DECODE_KEY_GENES && first_gene + thread < call.n_genes) {
      float *to = sums + key * call.n_genes + first_gene + thread;
      double all = (double)*to;
      for (int v = 0; v < WARPS; ++v) {
        all += room[v][thread];
      }
      *to = (float)all;
    }
    __syncthreads();
  }
}

extern "C" cudaError_t av_gpu_decode_groups(cudaStream_t stream, const av_gpu_decode *call,
                                            const av_gpu_decode_keys *keys, const float *rows,
                                            float *sums) {
  const int parts = keys->n_keys < KEY_BLOCKS ? keys->n_keys : (int)KEY_BLOCKS;
  const dim3 grid(av_blocks(call->n_genes, AV_DECODE_KEY_GENES), (unsigned)parts);
  AV_LAUNCH(groups, grid, THREADS, 0, stream, *call, *keys, rows, sums);
  return cudaGetLastError();
}
