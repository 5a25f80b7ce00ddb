/* Moments for wide folds, made by one block before all others read them. */
#include "kernels/fold_moments.h"

enum { LISTING = 512 }; /* threads of the block */

/* Rows of x and of the categories that have cells, in order: their number. By a block; room: an
 * int for each of its warps. */
static __device__ int list_present(const av_gpu_fold_shape &shape, const double *cells,
                                   int32_t *code, int32_t *range, int *room) {
  const int k = shape.n_in;
  int width = k;
  for (int d = thread_of(); d < k; d += (int)blockDim.x) {
    code[d] = d;
  }
  for (int start = 0; start < shape.n_onehot; start += (int)blockDim.x) {
    const int s = start + thread_of();
    const bool present = s < shape.n_onehot && cells[s] > 0.0;
    const unsigned mask = __ballot_sync(AV_ALL_LANES, present);
    if (lane_of() == 0) {
      room[warp_of()] = __popc(mask);
    }
    __syncthreads();
    int at = width + __popc(mask & ((1u << lane_of()) - 1u));
    for (int v = 0; v < (int)blockDim.x / AV_WARP; ++v) {
      at += v < warp_of() ? room[v] : 0;
      width += room[v];
    }
    if (present) {
      code[at] = k + s;
    }
    for (int f = 0; f < shape.n_factors; ++f) {
      if (shape.first[f] == s) {
        range[f] = at;
      }
    }
    __syncthreads();
  }
  return width;
}

/* One block. */
static __global__ void prepare(av_gpu_fold_shape shape, const double *stats,
                               const av_gpu_step *step, av_gpu_fold_work work) {
  __shared__ int room[LISTING / AV_WARP];
  const double n = (double)step->n_cells;
  const int width = list_present(shape, stats, work.code, work.range, room);
  if (thread_of() == 0) {
    *work.width = width;
    work.range[shape.n_factors] = width;
  }
  __syncthreads();
  const moments u = moments_there(shape, work);
  fill_mean(shape, stats, n, u);
  __syncthreads();
  fill_cross(shape, stats, n, u);
}

void av_gpu_fold_prepare(cudaStream_t stream, const av_gpu_fold_shape *shape, const double *stats,
                         const av_gpu_step *step, const av_gpu_fold_work *work) {
  AV_LAUNCH(prepare, 1u, LISTING, 0, stream, *shape, stats, step, *work);
}
