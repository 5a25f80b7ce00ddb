/* Dense layers. Small ones: kernels/linear.cu, in one launch. Large ones: cuBLAS for the products,
 * over all max_rows rows, of which those beyond B are 0, and those kernels for bias and one-hot
 * columns, before or after it. */
#include "kernels/linear.h"

#include "gemm.h"
#include "state.h"

/* Whether cuBLAS is worth the launches that it adds: its tiles of 64 or 128 rows and columns need a
 * matrix that is wide both ways, and as many products as 1,024 cells have in 128 x 128. */
static bool is_large(const av_batch *batch, int64_t m, int64_t n) {
  enum { NARROW_IN = 16, NARROW_OUT = 32, PRODUCTS = 1 << 24 };
  return m > NARROW_IN && n > NARROW_OUT && batch->view.max_rows * m * n > PRODUCTS;
}

static av_gpu_dense layer_of(const av_batch *batch, int64_t m, int64_t n_onehot, int64_t n,
                             const av_real *x, int64_t x_stride, const av_real *w) {
  return (av_gpu_dense){.rows = batch->view,
                        .m = (int)m,
                        .n_onehot = (int)n_onehot,
                        .n = (int)n,
                        .products = !is_large(batch, m, n),
                        .x = const_floats(x),
                        .x_stride = x_stride,
                        .w = const_floats(w)};
}

void av_gpu_linear(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot, int64_t n,
                   const av_real *x, int64_t x_stride, const av_real *w, const av_real *bias,
                   av_real *y) {
  av_gpu_dense layer = layer_of(batch, m, n_onehot, n, x, x_stride, w);
  const bool starts = bias != NULL || n_onehot > 0; /* y is not the product alone */
  layer.bias = const_floats(bias);
  layer.y = floats(y);
  if (layer.products || starts) {
    AV_GPU_RUN(be, av_gpu_dense_forward(av_gpu_of(be)->stream, &layer));
  }
  if (!layer.products) {
    av_gpu_gemm(be, be->precision, batch->view.max_rows, n, m,
                (av_gpu_factor){.at = layer.x, .stride = x_stride},
                (av_gpu_factor){.at = layer.w, .stride = n}, starts ? 1.0F : 0.0F, layer.y, n);
  }
}

/* dx and x's part of dw. */
static void large_grads(av_backend *be, const av_gpu_dense *layer) {
  const int64_t rows = layer->rows.max_rows;
  const av_gpu_factor dy = {.at = layer->dy, .stride = layer->n};
  if (layer->dx != NULL) {
    av_gpu_gemm(be, be->precision, rows, layer->m, layer->n, dy,
                (av_gpu_factor){.at = layer->w, .stride = layer->n, .transposed = true}, 0.0F,
                layer->dx, layer->dx_stride);
  }
  av_gpu_gemm(be, be->precision, layer->m, layer->n, rows,
              (av_gpu_factor){.at = layer->x, .stride = layer->x_stride, .transposed = true}, dy,
              1.0F, layer->dw, layer->n);
}

void av_gpu_linear_grad(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot,
                        int64_t n, const av_real *x, int64_t x_stride, const av_real *w,
                        const av_real *dy, av_real *dx, int64_t dx_stride, av_grad *dw,
                        av_grad *dbias) {
  av_gpu_dense layer = layer_of(batch, m, n_onehot, n, x, x_stride, w);
  layer.dy = const_floats(dy);
  layer.dx = floats(dx);
  layer.dx_stride = dx_stride;
  layer.dw = floats(dw);
  layer.dbias = floats(dbias);
  float *scratch = (float *)av_gpu_work(be, (size_t)av_gpu_dense_scratch(&layer) * sizeof *scratch);
  AV_GPU_RUN(be, av_gpu_dense_backward(av_gpu_of(be)->stream, &layer, scratch));
  if (!layer.products) {
    large_grads(be, &layer);
  }
}
