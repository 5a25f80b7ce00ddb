/* The settings as a whole: checks between keys, and the defaults that follow from other keys. */
#include "base/memory.h"
#include "config/config_check.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* "a/b.h5ad" -> "a/b.model.h5" */
static char *model_path(const char *path) {
  static const char ending[] = ".h5ad";
  size_t length = strlen(path);
  if (length > strlen(ending) && strcmp(path + length - strlen(ending), ending) == 0) {
    length -= strlen(ending);
  }
  return length > INT_MAX ? NULL : av_format("%.*s.model.h5", (int)length, path);
}

static av_status fill_defaults(av_config *config) {
  const bool linear = config->model.linear_decoder;
  if (!config->model.gene_likelihood_given) {
    config->model.gene_likelihood = linear ? AV_LIKELIHOOD_NB : AV_LIKELIHOOD_ZINB;
  }
  if (!config->model.use_observed_lib_size_given) {
    config->model.use_observed_lib_size = !linear;
  }
  if (!config->output.loadings_given) {
    config->output.loadings = linear;
  }
  if (!config->train.batch_norm_statistics_given) {
    config->train.batch_norm_statistics =
        config->model.init == AV_INIT_SCVI ? AV_STATISTICS_RUNNING : AV_STATISTICS_RECOMPUTED;
  }
  if (config->train.n_steps_kl_warmup_given) {
    config->train.n_epochs_kl_warmup = 0; /* warm-up is counted in steps */
  }
  if (!config->output.model_given) {
    const char *results =
        config->output.mode == AV_OUTPUT_APPEND ? config->data.input : config->output.path;
    char *path = results == NULL ? NULL : model_path(results);
    if (results != NULL) {
      AV_TRY_ALLOC(path);
    }
    free(config->output.model);
    config->output.model = path;
  }
  config->origin->resolved = true;
  return AV_OK;
}

av_status av_config_resolve(av_config *config) {
  if (config->origin == NULL) {
    return AV_FAIL_BUG("av_config_defaults comes first");
  }
  av_checker c = {.config = config};
  av_check_files(&c);
  av_check_covariates(&c);
  if (config->model.load == NULL) {
    av_check_model(&c);
  }
  av_check_training(&c);
  AV_TRY(fill_defaults(config));
  return c.failed ? AV_CONFIG : AV_OK;
}

av_status av_config_check_model(const av_config *config) {
  av_checker c = {.config = config};
  av_check_model(&c);
  return c.failed ? AV_CONFIG : AV_OK;
}
