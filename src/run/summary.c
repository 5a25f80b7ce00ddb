#include "run/summary.h"

#include "backend/latent.h"
#include "base/log.h"
#include "cli/figures.h"
#include "posterior/stability.h"
#include "train/evaluate.h"

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
  if (factors->stability != NULL) {
    fprintf(out,
            "  (likeness: mean |cosine| with their partners in the other restarts; below %g a "
            "factor is marked unstable)\n",
            AV_STABLE_FACTOR);
  }
  for (int64_t place = 0; place < factors->n_latent; ++place) {
    const int64_t k = factors->order[place];
    fprintf(out, "  Z_%-3lld %5.1f %%", (long long)k, 100.0 * factors->share[k]);
    if (factors->stability != NULL) {
      fprintf(out, "  likeness %.2f%s", factors->stability[k],
              factors->stability[k] < AV_STABLE_FACTOR ? " unstable" : "         ");
    }
    print_genes(dataset, factors, mean_rho, k, true, out);
    print_genes(dataset, factors, mean_rho, k, false, out);
    fputc('\n', out);
  }
}

static void print_restarts(const av_restarts *restarts, bool held_out, FILE *out) {
  fprintf(out, "\nRestarts, by the negative ELBO a %s cell\n", held_out ? "held-out" : "training");
  for (int64_t r = 0; r < restarts->n; ++r) {
    const av_restart *fit = &restarts->fit[r];
    fprintf(out, "  %3lld  seed %-6lld %6lld epoch%s  %.4f%s\n", (long long)fit->number,
            (long long)fit->seed, (long long)fit->epochs, fit->epochs == 1 ? " " : "s", fit->elbo,
            r == restarts->chosen ? "  kept" : "");
  }
}

static void print_result(const av_result *result, FILE *out) {
  const bool held_out = result->which == AV_SPLIT_VALIDATION;
  const double nll = result->losses[AV_LOSS_NLL];
  const double kl = av_result_kl(result);
  if (!result->known) {
    fprintf(out,
            "\nResult: no likelihood; the model's dispersion is by label, and not every cell has "
            "a label that it knows\n");
  } else if (result->n_cells == 0) {
    fprintf(out, "\nResult: no cell to evaluate\n");
  } else if (result->which == AV_EVALUATE_ALL) {
    fprintf(out,
            "\nResult, all %lld cells: negative ELBO %.2f (reconstruction %.2f, KL %.2f) a cell\n",
            (long long)result->n_cells, nll + kl, nll, kl);
  } else {
    fprintf(out,
            "\nResult, %lld %s cells: negative ELBO %.2f (reconstruction %.2f, KL %.2f) a cell\n",
            (long long)result->n_cells, held_out ? "held-out" : "training", nll + kl, nll, kl);
  }
}

static void log_result(const av_fitting *fitting) {
  const av_result *result = &fitting->fit.result;
  const av_restarts *restarts = &fitting->restarts;
  const double kl = av_result_kl(result);
  if (result->known) {
    av_log_event("result", "cells", "s", av_result_cells(result), "n_cells", "i", result->n_cells,
                 "elbo", "d", av_result_elbo(result), "reconstruction_loss", "d",
                 result->losses[AV_LOSS_NLL], "kl_local", "d", kl, "epochs", "i",
                 fitting->fit.history.n_epochs, NULL);
  }
  if (restarts->most > 1) {
    const av_restart *chosen = &restarts->fit[restarts->chosen];
    av_log_event("chosen", "number", "i", chosen->number, "restarts", "i", restarts->n, "seed", "i",
                 chosen->seed, "epochs", "i", chosen->epochs, "elbo", "d", chosen->elbo, NULL);
  }
}

void av_summary_print(const av_comm *comm, const av_dataset *dataset, const av_fitting *fitting,
                      FILE *out) {
  const av_fit *fit = &fitting->fit;
  log_result(fitting);
  if (comm->rank != 0) {
    return;
  }
  print_result(&fit->result, out);
  if (fitting->restarts.most > 1) {
    print_restarts(&fitting->restarts, fit->result.which == AV_SPLIT_VALIDATION, out);
  }
  if (fit->factors.loadings != NULL) {
    print_factors(dataset, &fit->factors, fit->mean_rho, out);
  }
  fflush(out);
}
