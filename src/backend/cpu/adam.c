/* The optimiser over a flat range of parameters: threads take contiguous pieces. */
#include "backend/cpu/state.h"

#include <math.h>

void av_cpu_adam(av_backend *be, const av_adam *adam, int64_t n, av_real *params, av_grad *grads,
                 av_real *m, av_real *v) {
  const av_kernels *kernels = av_kernels_of(be);
  const double correction1 = 1.0 - pow(adam->beta1, (double)adam->step);
  const double correction2 = 1.0 - pow(adam->beta2, (double)adam->step);
  const av_adam_step step = {.scale = (float)adam->scale,
                             .weight_decay = (float)adam->weight_decay,
                             .beta1 = (float)adam->beta1,
                             .rest1 = (float)(1.0 - adam->beta1),
                             .beta2 = (float)adam->beta2,
                             .rest2 = (float)(1.0 - adam->beta2),
                             .rate = (float)(adam->lr / correction1),
                             .inv_root = (float)(1.0 / sqrt(correction2)),
                             .eps = (float)adam->eps};
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int part = 0; part < be->threads; ++part) {
    int64_t begin = 0;
    int64_t end = 0;
    av_slice(n, 16, part, be->threads, &begin, &end);
    float *p = av_floats(params) + begin;
    float *m1 = av_floats(m) + begin;
    float *m2 = av_floats(v) + begin;
    if (be->strict) {
      kernels->adam_double(&step, end - begin, p, av_doubles(grads) + begin, m1, m2);
    } else {
      kernels->adam_float(&step, end - begin, p, av_floats(grads) + begin, m1, m2);
    }
  }
}
