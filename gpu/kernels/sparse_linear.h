/* First layer over the resident sparse counts, and its weights' gradient.
 *
 * Forward, one launch: y = [f(counts), continuous, one-hot] w + bias: 4 n bytes of w and 2 n FLOPs
 * for each non-zero. Sizes and the device choose one of two kernels; B does not:
 *   forward       reads w through the second-level cache, where it lies (1 MB with 2,000 genes x
 *                 128 columns): 9 MB for 128 cells of 140 non-zeros. A warp has 128 columns, four a
 *                 lane, in registers; its lanes fetch 32 entries together (one logarithm each) and
 *                 broadcast them, eight rows of w on their way at a time. Small minibatches would
 *                 leave most of the device idle and wait for one row after another: there up to 8
 *                 warps share a cell's entries and add up in a fixed order.
 *   forward_sliced  large minibatches, for which that would be 290 MB at 4,096 cells: a block keeps
 *                 a slice of w, all genes x 32, 16, 8 or 4 columns as shared memory allows, and its
 *                 warps take one cell after another. w is read once by each group of cells, 16 MB
 *                 in all, and the entries once for each slice, 14 MB; the rest is shared memory's.
 *
 * Gradient, two launches, three with slabs: dw += f(counts)^T dy, and covariates and bias
 * likewise, which are rows of w as any other (the bias is that of an input which is always 1).
 *   chunk_bounds  where the genes of each chunk begin in each cell's list: reads the lists once,
 *                 writes 4 bytes a cell and chunk.
 *   gradient      a block has a chunk of 16 to 64 rows of w x 128 columns, sums in registers, and
 *                 walks over the cells of its slab in tiles of 64: dy of the tile (32 KB) and the
 *                 chunk's inputs, spread out by row and cell, come into shared memory; then a warp
 *                 takes one row after another and, of each 32 cells, those whose input is not 0 (a
 *                 ballot), in order. Nothing is sorted, no two blocks write to one place, and dy is
 *                 read from shared memory: 512 bytes and 256 FLOPs for each non-zero and 128
 *                 columns there, against B n 4 bytes for each chunk from the second-level cache
 *                 (125 chunks of 16 genes at 128 cells: 8 MB; 32 of 64 at 4,096: 67 MB).
 *   add_slabs     with few chunks and many cells, cells are cut into slabs with sums of their own,
 *                 so that all multiprocessors have work (4,096 cells, 2,000 genes, 128 columns: 16
 *                 slabs, 17 MB written and read); this adds them up in order.
 */
#ifndef AV_GPU_KERNELS_SPARSE_LINEAR_H
#define AV_GPU_KERNELS_SPARSE_LINEAR_H

#include "kernels/view.h"

#include <cuda_runtime_api.h>

/* Warps of a block, cells of a tile, columns of a block; small counts whose inputs are kept. */
enum { AV_SPARSE_WARPS = 8, AV_SPARSE_TILE = 64, AV_SPARSE_COLUMNS = 128, AV_SPARSE_TABLE = 255 };

/* y (max_rows, n). */
typedef struct av_gpu_sparse_layer {
  bool take_log;   /* f = log1p */
  bool covariates; /* rows of w follow for them */
  int n;
  const float *w;    /* (G + C + O with covariates, n) */
  const float *bias; /* (n) */
  float *y;
} av_gpu_sparse_layer;

/* How sliced blocks share it. */
typedef struct av_gpu_sparse_slices {
  int columns;     /* of a block's slice of w; 0: no slice fits, or is worth it */
  unsigned groups; /* of cells: blocks for each slice */
} av_gpu_sparse_slices;

/* A gradient: how it is cut, its scratch, and where it goes. */
typedef struct av_gpu_sparse_grad {
  bool take_log;   /* f = log1p */
  bool covariates; /* rows of w follow for them */
  int n;
  int64_t n_genes; /* G */
  int64_t extras;  /* rows beyond: C + O with covariates, and the bias */

  int genes_a_warp; /* 2, 4 or 8; a chunk has AV_SPARSE_WARPS times as many rows */
  int64_t chunks, extra_chunks;
  int64_t pass_rows; /* cells at a time, for which there is scratch */
  int64_t slab_rows; /* a multiple of the tile */
  int64_t slabs;     /* that make up a pass */

  int64_t *start;   /* scratch (pass_rows): a cell's first entry */
  uint32_t *bounds; /* scratch (pass_rows, chunks + 1): where each chunk begins, from there on */
  float *partial;   /* scratch (slabs, n_genes + extras, n); not used by one slab */
  const float *dy;  /* (max_rows, n) */
  float *dw;        /* (n_genes + extras - 1, n) */
  float *dbias;     /* (n) */
} av_gpu_sparse_grad;

#ifdef __cplusplus
extern "C" {
#endif

cudaError_t av_gpu_sparse_forward(cudaStream_t stream, const av_gpu_rows *rows,
                                  const av_gpu_sparse_layer *layer);
/* The same with slices, if layer is whole. */
cudaError_t av_gpu_sparse_forward_sliced(cudaStream_t stream, const av_gpu_rows *rows,
                                         const av_gpu_sparse_layer *layer,
                                         const av_gpu_sparse_slices *slices);
cudaError_t av_gpu_sparse_backward(cudaStream_t stream, const av_gpu_rows *rows,
                                   const av_gpu_sparse_grad *grad);

#ifdef __cplusplus
}
#endif

/* Shared memory of a block with a slice: its columns of w, and of a row of zeros, and a table. */
static inline int64_t av_gpu_sparse_slice_bytes(int64_t n_genes, int64_t columns) {
  return ((n_genes + 1) * columns + AV_SPARSE_TABLE) * (int64_t)sizeof(float);
}

/* Slices for a device that lets a block have shared_most bytes. That fewer cells are not worth
 * slices is a guess; a warp has one cell at least. */
static inline av_gpu_sparse_slices av_gpu_sparse_slices_of(int64_t max_rows, int64_t n_genes,
                                                           int64_t n, int64_t shared_most,
                                                           int multiprocessors) {
  enum { LEAST_ROWS = 512, LEAST_CELLS = 32, WIDEST = 32, NARROWEST = 4 };
  av_gpu_sparse_slices slices = {WIDEST, 0};
  while (slices.columns >= NARROWEST &&
         (slices.columns >= 2 * n ||
          av_gpu_sparse_slice_bytes(n_genes, slices.columns) > shared_most)) {
    slices.columns /= 2;
  }
  if (slices.columns < NARROWEST || max_rows < LEAST_ROWS) {
    slices.columns = 0;
    return slices;
  }
  const int64_t of_columns = (n + slices.columns - 1) / slices.columns;
  const int64_t most = (max_rows + LEAST_CELLS - 1) / LEAST_CELLS;
  const int64_t groups = multiprocessors > of_columns ? multiprocessors / of_columns : 1;
  slices.groups = (unsigned)(groups < most ? groups : most);
  return slices;
}

/* Four columns of a row lie on 16 bytes, everywhere. */
static inline bool av_gpu_sparse_on_16_bytes(const void *array) {
  return (uintptr_t)array % 16 == 0;
}
static inline bool av_gpu_sparse_whole(const av_gpu_sparse_layer *layer) {
  return layer->n % 4 == 0 && av_gpu_sparse_on_16_bytes(layer->w) &&
         av_gpu_sparse_on_16_bytes(layer->bias) && av_gpu_sparse_on_16_bytes(layer->y);
}

#endif
