#include "train/trainer.h"

#include "backend/latent.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "math/rng.h"
#include "train/sampler.h"
#include "train/schedule.h"
#include "train/stopping.h"

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
  for (int i = 0; status == AV_OK && i < AV_LOSSES; ++i) {
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
  double lr;     /* in this epoch */
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
        (long long)at->epoch + 1, isnan(sum) ? "not a number" : "infinite", at->lr,
        (long long)trainer->config->train.batch_size);
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
    const av_adam adam = {.lr = at->lr,
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
                     .learning_rate = at->lr,
                     .seconds = seconds,
                     .cells_per_second = cells / (seconds > 0.0 ? seconds : 1e-9)};
  line->train_loss = nll + line->kl_weight * kl_z + kl_l;
}

/* ---- decisions after an epoch ---- */

typedef struct control {
  av_stopper stopper;
  av_plateau plateau;
  av_best best;
  double *params, *running; /* of the best epoch; NULL unless keep = best */
} control;

static void control_free(control *c) {
  free(c->params);
  free(c->running);
  *c = (control){0};
}

static av_status control_create(const av_trainer *trainer, control *c) {
  const av_config *config = trainer->config;
  *c = (control){.stopper = av_stopper_from(config),
                 .plateau = av_plateau_from(config),
                 .best = av_best_from(config)};
  if (config->train.keep == AV_KEEP_BEST) {
    const av_layout *layout = av_vae_layout(trainer->vae);
    c->params = av_calloc((size_t)layout->n_params, sizeof *c->params);
    c->running = av_calloc((size_t)layout->n_running, sizeof *c->running);
    if (c->params == NULL || c->running == NULL) {
      return av_fail(AV_NOMEM, "out of memory (parameters of the best epoch)");
    }
  }
  return AV_OK;
}

static double monitored(const av_epoch *line, int monitor) {
  const double values[] = {line->elbo_validation,     line->reconstruction_loss_validation,
                           line->kl_local_validation, line->validation_loss,
                           line->elbo_train,          line->reconstruction_loss_train,
                           line->kl_local_train,      line->train_loss};
  return values[monitor];
}

static const char *checks_text(int64_t n) { return n == 1 ? "check" : "checks"; }

static void say_stopped(const av_config *config, const av_stopper *stopper, int64_t epoch,
                        double value) {
  const char *name =
      av_config_choice("train", "early_stopping_monitor", config->train.early_stopping_monitor);
  if (!isfinite(value)) {
    av_warn("stopped early after epoch %lld: %s is not finite", (long long)epoch, name);
  } else {
    av_say(
        "stopped early after epoch %lld: %s has not improved for %lld %s; best %.6g in epoch "
        "%lld",
        (long long)epoch, name, (long long)stopper->waited, checks_text(stopper->waited),
        stopper->best, (long long)stopper->best_epoch);
  }
  av_log_event("early_stopping", "epoch", "i", epoch, "monitor", "s", name, "value", "d", value,
               "best", "d", stopper->best, "best_epoch", "i", stopper->best_epoch, NULL);
}

static void say_lowered(const av_config *config, const av_plateau *plateau, int64_t epoch) {
  const char *name =
      av_config_choice("train", "lr_scheduler_metric", config->train.lr_scheduler_metric);
  av_say("learning rate lowered to %.6g after epoch %lld: %s has not improved for %lld %s",
         plateau->lr, (long long)epoch, name, (long long)plateau->patience + 1,
         checks_text(plateau->patience + 1));
  av_log_event("learning_rate", "epoch", "i", epoch, "metric", "s", name, "learning_rate", "d",
               plateau->lr, NULL);
}

/* What follows from an epoch that is over: its parameters kept if they are the best, the next
 * epoch's learning rate, whether to stop. Every rank decides from rank 0's line. Collective. */
static av_status decide(const av_trainer *trainer, control *c, bool validated, progress *at,
                        av_epoch *line, bool *stop) {
  const av_config *config = trainer->config;
  const int64_t epoch = at->epoch + 1;
  *stop = false;
  if (!config->train.early_stopping && !config->train.reduce_lr_on_plateau && c->params == NULL) {
    return AV_OK;
  }
  AV_TRY(av_bcast(trainer->comm, line, (int64_t)sizeof *line));
  const double value = monitored(line, config->train.early_stopping_monitor);
  const bool is_check = av_monitor_checks(config->train.early_stopping_monitor, validated);
  if (c->params != NULL && is_check && av_best_check(&c->best, epoch, value)) {
    AV_TRY(av_agree(trainer->comm, av_vae_get_values(trainer->vae, c->params, c->running)));
  }
  if (epoch == config->train.max_epochs) {
    return AV_OK;
  }
  if (config->train.early_stopping && is_check) {
    *stop = av_stopper_check(&c->stopper, epoch, value);
    if (*stop) {
      say_stopped(config, &c->stopper, epoch, value);
      return AV_OK;
    }
  }
  if (config->train.reduce_lr_on_plateau && validated &&
      av_plateau_check(&c->plateau, monitored(line, config->train.lr_scheduler_metric))) {
    at->lr = c->plateau.lr;
    say_lowered(config, &c->plateau, epoch);
  }
  return AV_OK;
}

/* Back to the best epoch's parameters. */
static av_status restore_best(const av_trainer *trainer, const control *c) {
  const char *name = av_config_choice("train", "early_stopping_monitor",
                                      trainer->config->train.early_stopping_monitor);
  if (c->best.epoch == 0) {
    av_warn("keep = best: %s was never finite; the parameters are those of the last epoch", name);
    return AV_OK;
  }
  av_say("kept the parameters of epoch %lld: %s %.6g", (long long)c->best.epoch, name,
         c->best.value);
  av_log_event("kept", "epoch", "i", c->best.epoch, "monitor", "s", name, "value", "d",
               c->best.value, NULL);
  return av_agree(trainer->comm, av_vae_set_values(trainer->vae, c->params, c->running));
}

/* ---- the loop ---- */

static av_status run_epochs(const av_trainer *trainer, av_sampler *sampler, av_batch *batch,
                            control *c, av_history *history) {
  const av_config *config = trainer->config;
  const int64_t n_epochs = config->train.max_epochs;
  const int64_t every =
      config->train.check_val_every_n_epoch_given ? config->train.check_val_every_n_epoch : 1;
  bool stop = false;
  progress at = {.lr = config->train.lr};
  for (at.epoch = 0; at.epoch < n_epochs && !stop; ++at.epoch) {
    av_epoch *line = &history->epochs[at.epoch];
    const double start = av_clock();
    AV_TRY(train_epoch(trainer, sampler, batch, &at));
    fill_line(trainer, &at, av_clock() - start, line);
    const bool validated = trainer->split->n_validation > 0 &&
                           ((at.epoch + 1) % every == 0 || at.epoch + 1 == n_epochs);
    if (validated) {
      AV_TRY(validate(trainer, at.epoch, line));
    }
    history->n_epochs = at.epoch + 1;
    if (trainer->observer.epoch != NULL) {
      trainer->observer.epoch(trainer->observer.context, at.epoch, line);
    }
    AV_TRY(decide(trainer, c, validated, &at, line, &stop));
  }
  return c->params != NULL && n_epochs > 0 ? restore_best(trainer, c) : AV_OK;
}

av_status av_train(const av_trainer *trainer, av_history *history) {
  const av_comm *comm = trainer->comm;
  av_backend *be = trainer->be;
  av_sampler *sampler = NULL;
  av_batch *batch = NULL;
  control c = {0};
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
  if (status == AV_OK) {
    status = control_create(trainer, &c);
  }
  status = av_agree(comm, status);
  if (status == AV_OK) {
    status = run_epochs(trainer, sampler, batch, &c, history);
  }
  control_free(&c);
  be->ops->batch_free(be, batch);
  av_sampler_free(&sampler);
  return status;
}
