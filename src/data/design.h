/* What the model is told about each cell besides its counts, as columns of numbers: the batch and
 * the categorical covariates as one block of one-hot columns, the continuous covariates.
 *
 * Order: the batch first, then the covariates in the order of their keys; a factor with one
 * category has no columns. A cell has one 1 in each factor's columns, so a row of the block is
 * n_factors column numbers.
 */
#ifndef AV_DATA_DESIGN_H
#define AV_DATA_DESIGN_H

#include "base/status.h"

#include <stdint.h>

typedef struct av_design {
  int64_t n_factors;    /* factors with more than one category */
  int64_t *first;       /* (n_factors + 1) first column of each; first[n_factors] = n_onehot */
  int64_t n_onehot;     /* O, columns of the block */
  int32_t *column;      /* (n_local, n_factors) where the ones are */
  int64_t n_continuous; /* C */
  double *continuous;   /* (n_local, C) */
} av_design;

/* The design of n cells from n_factors factors: n_levels[f] categories, code[f] (n). Factors with
 * one category are left out here. continuous (n, n_continuous) is copied. Not collective; free with
 * av_design_free (accepts a zeroed struct). */
av_status av_design_create(av_design *design, int64_t n, int64_t n_factors, const int64_t *n_levels,
                           const int32_t *const *code, int64_t n_continuous,
                           const double *continuous);
void av_design_free(av_design *design);

#endif
