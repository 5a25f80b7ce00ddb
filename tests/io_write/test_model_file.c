/* The saved model: what is written comes back on every rank; damage is noticed and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/memory.h"
#include "io/h5.h"
#include "io/model_file.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static av_comm comm; /* cmocka's tests take no arguments of ours */
static char folder[64] = "/tmp/atlasvi-model-XXXXXX";

enum { ROWS = 37, COLUMNS = 11, LONG = 2000, TRAILER = 64 };

static char *path_of(const char *name) {
  char *path = av_format("%s/%s", folder, name);
  assert_non_null(path);
  return path;
}

/* Rank 0 does something to a file; all wait for it. */
static void barrier(void) { assert_int_equal(MPI_Barrier(comm.mpi), MPI_SUCCESS); }

static double value_at(int64_t i) { return sin((double)i) * exp((double)(i % 50) - 25); }

static void make_model(av_model_file *model, bool exact) {
  static const char *const genes[] = {"A1BG", "gène", "bytes \xe9", "", "A1BG"};
  static const char *const batches[] = {"ctrl/1"};
  static const char *const names[] = {"z_encoder.encoder.fc_layers.Layer 0.0.weight", "px_r",
                                      "empty", "scalar"};
  static const int n_dims[] = {2, 1, 2, 0};
  static const int64_t shapes[][2] = {{ROWS, COLUMNS}, {LONG, 0}, {0, COLUMNS}, {0, 0}};
  *model = (av_model_file){.n_arrays = 4, .exact = exact};
  model->arrays = av_calloc(4, sizeof *model->arrays);
  assert_non_null(model->arrays);
  for (int a = 0; a < 4; ++a) {
    av_named_array *array = &model->arrays[a];
    *array = (av_named_array){.name = av_strdup(names[a]), .n_dims = n_dims[a]};
    int64_t n = 1;
    for (int i = 0; i < n_dims[a]; ++i) {
      array->shape[i] = shapes[a][i];
      n *= shapes[a][i];
    }
    array->values = av_calloc((size_t)n, sizeof(double));
    assert_non_null(array->values);
    for (int64_t i = 0; i < n; ++i) {
      array->values[i] = value_at(i + 1000 * a);
    }
  }
  assert_int_equal(av_names_copy(&model->genes, 5, genes), AV_OK);
  assert_int_equal(av_names_copy(&model->batches, 1, batches), AV_OK);
  static const char *const columns[] = {"sex/at birth", "site", "sex"};
  static const char *const categories[] = {"f", "", "naïve/m"};
  static const char *const numbers[] = {"age", "âge"};
  assert_int_equal(av_names_copy(&model->labels, 2, genes), AV_OK);
  assert_int_equal(av_names_copy(&model->continuous_names, 2, numbers), AV_OK);
  assert_int_equal(av_names_copy(&model->categorical_names, 3, columns), AV_OK);
  model->n_categorical = 3;
  model->categories = av_calloc(3, sizeof *model->categories);
  assert_non_null(model->categories);
  for (int c = 0; c < 3; ++c) {
    assert_int_equal(av_names_copy(&model->categories[c], c + 1, categories), AV_OK);
  }
  model->settings = av_strdup("[model]\nn_latent = 10 ; naïve\n");
}

static void assert_names_equal(const av_names *a, const av_names *b) {
  assert_int_equal(a->n, b->n);
  for (int64_t i = 0; i < a->n; ++i) {
    assert_string_equal(a->at[i], b->at[i]);
  }
}

static void round_trip(bool exact) {
  char *path = path_of(exact ? "exact.model.h5" : "m.model.h5");
  av_model_file model;
  av_model_file back;
  make_model(&model, exact);
  assert_int_equal(av_model_file_write(&comm, path, false, &model), AV_OK);
  assert_int_equal(av_model_file_read(&comm, path, &back), AV_OK);
  assert_int_equal(back.n_arrays, model.n_arrays);
  assert_int_equal(back.exact, exact);
  assert_names_equal(&back.genes, &model.genes);
  assert_names_equal(&back.batches, &model.batches);
  assert_names_equal(&back.labels, &model.labels);
  assert_names_equal(&back.continuous_names, &model.continuous_names);
  assert_names_equal(&back.categorical_names, &model.categorical_names);
  assert_int_equal(back.n_categorical, model.n_categorical);
  for (int64_t c = 0; c < model.n_categorical; ++c) {
    assert_names_equal(&back.categories[c], &model.categories[c]);
  }
  assert_string_equal(back.settings, model.settings);
  for (int64_t a = 0; a < model.n_arrays; ++a) {
    assert_string_equal(back.arrays[a].name, model.arrays[a].name);
    assert_int_equal(back.arrays[a].n_dims, model.arrays[a].n_dims);
    int64_t n = 1;
    for (int i = 0; i < model.arrays[a].n_dims; ++i) {
      assert_int_equal(back.arrays[a].shape[i], model.arrays[a].shape[i]);
      n *= model.arrays[a].shape[i];
    }
    for (int64_t i = 0; i < n; ++i) {
      const double wanted = exact ? value_at(i + 1000 * a) : (double)(float)value_at(i + 1000 * a);
      assert_true(back.arrays[a].values[i] == wanted);
    }
  }
  av_model_file_free(&back);
  assert_int_equal(av_model_file_write(&comm, path, false, &model), AV_CANTCREATE);
  assert_non_null(strstr(av_error_text(), "exists already"));
  av_error_clear();
  assert_int_equal(av_model_file_write(&comm, path, true, &model), AV_OK);
  av_model_file_free(&model);
  free(path);
}

static void single_precision_comes_back(void **state) {
  (void)state;
  round_trip(false);
}

static void double_precision_comes_back(void **state) {
  (void)state;
  round_trip(true);
}

/* Without covariates the file is what earlier versions wrote: it has no place for them. */
static void earlier_layout(void **state) {
  (void)state;
  char *path = path_of("plain.model.h5");
  av_model_file model = {.settings = av_strdup("[model]\n")};
  av_model_file back;
  static const char *const names[] = {"g"};
  assert_int_equal(av_names_copy(&model.genes, 1, names), AV_OK);
  assert_int_equal(av_names_copy(&model.batches, 1, names), AV_OK);
  assert_int_equal(av_model_file_write(&comm, path, false, &model), AV_OK);
  barrier();
  if (comm.rank == 0) {
    H5G_info_t info;
    const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(H5Gget_info(file, &info) >= 0);
    assert_int_equal(info.nlinks, 4); /* genes, batches, settings, arrays */
    assert_true(H5Fclose(file) >= 0);
  }
  barrier();
  assert_int_equal(av_model_file_read(&comm, path, &back), AV_OK);
  assert_int_equal(back.labels.n + back.n_categorical + back.continuous_names.n, 0);
  av_model_file_free(&back);
  av_model_file_free(&model);
  free(path);
}

/* Reading must fail with `code` and a line that holds both words. */
static void assert_refused(const char *path, av_status code, const char *first,
                           const char *second) {
  av_model_file model;
  assert_int_equal(av_model_file_read(&comm, path, &model), code);
  if (strstr(av_error_text(), first) == NULL || strstr(av_error_text(), second) == NULL ||
      strchr(av_error_text(), '\n') != NULL) {
    fail_msg("message: %s", av_error_text());
  }
  assert_null(model.arrays);
  av_error_clear();
}

/* A saved model as bytes. */
static unsigned char *saved_bytes(const char *path, size_t *n) {
  av_model_file model;
  make_model(&model, false);
  assert_int_equal(av_model_file_write(&comm, path, true, &model), AV_OK);
  av_model_file_free(&model);
  FILE *file = fopen(path, "rb");
  assert_non_null(file);
  struct stat facts;
  assert_int_equal(stat(path, &facts), 0);
  *n = (size_t)facts.st_size;
  unsigned char *bytes = av_calloc(*n, 1);
  assert_non_null(bytes);
  assert_int_equal(fread(bytes, 1, *n, file), *n);
  fclose(file);
  return bytes;
}

static void replace_file(const char *path, const unsigned char *bytes, size_t n) {
  barrier();
  if (comm.rank == 0) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
  }
  barrier();
}

static void missing_file(void **state) {
  (void)state;
  char *path = path_of("none.model.h5");
  assert_refused(path, AV_NOINPUT, "none.model.h5", "no such file");
  free(path);
  assert_refused(folder, AV_NOINPUT, folder, "not a file");
}

static void other_files(void **state) {
  (void)state;
  char *path = path_of("other.model.h5");
  replace_file(path, (const unsigned char *)"just text", 9);
  assert_refused(path, AV_BADDATA, "other.model.h5", "not an HDF5 file");
  barrier();
  if (comm.rank == 0) {
    const hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(file >= 0);
    assert_true(H5Fclose(file) >= 0);
  }
  barrier();
  assert_refused(path, AV_BADDATA, "other.model.h5", "not a model saved by atlasvi");
  free(path);
}

static void newer_version(void **state) {
  (void)state;
  char *path = path_of("newer.model.h5");
  size_t n = 0;
  free(saved_bytes(path, &n));
  barrier();
  if (comm.rank == 0) {
    const int64_t version = 2;
    const hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    const hid_t attribute = H5Aopen(file, "format-version", H5P_DEFAULT);
    assert_true(H5Awrite(attribute, H5T_NATIVE_INT64, &version) >= 0);
    assert_true(H5Aclose(attribute) >= 0 && H5Fclose(file) >= 0);
  }
  barrier();
  assert_refused(path, AV_BADDATA, "format version 2", "reads version 1");
  free(path);
}

static void truncated_file(void **state) {
  (void)state;
  char *path = path_of("short.model.h5");
  size_t n = 0;
  unsigned char *bytes = saved_bytes(path, &n);
  replace_file(path, bytes, n - 1); /* the model is whole, its checksum is not: read unchecked */
  av_model_file model;
  assert_int_equal(av_model_file_read(&comm, path, &model), AV_OK);
  av_model_file_free(&model);
  replace_file(path, bytes, n - TRAILER - 1);
  assert_refused(path, AV_BADDATA, "short.model.h5", "damaged or truncated");
  replace_file(path, bytes, 100);
  assert_refused(path, AV_BADDATA, "short.model.h5", "damaged or truncated");
  free(bytes);
  free(path);
}

/* Wherever a byte is damaged, HDF5 (which may crash on it) never sees the file. */
static void damage_anywhere(void **state) {
  (void)state;
  char *path = path_of("fuzz.model.h5");
  size_t n = 0;
  unsigned char *bytes = saved_bytes(path, &n);
  for (size_t at = 0; at < n - TRAILER; at += at < 8000 ? 61 : 397) {
    bytes[at] ^= 0x04;
    replace_file(path, bytes, n);
    bytes[at] ^= 0x04;
    assert_refused(path, AV_BADDATA, "fuzz.model.h5: damaged", "checksum");
  }
  free(bytes);
  free(path);
}

/* A script may change a weight: HDF5 then cuts the checksum off, and the file is read. */
static void changed_by_a_script(void **state) {
  (void)state;
  char *path = path_of("edited.model.h5");
  size_t n = 0;
  free(saved_bytes(path, &n));
  barrier();
  if (comm.rank == 0) {
    const double value = -7.5;
    const hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    const hid_t array = H5Dopen2(file, "arrays/scalar", H5P_DEFAULT);
    assert_true(H5Dwrite(array, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, &value) >= 0);
    assert_true(H5Dclose(array) >= 0 && H5Fclose(file) >= 0);
  }
  barrier();
  av_model_file model;
  assert_int_equal(av_model_file_read(&comm, path, &model), AV_OK);
  assert_string_equal(model.arrays[3].name, "scalar");
  assert_true(model.arrays[3].values[0] == -7.5);
  av_model_file_free(&model);
  free(path);
}

static int set_up(void **state) {
  (void)state;
  char *made = comm.rank == 0 ? mkdtemp(folder) : folder;
  return made == NULL || av_bcast(&comm, folder, sizeof folder) != AV_OK ? -1 : 0;
}

static int tear_down(void **state) {
  (void)state;
  static const char *const files[] = {"m.model.h5",     "exact.model.h5", "other.model.h5",
                                      "newer.model.h5", "short.model.h5", "edited.model.h5",
                                      "fuzz.model.h5",  "plain.model.h5"};
  barrier();
  for (size_t i = 0; comm.rank == 0 && i < sizeof files / sizeof files[0]; ++i) {
    char *path = path_of(files[i]);
    unlink(path);
    free(path);
  }
  return comm.rank == 0 && rmdir(folder) != 0 ? -1 : 0; /* fails if a temporary is left */
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(single_precision_comes_back),
      cmocka_unit_test(double_precision_comes_back),
      cmocka_unit_test(earlier_layout),
      cmocka_unit_test(missing_file),
      cmocka_unit_test(other_files),
      cmocka_unit_test(newer_version),
      cmocka_unit_test(truncated_file),
      cmocka_unit_test(damage_anywhere),
      cmocka_unit_test(changed_by_a_script),
  };
  if (av_comm_create(&comm, &argc, &argv) != AV_OK || av_h5_init() != AV_OK ||
      av_log_open(&comm, NULL) != AV_OK) {
    av_error_print();
    return 1;
  }
  const int failed = cmocka_run_group_tests(tests, set_up, tear_down);
  av_log_close();
  av_comm_free(&comm);
  return failed;
}
