/* Losses of the model as it is, over a part of the cells. */
#ifndef AV_TRAIN_EVALUATE_H
#define AV_TRAIN_EVALUATE_H

#include "train/trainer.h"

/* Besides AV_SPLIT_TRAIN, _VALIDATION and _TEST: every cell that has counts. */
enum { AV_EVALUATE_ALL = 3 };

/* The cells of one part, ready to be evaluated again and again. */
typedef struct av_evaluator {
  const av_trainer *trainer; /* borrowed */
  av_batch *batch;
  int64_t *rows;    /* (n) local rows */
  int64_t n;        /* of this rank */
  int64_t n_cells;  /* of all ranks */
  int64_t per_pass; /* rows at a time */
  int64_t passes;   /* of the rank that has most */
} av_evaluator;

/* Of the cells whose split is `which`. Free also after a failure. Collective. */
av_status av_evaluator_create(av_evaluator *evaluator, const av_trainer *trainer, int which);
void av_evaluator_free(av_evaluator *evaluator);

/* Mean losses over the cells, with one draw of z and l each (draw.epoch tells draws apart); losses:
 * AV_LOSSES of backend/latent.h, NaN if there are no cells. Call av_vae_begin_inference first.
 * Collective. */
av_status av_evaluate(const av_evaluator *evaluator, av_draw draw, double losses[3]);

#endif
