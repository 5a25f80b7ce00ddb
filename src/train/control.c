#include "train/control.h"

#include "base/log.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

void av_control_free(av_control *c) {
  free(c->params);
  free(c->running);
  *c = (av_control){0};
}

av_status av_control_create(const av_trainer *trainer, av_control *c) {
  const av_config *config = trainer->config;
  *c = (av_control){.stopper = av_stopper_from(config),
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

av_status av_control_decide(av_control *c, const av_trainer *trainer, int64_t epoch, bool validated,
                            av_epoch *line, double *lr, bool *stop) {
  const av_config *config = trainer->config;
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
    *lr = c->plateau.lr;
    say_lowered(config, &c->plateau, epoch);
  }
  return AV_OK;
}

av_status av_control_restore(const av_control *c, const av_trainer *trainer) {
  if (c->params == NULL) {
    return AV_OK;
  }
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
