/* The linear decoder as people read it: loadings, intercept, batch offsets, variance shares, signs.
 *
 * With rho the decoder's output and L, c, O, V the tables below, x a cell's row of the design
 * without the batch: rho_n = softmax(z_n L^T + O[batch of n] + x_n V^T + c) exactly (model.md
 * section 4), softplus with size factors.
 */
#ifndef AV_POSTERIOR_FACTORS_H
#define AV_POSTERIOR_FACTORS_H

#include "model/layout.h"

typedef struct av_factors {
  int64_t n_genes, n_latent;
  int64_t n_batches;    /* 0 without one-hot columns of the batch */
  int64_t n_covariates; /* continuous covariates, then the other factors' categories */
  double *loadings;     /* (G, K) */
  double *intercept;    /* (G) */
  double *offsets;      /* (G, n_batches) */
  double *covariates;   /* (G, n_covariates) */
  double *share;        /* (K) of the variance of the logits, sums to 1 */
  int64_t *order;       /* (K) factors by falling share */
  double *stability; /* (K) likeness of each to its counterparts in other restarts; NULL without */
} av_factors;

/* From the values of a trained linear model. mean_rho (G) and z_variance (K) of
 * av_posterior_summary. Not collective. */
av_status av_factors_create(av_factors *factors, const av_layout *layout, const double *params,
                            const double *running, const double *mean_rho,
                            const double *z_variance);
void av_factors_free(av_factors *factors);

/* Sign rule: in every factor the gene whose loading, centred with the weights mean_rho, is largest
 * in absolute value has a positive one. Flips the encoder's mean head and the decoder's columns
 * alike in params, so that the model stays the same. Nothing with ln, whose codes are positive. Not
 * collective. */
void av_factors_fix_signs(const av_layout *layout, const double *running, const double *mean_rho,
                          double *params);

/* The n genes with the largest (up) or smallest centred loadings of factor k, best first. */
void av_factors_top(const av_factors *factors, const double *mean_rho, int64_t k, bool up,
                    int64_t n, int64_t *genes);

#endif
