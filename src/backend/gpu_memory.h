/* What the cuda backend keeps in the memory of a GPU, in bytes: arithmetic alone, for the backend
 * itself (gpu/) and for those who plan without a GPU (`atlasvi check`).
 *
 * Facts of a rank's cells stay on its GPU for the whole run. Its counts stay there too if they fit;
 * otherwise they stay with the host and are streamed: the rows of each minibatch travel while the
 * GPU works on those before (gpu/stage.h). Results do not depend on which of the two it is.
 *
 * Not collective; no errors. */
#ifndef AV_BACKEND_GPU_MEMORY_H
#define AV_BACKEND_GPU_MEMORY_H

#include "backend/gpu_decode.h"
#include "data/dataset.h"

/* Streaming: minibatches on their way at a time, and batches that live at a time (for training or
 * inference, and for evaluation). */
enum { AV_GPU_STAGE_SLOTS = 4, AV_GPU_LIVE_BATCHES = 2, AV_GPU_STAGE_ALIGNMENT = 16 };

/* Results on their way to the host at a time (gpu/fetch.h), and bytes of a piece of the decoder's:
 * small against what travels in all, so that the first is soon on its way and the last soon there,
 * and large against what starting a copy takes; or so many cells, if they are more. Outputs are
 * averaged within a piece. */
enum { AV_GPU_FETCH_SLOTS = 3, AV_GPU_FETCH_CELLS = 32 };
#define AV_GPU_FETCH_BYTES (INT64_C(4) << 20)

/* Memory that a rank takes whatever the data: cuBLAS's, and allowances, not measured, for CUDA
 * itself with its kernels (a process has a context of its own), and for NCCL's buffers, kernels
 * that are loaded when they are first used, and what lies unused between allocations. */
#define AV_GPU_BLAS_BYTES (INT64_C(32) << 20)
#define AV_GPU_CONTEXT_BYTES (INT64_C(512) << 20)
#define AV_GPU_SPARE_BYTES (INT64_C(1) << 30)
/* Ranks that share a device have no NCCL on it, and share what is spare down to this for each, as
 * every process loads kernels by itself. */
#define AV_GPU_SPARE_LEAST (INT64_C(256) << 20)
int64_t av_gpu_spare_bytes(int sharing);

/* How the first layer's gradient cuts what it adds up (gpu/sparse_linear.c). */
#define AV_GPU_SPARSE_SCRATCH (INT64_C(128) << 20) /* of its bounds, and of its slabs' sums */

/* How the means of softmaxed draws cut their sums (gpu/latent.c). */
#define AV_GPU_SIMPLEX_SCRATCH (INT64_C(16) << 20)

/* A rank's slab. */
typedef struct av_gpu_slab {
  int64_t n_cells, n_nonzero, n_escaped;
  int64_t gene_bytes, value_bytes; /* of an entry: 2 or 4; 1, 2 or 4 */
  int64_t n_factors, n_continuous;
  bool batches, labels; /* codes of batches, and of labels, are there */
} av_gpu_slab;

av_gpu_slab av_gpu_slab_of(const av_dataset *dataset);

/* Of the counts with where each cell's begin, 3-4 bytes a non-zero and 8 a cell; and of all else
 * that is known of the cells. */
int64_t av_gpu_counts_bytes(const av_gpu_slab *slab);
int64_t av_gpu_cells_bytes(const av_gpu_slab *slab);

/* Of a minibatch of at most max_rows rows that hold at most so many entries and escapes, as it
 * travels. */
int64_t av_gpu_slot_bytes(const av_gpu_slab *slab, int64_t max_rows, int64_t entries,
                          int64_t escapes);
/* Of what streaming needs on the GPU, when such a minibatch takes slot_bytes; on the host, pinned,
 * it is AV_GPU_STAGE_SLOTS of them for each batch that lives. */
int64_t av_gpu_staging_bytes(int64_t slot_bytes);

/* What one operation at a time needs beside its arguments, at most. */
typedef struct av_gpu_scratch {
  av_gpu_decode_sizes decode;
  int64_t n_first, n_first_in; /* of the first layer: columns, and genes with covariates */
} av_gpu_scratch;
int64_t av_gpu_scratch_bytes(const av_gpu_scratch *of);

/* Of results on their way to the host: rho and mu of cells, and of a batch of rows the heads of
 * q(z), or as many bytes of codes in double; on the host as much again, pinned. */
int64_t av_gpu_fetch_bytes(int64_t max_rows, int64_t n_genes, int64_t n_latent);

/* What a rank puts on its GPU. */
typedef struct av_gpu_need {
  int64_t counts, cells;
  int64_t staging; /* in place of the counts */
  int64_t model;   /* with activations and scratch */
} av_gpu_need;

/* The GPU that holds it for each of the ranks that share it, counts resident or streamed, with the
 * memory taken whatever the data. */
int64_t av_gpu_size_needed(const av_gpu_need *need, bool streamed, int sharing);

/* A rank's part of its GPU, in av_backend. */
typedef struct av_gpu_use {
  int64_t limit; /* bytes of one GPU that may be used (runtime.gpu_memory); 0: what it has */
  int64_t
      max_rows; /* of the largest batch that will be made; this and need.model: set before the */
  av_gpu_need need; /* data are loaded, which sets the rest (staging only if it is needed) */
  bool streamed;    /* counts did not fit */
  int64_t scratch;  /* of need.model what one operation at a time needs: av_gpu_scratch_bytes, which
                       is taken in one piece; 0: not planned, and taken as operations ask for it */
} av_gpu_use;

#endif
