/* Gradients of NB and Poisson; those of ZINB are compiled beside them (decode_tiles_zinb.cu). */
#include "kernels/decode_tiles.h"
#include "kernels/decode_tiles_zinb.h"

extern "C" cudaError_t av_gpu_decode_tiles(cudaStream_t stream, const av_gpu_decode *call) {
  switch (call->kind) {
    case AV_DECODE_POISSON:
      av_launch_tiles<AV_DECODE_POISSON>(stream, *call);
      break;
    case AV_DECODE_NB:
      av_launch_tiles<AV_DECODE_NB>(stream, *call);
      break;
    case AV_DECODE_NB_BY_CELL:
      av_launch_tiles<AV_DECODE_NB_BY_CELL>(stream, *call);
      break;
    default:
      return av_gpu_decode_tiles_zinb(stream, call);
  }
  return cudaGetLastError();
}
