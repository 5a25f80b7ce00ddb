#include "base/comm.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/unfinished.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Open MPI 4 counts in int: larger messages travel in pieces of this many elements. */
enum { PIECE = 1 << 26 };

av_status av_mpi_check(int code, const char *call, const char *file, int line) {
  if (code == MPI_SUCCESS) {
    return AV_OK;
  }
  char text[MPI_MAX_ERROR_STRING] = "unknown MPI error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return av_fail_at(AV_BUG, file, line, "%.60s: %s", call, text);
}

av_status av_comm_create(av_comm *comm, int *argc, char ***argv) {
  *comm = (av_comm){.mpi = MPI_COMM_NULL, .size = 1, .local_size = 1};
  int provided = 0;
  AV_TRY(AV_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided)));
  AV_TRY(AV_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN)));
  comm->mpi = MPI_COMM_WORLD;
  AV_TRY(AV_MPI(MPI_Comm_rank(comm->mpi, &comm->rank)));
  AV_TRY(AV_MPI(MPI_Comm_size(comm->mpi, &comm->size)));
  MPI_Comm node = MPI_COMM_NULL;
  AV_TRY(AV_MPI(
      MPI_Comm_split_type(comm->mpi, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &node)));
  AV_TRY(AV_MPI(MPI_Comm_rank(node, &comm->local_rank)));
  AV_TRY(AV_MPI(MPI_Comm_size(node, &comm->local_size)));
  return AV_MPI(MPI_Comm_free(&node));
}

void av_comm_free(av_comm *comm) {
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (initialized && !finalized) {
    MPI_Finalize();
  }
  comm->mpi = MPI_COMM_NULL;
}

void av_comm_self(av_comm *comm) {
  *comm = (av_comm){.mpi = MPI_COMM_SELF, .rank = 0, .size = 1, .local_rank = 0, .local_size = 1};
}

_Noreturn void av_comm_abort(const av_comm *comm, av_status status) {
  av_error_print();
  av_unfinished_remove(); /* the other ranks get a signal, this one none */
  MPI_Abort(comm->mpi, (int)status);
  _Exit((int)status);
}

av_status av_wait(const av_comm *comm, MPI_Request *request) {
  int done = 0;
  if (comm->listener.ask == NULL) {
    return AV_MPI(MPI_Wait(request, MPI_STATUS_IGNORE));
  }
  AV_TRY(AV_MPI(MPI_Test(request, &done, MPI_STATUS_IGNORE)));
  while (!done) {
    comm->listener.ask(comm->listener.context);
    sched_yield();
    AV_TRY(AV_MPI(MPI_Test(request, &done, MPI_STATUS_IGNORE)));
  }
  return AV_OK;
}

/* Waits until all ranks are here: before a collective operation, in which nobody can be asked. */
static av_status meet(const av_comm *comm) {
  MPI_Request all = MPI_REQUEST_NULL;
  if (comm->listener.ask == NULL) {
    return AV_OK;
  }
  AV_TRY(AV_MPI(MPI_Ibarrier(comm->mpi, &all)));
  return av_wait(comm, &all);
}

av_status av_agree_exchange(const av_comm *comm, av_status local) {
  const int mine = local == AV_OK ? INT_MAX : comm->rank;
  int first = INT_MAX;
  AV_TRY(meet(comm));
  AV_TRY(AV_MPI(MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, comm->mpi)));
  if (first == INT_MAX) {
    return AV_OK;
  }
  int code = (int)local;
  AV_TRY(AV_MPI(MPI_Bcast(&code, 1, MPI_INT, first, comm->mpi)));
  int length = (int)strlen(av_error_text()) + 1;
  AV_TRY(AV_MPI(MPI_Bcast(&length, 1, MPI_INT, first, comm->mpi)));
  char *text = av_calloc((size_t)length, 1);
  if (text == NULL) {
    av_comm_abort(comm, AV_NOMEM);
  }
  if (comm->rank == first) {
    memcpy(text, av_error_text(), (size_t)length);
  }
  const av_status sent = AV_MPI(MPI_Bcast(text, length, MPI_CHAR, first, comm->mpi));
  if (sent == AV_OK) {
    av_error_set(text);
  }
  free(text);
  return sent == AV_OK ? (av_status)code : sent;
}

void av_traffic_add(const av_comm *comm, int64_t bytes, double began) {
  if (comm->traffic != NULL && comm->size > 1) {
    ++comm->traffic->operations;
    comm->traffic->bytes += bytes;
    comm->traffic->seconds += av_clock() - began;
  }
}

static av_status reduce(const av_comm *comm, void *values, int64_t n, MPI_Datatype type,
                        size_t size, MPI_Op op) {
  const double began = av_clock();
  const int64_t sent = av_traffic_sum(comm, n, size);
  char *at = values;
  AV_TRY(meet(comm));
  while (n > 0) {
    const int now = n > PIECE ? PIECE : (int)n;
    AV_TRY(AV_MPI(MPI_Allreduce(MPI_IN_PLACE, at, now, type, op, comm->mpi)));
    at += (size_t)now * size;
    n -= now;
  }
  av_traffic_add(comm, sent, began);
  return AV_OK;
}

av_status av_sum_i64(const av_comm *comm, int64_t *values, int64_t n) {
  return reduce(comm, values, n, MPI_INT64_T, sizeof *values, MPI_SUM);
}
av_status av_sum_wide(const av_comm *comm, av_wide *values, int64_t n) {
  _Static_assert(sizeof *values == 2 * sizeof(int64_t), "summed word by word");
  return reduce(comm, values, 2 * n, MPI_INT64_T, sizeof(int64_t), MPI_SUM);
}
av_status av_sum_f64(const av_comm *comm, double *values, int64_t n) {
  return reduce(comm, values, n, MPI_DOUBLE, sizeof *values, MPI_SUM);
}
av_status av_sum_f32(const av_comm *comm, float *values, int64_t n) {
  return reduce(comm, values, n, MPI_FLOAT, sizeof *values, MPI_SUM);
}
av_status av_max_i64(const av_comm *comm, int64_t *values, int64_t n) {
  return reduce(comm, values, n, MPI_INT64_T, sizeof *values, MPI_MAX);
}
av_status av_max_f64(const av_comm *comm, double *values, int64_t n) {
  return reduce(comm, values, n, MPI_DOUBLE, sizeof *values, MPI_MAX);
}
av_status av_max_f32(const av_comm *comm, float *values, int64_t n) {
  return reduce(comm, values, n, MPI_FLOAT, sizeof *values, MPI_MAX);
}
av_status av_min_f64(const av_comm *comm, double *values, int64_t n) {
  return reduce(comm, values, n, MPI_DOUBLE, sizeof *values, MPI_MIN);
}

av_status av_bcast(const av_comm *comm, void *data, int64_t bytes) {
  char *at = data;
  AV_TRY(meet(comm));
  while (bytes > 0) {
    const int now = bytes > PIECE ? PIECE : (int)bytes;
    AV_TRY(AV_MPI(MPI_Bcast(at, now, MPI_BYTE, 0, comm->mpi)));
    at += now;
    bytes -= now;
  }
  return AV_OK;
}

av_status av_bcast_text(const av_comm *comm, char **text) {
  int64_t length = -1;
  if (comm->rank == 0 && *text != NULL) {
    length = (int64_t)strlen(*text) + 1;
  }
  AV_TRY(av_bcast(comm, &length, (int64_t)sizeof length));
  if (length < 0) {
    *text = NULL;
    return AV_OK;
  }
  if (comm->rank != 0) {
    *text = av_calloc((size_t)length, 1);
    if (*text == NULL) {
      av_comm_abort(comm,
                    av_fail(AV_NOMEM, "out of memory (%lld bytes of text)", (long long)length));
    }
  }
  return av_bcast(comm, *text, length);
}
