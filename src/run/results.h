/* Everything a run leaves in its .h5ad (design: output keys). */
#ifndef AV_RUN_RESULTS_H
#define AV_RUN_RESULTS_H

#include "config/config.h"
#include "data/dataset.h"
#include "run/fit.h"

typedef struct av_results {
  const av_comm *comm;
  const av_config *config;
  const av_dataset *dataset;
  const av_split *split;
  av_fitting *fitting;
  const char *versions; /* text for uns/atlasvi/versions */
} av_results;

/* Bytes that the output will take beyond a copied input. */
int64_t av_results_bytes(const av_config *config, int64_t n_cells, int64_t n_genes);

/* Path that the results go to: output.path, or the input in append mode. Borrowed. */
const char *av_results_path(const av_config *config);

/* Writes, verifies and renames the output. Collective. */
av_status av_results_write(const av_results *results);

#endif
