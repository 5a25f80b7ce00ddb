/* Draws from q(z) and q(l), their KL terms and gradients.
 *
 * Bound: latency, at minibatch 128; at 16,384 the double-precision units. A cell's dimensions come
 * in fours, as its normals do (backend/draws.h), and a thread has one four: a Philox call, two
 * logarithms, roots and turns, then an exponential, a logarithm and a root each, some 600
 * instructions in double, which an H100 issues at half the rate of float; 12 bytes a dimension
 * are nothing beside. A cell's fours, and one thread for its library and covariates, lie side by
 * side in 4 to 32 lanes of a warp, so that the softmax needs shuffles only: of 10 dimensions,
 * 4 lanes, all busy. Everything in double, as the reference: z is rounded once, and the two make
 * the same draws.
 *
 * Launches: a draw one where its threads fit in one block (minibatch 128 of 10 dimensions: 512),
 * else two, the second of which adds the blocks' losses; a gradient one. */
#ifndef AV_GPU_KERNELS_LATENT_H
#define AV_GPU_KERNELS_LATENT_H

#include "kernels/view.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Arguments of av_backend_ops.latent_draw and latent_grad; epoch and kl_weight are in `step`. */
typedef struct av_gpu_latent_plan {
  av_gpu_rows rows;
  int n_latent, stride;
  bool simplex, latent_library, sample;
  uint64_t seed;
  uint32_t purpose;
  const float *z_head; /* (., 2K) */
  const float *l_head; /* (., 2); unused without latent_library */
  const double *prior; /* (S, 2) */
} av_gpu_latent_plan;

/* Doubles of scratch for a draw. */
int64_t av_gpu_latent_scratch(const av_gpu_latent_plan *plan);

cudaError_t av_gpu_latent_draws(cudaStream_t stream, const av_gpu_latent_plan *plan,
                                const av_gpu_step *step, float *z, float *l, double *losses,
                                double *scratch);

/* dl and dl_head: unused without latent_library. */
cudaError_t av_gpu_latent_grads(cudaStream_t stream, const av_gpu_latent_plan *plan,
                                const av_gpu_step *step, const float *z, const float *dz,
                                const float *dl, float *dz_head, float *dl_head);

#ifdef __cplusplus
}
#endif
#endif
