#include "roofline/planted.h"

#include "kernels/launch.h"

static __global__ void axpy(const float *a, const float *b, const float *s, float *c) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < PLANTED_N) {
    c[i] = fmaf(a[i], *s, b[i]);
  }
}

static __global__ void exponentials(const float *a, const float *b, float *c) {
  __shared__ float turned[PLANTED_THREADS];
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  const bool inside = i < PLANTED_N;
  const float value = inside ? a[i] : 0.0f;
  turned[PLANTED_THREADS - 1 - (int)threadIdx.x] = value;
  __syncthreads();
  if (inside) {
    c[i] = expf(value) / b[i] - value;
    c[i] += turned[threadIdx.x];
  }
}

/* Lane i of a warp goes round i + 1 times. */
static __global__ void rounds(const float *a, const float *s, float *c) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < PLANTED_N) {
    float sum = 0.0f;
#pragma unroll 1
    for (int k = 0; k <= i % 32; ++k) {
      sum = fmaf(a[(i + 7 * k) % PLANTED_N], *s, sum);
    }
    c[i] = sum;
  }
}

cudaError_t planted_axpy(cudaStream_t stream, const float *a, const float *b, const float *s,
                         float *c) {
  AV_LAUNCH(axpy, av_blocks(PLANTED_N, PLANTED_THREADS), PLANTED_THREADS, 0, stream, a, b, s, c);
  return cudaGetLastError();
}

cudaError_t planted_exp(cudaStream_t stream, const float *a, const float *b, float *c) {
  AV_LAUNCH(exponentials, av_blocks(PLANTED_N, PLANTED_THREADS), PLANTED_THREADS, 0, stream, a, b,
            c);
  return cudaGetLastError();
}

cudaError_t planted_rounds(cudaStream_t stream, const float *a, const float *s, float *c) {
  AV_LAUNCH(rounds, av_blocks(PLANTED_N, PLANTED_THREADS), PLANTED_THREADS, 0, stream, a, s, c);
  return cudaGetLastError();
}
