/* One rank brings down the others' sums: ranks_driver HOW RANK [graph]. With `graph` the sums have
 * been recorded, and are played. HOW is what goes wrong there:
 *   absent   it does not join NCCL's communicator
 *   start    joining fails
 *   late     it never calls the sum that the others wait for
 *   error    NCCL meets an error in the second sum
 *   mute     the same, and ncclCommAbort never returns
 *   gpu      its GPU fails
 *   launch   a kernel fails there before the sum that the others wait for
 *   cascade  the same; the others are late for that sum, and NCCL refuses them
 *   two      the same on the next rank at the same time
 *   agreed   its GPU fails, when all have agreed upon an error and free memory
 *   slowly   NCCL meets an error there, and ncclCommAbort takes the others 2 s
 *   early    NCCL meets an error before anybody waits
 *   left     it leaves without the last sum; so do all others, without waiting for it
 *   stuck    the same, and ncclCommAbort returns nowhere
 *   freeing  it never calls the sum by shares that the others have under way when they free memory
 *   slow     nothing, but its GPU takes longer than the time-out for something else than sums
 *   none     nothing
 * Ends with 0 only where nothing goes wrong, or only in the end. */
#include "base/clock.h"
#include "cuda_host.h"
#include "rig.h"
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 1000, TIMEOUT = 1 };

static const char *how;

static bool is(const char *name) { return strcmp(how, name) == 0; }

static void go_wrong(void) {
  standin.absent = is("absent");
  standin.start = is("start") ? ncclSystemError : ncclSuccess;
  if (is("error") || is("mute") || is("early") || is("slowly")) {
    standin.fail_at = is("early") ? 1 : 2;
    standin.error = ncclRemoteError;
  }
  standin.hanging_abort = is("mute");
}

/* What a GPU takes 2 s for. */
static bool take_long(void *context) {
  double *began = context;
  *began = *began == 0 ? av_clock() : *began;
  return av_clock() - *began > 2 * TIMEOUT;
}

static av_status work_long(rig *r) {
  static const av_stream_work work = {.run = take_long};
  const double began = 0;
  AV_TRY(AV_CUDA(av_stream_queue(r->gpu.stream, &work, &began, sizeof began)));
  return av_gpu_wait(&r->be, "long work");
}

/* Of a rank that has `array` ready. */
static av_status use(rig *r, void *array, bool wrong) {
  AV_TRY(AV_CUDA(cudaMemsetAsync(array, 0, N * sizeof(double), r->gpu.stream)));
  av_gpu_allreduce(&r->be, AV_SUM, array, N);
  if (is("early")) {
    cuda_host_step();
  }
  if (wrong && is("late")) {
    sleep(600);
  }
  if (is("freeing")) {
    AV_TRY(av_gpu_wait(&r->be, "a sum that all have called"));
  }
  if (wrong && is("freeing")) {
    sleep(600);
  }
  if (wrong && (is("launch") || is("cascade") || is("two"))) {
    AV_GPU_MUST(&r->be, cudaErrorIllegalAddress);
  }
  if (is("cascade")) {
    usleep(600000);
  }
  av_gpu_share_begin(&r->be, AV_SUM, array, N);
  if (is("freeing")) { /* the main stream is idle soon, the other is not */
    av_gpu_settle(&r->be, "arrays, to be freed");
  }
  av_gpu_share_end(&r->be);
  if (wrong && is("gpu")) {
    cuda_host_broken = cudaErrorIllegalAddress;
  }
  AV_TRY(av_gpu_wait(&r->be, "losses of an epoch"));
  return wrong && is("slow") ? work_long(r) : AV_OK;
}

static void sum_twice(rig *r, void *array) {
  av_gpu_allreduce(&r->be, AV_SUM, array, N);
  av_gpu_share_begin(&r->be, AV_SUM, array, N);
  av_gpu_share_end(&r->be);
}

/* The same sums from a graph, as in a pass that is kept; nothing goes wrong before it is played. */
static av_status play(rig *r, void *array, bool wrong) {
  cudaGraph_t graph = NULL;
  cudaGraphExec_t ready = NULL;
  const int fail_at = standin.fail_at;
  standin.fail_at = 0;
  AV_TRY(AV_CUDA(cudaStreamBeginCapture(r->gpu.stream, cudaStreamCaptureModeThreadLocal)));
  sum_twice(r, array);
  AV_TRY(AV_CUDA(cudaStreamEndCapture(r->gpu.stream, &graph)));
  AV_TRY(AV_CUDA(cudaGraphInstantiate(&ready, graph, 0)));
  AV_TRY(AV_CUDA(cudaGraphDestroy(graph)));
  AV_TRY(AV_CUDA(cudaGraphLaunch(ready, r->gpu.stream)));
  AV_TRY(av_gpu_wait(&r->be, "the first pass"));
  standin.fail_at = fail_at > 0 ? fail_at + standin.operations : 0;
  if (wrong && is("late")) {
    sleep(600);
  }
  r->gpu.mode = AV_GPU_PLAYS;
  AV_TRY(AV_CUDA(cudaGraphLaunch(ready, r->gpu.stream)));
  sum_twice(r, array);
  r->gpu.mode = AV_GPU_QUEUES;
  if (wrong && is("gpu")) {
    cuda_host_broken = cudaErrorIllegalAddress;
  }
  AV_TRY(av_gpu_wait(&r->be, "losses of an epoch"));
  return AV_CUDA(cudaGraphExecDestroy(ready));
}

/* Nobody waits for the sum, which is still on its way. */
static av_status leave(rig *r, void *array, bool wrong) {
  standin.hanging_abort = is("stuck");
  if (!wrong) {
    av_gpu_allreduce(&r->be, AV_SUM, array, N);
  }
  return AV_OK;
}

/* What an error leaves that is to be reported once, while a rank does not come. */
static av_status agree(rig *r, void *array, bool wrong) {
  if (!wrong) {
    av_gpu_allreduce(&r->be, AV_SUM, array, N);
  }
  const av_status status = wrong ? av_fail(AV_NUMERIC, "what all agree upon") : AV_OK;
  const av_status agreed = av_agree(r->be.comm, status);
  cuda_host_broken = wrong ? cudaErrorIllegalAddress : cudaSuccess;
  av_gpu_settle(&r->be, "arrays, to be freed");
  return agreed;
}

static av_status run(rig *r, bool wrong, bool graph) {
  void *array = NULL;
  AV_TRY(AV_CUDA(cudaMalloc(&array, N * sizeof(double))));
  if (is("left") || is("stuck")) {
    return leave(r, array, wrong);
  }
  if (is("agreed")) {
    return agree(r, array, wrong);
  }
  AV_TRY(graph ? play(r, array, wrong) : use(r, array, wrong));
  return AV_CUDA(cudaFree(array));
}

int main(int argc, char **argv) {
  av_comm comm;
  if (av_comm_create(&comm, &argc, &argv) != AV_OK || argc < 3) {
    return AV_USAGE;
  }
  how = argv[1];
  standin.polls = 5;
  const int first = atoi(argv[2]);
  const bool wrong = comm.rank == first || (is("two") && comm.rank == (first + 1) % comm.size);
  if (wrong) {
    go_wrong();
  } else if (is("slowly")) {
    standin.slow_abort = 2;
  }
  const char *patience = getenv("AV_PATIENCE"); /* the time-out, in seconds */
  rig r;
  av_status status = rig_open(&r, &comm, false, patience == NULL ? TIMEOUT : atof(patience));
  comm.listener = r.be.listener;
  if (status == AV_OK) {
    status = run(&r, wrong, argc > 3);
  }
  status = av_agree(&comm, status);
  comm.listener = (av_listener){0};
  rig_close(&r);
  if (comm.rank == 0) {
    av_error_print();
  }
  av_comm_free(&comm);
  return (int)status;
}
