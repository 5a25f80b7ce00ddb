#include "data/dataset.h"

#include "base/memory.h"

#include <stdlib.h>

void av_dataset_free(av_dataset *dataset) {
  av_names_free(&dataset->genes);
  free(dataset->gene_column);
  free(dataset->gene_var);
  av_partition_free(&dataset->partition);
  av_counts_free(&dataset->counts);
  av_names_free(&dataset->batch.levels);
  free(dataset->batch.code);
  av_names_free(&dataset->label.levels);
  free(dataset->label.code);
  for (int64_t c = 0; dataset->categorical != NULL && c < dataset->n_categorical; ++c) {
    av_names_free(&dataset->categorical[c].levels);
    free(dataset->categorical[c].code);
  }
  free(dataset->categorical);
  av_names_free(&dataset->categorical_names);
  av_names_free(&dataset->continuous_names);
  free(dataset->continuous);
  free(dataset->size_factor);
  av_design_free(&dataset->design);
  free(dataset->split);
  free(dataset->library);
  free(dataset->input_path);
  *dataset = (av_dataset){0};
}

av_status av_dataset_design(av_dataset *dataset) {
  const int64_t n_factors = 1 + dataset->n_categorical;
  int64_t *n_levels = av_malloc((size_t)n_factors, sizeof *n_levels);
  const int32_t **code = av_malloc((size_t)n_factors, sizeof *code);
  av_status status = AV_OK;
  if (n_levels == NULL || code == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (%lld covariates)", (long long)n_factors);
  } else {
    n_levels[0] = dataset->batch.levels.n;
    code[0] = dataset->batch.code;
    for (int64_t c = 0; c < dataset->n_categorical; ++c) {
      n_levels[c + 1] = dataset->categorical[c].levels.n;
      code[c + 1] = dataset->categorical[c].code;
    }
    av_design_free(&dataset->design);
    status = av_design_create(&dataset->design, dataset->n_local, n_factors, n_levels, code,
                              dataset->n_continuous, dataset->continuous);
  }
  free(n_levels);
  free(code);
  return status;
}

av_status av_dataset_size_design(av_dataset *dataset) {
  const int64_t n_local = dataset->n_local;
  dataset->n_local = 0;
  const av_status status = av_dataset_design(dataset);
  dataset->n_local = n_local;
  return status;
}
