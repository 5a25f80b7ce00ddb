/* Inference over all cells of this rank in row order: latent codes, decoded means. */
#ifndef AV_POSTERIOR_POSTERIOR_H
#define AV_POSTERIOR_POSTERIOR_H

#include "backend/backend.h"
#include "config/config.h"
#include "data/dataset.h"
#include "model/vae.h"

enum { AV_POSTERIOR_PASSES = AV_READS }; /* under way at a time */

/* Rows of matrices through the model. */
typedef struct av_posterior_pass {
  int64_t first, n;
  float *codes, *rho, *mu; /* where they go; NULL: not asked for */
} av_posterior_pass;

typedef struct av_posterior {
  const av_comm *comm;
  const av_config *config;
  const av_dataset *dataset;
  av_backend *be;
  av_vae *vae;
  av_batch *batch;
  int64_t rows_per_pass;
  int64_t *rows;    /* (rows_per_pass) */
  double *z;        /* (rows_per_pass, K) */
  av_sum *rho_sums; /* the summary's, on the backend; NULL: not asked for yet */
  av_posterior_pass
      pass[AV_POSTERIOR_PASSES];     /* under way: number p is at p % AV_POSTERIOR_PASSES */
  int64_t begun, ended;              /* passes */
  int calls;                         /* that have not been ended */
  int64_t last[AV_POSTERIOR_PASSES]; /* `begun` after each of them */
} av_posterior;

/* Prepares the model for inference. `rows_per_pass` as the model was made for. Collective. */
av_status av_posterior_create(av_posterior *posterior, const av_comm *comm, const av_config *config,
                              const av_dataset *dataset, av_backend *be, av_data *data, av_vae *vae,
                              int64_t rows_per_pass);
void av_posterior_free(av_posterior *posterior);

/* These begin rows of matrices of floats as io/h5ad_write.h's av_row_source does, with an
 * av_posterior as context: any number of rows, whole when av_posterior_end has returned for them,
 * in the order of the calls; AV_POSTERIOR_PASSES calls may be under way. On a GPU rows are on their
 * way to the host, also those of the last pass, while the next ones are made, and the host waits
 * for those that it puts in their place. Cells without counts get NaN. Not collective. */
/* out (n_rows, K): means of q(z); with ln the mean of output.latent_samples softmaxed draws. */
av_status av_posterior_latent(void *posterior, int64_t first_row, int64_t n_rows, void *out);
/* out: rho (n_rows, G), then mu (n_rows, G), from the same z and l: their means, or the average
 * over output.n_samples draws. */
av_status av_posterior_decoded(void *posterior, int64_t first_row, int64_t n_rows, void *out);
/* out (n_rows, G): rho alone, mu alone. */
av_status av_posterior_rho(void *posterior, int64_t first_row, int64_t n_rows, void *out);
av_status av_posterior_mu(void *posterior, int64_t first_row, int64_t n_rows, void *out);
/* Of the oldest call that was begun. */
av_status av_posterior_end(void *posterior);

/* Over all cells with counts: mean rho (G) and variance of each latent dimension (K), z being the
 * mean of q(z), with ln its softmax. Order-free. No rows are under way. Collective. */
av_status av_posterior_summary(av_posterior *posterior, double *mean_rho, double *z_variance);

#endif
