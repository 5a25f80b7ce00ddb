/* Losses of the model as it is, over a part of the cells. */
#ifndef AV_TRAIN_EVALUATE_H
#define AV_TRAIN_EVALUATE_H

#include "train/trainer.h"

/* Besides AV_SPLIT_TRAIN, _VALIDATION and _TEST: every cell that has counts. */
enum { AV_EVALUATE_ALL = 3 };

/* Mean losses over the cells whose split is `which`, with one draw of z and l each (draw.epoch
 * tells draws apart); losses: AV_LOSSES of backend/latent.h. Call av_vae_begin_inference first.
 * n_cells receives their number over all ranks; the losses are NaN if it is 0. Collective. */
av_status av_evaluate_split(const av_trainer *trainer, int which, av_draw draw, double losses[3],
                            int64_t *n_cells);

#endif
