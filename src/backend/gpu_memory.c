#include "backend/gpu_memory.h"

static int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- the slab ---- */

av_gpu_slab av_gpu_slab_of(const av_dataset *dataset) {
  static const int64_t value_bytes[] = {[AV_COUNT_U8] = sizeof(uint8_t),
                                        [AV_COUNT_U16] = sizeof(uint16_t),
                                        [AV_COUNT_F32] = sizeof(float)};
  const av_counts *counts = &dataset->counts;
  return (av_gpu_slab){.n_cells = dataset->n_local,
                       .n_nonzero = counts->n_nonzero,
                       .n_escaped = counts->n_escaped,
                       .gene_bytes = counts->wide_genes ? sizeof(uint32_t) : sizeof(uint16_t),
                       .value_bytes = value_bytes[counts->kind],
                       .n_factors = dataset->design.n_factors,
                       .n_continuous = dataset->design.n_continuous,
                       .batches = dataset->batch.levels.n > 1,
                       .labels = dataset->label.code != NULL};
}

/* An escape's place and value. */
static const int64_t ESCAPE_BYTES = sizeof(int64_t) + sizeof(float);

int64_t av_gpu_counts_bytes(const av_gpu_slab *slab) {
  return (slab->n_cells + 1) * (int64_t)sizeof(int64_t) +
         slab->n_nonzero * (slab->gene_bytes + slab->value_bytes) + slab->n_escaped * ESCAPE_BYTES;
}

int64_t av_gpu_cells_bytes(const av_gpu_slab *slab) {
  const int64_t numbers = 1 + slab->n_factors + slab->n_continuous + (slab->batches ? 1 : 0) +
                          (slab->labels ? 1 : 0); /* 1: the logarithm of the size */
  return slab->n_cells * numbers * (int64_t)sizeof(float);
}

/* ---- streaming ---- */

int64_t av_gpu_slot_bytes(const av_gpu_slab *slab, int64_t max_rows, int64_t entries,
                          int64_t escapes) {
  const int64_t sections = 5; /* each begins on AV_GPU_STAGE_ALIGNMENT bytes */
  return (max_rows + 2) * (int64_t)sizeof(int64_t) +
         entries * (slab->gene_bytes + slab->value_bytes) + escapes * ESCAPE_BYTES +
         sections * AV_GPU_STAGE_ALIGNMENT;
}

int64_t av_gpu_staging_bytes(int64_t slot_bytes) {
  return AV_GPU_LIVE_BATCHES * (AV_GPU_STAGE_SLOTS + 1) * slot_bytes; /* 1: that kernels read */
}

/* ---- scratch ---- */

/* gpu/sparse_linear.c, the gradient. */
static int64_t sparse_bytes(const av_gpu_scratch *of) {
  enum { CHUNK = 16, TILE = 64, SLAB = 256 };
  const int64_t bounds = (parts(of->decode.n_genes, CHUNK) + 1) * (int64_t)sizeof(uint32_t);
  const int64_t sums = larger((of->n_first_in + 1) * of->n_first * (int64_t)sizeof(float), 1);
  const int64_t slabs = smaller(of->decode.max_rows / SLAB, AV_GPU_SPARSE_SCRATCH / sums);
  const int64_t rows = smaller(of->decode.max_rows, larger(AV_GPU_SPARSE_SCRATCH / bounds, TILE));
  return rows * (bounds + (int64_t)sizeof(int64_t)) + (slabs > 1 ? slabs * sums : 0);
}

/* Of gpu/, but for the decoder and the first layer. */
#define OTHERS (INT64_C(32) << 20)
_Static_assert(AV_GPU_SIMPLEX_SCRATCH <= OTHERS, "the means of draws need no more than is planned");

int64_t av_gpu_scratch_bytes(const av_gpu_scratch *of) {
  const int64_t most =
      larger(larger(av_gpu_decode_most_bytes(&of->decode), sparse_bytes(of)), OTHERS);
  return most + most / 4; /* unless it is told of this, av_gpu_work takes it in steps */
}

/* ---- results ---- */

int64_t av_gpu_fetch_bytes(int64_t max_rows, int64_t n_genes, int64_t n_latent) {
  enum { OUTPUTS = 2 };
  const int64_t number = sizeof(float);
  const int64_t least = OUTPUTS * smaller(max_rows, AV_GPU_FETCH_CELLS) * n_genes * number;
  return AV_GPU_FETCH_SLOTS *
         (larger(AV_GPU_FETCH_BYTES, least) + max_rows * 2 * n_latent * number);
}

/* ---- all together ---- */

int64_t av_gpu_spare_bytes(int sharing) {
  return larger(AV_GPU_SPARE_BYTES / sharing, AV_GPU_SPARE_LEAST);
}

int64_t av_gpu_size_needed(const av_gpu_need *need, bool streamed, int sharing) {
  const int64_t data = (streamed ? need->staging : need->counts) + need->cells + need->model;
  return sharing * (data + AV_GPU_BLAS_BYTES + AV_GPU_CONTEXT_BYTES + av_gpu_spare_bytes(sharing));
}
