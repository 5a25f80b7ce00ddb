/* What the kernels of norm.h have in common: maps of one value, and groups of a row's columns that
 * a thread loads and stores. */
#ifndef AV_GPU_KERNELS_NORM_PARTS_H
#define AV_GPU_KERNELS_NORM_PARTS_H

#include "kernels/device.h"
#include "kernels/norm.h"

#include "backend/draws.h"
#include "backend/norm.h"

#include <math.h>

enum { UNITS = AV_DROPOUT_PER_CALL }; /* columns of a thread, but in column sums */

/* Vectors of 4 where rows begin at multiples of 16 bytes. */
static inline bool aligned(int64_t n, const void *a, const void *b, const void *c, const void *d) {
  const uintptr_t all = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d;
  return n % 4 == 0 && all % 16 == 0;
}

/* --- one value ------------------------------------------------------------------------------ */

/* x -> (x - mean) scale + shift */
typedef struct affine {
  float mean, scale, shift;
} affine;

/* The shift makes up for rounding the mean to float. */
static __device__ __forceinline__ affine affine_of(double mean, double scale, double shift) {
  affine made;
  made.mean = (float)mean;
  made.scale = (float)scale;
  made.shift = (float)(shift - (mean - (double)made.mean) * scale);
  return made;
}

static __device__ __forceinline__ float apply(affine a, float x) {
  return fmaf(x - a.mean, a.scale, a.shift);
}

static __device__ __forceinline__ double inverse_sigma(double variance) {
  return 1.0 / sqrt(variance + AV_NORM_EPS);
}

/* BatchNorm's map of a column, or the identity. */
static __device__ inline affine column_map(const av_gpu_norm &norm, const av_gpu_step *step,
                                           const av_gpu_norm_arrays &arrays, const float *running,
                                           int column) {
  if (!norm.batch_norm) {
    return affine_of(0.0, 1.0, 0.0);
  }
  double mean = 0.0;
  double variance = 0.0;
  if (norm.training) {
    av_batch_moments(arrays.moments, norm.n, column, step->n_cells, &mean, &variance);
  } else {
    mean = (double)running[column];
    variance = (double)running[norm.n + column];
  }
  return affine_of(mean, (double)arrays.gamma[column] * inverse_sigma(variance),
                   (double)arrays.beta[column]);
}

/* For one thread a column. Those who read `running` do so when not training. */
static __device__ inline void move_running(const av_gpu_norm &norm, const av_gpu_step *step,
                                           const double *moments, float *running, int column) {
  if (!norm.batch_norm || !norm.training) {
    return;
  }
  double mean = 0.0;
  double variance = 0.0;
  av_batch_moments(moments, norm.n, column, step->n_cells, &mean, &variance);
  const double target[2] = {mean, av_unbiased(variance, step->n_cells)};
  for (int i = 0; i < 2; ++i) {
    float *at = running + i * norm.n + column;
    *at += (float)(AV_NORM_MOMENTUM * (target[i] - (double)*at));
  }
}

/* Words of the units [first, first + UNITS) of a row; first is a multiple of UNITS. */
static __device__ __forceinline__ void draw(const av_gpu_norm &norm, const av_gpu_step *step,
                                            const av_gpu_rows &rows, int row, int first,
                                            uint32_t words[4]) {
  if (norm.drop_below > 0) {
    av_random4(words, norm.seed, AV_DRAW_DROPOUT, (uint64_t)av_cell_of(rows, row), step->epoch,
               av_dropout_index(norm.layer, first));
  }
}

/* ReLU and dropout of unit `unit` of those. */
static __device__ __forceinline__ float activated(const av_gpu_norm &norm, const uint32_t words[4],
                                                  int unit, float value) {
  /* a NaN compares false and passes through */
  const float active = norm.relu && value <= 0.0f ? 0.0f : value;
  return av_dropout_drops(words, unit, norm.drop_below) ? 0.0f : active * norm.kept;
}

/* Gradient on the value before ReLU and dropout. */
static __device__ __forceinline__ float through(const av_gpu_norm &norm, float y, float dy) {
  return norm.relu && !(y > 0.0f) ? 0.0f : dy * norm.kept;
}

/* --- groups of columns ---------------------------------------------------------------------- */

/* V neighbours: V is 4, and they are aligned, or 1. */
template <int V>
static __device__ __forceinline__ void load(const float *at, float *v) {
  if constexpr (V == 4) {
    const float4 four = *(const float4 *)at;
    v[0] = four.x;
    v[1] = four.y;
    v[2] = four.z;
    v[3] = four.w;
  } else {
    v[0] = *at;
  }
}

/* Columns [first, first + UNITS) of a row; zeros outside [begin, end). VECTOR: the row is aligned,
 * and the bounds are multiples of 4, as first always is. */
template <bool VECTOR>
static __device__ __forceinline__ void load_units(const float *row, int first, int begin, int end,
                                                  float v[UNITS]) {
  const int step = VECTOR ? 4 : 1;
#pragma unroll
  for (int k = 0; k < UNITS; k += step) {
    const int column = first + k;
    if (column >= begin && column < end) {
      load<step>(row + column, v + k);
    } else {
      for (int i = 0; i < step; ++i) {
        v[k + i] = 0.0f;
      }
    }
  }
}

/* Those of [begin, end) alone. */
template <bool VECTOR>
static __device__ __forceinline__ void store_units(float *row, int first, int begin, int end,
                                                   const float v[UNITS]) {
  const int step = VECTOR ? 4 : 1;
#pragma unroll
  for (int k = 0; k < UNITS; k += step) {
    const int column = first + k;
    if (column >= begin && column < end) {
      if constexpr (VECTOR) {
        *(float4 *)(row + column) = make_float4(v[k], v[k + 1], v[k + 2], v[k + 3]);
      } else {
        row[column] = v[k];
      }
    }
  }
}

#endif
