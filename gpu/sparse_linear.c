/* First layer: forward, and the weights' gradient, for which the host decides how genes, columns
 * and cells are cut. All follows from sizes that do not change in a run. */
#include "state.h"

#include "backend/gpu_memory.h"
#include "kernels/sparse_linear.h"

enum {
  FULL = 528,       /* blocks that the device holds at a time: 4 on each of 132 multiprocessors */
  ENOUGH = 396,     /* that keep it busy */
  SLAB_CELLS = 256, /* fewer are not worth sums of their own */
  ALIGNMENT = 256   /* bytes */
};

static int64_t parts(int64_t n, int64_t size) { return (n + size - 1) / size; }
static int64_t at_least(int64_t n, int64_t least) { return n > least ? n : least; }
static int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

void av_gpu_sparse_linear(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                          int64_t n, const av_real *w, const av_real *bias, av_real *y) {
  const av_gpu *gpu = av_gpu_of(be);
  const av_gpu_rows *rows = &batch->view;
  const av_gpu_sparse_layer layer = {.take_log = log1p,
                                     .covariates = covariates,
                                     .n = (int)n,
                                     .w = const_floats(w),
                                     .bias = const_floats(bias),
                                     .y = floats(y)};
  const av_gpu_sparse_slices slices = av_gpu_sparse_slices_of(
      rows->max_rows, rows->data.n_genes, n, gpu->shared_most, gpu->multiprocessors);
  if (slices.columns > 0 && av_gpu_sparse_whole(&layer)) {
    AV_GPU_RUN(be, av_gpu_sparse_forward_sliced(gpu->stream, rows, &layer, &slices));
  } else {
    AV_GPU_RUN(be, av_gpu_sparse_forward(gpu->stream, rows, &layer));
  }
}

/* Cuts rows of w into chunks of `genes_a_warp`; returns their number. */
static int64_t cut_genes(av_gpu_sparse_grad *grad, int genes_a_warp) {
  const int64_t chunk = (int64_t)genes_a_warp * AV_SPARSE_WARPS;
  grad->genes_a_warp = genes_a_warp;
  grad->chunks = parts(grad->n_genes, chunk);
  grad->extra_chunks = parts(grad->extras, chunk);
  return grad->chunks + grad->extra_chunks;
}

/* Large chunks read dy less often; small chunks, and slabs of cells, make more blocks. */
static void cut(av_gpu_sparse_grad *grad, int64_t max_rows) {
  const int64_t columns = parts(grad->n, AV_SPARSE_COLUMNS);
  const int64_t sums = (grad->n_genes + grad->extras) * grad->n * (int64_t)sizeof(float);
  const int64_t slabs = at_least(at_most(max_rows / SLAB_CELLS, AV_GPU_SPARSE_SCRATCH / sums), 1);
  int genes_a_warp = 8;
  int64_t blocks = cut_genes(grad, genes_a_warp) * columns;
  while (genes_a_warp > 2 && blocks * slabs < ENOUGH) {
    genes_a_warp /= 2;
    blocks = cut_genes(grad, genes_a_warp) * columns;
  }
  const int64_t bounds = (grad->chunks + 1) * (int64_t)sizeof *grad->bounds;
  grad->pass_rows = at_least(at_most(max_rows, AV_GPU_SPARSE_SCRATCH / bounds), AV_SPARSE_TILE);
  const int64_t slab = parts(grad->pass_rows, at_most(slabs, parts(FULL, blocks)));
  grad->slab_rows = parts(slab, AV_SPARSE_TILE) * AV_SPARSE_TILE;
  grad->slabs = parts(grad->pass_rows, grad->slab_rows);
}

static int64_t aligned(int64_t bytes) { return parts(bytes, ALIGNMENT) * ALIGNMENT; }

/* Scratch for a gradient that has been cut. */
static void take_scratch(av_backend *be, av_gpu_sparse_grad *grad) {
  const int64_t row = (grad->n_genes + grad->extras) * grad->n;
  const int64_t start = aligned(grad->pass_rows * (int64_t)sizeof *grad->start);
  const int64_t bounds =
      aligned(grad->pass_rows * (grad->chunks + 1) * (int64_t)sizeof *grad->bounds);
  const int64_t partial = grad->slabs > 1 ? grad->slabs * row * (int64_t)sizeof *grad->partial : 0;
  char *work = av_gpu_work(be, (size_t)(start + bounds + partial));
  grad->start = (int64_t *)(void *)work;
  grad->bounds = (uint32_t *)(void *)(work + start);
  grad->partial = (float *)(void *)(work + start + bounds);
}

void av_gpu_sparse_linear_grad(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                               int64_t n, const av_real *dy, av_grad *dw, av_grad *dbias) {
  const av_gpu_data *data = &batch->view.data;
  av_gpu_sparse_grad grad = {.take_log = log1p,
                             .covariates = covariates,
                             .n = (int)n,
                             .n_genes = data->n_genes,
                             .extras = 1 + (covariates ? data->n_continuous + data->n_onehot : 0),
                             .dy = const_floats(dy),
                             .dw = floats(dw),
                             .dbias = floats(dbias)};
  cut(&grad, batch->view.max_rows);
  take_scratch(be, &grad);
  AV_GPU_RUN(be, av_gpu_sparse_backward(av_gpu_of(be)->stream, &batch->view, &grad));
}

bool av_gpu_sparse_linear_step(av_backend *be, const av_batch *batch, bool log1p, bool covariates,
                               int64_t n, const av_real *dy, const av_adam *adam, av_real *w,
                               av_real *m, av_real *v, av_grad *dw, av_grad *dbias) {
  (void)be, (void)batch, (void)log1p, (void)covariates, (void)n, (void)dy, (void)adam;
  (void)w, (void)m, (void)v, (void)dw, (void)dbias;
  return false; /* the optimiser takes all parameters in one launch */
}
