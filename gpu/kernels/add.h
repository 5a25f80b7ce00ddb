/* Sums added to sums. */
#ifndef AV_GPU_KERNELS_ADD_H
#define AV_GPU_KERNELS_ADD_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* sums (n) += more (n) */
cudaError_t av_gpu_add_sums(cudaStream_t stream, int64_t n, double *sums, const double *more);

#ifdef __cplusplus
}
#endif
#endif
