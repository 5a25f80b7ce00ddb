#include "kernels/step.h"

#include "kernels/launch.h"

static __global__ void set_step(av_gpu_step step, av_gpu_step *to) { *to = step; }

extern "C" cudaError_t av_gpu_set_step(cudaStream_t stream, av_gpu_step step, av_gpu_step *to) {
  AV_LAUNCH(set_step, 1, 1, 0, stream, step, to);
  return cudaGetLastError();
}
