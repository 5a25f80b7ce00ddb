/* Sums over the ranks, to all of them at once or by shares beside the computation.
 *
 * A sum by shares and a gathering move the bytes of one all-reduce, with the optimiser between them
 * at 1/ranks of its work. Between two ranks of one node that reads their gradients through shared
 * memory (Open MPI, no single copy), 2.2 MB of gradient: exchange 56 us, sum 22, gathering 56,
 * against 135 for MPI_Allreduce and 205 for MPI_Iallreduce with its wait; MPI_Reduce_scatter_block
 * with MPI_Allgather after it took 1,100. A window of memory that the ranks share took 92 without
 * the copy into it: not enough less to be worth a second way. MPI moves data inside its calls
 * alone: between two ranks of a node that work is the processor's whenever it is done, so nothing
 * tests the requests in between.
 */
#include "backend/cpu/state.h"
#include "base/clock.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* A sum by shares under way, and memory for it, which stays for the next. */
typedef struct av_pending {
  av_kind kind;
  char *array;
  int64_t n;
  char *received; /* (ranks - 1, own share): that of the others, in their order */
  size_t received_bytes;
  int *counts; /* (4, ranks): what is sent to whom, what comes from whom: numbers, offsets */
  MPI_Request request;
  double begun;
} av_pending;

static MPI_Datatype type_of(const av_backend *be, av_kind kind) {
  return be->bytes[kind] == sizeof(double) ? MPI_DOUBLE : MPI_FLOAT;
}

static int64_t own_first(const av_backend *be, int64_t n) {
  return av_share_first(be->comm, n, be->comm->rank);
}
static int64_t own_size(const av_backend *be, int64_t n) {
  return av_share_first(be->comm, n, be->comm->rank + 1) - own_first(be, n);
}

void av_cpu_comm_free(av_cpu *cpu) {
  for (int i = 0; i < cpu->max_pending; ++i) {
    free(cpu->pending[i].received);
    free(cpu->pending[i].counts);
  }
  free(cpu->pending);
}

void av_cpu_allreduce(av_backend *be, av_kind kind, void *array, int64_t n) {
  if (be->comm->size == 1) {
    return;
  }
  av_cpu_require(be, be->bytes[kind] == sizeof(double) ? av_sum_f64(be->comm, array, n)
                                                       : av_sum_f32(be->comm, array, n));
}

/* Room for one more; those under way keep their place in memory that MPI knows. */
static av_pending *next_pending(av_backend *be, int64_t bytes) {
  av_cpu *cpu = av_cpu_of(be);
  if (cpu->n_pending == cpu->max_pending) {
    const int wanted = cpu->max_pending + 4;
    av_pending *grown = av_realloc(cpu->pending, (size_t)wanted, sizeof *grown);
    if (grown == NULL) {
      av_cpu_require(be, av_fail(AV_NOMEM, "out of memory (%d messages)", wanted));
    }
    cpu->pending = grown;
    for (; cpu->max_pending < wanted; ++cpu->max_pending) {
      cpu->pending[cpu->max_pending] = (av_pending){0};
    }
  }
  av_pending *next = &cpu->pending[cpu->n_pending++];
  if (next->counts == NULL) {
    next->counts = av_calloc(4 * (size_t)be->comm->size, sizeof *next->counts);
  }
  if (next->received == NULL || next->received_bytes < (size_t)bytes) {
    free(next->received);
    next->received = av_malloc((size_t)bytes, 1);
    next->received_bytes = (size_t)bytes;
  }
  if (next->counts == NULL || next->received == NULL) {
    av_cpu_require(be,
                   av_fail(AV_NOMEM, "out of memory (%lld bytes of gradients)", (long long)bytes));
  }
  return next;
}

/* Each rank sends every other one its share. */
void av_cpu_share_begin(av_backend *be, av_kind kind, void *array, int64_t n) {
  const av_comm *comm = be->comm;
  if (comm->size == 1) {
    return;
  }
  const double began = av_clock();
  const int64_t own = own_size(be, n);
  const int64_t element = (int64_t)be->bytes[kind];
  av_pending *sum = next_pending(be, (comm->size - 1) * own * element + 1); /* or nothing */
  sum->kind = kind;
  sum->array = array;
  sum->n = n;
  sum->begun = began;
  int *const send = sum->counts;
  int *const send_at = send + comm->size;
  int *const receive = send_at + comm->size;
  int *const receive_at = receive + comm->size;
  for (int r = 0; r < comm->size; ++r) {
    const int64_t first = av_share_first(comm, n, r);
    send[r] = r == comm->rank ? 0 : (int)(av_share_first(comm, n, r + 1) - first);
    send_at[r] = (int)first;
    receive[r] = r == comm->rank ? 0 : (int)own;
    receive_at[r] = (int)(own * (r - (r > comm->rank)));
  }
  const MPI_Datatype type = type_of(be, kind);
  av_cpu_require(be, AV_MPI(MPI_Ialltoallv(array, send, send_at, type, sum->received, receive,
                                           receive_at, type, comm->mpi, &sum->request)));
  av_traffic_add(comm, (n - own) * element, began);
}

/* Own share += what the others have sent, in their order. */
static void add_received(av_backend *be, const av_pending *sum) {
  enum { BLOCK = 4096 };
  const av_kernels *kernels = av_kernels_of(be);
  const int64_t own = own_size(be, sum->n);
  const int64_t others = be->comm->size - 1;
  const int64_t blocks = (own + BLOCK - 1) / BLOCK;
  const bool wide = be->bytes[sum->kind] == sizeof(double);
  void *mine = sum->array + own_first(be, sum->n) * (int64_t)be->bytes[sum->kind];
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * BLOCK;
    const int64_t length = own - first < BLOCK ? own - first : BLOCK;
    for (int64_t r = 0; r < others; ++r) {
      const int64_t from = r * own + first;
      if (!wide) {
        kernels->add_row(length, av_floats(sum->received) + from, av_floats(mine) + first);
        continue;
      }
      const double *x = av_doubles(sum->received) + from;
      double *y = av_doubles(mine) + first;
      for (int64_t i = 0; i < length; ++i) {
        y[i] += x[i];
      }
    }
  }
}

static void zero_others(av_backend *be, const av_pending *sum) {
  const int64_t element = (int64_t)be->bytes[sum->kind];
  const int64_t first = own_first(be, sum->n);
  const int64_t after = first + own_size(be, sum->n);
  memset(sum->array, 0, (size_t)(first * element));
  memset(sum->array + after * element, 0, (size_t)((sum->n - after) * element));
}

void av_cpu_share_end(av_backend *be) {
  av_cpu *cpu = av_cpu_of(be);
  av_traffic *traffic = be->comm->traffic;
  for (int i = 0; i < cpu->n_pending; ++i) {
    av_pending *sum = &cpu->pending[i];
    const double needed = av_clock();
    av_cpu_require(be, AV_MPI(MPI_Wait(&sum->request, MPI_STATUS_IGNORE)));
    const double arrived = av_clock();
    add_received(be, sum);
    zero_others(be, sum);
    if (traffic != NULL) {
      traffic->ahead += needed - sum->begun;
      traffic->waited += arrived - needed;
      traffic->seconds += av_clock() - needed;
    }
  }
  cpu->n_pending = 0;
}

void av_cpu_share_gather(av_backend *be, av_kind kind, void *array, int64_t n) {
  const av_comm *comm = be->comm;
  if (comm->size == 1) {
    return;
  }
  const double began = av_clock();
  int *const counts = av_scratch(be, AV_SLOT_LOSS, 2 * (int64_t)comm->size, sizeof *counts);
  int *const at = counts + comm->size;
  for (int r = 0; r < comm->size; ++r) {
    at[r] = (int)av_share_first(comm, n, r);
    counts[r] = (int)(av_share_first(comm, n, r + 1) - at[r]);
  }
  const MPI_Datatype type = type_of(be, kind);
  MPI_Request request = MPI_REQUEST_NULL;
  /* all messages at once; the blocking one may be a ring, a latency for each rank */
  av_cpu_require(be, AV_MPI(MPI_Iallgatherv(MPI_IN_PLACE, 0, type, array, counts, at, type,
                                            comm->mpi, &request)));
  av_cpu_require(be, AV_MPI(MPI_Wait(&request, MPI_STATUS_IGNORE)));
  av_traffic_add(comm, (comm->size - 1) * own_size(be, n) * (int64_t)be->bytes[kind], began);
}
