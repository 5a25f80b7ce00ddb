/* A fitted model as a file: saving it, and making a run use it.
 *
 * Tensors carry scvi-tools' names and shapes; besides them library_log_means and library_log_vars
 * (1, S), the names of genes, batches, covariates with their categories and (dispersion =
 * gene-label) labels, and the settings of the run as INI text.
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
 * subset_genes is given. The obs columns of covariates are the model's, in its order; other ones
 * given by the user are AV_CONFIG, as is a size_factor_key where the model has no size factors, or
 * none where it has, and training further by label without labels_key. Not collective: every rank
 * holds `file`. */
av_status av_saved_apply_settings(const av_model_file *file, av_config *config);

/* After the data is read: same genes in the same order; codes of batches, categorical covariates
 * and (dispersion = gene-label) labels renumbered to the model's, by name, and the design made
 * anew. An unknown batch or category is AV_BADDATA and lists the known ones. So is an unknown label
 * if training goes on; in a model that is only applied (max_epochs = 0) such cells, and all cells
 * without labels_key, get label code -1. Collective. */
av_status av_saved_match(const av_comm *comm, const av_model_file *file, const av_config *config,
                         av_dataset *dataset);

/* Whether the likelihood of every cell with counts is known. It is not where dispersion is by label
 * and a cell of an applied model has none that the model knows: then latent code, rho, mu and
 * loadings can be had, but nothing may be evaluated. Collective. */
av_status av_saved_likelihood(const av_comm *comm, const av_config *config,
                              const av_dataset *dataset, bool *known);

/* Fills `values` (made for `layout`) from the file: every tensor must be there with its shape. */
av_status av_saved_values(const av_model_file *file, const av_layout *layout, const char *path,
                          av_values *values);

#endif
