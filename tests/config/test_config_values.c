/* Values of every type: what is taken, and the exact words for what is not. */
#include "config_test.h"

#include <math.h>

static void defaults(void **state) {
  (void)state;
  av_config c;
  parse_ok(&c, "");
  /* design.md's table of defaults, which are those of scvi-tools */
  assert_null(c.data.input);
  assert_string_equal(c.data.counts, "X");
  assert_true(c.data.use_highly_variable_genes);
  assert_int_equal(c.data.subset_genes.n, 0);
  assert_false(c.model.linear_decoder);
  assert_int_equal(c.model.n_hidden, 128);
  assert_int_equal(c.model.n_latent, 10);
  assert_int_equal(c.model.n_layers, 1);
  assert_true(c.model.dropout_rate == 0.1);
  assert_int_equal(c.model.dispersion, AV_DISPERSION_GENE);
  assert_int_equal(c.model.gene_likelihood, -1);
  assert_int_equal(c.train.max_epochs, -1);
  assert_true(c.train.lr == 1e-3);
  assert_int_equal(c.train.batch_size, 128);
  assert_true(c.train.train_size.is_fraction && c.train.train_size.fraction == 0.9);
  assert_false(c.train.validation_size.is_fraction);
  assert_int_equal(c.train.validation_size.count, -1);
  assert_true(c.train.weight_decay == 1e-6);
  assert_true(c.train.eps == 0.01);
  assert_int_equal(c.train.n_epochs_kl_warmup, 400);
  assert_int_equal(c.train.n_steps_kl_warmup, -1);
  assert_int_equal(c.output.mode, AV_OUTPUT_RESULTS);
  assert_int_equal(c.runtime.backend, AV_BACKEND_AUTO);
  assert_int_equal(c.runtime.reproducible, AV_REPRODUCIBLE_OFF);
  assert_false(c.model.n_hidden_given || c.train.max_epochs_given || c.data.counts_given);
  av_config_free(&c);
}

static void values(void **state) {
  (void)state;
  av_config c;
  parse_ok(&c,
           "[data]\ninput = my file.h5ad\ncounts: layers/counts\n"
           "[model]\nn_latent = 30\ndropout_rate = 2.5e-1\ngene_likelihood = nb\n"
           "dispersion = gene-batch\n[train]\nseed = 9007199254740992\nlr = .002\n"
           "max_epochs = 0\n[runtime]\nreproducible = strict\n");
  assert_string_equal(c.data.input, "my file.h5ad");
  assert_string_equal(c.data.counts, "layers/counts");
  assert_int_equal(c.model.n_latent, 30);
  assert_true(c.model.n_latent_given);
  assert_false(c.model.n_hidden_given);
  assert_true(c.model.dropout_rate == 0.25);
  assert_int_equal(c.model.gene_likelihood, AV_LIKELIHOOD_NB);
  assert_int_equal(c.model.dispersion, AV_DISPERSION_GENE_BATCH);
  assert_int_equal(c.train.seed, 9007199254740992);
  assert_true(c.train.lr == 0.002);
  assert_int_equal(c.train.max_epochs, 0);
  assert_true(c.train.max_epochs_given);
  assert_int_equal(c.runtime.reproducible, AV_REPRODUCIBLE_STRICT);
  av_config_free(&c);
}

static void booleans(void **state) {
  (void)state;
  static const char *const words[] = {"yes", "True", "ON", "no", "FALSE", "off"};
  for (int i = 0; i < 6; ++i) {
    char text[64];
    snprintf(text, sizeof text, "[model]\nlog_variational = %s\nlinear_decoder = %s\n", words[i],
             words[i]);
    av_config c;
    parse_ok(&c, text);
    assert_int_equal(c.model.log_variational, i < 3);
    assert_int_equal(c.model.linear_decoder, i < 3);
    av_config_free(&c);
  }
  expect_faults("[model]\nlinear_decoder = 1\n",
                "run.ini:2: [model] linear_decoder: \"1\" is not yes or no");
}

static void numbers(void **state) {
  (void)state;
  expect_faults(
      "[model]\nn_latent = 0\nn_hidden = 65537\nn_layers = 2x\n"
      "[train]\nseed = 99999999999999999999\nbatch_size = 1e3\nmax_epochs = "
      "-1\ncheck_val_every_n_epoch = 0x10\n",
      "run.ini:2: [model] n_latent: 0 is out of range; it must be from 1 to 4096\n"
      "run.ini:3: [model] n_hidden: 65537 is out of range; it must be from 1 to 65536\n"
      "run.ini:4: [model] n_layers: \"2x\" is not a whole number\n"
      "run.ini:6: [train] seed: 99999999999999999999 is out of range; it must be from 0 to "
      "9007199254740992\n"
      "run.ini:7: [train] batch_size: \"1e3\" is not a whole number\n"
      "run.ini:8: [train] max_epochs: -1 is out of range; it must be from 0 to 10000000\n"
      "run.ini:9: [train] check_val_every_n_epoch: \"0x10\" is not a whole number");
  expect_faults(
      "[train]\nlr = nan\neps = inf\nweight_decay = 0x1p-3\nmin_kl_weight = 1e999\n"
      "max_kl_weight = 1,5\n[model]\ndropout_rate = 1.0\n",
      "run.ini:2: [train] lr: \"nan\" is not a number\n"
      "run.ini:3: [train] eps: \"inf\" is not a number\n"
      "run.ini:4: [train] weight_decay: \"0x1p-3\" is not a number\n"
      "run.ini:5: [train] min_kl_weight: 1e999 is out of range; it must be from 0 to "
      "1000000\n"
      "run.ini:6: [train] max_kl_weight: \"1,5\" is not a number\n"
      "run.ini:8: [model] dropout_rate: 1.0 is out of range; it must be from 0 to 0.999");
  /* one past 2^53, which a double cannot tell from 2^53 */
  expect_faults("[train]\nseed = 9007199254740993\n",
                "run.ini:2: [train] seed: 9007199254740993 is out of range; it must be from 0 to "
                "9007199254740992");
  expect_faults("[train]\nlr = 1e-3 # slow\n",
                "run.ini:2: [train] lr: \"1e-3 # slow\" is not a number; a comment after a value "
                "begins with ;");
}

static void choices(void **state) {
  (void)state;
  expect_faults("[model]\ngene_likelihood = zimb\ninit = x\ndispersion = GENE\n",
                "run.ini:2: [model] gene_likelihood: \"zimb\" is not one of zinb, nb, poisson; did "
                "you mean zinb?\n"
                "run.ini:3: [model] init: \"x\" is not one of data, scvi\n"
                "run.ini:4: [model] dispersion: \"GENE\" is not one of gene, gene-batch, "
                "gene-label, gene-cell; did you mean gene?");
  assert_string_equal(av_config_choice("model", "gene_likelihood", AV_LIKELIHOOD_NB), "nb");
  assert_string_equal(av_config_choice("model", "gene_likelihood", AV_LIKELIHOOD_POISSON),
                      "poisson");
  assert_string_equal(av_config_choice("data", "empty_cells", AV_EMPTY_CELLS_NAN), "nan");
  static const char *const dispersions[] = {"gene", "gene-batch", "gene-label", "gene-cell"};
  for (int i = AV_DISPERSION_GENE; i <= AV_DISPERSION_GENE_CELL; ++i) {
    assert_string_equal(av_config_choice("model", "dispersion", i), dispersions[i]);
  }
  assert_string_equal(av_config_choice("model", "latent_distribution", AV_LATENT_LN), "ln");
  static const char *const where[] = {"both", "encoder", "decoder", "none"};
  for (int i = AV_WHERE_BOTH; i <= AV_WHERE_NONE; ++i) {
    assert_string_equal(av_config_choice("model", "use_batch_norm", i), where[i]);
    assert_string_equal(av_config_choice("model", "use_layer_norm", i), where[i]);
  }
  assert_string_equal(av_config_choice("train", "optimizer", AV_OPTIMIZER_ADAM), "adam");
  assert_string_equal(av_config_choice("train", "optimizer", AV_OPTIMIZER_ADAMW), "adamw");
  assert_string_equal(av_config_choice("train", "batch_norm_statistics", AV_STATISTICS_RECOMPUTED),
                      "recomputed");
  assert_string_equal(av_config_choice("model", "init", AV_INIT_SCVI), "scvi");
  assert_string_equal(av_config_choice("output", "mode", AV_OUTPUT_APPEND), "append");
  assert_string_equal(av_config_choice("runtime", "backend", AV_BACKEND_REFERENCE), "reference");
  assert_string_equal(av_config_choice("runtime", "reproducible", AV_REPRODUCIBLE_STRICT),
                      "strict");
  assert_string_equal(av_config_choice("runtime", "progress", AV_PROGRESS_NONE), "none");
  assert_string_equal(av_config_choice("runtime", "progress", 4), "");
}

static void expect_amount(const char *text, bool is_fraction, double fraction, int64_t count) {
  char ini[128];
  av_config c;
  snprintf(ini, sizeof ini, "[train]\ntrain_size = %s\nvalidation_size = %s\n", text, text);
  parse_ok(&c, ini);
  const av_amount amounts[] = {c.train.train_size, c.train.validation_size};
  for (int i = 0; i < 2; ++i) {
    assert_int_equal(amounts[i].is_fraction, is_fraction);
    assert_true(is_fraction ? amounts[i].fraction == fraction : amounts[i].count == count);
  }
  assert_true(c.train.validation_size_given);
  av_config_free(&c);
}

static void amounts(void **state) {
  (void)state;
  expect_amount("0.5", true, 0.5, 0);
  expect_amount("1.0", true, 1.0, 0);
  expect_amount("1.", true, 1.0, 0);
  expect_amount(".25", true, 0.25, 0);
  expect_amount("5e-1", true, 0.5, 0);
  expect_amount("1e0", true, 1.0, 0);
  expect_amount("3", false, 0, 3);
  expect_amount("100000000000", false, 0, 100000000000);
  expect_faults(
      "[train]\ntrain_size = 1\nvalidation_size = 1\n",
      "run.ini:2: [train] train_size: 1 is out of range for a count of cells, which is at "
      "least 3; 1.0 for all cells?\n"
      "run.ini:3: [train] validation_size: 1 is out of range for a count of cells, which "
      "is at least 3; a fraction is written with a point (0.9)");
  expect_faults(
      "[train]\ntrain_size = 1.5\nvalidation_size = 0.0\n",
      "run.ini:2: [train] train_size: 1.5 is out of range; a fraction is above 0 and at "
      "most 1.0\n"
      "run.ini:3: [train] validation_size: 0.0 is out of range; a fraction is above 0 and "
      "at most 1.0");
  expect_faults(
      "[train]\ntrain_size = 90%\nvalidation_size = nan\n",
      "run.ini:2: [train] train_size: \"90%\" is not a fraction such as 0.9 or a count of "
      "cells\n"
      "run.ini:3: [train] validation_size: \"nan\" is not a fraction such as 0.9 or a "
      "count of cells");
  expect_faults(
      "[train]\ntrain_size = 2\nvalidation_size = 99999999999999999999\n",
      "run.ini:2: [train] train_size: 2 is out of range for a count of cells, which is at "
      "least 3; a fraction is written with a point (0.9)\n"
      "run.ini:3: [train] validation_size: 99999999999999999999 is out of range for a "
      "count of cells, which is at least 3; a fraction is written with a point (0.9)");
  expect_faults("[train]\ntrain_size = 1e3\nvalidation_size = -0.5\n",
                "run.ini:2: [train] train_size: 1e3 is out of range; a fraction is above 0 and at "
                "most 1.0\n"
                "run.ini:3: [train] validation_size: -0.5 is out of range; a fraction is above 0 "
                "and at most 1.0");
}

static void seconds(void **state) {
  (void)state;
  static const struct {
    const char *text;
    double seconds;
  } good[] = {{"", 300},
              {"gpu_timeout = 0\n", 0},
              {"gpu_timeout = 0.5\n", 0.5},
              {"gpu_timeout = 1e6\n", 1e6}};
  for (size_t i = 0; i < sizeof good / sizeof *good; ++i) {
    char ini[64];
    av_config c;
    snprintf(ini, sizeof ini, "[runtime]\n%s", good[i].text);
    parse_ok(&c, ini);
    assert_true(c.runtime.gpu_timeout == good[i].seconds);
    av_config_free(&c);
  }
  expect_faults("[runtime]\ngpu_timeout = -1\n",
                "run.ini:2: [runtime] gpu_timeout: -1 is out of range; it must be from 0 to "
                "1000000");
  expect_faults("[runtime]\ngpu_timeout = 1000001\n",
                "run.ini:2: [runtime] gpu_timeout: 1000001 is out of range; it must be from 0 to "
                "1000000");
  expect_faults("[runtime]\ngpu_timeout = 5min\n",
                "run.ini:2: [runtime] gpu_timeout: \"5min\" is not a number");
}

static void empty_values(void **state) {
  (void)state;
  av_config c;
  parse_ok(&c,
           "[data]\nbatch_key =\nsubset_genes = ; none\n[train]\nmax_epochs =\n[model]\n"
           "gene_likelihood =\n");
  assert_null(c.data.batch_key);
  assert_false(c.data.batch_key_given);
  assert_int_equal(c.data.subset_genes.n, 0);
  assert_false(c.train.max_epochs_given);
  assert_int_equal(c.train.max_epochs, -1);
  assert_false(c.model.gene_likelihood_given);
  av_config_free(&c);
  expect_faults("[model]\nn_latent =\n[data]\ncounts = \n",
                "run.ini:2: [model] n_latent: no value; remove the line to get the default, 10\n"
                "run.ini:4: [data] counts: no value; remove the line to get the default, X");
}

static void alias(void **state) {
  (void)state;
  av_config c;
  parse_ok(&c, "[train]\nn_epochs = 17\n");
  assert_int_equal(c.train.max_epochs, 17);
  assert_true(c.train.max_epochs_given);
  assert_string_equal(av_config_where(&c, "train", "max_epochs"), "run.ini:2: [train] max_epochs");
  av_config_free(&c);
  expect_faults("[train]\nmax_epochs = 4\nn_epochs = 5\n",
                "run.ini:3: [train] n_epochs: given again; first on line 2; it means max_epochs");
  expect_faults("[train]\nn_epochs = x\n",
                "run.ini:2: [train] n_epochs: \"x\" is not a whole number");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults), cmocka_unit_test(values),       cmocka_unit_test(booleans),
      cmocka_unit_test(numbers),  cmocka_unit_test(choices),      cmocka_unit_test(amounts),
      cmocka_unit_test(alias),    cmocka_unit_test(empty_values), cmocka_unit_test(seconds),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
