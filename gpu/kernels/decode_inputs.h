/* Rows of w: which of them are inputs of a narrow decoder, and which a walk's keys. Device code
 * only. */
#ifndef AV_GPU_KERNELS_DECODE_INPUTS_H
#define AV_GPU_KERNELS_DECODE_INPUTS_H

#include "kernels/decode.h"

#include <cuda_runtime.h>

/* What a kernel of tiles has to do beside inputs, gradients and their sums: the less, the fewer
 * registers. */
enum {
  AV_TILE_PLAIN, /* narrow: nothing */
  AV_TILE_WIDE,  /* logits and gradients in rows; px_r may be by batch or label */
  AV_TILE_ANY,   /* narrow: a walk, rows that are kept, px_r by batch or label */
  AV_TILE_WINDOW /* a walk and px_r likewise, beside a window of the inputs */
};

/* Inputs [from, from + own) of x are the kernel's. */
template <int WAY>
static __device__ __forceinline__ int av_own_of(const av_gpu_decode &call) {
  return WAY == AV_TILE_WINDOW ? call.own : call.n_in;
}
template <int WAY>
static __device__ __forceinline__ int av_from_of(const av_gpu_decode &call) {
  return WAY == AV_TILE_WINDOW ? call.from : 0;
}

/* Row of w of input k: x of the window, then the one-hot columns that are spread, which there are
 * none of beside a window that is not all of x. */
template <int WAY>
static __device__ __forceinline__ int av_row_of_input(const av_gpu_decode &call, int k) {
  return av_from_of<WAY>(call) + (k < av_own_of<WAY>(call) + call.apart ? k : k + call.n_apart);
}

/* Where sum s of a walk's runs of `key` is added. */
static __device__ __forceinline__ float *av_row_of_key(const av_gpu_decode &call, int s, int key) {
  return call.walk.columns && s < call.n_heads
             ? call.head[s].dw + (int64_t)(call.n_in + key) * call.n_genes
             : call.walk.dpx_r + (int64_t)key * call.n_genes;
}

#endif
