/* Sums of rho over cells: a thread has a gene and some cells, and adds its sum to those of other
 * threads by atomic operations on whole numbers, which are free of order. Bound: 4 bytes read for
 * each cell and gene, from the second-level cache. */
#include "kernels/decode_sums.h"

#include "kernels/device.h"

enum { THREADS = 256, CELLS = 64 };

static __device__ __forceinline__ void add_word(int64_t *to, int64_t word) {
  atomicAdd((unsigned long long *)to, (unsigned long long)word);
}

static __global__ void __launch_bounds__(THREADS)
    add_values(const av_gpu_decode call, const float *__restrict__ rho, double scale,
               av_wide *sums) {
  const int64_t g = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  const int64_t live = av_n_rows(call.rows) - call.first;
  const int64_t begin = (int64_t)blockIdx.y * CELLS;
  if (g >= call.n_genes || begin >= live) {
    return;
  }
  av_wide sum = {0, 0};
  for (int64_t i = begin; i < begin + CELLS && i < live && i < call.n; ++i) {
    av_wide_add(&sum, scale * (double)rho[i * call.n_genes + g]);
  }
  add_word(&sums[g].high, sum.high);
  add_word(&sums[g].low, sum.low);
}

extern "C" cudaError_t av_gpu_decode_add_values(cudaStream_t stream, const av_gpu_decode *call,
                                                const float *rho, double scale, av_wide *sums) {
  const dim3 grid(av_blocks(call->n_genes, THREADS), av_blocks(call->n, CELLS));
  AV_LAUNCH(add_values, grid, THREADS, 0, stream, *call, rho, scale, sums);
  return cudaGetLastError();
}
