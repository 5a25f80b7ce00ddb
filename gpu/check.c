#include "check.h"

static av_status status_of(cudaError_t code) {
  switch (code) {
    case cudaErrorMemoryAllocation:
      return AV_NOMEM;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorSystemDriverMismatch:
      return AV_NODEVICE;
    default:
      return AV_BUG;
  }
}

/* What to do about it, to follow the error; "" for nothing. */
static const char *advice(cudaError_t code) {
  switch (code) {
    case cudaErrorNoKernelImageForDevice:
      return "; this build has nothing for this GPU: add its compute capability to "
             "-DATLASVI_CUDA_ARCHITECTURES and build again";
    case cudaErrorInsufficientDriver:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorSystemDriverMismatch:
      return "; install a driver for this version of CUDA, or build with the version that "
             "nvidia-smi names";
    default:
      return "";
  }
}

av_status av_cuda_check(cudaError_t code, const char *call, const char *file, int line) {
  if (code == cudaSuccess) {
    return AV_OK;
  }
  (void)cudaGetLastError(); /* reported here: it would be taken for the next launch's too */
  return av_fail_at(status_of(code), file, line, "%s: %s (%s)%s", call, cudaGetErrorString(code),
                    cudaGetErrorName(code), advice(code));
}

av_status av_cublas_check(cublasStatus_t code, const char *call, const char *file, int line) {
  if (code == CUBLAS_STATUS_SUCCESS) {
    return AV_OK;
  }
  return av_fail_at(code == CUBLAS_STATUS_ALLOC_FAILED ? AV_NOMEM : AV_BUG, file, line,
                    "%s: cuBLAS status %d", call, (int)code);
}
