/* The ranks of a run: who they are, host reductions and agreement on success.
 *
 * Rule of the whole program: after local work that can fail, and before the next collective, every
 * rank calls av_agree(). A rank that fails alone between two collectives, where the others cannot
 * be told, calls av_comm_abort().
 */
#ifndef AV_BASE_COMM_H
#define AV_BASE_COMM_H

#include "base/exact.h"
#include "base/status.h"

#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a rank has exchanged with others. An operation is a collective one, whatever number of
 * messages the MPI library makes of it. */
typedef struct av_traffic {
  int64_t operations;
  int64_t bytes;  /* the least that this rank has to send in them: see av_traffic_sum */
  double seconds; /* spent in them, the others' lateness included */
  double ahead;   /* of sums that run beside computation: seconds from start until needed */
  double waited;  /* and seconds of waiting for them then */
  bool queued; /* some were only queued here, for a GPU: of those `seconds` has the queueing alone,
                  `ahead` and `waited` nothing */
} av_traffic;

/* Called over and over while a rank waits for others in the functions below. It may end the
 * process, because another rank has said by a way of its own that the run ends. All ranks have one
 * or none has: they set and clear it between the same two collective operations, as with one each
 * operation begins with a barrier more. */
typedef struct av_listener {
  void (*ask)(void *context); /* NULL: none */
  void *context;              /* who made it owns it, and says how long it is good */
} av_listener;

typedef struct av_comm {
  MPI_Comm mpi; /* all ranks of the run; errors are returned, not fatal */
  int rank;
  int size;
  int local_rank; /* among the ranks that share this node's memory */
  int local_size;
  av_traffic *traffic;  /* where sums, maxima and backends count; NULL: nobody does */
  av_listener listener; /* zero: none */
} av_comm;

/* Counts an operation that began at av_clock() `began` and sends `bytes`. One process sends
 * nothing, and counts nothing. */
void av_traffic_add(const av_comm *comm, int64_t bytes, double began);
/* Bytes that a rank has to send at least for an in-place sum of n elements to all ranks. */
static inline int64_t av_traffic_sum(const av_comm *comm, int64_t n, size_t element) {
  return 2 * (comm->size - 1) * n * (int64_t)element / comm->size;
}

/* Checks the return code of an MPI call and turns it into an av_status. */
#define AV_MPI(call) av_mpi_check((call), #call, __FILE__, __LINE__)
av_status av_mpi_check(int code, const char *call, const char *file, int line);

/* Initialises MPI and fills `comm`. Collective. */
av_status av_comm_create(av_comm *comm, int *argc, char ***argv);
/* Finalises MPI. Collective. */
void av_comm_free(av_comm *comm);
/* A communicator of this one process, without collectives over others: for tests and for commands
 * that one rank runs. Nothing to free. */
void av_comm_self(av_comm *comm);

/* Prints the recorded error, removes what is unfinished, and ends every rank with `status`. For
 * failures that only this rank knows of. Does not return. */
_Noreturn void av_comm_abort(const av_comm *comm, av_status status);

/* Returns AV_OK if `local` is AV_OK on every rank. Otherwise returns, on every rank, the code of
 * the lowest failing rank, and the recorded error text becomes that rank's text. Collective.
 * (Inline, so that a static analyser sees that AV_OK means `local` too.) */
av_status av_agree_exchange(const av_comm *comm, av_status local);
static inline av_status av_agree(const av_comm *comm, av_status local) {
  const av_status all = av_agree_exchange(comm, local);
  return all == AV_OK ? local : all;
}

/* In-place sums, maxima over the ranks; the result is on every rank. Collective. */
av_status av_sum_i64(const av_comm *comm, int64_t *values, int64_t n);
av_status av_sum_wide(const av_comm *comm, av_wide *values, int64_t n);
av_status av_sum_f64(const av_comm *comm, double *values, int64_t n);
av_status av_sum_f32(const av_comm *comm, float *values, int64_t n);
av_status av_max_i64(const av_comm *comm, int64_t *values, int64_t n);
av_status av_max_f64(const av_comm *comm, double *values, int64_t n);
av_status av_max_f32(const av_comm *comm, float *values, int64_t n);
av_status av_min_f64(const av_comm *comm, double *values, int64_t n);

/* MPI_Wait for one request, with the listener. Not collective. */
av_status av_wait(const av_comm *comm, MPI_Request *request);

/* Broadcasts `bytes` bytes from rank 0 (any size, in pieces). Collective. */
av_status av_bcast(const av_comm *comm, void *data, int64_t bytes);
/* Broadcasts a NUL-terminated string from rank 0. On the other ranks *text receives a new string
 * that the caller frees; NULL travels as NULL. Collective. */
av_status av_bcast_text(const av_comm *comm, char **text);

#endif
