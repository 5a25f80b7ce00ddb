/* Data handles: what is known of a rank's cells, and their counts if they fit, in the device's
 * memory for the whole run, in the widths the host keeps them (3-4 bytes a non-zero). Counts that
 * do not fit stay with the host, and each minibatch's travel (stage.h). */
#include "state.h"

#include "base/log.h"
#include "base/memory.h"
#include "stage.h"

#include <stdlib.h>

/* Arrays on their way to the device, until the first that fails. */
typedef struct av_loading {
  av_gpu *gpu;
  av_data *data;
  av_status status;
  size_t bytes;     /* asked for so far */
  bool device_full; /* that is why it failed, and not for want of the host's memory */
} av_loading;

void av_gpu_data_free(av_backend *be, av_data *data) {
  (void)be;
  if (data == NULL) {
    return;
  }
  for (int i = 0; i < data->n_memory; ++i) {
    (void)cudaFree(data->memory[i]);
  }
  av_gpu_source_free(data->source);
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
    loading->device_full = loading->status == AV_NOMEM;
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

/* What is known of the counts wherever they are. */
static void describe_counts(av_gpu_data *to, const av_counts *counts) {
  to->n_genes = counts->n_genes;
  to->wide_genes = counts->wide_genes;
  to->kind = (int)counts->kind;
}

static void put_counts(av_loading *loading, const av_counts *counts, const av_gpu_slab *slab) {
  const int64_t entries = counts->n_nonzero;
  av_gpu_data *to = &loading->data->on_device;
  to->row_start = put(loading, counts->row_start, counts->n_rows + 1, sizeof *counts->row_start);
  to->gene = put(loading, counts->gene, entries, (size_t)slab->gene_bytes);
  to->value = put(loading, counts->value, entries, (size_t)slab->value_bytes);
  to->n_escaped = put(loading, &counts->n_escaped, 1, sizeof counts->n_escaped);
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

/* --- what fits -------------------------------------------------------------------------------- */

/* Bytes that this rank may still take of its device. */
static av_status look_for_room(const av_gpu *gpu, int64_t *room) {
  size_t now = 0;
  size_t all = 0;
  AV_TRY(AV_CUDA(cudaMemGetInfo(&now, &all)));
  *room = (int64_t)(now < gpu->room ? now : gpu->room);
  return AV_OK;
}

static int64_t sum_of(const av_gpu_need *need, bool streamed) {
  return (streamed ? need->staging : need->counts) + need->cells + need->model;
}

/* Whether counts can stay on the device: by what it has, and by what the user gives it. */
static bool counts_fit(const av_backend *be, int64_t room) {
  const av_gpu_use *use = &be->gpu;
  const int sharing = av_gpu_of(be)->sharing;
  return sum_of(&use->need, false) + av_gpu_spare_bytes(sharing) <= room &&
         (use->limit == 0 || av_gpu_size_needed(&use->need, false, sharing) <= use->limit);
}

static av_status too_large(const av_backend *be, const av_dataset *dataset, int64_t room) {
  const av_gpu_need *need = &be->gpu.need;
  return av_fail(
      AV_NOMEM,
      "%lld cells do not fit the GPU, though their counts are streamed: facts of the cells take "
      "%.3f GB, minibatches on their way %.3f, the model %.3f, and %.3f are free; use more ranks, "
      "or a smaller [train] batch_size",
      (long long)dataset->n_local, 1e-9 * (double)need->cells, 1e-9 * (double)need->staging,
      1e-9 * (double)need->model, 1e-9 * (double)room);
}

/* Counts that do not fit are streamed. Memory beyond the user's limit that cannot be done without
 * is taken all the same. */
static av_status choose_residence(av_backend *be, const av_dataset *dataset,
                                  const av_gpu_slab *slab, av_data *data) {
  av_gpu_use *use = &be->gpu;
  int64_t room = 0;
  AV_TRY(look_for_room(av_gpu_of(be), &room));
  use->need.counts = av_gpu_counts_bytes(slab);
  use->need.cells = av_gpu_cells_bytes(slab);
  use->need.staging = 0;
  use->streamed = !counts_fit(be, room);
  if (!use->streamed) {
    return AV_OK;
  }
  AV_TRY(av_gpu_source_create(dataset, &data->source));
  use->need.staging = av_gpu_staging_bytes(av_gpu_source_slot_bytes(data->source, use->max_rows));
  if (sum_of(&use->need, true) > room) {
    return too_large(be, dataset, room);
  }
  const int64_t size = av_gpu_size_needed(&use->need, true, av_gpu_of(be)->sharing);
  if (use->limit > 0 && size > use->limit) {
    av_warn(
        "[runtime] gpu_memory = %g: with counts streamed the run still takes up to %.3f GB of a "
        "GPU; use more GPUs, or a smaller [train] batch_size",
        1e-9 * (double)use->limit, 1e-9 * (double)size);
  }
  return AV_OK;
}

/* --- loading ---------------------------------------------------------------------------------- */

/* In place of what CUDA said. */
static av_status device_full(const av_data *data, size_t bytes) {
  const av_dataset *dataset = data->dataset;
  av_error_clear();
  return av_fail(
      AV_NOMEM,
      "%lld cells with %lld counts take %.3f GB of the GPU at least, more than was left: "
      "somebody else is on it (nvidia-smi), or has come since; use more ranks with a "
      "GPU each%s",
      (long long)dataset->n_local, (long long)dataset->counts.n_nonzero, 1e-9 * (double)bytes,
      data->source != NULL
          ? ""
          : ", or set [runtime] gpu_memory below what is free: then counts are streamed");
}

static av_status load(av_backend *be, const av_dataset *dataset, av_data *data) {
  const av_gpu_slab slab = av_gpu_slab_of(dataset);
  av_loading loading = {.gpu = av_gpu_of(be), .data = data};
  AV_TRY(choose_residence(be, dataset, &slab, data));
  loading.status = AV_OK;
  describe_counts(&data->on_device, &dataset->counts);
  if (data->source == NULL) {
    put_counts(&loading, &dataset->counts, &slab);
  }
  put_cells(&loading, dataset);
  if (loading.status == AV_OK) {
    /* what was copied from the dataset itself */
    loading.status = AV_CUDA(cudaStreamSynchronize(loading.gpu->stream));
  }
  return loading.device_full ? device_full(data, loading.bytes) : loading.status;
}

av_status av_gpu_data_load(av_backend *be, const av_dataset *dataset, av_data **data) {
  if (dataset->n_local > INT32_MAX) {
    return av_fail(AV_USAGE,
                   "the cuda backend takes at most %d cells a rank, not %lld: use "
                   "more ranks",
                   INT32_MAX, (long long)dataset->n_local);
  }
  av_data *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->dataset = dataset;
  const av_status status = load(be, dataset, made);
  if (status != AV_OK) {
    av_gpu_data_free(be, made);
    return status;
  }
  *data = made;
  return AV_OK;
}
