#include "train/trainer.h"

#include "backend/latent.h"
#include "base/clock.h"
#include "base/memory.h"
#include "math/rng.h"
#include "train/sampler.h"
#include "train/schedule.h"

#include <math.h>
#include <stdlib.h>

/* Steps between looks at the loss, which need the device to finish: often enough to stop a run that
 * has gone wrong, seldom enough to cost nothing. */
enum { STEPS_PER_LOOK = 256, ROWS_PER_PASS = 512 };

const char *const av_history_names[AV_HISTORY_COLUMNS] = {"elbo_train",
                                                          "elbo_validation",
                                                          "reconstruction_loss_train",
                                                          "reconstruction_loss_validation",
                                                          "kl_local_train",
                                                          "kl_local_validation",
                                                          "train_loss",
                                                          "validation_loss",
                                                          "kl_weight",
                                                          "learning_rate",
                                                          "seconds",
                                                          "cells_per_second"};

void av_history_free(av_history *history) {
  free(history->epochs);
  *history = (av_history){0};
}

int64_t av_trainer_rows(const av_config *config, int64_t n_local) {
  const int64_t wanted =
      config->train.batch_size > ROWS_PER_PASS ? config->train.batch_size : ROWS_PER_PASS;
  return wanted < n_local ? wanted : n_local;
}

/* ---- evaluation ---- */

av_status av_evaluate_split(const av_trainer *trainer, int which, av_draw draw, double losses[3],
                            int64_t *n_cells) {
  const av_comm *comm = trainer->comm;
  const int64_t n_local = trainer->dataset->n_local;
  const int64_t rows_per_pass = av_trainer_rows(trainer->config, n_local);
  av_backend *be = trainer->be;
  av_batch *batch = NULL;
  int64_t *rows = av_malloc((size_t)n_local, sizeof *rows);
  av_status status = rows == NULL ? av_fail(AV_NOMEM, "out of memory (evaluation)") : AV_OK;
  if (status == AV_OK) {
    status = be->ops->batch_create(be, trainer->data, rows_per_pass, &batch);
  }
  status = av_agree(comm, status);
  if (status != AV_OK) {
    be->ops->batch_free(be, batch);
    free(rows);
    return status;
  }
  int64_t n = 0;
  for (int64_t i = 0; i < n_local; ++i) {
    if (trainer->split->of[i] == which) {
      rows[n++] = i;
    }
  }
  int64_t passes = rows_per_pass > 0 ? (n + rows_per_pass - 1) / rows_per_pass : 0;
  *n_cells = n;
  status = av_max_i64(comm, &passes, 1);
  if (status == AV_OK) {
    status = av_sum_i64(comm, n_cells, 1);
  }
  for (int64_t pass = 0; status == AV_OK && pass < passes; ++pass) {
    const int64_t begin = pass * rows_per_pass < n ? pass * rows_per_pass : n;
    const int64_t now = n - begin < rows_per_pass ? n - begin : rows_per_pass;
    be->ops->batch_select(be, batch, now, rows + begin);
    av_vae_evaluate(trainer->vae, batch, now, draw);
  }
  if (status == AV_OK) {
    status = av_vae_take_losses(trainer->vae, losses);
  }
  for (int i = 0; i < AV_LOSSES; ++i) {
    losses[i] = *n_cells > 0 ? losses[i] / (double)*n_cells : NAN;
  }
  be->ops->batch_free(be, batch);
  free(rows);
  return status;
}

/* ---- training ---- */

typedef struct progress {
  int64_t step; /* over the whole run */
  int64_t epoch;
  int64_t cells; /* in this epoch so far */
  double losses[AV_LOSSES];
} progress;

/* Adds what the device has summed since the last look; fails if it is not finite. */
static av_status look(const av_trainer *trainer, progress *at) {
  double losses[AV_LOSSES];
  AV_TRY(av_vae_take_losses(trainer->vae, losses));
  for (int i = 0; i < AV_LOSSES; ++i) {
    at->losses[i] += losses[i];
  }
  const double sum = at->losses[0] + at->losses[1] + at->losses[2];
  if (!isfinite(sum)) {
    return av_fail(
        AV_NUMERIC,
        "training failed in epoch %lld: the loss is %s; try a smaller train.lr (now %g) or a "
        "larger train.batch_size (now %lld)",
        (long long)at->epoch + 1, isnan(sum) ? "not a number" : "infinite",
        trainer->config->train.lr, (long long)trainer->config->train.batch_size);
  }
  return AV_OK;
}

static av_status train_epoch(const av_trainer *trainer, av_sampler *sampler, av_batch *batch,
                             progress *at) {
  const av_config *config = trainer->config;
  const int64_t *rows = NULL;
  int64_t n_rows = 0;
  int64_t n_cells = 0;
  const int64_t total = av_sampler_cells(sampler);
  at->cells = 0;
  for (int i = 0; i < AV_LOSSES; ++i) {
    at->losses[i] = 0.0;
  }
  av_sampler_begin(sampler, (uint32_t)at->epoch);
  while (av_sampler_next(sampler, &rows, &n_rows, &n_cells)) {
    const av_draw draw = {.seed = (uint64_t)config->train.seed,
                          .epoch = (uint32_t)at->epoch,
                          .purpose = AV_DRAW_LATENT};
    trainer->be->ops->batch_select(trainer->be, batch, n_rows, rows);
    av_vae_step(trainer->vae, batch, n_rows, n_cells, draw,
                av_kl_weight(config, at->epoch, at->step));
    const av_adam adam = {.lr = config->train.lr,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .eps = config->train.eps,
                          .weight_decay = config->train.weight_decay,
                          .scale = 1.0 / (double)n_cells,
                          .step = at->step + 1};
    av_vae_update(trainer->vae, &adam);
    ++at->step;
    at->cells += n_cells;
    if (at->step % STEPS_PER_LOOK == 0) {
      AV_TRY(look(trainer, at));
    }
    if (trainer->observer.step != NULL) {
      trainer->observer.step(trainer->observer.context, at->cells, total);
    }
  }
  return look(trainer, at);
}

static av_status validate(const av_trainer *trainer, int64_t epoch, av_epoch *line) {
  double losses[AV_LOSSES];
  int64_t n_cells = 0;
  const av_draw draw = {.seed = (uint64_t)trainer->config->train.seed,
                        .epoch = (uint32_t)epoch,
                        .purpose = AV_DRAW_LATENT};
  av_vae_begin_inference(trainer->vae);
  AV_TRY(av_evaluate_split(trainer, AV_SPLIT_VALIDATION, draw, losses, &n_cells));
  line->reconstruction_loss_validation = losses[AV_LOSS_NLL];
  line->kl_local_validation = losses[AV_LOSS_KL_Z] + losses[AV_LOSS_KL_L];
  line->elbo_validation = line->reconstruction_loss_validation + line->kl_local_validation;
  line->validation_loss =
      losses[AV_LOSS_NLL] + line->kl_weight * losses[AV_LOSS_KL_Z] + losses[AV_LOSS_KL_L];
  return AV_OK;
}

static void fill_line(const av_trainer *trainer, const progress *at, double seconds,
                      av_epoch *line) {
  const double cells = (double)at->cells;
  const double nll = at->losses[AV_LOSS_NLL] / cells;
  const double kl_z = at->losses[AV_LOSS_KL_Z] / cells;
  const double kl_l = at->losses[AV_LOSS_KL_L] / cells;
  *line = (av_epoch){.elbo_train = nll + kl_z + kl_l,
                     .elbo_validation = NAN,
                     .reconstruction_loss_train = nll,
                     .reconstruction_loss_validation = NAN,
                     .kl_local_train = kl_z + kl_l,
                     .kl_local_validation = NAN,
                     .validation_loss = NAN,
                     .kl_weight = av_kl_weight(trainer->config, at->epoch, at->step - 1),
                     .learning_rate = trainer->config->train.lr,
                     .seconds = seconds,
                     .cells_per_second = cells / (seconds > 0.0 ? seconds : 1e-9)};
  line->train_loss = nll + line->kl_weight * kl_z + kl_l;
}

static av_status run_epochs(const av_trainer *trainer, av_sampler *sampler, av_batch *batch,
                            av_history *history) {
  const av_config *config = trainer->config;
  const int64_t n_epochs = config->train.max_epochs;
  const int64_t every =
      config->train.check_val_every_n_epoch_given ? config->train.check_val_every_n_epoch : 1;
  progress at = {0};
  for (at.epoch = 0; at.epoch < n_epochs; ++at.epoch) {
    av_epoch *line = &history->epochs[at.epoch];
    const double start = av_clock();
    AV_TRY(train_epoch(trainer, sampler, batch, &at));
    fill_line(trainer, &at, av_clock() - start, line);
    if (trainer->split->n_validation > 0 &&
        ((at.epoch + 1) % every == 0 || at.epoch + 1 == n_epochs)) {
      AV_TRY(validate(trainer, at.epoch, line));
    }
    history->n_epochs = at.epoch + 1;
    if (trainer->observer.epoch != NULL) {
      trainer->observer.epoch(trainer->observer.context, at.epoch, line);
    }
  }
  return AV_OK;
}

av_status av_train(const av_trainer *trainer, av_history *history) {
  const av_comm *comm = trainer->comm;
  av_backend *be = trainer->be;
  av_sampler *sampler = NULL;
  av_batch *batch = NULL;
  *history = (av_history){0};
  AV_TRY(av_sampler_create(&sampler, comm, trainer->dataset, trainer->split,
                           trainer->config->train.batch_size,
                           (uint64_t)trainer->config->train.seed));
  av_status status = be->ops->batch_create(be, trainer->data, av_sampler_max_rows(sampler), &batch);
  history->epochs = av_calloc((size_t)trainer->config->train.max_epochs, sizeof *history->epochs);
  if (status == AV_OK && history->epochs == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (history of %lld epochs)",
                     (long long)trainer->config->train.max_epochs);
  }
  status = av_agree(comm, status);
  if (status == AV_OK) {
    status = run_epochs(trainer, sampler, batch, history);
  }
  be->ops->batch_free(be, batch);
  av_sampler_free(&sampler);
  return status;
}
