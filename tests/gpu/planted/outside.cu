#include "planted.h"

#include "kernels/launch.h"

static __global__ void read_outside(int n, const float *in, float *out) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) {
    out[i] = in[i + 1]; /* the fault: i + 1 may be n */
  }
}

cudaError_t planted_read_outside(cudaStream_t stream, int n, const float *in, float *out) {
  AV_LAUNCH(read_outside, av_blocks(n, 128), 128, 0, stream, n, in, out);
  return cudaGetLastError();
}

static __device__ __attribute__((noinline)) float entry(const float *held, int i) {
  return held[i];
}

template <bool IN_PLACE, int N>
static __global__ void static_outside(float *out) {
  __shared__ float held[N];
  const int i = (int)threadIdx.x;
  held[i] = (float)i;
  __syncthreads();
  out[i] = IN_PLACE ? held[i + 1] : entry(held, i + 1); /* the fault */
}

cudaError_t planted_static_outside(cudaStream_t stream, bool in_place, float *out) {
  if (in_place) {
    AV_LAUNCH((static_outside<true, 64>), 1, 64, 0, stream, out);
  } else {
    AV_LAUNCH((static_outside<false, 64>), 1, 64, 0, stream, out);
  }
  return cudaGetLastError();
}

static __global__ void dynamic_outside(float *out) {
  AV_SHARED_ARRAY(float, held);
  const int i = (int)threadIdx.x;
  held[i] = (float)i;
  __syncthreads();
  out[i] = held[i + 1]; /* the fault */
}

cudaError_t planted_dynamic_outside(cudaStream_t stream, float *out) {
  AV_LAUNCH(dynamic_outside, 1, 64, 64 * sizeof(float), stream, out);
  return cudaGetLastError();
}

static __global__ void unwritten(float *out) {
  __shared__ float held[32];
  if (threadIdx.x < 31) { /* the fault: the last is not written */
    held[threadIdx.x] = 1.0f;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0.0f;
    for (int i = 0; i < 32; ++i) {
      sum += held[i];
    }
    *out = sum;
  }
}

cudaError_t planted_unwritten(cudaStream_t stream, float *out) {
  AV_LAUNCH(unwritten, 1, 32, 0, stream, out);
  return cudaGetLastError();
}
