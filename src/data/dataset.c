#include "data/dataset.h"

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
  free(dataset->split);
  free(dataset->library);
  free(dataset->input_path);
  *dataset = (av_dataset){0};
}
