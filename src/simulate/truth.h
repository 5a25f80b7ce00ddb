/* What the simulated data are drawn from: the parameters of genes, batches and cell types.
 *
 * Everything that the file stores as float32 is rounded to float32 before it is used, so that the
 * file's own numbers give exactly the rates the counts were drawn with.
 */
#ifndef AV_SIMULATE_TRUTH_H
#define AV_SIMULATE_TRUTH_H

#include "simulate/settings.h"

#include <stdint.h>

typedef struct av_sim_truth {
  int64_t genes, factors, batches, labels;
  float *loadings;      /* (genes, factors); each column has mean 0 over genes */
  float *batch_offsets; /* (genes, batches); mean 0 over genes and over batches; 0 with one batch */
  float *intercept;     /* (genes); mean 0 */
  float *dispersion;    /* (genes): theta; NULL for poisson */
  double *library_mean; /* (batches): mean of log library size, model.md's m_s */
  double *centres;      /* (labels, factors): mean of z in a cell type */
  double *spread;       /* (factors): standard deviation of z within a cell type */
} av_sim_truth;

/* Draws the parameters from the settings. Over cells, z has mean 0 and covariance I exactly (cell
 * types are equally likely, their centres orthogonal contrasts), so that N(0, I) stays the right
 * prior up to its shape. */
av_status av_sim_truth_create(av_sim_truth *truth, const av_sim_settings *settings);
void av_sim_truth_free(av_sim_truth *truth);

#endif
