/* How far the host runs ahead of the device where it queues operation by operation. Minibatches on
 * their way are bounded by the ring of their rows (batch.c); a wide decoder of many genes queues
 * hundreds of kernels for each of them, though, and thousands of draws of one may be averaged. CUDA
 * takes about a thousand launches and then waits inside the next, where nobody can ask NCCL for
 * errors, nor give up: so the host waits before, for what it queued some hundreds of launches ago.
 * The device has enough to do meanwhile, and nothing on it waits. */
#include "comm.h"
#include "state.h"

/* What is counted once is three launches at most. */
enum { RUNS_PER_MARK = 96 };

av_status av_gpu_ahead_open(av_gpu *gpu) {
  for (int m = 0; m < AV_GPU_MARKS; ++m) {
    AV_TRY(AV_CUDA(cudaEventCreateWithFlags(&gpu->ahead.mark[m], cudaEventDisableTiming)));
  }
  return AV_OK;
}

void av_gpu_ahead_close(av_gpu *gpu) {
  for (int m = 0; m < AV_GPU_MARKS; ++m) {
    if (gpu->ahead.mark[m] != NULL) {
      (void)cudaEventDestroy(gpu->ahead.mark[m]);
      gpu->ahead.mark[m] = NULL;
    }
  }
}

void av_gpu_ran(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  if (gpu->mode != AV_GPU_QUEUES || ++gpu->ahead.runs < RUNS_PER_MARK) {
    return;
  }
  cudaEvent_t mark = gpu->ahead.mark[gpu->ahead.next];
  gpu->ahead.runs = 0;
  gpu->ahead.next = (gpu->ahead.next + 1) % AV_GPU_MARKS;
  av_gpu_must(be,
              av_gpu_wait_event(be, mark, "kernels queued before")); /* at once if not recorded */
  AV_GPU_MUST(be, cudaEventRecord(mark, gpu->stream));
}
