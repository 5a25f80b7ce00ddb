/* Dense layers. Forward and dx: threads share the rows, panel kernels, whose result for a row does
 * not depend on its neighbours. Weight gradients: threads share columns, one-thread SGEMM in each;
 * in order-free mode exact products (strict.h). Bound: multiply-add rate. */
#include "backend/cpu/state.h"
#include "backend/cpu/strict.h"

#include <cblas.h>
#include <string.h>

/* A dense layer and its gradients; pointers that a direction does not need are NULL. */
typedef struct dense_layer {
  int64_t rows, m, n_onehot, n;
  const float *x;
  int64_t x_stride;
  const float *w;
  const float *bias;
  const float *dy;
  float *dx;
  int64_t dx_stride;
  av_places columns;
} dense_layer;

/* out (n) = bias + the one-hot rows. */
static void start_row(const av_kernels *kernels, const dense_layer *layer, int64_t i, float *out) {
  if (layer->bias == NULL) {
    memset(out, 0, (size_t)layer->n * sizeof *out);
  } else {
    memcpy(out, layer->bias, (size_t)layer->n * sizeof *out);
  }
  if (layer->n_onehot > 0) {
    av_add_places(kernels, &layer->columns, i, layer->n, layer->w + layer->m * layer->n, layer->n,
                  out);
  }
}

/* tile: AV_ROW_BLOCK padded rows. */
static void forward_rows(const av_kernels *kernels, const dense_layer *layer, const float *packed,
                         int64_t begin, int64_t end, float *tile, float *y) {
  const int64_t panels = av_panels(layer->n);
  const int64_t stride = panels * AV_PANEL;
  for (int64_t first = begin; first < end; first += AV_ROW_BLOCK) {
    const int64_t rows = end - first < AV_ROW_BLOCK ? end - first : AV_ROW_BLOCK;
    for (int64_t i = 0; i < rows; ++i) {
      start_row(kernels, layer, first + i, tile + i * stride);
      memset(tile + i * stride + layer->n, 0, (size_t)(stride - layer->n) * sizeof *tile);
    }
    kernels->panel_product(rows, layer->m, layer->x + first * layer->x_stride, layer->x_stride,
                           panels, packed, tile, stride);
    for (int64_t i = 0; i < rows; ++i) {
      memcpy(y + (first + i) * layer->n, tile + i * stride, (size_t)layer->n * sizeof *y);
    }
  }
}

/* Packed weights, and for each thread a tile of AV_ROW_BLOCK padded rows and the lanes of
 * panel_dots. */
typedef struct panel_space {
  float *packed;
  float *tile;
  float *lanes;
  int64_t tile_size, lanes_size;
} panel_space;

static panel_space panel_space_get(av_backend *be, const dense_layer *layer) {
  const int64_t stride = av_panels(layer->n) * AV_PANEL;
  panel_space space = {.tile_size = AV_ROW_BLOCK * stride,
                       .lanes_size = AV_ROW_BLOCK * layer->m * 16};
  space.packed = av_scratch(be, AV_SLOT_PACKED, stride * layer->m, sizeof(float));
  space.tile = av_scratch(be, AV_SLOT_TILE, be->threads * (space.tile_size + space.lanes_size),
                          sizeof(float));
  space.lanes = space.tile + be->threads * space.tile_size;
  av_pack_panels(be, layer->m, layer->n, layer->w, space.packed);
  return space;
}

void av_cpu_linear(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot, int64_t n,
                   const av_real *x, int64_t x_stride, const av_real *w, const av_real *bias,
                   av_real *y) {
  const av_kernels *kernels = av_kernels_of(be);
  const dense_layer layer = {.rows = batch->n,
                             .m = m,
                             .n_onehot = n_onehot,
                             .n = n,
                             .x = av_const_floats(x),
                             .x_stride = x_stride,
                             .w = av_const_floats(w),
                             .bias = av_const_floats(bias),
                             .columns = av_columns_from(batch, 0)};
  if (batch->n == 0) {
    return;
  }
  const panel_space space = panel_space_get(be, &layer);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(batch->n, AV_ROW_BLOCK, part, be->threads, &begin, &end);
    forward_rows(kernels, &layer, space.packed, begin, end, space.tile + part * space.tile_size,
                 av_floats(y));
  }
}

static void dx_rows(const av_kernels *kernels, const dense_layer *layer, const float *packed,
                    int64_t begin, int64_t end, float *tile, float *lanes) {
  const int64_t panels = av_panels(layer->n);
  const int64_t stride = panels * AV_PANEL;
  for (int64_t first = begin; first < end; first += AV_ROW_BLOCK) {
    const int64_t rows = end - first < AV_ROW_BLOCK ? end - first : AV_ROW_BLOCK;
    for (int64_t i = 0; i < rows; ++i) {
      memcpy(tile + i * stride, layer->dy + (first + i) * layer->n,
             (size_t)layer->n * sizeof *tile);
      memset(tile + i * stride + layer->n, 0, (size_t)(stride - layer->n) * sizeof *tile);
    }
    kernels->panel_dots(rows, layer->m, panels, tile, stride, packed, false,
                        layer->dx + first * layer->dx_stride, layer->dx_stride, lanes);
  }
}

static void input_grad(av_backend *be, const dense_layer *layer) {
  const av_kernels *kernels = av_kernels_of(be);
  const panel_space space = panel_space_get(be, layer);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(layer->rows, AV_ROW_BLOCK, part, be->threads, &begin, &end);
    dx_rows(kernels, layer, space.packed, begin, end, space.tile + part * space.tile_size,
            space.lanes + part * space.lanes_size);
  }
}

static void weight_grad_blas(const dense_layer *layer, int64_t k_begin, int64_t k_end,
                             int64_t j_begin, int64_t j_end, float *dw) {
  if (layer->rows > 0 && k_begin < k_end && j_begin < j_end) {
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)(k_end - k_begin),
                (blasint)(j_end - j_begin), (blasint)layer->rows, 1.0f, layer->x + k_begin,
                (blasint)layer->x_stride, layer->dy + j_begin, (blasint)layer->n, 1.0f,
                dw + k_begin * layer->n + j_begin, (blasint)layer->n);
  }
}

static void weight_grad(av_backend *be, const dense_layer *layer, float *dw, float *dbias) {
  const av_kernels *kernels = av_kernels_of(be);
  const bool by_input = layer->m > layer->n; /* slice the longer side of dw */
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(by_input ? layer->m : layer->n, 16, part, be->threads, &begin, &end);
    if (by_input) {
      weight_grad_blas(layer, begin, end, 0, layer->n, dw);
    } else {
      weight_grad_blas(layer, 0, layer->m, begin, end, dw);
    }
    av_slice(layer->n, 16, part, be->threads, &begin, &end);
    const int64_t width = end - begin;
    for (int64_t i = 0; i < layer->rows && layer->n_onehot > 0; ++i) {
      av_add_to_places(kernels, &layer->columns, i, width, layer->dy + i * layer->n + begin,
                       dw + layer->m * layer->n + begin, layer->n);
    }
    if (dbias != NULL && width > 0) {
      kernels->sum_rows(layer->rows, layer->dy + begin, layer->n, width, dbias + begin);
    }
  }
}

static void weight_grad_strict(av_backend *be, const dense_layer *layer, double *dw,
                               double *dbias) {
  const int64_t m = layer->m;
  const int64_t n = layer->n;
  float *top = av_scratch(be, AV_SLOT_TOP, m + n, sizeof *top);
  double *magic = av_scratch(be, AV_SLOT_MAGIC, m + 2 * n, sizeof *magic);
  av_strict_tops(be, layer->rows, m, layer->x, layer->x_stride, top);
  av_strict_tops(be, layer->rows, n, layer->dy, n, top + m);
  av_strict_maxima(be, top, m + n);
  const int64_t cells = av_strict_cells(be, layer->rows);
  av_strict_magics(m + n, top, av_strict_product_bits(cells), magic);
  av_strict_magics(n, top + m, av_strict_sum_bits(cells), magic + m + n);
  av_strict_outer(be, layer->rows, m, n, layer->x, layer->x_stride, layer->dy, n, magic, magic + m,
                  dw);
  if (layer->n_onehot > 0) {
    av_strict_add_columns(be, layer->rows, n, layer->dy, n, magic + m + n, &layer->columns,
                          dw + m * n);
  }
  if (dbias != NULL) {
    av_strict_add_columns(be, layer->rows, n, layer->dy, n, magic + m + n, NULL, dbias);
  }
}

void av_cpu_linear_grad(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot,
                        int64_t n, const av_real *x, int64_t x_stride, const av_real *w,
                        const av_real *dy, av_real *dx, int64_t dx_stride, av_grad *dw,
                        av_grad *dbias) {
  const dense_layer layer = {.rows = batch->n,
                             .m = m,
                             .n_onehot = n_onehot,
                             .n = n,
                             .x = av_const_floats(x),
                             .x_stride = x_stride,
                             .w = av_const_floats(w),
                             .dy = av_const_floats(dy),
                             .dx = av_floats(dx),
                             .dx_stride = dx_stride,
                             .columns = av_columns_from(batch, 0)};
  if (be->strict) {
    weight_grad_strict(be, &layer, av_doubles(dw), av_doubles(dbias));
  } else {
    weight_grad(be, &layer, av_floats(dw), av_floats(dbias));
  }
  if (dx != NULL && batch->n > 0) {
    input_grad(be, &layer);
  }
}
