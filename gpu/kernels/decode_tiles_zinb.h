/* Part of decode_tiles: ZINB, compiled by itself. */
#ifndef AV_GPU_KERNELS_DECODE_TILES_ZINB_H
#define AV_GPU_KERNELS_DECODE_TILES_ZINB_H

#include "kernels/decode.h"

#ifdef __cplusplus
extern "C" {
#endif

cudaError_t av_gpu_decode_tiles_zinb(cudaStream_t stream, const av_gpu_decode *call);

#ifdef __cplusplus
}
#endif

#endif
