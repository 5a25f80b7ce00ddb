/* Life and memory of the cuda backend, and its table of operations. */
#include "cuda_backend.h"

#include "backend/gpu_memory.h"
#include "base/memory.h"
#include "comm.h"
#include "fetch.h"
#include "gemm.h"
#include "kernels/add.h"
#include "kernels/step.h"
#include "outputs.h"
#include "place.h"
#include "state.h"
#include "trial.h"

#include <stdlib.h>
#include <string.h>

const av_gpu_step *av_gpu_send_step(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  if (memcmp(&gpu->step, &gpu->sent, sizeof gpu->step) != 0) {
    if (gpu->mode != AV_GPU_QUEUES) {
      av_gpu_must(be, AV_FAIL_BUG("an operation's values differ from those of its pass"));
    }
    AV_GPU_MUST(be, av_gpu_set_step(gpu->stream, gpu->step, gpu->on_device));
    gpu->sent = gpu->step;
  }
  return gpu->on_device;
}

/* Graphs know the scratch by its address, and no rank may record one anew by itself (pass.h): where
 * there are graphs, scratch that has become too small stays. */
struct av_gpu_outgrown {
  void *work;
  struct av_gpu_outgrown *before;
};

static av_status outgrow(av_gpu *gpu) {
  if (!gpu->recorded) {
    return AV_CUDA(cudaFree(gpu->work));
  }
  struct av_gpu_outgrown *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  *made = (struct av_gpu_outgrown){.work = gpu->work, .before = gpu->outgrown};
  gpu->outgrown = made;
  return AV_OK;
}

static void free_outgrown(struct av_gpu_outgrown *last) {
  while (last != NULL) {
    struct av_gpu_outgrown *const before = last->before;
    (void)cudaFree(last->work);
    free(last);
    last = before;
  }
}

/* What is planned is taken at once, so that nothing is outgrown. */
static size_t room_for_work(const av_backend *be, size_t bytes) {
  const size_t planned = (size_t)be->gpu.scratch;
  const size_t some = bytes + bytes / 4;
  return bytes <= planned ? planned : some;
}

void *av_gpu_work(av_backend *be, size_t bytes) {
  av_gpu *gpu = av_gpu_of(be);
  if (bytes > gpu->work_bytes) {
    if (gpu->mode != AV_GPU_QUEUES) {
      av_gpu_must(be, AV_FAIL_BUG("an operation needs more scratch than when its pass was made"));
    }
    av_gpu_settle(be, "an operation's scratch");
    av_gpu_must(be, outgrow(gpu));
    gpu->work_bytes = room_for_work(be, bytes);
    AV_GPU_MUST(be, cudaMalloc(&gpu->work, gpu->work_bytes));
  }
  return gpu->work;
}

/* --- life ----------------------------------------------------------------------------------- */

/* cuBLAS takes no memory of its own during training, and chooses the same kernels in every run. */
static av_status open_blas(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  AV_TRY(AV_CUBLAS(cublasCreate(&gpu->blas)));
  AV_TRY(AV_CUBLAS(cublasSetStream(gpu->blas, gpu->stream)));
  AV_TRY(AV_CUDA(cudaMalloc(&gpu->blas_work, AV_GPU_BLAS_BYTES)));
  return AV_CUBLAS(cublasSetWorkspace(gpu->blas, gpu->blas_work, AV_GPU_BLAS_BYTES));
}

static av_status open_device(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  gpu->way = av_gpu_trial_untried(be);
  AV_TRY(AV_CUDA(cudaSetDevice(gpu->device)));
  AV_TRY(AV_CUDA(
      cudaDeviceGetAttribute(&gpu->multiprocessors, cudaDevAttrMultiProcessorCount, gpu->device)));
  AV_TRY(AV_CUDA(cudaDeviceGetAttribute(&gpu->shared_most, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                        gpu->device)));
  AV_TRY(AV_CUDA(cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking)));
  AV_TRY(AV_CUDA(cudaMalloc((void **)&gpu->on_device, sizeof *gpu->on_device)));
  AV_TRY(AV_CUDA(cudaMemsetAsync(gpu->on_device, 0, sizeof *gpu->on_device, gpu->stream)));
  AV_TRY(av_gpu_ahead_open(gpu));
  return open_blas(be);
}

/* What each of those who share the device may take: when all of them have opened it, and before any
 * of them goes on. */
static av_status measure_room(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  size_t all = 0;
  AV_TRY(AV_CUDA(cudaMemGetInfo(&gpu->room, &all)));
  gpu->room /= (size_t)gpu->sharing;
  return AV_OK;
}

/* Waits for the device. */
static void free_device(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  av_gpu_fetch_free(be, gpu->outputs.ring);
  av_gpu_fetch_free(be, gpu->reads);
  if (gpu->blas != NULL) {
    (void)cublasDestroy(gpu->blas);
  }
  (void)cudaFree(gpu->blas_work);
  (void)cudaFree(gpu->work);
  free_outgrown(gpu->outgrown);
  (void)cudaFree(gpu->on_device);
  av_gpu_ahead_close(gpu);
  if (gpu->stream != NULL) {
    (void)cudaStreamDestroy(gpu->stream);
  }
}

static void gpu_close(av_backend *be) {
  av_gpu *gpu = av_gpu_of(be);
  if (gpu == NULL) {
    return;
  }
  const bool idle = av_gpu_ranks_close(be, gpu->ranks);
  gpu->ranks = NULL;
  if (idle) {
    free_device(be);
  }
  free(gpu);
  be->state = NULL;
}

static av_status gpu_open(av_backend *be) {
  be->bytes[AV_REAL] = sizeof(float);
  be->bytes[AV_GRAD] = sizeof(float);
  be->bytes[AV_SUM] = sizeof(double);
  be->queues = true;
  av_gpu *gpu = av_calloc(1, sizeof *gpu);
  be->state = gpu;
  av_status status = gpu != NULL ? AV_OK : av_fail(AV_NOMEM, "out of memory (GPU)");
  status = av_agree(be->comm, status);
  if (status == AV_OK) {
    status = av_gpu_place(be->comm, be->sums_by_mpi, &gpu->device, &gpu->sharing);
  }
  if (status == AV_OK) {
    status = av_agree(be->comm, open_device(be));
  }
  if (status == AV_OK) {
    status = av_agree(be->comm, measure_room(be));
  }
  if (status == AV_OK) {
    status = av_gpu_settle_precision(be);
  }
  if (status == AV_OK) {
    status = av_gpu_ranks_open(be, &gpu->ranks);
  }
  if (status != AV_OK) {
    gpu_close(be);
  }
  return status;
}

/* --- memory --------------------------------------------------------------------------------- */

static av_status gpu_alloc(av_backend *be, av_kind kind, int64_t n, void **array) {
  const size_t bytes = (size_t)n * be->bytes[kind];
  AV_TRY(AV_CUDA(cudaMalloc(array, bytes > 0 ? bytes : 1)));
  return AV_CUDA(cudaMemsetAsync(*array, 0, bytes, av_gpu_of(be)->stream));
}

static void gpu_release(av_backend *be, void *array) {
  av_gpu_settle(be, "arrays, to be freed");
  (void)cudaFree(array); /* what failed before is reported by who asked for it */
}

static void gpu_zero(av_backend *be, av_kind kind, void *array, int64_t n) {
  AV_GPU_RUN(be, cudaMemsetAsync(array, 0, (size_t)n * be->bytes[kind], av_gpu_of(be)->stream));
}

void av_gpu_add(av_backend *be, int64_t n, av_sum *sums, const av_sum *more) {
  AV_GPU_RUN(be, av_gpu_add_sums(av_gpu_of(be)->stream, n, doubles(sums), const_doubles(more)));
}

static void narrow(int64_t n, const double *values, float *out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = (float)values[i];
  }
}

static void widen(int64_t n, const float *values, double *out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = (double)values[i];
  }
}

static av_status copy(av_backend *be, void *to, const void *from, size_t bytes,
                      enum cudaMemcpyKind way) {
  /* before as well: a copy to memory that is not pinned waits inside CUDA, where nobody can ask
   * for errors */
  AV_TRY(av_gpu_wait(be, "a copy between host and GPU"));
  AV_TRY(av_gpu_own(be, AV_CUDA(cudaMemcpyAsync(to, from, bytes, way, av_gpu_of(be)->stream))));
  return av_gpu_wait(be, "a copy between host and GPU");
}

static av_status gpu_write(av_backend *be, av_kind kind, void *array, int64_t n,
                           const double *values) {
  if (kind == AV_SUM) {
    return copy(be, array, values, (size_t)n * sizeof *values, cudaMemcpyHostToDevice);
  }
  float *narrowed = av_malloc((size_t)n, sizeof *narrowed);
  AV_TRY_ALLOC(narrowed);
  narrow(n, values, narrowed);
  const av_status status =
      copy(be, array, narrowed, (size_t)n * sizeof *narrowed, cudaMemcpyHostToDevice);
  free(narrowed);
  return status;
}

static av_status gpu_read(av_backend *be, av_kind kind, const void *array, int64_t n,
                          double *values) {
  if (kind == AV_SUM) {
    return copy(be, values, array, (size_t)n * sizeof *values, cudaMemcpyDeviceToHost);
  }
  float *narrowed = av_malloc((size_t)n, sizeof *narrowed);
  AV_TRY_ALLOC(narrowed);
  const av_status status =
      copy(be, narrowed, array, (size_t)n * sizeof *narrowed, cudaMemcpyDeviceToHost);
  if (status == AV_OK) {
    widen(n, narrowed, values);
  }
  free(narrowed);
  return status;
}

const av_backend_ops av_backend_cuda = {.name = "cuda",
                                        .open = gpu_open,
                                        .close = gpu_close,
                                        .alloc = gpu_alloc,
                                        .release = gpu_release,
                                        .write = gpu_write,
                                        .read = gpu_read,
                                        .read_begin = av_gpu_read_begin,
                                        .read_end = av_gpu_read_end,
                                        .zero = gpu_zero,
                                        .add = av_gpu_add,
                                        .output_end = av_gpu_output_end,
                                        .pass_begin = av_gpu_pass_begin,
                                        .pass_end = av_gpu_pass_end,
                                        AV_TABLE_OPERATIONS(av_gpu_)};
