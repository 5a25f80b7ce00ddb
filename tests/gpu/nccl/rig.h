/* A cuda backend with a stream and ranks, and nothing else: memory is the host's (cuda_host.h). */
#ifndef AV_TESTS_GPU_NCCL_RIG_H
#define AV_TESTS_GPU_NCCL_RIG_H

#include "comm.h"
#include "state.h"

typedef struct rig {
  av_backend be;
  av_gpu gpu;
} rig;

av_status rig_open(rig *r, const av_comm *comm, bool through_mpi, double timeout);
void rig_close(rig *r);

#endif
