/* The saved model: scvi-tools' names and shapes, values that come back bit for bit, and what is
 * refused when a model meets other settings or other data. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/direct.h"
#include "model/rig.h"
#include "model/saved.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static av_comm comm;
static char folder[64] = "/tmp/atlasvi-saved-XXXXXX"; /* the same on all ranks */

static const char *path_of(const char *name) {
  static char path[128];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

/* Settings as a run has them, saved model in `model`. */
static av_config settings(const char *model, int n, char *const *more) {
  av_config config;
  char text[400];
  snprintf(text, sizeof text,
           "[data]\ninput = in.h5ad\n[output]\npath = out.h5ad\nmodel = %s\n"
           "overwrite = yes\n",
           path_of(model));
  assert_int_equal(av_config_defaults(&config), AV_OK);
  assert_int_equal(av_config_parse(&config, "run.ini", text, n, more), AV_OK);
  if (av_config_resolve(&config) != AV_OK) {
    fail_msg("%s", av_error_text());
  }
  return config;
}

/* A data set of names alone: batches in `order` (NULL: as they come), one cell of each batch. */
static av_dataset data_of(int64_t n_genes, int64_t n_batches, const char *const *batches) {
  av_dataset dataset = {.n_cells = n_batches,
                        .n_genes = n_genes,
                        .n_local = n_batches,
                        .has_batch = n_batches > 1,
                        .input_path = av_strdup("in.h5ad")};
  char texts[64][16];
  const char *names[64];
  for (int i = 0; i < 64; ++i) {
    snprintf(texts[i], sizeof texts[i], "gene%d", i);
    names[i] = texts[i];
  }
  assert_int_equal(av_names_copy(&dataset.genes, n_genes, names), AV_OK);
  assert_int_equal(av_names_copy(&dataset.batch.levels, n_batches, batches), AV_OK);
  dataset.batch.code = av_calloc((size_t)n_batches, sizeof *dataset.batch.code);
  for (int64_t i = 0; i < n_batches; ++i) {
    dataset.batch.code[i] = (int32_t)i;
  }
  return dataset;
}

static const char *const none[] = {""};
static const char *const abc[] = {"a", "b", "c"};

static void set_factor(av_factor *factor, int64_t n_local, int64_t n, const char *const *levels) {
  assert_int_equal(av_names_copy(&factor->levels, n, levels), AV_OK);
  factor->code = av_calloc((size_t)n_local, sizeof *factor->code);
  assert_non_null(factor->code);
  for (int64_t i = 0; i < n_local; ++i) {
    factor->code[i] = (int32_t)(i % n);
  }
}

static const char *const keys[] = {"sex", "site"};
static const char *const numbers[] = {"age", "days"};

/* Two categorical covariates with these levels, two continuous ones. */
static void add_covariates(av_dataset *dataset, int64_t n_sexes, const char *const *sexes,
                           int64_t n_sites, const char *const *sites) {
  const int64_t n = dataset->n_local;
  dataset->n_categorical = 2;
  dataset->n_continuous = 2;
  dataset->categorical = av_calloc(2, sizeof *dataset->categorical);
  assert_non_null(dataset->categorical);
  assert_int_equal(av_names_copy(&dataset->categorical_names, 2, keys), AV_OK);
  assert_int_equal(av_names_copy(&dataset->continuous_names, 2, numbers), AV_OK);
  set_factor(&dataset->categorical[0], n, n_sexes, sexes);
  set_factor(&dataset->categorical[1], n, n_sites, sites);
  dataset->continuous = av_calloc((size_t)(2 * n), sizeof *dataset->continuous);
  for (int64_t i = 0; i < 2 * n; ++i) {
    dataset->continuous[i] = (double)i / 8;
  }
}

typedef struct scene {
  av_config config;
  av_layout layout;
  av_values values;
  av_dataset dataset;
} scene;

/* A model of `spec` with scattered values, saved under `name`. */
static scene scene_of(const char *name, av_model_spec spec, bool exact, int n, char *const *more) {
  scene s = {.config = settings(name, n, more),
             .dataset = data_of(spec.n_genes, spec.n_batches, spec.n_batches > 1 ? abc : none)};
  assert_int_equal(av_layout_create(&s.layout, &spec), AV_OK);
  assert_int_equal(av_values_create(&s.values, &s.layout), AV_OK);
  rig_scatter(&s.layout, 21, s.values.params, s.values.running);
  for (int64_t i = 0; i < 2 * spec.n_batches; ++i) {
    s.values.prior[i] = 6.1 + (double)i / 7.0;
  }
  assert_int_equal(av_saved_write(&comm, &s.config, &s.dataset, &s.layout, &s.values, exact),
                   AV_OK);
  return s;
}

static void scene_free(scene *s) {
  av_values_free(&s->values);
  av_layout_free(&s->layout);
  av_dataset_free(&s->dataset);
  av_config_free(&s->config);
}

static av_model_file read_model(const char *name) {
  av_model_file file;
  assert_int_equal(av_model_file_read(&comm, path_of(name), &file), AV_OK);
  return file;
}

static av_named_array *array_of(av_model_file *file, const char *name) {
  for (int64_t i = 0; i < file->n_arrays; ++i) {
    if (strcmp(file->arrays[i].name, name) == 0) {
      return &file->arrays[i];
    }
  }
  return NULL;
}

/* ---- names and shapes ---- */

typedef struct shape {
  const char *name;
  int n_dims;
  int64_t shape[2];
} shape;

/* "PREFIX.weight, .bias, .running_mean, .running_var" of n each. */
#define NORM(prefix, n)                                                                            \
  {prefix ".weight", 1, {n, 0}}, {prefix ".bias", 1, {n, 0}}, {prefix ".running_mean", 1, {n, 0}}, \
  {                                                                                                \
    prefix ".running_var", 1, { n, 0 }                                                             \
  }
#define LINEAR(prefix, out, in)       \
  {prefix ".weight", 2, {out, in}}, { \
    prefix ".bias", 1, { out, 0 }     \
  }

static void check_shapes(const char *what, av_model_spec spec, size_t n, const shape *wanted) {
  scene s = scene_of("shapes.h5", spec, false, 0, NULL);
  av_model_file file = read_model("shapes.h5");
  assert_int_equal(file.n_arrays, n);
  for (size_t i = 0; i < n; ++i) {
    const av_named_array *array = array_of(&file, wanted[i].name);
    if (array == NULL) {
      fail_msg("%s: no %s", what, wanted[i].name);
    } else if (array->n_dims != wanted[i].n_dims || array->shape[0] != wanted[i].shape[0] ||
               (array->n_dims == 2 && array->shape[1] != wanted[i].shape[1])) {
      fail_msg("%s: %s is %lld x %lld in %d dimensions", what, wanted[i].name,
               (long long)array->shape[0], (long long)array->shape[1], array->n_dims);
    }
  }
  av_model_file_free(&file);
  scene_free(&s);
}

static const char *const sexes[] = {"f", "m"};
static const char *const here[] = {"here"};
static const char *const states[] = {"T", "B", "NK", "DC"};

/* LDVAE over 3 batches, 2 sexes, one site and 2 numbers, dispersion by 4 labels. */
static av_model_spec full_spec(void) {
  av_model_spec spec = rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE_LABEL, true, 1, 3);
  spec.n_onehot = 3 + 2;
  spec.n_continuous = 2;
  spec.n_labels = 4;
  spec.encode_covariates = true;
  spec.bias = true;
  return spec;
}

static scene full_scene(const char *name, int n, char *const *more) {
  const av_model_spec spec = full_spec();
  scene s = {.config = settings(name, n, more), .dataset = data_of(spec.n_genes, 3, abc)};
  add_covariates(&s.dataset, 2, sexes, 1, here);
  set_factor(&s.dataset.label, s.dataset.n_local, 4, states);
  assert_int_equal(av_layout_create(&s.layout, &spec), AV_OK);
  assert_int_equal(av_values_create(&s.values, &s.layout), AV_OK);
  rig_scatter(&s.layout, 22, s.values.params, s.values.running);
  for (int64_t i = 0; i < 2 * spec.n_batches; ++i) {
    s.values.prior[i] = 6.1 + (double)i / 7.0;
  }
  assert_int_equal(av_saved_write(&comm, &s.config, &s.dataset, &s.layout, &s.values, true), AV_OK);
  return s;
}

#define N(array) (sizeof(array) / sizeof *(array))

/* What scvi-tools' LDVAE and VAE modules (1.4) call the parameters and buffers that this model has;
 * torch's Linear is (out, in). G = 11, H = 5, K = 3, S = 3. */
static void test_shapes(void **state) {
  (void)state;
  static const shape ldvae[] = {
      LINEAR("z_encoder.encoder.fc_layers.Layer 0.0", 5, 11),
      NORM("z_encoder.encoder.fc_layers.Layer 0.1", 5),
      LINEAR("z_encoder.encoder.fc_layers.Layer 1.0", 5, 5),
      NORM("z_encoder.encoder.fc_layers.Layer 1.1", 5),
      LINEAR("z_encoder.mean_encoder", 3, 5),
      LINEAR("z_encoder.var_encoder", 3, 5),
      LINEAR("l_encoder.encoder.fc_layers.Layer 0.0", 5, 11),
      NORM("l_encoder.encoder.fc_layers.Layer 0.1", 5),
      LINEAR("l_encoder.mean_encoder", 1, 5),
      LINEAR("l_encoder.var_encoder", 1, 5),
      {"decoder.factor_regressor.fc_layers.Layer 0.0.weight", 2, {11, 6}},
      NORM("decoder.factor_regressor.fc_layers.Layer 0.1", 11),
      {"decoder.px_dropout_decoder.fc_layers.Layer 0.0.weight", 2, {11, 6}},
      NORM("decoder.px_dropout_decoder.fc_layers.Layer 0.1", 11),
      {"px_r", 2, {11, 3}},
      {"library_log_means", 2, {1, 3}},
      {"library_log_vars", 2, {1, 3}}};
  check_shapes("LDVAE", rig_spec(true, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE_BATCH, true, 2, 3),
               N(ldvae), ldvae);
  static const shape scvi[] = {LINEAR("z_encoder.encoder.fc_layers.Layer 0.0", 5, 11),
                               NORM("z_encoder.encoder.fc_layers.Layer 0.1", 5),
                               LINEAR("z_encoder.encoder.fc_layers.Layer 1.0", 5, 5),
                               NORM("z_encoder.encoder.fc_layers.Layer 1.1", 5),
                               LINEAR("z_encoder.mean_encoder", 3, 5),
                               LINEAR("z_encoder.var_encoder", 3, 5),
                               LINEAR("decoder.px_decoder.fc_layers.Layer 0.0", 5, 6),
                               NORM("decoder.px_decoder.fc_layers.Layer 0.1", 5),
                               LINEAR("decoder.px_decoder.fc_layers.Layer 1.0", 5, 8),
                               NORM("decoder.px_decoder.fc_layers.Layer 1.1", 5),
                               LINEAR("decoder.px_scale_decoder.0", 11, 5),
                               LINEAR("decoder.px_dropout_decoder", 11, 5),
                               {"px_r", 1, {11, 0}},
                               {"library_log_means", 2, {1, 3}},
                               {"library_log_vars", 2, {1, 3}}};
  check_shapes("VAE", rig_spec(false, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE, false, 2, 3), N(scvi),
               scvi);
  /* One batch: no one-hot columns, but px_r stays (G, S). */
  static const shape one[] = {LINEAR("z_encoder.encoder.fc_layers.Layer 0.0", 5, 11),
                              NORM("z_encoder.encoder.fc_layers.Layer 0.1", 5),
                              LINEAR("z_encoder.mean_encoder", 3, 5),
                              LINEAR("z_encoder.var_encoder", 3, 5),
                              {"decoder.factor_regressor.fc_layers.Layer 0.0.weight", 2, {11, 3}},
                              NORM("decoder.factor_regressor.fc_layers.Layer 0.1", 11),
                              {"px_r", 2, {11, 1}},
                              {"library_log_means", 2, {1, 1}},
                              {"library_log_vars", 2, {1, 1}}};
  check_shapes("one batch", rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE_BATCH, false, 1, 1),
               N(one), one);
}

/* ---- round trip ---- */

/* The stored numbers are scvi-tools' tensors, element for element. */
static void check_stored(const scene *s, av_model_file *file, bool exact) {
  for (int64_t t = 0; t < s->layout.n_tensors; ++t) {
    const char *name = s->layout.tensors[t].name;
    int64_t rows = 0;
    int64_t columns = 0;
    double *wanted =
        direct_tensor(&s->layout, s->values.params, s->values.running, name, &rows, &columns);
    const av_named_array *array = array_of(file, name);
    assert_non_null(array);
    for (int64_t i = 0; i < rows * columns; ++i) {
      assert_true(array->values[i] == (exact ? wanted[i] : (double)(float)wanted[i]));
    }
    free(wanted);
  }
}

/* Two models alike in every name, number and setting. */
static void check_same(const av_model_file *a, const av_model_file *b) {
  assert_int_equal(a->n_arrays, b->n_arrays);
  assert_int_equal(a->exact, b->exact);
  assert_string_equal(a->settings, b->settings);
  for (int64_t i = 0; i < a->n_arrays; ++i) {
    const av_named_array *x = &a->arrays[i];
    const av_named_array *y = &b->arrays[i];
    assert_string_equal(x->name, y->name);
    assert_int_equal(x->n_dims, y->n_dims);
    int64_t n = 1;
    for (int d = 0; d < x->n_dims; ++d) {
      assert_int_equal(x->shape[d], y->shape[d]);
      n *= x->shape[d];
    }
    assert_memory_equal(x->values, y->values, (size_t)n * sizeof *x->values);
  }
}

static void check_round_trip(av_model_spec spec, bool exact) {
  scene s = scene_of("first.h5", spec, exact, 0, NULL);
  av_model_file file = read_model("first.h5");
  av_values back;
  assert_int_equal(av_values_create(&back, &s.layout), AV_OK);
  assert_int_equal(av_saved_values(&file, &s.layout, "first.h5", &back), AV_OK);
  const struct {
    const double *was, *is;
    int64_t n;
  } arrays[] = {{s.values.params, back.params, s.layout.n_params},
                {s.values.running, back.running, s.layout.n_running},
                {s.values.prior, back.prior, 2 * spec.n_batches}};
  for (int a = 0; a < 3; ++a) {
    for (int64_t i = 0; i < arrays[a].n; ++i) {
      const double was = exact ? arrays[a].was[i] : (double)(float)arrays[a].was[i];
      assert_memory_equal(&was, &arrays[a].is[i], sizeof was);
    }
  }
  for (int64_t g = 0; g < spec.n_genes; ++g) {
    assert_string_equal(file.genes.at[g], s.dataset.genes.at[g]);
  }
  assert_int_equal(file.batches.n, spec.n_batches);
  check_stored(&s, &file, exact);
  /* what was read, saved again: the same model */
  av_config again = settings("first.h5", 0, NULL);
  assert_int_equal(av_saved_write(&comm, &again, &s.dataset, &s.layout, &back, exact), AV_OK);
  av_model_file second = read_model("first.h5");
  check_same(&file, &second);
  av_model_file_free(&second);
  av_config_free(&again);
  av_values_free(&back);
  av_model_file_free(&file);
  scene_free(&s);
}

static void test_round_trip(void **state) {
  (void)state;
  for (int exact = 0; exact < 2; ++exact) {
    check_round_trip(rig_spec(true, AV_LIKELIHOOD_ZINB, AV_DISPERSION_GENE_BATCH, true, 2, 3),
                     exact != 0);
    check_round_trip(rig_spec(false, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, true, 1, 1), exact != 0);
    check_round_trip(rig_spec(false, AV_LIKELIHOOD_POISSON, AV_DISPERSION_GENE_BATCH, false, 3, 2),
                     exact != 0);
  }
}

static void check_names(const av_names *names, int64_t n, const char *const *wanted) {
  assert_int_equal(names->n, n);
  for (int64_t i = 0; i < n; ++i) {
    assert_string_equal(names->at[i], wanted[i]);
  }
}

static void check_shape(av_model_file *file, const char *name, int64_t rows, int64_t columns) {
  const av_named_array *array = array_of(file, name);
  if (array == NULL || array->shape[0] != rows || (columns > 0 && array->shape[1] != columns)) {
    fail_msg("%s: not %lld x %lld", name, (long long)rows, (long long)columns);
  }
}

/* Covariates and labels: their names come back on every rank, and scvi-tools' shapes hold: genes 11
 * + 2 numbers + 5 one-hot columns into the encoders, 3 + 2 + 5 into the decoder, px_r (G, labels).
 */
static void test_covariates_saved(void **state) {
  (void)state;
  scene s = full_scene("full.h5", 0, NULL);
  av_model_file file = read_model("full.h5");
  check_names(&file.categorical_names, 2, keys);
  check_names(&file.continuous_names, 2, numbers);
  assert_int_equal(file.n_categorical, 2);
  check_names(&file.categories[0], 2, sexes);
  check_names(&file.categories[1], 1, here);
  check_names(&file.labels, 4, states);
  check_shape(&file, "z_encoder.encoder.fc_layers.Layer 0.0.weight", 5, 18);
  check_shape(&file, "l_encoder.encoder.fc_layers.Layer 0.0.weight", 5, 18);
  check_shape(&file, "decoder.factor_regressor.fc_layers.Layer 0.0.weight", 11, 10);
  check_shape(&file, "decoder.factor_regressor.fc_layers.Layer 0.0.bias", 11, 0);
  check_shape(&file, "px_r", 11, 4);
  check_stored(&s, &file, true);
  av_model_file_free(&file);
  scene_free(&s);
  /* labels that px_r has no columns for are not the model's */
  s = scene_of("kept.h5", rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, true, 1, 3), true, 0,
               NULL);
  set_factor(&s.dataset.label, s.dataset.n_local, 4, states);
  assert_int_equal(av_saved_write(&comm, &s.config, &s.dataset, &s.layout, &s.values, true), AV_OK);
  file = read_model("kept.h5");
  assert_int_equal(file.labels.n + file.n_categorical + file.continuous_names.n, 0);
  av_model_file_free(&file);
  scene_free(&s);
}

/* ---- incomplete and broken ---- */

static void refused(const av_model_file *file, const scene *s, const char *message) {
  av_values values;
  assert_int_equal(av_values_create(&values, &s->layout), AV_OK);
  av_error_clear();
  assert_int_equal(av_saved_values(file, &s->layout, "m.h5", &values), AV_BADDATA);
  assert_string_equal(av_error_text(), message);
  av_error_clear();
  av_values_free(&values);
}

static void test_broken(void **state) {
  (void)state;
  scene s =
      scene_of("broken.h5", rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE_BATCH, true, 1, 3),
               true, 0, NULL);
  av_model_file file = read_model("broken.h5");
  av_values values;
  assert_int_equal(av_values_create(&values, &s.layout), AV_OK);
  assert_int_equal(av_saved_values(&file, &s.layout, "m.h5", &values), AV_OK);
  av_values_free(&values);

  av_named_array *px_r = array_of(&file, "px_r");
  px_r->name[0] = 'q';
  refused(&file, &s, "m.h5: no array px_r: not a complete model");
  px_r->name[0] = 'p';
  px_r->shape[0] = 3; /* (S, G) */
  px_r->shape[1] = 11;
  refused(&file, &s, "m.h5: px_r has another shape than its settings say");
  px_r->n_dims = 1;
  px_r->shape[0] = 11;
  refused(&file, &s, "m.h5: px_r has another shape than its settings say");
  px_r->n_dims = 2;
  px_r->shape[1] = 3;
  px_r->values[7] = NAN;
  refused(&file, &s, "m.h5: px_r holds a value that is not finite");
  px_r->values[7] = -INFINITY;
  refused(&file, &s, "m.h5: px_r holds a value that is not finite");
  px_r->values[7] = 0.5;

  av_named_array *mean = array_of(&file, "library_log_means");
  mean->shape[1] = 2;
  refused(&file, &s, "m.h5: no library_log_means for 3 batch(es)");
  mean->shape[1] = 3;
  mean->values[2] = NAN;
  refused(&file, &s, "m.h5: library_log_means holds a value that is not finite");
  mean->values[2] = 6.0;
  av_named_array *spread = array_of(&file, "library_log_vars");
  spread->values[0] = 0.0;
  refused(&file, &s, "m.h5: library_log_vars holds a value that is not positive and finite");
  spread->name[0] = 'L';
  refused(&file, &s, "m.h5: no library_log_vars for 3 batch(es)");
  av_model_file_free(&file);
  scene_free(&s);
}

/* ---- other settings ---- */

static char *const fitted_with[] = {"model.linear_decoder=yes", "model.n_latent=3",
                                    "model.n_hidden=5", "model.dropout_rate=0.25",
                                    "model.use_observed_lib_size=yes"};

/* Applies the settings of the model "kept.h5" to a run of `more`; returns status, config by
 * pointer. */
static av_status apply(const av_model_file *file, int n, char *const *more, av_config *config) {
  *config = settings("other.h5", n, more);
  config->model.load = config->model.load == NULL ? av_strdup("kept.h5") : config->model.load;
  av_error_clear();
  return av_saved_apply_settings(file, config);
}

static void test_settings(void **state) {
  (void)state;
  scene s = scene_of("kept.h5", rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, false, 1, 3),
                     true, 5, fitted_with);
  av_model_file file = read_model("kept.h5");
  av_config config;
  /* nothing said: all of it comes from the model, the genes too */
  assert_int_equal(apply(&file, 0, NULL, &config), AV_OK);
  assert_true(config.model.linear_decoder);
  assert_int_equal(config.model.n_latent, 3);
  assert_int_equal(config.model.n_hidden, 5);
  assert_int_equal(config.model.n_layers, 1);
  assert_int_equal(config.model.gene_likelihood, AV_LIKELIHOOD_NB);
  assert_true(config.model.use_observed_lib_size);
  assert_true(config.model.dropout_rate == 0.25);
  assert_true(config.output.loadings);
  assert_string_equal(config.model.load, "kept.h5");
  assert_int_equal(config.data.subset_genes.n, 11);
  for (int64_t g = 0; g < 11; ++g) {
    assert_string_equal(config.data.subset_genes.at[g], s.dataset.genes.at[g]);
  }
  av_config_free(&config);
  /* the same again, and other sections, are welcome */
  char *const same[] = {"model.n_latent=3", "model.gene_likelihood=nb",      "train.lr=0.5",
                        "model.init=scvi",  "data.subset_genes=gene3,gene1", "output.loadings=no"};
  assert_int_equal(apply(&file, 6, same, &config), AV_OK);
  assert_true(config.train.lr == 0.5);
  assert_false(config.output.loadings);
  assert_int_equal(config.data.subset_genes.n, 2); /* the user's; av_saved_match judges them */
  av_config_free(&config);

  static const struct {
    char *text;
    const char *key;
  } other[] = {{"model.linear_decoder=no", "linear_decoder"},
               {"model.n_hidden=6", "n_hidden"},
               {"model.dropout_rate=0.1", "dropout_rate"},
               {"model.gene_likelihood=zinb", "gene_likelihood"},
               {"model.dispersion=gene-batch", "dispersion"},
               {"model.log_variational=no", "log_variational"}};
  for (size_t i = 0; i < N(other); ++i) {
    char *const more[] = {other[i].text};
    char wanted[160];
    snprintf(wanted, sizeof wanted,
             "command line: [model] %s: the model in kept.h5 was fitted with another value; leave "
             "the key out",
             other[i].key);
    assert_int_equal(apply(&file, 1, more, &config), AV_CONFIG);
    assert_string_equal(av_error_text(), wanted);
    av_config_free(&config);
  }
  char *const two[] = {"model.n_hidden=6", "model.n_latent=4"}; /* both are named */
  assert_int_equal(apply(&file, 2, two, &config), AV_CONFIG);
  assert_non_null(strstr(av_error_text(), "[model] n_hidden: "));
  assert_non_null(strstr(av_error_text(), "[model] n_latent: "));
  av_error_clear();
  av_config_free(&config);
  av_model_file_free(&file);
  scene_free(&s);
}

/* apply() must fail with this one line. */
static void apply_refused(const av_model_file *file, int n, char *const *more,
                          const char *message) {
  av_config config;
  assert_int_equal(apply(file, n, more, &config), AV_CONFIG);
  assert_string_equal(av_error_text(), message);
  av_error_clear();
  av_config_free(&config);
}

static void check_list(const av_name_list *list, int64_t n, const char *const *wanted) {
  assert_int_equal(list->n, n);
  for (int64_t i = 0; i < n; ++i) {
    assert_string_equal(list->at[i], wanted[i]);
  }
}

/* The obs columns of a loaded model. */
static void test_columns(void **state) {
  (void)state;
  char *const fitted[] = {"data.size_factor_key=sf", "data.labels_key=state",
                          "model.dispersion=gene-label", "model.linear_decoder=yes"};
  scene s = full_scene("full.h5", 4, fitted);
  av_model_file file = read_model("full.h5");
  av_config config;
  char *const fine[] = {"data.size_factor_key=other", "train.max_epochs=0", "model.load=kept.h5"};
  assert_int_equal(apply(&file, 3, fine, &config), AV_OK);
  check_list(&config.data.categorical_covariate_keys, 2, keys);
  check_list(&config.data.continuous_covariate_keys, 2, numbers);
  assert_string_equal(config.data.size_factor_key, "other"); /* its column may have another name */
  assert_int_equal(config.model.dispersion, AV_DISPERSION_GENE_LABEL);
  av_config_free(&config);
  char *const reordered[] = {"data.size_factor_key=sf", "data.categorical_covariate_keys=site,sex",
                             "data.continuous_covariate_keys=days,age", "data.labels_key=x"};
  assert_int_equal(apply(&file, 4, reordered, &config), AV_OK);
  check_list(&config.data.categorical_covariate_keys, 2, keys); /* the model's order */
  check_list(&config.data.continuous_covariate_keys, 2, numbers);
  av_config_free(&config);

  char *const categorical[] = {fine[0], fine[1], fine[2], "data.categorical_covariate_keys=sex"};
  apply_refused(
      &file, 4, categorical,
      "command line: [data] categorical_covariate_keys: the model in kept.h5 was fitted with "
      "other covariates (sex, site); leave the key out");
  char *const continuous[] = {fine[0], fine[1], fine[2],
                              "data.continuous_covariate_keys=age,height"};
  apply_refused(
      &file, 4, continuous,
      "command line: [data] continuous_covariate_keys: the model in kept.h5 was fitted with "
      "other covariates (age, days); leave the key out");
  apply_refused(&file, 2, &fine[1],
                "kept.h5: the model was fitted with size factors (obs[sf]); say which "
                "obs column holds them with [data] size_factor_key");
  apply_refused(&file, 1, fine,
                "kept.h5: the model's dispersion is by label: to train it further say which "
                "obs column holds the labels with [data] labels_key, or apply it with "
                "[train] max_epochs = 0");
  assert_int_equal(apply(&file, 1, &categorical[3], &config), AV_CONFIG); /* all three at once */
  int lines = 1;
  for (const char *c = av_error_text(); *c != '\0'; ++c) {
    lines += *c == '\n';
  }
  assert_int_equal(lines, 3);
  av_error_clear();
  av_config_free(&config);
  av_model_file_free(&file);
  scene_free(&s);

  s = scene_of("kept.h5", rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, true, 1, 3), true, 0,
               NULL);
  file = read_model("kept.h5");
  char *const size[] = {"data.size_factor_key=sf"};
  apply_refused(&file, 1, size,
                "command line: [data] size_factor_key: the model in kept.h5 was fitted "
                "without size factors; leave the key out");
  char *const extra[] = {"data.continuous_covariate_keys=age"};
  apply_refused(&file, 1, extra,
                "command line: [data] continuous_covariate_keys: the model in kept.h5 was "
                "fitted with other covariates (none); leave the key out");
  assert_int_equal(apply(&file, 0, NULL, &config), AV_OK);
  assert_int_equal(config.data.categorical_covariate_keys.n, 0);
  av_config_free(&config);
  av_model_file_free(&file);
  scene_free(&s);
}

/* ---- other data ---- */

static av_status match(const av_model_file *file, bool batch_key, av_dataset *dataset) {
  char *const more[] = {"data.batch_key=donor"};
  av_config config = settings("other.h5", batch_key ? 1 : 0, more);
  config.model.load = av_strdup("kept.h5");
  av_error_clear();
  const av_status status = av_saved_match(&comm, file, &config, dataset);
  av_config_free(&config);
  return status;
}

static void test_batches(void **state) {
  (void)state;
  scene s = scene_of("kept.h5", rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, true, 1, 3),
                     true, 0, NULL);
  av_model_file file = read_model("kept.h5");
  static const char *const some[] = {"c", "a"};
  av_dataset dataset = data_of(11, 2, some);
  assert_int_equal(match(&file, true, &dataset), AV_OK);
  assert_int_equal(dataset.batch.code[0], 2);
  assert_int_equal(dataset.batch.code[1], 0);
  assert_int_equal(dataset.batch.levels.n, 3);
  assert_string_equal(dataset.batch.levels.at[1], "b");
  assert_true(dataset.has_batch);
  av_dataset_free(&dataset);

  static const char *const single[] = {"b"};
  dataset = data_of(11, 1, single); /* one batch here, three in the model */
  assert_int_equal(match(&file, true, &dataset), AV_OK);
  assert_int_equal(dataset.batch.code[0], 1);
  assert_true(dataset.has_batch);
  av_dataset_free(&dataset);

  static const char *const unknown[] = {"a", "d", "e"};
  dataset = data_of(11, 3, unknown);
  assert_int_equal(match(&file, true, &dataset), AV_BADDATA);
  assert_string_equal(av_error_text(),
                      "in.h5ad: batch \"d\" is not one the model knows (a, b, c); rename it, or "
                      "leave its cells out");
  av_dataset_free(&dataset);

  dataset = data_of(11, 1, none);
  assert_int_equal(match(&file, false, &dataset), AV_CONFIG);
  assert_string_equal(av_error_text(),
                      "kept.h5: the model has 3 batches; say which obs column holds "
                      "them with [data] batch_key");
  av_dataset_free(&dataset);
  av_model_file_free(&file);
  scene_free(&s);
}

/* As match, with labels_key and max_epochs. */
static av_status match_full(const av_model_file *file, bool labels, bool train,
                            av_dataset *dataset) {
  char *const more[] = {"data.batch_key=donor", "model.load=kept.h5",
                        train ? "train.max_epochs=9" : "train.max_epochs=0",
                        "data.labels_key=state"};
  av_config config = settings("other.h5", labels ? 4 : 3, more);
  config.model.dispersion = AV_DISPERSION_GENE_LABEL; /* as av_saved_apply_settings leaves it */
  av_error_clear();
  const av_status status = av_saved_match(&comm, file, &config, dataset);
  if (status == AV_OK) {
    bool known = false;
    bool wanted = labels;
    dataset->library = av_calloc((size_t)dataset->n_local, sizeof *dataset->library);
    for (int64_t i = 0; i < dataset->n_local; ++i) {
      dataset->library[i] = 1.0;
      wanted = wanted && dataset->label.code[i] >= 0;
    }
    assert_int_equal(av_saved_likelihood(&comm, &config, dataset, &known), AV_OK);
    assert_int_equal(known, wanted);
    for (int64_t i = 0; i < dataset->n_local; ++i) { /* an empty cell has no likelihood anyway */
      dataset->library[i] = dataset->label.code[i] < 0 ? 0.0 : 1.0;
    }
    assert_int_equal(av_saved_likelihood(&comm, &config, dataset, &known), AV_OK);
    assert_true(known);
  }
  av_config_free(&config);
  return status;
}

static void test_covariates(void **state) {
  (void)state;
  static const char *const other_sexes[] = {"m", "f"}; /* codes 0 1 0 of three cells */
  static const char *const strange[] = {"m", "x"};
  static const char *const two_sites[] = {"there", "here"};
  static const char *const other_states[] = {"DC", "T"};
  static const char *const unknown_state[] = {"NK", "plasma"};
  scene s = full_scene("full.h5", 0, NULL);
  av_model_file file = read_model("full.h5");

  av_dataset dataset = data_of(11, 3, abc);
  add_covariates(&dataset, 2, other_sexes, 2, two_sites);
  set_factor(&dataset.label, 3, 2, other_states);
  assert_int_equal(match_full(&file, true, true, &dataset), AV_OK);
  check_names(&dataset.categorical[0].levels, 2, sexes);
  check_names(&dataset.categorical[1].levels, 1, here);
  check_names(&dataset.label.levels, 4, states);
  static const int32_t sex[] = {1, 0, 1};
  static const int32_t label[] = {3, 0, 3};
  static const int32_t columns[] = {0, 4, 1, 3, 2, 4}; /* batch, sex; one site: no column */
  assert_memory_equal(dataset.categorical[0].code, sex, sizeof sex);
  assert_memory_equal(dataset.label.code, label, sizeof label);
  for (int i = 0; i < 3; ++i) {
    assert_int_equal(dataset.categorical[1].code[i], 0);
  }
  assert_int_equal(dataset.design.n_factors, 2);
  assert_int_equal(dataset.design.n_onehot, 5);
  assert_int_equal(dataset.design.n_continuous, 2);
  assert_memory_equal(dataset.design.column, columns, sizeof columns);
  assert_memory_equal(dataset.design.continuous, dataset.continuous, 6 * sizeof(double));
  av_dataset_free(&dataset);

  dataset = data_of(11, 3, abc); /* one sex here, two in the model */
  add_covariates(&dataset, 1, &other_sexes[0], 1, here);
  set_factor(&dataset.label, 3, 2, unknown_state);
  assert_int_equal(match_full(&file, true, false, &dataset), AV_OK);
  assert_int_equal(dataset.categorical[0].code[1], 1);
  assert_int_equal(dataset.design.n_onehot, 5);
  static const int32_t partly[] = {2, -1, 2};
  assert_memory_equal(dataset.label.code, partly, sizeof partly);
  av_dataset_free(&dataset);

  dataset = data_of(11, 3, abc); /* applied without labels */
  add_covariates(&dataset, 2, sexes, 1, here);
  assert_int_equal(match_full(&file, false, false, &dataset), AV_OK);
  check_names(&dataset.label.levels, 4, states);
  assert_int_equal(dataset.label.code[0], -1);
  av_dataset_free(&dataset);

  dataset = data_of(11, 3, abc);
  add_covariates(&dataset, 2, strange, 1, here);
  assert_int_equal(match_full(&file, false, false, &dataset), AV_BADDATA);
  assert_string_equal(av_error_text(),
                      "in.h5ad: obs[sex] \"x\" is not one the model knows (f, m); rename it, "
                      "or leave its cells out");
  av_dataset_free(&dataset);

  dataset = data_of(11, 3, abc);
  add_covariates(&dataset, 2, sexes, 1, here);
  set_factor(&dataset.label, 3, 2, unknown_state);
  assert_int_equal(match_full(&file, true, true, &dataset), AV_BADDATA);
  assert_string_equal(
      av_error_text(),
      "in.h5ad: label obs[state] \"plasma\" is not one the model knows (T, B, NK, DC); rename it, "
      "or leave its cells out");
  av_dataset_free(&dataset);
  av_error_clear();
  av_model_file_free(&file);
  scene_free(&s);
}

static void test_many_batches(void **state) {
  (void)state;
  char texts[30][16];
  const char *names[30];
  for (int i = 0; i < 30; ++i) {
    snprintf(texts[i], sizeof texts[i], "d%d", i);
    names[i] = texts[i];
  }
  av_model_file file = {0};
  av_dataset model = data_of(11, 30, names);
  assert_int_equal(av_names_copy(&file.batches, 30, names), AV_OK);
  assert_int_equal(av_names_copy(&file.genes, 11, (const char *const *)model.genes.at), AV_OK);
  static const char *const unknown[] = {"x", "d1"};
  av_dataset dataset = data_of(11, 2, unknown);
  assert_int_equal(match(&file, true, &dataset), AV_BADDATA);
  assert_string_equal(
      av_error_text(),
      "in.h5ad: batch \"x\" is not one the model knows (d0, d1, d2, d3, d4, d5, d6, d7, d8, "
      "d9, d10, d11, d12, d13, d14, d15, d16, d17, d18, d19 and 10 more); rename it, or leave its "
      "cells out");
  av_error_clear();
  av_dataset_free(&dataset);
  av_dataset_free(&model);
  av_model_file_free(&file);
}

static void test_genes(void **state) {
  (void)state;
  scene s = scene_of("kept.h5", rig_spec(true, AV_LIKELIHOOD_NB, AV_DISPERSION_GENE, true, 1, 1),
                     true, 0, NULL);
  av_model_file file = read_model("kept.h5");
  av_dataset dataset = data_of(10, 1, none);
  assert_int_equal(match(&file, false, &dataset), AV_CONFIG);
  assert_string_equal(av_error_text(), "kept.h5: the model has 11 genes, the data 10");
  av_dataset_free(&dataset);
  dataset = data_of(11, 1, none);
  char *const spare = dataset.genes.at[4];
  dataset.genes.at[4] = dataset.genes.at[5];
  dataset.genes.at[5] = spare;
  assert_int_equal(match(&file, false, &dataset), AV_CONFIG);
  assert_string_equal(av_error_text(),
                      "kept.h5: gene 4 of the model is gene4, but the data gives gene5 "
                      "there; leave [data] subset_genes out");
  av_dataset_free(&dataset);
  dataset = data_of(11, 1, none);
  assert_int_equal(match(&file, false, &dataset), AV_OK);
  assert_false(dataset.has_batch);
  av_dataset_free(&dataset);
  av_error_clear();
  av_model_file_free(&file);
  scene_free(&s);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_shapes),  cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_broken),  cmocka_unit_test(test_settings),
      cmocka_unit_test(test_batches), cmocka_unit_test(test_many_batches),
      cmocka_unit_test(test_genes),   cmocka_unit_test(test_covariates_saved),
      cmocka_unit_test(test_columns), cmocka_unit_test(test_covariates),
  };
  if (av_comm_create(&comm, &argc, &argv) != AV_OK) {
    return 1;
  }
  if ((comm.rank == 0 && mkdtemp(folder) == NULL) ||
      av_bcast(&comm, folder, sizeof folder) != AV_OK) {
    return 1;
  }
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  if (comm.rank == 0) {
    static const char *const made[] = {"shapes.h5", "first.h5", "broken.h5", "kept.h5", "full.h5"};
    for (size_t i = 0; i < N(made); ++i) {
      unlink(path_of(made[i]));
    }
    failed += rmdir(folder) != 0; /* nothing else is left */
  }
  av_comm_free(&comm);
  return failed;
}
