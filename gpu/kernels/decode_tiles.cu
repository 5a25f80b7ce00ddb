/* Gradients of NB and Poisson; those of ZINB are compiled beside them (decode_tiles_zinb.cu). */
#include "kernels/decode_tiles.h"
#include "kernels/decode_tiles_zinb.h"

extern "C" cudaError_t av_gpu_decode_tiles(cudaStream_t stream, const av_gpu_decode *call) {
  switch (call->kind) {
    case AV_DECODE_POISSON:
      return av_launch_tiles<AV_DECODE_POISSON>(stream, *call);
    case AV_DECODE_NB:
      return av_launch_tiles<AV_DECODE_NB>(stream, *call);
    case AV_DECODE_NB_BY_CELL:
      return av_launch_tiles<AV_DECODE_NB_BY_CELL>(stream, *call);
    default:
      return av_gpu_decode_tiles_zinb(stream, call);
  }
}
