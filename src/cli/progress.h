/* What a person sees while the model is fitted: a line per epoch in a log, or a live bar on a
 * terminal. Rank 0 draws; the calls do nothing elsewhere.
 *
 *   epoch  12/400  elbo_train 1234.5  elbo_validation 1240.1  kl_weight 0.030  2.31 s  ...
 *   ... 8,912 cells/s  left 0:14:52     (one line)
 *   epoch  12/400 [####------------]  elbo 1234.5  val 1240.1    3 %  left 0:14:52     (the bar)
 *
 * Up to 100 epochs every one has its line; beyond that the first, the last, every percent of the
 * way, and at least one in 10 s (if an epoch ends). Every epoch is also a record of the JSON-lines
 * log, in every mode. A warning that is printed meanwhile clears the bar first.
 */
#ifndef AV_CLI_PROGRESS_H
#define AV_CLI_PROGRESS_H

#include "base/comm.h"

#include <stdint.h>
#include <stdio.h>

/* What an epoch came to. Values that were not computed are NaN. */
typedef struct av_epoch_line {
  int64_t epoch; /* 1, 2, ..., n_epochs */
  double elbo_train;
  double elbo_validation;
  double kl_weight;
  double seconds;
  double cells_per_second;
} av_epoch_line;

typedef struct av_progress av_progress;

/* `mode` is AV_PROGRESS_* of config.h; auto: a bar if `out` is a terminal, lines otherwise. `out`
 * (stdout in the program) is borrowed. The first epoch to come is `first_epoch` (1, or more when
 * continuing). Not collective. */
av_status av_progress_begin(av_progress **progress, const av_comm *comm, int mode,
                            int64_t first_epoch, int64_t n_epochs, FILE *out);
/* The epochs to come are those of fit `restart` (1, 2, ...) of `n_restarts`: a line says so now,
 * and the bar and the records of the log do as long as it lasts. Time left is this fit's. */
void av_progress_restart(av_progress *progress, int64_t restart, int64_t n_restarts);
/* Within an epoch: `done` of `total` cells (or steps). Call as often as is convenient: the bar is
 * redrawn at most 10 times a second. */
void av_progress_step(av_progress *progress, int64_t done, int64_t total);
/* An epoch has ended. */
void av_progress_epoch(av_progress *progress, const av_epoch_line *line);
/* Clears the bar, leaving the last epoch's line in its place. Also call it before an error is
 * printed. Frees; a NULL *progress is fine. */
void av_progress_end(av_progress **progress);

#endif
