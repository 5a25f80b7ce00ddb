/* A saved model that meets other settings or other data: what is taken from it, what is refused.
 * Run on 1 and 2 ranks. */
#include "model/saved_scene.h"

#include "base/memory.h"
#include "model/rig.h"

#include <stdio.h>
#include <string.h>

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
  const av_status status = av_saved_match(&ranks, file, &config, dataset);
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
  const av_status status = av_saved_match(&ranks, file, &config, dataset);
  if (status == AV_OK) {
    bool known = false;
    bool wanted = labels;
    dataset->library = av_calloc((size_t)dataset->n_local, sizeof *dataset->library);
    for (int64_t i = 0; i < dataset->n_local; ++i) {
      dataset->library[i] = 1.0;
      wanted = wanted && dataset->label.code[i] >= 0;
    }
    assert_int_equal(av_saved_likelihood(&ranks, &config, dataset, &known), AV_OK);
    assert_int_equal(known, wanted);
    for (int64_t i = 0; i < dataset->n_local; ++i) { /* an empty cell has no likelihood anyway */
      dataset->library[i] = dataset->label.code[i] < 0 ? 0.0 : 1.0;
    }
    assert_int_equal(av_saved_likelihood(&ranks, &config, dataset, &known), AV_OK);
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
      cmocka_unit_test(test_settings),     cmocka_unit_test(test_columns),
      cmocka_unit_test(test_batches),      cmocka_unit_test(test_covariates),
      cmocka_unit_test(test_many_batches), cmocka_unit_test(test_genes),
  };
  if (saved_open(&argc, &argv) != 0) {
    return 1;
  }
  const int failed = cmocka_run_group_tests(tests, NULL, NULL);
  return saved_close() != 0 || failed != 0;
}
