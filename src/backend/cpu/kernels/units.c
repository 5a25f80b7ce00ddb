/* BatchNorm, LayerNorm, ReLU and dropout on one row of units (n), forward and backward.
 *
 * norm_row's dropout draws 8 units from one Philox call (draws.h), in vectors over calls.
 * Bound: 10 rounds x 2 wide multiplications for 8 units; else streams through the first-level
 * cache.
 */
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/vector.h"
#include "backend/draws.h"
#include "backend/norm.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct words {
  uint32_t w[4];
} words;

/* Philox4x32-10 on one counter, the same as av_random4, in a form that vectorises over counters. */
INLINE words philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0;
    const uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
    const uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c0 = n0;
    c1 = (uint32_t)p1;
    c2 = n2;
    c3 = (uint32_t)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (words){{c0, c1, c2, c3}};
}

/* Fields of `calls` consecutive calls, 8 a call, in unit order. */
INLINE void dropout_fields(const av_dropout_plan *plan, int64_t cell, uint32_t first, int calls,
                           uint32_t *restrict fields) {
  const uint64_t key = plan->seed + ((uint64_t)AV_DRAW_DROPOUT << 54);
  const uint32_t low = (uint32_t)(uint64_t)cell;
  const uint32_t high = (uint32_t)((uint64_t)cell >> 32);
  const uint32_t epoch = plan->epoch;
#pragma omp simd
  for (int i = 0; i < calls; ++i) {
    const words x =
        philox(low, high, epoch, first + (uint32_t)i, (uint32_t)key, (uint32_t)(key >> 32));
    fields[4 * i] = x.w[0];
    fields[4 * i + 1] = x.w[1];
    fields[4 * i + 2] = x.w[2];
    fields[4 * i + 3] = x.w[3];
  }
}

INLINE float normalised(const av_norm_columns *columns, int64_t j, float x) {
  return (x - columns->mean[j]) * columns->inv_sigma[j];
}

/* Multiplies y by the scale or by 0; a NaN that is kept stays. */
static void apply_dropout(int64_t n, const av_dropout_plan *plan, int64_t cell, float *restrict y) {
  enum { CALLS = 16, UNITS = CALLS * AV_DROPOUT_PER_CALL };
  uint32_t fields[CALLS * 4];
  float factor[UNITS];
  for (int64_t first = 0; first < n; first += UNITS) {
    dropout_fields(plan, cell, av_dropout_index(plan->layer, first), CALLS, fields);
    for (int i = 0; i < CALLS * 4; ++i) {
      factor[2 * i] = (fields[i] & 0xffffu) < plan->threshold ? 0.0f : plan->scale;
      factor[2 * i + 1] = (fields[i] >> 16) < plan->threshold ? 0.0f : plan->scale;
    }
    const int64_t end = n - first < UNITS ? n - first : UNITS;
#pragma omp simd
    for (int64_t j = 0; j < end; ++j) {
      y[first + j] = factor[j] > 0.0f ? y[first + j] * factor[j] : 0.0f;
    }
  }
}

void AV_KERNEL(norm_row)(int64_t n, const av_norm_columns *columns, bool relu,
                         const av_dropout_plan *dropout, int64_t cell, const float *restrict x,
                         float *restrict y) {
  const float *restrict mean = columns->mean;
  const float *restrict inv_sigma = columns->inv_sigma;
  const float *restrict gamma = columns->gamma;
  const float *restrict beta = columns->beta;
  if (relu) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      const float value = gamma[j] * ((x[j] - mean[j]) * inv_sigma[j]) + beta[j];
      y[j] = value <= 0.0f ? 0.0f : value; /* a NaN compares false and passes through */
    }
  } else {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      y[j] = gamma[j] * ((x[j] - mean[j]) * inv_sigma[j]) + beta[j];
    }
  }
  if (dropout->drops) {
    apply_dropout(n, dropout, cell, y);
  }
}

/* y may be x. */
void AV_KERNEL(act_row)(int64_t n, bool relu, const av_dropout_plan *dropout, int64_t cell,
                        const float *x, float *y) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    y[j] = relu && x[j] <= 0.0f ? 0.0f : x[j]; /* a NaN compares false and passes through */
  }
  if (dropout->drops) {
    apply_dropout(n, dropout, cell, y);
  }
}

/* Sum of x (n) times factor (n), or of x alone where factor is NULL, in an order given by n. */
INLINE double sum_of(int64_t n, const float *x, const float *factor) {
  av_dvec sums = {0};
  int64_t j = 0;
  for (; j + AV_DOUBLES <= n; j += AV_DOUBLES) {
    const av_dvec value = av_dvec_of_floats(x + j);
    sums += factor == NULL ? value : value * av_dvec_of_floats(factor + j);
  }
  double sum = 0.0;
  for (int i = 0; i < AV_DOUBLES; ++i) {
    sum += sums[i];
  }
  for (; j < n; ++j) {
    sum += (double)x[j] * (factor == NULL ? 1.0 : (double)factor[j]);
  }
  return sum;
}

/* v becomes (v - mean) / sqrt(variance + eps); returns the factor. */
float AV_KERNEL(layer_norm_row)(int64_t n, float *restrict v) {
  const float mean = (float)(sum_of(n, v, NULL) / (double)n);
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    v[j] -= mean;
  }
  const double rest = sum_of(n, v, NULL) / (double)n; /* what rounding the mean left */
  const double variance = sum_of(n, v, v) / (double)n - rest * rest;
  const float inv_sigma =
      (float)(1.0 / __builtin_sqrt((variance < 0.0 ? 0.0 : variance) + AV_LAYER_NORM_EPS));
  const float off = (float)rest;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    v[j] = (v[j] - off) * inv_sigma;
  }
  return inv_sigma;
}

/* Gradient on the normalised, scaled and shifted value. */
INLINE float through(bool masked, float scale, float y, float dy) {
  return masked && !(y > 0.0f) ? 0.0f : dy * scale;
}

/* dx may be dy. */
void AV_KERNEL(act_grad_row)(int64_t n, bool masked, float scale, const float *y, const float *dy,
                             float *dx) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    dx[j] = through(masked, scale, y[j], dy[j]);
  }
}

/* d becomes inv_sigma (d - mean of d - xhat mean of d xhat), xhat and inv_sigma from
 * layer_norm_row. */
void AV_KERNEL(layer_norm_grad_row)(int64_t n, float inv_sigma, const float *restrict xhat,
                                    float *restrict d) {
  const float mean = (float)(sum_of(n, d, NULL) / (double)n);
  const float slope = (float)(sum_of(n, d, xhat) / (double)n);
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    d[j] = inv_sigma * (d[j] - mean - xhat[j] * slope);
  }
}

/* dx = gamma inv_sigma (d - c0 - xhat c1) */
void AV_KERNEL(norm_grad_row)(int64_t n, const av_norm_columns *columns, bool masked, float scale,
                              const float *restrict c0, const float *restrict c1,
                              const float *restrict x, const float *restrict y, const float *dy,
                              float *dx) {
  const float *restrict mean = columns->mean;
  const float *restrict inv_sigma = columns->inv_sigma;
  const float *restrict gamma = columns->gamma;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const float d = through(masked, scale, y[j], dy[j]);
    const float xhat = (x[j] - mean[j]) * inv_sigma[j];
    dx[j] = gamma[j] * inv_sigma[j] * (d - c0[j] - xhat * c1[j]);
  }
}

void AV_KERNEL(norm_sums_row)(int64_t n, const av_norm_columns *columns, bool masked, float scale,
                              const float *restrict x, const float *restrict y,
                              const float *restrict dy, double *restrict sum,
                              double *restrict product) {
  const float *restrict mean = columns->mean;
  const float *restrict inv_sigma = columns->inv_sigma;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const float d = through(masked, scale, y[j], dy[j]);
    sum[j] += (double)d;
    product[j] += (double)(d * ((x[j] - mean[j]) * inv_sigma[j]));
  }
}

void AV_KERNEL(norm_terms_row)(int64_t n, const av_norm_columns *columns, bool masked, float scale,
                               const float *restrict x, const float *restrict y,
                               const float *restrict dy, float *restrict d,
                               float *restrict product) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    d[j] = through(masked, scale, y[j], dy[j]);
    product[j] = d[j] * normalised(columns, j, x[j]);
  }
}

void AV_KERNEL(moments_row)(int64_t n, const float *restrict x, double *restrict sum,
                            double *restrict squares) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const double value = (double)x[j];
    sum[j] += value;
    squares[j] += value * value;
  }
}
