/* BatchNorm over the global minibatch, LayerNorm, ReLU and dropout. */
#include "kernels/norm.h"

#include "backend/draws.h"
#include "state.h"

static bool drops(const av_norm *norm) { return norm->training && norm->dropout > 0.0; }

static av_gpu_norm constants_of(const av_norm *norm) {
  return (av_gpu_norm){
      .n = norm->n,
      .blocks = norm->blocks,
      .training = norm->training,
      .batch_norm = norm->batch_norm,
      .relu = norm->relu,
      .drop_below = drops(norm) ? av_dropout_threshold(norm->dropout) : 0,
      .kept = drops(norm) ? (float)av_dropout_scale(norm->dropout) : 1.0f,
      .layer = norm->layer,
      .seed = norm->draw.seed,
  };
}

/* On the way back moments are those of the minibatch. */
static av_gpu_norm constants_of_back(const av_norm *norm) {
  av_gpu_norm made = constants_of(norm);
  made.training = true;
  return made;
}

/* The step as an operation needs it: what it does not read is left alone. */
static const av_gpu_step *send(av_backend *be, const av_norm *norm, bool moments, bool draws) {
  av_gpu *gpu = av_gpu_of(be);
  if (moments) {
    gpu->step.n_cells = norm->n_cells;
  }
  if (draws) {
    gpu->step.epoch = norm->draw.epoch;
  }
  return av_gpu_send_step(be);
}

static double *partial_for(av_backend *be, const av_batch *batch, int64_t n) {
  const size_t bytes = av_gpu_norm_partial_bytes(batch->view.max_rows, n);
  return bytes == 0 ? NULL : av_gpu_work(be, bytes);
}

static float *columns_for(av_backend *be, const av_norm *norm) {
  return norm->batch_norm ? av_gpu_work(be, av_gpu_norm_columns_bytes(norm->n)) : NULL;
}

void av_gpu_moments(av_backend *be, const av_batch *batch, int64_t n, const av_real *x,
                    av_sum *moments) {
  double *partial = partial_for(be, batch, n);
  AV_GPU_RUN(be, av_gpu_norm_moments(av_gpu_of(be)->stream, &batch->view, n, const_floats(x),
                                     partial, doubles(moments)));
}

void av_gpu_norm_act(av_backend *be, const av_batch *batch, const av_norm *norm, const av_real *x,
                     const av_sum *moments, const av_real *gamma, const av_real *beta,
                     av_real *running, av_real *y) {
  const cudaStream_t stream = av_gpu_of(be)->stream;
  const av_gpu_norm constants = constants_of(norm);
  const av_gpu_step *step =
      send(be, norm, norm->batch_norm && norm->training, constants.drop_below > 0);
  const av_gpu_norm_arrays arrays = {.x = const_floats(x),
                                     .moments = const_doubles(moments),
                                     .gamma = const_floats(gamma),
                                     .beta = const_floats(beta)};
  if (norm->layer_norm) {
    float *columns = columns_for(be, norm);
    AV_GPU_RUN(be, av_gpu_norm_layers(stream, &batch->view, &constants, step, &arrays,
                                      floats(running), columns, floats(y)));
  } else {
    AV_GPU_RUN(be, av_gpu_norm_elements(stream, &batch->view, &constants, step, &arrays,
                                        floats(running), floats(y)));
  }
}

void av_gpu_layer_norm_grad(av_backend *be, const av_batch *batch, const av_norm *norm,
                            const av_real *x, const av_sum *moments, const av_real *gamma,
                            const av_real *beta, const av_real *y, av_real *d) {
  const av_gpu_norm constants = constants_of_back(norm);
  const av_gpu_step *step = send(be, norm, norm->batch_norm, false);
  const av_gpu_norm_arrays arrays = {.x = const_floats(x),
                                     .moments = const_doubles(moments),
                                     .gamma = const_floats(gamma),
                                     .beta = const_floats(beta),
                                     .y = const_floats(y)};
  float *columns = columns_for(be, norm);
  AV_GPU_RUN(be, av_gpu_norm_layers_grad(av_gpu_of(be)->stream, &batch->view, &constants, step,
                                         &arrays, columns, floats(d)));
}

void av_gpu_norm_act_sums(av_backend *be, const av_batch *batch, const av_norm *norm,
                          const av_real *x, const av_sum *moments, const av_real *gamma,
                          const av_real *y, const av_real *dy, av_sum *back, av_grad *dgamma,
                          av_grad *dbeta) {
  (void)gamma;
  const av_gpu_norm constants = constants_of_back(norm);
  const av_gpu_step *step = send(be, norm, true, false);
  const av_gpu_norm_arrays arrays = {.x = const_floats(x),
                                     .moments = const_doubles(moments),
                                     .y = const_floats(y),
                                     .dy = const_floats(dy)};
  double *partial = partial_for(be, batch, norm->n);
  AV_GPU_RUN(be, av_gpu_norm_sums(av_gpu_of(be)->stream, &batch->view, &constants, step, &arrays,
                                  partial, doubles(back), floats(dgamma), floats(dbeta)));
}

void av_gpu_norm_act_grad(av_backend *be, const av_batch *batch, const av_norm *norm,
                          const av_real *x, const av_sum *moments, const av_real *gamma,
                          const av_real *y, const av_real *dy, const av_sum *back, av_real *dx) {
  if (!norm->batch_norm && !norm->relu && !drops(norm) && dx == dy) {
    return; /* LayerNorm's gradient, with nothing before it */
  }
  const av_gpu_norm constants = constants_of_back(norm);
  const av_gpu_step *step = send(be, norm, norm->batch_norm, false);
  const av_gpu_norm_arrays arrays = {.x = const_floats(x),
                                     .moments = const_doubles(moments),
                                     .gamma = const_floats(gamma),
                                     .y = const_floats(y),
                                     .dy = const_floats(dy)};
  AV_GPU_RUN(be, av_gpu_norm_grad(av_gpu_of(be)->stream, &batch->view, &constants, step, &arrays,
                                  const_doubles(back), floats(dx)));
}
