/* Several fits with other seeds: what each came to, which is best, how far the factors agree. */
#ifndef AV_RUN_RESTARTS_H
#define AV_RUN_RESTARTS_H

#include "base/comm.h"
#include "posterior/factors.h"

/* One fit of several. */
typedef struct av_restart {
  int64_t number; /* from 1 */
  int64_t seed, epochs;
  double elbo; /* negative, mean over the held-out cells, or the training cells without any */
} av_restart;

typedef struct av_restarts {
  int64_t n;           /* fits so far that did not fail */
  int64_t most;        /* train.n_restarts */
  int64_t chosen;      /* the one with the least elbo, the first of equal ones */
  av_restart *fit;     /* (most) */
  double **directions; /* (most) of av_factor_directions; on rank 0, NULL for scVI */
} av_restarts;

/* Room for `most` fits. Not collective. */
av_status av_restarts_create(av_restarts *restarts, int64_t most);
void av_restarts_free(av_restarts *restarts);

/* Adds a fit, prints and logs it (event "restart"); `factors` is NULL for scVI. *best is set if it
 * is the best so far: decided on rank 0 for all. Collective. */
av_status av_restarts_add(av_restarts *restarts, const av_comm *comm, const av_restart *fit,
                          const av_factors *factors, bool *best);

/* Sets factors->stability: for each factor of the chosen fit the mean likeness to its partner in
 * the other fits (av_factor_likeness); `factors` are the chosen fit's. Nothing with fewer than two
 * fits. Collective. */
av_status av_restarts_stability(const av_restarts *restarts, const av_comm *comm,
                                av_factors *factors);

#endif
