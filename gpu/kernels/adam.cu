#include "kernels/adam.h"

#include "kernels/device.h"

/* Squares are summed within pieces of this many gradients and the pieces' sums in order: the length
 * depends on n alone. */
enum { THREADS = 256, FOUR = 4, PIECE = 4096 };

/* Whether arrays start at a multiple of 16 bytes. */
static bool is_aligned(const void *array) { return (uintptr_t)array % sizeof(float4) == 0; }

static __device__ __forceinline__ float4 *at_four(float *array, int64_t first) {
  return reinterpret_cast<float4 *>(array + first);
}

/* --- the gradient's length ------------------------------------------------------------------ */

static __device__ __forceinline__ double square(float x) { return (double)x * (double)x; }

static __device__ double squares_of_four(const float *grads, int64_t n, int64_t first,
                                         bool aligned) {
  if (aligned && first + FOUR <= n) {
    const float4 g = *reinterpret_cast<const float4 *>(grads + first);
    return (square(g.x) + square(g.y)) + (square(g.z) + square(g.w));
  }
  double sum = 0.0;
  for (int64_t i = first; i < n && i < first + FOUR; ++i) {
    sum += square(grads[i]);
  }
  return sum;
}

/* sums[b] = sum of squares of piece b, the block's. */
static __global__ void squares_of_pieces(const float *grads, int64_t n, bool aligned,
                                         double *sums) {
  __shared__ double room[THREADS / AV_WARP];
  const int64_t piece = (int64_t)blockIdx.x * PIECE;
  double sum = 0.0;
  for (int at = FOUR * (int)threadIdx.x; at < PIECE; at += FOUR * THREADS) {
    sum += squares_of_four(grads, n, piece + at, aligned);
  }
  sum = av_block_sum(sum, room);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sum;
  }
}

/* As backend/cpu/adam.c has it; a NaN stays. One block. */
static __global__ void factor_of_sums(int64_t pieces, const double *sums, double clip,
                                      const av_gpu_step *step, double *factor) {
  __shared__ double room[THREADS / AV_WARP];
  double sum = 0.0;
  for (int64_t b = (int64_t)threadIdx.x; b < pieces; b += THREADS) {
    sum += sums[b];
  }
  sum = av_block_sum(sum, room);
  if (threadIdx.x == 0) {
    const double scale = (double)step->adam_scale;
    const double part = clip / (scale * sqrt(sum) + 1e-6);
    *factor = part > 1.0 ? scale : scale * part;
  }
}

extern "C" int64_t av_gpu_adam_scratch(int64_t n) { return 1 + (n + PIECE - 1) / PIECE; }

extern "C" cudaError_t av_gpu_adam_factor(cudaStream_t stream, const av_gpu_adam_plan *plan,
                                          const av_gpu_step *step, double *scratch) {
  const unsigned pieces = av_blocks(plan->n, PIECE);
  AV_LAUNCH(squares_of_pieces, pieces, THREADS, 0, stream, plan->grads, plan->n,
            is_aligned(plan->grads), scratch + 1);
  AV_LAUNCH(factor_of_sums, 1, THREADS, 0, stream, (int64_t)pieces, scratch + 1, plan->clip, step,
            scratch);
  return cudaGetLastError();
}

/* --- the step ------------------------------------------------------------------------------- */

/* What the device knows of this step. */
typedef struct rates {
  float scale, rate, root, decay;
} rates;

static __device__ __forceinline__ void update(const av_gpu_adam_plan &plan, const rates &by,
                                              float grad, float *p, float *m, float *v) {
  const float g = by.scale * grad + plan.weight_decay * *p;
  *m = plan.beta1 * *m + plan.rest1 * g;
  *v = plan.beta2 * *v + plan.rest2 * (g * g);
  /* not (1 - decay) p: a decay below 3e-8 would be lost in the 1 */
  *p -= by.decay * *p + by.rate * *m / (sqrtf(*v) * by.root + plan.eps);
}

static __device__ __forceinline__ void update_vector(const av_gpu_adam_plan &plan, const rates &by,
                                                     int64_t first) {
  const float4 g = *at_four(plan.grads, first);
  float4 p = *at_four(plan.params, first);
  float4 m = *at_four(plan.m, first);
  float4 v = *at_four(plan.v, first);
  update(plan, by, g.x, &p.x, &m.x, &v.x);
  update(plan, by, g.y, &p.y, &m.y, &v.y);
  update(plan, by, g.z, &p.z, &m.z, &v.z);
  update(plan, by, g.w, &p.w, &m.w, &v.w);
  *at_four(plan.params, first) = p;
  *at_four(plan.m, first) = m;
  *at_four(plan.v, first) = v;
  *at_four(plan.grads, first) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

static __global__ void update_all(av_gpu_adam_plan plan, bool aligned, const av_gpu_step *step,
                                  const double *factor) {
  const int64_t first = FOUR * ((int64_t)blockIdx.x * THREADS + (int64_t)threadIdx.x);
  const rates by = {factor != nullptr ? (float)*factor : step->adam_scale, step->adam_rate,
                    step->adam_root, step->adam_decay};
  if (aligned && first + FOUR <= plan.n) {
    update_vector(plan, by, first);
    return;
  }
  for (int64_t i = first; i < plan.n && i < first + FOUR; ++i) {
    update(plan, by, plan.grads[i], plan.params + i, plan.m + i, plan.v + i);
    plan.grads[i] = 0.0f;
  }
}

extern "C" cudaError_t av_gpu_adam_update(cudaStream_t stream, const av_gpu_adam_plan *plan,
                                          const av_gpu_step *step, const double *factor) {
  const bool aligned = is_aligned(plan->params) && is_aligned(plan->grads) && is_aligned(plan->m) &&
                       is_aligned(plan->v);
  AV_LAUNCH(update_all, av_blocks(plan->n, FOUR * THREADS), THREADS, 0, stream, *plan, aligned,
            step, factor);
  return cudaGetLastError();
}
