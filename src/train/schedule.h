/* Quantities that depend only on where training stands. Pure functions. */
#ifndef AV_TRAIN_SCHEDULE_H
#define AV_TRAIN_SCHEDULE_H

#include "config/config.h"

/* scvi-tools' number of epochs for n cells: max(1, min(round(20000 / n * 400), 400)). */
int64_t av_default_epochs(int64_t n_cells);

/* Minibatches of batch_size in an epoch of n_cells training cells. A last one of 1 or 2 cells is
 * left out: BatchNorm needs more. */
int64_t av_steps_per_epoch(int64_t n_cells, int64_t batch_size);

/* Weight of KL(z) in epoch `epoch` (from 0) and step `step` (from 0, over the whole run): linear
 * from min_kl_weight to max_kl_weight over n_epochs_kl_warmup epochs, or n_steps_kl_warmup steps
 * where that is given; then max_kl_weight (model.md section 3). */
double av_kl_weight(const av_config *config, int64_t epoch, int64_t step);

/* Warns if the KL term does not reach its full weight in `n_epochs` epochs over `n_train` cells. */
void av_warn_short_warmup(const av_config *config, int64_t n_epochs, int64_t n_train);

#endif
