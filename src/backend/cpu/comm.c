/* Sums over the ranks that run beside the computation. */
#include "backend/cpu/state.h"
#include "base/memory.h"

static MPI_Request *next_request(av_backend *be) {
  av_cpu *cpu = av_cpu_of(be);
  if (cpu->n_requests == cpu->max_requests) {
    const int wanted = 2 * cpu->max_requests + 16;
    MPI_Request *grown = av_realloc(cpu->request, (size_t)wanted, sizeof(MPI_Request));
    if (grown == NULL) {
      av_cpu_require(be, av_fail(AV_NOMEM, "out of memory (%d messages)", wanted));
    }
    cpu->request = grown;
    cpu->max_requests = wanted;
  }
  return &cpu->request[cpu->n_requests++];
}

void av_cpu_allreduce_begin(av_backend *be, av_kind kind, void *array, int64_t n) {
  enum { PIECE = 1 << 28 }; /* elements: MPI counts in int */
  if (be->comm->size == 1) {
    return;
  }
  const MPI_Datatype type = be->bytes[kind] == sizeof(double) ? MPI_DOUBLE : MPI_FLOAT;
  char *at = array;
  while (n > 0) {
    const int now = n > PIECE ? PIECE : (int)n;
    MPI_Request *request = next_request(be);
    av_cpu_require(
        be, AV_MPI(MPI_Iallreduce(MPI_IN_PLACE, at, now, type, MPI_SUM, be->comm->mpi, request)));
    at += (size_t)now * be->bytes[kind];
    n -= now;
  }
}

void av_cpu_allreduce_end(av_backend *be) {
  av_cpu *cpu = av_cpu_of(be);
  if (cpu->n_requests > 0) {
    av_cpu_require(be, AV_MPI(MPI_Waitall(cpu->n_requests, cpu->request, MPI_STATUSES_IGNORE)));
    cpu->n_requests = 0;
  }
}
