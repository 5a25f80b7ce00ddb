/* Minibatches: numbers of rows of the slab. Selecting is one copy of 4 bytes a row; resident counts
 * stay where they are, and kernels find them by row. Others are streamed: stage.h. */
#include "state.h"

#include "base/memory.h"
#include "comm.h"
#include "pass.h"
#include "stage.h"
#include "trial.h"

#include <stdlib.h>

/* Numbers that travel: n and the rows. */
static size_t row_numbers(int64_t max_rows) { return (size_t)max_rows + 1; }

void av_gpu_batch_free(av_backend *be, av_batch *batch) {
  if (batch == NULL) {
    return;
  }
  av_gpu_settle(be, "minibatches, to be freed"); /* rows may still be on their way */
  av_gpu_stage_free(be, batch->stage);
  for (int b = 0; b < AV_GPU_ROW_BUFFERS; ++b) {
    if (batch->arrived[b] != NULL) {
      (void)cudaEventDestroy(batch->arrived[b]);
    }
  }
  if (batch->host[0] != NULL) {
    (void)cudaFreeHost(batch->host[0]);
  }
  if (batch->on_device != NULL) {
    (void)cudaFree(batch->on_device);
  }
  av_gpu_graphs_free(batch->graphs);
  av_gpu_trial_free(batch->trial);
  free(batch);
}

/* Memory and events of an empty batch. */
static av_status allocate(av_backend *be, av_batch *batch, size_t numbers) {
  void *host = NULL;
  void *on_device = NULL;
  const size_t bytes = numbers * sizeof *batch->on_device;
  AV_TRY(av_gpu_graphs_create(&batch->graphs));
  AV_TRY(av_gpu_trial_create(be, &batch->trial));
  AV_TRY(AV_CUDA(cudaMalloc(&on_device, bytes)));
  batch->on_device = on_device;
  AV_TRY(AV_CUDA(cudaMemsetAsync(on_device, 0, bytes, av_gpu_of(be)->stream)));
  AV_TRY(AV_CUDA(cudaMallocHost(&host, AV_GPU_ROW_BUFFERS * bytes)));
  for (int b = 0; b < AV_GPU_ROW_BUFFERS; ++b) {
    batch->host[b] = (int32_t *)host + (size_t)b * numbers;
    AV_TRY(AV_CUDA(cudaEventCreateWithFlags(&batch->arrived[b], cudaEventDisableTiming)));
  }
  return AV_OK;
}

av_status av_gpu_batch_create(av_backend *be, av_data *data, int64_t max_rows, av_batch **batch) {
  av_batch *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->data = data;
  av_status status = allocate(be, made, row_numbers(max_rows));
  made->view = (av_gpu_rows){.data = data->on_device,
                             .n = made->on_device,
                             .row = made->on_device + 1,
                             .place = made->on_device + 1,
                             .max_rows = max_rows};
  if (status == AV_OK && data->source != NULL) {
    status = av_gpu_stage_create(be, data->source, max_rows, &made->view, &made->stage);
  }
  if (status != AV_OK) {
    av_gpu_batch_free(be, made);
    return status;
  }
  *batch = made;
  return AV_OK;
}

void av_gpu_batch_send(av_backend *be, av_batch *batch) {
  const int buffer = batch->next;
  cudaStream_t stream = av_gpu_of(be)->stream;
  batch->next = (buffer + 1) % AV_GPU_ROW_BUFFERS;
  AV_GPU_MUST(be, cudaMemcpyAsync(batch->on_device, batch->host[buffer],
                                  row_numbers(batch->n) * sizeof *batch->on_device,
                                  cudaMemcpyHostToDevice, stream));
  AV_GPU_MUST(be, cudaEventRecord(batch->arrived[buffer], stream));
  if (batch->stage != NULL) {
    av_gpu_stage_take(be, batch->stage);
  }
}

void av_gpu_batch_select(av_backend *be, av_batch *batch, int64_t n, const int64_t *rows) {
  av_gpu *gpu = av_gpu_of(be);
  int32_t *host = batch->host[batch->next];
  /* returns at once unless the host is a whole ring of minibatches ahead (or before first use) */
  av_gpu_must(be, av_gpu_wait_event(be, batch->arrived[batch->next], "training steps"));
  batch->n = n;
  host[0] = (int32_t)n;
  for (int64_t i = 0; i < n; ++i) {
    host[1 + i] = (int32_t)rows[i];
  }
  if (batch->stage != NULL) {
    av_gpu_stage_send(be, batch->stage, n, rows);
  }
  if (gpu->in_pass) {
    gpu->selected = batch;
  } else {
    av_gpu_batch_send(be, batch);
  }
}
