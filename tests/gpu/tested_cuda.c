/* The cuda backend in the place of tests/backend/tested_cpu.c. */
#include "tested_cuda.h"

#include "backend/tested.h"
#include "cuda_backend.h"

#include "config/config.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef AV_EMULATED
#include "emulate.h"
#include "state.h"
#endif

const bool tested_is_order_free = false;
const bool tested_clears_spare = true;
const bool tested_keeps_bits = true;
#ifdef AV_EMULATED
const bool tested_is_slow = true;
#else
const bool tested_is_slow = false;
#endif

void need_gpu(void) {
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
    puts("skipped: there is no GPU");
    exit(77);
  }
}

av_status open_tested(av_backend *be, const av_comm *comm, int threads, bool strict) {
  need_gpu();
  const av_backend_options options = {
      .choice = AV_BACKEND_CUDA,
      .threads = threads,
      .strict = strict,
      .precision = AV_PRECISION_FLOAT32,
      .sums_by_mpi = true,
#ifdef STREAMED
      .gpu_memory = 1, /* byte: counts do not fit */
#endif
  };
  return av_backend_open_ops(be, &av_backend_cuda, &options, comm);
}

#ifdef AV_EMULATED
/* Of the orders below, how many: two show which of any two threads comes first. */
#ifndef N_ORDERS
#define N_ORDERS 3
#endif

/* In several orders of blocks and threads. */
bool use_way(av_backend *be, int i) {
  static const av_emulated_order orders[] = {AV_ORDER_DESCENDING, AV_ORDER_ASCENDING,
                                             AV_ORDER_SHUFFLED};
  (void)be;
  if (i < N_ORDERS) {
    av_emulate_order(orders[i], 17);
    return true;
  }
  return false;
}

/* Scratch holds nothing of the operation before, which may be what a kernel that has not waited
 * would find; on the stream, so that it is recorded where the operation is. The linker puts this in
 * the place of av_gpu_work (--wrap). tested_scratch: how many bytes that was. */
size_t tested_scratch;
void *__real_av_gpu_work(av_backend *be, size_t bytes);
void *__wrap_av_gpu_work(av_backend *be, size_t bytes);
void *__wrap_av_gpu_work(av_backend *be, size_t bytes) {
  void *work = __real_av_gpu_work(be, bytes);
  tested_scratch = bytes;
  if (bytes > 0 && cudaMemsetAsync(work, 0xff, bytes, av_gpu_of(be)->stream) != cudaSuccess) {
    abort();
  }
  return work;
}
#else
/* On a GPU, how often: what compares bits sees that they are those of the time before. */
#ifndef N_ORDERS
#define N_ORDERS 1
#endif

bool use_way(av_backend *be, int i) {
  (void)be;
  return i < N_ORDERS;
}
#endif
