/* Sending what differs from step to step. */
#ifndef AV_GPU_KERNELS_STEP_H
#define AV_GPU_KERNELS_STEP_H

#include "kernels/view.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* *to = step. A kernel's arguments are kept with its launch: the host may change `step` at once,
 * and nothing is pinned. */
cudaError_t av_gpu_set_step(cudaStream_t stream, av_gpu_step step, av_gpu_step *to);

#ifdef __cplusplus
}
#endif
#endif
