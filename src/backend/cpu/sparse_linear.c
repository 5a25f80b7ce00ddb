/* First layer over sparse counts (model.md section 5): one CSR x dense product, and its weight
 * gradient gene by gene over the genes present in the minibatch. */
#include "backend/cpu/state.h"
#include "backend/cpu/strict.h"

#include <string.h>

/* Threads as a grid of column slices x parts of the rows: a slice of the weights stays in one
 * core's second-level cache. */
static int column_parts(int threads, int64_t n) {
  int parts = 1;
  for (int candidate = 2; candidate <= threads; ++candidate) {
    if (threads % candidate == 0 && n / candidate >= 64) {
      parts = candidate;
    }
  }
  return parts;
}

/* out (n) += the cell's covariates times their columns of w (C + O, .; row stride). */
static void add_covariates(const av_kernels *kernels, const av_batch *batch, int64_t i,
                           const float *w, int64_t stride, int64_t n, float *out) {
  const int64_t continuous = batch->n_continuous;
  const av_places columns = av_columns_from(batch, 0);
  kernels->weighted_rows(continuous, batch->counting, batch->continuous + i * continuous, w, stride,
                         n, out);
  av_add_places(kernels, &columns, i, n, w + continuous * stride, stride, out);
}

void av_cpu_sparse_linear(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                          int64_t n, const av_real *w_, const av_real *bias_, av_real *y_) {
  const av_kernels *kernels = av_kernels_of(be);
  const float *w = av_const_floats(w_);
  const float *bias = av_const_floats(bias_);
  const float *value = log1p ? batch->log1p : batch->value;
  float *y = av_floats(y_);
  const int columns = column_parts(be->threads, n);
  const int rows = be->threads / columns;
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    int64_t row_begin = 0;
    int64_t row_end = 0;
    av_slice(n, 16, part % columns, columns, &begin, &end);
    av_slice(batch->n, 1, part / columns, rows, &row_begin, &row_end);
    for (int64_t i = row_begin; i < row_end; ++i) {
      const int64_t first = batch->row_start[i];
      float *out = y + i * n + begin;
      memcpy(out, bias + begin, (size_t)(end - begin) * sizeof *out);
      kernels->weighted_rows(batch->row_start[i + 1] - first, batch->gene + first, value + first,
                             w + begin, n, end - begin, out);
      if (covariates) {
        add_covariates(kernels, batch, i, w + batch->dataset->n_genes * n + begin, n, end - begin,
                       out);
      }
    }
  }
}

/* First gene whose entries begin at or after `entry`. */
static int64_t gene_from(const av_gene_lists *lists, int64_t genes, int64_t entry) {
  int64_t low = 0;
  int64_t high = genes;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (lists->start[middle] < entry) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/* Genes of one part, parts holding about equal numbers of entries. */
static void gene_slice(const av_gene_lists *lists, int64_t genes, int part, int parts,
                       int64_t *begin, int64_t *end) {
  const int64_t entries = lists->start[genes];
  *begin = part == 0 ? 0 : gene_from(lists, genes, entries * part / parts);
  *end = part + 1 == parts ? genes : gene_from(lists, genes, entries * (part + 1) / parts);
}

/* Column sums of dy, and the covariates' rows of dw: covariate_dw (C + O, n), or NULL. */
static void bias_grad(av_backend *be, const av_batch *batch, int64_t n, const float *dy,
                      float *dbias, float *covariate_dw) {
  const av_kernels *kernels = av_kernels_of(be);
  const int64_t continuous = batch->n_continuous;
  const av_places columns = av_columns_from(batch, 0);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(n, 16, part, be->threads, &begin, &end);
    if (begin < end) {
      kernels->sum_rows(batch->n, dy + begin, n, end - begin, dbias + begin);
    }
    if (begin < end && covariate_dw != NULL) {
      kernels->outer_add(batch->n, continuous, batch->continuous, continuous, dy + begin, n,
                         end - begin, covariate_dw + begin, n);
      for (int64_t i = 0; i < batch->n; ++i) {
        av_add_to_places(kernels, &columns, i, end - begin, dy + i * n + begin,
                         covariate_dw + continuous * n + begin, n);
      }
    }
  }
}

/* Magic numbers, in this order: of the counts' products (n), of sums of dy (n), and for exact
 * products with the continuous covariates of dy (n) and of those (C). */
static const double *strict_magics(av_backend *be, const av_batch *batch, const float *value,
                                   int64_t n, const float *dy) {
  const int64_t continuous = batch->n_continuous;
  float *top = av_scratch(be, AV_SLOT_TOP, n + 1 + continuous, sizeof *top);
  double *magic = av_scratch(be, AV_SLOT_MAGIC, 3 * n + continuous, sizeof *magic);
  av_strict_tops(be, batch->n, n, dy, n, top);
  av_strict_tops(be, batch->n, continuous, batch->continuous, continuous, top + n + 1);
  float largest = 0.0f;
  for (int64_t e = 0; e < batch->row_start[batch->n]; ++e) {
    largest = value[e] > largest ? value[e] : largest;
  }
  top[n] = largest;
  av_strict_maxima(be, top, n + 1 + continuous);
  const int64_t cells = av_strict_cells(be, batch->n);
  const int bits = av_strict_sum_bits(cells);
  for (int64_t j = 0; j < n; ++j) {
    magic[j] = av_strict_magic((double)top[j] * (double)top[n], bits);
  }
  av_strict_magics(n, top, bits, magic + n);
  av_strict_magics(n, top, av_strict_product_bits(cells), magic + 2 * n);
  av_strict_magics(continuous, top + n + 1, av_strict_product_bits(cells), magic + 3 * n);
  return magic;
}

/* The same as bias_grad in order-free mode. */
static void bias_grad_strict(av_backend *be, const av_batch *batch, int64_t n, const float *dy,
                             const double *magic, double *dbias, double *covariate_dw) {
  const int64_t continuous = batch->n_continuous;
  const av_places columns = av_columns_from(batch, 0);
  av_strict_add_columns(be, batch->n, n, dy, n, magic + n, NULL, dbias);
  if (covariate_dw != NULL) {
    av_strict_outer(be, batch->n, continuous, n, batch->continuous, continuous, dy, n,
                    magic + 3 * n, magic + 2 * n, covariate_dw);
    av_strict_add_columns(be, batch->n, n, dy, n, magic + n, &columns,
                          covariate_dw + continuous * n);
  }
}

void av_cpu_sparse_linear_grad(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                               int64_t n, const av_real *dy_, av_grad *dw, av_grad *dbias) {
  const av_kernels *kernels = av_kernels_of(be);
  const float *dy = av_const_floats(dy_);
  const int64_t genes = batch->dataset->n_genes;
  void *covariate_dw = covariates ? av_backend_at(be, AV_GRAD, dw, genes * n) : NULL;
  const double *magic = NULL;
  if (be->strict) {
    magic = strict_magics(be, batch, log1p ? batch->log1p : batch->value, n, dy);
    bias_grad_strict(be, batch, n, dy, magic, av_doubles(dbias), covariate_dw);
  } else {
    bias_grad(be, batch, n, dy, av_floats(dbias), covariate_dw);
  }
  const av_gene_lists *lists = av_batch_lists(be, batch, log1p);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    gene_slice(lists, genes, part, be->threads, &begin, &end);
    for (int64_t g = begin; g < end; ++g) {
      const int64_t first = lists->start[g];
      const int64_t count = lists->start[g + 1] - first;
      if (count > 0 && be->strict) {
        kernels->weighted_rows_exact(count, lists->row + first, lists->value + first, dy, n, n,
                                     magic, av_doubles(dw) + g * n);
      } else if (count > 0) {
        kernels->weighted_rows(count, lists->row + first, lists->value + first, dy, n, n,
                               av_floats(dw) + g * n);
      }
    }
  }
}
