#include "kernels/decode_tiles_zinb.h"

#include "kernels/decode_tiles.h"

extern "C" cudaError_t av_gpu_decode_tiles_zinb(cudaStream_t stream, const av_gpu_decode *call) {
  if (call->kind == AV_DECODE_ZINB) {
    return av_launch_tiles<AV_DECODE_ZINB>(stream, *call);
  }
  return av_launch_tiles<AV_DECODE_ZINB_BY_CELL>(stream, *call);
}
