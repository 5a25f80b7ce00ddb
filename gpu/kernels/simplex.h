/* Means of softmaxed draws of q(z): the latent codes of latent_distribution = ln.
 *
 * Bound: the double-precision units. A cell gets thousands of draws, and nothing of them leaves the
 * processor but their sums. A cell's dimensions come in fours, as its normals do (backend/draws.h):
 * a lane has one four, of the next power of two side by side in a warp (of 10 dimensions 4 lanes,
 * one of them idle), and makes of one Philox call and four normals the two draws of a pair; their
 * softmax needs shuffles only. Beyond 128 dimensions, which are rare, a lane has several fours,
 * makes them anew for the largest of a draw, for its sum and for its shares, and adds in memory.
 * Everything in double, as the host's form (backend/simplex.h), whose draws these are.
 *
 * The pairs of a cell are spread over as many groups of lanes as it takes to fill a GPU, and their
 * sums are added in the order of the groups: the number of groups follows from the batch's size and
 * that of the draws alone, so that the same bits come out however many cells are selected.
 *
 * Launches: two. */
#ifndef AV_GPU_KERNELS_SIMPLEX_H
#define AV_GPU_KERNELS_SIMPLEX_H

#include "kernels/view.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct av_gpu_simplex_plan {
  av_gpu_rows rows;
  int n_latent;
  int64_t n_samples;
  uint64_t seed;
  int64_t most_sums;   /* doubles of scratch that it may take */
  const float *z_head; /* (., 2K) */
} av_gpu_simplex_plan;

/* Doubles of scratch. */
int64_t av_gpu_simplex_scratch(const av_gpu_simplex_plan *plan);

/* Arguments of av_backend_ops.simplex_means. */
cudaError_t av_gpu_simplex_codes(cudaStream_t stream, const av_gpu_simplex_plan *plan,
                                 double *codes, double *scratch);

#ifdef __cplusplus
}
#endif
#endif
