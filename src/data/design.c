#include "data/design.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

void av_design_free(av_design *design) {
  free(design->first);
  free(design->column);
  free(design->continuous);
  *design = (av_design){0};
}

av_status av_design_create(av_design *design, int64_t n, int64_t n_factors, const int64_t *n_levels,
                           const int32_t *const *code, int64_t n_continuous,
                           const double *continuous) {
  *design = (av_design){.n_continuous = n_continuous};
  for (int64_t f = 0; f < n_factors; ++f) {
    design->n_factors += n_levels[f] > 1 ? 1 : 0;
  }
  design->first = av_calloc((size_t)design->n_factors + 1, sizeof *design->first);
  design->column = av_malloc((size_t)(n * design->n_factors), sizeof *design->column);
  design->continuous = av_malloc((size_t)(n * n_continuous), sizeof *design->continuous);
  if (design->first == NULL || design->column == NULL || design->continuous == NULL) {
    av_design_free(design);
    return av_fail(AV_NOMEM, "out of memory (covariates of %lld cells)", (long long)n);
  }
  int64_t at = 0; /* place of factor f among those with columns */
  for (int64_t f = 0; f < n_factors; ++f) {
    if (n_levels[f] <= 1) {
      continue;
    }
    for (int64_t i = 0; i < n; ++i) {
      design->column[i * design->n_factors + at] = (int32_t)design->n_onehot + code[f][i];
    }
    design->n_onehot += n_levels[f];
    design->first[++at] = design->n_onehot;
  }
  if (n * n_continuous > 0) {
    memcpy(design->continuous, continuous, (size_t)(n * n_continuous) * sizeof *continuous);
  }
  return AV_OK;
}
