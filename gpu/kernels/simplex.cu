#include "kernels/simplex.h"

#include "backend/draws.h"
#include "backend/latent.h"
#include "kernels/device.h"

/* LANES: of a launch, unless the cells have more. An H100 holds some 120,000 of them, so that it
 * takes them in five turns, the last of which is not full. */
enum { FOUR = AV_NORMALS_PER_CALL, THREADS = 128, LANES = 1 << 19 };

/* How a cell's draws are spread: `parts` groups of `width` lanes. */
typedef struct simplex_spread {
  int width, fours, parts;
} simplex_spread;

/* Where a lane stands. */
typedef struct simplex_lane {
  int64_t i; /* row of the minibatch; 0 where there is none */
  int64_t cell, part;
  int lane;
  bool inside; /* i < B */
} simplex_lane;

/* q(z) of a four; -infinity beyond the last dimension, which has no share of a softmax. */
typedef struct simplex_four {
  double mean[FOUR], deviation[FOUR];
} simplex_four;

/* The two draws of a pair in a four: mean + offset, mean - offset. */
typedef struct simplex_pair {
  double z[2][FOUR];
} simplex_pair;

static __device__ __forceinline__ simplex_lane lane_of(const av_gpu_simplex_plan &plan,
                                                       const simplex_spread &over) {
  const int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t group = thread / over.width;
  const int64_t i = group / over.parts;
  simplex_lane at;
  at.inside = i < av_n_rows(plan.rows);
  at.i = at.inside ? i : 0;
  at.cell = at.inside ? av_cell_of(plan.rows, (int)i) : 0;
  at.part = group % over.parts;
  at.lane = (int)(thread % over.width);
  return at;
}

static __device__ simplex_four four_of(const av_gpu_simplex_plan &plan, const simplex_lane &at,
                                       int four) {
  const float *head = plan.z_head + at.i * 2 * plan.n_latent;
  simplex_four q;
  AV_UNROLL
  for (int j = 0; j < FOUR; ++j) {
    const int k = FOUR * four + j;
    q.mean[j] = -INFINITY;
    q.deviation[j] = 0.0;
    if (k < plan.n_latent) {
      q.mean[j] = (double)head[k];
      q.deviation[j] = sqrt(exp((double)head[plan.n_latent + k]) + AV_VARIANCE_FLOOR);
    }
  }
  return q;
}

static __device__ simplex_pair draw_pair(const av_gpu_simplex_plan &plan, const simplex_lane &at,
                                         const simplex_four &q, int64_t number, int four) {
  uint32_t words[4];
  double noise[FOUR];
  simplex_pair draws;
  av_random4(words, plan.seed, AV_DRAW_POSTERIOR, (uint64_t)at.cell, (uint32_t)number,
             (uint32_t)four);
  av_normals4(words, noise);
  AV_UNROLL
  for (int j = 0; j < FOUR; ++j) {
    draws.z[0][j] = q.mean[j] + q.deviation[j] * noise[j];
    draws.z[1][j] = q.mean[j] - q.deviation[j] * noise[j];
  }
  return draws;
}

static __device__ __forceinline__ double largest_of(const double z[FOUR], double top) {
  AV_UNROLL
  for (int j = 0; j < FOUR; ++j) {
    top = z[j] > top ? z[j] : top;
  }
  return top;
}

/* sum (4) += the shares that the lane's four has of a draw; z (4) is used up. */
static __device__ __forceinline__ void add_shares(int width, bool counts, double z[FOUR],
                                                  double sum[FOUR]) {
  const double top = av_lanes_max(largest_of(z, -INFINITY), width);
  double total = 0.0;
  AV_UNROLL
  for (int j = 0; j < FOUR; ++j) {
    z[j] = exp(z[j] - top);
    total += z[j];
  }
  const double share = 1.0 / av_lanes_sum(total, width);
  AV_UNROLL
  for (int j = 0; j < FOUR; ++j) {
    sum[j] += counts ? z[j] * share : 0.0;
  }
}

/* The same of a lane that has several fours, to memory: sums (K) of the group. */
static __device__ void add_pair(const av_gpu_simplex_plan &plan, const simplex_spread &over,
                                const simplex_lane &at, int64_t number, const bool counts[2],
                                double *sums) {
  double top[2] = {-INFINITY, -INFINITY};
  double total[2] = {0.0, 0.0};
  for (int four = at.lane; four < over.fours; four += over.width) {
    const simplex_pair draws = draw_pair(plan, at, four_of(plan, at, four), number, four);
    top[0] = largest_of(draws.z[0], top[0]);
    top[1] = largest_of(draws.z[1], top[1]);
  }
  top[0] = av_lanes_max(top[0], over.width);
  top[1] = av_lanes_max(top[1], over.width);
  for (int four = at.lane; four < over.fours; four += over.width) {
    const simplex_pair draws = draw_pair(plan, at, four_of(plan, at, four), number, four);
    for (int j = 0; j < FOUR; ++j) {
      total[0] += exp(draws.z[0][j] - top[0]);
      total[1] += exp(draws.z[1][j] - top[1]);
    }
  }
  total[0] = av_lanes_sum(total[0], over.width);
  total[1] = av_lanes_sum(total[1], over.width);
  for (int four = at.lane; at.inside && four < over.fours; four += over.width) {
    const simplex_pair draws = draw_pair(plan, at, four_of(plan, at, four), number, four);
    for (int j = 0; j < FOUR && FOUR * four + j < plan.n_latent; ++j) {
      const double plus = exp(draws.z[0][j] - top[0]) / total[0];
      const double minus = exp(draws.z[1][j] - top[1]) / total[1];
      sums[FOUR * four + j] += (counts[0] ? plus : 0.0) + (counts[1] ? minus : 0.0);
    }
  }
}

/* sums (rows, parts, K): each group's. ONE: a lane has at most one four. */
template <bool ONE>
static __global__ void __launch_bounds__(THREADS)
    add_draws(av_gpu_simplex_plan plan, simplex_spread over, double *sums) {
  const simplex_lane at = lane_of(plan, over);
  if (!__any_sync(AV_ALL_LANES, at.inside)) {
    return;
  }
  double *own = sums + (at.i * over.parts + at.part) * plan.n_latent;
  const simplex_four q = four_of(plan, at, at.lane);
  double sum[FOUR] = {0.0, 0.0, 0.0, 0.0};
  for (int four = at.lane; !ONE && at.inside && four < over.fours; four += over.width) {
    for (int k = FOUR * four; k < FOUR * four + FOUR && k < plan.n_latent; ++k) {
      own[k] = 0.0;
    }
  }
  const int64_t pairs = (plan.n_samples + 1) / 2;
  for (int64_t first = 0; first < pairs; first += over.parts) {
    const int64_t number = first + at.part; /* beyond the last one: drawn, not counted */
    const bool counts[2] = {number < pairs, 2 * number + 1 < plan.n_samples};
    if (ONE) {
      simplex_pair draws = draw_pair(plan, at, q, number, at.lane);
      add_shares(over.width, counts[0], draws.z[0], sum);
      add_shares(over.width, counts[1], draws.z[1], sum);
    } else {
      add_pair(plan, over, at, number, counts, own);
    }
  }
  for (int j = 0; ONE && at.inside && j < FOUR; ++j) {
    if (FOUR * at.lane + j < plan.n_latent) {
      own[FOUR * at.lane + j] = sum[j];
    }
  }
}

/* codes (rows, K), 0 beyond B; may be the sums, of one part. */
static __global__ void mean_of_parts(av_gpu_simplex_plan plan, int parts, const double *sums,
                                     double *codes) {
  const int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  const int64_t i = at / plan.n_latent;
  const int64_t k = at % plan.n_latent;
  if (i >= plan.rows.max_rows) {
    return;
  }
  double sum = 0.0;
  for (int part = 0; i < av_n_rows(plan.rows) && part < parts; ++part) {
    sum += sums[(i * parts + part) * plan.n_latent + k];
  }
  codes[at] = sum / (double)plan.n_samples;
}

static int64_t at_most(int64_t value, int64_t most) { return value < most ? value : most; }

static simplex_spread spread_of(const av_gpu_simplex_plan *plan) {
  const int64_t rows = plan->rows.max_rows > 0 ? plan->rows.max_rows : 1;
  const int64_t pairs = (plan->n_samples + 1) / 2;
  simplex_spread over;
  over.fours = (plan->n_latent + FOUR - 1) / FOUR;
  over.width = 1;
  while (over.width < over.fours && over.width < AV_WARP) {
    over.width *= 2;
  }
  const int64_t parts = at_most(pairs, at_most(LANES / (rows * over.width),
                                               plan->most_sums / (rows * plan->n_latent)));
  over.parts = (int)(parts > 1 ? parts : 1);
  return over;
}

extern "C" int64_t av_gpu_simplex_scratch(const av_gpu_simplex_plan *plan) {
  const int64_t parts = spread_of(plan).parts;
  return parts > 1 ? plan->rows.max_rows * parts * plan->n_latent : 0;
}

extern "C" cudaError_t av_gpu_simplex_codes(cudaStream_t stream, const av_gpu_simplex_plan *plan,
                                            double *codes, double *scratch) {
  const simplex_spread over = spread_of(plan);
  double *const sums = over.parts > 1 ? scratch : codes;
  const unsigned blocks = av_blocks(plan->rows.max_rows * over.parts * over.width, THREADS);
  if (over.fours <= AV_WARP) {
    AV_LAUNCH(add_draws<true>, blocks, THREADS, 0, stream, *plan, over, sums);
  } else {
    AV_LAUNCH(add_draws<false>, blocks, THREADS, 0, stream, *plan, over, sums);
  }
  AV_LAUNCH(mean_of_parts, av_blocks(plan->rows.max_rows * plan->n_latent, THREADS), THREADS, 0,
            stream, *plan, over.parts, sums, codes);
  return cudaGetLastError();
}
