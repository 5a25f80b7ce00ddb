#include "io/cell_columns.h"

#include "base/log.h"
#include "base/memory.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which columns ---- */

/* Records a fault if a column that the settings ask for is not there. */
static av_status find_column(const av_frame *obs, const av_config *config, const char *section,
                             const char *key, const char *column) {
  if (column == NULL || av_frame_has(obs, column)) {
    return AV_OK;
  }
  return av_frame_fail_missing(obs, av_config_where(config, section, key), column, "");
}

/* The columns of a list: each is there and is not the batch. `where`: who asks for them. */
static av_status find_each(const av_frame *obs, const av_config *config, const char *where,
                           const av_name_list *list) {
  const char *batch = config->data.batch_key;
  av_status status = AV_OK;
  for (int64_t c = 0; c < list->n; ++c) {
    if (batch != NULL && strcmp(batch, list->at[c]) == 0) {
      status = av_fail(AV_CONFIG,
                       "%s: \"%s\" is the batch_key already; batch_key must name another column",
                       where, batch);
    } else if (!av_frame_has(obs, list->at[c])) {
      status = av_frame_fail_missing(obs, where, list->at[c], "");
    }
  }
  return status;
}

/* The columns of covariates: the user's, or (not given) those of the loaded model. */
static av_status find_listed(const av_frame *obs, const av_config *config, const char *key,
                             bool given, const av_name_list *list) {
  if (given || config->model.load == NULL) {
    return find_each(obs, config, av_config_where(config, "data", key), list);
  }
  char *where = av_format("%s (its %s)", av_config_where(config, "model", "load"), key);
  AV_TRY_ALLOC(where);
  const av_status status = find_each(obs, config, where, list);
  free(where);
  return status;
}

static av_status first_of(av_status status, av_status next) {
  return status == AV_OK ? next : status;
}

static av_status find_all(const av_frame *obs, const av_config *config) {
  av_status status = find_column(obs, config, "data", "batch_key", config->data.batch_key);
  status = first_of(status, find_listed(obs, config, "categorical_covariate_keys",
                                        config->data.categorical_covariate_keys_given,
                                        &config->data.categorical_covariate_keys));
  status = first_of(status, find_listed(obs, config, "continuous_covariate_keys",
                                        config->data.continuous_covariate_keys_given,
                                        &config->data.continuous_covariate_keys));
  status =
      first_of(status, find_column(obs, config, "data", "labels_key", config->data.labels_key));
  status = first_of(
      status, find_column(obs, config, "data", "size_factor_key", config->data.size_factor_key));
  return first_of(status, find_column(obs, config, "train", "split_key", config->train.split_key));
}

/* ---- cells without a value ---- */

enum { LISTED = 5 };

/* The cells that lack one: how many, and the names of the first. */
typedef struct lacking {
  int64_t n;
  size_t used;
  char names[512];
} lacking;

static void add_lacking(lacking *cells, const char *name) {
  if (cells->n++ < LISTED && cells->used < sizeof cells->names) {
    cells->used += (size_t)snprintf(cells->names + cells->used, sizeof cells->names - cells->used,
                                    "%s%s", cells->used == 0 ? "" : ", ", name);
  }
}

static av_status fail_lacking(const lacking *cells, const av_frame *obs, const char *column,
                              int64_t n_cells, const char *have) {
  if (cells->n == 0) {
    return AV_OK;
  }
  return av_fail(
      AV_BADDATA,
      "%s/%s: %" PRId64 " of %" PRId64 " cells have %s: %s%s; give them one or leave them out",
      obs->what, column, cells->n, n_cells, have, cells->names, cells->n > LISTED ? ", ..." : "");
}

static av_status check_codes(const av_frame *obs, const char *column, const av_factor *factor,
                             const av_names *cells, const char *have) {
  lacking without = {0};
  for (int64_t i = 0; i < cells->n; ++i) {
    if (factor->code[i] < 0) {
      add_lacking(&without, cells->at[i]);
    }
  }
  return fail_lacking(&without, obs, column, cells->n, have);
}

/* ---- the columns ---- */

/* Without batch_key, or with one category, all cells are of one batch. */
static av_status read_batch(const av_frame *obs, const av_config *config, const av_names *cells,
                            av_dataset *dataset) {
  const char *column = config->data.batch_key;
  if (column != NULL) {
    AV_TRY(av_frame_factor(obs, column, &dataset->batch));
    AV_TRY(check_codes(obs, column, &dataset->batch, cells, "no batch"));
    dataset->has_batch = dataset->batch.levels.n > 1;
    return AV_OK;
  }
  static const char *const only[] = {""};
  AV_TRY(av_names_copy(&dataset->batch.levels, 1, only));
  dataset->batch.code = av_calloc((size_t)cells->n, sizeof *dataset->batch.code);
  AV_TRY_ALLOC(dataset->batch.code);
  return AV_OK;
}

static av_status copy_list(const av_name_list *list, av_names *names) {
  return av_names_copy(names, list->n, (const char *const *)list->at);
}

/* A covariate that is the same everywhere tells the model nothing. (A loaded model may be applied
 * to cells that are alike.) */
static void warn_constant(const av_frame *obs, const av_config *config, const char *column,
                          const char *value) {
  if (config->model.load == NULL) {
    av_warn("%s/%s: is %s in every cell, so this covariate has no effect", obs->what, column,
            value);
  }
}

/* Numbers as categories are hardly meant. */
static void warn_many(const av_frame *obs, const char *column, const av_factor *factor,
                      int64_t n_cells) {
  enum { PLAUSIBLE = 20 };
  if (factor->levels.n > PLAUSIBLE && 2 * factor->levels.n > n_cells) {
    av_warn("%s/%s: has %" PRId64 " categories for %" PRId64
            " cells; if it holds numbers, name it in continuous_covariate_keys",
            obs->what, column, factor->levels.n, n_cells);
  }
}

static av_status read_categorical(const av_frame *obs, const av_config *config,
                                  const av_names *cells, av_dataset *dataset) {
  const av_name_list *keys = &config->data.categorical_covariate_keys;
  AV_TRY(copy_list(keys, &dataset->categorical_names));
  dataset->categorical = av_calloc((size_t)keys->n, sizeof *dataset->categorical);
  AV_TRY_ALLOC(dataset->categorical);
  dataset->n_categorical = keys->n;
  for (int64_t c = 0; c < keys->n; ++c) {
    av_factor *factor = &dataset->categorical[c];
    AV_TRY(av_frame_factor(obs, keys->at[c], factor));
    AV_TRY(check_codes(obs, keys->at[c], factor, cells, "no value"));
    if (factor->levels.n == 1) {
      char *value = av_format("\"%s\"", factor->levels.at[0]);
      AV_TRY_ALLOC(value);
      warn_constant(obs, config, keys->at[c], value);
      free(value);
    }
    warn_many(obs, keys->at[c], factor, cells->n);
  }
  return AV_OK;
}

/* Column c of the table of continuous covariates (cells, C). */
static av_status take_continuous(const av_frame *obs, const av_config *config, const char *column,
                                 const av_names *cells, int64_t c, av_dataset *dataset) {
  double *values = NULL;
  AV_TRY(av_frame_numbers(obs, column, &values));
  lacking without = {0};
  bool constant = true;
  for (int64_t i = 0; i < cells->n; ++i) {
    if (!(fabs(values[i]) <= FLT_MAX)) { /* the model computes with floats */
      add_lacking(&without, cells->at[i]);
    }
    constant = constant && values[i] == values[0];
    dataset->continuous[i * dataset->n_continuous + c] = values[i];
  }
  const av_status status = fail_lacking(&without, obs, column, cells->n, "no finite value");
  if (status == AV_OK && constant) {
    char text[32];
    av_real_text(values[0], false, text);
    warn_constant(obs, config, column, text);
  }
  free(values);
  return status;
}

static av_status read_continuous(const av_frame *obs, const av_config *config,
                                 const av_names *cells, av_dataset *dataset) {
  const av_name_list *keys = &config->data.continuous_covariate_keys;
  if (keys->n == 0) {
    return AV_OK;
  }
  AV_TRY(copy_list(keys, &dataset->continuous_names));
  dataset->n_continuous = keys->n;
  dataset->continuous = av_malloc((size_t)cells->n, (size_t)keys->n * sizeof *dataset->continuous);
  AV_TRY_ALLOC(dataset->continuous);
  for (int64_t c = 0; c < keys->n; ++c) {
    AV_TRY(take_continuous(obs, config, keys->at[c], cells, c, dataset));
  }
  return AV_OK;
}

static av_status read_size_factor(const av_frame *obs, const av_config *config,
                                  const av_names *cells, av_dataset *dataset) {
  const char *column = config->data.size_factor_key;
  if (column == NULL) {
    return AV_OK;
  }
  AV_TRY(av_frame_numbers(obs, column, &dataset->size_factor));
  lacking without = {0};
  for (int64_t i = 0; i < cells->n; ++i) {
    if (!(dataset->size_factor[i] > 0.0 && dataset->size_factor[i] <= FLT_MAX)) {
      add_lacking(&without, cells->at[i]);
    }
  }
  return fail_lacking(&without, obs, column, cells->n, "no positive, finite size factor");
}

/* With dispersion by label every cell that the loss sees needs one: all but the test cells of
 * split_key. A loaded model that is only applied sees no loss. */
static av_status check_labels(const av_frame *obs, const av_config *config, const av_names *cells,
                              const av_dataset *dataset) {
  const bool applied = config->model.load != NULL && config->train.max_epochs == 0;
  if (config->model.dispersion != AV_DISPERSION_GENE_LABEL || applied) {
    return AV_OK;
  }
  lacking without = {0};
  for (int64_t i = 0; i < cells->n; ++i) {
    const bool test = dataset->split != NULL && dataset->split[i] == AV_SPLIT_TEST;
    if (dataset->label.code[i] < 0 && !test) {
      add_lacking(&without, cells->at[i]);
    }
  }
  return fail_lacking(&without, obs, config->data.labels_key, cells->n,
                      "no label, which dispersion = gene-label needs");
}

av_status av_cell_columns_read(const av_frame *obs, const av_config *config, const av_names *cells,
                               av_dataset *dataset) {
  AV_TRY(find_all(obs, config));
  AV_TRY(read_batch(obs, config, cells, dataset));
  AV_TRY(read_categorical(obs, config, cells, dataset));
  AV_TRY(read_continuous(obs, config, cells, dataset));
  AV_TRY(read_size_factor(obs, config, cells, dataset));
  if (config->train.split_key != NULL) {
    AV_TRY(av_frame_split(obs, config->train.split_key, &dataset->split));
  }
  if (config->data.labels_key != NULL) {
    AV_TRY(av_frame_factor(obs, config->data.labels_key, &dataset->label));
    AV_TRY(check_labels(obs, config, cells, dataset));
  }
  return AV_OK;
}
