/* Sums over ranks by MPI, through pinned memory of the host: for GPUs that NCCL cannot join, and
 * for ranks that share one. Complete on return; each waits for the GPU. MPI need not know of GPUs.
 *
 * Bits: sums by shares are added in the order of the ranks; MPI_Allreduce keeps to one order for
 * the same length, ranks and nodes in the MPI libraries we know.
 *
 * Counted in be->comm->traffic. A failure is returned, and this rank's alone. */
#ifndef AV_GPU_COMM_MPI_H
#define AV_GPU_COMM_MPI_H

#include "comm_array.h"

/* Memory of the host between GPU and MPI, which stays for the next sum. Zeroed: none yet. */
typedef struct av_gpu_staged {
  void *pinned;
  size_t pinned_bytes;
  void *received; /* (ranks - 1, own share): what the others have sent for it */
  size_t received_bytes;
  int *counts; /* (4, ranks): what is sent to whom, what comes from whom: numbers, offsets */
} av_gpu_staged;

void av_gpu_staged_free(av_gpu_staged *staged);

/* In-place sum to all ranks. */
av_status av_gpu_staged_sum(av_backend *be, av_gpu_staged *staged, const av_gpu_array *array);
/* In-place sum of each share to its rank alone; what the others then hold is as before. */
av_status av_gpu_staged_sum_shares(av_backend *be, av_gpu_staged *staged,
                                   const av_gpu_array *array);
/* Each rank's share to all others. */
av_status av_gpu_staged_gather(av_backend *be, av_gpu_staged *staged, const av_gpu_array *array);

#endif
