#include "comm_nccl.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/unfinished.h"
#include "ending.h"

#include <nccl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 14, 0)
#error "NCCL 2.14 or later is needed: communicators that do not block"
#endif

struct av_gpu_nccl {
  const av_comm *comm; /* borrowed */
  ncclComm_t nccl;     /* NULL: not there yet, or no more */
  double timeout;
  av_gpu_ending ending;
};

/* Seconds at most: NCCL's threads may hang with the rest, and so may other ranks, who answer when
 * they have aborted. */
enum { ABORT_SECONDS = 5, ANSWER_SECONDS = 6, CLOSE_SECONDS = 20 };
_Static_assert(ANSWER_SECONDS > ABORT_SECONDS, "or an answer comes too late");

/* Who waits for longer than a kernel takes, in seconds, listens for who ends the run. */
static const double LISTENS_AFTER = 1e-3;

/* --- errors --------------------------------------------------------------------------------- */

static av_status status_of(ncclResult_t result) {
  switch (result) {
    case ncclSystemError: /* a socket, a network card */
    case ncclRemoteError: /* another rank, or the way to it */
      return AV_IOERR;
    default:
      return AV_BUG;
  }
}

/* NCCL's last message in one line. */
static void last_message(const av_gpu_nccl *nccl, char *text, size_t size) {
  const char *last = ncclGetLastError(nccl->nccl);
  snprintf(text, size, "%s", last == NULL ? "" : last);
  for (char *c = text; *c != '\0'; ++c) {
    *c = *c == '\n' ? ' ' : *c;
  }
  for (size_t length = strlen(text); length > 0 && text[length - 1] == ' '; --length) {
    text[length - 1] = '\0';
  }
}

static av_status late(const av_gpu_nccl *nccl, const char *phase) {
  return av_fail(AV_IOERR,
                 "rank %d, %s: NCCL has waited %g s ([runtime] gpu_timeout) for the other GPUs: a "
                 "rank, its GPU or the network between them hangs, or is late; see whether other "
                 "ranks still run, and nvidia-smi and dmesg on their nodes; NCCL_DEBUG=INFO shows "
                 "which network NCCL takes (NCCL_SOCKET_IFNAME chooses); for ranks that are only "
                 "late set gpu_timeout higher",
                 nccl->comm->rank, phase, nccl->timeout);
}

static av_status failed(const av_gpu_nccl *nccl, ncclResult_t result, const char *phase) {
  char message[256];
  last_message(nccl, message, sizeof message);
  return av_fail(status_of(result),
                 "rank %d, %s: NCCL: %s%s%s; NCCL_DEBUG=INFO tells more, [runtime] gpu_sums = mpi "
                 "does without NCCL",
                 nccl->comm->rank, phase, ncclGetErrorString(result),
                 message[0] == '\0' ? "" : ": ", message);
}

/* --- leaving -------------------------------------------------------------------------------- */

static void *abort_thread(void *handle) {
  (void)ncclCommAbort((ncclComm_t)handle);
  return NULL;
}

/* Its operations end, and its kernels on the GPU. In a thread, because that waits for NCCL's own
 * threads, and may do so in vain. */
static void abort_nccl(av_gpu_nccl *nccl) {
  const double began = av_clock();
  pthread_t thread;
  if (nccl->nccl != NULL && pthread_create(&thread, NULL, abort_thread, nccl->nccl) == 0) {
    int running = pthread_tryjoin_np(thread, NULL);
    while (running != 0 && av_clock() - began < ABORT_SECONDS) {
      av_gpu_ending_go_on(&nccl->ending);
      av_rest(1e-3);
      running = pthread_tryjoin_np(thread, NULL);
    }
    if (running != 0) {
      (void)pthread_detach(thread);
    }
  }
  nccl->nccl = NULL;
}

/* The rank that has told so has said why, and ends this process too. */
void av_gpu_nccl_listen(void *context) {
  av_gpu_nccl *nccl = context;
  av_status status = AV_OK;
  if (av_gpu_ending_heard(&nccl->ending, &status)) {
    av_unfinished_remove(); /* the end may come without a signal */
    abort_nccl(nccl);
    av_gpu_ending_left(&nccl->ending, ABORT_SECONDS + ANSWER_SECONDS);
    av_comm_abort(nccl->comm, status);
  }
}

/* An error may be but what another rank's end has left behind, or all ranks may have met it; then
 * the first of them in turn tells the others. */
static void hear_first(av_gpu_nccl *nccl) {
  enum { TURNS = 20 };
  const int turn = nccl->comm->rank < TURNS ? nccl->comm->rank : TURNS;
  const double began = av_clock();
  while (av_clock() - began < 0.25 + 0.1 * turn) {
    av_gpu_nccl_listen(nccl);
    av_rest(1e-3);
  }
}

_Noreturn void av_gpu_nccl_end(av_gpu_nccl *nccl, av_status status) {
  hear_first(nccl);
  av_error_print();
  av_gpu_ending_tell(&nccl->ending, status);
  abort_nccl(nccl);
  av_gpu_ending_left(&nccl->ending, ANSWER_SECONDS);
  av_comm_abort(nccl->comm, status);
}

/* --- asking --------------------------------------------------------------------------------- */

static bool is_error(ncclResult_t result) {
  return result != ncclSuccess && result != ncclInProgress;
}

/* What has become of the communicator's last call, or of operations since. */
static ncclResult_t ask(const av_gpu_nccl *nccl) {
  ncclResult_t result = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(nccl->nccl, &result);
  return asked == ncclSuccess ? result : asked;
}

/* Asks until a call that returned `result` is through; ncclInProgress: not within `timeout`. */
static ncclResult_t settle(av_gpu_nccl *nccl, ncclResult_t result, double timeout) {
  const double began = av_clock();
  while (!is_error(result)) {
    result = ask(nccl);
    const double waited = av_clock() - began;
    if (result != ncclInProgress || (timeout > 0 && waited > timeout)) {
      return result;
    }
    if (waited > LISTENS_AFTER) {
      av_gpu_nccl_listen(nccl);
    }
    sched_yield();
  }
  return result;
}

/* The status of a call that returned `result`, once it is through. */
static av_status through(av_gpu_nccl *nccl, ncclResult_t result, const char *phase) {
  const ncclResult_t settled = settle(nccl, result, nccl->timeout);
  if (settled == ncclSuccess) {
    return AV_OK;
  }
  return settled == ncclInProgress ? late(nccl, phase) : failed(nccl, settled, phase);
}

static bool is_late(const av_gpu_nccl *nccl, double waited, bool sums) {
  return sums && nccl->timeout > 0 && waited > nccl->timeout;
}

av_status av_gpu_nccl_check(av_gpu_nccl *nccl, double waited, bool sums, const char *phase) {
  const ncclResult_t result = ask(nccl);
  if (is_error(result)) {
    return failed(nccl, result, phase);
  }
  if (waited > LISTENS_AFTER) {
    av_gpu_nccl_listen(nccl);
  }
  return is_late(nccl, waited, sums) ? late(nccl, phase) : AV_OK;
}

bool av_gpu_nccl_goes_on(av_gpu_nccl *nccl, double waited, bool sums) {
  if (nccl->nccl != NULL && !is_error(ask(nccl)) && !is_late(nccl, waited, sums)) {
    av_gpu_nccl_listen(nccl);
    return true;
  }
  abort_nccl(nccl);
  return false;
}

/* --- life ----------------------------------------------------------------------------------- */

/* Rank 0's invitation, on every rank. */
static av_status share_id(const av_gpu_nccl *nccl, ncclUniqueId *id) {
  av_status status = AV_OK;
  memset(id, 0, sizeof *id);
  if (nccl->comm->rank == 0) {
    const ncclResult_t result = ncclGetUniqueId(id);
    status = result == ncclSuccess ? AV_OK : failed(nccl, result, "starting NCCL");
  }
  AV_TRY(av_agree(nccl->comm, status));
  return av_bcast(nccl->comm, id, (int64_t)sizeof *id);
}

static av_status join(av_gpu_nccl *nccl, ncclUniqueId id) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const ncclResult_t result =
      ncclCommInitRankConfig(&nccl->nccl, nccl->comm->size, id, nccl->comm->rank, &config);
  if (nccl->nccl == NULL) {
    return failed(nccl, result, "starting NCCL");
  }
  return through(nccl, result, "starting NCCL");
}

/* Switches of NCCL in the environment, whose part of nccl.conf they precede; it reads them when it
 * is first called, and takes an empty one for none. */
static bool is_set(const char *name) {
  const char *value = getenv(name);
  return value != NULL && value[0] != '\0';
}

static av_status switch_off(const char *name, bool insist) {
  if (insist && is_set(name) && strcmp(getenv(name), "0") != 0) {
    return av_fail(AV_CONFIG,
                   "[runtime] reproducible: %s = %s in the environment lets switches add up, in an "
                   "order that varies from run to run: unset it, or set reproducible = off",
                   name, getenv(name));
  }
  if (!is_set(name) && setenv(name, "0", 1) != 0) {
    return av_fail(AV_NOMEM, "out of memory (%s in the environment)", name);
  }
  return AV_OK;
}

static av_status set_switches(bool same_bits) {
  AV_TRY(switch_off("NCCL_NVLS_ENABLE", same_bits));
  AV_TRY(switch_off("NCCL_GRAPH_REGISTER", false));
  return same_bits ? switch_off("NCCL_COLLNET_ENABLE", true) : AV_OK;
}

av_status av_gpu_nccl_open(const av_comm *comm, bool same_bits, double timeout,
                           av_gpu_nccl **nccl) {
  *nccl = NULL;
  AV_TRY(av_agree(comm, set_switches(same_bits)));
  av_gpu_nccl *made = av_calloc(1, sizeof *made);
  av_status status = made != NULL ? AV_OK : av_fail(AV_NOMEM, "out of memory (NCCL)");
  AV_GO(status, av_agree(comm, status), done);
  *made = (av_gpu_nccl){.comm = comm, .timeout = timeout};
  AV_GO(status, av_agree(comm, av_gpu_ending_open(comm, &made->ending)), done);
  ncclUniqueId id;
  AV_GO(status, share_id(made, &id), done);
  const av_status joined = join(made, id);
  if (joined != AV_OK) {
    av_gpu_nccl_end(made, joined); /* the others wait inside NCCL, ... */
  }
  av_comm hearing = *comm;
  hearing.listener = (av_listener){.ask = av_gpu_nccl_listen, .context = made};
  AV_GO(status, av_agree(&hearing, AV_OK), done); /* ... or here */
  *nccl = made;
  made = NULL;
done:
  if (made != NULL) {
    av_gpu_ending_close(&made->ending);
    free(made);
  }
  return status;
}

bool av_gpu_nccl_close(av_gpu_nccl *nccl) {
  if (nccl == NULL) {
    return true;
  }
  const bool hurries = nccl->timeout > 0 && nccl->timeout < CLOSE_SECONDS;
  const double patience = hurries ? nccl->timeout : CLOSE_SECONDS;
  const bool ended =
      nccl->nccl != NULL && settle(nccl, ncclCommFinalize(nccl->nccl), patience) == ncclSuccess;
  if (ended) {
    (void)ncclCommDestroy(nccl->nccl);
  } else {
    abort_nccl(nccl);
  }
  av_gpu_ending_close(&nccl->ending);
  free(nccl);
  return ended;
}

/* --- operations ----------------------------------------------------------------------------- */

static ncclDataType_t type_of(const av_gpu_array *array) {
  return array->wide ? ncclDouble : ncclFloat;
}

av_status av_gpu_nccl_sum(av_gpu_nccl *nccl, const av_gpu_array *array, cudaStream_t stream,
                          const char *phase) {
  return through(nccl,
                 ncclAllReduce(array->at, array->at, (size_t)array->n, type_of(array), ncclSum,
                               nccl->nccl, stream),
                 phase);
}

typedef ncclResult_t (*share_call)(av_gpu_nccl *nccl, const av_gpu_array *array, int rank,
                                   cudaStream_t stream);

static ncclResult_t reduce_share(av_gpu_nccl *nccl, const av_gpu_array *array, int rank,
                                 cudaStream_t stream) {
  void *const at = av_gpu_array_share_at(array, nccl->comm, rank);
  const int64_t n = av_gpu_array_share_size(array, nccl->comm, rank);
  return ncclReduce(at, at, (size_t)n, type_of(array), ncclSum, rank, nccl->nccl, stream);
}

static ncclResult_t spread_share(av_gpu_nccl *nccl, const av_gpu_array *array, int rank,
                                 cudaStream_t stream) {
  void *const at = av_gpu_array_share_at(array, nccl->comm, rank);
  const int64_t n = av_gpu_array_share_size(array, nccl->comm, rank);
  return ncclBroadcast(at, at, (size_t)n, type_of(array), rank, nccl->nccl, stream);
}

/* One call for each rank that has a share, inside a group. */
static ncclResult_t each_share(av_gpu_nccl *nccl, const av_gpu_array *array, cudaStream_t stream,
                               share_call call) {
  for (int r = 0; r < nccl->comm->size; ++r) {
    if (av_gpu_array_share_size(array, nccl->comm, r) > 0) {
      const ncclResult_t result = call(nccl, array, r, stream);
      if (is_error(result)) {
        return result;
      }
    }
  }
  return ncclSuccess;
}

/* All shares of all arrays in one group. */
static av_status in_group(av_gpu_nccl *nccl, int n, const av_gpu_array *arrays, cudaStream_t stream,
                          const char *phase, share_call call) {
  ncclResult_t first_error = ncclGroupStart();
  for (int i = 0; i < n && first_error == ncclSuccess; ++i) {
    first_error = each_share(nccl, &arrays[i], stream, call);
  }
  const ncclResult_t ended = ncclGroupEnd();
  return through(nccl, first_error == ncclSuccess ? ended : first_error, phase);
}

av_status av_gpu_nccl_sum_shares(av_gpu_nccl *nccl, const av_gpu_array *array, cudaStream_t stream,
                                 const char *phase) {
  return in_group(nccl, 1, array, stream, phase, reduce_share);
}

av_status av_gpu_nccl_gather(av_gpu_nccl *nccl, int n, const av_gpu_array *arrays,
                             cudaStream_t stream, const char *phase) {
  return in_group(nccl, n, arrays, stream, phase, spread_share);
}
