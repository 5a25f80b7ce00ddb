#include "model/saved.h"

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

static av_status copy_names(av_names *copy, const av_names *names) {
  return av_names_copy(copy, names->n, (const char *const *)names->at);
}

/* Batches, covariates, and labels where px_r has columns for them. */
static av_status export_categories(const av_dataset *dataset, const av_layout *layout,
                                   av_model_file *file) {
  AV_TRY(copy_names(&file->batches, &dataset->batch.levels));
  AV_TRY(copy_names(&file->continuous_names, &dataset->continuous_names));
  AV_TRY(copy_names(&file->categorical_names, &dataset->categorical_names));
  file->categories = av_calloc((size_t)dataset->n_categorical, sizeof *file->categories);
  AV_TRY_ALLOC(file->categories);
  file->n_categorical = dataset->n_categorical;
  for (int64_t c = 0; c < dataset->n_categorical; ++c) {
    AV_TRY(copy_names(&file->categories[c], &dataset->categorical[c].levels));
  }
  return layout->spec.n_labels > 0 ? copy_names(&file->labels, &dataset->label.levels) : AV_OK;
}

static av_status export_all(const av_config *config, const av_dataset *dataset,
                            const av_layout *layout, const av_values *values, av_model_file *file) {
  file->arrays = av_calloc((size_t)layout->n_tensors + 2, sizeof *file->arrays);
  file->settings = av_config_text(config);
  AV_TRY_ALLOC(file->arrays);
  AV_TRY_ALLOC(file->settings);
  AV_TRY(copy_names(&file->genes, &dataset->genes));
  AV_TRY(export_categories(dataset, layout, file));
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
