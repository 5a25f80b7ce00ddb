/* The cuda backend in the place of tests/backend/tested_cpu.c. */
#include "backend/tested.h"

#include "cuda_backend.h"

#include "config/config.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef AV_EMULATED
#include "emulate.h"
#endif

const bool tested_is_order_free = false;

av_status open_tested(av_backend *be, const av_comm *comm, int threads, bool strict) {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
    puts("skipped: there is no GPU");
    exit(77);
  }
  const av_backend_options options = {.choice = AV_BACKEND_CUDA,
                                      .threads = threads,
                                      .strict = strict,
                                      .precision = AV_PRECISION_FLOAT32,
                                      .sums_by_mpi = true};
  return av_backend_open_ops(be, &av_backend_cuda, &options, comm);
}

/* Emulated: in several orders of blocks and threads. Order-free sums are this backend's only ones:
 * `strict` is no other way of computing, so that the orders are shared out between the two. */
bool use_way(av_backend *be, int i) {
#ifdef AV_EMULATED
  if (be->strict) {
    av_emulate_order(AV_ORDER_SHUFFLED, 17);
    return i == 0;
  }
  av_emulate_order(i == 0 ? AV_ORDER_ASCENDING : AV_ORDER_DESCENDING, 0);
  return i < 2;
#else
  (void)be;
  return i == 0;
#endif
}
