/* First layer over sparse counts (model.md section 5): one sparse x dense product, cell by cell,
 * and its weight gradient, gene by gene over tiles of the minibatch (kernels/sparse.c). Threads
 * share columns and rows forward, genes backward. */
#include "backend/cpu/by_gene.h"
#include "backend/cpu/strict.h"

#include <omp.h>
#include <string.h>

enum { TILE_SIZE = AV_TILE_ROWS * AV_TILE_COLUMNS };

/* out (n) += the cell's covariates times their columns of w (C + O, .; row stride). */
static void add_covariates(const av_kernels *kernels, const av_batch *batch, int64_t i,
                           const float *w, int64_t stride, int64_t n, float *out) {
  const int64_t continuous = batch->n_continuous;
  const av_places columns = av_columns_from(batch, 0);
  kernels->weighted_rows(continuous, batch->counting, batch->continuous + i * continuous, w, stride,
                         n, out);
  av_add_places(kernels, &columns, i, n, w + continuous * stride, stride, out);
}

/* Whether a part of `rows` rows should work on a copy of its columns of w, which by themselves lie
 * in all sets of a cache: where they fit the second level and enough rows share them. */
static bool worth_copying(const av_batch *batch, int64_t rows, int64_t n) {
  enum { ROWS = 256, BYTES = 1 << 20 };
  const int64_t bytes = batch->dataset->n_genes * AV_TILE_COLUMNS * (int64_t)sizeof(float);
  return rows >= ROWS && bytes <= BYTES && n > AV_TILE_COLUMNS;
}

typedef struct first_layer {
  const av_batch *batch;
  const float *value; /* f(counts) */
  bool covariates;
  int64_t n;
  const float *w, *bias;
  float *y;
} first_layer;

/* Columns [begin, begin + width) of rows [row_begin, row_end). copy (G, AV_TILE_COLUMNS): room for
 * those columns of w, or NULL. */
static void forward_columns(const av_kernels *kernels, const first_layer *layer, int64_t row_begin,
                            int64_t row_end, int64_t begin, int64_t width, float *copy) {
  const av_batch *batch = layer->batch;
  const int64_t genes = batch->dataset->n_genes;
  const int64_t n = layer->n;
  for (int64_t g = 0; copy != NULL && g < genes; ++g) {
    memcpy(copy + g * AV_TILE_COLUMNS, layer->w + g * n + begin, (size_t)width * sizeof *copy);
  }
  const float *from = copy != NULL ? copy : layer->w + begin;
  const int64_t stride = copy != NULL ? AV_TILE_COLUMNS : n;
  for (int64_t i = row_begin; i < row_end; ++i) {
    const int64_t first = batch->row_start[i];
    float *out = layer->y + i * n + begin;
    memcpy(out, layer->bias + begin, (size_t)width * sizeof *out);
    kernels->weighted_rows(batch->row_start[i + 1] - first, batch->gene + first,
                           layer->value + first, from, stride, width, out);
    if (layer->covariates) {
      add_covariates(kernels, batch, i, layer->w + genes * n + begin, n, width, out);
    }
  }
}

void av_cpu_sparse_linear(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                          int64_t n, const av_real *w, const av_real *bias, av_real *y) {
  const first_layer layer = {.batch = batch,
                             .value = log1p ? batch->log1p : batch->value,
                             .covariates = covariates,
                             .n = n,
                             .w = av_const_floats(w),
                             .bias = av_const_floats(bias),
                             .y = av_floats(y)};
  const int64_t slices = (n + AV_TILE_COLUMNS - 1) / AV_TILE_COLUMNS;
  const int64_t parts = (be->threads + slices - 1) / slices; /* of the rows */
  const int64_t size = batch->dataset->n_genes * AV_TILE_COLUMNS;
  float *copies = worth_copying(batch, batch->n / parts, n)
                      ? av_scratch(be, AV_SLOT_TILE, be->threads * size, sizeof *copies)
                      : NULL;
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t unit = 0; unit < slices * parts; ++unit) {
    const int64_t begin = unit / parts * AV_TILE_COLUMNS;
    int64_t row_begin = 0;
    int64_t row_end = 0;
    av_slice(batch->n, 1, (int)(unit % parts), (int)parts, &row_begin, &row_end);
    forward_columns(av_kernels_of(be), &layer, row_begin, row_end, begin,
                    n - begin < AV_TILE_COLUMNS ? n - begin : AV_TILE_COLUMNS,
                    copies == NULL ? NULL : copies + omp_get_thread_num() * size);
  }
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

/* What a thread works with: a tile's gradients, 64 columns, then its counts by gene. */
static int64_t thread_bytes(const av_batch *batch) {
  return TILE_SIZE * (int64_t)sizeof(float) + av_by_gene_bytes(batch);
}

/* dw of genes [gene_begin, gene_end) += those of the tile of rows [begin, end). */
static void tile_grad(av_backend *be, const av_batch *batch, const float *value, int64_t begin,
                      int64_t end, int64_t gene_begin, int64_t gene_end, int64_t n, const float *dy,
                      const double *magic, av_grad *dw, void *space) {
  const av_kernels *kernels = av_kernels_of(be);
  float *tile = space;
  const av_sparse_part part =
      av_by_gene(batch, value, begin, end, gene_begin, gene_end, tile + TILE_SIZE);
  for (int64_t j = 0; j < n; j += AV_TILE_COLUMNS) {
    const int64_t width = n - j < AV_TILE_COLUMNS ? n - j : AV_TILE_COLUMNS;
    for (int64_t i = begin; i < end; ++i) {
      memcpy(tile + (i - begin) * AV_TILE_COLUMNS, dy + i * n + j, (size_t)width * sizeof *tile);
    }
    if (be->strict) {
      kernels->sparse_backward_exact(&part, tile, n, width, magic + j, av_doubles(dw) + j);
    } else {
      kernels->sparse_backward(&part, tile, n, width, av_floats(dw) + j);
    }
  }
}

void av_cpu_sparse_linear_grad(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                               int64_t n, const av_real *dy_, av_grad *dw, av_grad *dbias) {
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
  const float *value = log1p ? batch->log1p : batch->value;
  const int32_t *bounds = batch->data->gene_bounds;
  const int64_t bytes = thread_bytes(batch);
  char *space = av_scratch(be, AV_SLOT_TILE, be->threads, (size_t)bytes);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int thread = 0; thread < be->threads; ++thread) {
    for (int64_t i = 0; i < batch->n && bounds[thread] < bounds[thread + 1]; i += AV_TILE_ROWS) {
      const int64_t end = i + AV_TILE_ROWS < batch->n ? i + AV_TILE_ROWS : batch->n;
      tile_grad(be, batch, value, i, end, bounds[thread], bounds[thread + 1], n, dy, magic, dw,
                space + thread * bytes);
    }
  }
}
