#include "planted.h"

#include "kernels/device.h"
#include "kernels/launch.h"

enum { THREADS = 256 };

template <bool FAULTY>
static __global__ void rotate(float *out) {
  __shared__ float held[THREADS];
  const int thread = (int)threadIdx.x;
  const int i = (int)blockIdx.x * THREADS + thread;
  held[thread] = (float)i;
  if (!FAULTY) {
    __syncthreads();
  }
  out[i] = held[(thread + 100) % THREADS];
}

cudaError_t planted_rotate(cudaStream_t stream, bool faulty, unsigned blocks, float *out) {
  if (faulty) {
    AV_LAUNCH((rotate<true>), blocks, THREADS, 0, stream, out);
  } else {
    AV_LAUNCH((rotate<false>), blocks, THREADS, 0, stream, out);
  }
  return cudaGetLastError();
}

template <bool FAULTY>
static __global__ void halving(float *out) {
  AV_SHARED_ARRAY(float, held);
  const int thread = (int)threadIdx.x;
  held[thread] = (float)((int)blockIdx.x + thread);
  __syncthreads();
  for (int half = THREADS / 2; half > 0; half /= 2) {
    if (thread < half) {
      held[thread] += held[thread + half];
    }
    if (!FAULTY || half > AV_WARP) { /* the fault: lanes of a warp need no barrier, it believes */
      __syncthreads();
    }
  }
  if (thread == 0) {
    out[blockIdx.x] = held[0];
  }
}

cudaError_t planted_halving(cudaStream_t stream, bool faulty, unsigned blocks, float *out) {
  if (faulty) {
    AV_LAUNCH((halving<true>), blocks, THREADS, THREADS * sizeof(float), stream, out);
  } else {
    AV_LAUNCH((halving<false>), blocks, THREADS, THREADS * sizeof(float), stream, out);
  }
  return cudaGetLastError();
}

static __global__ void between_blocks(float *out) {
  if (threadIdx.x == 0) {
    const float before = blockIdx.x > 0 ? out[blockIdx.x - 1] : 0.0f; /* the fault */
    out[blockIdx.x] = before + 1.0f;
  }
}

cudaError_t planted_between_blocks(cudaStream_t stream, unsigned blocks, float *out) {
  AV_LAUNCH(between_blocks, blocks, 32, 0, stream, out);
  return cudaGetLastError();
}

static __global__ void divergent_end(float *out) {
  if (threadIdx.x >= THREADS / 2) {
    return; /* the fault */
  }
  __syncthreads();
  out[threadIdx.x] = 1.0f;
}

cudaError_t planted_divergent_end(cudaStream_t stream, float *out) {
  AV_LAUNCH(divergent_end, 1, THREADS, 0, stream, out);
  return cudaGetLastError();
}

static __global__ void divergent_barrier(float *out) {
  if (threadIdx.x >= THREADS / 2) {
    __syncthreads(); /* the fault */
    out[threadIdx.x] = 2.0f;
  } else {
    __syncthreads();
    out[threadIdx.x] = 1.0f;
  }
}

cudaError_t planted_divergent_barrier(cudaStream_t stream, float *out) {
  AV_LAUNCH(divergent_barrier, 1, THREADS, 0, stream, out);
  return cudaGetLastError();
}

static __global__ void divergent_warp(int *out) {
  const int lane = (int)threadIdx.x;
  if (lane < 20) { /* the fault: the mask is of all lanes */
    out[lane] = __shfl_xor_sync(AV_ALL_LANES, lane, 1);
  }
}

cudaError_t planted_divergent_warp(cudaStream_t stream, int *out) {
  AV_LAUNCH(divergent_warp, 1, 32, 0, stream, out);
  return cudaGetLastError();
}
