/* Times of the backend's sums over the ranks, as JSON: for each size the in-place sum to all ranks,
 * the sum by shares and the gathering of shares.
 *
 * usage: mpirun -n RANKS bench_comm [seconds a measurement]
 *
 * Seconds are those of the slowest rank, all having started together; the best
 * quarter of the repetitions ends there: other work on the machine disturbs the rest.
 */
#include "backend/backend.h"
#include "base/clock.h"
#include "config/config.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 10001, SIZES = 11 };
static const int64_t sizes[SIZES] = {8,      64,      1024,    4096,    16384,  65536,
                                     262144, 1 << 20, 1 << 21, 3 << 20, 4 << 20};

static void require(const av_comm *comm, av_status status) {
  if (status != AV_OK) {
    av_comm_abort(comm, status);
  }
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a;
  const double y = *(const double *)b;
  return (x > y) - (x < y);
}

typedef enum what { SUM, SHARE, GATHER, WHATS } what;

/* One of them on n numbers. The array stays zero: nothing overflows. */
static double once(av_backend *be, what which, void *array, int64_t n) {
  require(be->comm, AV_MPI(MPI_Barrier(be->comm->mpi)));
  const double began = av_clock();
  if (which == SUM) {
    be->ops->allreduce(be, AV_REAL, array, n);
  } else if (which == SHARE) {
    be->ops->share_begin(be, AV_REAL, array, n);
    be->ops->share_end(be);
  } else {
    be->ops->gather_begin(be, AV_REAL, array, n);
    be->ops->gather_end(be);
  }
  return av_clock() - began;
}

static double measure(av_backend *be, what which, void *array, int64_t n, double seconds) {
  static double took[MOST];
  enum { WARM = 3 };
  double first = 0.0;
  for (int i = 0; i < WARM; ++i) {
    first = once(be, which, array, n);
  }
  require(be->comm, av_max_f64(be->comm, &first, 1));
  const double wanted = seconds / (first > 1e-7 ? first : 1e-7);
  const int reps = wanted > MOST ? MOST : wanted < 11 ? 11 : (int)wanted;
  for (int i = 0; i < reps; ++i) {
    took[i] = once(be, which, array, n);
  }
  require(be->comm, av_max_f64(be->comm, took, reps));
  qsort(took, (size_t)reps, sizeof *took, ascending);
  return took[reps / 4];
}

int main(int argc, char **argv) {
  av_comm comm;
  av_backend be = {0};
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    av_error_print();
    return 1;
  }
  const double seconds = argc > 1 ? strtod(argv[1], NULL) : 0.05;
  require(&comm, av_backend_open(&be, &(av_backend_options){.choice = AV_BACKEND_CPU, .threads = 1},
                                 &comm));
  void *array = NULL;
  require(&comm, be.ops->alloc(&be, AV_REAL, sizes[SIZES - 1], &array));
  if (comm.rank == 0) {
    printf("{\"ranks\": %d, \"local_ranks\": %d, \"times\": [", comm.size, comm.local_size);
  }
  for (int s = 0; s < SIZES; ++s) {
    double took[WHATS];
    for (int w = 0; w < WHATS; ++w) {
      took[w] = measure(&be, (what)w, array, sizes[s] / (int64_t)be.bytes[AV_REAL], seconds);
    }
    if (comm.rank == 0) {
      printf("%s\n{\"bytes\": %lld, \"sum\": %.4g, \"share\": %.4g, \"gather\": %.4g}",
             s == 0 ? "" : ",", (long long)sizes[s], took[SUM], took[SHARE], took[GATHER]);
    }
  }
  if (comm.rank == 0) {
    printf("]}\n");
  }
  be.ops->release(&be, array);
  av_backend_close(&be);
  av_comm_free(&comm);
  return 0;
}
