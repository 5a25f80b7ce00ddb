/* NCCL's calls on MPI, with what makes NCCL hard to use kept: nothing is queued until the call has
 * been asked for (ncclCommGetAsyncError), no other call may be made meanwhile, operations of a
 * communicator run in the order of the calls whatever their streams, each when its stream comes to
 * it, and none without the other ranks; captured ones do so whenever their graph is launched, and a
 * communicator does not end, not even by ncclCommAbort, while there is a graph of its operations.
 * On the streams of cuda_host.h or of ../emulation. */
#include "standin.h"

#include "cuda_host.h"

#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

av_standin standin;

typedef enum { ALL_REDUCE, REDUCE, BROADCAST } operation_kind;

typedef struct operation {
  operation_kind kind;
  const void *send;
  void *receive;
  size_t n;
  ncclDataType_t type;
  int root;
  ncclComm_t comm;
  cudaStream_t stream;
  uint64_t capture; /* that the stream was part of at the call */
  uint64_t number;  /* among those of the communicator */
  bool begun;
  char *mine, *result; /* host copies */
  MPI_Request request;
  struct operation *next; /* of the group */
} operation;

struct ncclComm {
  int rank, size;
  MPI_Comm mpi;
  int64_t id[2]; /* the invitation and its negative: maxima over ranks */
  MPI_Request request;
  enum { DUPLICATING, COMPARING, JOINED, FINALIZING } stage;
  ncclResult_t state;
  int polls; /* until the last call is through */
  operation *group;
  uint64_t queued, done;
  int recorded; /* operations of graphs */
};

static int depth; /* of groups */
static operation *open_group;

static ncclResult_t misuse(const char *call) {
  standin.misused = standin.misused == NULL ? call : standin.misused;
  return ncclInvalidUsage;
}

ncclResult_t ncclGetVersion(int *version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
  static const char *const texts[] = {
      "no error",
      "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
      "unhandled system error (run with NCCL_DEBUG=INFO for details)",
      "internal error - please report this issue",
      "invalid argument (run with NCCL_DEBUG=WARN for details)",
      "invalid usage (run with NCCL_DEBUG=WARN for details)",
      "remote process exited or there was a network error",
      "NCCL operation in progress"};
  return texts[result];
}

const char *ncclGetLastError(ncclComm_t comm) {
  (void)comm;
  return standin.error != ncclSuccess ? "made to fail\nby the test\n" : "";
}

/* --- other ranks' aborts --------------------------------------------------------------------- */

/* The file that says so; "" without AV_STANDIN_ABORTS. Files, because ncclCommAbort comes from a
 * thread of its own, which must not call MPI. */
static const char *abort_file(void) {
  static char path[4096];
  const char *folder = getenv("AV_STANDIN_ABORTS");
  if (path[0] == '\0' && folder != NULL && folder[0] != '\0') {
    snprintf(path, sizeof path, "%s/aborted", folder);
  }
  return path;
}

static void see_aborts(ncclComm_t comm) {
  if (abort_file()[0] != '\0' && access(abort_file(), F_OK) == 0) {
    comm->state = ncclRemoteError;
  }
}

static void say_aborted(void) {
  FILE *file = abort_file()[0] == '\0' ? NULL : fopen(abort_file(), "w");
  if (file != NULL) {
    fclose(file);
  }
}

/* --- joining and leaving -------------------------------------------------------------------- */

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  static int64_t made;
  const int64_t number = 1000 * (int64_t)getpid() + ++made;
  memcpy(id->internal, &number, sizeof number);
  return standin.no_id ? ncclSystemError : ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
  *comm = NULL;
  int world_size = 0;
  int world_rank = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &world_size);
  MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
  if (config->blocking != 0 || ranks != world_size || rank != world_rank) {
    return ncclInvalidArgument;
  }
  ncclComm_t made = calloc(1, sizeof *made);
  made->rank = rank;
  made->size = ranks;
  made->state = ncclInProgress;
  made->polls = standin.polls;
  memcpy(made->id, id.internal, sizeof made->id[0]);
  made->id[1] = -made->id[0];
  made->request = MPI_REQUEST_NULL;
  const char *absent = getenv("AV_STANDIN_ABSENT");
  standin.absent |= absent != NULL && atoi(absent) == rank;
  if (!standin.absent) {
    MPI_Comm_idup(MPI_COMM_WORLD, &made->mpi, &made->request);
  }
  ++standin.communicators;
  *comm = made;
  return ncclInProgress;
}

static bool arrived(ncclComm_t comm) {
  int flag = 0;
  MPI_Test(&comm->request, &flag, MPI_STATUS_IGNORE);
  return flag != 0;
}

static void join_on(ncclComm_t comm) {
  if (standin.absent || (comm->stage == DUPLICATING && !arrived(comm))) {
    return;
  }
  if (comm->stage == DUPLICATING) {
    MPI_Iallreduce(MPI_IN_PLACE, comm->id, 2, MPI_INT64_T, MPI_MAX, comm->mpi, &comm->request);
    comm->stage = COMPARING;
  }
  if (arrived(comm)) {
    comm->stage = JOINED;
    comm->state = comm->id[0] == -comm->id[1] ? standin.start : ncclInvalidArgument;
  }
}

/* --- operations ----------------------------------------------------------------------------- */

static size_t bytes_of(const operation *op) {
  return op->n * (op->type == ncclDouble ? sizeof(double) : sizeof(float));
}

/* The memory of cuda_host.h is the host's; else there is CUDA's own way. */
static void copy(const operation *op, void *to, const void *from, enum cudaMemcpyKind way) {
  if (cuda_host_step != NULL) {
    memcpy(to, from, bytes_of(op));
  } else { /* who asks the GPU hears of errors */
    (void)cudaMemcpyAsync(to, from, bytes_of(op), way, op->stream);
  }
}

static void begin(operation *op) {
  const ncclComm_t comm = op->comm;
  const MPI_Datatype type = op->type == ncclDouble ? MPI_DOUBLE : MPI_FLOAT;
  const int n = (int)op->n;
  op->begun = true;
  op->mine = malloc(bytes_of(op) + 1);
  op->result = malloc(bytes_of(op) + 1);
  copy(op, op->mine, op->send, cudaMemcpyDeviceToHost);
  if (++standin.operations == standin.fail_at) {
    comm->state = standin.error;
  }
  switch (op->kind) {
    case ALL_REDUCE:
      MPI_Iallreduce(op->mine, op->result, n, type, MPI_SUM, comm->mpi, &op->request);
      break;
    case REDUCE:
      MPI_Ireduce(op->mine, op->result, n, type, MPI_SUM, op->root, comm->mpi, &op->request);
      break;
    case BROADCAST:
      memcpy(op->result, op->mine, bytes_of(op));
      MPI_Ibcast(op->result, n, type, op->root, comm->mpi, &op->request);
      break;
  }
}

/* A stream's turn to work on it; true when it is over. */
static bool run(void *context) {
  operation *op = context;
  const ncclComm_t comm = op->comm;
  if (comm->done != op->number) {
    return false;
  }
  if (!op->begun) {
    begin(op);
  }
  int flag = 0;
  if (cuda_host_step == NULL) { /* the host is here too, and could do nothing else */
    see_aborts(comm);
    if (comm->state == ncclRemoteError) {
      ++comm->done;
      return true;
    }
  }
  if (comm->state == ncclSuccess || comm->state == ncclInProgress) {
    MPI_Test(&op->request, &flag, MPI_STATUS_IGNORE);
  }
  if (flag == 0) {
    return false;
  }
  if (op->kind != REDUCE || op->root == comm->rank) {
    copy(op, op->receive, op->result, cudaMemcpyHostToDevice);
  }
  ++comm->done;
  free(op->mine);
  free(op->result);
  return true;
}

static void enter(void *context) {
  operation *op = context;
  op->number = op->comm->queued++;
}

static void keep(void *context, int change) { ((operation *)context)->comm->recorded += change; }

static void queue(operation *op) {
  static const av_stream_work work = {.run = run, .enter = enter, .keep = keep};
  while (op != NULL) {
    operation *next = op->next;
    if (op->capture != av_stream_capture(op->stream)) {
      (void)misuse("the end of a capture before its operations were through");
    }
    if (av_stream_queue(op->stream, &work, op, sizeof *op) != cudaSuccess) {
      op->comm->state = ncclUnhandledCudaError;
    }
    free(op);
    op = next;
  }
}

static void queue_group(ncclComm_t comm) {
  operation *group = comm->group;
  comm->group = NULL;
  comm->state = ncclSuccess;
  ++standin.groups;
  queue(group);
}

ncclResult_t ncclGroupStart(void) {
  ++depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
  if (depth == 0) {
    return misuse("ncclGroupEnd");
  }
  operation *group = open_group;
  if (--depth > 0 || group == NULL) {
    return ncclSuccess;
  }
  open_group = NULL;
  const ncclComm_t comm = group->comm;
  comm->group = group;
  if (standin.polls == 0) {
    queue_group(comm);
    return ncclSuccess;
  }
  comm->state = ncclInProgress;
  comm->polls = standin.polls;
  return ncclInProgress;
}

static ncclResult_t add(const char *call, operation_kind kind, const void *send, void *receive,
                        size_t n, ncclDataType_t type, int root, ncclComm_t comm,
                        cudaStream_t stream) {
  see_aborts(comm);
  if (comm->state == ncclInProgress || comm->stage != JOINED) {
    return misuse(call);
  }
  if (comm->state != ncclSuccess) {
    return comm->state;
  }
  operation *op = malloc(sizeof *op);
  *op = (operation){.kind = kind,
                    .send = send,
                    .receive = receive,
                    .n = n,
                    .type = type,
                    .root = root,
                    .comm = comm,
                    .stream = stream,
                    .capture = av_stream_capture(stream),
                    .request = MPI_REQUEST_NULL};
  operation **last = &open_group;
  while (*last != NULL) {
    last = &(*last)->next;
  }
  ncclGroupStart();
  *last = op;
  return ncclGroupEnd();
}

ncclResult_t ncclAllReduce(const void *send, void *receive, size_t n, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  const char *call = "ncclAllReduce";
  return op != ncclSum ? misuse(call)
                       : add(call, ALL_REDUCE, send, receive, n, type, 0, comm, stream);
}

ncclResult_t ncclReduce(const void *send, void *receive, size_t n, ncclDataType_t type,
                        ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream) {
  const char *call = "ncclReduce";
  return op != ncclSum ? misuse(call)
                       : add(call, REDUCE, send, receive, n, type, root, comm, stream);
}

ncclResult_t ncclBroadcast(const void *send, void *receive, size_t n, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return add("ncclBroadcast", BROADCAST, send, receive, n, type, root, comm, stream);
}

/* --- asking and ending ---------------------------------------------------------------------- */

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
  if (cuda_host_step != NULL && comm->stage == FINALIZING) {
    cuda_host_step(); /* GPUs work by themselves */
  }
  if (comm->state == ncclInProgress && comm->polls-- <= 0) {
    if (comm->stage < JOINED) {
      join_on(comm);
    } else if (comm->group != NULL) {
      queue_group(comm);
    } else if (comm->stage == FINALIZING && comm->done == comm->queued && comm->recorded == 0) {
      comm->state = ncclSuccess;
    }
  }
  see_aborts(comm);
  *error = comm->state;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  if (comm->state == ncclInProgress || comm->stage != JOINED) {
    return misuse("ncclCommFinalize");
  }
  comm->stage = FINALIZING;
  comm->state = ncclInProgress;
  comm->polls = standin.polls;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm->state != ncclSuccess || comm->stage != FINALIZING) {
    return misuse("ncclCommDestroy");
  }
  MPI_Comm_free(&comm->mpi);
  free(comm);
  --standin.communicators;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  say_aborted();
  sleep((unsigned)standin.slow_abort);
  fprintf(stderr, "standin: rank %d aborts\n", comm->rank);
  ++standin.aborts;
  while (standin.hanging_abort || comm->recorded > 0) {
    sleep(1);
  }
  --standin.communicators;
  return ncclSuccess;
}
