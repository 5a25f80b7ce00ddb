/* The saved model: scvi-tools' names and shapes, values that come back bit for bit, and files that
 * are not whole. Run on 1 and 2 ranks. */
#include "model/saved_scene.h"

#include "model/direct.h"
#include "model/rig.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
  assert_int_equal(av_saved_write(&ranks, &again, &s.dataset, &s.layout, &back, exact), AV_OK);
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
  assert_int_equal(av_saved_write(&ranks, &s.config, &s.dataset, &s.layout, &s.values, true),
                   AV_OK);
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

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_shapes),
      cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_covariates_saved),
      cmocka_unit_test(test_broken),
  };
  if (saved_open(&argc, &argv) != 0) {
    return 1;
  }
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  return saved_close() != 0 || failed != 0;
}
