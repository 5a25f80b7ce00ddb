/* q(z) and q(l): draws, KL terms, gradients (model.md sections 1 and 3): kernels/latent.cu; means
 * of softmaxed draws: kernels/simplex.cu. */
#include "backend/gpu_memory.h"
#include "kernels/latent.h"
#include "kernels/simplex.h"

#include "state.h"

static av_gpu_latent_plan plan_of(const av_batch *batch, const av_latent *latent,
                                  const av_real *z_head, const av_real *l_head,
                                  const av_sum *prior) {
  return (av_gpu_latent_plan){.rows = batch->view,
                              .n_latent = (int)latent->n_latent,
                              .stride = (int)latent->stride,
                              .simplex = latent->simplex,
                              .latent_library = latent->latent_library,
                              .sample = latent->sample,
                              .seed = latent->draw.seed,
                              .purpose = latent->draw.purpose,
                              .z_head = const_floats(z_head),
                              .l_head = const_floats(l_head),
                              .prior = const_doubles(prior)};
}

static const av_gpu_step *send_draw(av_backend *be, const av_latent *latent) {
  av_gpu_step *step = &av_gpu_of(be)->step;
  step->epoch = latent->draw.epoch;
  step->kl_weight = (float)latent->kl_weight;
  return av_gpu_send_step(be);
}

void av_gpu_latent_draw(av_backend *be, const av_batch *batch, const av_latent *latent,
                        const av_real *z_head, const av_real *l_head, const av_sum *prior,
                        av_real *z, av_real *l, av_sum *losses) {
  const av_gpu_latent_plan plan = plan_of(batch, latent, z_head, l_head, prior);
  const av_gpu_step *step = send_draw(be, latent);
  const size_t room = (size_t)av_gpu_latent_scratch(&plan) * sizeof(double);
  double *scratch = (double *)av_gpu_work(be, room);
  AV_GPU_RUN(be, av_gpu_latent_draws(av_gpu_of(be)->stream, &plan, step, floats(z), floats(l),
                                     doubles(losses), scratch));
}

void av_gpu_latent_grad(av_backend *be, const av_batch *batch, const av_latent *latent,
                        const av_real *z_head, const av_real *l_head, const av_sum *prior,
                        const av_real *z, const av_real *dz, const av_real *dl, av_real *dz_head,
                        av_real *dl_head) {
  const av_gpu_latent_plan plan = plan_of(batch, latent, z_head, l_head, prior);
  const av_gpu_step *step = send_draw(be, latent);
  AV_GPU_RUN(
      be, av_gpu_latent_grads(av_gpu_of(be)->stream, &plan, step, const_floats(z), const_floats(dz),
                              const_floats(dl), floats(dz_head), floats(dl_head)));
}

void av_gpu_simplex_means(av_backend *be, const av_batch *batch, int64_t n_latent, uint64_t seed,
                          int64_t n_samples, const av_real *z_head, av_sum *codes) {
  const av_gpu_simplex_plan plan = {.rows = batch->view,
                                    .n_latent = (int)n_latent,
                                    .n_samples = n_samples,
                                    .seed = seed,
                                    .most_sums = AV_GPU_SIMPLEX_SCRATCH / (int64_t)sizeof(double),
                                    .z_head = const_floats(z_head)};
  const size_t room = (size_t)av_gpu_simplex_scratch(&plan) * sizeof(double);
  double *scratch = (double *)av_gpu_work(be, room);
  AV_GPU_RUN(be, av_gpu_simplex_codes(av_gpu_of(be)->stream, &plan, doubles(codes), scratch));
}
