/* Bound: 24 bytes for each number. */
#include "kernels/add.h"

#include "kernels/launch.h"

enum { THREADS = 256 };

static __global__ void __launch_bounds__(THREADS)
    add(int64_t n, double *sums, const double *__restrict__ more) {
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < n) {
    sums[i] += more[i];
  }
}

extern "C" cudaError_t av_gpu_add_sums(cudaStream_t stream, int64_t n, double *sums,
                                       const double *more) {
  AV_LAUNCH(add, av_blocks(n, THREADS), THREADS, 0, stream, n, sums, more);
  return cudaGetLastError();
}
