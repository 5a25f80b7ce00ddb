/* When to stop, what to keep, when to lower the learning rate: decisions fed with one value a
 * check. A check is an epoch in which the watched column has a value (av_monitor_checks). Pure: the
 * same values give the same decisions, so ranks that see the same sums agree. Epochs count from 1.
 */
#ifndef AV_TRAIN_STOPPING_H
#define AV_TRAIN_STOPPING_H

#include "config/config.h"

/* True if `monitor` (AV_MONITOR_...) is measured on the validation cells. */
static inline bool av_monitor_held_out(int monitor) {
  return monitor <= AV_MONITOR_VALIDATION_LOSS;
}

/* True if an epoch is a check of `monitor`: one of training always, one of validation in epochs
 * that evaluate it. */
static inline bool av_monitor_checks(int monitor, bool validated) {
  return validated || !av_monitor_held_out(monitor);
}

/* The best value so far; the first of equal ones. */
typedef struct av_best {
  bool largest; /* is best, else the smallest */
  double value;
  int64_t epoch; /* 0: none yet */
} av_best;

av_best av_best_from(const av_config *config);
/* True if `value` is the new best. One that is not finite never is. */
bool av_best_check(av_best *best, int64_t epoch, double value);

/* Lightning's EarlyStopping as scvi-tools uses it: an improvement is better than the best by more
 * than min_delta, `patience` checks in a row without one end training (0 as 1), a value that is not
 * finite ends it at once, and the first `warmup` checks are not looked at. */
typedef struct av_stopper {
  bool largest;
  double min_delta;
  int64_t patience, warmup;
  int64_t checks; /* so far */
  int64_t waited; /* checks since the last improvement */
  double best;
  int64_t best_epoch; /* 0: none yet */
} av_stopper;

av_stopper av_stopper_from(const av_config *config);
/* True if training should end after this epoch. */
bool av_stopper_check(av_stopper *stopper, int64_t epoch, double value);

/* torch's ReduceLROnPlateau (mode min, threshold_mode abs, no cool-down, eps 1e-8): after more than
 * `patience` checks in a row without a fall below the best by more than `threshold`, the rate is
 * multiplied by `factor`, but not below `lr_min`; a change of 1e-8 or less is not made. */
typedef struct av_plateau {
  double factor, threshold, lr_min;
  int64_t patience;
  int64_t waited;
  double best;
  double lr; /* the rate to use now */
} av_plateau;

av_plateau av_plateau_from(const av_config *config);
/* True if the rate has been lowered. */
bool av_plateau_check(av_plateau *plateau, double value);

/* Whether the settings can be followed with this many validation cells: early stopping, keep = best
 * and reduce_lr_on_plateau that look at some need at least one. AV_CONFIG. Not collective. */
av_status av_stopping_possible(const av_config *config, int64_t n_validation);

#endif
