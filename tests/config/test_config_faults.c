/* Every fault of a file and of the command line is found in one run, with the nearest legal word.
 */
#include "config_test.h"

static void unknown_words(void **state) {
  (void)state;
  expect_faults("[model]\nn_latnt = 5\n",
                "run.ini:2: [model] n_latnt: unknown key; did you mean n_latent?");
  expect_faults("[train]\nn_latent = 5\n",
                "run.ini:2: [train] n_latent: unknown key; n_latent belongs to [model]");
  expect_faults("[train]\nn_latnt = 5\nN_EPOCHS = 3\n",
                "run.ini:2: [train] n_latnt: unknown key; did you mean n_latent of [model]?\n"
                "run.ini:3: [train] N_EPOCHS: unknown key; did you mean n_epochs?");
  expect_faults(
      "[data]\nsomething_else_entirely = 5\n",
      "run.ini:2: [data] something_else_entirely: unknown key; \"atlasvi help\" lists them "
      "all");
  expect_faults("[modle]\nn_latnt = 5\nn_latent = 4\n",
                "run.ini:1: [modle]: unknown section; did you mean [model]?\n"
                "run.ini:2: [model] n_latnt: unknown key; did you mean n_latent?");
  expect_faults("[posterior_sampling]\nwhatever = 5\n[data]\ninputs = x\n",
                "run.ini:1: [posterior_sampling]: unknown section; there are data, model, train, "
                "output, runtime\n"
                "run.ini:4: [data] inputs: unknown key; did you mean input?");
  /* keys of features that do not exist yet are unknown, not ignored */
  expect_faults("[train]\npolyak_averaging_horizon = 1\n",
                "run.ini:2: [train] polyak_averaging_horizon: unknown key; \"atlasvi help\" lists "
                "them all");
}

static void duplicates(void **state) {
  (void)state;
  expect_faults(
      "[model]\nn_latent = 5\n[data]\n[model]\nn_hidden = 3\nn_latent = 5\nn_latent = 0\n",
      "run.ini:6: [model] n_latent: given again; first on line 2\n"
      "run.ini:7: [model] n_latent: given again; first on line 6\n"
      "run.ini:7: [model] n_latent: 0 is out of range; it must be from 1 to 4096");
}

static void all_at_once(void **state) {
  (void)state;
  expect_faults(
      "n_hidden = 3\n[data\ninput = a.h5ad\njust words\n= 4\n[model] x\nn_latent = many\n"
      "[train]\nlr = -1\n",
      "run.ini:1: key before the first [section]\n"
      "run.ini:2: section without ]\n"
      "run.ini:4: neither [section] nor key = value\n"
      "run.ini:5: no key before the = or :\n"
      "run.ini:6: text after the ] of a section; a key begins on a line of its own\n"
      "run.ini:7: [model] n_latent: \"many\" is not a whole number\n"
      "run.ini:9: [train] lr: -1 is out of range; it must be from 0 to 1000");
}

static void indentation(void **state) {
  (void)state;
  av_config c;
  /* a value may begin on the next line */
  parse_ok(&c, "[data]\ninput =\n  a.h5ad\n");
  assert_string_equal(c.data.input, "a.h5ad");
  av_config_free(&c);
  /* the first key after a header may be indented; a second one would vanish in its value */
  expect_faults(
      "[model]\n  n_latent = 5\n  n_hidden = 3\n  bias = no\n[data]\n  batch_key =\n"
      "  input = x\n",
      "run.ini:3: [model] n_hidden: an indented line continues the value above it "
      "(n_latent); begin the key in the first column\n"
      "run.ini:4: [model] bias: an indented line continues the value above it "
      "(n_latent); begin the key in the first column\n"
      "run.ini:7: [data] input: an indented line continues the value above it "
      "(batch_key); begin the key in the first column");
  expect_faults(
      "[data]\ninput = a\n b\n c\n",
      "run.ini:3: [data] input: its value goes on here, but only lists have more than one "
      "line");
  expect_faults("[data]\nimput = a\n  counts = b\n",
                "run.ini:2: [data] imput: unknown key; did you mean input?\n"
                "run.ini:3: [data] counts: an indented line continues the value above it (imput); "
                "begin the key in the first column");
}

static void odd_bytes(void **state) {
  (void)state;
  expect_faults("[model]\nn_latent = \x1b[31m5\n",
                "run.ini:2: [model] n_latent: \"?[31m5\" is not a whole number");
  expect_faults(
      "[model]\nn_latent = "
      "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"
      "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"
      "x\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\n",
      "run.ini:2: [model] n_latent: \""
      "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"
      "\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9"
      "x\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9...\" is "
      "not a whole number");
}

/* A file that is no configuration at all does not fill the screen. */
static void many_faults(void **state) {
  (void)state;
  enum { N = 1000 };
  char text[2 * N + 1];
  for (int i = 0; i < N; ++i) {
    memcpy(text + 2 * i, "x\n", 3);
  }
  av_config c;
  assert_int_equal(parse(&c, text), AV_CONFIG);
  const char *errors = av_error_text();
  int lines = 1;
  for (const char *at = errors; *at != '\0'; ++at) {
    lines += *at == '\n';
  }
  assert_int_equal(lines, 201);
  assert_string_equal(strrchr(errors, '\n') + 1, "run.ini: 800 more faults");
  av_error_clear();
  av_config_free(&c);
}

static av_status parse_with(av_config *c, const char *text, int n, const char *const *overrides) {
  av_error_clear();
  assert_int_equal(av_config_defaults(c), AV_OK);
  return av_config_parse(c, "run.ini", text, n, (char *const *)overrides);
}

static void overrides(void **state) {
  (void)state;
  av_config c;
  static const char *const good[] = {"model.n_latent=7", "data.subset_genes=A, B",
                                     " train.n_epochs = 3 ",
                                     "output.n_samples=", "data.input=a=b.h5ad"};
  assert_int_equal(
      parse_with(&c, "[model]\nn_latent = 5\n[output]\nn_samples = 9\nlatent = no\n", 5, good),
      AV_OK);
  assert_int_equal(c.model.n_latent, 7);
  assert_int_equal(c.data.subset_genes.n, 2);
  assert_string_equal(c.data.subset_genes.at[1], "B");
  assert_int_equal(c.train.max_epochs, 3);
  assert_false(c.output.n_samples_given);
  assert_string_equal(c.data.input, "a=b.h5ad");
  assert_string_equal(av_config_where(&c, "model", "n_latent"), "command line: [model] n_latent");
  assert_string_equal(av_config_where(&c, "output", "latent"), "run.ini:5: [output] latent");
  assert_string_equal(av_config_where(&c, "data", "batch_key"), "[data] batch_key (default)");
  av_config_free(&c);

  static const char *const bad[] = {"model.n_latnt=5", "modle.n_latent=5",    "n_latent=5",
                                    "words",           "model.n_latent=x",    "train.seed=1",
                                    "train.seed=2",    "train.n_latent=1",    "a.b.c=1",
                                    "data.input=x ;y", "data.batch_key=x\ny", "quite_different=1"};
  assert_int_equal(parse_with(&c, "[model]\nn_hidden = 0\n", 12, bad), AV_CONFIG);
  assert_string_equal(
      av_error_text(),
      "run.ini:2: [model] n_hidden: 0 is out of range; it must be from 1 to 65536\n"
      "command line: [model] n_latnt: unknown key; did you mean n_latent?\n"
      "command line: [modle] n_latent: unknown section; did you mean [model]?\n"
      "command line: \"n_latent\" names no section; did you mean model.n_latent?\n"
      "command line: \"words\" is not of the form section.key=value\n"
      "command line: [model] n_latent: \"x\" is not a whole number\n"
      "command line: [train] seed: given twice\n"
      "command line: [train] n_latent: unknown key; n_latent belongs to [model]\n"
      "command line: [a] b.c: unknown section; there are data, model, train, output, runtime\n"
      "command line: [data] input: a value may not hold a line break, or a ; after a blank\n"
      "command line: [data] batch_key: a value may not hold a line break, or a ; after a blank\n"
      "command line: \"quite_different\" names no section");
  av_error_clear();
  av_config_free(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(unknown_words), cmocka_unit_test(duplicates), cmocka_unit_test(all_at_once),
      cmocka_unit_test(indentation),   cmocka_unit_test(odd_bytes),  cmocka_unit_test(many_faults),
      cmocka_unit_test(overrides),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
