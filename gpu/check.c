#include "check.h"

#include <string.h>

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

const char *av_cuda_advice(cudaError_t code) {
  switch (code) {
    case cudaErrorMemoryAllocation:
      return "; the GPU's memory is full: nvidia-smi says who else is on it; use more ranks with a "
             "GPU each, or a smaller [train] batch_size";
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
      return "; ask the scheduler for GPUs (Slurm: --gpus-per-task=1), give them to a container "
             "(docker --gpus all, apptainer --nv), or set [runtime] backend = cpu";
    case cudaErrorDevicesUnavailable:
      return "; other processes have it for themselves (nvidia-smi), or it is closed to all "
             "(nvidia-smi -q -d COMPUTE)";
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

/* Memory of the host that is pinned is asked for in calls of their own. */
static const char *advice_on(cudaError_t code, const char *call) {
  const char *const pinned = "cudaMallocHost";
  if (code == cudaErrorMemoryAllocation && strncmp(call, pinned, strlen(pinned)) == 0) {
    return "; it is the host's memory that is short, pinned for copies: use fewer ranks a node, "
           "or a smaller [train] batch_size";
  }
  return av_cuda_advice(code);
}

av_status av_cuda_check(cudaError_t code, const char *call, const char *file, int line) {
  if (code == cudaSuccess) {
    return AV_OK;
  }
  (void)cudaGetLastError(); /* reported here: it would be taken for the next launch's too */
  const av_status status = status_of(code);
  const char *const text = cudaGetErrorString(code);
  if (status == AV_BUG) {
    return av_fail_at(status, file, line, "%s: %s (%s)", call, text, cudaGetErrorName(code));
  }
  return av_fail(status, "CUDA: %s (%s, %s, %s:%d)%s", text, cudaGetErrorName(code), call, file,
                 line, advice_on(code, call));
}

static av_status status_of_blas(cublasStatus_t code) {
  switch (code) {
    case CUBLAS_STATUS_ALLOC_FAILED:
    case CUBLAS_STATUS_NOT_INITIALIZED: /* so cublasCreate says that there is no memory */
      return AV_NOMEM;
    case CUBLAS_STATUS_ARCH_MISMATCH:
      return AV_NODEVICE;
    default:
      return AV_BUG;
  }
}

av_status av_cublas_check(cublasStatus_t code, const char *call, const char *file, int line) {
  if (code == CUBLAS_STATUS_SUCCESS) {
    return AV_OK;
  }
  const av_status status = status_of_blas(code);
  const char *const text = cublasGetStatusString(code);
  if (status == AV_BUG) {
    return av_fail_at(status, file, line, "%s: cuBLAS: %s (%s)", call, text,
                      cublasGetStatusName(code));
  }
  return av_fail(status, "cuBLAS: %s (%s, %s, %s:%d)%s", text, cublasGetStatusName(code), call,
                 file, line,
                 status == AV_NOMEM ? av_cuda_advice(cudaErrorMemoryAllocation)
                                    : av_cuda_advice(cudaErrorNoKernelImageForDevice));
}
