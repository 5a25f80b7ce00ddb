#include "run/restarts.h"

#include "base/log.h"
#include "base/memory.h"
#include "posterior/stability.h"

#include <math.h>
#include <stdlib.h>

av_status av_restarts_create(av_restarts *restarts, int64_t most) {
  *restarts = (av_restarts){.most = most};
  restarts->fit = av_calloc((size_t)most, sizeof *restarts->fit);
  restarts->directions = av_calloc((size_t)most, sizeof *restarts->directions);
  if (restarts->fit == NULL || restarts->directions == NULL) {
    av_restarts_free(restarts);
    return av_fail(AV_NOMEM, "out of memory (%lld restarts)", (long long)most);
  }
  return AV_OK;
}

void av_restarts_free(av_restarts *restarts) {
  for (int64_t r = 0; restarts->directions != NULL && r < restarts->n; ++r) {
    free(restarts->directions[r]);
  }
  free(restarts->directions);
  free(restarts->fit);
  *restarts = (av_restarts){0};
}

/* Rank 0 alone compares factors. */
static av_status keep_directions(av_restarts *restarts, const av_factors *factors) {
  const int64_t genes = factors->n_genes;
  const int64_t k = factors->n_latent;
  double *directions = av_malloc((size_t)(genes * k), sizeof *directions);
  if (directions == NULL) {
    return av_fail(AV_NOMEM, "out of memory (factors of restart %lld)", (long long)restarts->n + 1);
  }
  av_factor_directions(genes, k, factors->loadings, directions);
  restarts->directions[restarts->n] = directions;
  return AV_OK;
}

av_status av_restarts_add(av_restarts *restarts, const av_comm *comm, const av_restart *fit,
                          const av_factors *factors, bool *best) {
  av_status status = AV_OK;
  av_restart agreed = *fit;
  if (comm->rank == 0 && factors != NULL) {
    status = keep_directions(restarts, factors);
  }
  AV_TRY(av_agree(comm, status));
  AV_TRY(av_bcast(comm, &agreed, (int64_t)sizeof agreed));
  const int64_t r = restarts->n++;
  restarts->fit[r] = agreed;
  const double least = restarts->fit[restarts->chosen].elbo;
  *best = r == 0 || agreed.elbo < least || (isnan(least) && !isnan(agreed.elbo));
  if (*best) {
    restarts->chosen = r;
  }
  av_say("restart %lld of %lld, seed %lld: negative ELBO %.4f after %lld epoch%s%s",
         (long long)agreed.number, (long long)restarts->most, (long long)agreed.seed, agreed.elbo,
         (long long)agreed.epochs, agreed.epochs == 1 ? "" : "s",
         *best && r > 0 ? ", the best so far" : "");
  av_log_event("restart", "number", "i", agreed.number, "restarts", "i", restarts->most, "seed",
               "i", agreed.seed, "epochs", "i", agreed.epochs, "elbo", "d", agreed.elbo, "best",
               "b", (int)*best, NULL);
  return AV_OK;
}

av_status av_restarts_stability(const av_restarts *restarts, const av_comm *comm,
                                av_factors *factors) {
  if (restarts->n < 2) {
    return AV_OK;
  }
  const int64_t k = factors->n_latent;
  factors->stability = av_calloc((size_t)k, sizeof *factors->stability);
  av_status status =
      factors->stability == NULL ? av_fail(AV_NOMEM, "out of memory (stability)") : AV_OK;
  const double *chosen = restarts->directions[restarts->chosen];
  for (int64_t r = 0; status == AV_OK && comm->rank == 0 && r < restarts->n; ++r) {
    if (r != restarts->chosen) {
      status = av_factor_likeness(factors->n_genes, k, chosen, restarts->directions[r],
                                  factors->stability);
    }
  }
  AV_TRY(av_agree(comm, status));
  for (int64_t i = 0; i < k; ++i) {
    factors->stability[i] /= (double)(restarts->n - 1);
  }
  return av_bcast(comm, factors->stability, k * (int64_t)sizeof *factors->stability);
}
