/* q(z) and q(l): draws, KL terms and gradients (model.md sections 1 and 3), in vectors over latent
 * dimensions of all cells together.
 *
 * A cell's dimensions come in fours, as its normals do (draws.h); BLOCK fours of any cells lie side
 * by side in columns, and each loop has BLOCK or 4 BLOCK turns and no remainder, so that an element
 * is computed the same way wherever it lies. The KL terms of a cell are added in double, dimension
 * by dimension.
 *
 * Bound: for four dimensions one Philox call (8 instructions a round for 8 calls), then 2
 * logarithms, roots and turns, 4 exp and 4 logarithms in vectors of 16. A draw or a gradient of 10
 * dimensions and the library takes 0.035 us on one thread; scalar, in double, they took 0.36 and
 * 0.30. In float, as the draw itself is: z is off by 2 or 3 ulp, and a log
 * variance beyond 88.7 is infinite, as it is in scvi-tools.
 */
#include "backend/latent.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/random.h"
#include "backend/draws.h"
#include "math/vector_math.h"

#define INLINE static inline __attribute__((always_inline))

enum { BLOCK = 64, FOUR = AV_NORMALS_PER_CALL, ELEMENTS = BLOCK * FOUR };

/* Counters of BLOCK calls. */
typedef struct counters {
  uint32_t low[BLOCK], high[BLOCK], index[BLOCK];
} counters;

INLINE av_uvec widened(const uint32_t *at) {
  av_uvec x;
  for (int i = 0; i < AV_DOUBLES; ++i) {
    x[i] = at[i];
  }
  return x;
}

INLINE void set_counter(counters *c, int64_t i, int64_t cell, uint32_t index) {
  c->low[i] = (uint32_t)(uint64_t)cell;
  c->high[i] = (uint32_t)((uint64_t)cell >> 32);
  c->index[i] = index;
}

/* The normals of BLOCK calls, FOUR each: 0 where means are asked for. */
static void normals(const av_latent_plan *plan, const counters *c, float *restrict out) {
  uint32_t words[4][BLOCK];
  if (!plan->sample) {
    memset(out, 0, ELEMENTS * sizeof *out);
    return;
  }
  const av_uvec none = {0};
  for (int i = 0; i < BLOCK; i += AV_DOUBLES) {
    av_uvec w[4] = {widened(c->low + i), widened(c->high + i), none + plan->epoch,
                    widened(c->index + i)};
    av_philox(w, plan->key);
    for (int j = 0; j < 4; ++j) {
      for (int lane = 0; lane < AV_DOUBLES; ++lane) {
        words[j][i + lane] = (uint32_t)w[j][lane];
      }
    }
  }
#pragma omp simd
  for (int i = 0; i < BLOCK; ++i) {
    float cosine[2];
    float sine[2];
    const float radius0 = __builtin_sqrtf(2.0f * av_minus_log_uniformf(words[0][i]));
    const float radius1 = __builtin_sqrtf(2.0f * av_minus_log_uniformf(words[2][i]));
    av_turnf(words[1][i], &cosine[0], &sine[0]);
    av_turnf(words[3][i], &cosine[1], &sine[1]);
    out[FOUR * i] = radius0 * cosine[0];
    out[FOUR * i + 1] = radius0 * sine[0];
    out[FOUR * i + 2] = radius1 * cosine[1];
    out[FOUR * i + 3] = radius1 * sine[1];
  }
}

/* Where a walk over the fours of all cells stands. */
typedef struct place {
  int64_t cell, four;
} place;

INLINE place next_place(const av_latent_plan *plan, place at) {
  const bool last = (at.four + 1) * FOUR >= plan->n_latent;
  return (place){.cell = at.cell + (last ? 1 : 0), .four = last ? 0 : at.four + 1};
}

/* Dimensions of the four: FOUR but for a cell's last. */
INLINE int64_t width_of(const av_latent_plan *plan, place at) {
  const int64_t rest = plan->n_latent - at.four * FOUR;
  return rest < FOUR ? rest : FOUR;
}

INLINE void copy_four(int64_t width, const float *restrict from, float *restrict to) {
  if (width == FOUR) {
    memcpy(to, from, FOUR * sizeof *to);
    return;
  }
  for (int64_t j = 0; j < width; ++j) {
    to[j] = from[j];
  }
}

/* Means and heads of the variance of up to BLOCK fours from `at` on; returns their number. */
static int64_t gather(const av_latent_plan *plan, int64_t n, const int64_t *cell, const float *head,
                      place at, counters *c, float *mean, float *log_spread) {
  int64_t i = 0;
  for (; i < BLOCK && at.cell < n; ++i, at = next_place(plan, at)) {
    const float *from = head + at.cell * 2 * plan->n_latent + at.four * FOUR;
    const int64_t width = width_of(plan, at);
    set_counter(c, i, cell[at.cell], (uint32_t)at.four);
    copy_four(width, from, mean + i * FOUR);
    copy_four(width, from + plan->n_latent, log_spread + i * FOUR);
  }
  return i;
}

void AV_KERNEL(latent_draw)(const av_latent_plan *plan, int64_t n, const int64_t *cell,
                            const float *head, float *z, double *kl) {
  counters c = {{0}, {0}, {0}};
  float mean[ELEMENTS] = {0};
  float log_spread[ELEMENTS] = {0};
  float noise[ELEMENTS];
  float draw[ELEMENTS];
  float term[ELEMENTS];
  for (place at = {0}; at.cell < n;) {
    const int64_t fours = gather(plan, n, cell, head, at, &c, mean, log_spread);
    normals(plan, &c, noise);
#pragma omp simd
    for (int j = 0; j < ELEMENTS; ++j) {
      const float variance = av_expf(log_spread[j]) + (float)AV_VARIANCE_FLOOR;
      draw[j] = mean[j] + __builtin_sqrtf(variance) * noise[j];
      term[j] = av_excessf(variance) + mean[j] * mean[j];
    }
    for (int64_t i = 0; i < fours; ++i, at = next_place(plan, at)) {
      const int64_t width = width_of(plan, at);
      double *sum = kl + 2 * at.cell;
      double added = at.four == 0 ? 0.0 : *sum;
      for (int64_t j = 0; j < width; ++j) {
        added += 0.5 * (double)term[i * FOUR + j];
      }
      *sum = added;
      copy_four(width, draw + i * FOUR, z + at.cell * plan->stride + at.four * FOUR);
    }
  }
}

/* sum z dz of a cell: component k of dz through the softmax is z_k (dz_k - this). */
static float across(const av_latent_plan *plan, const float *z, const float *dz) {
  double sum = 0.0;
  for (int64_t k = 0; k < plan->n_latent; ++k) {
    sum += (double)z[k] * (double)dz[k];
  }
  return (float)sum;
}

/* Gradients on the draws of `fours` fours from `at` on. */
static void gather_gradient(const av_latent_plan *plan, int64_t fours, place at, const float *z,
                            const float *dz, float *d) {
  for (int64_t i = 0; i < fours; ++i, at = next_place(plan, at)) {
    const int64_t first = at.cell * plan->stride;
    const int64_t here = first + at.four * FOUR;
    const int64_t width = width_of(plan, at);
    copy_four(width, dz + here, d + i * FOUR);
    if (plan->simplex) {
      const float rest = across(plan, z + first, dz + first);
      for (int64_t j = 0; j < width; ++j) {
        d[i * FOUR + j] = z[here + j] * (d[i * FOUR + j] - rest);
      }
    }
  }
}

void AV_KERNEL(latent_grad)(const av_latent_plan *plan, int64_t n, const int64_t *cell,
                            const float *head, const float *z, const float *dz, float *dhead) {
  counters c = {{0}, {0}, {0}};
  float mean[ELEMENTS] = {0};
  float log_spread[ELEMENTS] = {0};
  float d[ELEMENTS] = {0};
  float noise[ELEMENTS];
  const float weight = plan->kl_weight;
  for (place at = {0}; at.cell < n;) {
    const int64_t fours = gather(plan, n, cell, head, at, &c, mean, log_spread);
    gather_gradient(plan, fours, at, z, dz, d);
    normals(plan, &c, noise);
#pragma omp simd
    for (int j = 0; j < ELEMENTS; ++j) {
      const float spread = av_expf(log_spread[j]);
      const float variance = spread + (float)AV_VARIANCE_FLOOR;
      const float root = __builtin_sqrtf(variance);
      mean[j] = d[j] + weight * mean[j];
      log_spread[j] =
          0.5f * spread * (d[j] * noise[j] / root + weight * (variance - 1.0f) / variance);
    }
    for (int64_t i = 0; i < fours; ++i, at = next_place(plan, at)) {
      float *to = dhead + at.cell * 2 * plan->n_latent + at.four * FOUR;
      copy_four(width_of(plan, at), mean + i * FOUR, to);
      copy_four(width_of(plan, at), log_spread + i * FOUR, to + plan->n_latent);
    }
  }
}

/* A block of cells' q(l) beside the prior: variance and prior variance, mean less prior mean. */
typedef struct library_block {
  counters c;
  float noise[ELEMENTS];
  float mean[BLOCK], off[BLOCK], log_spread[BLOCK], prior_inverse[BLOCK];
} library_block;

static void gather_library(const av_latent_plan *plan, int64_t n, const int64_t *cell,
                           const int32_t *code, const float *head, const double *prior,
                           library_block *b) {
  for (int64_t i = 0; i < n; ++i) {
    const double *of = prior + 2 * code[i];
    set_counter(&b->c, i, cell[i], AV_INDEX_LIBRARY);
    b->mean[i] = head[2 * i];
    b->log_spread[i] = head[2 * i + 1];
    b->off[i] = (float)((double)head[2 * i] - of[0]);
    b->prior_inverse[i] = (float)(1.0 / of[1]);
  }
  normals(plan, &b->c, b->noise);
}

void AV_KERNEL(library_draw)(const av_latent_plan *plan, int64_t n, const int64_t *cell,
                             const int32_t *code, const float *head, const double *prior, float *l,
                             double *kl) {
  library_block b = {.noise = {0}};
  float draw[BLOCK];
  float term[BLOCK];
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t run = n - first < BLOCK ? n - first : BLOCK;
    gather_library(plan, run, cell + first, code + first, head + 2 * first, prior, &b);
#pragma omp simd
    for (int i = 0; i < BLOCK; ++i) {
      const float variance = av_expf(b.log_spread[i]) + (float)AV_VARIANCE_FLOOR;
      const float inverse = b.prior_inverse[i];
      draw[i] = b.mean[i] + __builtin_sqrtf(variance) * b.noise[FOUR * i];
      term[i] = 0.5f * (av_excessf(variance * inverse) + b.off[i] * b.off[i] * inverse);
    }
    for (int64_t i = 0; i < run; ++i) {
      l[first + i] = draw[i];
      kl[2 * (first + i) + 1] = (double)term[i];
    }
  }
}

void AV_KERNEL(library_grad)(const av_latent_plan *plan, int64_t n, const int64_t *cell,
                             const int32_t *code, const float *head, const double *prior,
                             const float *dl, float *dhead) {
  library_block b = {.noise = {0}};
  float d[BLOCK] = {0};
  float dvariance[BLOCK];
  for (int64_t first = 0; first < n; first += BLOCK) {
    const int64_t run = n - first < BLOCK ? n - first : BLOCK;
    gather_library(plan, run, cell + first, code + first, head + 2 * first, prior, &b);
    memcpy(d, dl + first, (size_t)run * sizeof *d);
#pragma omp simd
    for (int i = 0; i < BLOCK; ++i) {
      const float spread = av_expf(b.log_spread[i]);
      const float variance = spread + (float)AV_VARIANCE_FLOOR;
      const float inverse = b.prior_inverse[i];
      const float root = __builtin_sqrtf(variance);
      dvariance[i] = 0.5f * spread *
                     (d[i] * b.noise[FOUR * i] / root + (variance * inverse - 1.0f) / variance);
      d[i] += b.off[i] * inverse;
    }
    for (int64_t i = 0; i < run; ++i) {
      dhead[2 * (first + i)] = d[i];
      dhead[2 * (first + i) + 1] = dvariance[i];
    }
  }
}
