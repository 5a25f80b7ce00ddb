/* BatchNorm over the global minibatch, LayerNorm, ReLU and dropout, forward and backward. Figures
 * are counted for an H100, not measured.
 *
 * Column sums (moments and norm_sums). Bound by launch and latency at a minibatch of 128 (128 x 256
 * floats are 128 KB), by L2 and by conversions to double (16 a cycle and SM) at thousands of rows:
 * 4,096 x 256 are 4 MB, or 12 MB on the way back, and conversions of 0.3 to 0.6 us. A block takes
 * 32 columns, 8 threads of 16 bytes to a row where rows are aligned. Up to AV_GPU_NORM_ONE_SLAB
 * rows it takes all of them, in one launch: a second launch would cost more than 4 rounds of loads.
 * Beyond, blocks take slabs of AV_GPU_NORM_SLAB rows (4,096 x 256: 128 blocks; 16,384: 512), or of
 * more, so that there are at most AV_GPU_NORM_SLABS to add and a grid has room for them, and a
 * second launch adds the slabs. A counter that lets the last block add them would save a part of
 * that launch, but is a state that outlives the kernel. Everything is added in an order given by
 * the numbers of rows and columns.
 *
 * Elementwise (norm_act without LayerNorm, norm_grad). One launch, which also moves the running
 * statistics; bound as above: 8 MB in and out at 4,096 x 256, 16 MB on the way back. A thread takes
 * 8 columns of a row, the units of one Philox call (100 to 200 instructions: 131,072 calls are
 * about 1 us), and a block of 128 threads 64 columns x 16 rows: 16 to 32 blocks at a minibatch of
 * 128, about AV_GPU_NORM_BLOCKS at thousands of rows, so that the columns' constants (three
 * divisions and a root in double) are made once for several rows of a thread.
 *
 * LayerNorm: a warp for each cell and block of columns, values read again (from L1) in each pass:
 * two passes for mean and variance, one or two for the result. With BatchNorm before it, one more
 * small launch makes the columns' constants, which warps would otherwise make again for each cell.
 */
#ifndef AV_GPU_KERNELS_NORM_H
#define AV_GPU_KERNELS_NORM_H

#include "kernels/view.h"

#include <cuda_runtime_api.h>
#include <stddef.h>

enum {
  AV_GPU_NORM_ONE_SLAB = 512,
  AV_GPU_NORM_SLAB = 256,
  AV_GPU_NORM_SLABS = 1024,
  AV_GPU_NORM_BLOCKS = 4 * 132
};

/* av_norm, less what differs from step to step. */
typedef struct av_gpu_norm {
  int64_t n;
  int64_t blocks; /* of LayerNorm */
  bool training;  /* minibatch moments; always on the way back */
  bool batch_norm;
  bool relu;
  uint32_t drop_below; /* av_dropout_threshold; 0 without dropout */
  float kept;          /* factor of kept units; 1 without dropout */
  uint32_t layer;
  uint64_t seed;
} av_gpu_norm;

/* What norm_act and its way back read; NULL where not needed. */
typedef struct av_gpu_norm_arrays {
  const float *x;        /* (B, n) */
  const double *moments; /* (2, n) */
  const float *gamma;    /* (n) */
  const float *beta;     /* (n) */
  const float *y;        /* (B, n) */
  const float *dy;       /* (B, n) */
} av_gpu_norm_arrays;

/* Rows of a slab, and their number. */
static inline int64_t av_gpu_norm_slab_rows(int64_t max_rows) {
  const int64_t least = max_rows <= AV_GPU_NORM_ONE_SLAB ? AV_GPU_NORM_ONE_SLAB : AV_GPU_NORM_SLAB;
  const int64_t rows = (max_rows + AV_GPU_NORM_SLABS - 1) / AV_GPU_NORM_SLABS;
  return rows > least ? rows : least;
}
static inline int64_t av_gpu_norm_slabs(int64_t max_rows) {
  const int64_t rows = av_gpu_norm_slab_rows(max_rows);
  return max_rows <= rows ? 1 : (max_rows + rows - 1) / rows;
}
/* Bytes of `partial`, scratch of moments and norm_sums: 0 where one slab is all. */
static inline size_t av_gpu_norm_partial_bytes(int64_t max_rows, int64_t n) {
  const int64_t slabs = av_gpu_norm_slabs(max_rows);
  return slabs == 1 ? 0 : (size_t)(slabs * 2 * n) * sizeof(double);
}
/* Bytes of `columns`, scratch of LayerNorm after BatchNorm. */
static inline size_t av_gpu_norm_columns_bytes(int64_t n) {
  return (size_t)(3 * n) * sizeof(float);
}

#ifdef __cplusplus
extern "C" {
#endif

/* moments (2, n) = column sums of x (B, n) and of its squares. */
cudaError_t av_gpu_norm_moments(cudaStream_t stream, const av_gpu_rows *rows, int64_t n,
                                const float *x, double *partial, double *moments);
/* back (2, n) = column sums of d and d xhat; dgamma, dbeta += them. x, moments, y, dy are read. */
cudaError_t av_gpu_norm_sums(cudaStream_t stream, const av_gpu_rows *rows, const av_gpu_norm *norm,
                             const av_gpu_step *step, const av_gpu_norm_arrays *arrays,
                             double *partial, double *back, float *dgamma, float *dbeta);
/* y (B, n) from x, moments, gamma and beta, without LayerNorm; running (2, n) is moved in training
 * and read after. */
cudaError_t av_gpu_norm_elements(cudaStream_t stream, const av_gpu_rows *rows,
                                 const av_gpu_norm *norm, const av_gpu_step *step,
                                 const av_gpu_norm_arrays *arrays, float *running, float *y);
/* The same with LayerNorm. `columns`: scratch with BatchNorm, else NULL. */
cudaError_t av_gpu_norm_layers(cudaStream_t stream, const av_gpu_rows *rows,
                               const av_gpu_norm *norm, const av_gpu_step *step,
                               const av_gpu_norm_arrays *arrays, float *running, float *columns,
                               float *y);
/* d (B, n) in place through dropout, ReLU and LayerNorm. x, moments, gamma, beta, y are read. */
cudaError_t av_gpu_norm_layers_grad(cudaStream_t stream, const av_gpu_rows *rows,
                                    const av_gpu_norm *norm, const av_gpu_step *step,
                                    const av_gpu_norm_arrays *arrays, float *columns, float *d);
/* dx (B, n) from dy, which it may be, and the global `back`. x, moments, gamma, y are read. */
cudaError_t av_gpu_norm_grad(cudaStream_t stream, const av_gpu_rows *rows, const av_gpu_norm *norm,
                             const av_gpu_step *step, const av_gpu_norm_arrays *arrays,
                             const double *back, float *dx);

#ifdef __cplusplus
}
#endif
#endif
