#include "rig.h"

av_status rig_open(rig *r, const av_comm *comm, bool through_mpi, double timeout) {
  *r = (rig){
      .be = {.comm = comm,
             .sums_by_mpi = through_mpi,
             .gpu_timeout = timeout,
             .bytes = {
                 [AV_REAL] = sizeof(float), [AV_GRAD] = sizeof(float), [AV_SUM] = sizeof(double)}}};
  r->be.state = &r->gpu;
  AV_TRY(AV_CUDA(cudaStreamCreateWithFlags(&r->gpu.stream, cudaStreamNonBlocking)));
  return av_gpu_ranks_open(&r->be, &r->gpu.ranks);
}

void rig_close(rig *r) {
  if (av_gpu_ranks_close(&r->be, r->gpu.ranks)) {
    (void)cudaStreamDestroy(r->gpu.stream);
  }
}
