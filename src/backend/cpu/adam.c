/* The optimiser over a flat range of parameters: threads take contiguous pieces. */
#include "backend/cpu/state.h"

#include <math.h>

/* Squares are summed within pieces of this many gradients, and the pieces' sums in order: the
 * length does not depend on threads. */
enum { PIECE = 4096 };

/* What the gradients are multiplied by: adam->scale, and less if they are longer than adam->clip.
 */
static double gradient_scale(av_backend *be, const av_adam *adam, int64_t n, const void *grads) {
  if (!(adam->clip > 0.0)) {
    return adam->scale;
  }
  const av_kernels *kernels = av_kernels_of(be);
  const int64_t pieces = (n + PIECE - 1) / PIECE;
  double *sums = av_scratch(be, AV_SLOT_LOSS, pieces, sizeof *sums);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t b = 0; b < pieces; ++b) {
    const int64_t first = b * PIECE;
    const int64_t length = n - first < PIECE ? n - first : PIECE;
    sums[b] = be->strict ? kernels->squares_double(length, av_const_doubles(grads) + first)
                         : kernels->squares_float(length, av_const_floats(grads) + first);
  }
  double sum = 0.0;
  for (int64_t b = 0; b < pieces; ++b) {
    sum += sums[b];
  }
  const double factor = adam->clip / (adam->scale * sqrt(sum) + 1e-6);
  return factor > 1.0 ? adam->scale : adam->scale * factor; /* a NaN stays */
}

av_adam_step av_cpu_adam_step(const av_adam *adam, double scale) {
  const double correction1 = 1.0 - pow(adam->beta1, (double)adam->step);
  const double correction2 = 1.0 - pow(adam->beta2, (double)adam->step);
  const double decay = adam->weight_decay;
  return (av_adam_step){.scale = (float)scale,
                        .weight_decay = adam->decoupled ? 0.0f : (float)decay,
                        .shrink = adam->decoupled ? (float)(adam->lr * decay) : 0.0f,
                        .beta1 = (float)adam->beta1,
                        .rest1 = (float)(1.0 - adam->beta1),
                        .beta2 = (float)adam->beta2,
                        .rest2 = (float)(1.0 - adam->beta2),
                        .rate = (float)(adam->lr / correction1),
                        .inv_root = (float)(1.0 / sqrt(correction2)),
                        .eps = (float)adam->eps};
}

void av_cpu_adam(av_backend *be, const av_adam *adam, int64_t n, av_real *params, av_grad *grads,
                 av_real *m, av_real *v) {
  const av_kernels *kernels = av_kernels_of(be);
  const av_adam_step step = av_cpu_adam_step(adam, gradient_scale(be, adam, n, grads));
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
