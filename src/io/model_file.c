/* The saved model. Layout: root attributes `format`, `format-version`, `exact`; datasets genes,
 * batches, settings; group arrays with a dataset for each array, under its name. Where the model
 * has them: datasets labels, categorical_covariates and continuous_covariates (names of obs
 * columns), and group categories with a dataset 0, 1, ... for each categorical covariate. A
 * checksum follows (io/trailer.h).
 */
#include "io/model_file.h"

#include "base/memory.h"
#include "io/h5.h"
#include "io/h5ad_put.h"
#include "io/safe_file.h"
#include "io/trailer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char FORMAT[] = "atlasvi-model";
enum { FORMAT_VERSION = 1 };

static const char KEY_FORMAT[] = "format";
static const char KEY_VERSION[] = "format-version";
static const char KEY_EXACT[] = "exact";
static const char LINK_GENES[] = "genes";
static const char LINK_BATCHES[] = "batches";
static const char LINK_LABELS[] = "labels";
static const char LINK_CATEGORICAL[] = "categorical_covariates";
static const char LINK_CATEGORIES[] = "categories";
static const char LINK_CONTINUOUS[] = "continuous_covariates";
static const char LINK_SETTINGS[] = "settings";
static const char LINK_ARRAYS[] = "arrays";

void av_model_file_free(av_model_file *model) {
  for (int64_t i = 0; model->arrays != NULL && i < model->n_arrays; ++i) {
    free(model->arrays[i].name);
    free(model->arrays[i].values);
  }
  free(model->arrays);
  av_names_free(&model->genes);
  av_names_free(&model->batches);
  av_names_free(&model->labels);
  for (int64_t c = 0; model->categories != NULL && c < model->n_categorical; ++c) {
    av_names_free(&model->categories[c]);
  }
  free(model->categories);
  av_names_free(&model->categorical_names);
  av_names_free(&model->continuous_names);
  free(model->settings);
  *model = (av_model_file){0};
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static av_status put_integer_attribute(hid_t object, const char *name, int64_t value,
                                       const char *what) {
  hid_t space = -1;
  hid_t attribute = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(space, H5Screate(H5S_SCALAR), what), done);
  AV_GO(status,
        AV_H5_ID(attribute,
                 H5Acreate2(object, name, H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT), what),
        done);
  AV_GO(status, AV_H5(H5Awrite(attribute, H5T_NATIVE_INT64, &value), what), done);

done:
  av_h5_close(&attribute);
  av_h5_close(&space);
  return status;
}

static av_status put_array(hid_t group, const av_named_array *array, bool exact, const char *what) {
  const hsize_t dims[2] = {(hsize_t)array->shape[0], (hsize_t)array->shape[1]};
  const int64_t n = av_array_elements(array);
  float *narrow = NULL;
  if (strchr(array->name, '/') != NULL) {
    return AV_FAIL_BUG("the array name \"%s\" cannot be an HDF5 link", array->name);
  }
  if (!exact) {
    narrow = av_calloc((size_t)n, sizeof *narrow);
    AV_TRY_ALLOC(narrow);
    for (int64_t i = 0; i < n; ++i) {
      narrow[i] = (float)array->values[i];
    }
  }
  const av_status status = av_put_numbers(group, array->name, array->n_dims, dims,
                                          exact ? H5T_IEEE_F64LE : H5T_IEEE_F32LE,
                                          exact ? H5T_NATIVE_DOUBLE : H5T_NATIVE_FLOAT,
                                          exact ? (const void *)array->values : narrow, what);
  free(narrow);
  return status;
}

static av_status put_arrays(hid_t h5, const av_model_file *model, const char *what) {
  hid_t creation = -1;
  hid_t group = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(creation, H5Pcreate(H5P_GROUP_CREATE), what), done);
  AV_GO(status,
        AV_H5(H5Pset_link_creation_order(creation, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED),
              what),
        done);
  AV_GO(status,
        AV_H5_ID(group, H5Gcreate2(h5, LINK_ARRAYS, H5P_DEFAULT, creation, H5P_DEFAULT), what),
        done);
  for (int64_t i = 0; i < model->n_arrays; ++i) {
    AV_GO(status, put_array(group, &model->arrays[i], model->exact, what), done);
  }

done:
  av_h5_close(&group);
  av_h5_close(&creation);
  return status;
}

static av_status put_names(hid_t h5, const char *link, const av_names *names, const char *what) {
  return av_put_plain_strings(h5, link, names->n, (const char *const *)names->at, what);
}

static av_status put_names_if_any(hid_t h5, const char *link, const av_names *names,
                                  const char *what) {
  return names->n > 0 ? put_names(h5, link, names, what) : AV_OK;
}

/* Link of the categories of covariate c. */
static const char *categories_link(int64_t c, char room[64]) {
  snprintf(room, 64, "%s/%lld", LINK_CATEGORIES, (long long)c);
  return room;
}

static av_status put_covariates(hid_t h5, const av_model_file *model, const char *what) {
  AV_TRY(put_names_if_any(h5, LINK_LABELS, &model->labels, what));
  AV_TRY(put_names_if_any(h5, LINK_CONTINUOUS, &model->continuous_names, what));
  AV_TRY(put_names_if_any(h5, LINK_CATEGORICAL, &model->categorical_names, what));
  if (model->n_categorical == 0) {
    return AV_OK;
  }
  hid_t group = -1;
  AV_TRY(AV_H5_ID(group, H5Gcreate2(h5, LINK_CATEGORIES, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                  what));
  av_h5_close(&group);
  for (int64_t c = 0; c < model->n_categorical; ++c) {
    char room[64];
    AV_TRY(put_names(h5, categories_link(c, room), &model->categories[c], what));
  }
  return AV_OK;
}

static av_status put_model(hid_t h5, const av_model_file *model, const char *what) {
  const char *settings = model->settings == NULL ? "" : model->settings;
  AV_TRY(av_put_text_attribute(h5, KEY_FORMAT, FORMAT, what));
  AV_TRY(put_integer_attribute(h5, KEY_VERSION, FORMAT_VERSION, what));
  AV_TRY(put_integer_attribute(h5, KEY_EXACT, model->exact, what));
  AV_TRY(put_names(h5, LINK_GENES, &model->genes, what));
  AV_TRY(put_names(h5, LINK_BATCHES, &model->batches, what));
  AV_TRY(put_covariates(h5, model, what));
  AV_TRY(av_put_plain_strings(h5, LINK_SETTINGS, 1, &settings, what));
  return put_arrays(h5, model, what);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static av_status fail_damaged(const char *path, const char *part) {
  return av_fail(AV_BADDATA,
                 "%s: damaged: %s is not what was saved; use another copy of this model", path,
                 part);
}

/* Any failure inside a file that was recognised as a model means that it is damaged. */
static av_status as_damage(av_status status) { return status == AV_IOERR ? AV_BADDATA : status; }

static av_status get_integer_attribute(hid_t object, const char *name, int64_t *value,
                                       const char *what) {
  hid_t attribute = -1;
  hid_t space = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(attribute, H5Aopen(object, name, H5P_DEFAULT), what), done);
  AV_GO(status, AV_H5_ID(space, H5Aget_space(attribute), what), done);
  if (H5Sget_simple_extent_npoints(space) != 1) {
    AV_GO(status, fail_damaged(what, name), done);
  }
  AV_GO(status, AV_H5(H5Aread(attribute, H5T_NATIVE_INT64, value), what), done);

done:
  av_h5_close(&space);
  av_h5_close(&attribute);
  return status;
}

/* Shape and type of an open array; what it needs is checked against what the file holds of it. */
static av_status get_shape(hid_t dataset, av_named_array *array, const char *path) {
  hid_t space = -1;
  hid_t type = -1;
  hsize_t dims[H5S_MAX_RANK] = {0};
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(space, H5Dget_space(dataset), path), done);
  AV_GO(status, AV_H5_ID(type, H5Dget_type(dataset), path), done);
  array->n_dims = H5Sget_simple_extent_dims(space, dims, NULL);
  if (array->n_dims < 0 || array->n_dims > 2 || H5Tget_class(type) != H5T_FLOAT) {
    AV_GO(status, fail_damaged(path, array->name), done);
  }
  for (int i = 0; i < array->n_dims; ++i) {
    array->shape[i] = (int64_t)dims[i];
  }
  const hssize_t n = H5Sget_simple_extent_npoints(space);
  if (n < 0 || H5Dget_storage_size(dataset) != (hsize_t)n * H5Tget_size(type)) {
    status = fail_damaged(path, array->name);
  }

done:
  av_h5_close(&type);
  av_h5_close(&space);
  return status;
}

static av_status get_array(hid_t group, av_named_array *array, const char *path) {
  hid_t dataset = -1;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(dataset, H5Dopen2(group, array->name, H5P_DEFAULT), path), done);
  AV_GO(status, get_shape(dataset, array, path), done);
  array->values = av_calloc((size_t)av_array_elements(array), sizeof *array->values);
  if (array->values == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", array->name), done);
  }
  AV_GO(status,
        AV_H5(H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, array->values),
              path),
        done);

done:
  av_h5_close(&dataset);
  return status;
}

/* Name of link i of a group, in the order in which they were made where that is known. Owned. */
static av_status link_name(hid_t group, int64_t i, char **name, const char *path) {
  const H5_index_t orders[2] = {H5_INDEX_CRT_ORDER, H5_INDEX_NAME};
  for (int k = 0; k < 2; ++k) {
    const ssize_t length =
        H5Lget_name_by_idx(group, ".", orders[k], H5_ITER_INC, (hsize_t)i, NULL, 0, H5P_DEFAULT);
    if (length < 0) {
      continue;
    }
    *name = av_calloc((size_t)length + 1, 1);
    AV_TRY_ALLOC(*name);
    return AV_H5(H5Lget_name_by_idx(group, ".", orders[k], H5_ITER_INC, (hsize_t)i, *name,
                                    (size_t)length + 1, H5P_DEFAULT),
                 path);
  }
  return fail_damaged(path, LINK_ARRAYS);
}

static av_status get_arrays(hid_t h5, av_model_file *model, const char *path) {
  hid_t group = -1;
  H5G_info_t info;
  av_status status = AV_OK;
  AV_GO(status, AV_H5_ID(group, H5Gopen2(h5, LINK_ARRAYS, H5P_DEFAULT), path), done);
  AV_GO(status, AV_H5(H5Gget_info(group, &info), path), done);
  model->arrays = av_calloc((size_t)info.nlinks, sizeof *model->arrays);
  if (model->arrays == NULL) {
    AV_GO(status, av_fail(AV_NOMEM, "out of memory (%s)", path), done);
  }
  model->n_arrays = (int64_t)info.nlinks;
  for (int64_t i = 0; i < model->n_arrays; ++i) {
    AV_GO(status, link_name(group, i, &model->arrays[i].name, path), done);
    AV_GO(status, get_array(group, &model->arrays[i], path), done);
  }

done:
  av_h5_close(&group);
  return status;
}

/* Is it a model at all, and of a version that this program knows? */
static av_status check_format(hid_t h5, const char *path) {
  char *format = NULL;
  int64_t version = 0;
  AV_TRY(av_h5_attribute_text(h5, KEY_FORMAT, &format));
  const bool known = format != NULL && strcmp(format, FORMAT) == 0;
  free(format);
  if (!known) {
    return av_fail(AV_BADDATA, "%s: not a model saved by atlasvi (.model.h5)", path);
  }
  AV_TRY(get_integer_attribute(h5, KEY_VERSION, &version, path));
  if (version != FORMAT_VERSION) {
    return av_fail(AV_BADDATA,
                   "%s: a model of format version %lld; this atlasvi reads version %d: use the "
                   "atlasvi that saved it, or fit anew",
                   path, (long long)version, (int)FORMAT_VERSION);
  }
  return AV_OK;
}

static av_status get_names_if_any(hid_t h5, const char *link, const char *path, av_names *names) {
  bool exists = false;
  AV_TRY(av_h5_exists(h5, link, &exists));
  return exists ? av_h5_read_strings(h5, link, path, names, NULL) : AV_OK;
}

static av_status get_covariates(hid_t h5, av_model_file *model, const char *path) {
  AV_TRY(get_names_if_any(h5, LINK_LABELS, path, &model->labels));
  AV_TRY(get_names_if_any(h5, LINK_CONTINUOUS, path, &model->continuous_names));
  AV_TRY(get_names_if_any(h5, LINK_CATEGORICAL, path, &model->categorical_names));
  const int64_t n = model->categorical_names.n;
  model->categories = av_calloc((size_t)n, sizeof *model->categories);
  AV_TRY_ALLOC(model->categories);
  model->n_categorical = n;
  for (int64_t c = 0; c < n; ++c) {
    char room[64];
    AV_TRY(av_h5_read_strings(h5, categories_link(c, room), path, &model->categories[c], NULL));
    if (model->categories[c].n == 0) {
      return fail_damaged(path, room);
    }
  }
  return AV_OK;
}

static av_status get_model(hid_t h5, av_model_file *model, const char *path) {
  av_names settings = {0};
  int64_t exact = 0;
  AV_TRY(check_format(h5, path));
  AV_TRY(get_integer_attribute(h5, KEY_EXACT, &exact, path));
  model->exact = exact != 0;
  AV_TRY(av_h5_read_strings(h5, LINK_GENES, path, &model->genes, NULL));
  AV_TRY(av_h5_read_strings(h5, LINK_BATCHES, path, &model->batches, NULL));
  AV_TRY(get_covariates(h5, model, path));
  av_status status = av_h5_read_strings(h5, LINK_SETTINGS, path, &settings, NULL);
  if (status == AV_OK) {
    model->settings = settings.n == 1 ? av_strdup(settings.at[0]) : NULL;
    status = model->settings == NULL ? fail_damaged(path, LINK_SETTINGS) : AV_OK;
  }
  av_names_free(&settings);
  AV_TRY(status);
  return get_arrays(h5, model, path);
}

static av_status open_model(hid_t *h5, const char *path) {
  AV_TRY(av_trailer_check(path));
  if (H5Fis_hdf5(path) <= 0) {
    return av_fail(AV_BADDATA, "%s: not a model saved by atlasvi (.model.h5): not an HDF5 file",
                   path);
  }
  if (av_output_reopen(h5, path) != AV_OK) {
    av_error_clear();
    return av_fail(AV_BADDATA, "%s: damaged or truncated: HDF5 cannot open it", path);
  }
  return AV_OK;
}

/* `path` is opened, `shown` is named in messages. */
static av_status read_model(const char *path, const char *shown, av_model_file *model) {
  hid_t h5 = -1;
  *model = (av_model_file){0};
  AV_TRY(open_model(&h5, path));
  const av_status status = as_damage(get_model(h5, model, shown));
  av_h5_close(&h5);
  return status;
}

/* ---- the two of them --------------------------------------------------------------------------
 */

static bool same_names(const av_names *a, const av_names *b) {
  bool same = a->n == b->n;
  for (int64_t i = 0; same && i < a->n; ++i) {
    same = strcmp(a->at[i], b->at[i]) == 0;
  }
  return same;
}

/* Bit for bit, NaN included, in the precision that was stored. */
static bool same_array(const av_named_array *a, const av_named_array *b, bool exact) {
  bool same = strcmp(a->name, b->name) == 0 && a->n_dims == b->n_dims;
  for (int i = 0; same && i < a->n_dims; ++i) {
    same = a->shape[i] == b->shape[i];
  }
  const int64_t n = same ? av_array_elements(a) : 0;
  for (int64_t i = 0; same && i < n; ++i) {
    const double first = exact ? a->values[i] : (double)(float)a->values[i];
    uint64_t bits[2];
    memcpy(&bits[0], &first, sizeof first);
    memcpy(&bits[1], &b->values[i], sizeof first);
    same = bits[0] == bits[1];
  }
  return same;
}

static bool same_model(const av_model_file *a, const av_model_file *b) {
  bool same = a->n_arrays == b->n_arrays && a->exact == b->exact &&
              same_names(&a->genes, &b->genes) && same_names(&a->batches, &b->batches) &&
              same_names(&a->labels, &b->labels) && a->n_categorical == b->n_categorical &&
              same_names(&a->categorical_names, &b->categorical_names) &&
              same_names(&a->continuous_names, &b->continuous_names) &&
              strcmp(a->settings == NULL ? "" : a->settings, b->settings) == 0;
  for (int64_t c = 0; same && c < a->n_categorical; ++c) {
    same = same_names(&a->categories[c], &b->categories[c]);
  }
  for (int64_t i = 0; same && i < a->n_arrays; ++i) {
    same = same_array(&a->arrays[i], &b->arrays[i], a->exact);
  }
  return same;
}

static av_status verify(const av_safe_file *file, const av_model_file *model) {
  av_model_file back = {0};
  av_status status = read_model(file->temporary, file->path, &back);
  if (status == AV_OK && !same_model(model, &back)) {
    status = av_fail(AV_IOERR,
                     "%s: read back with other values than written: the disk, or a file system on "
                     "the way, is not reliable",
                     file->path);
  }
  av_model_file_free(&back);
  return status == AV_BADDATA ? AV_IOERR : status;
}

static av_status write_model(av_safe_file *file, const av_model_file *model) {
  hid_t h5 = -1;
  AV_TRY(av_safe_file_open(file, true, &h5));
  av_status status = av_safe_file_failed(file, put_model(h5, model, file->path));
  if (status == AV_OK) {
    status = av_safe_file_close(file, &h5);
  }
  av_h5_close(&h5);
  AV_TRY(status);
  AV_TRY(av_trailer_append(file));
  AV_TRY(av_safe_file_sync(file));
  AV_TRY(verify(file, model));
  return av_safe_file_commit(file);
}

av_status av_model_file_write(const av_comm *comm, const char *path, bool overwrite,
                              const av_model_file *model) {
  av_status status = AV_OK;
  if (comm->rank == 0) {
    av_safe_file file = {0};
    status = av_safe_file_begin(&file, path, overwrite);
    if (status == AV_OK) {
      status = write_model(&file, model);
    }
    av_safe_file_discard(&file);
  }
  return av_agree(comm, status);
}

av_status av_model_file_read(const av_comm *comm, const char *path, av_model_file *model) {
  *model = (av_model_file){0};
  av_status status = av_agree(comm, comm->rank == 0 ? read_model(path, path, model) : AV_OK);
  if (status == AV_OK) {
    status = av_model_file_share(comm, model);
  }
  if (status != AV_OK) {
    av_model_file_free(model);
  }
  return status;
}
