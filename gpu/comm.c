#include "comm.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "comm_mpi.h"
#include "comm_nccl.h"
#include "state.h"

#include <stdlib.h>

/* Arrays that are gathered in one operation, at most. */
enum { GATHERS_MOST = 8 };

struct av_gpu_ranks {
  av_gpu_nccl *nccl; /* NULL: through MPI */
  av_gpu_staged staged;
  cudaStream_t beside; /* sums by shares through NCCL */
  cudaEvent_t ready;   /* what is to be summed is there */
  cudaEvent_t summed;
  int pending; /* sums by shares on `beside` that the main stream has not waited for */
  bool sums;   /* through NCCL, queued since all that was queued had been waited for */
  av_gpu_array gather[GATHERS_MOST]; /* through NCCL: begun, not queued */
  int n_gathers;
};

static struct av_gpu_ranks *ranks_of(const av_backend *be) { return av_gpu_of(be)->ranks; }

/* --- errors --------------------------------------------------------------------------------- */

void av_gpu_must(const av_backend *be, av_status status) {
  const struct av_gpu_ranks *ranks = ranks_of(be);
  if (status == AV_OK) {
    return;
  }
  if (ranks != NULL && ranks->nccl != NULL) {
    av_gpu_nccl_end(ranks->nccl, status);
  }
  av_comm_abort(be->comm, status);
}

/* --- waiting -------------------------------------------------------------------------------- */

/* A read of some numbers comes back within microseconds; who waits longer leaves the processor to
 * others. */
static void rest(double waited) {
  if (waited > 1e-3) {
    av_rest(5e-5);
  }
}

/* `event`, or where it is NULL all of the stream. */
static cudaError_t query(cudaStream_t stream, cudaEvent_t event) {
  const cudaError_t code = event != NULL ? cudaEventQuery(event) : cudaStreamQuery(stream);
  if (code == cudaErrorNotReady) {
    (void)cudaGetLastError(); /* it is no error, but would be taken for the next launch's */
  }
  return code;
}

/* With NCCL, whose kernels on the GPU may never end. */
static void wait_asking(av_backend *be, cudaStream_t stream, cudaEvent_t event, const char *phase) {
  struct av_gpu_ranks *ranks = ranks_of(be);
  av_gpu_nccl *nccl = ranks->nccl;
  const double began = av_clock();
  cudaError_t code = query(stream, event);
  while (code == cudaErrorNotReady) {
    const double waited = av_clock() - began;
    av_gpu_must(be, av_gpu_nccl_check(nccl, waited, ranks->sums, phase));
    rest(waited);
    code = query(stream, event);
  }
  av_gpu_must(be, AV_CUDA(code));
  av_gpu_must(be, av_gpu_nccl_check(nccl, 0, ranks->sums, phase));
  if (stream == av_gpu_of(be)->stream && event == NULL && ranks->pending == 0) {
    ranks->sums = false;
  }
}

/* The same when an error is recorded that is to be reported: no other joins it. */
static void wind_down(av_backend *be, cudaStream_t stream) {
  const struct av_gpu_ranks *ranks = ranks_of(be);
  const double began = av_clock();
  double waited = 0;
  while (query(stream, NULL) == cudaErrorNotReady &&
         av_gpu_nccl_goes_on(ranks->nccl, waited, ranks->sums)) {
    rest(waited);
    waited = av_clock() - began;
  }
}

av_status av_gpu_own(const av_backend *be, av_status status) {
  if (ranks_of(be) != NULL) {
    av_gpu_must(be, status);
  }
  return status;
}

static av_status wait_for(av_backend *be, cudaEvent_t event, const char *phase) {
  const struct av_gpu_ranks *ranks = ranks_of(be);
  if (ranks != NULL && ranks->nccl != NULL) {
    wait_asking(be, av_gpu_of(be)->stream, event, phase);
    return AV_OK;
  }
  return av_gpu_own(be, event != NULL ? AV_CUDA(cudaEventSynchronize(event))
                                      : AV_CUDA(cudaStreamSynchronize(av_gpu_of(be)->stream)));
}

av_status av_gpu_wait(av_backend *be, const char *phase) { return wait_for(be, NULL, phase); }

av_status av_gpu_wait_event(av_backend *be, cudaEvent_t event, const char *phase) {
  return wait_for(be, event, phase);
}

void av_gpu_settle(av_backend *be, const char *phase) {
  const struct av_gpu_ranks *ranks = ranks_of(be);
  if (ranks != NULL && ranks->nccl != NULL) {
    if (av_error_text()[0] != '\0') {
      wind_down(be, av_gpu_of(be)->stream);
      wind_down(be, ranks->beside);
    } else {
      wait_asking(be, av_gpu_of(be)->stream, NULL, phase);
      wait_asking(be, ranks->beside, NULL, phase);
    }
  } else {
    (void)cudaStreamSynchronize(av_gpu_of(be)->stream);
  }
}

/* --- life ----------------------------------------------------------------------------------- */

static void free_own(struct av_gpu_ranks *ranks) {
  av_gpu_staged_free(&ranks->staged);
  if (ranks->beside != NULL) {
    (void)cudaStreamDestroy(ranks->beside);
  }
  if (ranks->ready != NULL) {
    (void)cudaEventDestroy(ranks->ready);
  }
  if (ranks->summed != NULL) {
    (void)cudaEventDestroy(ranks->summed);
  }
  free(ranks);
}

/* What this rank needs by itself. */
static av_status make_own(const av_backend *be, struct av_gpu_ranks *ranks) {
  if (be->sums_by_mpi) {
    return AV_OK;
  }
  AV_TRY(AV_CUDA(cudaStreamCreateWithFlags(&ranks->beside, cudaStreamNonBlocking)));
  AV_TRY(AV_CUDA(cudaEventCreateWithFlags(&ranks->ready, cudaEventDisableTiming)));
  return AV_CUDA(cudaEventCreateWithFlags(&ranks->summed, cudaEventDisableTiming));
}

av_status av_gpu_ranks_open(av_backend *be, struct av_gpu_ranks **ranks) {
  *ranks = NULL;
  if (be->comm->size == 1) {
    return AV_OK;
  }
  struct av_gpu_ranks *made = av_calloc(1, sizeof *made);
  av_status status = made != NULL ? make_own(be, made) : av_fail(AV_NOMEM, "out of memory (ranks)");
  status = av_agree(be->comm, status);
  if (status == AV_OK && !be->sums_by_mpi) {
    status = av_gpu_nccl_open(be->comm, be->same_bits, be->gpu_timeout, &made->nccl);
  }
  if (status == AV_OK) {
    *ranks = made;
    if (made->nccl != NULL) {
      be->listener = (av_listener){.ask = av_gpu_nccl_listen, .context = made->nccl};
    }
    be->sums = made->nccl != NULL ? AV_SUMS_IN_TURN : AV_SUMS_AT_ONCE;
  } else if (made != NULL) {
    free_own(made);
  }
  return status;
}

bool av_gpu_ranks_close(av_backend *be, struct av_gpu_ranks *ranks) {
  if (ranks == NULL) {
    return true;
  }
  if (!av_gpu_nccl_close(ranks->nccl)) {
    if (av_error_text()[0] == '\0') { /* else why is known */
      av_warn(
          "rank %d: NCCL did not end (other ranks may have left sums that it waits for); the "
          "GPU is left as it is",
          be->comm->rank);
    }
    free(ranks);
    return false;
  }
  free_own(ranks);
  return true;
}

/* --- operations ----------------------------------------------------------------------------- */

static av_gpu_array array_of(const av_backend *be, av_kind kind, void *at, int64_t n) {
  return (av_gpu_array){.at = at, .n = n, .wide = be->bytes[kind] == sizeof(double)};
}

static int64_t own_bytes(const av_backend *be, const av_gpu_array *array) {
  return av_gpu_array_share_size(array, be->comm, be->comm->rank) * (int64_t)av_gpu_element(array);
}

/* What follows is in the graph that is played: it is counted alone. */
static bool is_played(const av_backend *be) { return av_gpu_of(be)->mode == AV_GPU_PLAYS; }

/* An operation that NCCL has been given since `began`. */
static void count_queued(const av_backend *be, int64_t bytes, double began) {
  ranks_of(be)->sums = true;
  av_traffic_add(be->comm, bytes, began);
  if (be->comm->traffic != NULL) {
    be->comm->traffic->queued = true;
  }
}

static bool nothing_to_do(const av_backend *be, int64_t n) { return be->comm->size == 1 || n == 0; }

void av_gpu_allreduce(av_backend *be, av_kind kind, void *array, int64_t n) {
  if (nothing_to_do(be, n)) {
    return;
  }
  struct av_gpu_ranks *ranks = ranks_of(be);
  const av_gpu_array all = array_of(be, kind, array, n);
  if (ranks->nccl == NULL) {
    av_gpu_must(be, av_gpu_staged_sum(be, &ranks->staged, &all));
    return;
  }
  const double began = av_clock();
  if (!is_played(be)) {
    av_gpu_must(be, av_gpu_nccl_sum(ranks->nccl, &all, av_gpu_of(be)->stream, "sum over ranks"));
  }
  count_queued(be, av_traffic_sum(be->comm, n, av_gpu_element(&all)), began);
}

/* Nothing is no operation, which a graph would keep. */
static av_status zero(void *at, size_t bytes, cudaStream_t stream) {
  return bytes == 0 ? AV_OK : AV_CUDA(cudaMemsetAsync(at, 0, bytes, stream));
}

/* On `stream`. */
static av_status zero_others(const av_backend *be, const av_gpu_array *array, cudaStream_t stream) {
  char *const begin = array->at;
  char *const own = av_gpu_array_share_at(array, be->comm, be->comm->rank);
  char *const after = own + own_bytes(be, array);
  char *const end = begin + (size_t)array->n * av_gpu_element(array);
  AV_TRY(zero(begin, (size_t)(own - begin), stream));
  return zero(after, (size_t)(end - after), stream);
}

static av_status begin_beside(const av_backend *be, struct av_gpu_ranks *ranks,
                              const av_gpu_array *array) {
  AV_TRY(AV_CUDA(cudaEventRecord(ranks->ready, av_gpu_of(be)->stream)));
  AV_TRY(AV_CUDA(cudaStreamWaitEvent(ranks->beside, ranks->ready, 0)));
  AV_TRY(av_gpu_nccl_sum_shares(ranks->nccl, array, ranks->beside, "sum of gradients"));
  return zero_others(be, array, ranks->beside);
}

void av_gpu_share_begin(av_backend *be, av_kind kind, void *array, int64_t n) {
  if (nothing_to_do(be, n)) {
    return;
  }
  struct av_gpu_ranks *ranks = ranks_of(be);
  const av_gpu_array all = array_of(be, kind, array, n);
  if (ranks->nccl == NULL) {
    av_gpu_must(be, av_gpu_staged_sum_shares(be, &ranks->staged, &all));
    av_gpu_must(be, zero_others(be, &all, av_gpu_of(be)->stream));
    return;
  }
  const double began = av_clock();
  if (!is_played(be)) {
    av_gpu_must(be, begin_beside(be, ranks, &all));
    ++ranks->pending;
  }
  const int64_t bytes = n * (int64_t)av_gpu_element(&all);
  count_queued(be, bytes - own_bytes(be, &all), began);
}

/* The main stream waits; through MPI the sums are there. */
void av_gpu_share_end(av_backend *be) {
  struct av_gpu_ranks *ranks = ranks_of(be);
  if (ranks == NULL || ranks->pending == 0) {
    return;
  }
  av_gpu_must(be, AV_CUDA(cudaEventRecord(ranks->summed, ranks->beside)));
  av_gpu_must(be, AV_CUDA(cudaStreamWaitEvent(av_gpu_of(be)->stream, ranks->summed, 0)));
  ranks->pending = 0;
}

/* Through NCCL arrays wait for the last, and are one operation. */
void av_gpu_gather_begin(av_backend *be, av_kind kind, void *array, int64_t n) {
  if (nothing_to_do(be, n)) {
    return;
  }
  struct av_gpu_ranks *ranks = ranks_of(be);
  const av_gpu_array all = array_of(be, kind, array, n);
  if (ranks->nccl == NULL) {
    av_gpu_must(be, av_gpu_staged_gather(be, &ranks->staged, &all));
    return;
  }
  if (ranks->n_gathers == GATHERS_MOST) {
    av_gpu_gather_end(be);
  }
  ranks->gather[ranks->n_gathers++] = all;
}

void av_gpu_gather_end(av_backend *be) {
  struct av_gpu_ranks *ranks = ranks_of(be);
  if (ranks == NULL || ranks->n_gathers == 0) {
    return;
  }
  const double began = av_clock();
  int64_t bytes = 0;
  for (int i = 0; i < ranks->n_gathers; ++i) {
    bytes += (be->comm->size - 1) * own_bytes(be, &ranks->gather[i]);
  }
  if (!is_played(be)) {
    av_gpu_must(be, av_gpu_nccl_gather(ranks->nccl, ranks->n_gathers, ranks->gather,
                                       av_gpu_of(be)->stream, "exchange of parameters"));
  }
  count_queued(be, bytes, began);
  ranks->n_gathers = 0;
}
