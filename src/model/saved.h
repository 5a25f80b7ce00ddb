/* A fitted model as a file: saving it, and making a run use it.
 *
 * Tensors carry scvi-tools' names and shapes; besides them library_log_means and library_log_vars
 * (1, S), the names of genes and batches, and the settings of the run as INI text.
 */
#ifndef AV_MODEL_SAVED_H
#define AV_MODEL_SAVED_H

#include "config/config.h"
#include "data/dataset.h"
#include "io/model_file.h"
#include "model/layout.h"

/* The host-side values of a model. */
typedef struct av_values {
  double *params;  /* (layout->n_params) */
  double *running; /* (layout->n_running) */
  double *prior;   /* (S, 2) mean and variance of log library */
} av_values;
av_status av_values_create(av_values *values, const av_layout *layout);
void av_values_free(av_values *values);

/* Writes config->output.model. `exact` stores double. Collective. */
av_status av_saved_write(const av_comm *comm, const av_config *config, const av_dataset *dataset,
                         const av_layout *layout, const av_values *values, bool exact);

/* Before the data is read: takes the [model] settings from the file (a key that the user gave with
 * another value is AV_CONFIG) and makes the run use the model's genes in the model's order, unless
 * subset_genes is given. Not collective: every rank holds `file`. */
av_status av_saved_apply_settings(const av_model_file *file, av_config *config);

/* After the data is read: same genes in the same order; batch codes renumbered to the model's
 * batches. An unknown batch is AV_BADDATA and lists the known ones. Collective. */
av_status av_saved_match(const av_comm *comm, const av_model_file *file, const av_config *config,
                         av_dataset *dataset);

/* Fills `values` (made for `layout`) from the file: every tensor must be there with its shape. */
av_status av_saved_values(const av_model_file *file, const av_layout *layout, const char *path,
                          av_values *values);

#endif
