/* Return codes of CUDA and cuBLAS, each through one macro. */
#ifndef AV_GPU_CHECK_H
#define AV_GPU_CHECK_H

#include "base/status.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

/* AV_OK, or the error with the call and its place. Memory that is not there is AV_NOMEM, a device
 * that is not there AV_NODEVICE, both with what to do; anything else is our bug, AV_BUG. */
#define AV_CUDA(call) av_cuda_check((call), #call, __FILE__, __LINE__)
av_status av_cuda_check(cudaError_t code, const char *call, const char *file, int line);
#define AV_CUBLAS(call) av_cublas_check((call), #call, __FILE__, __LINE__)
av_status av_cublas_check(cublasStatus_t code, const char *call, const char *file, int line);

/* What to do about an error of CUDA, to follow its text: "; ..."; "" where nothing is known. */
const char *av_cuda_advice(cudaError_t code);

#endif
