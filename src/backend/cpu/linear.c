/* Dense layers: kernels/layer.c. Threads share the rows forward and for dx; a row's result does not
 * depend on its neighbours. Weight gradients: threads share the longer side of dw; in order-free
 * mode exact products (strict.h). dx and dw are made in one parallel region: entering one takes 1.1
 * us, a barrier inside 0.4 us (two threads), the products of a head of 20 units 3 us. */
#include "backend/cpu/state.h"
#include "backend/cpu/strict.h"

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

/* A matrix to be packed into panels for all threads: element (k, j), depth k, is
 * w[k * depth_stride + j * stride]. */
typedef struct packing {
  int64_t depth, n;
  const float *w;
  int64_t depth_stride, stride;
  bool alone;    /* each thread packs for itself: quicker than to wait for the others */
  float *packed; /* one panel array, or one for each thread */
} packing;

static int64_t packed_size(const packing *p) { return av_panels(p->n) * AV_PANEL * p->depth; }

static packing packing_of(av_backend *be, int64_t depth, int64_t n, const float *w,
                          int64_t depth_stride, int64_t stride) {
  enum { ALONE = 4096 };
  packing p = {.depth = depth,
               .n = n,
               .w = w,
               .depth_stride = depth_stride,
               .stride = stride,
               .alone = depth * n <= ALONE};
  p.packed = av_scratch(be, AV_SLOT_PACKED, packed_size(&p) * (p.alone ? be->threads : 1),
                        sizeof *p.packed);
  return p;
}

/* Inside a parallel region, by all its threads. */
static void pack_together(const av_backend *be, const packing *p) {
  if (p->alone) {
    return;
  }
  const av_kernels *kernels = av_kernels_of(be);
#pragma omp for schedule(static)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(p->depth, 1, part, be->threads, &begin, &end);
    kernels->layer_pack(p->depth, p->n, begin, end, p->w, p->depth_stride, p->stride, p->packed);
  }
}

/* The panels for part `part`. */
static const float *panels_for(const av_backend *be, const packing *p, int part) {
  if (!p->alone) {
    return p->packed;
  }
  float *own = p->packed + part * packed_size(p);
  av_kernels_of(be)->layer_pack(p->depth, p->n, 0, p->depth, p->w, p->depth_stride, p->stride, own);
  return own;
}

/* Threads worth waking for that many multiplications. */
static int threads_for(const av_backend *be, int64_t products) {
  enum { ALONE = 16384 };
  return products < ALONE ? 1 : be->threads;
}

static void forward_rows(const av_kernels *kernels, const dense_layer *layer, const float *packed,
                         int64_t begin, int64_t end, float *y) {
  const int64_t n = layer->n;
  kernels->layer_product(end - begin, layer->m, layer->x + begin * layer->x_stride, layer->x_stride,
                         n, packed, layer->bias, y + begin * n, n);
  for (int64_t i = begin; i < end && layer->n_onehot > 0; ++i) {
    av_add_places(kernels, &layer->columns, i, n, layer->w + layer->m * n, n, y + i * n);
  }
}

void av_cpu_linear(av_backend *be, const av_batch *batch, int64_t m, int64_t n_onehot, int64_t n,
                   const av_real *x, int64_t x_stride, const av_real *w, const av_real *bias,
                   av_real *y) {
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
  const packing p = packing_of(be, m, n, layer.w, n, 1);
#pragma omp parallel num_threads(threads_for(be, batch->n *m *n))
  {
    pack_together(be, &p);
#pragma omp for schedule(static)
    for (int part = 0; part < be->threads; ++part) {
      int64_t begin = 0;
      int64_t end = 0;
      av_slice(batch->n, AV_ROW_BLOCK, part, be->threads, &begin, &end);
      forward_rows(av_kernels_of(be), &layer, panels_for(be, &p, part), begin, end, av_floats(y));
    }
  }
}

/* Part `part` of dx = dy w^T. */
static void input_grad(const av_backend *be, const dense_layer *layer, const packing *p, int part) {
  int64_t begin = 0;
  int64_t end = 0;
  av_slice(layer->rows, AV_ROW_BLOCK, part, be->threads, &begin, &end);
  av_kernels_of(be)->layer_product(end - begin, layer->n, layer->dy + begin * layer->n, layer->n,
                                   layer->m, panels_for(be, p, part), NULL,
                                   layer->dx + begin * layer->dx_stride, layer->dx_stride);
}

/* Part `part` of dw and dbias. */
static void weight_grad(const av_backend *be, const dense_layer *layer, int part, float *dw,
                        float *dbias) {
  const av_kernels *kernels = av_kernels_of(be);
  const bool by_input = layer->m > layer->n; /* slice the longer side of dw */
  const int64_t n = layer->n;
  int64_t begin = 0;
  int64_t end = 0;
  av_slice(by_input ? layer->m : n, 16, part, be->threads, &begin, &end);
  if (by_input) {
    kernels->layer_outer(layer->rows, end - begin, layer->x + begin, layer->x_stride, n, layer->dy,
                         n, dw + begin * n, n);
  } else {
    kernels->layer_outer(layer->rows, layer->m, layer->x, layer->x_stride, end - begin,
                         layer->dy + begin, n, dw + begin, n);
  }
  av_slice(n, 16, part, be->threads, &begin, &end);
  const int64_t width = end - begin;
  for (int64_t i = 0; i < layer->rows && layer->n_onehot > 0; ++i) {
    av_add_to_places(kernels, &layer->columns, i, width, layer->dy + i * n + begin,
                     dw + layer->m * n + begin, n);
  }
  if (dbias != NULL && width > 0) {
    kernels->sum_rows(layer->rows, layer->dy + begin, n, width, dbias + begin);
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
  }
  if (batch->n == 0 || (be->strict && dx == NULL)) {
    return;
  }
  const packing p = packing_of(be, n, m, layer.w, 1, n);
#pragma omp parallel num_threads(threads_for(be, batch->n *m *n))
  {
    if (dx != NULL) {
      pack_together(be, &p);
    }
#pragma omp for schedule(static)
    for (int part = 0; part < be->threads; ++part) {
      if (dx != NULL) {
        input_grad(be, &layer, &p, part);
      }
      if (!be->strict) {
        weight_grad(be, &layer, part, av_floats(dw), av_floats(dbias));
      }
    }
  }
}
