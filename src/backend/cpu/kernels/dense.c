/* Products with a weight matrix packed in panels of AV_PANEL columns, (panels, depth, AV_PANEL),
 * each panel contiguous and padded with zeros.
 *
 * panel_product: y += x w. Blocks of AV_ROW_BLOCK rows x 2 vectors of sums in registers; each
 * output is summed over depth in order, so that the result of a row does not depend on the block it
 * is in. Bound: 2 loads of w and 8 broadcasts for 16 multiply-adds.
 *
 * panel_dots: out = d w^T. Blocks of 4 rows x 4 columns, each with its own lanes of partial sums,
 * which are added in lane order at the end. Genes are walked in runs that stay in the first-level
 * cache.
 *
 * outer_add: dw += x^T d for few columns x. Bound: 9 loads and a store for 8 multiply-adds.
 */
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/vector.h"

#define INLINE static inline __attribute__((always_inline))

/* `rows` rows (constant in every call) of one panel. */
INLINE void product_block(const int rows, int64_t depth, const float *x, int64_t x_stride,
                          const float *panel, float *y, int64_t y_stride) {
  for (int half = 0; half < AV_PANEL; half += 2 * AV_LANES) {
    av_vec low[AV_ROW_BLOCK];
    av_vec high[AV_ROW_BLOCK];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      low[i] = av_vec_load(y + i * y_stride + half);
      high[i] = av_vec_load(y + i * y_stride + half + AV_LANES);
    }
    for (int64_t k = 0; k < depth; ++k) {
      const av_vec w0 = av_vec_load(panel + k * AV_PANEL + half);
      const av_vec w1 = av_vec_load(panel + k * AV_PANEL + half + AV_LANES);
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i) {
        const av_vec value = av_vec_all(x[i * x_stride + k]);
        low[i] += value * w0;
        high[i] += value * w1;
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      av_vec_store(y + i * y_stride + half, low[i]);
      av_vec_store(y + i * y_stride + half + AV_LANES, high[i]);
    }
  }
}

void AV_KERNEL(panel_product)(int64_t rows, int64_t depth, const float *x, int64_t x_stride,
                              int64_t panels, const float *packed, float *y, int64_t y_stride) {
  for (int64_t p = 0; p < panels; ++p) {
    const float *panel = packed + p * depth * AV_PANEL;
    float *to = y + p * AV_PANEL;
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 8 <= rows; i += 8) {
      product_block(8, depth, x + i * x_stride, x_stride, panel, to + i * y_stride, y_stride);
    }
#endif
    for (; i + 4 <= rows; i += 4) {
      product_block(4, depth, x + i * x_stride, x_stride, panel, to + i * y_stride, y_stride);
    }
    for (; i < rows; ++i) {
      product_block(1, depth, x + i * x_stride, x_stride, panel, to + i * y_stride, y_stride);
    }
  }
}

/* Partial sums of rows x columns dot products over `panels` panels, kept in lanes. */
INLINE void dots_block(const int rows, const int columns, int64_t depth, int64_t panels,
                       const float *d, int64_t d_stride, const float *packed, float *lanes) {
  av_vec sum[4][4];
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int k = 0; k < columns; ++k) {
      sum[i][k] = av_vec_load(lanes + (i * depth + k) * AV_LANES);
    }
  }
  for (int64_t p = 0; p < panels; ++p) {
    for (int part = 0; part < AV_PANEL; part += AV_LANES) {
      const float *at = d + p * AV_PANEL + part;
      const float *w = packed + p * depth * AV_PANEL + part;
      av_vec value[4];
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
        value[i] = av_vec_load(at + i * d_stride);
      }
#pragma GCC unroll 4
      for (int k = 0; k < columns; ++k) {
        const av_vec weight = av_vec_load(w + k * AV_PANEL);
#pragma GCC unroll 4
        for (int i = 0; i < rows; ++i) {
          sum[i][k] += value[i] * weight;
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 4
    for (int k = 0; k < columns; ++k) {
      av_vec_store(lanes + (i * depth + k) * AV_LANES, sum[i][k]);
    }
  }
}

INLINE void dots_rows(const int rows, int64_t depth, int64_t panels, const float *d,
                      int64_t d_stride, const float *packed, float *lanes) {
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    dots_block(rows, 4, depth, panels, d, d_stride, packed + k * AV_PANEL, lanes + k * AV_LANES);
  }
  for (; k < depth; ++k) {
    dots_block(rows, 1, depth, panels, d, d_stride, packed + k * AV_PANEL, lanes + k * AV_LANES);
  }
}

/* lanes: scratch of rows * depth * 16 floats. */
void AV_KERNEL(panel_dots)(int64_t rows, int64_t depth, int64_t panels, const float *d,
                           int64_t d_stride, const float *packed, bool add, float *out,
                           int64_t out_stride, float *lanes) {
  enum { RUN = 16 }; /* panels: 8 rows x 16 x 32 floats = 16 KiB */
  memset(lanes, 0, (size_t)(rows * depth * AV_LANES) * sizeof *lanes);
  for (int64_t first = 0; first < panels; first += RUN) {
    const int64_t run = panels - first < RUN ? panels - first : RUN;
    const float *w = packed + first * depth * AV_PANEL;
    const float *from = d + first * AV_PANEL;
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
      dots_rows(4, depth, run, from + i * d_stride, d_stride, w, lanes + i * depth * AV_LANES);
    }
    for (; i < rows; ++i) {
      dots_rows(1, depth, run, from + i * d_stride, d_stride, w, lanes + i * depth * AV_LANES);
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < depth; ++k) {
      const float *lane = lanes + (i * depth + k) * AV_LANES;
      float sum = lane[0];
      for (int j = 1; j < AV_LANES; ++j) {
        sum += lane[j];
      }
      out[i * out_stride + k] = add ? out[i * out_stride + k] + sum : sum;
    }
  }
}

/* Eight rows of d into one row of dw. */
INLINE void outer_eight(int64_t n, const float *x, int64_t x_stride, const float *d,
                        int64_t d_stride, float *restrict dw) {
  const float x0 = x[0], x1 = x[x_stride], x2 = x[2 * x_stride], x3 = x[3 * x_stride];
  const float x4 = x[4 * x_stride], x5 = x[5 * x_stride], x6 = x[6 * x_stride],
              x7 = x[7 * x_stride];
  const float *d1 = d + d_stride, *d2 = d1 + d_stride, *d3 = d2 + d_stride;
  const float *d4 = d3 + d_stride, *d5 = d4 + d_stride, *d6 = d5 + d_stride, *d7 = d6 + d_stride;
#pragma omp simd
  for (int64_t g = 0; g < n; ++g) {
    const float even = x0 * d[g] + x2 * d2[g] + x4 * d4[g] + x6 * d6[g];
    const float odd = x1 * d1[g] + x3 * d3[g] + x5 * d5[g] + x7 * d7[g];
    dw[g] += even + odd;
  }
}

void AV_KERNEL(outer_add)(int64_t rows, int64_t depth, const float *x, int64_t x_stride,
                          const float *d, int64_t d_stride, int64_t n, float *dw, int64_t stride) {
  enum { RUN = 512 }; /* columns: 8 rows of d stay in the first-level cache for all k */
  for (int64_t first = 0; first < n; first += RUN) {
    const int64_t run = n - first < RUN ? n - first : RUN;
    int64_t i = 0;
    for (; i + 8 <= rows; i += 8) {
      for (int64_t k = 0; k < depth; ++k) {
        outer_eight(run, x + i * x_stride + k, x_stride, d + i * d_stride + first, d_stride,
                    dw + k * stride + first);
      }
    }
    for (; i < rows; ++i) {
      const float *restrict row = d + i * d_stride + first;
      for (int64_t k = 0; k < depth; ++k) {
        const float value = x[i * x_stride + k];
        float *restrict to = dw + k * stride + first;
#pragma omp simd
        for (int64_t g = 0; g < run; ++g) {
          to[g] += value * row[g];
        }
      }
    }
  }
}

void AV_KERNEL(add_row)(int64_t n, const float *restrict x, float *restrict y) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    y[j] += x[j];
  }
}

/* out += the sum of the rows, four at a time. */
void AV_KERNEL(sum_rows)(int64_t rows, const float *d, int64_t d_stride, int64_t n,
                         float *restrict out) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    const float *d0 = d + i * d_stride, *d1 = d0 + d_stride, *d2 = d1 + d_stride,
                *d3 = d2 + d_stride;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) {
      out[j] += (d0[j] + d1[j]) + (d2[j] + d3[j]);
    }
  }
  for (; i < rows; ++i) {
    AV_KERNEL(add_row)(n, d + i * d_stride, out);
  }
}
