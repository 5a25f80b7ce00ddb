/* The optimiser over a flat range of parameters: kernels/adam.cu. */
#include "kernels/adam.h"

#include "state.h"

#include <math.h>

void av_gpu_adam_rates(const av_adam *adam, av_gpu_step *step) {
  step->adam_rate = (float)(adam->lr / (1.0 - pow(adam->beta1, (double)adam->step)));
  step->adam_root = (float)(1.0 / sqrt(1.0 - pow(adam->beta2, (double)adam->step)));
  step->adam_scale = (float)adam->scale;
  step->adam_decay = adam->decoupled ? (float)(adam->lr * adam->weight_decay) : 0.0F;
}

void av_gpu_adam(av_backend *be, const av_adam *adam, int64_t n, av_real *params, av_grad *grads,
                 av_real *m, av_real *v) {
  const cudaStream_t stream = av_gpu_of(be)->stream;
  const av_gpu_adam_plan plan = {.n = n,
                                 .params = floats(params),
                                 .grads = floats(grads),
                                 .m = floats(m),
                                 .v = floats(v),
                                 .beta1 = (float)adam->beta1,
                                 .rest1 = (float)(1.0 - adam->beta1),
                                 .beta2 = (float)adam->beta2,
                                 .rest2 = (float)(1.0 - adam->beta2),
                                 .eps = (float)adam->eps,
                                 .weight_decay = adam->decoupled ? 0.0F : (float)adam->weight_decay,
                                 .clip = adam->clip};
  av_gpu_adam_rates(adam, &av_gpu_of(be)->step);
  const av_gpu_step *step = av_gpu_send_step(be);
  double *factor = NULL;
  if (adam->clip > 0.0) {
    factor = (double *)av_gpu_work(be, (size_t)av_gpu_adam_scratch(n) * sizeof *factor);
    AV_GPU_RUN(be, av_gpu_adam_factor(stream, &plan, step, factor));
  }
  AV_GPU_RUN(be, av_gpu_adam_update(stream, &plan, step, factor));
}
