#include "kernels/latent.h"

#include "backend/draws.h"
#include "backend/latent.h"
#include "kernels/device.h"

/* THREADS: half of what is usual, to spread a small minibatch over more processors. ALONE: threads
 * that one block may have. */
enum { FOUR = AV_NORMALS_PER_CALL, THREADS = 128, ALONE = 512 };

/* Where a thread stands: lane `lane` of the `width` that have cell (row of the minibatch) i. */
typedef struct place {
  int64_t i;
  int lane, width;
  bool inside;  /* i < B */
  int64_t cell; /* global number */
} place;

static int fours_of(int n_latent) { return (n_latent + FOUR - 1) / FOUR; }

/* Lanes of a cell: a power of two, so that cells do not straddle warps. */
static int width_of(const av_gpu_latent_plan *plan) {
  int width = 1;
  while (width < fours_of(plan->n_latent) + 1 && width < AV_WARP) {
    width *= 2;
  }
  return width;
}

static __device__ __forceinline__ place place_of(const av_gpu_latent_plan &plan, int width) {
  const int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  place at;
  at.i = thread / width;
  at.lane = (int)(thread % width);
  at.width = width;
  at.inside = at.i < av_n_rows(plan.rows);
  at.cell = at.inside ? av_cell_of(plan.rows, (int)at.i) : 0;
  return at;
}

/* The four standard normals of call `index` of a cell; 0 where means are asked for. */
static __device__ void noise_of(const av_gpu_latent_plan &plan, uint32_t epoch, int64_t cell,
                                uint32_t index, double noise[FOUR]) {
  for (int j = 0; j < FOUR; ++j) {
    noise[j] = 0.0;
  }
  if (plan.sample) {
    uint32_t words[4];
    av_random4(words, plan.seed, plan.purpose, (uint64_t)cell, epoch, index);
    av_normals4(words, noise);
  }
}

/* The library's prior in the batch of row i: mean and variance. */
static __device__ __forceinline__ const double *prior_of(const av_gpu_latent_plan &plan,
                                                         int64_t i) {
  const av_gpu_data &data = plan.rows.data;
  return plan.prior + (data.batch == nullptr ? 0 : 2 * (int64_t)data.batch[plan.rows.row[i]]);
}

/* --- draws ---------------------------------------------------------------------------------- */

/* Dimensions 4 four, ... of z, not softmaxed yet; their KL terms. */
static __device__ double draw_four(const av_gpu_latent_plan &plan, uint32_t epoch, const place &at,
                                   int four, float *z) {
  const int n_latent = plan.n_latent;
  const float *mean_of = plan.z_head + at.i * 2 * n_latent;
  double noise[FOUR];
  double kl = 0.0;
  noise_of(plan, epoch, at.cell, (uint32_t)four, noise);
  for (int j = 0; j < FOUR; ++j) {
    const int k = FOUR * four + j;
    if (k < n_latent) {
      const double mean = (double)mean_of[k];
      const double variance = exp((double)mean_of[n_latent + k]) + AV_VARIANCE_FLOOR;
      z[k] = (float)(mean + sqrt(variance) * noise[j]);
      kl += 0.5 * (variance + mean * mean - 1.0 - log(variance));
    }
  }
  return kl;
}

/* l of the cell; its KL term. */
static __device__ double draw_library(const av_gpu_latent_plan &plan, uint32_t epoch,
                                      const place &at, float *l) {
  if (!plan.latent_library) {
    l[at.i] = plan.rows.data.log_size[plan.rows.row[at.i]];
    return 0.0;
  }
  const double *prior = prior_of(plan, at.i);
  const double mean = (double)plan.l_head[2 * at.i];
  const double variance = exp((double)plan.l_head[2 * at.i + 1]) + AV_VARIANCE_FLOOR;
  const double off = mean - prior[0];
  double noise[FOUR];
  noise_of(plan, epoch, at.cell, AV_INDEX_LIBRARY, noise);
  l[at.i] = (float)(mean + sqrt(variance) * noise[0]);
  return 0.5 * (log(prior[1] / variance) - 1.0 + (variance + off * off) / prior[1]);
}

static __device__ void copy_continuous(const av_gpu_latent_plan &plan, int64_t i, float *z) {
  const av_gpu_data &data = plan.rows.data;
  const float *from = data.continuous + (int64_t)plan.rows.row[i] * data.n_continuous;
  for (int c = 0; plan.n_latent + c < plan.stride; ++c) {
    z[plan.n_latent + c] = from[c];
  }
}

/* z (K) of each cell becomes its softmax. Each lane reads what it has written. By whole warps. */
static __device__ void softmax(const av_gpu_latent_plan &plan, const place &at, float *z) {
  const int end = at.inside ? plan.n_latent : 0;
  double top = -INFINITY;
  double sum = 0.0;
  for (int k = FOUR * at.lane; k < end; k += FOUR * at.width) {
    for (int j = k; j < end && j < k + FOUR; ++j) {
      top = (double)z[j] > top ? (double)z[j] : top;
    }
  }
  top = av_lanes_max(top, at.width);
  for (int k = FOUR * at.lane; k < end; k += FOUR * at.width) {
    for (int j = k; j < end && j < k + FOUR; ++j) {
      sum += exp((double)z[j] - top);
    }
  }
  sum = av_lanes_sum(sum, at.width);
  for (int k = FOUR * at.lane; k < end; k += FOUR * at.width) {
    for (int j = k; j < end && j < k + FOUR; ++j) {
      z[j] = (float)(exp((double)z[j] - top) / sum);
    }
  }
}

/* kl: KL(z) and KL(l) of the lane. */
static __device__ void draw_cell(const av_gpu_latent_plan &plan, uint32_t epoch, const place &at,
                                 int fours, float *z, float *l, double kl[2]) {
  for (int four = at.lane; four <= fours; four += at.width) {
    if (four < fours) {
      kl[0] += draw_four(plan, epoch, at, four, z);
    } else {
      kl[1] += draw_library(plan, epoch, at, l);
      copy_continuous(plan, at.i, z);
    }
  }
}

static __device__ void clear_cell(const av_gpu_latent_plan &plan, const place &at, float *z,
                                  float *l) {
  for (int k = at.lane; k < plan.stride; k += at.width) {
    z[k] = 0.0f;
  }
  if (at.lane == 0) {
    l[at.i] = 0.0f;
  }
}

/* sums (blocks, 2): the KL terms of each block; added to `losses` at once by a block that is alone.
 */
static __global__ void __launch_bounds__(ALONE, 1)
    draw(av_gpu_latent_plan plan, int width, const av_gpu_step *step, float *z, float *l,
         double *losses, double *sums) {
  __shared__ double room[ALONE / AV_WARP];
  const place at = place_of(plan, width);
  float *own = z + at.i * plan.stride;
  const int fours = (plan.n_latent + FOUR - 1) / FOUR;
  double kl[2] = {0.0, 0.0};
  if (at.inside) {
    draw_cell(plan, step->epoch, at, fours, own, l, kl);
  } else if (at.i < plan.rows.max_rows) {
    clear_cell(plan, at, own, l);
  }
  if (plan.simplex) {
    softmax(plan, at, own);
  }
  const double kl_z = av_block_sum(kl[0], room);
  const double kl_l = av_block_sum(kl[1], room);
  if (threadIdx.x == 0) {
    if (gridDim.x == 1) {
      losses[AV_LOSS_KL_Z] += kl_z;
      losses[AV_LOSS_KL_L] += kl_l;
    } else {
      sums[2 * (int64_t)blockIdx.x] = kl_z;
      sums[2 * (int64_t)blockIdx.x + 1] = kl_l;
    }
  }
}

/* losses += the blocks' sums; one block. */
static __global__ void add_losses(int blocks, const double *sums, double *losses) {
  __shared__ double room[THREADS / AV_WARP];
  double kl[2] = {0.0, 0.0};
  for (int b = (int)threadIdx.x; b < blocks; b += THREADS) {
    kl[0] += sums[2 * b];
    kl[1] += sums[2 * b + 1];
  }
  const double kl_z = av_block_sum(kl[0], room);
  const double kl_l = av_block_sum(kl[1], room);
  if (threadIdx.x == 0) {
    losses[AV_LOSS_KL_Z] += kl_z;
    losses[AV_LOSS_KL_L] += kl_l;
  }
}

static int64_t threads_of(const av_gpu_latent_plan *plan) {
  return plan->rows.max_rows * width_of(plan);
}

extern "C" int64_t av_gpu_latent_scratch(const av_gpu_latent_plan *plan) {
  return 2 * (int64_t)av_blocks(threads_of(plan), THREADS);
}

extern "C" cudaError_t av_gpu_latent_draws(cudaStream_t stream, const av_gpu_latent_plan *plan,
                                           const av_gpu_step *step, float *z, float *l,
                                           double *losses, double *scratch) {
  const int64_t threads = threads_of(plan);
  const bool alone = threads <= ALONE;
  const unsigned size = alone ? AV_WARP * av_blocks(threads, AV_WARP) : (unsigned)THREADS;
  const unsigned blocks = alone ? (threads > 0 ? 1u : 0u) : av_blocks(threads, THREADS);
  AV_LAUNCH(draw, blocks, size, 0, stream, *plan, width_of(plan), step, z, l, losses, scratch);
  if (!alone) {
    AV_LAUNCH(add_losses, 1, THREADS, 0, stream, (int)blocks, scratch, losses);
  }
  return cudaGetLastError();
}

/* --- gradients ------------------------------------------------------------------------------ */

/* sum z dz of the cell: component k of dz through the softmax is z_k (dz_k - this). By whole
 * warps. */
static __device__ double across(const av_gpu_latent_plan &plan, const place &at, const float *z,
                                const float *dz) {
  const int end = at.inside ? plan.n_latent : 0;
  double sum = 0.0;
  for (int k = at.lane; k < end; k += at.width) {
    sum += (double)z[k] * (double)dz[k];
  }
  return av_lanes_sum(sum, at.width);
}

/* Gradients on the heads of dimensions 4 four, ... from d[], those on the draws. */
static __device__ void grad_four(const av_gpu_latent_plan &plan, const av_gpu_step *step,
                                 const place &at, int four, const double d[FOUR], float *dz_head) {
  const int n_latent = plan.n_latent;
  const double weight = (double)step->kl_weight;
  double noise[FOUR];
  noise_of(plan, step->epoch, at.cell, (uint32_t)four, noise);
  for (int j = 0; j < FOUR; ++j) {
    const int k = FOUR * four + j;
    if (k < n_latent) {
      const int64_t to = at.i * 2 * n_latent + k;
      const double spread = exp((double)plan.z_head[to + n_latent]);
      const double variance = spread + AV_VARIANCE_FLOOR;
      const double dvariance =
          d[j] * noise[j] / (2.0 * sqrt(variance)) + weight * 0.5 * (1.0 - 1.0 / variance);
      dz_head[to] = (float)(d[j] + weight * (double)plan.z_head[to]);
      dz_head[to + n_latent] = (float)(dvariance * spread);
    }
  }
}

static __device__ void grad_library(const av_gpu_latent_plan &plan, uint32_t epoch, const place &at,
                                    const float *dl, float *dl_head) {
  const double *prior = prior_of(plan, at.i);
  const double d = (double)dl[at.i];
  const double spread = exp((double)plan.l_head[2 * at.i + 1]);
  const double variance = spread + AV_VARIANCE_FLOOR;
  double noise[FOUR];
  noise_of(plan, epoch, at.cell, AV_INDEX_LIBRARY, noise);
  const double dvariance =
      d * noise[0] / (2.0 * sqrt(variance)) + 0.5 * (1.0 / prior[1] - 1.0 / variance);
  dl_head[2 * at.i] = (float)(d + ((double)plan.l_head[2 * at.i] - prior[0]) / prior[1]);
  dl_head[2 * at.i + 1] = (float)(dvariance * spread);
}

/* Gradients on the draws of a four. */
static __device__ void gather_four(const av_gpu_latent_plan &plan, int four, const float *z,
                                   const float *dz, double rest, double d[FOUR]) {
  for (int j = 0; j < FOUR; ++j) {
    const int k = FOUR * four + j;
    d[j] = 0.0;
    if (k < plan.n_latent) {
      d[j] = plan.simplex ? (double)z[k] * ((double)dz[k] - rest) : (double)dz[k];
    }
  }
}

static __device__ void clear_heads(const av_gpu_latent_plan &plan, const place &at, float *dz_head,
                                   float *dl_head) {
  for (int k = at.lane; k < 2 * plan.n_latent; k += at.width) {
    dz_head[at.i * 2 * plan.n_latent + k] = 0.0f;
  }
  if (at.lane == 0 && plan.latent_library) {
    dl_head[2 * at.i] = 0.0f;
    dl_head[2 * at.i + 1] = 0.0f;
  }
}

static __global__ void grad(av_gpu_latent_plan plan, int width, const av_gpu_step *step,
                            const float *z, const float *dz, const float *dl, float *dz_head,
                            float *dl_head) {
  const place at = place_of(plan, width);
  const float *z_own = z + at.i * plan.stride;
  const float *dz_own = dz + at.i * plan.stride;
  const int fours = (plan.n_latent + FOUR - 1) / FOUR;
  const double rest = plan.simplex ? across(plan, at, z_own, dz_own) : 0.0;
  if (!at.inside) {
    if (at.i < plan.rows.max_rows) {
      clear_heads(plan, at, dz_head, dl_head);
    }
    return;
  }
  for (int four = at.lane; four <= fours; four += at.width) {
    if (four < fours) {
      double d[FOUR];
      gather_four(plan, four, z_own, dz_own, rest, d);
      grad_four(plan, step, at, four, d, dz_head);
    } else if (plan.latent_library) {
      grad_library(plan, step->epoch, at, dl, dl_head);
    }
  }
}

extern "C" cudaError_t av_gpu_latent_grads(cudaStream_t stream, const av_gpu_latent_plan *plan,
                                           const av_gpu_step *step, const float *z, const float *dz,
                                           const float *dl, float *dz_head, float *dl_head) {
  AV_LAUNCH(grad, av_blocks(threads_of(plan), THREADS), THREADS, 0, stream, *plan, width_of(plan),
            step, z, dz, dl, dz_head, dl_head);
  return cudaGetLastError();
}
