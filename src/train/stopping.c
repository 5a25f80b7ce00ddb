#include "train/stopping.h"

#include <math.h>

static double worst(bool largest) { return largest ? -INFINITY : INFINITY; }

av_best av_best_from(const av_config *config) {
  const bool largest = config->train.early_stopping_mode == AV_MODE_MAX;
  return (av_best){.largest = largest, .value = worst(largest)};
}

bool av_best_check(av_best *best, int64_t epoch, double value) {
  if (!isfinite(value) || !(best->largest ? value > best->value : value < best->value)) {
    return false;
  }
  best->value = value;
  best->epoch = epoch;
  return true;
}

av_stopper av_stopper_from(const av_config *config) {
  const bool largest = config->train.early_stopping_mode == AV_MODE_MAX;
  return (av_stopper){.largest = largest,
                      .min_delta = config->train.early_stopping_min_delta,
                      .patience = config->train.early_stopping_patience,
                      .warmup = config->train.early_stopping_warmup_epochs,
                      .best = worst(largest)};
}

bool av_stopper_check(av_stopper *stopper, int64_t epoch, double value) {
  ++stopper->checks;
  if (stopper->checks <= stopper->warmup) {
    return false;
  }
  if (!isfinite(value)) {
    return true;
  }
  if (stopper->largest ? value - stopper->min_delta > stopper->best
                       : value + stopper->min_delta < stopper->best) {
    stopper->best = value;
    stopper->best_epoch = epoch;
    stopper->waited = 0;
    return false;
  }
  ++stopper->waited;
  return stopper->waited >= stopper->patience;
}

av_plateau av_plateau_from(const av_config *config) {
  return (av_plateau){.factor = config->train.lr_factor,
                      .threshold = config->train.lr_threshold,
                      .lr_min = config->train.lr_min,
                      .patience = config->train.lr_patience,
                      .best = INFINITY,
                      .lr = config->train.lr};
}

bool av_plateau_check(av_plateau *plateau, double value) {
  if (value < plateau->best - plateau->threshold) {
    plateau->best = value;
    plateau->waited = 0;
    return false;
  }
  ++plateau->waited;
  if (plateau->waited <= plateau->patience) {
    return false;
  }
  plateau->waited = 0;
  const double lower = fmax(plateau->lr * plateau->factor, plateau->lr_min);
  if (!(plateau->lr - lower > 1e-8)) {
    return false;
  }
  plateau->lr = lower;
  return true;
}

av_status av_stopping_possible(const av_config *config, int64_t n_validation) {
  const bool trains = !config->train.max_epochs_given || config->train.max_epochs > 0;
  if (!trains || n_validation > 0) {
    return AV_OK;
  }
  const bool held_out = av_monitor_held_out(config->train.early_stopping_monitor);
  const char *monitor =
      av_config_choice("train", "early_stopping_monitor", config->train.early_stopping_monitor);
  av_status status = AV_OK;
  if (config->train.early_stopping && held_out) {
    status = av_fail(AV_CONFIG,
                     "%s: %s needs validation cells, and the split leaves none; lower "
                     "train.train_size, or monitor elbo_train",
                     av_config_where(config, "train", "early_stopping"), monitor);
  }
  if (config->train.keep == AV_KEEP_BEST && held_out) {
    status = av_fail(AV_CONFIG,
                     "%s: the best %s needs validation cells, and the split leaves none; lower "
                     "train.train_size, or monitor elbo_train",
                     av_config_where(config, "train", "keep"), monitor);
  }
  if (config->train.reduce_lr_on_plateau) {
    status = av_fail(
        AV_CONFIG,
        "%s: %s needs validation cells, and the split leaves none; lower "
        "train.train_size",
        av_config_where(config, "train", "reduce_lr_on_plateau"),
        av_config_choice("train", "lr_scheduler_metric", config->train.lr_scheduler_metric));
  }
  return status;
}
