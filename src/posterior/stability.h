/* How alike the factors of two fits of one data set are: the factors of a fit have no order and no
 * sign of their own, so they are paired first. Pure arithmetic. */
#ifndef AV_POSTERIOR_STABILITY_H
#define AV_POSTERIOR_STABILITY_H

#include "base/status.h"

#include <stdint.h>

/* Factors at least this alike over restarts, on average, are called stable. */
#define AV_STABLE_FACTOR 0.8

/* directions (K, G): the factors of loadings (G, K), each centred over the genes (a constant
 * changes no expression) and scaled to length 1; zeros for one that is constant. */
void av_factor_directions(int64_t n_genes, int64_t n_factors, const double *loadings,
                          double *directions);

/* The one-to-one pairing of rows and columns of `value` (n, n; finite) with the largest sum: row i
 * goes with column partner[i]. Exact; n^3 steps. AV_NOMEM. */
av_status av_best_pairing(int64_t n, const double *value, int64_t *partner);

/* Pairs the factors of two fits by the absolute cosines of their directions (K, G), so that these
 * are largest in total, and adds to likeness[k] (K) that of `mine` k and its partner, 0 to 1.
 * AV_NOMEM. */
av_status av_factor_likeness(int64_t n_genes, int64_t n_factors, const double *mine,
                             const double *other, double *likeness);

#endif
