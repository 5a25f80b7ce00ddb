/* First layer over sparse counts (model.md section 5): one sparse x dense product, cell by cell
 * (kernels/sparse.c). Threads share columns and rows. */
#include "backend/cpu/state.h"

#include <omp.h>
#include <string.h>

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
