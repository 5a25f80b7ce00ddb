/* Checks between keys, and the defaults that follow from other keys. */
#include "config_test.h"

static void dependent_defaults(void **state) {
  (void)state;
  av_config c;
  resolve_ok(&c, "");
  assert_int_equal(c.model.gene_likelihood, AV_LIKELIHOOD_ZINB);
  assert_true(c.model.use_observed_lib_size);
  assert_false(c.output.loadings);
  assert_string_equal(c.output.model, "out.model.h5");
  assert_int_equal(c.train.batch_norm_statistics, AV_STATISTICS_RECOMPUTED);
  assert_false(c.model.gene_likelihood_given || c.output.model_given);
  av_config_free(&c);
  resolve_ok(&c, "[model]\nlinear_decoder = yes\n");
  assert_int_equal(c.model.gene_likelihood, AV_LIKELIHOOD_NB);
  assert_false(c.model.use_observed_lib_size);
  assert_true(c.output.loadings);
  av_config_free(&c);
  resolve_ok(&c, "[model]\ninit = scvi\n");
  assert_int_equal(c.train.batch_norm_statistics, AV_STATISTICS_RUNNING);
  av_config_free(&c);
  resolve_ok(&c, "[model]\ninit = scvi\n[train]\nbatch_norm_statistics = recomputed\n");
  assert_int_equal(c.train.batch_norm_statistics, AV_STATISTICS_RECOMPUTED);
  av_config_free(&c);
  resolve_ok(&c,
             "loadings = no\nmodel = m.h5\n[model]\nlinear_decoder = yes\n"
             "gene_likelihood = poisson\nuse_observed_lib_size = yes\n");
  assert_int_equal(c.model.gene_likelihood, AV_LIKELIHOOD_POISSON);
  assert_true(c.model.use_observed_lib_size);
  assert_false(c.output.loadings);
  assert_string_equal(c.output.model, "m.h5");
  /* once more changes nothing */
  assert_int_equal(av_config_resolve(&c), AV_OK);
  assert_string_equal(c.output.model, "m.h5");
  av_config_free(&c);
}

static void model_path(void **state) {
  (void)state;
  static const struct {
    const char *text;
    const char *model;
  } cases[] = {{"[data]\ninput = a/in.h5ad\n[output]\nmode = append\n", "a/in.model.h5"},
               {"[data]\ninput = in.h5ad\n[output]\npath = out.v2\n", "out.v2.model.h5"},
               {"[data]\ninput = in.h5ad\n[output]\npath = .h5ad\n", ".h5ad.model.h5"}};
  for (int i = 0; i < 3; ++i) {
    av_config c;
    parse_ok(&c, cases[i].text);
    assert_int_equal(av_config_resolve(&c), AV_OK);
    assert_string_equal(c.output.model, cases[i].model);
    assert_int_equal(av_config_resolve(&c), AV_OK);
    av_config_free(&c);
  }
}

static void missing_files(void **state) {
  (void)state;
  expect_clash("",
               "run.ini: [data] input: missing; name the .h5ad file with the counts\n"
               "run.ini: [output] path: missing; name the .h5ad file to write");
  expect_clash("[data]\ninput =\n[output]\nmode = append\n",
               "run.ini:2: [data] input: missing; name the .h5ad file with the counts");
  expect_clash_after_files("mode = append\n",
                           "run.ini:4: [output] path: mode append writes to the input file; remove "
                           "path, or say mode = copy");
}

/* After a fault in the text, what looks missing may be what was misspelt: only real clashes are
 * added. */
static void after_faults(void **state) {
  (void)state;
  av_config c;
  assert_int_equal(parse(&c,
                         "[data]\nimput = x\n[train]\nn_steps_kl_warmup = 3\n"
                         "n_epochs_kl_warmup = 4\ntrain_size = 2\nvalidation_size = 0.5\n"),
                   AV_CONFIG);
  assert_int_equal(av_config_resolve(&c), AV_CONFIG);
  assert_string_equal(
      av_error_text(),
      "run.ini:2: [data] imput: unknown key; did you mean input?\n"
      "run.ini:6: [train] train_size: 2 is out of range for a count of cells, which "
      "is at least 3; a fraction is written with a point (0.9)\n"
      "run.ini:4: [train] n_steps_kl_warmup: n_epochs_kl_warmup is given too, on "
      "line 5; give one of the two");
  av_error_clear();
  av_config_free(&c);
}

static void warm_up(void **state) {
  (void)state;
  av_config c;
  resolve_ok(&c, "[train]\nn_steps_kl_warmup = 100\n");
  assert_int_equal(c.train.n_epochs_kl_warmup, 0);
  assert_int_equal(c.train.n_steps_kl_warmup, 100);
  av_config_free(&c);
  resolve_ok(&c, "[train]\nn_epochs_kl_warmup = 30\n");
  assert_int_equal(c.train.n_epochs_kl_warmup, 30);
  assert_false(c.train.n_steps_kl_warmup_given);
  av_config_free(&c);
  expect_clash_after_files(
      "[train]\nn_epochs_kl_warmup = 5\nn_steps_kl_warmup = 9\n",
      "run.ini:7: [train] n_steps_kl_warmup: n_epochs_kl_warmup is given too, on "
      "line 6; give one of the two");
  expect_clash_after_files("[train]\nmin_kl_weight = 0.5\nmax_kl_weight = 0.25\n",
                           "run.ini:6: [train] min_kl_weight: 0.5 is above max_kl_weight, 0.25 on "
                           "line 7");
  expect_clash_after_files(
      "[train]\nmin_kl_weight = 2\n",
      "run.ini:6: [train] min_kl_weight: 2 is above max_kl_weight, 1 by default");
  resolve_ok(&c, "[train]\nmin_kl_weight = 1\nmax_kl_weight = 1\n");
  av_config_free(&c);
}

static void split(void **state) {
  (void)state;
  av_config c;
  resolve_ok(&c, "[train]\ntrain_size = 0.7\nvalidation_size = 0.3\n");
  av_config_free(&c);
  resolve_ok(&c, "[train]\ntrain_size = 0.9\nvalidation_size = 500\n");
  av_config_free(&c);
  resolve_ok(&c, "[train]\nsplit_key = fold\n");
  av_config_free(&c);
  expect_clash_after_files(
      "[train]\ntrain_size = 0.75\nvalidation_size = 0.5\n",
      "run.ini:7: [train] validation_size: 0.5 and train_size, 0.75 on line 6, "
      "come to more than 1");
  expect_clash_after_files(
      "[train]\nvalidation_size = 0.2\n",
      "run.ini:6: [train] validation_size: 0.2 and train_size, 0.9 by default, "
      "come to more than 1");
  expect_clash_after_files(
      "[train]\ntrain_size = 0.9\nsplit_key = fold\nvalidation_size = 0.2\n",
      "run.ini:6: [train] train_size: split_key, given on line 7, says where each cell goes; "
      "remove "
      "one of the two\n"
      "run.ini:8: [train] validation_size: split_key, given on line 7, says where each cell goes; "
      "remove one of the two");
}

static void features(void **state) {
  (void)state;
  av_config c;
  resolve_ok(&c, "[runtime]\nbackend = reference\nreproducible = run\n");
  av_config_free(&c);
  resolve_ok(&c, "[runtime]\nbackend = cpu\nreproducible = strict\n");
  av_config_free(&c);
  expect_clash_after_files("[runtime]\nbackend = reference\nreproducible = strict\n",
                           "run.ini:7: [runtime] reproducible: strict needs backend = cpu; the "
                           "reference backend, given on line 6, offers off and run");
  resolve_ok(&c, "[runtime]\nbackend = cuda\ngpu_timeout = 60\n");
  assert_true(c.runtime.gpu_timeout == 60);
  av_config_free(&c);
  resolve_ok(&c, "[runtime]\nbackend = cpu\ngpu_timeout = 300 ; default\n");
  av_config_free(&c);
  static const char no_nccl[] =
      "run.ini:7: [runtime] gpu_timeout: has no effect without backend = cuda and gpu_sums = nccl; "
      "add it, or remove this key";
  expect_clash_after_files("[runtime]\nbackend = cpu\ngpu_timeout = 60\n", no_nccl);
  expect_clash_after_files("[runtime]\nbackend = cuda\ngpu_timeout = 60\ngpu_sums = mpi\n",
                           no_nccl);
  expect_clash_after_files("loadings = yes\n",
                           "run.ini:5: [output] loadings: only a linear decoder has loadings; say "
                           "linear_decoder = yes, or remove this key");
  resolve_ok(&c, "loadings = no\n");
  av_config_free(&c);
}

static void same_files(void **state) {
  (void)state;
  write_file("in.h5ad", "x", 1);
  assert_int_equal(symlink("in.h5ad", "link.h5ad"), 0);
  static const char input_again[] =
      "run.ini:4: [output] path: is the input file; to add the results to it say mode = append and "
      "remove path";
  expect_clash("[data]\ninput = in.h5ad\n[output]\npath = in.h5ad\n", input_again);
  expect_clash("[data]\ninput = in.h5ad\n[output]\npath = ./in.h5ad\nmode = copy\n", input_again);
  expect_clash("[data]\ninput = link.h5ad\n[output]\npath = in.h5ad\n", input_again);
  expect_clash("[data]\ninput = in.h5ad\n[output]\npath = link.h5ad\n", input_again);
  assert_int_equal(unlink("in.h5ad"), 0);
  assert_int_equal(unlink("link.h5ad"), 0);
  /* files that do not exist yet */
  expect_clash_after_files("model = ./out.h5ad\n[runtime]\nlog = in.h5ad\n",
                           "run.ini:5: [output] model: is the same file as [output] path\n"
                           "run.ini:7: [runtime] log: is the same file as [data] input");
  expect_clash_after_files("[runtime]\nlog = ././run.ini\n",
                           "run.ini:6: [runtime] log: is this INI file");
  av_config c;
  resolve_ok(&c, "model = nowhere/m.h5\n[runtime]\nlog = /dev/null\n");
  av_config_free(&c);
}

static void from_the_command_line(void **state) {
  (void)state;
  av_config c;
  static const char *const more[] = {"train.n_steps_kl_warmup=4"};
  av_error_clear();
  assert_int_equal(av_config_defaults(&c), AV_OK);
  assert_int_equal(av_config_parse(&c, "run.ini",
                                   "[data]\ninput = a\n[output]\npath = b\n[train]\n"
                                   "n_epochs_kl_warmup = 5\n",
                                   1, (char *const *)more),
                   AV_OK);
  assert_int_equal(av_config_resolve(&c), AV_CONFIG);
  assert_string_equal(
      av_error_text(),
      "command line: [train] n_steps_kl_warmup: n_epochs_kl_warmup is given too, on "
      "line 6; give one of the two");
  av_error_clear();
  av_config_free(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(dependent_defaults),
      cmocka_unit_test(model_path),
      cmocka_unit_test(missing_files),
      cmocka_unit_test(after_faults),
      cmocka_unit_test(warm_up),
      cmocka_unit_test(split),
      cmocka_unit_test(features),
      cmocka_unit_test(same_files),
      cmocka_unit_test(from_the_command_line),
  };
  return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
