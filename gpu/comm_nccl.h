/* Sums over ranks by NCCL: one communicator of all ranks, one rank a GPU.
 *
 * The communicator does not block (blocking = 0), so that a rank can leave, by ncclCommAbort, when
 * others do not come. Every call may then return before its work is queued; we ask until it is,
 * because what is queued after it on the stream must come after it, and because NCCL allows no
 * other call meanwhile. A thread of NCCL's own queues: up to 2.20 at least where a call has to
 * connect ranks first, from 2.27 at the latest in every call (src/group.cc, ncclGroupEndInternal);
 * to start it is work of the host, which a captured step does not do again.
 *
 * In a capture the same holds: the operations are in the graph when the call is through. They are
 * added to it by NCCL's thread, which also allocates where it needs to; so the capture must not be
 * of the global mode, which forbids that to all threads. NCCL keeps what its part of a graph needs,
 * and no communicator ends before the last graph with its operations is destroyed: graphs first,
 * then av_gpu_nccl_close. av_gpu_nccl_end gives up waiting for that.
 *
 * NCCL runs the operations of one communicator one after another, whatever their streams: a sum
 * that follows a sum by shares waits for it, kernels between them do not (AV_SUMS_IN_TURN: the
 * model begins sums by shares when none of the others is to come). A second communicator would cost
 * as much memory again (hundreds of MB) and the rules against deadlock between two.
 *
 * Bits: the order of a sum depends on the algorithm, the number of channels and the order of the
 * ranks in a ring or tree, which NCCL chooses by type, length, version and what connects the GPUs.
 * On the same GPUs of the same nodes the same sums come out of every run, except where a switch
 * adds up: an NVSwitch (NVLS), whose order varies from call to call (NVIDIA/nccl #1497), or one of
 * the network (CollNet), whose order nobody promises. Without either NCCL's own algorithms, rings
 * and trees, are left, whatever NCCL_ALGO says. NVLS is switched off unless the environment
 * switches it on; where the bits are promised (`same_bits`) both are, and an environment that
 * switches one on is refused. Off is, too, what NCCL does otherwise for a sum in a graph than for
 * the same outside (NCCL_GRAPH_REGISTER=0), unless the environment says otherwise. All ranks get
 * the same bits in any case (NVIDIA/nccl #855).
 *
 * Errors: a function that fails has recorded the error, and the communicator is of no more use:
 * av_gpu_nccl_end. While any of them waits it listens for other ranks that end the run (ending.h),
 * and may end this process with them. */
#ifndef AV_GPU_COMM_NCCL_H
#define AV_GPU_COMM_NCCL_H

#include "comm_array.h"

#include <cuda_runtime_api.h>

typedef struct av_gpu_nccl av_gpu_nccl;

/* Joins the ranks; the device is chosen. `same_bits`: as above; AV_CONFIG where the environment of
 * some rank is against it. `timeout` seconds: this and every later wait; 0 or less: none. A failure
 * that only one rank meets ends the run. Collective. */
av_status av_gpu_nccl_open(const av_comm *comm, bool same_bits, double timeout, av_gpu_nccl **nccl);
/* Ends the communicator, within seconds even where operations hang: then it is aborted, and false
 * comes back; its kernels may still be on the GPU, and whatever waits for that (cudaFree,
 * cublasDestroy) would hang with them. NULL is nothing to free. Collective. */
bool av_gpu_nccl_close(av_gpu_nccl *nccl);

/* Queue on `stream`; `phase` is for the error text. */
/* In-place sum to all ranks. */
av_status av_gpu_nccl_sum(av_gpu_nccl *nccl, const av_gpu_array *array, cudaStream_t stream,
                          const char *phase);
/* In-place sum of each share to its rank alone; what the others then hold is as before. One
 * reduction a rank, in one launch: it moves the bytes of a reduce-scatter, (size - 1) / size of the
 * array into and out of each GPU, over all links at once, and takes shares of any lengths, which
 * ncclReduceScatter does not. Each small share is the work of one channel: for some ranks the cost
 * is ncclReduceScatter's, for hundreds the latency of as many small reductions / channels. */
av_status av_gpu_nccl_sum_shares(av_gpu_nccl *nccl, const av_gpu_array *array, cudaStream_t stream,
                                 const char *phase);
/* The other half: each rank's share of each of n arrays to all others. One broadcast a rank and
 * array, in one launch. */
av_status av_gpu_nccl_gather(av_gpu_nccl *nccl, int n, const av_gpu_array *arrays,
                             cudaStream_t stream, const char *phase);

/* The error that NCCL has met since, `waited` seconds into waiting for `phase`, or, where that may
 * wait for `sums`, the time-out. */
av_status av_gpu_nccl_check(av_gpu_nccl *nccl, double waited, bool sums, const char *phase);

/* Whether it is of use to wait on, `waited` seconds into waiting, when an error is recorded that no
 * other is to join: not where NCCL has met one, or the time-out has come for `sums`. Then the
 * communicator is aborted, and nobody waits for its kernels. */
bool av_gpu_nccl_goes_on(av_gpu_nccl *nccl, double waited, bool sums);

/* Ends this process if another rank has told that it ends the run; else returns at once. For
 * whoever waits for ranks otherwise (av_listener); `nccl` is an av_gpu_nccl. */
void av_gpu_nccl_listen(void *nccl);

/* Ends with another rank that ends the run for the same reason, or because of which this one has
 * failed; else prints the recorded error, tells the other ranks, aborts the communicator so that
 * the GPU stops waiting, and ends the run when the others have left theirs, or after some seconds.
 */
_Noreturn void av_gpu_nccl_end(av_gpu_nccl *nccl, av_status status);

#endif
