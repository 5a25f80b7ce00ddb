/* Dense layers of some hundred units or fewer: weights in panels of AV_PANEL columns, (panels,
 * depth, AV_PANEL), padded with zeros, as in dense.c; outputs and gradients where they belong,
 * without padding.
 *
 * layer_product: blocks of AV_ROW_BLOCK rows x 2 vectors of sums in registers, each output summed
 * over depth in order, so that the result of a row does not depend on the block it is in. Bound: 2
 * multiply-adds a cycle; 20 columns take the time of 32.
 *
 * layer_outer: dw += x^T d over RUN rows at a time in registers, vectors along the side of dw that
 * wastes fewer lanes (128 x 20: along the 128). Bound: as above.
 *
 * linear_grad (dx and dw), 128 rows, one thread, with these and with panel_dots and a one-thread
 * SGEMM of OpenBLAS 0.3.21: 128 -> 20 7.3 against 35 us, 128 -> 2 1.9 against 30, 10 -> 128 5.9
 * against 11, 128 -> 128 39 against 80, where 16 us are the multiply-adds of each product.
 */
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/vector.h"

#define INLINE static inline __attribute__((always_inline))

/* Rows [begin, end) of all panels of the (depth, n) matrix whose element (k, j) is
 * w[k * depth_stride + j * stride]. */
void AV_KERNEL(layer_pack)(int64_t depth, int64_t n, int64_t begin, int64_t end, const float *w,
                           int64_t depth_stride, int64_t stride, float *packed) {
  for (int64_t first = 0; first < n; first += AV_PANEL) {
    const int64_t width = n - first < AV_PANEL ? n - first : AV_PANEL;
    float *restrict panel = packed + first * depth;
    for (int64_t k = begin; k < end; ++k) {
      const float *restrict from = w + k * depth_stride + first * stride;
      float *restrict to = panel + k * AV_PANEL;
      if (stride == 1 && width == AV_PANEL) {
        memcpy(to, from, AV_PANEL * sizeof *to);
        continue;
      }
      for (int64_t j = 0; j < width; ++j) {
        to[j] = from[j * stride];
      }
      for (int64_t j = width; j < AV_PANEL; ++j) {
        to[j] = 0.0f;
      }
    }
  }
}

/* The first `width` lanes, which may be more than there are, or none. */
INLINE av_vec load_some(const float *at, int64_t width) {
  return width >= AV_LANES ? av_vec_load(at) : av_vec_load_part(at, width < 0 ? 0 : width);
}

INLINE void store_some(float *at, int64_t width, av_vec x) {
  if (width >= AV_LANES) {
    av_vec_store(at, x);
  } else {
    av_vec_store_part(at, width < 0 ? 0 : width, x);
  }
}

/* `rows` rows and `vectors` vectors (constant in every call) of one panel; `width` columns of y are
 * there. */
INLINE void product_block(const int rows, const int vectors, int64_t depth, const float *x,
                          int64_t x_stride, const float *panel, const float *bias, int64_t width,
                          float *y, int64_t y_stride) {
  av_vec sum[AV_ROW_BLOCK][2];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      sum[i][v] =
          bias == NULL ? av_vec_all(0.0f) : load_some(bias + v * AV_LANES, width - v * AV_LANES);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    av_vec w[2];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      w[v] = av_vec_load(panel + k * AV_PANEL + v * AV_LANES);
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const av_vec value = av_vec_all(x[i * x_stride + k]);
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) {
        sum[i][v] += value * w[v];
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      store_some(y + i * y_stride + v * AV_LANES, width - v * AV_LANES, sum[i][v]);
    }
  }
}

INLINE void product_rows(const int vectors, int64_t rows, int64_t depth, const float *x,
                         int64_t x_stride, const float *panel, const float *bias, int64_t width,
                         float *y, int64_t y_stride) {
  int64_t i = 0;
#if defined(__AVX512F__)
  for (; i + 8 <= rows; i += 8) {
    product_block(8, vectors, depth, x + i * x_stride, x_stride, panel, bias, width,
                  y + i * y_stride, y_stride);
  }
#endif
  for (; i + 4 <= rows; i += 4) {
    product_block(4, vectors, depth, x + i * x_stride, x_stride, panel, bias, width,
                  y + i * y_stride, y_stride);
  }
  for (; i < rows; ++i) {
    product_block(1, vectors, depth, x + i * x_stride, x_stride, panel, bias, width,
                  y + i * y_stride, y_stride);
  }
}

/* y (rows, n) = bias + x w; bias NULL for 0. */
void AV_KERNEL(layer_product)(int64_t rows, int64_t depth, const float *x, int64_t x_stride,
                              int64_t n, const float *packed, const float *bias, float *y,
                              int64_t y_stride) {
  for (int64_t j = 0; j < n; j += 2 * AV_LANES) {
    const float *panel = packed + j / AV_PANEL * depth * AV_PANEL + j % AV_PANEL;
    const float *from = bias == NULL ? NULL : bias + j;
    if (n - j > AV_LANES) {
      product_rows(2, rows, depth, x, x_stride, panel, from, n - j, y + j, y_stride);
    } else {
      product_rows(1, rows, depth, x, x_stride, panel, from, n - j, y + j, y_stride);
    }
  }
}

/* One side of an outer product: the vectors' or the broadcast one. */
typedef struct side {
  const float *at;
  int64_t stride;
} side;

/* Sums over the rows of `count` broadcast columns (constant in every call) times 2 vectors of
 * `width` columns. */
INLINE void outer_block(const int count, int64_t rows, side one, side many, int64_t width,
                        float *restrict out) {
  av_vec sum[8][2];
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) {
    sum[i][0] = sum[i][1] = av_vec_all(0.0f);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float *from = many.at + r * many.stride;
    const av_vec low = load_some(from, width);
    const av_vec high = load_some(from + AV_LANES, width - AV_LANES);
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) {
      const av_vec value = av_vec_all(one.at[r * one.stride + i]);
      sum[i][0] += value * low;
      sum[i][1] += value * high;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) {
    av_vec_store(out + i * 2 * AV_LANES, sum[i][0]);
    av_vec_store(out + i * 2 * AV_LANES + AV_LANES, sum[i][1]);
  }
}

/* The same for a width that is known to be whole or not. */
INLINE void outer_width(const int count, int64_t rows, side one, side many, int64_t width,
                        float *restrict out) {
  if (width >= 2 * AV_LANES) {
    outer_block(count, rows, one, many, 2 * AV_LANES, out);
  } else {
    outer_block(count, rows, one, many, width, out);
  }
}

/* Sums of 1 to 8 broadcast columns; returns how many. */
static int64_t outer_columns(int64_t count, int64_t rows, side one, side many, int64_t width,
                             float *restrict out) {
#if defined(__AVX512F__)
  if (count >= 8) {
    outer_width(8, rows, one, many, width, out);
    return 8;
  }
#endif
  if (count >= 4) {
    outer_width(4, rows, one, many, width, out);
    return 4;
  }
  if (count >= 2) {
    outer_width(2, rows, one, many, width, out);
    return 2;
  }
  outer_width(1, rows, one, many, width, out);
  return 1;
}

/* Element (i, j), i of n_one and j of n_many, is added at dw[i * stride_one + j * stride_many]. */
static void outer_sides(int64_t rows, int64_t n_one, side one, int64_t n_many, side many, float *dw,
                        int64_t stride_one, int64_t stride_many) {
  enum { WIDTH = 2 * AV_LANES };
  float out[8 * WIDTH];
  for (int64_t j = 0; j < n_many; j += WIDTH) {
    const int64_t width = n_many - j < WIDTH ? n_many - j : WIDTH;
    for (int64_t i = 0, made = 0; i < n_one; i += made) {
      const side columns = {.at = one.at + i, .stride = one.stride};
      const side vectors = {.at = many.at + j, .stride = many.stride};
      made = outer_columns(n_one - i, rows, columns, vectors, width, out);
      float *to = dw + i * stride_one + j * stride_many;
      if (stride_many == 1) {
        for (int64_t a = 0; a < made; ++a) {
          AV_KERNEL(add_row)(width, out + a * WIDTH, to + a * stride_one);
        }
        continue;
      }
      for (int64_t b = 0; b < width; ++b) {
        for (int64_t a = 0; a < made; ++a) {
          to[a * stride_one + b * stride_many] += out[a * WIDTH + b];
        }
      }
    }
  }
}

/* dw (m, n; row stride) += x^T d. */
void AV_KERNEL(layer_outer)(int64_t rows, int64_t m, const float *x, int64_t x_stride, int64_t n,
                            const float *d, int64_t d_stride, float *dw, int64_t stride) {
  enum { RUN = 256 }; /* rows whose part of both sides stays in the first-level cache */
  const int64_t padded_m = (m + AV_LANES - 1) / AV_LANES * AV_LANES;
  const int64_t padded_n = (n + AV_LANES - 1) / AV_LANES * AV_LANES;
  const bool along_n = m * padded_n <= n * padded_m;
  for (int64_t first = 0; first < rows; first += RUN) {
    const int64_t run = rows - first < RUN ? rows - first : RUN;
    const side left = {.at = x + first * x_stride, .stride = x_stride};
    const side right = {.at = d + first * d_stride, .stride = d_stride};
    if (along_n) {
      outer_sides(run, m, left, n, right, dw, stride, 1);
    } else {
      outer_sides(run, n, right, m, left, dw, 1, stride);
    }
  }
}
