/* The training loop: epochs of minibatches, evaluation of the validation cells, history. */
#ifndef AV_TRAIN_TRAINER_H
#define AV_TRAIN_TRAINER_H

#include "backend/backend.h"
#include "config/config.h"
#include "data/dataset.h"
#include "model/vae.h"
#include "train/split.h"

/* One epoch, as scvi-tools logs it (elbo is the NEGATIVE evidence lower bound). Means per cell; the
 * validation columns are NaN in epochs without evaluation. */
typedef struct av_epoch {
  double elbo_train, elbo_validation;
  double reconstruction_loss_train, reconstruction_loss_validation;
  double kl_local_train, kl_local_validation;
  double train_loss, validation_loss; /* with the epoch's KL weight */
  double kl_weight, learning_rate;
  double seconds, cells_per_second;
} av_epoch;

enum { AV_HISTORY_COLUMNS = 12 };
/* Column names in the order of struct av_epoch's fields. */
extern const char *const av_history_names[AV_HISTORY_COLUMNS];

typedef struct av_history {
  int64_t n_epochs;
  av_epoch *epochs;
  int64_t n_steps;    /* of training, over all epochs */
  double seconds;     /* of training without evaluation */
  av_traffic traffic; /* of this rank in them; zero where comm->traffic is NULL */
} av_history;
void av_history_free(av_history *history);

/* Who watches: called on every rank, from the main thread. Any may be NULL. */
typedef struct av_observer {
  void *context;
  void (*step)(void *context, int64_t cells_done, int64_t cells_total);
  void (*epoch)(void *context, int64_t epoch, const av_epoch *line);
} av_observer;

typedef struct av_trainer {
  const av_comm *comm;
  const av_config *config; /* max_epochs filled in */
  const av_dataset *dataset;
  const av_split *split;
  av_backend *be;
  av_data *data;
  uint64_t seed; /* of minibatches and draws: train.seed, or a restart's own */
  av_vae *vae;   /* made for at least av_trainer_rows() rows */
  av_observer observer;
} av_trainer;

/* Rows that one pass of training or inference may have on a rank of n_local cells. */
int64_t av_trainer_rows(const av_config *config, int64_t n_genes, int64_t n_local);

/* Trains for config->train.max_epochs epochs, fewer (history->n_epochs) when early stopping ends
 * it. The model is left with the parameters that train.keep says and the BatchNorm statistics that
 * train.batch_norm_statistics says; `vae` is fresh, its values set. A loss that is not finite:
 * AV_NUMERIC, naming epoch and what to try. Collective. */
av_status av_train(const av_trainer *trainer, av_history *history);

#endif
