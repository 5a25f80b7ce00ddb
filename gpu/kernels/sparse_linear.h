/* First layer over the resident sparse counts, and its weights' gradient.
 *
 * Forward, one launch: y = [f(counts), continuous, one-hot] w + bias. Bound: 4 n bytes of w and
 * 2 n FLOPs for each non-zero, read through the second-level cache, where w lies (1 MB with 2,000
 * genes x 128 columns): 9 MB for 128 cells of 140 non-zeros, 290 MB for 4,096. A warp has 128
 * columns, four a lane, in registers; its lanes fetch 32 entries together (one logarithm each) and
 * broadcast them, eight rows of w on their way at a time. Small minibatches would leave most of the
 * device idle and wait for one row after another: there up to 8 warps share a cell's entries and
 * add up in a fixed order. That number follows from max_rows, so the bits do not depend on B.
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

/* Warps of a block, cells of a tile, columns of a block. */
enum { AV_SPARSE_WARPS = 8, AV_SPARSE_TILE = 64, AV_SPARSE_COLUMNS = 128 };

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

cudaError_t av_gpu_sparse_forward(cudaStream_t stream, const av_gpu_rows *rows, bool take_log,
                                  bool covariates, int n, const float *w, const float *bias,
                                  float *y);
cudaError_t av_gpu_sparse_backward(cudaStream_t stream, const av_gpu_rows *rows,
                                   const av_gpu_sparse_grad *grad);

#ifdef __cplusplus
}
#endif

#endif
