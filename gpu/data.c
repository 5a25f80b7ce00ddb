/* Data handles: a rank's slab of counts, and what is known of its cells, in the device's memory for
 * the whole run, in the widths the host keeps them (3-4 bytes a non-zero). */
#include "state.h"

#include "base/memory.h"

#include <stdlib.h>

/* Arrays on their way to the device, until the first that fails. */
typedef struct av_loading {
  av_gpu *gpu;
  av_data *data;
  av_status status;
  size_t bytes; /* asked for so far */
} av_loading;

void av_gpu_data_free(av_backend *be, av_data *data) {
  (void)be;
  if (data == NULL) {
    return;
  }
  for (int i = 0; i < data->n_memory; ++i) {
    (void)cudaFree(data->memory[i]);
  }
  free(data);
}

/* A copy on the device of n elements of `size` bytes, data's own; NULL on failure. */
static const void *put(av_loading *loading, const void *from, int64_t n, size_t size) {
  av_data *data = loading->data;
  const size_t bytes = (size_t)n * size;
  void *made = NULL;
  if (loading->status != AV_OK) {
    return NULL;
  }
  loading->bytes += bytes;
  loading->status = AV_CUDA(cudaMalloc(&made, bytes > 0 ? bytes : 1));
  if (loading->status != AV_OK) {
    return NULL;
  }
  data->memory[data->n_memory++] = made;
  if (bytes > 0) {
    loading->status =
        AV_CUDA(cudaMemcpyAsync(made, from, bytes, cudaMemcpyHostToDevice, loading->gpu->stream));
  }
  return made;
}

/* The same of a temporary, which is freed when the copy is made; NULL: there was no memory. */
static const void *put_temporary(av_loading *loading, void *from, int64_t n, size_t size) {
  if (from == NULL && loading->status == AV_OK) {
    loading->status =
        av_fail(AV_NOMEM, "out of memory (%lld numbers for the device)", (long long)n);
  }
  const void *made = put(loading, from, n, size);
  if (loading->status == AV_OK) {
    loading->status = AV_CUDA(cudaStreamSynchronize(loading->gpu->stream));
  }
  free(from);
  return made;
}

static const float *put_floats(av_loading *loading, const double *from, int64_t n) {
  float *narrow = av_malloc((size_t)n, sizeof *narrow);
  for (int64_t i = 0; narrow != NULL && i < n; ++i) {
    narrow[i] = (float)from[i];
  }
  return put_temporary(loading, narrow, n, sizeof *narrow);
}

static const int32_t *put_firsts(av_loading *loading, const av_design *design) {
  const int64_t n = design->n_factors + 1;
  int32_t *first = av_calloc((size_t)n, sizeof *first);
  for (int64_t f = 0; first != NULL && f < n; ++f) {
    first[f] = f < design->n_factors ? (int32_t)design->first[f] : (int32_t)design->n_onehot;
  }
  return put_temporary(loading, first, n, sizeof *first);
}

static const float *put_log_sizes(av_loading *loading, const av_dataset *dataset) {
  const int64_t n = dataset->n_local;
  float *log_size = av_malloc((size_t)n, sizeof *log_size);
  for (int64_t i = 0; log_size != NULL && i < n; ++i) {
    log_size[i] = (float)av_log_size(dataset, i);
  }
  return put_temporary(loading, log_size, n, sizeof *log_size);
}

static void put_counts(av_loading *loading, const av_counts *counts) {
  static const size_t value_bytes[] = {[AV_COUNT_U8] = sizeof(uint8_t),
                                       [AV_COUNT_U16] = sizeof(uint16_t),
                                       [AV_COUNT_F32] = sizeof(float)};
  const int64_t entries = counts->n_nonzero;
  av_gpu_data *to = &loading->data->on_device;
  to->n_genes = counts->n_genes;
  to->wide_genes = counts->wide_genes;
  to->kind = (int)counts->kind;
  to->n_escaped = counts->n_escaped;
  to->row_start = put(loading, counts->row_start, counts->n_rows + 1, sizeof *counts->row_start);
  to->gene =
      put(loading, counts->gene, entries, counts->wide_genes ? sizeof(uint32_t) : sizeof(uint16_t));
  to->value = put(loading, counts->value, entries, value_bytes[counts->kind]);
  to->escaped_at = put(loading, counts->escaped_at, counts->n_escaped, sizeof *counts->escaped_at);
  to->escaped_value = put_floats(loading, counts->escaped_value, counts->n_escaped);
}

static void put_cells(av_loading *loading, const av_dataset *dataset) {
  const av_design *design = &dataset->design;
  const int64_t n = dataset->n_local;
  av_gpu_data *to = &loading->data->on_device;
  to->first = dataset->first;
  to->n_factors = (int)design->n_factors;
  to->n_onehot = (int)design->n_onehot;
  to->column = put(loading, design->column, n * design->n_factors, sizeof *design->column);
  to->factor_first = put_firsts(loading, design);
  to->n_continuous = (int)design->n_continuous;
  to->continuous = put_floats(loading, design->continuous, n * design->n_continuous);
  if (dataset->batch.levels.n > 1) {
    to->batch = put(loading, dataset->batch.code, n, sizeof *dataset->batch.code);
  }
  if (dataset->label.code != NULL) {
    to->label = put(loading, dataset->label.code, n, sizeof *dataset->label.code);
  }
  to->log_size = put_log_sizes(loading, dataset);
}

av_status av_gpu_data_load(av_backend *be, const av_dataset *dataset, av_data **data) {
  if (dataset->n_local > INT32_MAX) {
    return av_fail(AV_USAGE, "the cuda backend takes at most %d cells a rank, not %lld: use more",
                   INT32_MAX, (long long)dataset->n_local);
  }
  av_data *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->dataset = dataset;
  av_loading loading = {.gpu = av_gpu_of(be), .data = made, .status = AV_OK};
  put_counts(&loading, &dataset->counts);
  put_cells(&loading, dataset);
  if (loading.status == AV_OK) {
    /* what was copied from the dataset itself */
    loading.status = AV_CUDA(cudaStreamSynchronize(loading.gpu->stream));
  }
  if (loading.status != AV_OK) {
    av_gpu_data_free(be, made);
    return loading.status == AV_NOMEM
               ? av_fail(AV_NOMEM,
                         "%lld cells with %lld counts take more than %.2f GB on the device",
                         (long long)dataset->n_local, (long long)dataset->counts.n_nonzero,
                         1e-9 * (double)loading.bytes)
               : loading.status;
  }
  *data = made;
  return AV_OK;
}
