/* What follows from an epoch that is over: its parameters kept if they are the best, the next
 * epoch's learning rate, whether to stop. Says and logs what it decides. */
#ifndef AV_TRAIN_CONTROL_H
#define AV_TRAIN_CONTROL_H

#include "train/stopping.h"
#include "train/trainer.h"

typedef struct av_control {
  av_stopper stopper;
  av_plateau plateau;
  av_best best;
  double *params, *running; /* of the best epoch; NULL unless keep = best */
} av_control;

/* Not collective. Free also after a failure. */
av_status av_control_create(const av_trainer *trainer, av_control *control);
void av_control_free(av_control *control);

/* After epoch `epoch` (from 1), whose history is `line`; `validated`: it evaluated the validation
 * cells. *lr receives the next epoch's rate. Every rank decides from rank 0's line, which replaces
 * its own. Collective. */
av_status av_control_decide(av_control *control, const av_trainer *trainer, int64_t epoch,
                            bool validated, av_epoch *line, double *lr, bool *stop);

/* With keep = best: back to the best epoch's parameters. Collective. */
av_status av_control_restore(const av_control *control, const av_trainer *trainer);

#endif
