/* A saved model meets other settings and other data. */
#include "base/log.h"
#include "base/memory.h"
#include "model/saved.h"

#include <stdlib.h>
#include <string.h>

/* ---- settings ---- */

/* Keys of [model] are compared and taken over by type; init and load say where values come from and
 * stay the user's. */
#define TAKE(name)                                                                     \
  if (strcmp(#name, "init") != 0) {                                                    \
    if (mine->model.name##_given && mine->model.name != theirs->model.name) {          \
      status = av_fail(AV_CONFIG,                                                      \
                       "%s: the model in %s was fitted with another value; leave the " \
                       "key out",                                                      \
                       av_config_where(mine, "model", #name), mine->model.load);       \
    }                                                                                  \
    mine->model.name = theirs->model.name;                                             \
  }
#define TAKE_BOOL(name) TAKE(name)
#define TAKE_INT(name) TAKE(name)
#define TAKE_REAL(name) TAKE(name)
#define TAKE_CHOICE(name) TAKE(name)
#define TAKE_TEXT(name)
#define TAKE_data(type, name)
#define TAKE_model(type, name) TAKE_##type(name)
#define TAKE_train(type, name)
#define TAKE_output(type, name)
#define TAKE_runtime(type, name)
#define AV_SECTION(name, sentence)
#define AV_SECTION_END(name)
#define AV_KEY(section, name, type, default_value, low, high, choices, sentence) \
  TAKE_##section(type, name)

static av_status take_model_section(av_config *mine, const av_config *theirs) {
  av_status status = AV_OK;
#include "config/config.def"
  return status;
}

/* The list becomes a copy of names. */
static av_status replace_list(av_name_list *list, const av_names *names) {
  av_name_list copy = {.at = av_calloc((size_t)names->n, sizeof *copy.at)};
  AV_TRY_ALLOC(copy.at);
  while (copy.n < names->n) {
    copy.at[copy.n] = av_strdup(names->at[copy.n]);
    if (copy.at[copy.n] == NULL) {
      break;
    }
    ++copy.n;
  }
  const bool whole = copy.n == names->n;
  av_name_list *unwanted = whole ? list : &copy;
  for (int64_t i = 0; i < unwanted->n; ++i) {
    free(unwanted->at[i]);
  }
  free(unwanted->at);
  if (!whole) {
    return av_fail(AV_NOMEM, "out of memory (%lld names)", (long long)names->n);
  }
  *list = copy;
  return AV_OK;
}

/* The first names of a list, for a message. Owned by the caller; NULL when out of memory. */
static char *listed(const av_names *names) {
  enum { SHOWN = 20 };
  char *text = av_strdup("");
  for (int64_t i = 0; text != NULL && i < names->n && i < SHOWN; ++i) {
    char *longer = av_format("%s%s%s", text, i > 0 ? ", " : "", names->at[i]);
    free(text);
    text = longer;
  }
  if (text != NULL && names->n > SHOWN) {
    char *longer = av_format("%s and %lld more", text, (long long)(names->n - SHOWN));
    free(text);
    text = longer;
  }
  return text;
}

static bool same_set(const av_name_list *list, const av_names *names) {
  bool same = list->n == names->n; /* neither holds a name twice */
  for (int64_t i = 0; i < list->n && same; ++i) {
    bool found = false;
    for (int64_t j = 0; j < names->n && !found; ++j) {
      found = strcmp(list->at[i], names->at[j]) == 0;
    }
    same = found;
  }
  return same;
}

/* Covariates: the model's columns. The user may name them, in any order. */
static av_status take_covariates(const char *key, const av_names *names, av_config *config,
                                 av_name_list *list) {
  if (list->n > 0 && !same_set(list, names)) {
    char *known = names->n == 0 ? av_strdup("none") : listed(names);
    const av_status status = av_fail(
        AV_CONFIG, "%s: the model in %s was fitted with other covariates (%s); leave the key out",
        av_config_where(config, "data", key), config->model.load, known == NULL ? "" : known);
    free(known);
    return status;
  }
  return replace_list(list, names);
}

static av_status check_size_factor(const av_config *config, const av_config *theirs) {
  const bool wanted = theirs->data.size_factor_key != NULL;
  if (wanted == (config->data.size_factor_key != NULL)) {
    return AV_OK;
  }
  if (wanted) {
    return av_fail(AV_CONFIG,
                   "%s: the model was fitted with size factors (obs[%s]); say which obs column "
                   "holds them with [data] size_factor_key",
                   config->model.load, theirs->data.size_factor_key);
  }
  return av_fail(AV_CONFIG,
                 "%s: the model in %s was fitted without size factors; leave the key out",
                 av_config_where(config, "data", "size_factor_key"), config->model.load);
}

/* The model is used as it is, without training. */
static bool is_applied(const av_config *config) { return config->train.max_epochs == 0; }

static av_status check_labels_key(const av_model_file *file, const av_config *config) {
  if (file->labels.n == 0 || is_applied(config) || config->data.labels_key != NULL) {
    return AV_OK;
  }
  return av_fail(AV_CONFIG,
                 "%s: the model's dispersion is by label: to train it further say which obs column "
                 "holds the labels with [data] labels_key, or apply it with [train] max_epochs = 0",
                 config->model.load);
}

static av_status first_of(av_status status, av_status next) {
  return status == AV_OK ? next : status;
}

/* Every fault is recorded. */
static av_status take_settings(const av_model_file *file, const av_config *theirs,
                               av_config *config) {
  av_status status = take_model_section(config, theirs);
  status = first_of(status, take_covariates("categorical_covariate_keys", &file->categorical_names,
                                            config, &config->data.categorical_covariate_keys));
  status = first_of(status, take_covariates("continuous_covariate_keys", &file->continuous_names,
                                            config, &config->data.continuous_covariate_keys));
  status = first_of(status, check_size_factor(config, theirs));
  return first_of(status, check_labels_key(file, config));
}

av_status av_saved_apply_settings(const av_model_file *file, av_config *config) {
  av_config theirs = {0};
  av_status status = av_config_defaults(&theirs);
  if (status == AV_OK) {
    status = av_config_parse(&theirs, config->model.load, file->settings, 0, NULL);
  }
  if (status == AV_OK) {
    status = take_settings(file, &theirs, config);
  }
  av_config_free(&theirs);
  AV_TRY(status);
  if (!config->output.loadings_given) {
    config->output.loadings = config->model.linear_decoder;
  }
  return config->data.subset_genes_given ? AV_OK
                                         : replace_list(&config->data.subset_genes, &file->genes);
}

/* ---- data ---- */

static av_status match_genes(const av_model_file *file, const av_config *config,
                             const av_dataset *dataset) {
  if (dataset->genes.n != file->genes.n) {
    return av_fail(AV_CONFIG, "%s: the model has %lld genes, the data %lld", config->model.load,
                   (long long)file->genes.n, (long long)dataset->genes.n);
  }
  for (int64_t g = 0; g < dataset->genes.n; ++g) {
    if (strcmp(dataset->genes.at[g], file->genes.at[g]) != 0) {
      return av_fail(AV_CONFIG,
                     "%s: gene %lld of the model is %s, but the data gives %s there; leave [data] "
                     "subset_genes out",
                     config->model.load, (long long)g, file->genes.at[g], dataset->genes.at[g]);
    }
  }
  return AV_OK;
}

static av_status fail_unknown(const av_dataset *dataset, const char *what, const char *name,
                              const av_names *known) {
  char *list = listed(known);
  const av_status status =
      av_fail(AV_BADDATA,
              "%s: %s \"%s\" is not one the model knows (%s); rename it, or leave its cells out",
              dataset->input_path, what, name, list == NULL ? "" : list);
  free(list);
  return status;
}

static av_status replace_levels(av_factor *factor, const av_names *known) {
  av_names levels = {0};
  AV_TRY(av_names_copy(&levels, known->n, (const char *const *)known->at));
  av_names_free(&factor->levels);
  factor->levels = levels;
  return AV_OK;
}

/* Place of each level among the known ones, -1 if it is not one: with `strict` that is an error.
 * *unknown: the first such level, NULL if all are known. */
static av_status place_levels(const av_dataset *dataset, const char *what, const av_factor *factor,
                              const av_names *known, bool strict, int32_t *place,
                              const char **unknown) {
  av_name_index *index = NULL;
  av_status status = av_name_index_create(&index, known);
  *unknown = NULL;
  for (int64_t s = 0; status == AV_OK && s < factor->levels.n; ++s) {
    place[s] = (int32_t)av_name_index_find(index, factor->levels.at[s]);
    if (place[s] < 0 && *unknown == NULL) {
      *unknown = factor->levels.at[s];
      status = strict ? fail_unknown(dataset, what, *unknown, known) : AV_OK;
    }
  }
  av_name_index_free(&index);
  return status;
}

/* Renumbers a factor to the known levels. Not strict: a level that is not one of them counts as
 * missing, with a warning. */
static av_status match_factor(const av_dataset *dataset, const char *what, const av_names *known,
                              bool strict, av_factor *factor) {
  int32_t *place = av_malloc((size_t)factor->levels.n, sizeof *place);
  const char *unknown = NULL;
  AV_TRY_ALLOC(place);
  av_status status = place_levels(dataset, what, factor, known, strict, place, &unknown);
  if (status == AV_OK) {
    if (unknown != NULL) {
      av_warn("%s: %s \"%s\" is not one the model knows: cells like that have no likelihood",
              dataset->input_path, what, unknown);
    }
    for (int64_t i = 0; i < dataset->n_local; ++i) {
      factor->code[i] = factor->code[i] < 0 ? -1 : place[factor->code[i]];
    }
    status = replace_levels(factor, known);
  }
  free(place);
  return status;
}

/* A factor of one level, which the model does not look at. */
static av_status forget_factor(const av_dataset *dataset, const av_names *known,
                               av_factor *factor) {
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    factor->code[i] = 0;
  }
  return replace_levels(factor, known);
}

static av_status match_batches(const av_model_file *file, const av_config *config,
                               av_dataset *dataset) {
  const int64_t n_model = file->batches.n;
  if (n_model > 1 && config->data.batch_key == NULL) {
    return av_fail(AV_CONFIG,
                   "%s: the model has %lld batches; say which obs column holds them with [data] "
                   "batch_key",
                   config->model.load, (long long)n_model);
  }
  if (n_model == 1 && dataset->has_batch) {
    av_warn("%s: the model was fitted without batches: obs[%s] is not used", config->model.load,
            config->data.batch_key);
  }
  dataset->has_batch = n_model > 1;
  return n_model == 1 ? forget_factor(dataset, &file->batches, &dataset->batch)
                      : match_factor(dataset, "batch", &file->batches, true, &dataset->batch);
}

static av_status match_covariate(const av_model_file *file, const av_config *config, int64_t c,
                                 av_dataset *dataset) {
  const char *key = file->categorical_names.at[c];
  const av_names *known = &file->categories[c];
  av_factor *factor = &dataset->categorical[c];
  if (known->n == 1) {
    if (factor->levels.n > 1 || strcmp(factor->levels.at[0], known->at[0]) != 0) {
      av_warn("%s: obs[%s] was \"%s\" in every cell the model was fitted to: it is not used",
              config->model.load, key, known->at[0]);
    }
    return forget_factor(dataset, known, factor);
  }
  char *what = av_format("obs[%s]", key);
  AV_TRY_ALLOC(what);
  const av_status status = match_factor(dataset, what, known, true, factor);
  free(what);
  return status;
}

static bool same_names(const av_names *a, const av_names *b) {
  bool same = a->n == b->n;
  for (int64_t i = 0; same && i < a->n; ++i) {
    same = strcmp(a->at[i], b->at[i]) == 0;
  }
  return same;
}

static av_status match_covariates(const av_model_file *file, const av_config *config,
                                  av_dataset *dataset) {
  if (!same_names(&file->categorical_names, &dataset->categorical_names) ||
      !same_names(&file->continuous_names, &dataset->continuous_names)) {
    return AV_FAIL_BUG("the data were read with other covariates than the model's");
  }
  for (int64_t c = 0; c < file->n_categorical; ++c) {
    AV_TRY(match_covariate(file, config, c, dataset));
  }
  return AV_OK;
}

/* Labels concern the model only where px_r has a column for each. */
static av_status match_labels(const av_model_file *file, const av_config *config,
                              av_dataset *dataset) {
  if (file->labels.n == 0) {
    return AV_OK;
  }
  av_factor *label = &dataset->label;
  if (config->data.labels_key != NULL) {
    char *what = av_format("label obs[%s]", config->data.labels_key);
    AV_TRY_ALLOC(what);
    const av_status status = match_factor(dataset, what, &file->labels, !is_applied(config), label);
    free(what);
    return status;
  }
  AV_TRY(check_labels_key(file, config));
  label->code = av_malloc((size_t)dataset->n_local, sizeof *label->code);
  AV_TRY_ALLOC(label->code);
  for (int64_t i = 0; i < dataset->n_local; ++i) {
    label->code[i] = -1;
  }
  return replace_levels(label, &file->labels);
}

av_status av_saved_match(const av_comm *comm, const av_model_file *file, const av_config *config,
                         av_dataset *dataset) {
  av_status status = match_genes(file, config, dataset);
  if (status == AV_OK) {
    status = match_batches(file, config, dataset);
  }
  if (status == AV_OK) {
    status = match_covariates(file, config, dataset);
  }
  if (status == AV_OK) {
    status = match_labels(file, config, dataset);
  }
  if (status == AV_OK) {
    status = av_dataset_design(dataset);
  }
  return av_agree(comm, status);
}

av_status av_saved_likelihood(const av_comm *comm, const av_config *config,
                              const av_dataset *dataset, bool *known) {
  int64_t n_without = 0;
  if (config->model.dispersion == AV_DISPERSION_GENE_LABEL) {
    for (int64_t i = 0; i < dataset->n_local; ++i) {
      const bool without = dataset->label.code == NULL || dataset->label.code[i] < 0;
      n_without += dataset->library[i] > 0.0 && without;
    }
  }
  AV_TRY(av_sum_i64(comm, &n_without, 1));
  *known = n_without == 0;
  return AV_OK;
}
