/* Which settings of the model, its columns and its restarts go together. */
#include "config_test.h"

static void good(const char *text) {
  av_config c;
  resolve_ok(&c, text);
  assert_int_equal(av_config_check_model(&c), AV_OK);
  assert_string_equal(av_error_text(), "");
  av_config_free(&c);
}

static void columns(void **state) {
  (void)state;
  good(
      "[data]\nbatch_key = a\nlabels_key = a\ncategorical_covariate_keys = b, c\n"
      "continuous_covariate_keys = d, e\nsize_factor_key = d\n");
  good("[data]\ncategorical_covariate_keys = b\n");
  expect_clash_after_files(
      "[data]\ncategorical_covariate_keys = b, a\nbatch_key = a\n",
      "run.ini:6: [data] categorical_covariate_keys: a is in batch_key too, on line 7; the model "
      "sees a column once");
  expect_clash_after_files(
      "[data]\nbatch_key = a\ncategorical_covariate_keys = b, c\n"
      "continuous_covariate_keys = c, a\n",
      "run.ini:8: [data] continuous_covariate_keys: c is in categorical_covariate_keys too, on "
      "line 7; the model sees a column once\n"
      "run.ini:8: [data] continuous_covariate_keys: a is in batch_key too, on line 6; the model "
      "sees a column once");
}

static void dispersion(void **state) {
  (void)state;
  static const char labels[] =
      "gene-label needs the labels; name their obs column with [data] labels_key";
  char faults[256];
  snprintf(faults, sizeof faults, "run.ini:6: [model] dispersion: %s", labels);
  good("[model]\ndispersion = gene-label\n[data]\nlabels_key = a\n");
  good("[model]\ndispersion = gene-cell\n");
  expect_clash_after_files("[model]\ndispersion = gene-label\n", faults);
  /* what the loaded model says is not known yet, and an applied model decodes without labels */
  av_config c;
  resolve_ok(&c, "[model]\ndispersion = gene-label\nload = m.h5\n");
  assert_int_equal(av_config_check_model(&c), AV_CONFIG);
  assert_string_equal(av_error_text(), faults);
  av_error_clear();
  av_config_free(&c);
  good("[model]\ndispersion = gene-label\nload = m.h5\n[train]\nmax_epochs = 0\n");
}

static void decoders(void **state) {
  (void)state;
  good(
      "[model]\nlinear_decoder = yes\nbias = yes\nuse_layer_norm = encoder\n"
      "use_batch_norm = none\n");
  good(
      "[model]\nlinear_decoder = yes\nuse_layer_norm = none\nuse_observed_lib_size = yes\n"
      "[data]\nsize_factor_key = s\n");
  good(
      "[model]\nuse_layer_norm = both\nbias = no\ndeeply_inject_covariates = no\n"
      "encode_covariates = yes\n");
  expect_clash_after_files("[model]\nbias = yes\n",
                           "run.ini:6: [model] bias: is the linear decoder's; say linear_decoder = "
                           "yes, or remove this key");
  static const char *const where[] = {"both", "decoder"};
  for (int i = 0; i < 2; ++i) {
    char text[96];
    snprintf(text, sizeof text, "[model]\nlinear_decoder = yes\nuse_layer_norm = %s\n", where[i]);
    expect_clash_after_files(text,
                             "run.ini:7: [model] use_layer_norm: a linear decoder has no hidden "
                             "layers to normalise; say encoder or none");
  }
}

static void latent(void **state) {
  (void)state;
  good("latent_samples = 100\n[model]\nlatent_distribution = ln\n");
  good("latent_samples = 100\n[model]\nlatent_distribution = normal\n");
  expect_clash_after_files("latent_samples = 100\n",
                           "run.ini:5: [output] latent_samples: has no effect without "
                           "latent_distribution = ln; add it, or remove this key");
}

/* Keys of a loaded model's kind wait until that is known. */
static void loaded(void **state) {
  (void)state;
  av_config c;
  resolve_ok(&c, "loadings = yes\nlatent_samples = 100\n[model]\nload = m.h5\n");
  c.model.linear_decoder = true; /* as taken from the file */
  c.model.latent_distribution = AV_LATENT_LN;
  assert_int_equal(av_config_check_model(&c), AV_OK);
  c.model.linear_decoder = false;
  c.model.latent_distribution = AV_LATENT_NORMAL;
  assert_int_equal(av_config_check_model(&c), AV_CONFIG);
  assert_string_equal(av_error_text(),
                      "run.ini:5: [output] loadings: only a linear decoder has loadings; say "
                      "linear_decoder = yes, or remove this key\n"
                      "run.ini:6: [output] latent_samples: has no effect without "
                      "latent_distribution = ln; add it, or remove this key");
  av_error_clear();
  av_config_free(&c);
}

static void fits(void **state) {
  (void)state;
  good("[train]\nmax_epochs = 0\n[model]\nload = m.h5\n");
  good("[train]\nupdate_only_decoder = yes\n[model]\nload = m.h5\n");
  good("[train]\nmax_epochs = 1\nn_restarts = 3\n");
  good("[train]\nseed = 9007199254740990\nn_restarts = 3\n");
  expect_clash_after_files("[train]\nmax_epochs = 0\n",
                           "run.ini:6: [train] max_epochs: 0 would leave the model untrained; name "
                           "a model to apply with [model] load");
  expect_clash_after_files("[train]\nupdate_only_decoder = yes\n",
                           "run.ini:6: [train] update_only_decoder: the encoders would stay "
                           "random; name a model to start from with [model] load, or remove this "
                           "key");
  expect_clash_after_files("[train]\nn_restarts = 2\n[model]\nload = m.h5\n",
                           "run.ini:6: [train] n_restarts: every restart would begin with the "
                           "values of the loaded model; remove this key, or [model] load");
  expect_clash_after_files("[train]\nn_restarts = 4\nseed = 9007199254740990\n",
                           "run.ini:6: [train] n_restarts: the seeds from 9007199254740990, given "
                           "on line 7, go beyond the largest, 9007199254740992");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(columns), cmocka_unit_test(dispersion), cmocka_unit_test(decoders),
      cmocka_unit_test(latent),  cmocka_unit_test(loaded),     cmocka_unit_test(fits),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
