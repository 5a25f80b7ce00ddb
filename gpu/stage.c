#include "stage.h"

#include "base/memory.h"
#include "comm.h"
#include "packing.h"

#include <stdlib.h>

typedef struct slot {
  char *host;          /* pinned */
  char *device;        /* the same bytes */
  cudaEvent_t arrived; /* on the device: the host may write again */
  cudaEvent_t taken;   /* from there: the next may come */
  av_gpu_packing packed;
} slot;

struct av_gpu_stage {
  const av_gpu_source *source;
  size_t capacity[AV_GPU_SECTIONS]; /* bytes */
  void *fixed[AV_GPU_SECTIONS];     /* what kernels see */
  int32_t *place;                   /* (max_rows) 0, 1, 2, ... on the device */
  int64_t *escapes;                 /* (max_rows + 1) before each row, host */
  slot slots[AV_GPU_STAGE_SLOTS];
  int next;
};

/* ---- how large minibatches can be ---- */

static av_status tally_begin(av_gpu_tally *tally, int64_t n_rows, int64_t most) {
  tally->n = av_calloc((size_t)most + 1, sizeof *tally->n);
  AV_TRY_ALLOC(tally->n);
  tally->most = n_rows > 0 ? most : 0;
  return AV_OK;
}

static int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

/* Entries and escapes of all rows; a row has no more of either than there are genes. */
static av_status tally_rows(const av_counts *counts, av_gpu_source *source) {
  const int64_t genes = counts->n_genes;
  const int64_t rows = counts->n_rows;
  AV_TRY(tally_begin(&source->entries, rows, at_most(counts->n_nonzero, genes)));
  AV_TRY(tally_begin(&source->escapes, rows, at_most(counts->n_escaped, genes)));
  int64_t e = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t end = counts->row_start[row + 1];
    const int64_t first = e;
    while (e < counts->n_escaped && counts->escaped_at[e] < end) {
      ++e;
    }
    ++source->entries.n[end - counts->row_start[row]];
    ++source->escapes.n[e - first];
  }
  return AV_OK;
}

/* Of the `rows` rows that have most. */
static int64_t most_of(const av_gpu_tally *tally, int64_t rows) {
  int64_t sum = 0;
  for (int64_t n = tally->most; n > 0 && rows > 0; --n) {
    const int64_t taken = at_most(tally->n[n], rows);
    sum += taken * n;
    rows -= taken;
  }
  return sum;
}

int64_t av_gpu_source_slot_bytes(const av_gpu_source *source, int64_t max_rows) {
  return av_gpu_slot_bytes(&source->slab, max_rows, most_of(&source->entries, max_rows),
                           most_of(&source->escapes, max_rows));
}

av_status av_gpu_source_create(const av_dataset *dataset, av_gpu_source **source) {
  av_gpu_source *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->counts = &dataset->counts;
  made->slab = av_gpu_slab_of(dataset);
  av_status status = tally_rows(made->counts, made);
  if (status == AV_OK) {
    status = AV_CUDA(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking));
  }
  if (status != AV_OK) {
    av_gpu_source_free(made);
    return status;
  }
  *source = made;
  return AV_OK;
}

void av_gpu_source_free(av_gpu_source *source) {
  if (source == NULL) {
    return;
  }
  if (source->stream != NULL) {
    (void)cudaStreamDestroy(source->stream);
  }
  free(source->entries.n);
  free(source->escapes.n);
  free(source);
}

/* ---- the ring ---- */

static av_status make_slot(slot *made, size_t bytes) {
  AV_TRY(AV_CUDA(cudaMallocHost((void **)&made->host, bytes)));
  AV_TRY(AV_CUDA(cudaMalloc((void **)&made->device, bytes)));
  AV_TRY(AV_CUDA(cudaEventCreateWithFlags(&made->arrived, cudaEventDisableTiming)));
  return AV_CUDA(cudaEventCreateWithFlags(&made->taken, cudaEventDisableTiming));
}

/* A minibatch's rows have their entries in their own order. */
static av_status make_places(av_backend *be, av_gpu_stage *stage, int64_t max_rows) {
  const size_t bytes = (size_t)max_rows * sizeof *stage->place;
  int32_t *place = av_malloc((size_t)max_rows, sizeof *place);
  AV_TRY_ALLOC(place);
  for (int64_t i = 0; i < max_rows; ++i) {
    place[i] = (int32_t)i;
  }
  av_status status = AV_CUDA(cudaMalloc((void **)&stage->place, bytes > 0 ? bytes : 1));
  if (status == AV_OK) {
    status = AV_CUDA(
        cudaMemcpyAsync(stage->place, place, bytes, cudaMemcpyHostToDevice, av_gpu_of(be)->stream));
  }
  if (status == AV_OK) {
    status = av_gpu_wait(be, "a new minibatch");
  }
  free(place);
  return status;
}

static av_status make_arrays(av_backend *be, av_gpu_stage *stage, int64_t max_rows) {
  const av_gpu_source *source = stage->source;
  stage->escapes = av_calloc((size_t)max_rows + 1, sizeof *stage->escapes);
  AV_TRY_ALLOC(stage->escapes);
  av_gpu_pack_sizes(&source->slab, max_rows, most_of(&source->entries, max_rows),
                    most_of(&source->escapes, max_rows), stage->capacity);
  for (int s = 0; s < AV_GPU_SECTIONS; ++s) {
    const size_t bytes = stage->capacity[s] > 0 ? stage->capacity[s] : 1;
    AV_TRY(AV_CUDA(cudaMalloc(&stage->fixed[s], bytes)));
  }
  /* a batch without rows until one is selected */
  AV_TRY(AV_CUDA(cudaMemsetAsync(stage->fixed[AV_GPU_HEAD], 0, stage->capacity[AV_GPU_HEAD],
                                 av_gpu_of(be)->stream)));
  AV_TRY(make_places(be, stage, max_rows));
  const size_t bytes = (size_t)av_gpu_source_slot_bytes(source, max_rows);
  for (int i = 0; i < AV_GPU_STAGE_SLOTS; ++i) {
    AV_TRY(make_slot(&stage->slots[i], bytes));
  }
  return AV_OK;
}

static void show(const av_gpu_stage *stage, av_gpu_rows *view) {
  view->place = stage->place;
  view->data.n_escaped = stage->fixed[AV_GPU_HEAD];
  view->data.row_start = view->data.n_escaped + 1;
  view->data.gene = stage->fixed[AV_GPU_GENES];
  view->data.value = stage->fixed[AV_GPU_VALUES];
  view->data.escaped_at = stage->fixed[AV_GPU_ESCAPED_AT];
  view->data.escaped_value = stage->fixed[AV_GPU_ESCAPED_VALUES];
}

av_status av_gpu_stage_create(av_backend *be, const av_gpu_source *source, int64_t max_rows,
                              av_gpu_rows *view, av_gpu_stage **stage) {
  av_gpu_stage *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->source = source;
  const av_status status = make_arrays(be, made, max_rows);
  if (status != AV_OK) {
    av_gpu_stage_free(be, made);
    return status;
  }
  show(made, view);
  *stage = made;
  return AV_OK;
}

static void free_slot(slot *of) {
  if (of->host != NULL) {
    (void)cudaFreeHost(of->host);
  }
  if (of->device != NULL) {
    (void)cudaFree(of->device);
  }
  if (of->arrived != NULL) {
    (void)cudaEventDestroy(of->arrived);
  }
  if (of->taken != NULL) {
    (void)cudaEventDestroy(of->taken);
  }
}

void av_gpu_stage_free(av_backend *be, av_gpu_stage *stage) {
  if (stage == NULL) {
    return;
  }
  av_gpu_settle(be, "minibatches, to be freed"); /* the stream has waited for the copies' */
  for (int i = 0; i < AV_GPU_STAGE_SLOTS; ++i) {
    free_slot(&stage->slots[i]);
  }
  for (int s = 0; s < AV_GPU_SECTIONS; ++s) {
    if (stage->fixed[s] != NULL) {
      (void)cudaFree(stage->fixed[s]);
    }
  }
  if (stage->place != NULL) {
    (void)cudaFree(stage->place);
  }
  free(stage->escapes);
  free(stage);
}

/* ---- sending ---- */

void av_gpu_stage_send(av_backend *be, av_gpu_stage *stage, int64_t n, const int64_t *rows) {
  slot *with = &stage->slots[stage->next];
  cudaStream_t copies = stage->source->stream;
  av_gpu_must(be, av_gpu_wait_event(be, with->arrived, "training steps"));
  av_gpu_must(be, av_gpu_pack(stage->source->counts, &stage->source->slab, be->threads,
                              stage->capacity, n, rows, stage->escapes, with->host, &with->packed));
  AV_GPU_MUST(be, cudaStreamWaitEvent(copies, with->taken, 0));
  AV_GPU_MUST(be, cudaMemcpyAsync(with->device, with->host, with->packed.used,
                                  cudaMemcpyHostToDevice, copies));
  AV_GPU_MUST(be, cudaEventRecord(with->arrived, copies));
}

void av_gpu_stage_take(av_backend *be, av_gpu_stage *stage) {
  slot *with = &stage->slots[stage->next];
  cudaStream_t kernels = av_gpu_of(be)->stream;
  stage->next = (stage->next + 1) % AV_GPU_STAGE_SLOTS;
  AV_GPU_MUST(be, cudaStreamWaitEvent(kernels, with->arrived, 0));
  for (int s = 0; s < AV_GPU_SECTIONS; ++s) {
    if (with->packed.bytes[s] > 0) {
      AV_GPU_MUST(be, cudaMemcpyAsync(stage->fixed[s], with->device + with->packed.at[s],
                                      with->packed.bytes[s], cudaMemcpyDeviceToDevice, kernels));
    }
  }
  AV_GPU_MUST(be, cudaEventRecord(with->taken, kernels));
}
