/* Rows of w: which of them are inputs of a narrow decoder, and which a walk's keys. Device code
 * only. */
#ifndef AV_GPU_KERNELS_DECODE_INPUTS_H
#define AV_GPU_KERNELS_DECODE_INPUTS_H

#include "kernels/decode.h"

#include <cuda_runtime.h>

/* Row of w of input k: x, then the one-hot columns that are spread. */
static __device__ __forceinline__ int av_row_of_input(const av_gpu_decode &call, int k) {
  return k < call.n_in + call.apart ? k : k + call.n_apart;
}

/* Where sum s of a walk's runs of `key` is added. */
static __device__ __forceinline__ float *av_row_of_key(const av_gpu_decode &call, int s, int key) {
  return call.walk.columns && s < call.n_heads
             ? call.head[s].dw + (int64_t)(call.n_in + key) * call.n_genes
             : call.walk.dpx_r + (int64_t)key * call.n_genes;
}

#endif
