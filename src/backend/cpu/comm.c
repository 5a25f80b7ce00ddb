/* Sums over the ranks, to all of them at once or by shares beside the computation.
 *
 * A sum by shares and a gathering move the bytes of one all-reduce, with the optimiser between them
 * at 1/ranks of its work. Between two ranks of one node that reads their gradients through shared
 * memory (Open MPI, no single copy), 2.2 MB of gradient: exchange 56 us, sum 22, gathering 56,
 * against 135 for MPI_Allreduce and 205 for MPI_Iallreduce with its wait; MPI_Reduce_scatter_block
 * with MPI_Allgather after it took 1,100. A window of memory that the ranks share took 92 without
 * the copy into it: not enough less to be worth a second way. MPI moves data inside its calls
 * alone: between two ranks of a node that work is the processor's whenever it is done, so nothing
 * tests the requests in between; there, parts that are gathered beside the optimiser's next part
 * take as long as they did one after the other.
 */
#include "backend/cpu/state.h"
#include "base/clock.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* A sum by shares or a gathering under way, and memory for it, which stays for the next. */
typedef struct av_pending {
  av_kind kind;
  char *array;
  int64_t n;
  char *received; /* sum: (ranks - 1, own share): that of the others, in their order */
  size_t received_bytes;
  int *counts; /* (4, ranks): what is sent to whom, what comes from whom: numbers, offsets; of a
                  gathering the first half: what comes from whom */
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

static void free_list(av_pending_list *list) {
  for (int i = 0; i < list->most; ++i) {
    free(list->each[i].received);
    free(list->each[i].counts);
  }
  free(list->each);
}

void av_cpu_comm_free(av_cpu *cpu) {
  free_list(&cpu->sums);
  free_list(&cpu->gathers);
}

void av_cpu_allreduce(av_backend *be, av_kind kind, void *array, int64_t n) {
  if (be->comm->size == 1) {
    return;
  }
  av_cpu_require(be, be->bytes[kind] == sizeof(double) ? av_sum_f64(be->comm, array, n)
                                                       : av_sum_f32(be->comm, array, n));
}

/* One more, of which `bytes` are received aside; those under way keep their place in memory that
 * MPI knows. */
static av_pending *next_of(av_backend *be, av_pending_list *list, int64_t bytes) {
  if (list->n == list->most) {
    const int wanted = list->most + 4;
    av_pending *grown = av_realloc(list->each, (size_t)wanted, sizeof *grown);
    if (grown == NULL) {
      av_cpu_require(be, av_fail(AV_NOMEM, "out of memory (%d messages)", wanted));
    }
    list->each = grown;
    for (; list->most < wanted; ++list->most) {
      list->each[list->most] = (av_pending){0};
    }
  }
  av_pending *next = &list->each[list->n++];
  if (next->counts == NULL) {
    next->counts = av_calloc(4 * (size_t)be->comm->size, sizeof *next->counts);
  }
  if (next->received_bytes < (size_t)bytes) {
    free(next->received);
    next->received = av_malloc((size_t)bytes, 1);
    next->received_bytes = (size_t)bytes;
  }
  if (next->counts == NULL || (bytes > 0 && next->received == NULL)) {
    av_cpu_require(be, av_fail(AV_NOMEM, "out of memory (a message, %lld bytes to be received)",
                               (long long)bytes));
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
  av_pending *sum =
      next_of(be, &av_cpu_of(be)->sums, (comm->size - 1) * own * element + 1); /* or nothing */
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
  av_pending_list *sums = &av_cpu_of(be)->sums;
  av_traffic *traffic = be->comm->traffic;
  for (int i = 0; i < sums->n; ++i) {
    av_pending *sum = &sums->each[i];
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
  sums->n = 0;
}

/* All messages at once; the blocking call may be a ring, a latency for each rank. */
void av_cpu_gather_begin(av_backend *be, av_kind kind, void *array, int64_t n) {
  const av_comm *comm = be->comm;
  if (comm->size == 1) {
    return;
  }
  const double began = av_clock();
  av_pending *gather = next_of(be, &av_cpu_of(be)->gathers, 0);
  int *const counts = gather->counts;
  int *const at = counts + comm->size;
  for (int r = 0; r < comm->size; ++r) {
    at[r] = (int)av_share_first(comm, n, r);
    counts[r] = (int)(av_share_first(comm, n, r + 1) - at[r]);
  }
  const MPI_Datatype type = type_of(be, kind);
  av_cpu_require(be, AV_MPI(MPI_Iallgatherv(MPI_IN_PLACE, 0, type, array, counts, at, type,
                                            comm->mpi, &gather->request)));
  av_traffic_add(comm, (comm->size - 1) * own_size(be, n) * (int64_t)be->bytes[kind], began);
}

void av_cpu_gather_end(av_backend *be) {
  av_pending_list *gathers = &av_cpu_of(be)->gathers;
  av_traffic *traffic = be->comm->traffic;
  const double began = av_clock();
  for (int i = 0; i < gathers->n; ++i) {
    av_cpu_require(be, AV_MPI(MPI_Wait(&gathers->each[i].request, MPI_STATUS_IGNORE)));
  }
  if (gathers->n > 0 && traffic != NULL) {
    traffic->seconds += av_clock() - began;
  }
  gathers->n = 0;
}
