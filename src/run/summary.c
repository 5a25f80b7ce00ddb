#include "run/summary.h"

#include "backend/latent.h"
#include "base/log.h"
#include "cli/figures.h"
#include "math/rng.h"

#include <math.h>
#include <stdlib.h>

/* Genes named in each direction of a factor. */
enum { TOP_GENES = 6 };

static void print_genes(const av_dataset *dataset, const av_factors *factors,
                        const double *mean_rho, int64_t k, bool up, FILE *out) {
  int64_t genes[TOP_GENES];
  const int64_t n = factors->n_genes < TOP_GENES ? factors->n_genes : TOP_GENES;
  av_factors_top(factors, mean_rho, k, up, n, genes);
  fprintf(out, "  %s", up ? "up:" : "down:");
  for (int64_t i = 0; i < n; ++i) {
    char *shown = av_printable(dataset->genes.at[genes[i]]);
    fprintf(out, " %s", shown == NULL ? "?" : shown);
    free(shown);
  }
}

static void print_factors(const av_dataset *dataset, const av_factors *factors,
                          const double *mean_rho, FILE *out) {
  fprintf(out, "\nFactors by share of the explained variance\n");
  for (int64_t place = 0; place < factors->n_latent; ++place) {
    const int64_t k = factors->order[place];
    fprintf(out, "  Z_%-3lld %5.1f %%", (long long)k, 100.0 * factors->share[k]);
    print_genes(dataset, factors, mean_rho, k, true, out);
    print_genes(dataset, factors, mean_rho, k, false, out);
    fputc('\n', out);
  }
}

av_status av_summary_print(const av_trainer *trainer, const av_history *history,
                           const av_factors *factors, const double *mean_rho, FILE *out) {
  const bool held_out = trainer->split->n_validation > 0;
  const av_draw draw = {.seed = (uint64_t)trainer->config->train.seed,
                        .purpose = AV_DRAW_POSTERIOR};
  double losses[AV_LOSSES];
  int64_t n_cells = 0;
  av_vae_begin_inference(trainer->vae);
  AV_TRY(av_evaluate_split(trainer, held_out ? AV_SPLIT_VALIDATION : AV_SPLIT_TRAIN, draw, losses,
                           &n_cells));
  const double kl = losses[AV_LOSS_KL_Z] + losses[AV_LOSS_KL_L];
  av_log_event("result", "cells", "s", held_out ? "validation" : "training", "n_cells", "i",
               n_cells, "elbo", "d", losses[AV_LOSS_NLL] + kl, "reconstruction_loss", "d",
               losses[AV_LOSS_NLL], "kl_local", "d", kl, "epochs", "i", history->n_epochs, NULL);
  if (trainer->comm->rank != 0) {
    return AV_OK;
  }
  if (n_cells == 0) {
    fprintf(out, "\nResult: no cell to evaluate\n");
  } else {
    fprintf(out,
            "\nResult, %lld %s cells: negative ELBO %.2f (reconstruction %.2f, KL %.2f) a cell\n",
            (long long)n_cells, held_out ? "held-out" : "training", losses[AV_LOSS_NLL] + kl,
            losses[AV_LOSS_NLL], kl);
  }
  if (factors->loadings != NULL) {
    print_factors(trainer->dataset, factors, mean_rho, out);
  }
  fflush(out);
  return AV_OK;
}
