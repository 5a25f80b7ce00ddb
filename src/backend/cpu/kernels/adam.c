/* Adam in one pass: scale, decay, moments, update, zeroing. Bound: 7 streams of 4 bytes (float).
 * Sums of squares for clipping: one stream more. */
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/vector.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

INLINE void update(const av_adam_step *step, float gradient, float *p, float *m, float *v) {
  const float g = gradient + step->weight_decay * *p;
  *m = step->beta1 * *m + step->rest1 * g;
  *v = step->beta2 * *v + step->rest2 * (g * g);
  *p -= step->shrink * *p + step->rate * *m / (sqrtf(*v) * step->inv_root + step->eps);
}

void AV_KERNEL(adam_float)(const av_adam_step *step_, int64_t n, float *restrict p,
                           float *restrict g, float *restrict m, float *restrict v) {
  const av_adam_step step = *step_;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    update(&step, step.scale * g[i], p + i, m + i, v + i);
    g[i] = 0.0f;
  }
}

void AV_KERNEL(adam_double)(const av_adam_step *step_, int64_t n, float *restrict p,
                            double *restrict g, float *restrict m, float *restrict v) {
  const av_adam_step step = *step_;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    update(&step, (float)((double)step.scale * g[i]), p + i, m + i, v + i);
    g[i] = 0.0;
  }
}

INLINE double add_lanes(av_dvec sums) {
  double sum = 0.0;
  for (int i = 0; i < AV_DOUBLES; ++i) {
    sum += sums[i];
  }
  return sum;
}

/* Sums in lanes whatever the alignment: the order is given by n alone. */
double AV_KERNEL(squares_float)(int64_t n, const float *x) {
  av_dvec sums = {0};
  int64_t i = 0;
  for (; i + AV_DOUBLES <= n; i += AV_DOUBLES) {
    const av_dvec value = av_dvec_of_floats(x + i);
    sums += value * value;
  }
  double sum = add_lanes(sums);
  for (; i < n; ++i) {
    sum += (double)x[i] * (double)x[i];
  }
  return sum;
}

double AV_KERNEL(squares_double)(int64_t n, const double *x) {
  av_dvec sums = {0};
  int64_t i = 0;
  for (; i + AV_DOUBLES <= n; i += AV_DOUBLES) {
    const av_dvec value = av_dvec_load(x + i);
    sums += value * value;
  }
  double sum = add_lanes(sums);
  for (; i < n; ++i) {
    sum += x[i] * x[i];
  }
  return sum;
}
