/* The ranks of a run on GPUs: sums over them, and waiting for what depends on them.
 *
 * Two ways, chosen when the backend opens:
 *   - NCCL (comm_nccl.h): GPU to GPU, one rank a GPU. Sums are queued like kernels; the host waits
 *     for nothing but their being queued.
 *   - MPI (comm_mpi.h), where be->sums_by_mpi: through pinned memory of the host. Several ranks may
 *     share a GPU; every sum waits for the GPU. For GPUs that NCCL cannot join.
 * One rank alone has neither: its operations do nothing.
 *
 * Nothing hangs for ever through NCCL: whoever waits asks NCCL for errors meanwhile, and gives up
 * after be->gpu_timeout seconds (0: never) where there are sums to wait for. Both end the run, as a
 * failed GPU does: that rank tells the others (ending.h), who hear it where they wait, for their
 * GPU or for ranks in MPI (be->listener); each aborts its communicator, and then the processes end,
 * those too that never heard of it. Where CUDA itself waits nobody can ask: av_gpu_wait comes
 * before a copy to memory that is not pinned, av_gpu_settle before memory is freed; data are loaded
 * when no sum is under way. A host that runs ahead of a GPU that stands still would end up inside a
 * launch (CUDA queues about a thousand): it waits before, for what it has queued some minibatches
 * (batch.c) and some hundreds of launches (ahead.c) ago. A rank that dies takes the run down
 * through mpirun; one that hangs while the others are in MPI is waited for, as on CPUs.
 *
 * comm->traffic: operations and bytes are counted as by the cpu backend, but that arrays gathered
 * together through NCCL are one operation. Through MPI seconds are those of the whole operation.
 * Through NCCL they are the host's of queueing (none where a graph is played), and `queued` says
 * so: what the GPU takes, and how much of it beside kernels, only its clock knows. */
#ifndef AV_GPU_COMM_H
#define AV_GPU_COMM_H

#include "backend/backend.h"

#include <cuda_runtime_api.h>

struct av_gpu_ranks;

/* After the device and av_gpu.stream are there; be->sums_by_mpi chooses, and be->gpu_timeout is
 * the time-out. *ranks is NULL for a rank alone; be->sums is set. All ranks get the same status, or
 * the run ends. Collective. */
av_status av_gpu_ranks_open(av_backend *be, struct av_gpu_ranks **ranks);
/* Waits a little for what is queued. False, after a warning: NCCL did not end, and nobody may wait
 * for the GPU any more; what lies there is left to the process's end. NULL is nothing to free.
 * Collective. */
bool av_gpu_ranks_close(av_backend *be, struct av_gpu_ranks *ranks);

/* Waits until all that is queued on av_gpu.stream is done, or `event` has come. `phase` is for the
 * error text: what is waited for, "losses of an epoch". A failed GPU is the status of a rank alone;
 * with others, who wait for it, it ends the run, as NCCL's errors and the time-out do. */
av_status av_gpu_wait(av_backend *be, const char *phase);
av_status av_gpu_wait_event(av_backend *be, cudaEvent_t event, const char *phase);
/* `status`, of what only this rank has done: with others, who wait for it, a failure ends the run.
 */
av_status av_gpu_own(const av_backend *be, av_status status);
/* Before memory is freed, where CUDA would wait for every stream and nobody could ask: waits for
 * the sums by shares as well. What has failed is reported by who asked for it, unless other ranks
 * would wait for this one: that ends the run. No error joins one that is recorded already. */
void av_gpu_settle(av_backend *be, const char *phase);

#endif
