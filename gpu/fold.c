/* The linear decoder's BatchNorm folded into its weights (model.md section 5). */
#include "kernels/fold.h"

#include "state.h"

_Static_assert((int)AV_GPU_FOLD_FACTORS == (int)AV_CUDA_FOLD_FACTORS, "one limit");

/* first, and where the pairs of each factor begin: those of f and every later one lie together. */
static av_gpu_fold_shape shape_of(const av_backend *be, const av_design *design, int64_t n_genes,
                                  int64_t n_in, int64_t n_onehot) {
  const int64_t factors = n_onehot > 0 ? design->n_factors : 0;
  av_gpu_fold_shape made = {.n_genes = n_genes, .n_in = (int)n_in, .n_onehot = (int)n_onehot};
  if (factors > AV_GPU_FOLD_FACTORS) { /* av_vae_possible has refused them */
    av_gpu_must(be, AV_FAIL_BUG("a fold over %lld factors", (long long)factors));
    return made;
  }
  made.n_factors = (int)factors;
  for (int64_t f = 0; f < factors; ++f) {
    const int64_t next = design->first[f + 1];
    made.first[f + 1] = (int32_t)next;
    made.pairs[f + 1] = made.pairs[f] + (next - design->first[f]) * (n_onehot - next);
  }
  return made;
}

static av_gpu_fold_shape shape_of_fold(const av_backend *be, const av_fold *fold) {
  return shape_of(be, fold->design, fold->n_genes, fold->n_in, fold->n_onehot);
}

static av_gpu_fold_arrays arrays_of(const av_fold *fold) {
  return (av_gpu_fold_arrays){.w = const_floats(fold->w),
                              .bias = const_floats(fold->bias),
                              .gamma = const_floats(fold->gamma),
                              .beta = const_floats(fold->beta),
                              .running = floats(fold->running),
                              .a = floats(fold->a),
                              .c = floats(fold->c),
                              .inv_sigma = floats(fold->inv_sigma)};
}

/* Only `weight` unless wide. */
static av_gpu_fold_work take_work(av_backend *be, const av_gpu_fold_shape *shape) {
  const size_t genes = (size_t)shape->n_genes;
  const size_t width = (size_t)(shape->n_in + shape->n_onehot);
  const size_t factors = (size_t)shape->n_factors;
  const bool wide = av_gpu_fold_is_wide(shape);
  const size_t n_doubles = genes + (wide ? width * (size_t)(shape->n_in + 1) : 0);
  const size_t n_ints = wide ? width + factors + 2 : 0;
  double *space = av_gpu_work(be, n_doubles * sizeof(double) + n_ints * sizeof(int32_t));
  if (!wide) {
    return (av_gpu_fold_work){.weight = space};
  }
  int32_t *ints = (int32_t *)(space + n_doubles);
  return (av_gpu_fold_work){.weight = space,
                            .mean = space + genes,
                            .cross = space + genes + width,
                            .width = ints,
                            .code = ints + 1,
                            .range = ints + 1 + width};
}

static const av_gpu_step *send_cells(av_backend *be, const av_fold *fold) {
  av_gpu_of(be)->step.n_cells = fold->n_cells;
  return av_gpu_send_step(be);
}

void av_gpu_fold_sums(av_backend *be, const av_batch *batch, int64_t n_in, int64_t n_onehot,
                      const av_real *x, av_sum *stats) {
  const av_gpu_rows *rows = &batch->view;
  const av_gpu_fold_shape shape =
      shape_of(be, &batch->data->dataset->design, rows->data.n_genes, n_in, n_onehot);
  int32_t *list = NULL;
  if (av_gpu_fold_needs_list(&shape)) {
    list = av_gpu_work(be, (size_t)(shape.n_factors * rows->max_rows) * sizeof *list);
  }
  AV_GPU_RUN(be, av_gpu_run_fold_sums(av_gpu_of(be)->stream, rows, &shape, list, const_floats(x),
                                      doubles(stats)));
}

void av_gpu_fold(av_backend *be, const av_fold *fold, const av_sum *stats) {
  const av_gpu_fold_shape shape = shape_of_fold(be, fold);
  const av_gpu_fold_arrays arrays = arrays_of(fold);
  const av_gpu_step *step = fold->training ? send_cells(be, fold) : NULL;
  av_gpu_fold_work work = {0};
  if (step != NULL && av_gpu_fold_is_wide(&shape)) {
    work = take_work(be, &shape);
  }
  AV_GPU_RUN(be, av_gpu_run_fold(av_gpu_of(be)->stream, &shape, &arrays, const_doubles(stats), step,
                                 &work));
}

void av_gpu_fold_grad(av_backend *be, const av_fold *fold, const av_sum *stats, const av_grad *p,
                      const av_grad *s, av_grad *dw, av_grad *dgamma, av_grad *dbeta,
                      av_sum *back) {
  const av_gpu_fold_shape shape = shape_of_fold(be, fold);
  const av_gpu_fold_arrays arrays = arrays_of(fold);
  const av_gpu_step *step = send_cells(be, fold);
  const av_gpu_fold_work work = take_work(be, &shape);
  AV_GPU_RUN(be, av_gpu_run_fold_grad(av_gpu_of(be)->stream, &shape, &arrays, const_doubles(stats),
                                      step, &work, const_floats(p), const_floats(s), floats(dw),
                                      floats(dgamma), floats(dbeta), doubles(back)));
}

void av_gpu_fold_correct(av_backend *be, const av_batch *batch, const av_fold *fold,
                         const av_sum *stats, const av_sum *back, const av_real *x, av_real *dx) {
  const av_gpu_fold_shape shape = shape_of_fold(be, fold);
  const av_gpu_step *step = send_cells(be, fold);
  double *common = NULL;
  if (av_gpu_fold_terms(&shape) > AV_GPU_FOLD_COMMON) {
    common = av_gpu_work(be, (size_t)shape.n_in * sizeof *common);
  }
  AV_GPU_RUN(
      be, av_gpu_run_fold_correct(av_gpu_of(be)->stream, &batch->view, &shape, const_doubles(stats),
                                  const_doubles(back), step, common, const_floats(x), floats(dx)));
}
