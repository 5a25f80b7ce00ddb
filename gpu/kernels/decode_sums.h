/* Sums of rho over cells. */
#ifndef AV_GPU_KERNELS_DECODE_SUMS_H
#define AV_GPU_KERNELS_DECODE_SUMS_H

#include "kernels/decode.h"

#include "base/exact.h"

#ifdef __cplusplus
extern "C" {
#endif

/* sums (G) += scale * rho of the chunk's cells, of which norms (n) are av_gpu_decode_norms'. */
cudaError_t av_gpu_decode_add_values(cudaStream_t stream, const av_gpu_decode *call,
                                     const float2 *norms, double scale, av_wide *sums);

#ifdef __cplusplus
}
#endif

#endif
