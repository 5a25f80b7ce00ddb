/* rho and mu: a block has a cell, and makes its logits twice. Bound: 8 bytes written for each cell
 * and gene, or added to, and their way to the host. Or what they are normalised by, alone. */
#include "kernels/decode_logits.h"

enum { THREADS = 256 };

/* On 8.0 and 10.0 the compiler would spill registers to fit 8 blocks into a multiprocessor. */
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 1000)
#define BOUNDS __launch_bounds__(THREADS, 6)
#else
#define BOUNDS __launch_bounds__(THREADS)
#endif

static __device__ __forceinline__ void put(const av_gpu_decode_outputs &to, float *at,
                                           float value) {
  const float mine = value / to.share;
  *at = to.added ? *at + mine : mine;
}

/* norms: they alone are asked for; NULL: the outputs. */
static __global__ void BOUNDS values(const av_gpu_decode call, bool held,
                                     const av_gpu_decode_outputs to, float2 *norms) {
  AV_SHARED_ARRAY(float, room_of_logits);
  __shared__ double2 room[THREADS / AV_WARP];
  __shared__ float shared_top;
  __shared__ double shared_sum;
  const av_tile<1> tile = av_tile_of<1>(call, held, room_of_logits);
  if (tile.live == 0) {
    return; /* the whole block */
  }
  av_tile_inputs(call, tile);
  __syncthreads();
  av_lse<1> lse;
  av_lse_start(lse);
  for (int g = (int)threadIdx.x; g < call.n_genes; g += THREADS) {
    float logit[1];
    av_first_logits(call, tile, g, logit);
    av_lse_add(lse, logit);
  }
  float top = 0.0f;
  double sum = 1.0;
  av_lse_join(lse, room, &top, &sum);
  if (threadIdx.x == 0) {
    shared_top = top;
    shared_sum = call.softplus ? 1.0 : sum;
  }
  __syncthreads();
  const float inverse = (float)(1.0 / shared_sum);
  if (norms != NULL) {
    if (threadIdx.x == 0) {
      norms[tile.first] = make_float2(shared_top, inverse);
    }
    return;
  }
  const double rate = exp((double)call.l[call.first + tile.first]) / shared_sum;
  for (int g = (int)threadIdx.x; g < call.n_genes; g += THREADS) {
    float logit[1];
    av_logits(call, 0, tile, g, logit);
    const float e = call.softplus ? av_softplus_of(logit[0]).value : expf(logit[0] - shared_top);
    const int64_t at = tile.first * call.n_genes + g;
    if (to.rho != NULL) {
      put(to, &to.rho[at], e * inverse);
    }
    if (to.mu != NULL) {
      put(to, &to.mu[at], (float)(rate * (double)e));
    }
  }
}

static cudaError_t launch(cudaStream_t stream, const av_gpu_decode &call,
                          const av_gpu_decode_outputs &to, float2 *norms) {
  bool held = false;
  const size_t shared = av_tile_bytes(call, 1, &held);
  AV_LAUNCH(values, (unsigned)call.n, THREADS, shared, stream, call, held, to, norms);
  return cudaGetLastError();
}

extern "C" cudaError_t av_gpu_decode_values(cudaStream_t stream, const av_gpu_decode *call,
                                            const av_gpu_decode_outputs *to) {
  return launch(stream, *call, *to, NULL);
}

extern "C" cudaError_t av_gpu_decode_norms(cudaStream_t stream, const av_gpu_decode *call,
                                           float2 *norms) {
  const av_gpu_decode_outputs none = {NULL, NULL, 1.0f, false};
  return launch(stream, *call, none, norms);
}
