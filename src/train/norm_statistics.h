/* BatchNorm's statistics at the end of training, from all training cells. */
#ifndef AV_TRAIN_NORM_STATISTICS_H
#define AV_TRAIN_NORM_STATISTICS_H

#include "train/trainer.h"

/* Replaces the running averages of every BatchNorm, first to last, by mean and variance over all
 * training cells of the model as it is: one pass over them for each. With update_only_decoder the
 * encoders' stay. The minibatches do not depend on the number of ranks. Collective. */
av_status av_norm_statistics_recompute(const av_trainer *trainer);

#endif
