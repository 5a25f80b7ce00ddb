#include "fetch.h"

#include "base/memory.h"
#include "comm.h"

#include <stdlib.h>
#include <string.h>

typedef struct slot {
  void *device;
  void *host; /* pinned */
  size_t bytes;
  cudaEvent_t made;    /* on the device: it may travel */
  cudaEvent_t arrived; /* in pinned memory */
} slot;

struct av_gpu_fetch {
  cudaStream_t stream; /* copies to the host */
  slot slots[AV_GPU_FETCH_SLOTS];
  int first, pending; /* under way: so many from `first` on */
};

/* ---- life ---- */

static av_status make_ring(av_gpu_fetch *ring) {
  AV_TRY(AV_CUDA(cudaStreamCreateWithFlags(&ring->stream, cudaStreamNonBlocking)));
  for (int i = 0; i < AV_GPU_FETCH_SLOTS; ++i) {
    slot *of = &ring->slots[i];
    AV_TRY(AV_CUDA(cudaEventCreateWithFlags(&of->made, cudaEventDisableTiming)));
    AV_TRY(AV_CUDA(cudaEventCreateWithFlags(&of->arrived, cudaEventDisableTiming)));
  }
  return AV_OK;
}

static av_status create(av_backend *be, av_gpu_fetch **fetch) {
  av_gpu_fetch *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  const av_status status = make_ring(made);
  if (status != AV_OK) {
    av_gpu_fetch_free(be, made);
    return status;
  }
  *fetch = made;
  return AV_OK;
}

static void free_memory(slot *of) {
  if (of->host != NULL) {
    (void)cudaFreeHost(of->host);
  }
  if (of->device != NULL) {
    (void)cudaFree(of->device);
  }
  of->host = NULL;
  of->device = NULL;
  of->bytes = 0;
}

void av_gpu_fetch_free(av_backend *be, av_gpu_fetch *fetch) {
  if (fetch == NULL) {
    return;
  }
  av_gpu_settle(be, "results, to be freed"); /* all that its own stream waits for ... */
  if (fetch->stream != NULL) {
    (void)cudaStreamSynchronize(fetch->stream); /* ... and, after an error, what nobody took */
  }
  for (int i = 0; i < AV_GPU_FETCH_SLOTS; ++i) {
    slot *of = &fetch->slots[i];
    free_memory(of);
    if (of->made != NULL) {
      (void)cudaEventDestroy(of->made);
    }
    if (of->arrived != NULL) {
      (void)cudaEventDestroy(of->arrived);
    }
  }
  if (fetch->stream != NULL) {
    (void)cudaStreamDestroy(fetch->stream);
  }
  free(fetch);
}

/* ---- the ring ---- */

/* Nobody uses the slot: what it held has been taken. */
static av_status grow(av_backend *be, slot *of, size_t bytes) {
  av_gpu_settle(be, "room for results"); /* cudaFree waits for the device, and asks nobody */
  free_memory(of);
  AV_TRY(AV_CUDA(cudaMallocHost(&of->host, bytes)));
  AV_TRY(AV_CUDA(cudaMalloc(&of->device, bytes)));
  of->bytes = bytes;
  return AV_OK;
}

static slot *next_of(av_gpu_fetch *fetch) {
  return &fetch->slots[(fetch->first + fetch->pending) % AV_GPU_FETCH_SLOTS];
}

av_status av_gpu_fetch_room(av_backend *be, av_gpu_fetch **fetch, size_t bytes, void **device) {
  if (*fetch == NULL) {
    AV_TRY(create(be, fetch));
  }
  if ((*fetch)->pending == AV_GPU_FETCH_SLOTS) {
    return AV_FAIL_BUG("more than %d results on their way to the host", AV_GPU_FETCH_SLOTS);
  }
  slot *with = next_of(*fetch);
  if (bytes > with->bytes) {
    AV_TRY(grow(be, with, bytes));
  }
  *device = with->device;
  return AV_OK;
}

av_status av_gpu_fetch_send(av_backend *be, av_gpu_fetch *fetch, size_t bytes) {
  slot *with = next_of(fetch);
  AV_TRY(AV_CUDA(cudaEventRecord(with->made, av_gpu_of(be)->stream)));
  AV_TRY(AV_CUDA(cudaStreamWaitEvent(fetch->stream, with->made, 0)));
  AV_TRY(AV_CUDA(
      cudaMemcpyAsync(with->host, with->device, bytes, cudaMemcpyDeviceToHost, fetch->stream)));
  AV_TRY(AV_CUDA(cudaEventRecord(with->arrived, fetch->stream)));
  ++fetch->pending;
  return AV_OK;
}

av_status av_gpu_fetch_take(av_backend *be, av_gpu_fetch *fetch, const char *phase,
                            const void **values) {
  if (fetch == NULL || fetch->pending == 0) {
    return AV_FAIL_BUG("%s: none on their way to the host", phase);
  }
  slot *oldest = &fetch->slots[fetch->first];
  AV_TRY(av_gpu_wait_event(be, oldest->arrived, phase));
  fetch->first = (fetch->first + 1) % AV_GPU_FETCH_SLOTS;
  --fetch->pending;
  *values = oldest->host;
  return AV_OK;
}

int av_gpu_fetch_pending(const av_gpu_fetch *fetch) { return fetch == NULL ? 0 : fetch->pending; }

void av_gpu_fetch_copy(const av_backend *be, void *to, const void *from, size_t bytes) {
  enum { PIECE = 1 << 18 };
  const int64_t pieces = (int64_t)((bytes + PIECE - 1) / PIECE);
#pragma omp parallel for schedule(static) num_threads(be->threads) if (pieces > 1)
  for (int64_t i = 0; i < pieces; ++i) {
    const size_t at = (size_t)i * PIECE;
    memcpy((char *)to + at, (const char *)from + at, bytes - at < PIECE ? bytes - at : PIECE);
  }
}

/* ---- arrays, read in two halves ---- */

av_status av_gpu_read_begin(av_backend *be, av_kind kind, const void *array, int64_t n) {
  av_gpu *gpu = av_gpu_of(be);
  const size_t bytes = (size_t)n * be->bytes[kind];
  void *slot_memory = NULL;
  AV_TRY(av_gpu_fetch_room(be, &gpu->reads, bytes, &slot_memory));
  /* what follows may write to the array at once */
  AV_TRY(
      AV_CUDA(cudaMemcpyAsync(slot_memory, array, bytes, cudaMemcpyDeviceToDevice, gpu->stream)));
  return av_gpu_fetch_send(be, gpu->reads, bytes);
}

av_status av_gpu_read_end(av_backend *be, av_kind kind, int64_t n, double *values) {
  const void *arrived = NULL;
  AV_TRY(av_gpu_fetch_take(be, av_gpu_of(be)->reads, "numbers from the GPU", &arrived));
  if (kind == AV_SUM) {
    av_gpu_fetch_copy(be, values, arrived, (size_t)n * sizeof *values);
    return AV_OK;
  }
  const float *narrow = arrived;
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < n; ++i) {
    values[i] = (double)narrow[i];
  }
  return AV_OK;
}
