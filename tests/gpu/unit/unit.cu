#include "unit.h"

#include "kernels/device.h"
#include "kernels/launch.h"

static __global__ void warp(int *out) {
  const int thread = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  const int lane = (int)threadIdx.x % AV_WARP;
  int *mine = out + thread * UNIT_WARP_RESULTS;
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  mine[0] = __shfl_sync(AV_ALL_LANES, thread, 5);
  mine[1] = __shfl_sync(AV_ALL_LANES, thread, lane + 1);
  mine[2] = __shfl_xor_sync(AV_ALL_LANES, thread, 3);
  mine[3] = __shfl_down_sync(AV_ALL_LANES, thread, 4u);
  mine[4] = __shfl_up_sync(AV_ALL_LANES, thread, 4u);
  mine[5] = __shfl_sync(AV_ALL_LANES, thread, 2, 8);
  mine[6] = __shfl_down_sync(AV_ALL_LANES, thread, 3u, 8);
  mine[7] = (int)__ballot_sync(AV_ALL_LANES, lane % 3 == 0);
  mine[8] = __any_sync(half, lane == 20);
  mine[9] = __all_sync(half, lane < 16);
  mine[10] = (int)__shfl_xor_sync(AV_ALL_LANES, (double)thread + 0.25, 1);
  int grown = lane;
  if (lane < 16) { /* half a warp by itself */
    grown += __shfl_xor_sync(half, grown, 8);
    __syncwarp(half);
  }
  __syncwarp();
  mine[11] = grown;
  mine[12] = (int)av_warp_sum((float)lane);
  mine[13] = av_warp_max(lane * 7 % 32);
}

cudaError_t unit_warp(cudaStream_t stream, unsigned blocks, unsigned threads, int *out) {
  AV_LAUNCH(warp, blocks, threads, 0, stream, out);
  return cudaGetLastError();
}

template <int SCALE>
static __global__ void __launch_bounds__(1024)
    block_sum(float *of_float, double *of_double, int *of_int, float *largest) {
  __shared__ float float_room[AV_WARP];
  __shared__ double double_room[AV_WARP];
  __shared__ int int_room[AV_WARP];
  const int thread = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  of_float[thread] = av_block_sum((float)(thread * SCALE), float_room);
  of_double[thread] = av_block_sum(0.5 * thread, double_room);
  of_int[thread] = av_block_sum(thread, int_room) + av_block_sum(1, int_room);
  largest[thread] = av_warp_max((float)thread);
}

cudaError_t unit_block_sum(cudaStream_t stream, unsigned blocks, unsigned threads, float *of_float,
                           double *of_double, int *of_int, float *largest) {
  AV_LAUNCH((block_sum<2>), blocks, threads, 0, stream, of_float, of_double, of_int, largest);
  return cudaGetLastError();
}

static __global__ void plane(int rows, int columns, int *__restrict__ out) {
  const int row = (int)(blockIdx.y * blockDim.y + threadIdx.y);
  const int column = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (row < rows && column < columns) {
    out[row * columns + column] = 1000 * row + column;
  }
}

cudaError_t unit_plane(cudaStream_t stream, int rows, int columns, int *out) {
  const dim3 block(32, 4);
  const dim3 grid(av_blocks(columns, 32), av_blocks(rows, 4));
  AV_LAUNCH(plane, grid, block, 0, stream, rows, columns, out);
  return cudaGetLastError();
}

static __global__ void reverse(int n, const int *in, int *out) {
  AV_SHARED_ARRAY(int, held);
  const int thread = (int)threadIdx.x;
  const int first = (int)(blockIdx.x * blockDim.x);
  const int here = min((int)blockDim.x, n - first);
  if (thread < here) {
    held[thread] = __ldg(in + first + thread);
  }
  __syncthreads();
  if (thread < here) {
    out[first + thread] = held[here - 1 - thread];
  }
}

cudaError_t unit_reverse(cudaStream_t stream, int n, const int *in, int *out) {
  AV_LAUNCH(reverse, av_blocks(n, 64), 64, 64 * sizeof(int), stream, n, in, out);
  return cudaGetLastError();
}

template <int WORDS>
static __global__ void shared_start(uint32_t *of_static, uint32_t *of_dynamic) {
  __shared__ uint32_t words[WORDS];
  AV_SHARED_ARRAY(uint32_t, dynamic);
  if (threadIdx.x == 0) {
    uint32_t a = words[0];
    uint32_t b = dynamic[0];
    for (int i = 1; i < 100; ++i) {
      a = words[i] == a ? a : 1;
      b = dynamic[i] == b ? b : 1;
    }
    of_static[blockIdx.x] = a;
    of_dynamic[blockIdx.x] = b;
  }
  __syncthreads();
  for (int i = (int)threadIdx.x; i < 100; i += (int)blockDim.x) {
    words[i] = dynamic[i] = (uint32_t)i;
  }
}

cudaError_t unit_shared_start(cudaStream_t stream, unsigned blocks, uint32_t *of_static,
                              uint32_t *of_dynamic) {
  AV_LAUNCH((shared_start<100>), blocks, 32, 100 * sizeof(uint32_t), stream, of_static, of_dynamic);
  return cudaGetLastError();
}

static __global__ void atomics(int n, unsigned *count, int *largest, unsigned long long *sum,
                               int *first) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n && i % 3 == 0) {
    atomicAdd(count, 1u);
    atomicMax(largest, i);
    atomicAdd(sum, (unsigned long long)i);
    atomicCAS(first, -1, 7);
  }
}

cudaError_t unit_atomics(cudaStream_t stream, int n, unsigned *count, int *largest,
                         unsigned long long *sum, int *first) {
  AV_LAUNCH(atomics, av_blocks(n, 256), 256, 0, stream, n, count, largest, sum, first);
  return cudaGetLastError();
}

static __global__ void turns(int *counter, int *turn) {
  turn[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1);
}

cudaError_t unit_turns(cudaStream_t stream, unsigned blocks, unsigned threads, int *counter,
                       int *turn) {
  AV_LAUNCH(turns, blocks, threads, 0, stream, counter, turn);
  return cudaGetLastError();
}

static __global__ void empty(void) {}

cudaError_t unit_empty(cudaStream_t stream, unsigned blocks, unsigned threads, unsigned shared) {
  AV_LAUNCH(empty, blocks, threads, shared, stream);
  return cudaGetLastError();
}

cudaError_t unit_allow_shared(int bytes) {
  return cudaFuncSetAttribute(empty, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

static __global__ void scale(int n, const unit_line line, const int *__restrict__ in,
                             int *__restrict__ out) {
  const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) {
    out[i] = line.factor * in[i] + (int)line.term;
  }
}

cudaError_t unit_scale(cudaStream_t stream, int n, unit_line line, const int *in, int *out) {
  AV_LAUNCH(scale, av_blocks(n, 32), 32, 0, stream, n, line, in, out);
  return cudaGetLastError();
}
