#include "train/trainer.h"

#include "backend/latent.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "math/rng.h"
#include "train/control.h"
#include "train/evaluate.h"
#include "train/norm_statistics.h"
#include "train/sampler.h"
#include "train/schedule.h"

#include <math.h>
#include <stdlib.h>

/* Steps between looks at the loss, where that waits for nothing: often enough to stop a run that
 * has gone wrong, seldom enough to cost nothing. */
enum { STEPS_PER_LOOK = 256 };

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

/* Enough to keep the device busy, with numbers for each gene in some tens of megabytes. */
static int64_t rows_per_pass(const av_config *config, int64_t n_genes) {
  enum { ROWS_CPU = 512, ROWS_GPU = 4096, NUMBERS = 1 << 24 };
  const int64_t fit = NUMBERS / (n_genes > 0 ? n_genes : 1);
  if (config->runtime.backend != AV_BACKEND_CUDA || fit < ROWS_CPU) {
    return ROWS_CPU;
  }
  return fit < ROWS_GPU ? fit : ROWS_GPU;
}

int64_t av_trainer_rows(const av_config *config, int64_t n_genes, int64_t n_local) {
  const int64_t pass = rows_per_pass(config, n_genes);
  const int64_t wanted = config->train.batch_size > pass ? config->train.batch_size : pass;
  return wanted < n_local ? wanted : n_local;
}

typedef struct progress {
  int64_t step; /* over the whole run */
  int64_t epoch;
  int64_t cells; /* in this epoch so far */
  double lr;     /* in this epoch */
  double losses[AV_LOSSES];
} progress;

/* What a run of training holds. */
typedef struct training {
  const av_trainer *trainer;
  av_sampler *sampler;
  av_batch *batch;
  av_evaluator validation; /* where there are validation cells */
  av_control control;
} training;

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

/* Number of cells of the next minibatch over all ranks, whose local part is selected; 0 after the
 * last. */
static int64_t select_next(const training *t) {
  av_backend *be = t->trainer->be;
  const int64_t *rows = NULL;
  int64_t n_rows = 0;
  int64_t n_cells = 0;
  if (!av_sampler_next(t->sampler, &rows, &n_rows, &n_cells)) {
    return 0;
  }
  be->ops->batch_select(be, t->batch, n_rows, rows);
  return n_cells;
}

/* The epoch's order has been drawn; the next one's is, while a GPU works on the last minibatches.
 */
static av_status train_epoch(const training *t, progress *at) {
  const av_trainer *trainer = t->trainer;
  const av_config *config = trainer->config;
  const int64_t total = av_sampler_cells(t->sampler);
  const double clip = config->train.gradient_clip_val_given ? config->train.gradient_clip_val : 0.0;
  at->cells = 0;
  for (int i = 0; i < AV_LOSSES; ++i) {
    at->losses[i] = 0.0;
  }
  int64_t n_cells = select_next(t);
  while (n_cells > 0) {
    const av_draw draw = {
        .seed = trainer->seed, .epoch = (uint32_t)at->epoch, .purpose = AV_DRAW_LATENT};
    const av_adam adam = {.lr = at->lr,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .eps = config->train.eps,
                          .weight_decay = config->train.weight_decay,
                          .decoupled = config->train.optimizer == AV_OPTIMIZER_ADAMW,
                          .clip = clip,
                          .scale = 1.0 / (double)n_cells,
                          .step = at->step + 1};
    av_vae_train_step(trainer->vae, t->batch, n_cells, draw,
                      av_kl_weight(config, at->epoch, at->step), &adam);
    /* beside the gradients' exchange */
    const int64_t n_next = select_next(t);
    av_vae_update(trainer->vae, &adam);
    ++at->step;
    at->cells += n_cells;
    n_cells = n_next;
    if (!trainer->be->queues && at->step % STEPS_PER_LOOK == 0) {
      AV_TRY(look(trainer, at));
    }
    if (trainer->observer.step != NULL) {
      trainer->observer.step(trainer->observer.context, at->cells, total);
    }
  }
  if (at->epoch + 1 < config->train.max_epochs) {
    av_sampler_begin(t->sampler, (uint32_t)at->epoch + 1);
  }
  return look(trainer, at);
}

/* What came on top of `before`. */
static void add_traffic(av_traffic *sum, const av_traffic *before, const av_traffic *now) {
  sum->operations += now->operations - before->operations;
  sum->bytes += now->bytes - before->bytes;
  sum->seconds += now->seconds - before->seconds;
  sum->ahead += now->ahead - before->ahead;
  sum->waited += now->waited - before->waited;
  sum->queued = now->queued;
}

static av_status validate(const training *t, int64_t epoch, av_epoch *line) {
  const av_trainer *trainer = t->trainer;
  double losses[AV_LOSSES];
  const av_draw draw = {.seed = trainer->seed, .epoch = (uint32_t)epoch, .purpose = AV_DRAW_LATENT};
  av_vae_begin_inference(trainer->vae);
  AV_TRY(av_evaluate(&t->validation, draw, losses));
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

static av_status run_epochs(training *t, av_history *history) {
  const av_trainer *trainer = t->trainer;
  const av_config *config = trainer->config;
  const int64_t n_epochs = config->train.max_epochs;
  const int64_t every =
      config->train.check_val_every_n_epoch_given ? config->train.check_val_every_n_epoch : 1;
  bool stop = false;
  progress at = {.lr = config->train.lr};
  if (n_epochs > 0) {
    av_sampler_begin(t->sampler, 0);
  }
  for (at.epoch = 0; at.epoch < n_epochs && !stop; ++at.epoch) {
    av_epoch *line = &history->epochs[at.epoch];
    const double start = av_clock();
    const av_traffic *counted = trainer->comm->traffic;
    const av_traffic before = counted == NULL ? (av_traffic){0} : *counted;
    AV_TRY(train_epoch(t, &at));
    const double seconds = av_clock() - start;
    if (counted != NULL) {
      add_traffic(&history->traffic, &before, counted);
    }
    history->n_steps = at.step;
    history->seconds += seconds;
    fill_line(trainer, &at, seconds, line);
    const bool validated = trainer->split->n_validation > 0 &&
                           ((at.epoch + 1) % every == 0 || at.epoch + 1 == n_epochs);
    if (validated) {
      AV_TRY(validate(t, at.epoch, line));
    }
    history->n_epochs = at.epoch + 1;
    if (trainer->observer.epoch != NULL) {
      trainer->observer.epoch(trainer->observer.context, at.epoch, line);
    }
    AV_TRY(av_control_decide(&t->control, trainer, at.epoch + 1, validated, line, &at.lr, &stop));
  }
  if (n_epochs == 0) {
    return AV_OK;
  }
  AV_TRY(av_control_restore(&t->control, trainer));
  trainer->be->ops->batch_free(trainer->be, t->batch); /* the next one may need its room */
  t->batch = NULL;
  return config->train.batch_norm_statistics == AV_STATISTICS_RECOMPUTED
             ? av_norm_statistics_recompute(trainer)
             : AV_OK;
}

/* What one rank needs by itself. */
static av_status make_own(training *t, av_history *history) {
  const av_trainer *trainer = t->trainer;
  const int64_t n_epochs = trainer->config->train.max_epochs;
  history->epochs = av_calloc((size_t)n_epochs, sizeof *history->epochs);
  if (history->epochs == NULL) {
    return av_fail(AV_NOMEM, "out of memory (history of %lld epochs)", (long long)n_epochs);
  }
  AV_TRY(trainer->be->ops->batch_create(trainer->be, trainer->data, av_sampler_max_rows(t->sampler),
                                        &t->batch));
  return av_control_create(trainer, &t->control);
}

static av_status make(training *t, av_history *history) {
  const av_trainer *trainer = t->trainer;
  AV_TRY(av_sampler_create(&t->sampler, trainer->comm, trainer->dataset, trainer->split,
                           trainer->config->train.batch_size, trainer->seed, trainer->be->threads));
  AV_TRY(av_agree(trainer->comm, make_own(t, history)));
  return trainer->split->n_validation > 0
             ? av_evaluator_create(&t->validation, trainer, AV_SPLIT_VALIDATION)
             : AV_OK;
}

av_status av_train(const av_trainer *trainer, av_history *history) {
  training t = {.trainer = trainer};
  *history = (av_history){0};
  av_status status = make(&t, history);
  if (status == AV_OK) {
    if (trainer->config->train.update_only_decoder) {
      av_vae_freeze_encoder(trainer->vae);
    }
    status = run_epochs(&t, history);
  }
  av_control_free(&t.control);
  av_evaluator_free(&t.validation);
  trainer->be->ops->batch_free(trainer->be, t.batch);
  av_sampler_free(&t.sampler);
  return status;
}
