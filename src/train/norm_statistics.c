#include "train/norm_statistics.h"

#include "math/rng.h"
#include "train/sampler.h"
#include "train/schedule.h"

/* The largest minibatch that leaves no cell out: not one or two for the last. */
static int64_t whole_batches(int64_t n_cells, int64_t largest) {
  int64_t size = largest;
  while (size > 3 && n_cells % size > 0 && n_cells % size < 3) {
    --size;
  }
  return size;
}

static void all_minibatches(const av_trainer *trainer, av_sampler *sampler, av_batch *batch,
                            int64_t which) {
  const int64_t *rows = NULL;
  int64_t n_rows = 0;
  int64_t n_cells = 0;
  /* an epoch that no training has: draws that no step has used, the same whenever it ended */
  const av_draw draw = {.seed = trainer->seed, .epoch = UINT32_MAX, .purpose = AV_DRAW_LATENT};
  av_sampler_begin(sampler, draw.epoch);
  while (av_sampler_next(sampler, &rows, &n_rows, &n_cells)) {
    trainer->be->ops->batch_select(trainer->be, batch, n_rows, rows);
    av_vae_norm_pass(trainer->vae, which, batch, n_cells, draw);
  }
}

/* Each layer has a batch of its own, because it has passes of its own. */
static av_status replace(const av_trainer *trainer, av_sampler *sampler, int64_t which) {
  av_backend *be = trainer->be;
  av_batch *batch = NULL;
  av_status status =
      av_agree(trainer->comm,
               be->ops->batch_create(be, trainer->data, av_sampler_max_rows(sampler), &batch));
  if (status == AV_OK) {
    status = av_vae_norm_begin(trainer->vae, which);
  }
  if (status == AV_OK) {
    all_minibatches(trainer, sampler, batch, which);
    status = av_vae_norm_finish(trainer->vae, which);
  }
  be->ops->batch_free(be, batch);
  return status;
}

av_status av_norm_statistics_recompute(const av_trainer *trainer) {
  const av_model_spec *spec = &av_vae_layout(trainer->vae)->spec;
  const int64_t size =
      whole_batches(trainer->split->n_train,
                    av_trainer_rows(trainer->config, spec->n_genes, trainer->split->n_train));
  const bool frozen = trainer->config->train.update_only_decoder && spec->encoder_batch_norm;
  av_sampler *sampler = NULL;
  AV_TRY(av_sampler_create(&sampler, trainer->comm, trainer->dataset, trainer->split, size,
                           trainer->seed, trainer->be->threads));
  av_status status = AV_OK;
  const int64_t n = av_vae_norm_layers(trainer->vae);
  for (int64_t which = frozen ? spec->n_layers : 0; status == AV_OK && which < n; ++which) {
    status = replace(trainer, sampler, which);
  }
  av_sampler_free(&sampler);
  return status;
}
