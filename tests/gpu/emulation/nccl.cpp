#include "nccl.h"

#include <stdlib.h>
#include <string.h>

struct ncclComm {
  int unused;
};

static ncclResult_t copy(const void *from, void *to, size_t n, ncclDataType_t type,
                         cudaStream_t stream) {
  const size_t bytes = n * (type == ncclDouble ? sizeof(double) : sizeof(float));
  if (from == to || n == 0) {
    return ncclSuccess;
  }
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream) == cudaSuccess
             ? ncclSuccess
             : ncclUnhandledCudaError;
}

ncclResult_t ncclGetVersion(int *version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  memset(id, 0, sizeof *id);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId, int, ncclConfig_t *) {
  *comm = NULL;
  if (size != 1) {
    return ncclInvalidUsage;
  }
  *comm = static_cast<ncclComm_t>(calloc(1, sizeof **comm));
  return *comm == NULL ? ncclSystemError : ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  free(comm);
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) { return ncclCommDestroy(comm); }
ncclResult_t ncclCommGetAsyncError(ncclComm_t, ncclResult_t *error) {
  *error = ncclSuccess;
  return ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t result) {
  return result == ncclSuccess ? "no error" : "more than one rank is not emulated";
}
const char *ncclGetLastError(ncclComm_t) { return ""; }
ncclResult_t ncclGroupStart(void) { return ncclSuccess; }
ncclResult_t ncclGroupEnd(void) { return ncclSuccess; }
ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t,
                           ncclComm_t, cudaStream_t stream) {
  return copy(from, to, n, type, stream);
}
ncclResult_t ncclReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t, int,
                        ncclComm_t, cudaStream_t stream) {
  return copy(from, to, n, type, stream);
}
ncclResult_t ncclReduceScatter(const void *from, void *to, size_t n, ncclDataType_t type,
                               ncclRedOp_t, ncclComm_t, cudaStream_t stream) {
  return copy(from, to, n, type, stream);
}
ncclResult_t ncclAllGather(const void *from, void *to, size_t n, ncclDataType_t type, ncclComm_t,
                           cudaStream_t stream) {
  return copy(from, to, n, type, stream);
}
ncclResult_t ncclBroadcast(const void *from, void *to, size_t n, ncclDataType_t type, int,
                           ncclComm_t, cudaStream_t stream) {
  return copy(from, to, n, type, stream);
}
