/* BatchNorm, LayerNorm, ReLU and dropout on one row of units (n), forward and backward, and sums
 * over rows.
 *
 * norm_row's dropout draws 8 units from one Philox call (draws.h), in vectors over calls
 * (random.h), and compares 16-bit fields in the loop that makes the row. Bound: 60 vector
 * instructions for the calls of 8 lanes, 64 units. One thread, 256 columns: 0.056 us a row, 0.023
 * of them without dropout; 0.41 with Philox on 32-bit lanes, whose products the compiler unpacks
 * and packs. Tried: 4 vectors of calls at a time instead of 2 (the same; rows of 128 take 0.046
 * instead of 0.033), 1 (a tenth slower).
 *
 * Sums over rows: SUM_ROWS rows in registers, then the next columns. Bound: two conversions and two
 * to four additions in double for each 16 columns. Tried: all rows in registers (moments 1.2 to 1.5
 * times slower, norm_sums 1.1 times faster); row by row 1.6 and 1.3 times slower.
 */
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/random.h"
#include "backend/cpu/kernels/vector.h"
#include "backend/draws.h"
#include "backend/norm.h"

#define INLINE static inline __attribute__((always_inline))

/* Calls that one pass of the generator makes, and the units that they decide on. */
enum { CALLS = 2 * AV_DOUBLES, UNITS = CALLS * AV_DROPOUT_PER_CALL };

/* The 16-bit fields of UNITS consecutive units. */
INLINE void dropout_fields(const av_dropout_plan *plan, int64_t cell, uint32_t first,
                           uint16_t *restrict fields) {
  const uint64_t key = plan->seed + ((uint64_t)AV_DRAW_DROPOUT << 54);
  const av_uvec none = {0};
#pragma GCC unroll 4
  for (int v = 0; v < CALLS / AV_DOUBLES; ++v) {
    av_uvec c[4] = {none + (uint64_t)cell, none + ((uint64_t)cell >> 32), none + plan->epoch,
                    av_uvec_count() + (uint64_t)(first + (uint32_t)(v * AV_DOUBLES))};
    av_philox(c, key);
    const av_uvec early = av_uvec_join(c[0], c[1]);
    const av_uvec late = av_uvec_join(c[2], c[3]);
    const av_uvec both[2] = {av_uvec_mix_low(early, late), av_uvec_mix_high(early, late)};
    memcpy(fields + v * AV_DOUBLES * AV_DROPOUT_PER_CALL, both, sizeof both);
  }
}

INLINE float normalised(const av_norm_columns *columns, int64_t j, float x) {
  return (x - columns->mean[j]) * columns->inv_sigma[j];
}

/* relu and drops are constants in every call. y may be x. */
INLINE float act(bool relu, bool drops, float value, uint16_t field, uint32_t threshold,
                 float scale) {
  /* a NaN compares false and passes through */
  const float active = relu && value <= 0.0f ? 0.0f : value;
  return drops ? (field < threshold ? 0.0f : active * scale) : active;
}

INLINE void norm_run(bool relu, bool drops, int64_t n, const av_norm_columns *columns,
                     const uint16_t *restrict fields, uint32_t threshold, float scale,
                     const float *restrict x, float *restrict y) {
  const float *restrict mean = columns->mean;
  const float *restrict inv_sigma = columns->inv_sigma;
  const float *restrict gamma = columns->gamma;
  const float *restrict beta = columns->beta;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    const float value = gamma[j] * ((x[j] - mean[j]) * inv_sigma[j]) + beta[j];
    y[j] = act(relu, drops, value, drops ? fields[j] : 0, threshold, scale);
  }
}

INLINE void act_run(bool relu, bool drops, int64_t n, const uint16_t *restrict fields,
                    uint32_t threshold, float scale, const float *x, float *y) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    y[j] = act(relu, drops, x[j], drops ? fields[j] : 0, threshold, scale);
  }
}

void AV_KERNEL(norm_row)(int64_t n, const av_norm_columns *columns, bool relu,
                         const av_dropout_plan *dropout, int64_t cell, const float *restrict x,
                         float *restrict y) {
  if (!dropout->drops) {
    if (relu) {
      norm_run(true, false, n, columns, NULL, 0, 1.0f, x, y);
    } else {
      norm_run(false, false, n, columns, NULL, 0, 1.0f, x, y);
    }
    return;
  }
  for (int64_t first = 0; first < n; first += UNITS) {
    uint16_t fields[UNITS];
    const int64_t run = n - first < UNITS ? n - first : UNITS;
    const av_norm_columns part = {.mean = columns->mean + first,
                                  .inv_sigma = columns->inv_sigma + first,
                                  .gamma = columns->gamma + first,
                                  .beta = columns->beta + first};
    dropout_fields(dropout, cell, av_dropout_index(dropout->layer, first), fields);
    if (relu) {
      norm_run(true, true, run, &part, fields, dropout->threshold, dropout->scale, x + first,
               y + first);
    } else {
      norm_run(false, true, run, &part, fields, dropout->threshold, dropout->scale, x + first,
               y + first);
    }
  }
}

/* y may be x. */
void AV_KERNEL(act_row)(int64_t n, bool relu, const av_dropout_plan *dropout, int64_t cell,
                        const float *x, float *y) {
  if (!dropout->drops) {
    if (relu) {
      act_run(true, false, n, NULL, 0, 1.0f, x, y);
    } else {
      act_run(false, false, n, NULL, 0, 1.0f, x, y);
    }
    return;
  }
  for (int64_t first = 0; first < n; first += UNITS) {
    uint16_t fields[UNITS];
    const int64_t run = n - first < UNITS ? n - first : UNITS;
    dropout_fields(dropout, cell, av_dropout_index(dropout->layer, first), fields);
    if (relu) {
      act_run(true, true, run, fields, dropout->threshold, dropout->scale, x + first, y + first);
    } else {
      act_run(false, true, run, fields, dropout->threshold, dropout->scale, x + first, y + first);
    }
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

/* Rows that are added in registers before the next columns: few, so that rows are read in order. */
enum { SUM_ROWS = 16 };

/* Gradients on 1 vector of columns: sum += d, product += d xhat over the rows. */
INLINE void sums_block(int64_t rows, int64_t stride, const av_norm_columns *columns, int64_t j,
                       bool masked, float scale, const float *x, const float *y, const float *dy,
                       double *sum, double *product) {
  const av_vec mean = av_vec_load(columns->mean + j);
  const av_vec inv_sigma = av_vec_load(columns->inv_sigma + j);
  const av_vec zero = {0};
  av_dvec low = av_dvec_load(sum + j);
  av_dvec high = av_dvec_load(sum + j + AV_DOUBLES);
  av_dvec product_low = av_dvec_load(product + j);
  av_dvec product_high = av_dvec_load(product + j + AV_DOUBLES);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = i * stride + j;
    av_vec d = av_vec_load(dy + at) * scale;
    if (masked) {
      d = av_vec_where_above(av_vec_load(y + at), zero, d);
    }
    const av_vec term = d * ((av_vec_load(x + at) - mean) * inv_sigma);
    low += av_dvec_low(d);
    high += av_dvec_high(d);
    product_low += av_dvec_low(term);
    product_high += av_dvec_high(term);
  }
  av_dvec_store(sum + j, low);
  av_dvec_store(sum + j + AV_DOUBLES, high);
  av_dvec_store(product + j, product_low);
  av_dvec_store(product + j + AV_DOUBLES, product_high);
}

void AV_KERNEL(norm_sums)(int64_t rows, int64_t n, int64_t stride, const av_norm_columns *columns,
                          bool masked, float scale, const float *x, const float *y, const float *dy,
                          double *sum, double *product) {
  for (int64_t i = 0; i < rows; i += SUM_ROWS) {
    const int64_t run = rows - i < SUM_ROWS ? rows - i : SUM_ROWS;
    for (int64_t j = 0; j + AV_LANES <= n; j += AV_LANES) {
      const int64_t at = i * stride;
      if (masked) {
        sums_block(run, stride, columns, j, true, scale, x + at, y + at, dy + at, sum, product);
      } else {
        sums_block(run, stride, columns, j, false, scale, x + at, y + at, dy + at, sum, product);
      }
    }
  }
  for (int64_t j = n / AV_LANES * AV_LANES; j < n; ++j) {
    for (int64_t at = j; at < rows * stride; at += stride) {
      const float d = through(masked, scale, y[at], dy[at]);
      sum[j] += (double)d;
      product[j] += (double)(d * normalised(columns, j, x[at]));
    }
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

INLINE void moments_block(int64_t rows, int64_t stride, const float *x, double *sum,
                          double *squares) {
  av_dvec low = av_dvec_load(sum);
  av_dvec high = av_dvec_load(sum + AV_DOUBLES);
  av_dvec squares_low = av_dvec_load(squares);
  av_dvec squares_high = av_dvec_load(squares + AV_DOUBLES);
  for (int64_t i = 0; i < rows; ++i) {
    const av_dvec value_low = av_dvec_of_floats(x + i * stride);
    const av_dvec value_high = av_dvec_of_floats(x + i * stride + AV_DOUBLES);
    low += value_low;
    high += value_high;
    squares_low += value_low * value_low;
    squares_high += value_high * value_high;
  }
  av_dvec_store(sum, low);
  av_dvec_store(sum + AV_DOUBLES, high);
  av_dvec_store(squares, squares_low);
  av_dvec_store(squares + AV_DOUBLES, squares_high);
}

void AV_KERNEL(moments)(int64_t rows, int64_t n, int64_t stride, const float *x, double *sum,
                        double *squares) {
  for (int64_t i = 0; i < rows; i += SUM_ROWS) {
    const int64_t run = rows - i < SUM_ROWS ? rows - i : SUM_ROWS;
    for (int64_t j = 0; j + AV_LANES <= n; j += AV_LANES) {
      moments_block(run, stride, x + i * stride + j, sum + j, squares + j);
    }
  }
  for (int64_t j = n / AV_LANES * AV_LANES; j < n; ++j) {
    for (int64_t i = 0; i < rows; ++i) {
      const double value = (double)x[i * stride + j];
      sum[j] += value;
      squares[j] += value * value;
    }
  }
}

/* Mean and 1 / sigma of every column from the moments (2, n) of n_cells cells. */
void AV_KERNEL(columns_of_moments)(int64_t n, const double *moments, int64_t n_cells,
                                   float *restrict mean, float *restrict inv_sigma) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    double average = 0.0;
    double variance = 0.0;
    av_batch_moments(moments, n, j, n_cells, &average, &variance);
    mean[j] = (float)average;
    inv_sigma[j] = (float)(1.0 / __builtin_sqrt(variance + AV_NORM_EPS));
  }
}

/* The same from running statistics (2, n). */
void AV_KERNEL(columns_of_running)(int64_t n, const float *restrict running, float *restrict mean,
                                   float *restrict inv_sigma) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    mean[j] = running[j];
    inv_sigma[j] = (float)(1.0 / __builtin_sqrt((double)running[n + j] + AV_NORM_EPS));
  }
}

/* running (2, n) moves towards the mean and the unbiased variance. */
void AV_KERNEL(move_running)(int64_t n, const double *moments, int64_t n_cells,
                             float *restrict running) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    double mean = 0.0;
    double variance = 0.0;
    av_batch_moments(moments, n, j, n_cells, &mean, &variance);
    const double unbiased = av_unbiased(variance, n_cells);
    running[j] += (float)(AV_NORM_MOMENTUM * (mean - (double)running[j]));
    running[n + j] += (float)(AV_NORM_MOMENTUM * (unbiased - (double)running[n + j]));
  }
}
