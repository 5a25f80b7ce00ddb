/* What the program finds in libatlasvi_cuda.so. */
#include "backend/cuda_module.h"

#include "cuda_backend.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdio.h>

/* CUDA numbers 13.0 as 13000, NCCL 2.27.3 as 22703. */
static void versions(char cuda[AV_CUDA_VERSION_TEXT], char nccl[AV_CUDA_VERSION_TEXT]) {
  int runtime = 0;
  int driver = 0;
  int version = 0;
  (void)cudaRuntimeGetVersion(&runtime);
  const int used =
      snprintf(cuda, AV_CUDA_VERSION_TEXT, "%d.%d", runtime / 1000, runtime % 1000 / 10);
  const size_t left = AV_CUDA_VERSION_TEXT - (size_t)used;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0) {
    snprintf(cuda + used, left, ", driver for %d.%d", driver / 1000, driver % 1000 / 10);
  } else {
    snprintf(cuda + used, left, ", no driver");
  }
  if (ncclGetVersion(&version) == ncclSuccess) {
    snprintf(nccl, AV_CUDA_VERSION_TEXT, "%d.%d.%d", version / 10000, version / 100 % 100,
             version % 100);
  } else {
    snprintf(nccl, AV_CUDA_VERSION_TEXT, "unknown");
  }
}

const char av_interface_of_cuda[] = AV_CUDA_INTERFACE;

const av_cuda_module av_module_of_cuda = {.ops = &av_backend_cuda, .versions = versions};
