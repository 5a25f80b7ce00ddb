/* The fits of a run: one, or one for each restart, of which the best stays. */
#ifndef AV_RUN_FIT_H
#define AV_RUN_FIT_H

#include "base/phases.h"
#include "model/saved.h"
#include "posterior/posterior.h"
#include "run/restarts.h"
#include "train/trainer.h"

/* The losses that a fitted or applied model ends with, a cell. */
typedef struct av_result {
  bool known; /* false: an applied model needs labels that the data lacks */
  int which;  /* the cells: AV_SPLIT_VALIDATION, _TRAIN, or AV_EVALUATE_ALL of an applied one */
  int64_t n_cells;  /* over all ranks; 0: the losses are NaN */
  double losses[3]; /* AV_LOSSES of backend/latent.h; of one draw, or with restarts of eight */
} av_result;

/* KL(z) + KL(l), and the negative ELBO. */
double av_result_kl(const av_result *result);
double av_result_elbo(const av_result *result);
/* Which cells, as the output and the log name them: "validation", "training" or "all". */
const char *av_result_cells(const av_result *result);

/* A fitted (or loaded) model on the host. */
typedef struct av_fit {
  av_values values;
  av_history history;
  double *mean_rho;   /* (G), with a linear decoder; else NULL */
  av_factors factors; /* likewise; else zeroed */
  av_result result;
} av_fit;
void av_fit_free(av_fit *fit);

typedef struct av_fitting {
  /* given, borrowed */
  const av_comm *comm;
  const av_config *config; /* max_epochs filled in */
  const av_dataset *dataset;
  const av_split *split;
  const av_model_file *loaded; /* used with model.load */
  av_backend *be;
  av_data *data;
  av_phases *phases;
  /* made */
  av_vae *vae; /* holds fit.values */
  av_posterior posterior;
  av_fit fit;
  double *prior;        /* (S, 2) of the library, which every restart begins with; NULL if loaded */
  av_restarts restarts; /* most = 0 unless there are several */
} av_fitting;

/* Starting values, training, sign rule, factors, evaluation; with several restarts all of it for
 * each, of which the one with the least negative ELBO stays. Every restart has the same split and
 * is evaluated with the same draws of z and l, eight a cell; starting values, minibatches and the
 * draws of training follow its own seed. A fit whose values or losses end up not finite has failed
 * numerically (AV_NUMERIC); of several it is left out with a warning, unless all fail. A model that
 * is loaded and not trained further (max_epochs = 0) stays as it is. Free also after a failure.
 * Collective. */
av_status av_fitting_run(av_fitting *fitting);
void av_fitting_free(av_fitting *fitting);

/* A loaded model that is not trained further. */
bool av_fitting_applies(const av_config *config);

#endif
