/* Checks of the columns that the model sees, of its own keys, and of keys that only some models
 * have a use for. */
#include "config/config_check.h"

#include <string.h>

/* A column by name, and the key that names it. */
typedef struct column {
  const char *name;
  int key;
} column;

/* Column i of those that the model sees: the batch, the categorical covariates, the continuous
 * ones; name NULL if there is no batch. */
static column column_at(const av_config *config, int64_t i) {
  const av_name_list *categorical = &config->data.categorical_covariate_keys;
  if (i == 0) {
    return (column){config->data.batch_key, AV_AT_data_batch_key};
  }
  if (i <= categorical->n) {
    return (column){categorical->at[i - 1], AV_AT_data_categorical_covariate_keys};
  }
  return (column){config->data.continuous_covariate_keys.at[i - 1 - categorical->n],
                  AV_AT_data_continuous_covariate_keys};
}

void av_check_covariates(av_checker *c) {
  const av_config *config = c->config;
  const int64_t n =
      1 + config->data.categorical_covariate_keys.n + config->data.continuous_covariate_keys.n;
  for (int64_t i = 1; i < n; ++i) {
    const column this = column_at(config, i);
    for (int64_t j = 0; j < i; ++j) {
      const column other = column_at(config, j);
      char room[48];
      if (other.name == NULL || other.key == this.key || strcmp(other.name, this.name) != 0) {
        continue; /* a name twice in one list was a fault of its text */
      }
      av_check_fault(c, this.key, "%s is in %s too, %s; the model sees a column once", this.name,
                     av_config_keys[other.key].name, av_check_place(config, other.key, room));
      break;
    }
  }
}

/* Keys that only one kind of decoder knows. */
static void check_decoder(av_checker *c) {
  const av_config *config = c->config;
  if (!av_check_usable(config, AV_AT_model_linear_decoder)) {
    return;
  }
  if (config->output.loadings_given && config->output.loadings && !config->model.linear_decoder) {
    av_check_fault(
        c, AV_AT_output_loadings,
        "only a linear decoder has loadings; say linear_decoder = yes, or remove this key");
  }
  if (config->model.bias && !config->model.linear_decoder) {
    av_check_fault(c, AV_AT_model_bias,
                   "is the linear decoder's; say linear_decoder = yes, or remove this key");
  }
  const bool norm_in_decoder = config->model.use_layer_norm == AV_WHERE_BOTH ||
                               config->model.use_layer_norm == AV_WHERE_DECODER;
  if (norm_in_decoder && config->model.linear_decoder) {
    av_check_fault(c, AV_AT_model_use_layer_norm,
                   "a linear decoder has no hidden layers to normalise; say encoder or none");
  }
}

void av_check_model(av_checker *c) {
  const av_config *config = c->config;
  const bool applied = config->model.load != NULL && config->train.max_epochs == 0;
  check_decoder(c);
  if (config->model.dispersion == AV_DISPERSION_GENE_LABEL && config->data.labels_key == NULL &&
      !applied && config->origin->n_faults == 0) {
    av_check_fault(c, AV_AT_model_dispersion,
                   "gene-label needs the labels; name their obs column with [data] labels_key");
  }
  av_check_needs_switch(c, AV_AT_output_latent_samples,
                        config->model.latent_distribution_given ||
                            config->model.latent_distribution == AV_LATENT_LN ||
                            !av_check_usable(config, AV_AT_model_latent_distribution),
                        "latent_distribution = ln");
}
