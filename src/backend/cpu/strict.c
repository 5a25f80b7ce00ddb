#include "backend/cpu/strict.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

void av_strict_maxima(av_backend *be, float *top, int64_t n) {
  if (be->comm->size > 1) {
    av_cpu_require(be, av_max_f32(be->comm, top, n));
  }
}

int64_t av_strict_cells(av_backend *be, int64_t n) {
  if (be->comm->size > 1) {
    av_cpu_require(be, av_sum_i64(be->comm, &n, 1));
  }
  return n;
}

/* Smallest b with 2^b >= n. */
static int bits_of(int64_t n) {
  int bits = 0;
  while (bits < 40 && ((int64_t)1 << bits) < n) {
    ++bits;
  }
  return bits;
}

int av_strict_sum_bits(int64_t cells) { return 50 - bits_of(cells); }
int av_strict_product_bits(int64_t cells) { return (52 - bits_of(cells)) / 2; }

double av_strict_magic(double top, int bits) {
  if (!(top < INFINITY)) {
    return INFINITY;
  }
  if (top == 0.0) {
    return 0.0;
  }
  int exponent = 0;
  (void)frexp(top, &exponent); /* top < 2^exponent */
  return ldexp(1.5, 52 + exponent - bits);
}

void av_strict_magics(int64_t n, const float *top, int bits, double *magic) {
  for (int64_t j = 0; j < n; ++j) {
    magic[j] = av_strict_magic((double)top[j], bits);
  }
}

void av_strict_tops(av_backend *be, int64_t rows, int64_t n, const float *x, int64_t stride,
                    float *top) {
  const av_kernels *kernels = av_kernels_of(be);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(n, 16, part, be->threads, &begin, &end);
    for (int64_t j = begin; j < end; ++j) {
      top[j] = 0.0f;
    }
    for (int64_t i = 0; i < rows && begin < end; ++i) {
      kernels->max_abs_row(end - begin, x + i * stride + begin, top + begin);
    }
  }
}

void av_strict_add_columns(av_backend *be, int64_t rows, int64_t n, const float *d, int64_t stride,
                           const double *magic, const av_places *places, double *sums) {
  const int32_t first_row = 0;
  const int64_t n_places = places == NULL ? 1 : places->n;
  const av_kernels *kernels = av_kernels_of(be);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(n, 16, part, be->threads, &begin, &end);
    for (int64_t i = 0; i < rows && begin < end; ++i) {
      const int32_t *row = places == NULL ? &first_row : places->row + i * places->n;
      for (int64_t f = 0; f < n_places; ++f) {
        kernels->add_row_exact(end - begin, d + i * stride + begin, magic + begin,
                               sums + row[f] * n + begin);
      }
    }
  }
}

enum { OUTER_ROWS = 64, OUTER_COLUMNS = 256 };

/* Columns [begin, end) of dw += left^T d, left (rows, m) rounded already. */
static void outer_columns(const av_kernels *kernels, int64_t rows, int64_t m, int64_t n,
                          const double *left, const float *d, int64_t d_stride,
                          const double *d_magic, int64_t begin, int64_t end, double *right,
                          double *dw) {
  for (int64_t first = begin; first < end; first += OUTER_COLUMNS) {
    const int64_t width = end - first < OUTER_COLUMNS ? end - first : OUTER_COLUMNS;
    for (int64_t i = 0; i < rows; i += OUTER_ROWS) {
      const int64_t height = rows - i < OUTER_ROWS ? rows - i : OUTER_ROWS;
      for (int64_t r = 0; r < height; ++r) {
        kernels->round_row(width, d + (i + r) * d_stride + first, d_magic + first,
                           right + r * width);
      }
      cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)m, (blasint)width,
                  (blasint)height, 1.0, left + i * m, (blasint)m, right, (blasint)width, 1.0,
                  dw + first, (blasint)n);
    }
  }
}

void av_strict_outer(av_backend *be, int64_t rows, int64_t m, int64_t n, const float *x,
                     int64_t x_stride, const float *d, int64_t d_stride, const double *x_magic,
                     const double *d_magic, double *dw) {
  if (rows == 0 || m == 0 || n == 0) {
    return;
  }
  const av_kernels *kernels = av_kernels_of(be);
  double *left = av_scratch(be, AV_SLOT_LEFT, rows * m, sizeof *left);
  double *right = av_scratch(be, AV_SLOT_RIGHT, (int64_t)be->threads * OUTER_ROWS * OUTER_COLUMNS,
                             sizeof *right);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < rows; ++i) {
    kernels->round_row(m, x + i * x_stride, x_magic, left + i * m);
  }
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(n, 16, part, be->threads, &begin, &end);
    outer_columns(kernels, rows, m, n, left, d, d_stride, d_magic, begin, end,
                  right + (int64_t)part * OUTER_ROWS * OUTER_COLUMNS, dw);
  }
}
