/* Weight gradient of the first layer, gene by gene over tiles of the minibatch (kernels/sparse.c),
 * alone or with the optimiser's step. Threads share genes.
 *
 * A step for one tile makes the gradients of a few genes at a time and uses them while a core's own
 * cache holds them. In memory they would be read and written, read again and set to
 * zero: with 10,000 genes and minibatches of 128 cells a third of all bytes that a step moves for
 * the first layer. */
#include "backend/cpu/by_gene.h"
#include "backend/cpu/strict.h"

#include <string.h>

enum {
  TILE_SIZE = AV_TILE_ROWS * AV_TILE_COLUMNS,
  STEP_FLOATS = 4096, /* of gradients that are made before they are used */
  STEP_WIDTH = 1024   /* beyond, a thread's slices of a tile would take megabytes */
};

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

/* Columns [column, column + width) of rows [begin, end) of dy (., n), side by side in `tile`. */
static void take_columns(const float *dy, int64_t n, int64_t begin, int64_t end, int64_t column,
                         int64_t width, float *tile) {
  for (int64_t i = begin; i < end; ++i) {
    memcpy(tile + (i - begin) * AV_TILE_COLUMNS, dy + i * n + column, (size_t)width * sizeof *tile);
  }
}

static int64_t width_at(int64_t column, int64_t n) {
  return n - column < AV_TILE_COLUMNS ? n - column : AV_TILE_COLUMNS;
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
    const int64_t width = width_at(j, n);
    take_columns(dy, n, begin, end, j, width, tile);
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

/* ---- the gradient and its use in one ---- */

/* The weights and moments of a step, (G, n) each. */
typedef struct step_arrays {
  float *w, *m, *v;
} step_arrays;

/* What a thread works with: all columns of the tile's gradients in slices, some rows of dw, then
 * its counts by gene. */
static int64_t step_floats(int64_t n) {
  const int64_t slices = (n + AV_TILE_COLUMNS - 1) / AV_TILE_COLUMNS;
  return slices * TILE_SIZE + STEP_FLOATS;
}

/* Genes [gene_begin, gene_end) of a minibatch of one tile. */
static void step_genes(const av_kernels *kernels, const av_batch *batch, const float *value,
                       int64_t gene_begin, int64_t gene_end, int64_t n, const float *dy,
                       const av_adam_step *step, const step_arrays *arrays, float *space) {
  float *tiles = space;
  float *dw = space + (n + AV_TILE_COLUMNS - 1) / AV_TILE_COLUMNS * TILE_SIZE;
  const av_sparse_part part =
      av_by_gene(batch, value, 0, batch->n, gene_begin, gene_end, space + step_floats(n));
  for (int64_t j = 0; j < n; j += AV_TILE_COLUMNS) {
    take_columns(dy, n, 0, batch->n, j, width_at(j, n), tiles + j / AV_TILE_COLUMNS * TILE_SIZE);
  }
  memset(dw, 0, STEP_FLOATS * sizeof *dw);
  const int64_t some = STEP_FLOATS / n;
  int64_t run = 0;
  for (int64_t g = gene_begin; g < gene_end; g += some) {
    const int64_t end = g + some < gene_end ? g + some : gene_end;
    av_sparse_part block = {.origin = g, .run = part.run + run, .entry = part.entry};
    for (; run < part.n_runs && part.run[run].gene < end; ++run) {
      ++block.n_runs;
    }
    for (int64_t j = 0; j < n && block.n_runs > 0; j += AV_TILE_COLUMNS) {
      kernels->sparse_backward(&block, tiles + j / AV_TILE_COLUMNS * TILE_SIZE, n, width_at(j, n),
                               dw + j);
    }
    kernels->adam_float(step, (end - g) * n, arrays->w + g * n, dw, arrays->m + g * n,
                        arrays->v + g * n); /* sets dw to zero */
  }
}

bool av_cpu_sparse_linear_step(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                               int64_t n, const av_real *dy_, const av_adam *adam, av_real *w,
                               av_real *m, av_real *v, av_grad *dw, av_grad *dbias) {
  if (be->strict || batch->n > AV_TILE_ROWS || n > STEP_WIDTH) {
    return false;
  }
  const float *dy = av_const_floats(dy_);
  const int64_t genes = batch->dataset->n_genes;
  bias_grad(be, batch, n, dy, av_floats(dbias), covariates ? av_floats(dw) + genes * n : NULL);
  const float *value = log1p ? batch->log1p : batch->value;
  const int32_t *bounds = batch->data->gene_bounds;
  const av_adam_step step = av_cpu_adam_step(adam, adam->scale);
  const step_arrays arrays = {.w = av_floats(w), .m = av_floats(m), .v = av_floats(v)};
  const int64_t bytes = step_floats(n) * (int64_t)sizeof(float) + av_by_gene_bytes(batch);
  char *space = av_scratch(be, AV_SLOT_TILE, be->threads, (size_t)bytes);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int thread = 0; thread < be->threads; ++thread) {
    if (bounds[thread] < bounds[thread + 1]) {
      step_genes(av_kernels_of(be), batch, value, bounds[thread], bounds[thread + 1], n, dy, &step,
                 &arrays, (float *)(void *)(space + thread * bytes));
    }
  }
  return true;
}
