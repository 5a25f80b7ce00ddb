#include "model/saved.h"

#include "base/log.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

av_status av_values_create(av_values *values, const av_layout *layout) {
  *values =
      (av_values){.params = av_calloc((size_t)layout->n_params, sizeof *values->params),
                  .running = av_calloc((size_t)layout->n_running, sizeof *values->running),
                  .prior = av_calloc((size_t)(2 * layout->spec.n_batches), sizeof *values->prior)};
  if (values->params == NULL || values->running == NULL || values->prior == NULL) {
    av_values_free(values);
    return av_fail(AV_NOMEM, "out of memory (%lld parameters)", (long long)layout->n_params);
  }
  return AV_OK;
}

void av_values_free(av_values *values) {
  free(values->params);
  free(values->running);
  free(values->prior);
  *values = (av_values){0};
}

/* ---- tensors and named arrays ---- */

/* Index of element (i, j) of a tensor in scvi-tools' row-major array. */
static int64_t place_there(const av_tensor *tensor, int64_t i, int64_t j) {
  return tensor->transposed ? j * tensor->rows + i : i * tensor->columns + j;
}

static double *values_of(const av_tensor *tensor, const av_values *values) {
  return (tensor->in_running ? values->running : values->params) + tensor->at;
}

static av_named_array shaped(const av_tensor *tensor) {
  av_named_array array = {.n_dims = tensor->n_dims};
  if (tensor->n_dims == 1) {
    array.shape[0] = tensor->columns;
  } else {
    array.shape[0] = tensor->transposed ? tensor->columns : tensor->rows;
    array.shape[1] = tensor->transposed ? tensor->rows : tensor->columns;
  }
  return array;
}

static av_status export_tensor(const av_tensor *tensor, const av_values *values,
                               av_named_array *array) {
  const double *from = values_of(tensor, values);
  *array = shaped(tensor);
  array->name = av_strdup(tensor->name);
  array->values = av_malloc((size_t)(tensor->rows * tensor->columns), sizeof *array->values);
  AV_TRY_ALLOC(array->name);
  AV_TRY_ALLOC(array->values);
  for (int64_t i = 0; i < tensor->rows; ++i) {
    for (int64_t j = 0; j < tensor->columns; ++j) {
      array->values[place_there(tensor, i, j)] = from[i * tensor->stride + j];
    }
  }
  return AV_OK;
}

/* Column `which` of the prior (S, 2) under scvi-tools' name. */
static av_status export_prior(const char *name, const av_values *values, int64_t batches,
                              int64_t which, av_named_array *array) {
  *array = (av_named_array){.name = av_strdup(name), .n_dims = 2, .shape = {1, batches}};
  array->values = av_malloc((size_t)batches, sizeof *array->values);
  AV_TRY_ALLOC(array->name);
  AV_TRY_ALLOC(array->values);
  for (int64_t s = 0; s < batches; ++s) {
    array->values[s] = values->prior[2 * s + which];
  }
  return AV_OK;
}

static av_status export_all(const av_config *config, const av_dataset *dataset,
                            const av_layout *layout, const av_values *values, av_model_file *file) {
  file->arrays = av_calloc((size_t)layout->n_tensors + 2, sizeof *file->arrays);
  file->settings = av_config_text(config);
  AV_TRY_ALLOC(file->arrays);
  AV_TRY_ALLOC(file->settings);
  AV_TRY(av_names_copy(&file->genes, dataset->genes.n, (const char *const *)dataset->genes.at));
  AV_TRY(av_names_copy(&file->batches, dataset->batch.levels.n,
                       (const char *const *)dataset->batch.levels.at));
  for (int64_t t = 0; t < layout->n_tensors; ++t) {
    AV_TRY(export_tensor(&layout->tensors[t], values, &file->arrays[file->n_arrays++]));
  }
  const int64_t batches = layout->spec.n_batches;
  AV_TRY(export_prior("library_log_means", values, batches, 0, &file->arrays[file->n_arrays++]));
  return export_prior("library_log_vars", values, batches, 1, &file->arrays[file->n_arrays++]);
}

av_status av_saved_write(const av_comm *comm, const av_config *config, const av_dataset *dataset,
                         const av_layout *layout, const av_values *values, bool exact) {
  av_model_file file = {.exact = exact};
  av_status status = AV_OK;
  if (comm->rank == 0) {
    status = export_all(config, dataset, layout, values, &file);
  }
  status = av_agree(comm, status);
  if (status == AV_OK) {
    status = av_model_file_write(comm, config->output.model, config->output.overwrite, &file);
  }
  av_model_file_free(&file);
  return status;
}

/* ---- loading ---- */

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

static av_status take_genes(const av_model_file *file, av_config *config) {
  if (config->data.subset_genes_given) {
    return AV_OK;
  }
  const int64_t n = file->genes.n;
  char **names = av_calloc((size_t)n, sizeof *names);
  AV_TRY_ALLOC(names);
  for (int64_t g = 0; g < n; ++g) {
    names[g] = av_strdup(file->genes.at[g]);
    if (names[g] == NULL) {
      while (g-- > 0) {
        free(names[g]);
      }
      free(names);
      return av_fail(AV_NOMEM, "out of memory (%lld gene names)", (long long)n);
    }
  }
  config->data.subset_genes = (av_name_list){.n = n, .at = names};
  return AV_OK;
}

av_status av_saved_apply_settings(const av_model_file *file, av_config *config) {
  av_config theirs = {0};
  av_status status = av_config_defaults(&theirs);
  if (status == AV_OK) {
    status = av_config_parse(&theirs, config->model.load, file->settings, 0, NULL);
  }
  if (status == AV_OK) {
    status = take_model_section(config, &theirs);
  }
  av_config_free(&theirs);
  AV_TRY(status);
  if (!config->output.loadings_given) {
    config->output.loadings = config->model.linear_decoder;
  }
  return take_genes(file, config);
}

/* The first names of a list, for a message. Owned by the caller. */
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

static av_status unknown_batch(const av_model_file *file, const av_dataset *dataset,
                               const char *name) {
  char *known = listed(&file->batches);
  const av_status status = av_fail(AV_BADDATA, "%s: batch \"%s\" is not one the model knows: %s",
                                   dataset->input_path, name, known == NULL ? "" : known);
  free(known);
  return status;
}

/* Renumbers batch codes to the model's. */
static av_status match_batches(const av_model_file *file, const av_config *config,
                               av_dataset *dataset) {
  const int64_t n_model = file->batches.n;
  if (n_model > 1 && config->data.batch_key == NULL) {
    return av_fail(AV_CONFIG,
                   "%s: the model has %lld batches; say which obs column holds them with [data] "
                   "batch_key",
                   config->model.load, (long long)n_model);
  }
  if (n_model == 1) {
    if (dataset->has_batch) {
      av_warn("%s: the model was fitted without batches: obs[%s] is not used", config->model.load,
              config->data.batch_key);
    }
    memset(dataset->batch.code, 0, (size_t)dataset->n_local * sizeof *dataset->batch.code);
    return AV_OK;
  }
  av_name_index *index = NULL;
  AV_TRY(av_name_index_create(&index, &file->batches));
  int32_t *place = av_malloc((size_t)dataset->batch.levels.n, sizeof *place);
  av_status status = place == NULL ? av_fail(AV_NOMEM, "out of memory (batches)") : AV_OK;
  for (int64_t s = 0; status == AV_OK && s < dataset->batch.levels.n; ++s) {
    place[s] = (int32_t)av_name_index_find(index, dataset->batch.levels.at[s]);
    if (place[s] < 0) {
      status = unknown_batch(file, dataset, dataset->batch.levels.at[s]);
    }
  }
  for (int64_t i = 0; status == AV_OK && i < dataset->n_local; ++i) {
    dataset->batch.code[i] = place[dataset->batch.code[i]];
  }
  free(place);
  av_name_index_free(&index);
  return status;
}

av_status av_saved_match(const av_comm *comm, const av_model_file *file, const av_config *config,
                         av_dataset *dataset) {
  av_status status = AV_OK;
  if (dataset->genes.n != file->genes.n) {
    status = av_fail(AV_CONFIG, "%s: the model has %lld genes, the data %lld", config->model.load,
                     (long long)file->genes.n, (long long)dataset->genes.n);
  }
  for (int64_t g = 0; status == AV_OK && g < dataset->genes.n; ++g) {
    if (strcmp(dataset->genes.at[g], file->genes.at[g]) != 0) {
      status =
          av_fail(AV_CONFIG,
                  "%s: gene %lld of the model is %s, but the data gives %s there; leave [data] "
                  "subset_genes out",
                  config->model.load, (long long)g, file->genes.at[g], dataset->genes.at[g]);
    }
  }
  if (status == AV_OK) {
    status = match_batches(file, config, dataset);
  }
  AV_TRY(av_agree(comm, status));
  av_names levels = {0};
  status = av_names_copy(&levels, file->batches.n, (const char *const *)file->batches.at);
  AV_TRY(av_agree(comm, status));
  av_names_free(&dataset->batch.levels);
  dataset->batch.levels = levels;
  dataset->has_batch = file->batches.n > 1;
  return AV_OK;
}

static const av_named_array *find(const av_model_file *file, const char *name) {
  for (int64_t i = 0; i < file->n_arrays; ++i) {
    if (strcmp(file->arrays[i].name, name) == 0) {
      return &file->arrays[i];
    }
  }
  return NULL;
}

static av_status import_tensor(const av_model_file *file, const char *path, const av_tensor *tensor,
                               const av_values *values) {
  const av_named_array wanted = shaped(tensor);
  const av_named_array *array = find(file, tensor->name);
  if (array == NULL) {
    return av_fail(AV_BADDATA, "%s: no array %s: not a complete model", path, tensor->name);
  }
  if (array->n_dims != wanted.n_dims || array->shape[0] != wanted.shape[0] ||
      (wanted.n_dims == 2 && array->shape[1] != wanted.shape[1])) {
    return av_fail(AV_BADDATA, "%s: %s has another shape than its settings say", path,
                   tensor->name);
  }
  double *into = values_of(tensor, values);
  const bool variance = tensor->in_running && strstr(tensor->name, "running_var") != NULL;
  for (int64_t i = 0; i < tensor->rows; ++i) {
    for (int64_t j = 0; j < tensor->columns; ++j) {
      const double value = array->values[place_there(tensor, i, j)];
      if (!isfinite(value)) {
        return av_fail(AV_BADDATA, "%s: %s holds a value that is not finite", path, tensor->name);
      }
      if (variance && value < 0.0) {
        return av_fail(AV_BADDATA, "%s: %s holds a negative variance", path, tensor->name);
      }
      into[i * tensor->stride + j] = value;
    }
  }
  return AV_OK;
}

av_status av_saved_values(const av_model_file *file, const av_layout *layout, const char *path,
                          av_values *values) {
  static const char *const prior[] = {"library_log_means", "library_log_vars"};
  for (int64_t t = 0; t < layout->n_tensors; ++t) {
    AV_TRY(import_tensor(file, path, &layout->tensors[t], values));
  }
  for (int64_t which = 0; which < 2; ++which) {
    const av_named_array *array = find(file, prior[which]);
    if (array == NULL || array->n_dims != 2 || array->shape[0] != 1 ||
        array->shape[1] != layout->spec.n_batches) {
      return av_fail(AV_BADDATA, "%s: no %s for %lld batch(es)", path, prior[which],
                     (long long)layout->spec.n_batches);
    }
    for (int64_t s = 0; s < layout->spec.n_batches; ++s) {
      const double value = array->values[s];
      if (!isfinite(value) || (which == 1 && value <= 0.0)) {
        return av_fail(AV_BADDATA, "%s: %s holds a value that is not %s", path, prior[which],
                       which == 1 ? "positive and finite" : "finite");
      }
      values->prior[2 * s + which] = value;
    }
  }
  return AV_OK;
}
