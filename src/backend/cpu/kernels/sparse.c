/* Sums of rows weighted by counts, sums in registers: the first layer and its weight gradient.
 *
 *   weighted_rows     out += value[e] * rows[index[e]]    forward: a cell's genes, rows of weights
 *   sparse_backward   dw[gene - origin] += value * dy[row]  a gene's cells in a tile (../by_gene.h)
 *
 * Forward gathers from 64 columns of the weights (half a megabyte for 2,000 genes: second-level
 * cache), backward from those columns of the tile's rows by themselves (32 KB: first-level cache;
 * as rows of a wider matrix they would fall into a quarter of its sets). Bound: a load of 64 bytes
 * for 16 columns of an entry, one a cycle forward, two backward.
 *
 * Tried: forward gene by gene as well, weights in registers and y in the first-level cache: 0.29 us
 * a cell and 64 columns against 0.20 to 0.27, because the ends of a gene's short runs cannot be
 * predicted. Backward with runs ordered by length, which they then can: twice the time, for gathers
 * of entries and weights lose their order.
 */
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/vector.h"
#include "math/vector_math.h"

#include <stddef.h>

#define INLINE static inline __attribute__((always_inline))

INLINE void log1p_some(int64_t n, const float *restrict x, float *restrict y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    y[i] = av_log1pf(x[i]);
  }
}

/* What whole vectors leave over is done as one more, in memory of its own: one by one it took
 * longer than all the rest of a row. */
void AV_KERNEL(log1p_row)(int64_t n, const float *x, float *y) {
  enum { LAST = 16 };
  const int64_t rest = n % LAST;
  const int64_t whole = n - rest;
  log1p_some(whole, x, y);
  if (rest > 0) {
    float last[LAST] = {0};
    float made[LAST];
    memcpy(last, x + whole, (size_t)rest * sizeof *x);
    log1p_some(LAST, last, made);
    memcpy(y + whole, made, (size_t)rest * sizeof *y);
  }
}

/* A row of counts in its most compact form. */
void AV_KERNEL(expand_row)(int64_t n, const uint16_t *restrict gene, const uint8_t *restrict value,
                           int32_t *restrict to_gene, float *restrict to_value) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    to_gene[i] = gene[i];
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    to_value[i] = value[i];
  }
}

/* `vectors` vectors of columns; constant in every call, so that the sums live in registers. */
INLINE void columns(const int vectors, int64_t count, const int32_t *index, const float *value,
                    const float *rows, int64_t stride, float *out) {
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
  if (j < n) {
    av_vec sum = av_vec_load_part(out + j, n - j);
    for (int64_t e = 0; e < count; ++e) {
      const av_vec x = av_vec_all(value[e]);
      sum += x * av_vec_load_part(rows + index[e] * stride + j, n - j);
    }
    av_vec_store_part(out + j, n - j, sum);
  }
}

enum { COLUMNS = 64 / AV_LANES < 8 ? 64 / AV_LANES : 8 }; /* vectors of columns at a time */

/* Every other entry goes to sums of its own: twice as many additions are under way. */
INLINE void backward_columns(const int vectors, const av_sparse_part *part,
                             const float *restrict dy, int64_t stride, float *restrict dw) {
  const av_sparse_entry *restrict entry = part->entry;
  for (const av_sparse_run *run = part->run; run < part->run + part->n_runs; ++run) {
    float *restrict to = dw + (run->gene - part->origin) * stride;
    av_vec even[COLUMNS];
    av_vec odd[COLUMNS];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      even[v] = av_vec_load(to + v * AV_LANES);
      odd[v] = (av_vec){0};
    }
    const int32_t last = run[1].first;
    int32_t e = run[0].first;
    for (; e + 2 <= last; e += 2) {
      const float *one = dy + (ptrdiff_t)entry[e].row * AV_TILE_COLUMNS;
      const float *two = dy + (ptrdiff_t)entry[e + 1].row * AV_TILE_COLUMNS;
      const av_vec x1 = av_vec_all(entry[e].value);
      const av_vec x2 = av_vec_all(entry[e + 1].value);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        even[v] += x1 * av_vec_load(one + v * AV_LANES);
        odd[v] += x2 * av_vec_load(two + v * AV_LANES);
      }
    }
    if (e < last) {
      const float *one = dy + (ptrdiff_t)entry[e].row * AV_TILE_COLUMNS;
      const av_vec x = av_vec_all(entry[e].value);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        even[v] += x * av_vec_load(one + v * AV_LANES);
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      av_vec_store(to + v * AV_LANES, even[v] + odd[v]);
    }
  }
}

void AV_KERNEL(sparse_backward)(const av_sparse_part *part, const float *dy, int64_t stride,
                                int64_t n, float *dw) {
  int64_t j = 0;
  for (; j + COLUMNS * AV_LANES <= n; j += COLUMNS * AV_LANES) {
    backward_columns(COLUMNS, part, dy + j, stride, dw + j);
  }
  for (; j + AV_LANES <= n; j += AV_LANES) {
    backward_columns(1, part, dy + j, stride, dw + j);
  }
  for (int64_t r = 0; j < n && r < part->n_runs; ++r) {
    float *to = dw + (part->run[r].gene - part->origin) * stride + j;
    av_vec sum = av_vec_load_part(to, n - j);
    for (int32_t e = part->run[r].first; e < part->run[r + 1].first; ++e) {
      const av_vec x = av_vec_all(part->entry[e].value);
      const float *from = dy + (ptrdiff_t)part->entry[e].row * AV_TILE_COLUMNS + j;
      sum += x * av_vec_load_part(from, n - j);
    }
    av_vec_store_part(to, n - j, sum);
  }
}

/* The same with every product rounded to its column's quantum (strict.h): the product of two floats
 * is exact in double, and adding and subtracting `magic` rounds it. */
INLINE void backward_columns_exact(const int vectors, const av_sparse_part *part, const float *dy,
                                   int64_t stride, const double *magic, double *dw) {
  av_dvec shift[4];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    shift[v] = av_dvec_load(magic + v * AV_DOUBLES);
  }
  for (int64_t r = 0; r < part->n_runs; ++r) {
    double *to = dw + (part->run[r].gene - part->origin) * stride;
    av_dvec sum[4];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      sum[v] = av_dvec_load(to + v * AV_DOUBLES);
    }
    for (int32_t e = part->run[r].first; e < part->run[r + 1].first; ++e) {
      const float *row = dy + part->entry[e].row * AV_TILE_COLUMNS;
      const double x = (double)part->entry[e].value;
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        const av_dvec term = x * av_dvec_of_floats(row + v * AV_DOUBLES) + shift[v];
        sum[v] += term - shift[v];
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      memcpy(to + v * AV_DOUBLES, &sum[v], sizeof sum[v]);
    }
  }
}

void AV_KERNEL(sparse_backward_exact)(const av_sparse_part *part, const float *dy, int64_t stride,
                                      int64_t n, const double *magic, double *dw) {
  int64_t j = 0;
  for (; j + 4 * AV_DOUBLES <= n; j += 4 * AV_DOUBLES) {
    backward_columns_exact(4, part, dy + j, stride, magic + j, dw + j);
  }
  for (; j + AV_DOUBLES <= n; j += AV_DOUBLES) {
    backward_columns_exact(1, part, dy + j, stride, magic + j, dw + j);
  }
  for (int64_t r = 0; j < n && r < part->n_runs; ++r) {
    double *to = dw + (part->run[r].gene - part->origin) * stride;
    for (int32_t e = part->run[r].first; e < part->run[r + 1].first; ++e) {
      const float *from = dy + part->entry[e].row * AV_TILE_COLUMNS;
      for (int64_t k = j; k < n; ++k) {
        const double term = (double)part->entry[e].value * (double)from[k] + magic[k];
        to[k] += term - magic[k];
      }
    }
  }
}
