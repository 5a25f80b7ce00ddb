/* Sums of rho over cells: a thread has a gene and some cells, makes their logits a few at a time
 * (TILE), or takes wide ones, and adds its sum to those of other threads by atomic operations on
 * whole numbers, which are free of order. Bound: the sums' 64-bit arithmetic, or with dozens of
 * inputs their weights' way from the second-level cache. */
#include "kernels/decode_sums.h"

#include "kernels/decode_logits.h"

enum { THREADS = 256, CELLS = 64 };

static __device__ __forceinline__ void add_word(int64_t *to, int64_t word) {
  atomicAdd((unsigned long long *)to, (unsigned long long)word);
}

template <int TILE>
static __global__ void __launch_bounds__(THREADS)
    add_values(const av_gpu_decode call, const float2 *__restrict__ norms, double scale,
               av_wide *sums) {
  AV_SHARED_ARRAY(float, room_of_inputs);
  const int g = (int)(blockIdx.x * THREADS + threadIdx.x);
  const int64_t live = av_live_end(call);
  const int64_t begin = (int64_t)blockIdx.y * CELLS;
  const int64_t end = live < begin + CELLS ? live : begin + CELLS;
  av_wide sum = {0, 0};
  for (int64_t first = begin; first < end; first += TILE) {
    const av_tile<TILE> tile = av_tile_at<TILE>(call, first, end, room_of_inputs, NULL);
    __syncthreads(); /* the last inputs have been read */
    av_tile_inputs(call, tile);
    __syncthreads();
    if (g >= call.n_genes) {
      continue;
    }
    float logit[TILE];
    av_logits(call, 0, tile, g, logit);
    AV_UNROLL
    for (int r = 0; r < TILE; ++r) {
      if (r < tile.live) {
        const float2 norm = norms[first + r];
        const float e = call.softplus ? av_softplus_of(logit[r]).value : expf(logit[r] - norm.x);
        av_wide_add(&sum, scale * (double)(e * norm.y));
      }
    }
  }
  if (g < call.n_genes && begin < end) {
    add_word(&sums[g].high, sum.high);
    add_word(&sums[g].low, sum.low);
  }
}

extern "C" cudaError_t av_gpu_decode_add_values(cudaStream_t stream, const av_gpu_decode *call,
                                                const float2 *norms, double scale, av_wide *sums) {
  const dim3 grid(av_blocks(call->n_genes, THREADS), av_blocks(call->n, CELLS));
  const size_t inputs = call->wide ? 0 : (size_t)call->n_in * sizeof(float);
  if (4 * inputs <= AV_LOGITS_SHARED) {
    AV_LAUNCH((add_values<4>), grid, THREADS, 4 * inputs, stream, *call, norms, scale, sums);
  } else {
    AV_LAUNCH((add_values<1>), grid, THREADS, inputs, stream, *call, norms, scale, sums);
  }
  return cudaGetLastError();
}
