/* Weighted sums of rows: the first layer over sparse counts and its weight gradient.
 *
 *   out[j] += sum_e value[e] * rows[index[e]][j]
 *
 * Forward: e runs over a cell's non-zeros, rows are weights. Gradient: e runs over the cells of the
 * minibatch in which a gene occurs, rows are dy. Sums stay in registers; each row is read once.
 * Bound: one load per multiply-add, from the second-level cache when the caller slices columns so
 * that `rows` fits there: 145 non-zeros x 256 columns = 2,300 loads of 64 bytes a cell.
 */
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/vector.h"
#include "math/vector_math.h"

void AV_KERNEL(log1p_row)(int64_t n, const float *restrict x, float *restrict y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    y[i] = av_log1pf(x[i]);
  }
}

/* `vectors` vectors of columns; constant in every call, so that the sums live in registers. */
static inline __attribute__((always_inline)) void columns(const int vectors, int64_t count,
                                                          const int32_t *index, const float *value,
                                                          const float *rows, int64_t stride,
                                                          float *out) {
  av_vec sum[8];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    sum[v] = av_vec_load(out + v * AV_LANES);
  }
  for (int64_t e = 0; e < count; ++e) {
    const float *row = rows + index[e] * stride;
    const av_vec x = av_vec_all(value[e]);
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      sum[v] += x * av_vec_load(row + v * AV_LANES);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    av_vec_store(out + v * AV_LANES, sum[v]);
  }
}

void AV_KERNEL(weighted_rows)(int64_t count, const int32_t *index, const float *value,
                              const float *rows, int64_t stride, int64_t n, float *out) {
  int64_t j = 0;
  for (; j + 8 * AV_LANES <= n; j += 8 * AV_LANES) {
    columns(8, count, index, value, rows + j, stride, out + j);
  }
  for (; j + 4 * AV_LANES <= n; j += 4 * AV_LANES) {
    columns(4, count, index, value, rows + j, stride, out + j);
  }
  for (; j + AV_LANES <= n; j += AV_LANES) {
    columns(1, count, index, value, rows + j, stride, out + j);
  }
  for (; j < n; ++j) {
    float sum = out[j];
    for (int64_t e = 0; e < count; ++e) {
      sum += value[e] * rows[index[e] * stride + j];
    }
    out[j] = sum;
  }
}

/* `vectors` vectors of columns with every product rounded to the column's quantum (strict.h): the
 * product of two floats is exact in double, and adding and subtracting `magic` rounds it. */
static inline __attribute__((always_inline)) void columns_exact(const int vectors, int64_t count,
                                                                const int32_t *index,
                                                                const float *value,
                                                                const float *rows, int64_t stride,
                                                                const double *magic, double *out) {
  av_dvec sum[4];
  av_dvec shift[4];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    sum[v] = av_dvec_load(out + v * AV_DOUBLES);
    shift[v] = av_dvec_load(magic + v * AV_DOUBLES);
  }
  for (int64_t e = 0; e < count; ++e) {
    const float *row = rows + index[e] * stride;
    const double x = (double)value[e];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      const av_dvec term = x * av_dvec_of_floats(row + v * AV_DOUBLES) + shift[v];
      sum[v] += term - shift[v];
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    memcpy(out + v * AV_DOUBLES, &sum[v], sizeof sum[v]);
  }
}

void AV_KERNEL(weighted_rows_exact)(int64_t count, const int32_t *index, const float *value,
                                    const float *rows, int64_t stride, int64_t n,
                                    const double *magic, double *out) {
  int64_t j = 0;
  for (; j + 4 * AV_DOUBLES <= n; j += 4 * AV_DOUBLES) {
    columns_exact(4, count, index, value, rows + j, stride, magic + j, out + j);
  }
  for (; j + AV_DOUBLES <= n; j += AV_DOUBLES) {
    columns_exact(1, count, index, value, rows + j, stride, magic + j, out + j);
  }
  for (; j < n; ++j) {
    for (int64_t e = 0; e < count; ++e) {
      const double term = (double)value[e] * (double)rows[index[e] * stride + j] + magic[j];
      out[j] += term - magic[j];
    }
  }
}
