/* Products with a weight matrix packed in panels of AV_PANEL columns, (panels, depth, AV_PANEL),
 * each panel contiguous and padded with zeros.
 *
 * panel_product: y = start + x w; a row may start from itself. Blocks of AV_ROW_BLOCK rows x 2
 * vectors of sums in registers; each output is summed over depth in order, so that the result of a
 * row does not depend on the block it is in. Bound: 2 loads of w and 8 broadcasts for 16
 * multiply-adds.
 *
 * panel_dots: out = d w^T. Blocks of 8 rows x 3 columns (4 x 2 with 16 registers), each with its
 * own lanes of partial sums, which are added as a tree at the end. Genes are walked in runs of
 * which d stays in the first-level cache. Bound: 11 loads for 24 multiply-adds.
 *
 * outer_add: dw += x^T d, blocks of 12 columns of x (6 with 16 registers) x 2 vectors of d in
 * registers over 128 rows, which are copied together if they are read again. Bound: 2 loads and 12
 * broadcasts for 24 multiply-adds.
 */
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/vector.h"

#define INLINE static inline __attribute__((always_inline))

/* Loads once what is multiplied several times: gcc would read it again in every multiply-add. */
#if defined(__AVX512F__)
#define IN_REGISTER(x) __asm__("" : "+v"(x))
#elif defined(__x86_64__)
#define IN_REGISTER(x) __asm__("" : "+x"(x))
#else
#define IN_REGISTER(x) (void)(x)
#endif

/* `rows` rows (constant in every call) of one panel; start: where their sums begin. */
INLINE void product_block(const int rows, int64_t depth, const float *x, int64_t x_stride,
                          const float *panel, const float *const *start, int64_t at, float *y,
                          int64_t y_stride) {
  for (int half = 0; half < AV_PANEL; half += 2 * AV_LANES) {
    av_vec low[AV_ROW_BLOCK];
    av_vec high[AV_ROW_BLOCK];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      low[i] = av_vec_load(start[i] + at + half);
      high[i] = av_vec_load(start[i] + at + half + AV_LANES);
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
      av_vec_store(y + i * y_stride + at + half, low[i]);
      av_vec_store(y + i * y_stride + at + half + AV_LANES, high[i]);
    }
  }
}

void AV_KERNEL(panel_product)(int64_t rows, int64_t depth, const float *x, int64_t x_stride,
                              int64_t panels, const float *packed, const float *const *start,
                              float *y, int64_t y_stride) {
  for (int64_t p = 0; p < panels; ++p) {
    const float *panel = packed + p * depth * AV_PANEL;
    const int64_t at = p * AV_PANEL;
    int64_t i = 0;
#if defined(__AVX512F__)
    for (; i + 8 <= rows; i += 8) {
      product_block(8, depth, x + i * x_stride, x_stride, panel, start + i, at, y + i * y_stride,
                    y_stride);
    }
#endif
    for (; i + 4 <= rows; i += 4) {
      product_block(4, depth, x + i * x_stride, x_stride, panel, start + i, at, y + i * y_stride,
                    y_stride);
    }
    for (; i < rows; ++i) {
      product_block(1, depth, x + i * x_stride, x_stride, panel, start + i, at, y + i * y_stride,
                    y_stride);
    }
  }
}

enum {
  DOT_ROWS = AV_LANES == 16 ? 8 : 4, /* a block of panel_dots: each product has a vector of sums */
  DOT_COLUMNS = AV_LANES == 16 ? 3 : 2
};

/* Partial sums of rows x columns dot products over `panels` panels, kept in lanes. */
INLINE void dots_block(const int rows, const int columns, int64_t depth, int64_t panels,
                       const float *d, int64_t d_stride, const float *packed, float *lanes) {
  av_vec sum[DOT_ROWS][DOT_COLUMNS];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 3
    for (int k = 0; k < columns; ++k) {
      sum[i][k] = av_vec_load(lanes + (i * depth + k) * AV_LANES);
    }
  }
  for (int64_t p = 0; p < panels; ++p) {
    for (int part = 0; part < AV_PANEL; part += AV_LANES) {
      const float *at = d + p * AV_PANEL + part;
      const float *w = packed + p * depth * AV_PANEL + part;
      av_vec weight[DOT_COLUMNS];
#pragma GCC unroll 3
      for (int k = 0; k < columns; ++k) {
        weight[k] = av_vec_load(w + k * AV_PANEL);
      }
#pragma GCC unroll 8
      for (int i = 0; i < rows; ++i) {
        av_vec value = av_vec_load(at + i * d_stride);
        IN_REGISTER(value);
#pragma GCC unroll 3
        for (int k = 0; k < columns; ++k) {
          sum[i][k] += value * weight[k];
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 3
    for (int k = 0; k < columns; ++k) {
      av_vec_store(lanes + (i * depth + k) * AV_LANES, sum[i][k]);
    }
  }
}

INLINE void dots_rows(const int rows, int64_t depth, int64_t panels, const float *d,
                      int64_t d_stride, const float *packed, float *lanes) {
  int64_t k = 0;
  for (; k + DOT_COLUMNS <= depth; k += DOT_COLUMNS) {
    dots_block(rows, DOT_COLUMNS, depth, panels, d, d_stride, packed + k * AV_PANEL,
               lanes + k * AV_LANES);
  }
  for (; k < depth; ++k) {
    dots_block(rows, 1, depth, panels, d, d_stride, packed + k * AV_PANEL, lanes + k * AV_LANES);
  }
}

/* Lane l of the result is the sum of the lanes of vector l of n <= AV_LANES vectors: pairs of
 * vectors are merged, each step adding lanes `half` apart. */
INLINE av_vec vector_sums(const float *lanes, int64_t n) {
  av_vec v[AV_LANES];
  for (int l = 0; l < AV_LANES; ++l) {
    v[l] = l < n ? av_vec_load(lanes + l * AV_LANES) : (av_vec){0};
  }
#define KEEP(l, half) (((l) & (half)) != 0 ? AV_LANES + (l) : (l))
#define MOVE(l, half) (((l) & (half)) != 0 ? AV_LANES + ((l) ^ (half)) : ((l) ^ (half)))
#define FOUR(pick, l, half) \
  pick(l, half), pick((l) + 1, half), pick((l) + 2, half), pick((l) + 3, half)
#if defined(__AVX512F__)
#define ALL(pick, half) \
  FOUR(pick, 0, half), FOUR(pick, 4, half), FOUR(pick, 8, half), FOUR(pick, 12, half)
#elif defined(__AVX__)
#define ALL(pick, half) FOUR(pick, 0, half), FOUR(pick, 4, half)
#else
#define ALL(pick, half) FOUR(pick, 0, half)
#endif
#define STEP(half)                                              \
  for (int l = 0; l < (half); ++l) {                            \
    const av_vec a = v[l];                                      \
    const av_vec b = v[l + (half)];                             \
    v[l] = AV_SHUFFLE(int32_t, av_vec, a, b, ALL(KEEP, half)) + \
           AV_SHUFFLE(int32_t, av_vec, a, b, ALL(MOVE, half));  \
  }
#if defined(__AVX512F__)
  STEP(8)
#endif
#if defined(__AVX__)
  STEP(4)
#endif
  STEP(2)
  STEP(1)
#undef STEP
#undef ALL
#undef FOUR
#undef MOVE
#undef KEEP
  return v[0];
}

/* lanes: scratch of rows * depth * 16 floats. */
void AV_KERNEL(panel_dots)(int64_t rows, int64_t depth, int64_t panels, const float *d,
                           int64_t d_stride, const float *packed, bool add, float *out,
                           int64_t out_stride, float *lanes) {
  enum { RUN = 32 }; /* panels: 8 rows x 32 x 32 floats = 32 KiB */
  memset(lanes, 0, (size_t)(rows * depth * AV_LANES) * sizeof *lanes);
  for (int64_t first = 0; first < panels; first += RUN) {
    const int64_t run = panels - first < RUN ? panels - first : RUN;
    const float *w = packed + first * depth * AV_PANEL;
    const float *from = d + first * AV_PANEL;
    int64_t i = 0;
    for (; i + DOT_ROWS <= rows; i += DOT_ROWS) {
      dots_rows(DOT_ROWS, depth, run, from + i * d_stride, d_stride, w,
                lanes + i * depth * AV_LANES);
    }
    for (; i < rows; ++i) {
      dots_rows(1, depth, run, from + i * d_stride, d_stride, w, lanes + i * depth * AV_LANES);
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < depth; k += AV_LANES) {
      const int64_t n = depth - k < AV_LANES ? depth - k : AV_LANES;
      float sums[AV_LANES];
      av_vec_store(sums, vector_sums(lanes + (i * depth + k) * AV_LANES, n));
      for (int64_t q = 0; q < n; ++q) {
        float *to = out + i * out_stride + k + q;
        *to = add ? *to + sums[q] : sums[q];
      }
    }
  }
}

/* ---- outer_add ---- */

enum {
  WIDTH = 2 * AV_LANES,             /* columns of d at a time */
  INPUTS = AV_LANES == 16 ? 12 : 6, /* columns of x at a time: 2 sums each in registers */
  RUN_ROWS = 128                    /* rows of d held together */
};

/* dw (inputs, WIDTH; row stride) += x^T d; `inputs` is constant in every call. */
INLINE void outer_block(const int inputs, int64_t rows, const float *x, int64_t x_stride,
                        const float *d, int64_t d_stride, float *dw, int64_t stride) {
  av_vec low[INPUTS];
  av_vec high[INPUTS];
#pragma GCC unroll 12
  for (int k = 0; k < inputs; ++k) {
    low[k] = (av_vec){0};
    high[k] = (av_vec){0};
  }
  for (int64_t i = 0; i < rows; ++i) {
    const av_vec d0 = av_vec_load(d + i * d_stride);
    const av_vec d1 = av_vec_load(d + i * d_stride + AV_LANES);
#pragma GCC unroll 12
    for (int k = 0; k < inputs; ++k) {
      const av_vec value = av_vec_all(x[i * x_stride + k]);
      low[k] += value * d0;
      high[k] += value * d1;
    }
  }
#pragma GCC unroll 12
  for (int k = 0; k < inputs; ++k) {
    float *to = dw + k * stride;
    av_vec_store(to, av_vec_load(to) + low[k]);
    av_vec_store(to + AV_LANES, av_vec_load(to + AV_LANES) + high[k]);
  }
}

static void outer_inputs(int64_t inputs, int64_t rows, const float *x, int64_t x_stride,
                         const float *d, int64_t d_stride, float *dw, int64_t stride) {
#define CASE(n)                                                                        \
  case n:                                                                              \
    outer_block(n <= INPUTS ? n : INPUTS, rows, x, x_stride, d, d_stride, dw, stride); \
    break;
  switch (inputs) {
    CASE(1)
    CASE(2)
    CASE(3)
    CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) default : break;
  }
#undef CASE
}

/* `width` < WIDTH columns: those missing are 0 in d, and not written. */
static void outer_edge(int64_t rows, int64_t depth, const float *x, int64_t x_stride,
                       const float *d, int64_t width, float *dw, int64_t stride) {
  for (int64_t k = 0; k < depth; k += INPUTS) {
    const int64_t inputs = depth - k < INPUTS ? depth - k : INPUTS;
    float sums[INPUTS * WIDTH] = {0};
    outer_inputs(inputs, rows, x + k, x_stride, d, WIDTH, sums, WIDTH);
    for (int64_t q = 0; q < inputs; ++q) {
      for (int64_t j = 0; j < width; ++j) {
        dw[(k + q) * stride + j] += sums[q * WIDTH + j];
      }
    }
  }
}

void AV_KERNEL(outer_add)(int64_t rows, int64_t depth, const float *x, int64_t x_stride,
                          const float *d, int64_t d_stride, int64_t n, float *dw, int64_t stride) {
  for (int64_t i = 0; i < rows; i += RUN_ROWS) {
    const int64_t run = rows - i < RUN_ROWS ? rows - i : RUN_ROWS;
    for (int64_t j = 0; j < n; j += WIDTH) {
      const int64_t width = n - j < WIDTH ? n - j : WIDTH;
      const float *from = d + i * d_stride + j;
      float held[RUN_ROWS * WIDTH];
      int64_t from_stride = d_stride;
      if (depth > INPUTS || width < WIDTH) { /* read more than once: keep it in one place */
        for (int64_t r = 0; r < run; ++r) {
          for (int64_t c = 0; c < WIDTH; ++c) {
            held[r * WIDTH + c] = c < width ? from[r * d_stride + c] : 0.0f;
          }
        }
        from = held;
        from_stride = WIDTH;
      }
      if (width < WIDTH) {
        outer_edge(run, depth, x + i * x_stride, x_stride, held, width, dw + j, stride);
        continue;
      }
      for (int64_t k = 0; k < depth; k += INPUTS) {
        outer_inputs(depth - k < INPUTS ? depth - k : INPUTS, run, x + i * x_stride + k, x_stride,
                     from, from_stride, dw + k * stride + j, stride);
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
