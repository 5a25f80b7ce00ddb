/* The optimiser's kernels.
 *
 * Bound: bytes. Seven streams of 4 bytes a parameter (p, m, v and the gradient are read, and all
 * written, the gradient as 0), and one more where the gradient's length is wanted; 10 flops and a
 * root beside. So one fused pass, 16 bytes a thread and stream, which leaves four loads in flight a
 * thread; the parameters of a small model (0.6 million: 17 MB) stay in L2. One launch; with a clip
 * three: sums of squares by pieces, their sum, the pass. */
#ifndef AV_GPU_KERNELS_ADAM_H
#define AV_GPU_KERNELS_ADAM_H

#include "kernels/view.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A range of parameters, and of Adam's numbers those that stay the same. */
typedef struct av_gpu_adam_plan {
  int64_t n;
  float *params, *grads, *m, *v;
  float beta1, rest1; /* rest: 1 - beta */
  float beta2, rest2;
  float eps;
  float weight_decay; /* what the gradient gets of the parameter; 0 if decoupled */
  double clip;        /* 0: none */
} av_gpu_adam_plan;

/* Doubles of scratch for av_gpu_adam_factor. */
int64_t av_gpu_adam_scratch(int64_t n);

/* scratch[0] = what gradients are multiplied by: step->adam_scale, and less where the scaled
 * gradient is longer than plan->clip. */
cudaError_t av_gpu_adam_factor(cudaStream_t stream, const av_gpu_adam_plan *plan,
                               const av_gpu_step *step, double *scratch);

/* Adam's step; factor: from av_gpu_adam_factor, or NULL for step->adam_scale. */
cudaError_t av_gpu_adam_update(cudaStream_t stream, const av_gpu_adam_plan *plan,
                               const av_gpu_step *step, const double *factor);

#ifdef __cplusplus
}
#endif
#endif
