/* Latent codes of latent_distribution = ln: softmax(z) with z ~ q(z) = N(mean, diag variance). Its
 * mean has no closed form.
 */
#ifndef AV_POSTERIOR_SIMPLEX_H
#define AV_POSTERIOR_SIMPLEX_H

#include <stdint.h>

/* q(z) of one cell, and which draws it gets. */
typedef struct av_simplex {
  int64_t n_latent;       /* K >= 1 */
  const double *mean;     /* (K) */
  const double *variance; /* (K) */
  uint64_t seed;
  int64_t cell;      /* global number: draws belong to it */
  int64_t n_samples; /* >= 1 */
} av_simplex;

/* out (K): mean of softmax(z) over n_samples draws. They come as pairs mean +- sqrt(variance) eps,
 * whose mean has the same expectation and less variance; an odd last one, and so the only one of
 * n_samples = 1, is a plain draw. space (2 K). */
void av_simplex_mean(const av_simplex *simplex, double *space, double *out);

#endif
