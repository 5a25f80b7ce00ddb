/* Dense layers that are too small to be worth cuBLAS, and of any layer what belongs to its bias and
 * one-hot columns.
 *
 * Bound: latency. The layers of the default models, 128 x 20, 128 x 2, 11 x 128 and 128 x 128, are
 * 0.03 to 2 million multiplications at minibatch 128, less than 1 us of an H100's arithmetic, and
 * their weights lie in L2; what takes time is launches and the chain of loads behind each sum. So
 * one launch does everything, and every sum is cut among a block's warps, which meet in shared
 * memory:
 *   - y and dx: a lane has a column of the result, a warp a part of the inner dimension for R
 *     rows at once (4 or, in large minibatches, 8): of every four inner terms R + 4 loads (R of
 *     them 16 bytes, the same to all lanes) serve 4 R products. At minibatch 128, 32 blocks for
 *     128 x 20, 128 for 128 x 128; at 4,096, 512 and 2,048. Loads and products then keep pace, so
 *     that half of the peak is the most that can be had: enough until the products are many
 *     (linear.c says when), where cuBLAS is better.
 *   - dw and dbias: a lane has a column, a warp a part of the cells, for 16 rows of dw; the blocks
 *     of a large minibatch have parts of the cells too, and a second launch adds up what they
 *     found (scratch: 1.1 MB at most). One-hot rows: the lanes look at 32 cells at a time, and only
 *     those cells that have one of the block's 16 columns cost more, so that thousands of columns
 *     are no burden.
 * Launches: forward 1; backward 1 (dx and dw are different blocks of it), 2 above 512 rows. */
#ifndef AV_GPU_KERNELS_LINEAR_H
#define AV_GPU_KERNELS_LINEAR_H

#include "kernels/view.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A layer and its gradients, as in av_backend_ops.linear and linear_grad; what a direction does not
 * need is NULL. */
typedef struct av_gpu_dense {
  av_gpu_rows rows;
  int m, n_onehot, n;
  bool products; /* false: those of x, w and dy are made elsewhere, and only the rest here */
  const float *x;
  int64_t x_stride;
  const float *w, *bias;
  float *y;
  const float *dy;
  float *dx; /* may be NULL */
  int64_t dx_stride;
  float *dw, *dbias; /* dbias may be NULL */
} av_gpu_dense;

/* y = bias and one-hot rows, and x's product if `products`; zeros beyond B. */
cudaError_t av_gpu_dense_forward(cudaStream_t stream, const av_gpu_dense *layer);

/* Floats of scratch for av_gpu_dense_backward. */
int64_t av_gpu_dense_scratch(const av_gpu_dense *layer);

/* dw and dbias += what one-hot columns and the bias get, and x^T dy, and dx, if `products`. */
cudaError_t av_gpu_dense_backward(cudaStream_t stream, const av_gpu_dense *layer, float *scratch);

#ifdef __cplusplus
}
#endif
#endif
