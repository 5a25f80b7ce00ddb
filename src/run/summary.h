/* What a fitted model found, for a person: final losses, and the genes of each factor. */
#ifndef AV_RUN_SUMMARY_H
#define AV_RUN_SUMMARY_H

#include "posterior/factors.h"
#include "train/trainer.h"

#include <stdio.h>

/* Evaluates the held-out cells (validation; training cells if there are none) once more and prints;
 * factors are printed if factors->n_latent > 0 (loadings is not NULL). Log event "result".
 * Collective. */
av_status av_summary_print(const av_trainer *trainer, const av_history *history,
                           const av_factors *factors, const double *mean_rho, FILE *out);

#endif
